//! The store as the agent uses it: real SQLite, a clock of the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, Receiver};

use super::*;
use crate::engine::transfer::{MAX_RECIPIENTS, MailId, Outcome};
use crate::identity::tox_id::PublicKey;
use crate::mail::status::Refusal;

const PEER: PublicKey = PublicKey([2; 32]);

struct World {
    state: tempfile::TempDir,
    now: Arc<AtomicI64>,
    store: Store,
    events: Receiver<Event>,
    names: u8,
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
                let late = if report.action == Action::Failed { "" } else { "delayed " };
                Some(format!("{late}{}: {}", report.address, report.refusal).into_bytes())
            }),
        };
        let (sender, events) = mpsc::channel();
        let sink = move |event| sender.send(event).unwrap_or_default();
        let (store, _) = Store::open(state.path(), policy, sink).expect("a store");
        Self { state, now, store, events, names: 0 }
    }

    fn reader(&self) -> Reader {
        Reader::open(self.state.path()).expect("a reader")
    }

    /// Queues a mail; the queue id for each recipient.
    fn enqueue(&mut self, mta_queue_id: Option<&str>, body: &[u8], recipients: &[&str]) -> Vec<String> {
        self.names += 1;
        let recipient = |address: &&str| NewRecipient {
            address: (*address).to_owned(),
            to: Destination::Peer { key: PEER, wire_address: (*address).to_owned() },
            transfer: MailId([self.names; 16]),
            notify: None,
            orcpt: None,
        };
        let mail = NewMail {
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
        let mut writer = BodyWriter::new(self.state.path(), &mail.queue_id);
        writer.write(body).expect("written");
        let (sender, receiver) = mpsc::channel();
        let done = move |result| sender.send(result).expect("somebody waits");
        self.store.enqueue(mail, writer.finish().expect("finished"), done);
        receiver.recv().expect("an answer").expect("queued")
    }

    fn work(&self) -> Work {
        match self.events.recv().expect("an event") {
            Event::Work(work) => work,
            other => panic!("{other:?} instead of work"),
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
    world.store.outcome(PEER, first, 0, Outcome::Stored { duplicate: false });
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
    assert_eq!((account.as_str(), &notice.content[..]), ("alice", &b"bob@tox.alt: 5.1.1 nobody"[..]));
    world.store.notice_delivered(row);
    world.settled();
    assert!(world.reader().notices().expect("read").is_empty());
}

#[test]
fn what_waits_too_long_expires_and_its_body_goes() {
    let mut world = World::new();
    let mut random = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 56) as u8
    })
    .take(100_000)
    .collect();
    world.enqueue(None, &noise, &["bob@tox.alt"]);
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
    assert_eq!(known(), Some(true));
    assert!(world.reader().unpublished().expect("read").is_empty());
}
