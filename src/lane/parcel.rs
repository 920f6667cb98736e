//! Parcels: what one end of a lane tells the other, and how it is cut into parts.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use minicbor::{Decoder, Encoder, decode};
use zeroize::Zeroizing;

use super::keys::Class;
use super::offer::{MAX_OFFER, end, exact, skip};
use super::seal::capacity;
use crate::engine::transfer::{Digest, Encoding, MAX_RECIPIENTS, MailId, Outcome, TransferRecipient};
use crate::engine::wire::{EncodeError, definite, encode, is_address};
use crate::mail::status::{EnhancedStatus, Refusal};

/// The most parts of a parcel.
pub const MAX_PARTS: u32 = 4096;
/// The longest head of a parcel, in octets.
pub const MAX_HEAD: usize = 64 << 10;

/// What one end of a lane tells the other.
#[derive(Debug, PartialEq, Eq)]
pub enum Parcel {
    /// A mail; its encoded body follows the head.
    Mail(MailHead),
    /// Answers and announcements; nothing follows the head. It fits into one part of [`Class::K16`].
    Control(Vec<Item>),
}

/// A mail without its body: see [`crate::engine::transfer::Transfer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailHead {
    /// Its name, the same as on a direct link; it is the parcel's.
    pub id: MailId,
    /// The reverse-path; empty for `<>`.
    pub sender: String,
    /// Whom at the recipient's agent it is for; at least one.
    pub recipients: Vec<TransferRecipient>,
    /// Octets of the mail.
    pub size: u64,
    /// Octets of its encoded form.
    pub wire_size: u64,
    /// Of the mail.
    pub digest: Digest,
    /// Of the encoded form.
    pub encoding: Encoding,
    /// When the sender gives up, in milliseconds since the epoch.
    pub expires: u64,
}

/// One thing in a control parcel.
#[derive(PartialEq, Eq)]
pub enum Item {
    /// What became of one recipient of a mail.
    Receipt {
        /// The mail.
        id: MailId,
        /// Of the mail.
        digest: Digest,
        /// The recipient's number within the mail.
        index: u32,
        /// What became of it.
        outcome: Outcome,
        /// When, in seconds since the epoch.
        at: u64,
    },
    /// A new offer of a lane: octets of [`super::offer::Offer::to_octets`].
    Offer(Zeroizing<Vec<u8>>),
    /// The serial of the other side's offer that is followed.
    Seen(u64),
    /// The mail has bounced or was deleted: it is not to be delivered if it still comes.
    Cancel(MailId),
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receipt { id, index, outcome, .. } => write!(f, "Receipt({id}, {index}, {outcome:?})"),
            // It holds the seed of a lane.
            Self::Offer(octets) => write!(f, "Offer({} octets)", octets.len()),
            Self::Seen(serial) => write!(f, "Seen({serial})"),
            Self::Cancel(id) => write!(f, "Cancel({id})"),
        }
    }
}

/// A piece of a parcel, as it fills one slot.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// The parcel's name: that of the mail, or random.
    pub parcel: MailId,
    /// Its number, from 0 on.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// Octets of the parcel.
    pub total: u64,
    /// Where in the parcel it begins.
    pub offset: u64,
    /// The octets.
    pub octets: Vec<u8>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({}, {} of {}, {} octets)", self.parcel, self.part, self.parts, self.octets.len())
    }
}

/// A parcel or part cannot be read, or contradicts what came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidParcel;

impl fmt::Display for InvalidParcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the parcel is malformed, too long or of a later version")
    }
}

impl std::error::Error for InvalidParcel {}

impl From<decode::Error> for InvalidParcel {
    fn from(_: decode::Error) -> Self {
        Self
    }
}

impl Parcel {
    /// The octets that a parcel begins with; those of a mail's encoded body follow.
    pub fn head(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Mail(mail) => encode(&mut out, |e| mail.encode(e)),
            Self::Control(items) => {
                control_start(&mut out, items.len());
                items.iter().for_each(|item| item.encode(&mut out));
            }
        }
        out
    }

    /// Reads the parcel of this name and of `total` octets from its first [`MAX_HEAD`] octets, or all if there are less;
    /// with the length of its head, after which a mail's encoded body begins.
    ///
    /// # Errors
    /// It is malformed, breaks a bound, or its length is not what it says.
    pub fn read(name: MailId, total: u64, octets: &[u8]) -> Result<(Self, usize), InvalidParcel> {
        let d = &mut Decoder::new(&octets[..octets.len().min(MAX_HEAD)]);
        let further = definite(d.array()?)?.checked_sub(2).ok_or(InvalidParcel)?;
        let parcel = match d.u64()? {
            0 => Self::Mail(MailHead::decode(name, d)?),
            1 if total <= capacity(Class::K16) as u64 => {
                let mut items = Vec::new();
                for _ in 0..definite(d.array()?)? {
                    items.extend(Item::decode(d)?);
                }
                Self::Control(items)
            }
            _ => return Err(InvalidParcel),
        };
        skip(d, further)?;
        let body = if let Self::Mail(mail) = &parcel { mail.wire_size } else { 0 };
        if (d.position() as u64).checked_add(body) != Some(total) {
            return Err(InvalidParcel);
        }
        Ok((parcel, d.position()))
    }

    /// The items of a control parcel, all of whose octets these are; none if it is no such.
    pub fn items(octets: &[u8]) -> Vec<Item> {
        match Self::read(MailId([0; 16]), octets.len() as u64, octets) {
            Ok((Self::Control(items), _)) => items,
            _ => Vec::new(),
        }
    }

    /// Packs items, in order, into as few control parcels as hold them, each in one part of [`Class::K16`].
    pub fn pack(items: Vec<Item>) -> Vec<Self> {
        Self::pack_into(items, capacity(Class::K16))
    }

    /// The same into control parcels of at most `most` octets; an item that is longer has one of its own.
    pub fn pack_into(items: Vec<Item>, most: usize) -> Vec<Self> {
        let most = most.saturating_sub(CONTROL_START);
        let mut parcels: Vec<(usize, Vec<Item>)> = Vec::new();
        for item in items {
            let mut octets = Zeroizing::new(Vec::with_capacity(2 * MAX_OFFER));
            item.encode(&mut octets);
            match parcels.last_mut().filter(|(length, _)| length + octets.len() <= most) {
                Some((length, items)) => {
                    *length += octets.len();
                    items.push(item);
                }
                None => parcels.push((octets.len(), vec![item])),
            }
        }
        parcels.into_iter().map(|(_, items)| Self::Control(items)).collect()
    }
}

/// The longest start of a control parcel: two arrays and a number.
const CONTROL_START: usize = 1 + 1 + 3;

fn control_start(out: &mut Vec<u8>, items: usize) {
    encode(out, |e| e.array(2)?.u8(1)?.array(items as u64).map(drop));
}

impl MailHead {
    fn encode(&self, e: &mut Encoder<&mut Vec<u8>>) -> Result<(), EncodeError> {
        e.array(2)?.u8(0)?.map(7)?.u8(1)?.str(&self.sender)?.u8(2)?.array(self.recipients.len() as u64)?;
        for recipient in &self.recipients {
            e.array(2)?.u32(recipient.index)?.str(&recipient.address)?;
        }
        e.u8(3)?.u64(self.size)?.u8(4)?.u64(self.wire_size)?.u8(5)?.bytes(&self.digest.0)?;
        e.u8(6)?.u8(self.encoding.number())?.u8(7)?.u64(self.expires)?;
        Ok(())
    }

    fn decode(id: MailId, d: &mut Decoder<'_>) -> Result<Self, InvalidParcel> {
        let (mut sender, mut recipients, mut size, mut wire_size) = (None, Vec::new(), None, None);
        let (mut digest, mut encoding, mut expires) = (None, None, None);
        for _ in 0..definite(d.map()?)? {
            match d.u64()? {
                1 => sender = Some(address(d)?),
                2 => recipients = decode_recipients(d)?,
                3 => size = Some(d.u64()?),
                4 => wire_size = Some(d.u64()?),
                5 => digest = Some(Digest(exact(d)?)),
                6 => encoding = Some(Encoding::from_number(d.u8()?).ok_or(InvalidParcel)?),
                7 => expires = Some(d.u64()?),
                _ => d.skip()?,
            }
        }
        if recipients.is_empty() {
            return Err(InvalidParcel);
        }
        Ok(Self {
            id,
            sender: sender.ok_or(InvalidParcel)?,
            recipients,
            size: size.ok_or(InvalidParcel)?,
            wire_size: wire_size.ok_or(InvalidParcel)?,
            digest: digest.ok_or(InvalidParcel)?,
            encoding: encoding.ok_or(InvalidParcel)?,
            expires: expires.ok_or(InvalidParcel)?,
        })
    }
}

fn decode_recipients(d: &mut Decoder<'_>) -> Result<Vec<TransferRecipient>, InvalidParcel> {
    let mut recipients: Vec<TransferRecipient> = Vec::new();
    for _ in 0..definite(d.array()?)? {
        let further = definite(d.array()?)?.checked_sub(2).ok_or(InvalidParcel)?;
        let recipient = TransferRecipient { index: d.u32()?, address: address(d)? };
        skip(d, further)?;
        let twice = recipients.iter().any(|other| other.index == recipient.index);
        if twice || recipients.len() == MAX_RECIPIENTS as usize {
            return Err(InvalidParcel);
        }
        recipients.push(recipient);
    }
    Ok(recipients)
}

fn address(d: &mut Decoder<'_>) -> Result<String, InvalidParcel> {
    let text = d.str()?;
    if is_address(text) { Ok(text.to_owned()) } else { Err(InvalidParcel) }
}

impl Item {
    fn encode(&self, out: &mut Vec<u8>) {
        encode(out, |e| {
            match self {
                Self::Receipt { id, digest, index, outcome, at } => {
                    e.array(6)?.u8(0)?.bytes(&id.0)?.bytes(&digest.0)?.u32(*index)?.u64(*at)?.array(3)?;
                    match outcome {
                        Outcome::Stored { duplicate, relayed } => e.u8(0)?.bool(*duplicate)?.bool(*relayed)?,
                        Outcome::Refused(refusal) => {
                            e.u8(1)?.str(&refusal.status().to_string())?.str(refusal.text())?
                        }
                    }
                }
                Self::Offer(octets) => e.array(2)?.u8(1)?.bytes(octets)?,
                Self::Seen(serial) => e.array(2)?.u8(2)?.u64(*serial)?,
                Self::Cancel(id) => e.array(2)?.u8(3)?.bytes(&id.0)?,
            };
            Ok(())
        });
    }

    /// `None` for an item of a later version.
    fn decode(d: &mut Decoder<'_>) -> Result<Option<Self>, InvalidParcel> {
        let items = definite(d.array()?)?;
        let need = |count: u64| items.checked_sub(count).ok_or(InvalidParcel);
        need(1)?;
        let (item, further) = match d.u64()? {
            0 => {
                let further = need(6)?;
                let (id, digest) = (MailId(exact(d)?), Digest(exact(d)?));
                let (index, at) = (d.u32()?, d.u64()?);
                (Some(Self::Receipt { id, digest, index, outcome: decode_outcome(d)?, at }), further)
            }
            1 => {
                let (further, octets) = (need(2)?, d.bytes()?);
                if octets.len() > MAX_OFFER {
                    return Err(InvalidParcel);
                }
                (Some(Self::Offer(Zeroizing::new(octets.to_vec()))), further)
            }
            2 => (Some(Self::Seen(d.u64()?)), need(2)?),
            3 => (Some(Self::Cancel(MailId(exact(d)?))), need(2)?),
            _ => (None, items - 1),
        };
        skip(d, further)?;
        Ok(item)
    }
}

fn decode_outcome(d: &mut Decoder<'_>) -> Result<Outcome, InvalidParcel> {
    let further = definite(d.array()?)?.checked_sub(3).ok_or(InvalidParcel)?;
    let outcome = match d.u64()? {
        0 => Outcome::Stored { duplicate: d.bool()?, relayed: d.bool()? },
        1 => {
            // An unreadable code is no proof of anything: temporary.
            let status = d.str()?.parse().unwrap_or(EnhancedStatus::new(4, 0, 0));
            Outcome::Refused(Refusal::new(status, d.str()?))
        }
        _ => return Err(InvalidParcel),
    };
    skip(d, further)?;
    Ok(outcome)
}

impl Part {
    /// Which octets of the parcel it holds.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.octets.len() as u64
    }

    /// Appends its CBOR: at most 51 octets more than it holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode(out, |e| {
            e.array(6)?.bytes(&self.parcel.0)?.u32(self.part)?.u32(self.parts)?;
            e.u64(self.total)?.u64(self.offset)?.bytes(&self.octets).map(drop)
        });
    }

    /// Reads its CBOR.
    ///
    /// # Errors
    /// It is malformed or contradicts itself.
    pub fn decode(octets: &[u8]) -> Result<Self, InvalidParcel> {
        let d = &mut Decoder::new(octets);
        let further = definite(d.array()?)?.checked_sub(6).ok_or(InvalidParcel)?;
        let parcel = MailId(exact(d)?);
        let (part, parts, total, offset, octets) = (d.u32()?, d.u32()?, d.u64()?, d.u64()?, d.bytes()?);
        skip(d, further)?;
        end(d)?;
        let until = offset.checked_add(octets.len() as u64).ok_or(InvalidParcel)?;
        if part >= parts || parts > MAX_PARTS || octets.is_empty() || until > total {
            return Err(InvalidParcel);
        }
        Ok(Self { parcel, part, parts, total, offset, octets: octets.to_vec() })
    }
}

/// How a parcel of `total` octets is cut: the class of each part and what it holds, none greater than `largest`. The rest
/// goes into the smallest class that holds it if it fills half of that, else one of the class below is filled first: less
/// than half of what lies at a relay is padding, of all that is longer than [`Class::K16`]. Empty when there is nothing to
/// cut, or it would be more than [`MAX_PARTS`].
pub fn split(total: u64, largest: Class) -> Vec<(Class, Range<u64>)> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < total {
        if parts.len() == MAX_PARTS as usize {
            return Vec::new();
        }
        let class = class_for(total - at, largest);
        let end = total.min(at + capacity(class) as u64);
        parts.push((class, at..end));
        at = end;
    }
    parts
}

fn class_for(rest: u64, largest: Class) -> Class {
    let mut below = None;
    for class in Class::ALL.into_iter().take_while(|class| *class <= largest) {
        if rest <= capacity(class) as u64 {
            let half = rest >= class.octets() as u64 / 2;
            return if half { class } else { below.unwrap_or(class) };
        }
        below = Some(class);
    }
    largest
}

/// Which parts of one parcel have come; what they hold is kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembly {
    total: u64,
    parts: u32,
    /// Where each part begins and ends.
    come: BTreeMap<u32, Range<u64>>,
}

/// What a part is to its parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is new, others are missing.
    Partial,
    /// It has come before.
    Repeated,
    /// It is new, and all are there.
    Whole,
}

impl Assembly {
    /// Of a parcel of `total` octets in so many parts, of which none has come.
    ///
    /// # Errors
    /// It is longer than `max` octets, or in more than [`MAX_PARTS`] parts.
    pub fn new(parts: u32, total: u64, max: u64) -> Result<Self, InvalidParcel> {
        if total > max || parts > MAX_PARTS {
            return Err(InvalidParcel);
        }
        Ok(Self { total, parts, come: BTreeMap::new() })
    }

    /// Takes note of a part that has come.
    ///
    /// # Errors
    /// It contradicts an earlier one; then nothing is noted.
    pub fn take(&mut self, part: &Part) -> Result<Progress, InvalidParcel> {
        if (part.parts, part.total) != (self.parts, self.total) {
            return Err(InvalidParcel);
        }
        self.note(part.part, part.range())
    }

    /// The same with its number and range, as they were written down.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn note(&mut self, part: u32, range: Range<u64>) -> Result<Progress, InvalidParcel> {
        if let Some(earlier) = self.come.get(&part) {
            return if *earlier == range { Ok(Progress::Repeated) } else { Err(InvalidParcel) };
        }
        let overlaps = |other: &Range<u64>| range.start < other.end && other.start < range.end;
        if part >= self.parts || range.is_empty() || range.end > self.total || self.come.values().any(overlaps) {
            return Err(InvalidParcel);
        }
        // Without overlaps, all octets are there when their number is right; that must be so with the last part.
        let octets: u64 = self.come.values().chain([&range]).map(|range| range.end - range.start).sum();
        let last = self.come.len() + 1 == self.parts as usize;
        if last != (octets == self.total) {
            return Err(InvalidParcel);
        }
        self.come.insert(part, range);
        Ok(if last { Progress::Whole } else { Progress::Partial })
    }

    /// The numbers of the parts that are missing.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.parts).filter(|part| !self.come.contains_key(part))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: MailId = MailId([7; 16]);

    fn refusal() -> impl Strategy<Value = Outcome> {
        ("[45]\\.[0-9]{1,3}\\.[0-9]{1,3}", "[ -~]{0,400}")
            .prop_map(|(status, text)| Outcome::Refused(Refusal::new(status.parse().expect("a status"), text)))
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        let stored = any::<(bool, bool)>().prop_map(|(duplicate, relayed)| Outcome::Stored { duplicate, relayed });
        prop_oneof![stored, refusal()]
    }

    fn item() -> impl Strategy<Value = Item> {
        prop_oneof![
            (any::<([u8; 16], [u8; 32], u32, u64)>(), outcome()).prop_map(|((id, digest, index, at), outcome)| {
                Item::Receipt { id: MailId(id), digest: Digest(digest), index, outcome, at }
            }),
            prop::collection::vec(any::<u8>(), 0..=MAX_OFFER).prop_map(|octets| Item::Offer(Zeroizing::new(octets))),
            any::<u64>().prop_map(Item::Seen),
            any::<[u8; 16]>().prop_map(|id| Item::Cancel(MailId(id))),
        ]
    }

    prop_compose! {
        fn mail()(
            sender in "\\PC{0,100}",
            addresses in prop::collection::vec("\\PC{1,100}", 1..=MAX_RECIPIENTS as usize),
            size in any::<u64>(),
            wire_size in 0..u64::MAX / 2,
            digest in any::<[u8; 32]>(),
            zstd in any::<bool>(),
            expires in any::<u64>(),
        ) -> MailHead {
            let recipients = addresses.into_iter().zip(3..).map(|(address, index)| TransferRecipient { index, address });
            MailHead {
                id: NAME,
                sender,
                recipients: recipients.collect(),
                size,
                wire_size,
                digest: Digest(digest),
                encoding: if zstd { Encoding::Zstd } else { Encoding::Identity },
                expires,
            }
        }
    }

    fn short_mail() -> MailHead {
        MailHead {
            id: NAME,
            sender: "alice@example.org".to_owned(),
            recipients: vec![TransferRecipient { index: 0, address: "bob@example.org".to_owned() }],
            size: 5,
            wire_size: 5,
            digest: Digest([1; 32]),
            encoding: Encoding::Identity,
            expires: 1_700_000_000_000,
        }
    }

    fn part(part: u32, parts: u32, total: u64, range: Range<u64>) -> Part {
        let octets = vec![part as u8; (range.end - range.start) as usize];
        Part { parcel: NAME, part, parts, total, offset: range.start, octets }
    }

    #[test]
    fn a_head_that_is_cut_or_does_not_match_its_parcel_is_refused() {
        let head = Parcel::Mail(short_mail()).head();
        let total = head.len() as u64 + 5;
        assert_eq!(Parcel::read(NAME, total, &head), Ok((Parcel::Mail(short_mail()), head.len())));
        for cut in 0..head.len() {
            assert_eq!(Parcel::read(NAME, total, &head[..cut]), Err(InvalidParcel), "cut at {cut}");
        }
        for wrong in [0, total - 1, total + 1, u64::MAX] {
            assert_eq!(Parcel::read(NAME, wrong, &head), Err(InvalidParcel), "of {wrong} octets");
        }
    }

    #[test]
    fn recipients_are_one_to_a_hundred_differ_and_are_addresses() {
        let with = |recipients: Vec<TransferRecipient>| {
            let head = Parcel::Mail(MailHead { recipients, ..short_mail() }).head();
            Parcel::read(NAME, head.len() as u64 + 5, &head).map(drop)
        };
        let bob = |index| TransferRecipient { index, address: "bob".to_owned() };
        let named = |address: &str| vec![TransferRecipient { index: 0, address: address.to_owned() }];
        assert_eq!(with((0..100).map(bob).collect()), Ok(()));
        assert_eq!(with(named(&"x".repeat(512))), Ok(()));
        for wrong in
            [Vec::new(), (0..101).map(bob).collect(), vec![bob(3), bob(3)], named(&"x".repeat(513)), named("a\nb")]
        {
            assert_eq!(with(wrong.clone()), Err(InvalidParcel), "{} recipients", wrong.len());
        }
        let long = |index| TransferRecipient { index, address: "x".repeat(512) };
        assert_eq!(with((u32::MAX - 100..u32::MAX).map(long).collect()), Ok(()), "the longest head is read");
    }

    #[test]
    fn later_versions_may_add_items_and_kinds_of_items() {
        let mut octets = Vec::new();
        encode(&mut octets, |e| {
            e.array(3)?.u8(1)?.array(3)?;
            e.array(2)?.u8(9)?.map(1)?.str("x")?.f64(1.5)?;
            e.array(4)?.u8(2)?.u64(5)?.null()?.str("more")?;
            e.array(3)?.u8(3)?.bytes(&NAME.0)?.bool(true)?;
            e.str("and here").map(drop)
        });
        let read = Parcel::read(NAME, octets.len() as u64, &octets);
        assert_eq!(read, Ok((Parcel::Control(vec![Item::Seen(5), Item::Cancel(NAME)]), octets.len())));
        octets[0] = 0x82;
        octets[1] = 2;
        assert_eq!(Parcel::read(NAME, octets.len() as u64, &octets), Err(InvalidParcel), "another kind of parcel");
    }

    #[test]
    fn what_is_secret_or_private_is_not_shown() {
        let item = Item::Offer(Zeroizing::new(vec![0xAB; 40]));
        let part = Part { octets: b"Dear Bob".to_vec(), ..part(0, 1, 8, 0..8) };
        let shown = format!("{item:?} {part:?}").to_lowercase();
        assert!(!shown.contains("171, 171") && !shown.contains("abab") && !shown.contains("68, 101"), "{shown}");
    }

    #[test]
    fn a_mail_goes_into_few_parts() {
        let classes = |total| split(total, Class::M4).into_iter().map(|(class, _)| class).collect::<Vec<_>>();
        use Class::{K16, K128, K512, M1, M4};
        assert_eq!(classes(0), []);
        assert_eq!(classes(1), [K16]);
        assert_eq!(classes(capacity(K16) as u64), [K16]);
        assert_eq!(classes(capacity(K16) as u64 + 1), [K16, K16]);
        assert_eq!(classes(100_000), [K128]);
        assert_eq!(classes(600_000), [M1]);
        assert_eq!(classes(1_500_000), [M1, K512]);
        assert_eq!(classes(20 << 20), [M4, M4, M4, M4, M4, K16]);
        assert_eq!(split(100_000, K16).len(), 7);
        assert_eq!(split(u64::MAX, M4), []);
    }

    #[test]
    fn parts_that_contradict_each_other_are_refused() {
        assert_eq!(Assembly::new(2, 101, 100), Err(InvalidParcel));
        assert_eq!(Assembly::new(MAX_PARTS + 1, 100, 100), Err(InvalidParcel));
        let mut assembly = Assembly::new(3, 100, 100).expect("within the bounds");
        assert_eq!(assembly.take(&part(1, 3, 100, 40..70)), Ok(Progress::Partial));
        let before = assembly.clone();
        for wrong in [
            part(0, 4, 100, 0..40),
            part(0, 3, 99, 0..40),
            part(1, 3, 100, 40..69),
            part(0, 3, 100, 0..41),
            part(0, 3, 100, 69..100),
            part(0, 3, 100, 30..80),
            part(3, 3, 100, 0..40),
            part(0, 3, 100, 80..101),
            part(0, 3, 100, 0..0),
        ] {
            assert_eq!(assembly.take(&wrong), Err(InvalidParcel), "{wrong:?} from {}", wrong.offset);
            assert_eq!(assembly, before);
        }
        assert_eq!(assembly.take(&part(0, 3, 100, 0..40)), Ok(Progress::Partial));
        assert_eq!(assembly.take(&part(2, 3, 100, 70..99)), Err(InvalidParcel), "the last leaves a gap");
        assert_eq!(assembly.take(&part(2, 3, 100, 70..100)), Ok(Progress::Whole));
        let mut early = Assembly::new(3, 100, 100).expect("within the bounds");
        assert_eq!(early.take(&part(0, 3, 100, 0..40)), Ok(Progress::Partial));
        assert_eq!(early.take(&part(1, 3, 100, 40..100)), Err(InvalidParcel), "nothing is left for the third");
    }

    proptest! {
        #[test]
        fn a_mail_is_read_as_it_was_written(mail in mail(), body in prop::collection::vec(any::<u8>(), 0..50)) {
            let total = mail.wire_size;
            let parcel = Parcel::Mail(mail);
            let head = parcel.head();
            prop_assert!(head.len() <= MAX_HEAD);
            let octets = [&head[..], &body].concat();
            prop_assert_eq!(Parcel::read(NAME, head.len() as u64 + total, &octets), Ok((parcel, head.len())));
        }

        #[test]
        fn items_come_in_order_in_parcels_of_one_part(items in prop::collection::vec(item(), 0..60)) {
            let said = format!("{items:?}");
            let mut read = Vec::new();
            for parcel in Parcel::pack(items) {
                let octets = parcel.head();
                prop_assert!(octets.len() <= capacity(Class::K16));
                let again = Parcel::read(NAME, octets.len() as u64, &octets);
                prop_assert_eq!(&again, &Ok((parcel, octets.len())));
                if let Ok((Parcel::Control(items), _)) = again {
                    prop_assert!(!items.is_empty());
                    read.extend(items);
                }
            }
            prop_assert_eq!(said, format!("{read:?}"));
        }

        #[test]
        fn any_octets_are_read_without_panic(
            octets in prop::collection::vec(any::<u8>(), 0..200),
            kind in 0..4_u8,
            total in any::<u64>(),
        ) {
            let _ = Part::decode(&octets);
            let _ = Parcel::read(NAME, total, &[&[0x82, kind], &octets[..]].concat());
        }

        #[test]
        fn parts_cover_a_parcel_and_are_hardly_padded(total in 1..60_u64 << 20, largest in 0..5_u8) {
            let largest = Class::from_number(largest).expect("a class");
            let parts = split(total, largest);
            let (mut at, mut lies) = (0, 0);
            for (class, range) in &parts {
                prop_assert!(*class <= largest && range.start == at && !range.is_empty());
                prop_assert!(range.end - range.start <= capacity(*class) as u64);
                at = range.end;
                lies += class.octets() as u64;
            }
            prop_assert_eq!(at, total);
            let padding = parts.iter().map(|(class, range)| capacity(*class) as u64 - (range.end - range.start));
            prop_assert!(2 * padding.sum::<u64>() < lies || total <= capacity(Class::K16) as u64);
            prop_assert!(parts.len() as u64 <= 9 + total / capacity(largest) as u64);
        }

        #[test]
        fn parts_in_any_order_and_repeated_make_the_parcel_once(
            total in 1..400_000_u64,
            order in prop::collection::vec(any::<prop::sample::Index>(), 100),
        ) {
            let cut = split(total, Class::K128);
            let parts = cut.len() as u32;
            let mut assembly = Assembly::new(parts, total, total).expect("within the bounds");
            let everyone = 0..cut.len();
            let mut missing = cut.len();
            for at in order.iter().map(|index| index.index(cut.len())).chain(everyone) {
                let new = assembly.missing().any(|part| part == at as u32);
                missing -= usize::from(new);
                let expected = match (new, missing) {
                    (false, _) => Progress::Repeated,
                    (true, 0) => Progress::Whole,
                    (true, _) => Progress::Partial,
                };
                prop_assert_eq!(assembly.note(at as u32, cut[at].1.clone()), Ok(expected));
            }
            prop_assert_eq!(missing, 0);
        }
    }
}
