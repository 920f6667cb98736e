//! How many packets may be on their way: congestion control for messages, which bypass toxcore's own.
//!
//! Model-based, as BBR is: from the acknowledgements it learns the rate at which packets arrive (largest of the last ten
//! round trips) and the shortest delay (of the last ten seconds), and keeps about twice their product in flight. Loss is
//! no signal: toxcore repairs it by itself and, delivering in order, shows it only as delay of about one round trip more,
//! for which the factor two makes room. A queue that builds up adds delay but no rate, so the window does not follow it.

use std::collections::VecDeque;

/// The most packets on their way over a TCP relay, about 44 KiB. A relay of toxcore takes a packet out of its socket
/// only when the whole of it is there; once more has piled up than the socket takes (64 KiB and a part of a packet),
/// its kernel closes the window, the rest of that packet never comes, and the connection with all its links is dead
/// until toxcore gives it up after half a minute.
pub const RELAYED: usize = 32;
/// Packets in flight before anything is known of the path; a 2 Mbit/s line bears 32 and no more.
const INITIAL: f64 = 32.0;
/// Never fewer than this, or acknowledgements would come singly.
const FLOOR: f64 = 8.0;
/// Never more than this, in packets: a quarter of toxcore's send queue (CRYPTO_PACKET_BUFFER_SIZE, net_crypto.h).
const CEILING: f64 = 8192.0;
/// Delay that is never taken for a queue, in microseconds: what the two programs need to wake up and work in batches.
const SLACK: f64 = 5_000.0;
/// For how long a shortest delay is believed, in microseconds.
const MIN_RTT_AGE: u64 = 10_000_000;
/// For how long the window is made small to measure the shortest delay anew, in microseconds.
const PROBE: u64 = 200_000;
/// For how many round trips a rate is believed.
const RATE_ROUNDS: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Doubling each round trip until the rate stops growing.
    Startup,
    /// Following rate and delay.
    Steady,
    /// Nearly empty for a moment, to see the path's own delay.
    ProbeRtt { until: u64 },
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: u64,
    delivered: u64,
    delivered_at: u64,
    /// Whether there was nothing more to send, so that the rate seen says nothing of the path.
    idle: bool,
}

/// The window of one link and direction. Times are microseconds of any monotonic clock.
#[derive(Debug, Clone)]
pub struct Window {
    size: f64,
    phase: Phase,
    sent: u64,
    acknowledged: u64,
    acknowledged_at: u64,
    in_flight: VecDeque<Sent>,
    min_rtt: Option<(u64, u64)>,
    /// Packets per microsecond, by round.
    rates: VecDeque<(u64, f64)>,
    round: u64,
    round_ends: u64,
    round_min_rtt: u64,
    full_rate: f64,
    full_rounds: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// The window of a new session.
    pub fn new() -> Self {
        Self {
            size: INITIAL,
            phase: Phase::Startup,
            sent: 0,
            acknowledged: 0,
            acknowledged_at: 0,
            in_flight: VecDeque::new(),
            min_rtt: None,
            rates: VecDeque::new(),
            round: 0,
            round_ends: 0,
            round_min_rtt: u64::MAX,
            full_rate: 0.0,
            full_rounds: 0,
        }
    }

    /// How many packets may be sent now.
    pub fn room(&self) -> usize {
        (self.size as usize).saturating_sub(self.in_flight.len())
    }

    /// How many packets are on their way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether no packet was sent yet.
    pub fn is_fresh(&self) -> bool {
        self.sent == 0
    }

    /// When the oldest packet on its way was sent.
    pub fn oldest(&self) -> Option<u64> {
        self.in_flight.front().map(|packet| packet.at)
    }

    /// When something was last acknowledged.
    pub fn acknowledged_at(&self) -> u64 {
        self.acknowledged_at
    }

    /// A packet was sent at `now`.
    pub fn on_send(&mut self, now: u64) {
        if self.in_flight.is_empty() {
            self.acknowledged_at = now;
        }
        self.sent += 1;
        self.in_flight.push_back(Sent {
            at: now,
            delivered: self.acknowledged,
            delivered_at: self.acknowledged_at,
            idle: false,
        });
    }

    /// There was nothing more to send although there was room: the rates of the packets on their way say nothing.
    pub fn on_idle(&mut self) {
        if let Some(last) = self.in_flight.back_mut() {
            last.idle = true;
        }
    }

    /// The other side has taken in `total` packets of this session.
    ///
    /// # Errors
    /// It claims more than were sent.
    pub fn on_ack(&mut self, now: u64, total: u64) -> Result<(), &'static str> {
        if total > self.sent {
            return Err("acknowledges packets that were never sent");
        }
        let mut newest = None;
        let mut idle = false;
        let before = self.acknowledged;
        while self.acknowledged < total {
            newest = self.in_flight.pop_front();
            idle |= newest.is_some_and(|packet| packet.idle);
            self.acknowledged += 1;
        }
        let Some(packet) = newest else { return Ok(()) };
        self.acknowledged_at = now;
        let rtt = now.saturating_sub(packet.at).max(1);
        self.round_min_rtt = self.round_min_rtt.min(rtt);
        let expired = self.min_rtt.is_some_and(|(_, at)| now.saturating_sub(at) > MIN_RTT_AGE);
        match self.min_rtt {
            Some((least, _)) if rtt > least && !(expired && matches!(self.phase, Phase::ProbeRtt { .. })) => {}
            _ => self.min_rtt = Some((rtt, now)),
        }

        let elapsed = now.saturating_sub(packet.delivered_at).max(packet.at.saturating_sub(packet.delivered_at)).max(1);
        let rate = (self.acknowledged - packet.delivered) as f64 / elapsed as f64;
        let ended = packet.delivered >= self.round_ends;
        if ended {
            self.round += 1;
            self.round_ends = self.acknowledged;
        }
        if !idle || rate > self.rate() {
            self.learn_rate(rate);
        }
        if ended {
            self.end_round(now, idle, expired);
        }
        if matches!(self.phase, Phase::Startup) {
            // A window that was not full has proved nothing: grown while mails trickle, it would let the first bulk mail
            // flood the line.
            if !idle {
                self.size = (self.size + (self.acknowledged - before) as f64).min(CEILING);
            }
        } else {
            self.follow();
        }
        Ok(())
    }

    fn rate(&self) -> f64 {
        self.rates.front().map_or(0.0, |(_, rate)| *rate)
    }

    /// Keeps the largest rate of the last rounds in front (a monotonic queue).
    fn learn_rate(&mut self, rate: f64) {
        while self.rates.back().is_some_and(|(_, older)| *older <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((self.round, rate));
        while self.rates.front().is_some_and(|(round, _)| round + RATE_ROUNDS < self.round) && self.rates.len() > 1 {
            self.rates.pop_front();
        }
    }

    fn end_round(&mut self, now: u64, idle: bool, min_rtt_expired: bool) {
        let least = self.min_rtt.map_or(0, |(rtt, _)| rtt) as f64;
        let queued = std::mem::replace(&mut self.round_min_rtt, u64::MAX) as f64 > least * 1.5 + 4.0 * SLACK;
        match self.phase {
            Phase::Startup => {
                if self.rate() > self.full_rate * 1.25 {
                    self.full_rate = self.rate();
                    self.full_rounds = 0;
                } else if !idle {
                    self.full_rounds += 1;
                }
                if self.full_rounds >= 3 || queued {
                    self.phase = Phase::Steady;
                }
            }
            Phase::Steady => {
                if min_rtt_expired && !idle {
                    self.phase = Phase::ProbeRtt { until: now + PROBE + least as u64 };
                }
            }
            Phase::ProbeRtt { until } => {
                if now >= until {
                    self.phase = Phase::Steady;
                }
            }
        }
    }

    fn follow(&mut self) {
        let least = self.min_rtt.map_or(0, |(rtt, _)| rtt) as f64;
        let target = self.rate() * (2.0 * least + SLACK);
        self.size = match self.phase {
            Phase::ProbeRtt { .. } => (self.rate() * least / 2.0).clamp(FLOOR / 2.0, CEILING),
            _ => target.clamp(FLOOR.max(INITIAL / 2.0), CEILING),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path with one bottleneck, a fixed delay and random loss that is repaired one round trip later, in order.
    struct Path {
        rate: f64,
        delay: u64,
        loss: f64,
        free_at: f64,
        random: u64,
        last_arrival: u64,
    }

    impl Path {
        fn chance(&mut self) -> f64 {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.random >> 11) as f64 / (1u64 << 53) as f64
        }

        /// When the packet sent at `now` reaches the receiver, in order.
        fn send(&mut self, now: u64) -> u64 {
            self.free_at = self.free_at.max(now as f64) + 1.0 / self.rate;
            let mut at = self.free_at as u64 + self.delay / 2;
            while self.chance() < self.loss {
                at += self.delay + 1_000;
            }
            self.last_arrival = self.last_arrival.max(at);
            self.last_arrival
        }
    }

    /// Sends `packets` and returns (share of the bottleneck's rate reached, longest queueing delay in microseconds after
    /// start-up).
    fn run(megabits: f64, delay: u64, loss: f64, packets: u64) -> (f64, u64) {
        let rate = megabits / 8.0 / 1400.0;
        let mut path = Path { rate, delay, loss, free_at: 0.0, random: 7, last_arrival: 0 };
        let mut window = Window::new();
        let mut arrivals: VecDeque<u64> = VecDeque::new();
        let (mut now, mut sent, mut arrived, mut worst) = (0u64, 0u64, 0u64, 0u64);
        while arrived < packets {
            while sent < packets && window.room() > 0 {
                window.on_send(now);
                arrivals.push_back(path.send(now) + delay / 2);
                sent += 1;
                if now > 1_000_000 + 15 * delay {
                    worst = worst.max((path.free_at - now as f64).max(0.0) as u64);
                }
            }
            now = *arrivals.front().expect("something is on its way");
            while arrivals.front().is_some_and(|at| *at <= now) {
                arrivals.pop_front();
                arrived += 1;
            }
            window.on_ack(now, arrived).expect("honest");
        }
        (packets as f64 / rate / now as f64, worst)
    }

    #[test]
    fn it_fills_lines_of_many_kinds_without_flooding_them() {
        for (megabits, delay, loss, least) in [
            (2.0, 50_000, 0.0, 0.90),
            (10.0, 50_000, 0.0, 0.90),
            (100.0, 50_000, 0.0, 0.90),
            (100.0, 5_000, 0.0, 0.90),
            (10.0, 50_000, 0.01, 0.80),
            (10.0, 50_000, 0.05, 0.60),
            (10.0, 300_000, 0.0, 0.80),
        ] {
            let packets = (megabits * 1e6 / 8.0 / 1400.0 * 20.0) as u64;
            let (share, queue) = run(megabits, delay, loss, packets);
            assert!(share > least, "{megabits} Mbit/s, {delay} us, loss {loss}: {share:.2} of the line");
            assert!(queue < 2 * delay + 200_000, "{megabits} Mbit/s, {delay} us, loss {loss}: queue of {queue} us");
        }
    }

    #[test]
    fn a_trickle_does_not_open_the_window() {
        let mut window = Window::new();
        for packet in 0..100_000u64 {
            window.on_send(packet * 100_000);
            window.on_idle();
            window.on_ack(packet * 100_000 + 50_000, packet + 1).expect("honest");
            assert!(window.room() <= INITIAL as usize, "{} after {packet} single packets", window.room());
            assert!(window.room() >= FLOOR as usize);
        }
    }

    #[test]
    fn a_lying_acknowledgement_is_an_error() {
        let mut window = Window::new();
        window.on_send(1);
        assert!(window.on_ack(2, 2).is_err());
        assert_eq!(window.on_ack(2, 1), Ok(()));
        assert_eq!(window.on_ack(3, 0), Ok(()), "an old acknowledgement says nothing new");
        assert_eq!(window.in_flight(), 0);
    }
}
