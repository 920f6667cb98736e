//! `toxctl`: the command line, and what it shows.
//!
//! Owns the command line's words, the text shown to people and the exit statuses. Uses [`crate::control`] to talk to
//! the agent, [`crate::config`] for `check` and `setup`, [`crate::backup`] and [`crate::store::backup`] for backups,
//! [`crate::mail::address`] for `setup`, and [`crate::identity`] for Tox IDs. All output goes through the writers
//! given.

mod backup;
mod check;
mod invitation;
mod names;
mod offer;
mod relay;
mod setup;
mod show;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::config::{DEFAULT_CONTROL_SOCKET, DEFAULT_PATH};
use crate::control::api::{Accept, AcceptKey, Flush, NewContact, QueueStep, Refuse, Rename, Selection};
use crate::control::client::{Client, ClientError};
use crate::identity::tox_id::ToxId;

/// All is well (sysexits.h and by custom).
pub const EX_OK: u8 = 0;
/// The agent said no.
pub const EX_REFUSED: u8 = 1;
/// The command line makes no sense.
pub const EX_USAGE: u8 = 64;
/// The agent cannot be reached.
pub const EX_UNAVAILABLE: u8 = 69;
/// The output cannot be written.
pub const EX_IOERR: u8 = 74;
/// The configuration is wrong.
pub const EX_CONFIG: u8 = 78;

/// How many waiting mails are asked for at a time.
const PAGE: usize = 500;

#[derive(Parser)]
#[command(name = "toxctl", version, about = "Manages a running tox-agent", arg_required_else_help = true)]
struct Cli {
    /// The agent's control socket
    #[arg(long, value_name = "PATH", global = true, default_value = DEFAULT_CONTROL_SOCKET)]
    socket: PathBuf,
    /// Only this account; needed to add a contact where there are several accounts
    #[arg(long, value_name = "NAME", global = true)]
    account: Option<String>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show how the agent, its accounts and its queue are
    Status,
    /// Print figures for monitoring (OpenMetrics)
    Metrics,
    /// Show the Tox ID and the addresses of each account
    Id,
    /// Manage the contacts
    #[command(subcommand)]
    Contact(ContactCommand),
    /// Answer friend requests
    #[command(subcommand)]
    Request(RequestCommand),
    /// Look at addresses in the DNS: those of others, and the own ones
    #[command(subcommand)]
    Name(NameCommand),
    /// Look at waiting mail, have it tried now, put it on hold or delete it
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Relays, where mail waits for who is offline: be one for others, and use those of others
    #[command(subcommand)]
    Relay(relay::RelayCommand),
    /// By what strangers can introduce themselves who are never online at the same time
    #[command(subcommand)]
    Invitation(invitation::InvitationCommand),
    /// The part of the Tox ID without which strangers cannot ask
    #[command(subcommand)]
    Nospam(NospamCommand),
    /// Write identities, contacts, pinned keys, queue and configuration into one encrypted file
    Backup(backup::BackupArgs),
    /// Restore what `toxctl backup` wrote; the agent must not run
    Restore(backup::RestoreArgs),
    /// Have the agent read its configuration again
    Reload,
    /// Check a configuration without the agent
    Check {
        /// The configuration file
        #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Have a mail server hand over mail to the agent: show the change, make it, test it, undo it
    #[command(subcommand)]
    Setup(setup::SetupCommand),
    /// Print a script that completes toxctl's command lines
    #[command(hide = true)]
    Completions {
        /// The shell it is for
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand)]
enum ContactCommand {
    /// Ask someone to become a contact
    Add(AddArgs),
    /// List the contacts
    List,
    /// Show all that is known of a contact
    Show {
        /// A key, a Tox ID, a nick or an address
        who: String,
    },
    /// Give a contact another name
    Rename {
        /// A key, a Tox ID, a nick or an address
        who: String,
        /// The new name; without it, the old one is taken away
        nick: Option<String>,
    },
    /// Take no mail and no requests of a contact or key, and send it none
    Block {
        /// A key, a Tox ID, a nick or an address
        who: String,
    },
    /// Take a contact or key off the block list
    Unblock {
        /// A key, a Tox ID, a nick or an address
        who: String,
    },
    /// Accept the key that an address leads to now, in place of the one it had
    AcceptKey {
        /// The address
        address: String,
        /// The Tox ID that you have compared: if the address leads elsewhere by now, nothing is done
        tox_id: Option<String>,
    },
    /// List the keys on the block list
    Blocked,
    /// Look up the addresses of contacts again: all, or those of one
    Refresh {
        /// A key, a Tox ID, a nick or an address
        who: Option<String>,
    },
    /// Forget a contact
    Remove {
        /// A key, a Tox ID, a nick or an address
        who: String,
    },
}

#[derive(Subcommand)]
enum NameCommand {
    /// List the addresses that lead to contacts by the DNS
    List,
    /// Look up where an address leads, step by step; changes nothing
    Lookup {
        /// The address, as in bob@example.org
        address: String,
    },
    /// Show what to publish so that an account's addresses lead to it, and how it stands now
    Record {
        /// The account; all of them without it
        account: Option<String>,
    },
}

#[derive(Args)]
struct AddArgs {
    /// A Tox ID (76 hexadecimal digits, 61 base32 characters, or these before @tox.alt), an address to look up, or an
    /// invitation (`toxctl invitation show`)
    #[arg(value_name = "TOX-ID|ADDRESS|INVITATION")]
    who: String,
    /// An address that is his, where it cannot be looked up: mail to it goes to this Tox ID
    #[arg(long)]
    address: Option<String>,
    /// A name for the contact: mail to NICK@tox.alt goes there
    #[arg(long)]
    nick: Option<String>,
    /// What to say with the request
    #[arg(long)]
    message: Option<String>,
}

#[derive(Subcommand)]
enum RequestCommand {
    /// List the requests
    List,
    /// Make a contact of the one who asked
    Accept {
        /// The key of the request
        key: String,
        /// A name for the contact: mail to NICK@tox.alt goes there
        #[arg(long)]
        nick: Option<String>,
    },
    /// Refuse a request, now and when it comes again. A mail agent is told when both are online, and its mail bounces
    Refuse {
        /// The key of the request
        key: String,
        /// Do not tell them; their mail waits until it expires
        #[arg(long)]
        silent: bool,
    },
}

#[derive(Subcommand)]
enum QueueCommand {
    /// List the waiting mail
    List,
    /// Have waiting mail tried now: all of it, one mail, or that of one contact
    Flush {
        /// The agent's or the MTA's queue id
        queue_id: Option<String>,
        /// Only mail to this contact: a key, a Tox ID or a nick
        #[arg(long, value_name = "WHO")]
        contact: Option<String>,
    },
    /// Put waiting mail on hold: it is not sent and does not expire
    Hold {
        /// The agent's or the MTA's queue id, or ALL
        #[arg(value_name = "QUEUE-ID|ALL")]
        queue_id: String,
    },
    /// Release mail that is on hold; it gets its whole lifetime again
    Release {
        /// The agent's or the MTA's queue id, or ALL
        #[arg(value_name = "QUEUE-ID|ALL")]
        queue_id: String,
    },
    /// Delete waiting mail; its sender is not told
    Delete {
        /// The agent's or the MTA's queue id, or ALL
        #[arg(value_name = "QUEUE-ID|ALL")]
        queue_id: String,
    },
}

#[derive(Subcommand)]
enum NospamCommand {
    /// Give an account a new Tox ID with the same key: contacts stay, friend requests to the old ID do not arrive
    Rotate,
}

/// What `contact add` is given: a Tox ID, or an address that is none of `tox.alt`.
fn id_or_address(text: &str) -> Result<(Option<ToxId>, Option<String>), String> {
    let id = text.strip_suffix("@tox.alt").or_else(|| text.strip_suffix("@tox")).unwrap_or(text);
    match id.parse::<ToxId>() {
        Ok(id) => Ok((Some(id), None)),
        Err(_) if id.contains('@') => Ok((None, Some(id.to_owned()))),
        Err(error) => Err(format!("`{text}`: {error}; or give an address, as in bob@example.org")),
    }
}

/// The command line as clap knows it, for completions and the man page.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Why a command did not end well.
enum Fail {
    Output(io::Error),
    /// The command line makes no sense.
    Usage(String),
    /// What was asked was answered, and the answer is no.
    No,
    Agent(ClientError),
    /// A mail server could not be set up.
    Setup(String),
    /// The agent's runtime could not be made.
    System(io::Error),
    /// A backup could not be made or restored.
    Backup(anyhow::Error),
}

impl From<io::Error> for Fail {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<ClientError> for Fail {
    fn from(error: ClientError) -> Self {
        Self::Agent(error)
    }
}

/// Runs toxctl with the command line `args` (the program's name first) and returns its exit status. A reader that
/// closed `out` early is no error.
pub fn run(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render();
            let asked = !error.use_stderr();
            // Help that nobody reads is no error, and of an error in writing an error nobody can be told.
            let _ = if asked { write!(out, "{text}") } else { write!(err, "{text}") };
            return if asked { EX_OK } else { EX_USAGE };
        }
    };
    let mut out = BufWriter::new(out);
    let done = match &cli.command {
        Command::Check { config } => check::check(config, &cli.socket, cli.json, &mut out, err).map_err(Fail::from),
        Command::Backup(args) => backup::backup(args, cli.json, &mut out, err).map(|()| EX_OK).map_err(Fail::Backup),
        Command::Restore(args) => backup::restore(args, cli.json, &mut out, err).map(|()| EX_OK).map_err(Fail::Backup),
        Command::Setup(command) => setup::run(command, &cli, &mut out).map(|()| EX_OK),
        Command::Completions { shell } => completions(*shell, &mut out).map(|()| EX_OK),
        _ => manage(&cli, &mut out).map(|()| EX_OK),
    };
    let done = match done {
        Err(Fail::No) => Ok(EX_REFUSED),
        done => done,
    };
    let done = done.and_then(|status| Ok(out.flush().map(|()| status)?));
    // What is left in the buffer after an error must not be written on drop.
    let _ = out.into_parts();
    let (status, text) = match done {
        Ok(status) => return status,
        Err(Fail::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return EX_OK,
        Err(Fail::No) => return EX_REFUSED,
        Err(Fail::Usage(text)) => (EX_USAGE, text),
        Err(Fail::Setup(text)) => (EX_REFUSED, text),
        Err(Fail::Output(error)) => (EX_IOERR, format!("cannot write: {error}")),
        Err(Fail::Backup(error)) => (EX_REFUSED, format!("{error:#}")),
        Err(Fail::System(error)) => (EX_UNAVAILABLE, error.to_string()),
        Err(Fail::Agent(error @ ClientError::Refused { status: 503 | 504, .. })) => (EX_UNAVAILABLE, error.to_string()),
        Err(Fail::Agent(error @ ClientError::Refused { .. })) => (EX_REFUSED, error.to_string()),
        Err(Fail::Agent(error)) => (EX_UNAVAILABLE, error.to_string()),
    };
    let _ = writeln!(err, "toxctl: {}", show::clean(&text));
    status
}

fn manage(cli: &Cli, out: &mut dyn Write) -> Result<(), Fail> {
    let client = Client::new(&cli.socket).map_err(Fail::System)?;
    let account = cli.account.as_deref();
    match &cli.command {
        Command::Status | Command::Id => {
            let mut status = client.status()?;
            if let Some(name) = account {
                status.accounts.retain(|account| account.name == name);
                status.relays.used.retain(|relay| relay.account == name);
                if status.accounts.is_empty() {
                    return Err(not_found(name));
                }
            }
            match (&cli.command, cli.json) {
                (Command::Id, true) => print(out, &show::ids(&status))?,
                (Command::Id, false) => show::id(out, &show::ids(&status))?,
                (_, true) => print(out, &status)?,
                (_, false) => show::status(out, &status, now())?,
            }
        }
        Command::Metrics if cli.json || account.is_some() => {
            return Err(Fail::Usage("the metrics are those of all accounts, in the format of OpenMetrics".into()));
        }
        Command::Metrics => out.write_all(client.metrics()?.as_bytes())?,
        Command::Contact(ContactCommand::Add(args)) => {
            let invitation = args.who.trim().starts_with(invitation::PREFIX).then(|| args.who.trim().to_owned());
            let (id, address) = match invitation {
                Some(_) => (None, None),
                None => id_or_address(&args.who).map_err(Fail::Usage)?,
            };
            if address.is_some() && args.address.is_some() {
                return Err(Fail::Usage("--address goes with a Tox ID or an invitation".into()));
            }
            let contact = client.add_contact(&NewContact {
                account: cli.account.clone(),
                invitation,
                tox_id: id.map(|id| id.to_string()),
                address: address.or_else(|| args.address.clone()),
                nick: args.nick.clone(),
                message: args.message.clone(),
            })?;
            if cli.json { print(out, &contact)? } else { show::added(out, &contact)? }
        }
        Command::Contact(ContactCommand::List) => {
            let contacts = client.contacts(account)?;
            if cli.json { print(out, &contacts)? } else { show::contacts(out, &contacts, now())? }
        }
        Command::Contact(ContactCommand::Show { who }) => {
            let details = client.contact(account, who)?;
            if cli.json { print(out, &details)? } else { names::contact(out, &details, now())? }
        }
        Command::Contact(ContactCommand::Rename { who, nick }) => {
            let contact = client.rename_contact(account, who, &Rename { nick: nick.clone() })?;
            if cli.json { print(out, &contact)? } else { show::added(out, &contact)? }
        }
        Command::Contact(ContactCommand::Block { who }) => {
            client.block(account, who, true)?;
            say(cli, out, "blocked", who)?;
        }
        Command::Contact(ContactCommand::Unblock { who }) => {
            client.block(account, who, false)?;
            say(cli, out, "unblocked", who)?;
        }
        Command::Contact(ContactCommand::Blocked) => {
            let blocked = client.blocked(account)?;
            if cli.json { print(out, &blocked)? } else { names::blocked(out, &blocked, now())? }
        }
        Command::Contact(ContactCommand::AcceptKey { address, tox_id }) => {
            let name = client.accept_key(account, address, &AcceptKey { tox_id: tox_id.clone() })?;
            if cli.json { print(out, &name)? } else { names::accepted(out, &name)? }
        }
        Command::Contact(ContactCommand::Refresh { who }) => {
            let refreshed = client.refresh(account, who.as_deref())?;
            if cli.json { print(out, &refreshed)? } else { names::refreshed(out, refreshed)? }
        }
        Command::Name(NameCommand::List) => {
            let found = client.names(account)?;
            if cli.json { print(out, &found)? } else { names::list(out, &found)? }
        }
        Command::Name(NameCommand::Lookup { address }) => {
            let lookup = client.look_up(address)?;
            if cli.json {
                print(out, &lookup)?
            } else {
                names::lookup(out, &lookup)?
            }
            if lookup.tox_id.is_none() {
                return Err(Fail::No);
            }
        }
        Command::Name(NameCommand::Record { account: of }) => {
            let records = client.records(of.as_deref().or(account))?;
            if cli.json { print(out, &records)? } else { names::records(out, &records)? }
        }
        Command::Contact(ContactCommand::Remove { who }) => {
            client.remove_contact(account, who)?;
            say(cli, out, "removed", who)?;
        }
        Command::Request(RequestCommand::List) => {
            let requests = client.requests(account)?;
            if cli.json { print(out, &requests)? } else { show::requests(out, &requests, now())? }
        }
        Command::Request(RequestCommand::Accept { key, nick }) => {
            let contact = client.accept_request(account, key, &Accept { nick: nick.clone() })?;
            if cli.json { print(out, &contact)? } else { show::added(out, &contact)? }
        }
        Command::Request(RequestCommand::Refuse { key, silent }) => {
            let refused = client.refuse_request(account, key, &Refuse { silent: *silent })?;
            if cli.json { print(out, &refused)? } else { show::refused(out, key, &refused)? }
        }
        Command::Queue(QueueCommand::List) => queue(cli, &client, out)?,
        Command::Reload => {
            let reloaded = client.reload()?;
            if cli.json { print(out, &reloaded)? } else { show::reloaded(out, &reloaded)? }
        }
        Command::Queue(QueueCommand::Flush { queue_id, contact }) => {
            let flushed = client.flush(&Flush {
                queue_id: queue_id.clone(),
                account: cli.account.clone(),
                contact: contact.clone(),
            })?;
            if cli.json { print(out, &flushed)? } else { show::flushed(out, flushed)? }
        }
        Command::Queue(QueueCommand::Hold { queue_id }) => change(cli, &client, out, QueueStep::Hold, queue_id)?,
        Command::Queue(QueueCommand::Release { queue_id }) => change(cli, &client, out, QueueStep::Release, queue_id)?,
        Command::Queue(QueueCommand::Delete { queue_id }) => change(cli, &client, out, QueueStep::Delete, queue_id)?,
        Command::Relay(command) => relay::run(command, cli, &client, out)?,
        Command::Invitation(command) => invitation::run(command, cli, &client, out)?,
        Command::Nospam(NospamCommand::Rotate) => {
            let new = client.rotate_nospam(account)?;
            if cli.json { print(out, &new)? } else { show::rotated(out, &new)? }
        }
        // Handled without an agent.
        Command::Check { .. } | Command::Backup(_) | Command::Restore(_) => {}
        Command::Setup(_) | Command::Completions { .. } => {}
    }
    Ok(())
}

fn not_found(account: &str) -> Fail {
    let error = crate::control::api::ApiError { error: format!("there is no account `{account}`"), hint: None };
    Fail::Agent(ClientError::Refused { status: 404, error })
}

/// Changes the mail with this queue id, or all of it where that is `ALL`, as with postsuper(1).
fn change(cli: &Cli, client: &Client, out: &mut dyn Write, step: QueueStep, queue_id: &str) -> Result<(), Fail> {
    let queue_id = (queue_id != "ALL").then(|| queue_id.to_owned());
    let touched = client.change_queue(step, &Selection { queue_id, account: cli.account.clone() })?;
    if cli.json {
        print(out, &touched)?
    } else {
        show::touched(out, step, touched)?
    }
    Ok(())
}

/// Shows the queue page by page, so that a long one needs no memory here.
fn queue(cli: &Cli, client: &Client, out: &mut dyn Write) -> Result<(), Fail> {
    let mut list = show::QueueList::new(now());
    let mut after: Option<String> = None;
    loop {
        let page = client.queue(cli.account.as_deref(), after.as_deref(), PAGE)?;
        for mail in &page.mails {
            if cli.json {
                let text = serde_json::to_string_pretty(mail).map_err(io::Error::from)?;
                write!(out, "{}{text}", if list.is_empty() { "[\n" } else { ",\n" })?;
                list.count(mail);
            } else {
                list.mail(out, mail)?;
            }
        }
        // A server that names no later id would be asked for ever.
        after = page.next.filter(|next| after.as_ref().is_none_or(|before| next > before));
        if after.is_none() {
            break;
        }
    }
    if cli.json {
        writeln!(out, "{}", if list.is_empty() { "[]" } else { "\n]" })?;
    } else {
        list.end(out)?;
    }
    Ok(())
}

fn print(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(value).map_err(io::Error::from)?)
}

fn say(cli: &Cli, out: &mut dyn Write, done: &str, what: &str) -> io::Result<()> {
    if cli.json { print(out, &json!({ done: what })) } else { writeln!(out, "{done} {}", show::clean(what)) }
}

fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<(), Fail> {
    // The generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "toxctl", &mut script);
    Ok(out.write_all(&script)?)
}

/// Seconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
