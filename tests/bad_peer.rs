//! Peers that do not keep the rules, or whose packets were lost: one engine, fed by hand. Each is answered with a clear
//! reason, costs bounded memory and log, and leaves the other peers alone.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use toxmail::engine::link::{Action, Engine, Input};
use toxmail::engine::rules::Rules;
use toxmail::engine::transfer::{
    BURST, Body, Delivery, Digest, Encoding, MailId, Outcome, Transfer, TransferRecipient,
};
use toxmail::engine::wire::{Frame, Frames, HELLO_MAGIC, HELLO_PACKET, Hello, MAX_PACKET, Offer};
use toxmail::identity::tox_id::PublicKey;
use toxmail::mail::status::Refusal;

const SECOND: u64 = 1_000_000;
const ME: PublicKey = PublicKey([1; 32]);
const BAD: PublicKey = PublicKey([2; 32]);
const GOOD: PublicKey = PublicKey([3; 32]);
const BOB: &str = "bob@example.org";

struct Bench {
    engine: Engine,
    now: u64,
    session: u8,
    /// What the engine wants done, except for packets.
    actions: Vec<Action>,
    /// Packets to each peer, in order.
    packets: Vec<(PublicKey, Vec<u8>)>,
    customs: Vec<(PublicKey, Vec<u8>)>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Rules)) -> Self {
        let address = [BOB.parse().unwrap()];
        let mut rules = Rules::new(ME, [("bob", &address[..])], 1 << 20, "test");
        change(&mut rules);
        let engine = Engine::new(rules, [7; 32]);
        Self { engine, now: SECOND, session: 0, actions: vec![], packets: vec![], customs: vec![] }
    }

    fn feed(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.engine.handle(self.now, input, &mut out);
        self.engine.poll(self.now, &mut out);
        self.sort(out);
    }

    fn sort(&mut self, out: Vec<Action>) {
        for action in out {
            match action {
                Action::Send { peer, packet } => {
                    assert!(packet.len() <= MAX_PACKET);
                    self.packets.push((peer, packet));
                }
                Action::SendCustom { peer, packet } => self.customs.push((peer, packet)),
                other => self.actions.push(other),
            }
        }
    }

    /// Lets time pass, calling the engine when it wants to be called.
    fn pass(&mut self, time: u64) {
        let end = self.now + time;
        while let Some(at) = self.engine.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at) + 1;
            let mut out = Vec::new();
            self.engine.poll(self.now, &mut out);
            self.sort(out);
        }
        self.now = end;
    }

    fn hello(&mut self, peer: PublicKey, heard: Option<[u8; 8]>, versions: Vec<u8>) {
        self.say_hello(peer, heard, versions, None);
    }

    fn say_hello(&mut self, peer: PublicKey, heard: Option<[u8; 8]>, versions: Vec<u8>, declined: Option<&str>) {
        let hello = Hello {
            versions,
            session: [self.session; 8],
            heard,
            software: "bad".into(),
            max_size: 1 << 30,
            max_transfers: 256,
            max_burst: 4 << 20,
            declined: declined.map(str::to_owned),
        };
        self.feed(Input::CustomPacket(peer, &hello.to_packet()));
    }

    fn our_hello(&self, to: PublicKey) -> Hello {
        let (_, packet) = self.customs.iter().rev().find(|(peer, _)| *peer == to).unwrap();
        Hello::from_packet(packet).unwrap().unwrap()
    }

    fn up(&mut self, peer: PublicKey) {
        self.session += 1;
        self.feed(Input::Online(peer));
        let heard = self.our_hello(peer).session;
        self.hello(peer, Some(heard), vec![1]);
        assert!(self.engine.is_up(&peer));
    }

    fn send(&mut self, peer: PublicKey, frames: &[Frame<'_>]) {
        let mut packet = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut packet));
        self.feed(Input::Packet(peer, &packet));
    }

    /// The frames sent to a peer since the last call, but for acknowledgements.
    fn answers(&mut self, to: PublicKey) -> Vec<String> {
        let (of, others) = std::mem::take(&mut self.packets).into_iter().partition(|(peer, _)| *peer == to);
        self.packets = others;
        let packets: Vec<(PublicKey, Vec<u8>)> = of;
        let frames = packets.iter().flat_map(|(_, packet)| Frames::new(packet));
        let text = |frame: Frame<'_>| match frame {
            Frame::Ack(_) => None,
            Frame::Close(reason) => Some(format!("close: {reason}")),
            Frame::Refused { index, refusal, .. } => Some(format!("refused {index:?}: {refusal}")),
            other => Some(format!("{other:?}")),
        };
        frames.filter_map(|frame| text(frame.unwrap())).collect()
    }

    fn notes(&mut self) -> Vec<String> {
        let (notes, others) =
            std::mem::take(&mut self.actions).into_iter().partition(|a| matches!(a, Action::Note { .. }));
        self.actions = others;
        let notes: Vec<Action> = notes;
        notes.into_iter().map(|note| if let Action::Note { text, .. } = note { text } else { unreachable!() }).collect()
    }

    fn lookups(&mut self) -> Vec<(PublicKey, u32, usize)> {
        let lookup = |action: &Action| match action {
            Action::Lookup { peer, stream, mailboxes, .. } => Some((*peer, *stream, mailboxes.len())),
            _ => None,
        };
        let found = self.actions.iter().filter_map(lookup).collect();
        self.actions.retain(|action| lookup(action).is_none());
        found
    }

    fn answer_lookups(&mut self) {
        for (peer, stream, mailboxes) in self.lookups() {
            self.feed(Input::Found { peer, stream, stored: vec![false; mailboxes], offset: 0 });
        }
    }

    fn deliveries(&mut self) -> Vec<Delivery> {
        let (found, others) =
            std::mem::take(&mut self.actions).into_iter().partition(|a| matches!(a, Action::Deliver(_)));
        self.actions = others;
        let found: Vec<Action> = found;
        found.into_iter().map(|action| if let Action::Deliver(d) = action { d } else { unreachable!() }).collect()
    }

    /// A mail of the peer arrives and is stored.
    fn works(&mut self, peer: PublicKey, stream: u32) {
        let id = MailId([stream as u8; 16]);
        self.answers(peer);
        self.send(peer, &[offer(stream, id, 3), recipient(stream, BOB), data(stream, 0, b"abc")]);
        self.answer_lookups();
        let delivered = self.deliveries();
        assert_eq!(delivered.len(), 1);
        self.feed(Input::Delivered { peer, id, results: vec![(0, Ok(()))] });
        assert_eq!(
            self.answers(peer),
            [format!("Stored {{ stream: {stream}, index: 0, duplicate: false, relayed: false }}")]
        );
    }
}

fn offer(stream: u32, id: MailId, size: u64) -> Frame<'static> {
    Frame::Offer(Offer {
        stream,
        id,
        size,
        wire_size: size,
        digest: Digest([0; 32]),
        encoding: 0,
        sender: "eve@example.org",
        recipients: 1,
        deadline: 1000,
    })
}

fn recipient(stream: u32, address: &str) -> Frame<'_> {
    Frame::Recipient { stream, index: 0, address }
}

fn data(stream: u32, offset: u64, octets: &[u8]) -> Frame<'_> {
    Frame::Data { stream, offset, octets }
}

fn transfer(number: u8, body: Body, wire_size: u64) -> Transfer {
    Transfer {
        id: MailId([number; 16]),
        mail: i64::from(number),
        sender: "alice@example.org".into(),
        recipients: vec![TransferRecipient { index: 0, address: "eve@example.org".into() }],
        size: wire_size,
        wire_size,
        digest: Digest([0; 32]),
        encoding: Encoding::Identity,
        body,
        deadline: 1000,
    }
}

/// The frames, sent on a link that is up, end it for this reason, and the good peer's mail goes on.
fn closes(reason: &str, break_rules: impl FnOnce(&mut Bench)) {
    let mut bench = Bench::new();
    bench.up(GOOD);
    bench.up(BAD);
    bench.works(GOOD, 1);
    break_rules(&mut bench);
    assert!(!bench.engine.is_up(&BAD), "{reason}");
    let answers = bench.answers(BAD);
    assert_eq!(answers.last().unwrap(), &format!("close: {reason}"), "{answers:?}");
    assert!(bench.actions.contains(&Action::LinkDown { peer: BAD }));
    let notes = bench.notes();
    assert_eq!(notes, [format!("broke the protocol, link closed: {reason}")]);
    bench.works(GOOD, 2);
    // Shut out: neither packets nor HELLO nor coming back online help before its time.
    bench.customs.clear();
    bench.feed(Input::Offline(BAD));
    bench.feed(Input::Online(BAD));
    bench.hello(BAD, None, vec![1]);
    assert!(bench.customs.is_empty());
    bench.pass(61 * SECOND);
    bench.up(BAD);
    bench.works(BAD, 1);
}

#[test]
fn whoever_breaks_the_protocol_is_told_why_and_shut_out_for_a_while() {
    let id = MailId([9; 16]);
    closes("OFFER reuses a stream number", |b| {
        b.send(BAD, &[offer(5, id, 3), recipient(5, BOB), offer(5, id, 3)]);
    });
    closes("RECIPIENT that was not announced", |b| {
        b.send(BAD, &[offer(5, id, 3), recipient(5, BOB), recipient(5, BOB)]);
    });
    closes("DATA of a stream that was not offered", |b| b.send(BAD, &[data(1, 0, b"x")]));
    closes("DATA out of place", |b| b.send(BAD, &[offer(5, id, 3), recipient(5, BOB), data(5, 1, b"x")]));
    closes("DATA out of place", |b| b.send(BAD, &[offer(5, id, 3), recipient(5, BOB), data(5, 0, b"abcd")]));
    closes("DATA of a bulk mail before ACCEPT", |b| {
        b.send(BAD, &[offer(5, id, BURST + 1), recipient(5, BOB), data(5, 0, b"abcd")]);
    });
    closes("acknowledges packets that were never sent", |b| b.send(BAD, &[Frame::Ack(1 << 40)]));
    closes("ACCEPT beyond the end of the mail", |b| {
        b.feed(Input::Work { peer: BAD, epoch: 2, transfers: vec![transfer(1, Body::Stored, BURST + 1)] });
        let stream = offered(b, BAD)[0];
        b.send(BAD, &[Frame::Accept { stream, offset: BURST + 2 }]);
    });
    // The rest of the reason is minicbor's.
    let mut bench = Bench::new();
    bench.up(BAD);
    bench.feed(Input::Packet(BAD, &[0xff; 200]));
    assert!(bench.answers(BAD)[0].starts_with("close: malformed packet: "));
    // A whole session said again, packet by packet.
    closes("OFFER reuses a stream number", |b| {
        for _ in 0..2 {
            b.send(BAD, &[offer(1, id, 3), recipient(1, BOB), data(1, 0, b"abc")]);
        }
    });
}

/// Streams of the OFFERs sent to a peer.
fn offered(bench: &mut Bench, to: PublicKey) -> Vec<u32> {
    let frames = bench.packets.iter().filter(|(peer, _)| *peer == to).flat_map(|(_, packet)| Frames::new(packet));
    let streams = frames.filter_map(|f| if let Ok(Frame::Offer(offer)) = f { Some(offer.stream) } else { None });
    let streams = streams.collect();
    bench.packets.retain(|(peer, _)| *peer != to);
    streams
}

#[test]
fn each_violation_makes_the_pause_longer_and_a_mail_that_worked_makes_it_short_again() {
    let mut bench = Bench::new();
    for wait in [60, 120, 240, 480] {
        bench.up(BAD);
        bench.send(BAD, &[data(7, 0, b"x")]);
        bench.pass((wait - 1) * SECOND);
        bench.customs.clear();
        bench.pass(2 * SECOND);
        assert_eq!(bench.customs.len(), 1, "greeted again after {wait} s");
    }
    bench.feed(Input::Recorded { peer: BAD, id: MailId([1; 16]) });
    bench.up(BAD);
    bench.send(BAD, &[data(7, 0, b"x")]);
    bench.customs.clear();
    bench.pass(61 * SECOND);
    assert_eq!(bench.customs.len(), 1);
}

#[test]
fn mail_for_others_and_lies_in_the_offer_are_refused_and_the_link_stays_up() {
    let mut bench = Bench::new();
    bench.up(BAD);
    let id = |stream: u32| MailId([stream as u8; 16]);
    bench.send(BAD, &[offer(1, id(1), 3), recipient(1, "alice@example.net"), data(1, 0, b"abc")]);
    assert_eq!(bench.answers(BAD), ["refused Some(0): 5.1.1 <alice@example.net> is not an address of this agent"]);
    let change = |stream: u32, change: &dyn Fn(&mut Offer<'static>)| {
        let Frame::Offer(mut offer) = offer(stream, id(stream), 3) else { unreachable!() };
        change(&mut offer);
        Frame::Offer(offer)
    };
    for (stream, frame, status) in [
        (2, change(2, &|o| (o.size, o.wire_size) = (2 << 20, 2 << 20)), "5.3.4"),
        (3, change(3, &|o| o.wire_size = 4), "5.6.0"),
        (4, change(4, &|o| (o.wire_size, o.encoding) = (1 << 40, 1)), "5.6.0"),
        (5, change(5, &|o| o.encoding = 77), "5.6.1"),
        (6, change(6, &|o| o.recipients = 0), "5.5.3"),
        (7, change(7, &|o| o.recipients = u32::MAX), "5.5.3"),
        (8, change(8, &|o| o.sender = "no address"), "5.1.7"),
        (9, change(9, &|o| (o.size, o.wire_size, o.encoding) = (u64::MAX, u64::MAX, 1)), "5.3.4"),
    ] {
        bench.send(BAD, &[frame, recipient(stream, BOB), data(stream, 0, b"x")]);
        let answers = bench.answers(BAD);
        assert!(answers.len() == 1 && answers[0].starts_with(&format!("refused None: {status} ")), "{answers:?}");
    }
    assert_eq!(bench.notes().len(), 1, "nine reasons, one line a minute");
    bench.works(BAD, 10);
}

#[test]
fn ten_thousand_offers_are_refused_beyond_the_limit_and_later_mail_works() {
    let mut bench = Bench::new();
    bench.up(BAD);
    for stream in 1..=10_000u32 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&stream.to_be_bytes());
        bench.send(BAD, &[offer(stream, MailId(id), 3), recipient(stream, BOB)]);
    }
    let lookups = bench.lookups();
    assert_eq!(lookups.len(), 256);
    // It never acknowledged: the first answers fill the window, the others wait.
    assert!(bench.engine.is_up(&BAD));
    let answers = bench.answers(BAD);
    assert!(!answers.is_empty() && answers.iter().all(|a| a.starts_with("refused None: 4.3.2 ")), "{answers:?}");
    assert_eq!(bench.notes().len(), 1);
    for stream in 1..=256 {
        bench.send(BAD, &[Frame::Cancel(stream)]);
    }
    bench.send(BAD, &[offer(10_001, MailId([77; 16]), 3), recipient(10_001, BOB)]);
    assert_eq!(bench.lookups().len(), 1, "there is room again");
    // One who lets answers pile up without end reads nothing and is cut off.
    for stream in 10_002..60_000 {
        bench.send(BAD, &[offer(stream, MailId([1; 16]), 3), recipient(stream, "x@example.net")]);
    }
    assert!(!bench.engine.is_up(&BAD));
    assert_eq!(bench.answers(BAD).last().unwrap(), "close: answers are not taken in");
}

#[test]
fn what_stands_still_half_way_is_given_up_after_ten_minutes() {
    let mut bench = Bench::new();
    bench.up(BAD);
    bench.send(BAD, &[offer(1, MailId([1; 16]), 60_000), recipient(1, BOB), data(1, 0, &[0; 1000])]);
    bench.answer_lookups();
    bench.send(BAD, &[offer(2, MailId([2; 16]), 600_000), recipient(2, BOB)]);
    bench.answer_lookups();
    bench.answers(BAD);
    for _ in 0..11 {
        // It acknowledges what is sent to it, so that the session itself is alive.
        bench.send(BAD, &[Frame::Ack(1)]);
        bench.pass(59 * SECOND);
    }
    let answers = bench.answers(BAD);
    assert_eq!(answers, ["refused None: 4.4.7 the rest of the mail did not come"; 2]);
    // What still comes of it is not heard.
    bench.send(BAD, &[data(1, 1000, &[0; 1000])]);
    assert!(bench.engine.is_up(&BAD) && bench.deliveries().is_empty());
}

#[test]
fn hello_of_another_version_is_noted_and_a_flood_of_hellos_ends() {
    let mut bench = Bench::new();
    bench.feed(Input::Online(BAD));
    bench.hello(BAD, None, vec![9]);
    assert!(bench.notes()[0].starts_with("speaks other versions of the protocol ([9], bad)"));
    bench.pass(120 * SECOND);
    bench.customs.clear();
    for _ in 0..5_000 {
        bench.session = bench.session.wrapping_add(1);
        bench.hello(BAD, None, vec![1]);
    }
    assert!(bench.customs.len() <= 100, "{} answers", bench.customs.len());
    assert_eq!(bench.notes(), ["broke the protocol, link closed: says HELLO again and again"]);
    let mut packet = vec![HELLO_PACKET];
    packet.extend_from_slice(HELLO_MAGIC);
    for _ in 0..5_000 {
        bench.feed(Input::CustomPacket(BAD, &packet));
    }
    bench.pass(61 * SECOND);
    bench.up(BAD);
    bench.works(BAD, 1);
}

#[test]
fn closing_again_and_again_costs_one_line_a_minute() {
    let mut bench = Bench::new();
    bench.up(GOOD);
    let mut closed = 0;
    for _ in 0..20 {
        bench.up(BAD);
        bench.send(BAD, &[Frame::Close("no\nreason")]);
        closed += 1;
        bench.pass(61 * SECOND);
    }
    let notes = bench.notes();
    assert!(notes.len() <= closed && notes[0] == "closed the link: noreason", "{notes:?}");
    bench.works(GOOD, 1);
}

#[test]
fn notes_stay_limited_when_the_peer_goes_off_and_on() {
    let mut bench = Bench::new();
    for stream in 1..30 {
        bench.up(BAD);
        bench.send(BAD, &[offer(stream, MailId([1; 16]), 3), recipient(stream, "x@example.net")]);
        bench.feed(Input::Offline(BAD));
        bench.pass(2 * SECOND);
        bench.up(GOOD);
        bench.feed(Input::Offline(GOOD));
    }
    assert_eq!(bench.notes().len(), 1);
}

// Sessions.

#[test]
fn a_late_answer_of_the_disk_is_not_taken_for_another_mails() {
    let mut bench = Bench::new();
    bench.up(BAD);
    bench.send(BAD, &[offer(1, MailId([1; 16]), 3), recipient(1, BOB), data(1, 0, b"abc")]);
    let (_, late, _) = bench.lookups()[0];
    bench.feed(Input::Offline(BAD));
    bench.up(BAD);
    bench.answers(BAD);
    bench.send(BAD, &[offer(1, MailId([2; 16]), 3), recipient(1, BOB), data(1, 0, b"xyz")]);
    bench.feed(Input::Found { peer: BAD, stream: late, stored: vec![true], offset: 0 });
    let refusal = Refusal::temporary(3, 1, "the disk is full");
    bench.feed(Input::AppendFailed { peer: BAD, stream: late, refusal });
    assert_eq!(bench.answers(BAD), Vec::<String>::new(), "the second mail was never asked about");
    bench.answer_lookups();
    assert_eq!(bench.deliveries()[0].id, MailId([2; 16]));
}

#[test]
fn a_mail_offered_again_while_it_is_delivered_is_delivered_once() {
    let mut bench = Bench::new();
    bench.up(BAD);
    let id = MailId([1; 16]);
    let frames = [offer(1, id, 3), recipient(1, BOB), data(1, 0, b"abc")];
    bench.send(BAD, &frames);
    bench.answer_lookups();
    bench.feed(Input::Offline(BAD));
    bench.up(BAD);
    bench.send(BAD, &frames);
    assert!(bench.lookups().is_empty());
    bench.answers(BAD);
    bench.feed(Input::Delivered { peer: BAD, id, results: vec![(0, Ok(()))] });
    assert_eq!(bench.answers(BAD), ["Stored { stream: 1, index: 0, duplicate: false, relayed: false }"]);
    assert_eq!(bench.deliveries().len(), 1);
}

#[test]
fn session_after_session_does_not_pile_up_deliveries() {
    let mut bench = Bench::with(|rules| rules.max_transfers = 10);
    let mut number = 0u8;
    for _ in 0..20 {
        bench.up(BAD);
        for stream in 1..=10 {
            number = number.wrapping_add(1);
            bench.send(BAD, &[offer(stream, MailId([number; 16]), 0), recipient(stream, BOB)]);
            bench.answer_lookups();
        }
        bench.feed(Input::Offline(BAD));
    }
    assert_eq!(bench.deliveries().len(), 10);
}

#[test]
fn a_lost_answer_to_hello_does_not_leave_one_side_greeting() {
    // Nothing sent yet: the answer is given again.
    let mut bench = Bench::new();
    bench.up(BAD);
    bench.customs.clear();
    let ours = bench.engine_session();
    bench.pass(5 * SECOND);
    bench.hello(BAD, Some(ours), vec![1]);
    assert_eq!(bench.our_hello(BAD).heard, Some([bench.session; 8]));
    // Something was sent that the peer did not hear: a new session.
    let mut bench = Bench::new();
    bench.up(BAD);
    let ours = bench.engine_session();
    bench.feed(Input::Work { peer: BAD, epoch: 1, transfers: vec![transfer(1, Body::Inline(vec![0; 10]), 10)] });
    for _ in 0..2 {
        bench.pass(5 * SECOND);
        bench.hello(BAD, Some(ours), vec![1]);
    }
    assert!(bench.actions.contains(&Action::LinkDown { peer: BAD }));
    assert_ne!(bench.our_hello(BAD).session, ours);
    // A HELLO that was merely late, of a peer that was heard since: nothing.
    let mut bench = Bench::new();
    bench.up(BAD);
    bench.send(BAD, &[Frame::Ack(0)]);
    bench.customs.clear();
    let ours = [0; 8];
    for _ in 0..2 {
        bench.hello(BAD, Some(ours), vec![1]);
    }
    assert!(bench.engine.is_up(&BAD) && bench.customs.is_empty());
    // Unless it goes on: what was heard was of an earlier session.
    bench.hello(BAD, Some(ours), vec![1]);
    assert!(!bench.engine.is_up(&BAD) && bench.customs.len() == 1);
}

impl Bench {
    /// The session of our link with BAD, learnt from HELLO.
    fn engine_session(&mut self) -> [u8; 8] {
        self.customs.iter().rev().find(|(peer, _)| *peer == BAD).map_or_else(
            || {
                // Said before it was cleared: the first number that this seed draws.
                let mut twin = Bench::new();
                twin.up(BAD);
                twin.our_hello(BAD).session
            },
            |(_, packet)| Hello::from_packet(packet).unwrap().unwrap().session,
        )
    }
}

// The sending side.

#[test]
fn small_mail_that_overtakes_bulk_gets_the_lower_stream() {
    let mut bench = Bench::new();
    bench.up(BAD);
    let transfers = vec![transfer(1, Body::Stored, BURST + 1), transfer(2, Body::Inline(vec![0; 10]), 10)];
    bench.feed(Input::Work { peer: BAD, epoch: 1, transfers });
    let streams = offered(&mut bench, BAD);
    assert!(streams.len() == 2 && streams[0] < streams[1], "{streams:?}");
}

#[test]
fn every_transfer_gives_its_credit_back_once() {
    let grants = |bench: &Bench| {
        let of = |action: &Action| if let Action::Grant { small, bulk, .. } = action { small + bulk } else { 0 };
        bench.actions.iter().map(of).sum::<u32>()
    };
    let outcomes = |bench: &Bench| bench.actions.iter().filter(|a| matches!(a, Action::Outcome { .. })).count();
    let mut bench = Bench::new();
    bench.up(BAD);
    let mut damaged = transfer(5, Body::Inline(vec![0; 9]), 10);
    damaged.size = 10;
    let mut poison = transfer(6, Body::Inline(vec![0; 9]), 9);
    poison.sender = "x".repeat(600);
    let mut large = transfer(7, Body::Stored, 2 << 30);
    large.size = 2 << 30;
    let transfers = vec![
        transfer(1, Body::Inline(vec![0; 10]), 10),
        transfer(2, Body::Inline(Vec::new()), 0),
        transfer(3, Body::Stored, BURST),
        transfer(4, Body::Stored, BURST + 1),
        damaged,
        poison,
        large,
        transfer(1, Body::Inline(vec![0; 10]), 10),
    ];
    bench.feed(Input::Work { peer: BAD, epoch: 1, transfers });
    assert_eq!((grants(&bench), outcomes(&bench)), (4, 4), "damaged, poison, large, twice");
    // The small mail in a file is read; what is damaged on the disk is given up.
    assert!(bench.actions.iter().any(|a| matches!(a, Action::ReadBody { mail: 3, offset: 0, .. })));
    bench.feed(Input::Chunk { peer: BAD, transfer: MailId([3; 16]), offset: 0, octets: Some(vec![0; 100_000]) });
    let streams = offered(&mut bench, BAD);
    assert_eq!(streams.len(), 4);
    bench.send(BAD, &[Frame::Accept { stream: streams[3], offset: BURST + 1 }]);
    for stream in &streams {
        for _ in 0..2 {
            bench.send(BAD, &[Frame::Stored { stream: *stream, index: 0, duplicate: false, relayed: false }]);
            bench.send(BAD, &[Frame::Refused { stream: *stream, index: None, refusal: Refusal::temporary(0, 0, "") }]);
        }
    }
    assert_eq!((grants(&bench), outcomes(&bench)), (8, 8));
    let stored = |a: &&Action| matches!(a, Action::Outcome { outcome: Outcome::Stored { .. }, .. });
    assert_eq!(bench.actions.iter().filter(stored).count(), 4);
    assert!(bench.engine.progress(&BAD).is_empty());
}

#[test]
fn a_peer_that_never_answers_gets_its_mail_taken_back() {
    let mut bench = Bench::new();
    bench.up(BAD);
    let transfers = vec![transfer(1, Body::Inline(vec![0; 10]), 10), transfer(2, Body::Stored, BURST + 1)];
    bench.feed(Input::Work { peer: BAD, epoch: 1, transfers });
    let mut sent = 1;
    for _ in 0..11 {
        bench.send(BAD, &[Frame::Ack(sent)]);
        bench.pass(59 * SECOND);
        sent = 1;
    }
    let outcomes: Vec<_> = bench.actions.iter().filter(|a| matches!(a, Action::Outcome { .. })).collect();
    assert_eq!(outcomes.len(), 2);
    assert!(bench.answers(BAD).iter().filter(|a| a.starts_with("Cancel")).count() == 2);
    // And one that does not even acknowledge gets a new session.
    let mut bench = Bench::new();
    bench.up(BAD);
    let transfers = vec![transfer(1, Body::Inline(vec![0; 10]), 10)];
    bench.feed(Input::Work { peer: BAD, epoch: 1, transfers });
    bench.pass(63 * SECOND);
    assert!(!bench.engine.is_up(&BAD) && bench.actions.contains(&Action::LinkDown { peer: BAD }));
}

#[test]
fn a_peer_that_takes_one_mail_at_a_time_is_never_offered_more() {
    let mut bench = Bench::new();
    bench.feed(Input::Online(BAD));
    let hello = Hello {
        versions: vec![1],
        session: [5; 8],
        heard: Some(bench.our_hello(BAD).session),
        software: String::new(),
        max_size: 1 << 30,
        max_transfers: 1,
        max_burst: 0,
        declined: None,
    };
    bench.feed(Input::CustomPacket(BAD, &hello.to_packet()));
    let bulk = (1..=5).map(|n| transfer(n, Body::Stored, BURST + 1));
    let small = (6..=9).map(|n| transfer(n, Body::Inline(vec![0; 10]), 10));
    bench.feed(Input::Work { peer: BAD, epoch: 1, transfers: bulk.chain(small).collect() });
    for mail in 0..9 {
        let streams = offered(&mut bench, BAD);
        assert_eq!(streams.len(), 1, "mail {mail}");
        bench.send(BAD, &[Frame::Stored { stream: streams[0], index: 0, duplicate: false, relayed: false }]);
    }
}

#[test]
fn a_peer_that_declines_ends_the_link_and_is_answered_when_that_is_on_disk() {
    let mut bench = Bench::new();
    bench.up(BAD);
    bench.session += 1;
    let theirs = [bench.session; 8];
    bench.customs.clear();
    bench.say_hello(BAD, None, vec![], Some("go\naway"));
    let declined = Action::Declined { peer: BAD, session: theirs, text: "goaway".into() };
    assert_eq!(bench.actions.split_off(1), [Action::LinkDown { peer: BAD }, declined]);
    assert!(bench.customs.is_empty() && !bench.engine.is_up(&BAD), "nothing is promised before it is on disk");
    bench.feed(Input::DeclineRecorded { peer: BAD, session: theirs });
    assert_eq!(bench.our_hello(BAD).heard, Some(theirs));
    assert_eq!(bench.our_hello(BAD).declined, None);
}

#[test]
fn who_is_declined_is_told_until_it_has_heard_and_gets_no_link() {
    for up in [false, true] {
        let mut bench = Bench::new();
        if up {
            bench.up(BAD);
            bench.feed(Input::Decline(BAD, true));
            assert!(!bench.engine.is_up(&BAD));
        } else {
            bench.feed(Input::Decline(BAD, true));
            assert!(bench.customs.is_empty(), "it is not online");
            bench.feed(Input::Online(BAD));
        }
        let ours = bench.our_hello(BAD);
        assert!(ours.versions.is_empty() && ours.declined.is_some(), "{ours:?}");
        // It greets as if nothing were, also one that knows nothing of declining: the session stays.
        bench.session += 1;
        bench.hello(BAD, None, vec![1]);
        assert_eq!(bench.our_hello(BAD).session, ours.session);
        bench.send(BAD, &[Frame::Done(MailId([1; 16]))]);
        let told = bench.customs.len();
        bench.pass(600 * SECOND);
        assert!(bench.customs.len() > told, "it is said again");
        assert!(!bench.actions.iter().any(|action| matches!(action, Action::LinkUp { .. }) && !up));
        let heard = Action::DeclineHeard { peer: BAD };
        assert!(!bench.actions.contains(&heard));
        bench.session += 1;
        bench.hello(BAD, Some(ours.session), vec![1]);
        assert!(bench.actions.contains(&heard) && !bench.engine.is_up(&BAD));
        // It asks once more, and is taken this time.
        bench.feed(Input::Offline(BAD));
        bench.feed(Input::Decline(BAD, false));
        bench.up(BAD);
    }
}

#[test]
fn a_chat_client_does_not_wake_the_engine_every_second() {
    let mut bench = Bench::new();
    bench.feed(Input::Online(BAD));
    let mut wakes = 0;
    while bench.now < 3600 * SECOND {
        let at = bench.engine.deadline().unwrap();
        bench.pass(at - bench.now + 1);
        wakes += 1;
    }
    assert!(wakes < 25, "{wakes} in an hour");
}

// Anything.

#[derive(Debug, Clone)]
enum Step {
    Octets(Vec<u8>),
    Offer { stream: u32, id: u8, size: u64, wire_size: u64, encoding: u8, recipients: u32 },
    Recipient { stream: u32, index: u32, ours: bool },
    Data { stream: u32, offset: u64, length: usize },
    Answer { kind: u8, stream: u32, index: u32 },
    Ack(u64),
    Hello { session: u8, heard: bool },
    Shells,
    Work { id: u8, size: u64 },
    Pass(u64),
    Online(bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let sizes = prop_oneof![0u64..2000, Just(BURST), Just(BURST + 1), any::<u64>()];
    prop_oneof![
        1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(Step::Octets),
        4 => (1u32..400, any::<u8>(), sizes.clone(), sizes.clone(), any::<bool>(), 0u8..3, 0u32..4).prop_map(
            |(stream, id, size, other, same, encoding, recipients)| {
                let wire_size = if same { size } else { other };
                Step::Offer { stream, id, size, wire_size, encoding: if same { 0 } else { encoding }, recipients }
            }
        ),
        4 => (1u32..400, 0u32..4, any::<bool>())
            .prop_map(|(stream, index, ours)| Step::Recipient { stream, index, ours }),
        4 => (1u32..400, prop_oneof![Just(0u64), 0u64..3000], 0usize..1300)
            .prop_map(|(stream, offset, length)| Step::Data { stream, offset, length }),
        3 => (0u8..6, 0u32..5, 0u32..3).prop_map(|(kind, stream, index)| Step::Answer { kind, stream, index }),
        2 => prop_oneof![0u64..100, any::<u64>()].prop_map(Step::Ack),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(session, heard)| Step::Hello { session, heard }),
        4 => Just(Step::Shells),
        3 => (any::<u8>(), prop_oneof![0u64..5000, Just(BURST), Just(BURST + 1)])
            .prop_map(|(id, size)| Step::Work { id, size }),
        1 => (0u64..700).prop_map(|s| Step::Pass(s * SECOND)),
        1 => any::<bool>().prop_map(Step::Online),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_sequence_of_frames_panics_or_takes_memory_without_end(
        steps in proptest::collection::vec(steps(), 1..150),
    ) {
        let mut bench = Bench::with(|rules| (rules.max_transfers, rules.max_bulk, rules.max_burst) = (8, 2, 1000));
        bench.up(BAD);
        let mut epoch = 1;
        for step in steps {
            // The streams of ours begin anywhere: what the peer answers counts from the first.
            let first = bench.engine_session();
            let first = u32::from_be_bytes([first[0], first[1], first[2], first[3]]) >> 1;
            match step {
                Step::Octets(octets) => bench.feed(Input::Packet(BAD, &octets)),
                Step::Offer { stream, id, size, wire_size, encoding, recipients } => {
                    let id = MailId([id; 16]);
                    let Frame::Offer(offer) = offer(stream, id, size) else { unreachable!() };
                    bench.send(BAD, &[Frame::Offer(Offer { wire_size, encoding, recipients, ..offer })]);
                }
                Step::Recipient { stream, index, ours } => {
                    let address = if ours { BOB } else { "x@example.net" };
                    bench.send(BAD, &[Frame::Recipient { stream, index, address }]);
                }
                Step::Data { stream, offset, length } => bench.send(BAD, &[data(stream, offset, &vec![7; length])]),
                Step::Answer { kind, stream, index } => {
                    let stream = first.wrapping_add(stream);
                    let refusal = Refusal::temporary(0, 0, "no");
                    bench.send(BAD, &[match kind {
                        0 => Frame::Accept { stream, offset: u64::from(index) },
                        1 => Frame::Stored { stream, index, duplicate: false, relayed: false },
                        2 => Frame::Refused { stream, index: None, refusal },
                        3 => Frame::Cancel(index),
                        4 => Frame::Done(MailId([index as u8; 16])),
                        _ => Frame::Close("enough"),
                    }]);
                }
                Step::Ack(total) => bench.send(BAD, &[Frame::Ack(total)]),
                Step::Hello { session, heard } => {
                    bench.session = session;
                    let heard = heard.then(|| bench.engine_session());
                    bench.hello(BAD, heard, vec![1]);
                }
                Step::Shells => {
                    bench.answer_lookups();
                    for delivery in bench.deliveries() {
                        let results = delivery.recipients.iter().map(|(index, ..)| (*index, Ok(()))).collect();
                        bench.feed(Input::Delivered { peer: BAD, id: delivery.id, results });
                    }
                    let reads: Vec<Action> = bench.actions.extract_if(.., |a| matches!(a, Action::ReadBody { .. })).collect();
                    for read in reads {
                        if let Action::ReadBody { peer, transfer, offset, length, .. } = read {
                            let octets = Some(vec![1; length as usize]);
                            bench.feed(Input::Chunk { peer, transfer, offset, octets });
                        }
                    }
                }
                Step::Work { id, size } => {
                    let body = if size > 4000 { Body::Stored } else { Body::Inline(vec![2; size as usize]) };
                    bench.feed(Input::Work { peer: BAD, epoch, transfers: vec![transfer(id, body, size)] });
                }
                Step::Pass(time) => bench.pass(time),
                Step::Online(online) => bench.feed(if online { Input::Online(BAD) } else { Input::Offline(BAD) }),
            }
            for action in &bench.actions {
                match action {
                    Action::LinkUp { epoch: number, .. } => epoch = *number,
                    Action::Append { octets, .. } => prop_assert!(octets.len() <= 64 * 1024 + MAX_PACKET),
                    _ => {}
                }
            }
            bench.actions.retain(|a| matches!(a, Action::Deliver(_) | Action::Lookup { .. } | Action::ReadBody { .. }));
            let delivering = bench.actions.iter().filter(|a| matches!(a, Action::Deliver(_))).count();
            prop_assert!(delivering <= 8, "{delivering} deliveries at a time");
            bench.packets.clear();
        }
    }
}
