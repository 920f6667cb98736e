//! Probe mails: `toxctl setup` sends one through the MTA to see whether mail comes from there to the agent. They are taken
//! like any other mail and then not queued: only that they came is remembered, for as long as the agent runs.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::directory::Directory;
use crate::control::api;
use crate::identity::tox_address::{self, ToxAddress};
use crate::lmtp::{Intake, Outcome};
use crate::mail::address::Address;
use crate::mail::envelope::Envelope;
use crate::mail::status::Refusal;

/// How many probes are remembered; older ones are forgotten.
const REMEMBERED: usize = 16;
/// The longest token, in octets: `probe-` and it are a local part.
const MAX_TOKEN: usize = 32;

/// The token of a probe's address, `probe-TOKEN@<52 base32>.tox.alt` with the key of an account: nobody else has mail
/// addressed so, since an account is no contact of its own.
pub fn token(directory: &Directory, recipient: &Address) -> Option<String> {
    let ToxAddress::Mailbox(local, key) = tox_address::parse(recipient)? else { return None };
    let token = local.strip_prefix("probe-")?;
    let fits = (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|octet| octet.is_ascii_alphanumeric());
    (fits && directory.accounts().iter().any(|account| account.key == key)).then(|| token.to_owned())
}

/// The probes that came.
#[derive(Default)]
pub struct Probes(Mutex<VecDeque<api::Probe>>);

impl Probes {
    /// What is known of the probe with this token.
    pub fn find(&self, token: &str) -> Option<api::Probe> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|probe| probe.token == token).cloned()
    }

    fn note(&self, probe: api::Probe) {
        log::info!(
            "probe from <{}> arrived, mta={}: not queued",
            probe.sender,
            probe.mta_queue_id.as_deref().unwrap_or("-")
        );
        let mut probes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        probes.truncate(REMEMBERED - 1);
        probes.push_front(probe);
    }
}

/// A probe being taken in.
pub struct ProbeIntake {
    probes: std::sync::Arc<Probes>,
    probe: api::Probe,
}

impl ProbeIntake {
    /// The intake of a mail with this envelope, whose first recipient is the probe `token`.
    ///
    /// # Errors
    /// It has other recipients, whose mail would be lost: 5.5.3.
    pub fn new(probes: &std::sync::Arc<Probes>, token: String, envelope: &Envelope) -> Result<Self, Refusal> {
        if envelope.recipients.len() != 1 {
            return Err(Refusal::permanent(5, 3, "a probe of toxctl setup has no other recipients"));
        }
        let probe = api::Probe {
            token,
            sender: envelope.sender.as_ref().map(ToString::to_string).unwrap_or_default(),
            mta_queue_id: envelope.mta_queue_id.clone(),
            size: 0,
        };
        Ok(Self { probes: probes.clone(), probe })
    }
}

impl Intake for ProbeIntake {
    fn write(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        self.probe.size += chunk.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Outcome {
        Box::pin(async move {
            let said = format!("probe {}", self.probe.token);
            self.probes.note(self.probe);
            vec![Ok(said)]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tox_id::PublicKey;

    #[test]
    fn only_probes_to_own_keys_are_probes() {
        let (own, other) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let account = super::super::directory::Account {
            name: "alice".into(),
            key: own,
            address: tox_address::canonical(&own),
            reachable: Vec::new(),
            senders: Vec::new(),
            mailboxes: Vec::new(),
        };
        let directory = Directory::new(vec![account], &[], &[], false);
        let (own, other) = (own.base32(), other.base32());
        for (address, expected) in [
            (format!("probe-a1@{own}.tox.alt"), Some("a1")),
            (format!("probe-a1@{other}.tox.alt"), None),
            (format!("probe-@{own}.tox.alt"), None),
            (format!("probe-{}@{own}.tox.alt", "a".repeat(33)), None),
            (format!("work@{own}.tox.alt"), None),
            (format!("{own}@tox.alt"), None),
            ("probe-a1@example.org".into(), None),
        ] {
            let found = token(&directory, &address.parse().expect("an address"));
            assert_eq!(found.as_deref(), expected, "{address}");
        }
    }

    #[test]
    fn old_probes_are_forgotten() {
        let probes = Probes::default();
        for n in 0..=REMEMBERED {
            probes.note(api::Probe { token: n.to_string(), sender: String::new(), mta_queue_id: None, size: 1 });
        }
        assert_eq!((probes.find("0"), probes.find("1").is_some()), (None, true));
    }
}
