//! What the service manager is told: one line on how things stand, and that each part of the agent still runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::account::Handle;
use super::courier;
use super::relay_role::RelayHandle;
use crate::store::Store;
use crate::telemetry::notify;

/// When a part of the agent last showed that it runs.
#[derive(Debug, Clone)]
pub struct Pulse {
    since: Instant,
    /// Milliseconds after `since`.
    last: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { since: Instant::now(), last: Arc::default() }
    }
}

impl Pulse {
    /// It runs.
    pub fn beat(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    /// For how long it has not said so.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.last.load(Ordering::Relaxed)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Tells the service manager that the agent is alive, as long as each of its parts is: the accounts' threads turn their
/// loops, as does the courier, the store's thread answers, a task runs on the runtime.
pub struct Watchdog {
    limit: Duration,
    ticks: tokio::time::Interval,
    accounts: Vec<(String, Handle)>,
    store: (Store, Pulse),
    courier: courier::Handle,
    relay: Option<Arc<RelayHandle>>,
    runtime: Pulse,
    /// Who was silent at the last look.
    stuck: Option<String>,
}

impl Watchdog {
    /// One that must be heard within each `patience`. Each part may take half of that to answer.
    pub fn new(
        patience: Duration,
        accounts: Vec<(String, Handle)>,
        store: Store,
        courier: courier::Handle,
        relay: Option<Arc<RelayHandle>>,
    ) -> Self {
        let mut ticks = tokio::time::interval(patience / 4);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self {
            limit: patience / 2,
            ticks,
            accounts,
            store: (store, Pulse::default()),
            courier,
            relay,
            runtime: Pulse::default(),
            stuck: None,
        }
    }

    /// Waits until the next look is due. May be dropped and called again.
    pub async fn due(&mut self) {
        self.ticks.tick().await;
    }

    /// Tells the service manager if all parts have answered, and asks them anew.
    pub fn look(&mut self) {
        let stuck = self.stuck();
        match &stuck {
            None => notify::alive(),
            Some(part) if self.stuck.is_none() => {
                log::error!("{part} has not answered for {} s: left to the watchdog", self.limit.as_secs());
            }
            Some(_) => {}
        }
        self.stuck = stuck;
        for (_, handle) in &self.accounts {
            handle.wake();
        }
        self.courier.wake();
        if let Some(relay) = &self.relay {
            relay.wake();
        }
        let (store, pulse) = (&self.store.0, self.store.1.clone());
        store.ping(move || pulse.beat());
        let pulse = self.runtime.clone();
        tokio::spawn(async move { pulse.beat() });
    }

    /// A part that has been silent for too long.
    fn stuck(&self) -> Option<String> {
        let accounts = self.accounts.iter().map(|(name, handle)| (format!("the thread `tox {name}`"), &handle.pulse));
        let others = [
            ("the thread `store`".to_owned(), &self.store.1),
            ("the thread `courier`".to_owned(), &self.courier.pulse),
            ("the runtime".to_owned(), &self.runtime),
        ];
        let relay = self.relay.iter().map(|relay| ("the thread `relay`".to_owned(), &relay.pulse));
        accounts.chain(others).chain(relay).find(|(_, pulse)| pulse.silence() > self.limit).map(|(part, _)| part)
    }
}

/// How things stand: `2 of 5 contacts online; 12 mails waiting (3 held)`.
pub fn line(online: usize, contacts: usize, waiting: u64, held: u64) -> String {
    let mails = match waiting {
        0 => "no mail".to_owned(),
        1 => "1 mail".to_owned(),
        n => format!("{n} mails"),
    };
    let held = if held > 0 { format!(" ({held} held)") } else { String::new() };
    format!("{online} of {contacts} contacts online; {mails} waiting{held}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_reads_like_one() {
        assert_eq!(line(2, 5, 12, 3), "2 of 5 contacts online; 12 mails waiting (3 held)");
        assert_eq!(line(0, 1, 1, 0), "0 of 1 contacts online; 1 mail waiting");
        assert_eq!(line(0, 0, 0, 0), "0 of 0 contacts online; no mail waiting");
    }

    #[test]
    fn a_part_that_is_silent_for_half_of_the_patience_is_named() {
        let folder = tempfile::tempdir().expect("tempdir");
        let policy = crate::store::Policy {
            now: Box::new(|| 0),
            retry_min: 1,
            retry_max: 1,
            delay_notice: 0,
            notice: Box::new(|_| None),
        };
        let (store, thread) = Store::open(folder.path(), policy, |_| ()).expect("store");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio");
        let patience = Duration::from_secs(8);
        runtime.block_on(async {
            let (handle, _inbox) = Handle::new().expect("handle");
            let (courier, _courier_inbox) = courier::Handle::new();
            let mut watchdog =
                Watchdog::new(patience, vec![("alice".into(), handle.clone())], store.clone(), courier, None);
            assert_eq!(watchdog.stuck(), None);
            // As if it was that long ago.
            let age = |pulse: &mut Pulse| pulse.since -= patience;
            age(&mut watchdog.accounts[0].1.pulse);
            assert_eq!(watchdog.stuck().as_deref(), Some("the thread `tox alice`"));
            watchdog.accounts[0].1.pulse.beat();
            age(&mut watchdog.store.1);
            assert_eq!(watchdog.stuck().as_deref(), Some("the thread `store`"));
            age(&mut watchdog.runtime);
            watchdog.look();
            // Nobody runs it here.
            watchdog.courier.pulse.beat();
            // Both answer now that they are asked.
            while watchdog.stuck().is_some() {
                tokio::task::yield_now().await;
            }
        });
        store.stop();
        thread.join().expect("the store's thread");
    }
}
