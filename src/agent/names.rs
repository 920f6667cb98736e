//! Names: looks up what is due, has the store do what follows, and answers who asks whether an address is a key's.
//!
//! What is to be looked up and when is in the store, so that a restart changes nothing; what a finding means is decided by
//! [`crate::engine::trust`]. Look-ups happen when a contact is made or refreshed, not for each mail.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::contacts::Contacts;
use super::courier;
use crate::config::Incoming;
use crate::dns::{Report, Resolver};
use crate::engine::trust::{Policy, Verdict};
use crate::identity::name::finding::{Finding, Found, Proof};
use crate::identity::name::record;
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::lane::invite::Invitation;
use crate::mail::address::Address;
use crate::store::{Accepted, Answer, Because, Reader, Settled};

/// How many look-ups run at a time.
const AT_ONCE: usize = 8;
/// How long one look-up may take with all its questions; less than toxctl waits for an answer.
const LIMIT: Duration = Duration::from_secs(25);
/// The longest pause between two looks at what is due.
const LOOK: Duration = Duration::from_secs(60);
/// The pause after what a look-up found could not be recorded.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// How many look-ups of authors' addresses one contact may cause in an hour.
const AUTHORS: usize = 10;
const AUTHORS_PER: Duration = Duration::from_secs(3600);
/// How many of their names may be pinned to one contact by its own mail.
const AUTHORS_PINNED: usize = 20;
/// How many such look-ups may keep mail waiting at a time; there are more threads to deliver than that.
const AUTHORS_AT_ONCE: usize = 4;
/// How long mail may be kept waiting for one.
const AUTHOR_LIMIT: Duration = Duration::from_secs(10);
/// How long the answer is kept that there was none.
const AUTHOR_FAILED: Duration = Duration::from_secs(60);

/// How the agent uses names.
pub struct Names {
    /// What the configuration says of them.
    pub settings: RwLock<Arc<Settings>>,
    /// The contacts.
    pub contacts: Contacts,
    /// Their Tox IDs, by account.
    pub ids: Mutex<Vec<ToxId>>,
    /// For readers of the store.
    pub state_dir: PathBuf,
    /// Where look-ups run.
    pub runtime: Runtime,
    /// To be notified when something may be due.
    pub wake: Arc<Notify>,
    /// What was looked up for authors, by account and contact.
    pub authors: Mutex<HashMap<(usize, PublicKey), Vec<Author>>>,
    /// How many look-ups for authors are under way.
    pub looking: AtomicUsize,
    /// Who introduces accounts to those who were found.
    pub courier: courier::Handle,
}

/// What the configuration says of names.
pub struct Settings {
    /// Asks the DNS; absent where names are not looked up.
    pub resolver: Option<Resolver>,
    /// About answers without proof, and about new names.
    pub policy: Policy,
    /// Whose requests are accepted without asking.
    pub incoming: Incoming,
    /// How long until a pinned name is looked up again, in milliseconds; 0: only when asked to.
    pub refresh: i64,
    /// The longest time between two look-ups of a name, in milliseconds.
    pub horizon: i64,
}

/// The answer to one question about an author's address.
pub struct Author {
    address: String,
    at: Instant,
    /// How long the answer is good.
    keep: Duration,
    doubt: Option<&'static str>,
}

/// How an address of an account stands in the DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The address.
    pub address: String,
    /// The line for the zone; absent where the address is no name of the DNS.
    pub record: Option<String>,
    /// Whether it leads here.
    pub correct: bool,
    /// What was found, for people.
    pub text: String,
}

impl Names {
    fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes by other settings from now on; look-ups under way end as they began.
    pub fn change(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.wake.notify_one();
    }

    /// Looks up `address`.
    pub async fn look_up(&self, address: &Address) -> Report {
        let failed = |text: &str| Report::new(Finding::Failed(text.into()), "none", Vec::new());
        match &self.settings().resolver {
            Some(resolver) => match tokio::time::timeout(LIMIT, resolver.look_up(address)).await {
                Ok(report) => report,
                Err(_) => failed("the DNS did not answer all questions in time"),
            },
            None => failed("names are not looked up: names.lookup is false, or a proxy is set"),
        }
    }

    /// As [`Names::look_up`], for threads that may block.
    pub fn look_up_now(&self, address: &Address) -> Report {
        self.runtime.block_on(self.look_up(address))
    }

    /// Pins `address` to `key`, whose request the operator has accepted, if it leads there, proved by DNSSEC.
    pub async fn pin_if_proved(self: Arc<Self>, account: usize, address: Address, key: PublicKey) {
        let Some(found) = self.leads_to(&address, &key).await else { return };
        let pinned = tokio::task::spawn_blocking(move || {
            let settled = self.settled(account, &address);
            if let Err(error) = self.contacts.store.confirm(settled, found, Because::Accepted) {
                log::error!("cannot pin {address}: {error}");
            }
        });
        let _ = pinned.await;
    }

    /// What the store needs besides a finding.
    pub fn settled(&self, account: usize, address: &Address) -> Settled {
        Settled {
            account: self.contacts.directory.accounts()[account].name.clone(),
            address: address.lowered(),
            message: self.contacts.message(account, None),
            now_s: self.contacts.now_s(),
            refresh: self.settings().refresh,
            own: self.id(account),
            invitation: None,
        }
    }

    /// Looks up what is due and answers requests, until `stopped` holds true.
    pub async fn run(
        self: Arc<Self>,
        mut asked: mpsc::Receiver<(usize, PublicKey)>,
        mut stopped: watch::Receiver<bool>,
    ) {
        if self.settings().resolver.is_some() {
            let names = self.clone();
            tokio::spawn(async move { names.tell_published().await });
        }
        let mut running: JoinSet<()> = JoinSet::new();
        let mut under_way: HashMap<tokio::task::Id, (String, String)> = HashMap::new();
        loop {
            let pause = self.start_due(&mut running, &mut under_way).await;
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = running.join_next_with_id() => {
                    under_way.remove(&ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                request = asked.recv() => match request {
                    Some((account, key)) => {
                        let names = self.clone();
                        tokio::spawn(async move { names.answer(account, key).await });
                    }
                    None => break,
                },
            }
        }
        running.abort_all();
    }

    /// Starts look-ups that are due, as many as may run, and tells how long until the next one is.
    async fn start_due(
        self: &Arc<Self>,
        running: &mut JoinSet<()>,
        under_way: &mut HashMap<tokio::task::Id, (String, String)>,
    ) -> Duration {
        let names = self.clone();
        let due = blocking(move || {
            let now = names.contacts.clock.queue_ms();
            let reader = Reader::open(&names.state_dir)?;
            let horizon = now.saturating_add(names.settings().horizon);
            Ok((reader.due_names(now, horizon)?, reader.next_lookup(now, horizon)?.map(|next| next - now)))
        });
        let Some((due, next)) = due.await else { return LOOK };
        for name in due {
            if under_way.len() >= AT_ONCE {
                break;
            }
            // Those of an account that is not configured any more wait for it to come back.
            let Some(at) = self.contacts.directory.account(&name.0) else { continue };
            let Ok(address) = name.1.parse::<Address>() else { continue };
            if under_way.values().any(|other| *other == name) {
                continue;
            }
            let names = self.clone();
            let task = running.spawn(async move { names.settle(at, address).await });
            under_way.insert(task.id(), name);
        }
        next.and_then(|wait| u64::try_from(wait).ok()).map_or(LOOK, Duration::from_millis).min(LOOK)
    }

    /// Looks up one name and does what follows.
    async fn settle(self: Arc<Self>, account: usize, address: Address) {
        let report = self.look_up(&address).await;
        let invitation = invitation(&address, &report);
        let finding = self.not_own(account, &address, report.finding);
        let blocking_part = move || {
            let invitation = invitation.map(|invitation| invitation.to_string());
            let settled = Settled { invitation, ..self.settled(account, &address) };
            let name = settled.account.clone();
            match self.contacts.store.settle(settled, finding, self.settings().policy) {
                Ok(Verdict::Ask(_, refusal)) => log::warn!("{name}: {}", refusal.text()),
                Ok(Verdict::Changed(_, refusal)) => log::error!("{name}: {}", refusal.text()),
                Ok(Verdict::Keep(text)) => log::warn!("{name}: {address} stays as it is: {text}"),
                Ok(Verdict::Wait(refusal) | Verdict::Denied(refusal)) => log::warn!("{name}: {refusal}"),
                Ok(Verdict::Same(_) | Verdict::Pin(_) | Verdict::Refuse(_)) => {}
                Err(error) => {
                    log::error!("{name}: cannot record what {address} leads to: {error}");
                    return false;
                }
            }
            true
        };
        if tokio::task::spawn_blocking(blocking_part).await.unwrap_or(false) {
            return;
        }
        // The name is due still: the DNS must not be asked as fast as the store can fail.
        tokio::time::sleep(AFTER_FAILURE).await;
    }

    /// A name of the account's own is no contact of it.
    pub fn not_own(&self, account: usize, address: &Address, finding: Finding) -> Finding {
        let own = self.contacts.directory.accounts()[account].key;
        match finding {
            Finding::Found(found) if found.id.key() == own => Finding::Nothing {
                proved: true,
                text: format!("{address} leads to this account itself: let the MTA deliver it here"),
            },
            finding => finding,
        }
    }

    /// A stranger has asked: looks whether the address he claims is his, if that decides anything, and accepts him if so.
    async fn answer(self: Arc<Self>, account: usize, key: PublicKey) {
        if self.settings().incoming == Incoming::Ask {
            return;
        }
        let name = self.contacts.directory.accounts()[account].name.clone();
        let names = self.clone();
        let of = name.clone();
        let request = blocking(move || Ok(Reader::open(&names.state_dir)?.request(&of, &key)?)).await.flatten();
        // One that was proved and is open still: the agent ended before it could accept it.
        let Some(request) = request.filter(|request| request.answer == Answer::Open && request.verified != Some(false))
        else {
            return;
        };
        let claim = request.claim.and_then(|claim| claim.parse::<Address>().ok());
        let (verified, certain) = match &claim {
            Some(address) => match self.look_up(address).await.finding {
                Finding::Found(found) if found.id.key() == key && found.proof == Proof::Secure => (Some(found), true),
                Finding::Found(_) | Finding::Nothing { proved: true, .. } => (None, true),
                // When he asks again, it is looked up again.
                Finding::Nothing { .. } | Finding::Failed(_) => (None, false),
            },
            None => (None, false),
        };
        let accept = self.settings().incoming == Incoming::All || verified.is_some();
        let _ = tokio::task::spawn_blocking(move || {
            if certain {
                self.contacts.store.request_verified(&name, key, verified.is_some());
            }
            if !accept {
                return;
            }
            match self.contacts.accept_open(account, key) {
                Ok(true) => log::info!("{name}: friend request of {key} accepted (names.incoming)"),
                // The operator was faster.
                Ok(false) => return,
                Err(error) => {
                    log::error!("{name}: cannot accept the friend request of {key}: {error}");
                    return;
                }
            }
            if let (Some(found), Some(address)) = (verified, claim)
                && let Err(error) = self.contacts.store.confirm(self.settled(account, &address), found, Because::Proof)
            {
                log::error!("{name}: cannot pin {address}: {error}");
            }
        })
        .await;
    }

    /// What `address` leads to, if that is `key`, proved by DNSSEC.
    pub async fn leads_to(&self, address: &Address, key: &PublicKey) -> Option<Found> {
        match self.look_up(address).await.finding {
            Finding::Found(found) if found.id.key() == *key && found.proof == Proof::Secure => Some(found),
            _ => None,
        }
    }

    /// Why an author's address that is not pinned to the contact is none of the contact's; `None` if a look-up proves that
    /// it is, which is then pinned. `pinned` is how many others are. One contact causes a bounded number of look-ups.
    pub fn doubt(
        self: &Arc<Self>,
        account: usize,
        key: &PublicKey,
        address: &Address,
        pinned: usize,
    ) -> Option<&'static str> {
        const NOT_THIS: Option<&str> = Some("From is not an address of this peer");
        const TOO_MANY: Option<&str> = Some("From was not looked up, too many names from this peer");
        if self.settings().resolver.is_none() {
            return NOT_THIS;
        }
        let (of, text) = (address.lowered(), address.lowered().to_string());
        let accounts = self.contacts.directory.accounts();
        let name = &accounts[account].name;
        let known = Reader::open(&self.state_dir).and_then(|reader| reader.name(name, &text)).ok().flatten();
        if known.and_then(|known| known.pin).is_some_and(|pin| pin.key != *key) {
            return Some("From is pinned to another key");
        }
        {
            let mut authors = self.authors.lock().unwrap_or_else(PoisonError::into_inner);
            let asked = authors.entry((account, *key)).or_default();
            asked.retain(|author| author.at.elapsed() < AUTHORS_PER);
            let good = |author: &&Author| author.address == text && author.at.elapsed() < author.keep;
            if let Some(author) = asked.iter().find(good) {
                return author.doubt;
            }
            if asked.len() >= AUTHORS || pinned >= AUTHORS_PINNED {
                return TOO_MANY;
            }
            if self.looking.fetch_add(1, Ordering::Relaxed) >= AUTHORS_AT_ONCE {
                self.looking.fetch_sub(1, Ordering::Relaxed);
                return Some("From was not looked up, too many others are");
            }
            // Noted before the answer is there, so that many mails at once ask once.
            let doubt = Some("From is still being looked up");
            asked.push(Author { address: text.clone(), at: Instant::now(), keep: AUTHORS_PER, doubt });
        }
        // On a thread of the runtime: validating goes deeper than the stack of a thread that delivers.
        let (names, asked) = (self.clone(), of.clone());
        let look_up = async move { tokio::time::timeout(AUTHOR_LIMIT, names.look_up(&asked)).await };
        let looked_up = self.runtime.block_on(self.runtime.spawn(look_up));
        self.looking.fetch_sub(1, Ordering::Relaxed);
        let finding = match looked_up {
            Ok(Ok(report)) => report.finding,
            Ok(Err(_)) | Err(_) => Finding::Failed("no answer in time".into()),
        };
        let mut keep = AUTHORS_PER;
        let doubt = match finding {
            Finding::Found(found) if found.id.key() == *key && found.proof == Proof::Secure => {
                // Never looked up again by itself: a contact must not cause look-ups for ever.
                let settled = Settled { refresh: 0, ..self.settled(account, &of) };
                match self.contacts.store.confirm(settled, found, Because::Proof) {
                    Ok(Accepted::Pinned) => None,
                    Ok(Accepted::OtherKey(_)) => Some("From is pinned to another key"),
                    _ => NOT_THIS,
                }
            }
            Finding::Found(found) if found.id.key() == *key => Some("From leads to this peer, without DNSSEC"),
            Finding::Found(_) => Some("From leads to another key"),
            Finding::Nothing { .. } => NOT_THIS,
            Finding::Failed(_) => {
                keep = AUTHOR_FAILED;
                Some("From could not be looked up")
            }
        };
        // What is proved is pinned from now on, and asked for here only once it is not any more.
        let kept = doubt.or(Some("From was an address of this peer a short time ago"));
        let mut authors = self.authors.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = authors.entry((account, *key)).or_default();
        if let Some(author) = asked.iter_mut().rev().find(|author| author.address == text) {
            (author.doubt, author.keep) = (kept, keep);
        }
        doubt
    }

    /// The Tox ID of an account.
    pub fn id(&self, account: usize) -> ToxId {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)[account]
    }

    /// An account has a new Tox ID.
    pub fn set_id(&self, account: usize, id: ToxId) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)[account] = id;
    }

    /// How the addresses of an account stand in the DNS, where its invitation should be told, too, if it has one.
    pub async fn published(&self, account: usize) -> Vec<Published> {
        let (id, courier) = (self.id(account), self.courier.clone());
        let told = tokio::task::spawn_blocking(move || courier.told(account, id)).await.ok().flatten();
        // Without relays it leads nowhere.
        let more = told.as_ref().filter(|told| !told.relays.is_empty()).map(Invitation::fields).unwrap_or_default();
        let accounts = self.contacts.directory.accounts();
        let addresses = &accounts[account].reachable;
        let reports = futures_util::future::join_all(addresses.iter().map(|address| self.look_up(address))).await;
        let mut all = Vec::with_capacity(addresses.len());
        for (address, report) in addresses.iter().zip(reports) {
            let record = record::zone_line(address, &id, &more).ok();
            let invitation = invitation(address, &report);
            let told_there = invitation.is_some();
            let lost = invitation.is_some_and(|invitation| told.as_ref().is_none_or(|told| !invitation.reaches(told)));
            let (correct, text) = match report.finding {
                Finding::Found(found) if found.id == id && lost => {
                    (false, "leads here, but its invitation is not yours any more: it leads nowhere".to_owned())
                }
                Finding::Found(found) if found.id == id => {
                    let signed = match found.proof {
                        Proof::Secure if more.is_empty() || told_there => "signed",
                        Proof::Secure => "signed, without your invitation",
                        // Nor does an invitation count there.
                        Proof::Insecure => "not signed: others must confirm the key by hand",
                    };
                    (true, format!("leads here ({}, {signed})", found.method))
                }
                Finding::Found(found) if found.id.key() == id.key() => {
                    (false, "leads to this key with an old nospam: friend requests do not arrive".to_owned())
                }
                Finding::Found(found) => (false, format!("leads to another Tox ID, {}", found.id)),
                Finding::Nothing { text, .. } | Finding::Failed(text) => (false, text),
            };
            all.push(Published { address: address.to_string(), record, correct, text });
        }
        all
    }

    /// At the start: what is published, in the log.
    async fn tell_published(&self) {
        for (account, own) in self.contacts.directory.accounts().iter().enumerate() {
            for published in self.published(account).await.into_iter().filter(|published| published.record.is_some()) {
                let Published { address, correct, text, .. } = published;
                if correct {
                    log::info!("{}: {address} {text}", own.name);
                } else {
                    log::warn!("{}: {address} has no good record: {text} (toxctl name record {})", own.name, own.name);
                }
            }
        }
    }
}

/// The invitation that was found with a Tox ID. One that cannot be read takes nothing from the ID.
pub fn invitation(address: &Address, report: &Report) -> Option<Invitation> {
    let (Finding::Found(found), Some(record)) = (&report.finding, &report.invitation) else { return None };
    match Invitation::from_record(found.id, record)? {
        Ok(invitation) => Some(invitation),
        Err(error) => {
            log::warn!("{address}: in its record {error}");
            None
        }
    }
}

/// Runs what reads the store where it may block; `None`, with a log line, when that fails.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Some(value),
        Ok(Err(error)) => {
            log::error!("cannot read the names: {error}");
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::name::finding::{Method, Via};
    use crate::lane::keys::{InviteCode, MailSecret, RelayKey};
    use crate::lane::offer::RelayRef;

    #[test]
    fn an_invitation_that_cannot_be_read_takes_nothing_from_the_tox_id() {
        let (address, id): (Address, _) =
            ("bob@example.org".parse().expect("good"), ToxId::new(PublicKey([1; 32]), [1; 4]));
        let told = Invitation {
            id,
            bits: 20,
            code: InviteCode([2; 16]),
            key: MailSecret::new(&mut [3; 32]).public(),
            relays: vec![RelayRef { id, key: RelayKey([4; 32]) }],
        };
        let found = Found { id, via: Via::Name, method: Method::Tox1, proof: Proof::Secure };
        let report = |record: Option<String>| Report {
            invitation: record.map(String::into_bytes),
            ..Report::new(Finding::Found(found), "secure", Vec::new())
        };
        let record = format!("{};{}", record::write(&id), told.fields());
        assert_eq!(invitation(&address, &report(Some(record.clone()))), Some(told));
        for record in [None, Some(record.replace("inv=", "inv=b")), Some(record.replace(";r=", ";s="))] {
            let report = report(record);
            assert_eq!(invitation(&address, &report), None);
            assert_eq!(report.finding, Finding::Found(found));
        }
    }
}
