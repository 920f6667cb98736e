//! How a relay is told to others: its Tox ID and its key in one line of text, and the words with which somebody asks it for
//! friendship.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD_NOCASE, HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{RelayKey, SignatureOctets, SlotId, SlotKey};

/// What the text of a relay begins with.
const PREFIX: &str = "toxmail-relay:";

/// A relay: where it is reached and by what its signatures are known. Offers of lanes name it likewise.
pub use crate::lane::offer::RelayRef as Descriptor;

/// A secret of 16 octets that makes its bearer an owner, once.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Invite(pub [u8; 16]);

/// A text is no relay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidDescriptor;

impl fmt::Display for InvalidDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a relay is told as toxmail-relay: and 112 characters, with an invite as 27 more (toxctl relay invite)",
        )
    }
}

impl std::error::Error for InvalidDescriptor {}

impl Descriptor {
    /// The text that makes its bearer an owner.
    pub fn with_invite(&self, invite: &Invite) -> String {
        format!("{self}:{}", BASE32_NOPAD_NOCASE.encode(&invite.0).to_ascii_lowercase())
    }

    /// Reads a text with or without an invite.
    ///
    /// # Errors
    /// It is no relay's, or a character is wrong.
    pub fn parse(text: &str) -> Result<(Self, Option<Invite>), InvalidDescriptor> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(InvalidDescriptor)?;
        let (relay, invite) = text.split_once(':').map_or((text, None), |(relay, invite)| (relay, Some(invite)));
        let octets = |text: &str| BASE32_NOPAD_NOCASE.decode(text.as_bytes()).map_err(|_| InvalidDescriptor);
        let invite = invite.map(octets).transpose()?;
        let invite = invite.map(|octets| octets.try_into().map(Invite).map_err(|_| InvalidDescriptor));
        Ok((Self::from_octets(&octets(relay)?).ok_or(InvalidDescriptor)?, invite.transpose()?))
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE32_NOPAD_NOCASE.encode(&self.octets()).to_ascii_lowercase())
    }
}

impl FromStr for Descriptor {
    type Err = InvalidDescriptor;

    fn from_str(text: &str) -> Result<Self, InvalidDescriptor> {
        Self::parse(text).map(|(relay, _)| relay)
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invite(secret)")
    }
}

/// The text of the friend request that somebody sends to a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// To become an owner, with an invite or without.
    Owner(Option<Invite>),
    /// To fill slots; the key of one, which is registered and empty, vouches for the visitor's Tox key.
    Visitor(SlotId, SignatureOctets),
}

impl Admission {
    /// A visitor with the Tox key `visitor`, who has the key of a slot.
    pub fn visitor(slot: &SlotKey, relay: &RelayKey, visitor: &PublicKey) -> Self {
        Self::Visitor(slot.id(), slot.sign_visit(relay, visitor))
    }

    /// Reads the text of a request; `None` if it is none of these.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut words = text.strip_prefix("toxmail relay 1 ")?.split(' ');
        let octets = |word: Option<&str>| HEXLOWER_PERMISSIVE.decode(word?.as_bytes()).ok();
        match words.next()? {
            "owner" => match words.next() {
                None => Some(Self::Owner(None)),
                invite => Some(Self::Owner(Some(Invite(octets(invite)?.try_into().ok()?)))),
            },
            "visitor" => {
                let slot = SlotId(octets(words.next())?.try_into().ok()?);
                Some(Self::Visitor(slot, octets(words.next())?.try_into().ok()?))
            }
            _ => None,
        }
    }
}

/// The text itself: ASCII, at most 250 octets.
impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(None) => f.write_str("toxmail relay 1 owner"),
            Self::Owner(Some(invite)) => write!(f, "toxmail relay 1 owner {}", HEXLOWER.encode(&invite.0)),
            Self::Visitor(slot, signature) => {
                write!(f, "toxmail relay 1 visitor {slot} {}", HEXLOWER.encode(signature))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tox_id::ToxId;
    use crate::lane::keys::{Class, LaneSeed};

    fn relay() -> Descriptor {
        Descriptor { id: ToxId::new(PublicKey([3; 32]), [1, 2, 3, 4]), key: RelayKey([4; 32]) }
    }

    #[test]
    fn a_relay_is_told_with_and_without_an_invite() {
        let text = relay().to_string();
        assert_eq!(text.len(), PREFIX.len() + 112);
        assert_eq!(Descriptor::parse(&text), Ok((relay(), None)));
        let invite = Invite([9; 16]);
        assert_eq!(Descriptor::parse(&relay().with_invite(&invite)), Ok((relay(), Some(invite))));
        for wrong in
            ["", "toxmail-relay:", &text[..text.len() - 1], &text.replace("toxmail-", ""), &format!("{text}:aa")]
        {
            assert_eq!(Descriptor::parse(wrong), Err(InvalidDescriptor), "{wrong}");
        }
    }

    #[test]
    fn an_admission_is_read_as_it_was_written() {
        let slot = LaneSeed::new(&mut [7; 32]).slot(&relay().key, Class::K16, 0);
        let visitor = PublicKey([5; 32]);
        for admission in [
            Admission::Owner(None),
            Admission::Owner(Some(Invite([1; 16]))),
            Admission::visitor(&slot, &relay().key, &visitor),
        ] {
            assert_eq!(Admission::parse(admission.to_string().as_bytes()), Some(admission));
        }
        let Admission::Visitor(id, signature) = Admission::visitor(&slot, &relay().key, &visitor) else {
            unreachable!()
        };
        assert!(id.verify_visit(&relay().key, &visitor, &signature));
        for wrong in ["", "Hello", "toxmail relay 1 ", "toxmail relay 1 owner zz", "toxmail relay 1 visitor 00 00"] {
            assert_eq!(Admission::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
