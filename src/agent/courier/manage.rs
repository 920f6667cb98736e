//! What toxctl asks about relays, answered by the courier and by the relay that this agent is.

use std::collections::HashMap;
use std::sync::Arc;

use super::clients::RelayLine;
use super::{Courier, Handle};
use crate::agent::relay_role::{OwnerLine, RelayHandle};
use crate::agent::relays::Relays;
use crate::agent::reload::Live;
use crate::config;
use crate::control::{Failure, api};
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::lane::invite::Invitation;
use crate::lane::keys::RelayKey;
use crate::relay::descriptor::{Descriptor, Invite};
use crate::relay::outbox::State;
use crate::store::{IntroducingRow, RelayRow, Store};
use crate::telemetry::clock::Clock;

/// Answers for the courier.
pub struct Desk {
    /// The courier.
    pub courier: Handle,
    /// The relay that this agent is.
    pub relay: Option<Arc<RelayHandle>>,
    /// Where relays are kept.
    pub store: Store,
    /// The wall clock.
    pub clock: Arc<Clock>,
    /// The configuration in force.
    pub live: Arc<Live>,
}

fn stopped() -> Failure {
    Failure::Unavailable("the thread for relays does not answer: the agent is stopping, or stuck".into())
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Unavailable(error.to_string())
}

impl Courier {
    fn used(&self, account: Option<&str>) -> Result<Vec<api::UsedRelay>, rusqlite::Error> {
        let mut used = Vec::new();
        for one in self.accounts.iter().filter(|one| account.is_none_or(|name| name == one.name)) {
            let mut slots: HashMap<RelayKey, u64> = HashMap::new();
            for line in self.reader.windows(&one.name)? {
                *slots.entry(line.relay).or_default() += line.window.registered - line.window.low;
            }
            let mut mails: HashMap<RelayKey, std::collections::HashSet<_>> = HashMap::new();
            for deposit in self.reader.deposits(&one.name)? {
                if matches!(deposit.state, State::Stored { .. }) {
                    mails.entry(deposit.place.relay).or_default().insert(deposit.parcel);
                }
            }
            for RelayLine { account, relay, offered, up, since, error } in one.lines(&self.reader)? {
                used.push(api::UsedRelay {
                    account,
                    text: relay.to_string(),
                    key: full(&relay.key),
                    purpose: if offered { api::RelayPurpose::Offered } else { api::RelayPurpose::Told },
                    reachable: up,
                    since,
                    slots: slots.get(&relay.key).copied().unwrap_or(0),
                    mails: 0,
                    error,
                });
            }
            let mut deposits: HashMap<RelayKey, Descriptor> = HashMap::new();
            for followed in one.followed.values() {
                for relay in &followed.offer.relays {
                    deposits.insert(relay.key, Descriptor { id: relay.id, key: relay.key });
                }
            }
            let mut deposits: Vec<_> = deposits.into_values().filter(|relay| mails.contains_key(&relay.key)).collect();
            deposits.sort_by_key(|relay| relay.key);
            for relay in deposits {
                let visit = one.visits.iter().find(|((at, _), _)| *at == relay.key).map(|(_, visit)| visit);
                used.push(api::UsedRelay {
                    account: one.name.clone(),
                    text: relay.to_string(),
                    key: full(&relay.key),
                    purpose: api::RelayPurpose::Deposits,
                    reachable: visit.map(|visit| visit.up),
                    since: None,
                    slots: 0,
                    mails: mails.get(&relay.key).map_or(0, |mails| mails.len() as u64),
                    error: None,
                });
            }
        }
        Ok(used)
    }
}

fn full(key: &RelayKey) -> String {
    data_encoding::HEXLOWER.encode(&key.0)
}

/// The relay that this agent is, as it is shown.
fn own(relay: &RelayHandle) -> api::OwnRelay {
    let status = relay.status();
    api::OwnRelay {
        text: relay.descriptor().to_string(),
        connection: status.connection.into(),
        open: status.config.open,
        offered: status.config.offer,
        owners: status.totals.owners,
        max_owners: status.config.max_owners as u64,
        slots: status.totals.slots,
        filled: status.totals.filled,
        octets: status.totals.used,
        max_disk: status.config.max_disk,
        error: status.error,
    }
}

impl Desk {
    fn own(&self) -> Result<&RelayHandle, Failure> {
        let none = || Failure::Conflict("this agent is no relay: set relay.enabled = true and restart it".into());
        self.relay.as_deref().ok_or_else(none)
    }
}

impl Relays for Desk {
    fn overview(&self, account: Option<&str>) -> Result<api::Relays, Failure> {
        let account = account.map(str::to_owned);
        let used = self.courier.ask(move |courier| courier.used(account.as_deref())).ok_or_else(stopped)?;
        Ok(api::Relays { own: self.relay.as_deref().map(own), used: used.map_err(failed)? })
    }

    fn add(&self, account: usize, relay: Descriptor, invite: Option<Invite>) -> Result<api::UsedRelay, Failure> {
        let config = self.live.get();
        let Some(wanted) = config.accounts.get(account) else { return Err(stopped()) };
        if wanted.relays == config::Relays::None {
            let text = format!("the account {} has relays = \"none\" in its configuration", wanted.name);
            return Err(Failure::Conflict(text));
        }
        if self.relay.as_ref().is_some_and(|own| own.descriptor().key == relay.key) {
            return Err(Failure::Conflict("that is this agent's own relay: it is off when this agent is".into()));
        }
        let name = wanted.name.clone();
        let known = {
            let name = name.clone();
            self.courier.ask(move |courier| courier.used(Some(&name))).ok_or_else(stopped)?.map_err(failed)?
        };
        let same = |one: &&api::UsedRelay| one.key == full(&relay.key) && one.purpose == api::RelayPurpose::Told;
        if invite.is_none() && known.iter().any(|one| same(&one) && one.text == relay.to_string()) {
            return Err(Failure::Conflict("that relay is used already: toxctl relay status".into()));
        }
        let row = RelayRow {
            key: relay.key,
            id: relay.id.octets().to_vec(),
            invite: invite.map(|invite| invite.0),
            offered_by: None,
            savedata: None,
            pseudonym: None,
            added: self.clock.wall_ms() / 1000,
            seen: None,
        };
        self.store.put_relay(&name, row).map_err(failed)?;
        self.courier.ask(Courier::relays_changed).ok_or_else(stopped)?;
        let used = self.courier.ask(move |courier| courier.used(Some(&name))).ok_or_else(stopped)?.map_err(failed)?;
        used.into_iter().find(|one| same(&one)).ok_or_else(|| failed("the relay is not in the store"))
    }

    fn remove(&self, account: usize, relay: RelayKey) -> Result<(), Failure> {
        let config = self.live.get();
        let Some(account) = config.accounts.get(account) else { return Err(stopped()) };
        if !self.store.remove_relay(&account.name, relay).map_err(failed)? {
            return Err(Failure::NotFound("that relay is not used: toxctl relay status".into()));
        }
        self.courier.ask(Courier::relays_changed).ok_or_else(stopped)
    }

    fn invitation(&self, account: usize, id: ToxId, renew: bool) -> Result<Invitation, Failure> {
        let made = self.courier.ask(move |courier| courier.accounts[account].invitation(id, renew));
        let none = "no relay of the account has answered yet: toxctl relay use, toxctl relay status";
        made.ok_or_else(stopped)?.map_err(failed)?.ok_or_else(|| Failure::Conflict(none.into()))
    }

    fn introduce(&self, account: usize, id: ToxId, text: String, to: &Invitation) -> Result<(), Failure> {
        let config = self.live.get();
        let Some(wanted) = config.accounts.get(account) else { return Err(stopped()) };
        if wanted.relays == config::Relays::None {
            let text = "a friend request is sent, but no introduction: the account has relays = \"none\"";
            return Err(Failure::Conflict(text.into()));
        }
        let row = || IntroducingRow {
            peer: to.id.key(),
            invitation: to.to_string(),
            id,
            text: text.clone(),
            days: 0,
            day: None,
        };
        self.store.put_introducing(&wanted.name, row()).map_err(failed)?;
        let row = row();
        self.courier.ask(move |courier| courier.accounts[account].begin_introducing(row)).ok_or_else(stopped)
    }

    fn invite(&self, quota: Option<u64>) -> Result<api::Invited, Failure> {
        let own = self.own()?;
        let invite = own.invite(quota).map_err(|error| Failure::Conflict(format!("{error:#}")))?;
        let quota = quota.unwrap_or(own.status().config.owner_quota);
        Ok(api::Invited { text: own.descriptor().with_invite(&invite), quota })
    }

    fn owners(&self) -> Result<Vec<api::Owner>, Failure> {
        let owners = self.own()?.owners().map_err(failed)?;
        let seconds = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        let shown = |owner: OwnerLine| api::Owner {
            key: owner.key.to_string(),
            since: seconds(owner.since),
            last_seen: Some(seconds(owner.seen)),
            slots: owner.slots,
            filled: owner.filled,
            octets: owner.used,
            quota: owner.quota,
        };
        Ok(owners.into_iter().map(shown).collect())
    }

    fn remove_owner(&self, key: PublicKey) -> Result<(), Failure> {
        match self.own()?.remove_owner(key).map_err(failed)? {
            true => Ok(()),
            false => Err(Failure::NotFound(format!("no owner {key}: toxctl relay owners"))),
        }
    }
}
