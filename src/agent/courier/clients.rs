//! The relays themselves: which are used, the clients that are owners there, and the visits to relays of contacts.

use std::collections::HashMap;

use super::account::Account;
use super::{ClientNumber, Message};
use crate::agent::relay_client::{self, ClientEvent, ClientHandle, Opening};
use crate::agent::run;
use crate::config::Relays;
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::lane::keys::{RelayKey, SlotId};
use crate::relay::descriptor::{Admission, Descriptor, Invite};
use crate::relay::place::Place;
use crate::relay::session::{Command, Event};
use crate::relay::{inbox, outbox};
use crate::store::{Reader, RelayRow};

/// With so many relays an account takes no more that contacts offer.
pub(super) const ENOUGH: usize = 3;
/// How many relays an offer names at most.
pub(super) const MOST_OFFERED: usize = crate::lane::offer::MAX_RELAYS;
/// A relay that did not answer for so long, in seconds, goes behind all others.
const LOST: i64 = 3 * 86_400;
/// How often it is looked which relays are lost, in milliseconds.
const CHOOSE: i64 = 600_000;

/// A running client.
pub(super) struct Client {
    pub number: ClientNumber,
    pub handle: ClientHandle,
}

/// A relay where we are, or want to be, an owner.
pub(super) struct Owner {
    pub id: ToxId,
    /// With what the client was opened.
    pub invite: Option<[u8; 16]>,
    /// When the relay was added, seconds of the wall clock.
    pub added: i64,
    pub client: Option<Client>,
    /// Whether mail is to go there; else only what is there is fetched.
    pub in_use: bool,
    pub up: bool,
    /// Since when it is up, or is not; seconds of the wall clock.
    pub since: Option<i64>,
    /// What it said against us, or what went wrong last.
    pub error: Option<String>,
}

/// A visit to a relay of a contact.
pub(super) struct Visit {
    pub client: Client,
    pub up: bool,
    pub slots: HashMap<SlotId, Place>,
}

/// What is shown of a relay where an account is an owner.
pub(super) struct RelayLine {
    pub account: String,
    pub relay: Descriptor,
    /// Whether a contact offered it, or the operator told us.
    pub offered: bool,
    /// Whether a session is up; `None` where nobody has tried.
    pub up: Option<bool>,
    /// Since when it is, or is not; seconds of the wall clock.
    pub since: Option<i64>,
    /// What went wrong last.
    pub error: Option<String>,
}

impl Account {
    /// The relays in use.
    pub(super) fn in_use(&self) -> Vec<RelayKey> {
        self.owners.iter().filter(|(_, owner)| owner.in_use).map(|(key, _)| *key).collect()
    }

    /// Which relays are used has to be decided anew.
    pub(super) fn relays_changed(&mut self) {
        self.choose = true;
    }

    /// Decides which relays are used, and opens and ends clients.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn choose_relays(&mut self, reader: &Reader, clients: &mut ClientNumber) -> anyhow::Result<()> {
        self.decide_relays(reader)?;
        let idle: Vec<RelayKey> =
            self.owners.iter().filter(|(_, owner)| owner.client.is_none()).map(|(key, _)| *key).collect();
        if idle.is_empty() {
            return Ok(());
        }
        for row in reader.relays(&self.name)? {
            if idle.contains(&row.key) {
                self.open_owner(row, clients);
            }
        }
        Ok(())
    }

    /// Decides which relays are used, and ends the clients of those that are forgotten.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn decide_relays(&mut self, reader: &Reader) -> anyhow::Result<()> {
        let (now, queue_now) = (self.seconds(), self.shared.clock.queue_ms());
        let due = self.chosen_at.is_none_or(|at| queue_now - at > CHOOSE);
        if self.choose || due {
            (self.choose, self.chosen_at) = (false, Some(queue_now));
            let wanted = self.config().map_or(Relays::None, |config| config.relays);
            let rows = reader.relays(&self.name)?;
            let chosen = choose(&rows, wanted, now);
            let known: Vec<RelayKey> = rows.iter().map(|row| row.key).collect();
            let (before, now_ms) = (self.in_use(), self.now());
            self.owners.retain(|key, owner| {
                let keep = known.contains(key) && wanted != Relays::None;
                if !keep && let Some(client) = &owner.client {
                    client.handle.close();
                }
                keep
            });
            for row in &rows {
                let id = <[u8; 38]>::try_from(&row.id[..]).ok().and_then(|id| ToxId::from_octets(&id).ok());
                let Some(id) = id.filter(|_| wanted != Relays::None) else { continue };
                let owner = self.owners.entry(row.key).or_insert(Owner {
                    id,
                    invite: row.invite,
                    added: row.added,
                    client: None,
                    in_use: false,
                    up: false,
                    since: row.seen,
                    error: None,
                });
                let invited = !owner.up && row.invite.is_some() && row.invite != owner.invite;
                if owner.id != id || owner.added != row.added || invited {
                    // It is reached by another Tox ID now, was taken away and is back, or lets us in now.
                    (owner.id, owner.added, owner.invite) = (id, row.added, row.invite);
                    if let Some(client) = owner.client.take() {
                        client.handle.close();
                    }
                    if std::mem::take(&mut owner.up) {
                        owner.since = Some(now);
                        self.inbox.handle(now_ms, inbox::Input::Down(row.key));
                    }
                }
                owner.in_use = chosen.contains(&row.key);
            }
            let after = self.in_use();
            if before != after {
                // A lane that is being taken back would begin anew.
                let live = self.offered.iter().filter(|(_, offered)| !offered.ended);
                let peers: Vec<PublicKey> = live.map(|(peer, _)| *peer).collect();
                for peer in peers {
                    let lane = inbox::Input::Lane {
                        peer,
                        relays: after.clone(),
                        open: super::lanes::OPEN,
                        windows: Default::default(),
                    };
                    self.inbox.handle(self.now(), lane);
                }
            }
        }
        Ok(())
    }

    fn open_owner(&mut self, row: RelayRow, clients: &mut ClientNumber) {
        let Some(owner) = self.owners.get(&row.key) else { return };
        let invite = row.invite.map(Invite);
        let opening = Opening {
            relay: Descriptor { id: owner.id, key: row.key },
            admission: Box::new(move |_| Admission::Owner(invite.clone())),
            savedata: row.savedata,
            ..self.opening(Descriptor { id: owner.id, key: row.key })
        };
        let client = self.open(opening, clients);
        if let Some(owner) = self.owners.get_mut(&row.key) {
            owner.client = client;
        }
    }

    pub(super) fn opening(&self, relay: Descriptor) -> Opening {
        let config = self.shared.live.get();
        Opening {
            relay,
            admission: Box::new(|_| Admission::Owner(None)),
            savedata: None,
            options: run::tox_options(&config.tox),
            nodes: config.tox.bootstrap.clone(),
            resolve: config.tox.resolves(),
            give_up: None,
        }
    }

    pub(super) fn open(&self, opening: Opening, clients: &mut ClientNumber) -> Option<Client> {
        *clients += 1;
        let (number, handle) = (*clients, self.shared.handle.clone());
        match relay_client::open(opening, move |event| handle.send(Message::Client(number, event))) {
            Ok(handle) => Some(Client { number, handle }),
            Err(error) => {
                log::error!("{}: cannot begin with a relay: {error}", self.name);
                None
            }
        }
    }

    /// Asks something of a relay where we are an owner; without effect while no client runs.
    pub(super) fn ask_relay(&self, relay: RelayKey, command: Command) {
        if let Some(client) = self.owners.get(&relay).and_then(|owner| owner.client.as_ref()) {
            client.handle.send(command);
        }
    }

    /// A relay where we are an owner has something to tell.
    pub(super) fn on_owner(&mut self, relay: RelayKey, event: ClientEvent) {
        let (now, seconds) = (self.now(), self.seconds());
        let short = relay.short();
        let event = match event {
            ClientEvent::Session(event) => match self.on_reception(relay, event) {
                Some(event) => ClientEvent::Session(event),
                None => return,
            },
            event => event,
        };
        let slots = |account: &Self, ids: &[SlotId]| -> Vec<(PublicKey, Place)> {
            ids.iter().filter_map(|id| account.slot(relay, *id)).collect()
        };
        match event {
            ClientEvent::Made(savedata) => {
                self.shared.store.relay_pseudonym(&self.name, relay, savedata, seconds);
                self.inbox.handle(now, inbox::Input::Fresh(relay));
                self.reception.forget(relay);
            }
            ClientEvent::Closed(why) => {
                log::warn!("{}: relay {short}: {why}", self.name);
                let Some(owner) = self.owners.get_mut(&relay) else { return };
                owner.client = None;
                owner.error = Some(why);
                if std::mem::take(&mut owner.up) {
                    self.inbox.handle(now, inbox::Input::Down(relay));
                }
            }
            ClientEvent::Session(event) => match event {
                Event::Up(welcome) => {
                    if !welcome.owner {
                        let text = "does not know this account as an owner: ask for an invite";
                        log::warn!("{}: relay {short} {text}", self.name);
                        if let Some(owner) = self.owners.get_mut(&relay) {
                            owner.error = Some(text.into());
                        }
                        return;
                    }
                    log::info!("{}: relay {short} is up", self.name);
                    self.shared.store.relay_seen(&self.name, relay, seconds);
                    if let Some(owner) = self.owners.get_mut(&relay) {
                        (owner.up, owner.since, owner.error) = (true, Some(seconds), None);
                    }
                    self.inbox.handle(now, inbox::Input::Up { relay, max_slots: welcome.max_slots });
                }
                Event::Down => {
                    let Some(owner) = self.owners.get_mut(&relay) else { return };
                    if std::mem::take(&mut owner.up) {
                        owner.since = Some(seconds);
                        log::info!("{}: relay {short} is down", self.name);
                        self.inbox.handle(now, inbox::Input::Down(relay));
                    }
                }
                Event::Registered(ids) => {
                    let slots = slots(self, &ids);
                    self.inbox.handle(now, inbox::Input::Registered { relay, slots });
                }
                Event::NotRegistered(ids, code, text) => {
                    if let Some(owner) = self.owners.get_mut(&relay) {
                        owner.error = Some(text.clone());
                    }
                    log::warn!("{}: relay {short} takes no more slots: {text}", self.name);
                    let slots = slots(self, &ids);
                    self.inbox.handle(now, inbox::Input::NotRegistered { relay, slots, code });
                }
                Event::Unregistered(ids) => {
                    let slots = slots(self, &ids);
                    self.inbox.handle(now, inbox::Input::Unregistered { relay, slots });
                }
                // Tried again when the session is up anew.
                Event::NotUnregistered(..) => {}
                Event::Listed(filled) => {
                    let ids: Vec<SlotId> = filled.iter().map(|(id, _)| *id).collect();
                    let filled = slots(self, &ids);
                    self.inbox.handle(now, inbox::Input::Listed { relay, filled });
                }
                Event::NotListed => self.inbox.handle(now, inbox::Input::NotListed(relay)),
                Event::Arrived(id, _) => {
                    if let Some((peer, place)) = self.slot(relay, id) {
                        self.inbox.handle(now, inbox::Input::Arrived { peer, place });
                    }
                }
                Event::Content(id, octets) => {
                    if let Some((peer, place)) = self.slot(relay, id) {
                        self.on_content(peer, place, &octets);
                    }
                }
                Event::Gone(id) => {
                    if let Some((peer, place)) = self.slot(relay, id) {
                        self.inbox.handle(now, inbox::Input::Gone { peer, place });
                    }
                }
                Event::Refused { slot, code, text } => {
                    log::debug!("{}: relay {short} refuses: {text}", self.name);
                    if let Some((peer, place)) = self.slot(relay, slot) {
                        self.inbox.handle(now, inbox::Input::Refused { peer, place, code });
                    }
                }
                Event::Note(text) => log::warn!("{}: relay {short}: {text}", self.name),
                Event::Stored { .. } => {}
            },
        }
    }

    /// Goes to a relay of a contact, vouched for by one of the contact's slots.
    pub(super) fn visit(&mut self, relay: RelayKey, peer: PublicKey, place: Place, clients: &mut ClientNumber) {
        let Some(followed) = self.followed.get(&peer) else { return };
        let Some(found) = followed.offer.relays.iter().find(|offered| offered.key == relay) else { return };
        let key = followed.offer.seed.slot(&place.relay, place.class, place.number);
        let descriptor = Descriptor { id: found.id, key: relay };
        let opening = Opening {
            admission: Box::new(move |own| Admission::visitor(&key, &relay, own)),
            ..self.opening(descriptor)
        };
        if let Some(client) = self.open(opening, clients) {
            self.visits.insert((relay, peer), Visit { client, up: false, slots: HashMap::new() });
        }
    }

    /// A relay of a contact has something to tell.
    pub(super) fn on_visit(&mut self, relay: RelayKey, peer: PublicKey, event: ClientEvent) {
        let now = self.now();
        let Some(visit) = self.visits.get_mut(&(relay, peer)) else { return };
        let input = match event {
            // Thrown away with the visit.
            ClientEvent::Made(_) => return,
            ClientEvent::Closed(why) => {
                log::debug!("{}: visit to relay {} ended: {why}", self.name, relay.short());
                self.visits.remove(&(relay, peer));
                Some(outbox::Input::Session { relay, peer, up: false })
            }
            ClientEvent::Session(Event::Up(_)) => {
                visit.up = true;
                Some(outbox::Input::Session { relay, peer, up: true })
            }
            ClientEvent::Session(Event::Down) => {
                visit.up = false;
                Some(outbox::Input::Session { relay, peer, up: false })
            }
            ClientEvent::Session(Event::Stored { slot, expiry, .. }) => {
                let until = expiry.saturating_mul(1000);
                visit.slots.get(&slot).map(|place| outbox::Input::Stored { peer, place: *place, until })
            }
            ClientEvent::Session(Event::Refused { slot, code, text }) => {
                log::debug!("{}: relay {} refuses: {text}", self.name, relay.short());
                visit.slots.get(&slot).map(|place| outbox::Input::Refused { peer, place: *place, code })
            }
            ClientEvent::Session(Event::Gone(slot)) => {
                visit.slots.get(&slot).map(|place| outbox::Input::Gone { peer, place: *place })
            }
            ClientEvent::Session(Event::Note(text)) => {
                log::warn!("{}: relay {}: {text}", self.name, relay.short());
                None
            }
            ClientEvent::Session(_) => None,
        };
        if let Some(input) = input {
            self.outbox.handle(now, input);
        }
    }

    /// What is to be shown of the account's relays.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn lines(&self, reader: &Reader) -> rusqlite::Result<Vec<RelayLine>> {
        let line = |row: RelayRow| {
            let id = ToxId::from_octets(&<[u8; 38]>::try_from(&row.id[..]).ok()?).ok()?;
            let owner = self.owners.get(&row.key);
            Some(RelayLine {
                account: self.name.clone(),
                relay: Descriptor { id, key: row.key },
                offered: row.offered_by.is_some(),
                up: owner.filter(|owner| owner.client.is_some()).map(|owner| owner.up),
                since: owner.and_then(|owner| owner.since).or(row.seen),
                error: owner.and_then(|owner| owner.error.clone()),
            })
        };
        Ok(reader.relays(&self.name)?.into_iter().filter_map(line).collect())
    }
}

/// Which relays are used: those that the operator told, up to what an offer names; then those that contacts offer, up to
/// [`ENOUGH`]. Those that have not answered for long come last.
fn choose(rows: &[RelayRow], wanted: Relays, now: i64) -> Vec<RelayKey> {
    let lost = |row: &&RelayRow| row.seen.unwrap_or(row.added) < now - LOST;
    let told = rows.iter().filter(|row| row.offered_by.is_none());
    let mut told: Vec<&RelayRow> = told.take_while(|_| wanted != Relays::None).collect();
    told.sort_by_key(lost);
    told.truncate(MOST_OFFERED);
    let mut offered: Vec<&RelayRow> =
        rows.iter().filter(|row| row.offered_by.is_some() && wanted == Relays::Auto).collect();
    offered.sort_by_key(lost);
    let good = told.iter().filter(|row| !lost(row)).count();
    offered.truncate(ENOUGH.saturating_sub(good).min(MOST_OFFERED - told.len()));
    told.into_iter().chain(offered).map(|row| row.key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 100 * 86_400;

    fn row(key: u8, offered: bool, seen: i64) -> RelayRow {
        RelayRow {
            key: RelayKey([key; 32]),
            id: Vec::new(),
            invite: None,
            offered_by: offered.then_some(PublicKey([9; 32])),
            savedata: None,
            pseudonym: None,
            added: NOW - 50 * 86_400,
            seen: Some(seen),
        }
    }

    fn chosen(rows: &[RelayRow], wanted: Relays) -> Vec<u8> {
        choose(rows, wanted, NOW).iter().map(|key| key.0[0]).collect()
    }

    #[test]
    fn told_relays_come_first_and_offered_ones_fill_up_to_three() {
        let rows = [row(1, false, NOW), row(2, true, NOW), row(3, true, NOW), row(4, true, NOW)];
        assert_eq!(chosen(&rows, Relays::Auto), [1, 2, 3]);
        assert_eq!(chosen(&rows, Relays::Own), [1]);
        assert!(chosen(&rows, Relays::None).is_empty());
        let many: Vec<RelayRow> = (1..9).map(|key| row(key, false, NOW)).collect();
        assert_eq!(chosen(&many, Relays::Auto), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_relay_that_is_lost_is_made_up_for() {
        let rows = [
            row(1, false, NOW - 2 * LOST),
            row(2, true, NOW - 2 * LOST),
            row(3, true, NOW),
            row(4, true, NOW),
            row(5, true, NOW),
        ];
        assert_eq!(chosen(&rows, Relays::Auto), [1, 3, 4, 5]);
    }
}
