//! First contact with somebody who is never online at the same time: an invitation told beside a Tox ID, and the
//! introduction that answers it (`docs/protocol.md`, "Lanes").
//!
//! Whoever knows the invitation can put a short introduction into one of a few slots a day; only the owner can read who it
//! is from. It proves the sender's Tox key, as a friend request does, and has work done for it, as nobody knows the sender.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crypto_box::SalsaBox;
use data_encoding::BASE32_NOPAD_NOCASE;
use minicbor::{Decoder, decode};
use zeroize::Zeroizing;

use super::keys::{Class, InviteCode, MailKey, MailSecret, RelayKey, ToxSecret};
use super::offer::{InvalidOffer, MAX_OFFER, MAX_RELAYS, Offer, RelayRef, end, exact};
use super::seal::{CIPHER, Inner, lock, unlock, unpad, unwrap};
use crate::engine::wire::{definite, encode};
use crate::identity::name::record;
use crate::identity::tox_id::{PublicKey, ToxId};

/// What the text of an invitation begins with.
const PREFIX: &str = "toxmail-invite:";
/// The slots of an inbox for one day, at each relay.
pub const DAILY: u64 = 8;
/// For so many days ahead an owner keeps slots open: so long he may be away and be written to still.
pub const AHEAD: u64 = 7;
/// For so many days what was left with him is looked for: longer than relays keep contents by default.
pub const BACK: u64 = 31;
/// The work that this program wants: about a second of one processor.
pub const BITS: u8 = 20;
/// The most work that an invitation may want: some ten seconds of one processor.
pub const MAX_BITS: u8 = 24;
/// The longest introduction, in octets.
pub const MAX_INTRODUCTION: usize = 4096;
/// The longest text of an introduction, in octets: that of a friend request.
pub const MAX_TEXT: usize = 1000;
/// The class of an inbox's slots.
pub const CLASS: Class = Class::K16;

/// How somebody can be written to for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The owner's Tox ID.
    pub id: ToxId,
    /// How many bits of work an introduction must show, at most [`MAX_BITS`].
    pub bits: u8,
    /// What the inbox is derived from.
    pub code: InviteCode,
    /// The owner's mail key: introductions are sealed to it, and it is pinned.
    pub key: MailKey,
    /// Where introductions may wait: 1 to [`MAX_RELAYS`].
    pub relays: Vec<RelayRef>,
}

/// A text is no invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidInvitation;

impl fmt::Display for InvalidInvitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the invitation is damaged or of a later version: ask for it anew")
    }
}

impl std::error::Error for InvalidInvitation {}

impl Invitation {
    /// What is told of the inbox: bits (1), code (16), mail key (64).
    fn inbox(&self) -> Vec<u8> {
        [&[self.bits][..], &self.code.0, &self.key.octets()].concat()
    }

    fn new(id: ToxId, inbox: &[u8], relays: &[&[u8]]) -> Result<Self, InvalidInvitation> {
        let inbox: &[u8; 81] = inbox.try_into().map_err(|_| InvalidInvitation)?;
        let (front, key) = inbox.split_last_chunk::<64>().ok_or(InvalidInvitation)?;
        let (bits, code) = front.split_first().ok_or(InvalidInvitation)?;
        let code = InviteCode(code.try_into().map_err(|_| InvalidInvitation)?);
        let relays: Option<Vec<RelayRef>> = relays.iter().map(|relay| RelayRef::from_octets(relay)).collect();
        let relays = relays.filter(|relays| (1..=MAX_RELAYS).contains(&relays.len())).ok_or(InvalidInvitation)?;
        let twice =
            relays.iter().enumerate().any(|(at, relay)| relays[..at].iter().any(|other| other.key == relay.key));
        if *bits > MAX_BITS || twice {
            return Err(InvalidInvitation);
        }
        Ok(Self { id, bits: *bits, code, key: MailKey::from_octets(key), relays })
    }

    /// The fields that tell it in a TXT record with the Tox ID.
    pub fn fields(&self) -> String {
        let relays: Vec<String> = self.relays.iter().map(|relay| base32(&relay.octets())).collect();
        format!("{}={};r={}", record::INVITATION, base32(&self.inbox()), relays.join(","))
    }

    /// Whether it still leads to the one who tells `now` instead: the same inbox, and a relay that he has, as far as he
    /// knows any.
    pub fn reaches(&self, now: &Self) -> bool {
        let has = |relay: &RelayRef| now.relays.iter().any(|other| other.key == relay.key);
        self.inbox() == now.inbox() && (now.relays.is_empty() || self.relays.iter().any(has))
    }

    /// Reads these fields of a TXT record that leads to this Tox ID; `None` if it has no invitation.
    ///
    /// # Errors
    /// It has one that cannot be read.
    pub fn from_record(id: ToxId, text: &[u8]) -> Option<Result<Self, InvalidInvitation>> {
        let inbox = record::field(text, record::INVITATION)?;
        let read = || {
            let inbox = octets(inbox)?;
            let relays = record::field(text, "r").ok_or(InvalidInvitation)?.split(|octet| *octet == b',');
            let relays = relays.take(MAX_RELAYS + 1).map(octets).collect::<Result<Vec<_>, _>>()?;
            Self::new(id, &inbox, &relays.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        Some(read())
    }
}

fn base32(octets: &[u8]) -> String {
    BASE32_NOPAD_NOCASE.encode(octets).to_ascii_lowercase()
}

fn octets(text: &[u8]) -> Result<Vec<u8>, InvalidInvitation> {
    BASE32_NOPAD_NOCASE.decode(text).map_err(|_| InvalidInvitation)
}

/// One line for people to pass on.
impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut octets = [&self.id.octets()[..], &self.inbox()].concat();
        self.relays.iter().for_each(|relay| octets.extend_from_slice(&relay.octets()));
        write!(f, "{PREFIX}{}", base32(&octets))
    }
}

impl FromStr for Invitation {
    type Err = InvalidInvitation;

    fn from_str(text: &str) -> Result<Self, InvalidInvitation> {
        let octets = octets(text.trim().strip_prefix(PREFIX).ok_or(InvalidInvitation)?.as_bytes())?;
        let (id, rest) = octets.split_first_chunk::<38>().ok_or(InvalidInvitation)?;
        let (inbox, relays) = rest.split_at_checked(81).ok_or(InvalidInvitation)?;
        let id = ToxId::from_octets(id).map_err(|_| InvalidInvitation)?;
        Self::new(id, inbox, &relays.chunks(70).collect::<Vec<_>>())
    }
}

/// The numbers of an inbox's slots on a day, counted from the epoch (UTC). A sender takes any that is free.
pub fn numbers(day: u64) -> Range<u64> {
    let first = day.saturating_mul(DAILY);
    first..first.saturating_add(DAILY)
}

/// The numbers that an owner keeps open on this day: those of yesterday, for who is late, and of [`AHEAD`] days to come.
pub fn open(today: u64) -> Range<u64> {
    numbers(today.saturating_sub(1)).start..numbers(today.saturating_add(AHEAD)).end
}

/// The numbers of days that are over: what is in their slots is fetched still, those that are empty are taken back.
pub fn over(today: u64) -> Range<u64> {
    numbers(today.saturating_sub(BACK)).start..open(today).start
}

/// What a stranger says of himself.
#[derive(Debug)]
pub struct Introduction {
    /// His Tox ID; he has its key.
    pub id: ToxId,
    /// A text as of a friend request.
    pub text: String,
    /// The lane by which he can be answered, and his mail key.
    pub offer: Offer,
    /// That offer as it came: it holds the lane's seed.
    pub octets: Octets,
}

/// Octets that are not shown.
pub struct Octets(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Octets({})", self.0.len())
    }
}

/// An introduction is not to be shown to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidIntroduction {
    /// It is damaged, or not made for this inbox and slot.
    Sealing,
    /// It is not of the Tox key that it names.
    Sender,
    /// It cannot be read.
    Malformed,
    /// Too little work was done for it.
    Stamp,
    /// Its offer is wrong.
    Offer(InvalidOffer),
}

impl fmt::Display for InvalidIntroduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealing => f.write_str("it is damaged, or not of this inbox and slot"),
            Self::Sender => f.write_str("it is not of the Tox key that it names"),
            Self::Malformed => f.write_str("it cannot be read"),
            Self::Stamp => f.write_str("its stamp is missing or of another day"),
            Self::Offer(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for InvalidIntroduction {}

/// An introduction as its sender writes it, for one day.
pub struct Letter {
    body: Zeroizing<Vec<u8>>,
    day: u64,
}

impl Letter {
    /// Of the account with this Tox ID: a text as of a friend request, which is cut at [`MAX_TEXT`] octets, and the octets
    /// of an offer to the owner ([`Offer::to_octets`]).
    pub fn new(id: &ToxId, text: &str, offer: &[u8], day: u64) -> Self {
        let mut until = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(until) {
            until -= 1;
        }
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_INTRODUCTION));
        encode(&mut body, |e| {
            e.map(3)?.u8(1)?.bytes(&id.octets())?.u8(2)?.str(&text[..until])?.u8(3)?.bytes(offer).map(drop)
        });
        Self { body, day }
    }

    /// Looks for a stamp among so many numbers from `first` on; on average one in 2 to the power of
    /// [`Invitation::bits`] is one.
    pub fn stamp(&self, invitation: &Invitation, sender: &PublicKey, first: u64, tries: u64) -> Option<u64> {
        let key = invitation.code.stamp_key(&invitation.key, sender, self.day, &self.body);
        (first..first.saturating_add(tries)).find(|stamp| key.bits(*stamp) >= u32::from(invitation.bits))
    }

    /// Seals it, to be wrapped ([`super::seal::wrap`]) with [`InviteCode::seed`] for one of the day's [`numbers`].
    pub fn seal(&self, invitation: &Invitation, sender: &ToxSecret, stamp: u64) -> Inner {
        let to = &invitation.key.seal;
        // The sender's own box, which proves who it is from, within one that does not show who that is.
        let mut own = Zeroizing::new(Vec::with_capacity(MAX_INTRODUCTION + CIPHER + 8));
        own.extend_from_slice(&[0; CIPHER]);
        own.extend_from_slice(&stamp.to_be_bytes());
        own.extend_from_slice(&self.body);
        let nonce = sender.nonce(to, &own[CIPHER..]);
        lock(&SalsaBox::new(&(*to).into(), &sender.key()), nonce, &mut own);
        let once = sender.once(to, &own);
        let mut octets = once.public_key().as_bytes().to_vec();
        octets.extend_from_slice(&[0; CIPHER]);
        let length = u32::try_from(32 + own.len()).expect("an introduction is short");
        octets.extend_from_slice(&length.to_be_bytes());
        octets.extend_from_slice(&sender.public().0);
        octets.extend_from_slice(&own);
        let mut inner = Inner::padded(CLASS, octets);
        let nonce = sender.nonce(to, &inner.octets_mut()[32 + CIPHER..]);
        lock(&SalsaBox::new(&(*to).into(), &once), nonce, &mut inner.octets_mut()[32..]);
        inner
    }
}

/// An inbox, as its owner sees it.
pub struct Inbox<'a> {
    /// The account's Tox key.
    pub own: PublicKey,
    /// Its mail secret.
    pub secret: &'a MailSecret,
    /// The code that is told.
    pub code: InviteCode,
    /// The bits of work that are wanted.
    pub bits: u8,
}

impl Inbox<'_> {
    /// Opens the content of the slot with this number at this relay.
    ///
    /// # Errors
    /// See [`InvalidIntroduction`].
    pub fn open(&self, blob: &[u8], relay: &RelayKey, number: u64) -> Result<Introduction, InvalidIntroduction> {
        use InvalidIntroduction::{Malformed, Sealing, Sender};
        let mut octets = blob.to_vec();
        let inner = unwrap(&mut octets, &self.code.seed(&self.own), relay, CLASS, number).map_err(|_| Sealing)?;
        let (once, sealed) = inner.split_first_chunk_mut::<32>().ok_or(Sealing)?;
        let key = self.secret.sealing();
        let padded = unlock(&SalsaBox::new(&(*once).into(), &key), sealed).ok_or(Sealing)?;
        let mut own = Zeroizing::new(unpad(padded).ok_or(Malformed)?.to_vec());
        let (sender, own) = own.split_first_chunk_mut::<32>().ok_or(Malformed)?;
        let content = unlock(&SalsaBox::new(&(*sender).into(), &key), own).ok_or(Sender)?;
        let (stamp, body) = content.split_first_chunk::<8>().ok_or(Malformed)?;
        let sender = PublicKey(*sender);
        let stamps = self.code.stamp_key(&self.secret.public(), &sender, number / DAILY, body);
        if stamps.bits(u64::from_be_bytes(*stamp)) < u32::from(self.bits) {
            return Err(InvalidIntroduction::Stamp);
        }
        let (id, text, octets) = decode_body(body).map_err(|_| Malformed)?;
        if id.key() != sender {
            return Err(Sender);
        }
        let offer = Offer::from_octets(&octets, &self.own, None).map_err(InvalidIntroduction::Offer)?;
        Ok(Introduction { id, text, offer, octets: Octets(octets) })
    }
}

fn decode_body(body: &[u8]) -> Result<(ToxId, String, Zeroizing<Vec<u8>>), decode::Error> {
    let message = decode::Error::message;
    if body.len() > MAX_INTRODUCTION {
        return Err(message("the introduction is too long"));
    }
    let d = &mut Decoder::new(body);
    let (mut id, mut text, mut offer) = (None, None, None);
    for _ in 0..definite(d.map()?)? {
        match d.u64()? {
            1 => id = Some(ToxId::from_octets(&exact(d)?).map_err(|_| message("the Tox ID is wrong"))?),
            2 => text = Some(d.str()?.to_owned()).filter(|text| text.len() <= MAX_TEXT),
            3 => offer = Some(Zeroizing::new(d.bytes()?.to_vec())).filter(|offer| offer.len() <= MAX_OFFER),
            _ => d.skip()?,
        }
    }
    end(d)?;
    let missing = || message("a field is missing or too long");
    Ok((id.ok_or_else(missing)?, text.ok_or_else(missing)?, offer.ok_or_else(missing)?))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::lane::keys::LaneSeed;
    use crate::lane::offer::{LaneId, PreKey};
    use crate::lane::seal::wrap;

    const RELAY: RelayKey = RelayKey([9; 32]);
    const DAY: u64 = 20_000;
    const BITS: u8 = 6;

    fn owner() -> MailSecret {
        MailSecret::new(&mut [1; 32])
    }

    fn alice() -> ToxSecret {
        ToxSecret::new(&mut [2; 32])
    }

    fn bob() -> ToxId {
        ToxId::new(PublicKey([3; 32]), [1, 2, 3, 4])
    }

    fn invitation(relays: u8) -> Invitation {
        let relay = |n| RelayRef { id: ToxId::new(PublicKey([n + 1; 32]), [n; 4]), key: RelayKey([0x80 | n; 32]) };
        Invitation {
            id: bob(),
            bits: BITS,
            code: InviteCode([0xAB; 16]),
            key: owner().public(),
            relays: (0..relays).map(relay).collect(),
        }
    }

    fn inbox(secret: &MailSecret) -> Inbox<'_> {
        Inbox { own: bob().key(), secret, code: InviteCode([0xAB; 16]), bits: BITS }
    }

    fn offer(to: PublicKey) -> Zeroizing<Vec<u8>> {
        let secret = MailSecret::new(&mut [4; 32]);
        Offer {
            lane: LaneId([5; 16]),
            serial: 1,
            to,
            seed: LaneSeed::new(&mut [6; 32]),
            relays: invitation(5).relays,
            open: [8; 5],
            pre_key: PreKey { id: 1, key: [7; 32], not_after: 1 },
            max_mail: 1,
            key: secret.public(),
            receipts: true,
        }
        .to_octets(&secret)
    }

    fn id() -> ToxId {
        ToxId::new(alice().public(), [8; 4])
    }

    fn letter(text: &str) -> Letter {
        Letter::new(&id(), text, &offer(bob().key()), DAY)
    }

    /// The content of a slot with this letter and a stamp for `bits`.
    fn sent(letter: &Letter, bits: u8, number: u64) -> Vec<u8> {
        let invitation = Invitation { bits, ..invitation(1) };
        let stamp = letter.stamp(&invitation, &alice().public(), 0, 1 << 16).expect("a stamp");
        let seed = invitation.code.seed(&bob().key());
        wrap(&letter.seal(&invitation, &alice(), stamp), &seed, &RELAY, number)
    }

    fn opened(blob: &[u8], number: u64) -> Result<Introduction, InvalidIntroduction> {
        inbox(&owner()).open(blob, &RELAY, number)
    }

    #[test]
    fn an_invitation_is_told_in_a_text_and_in_a_record() {
        for relays in 1..=MAX_RELAYS as u8 {
            let invitation = invitation(relays);
            let text = invitation.to_string();
            assert_eq!(format!("{text}\n").parse(), Ok(invitation.clone()));
            let record = format!("v=tox1;id={};{}", bob(), invitation.fields());
            assert_eq!(Invitation::from_record(bob(), record.as_bytes()), Some(Ok(invitation)));
            assert!(record::read(record.as_bytes()).is_ok_and(|record| record.is_some()), "others read the rest");
        }
    }

    #[test]
    fn a_broken_invitation_is_refused() {
        let text = invitation(2).to_string();
        let twice = Invitation { relays: [invitation(1).relays, invitation(1).relays].concat(), ..invitation(0) };
        let greedy = Invitation { bits: MAX_BITS + 1, ..invitation(1) };
        for wrong in [
            String::new(),
            PREFIX.to_owned(),
            text.replace("toxmail-", ""),
            text[..text.len() - 3].to_owned(),
            format!("{text}aaaaaaaa"),
            invitation(0).to_string(),
            invitation(6).to_string(),
            twice.to_string(),
            greedy.to_string(),
        ] {
            assert_eq!(wrong.parse::<Invitation>(), Err(InvalidInvitation), "{wrong}");
        }
        let fields = invitation(1).fields();
        let (inbox, relays) = fields.split_once(';').expect("two fields");
        let read = |fields: String| Invitation::from_record(bob(), format!("v=tox1;id=x;{fields}").as_bytes());
        assert_eq!(read(relays.to_owned()), None);
        assert_eq!(read(format!("{fields};{inbox}")), None, "twice is none");
        for wrong in [inbox.to_owned(), format!("{inbox};r="), format!("{fields},"), "inv=aa;r=aa".to_owned()] {
            assert_eq!(read(wrong.clone()), Some(Err(InvalidInvitation)), "{wrong}");
        }
    }

    #[test]
    fn an_introduction_tells_who_proved_to_have_sent_it() {
        let long = "é".repeat(MAX_TEXT);
        for text in ["Hello Bob\nAddress: alice@example.org", "", &long] {
            for number in [numbers(DAY).start, numbers(DAY).end - 1] {
                let read = opened(&sent(&letter(text), BITS, number), number).expect("a good introduction");
                assert_eq!((read.id, read.offer.to), (id(), bob().key()));
                assert!(text.starts_with(&read.text) && read.text.len() >= text.len().min(MAX_TEXT - 1));
            }
        }
        assert!(letter(&long).body.len() <= MAX_INTRODUCTION);
    }

    #[test]
    fn an_introduction_does_not_show_its_sender_to_who_knows_the_invitation() {
        let mut blob = sent(&letter("Hello"), BITS, DAY * DAILY);
        let inner =
            unwrap(&mut blob, &invitation(1).code.seed(&bob().key()), &RELAY, CLASS, DAY * DAILY).expect("so far");
        for known in [&alice().public().0[..], b"Hello", &owner().public().seal] {
            assert!(!inner.windows(known.len()).any(|run| run == known));
        }
        let other = MailSecret::new(&mut [8; 32]);
        let read = inbox(&other).open(&sent(&letter("Hello"), BITS, DAY * DAILY), &RELAY, DAY * DAILY);
        assert_eq!(read.expect_err("another's mail secret"), InvalidIntroduction::Sealing);
    }

    #[test]
    fn nobody_introduces_himself_with_the_key_of_another() {
        let stolen = Letter::new(&bob(), "It is Bob", &offer(bob().key()), DAY);
        let read = opened(&sent(&stolen, BITS, DAY * DAILY), DAY * DAILY);
        assert_eq!(read.expect_err("the ID is not of the key that sealed"), InvalidIntroduction::Sender);
        // The same with the public key put in place of the sender's own.
        let letter = letter("It is Alice");
        let (invitation, mallory) = (invitation(1), ToxSecret::new(&mut [9; 32]));
        let stamp = letter.stamp(&invitation, &alice().public(), 0, 1 << 16).expect("a stamp");
        let mut inner = letter.seal(&invitation, &mallory, stamp);
        let seal = |secret: &crypto_box::SecretKey| SalsaBox::new(&owner().public().seal.into(), secret);
        let mut own = vec![0; CIPHER];
        own.extend_from_slice(&stamp.to_be_bytes());
        own.extend_from_slice(&letter.body);
        let nonce = mallory.nonce(&invitation.key.seal, &own[CIPHER..]);
        lock(&seal(&mallory.key()), nonce, &mut own);
        let once = mallory.once(&invitation.key.seal, &own);
        let octets = inner.octets_mut();
        unlock(&SalsaBox::new(&once.public_key(), &owner().sealing()), &mut octets[32..]).expect("it was sealed so");
        let start = 32 + CIPHER + 4;
        octets[start..start + 32].copy_from_slice(&alice().public().0);
        lock(&seal(&once), [0; 24], &mut octets[32..]);
        let blob = wrap(&inner, &invitation.code.seed(&bob().key()), &RELAY, DAY * DAILY);
        assert_eq!(opened(&blob, DAY * DAILY).expect_err("no proof"), InvalidIntroduction::Sender);
    }

    #[test]
    fn a_stamp_holds_for_one_introduction_on_one_day() {
        let (letter, other) = (letter("Hello"), letter("Hello again"));
        let hard = Invitation { bits: 12, ..invitation(1) };
        let stamp = letter.stamp(&hard, &alice().public(), 0, 1 << 20).expect("a stamp");
        assert_eq!(
            letter.stamp(&hard, &alice().public(), 0, stamp),
            None,
            "the first is found, and the search has an end"
        );
        let bits = |letter: &Letter, code: &InviteCode, sender: &PublicKey, day| {
            code.stamp_key(&hard.key, sender, day, &letter.body).bits(stamp)
        };
        let (code, sender) = (&hard.code, &alice().public());
        assert!(bits(&letter, code, sender, DAY) >= 12);
        assert!(bits(&other, code, sender, DAY) < 12);
        assert!(bits(&letter, &InviteCode([1; 16]), sender, DAY) < 12);
        assert!(bits(&letter, code, &bob().key(), DAY) < 12);
        assert!(bits(&letter, code, sender, DAY + 1) < 12);
    }

    #[test]
    fn an_introduction_with_too_little_work_is_refused() {
        let letter = letter("Hello");
        let key = invitation(1).code.stamp_key(&owner().public(), &alice().public(), DAY, &letter.body);
        let poor = (0..).find(|stamp| key.bits(*stamp) == u32::from(BITS) - 1).expect("some stamp");
        let inner = letter.seal(&invitation(1), &alice(), poor);
        let blob = wrap(&inner, &invitation(1).code.seed(&bob().key()), &RELAY, DAY * DAILY);
        assert_eq!(opened(&blob, DAY * DAILY).expect_err("a bit is missing"), InvalidIntroduction::Stamp);
    }

    #[test]
    fn an_offer_for_somebody_else_is_no_introduction() {
        let letter = Letter::new(&id(), "Hello", &offer(PublicKey([9; 32])), DAY);
        let read = opened(&sent(&letter, BITS, DAY * DAILY), DAY * DAILY).expect_err("an offer passed on");
        assert_eq!(read, InvalidIntroduction::Offer(InvalidOffer::OtherContact));
    }

    #[test]
    fn days_have_slots_of_their_own() {
        assert_eq!(numbers(0), 0..DAILY);
        assert_eq!(numbers(DAY).end, numbers(DAY + 1).start);
        assert!(numbers(u64::MAX).is_empty());
    }

    #[test]
    fn slots_are_open_before_their_day_and_are_not_forgotten_after_it() {
        let open_now = open(DAY);
        for day in [DAY - 1, DAY, DAY + AHEAD] {
            assert!(numbers(day).all(|number| open_now.contains(&number)), "{day}");
        }
        assert!(!open_now.contains(&numbers(DAY + AHEAD + 1).start));
        assert_eq!(over(DAY).end, open_now.start, "no day is between them");
        // What was opened for the last time as a day to come is looked for until relays have dropped it.
        assert!(numbers(DAY - BACK).all(|number| over(DAY).contains(&number)));
        assert!(over(0).is_empty() && open(0).start == 0);
    }

    #[test]
    fn an_invitation_does_not_show_its_code_in_logs() {
        let shown = format!("{:?}", invitation(1)).to_lowercase();
        assert!(!shown.contains("abab") && !shown.contains("171, 171"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_introduction_opens_after_any_change(at in any::<prop::sample::Index>(), front in any::<bool>()) {
            static BLOB: LazyLock<Vec<u8>> = LazyLock::new(|| sent(&letter("Hello"), BITS, DAY * DAILY));
            let mut blob = BLOB.clone();
            let at = at.index(if front { 200 } else { blob.len() });
            blob[at] ^= 1;
            prop_assert_eq!(opened(&blob, DAY * DAILY).expect_err("changed"), InvalidIntroduction::Sealing);
        }

        #[test]
        fn any_text_and_any_body_are_read_without_panic(
            text in "\\PC{0,200}",
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = format!("{PREFIX}{text}").parse::<Invitation>();
            let _ = Invitation::from_record(bob(), format!("v=tox1;{text}").as_bytes());
            let letter = Letter { body: Zeroizing::new(body), day: DAY };
            prop_assert!(opened(&sent(&letter, BITS, DAY * DAILY), DAY * DAILY).is_err());
        }
    }
}
