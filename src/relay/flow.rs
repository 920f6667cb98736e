//! The packets of one session, seen from one end: counting, acknowledging, and how many may be on their way. The same for
//! a relay and its client, as between agents (`docs/protocol.md`, 4 and 8).

use super::wire::{Answer, MAX_PACKET, Message as _};
use crate::engine::window::{RELAYED, Window};

/// How long packets may stay unacknowledged before the session is given up, in microseconds.
const UNACKNOWLEDGED: u64 = 60_000_000;

/// One end of a session's packets. Times are microseconds of any monotonic clock.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    window: Window,
    received: u64,
    acknowledged: u64,
}

impl Flow {
    /// A packet that counts was taken in.
    pub fn on_packet(&mut self) {
        self.received += 1;
    }

    /// The other end acknowledged `total` packets.
    ///
    /// # Errors
    /// It claims more than were sent.
    pub fn on_ack(&mut self, now: u64, total: u64) -> Result<(), &'static str> {
        self.window.on_ack(now, total)
    }

    /// The next packet to send, if there is one: an acknowledgement where one is due, and what `fill` appends, which is
    /// asked only while the window has room (`tcp`: the way leads over a TCP relay). To be called until it is `None`.
    pub fn next(&mut self, now: u64, tcp: bool, mut fill: impl FnMut(&mut Vec<u8>)) -> Option<Vec<u8>> {
        let most = if tcp { RELAYED } else { usize::MAX };
        let mut packet = Vec::with_capacity(MAX_PACKET);
        if self.received > self.acknowledged {
            // A request says it in the same octets.
            Answer::Ack(self.received).append(&mut packet);
        }
        let acknowledgement = packet.len();
        if self.window.room() > 0 && self.window.in_flight() < most {
            fill(&mut packet);
            if packet.len() > acknowledgement {
                self.window.on_send(now);
            } else {
                self.window.on_idle();
            }
        }
        self.acknowledged = self.received;
        (!packet.is_empty()).then_some(packet)
    }

    /// When the session is to be given up if nothing is acknowledged until then.
    pub fn deadline(&self) -> Option<u64> {
        self.window.oldest().map(|at| at.max(self.window.acknowledged_at()) + UNACKNOWLEDGED)
    }

    /// Whether packets are on their way.
    pub fn is_busy(&self) -> bool {
        self.window.in_flight() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::wire::{Messages, Request};

    /// Appends a request while `left` has some.
    fn one(left: &mut u32) -> impl FnMut(&mut Vec<u8>) {
        move |packet| {
            if *left > 0 {
                *left -= 1;
                assert!(Request::List(1).append(packet));
            }
        }
    }

    #[test]
    fn packets_are_counted_acknowledged_and_limited() {
        let (mut a, mut b, mut left) = (Flow::default(), Flow::default(), 100);
        let mut packets = Vec::new();
        while let Some(packet) = a.next(0, true, one(&mut left)) {
            packets.push(packet);
        }
        assert_eq!(packets.len(), RELAYED, "no more than the window");
        assert_eq!(a.deadline(), Some(UNACKNOWLEDGED));
        packets.iter().for_each(|_| b.on_packet());
        let ack = b.next(5, false, |_| {}).expect("an acknowledgement is due");
        assert_eq!(b.next(5, false, |_| {}), None, "and is said once");
        let ack = Messages::<Request>::new(&ack).next().expect("a frame").expect("well formed").expect("known");
        assert_eq!(ack.acknowledged(), Some(RELAYED as u64));
        a.on_ack(5, RELAYED as u64).expect("honest");
        assert!(!a.is_busy() && a.deadline().is_none());
        assert!(a.next(6, true, one(&mut left)).is_some(), "there is room again");
        assert!(a.on_ack(7, 1000).is_err(), "a lie");
    }
}
