//! `toxctl relay`: the relay that the agent is for others, and those its accounts use.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;

use super::offer::{self, Whom};
use super::show::{clean, plural, size, span, table};
use super::{Cli, Fail, now, print, say};
use crate::config::{DEFAULT_PATH, units};
use crate::control::api::{Connection, Invited, NewInvite, OwnRelay, Owner, RelayPurpose, Relays, UseRelay, UsedRelay};
use crate::control::client::Client;

#[derive(Subcommand)]
pub(super) enum RelayCommand {
    /// Show the relay that the agent is for others, and those its accounts use
    Status,
    /// Make an invite: whoever has it may have mail wait at this relay, one agent for each invite
    Invite {
        /// The most that may wait for him, as in "200 MiB"; relay.owner_quota without it
        #[arg(long, value_name = "SIZE", value_parser = units::size)]
        quota: Option<u64>,
    },
    /// List those whose mail may wait at this relay
    Owners,
    /// Remove one of them, with all that waits for him
    RemoveOwner {
        /// His key, as `toxctl relay owners` shows it
        key: String,
    },
    /// Tell contacts of this relay, or nobody, by relay.offer of the configuration, which is changed and read again
    Offer {
        /// Who is told
        whom: Whom,
        /// The agent's configuration
        #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Have mail for an account wait at a relay while it is offline
    Use {
        /// The relay, as `toxctl relay invite` of its operator prints it; with --remove also its key
        #[arg(value_name = "TEXT")]
        relay: String,
        /// Use it no more
        #[arg(long)]
        remove: bool,
    },
}

/// Runs the command.
pub(super) fn run(command: &RelayCommand, cli: &Cli, client: &Client, out: &mut dyn Write) -> Result<(), Fail> {
    let account = cli.account.as_deref();
    match command {
        RelayCommand::Status => {
            let relays = client.relays(account)?;
            if cli.json { print(out, &relays)? } else { overview(out, &relays, now())? }
        }
        RelayCommand::Invite { quota } => {
            let invited = client.invite(&NewInvite { quota: *quota })?;
            if cli.json { print(out, &invited)? } else { invite(out, &invited)? }
        }
        RelayCommand::Owners => {
            let list = client.owners()?;
            if cli.json { print(out, &list)? } else { owners(out, &list, now())? }
        }
        RelayCommand::RemoveOwner { key } => {
            client.remove_owner(key)?;
            say(cli, out, "removed", key)?;
        }
        RelayCommand::Offer { whom, config } => offer::offer(*whom, config, cli, client, out)?,
        RelayCommand::Use { relay, remove: true } => {
            client.forget_relay(account, relay)?;
            say(cli, out, "removed", relay)?;
        }
        RelayCommand::Use { relay, remove: false } => {
            let used = client.use_relay(&UseRelay { account: cli.account.clone(), relay: relay.clone() })?;
            if cli.json { print(out, &used)? } else { added(out, &used)? }
        }
    }
    Ok(())
}

/// The relay's key as log lines have it.
fn short(key: &str) -> String {
    clean(key).chars().take(16).collect()
}

/// The lines of `toxctl status`.
pub(super) fn summary(out: &mut dyn Write, relays: &Relays, now: i64) -> io::Result<()> {
    if let Some(own) = &relays.own {
        writeln!(out, "relay: {}, {}, {}", network(own.connection), counts(own), room(own))?;
        if let Some(error) = &own.error {
            writeln!(out, "relay: error: {}", clean(error))?;
        }
    }
    for used in &relays.used {
        let mails = if used.mails > 0 { format!(", {} there", plural(used.mails, "mail")) } else { String::new() };
        writeln!(out, "{}: relay {}: {}{mails}", clean(&used.account), short(&used.key), standing(used, now))?;
    }
    Ok(())
}

fn network(connection: Connection) -> &'static str {
    match connection {
        Connection::Offline => "offline",
        Connection::Udp => "udp",
        Connection::Tcp => "tcp",
    }
}

fn counts(own: &OwnRelay) -> String {
    format!("{}{}, {} of {} filled", plural(own.owners, "owner"), most(own), own.filled, plural(own.slots, "slot"))
}

/// How many owners it may have; one that is not open may have as many as it invites.
fn most(own: &OwnRelay) -> String {
    if own.open { format!(" of {}", own.max_owners) } else { String::new() }
}

fn room(own: &OwnRelay) -> String {
    format!("{} of {}", size(own.octets), size(own.max_disk))
}

/// Whether a relay is reachable, and since when it is or is not.
fn standing(used: &UsedRelay, now: i64) -> String {
    let since = used.since.map_or_else(String::new, |since| format!(" since {} ago", span(now - since)));
    let error = used.error.as_deref().map_or_else(String::new, |error| format!(" ({})", clean(error)));
    let state = match used.reachable {
        Some(true) => "reachable",
        Some(false) => "NOT REACHABLE",
        None => return format!("not tried yet{error}"),
    };
    format!("{state}{since}{error}")
}

fn overview(out: &mut dyn Write, relays: &Relays, now: i64) -> io::Result<()> {
    match &relays.own {
        None => writeln!(out, "this agent is no relay for others ([relay] enabled)")?,
        Some(own) => {
            let who = if own.open { "anybody" } else { "whoever has an invite (toxctl relay invite)" };
            let told = if own.offered { "contacts are told of it" } else { "nobody is told of it" };
            writeln!(out, "this agent is a relay for others")?;
            writeln!(out, "  relay    {}", clean(&own.text))?;
            writeln!(out, "  network  {}", network(own.connection))?;
            writeln!(out, "  for      {who}; {told}")?;
            writeln!(out, "  owners   {}{}", own.owners, most(own))?;
            writeln!(out, "  slots    {}, {} filled", own.slots, own.filled)?;
            writeln!(out, "  disk     {}", room(own))?;
            if let Some(error) = &own.error {
                writeln!(out, "  error    {}", clean(error))?;
            }
        }
    }
    writeln!(out)?;
    if relays.used.is_empty() {
        return writeln!(out, "no relays in use");
    }
    let row = |used: &UsedRelay| {
        let purpose = match used.purpose {
            RelayPurpose::Told => "told",
            RelayPurpose::Offered => "offered",
            RelayPurpose::Deposits => "deposits",
        };
        let (slots, mails) = (used.slots.to_string(), used.mails.to_string());
        vec![clean(&used.account), short(&used.key), purpose.into(), slots, mails, standing(used, now)]
    };
    let rows: Vec<_> = relays.used.iter().map(row).collect();
    table(out, &["ACCOUNT", "RELAY", "USED AS", "SLOTS", "MAILS", "STATE"], &rows)
}

fn invite(out: &mut dyn Write, invited: &Invited) -> io::Result<()> {
    writeln!(out, "{}", clean(&invited.text))?;
    writeln!(out, "It makes one owner, with room for {}. Give it to nobody else; he says:", size(invited.quota))?;
    writeln!(out, "toxctl relay use TEXT")
}

fn owners(out: &mut dyn Write, owners: &[Owner], now: i64) -> io::Result<()> {
    if owners.is_empty() {
        return writeln!(out, "no owners");
    }
    let ago = |time: i64| format!("{} ago", span(now - time));
    let row = |owner: &Owner| {
        vec![
            ago(owner.since),
            owner.last_seen.map_or_else(|| "never".into(), ago),
            format!("{}/{}", owner.filled, owner.slots),
            format!("{} of {}", size(owner.octets), size(owner.quota)),
            clean(&owner.key),
        ]
    };
    table(out, &["SINCE", "SEEN", "SLOTS", "DISK", "KEY"], &owners.iter().map(row).collect::<Vec<_>>())
}

fn added(out: &mut dyn Write, used: &UsedRelay) -> io::Result<()> {
    let (account, relay) = (clean(&used.account), short(&used.key));
    writeln!(out, "{account}: mail may wait at relay {relay} once it has answered (toxctl relay status),")?;
    writeln!(out, "of each contact from the next time on that both are online")
}
