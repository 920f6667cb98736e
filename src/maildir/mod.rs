//! Durable delivery of one mail into a Maildir (<https://cr.yp.to/proto/maildir.html>).
//!
//! Owns the order of system calls that makes a delivery durable and never overwrites; which names to use, when to
//! publish and what was stored before is the caller's knowledge. Uses only std, nix and log. The order of a delivery:
//! [`Maildir::create`], write, [`Staged::sync`], [`Maildir::sync_tmp`], record the intent, [`Maildir::publish`],
//! [`Maildir::sync_new`]; only then is the mail stored. [`Maildir::admits`] asks before, where the Maildir has a quota.

mod quota;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, close, linkat, unlinkat};

/// Octets gathered before a write.
const BUFFER: usize = 128 * 1024;
/// The longest name taken: leaves room for flags and sizes that readers append (file names end at 255 octets).
const MAX_NAME: usize = 200;
/// How often `cur/` is read again because it changed while it was read.
const MAX_SCANS: usize = 5;

/// The same kind of error, with the path in its words: whoever reads the log must know which file it is about.
fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// One of the three directories, kept open so that every step of a delivery meets the same one.
#[derive(Debug)]
struct Directory {
    fd: File,
    path: PathBuf,
}

impl Directory {
    fn open(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::metadata(&path).map_err(at(&path))?;
        if !metadata.is_dir() {
            return Err(at(&path)(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        let fd = File::open(&path).map_err(at(&path))?;
        Ok(Self { fd, path })
    }

    fn sync(&self) -> io::Result<()> {
        self.fd.sync_all().map_err(at(&self.path))
    }

    fn has(&self, name: &str) -> io::Result<bool> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(self.failed(name, errno)),
        }
    }

    /// Unlinks `name`; whether it was there.
    fn unlink(&self, name: &str) -> io::Result<bool> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(self.failed(name, errno)),
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        // A new file description: two scans must not share one position.
        let mut dir = Dir::openat(&self.fd, ".", flags, Mode::empty()).map_err(|e| at(&self.path)(e.into()))?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|errno| at(&self.path)(errno.into()))?;
            // Our names are ASCII; what is no UTF-8 is not ours.
            if let Ok(name) = entry.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// When an entry last changed, in nanoseconds, to notice changes during a scan.
    fn changed(&self) -> io::Result<(i64, i64)> {
        let stat = fstat(&self.fd).map_err(|errno| at(&self.path)(errno.into()))?;
        Ok((stat.st_mtime, stat.st_mtime_nsec))
    }

    /// Whether the path still leads to the directory that is open here.
    fn still_there(&self) -> io::Result<()> {
        let now = fs::metadata(&self.path).map_err(at(&self.path))?;
        let open = self.fd.metadata().map_err(at(&self.path))?;
        if (now.dev(), now.ino()) == (open.dev(), open.ino()) {
            return Ok(());
        }
        let words = "the directory was replaced while in use; the Maildir must be opened again";
        Err(at(&self.path)(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, words)))
    }

    fn failed(&self, name: &str, errno: Errno) -> io::Error {
        at(&self.path.join(name))(errno.into())
    }
}

/// Where [`Maildir::find`] found a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In `tmp/` only: not delivered.
    Tmp,
    /// In `new/`: delivered, not yet seen by a reader.
    New,
    /// In `cur/`: delivered and seen by a reader.
    Cur,
}

/// One Maildir, open. After its directories were moved away or replaced it refuses to create mails rather than fill the
/// old ones unseen; open it again then.
#[derive(Debug)]
pub struct Maildir {
    root: PathBuf,
    tmp: Arc<Directory>,
    new: Directory,
    cur: Directory,
}

/// Makes `path` with mode 0700, its parents before it, and makes each of them durable.
fn make(path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        if ancestor.try_exists().map_err(at(ancestor))? {
            break;
        }
        missing.push(ancestor);
    }
    for directory in missing.into_iter().rev() {
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(at(directory))?,
        }
        sync_directory(parent(directory))?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at(path))
}

/// Refuses names that would leave the directory, hide from readers or be taken for a name with flags.
fn check(name: &str) -> io::Result<()> {
    let fine = |octet: u8| octet.is_ascii_graphic() && !matches!(octet, b'/' | b':');
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.bytes().all(fine) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name for a mail")));
    }
    Ok(())
}

impl Maildir {
    /// Opens the Maildir at `root`. What is missing of `root`, its parents, `cur/`, `new/` and `tmp/` is made with mode
    /// 0700 and is durable on return; what exists keeps its mode.
    ///
    /// # Errors
    /// A directory cannot be made, opened or synced.
    pub fn open(root: &Path) -> io::Result<Self> {
        make(root)?;
        for name in ["tmp", "new", "cur"] {
            make(&root.join(name))?;
        }
        // An earlier run may have made the directories and died before it synced them.
        sync_directory(root)?;
        match sync_directory(parent(root)) {
            // Not ours to read, then not made by us either: a directory made above was synced above.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
        Ok(Self {
            root: root.to_owned(),
            tmp: Arc::new(Directory::open(root.join("tmp"))?),
            new: Directory::open(root.join("new"))?,
            cur: Directory::open(root.join("cur"))?,
        })
    }

    /// Creates `tmp/NAME`, mode 0600.
    ///
    /// # Errors
    /// The name exists in `tmp/` (`AlreadyExists`) or is none (`InvalidInput`), the Maildir was replaced, or any other
    /// failure of the file system.
    pub fn create(&self, name: &str) -> io::Result<Staged> {
        check(name)?;
        self.tmp.still_there()?;
        self.new.still_there()?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.tmp.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| self.tmp.failed(name, errno))?;
        let writer = BufWriter::with_capacity(BUFFER, File::from(fd));
        Ok(Staged { writer: Some(writer), tmp: Arc::clone(&self.tmp), name: name.to_owned() })
    }

    /// Makes the entries of `tmp/` durable.
    ///
    /// # Errors
    /// The fsync failed.
    pub fn sync_tmp(&self) -> io::Result<()> {
        self.tmp.sync()
    }

    /// Whether its quota (`maildirsize`) has room for a mail of `octets`; always, where it has none.
    ///
    /// # Errors
    /// The quota cannot be read.
    pub fn admits(&self, octets: u64) -> io::Result<bool> {
        quota::admits(&self.root, octets, SystemTime::now())
    }

    /// Moves `tmp/NAME` to `new/NAME`, never over another file, and adds it to the quota where there is one. Not durable
    /// before [`Self::sync_new`].
    ///
    /// # Errors
    /// `new/NAME` exists (`AlreadyExists`), `tmp/NAME` does not (`NotFound`), or any other failure.
    pub fn publish(&self, name: &str) -> io::Result<()> {
        check(name)?;
        let size = fstatat(&self.tmp.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| stat.st_size);
        match renameat2(&self.tmp.fd, name, &self.new.fd, name, RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EINVAL | Errno::ENOSYS) => self.publish_by_link(name),
            other => other.map_err(|errno| self.new.failed(name, errno)),
        }?;
        // A count that is wrong is made anew some day; the mail is there.
        let octets = size.ok().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        if let Err(error) = quota::added(&self.root, octets) {
            log::warn!("the quota does not count a mail: {error}");
        }
        Ok(())
    }

    /// The older way for file systems (NFS, some FUSE) that do not know the flag: link(2) never replaces either.
    fn publish_by_link(&self, name: &str) -> io::Result<()> {
        linkat(&self.tmp.fd, name, &self.new.fd, name, AtFlags::empty())
            .map_err(|errno| self.new.failed(name, errno))?;
        // Published already: a second name in tmp/ is rubbish that `find` does not count and `discard` removes.
        if let Err(error) = self.tmp.unlink(name) {
            log::warn!("left behind after delivery: {error}");
        }
        Ok(())
    }

    /// Makes the entries of `new/` durable: after it a published mail is stored.
    ///
    /// # Errors
    /// The fsync failed.
    pub fn sync_new(&self) -> io::Result<()> {
        self.new.sync()
    }

    /// Looks for the mail NAME, with or without flags. A mail that the user moved to another folder or deleted is not
    /// found. The places are looked through in the order in which a mail travels, so that one on its way is not missed.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn find(&self, name: &str) -> io::Result<Option<Place>> {
        check(name)?;
        let staged = self.tmp.has(name)?;
        if self.new.has(name)? || contains(&self.new, name)? {
            return Ok(Some(Place::New));
        }
        if contains(&self.cur, name)? {
            return Ok(Some(Place::Cur));
        }
        Ok(staged.then_some(Place::Tmp))
    }

    /// Removes `tmp/NAME`; that it is not there is fine. Needs no sync: a leftover comes back at worst.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub fn discard(&self, name: &str) -> io::Result<()> {
        check(name)?;
        self.tmp.unlink(name).map(drop)
    }

    /// The names in `tmp/` that [`unique_name`] made, on whatever host: what a crash left behind.
    ///
    /// # Errors
    /// `tmp/` cannot be read.
    pub fn staged_names(&self) -> io::Result<Vec<String>> {
        let mut names = self.tmp.names()?;
        names.retain(|name| is_ours(name));
        names.sort();
        Ok(names)
    }
}

/// Whether `directory` holds NAME itself, or NAME and what readers append: `:2,S`, or `;2,S`, `!2,S` where the file
/// system has no colons, or sizes `,S=…`. Read again when it changed meanwhile: a rename can hide an entry from
/// readdir.
fn contains(directory: &Directory, name: &str) -> io::Result<bool> {
    for _ in 0..MAX_SCANS {
        let before = directory.changed()?;
        let ours = |entry: &String| {
            entry.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', ';', '!', ',']))
        };
        if directory.names()?.iter().any(ours) {
            return Ok(true);
        }
        if directory.changed()? == before {
            break;
        }
    }
    Ok(false)
}

/// A mail being written to `tmp/`. Dropped before [`Staged::sync`] has succeeded it is unlinked.
#[derive(Debug)]
pub struct Staged {
    writer: Option<BufWriter<File>>,
    tmp: Arc<Directory>,
    name: String,
}

impl Staged {
    fn path(&self) -> PathBuf {
        self.tmp.path.join(&self.name)
    }

    /// Writes out what is buffered, makes the file durable and closes it. The file's name is durable only after
    /// [`Maildir::sync_tmp`] or, published, [`Maildir::sync_new`].
    ///
    /// # Errors
    /// A write, the fsync or the close failed; the file is removed then. A failed fsync is never tried again, because
    /// the kernel may have dropped the very pages that failed.
    pub fn sync(mut self) -> io::Result<()> {
        let path = self.path();
        if let Some(mut writer) = self.writer.take() {
            let stored = writer.flush().and_then(|()| writer.get_ref().sync_all()).and_then(|()| {
                let (file, _) = writer.into_parts();
                match close(OwnedFd::from(file)) {
                    // Linux has closed it all the same.
                    Ok(()) | Err(Errno::EINTR) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            });
            if let Err(error) = stored {
                self.remove();
                return Err(at(&path)(error));
            }
        }
        Ok(())
    }

    fn remove(&self) {
        if let Err(error) = self.tmp.unlink(&self.name) {
            log::warn!("cannot remove an unfinished mail: {error}");
        }
    }
}

impl Write for Staged {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match &mut self.writer {
            Some(writer) => writer.write(octets).map_err(|error| at(&self.tmp.path.join(&self.name))(error)),
            None => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Some(writer) => writer.flush().map_err(|error| at(&self.tmp.path.join(&self.name))(error)),
            None => Ok(()),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // Taken apart so that BufWriter does not write out what is thrown away.
            drop(writer.into_parts());
            self.remove();
        }
    }
}

/// A name that no other delivery uses: `SECONDS.M<usec>P<pid>Q<sequence>T<16 hexadecimal digits>.HOST`. Without `S=`: a
/// wrong size is worse than none for Dovecot.
pub fn unique_name(now_ms: i64, pid: u32, sequence: u64, random: [u8; 8], hostname: &str) -> String {
    let now = now_ms.max(0);
    let (seconds, micros) = (now / 1000, now % 1000 * 1000);
    let random = u64::from_be_bytes(random);
    let mut name = format!("{seconds}.M{micros}P{pid}Q{sequence}T{random:016x}.");
    let host = if hostname.is_empty() { "localhost" } else { hostname };
    for c in host.chars() {
        let room = MAX_NAME - name.len();
        match c {
            // The escapes of the Maildir specification, and one for the comma that starts Dovecot's sizes.
            '/' | ':' | ',' if room >= 4 => {
                name.push_str(match c {
                    '/' => "\\057",
                    ':' => "\\072",
                    _ => "\\054",
                });
            }
            c if c.is_ascii_graphic() && !matches!(c, '/' | ':' | ',' | ';' | '!') && room >= 1 => name.push(c),
            _ if room >= 4 => name.push('_'),
            _ => break,
        }
    }
    name
}

/// Whether [`unique_name`] made `name`.
fn is_ours(name: &str) -> bool {
    fn digits(text: &str) -> Option<&str> {
        let count = text.bytes().take_while(u8::is_ascii_digit).count();
        if (1..=20).contains(&count) { Some(&text[count..]) } else { None }
    }
    let tail = || {
        let rest = digits(name)?.strip_prefix(".M")?;
        let rest = digits(rest)?.strip_prefix('P')?;
        let rest = digits(rest)?.strip_prefix('Q')?;
        let rest = digits(rest)?.strip_prefix('T')?;
        let (random, host) = rest.split_once('.')?;
        let hex = |octet: u8| matches!(octet, b'0'..=b'9' | b'a'..=b'f');
        Some(random.len() == 16 && random.bytes().all(hex) && !host.is_empty())
    };
    tail().unwrap_or(false) && check(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::thread;

    const NAME: &str = "1.M2P3Q4T00000000000000ff.host";

    fn maildir() -> (tempfile::TempDir, PathBuf, Maildir) {
        let directory = tempfile::tempdir().expect("tempdir");
        let root = directory.path().join("a/b/Maildir");
        let maildir = Maildir::open(&root).expect("open");
        (directory, root, maildir)
    }

    fn stage(maildir: &Maildir, name: &str, text: &[u8]) {
        let mut staged = maildir.create(name).expect("create");
        staged.write_all(text).expect("write");
        staged.sync().expect("sync");
    }

    fn deliver(maildir: &Maildir, name: &str, text: &[u8]) -> io::Result<()> {
        stage(maildir, name, text);
        maildir.sync_tmp()?;
        maildir.publish(name)?;
        maildir.sync_new()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
    }

    #[test]
    fn a_mail_is_delivered_with_the_right_modes() {
        let (directory, root, maildir) = maildir();
        deliver(&maildir, NAME, b"Subject: x\n\nbody\n").expect("deliver");
        assert_eq!(fs::read(root.join("new").join(NAME)).expect("read"), b"Subject: x\n\nbody\n");
        assert_eq!(fs::read_dir(root.join("tmp")).expect("tmp").count(), 0);
        assert_eq!(mode(&root.join("new").join(NAME)), 0o600);
        for made in ["a", "a/b", "a/b/Maildir", "a/b/Maildir/tmp", "a/b/Maildir/new", "a/b/Maildir/cur"] {
            assert_eq!(mode(&directory.path().join(made)), 0o700, "{made}");
        }
    }

    #[test]
    fn what_exists_keeps_its_mode_and_what_is_no_directory_is_named() {
        let directory = tempfile::tempdir().expect("tempdir");
        let root = directory.path().join("m");
        fs::create_dir(&root).expect("mkdir");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o750)).expect("chmod");
        Maildir::open(&root).expect("open");
        assert_eq!(mode(&root), 0o750);
        fs::remove_dir(root.join("cur")).expect("rmdir");
        fs::write(root.join("cur"), "").expect("write");
        let error = Maildir::open(&root).expect_err("a file");
        assert!(error.to_string().contains("m/cur"), "{error}");
        assert!(Maildir::open(&root.join("cur/x")).is_err());
    }

    #[test]
    fn nothing_is_ever_overwritten() {
        let (_directory, root, maildir) = maildir();
        deliver(&maildir, NAME, b"first").expect("deliver");
        stage(&maildir, NAME, b"second");
        assert_eq!(maildir.create(NAME).expect_err("exists").kind(), io::ErrorKind::AlreadyExists);
        let error = maildir.publish(NAME).expect_err("exists");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(NAME), "{error}");
        assert_eq!(maildir.publish_by_link(NAME).expect_err("exists").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(root.join("new").join(NAME)).expect("read"), b"first");
        assert_eq!(maildir.find(NAME).expect("find"), Some(Place::New));
        maildir.discard(NAME).expect("discard");
        maildir.discard(NAME).expect("nothing there is fine");
        assert_eq!(maildir.publish(NAME).expect_err("gone").kind(), io::ErrorKind::NotFound);
        // A symbolic link lying in wait is not followed.
        symlink(root.join("elsewhere"), root.join("tmp").join(NAME)).expect("symlink");
        assert!(maildir.create(NAME).is_err());
        assert!(!root.join("elsewhere").exists());
    }

    #[test]
    fn the_way_without_renameat2_delivers_too() {
        let (_directory, root, maildir) = maildir();
        stage(&maildir, NAME, b"x");
        maildir.publish_by_link(NAME).expect("publish");
        assert!(root.join("new").join(NAME).exists() && !root.join("tmp").join(NAME).exists());
        // A crash between link and unlink leaves both names: the mail is published.
        fs::hard_link(root.join("new").join(NAME), root.join("tmp").join(NAME)).expect("link");
        assert_eq!(maildir.find(NAME).expect("find"), Some(Place::New));
    }

    #[test]
    fn an_unfinished_mail_is_removed() {
        let (_directory, root, maildir) = maildir();
        let mut staged = maildir.create(NAME).expect("create");
        staged.write_all(&vec![b'x'; 3 * BUFFER]).expect("write");
        assert_eq!(maildir.find(NAME).expect("find"), Some(Place::Tmp));
        drop(staged);
        assert!(!root.join("tmp").join(NAME).exists());
        assert_eq!(maildir.find(NAME).expect("find"), None);
    }

    #[test]
    fn leftovers_of_a_crash_are_found() {
        let (_directory, root, maildir) = maildir();
        stage(&maildir, NAME, b"x");
        for other in ["1.M2P3.host", "1.M2P3Q4T00000000000000fg.host", "junk", "1.M2P3Q4T00000000000000ff."] {
            fs::write(root.join("tmp").join(other), "").expect("write");
        }
        assert_eq!(Maildir::open(&root).expect("again").staged_names().expect("names"), [NAME]);
    }

    #[test]
    fn mails_are_found_with_their_flags() {
        let (_directory, root, maildir) = maildir();
        assert_eq!(maildir.find(NAME).expect("find"), None);
        fs::write(root.join(format!("cur/{NAME}2:2,S")), "").expect("another mail");
        assert_eq!(maildir.find(NAME).expect("find"), None);
        for (file, place) in [
            ("cur/NAME:2,", Place::Cur),
            ("cur/NAME:2,RS", Place::Cur),
            ("cur/NAME;2,S", Place::Cur),
            ("cur/NAME,S=3:2,S", Place::Cur),
            ("cur/NAME", Place::Cur),
            ("new/NAME:2,S", Place::New),
            ("new/NAME", Place::New),
            ("tmp/NAME", Place::Tmp),
        ] {
            let path = root.join(file.replace("NAME", NAME));
            fs::write(&path, "").expect("write");
            assert_eq!(maildir.find(NAME).expect("find"), Some(place), "{file}");
            fs::remove_file(&path).expect("unlink");
        }
    }

    #[test]
    fn bad_names_are_refused() {
        let (_directory, _root, maildir) = maildir();
        for name in ["", ".", "..", ".x", "a/b", "../x", "a:2,S", "a b", "a\0", "å", &"x".repeat(201)] {
            assert_eq!(maildir.create(name).expect_err(name).kind(), io::ErrorKind::InvalidInput, "{name:?}");
            assert!(maildir.publish(name).is_err() && maildir.find(name).is_err() && maildir.discard(name).is_err());
        }
    }

    #[test]
    fn a_replaced_maildir_is_noticed() {
        let (_directory, root, maildir) = maildir();
        fs::rename(&root, root.with_extension("old")).expect("rename");
        assert!(maildir.create(NAME).is_err());
        Maildir::open(&root).expect("a new one");
        let error = maildir.create(NAME).expect_err("replaced");
        assert!(error.to_string().contains("replaced"), "{error}");
    }

    #[test]
    fn names_are_unique_clean_and_recognised() {
        let name = unique_name(1_700_000_000_123, 7, 9, [0xab; 8], "mail.example");
        assert_eq!(name, "1700000000.M123000P7Q9Tabababababababab.mail.example");
        assert!(unique_name(-5, 1, 1, [0; 8], "a/b:c,d e\né").ends_with(".a\\057b\\072c\\054d_e__"));
        for host in ["", "x", "a/b:c", &"é/".repeat(300), &"x".repeat(300)] {
            let name = unique_name(i64::MAX, u32::MAX, u64::MAX, [0xff; 8], host);
            assert!(check(&name).is_ok() && is_ours(&name), "{name}");
        }
    }

    #[test]
    fn two_threads_deliver_at_once() {
        let (_directory, root, maildir) = maildir();
        thread::scope(|scope| {
            for thread in 0..2u32 {
                let maildir = &maildir;
                scope.spawn(move || {
                    for sequence in 0..50 {
                        let name = unique_name(1, thread, sequence, [0; 8], "h");
                        deliver(maildir, &name, name.as_bytes()).expect("deliver");
                    }
                });
            }
            // And both fight for one name: exactly one wins, whatever the timing.
            let root = &root;
            let winners: HashSet<bool> = [1u8, 2]
                .map(|text| scope.spawn(move || deliver_one(root, text)))
                .into_iter()
                .map(|handle| handle.join().expect("join"))
                .collect();
            assert_eq!(winners, HashSet::from([true, false]));
        });
        let mut count = 0;
        for entry in fs::read_dir(root.join("new")).expect("new") {
            let path = entry.expect("entry").path();
            if !path.ends_with("same") {
                assert_eq!(fs::read(&path).expect("read"), path.file_name().expect("name").as_encoded_bytes());
                count += 1;
            }
        }
        assert_eq!(count, 100);
    }

    /// Whether this delivery under a contested name won.
    fn deliver_one(root: &Path, text: u8) -> bool {
        let maildir = Maildir::open(root).expect("open");
        let own = format!("own{text}");
        stage(&maildir, &own, &[text]);
        let won = linkat(&maildir.tmp.fd, own.as_str(), &maildir.tmp.fd, "same", AtFlags::empty()).is_ok()
            && maildir.publish("same").is_ok();
        maildir.discard(&own).expect("discard");
        won
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_nothing() {
        let directory = tempfile::tempdir().expect("tempdir");
        let target = directory.path();
        let mount = |program: &str, arguments: &[&str]| {
            let run = std::process::Command::new(program).args(arguments).arg(target).output();
            run.is_ok_and(|output| output.status.success())
        };
        if !mount("mount", &["-t", "tmpfs", "-o", "size=256k", "tmpfs"]) {
            eprintln!("skipped: cannot mount a tmpfs here (needs root and CAP_SYS_ADMIN)");
            return;
        }
        let outcome = std::panic::catch_unwind(|| {
            let maildir = Maildir::open(target).expect("open");
            let mut staged = maildir.create(NAME).expect("create");
            let written = staged.write_all(&vec![b'x'; 1 << 20]);
            let error = written.and_then(|()| staged.sync()).expect_err("full");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert!(error.to_string().contains(NAME), "{error}");
            assert_eq!(maildir.find(NAME).expect("find"), None);
            // Small enough for the buffer: the error comes with sync, and still nothing is left.
            let mut filler = maildir.create("filler").expect("create");
            while filler.write_all(&[b'x'; 4096]).and_then(|()| filler.flush()).is_ok() {}
            if let Ok(mut staged) = maildir.create(NAME) {
                staged.write_all(b"small").expect("buffered");
                assert_eq!(staged.sync().expect_err("full").kind(), io::ErrorKind::StorageFull);
            }
            drop(filler);
            assert_eq!(maildir.tmp.names().expect("names").iter().filter(|name| !name.starts_with('.')).count(), 0);
            deliver(&maildir, NAME, b"room again").expect("deliver");
        });
        assert!(mount("umount", &[]), "umount");
        assert!(outcome.is_ok());
    }
}
