//! Any sequence of messages, failures and restarts against both shelves: each slot goes its way only by its key or its
//! owner, no quota is exceeded, every signature tells the truth, and the two shelves cannot be told apart.

use std::collections::BTreeMap;

use proptest::prelude::*;
use toxmail::identity::tox_id::PublicKey;
use toxmail::lane::keys::{Class, SlotId};
use toxmail::relay::descriptor::Admission;
use toxmail::relay::server::Input;
use toxmail::relay::server::shelf::{Shelf, Slot, State};
use toxmail::relay::wire::{Answer, Registered, Request};

use crate::world::{
    Breaking, DAY, SIZE, World, content, crashed, digest, in_memory, key, limits, octets, on_disk, reopened, slot,
};

/// Two owners, and a visitor of each.
const CLIENTS: [u8; 4] = [1, 2, 101, 102];
/// Slots of each owner.
const SLOTS: u64 = 4;

/// A slot: whose seed, and which.
type Place = (u8, u64);

#[derive(Debug, Clone)]
enum Step {
    Register(u8, Vec<Place>, u8),
    Unregister(u8, Vec<Place>),
    /// By whom, where, the content, how many of the requests that fill it, by the key of which slot.
    Put(u8, Place, u8, usize, Place),
    /// By whom, where, by the key of which slot.
    Delete(u8, Place, Place),
    /// A signature for putting, said to be one for deleting, and the other way about.
    Confuse(u8, Place, u8),
    Look(u8, Place),
    Raw(u8, Vec<u8>),
    Reconnect(u8),
    Pass(u64),
    Restart,
    /// The step's changes do not reach the disk.
    Fail(Box<Step>),
}

fn step() -> impl Strategy<Value = Step> {
    let client = || prop::sample::select(CLIENTS.to_vec());
    let place = || (1..=2u8, 0..SLOTS);
    let places = || prop::collection::vec(place(), 1..4);
    let simple = prop_oneof![
        2 => (client(), places(), prop_oneof![9 => Just(0u8), 1 => any::<u8>()]).prop_map(|(c, p, n)| Step::Register(c, p, n)),
        1 => (client(), places()).prop_map(|(c, p)| Step::Unregister(c, p)),
        6 => (client(), place(), 0..3u8).prop_map(|(c, p, n)| Step::Put(c, p, n, usize::MAX, p)),
        2 => (client(), place(), 0..3u8, prop_oneof![3 => 1..15usize, 2 => Just(usize::MAX)], place()).prop_map(|(c, p, n, some, k)| Step::Put(c, p, n, some, k)),
        2 => (client(), place()).prop_map(|(c, p)| Step::Delete(c, p, p)),
        1 => (client(), place(), place()).prop_map(|(c, p, k)| Step::Delete(c, p, k)),
        1 => (client(), place(), 0..3u8).prop_map(|(c, p, n)| Step::Confuse(c, p, n)),
        1 => (client(), place()).prop_map(|(c, p)| Step::Look(c, p)),
        1 => (client(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(c, octets)| Step::Raw(c, octets)),
        1 => client().prop_map(Step::Reconnect),
        1 => prop_oneof![Just(100u64), Just(DAY), Just(31 * DAY)].prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ];
    let failing = simple.clone().prop_map(|step| Step::Fail(Box::new(step)));
    prop_oneof![12 => simple, 1 => failing]
}

fn named((owner, number): Place) -> toxmail::lane::keys::SlotKey {
    slot(owner, number)
}

/// What a client says in a step.
fn requests<S: Shelf>(world: &World<S>, step: &Step) -> Option<(u8, Vec<Request>)> {
    Some(match step {
        Step::Register(client, places, class) => {
            let slots = places.iter().map(|place| Registered { slot: named(*place).id().0, class: *class });
            (*client, vec![Request::Register(1, slots.collect())])
        }
        Step::Unregister(client, places) => {
            let slots = places.iter().map(|place| octets(&named(*place))).collect();
            (*client, vec![Request::Unregister(2, slots)])
        }
        Step::Put(client, place, what, many, by) => {
            let slot = named(*place);
            let mut requests = world.fill(&slot, &content(*what));
            let signature = named(*by).sign_put(&world.relay(), &digest(&content(*what)).0, SIZE);
            *requests.last_mut().expect("a seal") = Request::Seal(octets(&slot), signature);
            requests.truncate(*many);
            (*client, requests)
        }
        Step::Delete(client, place, by) => {
            let signature = named(*by).sign_delete(&world.relay());
            (*client, vec![Request::Delete(octets(&named(*place)), signature)])
        }
        Step::Confuse(client, place, what) => {
            let slot = named(*place);
            let put = slot.sign_put(&world.relay(), &digest(&content(*what)).0, SIZE);
            let requests = vec![
                Request::Delete(octets(&slot), put),
                Request::Seal(octets(&slot), slot.sign_delete(&world.relay())),
            ];
            (*client, requests)
        }
        Step::Look(client, place) => (*client, vec![Request::List(0), Request::Get(octets(&named(*place)), 0)]),
        _ => return None,
    })
}

type Slots = BTreeMap<SlotId, Slot>;

fn slots<S: Shelf>(world: &mut World<S>) -> Slots {
    let places = (1..=2).flat_map(|owner| (0..SLOTS).map(move |number| slot(owner, number).id()));
    places.filter_map(|id| Some((id, world.server.shelf_mut().slot(&id).expect("read")?))).collect()
}

/// Whether a slot may go from one state to another in this step.
fn may<S: Shelf>(world: &World<S>, step: &Step, id: &SlotId, before: Option<&Slot>, after: Option<&Slot>) -> bool {
    let is = |place: &Place| named(*place).id() == *id;
    match (step, before, after) {
        (Step::Register(client, places, 0), None, Some(slot)) => {
            slot.owner == key(*client)
                && slot.state == State::Empty
                && slot.class == Class::K16
                && places.iter().any(is)
        }
        (Step::Unregister(client, places), Some(slot), None) => slot.owner == key(*client) && places.iter().any(is),
        (
            Step::Put(_, place, what, usize::MAX, by),
            Some(slot),
            Some(Slot { state: State::Filled { digest: has, expires, .. }, .. }),
        ) => {
            let expires_right = *expires == world.now.seconds + limits().retention;
            slot.state == State::Empty && is(place) && is(by) && *has == digest(&content(*what)) && expires_right
        }
        (Step::Delete(_, place, by), Some(slot), Some(Slot { state: State::Gone(_), .. })) => {
            !matches!(slot.state, State::Gone(_)) && is(place) && is(by)
        }
        (Step::Pass(_), Some(Slot { state: State::Filled { expires: end, .. } | State::Gone(end), .. }), None) => {
            *end < world.now.seconds
        }
        _ => false,
    }
}

/// Carries a step out and holds it against the rules; what everybody heard.
fn run<S: Shelf>(world: &mut World<Breaking<S>>, step: &Step) -> Result<Vec<(PublicKey, Answer)>, TestCaseError> {
    let before = slots(world);
    let (step, fails) = if let Step::Fail(step) = step { (&**step, true) } else { (step, false) };
    world.server.shelf_mut().broken = fails;
    match step {
        Step::Raw(client, packet) => {
            world.handle(Input::Packet(key(*client), packet));
            let _ = world.poll();
        }
        Step::Reconnect(client) => {
            world.handle(Input::Offline(key(*client)));
            let _ = world.poll();
            if *client > 100 && !world.friends.contains(&key(*client)) {
                for number in 0..SLOTS {
                    let slot = slot(client - 100, number);
                    let admission = Admission::visitor(&slot, &world.relay(), &key(*client));
                    world.handle(Input::Asked(key(*client), admission.to_string().as_bytes()));
                }
                let _ = world.poll();
            }
            world.greet(key(*client));
        }
        Step::Pass(seconds) if !fails => world.pass(*seconds),
        step => {
            if let Some((client, requests)) = requests(world, step) {
                let _ = world.say_to(key(client), &requests);
            }
        }
    }
    world.server.shelf_mut().broken = false;
    world.acknowledge();
    let after = slots(world);
    for id in before.keys().chain(after.keys()) {
        let (before, after) = (before.get(id), after.get(id));
        let allowed = before == after || (!fails && may(world, step, id, before, after));
        prop_assert!(allowed, "{step:?} made {before:?} {after:?}");
    }
    let heard = world.take_all();
    let relay = world.relay();
    for (_, answer) in &heard {
        match answer {
            Answer::Stored(slot, what, until, signature) => {
                let slot = SlotId(slot.0);
                prop_assert!(relay.verify_stored(&slot, what, *until, signature));
                let state = after.get(&slot).map(|slot| &slot.state);
                let is = matches!(state, Some(State::Filled { digest, expires, .. }) if digest.0 == *what && expires == until);
                prop_assert!(is, "STORED for {state:?}");
            }
            Answer::Gone(slot, signature) => {
                let slot = SlotId(slot.0);
                prop_assert!(relay.verify_gone(&slot, signature));
                prop_assert!(matches!(after.get(&slot).map(|slot| &slot.state), Some(State::Gone(_))));
            }
            Answer::Done(_) => prop_assert!(!fails || before == after),
            _ => {}
        }
    }
    // The engine's accounts are those of the shelf, and within the limits.
    let accounts: Vec<_> = world.server.owners().cloned().collect();
    prop_assert_eq!(&accounts, &world.server.shelf_mut().owners().expect("read"));
    prop_assert!(accounts.iter().all(|owner| owner.used <= limits().owner_quota));
    prop_assert!(world.server.totals().used <= limits().max_disk);
    Ok(heard)
}

fn prepare<S: Shelf>(world: &mut World<S>) {
    for owner in [1, 2] {
        world.owner(key(owner), None);
        let slots: Vec<_> = (0..SLOTS).map(|number| slot(owner, number)).collect();
        world.register(key(owner), &slots.iter().collect::<Vec<_>>());
        world.visitor(key(100 + owner), &slot(owner, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_slot_goes_its_way_by_its_key_or_its_owner_alone(steps in prop::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut memory, mut disk) = (in_memory(), on_disk(folder.path()));
        prepare(&mut memory);
        prepare(&mut disk);
        for step in &steps {
            if matches!(step, Step::Restart) {
                memory = memory.restart(crashed);
                disk = disk.restart(|shelf| reopened(shelf, folder.path()));
                for client in CLIENTS {
                    memory.greet(key(client));
                    disk.greet(key(client));
                }
            }
            let heard = run(&mut memory, step)?;
            prop_assert_eq!(heard, run(&mut disk, step)?);
            prop_assert!(memory.server.shelf_mut().shelf.octets() as u64 <= limits().max_disk);
        }
    }
}
