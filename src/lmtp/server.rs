//! The socket shell around [`Session`]: listens, accepts, reads, writes, waits. Uses tokio and nix; every rule of the
//! protocol is in [`super::session`].
//!
//! The listening socket's mode and group (see [`crate::socket`]) decide who can connect; [`Limits::allow_uids`] who of them may submit, by the
//! user that the kernel vouches for (SO_PEERCRED).

use std::any::Any;
use std::future::pending;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Uid, User, geteuid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::session::{Ending, Session, Step, reply};
use super::{Intake, Limits, Submission, Submitter};
use crate::mail::status::{EnhancedStatus, Refusal};

/// How much is read at a time.
const READ_SIZE: usize = 32 * 1024;
/// How long open transactions may go on after a shutdown was asked for.
const GRACE: Duration = Duration::from_secs(10);
/// How long after a shutdown was asked for a client without open transaction may say something: one that has just
/// connected does at once, and must not be told to come again. Counted from its last word.
const SETTLE: Duration = Duration::from_millis(500);
/// The pause after a failed accept: without file descriptors to spare (EMFILE) the next one would fail at once, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves LMTP on `listener` until `shutdown` becomes true, then ends sessions that are idle with 421, gives open
/// transactions 10 s to finish, and returns. A dropped sender of `shutdown` means that nobody will ever ask. The socket file stays:
/// the next [`crate::socket::bind`] replaces it.
pub async fn serve(
    listener: UnixListener,
    submission: Arc<dyn Submission>,
    limits: watch::Receiver<Arc<Limits>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut sessions = JoinSet::new();
    let asked = shutdown.clone();
    loop {
        let accepted = tokio::select! {
            () = asked_to_stop(&mut shutdown) => break,
            Some(ended) = sessions.join_next() => {
                report(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("lmtp: cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A session goes by the limits of its beginning.
        let limits = limits.borrow().clone();
        while let Some(ended) = sessions.try_join_next() {
            report(ended);
        }
        if sessions.len() >= limits.max_connections {
            log::warn!("lmtp: more than {} connections", limits.max_connections);
            turn_away(stream);
            continue;
        }
        let (submission, asked) = (submission.clone(), asked.clone());
        sessions.spawn(async move {
            if let Err(error) = converse(stream, &*submission, limits, asked).await {
                log::debug!("lmtp: connection lost: {error}");
            }
        });
    }
    // New clients wait from here on where the service manager holds the socket, too. Elsewhere they get "connection
    // refused", which MTAs take for a reason to try again.
    drop(listener);
    let all_ended = async {
        while let Some(ended) = sessions.join_next().await {
            report(ended);
        }
    };
    if timeout(GRACE, all_ended).await.is_err() {
        log::warn!("lmtp: {} sessions did not end in time; their open mails are discarded", sessions.len());
    }
}

/// Ends when a shutdown is asked for.
async fn asked_to_stop(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|&stop| stop).await.is_err() {
        pending::<()>().await;
    }
}

/// Ends when a shutdown is asked for and a client that was last heard of at `heard` has nothing more to say.
async fn settled(shutdown: &mut watch::Receiver<bool>, heard: Instant) {
    asked_to_stop(shutdown).await;
    tokio::time::sleep_until(heard + SETTLE).await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        log::error!("lmtp: a session broke off: {error}");
    }
}

/// Says 421 to a connection there is no room for. It never waits: the line fits into any socket buffer that is empty.
fn turn_away(stream: UnixStream) {
    let mut line = Vec::new();
    reply(&mut line, 421, EnhancedStatus::new(4, 3, 2), "too many connections; try again later", false);
    let sent = stream.into_std().and_then(|mut stream| stream.write_all(&line));
    if let Err(error) = sent {
        log::debug!("lmtp: connection lost: {error}");
    }
}

/// The answer to every MAIL of a client that may not submit.
fn admission(submitter: &Submitter, limits: &Limits) -> Result<(), Refusal> {
    if limits.admits(submitter.uid, geteuid().as_raw()) {
        return Ok(());
    }
    let name = match User::from_uid(Uid::from_raw(submitter.uid)) {
        Ok(Some(user)) => user.name,
        _ => submitter.uid.to_string(),
    };
    Err(Refusal::permanent(7, 1, format!("user {name} may not submit mail (lmtp.allow_users)")))
}

/// One connection from greeting to close.
async fn converse(
    mut stream: UnixStream,
    submission: &dyn Submission,
    limits: Arc<Limits>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let submitter = Submitter { uid: peer.uid(), gid: peer.gid(), pid: peer.pid().unwrap_or(0) };
    log::debug!("lmtp: connection of uid {} pid {}", submitter.uid, submitter.pid);
    let patience = limits.timeout;
    let admitted = admission(&submitter, &limits);
    if let Err(refusal) = &admitted {
        log::warn!("lmtp: {}", refusal.text());
    }
    let mut session = Session::new(submitter, admitted, limits);
    let mut out = Vec::new();
    let mut buffer = vec![0; READ_SIZE];
    session.greeting(&mut out);
    send(&mut stream, &mut out, patience).await?;
    let mut heard = Instant::now();
    loop {
        let idle = session.is_idle();
        let read = tokio::select! {
            // The shutdown first: a client that never pauses would not hear of it otherwise.
            biased;
            () = settled(&mut shutdown, heard), if idle => {
                session.end(Ending::Shutdown, &mut out);
                return send(&mut stream, &mut out, patience).await;
            }
            read = timeout(patience, stream.read(&mut buffer)) => read,
        };
        let Ok(read) = read else {
            session.end(Ending::Idle, &mut out);
            return send(&mut stream, &mut out, patience).await;
        };
        let read = read?;
        if read == 0 {
            return Ok(());
        }
        heard = Instant::now();
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let (taken, step) = session.feed(rest, submission, &mut out);
            rest = &rest[taken..];
            match step {
                Step::More => {}
                Step::Finish(intake) => {
                    // Replies due before the dot do not wait for the disk.
                    let lost = send(&mut stream, &mut out, patience).await.err();
                    session.finished(commit(intake).await, &mut out);
                    if let Some(error) = lost {
                        return Err(error);
                    }
                }
                Step::Close => return send(&mut stream, &mut out, patience).await,
            }
        }
        send(&mut stream, &mut out, patience).await?;
    }
}

/// Runs [`Intake::finish`] in a task of its own: neither a client that goes away nor a shutdown nor a panic stops it
/// half way. A panic leaves no answers, which the session takes for "try again".
async fn commit(intake: Box<dyn Intake>) -> Vec<Result<String, Refusal>> {
    // Called in there, too: finish() may do work, and panic, before it returns its future.
    tokio::spawn(async move { intake.finish().await }).await.unwrap_or_else(|error| {
        log::error!("lmtp: storing a mail broke off: {}", panic_text(error));
        Vec::new()
    })
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "cancelled".to_owned() };
    let text = (&*panic as &dyn Any).downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}

/// Writes all of `out` in one go and empties it.
async fn send(stream: &mut UnixStream, out: &mut Vec<u8>, patience: Duration) -> io::Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let sent = timeout(patience, stream.write_all(out)).await;
    out.clear();
    sent.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its replies")))
}
