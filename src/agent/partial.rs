//! The files in which unfinished incoming bulk mail grows. They are not fsynced: what a crash spoils is found by the
//! digest, and the mail is sent again from its beginning.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::engine::transfer::PartialKey;
use crate::identity::tox_id::PublicKey;

/// How many files one peer may leave unfinished; the oldest goes first.
const MAX_FILES: usize = 32;
/// How long an unfinished file is kept.
const KEEP: Duration = Duration::from_secs(7 * 86_400);

/// The partial files of one account.
pub struct Partials {
    folder: PathBuf,
}

/// Where the partial file `key` of `peer` is, below an account's folder.
pub fn path(folder: &Path, peer: &PublicKey, key: &PartialKey) -> PathBuf {
    folder.join(peer.to_string()).join(&key.0)
}

/// Removes a partial file; that it is not there is fine.
pub fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", path.display());
    }
}

impl Partials {
    /// The partial files below `folder`, which is made if it is not there. Old ones are removed.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn new(folder: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let partials = Self { folder };
        partials.sweep()?;
        Ok(partials)
    }

    /// Removes the files that have not grown for a week.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn sweep(&self) -> io::Result<()> {
        for peer in fs::read_dir(&self.folder)? {
            for file in files(&peer?.path())? {
                if SystemTime::now().duration_since(file.0).is_ok_and(|age| age > KEEP) {
                    remove(&file.1);
                }
            }
        }
        Ok(())
    }

    /// The length of a file, in octets; 0 when there is none, and then room is made for it.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn length(&self, peer: &PublicKey, key: &PartialKey) -> io::Result<u64> {
        match fs::metadata(path(&self.folder, peer, key)) {
            Ok(metadata) => return Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let folder = self.folder.join(peer.to_string());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut old = files(&folder)?;
        old.sort();
        let excess = (old.len() + 1).saturating_sub(MAX_FILES);
        old.iter().take(excess).for_each(|(_, path)| remove(path));
        Ok(0)
    }

    /// Writes a piece where it belongs.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn append(&self, peer: &PublicKey, key: &PartialKey, offset: u64, octets: &[u8]) -> io::Result<()> {
        // Opened for each piece of 64 KiB: a peer that begins and drops transfers holds neither descriptors nor the
        // space of files that were removed.
        let path = path(&self.folder, peer, key);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.write_all_at(octets, offset)
    }
}

/// Age and path of each file in a folder.
fn files(folder: &Path) -> io::Result<Vec<(SystemTime, PathBuf)>> {
    fs::read_dir(folder)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.metadata()?.modified()?, entry.path()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_grow_across_restarts_and_stay_few() {
        let folder = tempfile::tempdir().expect("a folder");
        let peer = PublicKey([1; 32]);
        let key = |n: usize| PartialKey(format!("{n:040}"));
        let partials = Partials::new(folder.path().join("alice")).expect("made");
        assert_eq!(partials.length(&peer, &key(0)).expect("length"), 0);
        partials.append(&peer, &key(0), 0, b"hello ").expect("written");
        partials.append(&peer, &key(0), 6, b"world").expect("written");
        let partials = Partials::new(folder.path().join("alice")).expect("made again");
        assert_eq!(partials.length(&peer, &key(0)).expect("length"), 11);
        for n in 1..100 {
            partials.length(&peer, &key(n)).expect("length");
            partials.append(&peer, &key(n), 0, b"x").expect("written");
        }
        assert_eq!(fs::read_dir(folder.path().join("alice").join(peer.to_string())).expect("list").count(), MAX_FILES);
    }
}
