//! The text of a friend request: words for people, and the address that the asker claims (`docs/protocol.md`).

use crate::mail::address::Address;

/// The longest text sent, in octets. c-toxcore's limit is 921 in its newer versions (`TOX_MAX_FRIEND_REQUEST_LENGTH`).
pub const MAX_SENT: usize = 900;
/// The longest text of a stranger that is kept, in characters.
const MAX_KEPT: usize = 1000;
/// What begins the last line, in which the asker names itself.
const CLAIM: &str = "Address: ";

/// `words` with the claim of `address` behind them. Too many words are cut.
pub fn compose(words: &str, address: Option<&Address>) -> String {
    let claim = address.map(|address| format!("\n{CLAIM}{address}")).unwrap_or_default();
    let mut end = words.len().min(MAX_SENT.saturating_sub(claim.len()));
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{claim}", &words[..end])
}

/// The words of a stranger on one line without control characters, and the address he claims, which proves nothing.
pub fn read(message: &[u8]) -> (String, Option<Address>) {
    let text = String::from_utf8_lossy(message);
    let (words, claim) = match text.trim_end().rsplit_once('\n') {
        Some((words, last)) => match last.trim().strip_prefix(CLAIM).and_then(|address| address.trim().parse().ok()) {
            Some(address) => (words, Some(address)),
            None => (text.as_ref(), None),
        },
        None => (text.as_ref(), None),
    };
    let words = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_KEPT).collect();
    (words, claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_back_and_nothing_else_is_taken_for_one() {
        let alice: Address = "alice@example.org".parse().expect("an address");
        let text = compose("Hello Bob,\nit is Alice", Some(&alice));
        assert_eq!(text, "Hello Bob,\nit is Alice\nAddress: alice@example.org");
        assert_eq!(read(text.as_bytes()), ("Hello Bob, it is Alice".to_owned(), Some(alice)));
        assert_eq!(read(compose("hi", None).as_bytes()), ("hi".to_owned(), None));
        for text in ["Address: a@b", "hi\nAddress: no address", "hi\nAddress: a@b\nmore", "hi Address: a@b", ""] {
            assert_eq!(read(text.as_bytes()).1, None, "{text}");
        }
        let long = compose(&"é".repeat(2000), Some(&"a@b".parse().expect("an address")));
        assert!(long.len() <= MAX_SENT && long.ends_with("\nAddress: a@b"), "{}", long.len());
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_read_without_panic(message: Vec<u8>) {
            let (words, _) = read(&message);
            proptest::prop_assert!(!words.contains(char::is_control) && words.chars().count() <= MAX_KEPT);
        }
    }
}
