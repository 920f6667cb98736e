//! Lanes: making and offering those that contacts may write, following those that contacts offer, and the words about them on
//! the link (`docs/protocol.md`, 5.3).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::account::Account;
use super::clients::MOST_OFFERED;
use super::{Message, random};
use crate::agent::account::Command;
use crate::engine::transfer::{MailId, Outcome};
use crate::engine::wire::MAX_WORD;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, LaneSeed, MailKey, PreKeySecret, RelayKey};
use crate::lane::offer::{InvalidOffer, LaneId, Offer, PreKey, RelayRef};
use crate::lane::parcel::{Item, Parcel};
use crate::relay::descriptor::{Descriptor, Invite};
use crate::relay::{inbox, outbox};
use crate::store::{self, LaneIn, LaneOut, RENEW, Reader, RelayRow};

/// The kinds of words about lanes.
const OFFER: u64 = 0;
const SEEN: u64 = 1;
const ITEMS: u64 = 2;
const RELAY: u64 = 3;
const WANT: u64 = 4;
const INVITED: u64 = 5;

/// How soon a contact that wants to use our relay gets another invite, in seconds.
const INVITE_AGAIN: i64 = 3600;
/// How many words with items are said in a session; more than [`crate::engine::link::MAX_WORDS`] of all kinds break it.
const MOST_ITEMS: u32 = crate::engine::link::MAX_WORDS - 200;
const DAY: i64 = 86_400;
/// How old it gets before its secret is destroyed, in seconds.
pub(super) const DESTROY: i64 = 30 * DAY;
/// How many slots of each class are kept open for a contact at each relay, from 16 KiB to 4 MiB: what a contact can send
/// while we are away. A relay lets an owner have some thousand slots, which so are enough for some eighty contacts.
pub(super) const OPEN: [u32; 5] = [32, 16, 8, 8, 8];

/// A lane that a contact may write.
pub(super) struct Offered {
    pub lane: LaneId,
    pub seed: LaneSeed,
    pub serial: u64,
    pub seen: u64,
    pub relays: Vec<RelayRef>,
    /// Number, secret and age (seconds of the wall clock) of what mail is sealed to, the newest last.
    pub pre_keys: Vec<(u32, PreKeySecret, i64)>,
    /// Relays where its slots are registered.
    pub ready: HashSet<RelayKey>,
    /// Whether the contact is none any more: its slots are being taken back.
    pub ended: bool,
}

/// A lane that a contact lets us write.
pub(super) struct Followed {
    pub offer: Offer,
}

impl Followed {
    /// Whether mail may be sealed for it: it names relays, and the contact has the secret to open it, at this time in seconds
    /// of the wall clock.
    pub fn is_open(&self, now: i64) -> bool {
        !self.offer.relays.is_empty() && u64::try_from(now).unwrap_or(0) < self.offer.pre_key.not_after
    }
}

impl Account {
    /// Takes the lanes over from the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn load_lanes(&mut self, reader: &Reader) -> anyhow::Result<()> {
        let mut windows: HashMap<PublicKey, BTreeMap<(RelayKey, Class), inbox::Window>> = HashMap::new();
        for line in reader.windows(&self.name)? {
            windows.entry(line.peer).or_default().insert((line.relay, line.class), line.window);
        }
        let mut pre_keys: HashMap<PublicKey, Vec<(u32, PreKeySecret, i64)>> = HashMap::new();
        for key in reader.pre_keys(&self.name)? {
            pre_keys.entry(key.peer).or_default().push((key.id, key.secret, key.made));
        }
        let now = self.now();
        let mut contacts: HashSet<PublicKey> =
            reader.contacts(Some(&self.name))?.into_iter().map(|contact| contact.key).collect();
        // Who is blocked is a contact still, but his lanes ended when he was.
        for (_, peer, _) in reader.blocked(Some(&self.name))? {
            contacts.remove(&peer);
        }
        for LaneIn { peer, lane, seed, serial, seen, relays } in reader.lanes_in(&self.name)? {
            let relays: Vec<RelayRef> = relays.chunks(70).filter_map(RelayRef::from_octets).collect();
            let windows = windows.remove(&peer).unwrap_or_default();
            let ready =
                windows.iter().filter(|(_, window)| window.registered > window.low).map(|((relay, _), _)| *relay);
            let offered = Offered {
                lane: LaneId(lane),
                seed,
                serial,
                seen,
                ready: ready.collect(),
                pre_keys: pre_keys.remove(&peer).unwrap_or_default(),
                relays: relays.clone(),
                ended: !contacts.contains(&peer),
            };
            for ((relay, class), window) in &windows {
                self.name_slots(peer, &offered.seed, *relay, *class, window.low..window.registered);
            }
            self.offered.insert(peer, offered);
            let relays = relays.iter().map(|relay| relay.key).collect();
            self.inbox.handle(now, inbox::Input::Lane { peer, relays, open: OPEN, windows });
            if !contacts.contains(&peer) {
                self.inbox.handle(now, inbox::Input::LaneGone(peer));
            }
        }
        for line in reader.lanes_out(&self.name)? {
            if !contacts.contains(&line.peer) {
                // The agent ended before it could forget them. With slots to be taken back they are forgotten after that.
                if !self.offered.contains_key(&line.peer) {
                    self.shared.store.forget_lanes(&self.name, line.peer)?;
                }
                continue;
            }
            match Offer::from_octets(&line.offer, &self.own, Some(&line.key)) {
                Ok(offer) => drop(self.followed.insert(line.peer, Followed { offer })),
                Err(error) => log::error!("{}: the lane of {} in the store: {error}", self.name, line.peer),
            }
        }
        for (relay, at) in reader.contacts_relays_seen(&self.name)? {
            self.outbox.handle(now, outbox::Input::Seen { relay, at: u64::try_from(at).unwrap_or(0) });
        }
        let mut next: HashMap<PublicKey, BTreeMap<(RelayKey, Class), u64>> = HashMap::new();
        for line in reader.slot_numbers(&self.name)? {
            next.entry(line.peer).or_default().insert((line.relay, line.class), line.next);
        }
        for (peer, followed) in &self.followed {
            let relays = followed.offer.relays.iter().map(|relay| relay.key).collect();
            let next = next.remove(peer).unwrap_or_default();
            self.outbox.handle(now, outbox::Input::Lane { peer: *peer, relays, next });
        }
        Ok(())
    }

    /// The link with a contact is up: offers it a lane, tells what is known of its own, and gives the receipts that are owed.
    ///
    /// # Errors
    /// The store fails or the system has no randomness.
    pub(super) fn greet(&mut self, peer: PublicKey) -> anyhow::Result<()> {
        if self.config().is_none_or(|config| config.relays == crate::config::Relays::None) {
            return Ok(());
        }
        self.make_lane(peer)?;
        self.say_offer(peer);
        if let Some(followed) = self.followed.get(&peer) {
            self.say(peer, SEEN, followed.offer.serial.to_be_bytes().to_vec());
        }
        if let Some(relay) = self.offered_relay() {
            self.say(peer, RELAY, relay.descriptor().octets().to_vec());
        }
        let reader = Reader::open(&self.shared.state_dir)?;
        let owed = reader.receipts_of(&self.name, &peer)?;
        let items = owed.iter().flat_map(|receipt| Parcel::items(&receipt.item)).collect();
        self.say_items(peer, items);
        Ok(())
    }

    /// Makes the lane that a contact may write, if there is none.
    ///
    /// # Errors
    /// The store fails or the system has no randomness.
    pub(super) fn make_lane(&mut self, peer: PublicKey) -> anyhow::Result<()> {
        if self.offered.get(&peer).is_some_and(|offered| offered.ended) {
            // A contact again, before all of the earlier lane was taken back.
            self.shared.store.forget_lanes(&self.name, peer)?;
            self.offered.remove(&peer);
        }
        if !self.offered.contains_key(&peer) {
            let (lane, mut seed) = (LaneId(random()?), random()?);
            let seed = LaneSeed::new(&mut seed);
            let offered = Offered {
                lane,
                seed,
                serial: u64::try_from(self.seconds()).unwrap_or(0),
                seen: 0,
                relays: Vec::new(),
                pre_keys: Vec::new(),
                ready: HashSet::new(),
                ended: false,
            };
            self.offered.insert(peer, offered);
            self.keep_offer(peer)?;
            self.new_pre_key(peer)?;
            let relays = self.in_use();
            let lane = inbox::Input::Lane { peer, relays, open: OPEN, windows: BTreeMap::new() };
            self.inbox.handle(self.now(), lane);
        }
        Ok(())
    }

    /// Says a word to a contact whose link is up.
    pub(super) fn say(&self, peer: PublicKey, kind: u64, octets: Vec<u8>) {
        self.tox.send(Command::SayLane(peer, kind, octets));
    }

    /// Says by the link what else goes in control parcels, as far as the peer listens; a receipt that he is not told is owed
    /// still.
    pub(super) fn say_items(&mut self, peer: PublicKey, items: Vec<Item>) {
        for parcel in Parcel::pack_into(items, MAX_WORD) {
            if !self.listens(&peer) {
                return;
            }
            *self.said.entry(peer).or_default() += 1;
            self.say(peer, ITEMS, parcel.head());
        }
    }

    /// Whether a contact whose mail link is up may be told more items in this session.
    pub(super) fn listens(&self, peer: &PublicKey) -> bool {
        self.online.contains(peer) && self.said.get(peer).is_none_or(|said| *said < MOST_ITEMS)
    }

    fn say_offer(&self, peer: PublicKey) {
        if let Some(octets) = self.offer(&peer) {
            self.say(peer, OFFER, octets.to_vec());
        }
    }

    /// The offer of the lane that a contact may write, signed.
    pub(super) fn offer(&self, peer: &PublicKey) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        let offered = self.offered.get(peer)?;
        let (id, secret, made) = offered.pre_keys.last()?;
        let config = self.shared.live.get();
        let offer = Offer {
            lane: offered.lane,
            serial: offered.serial,
            to: *peer,
            seed: LaneSeed::new(&mut offered.seed.expose().to_owned()),
            relays: offered.relays.clone(),
            open: OPEN,
            pre_key: PreKey { id: *id, key: secret.public(), not_after: u64::try_from(made + DESTROY).unwrap_or(0) },
            max_mail: config.delivery.max_size,
            key: self.secret.public(),
            receipts: self.config().is_some_and(|config| config.receipts),
        };
        Some(offer.to_octets(&self.secret))
    }

    fn keep_offer(&self, peer: PublicKey) -> anyhow::Result<()> {
        let Some(offered) = self.offered.get(&peer) else { return Ok(()) };
        let lane = LaneIn {
            peer,
            lane: offered.lane.0,
            seed: LaneSeed::new(&mut offered.seed.expose().to_owned()),
            serial: offered.serial,
            seen: offered.seen,
            relays: offered.relays.iter().flat_map(RelayRef::octets).collect(),
        };
        Ok(self.shared.store.put_lane_in(&self.name, &lane)?)
    }

    fn new_pre_key(&mut self, peer: PublicKey) -> anyhow::Result<()> {
        let made = self.seconds();
        let (name, store) = (self.name.clone(), self.shared.store.clone());
        let Some(offered) = self.offered.get_mut(&peer) else { return Ok(()) };
        // As with serials: never one that was used, whatever state was restored.
        let least = u32::try_from(made).unwrap_or(0);
        let id = offered.pre_keys.last().map_or(least, |(id, ..)| least.max(id + 1));
        let secret = PreKeySecret::new(&mut random()?);
        let kept = PreKeySecret::new(&mut secret.expose().to_owned());
        store.put_pre_key(&name, &store::PreKey { peer, id, secret: kept, made }, made - DESTROY + 1)?;
        offered.pre_keys.retain(|(.., age)| made - age < DESTROY);
        offered.pre_keys.push((id, secret, made));
        Ok(())
    }

    /// The mail key of a contact: of its offers, or of the invitation that it was found by.
    pub(super) fn mail_key(&self, peer: &PublicKey) -> Option<MailKey> {
        let followed = self.followed.get(peer).map(|followed| followed.offer.key);
        followed.or_else(|| self.introductions.mail_key(peer))
    }

    /// Makes new pre-keys where the last is a week old, and destroys those that are 30 days old.
    ///
    /// # Errors
    /// The store fails or the system has no randomness.
    pub(super) fn renew_keys(&mut self) -> anyhow::Result<()> {
        let now = self.seconds();
        // Made while the clock was ahead: due now, or they would be neither renewed nor destroyed.
        let ahead = |made: &i64| *made > now + DAY;
        if self.offered.values().any(|offered| offered.pre_keys.iter().any(|(.., made)| ahead(made))) {
            self.shared.store.pre_keys_are_due(now, now + DAY)?;
            let keys = self.offered.values_mut().flat_map(|offered| &mut offered.pre_keys);
            keys.filter(|(.., made)| ahead(made)).for_each(|(.., made)| *made = now - RENEW);
        }
        let due =
            |offered: &Offered| !offered.ended && offered.pre_keys.last().is_none_or(|(.., made)| now - made >= RENEW);
        let old: Vec<PublicKey> = self.offered.iter().filter(|(_, lane)| due(lane)).map(|(peer, _)| *peer).collect();
        for peer in old {
            self.new_pre_key(peer)?;
            self.new_serial(peer)?;
        }
        let dead = |offered: &Offered| offered.pre_keys.iter().any(|(.., made)| now - made >= DESTROY);
        if self.offered.values().any(dead) {
            self.shared.store.destroy_pre_keys(now - DESTROY + 1);
            self.offered.values_mut().for_each(|lane| lane.pre_keys.retain(|(.., made)| now - made < DESTROY));
        }
        Ok(())
    }

    fn new_serial(&mut self, peer: PublicKey) -> anyhow::Result<()> {
        // Larger than any before, also one that a state restored from a backup does not know of.
        let now = u64::try_from(self.seconds()).unwrap_or(0);
        if let Some(offered) = self.offered.get_mut(&peer) {
            offered.serial = now.max(offered.serial + 1);
        }
        self.keep_offer(peer)?;
        if self.online.contains(&peer) {
            self.say_offer(peer);
        }
        Ok(())
    }

    /// Offers the relays where the slots of a lane are registered, if they are others than before.
    ///
    /// # Errors
    /// The store fails.
    pub(super) fn sync_offers(&mut self) -> anyhow::Result<()> {
        let mut changed = Vec::new();
        for (peer, offered) in self.offered.iter_mut().filter(|(_, offered)| !offered.ended) {
            let usable = |key: &RelayKey| offered.ready.contains(key);
            let now: Vec<RelayRef> = self
                .owners
                .iter()
                .filter(|(key, owner)| owner.in_use && usable(key))
                .map(|(key, owner)| RelayRef { id: owner.id, key: *key })
                .take(MOST_OFFERED)
                .collect();
            if now != offered.relays {
                offered.relays = now;
                changed.push(*peer);
            }
        }
        changed.into_iter().try_for_each(|peer| self.new_serial(peer))
    }

    /// A contact says something about lanes over the link, which proves that it is the contact.
    pub(super) fn on_word(&mut self, peer: PublicKey, kind: u64, octets: &[u8]) {
        let Some(config) = self.config() else { return };
        if config.relays == crate::config::Relays::None {
            return;
        }
        match kind {
            OFFER => {
                self.on_offer(peer, octets, true);
            }
            SEEN => {
                if let Ok(serial) = octets.try_into() {
                    self.on_seen(peer, u64::from_be_bytes(serial));
                }
            }
            ITEMS => self.on_items(peer, Parcel::items(octets), true),
            RELAY if self.wants_relay(&config) => {
                // Where we are an owner already, an invite is of no use.
                let at_home = |relay: &Descriptor| self.owners.get(&relay.key).is_some_and(|owner| owner.up);
                if let Ok(relay) = octets.try_into()
                    && Descriptor::from_octets(octets).is_some_and(|relay| !at_home(&relay))
                {
                    self.wanted.insert(peer, relay);
                    self.say(peer, WANT, octets.to_vec());
                }
            }
            WANT => self.on_want(peer, octets),
            INVITED => self.on_invited(peer, octets, &config),
            _ => {}
        }
    }

    /// A contact has offered its relay, and this account has too few.
    fn wants_relay(&self, config: &crate::config::Account) -> bool {
        let used = self.owners.values().filter(|owner| owner.in_use).count();
        config.relays == crate::config::Relays::Auto && used < super::clients::ENOUGH
    }

    /// The relay that this agent is, if contacts are told of it.
    fn offered_relay(&self) -> Option<&crate::agent::relay_role::RelayHandle> {
        self.shared.relay.as_deref().filter(|relay| relay.offers_to_contacts())
    }

    fn on_want(&mut self, peer: PublicKey, octets: &[u8]) {
        // Each invite is kept, and there are only so many.
        let now = self.seconds();
        if self.invited.get(&peer).is_some_and(|at| now - at < INVITE_AGAIN) {
            return;
        }
        let Some(relay) = self.offered_relay() else { return };
        let descriptor = relay.descriptor();
        if octets != descriptor.octets() {
            return;
        }
        let invite = relay.invite(None);
        self.invited.insert(peer, now);
        match invite {
            Ok(invite) => self.say(peer, INVITED, [octets, &invite.0].concat()),
            Err(error) => log::warn!("{}: cannot invite a contact to the relay: {error:#}", self.name),
        }
    }

    fn on_invited(&mut self, peer: PublicKey, octets: &[u8], config: &crate::config::Account) {
        let Some((relay, invite)) = octets.split_last_chunk::<16>() else { return };
        // What nobody asked for is none of his to give.
        if self.wanted.remove(&peer).is_none_or(|wanted| wanted != relay) {
            return;
        }
        let Some(relay) = Descriptor::from_octets(relay) else { return };
        let own = self.shared.relay.as_ref().is_some_and(|own| own.descriptor().key == relay.key);
        if own || !self.wants_relay(config) {
            return;
        }
        let row = RelayRow {
            key: relay.key,
            id: relay.id.octets().to_vec(),
            invite: Some(Invite(*invite).0),
            offered_by: Some(peer),
            savedata: None,
            pseudonym: None,
            added: self.seconds(),
            seen: None,
        };
        match self.shared.store.put_relay(&self.name, row) {
            Ok(false) => {}
            Ok(true) => {
                log::info!("{}: a contact offers relay {}: it is used", self.name, relay.key.short());
                self.relays_changed();
            }
            Err(error) => log::error!("{}: cannot keep a relay: {error}", self.name),
        }
    }

    /// A contact offers a lane; `direct`: over the link. `false`: it could not be stored.
    pub(super) fn on_offer(&mut self, peer: PublicKey, octets: &[u8], direct: bool) -> bool {
        let before = self.followed.get(&peer).map(|followed| &followed.offer);
        let pinned = self.mail_key(&peer);
        let offer = match Offer::from_octets(octets, &self.own, pinned.as_ref()) {
            Err(InvalidOffer::OtherKey) if direct => {
                // The link proves the contact's Tox key, which is what vouched for the first one.
                log::warn!("{}: contact {peer} has a new mail key", self.name);
                Offer::from_octets(octets, &self.own, None)
            }
            result => result,
        };
        let offer = match offer {
            Ok(offer) => offer,
            Err(error) => {
                log::warn!("{}: contact {peer} offers a lane that is not followed: {error}", self.name);
                return true;
            }
        };
        let same_key = pinned.is_some_and(|pinned: MailKey| pinned == offer.key);
        if same_key && before.is_some_and(|before| offer.serial <= before.serial) {
            if direct {
                let serial = before.map_or(0, |before| before.serial);
                self.say(peer, SEEN, serial.to_be_bytes().to_vec());
            }
            return true;
        }
        let known = before.is_some();
        let lane = LaneOut {
            peer,
            key: offer.key,
            serial: offer.serial,
            relays: u32::try_from(offer.relays.len()).unwrap_or(u32::MAX),
            offer: octets.to_vec(),
        };
        let anew = before.is_none_or(|before| before.seed.expose() != offer.seed.expose());
        let kept = self.shared.store.put_lane_out(&self.name, lane, anew, self.seconds());
        if let Err(error) = kept {
            log::error!("{}: cannot keep the lane of {peer}: {error}", self.name);
            return false;
        }
        let now = self.now();
        if known && anew {
            self.outbox.handle(now, outbox::Input::LaneGone(peer));
        }
        let relays: Vec<RelayKey> = offer.relays.iter().map(|relay| relay.key).collect();
        log::info!("{}: mail for contact {} may wait at {} relays", self.name, peer.short(), relays.len());
        let serial = offer.serial;
        self.followed.insert(peer, Followed { offer });
        self.gathered.remove(&peer);
        self.outbox.handle(now, outbox::Input::Lane { peer, relays, next: BTreeMap::new() });
        self.full.insert(peer);
        if direct {
            self.say(peer, SEEN, serial.to_be_bytes().to_vec());
        }
        true
    }

    fn on_seen(&mut self, peer: PublicKey, serial: u64) {
        let Some(offered) = self.offered.get_mut(&peer) else { return };
        if serial <= offered.serial && serial > offered.seen {
            offered.seen = serial;
            if let Err(error) = self.keep_offer(peer) {
                log::error!("{}: cannot keep a lane: {error:#}", self.name);
            }
        }
    }

    /// What a contact tells apart from mail; `direct`: over the link.
    pub(super) fn on_items(&mut self, peer: PublicKey, items: Vec<Item>, direct: bool) {
        for item in items {
            match item {
                Item::Receipt { id, index, outcome, .. } => {
                    if matches!(&outcome, Outcome::Refused(refusal) if !refusal.is_permanent()) {
                        continue;
                    }
                    // Of what is no parcel of ours, a contact could have us remember any number.
                    if !direct && self.parcels.contains_key(&(peer, id)) {
                        self.answered.insert((peer, id));
                    }
                    self.shared.store.outcome(peer, id, index, outcome);
                    // Once that is on disk the contact may forget.
                    let tox = self.tox.clone();
                    self.shared.store.ping(move || tox.send(Command::Recorded(peer, id)));
                }
                // What could not be stored is offered again at the next link.
                Item::Offer(octets) => {
                    self.on_offer(peer, &octets, direct);
                }
                Item::Seen(serial) => self.on_seen(peer, serial),
                Item::Cancel(id) => self.settle(peer, id),
            }
        }
    }

    /// After what was said so far is in the store, a parcel needs no more parts.
    pub(super) fn settle_when_stored(&self, peer: PublicKey, parcel: MailId) {
        let (handle, number) = (self.shared.handle.clone(), self.number);
        self.shared.store.ping(move || handle.send(Message::Settled(number, peer, parcel)));
    }
}
