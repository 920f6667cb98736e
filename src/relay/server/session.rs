//! One session: what waits to be sent, and the packets it goes in.

use std::collections::VecDeque;

use super::shelf::Shelf;
use crate::lane::keys::SlotId;
use crate::relay::flow::Flow;
use crate::relay::wire::{Answer, Code, MAX_PIECE, Message as _, SlotOctets};

/// How much of a content is read at a time, in octets.
const READ: usize = 12 * MAX_PIECE;

/// A session with a client.
#[derive(Debug)]
pub(super) struct Session {
    /// The client's name for it.
    pub(super) id: [u8; 8],
    /// Whether a packet of it came: before that, the client does not know that it is up.
    pub(super) heard: bool,
    pub(super) flow: Flow,
    pub(super) answers: VecDeque<Answer>,
    /// How many more there will be once this turn is on disk.
    pub(super) waiting: usize,
    /// Contents being fetched, one after the other.
    pub(super) gets: VecDeque<Cursor>,
}

/// How far a content was fetched.
#[derive(Debug)]
pub(super) struct Cursor {
    slot: SlotId,
    /// Where `buffer` belongs.
    offset: u64,
    size: u64,
    buffer: VecDeque<u8>,
}

impl Cursor {
    pub(super) fn new(slot: SlotId, offset: u64, size: u64) -> Self {
        Self { slot, offset, size, buffer: VecDeque::new() }
    }

    pub(super) fn slot(&self) -> SlotId {
        self.slot
    }

    /// The next piece, or the words why there is none.
    fn piece(&mut self, shelf: &mut impl Shelf) -> Answer {
        let slot = SlotOctets(self.slot.0);
        if self.buffer.is_empty() {
            let length = READ.min(usize::try_from(self.size - self.offset).unwrap_or(READ));
            match shelf.read(&self.slot, self.offset, length) {
                Ok(Some(octets)) => self.buffer = octets.into(),
                Ok(None) => return Answer::Refused(slot, Code::Unknown as u8, "the slot was emptied".into()),
                Err(_) => return Answer::Refused(slot, Code::Busy as u8, super::TROUBLE.into()),
            }
        }
        let length = self.buffer.len().min(MAX_PIECE);
        Answer::Piece(slot, self.offset, self.buffer.iter().take(length).copied().collect())
    }
}

impl Session {
    pub(super) fn new(id: [u8; 8]) -> Self {
        Self { id, heard: false, flow: Flow::default(), answers: VecDeque::new(), waiting: 0, gets: VecDeque::new() }
    }

    /// The next packet that may be sent now: answers first, then contents.
    pub(super) fn next_packet(&mut self, now: u64, tcp: bool, shelf: &mut impl Shelf) -> Option<Vec<u8>> {
        let Self { flow, answers, gets, .. } = self;
        flow.next(now, tcp, |packet| {
            while let Some(answer) = answers.front() {
                if !answer.append(packet) {
                    return;
                }
                answers.pop_front();
            }
            let Some(cursor) = gets.front_mut() else { return };
            let piece = cursor.piece(shelf);
            if !piece.append(packet) {
                return;
            }
            if let Answer::Piece(_, _, octets) = &piece {
                cursor.offset += octets.len() as u64;
                cursor.buffer.drain(..octets.len());
                if cursor.offset < cursor.size {
                    return;
                }
            }
            gets.pop_front();
        })
    }
}
