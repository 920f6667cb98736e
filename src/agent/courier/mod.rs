//! Mail by relays.
use crate::identity::tox_id::PublicKey;

/// The way to the courier's thread.
#[derive(Clone)]
pub struct Handle {}
impl Handle {
    /// A mail link came up or went.
    pub fn link(&self, _account: usize, _peer: PublicKey, _up: bool) {}
    /// A word.
    pub fn word(&self, _account: usize, _peer: PublicKey, _kind: u64, _octets: Vec<u8>) {}
}
