//! Mail from the MTA on its way into the queue.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::directory::Directory;
use super::probe::{self, ProbeIntake, Probes};
use super::reload::Live;
use crate::engine::transfer::MailId;
use crate::lmtp::{Intake, Outcome, Submission, Submitter};
use crate::mail::address::Address;
use crate::mail::envelope::{Envelope, ReversePath};
use crate::mail::header::{MAX_SECTION, Section};
use crate::mail::status::Refusal;
use crate::mail::trace;
use crate::store::{BodyWriter, Destination, HEAD, NewMail, NewRecipient, Reader, Store, free_space};
use crate::telemetry::clock::Clock;

/// The agent's side of the LMTP server.
pub struct Queueing {
    /// Where mail goes.
    pub store: Store,
    /// Who may send, and to whom.
    pub directory: Arc<Directory>,
    /// The probe mails that came.
    pub probes: Arc<Probes>,
    /// For queue ids.
    pub clock: Arc<Clock>,
    /// The state directory.
    pub state_dir: PathBuf,
    /// How long mail waits, how much of the disk it may take and must leave.
    pub live: Arc<Live>,
    /// Octets that they take now, about.
    pub used_disk: Arc<AtomicU64>,
}

/// A queue id: 16 characters of base32hex, of which the first ten are the time in milliseconds, so that ids sort by
/// arrival, and the others random.
fn queue_id(now: i64) -> Result<String, Refusal> {
    let mut octets = [0; 10];
    octets[..6].copy_from_slice(&now.to_be_bytes()[2..]);
    fill(&mut octets[6..])?;
    Ok(data_encoding::BASE32HEX_NOPAD.encode(&octets))
}

fn fill(octets: &mut [u8]) -> Result<(), Refusal> {
    getrandom::fill(octets).map_err(|_| Refusal::temporary(3, 0, "the system has no randomness"))
}

fn disk_refusal(error: &std::io::Error) -> Refusal {
    log::error!("cannot queue a mail: {error}");
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Refusal::temporary(3, 1, "the disk of tox-agent's queue is full")
        }
        _ => Refusal::temporary(3, 0, "tox-agent cannot write to its queue"),
    }
}

impl Queueing {
    fn route(&self, sender: &ReversePath, recipient: &Address) -> Result<(usize, Destination), Refusal> {
        let has_name = |account: &str, address: &str| {
            let name = Reader::open(&self.state_dir).and_then(|reader| reader.name(account, address));
            // What cannot be read may be there: the store says so when the mail is queued.
            name.map_or(true, |name| name.is_some_and(|name| name.pin.is_some()))
        };
        self.directory.route(sender, recipient, has_name)
    }
}

impl Submission for Queueing {
    fn sender(&self, from: &Submitter, sender: &ReversePath) -> Result<(), Refusal> {
        self.directory.sender(sender).map(|_| ()).inspect_err(|refusal| {
            log::warn!("uid {} may not submit: {refusal}", from.uid);
        })
    }

    fn recipient(&self, sender: &ReversePath, recipient: &Address) -> Result<(), Refusal> {
        if probe::token(&self.directory, recipient).is_some() {
            return Ok(());
        }
        self.route(sender, recipient).map(|_| ())
    }

    fn begin(&self, envelope: &Envelope) -> Result<Box<dyn Intake>, Refusal> {
        let free = free_space(&self.state_dir).map_err(|error| disk_refusal(&error))?;
        let config = self.live.get();
        if self.used_disk.load(Ordering::Relaxed) >= config.queue.max_disk || free < config.delivery.min_free {
            return Err(Refusal::temporary(3, 1, "tox-agent's queue is full: see toxctl queue list"));
        }
        let mut tokens = envelope.recipients.iter().filter_map(|to| probe::token(&self.directory, &to.address));
        if let Some(token) = tokens.next() {
            return Ok(Box::new(ProbeIntake::new(&self.probes, token, envelope)?));
        }
        let mut account = None;
        let mut recipients = Vec::with_capacity(envelope.recipients.len());
        for recipient in &envelope.recipients {
            let (number, to) = self.route(&envelope.sender, &recipient.address)?;
            // Mail from <> to contacts of several accounts goes out through each of them only as one account's mail.
            if *account.get_or_insert(number) != number {
                return Err(Refusal::temporary(5, 3, "the recipients belong to several accounts: send one at a time"));
            }
            let mut transfer = [0; 16];
            fill(&mut transfer)?;
            recipients.push(NewRecipient {
                address: recipient.address.to_string(),
                to,
                transfer: MailId(transfer),
                notify: recipient.notify,
                orcpt: recipient.orcpt.clone(),
            });
        }
        let Some(number) = account else { return Err(Refusal::permanent(5, 1, "no recipient")) };
        let accounts = self.directory.accounts();
        let rule = accounts[number].outgoing_rule();
        let wire_sender = trace::wire_sender(&envelope.sender, &rule);
        let path = |sender: &ReversePath| sender.as_ref().map(ToString::to_string).unwrap_or_default();
        let queue_id = queue_id(self.clock.wall_ms())?;
        Ok(Box::new(QueueIntake {
            store: self.store.clone(),
            directory: self.directory.clone(),
            account: number,
            used_disk: self.used_disk.clone(),
            writer: BodyWriter::new(&self.state_dir, &queue_id),
            head: Some(Vec::new()),
            mail: NewMail {
                queue_id,
                account: accounts[number].name.clone(),
                mta_queue_id: envelope.mta_queue_id.clone(),
                sender: path(&envelope.sender),
                wire_sender: path(&wire_sender),
                head: Vec::new(),
                lifetime: i64::try_from(config.queue.expire.as_millis()).unwrap_or(i64::MAX),
                smtputf8: envelope.smtputf8,
                ret: envelope.ret,
                envid: envelope.envid.clone(),
                recipients,
            },
        }))
    }
}

/// One mail being taken in.
struct QueueIntake {
    store: Store,
    directory: Arc<Directory>,
    account: usize,
    used_disk: Arc<AtomicU64>,
    writer: BodyWriter,
    /// The header section until it is complete.
    head: Option<Vec<u8>>,
    mail: NewMail,
}

impl QueueIntake {
    /// The header section is complete: adds what answers need, and keeps its beginning for notices.
    fn end_head(&mut self) -> std::io::Result<()> {
        let Some(head) = self.head.take() else { return Ok(()) };
        let section = Section::read(&head);
        let accounts = self.directory.accounts();
        let rule = accounts[self.account].outgoing_rule();
        let line = trace::outgoing(&head, &rule).unwrap_or_default();
        if self.mail.mta_queue_id.is_none() {
            self.mail.mta_queue_id = trace::received_id(&head);
        }
        let (before, after) = head.split_at(section.start());
        self.mail.head = head[section.start()..section.end().max(section.start())].to_vec();
        self.mail.head.truncate(HEAD);
        self.writer.write(before)?;
        self.writer.write(&line)?;
        self.writer.write(after)
    }
}

impl Intake for QueueIntake {
    fn write(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        let written = match &mut self.head {
            Some(head) => {
                let from = head.len().saturating_sub(1);
                head.extend_from_slice(chunk);
                let ended = head.starts_with(b"\n") || head[from..].windows(2).any(|two| two == b"\n\n");
                if ended || head.len() > MAX_SECTION { self.end_head() } else { Ok(()) }
            }
            None => self.writer.write(chunk),
        };
        written.map_err(|error| disk_refusal(&error))
    }

    fn finish(mut self: Box<Self>) -> Outcome {
        Box::pin(async move {
            let count = self.mail.recipients.len();
            let refused = |refusal: Refusal| vec![Err(refusal); count];
            // A long body is fsynced here, which takes its time.
            let ended = tokio::task::spawn_blocking(move || {
                self.end_head()?;
                let Self { store, used_disk, writer, mail, .. } = *self;
                Ok::<_, std::io::Error>((store, used_disk, mail, writer.finish()?))
            });
            let (store, used_disk, mail, body) = match ended.await {
                Ok(Ok(ended)) => ended,
                Ok(Err(error)) => return refused(disk_refusal(&error)),
                Err(_) => return refused(Refusal::temporary(3, 0, "tox-agent failed to take the mail")),
            };
            let octets = body.wire_size;
            let (sender, receiver) = tokio::sync::oneshot::channel();
            store.enqueue(mail, body, move |result| {
                let _ = sender.send(result);
            });
            match receiver.await {
                Ok(Ok(ids)) => {
                    used_disk.fetch_add(octets, Ordering::Relaxed);
                    ids.into_iter().map(Ok).collect()
                }
                Ok(Err(error)) if error.full => {
                    refused(Refusal::temporary(3, 1, "the disk of tox-agent's queue is full"))
                }
                Ok(Err(_)) | Err(_) => refused(Refusal::temporary(3, 0, "tox-agent cannot write to its queue")),
            }
        })
    }
}
