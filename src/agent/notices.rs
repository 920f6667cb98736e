//! Notices to senders: composed in the transaction that gives up a recipient.

use std::sync::Arc;

use crate::engine::transfer::Digester;
use crate::mail::address::Address;
use crate::mail::notice::{self, Notice, Original, Recipient};
use crate::mail::trace;
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
