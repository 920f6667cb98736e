//! What a relay answers, through a client that registers, lists, puts, gets and deletes: no panic, and without the relay's
//! signature no slot is said to be filled or emptied. Contents have the length of their class and were asked for.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use toxmail::lane::keys::{Class, LaneSeed, RelayKey, RelaySecret, SlotKey};
use toxmail::relay::session::{Action, Command, Event, Input, Session};
use toxmail::relay::wire::{Answer, Filled, Hello, MAX_PACKET, MAX_PIECE, Message, SlotOctets, Welcome};

const SECOND: u64 = 1_000_000;
const CLASS: Class = Class::K16;

/// The slots that are put, fetched and deleted.
const PUT: usize = 0;
const GET: usize = 1;
const DELETE: usize = 2;

/// What a relay that keeps to the protocol says to a greeting.
fn welcome(greeting: &[u8], relay: &RelayKey) -> Vec<u8> {
    let Some(Ok(hello)) = Hello::from_packet(greeting) else { return Vec::new() };
    let (session, relay) = (hello.session, relay.0);
    let (retention, quota) = (86_400, 1 << 20);
    Welcome { version: 1, session, relay, owner: true, retention, quota, used: 0, max_slots: 100 }.to_packet()
}

/// An answer about slots that were asked about.
fn answer(octets: &[u8], slots: &[SlotKey]) -> Option<Answer> {
    let ([what, which], rest) = octets.split_first_chunk()?;
    let slot = SlotOctets(slots[usize::from(*which) % slots.len()].id().0);
    let number = rest.first_chunk().copied().map_or(0, u16::from_be_bytes);
    let digest = || rest.first_chunk().copied().unwrap_or([0; 32]);
    let signature = || rest.first_chunk().copied().unwrap_or([0; 64]);
    Some(match what % 10 {
        0 => Answer::Ack(number.into()),
        1 => Answer::Done(number.into()),
        2 => Answer::Failed(number.into(), *which, String::from_utf8_lossy(rest).into_owned()),
        3 => Answer::Continue(slot, number.into()),
        4 => Answer::Stored(slot, digest(), number.into(), signature()),
        5 => Answer::Refused(slot, rest.first().copied().unwrap_or(0), String::from_utf8_lossy(rest).into_owned()),
        6 => Answer::Listed(vec![Filled { slot, number: number.into() }], *which > 127),
        // A whole content may come, so a piece is as long as it may be.
        7 => Answer::Piece(slot, u64::from(number % 32) * MAX_PIECE as u64, vec![*which; MAX_PIECE]),
        8 => Answer::Gone(slot, signature()),
        _ => Answer::Arrived(Filled { slot, number: number.into() }),
    })
}

/// Looks at what the session wants done; the greeting if it begins anew.
fn look(out: &mut Vec<Action>, slots: &[SlotKey]) -> Option<Vec<u8>> {
    let mut greeting = None;
    for action in out.drain(..) {
        match action {
            Action::SendCustom(packet) => greeting = Some(packet),
            Action::Send(packet) => assert!(packet.len() <= MAX_PACKET),
            Action::Tell(Event::Stored { .. } | Event::Gone(_)) => panic!("without a signature of the relay"),
            Action::Tell(Event::Content(slot, octets)) => {
                assert_eq!((slot, octets.len()), (slots[GET].id(), CLASS.octets()));
            }
            Action::Tell(_) => {}
        }
    }
    greeting
}

fuzz_target!(|inputs: Vec<(u8, &[u8])>| {
    let relay = RelaySecret::new(&mut [9; 32]).public();
    let seed = LaneSeed::new(&mut [7; 32]);
    let slots: Vec<_> = (0..3).map(|number| seed.slot(&relay, CLASS, number)).collect();
    let mut session = Session::new(relay, [1; 32]);
    let (mut now, mut out) = (1, Vec::new());
    for command in [
        Command::Register(slots.iter().map(|slot| (slot.id(), CLASS)).collect()),
        Command::List,
        Command::Put { slot: seed.slot(&relay, CLASS, PUT as u64), octets: Arc::from(vec![1; CLASS.octets()]) },
        Command::Get(slots[GET].id(), CLASS),
        Command::Delete(seed.slot(&relay, CLASS, DELETE as u64)),
    ] {
        session.handle(now, Input::Command(Box::new(command)), &mut out);
    }
    session.handle(now, Input::Online, &mut out);
    session.poll(now, &mut out);
    let mut greeting = look(&mut out, &slots).expect("a greeting");
    session.handle(now, Input::CustomPacket(&welcome(&greeting, &relay)), &mut out);
    assert!(session.is_up());
    for (kind, octets) in inputs {
        let mut packet = Vec::new();
        let input = match kind % 8 {
            0 => Input::CustomPacket(octets),
            1 => Input::Packet(octets),
            2 if kind > 200 => Input::Offline,
            2 => Input::Online,
            3 if kind > 200 => Input::SendFailed,
            3 => {
                packet = welcome(&greeting, &relay);
                Input::CustomPacket(&packet)
            }
            _ => {
                if let Some(answer) = answer(octets, &slots) {
                    answer.append(&mut packet);
                }
                Input::Packet(&packet)
            }
        };
        session.handle(now, input, &mut out);
        session.poll(now, &mut out);
        greeting = look(&mut out, &slots).unwrap_or(greeting);
        now += u64::from(kind) * SECOND / 64;
    }
});
