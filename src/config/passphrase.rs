//! The passphrase of an account's Tox savedata.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::ConfigError;

/// Where a passphrase is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassphraseSource {
    /// In a file; absolute.
    File(PathBuf),
    /// In the credential of this name, which systemd passes to the service (`LoadCredential=`).
    Credential(String),
}

impl PassphraseSource {
    /// Its file: of a credential that of systemd.exec(5), "CREDENTIALS".
    ///
    /// # Errors
    /// No credentials were passed to this process.
    pub fn file(&self) -> Result<PathBuf, ConfigError> {
        match self {
            Self::File(file) => Ok(file.clone()),
            Self::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => Ok(Path::new(&folder).join(name)),
                None => Err(ConfigError::of_file(
                    Path::new(name),
                    "the credential was not passed: start by systemd, with LoadCredential= in the unit",
                )),
            },
        }
    }
}

/// The longest passphrase, in octets.
const MAX: usize = 4096;

/// A passphrase read from its file; the memory is wiped on drop and no format shows it.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Reads the passphrase in `file`: its octets without one final newline.
    ///
    /// # Errors
    /// The file cannot be read, is no regular file, can be read by group or others (files under systemd's
    /// `$CREDENTIALS_DIRECTORY` excepted: their access lists show up as group bits), is empty or is longer than 4096
    /// octets.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self::read_with(file, credentials.as_deref())
    }

    fn read_with(path: &Path, credentials: Option<&Path>) -> Result<Self, ConfigError> {
        let fail = |text: String| ConfigError::of_file(path, text);
        let io = |error: std::io::Error| fail(format!("cannot read the passphrase: {error}"));
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(fail("the passphrase file is no regular file".into()));
        }
        let forbidden = if credentials.is_some_and(|folder| path.starts_with(folder)) { 0o007 } else { 0o077 };
        if metadata.mode() & forbidden != 0 {
            let mode = metadata.mode() & 0o7777;
            return Err(fail(format!(
                "others may read the passphrase (mode {mode:04o}): chmod 600 {}",
                path.display()
            )));
        }
        // All the room it may need at once: growing would leave copies behind that nothing wipes.
        let mut octets = Zeroizing::new(Vec::with_capacity(MAX + 2));
        let mut chunk = Zeroizing::new([0u8; 256]);
        let mut file = file;
        loop {
            match file.read(chunk.as_mut_slice()) {
                Ok(0) => break,
                Ok(n) if octets.len() + n > MAX + 1 => {
                    return Err(fail(format!("the passphrase is longer than {MAX} octets")));
                }
                Ok(n) => octets.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io(error)),
            }
        }
        if octets.last() == Some(&b'\n') {
            octets.pop();
        }
        if octets.is_empty() {
            return Err(fail("the passphrase file is empty".into()));
        }
        Ok(Self(octets))
    }

    /// The octets of the passphrase.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Shows that there is one, not what it is.
impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_passphrase_is_read_once_trimmed_and_never_shown() {
        let folder = tempfile::tempdir().expect("tempdir");
        let file = folder.path().join("pass");
        let put = |text: &[u8], mode| {
            write(&file, text).expect("write");
            set_permissions(&file, Permissions::from_mode(mode)).expect("chmod");
        };
        put(b"hush \n\n", 0o600);
        let pass = Passphrase::read(&file).expect("read");
        assert_eq!(pass.expose(), b"hush \n");
        assert!(!format!("{pass:?}").contains("hush"));

        put(b"hush\n", 0o640);
        let error = Passphrase::read(&file).expect_err("group").to_string();
        assert!(error.contains("chmod 600") && !error.contains("hush"), "{error}");
        assert!(Passphrase::read_with(&file, Some(folder.path())).is_ok());
        put(b"hush\n", 0o604);
        assert!(Passphrase::read_with(&file, Some(folder.path())).is_err());

        for text in [&b""[..], b"\n", &[b'x'; MAX + 2]] {
            put(text, 0o600);
            assert!(Passphrase::read(&file).is_err());
        }
        put(&[b'x'; MAX], 0o400);
        assert_eq!(Passphrase::read(&file).expect("longest").expose().len(), MAX);
        assert!(Passphrase::read(folder.path()).is_err());
        assert!(Passphrase::read(&folder.path().join("none")).is_err());
    }
}
