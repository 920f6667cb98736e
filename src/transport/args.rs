//! The command line, and the environment that Exim's pipe transport sets.
//!
//! Owns: options, defaults, the help text. May use: `address`, and `outcome` for the words of a refusal.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::address;
use super::outcome::Verdict;

/// The text of `--help`.
pub(super) const HELP: &str = "\
Usage: tox-transport [OPTION]... -f SENDER -- RECIPIENT...
       tox-transport [OPTION]... --exim-env
Hand one mail from standard input to tox-agent; for the pipe transport of Postfix or Exim.

  -f SENDER        envelope sender; empty for <>
  --exim-env       take sender, recipient and queue id from SENDER, LOCAL_PART, DOMAIN and MESSAGE_ID
  --socket PATH    the agent's LMTP socket (default /run/tox-agent/lmtp.sock)
  --timeout S      seconds for the whole run, 1 to 86400, below the MTA's own limit (default 240)
  --queue-id ID    the MTA's queue id, by which the agent recognises a mail that comes twice
  --size N         the mail's size as Postfix counts it (${size}); a mail cut short is not sent
  --help, --version

The first line of the output is an enhanced status code and a text. Exit status: 0 taken for every recipient; 75 try
again; 64 wrong usage; 65, 67, 69, 77 refused for good (content; address; other; policy).
";

const SOCKET: &str = "/run/tox-agent/lmtp.sock";
/// Below the 600 s after which an MTA kills the program, so that the end is ours to choose.
const TIMEOUT_S: u64 = 240;
const MAX_TIMEOUT_S: u64 = 86_400;
/// The longest queue id, in octets; an XFORWARD attribute is limited to 255.
const MAX_QUEUE_ID: usize = 80;

/// One mail to hand over, all but its content.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) socket: PathBuf,
    pub(super) timeout: Duration,
    pub(super) queue_id: Option<String>,
    pub(super) size: Option<u64>,
    /// Empty for `<>`.
    pub(super) sender: String,
    /// At least one.
    pub(super) recipients: Vec<String>,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Help,
    Version,
    Deliver(Job),
}

fn wrong(text: impl std::fmt::Display) -> Verdict {
    Verdict::usage(5, 4, format!("{text}; see tox-transport --help"))
}

fn utf8(value: OsString, what: &str) -> Result<String, Verdict> {
    value.into_string().map_err(|_| wrong(format_args!("{what} is not UTF-8")))
}

fn number(value: OsString, what: &str) -> Result<u64, Verdict> {
    let text = utf8(value, what)?;
    // `parse` alone would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parsed = if digits { text.parse().ok() } else { None };
    parsed.ok_or_else(|| wrong(format_args!("{what} needs a number, not {text:?}")))
}

fn sender(value: OsString) -> Result<String, Verdict> {
    let bad = |why: &str| Verdict::usage(1, 7, format!("the sender's address {why}"));
    let text = value.into_string().map_err(|_| bad("is not UTF-8"))?;
    // `<>` is how a shell user writes it; a bare MAILER-DAEMON is what Postfix makes of it without `null_sender=`.
    // Either must arrive as the empty sender, or a notice would be answered by a notice.
    if text == "<>" || text.eq_ignore_ascii_case("MAILER-DAEMON") {
        return Ok(String::new());
    }
    match address::fault(&text) {
        Some(why) => Err(bad(why)),
        None => Ok(text),
    }
}

fn recipient(value: OsString) -> Result<String, Verdict> {
    let bad = |why: &str| Verdict::usage(1, 3, format!("a recipient's address {why}"));
    let text = value.into_string().map_err(|_| bad("is not UTF-8"))?;
    match address::fault(&text) {
        _ if text.is_empty() => Err(bad("is empty")),
        Some(why) => Err(bad(why)),
        None => Ok(text),
    }
}

/// Reads the command line (without the program's name) and, with `--exim-env`, the environment.
///
/// # Errors
/// The command line is wrong, or an address in it could not be named in LMTP: exit status 64.
pub(super) fn parse(
    args: impl Iterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Request, Verdict> {
    let mut args = args.peekable();
    let mut count = 0_usize;
    let (mut from, mut to, mut exim) = (None, Vec::new(), false);
    let (mut socket, mut timeout, mut queue_id, mut size) = (PathBuf::from(SOCKET), TIMEOUT_S, None, None);
    while let Some(arg) = args.next() {
        count += 1;
        let text = arg.to_str().unwrap_or_default().to_owned();
        let (name, mut inline) = match text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(OsString::from(value))),
            _ => (text.as_str(), None),
        };
        let bare = inline.is_none();
        let mut value =
            || inline.take().or_else(|| args.next()).ok_or_else(|| wrong(format_args!("{name} needs a value")));
        match name {
            "--" if bare => {
                to.extend(args.by_ref());
                break;
            }
            "-f" => from = Some(value()?),
            "--socket" => socket = PathBuf::from(value()?),
            "--timeout" => timeout = number(value()?, name)?,
            "--queue-id" => queue_id = Some(utf8(value()?, name)?),
            "--size" => size = Some(number(value()?, name)?),
            "--exim-env" if bare => exim = true,
            // Words only, so nothing that an MTA has as its command for mail may end in them with status 0.
            "--help" | "--version" if bare && count == 1 && args.peek().is_none() => {
                return Ok(if name == "--help" { Request::Help } else { Request::Version });
            }
            _ if name.starts_with('-') => return Err(wrong(format_args!("{name} is no option here"))),
            _ => to.push(arg),
        }
    }
    if !(1..=MAX_TIMEOUT_S).contains(&timeout) {
        return Err(wrong("--timeout takes 1 to 86400 seconds"));
    }
    if exim {
        if from.is_some() || !to.is_empty() {
            return Err(wrong("--exim-env excludes -f and recipients"));
        }
        let get = |name: &str| env(name).ok_or_else(|| wrong(format_args!("--exim-env: {name} is not set")));
        let (local, domain) = (utf8(get("LOCAL_PART")?, "LOCAL_PART")?, utf8(get("DOMAIN")?, "DOMAIN")?);
        from = Some(get("SENDER")?);
        to.push(OsString::from(address::join(&local, &domain)));
        if queue_id.is_none() {
            queue_id = env("MESSAGE_ID").map(|id| utf8(id, "MESSAGE_ID")).transpose()?;
        }
    }
    let queue_id = queue_id.filter(|id| !id.is_empty());
    if queue_id.as_ref().is_some_and(|id| id.len() > MAX_QUEUE_ID) {
        return Err(wrong("--queue-id takes at most 80 octets"));
    }
    let sender = sender(from.ok_or_else(|| wrong("-f SENDER is missing"))?)?;
    let recipients = to.into_iter().map(recipient).collect::<Result<Vec<_>, _>>()?;
    if recipients.is_empty() {
        return Err(wrong("there is no recipient"));
    }
    Ok(Request::Deliver(Job { socket, timeout: Duration::from_secs(timeout), queue_id, size, sender, recipients }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn with(args: &[&str], env: &[(&str, &str)]) -> Result<Request, Verdict> {
        parse(args.iter().map(OsString::from), |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn job(args: &[&str], env: &[(&str, &str)]) -> Job {
        match with(args, env) {
            Ok(Request::Deliver(job)) => job,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    fn code(result: Result<Request, Verdict>) -> String {
        result.map_or_else(|verdict| verdict.status.to_string(), |request| format!("{request:?}"))
    }

    #[test]
    fn everything_can_be_said() {
        let full = job(
            &["--socket", "/s", "--timeout=9", "--queue-id", "4jX", "--size", "12", "-f", "a@x", "--", "b@x", "-c@x"],
            &[],
        );
        assert_eq!(
            full,
            Job {
                socket: "/s".into(),
                timeout: Duration::from_secs(9),
                queue_id: Some("4jX".into()),
                size: Some(12),
                sender: "a@x".into(),
                recipients: vec!["b@x".into(), "-c@x".into()],
            }
        );
        let least = job(&["-f", "", "b@x"], &[]);
        assert_eq!((least.sender.as_str(), least.timeout.as_secs(), least.size), ("", 240, None));
        assert_eq!(least.socket, PathBuf::from("/run/tox-agent/lmtp.sock"));
        assert_eq!(with(&["--help"], &[]), Ok(Request::Help));
        assert_eq!(with(&["--version"], &[]), Ok(Request::Version));
    }

    #[test]
    fn the_null_sender_has_three_spellings() {
        for spelling in ["", "<>", "MAILER-DAEMON"] {
            assert_eq!(job(&["-f", spelling, "--", "b@x"], &[]).sender, "");
        }
        assert_eq!(job(&["-f", "MAILER-DAEMON@x", "--", "b@x"], &[]).sender, "MAILER-DAEMON@x");
    }

    #[test]
    fn wrong_usage_is_told() {
        for args in [
            &[] as &[&str],
            &["-f"],
            &["-f", "a@x"],
            &["-f", "a@x", "--"],
            &["b@x"],
            &["--nonsense", "-f", "a@x", "--", "b@x"],
            &["-x", "-f", "a@x", "--", "b@x"],
            &["--exim-env=1"],
            &["--size", "-1", "-f", "a@x", "--", "b@x"],
            &["--size", "+1", "-f", "a@x", "--", "b@x"],
            &["--size", "", "-f", "a@x", "--", "b@x"],
            &["--size", "99999999999999999999", "-f", "a@x", "--", "b@x"],
            &["--timeout", "0", "-f", "a@x", "--", "b@x"],
            &["--timeout", "86401", "-f", "a@x", "--", "b@x"],
            &["--help", "-f", "a@x", "--", "b@x"],
            &["-f", "a@x", "--version"],
        ] {
            assert_eq!(code(with(args, &[])), "5.5.4", "{args:?}");
        }
        assert_eq!(code(with(&["--queue-id", &"q".repeat(81), "-f", "a@x", "--", "b@x"], &[])), "5.5.4");
        assert_eq!(code(with(&["-f", "a@x\r\nDATA", "--", "b@x"], &[])), "5.1.7");
        assert_eq!(code(with(&["-f", "a@x", "--", "b@x>"], &[])), "5.1.3");
        assert_eq!(code(with(&["-f", "a@x", "--", ""], &[])), "5.1.3");
        let raw = [OsString::from("-f"), OsString::from("a@x"), OsString::from("--"), OsString::from_vec(vec![0xff])];
        assert_eq!(code(parse(raw.into_iter(), |_| None)), "5.1.3");
    }

    #[test]
    fn exims_environment_is_taken_and_quoted() {
        let env = [("SENDER", ""), ("LOCAL_PART", "b b"), ("DOMAIN", "x"), ("MESSAGE_ID", "1pq-0-2")];
        let taken = job(&["--exim-env"], &env);
        assert_eq!((taken.sender.as_str(), taken.recipients), ("", vec!["\"b b\"@x".to_owned()]));
        assert_eq!(taken.queue_id.as_deref(), Some("1pq-0-2"));
        assert_eq!(job(&["--exim-env", "--queue-id", "Q"], &env).queue_id.as_deref(), Some("Q"));
        assert_eq!(code(with(&["--exim-env"], &env[1..])), "5.5.4");
        assert_eq!(code(with(&["--exim-env", "-f", "a@x"], &env)), "5.5.4");
        assert_eq!(code(with(&["--exim-env", "b@x"], &env)), "5.5.4");
        let injected = [("SENDER", "a@x"), ("LOCAL_PART", "b"), ("DOMAIN", "x>\r\nDATA")];
        assert_eq!(code(with(&["--exim-env"], &injected)), "5.1.3");
    }
}
