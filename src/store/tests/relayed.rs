//! What mail by relays and introductions need of the store.

use super::*;
use crate::lane::keys::{Class, InviteCode, MailKey, PreKeySecret, RelayKey};
use crate::relay::inbox::Window;
use crate::relay::outbox::State;
use crate::relay::place::Place;

/// A parcel of the mail that waits under this transfer.
fn parcel_of(waiting: &Waiting) -> Parcel {
    Parcel {
        peer: PEER,
        id: waiting.id,
        mail: Some(waiting.mail),
        head: vec![1, 2, 3],
        octets: 3 + waiting.wire_size,
        queued: waiting.arrived,
        expires: waiting.expires,
        at_relays: None,
        finished: false,
    }
}

#[test]
fn mail_that_waits_becomes_a_parcel_once_and_the_queue_tells_where_it_lies() {
    let mut world = World::new();
    world.enqueue(Some("M1"), b"one", &["bob@tox.alt"]);
    let reader = world.reader();
    let waiting = reader.waiting("alice", &PEER, 0, 10).expect("read");
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].recipients.len(), 1);
    world.store.put_parcel("alice", parcel_of(&waiting[0]), Vec::new()).expect("kept");
    assert!(reader.waiting("alice", &PEER, 0, 10).expect("read").is_empty(), "it is a parcel by now");
    assert_eq!(reader.parcels_done_with("alice").expect("read"), []);

    let place = Place { relay: RelayKey([7; 32]), class: Class::K16, number: 4 };
    let deposit = |state| Deposit { peer: PEER, parcel: waiting[0].id, part: 0, place, state };
    world.store.put_deposits("alice", vec![deposit(State::Chosen)]).expect("kept");
    world.store.put_deposits("alice", vec![deposit(State::Stored { until: 99 })]).expect("kept");
    assert_eq!(reader.deposits("alice").expect("read"), [deposit(State::Stored { until: 99 })]);
    assert_eq!(reader.slot_numbers("alice").expect("read")[0].next, 5, "a number is never used twice");
    world.store.at_relays("alice", PEER, waiting[0].id, 2);
    world.settled();
    let shown = |reader: &Reader| reader.queue(None, "", 10).expect("read")[0].at_relays;
    assert_eq!(shown(&reader).map(|at| at.0), Some(2));
    let summary = |reader: &Reader| {
        let summary = reader.queue_summary(Some("alice")).expect("read");
        (summary.at_relays, summary.at_relays_since)
    };
    assert_eq!(summary(&reader), (1, Some(1_000_000)));
    world.store.at_relays("alice", PEER, waiting[0].id, 0);
    world.settled();
    assert_eq!(shown(&reader), None, "no longer enough of them");
    assert_eq!(summary(&reader), (0, None));

    // The same mail for one recipient more is another transfer: the parcel cannot be changed.
    world.enqueue(Some("M1"), b"one", &["work@tox.alt"]);
    let more = reader.waiting("alice", &PEER, 0, 10).expect("read");
    assert_eq!(more.len(), 1);
    assert_ne!(more[0].id, waiting[0].id);

    // The receipt comes by the relays, without a link.
    world.store.at_relays("alice", PEER, waiting[0].id, 2);
    world.store.outcome(PEER, waiting[0].id, 0, Outcome::Stored { duplicate: false, relayed: false });
    world.settled();
    assert_eq!(summary(&reader), (0, None), "it is there");
    assert_eq!(reader.parcels_done_with("alice").expect("read"), [(PEER, waiting[0].id, true)]);
    world.store.finish_parcels("alice", vec![(PEER, waiting[0].id)]);
    world.store.forget_parcel("alice", PEER, waiting[0].id);
    world.settled();
    assert!(reader.parcels("alice").expect("read").is_empty() && reader.deposits("alice").expect("read").is_empty());
    assert_eq!(reader.slot_numbers("alice").expect("read")[0].next, 5);
}

#[test]
fn what_is_on_hold_or_was_released_from_it_is_no_longer_the_parcel_that_it_was() {
    let mut world = World::new();
    world.enqueue(Some("M1"), b"one", &["bob@tox.alt"]);
    let reader = world.reader();
    let waiting = reader.waiting("alice", &PEER, 0, 10).expect("read").remove(0);
    world.store.put_parcel("alice", parcel_of(&waiting), Vec::new()).expect("kept");
    let done_with = || reader.parcels_done_with("alice").expect("read");
    world.store.hold(None, None).expect("held");
    let unlike = [(PEER, waiting.id, false)];
    assert_eq!(done_with(), unlike, "it is not to lie at relays");
    world.now.fetch_add(1_000, Ordering::Relaxed);
    world.store.release(None, None, 10_000_000).expect("released");
    assert_eq!(done_with(), unlike, "the parcel ends before the mail does");
    world.store.finish_parcels("alice", vec![(PEER, waiting.id)]);
    world.store.forget_parcel("alice", PEER, waiting.id);
    world.settled();
    let anew = reader.waiting("alice", &PEER, 0, 10).expect("read").remove(0);
    assert_eq!((anew.id, anew.expires), (waiting.id, waiting.expires + 1_000));
    world.store.put_parcel("alice", parcel_of(&anew), Vec::new()).expect("kept");
    assert_eq!(done_with(), []);
}

#[test]
fn a_contact_is_owed_so_many_receipts_and_no_more() {
    let world = World::new();
    let receipt = |number: u32| Receipt {
        peer: PEER,
        transfer: MailId([1; 16]),
        number,
        item: vec![9],
        made: number.into(),
        parcel: None,
    };
    world.store.put_receipts("alice", (0..parcels::MAX_OWED + 2).map(receipt).collect()).expect("kept");
    let reader = world.reader();
    let owed = reader.receipts_owed("alice", &PEER, u32::MAX >> 1).expect("read");
    assert_eq!((owed.len(), owed[0].number), (parcels::MAX_OWED as usize, 2), "the oldest went");
    assert_eq!(reader.receipts_owed("alice", &PEER, 3).expect("read").len(), 3);
    assert_eq!(reader.receipts_owed("alice", &PublicKey([3; 32]), 3).expect("read"), []);
    assert_eq!(reader.owed("alice").expect("read"), [PEER].into());
}

#[test]
fn a_receipt_is_owed_until_the_sender_is_done() {
    let world = World::new();
    let receipt = Receipt { peer: PEER, transfer: MailId([1; 16]), number: 0, item: vec![9], made: 5, parcel: None };
    world.store.put_receipts("alice", vec![receipt.clone()]).expect("kept");
    let reader = world.reader();
    assert_eq!(reader.receipts_of("alice", &PEER).expect("read"), [receipt]);
    let parcel = Parcel {
        peer: PEER,
        id: MailId([8; 16]),
        mail: None,
        head: vec![1],
        octets: 1,
        queued: 5,
        expires: 50,
        at_relays: None,
        finished: false,
    };
    world.store.put_parcel("alice", parcel, vec![(MailId([1; 16]), 0)]).expect("kept");
    assert_eq!(reader.receipts_of("alice", &PEER).expect("read")[0].parcel, Some(MailId([8; 16])));
    assert_eq!(reader.parcels_without_receipt("alice").expect("read"), []);
    world.store.forget("alice", vec![(PEER, MailId([1; 16]))]);
    world.settled();
    assert_eq!(reader.receipts_of("alice", &PEER).expect("read"), []);
    assert_eq!(reader.parcels_without_receipt("alice").expect("read"), [(PEER, MailId([8; 16]))]);
}

#[test]
fn the_keys_of_a_lane_are_destroyed_in_every_file() {
    let world = World::new();
    let key = |id, made, octet| PreKey { peer: PEER, id, secret: PreKeySecret::new(&mut [octet; 32]), made };
    let octets = || -> Vec<u8> {
        let files = std::fs::read_dir(world.state.path()).expect("a folder");
        let files = files.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
        files.flat_map(|path| std::fs::read(path).expect("read")).collect()
    };
    let found = |octet: u8| octets().windows(32).any(|window| window == [octet; 32]);
    world.store.put_pre_key("alice", &key(1, 100, 0xA1), 0).expect("kept");
    assert!(found(0xA1));
    world.store.put_pre_key("alice", &key(2, 200, 0xA2), 150).expect("kept");
    let reader = world.reader();
    let ids: Vec<u32> = reader.pre_keys("alice").expect("read").iter().map(|key| key.id).collect();
    assert_eq!(ids, [2]);
    assert!(!found(0xA1) && found(0xA2));
    // What somebody reads cannot be taken from him; once he has ended, it is tried again.
    reader.connection.execute_batch("BEGIN; SELECT * FROM pre_key").expect("begun");
    world.store.destroy_pre_keys(300);
    world.settled();
    assert!(found(0xA2));
    reader.connection.execute_batch("COMMIT").expect("ended");
    world.now.fetch_add(60_000, Ordering::Relaxed);
    world.settled();
    assert!(!found(0xA2));

    // The agent ends, by a crash, before the log is emptied: then the next start empties it.
    world.store.put_pre_key("alice", &key(3, 300, 0xA3), 0).expect("kept");
    world.store.stop();
    let killed = rusqlite::Connection::open(world.state.path().join("queue.sqlite")).expect("open");
    killed.pragma_update(None, "secure_delete", "ON").expect("set");
    killed.execute("DELETE FROM pre_key", []).expect("destroyed");
    assert!(found(0xA3));
    let policy = Policy {
        now: Box::new(|| 2_000_000),
        retry_min: 60_000,
        retry_max: 3_600_000,
        delay_notice: 600_000,
        notice: Box::new(|_| None),
    };
    let (store, _) = Store::open(world.state.path(), policy, |_| ()).expect("a store");
    store.flush(Some("none".into()), None, None).expect("the store answers");
    assert!(!found(0xA3));
}

#[test]
fn pre_keys_made_while_the_clock_was_ahead_are_due() {
    let world = World::new();
    let key = |id, made| PreKey { peer: PEER, id, secret: PreKeySecret::new(&mut [1; 32]), made };
    world.store.put_pre_key("alice", &key(1, 5_000_000), 0).expect("kept");
    world.store.put_pre_key("alice", &key(2, 900_000_000), 0).expect("kept");
    world.store.pre_keys_are_due(5_000_100, 5_086_500).expect("kept");
    let made: Vec<i64> = world.reader().pre_keys("alice").expect("read").iter().map(|key| key.made).collect();
    assert_eq!(made, [5_000_000, 5_000_100 - RENEW]);
}

fn introduction(key: PublicKey, words: &str) -> Request {
    Request {
        account: "alice".into(),
        key,
        message: words.into(),
        received: 1000,
        answer: Answer::Open,
        claim: None,
        verified: None,
    }
}

fn introduce(world: &World, key: PublicKey, offer: u8) -> Introduced {
    let offer = zeroize::Zeroizing::new(vec![offer; 3]);
    world.store.put_introduction(introduction(key, "hello"), offer).expect("the store")
}

fn introduced(world: &World) -> Vec<(PublicKey, Vec<u8>)> {
    let reader = Reader::open(world.state.path()).expect("a reader");
    let read = reader.introduced("alice").expect("the store");
    read.into_iter().map(|(peer, offer)| (peer, offer.to_vec())).collect()
}

#[test]
fn who_introduces_himself_is_answered_once_he_is_accepted() {
    let world = World::new();
    assert_eq!(introduce(&world, PEER, 1), Introduced::Request { new: true });
    assert_eq!(introduce(&world, PEER, 2), Introduced::Request { new: false });
    assert_eq!(introduced(&world), [], "nobody accepted him");
    assert_eq!(world.store.accept_request("alice", PEER, 1000), Ok(true));
    assert_eq!(introduced(&world), [(PEER, vec![2; 3])]);
    world.store.introduction_followed("alice", PEER).expect("the store");
    assert_eq!(introduced(&world), []);
    assert_eq!(introduce(&world, PEER, 3), Introduced::Contact, "the answer was lost");
    assert_eq!(introduced(&world), [(PEER, vec![3; 3])]);
}

#[test]
fn who_is_blocked_or_refused_introduces_himself_in_vain() {
    let world = World::new();
    assert_eq!(introduce(&world, PEER, 1), Introduced::Request { new: true });
    world.store.refuse_request("alice", PEER, false, 1000).expect("the store");
    assert_eq!(introduce(&world, PEER, 1), Introduced::Dropped);
    let other = PublicKey([3; 32]);
    world.store.block("alice", other, 1000).expect("the store");
    assert_eq!(introduce(&world, other, 1), Introduced::Dropped);
    // A contact who is blocked is not answered, either.
    let third = PublicKey([4; 32]);
    assert_eq!(introduce(&world, third, 1), Introduced::Request { new: true });
    assert_eq!(world.store.accept_request("alice", third, 1000), Ok(true));
    world.store.block("alice", third, 1000).expect("the store");
    assert_eq!(introduce(&world, third, 2), Introduced::Dropped);
    assert_eq!(introduced(&world), []);
}

#[test]
fn requests_by_introduction_keep_to_the_limit_of_requests() {
    let world = World::new();
    for number in 0..100 {
        assert_eq!(introduce(&world, PublicKey([number; 32]), 1), Introduced::Request { new: true }, "{number}");
    }
    assert_eq!(introduce(&world, PublicKey([200; 32]), 1), Introduced::Dropped);
}

#[test]
fn an_invitation_is_remembered_for_a_while_after_it_was_renewed() {
    let world = World::new();
    let codes = |world: &World| {
        let reader = Reader::open(world.state.path()).expect("a reader");
        let (now, before) = reader.invitations("alice").expect("the store");
        (now.map(|code| code.0[0]), before.iter().map(|code| code.0[0]).collect::<Vec<_>>())
    };
    assert_eq!(codes(&world), (None, vec![]));
    for code in 1..=3 {
        let seconds = i64::from(code) * 1000;
        world.store.put_invitation("alice", &InviteCode([code; 16]), seconds).expect("the store");
    }
    assert_eq!(codes(&world), (Some(3), vec![1, 2]));
    world.store.forget_invitations(3000);
    world.store.put_invitation("bob", &InviteCode([9; 16]), 1).expect("the store");
    assert_eq!(codes(&world), (Some(3), vec![2]));
}

fn contact(key: PublicKey) -> Contact {
    Contact {
        account: "alice".into(),
        key,
        nick: None,
        tox_id: None,
        message: None,
        accepted: false,
        added: 1000,
        last_seen: None,
        relays: 0,
    }
}

#[test]
fn introducing_ends_with_the_contact_or_its_answer() {
    let world = World::new();
    let id = ToxId::new(PublicKey([7; 32]), [1, 2, 3, 4]);
    let row = |peer| IntroducingRow {
        peer,
        invitation: "toxmail-invite:x".into(),
        id,
        text: "hello".into(),
        days: 2,
        day: Some(20_000),
    };
    let other = PublicKey([3; 32]);
    for peer in [PEER, other] {
        assert_eq!(world.store.put_contact(contact(peer)), Ok(true));
        world.store.put_introducing("alice", row(peer)).expect("the store");
    }
    let reader = Reader::open(world.state.path()).expect("a reader");
    let read = reader.introducing("alice").expect("the store");
    assert_eq!(read.iter().map(|row| row.peer).collect::<Vec<_>>(), [PEER, other]);
    assert_eq!((read[0].id, read[0].days, read[0].day), (id, 2, Some(20_000)));
    assert_eq!(world.store.remove_contact("alice", other), Ok(true));
    assert_eq!(world.store.put_contact(contact(other)), Ok(true));
    world.store.end_introducing("alice", PEER, true).expect("the store");
    assert!(reader.introducing("alice").expect("the store").is_empty());
    let accepted: Vec<bool> = reader.contacts(Some("alice")).expect("read").iter().map(|one| one.accepted).collect();
    assert_eq!(accepted, [true, false]);
}

#[test]
fn who_is_found_by_a_name_with_an_invitation_is_introduced_to_until_he_has_accepted() {
    let mut world = World::new();
    let settle = |world: &World, invitation: &str| {
        let settled = Settled { invitation: Some(invitation.into()), ..settled("bob@example.org") };
        world.store.settle(settled, secure(2), trust::Policy::default()).expect("the store answers")
    };
    let told = |world: &mut World| {
        world.settled().iter().filter(|event| matches!(event, Event::Introducing(name) if name == "alice")).count()
    };
    let introducing = |world: &World| -> Vec<(PublicKey, String, ToxId, String, u32)> {
        let rows = world.reader().introducing("alice").expect("the store");
        rows.into_iter().map(|row| (row.peer, row.invitation, row.id, row.text, row.days)).collect()
    };
    let row =
        |invitation: &str| vec![(PEER, invitation.to_owned(), settled("bob@example.org").own, "hi".to_owned(), 0)];
    world.enqueue(Some("M"), b"body", &["bob@example.org"]);
    assert!(matches!(settle(&world, "one"), Verdict::Pin(_)));
    assert_eq!((told(&mut world), introducing(&world)), (1, row("one")));
    // What he was told already is not begun anew, unless his invitation is another one.
    let known = world.reader().introducing("alice").expect("the store").remove(0);
    world.store.put_introducing("alice", IntroducingRow { days: 3, day: Some(20_000), ..known }).expect("the store");
    assert!(matches!(settle(&world, "one"), Verdict::Same(_)));
    assert_eq!((told(&mut world), introducing(&world)[0].4), (0, 3));
    assert!(matches!(settle(&world, "two"), Verdict::Same(_)));
    assert_eq!((told(&mut world), introducing(&world)), (1, row("two")));
    // Whoever has accepted knows us.
    world.store.end_introducing("alice", PEER, true).expect("the store");
    assert!(matches!(settle(&world, "three"), Verdict::Same(_)));
    assert_eq!((told(&mut world), introducing(&world)), (0, vec![]));
}

#[test]
fn another_key_is_not_introduced_to_by_its_invitation() {
    let mut world = World::new();
    world.enqueue(Some("M"), b"body", &["bob@example.org"]);
    assert!(matches!(settle(&world, "bob@example.org", secure(2)), Verdict::Pin(_)));
    let changed = Settled { invitation: Some("other".into()), ..settled("bob@example.org") };
    let verdict = world.store.settle(changed, secure(4), trust::Policy::default()).expect("the store answers");
    assert!(matches!(verdict, Verdict::Changed(..)));
    assert!(world.reader().introducing("alice").expect("the store").is_empty());
}

fn lane_out(serial: u64) -> LaneOut {
    LaneOut { peer: PEER, key: MailKey { sign: [1; 32], seal: [2; 32] }, serial, relays: 1, offer: vec![3] }
}

#[test]
fn the_slots_of_a_lane_are_counted_on_until_it_has_a_new_seed() {
    let world = World::new();
    let deposit = |peer| {
        let place = Place { relay: RelayKey([7; 32]), class: Class::K16, number: 4 };
        Deposit { peer, parcel: MailId([1; 16]), part: 0, place, state: State::Chosen }
    };
    let other = PublicKey([3; 32]);
    world.store.put_deposits("alice", vec![deposit(PEER), deposit(other)]).expect("kept");
    let reader = world.reader();
    let known = || {
        let next = reader.slot_numbers("alice").expect("read").iter().map(|line| (line.peer, line.next)).collect();
        let deposits = reader.deposits("alice").expect("read").iter().map(|deposit| deposit.peer).collect();
        (next, deposits)
    };
    world.store.put_lane_out("alice", lane_out(1), false, 1000).expect("kept");
    assert_eq!(known(), (vec![(PEER, 5), (other, 5)], vec![PEER, other]));
    world.store.put_lane_out("alice", lane_out(2), true, 1000).expect("kept");
    assert_eq!(known(), (vec![(other, 5)], vec![other]));
    assert_eq!(reader.lanes_out("alice").expect("read")[0].serial, 2);
}

#[test]
fn what_is_looked_for_each_second_is_found_by_an_index() {
    let world = World::new();
    let reader = world.reader();
    let plan = |sql: &str| -> Vec<String> {
        let mut plan = reader.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
        let none = vec![rusqlite::types::Value::Null; plan.parameter_count()];
        let rows = plan.query_map(rusqlite::params_from_iter(none), |row| row.get(3)).expect("a plan");
        rows.collect::<Result<_, _>>().expect("a plan")
    };
    assert_eq!(
        plan(parcels::WAITING),
        [
            "SEARCH recipient USING COVERING INDEX recipient_order (account=? AND peer=? AND mail>?)",
            "CORRELATED SCALAR SUBQUERY 1",
            "SEARCH p USING PRIMARY KEY (account=? AND peer=? AND id=?)",
        ]
    );
    assert_eq!(plan(parcels::WHO_IS_OWED), ["SEARCH receipt USING INDEX receipt_owed (account=?)"]);
    assert_eq!(plan(parcels::OWED), ["SEARCH receipt USING INDEX receipt_owed (account=? AND peer=?)"]);
    assert_eq!(
        plan("SELECT coalesce(max(mail), 0) FROM recipient WHERE account = ? AND peer = ?"),
        ["SEARCH recipient USING COVERING INDEX recipient_order (account=? AND peer=?)"]
    );
}

#[test]
fn the_version_tells_whether_anything_was_committed() {
    let world = World::new();
    let reader = world.reader();
    let before = reader.version().expect("read");
    assert_eq!(reader.version().expect("read"), before);
    world.store.put_lane_out("alice", lane_out(1), false, 1000).expect("kept");
    assert_ne!(reader.version().expect("read"), before);
}

#[test]
fn what_was_registered_at_a_relay_goes_with_it_when_its_contact_offers_another() {
    let world = World::new();
    let relay = |octet: u8| RelayRow {
        key: RelayKey([octet; 32]),
        id: vec![0; 38],
        invite: None,
        offered_by: Some(PEER),
        savedata: None,
        pseudonym: None,
        added: 1000,
        seen: None,
    };
    world.store.put_relay("alice", relay(7)).expect("kept");
    let window = Window { low: 0, filled: 0, registered: 8 };
    let line = SlotWindow { peer: PEER, relay: RelayKey([7; 32]), class: Class::K16, window };
    world.store.put_windows("alice", vec![line]).expect("kept");
    world.store.put_relay("alice", relay(7)).expect("kept");
    assert_eq!(world.reader().windows("alice").expect("read"), [line]);
    world.store.put_relay("alice", relay(8)).expect("kept");
    assert_eq!(world.reader().windows("alice").expect("read"), []);
    assert_eq!(world.reader().relays("alice").expect("read").len(), 1);
}

#[test]
fn a_contact_changes_nothing_about_a_relay_that_is_not_his() {
    let world = World::new();
    let relay = |octet: u8, id: u8, offered_by: Option<u8>| RelayRow {
        key: RelayKey([octet; 32]),
        id: vec![id; 38],
        invite: offered_by.map(|_| [id; 16]),
        offered_by: offered_by.map(|peer| PublicKey([peer; 32])),
        savedata: None,
        pseudonym: None,
        added: octet.into(),
        seen: None,
    };
    let put = |row: RelayRow| world.store.put_relay("alice", row).expect("the store answers");
    for peer in [2, 3] {
        assert_eq!(world.store.put_contact(contact(PublicKey([peer; 32]))), Ok(true));
    }
    assert!(put(relay(7, 1, None)) && put(relay(8, 1, Some(2))) && put(relay(9, 1, Some(3))));
    assert!(!put(relay(7, 66, Some(3))), "the operator's");
    assert!(!put(relay(8, 66, Some(3))), "another contact's");
    assert!(put(relay(9, 2, Some(3))), "his own");
    let rows = world.reader().relays("alice").expect("read");
    let rows: Vec<_> = rows.iter().map(|row| (row.key.0[0], row.id[0], row.offered_by.map(|peer| peer.0[0]))).collect();
    assert_eq!(rows, [(7, 1, None), (8, 1, Some(2)), (9, 2, Some(3))]);
    assert_eq!(world.store.remove_contact("alice", PublicKey([3; 32])), Ok(true));
    assert!(put(relay(9, 4, Some(2))), "that of nobody any more");
    assert_eq!(world.reader().relays("alice").expect("read").len(), 2, "each contact has one");
    assert!(put(relay(9, 3, None)), "the operator takes it over");
    assert_eq!(world.reader().relays("alice").expect("read")[1].offered_by, None);
}

#[test]
fn when_relays_of_contacts_were_reached_is_forgotten_after_a_time() {
    let world = World::new();
    world.store.contacts_relay_seen("alice", RelayKey([1; 32]), 100);
    world.store.contacts_relay_seen("alice", RelayKey([2; 32]), 200);
    world.store.prune_contacts_relays(200);
    world.settled();
    assert_eq!(world.reader().contacts_relays_seen("alice").expect("read"), [(RelayKey([2; 32]), 200)]);
}

#[test]
fn tables_of_versions_4_and_5_get_their_indices() {
    let indices = |before: &str| -> Vec<String> {
        let state = tempfile::tempdir().expect("a folder");
        schema::open(state.path()).expect("made").execute_batch(before).expect("as they were");
        let new = schema::open(state.path()).expect("brought up to date");
        let mut rows = new.prepare("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY 1");
        let rows = rows.as_mut().expect("a statement").query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("rows")
    };
    let new = indices("");
    let of_4 =
        "DROP INDEX recipient_order; DROP INDEX receipt_owed; DROP INDEX receipt_parcel; PRAGMA user_version = 4";
    assert_eq!(indices(of_4), new);
    let of_5 = "DROP INDEX receipt_owed; CREATE INDEX receipt_owed ON receipt (account, made) WHERE parcel IS NULL;
                PRAGMA user_version = 5";
    assert_eq!(indices(of_5), new);
}
