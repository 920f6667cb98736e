//! Packets of a contact through the engine, in a session that is up: no panic, bounded memory, one note a minute.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toxmail::engine::link::{Action, Engine, Input};
use toxmail::engine::rules::Rules;
use toxmail::engine::wire::{Hello, VERSION};
use toxmail::identity::tox_id::PublicKey;

const PEER: PublicKey = PublicKey([2; 32]);

fuzz_target!(|packets: Vec<Vec<u8>>| {
    let rules = Rules::new(PublicKey([1; 32]), [("bob", &[][..])], 1 << 20, "fuzz");
    let mut engine = Engine::new(rules, [7; 32]);
    let mut out = Vec::new();
    engine.handle(0, Input::Online(PEER), &mut out);
    let ours = out.iter().find_map(|action| match action {
        Action::SendCustom { packet, .. } => Some(Hello::from_packet(packet)?.expect("our own HELLO").session),
        _ => None,
    });
    let hello = Hello {
        versions: vec![VERSION],
        session: [9; 8],
        heard: ours,
        software: String::new(),
        max_size: 1 << 20,
        max_transfers: 4,
        max_burst: 1 << 16,
        declined: None,
    };
    engine.handle(0, Input::CustomPacket(PEER, &hello.to_packet()), &mut out);
    assert!(engine.is_up(&PEER));
    let mut notes = 0;
    for (n, packet) in packets.iter().enumerate() {
        let now = n as u64;
        out.clear();
        engine.handle(now, Input::Packet(PEER, packet), &mut out);
        for action in std::mem::take(&mut out) {
            match action {
                Action::Note { .. } => notes += 1,
                Action::Lookup { peer, stream, mailboxes, .. } => {
                    let stored = mailboxes.iter().map(|_| false).collect();
                    engine.handle(now, Input::Found { peer, stream, stored, offset: 0 }, &mut out);
                }
                Action::Deliver(delivery) => {
                    let results = delivery.recipients.iter().map(|(index, ..)| (*index, Ok(()))).collect();
                    engine.handle(now, Input::Delivered { peer: PEER, id: delivery.id, results }, &mut out);
                }
                _ => {}
            }
        }
        engine.poll(now, &mut out);
    }
    assert!(notes <= 1);
});
