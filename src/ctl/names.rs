//! What toxctl shows of names: addresses in the DNS, and the keys pinned to them.

use std::io::{self, Write};

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use super::show::{clean, plural, span, table};
use crate::control::api::{Blocked, ContactDetails, ContactState, Lookup, Name, NameState, Record, Refreshed};

/// The key's first 16 digits, which is how log lines name it.
fn short(key: &str) -> String {
    clean(key).chars().take(16).collect()
}

fn state(name: &Name) -> &'static str {
    match name.state {
        NameState::Pinned => "pinned",
        NameState::Changed => "KEY CHANGED",
        NameState::Unconfirmed => "to confirm",
        NameState::Unknown => "looked up",
    }
}

pub(super) fn list(out: &mut dyn Write, names: &[Name]) -> io::Result<()> {
    if names.is_empty() {
        return writeln!(out, "no names");
    }
    let or_dash = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), clean);
    let rows: Vec<Vec<String>> = names
        .iter()
        .map(|name| {
            vec![
                clean(&name.account),
                clean(&name.address),
                state(name).into(),
                name.key.as_deref().map_or_else(|| "-".to_owned(), short),
                or_dash(&name.proof),
                name.waiting.to_string(),
            ]
        })
        .collect();
    table(out, &["ACCOUNT", "ADDRESS", "STATE", "KEY", "PROOF", "WAITING"], &rows)?;
    for name in names {
        if let Some(text) = &name.text {
            writeln!(out, "{}: {}", clean(&name.address), clean(text))?;
        }
        if let Some(offer) = &name.offer {
            let (id, proof) = (clean(&offer.tox_id), clean(&offer.proof));
            let address = clean(&name.address);
            writeln!(
                out,
                "{address}: compare with its owner, then: toxctl contact accept-key {address} {id} ({proof})"
            )?;
        }
    }
    Ok(())
}

/// Where mail for a contact may wait.
fn relays(count: u32) -> String {
    match count {
        0 => "none: mail waits here until both are online".to_owned(),
        1 => "its mail may wait at 1 relay".to_owned(),
        n => format!("its mail may wait at {n} relays"),
    }
}

pub(super) fn contact(out: &mut dyn Write, details: &ContactDetails, now: i64) -> io::Result<()> {
    let contact = &details.contact;
    let ago = |time: i64| format!("{} ago", span(now - time));
    let state = match (contact.state, contact.online) {
        _ if contact.blocked => "blocked",
        (ContactState::Pending, _) => "asked, no answer yet",
        (ContactState::Accepted, true) => "online",
        (ContactState::Accepted, false) => "offline",
    };
    let last = if contact.online { "now".into() } else { contact.last_seen.map_or_else(|| "never".into(), ago) };
    let lines = [
        ("account", Some(clean(&contact.account))),
        ("nick", contact.nick.as_deref().map(clean)),
        ("key", Some(clean(&contact.key))),
        ("Tox ID", details.tox_id.as_deref().map(clean)),
        ("address", Some(clean(&contact.address))),
        ("state", Some(state.to_owned())),
        ("mail", Some(if contact.mail { "yes, the link is up" } else { "no link" }.to_owned())),
        ("last seen", Some(last)),
        ("added", Some(ago(contact.added))),
        ("relays", Some(relays(contact.relays))),
        ("we asked", details.message.as_deref().map(clean)),
    ];
    for (what, text) in lines {
        if let Some(text) = text {
            writeln!(out, "{what:<10} {text}")?;
        }
    }
    for pin in &details.pins {
        let by = |field: &Option<String>| field.as_deref().map(clean).unwrap_or_default();
        let seen = pin.last_seen.map(ago).unwrap_or_default();
        writeln!(
            out,
            "{:<10} {} ({}, {}, by its {}; confirmed {seen})",
            "name",
            clean(&pin.address),
            by(&pin.method),
            by(&pin.proof),
            by(&pin.via)
        )?;
        if let Some(offer) = &pin.offer {
            writeln!(out, "{:<10} it leads to another key since {}: {}", "", ago(offer.since), clean(&offer.tox_id))?;
            writeln!(out, "{:<10} mail to it is held: toxctl contact accept-key {}", "", clean(&pin.address))?;
        }
    }
    Ok(())
}

pub(super) fn accepted(out: &mut dyn Write, name: &Name) -> io::Result<()> {
    let key = name.key.as_deref().map(short).unwrap_or_default();
    writeln!(out, "{}: {} leads to key {key}... from now on", clean(&name.account), clean(&name.address))?;
    writeln!(out, "a contact with another key that it had before is still there: toxctl contact list, contact remove")
}

pub(super) fn blocked(out: &mut dyn Write, blocked: &[Blocked], now: i64) -> io::Result<()> {
    if blocked.is_empty() {
        return writeln!(out, "nobody is blocked");
    }
    let row = |one: &Blocked| vec![clean(&one.account), format!("{} ago", span(now - one.since)), clean(&one.key)];
    table(out, &["ACCOUNT", "SINCE", "KEY"], &blocked.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn refreshed(out: &mut dyn Write, refreshed: Refreshed) -> io::Result<()> {
    writeln!(out, "{} being looked up: toxctl name list", plural(refreshed.names, "name"))
}

pub(super) fn lookup(out: &mut dyn Write, lookup: &Lookup) -> io::Result<()> {
    for step in &lookup.steps {
        writeln!(
            out,
            "{} {}: {}, {} ({} ms)",
            clean(&step.query),
            clean(&step.kind),
            clean(&step.outcome),
            clean(&step.proof),
            step.ms
        )?;
        for record in &step.records {
            writeln!(out, "    {}", clean(record))?;
        }
    }
    match (&lookup.tox_id, &lookup.status) {
        (Some(id), _) => {
            let how = |field: &Option<String>| field.as_deref().map(clean).unwrap_or_default();
            writeln!(out, "{} leads to {}", clean(&lookup.address), clean(id))?;
            let (method, via) = (how(&lookup.method), how(&lookup.via));
            writeln!(out, "    found by {method}, in the record of the {via}; proof: {}", clean(&lookup.proof))?;
            if lookup.proof != "secure" {
                writeln!(out, "    not proved by DNSSEC: compare the Tox ID with its owner before you confirm it")?;
            }
            if lookup.invitation.is_some() {
                writeln!(
                    out,
                    "    with an invitation: who is never online with the owner can introduce himself by relays"
                )?;
            }
            Ok(())
        }
        (None, status) => {
            let status = status.as_deref().map(clean).unwrap_or_default();
            let fate = if lookup.permanent { "mail to it is returned" } else { "mail to it waits" };
            writeln!(out, "{}: {fate}: {status} {}", clean(&lookup.address), clean(&lookup.text))
        }
    }
}

pub(super) fn records(out: &mut dyn Write, records: &[Record]) -> io::Result<()> {
    if records.is_empty() {
        return writeln!(out, "no addresses: an [[account]] has none in the configuration");
    }
    for record in records {
        let mark = if record.correct { "OK" } else { "NOT PUBLISHED" };
        writeln!(out, "{}: {}: {mark}: {}", clean(&record.account), clean(&record.address), clean(&record.text))?;
        let Some(line) = &record.record else {
            writeln!(out, "    this address is no name of the DNS")?;
            continue;
        };
        writeln!(out, "\n{}\n", clean(line))?;
        // The ID, which is in the record's first string, as a telephone reads it.
        if let Some(text) = line.split('"').nth(1)
            && let Ok(code) = QrCode::new(text.replace("v=tox1;id=", "tox:").trim_end_matches(';'))
        {
            writeln!(out, "{}\n", code.render::<Dense1x2>().quiet_zone(true).build())?;
        }
    }
    writeln!(
        out,
        "Publish each line as it is: one TXT record, its strings in this order, no wildcard (*._tox breaks the proof in zones"
    )?;
    writeln!(out, "signed with NSEC). Sign the zone with DNSSEC, or others must compare the Tox ID by hand.")
}
