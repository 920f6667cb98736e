//! The log: lines go through a bounded channel to one thread, which writes them to standard error (or the journal
//! behind it) and to syslog. Logging never blocks the caller: with the channel full, lines are dropped and counted.

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

use super::clock::rfc3339;

/// How many lines may wait for the writer.
const WAITING: usize = 8192;
/// The longest line, in octets; longer ones are cut.
const MAX_LINE: usize = 8000;
/// How long after a failure syslog is left alone.
const SYSLOG_PAUSE: Duration = Duration::from_secs(60);
/// How long [`flush`] waits at most.
const FLUSH_WAIT: Duration = Duration::from_secs(2);
/// Where the system's syslog listens.
const SYSLOG_SOCKET: &str = "/dev/log";

enum Item {
    Line { level: Level, text: String, time_ms: i64 },
    Flush(SyncSender<()>),
}

struct Channel {
    sender: SyncSender<Item>,
    dropped: AtomicU64,
}

static CHANNEL: OnceLock<Channel> = OnceLock::new();

struct Front;

impl Log for Front {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What libraries have to tell below a warning is not for the mail log.
        metadata.level() <= log::max_level()
            && (metadata.level() <= Level::Warn || metadata.target().starts_with("tox"))
    }

    fn log(&self, record: &Record<'_>) {
        let Some(channel) = CHANNEL.get().filter(|_| self.enabled(record.metadata())) else { return };
        channel.put(record.level(), record.args().to_string());
    }

    fn flush(&self) {
        flush();
    }
}

impl Channel {
    fn put(&self, level: Level, text: String) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        if self.sender.try_send(Item::Line { level, text, time_ms }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let (done, written) = sync_channel(1);
        let mut item = Item::Flush(done);
        loop {
            match self.sender.try_send(item) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < until => item = back,
                Err(_) => return,
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Starts the log of `program`: lines of `level` and above go to syslog (facility mail) and to standard error as asked.
/// Where standard error is the journal, it gets the lines only while there is no syslog, since both end in the journal.
/// Panics are logged too. A second call only sets the level.
pub fn init(level: LevelFilter, syslog: bool, stderr: bool, program: &str) {
    set_level(level);
    let (sender, receiver) = sync_channel(WAITING);
    if CHANNEL.set(Channel { sender, dropped: AtomicU64::new(0) }).is_err() {
        return;
    }
    let style = if stderr_is_journal() { Style::Journal } else { Style::Plain };
    let sink = Sink {
        out: std::io::stderr(),
        style: stderr.then_some(style),
        syslog: syslog.then(|| Syslog::new(SYSLOG_SOCKET.into(), program)),
    };
    let writer = std::thread::Builder::new().name("log".into());
    let dropped = || CHANNEL.get().map_or(0, |channel| channel.dropped.swap(0, Ordering::Relaxed));
    if let Err(error) = writer.spawn(move || sink.run(&receiver, dropped)) {
        let _ = writeln!(std::io::stderr(), "{program}: cannot start the log: {error}");
        return;
    }
    if log::set_logger(&Front).is_err() {
        let _ = writeln!(std::io::stderr(), "{program}: another log was there first");
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "?".to_owned(), ToString::to_string);
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        // First room in the channel: this line is not one to drop.
        flush();
        log::error!(target: "toxmail", "panic at {place}: {}", text.unwrap_or("?"));
        flush();
    }));
}

/// Logs lines of `level` and above from now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Waits until all lines so far are written, 2 s at most: before an exit.
pub fn flush() {
    if let Some(channel) = CHANNEL.get() {
        channel.flush(FLUSH_WAIT);
    }
}

/// `$JOURNAL_STREAM` is inherited also by programs whose standard error was sent elsewhere: its numbers tell.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = nix::sys::stat::fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// `text` as one line that no terminal and no log reader takes for more: control characters, line separators and marks
/// that turn the direction of text are escaped, and what is too long is cut.
fn one_line(text: &str) -> Cow<'_, str> {
    let strange = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut cut = text.len().min(MAX_LINE);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    if cut == text.len() && !text.contains(strange) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(cut + 16);
    for c in text[..cut].chars() {
        if strange(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    if cut < text.len() {
        line.push('…');
    }
    Cow::Owned(line)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `<N>text` (sd-daemon(3)); the journal knows the time.
    Journal,
    /// `TIME level: text`
    Plain,
}

struct Sink<W> {
    out: W,
    style: Option<Style>,
    syslog: Option<Syslog>,
}

impl<W: Write> Sink<W> {
    fn run(mut self, receiver: &Receiver<Item>, dropped: impl Fn() -> u64) {
        loop {
            match receiver.recv_timeout(Duration::from_secs(3600)) {
                Ok(Item::Line { level, text, time_ms }) => {
                    self.write(level, &text, time_ms);
                    // Said where the gap is: the lines that made the channel full are still before it.
                    let lost = dropped();
                    if lost > 0 {
                        self.write(Level::Warn, &format!("{lost} log lines were dropped"), time_ms);
                    }
                }
                Ok(Item::Flush(done)) => {
                    let _ = self.out.flush();
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, level: Level, text: &str, time_ms: i64) {
        let text = one_line(text);
        let told = self.syslog.as_mut().is_some_and(|syslog| syslog.write(level, &text));
        // Nobody is left to tell of an error here.
        let _ = match self.style {
            Some(Style::Journal) if told => Ok(()),
            Some(Style::Journal) => writeln!(self.out, "<{}>{text}", severity(level) as u8),
            Some(Style::Plain) => {
                let name = level.as_str().to_ascii_lowercase();
                // One write for the whole line, that lines of several processes do not mix.
                self.out.write_all(format!("{} {name}: {text}\n", rfc3339(time_ms)).as_bytes())
            }
            // Asked for syslog only, and there is none: rather here than nowhere.
            None if self.syslog.is_some() && !told => {
                self.out.write_all(format!("{} {text}\n", rfc3339(time_ms)).as_bytes())
            }
            None => Ok(()),
        };
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::Error => Severity::LOG_ERR,
        Level::Warn => Severity::LOG_WARNING,
        Level::Info => Severity::LOG_INFO,
        Level::Debug | Level::Trace => Severity::LOG_DEBUG,
    }
}

/// `<priority>ident[pid]: text`. Without a time: every syslog daemon then puts its own, whereas the crate's formatter
/// would give UTC where local time is meant, as a program with threads cannot safely learn its zone.
struct Untimed {
    ident: String,
}

impl LogFormat<&str> for Untimed {
    fn format<W: Write>(&self, out: &mut W, severity: Severity, text: &str) -> syslog::Result<()> {
        let priority = Facility::LOG_MAIL as u8 | severity as u8;
        write!(out, "<{priority}>{}: {text}", self.ident).map_err(syslog::Error::Write)
    }
}

struct Syslog {
    socket: PathBuf,
    ident: String,
    logger: Option<Logger<LoggerBackend, Untimed>>,
    not_before: Option<Instant>,
}

impl Syslog {
    fn new(socket: PathBuf, program: &str) -> Self {
        Self { socket, ident: format!("{program}[{}]", std::process::id()), logger: None, not_before: None }
    }

    fn connect(socket: &Path, ident: &str) -> Option<Logger<LoggerBackend, Untimed>> {
        syslog::unix_custom(Untimed { ident: ident.to_owned() }, socket).ok()
    }

    /// Whether syslog took the line.
    fn write(&mut self, level: Level, text: &str) -> bool {
        let had = self.logger.is_some();
        if !had && self.not_before.is_some_and(|time| Instant::now() < time) {
            return false;
        }
        for _ in 0..2 {
            if self.logger.is_none() {
                self.logger = Self::connect(&self.socket, &self.ident);
            }
            let Some(logger) = &mut self.logger else { break };
            if logger.formatter.format(&mut logger.backend, severity(level), text).is_ok() {
                return true;
            }
            // A daemon that was restarted has a new socket: one more try at once.
            self.logger = None;
        }
        self.not_before = Some(Instant::now() + SYSLOG_PAUSE);
        false
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn sink(style: Option<Style>, syslog: Option<Syslog>) -> Sink<Vec<u8>> {
        Sink { out: Vec::new(), style, syslog }
    }

    fn text(sink: &Sink<Vec<u8>>) -> String {
        String::from_utf8(sink.out.clone()).expect("UTF-8")
    }

    #[test]
    fn lines_cannot_be_forged() {
        assert_eq!(one_line("a\nb\r\x1b[0m\t\u{202e}é"), "a\\nb\\r\\u{1b}[0m\\t\\u{202e}é");
        assert!(matches!(one_line("plain é"), Cow::Borrowed(_)));
        let long = one_line(&"é".repeat(MAX_LINE)).into_owned();
        assert!(long.len() <= MAX_LINE + 3 && long.ends_with('…'));
    }

    #[test]
    fn standard_error_and_journal_have_their_own_forms() {
        let mut plain = sink(Some(Style::Plain), None);
        plain.write(Level::Info, "to=<a@b>\nx", 0);
        assert_eq!(text(&plain), "1970-01-01T00:00:00.000Z info: to=<a@b>\\nx\n");
        let mut journal = sink(Some(Style::Journal), None);
        journal.write(Level::Error, "one", 0);
        journal.write(Level::Debug, "two", 0);
        assert_eq!(text(&journal), "<3>one\n<7>two\n");
        let mut none = sink(None, None);
        none.write(Level::Error, "one", 0);
        assert_eq!(text(&none), "");
    }

    #[test]
    fn syslog_gets_mail_lines_and_a_restarted_daemon_is_found_again() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("log");
        let mut journal = sink(Some(Style::Journal), Some(Syslog::new(path.clone(), "tox-agent")));
        journal.write(Level::Info, "before", 0);
        assert_eq!(text(&journal), "<6>before\n", "no syslog: the journal");

        let daemon = UnixDatagram::bind(&path).expect("bind");
        journal.write(Level::Info, "too soon", 0);
        let syslog = journal.syslog.as_mut().expect("syslog");
        syslog.not_before = Some(Instant::now());
        journal.write(Level::Warn, "hello", 0);
        let mut buffer = [0; 200];
        let n = daemon.recv(&mut buffer).expect("recv");
        let expected = format!("<20>tox-agent[{}]: hello", std::process::id());
        assert_eq!(String::from_utf8_lossy(&buffer[..n]), expected);
        assert_eq!(text(&journal), "<6>before\n<6>too soon\n", "no line twice in the journal");

        drop(daemon);
        std::fs::remove_file(&path).expect("unlink");
        let daemon = UnixDatagram::bind(&path).expect("bind again");
        journal.write(Level::Info, "again", 0);
        let n = daemon.recv(&mut buffer).expect("recv");
        assert!(String::from_utf8_lossy(&buffer[..n]).ends_with(": again"));
    }

    #[test]
    fn a_full_channel_drops_and_counts_and_flush_waits() {
        let (sender, receiver) = sync_channel(4);
        let channel = Channel { sender, dropped: AtomicU64::new(0) };
        for _ in 0..10 {
            channel.put(Level::Info, "x".into());
        }
        assert_eq!(channel.dropped.load(Ordering::Relaxed), 6);
        channel.flush(Duration::from_millis(20));
        let shared = std::sync::Arc::new(channel);
        let theirs = shared.clone();
        let (seen, lines) = sync_channel(1);
        let writer = std::thread::spawn(move || {
            struct Out(Vec<u8>, SyncSender<Vec<u8>>);
            impl Write for Out {
                fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
                    self.0.extend_from_slice(octets);
                    Ok(octets.len())
                }
                fn flush(&mut self) -> std::io::Result<()> {
                    let _ = self.1.try_send(self.0.clone());
                    Ok(())
                }
            }
            let sink = Sink { out: Out(Vec::new(), seen), style: Some(Style::Journal), syslog: None };
            let dropped = || theirs.dropped.swap(0, Ordering::Relaxed);
            sink.run(&receiver, dropped);
        });
        shared.flush(Duration::from_secs(5));
        let written = String::from_utf8(lines.recv().expect("flushed")).expect("UTF-8");
        assert_eq!(written.lines().count(), 5, "{written}");
        assert_eq!(written.lines().nth(1), Some("<4>6 log lines were dropped"));
        drop(shared);
        drop(writer);
    }

    #[test]
    fn only_our_own_lines_below_a_warning() {
        set_level(LevelFilter::Info);
        let enabled = |level, target| Front.enabled(&Metadata::builder().level(level).target(target).build());
        assert!(
            enabled(Level::Info, "toxmail::lmtp") && enabled(Level::Warn, "hyper") && enabled(Level::Info, "tox_agent")
        );
        assert!(!enabled(Level::Info, "hyper") && !enabled(Level::Debug, "toxmail"));
    }
}
