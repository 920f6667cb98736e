//! What became of the mail, for one recipient and for the run, and how an MTA is told.
//!
//! Owns: the exit statuses and the status line. May use: nothing of the program.

use std::fmt;

/// `sysexits.h`, as far as this program uses it. Postfix and Exim know these numbers.
mod exit {
    pub(super) const OK: u8 = 0;
    pub(super) const USAGE: u8 = 64;
    pub(super) const DATAERR: u8 = 65;
    pub(super) const NOUSER: u8 = 67;
    pub(super) const UNAVAILABLE: u8 = 69;
    pub(super) const TEMPFAIL: u8 = 75;
    pub(super) const NOPERM: u8 = 77;
}

/// The longest status line with its newline, in octets. Postfix logs about 2000 of it; RFC 5321 allows a reply 512.
const MAX_LINE: usize = 500;
/// The longest answer quoted beside recipients' names.
const MAX_QUOTED: usize = 250;
/// How many recipients one line names.
const MAX_NAMED: usize = 3;
/// The longest address in the line, in octets.
const MAX_NAME: usize = 60;

/// An enhanced status code (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) class: u8,
    pub(super) subject: u16,
    pub(super) detail: u16,
}

impl Status {
    pub(super) fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// Reads a code at the start of `text` that is followed by a blank or the end, and returns it with the rest.
    pub(super) fn split(text: &str) -> Option<(Self, &str)> {
        let (code, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        let mut parts = code.split('.').map(|part| {
            let digits = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            if digits { part.parse::<u16>().ok() } else { None }
        });
        let (class, subject, detail) = (parts.next()??, parts.next()??, parts.next()??);
        let class = u8::try_from(class).ok().filter(|class| matches!(class, 2 | 4 | 5))?;
        parts.next().is_none().then_some((Self::new(class, subject, detail), rest.trim_start()))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// What became of the mail for one recipient. The class of the status decides: 2 taken, 4 try again, 5 never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: Status,
    pub(super) text: String,
}

impl Verdict {
    pub(super) fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// Try again later: `4.subject.detail`.
    pub(super) fn temporary(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self::new(Status::new(4, subject, detail), text)
    }

    /// The command line is wrong: `5.subject.detail`.
    pub(super) fn usage(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self::new(Status::new(5, subject, detail), text)
    }

    fn exit(&self) -> u8 {
        match (self.status.class, self.status.subject) {
            (2, _) => exit::OK,
            (5, 1) => exit::NOUSER,
            (5, 6) => exit::DATAERR,
            (5, 7) => exit::NOPERM,
            (5, _) => exit::UNAVAILABLE,
            _ => exit::TEMPFAIL,
        }
    }
}

/// The end of the run: what the process exits with and what it writes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) exit: u8,
    pub(super) line: String,
}

impl Outcome {
    /// The end of a run that was asked for words only.
    pub(super) fn information(text: String) -> Self {
        Self { exit: exit::OK, line: text }
    }

    /// The end of a run whose command line was wrong.
    pub(super) fn usage(verdict: &Verdict) -> Self {
        Self { exit: exit::USAGE, line: line(verdict.status, &verdict.text) }
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        Self { exit: verdict.exit(), line: line(verdict.status, &verdict.text) }
    }
}

/// Control characters, and those that reorder, hide or break text, which no log or bounce should carry.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// At most `max` octets of `text`, cut between characters.
fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The status line: one code, one blank, printable text, one newline.
fn line(status: Status, text: &str) -> String {
    let clean: String = text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect();
    let text = format!("{status} {}", clean.trim());
    format!("{}\n", cut(&text, MAX_LINE - 1).trim_end())
}

/// `<a>, <b>, <c> and N more`
fn names(recipients: &[&String]) -> String {
    let named: Vec<String> = recipients.iter().take(MAX_NAMED).map(|r| format!("<{}>", cut(r, MAX_NAME))).collect();
    let more = recipients.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

/// One outcome for all recipients, because a pipe program has one exit status. Any temporary failure makes it
/// temporary (the agent recognises what it took already when the mail comes again); else any permanent failure makes it
/// permanent; the text names whom it concerns.
pub(super) fn combine(recipients: &[String], verdicts: &[Verdict]) -> Outcome {
    let of = |class: u8| verdicts.iter().find(|verdict| verdict.status.class == class);
    let Some(worst) = of(4).or_else(|| of(5)).or_else(|| of(2)) else {
        return Verdict::temporary(3, 0, "there was no recipient").into();
    };
    if verdicts.len() == 1 {
        return worst.clone().into();
    }
    let counted = |class: u8| verdicts.iter().filter(|verdict| verdict.status.class == class).count();
    let quoted = cut(&worst.text, MAX_QUOTED);
    let text = if counted(worst.status.class) == verdicts.len() && verdicts.iter().all(|v| v == worst) {
        format!("{quoted} (all {} recipients)", verdicts.len())
    } else {
        let concerned: Vec<&String> = recipients
            .iter()
            .zip(verdicts)
            .filter(|(_, v)| v.status.class == worst.status.class)
            .map(|(r, _)| r)
            .collect();
        let others: Vec<String> = [(2, "accepted"), (5, "refused for good")]
            .into_iter()
            .filter(|(class, _)| *class != worst.status.class && counted(*class) > 0)
            .map(|(class, word)| format!("{} of {} recipients {word}", counted(class), verdicts.len()))
            .collect();
        let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
        format!("{}: {quoted}{others}", names(&concerned))
    };
    Verdict::new(worst.status, text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(code: &str) -> Verdict {
        let (status, text) = Status::split(code).expect(code);
        Verdict::new(status, text)
    }

    fn combined(list: &[(&str, &str)]) -> (u8, String) {
        let recipients: Vec<String> = list.iter().map(|(r, _)| (*r).to_owned()).collect();
        let verdicts: Vec<Verdict> = list.iter().map(|(_, v)| verdict(v)).collect();
        let outcome = combine(&recipients, &verdicts);
        (outcome.exit, outcome.line)
    }

    #[test]
    fn each_status_has_its_exit_code() {
        for (code, exit) in [
            ("2.0.0 ok", 0),
            ("2.1.5 ok", 0),
            ("4.3.0 x", 75),
            ("4.1.1 x", 75),
            ("5.0.0 x", 69),
            ("5.1.1 x", 67),
            ("5.1.10 x", 67),
            ("5.2.2 x", 69),
            ("5.3.4 x", 69),
            ("5.4.6 x", 69),
            ("5.6.0 x", 65),
            ("5.7.1 x", 77),
        ] {
            assert_eq!(combined(&[("a@x", code)]), (exit, format!("{code}\n")), "{code}");
        }
    }

    #[test]
    fn codes_are_read_only_where_they_are_whole() {
        assert_eq!(Status::split("5.1.1"), Some((Status::new(5, 1, 1), "")));
        assert_eq!(Status::split("4.7.999\t x"), Some((Status::new(4, 7, 999), "x")));
        for text in ["", "5", "5.1", "5.1.1.1 x", "3.1.1 x", "5.1.1000 x", "5.-1.1 x", "5..1 x", "x 5.1.1", "5.1.1x"] {
            assert_eq!(Status::split(text), None, "{text}");
        }
    }

    #[test]
    fn several_recipients_make_one_outcome() {
        assert_eq!(
            combined(&[("a@x", "2.0.0 queued as 1"), ("b@x", "2.0.0 queued as 1")]),
            (0, "2.0.0 queued as 1 (all 2 recipients)\n".into())
        );
        assert_eq!(
            combined(&[("a@x", "2.0.0 queued"), ("b@x", "5.1.1 no such user"), ("c@x", "2.0.0 queued")]),
            (67, "5.1.1 <b@x>: no such user (2 of 3 recipients accepted)\n".into())
        );
        assert_eq!(
            combined(&[("a@x", "2.0.0 q"), ("b@x", "5.1.1 no"), ("c@x", "4.4.1 later"), ("d@x", "4.4.2 later")]),
            (75, "4.4.1 <c@x>, <d@x>: later (1 of 4 recipients accepted, 1 of 4 recipients refused for good)\n".into())
        );
        assert_eq!(combined(&[("a@x", "5.7.1 no"), ("b@x", "5.1.1 no")]), (77, "5.7.1 <a@x>, <b@x>: no\n".into()));
        let many: Vec<(&str, &str)> =
            std::iter::repeat_n(("a@x", "5.1.1 no"), 2000).chain([("b@x", "2.0.0 y")]).collect();
        let (exit, line) = combined(&many);
        assert_eq!(exit, 67);
        assert_eq!(line, "5.1.1 <a@x>, <a@x>, <a@x> and 1997 more: no (1 of 2001 recipients accepted)\n");
        assert_eq!(combine(&[], &[]).exit, 75);
    }

    #[test]
    fn the_line_is_one_bounded_printable_line() {
        let nasty = format!("a\r\nb\x1b[31m\0\u{85}\u{202e}{}", "é".repeat(600));
        let outcome = Outcome::from(Verdict::temporary(3, 0, nasty));
        assert!(outcome.line.len() <= MAX_LINE && outcome.line.starts_with("4.3.0 a  b [31m"), "{}", outcome.line);
        assert_eq!(outcome.line.chars().filter(|c| is_unprintable(*c)).collect::<String>(), "\n");
        let recipients = vec!["r".repeat(900), "s".repeat(900)];
        let verdicts = [Verdict::temporary(4, 1, "t".repeat(900)), Verdict::new(Status::new(2, 0, 0), "")];
        let outcome = combine(&recipients, &verdicts);
        assert!(outcome.line.ends_with("(1 of 2 recipients accepted)\n"), "{}", outcome.line);
        assert!(outcome.line.len() <= MAX_LINE);
    }
}
