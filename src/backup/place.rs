//! The state folder as a backup sees it: its lock, and how a restored state comes into its place so that a crash at any
//! moment leaves the old state or the new one.
//!
//! A restore is written into `restoring/` below the state folder. When all of it is on disk, the file `complete` in
//! there says so: from then on the restore happens, if need be by [`recover`] at the next start. What was there before
//! moves to `replaced-SECONDS/`, then `complete` becomes `moved`, then what was restored moves to where it belongs.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid, geteuid, getgid, getuid, setegid, seteuid};

use super::manifest::Part;

/// Where a restore is written to.
const RESTORING: &str = "restoring";
/// In it: all is there; holds the name for what was there before.
const COMPLETE: &str = "complete";
/// In it: what was there before is away.
const MOVED: &str = "moved";
/// Where a backup is made.
const BACKUP: &str = "backup";
/// What belongs to a state, the database before its log.
const STATE: [&str; 6] = ["queue.sqlite", "queue.sqlite-wal", "queue.sqlite-shm", "bodies", "identities", "incoming"];
/// What a backup restores, the database last.
const RESTORED: [&str; 3] = ["identities", "bodies", "queue.sqlite"];

/// Takes the lock by which one process at a time works in the state folder; `None` when another one has it.
///
/// # Errors
/// The lock's file cannot be made or locked.
pub fn lock(state_dir: &Path) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(state_dir.join("lock"))?;
    take(file)
}

fn take(file: File) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Root acts as the user whom the state folder belongs to, until this is dropped. What it makes there is that user's
/// from the first moment on, and links that lie there lead it nowhere that he may not go. Others are who they are.
pub struct AsOwner(bool);

impl AsOwner {
    /// Becomes the owner of `state_dir`. For the whole process: no other thread must rely on being root.
    ///
    /// # Errors
    /// The folder cannot be looked at, or the system refuses.
    pub fn of(state_dir: &Path) -> io::Result<Self> {
        let owner = fs::metadata(state_dir)?;
        let changes = geteuid().is_root() && owner.uid() != 0;
        if changes {
            setegid(Gid::from_raw(owner.gid()))?;
            // From here on dropping it undoes what was done.
            let guard = Self(true);
            seteuid(Uid::from_raw(owner.uid()))?;
            return Ok(guard);
        }
        Ok(Self(false))
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        // The real ids are still root's, so that nothing stands against it.
        if self.0 && seteuid(getuid()).and_then(|()| setegid(getgid())).is_err() {
            std::process::abort();
        }
    }
}

/// Makes a folder of mode 0700.
fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether anything is at `path` but an empty folder.
fn holds_something(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(fs::read_dir(path)?.next().is_some()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the state folder holds a database, identities or bodies.
///
/// # Errors
/// It cannot be read.
pub fn is_occupied(state_dir: &Path) -> io::Result<bool> {
    RESTORED.iter().try_fold(false, |found, name| Ok(found || holds_something(&state_dir.join(name))?))
}

/// Whether a restore is being made, or was interrupted: what lies in the state folder may be neither state then.
pub fn is_restoring(state_dir: &Path) -> bool {
    state_dir.join(RESTORING).exists()
}

/// A folder below the state folder in which a backup is gathered; it goes when this is dropped.
pub struct Gathering {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Gathering {
    /// Makes it, and removes what one that was killed has left; `None` when another backup is being made.
    ///
    /// # Errors
    /// The state folder cannot be written.
    pub fn begin(state_dir: &Path) -> io::Result<Option<Self>> {
        let path = state_dir.join(BACKUP);
        match make_folder(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let Some(lock) = take(File::open(&path)?)? else { return Ok(None) };
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }?;
        }
        make_folder(&path.join("bodies"))?;
        Ok(Some(Self { path, _lock: lock }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        // What cannot be removed the next start or backup removes.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A new file of mode 0600 that gets its name only when it is whole.
pub struct NewFile {
    path: PathBuf,
    beside: PathBuf,
    file: Option<File>,
}

impl NewFile {
    /// Makes it, under another name in the same folder.
    ///
    /// # Errors
    /// The folder cannot be written, or `path` is something else than a file.
    pub fn create(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there already, and no plain file"));
        }
        let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "this names no file"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let beside = path.with_file_name(hidden);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        Ok(Self { path: path.to_owned(), beside, file: Some(file) })
    }

    /// The file, to be written to.
    pub fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::Error::other("it is finished"))
    }

    /// Gives it its name, on disk with its content when this returns. A file of that name is replaced.
    ///
    /// # Errors
    /// Any step fails; nothing is left of it then, and the old file is still there.
    pub fn finish(mut self) -> io::Result<()> {
        self.file()?.sync_all()?;
        fs::rename(&self.beside, &self.path)?;
        self.file = None;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        sync(folder.unwrap_or(Path::new(".")))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// A state that is being restored. Dropped before [`Restoring::commit`], it leaves nothing.
pub struct Restoring {
    state_dir: PathBuf,
    path: PathBuf,
    done: bool,
}

impl Restoring {
    /// Begins to restore below the state folder, whose lock is held and which was [`recover`]ed.
    ///
    /// # Errors
    /// The state folder cannot be written.
    pub fn begin(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(RESTORING);
        make_folder(&path)?;
        let begun = Self { state_dir: state_dir.to_owned(), path, done: false };
        for folder in ["identities", "bodies"] {
            make_folder(&begun.path.join(folder))?;
        }
        Ok(begun)
    }

    /// Where it is written to, laid out as below the state folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new file of mode 0600 for a part.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn create(&self, part: &Part) -> io::Result<File> {
        let path = self.path.join(part.name());
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    }

    /// Puts what was restored, whose files are on disk, into its place. What was there before moves to
    /// `replaced-SECONDS` with these `seconds`, or the next that are free, whose path is returned. After an error it
    /// may still happen, at the next start.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn commit(mut self, seconds: i64) -> io::Result<Option<PathBuf>> {
        for folder in ["identities", "bodies", "."] {
            sync(&self.path.join(folder))?;
        }
        sync(&self.state_dir)?;
        let replaced = |seconds: i64| self.state_dir.join(format!("replaced-{seconds}"));
        let free = (seconds..).find(|seconds| !replaced(*seconds).exists()).unwrap_or(seconds);
        let beside = self.path.join("complete.new");
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        writeln!(file, "replaced-{free}")?;
        file.sync_all()?;
        self.done = true;
        fs::rename(&beside, self.path.join(COMPLETE))?;
        sync(&self.path)?;
        put_in_place(&self.state_dir)
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        if !self.done {
            // What cannot be removed the next start removes.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// What [`recover`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// No restore was interrupted.
    Nothing,
    /// One was interrupted before all of it was there: the state is what it was before.
    Undone,
    /// One was interrupted after that: the state is the restored one; what was there before is at this path.
    Finished(Option<PathBuf>),
}

/// Finishes or undoes a restore that was interrupted, and removes what is left of a backup that was. The lock is held.
///
/// # Errors
/// The state folder cannot be read or written.
pub fn recover(state_dir: &Path) -> io::Result<Recovered> {
    let backup = state_dir.join(BACKUP);
    match File::open(&backup) {
        // One that is being made now keeps its folder.
        Ok(folder) => {
            if let Some(_lock) = take(folder)? {
                remove_folder(&backup)?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let restoring = state_dir.join(RESTORING);
    if !restoring.exists() {
        return Ok(Recovered::Nothing);
    }
    if restoring.join(COMPLETE).exists() || restoring.join(MOVED).exists() {
        return Ok(Recovered::Finished(put_in_place(state_dir)?));
    }
    // The last step of all is to remove the empty folder.
    let undone = fs::read_dir(&restoring)?.next().is_some();
    remove_folder(&restoring)?;
    Ok(if undone { Recovered::Undone } else { Recovered::Nothing })
}

/// The steps after `complete`. Each can be done again.
fn put_in_place(state_dir: &Path) -> io::Result<Option<PathBuf>> {
    let restoring = state_dir.join(RESTORING);
    let (complete, moved) = (restoring.join(COMPLETE), restoring.join(MOVED));
    let name = fs::read_to_string(if complete.exists() { &complete } else { &moved })?;
    let seconds = name.trim_end().strip_prefix("replaced-").and_then(|seconds| seconds.parse::<i64>().ok());
    let seconds = seconds.ok_or_else(|| io::Error::other(format!("{} is damaged", restoring.display())))?;
    let replaced = state_dir.join(format!("replaced-{seconds}"));
    if complete.exists() {
        for name in STATE {
            let old = state_dir.join(name);
            if holds_something(&old)? {
                if !replaced.exists() {
                    make_folder(&replaced)?;
                }
                fs::rename(old, replaced.join(name))?;
            }
        }
        if replaced.exists() {
            sync(&replaced)?;
        }
        sync(state_dir)?;
        fs::rename(&complete, &moved)?;
        sync(&restoring)?;
    }
    for name in RESTORED {
        let new = restoring.join(name);
        if new.exists() {
            // An empty folder may be in the way, and gives way.
            fs::rename(new, state_dir.join(name))?;
        }
    }
    sync(state_dir)?;
    sync(&restoring)?;
    fs::remove_file(&moved)?;
    fs::remove_dir(&restoring)?;
    sync(state_dir)?;
    Ok(replaced.exists().then_some(replaced))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("written");
    }

    fn old_state(state: &Path) {
        for name in ["queue.sqlite", "queue.sqlite-wal", "identities/alice.tox", "bodies/Q1", "incoming/alice/x"] {
            put(&state.join(name), "old");
        }
        fs::write(state.join("lock"), "").expect("written");
    }

    fn restored(state: &Path) -> Restoring {
        let restoring = Restoring::begin(state).expect("begun");
        for part in [Part::Identity("alice".into()), Part::Database, Part::Body("Q2".into())] {
            restoring.create(&part).and_then(|mut file| file.write_all(b"new")).expect("written");
        }
        restoring
    }

    fn assert_new(state: &Path, replaced: Option<&Path>) {
        let read = |path: PathBuf| fs::read_to_string(path).ok();
        for name in ["queue.sqlite", "identities/alice.tox", "bodies/Q2"] {
            assert_eq!(read(state.join(name)).as_deref(), Some("new"), "{name}");
        }
        for name in ["queue.sqlite-wal", "bodies/Q1", "incoming", RESTORING] {
            assert!(!state.join(name).exists(), "{name} is away");
        }
        if let Some(replaced) = replaced {
            for name in ["queue.sqlite", "queue.sqlite-wal", "identities/alice.tox", "bodies/Q1", "incoming/alice/x"] {
                assert_eq!(read(replaced.join(name)).as_deref(), Some("old"), "{name}");
            }
        }
    }

    #[test]
    fn a_restored_state_takes_its_place_and_the_old_one_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path();
        for empty in ["identities", "bodies"] {
            fs::create_dir(state.join(empty)).expect("made");
        }
        assert!(!is_occupied(state).expect("read"), "empty folders are nothing");
        assert_eq!(restored(state).commit(5).expect("done"), None);
        assert_new(state, None);
        assert!(is_occupied(state).expect("read"));

        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path();
        old_state(state);
        let replaced = restored(state).commit(7).expect("done").expect("there was something");
        assert_eq!(replaced, state.join("replaced-7"));
        assert_new(state, Some(&replaced));
        assert_eq!(recover(state).expect("nothing to do"), Recovered::Nothing);
    }

    #[test]
    fn a_restore_interrupted_before_it_is_complete_never_happened() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path();
        old_state(state);
        drop(restored(state));
        assert!(!state.join(RESTORING).exists(), "given up");
        std::mem::forget(restored(state));
        assert!(is_restoring(state));
        assert_eq!(recover(state).expect("undone"), Recovered::Undone);
        assert!(!state.join(RESTORING).exists());
        assert_eq!(fs::read_to_string(state.join("identities/alice.tox")).expect("there"), "old");
    }

    #[test]
    fn a_restore_interrupted_at_any_later_step_is_finished() {
        // The state after each rename of `put_in_place`: the first `moves` old names are away, `placed` new ones are
        // there.
        for moves in 0..=STATE.len() {
            for placed in 0..=if moves == STATE.len() { RESTORED.len() } else { 0 } {
                let folder = tempfile::tempdir().expect("a folder");
                let state = folder.path();
                old_state(state);
                let mut restoring = restored(state);
                restoring.done = true;
                let marker = if placed > 0 { MOVED } else { COMPLETE };
                fs::write(restoring.path.join(marker), "replaced-9\n").expect("written");
                let replaced = state.join("replaced-9");
                for name in &STATE[..moves] {
                    if state.join(name).exists() {
                        fs::create_dir_all(&replaced).expect("made");
                        fs::rename(state.join(name), replaced.join(name)).expect("moved");
                    }
                }
                for name in &RESTORED[..placed] {
                    fs::rename(restoring.path.join(name), state.join(name)).expect("placed");
                }
                drop(restoring);
                assert_eq!(recover(state).expect("finished"), Recovered::Finished(Some(replaced.clone())));
                assert_new(state, Some(&replaced));
            }
        }
    }

    #[test]
    fn one_backup_at_a_time_and_a_killed_one_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path();
        let first = Gathering::begin(state).expect("begun").expect("alone");
        assert!(Gathering::begin(state).expect("asked").is_none(), "one at a time");
        put(&first.path().join("bodies/Q1"), "x");
        assert_eq!(recover(state).expect("nothing"), Recovered::Nothing);
        assert!(first.path().join("bodies/Q1").exists(), "a start leaves one alone that is being made");
        drop(first);
        put(&state.join("backup/bodies/Q1"), "left by one that was killed");
        put(&state.join("backup/queue.sqlite"), "x");
        let second = Gathering::begin(state).expect("begun").expect("alone");
        assert_eq!(fs::read_dir(second.path().join("bodies")).expect("there").count(), 0);
        drop(second);
        put(&state.join("backup/queue.sqlite"), "x");
        recover(state).expect("removed");
        assert!(!state.join("backup").exists());
    }

    #[test]
    fn a_file_gets_its_name_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("b.age");
        put(&path, "old");
        let new = NewFile::create(&path).expect("made");
        new.file().expect("open").write_all(b"half").expect("written");
        drop(new);
        assert_eq!(fs::read_to_string(&path).expect("there"), "old");
        let new = NewFile::create(&path).expect("made");
        new.file().expect("open").write_all(b"whole").expect("written");
        new.finish().expect("finished");
        assert_eq!(fs::read_to_string(&path).expect("there"), "whole");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1, "nothing else is left");
        assert!(NewFile::create(folder.path()).is_err() && NewFile::create(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn the_lock_is_held_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = lock(folder.path()).expect("locked");
        assert!(held.is_some() && lock(folder.path()).expect("asked").is_none());
        drop(held);
        assert!(lock(folder.path()).expect("locked").is_some());
    }
}
