//! Listening Unix sockets that only the right people reach: bound here, or by the service manager that started us. Uses
//! nothing else of this library.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, lchown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_to, connect, getsockopt, listen, socket, sockopt,
};
use nix::unistd::Group;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Makes the listening socket at `path` with `mode` and, where given, `group` (a name or a
/// number); nonblocking, as
/// [`tokio::net::UnixListener::from_std`] wants it. There is no moment at which somebody can connect who may not: mode
/// and group are set between bind(2) and listen(2), and a socket that does not listen refuses every connection. A
/// socket left behind by an agent that died is removed; it is recognised by refusing connections.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`]: somebody listens there, or `path` is something else than a socket.
/// [`io::ErrorKind::NotFound`]: there is no such group. Others as the system reports them.
pub fn bind(path: &Path, mode: u32, group: Option<&str>) -> io::Result<UnixListener> {
    let gid = group.map(group_number).transpose()?;
    let address = UnixAddr::new(path)?;
    let new = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None);
    let fd: OwnedFd = new()?;
    match bind_to(fd.as_raw_fd(), &address) {
        Err(Errno::EADDRINUSE) => {
            // connect(2) says ECONNREFUSED of a plain file as well, and that must never be removed.
            if !path.symlink_metadata()?.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{} is no socket", path.display())));
            }
            if connect(new()?.as_raw_fd(), &address) != Err(Errno::ECONNREFUSED) {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{} is in use", path.display())));
            }
            std::fs::remove_file(path)?;
            bind_to(fd.as_raw_fd(), &address)?;
        }
        other => other?,
    }
    let open_up = || -> io::Result<()> {
        // The group first: with the old group the new mode would let in the wrong people.
        // Without one nothing is called that a unit's filter of system calls may forbid.
        if gid.is_some() {
            lchown(path, None, gid)?;
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(listen(&fd, Backlog::new(BACKLOG)?)?)
    };
    if let Err(error) = open_up() {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(UnixListener::from(fd))
}

/// Listening sockets that the service manager opened and passed on (sd_listen_fds(3)), by their names.
#[derive(Debug, Default)]
pub struct Passed(Vec<(String, UnixListener)>);

impl Passed {
    /// Takes what was passed to this process. To be called once, before there are threads: it clears the environment.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: something that was passed is no listening Unix stream socket.
    pub fn take() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = listenfd::ListenFd::from_env();
        let mut sockets = Vec::with_capacity(passed.len());
        for number in 0..passed.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let wrong =
                |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("passed socket `{name}`: {why}"));
            let taken = passed.take_unix_listener(number).map_err(|error| wrong(&error.to_string()))?;
            let socket = taken.ok_or_else(|| wrong("taken already"))?;
            if !getsockopt(&socket, sockopt::AcceptConn)? {
                return Err(wrong("it does not listen"));
            }
            socket.set_nonblocking(true)?;
            sockets.push((name, socket));
        }
        Ok(Self(sockets))
    }

    /// The socket of this name, if one was passed.
    pub fn remove(&mut self, name: &str) -> Option<UnixListener> {
        let at = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// The names of those that nobody has asked for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

fn group_number(group: &str) -> io::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let found = Group::from_name(group)?.map(|group| group.gid.as_raw());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no group `{group}`")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn sockets_are_bound_with_care() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("s");
        let own = nix::unistd::getegid().as_raw().to_string();
        let first = bind(&path, 0o640, Some(&own)).expect("bind");
        let metadata = std::fs::metadata(&path).expect("socket");
        assert_eq!((metadata.mode() & 0o777, metadata.gid().to_string()), (0o640, own));
        assert_eq!(bind(&path, 0o600, None).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let _second = bind(&path, 0o600, None).expect("stale");
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1);
        let file = folder.path().join("f");
        std::fs::write(&file, "x").expect("write");
        assert_eq!(bind(&file, 0o600, None).expect_err("file").kind(), io::ErrorKind::AddrInUse);
        assert!(bind(&folder.path().join("t"), 0o600, Some("no-such-group-here")).is_err());
    }
}
