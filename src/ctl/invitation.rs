//! `toxctl invitation`: by what strangers can introduce themselves.

use std::io::{self, Write};

use clap::Subcommand;

use super::show::{clean, plural};
use super::{Cli, Fail, print};
use crate::control::api::{AskInvitation, Invitation};
use crate::control::client::Client;

/// What an invitation begins with.
pub(super) const PREFIX: &str = "toxmail-invite:";

#[derive(Subcommand)]
pub(super) enum InvitationCommand {
    /// Print the account's invitation, to be told to anybody or published
    Show,
    /// Make another one: the one before leads nowhere from now on
    Renew,
}

/// Runs the command.
pub(super) fn run(command: &InvitationCommand, cli: &Cli, client: &Client, out: &mut dyn Write) -> Result<(), Fail> {
    let renew = matches!(command, InvitationCommand::Renew);
    let invitation = client.invitation(&AskInvitation { account: cli.account.clone(), renew })?;
    if cli.json {
        print(out, &invitation)?
    } else {
        show(out, &invitation)?
    }
    Ok(())
}

fn show(out: &mut dyn Write, invitation: &Invitation) -> io::Result<()> {
    let (account, relays) = (clean(&invitation.account), plural(invitation.relays, "relay"));
    writeln!(out, "{}", clean(&invitation.text))?;
    writeln!(out, "Whoever has it can introduce himself to {account} by {relays} (toxctl request list); he says:")?;
    writeln!(out, "toxctl contact add INVITATION")
}
