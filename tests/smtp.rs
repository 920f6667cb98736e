//! The client that hands mail on, against a server that is told what to say.

#[path = "support/fake_lmtp.rs"]
mod fake_lmtp;

use std::io::{self, Read};
use std::time::Duration;

use fake_lmtp::{End, Event, Fake, Script, commands, decode, mail};
use toxmail::mail::envelope::{ForwardPath, Notify, Return};
use toxmail::smtp::{Client, Destination, Envelope, Outcome, Recipient, Timeouts};

const MAIL: &[u8] = b"From: a@x\r\nSubject: hi\n\n.Hello.\r\n";

/// Long enough for a slow machine where a test waits for an answer, short where it waits for none.
fn timeouts(silence: Duration) -> Timeouts {
    Timeouts { command: silence, data: silence, block: silence, done: silence, ..Timeouts::default() }
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

fn envelope(recipients: &[&str]) -> Envelope {
    let recipients =
        recipients.iter().map(|path| Recipient::from(path.parse::<ForwardPath>().expect("a path"))).collect();
    Envelope { sender: "s@tox.alt".parse().ok(), recipients, size: Some(MAIL.len() as u64), ..Envelope::default() }
}

fn connect(fake: &Fake, silence: Duration) -> Result<Client, toxmail::mail::status::Refusal> {
    Client::connect(&Destination::Lmtp(fake.socket()), "agent.example", &timeouts(silence))
}

/// What became of `body` for each recipient, in short, and what the server heard.
fn run(script: Script, envelope: &Envelope, mut body: &[u8], silence: Duration) -> (Vec<String>, Vec<Event>) {
    let fake = Fake::start(script);
    let outcomes = match connect(&fake, silence) {
        Ok(client) => client.deliver(envelope, &mut body),
        Err(refusal) => vec![Outcome::Refused(refusal)],
    };
    (outcomes.into_iter().map(shown).collect(), fake.all())
}

fn shown(outcome: Outcome) -> String {
    match outcome {
        Outcome::Accepted(text) => format!("accepted {text}"),
        Outcome::Refused(refusal) => format!("refused {refusal}"),
        Outcome::Unknown(refusal) => format!("unknown {refusal}"),
    }
}

#[test]
fn each_recipient_gets_the_answer_of_its_own() {
    let script = Script {
        rcpt: vec![("nobody", "550 5.1.1 <nobody> no such user")],
        after: vec!["250 2.0.0 <alice> saved", "552 5.2.2 <full> quota exceeded"],
        ..Script::default()
    };
    let (outcomes, events) = run(script, &envelope(&["alice", "nobody", "full@x.example", "bob"]), MAIL, LONG);
    assert_eq!(
        outcomes,
        [
            "accepted <alice> saved",
            "refused 5.1.1 <nobody> no such user",
            "refused 5.2.2 <full> quota exceeded",
            "accepted queued as 2"
        ]
    );
    assert_eq!(
        commands(&events),
        [
            "LHLO agent.example",
            "MAIL FROM:<s@tox.alt> SIZE=33 BODY=8BITMIME",
            "RCPT TO:<alice>",
            "RCPT TO:<nobody>",
            "RCPT TO:<full@x.example>",
            "RCPT TO:<bob>",
            "DATA",
            "QUIT"
        ]
    );
    assert_eq!(mail(&events).map(decode), Some(b"From: a@x\nSubject: hi\n\n.Hello.\n".to_vec()));
}

#[test]
fn only_what_is_offered_is_used() {
    let orcpt = Some("rfc822;bob+2Bx@x.example".to_owned());
    let notify = Some(Notify { success: true, delay: true, ..Notify::default() });
    let recipients = vec![Recipient { path: "bob".parse().expect("a path"), notify, orcpt }];
    let wishes = Envelope { recipients, ret: Some(Return::Headers), envid: Some("QQ+2B".into()), ..envelope(&["bob"]) };
    let offers = "250-x\r\n250-dsn\r\n250-SIZE 1000\r\n250 8BITMIME";
    for (lhlo, said) in [
        (
            offers,
            [
                "MAIL FROM:<s@tox.alt> SIZE=33 BODY=8BITMIME RET=HDRS ENVID=QQ+2B",
                "RCPT TO:<bob> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;bob+2Bx@x.example",
            ],
        ),
        ("250 x", ["MAIL FROM:<s@tox.alt>", "RCPT TO:<bob>"]),
    ] {
        let (outcomes, events) = run(Script { lhlo: lhlo.into(), ..Script::default() }, &wishes, MAIL, LONG);
        assert_eq!(outcomes, ["accepted queued as 0"]);
        assert_eq!(&commands(&events)[1..3], said);
    }
    let empty = Envelope { sender: None, ..envelope(&["bob"]) };
    let (_, events) = run(Script::default(), &empty, MAIL, LONG);
    assert_eq!(commands(&events)[1], "MAIL FROM:<> SIZE=33 BODY=8BITMIME");
}

#[test]
fn a_mail_that_cannot_go_is_refused_without_being_sent() {
    let plain = Script { lhlo: "250-x\r\n250 SIZE 32".into(), ..Script::default() };
    let utf8 = Envelope { smtputf8: true, ..envelope(&["alice", "bob"]) };
    for (envelope, said) in [
        (&utf8, "refused 5.6.7 the recipient's mail server does not offer SMTPUTF8, which this mail needs"),
        (
            &envelope(&["grå@x.example"]),
            "refused 5.6.7 the recipient's mail server does not offer SMTPUTF8, which this mail needs",
        ),
        (&envelope(&["alice"]), "refused 5.3.4 the mail has 33 octets; the recipient's mail server takes 32"),
    ] {
        let (outcomes, events) = run(plain.clone(), envelope, MAIL, LONG);
        assert_eq!(outcomes, vec![said; envelope.recipients.len()]);
        assert_eq!(commands(&events), ["LHLO agent.example"]);
    }
    let (outcomes, events) = run(Script::default(), &utf8, MAIL, LONG);
    assert_eq!(outcomes, ["accepted queued as 0", "accepted queued as 1"]);
    assert!(commands(&events)[1].ends_with(" SMTPUTF8"));
}

#[test]
fn smtp_has_one_answer_for_all() {
    for (after, said) in [
        ("250 2.0.0 queued", "accepted queued"),
        ("554 5.7.1 spam", "refused 5.7.1 spam"),
        ("451 x", "refused 4.0.0 x"),
    ] {
        let script = Script {
            rcpt: vec![("nobody", "550 5.1.1 no")],
            after: vec![after],
            lhlo: "250-x\r\n250 PIPELINING".into(),
            ..Script::default()
        };
        let (fake, port) = Fake::start_smtp(script);
        let destination = Destination::Smtp { host: "127.0.0.1".into(), port };
        let client = Client::connect(&destination, "agent.example", &timeouts(LONG)).expect("a server");
        let outcomes = client.deliver(&envelope(&["alice", "nobody", "bob"]), &mut &MAIL[..]);
        assert_eq!(outcomes.into_iter().map(shown).collect::<Vec<_>>(), [said, "refused 5.1.1 no", said]);
        let events = fake.all();
        assert_eq!(commands(&events)[0], "EHLO agent.example");
        assert!(mail(&events).is_some());
    }
}

#[test]
fn what_proves_nothing_about_the_mail_is_temporary() {
    let server = "the recipient's mail server";
    let with = |change: &dyn Fn(&mut Script)| {
        let mut script = Script::default();
        change(&mut script);
        script
    };
    for (script, said) in [
        (
            with(&|s| s.greeting = "554 5.7.1 go away".into()),
            format!("refused 4.3.0 {server} answered the connection with 554 5.7.1 go away"),
        ),
        (with(&|s| s.greeting = "421 4.3.2 busy".into()), "refused 4.3.2 busy".into()),
        (
            with(&|s| s.greeting = "hello".into()),
            format!("refused 4.5.0 what {server} answered the connection is no SMTP reply"),
        ),
        (
            with(&|s| s.lhlo = "550 5.7.1 who".into()),
            format!("refused 4.3.0 {server} answered LHLO with 550 5.7.1 who"),
        ),
        (
            with(&|s| s.mail = "503 5.5.1 order".into()),
            format!("refused 4.5.1 {server} answered MAIL with 503 5.5.1 order"),
        ),
        (
            with(&|s| s.data = "250 2.0.0 what".into()),
            format!("refused 4.0.0 {server} answered DATA with 250 2.0.0 what"),
        ),
        (with(&|s| s.rcpt = vec![("alice", "421 4.3.2 stopping")]), "refused 4.3.2 stopping".into()),
        (
            with(&|s| s.end = End::HangAtGreeting),
            format!("refused 4.4.2 {server} did not answer the connection in time"),
        ),
    ] {
        let silence = if script.end == End::Never { LONG } else { SHORT };
        let (outcomes, events) = run(script, &envelope(&["alice"]), MAIL, silence);
        assert_eq!(outcomes, [said]);
        assert_eq!(mail(&events), None);
    }
    // What speaks about the mail is believed, at each step.
    for script in [with(&|s| s.mail = "550 5.7.1 no".into()), with(&|s| s.data = "554 5.7.1 no".into())] {
        assert_eq!(run(script, &envelope(&["alice"]), MAIL, LONG).0, ["refused 5.7.1 no"]);
    }
}

#[test]
fn nobody_who_listens_is_temporary() {
    let dir = tempfile::tempdir().expect("a directory");
    let dead = dir.path().join("dead");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("a socket"));
    for path in [dead, dir.path().join("none")] {
        let refusal = Client::connect(&Destination::Lmtp(path), "x", &Timeouts::default()).err().expect("refused");
        let said = "4.4.1 the recipient's mail server does not take mail at the moment";
        assert_eq!(refusal.to_string(), said);
    }
}

#[test]
fn a_connection_lost_before_the_dot_refuses_and_after_it_is_unknown() {
    let long: Vec<u8> = b"x".repeat(70).into_iter().chain(*b"\n").cycle().take(4 << 20).collect();
    let server = "the recipient's mail server";
    for (end, body, silence, said) in [
        (
            End::CloseInMail(100_000),
            &long[..],
            LONG,
            format!("refused 4.4.2 {server} closed the connection before it answered the mail"),
        ),
        (End::SayInMail(100_000, "451 4.3.0 disk"), &long[..], LONG, "refused 4.3.0 disk".into()),
        (
            End::SayInMail(100_000, "552 5.2.2 full"),
            &long[..],
            LONG,
            format!("refused 4.3.0 {server} answered the mail too early with 552 5.2.2 full"),
        ),
        (
            End::CloseAfterDot,
            MAIL,
            LONG,
            format!("unknown 4.4.2 {server} closed the connection before it answered the mail"),
        ),
        (End::HangAfterDot, MAIL, SHORT, format!("unknown 4.4.2 {server} did not answer the mail in time")),
    ] {
        let envelope = Envelope { size: None, ..envelope(&["alice", "bob"]) };
        let (outcomes, events) = run(Script { end, ..Script::default() }, &envelope, body, silence);
        assert_eq!(outcomes, [said.clone(), said.clone()]);
        assert_eq!(mail(&events).is_some(), said.starts_with("unknown"));
    }
}

#[test]
fn a_server_that_takes_nothing_is_left() {
    let long = vec![b'x'; 8 << 20];
    let fake = Fake::start(Script { end: End::DeafInMail, ..Script::default() });
    let outcomes = connect(&fake, SHORT).expect("a server").deliver(&envelope(&["alice"]), &mut &long[..]);
    let said = "refused 4.4.2 the recipient's mail server did not take the mail in time";
    assert_eq!(outcomes.into_iter().map(shown).collect::<Vec<_>>(), [said]);
}

/// A mail whose end is never reached.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Ok(0) => Err(io::Error::other("disk trouble")),
            other => other,
        }
    }
}

#[test]
fn no_dot_follows_a_mail_that_is_not_whole() {
    let fake = Fake::start(Script::default());
    let outcomes = connect(&fake, LONG).expect("a server").deliver(&envelope(&["alice"]), &mut Broken(MAIL));
    let said = "refused 4.3.0 the mail cannot be read: disk trouble";
    assert_eq!(outcomes.into_iter().map(shown).collect::<Vec<_>>(), [said]);
    assert_eq!(mail(&fake.all()), None);

    let fake = Fake::start(Script::default());
    let begun = connect(&fake, LONG).expect("a server").begin(&envelope(&["alice"]));
    let mut transaction = begun.expect("accepted");
    transaction.write(MAIL).expect("taken");
    drop(transaction);
    assert_eq!(mail(&fake.all()), None);
}

#[test]
fn a_flood_of_words_is_bounded() {
    let script = Script { greeting: "220-x\r\n".repeat(100_000), ..Script::default() };
    let (outcomes, _) = run(script, &envelope(&["alice"]), MAIL, LONG);
    assert_eq!(outcomes, ["refused 4.5.0 what the recipient's mail server answered the connection is no SMTP reply"]);
}
