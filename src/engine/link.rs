//! The link: the session with each online contact of one account. Greeting, packets, acknowledgements, and what to do
//! with a peer that does not keep the rules.
//!
//! The owner feeds [`Input`]s with [`Engine::handle`], then calls [`Engine::poll`], and carries out the [`Action`]s in
//! order, feeding back what they bring.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::incoming::{Context, Receiving};
use super::outgoing::{BULK_CREDITS, SMALL_CREDITS, Sending};
use super::rules::Rules;
use super::transfer::{Delivery, Digester, MailId, Outcome, PartialKey, Transfer};
use super::window::{RELAYED, Window};
use super::wire::{Frame, Frames, Hello, MAX_PACKET, MAX_WORD, Session, VERSION};
use crate::identity::tox_id::PublicKey;
use crate::mail::status::Refusal;

const SECOND: u64 = 1_000_000;
/// When HELLO is said again to a peer that did not answer; doubles up to [`HELLO_MAX`].
const HELLO_AGAIN: u64 = 5 * SECOND;
const HELLO_MAX: u64 = 300 * SECOND;
/// How long a peer that broke the rules is not listened to; doubles each time up to [`CLOSED_MAX`].
const CLOSED: u64 = 60 * SECOND;
const CLOSED_MAX: u64 = 3600 * SECOND;
/// How long packets may stay unacknowledged before the session is set up anew.
const UNACKNOWLEDGED: u64 = 60 * SECOND;
/// A peer that lets this many answers pile up reads nothing: more than max_transfers mails can bring.
const MAX_BACKLOG: usize = 32_768;
/// A peer that says HELLO more often than this in [`NOTE_EVERY`] is out of its mind.
const MAX_HELLOS: u32 = 100;
/// How many words about lanes a peer may say in one session: each costs the check of a signature. An honest one says three
/// when it comes up, and one a week.
pub const MAX_WORDS: u32 = 1000;
/// What a peer that is not let in is told.
const DECLINE: &str = "the recipient does not want to exchange mail with you";
/// How often a peer's misbehaviour is worth a log line.
const NOTE_EVERY: u64 = 60 * SECOND;

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The friend came online.
    Online(PublicKey),
    /// Whether the way to the friend leads over a TCP relay; told before [`Input::Online`] and when it changes.
    Relayed(PublicKey, bool),
    /// The friend went offline.
    Offline(PublicKey),
    /// A custom packet of the friend.
    CustomPacket(PublicKey, &'a [u8]),
    /// A message of the friend: a packet of the link.
    Packet(PublicKey, &'a [u8]),
    /// A packet that was to be sent was not taken, so the session has a gap. What the actions at hand have for this peer
    /// after it must not be sent either, up to its next HELLO.
    SendFailed(PublicKey),
    /// Transfers from the queue, for the session that asked for them.
    Work {
        /// For whom.
        peer: PublicKey,
        /// The session's number, as [`Action::LinkUp`] gave it.
        epoch: u64,
        /// In the order in which they are to be sent.
        transfers: Vec<Transfer>,
    },
    /// The answer to [`Action::ReadBody`].
    Chunk {
        /// For whom.
        peer: PublicKey,
        /// Of which transfer.
        transfer: MailId,
        /// Where it begins.
        offset: u64,
        /// The octets, or `None` when they cannot be read.
        octets: Option<Vec<u8>>,
    },
    /// The answer to [`Action::Lookup`].
    Found {
        /// Of whom.
        peer: PublicKey,
        /// The transfer, as the action numbered it.
        stream: u32,
        /// Whether each mailbox asked about has the mail.
        stored: Vec<bool>,
        /// Length of the partial file in octets.
        offset: u64,
    },
    /// An [`Action::Append`] failed.
    AppendFailed {
        /// Of whom.
        peer: PublicKey,
        /// The transfer, as the action numbered it.
        stream: u32,
        /// What to tell the peer.
        refusal: Refusal,
    },
    /// An [`Action::Deliver`] ended; a success is on disk.
    Delivered {
        /// Of whom.
        peer: PublicKey,
        /// Which mail.
        id: MailId,
        /// Number and result of each recipient.
        results: Vec<(u32, Result<(), Refusal>)>,
    },
    /// The answers to all recipients of a transfer are on disk.
    Recorded {
        /// Of whom.
        peer: PublicKey,
        /// Which mail.
        id: MailId,
    },
    /// Whether mail can be stored: `Some` tells why not.
    Storage(Option<Refusal>),
    /// Say a word about lanes, if the link is up.
    SayLane {
        /// To whom.
        peer: PublicKey,
        /// What kind.
        kind: u64,
        /// Its octets, at most [`MAX_WORD`].
        octets: Vec<u8>,
    },
    /// Whether this peer is not to be let in, and is told so whenever it is online.
    Decline(PublicKey, bool),
    /// An [`Action::Declined`] is on disk.
    DeclineRecorded {
        /// By whom.
        peer: PublicKey,
        /// Its session, as the action gave it.
        session: Session,
    },
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a custom packet.
    SendCustom {
        /// To whom.
        peer: PublicKey,
        /// Its octets.
        packet: Vec<u8>,
    },
    /// Send a message.
    Send {
        /// To whom.
        peer: PublicKey,
        /// Its octets, at most [`MAX_PACKET`].
        packet: Vec<u8>,
    },
    /// A session is up: transfers for this peer are wanted, so many of each kind at a time.
    LinkUp {
        /// With whom.
        peer: PublicKey,
        /// Number of the session, to be given back with [`Input::Work`].
        epoch: u64,
        /// Transfers of small mail.
        small: u32,
        /// Transfers of bulk mail.
        bulk: u32,
    },
    /// So many more transfers are wanted.
    Grant {
        /// For whom.
        peer: PublicKey,
        /// Of small mail.
        small: u32,
        /// Of bulk mail.
        bulk: u32,
    },
    /// The session is over: every transfer without an [`Action::Outcome`] goes back into the queue.
    LinkDown {
        /// With whom.
        peer: PublicKey,
    },
    /// Read a piece of a queued body and give it as [`Input::Chunk`].
    ReadBody {
        /// For whom.
        peer: PublicKey,
        /// Of which transfer.
        transfer: MailId,
        /// Its mail in the queue.
        mail: i64,
        /// From here.
        offset: u64,
        /// So many octets.
        length: u64,
    },
    /// The body of this transfer is not read any more.
    CloseBody {
        /// Of which transfer.
        transfer: MailId,
    },
    /// Record what became of a recipient.
    Outcome {
        /// The peer.
        peer: PublicKey,
        /// The transfer.
        transfer: MailId,
        /// Its mail in the queue.
        mail: i64,
        /// The recipient's number.
        index: u32,
        /// What became of it.
        outcome: Outcome,
    },
    /// Look up what is stored of a mail and give it as [`Input::Found`].
    Lookup {
        /// The peer.
        peer: PublicKey,
        /// The transfer, by a number that is never used again, so that an answer may come however late.
        stream: u32,
        /// The mail.
        id: MailId,
        /// The mailboxes it is for.
        mailboxes: Vec<usize>,
        /// Its partial file, for bulk mail.
        partial: Option<PartialKey>,
    },
    /// Write a piece of a partial file; [`Input::AppendFailed`] if that fails.
    Append {
        /// The peer.
        peer: PublicKey,
        /// The transfer, by the same number as in [`Action::Lookup`].
        stream: u32,
        /// The file.
        partial: PartialKey,
        /// Where the piece belongs.
        offset: u64,
        /// The piece.
        octets: Vec<u8>,
    },
    /// Verify a mail and put it into mailboxes, then give [`Input::Delivered`].
    Deliver(Delivery),
    /// The peer will not offer this mail again: it need not be remembered.
    Forget {
        /// The peer.
        peer: PublicKey,
        /// The mail.
        id: MailId,
    },
    /// The peer takes no mail of ours: what waits for it fails. To be answered with [`Input::DeclineRecorded`].
    Declined {
        /// Who.
        peer: PublicKey,
        /// Its session.
        session: Session,
        /// Its words, at most [`MAX_DECLINE`](super::wire::MAX_DECLINE) characters.
        text: String,
    },
    /// The peer has heard, and recorded, that it is not let in.
    DeclineHeard {
        /// Who.
        peer: PublicKey,
    },
    /// A word of the peer about lanes.
    Lane {
        /// Whose.
        peer: PublicKey,
        /// What kind.
        kind: u64,
        /// Its octets, at most [`MAX_WORD`].
        octets: Vec<u8>,
    },
    /// Something about a peer that the operator should know; already limited to one a peer and minute.
    Note {
        /// The peer.
        peer: PublicKey,
        /// What.
        text: String,
    },
}

struct Greeting {
    session: Session,
    /// The peer's session of which we told it that we heard.
    told: Option<Session>,
    again_at: u64,
    wait: u64,
}

struct Link {
    session: Session,
    epoch: u64,
    remote: Hello,
    window: Window,
    sending: Sending,
    receiving: Receiving,
    /// Packets taken in that count, and how many of them were acknowledged.
    received: u64,
    acknowledged: u64,
    /// Whether the peer's link is known to be up too, by any packet of it.
    heard: bool,
    /// How often the peer said HELLO although this link is up and nothing was heard on its.
    hellos: u32,
    /// How many words about lanes it said.
    words: u32,
}

impl Link {
    fn is_busy(&self) -> bool {
        self.window.in_flight() > 0 || self.sending.is_busy() || self.receiving.is_busy()
    }
}

enum State {
    Offline,
    Greeting(Greeting),
    Up(Box<Link>),
    /// Not listened to until then.
    Closed {
        until: u64,
    },
}

struct Peer {
    online: bool,
    relayed: bool,
    /// Whether it is not let in.
    declined: bool,
    state: State,
    /// How often it broke the rules since it last took a mail.
    violations: u32,
    noted_at: Option<u64>,
    unnoted: u32,
    hellos: u32,
    hellos_since: u64,
    /// Its mails on their way into mailboxes; they outlive the session.
    delivering: HashSet<MailId>,
}

/// All links of one account.
pub struct Engine {
    rules: Rules,
    seed: [u8; 32],
    drawn: u64,
    epochs: u64,
    peers: BTreeMap<PublicKey, Peer>,
    tickets: u32,
    storage: Option<Refusal>,
    /// Peers for whom something may have to be sent.
    dirty: BTreeSet<PublicKey>,
    /// When something may be late; `u64::MAX` when nothing is awaited.
    next_check: u64,
}

impl Engine {
    /// Goes by these rules from now on. What was told in HELLO stays said: a peer may offer what is refused then.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// The engine of an account with these rules; `seed` is secret and random.
    pub fn new(rules: Rules, seed: [u8; 32]) -> Self {
        Self {
            rules,
            seed,
            drawn: 0,
            epochs: 0,
            peers: BTreeMap::new(),
            tickets: 0,
            storage: None,
            dirty: BTreeSet::new(),
            next_check: u64::MAX,
        }
    }

    /// Whether a mail link with the peer is up.
    pub fn is_up(&self, peer: &PublicKey) -> bool {
        self.peers.get(peer).is_some_and(|peer| matches!(peer.state, State::Up(_)))
    }

    /// Whether any transfer is unfinished or packet unacknowledged.
    pub fn is_busy(&self) -> bool {
        self.peers.values().any(|peer| matches!(&peer.state, State::Up(link) if link.is_busy()))
    }

    /// Takes a mail of the peer that came by relays into the hand, so that no transfer of it delivers it as well; to be given
    /// back by [`Input::Delivered`]. `false` while it is in a hand already.
    pub fn claim(&mut self, peer: PublicKey, id: MailId) -> bool {
        self.peer(peer).delivering.insert(id)
    }

    /// What the account takes.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Why nothing can be stored at the moment, if so.
    pub fn storage(&self) -> Option<&Refusal> {
        self.storage.as_ref()
    }

    /// The octets sent so far of every transfer to this peer.
    pub fn progress(&self, peer: &PublicKey) -> Vec<(MailId, u64)> {
        match self.peers.get(peer).map(|peer| &peer.state) {
            Some(State::Up(link)) => link.sending.progress().collect(),
            _ => Vec::new(),
        }
    }

    fn draw(&mut self) -> Session {
        self.drawn += 1;
        let mut hash = Digester::default();
        hash.update(&self.seed);
        hash.update(&self.drawn.to_be_bytes());
        let mut session = [0; 8];
        session.copy_from_slice(&hash.finish().0[..8]);
        session
    }

    fn hello(&self, to: &PublicKey, session: Session, heard: Option<Session>) -> Vec<u8> {
        let declined = self.peers.get(to).is_some_and(|peer| peer.declined);
        Hello {
            // Who is not let in finds no version in common, whether or not its program knows why.
            versions: if declined { Vec::new() } else { vec![VERSION] },
            declined: declined.then(|| DECLINE.to_owned()),
            session,
            heard,
            software: self.rules.software.clone(),
            max_size: self.rules.max_size,
            max_transfers: self.rules.max_transfers as u32,
            max_burst: self.rules.max_burst,
        }
        .to_packet()
    }

    fn peer(&mut self, key: PublicKey) -> &mut Peer {
        self.peers.entry(key).or_insert(Peer {
            online: false,
            relayed: false,
            declined: false,
            state: State::Offline,
            violations: 0,
            noted_at: None,
            unnoted: 0,
            hellos: 0,
            hellos_since: 0,
            delivering: HashSet::new(),
        })
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: u64, input: Input<'_>, out: &mut Vec<Action>) {
        match input {
            Input::Online(peer) => {
                self.peer(peer).online = true;
                if !matches!(self.peer(peer).state, State::Up(_) | State::Greeting(_) | State::Closed { .. }) {
                    self.greet(now, peer, None, out);
                }
            }
            Input::Relayed(peer, relayed) => {
                self.peer(peer).relayed = relayed;
                self.dirty.insert(peer);
            }
            Input::Offline(peer) => {
                self.leave(peer, out);
                // A peer that was cut off stays so: going offline is no way to be heard sooner.
                let peer = self.peer(peer);
                peer.online = false;
                if !matches!(peer.state, State::Closed { .. }) {
                    peer.state = State::Offline;
                }
            }
            Input::CustomPacket(peer, packet) => match Hello::from_packet(packet) {
                None => {}
                Some(_) if matches!(self.peer(peer).state, State::Closed { .. }) => {}
                Some(_) if self.too_many_hellos(now, peer) => {
                    self.close(now, peer, "says HELLO again and again", out);
                }
                Some(Ok(hello)) => self.on_hello(now, peer, hello, out),
                Some(Err(error)) => self.close(now, peer, &format!("malformed HELLO: {error}"), out),
            },
            Input::Packet(peer, packet) => self.on_packet(now, peer, packet, out),
            Input::SendFailed(peer) => {
                if matches!(self.peer(peer).state, State::Up(_)) {
                    self.leave(peer, out);
                    self.greet(now, peer, None, out);
                }
            }
            Input::Work { peer, epoch, transfers } => {
                if let Some(link) = self.link(&peer)
                    && link.epoch == epoch
                {
                    for transfer in transfers {
                        link.sending.take(&peer, &link.remote, transfer, out);
                    }
                }
                // For a session that is over nothing needs to be done: its LinkDown put the transfers back.
            }
            Input::Chunk { peer, transfer, offset, octets } => {
                if let Some(link) = self.link(&peer) {
                    link.sending.chunk(now, &peer, &transfer, offset, octets, out);
                }
            }
            Input::Found { peer, stream, stored, offset } => {
                self.receive(now, peer, out, |receiving, cx| Ok(receiving.found(cx, stream, &stored, offset)));
            }
            Input::AppendFailed { peer, stream, refusal } => {
                let text = format!("cannot store incoming mail: {refusal}");
                self.note(now, peer, text, out);
                self.receive(now, peer, out, |receiving, _| {
                    Ok(receiving.append_failed(stream, &refusal).into_iter().collect())
                });
            }
            Input::Delivered { peer, id, results } => {
                self.peer(peer).delivering.remove(&id);
                self.receive(now, peer, out, |receiving, cx| Ok(receiving.delivered(cx, &id, &results)));
            }
            Input::Recorded { peer, id } => {
                let state = self.peer(peer);
                state.violations = 0;
                if let Some(link) = self.link(&peer) {
                    link.sending.control(&Frame::Done(id));
                }
            }
            Input::Storage(refusal) => self.storage = refusal,
            Input::SayLane { peer, kind, octets } => {
                if let Some(link) = self.link(&peer) {
                    link.sending.control(&Frame::Lane { kind, octets: &octets });
                }
            }
            Input::Decline(peer, declined) => {
                self.leave(peer, out);
                let state = self.peer(peer);
                state.declined = declined;
                if state.online {
                    self.greet(now, peer, None, out);
                }
            }
            Input::DeclineRecorded { peer, session } => {
                if self.peer(peer).online {
                    self.greet(now, peer, Some(session), out);
                }
            }
        }
    }

    fn link(&mut self, peer: &PublicKey) -> Option<&mut Link> {
        match &mut self.peers.get_mut(peer)?.state {
            State::Up(link) => {
                self.dirty.insert(*peer);
                Some(link)
            }
            _ => None,
        }
    }

    /// Lets the receiving half of a link do something, sends what it answers, and cuts the peer off if it must be.
    fn receive(
        &mut self,
        now: u64,
        peer: PublicKey,
        out: &mut Vec<Action>,
        work: impl FnOnce(&mut Receiving, &mut Context<'_>) -> Result<Vec<Frame<'static>>, &'static str>,
    ) {
        let Some(Peer { state: State::Up(link), delivering, .. }) = self.peers.get_mut(&peer) else { return };
        self.dirty.insert(peer);
        let first = out.len();
        let mut cx = Context {
            now,
            peer,
            rules: &self.rules,
            storage: self.storage.as_ref(),
            delivering,
            tickets: &mut self.tickets,
            out,
        };
        let result = work(&mut link.receiving, &mut cx);
        let violation = match result {
            Ok(replies) => {
                replies.iter().for_each(|reply| link.sending.control(reply));
                None
            }
            Err(violation) => Some(violation),
        };
        // Notes of the receiving half pass the limit of notes.
        let notes: Vec<Action> = out.extract_if(first.., |action| matches!(action, Action::Note { .. })).collect();
        for note in notes {
            if let Action::Note { peer, text } = note {
                self.note(now, peer, text, out);
            }
        }
        if let Some(violation) = violation {
            self.close(now, peer, violation, out);
        }
    }

    fn note(&mut self, now: u64, key: PublicKey, text: String, out: &mut Vec<Action>) {
        let peer = self.peer(key);
        if peer.noted_at.is_some_and(|at| now.saturating_sub(at) < NOTE_EVERY) {
            peer.unnoted += 1;
            return;
        }
        peer.noted_at = Some(now);
        let more = std::mem::take(&mut peer.unnoted);
        let text = if more > 0 { format!("{text} (and {more} more since the last line)") } else { text };
        out.push(Action::Note { peer: key, text });
    }

    /// Begins a session: says HELLO and waits for the answer.
    fn greet(&mut self, now: u64, peer: PublicKey, told: Option<Session>, out: &mut Vec<Action>) {
        let session = self.draw();
        out.push(Action::SendCustom { peer, packet: self.hello(&peer, session, told) });
        let greeting = Greeting { session, told, again_at: now + HELLO_AGAIN, wait: HELLO_AGAIN };
        self.peer(peer).state = State::Greeting(greeting);
        self.next_check = self.next_check.min(now + HELLO_AGAIN);
    }

    /// Ends a session, if there is one.
    fn leave(&mut self, peer: PublicKey, out: &mut Vec<Action>) {
        if let State::Up(link) = &self.peer(peer).state {
            link.sending.close_bodies(out);
            self.peer(peer).state = State::Offline;
            self.dirty.remove(&peer);
            out.push(Action::LinkDown { peer });
        }
    }

    fn on_hello(&mut self, now: u64, key: PublicKey, hello: Hello, out: &mut Vec<Action>) {
        if self.peer(key).declined {
            return self.on_hello_of_declined(now, key, &hello, out);
        }
        if let Some(text) = hello.declined {
            self.leave(key, out);
            return out.push(Action::Declined { peer: key, session: hello.session, text });
        }
        if !hello.versions.contains(&VERSION) {
            let text = format!("speaks other versions of the protocol ({:?}, {})", hello.versions, hello.software);
            if matches!(&self.peer(key).state, State::Up(link) if link.remote.session != hello.session) {
                self.leave(key, out);
            }
            return self.note(now, key, text, out);
        }
        match &mut self.peer(key).state {
            State::Closed { .. } => {}
            State::Offline => self.greet(now, key, Some(hello.session), out),
            State::Up(link) if link.remote.session == hello.session => {
                link.hellos += 1;
                let (session, heard) = (link.session, link.remote.session);
                // Of a peer that was heard it was said before the answer arrived, unless that packet was one of an earlier
                // session: then more of them follow.
                let late = if link.heard { 2 } else { 1 };
                if link.hellos == 1 && !link.heard && link.window.is_fresh() {
                    // It may have missed that we heard it.
                    out.push(Action::SendCustom { peer: key, packet: self.hello(&key, session, Some(heard)) });
                    out.push(up_too(key));
                } else if link.hellos > late {
                    // It keeps asking, and does not listen to what was sent to it: only a new session has no gap.
                    self.leave(key, out);
                    self.greet(now, key, Some(heard), out);
                }
            }
            State::Up(_) => {
                // It began anew, without our having noticed that it was gone.
                self.leave(key, out);
                self.greet(now, key, Some(hello.session), out);
            }
            State::Greeting(greeting) => {
                let session = greeting.session;
                let heard = hello.session;
                if greeting.told != Some(heard) {
                    greeting.told = Some(heard);
                    let packet = self.hello(&key, session, Some(heard));
                    out.push(Action::SendCustom { peer: key, packet });
                }
                if hello.heard == Some(session) {
                    self.epochs += 1;
                    let epoch = self.epochs;
                    self.peer(key).state = State::Up(Box::new(Link {
                        session,
                        epoch,
                        remote: hello,
                        window: Window::new(),
                        sending: Sending::new(&session),
                        receiving: Receiving::default(),
                        received: 0,
                        acknowledged: 0,
                        heard: false,
                        hellos: 0,
                        words: 0,
                    }));
                    out.push(Action::LinkUp { peer: key, epoch, small: SMALL_CREDITS, bulk: BULK_CREDITS });
                    out.push(up_too(key));
                }
            }
        }
    }

    /// A peer that is not let in speaks: it hears why, until it says that it has.
    fn on_hello_of_declined(&mut self, now: u64, key: PublicKey, hello: &Hello, out: &mut Vec<Action>) {
        match &mut self.peer(key).state {
            State::Closed { .. } => {}
            State::Greeting(greeting) if hello.heard == Some(greeting.session) => {
                self.peer(key).state = State::Offline;
                out.push(Action::DeclineHeard { peer: key });
            }
            // The session stays, or the two would talk past each other.
            State::Greeting(greeting) => {
                let session = greeting.session;
                if greeting.told.replace(hello.session) != Some(hello.session) {
                    let packet = self.hello(&key, session, Some(hello.session));
                    out.push(Action::SendCustom { peer: key, packet });
                }
            }
            State::Offline | State::Up(_) => self.greet(now, key, Some(hello.session), out),
        }
    }

    fn too_many_hellos(&mut self, now: u64, key: PublicKey) -> bool {
        let peer = self.peer(key);
        if now.saturating_sub(peer.hellos_since) > NOTE_EVERY {
            (peer.hellos_since, peer.hellos) = (now, 0);
        }
        peer.hellos += 1;
        peer.hellos > MAX_HELLOS
    }

    fn on_packet(&mut self, now: u64, peer: PublicKey, packet: &[u8], out: &mut Vec<Action>) {
        match self.link(&peer) {
            Some(link) => link.heard = true,
            None => return,
        }
        let mut counts = false;
        for frame in Frames::new(packet) {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return self.close(now, peer, &format!("malformed packet: {error}"), out),
            };
            counts |= !matches!(frame, Frame::Ack(_));
            self.on_frame(now, peer, frame, out);
            if !self.is_up(&peer) {
                return;
            }
        }
        if let Some(link) = self.link(&peer) {
            link.received += u64::from(counts);
        }
    }

    fn on_frame(&mut self, now: u64, peer: PublicKey, frame: Frame<'_>, out: &mut Vec<Action>) {
        let one = |reply: Option<Frame<'static>>| reply.into_iter().collect::<Vec<_>>();
        match frame {
            Frame::Offer(offer) => self.receive(now, peer, out, |r, cx| r.offer(cx, &offer).map(one)),
            Frame::Recipient { stream, index, address } => {
                self.receive(now, peer, out, |r, cx| r.recipient(cx, stream, index, address).map(one));
            }
            Frame::Data { stream, offset, octets } => {
                self.receive(now, peer, out, |r, cx| r.data(cx, stream, offset, octets).map(|()| Vec::new()));
            }
            Frame::Cancel(stream) => self.receive(now, peer, out, |r, _| {
                r.cancel(stream);
                Ok(Vec::new())
            }),
            Frame::Done(id) => out.push(Action::Forget { peer, id }),
            Frame::Close(reason) => {
                let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
                self.note(now, peer, format!("closed the link: {reason}"), out);
                self.leave(peer, out);
                self.peer(peer).state = State::Closed { until: now + CLOSED };
                self.next_check = self.next_check.min(now + CLOSED);
            }
            Frame::Lane { kind, octets } => {
                let Some(link) = self.link(&peer) else { return };
                link.words += 1;
                if link.words > MAX_WORDS || octets.len() > MAX_WORD {
                    return self.close(now, peer, "says too much about lanes", out);
                }
                out.push(Action::Lane { peer, kind, octets: octets.to_vec() });
            }
            Frame::Unknown => {}
            Frame::Ack(total) => {
                let Some(link) = self.link(&peer) else { return };
                if let Err(violation) = link.window.on_ack(now, total) {
                    self.close(now, peer, violation, out);
                }
            }
            Frame::Accept { stream, offset } => {
                let Some(link) = self.link(&peer) else { return };
                if let Err(violation) = link.sending.accept(now, stream, offset) {
                    self.close(now, peer, violation, out);
                }
            }
            Frame::Stored { stream, index, duplicate, relayed } => {
                let Some(link) = self.link(&peer) else { return };
                link.sending.answer(now, &peer, stream, Some(index), &Outcome::Stored { duplicate, relayed }, out);
            }
            Frame::Refused { stream, index, refusal } => {
                let Some(link) = self.link(&peer) else { return };
                link.sending.answer(now, &peer, stream, index, &Outcome::Refused(refusal), out);
            }
        }
    }

    /// Cuts off a peer that broke the rules: tells it why, and does not listen for a while.
    fn close(&mut self, now: u64, peer: PublicKey, reason: &str, out: &mut Vec<Action>) {
        self.note(now, peer, format!("broke the protocol, link closed: {reason}"), out);
        let mut packet = Vec::new();
        let reason: String = reason.chars().take(200).collect();
        Frame::Close(&reason).encode(&mut packet);
        if self.is_up(&peer) {
            out.push(Action::Send { peer, packet });
            self.leave(peer, out);
        }
        let state = self.peer(peer);
        let wait = (CLOSED << state.violations.min(16)).min(CLOSED_MAX);
        state.violations += 1;
        state.state = State::Closed { until: now + wait };
        self.next_check = self.next_check.min(now + wait);
    }

    /// Sends what may be sent now and looks after what is late. To be called after inputs and at the deadline.
    pub fn poll(&mut self, now: u64, out: &mut Vec<Action>) {
        for peer in std::mem::take(&mut self.dirty) {
            self.pump(now, peer, out);
        }
        if now >= self.next_check {
            self.check(now, out);
        }
    }

    /// When [`Engine::poll`] has something to do even if nothing happens.
    pub fn deadline(&self) -> Option<u64> {
        (self.next_check != u64::MAX).then_some(self.next_check)
    }

    fn pump(&mut self, now: u64, key: PublicKey, out: &mut Vec<Action>) {
        let Some(Peer { state: State::Up(link), relayed, .. }) = self.peers.get_mut(&key) else { return };
        let most = if *relayed { RELAYED } else { usize::MAX };
        if link.sending.backlog() > MAX_BACKLOG {
            return self.close(now, key, "answers are not taken in", out);
        }
        loop {
            let mut packet = Vec::with_capacity(MAX_PACKET);
            if link.received > link.acknowledged {
                Frame::Ack(link.received).encode(&mut packet);
            }
            let acknowledgement = packet.len();
            let room = link.window.room() > 0 && link.window.in_flight() < most;
            if room {
                link.sending.fill(now, &key, &link.remote, &mut packet, out);
            }
            if packet.is_empty() {
                if room {
                    link.window.on_idle();
                }
                break;
            }
            link.acknowledged = link.received;
            let counts = packet.len() > acknowledgement;
            if counts {
                link.window.on_send(now);
            }
            out.push(Action::Send { peer: key, packet });
            if !counts {
                if room {
                    link.window.on_idle();
                }
                break;
            }
        }
        if link.is_busy() {
            self.next_check = self.next_check.min(now + SECOND);
        }
    }

    fn check(&mut self, now: u64, out: &mut Vec<Action>) {
        let mut next = u64::MAX;
        self.next_check = u64::MAX;
        let keys: Vec<PublicKey> = self.peers.keys().copied().collect();
        for key in keys {
            let online = self.peer(key).online;
            match &mut self.peer(key).state {
                State::Offline => {}
                State::Greeting(greeting) => {
                    let late = now >= greeting.again_at;
                    if late {
                        greeting.wait = (greeting.wait * 2).min(HELLO_MAX);
                        greeting.again_at = now + greeting.wait;
                    }
                    next = next.min(greeting.again_at);
                    if late {
                        let (session, told) = (greeting.session, greeting.told);
                        out.push(Action::SendCustom { peer: key, packet: self.hello(&key, session, told) });
                    }
                }
                State::Closed { until } if now < *until => next = next.min(*until),
                State::Closed { .. } if online => self.greet(now, key, None, out),
                State::Closed { .. } => self.peer(key).state = State::Offline,
                State::Up(link) => {
                    link.sending.expire(now, &key, out);
                    let late = link.receiving.expire(now);
                    late.iter().for_each(|refused| link.sending.control(refused));
                    let since = link.window.oldest().map(|at| at.max(link.window.acknowledged_at()));
                    if since.is_some_and(|at| now.saturating_sub(at) > UNACKNOWLEDGED) {
                        self.leave(key, out);
                        self.greet(now, key, None, out);
                    } else {
                        self.dirty.insert(key);
                    }
                }
            }
        }
        for peer in std::mem::take(&mut self.dirty) {
            self.pump(now, peer, out);
        }
        self.next_check = self.next_check.min(next);
        // What limits a peer outlives its session.
        self.peers.retain(|_, peer| {
            !matches!(peer.state, State::Offline)
                || peer.declined
                || peer.violations > 0
                || peer.unnoted > 0
                || !peer.delivering.is_empty()
                || peer.noted_at.is_some_and(|at| now.saturating_sub(at) < NOTE_EVERY)
        });
    }
}

/// The first packet of a session, which counts for nothing: it tells the peer that this side is up, so that it can take
/// a HELLO that was long on its way for what it is.
fn up_too(peer: PublicKey) -> Action {
    let mut packet = Vec::new();
    Frame::Ack(0).encode(&mut packet);
    Action::Send { peer, packet }
}
