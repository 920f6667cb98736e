//! A mail of a peer through the trace fields: no panic, and nothing forged survives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toxmail::identity::tox_address;
use toxmail::identity::tox_id::PublicKey;
use toxmail::mail::header::Section;
use toxmail::mail::trace::{self, Incoming, OutgoingRule};

fuzz_target!(|mail: &[u8]| {
    let peer = PublicKey([3; 32]);
    let own = tox_address::canonical(&PublicKey([4; 32]));
    let info = Incoming {
        peer: &peer,
        peer_name: "alice",
        sender: &None,
        is_final: true,
        recipient: &own,
        hostname: "host.example",
        id: "0123",
        identity: "4567",
        date: "Thu, 1 Jan 1970 00:00:00 +0000",
        known: &[],
        doubt: None,
    };
    if let Ok(head) = trace::incoming(mail, &info) {
        let section = Section::read(&head);
        for name in ["Return-Path", "Delivered-To", trace::MAIL_ID] {
            assert_eq!(section.parts().filter(|part| part.is(name)).count(), 1);
        }
        assert!(!section.has("X-Original-To") && !section.has("Status"));
    }
    let _ = trace::outgoing(mail, &OutgoingRule { key: &peer, address: &own, reachable: &[] });
    let _ = trace::from_addresses(mail);
    let _ = trace::received_id(mail);
});
