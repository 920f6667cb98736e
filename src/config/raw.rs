//! The file as it is written, and the checks that make a [`Config`] of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problems};
use super::{
    Account, BootstrapNode, Config, Control, DEFAULT_CONTROL_SOCKET, DEFAULT_LMTP_SOCKET, Delivery, DomainKeys,
    Incoming, Lmtp, Log, Mailbox, Names, PassphraseSource, Proxy, ProxyKind, Queue, Relay, Relays, Tox, User, Way,
    units,
};
use crate::engine::trust::{Outgoing, Policy, Unsigned};
use crate::identity::tox_id::PublicKey;
use crate::mail::address::Address;
use crate::mail::envelope::ForwardPath;
use crate::smtp::Destination;

/// A value that may be left out and whose line is known.
type Given<T> = Option<Spanned<T>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    state_dir: Given<String>,
    hostname: Given<String>,
    #[serde(default)]
    lmtp: RawLmtp,
    #[serde(default)]
    control: RawControl,
    #[serde(default)]
    log: RawLog,
    #[serde(default)]
    queue: RawQueue,
    #[serde(default)]
    delivery: RawDelivery,
    #[serde(default)]
    tox: RawTox,
    #[serde(default)]
    relay: RawRelay,
    #[serde(default)]
    names: RawNames,
    #[serde(default)]
    account: Vec<Spanned<RawAccount>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLmtp {
    socket: Given<String>,
    mode: Given<String>,
    group: Given<Scalar>,
    #[serde(default)]
    allow_users: Vec<Spanned<Scalar>>,
    max_size: Given<Scalar>,
    max_recipients: Given<i64>,
    max_connections: Given<i64>,
    timeout: Given<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawControl {
    socket: Given<String>,
    mode: Given<String>,
    group: Given<Scalar>,
    #[serde(default)]
    allow_users: Vec<Spanned<Scalar>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLog {
    level: Given<String>,
    syslog: Option<bool>,
    stderr: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawQueue {
    expire: Given<String>,
    retry_min: Given<String>,
    retry_max: Given<String>,
    delay_notice: Given<String>,
    relay_after: Given<String>,
    notices: Given<String>,
    max_disk: Given<Scalar>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawDelivery {
    max_size: Given<Scalar>,
    min_free: Given<Scalar>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawTox {
    udp: Given<bool>,
    ipv6: Option<bool>,
    lan_discovery: Given<bool>,
    port_range: Given<[i64; 2]>,
    tcp_relay_port: Given<i64>,
    proxy: Given<String>,
    private: Given<String>,
    #[serde(default)]
    bootstrap: Vec<RawBootstrap>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBootstrap {
    host: Spanned<String>,
    port: Spanned<i64>,
    key: Spanned<String>,
    #[serde(default)]
    tcp_ports: Vec<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawRelay {
    enabled: Option<bool>,
    open: Option<bool>,
    offer: Given<String>,
    max_disk: Given<Scalar>,
    owner_quota: Given<Scalar>,
    max_owners: Given<i64>,
    retention: Given<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawNames {
    lookup: Given<bool>,
    #[serde(default)]
    resolver: Vec<Spanned<String>>,
    trust_anchor: Given<String>,
    timeout: Given<String>,
    unsigned: Given<String>,
    outgoing: Given<String>,
    incoming: Given<String>,
    refresh: Given<String>,
    allow_toxme: Option<bool>,
    #[serde(default)]
    domain: Vec<RawDomain>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDomain {
    name: Spanned<String>,
    tox3_key: Given<String>,
    sign_key: Given<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccount {
    name: Spanned<String>,
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    #[serde(default)]
    senders: Vec<Spanned<String>>,
    deliver: Given<String>,
    deliver_to: Given<String>,
    maildir: Given<String>,
    passphrase_file: Given<String>,
    passphrase_credential: Given<String>,
    relays: Given<String>,
    receipts: Option<bool>,
    receipt_delay: Given<String>,
    relay_poll: Given<String>,
    #[serde(default)]
    mailbox: Vec<RawMailbox>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMailbox {
    name: Spanned<String>,
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    deliver: Given<String>,
    deliver_to: Given<String>,
    maildir: Given<String>,
}

/// The keys that say which way mail goes.
struct RawWay {
    deliver: Given<String>,
    deliver_to: Given<String>,
    maildir: Given<String>,
}

/// A number or a text.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a whole number or a text in quotes")]
enum Scalar {
    Number(i64),
    Text(String),
}

pub(super) fn parse(text: &str, origin: &Path) -> Result<Config, ConfigError> {
    let mut problems = Problems::new(text, origin);
    match toml::from_str::<RawConfig>(text) {
        Ok(raw) => {
            let config = Checker { problems: &mut problems }.config(raw);
            problems.finish(config)
        }
        Err(error) => {
            let told = unknown_key(text, &error).unwrap_or_else(|| error.message().trim().replace('\n', "; "));
            problems.add(error.span(), told);
            Err(problems.finish(()).err().unwrap_or_else(|| ConfigError::of_file(origin, error.message())))
        }
    }
}

/// Rewrites serde's "unknown field `x`, expected one of `a`, `b`" for the user: the section it is in and the nearest
/// name.
fn unknown_key(text: &str, error: &toml::de::Error) -> Option<String> {
    let mut quoted = error.message().strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let key = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    let mut told = format!("unknown key `{}`", key.escape_debug());
    let section = DeTable::parse(text).ok().and_then(|table| section_of(table.get_ref(), &error.span()?, ""));
    if let Some(section) = section.filter(|section| !section.is_empty()) {
        told += &format!(" in {section}");
    }
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, key), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((_, name)) => told += &format!("; did you mean `{name}`?"),
        None if !known.is_empty() => told += &format!("; known here: {}", known.join(", ")),
        None => {}
    }
    Some(told)
}

/// The section, as its header is written, that holds the key at `span`; empty for the top of the file.
fn section_of(table: &DeTable<'_>, span: &Range<usize>, path: &str) -> Option<String> {
    let header = |brackets: usize| {
        if path.is_empty() { String::new() } else { format!("{}{path}{}", "[".repeat(brackets), "]".repeat(brackets)) }
    };
    for (key, value) in table {
        if key.span() == *span {
            return Some(header(1));
        }
        let name = key.get_ref().as_ref();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let found = match value.get_ref() {
            DeValue::Table(inner) => section_of(inner, span, &path),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                // Only the innermost header counts, and only there the doubled brackets of an array of tables.
                DeValue::Table(inner) => section_of(inner, span, &path)
                    .map(|found| if found == format!("[{path}]") { format!("[{found}]") } else { found }),
                _ => None,
            }),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

struct Checker<'a, 'b> {
    problems: &'a mut Problems<'b>,
}

/// What must occur only once, and where it occurred first.
#[derive(Default)]
struct Seen {
    names: BTreeMap<String, usize>,
    /// Of each address: its line, and whose it is (account and mailbox).
    addresses: BTreeMap<(String, String), (usize, String)>,
    maildirs: BTreeMap<PathBuf, usize>,
    /// `lmtp.socket`: mail handed to it would go round in a circle.
    own_socket: PathBuf,
    /// `tox.private`: no name of a host may be looked up.
    private: bool,
}

impl Checker<'_, '_> {
    /// The checked value, or `default` where none is given or (which is noted) a wrong one.
    fn take<T, U>(&mut self, given: Given<T>, default: U, check: impl FnOnce(T) -> Result<U, String>) -> U {
        given.and_then(|value| self.require(value, check)).unwrap_or(default)
    }

    fn require<T, U>(&mut self, value: Spanned<T>, check: impl FnOnce(T) -> Result<U, String>) -> Option<U> {
        let span = value.span();
        match check(value.into_inner()) {
            Ok(value) => Some(value),
            Err(text) => {
                self.problems.add(Some(span), text);
                None
            }
        }
    }

    fn config(&mut self, raw: RawConfig) -> Config {
        let lmtp = self.lmtp(raw.lmtp);
        let private = raw.tox.private.is_some();
        let queue = self.queue(raw.queue, lmtp.max_size, private);
        Config {
            state_dir: self.take(raw.state_dir, "/var/lib/tox-agent".into(), |p| absolute("state_dir", &p)),
            hostname: match raw.hostname {
                Some(name) => self.require(name, |name| hostname(&name)).unwrap_or_default(),
                None => system_hostname(),
            },
            control: self.control(raw.control, &lmtp.socket),
            log: self.log(raw.log),
            delivery: Delivery {
                max_size: self.take(raw.delivery.max_size, 50 << 20, |s| mail_size("delivery.max_size", &s)),
                min_free: self.take(raw.delivery.min_free, 64 << 20, |s| octets("delivery.min_free", &s, 0, 1 << 50)),
            },
            names: self.names(raw.names, raw.tox.proxy.is_some(), private),
            tox: self.tox(raw.tox),
            relay: self.relay(raw.relay),
            accounts: self.accounts(raw.account, &lmtp.socket, private),
            lmtp,
            queue,
        }
    }

    fn lmtp(&mut self, raw: RawLmtp) -> Lmtp {
        Lmtp {
            socket: self.take(raw.socket, DEFAULT_LMTP_SOCKET.into(), |p| socket("lmtp.socket", &p)),
            mode: self.take(raw.mode, 0o660, |m| mode("lmtp.mode", &m)),
            group: self.take(raw.group, None, |g| group("lmtp.group", g).map(Some)),
            allow_users: self.users("lmtp.allow_users", raw.allow_users),
            max_size: self.take(raw.max_size, 50 << 20, |s| mail_size("lmtp.max_size", &s)),
            max_recipients: self.take(raw.max_recipients, 100, |n| count("lmtp.max_recipients", n, 10_000)),
            max_connections: self.take(raw.max_connections, 100, |n| count("lmtp.max_connections", n, 10_000)),
            timeout: self.take(raw.timeout, Duration::from_secs(300), |t| span("lmtp.timeout", &t, 1, 86_400)),
        }
    }

    fn control(&mut self, raw: RawControl, lmtp_socket: &Path) -> Control {
        Control {
            socket: self.take(raw.socket, DEFAULT_CONTROL_SOCKET.into(), |p| {
                let path = socket("control.socket", &p)?;
                if path == lmtp_socket { Err("control.socket is the same as lmtp.socket".into()) } else { Ok(path) }
            }),
            mode: self.take(raw.mode, 0o660, |m| mode("control.mode", &m)),
            group: self.take(raw.group, None, |g| group("control.group", g).map(Some)),
            allow_users: self.users("control.allow_users", raw.allow_users),
        }
    }

    fn log(&mut self, raw: RawLog) -> Log {
        Log {
            level: self.take(raw.level, LevelFilter::Info, |level| match level.as_str() {
                "error" => Ok(LevelFilter::Error),
                "warn" => Ok(LevelFilter::Warn),
                "info" => Ok(LevelFilter::Info),
                "debug" => Ok(LevelFilter::Debug),
                _ => Err("log.level is one of \"error\", \"warn\", \"info\", \"debug\"".into()),
            }),
            syslog: raw.syslog.unwrap_or(true),
            stderr: raw.stderr.unwrap_or(true),
        }
    }

    fn queue(&mut self, raw: RawQueue, largest: u64, private: bool) -> Queue {
        const YEAR: u64 = 365 * 86_400;
        let retry_max = raw.retry_max.as_ref().map(Spanned::span);
        let max_disk = raw.max_disk.as_ref().map(Spanned::span);
        let retry_min_span = raw.retry_min.as_ref().map(Spanned::span);
        let queue = Queue {
            expire: self.take(raw.expire, Duration::from_secs(5 * 86_400), |t| span("queue.expire", &t, 60, YEAR)),
            retry_min: self.take(raw.retry_min, Duration::from_secs(60), |t| span("queue.retry_min", &t, 1, 86_400)),
            retry_max: self.take(raw.retry_max, Duration::from_secs(3600), |t| span("queue.retry_max", &t, 1, YEAR)),
            delay_notice: self.take(raw.delay_notice, Duration::from_secs(4 * 3600), |t| match units::duration(&t) {
                Ok(never) if never.is_zero() => Ok(never),
                _ => span("queue.delay_notice", &t, 1, YEAR),
            }),
            relay_after: self
                .take(raw.relay_after, Duration::from_secs(60), |t| span("queue.relay_after", &t, 0, YEAR)),
            notices: self.take(raw.notices, None, |text| match (text.as_str(), text.parse::<Destination>()) {
                ("mailbox", _) => Ok(None),
                (_, Ok(mta @ Destination::Smtp { .. })) => unnamed("queue.notices", mta, private).map(Some),
                _ => Err("queue.notices is \"mailbox\", or the MTA that takes them, as \"smtp:127.0.0.1:25\"".into()),
            }),
            max_disk: self.take(raw.max_disk, 10 << 30, |s| octets("queue.max_disk", &s, 1 << 20, 1 << 50)),
        };
        if queue.retry_min > queue.retry_max {
            self.problems.add(retry_max.or(retry_min_span), "queue.retry_max is shorter than queue.retry_min");
        }
        if queue.max_disk < largest {
            self.problems.add(max_disk, "queue.max_disk is smaller than lmtp.max_size: the largest mail would not fit");
        }
        queue
    }

    fn tox(&mut self, raw: RawTox) -> Tox {
        let udp_span = raw.udp.as_ref().map(Spanned::span);
        let proxy_span = raw.proxy.as_ref().map(Spanned::span);
        let private = raw.private.is_some();
        if private {
            let relay_port = raw.tcp_relay_port.as_ref().filter(|port| *port.get_ref() != 0);
            let on = |key: &Given<bool>| key.as_ref().filter(|key| *key.get_ref()).map(Spanned::span);
            for (span, text) in [
                (on(&raw.udp), "tox.udp: UDP would go past the proxy"),
                (on(&raw.lan_discovery), "tox.lan_discovery: the local net would hear of this host"),
                (relay_port.map(Spanned::span), "tox.tcp_relay_port: others would connect to this host's address"),
                (proxy_span.clone(), "tox.proxy: tox.private is the proxy"),
            ] {
                if span.is_some() {
                    self.problems.add(span, format!("{text}; remove it, or tox.private"));
                }
            }
        }
        let udp = raw.udp.map_or(!private, Spanned::into_inner);
        if udp && proxy_span.is_some() && !private {
            let text = "with a proxy, tox.udp must be false: UDP would go past the proxy and show this host's address";
            self.problems.add(udp_span.or(proxy_span), text);
        }
        Tox {
            udp,
            ipv6: raw.ipv6.unwrap_or(true),
            lan_discovery: raw.lan_discovery.map_or(!private, Spanned::into_inner),
            port_range: self.take(raw.port_range, (33445, 33545), |[first, last]| {
                let (first, last) = (port("tox.port_range", first)?, port("tox.port_range", last)?);
                if first <= last {
                    Ok((first, last))
                } else {
                    Err("tox.port_range is [first, last], first ≤ last".into())
                }
            }),
            tcp_relay_port: self
                .take(raw.tcp_relay_port, 0, |n| if n == 0 { Ok(0) } else { port("tox.tcp_relay_port", n) }),
            proxy: match raw.private {
                Some(private) => self.require(private, |text| private_proxy(&text)),
                None => self.take(raw.proxy, None, |text| proxy("tox.proxy", &text).map(Some)),
            },
            private,
            bootstrap: raw.bootstrap.into_iter().filter_map(|node| self.bootstrap(node)).collect(),
        }
    }

    fn relay(&mut self, raw: RawRelay) -> Relay {
        let quota_span = raw.owner_quota.as_ref().or(raw.max_disk.as_ref()).map(Spanned::span);
        let relay = Relay {
            enabled: raw.enabled.unwrap_or(false),
            open: raw.open.unwrap_or(false),
            offer: self.take(raw.offer, false, |word| match word.as_str() {
                "contacts" => Ok(true),
                "none" => Ok(false),
                _ => Err("relay.offer is \"contacts\" or \"none\"".into()),
            }),
            max_disk: self.take(raw.max_disk, 1 << 30, |s| octets("relay.max_disk", &s, 4 << 20, 1 << 50)),
            owner_quota: self.take(raw.owner_quota, 100 << 20, |s| octets("relay.owner_quota", &s, 4 << 20, 1 << 50)),
            max_owners: self.take(raw.max_owners, 100, |n| count("relay.max_owners", n, 10_000)),
            retention: self.take(raw.retention, Duration::from_secs(30 * 86_400), |t| {
                span("relay.retention", &t, 3600, 365 * 86_400)
            }),
        };
        if relay.owner_quota > relay.max_disk {
            self.problems
                .add(quota_span, "relay.owner_quota is larger than relay.max_disk: one owner could not have it");
        }
        relay
    }

    fn names(&mut self, raw: RawNames, proxy: bool, private: bool) -> Names {
        let span_of_lookup = raw.lookup.as_ref().map(Spanned::span);
        let lookup = raw.lookup.map_or(!proxy && !private, Spanned::into_inner);
        if lookup && private {
            let text = "names.lookup: DNS queries would go past the proxy; remove it, or tox.private";
            self.problems.add(span_of_lookup, text);
        } else if lookup && proxy {
            let text = "with a proxy, names.lookup must be false: DNS queries would go past the proxy";
            self.problems.add(span_of_lookup, text);
        }
        let mut domains: Vec<DomainKeys> = Vec::new();
        for domain in raw.domain {
            let name = self.require(domain.name, |name| {
                let name = hostname(&name).map_err(|_| "names.domain.name is a domain, as in \"example.org\"")?;
                if domains.iter().any(|other| other.name == name) {
                    return Err(format!("names.domain: `{name}` is there twice"));
                }
                Ok(name)
            });
            let tox3_key = self.take(domain.tox3_key, None, |key| octets32("names.domain.tox3_key", &key).map(Some));
            let sign_key = self.take(domain.sign_key, None, |key| octets32("names.domain.sign_key", &key).map(Some));
            domains.extend(name.map(|name| DomainKeys { name, tox3_key, sign_key }));
        }
        Names {
            lookup,
            resolver: raw.resolver.into_iter().filter_map(|at| self.require(at, |at| server(&at))).collect(),
            trust_anchor: self.take(raw.trust_anchor, None, |p| absolute("names.trust_anchor", &p).map(Some)),
            timeout: self.take(raw.timeout, Duration::from_secs(5), |t| span("names.timeout", &t, 1, 60)),
            policy: Policy {
                unsigned: self.take(raw.unsigned, Unsigned::Ask, |word| match word.as_str() {
                    "ask" => Ok(Unsigned::Ask),
                    "tofu" => Ok(Unsigned::Tofu),
                    "refuse" => Ok(Unsigned::Refuse),
                    _ => Err("names.unsigned is one of \"ask\", \"tofu\", \"refuse\"".into()),
                }),
                outgoing: self.take(raw.outgoing, Outgoing::Auto, |word| match word.as_str() {
                    "auto" => Ok(Outgoing::Auto),
                    "ask" => Ok(Outgoing::Ask),
                    _ => Err("names.outgoing is \"auto\" or \"ask\"".into()),
                }),
            },
            incoming: self.take(raw.incoming, Incoming::Ask, |word| match word.as_str() {
                "ask" => Ok(Incoming::Ask),
                "verified" => Ok(Incoming::Verified),
                "all" => Ok(Incoming::All),
                _ => Err("names.incoming is one of \"ask\", \"verified\", \"all\"".into()),
            }),
            refresh: self.take(raw.refresh, Duration::from_secs(86_400), |t| match units::duration(&t) {
                Ok(never) if never.is_zero() => Ok(never),
                _ => span("names.refresh", &t, 3600, 365 * 86_400),
            }),
            allow_toxme: raw.allow_toxme.unwrap_or(false),
            domains,
        }
    }

    fn bootstrap(&mut self, raw: RawBootstrap) -> Option<BootstrapNode> {
        let host = self.require(raw.host, |text| host("tox.bootstrap.host", &text));
        let udp = self.require(raw.port, |n| port("tox.bootstrap.port", n));
        let key = self.require(raw.key, |text| {
            text.parse::<PublicKey>()
                .map_err(|_| "tox.bootstrap.key is the node's key of 64 hexadecimal digits".to_owned())
        });
        let ports = raw.tcp_ports.into_iter().filter_map(|n| self.require(n, |n| port("tox.bootstrap.tcp_ports", n)));
        let tcp_ports = ports.collect();
        Some(BootstrapNode { host: host?, port: udp?, key: key?, tcp_ports })
    }

    fn users(&mut self, key: &str, raw: Vec<Spanned<Scalar>>) -> Vec<User> {
        let check = |user| match user {
            Scalar::Number(n) => u32::try_from(n).map(User::Uid).map_err(|_| format!("{key}: {n} is no user number")),
            Scalar::Text(name) if !plain_name(&name) => Err(format!("{key}: a user is a login name or a number")),
            Scalar::Text(name) => Ok(name.parse().map(User::Uid).unwrap_or(User::Name(name))),
        };
        raw.into_iter().filter_map(|user| self.require(user, check)).collect()
    }

    fn accounts(&mut self, raw: Vec<Spanned<RawAccount>>, own_socket: &Path, private: bool) -> Vec<Account> {
        if raw.is_empty() {
            self.problems.add(None, "no account: write at least one [[account]] with a name and a maildir");
        }
        let mut seen = Seen { own_socket: own_socket.to_owned(), private, ..Seen::default() };
        raw.into_iter().filter_map(|account| self.account(account.into_inner(), &mut seen)).collect()
    }

    fn account(&mut self, raw: RawAccount, seen: &mut Seen) -> Option<Account> {
        let name_span = raw.name.span();
        let line = self.problems.line(name_span.start);
        let named = self.require(raw.name, |name| {
            account_name("an account's name", &name)?;
            match seen.names.insert(name.clone(), line) {
                Some(first) => Err(format!("the account `{name}` is already at line {first}")),
                None => Ok(name),
            }
        });
        let label = named.clone().unwrap_or_else(|| format!("line {line}"));
        let owner = format!("account `{label}`");
        let addresses = self.addresses("addresses", raw.addresses, &owner, None, seen);
        let senders = self.addresses("senders", raw.senders, &owner, Some(&owner), seen);
        let own = RawWay { deliver: raw.deliver, deliver_to: raw.deliver_to, maildir: raw.maildir };
        let way = self.way(own, &owner, name_span, None, seen);
        let file = self.take(raw.passphrase_file, None, |p| absolute("passphrase_file", &p).map(Some));
        let also = file.is_some();
        let credential = self.take(raw.passphrase_credential, None, |name| credential(name, also).map(Some));
        let passphrase = credential.map(PassphraseSource::Credential).or(file.map(PassphraseSource::File));
        let relays = self.take(raw.relays, Relays::Auto, |word| match word.as_str() {
            "auto" => Ok(Relays::Auto),
            "own" => Ok(Relays::Own),
            "none" => Ok(Relays::None),
            _ => Err("relays is one of \"auto\", \"own\", \"none\"".into()),
        });
        let receipt_delay = self.take(raw.receipt_delay, Duration::ZERO, |t| span("receipt_delay", &t, 0, 86_400));
        let relay_poll = self.take(raw.relay_poll, Duration::from_secs(600), |t| span("relay_poll", &t, 1, 86_400));
        let mut names = BTreeMap::new();
        let mut mailboxes = Vec::new();
        for mailbox in raw.mailbox {
            let span = mailbox.name.span();
            let line = self.problems.line(span.start);
            let name = self.require(mailbox.name, |name| {
                account_name("a mailbox's name", &name)?;
                if named.as_ref() == Some(&name) {
                    return Err(format!(
                        "the mailbox `{name}` is named like its account, whose own mailbox is the default"
                    ));
                }
                match names.insert(name.clone(), line) {
                    Some(first) => Err(format!("the mailbox `{name}` is already at line {first}")),
                    None => Ok(name),
                }
            });
            let owner = format!("mailbox `{}` of {owner}", name.as_deref().unwrap_or("?"));
            let addresses = self.addresses("addresses", mailbox.addresses, &owner, None, seen);
            let own = RawWay { deliver: mailbox.deliver, deliver_to: mailbox.deliver_to, maildir: mailbox.maildir };
            let way = self.way(own, &owner, span, way.as_ref(), seen);
            if let (Some(name), Some(way)) = (name, way) {
                mailboxes.push(Mailbox { name, addresses, way });
            }
        }
        Some(Account {
            name: named?,
            addresses,
            senders,
            way: way?,
            passphrase,
            mailboxes,
            relays,
            receipts: raw.receipts.unwrap_or(true),
            receipt_delay,
            relay_poll,
        })
    }

    /// `shared` is an owner whose other list may hold the same address: an address of an account is its sender anyway.
    fn addresses(
        &mut self,
        key: &str,
        raw: Vec<Spanned<String>>,
        owner: &str,
        shared: Option<&str>,
        seen: &mut Seen,
    ) -> Vec<Address> {
        let mut list: Vec<Address> = Vec::new();
        for given in raw {
            let line = self.problems.line(given.span().start);
            let address = self.require(given, |text| {
                let address: Address =
                    text.parse().map_err(|error| format!("{key}: `{}`: {error}", text.escape_debug()))?;
                if ["tox", "tox.alt"].contains(&address.domain()) || address.domain().ends_with(".tox.alt") {
                    return Err(format!(
                        "{key}: `{address}`: the key's addresses at tox.alt belong to the account unlisted"
                    ));
                }
                if list.iter().any(|other| other.matches(&address)) {
                    return Err(format!("{key}: `{address}` is listed twice"));
                }
                let place = (address.domain().to_owned(), address.local().to_ascii_lowercase());
                if let Some((first, theirs)) = seen.addresses.get(&place) {
                    if Some(theirs.as_str()) != shared {
                        return Err(format!("{key}: `{address}` already belongs to {theirs} (line {first})"));
                    }
                } else {
                    seen.addresses.insert(place, (line, owner.to_owned()));
                }
                Ok(address)
            });
            list.extend(address);
        }
        list
    }

    /// The way of the mail of `owner`, whose name stands at `span`. `account` is that of the account of a mailbox, which
    /// is the mailbox's too where it says nothing.
    fn way(
        &mut self,
        raw: RawWay,
        owner: &str,
        span: Range<usize>,
        account: Option<&Way>,
        seen: &mut Seen,
    ) -> Option<Way> {
        let inherited = match account {
            Some(Way::Server { destination, .. }) => Some(destination.clone()),
            Some(Way::Maildir(_)) | None => None,
        };
        let destination = match raw.deliver {
            None => inherited,
            Some(deliver) => self.require(deliver, |text| match text.as_str() {
                "maildir" => Ok(None),
                _ => match text.parse::<Destination>() {
                    Ok(Destination::Lmtp(path)) if path == seen.own_socket => {
                        Err("deliver: this is lmtp.socket, by which mail goes out: it would go round".to_owned())
                    }
                    Ok(destination) => unnamed("deliver", destination, seen.private).map(Some),
                    Err(error) => Err(format!(
                        "deliver: `{}`: {error}; it is \"maildir\", \"lmtp:/path\" or \"smtp:host:port\"",
                        text.escape_debug()
                    )),
                },
            })?,
        };
        let recipient = self.take(raw.deliver_to, None, |text| {
            let path: Result<ForwardPath, _> = text.parse();
            path.map(Some).map_err(|error| format!("deliver_to: `{}`: {error}", text.escape_debug()))
        });
        match (destination, raw.maildir) {
            (None, Some(maildir)) => {
                if recipient.is_some() {
                    self.problems.add(Some(span), format!("{owner}: deliver_to is for lmtp: and smtp: only"));
                }
                self.maildir(maildir, seen).map(Way::Maildir)
            }
            (None, None) => {
                self.problems.add(Some(span), format!("{owner} has no maildir, which deliver = \"maildir\" needs"));
                None
            }
            (Some(destination), None) => {
                // A guess that is wrong would return all mail.
                if recipient.is_none() {
                    let text = format!("{owner}: {destination} needs deliver_to, the user or address that it knows");
                    self.problems.add(Some(span), text);
                }
                Some(Way::Server { destination, recipient: recipient? })
            }
            (Some(destination), Some(maildir)) => {
                let text = format!("maildir: mail of {owner} goes to {destination}; remove it, or set deliver");
                self.problems.add(Some(maildir.span()), text);
                None
            }
        }
    }

    fn maildir(&mut self, raw: Spanned<String>, seen: &mut Seen) -> Option<PathBuf> {
        let line = self.problems.line(raw.span().start);
        self.require(raw, |text| {
            let path = absolute("maildir", &text)?;
            match seen.maildirs.insert(path.clone(), line) {
                Some(first) => Err(format!("maildir: {} is already used at line {first}", path.display())),
                None => Ok(path),
            }
        })
    }
}

/// An absolute path without `..`, and without needless `.` and slashes so that equal places are equal paths.
fn absolute(key: &str, text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!("{key}: `{}` is no absolute path (one that begins with /)", text.escape_debug()));
    }
    if text.chars().any(char::is_control) || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{key}: `{}` has `..` or control characters in it", text.escape_debug()));
    }
    Ok(path.components().collect())
}

/// sockaddr_un takes 107 octets and the final zero.
fn socket(key: &str, text: &str) -> Result<PathBuf, String> {
    let path = absolute(key, text)?;
    if path.as_os_str().len() > 107 {
        return Err(format!("{key} is longer than the 107 octets a Unix socket's path may have"));
    }
    Ok(path)
}

fn mode(key: &str, text: &str) -> Result<u32, String> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err(format!("{key} is a file mode of octal digits, as in \"0660\"")),
    }
}

/// The name of a credential, as systemd.exec(5) has it: that of a file.
fn credential(name: String, also_file: bool) -> Result<String, String> {
    if also_file {
        return Err("passphrase_credential: there is a passphrase_file already".into());
    }
    if plain_name(&name) && !name.starts_with('.') {
        return Ok(name);
    }
    Err(format!("passphrase_credential: `{}` is no name of a credential", name.escape_debug()))
}

fn plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.chars().any(|c| c.is_control() || c.is_whitespace() || "/:".contains(c))
}

fn group(key: &str, raw: Scalar) -> Result<String, String> {
    let wrong = || format!("{key} is a group's name or number");
    match raw {
        Scalar::Number(n) => u32::try_from(n).map(|n| n.to_string()).map_err(|_| wrong()),
        Scalar::Text(name) if plain_name(&name) => Ok(name),
        Scalar::Text(_) => Err(wrong()),
    }
}

fn octets(key: &str, raw: &Scalar, least: u64, most: u64) -> Result<u64, String> {
    let octets = match raw {
        Scalar::Number(n) => u64::try_from(*n).map_err(|_| format!("{key}: a size is not negative"))?,
        Scalar::Text(text) => units::size(text).map_err(|error| format!("{key}: {error}"))?,
    };
    if (least..=most).contains(&octets) {
        return Ok(octets);
    }
    let (least, most) = (units::show_size(least), units::show_size(most));
    Err(format!("{key}: {} is not from {least} to {most}", units::show_size(octets)))
}

fn mail_size(key: &str, raw: &Scalar) -> Result<u64, String> {
    octets(key, raw, 1 << 10, 16 << 30)
}

fn count(key: &str, n: i64, most: usize) -> Result<usize, String> {
    usize::try_from(n)
        .ok()
        .filter(|n| (1..=most).contains(n))
        .ok_or_else(|| format!("{key}: {n} is not from 1 to {most}"))
}

fn span(key: &str, text: &str, least: u64, most: u64) -> Result<Duration, String> {
    let span = units::duration(text).map_err(|error| format!("{key}: {error}"))?;
    let (least, most) = (Duration::from_secs(least), Duration::from_secs(most));
    if (least..=most).contains(&span) {
        return Ok(span);
    }
    let show = units::show_duration;
    Err(format!("{key}: {} is not from {} to {}", show(span), show(least), show(most)))
}

fn port(key: &str, n: i64) -> Result<u16, String> {
    u16::try_from(n).ok().filter(|&n| n != 0).ok_or_else(|| format!("{key}: {n} is no port (1 to 65535)"))
}

/// A DNS server, `IP` or `IP:PORT`.
fn server(text: &str) -> Result<SocketAddr, String> {
    let wrong = |_| format!("names.resolver: `{}` is no IP address with or without port", text.escape_debug());
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(SocketAddr::new(ip, 53)),
        Err(_) => text.parse().map_err(wrong),
    }
}

fn octets32(key: &str, text: &str) -> Result<[u8; 32], String> {
    let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    let octets: Option<[u8; 32]> = octets.and_then(|octets| octets.try_into().ok());
    octets.filter(|octets| *octets != [0; 32]).ok_or_else(|| format!("{key} is a key of 64 hexadecimal digits"))
}

fn host(key: &str, text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    if text.is_empty() || text.len() > 255 || !text.chars().all(fits) {
        return Err(format!("{key} is a host name or an IP address"));
    }
    Ok(text.to_owned())
}

fn proxy(key: &str, text: &str) -> Result<Proxy, String> {
    let wrong = || format!("{key} is \"socks5://HOST:PORT\" or \"http://HOST:PORT\", without user name and path");
    let (kind, rest) = if let Some(rest) = text.strip_prefix("socks5://") {
        (ProxyKind::Socks5, rest)
    } else {
        (ProxyKind::Http, text.strip_prefix("http://").ok_or_else(wrong)?)
    };
    let (name, number) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':').ok_or_else(wrong)?;
    let name = match name.strip_prefix('[') {
        Some(literal) => literal.strip_suffix(']').ok_or_else(wrong)?,
        None if name.contains(':') => return Err(wrong()),
        None => name,
    };
    let number = number.parse().map_err(|_| wrong())?;
    Ok(Proxy { kind, host: host(key, name).map_err(|_| wrong())?, port: port(key, number)? })
}

/// The proxy that everything goes over. It has no name: to find its address would be a query of the DNS.
fn private_proxy(text: &str) -> Result<Proxy, String> {
    proxy("tox.private", text)
        .ok()
        .filter(|proxy| proxy.kind == ProxyKind::Socks5 && proxy.host.parse::<IpAddr>().is_ok())
        .ok_or_else(|| "tox.private is \"socks5://IP-ADDRESS:PORT\", as in \"socks5://127.0.0.1:9050\" for Tor".into())
}

/// A server that mail is handed to. With `tox.private` it has no name, which would be looked up in the DNS.
fn unnamed(key: &str, server: Destination, private: bool) -> Result<Destination, String> {
    match &server {
        Destination::Smtp { host, .. } if private && host.parse::<IpAddr>().is_err() => {
            Err(format!("{key}: with tox.private nothing is looked up: give the IP address of {host}"))
        }
        _ => Ok(server),
    }
}

fn account_name(what: &str, name: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(format!("{what} is 1 to 64 of a-z, 0-9, _ and -; `{}` is not", name.escape_debug()))
}

fn hostname(name: &str) -> Result<String, String> {
    // What can stand behind the @ of an address can stand in a trace header.
    match Address::new("x", name) {
        Ok(address) if !name.contains(':') => Ok(address.domain().to_owned()),
        _ => Err(format!("hostname: `{}` is no host name", name.escape_debug())),
    }
}

fn system_hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.and_then(|name| hostname(&name).ok()).unwrap_or_else(|| "localhost".into())
}
