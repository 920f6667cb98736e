//! `toxctl check`: what is wrong with a configuration, without an agent.

use std::io::{self, Write};
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use serde_json::json;

use super::{EX_CONFIG, EX_OK, print, show};
use crate::config::{self, Config, Passphrase, PassphraseSource};
use crate::control::api::Record;
use crate::control::client::Client;
use crate::engine::trust::Unsigned;

/// Checks the file at `path`: problems (also of what others may read or change) go to `err` and make the exit status 78,
/// warnings (of folders that are not there or not writable by this user) do not. In JSON all goes to `out`.
///
/// If an agent answers at its control socket, it also tells how the addresses stand in the DNS, and what to publish.
pub(super) fn check(
    path: &Path,
    socket: &Path,
    json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let loaded = config::load(path);
    match &loaded {
        Ok(config) => {
            look_around(config, &mut problems, &mut warnings);
            let found = config::permissions(config, path);
            problems.extend(found.problems);
            warnings.extend(found.warnings);
        }
        Err(error) => problems.extend(error.problems().iter().map(ToString::to_string)),
    }
    let ok = problems.is_empty();
    let records = match &loaded {
        Ok(config) if ok && config.names.lookup => records(config, socket, &mut warnings),
        _ => Vec::new(),
    };
    if json {
        print(out, &json!({ "ok": ok, "problems": problems, "warnings": warnings, "records": records }))?;
    } else {
        for problem in &problems {
            writeln!(err, "{}", show::clean(problem))?;
        }
        for warning in &warnings {
            writeln!(err, "warning: {}", show::clean(warning))?;
        }
        if let (Ok(config), true) = (&loaded, ok) {
            summary(path, config, out)?;
            for record in &records {
                let mark = if record.correct { "published" } else { "not published" };
                writeln!(out, "  name     {}: {mark}: {}", show::clean(&record.address), show::clean(&record.text))?;
                if let (false, Some(line)) = (record.correct, &record.record) {
                    writeln!(out, "           to publish: {}", show::clean(line))?;
                }
            }
        }
    }
    Ok(if ok { EX_OK } else { EX_CONFIG })
}

/// How the addresses stand in the DNS, as the running agent finds it: only it has the Tox IDs.
fn records(config: &Config, socket: &Path, warnings: &mut Vec<String>) -> Vec<Record> {
    let own = socket == Path::new(config::DEFAULT_CONTROL_SOCKET);
    let socket = if own { &config.control.socket } else { socket };
    let has_addresses = |account: &config::Account| {
        !account.addresses.is_empty() || account.mailboxes.iter().any(|mailbox| !mailbox.addresses.is_empty())
    };
    if !config.accounts.iter().any(has_addresses) {
        return Vec::new();
    }
    let asked = Client::new(socket).map_err(|error| error.to_string());
    match asked.and_then(|client| client.records(None).map_err(|error| error.to_string())) {
        Ok(records) => records,
        Err(error) => {
            warnings.push(format!("the names of the accounts were not checked: {error}"));
            Vec::new()
        }
    }
}

fn look_around(config: &Config, problems: &mut Vec<String>, warnings: &mut Vec<String>) {
    folder("state_dir", &config.state_dir, warnings);
    for (key, socket) in [("lmtp.socket", &config.lmtp.socket), ("control.socket", &config.control.socket)] {
        // systemd makes /run/tox-agent when it starts the agent, so only other folders are missed.
        if let Some(parent) = socket.parent().filter(|parent| *parent != Path::new("/run/tox-agent")) {
            folder(&format!("the folder of {key}"), parent, warnings);
        }
    }
    for (key, users) in [("lmtp", &config.lmtp.allow_users), ("control", &config.control.allow_users)] {
        for error in users.iter().filter_map(|user| user.uid().err()) {
            problems.push(format!("{key}.allow_users: {error}"));
        }
    }
    for account in &config.accounts {
        let further = account.mailboxes.iter().map(|mailbox| &mailbox.way);
        for way in std::iter::once(&account.way).chain(further) {
            if let Some(socket) = way.socket().filter(|socket| !socket.exists()) {
                warnings.push(format!("account `{}`: deliver: {} is not there", account.name, socket.display()));
            }
            let Some(maildir) = way.maildir() else { continue };
            // The agent makes a Maildir that is not there.
            if maildir.is_dir() {
                folder(&format!("account `{}`: the maildir", account.name), maildir, warnings);
            } else if let Some(parent) = maildir.parent() {
                folder(&format!("account `{}`: the maildir's parent", account.name), parent, warnings);
            }
        }
        if let Some(PassphraseSource::File(file)) = &account.passphrase {
            match Passphrase::read(file) {
                Ok(_) => {}
                // Whether the agent may read what this user may not, cannot be told from here.
                Err(error) if access(file.as_path(), AccessFlags::R_OK) == Err(nix::Error::EACCES) => {
                    warnings.push(error.to_string());
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
    }
    for node in config.tox.unusable_nodes() {
        warnings
            .push(format!("tox.bootstrap: {} is a name, which no proxy is asked for: give its IP address", node.host));
    }
    if config.tox.bootstrap.is_empty() {
        let reach = if config.tox.lan_discovery {
            "only peers on the local net will be found"
        } else {
            "no peer will be found"
        };
        warnings.push(format!("no [[tox.bootstrap]]: {reach}"));
    }
}

fn folder(what: &str, path: &Path, warnings: &mut Vec<String>) {
    if !path.is_dir() {
        warnings.push(format!("{what}: {} is not there or no folder", path.display()));
    } else if access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        warnings.push(format!("{what}: {} is not writable by this user", path.display()));
    }
}

fn summary(path: &Path, config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let units = (config::units::show_size, config::units::show_duration);
    writeln!(out, "{}: OK", show::clean(&path.display().to_string()))?;
    writeln!(out, "  host     {}", config.hostname)?;
    writeln!(out, "  lmtp     {} (mails up to {})", config.lmtp.socket.display(), units.0(config.lmtp.max_size))?;
    writeln!(out, "  control  {}", config.control.socket.display())?;
    let queue = &config.queue;
    writeln!(out, "  queue    up to {}, mails expire after {}", units.0(queue.max_disk), units.1(queue.expire))?;
    let ways = if config.tox.private {
        "all by proxy, nothing past it"
    } else if config.tox.proxy.is_some() {
        "by proxy"
    } else if config.tox.udp {
        "UDP and TCP"
    } else {
        "TCP only"
    };
    writeln!(out, "  tox      {ways}, bootstrap nodes: {}", config.tox.bootstrap.len())?;
    let names = match (config.names.lookup, config.names.policy.unsigned) {
        (false, _) => "not looked up",
        (true, Unsigned::Ask) => "looked up, unsigned ones to be confirmed",
        (true, Unsigned::Tofu) => "looked up, unsigned ones trusted on first use",
        (true, Unsigned::Refuse) => "looked up, unsigned ones refused",
    };
    writeln!(out, "  names    {names}")?;
    for account in &config.accounts {
        writeln!(out, "  account  {} → {}", account.name, account.way)?;
        for mailbox in &account.mailboxes {
            writeln!(out, "           {} → {}", mailbox.name, mailbox.way)?;
        }
    }
    Ok(())
}
