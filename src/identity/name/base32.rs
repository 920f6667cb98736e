//! The base32 of tox3 names and replies (`toxdns/toxdns.c` of c-toxcore before 0.2.0). It is not that of RFC 4648:
//! other characters, and the octets are one little-endian number whose digits are written from the low end.

use std::fmt;

const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";

/// A character that is no digit of this base32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidBase32;

impl fmt::Display for InvalidBase32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tox3 is written in the characters a to z and 0 to 5 only")
    }
}

impl std::error::Error for InvalidBase32 {}

/// `octets` as ⌈8n/5⌉ characters, in lower case.
pub fn encode(octets: &[u8]) -> String {
    let mut text = String::with_capacity((octets.len() * 8).div_ceil(5));
    let (mut buffer, mut bits) = (0u32, 0);
    let mut push = |buffer: u32| text.push(char::from(DIGITS[(buffer & 31) as usize]));
    for octet in octets {
        buffer |= u32::from(*octet) << bits;
        bits += 8;
        while bits >= 5 {
            push(buffer);
            buffer >>= 5;
            bits -= 5;
        }
    }
    if bits > 0 {
        push(buffer);
    }
    text
}

/// The ⌊5m/8⌋ octets of `text`, in any case. The bits beyond the last octet may be anything: the old server read them
/// from behind its buffer.
///
/// # Errors
/// A character is no digit.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, InvalidBase32> {
    let mut octets = Vec::with_capacity(text.len() * 5 / 8);
    let (mut buffer, mut bits) = (0u32, 0);
    for character in text {
        let digit = match character.to_ascii_lowercase() {
            letter @ b'a'..=b'z' => letter - b'a',
            figure @ b'0'..=b'5' => figure - b'0' + 26,
            _ => return Err(InvalidBase32),
        };
        buffer |= u32::from(digit) << bits;
        bits += 5;
        if bits >= 8 {
            octets.push(buffer.to_le_bytes()[0]);
            buffer >>= 8;
            bits -= 8;
        }
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vectors;
    use super::*;

    #[test]
    fn the_vectors_encode_and_decode() {
        let all = vectors::all();
        assert_eq!(vectors::text(&all, "alphabet").as_bytes(), DIGITS);
        for vector in vectors::list(&all, "base32") {
            let (octets, text) = (vectors::octets(&vector, "hex"), vectors::text(&vector, "text"));
            assert_eq!(encode(&octets), text);
            assert_eq!(decode(text.as_bytes()), Ok(octets.clone()));
            assert_eq!(decode(text.to_uppercase().as_bytes()), Ok(octets));
        }
    }

    #[test]
    fn surplus_bits_are_ignored_and_other_characters_refused() {
        for (text, octets) in [("", &[][..]), ("a", &[]), ("5", &[]), ("ab", &[32]), ("55", &[255]), ("5h", &[255])] {
            assert_eq!(decode(text.as_bytes()).expect(text), octets, "{text}");
        }
        for text in ["6", "a9", "a b", "a=", "a.a", "é", "\0"] {
            assert_eq!(decode(text.as_bytes()), Err(InvalidBase32), "{text}");
        }
    }

    proptest! {
        #[test]
        fn octets_survive_the_text(octets: Vec<u8>) {
            let text = encode(&octets);
            prop_assert_eq!(text.len(), (octets.len() * 8).div_ceil(5));
            prop_assert_eq!(decode(text.as_bytes()), Ok(octets));
        }

        #[test]
        fn any_octets_are_read_without_panic(text: Vec<u8>) {
            if let Ok(octets) = decode(&text) {
                prop_assert_eq!(octets.len(), text.len() * 5 / 8);
            }
        }
    }
}
