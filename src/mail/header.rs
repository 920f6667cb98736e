//! The header section of a mail, read from raw octets (RFC 5322 section 2.2).
//!
//! Owns the one view of header fields that [`super::trace`] and [`super::notice`] work on. It never fails and never
//! copies: whatever the octets are (no header at all, garbage lines, 8-bit, NUL, CRLF), every octet of the section
//! belongs to exactly one [`Part`], so that parts written out one after the other give the section back. Uses nothing
//! but core.

use std::ops::Range;

/// Only that many octets are looked at; what lies behind is body. No honest header section comes near it.
pub const MAX_SECTION: usize = 1 << 20;

/// A header field, or something between fields that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    /// The field's name as written, without blanks before the colon; `None` for a line that is no field.
    pub name: Option<&'a str>,
    /// What follows the colon (of a line that is no field: all of it), with its folding, without the last line end.
    pub value: &'a [u8],
    /// Where the part lies in the octets given to [`Section::read`], its last line end included.
    pub range: Range<usize>,
}

impl Part<'_> {
    /// Whether this is a field called `name`, in any case (RFC 5322 section 1.2.2).
    pub fn is(&self, name: &str) -> bool {
        self.name.is_some_and(|own| own.eq_ignore_ascii_case(name))
    }
}

/// Where the header section of a mail lies.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    mail: &'a [u8],
    start: usize,
    fields_end: usize,
    end: usize,
}

/// The end of the line that begins at `at`, its line end included.
fn line_end(mail: &[u8], at: usize) -> usize {
    mail[at..].iter().position(|&octet| octet == b'\n').map_or(mail.len(), |found| at + found + 1)
}

/// `line` without its LF or CRLF.
fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The length of the field name at the start of `line` and the place of its colon. Blanks before the colon are the
/// obsolete form of RFC 5322 section 4.5; readers take them, so a forger would use them.
fn name_of(line: &[u8]) -> Option<(&str, usize)> {
    let length = line.iter().take_while(|octet| octet.is_ascii_graphic() && **octet != b':').count();
    let blanks = line[length..].iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
    let colon = length + blanks;
    if length == 0 || line.get(colon) != Some(&b':') {
        return None;
    }
    std::str::from_utf8(&line[..length]).ok().map(|name| (name, colon))
}

impl<'a> Section<'a> {
    /// Finds the header section at the start of `mail`, which may be the whole mail or its first octets.
    ///
    /// A leading line `From …` or `>From …` before a field is the separator of an mbox file and stands outside. If there
    /// is no field at the beginning the mail has no header and everything is body. Else the section ends with the first
    /// empty line; lines between fields that are none do not end it, because some readers look for fields behind them.
    pub fn read(mail: &'a [u8]) -> Self {
        let seen = &mail[..mail.len().min(MAX_SECTION)];
        // A caller may have read that much and no more.
        let cut = seen.len() == MAX_SECTION;
        let mbox = seen.starts_with(b"From ") || seen.starts_with(b">From ");
        let start = if mbox { line_end(seen, 0) } else { 0 };
        let first = without_line_end(&seen[start..line_end(seen, start)]);
        if !first.is_empty() && name_of(first).is_none() || mbox && start == seen.len() {
            return Self { mail, start: 0, fields_end: 0, end: 0 };
        }
        let mut at = start;
        while at < seen.len() {
            let next = line_end(seen, at);
            let whole = seen[next - 1] == b'\n';
            // The limit cuts this line, or the mail ends between CR and LF: the line is the body's, unbroken.
            if !whole && (cut || seen[at..next] == *b"\r") {
                break;
            }
            if whole && without_line_end(&seen[at..next]).is_empty() {
                return Self { mail, start, fields_end: at, end: next };
            }
            at = next;
        }
        Self { mail, start, fields_end: at, end: at }
    }

    /// Where the fields begin: behind an mbox separator, if there is one.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Where the fields end and the empty line begins.
    pub fn fields_end(&self) -> usize {
        self.fields_end
    }

    /// Where the body begins: behind the empty line. Equal to [`Self::fields_end`] when there is none.
    pub fn end(&self) -> usize {
        self.end
    }

    /// The parts in their order.
    pub fn parts(&self) -> Parts<'a> {
        Parts { mail: &self.mail[..self.fields_end], at: self.start }
    }

    /// Whether there is a field called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.parts().any(|part| part.is(name))
    }
}

/// The iterator of [`Section::parts`].
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    mail: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let from = self.at;
        if from >= self.mail.len() {
            return None;
        }
        let mut to = line_end(self.mail, from);
        while matches!(self.mail.get(to), Some(b' ' | b'\t')) {
            to = line_end(self.mail, to);
        }
        self.at = to;
        let whole = without_line_end(&self.mail[from..to]);
        Some(match name_of(whole) {
            Some((name, colon)) => Part { name: Some(name), value: &whole[colon + 1..], range: from..to },
            None => Part { name: None, value: whole, range: from..to },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(mail: &[u8]) -> Vec<Option<&str>> {
        Section::read(mail).parts().map(|part| part.name).collect()
    }

    #[test]
    fn fields_folding_and_the_end() {
        let mail = b"Subject: a\n b\nTo :x\r\n\ty\r\nX-Empty:\n\r\nbody: no\n";
        let section = Section::read(mail);
        assert_eq!(names(mail), [Some("Subject"), Some("To"), Some("X-Empty")]);
        let parts: Vec<_> = section.parts().collect();
        assert_eq!(parts[0].value, b" a\n b");
        assert_eq!(parts[0].range, 0..14);
        assert_eq!(parts[1].value, b"x\r\n\ty");
        assert_eq!(parts[2].value, b"");
        assert_eq!(&mail[section.end()..], b"body: no\n");
        assert_eq!(&mail[section.fields_end()..section.end()], b"\r\n");
        assert!(section.has("SUBJECT") && !section.has("body"));
    }

    #[test]
    fn odd_beginnings() {
        for (mail, start, fields_end, end) in [
            (&b""[..], 0, 0, 0),
            (b"\n", 0, 0, 1),
            (b"\r\nbody", 0, 0, 2),
            (b"\nbody: x\n\n", 0, 0, 1),
            (b"hello world\nX: y\n\n", 0, 0, 0),
            (b" X: y\n\n", 0, 0, 0),
            (b"From a@x Mon Jan  1 00:00:00 2026\nX: y\n\nb", 34, 39, 40),
            (b">From a\nX: y\n", 8, 13, 13),
            (b"From a\nhello\n", 0, 0, 0),
            (b"From a\n\nhello\n", 7, 7, 8),
            (b"From a", 0, 0, 0),
            (b"X: y", 0, 4, 4),
            (b"X: y\n", 0, 5, 5),
            (b"X: y\n\r", 0, 5, 5),
        ] {
            let section = Section::read(mail);
            let text = String::from_utf8_lossy(mail);
            assert_eq!((section.start(), section.fields_end(), section.end()), (start, fields_end, end), "{text:?}");
        }
    }

    #[test]
    fn garbage_between_fields_does_not_hide_what_follows() {
        let mail = b"A: 1\nrubbish\n\x00\xff: x\nno name\n: y\nB: 2\n\n";
        assert_eq!(names(mail), [Some("A"), None, None, None, None, Some("B")]);
    }

    #[test]
    fn the_limit_cuts_between_lines() {
        let mut mail = b"X: 0123456789\n".repeat(MAX_SECTION / 14 + 2);
        mail.extend_from_slice(b"\nbody");
        let section = Section::read(&mail);
        assert_eq!(section.end(), MAX_SECTION / 14 * 14);
        assert_eq!(section.parts().count(), MAX_SECTION / 14);
        let mut long = b"X: ".to_vec();
        long.resize(MAX_SECTION + 10, b'a');
        assert_eq!(Section::read(&long).end(), 0);
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..8),
            proptest::sample::select(vec!["A: b\n", "\r\n", "\n", "From x", ">From x", " ", "\t", ":", "\r"])
                .prop_map(|text| text.as_bytes().to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn parts_cover_the_section(mail in proptest::collection::vec(piece(), 0..20).prop_map(|all| all.concat())) {
            let section = Section::read(&mail);
            let mut at = section.start();
            for part in section.parts() {
                prop_assert_eq!(part.range.start, at);
                prop_assert!(part.range.end > at);
                at = part.range.end;
            }
            prop_assert_eq!(at, section.fields_end());
            prop_assert!(section.end() >= at && section.end() <= mail.len());
        }
    }
}
