//! What gets a thread out of waiting for its Tox instance.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd, to be cloned freely.
#[derive(Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// One that has nobody to wake yet.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?)))
    }

    /// Has the thread turn its loop once.
    pub fn wake(&self) {
        // Full means that it is already to wake.
        let _ = self.0.write(1);
    }

    /// Makes it ready to wake again.
    pub fn clear(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
