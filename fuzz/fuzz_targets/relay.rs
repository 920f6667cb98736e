//! Friend requests, greetings and packets of owners, visitors and strangers through a relay with a shelf in memory: no panic,
//! and nobody fills, empties or takes over a slot of an owner without its key; limits hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toxmail::identity::tox_id::PublicKey;
use toxmail::lane::keys::{Class, LaneSeed, RelaySecret, SlotKey};
use toxmail::relay::descriptor::{Admission, Invite};
use toxmail::relay::server::memory::Memory;
use toxmail::relay::server::shelf::{Shelf, State};
use toxmail::relay::server::{Input, Limits, Now, OWNER_SLOTS, Server};
use toxmail::relay::wire::{Hello, MAX_PIECE, Message, Registered, Request, SlotOctets};

const OWNER: PublicKey = PublicKey([1; 32]);
const OTHER: PublicKey = PublicKey([2; 32]);
const VISITOR: PublicKey = PublicKey([3; 32]);
const STRANGER: PublicKey = PublicKey([4; 32]);
/// Octets that may lie at the relay.
const LIMIT: u64 = 64 << 10;

/// A request about a slot whose name nobody could guess.
fn request(octets: &[u8], slots: &[SlotKey]) -> Option<Request> {
    let ([what, which], rest) = octets.split_first_chunk()?;
    let slot = SlotOctets(slots[usize::from(*which) % slots.len()].id().0);
    let digest = || rest.first_chunk().copied().unwrap_or([0; 32]);
    let signature = || rest.first_chunk().copied().unwrap_or([0; 64]);
    let number = || rest.first_chunk().copied().map_or(0, u16::from_be_bytes).into();
    Some(match what % 9 {
        0 => Request::Register(1, vec![Registered { slot: slot.0, class: *which }]),
        1 => Request::Unregister(1, vec![slot]),
        2 => Request::Put(slot, 16 << 10, digest()),
        3 => Request::Piece(slot, number(), rest.iter().copied().take(MAX_PIECE).collect()),
        4 => Request::Seal(slot, signature()),
        5 => Request::Get(slot, number()),
        6 => Request::List(number()),
        7 => Request::Ack(number()),
        _ => Request::Delete(slot, signature()),
    })
}

fuzz_target!(|inputs: Vec<(u8, &[u8])>| {
    let secret = RelaySecret::new(&mut [9; 32]);
    let relay = secret.public();
    let limits = Limits { open: false, max_disk: LIMIT, owner_quota: LIMIT, max_owners: 2, retention: 86_400 };
    let mut server = Server::new(Memory::default(), secret, limits).expect("a relay");
    let mut now = Now { micros: 1, seconds: 1_000_000 };
    let mut out = Vec::new();
    for (owner, invite) in [(OWNER, Invite([1; 16])), (OTHER, Invite([2; 16]))] {
        server.invite(now, &invite, None).expect("an invite");
        server.handle(now, Input::Asked(owner, Admission::Owner(Some(invite)).to_string().as_bytes()), &mut out);
    }
    let seed = LaneSeed::new(&mut [7; 32]);
    let slots: Vec<_> = (0..3).map(|number| seed.slot(&relay, Class::K16, number)).collect();
    let hello = |client, server: &mut Server<Memory>, out: &mut Vec<_>| {
        let packet = Hello { versions: vec![1], session: [client; 8] }.to_packet();
        let client = PublicKey([client; 32]);
        server.handle(now, Input::Online { client, tcp: false }, out);
        server.handle(now, Input::CustomPacket(client, &packet), out);
    };
    hello(1, &mut server, &mut out);
    let mut packet = Vec::new();
    let named = slots.iter().map(|slot| Registered { slot: slot.id().0, class: 0 }).collect();
    assert!(Request::Register(1, named).append(&mut packet));
    server.handle(now, Input::Packet(OWNER, &packet), &mut out);
    let admission = Admission::visitor(&slots[0], &relay, &VISITOR).to_string();
    server.handle(now, Input::Asked(VISITOR, admission.as_bytes()), &mut out);
    hello(2, &mut server, &mut out);
    hello(3, &mut server, &mut out);
    server.poll(now, &mut out).expect("a shelf in memory");

    for (kind, octets) in inputs {
        now.micros += 1 + u64::from(kind) * 1000;
        let client = [OTHER, VISITOR, STRANGER][usize::from(kind) % 3];
        let mut packet = Vec::new();
        if let Some(request) = request(octets, &slots) {
            request.append(&mut packet);
        }
        let input = match kind / 3 % 8 {
            0 => Input::Asked(client, octets),
            1 => Input::CustomPacket(client, octets),
            2 => Input::Offline(client),
            3 => Input::SendFailed(client),
            4 => Input::Packet(client, octets),
            _ => Input::Packet(client, &packet),
        };
        server.handle(now, input, &mut out);
        server.poll(now, &mut out).expect("a shelf in memory");
        out.clear();
        for slot in &slots {
            let known = server.shelf_mut().slot(&slot.id()).expect("read").expect("registered");
            assert_eq!((known.owner, known.state), (OWNER, State::Empty));
        }
        assert!(server.shelf().octets() as u64 <= LIMIT);
        assert_eq!(server.totals().owners, 2);
        assert!(server.owners().all(|owner| owner.slots <= OWNER_SLOTS));
    }
});
