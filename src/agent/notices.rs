//! Notices to senders: composed in the transaction that gives up a recipient, and given to the MTA, if there is one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::transfer::Digester;
use crate::mail::address::Address;
use crate::mail::envelope::{ForwardPath, Notify};
use crate::mail::notice::{self, Notice, Original, Recipient};
use crate::mail::trace;
use crate::smtp::{self, Client, Destination, Envelope, Outcome, Timeouts};
use crate::store::{Action, Composer, Report};
use crate::telemetry::clock::Clock;

/// Composes notices in the name of `hostname`; none where an address is none any more.
pub fn composer(hostname: String, clock: Arc<Clock>) -> Composer {
    Box::new(move |report: &Report<'_>| {
        let sender: Address = report.sender.parse().ok()?;
        let recipient: Address = report.address.parse().ok()?;
        let until = match report.action {
            Action::Delayed(until) => trace::date(until),
            _ => String::new(),
        };
        let (action, kind) = match report.action {
            Action::Failed => (notice::Action::Failed, "failed"),
            Action::Delayed(_) => (notice::Action::Delayed(&until), "delayed"),
            Action::Delivered => (notice::Action::Delivered, "delivered"),
            Action::Relayed => (notice::Action::Relayed, "relayed"),
        };
        // Only the boundary is made of it, and checked not to occur in the mail: it has to differ, not to be secret.
        let mut hash = Digester::default();
        for part in [report.queue_id, report.address, &report.arrived.to_string(), kind] {
            hash.update(part.as_bytes());
        }
        let mut random = [0; 16];
        random.copy_from_slice(&hash.finish().0[..16]);
        Some(notice::compose(&Notice {
            action,
            hostname: &hostname,
            queue_id: report.queue_id,
            date: &trace::date(clock.wall_ms()),
            arrival_date: &trace::date(report.arrived),
            sender: &sender,
            smtputf8: report.smtputf8,
            recipients: &[Recipient {
                address: &recipient,
                orcpt: report.orcpt,
                status: report.status,
                text: report.text,
            }],
            original: report.mail.map_or(Original::Headers(report.head), Original::Whole),
            random,
            envid: report.envid,
        }))
    })
}

/// How long an MTA that does not take mail is left alone.
const PAUSE: Duration = Duration::from_secs(20);
/// How long each step with it may take: it is near, and the agent waits for it when it stops.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    command: Duration::from_secs(20),
    data: Duration::from_secs(20),
    block: Duration::from_secs(20),
    done: Duration::from_secs(60),
    total: Duration::from_secs(60),
};

/// The MTA that takes notices by SMTP.
pub struct Mta {
    destination: Destination,
    hostname: String,
    /// Until when it is left alone, after it took nothing.
    pause: Mutex<Option<Instant>>,
}

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The MTA answers for it.
    Taken,
    /// To be sent later.
    Waits,
    /// The MTA will never take it.
    Refused,
}

impl Mta {
    /// The MTA at `destination`, which is greeted as `hostname`.
    pub fn new(destination: Destination, hostname: &str) -> Self {
        Self { destination, hostname: hostname.to_owned(), pause: Mutex::new(None) }
    }

    /// Sends a notice, from the empty reverse-path and with the wish that none be made about it (RFC 3461 section 6.2). If
    /// the answer to its end is lost it is sent again, and may be there twice, under one Message-ID.
    pub fn send(&self, notice: &[u8]) -> Sent {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if pause.is_some_and(|until| Instant::now() < until) {
            return Sent::Waits;
        }
        let Some((recipient, smtputf8)) = notice::recipient(notice) else { return Sent::Refused };
        // The MTA that delivers it writes its own (RFC 5321 section 4.4).
        let content = notice.strip_prefix(b"Return-Path: <>\n").unwrap_or(notice);
        let never = Notify { never: true, ..Notify::default() };
        let path = ForwardPath::Address(recipient.clone());
        let envelope = Envelope {
            recipients: vec![smtp::Recipient { path, notify: Some(never), orcpt: None }],
            size: Some(content.len() as u64),
            smtputf8,
            ..Envelope::default()
        };
        let outcome = match Client::connect(&self.destination, &self.hostname, &TIMEOUTS) {
            Ok(client) => client.deliver(&envelope, &mut &*content).into_iter().next(),
            Err(refusal) => Some(Outcome::Refused(refusal)),
        };
        match outcome {
            Some(Outcome::Accepted(text)) => {
                log::info!("notice to=<{recipient}>, relay={}, dsn=2.0.0, status=sent ({text})", self.destination);
                *pause = None;
                Sent::Taken
            }
            Some(Outcome::Refused(refusal)) if refusal.is_permanent() => {
                log::warn!(
                    "notice to=<{recipient}>, relay={}, dsn={}, status=bounced ({}): it goes into the mailbox",
                    self.destination,
                    refusal.status(),
                    refusal.text()
                );
                Sent::Refused
            }
            Some(Outcome::Refused(refusal) | Outcome::Unknown(refusal)) => {
                log::warn!(
                    "notice to=<{recipient}>, relay={}, dsn={}, status=deferred ({})",
                    self.destination,
                    refusal.status(),
                    refusal.text()
                );
                *pause = Some(Instant::now() + PAUSE);
                Sent::Waits
            }
            None => Sent::Waits,
        }
    }
}
