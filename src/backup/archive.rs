//! Writing and reading the encrypted archive.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use age::secrecy::SecretString;
use age::stream::StreamWriter;
use anyhow::{Context as _, bail};
use tar::{Builder, EntryType, Header};

use super::manifest::{FORMAT, MAX, Manifest, NAME, Part};

/// scrypt's cost when writing, as a power of two: 256 MiB of memory and about a second; what age(1) uses.
const WORK: u8 = 18;
/// The highest cost taken when reading: 1 GiB of memory.
const MAX_WORK: u8 = 20;
/// How much may follow the archive's last member, in octets: tar(1) fills up to 10 KiB.
const MAX_REST: u64 = 1 << 20;

/// Writes a backup, member by member.
pub struct Writer<W: Write> {
    tar: Builder<StreamWriter<W>>,
    made: i64,
    files: u64,
    octets: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a backup in `out`.
    ///
    /// # Errors
    /// `out` does not take it.
    pub fn new(out: W, passphrase: SecretString, manifest: &Manifest) -> io::Result<Self> {
        Self::with_work(out, passphrase, manifest, WORK)
    }

    fn with_work(out: W, passphrase: SecretString, manifest: &Manifest, work: u8) -> io::Result<Self> {
        let mut recipient = age::scrypt::Recipient::new(passphrase);
        recipient.set_work_factor(work);
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            .map_err(io::Error::other)?;
        let mut tar = Builder::new(encryptor.wrap_output(out)?);
        let text = serde_json::to_vec_pretty(manifest)?;
        tar.append(&header(NAME, text.len() as u64, manifest.made)?, &text[..])?;
        Ok(Self { tar, made: manifest.made, files: manifest.files, octets: manifest.octets })
    }

    /// Adds a part of exactly `size` octets.
    ///
    /// # Errors
    /// `from` fails or ends early, `out` does not take it, or the manifest told of less.
    pub fn add(&mut self, part: &Part, size: u64, from: &mut dyn Read) -> io::Result<()> {
        let left = self.files.checked_sub(1).zip(self.octets.checked_sub(size));
        let too_much = || io::Error::other(format!("{} was not counted", part.name()));
        (self.files, self.octets) = left.ok_or_else(too_much)?;
        let mut counted = Counted { inner: from.take(size), count: 0 };
        self.tar.append(&header(&part.name(), size, self.made)?, &mut counted)?;
        if counted.count != size {
            return Err(io::Error::other(format!("{} is shorter than it was", part.name())));
        }
        Ok(())
    }

    /// Ends the backup; `out` has all of it then.
    ///
    /// # Errors
    /// `out` does not take it, or the manifest told of more.
    pub fn finish(self) -> io::Result<W> {
        if (self.files, self.octets) != (0, 0) {
            return Err(io::Error::other("not all of the parts were added"));
        }
        self.tar.into_inner()?.finish()
    }
}

/// Says of an error in reading what it means to whoever restores.
struct Damaged<R>(R);

impl<R: Read> Read for Damaged<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| io::Error::new(error.kind(), format!("{DAMAGED}: {error}")))
    }
}

struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count += n as u64;
        Ok(n)
    }
}

fn header(name: &str, size: u64, time: i64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(time).unwrap_or(0));
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// What is done with the members of a backup that is read.
pub trait Visit {
    /// The manifest was read; the parts follow.
    ///
    /// # Errors
    /// The backup cannot be used.
    fn begin(&mut self, manifest: &Manifest) -> anyhow::Result<()>;

    /// A part of `size` octets; what is left unread of it is skipped. False: the others are not wanted.
    ///
    /// # Errors
    /// The part cannot be read or used.
    fn part(&mut self, part: Part, size: u64, from: &mut dyn Read) -> anyhow::Result<bool>;
}

/// Reads a backup to its end, unless `visit` wants no more of it. Only after it returned is it certain that nothing was
/// changed or cut off.
///
/// # Errors
/// It is no backup, is of another version, the passphrase is wrong, it is damaged or cut off, or `visit` fails.
pub fn read(input: impl Read, passphrase: SecretString, visit: &mut dyn Visit) -> anyhow::Result<Manifest> {
    let input = io::BufReader::with_capacity(128 * 1024, input);
    let decryptor = age::Decryptor::new_buffered(input).map_err(|error| match error {
        age::DecryptError::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => error.into(),
        _ => anyhow::anyhow!("this is no backup, or its beginning is damaged"),
    })?;
    if !decryptor.is_scrypt() {
        bail!("this is no backup: it is not encrypted with a passphrase");
    }
    let mut identity = age::scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(MAX_WORK);
    let plain = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(|error| match error {
        age::DecryptError::Io(error) => error.into(),
        age::DecryptError::ExcessiveWork { .. } => anyhow::anyhow!("it would take too much memory to decrypt"),
        _ => anyhow::anyhow!("the passphrase is wrong, or the beginning of the file is damaged"),
    })?;
    read_plain(plain, visit)
}

/// Said of every error in reading: what the archive holds is authenticated, so it was not written like that.
const DAMAGED: &str = "the backup is damaged or cut off";

/// Reads what was encrypted: as [`read`], of an archive in the clear.
///
/// # Errors
/// As of [`read`], but for the passphrase.
pub fn read_plain(plain: impl Read, visit: &mut dyn Visit) -> anyhow::Result<Manifest> {
    let mut archive = tar::Archive::new(plain);
    let mut manifest: Option<Manifest> = None;
    let (mut files, mut octets) = (0u64, 0u64);
    let mut seen = BTreeSet::new();
    // Raw: members that only lengthen the name of the next one are not read into memory, but refused.
    for entry in archive.entries().context(DAMAGED)?.raw(true) {
        let mut entry = entry.context(DAMAGED)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let size = entry.header().size().context(DAMAGED)?;
        if entry.header().entry_type() != EntryType::Regular {
            bail!("the backup holds something that is no file: {name:?}");
        }
        let Some(manifest) = &manifest else {
            if name != NAME || size > MAX {
                bail!("this is no backup of tox-agent: it does not begin with {NAME}");
            }
            let mut text = Vec::new();
            entry.read_to_end(&mut text).context(DAMAGED)?;
            let found: Manifest =
                serde_json::from_slice(&text).context("the manifest of the backup is not understood")?;
            if found.format != FORMAT {
                bail!("the backup is of format {}, this program reads format {FORMAT}", found.format);
            }
            visit.begin(&found)?;
            manifest = Some(found);
            continue;
        };
        let Some(part) = Part::parse(&name) else { bail!("the backup holds something unknown: {name:?}") };
        if size > part.limit() {
            bail!("{name} in the backup is too long: {size} octets");
        }
        if !seen.insert(part.clone()) {
            bail!("{name} is twice in the backup");
        }
        (files, octets) = (files + 1, octets.saturating_add(size));
        if files > manifest.files || octets > manifest.octets {
            bail!("the backup holds more than it says");
        }
        let mut counted = Counted { inner: Damaged(&mut entry), count: 0 };
        let goes_on = visit.part(part, size, &mut counted)?;
        if !goes_on {
            return Ok(manifest.clone());
        }
        io::copy(&mut counted, &mut io::sink())?;
        if counted.count != size {
            bail!(DAMAGED);
        }
    }
    // Only the end of the stream proves that nothing is missing.
    let rest = io::copy(&mut archive.into_inner().take(MAX_REST + 1), &mut io::sink()).context(DAMAGED)?;
    let manifest = manifest.context("this is no backup of tox-agent: it is empty")?;
    if rest > MAX_REST || (files, octets) != (manifest.files, manifest.octets) {
        bail!(DAMAGED);
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::manifest::Counts;
    use super::*;

    fn manifest(parts: &[(Part, Vec<u8>)]) -> Manifest {
        Manifest {
            format: FORMAT,
            made: 1_700_000_000,
            host: "host.example".into(),
            version: "0".into(),
            accounts: vec!["alice".into()],
            counts: Counts::default(),
            files: parts.len() as u64,
            octets: parts.iter().map(|(_, content)| content.len() as u64).sum(),
        }
    }

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    fn parts() -> Vec<(Part, Vec<u8>)> {
        vec![
            (Part::Config, b"state_dir = \"/x\"\n".to_vec()),
            (Part::Identity("alice".into()), vec![7; 3000]),
            (Part::Database, vec![9; 100_000]),
            (Part::Body("Q1".into()), vec![1; 70_000]),
        ]
    }

    fn written(manifest: &Manifest, parts: &[(Part, Vec<u8>)]) -> Vec<u8> {
        let mut writer = Writer::with_work(Vec::new(), secret("hush"), manifest, 2).expect("begun");
        for (part, content) in parts {
            writer.add(part, content.len() as u64, &mut &content[..]).expect("added");
        }
        writer.finish().expect("finished")
    }

    #[derive(Default)]
    struct Collect(Vec<(Part, Vec<u8>)>, bool);

    impl Visit for Collect {
        fn begin(&mut self, _: &Manifest) -> anyhow::Result<()> {
            Ok(())
        }
        fn part(&mut self, part: Part, _: u64, from: &mut dyn Read) -> anyhow::Result<bool> {
            let mut content = Vec::new();
            from.read_to_end(&mut content)?;
            self.0.push((part, content));
            Ok(!self.1)
        }
    }

    #[test]
    fn what_was_put_in_comes_out_with_the_right_passphrase_only() {
        let (parts, mut found) = (parts(), Collect::default());
        let octets = written(&manifest(&parts), &parts);
        assert!(octets.starts_with(b"age-encryption.org/v1\n-> scrypt "));
        assert!(!octets.windows(16).any(|window| window == [7; 16]), "nothing is in the clear");
        assert_eq!(read(&octets[..], secret("hush"), &mut found).expect("read"), manifest(&parts));
        assert_eq!(found.0, parts);
        let mut nothing = Collect::default();
        let error = read(&octets[..], secret("hash"), &mut nothing).expect_err("wrong").to_string();
        assert!(error.contains("passphrase is wrong") && nothing.0.is_empty(), "{error}");
        let mut first = Collect(Vec::new(), true);
        read(&octets[..], secret("hush"), &mut first).expect("as far as wanted");
        assert_eq!(first.0, parts[..1]);
    }

    #[test]
    fn a_backup_that_was_cut_off_or_changed_anywhere_is_an_error() {
        let parts = parts();
        let octets = written(&manifest(&parts), &parts);
        // The frames of the stream are of 64 KiB: at their limits, beside them, and here and there.
        let frame = 64 * 1024 + 16;
        let header = octets.len() % frame;
        let limits = (0..octets.len() / frame + 1).map(|n| header + n * frame).flat_map(|at| [at - 1, at, at + 1]);
        for at in limits.chain((0..octets.len()).step_by(9_973)).filter(|at| *at < octets.len()) {
            let cut = read(&octets[..at], secret("hush"), &mut Collect::default());
            assert!(cut.is_err(), "cut off after {at} octets");
            let mut changed = octets.clone();
            changed[at] ^= 1;
            assert!(read(&changed[..], secret("hush"), &mut Collect::default()).is_err(), "octet {at} changed");
        }
        let longer = [&octets[..], b"x"].concat();
        assert!(read(&longer[..], secret("hush"), &mut Collect::default()).is_err(), "something follows");
    }

    #[test]
    fn an_archive_that_is_no_backup_is_refused_even_with_the_right_passphrase() {
        let parts = parts();
        let good = manifest(&parts);
        let with = |manifest: &Manifest, name: &str, kind: EntryType| {
            let mut tar = Builder::new(Vec::new());
            let text = serde_json::to_vec(manifest).expect("JSON");
            tar.append(&super::header(NAME, text.len() as u64, 0).expect("header"), &text[..]).expect("vec");
            let mut header = super::header("x", 4, 0).expect("header");
            header.as_mut_bytes()[..100].fill(0);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(kind);
            header.set_cksum();
            tar.append(&header, &b"four"[..]).expect("vec");
            tar.into_inner().expect("vec")
        };
        let one = Manifest { files: 1, octets: 4, ..good.clone() };
        let read = |octets: &[u8]| {
            read_plain(octets, &mut Collect::default()).map(|_| ()).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read(&with(&one, "queue.sqlite", EntryType::Regular)), Ok(()));
        for (manifest, name, kind) in [
            (&one, "../queue.sqlite", EntryType::Regular),
            (&one, "/etc/passwd", EntryType::Regular),
            (&one, "bodies/../../x", EntryType::Regular),
            (&one, "queue.sqlite", EntryType::Symlink),
            (&one, "queue.sqlite", EntryType::GNULongName),
            (&one, "queue.sqlite", EntryType::XHeader),
            (&one, "queue.sqlite", EntryType::Directory),
            (&Manifest { format: 2, ..one.clone() }, "queue.sqlite", EntryType::Regular),
            (&Manifest { files: 2, ..one.clone() }, "queue.sqlite", EntryType::Regular),
            (&Manifest { octets: 3, ..one.clone() }, "queue.sqlite", EntryType::Regular),
            (&Manifest { octets: 5, ..one.clone() }, "queue.sqlite", EntryType::Regular),
        ] {
            assert!(read(&with(manifest, name, kind)).is_err(), "{name} {kind:?} {manifest:?}");
        }
        assert!(read(&Builder::new(Vec::new()).into_inner().expect("vec")).is_err(), "empty");
    }

    proptest! {
        #[test]
        fn arbitrary_octets_are_an_error_and_no_panic(octets in prop::collection::vec(any::<u8>(), 0..2048)) {
            prop_assert!(read(&octets[..], secret("hush"), &mut Collect::default()).is_err());
            prop_assert!(read_plain(&octets[..], &mut Collect::default()).is_err());
        }
    }
}
