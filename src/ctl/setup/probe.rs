//! The probe mail: by the MTA's own way to the agent, which keeps it to itself. No contact hears of it.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::config::Config;
use crate::control::client::Client;

/// How often is looked where the probe is.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a probe that is nowhere may still be on its way between the MTA and the agent.
const GRACE: Duration = Duration::from_secs(2);

/// What the probe needs of a mail server.
pub(super) trait Mta {
    /// Submits a mail; failures are to make no bounce.
    ///
    /// # Errors
    /// The MTA did not take it: its words.
    fn submit(&self, sender: &str, recipient: &str, mail: &str) -> Result<(), String>;
    /// Where the mail to `recipient` is in the queue.
    ///
    /// # Errors
    /// The queue cannot be looked at.
    fn queued(&self, recipient: &str) -> Result<Queued, String>;
    /// Takes it out of the queue.
    fn discard(&self, queue_id: &str);
    /// What the log says about it.
    fn log(&self, recipient: &str) -> Option<String>;
}

/// How a mail is in the queue of an MTA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Queued {
    /// It is not there.
    No,
    /// It is there, and was not tried yet.
    Yes(String),
    /// It waits, and why.
    Deferred(String, String),
}

/// How a probe ended.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    /// Whether it came to the agent.
    pub(super) ok: bool,
    /// The envelope sender.
    pub(super) sender: String,
    /// The recipient.
    pub(super) recipient: String,
    /// What became of it, for people.
    pub(super) text: String,
}

/// Who writes the probe: of `account`, or the first, the address that its mail most likely has.
fn sender(config: Option<&Config>, account: &str) -> Option<String> {
    let account = config?.accounts.iter().find(|known| known.name == account)?;
    account.senders.iter().chain(&account.addresses).next().map(ToString::to_string)
}

fn token() -> Result<String, String> {
    let mut octets = [0; 8];
    getrandom::fill(&mut octets).map_err(|error| format!("the system has no randomness: {error}"))?;
    Ok(data_encoding::HEXLOWER.encode(&octets))
}

/// Sends a probe through `mta` and waits for it at the agent, `limit` at most. `from` is the envelope sender, or an
/// address of `account` (or of the first one).
///
/// # Errors
/// There is no probe to be sent: the agent does not answer.
pub(super) fn send<M: Mta + ?Sized>(
    mta: &M,
    socket: &Path,
    config: Option<&Config>,
    account: Option<&str>,
    from: Option<&str>,
    limit: Duration,
) -> Result<Outcome, String> {
    let client = Client::new(socket).map_err(|error| error.to_string())?;
    let status = client.status().map_err(|error| error.to_string())?;
    let of = status.accounts.iter().find(|known| account.is_none_or(|name| known.name == name));
    let of = of.ok_or_else(|| "the agent has no such account".to_owned())?;
    let (key, domain) = of.address.split_once('@').ok_or("the agent's account has no address")?;
    let token = token()?;
    let recipient = format!("probe-{token}@{key}.{domain}");
    let from = from.map(str::to_owned).or_else(|| sender(config, &of.name)).unwrap_or_else(|| of.address.clone());
    let outcome = |ok, text| Outcome { ok, sender: from.clone(), recipient: recipient.clone(), text };
    let mail = format!(
        "From: <{from}>\nTo: <{recipient}>\nSubject: probe of toxctl setup\nAuto-Submitted: auto-generated\n\n\
         Shows that mail comes from here to tox-agent. It goes no further.\n"
    );
    if let Err(error) = mta.submit(&from, &recipient, &mail) {
        return Ok(outcome(false, format!("the mail server does not take it: {error}")));
    }
    let begin = Instant::now();
    let mut gone_since: Option<Instant> = None;
    loop {
        if let Some(probe) = client.probe(&token).map_err(|error| error.to_string())? {
            let milliseconds = begin.elapsed().as_millis();
            let id = probe.mta_queue_id.map_or(String::new(), |id| format!(", queue id {id}"));
            return Ok(outcome(true, format!("arrived at tox-agent after {milliseconds} ms{id}")));
        }
        let late = begin.elapsed() >= limit;
        match mta.queued(&recipient) {
            Ok(Queued::Deferred(id, text)) => {
                mta.discard(&id);
                return Ok(outcome(false, format!("the mail server cannot deliver it: {text}")));
            }
            Ok(Queued::Yes(id)) if late => {
                mta.discard(&id);
                return Ok(outcome(false, format!("still in the mail server's queue after {} s", limit.as_secs())));
            }
            Ok(Queued::Yes(_)) => gone_since = None,
            Err(error) if late => return Ok(outcome(false, format!("not seen after {} s: {error}", limit.as_secs()))),
            Err(_) => {}
            Ok(Queued::No) => {
                let since = *gone_since.get_or_insert_with(Instant::now);
                if late || since.elapsed() >= GRACE {
                    let log = mta.log(&recipient).unwrap_or_else(|| "its log may say more".into());
                    return Ok(outcome(false, format!("the mail server has sent it elsewhere or returned it: {log}")));
                }
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Where the mail to `recipient` is in the output of `postqueue -j`: one JSON object for each mail.
pub(super) fn in_postqueue(json: &str, recipient: &str) -> Queued {
    for mail in json.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(id) = mail["queue_id"].as_str() else { continue };
        let is_it = |to: &&Value| to["address"].as_str().is_some_and(|to| to.eq_ignore_ascii_case(recipient));
        if let Some(to) = mail["recipients"].as_array().into_iter().flatten().find(is_it) {
            return match to["delay_reason"].as_str() {
                Some(reason) => Queued::Deferred(id.to_owned(), reason.to_owned()),
                None => Queued::Yes(id.to_owned()),
            };
        }
    }
    Queued::No
}

/// The last line of Postfix's log that says what became of mail to `recipient`, from the way it took on.
pub(super) fn in_postfix_log(log: &str, recipient: &str) -> Option<String> {
    let line = log.lines().rev().find(|line| line.contains(recipient) && line.contains("status="))?;
    line.find("relay=").map(|at| line[at..].trim().to_owned())
}

/// Where the mail to `recipient` is in the output of `exim4 -bpu`: a line for each mail, then one for each recipient.
pub(super) fn in_exim_queue(list: &str, recipient: &str) -> Queued {
    let mut id = None;
    for line in list.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            // Age, size, id, sender, and perhaps that it is frozen.
            [_, _, queue_id, sender, ..] if sender.starts_with('<') => id = Some(queue_id),
            [address] if address.eq_ignore_ascii_case(recipient) => {
                return id.map_or(Queued::No, |id| Queued::Yes(id.to_owned()));
            }
            _ => {}
        }
    }
    Queued::No
}

/// The last line of Exim's log, or of that of one message, that says what became of mail to `recipient`.
pub(super) fn in_exim_log(log: &str, recipient: &str) -> Option<String> {
    let marks = [" == ", " ** ", " => "];
    let line =
        log.lines().rev().find(|line| line.contains(recipient) && marks.iter().any(|mark| line.contains(mark)))?;
    let at = marks.iter().find_map(|mark| line.find(mark))?;
    Some(line[at..].trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_of_postfix_is_understood() {
        let json = "{\"queue_name\": \"active\", \"queue_id\": \"Q0\", \"recipients\": [{\"address\": \"x@y\"}]}\n\
                    {\"queue_name\": \"deferred\", \"queue_id\": \"Q1\", \"recipients\": [{\"address\": \"p@K.tox.alt\", \
                    \"delay_reason\": \"connect to /s: No such file\"}]}\n";
        let deferred = Queued::Deferred("Q1".into(), "connect to /s: No such file".into());
        for (recipient, expected) in [("x@y", Queued::Yes("Q0".into())), ("p@k.tox.alt", deferred), ("n@y", Queued::No)]
        {
            assert_eq!(in_postqueue(json, recipient), expected);
        }
        assert_eq!(in_postqueue("Mail queue is empty\n", "x@y"), Queued::No);
    }

    #[test]
    fn the_log_says_what_became_of_it() {
        let log = "a postfix/qmgr[1]: Q: from=<x>\n\
                   a postfix/lmtp[2]: Q: to=<p@k>, relay=h[/s], delay=1, dsn=5.7.1, status=bounced (said: 550 no)\n\
                   a postfix/lmtp[2]: R: to=<other@k>, relay=h, status=sent (ok)\n";
        let found = in_postfix_log(log, "p@k").expect("a line");
        assert_eq!(found, "relay=h[/s], delay=1, dsn=5.7.1, status=bounced (said: 550 no)");
        assert_eq!(in_postfix_log(log, "q@k"), None);
    }

    #[test]
    fn the_queue_and_the_log_of_exim_are_understood() {
        let list = " 0m   390 1tFabc-0001-2x <a@b>\n          x@y\n\n 2h  1.2K 1tFdef-0003-4y <> *** frozen ***\n        P@K\n";
        for (recipient, expected) in [
            ("x@y", Queued::Yes("1tFabc-0001-2x".into())),
            ("p@k", Queued::Yes("1tFdef-0003-4y".into())),
            ("n@y", Queued::No),
        ] {
            assert_eq!(in_exim_queue(list, recipient), expected, "{recipient}");
        }
        let log = "2026-11-25 14:00:00 Received from a@b\n2026-11-25 14:00:01 p@k R=toxmail T=toxmail_lmtp: nothing\n\
                   2026-11-25 14:00:01 1tF == p@k R=toxmail T=toxmail_lmtp defer (2): No such file or directory\n";
        let told = "== p@k R=toxmail T=toxmail_lmtp defer (2): No such file or directory";
        assert_eq!(in_exim_log(log, "p@k").as_deref(), Some(told));
        assert_eq!(in_exim_log(log, "q@k"), None);
    }
}
