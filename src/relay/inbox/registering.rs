//! Which slots are registered at a relay, and which are given up.

use super::{Action, Inbox, Lane, Slot, Window};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, RelayKey};
use crate::relay::place::Place;

/// One slot in so many is a dummy.
const DUMMIES: u64 = 10;

impl Inbox {
    /// Unregisters slots far behind those in use, below `upto`, that are empty, as a list told just now.
    pub(super) fn give_up(&mut self, peer: PublicKey, relay: RelayKey, class: Class, upto: u64) {
        let Some(lane) = self.lanes.get_mut(&peer) else { return };
        let Some(state) = lane.windows.get_mut(&(relay, class)) else { return };
        let Window { low, filled, .. } = state.window;
        let place = |number| Place { relay, class, number };
        // What is held keeps its slot, and the numbers above wait for it.
        let is_held = |number: &u64| self.held.contains_key(&(relay, peer, place(*number)));
        let upto = (low..upto).find(is_held).unwrap_or(upto);
        if upto <= low {
            return;
        }
        state.window.low = upto;
        state.window.filled = filled.max(upto);
        state.rolled = state.rolled.saturating_sub(state.window.filled - filled);
        let gone = state.gone.split_off(&upto);
        let gone = std::mem::replace(&mut state.gone, gone);
        let slots = (low..upto).filter(|number| !gone.contains(number)).map(|number| (peer, place(number)));
        let slots: Vec<_> = slots.collect();
        self.record(peer, place(upto));
        if !slots.is_empty() {
            self.pending.push(Action::Unregister { relay, slots });
        }
    }

    /// Registers what is missing in the windows of a relay once a quarter is used, in any order over all lanes.
    pub(super) fn register(&mut self, relay: RelayKey, out: &mut Vec<Action>) {
        let Some(state) = self.relays.get(&relay) else { return };
        let budget = budget(state.max_slots);
        let uses = |lane: &&mut Lane| lane.gone.is_none() && lane.relays.contains(&relay);
        let wanted: u64 = self
            .lanes
            .values_mut()
            .filter(uses)
            .map(|lane| lane.open.iter().copied().map(u64::from).sum::<u64>())
            .sum();
        let mut slots = Vec::new();
        for (peer, lane) in &mut self.lanes {
            if !uses(&&mut *lane) {
                continue;
            }
            for class in Class::ALL {
                let open = u64::from(lane.open[usize::from(class.number())]);
                if open == 0 {
                    continue;
                }
                // More than the relay takes: each lane gets less.
                let open = if wanted > budget { (open * budget / wanted).max(1) } else { open };
                let state = lane.windows.entry((relay, class)).or_default();
                let Window { filled, registered, .. } = state.window;
                let upto = filled + open + state.rolled;
                // Less than a quarter is used, and there is no gap.
                if upto.saturating_sub(registered) < open.div_ceil(4) && state.confirmed.is_empty() {
                    continue;
                }
                let missing = (registered..upto)
                    .filter(|number| !state.confirmed.contains(number) && !state.asked.contains(number));
                let missing: Vec<u64> = missing.collect();
                slots.extend(missing.iter().map(|number| Slot::Of(*peer, Place { relay, class, number: *number })));
                state.asked.extend(missing);
            }
        }
        let dummies: Vec<Slot> = slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::Of(_, place) => (self.chance.below(DUMMIES) == 0).then_some(Slot::Dummy(place.class)),
                Slot::Dummy(_) => None,
            })
            .collect();
        slots.extend(dummies);
        if !slots.is_empty() {
            self.chance.shuffle(&mut slots);
            out.push(Action::Register { relay, slots });
        }
    }

    /// Unregisters the slots of lanes that are gone.
    pub(super) fn unregister(&mut self, relay: RelayKey, out: &mut Vec<Action>) {
        let mut slots = Vec::new();
        for (peer, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.gone.is_some()) {
            for ((_, class), state) in lane.windows.iter_mut().filter(|((of, _), _)| *of == relay) {
                if state.asked.is_empty() {
                    state.asked = (state.window.low..state.window.registered).collect();
                    let place = |number| Place { relay, class: *class, number };
                    slots.extend(state.asked.iter().map(|number| (*peer, place(*number))));
                }
            }
            lane.windows.retain(|(of, _), state| *of != relay || !state.asked.is_empty());
        }
        if !slots.is_empty() {
            self.chance.shuffle(&mut slots);
            out.push(Action::Unregister { relay, slots });
        }
    }

    pub(super) fn forget_lanes(&mut self, now: u64, out: &mut Vec<Action>) {
        let at = &mut self.at;
        self.lanes.retain(|peer, lane| {
            let Some(until) = lane.gone else { return true };
            if lane.windows.is_empty() || until <= now {
                out.push(Action::Forget(*peer));
                return false;
            }
            *at = until.min(*at);
            true
        });
    }
}

/// How many slots of lanes a relay is given: the rest is for dummies, and for slots that are behind.
pub(super) fn budget(max_slots: u64) -> u64 {
    (max_slots / 10 * 7).max(1)
}
