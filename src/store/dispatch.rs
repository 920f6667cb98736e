//! Which transfers go to which link now: peers whose link is up have credits, and what is due is handed to them within
//! the transaction that made it due, so that recording the attempt costs no commit of its own.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::queue::{self, Policy};
use super::writer::{Session, Store};
use crate::engine::transfer::Transfer;
use crate::identity::tox_id::PublicKey;

/// The writer wakes at least this often, to look for what has expired.
const SWEEP: Duration = Duration::from_secs(10);

/// Transfers for one link.
#[derive(Debug)]
pub struct Work {
    /// The account.
    pub account: String,
    /// For whom.
    pub peer: PublicKey,
    /// The session that asked for them.
    pub epoch: u64,
    /// In the order in which they are to be sent.
    pub transfers: Vec<Transfer>,
}

#[derive(Debug, Clone)]
struct Link {
    epoch: u64,
    /// For small and for bulk mail.
    credits: [u32; 2],
    /// Whether something may be due now.
    look: bool,
    /// When the next deferred recipient is due, in milliseconds of the queue clock.
    due: Option<i64>,
}

/// The links that are up.
#[derive(Debug, Clone, Default)]
pub(super) struct Dispatcher {
    /// The last mail whose sender was told of the delay.
    pub warned: i64,
    /// When the next is to be told, in milliseconds of the queue clock.
    pub warn_next: i64,
    /// Since keys were destroyed: when the log is to be emptied, which has them still; milliseconds of the queue clock.
    pub wipe_at: Option<i64>,
    links: HashMap<(String, PublicKey), Link>,
}

impl Dispatcher {
    /// Something new may be due for this peer.
    pub fn touch(&mut self, account: &str, peer: &PublicKey) {
        if let Some(link) = self.links.get_mut(&(account.to_owned(), *peer)) {
            link.look = true;
        }
    }

    /// A transaction failed: what was handed out in it was not.
    pub fn look_again(&mut self) {
        self.links.values_mut().for_each(|link| link.look = true);
    }

    /// How long the writer may sleep.
    pub fn wait(&self, policy: &Policy) -> Duration {
        let now = (policy.now)();
        let due = self.links.values().filter_map(|link| link.due).min();
        let wait = due.map_or(SWEEP, |due| Duration::from_millis(u64::try_from(due - now).unwrap_or(0)));
        if self.links.values().any(|link| link.look && link.credits != [0, 0]) {
            Duration::ZERO
        } else {
            wait.min(SWEEP)
        }
    }
}

impl Store {
    /// A link is up and wants so many transfers at a time. What was deferred for this peer is due at once: what stood in
    /// its way may have gone with the link before.
    pub fn link_up(&self, account: &str, peer: PublicKey, epoch: u64, small: u32, bulk: u32) {
        let account = account.to_owned();
        self.record(move |session| {
            let now = (session.policy.now)();
            // What is marked as being sent belongs to a session that is over.
            session
                .connection
                .prepare_cached(
                    "UPDATE recipient SET state = 0, next_attempt = min(next_attempt, ?3)
                     WHERE account = ?1 AND peer = ?2
                     AND (state = 1 OR (state = 0 AND bulk IN (0, 1) AND next_attempt > ?3))",
                )?
                .execute(params![account, peer.0, now])?;
            let link = Link { epoch, credits: [small, bulk], look: true, due: None };
            session.dispatcher.links.insert((account.clone(), peer), link);
            Ok(())
        });
    }

    /// A link wants so many transfers more.
    pub fn grant(&self, account: &str, peer: PublicKey, small: u32, bulk: u32) {
        let account = account.to_owned();
        self.record(move |session| {
            if let Some(link) = session.dispatcher.links.get_mut(&(account.clone(), peer)) {
                link.credits[0] += small;
                link.credits[1] += bulk;
                link.look = true;
            }
            Ok(())
        });
    }

    /// A link is down: what was handed to it and has no outcome is queued again, due at once.
    pub fn link_down(&self, account: &str, peer: PublicKey) {
        let account = account.to_owned();
        self.record(move |session| {
            session.dispatcher.links.remove(&(account.clone(), peer));
            session
                .connection
                .prepare_cached("UPDATE recipient SET state = 0 WHERE account = ? AND peer = ? AND state = 1")?
                .execute(params![account, peer.0])?;
            // Names may have got another key while their mail was being sent.
            super::names::hold_changed(session, &account, &peer)
        });
    }
}

/// Hands out what is due, marking it as being sent and counting the attempt.
pub(super) fn fill(session: &mut Session<'_>) -> rusqlite::Result<Vec<Work>> {
    let now = (session.policy.now)();
    let mut work = Vec::new();
    let looked_at = |link: &Link| link.look || link.due.is_some_and(|due| due <= now);
    let links = &session.dispatcher.links;
    let looked_at: Vec<_> = links.iter().filter(|(_, link)| looked_at(link)).map(|(whose, _)| whose.clone()).collect();
    for (account, peer) in looked_at {
        super::names::hold_changed(session, &account, &peer)?;
    }
    for ((account, peer), link) in &mut session.dispatcher.links {
        let due = link.due.is_some_and(|due| due <= now);
        if !link.look && !due {
            continue;
        }
        link.look = false;
        link.due = None;
        let mut transfers = Vec::new();
        for bulk in [0usize, 1] {
            // Again as long as something comes: the rows looked at may all belong to one transfer.
            while link.credits[bulk] > 0 {
                let credits = link.credits[bulk];
                let db = session.connection;
                let taken = queue::take_due(db, account, peer, bulk == 1, now, session.policy, credits)?;
                if taken.is_empty() {
                    break;
                }
                link.credits[bulk] -= taken.len() as u32;
                transfers.extend(taken);
            }
            if link.credits[bulk] > 0 {
                let next: Option<i64> = session
                    .connection
                    .prepare_cached(
                        "SELECT next_attempt FROM recipient
                         WHERE account = ? AND peer = ? AND state = 0 AND bulk = ? ORDER BY next_attempt LIMIT 1",
                    )?
                    .query_row(params![account, peer.0, bulk == 1], |row| row.get(0))
                    .optional()?;
                link.due = link.due.into_iter().chain(next.map(|next| next.max(now + 1))).min();
            }
        }
        if !transfers.is_empty() {
            work.push(Work { account: account.clone(), peer: *peer, epoch: link.epoch, transfers });
        }
    }
    Ok(work)
}
