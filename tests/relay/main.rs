//! The relay's side, engine and shelves together: who may do what, what is promised, what a crash leaves.

mod kill;
mod model;
mod world;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use toxmail::lane::keys::{Class, LaneSeed};
use toxmail::relay::descriptor::{Admission, Invite};
use toxmail::relay::server::shelf::{Shelf, State};
use toxmail::relay::server::{Input, OWNER_SLOTS};
use toxmail::relay::wire::{Answer, Code, Filled, Hello, MAX_PIECE, Message as _, Registered, Request};
use world::{Breaking, DAY, SIZE, World, content, digest, in_memory, key, limits, octets, on_disk, reopened, slot};

const OWNER: u8 = 1;
const VISITOR: u8 = 100;

/// Runs a test over both shelves.
macro_rules! on_both_shelves {
    ($(fn $name:ident($world:ident: World<impl Shelf>) $body:block)+) => { $(
        #[test]
        fn $name() {
            fn run<S: Shelf>(mut $world: World<S>) $body
            run(in_memory());
            let folder = tempfile::tempdir().expect("a folder");
            run(on_disk(folder.path()));
        }
    )+ };
}

/// A world with an owner that has `slots` slots, and a visitor for the first.
fn prepare<S: Shelf>(world: &mut World<S>, slots: u64) {
    world.owner(key(OWNER), None);
    for number in 0..slots {
        assert_eq!(world.register(key(OWNER), &[&slot(OWNER, number)]), [Answer::Done(7)]);
    }
    world.visitor(key(VISITOR), &slot(OWNER, 0));
}

fn code(answer: &Answer) -> Code {
    match answer {
        Answer::Refused(_, code, _) | Answer::Failed(_, code, _) => Code::from_number(*code),
        other => panic!("no refusal: {other:?}"),
    }
}

on_both_shelves! {
    fn a_mail_goes_through_a_slot_once(world: World<impl Shelf>) {
        prepare(&mut world, 2);
        let (first, mail) = (slot(OWNER, 0), content(1));
        let stored = world.put(key(VISITOR), &first, &mail);
        let expiry = world.now.seconds + limits().retention;
        let Answer::Stored(of, what, until, signature) = &stored else { panic!("{stored:?}") };
        assert_eq!((*of, *what, *until), (octets(&first), digest(&mail).0, expiry));
        assert!(world.relay().verify_stored(&first.id(), what, *until, signature));
        let filled = Filled { slot: octets(&first), number: 1 };
        assert_eq!(world.take(key(OWNER)), [Answer::Arrived(filled.clone())]);
        assert_eq!(world.say(key(OWNER), &[Request::List(0)]), [Answer::Listed(vec![filled], false)]);
        assert_eq!(world.fetch(key(OWNER), &first), mail);
        let gone = world.delete(key(OWNER), &first);
        assert!(matches!(&gone, Answer::Gone(_, signature) if world.relay().verify_gone(&first.id(), signature)));
        assert_eq!(world.delete(key(VISITOR), &first), gone, "it may be said again, by either end");
        assert_eq!(world.say(key(OWNER), &[Request::List(0)]), [Answer::Listed(vec![], false)]);
        assert_eq!(code(&world.put(key(VISITOR), &first, &mail)), Code::Taken, "a slot is filled once");
        assert_eq!(code(&world.put(key(VISITOR), &first, &content(2))), Code::Taken);
        world.put(key(VISITOR), &slot(OWNER, 1), &mail);
        assert_eq!(
            world.take(key(OWNER)),
            [Answer::Arrived(Filled { slot: octets(&slot(OWNER, 1)), number: 2 })],
            "numbers grow"
        );
    }

    fn what_is_repeated_changes_nothing(world: World<impl Shelf>) {
        prepare(&mut world, 1);
        let (first, mail) = (slot(OWNER, 0), content(1));
        assert_eq!(world.register(key(OWNER), &[&first]), [Answer::Done(7)]);
        let stored = world.put(key(VISITOR), &first, &mail);
        world.take(key(OWNER));
        let put = Request::Put(octets(&first), SIZE, digest(&mail).0);
        let seal = world.seal(&first, &mail);
        assert_eq!(world.say(key(VISITOR), &[put]), std::slice::from_ref(&stored));
        assert_eq!(world.say(key(VISITOR), &[seal]), [stored]);
        assert_eq!(world.register(key(OWNER), &[&first]), [Answer::Done(7)]);
        assert_eq!(world.server.totals().used, SIZE);
        assert!(world.take(key(OWNER)).is_empty(), "it is not told again");
        for _ in 0..2 {
            let unregister = Request::Unregister(8, vec![octets(&first)]);
            assert_eq!(world.say(key(OWNER), &[unregister]), [Answer::Done(8)]);
            assert_eq!((world.state(&first.id()), world.server.totals().used), (None, 0));
        }
    }

    fn a_content_goes_on_where_it_was_interrupted(world: World<impl Shelf>) {
        prepare(&mut world, 2);
        let (first, mail) = (slot(OWNER, 0), content(1));
        let requests = world.fill(&first, &mail);
        assert_eq!(world.say(key(VISITOR), &requests[..5]), [Answer::Continue(octets(&first), 0)]);
        world.handle(Input::Offline(key(VISITOR)));
        let other = key(VISITOR + 1);
        world.visitor(other, &slot(OWNER, 1));
        assert_eq!(world.say(other, &requests[..1]), [Answer::Continue(octets(&first), 4 * 1280)]);
        let rest = &requests[3..];
        assert!(matches!(world.say(other, rest)[..], [Answer::Stored(..)]), "pieces that are there already do no harm");
        assert_eq!(world.fetch(key(OWNER), &first), mail);
    }

    fn a_wrong_signature_digest_or_length_fills_and_empties_nothing(world: World<impl Shelf>) {
        prepare(&mut world, 2);
        let (first, second, mail) = (slot(OWNER, 0), slot(OWNER, 1), content(1));
        let relay = world.relay();
        let mut wrong = world.fill(&first, &mail);
        *wrong.last_mut().expect("a seal") = Request::Seal(octets(&first), second.sign_put(&relay, &digest(&mail).0, SIZE));
        assert_eq!(world.say(key(VISITOR), &wrong).last().map(code), Some(Code::Wrong));
        let mut other = world.fill(&first, &mail);
        other[0] = Request::Put(octets(&first), SIZE, digest(&content(2)).0);
        assert_eq!(world.say(key(VISITOR), &other).last().map(code), Some(Code::Wrong));
        let mut short = world.fill(&first, &mail);
        short.remove(3);
        assert_eq!(world.say(key(VISITOR), &short).last().map(code), Some(Code::Wrong));
        let long = Request::Put(octets(&first), SIZE + 1, digest(&mail).0);
        assert_eq!(world.say(key(VISITOR), &[long]).last().map(code), Some(Code::Wrong));
        assert_eq!(world.state(&first.id()), Some(State::Empty));
        world.put(key(VISITOR), &second, &mail);
        for signature in [first.sign_delete(&relay), second.sign_put(&relay, &digest(&mail).0, SIZE)] {
            let delete = Request::Delete(octets(&second), signature);
            assert_eq!(world.say(key(VISITOR), &[delete]).last().map(code), Some(Code::Wrong));
        }
        assert_eq!(world.fetch(key(OWNER), &second), mail);
    }

    fn a_stranger_is_let_in_by_an_invite_or_a_slot_alone(world: World<impl Shelf>) {
        prepare(&mut world, 2);
        let stranger = key(50);
        let relay = world.relay();
        for admission in [
            Admission::Owner(None),
            Admission::Owner(Some(Invite([OWNER; 16]))),
            Admission::Visitor(slot(OWNER, 1).id(), slot(OWNER, 0).sign_visit(&relay, &stranger)),
            Admission::visitor(&slot(OWNER, 1), &relay, &key(51)),
            Admission::visitor(&slot(OWNER, 9), &relay, &stranger),
        ] {
            assert!(!world.ask(stranger, &admission), "{admission}");
        }
        // Were he a friend all the same, he would be heard as little.
        world.greet(stranger);
        assert!(world.say(stranger, &[Request::List(0)]).is_empty());
        world.delete(key(OWNER), &slot(OWNER, 1));
        assert!(!world.ask(stranger, &Admission::visitor(&slot(OWNER, 1), &relay, &stranger)), "it is gone");
        assert!(world.ask(stranger, &Admission::visitor(&slot(OWNER, 0), &relay, &stranger)));
        assert!(!world.friends.contains(&key(VISITOR)), "a slot vouches for one visitor at a time");
        assert_eq!(world.server.totals().owners, 1);
    }

    fn an_invite_is_good_once_and_for_its_time(world: World<impl Shelf>) {
        let (old, new) = (Invite([8; 16]), Invite([9; 16]));
        world.server.invite(world.now, &old, None).expect("an invite");
        world.poll().expect("on disk");
        world.pass(31 * DAY);
        assert!(!world.ask(key(2), &Admission::Owner(Some(old))));
        world.server.invite(world.now, &new, Some(2 * SIZE)).expect("an invite");
        assert!(world.ask(key(2), &Admission::Owner(Some(new.clone()))));
        assert!(world.ask(key(2), &Admission::Owner(Some(new.clone()))), "its bearer may ask again");
        assert!(!world.ask(key(3), &Admission::Owner(Some(new))), "nobody else");
        world.greet(key(2));
        let welcome = world.welcome.clone().expect("a welcome");
        assert_eq!((welcome.owner, welcome.quota, welcome.used), (true, 2 * SIZE, 0));
        assert_eq!((welcome.retention, welcome.max_slots), (limits().retention, OWNER_SLOTS));
    }

    fn an_open_relay_takes_so_many_owners_and_forgets_those_who_stay_away(world: World<impl Shelf>) {
        let mut open = limits();
        open.open = true;
        world.server.set_limits(open);
        assert!(world.ask(key(2), &Admission::Owner(None)) && world.ask(key(3), &Admission::Owner(None)));
        assert!(!world.ask(key(4), &Admission::Owner(None)), "two is the limit");
        world.greet(key(2));
        world.register(key(2), &[&slot(2, 0)]);
        world.owner(key(5), None);
        world.pass(3 * DAY);
        assert!(!world.friends.contains(&key(3)), "he has not even a slot");
        assert!(world.friends.contains(&key(2)) && world.friends.contains(&key(5)));
        world.handle(Input::Offline(key(2)));
        world.pass(40 * DAY);
        assert!(!world.friends.contains(&key(2)));
        assert!(world.friends.contains(&key(5)), "who was invited stays");
        assert_eq!(world.server.totals().owners, 1);
        assert_eq!(world.state(&slot(2, 0).id()), None);
    }

    fn quotas_count_what_lies_here_and_what_is_coming(world: World<impl Shelf>) {
        prepare(&mut world, 6);
        for number in 0..3 {
            assert!(matches!(world.put(key(VISITOR), &slot(OWNER, number), &content(1)), Answer::Stored(..)));
        }
        let begun = world.fill(&slot(OWNER, 3), &content(1));
        assert!(matches!(world.say(key(VISITOR), &begun[..2])[..], [Answer::Continue(..)]));
        let more = world.fill(&slot(OWNER, 4), &content(1));
        assert_eq!(world.say(key(VISITOR), &more).iter().map(code).collect::<Vec<_>>(), [Code::Quota, Code::Busy]);
        // What nobody goes on with gives way.
        world.handle(Input::Offline(key(VISITOR)));
        world.greet(key(VISITOR));
        assert!(matches!(world.put(key(VISITOR), &slot(OWNER, 4), &content(1)), Answer::Stored(..)));
        assert_eq!(world.server.totals().used, 4 * SIZE);
        // The disk is shared: two more contents of whomever.
        world.owner(key(2), None);
        for number in 0..3 {
            world.register(key(2), &[&slot(2, number)]);
        }
        for number in 0..2 {
            assert!(matches!(world.put(key(2), &slot(2, number), &content(1)), Answer::Stored(..)));
        }
        assert_eq!(code(&world.say(key(2), &[Request::Put(octets(&slot(2, 2)), SIZE, [0; 32])])[0]), Code::Busy);
        world.delete(key(OWNER), &slot(OWNER, 0));
        assert!(matches!(world.put(key(2), &slot(2, 2), &content(1)), Answer::Stored(..)));
    }

    fn an_owner_who_stays_online_is_not_forgotten(world: World<impl Shelf>) {
        let mut open = limits();
        open.open = true;
        world.server.set_limits(open);
        assert!(world.ask(key(2), &Admission::Owner(None)));
        world.greet(key(2));
        world.register(key(2), &[&slot(2, 0)]);
        world.pass(40 * DAY);
        assert!(world.friends.contains(&key(2)), "his session is up all the time");
        assert_eq!(world.state(&slot(2, 0).id()), Some(State::Empty));
    }

    fn junk_keeps_nobody_out(world: World<impl Shelf>) {
        prepare(&mut world, 2);
        for _ in 0..1000 {
            world.handle(Input::Asked(key(50), b"Hello, I am somebody"));
        }
        let relay = world.relay();
        assert!(world.ask(key(51), &Admission::visitor(&slot(OWNER, 1), &relay, &key(51))), "a slot vouches");
        for _ in 0..1000 {
            world.handle(Input::Asked(key(50), Admission::Owner(None).to_string().as_bytes()));
        }
        assert!(!world.ask(key(52), &Admission::visitor(&slot(OWNER, 1), &relay, &key(52))), "it is too much");
        world.friends.remove(&key(OWNER));
        assert!(world.ask(key(OWNER), &Admission::Owner(None)), "an owner is known without a look");
    }

    fn a_visitor_who_asks_again_stays_no_longer(world: World<impl Shelf>) {
        prepare(&mut world, 1);
        let admission = Admission::visitor(&slot(OWNER, 0), &world.relay(), &key(VISITOR));
        for _ in 0..14 {
            world.pass(290);
            world.ask(key(VISITOR), &admission);
            world.say(key(VISITOR), &[Request::List(0)]);
        }
        assert_eq!(world.server.totals().sessions, 1, "an hour is over: the owner's alone is up");
    }

    fn a_visitor_who_comes_by_another_slot_takes_the_place_of_who_came_by_it(world: World<impl Shelf>) {
        prepare(&mut world, 2);
        world.visitor(key(101), &slot(OWNER, 1));
        let admission = Admission::visitor(&slot(OWNER, 1), &world.relay(), &key(VISITOR));
        assert!(world.ask(key(VISITOR), &admission));
        assert!(!world.friends.contains(&key(101)), "a slot vouches for one visitor at a time");
    }

    fn who_asks_for_much_at_a_time_is_cut_off_before_it_is_gathered(world: World<impl Shelf>) {
        prepare(&mut world, 1);
        let mut packet = Vec::new();
        while Request::List(0).append(&mut packet) {}
        for _ in 0..10 {
            world.handle(Input::Packet(key(OWNER), &packet));
        }
        assert_eq!(world.server.totals().sessions, 1, "the visitor's");
        world.poll().expect("nothing was changed");
        assert!(world.take(key(OWNER)).is_empty());
    }

    fn what_one_session_asked_is_not_answered_in_the_next(world: World<impl Shelf>) {
        prepare(&mut world, 1);
        let mut packet = Vec::new();
        assert!(Request::List(9).append(&mut packet));
        world.handle(Input::Packet(key(OWNER), &packet));
        world.greet(key(OWNER));
        assert_eq!(world.say(key(OWNER), &[Request::Ack(0)]), []);
    }

    fn what_can_not_fit_drops_nothing_of_others(world: World<impl Shelf>) {
        prepare(&mut world, 1);
        let large = LaneSeed::new(&mut [OWNER; 32]).slot(&world.relay(), Class::K128, 0);
        let register = vec![Registered { slot: large.id().0, class: Class::K128.number() }];
        assert_eq!(world.say(key(OWNER), &[Request::Register(1, register)]), [Answer::Done(1)]);
        let begun = world.fill(&slot(OWNER, 0), &content(1));
        world.say(key(VISITOR), &begun[..3]);
        world.handle(Input::Offline(key(VISITOR)));
        let put = Request::Put(octets(&large), 8 * SIZE, [0; 32]);
        assert_eq!(code(&world.say(key(OWNER), &[put])[0]), Code::Quota);
        world.greet(key(VISITOR));
        let on = Answer::Continue(octets(&slot(OWNER, 0)), 2 * MAX_PIECE as u64);
        assert_eq!(world.say(key(VISITOR), &begun[..1]), [on], "what was begun goes on");
    }

    fn a_disk_that_is_nearly_full_takes_nothing_more_and_gives_what_it_has(world: World<impl Shelf>) {
        prepare(&mut world, 4);
        assert!(matches!(world.put(key(VISITOR), &slot(OWNER, 0), &content(1)), Answer::Stored(..)));
        world.server.set_room(2 * SIZE);
        let begun = world.fill(&slot(OWNER, 1), &content(1));
        assert!(matches!(world.say(key(VISITOR), &begun[..3])[..], [Answer::Continue(..)]));
        assert!(matches!(world.put(key(OWNER), &slot(OWNER, 2), &content(1)), Answer::Stored(..)), "there is room for two");
        assert_eq!(code(&world.put(key(OWNER), &slot(OWNER, 3), &content(1))), Code::Busy, "the rest is promised");
        assert!(matches!(world.say(key(VISITOR), &begun[3..])[..], [Answer::Stored(..)]), "what was begun may end");
        assert_eq!(world.fetch(key(OWNER), &slot(OWNER, 0)), content(1));
        world.server.set_room(SIZE);
        assert!(matches!(world.put(key(OWNER), &slot(OWNER, 3), &content(1)), Answer::Stored(..)));
    }

    fn an_owner_registers_so_many_slots_and_nobody_elses(world: World<impl Shelf>) {
        prepare(&mut world, 1);
        world.owner(key(2), None);
        assert_eq!(code(&world.register(key(2), &[&slot(OWNER, 0), &slot(2, 0)])[0]), Code::Taken);
        assert_eq!(world.state(&slot(2, 0).id()), None, "all of them or none");
        world.say(key(2), &[Request::Unregister(1, vec![octets(&slot(OWNER, 0))])]);
        assert_eq!(world.state(&slot(OWNER, 0).id()), Some(State::Empty));
        assert_eq!(code(&world.register(key(VISITOR), &[&slot(2, 0)])[0]), Code::Forbidden);
        let other = vec![Registered { slot: slot(OWNER, 0).id().0, class: Class::K128.number() }];
        assert_eq!(code(&world.say(key(OWNER), &[Request::Register(1, other)])[0]), Code::Taken);
        let unknown = vec![Registered { slot: [7; 32], class: 9 }];
        assert_eq!(code(&world.say(key(OWNER), &[Request::Register(1, unknown)])[0]), Code::Wrong);
        world.put(key(VISITOR), &slot(OWNER, 0), &content(1));
        assert_eq!(code(&world.say(key(2), &[Request::Get(octets(&slot(OWNER, 0)), 0)])[0]), Code::Unknown);
        assert_eq!(world.say(key(2), &[Request::List(0)]), [Answer::Listed(vec![], false)]);
        assert_eq!(world.say(key(VISITOR), &[Request::List(0)]), [Answer::Listed(vec![], false)]);
        let mut number = 0;
        while world.server.totals().slots < OWNER_SLOTS + 1 {
            let many = (OWNER_SLOTS + 1 - world.server.totals().slots).min(28) as usize;
            let slots = (0..many).map(|_| {
                number += 1;
                let mut slot = [9; 32];
                slot[..8].copy_from_slice(&u64::to_be_bytes(number));
                Registered { slot, class: 0 }
            });
            let slots = slots.collect();
            match &world.say(key(2), &[Request::Register(1, slots)])[..] {
                [Answer::Done(1)] => {}
                [answer] => {
                    assert_eq!(code(answer), Code::Slots);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let owner = world.server.owners().find(|owner| owner.key == key(2)).expect("an owner").clone();
        assert!(owner.slots <= OWNER_SLOTS && owner.slots > OWNER_SLOTS - 28, "{} slots", owner.slots);
    }

    fn contents_and_memories_end(world: World<impl Shelf>) {
        prepare(&mut world, 3);
        world.put(key(VISITOR), &slot(OWNER, 0), &content(1));
        world.put(key(VISITOR), &slot(OWNER, 1), &content(1));
        world.delete(key(VISITOR), &slot(OWNER, 1));
        world.pass(30 * DAY);
        assert_eq!(world.fetch(key(OWNER), &slot(OWNER, 0)), content(1), "to the last second");
        world.pass(61);
        assert_eq!((world.state(&slot(OWNER, 0).id()), world.state(&slot(OWNER, 1).id())), (None, None));
        assert_eq!(world.state(&slot(OWNER, 2).id()), Some(State::Empty), "an empty one waits on");
        assert_eq!(world.server.totals().used, 0);
    }

    fn visitors_go_when_idle_or_after_an_hour(world: World<impl Shelf>) {
        prepare(&mut world, 2);
        for _ in 0..11 {
            world.pass(290);
            assert!(world.friends.contains(&key(VISITOR)));
            world.say(key(VISITOR), &[Request::List(0)]);
        }
        for _ in 0..3 {
            world.pass(290);
            world.say(key(VISITOR), &[Request::List(0)]);
        }
        assert!(!world.friends.contains(&key(VISITOR)), "an hour is over");
        world.visitor(key(VISITOR), &slot(OWNER, 0));
        world.pass(400);
        assert!(!world.friends.contains(&key(VISITOR)), "it was idle");
        assert!(world.friends.contains(&key(OWNER)));
    }

    fn visitors_of_one_owner_are_few_and_those_who_left_give_way(world: World<impl Shelf>) {
        prepare(&mut world, 40);
        let relay = world.relay();
        for number in 1..32 {
            world.visitor(key(VISITOR + number), &slot(OWNER, number.into()));
        }
        let late = key(200);
        let admission = Admission::visitor(&slot(OWNER, 35), &relay, &late);
        assert!(!world.ask(late, &admission), "all are here");
        world.handle(Input::Offline(key(VISITOR + 3)));
        assert!(world.ask(late, &admission));
        assert!(!world.friends.contains(&key(VISITOR + 3)));
    }

    fn a_violation_ends_the_session(world: World<impl Shelf>) {
        prepare(&mut world, 1);
        world.handle(Input::Packet(key(VISITOR), b"\x80"));
        world.poll().expect("nothing to commit");
        assert!(!world.friends.contains(&key(VISITOR)), "a visitor does not come back");
        world.say(key(OWNER), &[Request::Ack(1000)]);
        assert!(world.friends.contains(&key(OWNER)), "an owner stays");
        world.greet(key(OWNER));
        assert!(world.say(key(OWNER), &[Request::List(0)]).is_empty(), "and is not heard");
        world.pass(61);
        world.greet(key(OWNER));
        assert_eq!(world.say(key(OWNER), &[Request::List(0)]), [Answer::Listed(vec![], false)]);
        for session in 0..200 {
            let hello = Hello { versions: vec![1], session: [session; 8] };
            world.handle(Input::CustomPacket(key(OWNER), &hello.to_packet()));
        }
        assert!(world.say(key(OWNER), &[Request::List(0)]).is_empty(), "out of its mind");
    }

    fn nothing_is_said_before_the_client_was_heard_and_a_new_session_begins_anew(world: World<impl Shelf>) {
        prepare(&mut world, 2);
        world.greet(key(OWNER));
        world.put(key(VISITOR), &slot(OWNER, 0), &content(1));
        assert!(world.take(key(OWNER)).is_empty());
        let arrived = Answer::Arrived(Filled { slot: octets(&slot(OWNER, 0)), number: 1 });
        assert_eq!(world.say(key(OWNER), &[Request::Ack(0)]), [arrived]);
        let requests = world.fill(&slot(OWNER, 1), &content(1));
        world.say(key(VISITOR), &requests[..3]);
        world.greet(key(VISITOR));
        assert_eq!(world.say(key(VISITOR), &requests[3..4]), [], "pieces of the session before mean nothing");
    }

    fn a_list_comes_in_parts_and_a_get_from_its_offset(world: World<impl Shelf>) {
        let mut large = limits();
        (large.max_disk, large.owner_quota) = (100 * SIZE, 100 * SIZE);
        world.server.set_limits(large);
        prepare(&mut world, 30);
        for number in 0..30 {
            assert!(matches!(world.put(key(VISITOR), &slot(OWNER, number), &content(1)), Answer::Stored(..)));
        }
        world.take(key(OWNER));
        let filled = |number: u64| Filled { slot: octets(&slot(OWNER, number - 1)), number };
        let first = Answer::Listed((1..=28).map(filled).collect(), true);
        assert_eq!(world.say(key(OWNER), &[Request::List(0)]), [first]);
        assert_eq!(world.say(key(OWNER), &[Request::List(28)]), [Answer::Listed(vec![filled(29), filled(30)], false)]);
        let get = |number, offset| Request::Get(octets(&slot(OWNER, number)), offset);
        let rest = world.say(key(OWNER), &[get(4, SIZE - 1)]);
        assert_eq!(rest, [Answer::Piece(octets(&slot(OWNER, 4)), SIZE - 1, content(1)[SIZE as usize - 1..].to_vec())]);
        assert_eq!(code(&world.say(key(OWNER), &[get(4, SIZE)])[0]), Code::Wrong);
        let many: Vec<Request> = (0..9).map(|number| get(number, 0)).collect();
        let busy = world.say(key(OWNER), &many).iter().filter(|answer| matches!(answer, Answer::Refused(..))).count();
        assert_eq!(busy, 1, "eight at a time");
        let five: Vec<Request> = (0..5).map(|n| Request::Put(octets(&slot(OWNER, n)), SIZE, digest(&content(1)).0)).collect();
        assert!(world.say(key(VISITOR), &five).iter().all(|answer| matches!(answer, Answer::Stored(..))));
    }

    fn an_owner_goes_with_all_that_is_his(world: World<impl Shelf>) {
        prepare(&mut world, 2);
        world.put(key(VISITOR), &slot(OWNER, 0), &content(1));
        assert_eq!(world.server.remove_owner(&key(9)), Ok(false));
        assert_eq!(world.server.remove_owner(&key(OWNER)), Ok(true));
        world.poll().expect("on disk");
        assert!(world.friends.is_empty(), "his visitors go, too");
        assert_eq!(world.server.totals(), Default::default());
        assert_eq!(world.state(&slot(OWNER, 0).id()), None);
    }
}

fn failed_commit<S: Shelf>(mut world: World<Breaking<S>>) {
    prepare(&mut world, 2);
    world.put(key(VISITOR), &slot(OWNER, 1), &content(1));
    world.take(key(OWNER));
    world.server.shelf_mut().broken = true;
    let requests = world.fill(&slot(OWNER, 0), &content(1));
    let delete = Request::Delete(octets(&slot(OWNER, 1)), slot(OWNER, 1).sign_delete(&world.relay()));
    let register = Request::Register(3, vec![Registered { slot: [3; 32], class: 0 }]);
    assert!(world.say_to(key(VISITOR), &requests).is_err());
    assert_eq!(world.take(key(VISITOR)).last().map(code), Some(Code::Busy));
    assert!(world.say_to(key(OWNER), &[delete.clone(), register]).is_err());
    assert_eq!(world.take(key(OWNER)).iter().map(code).collect::<Vec<_>>(), [Code::Busy, Code::Busy]);
    let invite = Invite([3; 16]);
    world.server.invite(world.now, &invite, None).expect("taken in");
    assert!(world.poll().is_err());
    world.server.shelf_mut().broken = false;
    assert_eq!(world.state(&slot(OWNER, 0).id()), Some(State::Empty));
    assert!(!world.ask(key(3), &Admission::Owner(Some(invite))));
    assert_eq!((world.server.totals().used, world.server.totals().slots), (SIZE, 2));
    assert!(matches!(world.say(key(OWNER), &[delete])[..], [Answer::Gone(..)]));
    assert!(matches!(world.put(key(VISITOR), &slot(OWNER, 0), &content(1)), Answer::Stored(..)));
}

#[test]
fn a_content_that_cannot_be_begun_is_the_trouble_of_its_sender_alone() {
    let mut world = in_memory();
    prepare(&mut world, 1);
    world.server.shelf_mut().full = true;
    let mut packet = Vec::new();
    assert!(Request::Put(octets(&slot(OWNER, 0)), SIZE, [0; 32]).append(&mut packet));
    world.handle(Input::Packet(key(VISITOR), &packet));
    assert_eq!(world.register(key(OWNER), &[&slot(OWNER, 1)]), [Answer::Done(7)]);
    assert_eq!(code(&world.take(key(VISITOR))[0]), Code::Busy);
}

#[test]
fn a_failed_commit_is_told_and_changes_nothing() {
    failed_commit(in_memory());
    let folder = tempfile::tempdir().expect("a folder");
    failed_commit(on_disk(folder.path()));
    assert_eq!(files(folder.path()), ["3"], "what was named in vain went with the next commit");
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("slots")).expect("listed");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

#[test]
fn the_disk_holds_what_the_rows_say_and_only_for_us() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = on_disk(folder.path());
    prepare(&mut world, 3);
    world.put(key(VISITOR), &slot(OWNER, 0), &content(1));
    world.put(key(VISITOR), &slot(OWNER, 1), &content(2));
    let begun = world.fill(&slot(OWNER, 2), &content(3));
    world.say(key(VISITOR), &begun[..4]);
    assert_eq!(files(folder.path()), ["1", "2", "3.part"]);
    for path in ["relay.sqlite", "slots/1", "slots/3.part"] {
        let mode = std::fs::metadata(folder.path().join(path)).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{path}");
    }
    world.delete(key(OWNER), &slot(OWNER, 0));
    assert_eq!(files(folder.path()), ["2", "3.part"]);
    // A crash may leave both kinds of files.
    std::fs::write(folder.path().join("slots/77"), b"left behind").expect("written");
    let path = folder.path().to_owned();
    let mut world = world.restart(|shelf| reopened(shelf, &path));
    assert_eq!(files(folder.path()), ["2"]);
    world.greet(key(OWNER));
    assert_eq!(world.fetch(key(OWNER), &slot(OWNER, 1)), content(2));
    let answers = world.say(key(OWNER), &begun);
    assert_eq!(answers[0], Answer::Continue(octets(&slot(OWNER, 2)), 0), "it begins anew");
    let file = files(folder.path()).into_iter().max_by_key(|name| name.parse::<u64>().expect("a number"));
    assert_eq!(file.as_deref(), Some("78"), "no name is used twice");
}

#[test]
fn a_content_that_the_disk_lost_is_not_promised_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = on_disk(folder.path());
    prepare(&mut world, 2);
    world.put(key(VISITOR), &slot(OWNER, 0), &content(1));
    world.put(key(VISITOR), &slot(OWNER, 1), &content(2));
    std::fs::write(folder.path().join("slots/1"), b"cut short").expect("written");
    let path = folder.path().to_owned();
    let mut world = world.restart(|shelf| reopened(shelf, &path));
    assert_eq!(world.state(&slot(OWNER, 0).id()), None);
    assert!(matches!(world.state(&slot(OWNER, 1).id()), Some(State::Filled { .. })));
    assert_eq!(files(folder.path()), ["2"]);
}

#[test]
fn a_database_of_a_later_version_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(on_disk(folder.path()));
    let database = rusqlite::Connection::open(folder.path().join("relay.sqlite")).expect("opened");
    database.pragma_update(None, "user_version", 99).expect("set");
    drop(database);
    let error = toxmail::slots::Shelf::open(folder.path()).err().expect("refused").to_string();
    assert!(error.contains("version 99"), "{error}");
}

#[test]
fn a_packet_holds_as_much_as_it_may_and_the_window_bounds_them() {
    let mut world = in_memory();
    prepare(&mut world, 1);
    world.put(key(VISITOR), &slot(OWNER, 0), &content(1));
    world.acknowledge();
    world.take_all();
    let mut packet = Vec::new();
    assert!(Request::Get(octets(&slot(OWNER, 0)), 0).append(&mut packet));
    world.handle(Input::Online { client: key(OWNER), tcp: true });
    world.handle(Input::Packet(key(OWNER), &packet));
    world.poll().expect("nothing to commit");
    assert_eq!(world.take(key(OWNER)).len(), SIZE.div_ceil(1280) as usize);
    assert!(world.server.is_busy_over_tcp());
    assert!(world.server.deadline() > world.now.micros);
    world.pass(61);
    assert_eq!(world.server.totals().sessions, 1, "who acknowledges nothing for a minute has no session");
}
