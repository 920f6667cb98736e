use super::*;

const OPEN: [u32; 5] = [16, 8, 4, 2, 1];

fn relay(number: u8) -> RelayKey {
    RelayKey([number; 32])
}

fn peer(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

fn mail(number: u64) -> MailId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    MailId(id)
}

/// What lies in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Part(MailId, u32, u32),
    Junk,
}

#[derive(Default)]
struct Model {
    up: bool,
    max_slots: u64,
    registered: BTreeSet<(PublicKey, Place)>,
    dummies: u64,
    filled: BTreeMap<(PublicKey, Place), Content>,
    gone: BTreeSet<(PublicKey, Place)>,
    /// Answers to no fetch.
    stuck: bool,
}

/// One inbox, its store, the relays, and a clock. Checks at every step what must always hold.
struct World {
    inbox: Inbox,
    chance: Chance,
    now: u64,
    relays: BTreeMap<RelayKey, Model>,
    lanes: BTreeMap<PublicKey, Vec<RelayKey>>,
    windows: BTreeMap<(PublicKey, RelayKey, Class), Window>,
    /// Parts on disk, and how many there are.
    parts: BTreeMap<(PublicKey, MailId), (BTreeSet<u32>, u32)>,
    settled: BTreeSet<(PublicKey, MailId)>,
    coming: BTreeMap<(u64, u64), Input>,
    asked: u64,
    log: Vec<Action>,
}

impl World {
    fn new(seed: u64, relays: u8, peers: u8) -> Self {
        let mut full = [0; 32];
        full[..8].copy_from_slice(&seed.to_be_bytes());
        let model = || Model { max_slots: 8192, ..Model::default() };
        let mut world = Self {
            inbox: Inbox::new(Settings::default(), full),
            chance: Chance::new(full),
            now: DAY,
            relays: (1..=relays).map(|number| (relay(number), model())).collect(),
            lanes: (1..=peers).map(|number| (peer(number), (1..=relays).map(relay).collect())).collect(),
            windows: BTreeMap::new(),
            parts: BTreeMap::new(),
            settled: BTreeSet::new(),
            coming: BTreeMap::new(),
            asked: 0,
            log: Vec::new(),
        };
        world.start();
        world
    }

    fn tell(&mut self, input: Input) {
        self.inbox.handle(self.now, input);
    }

    fn start(&mut self) {
        for (peer, relays) in self.lanes.clone() {
            let of_peer = self.windows.iter().filter(|((of, ..), _)| *of == peer);
            let windows = of_peer.map(|((_, relay, class), window)| ((*relay, *class), *window)).collect();
            self.tell(Input::Lane { peer, relays, open: OPEN, windows });
        }
    }

    fn restart(&mut self) {
        self.inbox = Inbox::new(Settings::default(), [7; 32]);
        self.coming.clear();
        self.relays.values_mut().for_each(|relay| relay.up = false);
        self.start();
    }

    fn up(&mut self, relay: RelayKey) {
        let model = self.relays.get_mut(&relay).expect("there");
        model.up = true;
        let max_slots = model.max_slots;
        self.tell(Input::Up { relay, max_slots });
    }

    fn all_up(&mut self) {
        self.relays.keys().copied().collect::<Vec<_>>().into_iter().for_each(|relay| self.up(relay));
    }

    fn down(&mut self, relay: RelayKey) {
        self.relays.get_mut(&relay).expect("there").up = false;
        self.coming.retain(|_, input| match input {
            Input::Registered { relay: of, .. } | Input::Unregistered { relay: of, .. } => *of != relay,
            Input::NotRegistered { relay: of, .. } | Input::Listed { relay: of, .. } => *of != relay,
            Input::Opened { place, .. } | Input::Spoilt { place, .. } => place.relay != relay,
            Input::Gone { place, .. } | Input::Refused { place, .. } => place.relay != relay,
            _ => true,
        });
        self.tell(Input::Down(relay));
    }

    /// A sender fills a slot, if it can.
    fn fill(&mut self, peer: PublicKey, place: Place, content: Content) -> bool {
        let model = self.relays.get_mut(&place.relay).expect("there");
        let key = (peer, place);
        if !model.registered.contains(&key) || model.gone.contains(&key) || model.filled.contains_key(&key) {
            return false;
        }
        model.filled.insert(key, content);
        if model.up {
            self.answer(Input::Arrived { peer, place });
        }
        true
    }

    fn answer(&mut self, input: Input) {
        self.asked += 1;
        let delay = 1 + self.chance.below(3000);
        self.coming.insert((self.now + delay, self.asked), input);
    }

    fn act(&mut self, action: Action) {
        self.log.push(action.clone());
        match action {
            Action::Register { relay, slots } => {
                let model = self.relays.get_mut(&relay).expect("there");
                assert!(model.up);
                let (mut done, mut refused) = (Vec::new(), Vec::new());
                for slot in slots {
                    let count = (model.registered.len() - model.gone.len()) as u64 + model.dummies;
                    match slot {
                        Slot::Dummy(_) => model.dummies += u64::from(count < model.max_slots),
                        Slot::Of(peer, place) if count < model.max_slots => {
                            model.registered.insert((peer, place));
                            done.push((peer, place));
                        }
                        Slot::Of(peer, place) => refused.push((peer, place)),
                    }
                }
                if !refused.is_empty() {
                    self.answer(Input::NotRegistered { relay, slots: refused, code: Code::Slots });
                }
                self.answer(Input::Registered { relay, slots: done });
            }
            Action::Unregister { relay, slots } => {
                let model = self.relays.get_mut(&relay).expect("there");
                for slot in &slots {
                    assert!(!self.lanes.contains_key(&slot.0) || !model.filled.contains_key(slot), "mail is lost");
                    model.registered.remove(slot);
                    model.filled.remove(slot);
                    model.gone.remove(slot);
                }
                self.answer(Input::Unregistered { relay, slots });
            }
            Action::Record { peer, relay, class, window } => {
                self.windows.insert((peer, relay, class), window);
            }
            Action::List(relay) => {
                let filled = self.relays[&relay].filled.keys().copied().collect();
                self.answer(Input::Listed { relay, filled });
            }
            Action::Fetch { peer, place } => {
                let model = &self.relays[&place.relay];
                assert!(model.up);
                if model.stuck {
                    return;
                }
                let input = match model.filled.get(&(peer, place)) {
                    Some(Content::Part(parcel, part, parts)) => {
                        let (parcel, part, parts) = (*parcel, *part, *parts);
                        Input::Opened { peer, place, parcel, part, parts }
                    }
                    Some(Content::Junk) => Input::Spoilt { peer, place },
                    None => Input::Refused { peer, place, code: Code::Unknown },
                };
                self.answer(input);
            }
            Action::Delete { peer, place } => {
                let model = self.relays.get_mut(&place.relay).expect("there");
                assert!(model.up);
                if let Some(Content::Part(parcel, ..)) = model.filled.remove(&(peer, place)) {
                    assert!(self.settled.contains(&(peer, parcel)), "removed before it is stored");
                }
                model.gone.insert((peer, place));
                self.answer(Input::Gone { peer, place });
            }
            Action::Discard { peer, parcel } => {
                self.parts.remove(&(peer, parcel));
                self.settled.insert((peer, parcel));
            }
            Action::Forget(peer) => assert!(!self.lanes.contains_key(&peer)),
        }
    }

    fn run(&mut self, until: u64) {
        loop {
            let mut out = Vec::new();
            self.inbox.poll(self.now, &mut out);
            let acted = !out.is_empty();
            out.into_iter().for_each(|action| self.act(action));
            let coming = self.coming.keys().next().map(|key| key.0);
            let next = self.inbox.deadline().into_iter().chain(coming).min().unwrap_or(u64::MAX);
            assert!(acted || next > self.now || coming == Some(self.now), "it spins");
            if next > until {
                self.now = until.max(self.now);
                return;
            }
            self.now = next.max(self.now);
            while let Some(entry) = self.coming.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let input = entry.remove();
                self.tell(input.clone());
                if let Input::Opened { peer, parcel, part, parts, .. } = input {
                    let of = self.parts.entry((peer, parcel)).or_insert((BTreeSet::new(), parts));
                    of.0.insert(part);
                    if of.0.len() == parts as usize {
                        self.settled.insert((peer, parcel));
                    }
                    if self.settled.contains(&(peer, parcel)) {
                        self.tell(Input::Settled { peer, parcel });
                    }
                }
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.run(self.now + ms);
    }

    fn place(relay: RelayKey, class: Class, number: u64) -> Place {
        Place { relay, class, number }
    }

    fn fetches(&self) -> Vec<Place> {
        let fetch = |action: &Action| match action {
            Action::Fetch { place, .. } => Some(*place),
            _ => None,
        };
        self.log.iter().filter_map(fetch).collect()
    }
}

#[test]
fn windows_are_registered_in_any_order_with_some_dummies() {
    let mut world = World::new(1, 2, 20);
    world.all_up();
    world.pass(MINUTE);
    for model in world.relays.values() {
        assert_eq!(model.registered.len(), 20 * 31);
        assert!((30..100).contains(&model.dummies), "{} dummies", model.dummies);
    }
    let Some(Action::Register { slots, .. }) = world.log.first() else { panic!("{:?}", world.log.first()) };
    let first: BTreeSet<PublicKey> = slots[..50]
        .iter()
        .filter_map(|slot| match slot {
            Slot::Of(peer, _) => Some(*peer),
            Slot::Dummy(_) => None,
        })
        .collect();
    assert!(first.len() > 10, "lanes are not mixed: {first:?}");
    let numbers: Vec<u64> = slots
        .iter()
        .filter_map(|slot| match slot {
            Slot::Of(of, Place { class: Class::K16, number, .. }) if *of == peer(1) => Some(*number),
            _ => None,
        })
        .collect();
    assert!(!numbers.is_sorted(), "{numbers:?}");
}

#[test]
fn windows_move_on_when_a_quarter_is_used() {
    let mut world = World::new(1, 1, 1);
    world.all_up();
    world.pass(MINUTE);
    let upto = |world: &World| world.windows[&(peer(1), relay(1), Class::K16)].registered;
    assert_eq!(upto(&world), 16);
    for number in 0..3 {
        assert!(world.fill(peer(1), World::place(relay(1), Class::K16, number), Content::Part(mail(number), 0, 1)));
    }
    world.pass(MINUTE);
    assert_eq!(upto(&world), 16);
    world.fill(peer(1), World::place(relay(1), Class::K16, 3), Content::Part(mail(3), 0, 1));
    world.pass(MINUTE);
    assert_eq!(upto(&world), 20);
}

#[test]
fn every_copy_is_removed_but_only_after_its_parcel_is_settled() {
    let mut world = World::new(1, 3, 1);
    world.all_up();
    world.pass(MINUTE);
    for of in 1..=3 {
        for part in 0..2 {
            let place = World::place(relay(of), Class::K128, part);
            assert!(world.fill(peer(1), place, Content::Part(mail(1), part as u32, 2)));
        }
    }
    world.pass(10 * MINUTE);
    assert!(world.settled.contains(&(peer(1), mail(1))));
    assert!(world.relays.values().all(|model| model.filled.is_empty()));
    // A copy that comes later is known, and goes as well.
    world.fill(peer(1), World::place(relay(2), Class::K128, 5), Content::Part(mail(1), 0, 2));
    world.pass(10 * MINUTE);
    assert!(world.relays.values().all(|model| model.filled.is_empty()));
}

#[test]
fn the_smallest_first_and_what_is_probably_a_copy_last() {
    let mut world = World::new(1, 2, 1);
    world.all_up();
    world.pass(MINUTE);
    world.down(relay(1));
    world.down(relay(2));
    for of in 1..=2 {
        world.fill(peer(1), World::place(relay(of), Class::M1, 0), Content::Part(mail(1), 0, 1));
        world.fill(peer(1), World::place(relay(of), Class::K16, 0), Content::Part(mail(2), 0, 1));
    }
    world.log.clear();
    world.all_up();
    world.pass(MINUTE);
    let fetches = world.fetches();
    assert_eq!(fetches.len(), 4, "each once");
    let number = |class: Class| fetches.iter().position(|place| place.class == class).expect("fetched");
    assert!(number(Class::K16) < number(Class::M1));
    assert!(world.relays.values().all(|model| model.filled.is_empty()));
}

#[test]
fn looks_come_at_any_time_around_their_mean() {
    let mut world = World::new(1, 1, 1);
    world.all_up();
    world.pass(10 * DAY);
    let looks = world.log.iter().filter(|action| matches!(action, Action::List(_))).count();
    assert!((1300..1600).contains(&looks), "{looks} looks in ten days");
}

#[test]
fn a_look_that_was_not_answered_is_made_again() {
    let mut inbox = Inbox::new(Settings::default(), [7; 32]);
    let looks = |inbox: &mut Inbox, now: u64| {
        let mut actions = Vec::new();
        inbox.poll(now, &mut actions);
        actions.contains(&Action::List(relay(1)))
    };
    inbox.handle(0, Input::Up { relay: relay(1), max_slots: 100 });
    assert!(looks(&mut inbox, DAY) && !looks(&mut inbox, 2 * DAY), "it is awaited");
    inbox.handle(2 * DAY, Input::NotListed(relay(1)));
    assert!(!looks(&mut inbox, 2 * DAY) && looks(&mut inbox, 3 * DAY), "but not at once");
}

#[test]
fn what_cannot_be_opened_is_removed() {
    let mut world = World::new(1, 1, 1);
    world.all_up();
    world.pass(MINUTE);
    world.fill(peer(1), World::place(relay(1), Class::K16, 0), Content::Junk);
    world.pass(MINUTE);
    assert!(world.relays[&relay(1)].filled.is_empty());
}

#[test]
fn a_relay_that_answers_nothing_holds_no_other_up() {
    let mut world = World::new(1, 2, 1);
    world.all_up();
    world.pass(MINUTE);
    world.relays.get_mut(&relay(1)).expect("there").stuck = true;
    for number in 0..1 {
        world.fill(peer(1), World::place(relay(1), Class::M4, number), Content::Part(mail(1), 0, 1));
    }
    world.pass(MINUTE);
    world.fill(peer(1), World::place(relay(2), Class::M4, 0), Content::Part(mail(2), 0, 1));
    world.fill(peer(1), World::place(relay(2), Class::M1, 0), Content::Part(mail(3), 0, 1));
    world.pass(2 * HOUR);
    assert!(world.settled.contains(&(peer(1), mail(2))) && world.settled.contains(&(peer(1), mail(3))));
}

#[test]
fn what_a_relay_emptied_for_good_is_not_fetched_again() {
    let mut world = World::new(1, 1, 1);
    world.all_up();
    world.pass(MINUTE);
    let place = World::place(relay(1), Class::K16, 0);
    world.fill(peer(1), place, Content::Part(mail(1), 0, 1));
    world.pass(10 * MINUTE);
    world.log.clear();
    world.tell(Input::Arrived { peer: peer(1), place });
    world.pass(10 * MINUTE);
    assert!(world.fetches().is_empty());
}

#[test]
fn parts_of_incomplete_parcels_are_bounded_and_given_up() {
    let mut world = World::new(1, 1, 1);
    world.inbox.set(Settings { max_assembly: 3 << 20, assembly_for: DAY, ..Settings::default() });
    world.all_up();
    world.pass(MINUTE);
    for number in 0..6 {
        world.fill(peer(1), World::place(relay(1), Class::M1, number), Content::Part(mail(number), 0, 2));
        world.pass(MINUTE);
    }
    world.pass(HOUR);
    assert_eq!(world.parts.len(), 3, "no more than fit");
    world.pass(3 * DAY);
    let dropped = world.log.iter().filter(|action| matches!(action, Action::Discard { .. })).count();
    assert!(dropped >= 3 && world.relays[&relay(1)].filled.len() <= 3, "{dropped} dropped");
}

#[test]
fn a_relay_with_few_slots_is_shared_between_all_lanes() {
    let mut world = World::new(1, 1, 10);
    world.relays.get_mut(&relay(1)).expect("there").max_slots = 100;
    world.all_up();
    world.pass(DAY);
    let model = &world.relays[&relay(1)];
    assert!(model.registered.len() as u64 + model.dummies <= 100);
    for lane in 1..=10 {
        assert!(model.registered.iter().any(|(of, place)| *of == peer(lane) && place.class == Class::K16), "{lane}");
    }
}

#[test]
fn slots_of_a_lane_that_is_gone_are_unregistered() {
    let mut world = World::new(1, 2, 2);
    world.all_up();
    world.pass(MINUTE);
    world.down(relay(2));
    world.lanes.remove(&peer(1));
    world.tell(Input::LaneGone(peer(1)));
    world.pass(MINUTE);
    let left = |world: &World, at| world.relays[&relay(at)].registered.iter().filter(|(of, _)| *of == peer(1)).count();
    assert_eq!((left(&world, 1), left(&world, 2)), (0, 31));
    assert!(!world.log.contains(&Action::Forget(peer(1))));
    world.up(relay(2));
    world.pass(MINUTE);
    assert_eq!(left(&world, 2), 0);
    assert!(world.log.contains(&Action::Forget(peer(1))));
}

#[test]
fn numbers_used_without_our_seeing_them_do_not_end_a_lane() {
    let mut world = World::new(1, 1, 1);
    world.all_up();
    world.pass(MINUTE);
    // Filled and removed by the sender, all of them.
    let model = world.relays.get_mut(&relay(1)).expect("there");
    model.gone.extend(model.registered.iter().copied());
    world.pass(60 * DAY);
    for class in Class::ALL {
        let from = u64::from(OPEN[usize::from(class.number())]);
        let next = Slot::Of(peer(1), World::place(relay(1), class, from));
        let registers = |action: &Action| matches!(action, Action::Register { slots, .. } if slots.contains(&next));
        assert!(world.log.iter().any(registers), "{class:?}");
    }
    let count = world.relays[&relay(1)].registered.len();
    assert!(count <= 31 * BEHIND_REGISTERED as usize + 5, "{count} slots");
}

#[test]
fn a_relay_that_knows_nothing_is_told_all_again() {
    let mut world = World::new(1, 1, 1);
    world.all_up();
    world.pass(MINUTE);
    world.relays.get_mut(&relay(1)).expect("there").registered.clear();
    world.tell(Input::Fresh(relay(1)));
    world.pass(MINUTE);
    assert_eq!(world.relays[&relay(1)].registered.len(), 31);
}

/// Senders, relays and this agent do what they like, with kill -9 at any time; in the end everything is well.
fn weather(seed: u64) {
    let relays = 1 + (seed % 3) as u8;
    let mut world = World::new(seed, relays, 3);
    let mut next: BTreeMap<(PublicKey, RelayKey, Class), u64> = BTreeMap::new();
    let mut sent: BTreeMap<(PublicKey, MailId), BTreeSet<u32>> = BTreeMap::new();
    for step in 0..60 {
        let of = relay(1 + world.chance.below(u64::from(relays)) as u8);
        match world.chance.below(10) {
            0..5 => {
                let from = peer(1 + world.chance.below(3) as u8);
                let parts = 1 + world.chance.below(3) as u32;
                for part in 0..parts {
                    let class = Class::ALL[world.chance.below(3) as usize];
                    for at in (1..=relays).map(relay) {
                        // Some numbers are lost on the sender's side.
                        let number = next.entry((from, at, class)).or_default();
                        *number += u64::from(world.chance.below(20) == 0);
                        let place = World::place(at, class, *number);
                        if world.fill(from, place, Content::Part(mail(step), part, parts)) {
                            *next.get_mut(&(from, at, class)).expect("there") += 1;
                            sent.entry((from, mail(step))).or_default().insert(part);
                        }
                    }
                }
                sent.retain(|(_, id), of| *id != mail(step) || of.len() == parts as usize);
            }
            5 => world.down(of),
            6 | 7 => world.up(of),
            8 => world.restart(),
            _ => {}
        }
        let pause = [1, 1000, MINUTE, HOUR][world.chance.below(4) as usize];
        world.pass(pause);
    }
    world.all_up();
    world.pass(DAY);
    for key in sent.keys() {
        assert!(world.settled.contains(key), "{key:?} is lost");
    }
    for model in world.relays.values() {
        for ((from, place), content) in &model.filled {
            let Content::Part(id, ..) = content else { panic!("{place:?} is junk") };
            assert!(!world.settled.contains(&(*from, *id)), "a copy at {place:?} was left");
        }
    }
    assert!(sent.len() > 5, "little was sent");
}

#[test]
fn nothing_is_lost_and_every_copy_goes_whatever_the_weather() {
    for seed in 0..100 {
        let result = std::panic::catch_unwind(|| weather(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn a_slot_that_somebody_else_took_is_used_up_and_holds_up_no_other() {
    let mut inbox = Inbox::new(Settings::default(), [3; 32]);
    let (relay, class) = (relay(1), Class::K16);
    for number in 1..=2 {
        let lane = Input::Lane { peer: peer(number), relays: vec![relay], open: OPEN, windows: BTreeMap::new() };
        inbox.handle(DAY, lane);
    }
    inbox.handle(DAY, Input::Up { relay, max_slots: 8192 });
    let asked = |inbox: &mut Inbox| {
        let mut actions = Vec::new();
        inbox.poll(DAY, &mut actions);
        let slots = actions.into_iter().flat_map(|action| match action {
            Action::Register { slots, .. } => slots,
            _ => Vec::new(),
        });
        let of_lane = |slot| if let Slot::Of(peer, place) = slot { Some((peer, place)) } else { None };
        slots.filter_map(of_lane).collect::<Vec<_>>()
    };
    let taken = (peer(1), Place { relay, class, number: 3 });
    let mut slots = asked(&mut inbox);
    slots.retain(|slot| *slot != taken);
    inbox.handle(DAY, Input::Registered { relay, slots });
    inbox.handle(DAY, Input::NotRegistered { relay, slots: vec![taken], code: Code::Taken });
    assert_eq!(asked(&mut inbox), [], "it is not asked for again");
    inbox.handle(DAY, Input::Arrived { peer: peer(2), place: Place { relay, class, number: 7 } });
    let more: Vec<u64> = asked(&mut inbox)
        .into_iter()
        .map(|(of, place)| {
            assert_eq!((of, place.class), (peer(2), class));
            place.number
        })
        .collect();
    assert_eq!(more.len(), 8, "the other lane goes on at once");
}
