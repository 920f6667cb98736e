//! What is deposited at the relays of contacts: which mail and which words, and carrying out what the outbox decided.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::account::Account;
use super::incoming::parts;
use super::{ClientNumber, random};
use crate::engine::transfer::MailId;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::MailSecret;
use crate::lane::parcel::{self, Item, MailHead, Part};
use crate::lane::seal;
use crate::relay::outbox::{Action, Input, State};
use crate::relay::place::Place;
use crate::relay::session;
use crate::relay::wire::Code;
use crate::store::{Deposit, Parcel, ParcelBody, Reader, Waiting};

/// How many mails of a contact are made parcels in one look.
const GATHER: u32 = 64;
/// How many receipts that are owed to a contact are put into parcels in one look.
const GATHER_RECEIPTS: u32 = 500;
/// How often all of a contact's mail is looked through, in milliseconds: mail that was held, or being sent, or waited for its
/// name may be older than what was seen.
const LOOK_THROUGH: i64 = 30_000;
/// How long answers and offers wait for a contact at relays, in milliseconds.
const CONTROL_FOR: i64 = 14 * 86_400_000;
/// How long receipts are owed, in milliseconds.
const OWED_FOR: i64 = 30 * 86_400_000;
/// How long it is remembered when a relay of contacts was reached, in milliseconds.
const SEEN_FOR: i64 = 90 * 86_400_000;

/// How far a contact's mail was looked through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gathered {
    /// The row of the last mail seen.
    after: i64,
    /// When it was begun, in milliseconds of the queue clock.
    begun: i64,
    /// What the store had when the end was reached ([`Reader::version`]); `None` before that.
    version: Option<i64>,
}

impl Gathered {
    /// Where to go on at this time, with a store of this version; `None`: there can be nothing new.
    fn next(before: Option<Self>, now: i64, version: i64) -> Option<Self> {
        match before {
            Some(at) if at.version == Some(version) => None,
            Some(at) if at.version.is_none() || now - at.begun < LOOK_THROUGH => Some(at),
            _ => Some(Self { after: 0, begun: now, version: None }),
        }
    }
}

impl Account {
    /// Gives the outbox the parcels of the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn load_parcels(&mut self, reader: &Reader) -> anyhow::Result<()> {
        let now = self.now();
        for Deposit { peer, parcel, part, place, state } in reader.deposits(&self.name)? {
            self.outbox.handle(now, Input::Known { peer, id: parcel, part, place, state });
        }
        for parcel in reader.parcels(&self.name)? {
            if parcel.finished {
                self.outbox.handle(now, Input::Finished { peer: parcel.peer, id: parcel.id, tidy: true });
            } else {
                self.give(&parcel, None);
            }
        }
        Ok(())
    }

    /// Gives a parcel to the outbox, which may have no room for it yet.
    fn give(&mut self, parcel: &Parcel, offer: Option<u64>) {
        let Parcel { peer, id, .. } = *parcel;
        self.parcels.entry((peer, id)).or_insert(offer);
        let milliseconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let input = Input::Parcel {
            peer,
            id,
            parts: parts(parcel.octets).into_iter().map(|(class, _)| class).collect(),
            since: milliseconds(parcel.queued),
            expires: milliseconds(parcel.expires),
            control: parcel.mail.is_none(),
        };
        self.outbox.handle(self.now(), input);
    }

    /// Makes parcels of mail that waits for contacts who are offline and offer relays.
    ///
    /// # Errors
    /// The store fails.
    pub(super) fn gather_mail(&mut self, reader: &Reader) -> anyhow::Result<()> {
        let seconds = self.seconds();
        let again: Vec<PublicKey> = self.full.drain().collect();
        if !again.is_empty() {
            for parcel in reader.parcels(&self.name)? {
                if !parcel.finished && again.contains(&parcel.peer) {
                    self.give(&parcel, None);
                }
            }
        }
        let peers: Vec<PublicKey> = self
            .followed
            .iter()
            .filter(|(peer, followed)| followed.is_open(seconds) && !self.online.contains(*peer))
            .map(|(peer, _)| *peer)
            .filter(|peer| self.outbox.takes(peer))
            .collect();
        let (now, version) = (self.shared.clock.queue_ms(), reader.version()?);
        for peer in peers {
            let Some(mut at) = Gathered::next(self.gathered.get(&peer).copied(), now, version) else { continue };
            let newest = reader.newest_mail(&self.name, &peer)?;
            let page = reader.waiting(&self.name, &peer, at.after, GATHER)?;
            // What cannot go by relays is passed over, or it would be in the way of what came after it.
            match page.last() {
                Some(last) if page.len() >= GATHER as usize => (at.after, at.version) = (last.mail, None),
                _ => (at.after, at.version) = (newest.max(at.after), Some(version)),
            }
            for waiting in page {
                self.gather_one(peer, waiting)?;
            }
            self.gathered.insert(peer, at);
        }
        Ok(())
    }

    fn gather_one(&mut self, peer: PublicKey, waiting: Waiting) -> anyhow::Result<()> {
        let Some(followed) = self.followed.get(&peer) else { return Ok(()) };
        let Waiting { id, mail, sender, recipients, size, wire_size, digest, encoding, arrived, expires } = waiting;
        // What the contact does not take it says itself, when it is online.
        if size > followed.offer.max_mail {
            return Ok(());
        }
        let milliseconds = u64::try_from(expires).unwrap_or(0);
        let head = MailHead { id, sender, recipients, size, wire_size, digest, encoding, expires: milliseconds };
        let head = parcel::Parcel::Mail(head).head();
        let octets = head.len() as u64 + wire_size;
        if head.len() > parcel::MAX_HEAD || parts(octets).is_empty() {
            return Ok(());
        }
        let parcel = Parcel {
            peer,
            id,
            mail: Some(mail),
            head,
            octets,
            queued: arrived,
            expires,
            at_relays: None,
            finished: false,
        };
        self.shared.store.put_parcel(&self.name, parcel.clone(), Vec::new())?;
        self.give(&parcel, None);
        Ok(())
    }

    /// Makes parcels of receipts that are owed to contacts who are offline, and of offers that they do not have.
    ///
    /// # Errors
    /// The store fails or the system has no randomness.
    pub(super) fn gather_control(&mut self, reader: &Reader) -> anyhow::Result<()> {
        let Some(config) = self.config() else { return Ok(()) };
        let (now, seconds) = (self.shared.clock.queue_ms(), self.seconds());
        let delay = i64::try_from(config.receipt_delay.as_millis()).unwrap_or(i64::MAX);
        let owed = reader.owed(&self.name)?;
        let carried = self.carried();
        let reachable: Vec<PublicKey> = self
            .followed
            .iter()
            .filter(|(peer, followed)| followed.is_open(seconds) && !self.online.contains(*peer))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in reachable {
            let mut items = Vec::new();
            let mut carries = Vec::new();
            let receipts = match owed.contains(&peer) {
                true => reader.receipts_owed(&self.name, &peer, GATHER_RECEIPTS)?,
                false => Vec::new(),
            };
            for receipt in receipts {
                if now - receipt.made < wait_of(&self.secret, &receipt.transfer, delay) {
                    continue;
                }
                let more = parcel::Parcel::items(&receipt.item);
                if !more.is_empty() {
                    items.extend(more);
                    carries.push((receipt.transfer, receipt.number));
                }
            }
            let unseen =
                self.offered.get(&peer).filter(|offered| offered.seen < offered.serial).map(|lane| lane.serial);
            let unseen = unseen.filter(|serial| carried.get(&peer).is_none_or(|carried| carried < serial));
            if items.is_empty() && unseen.is_none() {
                continue;
            }
            if unseen.is_some() {
                items.extend(self.offer(&peer).map(Item::Offer));
            }
            items.extend(self.followed.get(&peer).map(|followed| Item::Seen(followed.offer.serial)));
            for control in parcel::Parcel::pack(items) {
                let head = control.head();
                let parcel::Parcel::Control(items) = &control else { continue };
                let here: Vec<(MailId, u32)> = items
                    .iter()
                    .filter_map(|item| match item {
                        Item::Receipt { id, index, .. } => Some((*id, *index)),
                        _ => None,
                    })
                    .filter(|receipt| carries.contains(receipt))
                    .collect();
                let parcel = Parcel {
                    peer,
                    id: MailId(random()?),
                    mail: None,
                    octets: head.len() as u64,
                    head,
                    queued: now,
                    expires: now + CONTROL_FOR,
                    at_relays: None,
                    finished: false,
                };
                self.shared.store.put_parcel(&self.name, parcel.clone(), here)?;
                self.give(&parcel, unseen);
            }
        }
        Ok(())
    }

    /// The newest offer on its way to each contact.
    fn carried(&self) -> HashMap<PublicKey, u64> {
        let mut carried: HashMap<PublicKey, u64> = HashMap::new();
        for ((peer, _), serial) in &self.parcels {
            if let Some(serial) = *serial {
                let newest = carried.entry(*peer).or_default();
                *newest = serial.max(*newest);
            }
        }
        carried
    }

    /// Finds the parcels that nobody needs any more.
    ///
    /// # Errors
    /// The store fails.
    pub(super) fn find_finished(&mut self, reader: &Reader) -> anyhow::Result<()> {
        let now = self.shared.clock.queue_ms();
        if self.swept_at.is_none_or(|at| now - at > 3_600_000) {
            self.swept_at = Some(now);
            self.shared.store.prune_receipts(now - OWED_FOR);
            self.shared.store.prune_contacts_relays(now - SEEN_FOR);
            self.partials.sweep()?;
            self.finished_at = None;
        }
        let version = reader.version()?;
        if self.parcels.is_empty() || self.finished_at == Some(version) {
            return Ok(());
        }
        let newest = self.carried();
        // Whether the mail may not come once more under this name.
        let mut finished: HashMap<(PublicKey, MailId), bool> = HashMap::new();
        for (peer, id, gone) in reader.parcels_done_with(&self.name)? {
            finished.insert((peer, id), gone);
        }
        for (peer, id) in reader.parcels_without_receipt(&self.name)? {
            let carried = self.parcels.get(&(peer, id)).copied().flatten();
            let seen = self.offered.get(&peer).map_or(u64::MAX, |offered| offered.seen);
            // An offer that is known, or whose place a newer one has taken.
            if carried.is_none_or(|serial| serial <= seen || Some(&serial) < newest.get(&peer)) {
                finished.insert((peer, id), true);
            }
        }
        for parcel in reader.parcels_out_of_time(&self.name, now)? {
            finished.insert(parcel, true);
        }
        self.finished_at = Some(version);
        if finished.is_empty() {
            return Ok(());
        }
        self.shared.store.finish_parcels(&self.name, finished.keys().copied().collect());
        let mut cancelled: HashMap<PublicKey, Vec<Item>> = HashMap::new();
        for ((peer, id), gone) in finished {
            self.parcels.remove(&(peer, id));
            // Who has it, or is told that it is not wanted any more, removes the copies himself. What may come once more must
            // not be taken for that.
            let told = gone && self.listens(&peer);
            if told {
                cancelled.entry(peer).or_default().push(Item::Cancel(id));
            }
            let tidy = !self.answered.remove(&(peer, id)) && !told;
            self.outbox.handle(self.now(), Input::Finished { peer, id, tidy });
        }
        cancelled.into_iter().for_each(|(peer, items)| self.say_items(peer, items));
        Ok(())
    }

    /// Carries out what the outbox decided.
    pub(super) fn carry_out(&mut self, actions: Vec<Action>, reader: &Reader, clients: &mut ClientNumber) {
        let mut records = Vec::new();
        for action in actions {
            if let Action::Record { peer, id, part, place, state } = action {
                records.push(Deposit { peer, parcel: id, part, place, state });
                continue;
            }
            // In order: what was recorded before is on disk before anything else is done.
            self.record(&mut records);
            match action {
                Action::Record { .. } => {}
                Action::Visit { relay, peer, place } => self.visit(relay, peer, place, clients),
                Action::Leave { relay, peer } => {
                    if let Some(visit) = self.visits.remove(&(relay, peer)) {
                        visit.client.handle.close();
                    }
                }
                Action::Deposit { peer, id, part, parts, place } => {
                    if let Err(error) = self.deposit(reader, peer, id, part, parts, place) {
                        log::error!("{}: cannot deposit mail {id}: {error:#}", self.name);
                        self.outbox.handle(self.now(), Input::Refused { peer, place, code: Code::Busy });
                    }
                }
                Action::Delete { peer, place } => {
                    let key =
                        self.followed.get(&peer).map(|to| to.offer.seed.slot(&place.relay, place.class, place.number));
                    if let (Some(visit), Some(key)) = (self.visits.get_mut(&(place.relay, peer)), key) {
                        visit.slots.insert(key.id(), place);
                        visit.client.handle.send(session::Command::Delete(key));
                    }
                }
                Action::AtRelays { peer, id, relays } => self.shared.store.at_relays(&self.name, peer, id, relays),
                Action::Forget { peer, id } => self.shared.store.forget_parcel(&self.name, peer, id),
                Action::More(peer) => drop(self.full.insert(peer)),
                Action::Seen(relay) => {
                    self.shared.store.contacts_relay_seen(&self.name, relay, self.shared.clock.queue_ms());
                }
            }
        }
        self.record(&mut records);
    }

    fn record(&mut self, records: &mut Vec<Deposit>) {
        if records.is_empty() {
            return;
        }
        let records = std::mem::take(records);
        match self.shared.store.put_deposits(&self.name, records.clone()) {
            Ok(()) => {
                for Deposit { peer, place, .. } in records.iter().filter(|record| record.state == State::Chosen) {
                    self.outbox.handle(self.now(), Input::Recorded { peer: *peer, place: *place });
                }
            }
            // What is not recorded is not deposited.
            Err(error) => {
                log::error!("{}: cannot note where mail is deposited: {error}", self.name);
                for Deposit { peer, place, .. } in records.iter().filter(|record| record.state == State::Chosen) {
                    self.outbox.handle(self.now(), Input::Refused { peer: *peer, place: *place, code: Code::Busy });
                }
            }
        }
    }

    fn deposit(
        &mut self,
        reader: &Reader,
        peer: PublicKey,
        id: MailId,
        number: u32,
        count: u32,
        place: Place,
    ) -> anyhow::Result<()> {
        use anyhow::Context as _;
        let parcel = reader.parcel(&self.name, &peer, &id)?.context("it is not in the store")?;
        let cut = parts(parcel.octets);
        let (class, range) = cut.get(number as usize).context("it has no such part")?.clone();
        let octets = content(&self.shared.state_dir, reader, &parcel, &range)?;
        let part = Part { parcel: id, part: number, parts: count, total: parcel.octets, offset: range.start, octets };
        let followed = self.followed.get(&peer).context("the contact offers no lane")?;
        anyhow::ensure!(
            followed.is_open(self.seconds()),
            "the contact has not been heard of for too long: its key is too old"
        );
        let inner = seal::seal(&self.secret, &followed.offer.pre_key, &part, class);
        let blob = seal::wrap(&inner, &followed.offer.seed, &place.relay, place.number);
        let slot = followed.offer.seed.slot(&place.relay, place.class, place.number);
        let visit = self.visits.get_mut(&(place.relay, peer)).context("the relay was left")?;
        visit.slots.insert(slot.id(), place);
        visit.client.handle.send(session::Command::Put { slot, octets: blob.into() });
        Ok(())
    }
}

/// For how long a receipt is kept back: between nothing and `delay`, the same at every look.
pub(super) fn wait_of(secret: &MailSecret, mail: &MailId, delay: i64) -> i64 {
    delay / 256 * (i64::from(secret.receipt_wait(&mail.0)) + 1)
}

/// A range of a parcel's octets.
fn content(
    state_dir: &std::path::Path,
    reader: &Reader,
    parcel: &Parcel,
    range: &Range<u64>,
) -> anyhow::Result<Vec<u8>> {
    let head = parcel.head.len() as u64;
    let mut octets = Vec::with_capacity(usize::try_from(range.end - range.start)?);
    if range.start < head {
        octets.extend_from_slice(&parcel.head[usize::try_from(range.start)?..usize::try_from(range.end.min(head))?]);
    }
    let body = range.start.max(head) - head..range.end.max(head) - head;
    if body.is_empty() {
        return Ok(octets);
    }
    let mail = parcel.mail.ok_or_else(|| anyhow::anyhow!("it has no body"))?;
    match reader.parcel_body(mail)? {
        ParcelBody::Inline(inline) => {
            let piece = inline.get(usize::try_from(body.start)?..usize::try_from(body.end)?);
            octets.extend_from_slice(piece.ok_or_else(|| anyhow::anyhow!("its body is too short"))?);
        }
        ParcelBody::File(name) => {
            let start = octets.len();
            octets.resize(start + usize::try_from(body.end - body.start)?, 0);
            std::fs::File::open(state_dir.join("bodies").join(name))?
                .read_exact_at(&mut octets[start..], body.start)?;
        }
    }
    Ok(octets)
}
