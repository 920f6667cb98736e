//! Telling those whose friend request was refused: friends in toxcore's eyes only, until they have heard.

use super::AccountThread;
use crate::engine::link::{Action, Input};
use crate::identity::tox_id::PublicKey;
use crate::store::DECLINE_AGE;

impl AccountThread {
    /// Who was refused and is to be told now: a few, the last ones first, and none for ever. Nothing where the store fails.
    pub(super) fn refused(&self) -> Option<Vec<PublicKey>> {
        match self.reader.declining(&self.name, self.seconds() - DECLINE_AGE) {
            Ok(refused) => Some(refused),
            Err(error) => {
                log::error!("{}: cannot read who was refused: {error}", self.name);
                None
            }
        }
    }

    /// Makes those who were refused friends in toxcore's eyes, so that they can be told, and forgets those who have been,
    /// or will not be.
    pub(super) fn tell_refused(&mut self, actions: &mut Vec<Action>) {
        let Some(refused) = self.refused() else { return };
        let before = self.declining.len();
        let done: Vec<PublicKey> = self.declining.iter().filter(|key| !refused.contains(key)).copied().collect();
        done.iter().for_each(|key| self.forget(key, actions));
        let mut changed = before != self.declining.len();
        for key in refused {
            // Who is a friend already is told already, or is a contact by now.
            if self.friends.contains_key(&key) {
                continue;
            }
            match self.tox.add_known_friend(&key) {
                Ok(number) => self.know(number, key),
                Err(error) => {
                    log::error!("{}: cannot tell {key} that it is refused: {error}", self.name);
                    continue;
                }
            }
            self.declining.insert(key);
            self.engine.handle(self.now(), Input::Decline(key, true), actions);
            changed = true;
        }
        if changed {
            self.save();
        }
    }
}
