//! A shelf in memory, for simulators, fuzzers and tests: it keeps nothing, but as the real one does.

use std::collections::BTreeMap;

use super::shelf::{Draft, Owner, Shelf, ShelfError, Slot, State};
use crate::engine::transfer::Digest;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, SlotId};

type Result<T> = std::result::Result<T, ShelfError>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tables {
    /// Each with nothing in its account, and with the number of its slot that is filled next.
    owners: BTreeMap<PublicKey, (Owner, u64)>,
    invites: BTreeMap<[u8; 32], (Option<u64>, u64)>,
    slots: BTreeMap<SlotId, Slot>,
    contents: BTreeMap<SlotId, std::sync::Arc<[u8]>>,
}

/// A [`Shelf`] in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    tables: Tables,
    /// What was committed last; kept from the first change on.
    before: Option<Tables>,
    drafts: BTreeMap<Draft, Vec<u8>>,
    next: u64,
    /// The next commits fail.
    pub broken: bool,
}

impl Memory {
    fn change(&mut self) -> &mut Tables {
        if self.before.is_none() {
            self.before = Some(self.tables.clone());
        }
        &mut self.tables
    }

    /// All slots that are known.
    pub fn slots(&self) -> impl Iterator<Item = (&SlotId, &Slot)> {
        self.tables.slots.iter()
    }

    /// Loses what a crash would.
    pub fn crash(&mut self) {
        self.roll_back();
        self.drafts.clear();
    }

    /// Octets of all contents, and of what is coming in.
    pub fn octets(&self) -> usize {
        self.tables.contents.values().map(|content| content.len()).sum::<usize>()
            + self.drafts.values().map(Vec::len).sum::<usize>()
    }
}

fn unknown() -> ShelfError {
    ShelfError("no such slot, owner or draft".into())
}

impl Shelf for Memory {
    fn owners(&mut self) -> Result<Vec<Owner>> {
        let owner = |(owner, _): &(Owner, u64)| {
            let mut owner = owner.clone();
            for slot in self.tables.slots.values().filter(|slot| slot.owner == owner.key) {
                match slot.state {
                    State::Empty => owner.slots += 1,
                    State::Filled { .. } => {
                        owner.slots += 1;
                        owner.filled += 1;
                        owner.used += slot.class.octets() as u64;
                    }
                    State::Gone(_) => owner.gone += 1,
                }
            }
            owner
        };
        Ok(self.tables.owners.values().map(owner).collect())
    }

    fn add_owner(&mut self, owner: &Owner) -> Result<()> {
        self.change().owners.insert(owner.key, (owner.clone(), 1));
        Ok(())
    }

    fn see_owner(&mut self, key: &PublicKey, seen: u64) -> Result<()> {
        self.change().owners.get_mut(key).ok_or_else(unknown)?.0.seen = seen;
        Ok(())
    }

    fn remove_owner(&mut self, key: &PublicKey) -> Result<()> {
        let tables = self.change();
        tables.owners.remove(key);
        let slots = &mut tables.slots;
        tables.contents.retain(|slot, _| slots.get(slot).is_some_and(|slot| slot.owner != *key));
        slots.retain(|_, slot| slot.owner != *key);
        Ok(())
    }

    fn add_invite(&mut self, hash: &Digest, quota: Option<u64>, expires: u64) -> Result<()> {
        self.change().invites.insert(hash.0, (quota, expires));
        Ok(())
    }

    fn take_invite(&mut self, hash: &Digest, now: u64) -> Result<Option<Option<u64>>> {
        Ok(self.change().invites.remove(&hash.0).filter(|(_, expires)| *expires > now).map(|(quota, _)| quota))
    }

    fn invites(&mut self, now: u64) -> Result<u64> {
        let invites = &mut self.change().invites;
        invites.retain(|_, (_, expires)| *expires > now);
        Ok(invites.len() as u64)
    }

    fn slot(&mut self, slot: &SlotId) -> Result<Option<Slot>> {
        Ok(self.tables.slots.get(slot).cloned())
    }

    fn register(&mut self, owner: &PublicKey, slot: &SlotId, class: Class) -> Result<()> {
        self.change().slots.insert(*slot, Slot { owner: *owner, class, state: State::Empty });
        Ok(())
    }

    fn forget(&mut self, slot: &SlotId) -> Result<()> {
        let tables = self.change();
        tables.slots.remove(slot);
        tables.contents.remove(slot);
        Ok(())
    }

    fn empty(&mut self, slot: &SlotId, until: u64) -> Result<()> {
        let tables = self.change();
        tables.slots.get_mut(slot).ok_or_else(unknown)?.state = State::Gone(until);
        tables.contents.remove(slot);
        Ok(())
    }

    fn forget_gone(&mut self, owner: &PublicKey, most: u64) -> Result<u64> {
        let gone = |(id, slot): (&SlotId, &Slot)| match slot.state {
            State::Gone(until) if slot.owner == *owner => Some((until, *id)),
            _ => None,
        };
        let mut gone: Vec<(u64, SlotId)> = self.tables.slots.iter().filter_map(gone).collect();
        gone.sort_unstable();
        gone.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        gone.iter().for_each(|(_, slot)| {
            self.change().slots.remove(slot);
        });
        Ok(gone.len() as u64)
    }

    fn begin(&mut self) -> Result<Draft> {
        self.next += 1;
        self.drafts.insert(Draft(self.next), Vec::new());
        Ok(Draft(self.next))
    }

    fn append(&mut self, draft: Draft, octets: &[u8]) -> Result<()> {
        self.drafts.get_mut(&draft).ok_or_else(unknown)?.extend_from_slice(octets);
        Ok(())
    }

    fn abandon(&mut self, draft: Draft) {
        self.drafts.remove(&draft);
    }

    fn fill(&mut self, slot: &SlotId, draft: Draft, digest: &Digest, expires: u64) -> Result<u64> {
        let content = self.drafts.remove(&draft).ok_or_else(unknown)?;
        let tables = self.change();
        let entry = tables.slots.get_mut(slot).ok_or_else(unknown)?;
        let next = &mut tables.owners.get_mut(&entry.owner).ok_or_else(unknown)?.1;
        let number = *next;
        *next += 1;
        entry.state = State::Filled { number, digest: *digest, expires };
        tables.contents.insert(*slot, content.into());
        Ok(number)
    }

    fn list(&mut self, owner: &PublicKey, after: u64, most: usize) -> Result<Vec<(SlotId, u64)>> {
        let filled = |(id, slot): (&SlotId, &Slot)| match slot.state {
            State::Filled { number, .. } if slot.owner == *owner && number > after => Some((*id, number)),
            _ => None,
        };
        let mut list: Vec<(SlotId, u64)> = self.tables.slots.iter().filter_map(filled).collect();
        list.sort_unstable_by_key(|(_, number)| *number);
        list.truncate(most);
        Ok(list)
    }

    fn read(&mut self, slot: &SlotId, offset: u64, length: usize) -> Result<Option<Vec<u8>>> {
        let content = self.tables.contents.get(slot);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(content.and_then(|content| content.get(from..from.checked_add(length)?)).map(<[u8]>::to_vec))
    }

    fn ended(&mut self, now: u64, most: usize) -> Result<Vec<(SlotId, Slot)>> {
        let ended = |slot: &Slot| match slot.state {
            State::Empty => false,
            State::Filled { expires: end, .. } | State::Gone(end) => end < now,
        };
        let slots = self.tables.slots.iter().filter(|(_, slot)| ended(slot));
        Ok(slots.take(most).map(|(id, slot)| (*id, slot.clone())).collect())
    }

    fn commit(&mut self) -> Result<()> {
        if self.broken {
            self.roll_back();
            return Err(ShelfError("broken".into()));
        }
        self.before = None;
        Ok(())
    }

    fn roll_back(&mut self) {
        if let Some(before) = self.before.take() {
            self.tables = before;
        }
    }
}
