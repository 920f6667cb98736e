//! Who is let in: owners by an invite, or as the relay is open; visitors by the signature of a slot.

use super::shelf::{Owner, Shelf, ShelfError, Slot, State};
use super::{Client, MAX_INVITED, Now, SECOND, Server, Visit, Waiting};
use crate::engine::transfer::{Digest, Digester};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{SignatureOctets, SlotId};
use crate::relay::descriptor::{Admission, Invite};

/// The most visitors, and those of them whom slots of one owner vouch for.
const MAX_VISITORS: usize = 256;
const OWNER_VISITORS: usize = 32;
/// The most friend requests that are looked up in a minute: those that read like one, of who is no owner.
const MAX_REQUESTS: u32 = 600;

impl<S: Shelf> Server<S> {
    pub(super) fn on_asked(&mut self, now: Now, key: PublicKey, text: &[u8]) -> Result<(), ShelfError> {
        let Some(admission) = Admission::parse(text) else { return Ok(()) };
        // It lost its friendship with us, or the answer is still on its way.
        if self.owners.contains_key(&key) {
            self.waiting.push(Waiting::Admit(key));
            return Ok(());
        }
        if now.micros.saturating_sub(self.requests.0) > 60 * SECOND {
            self.requests = (now.micros, 0);
        }
        self.requests.1 += 1;
        if self.requests.1 > MAX_REQUESTS {
            return Ok(());
        }
        match admission {
            Admission::Owner(invite) => self.on_owner(now, key, invite.as_ref()),
            Admission::Visitor(slot, signature) => self.on_visitor(now, key, slot, &signature),
        }
    }

    pub(super) fn on_owner(&mut self, now: Now, key: PublicKey, invite: Option<&Invite>) -> Result<(), ShelfError> {
        let many = self.owners.len();
        let quota = match invite {
            Some(invite) if many < MAX_INVITED => {
                let taken = self.shelf.take_invite(&hash(invite), now.seconds)?;
                self.changed |= taken.is_some();
                taken
            }
            _ => None,
        };
        if quota.is_none() && !(self.limits.open && many < self.limits.max_owners) {
            return Ok(());
        }
        let (invited, quota) = (quota.is_some(), quota.flatten());
        self.changed = true;
        let (since, seen) = (now.seconds, now.seconds);
        let owner = Owner { key, quota, invited, since, seen, used: 0, slots: 0, filled: 0, gone: 0 };
        self.shelf.add_owner(&owner)?;
        self.owners.insert(key, owner);
        self.leave(&key);
        self.clients.insert(key, Client::default());
        self.waiting.push(Waiting::Admit(key));
        Ok(())
    }

    pub(super) fn on_visitor(
        &mut self,
        now: Now,
        key: PublicKey,
        slot: SlotId,
        signature: &SignatureOctets,
    ) -> Result<(), ShelfError> {
        let owner = match self.shelf.slot(&slot)? {
            // One that is filled may be asked about, or emptied, by who filled it.
            Some(Slot { owner, state: State::Empty | State::Filled { .. }, .. }) => owner,
            _ => return Ok(()),
        };
        if !slot.verify_visit(&self.key, &key, signature) {
            return Ok(());
        }
        // The answer is still on its way; the visit goes on as it began.
        if self.visitors().any(|(other, visit)| other == key && visit.slot == slot) {
            self.waiting.push(Waiting::Admit(key));
            return Ok(());
        }
        // A slot vouches for one visitor at a time, and by another slot a visitor comes anew.
        let before = self.visitors().filter(|(other, visit)| *other == key || visit.slot == slot);
        let before: Vec<PublicKey> = before.map(|(key, _)| key).collect();
        before.into_iter().for_each(|key| self.dismiss(key));
        let of_owner = self.visitors().filter(|(_, visit)| visit.owner == owner).count();
        if of_owner >= OWNER_VISITORS && !self.make_room(|visit| visit.owner == owner) {
            return Ok(());
        }
        if self.visitors().count() >= MAX_VISITORS && !self.make_room(|_| true) {
            return Ok(());
        }
        let visit = Visit { slot, owner, since: now.micros, heard: now.micros };
        self.clients.insert(key, Client { visit: Some(visit), ..Client::default() });
        self.waiting.push(Waiting::Admit(key));
        Ok(())
    }

    pub(super) fn visitors(&self) -> impl Iterator<Item = (PublicKey, &Visit)> {
        self.clients.iter().filter_map(|(key, client)| Some((*key, client.visit.as_ref()?)))
    }

    /// Lets the visitor go that was heard least lately of those that are not here; false if all of these are.
    pub(super) fn make_room(&mut self, of: impl Fn(&Visit) -> bool) -> bool {
        let away = self.visitors().filter(|(key, visit)| of(visit) && self.clients[key].session.is_none());
        let oldest = away.min_by_key(|(_, visit)| visit.heard).map(|(key, _)| key);
        oldest.map(|key| self.dismiss(key)).is_some()
    }
}

/// By what an invite is kept.
pub(super) fn hash(invite: &Invite) -> Digest {
    let mut digester = Digester::default();
    digester.update(b"toxmail relay invite 1\0");
    digester.update(&invite.0);
    digester.finish()
}
