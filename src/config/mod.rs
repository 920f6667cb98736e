//! The configuration: one TOML file → checked values.
//!
//! Owns the names, units, defaults and limits of all that can be configured, and what a user is told about a mistake.
//! Uses [`crate::mail`] for addresses, [`crate::identity`] for keys and [`crate::smtp::Destination`]; reads the file it is
//! given and passphrase files, looks at permission bits, and asks the system for its host name and for users by name.
//! `docs/examples/tox-agent.toml` shows every key.

mod error;
mod passphrase;
mod permissions;
mod raw;
mod reload;
pub mod units;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{ConfigError, Problem};
pub use passphrase::{Passphrase, PassphraseSource};
pub use permissions::{Permissions, permissions};
pub use reload::{Change, compare};

use crate::engine::trust::Policy;
use crate::identity::tox_id::PublicKey;
use crate::mail::address::Address;
use crate::mail::envelope::ForwardPath;
use crate::smtp::Destination;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/tox-agent/tox-agent.toml";
/// The control socket when the configuration names no other.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/tox-agent/control.sock";

/// The submission socket when the configuration names no other.
pub const DEFAULT_LMTP_SOCKET: &str = "/run/tox-agent/lmtp.sock";

/// The largest configuration file read, in octets.
const MAX_FILE: u64 = 4 << 20;

/// A whole configuration; every value has passed its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where queue and identities are kept; absolute.
    pub state_dir: PathBuf,
    /// How this host is named in trace headers and notices.
    pub hostname: String,
    /// The submission socket.
    pub lmtp: Lmtp,
    /// The control socket.
    pub control: Control,
    /// The log.
    pub log: Log,
    /// Waiting mail.
    pub queue: Queue,
    /// Incoming mail.
    pub delivery: Delivery,
    /// The Tox network.
    pub tox: Tox,
    /// The relay that this agent is for others.
    pub relay: Relay,
    /// Addresses that are looked up in the DNS.
    pub names: Names,
    /// At least one account; names, addresses and Maildirs occur once.
    pub accounts: Vec<Account>,
}

/// `[lmtp]`: the socket that takes mail from the MTA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lmtp {
    /// The Unix socket; absolute, at most 107 octets.
    pub socket: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Its group, a name or a number, looked up when the socket is bound.
    pub group: Option<String>,
    /// Who may submit besides root and the agent's own user; empty: whoever can open the socket.
    pub allow_users: Vec<User>,
    /// The largest mail taken, in octets.
    pub max_size: u64,
    /// The most recipients of one mail.
    pub max_recipients: usize,
    /// The most connections at once.
    pub max_connections: usize,
    /// How long a client may be silent.
    pub timeout: Duration,
}

/// `[control]`: the socket of toxctl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The Unix socket; absolute, at most 107 octets.
    pub socket: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Its group, a name or a number, looked up when the socket is bound.
    pub group: Option<String>,
    /// Who may manage the agent besides root and the agent's own user; empty: whoever can open the socket.
    pub allow_users: Vec<User>,
}

/// `[log]`: what is logged and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `error`, `warn`, `info` or `debug`.
    pub level: log::LevelFilter,
    /// To syslog, facility mail.
    pub syslog: bool,
    /// To standard error.
    pub stderr: bool,
}

/// `[queue]`: mail that waits for its recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// How long a mail waits before it bounces.
    pub expire: Duration,
    /// The shortest pause between two attempts.
    pub retry_min: Duration,
    /// The longest pause between two attempts; never less than `retry_min`.
    pub retry_max: Duration,
    /// After how long the sender is told that a mail still waits; zero: never.
    pub delay_notice: Duration,
    /// How long a contact must have been offline before mail to it goes to relays.
    pub relay_after: Duration,
    /// The MTA that takes notices by SMTP; without one they go into the account's own mailbox.
    pub notices: Option<Destination>,
    /// The most disk space waiting mail may take, in octets; never less than the largest mail.
    pub max_disk: u64,
}

/// `[delivery]`: mail that peers send us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The largest incoming mail, in octets.
    pub max_size: u64,
    /// The free disk space, in octets, below which peers are asked to try later.
    pub min_free: u64,
}

/// `[tox]`: how the Tox network is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tox {
    /// UDP as well as TCP relays; false where a proxy is set.
    pub udp: bool,
    /// IPv6 as well as IPv4.
    pub ipv6: bool,
    /// Peers on the local net are found by broadcast.
    pub lan_discovery: bool,
    /// The first and the last UDP port tried, both included.
    pub port_range: (u16, u16),
    /// The TCP port on which this agent serves others as a relay; 0: none.
    pub tcp_relay_port: u16,
    /// The proxy all traffic goes through; `tox.private` where that is set.
    pub proxy: Option<Proxy>,
    /// Whether nothing at all may go past the proxy (`tox.private`): no UDP, no port that listens, no broadcast, no query
    /// of the DNS. The other fields say so too, and the proxy is an IP address.
    pub private: bool,
    /// The nodes by which the network is entered.
    pub bootstrap: Vec<BootstrapNode>,
}

/// `[relay]`: where mail of others waits for who is offline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Whether this agent is one.
    pub enabled: bool,
    /// Whether anybody may have mail wait here, within `max_owners`; otherwise who has an invite.
    pub open: bool,
    /// Whether contacts are told of it, and get an invite if they want one.
    pub offer: bool,
    /// The most disk space for all that waits, in octets.
    pub max_disk: u64,
    /// The most for one owner whose invite says nothing else, in octets; never more than `max_disk`.
    pub owner_quota: u64,
    /// The most owners of an open relay.
    pub max_owners: usize,
    /// How long mail waits, in whole seconds.
    pub retention: Duration,
}

/// `[names]`: addresses looked up in the DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Whether names are looked up at all; false where a proxy is set, which DNS queries would go past.
    pub lookup: bool,
    /// The DNS servers asked; empty: those of `/etc/resolv.conf`.
    pub resolver: Vec<SocketAddr>,
    /// A file with the DNSKEY records of the root to trust in place of the built-in ones; absolute.
    pub trust_anchor: Option<PathBuf>,
    /// How long one query may take.
    pub timeout: Duration,
    /// What to do about answers that DNSSEC does not prove, and about new names.
    pub policy: Policy,
    /// Whose friend requests are accepted without asking.
    pub incoming: Incoming,
    /// How often pinned names are looked up again; zero: only when asked to.
    pub refresh: Duration,
    /// Whether `toxme.se` and `toxme.io` may be asked.
    pub allow_toxme: bool,
    /// Keys of domains.
    pub domains: Vec<DomainKeys>,
}

/// Whose friend requests are accepted without asking (`names.incoming`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Nobody's: the operator answers each.
    Ask,
    /// Of those whose address leads, proved by DNSSEC, to the key that asks.
    Verified,
    /// Everybody's.
    All,
}

/// `[[names.domain]]`: what the operator knows of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainKeys {
    /// The domain, in lower case; unique.
    pub name: String,
    /// X25519 key of its tox3 server: its names are asked by encrypted queries.
    pub tox3_key: Option<[u8; 32]>,
    /// Ed25519 key that its records must be signed with.
    pub sign_key: Option<[u8; 32]>,
}

/// A proxy without user name and password: libtoxcore knows none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The protocol spoken to it.
    pub kind: ProxyKind,
    /// A host name or IP address, at most 255 octets.
    pub host: String,
    /// Its TCP port, not 0.
    pub port: u16,
}

/// The protocol of a [`Proxy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// `socks5://` (Tor, for example)
    Socks5,
    /// `http://`, by CONNECT
    Http,
}

/// `[[tox.bootstrap]]`: a node of the Tox network with a known key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapNode {
    /// A host name or IP address, at most 255 octets.
    pub host: String,
    /// Its UDP port, not 0.
    pub port: u16,
    /// Its key.
    pub key: PublicKey,
    /// TCP ports on which it serves as a relay.
    pub tcp_ports: Vec<u16>,
}

/// `[[account]]`: one Tox identity and its default mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// 1 to 64 of `a-z0-9_-`; unique.
    pub name: String,
    /// Addresses peers may write to, besides the forms made of the key; never of the `tox` domains.
    pub addresses: Vec<Address>,
    /// Further envelope senders of local mail that belong to this account.
    pub senders: Vec<Address>,
    /// The way of its mail.
    pub way: Way,
    /// Where the passphrase of the savedata is.
    pub passphrase: Option<PassphraseSource>,
    /// Further mailboxes under the same Tox identity.
    pub mailboxes: Vec<Mailbox>,
    /// At which relays its mail may wait while it is offline.
    pub relays: Relays,
    /// Whether whoever deposits mail at relays is told by them that it was stored.
    pub receipts: bool,
    /// The longest a receipt is kept back, at random, before it goes to relays.
    pub receipt_delay: Duration,
    /// The mean pause between two looks at a relay that has announced nothing.
    pub relay_poll: Duration,
}

/// At which relays mail for an account may wait (`relays`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relays {
    /// Up to three: those told by `toxctl relay use`, then those that contacts offer.
    Auto,
    /// Only those told by `toxctl relay use`.
    Own,
    /// At none.
    None,
}

/// `[[account.mailbox]]`: a further mailbox of an account, also reachable as `name@<key>.tox.alt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// 1 to 64 of `a-z0-9_-`; unique in its account and not the account's name.
    pub name: String,
    /// Addresses peers may write to.
    pub addresses: Vec<Address>,
    /// The way of its mail.
    pub way: Way,
}

/// `deliver`: which way incoming mail goes to its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// `"maildir"`: written into a Maildir by the agent; absolute, unique.
    Maildir(PathBuf),
    /// `"lmtp:PATH"` or `"smtp:HOST:PORT"`: handed on to a server.
    Server {
        /// Which.
        destination: Destination,
        /// `deliver_to`: whom the server is told.
        recipient: ForwardPath,
    },
}

impl Tox {
    /// Whether names of hosts may be looked up: the query would go past a proxy.
    pub fn resolves(&self) -> bool {
        self.proxy.is_none()
    }

    /// The bootstrap nodes that cannot be used: they have a name, and no name is looked up.
    pub fn unusable_nodes(&self) -> impl Iterator<Item = &BootstrapNode> {
        let named = |node: &&BootstrapNode| node.host.parse::<IpAddr>().is_err();
        self.bootstrap.iter().filter(move |node| !self.resolves() && named(node))
    }
}

impl Way {
    /// Whether mail goes to a server that may send it on.
    pub fn is_relay(&self) -> bool {
        matches!(self, Self::Server { destination: Destination::Smtp { .. }, .. })
    }

    /// The Maildir, where there is one.
    pub fn maildir(&self) -> Option<&Path> {
        match self {
            Self::Maildir(path) => Some(path),
            Self::Server { .. } => None,
        }
    }

    /// The server's Unix socket, where it has one.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Server { destination: Destination::Lmtp(socket), .. } => Some(socket),
            Self::Server { .. } | Self::Maildir(_) => None,
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Maildir(path) => path.display().fmt(f),
            Self::Server { destination, recipient } => write!(f, "{destination} for <{recipient}>"),
        }
    }
}

/// A local user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By login name.
    Name(String),
    /// By number.
    Uid(u32),
}

impl User {
    /// The user's number.
    ///
    /// # Errors
    /// The system knows no user of that name, or cannot be asked.
    pub fn uid(&self) -> io::Result<u32> {
        match self {
            Self::Uid(uid) => Ok(*uid),
            Self::Name(name) => match nix::unistd::User::from_name(name) {
                Ok(Some(user)) => Ok(user.uid.as_raw()),
                Ok(None) => Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no user `{name}`"))),
                Err(errno) => Err(errno.into()),
            },
        }
    }
}

/// Reads and checks the configuration file at `path`. Opens nothing that the file names.
///
/// # Errors
/// The file cannot be read, is no TOML, has an unknown key, or values that cannot be; all that is found wrong is told.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let fail = |text: String| ConfigError::of_file(path, text);
    let size = std::fs::metadata(path).map_err(|error| fail(format!("cannot read the configuration: {error}")))?.len();
    if size > MAX_FILE {
        return Err(fail(format!("a configuration of {size} octets is too large")));
    }
    let octets = std::fs::read(path).map_err(|error| fail(format!("cannot read the configuration: {error}")))?;
    let text = String::from_utf8(octets).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&o| o == b'\n').count();
        ConfigError::new(vec![Problem { file: path.to_owned(), line: Some(line), text: "this is not UTF-8".into() }])
    })?;
    parse(&text, path)
}

/// Checks `text`, a configuration that stands (or would stand) in the file `origin`, which is only named in errors.
///
/// # Errors
/// As [`load`], without those of reading.
pub fn parse(text: &str, origin: &Path) -> Result<Config, ConfigError> {
    raw::parse(text, origin)
}

#[cfg(test)]
mod tests;
