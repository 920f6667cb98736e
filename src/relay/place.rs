//! A slot as decisions see it, without keys.

use crate::lane::keys::{Class, RelayKey};

/// The slot of one lane with this class and number at this relay; [`crate::lane::keys::LaneSeed::slot`] gives its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Where.
    pub relay: RelayKey,
    /// How large.
    pub class: Class,
    /// Which; they begin at 0 for each relay and class of a lane.
    pub number: u64,
}
