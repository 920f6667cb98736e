//! The TXT records that carry Tox IDs: `v=tox1;id=…` (STS, "DNS Discovery"). Reads what was ever written, within
//! reason; writes what every historic client reads.

use std::fmt;

use data_encoding::{BASE64_NOPAD, HEXLOWER_PERMISSIVE};

use super::base32;
use super::query::{InvalidName, Query};
use crate::identity::tox_id::{InvalidToxId, PublicKey, ToxId};
use crate::mail::address::Address;

/// The longest record read, in octets. A signed record of the longest name has less than 400.
const MAX_TEXT: usize = 4096;
/// The characters of a sealed ID: 54 octets in the base32 of tox3.
const SEALED: usize = 87;
/// The field that tells an invitation; what it means is not read here.
pub const INVITATION: &str = "inv";
/// The longest character-string of a TXT record, in octets (RFC 1035 section 3.3).
const MAX_STRING: usize = 255;
/// The fields that mean something. Each may stand once.
const KEYS: [&str; 5] = ["v", "id", "pub", "check", "sign"];

/// What a Tox record says.
///
/// `sign` is the signature in NaCl's combined form, see [`super::signature`]; empty if it is no base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A whole Tox ID.
    Tox1 {
        /// The ID; its checksum is right and its key not zero.
        id: ToxId,
        /// The `sign` field, if there is one.
        sign: Option<Vec<u8>>,
    },
    /// An ID without nospam, which the owner hands out as a PIN.
    Tox2 {
        /// The public key.
        key: PublicKey,
        /// The checksum of the whole ID.
        check: [u8; 2],
        /// The `sign` field, if there is one.
        sign: Option<Vec<u8>>,
    },
    /// The answer to an encrypted request, see [`super::tox3`].
    Tox3 {
        /// MAC (16 octets) and encrypted ID (38).
        sealed: [u8; 54],
    },
    /// `v=tox;pub=…` at `_tox.domain`: what the domain signs its records with, as it says itself.
    DomainKey {
        /// Ed25519 public key.
        sign_key: [u8; 32],
    },
}

/// Why a Tox record is broken; the words are for the one who asked, or who wrote the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidRecord {
    /// More than 4096 octets.
    Long,
    /// No UTF-8.
    NotUtf8,
    /// A version that is not known here, such as `tox4`.
    Version(String),
    /// A field without `=`.
    NoValue,
    /// A field stands twice.
    Repeated(&'static str),
    /// A field is not there.
    Missing(&'static str),
    /// The field is not that many hexadecimal digits.
    Hex(&'static str, usize),
    /// `id` is no Tox ID.
    Id(InvalidToxId),
    /// The public key is zero, which nobody can have.
    ZeroKey,
    /// `id` of tox3 is not 87 characters of its base32.
    Sealed,
}

impl fmt::Display for InvalidRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the Tox record in DNS is broken: ")?;
        match self {
            Self::Long => write!(f, "it is longer than {MAX_TEXT} octets"),
            Self::NotUtf8 => f.write_str("it is not UTF-8"),
            Self::Version(version) => write!(f, "version `{version}` is not known here"),
            Self::NoValue => f.write_str("a field has no `=`"),
            Self::Repeated(key) => write!(f, "`{key}` stands twice"),
            Self::Missing(key) => write!(f, "`{key}` is missing"),
            Self::Hex(key, digits) => write!(f, "`{key}` is not {digits} hexadecimal digits"),
            Self::Id(error) => error.fmt(f),
            Self::ZeroKey => f.write_str("its public key is zero"),
            Self::Sealed => write!(f, "`id` is not {SEALED} characters of a to z and 0 to 5"),
        }
    }
}

impl std::error::Error for InvalidRecord {}

/// Why the TXT records of a name give no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectError {
    /// Several records of the same version that differ.
    Ambiguous,
    /// No good record, and one that is broken.
    Invalid(InvalidRecord),
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambiguous => f.write_str("DNS has several Tox records for this name, and they differ"),
            Self::Invalid(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SelectError {}

/// Why a good record gives no Tox ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoId {
    /// tox2: the nospam is not in it.
    NeedsPin,
    /// tox3: to be opened with the key of the request, which was none.
    Sealed,
    /// A key of the domain.
    DomainKey,
}

impl fmt::Display for NoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeedsPin => {
                "the record in DNS is of version tox2, which needs a PIN and is not supported: ask the owner for the \
                 whole Tox ID"
            }
            Self::Sealed => "the record in DNS is encrypted (tox3), but was asked for in the clear",
            Self::DomainKey => "the record in DNS is the signing key of the domain, not a Tox ID",
        })
    }
}

impl std::error::Error for NoId {}

impl Record {
    /// The Tox ID that the record gives.
    ///
    /// # Errors
    /// It gives none, or none in the clear.
    pub fn id(&self) -> Result<ToxId, NoId> {
        match self {
            Self::Tox1 { id, .. } => Ok(*id),
            Self::Tox2 { .. } => Err(NoId::NeedsPin),
            Self::Tox3 { .. } => Err(NoId::Sealed),
            Self::DomainKey { .. } => Err(NoId::DomainKey),
        }
    }

    /// The `sign` field, if there is one.
    pub fn sign(&self) -> Option<&[u8]> {
        match self {
            Self::Tox1 { sign, .. } | Self::Tox2 { sign, .. } => sign.as_deref(),
            Self::Tox3 { .. } | Self::DomainKey { .. } => None,
        }
    }

    /// The number of the version; 0 for the key of a domain, which names nobody.
    fn version(&self) -> u8 {
        match self {
            Self::DomainKey { .. } => 0,
            Self::Tox1 { .. } => 1,
            Self::Tox2 { .. } => 2,
            Self::Tox3 { .. } => 3,
        }
    }

    /// Whether both say the same, but for the signature.
    fn agrees(&self, other: &Record) -> bool {
        match (self, other) {
            (Self::Tox1 { id, .. }, Self::Tox1 { id: other, .. }) => id == other,
            (Self::Tox2 { key, check, .. }, Self::Tox2 { key: other, check: digits, .. }) => {
                (key, check) == (other, digits)
            }
            _ => self == other,
        }
    }
}

/// The fields of `text` that are not empty. A backslash before `;` comes with what was copied from a zone file or from
/// `nslookup`; it is never on the wire.
fn fields(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|octet| *octet == b';')
        .map(|field| field.strip_suffix(b"\\").unwrap_or(field).trim_ascii())
        .filter(|field| !field.is_empty())
}

/// Key and value of a field, split at the first `=`: base64 has more of them.
fn pair(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = field.iter().position(|octet| *octet == b'=')?;
    Some((field[..at].trim_ascii_end(), field[at + 1..].trim_ascii_start()))
}

/// The value of a field of a Tox record that means nothing here (`docs/names.md`): `None` if it is not there or stands
/// twice, or the record is too long or somebody else's.
pub fn field<'a>(text: &'a [u8], key: &str) -> Option<&'a [u8]> {
    version(text).filter(|_| text.len() <= MAX_TEXT)?;
    let mut values = fields(text).filter_map(pair).filter(|(name, _)| name.eq_ignore_ascii_case(key.as_bytes()));
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value)
}

/// The version of a Tox record, in lower case; `None` if it is none. `v` must come first.
fn version(text: &[u8]) -> Option<String> {
    let (key, value) = pair(fields(text).next()?)?;
    let (name, number) = value.split_at_checked(3)?;
    let ours = key.eq_ignore_ascii_case(b"v")
        && name.eq_ignore_ascii_case(b"tox")
        && number.len() < 10
        && number.iter().all(u8::is_ascii_digit);
    ours.then(|| String::from_utf8_lossy(value).to_ascii_lowercase())
}

fn hex<const N: usize>(key: &'static str, value: &[u8]) -> Result<[u8; N], InvalidRecord> {
    let octets = HEXLOWER_PERMISSIVE.decode(value).map_err(|_| InvalidRecord::Hex(key, 2 * N))?;
    octets.try_into().map_err(|_| InvalidRecord::Hex(key, 2 * N))
}

/// Without regard to padding, which the earliest records lack; empty if it is no base64.
fn base64(value: &[u8]) -> Vec<u8> {
    let padding = value.iter().rev().take_while(|octet| **octet == b'=').count();
    BASE64_NOPAD.decode(&value[..value.len() - padding]).unwrap_or_default()
}

fn not_zero(key: [u8; 32]) -> Result<[u8; 32], InvalidRecord> {
    if key == [0; 32] { Err(InvalidRecord::ZeroKey) } else { Ok(key) }
}

/// Reads one TXT record, its character-strings joined without anything between them. `None` if it is somebody else's,
/// such as `v=spf1`.
///
/// # Errors
/// It is a Tox record, but a broken one.
pub fn read(text: &[u8]) -> Result<Option<Record>, InvalidRecord> {
    let Some(version) = version(text) else { return Ok(None) };
    if text.len() > MAX_TEXT {
        return Err(InvalidRecord::Long);
    }
    if std::str::from_utf8(text).is_err() {
        return Err(InvalidRecord::NotUtf8);
    }
    let mut values = [None; KEYS.len()];
    for field in fields(text) {
        let (key, value) = pair(field).ok_or(InvalidRecord::NoValue)?;
        if let Some(at) = KEYS.iter().position(|known| key.eq_ignore_ascii_case(known.as_bytes()))
            && values[at].replace(value).is_some()
        {
            return Err(InvalidRecord::Repeated(KEYS[at]));
        }
    }
    let [_, id, key, check, sign] = values;
    let id = id.ok_or(InvalidRecord::Missing("id"));
    let key = key.ok_or(InvalidRecord::Missing("pub"));
    let sign = sign.map(base64);
    let record = match version.as_str() {
        "tox1" => {
            let id = ToxId::from_octets(&hex("id", id?)?).map_err(InvalidRecord::Id)?;
            not_zero(id.key().0)?;
            Record::Tox1 { id, sign }
        }
        "tox2" => {
            let key = PublicKey(not_zero(hex("pub", key?)?)?);
            let check = hex("check", check.ok_or(InvalidRecord::Missing("check"))?)?;
            Record::Tox2 { key, check, sign }
        }
        "tox3" => {
            let sealed = base32::decode(id?).map_err(|_| InvalidRecord::Sealed)?;
            Record::Tox3 { sealed: sealed.try_into().map_err(|_| InvalidRecord::Sealed)? }
        }
        "tox" => Record::DomainKey { sign_key: not_zero(hex("pub", key?)?)? },
        _ => return Err(InvalidRecord::Version(version)),
    };
    Ok(Some(record))
}

/// The answer among the TXT records of a name, in any order. What is no Tox record is skipped; so is a broken one
/// beside a good one. The highest version wins. `None` if there is no Tox record.
///
/// # Errors
/// Records of the highest version differ, for the order of DNS is no choice; or all Tox records are broken.
pub fn select(texts: &[impl AsRef<[u8]>]) -> Result<Option<Record>, SelectError> {
    let mut good: Vec<Record> = Vec::new();
    let mut broken = None;
    for text in texts {
        match read(text.as_ref()) {
            Ok(record) => good.extend(record),
            Err(error) => broken = broken.or(Some(error)),
        }
    }
    // A signature decides between equals, so that the order of the records does not.
    let best = good.iter().max_by(|a, b| (a.version(), a.sign()).cmp(&(b.version(), b.sign())));
    match best {
        None => broken.map_or(Ok(None), |error| Err(SelectError::Invalid(error))),
        Some(best) if good.iter().any(|other| other.version() == best.version() && !other.agrees(best)) => {
            Err(SelectError::Ambiguous)
        }
        Some(best) => Ok(Some(best.clone())),
    }
}

/// The text among these of a name's records that leads to `id` and tells an invitation; `None` also if several do, and differ.
pub fn inviting<'a>(texts: &'a [impl AsRef<[u8]>], id: &ToxId) -> Option<&'a [u8]> {
    let leads_there = |text: &&[u8]| matches!(read(text), Ok(Some(Record::Tox1 { id: other, .. })) if other == *id);
    let mut inviting = texts.iter().map(AsRef::as_ref).filter(leads_there);
    let first = inviting.find(|text| field(text, INVITATION).is_some())?;
    let differs = |text: &[u8]| field(text, INVITATION).is_some() && text != first;
    (!inviting.any(differs)).then_some(first)
}

/// The record of `id`, in the form that every historic client reads.
pub fn write(id: &ToxId) -> String {
    format!("v=tox1;id={id}")
}

/// The line that publishes `id` for `address` in a zone file (RFC 1035 section 5.1), with a TTL of 3600 s. `more` are further
/// fields, such as `inv=…;r=…`, in character-strings of their own: whoever reads the first one alone finds the ID in it.
///
/// # Errors
/// The address has no name in DNS, or its name or domain cannot be written.
pub fn zone_line(address: &Address, id: &ToxId, more: &str) -> Result<String, InvalidName> {
    let query = Query::of_address(address)?;
    if query.labels.first().is_some_and(|label| label == b"*") {
        return Err(InvalidName::Wildcard);
    }
    if !query.domain.is_ascii() {
        return Err(InvalidName::NotAscii);
    }
    let mut line = String::new();
    for label in &query.labels {
        for octet in label {
            match octet {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => line.push(char::from(*octet)),
                _ => line.push_str(&format!("\\{octet:03}")),
            }
        }
        line.push('.');
    }
    let first = if more.is_empty() { write(id) } else { write(id) + ";" };
    line.push_str(&format!("{}. 3600 IN TXT \"{first}\"", query.domain));
    for field in more.split_inclusive(';').map(str::as_bytes).flat_map(|field| field.chunks(MAX_STRING)) {
        line.push_str(&format!(" \"{}\"", String::from_utf8_lossy(field)));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vectors;
    use super::*;

    /// The ID in the 2014 record of tarek@toxme.se.
    const ID: &str = "545325E0B0B85B29C26BF0B6448CE12DFE0CD8D432D48D20362878C63BA4A734018C37107090";
    const OTHER: &str = "56A1ADE4B65B86BCD51CC73E2CD4E542179F47959FE3E0E21B4B0ACDADE51855D34D34D37CB5";

    fn id(text: &str) -> ToxId {
        text.parse().expect("valid")
    }

    fn tox1(sign: Option<&[u8]>) -> Record {
        Record::Tox1 { id: id(ID), sign: sign.map(<[u8]>::to_vec) }
    }

    #[test]
    fn the_record_of_2014_reads() {
        let historic = vectors::all()["seed_record"].clone();
        let text = vectors::text(&historic, "txt");
        assert_eq!(text.len() as u64, historic["txt_len"].as_u64().expect("a number"));
        let signed: Vec<u8> = ["signature_R", "signature_S", "signed_message"]
            .iter()
            .flat_map(|key| vectors::octets(&historic, key))
            .collect();
        assert_eq!(signed.len(), 103);
        // Padded, unpadded, and as `nslookup` printed it.
        for text in [text.as_str(), text.trim_end_matches('='), &text.replace(';', "\\;")] {
            let record = read(text.as_bytes()).expect("good").expect("ours");
            assert_eq!(record, tox1(Some(&signed)), "{text}");
            let id = record.id().expect("tox1");
            assert_eq!(id.key().0, vectors::key(&historic, "public_key"));
            assert_eq!(
                id.octets()[32..],
                [vectors::octets(&historic, "nospam"), vectors::octets(&historic, "checksum")].concat()
            );
        }
    }

    #[test]
    fn the_vectors_read() {
        let all = vectors::all();
        for vector in vectors::list(&all["sign"], "vectors") {
            let record = read(vectors::text(&vector, "txt").as_bytes()).expect("good").expect("ours");
            assert_eq!(record.id(), Ok(id(ID)));
            assert!(record.sign().expect("signed").ends_with(&vectors::octets(&vector, "message_hex")));
        }
        for vector in vectors::list(&all, "vectors") {
            let text = vectors::text(&vector, "response_txt");
            assert_eq!(text.len() as u64, vector["response_txt_len"].as_u64().expect("a number"));
            let record = read(text.as_bytes()).expect("good").expect("ours");
            let sealed = vectors::octets(&vector, "response_box").try_into().expect("54 octets");
            assert_eq!(record, Record::Tox3 { sealed });
            assert_eq!(record.id(), Err(NoId::Sealed));
            assert!(text.ends_with(&format!(";id={}", vectors::text(&vector, "response_id_base32"))));
        }
        let record = read(vectors::text(&all["sign"], "key_record").as_bytes()).expect("good").expect("ours");
        assert_eq!(record, Record::DomainKey { sign_key: vectors::key(&all["sign"], "verify_key") });
        assert_eq!(record.id(), Err(NoId::DomainKey));
    }

    #[test]
    fn tox2_is_known_and_says_that_it_needs_a_pin() {
        let vector = vectors::all()["tox2"].clone();
        let record = read(vectors::text(&vector, "txt").as_bytes()).expect("good").expect("ours");
        let whole = id(&vectors::text(&vector, "tox_id"));
        assert_eq!(record, Record::Tox2 { key: whole.key(), check: [0x70, 0x90], sign: None });
        assert!(record.id().expect_err("refused").to_string().contains("PIN"));
        // What the owner hands out is the nospam, which the record lacks.
        let pin = BASE64_NOPAD.decode(vectors::text(&vector, "pin").as_bytes()).expect("base64");
        assert_eq!(ToxId::new(whole.key(), pin.try_into().expect("4 octets")), whole);
    }

    #[test]
    fn odd_forms_of_a_good_record_read() {
        let (lower, sign) = (ID.to_lowercase(), Some(&b"sign"[..]));
        for (text, record) in [
            (format!("v=tox1;id={ID}"), tox1(None)),
            (format!("v=tox1;id={ID};"), tox1(None)),
            (format!(";; v=tox1 ;; id={ID};;"), tox1(None)),
            (format!(" \t V = TOX1 ;\tID = {lower} "), tox1(None)),
            (format!("v=tox1\\; id={ID}\\;"), tox1(None)),
            (format!("v=tox1;x=1;id={ID};x=2;=;é=ü"), tox1(None)),
            (format!("v=tox1;sign=c2lnbg==;id={ID}"), tox1(sign)),
            (format!("v=tox1;id={ID}; sign = c2lnbg"), tox1(sign)),
            (format!("v=tox1;id={ID};sign=c2ln*"), tox1(Some(b""))),
            (format!("v=tox1;id={ID};sign="), tox1(Some(b""))),
            (format!("v=tox1;id={ID};pub=no"), tox1(None)),
        ] {
            assert_eq!(read(text.as_bytes()), Ok(Some(record)), "{text}");
        }
    }

    #[test]
    fn what_is_no_tox_record_is_nobodys_error() {
        let bare = &ID[..64];
        for text in ["", ";", "hello", "v=spf1 -all", "v=", "v=toxic;id=1", "v=tox-1", "x=tox1;id=1", bare] {
            assert_eq!(read(text.as_bytes()), Ok(None), "{text}");
        }
        for text in [format!("id={ID};v=tox1"), format!("tox1;id={ID}"), "a".repeat(5000)] {
            assert_eq!(read(text.as_bytes()), Ok(None), "{text}");
        }
        assert_eq!(read(b"v=\xff;id=1"), Ok(None));
    }

    #[test]
    fn a_broken_tox_record_says_what_is_wrong() {
        use InvalidRecord::*;
        let zero = "0".repeat(76);
        let seal = "a".repeat(86);
        for (text, error) in [
            ("v=tox1".to_owned(), Missing("id")),
            ("v=tox1;id".to_owned(), NoValue),
            ("v=tox1;id=".to_owned(), Hex("id", 76)),
            (format!("v=tox1;id={}", &ID[..75]), Hex("id", 76)),
            (format!("v=tox1;id={}", &ID[..74]), Hex("id", 76)),
            (format!("v=tox1;id={ID}0"), Hex("id", 76)),
            (format!("v=tox1;id={}", id(ID).base32()), Hex("id", 76)),
            (format!("v=tox1;id=tox:{ID}"), Hex("id", 76)),
            (format!("v=tox1;id={}1", &ID[..75]), Id(InvalidToxId::Checksum)),
            (format!("v=tox1;id={zero}"), ZeroKey),
            (format!("v=tox1;id={ID};ID={ID}"), Repeated("id")),
            (format!("v=tox1;v=tox1;id={ID}"), Repeated("v")),
            (format!("v=tox1;id={ID};sign=;sign="), Repeated("sign")),
            (format!("v=tox1;pub={}", &ID[..64]), Missing("id")),
            (format!("v=tox1;id={ID};note"), NoValue),
            (format!("v=tox2;id={ID}"), Missing("pub")),
            (format!("v=tox2;pub={}", &ID[..64]), Missing("check")),
            (format!("v=tox2;pub={};check=70", &ID[..64]), Hex("check", 4)),
            (format!("v=tox2;pub={};check=7090", &zero[..64]), ZeroKey),
            ("v=tox3".to_owned(), Missing("id")),
            (format!("v=tox3;id={seal}"), Sealed),
            (format!("v=tox3;id={seal}aa"), Sealed),
            (format!("v=tox3;id={seal}9"), Sealed),
            ("v=tox".to_owned(), Missing("pub")),
            ("v=tox;pub=12".to_owned(), Hex("pub", 64)),
            (format!("v=tox;pub={}", &zero[..64]), ZeroKey),
            (format!("v=tox4;id={ID}"), Version("tox4".to_owned())),
            (format!("v=tox1;id={ID};x={}", "a".repeat(5000)), Long),
        ] {
            assert_eq!(read(text.as_bytes()), Err(error.clone()), "{text}");
            assert!(error.to_string().starts_with("the Tox record in DNS is broken: "));
        }
        assert_eq!(read(&[format!("v=tox1;id={ID};x=").as_bytes(), b"\xff"].concat()), Err(NotUtf8));
    }

    #[test]
    fn among_several_records_the_one_answer_is_found_or_none_is() {
        let ours = format!("v=tox1;id={ID}");
        let lower = format!("v=tox1; id={}", ID.to_lowercase());
        let signed = format!("{ours};sign=c2lnbg==");
        let other = format!("v=tox1;id={OTHER}");
        let broken = format!("v=tox1;id={ID}0");
        let newer = format!("v=tox4;id={ID}");
        let pin = format!("v=tox2;pub={};check=7090", &ID[..64]);
        let pins = format!("v=tox2;pub={};check=7091", &ID[..64]);
        let domain = format!("v=tox;pub={}", &ID[..64]);
        let foreign = "v=spf1 -all".to_owned();
        let found = tox1(None);
        let tox2 = Record::Tox2 { key: id(ID).key(), check: [0x70, 0x90], sign: None };
        for (texts, answer) in [
            (vec![], Ok(None)),
            (vec![&foreign], Ok(None)),
            (vec![&ours], Ok(Some(found.clone()))),
            (vec![&foreign, &ours, &foreign], Ok(Some(found.clone()))),
            (vec![&ours, &ours], Ok(Some(found.clone()))),
            (vec![&ours, &lower], Ok(Some(found.clone()))),
            (vec![&ours, &signed, &lower], Ok(Some(tox1(Some(b"sign"))))),
            (vec![&ours, &other], Err(SelectError::Ambiguous)),
            (vec![&ours, &broken, &other], Err(SelectError::Ambiguous)),
            (vec![&ours, &broken], Ok(Some(found.clone()))),
            (vec![&ours, &newer], Ok(Some(found.clone()))),
            (vec![&broken, &foreign], Err(SelectError::Invalid(InvalidRecord::Hex("id", 76)))),
            (vec![&newer], Err(SelectError::Invalid(InvalidRecord::Version("tox4".to_owned())))),
            (vec![&ours, &pin], Ok(Some(tox2.clone()))),
            (vec![&ours, &other, &pin], Ok(Some(tox2))),
            (vec![&pin, &pins], Err(SelectError::Ambiguous)),
            (vec![&domain, &ours], Ok(Some(found))),
        ] {
            assert_eq!(select(&texts), answer, "{texts:?}");
            let turned: Vec<&String> = texts.iter().rev().copied().collect();
            assert_eq!(select(&turned), answer, "{turned:?}");
        }
    }

    #[test]
    fn a_zone_file_gets_one_line_that_names_one_address() {
        let line = |address: &str| zone_line(&address.parse::<Address>().expect(address), &id(ID), "");
        for (address, owner) in [
            ("Alice@Example.org", "alice._tox.example.org."),
            ("first.last@example.org", "first.last._tox.example.org."),
            ("a_b-c+d@x.example", "a_b-c\\043d._tox.x.example."),
            ("zoë@xn--exmple-cua.se", "zo\\195\\171._tox.xn--exmple-cua.se."),
            ("\"a b;(\\\"\\\\\"@x.example", "a\\032b\\059\\040\\034\\092._tox.x.example."),
            ("a.*@x.example", "a.\\042._tox.x.example."),
        ] {
            assert_eq!(line(address), Ok(format!("{owner} 3600 IN TXT \"v=tox1;id={ID}\"")));
        }
        assert_eq!(line("*@example.org"), Err(InvalidName::Wildcard));
        assert_eq!(line("*.a@example.org"), Err(InvalidName::Wildcard));
        assert_eq!(line("bob@exämple.se"), Err(InvalidName::NotAscii));
        assert_eq!(line("bob@tox.alt"), Err(InvalidName::NotDns("alt")));
    }

    #[test]
    fn what_else_is_told_stands_in_strings_of_its_own() {
        let relays = format!("r={}", "a".repeat(2 * MAX_STRING));
        let line = zone_line(&"alice@example.org".parse().expect("good"), &id(ID), &format!("inv=b;{relays}"));
        let line = line.expect("a name");
        let strings: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        assert_eq!(strings[..2], [&format!("v=tox1;id={ID};"), "inv=b;"]);
        assert_eq!(strings[2..].concat(), relays);
        assert!(strings.iter().all(|text| text.len() <= MAX_STRING));
        let record = strings.concat();
        assert_eq!(select(&[&record]), Ok(Some(tox1(None))));
        assert_eq!(field(record.as_bytes(), "inv"), Some(&b"b"[..]));
    }

    #[test]
    fn an_invitation_is_that_of_the_record_with_the_id() {
        let plain = format!("v=tox1;id={ID}");
        let (one, two) = (format!("{plain};inv=a"), format!("{plain};inv=b"));
        let (other, foreign) = (format!("v=tox1;id={OTHER};inv=c"), "v=spf1;inv=d".to_owned());
        for (texts, told) in [
            (vec![&plain], None),
            (vec![&one], Some(&one)),
            (vec![&plain, &one, &foreign, &other], Some(&one)),
            (vec![&one, &one], Some(&one)),
            (vec![&one, &two], None),
            (vec![&other], None),
        ] {
            let turned: Vec<&String> = texts.iter().rev().copied().collect();
            for texts in [texts, turned] {
                assert_eq!(inviting(&texts, &id(ID)), told.map(|text| text.as_bytes()), "{texts:?}");
            }
        }
    }

    #[test]
    fn a_field_for_others_is_found_if_it_stands_once() {
        let found = |text: &str| field(text.as_bytes(), "inv").map(<[u8]>::to_vec);
        assert_eq!(found("v=tox1;id=x; INV = a=b ;r=c"), Some(b"a=b".to_vec()));
        let long = format!("v=tox1;inv=a;x={}", "y".repeat(MAX_TEXT));
        for none in ["v=tox1;id=x", "inv=a", "v=spf1;inv=a", "v=tox1;inv", "v=tox1;inv=a;inv=a", &long] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same_id(key: [u8; 32], nospam: [u8; 4]) {
            prop_assume!(key != [0; 32]);
            let id = ToxId::new(PublicKey(key), nospam);
            let text = write(&id);
            prop_assert_eq!(text.len(), 86);
            prop_assert_eq!(select(&[text]), Ok(Some(Record::Tox1 { id, sign: None })));
        }

        #[test]
        fn any_octets_are_read_without_panic(
            texts in prop::collection::vec(prop_oneof![
                any::<Vec<u8>>(),
                "(v=tox[1-4]?;)?((id|pub|check|sign|v|x) ?=[a-f0-9]{0,80}[;=\\\\]?){0,5}".prop_map(String::into_bytes),
                "v=tox[123];(id=[a-z0-5]{87}|pub=[0-9a-f]{64}|;check=[0-9a-f]{4}|;sign=[a-zA-Z=]{0,8}){0,3}"
                    .prop_map(String::into_bytes),
            ], 0..4)
        ) {
            let _ = select(&texts);
        }
    }
}
