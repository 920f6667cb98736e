//! Enhanced status codes (RFC 3463) and the replies made of them.

use std::fmt;
use std::str::FromStr;

/// `class.subject.detail` of RFC 3463; the class is 2 (success), 4 (persistent transient failure) or 5 (permanent failure).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedStatus {
    class: u8,
    subject: u16,
    detail: u16,
}

/// A text is no enhanced status code: what was wrong stands in no need of more words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidStatus;

impl fmt::Display for InvalidStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an enhanced status code (RFC 3463: 2|4|5 . 0-999 . 0-999)")
    }
}

impl std::error::Error for InvalidStatus {}

impl EnhancedStatus {
    /// The code `class.subject.detail`. For constants of this program: a wrong class or a part over 999 fails to compile
    /// in a `const` and panics elsewhere; codes from outside come through [`FromStr`].
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        assert!((class == 2 || class == 4 || class == 5) && subject < 1000 && detail < 1000);
        Self { class, subject, detail }
    }

    /// The first digit: 2, 4 or 5.
    pub const fn class(self) -> u8 {
        self.class
    }

    /// Whether trying again cannot help (class 5).
    pub const fn is_permanent(self) -> bool {
        self.class == 5
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl FromStr for EnhancedStatus {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        let mut parts = text.split('.').map(|part| {
            let digits = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            if digits { part.parse::<u16>().map_err(|_| InvalidStatus) } else { Err(InvalidStatus) }
        });
        let mut next = || parts.next().ok_or(InvalidStatus)?;
        let (class, subject, detail) = (next()?, next()?, next()?);
        if parts.next().is_some() || !matches!(class, 2 | 4 | 5) {
            return Err(InvalidStatus);
        }
        Ok(Self { class: class as u8, subject, detail })
    }
}

/// Why a recipient, a sender or a whole mail was not taken: an enhanced status code of class 4 or 5 and one line of text
/// that a user understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    status: EnhancedStatus,
    text: String,
}

/// The longest text of a [`Refusal`], in octets: one log line, one SMTP reply line (RFC 5321 section 4.5.3.1.5).
pub const MAX_TEXT: usize = 400;

impl Refusal {
    /// A refusal that trying again later may overcome. `subject` and `detail` as in RFC 3463.
    pub fn temporary(subject: u16, detail: u16, text: impl AsRef<str>) -> Self {
        Self::new(EnhancedStatus::new(4, subject, detail), text)
    }

    /// A refusal for good: the mail bounces. To be used only where it is proved.
    pub fn permanent(subject: u16, detail: u16, text: impl AsRef<str>) -> Self {
        Self::new(EnhancedStatus::new(5, subject, detail), text)
    }

    /// A refusal with a code that came from elsewhere; a success code counts as the unclassified temporary 4.0.0.
    /// Control characters become blanks and the text is cut at [`MAX_TEXT`] octets.
    pub fn new(status: EnhancedStatus, text: impl AsRef<str>) -> Self {
        let status = if status.class() == 2 { EnhancedStatus::new(4, 0, 0) } else { status };
        let mut line: String = text.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if line.len() > MAX_TEXT {
            let mut end = MAX_TEXT;
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            line.truncate(end);
        }
        Self { status, text: line }
    }

    /// The enhanced status code; class 4 or 5.
    pub fn status(&self) -> EnhancedStatus {
        self.status
    }

    /// The text without the code, one line of at most [`MAX_TEXT`] octets.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether trying again cannot help.
    pub fn is_permanent(&self) -> bool {
        self.status.is_permanent()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.text)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_parse_and_print() {
        for text in ["2.0.0", "4.4.1", "5.1.1", "5.7.999"] {
            assert_eq!(text.parse::<EnhancedStatus>().map(|s| s.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "5", "5.1", "3.1.1", "5.1.1.1", "5.1.1000", "5.-1.1", "5..1", "5.1.1 x"] {
            assert!(text.parse::<EnhancedStatus>().is_err(), "{text}");
        }
    }

    #[test]
    fn refusals_are_one_bounded_line_and_never_a_success() {
        let refusal = Refusal::new(EnhancedStatus::new(2, 0, 0), format!("a\r\nb{}", "é".repeat(500)));
        assert_eq!(refusal.status().to_string(), "4.0.0");
        assert!(refusal.text().len() <= MAX_TEXT && refusal.text().starts_with("a  b"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(code in "[0-9.]{0,12}|\\PC{0,12}", text in "(?s).{0,600}") {
            let status = code.parse().unwrap_or(EnhancedStatus::new(5, 0, 0));
            let refusal = Refusal::new(status, text);
            proptest::prop_assert!(refusal.text().len() <= MAX_TEXT && !refusal.text().contains(char::is_control));
            proptest::prop_assert!(matches!(refusal.status().class(), 4 | 5));
        }
    }
}
