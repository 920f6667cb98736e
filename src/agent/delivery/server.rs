//! The way by a server: mail is handed on to Dovecot by LMTP or to the local MTA by SMTP.
//!
//! A server takes a mail with its answer to the final dot, and we cannot ask it later whether it did (RFC 1047). So
//! the mail is recorded before the dot and again after the answer: while the first record stands alone nobody else
//! hands it over, and a start that finds it knows that nobody knows. The peer keeps the mail until it is told, so
//! nothing is lost; it comes to the server a second time if the answer to a dot is lost, or the agent ends between
//! the dot and the second record. Both times it says the same [`MAIL_ID`], by which the server can drop the second
//! (`dovecot/`).

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::body::Failure;
use super::{AGAIN, Worker, identity, store_refusal};
use crate::agent::directory::Account;
use crate::engine::transfer::Delivery;
use crate::mail::envelope::ForwardPath;
use crate::mail::status::Refusal;
use crate::mail::trace::MAIL_ID;
use crate::smtp::{Client, Destination, Envelope, Outcome, Timeouts};
use crate::store::Received;

/// What the peer is told while nobody knows, or while another thread is at it.
pub(super) fn unfinished() -> Refusal {
    Refusal::temporary(3, 0, "an earlier delivery of this mail is unfinished")
}

/// Whose turn it is at each LMTP server: mails are brought there side by side, and given their dots one by one.
/// Dovecot 2.3 writes the list of what a user has got (RFC 7352) as it was when the delivery began, so of two that
/// end together it would forget one. And a crash leaves one mail in doubt, not many.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<Destination, Arc<Mutex<()>>>>);

impl Turns {
    /// Does `work` when it is its turn. An MTA puts mail into a queue of its own: there it is always.
    pub(super) fn wait<T>(&self, server: &Destination, work: impl FnOnce() -> T) -> T {
        let Destination::Lmtp(_) = server else { return work() };
        let turn = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(server.clone()).or_default().clone();
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }
}

impl Worker {
    /// Hands a mail for the mailbox `at` on; `Ok` once the server has taken it and that is recorded.
    pub(super) fn hand_over(
        &self,
        account: &Account,
        at: usize,
        delivery: &Delivery,
        destination: &Destination,
        recipient: &ForwardPath,
    ) -> Result<(), Failure> {
        let (head, body) = self.incoming(account, at, delivery, false)?;
        let client = Client::connect(destination, &self.hostname, &Timeouts::default())?;
        let envelope = Envelope {
            sender: delivery.sender.parse().ok(),
            recipients: vec![recipient.clone().into()],
            size: Some(head.len() as u64 + body.left()),
            // A header in UTF-8 goes to every server: at the end of the way it harms nobody, and a refusal would lose it.
            smtputf8: client.offers().smtputf8 && !head.is_ascii(),
            ..Envelope::default()
        };
        let refused = |refusals: Vec<Refusal>| refusals.into_iter().next().unwrap_or_else(unfinished);
        let mut transaction = client.begin(&envelope).map_err(refused)?;
        transaction.write(&head)?;
        body.pour(|octets| transaction.write(octets))?;
        let received = Received {
            account: account.name.clone(),
            peer: delivery.peer,
            transfer: delivery.id,
            mailbox: account.mailboxes[at].name.clone(),
            maildir: destination.to_string(),
            file: String::new(),
        };
        let outcome = self.turns.wait(destination, || {
            Ok::<_, Refusal>(self.intend(&received)?.then(|| transaction.finish().into_iter().next()))
        })?;
        let Some(outcome) = outcome else { return Ok(()) };
        let who = delivery.peer.short();
        match outcome {
            Some(Outcome::Accepted(text)) => {
                let (name, id) = (&account.name, delivery.id);
                log::info!("{name}: mail {id} from {who} handed to {destination} for <{recipient}>: {text}");
                self.settle(&received)?;
                Ok(())
            }
            Some(Outcome::Refused(refusal)) => {
                let (name, id) = (&account.name, delivery.id);
                log::info!("{name}: mail {id} from {who} refused by {destination} for <{recipient}>: {refusal}");
                self.take_back(&received);
                Err(refusal.into())
            }
            Some(Outcome::Unknown(refusal)) => {
                doubt(&received, &refusal.to_string());
                self.take_back(&received);
                Err(refusal.into())
            }
            None => Err(unfinished().into()),
        }
    }

    /// Records that a mail is going to be handed over; whether it still has to be.
    fn intend(&self, received: &Received) -> Result<bool, Refusal> {
        match self.record(vec![received.clone()]) {
            Some(Ok(new)) if new == [true] => Ok(true),
            Some(Ok(_)) => {
                let Received { account, peer, transfer, mailbox, .. } = received;
                match self.reader.received(account, peer, transfer, mailbox) {
                    Ok(Some(true)) => Ok(false),
                    Ok(_) => Err(unfinished()),
                    Err(error) => {
                        log::error!("cannot look up received mail: {error}");
                        Err(unfinished())
                    }
                }
            }
            Some(Err(error)) => {
                log::error!("cannot record a delivery: {error}");
                if error.uncertain {
                    self.take_back(received);
                }
                Err(store_refusal(&error))
            }
            None => Err(unfinished()),
        }
    }

    /// Records that the server has the mail. Tried until it succeeds: what is said to the peer before could be forgotten.
    fn settle(&self, received: &Received) -> Result<(), Refusal> {
        while let Err(error) = self.store.handed_over(received.clone()) {
            log::error!("cannot record a delivery for now: {error}");
            if self.stopping.load(Ordering::Relaxed) {
                return Err(unfinished());
            }
            std::thread::sleep(AGAIN);
        }
        Ok(())
    }
}

/// Tells that a mail is handed over twice, perhaps, and by what to find it there.
pub(super) fn doubt(received: &Received, why: &str) {
    let Received { account, peer, transfer, mailbox, maildir, .. } = received;
    log::warn!(
        "{account}: nobody knows whether {maildir} has mail {transfer} from {} ({why}): it will be handed over again, \
         with {MAIL_ID}: {} as before",
        peer.short(),
        identity(account, peer, transfer, mailbox)
    );
}
