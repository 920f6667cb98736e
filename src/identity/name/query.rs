//! The names asked for in DNS: `name._tox.domain` (STS, "DNS Discovery"), with the limits of RFC 1035 section 2.3.4.

use std::fmt;

use crate::mail::address::{Address, InvalidAddress};

/// The longest label, in octets.
const MAX_LABEL: usize = 63;
/// The longest name as text, in octets: 255 on the wire.
const MAX_NAME: usize = 253;
/// The octets of the shortest label that IDNA (RFC 5890) makes of one with non-ASCII characters: `xn--` and one more.
const MIN_IDNA: usize = 5;
/// Top-level names that DNS does not serve (RFC 6761, 6762, 7686, 9476). A query would only tell others of the address.
const NOT_DNS: &[&str] = &["alt", "invalid", "local", "localhost", "onion", "tox"];

/// A name whose TXT records are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Query {
    /// What stands before the domain, `_tox` last: each 1 to 63 octets, in UTF-8, to be sent as they are.
    pub labels: Vec<Vec<u8>>,
    /// The domain in lower case, without a final dot. Non-ASCII characters are still to be encoded (IDNA).
    pub domain: String,
}

/// Why an address or domain cannot be looked up in DNS, or not be published there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidName {
    /// A dot at the start or the end, or two in a row.
    EmptyLabel,
    /// A part between dots is longer than 63 octets.
    LongLabel,
    /// The whole name is longer than 253 octets.
    LongName,
    /// The domain is an IP address.
    IpAddress,
    /// The domain has one label only, such as `localhost`.
    NoDot,
    /// The domain ends in a name that DNS does not serve, such as `alt`.
    NotDns(&'static str),
    /// No domain at all.
    Domain(InvalidAddress),
    /// A label that zone files take for every name (RFC 4592).
    Wildcard,
    /// Zone files hold the `xn--` form of the domain.
    NotAscii,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyLabel => f.write_str("the address has a dot too many to be looked up in DNS"),
            Self::LongLabel => f.write_str("DNS takes at most 63 octets between two dots"),
            Self::LongName => f.write_str("the address is too long for DNS, which takes 253 octets with `._tox.`"),
            Self::IpAddress => f.write_str("an IP address has no names in DNS: a domain must follow the @"),
            Self::NoDot => f.write_str("the domain has no dot: it is none that DNS knows"),
            Self::NotDns(top) => write!(f, "domains under `.{top}` are not in DNS"),
            Self::Domain(error) => error.fmt(f),
            Self::Wildcard => f.write_str("`*` would publish this ID for every name of the domain"),
            Self::NotAscii => f.write_str("a zone file needs the `xn--` form of the domain"),
        }
    }
}

impl std::error::Error for InvalidName {}

impl Query {
    /// The name that holds the record of `address`: `name._tox.domain`, the local part in lower case (ASCII only), each
    /// part between dots a label of its own.
    ///
    /// # Errors
    /// The local part makes no labels, the domain is none of DNS, or the whole is too long.
    pub fn of_address(address: &Address) -> Result<Self, InvalidName> {
        let local = address.local().to_ascii_lowercase();
        Self::new(local.split('.').chain(["_tox"]).map(|label| label.as_bytes().to_vec()).collect(), address.domain())
    }

    /// The name that holds what is common to a domain: `_tox.domain`.
    ///
    /// # Errors
    /// The domain is none of DNS, or too long.
    pub fn of_domain(domain: &str) -> Result<Self, InvalidName> {
        let address = Address::new("_tox", domain).map_err(InvalidName::Domain)?;
        Self::new(vec![b"_tox".to_vec()], address.domain())
    }

    /// The name of `labels`, which end in `_tox`, below `domain`.
    ///
    /// # Errors
    /// A label is empty or too long, the domain is none of DNS, or the whole is too long.
    pub(super) fn new(labels: Vec<Vec<u8>>, domain: &str) -> Result<Self, InvalidName> {
        if labels.iter().any(Vec::is_empty) {
            return Err(InvalidName::EmptyLabel);
        }
        check_domain(domain)?;
        if labels.iter().any(|label| label.len() > MAX_LABEL) {
            return Err(InvalidName::LongLabel);
        }
        let own: usize = labels.iter().map(|label| label.len() + 1).sum();
        let least = |label: &str| if label.is_ascii() { label.len() } else { MIN_IDNA };
        if own + dotted(domain).map(|label| least(label) + 1).sum::<usize>() - 1 > MAX_NAME {
            return Err(InvalidName::LongName);
        }
        Ok(Self { labels, domain: domain.to_owned() })
    }
}

/// The labels of a domain. The other three are dots to IDNA (RFC 3490 section 3.1).
fn dotted(domain: &str) -> impl Iterator<Item = &str> {
    domain.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'])
}

/// Whether `domain` (without a final dot) may be one of DNS. To be asked again for what IDNA makes of it, which may end
/// in `alt` where `domain` does not.
///
/// # Errors
/// It is an IP address, has no dot, ends in a name that DNS does not serve, or has a label that is empty or too long.
pub fn check_domain(domain: &str) -> Result<(), InvalidName> {
    let labels: Vec<&str> = dotted(domain).collect();
    let top = labels.last().copied().unwrap_or_default();
    if labels.contains(&"") {
        return Err(InvalidName::EmptyLabel);
    }
    if domain.starts_with('[') || top.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(InvalidName::IpAddress);
    }
    if labels.len() == 1 {
        return Err(InvalidName::NoDot);
    }
    if let Some(top) = NOT_DNS.iter().find(|name| top.eq_ignore_ascii_case(name)) {
        return Err(InvalidName::NotDns(top));
    }
    if labels.iter().any(|label| label.is_ascii() && label.len() > MAX_LABEL) {
        return Err(InvalidName::LongLabel);
    }
    Ok(())
}

/// For people: UTF-8 as it is. What does not belong in a line (control characters, marks that turn the direction of
/// text) and what would read as something else (`.` and `\` within a label) is `\DDD` (RFC 1035 section 5.1).
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strange = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        for label in &self.labels {
            for chunk in label.utf8_chunks() {
                for c in chunk.valid().chars() {
                    if strange(c) || ".\\".contains(c) {
                        let mut buffer = [0; 4];
                        c.encode_utf8(&mut buffer).bytes().try_for_each(|octet| write!(f, "\\{octet:03}"))?;
                    } else {
                        write!(f, "{c}")?;
                    }
                }
                chunk.invalid().iter().try_for_each(|octet| write!(f, "\\{octet:03}"))?;
            }
            f.write_str(".")?;
        }
        f.write_str(&self.domain.replace(strange, "\u{fffd}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vectors;
    use super::*;

    fn of(address: &str) -> Result<Query, InvalidName> {
        Query::of_address(&address.parse::<Address>().expect(address))
    }

    #[test]
    fn an_address_becomes_labels_in_lower_case() {
        for (address, labels, shown) in [
            ("alice@Example.ORG", &["alice", "_tox"][..], "alice._tox.example.org"),
            ("First.Last@example.org", &["first", "last", "_tox"], "first.last._tox.example.org"),
            ("ZoË@exämple.se", &["zoË", "_tox"], "zoË._tox.exämple.se"),
            ("\"a b\"@x.example.", &["a b", "_tox"], "a b._tox.x.example"),
            ("\"a\\\\b\"@x.example", &["a\\b", "_tox"], "a\\092b._tox.x.example"),
            ("\"a\u{202e}b\"@x.example", &["a\u{202e}b", "_tox"], "a\\226\\128\\174b._tox.x.example"),
        ] {
            let query = of(address).expect(address);
            let texts: Vec<&[u8]> = labels.iter().map(|label| label.as_bytes()).collect();
            assert_eq!(query.labels, texts, "{address}");
            assert_eq!(query.to_string(), shown);
        }
        let query = Query { labels: vec![b"a\n.\xff\x80".to_vec()], domain: "x\u{7}.example".to_owned() };
        assert_eq!(query.to_string(), "a\\010\\046\\255\\128.x\u{fffd}.example");
        let historic = vectors::all()["seed_record"].clone();
        let query = of("tarek@toxme.se").expect("of 2014");
        assert_eq!(format!("{query}."), vectors::text(&historic, "query"));
    }

    #[test]
    fn a_domain_has_one_label_before_it() {
        for domain in ["Example.org", "example.org."] {
            let query = Query::of_domain(domain).expect(domain);
            assert_eq!((query.labels.len(), query.to_string().as_str()), (1, "_tox.example.org"));
        }
        assert!(matches!(Query::of_domain(""), Err(InvalidName::Domain(_))));
        assert!(matches!(Query::of_domain("a..b"), Err(InvalidName::Domain(_))));
        assert_eq!(Query::of_domain("tox.alt"), Err(InvalidName::NotDns("alt")));
    }

    #[test]
    fn what_is_no_name_in_dns_is_told_before_it_is_asked_for() {
        let long = "a".repeat(64);
        for (address, error) in [
            ("\"a..b\"@x.example", InvalidName::EmptyLabel),
            ("\".a\"@x.example", InvalidName::EmptyLabel),
            ("\"a.\"@x.example", InvalidName::EmptyLabel),
            (&format!("{long}@x.example"), InvalidName::LongLabel),
            (&format!("bob@{long}.example"), InvalidName::LongLabel),
            ("bob@a\u{3002}\u{3002}b.example", InvalidName::EmptyLabel),
            ("bob@[127.0.0.1]", InvalidName::IpAddress),
            ("bob@127.0.0.1", InvalidName::IpAddress),
            ("bob@tox", InvalidName::NoDot),
            ("bob@localhost", InvalidName::NoDot),
            ("bob@exämple", InvalidName::NoDot),
            ("bob@tox.alt", InvalidName::NotDns("alt")),
            ("bob@tox\u{3002}alt", InvalidName::NotDns("alt")),
            ("bob@a.localhost", InvalidName::NotDns("localhost")),
            ("bob@printer.local", InvalidName::NotDns("local")),
            ("bob@abc.ONION", InvalidName::NotDns("onion")),
            ("bob@x.invalid", InvalidName::NotDns("invalid")),
            ("bob@a.tox", InvalidName::NotDns("tox")),
        ] {
            assert_eq!(of(address), Err(error), "{address}");
        }
        assert!(of("bob@local.example").is_ok() && of("bob@alternative.example.org").is_ok());
    }

    #[test]
    fn a_name_has_at_most_253_octets() {
        let label = "a".repeat(63);
        let of = |last: usize| of(&format!("bob@{label}.{label}.{label}.{}", "a".repeat(last)));
        assert_eq!(of(52).expect("fits").to_string().len(), 253);
        assert_eq!(of(53), Err(InvalidName::LongName));
        let domain = |last: usize| format!("{label}.{label}.{label}.{}", "a".repeat(last));
        assert_eq!(Query::of_domain(&domain(56)).expect("fits").to_string().len(), 253);
        assert_eq!(Query::of_domain(&domain(57)), Err(InvalidName::LongName));
    }

    proptest! {
        #[test]
        fn any_address_makes_a_name_within_the_limits_or_an_error(
            local in "\\PC{1,80}|[a-zA-Z.]{1,128}", domain in "[a-z.ä-]{1,40}|[a-z]{1,70}\\.[a-z.]{1,200}"
        ) {
            let address = Address::new(&local, &domain).map_err(InvalidName::Domain);
            if let Ok(query) = address.and_then(|address| Query::of_address(&address)) {
                prop_assert!(query.labels.iter().all(|label| (1..=63).contains(&label.len())));
                prop_assert_eq!(query.labels.last().map(Vec::as_slice), Some(&b"_tox"[..]));
                prop_assert!(!query.domain.is_ascii() || query.labels.concat().len() + query.domain.len() <= 253);
                prop_assert!(!query.to_string().contains(char::is_control));
            }
        }
    }
}
