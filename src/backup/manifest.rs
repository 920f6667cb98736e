//! What a backup holds: the members of the archive by their names, and the first of them, which describes the others.

use serde::{Deserialize, Serialize};

/// The version of the format that this program writes and reads.
pub const FORMAT: u32 = 1;
/// The name of the first member.
pub(super) const NAME: &str = "manifest.json";
/// The longest manifest read, in octets.
pub(super) const MAX: u64 = 1 << 20;
/// The longest configuration read, in octets; the agent's own limit.
pub const MAX_CONFIG: u64 = 4 << 20;
/// The longest identity read, in octets.
pub const MAX_IDENTITY: u64 = 64 << 20;

/// The first member of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`]
    pub format: u32,
    /// When it was made, in seconds since the epoch.
    pub made: i64,
    /// The host's name in its configuration.
    pub host: String,
    /// The version of the program that made it.
    pub version: String,
    /// The accounts whose identities it holds.
    pub accounts: Vec<String>,
    /// What the database holds.
    pub counts: Counts,
    /// How many members follow.
    pub files: u64,
    /// Their octets together.
    pub octets: u64,
}

/// What a database holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Waiting mails.
    pub mails: u64,
    /// Their recipients.
    pub recipients: u64,
    /// Contacts.
    pub contacts: u64,
    /// Names that a key is pinned to.
    pub pins: u64,
    /// Blocked keys.
    pub blocked: u64,
}

/// A member of the archive, but for the manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The configuration, for people.
    Config,
    /// The Tox savedata of the account with this name.
    Identity(String),
    /// The database.
    Database,
    /// The encoded body of a waiting mail, by the name of its file.
    Body(String),
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|o| o.is_ascii_alphanumeric() || matches!(o, b'_' | b'-'))
}

impl Part {
    /// Its name in the archive, and but for the configuration its path below the state folder.
    pub fn name(&self) -> String {
        match self {
            Self::Config => "tox-agent.toml".into(),
            Self::Identity(account) => format!("identities/{account}.tox"),
            Self::Database => "queue.sqlite".into(),
            Self::Body(file) => format!("bodies/{file}"),
        }
    }

    /// The part of this name; `None` for all that is none, such as a path that leads out.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "tox-agent.toml" => Some(Self::Config),
            "queue.sqlite" => Some(Self::Database),
            _ => {
                let body = name.strip_prefix("bodies/").filter(|name| is_name(name));
                let identity = || name.strip_prefix("identities/")?.strip_suffix(".tox").filter(|name| is_name(name));
                body.map(|name| Self::Body(name.to_owned()))
                    .or_else(|| identity().map(|name| Self::Identity(name.to_owned())))
            }
        }
    }

    /// The most octets it may have.
    pub(super) fn limit(&self) -> u64 {
        match self {
            Self::Config => MAX_CONFIG,
            Self::Identity(_) => MAX_IDENTITY,
            Self::Database | Self::Body(_) => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_parts_are_parts() {
        let id = "05NQ4JM1CGABC123";
        for part in [Part::Config, Part::Database, Part::Identity("al_ice-2".into()), Part::Body(id.into())] {
            assert_eq!(Part::parse(&part.name()), Some(part));
        }
        for name in [
            "",
            "/queue.sqlite",
            "queue.sqlite-wal",
            "bodies/",
            "bodies/../lock",
            "bodies/a/b",
            "bodies/.",
            "identities/.tox",
            "identities/../x.tox",
            "identities/a.tox/b",
            "identities/a",
            "manifest.json",
            "lock",
        ] {
            assert_eq!(Part::parse(name), None, "{name}");
        }
    }
}
