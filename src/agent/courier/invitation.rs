//! Those who introduce themselves: the slots that an invitation leads to are kept open, what comes there becomes a request,
//! and who is a contact then is answered by the lane that he offered.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::account::Account;
use super::random;
use crate::config::Relays;
use crate::engine::request;
use crate::identity::tox_id::ToxId;
use crate::lane::invite::{self, BITS, CLASS, Introduction, Invitation};
use crate::lane::keys::{Class, InviteCode, LaneSeed, RelayKey, SlotId};
use crate::lane::offer::RelayRef;
use crate::relay::session::{Command, Event};
use crate::relay::wire::Code;
use crate::store::{Answer, Introduced, Reader, Request};

/// A day, in seconds.
pub(super) const DAY: i64 = 86_400;

/// What the courier knows of an account's invitation.
#[derive(Default)]
pub(super) struct Reception {
    code: Option<InviteCode>,
    /// Codes that were told before, whose slots are taken back.
    renewed: Vec<InviteCode>,
    /// The numbers of our slots that a relay may name.
    slots: HashMap<(RelayKey, SlotId), u64>,
    /// Those that are filled and not dealt with.
    filled: BTreeSet<(RelayKey, SlotId)>,
    /// The day for which slots were opened last, for each relay; at one that is not in use, named only.
    opened: HashMap<RelayKey, (u64, bool)>,
    /// The day on which slots of days that are over were taken back last, for each relay.
    swept: HashMap<RelayKey, u64>,
    /// Relays where slots were taken back that codes told before led to, in this run.
    left: BTreeSet<RelayKey>,
}

impl Reception {
    /// Nothing is open at this relay any more.
    pub(super) fn forget(&mut self, relay: RelayKey) {
        self.opened.remove(&relay);
    }
}

/// Which slots are these.
fn slots(seed: &LaneSeed, relay: RelayKey, numbers: Range<u64>) -> impl Iterator<Item = (SlotId, u64)> {
    numbers.map(move |number| (seed.slot(&relay, CLASS, number).id(), number))
}

impl Account {
    /// Takes the invitation over from the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn load_reception(&mut self, reader: &Reader) -> anyhow::Result<()> {
        (self.reception.code, self.reception.renewed) = reader.invitations(&self.name)?;
        Ok(())
    }

    /// Today, in days since the epoch (UTC).
    pub(super) fn today(&self) -> u64 {
        u64::try_from(self.seconds() / DAY).unwrap_or(0)
    }

    /// By what a stranger can introduce himself to the account, whose Tox ID is told. A code is made at first, and with
    /// `renew`; from then on the one before leads nowhere. `None`: no relay of the account has answered yet.
    ///
    /// # Errors
    /// The store fails or the system has no randomness.
    pub(super) fn invitation(&mut self, id: ToxId, renew: bool) -> anyhow::Result<Option<Invitation>> {
        if self.reachable().is_empty() {
            return Ok(None);
        }
        if renew || self.reception.code.is_none() {
            let code = InviteCode(random()?);
            self.shared.store.put_invitation(&self.name, &code, self.seconds())?;
            let before = std::mem::take(&mut self.reception);
            self.reception.renewed = before.renewed;
            self.reception.renewed.extend(before.code);
            self.reception.code = Some(code);
        }
        Ok(self.told(id))
    }

    /// The invitation as it is told with this Tox ID, if one was made; without relays as long as none has answered.
    pub(super) fn told(&self, id: ToxId) -> Option<Invitation> {
        let code = self.reception.code.clone()?;
        Some(Invitation { id, bits: BITS, code, key: self.secret.public(), relays: self.reachable() })
    }

    /// The relays where a stranger may leave something.
    fn reachable(&self) -> Vec<RelayRef> {
        let good = self.owners.iter().filter(|(_, owner)| owner.in_use && owner.since.is_some());
        good.map(|(key, owner)| RelayRef { id: owner.id, key: *key }).take(super::clients::MOST_OFFERED).collect()
    }

    /// Keeps the slots of the invitation open, and answers those who introduced themselves and are contacts.
    ///
    /// # Errors
    /// The store fails or the system has no randomness.
    pub(super) fn receive(&mut self, reader: &Reader) -> anyhow::Result<()> {
        let today = self.today();
        let up: Vec<RelayKey> = self.owners.iter().filter(|(_, owner)| owner.up).map(|(key, _)| *key).collect();
        for relay in up {
            self.take_back(relay, today);
            self.keep_open(relay, today);
        }
        if self.config().is_none_or(|config| config.relays == Relays::None) {
            return Ok(());
        }
        for (peer, offer) in reader.introduced(&self.name)? {
            self.make_lane(peer)?;
            if self.on_offer(peer, &offer, false) {
                self.shared.store.introduction_followed(&self.name, peer)?;
            }
        }
        Ok(())
    }

    fn keep_open(&mut self, relay: RelayKey, today: u64) {
        let Some(code) = &self.reception.code else { return };
        // From one that is no longer in use what is there is fetched, and no more.
        let in_use = self.owners.get(&relay).is_some_and(|owner| owner.in_use);
        let opened = (today, in_use);
        if self.reception.opened.insert(relay, opened) == Some(opened) {
            return;
        }
        let seed = code.seed(&self.own);
        let mut register: Vec<(SlotId, Class)> =
            slots(&seed, relay, invite::open(today)).map(|(id, _)| (id, CLASS)).collect();
        // Names are as good as random: in their order, nothing says which day a slot is for.
        register.sort();
        self.name_reception(relay);
        if in_use {
            self.ask_relay(relay, Command::Register(register));
        }
    }

    /// Makes the slots of the invitation known by their names.
    fn name_reception(&mut self, relay: RelayKey) {
        let Some(code) = &self.reception.code else { return };
        let (seed, today) = (code.seed(&self.own), self.today());
        let named = slots(&seed, relay, invite::over(today).start..invite::open(today).end);
        let named: Vec<_> = named.map(|(id, number)| ((relay, id), number)).collect();
        self.reception.slots.retain(|(of, _), _| *of != relay);
        self.reception.slots.extend(named);
    }

    /// Takes back the slots of codes that were told before.
    fn take_back(&mut self, relay: RelayKey, today: u64) {
        if self.reception.renewed.is_empty() || !self.reception.left.insert(relay) {
            return;
        }
        let numbers = invite::over(today).start..invite::open(today).end;
        let seeds = self.reception.renewed.iter().map(|code| code.seed(&self.own));
        let ids: Vec<SlotId> =
            seeds.flat_map(|seed| slots(&seed, relay, numbers.clone()).map(|(id, _)| id).collect::<Vec<_>>()).collect();
        self.ask_relay(relay, Command::Unregister(ids));
        // By then no slot of theirs is registered, whatever became of this.
        self.shared.store.forget_invitations(self.seconds() - DAY * (invite::BACK + invite::AHEAD) as i64);
    }

    /// A relay where we are an owner says something: takes what is about slots of the invitation, and gives back the rest.
    pub(super) fn on_reception(&mut self, relay: RelayKey, event: Event) -> Option<Event> {
        if self.reception.slots.is_empty() && !matches!(event, Event::Up(_)) {
            return Some(event);
        }
        let number = |account: &Self, id: &SlotId| account.reception.slots.get(&(relay, *id)).copied();
        let others = |account: &Self, ids: Vec<SlotId>| -> Vec<SlotId> {
            ids.into_iter().filter(|id| number(account, id).is_none()).collect()
        };
        match event {
            // What was not registered in the last session is asked for in this one; and a relay lists all that is filled in a
            // session once, so that names must be known by then.
            Event::Up(_) => {
                self.reception.forget(relay);
                self.reception.filled.retain(|(of, _)| *of != relay);
                self.name_reception(relay);
                Some(event)
            }
            Event::Registered(ids) => {
                Some(Event::Registered(others(self, ids))).filter(|event| *event != Event::Registered(Vec::new()))
            }
            Event::NotRegistered(ids, code, text) => {
                let left = others(self, ids);
                if left.is_empty() {
                    log::warn!("{}: relay {} takes no introductions: {text}", self.name, relay.short());
                    return None;
                }
                Some(Event::NotRegistered(left, code, text))
            }
            Event::Listed(filled) => {
                let (ours, rest): (Vec<_>, Vec<_>) = filled.into_iter().partition(|(id, _)| number(self, id).is_some());
                self.reception.filled.extend(ours.into_iter().map(|(id, _)| (relay, id)));
                let filled = self.reception.filled.iter().filter(|(of, _)| *of == relay);
                let filled: BTreeSet<SlotId> = filled.map(|(_, id)| *id).collect();
                // Those as well that could not be fetched, or dealt with, when they were listed.
                filled.iter().for_each(|id| self.ask_relay(relay, Command::Get(*id, CLASS)));
                self.sweep(relay, &filled);
                Some(Event::Listed(rest))
            }
            Event::Arrived(id, _) if number(self, &id).is_some() => {
                self.reception.filled.insert((relay, id));
                self.ask_relay(relay, Command::Get(id, CLASS));
                None
            }
            Event::Content(id, octets) => match number(self, &id) {
                Some(number) => {
                    self.on_introduction(relay, number, &octets);
                    None
                }
                None => Some(Event::Content(id, octets)),
            },
            Event::Gone(id) if number(self, &id).is_some() => {
                self.reception.filled.remove(&(relay, id));
                None
            }
            Event::Refused { slot, code, text } if number(self, &slot).is_some() => {
                log::debug!("{}: relay {} refuses: {text}", self.name, relay.short());
                if code == Code::Unknown {
                    self.reception.filled.remove(&(relay, slot));
                }
                None
            }
            event => Some(event),
        }
    }

    /// Takes back the slots of days that are over, once a day, but for those that are filled.
    fn sweep(&mut self, relay: RelayKey, filled: &BTreeSet<SlotId>) {
        let (Some(code), today) = (&self.reception.code, self.today()) else { return };
        if self.reception.swept.insert(relay, today) == Some(today) {
            return;
        }
        let seed = code.seed(&self.own);
        let ids = slots(&seed, relay, invite::over(today)).map(|(id, _)| id);
        let ids: Vec<SlotId> = ids.filter(|id| !filled.contains(id)).collect();
        self.ask_relay(relay, Command::Unregister(ids));
    }

    /// Something lay in a slot of the invitation.
    fn on_introduction(&mut self, relay: RelayKey, number: u64, octets: &[u8]) {
        let Some(code) = self.reception.code.clone() else { return };
        let inbox = invite::Inbox { own: self.own, secret: &self.secret, code: code.clone(), bits: BITS };
        match inbox.open(octets, &relay, number) {
            Ok(introduction) => {
                if let Err(error) = self.take_introduction(introduction) {
                    // It stays where it is.
                    return log::error!("{}: cannot keep an introduction: {error:#}", self.name);
                }
            }
            Err(error) => log::info!("{}: relay {} has an introduction, but {error}", self.name, relay.short()),
        }
        self.ask_relay(relay, Command::Delete(code.seed(&self.own).slot(&relay, CLASS, number)));
    }

    fn take_introduction(&mut self, introduction: Introduction) -> anyhow::Result<()> {
        let Introduction { id, text, octets, .. } = introduction;
        let key = id.key();
        if key == self.own {
            return Ok(());
        }
        let (message, claim) = request::read(text.as_bytes());
        let claim = claim.map(|address| address.lowered().to_string());
        let claims = claim.as_ref().map_or_else(String::new, |claim| format!(", who claims to be {claim}"));
        let request = Request {
            account: self.name.clone(),
            key,
            message,
            received: self.seconds(),
            answer: Answer::Open,
            claim,
            verified: None,
        };
        match self.shared.store.put_introduction(request, octets.0)? {
            Introduced::Contact => log::info!("{}: contact {key} has introduced himself", self.name),
            Introduced::Dropped => log::debug!("{}: an introduction of {key} is dropped", self.name),
            Introduced::Request { new } => {
                let _ = self.shared.asked.try_send((self.number, key));
                if new {
                    log::info!("{}: {key} introduces himself by a relay{claims}: toxctl request list", self.name);
                }
            }
        }
        Ok(())
    }
}
