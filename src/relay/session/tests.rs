//! The client against a relay that the test plays; against the real one it is in `tests/relay_session.rs`.

use proptest::prelude::*;

use super::*;
use crate::lane::keys::{LaneSeed, RelaySecret};
use crate::relay::wire::MAX_PACKET;

fn secret() -> RelaySecret {
    RelaySecret::new(&mut [5; 32])
}

fn key(number: u64) -> SlotKey {
    LaneSeed::new(&mut [7; 32]).slot(&secret().public(), Class::K16, number)
}

/// A content of its own for each number.
fn content(class: Class, number: u64) -> Arc<[u8]> {
    (0..class.octets()).map(|at| (at as u64 / 7 + number * 31) as u8).collect()
}

fn digest(octets: &[u8]) -> Digest {
    let mut digest = Digester::default();
    digest.update(octets);
    digest.finish()
}

/// A relay whose answers the test writes itself.
struct Scripted {
    session: Session,
    now: u64,
    /// What the client sent: its last session, and its requests.
    hello: Option<[u8; 8]>,
    requests: Vec<Request>,
    events: Vec<Event>,
    /// How many packets that count came from the client.
    counted: u64,
    /// Whether they are acknowledged at once.
    acknowledges: bool,
}

impl Scripted {
    /// A client whose session is up.
    fn up() -> Self {
        let mut relay = Self::new();
        relay.input(Input::Online);
        relay.welcome();
        assert!(relay.session.is_up());
        relay.events.clear();
        relay
    }

    fn new() -> Self {
        Self {
            session: Session::new(secret().public(), [1; 32]),
            now: 1,
            hello: None,
            requests: Vec::new(),
            events: Vec::new(),
            counted: 0,
            acknowledges: true,
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.session.handle(self.now, input, &mut out);
        self.session.poll(self.now, &mut out);
        self.take(out);
    }

    fn take(&mut self, out: Vec<Action>) {
        let before = self.counted;
        for action in out {
            match action {
                Action::SendCustom(packet) => {
                    let hello = Hello::from_packet(&packet).expect("a HELLO").expect("well formed");
                    self.hello = Some(hello.session);
                    self.counted = 0;
                }
                Action::Send(packet) => {
                    assert!(packet.len() <= MAX_PACKET, "{} octets", packet.len());
                    let requests: Vec<Request> =
                        Messages::new(&packet).map(|request| request.expect("well formed").expect("known")).collect();
                    self.counted += u64::from(requests.iter().any(|request| request.acknowledged().is_none()));
                    self.requests.extend(requests.into_iter().filter(|request| request.acknowledged().is_none()));
                }
                Action::Tell(event) => self.events.push(event),
            }
        }
        if self.acknowledges && self.counted > before && self.session.is_up() {
            self.answer(&[Answer::Ack(self.counted)]);
        }
    }

    fn answer(&mut self, answers: &[Answer]) {
        for answer in answers {
            let mut packet = Vec::new();
            assert!(answer.append(&mut packet));
            self.input(Input::Packet(&packet));
        }
    }

    fn welcome_of(&self) -> Welcome {
        Welcome {
            version: VERSION,
            session: self.hello.expect("a HELLO was said"),
            relay: secret().public().0,
            owner: true,
            retention: 1,
            quota: 2,
            used: 0,
            max_slots: 3,
        }
    }

    fn welcome(&mut self) {
        self.input(Input::CustomPacket(&self.welcome_of().to_packet()));
    }

    fn command(&mut self, command: Command) {
        self.input(Input::Command(Box::new(command)));
    }

    /// Lets time pass up to the next deadline.
    fn wait(&mut self) {
        self.now = self.session.deadline().expect("something is awaited").max(self.now);
        let mut out = Vec::new();
        self.session.poll(self.now, &mut out);
        self.take(out);
    }

    fn requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }

    /// What was told, without notes.
    fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events).into_iter().filter(|event| !matches!(event, Event::Note(_))).collect()
    }

    fn codes(&mut self) -> Vec<Code> {
        let code = |event| if let Event::Refused { code, .. } = event { Some(code) } else { None };
        self.events().into_iter().filter_map(code).collect()
    }

    fn is_closed(&self) -> bool {
        matches!(self.session.state, State::Closed { .. })
    }

    /// Asks to fill a slot and takes the content in, up to the seal.
    fn filled(&mut self, number: u64) -> (SlotId, Arc<[u8]>) {
        let (slot, octets) = (key(number).id(), content(Class::K16, number));
        self.command(Command::Put { slot: key(number), octets: octets.clone() });
        self.answer(&[Answer::Continue(SlotOctets(slot.0), 0)]);
        assert!(matches!(self.requests.last(), Some(Request::Seal(..))), "{:?}", self.requests.last());
        (slot, octets)
    }
}

fn stored(slot: &SlotId, digest: &Digest, expiry: u64) -> Answer {
    Answer::Stored(SlotOctets(slot.0), digest.0, expiry, secret().sign_stored(slot, &digest.0, expiry))
}

fn piece(slot: &SlotId, offset: usize, octets: &[u8]) -> Answer {
    Answer::Piece(SlotOctets(slot.0), offset as u64, octets.to_vec())
}

/// All pieces of a content.
fn pieces_of(slot: &SlotId, octets: &[u8]) -> Vec<Answer> {
    octets.chunks(MAX_PIECE).enumerate().map(|(at, octets)| piece(slot, at * MAX_PIECE, octets)).collect()
}

#[test]
fn a_content_is_put_piece_by_piece_and_stored_when_the_relay_has_signed() {
    let mut relay = Scripted::up();
    let (slot, octets) = (key(1).id(), content(Class::K16, 1));
    relay.command(Command::Put { slot: key(1), octets: octets.clone() });
    assert_eq!(relay.requests(), [Request::Put(SlotOctets(slot.0), 16 << 10, digest(&octets).0)]);
    relay.answer(&[Answer::Continue(SlotOctets(slot.0), 5000)]);
    let mut have = octets[..5000].to_vec();
    let requests = relay.requests();
    let (seal, pieces) = requests.split_last().expect("requests");
    for request in pieces {
        let Request::Piece(_, offset, octets) = request else { panic!("{request:?}") };
        assert_eq!(*offset, have.len() as u64);
        have.extend_from_slice(octets);
    }
    assert!(have == *octets);
    let Request::Seal(_, signature) = seal else { panic!("{seal:?}") };
    assert!(slot.verify_put(&secret().public(), &digest(&octets).0, 16 << 10, signature));
    assert_eq!(relay.events(), []);
    relay.answer(&[stored(&slot, &digest(&octets), 9)]);
    assert_eq!(relay.events(), [Event::Stored { slot, digest: digest(&octets), expiry: 9 }]);
    assert!(!relay.session.is_busy() && !relay.session.is_waiting());
}

#[test]
fn only_a_signature_of_this_relay_for_this_content_and_slot_makes_it_stored() {
    let other = RelaySecret::new(&mut [6; 32]);
    let forge: [fn(&SlotId, &Digest, &RelaySecret) -> Answer; 5] = [
        |slot, digest, other| Answer::Stored(SlotOctets(slot.0), digest.0, 9, other.sign_stored(slot, &digest.0, 9)),
        |slot, digest, _| Answer::Stored(SlotOctets(slot.0), digest.0, 9, secret().sign_stored(slot, &digest.0, 8)),
        |slot, _, _| stored(slot, &Digest([1; 32]), 9),
        |slot, digest, _| {
            Answer::Stored(SlotOctets(slot.0), digest.0, 9, secret().sign_stored(&key(2).id(), &digest.0, 9))
        },
        |slot, digest, _| Answer::Stored(SlotOctets(slot.0), digest.0, 9, secret().sign_gone(slot)),
    ];
    for forge in forge {
        let mut relay = Scripted::up();
        let (slot, octets) = relay.filled(1);
        relay.answer(&[forge(&slot, &digest(&octets), &other)]);
        assert!(relay.events.iter().any(|event| matches!(event, Event::Note(_))));
        assert_eq!(relay.codes(), [Code::Wrong]);
        // The right answer comes too late: it is not asked for any more.
        relay.answer(&[stored(&slot, &digest(&octets), 9)]);
        assert_eq!(relay.events(), []);
    }
}

#[test]
fn only_a_signature_of_this_relay_makes_a_slot_gone_and_what_is_unasked_counts_for_nothing() {
    let mut relay = Scripted::up();
    let gone = |number| Answer::Gone(SlotOctets(key(number).id().0), secret().sign_gone(&key(number).id()));
    relay.answer(&[gone(1), stored(&key(1).id(), &Digest([0; 32]), 1), piece(&key(1).id(), 0, b"x")]);
    relay.answer(&[
        Answer::Refused(SlotOctets([0; 32]), 1, String::new()),
        Answer::Done(1),
        Answer::Listed(vec![], false),
    ]);
    assert_eq!(relay.events(), []);
    relay.command(Command::Delete(key(1)));
    let Some(Request::Delete(_, signature)) = relay.requests().pop() else { panic!("no DELETE") };
    assert!(key(1).id().verify_delete(&secret().public(), &signature));
    relay.answer(&[gone(2)]);
    assert_eq!(relay.events(), []);
    relay.answer(&[gone(1)]);
    assert_eq!(relay.events(), [Event::Gone(key(1).id())]);
    relay.command(Command::Delete(key(3)));
    relay.answer(&[Answer::Gone(SlotOctets(key(3).id().0), secret().sign_gone(&key(1).id()))]);
    assert_eq!(relay.codes(), [Code::Wrong]);
}

#[test]
fn a_content_is_gathered_in_order_and_asked_for_anew_from_where_it_was_right() {
    let mut relay = Scripted::up();
    let (slot, octets) = (key(1).id(), content(Class::K16, 1));
    relay.command(Command::Get(slot, Class::K16));
    assert_eq!(relay.requests(), [Request::Get(SlotOctets(slot.0), 0)]);
    let pieces = pieces_of(&slot, &octets);
    relay.answer(&pieces[..2]);
    // One is missing: those behind it are of no use.
    relay.answer(&pieces[3..]);
    assert_eq!(relay.requests(), [Request::Get(SlotOctets(slot.0), 2 * MAX_PIECE as u64)]);
    relay.answer(&pieces[2..]);
    assert_eq!(relay.events(), [Event::Content(slot, octets.to_vec())]);
    relay.command(Command::Get(slot, Class::K16));
    for _ in 0..=MAX_ANEW {
        relay.answer(&[piece(&slot, 0, &octets[..1]), piece(&slot, 7, b"x")]);
        if relay.session.book.tasks.is_empty() {
            break;
        }
        let have = relay.session.book.get(&slot).expect("still asked for").have.len();
        relay.answer(&[piece(&slot, have, b"x")]);
    }
    assert_eq!(relay.codes(), [Code::Wrong]);
}

#[test]
fn a_content_is_never_longer_than_its_class() {
    let mut relay = Scripted::up();
    let slot = key(1).id();
    relay.command(Command::Get(slot, Class::K16));
    let octets = content(Class::K16, 1);
    let pieces = pieces_of(&slot, &octets);
    relay.answer(&pieces[..pieces.len() - 1]);
    let have = (pieces.len() - 1) * MAX_PIECE;
    relay.answer(&[piece(&slot, have, &vec![0; octets.len() - have + 1])]);
    assert_eq!(relay.codes(), [Code::Wrong]);
}

#[test]
fn what_is_not_answered_is_asked_again_in_the_next_session_and_goes_on_where_it_was() {
    let mut relay = Scripted::new();
    let (put, get) = (key(1).id(), key(2).id());
    relay.command(Command::Register(vec![(get, Class::K16)]));
    relay.command(Command::Put { slot: key(1), octets: content(Class::K16, 1) });
    relay.command(Command::Get(get, Class::K16));
    relay.command(Command::List);
    relay.command(Command::Delete(key(3)));
    assert_eq!(relay.requests(), [], "nothing goes before the session is up");
    relay.input(Input::Online);
    let first = relay.hello;
    relay.answer(&[Answer::Done(1)]);
    relay.welcome();
    assert_eq!(relay.requests().len(), 5);
    relay.answer(&[piece(&get, 0, &[9; MAX_PIECE]), Answer::Continue(SlotOctets(put.0), 0)]);
    relay.input(Input::Offline);
    assert_eq!(relay.events().pop(), Some(Event::Down));
    relay.requests();
    relay.input(Input::Online);
    assert_ne!(relay.hello, first, "each session has a name of its own");
    relay.welcome();
    let requests = relay.requests();
    assert_eq!(requests.len(), 5, "{requests:?}");
    assert!(requests.contains(&Request::Get(SlotOctets(get.0), MAX_PIECE as u64)));
    assert!(requests.iter().any(|request| matches!(request, Request::Put(slot, ..) if slot.0 == put.0)));
    relay.answer(&[Answer::Done(1), Answer::Failed(1, 3, String::new()), Answer::Continue(SlotOctets(put.0), 1280)]);
    assert!(matches!(relay.requests().first(), Some(Request::Piece(_, 1280, _))));
    assert_eq!(relay.events().last(), Some(&Event::Registered(vec![get])), "and is answered once");
}

#[test]
fn a_long_list_comes_page_by_page_and_the_next_one_has_what_is_new() {
    let mut relay = Scripted::up();
    let page = |numbers: std::ops::Range<u64>| {
        numbers.map(|number| Filled { slot: SlotOctets([number as u8; 32]), number }).collect::<Vec<_>>()
    };
    relay.command(Command::List);
    relay.answer(&[Answer::Listed(page(1..29), true)]);
    relay.answer(&[Answer::Listed(page(29..31), false)]);
    assert_eq!(relay.requests(), [Request::List(0), Request::List(28)]);
    let slots: Vec<(SlotId, u64)> = (1..31).map(|number| (SlotId([number as u8; 32]), number)).collect();
    assert_eq!(relay.events(), [Event::Listed(slots)]);
    relay.command(Command::List);
    relay.command(Command::List);
    relay.answer(&[Answer::Listed(page(31..32), false), Answer::Listed(vec![], false)]);
    assert_eq!(relay.requests(), [Request::List(30), Request::List(31)]);
    assert_eq!(relay.events(), [Event::Listed(vec![(SlotId([31; 32]), 31)]), Event::Listed(vec![])]);
    relay.command(Command::List);
    relay.answer(&[Answer::Listed(page(31..32), false)]);
    assert!(relay.is_closed(), "slots that were listed before");
}

#[test]
fn whoever_breaks_the_protocol_is_not_listened_to_for_a_while_that_doubles() {
    let breaches: [&dyn Fn(&mut Scripted); 6] = [
        &|relay| relay.input(Input::Packet(b"\xff")),
        &|relay| relay.answer(&[Answer::Ack(7)]),
        &|relay| {
            relay.command(Command::List);
            relay.answer(&[Answer::Listed(vec![], true)]);
        },
        &|relay| (0..=MAX_STRAYS).for_each(|_| relay.answer(&[Answer::Done(77)])),
        &|relay| {
            let arrived = Answer::Arrived(Filled { slot: SlotOctets([1; 32]), number: 1 });
            (0..=MAX_ARRIVED).for_each(|_| relay.answer(std::slice::from_ref(&arrived)));
        },
        &|relay| relay.input(Input::CustomPacket(b"\xb8toxmail relay\xff")),
    ];
    for breach in breaches {
        let mut relay = Scripted::up();
        breach(&mut relay);
        assert!(relay.is_closed());
        assert!(relay.events().contains(&Event::Down));
        assert!(!relay.session.is_up());
        relay.input(Input::Offline);
        relay.input(Input::Online);
        assert!(relay.is_closed(), "it cannot shorten that");
        let before = relay.now;
        relay.wait();
        assert_eq!(relay.now - before, CLOSED);
        relay.welcome();
        breach(&mut relay);
        let before = relay.now;
        relay.wait();
        assert_eq!(relay.now - before, 2 * CLOSED);
    }
}

#[test]
fn nothing_counts_before_the_welcome_of_this_session_by_this_relay() {
    let mut relay = Scripted::new();
    relay.command(Command::List);
    relay.input(Input::Online);
    relay.answer(&[Answer::Listed(vec![], false), Answer::Ack(9)]);
    let welcome = relay.welcome_of();
    relay.input(Input::CustomPacket(&Welcome { session: [0; 8], ..welcome.clone() }.to_packet()));
    assert_eq!((relay.events(), relay.requests()), (vec![], vec![]));
    let first = relay.hello;
    relay.wait();
    assert_eq!(relay.hello, first, "the same HELLO is said again");
    relay.input(Input::CustomPacket(&Welcome { relay: [9; 32], ..welcome.clone() }.to_packet()));
    assert!(relay.is_closed(), "another relay");
    relay.wait();
    let welcome = relay.welcome_of();
    relay.input(Input::CustomPacket(&Welcome { version: 2, ..welcome.clone() }.to_packet()));
    assert!(relay.is_closed(), "another version");
    relay.wait();
    relay.welcome();
    assert_eq!(relay.events(), [Event::Up(relay.welcome_of())]);
    assert_eq!(relay.requests(), [Request::List(0)]);
}

#[test]
fn a_relay_that_does_not_answer_is_asked_in_three_sessions_and_then_counts_as_busy() {
    let mut relay = Scripted::up();
    relay.command(Command::Get(key(1).id(), Class::K16));
    relay.command(Command::Delete(key(2)));
    relay.command(Command::Register(vec![(key(3).id(), Class::K16)]));
    for session in 1..=MAX_SILENT {
        let first = relay.hello;
        let before = relay.now;
        while relay.hello == first {
            relay.wait();
        }
        assert_eq!(relay.now - before, SILENCE);
        let events = relay.events();
        assert_eq!(events.len(), if session == MAX_SILENT { 4 } else { 1 }, "{events:?}");
        assert_eq!(events[0], Event::Down);
        if session == MAX_SILENT {
            assert!(matches!(events[1], Event::Refused { code: Code::Busy, .. }));
            assert!(matches!(events[3], Event::NotRegistered(_, Code::Busy, _)));
        }
        relay.welcome();
        relay.events.remove(0);
    }
    assert!(!relay.session.is_waiting());
}

#[test]
fn a_relay_that_trickles_is_given_up_after_an_hour() {
    let mut relay = Scripted::up();
    let slot = key(1).id();
    relay.command(Command::Get(slot, Class::K16));
    relay.command(Command::List);
    let mut offset = 0;
    while relay.session.is_waiting() {
        assert!(relay.now < MAX_SPENT + 2 * SILENCE);
        relay.answer(&[piece(&slot, offset, b"x")]);
        offset += 1;
        relay.now += SILENCE / 2;
        let mut out = Vec::new();
        relay.session.poll(relay.now, &mut out);
        relay.take(out);
    }
    assert!(relay.events.contains(&Event::NotListed));
    assert_eq!(relay.codes(), [Code::Busy]);
}

#[test]
fn what_is_asked_for_at_a_time_is_limited() {
    let mut relay = Scripted::up();
    for number in 0..20 {
        relay.command(Command::Get(key(number).id(), Class::M1));
        relay.command(Command::Put { slot: key(100 + number), octets: content(Class::K16, number) });
    }
    let requests = relay.requests();
    assert_eq!(requests.iter().filter(|request| matches!(request, Request::Get(..))).count(), 4, "4 MiB");
    assert_eq!(requests.iter().filter(|request| matches!(request, Request::Put(..))).count(), PUTS);
    relay.answer(&[Answer::Refused(SlotOctets(key(0).id().0), 1, "no".into())]);
    assert_eq!(relay.requests(), [Request::Get(SlotOctets(key(4).id().0), 0)]);
    relay.answer(&[Answer::Refused(SlotOctets(key(100).id().0), 1, "no".into())]);
    assert_eq!(relay.requests().len(), 1);
    relay.answer(&[Answer::Refused(SlotOctets(key(119).id().0), 1, "no".into())]);
    assert_eq!(relay.codes(), [Code::Unknown, Code::Unknown], "what was not asked yet cannot be refused");
    for number in 0..2000 {
        relay.command(Command::Delete(key(1000 + number)));
    }
    assert!(relay.session.is_waiting());
    assert!(relay.requests().len() < MAX_ASKED);
}

#[test]
fn a_slot_that_is_to_be_emptied_is_not_filled_any_more() {
    let mut relay = Scripted::up();
    let (slot, octets) = relay.filled(1);
    relay.command(Command::Delete(key(1)));
    relay.command(Command::Put { slot: key(1), octets: octets.clone() });
    assert!(matches!(relay.requests().last(), Some(Request::Delete(..))));
    relay.answer(&[stored(&slot, &digest(&octets), 1)]);
    relay.answer(&[Answer::Gone(SlotOctets(slot.0), secret().sign_gone(&slot))]);
    assert_eq!(relay.events, [Event::Gone(slot)], "not even a note: the two crossed");
}

#[test]
fn what_is_asked_again_before_it_is_answered_is_sent_once() {
    let mut relay = Scripted::new();
    let slots: Vec<(SlotId, Class)> = (0..30).map(|number| (key(number).id(), Class::K16)).collect();
    for _ in 0..3 {
        relay.command(Command::Register(slots.clone()));
        relay.command(Command::List);
        relay.command(Command::Get(key(50).id(), Class::K16));
        relay.command(Command::Delete(key(51)));
    }
    relay.command(Command::Unregister(vec![slots[0].0]));
    relay.command(Command::Register(vec![slots[0]]));
    relay.input(Input::Online);
    relay.welcome();
    let count = |of: fn(&Request) -> bool| relay.requests.iter().filter(|request| of(request)).count();
    assert_eq!(count(|request| matches!(request, Request::Register(..))), 3, "30 slots, and one anew");
    assert_eq!(relay.requests.len(), 7, "{:?}", relay.requests);
}

#[test]
fn contents_of_no_class_are_not_even_sent() {
    let mut relay = Scripted::up();
    relay.command(Command::Put { slot: key(1), octets: Arc::from([0; 100]) });
    assert_eq!((relay.codes(), relay.requests()), (vec![Code::Wrong], vec![]));
}

#[test]
fn no_more_packets_are_on_their_way_than_a_tcp_relay_bears() {
    let mut relay = Scripted::new();
    relay.acknowledges = false;
    relay.input(Input::Relayed(true));
    relay.input(Input::Online);
    relay.welcome();
    let slot = key(1).id();
    relay.command(Command::Put { slot: key(1), octets: content(Class::K128, 1) });
    relay.answer(&[Answer::Continue(SlotOctets(slot.0), 0)]);
    assert_eq!(relay.requests().len(), crate::engine::window::RELAYED);
    assert!(relay.session.is_busy());
}

/// What a hostile relay may do.
#[derive(Debug, Clone)]
enum Trick {
    Command(u8, u64),
    Answer(Answer),
    Octets(Vec<u8>),
    Custom(Vec<u8>),
    Welcome,
    Wait,
    Reconnect,
    SendFailed,
}

fn tricks() -> impl Strategy<Value = Trick> {
    let slot = || (0..4u64).prop_map(|number| SlotOctets(key(number).id().0));
    let filled = || (slot(), 0..9u64).prop_map(|(slot, number)| Filled { slot, number });
    let offset = || prop_oneof![Just(0u64), (0..14u64).prop_map(|piece| piece * MAX_PIECE as u64), any::<u64>()];
    // It signs what it likes, but for what was asked for.
    let signed = || (0..4u64).prop_map(|number| secret().sign_gone(&SlotId([number as u8; 32])));
    let answer = prop_oneof![
        (0..40u64).prop_map(Answer::Ack),
        (0..9u32).prop_map(Answer::Done),
        (0..9u32, any::<u8>()).prop_map(|(number, code)| Answer::Failed(number, code, "x".into())),
        (slot(), offset()).prop_map(|(slot, offset)| Answer::Continue(slot, offset)),
        (slot(), 0..4u64, signed()).prop_map(|(slot, of, signature)| Answer::Stored(
            slot,
            digest(&content(Class::K16, of)).0,
            1,
            signature
        )),
        (slot(), any::<u8>()).prop_map(|(slot, code)| Answer::Refused(slot, code, "x".into())),
        (prop::collection::vec(filled(), 0..4), any::<bool>()).prop_map(|(slots, more)| Answer::Listed(slots, more)),
        (slot(), offset(), 0..=MAX_PIECE).prop_map(|(slot, at, length)| Answer::Piece(slot, at, vec![0; length])),
        (slot(), signed()).prop_map(|(slot, signature)| Answer::Gone(slot, signature)),
        filled().prop_map(Answer::Arrived),
    ];
    prop_oneof![
        4 => (0..7u8, 0..4u64).prop_map(|(what, slot)| Trick::Command(what, slot)),
        12 => answer.prop_map(Trick::Answer),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Trick::Octets),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Trick::Custom),
        4 => Just(Trick::Welcome),
        2 => Just(Trick::Wait),
        1 => Just(Trick::Reconnect),
        1 => Just(Trick::SendFailed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Nothing that a relay without the right signatures does has a slot stored or gone, has anything answered that was not
    /// asked, or takes more memory than was asked for.
    #[test]
    fn no_relay_makes_a_client_panic_believe_or_hoard(tricks in prop::collection::vec(tricks(), 0..150)) {
        let mut relay = Scripted::new();
        relay.acknowledges = false;
        let mut asked = 0usize;
        relay.input(Input::Online);
        for trick in tricks {
            match trick {
                Trick::Command(what, slot) => {
                    asked += 1;
                    relay.command(match what {
                        0 => Command::Register(vec![(key(slot).id(), Class::K16)]),
                        1 => Command::Unregister(vec![key(slot).id()]),
                        2 | 3 => Command::Put { slot: key(slot), octets: content(Class::K16, slot) },
                        4 => Command::List,
                        5 => Command::Get(key(slot).id(), Class::K16),
                        _ => Command::Delete(key(slot)),
                    });
                }
                Trick::Answer(answer) => relay.answer(&[answer]),
                Trick::Octets(octets) => relay.input(Input::Packet(&octets)),
                Trick::Custom(octets) => {
                    relay.input(Input::CustomPacket(&[b"\xb8toxmail relay", &octets[..]].concat()));
                }
                Trick::Welcome => relay.welcome(),
                Trick::Wait if relay.session.deadline().is_some() => relay.wait(),
                Trick::Wait => {}
                Trick::Reconnect => {
                    relay.input(Input::Offline);
                    relay.input(Input::Online);
                }
                Trick::SendFailed => relay.input(Input::SendFailed),
            }
            let gathered: usize = relay.session.book.tasks.values().map(|task| match &task.kind {
                Kind::Get(get) => get.have.len(),
                _ => 0,
            }).sum();
            prop_assert!(gathered <= 4 * Class::K16.octets());
            if let State::Up(link) = &relay.session.state {
                let sent = relay.session.book.efforts().filter(|effort| effort.since.is_some()).count();
                prop_assert_eq!(link.plan.asked, sent);
            }
        }
        let answers = relay.events.iter().filter(|event| {
            !matches!(event, Event::Up(_) | Event::Down | Event::Note(_) | Event::Arrived(..))
        });
        prop_assert!(answers.count() <= asked);
        let believed = relay.events.iter().any(|event| matches!(event, Event::Stored { .. } | Event::Gone(_)));
        prop_assert!(!believed);
    }
}

#[test]
fn a_slot_that_is_somebody_elses_keeps_none_of_the_others_out() {
    let mut relay = Scripted::up();
    let slots: Vec<(SlotId, Class)> = (0..28).map(|number| (key(number).id(), Class::K16)).collect();
    let (taken, mut requests) = (key(9).id(), 0);
    relay.input(Input::Command(Box::new(Command::Register(slots.clone()))));
    while let Some(request) = relay.requests.pop() {
        let Request::Register(number, slots) = request else { panic!("{request:?}") };
        requests += 1;
        let refused = slots.iter().any(|slot| slot.slot == taken.0);
        relay.answer(&[if refused {
            Answer::Failed(number, Code::Taken as u8, "registered otherwise".into())
        } else {
            Answer::Done(number)
        }]);
    }
    assert!(requests <= 12, "halves: {requests} requests");
    let (mut registered, mut refused) = (Vec::new(), Vec::new());
    for event in &relay.events {
        match event {
            Event::Registered(slots) => registered.extend(slots.clone()),
            Event::NotRegistered(slots, Code::Taken, _) => refused.extend(slots.clone()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((registered.len(), refused), (27, vec![taken]));
    assert!(!relay.session.is_waiting());
}
