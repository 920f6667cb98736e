//! What an agent has on its disk: it survives a crash, except for what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use toxmail::engine::schedule;
use toxmail::engine::transfer::{
    BURST, Body, Digest, Digester, Encoding, MailId, Outcome, Transfer, TransferRecipient,
};
use toxmail::identity::tox_id::PublicKey;

use crate::random::Random;

const RETRY_MIN: u64 = 60_000;
const RETRY_MAX: u64 = 3_600_000;

/// A mail as an MTA hands it over.
pub struct Mail {
    pub number: i64,
    pub body: Vec<u8>,
    pub digest: Digest,
    /// Agent and address of each recipient.
    pub recipients: Vec<(usize, PublicKey, String)>,
}

impl Mail {
    pub fn new(number: i64, size: usize, random: &mut Random, recipients: Vec<(usize, PublicKey, String)>) -> Self {
        let mut body = Vec::with_capacity(size + 8);
        while body.len() < size {
            body.extend_from_slice(&random.next().to_be_bytes());
        }
        body.truncate(size);
        let digest = digest(&body);
        Self { number, body, digest, recipients }
    }

    /// The name of the transfer to an agent.
    pub fn id(&self, to: usize) -> MailId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.number.to_be_bytes());
        id[8..].copy_from_slice(&(to as u64).to_be_bytes());
        MailId(id)
    }
}

pub fn digest(octets: &[u8]) -> Digest {
    let mut digester = Digester::default();
    digester.update(octets);
    digester.finish()
}

/// A recipient in the queue.
pub struct Row {
    pub mail: Rc<Mail>,
    pub index: u32,
    pub peer: PublicKey,
    pub transfer: MailId,
    pub address: String,
    pub sending: bool,
    pub attempts: u32,
    pub next_attempt: i64,
}

/// A mail that was received, for one mailbox.
pub struct Record {
    pub file: u64,
    pub published: bool,
    pub forgotten: bool,
}

/// A file of a Maildir.
#[derive(Debug, Clone)]
pub struct File {
    pub id: MailId,
    pub mailbox: usize,
    pub digest: Digest,
}

/// By sender, mail and mailbox.
pub type Key = (PublicKey, MailId, usize);

#[derive(Default)]
pub struct Disk {
    /// By mail and number of the recipient.
    pub rows: BTreeMap<(i64, u32), Row>,
    /// What the MTA handed over.
    pub accepted: BTreeSet<i64>,
    /// Notices of failure: mail, recipient, why.
    pub bounces: Vec<(i64, u32, String)>,
    pub received: BTreeMap<Key, Record>,
    pub tmp: BTreeMap<u64, File>,
    pub new: BTreeMap<u64, File>,
    /// Files of `new` whose rename is not synced.
    pub renamed: BTreeSet<u64>,
    pub partials: BTreeMap<String, Vec<u8>>,
    pub files: u64,
    /// The queue clock, in milliseconds from that of the world.
    pub clock: i64,
}

impl Disk {
    /// What is left after a crash, once the agent has looked after it at its start.
    pub fn crash(&mut self, random: &mut Random) {
        for file in std::mem::take(&mut self.renamed) {
            if random.chance(500) {
                let content = self.new.remove(&file).expect("what was renamed is there");
                self.tmp.insert(file, content);
            }
        }
        for partial in self.partials.values_mut() {
            let kept = random.between(0, partial.len() as u64) as usize;
            if random.chance(700) {
                partial.truncate(kept);
            } else if random.chance(300) {
                // Blocks that were allotted and never written.
                partial[kept..].fill(0);
            }
        }
    }

    /// The start of an agent.
    pub fn recover(&mut self) {
        self.rows.values_mut().for_each(|row| row.sending = false);
        let mut void = Vec::new();
        for (key, record) in self.received.iter_mut().filter(|(_, record)| !record.published) {
            if let Some(file) = self.tmp.remove(&record.file) {
                self.new.insert(record.file, file);
                record.published = true;
            } else if self.new.contains_key(&record.file) {
                record.published = true;
            } else {
                void.push(*key);
            }
        }
        self.received.retain(|key, _| !void.contains(key));
        self.tmp.clear();
    }

    pub fn enqueue(&mut self, mail: &Rc<Mail>, now: i64) {
        if !self.accepted.insert(mail.number) {
            return;
        }
        for (index, (to, peer, address)) in mail.recipients.iter().enumerate() {
            let row = Row {
                mail: mail.clone(),
                index: index as u32,
                peer: *peer,
                transfer: mail.id(*to),
                address: address.clone(),
                sending: false,
                attempts: 0,
                next_attempt: now,
            };
            self.rows.insert((mail.number, index as u32), row);
        }
    }

    /// Marks up to `limit` transfers as being sent.
    pub fn take_due(&mut self, peer: &PublicKey, bulk: bool, now: i64, limit: u32) -> Vec<Transfer> {
        let beyond = now + RETRY_MAX as i64;
        let fits = |row: &Row| row.peer == *peer && !row.sending && (row.mail.body.len() as u64 > BURST) == bulk;
        let mut due: Vec<(i64, i64, u32)> = self
            .rows
            .iter()
            .filter(|(_, row)| fits(row) && (row.next_attempt <= now || row.next_attempt > beyond))
            .map(|(key, row)| (row.next_attempt, key.0, key.1))
            .collect();
        due.sort_unstable();
        due.truncate(limit as usize);
        let mut taken: Vec<Transfer> = Vec::new();
        for (_, number, _) in due {
            let mut recipients = Vec::new();
            let mut of = None;
            for row in self.rows.range_mut((number, 0)..=(number, u32::MAX)).map(|(_, row)| row) {
                if fits(row) {
                    row.sending = true;
                    row.attempts += 1;
                    recipients.push(TransferRecipient { index: row.index, address: row.address.clone() });
                    of = Some((row.mail.clone(), row.transfer));
                }
            }
            let Some((mail, id)) = of else { continue };
            let size = mail.body.len() as u64;
            taken.push(Transfer {
                id,
                mail: number,
                sender: "sender@example.org".into(),
                recipients,
                size,
                wire_size: size,
                digest: mail.digest,
                encoding: Encoding::Identity,
                body: if bulk { Body::Stored } else { Body::Inline(mail.body.clone()) },
                deadline: 432_000,
            });
        }
        taken
    }

    /// Whether a recipient waits for its time.
    pub fn has_deferred(&self, peer: &PublicKey) -> bool {
        self.rows.values().any(|row| row.peer == *peer && !row.sending)
    }

    /// Whether this answered the last recipient of the transfer.
    pub fn outcome(&mut self, transfer: &MailId, mail: i64, index: u32, outcome: &Outcome, now: i64) -> bool {
        let Some(row) = self.rows.get_mut(&(mail, index)) else { return false };
        match outcome {
            Outcome::Refused(refusal) if !refusal.is_permanent() => {
                let jitter = (mail as u64) << 8 | u64::from(index);
                row.next_attempt = now + schedule::retry_after(row.attempts, RETRY_MIN, RETRY_MAX, jitter) as i64;
                row.sending = false;
            }
            Outcome::Refused(refusal) => {
                self.bounces.push((mail, index, format!("{} {}", refusal.status(), refusal.text())));
                self.rows.remove(&(mail, index));
            }
            Outcome::Stored { .. } => {
                self.rows.remove(&(mail, index));
            }
        }
        !self.rows.range((mail, 0)..=(mail, u32::MAX)).any(|(_, row)| row.transfer == *transfer)
    }

    pub fn link_down(&mut self, peer: &PublicKey) {
        self.rows.values_mut().filter(|row| row.peer == *peer).for_each(|row| row.sending = false);
    }
}
