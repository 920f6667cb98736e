//! Mail that came by relays, on its way into the mailboxes.

use std::collections::HashSet;

use super::{AccountThread, Command};
use crate::engine::transfer::{Delivery, Outcome};
use crate::engine::wire::Offer;
use crate::mail::status::Refusal;

/// A mail of a contact that came by relays.
pub struct Relayed {
    /// Its envelope and body. Its recipients are those that the contact named; which mailboxes are theirs is for the account
    /// to say.
    pub mail: Delivery,
    /// Octets of the encoded body.
    pub wire_size: u64,
    /// Is told what became of each recipient by its number; what is not permanent may be tried again.
    pub done: Box<dyn FnOnce(Answers) + Send>,
}

/// What became of each recipient of a mail, by its number.
pub type Answers = Vec<(u32, Outcome)>;

impl AccountThread {
    /// Puts a mail that came by relays into its mailboxes, under the same rules and records as one that came by the link.
    pub(super) fn take_relayed(&mut self, relayed: Relayed) {
        let Relayed { mut mail, wire_size, done } = relayed;
        let (peer, id) = (mail.peer, mail.id);
        let all = |refusal: Refusal| {
            mail.recipients.iter().map(|(index, ..)| (*index, Outcome::Refused(refusal.clone()))).collect::<Vec<_>>()
        };
        // Not whether toxcore knows him as a friend, which it may lack for a while: what is refused here is refused for good.
        let directory = &self.shared.directory;
        let contact = directory.is_contact(self.number, &peer) && !self.declining.contains(&peer);
        if !contact || directory.is_blocked(self.number, &peer) {
            return done(all(Refusal::permanent(7, 1, "the recipient does not want to exchange mail with you")));
        }
        let offer = Offer {
            stream: 0,
            id,
            size: mail.size,
            wire_size,
            digest: mail.digest,
            encoding: mail.encoding.number(),
            sender: &mail.sender,
            recipients: u32::try_from(mail.recipients.len()).unwrap_or(u32::MAX),
            deadline: 0,
        };
        if let Some(refusal) = self.engine.rules().refuses(&offer).or_else(|| self.engine.storage().cloned()) {
            return done(all(refusal));
        }
        let later = Refusal::temporary(3, 2, "the same mail is being delivered");
        let accounts = self.shared.directory.accounts();
        let mailboxes = &accounts[self.number].mailboxes;
        let mut answers = Vec::new();
        let mut ours = Vec::new();
        for (index, address, _) in std::mem::take(&mut mail.recipients) {
            let Some(mailbox) = self.engine.rules().mailbox(&address) else {
                let text = format!("<{address}> is not an address of this agent");
                answers.push((index, Outcome::Refused(Refusal::permanent(1, 1, text))));
                continue;
            };
            let relayed = self.engine.rules().relays.contains(&mailbox);
            match self.reader.received(&self.name, &peer, &id, &mailboxes[mailbox].name) {
                Ok(Some(true)) => answers.push((index, Outcome::Stored { duplicate: true, relayed })),
                Ok(Some(false)) => answers.push((index, Outcome::Refused(later.clone()))),
                Ok(None) => ours.push((index, address, mailbox, relayed)),
                Err(error) => {
                    log::error!("{}: cannot look up received mail: {error}", self.name);
                    let refusal = Refusal::temporary(3, 0, "the recipient's mail store does not answer");
                    answers.push((index, Outcome::Refused(refusal)));
                }
            }
        }
        if ours.is_empty() {
            return done(answers);
        }
        if !self.engine.claim(peer, id) {
            answers.extend(ours.iter().map(|(index, ..)| (*index, Outcome::Refused(later.clone()))));
            return done(answers);
        }
        let to_server: HashSet<u32> = ours.iter().filter(|(.., relayed)| *relayed).map(|(index, ..)| *index).collect();
        mail.recipients = ours.into_iter().map(|(index, address, mailbox, _)| (index, address, mailbox)).collect();
        let handle = self.handle.clone();
        self.shared.pool.deliver(self.number, mail, move |results| {
            answers.extend(results.iter().map(|(index, result)| {
                let relayed = to_server.contains(index);
                let outcome =
                    result.clone().map_or_else(Outcome::Refused, |()| Outcome::Stored { duplicate: false, relayed });
                (*index, outcome)
            }));
            handle.send(Command::Delivered(peer, id, results));
            done(answers);
        });
    }
}
