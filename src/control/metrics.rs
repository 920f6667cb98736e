//! Figures for monitoring in the text format of OpenMetrics, which Prometheus and its node exporter read.
//!
//! Made of [`Status`] alone. Labels are names of the configuration and fixed words: no contact and no key is one.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::api::{Connection, RelayPurpose, Status};

/// Of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge>;

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn is_up(connection: Connection) -> i64 {
    i64::from(connection != Connection::Offline)
}

/// All figures.
pub fn text(status: &Status) -> String {
    let mut registry = Registry::with_prefix("toxmail");
    agent(&mut registry, status);
    queue(&mut registry, status);
    accounts(&mut registry, status);
    relays(&mut registry, status);
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn gauge_of(registry: &mut Registry, name: &str, help: &str, unit: Unit, value: i64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    registry.register_with_unit(name, help, unit, gauge);
}

fn agent(registry: &mut Registry, status: &Status) {
    let build = Gauges::default();
    build.get_or_create(&vec![("version", status.version.clone())]).set(1);
    registry.register("build_info", "The version of the agent", build);
    gauge_of(registry, "uptime", "For how long the agent has been running", Unit::Seconds, whole(status.uptime_s));
    let (counts, recipients) = (&status.counts, Family::<Labels, Counter>::default());
    for (result, count) in [("sent", counts.sent), ("deferred", counts.deferred), ("bounced", counts.bounced)] {
        recipients.get_or_create(&vec![("result", result.to_owned())]).inc_by(count);
    }
    registry.register("recipients", "What became of recipients: deferred counts attempts", recipients);
    let received = Counter::<u64>::default();
    received.inc_by(counts.received);
    registry.register("received", "Mails of contacts that were delivered, one for each mailbox", received);
}

fn queue(registry: &mut Registry, status: &Status) {
    let queue = &status.queue;
    gauge(registry, "queue_mails", "Mails that wait", whole(queue.mails));
    gauge(registry, "queue_recipients", "Recipients that wait", whole(queue.recipients));
    gauge_of(registry, "queue", "What encoded bodies take on the disk", Unit::Bytes, whole(queue.octets));
    if let Some(oldest) = queue.oldest {
        let help = "When the oldest mail that waits arrived, since the epoch";
        gauge_of(registry, "queue_oldest_timestamp", help, Unit::Seconds, oldest);
    }
    let help = "Mails that lie at enough relays and wait for a receipt";
    gauge(registry, "queue_at_relays_mails", help, whole(queue.at_relays));
    if let Some(since) = queue.at_relays_since {
        let help = "Since when the first of the mails at relays lies there, since the epoch";
        gauge_of(registry, "queue_at_relays_timestamp", help, Unit::Seconds, since);
    }
}

fn accounts(registry: &mut Registry, status: &Status) {
    let mut family = |name: &str, help: &str, value: &dyn Fn(&super::api::AccountStatus) -> i64| {
        let gauges = Gauges::default();
        for account in &status.accounts {
            gauges.get_or_create(&vec![("account", account.name.clone())]).set(value(account));
        }
        registry.register(name, help, gauges);
    };
    family("connected", "Whether the account is on the Tox network", &|account| is_up(account.connection));
    family("contacts", "Contacts", &|account| whole(account.contacts_total));
    family("contacts_online", "Contacts that are online", &|account| whole(account.contacts_online));
    family("requests", "Friend requests that wait for an answer", &|account| whole(account.requests));
    let help = "Names that lead to a key that waits for the operator's yes";
    family("names_unconfirmed", help, &|account| whole(account.names_unconfirmed));
    let help = "Names whose key has changed: their mail is held";
    family("names_changed", help, &|account| whole(account.names_changed));
}

fn relays(registry: &mut Registry, status: &Status) {
    let (all, up) = (Gauges::default(), Gauges::default());
    for used in &status.relays.used {
        let purpose = match used.purpose {
            RelayPurpose::Told => "told",
            RelayPurpose::Offered => "offered",
            RelayPurpose::Deposits => "deposits",
        };
        let labels = vec![("account", used.account.clone()), ("purpose", purpose.to_owned())];
        all.get_or_create(&labels).inc();
        up.get_or_create(&labels).inc_by(i64::from(used.reachable == Some(true)));
    }
    registry.register("used_relays", "Relays that the account uses", all);
    registry.register("used_relays_reachable", "Those of them that are reachable", up);
    let Some(own) = &status.relays.own else { return };
    gauge(registry, "relay_connected", "Whether the relay is on the Tox network", is_up(own.connection));
    gauge(registry, "relay_failed", "Whether something keeps the relay from working", i64::from(own.error.is_some()));
    gauge(registry, "relay_owners", "Owners at the relay", whole(own.owners));
    gauge(registry, "relay_slots", "Slots that are registered", whole(own.slots));
    gauge(registry, "relay_slots_filled", "Slots that are filled", whole(own.filled));
    gauge_of(registry, "relay", "What filled slots take on the disk", Unit::Bytes, whole(own.octets));
    gauge_of(registry, "relay_max", "What they may take", Unit::Bytes, whole(own.max_disk));
}

#[cfg(test)]
mod tests {
    use super::super::api::{AccountStatus, Counts, OwnRelay, QueueSummary, Relays, UsedRelay};
    use super::*;

    fn used(purpose: RelayPurpose, reachable: Option<bool>) -> UsedRelay {
        UsedRelay {
            account: "alice".into(),
            text: "toxmail-relay:SECRETTEXT".into(),
            key: "SECRETKEY".into(),
            purpose,
            reachable,
            since: None,
            slots: 3,
            mails: 1,
            error: None,
        }
    }

    fn status() -> Status {
        Status {
            version: "1.2.3".into(),
            pid: 7,
            uptime_s: 60,
            hostname: "mail.example.org".into(),
            accounts: vec![AccountStatus {
                name: "alice \"quoted\"".into(),
                tox_id: "SECRETID".into(),
                address: "SECRETADDRESS".into(),
                connection: Connection::Udp,
                contacts_total: 5,
                contacts_online: 2,
                requests: 1,
                names_unconfirmed: 0,
                names_changed: 3,
                error: None,
            }],
            queue: QueueSummary {
                mails: 4,
                recipients: 6,
                octets: 1000,
                oldest: Some(1_700_000_000),
                at_relays: 2,
                at_relays_since: Some(1_700_000_100),
            },
            counts: Counts { sent: 10, deferred: 11, bounced: 12, received: 13 },
            relays: Relays {
                own: Some(OwnRelay {
                    text: "SECRETTEXT".into(),
                    connection: Connection::Tcp,
                    open: true,
                    offered: false,
                    owners: 20,
                    max_owners: 100,
                    slots: 300,
                    filled: 30,
                    octets: 4096,
                    max_disk: 1 << 30,
                    error: None,
                }),
                used: vec![
                    used(RelayPurpose::Told, Some(true)),
                    used(RelayPurpose::Told, Some(false)),
                    used(RelayPurpose::Deposits, None),
                ],
            },
        }
    }

    #[test]
    fn the_figures_are_those_of_the_status() {
        let text = text(&status());
        for line in [
            "toxmail_build_info{version=\"1.2.3\"} 1",
            "toxmail_uptime_seconds 60",
            "toxmail_recipients_total{result=\"sent\"} 10",
            "toxmail_recipients_total{result=\"deferred\"} 11",
            "toxmail_recipients_total{result=\"bounced\"} 12",
            "toxmail_received_total 13",
            "toxmail_queue_mails 4",
            "toxmail_queue_recipients 6",
            "toxmail_queue_bytes 1000",
            "toxmail_queue_oldest_timestamp_seconds 1700000000",
            "toxmail_queue_at_relays_mails 2",
            "toxmail_queue_at_relays_timestamp_seconds 1700000100",
            "toxmail_connected{account=\"alice \\\"quoted\\\"\"} 1",
            "toxmail_names_changed{account=\"alice \\\"quoted\\\"\"} 3",
            "toxmail_used_relays{account=\"alice\",purpose=\"told\"} 2",
            "toxmail_used_relays_reachable{account=\"alice\",purpose=\"told\"} 1",
            "toxmail_used_relays_reachable{account=\"alice\",purpose=\"deposits\"} 0",
            "toxmail_relay_connected 1",
            "toxmail_relay_failed 0",
            "toxmail_relay_owners 20",
            "toxmail_relay_slots 300",
            "toxmail_relay_slots_filled 30",
            "toxmail_relay_bytes 4096",
            "toxmail_relay_max_bytes 1073741824",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains("SECRET"), "nobody is named:\n{text}");
    }

    #[test]
    fn what_is_not_there_has_no_figure() {
        let mut status = status();
        status.relays.own = None;
        (status.queue.oldest, status.queue.at_relays_since) = (None, None);
        let text = text(&status);
        assert!(!text.contains("timestamp") && !text.contains("toxmail_relay_"), "{text}");
    }
}
