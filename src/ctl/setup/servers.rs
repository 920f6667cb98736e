//! The mail servers: how each is read, checked, told of a change, and given a probe.

use std::collections::BTreeMap;
use std::path::Path;

use super::plan::{Plan, Wanted};
use super::probe::{self, Mta, Queued};
use super::{exim, files, postfix};

/// How much of the end of a log is read, in octets.
const LOG: u64 = 256 << 10;

/// A mail server that is to be set up.
pub(super) trait Server: Mta {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// What is to be changed so that mail goes the way `wanted`.
    ///
    /// # Errors
    /// Its configuration cannot be read, or is not what can be changed; a key is a domain of its own.
    fn apply(&self, wanted: &Wanted) -> Result<Plan, String>;

    /// What is to be changed so that nothing of ours is left, or none of `keys`.
    ///
    /// # Errors
    /// As [`Server::apply`].
    fn revert(&self, keys: &[String]) -> Result<Plan, String>;

    /// Has it look at its configuration.
    ///
    /// # Errors
    /// It is wrong: its words.
    fn check(&self) -> Result<(), String>;

    /// Has it look at its new configuration, and use it if it runs; whether it runs.
    ///
    /// # Errors
    /// The configuration is wrong: its words.
    fn reload(&self) -> Result<bool, String>;
}

/// Refuses whole domains whose mail is delivered or relayed here.
fn own_domain(keys: &[String], class: &str, listed: impl Fn(&str) -> bool) -> Result<(), String> {
    match keys.iter().find(|key| !key.contains('@') && listed(key)) {
        Some(key) => Err(format!(
            "{key} is one of the mail server's own domains ({class}): its mail is delivered here; name single addresses \
             of it"
        )),
        None => Ok(()),
    }
}

/// An instance of Postfix.
pub(super) struct Postfix {
    /// The folder of its configuration.
    dir: String,
}

impl Postfix {
    /// The instance whose configuration is in `dir`, or the usual one.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn new(dir: Option<&str>) -> Result<Self, String> {
        let dir = match dir {
            Some(dir) => std::fs::canonicalize(dir).map_err(|error| format!("{dir}: {error}"))?.display().to_string(),
            None => files::run("postconf", &["-h", "config_directory"], "")?.trim().to_owned(),
        };
        Ok(Self { dir })
    }

    /// The value of a parameter, what it refers to put in.
    fn parameter(&self, name: &str) -> Result<String, String> {
        Ok(files::run("postconf", &["-c", &self.dir, "-hx", name], "")?.trim().to_owned())
    }

    fn found(&self) -> Result<postfix::Found, String> {
        let path = |name: &str| format!("{}/{name}", self.dir);
        let there = |name: &str| files::read(&path(name))?.ok_or_else(|| format!("{} is not there", path(name)));
        Ok(postfix::Found {
            dir: self.dir.clone(),
            main_cf: there("main.cf")?,
            master_cf: there("master.cf")?,
            transport: files::read(&path("tox_transport"))?,
            status: files::read(&path("tox_status"))?,
            mailbox_size_limit: self.parameter("mailbox_size_limit")?.parse().unwrap_or(0),
        })
    }
}

impl Server for Postfix {
    fn name(&self) -> &'static str {
        "Postfix"
    }

    fn apply(&self, wanted: &Wanted) -> Result<Plan, String> {
        for class in ["mydestination", "virtual_mailbox_domains", "virtual_alias_domains", "relay_domains"] {
            let list = self.parameter(class)?;
            own_domain(&wanted.keys, class, |key| {
                list.split([',', ' ', '\t']).any(|element| match element.contains(':') {
                    // postmap says nothing, with status 1, about what a table does not have.
                    true => files::run("postmap", &["-c", &self.dir, "-q", key, element], "").is_ok(),
                    false => element.eq_ignore_ascii_case(key),
                })
            })?;
        }
        postfix::apply(&self.found()?, wanted)
    }

    fn revert(&self, keys: &[String]) -> Result<Plan, String> {
        postfix::revert(&self.found()?, keys)
    }

    fn check(&self) -> Result<(), String> {
        files::run("postfix", &["-c", &self.dir, "check"], "").map(drop)
    }

    fn reload(&self) -> Result<bool, String> {
        self.check()?;
        if files::run("postfix", &["-c", &self.dir, "status"], "").is_err() {
            return Ok(false);
        }
        files::run("postfix", &["-c", &self.dir, "reload"], "").map(|_| true)
    }
}

impl Mta for Postfix {
    fn submit(&self, sender: &str, recipient: &str, mail: &str) -> Result<(), String> {
        let sendmail = self.parameter("sendmail_path")?;
        files::run(&sendmail, &["-C", &self.dir, "-N", "never", "-i", "-f", sender, "--", recipient], mail).map(drop)
    }

    fn queued(&self, recipient: &str) -> Result<Queued, String> {
        let json = files::run("postqueue", &["-c", &self.dir, "-j"], "")?;
        Ok(probe::in_postqueue(&json, recipient))
    }

    fn discard(&self, queue_id: &str) {
        // Otherwise it leaves the queue by itself one day.
        let _ = files::run("postsuper", &["-c", &self.dir, "-d", queue_id], "");
    }

    fn log(&self, recipient: &str) -> Option<String> {
        let own = self.parameter("maillog_file").ok().filter(|file| !file.is_empty());
        let file = own.unwrap_or_else(|| "/var/log/mail.log".into());
        let log = match files::end_of(&file, LOG) {
            Ok(log) => log,
            Err(_) => files::run("journalctl", &["-q", "--no-pager", "-o", "cat", "--since", "-5min"], "").ok()?,
        };
        probe::in_postfix_log(&log, recipient)
    }
}

/// Debian's Exim.
pub(super) struct Exim {
    /// The folder of its configuration.
    dir: &'static str,
    /// `update-exim4.conf.conf`
    answers: String,
}

impl Exim {
    /// The Exim of this host.
    ///
    /// # Errors
    /// There is none with Debian's configuration.
    pub(super) fn new() -> Result<Self, String> {
        let dir = "/etc/exim4";
        let own = format!("{dir}/exim4.conf");
        if Path::new(&own).exists() {
            return Err(format!(
                "{own} is a configuration of your own: exim/README.md in /usr/share/doc/toxmail/examples says what it needs"
            ));
        }
        let file = format!("{dir}/update-exim4.conf.conf");
        let answers = files::read(&file)?.ok_or_else(|| format!("{file} is not there: is this Debian's Exim?"))?;
        Ok(Self { dir, answers })
    }

    fn found(&self) -> Result<exim::Found, String> {
        let split = exim::variable(&self.answers, "dc_use_split_config") == Some("true");
        let read = |name: String| Ok((name.clone(), files::read(&format!("{}/{name}", self.dir))?));
        let texts: BTreeMap<_, _> = exim::files(split).into_iter().map(read).collect::<Result<_, String>>()?;
        Ok(exim::Found { dir: self.dir.to_owned(), split, texts })
    }
}

impl Server for Exim {
    fn name(&self) -> &'static str {
        "Exim"
    }

    fn apply(&self, wanted: &Wanted) -> Result<Plan, String> {
        for class in ["dc_other_hostnames", "dc_relay_domains"] {
            let list = exim::variable(&self.answers, class).unwrap_or_default();
            own_domain(&wanted.keys, class, |key| {
                list.split([':', ';']).any(|own| own.trim().eq_ignore_ascii_case(key))
            })?;
        }
        exim::apply(&self.found()?, wanted)
    }

    fn revert(&self, keys: &[String]) -> Result<Plan, String> {
        exim::revert(&self.found()?, keys)
    }

    fn check(&self) -> Result<(), String> {
        files::run("exim4", &["-bV"], "").map(drop)
    }

    fn reload(&self) -> Result<bool, String> {
        // Makes the configuration that Exim reads of all the files, and leaves the old one where the new one is wrong.
        files::run("update-exim4.conf", &[], "")?;
        let pid = files::read("/run/exim4/exim.pid").ok().flatten();
        if !pid.is_some_and(|pid| Path::new("/proc").join(pid.trim()).join("stat").exists()) {
            return Ok(false);
        }
        files::run("service", &["exim4", "reload"], "").map(|_| true)
    }
}

impl Mta for Exim {
    fn submit(&self, sender: &str, recipient: &str, mail: &str) -> Result<(), String> {
        files::run("exim4", &["-i", "-f", sender, "--", recipient], mail).map(drop)
    }

    fn queued(&self, recipient: &str) -> Result<Queued, String> {
        Ok(match probe::in_exim_queue(&files::run("exim4", &["-bpu"], "")?, recipient) {
            // Only the log of the message tells whether it was tried.
            Queued::Yes(id) => {
                let log = files::run("exim4", &["-Mvl", &id], "").unwrap_or_default();
                match probe::in_exim_log(&log, recipient) {
                    Some(text) => Queued::Deferred(id, text),
                    None => Queued::Yes(id),
                }
            }
            queued => queued,
        })
    }

    fn discard(&self, queue_id: &str) {
        let _ = files::run("exim4", &["-Mrm", queue_id], "");
    }

    fn log(&self, recipient: &str) -> Option<String> {
        probe::in_exim_log(&files::end_of("/var/log/exim4/mainlog", LOG).ok()?, recipient)
    }
}
