//! Putting mail into mailboxes, so that each is there exactly once whatever happens in between. A pool of threads, since
//! each spends its time waiting for the disk, and fsyncs that run at the same time share the journal's commit.
//!
//! The steps, and what a crash after each leaves (`docs/store.md` has the table): write `tmp/FILE`, fsync it and `tmp/` —
//! nothing is promised, the peer offers the mail again; record the delivery in the store — the start finishes it; rename
//! to `new/FILE`, fsync `new/` — the record says that it is there; only then is the peer told. `server` has the steps of
//! mail that is handed on to a server instead.

mod body;
pub(super) mod server;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::body::{Body, Failure};
use super::account::disk_refusal;
use super::directory::{Account, Directory, Mailbox};
use super::names::Names;
use super::notices::{self, Sent};
use super::partial;
use super::reload::Live;
use crate::config::Way;
use crate::engine::transfer::{Delivery, Digester, MailId, Source};
use crate::identity::tox_id::PublicKey;
use crate::mail::address::Address;
use crate::mail::envelope::ForwardPath;
use crate::mail::status::Refusal;
use crate::mail::trace::{self, Incoming};
use crate::maildir::{self, Maildir, Place, Staged};
use crate::smtp::Destination;
use crate::store::{Reader, Received, Store, StoreError};
use crate::telemetry::clock::Clock;

/// How many mails are delivered at a time.
const THREADS: usize = 16;
/// How many mails are handed on to servers at a time.
const SERVER_THREADS: usize = 8;
/// Stack of such a thread, in octets: it holds no large buffers.
const STACK: usize = 512 * 1024;
/// Age at which a record without any file is void, in milliseconds: readers remove files from `tmp/` after 36 hours.
const VOID_AGE: i64 = 36 * 3_600_000;
/// How long a change of the store that must succeed waits before it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

type Results = Vec<(u32, Result<(), Refusal>)>;
type Done = Box<dyn FnOnce(Results) + Send>;

enum Job {
    Mail(usize, Delivery, Done),
    Notice(i64),
}

/// The pool.
pub struct DeliveryPool {
    jobs: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    stopping: Arc<AtomicBool>,
    /// Rows of the notices that are being delivered.
    notices: Arc<Mutex<HashSet<i64>>>,
    /// The thread that gives notices to servers: one that hangs must not keep mail from coming in.
    to_server: Mutex<Option<Sender<Job>>>,
    /// The threads that hand mail on to servers: one that hangs must not keep mail out of Maildirs.
    hand_over: Mutex<Option<Sender<Job>>>,
    directory: Arc<Directory>,
}

struct Worker {
    store: Store,
    directory: Arc<Directory>,
    clock: Arc<Clock>,
    state_dir: PathBuf,
    hostname: String,
    sequence: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    notices: Arc<Mutex<HashSet<i64>>>,
    live: Arc<Live>,
    maildirs: Arc<Mutex<HashMap<PathBuf, Arc<Maildir>>>>,
    names: Arc<Names>,
    /// The MTA that takes notices, if there is one.
    mta: Option<Destination>,
    servers: Arc<notices::Servers>,
    turns: Arc<server::Turns>,
    /// Of this thread alone: to open one for each mail would cost more than the question.
    reader: Reader,
}

impl DeliveryPool {
    /// Starts the threads. `names` knows whose an author's address is; `mta` takes notices; `live` tells how much of a
    /// disk is left free.
    ///
    /// # Errors
    /// The system has none.
    #[allow(clippy::too_many_arguments, reason = "called once, from the wiring")]
    pub fn start(
        store: &Store,
        directory: &Arc<Directory>,
        clock: &Arc<Clock>,
        names: &Arc<Names>,
        state_dir: &Path,
        hostname: &str,
        mta: Option<Destination>,
        live: &Arc<Live>,
    ) -> io::Result<Self> {
        let servers = Arc::new(notices::Servers::new(hostname));
        let turns = Arc::new(server::Turns::default());
        let sequence = Arc::new(AtomicU64::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let notices = Arc::new(Mutex::new(HashSet::new()));
        let maildirs = Arc::new(Mutex::new(HashMap::new()));
        let thread = |name: String, inbox: Arc<Mutex<Receiver<Job>>>| {
            let reader = Reader::open(state_dir).map_err(io::Error::other)?;
            let worker = Worker {
                store: store.clone(),
                directory: directory.clone(),
                clock: clock.clone(),
                state_dir: state_dir.to_owned(),
                hostname: hostname.to_owned(),
                sequence: sequence.clone(),
                stopping: stopping.clone(),
                notices: notices.clone(),
                live: live.clone(),
                maildirs: maildirs.clone(),
                names: names.clone(),
                mta: mta.clone(),
                servers: servers.clone(),
                turns: turns.clone(),
                reader,
            };
            std::thread::Builder::new().name(name).stack_size(STACK).spawn(move || worker.run(&inbox))
        };
        let (jobs, inbox) = mpsc::channel();
        let inbox = Arc::new(Mutex::new(inbox));
        let mut threads = Vec::with_capacity(THREADS + 1);
        for number in 0..THREADS {
            threads.push(thread(format!("deliver {number}"), inbox.clone())?);
        }
        let servers = directory.accounts().iter().any(|account| account.mailboxes.iter().any(by_server));
        let (mut to_server, mut hand_over) = (None, None);
        if mta.is_some() || servers {
            let (notices, inbox) = mpsc::channel();
            threads.push(thread("notices".to_owned(), Arc::new(Mutex::new(inbox)))?);
            to_server = Some(notices);
        }
        if servers {
            let (mails, inbox) = mpsc::channel();
            let inbox = Arc::new(Mutex::new(inbox));
            for number in 0..SERVER_THREADS {
                threads.push(thread(format!("hand over {number}"), inbox.clone())?);
            }
            hand_over = Some(mails);
        }
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            threads: Mutex::new(threads),
            stopping,
            notices,
            to_server: Mutex::new(to_server),
            hand_over: Mutex::new(hand_over),
            directory: directory.clone(),
        })
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = jobs.send(job);
        }
    }

    /// Delivers a mail for an account; `done` gets the result for each recipient, a success being on disk.
    pub fn deliver(&self, account: usize, delivery: Delivery, done: impl FnOnce(Results) + Send + 'static) {
        let accounts = self.directory.accounts();
        let mailboxes = &accounts[account].mailboxes;
        let to_server = delivery.recipients.iter().any(|(.., mailbox)| mailboxes.get(*mailbox).is_some_and(by_server));
        let job = Job::Mail(account, delivery, Box::new(done));
        match &*self.hand_over.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(threads) if to_server => drop(threads.send(job)),
            _ => self.send(job),
        }
    }

    /// Delivers a notice that waits in the store.
    pub fn notice(&self, id: i64) {
        // Never in two hands: the second would take the first's record for a delivery that has ended.
        if self.notices.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            match &*self.to_server.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(thread) => drop(thread.send(Job::Notice(id))),
                None => self.send(Job::Notice(id)),
            }
        }
    }

    /// Finishes the jobs that were given and ends the threads.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.to_server.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.hand_over.lock().unwrap_or_else(PoisonError::into_inner).take();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}

/// At the start, before any delivery: finishes what a crash interrupted, and removes the half-written files it left in
/// `tmp/`.
///
/// # Errors
/// The store or a Maildir cannot be read or written.
pub fn recover(store: &Store, reader: &Reader, directory: &Directory, now: i64) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let mut finished = Vec::new();
    let mut recorded: HashMap<String, Vec<String>> = HashMap::new();
    for unpublished in reader.unpublished()? {
        let received = unpublished.received;
        if received.maildir.parse::<Destination>().is_ok() {
            server::doubt(&received, "the agent ended meanwhile");
            store.forget_unpublished(received)?;
            continue;
        }
        recorded.entry(received.maildir.clone()).or_default().push(received.file.clone());
        let root = Path::new(&received.maildir);
        if !["tmp", "new", "cur"].iter().all(|folder| root.join(folder).is_dir()) {
            // To make it anew would take its file for delivered and read.
            log::error!("an interrupted delivery waits: {} is not there (not mounted?)", root.display());
            continue;
        }
        let maildir = Maildir::open(root).context("cannot finish an interrupted delivery")?;
        match maildir.find(&received.file)? {
            Some(Place::Tmp) => {
                maildir.publish(&received.file)?;
                maildir.sync_new()?;
                finished.push(received);
            }
            Some(Place::New | Place::Cur) => {
                maildir.sync_new()?;
                finished.push(received);
            }
            // Renamed, then read and moved or removed by its owner; or, after so long, cleaned out of tmp/ by a mail
            // reader: then nothing was promised and the peer's offer is welcome.
            None if now - unpublished.at < VOID_AGE => finished.push(received),
            None => store.forget_unpublished(received)?,
        }
    }
    if !finished.is_empty() {
        log::info!("finished {} deliveries that were interrupted", finished.len());
        store.published(finished);
    }
    let accounts = directory.accounts();
    let mailboxes = accounts.iter().flat_map(|account| &account.mailboxes);
    for path in mailboxes.filter_map(|mailbox| mailbox.way.maildir()) {
        let maildir = Maildir::open(path)?;
        let keep = recorded.get(&path.to_string_lossy().into_owned());
        for name in maildir.staged_names()? {
            if !keep.is_some_and(|names| names.contains(&name)) {
                maildir.discard(&name)?;
            }
        }
    }
    Ok(())
}

impl Worker {
    fn run(&self, inbox: &Mutex<Receiver<Job>>) {
        loop {
            let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
            match job {
                Err(mpsc::RecvError) => return,
                Ok(Job::Mail(account, delivery, done)) => {
                    let accounts = self.directory.accounts();
                    let account = &accounts[account];
                    let delivered = std::panic::catch_unwind(AssertUnwindSafe(|| self.deliver(account, &delivery)));
                    let (results, through) = delivered.unwrap_or_else(|_| {
                        let refusal = Refusal::temporary(3, 0, "the recipient's agent failed to deliver");
                        (delivery.recipients.iter().map(|(index, ..)| (*index, Err(refusal.clone()))).collect(), false)
                    });
                    if let (Source::Partial(key), true) = (&delivery.source, through) {
                        partial::remove(&partial::path(&self.partials(account), &delivery.peer, key));
                    }
                    done(results);
                }
                Ok(Job::Notice(id)) => {
                    match std::panic::catch_unwind(AssertUnwindSafe(|| self.notice(id))) {
                        Ok(Ok(())) | Err(_) => {}
                        Ok(Err(error)) => log::error!("cannot deliver a notice yet: {error}"),
                    }
                    self.notices.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                }
            }
        }
    }

    fn partials(&self, account: &Account) -> PathBuf {
        self.state_dir.join("incoming").join(&account.name)
    }

    fn unique_name(&self) -> Result<String, Refusal> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|_| Refusal::temporary(3, 0, "the recipient's system has no randomness"))?;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        Ok(maildir::unique_name(self.clock.wall_ms(), std::process::id(), sequence, random, &self.hostname))
    }

    /// A new file in `tmp/` of a Maildir, which stays open for the next mail: opening makes sure, with fsync, that the
    /// folders are there to stay. Should its owner have replaced it meanwhile, it is opened anew.
    fn create(&self, path: &Path, file: &str) -> io::Result<(Arc<Maildir>, Staged)> {
        let open = |fresh: bool| {
            let mut maildirs = self.maildirs.lock().unwrap_or_else(PoisonError::into_inner);
            match maildirs.get(path).filter(|_| !fresh) {
                Some(maildir) => Ok(maildir.clone()),
                None => {
                    let maildir = Arc::new(Maildir::open(path)?);
                    maildirs.insert(path.to_owned(), maildir.clone());
                    io::Result::Ok(maildir)
                }
            }
        };
        let maildir = open(false)?;
        match maildir.create(file) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle) => {
                let maildir = open(true)?;
                let staged = maildir.create(file)?;
                Ok((maildir, staged))
            }
            created => Ok((maildir.clone(), created?)),
        }
    }

    /// Delivers to every mailbox once, however many of its addresses are recipients. The result of each recipient, and
    /// whether the encoded body is not needed any more.
    fn deliver(&self, account: &Account, delivery: &Delivery) -> (Results, bool) {
        let mut mailboxes: Vec<usize> = delivery.recipients.iter().map(|(.., mailbox)| *mailbox).collect();
        mailboxes.sort_unstable();
        mailboxes.dedup();
        let mut through = true;
        let mut outcomes: HashMap<usize, Result<(), Refusal>> = HashMap::new();
        let mut staged: Vec<(usize, Arc<Maildir>, Received)> = Vec::new();
        for mailbox in mailboxes {
            let taken = match &account.mailboxes[mailbox].way {
                Way::Maildir(path) => self.stage(account, mailbox, delivery, path).map(Some),
                Way::Server { destination, recipient } => {
                    self.hand_over(account, mailbox, delivery, destination, recipient).map(|()| None)
                }
            };
            match taken {
                Ok(Some((maildir, received))) => staged.push((mailbox, maildir, received)),
                Ok(None) => {
                    outcomes.insert(mailbox, Ok(()));
                }
                Err(Failure::Damaged(refusal)) => {
                    outcomes.insert(mailbox, Err(refusal));
                }
                Err(Failure::Mailbox(refusal)) => {
                    through &= refusal.is_permanent();
                    outcomes.insert(mailbox, Err(refusal));
                }
            }
        }
        let count = staged.len();
        let published = self.publish(staged);
        through &= published.len() == count;
        for (mailbox, outcome) in published {
            through &= outcome.is_ok();
            outcomes.insert(mailbox, outcome);
        }
        let missing = || Err(Refusal::temporary(3, 0, "the recipient's agent is stopping"));
        let result = |mailbox: &usize| outcomes.get(mailbox).cloned().unwrap_or_else(missing);
        let results = delivery.recipients.iter().map(|(index, _, mailbox)| (*index, result(mailbox))).collect();
        (results, through)
    }

    /// The header block for a mailbox and the rest of the mail. `is_final`: whether the mail goes into a Maildir.
    fn incoming<'a>(
        &self,
        account: &Account,
        mailbox: usize,
        delivery: &'a Delivery,
        is_final: bool,
    ) -> Result<(Vec<u8>, Body<'a>), Failure> {
        let address =
            delivery.recipients.iter().find(|(.., of)| *of == mailbox).map(|(_, address, _)| address.as_str());
        let recipient = address.and_then(|address| address.parse().ok());
        let recipient = recipient.unwrap_or_else(|| account.address.clone());
        let mut body = Body::open(delivery, || match &delivery.source {
            Source::Partial(key) => File::open(partial::path(&self.partials(account), &delivery.peer, key)),
            Source::Inline(_) => Err(io::ErrorKind::NotFound.into()),
        })?;
        let head = body.head()?;
        let sender = delivery.sender.parse().ok();
        let (known, doubt) = self.authors(account, &delivery.peer, &head);
        let head = trace::incoming(
            &head,
            &Incoming {
                peer: &delivery.peer,
                peer_name: &account_nick(&self.directory, account, delivery),
                sender: &sender,
                recipient: &recipient,
                is_final,
                hostname: &self.hostname,
                id: &delivery.id.to_string(),
                identity: &identity(&account.name, &delivery.peer, &delivery.id, &account.mailboxes[mailbox].name),
                date: &trace::date(self.clock.wall_ms()),
                known: &known,
                doubt,
            },
        )?;
        Ok((head, body))
    }

    /// Writes the mail, with its trace fields, into `tmp/` of the Maildir of the mailbox `at`, durably.
    fn stage(
        &self,
        account: &Account,
        at: usize,
        delivery: &Delivery,
        path: &Path,
    ) -> Result<(Arc<Maildir>, Received), Failure> {
        let (head, body) = self.incoming(account, at, delivery, true)?;
        let file = self.unique_name()?;
        let write_failed = |error: io::Error| mailbox_refusal(path, &error);
        let (maildir, mut staged) = self.create(path, &file).map_err(write_failed)?;
        let octets = head.len() as u64 + body.left();
        match maildir.admits(octets) {
            Ok(true) => {}
            // As Dovecot answers by default (quota_full_tempfail = no): the reader has to make room, and the sender to know.
            Ok(false) => return Err(Refusal::permanent(2, 2, "the recipient's mailbox is over its quota").into()),
            Err(error) => log::warn!("delivering without regard to the quota: {error}"),
        }
        // The size is known only now that a small transfer may unpack to a large mail.
        let free = crate::store::free_space(path).map_err(write_failed)?;
        if free < delivery.size.saturating_add(self.live.get().delivery.min_free) {
            return Err(write_failed(io::ErrorKind::StorageFull.into()).into());
        }
        staged.write_all(&head).map_err(write_failed)?;
        body.pour(|octets| staged.write_all(octets).map_err(write_failed))?;
        staged.sync().and_then(|()| maildir.sync_tmp()).map_err(write_failed)?;
        let received = Received {
            account: account.name.clone(),
            peer: delivery.peer,
            transfer: delivery.id,
            mailbox: account.mailboxes[at].name.clone(),
            maildir: path.to_string_lossy().into_owned(),
            file,
        };
        Ok((maildir, received))
    }

    /// The addresses that are known to be the peer's, the author's among them if that can be proved; otherwise why not.
    fn authors(&self, account: &Account, peer: &PublicKey, head: &[u8]) -> (Vec<Address>, Option<&'static str>) {
        let mut known = self.reader.addresses_of(&account.name, peer).unwrap_or_else(|error| {
            log::error!("{}: cannot read the names: {error}", account.name);
            Vec::new()
        });
        let from = trace::from_addresses(head);
        if let ([author], Some(at)) = (&from[..], self.directory.account(&account.name))
            && trace::alignment(&from, peer, &known) != trace::Alignment::Pass
        {
            match self.names.doubt(at, peer, author, known.len()) {
                None => known.push(author.clone()),
                doubt => return (known, doubt),
            }
        }
        (known, None)
    }

    /// Records mails and waits for the commit: whether each is new. `None`: the store has stopped; whether the records were
    /// committed the next start will see.
    fn record(&self, records: Vec<Received>) -> Option<Result<Vec<bool>, StoreError>> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.store.record_received(records, self.clock.queue_ms(), move |result| {
            let _ = sender.send(result);
        });
        receiver.recv().ok()
    }

    /// Records staged mails and makes them visible.
    fn publish(&self, staged: Vec<(usize, Arc<Maildir>, Received)>) -> Vec<(usize, Result<(), Refusal>)> {
        if staged.is_empty() {
            return Vec::new();
        }
        let new = match self.record(staged.iter().map(|(.., received)| received.clone()).collect()) {
            Some(Ok(new)) => new,
            Some(Err(error)) => {
                log::error!("cannot record a delivery: {error}");
                let refusal = store_refusal(&error);
                for (_, maildir, received) in &staged {
                    // The commit may have been written though not synced: without this a crash could bring the record
                    // back when its file is gone.
                    if error.uncertain && !self.take_back(received) {
                        return Vec::new();
                    }
                    discard(maildir, &received.file);
                }
                return staged.into_iter().map(|(mailbox, ..)| (mailbox, Err(refusal.clone()))).collect();
            }
            None => return Vec::new(),
        };
        let mut outcomes = Vec::new();
        let mut published = Vec::new();
        for ((mailbox, maildir, received), new) in staged.into_iter().zip(new) {
            let outcome = if new {
                maildir.publish(&received.file).and_then(|()| maildir.sync_new())
            } else {
                // Delivered by an earlier attempt.
                discard(&maildir, &received.file);
                Ok(())
            };
            match outcome {
                Ok(()) => {
                    if new {
                        log::info!(
                            "{}: mail {} from {} delivered to mailbox {}",
                            received.account,
                            received.transfer,
                            received.peer.short(),
                            received.mailbox
                        );
                        published.push(received);
                    }
                    outcomes.push((mailbox, Ok(())));
                }
                Err(error) => {
                    // The record stands; taking it back lets the peer's next attempt deliver. Should the rename have
                    // happened all the same (only its fsync failed), the file is visible and the record must stay.
                    log::error!("{}: cannot make a mail visible: {error}", received.account);
                    if matches!(maildir.find(&received.file), Ok(Some(Place::Tmp) | None)) {
                        // The file goes last: while the record stands, the next start finds and publishes it.
                        if !self.take_back(&received) {
                            continue;
                        }
                        discard(&maildir, &received.file);
                    }
                    outcomes.push((mailbox, Err(disk_refusal(&error))));
                }
            }
        }
        if !published.is_empty() {
            self.store.published(published);
        }
        outcomes
    }

    /// Removes a record whose file could not be made visible, or whose mail the server did not take; false when the agent
    /// stops before that succeeds. The peer is not answered until then: its next offer would find the record and be told
    /// that the mail is stored.
    fn take_back(&self, received: &Received) -> bool {
        while let Err(error) = self.store.forget_unpublished(received.clone()) {
            log::error!("a record of what is not delivered stays for now: {error}");
            if self.stopping.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(AGAIN);
        }
        true
    }

    /// Gives a notice to the MTA, to its account's server, or puts it into its account's Maildir, by the same steps as
    /// mail and with our own key as the peer. At a server its row is the record: should the agent end before that goes,
    /// the notice is handed over again.
    fn notice(&self, id: i64) -> anyhow::Result<()> {
        let Some(notice) = self.reader.notice(id)? else { return Ok(()) };
        let send = |server: &Destination, user: Option<&ForwardPath>| {
            // When the agent is told to stop, what is left waits for the next start.
            let stopping = self.stopping.load(Ordering::Relaxed);
            if stopping {
                return Sent::Waits;
            }
            self.turns.wait(server, || self.servers.send(server, user, &notice.content))
        };
        match self.mta.as_ref().map(|mta| send(mta, None)) {
            Some(Sent::Taken) => return self.notice_is_done(id),
            Some(Sent::Waits) => return Ok(()),
            Some(Sent::Refused) | None => {}
        }
        let accounts = self.directory.accounts();
        let Some(account) = accounts.iter().find(|account| account.name == notice.account) else {
            anyhow::bail!("account {} is not configured any more: its notice {id} waits", notice.account);
        };
        let mailbox = &account.mailboxes[0];
        let path = match &mailbox.way {
            Way::Maildir(path) => path,
            Way::Server { destination, recipient } => match send(destination, Some(recipient)) {
                Sent::Taken => return self.notice_is_done(id),
                Sent::Waits => return Ok(()),
                // A notice about a notice is never made (RFC 5321 section 6.1).
                Sent::Refused => {
                    log::error!("a notice for <{recipient}> is lost, as {destination} refused it");
                    return self.notice_is_done(id);
                }
            },
        };
        let file = self.unique_name()?;
        let (maildir, mut staged) = self.create(path, &file)?;
        staged.write_all(&notice.content)?;
        staged.sync()?;
        maildir.sync_tmp()?;
        let mut transfer = [0; 16];
        transfer[..8].copy_from_slice(b"notice  ");
        transfer[8..].copy_from_slice(&id.to_be_bytes());
        let transfer = MailId(transfer);
        let received = Received {
            account: account.name.clone(),
            peer: account.key,
            transfer,
            mailbox: mailbox.name.clone(),
            maildir: path.to_string_lossy().into_owned(),
            file,
        };
        for (_, outcome) in self.publish(vec![(0, maildir, received)]) {
            outcome?;
            self.notice_is_done(id)?;
            self.store.forget(&account.name, vec![(account.key, transfer)]);
        }
        Ok(())
    }

    fn notice_is_done(&self, id: i64) -> anyhow::Result<()> {
        self.store.notice_delivered(id);
        Ok(())
    }
}

fn mailbox_refusal(maildir: &Path, error: &io::Error) -> Refusal {
    log::error!("cannot deliver to {}: {error}", maildir.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Refusal::temporary(2, 2, "the recipient's disk is full")
        }
        _ => Refusal::temporary(2, 0, "the recipient's mailbox cannot be written at the moment"),
    }
}

fn store_refusal(error: &StoreError) -> Refusal {
    match error.full {
        true => Refusal::temporary(3, 1, "the recipient's disk is full"),
        false => Refusal::temporary(3, 0, "the recipient's mail store does not answer"),
    }
}

/// What [`trace::MAIL_ID`] says of a mail for a mailbox. It is made of the key of the mail's record, so it is the
/// same in each attempt and of no other mail; hashed, so it tells nobody anything. That nobody can send a mail that
/// has it before the mail itself has come follows from the mail id, 128 random bits that only the peer knows.
fn identity(account: &str, peer: &PublicKey, transfer: &MailId, mailbox: &str) -> String {
    let mut hash = Digester::default();
    for part in [trace::MAIL_ID.as_bytes(), account.as_bytes(), &peer.0, &transfer.0, mailbox.as_bytes()] {
        // With its length in front: where one part ends and the next begins makes a difference.
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    data_encoding::HEXLOWER.encode(&hash.finish().0)
}

fn by_server(mailbox: &Mailbox) -> bool {
    matches!(mailbox.way, Way::Server { .. })
}

fn account_nick(directory: &Directory, account: &Account, delivery: &Delivery) -> String {
    let nick = directory.account(&account.name).and_then(|at| directory.nick(at, &delivery.peer));
    nick.unwrap_or_else(|| delivery.peer.short())
}

fn discard(maildir: &Maildir, file: &str) {
    if let Err(error) = maildir.discard(file) {
        log::warn!("cannot remove {file} from tmp/: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_of_one_mail_for_one_mailbox() {
        let (peer, id) = (PublicKey([1; 32]), MailId([2; 16]));
        let of = identity("alice", &peer, &id, "work");
        // Written down, because an agent that is upgraded between two attempts must say the same.
        assert_eq!(of, "6efb89b88a9764d05f7f39d86ef31cdc77cd081e0f9fc187a56519e2cd42ae65");
        for other in [
            identity("alic", &peer, &id, "ework"),
            identity("alice", &PublicKey([3; 32]), &id, "work"),
            identity("alice", &peer, &MailId([3; 16]), "work"),
            identity("alice", &peer, &id, "alice"),
            identity("bob", &peer, &id, "work"),
        ] {
            assert_ne!(other, of);
        }
    }
}
