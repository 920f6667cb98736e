//! Notices to senders: composed in the transaction that gives up a recipient, and given to servers that take them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::transfer::Digester;
use crate::mail::address::Address;
use crate::mail::envelope::{ForwardPath, Notify};
use crate::mail::notice::{self, Notice, Original, Recipient};
use crate::mail::status::{EnhancedStatus, Refusal};
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
        // The ids and the boundary, which is checked not to occur in the mail: it has to differ, not to be secret.
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

/// How long a server that does not take a notice is left alone.
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

/// The servers that take notices: the MTA, and those that accounts deliver to.
pub struct Servers {
    hostname: String,
    /// Until when a server is left alone, after it took nothing.
    pauses: Mutex<HashMap<Destination, Instant>>,
}

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The server answers for it.
    Taken,
    /// To be sent later.
    Waits,
    /// The server will never take it.
    Refused,
}

impl Servers {
    /// The servers, which are greeted as `hostname`.
    pub fn new(hostname: &str) -> Self {
        Self { hostname: hostname.to_owned(), pauses: Mutex::new(HashMap::new()) }
    }

    fn pauses(&self) -> MutexGuard<'_, HashMap<Destination, Instant>> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a notice to whom it is for; with `user`, to him, as the server at the end of the way knows him. From the
    /// empty reverse-path, and with the wish that none be made about it (RFC 3461 section 6.2). If the answer to its end is
    /// lost it is sent again, as it was composed: with the same `Tox-Mail-Id`.
    pub fn send(&self, server: &Destination, user: Option<&ForwardPath>, notice: &[u8]) -> Sent {
        if self.pauses().get(server).is_some_and(|until| Instant::now() < *until) {
            return Sent::Waits;
        }
        let Some((recipient, utf8)) = notice::recipient(notice) else { return Sent::Refused };
        let path = user.cloned().unwrap_or(ForwardPath::Address(recipient));
        let outcome = self.hand_over(server, &path, user.is_some(), utf8, notice);
        let line = |status: EnhancedStatus, fate: &str, text: &str| {
            format!("notice to=<{path}>, relay={server}, dsn={status}, status={fate} ({text})")
        };
        match outcome {
            Outcome::Accepted(text) => {
                log::info!("{}", line(EnhancedStatus::new(2, 0, 0), "sent", &text));
                self.pauses().remove(server);
                Sent::Taken
            }
            Outcome::Refused(refusal) if refusal.is_permanent() => {
                log::warn!("{}", line(refusal.status(), "bounced", refusal.text()));
                Sent::Refused
            }
            Outcome::Refused(refusal) | Outcome::Unknown(refusal) => {
                log::warn!("{}", line(refusal.status(), "deferred", refusal.text()));
                self.pauses().insert(server.clone(), Instant::now() + PAUSE);
                Sent::Waits
            }
        }
    }

    fn hand_over(&self, server: &Destination, path: &ForwardPath, is_last: bool, utf8: bool, notice: &[u8]) -> Outcome {
        // The server that delivers it writes its own (RFC 5321 section 4.4).
        let content = notice.strip_prefix(b"Return-Path: <>\n").unwrap_or(notice);
        let client = match Client::connect(server, &self.hostname, &TIMEOUTS) {
            Ok(client) => client,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        let never = Notify { never: true, ..Notify::default() };
        let envelope = Envelope {
            recipients: vec![smtp::Recipient { path: path.clone(), notify: Some(never), orcpt: None }],
            size: Some(content.len() as u64),
            // At the end of the way UTF-8 in a header harms nobody.
            smtputf8: utf8 && (client.offers().smtputf8 || !is_last),
            ..Envelope::default()
        };
        let unknown = || Outcome::Refused(Refusal::temporary(4, 0, "the server said nothing of the recipient"));
        client.deliver(&envelope, &mut &*content).into_iter().next().unwrap_or_else(unknown)
    }
}
