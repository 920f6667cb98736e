//! Whether the process that feeds us still lives.
//!
//! An MTA's delivery process that is killed in the middle of a mail closes the pipe, and the rest of the mail looks
//! like its end. So the end of standard input counts only while the parent lives.
//!
//! Owns: the parent check. May use: nothing of the program; reads `/proc`.

use std::os::unix::process::parent_id;

/// The kernel's PF_EXITING, in the flags of `/proc/PID/stat` (proc(5)).
const EXITING: u64 = 4;

/// The parent as it was when the program started.
pub(super) struct Parent(u32);

impl Parent {
    pub(super) fn now() -> Self {
        Self(parent_id())
    }

    /// Whether the parent of the start is still our parent and not on its way out. A dying process closes its files
    /// before its children get a new parent, so the second question alone would come too early; the kernel marks it as
    /// exiting before either. Where `/proc` does not show it, the second question has to do.
    pub(super) fn lives(&self) -> bool {
        let stat = std::fs::read(format!("/proc/{}/stat", self.0));
        let exiting = stat.is_ok_and(|stat| is_exiting(&stat));
        !exiting && parent_id() == self.0
    }
}

fn is_exiting(stat: &[u8]) -> bool {
    // `pid (name) state ppid pgrp session tty tpgid flags …`; the name may hold blanks and parentheses.
    let text = String::from_utf8_lossy(stat);
    let Some((_, rest)) = text.rsplit_once(')') else { return false };
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().unwrap_or_default();
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(0);
    matches!(state, "Z" | "X" | "x") || flags & EXITING != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dying_parent_is_told_from_a_living_one() {
        assert!(Parent::now().lives());
        assert!(!Parent(u32::MAX).lives());
        assert!(!is_exiting(b"17 (a) b (c) S 1 17 17 0 -1 4194560 0 0"));
        assert!(is_exiting(b"17 (a) b (c) Z 1 17 17 0 -1 4194560 0 0"));
        assert!(is_exiting(b"17 (pipe) R 1 17 17 0 -1 4194564 0 0"));
        assert!(!is_exiting(b"") && !is_exiting(b")") && !is_exiting(b"1 (x) R x"));
    }
}
