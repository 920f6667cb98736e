//! `toxctl backup` and `toxctl restore`: the state of an agent in one encrypted file, and back. They work on the state
//! folder itself, as root or as the agent's user: a backup holds secret keys, which are not for everybody who may use
//! the control socket. A backup can be made while the agent runs; a restore needs it stopped.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use super::show;
use crate::backup::archive::{self, Visit, Writer};
use crate::backup::manifest::{Counts, FORMAT, MAX_CONFIG, Manifest, Part};
use crate::backup::place::{self, AsOwner, Gathering, NewFile, Recovered, Restoring};
use crate::config::{self, Config, DEFAULT_PATH, Passphrase, PassphraseSource};
use crate::store::backup::{self as snapshot, Mark, Verify};
use crate::store::free_space;

/// What a file takes on a disk beyond its octets, and a little more: free space asked for, in octets.
const MARGIN: u64 = 1 << 20;

#[derive(Args)]
pub(super) struct BackupArgs {
    /// The file to write; one that is there is replaced
    file: PathBuf,
    /// The agent's configuration file
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// A file of mode 0600 with the passphrase of the backup, instead of asking for it
    #[arg(long, value_name = "PATH")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// The agent's configuration file, which names the state folder
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// A file of mode 0600 with the passphrase of the backup, instead of asking for it
    #[arg(long, value_name = "PATH")]
    passphrase_file: Option<PathBuf>,
    /// Move a state that is there already out of the way, to replaced-SECONDS below the state folder
    #[arg(long)]
    replace: bool,
    /// Put the waiting mail on hold: it is sent when `toxctl queue release` says so
    #[arg(long)]
    hold: bool,
    /// Only check that the backup is whole and the passphrase right; writes nothing
    #[arg(long, conflicts_with_all = ["replace", "hold", "print_config"])]
    check: bool,
    /// Only print the configuration that is in the backup
    #[arg(long, conflicts_with_all = ["replace", "hold"])]
    print_config: bool,
}

/// The passphrase in the file, or as the user types it; twice where `new`.
fn passphrase(file: Option<&Path>, new: bool) -> anyhow::Result<SecretString> {
    if let Some(file) = file {
        let read = Passphrase::read(file)?;
        let text = std::str::from_utf8(read.expose());
        return Ok(SecretString::from(text.with_context(|| format!("{} is not UTF-8", file.display()))?.to_owned()));
    }
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt)
            .map(Zeroizing::new)
            .context("there is no terminal to ask for the passphrase: use --passphrase-file")
    };
    let first = ask("Passphrase of the backup: ")?;
    if first.is_empty() {
        bail!("an empty passphrase protects nothing");
    }
    if new && *ask("The same again: ")? != *first {
        bail!("the two passphrases are not the same");
    }
    Ok(SecretString::from(first.to_string()))
}

/// The identities below the state folder with their accounts' names.
fn identities(state_dir: &Path) -> anyhow::Result<Vec<(Part, Zeroizing<Vec<u8>>)>> {
    let folder = state_dir.join("identities");
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // What is written beside an identity, and gets its name later, is none.
        if let Some(part @ Part::Identity(_)) = Part::parse(&format!("identities/{name}")) {
            let octets = fs::read(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
            found.push((part, Zeroizing::new(octets)));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

fn needs_room(path: &Path, free: u64, octets: u64) -> anyhow::Result<()> {
    let need = octets.saturating_add(octets / 256).saturating_add(MARGIN);
    if free < need {
        bail!("no room for {}: {need} octets needed, {free} free", path.display());
    }
    Ok(())
}

/// Makes a backup; what to tell, and what to warn of.
pub(super) fn backup(args: &BackupArgs, json: bool, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<()> {
    let config = config::load(&args.config)?;
    let state_dir = &config.state_dir;
    if !place::is_occupied(state_dir).with_context(|| format!("cannot read {}", state_dir.display()))? {
        bail!("there is nothing to back up in {}", state_dir.display());
    }
    let secret = passphrase(args.passphrase_file.as_deref(), true)?;
    let text = fs::read(&args.config).with_context(|| format!("cannot read {}", args.config.display()))?;
    let cannot = || format!("cannot write {}", args.file.display());
    let new = NewFile::create(&args.file).with_context(cannot)?;
    let owner =
        AsOwner::of(state_dir).with_context(|| format!("cannot act as the owner of {}", state_dir.display()))?;
    let gathering = Gathering::begin(state_dir).with_context(|| format!("cannot write in {}", state_dir.display()))?;
    if place::is_restoring(state_dir) {
        bail!("a restore into {} is not finished: start tox-agent, which finishes it", state_dir.display());
    }
    let Some(gathering) = gathering else { bail!("another backup of {} is being made", state_dir.display()) };
    // The identities first: a contact that is new since is in the database, which is where contacts are read from.
    let identities = identities(state_dir)?;
    let contents = snapshot::copy(state_dir, gathering.path())?;
    let database = gathering.path().join(Part::Database.name());
    let size = fs::metadata(&database)?.len();
    let account = |(part, _): &(Part, _)| match part {
        Part::Identity(account) => Some(account.clone()),
        _ => None,
    };
    let manifest = Manifest {
        format: FORMAT,
        made: super::now(),
        host: config.hostname.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        accounts: identities.iter().filter_map(account).collect(),
        counts: Counts {
            mails: contents.mails,
            recipients: contents.recipients,
            contacts: contents.contacts,
            pins: contents.pins,
            blocked: contents.blocked,
        },
        files: (2 + identities.len() + contents.bodies.len()) as u64,
        octets: text.len() as u64
            + identities.iter().map(|(_, octets)| octets.len() as u64).sum::<u64>()
            + size
            + contents.bodies.iter().map(|(_, size)| size).sum::<u64>(),
    };
    // By the open file: the owner of the state may not be let into its folder.
    let disk = nix::sys::statvfs::fstatvfs(new.file()?).map_err(io::Error::from).with_context(cannot)?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    needs_room(&args.file, free, manifest.octets + 1024 * manifest.files)?;
    let sink = io::BufWriter::with_capacity(128 * 1024, new.file()?);
    let mut writer = Writer::new(sink, secret, &manifest).with_context(cannot)?;
    writer.add(&Part::Config, text.len() as u64, &mut &text[..]).with_context(cannot)?;
    for (part, octets) in &identities {
        writer.add(part, octets.len() as u64, &mut &octets[..]).with_context(cannot)?;
    }
    writer.add(&Part::Database, size, &mut File::open(&database)?).with_context(cannot)?;
    for (name, size) in &contents.bodies {
        let path = gathering.path().join("bodies").join(name);
        let mut file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        writer.add(&Part::Body(name.clone()), *size, &mut file).with_context(cannot)?;
    }
    writer.finish().and_then(|mut sink| sink.flush()).with_context(cannot)?;
    drop(gathering);
    drop(owner);
    new.finish().with_context(cannot)?;

    let warnings = backup_warnings(&config, &manifest);
    tell(&manifest, &args.file, "written", json, &warnings, json!({}), out, err)?;
    Ok(())
}

fn backup_warnings(config: &Config, manifest: &Manifest) -> Vec<String> {
    let mut warnings = Vec::new();
    for account in &config.accounts {
        if !manifest.accounts.contains(&account.name) {
            warnings.push(format!("account `{}` has no identity yet: the agent has not run with it", account.name));
        } else if let Some(source) = &account.passphrase {
            let file = match source {
                PassphraseSource::File(file) => file.display().to_string(),
                PassphraseSource::Credential(name) => format!("the credential {name}"),
            };
            warnings.push(format!(
                "the identity of `{}` is encrypted, and its passphrase is not in the backup: \
                 keep a copy of {file} elsewhere",
                account.name
            ));
        }
    }
    warnings
}

#[allow(clippy::too_many_arguments, reason = "the parts of one text")]
fn tell(
    manifest: &Manifest,
    file: &Path,
    done: &str,
    json: bool,
    warnings: &[String],
    more: serde_json::Value,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    if json {
        let mut all = json!({ "done": done, "backup": manifest, "warnings": warnings });
        if let (Some(all), serde_json::Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        return super::print(out, &all);
    }
    for warning in warnings {
        writeln!(err, "warning: {}", show::clean(warning))?;
    }
    let counts = &manifest.counts;
    let plural = show::plural;
    writeln!(
        out,
        "{}: {done}: the state of {} {} ago, by toxmail {}",
        show::clean(&file.display().to_string()),
        show::clean(&manifest.host),
        show::span(super::now() - manifest.made),
        show::clean(&manifest.version)
    )?;
    let accounts = manifest.accounts.iter().map(|name| show::clean(name)).collect::<Vec<_>>().join(", ");
    writeln!(out, "  identities: {}", if accounts.is_empty() { "none" } else { &accounts })?;
    writeln!(
        out,
        "  {}, {}, {}",
        plural(counts.contacts, "contact"),
        plural(counts.pins, "pinned name"),
        plural(counts.blocked, "blocked key")
    )?;
    writeln!(out, "  {} to {}", plural(counts.mails, "waiting mail"), plural(counts.recipients, "recipient"))
}

/// Checks a backup, prints its configuration, or restores it.
pub(super) fn restore(args: &RestoreArgs, json: bool, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<()> {
    let open = || File::open(&args.file).with_context(|| format!("cannot read {}", args.file.display()));
    let of_file = || args.file.display().to_string();
    if args.print_config {
        let file = open()?;
        let mut wanted = PrintConfig(Vec::new());
        archive::read(file, passphrase(args.passphrase_file.as_deref(), false)?, &mut wanted).with_context(of_file)?;
        return Ok(out.write_all(&wanted.0)?);
    }
    if args.check {
        let file = open()?;
        let mut check = Check::default();
        let secret = passphrase(args.passphrase_file.as_deref(), false)?;
        let manifest = archive::read(file, secret, &mut check).with_context(of_file)?;
        let mut warnings = Vec::new();
        match check.database {
            Some(Some(database)) => database.finish(&check.bodies).with_context(of_file)?,
            Some(None) => {
                warnings.push("the database is too large to be looked into; what surrounds it is whole".into())
            }
            None => bail!("{}: the backup has no database", of_file()),
        }
        return Ok(tell(&manifest, &args.file, "whole", json, &warnings, json!({}), out, err)?);
    }

    let config = config::load(&args.config).with_context(|| {
        let file = args.file.display();
        format!("the configuration is needed first: toxctl restore --print-config {file} prints the one in the backup")
    })?;
    let state_dir = &config.state_dir;
    let shown = state_dir.display();
    if !state_dir.is_dir() {
        bail!("{shown} is not there: install -d -o USER -m 700 {shown}, where USER is who runs tox-agent");
    }
    let file = open()?;
    let secret = passphrase(args.passphrase_file.as_deref(), false)?;
    let owner = AsOwner::of(state_dir).with_context(|| format!("cannot act as the owner of {shown}"))?;
    let Some(lock) = place::lock(state_dir).with_context(|| format!("cannot lock {shown}"))? else {
        bail!("tox-agent works in {shown}: stop it first");
    };
    if let Recovered::Finished(_) = place::recover(state_dir).with_context(|| format!("cannot write in {shown}"))? {
        writeln!(err, "warning: an earlier restore had been interrupted and was finished first")?;
    }
    if place::is_occupied(state_dir)? && !args.replace {
        bail!("{shown} holds a state already: --replace moves it to replaced-SECONDS in there");
    }
    let now = super::now();
    let restoring = Restoring::begin(state_dir).with_context(|| format!("cannot write in {shown}"))?;
    let mut visit = Restore { restoring: &restoring, state_dir };
    let manifest = archive::read(file, secret, &mut visit).with_context(of_file)?;
    if !restoring.path().join(Part::Database.name()).exists() {
        bail!("{}: the backup has no database", of_file());
    }
    let lifetime = i64::try_from(config.queue.expire.as_millis()).unwrap_or(i64::MAX);
    let mark = Mark { made: manifest.made, host: &manifest.host, now, lifetime, hold: args.hold };
    let marked = snapshot::mark(restoring.path(), &mark).with_context(of_file)?;
    let replaced = restoring
        .commit(now)
        .with_context(|| format!("{shown} could not be put in order; the next start of tox-agent tries again"))?;
    drop(lock);
    drop(owner);

    let warnings = restore_warnings(&config, &manifest);
    let more = json!({ "epoch": marked.epoch, "on_hold": marked.on_hold, "replaced": replaced });
    tell(&manifest, &args.file, "restored", json, &warnings, more, out, err)?;
    if !json {
        if let Some(replaced) = replaced {
            writeln!(out, "  what was there before is in {}", replaced.display())?;
        }
        match (marked.recipients, marked.on_hold) {
            (0, _) => {}
            (_, true) => {
                writeln!(out, "  waiting mail is on hold: toxctl queue list, then queue release or queue delete")?;
            }
            (_, false) => {
                writeln!(out, "  waiting mail is offered again; who has got it since the backup knows it and says so")?;
            }
        }
        writeln!(out, "Never start the agent that this backup was made of again: two with one identity lose mail.")?;
    }
    Ok(())
}

fn restore_warnings(config: &Config, manifest: &Manifest) -> Vec<String> {
    let configured: BTreeSet<&str> = config.accounts.iter().map(|account| account.name.as_str()).collect();
    let restored: BTreeSet<&str> = manifest.accounts.iter().map(String::as_str).collect();
    let without = configured
        .difference(&restored)
        .map(|name| format!("account `{name}` is not in the backup: it gets a new identity at the next start"));
    let unused = restored
        .difference(&configured)
        .map(|name| format!("account `{name}` of the backup is not in the configuration: its identity lies unused"));
    without.chain(unused).collect()
}

struct PrintConfig(Vec<u8>);

impl Visit for PrintConfig {
    fn begin(&mut self, _: &Manifest) -> anyhow::Result<()> {
        Ok(())
    }

    fn part(&mut self, part: Part, _: u64, from: &mut dyn Read) -> anyhow::Result<bool> {
        if part != Part::Config {
            return Ok(true);
        }
        from.take(MAX_CONFIG).read_to_end(&mut self.0)?;
        Ok(false)
    }
}

#[derive(Default)]
struct Check {
    /// The outer one: whether there is a database; the inner one: whether it fits into memory.
    database: Option<Option<Verify>>,
    bodies: HashMap<String, u64>,
}

impl Visit for Check {
    fn begin(&mut self, _: &Manifest) -> anyhow::Result<()> {
        Ok(())
    }

    fn part(&mut self, part: Part, size: u64, from: &mut dyn Read) -> anyhow::Result<bool> {
        match part {
            Part::Database => self.database = Some(Verify::read(from, size)?),
            Part::Body(name) => {
                self.bodies.insert(name, size);
            }
            Part::Config | Part::Identity(_) => {}
        }
        Ok(true)
    }
}

struct Restore<'a> {
    restoring: &'a Restoring,
    state_dir: &'a Path,
}

impl Visit for Restore<'_> {
    fn begin(&mut self, manifest: &Manifest) -> anyhow::Result<()> {
        let free =
            free_space(self.state_dir).with_context(|| format!("cannot look at {}", self.state_dir.display()))?;
        needs_room(self.state_dir, free, manifest.octets)
    }

    fn part(&mut self, part: Part, _: u64, from: &mut dyn Read) -> anyhow::Result<bool> {
        // The configuration is for people: `--print-config`.
        if part != Part::Config {
            let cannot = || format!("cannot write {} below {}", part.name(), self.state_dir.display());
            let mut file = self.restoring.create(&part).with_context(cannot)?;
            io::copy(from, &mut file).with_context(|| part.name())?;
            file.sync_all().with_context(cannot)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_asked_for_with_something_to_spare() {
        let asked = |free, octets| needs_room(Path::new("/x"), free, octets).map_err(|error| error.to_string());
        assert_eq!(asked(3 * MARGIN, MARGIN), Ok(()));
        let error = asked(2 * MARGIN, 2 * MARGIN).expect_err("too little");
        assert!(error.starts_with("no room for /x: ") && error.contains(&format!("{} free", 2 * MARGIN)), "{error}");
        assert!(asked(u64::MAX - 1, u64::MAX).is_err(), "no overflow");
    }
}
