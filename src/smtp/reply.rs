//! A server's replies: taking them off what came, and judging what they prove. Pure; `smtp-proto` reads the lines.

use smtp_proto::Error;
use smtp_proto::response::parser::ResponseReceiver;

use crate::mail::status::{EnhancedStatus, Refusal};

/// The longest reply taken, in octets with codes and line ends; RFC 5321 section 4.5.3.1.5 allows a line 512.
pub(super) const MAX_REPLY: usize = 8 * 1024;

/// One whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    status: Option<EnhancedStatus>,
    /// The text of its lines, without codes.
    lines: Vec<String>,
}

/// What came is no reply, or none of a bearable length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Nonsense;

impl Reply {
    /// Takes one whole reply off the start of `buffer`; `None` when more is to come.
    pub(super) fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>, Nonsense> {
        let mut octets = buffer.iter();
        let response = match ResponseReceiver::default().parse(&mut octets) {
            Ok(response) => response,
            Err(Error::NeedsMoreData { .. }) if buffer.len() < MAX_REPLY => return Ok(None),
            Err(_) => return Err(Nonsense),
        };
        let taken = buffer.len() - octets.len();
        // Read here, because smtp-proto makes 5.7.255 of 5.7.509.
        let status = buffer[..taken].split(|octet| *octet == b'\n').find_map(|line| {
            let text = std::str::from_utf8(line.get(4..)?).ok()?;
            text.split_ascii_whitespace().next()?.parse().ok()
        });
        buffer.drain(..taken);
        if !(200..600).contains(&response.code) {
            return Err(Nonsense);
        }
        let lines = response.message.lines().map(|line| line.trim().to_owned()).collect();
        Ok(Some(Self { code: response.code, status, lines }))
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Whether the server offers `keyword` (RFC 5321 section 4.1.1.1; case does not matter); its parameters.
    pub(super) fn offers(&self, keyword: &str) -> Option<&str> {
        self.lines.iter().skip(1).find_map(|line| {
            let (name, parameters) = line.split_once(' ').unwrap_or((line, ""));
            name.eq_ignore_ascii_case(keyword).then_some(parameters.trim())
        })
    }

    /// The text of all lines in one.
    pub(super) fn text(&self) -> String {
        self.lines.join(" ").trim().to_owned()
    }

    fn odd(&self, status: EnhancedStatus, command: &str) -> Refusal {
        let code = self.status.map(|status| format!(" {status}")).unwrap_or_default();
        let text = format!("the recipient's mail server answered {command} with {}{code} {}", self.code, self.text());
        Refusal::new(status, text)
    }

    /// What this reply to `command`, which is no success, means for the mail.
    ///
    /// Permanent is only what is proved: reply code and enhanced code must both say so, the reply code must be one that
    /// speaks about the mail, and an answer about the protocol itself (500 to 504, 555, x.5.x) speaks about us. 552 without
    /// an enhanced code is what old servers say to one recipient too many (RFC 5321 section 4.5.3.1.10).
    pub(super) fn refusal(&self, command: &str) -> Refusal {
        let digits = self.status.map(|status| status.to_string()).unwrap_or_default();
        let mut parts = digits.split('.').skip(1).map(|part| part.parse().unwrap_or(0));
        let (subject, detail): (u16, u16) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        let class = self.status.map_or(self.code / 100, |status| u16::from(status.class()));
        let many = self.code == 552 && self.status.is_none() && command == "RCPT";
        match self.code {
            550..=554 | 556 if class == 5 && subject != 5 && !many => Refusal::permanent(subject, detail, self.text()),
            400..500 if class == 4 => Refusal::temporary(subject, detail, self.text()),
            _ => self.odd(EnhancedStatus::new(4, subject, detail), command),
        }
    }

    /// What it means where no mail was named yet, or not all of it was said: nothing is proved about the mail.
    pub(super) fn not_the_mails_fault(&self, command: &str) -> Refusal {
        let refusal = self.refusal(command);
        if refusal.is_permanent() { self.odd(EnhancedStatus::new(4, 3, 0), command) } else { refusal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Reply {
        Reply::take(&mut format!("{text}\r\n").into_bytes()).ok().flatten().expect(text)
    }

    #[test]
    fn replies_are_taken_one_by_one() {
        let mut buffer = b"250-a\r\n250-PIPELINING\r\n250-8bitmime\r\n250 size 10\r\n354\r\n42".to_vec();
        let first = Reply::take(&mut buffer).ok().flatten().expect("whole");
        assert_eq!((first.code, first.offers("Pipelining"), first.offers("SIZE")), (250, Some(""), Some("10")));
        assert_eq!((first.offers("8BITMIME"), first.offers("a"), first.offers("DSN")), (Some(""), None, None));
        assert_eq!(Reply::take(&mut buffer).ok().flatten().map(|r| r.code), Some(354));
        assert_eq!(Reply::take(&mut buffer), Ok(None));
        assert_eq!(buffer, b"42");
    }

    #[test]
    fn nonsense_is_told_and_bounded() {
        for text in
            ["x\n", "25\n", "2500 x\n", "199 x\n", "600 x\n", "25x y\n", "\u{ff}\u{ff}\n", "HTTP/1.1 400 Bad\r\n"]
        {
            assert_eq!(Reply::take(&mut text.as_bytes().to_vec()), Err(Nonsense), "{text}");
        }
        assert_eq!(Reply::take(&mut [b"250 ", &[b'x'; 2 * MAX_REPLY][..]].concat()), Err(Nonsense));
        assert_eq!(Reply::take(&mut b"250-x\r\n".repeat(MAX_REPLY)), Err(Nonsense));
    }

    #[test]
    fn only_proof_is_permanent() {
        for (text, said) in [
            ("550-5.1.1 no\r\n550 5.1.1 such user", "5.1.1 no such user"),
            ("550 no such user", "5.0.0 no such user"),
            ("552 5.2.2 Quota exceeded", "5.2.2 Quota exceeded"),
            ("554 5.7.509 policy", "5.7.509 policy"),
            ("556 5.1.10 null MX", "5.1.10 null MX"),
            ("450 4.4.1 offline", "4.4.1 offline"),
            ("421 4.3.2 stopping", "4.3.2 stopping"),
            ("450 5.1.1 odd", "4.1.1 the recipient's mail server answered X with 450 5.1.1 odd"),
            ("550 4.2.1 odd", "4.2.1 the recipient's mail server answered X with 550 4.2.1 odd"),
            ("500 5.5.2 what", "4.5.2 the recipient's mail server answered X with 500 5.5.2 what"),
            ("503 bad order", "4.0.0 the recipient's mail server answered X with 503 bad order"),
            ("554 5.5.1 no recipients", "4.5.1 the recipient's mail server answered X with 554 5.5.1 no recipients"),
            ("555 5.5.4 parameter", "4.5.4 the recipient's mail server answered X with 555 5.5.4 parameter"),
            ("530 5.7.0 log in", "4.7.0 the recipient's mail server answered X with 530 5.7.0 log in"),
            ("354 go", "4.0.0 the recipient's mail server answered X with 354 go"),
        ] {
            assert_eq!(reply(text).refusal("X").to_string(), said);
            assert!(!reply(text).not_the_mails_fault("X").is_permanent(), "{text}");
        }
        assert!(!reply("552 too many").refusal("RCPT").is_permanent());
        assert!(reply("552 too many").refusal("the mail").is_permanent());
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut buffer = octets.clone();
            while let Ok(Some(reply)) = Reply::take(&mut buffer) {
                proptest::prop_assert!((200..600).contains(&reply.code));
                let _ = reply.refusal("X");
            }
            proptest::prop_assert!(buffer.len() <= octets.len());
        }
    }
}
