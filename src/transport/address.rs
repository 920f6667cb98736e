//! What may stand between `<` and `>` of MAIL and RCPT.
//!
//! This is a guard, no judge: whether an address is a good one is the agent's decision. Here it matters that an address
//! from outside cannot end its angle brackets, add a parameter or start a new command.
//!
//! Owns: the check of addresses. May use: nothing of the program.

/// The longest address in octets. RFC 5321 has 256 for a path; a little more is for the agent to refuse.
const MAX: usize = 512;

/// Why an address cannot be named in LMTP.
///
/// The grammar is that of RFC 5321 section 4.1.2 and RFC 6531 as far as it delimits: quoted text may hold anything
/// printable and escapes; outside quotes there is no blank, angle bracket or backslash; nowhere a control character.
pub(super) fn fault(address: &str) -> Option<&'static str> {
    if address.len() > MAX {
        return Some("is longer than 512 octets");
    }
    if address.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Some("holds a control character");
    }
    let mut chars = address.chars();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            // An escape takes the next character with it; the end in its place is an end in the quoted part.
            '\\' if quoted => drop(chars.next()),
            '<' | '>' | '\\' if !quoted => return Some("holds an angle bracket or a backslash outside quotes"),
            c if c.is_whitespace() && !quoted => return Some("holds a blank outside quotes"),
            _ => {}
        }
    }
    quoted.then_some("ends in the middle of a quoted part")
}

/// `local@domain` of an unquoted local part, which is how Exim's environment has it: quoted where RFC 5321 wants it.
pub(super) fn join(local: &str, domain: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii();
    if local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(plain)) {
        return format!("{local}@{domain}");
    }
    let mut out = String::from("\"");
    for c in local.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    format!("{out}\"@{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_pass() {
        for good in
            ["a@x", "grå@exämple.se", "\"b b\"@x", "\"a>b\\\" <c\"@x", "x@[127.0.0.1]", "-x@y", "postmaster", "a+b=c@x"]
        {
            assert_eq!(fault(good), None, "{good}");
        }
    }

    #[test]
    fn nothing_leaves_the_angle_brackets() {
        for bad in [
            "a@x\r\nRCPT TO:<b@x>",
            "a\nb@x",
            "\"a\r\n\"@x",
            "\"a\\\r\"@x",
            "a@x> SIZE=1",
            "<a@x>",
            "a b@x",
            "a\tb@x",
            "\"a@x",
            "\"a\\\"@x",
            "\"a\\",
            "a\\>b@x",
            "a\0@x",
            "a\x7f@x",
            "a\u{85}@x",
            "a\u{2028}@x",
            "a\u{a0}@x",
        ] {
            assert!(fault(bad).is_some(), "{bad:?}");
        }
        assert!(fault(&"a".repeat(513)).is_some());
    }

    #[test]
    fn local_parts_are_quoted_where_they_must_be() {
        for (local, joined) in [
            ("bob", "bob@x"),
            ("b b", "\"b b\"@x"),
            ("a\"\\c", "\"a\\\"\\\\c\"@x"),
            ("a..b", "\"a..b\"@x"),
            ("grå", "grå@x"),
            ("a>b", "\"a>b\"@x"),
            ("a@b", "\"a@b\"@x"),
            ("", "\"\"@x"),
        ] {
            assert_eq!(join(local, "x"), joined);
            assert_eq!(fault(joined), None);
        }
    }
}
