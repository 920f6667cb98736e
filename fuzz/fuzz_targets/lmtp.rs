//! Octets of a client through the LMTP session: no panic, bounded replies, and what it takes is what it was given.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use toxmail::lmtp::{Intake, Limits, Outcome, Session, Step, Submission, Submitter};
use toxmail::mail::address::Address;
use toxmail::mail::envelope::{Envelope, ReversePath};
use toxmail::mail::status::Refusal;

struct TakesAll;
struct Discard;

impl Submission for TakesAll {
    fn sender(&self, _: &Submitter, _: &ReversePath) -> Result<(), Refusal> {
        Ok(())
    }

    fn recipient(&self, _: &ReversePath, recipient: &Address) -> Result<(), Refusal> {
        if recipient.local() == "nobody" { Err(Refusal::permanent(1, 1, "nobody")) } else { Ok(()) }
    }

    fn begin(&self, envelope: &Envelope) -> Result<Box<dyn Intake>, Refusal> {
        assert!(!envelope.recipients.is_empty());
        Ok(Box::new(Discard))
    }
}

impl Intake for Discard {
    fn write(&mut self, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Outcome {
        Box::pin(async { Vec::new() })
    }
}

fuzz_target!(|octets: &[u8]| {
    let limits = Arc::new(Limits {
        max_size: 4096,
        max_recipients: 3,
        max_connections: 1,
        timeout: Duration::from_secs(1),
        hostname: "host.example".to_owned(),
        allow_uids: None,
    });
    let mut session = Session::new(Submitter { uid: 0, gid: 0, pid: 0 }, Ok(()), limits);
    let mut rest = octets;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (taken, step) = session.feed(rest, &TakesAll, &mut out);
        rest = &rest[taken..];
        match step {
            Step::More => assert!(rest.is_empty()),
            Step::Finish(_) => session.finished(vec![Ok("1".to_owned())], &mut out),
            Step::Close => break,
        }
    }
    assert!(out.split(|octet| *octet == b'\n').all(|line| line.len() <= 512));
});
