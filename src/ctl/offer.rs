//! `toxctl relay offer`: one key of the agent's configuration, changed in its file as postconf(1) does it. The file stays the
//! only place that says whether contacts are told of the relay.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::{Cli, Fail, print, setup, show};
use crate::config;
use crate::control::client::{Client, ClientError};

/// Who is told of the own relay (`relay.offer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Whom {
    /// Every contact, when it comes online
    Contacts,
    /// Nobody
    None,
}

impl Whom {
    fn word(self) -> &'static str {
        match self {
            Self::Contacts => "contacts",
            Self::None => "none",
        }
    }
}

/// Writes the key into the file at `path` and has the agent, if it runs, read that again.
pub(super) fn offer(whom: Whom, path: &Path, cli: &Cli, client: &Client, out: &mut dyn Write) -> Result<(), Fail> {
    let shown = path.display().to_string();
    let before = config::load(path).map_err(|error| Fail::Setup(error.to_string()))?;
    let mut wanted = before.clone();
    wanted.relay.offer = whom == Whom::Contacts;
    if wanted != before {
        let cannot = |why: String| {
            let word = whom.word();
            Fail::Setup(format!("{why}: write offer = \"{word}\" into [relay] of {shown}, then toxctl reload"))
        };
        let text = std::fs::read_to_string(path).map_err(|error| cannot(format!("cannot read {shown}: {error}")))?;
        let after = with_offer(&text, whom.word());
        // Whatever way of writing TOML was not foreseen is seen here.
        if config::parse(&after, path).ok() != Some(wanted.clone()) {
            return Err(cannot(format!("{shown} is written in a way that is better changed by hand")));
        }
        setup::put(&shown, Some(&after)).map_err(|error| cannot(format!("cannot write {shown}: {error}")))?;
    }
    let reloaded = match client.reload() {
        Ok(reloaded) => Some(reloaded),
        Err(ClientError::NotRunning { .. }) => None,
        Err(error) => return Err(Fail::Setup(format!("{shown} says so now, but the agent has not read it: {error}"))),
    };
    if cli.json {
        return Ok(print(out, &json!({ "offer": whom.word(), "file": shown, "reloaded": reloaded }))?);
    }
    writeln!(out, "{}: offer = \"{}\" in [relay]", show::clean(&shown), whom.word())?;
    if whom == Whom::Contacts && !wanted.relay.enabled {
        writeln!(out, "but the agent is no relay yet: enabled = true there, then restart it")?;
    }
    match reloaded {
        Some(reloaded) => show::reloaded(out, &reloaded)?,
        None => writeln!(out, "the agent does not run: it counts when it starts")?,
    }
    Ok(())
}

/// The configuration with `offer = "VALUE"` in its section `[relay]`; all else stays as it is written.
fn with_offer(text: &str, value: &str) -> String {
    let line = format!("offer = \"{value}\"");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut header = None;
    let mut found = None;
    let mut inside = false;
    for (at, line) in lines.iter().enumerate() {
        let code: String = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        if code.starts_with('[') {
            inside = code == "[relay]";
            header = header.or(inside.then_some(at));
        } else if inside && code.starts_with("offer=") {
            found = Some(at);
        }
    }
    match (found, header) {
        (Some(at), _) => {
            let comment = lines[at].split_once('#').map(|(_, comment)| format!("  #{comment}"));
            lines[at] = line + &comment.unwrap_or_default();
        }
        (None, Some(at)) => lines.insert(at + 1, line),
        (None, None) => lines.extend([String::new(), "[relay]".to_owned(), line]),
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_key_of_the_one_section_changes() {
        let account = "[[account]]\nname = \"a\"\nmaildir = \"/m\"\n";
        for (before, after) in [
            (String::new(), "\n[relay]\noffer = \"contacts\"\n".to_owned()),
            ("[relay]\n".into(), "[relay]\noffer = \"contacts\"\n".into()),
            (
                "[ relay ] # mine\n#offer = \"none\"\nopen = true\n[tox]\n".into(),
                "[ relay ] # mine\noffer = \"contacts\"\n#offer = \"none\"\nopen = true\n[tox]\n".into(),
            ),
            (
                "[relay]\nenabled = true\n  offer='none' # ask Bob\n\n[log]\n".into(),
                "[relay]\nenabled = true\noffer = \"contacts\"  # ask Bob\n\n[log]\n".into(),
            ),
        ] {
            let with = with_offer(&format!("{before}{account}"), "contacts");
            let expected = match before.is_empty() {
                true => format!("{account}{after}"),
                false => format!("{after}{account}"),
            };
            assert_eq!(with, expected);
            assert!(config::parse(&with, Path::new("test")).expect("a configuration").relay.offer, "{with}");
        }
    }
}
