//! One command line → [`Command`] (RFC 5321 section 4.1.1, RFC 2033, and the extensions that LHLO announces). Pure.
//!
//! Verbs and most parameter values are read by `smtp-proto`. Four things are read here instead, because that parser
//! loses what we need: paths (it takes quotes and escapes out of a quoted local part, refuses `a..b@x` and makes
//! `<postmaster>` the null path), ENVID and ORCPT (it decodes their xtext, while a notice has to repeat them as given),
//! SIZE (it makes a small number of one with too many digits), and XFORWARD, which it does not know.

use std::borrow::Cow;

use smtp_proto::{
    Error, MAIL_BODY_BINARYMIME, MAIL_RET_FULL, MAIL_RET_HDRS, MAIL_SMTPUTF8, RCPT_NOTIFY_DELAY, RCPT_NOTIFY_FAILURE,
    RCPT_NOTIFY_NEVER, RCPT_NOTIFY_SUCCESS, Request,
};

use crate::mail::address::Address;
use crate::mail::envelope::{Notify, Recipient, Return, ReversePath};
use crate::mail::status::EnhancedStatus;

/// The longest ENVID (RFC 3461 section 4.4) and the longest XFORWARD IDENT kept.
const MAX_ID: usize = 100;
/// The longest ORCPT (RFC 3461 section 4.2).
const MAX_ORCPT: usize = 500;

/// A command that can be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Lhlo,
    /// HELO or EHLO: a client that takes us for an SMTP server.
    Helo,
    Mail(Mail),
    Rcpt(Recipient),
    Data,
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    /// XFORWARD; the outer `None` where the line says nothing of IDENT, the inner where it says that there is none.
    Xforward(Option<Option<String>>),
}

/// What MAIL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mail {
    pub sender: ReversePath,
    pub size: u64,
    pub smtputf8: bool,
    pub ret: Option<Return>,
    pub envid: Option<String>,
}

/// Why a line is no command we take: the reply to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bad {
    pub code: u16,
    pub status: EnhancedStatus,
    pub text: Cow<'static, str>,
}

const fn bad(code: u16, subject_detail: (u16, u16), text: &'static str) -> Bad {
    let status = EnhancedStatus::new(5, subject_detail.0, subject_detail.1);
    Bad { code, status, text: Cow::Borrowed(text) }
}

/// The line as a whole cannot be read.
const GARBLED: Bad = bad(500, (5, 2), "this line is no command");
/// The verb is none we know.
const UNKNOWN: Bad = bad(500, (5, 1), "unknown command");
/// The verb is known, but we do not do it and did not announce it.
const NOT_OFFERED: Bad = bad(502, (5, 1), "command not offered here");
/// A parameter that LHLO did not announce (RFC 5321 section 4.1.1.11).
const UNSUPPORTED: Bad = bad(555, (5, 4), "parameter not supported");
const MAIL_SYNTAX: Bad = bad(501, (5, 4), "syntax: MAIL FROM:<address> [parameters]");
const RCPT_SYNTAX: Bad = bad(501, (5, 4), "syntax: RCPT TO:<address> [parameters]");
const PARAMETER_SYNTAX: Bad = bad(501, (5, 4), "a parameter is malformed or given twice");
const XFORWARD_SYNTAX: Bad = bad(501, (5, 4), "syntax: XFORWARD attribute=value...");

/// Reads one line, without its line end. `hostname` completes the address `<postmaster>` (RFC 5321 section 4.5.1).
pub(super) fn parse(line: &[u8], hostname: &str) -> Result<Command, Bad> {
    let text = std::str::from_utf8(line).map_err(|_| GARBLED)?.trim_matches(' ');
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(GARBLED);
    }
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    if verb.eq_ignore_ascii_case("MAIL") {
        mail(rest).map(Command::Mail)
    } else if verb.eq_ignore_ascii_case("RCPT") {
        rcpt(rest, hostname).map(Command::Rcpt)
    } else if verb.eq_ignore_ascii_case("XFORWARD") {
        xforward(rest).map(Command::Xforward)
    } else {
        let line = format!("{text}\n");
        match Request::parse(&mut line.as_bytes().iter()) {
            Ok(Request::Lhlo { .. }) => Ok(Command::Lhlo),
            Ok(Request::Helo { .. } | Request::Ehlo { .. }) => Ok(Command::Helo),
            Ok(Request::Data) => Ok(Command::Data),
            Ok(Request::Rset) => Ok(Command::Rset),
            Ok(Request::Noop { .. }) => Ok(Command::Noop),
            Ok(Request::Vrfy { .. }) => Ok(Command::Vrfy),
            Ok(Request::Help { .. }) => Ok(Command::Help),
            Ok(Request::Quit) => Ok(Command::Quit),
            Ok(_) => Err(NOT_OFFERED),
            Err(Error::SyntaxError { syntax }) => Err(bad(501, (5, 4), syntax)),
            Err(Error::InvalidParameter { .. } | Error::UnsupportedParameter { .. }) => Err(PARAMETER_SYNTAX),
            Err(_) => Err(UNKNOWN),
        }
    }
}

fn mail(rest: &str) -> Result<Mail, Bad> {
    let (path, parameters) = split_path(rest, "FROM").ok_or(MAIL_SYNTAX)?;
    let sender = if path.is_empty() {
        None
    } else {
        let address = path.parse::<Address>();
        Some(address.map_err(|why| Bad { text: why.to_string().into(), ..bad(553, (1, 7), "") })?)
    };
    let parameters = Parameters::read(parameters, &["BODY", "RET"], &["SMTPUTF8"], &["SIZE", "ENVID"])?;
    let size = parameters.kept("SIZE").map_or(Some(0), read_size).ok_or(PARAMETER_SYNTAX)?;
    let envid = parameters.kept("ENVID");
    if envid.is_some_and(|envid| envid.len() > MAX_ID || !is_xtext(envid)) {
        return Err(PARAMETER_SYNTAX);
    }
    let line = format!("MAIL FROM:<>{}\n", parameters.others);
    let Ok(Request::Mail { from }) = Request::parse(&mut line.as_bytes().iter()) else { return Err(PARAMETER_SYNTAX) };
    if from.flags & MAIL_BODY_BINARYMIME != 0 {
        return Err(UNSUPPORTED);
    }
    let ret = match from.flags & (MAIL_RET_FULL | MAIL_RET_HDRS) {
        0 => None,
        MAIL_RET_HDRS => Some(Return::Headers),
        _ => Some(Return::Full),
    };
    Ok(Mail { sender, size, smtputf8: from.flags & MAIL_SMTPUTF8 != 0, ret, envid: envid.map(str::to_owned) })
}

fn rcpt(rest: &str, hostname: &str) -> Result<Recipient, Bad> {
    let (path, parameters) = split_path(rest, "TO").ok_or(RCPT_SYNTAX)?;
    let address = if path.eq_ignore_ascii_case("postmaster") {
        Address::new("postmaster", hostname)
    } else {
        path.parse::<Address>()
    };
    let address = address.map_err(|why| Bad { text: why.to_string().into(), ..bad(553, (1, 3), "") })?;
    let parameters = Parameters::read(parameters, &["NOTIFY"], &[], &["ORCPT"])?;
    let orcpt = parameters.kept("ORCPT");
    if orcpt.is_some_and(|orcpt| !is_orcpt(orcpt)) {
        return Err(PARAMETER_SYNTAX);
    }
    let line = format!("RCPT TO:<a@a>{}\n", parameters.others);
    let Ok(Request::Rcpt { to }) = Request::parse(&mut line.as_bytes().iter()) else { return Err(PARAMETER_SYNTAX) };
    let notify = (!parameters.others.is_empty()).then_some(Notify {
        never: to.flags & RCPT_NOTIFY_NEVER != 0,
        success: to.flags & RCPT_NOTIFY_SUCCESS != 0,
        failure: to.flags & RCPT_NOTIFY_FAILURE != 0,
        delay: to.flags & RCPT_NOTIFY_DELAY != 0,
    });
    // smtp-proto looks for NEVER after the others, not for the others after NEVER (RFC 3461 section 4.1).
    if notify.is_some_and(|notify| notify.never && (notify.success || notify.failure || notify.delay)) {
        return Err(PARAMETER_SYNTAX);
    }
    Ok(Recipient { address, notify, orcpt: orcpt.map(str::to_owned) })
}

/// `FROM:<path> parameters` → path without brackets and source route, and the parameters. Blanks around the colon are
/// taken: old clients send them.
fn split_path<'a>(rest: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let rest = rest.trim_start_matches(' ');
    let (word, rest) = rest.split_once(':')?;
    let rest = rest.trim_start_matches(' ').strip_prefix('<')?;
    if !word.trim_end_matches(' ').eq_ignore_ascii_case(keyword) {
        return None;
    }
    let (mut quoted, mut escaped) = (false, false);
    let end = rest.find(|c| {
        let ends = c == '>' && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        ends
    })?;
    let (path, parameters) = (&rest[..end], &rest[end + 1..]);
    (parameters.is_empty() || parameters.starts_with(' ')).then(|| (without_route(path), parameters))
}

/// `@a,@b:user@c` → `user@c`: a source route is to be ignored (RFC 5321 appendix C).
fn without_route(path: &str) -> &str {
    let mut in_literal = false;
    let colon = path.find(|c| {
        in_literal = (in_literal || c == '[') && c != ']';
        c == ':' && !in_literal
    });
    match colon {
        Some(colon) if path.starts_with('@') => &path[colon + 1..],
        _ => path,
    }
}

/// The parameters of MAIL or RCPT, each given at most once.
struct Parameters<'a> {
    /// Those for smtp-proto, each with a blank before it.
    others: String,
    /// Those to be kept exactly as given, by name.
    kept: Vec<(&'a str, &'a str)>,
}

impl<'a> Parameters<'a> {
    /// Splits `text`. smtp-proto knows more parameters than we announce and takes blanks in odd places, hence the lists
    /// of those with (`valued`) and without (`plain`) a value.
    fn read(text: &'a str, valued: &[&str], plain: &[&str], keep: &[&str]) -> Result<Self, Bad> {
        let mut parameters = Self { others: String::new(), kept: Vec::new() };
        let mut seen: Vec<&str> = Vec::new();
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let is_name = |known: &&str| known.eq_ignore_ascii_case(name);
            if !valued.iter().chain(plain).chain(keep).any(is_name) {
                let name: String = name.chars().take(40).collect();
                return Err(Bad { text: format!("parameter {name} not supported").into(), ..UNSUPPORTED });
            }
            if seen.iter().any(is_name)
                || value.is_some_and(str::is_empty)
                || value.is_some() == plain.iter().any(is_name)
            {
                return Err(PARAMETER_SYNTAX);
            }
            seen.push(name);
            match value {
                Some(value) if keep.iter().any(is_name) => parameters.kept.push((name, value)),
                _ => {
                    parameters.others.push(' ');
                    parameters.others.push_str(word);
                }
            }
        }
        Ok(parameters)
    }

    fn kept(&self, name: &str) -> Option<&'a str> {
        self.kept.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, value)| value)
    }
}

/// `1*20DIGIT` (RFC 1870 section 5); what 64 bits cannot hold is too large for us in any case.
fn read_size(text: &str) -> Option<u64> {
    let digits = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn xforward(rest: &str) -> Result<Option<Option<String>>, Bad> {
    let mut ident = None;
    let mut words = rest.split(' ').filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        return Err(XFORWARD_SYNTAX);
    }
    for word in words {
        let (name, value) = word.split_once('=').ok_or(XFORWARD_SYNTAX)?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(XFORWARD_SYNTAX);
        }
        if name.eq_ignore_ascii_case("IDENT") {
            let value = decode_xtext(value).ok_or(XFORWARD_SYNTAX)?;
            let unknown = value.is_empty()
                || ["[UNAVAILABLE]", "[TEMPUNAVAIL]"].iter().any(|word| word.eq_ignore_ascii_case(&value));
            if !unknown && (value.len() > MAX_ID || !value.bytes().all(|b| b.is_ascii_graphic())) {
                return Err(XFORWARD_SYNTAX);
            }
            ident = Some((!unknown).then_some(value));
        }
    }
    Ok(ident)
}

/// Whether `text` is non-empty xtext (RFC 3461 section 4).
fn is_xtext(text: &str) -> bool {
    let bytes = text.as_bytes();
    let upper_hex = |at: usize| bytes.get(at).is_some_and(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    !bytes.is_empty()
        && bytes.iter().enumerate().all(|(at, &b)| match b {
            b'+' => upper_hex(at + 1) && upper_hex(at + 2),
            b'=' => false,
            _ => b.is_ascii_graphic(),
        })
}

/// Whether `text` is `type;address` (RFC 3461 section 4.2). Addresses of type `utf-8` have an encoding of their own and
/// may come in plain UTF-8 (RFC 6533 section 3).
fn is_orcpt(text: &str) -> bool {
    let Some((kind, address)) = text.split_once(';') else { return false };
    let kind_ok = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let address_ok = if kind.eq_ignore_ascii_case("utf-8") { !address.is_empty() } else { is_xtext(address) };
    text.len() <= MAX_ORCPT && kind_ok && address_ok
}

/// Takes the `+XX` out of `text`; liberal about the case of the digits, as Postfix is. `None` where they are none, or
/// make no UTF-8.
fn decode_xtext(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'+' {
            let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
            decoded.push(digit()? << 4 | digit()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Command, Bad> {
        parse(line.as_bytes(), "laptop.example")
    }

    fn code(line: &str) -> (u16, String) {
        let bad = run(line).expect_err(line);
        (bad.code, bad.status.to_string())
    }

    #[test]
    fn mail_keeps_what_the_parser_would_lose() {
        let Ok(Command::Mail(mail)) =
            run("mail from:<\"b> b\\\"\"@X.example> SIZE=460 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ314159+2Bx")
        else {
            panic!("not read");
        };
        assert_eq!(mail.sender.map(|a| a.to_string()).as_deref(), Some("\"b> b\\\"\"@x.example"));
        assert_eq!((mail.size, mail.smtputf8, mail.ret), (460, true, Some(Return::Headers)));
        assert_eq!(mail.envid.as_deref(), Some("QQ314159+2Bx"));
        for line in ["MAIL FROM:<>", "MAIL  From : <>", "mail FROM:<>  ret=full "] {
            assert!(matches!(run(line), Ok(Command::Mail(Mail { sender: None, .. }))), "{line}");
        }
        for (line, sender) in
            [("MAIL FROM:<@a,@[IPv6:::1]:u@x>", "u@x"), ("MAIL FROM:<grå@exämple.se>", "grå@exämple.se")]
        {
            let Ok(Command::Mail(mail)) = run(line) else { panic!("{line}") };
            assert_eq!(mail.sender.map(|a| a.to_string()).as_deref(), Some(sender));
        }
    }

    #[test]
    fn mail_refuses() {
        for (line, expected) in [
            ("MAIL", (501, "5.5.4")),
            ("MAIL FROM:", (501, "5.5.4")),
            ("MAIL FROM:a@x", (501, "5.5.4")),
            ("MAIL TO:<a@x>", (501, "5.5.4")),
            ("MAIL FROM:<a@x>SIZE=1", (501, "5.5.4")),
            ("MAIL FROM:<\"a@x>", (501, "5.5.4")),
            ("MAIL FROM:<a>", (553, "5.1.7")),
            ("MAIL FROM:<postmaster>", (553, "5.1.7")),
            ("MAIL FROM:<a@x> SIZE", (501, "5.5.4")),
            ("MAIL FROM:<a@x> SIZE=", (501, "5.5.4")),
            ("MAIL FROM:<a@x> SIZE=x", (501, "5.5.4")),
            ("MAIL FROM:<a@x> SIZE=99999999999999999999999", (501, "5.5.4")),
            ("MAIL FROM:<a@x> SIZE=1 size=2", (501, "5.5.4")),
            ("MAIL FROM:<a@x> SMTPUTF8=yes", (501, "5.5.4")),
            ("MAIL FROM:<a@x> BODY=9BIT", (501, "5.5.4")),
            ("MAIL FROM:<a@x> BODY=BINARYMIME", (555, "5.5.4")),
            ("MAIL FROM:<a@x> ENVID=a=b", (501, "5.5.4")),
            ("MAIL FROM:<a@x> ENVID=a+2b", (501, "5.5.4")),
            ("MAIL FROM:<a@x> AUTH=<>", (555, "5.5.4")),
            ("MAIL FROM:<a@x> MT-PRIORITY=0", (555, "5.5.4")),
            ("MAIL FROM:<a@x> NOTIFY=NEVER", (555, "5.5.4")),
            ("MAIL FROM:<a@x> X", (555, "5.5.4")),
        ] {
            assert_eq!(code(line), (expected.0, expected.1.to_owned()), "{line}");
        }
        assert_eq!(code(&format!("MAIL FROM:<a@x> ENVID={}", "a".repeat(101))).0, 501);
    }

    #[test]
    fn rcpt_reads_and_refuses() {
        let Ok(Command::Rcpt(to)) = run("RCPT TO:<\"b b\"@x> NOTIFY=success,DELAY ORCPT=rfc822;b+20b@x") else {
            panic!("not read");
        };
        assert_eq!(to.address.local(), "b b");
        assert_eq!(to.notify, Some(Notify { success: true, delay: true, ..Notify::default() }));
        assert_eq!(to.orcpt.as_deref(), Some("rfc822;b+20b@x"));
        for (line, address, notify) in [
            ("RCPT TO:<Postmaster>", "postmaster@laptop.example", None),
            ("RCPT TO:<a..b@x> ORCPT=utf-8;grå@x", "\"a..b\"@x", None),
            ("RCPT TO:<a@x> NOTIFY=NEVER", "a@x", Some(Notify { never: true, ..Notify::default() })),
        ] {
            let Ok(Command::Rcpt(to)) = run(line) else { panic!("{line}") };
            assert_eq!((to.address.to_string().as_str(), to.notify), (address, notify));
        }
        for (line, expected) in [
            ("RCPT TO:<>", 553),
            ("RCPT TO:<a>", 553),
            ("RCPT TO:a@x", 501),
            ("RCPT TO:<a@x> NOTIFY=NEVER,SUCCESS", 501),
            ("RCPT TO:<a@x> NOTIFY=SUCCESS,NEVER", 501),
            ("RCPT TO:<a@x> NOTIFY=SOON", 501),
            ("RCPT TO:<a@x> NOTIFY=", 501),
            ("RCPT TO:<a@x> ORCPT=a@x", 501),
            ("RCPT TO:<a@x> ORCPT=rfc822;", 501),
            ("RCPT TO:<a@x> ORCPT=rfc822;å@x", 501),
            ("RCPT TO:<a@x> RRVS=2014-04-03T23:01:00Z", 555),
            ("RCPT TO:<a@x> SIZE=1", 555),
        ] {
            assert_eq!(code(line).0, expected, "{line}");
        }
        assert_eq!(code(&format!("RCPT TO:<a@x> ORCPT=rfc822;{}", "a".repeat(500))).0, 501);
    }

    #[test]
    fn xforward_takes_the_queue_id_only() {
        for (line, ident) in [
            ("XFORWARD NAME=x ADDR=1.2.3.4 PORT=25 HELO=[UNAVAILABLE]", None),
            ("xforward ident=4Wc+2D1 PROTO=ESMTP", Some(Some("4Wc-1"))),
            ("XFORWARD IDENT=[UNAVAILABLE]", Some(None)),
            ("XFORWARD IDENT=", Some(None)),
        ] {
            assert_eq!(run(line), Ok(Command::Xforward(ident.map(|i| i.map(str::to_owned)))), "{line}");
        }
        for line in ["XFORWARD", "XFORWARD X", "XFORWARD IDENT=a+2", "XFORWARD IDENT=a+0Ab", "XFORWARD =x"] {
            assert_eq!(code(line), (501, "5.5.4".to_owned()), "{line}");
        }
        assert_eq!(code(&format!("XFORWARD IDENT={}", "a".repeat(101))).0, 501);
    }

    #[test]
    fn other_verbs() {
        for (line, command) in [
            ("lhlo laptop", Command::Lhlo),
            ("EHLO x", Command::Helo),
            ("HELO x", Command::Helo),
            ("DATA", Command::Data),
            ("rset", Command::Rset),
            ("NOOP", Command::Noop),
            ("NOOP with words", Command::Noop),
            ("VRFY a", Command::Vrfy),
            ("HELP", Command::Help),
            (" QUIT ", Command::Quit),
        ] {
            assert_eq!(run(line), Ok(command), "{line}");
        }
        for (line, expected) in [
            ("", (500, "5.5.2")),
            ("a\tb", (500, "5.5.2")),
            ("NOOP\rMAIL FROM:<>", (500, "5.5.2")),
            ("WHAT", (500, "5.5.1")),
            ("Subject: x", (500, "5.5.1")),
            ("LHLO", (501, "5.5.4")),
            ("BDAT 5 LAST", (502, "5.5.1")),
            ("STARTTLS", (502, "5.5.1")),
            ("AUTH PLAIN", (502, "5.5.1")),
            ("EXPN x", (502, "5.5.1")),
        ] {
            assert_eq!(code(line), (expected.0, expected.1.to_owned()), "{line}");
        }
        assert_eq!(parse(b"NOOP \xff", "x").map_err(|bad| bad.code), Err(500));
    }
}
