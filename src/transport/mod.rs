//! The program `tox-transport`: one mail from standard input into tox-agent's LMTP socket, and the answer back to the
//! MTA as an exit status and one line `x.y.z text` (RFC 3463, `sysexits.h`).
//!
//! Owns: the command line, the LMTP client of the pipe program, the mapping of answers to exit statuses, its signals.
//! May use: the standard library only, and only `super::` paths, because `src/bin/tox-transport.rs` includes this
//! directory by its path without the rest of the package.
//!
//! The one rule above all others: the exit status is 0 only after the agent said 2xx for every recipient after the
//! final dot, it is permanent only where the agent (or the command line itself) proved that trying again is of no use,
//! and it is 75, "try again", for everything else, a panic included. Postfix and Exim both bounce mail on most other
//! ends.

mod address;
mod args;
mod body;
mod deadline;
mod lmtp;
mod outcome;
mod parent;
mod reply;
mod sys;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::panic::{self, UnwindSafe};
use std::sync::Mutex;

use args::Request;
use outcome::{Outcome, Verdict};

/// Where the last panic happened; the payload that `catch_unwind` returns does not say it.
static PANIC_PLACE: Mutex<String> = Mutex::new(String::new());

/// Runs the program on the process's arguments, environment and standard input, and ends the process.
pub fn main() -> ! {
    let parent = parent::Parent::now();
    sys::settle_signals();
    let outcome = guarded(move || run(std::env::args_os().skip(1), |name| std::env::var_os(name), &parent));
    // From here on a signal must not add a second line or change the status: `2.0.0 …` together with 75 would bounce.
    sys::decided();
    report(&outcome.line);
    std::process::exit(i32::from(outcome.exit))
}

fn run(
    args: impl Iterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
    parent: &parent::Parent,
) -> Outcome {
    let job = match args::parse(args, env) {
        Ok(Request::Help) => return Outcome::information(args::HELP.to_owned()),
        Ok(Request::Version) => {
            return Outcome::information(format!("tox-transport {}\n", env!("CARGO_PKG_VERSION")));
        }
        Ok(Request::Deliver(job)) => job,
        Err(verdict) => return Outcome::usage(&verdict),
    };
    let deadline = deadline::Deadline::after(job.timeout);
    // A backstop for what no poll can bound, such as a connect to a hung agent whose backlog is full.
    sys::alarm_after(job.timeout.as_secs().saturating_add(1));
    let mut verdicts: Vec<Option<Verdict>> = vec![None; job.recipients.len()];
    let rest = match lmtp::deliver(&job, deadline, parent, &mut verdicts) {
        Ok(()) => Verdict::temporary(3, 0, "tox-agent gave no answer for this recipient"),
        Err(verdict) => verdict,
    };
    let verdicts: Vec<Verdict> = verdicts.into_iter().map(|v| v.unwrap_or_else(|| rest.clone())).collect();
    outcome::combine(&job.recipients, &verdicts)
}

/// Runs `work`; a panic in it becomes "try again". Nothing is printed by the panic itself: standard error is the same
/// pipe as standard output under Postfix, and the status line must come first.
fn guarded(work: impl FnOnce() -> Outcome + UnwindSafe) -> Outcome {
    panic::set_hook(Box::new(|info| {
        if let (Some(place), Ok(mut kept)) = (info.location(), PANIC_PLACE.lock()) {
            *kept = place.to_string();
        }
    }));
    panic::catch_unwind(work).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
        let place = PANIC_PLACE.lock().map(|place| place.clone()).unwrap_or_default();
        Verdict::temporary(3, 0, format!("tox-transport failed inside: {text} ({place})")).into()
    })
}

/// Writes the text to standard output. A closed or full output loses the text and changes nothing else.
fn report(text: &str) {
    use std::io::Write;
    let Ok(fd) = std::io::stdout().as_fd().try_clone_to_owned() else { return };
    let mut out = std::fs::File::from(fd);
    let mut rest = text.as_bytes();
    // A pipe that polls as writable takes PIPE_BUF (4096) octets at once, so this never blocks on a full one.
    while !rest.is_empty() && sys::poll_write(&out, 1000) {
        match out.write(rest) {
            Ok(0) => return,
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_temporary_failure_with_one_line() {
        let before = panic::take_hook();
        let outcome = guarded(|| {
            let nothing: Vec<u8> = Vec::new();
            let index = std::hint::black_box(7);
            Outcome::information(format!("{}", nothing[index]))
        });
        panic::set_hook(before);
        assert_eq!(outcome.exit, 75);
        assert!(outcome.line.starts_with("4.3.0 tox-transport failed inside: index out of bounds"), "{}", outcome.line);
        assert!(outcome.line.contains("mod.rs:"), "{}", outcome.line);
        assert_eq!(outcome.line.matches('\n').count(), 1);
    }
}
