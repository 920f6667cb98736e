//! What each request does with a slot, and whether its sender may.

use std::collections::BTreeMap;

use super::session::Cursor;
use super::shelf::{Owner, Shelf, ShelfError, Slot, State};
use super::{Incoming, Now, OWNER_SLOTS, Refusal, Server, TROUBLE, refuse};
use crate::engine::transfer::{Digest, Digester};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, SignatureOctets, SlotId};
use crate::relay::wire::{Answer, Code, Filled, MAX_SLOTS, SlotOctets};

/// The most slots of one owner that are remembered, those emptied for good included; the oldest of these are forgotten.
const OWNER_ROWS: u64 = 4 * OWNER_SLOTS;
/// Contents that may come in at a time: from one client, and from all.
const CLIENT_DRAFTS: usize = 4;
const MAX_DRAFTS: usize = 256;
/// Contents that one client may fetch at a time.
const MAX_GETS: usize = 8;

impl<S: Shelf> Server<S> {
    pub(super) fn on_register(&mut self, from: PublicKey, slots: BTreeMap<SlotId, u8>) -> Result<(), Refusal> {
        let Some(owner) = self.owners.get(&from) else {
            return refuse(Code::Forbidden, "only an owner registers slots");
        };
        let mut new = Vec::new();
        for (slot, class) in slots {
            let Some(class) = Class::from_number(class) else { return refuse(Code::Wrong, "unknown class") };
            match self.shelf.slot(&slot)? {
                None => new.push((slot, class)),
                Some(known) if known.owner == from && known.class == class => {}
                Some(_) => return refuse(Code::Taken, "a slot is registered otherwise"),
            }
        }
        let many = new.len() as u64;
        if many == 0 {
            return Ok(());
        }
        if owner.slots + many > OWNER_SLOTS {
            return refuse(Code::Slots, "too many slots");
        }
        let beyond = (owner.slots + owner.gone + many).saturating_sub(OWNER_ROWS);
        self.changed = true;
        let forgotten = if beyond > 0 { self.shelf.forget_gone(&from, beyond)? } else { 0 };
        for (slot, class) in new {
            self.shelf.register(&from, &slot, class)?;
        }
        self.account(&from, |owner| {
            owner.slots += many;
            owner.gone -= forgotten;
        });
        Ok(())
    }

    pub(super) fn on_unregister(&mut self, from: PublicKey, slots: &[SlotOctets]) -> Result<(), Refusal> {
        if !self.owners.contains_key(&from) {
            return refuse(Code::Forbidden, "only an owner takes slots back");
        }
        for slot in slots.iter().map(|slot| SlotId(slot.0)) {
            match self.shelf.slot(&slot)? {
                Some(known) if known.owner == from => self.forget(&slot, &known)?,
                // Of others nothing is said.
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets a slot with all that is in it or on its way into it.
    pub(super) fn forget(&mut self, slot: &SlotId, known: &Slot) -> Result<(), ShelfError> {
        self.abandon(slot);
        self.changed = true;
        self.shelf.forget(slot)?;
        self.account(&known.owner, |owner| uncount(owner, known));
        Ok(())
    }

    pub(super) fn account(&mut self, owner: &PublicKey, change: impl FnOnce(&mut Owner)) {
        if let Some(owner) = self.owners.get_mut(owner) {
            let used = owner.used;
            change(owner);
            self.used = self.used - used + owner.used;
        }
    }

    /// Drops content that is coming in.
    pub(super) fn abandon(&mut self, slot: &SlotId) {
        if let Some(incoming) = self.incoming.remove(slot) {
            self.shelf.abandon(incoming.draft);
        }
    }

    pub(super) fn on_put(
        &mut self,
        now: Now,
        from: PublicKey,
        slot: SlotId,
        size: u64,
        digest: Digest,
    ) -> Result<Answer, Refusal> {
        let Some(known) = self.shelf.slot(&slot)? else { return refuse(Code::Unknown, "no such slot") };
        match known.state {
            State::Gone(_) => return refuse(Code::Taken, "the slot was emptied for good"),
            State::Filled { digest: has, expires, .. } if has == digest => {
                return Ok(self.stored(&slot, &digest, expires));
            }
            State::Filled { .. } => return refuse(Code::Taken, "the slot holds something else"),
            State::Empty => {}
        }
        if size != known.class.octets() as u64 {
            return refuse(Code::Wrong, "the length is not that of the slot's class");
        }
        let own = |incoming: &&Incoming| incoming.client == Some(from);
        let writing = self.incoming.values().filter(own).count();
        match self.incoming.get_mut(&slot) {
            Some(incoming) if incoming.client.is_some_and(|client| client != from) => {
                return refuse(Code::Busy, "somebody else is filling the slot");
            }
            Some(incoming) if incoming.digest == digest => {
                if incoming.client.is_none() && writing >= CLIENT_DRAFTS {
                    return refuse(Code::Busy, "too many slots are being filled at a time");
                }
                (incoming.client, incoming.touched) = (Some(from), now.micros);
                return Ok(Answer::Continue(SlotOctets(slot.0), incoming.have));
            }
            Some(_) => self.abandon(&slot),
            None => {}
        }
        if self.incoming.values().filter(own).count() >= CLIENT_DRAFTS {
            return refuse(Code::Busy, "too many slots are being filled at a time");
        }
        self.make_space(&known.owner, size)?;
        // Like what cannot be appended: nothing of others depends on it.
        let Ok(draft) = self.shelf.begin() else { return refuse(Code::Busy, TROUBLE) };
        let incoming = Incoming {
            draft,
            owner: known.owner,
            client: Some(from),
            size,
            digest,
            digester: Digester::default(),
            have: 0,
            touched: now.micros,
        };
        self.incoming.insert(slot, incoming);
        Ok(Answer::Continue(SlotOctets(slot.0), 0))
    }

    /// Makes sure that so many octets more may come in for an owner; what nobody goes on with gives way, where that helps.
    pub(super) fn make_space(&mut self, owner: &PublicKey, size: u64) -> Result<(), Refusal> {
        let Some(account) = self.owners.get(owner) else { return refuse(Code::Unknown, "no such slot") };
        if let Some(limit) = self.limit(account, size, |incoming| incoming.client.is_some()) {
            return refuse(limit.0, limit.1);
        }
        while let Some(account) = self.owners.get(owner)
            && let Some((code, _)) = self.limit(account, size, |_| true)
        {
            let idle = self.incoming.iter().filter(|(_, incoming)| incoming.client.is_none());
            let idle = idle.filter(|(_, incoming)| code != Code::Quota || incoming.owner == *owner);
            let Some(slot) = idle.min_by_key(|(_, incoming)| incoming.touched).map(|(slot, _)| *slot) else { break };
            self.abandon(&slot);
        }
        Ok(())
    }

    /// Which limit so many octets more would break, beside what lies here and those contents that are coming in and count.
    fn limit(&self, owner: &Owner, size: u64, counts: impl Fn(&Incoming) -> bool) -> Option<(Code, &'static str)> {
        let (mut many, mut of_owner, mut of_all, mut missing) = (0, 0, 0, 0);
        for incoming in self.incoming.values().filter(|incoming| counts(incoming)) {
            many += 1;
            of_owner += if incoming.owner == owner.key { incoming.size } else { 0 };
            of_all += incoming.size;
            missing += incoming.size - incoming.have;
        }
        if owner.used + of_owner + size > self.quota(owner) {
            Some((Code::Quota, "the recipient's space at this relay is full"))
        } else if self.used + of_all + size > self.limits.max_disk || many >= MAX_DRAFTS {
            Some((Code::Busy, "this relay is full"))
        } else if missing + size > self.room {
            Some((Code::Busy, "the disk of this relay is nearly full"))
        } else {
            None
        }
    }

    pub(super) fn on_piece(
        &mut self,
        now: Now,
        from: PublicKey,
        slot: &SlotId,
        offset: u64,
        octets: &[u8],
    ) -> Result<(), Refusal> {
        // What was refused may have been on its way.
        let Some(incoming) = self.incoming.get_mut(slot).filter(|incoming| incoming.client == Some(from)) else {
            return Ok(());
        };
        // What is there already comes again after a second PUT; a gap shows when the content is sealed.
        let skip = incoming.have.checked_sub(offset).and_then(|skip| usize::try_from(skip).ok());
        let Some(octets) = skip.and_then(|skip| octets.get(skip..)).filter(|octets| !octets.is_empty()) else {
            return Ok(());
        };
        incoming.touched = now.micros;
        if incoming.have + octets.len() as u64 > incoming.size {
            self.abandon(slot);
            return refuse(Code::Wrong, "more came than the length that was told");
        }
        incoming.digester.update(octets);
        incoming.have += octets.len() as u64;
        self.room = self.room.saturating_sub(octets.len() as u64);
        let draft = incoming.draft;
        if self.shelf.append(draft, octets).is_err() {
            self.abandon(slot);
            return refuse(Code::Busy, TROUBLE);
        }
        Ok(())
    }

    pub(super) fn on_seal(
        &mut self,
        now: Now,
        from: PublicKey,
        slot: SlotId,
        signature: &SignatureOctets,
    ) -> Result<Answer, Refusal> {
        let Some(known) = self.shelf.slot(&slot)? else { return refuse(Code::Unknown, "no such slot") };
        let size = known.class.octets() as u64;
        match known.state {
            State::Gone(_) => return refuse(Code::Taken, "the slot was emptied for good"),
            State::Filled { digest, expires, .. } if slot.verify_put(&self.key, &digest.0, size, signature) => {
                return Ok(self.stored(&slot, &digest, expires));
            }
            State::Filled { .. } => return refuse(Code::Taken, "the slot holds something else"),
            State::Empty => {}
        }
        let Some(incoming) = self.incoming.get(&slot).filter(|incoming| incoming.client == Some(from)) else {
            return refuse(Code::Busy, "the content was dropped: begin anew");
        };
        if incoming.have != incoming.size {
            return refuse(Code::Wrong, "not all of the content came");
        }
        let incoming = self.incoming.remove(&slot).expect("looked up above");
        let digest = incoming.digester.finish();
        if digest != incoming.digest || !slot.verify_put(&self.key, &digest.0, size, signature) {
            self.shelf.abandon(incoming.draft);
            return refuse(Code::Wrong, "digest or signature is wrong");
        }
        let expires = now.seconds + self.limits.retention;
        self.changed = true;
        let number = self.shelf.fill(&slot, incoming.draft, &digest, expires)?;
        self.account(&known.owner, |owner| {
            owner.filled += 1;
            owner.used += size;
        });
        let filled = Filled { slot: SlotOctets(slot.0), number };
        self.answer(known.owner, Answer::Arrived(filled));
        Ok(self.stored(&slot, &digest, expires))
    }

    pub(super) fn stored(&self, slot: &SlotId, digest: &Digest, expires: u64) -> Answer {
        Answer::Stored(SlotOctets(slot.0), digest.0, expires, self.secret.sign_stored(slot, &digest.0, expires))
    }

    pub(super) fn on_list(&mut self, from: &PublicKey, after: u64) -> Result<Answer, ShelfError> {
        let mut filled = self.shelf.list(from, after, MAX_SLOTS + 1)?;
        let more = filled.len() > MAX_SLOTS;
        filled.truncate(MAX_SLOTS);
        let filled = filled.into_iter().map(|(slot, number)| Filled { slot: SlotOctets(slot.0), number });
        Ok(Answer::Listed(filled.collect(), more))
    }

    pub(super) fn on_get(&mut self, from: &PublicKey, slot: SlotId, offset: u64) -> Result<(), Refusal> {
        let size = match self.shelf.slot(&slot)? {
            Some(Slot { owner, class, state: State::Filled { .. } }) if owner == *from => class.octets() as u64,
            _ => return refuse(Code::Unknown, "no such slot is filled"),
        };
        if offset >= size {
            return refuse(Code::Wrong, "the content is not so long");
        }
        let Some(session) = self.session(from) else { return Ok(()) };
        let cursor = Cursor::new(slot, offset, size);
        let many = session.gets.len();
        match session.gets.iter_mut().find(|cursor| cursor.slot() == slot) {
            Some(before) => *before = cursor,
            None if many < MAX_GETS => session.gets.push_back(cursor),
            None => return refuse(Code::Busy, "too many contents are being fetched at a time"),
        }
        Ok(())
    }

    pub(super) fn on_delete(&mut self, now: Now, slot: SlotId, signature: &SignatureOctets) -> Result<Answer, Refusal> {
        let Some(known) = self.shelf.slot(&slot)? else { return refuse(Code::Unknown, "no such slot") };
        if !slot.verify_delete(&self.key, signature) {
            return refuse(Code::Wrong, "the signature is wrong");
        }
        let until = match known.state {
            State::Gone(_) => None,
            State::Filled { expires, .. } => Some(expires),
            State::Empty => Some(now.seconds + self.limits.retention),
        };
        if let Some(until) = until {
            self.abandon(&slot);
            self.changed = true;
            self.shelf.empty(&slot, until)?;
            self.account(&known.owner, |owner| {
                uncount(owner, &known);
                owner.gone += 1;
            });
        }
        Ok(Answer::Gone(SlotOctets(slot.0), self.secret.sign_gone(&slot)))
    }
}

/// Takes a slot out of an owner's account.
fn uncount(owner: &mut Owner, slot: &Slot) {
    match slot.state {
        State::Empty => owner.slots -= 1,
        State::Filled { .. } => {
            owner.slots -= 1;
            owner.filled -= 1;
            owner.used -= slot.class.octets() as u64;
        }
        State::Gone(_) => owner.gone -= 1,
    }
}
