//! `toxctl setup`: shows what a mail server needs so that its mail goes to the agent, makes the change, tests it with a
//! probe mail, and undoes it.
//!
//! What is to be changed is decided by the pure modules: [`postfix`] and [`exim`], with [`block`] (lines of ours in files
//! of others), [`main_cf`] (Postfix's lists) and [`plan`]. [`files`] reads, writes and runs, [`servers`] knows the commands
//! of each, [`probe`] sends the probe.

mod block;
mod exim;
mod files;
mod main_cf;
mod plan;
mod postfix;
mod probe;
mod servers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

pub(super) use self::files::put;
use self::plan::{Plan, Route, Wanted};
use self::servers::{Exim, Postfix, Server};
use super::{Cli, Fail, print, show};
use crate::config::{self, Config};

/// How long a probe may take.
const PROBE: Duration = Duration::from_secs(30);

#[derive(Subcommand)]
pub(super) enum SetupCommand {
    /// Have Postfix hand over mail for tox.alt, and for what else is named; shows what would change
    Postfix {
        #[command(flatten)]
        args: SetupArgs,
        /// The folder of Postfix's configuration, where it is not the usual one
        #[arg(long, value_name = "DIR")]
        config_dir: Option<String>,
    },
    /// Have Debian's Exim hand over mail for tox.alt, and for what else is named; shows what would change
    Exim {
        #[command(flatten)]
        args: SetupArgs,
    },
}

#[derive(Args)]
pub(super) struct SetupArgs {
    /// Further domains and addresses that go over Tox, as in example.net or bob@example.org; they add to those set up
    #[arg(value_name = "DOMAIN|ADDRESS")]
    keys: Vec<String>,
    /// Make the change, then send a probe mail
    #[arg(long, conflicts_with = "revert")]
    apply: bool,
    /// Take out what was put in: all of it, or only the domains and addresses named
    #[arg(long)]
    revert: bool,
    /// Start tox-transport for each mail (pipe) in place of speaking LMTP to the agent
    #[arg(long)]
    pipe: bool,
    /// The agent's configuration, which names its socket
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// The tox-transport to start, with --pipe
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/tox-transport")]
    program: String,
    /// The envelope sender of the probe mail, in place of one of the account's addresses
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Send no probe mail
    #[arg(long)]
    no_probe: bool,
}

/// Runs the command; `Fail::No` where the probe did not come.
pub(super) fn run(command: &SetupCommand, cli: &Cli, out: &mut dyn Write) -> Result<(), Fail> {
    match command {
        SetupCommand::Postfix { args, config_dir } => {
            set_up(&Postfix::new(config_dir.as_deref()).map_err(Fail::Setup)?, args, cli, out)
        }
        SetupCommand::Exim { args } => set_up(&Exim::new().map_err(Fail::Setup)?, args, cli, out),
    }
}

/// The agent's configuration and its socket; a note where it cannot be read.
fn agent(args: &SetupArgs, notes: &mut Vec<String>) -> (Option<Config>, String) {
    match config::load(&args.config) {
        Ok(config) => {
            let socket = config.lmtp.socket.display().to_string();
            (Some(config), socket)
        }
        Err(error) => {
            notes.push(format!("{error}: the agent's socket is taken to be {}", config::DEFAULT_LMTP_SOCKET));
            (None, config::DEFAULT_LMTP_SOCKET.to_owned())
        }
    }
}

/// Makes what is planned. What the server does not want is taken back.
fn make(server: &dyn Server, plan: &mut Plan) -> Result<(), String> {
    let name = server.name();
    server.check().map_err(|error| format!("{name}'s configuration is wrong already: {error}"))?;
    files::make(plan)?;
    match server.reload() {
        Ok(true) => Ok(()),
        Ok(false) => {
            plan.notes.push(format!("{name} does not run: the change counts when it starts"));
            Ok(())
        }
        Err(error) => {
            let back = match files::take_back(&plan.edits) {
                Ok(()) => "its files are as before".to_owned(),
                Err(error) => format!("and it cannot be taken back: {error}"),
            };
            files::tidy(plan);
            // What it had before, it had anyway.
            let _ = server.reload();
            Err(format!("{name} does not want the change: {error}; {back}"))
        }
    }
}

fn set_up(server: &dyn Server, args: &SetupArgs, cli: &Cli, out: &mut dyn Write) -> Result<(), Fail> {
    let keys: Vec<String> =
        args.keys.iter().map(|key| plan::key(key)).collect::<Result<_, _>>().map_err(Fail::Usage)?;
    let mut notes = Vec::new();
    let (config, socket) = agent(args, &mut notes);
    let mut plan = if args.revert {
        server.revert(&keys).map_err(Fail::Setup)?
    } else {
        let route = if args.pipe { Route::Pipe } else { Route::Lmtp };
        let wanted = Wanted { route, keys, socket, program: args.program.clone() };
        let mut plan = server.apply(&wanted).map_err(Fail::Setup)?;
        plan.notes.append(&mut notes);
        plan
    };
    let making = args.apply || args.revert;
    if making && !plan.edits.is_empty() {
        make(server, &mut plan).map_err(Fail::Setup)?;
        if args.revert {
            files::tidy(&plan);
        }
    }
    if !cli.json {
        told(&plan, making, out)?;
        out.flush()?;
    }
    let probe = (args.apply && !args.no_probe).then(|| {
        let control = match &config {
            Some(config) if cli.socket == Path::new(config::DEFAULT_CONTROL_SOCKET) => &config.control.socket,
            _ => &cli.socket,
        };
        let (account, from) = (cli.account.as_deref(), args.from.as_deref());
        probe::send(server, control, config.as_ref(), account, from, PROBE)
    });
    let ok = probe.as_ref().is_none_or(|probe| probe.as_ref().is_ok_and(|outcome| outcome.ok));
    if cli.json {
        let change = |edit: &plan::Edit| {
            let backup = Some(files::backup(&edit.file)).filter(|copy| Path::new(copy).exists());
            json!({ "file": edit.file, "diff": edit.diff(), "backup": backup })
        };
        let probe = probe.map(|probe| match probe {
            Ok(outcome) => json!(outcome),
            Err(error) => json!({ "ok": false, "text": error }),
        });
        let changes: Vec<_> = plan.edits.iter().map(change).collect();
        print(out, &json!({ "changes": changes, "made": making, "notes": plan.notes, "probe": probe }))?;
    } else if let Some(probe) = probe {
        match probe {
            Ok(probe) => {
                let mark = if probe.ok { "ok" } else { "FAILED" };
                let (from, to) = (show::clean(&probe.sender), show::clean(&probe.recipient));
                writeln!(out, "probe: {mark}: from <{from}> to <{to}>: {}", show::clean(&probe.text))?;
            }
            Err(error) => writeln!(out, "probe: FAILED, none was sent: {}", show::clean(&error))?,
        }
        if !ok {
            writeln!(out, "the change stays; --revert in place of --apply undoes it")?;
        }
    }
    if ok { Ok(()) } else { Err(Fail::No) }
}

/// Shows the plan.
fn told(plan: &Plan, made: bool, out: &mut dyn Write) -> Result<(), Fail> {
    for edit in &plan.edits {
        for line in edit.diff().lines() {
            writeln!(out, "{}", line.split('\t').map(show::clean).collect::<Vec<_>>().join("\t"))?;
        }
    }
    for note in &plan.notes {
        writeln!(out, "note: {}", show::clean(note))?;
    }
    match (plan.edits.is_empty(), made) {
        (true, _) => writeln!(out, "already so: nothing to change")?,
        (false, true) => writeln!(out, "done")?,
        (false, false) => writeln!(out, "nothing was changed yet: add --apply")?,
    }
    Ok(())
}
