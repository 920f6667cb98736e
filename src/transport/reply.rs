//! The agent's answers: reading their lines and judging what they prove.
//!
//! Owns: the grammar of replies (RFC 5321 section 4.2, RFC 2034) and what counts as proof. May use: `outcome`.

use super::outcome::{Status, Verdict};

/// The longest reply line taken, in octets; RFC 5321 section 4.5.3.1.5 says 512.
const MAX_LINE: usize = 4096;
/// The most lines of one reply.
const MAX_LINES: usize = 128;

/// One whole reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// The text of each line, without code and line end.
    pub(super) lines: Vec<String>,
}

impl Reply {
    /// Takes one whole reply off the start of `buffer`; `None` when more is to come.
    ///
    /// # Errors
    /// What came is no reply, or none of a bearable length.
    pub(super) fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>, Verdict> {
        let nonsense = || Verdict::temporary(5, 0, "tox-agent sent what is no LMTP reply");
        let mut lines = Vec::new();
        let mut at = 0;
        loop {
            let rest = buffer.get(at..).unwrap_or_default();
            let Some(len) = rest.iter().take(MAX_LINE).position(|b| *b == b'\n') else {
                return if rest.len() < MAX_LINE { Ok(None) } else { Err(nonsense()) };
            };
            let line = rest.get(..len).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (digits, text) = line.split_at_checked(3).ok_or_else(nonsense)?;
            let code = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
            let code = code.and_then(|d| d.parse().ok()).filter(|c| (200..600).contains(c)).ok_or_else(nonsense)?;
            let (last, text) = match text.split_first() {
                None => (true, text),
                Some((b' ', text)) => (true, text),
                Some((b'-', text)) => (false, text),
                Some(_) => return Err(nonsense()),
            };
            lines.push(String::from_utf8_lossy(text).into_owned());
            at += len + 1;
            if last {
                buffer.drain(..at);
                return Ok(Some(Self { code, lines }));
            }
            if lines.len() >= MAX_LINES {
                return Err(nonsense());
            }
        }
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Whether the server offers `keyword` (RFC 1869; case does not matter); the answer is the keyword's parameters.
    pub(super) fn offers(&self, keyword: &str) -> Option<&str> {
        self.lines.iter().skip(1).find_map(|line| {
            let (name, parameters) = line.split_once(' ').unwrap_or((line, ""));
            name.eq_ignore_ascii_case(keyword).then_some(parameters)
        })
    }

    /// The enhanced status code and the text of all lines in one.
    fn parts(&self) -> (Option<Status>, String) {
        let mut status = None;
        let mut words = Vec::new();
        for line in &self.lines {
            match Status::split(line) {
                Some((code, text)) => {
                    status = status.or(Some(code));
                    words.push(text.trim());
                }
                None => words.push(line.trim()),
            }
        }
        (status, words.join(" "))
    }

    /// What this reply to `command` means for the mail.
    ///
    /// Permanent is only what is proved: reply code and enhanced code must both say so, the reply code must be one that
    /// speaks about the mail, and an answer about the protocol itself (500–504, 555, 5.5.x) speaks about us.
    pub(super) fn verdict(&self, command: &str) -> Verdict {
        let (status, text) = self.parts();
        let (subject, detail) = status.map_or((0, 0), |s| (s.subject, s.detail));
        let class = status.map_or(self.code / 100, |s| u16::from(s.class));
        match self.code {
            200..300 if class == 2 => Verdict::new(Status::new(2, subject, detail), text),
            200..300 => Verdict::new(Status::new(2, 0, 0), text),
            550 | 551 | 552 | 553 | 554 | 556 if class == 5 && subject != 5 => {
                Verdict::new(Status::new(5, subject, detail), text)
            }
            400..500 if class == 4 => Verdict::new(Status::new(4, subject, detail), text),
            _ => {
                let text = format!("tox-agent answered {command} with {} {}", self.code, self.lines.join(" "));
                Verdict::new(Status::new(4, subject, detail), text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Reply {
        Reply::take(&mut text.as_bytes().to_vec()).ok().flatten().expect(text)
    }

    #[test]
    fn replies_are_taken_one_by_one() {
        let mut buffer = b"250-a\r\n250-PIPELINING\r\n250 size 10\r\n354\r\n42".to_vec();
        let first = Reply::take(&mut buffer).ok().flatten().expect("whole");
        assert_eq!((first.code, first.offers("Pipelining"), first.offers("SIZE")), (250, Some(""), Some("10")));
        assert_eq!((first.offers("a"), first.offers("DSN")), (None, None));
        assert_eq!(Reply::take(&mut buffer).ok().flatten().map(|r| r.code), Some(354));
        assert_eq!(Reply::take(&mut buffer), Ok(None));
        assert_eq!(buffer, b"42");
    }

    #[test]
    fn nonsense_is_temporary_and_bounded() {
        for text in ["x\n", "25\n", "2500 x\n", "199 x\n", "600 x\n", "25x y\n", "\u{ff}\u{ff}\n"] {
            let error = Reply::take(&mut text.as_bytes().to_vec()).expect_err(text);
            assert_eq!(error.status.class, 4, "{text}");
        }
        assert!(Reply::take(&mut vec![b'2'; 5000]).is_err());
        assert!(Reply::take(&mut b"250-x\n".repeat(500)).is_err());
    }

    #[test]
    fn only_proof_is_permanent() {
        for (text, said) in [
            ("250 2.0.0 queued as 1", "2.0.0 queued as 1"),
            ("250 ok", "2.0.0 ok"),
            ("250 5.1.1 odd", "2.0.0 odd"),
            ("550-5.1.1 no\r\n550 5.1.1 such user", "5.1.1 no such user"),
            ("550 no such user", "5.0.0 no such user"),
            ("552 5.3.4 too big", "5.3.4 too big"),
            ("554 5.6.0 bad mail", "5.6.0 bad mail"),
            ("556 5.1.10 null MX", "5.1.10 null MX"),
            ("450 4.4.1 offline", "4.4.1 offline"),
            ("421 4.3.2 stopping", "4.3.2 stopping"),
            ("450 5.1.1 odd", "4.1.1 tox-agent answered X with 450 5.1.1 odd"),
            ("550 4.2.1 odd", "4.2.1 tox-agent answered X with 550 4.2.1 odd"),
            ("500 5.5.2 what", "4.5.2 tox-agent answered X with 500 5.5.2 what"),
            ("503 bad order", "4.0.0 tox-agent answered X with 503 bad order"),
            ("554 5.5.1 no recipients", "4.5.1 tox-agent answered X with 554 5.5.1 no recipients"),
            ("555 5.5.4 parameter", "4.5.4 tox-agent answered X with 555 5.5.4 parameter"),
            ("530 5.7.0 log in", "4.7.0 tox-agent answered X with 530 5.7.0 log in"),
            ("354 go", "4.0.0 tox-agent answered X with 354 go"),
        ] {
            let verdict = reply(&format!("{text}\r\n")).verdict("X");
            assert_eq!(format!("{} {}", verdict.status, verdict.text), said);
        }
    }
}
