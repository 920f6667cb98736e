//! The sending half of a link: which mail goes next, and packing it into packets.

use std::collections::{BTreeMap, VecDeque};

use super::link::Action;
use super::transfer::{Body, MailId, Outcome, Transfer, TransferRecipient};
use super::wire::{DATA_OVERHEAD, Frame, Hello, MAX_PACKET, Offer, Session, is_address};
use crate::identity::tox_id::PublicKey;
use crate::mail::status::Refusal;

/// How many bulk mails are on offer to one peer at a time; more would only share the same line.
const ACTIVE_BULK: usize = 4;
/// How much of a bulk body is asked of the disk at a time, in octets.
const READ: u64 = 256 * 1024;
/// How long a transfer may stand still before it is taken back, in microseconds.
const STALL: u64 = 600_000_000;
/// Smallest piece of data worth beginning in the rest of a packet, in octets.
const MIN_PIECE: usize = 64;

/// How many transfers a link wants from the queue: more than the round trip through disk and peer can use.
pub const SMALL_CREDITS: u32 = 128;
/// The same for bulk mail.
pub const BULK_CREDITS: u32 = 8;

struct Outgoing {
    stream: u32,
    transfer: Transfer,
    /// RECIPIENT frames not yet sent.
    head: VecDeque<Vec<u8>>,
    offset: u64,
    /// A piece of a stored body and where it begins.
    chunk: Vec<u8>,
    chunk_at: u64,
    reading: bool,
    accepted: bool,
    answered: Vec<bool>,
    active_at: u64,
}

impl Outgoing {
    fn remaining(&self) -> u64 {
        self.transfer.wire_size - self.offset
    }

    /// Whether it is for others, the peer or the disk, to do something; what merely waits for its turn is not late.
    fn awaits(&self) -> bool {
        self.head.is_empty() && (!self.accepted || self.remaining() == 0 || self.reading)
    }

    /// The octets from the current offset on that are at hand.
    fn at_hand(&self) -> &[u8] {
        let (octets, begin) = match &self.transfer.body {
            Body::Inline(octets) => (&octets[..], 0),
            Body::Stored => (&self.chunk[..], self.chunk_at),
        };
        let skip = usize::try_from(self.offset.saturating_sub(begin)).unwrap_or(usize::MAX);
        let octets = if self.offset < begin { &[] } else { octets.get(skip..).unwrap_or_default() };
        // Never more than was offered, whatever the disk gave.
        &octets[..octets.len().min(usize::try_from(self.remaining()).unwrap_or(usize::MAX))]
    }
}

/// All transfers to one peer.
pub struct Sending {
    /// Those that were offered. A stream gets its number with its OFFER, for the numbers must come in order although small
    /// mail overtakes bulk.
    streams: BTreeMap<u32, Outgoing>,
    last_stream: u32,
    /// Small and bulk mails not yet offered, in order.
    small: VecDeque<Transfer>,
    waiting: VecDeque<Transfer>,
    /// The small mail that is not yet sent whole.
    current: Option<u32>,
    /// Bulk mails on offer or on the way, in turn.
    bulk: VecDeque<u32>,
    /// Octets of small mail offered and not answered.
    burst: u64,
    /// Control frames of any kind.
    control: VecDeque<Vec<u8>>,
}

impl Sending {
    /// Of a new session. Its streams are numbered from anywhere, so that an answer of an earlier session is not taken for
    /// one of this.
    pub fn new(session: &Session) -> Self {
        Self {
            streams: BTreeMap::new(),
            last_stream: u32::from_be_bytes([session[0], session[1], session[2], session[3]]) >> 1,
            small: VecDeque::new(),
            waiting: VecDeque::new(),
            current: None,
            bulk: VecDeque::new(),
            burst: 0,
            control: VecDeque::new(),
        }
    }

    /// Queues a control frame.
    pub fn control(&mut self, frame: &Frame<'_>) {
        let mut octets = Vec::with_capacity(64);
        frame.encode(&mut octets);
        self.control.push_back(octets);
    }

    /// How many control frames wait; a peer that lets them pile up is cut off.
    pub fn backlog(&self) -> usize {
        self.control.len()
    }

    /// Takes a transfer from the queue, or answers it at once when the peer's limits forbid it.
    pub fn take(&mut self, peer: &PublicKey, remote: &Hello, transfer: Transfer, out: &mut Vec<Action>) {
        if let Some(refusal) = self.unfit(remote, &transfer) {
            refuse_all(peer, &transfer, &vec![false; transfer.recipients.len()], &refusal, out);
            out.push(Action::Grant {
                peer: *peer,
                small: u32::from(!transfer.is_bulk()),
                bulk: u32::from(transfer.is_bulk()),
            });
            return;
        }
        if transfer.is_bulk() {
            self.waiting.push_back(transfer);
        } else {
            self.small.push_back(transfer);
        }
    }

    /// Offers a transfer in `packet` if its OFFER fits; gives it back if not.
    fn offer(&mut self, now: u64, transfer: Transfer, packet: &mut Vec<u8>) -> Result<u32, Box<Transfer>> {
        let stream = self.last_stream + 1;
        let encoded = |frame: Frame<'_>| {
            let mut octets = Vec::with_capacity(160);
            frame.encode(&mut octets);
            octets
        };
        let offer = encoded(Frame::Offer(Offer {
            stream,
            id: transfer.id,
            size: transfer.size,
            wire_size: transfer.wire_size,
            digest: transfer.digest,
            encoding: transfer.encoding.number(),
            sender: &transfer.sender,
            recipients: transfer.recipients.len() as u32,
            deadline: transfer.deadline,
        }));
        if packet.len() + offer.len() > MAX_PACKET {
            return Err(Box::new(transfer));
        }
        packet.extend_from_slice(&offer);
        self.last_stream = stream;
        let recipient = |r: &TransferRecipient| {
            let TransferRecipient { index, address } = r;
            encoded(Frame::Recipient { stream, index: *index, address })
        };
        let outgoing = Outgoing {
            stream,
            accepted: !transfer.is_bulk(),
            head: transfer.recipients.iter().map(recipient).collect(),
            offset: 0,
            chunk: Vec::new(),
            chunk_at: 0,
            reading: false,
            answered: vec![false; transfer.recipients.len()],
            active_at: now,
            transfer,
        };
        self.streams.insert(stream, outgoing);
        Ok(stream)
    }

    /// Why a transfer cannot even be offered: an offer that the peer must take for a violation would end the link, and
    /// after it every link to come.
    fn unfit(&self, remote: &Hello, transfer: &Transfer) -> Option<Refusal> {
        if transfer.size > remote.max_size {
            let text = format!("the recipient's agent takes mails of at most {} octets", remote.max_size);
            Some(Refusal::permanent(3, 4, text))
        } else if !is_address(&transfer.sender) {
            Some(Refusal::permanent(1, 7, "the sender address cannot be sent to the recipient's agent"))
        } else if !transfer.recipients.iter().all(|recipient| is_address(&recipient.address)) {
            Some(Refusal::permanent(1, 3, "the recipient address cannot be sent to the recipient's agent"))
        } else if matches!(&transfer.body, Body::Inline(octets) if octets.len() as u64 != transfer.wire_size) {
            Some(Refusal::temporary(3, 0, "the queued mail is damaged"))
        } else if self
            .streams
            .values()
            .map(|outgoing| &outgoing.transfer)
            .chain(&self.small)
            .chain(&self.waiting)
            .any(|other| other.id == transfer.id)
        {
            // Its recipients in two transfers at a time: the peer would take the later for the earlier one begun anew.
            Some(Refusal::temporary(3, 2, "the same mail is on its way to other recipients at this agent"))
        } else {
            None
        }
    }

    /// The peer wants the body from `offset` on.
    ///
    /// # Errors
    /// The offset lies beyond the body.
    pub fn accept(&mut self, now: u64, stream: u32, offset: u64) -> Result<(), &'static str> {
        let Some(outgoing) = self.streams.get_mut(&stream) else { return Ok(()) };
        if offset > outgoing.transfer.wire_size {
            return Err("ACCEPT beyond the end of the mail");
        }
        if !outgoing.accepted {
            outgoing.accepted = true;
            outgoing.offset = offset;
            outgoing.active_at = now;
        }
        Ok(())
    }

    /// The peer answered for one recipient, or with `None` for all that are still open.
    pub fn answer(
        &mut self,
        now: u64,
        peer: &PublicKey,
        stream: u32,
        index: Option<u32>,
        outcome: &Outcome,
        out: &mut Vec<Action>,
    ) {
        let Some(outgoing) = self.streams.get_mut(&stream) else { return };
        outgoing.active_at = now;
        let recipients = outgoing.transfer.recipients.iter().zip(&mut outgoing.answered);
        for (recipient, answered) in recipients {
            if !*answered && index.is_none_or(|index| index == recipient.index) {
                *answered = true;
                out.push(Action::Outcome {
                    peer: *peer,
                    transfer: outgoing.transfer.id,
                    mail: outgoing.transfer.mail,
                    index: recipient.index,
                    outcome: outcome.clone(),
                });
            }
        }
        if outgoing.answered.iter().all(|answered| *answered) {
            self.remove(peer, stream, out);
        }
    }

    fn remove(&mut self, peer: &PublicKey, stream: u32, out: &mut Vec<Action>) {
        let Some(outgoing) = self.streams.remove(&stream) else { return };
        let transfer = &outgoing.transfer;
        let bulk = transfer.is_bulk();
        if transfer.body == Body::Stored {
            out.push(Action::CloseBody { transfer: transfer.id });
        }
        if bulk {
            self.bulk.retain(|active| *active != stream);
        } else {
            self.current.take_if(|current| *current == stream);
            self.burst -= transfer.wire_size;
        }
        out.push(Action::Grant { peer: *peer, small: u32::from(!bulk), bulk: u32::from(bulk) });
    }

    /// A piece of a stored body, or `None` when the disk does not give it.
    pub fn chunk(
        &mut self,
        now: u64,
        peer: &PublicKey,
        id: &MailId,
        offset: u64,
        octets: Option<Vec<u8>>,
        out: &mut Vec<Action>,
    ) {
        let found = self.streams.iter_mut().find(|(_, outgoing)| outgoing.transfer.id == *id);
        let Some((&stream, outgoing)) = found else { return };
        outgoing.reading = false;
        outgoing.active_at = now;
        match octets {
            Some(octets) if !octets.is_empty() => {
                outgoing.chunk = octets;
                outgoing.chunk_at = offset;
            }
            _ => self.give_up(
                peer,
                stream,
                &Refusal::temporary(3, 0, "the queued mail cannot be read from the disk"),
                out,
            ),
        }
    }

    /// Takes the offer back and reports the attempt as failed.
    fn give_up(&mut self, peer: &PublicKey, stream: u32, refusal: &Refusal, out: &mut Vec<Action>) {
        if let Some(outgoing) = self.streams.get(&stream) {
            refuse_all(peer, &outgoing.transfer, &outgoing.answered, refusal, out);
        }
        self.remove(peer, stream, out);
        self.control(&Frame::Cancel(stream));
    }

    /// Takes back what has stood still for too long.
    pub fn expire(&mut self, now: u64, peer: &PublicKey, out: &mut Vec<Action>) {
        let late = |outgoing: &Outgoing| outgoing.awaits() && now.saturating_sub(outgoing.active_at) > STALL;
        let late: Vec<u32> = self.streams.iter().filter(|(_, o)| late(o)).map(|(stream, _)| *stream).collect();
        for stream in late {
            self.give_up(peer, stream, &Refusal::temporary(4, 7, "the recipient's agent stopped answering"), out);
        }
    }

    /// The session is over: bodies that were read are not read any more.
    pub fn close_bodies(&self, out: &mut Vec<Action>) {
        let stored = self.streams.values().filter(|outgoing| outgoing.transfer.body == Body::Stored);
        out.extend(stored.map(|outgoing| Action::CloseBody { transfer: outgoing.transfer.id }));
    }

    /// Whether any transfer is unfinished.
    pub fn is_busy(&self) -> bool {
        !(self.streams.is_empty() && self.small.is_empty() && self.waiting.is_empty())
    }

    /// Name and sent octets of every transfer that has begun.
    pub fn progress(&self) -> impl Iterator<Item = (MailId, u64)> {
        self.streams.values().map(|outgoing| (outgoing.transfer.id, outgoing.offset))
    }

    /// Appends what goes next to `packet`: control frames, then small mail, then the bulk mails in turn.
    pub fn fill(&mut self, now: u64, peer: &PublicKey, remote: &Hello, packet: &mut Vec<u8>, out: &mut Vec<Action>) {
        if !append_frames(&mut self.control, packet) {
            return;
        }
        loop {
            let stream = match self.current {
                Some(stream) => stream,
                None => {
                    let Some(next) = self.small.front() else { break };
                    let size = next.wire_size;
                    if !self.is_open(remote) || (self.burst > 0 && self.burst + size > remote.max_burst) {
                        break;
                    }
                    let Some(next) = self.small.pop_front() else { break };
                    match self.offer(now, next, packet) {
                        Ok(stream) => {
                            self.burst += size;
                            self.current = Some(stream);
                            stream
                        }
                        Err(next) => return self.small.push_front(*next),
                    }
                }
            };
            let Some(outgoing) = self.streams.get_mut(&stream) else { break };
            if !outgoing.head.is_empty() {
                outgoing.active_at = now;
            }
            if !append_frames(&mut outgoing.head, packet) {
                return;
            }
            if outgoing.remaining() > 0 && outgoing.at_hand().is_empty() {
                // Small, yet in a file: the mails behind it wait for the disk, as what goes on the line is in order.
                read(outgoing, peer, now, out);
                break;
            }
            if !append_data(outgoing, packet, now) {
                return;
            }
            self.current = None;
        }
        // Half of what the peer takes at a time stays free for small mail.
        let most = ACTIVE_BULK.min(remote.max_transfers as usize / 2).max(1);
        while self.bulk.len() < most && self.is_open(remote) {
            let Some(next) = self.waiting.pop_front() else { break };
            match self.offer(now, next, packet) {
                Ok(stream) => self.bulk.push_back(stream),
                Err(next) => return self.waiting.push_front(*next),
            }
        }
        for _ in 0..self.bulk.len() {
            let Some(stream) = self.bulk.pop_front() else { break };
            let Some(outgoing) = self.streams.get_mut(&stream) else { continue };
            self.bulk.push_back(stream);
            if !outgoing.head.is_empty() {
                outgoing.active_at = now;
            }
            if !append_frames(&mut outgoing.head, packet) {
                return;
            }
            if !outgoing.accepted || outgoing.remaining() == 0 {
                continue;
            }
            if outgoing.at_hand().is_empty() {
                read(outgoing, peer, now, out);
                continue;
            }
            append_data(outgoing, packet, now);
            if packet.len() + DATA_OVERHEAD + MIN_PIECE > MAX_PACKET {
                return;
            }
        }
    }

    /// Whether the peer takes one more transfer.
    fn is_open(&self, remote: &Hello) -> bool {
        self.streams.len() < remote.max_transfers.max(1) as usize
    }
}

fn refuse_all(peer: &PublicKey, transfer: &Transfer, answered: &[bool], refusal: &Refusal, out: &mut Vec<Action>) {
    for (recipient, _) in transfer.recipients.iter().zip(answered).filter(|(_, answered)| !**answered) {
        out.push(Action::Outcome {
            peer: *peer,
            transfer: transfer.id,
            mail: transfer.mail,
            index: recipient.index,
            outcome: Outcome::Refused(refusal.clone()),
        });
    }
}

/// Asks the disk for the next piece, unless it was asked already.
fn read(outgoing: &mut Outgoing, peer: &PublicKey, now: u64, out: &mut Vec<Action>) {
    if std::mem::replace(&mut outgoing.reading, true) {
        return;
    }
    outgoing.active_at = now;
    out.push(Action::ReadBody {
        peer: *peer,
        transfer: outgoing.transfer.id,
        mail: outgoing.transfer.mail,
        offset: outgoing.offset,
        length: READ.min(outgoing.remaining()),
    });
}

fn append_frame(frames: &mut VecDeque<Vec<u8>>, packet: &mut Vec<u8>) {
    if let Some(frame) = frames.front()
        && packet.len() + frame.len() <= MAX_PACKET
    {
        packet.extend_from_slice(frame);
        frames.pop_front();
    }
}

/// Appends whole frames while they fit; whether all did.
fn append_frames(frames: &mut VecDeque<Vec<u8>>, packet: &mut Vec<u8>) -> bool {
    while !frames.is_empty() {
        let left = frames.len();
        append_frame(frames, packet);
        if frames.len() == left {
            return false;
        }
    }
    true
}

/// Appends as much data as fits; whether the body is through.
fn append_data(outgoing: &mut Outgoing, packet: &mut Vec<u8>, now: u64) -> bool {
    if outgoing.remaining() == 0 {
        return true;
    }
    let room = MAX_PACKET.saturating_sub(packet.len() + DATA_OVERHEAD);
    let piece = outgoing.at_hand();
    if room < MIN_PIECE.min(piece.len()) {
        return false;
    }
    let piece = &piece[..piece.len().min(room)];
    let length = piece.len() as u64;
    Frame::Data { stream: outgoing.stream, offset: outgoing.offset, octets: piece }.encode(packet);
    outgoing.offset += length;
    outgoing.active_at = now;
    outgoing.remaining() == 0
}
