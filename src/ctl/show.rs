//! The text for people. What comes from others is escaped: a nick must not steer the terminal.

use std::io::{self, Write};

use serde::Serialize;

use crate::control::api::{
    Connection, Contact, ContactState, Flushed, FriendRequest, NewId, QueueEntry, QueueRecipient, QueueStep, Refused,
    Reloaded, Status, Touched,
};
use crate::identity::tox_address;
use crate::identity::tox_id::ToxId;

/// `text` on one line and without what a terminal would obey.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// `seconds` in its two largest units.
pub(super) fn span(seconds: i64) -> String {
    let s = seconds.max(0);
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m", s / 60),
        3600..86_400 => join(s / 3600, "h", s / 60 % 60, "m"),
        _ => join(s / 86_400, "d", s / 3600 % 24, "h"),
    }
}

fn join(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
}

/// `octets` in the unit that leaves one to four digits.
pub(super) fn size(octets: u64) -> String {
    let mut unit = 0;
    let mut tenths = u128::from(octets) * 10;
    while tenths >= 10_240 && unit < 4 {
        tenths = tenths.div_ceil(1024);
        unit += 1;
    }
    let name = ["B", "KiB", "MiB", "GiB", "TiB"][unit];
    if unit == 0 { format!("{octets} B") } else { format!("{}.{} {name}", tenths / 10, tenths % 10) }
}

pub(super) fn plural(n: u64, one: &str) -> String {
    let more = if one.ends_with('s') { "es" } else { "s" };
    format!("{n} {one}{}", if n == 1 { "" } else { more })
}

/// Aligned columns; the last one may be of any width.
pub(super) fn table(out: &mut dyn Write, head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| width(&row[column])).chain([width(head[column])]).max().unwrap_or(0))
        .collect();
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}  ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

pub(super) fn status(out: &mut dyn Write, status: &Status, now: i64) -> io::Result<()> {
    let uptime = span(i64::try_from(status.uptime_s).unwrap_or(i64::MAX));
    let (version, host) = (clean(&status.version), clean(&status.hostname));
    writeln!(out, "tox-agent {version} on {host}, process {}, up {uptime}", status.pid)?;
    let queue = &status.queue;
    if queue.mails == 0 {
        writeln!(out, "queue: empty")?;
    } else {
        let (mails, to) = (plural(queue.mails, "mail"), plural(queue.recipients, "recipient"));
        let oldest = queue.oldest.map_or_else(String::new, |time| format!(", oldest {}", span(now - time)));
        writeln!(out, "queue: {mails} to {to}, {}{oldest}", size(queue.octets))?;
        if queue.at_relays > 0 {
            let since = queue.at_relays_since.map_or_else(String::new, |time| format!(" since {}", span(now - time)));
            writeln!(out, "queue: {} at relays{since}, awaiting receipts", plural(queue.at_relays, "mail"))?;
        }
    }
    writeln!(out)?;
    let rows: Vec<Vec<String>> = status
        .accounts
        .iter()
        .map(|account| {
            let network = match account.connection {
                Connection::Offline => "offline",
                Connection::Udp => "udp",
                Connection::Tcp => "tcp",
            };
            let contacts = format!("{}/{}", account.contacts_online, account.contacts_total);
            vec![clean(&account.name), network.into(), contacts, account.requests.to_string(), clean(&account.address)]
        })
        .collect();
    table(out, &["ACCOUNT", "NETWORK", "CONTACTS", "REQUESTS", "ADDRESS"], &rows)?;
    for account in &status.accounts {
        let name = clean(&account.name);
        if account.names_changed > 0 {
            let names = plural(account.names_changed, "address");
            writeln!(out, "{name}: the key of {names} has changed, mail is held: toxctl name list")?;
        }
        if account.names_unconfirmed > 0 {
            let names = plural(account.names_unconfirmed, "address");
            writeln!(out, "{name}: {names} to confirm, mail waits: toxctl name list")?;
        }
        if let Some(error) = &account.error {
            writeln!(out, "{}: error: {}", clean(&account.name), clean(error))?;
        }
    }
    super::relay::summary(out, &status.relays, now)
}

/// The names of one account.
#[derive(Serialize)]
pub(super) struct Ids {
    account: String,
    tox_id: String,
    address: String,
    /// The address with the whole Tox ID, by which a stranger can also ask to become a contact.
    id_address: Option<String>,
}

pub(super) fn ids(status: &Status) -> Vec<Ids> {
    let forms = |id: &ToxId| (tox_address::canonical(&id.key()).to_string(), format!("{}@tox.alt", id.base32()));
    status
        .accounts
        .iter()
        .map(|account| {
            let (address, id_address) = match account.tox_id.parse() {
                Ok(id) => {
                    let (address, id_address) = forms(&id);
                    (address, Some(id_address))
                }
                Err(_) => (account.address.clone(), None),
            };
            Ids { account: account.name.clone(), tox_id: account.tox_id.clone(), address, id_address }
        })
        .collect()
}

pub(super) fn id(out: &mut dyn Write, ids: &[Ids]) -> io::Result<()> {
    for id in ids {
        writeln!(out, "{}", clean(&id.account))?;
        writeln!(out, "  Tox ID      {}", clean(&id.tox_id))?;
        writeln!(out, "  address     {}", clean(&id.address))?;
        if let Some(address) = &id.id_address {
            writeln!(out, "  ID address  {address}")?;
        }
    }
    Ok(())
}

pub(super) fn added(out: &mut dyn Write, contact: &Contact) -> io::Result<()> {
    let nick = contact.nick.as_ref().map_or_else(String::new, |nick| format!("{} = ", clean(nick)));
    let state = match contact.state {
        ContactState::Pending => "asked; mail waits until the other side accepts",
        ContactState::Accepted => "is a contact",
    };
    writeln!(out, "{}: {nick}{} {state}", clean(&contact.account), clean(&contact.address))
}

pub(super) fn contacts(out: &mut dyn Write, contacts: &[Contact], now: i64) -> io::Result<()> {
    if contacts.is_empty() {
        return writeln!(out, "no contacts");
    }
    let rows: Vec<Vec<String>> = contacts
        .iter()
        .map(|contact| {
            let state = match (contact.state, contact.online) {
                _ if contact.blocked => "blocked",
                (ContactState::Pending, _) => "pending",
                (ContactState::Accepted, true) => "online",
                (ContactState::Accepted, false) => "offline",
            };
            let seen = match contact.last_seen {
                _ if contact.online => "now".into(),
                Some(time) => format!("{} ago", span(now - time)),
                None => "never".into(),
            };
            let mail = if contact.mail { "yes" } else { "no" };
            let nick = contact.nick.as_deref().map_or_else(|| "-".into(), clean);
            let addresses =
                if contact.names.is_empty() { vec![contact.address.clone()] } else { contact.names.clone() };
            vec![clean(&contact.account), nick, state.into(), mail.into(), seen, clean(&addresses.join(" "))]
        })
        .collect();
    table(out, &["ACCOUNT", "NICK", "STATE", "MAIL", "SEEN", "ADDRESS"], &rows)
}

pub(super) fn refused(out: &mut dyn Write, key: &str, refused: &Refused) -> io::Result<()> {
    let told = if refused.tell { "told so when both are online" } else { "not told" };
    writeln!(out, "refused {}; they are {told}", clean(key))
}

pub(super) fn requests(out: &mut dyn Write, requests: &[FriendRequest], now: i64) -> io::Result<()> {
    if requests.is_empty() {
        return writeln!(out, "no requests");
    }
    let rows: Vec<Vec<String>> = requests
        .iter()
        .map(|request| {
            let state = match (request.refused, request.told) {
                (false, _) => "open",
                (true, Some(false)) => "refused, to be told",
                (true, Some(true)) => "refused, told",
                (true, None) => "refused",
            };
            let age = format!("{} ago", span(now - request.received));
            let claim = match (&request.claim, request.verified) {
                (None, _) => "-".to_owned(),
                (Some(claim), Some(true)) => format!("{} (proved)", clean(claim)),
                (Some(claim), Some(false)) => format!("{} (NOT proved)", clean(claim)),
                (Some(claim), None) => format!("{} (unchecked)", clean(claim)),
            };
            vec![clean(&request.account), state.into(), age, claim, clean(&request.key), clean(&request.message)]
        })
        .collect();
    table(out, &["ACCOUNT", "STATE", "RECEIVED", "CLAIMS", "KEY", "MESSAGE"], &rows)
}

pub(super) fn reloaded(out: &mut dyn Write, reloaded: &Reloaded) -> io::Result<()> {
    let keys = |keys: &[String]| clean(&keys.join(", "));
    match &reloaded.applied[..] {
        [] => writeln!(out, "nothing has changed")?,
        applied => writeln!(out, "changed: {}", keys(applied))?,
    }
    match &reloaded.restart[..] {
        [] => Ok(()),
        restart => writeln!(out, "needs a restart: {}", keys(restart)),
    }
}

pub(super) fn flushed(out: &mut dyn Write, flushed: Flushed) -> io::Result<()> {
    writeln!(out, "{} due now", plural(flushed.recipients, "recipient"))
}

pub(super) fn touched(out: &mut dyn Write, step: QueueStep, touched: Touched) -> io::Result<()> {
    let done = match step {
        QueueStep::Hold => "put on hold",
        QueueStep::Release => "released",
        QueueStep::Delete => "deleted",
    };
    write!(out, "{} {done}", plural(touched.recipients, "recipient"))?;
    if touched.sending > 0 {
        write!(out, ", {} being sent and left as they are", touched.sending)?;
    }
    writeln!(out)
}

pub(super) fn rotated(out: &mut dyn Write, new: &NewId) -> io::Result<()> {
    writeln!(out, "{}: the Tox ID is now {}", clean(&new.account), clean(&new.tox_id))?;
    writeln!(out, "contacts stay; friend requests to {} do not arrive any more", clean(&new.before))?;
    writeln!(out, "change the records in the DNS: toxctl name record {}", clean(&new.account))
}

/// The queue in the manner of postqueue(1), mail by mail.
pub(super) struct QueueList {
    now: i64,
    mails: u64,
    octets: u64,
}

impl QueueList {
    pub(super) fn new(now: i64) -> Self {
        Self { now, mails: 0, octets: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.mails == 0
    }

    pub(super) fn count(&mut self, mail: &QueueEntry) {
        self.mails += 1;
        self.octets = self.octets.saturating_add(mail.size);
    }

    pub(super) fn mail(&mut self, out: &mut dyn Write, mail: &QueueEntry) -> io::Result<()> {
        if self.is_empty() {
            writeln!(out, "-Queue ID-------- -MTA ID------- ---Size--- --Age- Expires -Sender/Recipients-----")?;
        }
        self.count(mail);
        let mta = mail.mta_queue_id.as_deref().map_or_else(|| "-".into(), clean);
        let sender = if mail.sender.is_empty() { "<>".into() } else { clean(&mail.sender) };
        writeln!(
            out,
            "{:<17} {mta:<14} {:>10} {:>6} {:>7} {sender}",
            clean(&mail.queue_id),
            size(mail.size),
            span(self.now - mail.arrived),
            span(mail.expires - self.now),
        )?;
        for recipient in &mail.recipients {
            writeln!(out, "    {}  {}", clean(&recipient.address), self.fate(recipient, mail.size))?;
        }
        Ok(())
    }

    fn fate(&self, recipient: &QueueRecipient, whole: u64) -> String {
        let mut fate = clean(&recipient.state).replace('_', " ");
        if recipient.restored {
            fate += ", from a backup";
        }
        if let Some(progress) = recipient.progress {
            fate += &format!(" {} of {}", size(progress), size(whole));
        }
        if recipient.attempts > 0 {
            fate += &format!(", {}", plural(recipient.attempts.into(), "attempt"));
        }
        if let Some(at) = recipient.at_relays {
            fate += &format!(", at {} since {} ago", plural(at.relays.into(), "relay"), span(self.now - at.since));
        }
        match recipient.next_attempt {
            Some(time) if time > self.now => fate += &format!(", next in {}", span(time - self.now)),
            Some(_) => fate += ", due now",
            None => {}
        }
        let told: Vec<String> =
            [&recipient.status, &recipient.text].into_iter().flatten().map(|text| clean(text)).collect();
        if !told.is_empty() {
            fate += &format!(" ({})", told.join(" "));
        }
        fate
    }

    pub(super) fn end(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.is_empty() {
            return writeln!(out, "the queue is empty");
        }
        writeln!(out, "-- {} in {}.", size(self.octets), plural(self.mails, "mail"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes() {
        for (seconds, text) in
            [(-5, "0s"), (59, "59s"), (3599, "59m"), (3600, "1h"), (5400, "1h30m"), (180_000, "2d2h")]
        {
            assert_eq!(span(seconds), text);
        }
        for (octets, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (50 << 20, "50.0 MiB"), (u64::MAX, "16777216.0 TiB")]
        {
            assert_eq!(size(octets), text);
        }
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\n\u{9b}\u{202e}é"), "a\\u{1b}[2Jb\\n\\u{9b}\\u{202e}é");
    }

    #[test]
    fn columns_are_aligned() {
        let mut out = Vec::new();
        table(&mut out, &["A", "LONG", "C"], &[vec!["éé".into(), "x".into(), "y z".into()]]).expect("vec");
        assert_eq!(String::from_utf8(out).expect("UTF-8"), "A   LONG  C\néé  x     y z\n");
    }
}
