//! The store as the agent uses it: real SQLite, a clock of the test's own.

mod relayed;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, Receiver};

use super::*;
use crate::engine::transfer::{MAX_RECIPIENTS, MailId, Outcome};
use crate::engine::trust::{self, Verdict};
use crate::identity::name::finding::{Finding, Found, Method, Proof, Via};
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::mail::envelope::{Notify, Return};
use crate::mail::status::Refusal;

const PEER: PublicKey = PublicKey([2; 32]);

struct World {
    state: tempfile::TempDir,
    now: Arc<AtomicI64>,
    store: Store,
    events: Receiver<Event>,
    names: u8,
    transfers: AtomicI64,
}

impl World {
    fn new() -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let now = Arc::new(AtomicI64::new(1_000_000));
        let clock = now.clone();
        let policy = Policy {
            now: Box::new(move || clock.load(Ordering::Relaxed)),
            retry_min: 60_000,
            retry_max: 3_600_000,
            delay_notice: 600_000,
            notice: Box::new(|report| {
                let action = match report.action {
                    Action::Failed => "",
                    Action::Delayed(_) => "delayed ",
                    Action::Delivered => "delivered ",
                    Action::Relayed => "relayed ",
                };
                let mut told = format!("{action}{}: {} {}", report.address, report.status, report.text).into_bytes();
                if let Some(mail) = report.mail {
                    told.extend_from_slice(&[b"\n", mail].concat());
                }
                Some(told)
            }),
        };
        let (sender, events) = mpsc::channel();
        let sink = move |event| sender.send(event).unwrap_or_default();
        let (store, _) = Store::open(state.path(), policy, sink).expect("a store");
        Self { state, now, store, events, names: 0, transfers: AtomicI64::new(1) }
    }

    fn transfer(&self) -> [u8; 16] {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.transfers.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        octets
    }

    fn reader(&self) -> Reader {
        Reader::open(self.state.path()).expect("a reader")
    }

    /// Queues a mail; the queue id for each recipient.
    fn enqueue(&mut self, mta_queue_id: Option<&str>, body: &[u8], recipients: &[&str]) -> Vec<String> {
        self.enqueue_with(mta_queue_id, body, recipients, |_| {})
    }

    /// The same with an envelope that `change` has changed.
    fn enqueue_with(
        &mut self,
        mta_queue_id: Option<&str>,
        body: &[u8],
        recipients: &[&str],
        change: impl FnOnce(&mut NewMail),
    ) -> Vec<String> {
        self.names += 1;
        let to = |address: &str| match address.ends_with("@tox.alt") {
            true => Destination::Peer { key: PEER, wire_address: address.to_owned() },
            false => Destination::Name(address.to_lowercase()),
        };
        let recipient = |address: &&str| NewRecipient {
            address: (*address).to_owned(),
            to: to(address),
            transfer: MailId(self.transfer()),
            notify: None,
            orcpt: None,
        };
        let mut mail = NewMail {
            queue_id: format!("Q{}", self.names),
            account: "alice".into(),
            mta_queue_id: mta_queue_id.map(str::to_owned),
            sender: "alice@example.org".into(),
            wire_sender: "alice@example.org".into(),
            head: b"Subject: x\n".to_vec(),
            lifetime: 10_000_000,
            smtputf8: false,
            ret: None,
            envid: None,
            recipients: recipients.iter().map(recipient).collect(),
        };
        change(&mut mail);
        let mut writer = BodyWriter::new(self.state.path(), &mail.queue_id);
        writer.write(body).expect("written");
        let (sender, receiver) = mpsc::channel();
        let done = move |result| sender.send(result).expect("somebody waits");
        self.store.enqueue(mail, writer.finish().expect("finished"), done);
        receiver.recv().expect("an answer").expect("queued")
    }

    fn work(&self) -> Work {
        loop {
            match self.events.recv().expect("an event") {
                Event::Work(work) => return work,
                Event::Names | Event::Ask(..) | Event::Notice(..) => {}
                other => panic!("{other:?} instead of work"),
            }
        }
    }

    /// Waits until the jobs so far are done, and tells what they brought.
    fn settled(&self) -> Vec<Event> {
        // Events come after the answers of their own batch, and before those of the next.
        for _ in 0..2 {
            self.store.flush(Some("none".into()), None, None).expect("the store answers");
        }
        self.events.try_iter().collect()
    }
}

#[test]
fn the_same_mail_again_and_a_recipient_named_twice_are_queued_once() {
    let mut world = World::new();
    assert_eq!(world.enqueue(Some("M"), b"body", &["bob@tox.alt", "bob@tox.alt", "eve@tox.alt"]), ["Q1", "Q1", "Q1"]);
    assert_eq!(world.enqueue(Some("M"), b"body", &["bob@tox.alt"]), ["Q1"], "handed over again");
    assert_eq!(world.enqueue(Some("M"), b"body", &["carol@tox.alt"]), ["Q1"], "another recipient of the same mail");
    assert_eq!(world.enqueue(Some("M"), b"other", &["bob@tox.alt"]), ["Q4"], "another mail");
    assert_eq!(world.enqueue(None, b"body", &["bob@tox.alt", "bob@tox.alt"]), ["Q5", "Q5"]);
    let summary = world.reader().queue_summary(None).expect("a summary");
    assert_eq!((summary.mails, summary.recipients), (3, 5));
    world.store.link_up("alice", PEER, 1, 10, 10);
    let transfers = world.work().transfers;
    assert_eq!(transfers.iter().map(|t| t.recipients.len()).collect::<Vec<_>>(), [3, 1, 1], "one transfer each");
}

#[test]
fn no_transfer_has_more_recipients_than_a_peer_takes() {
    let mut world = World::new();
    for number in 0..MAX_RECIPIENTS + 20 {
        world.enqueue(Some("M"), b"body", &[&format!("user{number}@tox.alt")]);
    }
    world.store.link_up("alice", PEER, 1, 10, 10);
    let mut counts: Vec<_> = world.work().transfers.iter().map(|t| t.recipients.len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [20, MAX_RECIPIENTS as usize]);
}

#[test]
fn outcomes_end_defer_or_bounce_and_a_link_brings_back_what_waits() {
    let mut world = World::new();
    for body in [b"1", b"2", b"3"] {
        world.enqueue(None, body, &["bob@tox.alt"]);
    }
    world.store.link_up("alice", PEER, 7, 2, 2);
    let work = world.work();
    assert_eq!((work.epoch, work.transfers.len()), (7, 2), "as many as were wanted");
    let (first, second) = (work.transfers[0].id, work.transfers[1].id);
    world.store.outcome(PEER, first, 0, Outcome::Stored { duplicate: false, relayed: false });
    world.store.outcome(PEER, second, 0, Outcome::Refused(Refusal::temporary(3, 1, "disk full")));
    world.store.outcome(PEER, first, 0, Outcome::Refused(Refusal::permanent(1, 1, "late and void")));
    let recorded = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Recorded(_))).count();
    assert_eq!(recorded(&world.settled()), 1);
    world.store.grant("alice", PEER, 2, 0);
    let third = world.work();
    assert_eq!(third.transfers.len(), 1, "what was deferred is not due");
    world.store.link_down("alice", PEER);
    world.store.link_up("alice", PEER, 8, 9, 9);
    let again = world.work();
    assert_eq!((again.epoch, again.transfers.len()), (8, 2), "a new link brings all of it back");
    world.store.outcome(PEER, second, 0, Outcome::Refused(Refusal::permanent(1, 1, "nobody")));
    let notice = world.settled().into_iter().find_map(|event| match event {
        Event::Notice(account, row) => Some((account, row)),
        _ => None,
    });
    let (account, row) = notice.expect("a notice");
    let notice = world.reader().notice(row).expect("read").expect("there");
    assert_eq!((account.as_str(), &notice.content[..]), ("alice", &b"bob@tox.alt: 5.1.1 nobody\n2"[..]));
    world.store.notice_delivered(row);
    world.settled();
    assert!(world.reader().notices().expect("read").is_empty());
    assert_eq!(world.store.counts(), Counts { sent: 1, deferred: 1, bounced: 1, received: 0 });
}

#[test]
fn what_waits_too_long_expires_and_its_body_goes() {
    let mut world = World::new();
    world.enqueue(None, &noise(), &["bob@tox.alt"]);
    let bodies = || std::fs::read_dir(world.state.path().join("bodies")).expect("list").count();
    assert_eq!(bodies(), 1);
    world.now.fetch_add(10_000_001, Ordering::Relaxed);
    assert!(world.settled().iter().any(|event| matches!(event, Event::Notice(..))));
    assert_eq!(world.reader().queue_summary(None).expect("a summary"), QueueSummary::default());
    assert_eq!(bodies(), 0);
}

#[test]
fn a_received_mail_is_recorded_once_until_it_is_taken_back() {
    let world = World::new();
    let received = Received {
        account: "alice".into(),
        peer: PEER,
        transfer: MailId([1; 16]),
        mailbox: "alice".into(),
        maildir: "/nowhere".into(),
        file: "1.x".into(),
    };
    let record = || {
        let (sender, receiver) = mpsc::channel();
        world.store.record_received(vec![received.clone()], 0, move |new| sender.send(new).expect("somebody waits"));
        receiver.recv().expect("an answer").expect("recorded")
    };
    let known = || world.reader().received("alice", &PEER, &MailId([1; 16]), "alice").expect("read");
    assert_eq!((known(), record(), known()), (None, vec![true], Some(false)));
    assert_eq!(record(), [false]);
    world.store.forget_unpublished(received.clone()).expect("taken back");
    assert_eq!((known(), record()), (None, vec![true]));
    world.store.published(vec![received.clone()]);
    world.store.forget_unpublished(received.clone()).expect("no effect");
    world.store.handed_over(received.clone()).expect("no effect");
    assert_eq!((known(), world.store.counts().received), (Some(true), 1));
    assert!(world.reader().unpublished().expect("read").is_empty());
}

/// What a look-up of `name` found, carried out with the default policy.
fn settle(world: &World, name: &str, finding: Finding) -> Verdict {
    world.store.settle(settled(name), finding, trust::Policy::default()).expect("the store answers")
}

fn settled(name: &str) -> Settled {
    let address = name.parse().expect("an address");
    Settled {
        account: "alice".into(),
        address,
        message: "hi".into(),
        now_s: 1000,
        refresh: 86_400_000,
        own: ToxId::new(PublicKey([9; 32]), [0; 4]),
        invitation: None,
    }
}

fn found(key: u8, nospam: u8, proof: Proof, via: Via) -> Found {
    Found { id: ToxId::new(PublicKey([key; 32]), [nospam; 4]), via, method: Method::Tox1, proof }
}

fn secure(key: u8) -> Finding {
    Finding::Found(found(key, 1, Proof::Secure, Via::Name))
}

/// State and wire address of each waiting recipient.
fn waiting(world: &World) -> Vec<(Option<u8>, Option<String>)> {
    let lines = world.reader().queue(None, "", 100).expect("a list");
    lines.into_iter().map(|line| (line.peer.map(|peer| peer.0[0]), line.failure.map(|(status, _)| status))).collect()
}

#[test]
fn senders_are_told_what_they_asked_for_and_get_back_no_more() {
    let notify = |success, failure| Some(Notify { success, failure, ..Notify::default() });
    let text = "a line that zstd makes shorter\n".repeat(1000);
    let long = "x".repeat(crate::mail::notice::MAX_RETURNED as usize + 1);
    let gone = || Outcome::Refused(Refusal::permanent(1, 1, "nobody"));
    let stored = |relayed| Outcome::Stored { duplicate: false, relayed };
    let failed = "bob@tox.alt: 5.1.1 nobody";
    let delivered = "delivered bob@tox.alt: 2.0.0 stored in the recipient's mailbox";
    for (wish, ret, body, outcome, expected) in [
        (None, None, &*text, gone(), Some(format!("{failed}\n{text}"))),
        (None, Some(Return::Full), &*text, gone(), Some(format!("{failed}\n{text}"))),
        (None, Some(Return::Headers), &*text, gone(), Some(failed.to_owned())),
        (None, Some(Return::Full), &*long, gone(), Some(failed.to_owned())),
        (notify(true, false), None, &*text, gone(), None),
        (None, None, &*text, stored(false), None),
        (notify(false, true), None, &*text, stored(false), None),
        (notify(true, false), Some(Return::Full), &*text, stored(false), Some(delivered.to_owned())),
        (notify(true, false), None, &*text, stored(true), Some("relayed".to_owned())),
    ] {
        let mut world = World::new();
        world.enqueue_with(None, body.as_bytes(), &["bob@tox.alt"], |mail| {
            mail.ret = ret;
            mail.recipients[0].notify = wish;
        });
        world.store.link_up("alice", PEER, 1, 9, 9);
        world.store.outcome(PEER, world.work().transfers[0].id, 0, outcome);
        let told = notices(&world);
        match expected {
            Some(expected) if expected == "relayed" => assert!(told[0].starts_with("relayed "), "{told:?}"),
            expected => assert_eq!(told, Vec::from_iter(expected)),
        }
    }
    // Of what is a notice itself there is none.
    let mut world = World::new();
    world.enqueue_with(None, b"x", &["bob@tox.alt"], |mail| {
        mail.sender.clear();
        mail.recipients[0].notify = notify(true, true);
    });
    world.store.link_up("alice", PEER, 1, 9, 9);
    world.store.outcome(PEER, world.work().transfers[0].id, 0, gone());
    assert_eq!(notices(&world).len(), 0);
}

fn notices(world: &World) -> Vec<String> {
    world.settled();
    let reader = world.reader();
    let rows = reader.notices().expect("read").into_iter();
    rows.map(|(row, _)| String::from_utf8(reader.notice(row).expect("read").expect("there").content).expect("text"))
        .collect()
}

#[test]
fn mail_to_a_new_name_waits_for_the_look_up_and_goes_to_the_contact_it_makes() {
    let mut world = World::new();
    world.enqueue(Some("M"), b"body", &["Bob@example.org", "bob@Example.org", "carol@example.net"]);
    let asks = |events: Vec<Event>| events.into_iter().filter(|event| matches!(event, Event::Names)).count();
    assert_eq!(asks(world.settled()), 2, "one for each name");
    assert_eq!(world.reader().due_names(i64::MAX - 1, i64::MAX).expect("read").len(), 2);
    assert_eq!(
        waiting(&world),
        [(None, Some("4.4.3".into())), (None, Some("4.4.3".into())), (None, Some("4.4.3".into()))]
    );

    world.store.link_up("alice", PEER, 1, 10, 10);
    assert!(matches!(settle(&world, "bob@example.org", secure(2)), Verdict::Pin(_)));
    let events = world.settled();
    let Some(Event::Ask(account, id, message)) = events.iter().find(|event| matches!(event, Event::Ask(..))) else {
        panic!("no friend request in {events:?}")
    };
    assert_eq!((account.as_str(), id.key(), message.as_str()), ("alice", PEER, "hi"));
    let Some(Event::Work(work)) = events.iter().find(|event| matches!(event, Event::Work(_))) else {
        panic!("no work in {events:?}")
    };
    let addresses: Vec<_> = work.transfers.iter().map(|t| t.recipients.iter().map(|r| r.address.clone())).collect();
    let addresses: Vec<Vec<String>> = addresses.into_iter().map(Iterator::collect).collect();
    assert_eq!(addresses, [["Bob@example.org", "bob@Example.org"]], "one transfer for both");
    let contacts = world.reader().contacts(Some("alice")).expect("read");
    assert_eq!(contacts.iter().map(|contact| (contact.key, contact.accepted)).collect::<Vec<_>>(), [(PEER, false)]);

    // From now on without a look-up.
    world.enqueue(None, b"more", &["bob@example.org"]);
    let work = world.settled().into_iter().find_map(|event| match event {
        Event::Work(work) => Some(work.transfers.len()),
        _ => None,
    });
    assert_eq!(work, Some(1));
    assert_eq!(world.reader().addresses_of("alice", &PEER).expect("read"), ["bob@example.org".parse().expect("one")]);
}

#[test]
fn the_record_of_a_domain_sends_the_name_of_the_mailbox_along() {
    let mut world = World::new();
    world.enqueue(None, b"body", &["Carol@example.org"]);
    world.store.link_up("alice", PEER, 1, 10, 10);
    settle(&world, "carol@example.org", Finding::Found(found(2, 1, Proof::Secure, Via::Domain)));
    let address = world.work().transfers[0].recipients[0].address.clone();
    assert_eq!(address, format!("Carol@{}.tox.alt", PEER.base32()));
}

#[test]
fn an_unsigned_name_waits_for_the_operator_and_absent_ones_bounce_once_it_is_sure() {
    let mut world = World::new();
    let id = found(2, 1, Proof::Insecure, Via::Name);
    world.enqueue(None, b"body", &["bob@plain.test"]);
    assert!(matches!(settle(&world, "bob@plain.test", Finding::Found(id)), Verdict::Ask(..)));
    let name = world.reader().name("alice", "bob@plain.test").expect("read").expect("there");
    assert_eq!((name.pin, name.offer.map(|offer| offer.found), name.waiting), (None, Some(id), None));
    assert_eq!(waiting(&world), [(None, Some("4.7.1".into()))]);
    assert!(world.reader().contacts(None).expect("read").is_empty(), "no contact before the operator says so");
    assert_eq!(
        world.store.confirm(settled("bob@plain.test"), id, Because::Operator).expect("the store answers"),
        Accepted::Pinned
    );
    assert_eq!(waiting(&world), [(Some(2), None)]);

    world.enqueue(None, b"body", &["nobody@plain.test", "none@signed.test"]);
    let nothing = |proved| Finding::Nothing { proved, text: "no such name".into() };
    assert!(matches!(settle(&world, "none@signed.test", nothing(true)), Verdict::Refuse(_)));
    for _ in 1..trust::DENIALS {
        assert!(matches!(settle(&world, "nobody@plain.test", nothing(false)), Verdict::Denied(_)));
    }
    assert!(matches!(settle(&world, "nobody@plain.test", Finding::Failed("SERVFAIL".into())), Verdict::Wait(_)));
    for _ in 1..trust::DENIALS {
        assert!(matches!(settle(&world, "nobody@plain.test", nothing(false)), Verdict::Denied(_)), "in a row");
    }
    assert_eq!(notices(&world), ["none@signed.test: 5.1.1 no such name\nbody"]);
    assert!(matches!(settle(&world, "nobody@plain.test", nothing(false)), Verdict::Refuse(_)));
    assert_eq!(notices(&world).len(), 2);
    assert_eq!(world.reader().names(None).expect("read").len(), 1, "what bounced is forgotten");
}

#[test]
fn a_changed_key_holds_all_mail_until_it_is_accepted() {
    let mut world = World::new();
    world.enqueue(None, b"first", &["bob@example.org"]);
    settle(&world, "bob@example.org", secure(2));
    world.store.rename_contact("alice", PEER, Some("bob".into())).expect("the store answers");
    // Handed to a link, and not answered when the key changes.
    world.store.link_up("alice", PEER, 1, 1, 0);
    let sending = world.settled();
    assert!(sending.iter().any(|event| matches!(event, Event::Work(_))), "{sending:?}");
    world.enqueue(None, b"second", &["bob@example.org"]);

    for _ in 0..2 {
        let verdict = settle(&world, "bob@example.org", secure(3));
        assert!(matches!(verdict, Verdict::Changed(..)), "{verdict:?}");
    }
    world.enqueue(None, b"third", &["bob@example.org"]);
    assert_eq!(waiting(&world), [(Some(2), None), (None, Some("4.7.1".into())), (None, Some("4.7.1".into()))]);
    // The link ends: what it had is not sent to the old key again, by whatever way.
    world.store.link_down("alice", PEER);
    world.settled();
    assert!(waiting(&world).iter().all(|(peer, _)| peer.is_none()));
    world.store.link_up("alice", PEER, 2, 10, 10);
    assert!(!world.settled().iter().any(|event| matches!(event, Event::Work(_))));
    assert_eq!(waiting(&world).iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [None, None, None]);
    let told = notices(&world);
    assert_eq!(told.len(), 3, "one for each mail: {told:?}");
    assert!(told.iter().all(|text| text.starts_with("delayed bob@example.org: 4.7.1 the key")), "{told:?}");
    // No failure and no confirmation of the unconfirmed changes that, and neither does the operator's adding it.
    settle(&world, "bob@example.org", Finding::Failed("SERVFAIL".into()));
    settle(&world, "bob@example.org", Finding::Nothing { proved: true, text: "gone".into() });
    let added =
        world.store.confirm(settled("bob@example.org"), found(3, 1, Proof::Secure, Via::Name), Because::Operator);
    assert_eq!(added.expect("the store answers"), Accepted::OtherKey(PEER));
    assert_eq!(waiting(&world).iter().filter(|(peer, _)| peer.is_some()).count(), 0);
    assert!(world.reader().addresses_of("alice", &PEER).expect("read").is_empty(), "whose it is, is open");

    assert_eq!(world.store.accept_key(settled("bob@example.org"), None).expect("the store answers"), Accepted::Pinned);
    assert_eq!(waiting(&world).iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [Some(3), Some(3), Some(3)]);
    assert_eq!(world.store.accept_key(settled("bob@example.org"), None).expect("the store answers"), Accepted::NoOffer);
    let contacts = world.reader().contacts(Some("alice")).expect("read");
    let nick = |key: u8| contacts.iter().find(|contact| contact.key.0[0] == key).map(|contact| contact.nick.as_deref());
    assert_eq!((nick(2), nick(3)), (Some(None), Some(Some("bob"))), "the nickname follows the name");
}

#[test]
fn a_changed_key_holds_what_is_released_and_what_was_being_sent_at_the_end() {
    let mut world = World::new();
    world.enqueue(None, b"body", &["bob@example.org"]);
    settle(&world, "bob@example.org", secure(2));
    world.store.hold(None, None).expect("held");
    settle(&world, "bob@example.org", secure(3));
    assert_eq!(waiting(&world), [(Some(2), None)], "on hold, as it was");
    world.store.release(None, None, 10_000_000).expect("released");
    assert_eq!(waiting(&world), [(None, Some("4.7.1".into()))]);

    settle(&world, "bob@example.org", secure(2));
    world.store.link_up("alice", PEER, 1, 10, 10);
    assert_eq!(world.work().transfers.len(), 1);
    settle(&world, "bob@example.org", secure(3));
    assert_eq!(waiting(&world), [(Some(2), None)], "on its way");
    world.store.stop();
    let policy = Policy {
        now: Box::new(|| 2_000_000),
        retry_min: 60_000,
        retry_max: 3_600_000,
        delay_notice: 600_000,
        notice: Box::new(|_| None),
    };
    let (store, _) = Store::open(world.state.path(), policy, |_| ()).expect("a store");
    store.flush(Some("none".into()), None, None).expect("the store answers");
    assert_eq!(waiting(&world), [(None, Some("4.7.1".into()))], "the agent began anew");
}

#[test]
fn what_was_on_its_way_to_the_old_key_goes_to_the_accepted_one() {
    let mut world = World::new();
    world.enqueue(None, b"body", &["bob@example.org"]);
    settle(&world, "bob@example.org", secure(2));
    world.store.link_up("alice", PEER, 1, 10, 10);
    world.work();
    settle(&world, "bob@example.org", secure(3));
    world.store.accept_key(settled("bob@example.org"), None).expect("the store answers");
    world.store.link_down("alice", PEER);
    world.store.link_up("alice", PEER, 2, 10, 10);
    assert!(!world.settled().iter().any(|event| matches!(event, Event::Work(_))), "not to the old key");
    world.store.link_up("alice", PublicKey([3; 32]), 1, 10, 10);
    assert_eq!(world.work().transfers.len(), 1);
}

#[test]
fn what_was_offered_before_keeps_its_mail_id_when_it_comes_back_to_its_peer() {
    let mut world = World::new();
    world.enqueue(None, b"body", &["bob@example.org"]);
    settle(&world, "bob@example.org", secure(2));
    world.store.link_up("alice", PEER, 1, 10, 10);
    let first = world.work().transfers[0].id;
    world.store.link_down("alice", PEER);
    settle(&world, "bob@example.org", secure(3));
    settle(&world, "bob@example.org", secure(2));
    world.store.link_up("alice", PEER, 2, 10, 10);
    assert_eq!(world.work().transfers[0].id, first, "by which the peer knows what it has stored");
}

#[test]
fn held_mail_of_a_contact_that_is_removed_waits_for_the_operator() {
    let mut world = World::new();
    world.enqueue(None, b"body", &["bob@example.org"]);
    settle(&world, "bob@example.org", secure(2));
    settle(&world, "bob@example.org", secure(3));
    assert!(world.store.remove_contact("alice", PEER).expect("the store answers"));
    settle(&world, "bob@example.org", secure(3));
    let line = world.reader().queue(None, "", 1).expect("a list").remove(0);
    assert_eq!(
        line.failure.map(|(_, text)| text),
        Some("its contact was removed: toxctl contact add bob@example.org".into())
    );
    // Nor does new mail bring it to whatever the DNS says meanwhile.
    world.enqueue(None, b"more", &["bob@example.org"]);
    assert!(matches!(settle(&world, "bob@example.org", secure(3)), Verdict::Ask(..)));
    assert_eq!(waiting(&world), [(None, Some("4.7.1".into())), (None, Some("4.7.1".into()))]);
    // Nor does mail from there that proves to be of that name.
    let confirm = |why| {
        let found = found(3, 1, Proof::Secure, Via::Name);
        world.store.confirm(settled("bob@example.org"), found, why)
    };
    assert_eq!(confirm(Because::Proof), Ok(Accepted::NoOffer));
    assert_eq!(confirm(Because::Accepted), Ok(Accepted::NoOffer), "nobody is a contact again by his own request");
    let added = confirm(Because::Operator);
    assert_eq!((added.expect("the store answers"), waiting(&world)), (Accepted::Pinned, vec![(Some(3), None); 2]));
}

#[test]
fn a_held_recipient_leaves_the_transfer_it_shared() {
    let mut world = World::new();
    world.enqueue(None, b"x", &["bob@example.org"]);
    settle(&world, "bob@example.org", secure(2));
    world.enqueue(None, b"body", &["bob@example.org", "bob@tox.alt"]);
    settle(&world, "bob@example.org", secure(3));
    world.store.link_up("alice", PEER, 1, 10, 10);
    let work = world.work();
    let recipients: Vec<_> = work.transfers.iter().flat_map(|t| &t.recipients).map(|r| r.address.as_str()).collect();
    assert_eq!(recipients, ["bob@tox.alt"], "the old key gets what is its own");
    world.store.outcome(PEER, work.transfers[0].id, 1, Outcome::Stored { duplicate: false, relayed: false });
    assert!(world.settled().iter().any(|event| matches!(event, Event::Recorded(_))), "and that transfer has its end");
}

#[test]
fn a_change_that_is_taken_back_releases_the_mail_and_a_new_nospam_is_taken() {
    let mut world = World::new();
    world.enqueue(None, b"first", &["bob@example.org"]);
    settle(&world, "bob@example.org", secure(2));
    settle(&world, "bob@example.org", secure(3));
    assert_eq!(waiting(&world), [(None, Some("4.7.1".into()))]);
    world.settled();
    let verdict = settle(&world, "bob@example.org", Finding::Found(found(2, 9, Proof::Secure, Via::Name)));
    assert!(matches!(verdict, Verdict::Same(_)), "{verdict:?}");
    assert_eq!(waiting(&world), [(Some(2), None)]);
    let asked = world.settled().into_iter().find_map(|event| match event {
        Event::Ask(_, id, _) => Some(id),
        _ => None,
    });
    assert_eq!(asked, Some(ToxId::new(PEER, [9; 4])), "friendship is asked with the new nospam");
}

#[test]
fn a_blocked_key_gets_nothing_by_its_name() {
    let mut world = World::new();
    world.store.block("alice", PEER, 1).expect("the store answers");
    world.enqueue(None, b"body", &["bob@example.org"]);
    assert!(matches!(settle(&world, "bob@example.org", secure(2)), Verdict::Refuse(_)));
    assert_eq!(notices(&world).len(), 1);
    assert!(world.store.unblock("alice", PEER).expect("the store answers"));
    world.enqueue(None, b"body", &["bob@example.org"]);
    assert!(matches!(settle(&world, "bob@example.org", secure(2)), Verdict::Pin(_)));
    // What waits when a contact is blocked waits on, until it is unblocked.
    world.store.block("alice", PEER, 1).expect("the store answers");
    world.enqueue(None, b"more", &["bob@example.org"]);
    assert_eq!(waiting(&world)[1], (None, Some("4.7.1".into())));
    // A new nospam does not bring him back.
    world.settled();
    settle(&world, "bob@example.org", Finding::Found(found(2, 9, Proof::Secure, Via::Name)));
    assert!(!world.settled().iter().any(|event| matches!(event, Event::Ask(..))));
    assert_eq!(waiting(&world)[1], (None, Some("4.7.1".into())));
    world.store.unblock("alice", PEER).expect("the store answers");
    assert_eq!(waiting(&world)[1], (Some(2), None), "also while the DNS does not answer");
}

#[test]
fn senders_are_told_once_that_their_mail_waits() {
    let mut world = World::new();
    world.enqueue(None, b"first", &["bob@tox.alt"]);
    world.now.fetch_add(300_000, Ordering::Relaxed);
    world.enqueue(None, b"second", &["bob@tox.alt", "carol@example.org"]);
    assert!(notices(&world).is_empty());
    world.now.fetch_add(300_000, Ordering::Relaxed);
    assert_eq!(notices(&world).len(), 1);
    world.now.fetch_add(300_000, Ordering::Relaxed);
    let told = notices(&world);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("delayed bob@tox.alt: 4.4.1"), "{told:?}");
    assert!(told[2].starts_with("delayed carol@example.org: 4.4.3 carol@example.org is being looked up"), "{told:?}");
    world.now.fetch_add(3_000_000, Ordering::Relaxed);
    assert_eq!(notices(&world).len(), 3, "once");
}

#[test]
fn mail_of_a_clock_that_was_ahead_keeps_no_other_sender_from_being_told() {
    let mut world = World::new();
    world.now.store(9_000_000_000, Ordering::Relaxed);
    for _ in 0..150 {
        world.enqueue(None, b"future", &["bob@tox.alt"]);
    }
    world.now.store(1_000_000, Ordering::Relaxed);
    world.enqueue(None, b"now", &["bob@tox.alt"]);
    world.now.fetch_add(600_000, Ordering::Relaxed);
    assert_eq!(notices(&world).len(), 1);
}

#[test]
fn another_claim_of_a_stranger_is_looked_at_anew() {
    let world = World::new();
    let put = |claim: Option<&str>| {
        let request = Request {
            account: "alice".into(),
            key: PEER,
            message: "hi".into(),
            received: 10,
            answer: Answer::Open,
            claim: claim.map(str::to_owned),
            verified: None,
        };
        let (sender, receiver) = mpsc::channel();
        world.store.put_request(request, move |new| sender.send(new).expect("somebody waits"));
        receiver.recv().expect("an answer")
    };
    let shown = || {
        let request = world.reader().request("alice", &PEER).expect("read").expect("there");
        (request.claim, request.verified)
    };
    assert_eq!(put(None), Some(true));
    world.store.request_verified("alice", PEER, false);
    assert_eq!(put(None), Some(false));
    assert_eq!(shown(), (None, Some(false)));
    assert_eq!(put(Some("bob@example.org")), Some(false));
    assert_eq!(shown(), (Some("bob@example.org".into()), None));
    world.store.request_verified("alice", PEER, true);
    assert_eq!(put(Some("bob@example.org")), Some(false));
    assert_eq!(shown(), (Some("bob@example.org".into()), Some(true)));
}

#[test]
fn strangers_cannot_push_each_other_off_and_refusals_are_remembered() {
    let world = World::new();
    let request = |key: u8, number: u16, received: i64| {
        let mut octets = [key; 32];
        octets[..2].copy_from_slice(&number.to_be_bytes());
        let (account, message) = ("alice".to_owned(), "hi".to_owned());
        Request {
            account,
            key: PublicKey(octets),
            message,
            received,
            answer: Answer::Open,
            claim: None,
            verified: None,
        }
    };
    let put = |request: Request| {
        let (sender, receiver) = mpsc::channel();
        world.store.put_request(request, move |new| sender.send(new).expect("somebody waits"));
        receiver.recv().expect("an answer")
    };
    let genuine = request(1, 1, 10);
    assert_eq!(put(genuine.clone()), Some(true));
    assert_eq!(put(genuine.clone()), Some(false), "known already");
    let flood = (0..500).filter(|number| put(request(9, *number, 20)).is_some()).count();
    assert_eq!(flood, 99);
    let open = || world.reader().requests(Some("alice")).expect("read");
    assert!(open().iter().any(|request| request.key == genuine.key), "the genuine one is still there");
    let refused = world.store.refuse_request("alice", request(9, 3, 0).key, true, 20).expect("the store answers");
    assert_eq!(refused, Some(Answer::Refused), "who makes no claim may be a person's chat program: it is not told");
    assert_eq!(put(request(9, 3, 30)), None, "refused for good");
    assert!(open().iter().any(|other| other.key == request(9, 3, 0).key && other.answer == Answer::Refused));
    world.store.block("alice", genuine.key, 1).expect("the store answers");
    assert!(put(genuine.clone()).is_none() && !open().iter().any(|request| request.key == genuine.key), "blocked");
    // Nobody waits for an answer for ever: what is old makes room.
    assert_eq!(put(request(1, 2, 100 * 86_400)), Some(true));
}

#[test]
fn a_refused_agent_is_told_once_and_again_when_it_asks_again() {
    let world = World::new();
    let request = |key: u8| Request {
        account: "alice".into(),
        key: PublicKey([key; 32]),
        message: "hi".into(),
        received: 10,
        answer: Answer::Open,
        claim: Some("bob@example.org".into()),
        verified: None,
    };
    for key in 1..=3 {
        let (sender, receiver) = mpsc::channel();
        world.store.put_request(request(key), move |new| sender.send(new).expect("somebody waits"));
        assert_eq!(receiver.recv().expect("an answer"), Some(true));
    }
    let refuse =
        |key: u8, tell| world.store.refuse_request("alice", PublicKey([key; 32]), tell, 1000).expect("an answer");
    assert_eq!(refuse(1, true), Some(Answer::Declining));
    assert_eq!(refuse(2, true), Some(Answer::Declining));
    assert_eq!(refuse(3, false), Some(Answer::Refused));
    assert_eq!(refuse(4, true), None, "nobody asked");
    let declining = |since| world.reader().declining("alice", since).expect("read");
    assert_eq!(declining(0).len(), 2);
    assert_eq!(declining(1000), [], "not for ever");
    world.store.declined("alice", PublicKey([1; 32]), true, 1001, || {});
    world.store.declined("alice", PublicKey([3; 32]), false, 1001, || {});
    world.settled();
    assert_eq!(declining(0), [PublicKey([2; 32])], "who was refused silently is never told");
    world.store.declined("alice", PublicKey([1; 32]), false, 2000, || {});
    world.settled();
    assert_eq!(declining(1500), [PublicKey([1; 32])]);
    // Each is a friend in toxcore's eyes: not many at a time, and the last ones first.
    for key in 10..60 {
        let (sender, receiver) = mpsc::channel();
        world.store.put_request(request(key), move |new| sender.send(new).expect("somebody waits"));
        assert_eq!(receiver.recv().expect("an answer"), Some(true));
        let seconds = 3000 + i64::from(key);
        world.store.refuse_request("alice", PublicKey([key; 32]), true, seconds).expect("an answer");
    }
    let now = declining(0);
    assert_eq!((now.len(), now[0]), (32, PublicKey([59; 32])));
}

#[test]
fn mail_for_a_contact_that_declines_bounces_and_it_is_no_contact_any_more() {
    let mut world = World::new();
    let contact = |key, nick: &str| Contact {
        account: "alice".into(),
        key,
        nick: Some(nick.into()),
        tox_id: None,
        message: None,
        accepted: false,
        added: 1,
        last_seen: None,
        relays: 0,
    };
    let other = PublicKey([8; 32]);
    for (key, nick) in [(PEER, "bob"), (other, "carol")] {
        assert!(world.store.put_contact(contact(key, nick)).expect("the store answers"));
    }
    for body in [b"1", b"2"] {
        world.enqueue(None, body, &["bob@tox.alt"]);
    }
    let decline = |world: &World| {
        let (sender, receiver) = mpsc::channel();
        let refusal = Refusal::permanent(7, 1, "the recipient does not want to exchange mail with you");
        world.store.contact_declined("alice", PEER, refusal, move || sender.send(()).expect("somebody waits"));
        receiver.recv().expect("recorded");
    };
    decline(&world);
    let told = notices(&world);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("bob@tox.alt: 5.7.1"), "{told:?}");
    let reader = world.reader();
    assert_eq!(reader.queue_summary(None).expect("a summary").mails, 0);
    let left: Vec<_> = reader.contacts(None).expect("read").into_iter().map(|contact| contact.key).collect();
    assert_eq!(left, [other]);
    decline(&world);
    assert_eq!(notices(&world).len(), 2, "said again it changes nothing");
}

#[test]
fn tables_of_version_1_are_brought_up_to_date_with_what_they_hold() {
    let state = tempfile::tempdir().expect("a folder");
    let old = rusqlite::Connection::open(state.path().join("queue.sqlite")).expect("a database");
    old.execute_batch(include_str!("../../tests/data/queue-1.sql")).expect("the tables of version 1");
    drop(old);
    let policy = Policy {
        now: Box::new(|| 2_000),
        retry_min: 60_000,
        retry_max: 3_600_000,
        delay_notice: 0,
        notice: Box::new(|_| None),
    };
    let (store, thread) = Store::open(state.path(), policy, |_| {}).expect("a store");
    let reader = Reader::open(state.path()).expect("a reader");
    let queue = reader.queue(None, "", 10).expect("a list");
    assert_eq!(queue.len(), 1);
    assert_eq!((queue[0].address.as_str(), queue[0].peer, queue[0].attempts), ("bob@tox.alt", Some(PEER), 3));
    assert_eq!(reader.contacts(None).expect("read")[0].nick.as_deref(), Some("bob"));
    let requests = reader.requests(None).expect("read");
    assert_eq!((requests[0].message.as_str(), requests[0].claim.as_deref()), ("hello", None));
    store.stop();
    thread.join().expect("stopped");
    let policy = Policy {
        now: Box::new(|| 2_000),
        retry_min: 60_000,
        retry_max: 3_600_000,
        delay_notice: 0,
        notice: Box::new(|_| None),
    };
    Store::open(state.path(), policy, |_| {}).expect("again, as it is now");
}

/// A body that does not compress, and so has a file.
fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(200_000).collect()
}

#[test]
fn tables_of_version_2_are_brought_up_to_date_with_what_they_hold() {
    let state = tempfile::tempdir().expect("a folder");
    let old = rusqlite::Connection::open(state.path().join("queue.sqlite")).expect("a database");
    old.execute_batch(include_str!("../../tests/data/queue-2.sql")).expect("the tables of version 2");
    drop(old);
    drop(schema::open(state.path()).expect("brought up to date"));
    let reader = Reader::open(state.path()).expect("a reader");
    let queue = reader.queue(None, "", 10).expect("a list");
    let shown: Vec<_> = queue.iter().map(|line| (line.address.as_str(), line.attempts, line.restored)).collect();
    assert_eq!(shown, [("bob@tox.alt", 3, false), ("eve@example.net", 0, false)]);
    let names: Vec<String> = reader.names(None).expect("read").into_iter().map(|name| name.address).collect();
    assert_eq!(names, ["bob@example.net", "eve@example.net"]);
    assert_eq!(reader.blocked(None).expect("read").len(), 1);
    drop(schema::open(state.path()).expect("again, as it is now"));
}

#[test]
fn mail_on_hold_is_neither_sent_nor_expires_and_gets_a_whole_lifetime_when_released() {
    let mut world = World::new();
    world.enqueue(Some("M1"), b"one", &["bob@tox.alt"]);
    world.enqueue(Some("M2"), b"two", &["bob@tox.alt"]);
    let touched = |recipients, sending| Touched { recipients, sending };
    assert_eq!(world.store.hold(Some("M1".into()), None), Ok(touched(1, 0)));
    assert_eq!(world.store.hold(Some("M1".into()), None), Ok(touched(0, 0)), "once is enough");
    assert_eq!(world.store.hold(None, Some("eve".into())), Ok(touched(0, 0)), "another account's");
    world.store.link_up("alice", PEER, 1, 8, 8);
    let work = world.work().transfers;
    assert_eq!(work.len(), 1, "only the other one is sent");
    assert_eq!(world.store.hold(Some("Q2".into()), None), Ok(touched(0, 1)), "it is on its way");
    world.store.outcome(PEER, work[0].id, 0, Outcome::Stored { duplicate: false, relayed: false });
    world.settled();

    world.now.fetch_add(20_000_000, Ordering::Relaxed);
    // Any job lets the writer look for what has expired, or is late.
    assert_eq!(world.store.hold(Some("no such mail".into()), None), Ok(touched(0, 0)));
    assert_eq!(world.store.hold(Some("no such mail".into()), None), Ok(touched(0, 0)));
    assert_eq!(world.reader().notices().expect("read"), [], "neither delayed nor failed");
    let waiting = world.reader().queue(None, "", 10).expect("read");
    assert_eq!(waiting.iter().map(|line| (line.on_hold, line.expires)).collect::<Vec<_>>(), [(true, 11_000_000)]);

    assert_eq!(world.store.release(None, None, 5_000), Ok(touched(1, 0)));
    assert_eq!(world.work().transfers.len(), 1, "sent at once");
    let waiting = world.reader().queue(None, "", 10).expect("read");
    assert_eq!(waiting.iter().map(|line| (line.sending, line.expires)).collect::<Vec<_>>(), [(true, 21_005_000)]);
}

#[test]
fn what_waits_for_a_name_and_is_on_hold_is_looked_up_when_released() {
    let mut world = World::new();
    world.enqueue(None, b"one", &["eve@example.net"]);
    assert_eq!(world.store.hold(None, None), Ok(Touched { recipients: 1, sending: 0 }));
    let nothing = Finding::Nothing { proved: true, text: "there is no eve@example.net".into() };
    let verdict = world.store.settle(settled("eve@example.net"), nothing, trust::Policy::default());
    assert!(matches!(verdict, Ok(Verdict::Refuse(_))), "{verdict:?}");
    assert_eq!(world.reader().queue(None, "", 10).expect("read").len(), 1, "on hold, it is not returned");
    assert_eq!(world.reader().names(None).expect("read"), [], "the name is given up");
    world.now.fetch_add(1_000, Ordering::Relaxed);
    world.store.release(None, None, 5_000).expect("released");
    assert_eq!(
        world.reader().due_names(1_001_000, i64::MAX).expect("read"),
        [("alice".to_owned(), "eve@example.net".to_owned())]
    );
}

#[test]
fn deleted_mail_is_gone_with_its_body_and_nobody_is_told() {
    let mut world = World::new();
    world.enqueue(Some("M1"), &noise(), &["bob@tox.alt", "eve@example.net"]);
    world.enqueue(Some("M2"), b"two", &["bob@tox.alt"]);
    let bodies = |world: &World| std::fs::read_dir(world.state.path().join("bodies")).expect("a folder").count();
    assert_eq!(bodies(&world), 1);
    world.store.hold(Some("Q1".into()), None).expect("on hold");
    assert_eq!(world.store.delete(Some("Q1".into()), None), Ok(Touched { recipients: 2, sending: 0 }));
    // After a second job the first one's files are gone for certain.
    assert_eq!(world.store.delete(Some("Q1".into()), None), Ok(Touched { recipients: 0, sending: 0 }));
    assert_eq!(bodies(&world), 0);
    let left = world.reader().queue(None, "", 10).expect("read");
    assert_eq!(left.iter().map(|line| line.queue_id.as_str()).collect::<Vec<_>>(), ["Q2"]);
    assert_eq!(world.reader().notices().expect("read"), []);
    assert_eq!(
        world.enqueue(Some("M1"), &noise(), &["bob@tox.alt", "eve@example.net"]),
        ["Q1", "Q1"],
        "known to the MTA"
    );
    assert_eq!(world.reader().queue(None, "", 10).expect("read").len(), 1, "and not queued again");
}

const MONTH: i64 = 30 * 86_400;

/// The sequence that gives a table's row ids.
fn next_row(folder: &std::path::Path, table: &str) -> i64 {
    let db = rusqlite::Connection::open(folder.join("queue.sqlite")).expect("a database");
    db.query_row("SELECT seq FROM sqlite_sequence WHERE name = ?", [table], |row| row.get(0)).expect("a sequence")
}

fn copied(world: &World) -> (tempfile::TempDir, backup::Contents) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("bodies")).expect("made");
    let contents = backup::copy(world.state.path(), folder.path()).expect("copied");
    (folder, contents)
}

fn mark(made: i64, now: i64, hold: bool) -> backup::Mark<'static> {
    backup::Mark { made, host: "old.example", now, lifetime: 5 * 86_400_000, hold }
}

#[test]
fn a_copy_holds_what_waits_with_its_bodies_while_the_writer_works() {
    let mut world = World::new();
    world.enqueue(Some("M1"), &noise(), &["bob@tox.alt"]);
    world.enqueue(Some("M2"), b"two", &["bob@tox.alt", "eve@example.net"]);
    let (folder, contents) = copied(&world);
    assert_eq!((contents.mails, contents.recipients, contents.bodies.len()), (2, 3, 1));
    let (name, size) = &contents.bodies[0];
    let body = std::fs::read(folder.path().join("bodies").join(name)).expect("the body");
    assert_eq!(body.len() as u64, *size);
    // What goes afterwards takes nothing away from the copy.
    world.store.delete(None, None).expect("deleted");
    world.settled();
    assert!(!world.state.path().join("bodies").join(name).exists());
    assert!(folder.path().join("bodies").join(name).exists());
    assert!(!folder.path().join("queue.sqlite-wal").exists(), "the file alone is the database");
}

#[test]
fn a_copy_without_a_body_that_it_names_is_an_error() {
    let mut world = World::new();
    world.enqueue(Some("M1"), &noise(), &["bob@tox.alt"]);
    let (folder, contents) = copied(&world);
    let body = folder.path().join("bodies").join(&contents.bodies[0].0);
    std::fs::write(&body, b"short").expect("written");
    let error = backup::mark(folder.path(), &mark(1, 2, false)).expect_err("too short").to_string();
    assert!(error.contains("5 octets"), "{error}");
    std::fs::remove_file(&body).expect("removed");
    let error = backup::mark(folder.path(), &mark(1, 2, false)).expect_err("gone").to_string();
    assert!(error.contains("missing"), "{error}");
    std::fs::remove_file(world.state.path().join("bodies").join(&contents.bodies[0].0)).expect("removed");
    let again = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(again.path().join("bodies")).expect("made");
    let error = backup::copy(world.state.path(), again.path()).expect_err("gone").to_string();
    assert!(error.contains("nothing was backed up"), "{error}");
}

#[test]
fn a_restore_reuses_no_row_id_however_often_it_is_done() {
    let mut world = World::new();
    world.enqueue(Some("M1"), b"one", &["bob@tox.alt"]);
    let (first, _) = copied(&world);
    let (second, _) = copied(&world);
    backup::mark(first.path(), &mark(1_000, 2_000, false)).expect("marked");
    backup::mark(second.path(), &mark(1_000, 2_001, false)).expect("marked");
    for table in ["mail", "recipient", "notice"] {
        let (live, one, two) = match table {
            "notice" => (0, next_row(first.path(), table), next_row(second.path(), table)),
            _ => (next_row(world.state.path(), table), next_row(first.path(), table), next_row(second.path(), table)),
        };
        // As far apart as rows are ever made in a second.
        assert!(one - live > 1 << 30 && two - one >= 1 << 31, "{table}: {live}, {one}, {two}");
    }
    // Again in the same second, and with a clock that went back.
    let again = backup::mark(second.path(), &mark(1_000, 2_001, false)).expect("marked");
    let back = backup::mark(second.path(), &mark(1_000, 1_500, false)).expect("marked");
    assert_eq!((again.epoch, back.epoch), (2_002, 2_003));
}

#[test]
fn restored_mail_keeps_its_mail_id_and_its_lifetime_begins_anew() {
    let mut world = World::new();
    world.enqueue(Some("M1"), b"one", &["bob@tox.alt"]);
    world.store.link_up("alice", PEER, 1, 8, 8);
    let sent = world.work().transfers[0].id;
    let (folder, _) = copied(&world);
    let now = 2_000_000;
    let marked = backup::mark(folder.path(), &mark(now - 86_400, now, false)).expect("marked");
    assert_eq!((marked.recipients, marked.on_hold), (1, false));
    let reader = Reader::open(folder.path()).expect("a reader");
    let line = &reader.queue(None, "", 10).expect("read")[0];
    assert!(line.restored && !line.sending && !line.on_hold);
    assert_eq!((line.transfer, line.expires), (sent, now * 1000 + 5 * 86_400_000));

    let policy = Policy {
        now: Box::new(move || now * 1000 + 6 * 86_400_000),
        retry_min: 60_000,
        retry_max: 3_600_000,
        delay_notice: 600_000,
        notice: Box::new(|report| Some(format!("{} {}", report.status, report.text).into_bytes())),
    };
    let (store, thread) = Store::open(folder.path(), policy, |_| {}).expect("a store");
    for _ in 0..2 {
        store.flush(None, None, None).expect("the store answers");
    }
    let notices = reader.notices().expect("read");
    let texts: Vec<String> = notices
        .iter()
        .map(|(id, _)| reader.notice(*id).expect("read").expect("there").content)
        .map(|content| String::from_utf8(content).expect("UTF-8"))
        .collect();
    assert_eq!(texts.len(), 1, "no notice of delay: {texts:?}");
    assert!(texts[0].contains("may have been delivered before"), "{texts:?}");
    store.stop();
    thread.join().expect("stopped");
}

#[test]
fn mail_of_a_backup_older_than_its_peers_remember_is_restored_on_hold() {
    let mut world = World::new();
    world.enqueue(Some("M1"), b"one", &["bob@tox.alt"]);
    let lifetime = 5 * 86_400;
    for (age, hold, on_hold) in
        [(0, false, false), (0, true, true), (MONTH - lifetime - 1, false, false), (MONTH - lifetime + 1, false, true)]
    {
        let (folder, _) = copied(&world);
        let now = 100_000_000;
        let marked = backup::mark(folder.path(), &mark(now - age, now, hold)).expect("marked");
        assert_eq!(marked.on_hold, on_hold, "{age} s old");
        let reader = Reader::open(folder.path()).expect("a reader");
        assert_eq!(reader.queue(None, "", 10).expect("read")[0].on_hold, on_hold);
    }
}

#[test]
fn a_delivery_that_was_under_way_is_not_taken_for_done_after_a_restore() {
    let world = World::new();
    let received = Received {
        account: "alice".into(),
        peer: PEER,
        transfer: MailId([5; 16]),
        mailbox: "alice".into(),
        maildir: "/maildir".into(),
        file: "f".into(),
    };
    let done = Received { transfer: MailId([6; 16]), ..received.clone() };
    for mail in [&received, &done] {
        let (sender, receiver) = mpsc::channel();
        let answer = move |result| sender.send(result).expect("somebody waits");
        world.store.record_received(vec![mail.clone()], 1_000_000, answer);
        assert_eq!(receiver.recv().expect("an answer"), Ok(vec![true]));
    }
    world.store.published(vec![done.clone()]);
    world.settled();
    let (folder, _) = copied(&world);
    backup::mark(folder.path(), &mark(1_000, 2_000, false)).expect("marked");
    let reader = Reader::open(folder.path()).expect("a reader");
    let has = |mail: &Received| reader.received("alice", &PEER, &mail.transfer, "alice").expect("read");
    assert_eq!((has(&received), has(&done)), (None, Some(true)));
}

#[test]
fn tables_of_version_3_are_brought_up_to_date_with_what_they_hold() {
    let state = tempfile::tempdir().expect("a folder");
    let old = rusqlite::Connection::open(state.path().join("queue.sqlite")).expect("a database");
    old.execute_batch(include_str!("../../tests/data/queue-3.sql")).expect("the tables of version 3");
    drop(old);
    drop(schema::open(state.path()).expect("brought up to date"));
    let reader = Reader::open(state.path()).expect("a reader");
    let queue = reader.queue(None, "", 10).expect("a list");
    let shown: Vec<_> = queue.iter().map(|line| (line.address.as_str(), line.at_relays)).collect();
    assert_eq!(shown, [("bob@tox.alt", None), ("eve@example.net", None)]);
    assert_eq!(reader.notices().expect("read").len(), 1);
    assert!(reader.mail_secret("alice").expect("read").is_none());
    drop(schema::open(state.path()).expect("again, as it is now"));
}
