//! The file that holds a Tox identity: written whole or not at all, encrypted where a passphrase is given.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::sys;

/// What encrypted data has more than plain (`TOX_PASS_ENCRYPTION_EXTRA_LENGTH`, toxencryptsave.h), in octets.
const EXTRA: usize = 80;

/// Reads the savedata at `path`, decrypting it with `passphrase` where it is encrypted; `None` when there is no file.
///
/// # Errors
/// The file cannot be read, others can read it, it is encrypted and the passphrase is missing or wrong.
pub fn load(path: &Path, passphrase: Option<&[u8]>) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other("others may read this secret: chmod 600 it"));
    }
    let mut data = Zeroizing::new(Vec::new());
    file.read_to_end(&mut data)?;
    // SAFETY: the header asks for at least EXTRA octets, which the length check guarantees.
    let encrypted = data.len() >= EXTRA && unsafe { sys::tox_is_data_encrypted(data.as_ptr()) };
    match (encrypted, passphrase) {
        (false, _) => Ok(Some(data)),
        (true, None) => {
            Err(io::Error::other("it is encrypted: set passphrase_credential or passphrase_file for this account"))
        }
        (true, Some(passphrase)) => {
            let mut plain = Zeroizing::new(vec![0; data.len() - EXTRA]);
            // SAFETY: pointers and lengths belong together; the output has length - EXTRA octets.
            let good = unsafe {
                sys::tox_pass_decrypt(
                    data.as_ptr(),
                    data.len() as sys::size_t,
                    passphrase.as_ptr(),
                    passphrase.len() as sys::size_t,
                    plain.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            };
            if good { Ok(Some(plain)) } else { Err(io::Error::other("the passphrase is wrong or the file damaged")) }
        }
    }
}

/// Writes `data` to `path` so that a crash at any moment leaves the old or the new content: a new file beside it,
/// fsync, rename, fsync of the directory. Mode 0600. Encrypted where `passphrase` is given.
///
/// # Errors
/// Any step fails; the old file is then still there.
pub fn store(path: &Path, data: &[u8], passphrase: Option<&[u8]>) -> io::Result<()> {
    let encrypted = match passphrase {
        None => None,
        Some(passphrase) => {
            let mut out = vec![0; data.len() + EXTRA];
            // SAFETY: pointers and lengths belong together; the output has length + EXTRA octets.
            let good = unsafe {
                sys::tox_pass_encrypt(
                    data.as_ptr(),
                    data.len() as sys::size_t,
                    passphrase.as_ptr(),
                    passphrase.len() as sys::size_t,
                    out.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            };
            if !good {
                return Err(io::Error::other("libtoxencryptsave could not encrypt the identity"));
            }
            Some(out)
        }
    };
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(encrypted.as_deref().unwrap_or(data))?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&beside, path)?;
    let folder = path.parent().ok_or_else(|| io::Error::other("the savedata has no folder"))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn savedata_survives_with_and_without_a_passphrase() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("alice.tox");
        assert!(load(&path, None).expect("no file is no error").is_none());
        let data = vec![7u8; 3000];
        store(&path, &data, None).expect("stored");
        assert_eq!(load(&path, None).expect("loaded").as_deref(), Some(&data));
        assert_eq!(load(&path, Some(b"x")).expect("plain data needs no passphrase").as_deref(), Some(&data));
        store(&path, &data, Some(b"secret")).expect("stored");
        assert!(!std::fs::read(&path).expect("read").windows(32).any(|w| w == &data[..32]), "not in the clear");
        assert_eq!(load(&path, Some(b"secret")).expect("loaded").as_deref(), Some(&data));
        assert!(load(&path, Some(b"wrong")).is_err() && load(&path, None).is_err());
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        assert!(load(&path, Some(b"secret")).is_err(), "a readable secret is refused");
    }
}
