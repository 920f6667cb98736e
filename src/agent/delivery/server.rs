//! The way by a server: mail is handed on to Dovecot by LMTP or to the local MTA by SMTP.
//!
//! A server takes a mail with its answer to the final dot, and we cannot ask it later whether it did. So the mail is
//! recorded before the dot and again after the answer: while the first record stands alone nobody else hands it over, and
//! a start that finds it knows that nobody knows. The peer keeps the mail until it is told, so nothing is lost; it is
//! twice at the server if the answer to a dot is lost, or the agent ends between the dot and the second record.

use std::sync::atomic::Ordering;

use super::body::Failure;
use super::{AGAIN, Worker, store_refusal};
use crate::agent::directory::Account;
use crate::engine::transfer::Delivery;
use crate::mail::envelope::ForwardPath;
use crate::mail::status::Refusal;
use crate::smtp::{Client, Destination, Envelope, Outcome, Timeouts};
use crate::store::Received;

/// What the peer is told while nobody knows, or while another thread is at it.
pub(super) fn unfinished() -> Refusal {
    Refusal::temporary(3, 0, "an earlier delivery of this mail is unfinished")
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
        if !self.intend(&received)? {
            return Ok(());
        }
        let who = delivery.peer.short();
        match transaction.finish().into_iter().next() {
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

/// Tells that a mail may come twice.
pub(super) fn doubt(received: &Received, why: &str) {
    log::warn!(
        "{}: nobody knows whether {} has mail {} from {} ({why}): when it comes again, it may be there twice",
        received.account,
        received.maildir,
        received.transfer,
        received.peer.short()
    );
}
