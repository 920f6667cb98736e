//! Who else may get at what the agent keeps or is told, by the permission bits of files and folders.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Config;

/// What is too open.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// With these the agent does not start: others may read a secret key, or change what it does.
    pub problems: Vec<String>,
    /// What is worth a look.
    pub warnings: Vec<String>,
}

/// The permission bits; `None` for what is not there, or cannot be seen by this user.
fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|found| found.permissions().mode() & 0o7777)
}

/// Looks at the configuration `file`, the state folder, the identities, and the folders of the sockets. Passphrase
/// files are looked at when they are read ([`super::Passphrase`]).
pub fn permissions(config: &Config, file: &Path) -> Permissions {
    let mut found = Permissions::default();
    if let Some(mode) = mode(file) {
        let text = format!("others may change the configuration (mode {mode:04o}): chmod go-w {}", file.display());
        if mode & 0o002 != 0 {
            found.problems.push(text);
        } else if mode & 0o020 != 0 {
            found.warnings.push(text);
        }
    }
    let identities = config.state_dir.join("identities");
    for folder in [&config.state_dir, &identities] {
        let Some(mode) = mode(folder) else { continue };
        let shown = folder.display();
        if mode & 0o022 != 0 {
            found.problems.push(format!("others may change what is in {shown} (mode {mode:04o}): chmod 700 {shown}"));
        } else if mode & 0o055 != 0 {
            found.warnings.push(format!("others may look into {shown} (mode {mode:04o}): chmod 700 {shown}"));
        }
    }
    for account in &config.accounts {
        let identity = identities.join(format!("{}.tox", account.name));
        if let Some(mode) = mode(&identity).filter(|mode| mode & 0o077 != 0) {
            let shown = identity.display();
            found.problems.push(format!("others may read the secret key (mode {mode:04o}): chmod 600 {shown}"));
        }
    }
    let sockets = [&config.lmtp.socket, &config.control.socket];
    let mut folders: Vec<&Path> = sockets.into_iter().filter_map(|socket| socket.parent()).collect();
    folders.dedup();
    for folder in folders {
        let Some(mode) = mode(folder).filter(|mode| mode & 0o022 != 0) else { continue };
        let shown = folder.display();
        let text = format!("others may put a socket of theirs into {shown} (mode {mode:04o}): chmod go-w {shown}");
        // In a sticky folder they cannot take ours away, only be there first.
        if mode & 0o1002 == 0o002 {
            found.problems.push(text);
        } else {
            found.warnings.push(text);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_read_or_change_is_found_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["state", "state/identities", "run"] {
            fs::create_dir(at(name)).expect("made");
        }
        let text = format!(
            "state_dir = {:?}\n[lmtp]\nsocket = {:?}\n[control]\nsocket = {:?}\n\
             [[account]]\nname = \"alice\"\nmaildir = {:?}\n",
            at("state"),
            at("run/lmtp.sock"),
            at("run/control.sock"),
            at("Maildir")
        );
        fs::write(at("agent.toml"), &text).expect("written");
        fs::write(at("state/identities/alice.tox"), "secret").expect("written");
        let config = super::super::parse(&text, &at("agent.toml")).expect("a configuration");
        let set = |name: &str, mode| fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("chmod");
        let good = [
            ("agent.toml", 0o644),
            ("state", 0o700),
            ("state/identities", 0o700),
            ("state/identities/alice.tox", 0o600),
            ("run", 0o755),
        ];
        let found = |name: &str, mode| {
            good.iter().for_each(|(name, mode)| set(name, *mode));
            set(name, mode);
            let found = permissions(&config, &at("agent.toml"));
            (found.problems, found.warnings)
        };
        assert_eq!(found("run", 0o755), (vec![], vec![]));
        for (name, mode, remedy) in [
            ("agent.toml", 0o666, "chmod go-w"),
            ("state", 0o770, "chmod 700"),
            ("state/identities", 0o777, "chmod 700"),
            ("state/identities/alice.tox", 0o640, "chmod 600"),
            ("state/identities/alice.tox", 0o604, "chmod 600"),
            ("run", 0o777, "chmod go-w"),
        ] {
            let (problems, warnings) = found(name, mode);
            assert_eq!((problems.len(), warnings.len()), (1, 0), "{name} {mode:o}: {problems:?} {warnings:?}");
            let path = at(name).display().to_string();
            assert!(problems[0].contains(remedy) && problems[0].contains(&path), "{problems:?}");
        }
        for (name, mode) in
            [("agent.toml", 0o664), ("state", 0o755), ("state/identities", 0o750), ("run", 0o1777), ("run", 0o775)]
        {
            let (problems, warnings) = found(name, mode);
            assert_eq!((problems.len(), warnings.len()), (0, 1), "{name} {mode:o}: {problems:?} {warnings:?}");
        }
    }
}
