//! The receiving half of a link: checking offers, putting bodies together, answering for each recipient.

use std::collections::{BTreeMap, HashSet};

use super::link::Action;
use super::rules::Rules;
use super::transfer::{BURST, Delivery, Digest, Encoding, MailId, PartialKey, Source};
use super::wire::{Frame, Offer};
use crate::identity::tox_id::PublicKey;
use crate::mail::status::Refusal;

/// How much of a bulk body is gathered before it is written, in octets.
const WRITE: usize = 64 * 1024;
/// How long a transfer may stand still before its memory is given back, in microseconds; what is on disk stays.
const STALL: u64 = 600_000_000;

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// RECIPIENT frames are still to come.
    Naming,
    /// The store is being asked what it has of this mail.
    Looking,
    /// The body is coming in.
    Receiving,
    /// The body is whole and on its way into the mailboxes.
    Delivering,
}

struct Incoming {
    /// Its number for the shells; streams are numbered anew in each session, and an answer that comes late must not be
    /// taken for the answer to another mail.
    ticket: u32,
    id: MailId,
    sender: String,
    size: u64,
    wire_size: u64,
    digest: Digest,
    encoding: Encoding,
    to_be_named: u32,
    /// Number, address and mailbox of each recipient that is ours and not yet answered.
    recipients: Vec<(u32, String, usize)>,
    state: State,
    /// How much of the encoded body is here, in memory or on disk.
    received: u64,
    buffer: Vec<u8>,
    partial: Option<PartialKey>,
    active_at: u64,
}

impl Incoming {
    fn is_bulk(&self) -> bool {
        self.partial.is_some()
    }
}

/// All transfers from one peer. `replies` of the methods are control frames for the peer.
#[derive(Default)]
pub struct Receiving {
    streams: BTreeMap<u32, Incoming>,
    last_stream: u32,
    burst: u64,
}

/// What the methods need of the engine around them.
pub struct Context<'a> {
    /// Now, in microseconds.
    pub now: u64,
    /// The peer.
    pub peer: PublicKey,
    /// What the account takes.
    pub rules: &'a Rules,
    /// Why nothing can be stored at the moment, if so.
    pub storage: Option<&'a Refusal>,
    /// Mails of the peer on their way into mailboxes, of this session or an earlier one.
    pub delivering: &'a mut HashSet<MailId>,
    /// The last ticket given out.
    pub tickets: &'a mut u32,
    /// What is to be done.
    pub out: &'a mut Vec<Action>,
}

/// The peer broke the protocol; the words are for its operator.
pub type Violation = &'static str;

impl Receiving {
    /// A mail is offered.
    ///
    /// # Errors
    /// The stream number was used before or the offer contradicts itself.
    pub fn offer(&mut self, cx: &mut Context<'_>, offer: &Offer<'_>) -> Result<Option<Frame<'static>>, Violation> {
        if offer.stream <= self.last_stream {
            return Err("OFFER reuses a stream number");
        }
        self.last_stream = offer.stream;
        let bulk = offer.wire_size > BURST;
        let encoding = Encoding::from_number(offer.encoding);
        // One refusal of the whole mail, the first that applies; permanent only what cannot change by waiting.
        let refusal = if let Some(refusal) = cx.rules.refuses(offer) {
            Some(refusal)
        } else if let Some(refusal) = cx.storage {
            Some(refusal.clone())
        } else if self.streams.len() >= cx.rules.max_transfers
            || cx.delivering.len() >= cx.rules.max_transfers
            || (bulk && self.streams.values().filter(|i| i.is_bulk()).count() >= cx.rules.max_bulk)
        {
            Some(Refusal::temporary(3, 2, "too many transfers at a time"))
        } else if !bulk && self.burst > 0 && self.burst + offer.wire_size > cx.rules.max_burst.saturating_mul(2) {
            Some(Refusal::temporary(3, 1, "too much mail at a time"))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let text = format!("refused mail {} from <{}>: {refusal}", offer.id, offer.sender);
            cx.out.push(Action::Note { peer: cx.peer, text });
            return Ok(Some(Frame::Refused { stream: offer.stream, index: None, refusal }));
        }
        // The same mail offered again takes the place of its earlier stream, whose answer nobody awaits any more.
        let earlier = self.streams.iter().find(|(_, i)| i.id == offer.id).map(|(stream, _)| *stream);
        if let Some(earlier) = earlier {
            self.remove(earlier);
        }
        let encoding = encoding.unwrap_or(Encoding::Identity);
        if !bulk {
            self.burst += offer.wire_size;
        }
        *cx.tickets = cx.tickets.wrapping_add(1);
        self.streams.insert(
            offer.stream,
            Incoming {
                ticket: *cx.tickets,
                id: offer.id,
                sender: offer.sender.to_owned(),
                size: offer.size,
                wire_size: offer.wire_size,
                digest: offer.digest,
                encoding,
                to_be_named: offer.recipients,
                recipients: Vec::new(),
                state: State::Naming,
                received: 0,
                buffer: Vec::new(),
                partial: bulk.then(|| PartialKey::new(&cx.peer, &offer.id, &offer.digest, encoding, offer.wire_size)),
                active_at: cx.now,
            },
        );
        Ok(None)
    }

    /// A recipient of an offered mail.
    ///
    /// # Errors
    /// There are more of them than were announced, or a number comes twice.
    pub fn recipient(
        &mut self,
        cx: &mut Context<'_>,
        stream: u32,
        index: u32,
        address: &str,
    ) -> Result<Option<Frame<'static>>, Violation> {
        let Some(incoming) = self.streams.get_mut(&stream) else { return Ok(None) };
        if incoming.state != State::Naming || incoming.recipients.iter().any(|(known, ..)| *known == index) {
            return Err("RECIPIENT that was not announced");
        }
        incoming.active_at = cx.now;
        incoming.to_be_named -= 1;
        let mut reply = None;
        match cx.rules.mailbox(address) {
            Some(mailbox) => incoming.recipients.push((index, address.to_owned(), mailbox)),
            None => {
                let text =
                    format!("refused mail {} from <{}>: <{address}> is nobody here", incoming.id, incoming.sender);
                cx.out.push(Action::Note { peer: cx.peer, text });
                let refusal = Refusal::permanent(1, 1, format!("<{address}> is not an address of this agent"));
                reply = Some(Frame::Refused { stream, index: Some(index), refusal });
            }
        }
        if incoming.to_be_named == 0 {
            if incoming.recipients.is_empty() {
                self.remove(stream);
            } else if cx.delivering.contains(&incoming.id) {
                // The answer comes when that delivery ends.
                incoming.state = State::Delivering;
                incoming.buffer = Vec::new();
            } else {
                incoming.state = State::Looking;
                cx.out.push(Action::Lookup {
                    peer: cx.peer,
                    stream: incoming.ticket,
                    id: incoming.id,
                    mailboxes: incoming.recipients.iter().map(|(.., mailbox)| *mailbox).collect(),
                    partial: incoming.partial.clone(),
                });
            }
        }
        Ok(reply)
    }

    /// What the store has: for each recipient asked about, whether the mailbox has the mail; and the length of the
    /// partial file.
    pub fn found(&mut self, cx: &mut Context<'_>, ticket: u32, stored: &[bool], offset: u64) -> Vec<Frame<'static>> {
        let Some(stream) = self.stream_of(ticket) else { return Vec::new() };
        let Some(incoming) = self.streams.get_mut(&stream) else { return Vec::new() };
        if incoming.state != State::Looking {
            return Vec::new();
        }
        let mut replies = Vec::new();
        let mut had = stored.iter();
        incoming.recipients.retain(|(index, _, mailbox)| {
            let duplicate = had.next().copied().unwrap_or(false);
            if duplicate {
                let relayed = cx.rules.relays.contains(mailbox);
                replies.push(Frame::Stored { stream, index: *index, duplicate, relayed });
            }
            !duplicate
        });
        if incoming.recipients.is_empty() {
            self.remove(stream);
            return replies;
        }
        incoming.state = State::Receiving;
        if incoming.is_bulk() {
            incoming.received = offset.min(incoming.wire_size);
            replies.push(Frame::Accept { stream, offset: incoming.received });
        }
        self.complete(cx, stream);
        replies
    }

    /// A piece of a body.
    ///
    /// # Errors
    /// It does not follow the piece before, goes beyond the announced length, or was not asked for.
    pub fn data(&mut self, cx: &mut Context<'_>, stream: u32, offset: u64, octets: &[u8]) -> Result<(), Violation> {
        if stream > self.last_stream {
            return Err("DATA of a stream that was not offered");
        }
        // What was refused or answered already may still have data on the way.
        let Some(incoming) = self.streams.get_mut(&stream) else { return Ok(()) };
        incoming.active_at = cx.now;
        match incoming.state {
            State::Delivering => return Ok(()),
            State::Naming | State::Looking if incoming.is_bulk() => return Err("DATA of a bulk mail before ACCEPT"),
            _ => {}
        }
        if offset != incoming.received || octets.len() as u64 > incoming.wire_size - incoming.received {
            return Err("DATA out of place");
        }
        incoming.received += octets.len() as u64;
        incoming.buffer.extend_from_slice(octets);
        if let Some(key) = &incoming.partial
            && (incoming.buffer.len() >= WRITE || incoming.received == incoming.wire_size)
        {
            let octets = std::mem::take(&mut incoming.buffer);
            let offset = incoming.received - octets.len() as u64;
            cx.out.push(Action::Append {
                peer: cx.peer,
                stream: incoming.ticket,
                partial: key.clone(),
                offset,
                octets,
            });
        }
        self.complete(cx, stream);
        Ok(())
    }

    fn complete(&mut self, cx: &mut Context<'_>, stream: u32) {
        let Some(incoming) = self.streams.get_mut(&stream) else { return };
        if incoming.state != State::Receiving || incoming.received < incoming.wire_size {
            return;
        }
        incoming.state = State::Delivering;
        cx.delivering.insert(incoming.id);
        let source = match &incoming.partial {
            Some(key) => Source::Partial(key.clone()),
            None => Source::Inline(std::mem::take(&mut incoming.buffer)),
        };
        cx.out.push(Action::Deliver(Delivery {
            peer: cx.peer,
            id: incoming.id,
            sender: incoming.sender.clone(),
            recipients: incoming.recipients.clone(),
            size: incoming.size,
            digest: incoming.digest,
            encoding: incoming.encoding,
            source,
        }));
    }

    /// A piece could not be written: the peer keeps the mail.
    pub fn append_failed(&mut self, ticket: u32, refusal: &Refusal) -> Option<Frame<'static>> {
        let stream = self.stream_of(ticket)?;
        self.remove(stream)?;
        Some(Frame::Refused { stream, index: None, refusal: refusal.clone() })
    }

    /// The mailboxes have, or refused, a mail.
    pub fn delivered(
        &mut self,
        cx: &Context<'_>,
        id: &MailId,
        results: &[(u32, Result<(), Refusal>)],
    ) -> Vec<Frame<'static>> {
        let waiting = |incoming: &Incoming| incoming.id == *id && incoming.state == State::Delivering;
        let Some(stream) = self.streams.iter().find(|(_, i)| waiting(i)).map(|(stream, _)| *stream) else {
            return Vec::new();
        };
        let Some(incoming) = self.remove(stream) else { return Vec::new() };
        let answer = |index: u32, mailbox: usize| match results.iter().find(|(of, _)| *of == index) {
            Some((_, Ok(()))) => {
                let relayed = cx.rules.relays.contains(&mailbox);
                Frame::Stored { stream, index, duplicate: false, relayed }
            }
            Some((_, Err(refusal))) => Frame::Refused { stream, index: Some(index), refusal: refusal.clone() },
            // Named now but not in the attempt that was delivered: the next attempt brings it.
            None => {
                let refusal = Refusal::temporary(3, 0, "this recipient was not part of the delivery: try again");
                Frame::Refused { stream, index: Some(index), refusal }
            }
        };
        incoming.recipients.iter().map(|(index, _, mailbox)| answer(*index, *mailbox)).collect()
    }

    /// The peer takes an offer back.
    pub fn cancel(&mut self, stream: u32) {
        // A delivery that runs is not stopped; its answer will find nobody.
        self.remove(stream);
    }

    /// Gives back the memory of transfers that stand still, and tells the peer.
    pub fn expire(&mut self, now: u64) -> Vec<Frame<'static>> {
        let late = |i: &Incoming| i.state != State::Delivering && now.saturating_sub(i.active_at) > STALL;
        let streams: Vec<u32> = self.streams.iter().filter(|(_, i)| late(i)).map(|(stream, _)| *stream).collect();
        let refusal = Refusal::temporary(4, 7, "the rest of the mail did not come");
        let refuse = |stream: u32| Frame::Refused { stream, index: None, refusal: refusal.clone() };
        streams.into_iter().filter(|stream| self.remove(*stream).is_some()).map(refuse).collect()
    }

    fn stream_of(&self, ticket: u32) -> Option<u32> {
        self.streams.iter().find(|(_, incoming)| incoming.ticket == ticket).map(|(stream, _)| *stream)
    }

    /// Whether any transfer is unfinished.
    pub fn is_busy(&self) -> bool {
        !self.streams.is_empty()
    }

    fn remove(&mut self, stream: u32) -> Option<Incoming> {
        let incoming = self.streams.remove(&stream)?;
        if !incoming.is_bulk() {
            self.burst -= incoming.wire_size;
        }
        Some(incoming)
    }
}
