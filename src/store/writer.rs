//! The one thread that writes, with group commit.

use std::ops::AddAssign;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::dispatch::{Dispatcher, Work};
use super::queue::{Policy, Recorded, Times};
use super::schema;
use crate::identity::tox_id::ToxId;

/// How many jobs share one commit at most.
const BATCH: usize = 512;
/// How long a job that must not fail waits before it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// After how long it is tried again to empty the log, in milliseconds.
const WIPE_AGAIN: i64 = 60_000;

/// Why a job was not carried out; nothing of it is stored unless it is `uncertain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    /// Whether the disk is full.
    pub full: bool,
    /// Whether it may be stored all the same: the commit was written and could not be synced, so that a crash before the
    /// next commit can bring it back.
    pub uncertain: bool,
    text: String,
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for StoreError {}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
        Self { full, uncertain: false, text: error.to_string() }
    }
}

impl StoreError {
    fn stopped() -> Self {
        Self { full: false, uncertain: true, text: "the store has stopped".into() }
    }
}

/// What the writer tells of its own accord, after the commit that made it so.
#[derive(Debug)]
pub enum Event {
    /// Transfers for a peer whose link is up; their attempt is recorded.
    Work(Work),
    /// All recipients of a transfer have their answer on disk.
    Recorded(Recorded),
    /// A notice waits for its mailbox: account and row.
    Notice(String, i64),
    /// A look-up of a name may be due.
    Names,
    /// A contact was made for a name, or has a new Tox ID: friendship is to be asked of it, with this text.
    Ask(String, ToxId, String),
    /// An account has somebody new to introduce itself to.
    Introducing(String),
}

/// What became of mail since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Recipients whose mail is in their mailbox, or was handed on by their agent.
    pub sent: u64,
    /// Attempts for a recipient that were put off.
    pub deferred: u64,
    /// Recipients whose mail was returned, those who waited too long included.
    pub bounced: u64,
    /// Mails of contacts, one for each mailbox, that were stored or handed over.
    pub received: u64,
}

/// What jobs work on: the open transaction, and what is to happen once it is committed.
pub(super) struct Session<'a> {
    pub connection: &'a Connection,
    pub dispatcher: &'a mut Dispatcher,
    pub policy: &'a Policy,
    pub events: Vec<Event>,
    pub log: Vec<String>,
    /// Body files that no row names any more.
    pub unlink: Vec<String>,
    pub counts: Counts,
}

impl Session<'_> {
    /// Secrets are destroyed in this transaction: after it, nothing of them is to be left in the log either.
    pub fn wipe(&mut self) {
        self.dispatcher.wipe_at = Some(i64::MIN);
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.sent += more.sent;
        self.deferred += more.deferred;
        self.bounced += more.bounced;
        self.received += more.received;
    }
}

/// What the thread that writes reaches besides the database.
struct Outside<'a> {
    bodies: &'a Path,
    counted: Arc<Mutex<Counts>>,
    sink: &'a dyn Fn(Event),
}

type Run = Box<dyn FnMut(&mut Session<'_>) -> rusqlite::Result<()> + Send>;
type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Job {
    run: Run,
    done: Option<Done>,
    /// Whether it is tried until it succeeds: what has happened cannot be refused.
    must: bool,
}

enum Message {
    Job(Job),
    Times(Times),
    Stop,
}

/// The way to the writer thread; to be cloned freely.
#[derive(Clone)]
pub struct Store {
    jobs: Sender<Message>,
    counts: Arc<Mutex<Counts>>,
}

impl Store {
    /// Opens the store below `state_dir` and starts its thread. Body files that no row names are removed, and recipients
    /// that were being sent are queued again. `sink` gets the [`Event`]s.
    ///
    /// # Errors
    /// The database cannot be opened.
    pub fn open(
        state_dir: &Path,
        mut policy: Policy,
        sink: impl Fn(Event) + Send + 'static,
    ) -> anyhow::Result<(Self, JoinHandle<()>)> {
        let mut connection = schema::open(state_dir)?;
        let bodies = state_dir.join("bodies");
        super::bodies::prepare(&bodies)?;
        super::queue::recover(&connection, &bodies)?;
        let (jobs, inbox) = mpsc::channel();
        let counts = Arc::<Mutex<Counts>>::default();
        let counted = counts.clone();
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            let mut dispatcher = Dispatcher::default();
            run(
                &mut connection,
                &inbox,
                &mut dispatcher,
                &mut policy,
                &Outside { bodies: &bodies, counted, sink: &sink },
            );
        })?;
        let store = Self { jobs, counts };
        // Before anything else: what was being sent when the agent ended may be for a name that leads elsewhere now; and it
        // may have ended between destroying keys and emptying the log.
        store.record(|session| {
            session.wipe();
            super::names::hold_all_changed(session)
        });
        Ok((store, thread))
    }

    /// Waiting times that hold from now on; a time that was set for a recipient stays.
    pub fn set_times(&self, times: Times) {
        let _ = self.jobs.send(Message::Times(times));
    }

    /// What became of mail so far, as far as it is committed.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finishes the jobs that are waiting and ends the thread.
    pub fn stop(&self) {
        let _ = self.jobs.send(Message::Stop);
    }

    /// Calls `done` in the writer's thread, once what was given before is carried out or has failed.
    pub fn ping(&self, done: impl FnOnce() + Send + 'static) {
        self.submit(|_| Ok(()), |_| done());
    }

    /// Runs `work` in a transaction; `done` gets its result after the commit, in the writer's thread.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&mut Session<'_>) -> rusqlite::Result<T> + Send + 'static,
        done: impl FnOnce(Result<T, StoreError>) + Send + 'static,
    ) {
        let slot = Arc::new(Mutex::new(None));
        let result = slot.clone();
        let take = move || result.lock().ok().and_then(|mut slot| slot.take());
        let run: Run = Box::new(move |session| {
            let value = work(session)?;
            if let Ok(mut slot) = slot.lock() {
                *slot = Some(value);
            }
            Ok(())
        });
        let done: Done = Box::new(move |outcome| {
            done(outcome.and_then(|()| take().ok_or_else(StoreError::stopped)));
        });
        self.send(Job { run, done: Some(done), must: false });
    }

    /// Runs `work` until it succeeds: for what has already happened in the world.
    pub(super) fn record(&self, work: impl FnMut(&mut Session<'_>) -> rusqlite::Result<()> + Send + 'static) {
        self.send(Job { run: Box::new(work), done: None, must: true });
    }

    /// Like [`Store::submit`], waiting for the result. Not to be called from the writer's own callbacks.
    pub(super) fn call<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Session<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(work, move |result| {
            let _ = sender.send(result);
        });
        receiver.recv().unwrap_or_else(|_| Err(StoreError::stopped()))
    }

    fn send(&self, job: Job) {
        if let Err(mpsc::SendError(Message::Job(Job { done: Some(done), .. }))) = self.jobs.send(Message::Job(job)) {
            done(Err(StoreError::stopped()));
        }
    }
}

fn run(
    connection: &mut Connection,
    inbox: &Receiver<Message>,
    dispatcher: &mut Dispatcher,
    policy: &mut Policy,
    outside: &Outside<'_>,
) {
    let mut jobs: Vec<Job> = Vec::new();
    let mut stopping = false;
    let mut failing = false;
    while !stopping || (!jobs.is_empty() && !failing) {
        let wait = if failing { AGAIN } else { dispatcher.wait(policy) };
        match inbox.recv_timeout(wait) {
            Ok(Message::Job(job)) => jobs.push(job),
            Ok(Message::Times(times)) => policy.set_times(times),
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => stopping = true,
            Err(RecvTimeoutError::Timeout) => {}
        }
        while jobs.len() < BATCH {
            match inbox.try_recv() {
                Ok(Message::Job(job)) => jobs.push(job),
                Ok(Message::Times(times)) => policy.set_times(times),
                Ok(Message::Stop) => stopping = true,
                Err(_) => break,
            }
        }
        failing = !batch(connection, &mut jobs, dispatcher, policy, outside);
    }
}

/// Carries out `jobs` in one transaction. Afterwards only those that must succeed and did not are left; false if any.
fn batch(
    connection: &mut Connection,
    jobs: &mut Vec<Job>,
    dispatcher: &mut Dispatcher,
    policy: &Policy,
    outside: &Outside<'_>,
) -> bool {
    let before = dispatcher.clone();
    let mut results: Vec<Result<(), StoreError>> = Vec::with_capacity(jobs.len());
    let committed = transaction(connection, jobs, dispatcher, policy, &mut results);
    let mut left = Vec::new();
    let outcome = match committed {
        Ok(Committed { events, log, unlink, counts }) => {
            *outside.counted.lock().unwrap_or_else(PoisonError::into_inner) += counts;
            wipe(connection, dispatcher, policy);
            for (mut job, result) in std::mem::take(jobs).into_iter().zip(results) {
                match (result, job.done.take()) {
                    (Err(error), _) if job.must => {
                        log::error!("cannot record in the queue, trying again: {error}");
                        left.push(job);
                    }
                    (result, Some(done)) => done(result),
                    (_, None) => {}
                }
            }
            log.iter().for_each(|line| log::info!("{line}"));
            unlink.iter().for_each(|name| super::bodies::remove(outside.bodies, name));
            events.into_iter().for_each(outside.sink);
            left.is_empty()
        }
        Err(error) => {
            log::error!("cannot write to the queue: {error}");
            *dispatcher = before;
            dispatcher.look_again();
            for mut job in std::mem::take(jobs) {
                if job.must {
                    left.push(job);
                } else if let Some(done) = job.done.take() {
                    done(Err(error.clone()));
                }
            }
            false
        }
    };
    *jobs = left;
    outcome
}

/// Empties the write-ahead log where keys were destroyed: until then it holds the pages that they were on. What reads at the
/// time may be in the way.
fn wipe(connection: &Connection, dispatcher: &mut Dispatcher, policy: &Policy) {
    let now = (policy.now)();
    if dispatcher.wipe_at.is_none_or(|at| now < at) {
        return;
    }
    let wiped = (|| {
        connection.busy_timeout(Duration::ZERO)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
    })();
    if let Err(error) = connection.busy_timeout(schema::PATIENCE) {
        log::error!("cannot set how long the queue is waited for: {error}");
    }
    dispatcher.wipe_at = match wiped {
        Ok(true) => None,
        Ok(false) => Some(now + WIPE_AGAIN),
        Err(error) => {
            log::warn!("cannot empty the write-ahead log, which has destroyed keys, trying again: {error}");
            Some(now + WIPE_AGAIN)
        }
    };
}

/// What is to happen once a transaction is committed.
struct Committed {
    events: Vec<Event>,
    log: Vec<String>,
    unlink: Vec<String>,
    counts: Counts,
}

fn transaction(
    connection: &mut Connection,
    jobs: &mut [Job],
    dispatcher: &mut Dispatcher,
    policy: &Policy,
    results: &mut Vec<Result<(), StoreError>>,
) -> Result<Committed, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut session = Session {
        connection: &transaction,
        dispatcher,
        policy,
        events: Vec::new(),
        log: Vec::new(),
        unlink: Vec::new(),
        counts: Counts::default(),
    };
    for job in jobs {
        // A savepoint each, so that one job that fails takes nothing of the others with it.
        session.connection.prepare_cached("SAVEPOINT job")?.execute([])?;
        let (events, log, unlink) = (session.events.len(), session.log.len(), session.unlink.len());
        let counts = session.counts;
        let result = (job.run)(&mut session);
        if result.is_err() {
            session.connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
            session.events.truncate(events);
            session.log.truncate(log);
            session.unlink.truncate(unlink);
            session.counts = counts;
        }
        session.connection.prepare_cached("RELEASE job")?.execute([])?;
        results.push(result.map_err(StoreError::from));
    }
    super::outcome::expire(&mut session)?;
    super::outcome::warn_late(&mut session)?;
    let work = super::dispatch::fill(&mut session)?;
    session.events.extend(work.into_iter().map(Event::Work));
    let Session { events, log, unlink, counts, .. } = session;
    transaction.commit().map_err(|error| StoreError { uncertain: true, ..error.into() })?;
    Ok(Committed { events, log, unlink, counts })
}
