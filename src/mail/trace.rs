//! Trace fields: what is written on top of a mail that comes in, and what a mail that goes out needs so that it can be
//! answered (RFC 5321 section 4.4, RFC 8601, RFC 5322 section 3.6).
//!
//! Owns the rules which fields are added, which are removed as forged, and when an author is the peer who sent. Never
//! touches an octet of any other field. Pure: dates and ids are arguments. Uses [`super::header`], [`super::mailbox`],
//! [`super::address`], [`super::envelope`], [`super::status`] and [`crate::identity`].

use super::address::Address;
use super::envelope::ReversePath;
use super::header::{Part, Section};
use super::mailbox::{self, Mailbox};
use super::status::Refusal;
use crate::identity::tox_address::{self, ToxAddress};
use crate::identity::tox_id::PublicKey;

/// More `Received` fields than that are a mail loop (RFC 5321 section 6.3).
pub const MAX_RECEIVED: usize = 50;

/// The field by which a server recognises the second copy of a mail it has (RFC 7352). Nobody but the receiving agent
/// may write it: who could choose its value could have the mail of somebody else taken for such a copy.
pub const MAIL_ID: &str = "Tox-Mail-Id";

/// Fields that only the delivering agent or the reader's own store may set. Who sends them wants to be taken for
/// either.
const FORGED: [&str; 8] =
    [MAIL_ID, "Return-Path", "Delivered-To", "X-Original-To", "Status", "X-Status", "X-UID", "X-Keywords"];

/// Whether the authors that a mail names are the peer who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alignment {
    /// Every author is an address of the peer's key.
    Pass,
    /// They are not; why, in words without parentheses.
    Fail(&'static str),
}

/// What is known about an incoming mail besides its octets.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// The peer who sent it; proved by the Tox connection.
    pub peer: &'a PublicKey,
    /// What the peer or we call it; any text.
    pub peer_name: &'a str,
    /// The reverse-path.
    pub sender: &'a ReversePath,
    /// The recipient whose mailbox it goes to.
    pub recipient: &'a Address,
    /// Whether this is the final delivery (RFC 5321 section 4.4). Another server that comes after us adds `Return-Path`
    /// and `Delivered-To`, and might take ours for signs of a loop.
    pub is_final: bool,
    /// Our own name.
    pub hostname: &'a str,
    /// Our id of the mail.
    pub id: &'a str,
    /// The value of [`MAIL_ID`]: the same whenever this mail is written for this mailbox, and of no other mail.
    pub identity: &'a str,
    /// Now, as [`date`] writes it.
    pub date: &'a str,
    /// The addresses known to belong to the peer.
    pub known: &'a [Address],
    /// Why an author's address that is not among them is none of the peer's, where more than that is known.
    pub doubt: Option<&'static str>,
}

/// What is known about the account that submits a mail.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingRule<'a> {
    /// The account's key.
    pub key: &'a PublicKey,
    /// The address under which the account is to be answered.
    pub address: &'a Address,
    /// All its addresses that peers can reach over Tox, besides those that spell out the key.
    pub reachable: &'a [Address],
}

/// Whether `address` is one of `known` or spells out `key`. A nickname does not count: it names a contact of ours, and
/// means nothing, or someone else, in what a peer wrote.
fn belongs(address: &Address, key: &PublicKey, known: &[Address]) -> bool {
    let spelled = match tox_address::parse(address) {
        Some(ToxAddress::Id(id)) => id.key() == *key,
        Some(ToxAddress::Key(own) | ToxAddress::Mailbox(_, own)) => own == *key,
        Some(ToxAddress::Nick(_)) | None => false,
    };
    spelled || known.iter().any(|known| known.matches(address))
}

/// Whether every one of `from`, the authors, is an address of `peer`: one that spells out the key, or one of `known`.
pub fn alignment(from: &[Address], peer: &PublicKey, known: &[Address]) -> Alignment {
    if from.is_empty() {
        Alignment::Fail("no readable From address")
    } else if from.iter().all(|address| belongs(address, peer, known)) {
        Alignment::Pass
    } else {
        Alignment::Fail("From is not an address of this peer")
    }
}

fn authors(section: &Section<'_>) -> Vec<Mailbox> {
    let mut all = Vec::new();
    for field in section.parts().filter(|part| part.is("From")) {
        match mailbox::list(field.value) {
            Some(found) => all.extend(found),
            None => return Vec::new(),
        }
    }
    all
}

/// The addresses of all `From` fields of `head`. None at all if any piece of them cannot be read: a reader might show
/// just that piece, so nothing may be concluded from the others.
pub fn from_addresses(head: &[u8]) -> Vec<Address> {
    authors(&Section::read(head)).into_iter().map(|mailbox| mailbox.address).collect()
}

/// Whether a signature covers `Reply-To` (RFC 6376 section 3.5, `h=`; RFC 8617 has the same tag): then adding one, even
/// where none was, breaks it.
fn reply_to_is_signed(section: &Section<'_>) -> bool {
    let signs = |part: &Part<'_>| part.is("DKIM-Signature") || part.is("ARC-Message-Signature");
    section.parts().filter(signs).any(|field| {
        let tags: Vec<u8> = field.value.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
        tags.split(|&octet| octet == b';')
            .filter_map(|tag| tag.strip_prefix(b"h=").or_else(|| tag.strip_prefix(b"H=")))
            .any(|names| names.split(|&octet| octet == b':').any(|name| name.eq_ignore_ascii_case(b"reply-to")))
    })
}

fn may_add_reply_to(section: &Section<'_>) -> bool {
    !section.has("Reply-To") && !reply_to_is_signed(section)
}

/// The authserv-id of an `Authentication-Results` value (RFC 8601 section 2.2), in lower case and without a final dot;
/// `None` if it cannot be told.
fn authserv_id(value: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value);
    let mut chars = text.chars().peekable();
    let mut id = String::new();
    loop {
        match chars.next() {
            Some('(') => {
                let mut depth = 1usize;
                while depth > 0 {
                    match chars.next()? {
                        '\\' => drop(chars.next()?),
                        '(' => depth += 1,
                        ')' => depth -= 1,
                        _ => {}
                    }
                }
            }
            Some(c) if c.is_whitespace() => {}
            Some('"') => {
                loop {
                    match chars.next()? {
                        '\\' => id.push(chars.next()?),
                        '"' => break,
                        '\r' | '\n' => {}
                        c => id.push(c),
                    }
                }
                break;
            }
            Some(c) if !c.is_control() && c != ';' => {
                id.push(c);
                let part = |c: &char| !c.is_whitespace() && !c.is_control() && !";(\"".contains(*c);
                while let Some(c) = chars.next_if(part) {
                    id.push(c);
                }
                break;
            }
            _ => return None,
        }
    }
    let id = id.trim().trim_end_matches('.').to_lowercase();
    if id.is_empty() { None } else { Some(id) }
}

/// Whether a field that came with the mail must not reach the mailbox. An `Authentication-Results` without a readable
/// authserv-id goes too: some reader might take it for ours (RFC 8601 section 5).
fn is_forged(part: &Part<'_>, hostname: &str) -> bool {
    if part.is("Authentication-Results") {
        let own = hostname.trim_end_matches('.').to_lowercase();
        return authserv_id(part.value).is_none_or(|id| id == own);
    }
    part.name.is_some_and(|name| FORGED.iter().any(|forged| forged.eq_ignore_ascii_case(name)))
}

/// `text` as one word of a trace field: other characters than those of names become `_`, at most 100 stay.
fn word(text: &str) -> String {
    let word: String =
        text.chars().take(100).map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    if word.is_empty() { "unknown".to_owned() } else { word }
}

/// `text` on one line; our own host name, ids and dates, which a mistake in the configuration may still have broken.
fn line(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() || c.is_whitespace() && c != ' ' { ' ' } else { c }).collect()
}

/// A carriage return without line feed, or NUL: some programs end a line there and see other fields than we do.
fn is_ambiguous(head: &[u8]) -> bool {
    let mut octets = head.iter().peekable();
    while let Some(&octet) = octets.next() {
        if octet == 0 || octet == b'\r' && octets.peek() != Some(&&b'\n') {
            return true;
        }
    }
    false
}

/// The header block to store for an incoming mail whose header section is `head`.
///
/// On top go, at the final delivery, `Return-Path` and `Delivered-To`, then `Received`, [`MAIL_ID`] and
/// `Authentication-Results`, and, if the author is not the peer and nothing speaks against it, a `Reply-To` that
/// leads to the peer. Then follow the fields that came, in their order and octet for octet, without those that were
/// forged, and the empty line. A mail without header section gets the empty line before its body. `head` may hold
/// more than the section; what is behind it follows unchanged. A section that does not end within
/// [`super::header::MAX_SECTION`] is ended there by an empty line: behind it forged fields could hide.
///
/// # Errors
/// 5.4.6: more than [`MAX_RECEIVED`] `Received` fields.
pub fn incoming(head: &[u8], info: &Incoming<'_>) -> Result<Vec<u8>, Refusal> {
    let section = Section::read(head);
    if section.parts().filter(|part| part.is("Received")).count() > MAX_RECEIVED {
        return Err(Refusal::permanent(4, 6, "mail loop: it has been through more than 50 servers"));
    }
    let fields = &head[section.start()..section.fields_end()];
    let from: Vec<Address> = authors(&section).into_iter().map(|mailbox| mailbox.address).collect();
    let aligned = if is_ambiguous(fields) {
        Alignment::Fail("control characters in the header")
    } else {
        match (alignment(&from, info.peer, info.known), info.doubt) {
            (Alignment::Fail(_), Some(doubt)) if !from.is_empty() => Alignment::Fail(doubt),
            (aligned, _) => aligned,
        }
    };
    let host = line(info.hostname);
    let sender = info.sender.as_ref().map(Address::to_string).unwrap_or_default();
    let (result, author) = match aligned {
        Alignment::Pass => ("pass".to_owned(), from.first()),
        Alignment::Fail(reason) => {
            (format!("fail ({reason})"), from.iter().find(|address| !belongs(address, info.peer, info.known)))
        }
    };
    let author = author.map(|address| format!("header.from={address} ")).unwrap_or_default();
    let delivered = match info.is_final {
        true => format!("Return-Path: <{sender}>\nDelivered-To: {}\n", info.recipient),
        false => String::new(),
    };
    let mut block = format!(
        "{delivered}\
         Received: from {name} (tox {peer})\n\
         \tby {host} with TOX id {id}\n\
         \tfor <{recipient}>; {date}\n\
         {MAIL_ID}: {identity}\n\
         Authentication-Results: {host}; tox={result}\n\
         \t{author}policy.key={peer}\n",
        recipient = info.recipient,
        name = word(info.peer_name),
        peer = info.peer,
        id = word(info.id),
        identity = word(info.identity),
        date = line(info.date),
    );
    // Also an address that is known to be the peer's may lead elsewhere: whether the reader's MTA sends its domain over Tox
    // is not known here. The key's own address always comes back.
    if alignment(&from, info.peer, &[]) != Alignment::Pass && may_add_reply_to(&section) {
        block.push_str(&format!("Reply-To: {}\n", tox_address::canonical(info.peer)));
    }
    let mut block = block.into_bytes();
    block.reserve(head.len() + 2);
    for part in section.parts().filter(|part| !is_forged(part, info.hostname)) {
        block.extend_from_slice(&head[part.range]);
    }
    if section.end() == section.fields_end() {
        if block.last() != Some(&b'\n') {
            block.push(b'\n');
        }
        block.push(b'\n');
    }
    block.extend_from_slice(&head[section.fields_end()..]);
    Ok(block)
}

/// The line `Reply-To: …` that a submitted mail with header section `head` needs so that its reader can answer over
/// Tox; `None` if it needs none. To be inserted before the first field, that is at [`Section::start`]; no other field
/// is changed.
///
/// One is needed when an author is none of the account's addresses, there is no `Reply-To`, and no signature covers its
/// absence. Without a readable `From` the mail is left alone.
pub fn outgoing(head: &[u8], own: &OutgoingRule<'_>) -> Option<Vec<u8>> {
    let section = Section::read(head);
    let authors = authors(&section);
    let all_reach = authors.iter().all(|author| belongs(&author.address, own.key, own.reachable));
    if authors.is_empty() || all_reach || !may_add_reply_to(&section) {
        return None;
    }
    let field = match authors.as_slice() {
        // Folded, because name and address together may pass the 78 octets of RFC 5322 section 2.1.1.
        [Mailbox { display: Some(name), .. }] => format!("Reply-To: {name}\n\t<{}>\n", own.address),
        _ => format!("Reply-To: {}\n", own.address),
    };
    Some(field.into_bytes())
}

/// Longest `id` of a `Received` field that is taken, in octets.
const MAX_ID: usize = 100;

/// The queue id that the MTA which hands over a mail wrote into the `Received` field on top of it (`id`, RFC 5321
/// section 4.4), for MTAs that cannot tell it otherwise. `None` where the first field is no `Received`: then no MTA
/// vouches for the mail, and it may be meant twice.
pub fn received_id(head: &[u8]) -> Option<String> {
    let field = Section::read(head).parts().next().filter(|part| part.is("Received"))?;
    let mut depth = 0usize;
    let mut plain = String::new();
    for octet in field.value.iter().copied() {
        match octet {
            b'(' => depth += 1,
            b')' => {
                depth = depth.saturating_sub(1);
                plain.push(' ');
            }
            b';' if depth == 0 => break,
            _ if depth == 0 => plain.push(char::from(octet)),
            _ => {}
        }
    }
    // The clauses are pairs of a word and its value, so a host that is called "id" is none.
    let words: Vec<&str> = plain.split_ascii_whitespace().collect();
    let clauses = words.chunks_exact(2).filter_map(|pair| <&[&str; 2]>::try_from(pair).ok());
    let [_, id] = clauses.into_iter().find(|[word, _]| word.eq_ignore_ascii_case("id"))?;
    let fits = id.len() <= MAX_ID && id.bytes().all(|octet| octet.is_ascii_graphic());
    fits.then(|| (*id).to_owned())
}

/// The envelope sender to tell the peer: `sender` where it can be reached over Tox, else the account's own address. The
/// empty reverse-path stays, or notices would be answered.
pub fn wire_sender(sender: &ReversePath, own: &OutgoingRule<'_>) -> ReversePath {
    let address = sender.as_ref()?;
    Some(if belongs(address, own.key, own.reachable) { address.clone() } else { own.address.clone() })
}

/// The moment `ms_since_epoch` in UTC as RFC 5322 section 3.3 writes it. Moments before 1970 or after 9999 are taken
/// for the nearest that can be written.
pub fn date(ms_since_epoch: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = ms_since_epoch.div_euclid(1000).clamp(0, 253_402_300_799) as u64;
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // Counted from 1 March 0000, so that the leap day is the last of its year (the calendar repeats after 400 years).
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month as usize]);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{weekday}, {day} {month} {year:04} {hour:02}:{minute:02}:{second:02} +0000")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tox_id::ToxId;
    use proptest::prelude::*;

    const KEY: PublicKey = PublicKey([0x11; 32]);
    const HEX: &str = "1111111111111111111111111111111111111111111111111111111111111111";
    const HOST: &str = "mail.example";

    fn address(text: &str) -> Address {
        text.parse().expect(text)
    }

    fn take(head: &[u8], sender: &ReversePath, known: &[Address]) -> Result<Vec<u8>, Refusal> {
        take_for(head, sender, known, true)
    }

    fn take_for(head: &[u8], sender: &ReversePath, known: &[Address], is_final: bool) -> Result<Vec<u8>, Refusal> {
        let info = Incoming {
            peer: &KEY,
            peer_name: "Bob's laptop\r\nX: y",
            sender,
            is_final,
            recipient: &address("alice@mail.example"),
            hostname: HOST,
            id: "4F2A",
            identity: "00ff",
            date: "Mon, 23 Nov 2026 06:54:25 +0000",
            known,
            doubt: None,
        };
        incoming(head, &info)
    }

    #[test]
    fn only_the_final_delivery_adds_what_belongs_to_it() {
        let mail = b"Delivered-To: forged@x\nFrom: a@x\n\nHello\n";
        let sender = Some(address("bob@x.example"));
        let handed_on = String::from_utf8(take_for(mail, &sender, &[], false).expect("taken")).expect("UTF-8");
        assert!(handed_on.starts_with("Received: from ") && !handed_on.contains("Delivered-To"), "{handed_on}");
        let delivered = String::from_utf8(take(mail, &sender, &[]).expect("taken")).expect("UTF-8");
        let top = "Return-Path: <bob@x.example>\nDelivered-To: alice@mail.example\n";
        assert_eq!(delivered.strip_prefix(top), Some(handed_on.as_str()));
    }

    fn text(head: &[u8], known: &[&str]) -> String {
        let known: Vec<Address> = known.iter().map(|text| address(text)).collect();
        String::from_utf8(take(head, &Some(address("bob@x.example")), &known).expect("taken")).expect("UTF-8")
    }

    fn top(result: &str) -> String {
        format!(
            "Return-Path: <bob@x.example>\n\
             Delivered-To: alice@mail.example\n\
             Received: from Bob_s_laptop__X__y (tox {HEX})\n\
             \tby mail.example with TOX id 4F2A\n\
             \tfor <alice@mail.example>; Mon, 23 Nov 2026 06:54:25 +0000\n\
             Tox-Mail-Id: 00ff\n\
             Authentication-Results: mail.example; tox={result}policy.key={HEX}\n"
        )
    }

    fn reply_to() -> String {
        format!("Reply-To: {}\n", tox_address::canonical(&KEY))
    }

    #[test]
    fn an_aligned_mail() {
        let head = b"Received: old\nFrom: Bob <bob@x.example>\nSubject: a\n  b\n\n";
        let top = top("pass\n\theader.from=bob@x.example ") + &reply_to();
        assert_eq!(text(head, &["Bob@x.example"]), top + std::str::from_utf8(head).expect("ASCII"));
    }

    #[test]
    fn forged_fields_go_and_all_else_stays() {
        let head = b"From bob Mon Jan  1 00:00:00 2026\n\
            return-path : <evil@x>\nSubject: a\r\n\tb\r\nDELIVERED-TO: x\n folded\nX-Original-To: y\n\
            Authentication-Results: MAIL.example; tox=pass\n\
            Authentication-Results:\n (c;) \"mail\\.example.\";\n\ttox=pass\n\
            Authentication-Results: other.example; spf=pass\n\
            Authentication-Results:\nrubbish\nStatus: RO\n\
            x-status: A\nX-UID: 1\nX-Keywords: k\ntox-mail-id\t: 00\n ff\nFrom: eve@y.example\nBcc: z\n\r\n";
        let expected = top("fail (From is not an address of this peer)\n\theader.from=eve@y.example ")
            + &reply_to()
            + "Subject: a\r\n\tb\r\nAuthentication-Results: other.example; spf=pass\nrubbish\n\
               From: eve@y.example\nBcc: z\n\r\n";
        assert_eq!(text(head, &["bob@x.example"]), expected);
    }

    #[test]
    fn the_queue_id_is_that_of_the_field_on_top() {
        for (head, id) in [
            (
                "Received: from root by x.example with local (Exim 4.96)\n\t(envelope-from <a@x>)\n\t\
                 id 1xWDsx-0006TW-09\n\tfor b@tox.alt;\n\tWed, 25 Nov 2026 14:22:11 +0000\nFrom: a@x\n\n",
                Some("1xWDsx-0006TW-09"),
            ),
            (
                "Received: from [127.0.0.1] (helo=id (a id b)) by x.example with esmtp (Exim 4.96) id 1x-2-3; date\n\n",
                Some("1x-2-3"),
            ),
            (
                "received: by x.example (Postfix, from userid 0)\n ID 4jXX7F4G11z1SdJ6; date\n\n",
                Some("4jXX7F4G11z1SdJ6"),
            ),
            ("Received: from id by id with id; date\n\n", None),
            ("Received: by x.example; id 7\n\n", None),
            ("Received: by x.example (id 7) with SMTP\n\n", None),
            ("Received: by x.example id\n\n", None),
            ("Received: by x.example id \u{e5}; date\n\n", None),
            ("Received:\n\n", None),
            ("Received: ((((\n\n", None),
            ("Subject: x\nReceived: by x.example id 7; date\n\n", None),
            ("Return-Path: <a@x>\nReceived: by x.example id 7; date\n\n", None),
            ("", None),
        ] {
            assert_eq!(received_id(head.as_bytes()).as_deref(), id, "{head}");
        }
        let long = format!("Received: by x id {}; date\n\n", "a".repeat(MAX_ID + 1));
        assert_eq!(received_id(long.as_bytes()), None);
    }

    #[test]
    fn a_reply_to_is_added_only_where_it_breaks_nothing() {
        for (field, added) in [
            ("Subject: x", true),
            ("Reply-To: a@b", false),
            ("reply-to :", false),
            ("DKIM-Signature: v=1; h=from:to: Reply-To\n\t:subject; b=x", false),
            ("DKIM-Signature: v=1;\n\th = from : reply-\n to; b=x", false),
            ("ARC-Message-Signature: i=1; h=reply-to", false),
            ("DKIM-Signature: v=1; h=from:in-reply-to; bh=reply-to", true),
        ] {
            let head = format!("From: eve@y\n{field}\n\n");
            assert_eq!(text(head.as_bytes(), &[]).contains(&reply_to()), added, "{field}");
        }
    }

    #[test]
    fn mails_without_a_proper_header() {
        let unreadable = top("fail (no readable From address)\n\t") + &reply_to();
        for (head, rest) in [
            ("", "\n"),
            ("\n", "\n"),
            ("\nbody\n", "\nbody\n"),
            ("hello world\nFrom: a@b\n\n", "\nhello world\nFrom: a@b\n\n"),
            ("Subject: x", "Subject: x\n\n"),
            ("Subject: x\n", "Subject: x\n\n"),
            ("Status: O", "\n"),
            ("From now on\nStatus is unknown\n", "\nFrom now on\nStatus is unknown\n"),
            ("From a@b Mon Jan  1 00:00:00 2026\n\nbody\n", "\nbody\n"),
        ] {
            assert_eq!(text(head.as_bytes(), &[]), format!("{unreadable}{rest}"), "{head:?}");
        }
        let empty = take(b"\n", &None, &[]).expect("taken");
        assert!(empty.starts_with(b"Return-Path: <>\n"));
    }

    #[test]
    fn forged_fields_do_not_hide_behind_the_limit() {
        let mut head = b"From: bob@x.example\n".to_vec();
        while head.len() < super::super::header::MAX_SECTION {
            head.extend_from_slice(b"X: 0123456789abcdef\n");
        }
        head.extend_from_slice(b"Authentication-Results: mail.example; tox=pass\n\nbody");
        for length in [head.len(), super::super::header::MAX_SECTION] {
            let block = take(&head[..length], &None, &[]).expect("taken");
            assert_eq!(Section::read(&block).parts().filter(|part| part.is("Authentication-Results")).count(), 1);
        }
        let all = take(&head, &None, &[]).expect("taken");
        assert!(all.ends_with(b"\nAuthentication-Results: mail.example; tox=pass\n\nbody"));
    }

    #[test]
    fn a_loop_ends() {
        let head = |count: usize| "Received: x\n".repeat(count) + "\n";
        assert!(take(head(50).as_bytes(), &None, &[]).is_ok());
        let refusal = take(head(51).as_bytes(), &None, &[]).expect_err("a loop");
        assert_eq!(refusal.status().to_string(), "5.4.6");
    }

    #[test]
    fn alignment_is_strict() {
        let own = tox_address::canonical(&KEY).to_string();
        let label = own.split('@').next().expect("local");
        let id = ToxId::new(KEY, [1, 2, 3, 4]);
        let other = tox_address::canonical(&PublicKey([0x22; 32])).to_string();
        let known = [address("bob@x.example")];
        for (from, pass) in [
            (own.clone(), true),
            (own.to_uppercase(), true),
            (format!("{HEX}@tox"), true),
            (format!("{id}@tox.alt"), true),
            (format!("anna@{label}.tox.alt"), true),
            ("Bob@X.example".to_owned(), true),
            (format!("bob@x.example, {own}"), true),
            ("bob@x.example, eve@y".to_owned(), false),
            ("bob@x.example\nFROM: eve@y".to_owned(), false),
            ("eve@y <bob@x.example>".to_owned(), false),
            ("bob@x.example, rubbish".to_owned(), false),
            ("bob@x.example\nX: a\rFrom: eve@y".to_owned(), false),
            ("bob@x.example\nX: \0".to_owned(), false),
            (other, false),
            ("bob@tox.alt".to_owned(), false),
            ("bob@evil.x.example".to_owned(), false),
            (String::new(), false),
        ] {
            let head = format!("From: {from}\n\n");
            let block = take(head.as_bytes(), &None, &known).expect("taken");
            let block = String::from_utf8(block).expect("UTF-8");
            assert_eq!(block.contains("; tox=pass\n"), pass, "{from}: {block}");
            assert_eq!(block.contains("; tox=fail ("), !pass, "{from}");
        }
        assert_eq!(alignment(&known, &KEY, &known), Alignment::Pass);
        assert!(matches!(alignment(&[], &KEY, &known), Alignment::Fail(_)));
    }

    #[test]
    fn submitted_mail_can_be_answered() {
        let own = tox_address::canonical(&KEY);
        let reachable = [address("alice@tox.example")];
        let rule = OutgoingRule { key: &KEY, address: &own, reachable: &reachable };
        let line = |head: &str| outgoing(head.as_bytes(), &rule).map(|line| String::from_utf8(line).expect("UTF-8"));
        assert_eq!(line("From: Alice A <alice@laptop>\n\n"), Some(format!("Reply-To: Alice A\n\t<{own}>\n")));
        assert_eq!(line("From: Ålice <alice@laptop>\n\n"), Some(format!("Reply-To: {own}\n")));
        assert_eq!(line("From: A <a@laptop>, B <b@laptop>\n\n"), Some(format!("Reply-To: {own}\n")));
        for head in [
            "From: alice@tox.example\n\n".to_owned(),
            format!("From: {own}\n\n"),
            "From: a@laptop\nReply-To: x@y\n\n".to_owned(),
            "From: a@laptop\nDKIM-Signature: h=from:reply-to\n\n".to_owned(),
            "Subject: no author\n\n".to_owned(),
            "From: rubbish\n\n".to_owned(),
            String::new(),
        ] {
            assert_eq!(line(&head), None, "{head}");
        }
        assert_eq!(wire_sender(&None, &rule), None);
        assert_eq!(wire_sender(&Some(address("a@laptop")), &rule), Some(own.clone()));
        assert_eq!(wire_sender(&Some(reachable[0].clone()), &rule), Some(reachable[0].clone()));
        assert_eq!(from_addresses(b"From: a@x\nFrom: B <b@y>\n\n"), [address("a@x"), address("b@y")]);
    }

    #[test]
    fn dates() {
        for (ms, expected) in [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_400_000, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_795_416_865_999, "Mon, 23 Nov 2026 06:54:25 +0000"),
            (4_107_542_399_000, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (i64::MIN, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (i64::MAX, "Fri, 31 Dec 9999 23:59:59 +0000"),
        ] {
            assert_eq!(date(ms), expected);
        }
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let texts: Vec<&[u8]> = vec![
            b"From: bob@x.example\n",
            b"from :a@b\r\n",
            b"Return-Path: <a@b>\n",
            b"RETURN-PATH \t: x\n y\n",
            b"\n",
            b"\r\n",
            b"Authentication-Results: mail.example;",
            b"authentication-results:\n (x) Mail.Example ;tox=pass\n",
            b"From x\n",
            b"Authentication-Results: \"mail.example\" 1; tox=pass\n",
            b"Authentication-Results: else; x=y\n",
            b"Status: R\n",
            b"Delivered-To: z\n",
            b"Tox-Mail-Id: 00ff\n",
            b"tox-mail-id :\n",
            b"X-Original-To:\n",
            b"Subject: s\n",
            b" folded\n",
            b"\tfolded",
            b"Reply-To: x@y\n",
            b"\r",
        ];
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..6),
            proptest::sample::select(texts).prop_map(<[u8]>::to_vec),
        ]
    }

    proptest! {
        #[test]
        fn nothing_forged_survives_and_nothing_else_is_touched(
            head in proptest::collection::vec(piece(), 0..16).prop_map(|all| all.concat()),
            name in "\\PC{0,20}",
        ) {
            let block = take(&head, &Some(address("s@x")), &[address("bob@x.example")]).expect("no loop");
            let made = Section::read(&block);
            let once = ["Return-Path", "Delivered-To", MAIL_ID].map(|name| (name, 1));
            for (name, count) in once.into_iter().chain([("X-Original-To", 0), ("Status", 0)]) {
                prop_assert_eq!(made.parts().filter(|part| part.is(name)).count(), count, "{}", name);
            }
            let ours = |part: &Part<'_>| {
                part.is("Authentication-Results")
                    && String::from_utf8_lossy(part.value).to_lowercase().contains("mail.example")
            };
            prop_assert!(made.parts().filter(ours).count() >= 1);
            let section = Section::read(&head);
            let kept: Vec<&[u8]> = section.parts()
                .filter(|part| !is_forged(part, HOST))
                .map(|part| &head[part.range])
                .collect();
            let stored: Vec<&[u8]> = made.parts().map(|part| &block[part.range]).collect();
            let added = stored.len() - kept.len();
            prop_assert!(added == 5 || added == 6);
            for (stored, kept) in stored[added..].iter().zip(&kept) {
                prop_assert_eq!(stored.strip_suffix(b"\n"), Some(kept.strip_suffix(b"\n").unwrap_or(kept)));
            }
            prop_assert!(block.ends_with(&head[section.end()..]));
            prop_assert!(made.end() > made.fields_end());
            prop_assert!(block[..made.end() - 1].split(|&octet| octet == b'\n').take(8).all(|line| line.len() < 998));
            let own = OutgoingRule { key: &KEY, address: &address("me@x"), reachable: &[] };
            let _ = (outgoing(&head, &own), received_id(&head), word(&name), line(&name));
        }
    }
}
