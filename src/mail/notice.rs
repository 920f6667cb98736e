//! The notice that tells a sender what became of a mail (delivery status notification: RFC 3464, RFC 6522, and RFC 6533
//! for addresses that are not ASCII).
//!
//! Owns its wording and form, who wants which (RFC 3461), and what its own envelope is. Storing it before a recipient
//! counts as failed is the caller's part; so is never to send one for a mail with the empty reverse-path. Pure: dates and
//! randomness are arguments. Uses [`super::address`], [`super::envelope`], [`super::header`], [`super::status`] and the
//! field name of [`super::trace`].

use super::address::Address;
use super::envelope::Notify;
use super::header::Section;
use super::status::EnhancedStatus;
use super::trace::MAIL_ID;

/// Of the original header at most that much goes back.
const MAX_HEADER: usize = 64 * 1024;
/// The longest line a mail may have, without its line end (RFC 5322 section 2.1.1).
const MAX_LINE: usize = 998;

/// Up to this size, in octets, a mail that fails goes back whole, unless `RET=HDRS` was asked for; of a larger one the
/// header section does, also with `RET=FULL`. As Postfix's `bounce_size_limit`.
pub const MAX_RETURNED: u64 = 50_000;

/// One recipient, and what became of the mail for it.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// The recipient as we were told it.
    pub address: &'a Address,
    /// `ORCPT` exactly as given (`rfc822;xtext`).
    pub orcpt: Option<&'a str>,
    /// What became of it, of the class that its [`Action`] implies.
    pub status: EnhancedStatus,
    /// The same in words, on one line.
    pub text: &'a str,
}

/// What of the original mail goes back to its sender.
#[derive(Debug, Clone, Copy)]
pub enum Original<'a> {
    /// The header section only; what stands behind it is left out.
    Headers(&'a [u8]),
    /// The whole mail, for those of at most [`MAX_RETURNED`] octets. One that no 8-bit mail can carry (NUL, bare CR, overlong
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
    /// The recipient's mailbox has it.
    Delivered,
    /// The recipient's host gave it to another mail system, of which no more will be heard.
    Relayed,
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
    /// The reverse-path of the mail: who gets the notice.
    pub sender: &'a Address,
    /// Whether the mail came with SMTPUTF8, so that its sender can take a notice with UTF-8 in it (RFC 6533).
    pub smtputf8: bool,
    /// At least one.
    pub recipients: &'a [Recipient<'a>],
    /// What goes back.
    pub original: Original<'a>,
    /// For the boundary, the Message-ID and [`MAIL_ID`]: of no other notice.
    pub random: [u8; 16],
    /// `ENVID` exactly as given (xtext).
    pub envid: Option<&'a str>,
}

/// Whether the sender wants to be told that, with this `NOTIFY` wish for the recipient (RFC 3461 section 4.1). Without a
/// wish he is told of failure and delay, and not of success.
pub fn is_wanted(action: &Action<'_>, notify: Option<Notify>) -> bool {
    let Some(notify) = notify else { return matches!(action, Action::Failed | Action::Delayed(_)) };
    let wanted = match action {
        Action::Failed => notify.failure,
        Action::Delayed(_) => notify.delay,
        Action::Delivered | Action::Relayed => notify.success,
    };
    wanted && !notify.never
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

/// `address` in the 7-bit form of RFC 6533 section 3 (`utf-8-addr-xtext`).
fn utf8_xtext(address: &str) -> String {
    let mut encoded = String::new();
    for c in address.chars() {
        if c.is_ascii_graphic() && !matches!(c, '\\' | '+' | '=') {
            encoded.push(c);
        } else {
            encoded.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
        }
    }
    encoded
}

/// Reads any form of RFC 6533 section 3; `None` if it is none, or not one printable line.
fn from_utf8_xtext(text: &str) -> Option<String> {
    let mut decoded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("\\x{") {
        let (digits, after) = rest[at + 3..].split_once('}')?;
        if digits.len() < 2 || digits.len() > 6 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        decoded.push_str(&rest[..at]);
        decoded.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = after;
    }
    decoded.push_str(rest);
    let fits = !decoded.is_empty() && decoded.len() <= 600 && !decoded.contains(char::is_control);
    fits.then_some(decoded)
}

/// An address with its type. One that is not ASCII is raw in a notice of UTF-8, else in its 7-bit form.
fn typed(address: &str, utf8: bool) -> String {
    match (address.is_ascii(), utf8) {
        (true, _) => format!("rfc822; {address}"),
        (false, true) => format!("utf-8; {address}"),
        (false, false) => format!("utf-8; {}", utf8_xtext(address)),
    }
}

/// What stands in `Original-Recipient` for an `ORCPT`; `None` if that is malformed.
fn original_recipient(orcpt: &str, utf8: bool) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    if kind.is_empty() || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return None;
    }
    if kind.eq_ignore_ascii_case("utf-8") {
        let address = from_utf8_xtext(address)?;
        let address = if utf8 { address } else { utf8_xtext(&address) };
        return Some(format!("utf-8; {address}"));
    }
    Some(format!("{kind}; {}", decode_xtext(address)?))
}

/// The value of the field `name` of `head` on one line; `None` unless it is printable ASCII of a bearable length.
fn short_field(head: &[u8], name: &str) -> Option<String> {
    let value = Section::read(head).parts().find(|part| part.is(name))?.value;
    let value = std::str::from_utf8(value).ok()?.split_whitespace().collect::<Vec<_>>().join(" ");
    let fits =
        !value.is_empty() && value.len() <= MAX_LINE / 2 && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    fits.then_some(value)
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

/// What the notices of an action have in common.
struct Form {
    /// What it means, on its own lines.
    fate: String,
    subject: &'static str,
    /// As RFC 3464 section 2.3.3 spells it.
    action: &'static str,
    /// How the part with the original is called.
    original: &'static str,
}

fn form(action: &Action<'_>) -> Form {
    match action {
        Action::Failed => Form {
            fate: "Your message could not be delivered to the recipients below. It will not\nbe tried again."
                .to_owned(),
            subject: "Undelivered Mail Returned to Sender",
            action: "failed",
            original: "Undelivered Message",
        },
        Action::Delayed(until) => Form {
            fate: format!(
                "THIS IS A WARNING ONLY. YOU DO NOT NEED TO RESEND YOUR MESSAGE.\n\n\
                 Your message still waits to be delivered to the recipients below. It will\n\
                 be tried until {}.",
                line(until)
            ),
            subject: "Delayed Mail (still being retried)",
            action: "delayed",
            original: "Delayed Message",
        },
        Action::Delivered => Form {
            fate: "Your message was delivered to the mailboxes of the recipients below.".to_owned(),
            subject: "Successful Mail Delivery Report",
            action: "delivered",
            original: "Delivered Message",
        },
        Action::Relayed => Form {
            fate: "Your message was handed on to the mail system of the recipients below, from\n\
                   which no further word may come."
                .to_owned(),
            subject: "Mail Relay Report",
            action: "relayed",
            original: "Relayed Message",
        },
    }
}

/// The second part of the report, without its MIME header: what became of each recipient, for programs.
fn status(n: &Notice<'_>, action: &str, utf8: bool) -> String {
    let words = |text: &str| if utf8 { line(text) } else { ascii(text) };
    let mut status = format!("Reporting-MTA: dns; {}\n", ascii(n.hostname));
    if let Some(envid) = n.envid.and_then(decode_xtext) {
        status.push_str(&format!("Original-Envelope-Id: {envid}\n"));
    }
    let (id, arrival) = (ascii(n.queue_id), ascii(n.arrival_date));
    status.push_str(&format!("X-Tox-Queue-ID: {id}\nArrival-Date: {arrival}\n"));
    for recipient in n.recipients {
        let code = recipient.status;
        status.push('\n');
        if let Some(original) = recipient.orcpt.and_then(|orcpt| original_recipient(orcpt, utf8)) {
            status.push_str(&format!("Original-Recipient: {original}\n"));
        }
        let address = typed(&recipient.address.to_string(), utf8);
        status.push_str(&format!("Final-Recipient: {address}\nAction: {action}\nStatus: {code}\n"));
        if matches!(n.action, Action::Failed | Action::Delayed(_)) {
            // A long code goes on a line of its own: folded, both stay within what RFC 5322 allows.
            status.push_str(&format!("Diagnostic-Code: x-tox;\n {code} {}\n", words(recipient.text)));
        }
        if let Action::Delayed(until) = n.action {
            status.push_str(&format!("Will-Retry-Until: {}\n", ascii(until)));
        }
    }
    status
}

/// The notice, a whole mail with LF line ends, the empty reverse-path on top as `Return-Path: <>` (an MTA puts
/// its own in that place). It must be sent with the empty reverse-path as well, and nothing may be sent when it fails.
pub fn compose(n: &Notice<'_>) -> Vec<u8> {
    let host = line(n.hostname);
    let utf8 = n.smtputf8 || !n.sender.is_ascii();
    let Form { fate, subject, action, original } = form(&n.action);
    let (kind, content) = match n.original {
        Original::Whole(mail) if is_8bit(mail) => {
            (if utf8 { "message/global" } else { "message/rfc822" }, mail.to_vec())
        }
        Original::Whole(mail) | Original::Headers(mail) => {
            (if utf8 { "message/global-headers" } else { "text/rfc822-headers" }, fields(mail))
        }
    };
    let whole = matches!(kind, "message/global" | "message/rfc822");
    let returned = if whole { "Your message is attached." } else { "The header of your message is attached." };
    let mut words = format!(
        "This is the mail system at host {host}.\n\n\
         {fate} {returned}\n\n\
         If you need help, send these lines along (queue id {id}).\n\n",
        id = ascii(n.queue_id),
    );
    for recipient in n.recipients {
        words.push_str(&format!("<{}>:\n    {} {}\n\n", recipient.address, recipient.status, line(recipient.text)));
    }
    let status = status(n, action, utf8);
    let charset =
        if kind.starts_with("text") && std::str::from_utf8(&content).is_ok() { "; charset=utf-8" } else { "" };
    let boundary = boundary(&n.random, &[words.as_bytes(), status.as_bytes(), &content].concat());
    let random = u128::from_be_bytes(n.random);
    // So that readers show it below the mail it is about (RFC 3834 section 3.1.5).
    let (Original::Headers(head) | Original::Whole(head)) = n.original;
    let thread = short_field(head, "Message-ID").map_or_else(String::new, |id| {
        let earlier = short_field(head, "References").map(|all| all + "\n\t").unwrap_or_default();
        format!("In-Reply-To: {id}\nReferences: {earlier}{id}\n")
    });
    let mut notice = format!(
        "Return-Path: <>\n\
         From: Mail Delivery System <MAILER-DAEMON@{host}>\n\
         To: {sender}\n\
         Subject: {subject}\n\
         Date: {date}\n\
         Message-ID: <{random:032x}@{host}>\n\
         {MAIL_ID}: {random:032x}\n\
         {thread}\
         Auto-Submitted: auto-replied\n\
         MIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type={report};\n\
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
         Content-Type: message/{report}\n{encoding}\n\
         {status}\n\
         --{boundary}\n\
         Content-Description: {original}\n\
         Content-Type: {kind}{charset}\n\
         Content-Transfer-Encoding: 8bit\n\n",
        sender = n.sender,
        date = line(n.date),
        report = if utf8 { "global-delivery-status" } else { "delivery-status" },
        encoding = if utf8 { "Content-Transfer-Encoding: 8bit\n" } else { "" },
    )
    .into_bytes();
    notice.extend_from_slice(&content);
    notice.extend_from_slice(format!("\n--{boundary}--\n").as_bytes());
    notice
}

/// Whom a notice that [`compose`] made is for, and whether an MTA needs SMTPUTF8 to take it; `None` for any other mail.
/// Its reverse-path is the empty one.
pub fn recipient(notice: &[u8]) -> Option<(Address, bool)> {
    let section = Section::read(notice);
    let value =
        |name: &str| section.parts().find(|part| part.is(name)).and_then(|part| std::str::from_utf8(part.value).ok());
    let to: Address = value("To")?.trim().parse().ok()?;
    let kind = value("Content-Type")?.trim_start();
    let utf8 = kind.starts_with("multipart/report; report-type=global-delivery-status;");
    (utf8 || kind.starts_with("multipart/report; report-type=delivery-status;")).then_some((to, utf8))
}

#[cfg(test)]
mod tests {
    use super::super::status::Refusal;
    use super::*;
    use mail_parser::{MessageParser, MimeHeaders, PartType};
    use proptest::prelude::*;

    fn address(text: &str) -> Address {
        text.parse().expect(text)
    }

    fn to<'a>(address: &'a Address, orcpt: Option<&'a str>, refusal: &'a Refusal) -> Recipient<'a> {
        Recipient { address, orcpt, status: refusal.status(), text: refusal.text() }
    }

    fn notice(original: Original<'_>, recipient: &str, orcpt: Option<&str>, refusal: &Refusal) -> Vec<u8> {
        compose(&Notice {
            action: Action::Failed,
            hostname: "mail.example",
            queue_id: "4F2A",
            date: "Mon, 23 Nov 2026 06:54:25 +0000",
            arrival_date: "Wed, 18 Nov 2026 06:54:25 +0000",
            sender: &address("alice@mail.example"),
            smtputf8: false,
            recipients: &[to(&address(recipient), orcpt, refusal), to(&address("carol@z.example"), None, refusal)],
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
Tox-Mail-Id: abababababababababababababababab
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
            smtputf8: false,
            recipients: &[to(&address("bob@y.example"), None, &refusal)],
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
    }

    #[test]
    fn each_is_told_what_he_asked_for() {
        let none = Notify::default();
        let actions = [Action::Failed, Action::Delayed(""), Action::Delivered, Action::Relayed];
        for (notify, wanted) in [
            (None, [true, true, false, false]),
            (Some(Notify { failure: true, ..none }), [true, false, false, false]),
            (Some(Notify { delay: true, ..none }), [false, true, false, false]),
            (Some(Notify { success: true, ..none }), [false, false, true, true]),
            (Some(Notify { success: true, failure: true, delay: true, ..none }), [true; 4]),
            (Some(Notify { never: true, success: true, failure: true, delay: true }), [false; 4]),
        ] {
            assert_eq!(actions.map(|action| is_wanted(&action, notify)), wanted, "{notify:?}");
        }
    }

    fn told(action: Action<'_>, smtputf8: bool, sender: &str, orcpt: Option<&str>) -> String {
        let status = EnhancedStatus::new(if matches!(action, Action::Failed) { 5 } else { 2 }, 1, 5);
        let text = compose(&Notice {
            action,
            hostname: "mail.example",
            queue_id: "4F2A",
            date: "Mon, 23 Nov 2026 06:54:25 +0000",
            arrival_date: "Mon, 23 Nov 2026 06:54:20 +0000",
            sender: &address(sender),
            smtputf8,
            recipients: &[Recipient { address: &address("grå@y.example"), orcpt, status, text: "blåbær" }],
            original: Original::Whole(b"Message-ID: <1@x>\nReferences: <0@x>\n <0b@x>\nSubject: s\n\nBody\n"),
            random: [1; 16],
            envid: None,
        });
        let parsed = MessageParser::default().parse(&text).expect("a mail");
        assert_eq!(parsed.header_raw("References").map(str::trim), Some("<0@x> <0b@x>\n\t<1@x>"));
        assert_eq!(parsed.header_raw("In-Reply-To").map(str::trim), Some("<1@x>"));
        assert_eq!(recipient(&text), Some((address(sender), smtputf8 || !sender.is_ascii())));
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn success_is_told_without_a_diagnosis() {
        let text = told(Action::Delivered, false, "alice@x", None);
        for part in [
            "\nSubject: Successful Mail Delivery Report\n",
            "was delivered to the mailboxes",
            "\nFinal-Recipient: utf-8; gr\\x{E5}@y.example\nAction: delivered\nStatus: 2.1.5\n\n",
            "Content-Type: message/delivery-status\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let text = told(Action::Relayed, false, "alice@x", None);
        assert!(text.contains("\nAction: relayed\n") && text.contains("no further word"), "{text}");
    }

    #[test]
    fn a_sender_who_writes_utf8_is_told_in_utf8() {
        for (smtputf8, sender) in [(true, "alice@x"), (false, "ålice@x")] {
            let text = told(Action::Failed, smtputf8, sender, Some("utf-8;gr\\x{E5}a+@z"));
            for part in [
                "Content-Type: multipart/report; report-type=global-delivery-status;",
                "Content-Type: message/global-delivery-status\nContent-Transfer-Encoding: 8bit\n\nReporting-MTA",
                "\nOriginal-Recipient: utf-8; gråa+@z\nFinal-Recipient: utf-8; grå@y.example\nAction: failed\n",
                "\nDiagnostic-Code: x-tox;\n 5.1.5 blåbær\n",
                "Content-Type: message/global\n",
            ] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
        let text = told(Action::Failed, false, "alice@x", Some("utf-8;grå+@z"));
        assert!(
            text.contains("\nOriginal-Recipient: utf-8; gr\\x{E5}\\x{2B}@z\nFinal-Recipient: utf-8; gr\\x{E5}@y"),
            "{text}"
        );
        assert!(text.contains("Content-Type: message/rfc822\n"), "{text}");
        for orcpt in ["utf-8;", "utf-8;a\\x{", "utf-8;a\\x{D800}", "utf-8;a\\x{0A}b", "utf-8;\\x{1234567}"] {
            assert!(!told(Action::Failed, true, "alice@x", Some(orcpt)).contains("Original-Recipient"), "{orcpt}");
        }
    }

    #[test]
    fn no_other_mail_is_taken_for_a_notice() {
        for mail in [MAIL, b"", b"To: a@b\nContent-Type: text/plain\n\n", b"To: a\nContent-Type: multipart/report\n\n"]
        {
            assert_eq!(recipient(mail), None);
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
