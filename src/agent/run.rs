//! Start and stop of the agent.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use nix::fcntl::Flock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::account::{AccountThread, Command, Handle, Identity, Shared};
use super::contacts::Contacts;
use super::courier;
use super::delivery::{self, DeliveryPool};
use super::directory::{self, Directory};
use super::health::{self, Watchdog};
use super::manage::Manager;
use super::names::{Names, Settings};
use super::probe::Probes;
use super::relay_role::{self, RelayHandle};
use super::reload::{Live, Reloader};
use super::submission::Queueing;
use crate::backup::place::{self, Recovered};
use crate::config::{self, Config, Passphrase, PassphraseSource, ProxyKind, User};
use crate::engine::rules::Rules;
use crate::identity::tox_address;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::ToxSecret;
use crate::lmtp;
use crate::mail::status::Refusal;
use crate::socket::{self, Passed};
use crate::store::{self, DENIAL_WAIT, Event, Policy, Reader, Store, Times};
use crate::telemetry::clock::Clock;
use crate::telemetry::notify;
use crate::tox::{self, Tox};
use crate::{control, dns, telemetry};

/// How often disk space is looked at and waiting notices are tried again.
const TICK: Duration = Duration::from_secs(5);
/// How often the disk space that the queue takes is counted; between, only what comes in is added.
const COUNT: Duration = Duration::from_secs(60);
/// How often old records are removed.
const PRUNE: Duration = Duration::from_secs(3600);
/// How many new friend requests may wait to be looked at.
const MAX_ASKED: usize = 100;
/// Exit status for a wrong configuration (sysexits.h EX_CONFIG).
const EX_CONFIG: u8 = 78;

/// Real e-mail over the Tox peer-to-peer network: the agent.
#[derive(Parser)]
#[command(name = "tox-agent", version)]
struct Arguments {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

/// Runs the agent until SIGTERM or SIGINT; its exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = Arguments::parse_from(arguments);
    let passed = Passed::take();
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            telemetry::log::init(log::LevelFilter::Info, true, true, "tox-agent");
            log::error!("{error}");
            telemetry::log::flush();
            return ExitCode::from(EX_CONFIG);
        }
    };
    telemetry::log::init(config.log.level, config.log.syslog, config.log.stderr, "tox-agent");
    let found = config::permissions(&config, &arguments.config);
    found.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    if !found.problems.is_empty() {
        found.problems.iter().for_each(|problem| log::error!("{problem}"));
        telemetry::log::flush();
        return ExitCode::from(EX_CONFIG);
    }
    let result = passed.context("the service manager").and_then(|passed| run(&config, &arguments.config, passed));
    if let Err(error) = &result {
        log::error!("{error:#}");
    }
    telemetry::log::flush();
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    // What is kept in a folder is durable only once the folder itself is.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder).and_then(|()| {
        let parent = folder.parent().unwrap_or(Path::new("/"));
        // A parent that we may not open is not ours: it was there before.
        std::fs::File::open(parent).map_or(Ok(()), |parent| parent.sync_all())
    });
    made.with_context(|| format!("cannot make {}", folder.display()))
}

/// Takes the state folder for this process, and finishes a restore that was interrupted.
fn take_state(state_dir: &Path) -> anyhow::Result<Flock<std::fs::File>> {
    make_folder(state_dir)?;
    let shown = state_dir.display();
    let lock = place::lock(state_dir).with_context(|| format!("cannot lock {shown}"))?;
    let Some(lock) = lock else { bail!("another tox-agent works in {shown}: stop it first") };
    match place::recover(state_dir).with_context(|| format!("cannot finish the restore in {shown}"))? {
        Recovered::Nothing => {}
        Recovered::Undone => log::warn!("a restore into {shown} was interrupted early: nothing of it was done"),
        Recovered::Finished(None) => log::info!("finished a restore that was interrupted"),
        Recovered::Finished(Some(old)) => {
            log::info!("finished a restore that was interrupted; what was there before is in {}", old.display());
        }
    }
    for name in ["identities", "incoming", "bodies"] {
        make_folder(&state_dir.join(name))?;
    }
    Ok(lock)
}

/// The options for each Tox instance of this agent: the accounts', and those made for relays. None listens on TCP.
pub(super) fn tox_options(settings: &config::Tox) -> tox::Options {
    let proxy = settings.proxy.as_ref().map(|proxy| match proxy.kind {
        ProxyKind::Socks5 => tox::Proxy::Socks5(proxy.host.clone(), proxy.port),
        ProxyKind::Http => tox::Proxy::Http(proxy.host.clone(), proxy.port),
    });
    tox::Options {
        udp: settings.udp,
        ipv6: settings.ipv6,
        lan_discovery: settings.lan_discovery,
        port_range: settings.port_range,
        tcp_relay_port: 0,
        proxy,
    }
}

/// The identity of the account `number`, made and stored first if it is new.
fn open_identity(config: &Config, number: usize) -> anyhow::Result<(Tox, Identity)> {
    let account = &config.accounts[number];
    let file = account.passphrase.as_ref().map(PassphraseSource::file).transpose()?;
    let passphrase = file.as_deref().map(Passphrase::read).transpose()?;
    let identity = Identity::new(&config.state_dir, &account.name, passphrase);
    let shown = identity.path().display().to_string();
    let saved = identity.load().with_context(|| format!("cannot load the identity {shown}"))?;
    // One port, one TCP relay: the instance of a second account could not bind it, and would not start.
    let tcp_relay_port = if number == 0 { config.tox.tcp_relay_port } else { 0 };
    let options = tox::Options { tcp_relay_port, ..tox_options(&config.tox) };
    let mut tox = Tox::new(&options, saved.as_ref().map(|data| &data[..]))
        .with_context(|| format!("account {}", account.name))?;
    tox.set_name(&account.name);
    // With a passphrase also an old one: until now it may have been in the clear.
    if saved.is_none() || account.passphrase.is_some() {
        identity.store(&tox).with_context(|| format!("cannot store the identity {shown}"))?;
    }
    if saved.is_none() {
        log::info!("{}: made a new Tox identity", account.name);
    }
    log::info!("{}: Tox ID {}", account.name, tox.id());
    Ok((tox, identity))
}

/// The account as mail sees it.
pub(super) fn directory_account(account: &config::Account, key: PublicKey) -> directory::Account {
    let own = directory::Mailbox { name: account.name.clone(), way: account.way.clone() };
    let further = account.mailboxes.iter().map(|m| directory::Mailbox { name: m.name.clone(), way: m.way.clone() });
    let reachable = account.addresses.iter().chain(account.mailboxes.iter().flat_map(|m| &m.addresses));
    directory::Account {
        name: account.name.clone(),
        key,
        address: tox_address::canonical(&key),
        reachable: reachable.cloned().collect(),
        senders: account.senders.clone(),
        mailboxes: std::iter::once(own).chain(further).collect(),
    }
}

/// Which mail the account takes.
pub(super) fn rules(config: &Config, account: &config::Account, key: PublicKey) -> Rules {
    let own = (account.name.as_str(), &account.addresses[..]);
    let further = account.mailboxes.iter().map(|m| (m.name.as_str(), &m.addresses[..]));
    let software = concat!("toxmail ", env!("CARGO_PKG_VERSION"));
    let mut rules = Rules::new(key, std::iter::once(own).chain(further), config.delivery.max_size, software);
    // What an LMTP server takes is in a mailbox; an MTA may send it on.
    let ways = std::iter::once(&account.way).chain(account.mailboxes.iter().map(|mailbox| &mailbox.way));
    rules.relays = ways.enumerate().filter(|(_, way)| way.is_relay()).map(|(number, _)| number).collect();
    rules
}

/// What the configuration says of names.
pub(super) fn name_settings(config: &Config) -> anyhow::Result<Settings> {
    let settings = &config.names;
    let domain = |keys: &config::DomainKeys| dns::Domain {
        name: keys.name.clone(),
        tox3_key: keys.tox3_key,
        sign_key: keys.sign_key,
    };
    let options = dns::Options {
        servers: settings.resolver.clone(),
        trust_anchor: settings.trust_anchor.clone(),
        timeout: settings.timeout,
        allow_toxme: settings.allow_toxme,
        domains: settings.domains.iter().map(domain).collect(),
    };
    let longest = settings.refresh.max(config.queue.retry_max);
    Ok(Settings {
        horizon: i64::try_from(longest.as_millis()).unwrap_or(i64::MAX).max(DENIAL_WAIT),
        resolver: if settings.lookup { Some(dns::Resolver::new(options)?) } else { None },
        policy: settings.policy,
        incoming: settings.incoming,
        refresh: i64::try_from(settings.refresh.as_millis()).unwrap_or(i64::MAX),
    })
}

/// The waiting times of the queue.
pub(super) fn times(config: &Config) -> Times {
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Times {
        retry_min: milliseconds(config.queue.retry_min),
        retry_max: milliseconds(config.queue.retry_max),
        delay_notice: i64::try_from(config.queue.delay_notice.as_millis()).unwrap_or(i64::MAX),
    }
}

/// What the LMTP server goes by.
pub(super) fn limits(config: &Config) -> anyhow::Result<lmtp::Limits> {
    Ok(lmtp::Limits {
        max_size: config.lmtp.max_size,
        max_recipients: config.lmtp.max_recipients,
        max_connections: config.lmtp.max_connections,
        timeout: config.lmtp.timeout,
        hostname: config.hostname.clone(),
        allow_uids: uids(&config.lmtp.allow_users).context("lmtp.allow_users")?,
    })
}

fn uids(users: &[User]) -> anyhow::Result<Option<Vec<u32>>> {
    if users.is_empty() {
        return Ok(None);
    }
    let uids = users.iter().map(User::uid).collect::<io::Result<Vec<u32>>>()?;
    Ok(Some(uids))
}

/// The listening socket `name`, as the service manager passed it, or bound here: then it is ours to remove.
fn listener(
    passed: &mut Passed,
    name: &str,
    path: &Path,
    mode: u32,
    group: Option<&str>,
) -> anyhow::Result<(UnixListener, bool)> {
    let Some(socket) = passed.remove(name) else {
        let bound = socket::bind(path, mode, group);
        return Ok((bound.with_context(|| format!("cannot open the {name} socket {}", path.display()))?, true));
    };
    let address = socket.local_addr()?;
    match address.as_pathname() {
        Some(real) if real == path => {}
        real => log::warn!(
            "the service manager has opened {}, which is the {name} socket now, not {name}.socket = \"{}\"",
            real.map_or_else(|| "an unnamed socket".into(), |real| real.display().to_string()),
            path.display()
        ),
    }
    Ok((socket, false))
}

fn run(config: &Config, path: &Path, passed: Passed) -> anyhow::Result<()> {
    log::info!("tox-agent {} starts, libtoxcore {}, {}", env!("CARGO_PKG_VERSION"), tox::version(), path.display());
    for node in config.tox.unusable_nodes() {
        log::warn!("tox.bootstrap: {} is a name, which is not looked up with a proxy: give its IP address", node.host);
    }
    let lock = take_state(&config.state_dir)?;
    let clock = Arc::new(Clock::start(&config.state_dir.join("clock")));
    keep(&clock);

    let mut toxes = Vec::new();
    let mut handles = Vec::new();
    let mut inboxes = Vec::new();
    for number in 0..config.accounts.len() {
        toxes.push(open_identity(config, number)?);
        let (handle, inbox) = Handle::new()?;
        handles.push(handle);
        inboxes.push(inbox);
    }
    let ids: Vec<_> = toxes.iter().map(|(tox, _)| tox.id()).collect();

    let live = Arc::new(Live::new(config.clone()));
    let Times { retry_min, retry_max, delay_notice } = times(config);
    let queue_clock = clock.clone();
    let policy = Policy {
        now: Box::new(move || queue_clock.queue_ms()),
        retry_min,
        retry_max,
        delay_notice,
        notice: super::notices::composer(config.hostname.clone(), clock.clone()),
    };
    let pool_slot: Arc<OnceLock<Arc<DeliveryPool>>> = Arc::new(OnceLock::new());
    let directory_slot: Arc<OnceLock<Arc<Directory>>> = Arc::new(OnceLock::new());
    let wake = Arc::new(tokio::sync::Notify::new());
    let (courier, courier_inbox) = courier::Handle::new();
    let sink = {
        let by_name: Vec<(String, Handle)> =
            config.accounts.iter().map(|account| account.name.clone()).zip(handles.iter().cloned()).collect();
        let (pool_slot, directory_slot, wake) = (pool_slot.clone(), directory_slot.clone(), wake.clone());
        let courier = courier.clone();
        move |event: Event| {
            let send = |account: &str, command: Command| {
                if let Some((_, handle)) = by_name.iter().find(|(name, _)| name == account) {
                    handle.send(command);
                }
            };
            match event {
                Event::Work(work) => send(&work.account.clone(), Command::Work(work)),
                Event::Recorded(recorded) => {
                    send(&recorded.account, Command::Recorded(recorded.peer, recorded.transfer));
                }
                Event::Notice(_, id) => {
                    if let Some(pool) = pool_slot.get() {
                        pool.notice(id);
                    }
                }
                Event::Names => wake.notify_one(),
                Event::Ask(account, id, message) => {
                    if let Some(directory) = directory_slot.get()
                        && let Some(at) = directory.account(&account)
                    {
                        directory.ensure(at, id.key());
                    }
                    send(&account, Command::AskFriend(id, message, None));
                }
                Event::Introducing(account) => {
                    if let Some(at) = by_name.iter().position(|(name, _)| *name == account) {
                        courier.introducing(at);
                    }
                }
            }
        }
    };
    let (store, store_thread) = Store::open(&config.state_dir, policy, sink)?;
    let reader = Reader::open(&config.state_dir)?;
    let accounts = config.accounts.iter().zip(&ids).map(|(account, id)| directory_account(account, id.key()));
    let directory =
        Directory::new(accounts.collect(), &reader.contacts(None)?, &reader.blocked(None)?, config.names.lookup);
    let directory = Arc::new(directory);
    let _ = directory_slot.set(directory.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let contacts = Contacts {
        store: store.clone(),
        directory: directory.clone(),
        handles: handles.clone(),
        clock: clock.clone(),
        steps: Default::default(),
    };
    let names = Arc::new(Names {
        settings: std::sync::RwLock::new(Arc::new(name_settings(config)?)),
        looking: std::sync::atomic::AtomicUsize::new(0),
        contacts,
        ids: std::sync::Mutex::new(ids.clone()),
        state_dir: config.state_dir.clone(),
        runtime: runtime.handle().clone(),
        wake,
        authors: std::sync::Mutex::default(),
        courier: courier.clone(),
    });
    delivery::recover(&store, &reader, &directory, clock.queue_ms())?;
    let pool = DeliveryPool::start(
        &store,
        &directory,
        &clock,
        &names,
        &config.state_dir,
        &config.hostname,
        config.queue.notices.clone(),
        &live,
    )?;
    let pool = Arc::new(pool);
    let _ = pool_slot.set(pool.clone());

    let relay = relay(config, &clock)?;
    let (asked, requests) = tokio::sync::mpsc::channel(MAX_ASKED);
    let shared = Shared {
        courier: courier.clone(),
        store: store.clone(),
        pool: pool.clone(),
        directory: directory.clone(),
        clock: clock.clone(),
        state_dir: config.state_dir.clone(),
        asked,
    };
    let resolve = config.tox.resolves();
    let secrets: Vec<_> = toxes.iter().map(|(tox, _)| tox.secret_key()).collect();
    let mut threads = Vec::new();
    for (number, ((tox, identity), inbox)) in toxes.into_iter().zip(inboxes).enumerate() {
        let account = &config.accounts[number];
        let rules = rules(config, account, ids[number].key());
        let own = (handles[number].clone(), inbox);
        let nodes = config.tox.bootstrap.clone();
        let thread = AccountThread::new(number, tox, identity, rules, own, shared.clone(), nodes, resolve)?;
        let name = format!("tox {}", account.name);
        threads.push(std::thread::Builder::new().name(name).spawn(move || thread.run())?);
    }

    let with_lanes = config.accounts.iter().zip(&ids).zip(&handles).zip(secrets);
    let with_lanes = with_lanes.map(|(((account, id), handle), mut secret)| courier::Own {
        name: account.name.clone(),
        key: id.key(),
        secret: ToxSecret::new(&mut secret),
        tox: handle.clone(),
    });
    let courier_thread = courier::start(
        courier_inbox,
        courier.clone(),
        store.clone(),
        clock.clone(),
        live.clone(),
        config.state_dir.clone(),
        relay.clone(),
        shared.asked.clone(),
        with_lanes.collect(),
    )?;
    let desk = courier::Desk {
        courier: courier.clone(),
        relay: relay.clone(),
        store: store.clone(),
        clock: clock.clone(),
        live: live.clone(),
    };

    // A thread that ended before it was told to has panicked: better a restart than mail that nobody sends.
    let alive = || {
        !store_thread.is_finished()
            && !courier_thread.is_finished()
            && !threads.iter().any(std::thread::JoinHandle::is_finished)
            && !relay.as_ref().is_some_and(|relay| relay.is_finished())
    };
    let served = serve(path, &live, passed, &runtime, &names, requests, &pool, &reader, desk, &alive);

    // The links say goodbye, what was received is finished, and what is decided is written; in this order.
    handles.iter().for_each(|handle| handle.send(Command::Stop));
    for thread in threads {
        if thread.join().is_err() {
            log::error!("an account's thread had panicked");
        }
    }
    courier.stop();
    if courier_thread.join().is_err() {
        log::error!("the courier had panicked");
    }
    if let Some(relay) = &relay {
        relay.stop();
    }
    pool.stop();
    store.stop();
    let _ = store_thread.join();
    drop(lock);
    log::info!("tox-agent stopped");
    served
}

/// Starts the relay that this agent is for others, if it is one.
fn relay(config: &Config, clock: &Arc<Clock>) -> anyhow::Result<Option<Arc<RelayHandle>>> {
    if !config.relay.enabled {
        return Ok(None);
    }
    let (relay, tox) = (config.relay.clone(), &config.tox);
    let (options, nodes) = (tox_options(tox), tox.bootstrap.clone());
    let handle = relay_role::start(
        relay,
        config.delivery.min_free,
        &options,
        nodes,
        tox.resolves(),
        &config.state_dir,
        clock.clone(),
    )?;
    Ok(Some(Arc::new(handle)))
}

#[allow(clippy::too_many_arguments, reason = "called once")]
fn serve(
    path: &Path,
    live: &Arc<Live>,
    mut passed: Passed,
    runtime: &tokio::runtime::Runtime,
    names: &Arc<Names>,
    requests: tokio::sync::mpsc::Receiver<(usize, PublicKey)>,
    pool: &Arc<DeliveryPool>,
    reader: &Reader,
    desk: courier::Desk,
    alive: &dyn Fn() -> bool,
) -> anyhow::Result<()> {
    let Contacts { store, directory, handles, clock, .. } = &names.contacts;
    let config = live.get();
    let (courier, own_relay) = (desk.courier.clone(), desk.relay.clone());
    let used_disk = Arc::new(AtomicU64::new(reader.queue_summary(None)?.octets));
    let probes = Arc::new(Probes::default());
    let queueing = Queueing {
        probes: probes.clone(),
        store: store.clone(),
        directory: directory.clone(),
        clock: clock.clone(),
        state_dir: config.state_dir.clone(),
        live: live.clone(),
        used_disk: used_disk.clone(),
    };
    let (limits, watched_limits) = watch::channel(Arc::new(limits(&config)?));
    let reloader = Arc::new(Reloader {
        path: path.to_owned(),
        live: live.clone(),
        names: names.clone(),
        relay: desk.relay.clone(),
        limits,
        turn: std::sync::Mutex::default(),
    });
    let manager = Manager {
        probes,
        reloader: reloader.clone(),
        contacts: names.contacts.clone(),
        names: names.clone(),
        state_dir: config.state_dir.clone(),
        hostname: config.hostname.clone(),
        started: Instant::now(),
        relays: Some(Arc::new(desk)),
    };
    let allow_uids = uids(&config.control.allow_users).context("control.allow_users")?;
    let options = control::server::Options { allow_uids, ..Default::default() };
    let (lmtp, control) = (&config.lmtp, &config.control);
    let (lmtp_socket, own_lmtp) = listener(&mut passed, "lmtp", &lmtp.socket, lmtp.mode, lmtp.group.as_deref())?;
    let (control_socket, own_control) =
        listener(&mut passed, "control", &control.socket, control.mode, control.group.as_deref())?;
    for name in passed.names() {
        log::warn!(
            "the service manager passed a socket `{name}`; known are `lmtp` and `control` (FileDescriptorName=)"
        );
    }
    drop(passed);

    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let lmtp_socket = tokio::net::UnixListener::from_std(lmtp_socket)?;
        let mail = tokio::spawn(lmtp::serve(lmtp_socket, Arc::new(queueing), watched_limits, stopped.clone()));
        let control = tokio::spawn(control::server::serve(control_socket, Arc::new(manager), options, stopped.clone()));
        let looking = tokio::spawn(names.clone().run(requests, stopped));
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut tick = tokio::time::interval(TICK);
        let mut pruned: Option<Instant> = None;
        let mut counted = Instant::now();
        let mut failed = false;
        let mut storage: Option<Option<Refusal>> = None;
        let mut shown = String::new();
        let mut watchdog = notify::watchdog().map(|patience| {
            let threads = config.accounts.iter().map(|account| account.name.clone()).zip(handles.clone());
            Watchdog::new(patience, threads.collect(), store.clone(), courier.clone(), own_relay.clone())
        });
        log::info!("ready");
        notify::ready();
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    let reloader = reloader.clone();
                    // It has told the log what came of it.
                    drop(tokio::task::spawn_blocking(move || drop(reloader.reload())));
                }
                () = due(&mut watchdog) => {
                    if let Some(watchdog) = &mut watchdog {
                        watchdog.look();
                    }
                }
                _ = tick.tick() => {
                    keep(clock);
                    if !alive() {
                        failed = true;
                        break;
                    }
                    let refusal = low_disk(&live.get());
                    if storage.as_ref() != Some(&refusal) {
                        if let Some(refusal) = &refusal {
                            log::error!("incoming mail is refused for now: {refusal}");
                        }
                        handles.iter().for_each(|handle| handle.send(Command::Storage(refusal.clone())));
                        storage = Some(refusal);
                    }
                    // Those of an account that is not configured any more wait for it to come back.
                    let here = |account: &str| directory.account(account).is_some();
                    for (id, account) in reader.notices().unwrap_or_default() {
                        if here(&account) {
                            pool.notice(id);
                        }
                    }
                    if pruned.is_none_or(|at| at.elapsed() > PRUNE) {
                        pruned = Some(Instant::now());
                        store.prune_received(clock.queue_ms());
                        store.prune_names();
                    }
                    if counted.elapsed() > COUNT {
                        counted = Instant::now();
                        match reader.queue_summary(None) {
                            Ok(summary) => used_disk.store(summary.octets, Ordering::Relaxed),
                            Err(error) => log::error!("cannot read the queue: {error}"),
                        }
                    }
                    if let Ok(line) = standing(reader, directory, handles)
                        && line != shown
                    {
                        notify::status(&line);
                        shown = line;
                    }
                }
            }
        }
        log::info!("stopping");
        notify::stopping();
        let _ = stop.send(true);
        let _ = mail.await;
        let _ = control.await;
        let _ = looking.await;
        if failed {
            bail!("a thread of the agent has failed");
        }
        anyhow::Ok(())
    })?;
    for (path, own) in [(&lmtp.socket, own_lmtp), (&control.socket, own_control)] {
        if own {
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(())
}

/// Waits until the watchdog wants to look; forever if there is none.
async fn due(watchdog: &mut Option<Watchdog>) {
    match watchdog {
        Some(watchdog) => watchdog.due().await,
        None => std::future::pending().await,
    }
}

/// The line that the service manager shows.
fn standing(reader: &Reader, directory: &Directory, handles: &[Handle]) -> rusqlite::Result<String> {
    let online = handles.iter().map(|handle| handle.snapshot().online.len()).sum();
    Ok(health::line(online, directory.contact_count(), reader.queue_summary(None)?.mails, reader.held_mails()?))
}

fn keep(clock: &Clock) {
    if let Err(error) = clock.keep() {
        log::warn!("cannot keep the queue's time for the next start: {error}");
    }
}

/// Why no mail can be stored, if a disk that would hold it is nearly full.
fn low_disk(config: &Config) -> Option<Refusal> {
    let maildirs = config
        .accounts
        .iter()
        .flat_map(|account| std::iter::once(&account.way).chain(account.mailboxes.iter().map(|mailbox| &mailbox.way)));
    let maildirs = maildirs.filter_map(config::Way::maildir);
    let low = |path: &Path| store::free_space(path).is_ok_and(|free| free < config.delivery.min_free);
    let full = std::iter::once(config.state_dir.as_path()).chain(maildirs).any(low);
    full.then(|| Refusal::temporary(3, 1, "the recipient's disk is nearly full"))
}
