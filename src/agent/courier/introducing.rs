//! Introducing an account to contacts who have published an invitation, until they answer: one at a time, once a day for
//! each, at up to [`COPIES`] of their relays.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::clients::Client;
use super::{ClientNumber, Message, random};
use crate::agent::relay_client::{ClientEvent, Opening};
use crate::config::Relays;
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::lane::invite::{self, CLASS, Invitation, Letter};
use crate::lane::keys::{MailKey, RelayKey, SlotId, ToxSecret};
use crate::lane::offer::RelayRef;
use crate::lane::seal::{self, Inner};
use crate::relay::descriptor::{Admission, Descriptor};
use crate::relay::session::{Command, Event};
use crate::relay::wire::Code;
use crate::store::{IntroducingRow, Reader};

/// At how many relays an introduction is left.
const COPIES: usize = 2;
/// On how many days a contact is told who we are, without an answer.
const DAYS: u32 = 14;
/// How long a relay has to let us in, by one slot.
const PATIENCE: Duration = Duration::from_secs(90);
/// How many slots are tried to get in by; one that was emptied does not vouch for anybody.
const ENTRIES: u32 = 3;
/// How long one attempt may take, in milliseconds.
const LIMIT: u64 = 1_200_000;
/// The pause after one that failed, in milliseconds; it doubles up to the longest.
const PAUSE: u64 = 60_000;
const LONGEST_PAUSE: u64 = 6 * 3_600_000;
/// How many times the work that is needed on average is done before it is given up for now.
const PATIENT: u32 = 4;

/// A contact who is to hear who we are.
pub(super) struct Introducing {
    invitation: Invitation,
    id: ToxId,
    text: String,
    days: u32,
    day: Option<u64>,
    failures: u32,
    /// Not before then.
    next: u64,
}

/// An introduction on its way.
struct Attempt {
    peer: PublicKey,
    day: u64,
    letter: Arc<Letter>,
    invitation: Invitation,
    /// Once the work is done.
    inner: Option<Inner>,
    /// Relays that were not tried.
    left: Vec<RelayRef>,
    calls: HashMap<RelayKey, Call>,
    stored: usize,
    until: u64,
}

/// A visit to a relay of the contact's.
struct Call {
    client: Client,
    relay: RelayRef,
    numbers: Numbers,
    slot: SlotId,
    entries: u32,
}

/// The slots of a day, in an order of their own for each visit, so that those who come at once do not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Numbers {
    first: u64,
    start: u64,
    tried: u64,
}

impl Numbers {
    fn new(day: u64, chance: u8) -> Self {
        Self { first: invite::numbers(day).start, start: u64::from(chance) % invite::DAILY, tried: 0 }
    }

    fn now(&self) -> u64 {
        self.first + (self.start + self.tried) % invite::DAILY
    }

    /// Goes on to the next one; whether there is any.
    fn advance(&mut self) -> bool {
        self.tried += 1;
        self.tried < invite::DAILY
    }
}

/// How long to wait after so many failures.
fn pause(failures: u32) -> u64 {
    PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}

impl Introducing {
    /// Whether it is time for another introduction.
    fn is_due(&self, now: u64, today: u64) -> bool {
        self.day.is_none_or(|day| day < today) && self.days < DAYS && now >= self.next
    }

    /// Whether it was tried for long enough, and the last one has had its day.
    fn is_in_vain(&self, today: u64) -> bool {
        self.days >= DAYS && self.day.is_some_and(|day| day + invite::AHEAD < today)
    }
}

/// To whom an account introduces itself.
pub(super) struct Introductions {
    secret: ToxSecret,
    pub(super) to: HashMap<PublicKey, Introducing>,
    attempt: Option<Attempt>,
}

impl Introductions {
    pub(super) fn new(secret: ToxSecret) -> Self {
        Self { secret, to: HashMap::new(), attempt: None }
    }

    /// The mail key of a contact's invitation.
    pub(super) fn mail_key(&self, peer: &PublicKey) -> Option<MailKey> {
        self.to.get(peer).map(|to| to.invitation.key)
    }

    pub(super) fn owns(&self, client: ClientNumber) -> bool {
        self.attempt.iter().any(|attempt| attempt.calls.values().any(|call| call.client.number == client))
    }

    pub(super) fn close(&self) {
        let calls = self.attempt.iter().flat_map(|attempt| attempt.calls.values());
        calls.for_each(|call| call.client.handle.close());
    }
}

impl Account {
    /// Takes over from the store to whom the account introduces itself; whoever is known already, by the same invitation,
    /// stays as he is.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn load_introductions(&mut self, reader: &Reader) -> anyhow::Result<()> {
        for row in reader.introducing(&self.name)? {
            let known = self.introductions.to.get(&row.peer);
            if known.is_none_or(|to| to.invitation.to_string() != row.invitation) {
                self.begin_introducing(row);
            }
        }
        // The store keeps those that are given up, so that the same invitation, found once more, is not a beginning.
        let today = self.today();
        self.introductions.to.retain(|_, to| !to.is_in_vain(today));
        Ok(())
    }

    /// Introduces the account to a contact from now on; that is in the store already.
    pub(super) fn begin_introducing(&mut self, row: IntroducingRow) {
        let IntroducingRow { peer, invitation, id, text, days, day } = row;
        match invitation.parse::<Invitation>() {
            Ok(invitation) => {
                let to = Introducing { invitation, id, text, days, day, failures: 0, next: 0 };
                self.introductions.to.insert(peer, to);
            }
            Err(error) => log::error!("{}: the invitation of {peer} in the store: {error}", self.name),
        }
    }

    /// A contact is none any more.
    pub(super) fn forget_introduction(&mut self, peer: PublicKey) {
        if self.introductions.to.contains_key(&peer) {
            self.end_introducing(peer, false);
        }
    }

    fn end_attempt_at(&mut self, peer: PublicKey) {
        if self.introductions.attempt.as_ref().is_some_and(|attempt| attempt.peer == peer) {
            self.introductions.close();
            self.introductions.attempt = None;
        }
    }

    fn end_introducing(&mut self, peer: PublicKey, answered: bool) {
        self.end_attempt_at(peer);
        match self.shared.store.end_introducing(&self.name, peer, answered) {
            Ok(()) => drop(self.introductions.to.remove(&peer)),
            Err(error) => log::error!("{}: cannot note that {peer} knows of us: {error}", self.name),
        }
    }

    /// Does what is due about introductions.
    ///
    /// # Errors
    /// The store fails or the system has no randomness.
    pub(super) fn introduce(&mut self, clients: &mut ClientNumber) -> anyhow::Result<()> {
        if self.introductions.to.is_empty() || self.config().is_none_or(|config| config.relays == Relays::None) {
            return Ok(());
        }
        let (now, today) = (self.now(), self.today());
        let peers: Vec<PublicKey> = self.introductions.to.keys().copied().collect();
        for peer in peers {
            let Some(to) = self.introductions.to.get(&peer) else { continue };
            if self.followed.contains_key(&peer) {
                log::info!("{}: contact {} has answered", self.name, peer.short());
                self.end_introducing(peer, true);
            } else if to.is_in_vain(today) {
                log::warn!("{}: contact {} has not answered any introduction", self.name, peer.short());
                self.end_attempt_at(peer);
                self.introductions.to.remove(&peer);
            } else {
                self.make_lane(peer)?;
            }
        }
        match &self.introductions.attempt {
            Some(attempt) if now > attempt.until => self.end_attempt(),
            Some(_) => self.call_more(clients),
            None => {}
        }
        if self.introductions.attempt.is_none() {
            let due = |(peer, to): &(&PublicKey, &Introducing)| {
                to.is_due(now, today) && !self.online.contains(*peer) && self.is_lane_ready(peer)
            };
            if let Some(peer) = self.introductions.to.iter().find(due).map(|(peer, _)| *peer) {
                self.begin_attempt(peer)?;
            }
        }
        Ok(())
    }

    /// Whether a contact can be told where to answer; without relays of our own it is told our keys alone.
    fn is_lane_ready(&self, peer: &PublicKey) -> bool {
        self.in_use().is_empty() || self.offered.get(peer).is_some_and(|lane| !lane.relays.is_empty())
    }

    fn begin_attempt(&mut self, peer: PublicKey) -> anyhow::Result<()> {
        let (now, day, chance) = (self.now(), self.today(), random::<8>()?);
        let (Some(offer), Some(to)) = (self.offer(&peer), self.introductions.to.get_mut(&peer)) else { return Ok(()) };
        // Should the work be in vain, or its thread not begin.
        to.next = now + pause(to.failures);
        let letter = Arc::new(Letter::new(&to.id, &to.text, &offer, day));
        let invitation = to.invitation.clone();
        let mut left = invitation.relays.clone();
        let places = left.len();
        left.rotate_left(usize::from(chance[0]) % places.max(1));
        let attempt = Attempt {
            peer,
            day,
            letter: letter.clone(),
            invitation: invitation.clone(),
            inner: None,
            left,
            calls: HashMap::new(),
            stored: 0,
            until: now + LIMIT,
        };
        let (handle, number, own) = (self.shared.handle.clone(), self.number, self.own);
        // What is looked for is rare enough that where one begins does not matter.
        let first = u64::from_be_bytes(chance) >> 1;
        let tries = (1 << invitation.bits) * u64::from(PATIENT);
        std::thread::Builder::new().name("stamp".into()).spawn(move || {
            let stamp = letter.stamp(&invitation, &own, first, tries);
            handle.send(Message::Stamped(number, peer, day, stamp));
        })?;
        self.introductions.attempt = Some(attempt);
        Ok(())
    }

    /// The work for an introduction is done, or was in vain.
    pub(super) fn on_stamp(&mut self, peer: PublicKey, day: u64, stamp: Option<u64>, clients: &mut ClientNumber) {
        let Introductions { secret, attempt, .. } = &mut self.introductions;
        let Some(attempt) = attempt.as_mut().filter(|attempt| (attempt.peer, attempt.day) == (peer, day)) else {
            return;
        };
        match stamp {
            Some(stamp) => {
                attempt.inner = Some(attempt.letter.seal(&attempt.invitation, secret, stamp));
                self.call_more(clients);
            }
            None => self.end_attempt(),
        }
    }

    /// Goes to as many relays as are wanted, and ends when nothing more can be done.
    fn call_more(&mut self, clients: &mut ClientNumber) {
        loop {
            let Some(attempt) = &mut self.introductions.attempt else { return };
            if attempt.inner.is_none() {
                return;
            }
            let wanted = attempt.stored + attempt.calls.len() < COPIES;
            match if wanted { attempt.left.pop() } else { None } {
                Some(relay) => self.call(relay, ENTRIES, None, clients),
                None if attempt.calls.is_empty() => return self.end_attempt(),
                None => return,
            }
        }
    }

    /// Goes to a relay; `numbers`: from that slot on.
    fn call(&mut self, relay: RelayRef, entries: u32, numbers: Option<Numbers>, clients: &mut ClientNumber) {
        let Some(attempt) = &self.introductions.attempt else { return };
        let Ok([chance]) = random::<1>() else { return };
        let numbers = numbers.unwrap_or_else(|| Numbers::new(attempt.day, chance));
        let seed = attempt.invitation.code.seed(&attempt.peer);
        let key = seed.slot(&relay.key, CLASS, numbers.now());
        let slot = key.id();
        let opening = Opening {
            admission: Box::new(move |own| Admission::visitor(&key, &relay.key, own)),
            give_up: Some(PATIENCE),
            ..self.opening(Descriptor { id: relay.id, key: relay.key })
        };
        if let Some(client) = self.open(opening, clients)
            && let Some(attempt) = &mut self.introductions.attempt
        {
            attempt.calls.insert(relay.key, Call { client, relay, numbers, slot, entries });
        }
    }

    /// A relay of a contact's, where an introduction is to be left, has something to tell.
    pub(super) fn on_call(&mut self, client: ClientNumber, event: ClientEvent, clients: &mut ClientNumber) {
        let Some(attempt) = &mut self.introductions.attempt else { return };
        let Some(call) = attempt.calls.values_mut().find(|call| call.client.number == client) else { return };
        let relay = call.relay.key;
        match event {
            ClientEvent::Session(Event::Up(_)) => self.put_introduction(relay),
            ClientEvent::Session(Event::Stored { slot, .. }) if slot == call.slot => {
                attempt.stored += 1;
                self.hang_up(relay, clients);
            }
            ClientEvent::Session(Event::Refused { slot, code, text }) if slot == call.slot => {
                log::debug!("{}: relay {} refuses an introduction: {text}", self.name, relay.short());
                if matches!(code, Code::Taken | Code::Unknown) && call.numbers.advance() {
                    self.put_introduction(relay);
                } else {
                    self.hang_up(relay, clients);
                }
            }
            ClientEvent::Closed(why) => {
                log::debug!("{}: relay {} of a contact: {why}", self.name, relay.short());
                let (again, entries, mut numbers) = (call.relay, call.entries - 1, call.numbers.clone());
                attempt.calls.remove(&relay);
                if entries > 0 && numbers.advance() {
                    self.call(again, entries, Some(numbers), clients);
                }
                self.call_more(clients);
            }
            ClientEvent::Session(_) | ClientEvent::Made(_) => {}
        }
    }

    /// Puts the introduction into the slot whose turn it is.
    fn put_introduction(&mut self, relay: RelayKey) {
        let Some(attempt) = &mut self.introductions.attempt else { return };
        let (Some(call), Some(inner)) = (attempt.calls.get_mut(&relay), &attempt.inner) else { return };
        let seed = attempt.invitation.code.seed(&attempt.peer);
        let slot = seed.slot(&relay, CLASS, call.numbers.now());
        call.slot = slot.id();
        let octets = seal::wrap(inner, &seed, &relay, call.numbers.now()).into();
        call.client.handle.send(Command::Put { slot, octets });
    }

    fn hang_up(&mut self, relay: RelayKey, clients: &mut ClientNumber) {
        let Some(attempt) = &mut self.introductions.attempt else { return };
        if let Some(call) = attempt.calls.remove(&relay) {
            call.client.handle.close();
        }
        self.call_more(clients);
    }

    /// Nothing more can be done about an introduction for now.
    fn end_attempt(&mut self) {
        self.introductions.close();
        let Some(attempt) = self.introductions.attempt.take() else { return };
        let now = self.now();
        let Some(to) = self.introductions.to.get_mut(&attempt.peer) else { return };
        let who = attempt.peer.short();
        if attempt.stored == 0 {
            to.failures += 1;
            to.next = now + pause(to.failures);
            return log::info!("{}: no relay of {who} takes an introduction now", self.name);
        }
        (to.failures, to.next, to.day, to.days) = (0, 0, Some(attempt.day), to.days + 1);
        let row = IntroducingRow {
            peer: attempt.peer,
            invitation: to.invitation.to_string(),
            id: to.id,
            text: to.text.clone(),
            days: to.days,
            day: to.day,
        };
        log::info!("{}: an introduction to {who} waits at {} relays", self.name, attempt.stored);
        if let Err(error) = self.shared.store.put_introducing(&self.name, row) {
            log::error!("{}: cannot note an introduction: {error}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_of_the_day_is_tried_once() {
        for chance in [0, 3, 7, 255] {
            let mut numbers = Numbers::new(20_000, chance);
            let mut tried = vec![numbers.now()];
            while numbers.advance() {
                tried.push(numbers.now());
            }
            assert_eq!(tried[0], invite::numbers(20_000).start + u64::from(chance) % invite::DAILY);
            tried.sort_unstable();
            assert_eq!(tried, invite::numbers(20_000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_failed_is_tried_again_later_and_later() {
        let pauses: Vec<u64> = (0..20).map(pause).collect();
        assert!(pauses.is_sorted() && pauses[0] == PAUSE && pauses[1] == 2 * PAUSE);
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn a_contact_is_told_once_a_day_until_it_is_in_vain() {
        let invitation = Invitation {
            id: ToxId::new(PublicKey([1; 32]), [1; 4]),
            bits: 0,
            code: crate::lane::keys::InviteCode([2; 16]),
            key: crate::lane::keys::MailSecret::new(&mut [3; 32]).public(),
            relays: Vec::new(),
        };
        let id = invitation.id;
        let mut to = Introducing { invitation, id, text: String::new(), days: 0, day: None, failures: 0, next: 5 };
        assert!(!to.is_due(4, 100) && to.is_due(5, 100));
        (to.days, to.day) = (1, Some(100));
        assert!(!to.is_due(5, 100) && to.is_due(5, 101) && !to.is_in_vain(200));
        to.days = DAYS;
        assert!(!to.is_due(5, 101) && !to.is_in_vain(100 + invite::AHEAD) && to.is_in_vain(101 + invite::AHEAD));
    }
}
