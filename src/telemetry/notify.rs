//! What the service manager hears of this program (sd_notify(3)). Where there is none that listens, nothing is said.

use std::time::Duration;

use sd_notify::NotifyState;

/// It has started, or read its configuration again, and serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its configuration again; [`ready`] must follow.
pub fn reloading() {
    // By its time the manager tells this from an earlier reload.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for people, as `systemctl status` shows it.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// It is alive: to be said again within [`watchdog`].
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How long the manager waits for [`alive`] before it takes the program for stuck; `None`: it does not wait for it.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|time| !time.is_zero())
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("cannot tell the service manager ($NOTIFY_SOCKET): {error}");
    }
}
