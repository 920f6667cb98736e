//! What is registered, fetched and removed, and how parts become mail.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use super::Message;
use super::account::Account;
use crate::agent::account::{Command, Relayed};
use crate::agent::partial;
use crate::engine::transfer::{BURST, Delivery, Digest, MailId, Outcome, PartialKey, Source};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, LaneSeed, RelayKey, SlotId};
use crate::lane::parcel::{self, Assembly, Item, MAX_HEAD, MailHead, Parcel, Progress};
use crate::lane::seal;
use crate::relay::inbox::{Action, Input, Slot};
use crate::relay::place::Place;
use crate::relay::session;
use crate::relay::wire::Code;
use crate::store::{Receipt, SlotWindow};

/// A parcel of which parts have come.
pub(super) struct Assembling {
    assembly: Assembly,
    /// Its octets, if there is one part only; else they are in its file.
    whole: Option<Vec<u8>>,
    /// Where its parts lay.
    places: Vec<Place>,
    /// Of the mail, once it is being delivered.
    digest: Option<Digest>,
}

impl Account {
    /// Makes the slots of a lane known by their names.
    pub(super) fn name_slots(
        &mut self,
        peer: PublicKey,
        seed: &LaneSeed,
        relay: RelayKey,
        class: Class,
        numbers: Range<u64>,
    ) {
        for number in numbers {
            let id = seed.slot(&relay, class, number).id();
            self.slots.insert((relay, id), (peer, Place { relay, class, number }));
        }
    }

    fn slot_id(&mut self, peer: &PublicKey, place: &Place) -> Option<SlotId> {
        let id = self.offered.get(peer)?.seed.slot(&place.relay, place.class, place.number).id();
        self.slots.insert((place.relay, id), (*peer, *place));
        Some(id)
    }

    /// The slot of ours that a relay names; names that are none of ours are passed over.
    pub(super) fn slot(&self, relay: RelayKey, slot: SlotId) -> Option<(PublicKey, Place)> {
        self.slots.get(&(relay, slot)).copied()
    }

    /// Carries out what the inbox decided.
    pub(super) fn carry_in(&mut self, actions: Vec<Action>) {
        let mut windows = Vec::new();
        for action in actions {
            match action {
                Action::Record { peer, relay, class, window } => {
                    windows.push(SlotWindow { peer, relay, class, window });
                }
                Action::Register { relay, slots } => {
                    let slots = slots.iter().filter_map(|slot| match slot {
                        Slot::Of(peer, place) => Some((self.slot_id(peer, place)?, place.class)),
                        // Its secret is thrown away: nobody can fill it.
                        Slot::Dummy(class) => {
                            let mut octets = super::random().ok()?;
                            Some((LaneSeed::new(&mut octets).slot(&relay, *class, 0).id(), *class))
                        }
                    });
                    let slots: Vec<(SlotId, Class)> = slots.collect();
                    self.ask_relay(relay, session::Command::Register(slots));
                }
                Action::Unregister { relay, slots } => {
                    let slots = slots.iter().filter_map(|(peer, place)| self.slot_id(peer, place)).collect();
                    self.ask_relay(relay, session::Command::Unregister(slots));
                }
                Action::List(relay) => self.ask_relay(relay, session::Command::List),
                Action::Fetch { peer, place } => {
                    if let Some(id) = self.slot_id(&peer, &place) {
                        self.ask_relay(place.relay, session::Command::Get(id, place.class));
                    }
                }
                Action::Delete { peer, place } => {
                    if let Some(offered) = self.offered.get(&peer) {
                        let key = offered.seed.slot(&place.relay, place.class, place.number);
                        self.ask_relay(place.relay, session::Command::Delete(key));
                    }
                }
                Action::Discard { peer, parcel } => {
                    log::warn!("{}: parts of mail {parcel} from {} never came", self.name, peer.short());
                    self.drop_assembly(peer, parcel);
                }
                // Unless he is one again, with a new lane.
                Action::Forget(peer) if self.offered.get(&peer).is_none_or(|offered| !offered.ended) => {}
                Action::Forget(peer) => {
                    self.offered.remove(&peer);
                    self.slots.retain(|_, (of, _)| *of != peer);
                    if let Err(error) = self.shared.store.forget_lanes(&self.name, peer) {
                        log::error!("{}: cannot forget the lanes of {peer}: {error}", self.name);
                    }
                }
            }
        }
        if !windows.is_empty() {
            for line in &windows {
                if let Some(offered) = self.offered.get_mut(&line.peer)
                    && line.window.registered > line.window.low
                {
                    offered.ready.insert(line.relay);
                }
            }
            // Slots that are done with are named no more.
            let low: HashMap<_, _> =
                windows.iter().map(|line| ((line.peer, line.relay, line.class), line.window.low)).collect();
            self.slots.retain(|_, (peer, place)| {
                low.get(&(*peer, place.relay, place.class)).is_none_or(|low| place.number >= *low)
            });
            if let Err(error) = self.shared.store.put_windows(&self.name, windows) {
                log::error!("{}: cannot note which slots are registered: {error}", self.name);
            }
        }
    }

    /// The content of a slot has come: opens it, and keeps what it holds.
    pub(super) fn on_content(&mut self, peer: PublicKey, place: Place, octets: &[u8]) {
        let now = self.now();
        let (Some(offered), Some(key)) = (self.offered.get(&peer), self.mail_key(&peer)) else {
            // Not known yet by whose key it must be sealed.
            return self.inbox.handle(now, Input::Refused { peer, place, code: Code::Busy });
        };
        let secret = |id: u32| {
            let key = offered.pre_keys.iter().find(|(number, ..)| *number == id)?;
            Some(crate::lane::keys::PreKeySecret::new(&mut key.1.expose().to_owned()))
        };
        let opened = seal::open(octets, &offered.seed, &place.relay, place.class, place.number, &key, &secret);
        let part = match opened {
            Ok(part) => part,
            Err(error) => {
                let relay = place.relay.short();
                log::warn!("{}: relay {relay} has what cannot be opened, for {}: {error}", self.name, peer.short());
                return self.inbox.handle(now, Input::Spoilt { peer, place });
            }
        };
        let (parcel, number, parts) = (part.parcel, part.part, part.parts);
        let opened = Input::Opened { peer, place, parcel, part: number, parts };
        if self.settled.contains(&(peer, parcel)) {
            self.inbox.handle(now, opened);
            return self.inbox.handle(now, Input::Settled { peer, parcel });
        }
        let most = self.shared.live.get().delivery.max_size.saturating_add(MAX_HEAD as u64 + (1 << 20));
        let key = (peer, parcel);
        if !self.assembly.contains_key(&key) {
            let Ok(assembly) = Assembly::new(parts, part.total, most) else {
                return self.inbox.handle(now, Input::Spoilt { peer, place });
            };
            let assembling = Assembling { assembly, whole: None, places: Vec::new(), digest: None };
            self.assembly.insert(key, assembling);
        }
        let file = self.parcel_file(peer, parcel);
        let Some(assembling) = self.assembly.get_mut(&key) else { return };
        let progress = match assembling.assembly.take(&part) {
            Ok(progress) => progress,
            Err(_) => return self.inbox.handle(now, Input::Spoilt { peer, place }),
        };
        assembling.places.push(place);
        let kept = match progress {
            Progress::Repeated => Ok(()),
            _ if parts == 1 => {
                assembling.whole = Some(part.octets);
                Ok(())
            }
            _ => write(&file, part.offset, &part.octets),
        };
        if let Err(error) = kept {
            log::error!("{}: cannot write {}: {error}", self.name, file.display());
            self.drop_assembly(peer, parcel);
            return self.inbox.handle(now, Input::Refused { peer, place, code: Code::Busy });
        }
        self.inbox.handle(now, opened);
        if progress == Progress::Whole {
            self.take(peer, parcel, part.total);
        }
    }

    /// A parcel is whole.
    fn take(&mut self, peer: PublicKey, id: MailId, total: u64) {
        let file = self.parcel_file(peer, id);
        let Some(assembling) = self.assembly.get_mut(&(peer, id)) else { return };
        let whole = assembling.whole.take();
        let start = match &whole {
            Some(octets) => Ok(octets[..octets.len().min(MAX_HEAD)].to_vec()),
            None => read(&file, 0, total.min(MAX_HEAD as u64)),
        };
        let start = match start {
            Ok(start) => start,
            Err(error) => return self.later(peer, id, &format!("cannot read {}: {error}", file.display())),
        };
        let head = match Parcel::read(id, total, &start) {
            Ok((Parcel::Control(items), _)) => {
                self.on_items(peer, items, false);
                return self.settle_when_stored(peer, id);
            }
            Ok((Parcel::Mail(mail), length)) => (mail, length),
            Err(error) => {
                log::warn!("{}: parcel {id} from {} is dropped: {error}", self.name, peer.short());
                return self.settle(peer, id);
            }
        };
        let (mail, length) = head;
        if mail.expires < self.now() {
            // Its sender has been told that it could not be delivered.
            log::info!("{}: mail {id} from {} came after its time and is dropped", self.name, peer.short());
            self.drop_assembly(peer, id);
            // Not remembered: released from hold it may come once more, with another time.
            return self.inbox.handle(self.now(), Input::Settled { peer, parcel: id });
        }
        let source = match whole {
            Some(octets) if mail.wire_size <= BURST => Ok(Source::Inline(octets[length..].to_vec())),
            Some(octets) => self.body_file(peer, &mail, |at, most| {
                let from = (length + at as usize).min(octets.len());
                Ok(octets[from..(from + most).min(octets.len())].to_vec())
            }),
            None if mail.wire_size <= BURST => read(&file, length as u64, mail.wire_size).map(Source::Inline),
            None => self.body_file(peer, &mail, |at, most| {
                read(&file, length as u64 + at, (mail.wire_size - at).min(most as u64))
            }),
        };
        let source = match source {
            Ok(source) => source,
            Err(error) => return self.later(peer, id, &format!("cannot keep a mail that came by relays: {error}")),
        };
        if let Some(assembling) = self.assembly.get_mut(&(peer, id)) {
            assembling.digest = Some(mail.digest);
        }
        let MailHead { sender, recipients, size, wire_size, digest, encoding, .. } = mail;
        let recipients = recipients.into_iter().map(|recipient| (recipient.index, recipient.address, 0)).collect();
        let delivery = Delivery { peer, id, sender, recipients, size, digest, encoding, source };
        let (handle, number) = (self.shared.handle.clone(), self.number);
        let done = Box::new(move |answers| handle.send(Message::Answered(number, peer, id, answers)));
        self.tox.send(Command::Relayed(Box::new(Relayed { mail: delivery, wire_size, done })));
    }

    /// Copies the encoded body of a mail into the file from which it is delivered.
    fn body_file(
        &self,
        peer: PublicKey,
        mail: &MailHead,
        read: impl Fn(u64, usize) -> io::Result<Vec<u8>>,
    ) -> io::Result<Source> {
        // Not that of the link: both may be under way.
        let key = PartialKey(format!("relayed-{}", mail.id));
        self.partials.length(&peer, &key)?;
        let mut at = 0;
        while at < mail.wire_size {
            let piece = read(at, 1 << 20)?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.partials.append(&peer, &key, at, &piece)?;
            at += piece.len() as u64;
        }
        Ok(Source::Partial(key))
    }

    /// What was fetched of a parcel cannot be used now: it is fetched again later.
    fn later(&mut self, peer: PublicKey, id: MailId, why: &str) {
        log::warn!("{}: mail {id} from {} stays at the relays for now: {why}", self.name, peer.short());
        let places = self.assembly.get(&(peer, id)).map(|assembling| assembling.places.clone());
        self.drop_assembly(peer, id);
        for place in places.unwrap_or_default() {
            self.inbox.handle(self.now(), Input::Refused { peer, place, code: Code::Busy });
        }
    }

    /// What became of a mail that was fetched: its sender is told, and what cannot be delivered yet stays at the relays.
    pub(super) fn on_answered(&mut self, peer: PublicKey, id: MailId, answers: &[(u32, Outcome)]) {
        let last = |outcome: &Outcome| !matches!(outcome, Outcome::Refused(refusal) if !refusal.is_permanent());
        let digest = self.assembly.get(&(peer, id)).and_then(|assembling| assembling.digest);
        let config = self.config();
        let receipts = config.as_ref().is_some_and(|config| config.receipts);
        // To ten minutes, or as coarse as receipts are late: when exactly it was read from the relays is nobody's business.
        let coarse = config.map_or(600, |config| config.receipt_delay.as_secs().max(600));
        let mut owed = Vec::new();
        for (number, outcome) in answers.iter().filter(|(_, outcome)| last(outcome)) {
            let (Some(digest), true) = (digest, receipts) else { break };
            let at = u64::try_from(self.seconds()).unwrap_or(0) / coarse * coarse;
            let item = Item::Receipt { id, digest, index: *number, outcome: outcome.clone(), at };
            let item = Parcel::Control(vec![item]).head();
            let made = self.shared.clock.queue_ms();
            owed.push(Receipt { peer, transfer: id, number: *number, item, made, parcel: None });
        }
        if let Err(error) = self.shared.store.put_receipts(&self.name, owed.clone()) {
            return self.later(peer, id, &error.to_string());
        }
        self.say_items(peer, owed.iter().flat_map(|receipt| Parcel::items(&receipt.item)).collect());
        match answers.iter().find(|(_, outcome)| !last(outcome)) {
            Some((_, Outcome::Refused(refusal))) => self.later(peer, id, &refusal.to_string()),
            _ => self.settle(peer, id),
        }
    }

    fn parcel_file(&self, peer: PublicKey, parcel: MailId) -> PathBuf {
        let folder = self.shared.state_dir.join("incoming").join(&self.name);
        partial::path(&folder, &peer, &PartialKey(format!("parcel-{parcel}")))
    }

    /// Forgets which parts of a parcel have come.
    pub(super) fn drop_assembly(&mut self, peer: PublicKey, parcel: MailId) {
        if let Some(assembling) = self.assembly.remove(&(peer, parcel))
            && assembling.whole.is_none()
        {
            partial::remove(&self.parcel_file(peer, parcel));
        }
    }
}

/// How large a parcel of a mail is: its head, and its body.
pub(super) fn parts(octets: u64) -> Vec<(Class, Range<u64>)> {
    parcel::split(octets, Class::M4)
}

fn write(file: &std::path::Path, offset: u64, octets: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(folder) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)?;
    file.write_all_at(octets, offset)
}

fn read(file: &std::path::Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    std::fs::File::open(file)?.read_exact_at(&mut octets, offset)?;
    Ok(octets)
}
