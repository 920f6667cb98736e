//! Address lists of header fields (RFC 5322 section 3.4).
//!
//! Owns the reading of `From`, on which the decision rests whether a peer may write under that name. Therefore it is
//! all or nothing: a list of which any piece cannot be read has no reading, since a mail reader might show just that
//! piece. Pure, without recursion; uses [`super::address`] only.

use super::address::Address;

/// The longest display name that [`Mailbox::display`] gives, in octets.
const MAX_DISPLAY: usize = 200;

/// One mailbox of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// The display name, ready to be written before ` <address>`, if it is plain ASCII and short.
    pub display: Option<String>,
    /// The address.
    pub address: Address,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A run of other characters, dots among them.
    Atom(String),
    /// The content of a quoted string, without its escapes.
    Quoted(String),
    /// `[…]` with its brackets.
    Literal(String),
    /// One of `< > @ , ; :`
    Special(char),
}

/// Splits into tokens, comments left out; `None` if a quoted string, comment or literal does not end or a character
/// stands where it cannot.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => {}
            '<' | '>' | '@' | ',' | ';' | ':' => tokens.push(Token::Special(c)),
            '(' => {
                let mut depth = 1usize;
                while depth > 0 {
                    match chars.next()? {
                        '\\' => drop(chars.next()?),
                        '(' => depth += 1,
                        ')' => depth -= 1,
                        _ => {}
                    }
                }
            }
            '"' => {
                let mut content = String::new();
                loop {
                    match chars.next()? {
                        '\\' => content.push(chars.next()?),
                        '"' => break,
                        // Folding inside quotes: the line end is not content.
                        '\r' | '\n' => {}
                        c => content.push(c),
                    }
                }
                tokens.push(Token::Quoted(content));
            }
            '[' => {
                let mut literal = String::from('[');
                loop {
                    let c = chars.next()?;
                    literal.push(c);
                    match c {
                        ']' => break,
                        '[' | '\\' => return None,
                        _ => {}
                    }
                }
                tokens.push(Token::Literal(literal));
            }
            ')' | ']' | '\\' => return None,
            c if c.is_control() => return None,
            c => {
                let mut atom = String::from(c);
                let part = |c: &char| !c.is_control() && !" <>@,;:()[]\"\\".contains(*c);
                while let Some(c) = chars.next_if(part) {
                    atom.push(c);
                }
                tokens.push(Token::Atom(atom));
            }
        }
    }
    Some(tokens)
}

/// Puts the words of a local part or domain together; more than one only with a dot at each seam (RFC 5322 section
/// 4.4).
fn join(words: &[Token], quotes: bool) -> Option<String> {
    let mut joined = String::new();
    let mut open = true;
    for word in words {
        let (text, dots) = match word {
            Token::Atom(text) => (text, true),
            Token::Quoted(text) if quotes => (text, false),
            _ => return None,
        };
        if !(open || dots && text.starts_with('.')) {
            return None;
        }
        joined.push_str(text);
        open = dots && text.ends_with('.');
    }
    Some(joined)
}

fn addr_spec(tokens: &[Token]) -> Option<Address> {
    let at = tokens.iter().position(|token| *token == Token::Special('@'))?;
    let local = join(&tokens[..at], true)?;
    let domain = match &tokens[at + 1..] {
        [Token::Literal(literal)] => literal.clone(),
        words => join(words, false)?,
    };
    Address::new(&local, &domain).ok()
}

/// What stands between `<` and `>`: an address, perhaps behind an obsolete route `@a,@b:`.
fn angle(tokens: &[Token]) -> Option<Address> {
    if tokens.first() != Some(&Token::Special('@')) {
        return addr_spec(tokens);
    }
    let colon = tokens.iter().position(|token| *token == Token::Special(':'))?;
    addr_spec(&tokens[colon + 1..])
}

/// A display name as it may be written in a new field.
fn display(phrase: &[Token]) -> Option<String> {
    let mut words = Vec::new();
    let mut plain = true;
    for token in phrase {
        match token {
            Token::Atom(text) => {
                plain &= !text.contains('.');
                words.push(text.as_str());
            }
            Token::Quoted(text) => {
                plain = false;
                words.push(text.as_str());
            }
            _ => return None,
        }
    }
    let text = words.join(" ");
    let clean = text.bytes().all(|octet| octet == b' ' || octet.is_ascii_graphic());
    if text.trim().is_empty() || text.len() > MAX_DISPLAY || !clean {
        return None;
    }
    if plain {
        return Some(text);
    }
    // An encoded word inside quotes would no longer be one.
    if text.contains("=?") {
        return None;
    }
    Some(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Reads an address list; `None` if any piece of it cannot be read. An address in the place of a display name
/// (`a@x <b@y>`) is listed as well, behind its mailbox: some readers show it as the author.
pub fn list(value: &[u8]) -> Option<Vec<Mailbox>> {
    let tokens = tokens(&String::from_utf8_lossy(value))?;
    let special = |token: &Token, any: &str| matches!(token, Token::Special(c) if any.contains(*c));
    let mut found = Vec::new();
    let mut rest = tokens.as_slice();
    let mut in_group = false;
    while !rest.is_empty() {
        let end = rest.iter().position(|token| special(token, "<>,;:")).unwrap_or(rest.len());
        let phrase = &rest[..end];
        let delimiter = match rest.get(end) {
            Some(Token::Special(c)) => Some(*c),
            _ => None,
        };
        rest = rest.get(end + 1..).unwrap_or_default();
        match delimiter {
            Some('<') => {
                let close = rest.iter().position(|token| special(token, ">"))?;
                let address = angle(&rest[..close])?;
                rest = &rest[close + 1..];
                if rest.first().is_some_and(|token| !special(token, ",;")) {
                    return None;
                }
                let shown = if phrase.contains(&Token::Special('@')) { Some(addr_spec(phrase)?) } else { None };
                let other = shown.filter(|shown| *shown != address);
                found.push(Mailbox { display: display(phrase), address });
                found.extend(other.map(|address| Mailbox { display: None, address }));
            }
            Some(':') if !in_group && !phrase.is_empty() && !phrase.contains(&Token::Special('@')) => in_group = true,
            Some(',' | ';') | None => {
                if !phrase.is_empty() {
                    found.push(Mailbox { display: None, address: addr_spec(phrase)? });
                }
                if delimiter == Some(';') {
                    if !in_group {
                        return None;
                    }
                    in_group = false;
                }
            }
            Some(_) => return None,
        }
    }
    if in_group { None } else { Some(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(value: &str) -> Option<Vec<String>> {
        Some(list(value.as_bytes())?.iter().map(|mailbox| mailbox.address.to_string()).collect())
    }

    #[test]
    fn lists_are_read() {
        for (value, expected) in [
            (" bob@Example.org", &["bob@example.org"][..]),
            ("Bob <bob@x>, \"A, B\" <a@y> (c (d) \\) e)", &["bob@x", "a@y"]),
            ("=?utf-8?Q?J=C3=B6?= <j@x>", &["j@x"]),
            ("J\u{f6}rg\r\n <j@x>", &["j@x"]),
            ("bob @ x . y", &["bob@x.y"]),
            ("bob . \"c d\"@x", &["\"bob.c d\"@x"]),
            ("<@a,@b:c@d>", &["c@d"]),
            ("team: a@x, B <b@y>;, c@z", &["a@x", "b@y", "c@z"]),
            ("undisclosed:;", &[]),
            ("x@[127.0.0.1]", &["x@[127.0.0.1]"]),
            ("a@x <a@x>", &["a@x"]),
            ("boss@bank.example <a@x>", &["a@x", "boss@bank.example"]),
            (" , ,", &[]),
        ] {
            assert_eq!(
                addresses(value).as_deref(),
                Some(&expected.iter().map(|e| e.to_string()).collect::<Vec<_>>()[..]),
                "{value}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_wholly_is_not_read() {
        for value in [
            "bob",
            "Bob Smith",
            "bob@x garbage",
            "a b@x",
            "a@x@y",
            "<a@x",
            "a@x>",
            "<a@x> tail",
            "<>",
            "\"a@x",
            "(a@x",
            "a@x, rubbish",
            "a@x; b@y",
            "g: a@x",
            "a\u{0}@x",
            "boss @bank x <a@x>",
            "me boss@bank <a@x>",
            "a@x)",
            "a\\b@x",
        ] {
            assert_eq!(addresses(value), None, "{value}");
        }
    }

    #[test]
    fn simple_display_names() {
        for (value, expected) in [
            ("Bob Smith <b@x>", Some("Bob Smith")),
            ("Bob Q. Smith <b@x>", Some("\"Bob Q. Smith\"")),
            ("\"Smith, \\\"B\\\"\" <b@x>", Some("\"Smith, \\\"B\\\"\"")),
            ("=?utf-8?Q?J=C3=B6?= <b@x>", Some("=?utf-8?Q?J=C3=B6?=")),
            ("Jörg <b@x>", None),
            ("b@x", None),
            ("\"\" <b@x>", None),
            ("\"=?a\" <b@x>", None),
        ] {
            let found = list(value.as_bytes()).expect(value);
            assert_eq!(found[0].display.as_deref(), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(value in proptest::collection::vec(proptest::sample::select(
            b"ab@<>,;:()[]\"\\. \r\n\t\0\xc3\xb6".to_vec()), 0..60)) {
            let _ = list(&value);
        }
    }
}
