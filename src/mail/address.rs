//! Mail addresses (RFC 5321 section 4.1.2, RFC 6531 for UTF-8).

use std::fmt;
use std::str::FromStr;

/// A mailbox `local@domain`. The local part is kept without quotes and escapes (so `"b b"@x` holds `b b`); the domain is
/// kept in lower case. Two addresses are equal when domain and local part are; see [`Address::matches`] for the
/// case-insensitive comparison used for our own users.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    local: String,
    domain: String,
}

/// Why a text is no address; the words are for the user who typed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidAddress(&'static str);

impl InvalidAddress {
    /// What an unquoted local part must not hold.
    pub(super) const UNQUOTED: Self = Self("the part before @ needs quotes or holds a forbidden character");
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidAddress {}

/// The longest local part taken, in octets. RFC 5321 says 64; 76 admits a whole Tox ID in hexadecimal.
pub const MAX_LOCAL: usize = 128;
/// The longest domain, in octets (RFC 5321 section 4.5.3.1.2).
pub const MAX_DOMAIN: usize = 255;

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

impl Address {
    /// The address of `local` (without quotes) at `domain`.
    ///
    /// # Errors
    /// A part is empty, too long or holds a control character; the domain holds what no domain can.
    pub fn new(local: &str, domain: &str) -> Result<Self, InvalidAddress> {
        if local.is_empty() || local.len() > MAX_LOCAL {
            return Err(InvalidAddress("the part before @ is empty or longer than 128 octets"));
        }
        if local.chars().any(char::is_control) {
            return Err(InvalidAddress("control characters do not belong in an address"));
        }
        if domain.is_empty() || domain.len() > MAX_DOMAIN {
            return Err(InvalidAddress("the domain is empty or longer than 255 octets"));
        }
        let literal = domain.len() > 1 && domain.starts_with('[') && domain.ends_with(']');
        let label_ok = |label: &str| {
            !label.is_empty()
                && label
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || (!c.is_ascii() && !c.is_control()))
        };
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        if literal {
            // RFC 5321 section 4.1.3; a bracket inside would end the path that the address is written into.
            let inside = domain.get(1..domain.len() - 1).unwrap_or_default();
            if inside.is_empty() || !inside.chars().all(|c| c.is_ascii_alphanumeric() || ".:-".contains(c)) {
                return Err(InvalidAddress("the address literal is malformed"));
            }
        } else if !domain.split('.').all(label_ok) {
            return Err(InvalidAddress("the domain has an empty label or a character that no domain has"));
        }
        Ok(Self { local: local.to_owned(), domain: domain.to_lowercase() })
    }

    /// The part before `@`, without quotes.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The part after `@`, in lower case, without a final dot.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// With the local part in lower case too, as far as it is ASCII: how names are written in the DNS and compared there.
    pub fn lowered(&self) -> Self {
        Self { local: self.local.to_ascii_lowercase(), domain: self.domain.clone() }
    }

    /// Whether both name the same mailbox of ours: the local part compared without regard to ASCII case.
    pub fn matches(&self, other: &Address) -> bool {
        self.domain == other.domain && self.local.eq_ignore_ascii_case(&other.local)
    }

    /// Whether every octet is ASCII, so that no SMTPUTF8 is needed to name it.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.is_ascii()
    }
}

/// Prints the form of RFC 5321, the local part quoted where it must be.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext)) {
            return write!(f, "{}@{}", self.local, self.domain);
        }
        f.write_str("\"")?;
        for c in self.local.chars() {
            if c == '"' || c == '\\' {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        write!(f, "\"@{}", self.domain)
    }
}

/// Reads `local@domain` and `"quoted local"@domain`, without angle brackets, route or comment. Liberal in one point that
/// mail in the wild needs: dots anywhere in an unquoted local part are taken.
impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Some(rest) = text.strip_prefix('"') {
            let mut local = String::new();
            let mut chars = rest.char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '\\' => local.push(chars.next().ok_or(InvalidAddress("the quoted part does not end"))?.1),
                    '"' => {
                        let domain = rest[at + 1..]
                            .strip_prefix('@')
                            .ok_or(InvalidAddress("the quoted part is not followed by @"))?;
                        return Address::new(&local, domain);
                    }
                    _ => local.push(c),
                }
            }
            return Err(InvalidAddress("the quoted part does not end"));
        }
        let (local, domain) = text.rsplit_once('@').ok_or(InvalidAddress("an address is name@domain"))?;
        if !local.chars().all(|c| is_atext(c) || c == '.') {
            return Err(InvalidAddress::UNQUOTED);
        }
        Address::new(local, domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print() {
        for (text, printed) in [
            ("bob@Example.ORG", "bob@example.org"),
            ("\"b b\"@eol.example", "\"b b\"@eol.example"),
            ("\"bob\"@x.example.", "bob@x.example"),
            ("\"a\\\"b\"@x", "\"a\\\"b\"@x"),
            ("grå@exämple.se", "grå@exämple.se"),
            ("a..b@x", "\"a..b\"@x"),
            ("x@[127.0.0.1]", "x@[127.0.0.1]"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse::<Address>().expect(printed), address);
        }
        for text in ["b@[a>b]", "b@[]", "b@[", "b@]", "b@[[]]"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        for text in
            ["", "bob", "@x", "bob@", "bob@a..b", "b b@x", "bob@a b", "\"bob@x", "\"bob\"x@y", "b\rb@x", "<bob@x>"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic_and_what_is_read_prints_to_itself(text in "\\PC{0,80}|[a-z\"\\\\ .@\\[\\]]{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                proptest::prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address.clone()));
                proptest::prop_assert!(!address.to_string().contains(['\r', '\n']));
            }
        }
    }
}
