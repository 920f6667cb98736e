//! The configuration in force, and reading it again while links and sockets stay.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::Context as _;
use tokio::sync::watch;

use super::account::Command;
use super::names::Names;
use super::relay_role::RelayHandle;
use super::run;
use crate::config::{self, Config};
use crate::control::api::Reloaded;
use crate::lmtp;
use crate::telemetry::{self, notify};

/// The configuration in force.
pub struct Live(RwLock<Arc<Config>>);

impl Live {
    /// Begins with the one of the start.
    pub fn new(config: Config) -> Self {
        Self(RwLock::new(Arc::new(config)))
    }

    /// The one of now.
    pub fn get(&self) -> Arc<Config> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, config: Config) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }
}

/// Reads the configuration again.
pub struct Reloader {
    /// Its file.
    pub path: PathBuf,
    /// What is in force.
    pub live: Arc<Live>,
    /// Whose settings are changed; by them contacts, accounts' threads and the store.
    pub names: Arc<Names>,
    /// The own relay, if there is one.
    pub relay: Option<Arc<RelayHandle>>,
    /// The LMTP server's limits.
    pub limits: watch::Sender<Arc<lmtp::Limits>>,
    /// One at a time.
    pub turn: Mutex<()>,
}

impl Reloader {
    /// Takes on what can be taken on, and tells what cannot without a restart. Blocks: it reads files, and asks the
    /// system for users.
    ///
    /// # Errors
    /// The file is faulty, or something it names is not there: nothing has changed then.
    pub fn reload(&self) -> anyhow::Result<Reloaded> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        notify::reloading();
        let result = self.change();
        match &result {
            Ok(Reloaded { applied, restart }) => {
                let applied = if applied.is_empty() { "nothing has changed".to_owned() } else { applied.join(", ") };
                log::info!("configuration read again: {applied}");
                if !restart.is_empty() {
                    log::warn!("needs a restart, and stays as it was: {}", restart.join(", "));
                }
            }
            Err(error) => log::error!("the configuration stays as it was: {error:#}"),
        }
        notify::ready();
        result
    }

    fn change(&self) -> anyhow::Result<Reloaded> {
        let running = self.live.get();
        let change = config::compare(&running, config::load(&self.path)?);
        let config = change.config;
        // What can fail comes first.
        let limits = run::limits(&config)?;
        let same_names = config.names == running.names && config.queue.retry_max == running.queue.retry_max;
        let settings = if same_names { None } else { Some(run::name_settings(&config).context("names")?) };

        telemetry::log::set_level(config.log.level);
        let contacts = &self.names.contacts;
        contacts.store.set_times(run::times(&config));
        let keys: Vec<_> = (0..contacts.directory.accounts().len()).map(|at| self.names.id(at).key()).collect();
        let accounts = config.accounts.iter().zip(&keys).map(|(own, key)| run::directory_account(own, *key));
        contacts.directory.change(accounts.collect(), config.names.lookup);
        for ((own, key), handle) in config.accounts.iter().zip(&keys).zip(&contacts.handles) {
            handle.send(Command::Rules(Box::new(run::rules(&config, own, *key))));
            handle.send(Command::Nodes(config.tox.bootstrap.clone()));
        }
        if let Some(settings) = settings {
            self.names.change(settings);
        }
        if let Some(relay) = &self.relay {
            relay.configure(config.relay.clone(), config.delivery.min_free);
            relay.set_nodes(config.tox.bootstrap.clone());
        }
        self.limits.send_replace(Arc::new(limits));
        self.live.set(config);
        Ok(Reloaded { applied: change.applied, restart: change.restart })
    }
}
