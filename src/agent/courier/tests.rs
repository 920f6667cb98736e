//! What the courier makes of the queue and of what contacts say: a real store, no relay.

use std::path::Path;

use super::account::Account;
use super::lanes::Followed;
use super::*;
use crate::config;
use crate::engine::transfer::{Digest, Encoding, Outcome, TransferRecipient};
use crate::identity::tox_id::ToxId;
use crate::lane::keys::{Class, LaneSeed, MailSecret, RelayKey};
use crate::lane::offer::{LaneId, Offer, PreKey, RelayRef};
use crate::lane::parcel::{self, Item};
use crate::lane::seal;
use crate::relay::place::Place;
use crate::relay::{inbox, outbox};
use crate::store::{BodyWriter, Contact, Destination, NewMail, NewRecipient, Policy, RelayRow};

const PEER: PublicKey = PublicKey([2; 32]);
const EVE: PublicKey = PublicKey([3; 32]);
/// Of the relay that the contact offers, and of the one that is ours.
const RELAY: RelayKey = RelayKey([7; 32]);

struct World {
    state: tempfile::TempDir,
    account: Account,
    reader: Reader,
    mails: u8,
}

fn contact(key: PublicKey) -> Contact {
    Contact {
        account: "alice".into(),
        key,
        nick: None,
        tox_id: None,
        message: None,
        accepted: true,
        added: 1000,
        last_seen: None,
        relays: 0,
    }
}

fn load(state: &Path, store: &Store) -> Account {
    load_with(state, store, "")
}

/// With these lines more in the configuration of the account.
fn load_with(state: &Path, store: &Store, more: &str) -> Account {
    let text = format!("[[account]]\nname = \"alice\"\nmaildir = \"/m\"\n{more}");
    let live = config::parse(&text, Path::new("/x")).expect("a configuration");
    let shared = Shared {
        store: store.clone(),
        clock: Arc::new(Clock::start(&state.join("clock"))),
        live: Arc::new(Live::new(live)),
        state_dir: state.to_owned(),
        handle: Handle::new().0,
        relay: None,
        asked: tokio::sync::mpsc::channel(1).0,
    };
    let secret = ToxSecret::new(&mut [1; 32]);
    let tox = tox_account::Handle::new().expect("a handle").0;
    let own = Own { name: "alice".into(), key: secret.public(), secret, tox };
    let reader = Reader::open(state).expect("a reader");
    Account::load(0, own, Arc::new(shared), &reader).expect("an account")
}

impl World {
    fn new() -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let policy = Policy {
            now: Box::new(|| 1_000_000),
            retry_min: 60_000,
            retry_max: 3_600_000,
            delay_notice: 600_000,
            notice: Box::new(|_| None),
        };
        let (store, _) = Store::open(state.path(), policy, |_| ()).expect("a store");
        for key in [PEER, EVE] {
            assert_eq!(store.put_contact(contact(key)), Ok(true));
        }
        let account = load(state.path(), &store);
        let reader = Reader::open(state.path()).expect("a reader");
        Self { state, account, reader, mails: 0 }
    }

    /// The contact's offer of a lane for mail of at most so many octets.
    fn offer(&self, serial: u64, seed: u8, max_mail: u64) -> Offer {
        Offer {
            lane: LaneId([2; 16]),
            serial,
            to: self.account.own,
            seed: LaneSeed::new(&mut [seed; 32]),
            relays: vec![RelayRef { id: ToxId::new(PublicKey([9; 32]), [1; 4]), key: RELAY }],
            open: super::lanes::OPEN,
            pre_key: PreKey { id: 1, key: [4; 32], not_after: u64::MAX },
            max_mail,
            key: MailSecret::new(&mut [5; 32]).public(),
            receipts: true,
        }
    }

    fn offered(&mut self, offer: &Offer) {
        let octets = offer.to_octets(&MailSecret::new(&mut [5; 32]));
        self.account.on_offer(PEER, &octets, true);
    }

    fn enqueue(&mut self, octets: usize) -> MailId {
        self.mails += 1;
        let transfer = MailId([self.mails; 16]);
        let recipient = NewRecipient {
            address: "bob@tox.alt".into(),
            to: Destination::Peer { key: PEER, wire_address: "bob@tox.alt".into() },
            transfer,
            notify: None,
            orcpt: None,
        };
        let mail = NewMail {
            queue_id: format!("Q{}", self.mails),
            account: "alice".into(),
            mta_queue_id: None,
            sender: "alice@example.org".into(),
            wire_sender: "alice@example.org".into(),
            head: Vec::new(),
            lifetime: 1 << 50,
            smtputf8: false,
            ret: None,
            envid: None,
            recipients: vec![recipient],
        };
        let mut writer = BodyWriter::new(self.state.path(), &mail.queue_id);
        writer.write(&vec![b'x'; octets]).expect("written");
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = move |result| sender.send(result).expect("somebody waits");
        self.account.shared.store.enqueue(mail, writer.finish().expect("finished"), done);
        receiver.recv().expect("an answer").expect("queued");
        transfer
    }

    fn gather(&mut self) {
        self.account.gather_mail(&self.reader).expect("gathered");
    }

    fn parcels(&self) -> Vec<MailId> {
        self.reader.parcels("alice").expect("read").iter().map(|parcel| parcel.id).collect()
    }
}

#[test]
fn mail_is_sealed_only_to_a_key_whose_secret_the_contact_has() {
    let world = World::new();
    let open = |change: fn(&mut Offer), now| {
        let mut offer = world.offer(1, 1, 100);
        offer.pre_key.not_after = 2000;
        change(&mut offer);
        Followed { offer }.is_open(now)
    };
    assert!(open(|_| (), 1999));
    assert!(!open(|_| (), 2000), "by then the secret is destroyed");
    assert!(!open(|offer| offer.relays.clear(), 1999), "there is nowhere to put it");
}

#[test]
fn mail_that_is_too_large_for_the_contact_is_not_in_the_way_of_what_came_after_it() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    for _ in 0..65 {
        world.enqueue(101);
    }
    let small = world.enqueue(10);
    world.gather();
    world.gather();
    assert_eq!(world.parcels(), [small]);
    let later = world.enqueue(10);
    world.gather();
    assert_eq!(world.parcels(), [small, later]);
}

#[test]
fn a_contact_that_takes_larger_mail_by_now_gets_what_was_passed_over() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    let large = world.enqueue(101);
    world.gather();
    assert_eq!(world.parcels(), []);
    let offer = world.offer(2, 1, 101);
    world.offered(&offer);
    world.gather();
    assert_eq!(world.parcels(), [large]);
}

#[test]
fn mail_that_was_sent_over_the_link_when_it_went_waits_again() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    let mail = world.enqueue(10);
    let store = world.account.shared.store.clone();
    store.link_up("alice", PEER, 1, 1, 1);
    store.flush(Some("none".into()), None, None).expect("the store answers");
    world.gather();
    assert_eq!(world.parcels(), [], "it is being sent");
    store.link_down("alice", PEER);
    store.flush(Some("none".into()), None, None).expect("the store answers");
    world.account.on_link(PEER, false);
    world.gather();
    assert_eq!(world.parcels(), [mail]);
}

#[test]
fn receipts_for_mail_that_is_no_parcel_are_not_remembered() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    let mail = world.enqueue(10);
    world.gather();
    let receipt = |id| Item::Receipt {
        id,
        digest: Digest([0; 32]),
        index: 0,
        outcome: Outcome::Stored { duplicate: false, relayed: false },
        at: 0,
    };
    world.account.on_items(PEER, vec![receipt(MailId([0xEE; 16])), receipt(mail)], false);
    assert_eq!(world.account.answered.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [mail]);
}

#[test]
fn a_newer_offer_on_its_way_takes_the_place_of_the_one_before() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    world.account.make_lane(PEER).expect("a lane");
    world.account.gather_control(&world.reader).expect("gathered");
    let first = world.parcels();
    assert_eq!(first.len(), 1);
    world.account.offered.get_mut(&PEER).expect("offered").serial += 1;
    world.account.gather_control(&world.reader).expect("gathered");
    world.account.find_finished(&world.reader).expect("found");
    world.account.shared.store.flush(Some("none".into()), None, None).expect("the store answers");
    let parcels = world.reader.parcels("alice").expect("read");
    assert_eq!(parcels.len(), 2);
    assert!(parcels.iter().all(|parcel| parcel.finished == (parcel.id == first[0])));
}

#[test]
fn a_lane_that_is_taken_back_does_not_begin_anew_when_the_relays_change() {
    let mut world = World::new();
    for peer in [PEER, EVE] {
        world.account.make_lane(peer).expect("a lane");
    }
    let row = RelayRow {
        key: RELAY,
        id: ToxId::new(PublicKey([9; 32]), [1; 4]).octets().to_vec(),
        invite: None,
        offered_by: None,
        savedata: None,
        pseudonym: None,
        added: 1000,
        seen: None,
    };
    let now = world.account.now();
    let mut actions = Vec::new();
    // Where its slots are registered, so that they are to be taken back.
    world.account.inbox.handle(now, inbox::Input::Up { relay: RELAY, max_slots: 5000 });
    world.account.inbox.poll(now, &mut actions);
    world.account.offered.get_mut(&PEER).expect("offered").ended = true;
    actions.clear();
    world.account.shared.store.put_relay("alice", row).expect("kept");
    world.account.relays_changed();
    world.account.decide_relays(&world.reader).expect("decided");
    world.account.inbox.poll(now, &mut actions);
    let registered: std::collections::HashSet<PublicKey> = actions
        .iter()
        .filter_map(|action| match action {
            inbox::Action::Register { slots, .. } => Some(slots),
            _ => None,
        })
        .flatten()
        .filter_map(|slot| match slot {
            inbox::Slot::Of(peer, _) => Some(*peer),
            inbox::Slot::Dummy(_) => None,
        })
        .collect();
    assert_eq!(registered, [EVE].into());
}

#[test]
fn a_visit_that_does_not_come_about_is_given_up_however_often_is_looked() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    world.enqueue(10);
    world.gather();
    let mut now = world.account.now();
    let mut actions = Vec::new();
    let mut visits = |account: &mut Account, until: u64, wanted: fn(&outbox::Action) -> bool| {
        while now < until {
            now += 1000;
            account.adapt(now, true);
            account.outbox.poll(now, &mut actions);
            let records = std::mem::take(&mut actions);
            for action in &records {
                if let outbox::Action::Record { peer, place, .. } = action {
                    account.outbox.handle(now, outbox::Input::Recorded { peer: *peer, place: *place });
                }
            }
            if records.iter().any(wanted) {
                return true;
            }
        }
        false
    };
    let end = world.account.now() + 3_600_000;
    assert!(visits(&mut world.account, end, |action| matches!(action, outbox::Action::Visit { .. })));
    assert!(visits(&mut world.account, end, |action| matches!(action, outbox::Action::Leave { .. })));
}

#[test]
fn lanes_of_a_contact_removed_just_before_the_end_are_forgotten_at_the_start() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    let store = world.account.shared.store.clone();
    assert_eq!(store.remove_contact("alice", PEER), Ok(true));
    assert_eq!(world.reader.lanes_out("alice").expect("read").len(), 1, "the courier had not heard of it");
    drop(load(world.state.path(), &store));
    assert!(world.reader.lanes_out("alice").expect("read").is_empty());
}

#[test]
fn lanes_of_a_contact_that_is_blocked_stay_ended_at_the_next_start() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    world.account.make_lane(PEER).expect("a lane");
    world.account.make_lane(EVE).expect("a lane");
    let store = world.account.shared.store.clone();
    store.block("alice", PEER, 1).expect("the store answers");
    let account = load(world.state.path(), &store);
    assert!(account.offered[&PEER].ended && !account.offered[&EVE].ended);
    assert!(account.followed.is_empty(), "nothing is deposited for him");
}

#[test]
fn a_relay_that_was_not_asked_for_is_not_used() {
    let mut world = World::new();
    let relay = RelayRef { id: ToxId::new(PublicKey([9; 32]), [1; 4]), key: RELAY }.octets();
    let other = RelayRef { id: ToxId::new(PublicKey([9; 32]), [1; 4]), key: RelayKey([8; 32]) }.octets();
    let used = |world: &World| world.reader.relays("alice").expect("read").len();
    let invited = [&relay[..], &[1; 16]].concat();
    let (tell, give) = (3, 5);
    world.account.on_word(PEER, give, &invited);
    assert_eq!(used(&world), 0, "unasked");
    world.account.on_word(PEER, tell, &other);
    world.account.on_word(PEER, give, &invited);
    assert_eq!(used(&world), 0, "another one");
    world.account.on_word(PEER, tell, &relay);
    world.account.on_word(PEER, give, &invited);
    assert_eq!(used(&world), 1);
}

#[test]
fn what_is_held_is_taken_back_from_the_relays_and_goes_there_again_when_released() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    let mail = world.enqueue(10);
    world.gather();
    let store = world.account.shared.store.clone();
    store.hold(None, None).expect("held");
    let mut clients = 0;
    world.account.find_finished(&world.reader).expect("found");
    world.account.work(&world.reader, &mut clients);
    store.flush(Some("none".into()), None, None).expect("the store answers");
    world.gather();
    assert_eq!(world.parcels(), []);
    store.release(None, None, 5_000).expect("released");
    world.account.gathered.clear();
    world.gather();
    assert_eq!(world.parcels(), [mail]);
    assert_eq!(world.reader.parcels("alice").expect("read")[0].expires, 1_005_000);
}

/// What the contact has put into the first slot of its lane: a mail of this name that expires then. It is sealed to the
/// newest pre-key.
fn put(account: &Account, id: MailId, expires: u64) -> (Place, Vec<u8>) {
    let place = Place { relay: RELAY, class: Class::K16, number: 0 };
    let head = parcel::Parcel::Mail(parcel::MailHead {
        id,
        sender: "bob@example.org".into(),
        recipients: vec![TransferRecipient { index: 0, address: "alice@example.org".into() }],
        size: 4,
        wire_size: 4,
        digest: Digest([0; 32]),
        encoding: Encoding::Identity,
        expires,
    })
    .head();
    let octets = [&head[..], b"mail"].concat();
    let lane = &account.offered[&PEER];
    let (number, secret, _) = lane.pre_keys.last().expect("a key");
    let key = PreKey { id: *number, key: secret.public(), not_after: u64::MAX };
    let total = octets.len() as u64;
    let part = parcel::Part { parcel: id, part: 0, parts: 1, total, offset: 0, octets };
    let inner = seal::seal(&MailSecret::new(&mut [5; 32]), &key, &part, Class::K16);
    (place, seal::wrap(&inner, &lane.seed, &RELAY, 0))
}

#[test]
fn mail_that_came_after_its_time_may_come_once_more_with_another() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    world.account.make_lane(PEER).expect("a lane");
    let id = MailId([7; 16]);
    let (place, blob) = put(&world.account, id, 1);
    world.account.on_content(PEER, place, &blob);
    assert!(world.account.assembly.is_empty(), "it is done with");
    assert!(!world.account.settled.contains(&(PEER, id)));
}

#[test]
fn mail_that_its_sender_took_back_is_not_delivered() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    world.account.make_lane(PEER).expect("a lane");
    let (place, blob) = put(&world.account, MailId([7; 16]), u64::MAX);
    world.account.on_items(PEER, vec![Item::Cancel(MailId([7; 16]))], true);
    world.account.on_content(PEER, place, &blob);
    assert!(world.account.assembly.is_empty());
    let (place, blob) = put(&world.account, MailId([8; 16]), u64::MAX);
    world.account.on_content(PEER, place, &blob);
    assert_eq!(world.account.assembly.len(), 1, "another is");
}

#[test]
fn a_mail_that_is_deleted_is_removed_from_the_relays() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    let mail = world.enqueue(10);
    world.gather();
    // Stored at the relay, as the outbox has it.
    let now = world.account.now();
    let place = Place { relay: RELAY, class: Class::K16, number: 0 };
    world.account.outbox.handle(now, outbox::Input::LaneGone(PEER));
    let mut restarted = load(world.state.path(), &world.account.shared.store.clone());
    let deposit = crate::store::Deposit {
        peer: PEER,
        parcel: mail,
        part: 0,
        place,
        state: outbox::State::Stored { until: u64::MAX >> 1 },
    };
    world.account.shared.store.put_deposits("alice", vec![deposit]).expect("kept");
    assert!(restarted.parcels.contains_key(&(PEER, mail)));
    restarted = load(world.state.path(), &world.account.shared.store.clone());
    world.account.shared.store.delete(None, None).expect("deleted");
    restarted.find_finished(&world.reader).expect("found");
    let mut actions = Vec::new();
    restarted.outbox.poll(now, &mut actions);
    assert!(
        actions.iter().any(|action| matches!(action, outbox::Action::Visit { relay: RELAY, peer: PEER, .. })),
        "{actions:?}"
    );
    restarted.outbox.handle(now, outbox::Input::Session { relay: RELAY, peer: PEER, up: true });
    actions.clear();
    restarted.outbox.poll(now, &mut actions);
    assert!(actions.contains(&outbox::Action::Delete { peer: PEER, place }), "{actions:?}");
}

#[test]
fn receipts_are_late_by_what_the_sender_cannot_tell_and_off_where_that_is_wanted() {
    let wait = |secret: u8, mail: u8| {
        super::outgoing::wait_of(&MailSecret::new(&mut [secret; 32]), &MailId([mail; 16]), 3_600_000)
    };
    let waits: Vec<i64> = (0..=255).map(|mail| wait(5, mail)).collect();
    assert!(waits.iter().all(|wait| (0..=3_600_000).contains(wait)));
    assert!(!waits.is_sorted() && waits.iter().any(|wait| *wait > 3_000_000));
    assert!((0..=255).any(|mail| wait(5, mail) != wait(6, mail)), "it is the recipient's secret");

    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    let stored = |more: &str| {
        let store = world.account.shared.store.clone();
        let mut account = load_with(world.state.path(), &store, more);
        account.make_lane(PEER).expect("a lane");
        let id = MailId([9; 16]);
        let (place, blob) = put(&account, id, u64::MAX);
        account.on_content(PEER, place, &blob);
        account.on_answered(PEER, id, &[(0, Outcome::Stored { duplicate: false, relayed: false })]);
        let receipts = world.reader.receipts_of("alice", &PEER).expect("read");
        store.forget("alice", vec![(PEER, id)]);
        store.flush(Some("none".into()), None, None).expect("the store answers");
        receipts.iter().flat_map(|receipt| parcel::Parcel::items(&receipt.item)).collect::<Vec<_>>()
    };
    assert_eq!(stored("receipts = false\n"), []);
    let at = |items: &[Item]| match items {
        [Item::Receipt { at, .. }] => *at,
        other => panic!("{other:?}"),
    };
    assert_eq!(at(&stored("")) % 600, 0);
    assert_eq!(at(&stored("receipt_delay = \"5h\"\n")) % 18_000, 0);
}

#[test]
fn a_pre_key_is_renewed_after_a_week_and_destroyed_after_thirty_days() {
    let mut world = World::new();
    let offer = world.offer(1, 1, 100);
    world.offered(&offer);
    world.account.make_lane(PEER).expect("a lane");
    let (place, blob) = put(&world.account, MailId([7; 16]), u64::MAX);
    let aged = |world: &mut World, days: i64, seconds: i64| {
        let made = world.account.seconds() - days * 86_400 - seconds;
        let lane = world.account.offered.get_mut(&PEER).expect("offered");
        lane.pre_keys[0].2 = made;
        let (id, ref secret, _) = lane.pre_keys[0];
        let secret = crate::lane::keys::PreKeySecret::new(&mut secret.expose().to_owned());
        let store = &world.account.shared.store;
        store.destroy_pre_keys(i64::MAX);
        store.put_pre_key("alice", &crate::store::PreKey { peer: PEER, id, secret, made }, 0).expect("kept");
        world.account.renew_keys().expect("renewed");
        let lane = &world.account.offered[&PEER];
        (lane.pre_keys.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), lane.serial)
    };
    let (first, serial) = aged(&mut world, 6, 86_000);
    assert_eq!(first.len(), 1);
    let (second, newer) = aged(&mut world, 7, 0);
    assert!(second.len() == 2 && second[0] == first[0] && newer > serial, "and it is offered");
    let (third, _) = aged(&mut world, 30, 0);
    assert_eq!(third, second[1..]);
    world.account.shared.store.flush(Some("none".into()), None, None).expect("the store answers");
    let kept = world.reader.pre_keys("alice").expect("read");
    assert!(kept.iter().all(|key| key.id != first[0]));
    world.account.on_content(PEER, place, &blob);
    assert!(world.account.assembly.is_empty(), "what was sealed to it opens no more");
}

#[test]
fn a_pre_key_made_while_the_clock_was_ahead_is_renewed() {
    let mut world = World::new();
    world.account.make_lane(PEER).expect("a lane");
    let now = world.account.seconds();
    let ids = |world: &World| world.account.offered[&PEER].pre_keys.iter().map(|(id, ..)| *id).collect::<Vec<_>>();
    world.account.renew_keys().expect("renewed");
    assert_eq!(ids(&world).len(), 1, "it is new");
    world.account.offered.get_mut(&PEER).expect("offered").pre_keys[0].2 = now + 90 * 86_400;
    world.account.renew_keys().expect("renewed");
    assert_eq!(ids(&world).len(), 2);
    let made: Vec<i64> = world.account.offered[&PEER].pre_keys.iter().map(|(.., made)| *made).collect();
    assert!(made.iter().all(|made| *made <= world.account.seconds()), "both end in time: {made:?}");
}

#[test]
fn whoever_was_told_in_vain_is_not_told_again_by_the_same_invitation() {
    let world = World::new();
    let invitation = crate::lane::invite::Invitation {
        id: ToxId::new(PEER, [1; 4]),
        bits: 1,
        code: crate::lane::keys::InviteCode([3; 16]),
        key: MailSecret::new(&mut [5; 32]).public(),
        relays: vec![RelayRef { id: ToxId::new(PublicKey([9; 32]), [1; 4]), key: RELAY }],
    };
    let row = |days, day| crate::store::IntroducingRow {
        peer: PEER,
        invitation: invitation.to_string(),
        id: ToxId::new(world.account.own, [1; 4]),
        text: "hi".into(),
        days,
        day: Some(day),
    };
    let store = &world.account.shared.store;
    let told = |days, day| {
        store.put_introducing("alice", row(days, day)).expect("kept");
        load(world.state.path(), store).introductions.to.contains_key(&PEER)
    };
    let today = u64::try_from(world.account.seconds()).expect("after the epoch") / 86_400;
    assert!(told(14, today), "the last one has its day");
    assert!(told(13, today - 90));
    assert!(!told(14, today - 90));
}

#[test]
fn a_contact_that_is_owed_much_is_not_told_more_than_it_listens_to() {
    let mut world = World::new();
    let receipt = |number: u32| {
        let outcome = Outcome::Stored { duplicate: false, relayed: false };
        let item = Item::Receipt { id: MailId([7; 16]), digest: Digest([0; 32]), index: number, outcome, at: 0 };
        let item = parcel::Parcel::Control(vec![item]).head();
        crate::store::Receipt { peer: PEER, transfer: MailId([7; 16]), number, item, made: 5, parcel: None }
    };
    world.account.shared.store.put_receipts("alice", (0..3000).map(receipt).collect()).expect("kept");
    world.account.on_link(PEER, true);
    let said = world.account.said[&PEER];
    assert!((100..500).contains(&said), "many in each of {said} words");
    let cancels = |account: &mut Account| {
        for _ in 0..100_000 {
            account.say_items(PEER, vec![Item::Cancel(MailId([7; 16]))]);
        }
    };
    cancels(&mut world.account);
    assert!(!world.account.listens(&PEER) && world.account.said[&PEER] < crate::engine::link::MAX_WORDS);
    world.account.on_link(PEER, false);
    world.account.on_link(PEER, true);
    assert!(world.account.listens(&PEER), "it is another session");
}

#[test]
fn a_new_invite_is_taken_to_a_relay_that_has_not_let_us_in() {
    let mut world = World::new();
    let row = |invite: Option<u8>, added| RelayRow {
        key: RELAY,
        id: ToxId::new(PublicKey([9; 32]), [1; 4]).octets().to_vec(),
        invite: invite.map(|octet| [octet; 16]),
        offered_by: None,
        savedata: None,
        pseudonym: None,
        added,
        seen: None,
    };
    let mut owner = |row: RelayRow, up: bool| {
        if let Some(owner) = world.account.owners.get_mut(&RELAY) {
            owner.up = up;
        }
        world.account.shared.store.put_relay("alice", row).expect("kept");
        world.account.relays_changed();
        world.account.decide_relays(&world.reader).expect("decided");
        let owner = &world.account.owners[&RELAY];
        (owner.invite.map(|invite| invite[0]), owner.up)
    };
    assert_eq!(owner(row(None, 1), false), (None, false));
    assert_eq!(owner(row(Some(1), 1), false), (Some(1), false), "asked with it from now on");
    assert_eq!(owner(row(Some(2), 1), true), (Some(1), true), "he is in already");
    world.account.shared.store.remove_relay("alice", RELAY).expect("removed");
    world.account.shared.store.put_relay("alice", row(None, 2)).expect("kept");
    world.account.relays_changed();
    world.account.decide_relays(&world.reader).expect("decided");
    let owner = &world.account.owners[&RELAY];
    assert_eq!((owner.invite, owner.added, owner.up), (None, 2, false), "it is another beginning");
}
