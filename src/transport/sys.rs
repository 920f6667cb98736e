//! The few system calls that the standard library does not offer: signals, `poll`, `alarm`, the effective user.
//!
//! Owns: every unsafe line of the program. May use: the C library that the standard library links anyway.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_short, c_uint, c_ulong, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(not(target_os = "linux"))]
compile_error!("the signal numbers and the layout of sigset_t below are those of Linux");
#[cfg(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc", target_arch = "sparc64"))]
compile_error!("the signal numbers below are those of the architectures that use Linux's generic ones");

const PIPE: c_int = 13;
const XFSZ: c_int = 25;
const ALRM: c_int = 14;
/// HUP INT QUIT ABRT USR1 USR2 ALRM TERM STKFLT XCPU VTALRM PROF IO PWR: each would end the process.
const FATAL: [c_int; 14] = [1, 2, 3, 6, 10, 12, ALRM, 15, 16, 24, 26, 27, 29, 30];
/// CHLD TSTP TTIN TTOU: inherited dispositions of these are of no use to us.
const PLAIN: [c_int; 4] = [17, 20, 21, 22];
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const SIG_SETMASK: c_int = 2;
const POLLIN: c_short = 1;
const POLLOUT: c_short = 4;
const TEMPFAIL: c_int = 75;

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    revents: c_short,
}

/// 1024 bits, as both glibc and musl have it.
#[repr(C)]
struct SigSet([u64; 16]);

unsafe extern "C" {
    fn signal(number: c_int, handler: usize) -> usize;
    fn sigprocmask(how: c_int, set: *const SigSet, old: *mut SigSet) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn write(fd: c_int, data: *const c_void, len: usize) -> isize;
    safe fn alarm(seconds: c_uint) -> c_uint;
    safe fn geteuid() -> u32;
    safe fn _exit(status: c_int) -> !;
}

/// Set when the outcome is known and about to be written.
static DECIDED: AtomicBool = AtomicBool::new(false);

/// Ends the process as "try again", by async-signal-safe calls only. A death by the signal itself would bounce under
/// Exim.
extern "C" fn stopped(number: c_int) {
    if DECIDED.load(Ordering::Relaxed) {
        return;
    }
    let text: &[u8] = if number == ALRM {
        b"4.4.2 tox-transport ran out of time: tox-agent does not take the mail\n"
    } else {
        b"4.3.0 tox-transport was stopped by a signal before tox-agent took the mail\n"
    };
    let mut out = PollFd { fd: 1, events: POLLOUT, revents: 0 };
    // SAFETY: poll(2) and write(2) are async-signal-safe; `out` and `text` live across the calls and the count and
    // length are theirs.
    unsafe {
        if poll(&raw mut out, 1, 0) == 1 {
            write(1, text.as_ptr().cast(), text.len());
        }
    }
    _exit(TEMPFAIL)
}

/// Gives every signal a known disposition and unblocks all. MTAs leave odd ones: Postfix starts its programs with PIPE
/// and XFSZ ignored, Exim with HUP, INT, USR1 and TERM ignored.
///
/// What would end the process ends it as "try again"; PIPE and XFSZ stay ignored on purpose, so that a write that fails
/// is an error and not a death.
pub(super) fn settle_signals() {
    let handler = stopped as extern "C" fn(c_int) as usize;
    let all = FATAL.map(|number| (number, handler)).into_iter();
    let all = all.chain(PLAIN.map(|number| (number, SIG_DFL))).chain([(PIPE, SIG_IGN), (XFSZ, SIG_IGN)]);
    for (number, action) in all {
        // SAFETY: `action` is SIG_DFL, SIG_IGN or a function of the type that signal(2) wants, which makes
        // async-signal-safe calls only; the call has no other precondition.
        unsafe { signal(number, action) };
    }
    let none = SigSet([0; 16]);
    // SAFETY: `none` is a valid, empty signal set that lives across the call; a null old set is allowed.
    unsafe { sigprocmask(SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

/// From now on signals leave the process to end by itself.
pub(super) fn decided() {
    DECIDED.store(true, Ordering::Relaxed);
    alarm(0);
}

/// Ends the process as "try again" after so many seconds.
pub(super) fn alarm_after(seconds: u64) {
    alarm(c_uint::try_from(seconds).unwrap_or(c_uint::MAX));
}

/// The effective user id, which decides who may open the socket.
pub(super) fn effective_uid() -> u32 {
    geteuid()
}

/// What a descriptor is ready for. An error or a hang-up counts as both: the next call on it tells.
pub(super) struct Ready {
    pub(super) read: bool,
    pub(super) write: bool,
}

fn poll_one(fd: &impl AsFd, events: c_short, timeout_ms: i32) -> io::Result<Option<Ready>> {
    let mut one = PollFd { fd: fd.as_fd().as_raw_fd(), events, revents: 0 };
    // SAFETY: `one` is a valid pollfd that lives across the call, and the count is 1.
    match unsafe { poll(&raw mut one, 1, timeout_ms) } {
        0 => Ok(None),
        n if n > 0 => {
            let other = one.revents & !(POLLIN | POLLOUT) != 0;
            Ok(Some(Ready { read: other || one.revents & POLLIN != 0, write: other || one.revents & POLLOUT != 0 }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until `fd` can be read. `None`: the time is over.
pub(super) fn poll_read(fd: &impl AsFd, timeout_ms: i32) -> io::Result<Option<Ready>> {
    poll_one(fd, POLLIN, timeout_ms)
}

/// Waits until `fd` can be read or written. `None`: the time is over.
pub(super) fn poll_both(fd: &impl AsFd, timeout_ms: i32) -> io::Result<Option<Ready>> {
    poll_one(fd, POLLIN | POLLOUT, timeout_ms)
}

/// Waits until `fd` can be written without blocking; false when it cannot within the time.
pub(super) fn poll_write(fd: &impl AsFd, timeout_ms: i32) -> bool {
    matches!(poll_one(fd, POLLOUT, timeout_ms), Ok(Some(ready)) if ready.write)
}
