use super::*;

const ALICE: PublicKey = PublicKey([1; 32]);
const START: u64 = 1_000 * DAY;

fn relay(number: u8) -> RelayKey {
    RelayKey([number; 32])
}

fn mail(number: u64) -> MailId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    MailId(id)
}

/// A relay as this test has it.
#[derive(Default)]
struct Model {
    /// No session comes up.
    dead: bool,
    /// What it says to deposits instead of storing.
    refuses: Option<Code>,
    /// Numbers below are registered.
    registered: u64,
    filled: BTreeMap<Place, (MailId, u32)>,
    gone: BTreeSet<Place>,
}

/// What is in the store of the agent.
struct Queued {
    parts: Vec<Class>,
    since: u64,
    control: bool,
    finished: Option<bool>,
}

/// One outbox, its store, the relays, and a clock. Checks at every step what must always hold.
struct World {
    outbox: Outbox,
    settings: Settings,
    chance: Chance,
    now: u64,
    online: bool,
    relays: BTreeMap<RelayKey, Model>,
    retention: u64,
    queue: BTreeMap<MailId, Queued>,
    copies: BTreeMap<MailId, BTreeMap<Place, (u32, State)>>,
    next: BTreeMap<(RelayKey, Class), u64>,
    used: BTreeMap<Place, (MailId, u32)>,
    visits: BTreeMap<RelayKey, bool>,
    /// What will be answered, and when.
    coming: BTreeMap<(u64, u64), Input>,
    asked: u64,
    at_relays: BTreeMap<MailId, u32>,
    log: Vec<Action>,
}

impl World {
    fn new(seed: u64, relays: u8) -> Self {
        let settings = Settings::default();
        let mut full = [0; 32];
        full[..8].copy_from_slice(&seed.to_be_bytes());
        let mut world = Self {
            outbox: Outbox::new(settings.clone(), full, START),
            settings,
            chance: Chance::new(full),
            now: START,
            online: false,
            relays: (1..=relays)
                .map(|number| (relay(number), Model { registered: 1000, ..Model::default() }))
                .collect(),
            retention: 30 * DAY,
            queue: BTreeMap::new(),
            copies: BTreeMap::new(),
            next: BTreeMap::new(),
            used: BTreeMap::new(),
            visits: BTreeMap::new(),
            coming: BTreeMap::new(),
            asked: 0,
            at_relays: BTreeMap::new(),
            log: Vec::new(),
        };
        world.tell_lane();
        world
    }

    fn tell(&mut self, input: Input) {
        self.outbox.handle(self.now, input);
    }

    fn tell_lane(&mut self) {
        let relays = self.relays.keys().copied().collect();
        let next = self.next.clone();
        self.tell(Input::Lane { peer: ALICE, relays, next });
    }

    fn tell_parcel(&mut self, id: MailId) {
        let Queued { parts, since, control, .. } = &self.queue[&id];
        let (parts, since, control) = (parts.clone(), *since, *control);
        self.tell(Input::Parcel { peer: ALICE, id, parts, since, expires: since + 5 * DAY, control });
    }

    fn queue(&mut self, id: MailId, parts: &[Class], control: bool) {
        self.queue.insert(id, Queued { parts: parts.to_vec(), since: self.now, control, finished: None });
        self.tell_parcel(id);
    }

    fn finish(&mut self, id: MailId, tidy: bool) {
        if let Some(queued) = self.queue.get_mut(&id) {
            queued.finished = Some(tidy);
            self.tell(Input::Finished { peer: ALICE, id, tidy });
        }
    }

    fn contact(&mut self, online: bool) {
        self.online = online;
        self.tell(Input::Contact { peer: ALICE, online });
    }

    /// kill -9, and a start from the store.
    fn restart(&mut self) {
        self.outbox = Outbox::new(self.settings.clone(), [9; 32], self.now);
        self.visits.clear();
        self.coming.clear();
        self.online = false;
        self.tell_lane();
        for (id, copies) in self.copies.clone() {
            for (place, (part, state)) in copies {
                self.tell(Input::Known { peer: ALICE, id, part, place, state });
            }
        }
        for (id, finished) in self.queue.iter().map(|(id, queued)| (*id, queued.finished)).collect::<Vec<_>>() {
            match finished {
                Some(tidy) => self.tell(Input::Finished { peer: ALICE, id, tidy }),
                None => self.tell_parcel(id),
            }
        }
    }

    fn answer(&mut self, input: Input) {
        self.asked += 1;
        let delay = 1 + self.chance.below(5000);
        self.coming.insert((self.now + delay, self.asked), input);
    }

    fn act(&mut self, action: Action) {
        self.log.push(action.clone());
        match action {
            Action::Visit { relay, peer, place } => {
                assert_eq!((peer, place.relay), (ALICE, relay));
                assert!(self.visits.insert(relay, false).is_none(), "two visits at once to {relay:?}");
                assert!(self.visits.len() <= self.settings.max_visits);
                let model = &self.relays[&relay];
                if !model.dead && place.number < model.registered && !model.gone.contains(&place) {
                    self.answer(Input::Session { relay, peer, up: true });
                }
            }
            Action::Leave { relay, .. } => {
                assert!(self.visits.remove(&relay).is_some(), "left where it was not");
                // What was under way is not heard of any more.
                self.coming.retain(|_, input| match input {
                    Input::Session { relay: of, .. } => *of != relay,
                    Input::Stored { place, .. } | Input::Refused { place, .. } | Input::Gone { place, .. } => {
                        place.relay != relay
                    }
                    _ => true,
                });
            }
            Action::Record { id, part, place, state, .. } => {
                let owner = *self.used.entry(place).or_insert((id, part));
                if state == State::Chosen {
                    let known = self.copies.get(&owner.0).is_some_and(|copies| copies.contains_key(&place));
                    assert!(!known || owner == (id, part), "{place:?} is used twice");
                    self.used.insert(place, (id, part));
                    self.answer(Input::Recorded { peer: ALICE, place });
                }
                self.copies.entry(id).or_default().insert(place, (part, state));
                let next = self.next.entry((place.relay, place.class)).or_default();
                *next = (*next).max(place.number + 1);
            }
            Action::Deposit { id, part, parts, place, .. } => self.deposit(id, part, parts, place),
            Action::Delete { place, .. } => {
                assert!(self.visits[&place.relay], "not there");
                let model = self.relays.get_mut(&place.relay).expect("known");
                model.filled.remove(&place);
                model.gone.insert(place);
                self.answer(Input::Gone { peer: ALICE, place });
            }
            Action::AtRelays { id, relays, .. } => {
                let copies = self.copies.get(&id);
                let stored = |part: u32| {
                    let of = copies.into_iter().flat_map(BTreeMap::values);
                    of.filter(|(of, state)| *of == part && matches!(state, State::Stored { .. })).count()
                };
                let least = (0..self.queue[&id].parts.len()).map(|part| stored(part as u32)).min().unwrap_or(0);
                assert!(least >= relays as usize, "{relays} relays are told of, {least} have it");
                self.at_relays.insert(id, relays);
            }
            Action::Forget { id, .. } => {
                assert!(self.queue[&id].finished.is_some(), "{id} is forgotten");
                self.queue.remove(&id);
                self.copies.remove(&id);
            }
            Action::More(_) => self.queue.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| {
                if self.queue[&id].finished.is_none() {
                    self.tell_parcel(id);
                }
            }),
            Action::Seen(_) => {}
        }
    }

    fn deposit(&mut self, id: MailId, part: u32, parts: u32, place: Place) {
        assert!(!self.online, "deposited although the contact is online");
        assert_eq!(self.visits.get(&place.relay), Some(&true), "not there");
        let queued = &self.queue[&id];
        assert_eq!((queued.parts.len() as u32, queued.parts[part as usize]), (parts, place.class));
        assert!(queued.finished.is_none(), "deposited though finished");
        assert_eq!(self.copies[&id].get(&place).map(|copy| copy.0), Some(part), "not recorded before");
        for (other, (of, state)) in &self.copies[&id] {
            let same = *of == part && other.relay == place.relay && other != &place;
            assert!(!(same && matches!(state, State::Stored { .. })), "two copies at one relay");
        }
        let model = self.relays.get_mut(&place.relay).expect("known");
        let input = match model.refuses {
            Some(code) => Input::Refused { peer: ALICE, place, code },
            None if place.number >= model.registered => Input::Refused { peer: ALICE, place, code: Code::Unknown },
            None if model.gone.contains(&place) => Input::Refused { peer: ALICE, place, code: Code::Taken },
            None if *model.filled.entry(place).or_insert((id, part)) != (id, part) => {
                Input::Refused { peer: ALICE, place, code: Code::Taken }
            }
            None => Input::Stored { peer: ALICE, place, until: self.now + self.retention },
        };
        self.answer(input);
    }

    /// Lets time pass, and what comes with it.
    fn run(&mut self, until: u64) {
        loop {
            let mut out = Vec::new();
            self.outbox.poll(self.now, &mut out);
            let acted = !out.is_empty();
            out.into_iter().for_each(|action| self.act(action));
            let coming = self.coming.keys().next().map(|key| key.0);
            let next = self.outbox.deadline().into_iter().chain(coming).min().unwrap_or(u64::MAX);
            assert!(acted || next > self.now || coming == Some(self.now), "it spins");
            if next > until {
                self.now = until.max(self.now);
                return;
            }
            self.now = next.max(self.now);
            while let Some(entry) = self.coming.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let input = entry.remove();
                if let Input::Session { relay, up, .. } = input {
                    self.visits.insert(relay, up);
                }
                self.tell(input);
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.run(self.now + ms);
    }

    fn lying(&self, id: MailId, part: u32) -> usize {
        self.relays.values().filter(|relay| !relay.dead && relay.filled.values().any(|of| *of == (id, part))).count()
    }

    fn visited(&self) -> usize {
        self.log.iter().filter(|action| matches!(action, Action::Visit { .. })).count()
    }
}

#[test]
fn mail_goes_to_three_relays_after_a_while_offline() {
    let mut world = World::new(1, 5);
    world.contact(false);
    world.queue(mail(1), &[Class::K16], false);
    world.pass(59_000);
    assert!(world.log.is_empty(), "{:?}", world.log);
    world.pass(2 * MINUTE);
    assert_eq!((world.lying(mail(1), 0), world.at_relays[&mail(1)]), (3, 3));
    assert_eq!(world.visited(), 3);
    world.pass(HOUR);
    assert!(world.visits.is_empty(), "nothing to do is no reason to stay");
}

#[test]
fn nothing_goes_to_relays_while_the_contact_is_online() {
    let mut world = World::new(1, 3);
    world.contact(true);
    world.queue(mail(1), &[Class::K16], false);
    world.queue(mail(2), &[Class::K16], true);
    world.pass(DAY);
    assert!(world.log.is_empty() && world.outbox.deadline().is_none());
    world.contact(false);
    world.pass(50_000);
    assert_eq!((world.lying(mail(1), 0), world.lying(mail(2), 0)), (0, 3), "control does not wait, mail does");
    world.pass(2 * MINUTE);
    assert_eq!(world.lying(mail(1), 0), 3);
}

#[test]
fn unknown_presence_counts_as_offline_from_the_start() {
    let mut world = World::new(1, 3);
    world.queue(mail(1), &[Class::K16], false);
    world.queue(mail(2), &[Class::K16], true);
    world.pass(59_000);
    assert!(world.log.is_empty());
    world.pass(2 * MINUTE);
    assert_eq!((world.lying(mail(1), 0), world.lying(mail(2), 0)), (3, 3));
}

#[test]
fn two_of_three_are_enough_but_the_third_is_sought() {
    let mut world = World::new(1, 3);
    world.relays.get_mut(&relay(2)).expect("there").dead = true;
    world.contact(false);
    world.queue(mail(1), &[Class::K128, Class::K16], false);
    world.pass(10 * MINUTE);
    assert_eq!(world.at_relays[&mail(1)], 2);
    world.relays.get_mut(&relay(2)).expect("there").dead = false;
    world.pass(3 * HOUR);
    assert_eq!(world.at_relays[&mail(1)], 3);
}

#[test]
fn one_of_one_and_two_of_two_are_enough() {
    for relays in [1, 2] {
        let mut world = World::new(1, relays);
        world.contact(false);
        world.queue(mail(1), &[Class::K16], false);
        world.pass(10 * MINUTE);
        assert_eq!(world.at_relays[&mail(1)], u32::from(relays));
    }
}

#[test]
fn a_relay_that_refuses_is_replaced_by_another() {
    for code in [Code::Quota, Code::Busy, Code::Slots, Code::Wrong, Code::Forbidden, Code::Unknown, Code::Taken] {
        let mut world = World::new(1, 4);
        let first = look::order(&world.outbox.peers[&ALICE], &world.outbox.relays, ALICE)[0];
        world.relays.get_mut(&first).expect("there").refuses = Some(code);
        world.contact(false);
        world.queue(mail(1), &[Class::K16], false);
        world.pass(10 * MINUTE);
        assert_eq!(world.at_relays.get(&mail(1)), Some(&3), "{code:?}");
        let asked =
            world.log.iter().filter(|action| matches!(action, Action::Deposit { place, .. } if place.relay == first));
        assert!(asked.count() <= TAKEN as usize, "{code:?}: asked again and again");
    }
}

#[test]
fn a_number_not_registered_yet_is_kept_until_it_is() {
    let mut world = World::new(1, 1);
    world.relays.get_mut(&relay(1)).expect("there").registered = 1;
    world.contact(false);
    world.queue(mail(1), &[Class::K16; 3], false);
    world.pass(DAY / 2);
    assert_eq!((world.lying(mail(1), 0), world.lying(mail(1), 1)), (1, 0));
    world.relays.get_mut(&relay(1)).expect("there").registered = 3;
    world.pass(3 * HOUR);
    assert_eq!(world.at_relays[&mail(1)], 1);
    let numbers: Vec<u64> = world.relays[&relay(1)].filled.keys().map(|place| place.number).collect();
    assert_eq!(numbers, [0, 1, 2]);
}

#[test]
fn a_relay_gone_for_good_is_replaced() {
    let mut world = World::new(1, 4);
    world.contact(false);
    world.queue(mail(1), &[Class::K16], false);
    world.pass(HOUR);
    let gone = *world.relays.iter().find(|(_, relay)| !relay.filled.is_empty()).expect("there").0;
    world.relays.get_mut(&gone).expect("there").dead = true;
    world.pass(10 * HOUR);
    assert_eq!(world.lying(mail(1), 0), 2, "it may come back");
    world.pass(40 * HOUR);
    assert_eq!((world.lying(mail(1), 0), world.at_relays[&mail(1)]), (3, 3));
}

#[test]
fn no_relay_counts_as_gone_while_this_agent_has_no_network() {
    let mut world = World::new(1, 4);
    world.contact(false);
    world.queue(mail(1), &[Class::K16], false);
    world.pass(HOUR);
    world.relays.values_mut().for_each(|relay| relay.dead = true);
    world.tell(Input::Connected(false));
    world.pass(4 * DAY);
    assert_eq!((world.visited(), world.at_relays[&mail(1)]), (3, 3));
}

#[test]
fn a_relay_that_the_lane_lists_no_more_is_replaced() {
    let mut world = World::new(1, 3);
    world.contact(false);
    world.queue(mail(1), &[Class::K16], false);
    world.pass(HOUR);
    world.relays.remove(&relay(1));
    world.relays.insert(relay(4), Model { registered: 10, ..Model::default() });
    world.tell_lane();
    world.pass(HOUR);
    assert_eq!((world.lying(mail(1), 0), world.at_relays[&mail(1)]), (3, 3));
}

#[test]
fn a_copy_that_was_fetched_before_its_word_was_heard_blocks_nothing() {
    let mut world = World::new(1, 1);
    world.queue(mail(1), &[Class::K16], false);
    for _ in 0..6000 {
        world.pass(100);
        if !world.relays[&relay(1)].filled.is_empty() {
            break;
        }
    }
    // The relay has it; the agent is killed before it hears so, and the contact fetches it meanwhile.
    world.restart();
    let model = world.relays.get_mut(&relay(1)).expect("known");
    let filled = std::mem::take(&mut model.filled);
    assert_eq!(filled.len(), 1);
    model.gone.extend(filled.into_keys());
    world.queue(mail(2), &[Class::K16], false);
    world.pass(10 * MINUTE);
    assert_eq!((world.lying(mail(1), 0), world.lying(mail(2), 0)), (1, 1), "by a slot that is still open");
}

#[test]
fn what_expires_before_the_mail_is_deposited_again() {
    let mut world = World::new(1, 3);
    world.retention = 2 * DAY;
    world.contact(false);
    world.queue(mail(1), &[Class::K16], false);
    world.pass(HOUR);
    world.relays.values_mut().for_each(|relay| {
        let old = std::mem::take(&mut relay.filled);
        relay.gone.extend(old.into_keys());
    });
    world.pass(2 * DAY);
    assert_eq!((world.lying(mail(1), 0), world.at_relays[&mail(1)]), (3, 3));
}

#[test]
fn copies_of_a_cancelled_mail_are_removed() {
    let mut world = World::new(1, 3);
    world.contact(false);
    world.queue(mail(1), &[Class::K16, Class::M1], false);
    world.pass(HOUR);
    world.finish(mail(1), true);
    world.pass(10 * MINUTE);
    assert!(world.queue.is_empty() && world.relays.values().all(|relay| relay.filled.is_empty()));
    world.pass(HOUR);
    assert_eq!((world.outbox.deadline(), world.visits.len()), (None, 0));
}

#[test]
fn removing_copies_ends_when_their_relay_is_not_there() {
    let mut world = World::new(1, 3);
    world.contact(false);
    world.queue(mail(1), &[Class::K16], false);
    world.pass(HOUR);
    world.relays.values_mut().for_each(|relay| relay.dead = true);
    world.finish(mail(1), true);
    world.pass(2 * HOUR);
    assert!(world.queue.is_empty());
    assert_eq!((world.outbox.deadline(), world.visits.len()), (None, 0));
}

#[test]
fn an_answer_that_came_by_a_relay_costs_no_visit() {
    let mut world = World::new(1, 3);
    world.contact(false);
    world.queue(mail(1), &[Class::K16], false);
    world.pass(HOUR);
    world.finish(mail(1), false);
    world.pass(1);
    assert!(world.queue.is_empty());
    assert_eq!(world.visited(), 3);
}

#[test]
fn more_parcels_than_fit_wait_in_the_store() {
    let mut world = World::new(1, 3);
    world.settings.max_parcels = 10;
    world.outbox.set(world.settings.clone());
    world.contact(false);
    for number in 0..30 {
        world.queue(mail(number), &[Class::K16], false);
    }
    assert!(!world.outbox.takes(&ALICE));
    world.pass(HOUR);
    assert_eq!(world.at_relays.len(), 10);
    for number in 0..30 {
        world.finish(mail(number), false);
        world.pass(10 * MINUTE);
        let left = world.queue.values().filter(|queued| queued.finished.is_none()).count();
        assert!(world.outbox.parcels >= left.min(7), "{left} wait");
    }
    assert!(world.queue.is_empty());
}

#[test]
fn a_lane_with_another_seed_begins_anew() {
    let mut world = World::new(1, 3);
    world.contact(false);
    world.queue(mail(1), &[Class::K16], false);
    world.pass(HOUR);
    world.tell(Input::LaneGone(ALICE));
    let mut out = Vec::new();
    world.outbox.poll(world.now, &mut out);
    assert_eq!(out, [Action::Forget { peer: ALICE, id: mail(1) }]);
    world.copies.clear();
    world.used.clear();
    world.next.clear();
    world.relays.values_mut().for_each(|relay| relay.filled.clear());
    world.tell_lane();
    world.pass(HOUR);
    assert_eq!((world.lying(mail(1), 0), world.at_relays[&mail(1)]), (3, 3));
    assert!(world.relays[&relay(1)].filled.keys().all(|place| place.number == 0));
}

#[test]
fn many_contacts_share_the_visits_there_may_be() {
    let mut outbox = Outbox::new(Settings { max_visits: 2, ..Settings::default() }, [1; 32], START);
    let peers: Vec<PublicKey> = (0..20).map(|number| PublicKey([number; 32])).collect();
    for peer in &peers {
        outbox.handle(START, Input::Lane { peer: *peer, relays: vec![relay(1)], next: BTreeMap::new() });
        outbox.handle(START, Input::Contact { peer: *peer, online: false });
        let (parts, id) = (vec![Class::K16], mail(u64::from(peer.0[0])));
        let (since, expires) = (START, START + DAY);
        outbox.handle(START, Input::Parcel { peer: *peer, id, parts, since, expires, control: true });
    }
    let (mut now, mut stored, mut there) = (START, BTreeSet::new(), BTreeSet::new());
    while stored.len() < peers.len() {
        let mut out = Vec::new();
        outbox.poll(now, &mut out);
        for action in out {
            match action {
                Action::Visit { relay, peer, .. } => {
                    there.insert(peer);
                    outbox.handle(now, Input::Session { relay, peer, up: true });
                }
                Action::Leave { peer, .. } => _ = there.remove(&peer),
                Action::Record { peer, place, state: State::Chosen, .. } => {
                    outbox.handle(now, Input::Recorded { peer, place });
                }
                Action::Deposit { peer, place, .. } => {
                    stored.insert(peer);
                    outbox.handle(now, Input::Stored { peer, place, until: now + 30 * DAY });
                }
                _ => {}
            }
            assert!(there.len() <= 2);
        }
        now = outbox.deadline().map_or(now + 1, |at| at.max(now + 1));
        assert!(now < START + HOUR, "only {} of them had their turn", stored.len());
    }
}

/// Relays that fail and come back, contacts that come and go, kill -9 at any time.
fn weather(seed: u64) {
    let mut world = World::new(seed, 2 + (seed % 4) as u8);
    world.contact(false);
    let codes = [Code::Quota, Code::Busy, Code::Unknown, Code::Taken, Code::Wrong];
    let classes = [Class::K16, Class::K16, Class::K128, Class::M1, Class::M4];
    let mut queued = 0;
    for _ in 0..40 {
        let pause = [1, 1000, MINUTE, HOUR, 10 * HOUR][world.chance.below(5) as usize];
        let relays: Vec<RelayKey> = world.relays.keys().copied().collect();
        let of = relays[world.chance.below(relays.len() as u64) as usize];
        match world.chance.below(12) {
            0..4 => {
                let parts = 1 + world.chance.below(4);
                let parts: Vec<Class> = (0..parts).map(|_| classes[world.chance.below(5) as usize]).collect();
                let control = world.chance.below(4) == 0;
                world.queue(mail(queued), &parts, control);
                queued += 1;
            }
            4 => _ = world.relays.get_mut(&of).map(|relay| relay.dead = !relay.dead),
            5 => {
                let code = codes[world.chance.below(5) as usize];
                world.relays.get_mut(&of).expect("there").refuses = Some(code);
            }
            6 => _ = world.relays.get_mut(&of).map(|relay| relay.refuses = None),
            7 => world.contact(!world.online),
            8 => world.restart(),
            9 if queued > 0 => {
                let (id, tidy) = (mail(world.chance.below(queued)), world.chance.below(2) == 0);
                world.finish(id, tidy);
            }
            10 if world.visits.contains_key(&of) => {
                *world.visits.entry(of).or_default() = false;
                world.tell(Input::Session { relay: of, peer: ALICE, up: false });
                world.coming.retain(|_, input| matches!(input, Input::Recorded { .. }));
                world.answer(Input::Session { relay: of, peer: ALICE, up: true });
            }
            _ => {}
        }
        world.run(world.now + pause);
    }
    // All is well from here on: nothing is forgotten.
    world.relays.values_mut().for_each(|relay| (relay.dead, relay.refuses) = (false, None));
    world.contact(false);
    world.pass(12 * HOUR);
    let target = world.relays.len().min(3);
    let open: Vec<MailId> = world.queue.iter().filter(|(_, of)| of.finished.is_none()).map(|(id, _)| *id).collect();
    for id in open {
        let (since, parts) = (world.queue[&id].since, world.queue[&id].parts.len() as u32);
        for part in (0..parts).filter(|_| world.now < since + 4 * DAY) {
            assert!(world.lying(id, part) >= target, "{id}, part {part}: {} copies", world.lying(id, part));
            assert_eq!(world.at_relays.get(&id), Some(&(target as u32)), "{id}");
        }
        world.finish(id, true);
    }
    world.pass(3 * HOUR);
    assert!(world.queue.is_empty() && world.copies.is_empty(), "not forgotten in the end");
    assert_eq!((world.outbox.deadline(), world.visits.len(), world.outbox.in_flight), (None, 0, 0));
}

#[test]
fn nothing_is_forgotten_and_all_ends_whatever_the_weather() {
    for seed in 0..100 {
        let result = std::panic::catch_unwind(|| weather(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}
