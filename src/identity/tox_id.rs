//! Tox IDs and public keys (c-toxcore `toxcore/tox.h`, `TOX_ADDRESS_SIZE`, `TOX_PUBLIC_KEY_SIZE`).

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD_NOCASE, HEXLOWER, HEXLOWER_PERMISSIVE, HEXUPPER};

/// A long-term Tox public key (X25519), 32 octets: what identifies a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

/// A Tox ID: public key (32 octets), nospam (4), checksum (2). Needed only to ask for friendship.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ToxId {
    key: PublicKey,
    nospam: [u8; 4],
}

/// Why a text is no Tox ID or key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidToxId {
    /// Neither 76 hexadecimal digits nor 61 base32 characters (ID), nor 64 or 52 (key).
    Form,
    /// The form is right but the checksum is not: a typing error.
    Checksum,
}

impl fmt::Display for InvalidToxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "a Tox ID is 76 hexadecimal digits (or 61 base32 characters), a public key 64 (or 52)",
            Self::Checksum => "the checksum of this Tox ID is wrong: a character was mistyped or lost",
        })
    }
}

impl std::error::Error for InvalidToxId {}

impl PublicKey {
    /// The 52 lower-case base32 characters (RFC 4648, no padding) that fit a DNS label.
    pub fn base32(&self) -> String {
        BASE32_NOPAD_NOCASE.encode(&self.0).to_ascii_lowercase()
    }

    /// The first 16 hexadecimal digits, for log lines.
    pub fn short(&self) -> String {
        HEXUPPER.encode(&self.0[..8])
    }
}

/// 64 upper-case hexadecimal digits, as Tox programs show it.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXUPPER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", HEXLOWER.encode(&self.0[..4]))
    }
}

fn decode(text: &str, hex: usize, base32: usize) -> Result<Vec<u8>, InvalidToxId> {
    let octets = text.as_bytes();
    if octets.len() == hex {
        HEXLOWER_PERMISSIVE.decode(octets).map_err(|_| InvalidToxId::Form)
    } else if octets.len() == base32 {
        BASE32_NOPAD_NOCASE.decode(octets).map_err(|_| InvalidToxId::Form)
    } else {
        Err(InvalidToxId::Form)
    }
}

/// Reads 64 hexadecimal digits or 52 base32 characters, in any case.
impl FromStr for PublicKey {
    type Err = InvalidToxId;

    fn from_str(text: &str) -> Result<Self, InvalidToxId> {
        let octets = decode(text, 64, 52)?;
        octets.try_into().map(PublicKey).map_err(|_| InvalidToxId::Form)
    }
}

impl ToxId {
    /// The ID of `key` with `nospam`; the checksum follows from them.
    pub fn new(key: PublicKey, nospam: [u8; 4]) -> Self {
        Self { key, nospam }
    }

    /// The public key.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// The 38 octets as libtoxcore takes them.
    pub fn octets(&self) -> [u8; 38] {
        let mut id = [0; 38];
        id[..32].copy_from_slice(&self.key.0);
        id[32..36].copy_from_slice(&self.nospam);
        let mut checksum = [0u8; 2];
        for (at, octet) in id[..36].iter().enumerate() {
            checksum[at % 2] ^= octet;
        }
        id[36..].copy_from_slice(&checksum);
        id
    }

    /// Reads the 38 octets as libtoxcore gives them.
    ///
    /// # Errors
    /// The checksum is wrong.
    pub fn from_octets(octets: &[u8; 38]) -> Result<Self, InvalidToxId> {
        let mut key = [0; 32];
        key.copy_from_slice(&octets[..32]);
        let mut nospam = [0; 4];
        nospam.copy_from_slice(&octets[32..36]);
        let id = Self::new(PublicKey(key), nospam);
        if id.octets() == *octets { Ok(id) } else { Err(InvalidToxId::Checksum) }
    }

    /// The 61 lower-case base32 characters (RFC 4648, no padding) used before `@tox.alt`.
    pub fn base32(&self) -> String {
        BASE32_NOPAD_NOCASE.encode(&self.octets()).to_ascii_lowercase()
    }
}

/// 76 upper-case hexadecimal digits, as Tox programs show it.
impl fmt::Display for ToxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXUPPER.encode(&self.octets()))
    }
}

impl fmt::Debug for ToxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ToxId({:?})", self.key)
    }
}

/// Reads 76 hexadecimal digits or 61 base32 characters, in any case, and an optional `tox:` before them.
impl FromStr for ToxId {
    type Err = InvalidToxId;

    fn from_str(text: &str) -> Result<Self, InvalidToxId> {
        let octets = decode(text.strip_prefix("tox:").unwrap_or(text), 76, 61)?;
        let octets: [u8; 38] = octets.try_into().map_err(|_| InvalidToxId::Form)?;
        Self::from_octets(&octets)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The ID in the 2014 record of tarek@toxme.se.
    const HISTORIC: &str = "545325E0B0B85B29C26BF0B6448CE12DFE0CD8D432D48D20362878C63BA4A734018C37107090";

    #[test]
    fn a_historic_id_reads_and_a_typing_error_is_found() {
        let id: ToxId = HISTORIC.parse().expect("valid");
        assert_eq!(id.to_string(), HISTORIC);
        assert_eq!(id.key().to_string(), HISTORIC[..64]);
        assert_eq!(format!("tox:{}", HISTORIC.to_lowercase()).parse::<ToxId>(), Ok(id));
        for at in 0..76 {
            let other = if HISTORIC.as_bytes()[at] == b'0' { "1" } else { "0" };
            let wrong = format!("{}{other}{}", &HISTORIC[..at], &HISTORIC[at + 1..]);
            assert_eq!(wrong.parse::<ToxId>(), Err(InvalidToxId::Checksum));
        }
        assert_eq!(HISTORIC[..75].parse::<ToxId>(), Err(InvalidToxId::Form));
    }

    proptest! {
        #[test]
        fn ids_and_keys_survive_both_forms(key: [u8; 32], nospam: [u8; 4]) {
            let id = ToxId::new(PublicKey(key), nospam);
            prop_assert_eq!(id.base32().len(), 61);
            prop_assert_eq!(id.key().base32().len(), 52);
            prop_assert_eq!(id.base32().to_uppercase().parse::<ToxId>(), Ok(id));
            prop_assert_eq!(id.to_string().parse::<ToxId>(), Ok(id));
            prop_assert_eq!(id.key().base32().parse::<PublicKey>(), Ok(id.key()));
            prop_assert_eq!(id.key().to_string().parse::<PublicKey>(), Ok(id.key()));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,80}|[A-Za-z0-9]{52}|[A-Za-z0-9]{61}|[A-Fa-f0-9]{76}") {
            let _ = (text.parse::<ToxId>(), text.parse::<PublicKey>());
        }
    }
}
