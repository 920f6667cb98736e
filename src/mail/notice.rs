//! The notice that tells a sender what became of a mail (RFC 3464, RFC 6522).
//!
//! Owns its wording and form. When to send one, and storing it before a recipient counts as failed, is the caller's
//! part; so is never to send one for a mail with the empty reverse-path. Pure: dates and randomness are arguments. Uses
//! [`super::address`], [`super::envelope`], [`super::header`] and [`super::status`].

use super::address::Address;
use super::envelope::Notify;
use super::header::Section;
use super::status::Refusal;

/// Of the original header at most that much goes back.
const MAX_HEADER: usize = 64 * 1024;
/// The longest line a mail may have, without its line end (RFC 5322 section 2.1.1).
const MAX_LINE: usize = 998;

/// One recipient who did not get the mail, or not yet.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// The recipient as we were told it.
    pub address: &'a Address,
    /// `ORCPT` exactly as given (`rfc822;xtext`).
    pub orcpt: Option<&'a str>,
    /// Why not.
    pub refusal: &'a Refusal,
}

/// What of the original mail goes back to its sender.
#[derive(Debug, Clone, Copy)]
pub enum Original<'a> {
    /// The header section only; what stands behind it is left out. For `RET=HDRS` and for large mails.
    Headers(&'a [u8]),
    /// The whole mail. For small mails without `RET=HDRS`. One that no 8-bit mail can carry (NUL, bare CR, overlong
    /// lines) goes back with its header section only.
    Whole(&'a [u8]),
}

/// What became of the mail (RFC 3464 section 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// It failed for good.
    Failed,
    /// It still waits, at most until then, as [`super::trace::date`] writes it.
    Delayed(&'a str),
}

/// What a notice tells.
#[derive(Debug, Clone, Copy)]
pub struct Notice<'a> {
    /// What became of the mail.
    pub action: Action<'a>,
    /// Our own name.
    pub hostname: &'a str,
    /// Our id of the mail.
    pub queue_id: &'a str,
    /// Now, as [`super::trace::date`] writes it.
    pub date: &'a str,
    /// When the mail came to us, in the same form.
    pub arrival_date: &'a str,
    /// The reverse-path of the mail: who gets the notice. Needs SMTPUTF8 if it is not ASCII.
    pub sender: &'a Address,
    /// At least one.
    pub recipients: &'a [Recipient<'a>],
    /// What goes back.
    pub original: Original<'a>,
    /// Fresh random octets for the boundary and the Message-ID.
    pub random: [u8; 16],
    /// `ENVID` exactly as given (xtext).
    pub envid: Option<&'a str>,
}

/// Whether a recipient with that `NOTIFY` wish wants to be told of a failure (RFC 3461 section 4.1: by default, yes).
pub fn wants_failure(notify: Option<Notify>) -> bool {
    notify.is_none_or(|notify| notify.failure && !notify.never)
}

/// Whether a recipient with that `NOTIFY` wish wants to be told of a delay (RFC 3461 section 4.1: without a wish, it may).
pub fn wants_delay(notify: Option<Notify>) -> bool {
    notify.is_none_or(|notify| notify.delay && !notify.never)
}

/// `text` on one line of printable characters.
fn line(text: &str) -> String {
    text.chars().take(MAX_LINE / 4).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// `text` on one line of printable ASCII, as a delivery status needs it (RFC 3464 section 2.1).
fn ascii(text: &str) -> String {
    line(text).chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

/// Decodes xtext (RFC 3461 section 4); `None` if it is none or does not stand for one line of printable ASCII.
fn decode_xtext(text: &str) -> Option<String> {
    let mut decoded = String::new();
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let octet = if octet == b'+' {
            let digit = |octet: u8| (octet as char).to_digit(16).filter(|_| !octet.is_ascii_lowercase());
            (digit(octets.next()?)? * 16 + digit(octets.next()?)?) as u8
        } else {
            octet
        };
        if !(octet == b' ' || octet.is_ascii_graphic()) {
            return None;
        }
        decoded.push(octet as char);
    }
    let decoded = decoded.trim().to_owned();
    if decoded.is_empty() || decoded.len() > 600 { None } else { Some(decoded) }
}

/// An address with its type; one that is not ASCII in the 7-bit form of RFC 6533 section 3 (`utf-8-addr-xtext`).
fn typed(address: &Address) -> String {
    if address.is_ascii() {
        return format!("rfc822; {address}");
    }
    let mut encoded = String::from("utf-8; ");
    for c in address.to_string().chars() {
        if c.is_ascii_graphic() && !matches!(c, '\\' | '+' | '=') {
            encoded.push(c);
        } else {
            encoded.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
        }
    }
    encoded
}

/// Whether `mail` may travel unchanged in an 8-bit mail (RFC 2045 section 2.8).
fn is_8bit(mail: &[u8]) -> bool {
    mail.split(|&octet| octet == b'\n').all(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.len() <= MAX_LINE && !line.iter().any(|octet| matches!(octet, 0 | b'\r'))
    })
}

/// The fields of `head` made fit to travel: LF line ends, no NUL, no bare CR, no overlong line, no empty line.
fn fields(head: &[u8]) -> Vec<u8> {
    let section = Section::read(head);
    let mut clean = Vec::new();
    let fields = &head[section.start()..section.fields_end()];
    for line in fields.split(|&octet| octet == b'\n') {
        let line: Vec<u8> =
            line.iter().map(|&octet| if octet == 0 { b'?' } else { octet }).filter(|&octet| octet != b'\r').collect();
        let line = &line[..line.len().min(MAX_LINE)];
        if clean.len() + line.len() > MAX_HEADER {
            break;
        }
        if !line.is_empty() {
            clean.extend_from_slice(line);
            clean.push(b'\n');
        }
    }
    clean
}

fn contains(text: &[u8], sought: &[u8]) -> bool {
    text.windows(sought.len()).any(|window| window == sought)
}

/// A boundary that does not occur in `content`.
fn boundary(random: &[u8; 16], content: &[u8]) -> String {
    let stem = format!("=_tox_{:032x}", u128::from_be_bytes(*random));
    let mut boundary = stem.clone();
    let mut count = 0u64;
    // Finite content cannot hold them all. A longer one in the content that begins with ours counts as ours, and must:
    // a delimiter line is recognised by its beginning (RFC 2046 section 5.1.1).
    while contains(content, boundary.as_bytes()) {
        count += 1;
        boundary = format!("{stem}.{count}");
    }
    boundary
}

/// The notice, a whole mail with LF line ends, the empty reverse-path on top as `Return-Path: <>` (an MTA puts
/// its own in that place). It must be sent with the empty reverse-path as well, and nothing may be sent when it fails.
pub fn compose(n: &Notice<'_>) -> Vec<u8> {
    let host = line(n.hostname);
    let id = ascii(n.queue_id);
    let (fate, subject, action) = match n.action {
        Action::Failed => (
            "Your message could not be delivered to the recipients below. It will not\nbe tried again.".to_owned(),
            "Undelivered Mail Returned to Sender",
            "failed",
        ),
        Action::Delayed(until) => (
            format!(
                "THIS IS A WARNING ONLY. YOU DO NOT NEED TO RESEND YOUR MESSAGE.\n\n\
                 Your message still waits to be delivered to the recipients below. It will\n\
                 be tried until {}.",
                line(until)
            ),
            "Delayed Mail (still being retried)",
            "delayed",
        ),
    };
    let mut words = format!(
        "This is the mail system at host {host}.\n\n\
         {fate} {returned}\n\n\
         If you need help, send these lines along (queue id {id}).\n\n",
        returned = match n.original {
            Original::Headers(_) => "The header of your message is attached.",
            Original::Whole(_) => "Your message is attached.",
        },
    );
    let mut status = format!("Reporting-MTA: dns; {}\n", ascii(n.hostname));
    if let Some(envid) = n.envid.and_then(decode_xtext) {
        status.push_str(&format!("Original-Envelope-Id: {envid}\n"));
    }
    status.push_str(&format!("X-Tox-Queue-ID: {id}\nArrival-Date: {}\n", ascii(n.arrival_date)));
    for recipient in n.recipients {
        let (address, refusal) = (recipient.address, recipient.refusal);
        words.push_str(&format!("<{address}>:\n    {} {}\n\n", refusal.status(), line(refusal.text())));
        status.push('\n');
        let original = recipient.orcpt.and_then(|orcpt| orcpt.split_once(';'));
        let kind = |kind: &str| !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if let Some((kind, Some(address))) =
            original.filter(|(name, _)| kind(name)).map(|(kind, text)| (kind, decode_xtext(text)))
        {
            status.push_str(&format!("Original-Recipient: {kind}; {address}\n"));
        }
        // A long code goes on a line of its own: folded, both stay within what RFC 5322 allows.
        status.push_str(&format!(
            "Final-Recipient: {}\nAction: {action}\nStatus: {code}\nDiagnostic-Code: x-tox;\n {code} {}\n",
            typed(address),
            ascii(refusal.text()),
            code = refusal.status(),
        ));
        if let Action::Delayed(until) = n.action {
            status.push_str(&format!("Will-Retry-Until: {}\n", ascii(until)));
        }
    }
    let (kind, content) = match n.original {
        Original::Whole(mail) if is_8bit(mail) => ("message/rfc822", mail.to_vec()),
        Original::Whole(mail) | Original::Headers(mail) => ("text/rfc822-headers", fields(mail)),
    };
    if kind == "text/rfc822-headers" {
        words = words.replace("Your message is attached.", "The header of your message is attached.");
    }
    let charset =
        if kind.starts_with("text") && std::str::from_utf8(&content).is_ok() { "; charset=utf-8" } else { "" };
    let boundary = boundary(&n.random, &[words.as_bytes(), status.as_bytes(), &content].concat());
    let random = u128::from_be_bytes(n.random);
    let mut notice = format!(
        "Return-Path: <>\n\
         From: Mail Delivery System <MAILER-DAEMON@{host}>\n\
         To: {sender}\n\
         Subject: {subject}\n\
         Date: {date}\n\
         Message-ID: <{random:032x}@{host}>\n\
         Auto-Submitted: auto-replied\n\
         MIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status;\n\
         \tboundary=\"{boundary}\"\n\
         Content-Transfer-Encoding: 8bit\n\n\
         This is a MIME-encapsulated message.\n\n\
         --{boundary}\n\
         Content-Description: Notification\n\
         Content-Type: text/plain; charset=utf-8\n\
         Content-Transfer-Encoding: 8bit\n\n\
         {words}\n\
         --{boundary}\n\
         Content-Description: Delivery report\n\
         Content-Type: message/delivery-status\n\n\
         {status}\n\
         --{boundary}\n\
         Content-Description: {undelivered}\n\
         Content-Type: {kind}{charset}\n\
         Content-Transfer-Encoding: 8bit\n\n",
        sender = n.sender,
        date = line(n.date),
        undelivered = if action == "failed" { "Undelivered Message" } else { "Delayed Message" },
    )
    .into_bytes();
    notice.extend_from_slice(&content);
    notice.extend_from_slice(format!("\n--{boundary}--\n").as_bytes());
    notice
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::{MessageParser, MimeHeaders, PartType};
    use proptest::prelude::*;

    fn address(text: &str) -> Address {
        text.parse().expect(text)
    }

    fn notice(original: Original<'_>, recipient: &str, orcpt: Option<&str>, refusal: &Refusal) -> Vec<u8> {
        compose(&Notice {
            action: Action::Failed,
            hostname: "mail.example",
            queue_id: "4F2A",
            date: "Mon, 23 Nov 2026 06:54:25 +0000",
            arrival_date: "Wed, 18 Nov 2026 06:54:25 +0000",
            sender: &address("alice@mail.example"),
            recipients: &[
                Recipient { address: &address(recipient), orcpt, refusal },
                Recipient { address: &address("carol@z.example"), orcpt: None, refusal },
            ],
            original,
            random: [0xab; 16],
            envid: Some("id+2B1"),
        })
    }

    const MAIL: &[u8] = b"From: alice@mail.example\nSubject: hei p\xc3\xa5 deg\n\nBody\n";

    #[test]
    fn the_exact_form() {
        let refusal = Refusal::permanent(1, 1, "no such mailbox: blåbær");
        let text = notice(Original::Headers(MAIL), "bob@y.example", Some("rfc822;b+2Bx@y.example"), &refusal);
        let expected = "Return-Path: <>
From: Mail Delivery System <MAILER-DAEMON@mail.example>
To: alice@mail.example
Subject: Undelivered Mail Returned to Sender
Date: Mon, 23 Nov 2026 06:54:25 +0000
Message-ID: <abababababababababababababababab@mail.example>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary=\"=_tox_abababababababababababababababab\"
Content-Transfer-Encoding: 8bit

This is a MIME-encapsulated message.

--=_tox_abababababababababababababababab
Content-Description: Notification
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

This is the mail system at host mail.example.

Your message could not be delivered to the recipients below. It will not
be tried again. The header of your message is attached.

If you need help, send these lines along (queue id 4F2A).

<bob@y.example>:
    5.1.1 no such mailbox: blåbær

<carol@z.example>:
    5.1.1 no such mailbox: blåbær


--=_tox_abababababababababababababababab
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example
Original-Envelope-Id: id+1
X-Tox-Queue-ID: 4F2A
Arrival-Date: Wed, 18 Nov 2026 06:54:25 +0000

Original-Recipient: rfc822; b+x@y.example
Final-Recipient: rfc822; bob@y.example
Action: failed
Status: 5.1.1
Diagnostic-Code: x-tox;
 5.1.1 no such mailbox: bl?b?r

Final-Recipient: rfc822; carol@z.example
Action: failed
Status: 5.1.1
Diagnostic-Code: x-tox;
 5.1.1 no such mailbox: bl?b?r

--=_tox_abababababababababababababababab
Content-Description: Undelivered Message
Content-Type: text/rfc822-headers; charset=utf-8
Content-Transfer-Encoding: 8bit

From: alice@mail.example
Subject: hei på deg

--=_tox_abababababababababababababababab--
";
        assert_eq!(String::from_utf8(text).expect("UTF-8"), expected);
    }

    #[test]
    fn a_mail_parser_reads_a_report_of_three_parts() {
        let refusal = Refusal::temporary(4, 7, "the peer was not seen for 5 days");
        for (original, third) in [(Original::Headers(MAIL), "rfc822-headers"), (Original::Whole(MAIL), "rfc822")] {
            let text = notice(original, "bob@y.example", None, &refusal);
            let mail = MessageParser::default().parse(&text).expect("a mail");
            let kind = mail.content_type().expect("type");
            assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
            assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
            assert_eq!(mail.header_raw("Auto-Submitted").map(str::trim), Some("auto-replied"));
            assert_eq!(mail.header_raw("Return-Path").map(str::trim), Some("<>"));
            assert!(mail.date().is_some() && mail.message_id().is_some());
            let PartType::Multipart(parts) = &mail.parts[0].body else { panic!("no multipart") };
            let subtypes: Vec<_> = parts
                .iter()
                .map(|part| {
                    mail.parts[*part as usize].content_type().and_then(|kind| kind.subtype()).unwrap_or_default()
                })
                .collect();
            assert_eq!(subtypes, ["plain", "delivery-status", third]);
            if let PartType::Message(inner) = &mail.parts[parts[2] as usize].body {
                assert_eq!(inner.subject(), Some("hei på deg"));
                assert_eq!(inner.body_text(0).as_deref(), Some("Body\n"));
            } else {
                assert_eq!(third, "rfc822-headers");
            }
            let words = mail.body_text(0).expect("text");
            assert!(words.contains("4.4.7 the peer was not seen for 5 days"), "{words}");
        }
    }

    #[test]
    fn a_notice_of_delay_asks_for_nothing_and_says_until_when() {
        let refusal = Refusal::temporary(7, 1, "the key has changed");
        let until = "Sat, 28 Nov 2026 06:54:25 +0000";
        let text = compose(&Notice {
            action: Action::Delayed(until),
            hostname: "mail.example",
            queue_id: "4F2A",
            date: "Mon, 23 Nov 2026 10:54:25 +0000",
            arrival_date: "Mon, 23 Nov 2026 06:54:25 +0000",
            sender: &address("alice@mail.example"),
            recipients: &[Recipient { address: &address("bob@y.example"), orcpt: None, refusal: &refusal }],
            original: Original::Headers(MAIL),
            random: [0xab; 16],
            envid: None,
        });
        let mail = MessageParser::default().parse(&text).expect("a mail");
        assert_eq!(mail.subject(), Some("Delayed Mail (still being retried)"));
        assert_eq!(mail.header_raw("Auto-Submitted").map(str::trim), Some("auto-replied"));
        let text = String::from_utf8(text).expect("UTF-8");
        for part in [
            "YOU DO NOT NEED TO RESEND YOUR MESSAGE",
            &format!("be tried until {until}."),
            "<bob@y.example>:\n    4.7.1 the key has changed",
            "Final-Recipient: rfc822; bob@y.example\nAction: delayed\nStatus: 4.7.1\n",
            &format!("\nWill-Retry-Until: {until}\n"),
            "Content-Description: Delayed Message\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("could not be delivered"), "{text}");
        for (notify, wanted) in [
            (None, true),
            (Some(Notify { delay: true, ..Notify::default() }), true),
            (Some(Notify { failure: true, ..Notify::default() }), false),
            (Some(Notify { never: true, delay: true, ..Notify::default() }), false),
        ] {
            assert_eq!(wants_delay(notify), wanted, "{notify:?}");
        }
    }

    #[test]
    fn what_cannot_travel_is_left_behind() {
        fn text(original: Original<'_>) -> String {
            let refusal = Refusal::permanent(0, 0, "x");
            String::from_utf8_lossy(&notice(original, "b@y", None, &refusal)).into_owned()
        }
        for body in ["\0", "a\rb", &"x".repeat(999)] {
            let mail = format!("Subject: s\0t\r\n\tfolded\n\n{body} SECRET\n");
            let text = text(Original::Whole(mail.as_bytes()));
            assert!(text.contains("text/rfc822-headers") && !text.contains("SECRET"), "{text}");
            assert!(
                text.contains("\n\nSubject: s?t\n\tfolded\n\n--") && text.contains("The header of your message"),
                "{text}"
            );
        }
        let long = format!("X: {}\n", "y".repeat(5000)).repeat(100);
        let text = text(Original::Headers(long.as_bytes()));
        assert!(text.len() < MAX_HEADER + 4096 && text.lines().all(|line| line.len() <= MAX_LINE));
    }

    #[test]
    fn the_boundary_does_not_occur_in_the_content() {
        let refusal = Refusal::permanent(0, 0, "x");
        let mail = format!("S: x\n\n--=_tox_{0}\n--=_tox_{0}.1--\n", "ab".repeat(16));
        let text = notice(Original::Whole(mail.as_bytes()), "b@y", None, &refusal);
        let parsed = MessageParser::default().parse(&text).expect("a mail");
        assert_eq!(
            parsed.content_type().and_then(|kind| kind.attribute("boundary")),
            Some(format!("=_tox_{}.2", "ab".repeat(16)).as_str())
        );
        let PartType::Multipart(parts) = &parsed.parts[0].body else { panic!("no multipart") };
        assert_eq!(parts.len(), 3);
    }

    #[test]
    fn odd_words_of_the_envelope() {
        let refusal = Refusal::permanent(1, 1, "x");
        let text = |recipient, orcpt| {
            String::from_utf8(notice(Original::Headers(b""), recipient, orcpt, &refusal)).expect("UTF-8")
        };
        assert!(text("grå@y", None).contains("\nFinal-Recipient: utf-8; gr\\x{E5}@y\n"));
        for orcpt in ["rfc822;a+0Ab@x", "rfc822;", "a@x", "rf c;a@x", "rfc822;a+2", "rfc822;a+2b", "rfc822;å"] {
            assert!(!text("b@y", Some(orcpt)).contains("Original-Recipient"), "{orcpt}");
        }
        for (notify, wanted) in [
            (None, true),
            (Some(Notify { failure: true, ..Notify::default() }), true),
            (Some(Notify { success: true, ..Notify::default() }), false),
            (Some(Notify { never: true, failure: true, ..Notify::default() }), false),
            (Some(Notify { delay: true, ..Notify::default() }), false),
        ] {
            assert_eq!(wants_failure(notify), wanted);
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_back_it_stays_a_report(
            mail in proptest::collection::vec(any::<u8>(), 0..400),
            why in "\\PC{0,500}",
            whole in any::<bool>(),
        ) {
            let original = if whole { Original::Whole(&mail) } else { Original::Headers(&mail) };
            let text = notice(original, "bob@y.example", Some(&why), &Refusal::permanent(0, 0, &why));
            prop_assert!(is_8bit(&text));
            let parsed = MessageParser::default().parse(&text).expect("a mail");
            let PartType::Multipart(parts) = &parsed.parts[0].body else { panic!("no multipart") };
            prop_assert_eq!(parts.len(), 3);
        }
    }
}
