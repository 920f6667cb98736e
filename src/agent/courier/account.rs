//! What the courier knows of one account, and how its parts are driven.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::clients::{Owner, Visit};
use super::incoming::Assembling;
use super::introducing::Introductions;
use super::invitation::Reception;
use super::lanes::{Followed, Offered};
use super::outgoing::Gathered;
use super::{ClientNumber, Own, Shared, random};
use crate::agent::account::Handle as ToxHandle;
use crate::agent::partial::Partials;
use crate::agent::relay_client::ClientEvent;
use crate::config;
use crate::engine::transfer::MailId;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{MailSecret, RelayKey, SlotId};
use crate::relay::inbox::{self, Inbox};
use crate::relay::outbox::{self, Outbox};
use crate::relay::place::Place;
use crate::store::Reader;

/// How many parcels that are settled are remembered, to know further copies of them at once.
const SETTLED: usize = 4096;

/// Parcels in the order in which they were settled, at most [`SETTLED`].
#[derive(Default)]
pub(super) struct Settled {
    known: HashSet<(PublicKey, MailId)>,
    order: VecDeque<(PublicKey, MailId)>,
}

impl Settled {
    fn insert(&mut self, parcel: (PublicKey, MailId)) {
        if !self.known.insert(parcel) {
            return;
        }
        self.order.push_back(parcel);
        if self.order.len() > SETTLED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Whether the parcel was settled lately.
    pub fn contains(&self, parcel: &(PublicKey, MailId)) -> bool {
        self.known.contains(parcel)
    }
}

/// One account.
pub(super) struct Account {
    pub number: usize,
    pub name: String,
    /// Its Tox key.
    pub own: PublicKey,
    pub tox: ToxHandle,
    pub shared: Arc<Shared>,
    pub secret: MailSecret,
    /// Lanes that contacts may write.
    pub offered: HashMap<PublicKey, Offered>,
    /// Lanes that contacts let us write.
    pub followed: HashMap<PublicKey, Followed>,
    /// Contacts whose mail link is up.
    pub online: HashSet<PublicKey>,
    pub outbox: Outbox,
    pub inbox: Inbox,
    /// What both were last told.
    settings: (inbox::Settings, outbox::Settings),
    connected: Option<bool>,
    /// Relays where we are an owner.
    pub owners: BTreeMap<RelayKey, Owner>,
    /// Visits under way.
    pub visits: HashMap<(RelayKey, PublicKey), Visit>,
    /// Whose slots those are that a relay may name.
    pub slots: HashMap<(RelayKey, SlotId), (PublicKey, Place)>,
    /// Parcels of which parts have come.
    pub assembly: HashMap<(PublicKey, MailId), Assembling>,
    /// Parcels that need no more parts.
    pub settled: Settled,
    /// Parcels given to the outbox and not finished, and whether they carry the offer with this serial.
    pub parcels: HashMap<(PublicKey, MailId), Option<u64>>,
    /// Mails whose answer came by a relay.
    pub answered: HashSet<(PublicKey, MailId)>,
    /// How many words with items were said to contacts whose mail link is up.
    pub said: HashMap<PublicKey, u32>,
    /// The relays of contacts that we have asked them for.
    pub wanted: HashMap<PublicKey, [u8; 70]>,
    /// When contacts got an invite to our relay, in seconds of the wall clock.
    pub invited: HashMap<PublicKey, i64>,
    /// Contacts that mail may have come for which the outbox has no room.
    pub full: HashSet<PublicKey>,
    /// How far the queue was looked through for mail that is to be a parcel.
    pub gathered: HashMap<PublicKey, Gathered>,
    /// What the store had when parcels that nobody needs were last looked for ([`Reader::version`]).
    pub finished_at: Option<i64>,
    /// Who introduces himself to us.
    pub reception: Reception,
    /// To whom we introduce ourselves.
    pub introductions: Introductions,
    pub partials: Partials,
    /// Whether the relays to be used are to be chosen anew.
    pub choose: bool,
    pub chosen_at: Option<i64>,
    pub swept_at: Option<i64>,
}

impl Account {
    /// What the store has of it. A mail identity is made if there is none.
    ///
    /// # Errors
    /// The store or the state folder cannot be read or written.
    pub fn load(number: usize, own: Own, shared: Arc<Shared>, reader: &Reader) -> anyhow::Result<Self> {
        let Own { name, key: own, secret: tox_secret, tox } = own;
        let secret = match reader.mail_secret(&name)? {
            Some(secret) => secret,
            None => {
                let secret = MailSecret::new(&mut random()?);
                shared.store.put_mail_secret(&name, &secret)?;
                secret
            }
        };
        let now = u64::try_from(shared.clock.queue_ms()).unwrap_or(0);
        let settings = settings(&shared, &name);
        let mut account = Self {
            partials: Partials::new(shared.state_dir.join("incoming").join(&name))?,
            number,
            name,
            own,
            tox,
            shared,
            secret,
            offered: HashMap::new(),
            followed: HashMap::new(),
            online: HashSet::new(),
            outbox: Outbox::new(settings.1.clone(), random()?, now),
            inbox: Inbox::new(settings.0.clone(), random()?),
            settings,
            connected: None,
            owners: BTreeMap::new(),
            visits: HashMap::new(),
            slots: HashMap::new(),
            assembly: HashMap::new(),
            settled: Settled::default(),
            parcels: HashMap::new(),
            answered: HashSet::new(),
            said: HashMap::new(),
            wanted: HashMap::new(),
            invited: HashMap::new(),
            full: HashSet::new(),
            gathered: HashMap::new(),
            finished_at: None,
            reception: Reception::default(),
            introductions: Introductions::new(tox_secret),
            choose: true,
            chosen_at: None,
            swept_at: None,
        };
        account.load_lanes(reader)?;
        account.load_parcels(reader)?;
        account.load_reception(reader)?;
        account.load_introductions(reader)?;
        Ok(account)
    }

    /// The queue's time, in milliseconds.
    pub fn now(&self) -> u64 {
        u64::try_from(self.shared.clock.queue_ms()).unwrap_or(0)
    }

    /// The wall clock's, in seconds.
    pub fn seconds(&self) -> i64 {
        self.shared.clock.wall_ms() / 1000
    }

    /// Its configuration; `None` once it is not configured any more.
    pub fn config(&self) -> Option<config::Account> {
        self.shared.live.get().accounts.iter().find(|account| account.name == self.name).cloned()
    }

    /// When something is to be done without being told.
    pub fn deadline(&self) -> Option<u64> {
        [self.outbox.deadline(), self.inbox.deadline()].into_iter().flatten().min()
    }

    /// Carries out what is decided, until nothing more is.
    pub fn work(&mut self, reader: &Reader, clients: &mut ClientNumber) {
        let (mut out, mut inward) = (Vec::new(), Vec::new());
        loop {
            self.outbox.poll(self.now(), &mut out);
            self.inbox.poll(self.now(), &mut inward);
            if out.is_empty() && inward.is_empty() {
                return;
            }
            self.carry_out(std::mem::take(&mut out), reader, clients);
            self.carry_in(std::mem::take(&mut inward));
        }
    }

    /// What is to be looked at from time to time.
    pub fn look(&mut self, reader: &Reader, clients: &mut ClientNumber) {
        let connected = self.tox.snapshot().connection != crate::tox::Connection::Offline;
        self.adapt(self.now(), connected);
        let looked = (|| -> anyhow::Result<()> {
            self.choose_relays(reader, clients)?;
            self.renew_keys()?;
            self.sync_offers()?;
            self.receive(reader)?;
            self.introduce(clients)?;
            self.gather_mail(reader)?;
            self.gather_control(reader)?;
            self.find_finished(reader)
        })();
        if let Err(error) = looked {
            log::error!("{}: cannot look after mail at relays: {error:#}", self.name);
        }
    }

    /// Tells both sides of a change of the settings, or of whether the account is connected. Not when nothing changed: each
    /// time all is decided anew, and visits that did not come about get their whole time once more.
    pub(super) fn adapt(&mut self, now: u64, connected: bool) {
        let settings = settings(&self.shared, &self.name);
        if self.settings != settings {
            self.settings = settings.clone();
            self.inbox.set(settings.0);
            self.outbox.set(settings.1);
        }
        if self.connected != Some(connected) {
            self.connected = Some(connected);
            self.outbox.handle(now, outbox::Input::Connected(connected));
        }
    }

    /// Ends every client.
    pub fn close(&mut self) {
        self.owners.values().filter_map(|owner| owner.client.as_ref()).for_each(|client| client.handle.close());
        self.visits.values().for_each(|visit| visit.client.handle.close());
        self.introductions.close();
    }

    /// Whether this client is one of the account's.
    pub fn owns(&self, client: ClientNumber) -> bool {
        self.owners.values().any(|owner| owner.client.as_ref().is_some_and(|c| c.number == client))
            || self.visits.values().any(|visit| visit.client.number == client)
            || self.introductions.owns(client)
    }

    /// A client has something to tell.
    pub fn on_client(&mut self, client: ClientNumber, event: ClientEvent, clients: &mut ClientNumber) {
        if self.introductions.owns(client) {
            return self.on_call(client, event, clients);
        }
        let owner = self.owners.iter().find(|(_, owner)| owner.client.as_ref().is_some_and(|c| c.number == client));
        if let Some((relay, _)) = owner {
            return self.on_owner(*relay, event);
        }
        let visit = self.visits.iter().find(|(_, visit)| visit.client.number == client).map(|(whose, _)| *whose);
        if let Some((relay, peer)) = visit {
            self.on_visit(relay, peer, event);
        }
    }

    /// The link with a contact came up or went.
    pub fn on_link(&mut self, peer: PublicKey, up: bool) {
        if up {
            self.online.insert(peer);
        } else {
            self.online.remove(&peer);
        }
        self.said.remove(&peer);
        // What was being sent over the link waits again.
        self.gathered.remove(&peer);
        self.outbox.handle(self.now(), outbox::Input::Contact { peer, online: up });
        if up && let Err(error) = self.greet(peer) {
            log::error!("{}: cannot offer a lane: {error:#}", self.name);
        }
    }

    /// A contact is none any more.
    pub fn on_gone(&mut self, peer: PublicKey) {
        self.online.remove(&peer);
        self.wanted.remove(&peer);
        self.outbox.handle(self.now(), outbox::Input::LaneGone(peer));
        self.followed.remove(&peer);
        self.parcels.retain(|(of, _), _| *of != peer);
        self.answered.retain(|(of, _)| *of != peer);
        self.gathered.remove(&peer);
        self.full.remove(&peer);
        self.forget_introduction(peer);
        if let Some(offered) = self.offered.get_mut(&peer) {
            offered.ended = true;
            self.inbox.handle(self.now(), inbox::Input::LaneGone(peer));
        } else if let Err(error) = self.shared.store.forget_lanes(&self.name, peer) {
            log::error!("{}: cannot forget the lanes of {peer}: {error}", self.name);
        }
    }

    /// A parcel needs no more parts.
    pub fn settle(&mut self, peer: PublicKey, parcel: MailId) {
        self.drop_assembly(peer, parcel);
        self.settled.insert((peer, parcel));
        self.inbox.handle(self.now(), inbox::Input::Settled { peer, parcel });
    }
}

/// The settings of an account's two sides.
fn settings(shared: &Shared, name: &str) -> (inbox::Settings, outbox::Settings) {
    let config = shared.live.get();
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let poll = config.accounts.iter().find(|account| account.name == name).map(|account| account.relay_poll);
    let inward = inbox::Settings { poll: poll.map_or(600_000, milliseconds), ..Default::default() };
    (inward, outbox::Settings { relay_after: milliseconds(config.queue.relay_after), ..Default::default() })
}
