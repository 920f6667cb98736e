//! The program `tox-transport` as an MTA runs it, against an agent that is told what to say.

#[path = "support/fake_lmtp.rs"]
mod fake_lmtp;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use fake_lmtp::{End, Event, Fake, Script, commands, decode, mail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tox-transport");
const MAIL: &[u8] = b"From: a@x\nSubject: hi\n\nHello.\n";

fn program(socket: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--socket").arg(socket).args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end with `content` on standard input, and checks what holds for every run.
fn finish(mut command: Command, content: &[u8]) -> (i32, String) {
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let content = content.to_vec();
    // A program that ends early closes the pipe; that is no error here.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&content)));
    let output = child.wait_with_output().expect("the program ends");
    feeder.join().expect("fed");
    checked(&output)
}

fn checked(output: &Output) -> (i32, String) {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let line = text.strip_suffix('\n').expect("a whole line");
    assert!(!line.chars().any(char::is_control) && text.len() <= 500, "{text:?}");
    let code = line.split(' ').next().unwrap_or_default();
    let parts: Vec<&str> = code.split('.').collect();
    assert!(parts.len() == 3 && parts.iter().all(|p| p.parse::<u16>().is_ok()), "{text:?}");
    assert!(output.stderr.is_empty(), "{:?}", String::from_utf8_lossy(&output.stderr));
    let exit = output.status.code().expect("no death by a signal");
    let class = match exit {
        0 => "2",
        75 => "4",
        _ => "5",
    };
    assert_eq!(parts[0], class, "exit {exit}: {text:?}");
    (exit, line.to_owned())
}

/// One mail from `a@x` to the recipients, against the script.
fn deliver(script: Script, more: &[&str], recipients: &[&str], content: &[u8]) -> (i32, String, Vec<Event>) {
    let fake = Fake::start(script);
    let mut command = program(&fake.socket(), more);
    command.args(["-f", "a@x", "--"]).args(recipients);
    let (exit, line) = finish(command, content);
    (exit, line, fake.all())
}

fn outcome(script: Script, recipients: &[&str]) -> (i32, String) {
    let (exit, line, _) = deliver(script, &[], recipients, MAIL);
    (exit, line)
}

/// Without PIPELINING and all else.
fn plain() -> Script {
    Script { lhlo: "250 fake".into(), ..Script::default() }
}

#[test]
fn a_mail_is_handed_over() {
    let (exit, line, events) = deliver(Script::default(), &["--queue-id", "4j+X", "--size", "35"], &["b@x"], MAIL);
    assert_eq!((exit, line.as_str()), (0, "2.0.0 queued as 0"));
    let said = commands(&events);
    assert_eq!(
        said,
        [
            "LHLO localhost",
            "XFORWARD IDENT=4j+2BX",
            "MAIL FROM:<a@x> SIZE=35 BODY=8BITMIME",
            "RCPT TO:<b@x>",
            "DATA",
            "QUIT"
        ]
    );
    assert_eq!(mail(&events).map(decode).as_deref(), Some(MAIL));
}

#[test]
fn what_is_not_offered_is_not_used() {
    let (exit, _, events) = deliver(plain(), &["--queue-id", "4jX", "--size", "35"], &["b@x", "c@x"], MAIL);
    assert_eq!(exit, 0);
    let said = commands(&events);
    assert_eq!(said, ["LHLO localhost", "MAIL FROM:<a@x>", "RCPT TO:<b@x>", "RCPT TO:<c@x>", "DATA", "QUIT"]);
}

#[test]
fn each_answer_has_its_exit_code() {
    // The agent's answer, and what the MTA is told.
    let table = [
        ("250 2.0.0 queued as 7", 0, "2.0.0 queued as 7"),
        ("250 fine", 0, "2.0.0 fine"),
        ("450 4.4.1 offline", 75, "4.4.1 offline"),
        ("451 4.3.0 later", 75, "4.3.0 later"),
        ("452 4.3.1 full", 75, "4.3.1 full"),
        ("421 4.3.2 stopping", 75, "4.3.2 stopping"),
        ("550 5.1.1 no such user", 67, "5.1.1 no such user"),
        ("550 no such user", 69, "5.0.0 no such user"),
        ("553 5.1.3 bad address", 67, "5.1.3 bad address"),
        ("556 5.1.10 takes no mail", 67, "5.1.10 takes no mail"),
        ("552 5.2.2 over quota", 69, "5.2.2 over quota"),
        ("552 5.3.4 too big", 69, "5.3.4 too big"),
        ("554 5.4.6 loop", 69, "5.4.6 loop"),
        ("554 5.6.0 malformed", 65, "5.6.0 malformed"),
        ("550 5.7.1 not allowed", 77, "5.7.1 not allowed"),
        ("500 5.5.2 what", 75, "4.5.2 "),
        ("501 5.5.4 parameter", 75, "4.5.4 "),
        ("502 5.5.1 no", 75, "4.5.1 "),
        ("503 5.5.1 order", 75, "4.5.1 "),
        ("554 5.5.0 protocol", 75, "4.5.0 "),
        ("555 5.5.4 parameter", 75, "4.5.4 "),
        ("450 5.1.1 at odds", 75, "4.1.1 "),
        ("550 4.1.1 at odds", 75, "4.1.1 "),
        ("354 odd", 75, "4.0.0 "),
        ("nonsense", 75, "4.5.0 "),
    ];
    for (answer, exit, line) in table {
        // Where the word speaks of a refusal, it means the same at MAIL, RCPT, DATA and after the dot.
        let refusal = !answer.starts_with('2');
        let mut scripts = vec![("dot", Script { after: vec![answer], ..Script::default() })];
        if refusal {
            for base in [Script::default(), plain()] {
                scripts.push(("rcpt", Script { rcpt: vec![("b@x", answer)], ..base.clone() }));
                scripts.push(("mail", Script { mail: answer.into(), ..base.clone() }));
                if answer != "354 odd" {
                    scripts.push(("data", Script { data: answer.into(), ..base }));
                }
            }
        }
        for (at, script) in scripts {
            let got = outcome(script, &["b@x"]);
            assert!(got.0 == exit && got.1.starts_with(line), "{answer} at {at}: {got:?}");
        }
    }
}

#[test]
fn refusals_before_the_mail_is_named_prove_nothing() {
    for answer in ["421 4.3.2 stopping", "554 5.3.2 no service", "550 5.7.1 go away", "500 5.5.1 what", "250 odd"] {
        assert_eq!(outcome(Script { greeting: answer.into(), ..Script::default() }, &["b@x"]).0, 75, "{answer}");
    }
    for answer in ["421 4.3.2 stopping", "500 5.5.1 what", "550 5.7.1 go away", "220 odd"] {
        assert_eq!(outcome(Script { lhlo: answer.into(), ..Script::default() }, &["b@x"]).0, 75, "{answer}");
    }
    // The queue id is a help only.
    for answer in ["500 5.5.1 what", "550 5.7.0 no"] {
        let script = Script { xforward: answer.into(), ..Script::default() };
        assert_eq!(deliver(script, &["--queue-id", "Q"], &["b@x"], MAIL).0, 0);
    }
    let script = Script { xforward: "421 4.3.2 stopping".into(), ..Script::default() };
    assert_eq!(deliver(script, &["--queue-id", "Q"], &["b@x"], MAIL).0, 75);
}

#[test]
fn several_recipients_make_one_answer() {
    let all = ["b@x", "c@x", "d@x"];
    let (exit, line) = outcome(Script::default(), &all);
    assert!(exit == 0 && line.starts_with("2.0.0 "), "{line}");
    let refused = Script { rcpt: vec![("c@x", "550 5.1.1 no such user")], ..Script::default() };
    let (exit, line, events) = deliver(refused.clone(), &[], &all, MAIL);
    assert_eq!((exit, line.as_str()), (67, "5.1.1 <c@x>: no such user (2 of 3 recipients accepted)"));
    assert!(mail(&events).is_some());
    // The answers after the dot are those of the accepted ones, in order.
    let mixed = Script { after: vec!["250 2.0.0 ok", "450 4.2.1 later"], ..refused.clone() };
    let (exit, line) = outcome(mixed, &all);
    assert!(exit == 75 && line.starts_with("4.2.1 <d@x>: later (1 of 3 recipients accepted"), "{line}");
    let both = Script { after: vec!["250 2.0.0 ok", "552 5.2.2 full"], ..Script::default() };
    assert_eq!(outcome(both, &["b@x", "c@x"]).0, 69);
    let cut = Script { after: vec!["250 2.0.0 ok", "421 4.3.2 stopping"], ..Script::default() };
    assert_eq!(outcome(cut, &["b@x", "c@x"]).0, 75);
}

#[test]
fn no_mail_is_sent_for_nobody() {
    let no = vec![("@x", "550 5.1.1 no such user")];
    // An agent that takes the pipelined DATA gets an empty mail for nobody; one that refuses it gets none.
    let (exit, _, events) = deliver(Script { rcpt: no.clone(), ..Script::default() }, &[], &["b@x", "c@x"], MAIL);
    assert_eq!((exit, mail(&events)), (67, Some(&b""[..])));
    for data in ["503 5.5.1 no recipients", "554 5.5.1 no recipients"] {
        let script = Script { rcpt: no.clone(), data: data.into(), ..Script::default() };
        let (exit, _, events) = deliver(script, &[], &["b@x", "c@x"], MAIL);
        assert_eq!((exit, mail(&events)), (67, None));
    }
    let (exit, _, events) = deliver(Script { rcpt: no, ..plain() }, &[], &["b@x"], MAIL);
    assert_eq!((exit, commands(&events).contains(&"DATA")), (67, false));
    // MAIL refused, and yet DATA taken: no dot may follow.
    let script = Script { mail: "550 5.7.1 no".into(), ..Script::default() };
    let (exit, _, events) = deliver(script, &[], &["b@x"], MAIL);
    assert_eq!((exit, mail(&events)), (77, None));
}

#[test]
fn the_agent_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let run = || {
        let mut command = program(&path, &[]);
        command.args(["-f", "a@x", "--", "b@x"]);
        finish(command, MAIL)
    };
    let (exit, line) = run();
    assert!(exit == 75 && line.starts_with("4.3.0 tox-agent is not running (socket "), "{line}");
    assert!(line.ends_with("start it with systemctl start tox-agent"), "{line}");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let (exit, line) = run();
    assert!(exit == 75 && line.starts_with("4.3.0 tox-agent is not running (socket "), "{line}");
}

#[test]
fn the_socket_may_not_be_opened() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).expect("mode");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("mode");
    // Root may open anything, so the program runs as another user from a place that this user can reach.
    let copy = dir.path().join("t");
    std::fs::copy(PROGRAM, &copy).expect("a copy");
    let mut command = Command::new(&copy);
    command.arg("--socket").arg(&path).args(["-f", "a@x", "--", "b@x"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let (exit, line) = finish(command, MAIL);
    assert!(exit == 75 && line.starts_with("4.3.0 user ") && line.contains(" may not open the socket "), "{line}");
}

#[test]
fn a_hung_agent_ends_at_the_deadline() {
    for end in [End::HangAtGreeting, End::HangAfterDot, End::DeafInMail] {
        let fake = Fake::start(Script { end, ..Script::default() });
        let mut command = program(&fake.socket(), &["--timeout", "1"]);
        command.args(["-f", "a@x", "--", "b@x"]);
        let (exit, line) = finish(command, &b"x\n".repeat(2_000_000));
        assert!(exit == 75 && line.starts_with("4.4.2 ") && line.ends_with("within 1 s"), "{line}");
    }
}

#[test]
fn a_connect_that_hangs_ends_as_well() {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(&path).expect("short")).expect("bound");
    listen(&listener, Backlog::new(0).expect("a backlog")).expect("listening");
    // The one place of the backlog is taken; whoever comes next waits.
    let _first = std::os::unix::net::UnixStream::connect(&path).expect("connected");
    let mut command = program(&path, &["--timeout", "1"]);
    command.args(["-f", "a@x", "--", "b@x"]);
    let (exit, line) = finish(command, MAIL);
    assert!(exit == 75 && line.starts_with("4.4.2 tox-transport ran out of time"), "{line}");
}

#[test]
fn a_hung_mta_ends_at_the_deadline() {
    let fake = Fake::start(Script::default());
    let mut child =
        program(&fake.socket(), &["--timeout", "1", "-f", "a@x", "--", "b@x"]).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(MAIL).expect("fed");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut text = String::new();
    stdout.read_to_string(&mut text).expect("the line");
    assert_eq!(child.wait().expect("the end").code(), Some(75));
    assert!(text.starts_with("4.4.2 the MTA did not send the rest"), "{text}");
    assert_eq!(mail(&fake.all()), None);
    drop(stdin);
}

#[test]
fn an_agent_that_dies_has_taken_nothing() {
    let big = b"a line of the mail\n".repeat(100_000);
    for end in [End::CloseInMail(1), End::CloseInMail(900_000), End::CloseAfterDot] {
        let (exit, line, _) = deliver(Script { end, ..Script::default() }, &[], &["b@x"], &big);
        assert!(exit == 75 && line.starts_with("4.4.2 tox-agent closed"), "{line}");
    }
    // Its last words are told; but words before the dot prove nothing, neither that the mail is taken nor that it never
    // will be.
    for words in ["421 4.3.2 stopping", "552 5.3.4 too big", "250 2.0.0 queued"] {
        let end = End::SayInMail(900_000, words);
        let (exit, line, _) = deliver(Script { end, ..Script::default() }, &[], &["b@x"], &big);
        assert!(exit == 75 && line.contains(&words[10..]), "{line}");
    }
    for data in ["354 go\r\n250 2.0.0 queued", "250 2.0.0 queued"] {
        let (exit, _, events) = deliver(Script { data: data.into(), ..Script::default() }, &[], &["b@x"], MAIL);
        assert_eq!((exit, mail(&events)), (75, None));
    }
}

#[test]
fn a_mail_cut_short_is_not_sent() {
    let whole = b"0123456789\n".repeat(90_000);
    let size = (whole.len() + 90_000).to_string();
    let (exit, _, events) = deliver(Script::default(), &["--size", &size], &["b@x"], &whole);
    assert_eq!((exit, mail(&events).map(decode).as_deref()), (0, Some(&whole[..])));
    for cut in [0, 11, 65_536, whole.len() - 4096, whole.len() - 120] {
        let (exit, line, events) = deliver(Script::default(), &["--size", &size], &["b@x"], &whole[..cut]);
        assert_eq!((exit, mail(&events)), (75, None), "{cut}");
        assert!(line.starts_with("4.3.0 "), "{line}");
    }
    // Without a size, no mail at all is still no mail.
    let (exit, _, events) = deliver(Script::default(), &[], &["b@x"], b"");
    assert_eq!((exit, mail(&events)), (75, None));
}

#[test]
fn a_dead_mta_is_noticed() {
    let fake = Fake::start(Script::default());
    // The shell is the MTA's process: it starts the program and then feeds it, until it is killed. The program holds
    // the only other ends of the pipes, so standard input ends with the shell.
    let script = "mkfifo \"$0\" || exit 9; \"$@\" < \"$0\" & exec 7> \"$0\"; echo part of a mail >&7; read -r _";
    let fifo = fake.socket().with_file_name("fifo");
    let mut shell = Command::new("sh")
        .args([OsStr::new("-c"), OsStr::new(script), fifo.as_os_str(), OsStr::new(PROGRAM)])
        .arg("--socket")
        .arg(fake.socket())
        .args(["-f", "a@x", "--", "b@x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    fake.wait(|event| *event == Event::MailBegins);
    kill(pid(&shell), Signal::SIGKILL).expect("killed");
    let mut text = String::new();
    shell.stdout.take().expect("a pipe").read_to_string(&mut text).expect("the line");
    assert!(text.starts_with("4.3.0 the MTA's process ended"), "{text}");
    assert_eq!(mail(&fake.all()), None);
    assert!(shell.wait().expect("the end").signal().is_some());
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
}

#[test]
fn senders_and_recipients_of_every_kind() {
    for (sender, recipient, said) in [
        ("", "b@x", ["MAIL FROM:<> BODY=8BITMIME", "RCPT TO:<b@x>"]),
        ("<>", "b@x", ["MAIL FROM:<> BODY=8BITMIME", "RCPT TO:<b@x>"]),
        ("MAILER-DAEMON", "b@x", ["MAIL FROM:<> BODY=8BITMIME", "RCPT TO:<b@x>"]),
        ("a@x", "grå@exämple.se", ["MAIL FROM:<a@x> BODY=8BITMIME SMTPUTF8", "RCPT TO:<grå@exämple.se>"]),
        ("\"b b\"@x", "\"c>\\\" c\"@x", ["MAIL FROM:<\"b b\"@x> BODY=8BITMIME", "RCPT TO:<\"c>\\\" c\"@x>"]),
        ("a@x", "-b@x", ["MAIL FROM:<a@x> BODY=8BITMIME", "RCPT TO:<-b@x>"]),
    ] {
        let fake = Fake::start(Script::default());
        let mut command = program(&fake.socket(), &[]);
        command.args(["-f", sender, "--", recipient]);
        assert_eq!(finish(command, MAIL).0, 0, "{sender} {recipient}");
        let events = fake.all();
        assert_eq!(commands(&events)[1..3], said);
    }
    let (exit, line, events) = deliver(plain(), &[], &["grå@x"], MAIL);
    assert!(exit == 75 && line.starts_with("4.6.7 "), "{line}");
    assert_eq!(commands(&events), ["LHLO localhost"]);
}

#[test]
fn exims_environment() {
    let fake = Fake::start(Script::default());
    let mut command = program(&fake.socket(), &["--exim-env"]);
    command.envs([("SENDER", ""), ("LOCAL_PART", "b b"), ("DOMAIN", "x"), ("MESSAGE_ID", "1pq-0-2")]);
    assert_eq!(finish(command, MAIL).0, 0);
    let events = fake.all();
    let said = commands(&events);
    assert_eq!(said[1..4], ["XFORWARD IDENT=1pq-0-2", "MAIL FROM:<> BODY=8BITMIME", "RCPT TO:<\"b b\"@x>"]);
}

#[test]
fn nothing_is_injected_and_wrong_usage_is_told() {
    let nowhere = Path::new("/nonexistent/s");
    for (args, code) in [
        (&["-f", "a@x\r\nDATA", "--", "b@x"][..], "5.1.7"),
        (&["-f", "a@x> SIZE=1", "--", "b@x"], "5.1.7"),
        (&["-f", "a@x", "--", "b@x>\r\nRCPT TO:<c@x"], "5.1.3"),
        (&["-f", "a@x", "--", "b@x\n"], "5.1.3"),
        (&["-f", "a@x", "--", "\"b\r\n\"@x"], "5.1.3"),
        (&["-f", "a@x", "--", "<b@x>"], "5.1.3"),
        (&["-f", "a@x", "--", ""], "5.1.3"),
        (&["-f", "a@x"], "5.5.4"),
        (&["--", "b@x"], "5.5.4"),
        (&["-f", "a@x", "--bad\r\n2.0.0", "--", "b@x"], "5.5.4"),
        (&["--size", "x", "-f", "a@x", "--", "b@x"], "5.5.4"),
        (&["--help", "-f", "a@x", "--", "b@x"], "5.5.4"),
        (&["--exim-env"], "5.5.4"),
    ] {
        let (exit, line) = finish(program(nowhere, args), MAIL);
        assert!(exit == 64 && line.starts_with(code), "{args:?}: {exit} {line}");
    }
    let (exit, _, events) = deliver(Script::default(), &["--queue-id", "Q\r\nDATA +="], &["b@x"], MAIL);
    assert_eq!((exit, commands(&events)[1]), (0, "XFORWARD IDENT=Q+0D+0ADATA+20+2B+3D"));
    // The agent's words are cleaned and cut.
    let nasty = concat!(
        "450 4.2.1 a\x1b[31m\x07\u{202e}b ",
        "éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé",
        "éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé",
        "éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé",
        "éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé",
        "éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé",
        "éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé"
    );
    let (exit, line) = outcome(Script { after: vec![nasty], ..Script::default() }, &["b@x"]);
    assert!(exit == 75 && line.starts_with("4.2.1 a [31m  b é") && !line.contains('\u{202e}'), "{line}");
}

#[test]
fn words_on_request() {
    for (option, start) in [("--help", "Usage: tox-transport "), ("--version", "tox-transport 0.")] {
        let output = Command::new(PROGRAM).arg(option).output().expect("the program runs");
        assert!(output.status.success() && output.stdout.starts_with(start.as_bytes()));
    }
}

#[test]
fn every_octet_arrives() {
    let every: Vec<u8> = (0..=255).collect();
    let long = [&b"x".repeat(3000)[..], b"\n"].concat();
    let edges = [&b"x".repeat(65_535)[..], b"\n.\n", &b"y".repeat(65_533), b"\n..\n."].concat();
    for content in [
        &b"\n"[..],
        b"no final newline",
        b".\n..\n.a\n\n.\r\n\r\n.\n",
        b"nul \0 \0\n\0\n",
        b"a\r\nb\rc\n\r\n",
        b"a\n.",
        b"\r",
        &every,
        &long,
        &edges,
    ] {
        let (exit, _, events) = deliver(Script::default(), &[], &["b@x"], content);
        let mut wanted = content.to_vec();
        if !content.ends_with(b"\n") {
            wanted.push(b'\n');
        }
        assert_eq!((exit, mail(&events).map(decode)), (0, Some(wanted)));
    }
}

#[test]
fn a_big_mail_needs_little_memory() {
    const LEN: usize = 50 << 20;
    let line = [&b"0123456789abcdef".repeat(4)[..], b"\n"].concat();
    let content = line.repeat(LEN / line.len());
    let fake = Fake::start(Script { end: End::HangAfterDot, ..Script::default() });
    let mut command = program(&fake.socket(), &["-f", "a@x", "--", "b@x"]);
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(&content).expect("fed");
    drop(stdin);
    let Event::Mail(wire) = fake.wait(|event| matches!(event, Event::Mail(_))) else { unreachable!() };
    assert!(decode(&wire) == content);
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("a live process");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak <= 16 * 1024, "{peak} kB");
    // And a stop while the agent thinks about it is "try again".
    kill(pid(&child), Signal::SIGTERM).expect("signalled");
    let (exit, line) = checked(&child.wait_with_output().expect("the end"));
    assert!(exit == 75 && line.starts_with("4.3.0 tox-transport was stopped"), "{line}");
}

#[test]
fn signals_mean_try_again_even_where_the_mta_ignores_or_blocks_them() {
    for name in ["TERM", "HUP", "INT", "USR1", "USR2", "ALRM", "QUIT", "ABRT"] {
        let fake = Fake::start(Script { end: End::HangAfterDot, ..Script::default() });
        // The shell leaves the signals ignored, as Exim does, and blocked, and becomes the program.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "trap '' HUP INT USR1 USR2 TERM ALRM QUIT; exec env --block-signal \"$@\"",
                "sh",
                PROGRAM,
                "--socket",
            ])
            .arg(fake.socket())
            .args(["-f", "a@x", "--", "b@x"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        child.stdin.take().expect("a pipe").write_all(MAIL).expect("fed");
        fake.wait(|event| matches!(event, Event::Mail(_)));
        kill(pid(&child), format!("SIG{name}").parse::<Signal>().expect("a signal")).expect("signalled");
        let (exit, line) = checked(&child.wait_with_output().expect("the end"));
        assert!(exit == 75 && line.starts_with("4."), "{name}: {line}");
    }
}

#[test]
fn closed_and_full_outputs_change_nothing() {
    let shell = |redirection: &str, socket: &Path| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec \"$@\" {redirection}"), "sh", PROGRAM, "--socket"]).arg(socket);
        command.args(["-f", "a@x", "--", "b@x"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    for redirection in [">&-", "2>&-", ">&- 2>&-", ">/dev/full 2>/dev/full"] {
        for (script, exit) in
            [(Script::default(), 0), (Script { after: vec!["550 5.1.1 no"], ..Script::default() }, 67)]
        {
            let fake = Fake::start(script);
            let mut child = shell(redirection, &fake.socket()).spawn().expect("the program starts");
            child.stdin.take().expect("a pipe").write_all(MAIL).expect("fed");
            assert_eq!(child.wait().expect("the end").code(), Some(exit), "{redirection}");
        }
    }
    // No standard input is no mail.
    let fake = Fake::start(Script::default());
    assert_eq!(shell("<&-", &fake.socket()).status().expect("the end").code(), Some(75));
    assert_eq!(mail(&fake.all()), None);
}

/// A pipe whose buffer is full: the end to read and the end to write.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = nix::unistd::pipe().expect("a pipe");
    fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("non-blocking");
    while nix::unistd::write(&write, &[b'x'; 4096]).is_ok() {}
    while nix::unistd::write(&write, b"x").is_ok() {}
    (read, write)
}

#[test]
fn a_full_pipe_loses_the_text_and_nothing_else() {
    for nonblocking in [true, false] {
        let (_read, write) = full_pipe();
        if !nonblocking {
            fcntl(&write, FcntlArg::F_SETFL(OFlag::empty())).expect("blocking");
        }
        let fake = Fake::start(Script { after: vec!["550 5.7.1 no"], ..Script::default() });
        let mut command = program(&fake.socket(), &["-f", "a@x", "--", "b@x"]);
        let err = write.as_fd().try_clone_to_owned().expect("a copy");
        let mut child = command.stdout(File::from(write)).stderr(File::from(err)).spawn().expect("the program starts");
        child.stdin.take().expect("a pipe").write_all(MAIL).expect("fed");
        assert_eq!(child.wait().expect("the end").code(), Some(77));
    }
    // The other end is gone: SIGPIPE must not kill.
    let (read, write) = nix::unistd::pipe().expect("a pipe");
    drop(read);
    let fake = Fake::start(Script::default());
    let mut command = program(&fake.socket(), &["-f", "a@x", "--", "b@x"]);
    let mut child = command.stdout(File::from(write)).spawn().expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(MAIL).expect("fed");
    assert_eq!(child.wait().expect("the end").code(), Some(0));
}
