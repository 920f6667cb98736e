//! Names in the DNS: asks for the records by which an address leads to a Tox ID, and tells how far the answer is proved.
//!
//! Owns the resolver (hickory-resolver, always validating) and the order of the questions; what the records say is read by
//! [`crate::identity::name`], and what follows from a finding is decided by [`crate::engine::trust`]. Nothing is cached: a
//! name is looked up when a contact is made or refreshed, and then the present is wanted.
//!
//! One trap is shut here for good: a resolver that strips DNSSEC makes everything bogus, never merely "insecure".

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::dnssec::{Proof as DnsProof, TrustAnchors};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record as DnsRecord, RecordType};

use tokio::time::error::Elapsed;

use crate::identity::name::finding::{Finding, Found, Method, Proof, Via};
use crate::identity::name::query::{self, Query};
use crate::identity::name::record::{self, NoId, Record};
use crate::identity::name::signature::{self, Verdict};
use crate::identity::name::tox3;
use crate::identity::tox_id::ToxId;
use crate::mail::address::Address;

/// Where the system's DNS servers are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How many CNAME records are followed.
const MAX_CHAIN: usize = 8;
/// The domains of the historic name services. Their owners changed; whoever has them now decides who a name is.
const TOXME: [&str; 2] = ["toxme.se", "toxme.io"];

/// How names are looked up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The servers; empty: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// DNSKEY records of the root, in a file, in place of the built-in ones.
    pub trust_anchor: Option<std::path::PathBuf>,
    /// How long one query may take.
    pub timeout: Duration,
    /// Whether `toxme.se` and `toxme.io` may be asked.
    pub allow_toxme: bool,
    /// What the operator knows of domains.
    pub domains: Vec<Domain>,
}

/// Keys of a domain, from the configuration.
#[derive(Debug, Clone)]
pub struct Domain {
    /// In lower case.
    pub name: String,
    /// X25519 key of its tox3 server.
    pub tox3_key: Option<[u8; 32]>,
    /// Ed25519 key that its records must be signed with.
    pub sign_key: Option<[u8; 32]>,
}

/// One question of a look-up, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The name asked, absolute.
    pub query: String,
    /// The type asked for.
    pub kind: &'static str,
    /// What came back, for people: `answer`, `no such name`, `SERVFAIL`, …
    pub outcome: String,
    /// `secure`, `insecure`, `bogus`, or `none` where nothing came that could be proved.
    pub proof: &'static str,
    /// The texts of the TXT records.
    pub records: Vec<String>,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// A whole look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it comes to.
    pub finding: Finding,
    /// The weakest proof that decided: as in [`Step::proof`].
    pub proof: &'static str,
    /// The record that led to the Tox ID, if it tells an invitation, and DNSSEC proves all of it: whoever could forge one
    /// could read what is sealed for its owner.
    pub invitation: Option<Vec<u8>>,
    /// Each question.
    pub steps: Vec<Step>,
}

impl Report {
    /// A look-up that brought no invitation.
    pub fn new(finding: Finding, proof: &'static str, steps: Vec<Step>) -> Self {
        Self { finding, proof, invitation: None, steps }
    }

    /// With the record if it tells an invitation, where that may be believed.
    fn with(mut self, record: Option<Vec<u8>>) -> Self {
        self.invitation =
            record.filter(|_| matches!(&self.finding, Finding::Found(found) if found.proof == Proof::Secure));
        self
    }
}

/// Looks names up.
pub struct Resolver {
    /// Made when it is first needed, and anew when `/etc/resolv.conf` has changed: a laptop moves from net to net.
    inner: Mutex<Option<(Option<SystemTime>, TokioResolver)>>,
    anchors: Option<Arc<TrustAnchors>>,
    options: Options,
    /// For each domain with a tox3 key, the state of its encrypted queries.
    tox3: Mutex<Vec<(String, tox3::Client)>>,
}

/// What a node of the DNS says of an address.
enum Asked {
    /// There is no Tox record: the domain's may be meant.
    Absent { proved: bool, text: String },
    /// It is the answer, whatever it is worth, and the record if it tells an invitation.
    Told(Finding, Option<Vec<u8>>),
}

/// What one TXT query brought.
enum Answer {
    Texts(Vec<Vec<u8>>, Proof),
    Nothing { proved: bool, text: String },
    Bogus,
    Failed(String),
}

impl Resolver {
    /// A resolver. Asks nothing yet.
    ///
    /// # Errors
    /// The trust anchor cannot be read.
    pub fn new(mut options: Options) -> anyhow::Result<Self> {
        let anchors = options.trust_anchor.as_deref().map(anchors).transpose()?.map(Arc::new);
        options.domains.iter_mut().for_each(|domain| domain.name = ascii(&domain.name));
        Ok(Self { inner: Mutex::new(None), anchors, options, tox3: Mutex::new(Vec::new()) })
    }

    /// The resolver for the servers as they are now. The error is for the user.
    fn inner(&self) -> Result<TokioResolver, String> {
        let system = self.options.servers.is_empty();
        let changed = system.then(|| std::fs::metadata(RESOLV_CONF).and_then(|file| file.modified()).ok()).flatten();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match &*inner {
            Some((made, resolver)) if *made == changed => return Ok(resolver.clone()),
            _ => {}
        }
        let resolver = self.build().map_err(|error| format!("no DNS server is known: {error:#}"))?;
        *inner = Some((changed, resolver.clone()));
        Ok(resolver)
    }

    fn build(&self) -> anyhow::Result<TokioResolver> {
        let servers = &self.options.servers;
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().context(format!("cannot read {RESOLV_CONF}"))?
        } else {
            let server = |at: &SocketAddr| {
                let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
                (udp.port, tcp.port) = (at.port(), at.port());
                // With several servers, one that denies what another has is not believed at once.
                NameServerConfig::new(at.ip(), servers.len() == 1, vec![udp, tcp])
            };
            let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let settings = builder.options_mut();
        settings.timeout = self.options.timeout;
        settings.attempts = 1;
        settings.use_hosts_file = ResolveHosts::Never;
        settings.case_randomization = true;
        settings.preserve_intermediates = true;
        settings.cache_size = 0;
        settings.validate = true;
        if let Some(anchors) = &self.anchors {
            builder = builder.with_trust_anchor(anchors.clone());
        }
        builder.build().context("cannot make a resolver")
    }

    /// Looks up where `address` leads: its own name first, then its domain's. Never fails: what goes wrong is a finding.
    pub async fn look_up(&self, address: &Address) -> Report {
        let mut steps = Vec::new();
        let ascii = ascii(address.domain());
        if TOXME.contains(&ascii.as_str()) && !self.options.allow_toxme {
            let text = format!(
                "{} was a public name service that closed in 2016 to 2019: whoever owns the domain now would decide who \
                 {address} is. Ask for the Tox ID (toxctl contact add TOX-ID), or set names.allow_toxme",
                address.domain()
            );
            return Report::new(Finding::Nothing { proved: true, text }, "none", steps);
        }
        let own = match Query::of_address(address) {
            Ok(query) => query,
            Err(error) => {
                let finding = Finding::Nothing { proved: true, text: format!("{address}: {error}") };
                return Report::new(finding, "none", steps);
            }
        };
        let domain = self.options.domains.iter().find(|domain| domain.name == ascii);
        if let Some((domain, key)) = domain.and_then(|domain| Some((domain, domain.tox3_key?))) {
            let (finding, proof) = self.ask_tox3(address, &domain.name, key, &mut steps).await;
            return Report::new(finding, proof, steps);
        }
        let sign_key = domain.and_then(|domain| domain.sign_key);
        let (first, proof) = self.ask(address, &own, Via::Name, sign_key, &mut steps).await;
        let (first_proved, first_text) = match first {
            Asked::Absent { proved, text } => (proved, text),
            Asked::Told(finding, record) => return Report::new(finding, proof, steps).with(record),
        };
        let whole = match Query::of_domain(address.domain()) {
            Ok(query) => query,
            Err(error) => {
                let finding = Finding::Nothing { proved: first_proved, text: format!("{first_text}; {error}") };
                return Report::new(finding, proof, steps);
            }
        };
        let (second, second_proof) = self.ask(address, &whole, Via::Domain, sign_key, &mut steps).await;
        let (second, record) = match second {
            Asked::Absent { proved, text } => (Finding::Nothing { proved, text }, None),
            Asked::Told(finding, record) => (finding, record),
        };
        match second {
            // The denial of the name itself is part of the way to the domain's record.
            Finding::Found(mut found) => {
                if !first_proved {
                    found.proof = Proof::Insecure;
                }
                Report::new(Finding::Found(found), word(found.proof), steps).with(record)
            }
            Finding::Nothing { proved, .. } => {
                let proved = proved && first_proved;
                let proof = if proved { "secure" } else { "insecure" };
                Report::new(Finding::Nothing { proved, text: first_text }, proof, steps)
            }
            failed @ Finding::Failed(_) => Report::new(failed, second_proof, steps),
        }
    }

    async fn ask(
        &self,
        address: &Address,
        query: &Query,
        via: Via,
        sign_key: Option<[u8; 32]>,
        steps: &mut Vec<Step>,
    ) -> (Asked, &'static str) {
        let told = |finding| (Asked::Told(finding, None), "none");
        let texts = match self.texts(query, steps).await {
            Ok((Answer::Texts(texts, proof), _)) => (texts, proof),
            Ok((Answer::Nothing { proved, text }, proof)) => return (Asked::Absent { proved, text }, proof),
            Ok((Answer::Bogus, proof)) => {
                return (Asked::Told(Finding::Failed(self.why_bogus(address.domain(), steps).await), None), proof);
            }
            Ok((Answer::Failed(text), _)) => return told(Finding::Failed(text)),
            Err(text) => return told(Finding::Nothing { proved: true, text }),
        };
        let (texts, proof) = texts;
        let proved = proof == Proof::Secure;
        let absent = || (Asked::Absent { proved, text: format!("{query} has no Tox record") }, word(proof));
        let finding = match record::select(&texts) {
            Ok(Some(record)) => match (record.id(), sign_key) {
                (Ok(id), key) => key
                    .and_then(|key| signed(address, query, &id, record.sign(), &key))
                    .unwrap_or(Finding::Found(Found { id, via, method: Method::Tox1, proof })),
                (Err(NoId::DomainKey), _) => return absent(),
                (Err(why), _) => Finding::Nothing { proved, text: format!("{query}: {why}") },
            },
            Ok(None) => return absent(),
            Err(error) => Finding::Failed(format!("{query}: {error}")),
        };
        let invitation = match &finding {
            Finding::Found(found) => record::inviting(&texts, &found.id).map(<[u8]>::to_vec),
            Finding::Nothing { .. } | Finding::Failed(_) => None,
        };
        (Asked::Told(finding, invitation), word(proof))
    }

    /// Asks for TXT records. The error says why `query` is no name.
    async fn texts(&self, query: &Query, steps: &mut Vec<Step>) -> Result<(Answer, &'static str), String> {
        let name = absolute(&query.labels, &query.domain).map_err(|text| format!("{query}: {text}"))?;
        let start = Instant::now();
        // hickory's own limit counts for each attempt; this one for all of them, and the chain of keys.
        let limit = self.options.timeout * 2;
        let resolver = match self.inner() {
            Ok(resolver) => resolver,
            Err(text) => return Ok((Answer::Failed(text), "none")),
        };
        let result = tokio::time::timeout(limit, resolver.lookup(name.clone(), RecordType::TXT)).await;
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let result = self.without_alias(&resolver, &name, result).await;
        let (answer, outcome) = match result {
            Err(_) => (Answer::Failed(format!("{query}: the DNS did not answer in time")), "timeout".to_owned()),
            Ok(Ok(lookup)) => match collect(&name, lookup.answers()) {
                Collected::Texts(texts, proof) => (Answer::Texts(texts, proof), "answer".to_owned()),
                Collected::Nothing => (
                    Answer::Nothing { proved: false, text: format!("{query} has no TXT record") },
                    "no TXT record".to_owned(),
                ),
                Collected::Bogus => (Answer::Bogus, "bogus".to_owned()),
            },
            Ok(Err(error)) => failure(query, &error),
        };
        let (proof, records) = match &answer {
            Answer::Texts(texts, proof) => {
                (word(*proof), texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect())
            }
            Answer::Nothing { proved: true, .. } => ("secure", Vec::new()),
            Answer::Nothing { proved: false, .. } => ("insecure", Vec::new()),
            Answer::Bogus => ("bogus", Vec::new()),
            Answer::Failed(_) => ("none", Vec::new()),
        };
        steps.push(Step { query: name.to_string(), kind: "TXT", outcome, proof, records, ms });
        Ok((answer, proof))
    }

    /// A proof that nothing is there may be one about another name, to which an alias led that nobody has proved. So a denial
    /// counts as proved only if it is also proved that the name is no alias.
    async fn without_alias(
        &self,
        resolver: &TokioResolver,
        name: &Name,
        result: Result<Result<Lookup, NetError>, Elapsed>,
    ) -> Result<Result<Lookup, NetError>, Elapsed> {
        let Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) = &result else { return result };
        if !denial_proved(none) {
            return result;
        }
        let alias =
            tokio::time::timeout(self.options.timeout * 2, resolver.lookup(name.clone(), RecordType::CNAME)).await;
        let proved = match &alias {
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => denial_proved(none),
            // Only its first step is known here: further ones may be anybody's.
            Ok(Ok(_)) => false,
            _ => return alias,
        };
        if proved {
            return result;
        }
        let mut none = none.clone();
        none.authorities = None;
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none))))
    }

    /// Tells an attack or a broken zone from a resolver that passes no DNSSEC at all, by which everything is bogus.
    async fn why_bogus(&self, domain: &str, steps: &mut Vec<Step>) -> String {
        let start = Instant::now();
        let resolver = match self.inner() {
            Ok(resolver) => resolver,
            Err(text) => return text,
        };
        let root = tokio::time::timeout(self.options.timeout * 2, resolver.lookup(Name::root(), RecordType::SOA)).await;
        let passes = matches!(&root, Ok(Ok(lookup))
            if lookup.answers().iter().any(|record| record.proof == DnsProof::Secure));
        steps.push(Step {
            query: ".".into(),
            kind: "SOA",
            outcome: if passes { "answer" } else { "bogus" }.into(),
            proof: if passes { "secure" } else { "bogus" },
            records: Vec::new(),
            ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        if passes {
            format!("the answer for {domain} is bogus: its DNSSEC signatures are missing, broken or forged")
        } else {
            "your resolver does not pass DNSSEC: set names.resolver to one that does (unbound, knot-resolver, or a public \
             one)"
                .to_owned()
        }
    }

    /// The encrypted query of a domain whose server key is configured. What opens with that key is as good as signed.
    async fn ask_tox3(
        &self,
        address: &Address,
        domain: &str,
        key: [u8; 32],
        steps: &mut Vec<Step>,
    ) -> (Finding, &'static str) {
        let request = match self.tox3_request(address, domain, key) {
            Ok(request) => request,
            Err(text) => return (Finding::Failed(text), "none"),
        };
        let query = match request.query(domain) {
            Ok(query) => query,
            Err(error) => return (Finding::Nothing { proved: true, text: format!("{address}: {error}") }, "none"),
        };
        let texts = match self.texts(&query, steps).await {
            Ok((Answer::Texts(texts, _), _)) => texts,
            // That a name is not there cannot be proved to whoever asks for an encrypted one.
            Ok((Answer::Nothing { .. }, _)) => {
                let text = format!("the tox3 server of {domain} knows no {address}");
                return (Finding::Nothing { proved: false, text }, "none");
            }
            Ok((Answer::Bogus, _)) => return (Finding::Failed(self.why_bogus(domain, steps).await), "bogus"),
            Ok((Answer::Failed(text), _)) => return (Finding::Failed(text), "none"),
            Err(text) => return (Finding::Failed(text), "none"),
        };
        match record::select(&texts) {
            Ok(Some(Record::Tox3 { sealed })) => match self.tox3_open(domain, &request, &sealed) {
                Ok(id) => {
                    let found = Found { id, via: Via::Name, method: Method::Tox3, proof: Proof::Secure };
                    (Finding::Found(found), "secure")
                }
                Err(error) => {
                    (Finding::Failed(format!("the tox3 reply of {domain} is not to be believed: {error}")), "bogus")
                }
            },
            Ok(None) => {
                let text = format!("the tox3 server of {domain} knows no {address}");
                (Finding::Nothing { proved: false, text }, "none")
            }
            Ok(Some(_)) => (Finding::Failed(format!("{domain} did not answer with a tox3 record")), "none"),
            Err(error) => (Finding::Failed(format!("{domain}: {error}")), "none"),
        }
    }

    fn tox3_request(&self, address: &Address, domain: &str, key: [u8; 32]) -> Result<tox3::Request, String> {
        let mut clients = self.tox3.lock().unwrap_or_else(PoisonError::into_inner);
        for fresh in [false, true] {
            let at = clients.iter().position(|(name, _)| name == domain);
            let at = match at.filter(|_| !fresh) {
                Some(at) => at,
                None => {
                    clients.retain(|(name, _)| name != domain);
                    let mut random = zeroize::Zeroizing::new([0; 36]);
                    getrandom::fill(&mut random[..]).map_err(|_| "the system has no randomness".to_owned())?;
                    let mut secret = zeroize::Zeroizing::new([0; 32]);
                    secret.copy_from_slice(&random[..32]);
                    let counter = u32::from_le_bytes([random[32], random[33], random[34], random[35]]);
                    clients.push((domain.to_owned(), tox3::Client::new(key, *secret, counter)));
                    clients.len() - 1
                }
            };
            match clients[at].1.request(&address.local().to_ascii_lowercase()) {
                Ok(request) => return Ok(request),
                // The counter has gone all the way round: a new key pair.
                Err(tox3::RequestError::Exhausted) if !fresh => {}
                Err(error) => return Err(format!("{address}: {error}")),
            }
        }
        Err("no key pair for tox3".to_owned())
    }

    fn tox3_open(&self, domain: &str, request: &tox3::Request, sealed: &[u8; 54]) -> Result<ToxId, String> {
        let clients = self.tox3.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.iter().find(|(name, _)| name == domain).map(|(_, client)| client);
        let client = client.ok_or_else(|| "its key pair was replaced".to_owned())?;
        client.open(request, sealed).map_err(|error| error.to_string())
    }
}

fn anchors(path: &Path) -> anyhow::Result<TrustAnchors> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read names.trust_anchor {shown}"))?;
    let anchors: TrustAnchors = text
        .parse()
        .map_err(|error| anyhow::anyhow!("names.trust_anchor {shown} is no list of DNSKEY records: {error}"))?;
    anyhow::ensure!(!anchors.is_empty(), "names.trust_anchor {shown} holds no DNSKEY record");
    Ok(anchors)
}

/// With a configured signing key only a good signature counts; `None` if it is.
fn signed(address: &Address, query: &Query, id: &ToxId, sign: Option<&[u8]>, key: &[u8; 32]) -> Option<Finding> {
    let text = match sign.map(|sign| signature::verify(sign, key, &address.local().to_ascii_lowercase(), id)) {
        Some(Verdict::Valid) => return None,
        Some(Verdict::Stale) => "the signature belongs to an older record",
        Some(Verdict::Invalid) => "the signature is not by the domain's configured key",
        None => "the record is not signed, and names.domain has a sign_key for this domain",
    };
    Some(Finding::Failed(format!("{query}: {text}")))
}

fn word(proof: Proof) -> &'static str {
    match proof {
        Proof::Secure => "secure",
        Proof::Insecure => "insecure",
    }
}

/// The name of `labels` below `domain`, absolute, or else the search list would be tried.
fn absolute(labels: &[Vec<u8>], domain: &str) -> Result<Name, String> {
    let below = Name::from_labels(labels.iter().map(Vec::as_slice)).map_err(|error| error.to_string())?;
    // Full-width letters become plain ones here, and might make a name that is none of the DNS's.
    let ascii = Name::from_utf8(domain).map_err(|error| error.to_string())?.to_ascii();
    query::check_domain(ascii.trim_end_matches('.')).map_err(|error| error.to_string())?;
    let domain = Name::from_utf8(domain).map_err(|error| error.to_string())?;
    let mut name = below.append_domain(&domain).map_err(|error| error.to_string())?;
    name.set_fqdn(true);
    Ok(name)
}

enum Collected {
    Texts(Vec<Vec<u8>>, Proof),
    Nothing,
    Bogus,
}

/// The TXT records at the end of the CNAME chain from `name`, and the weakest proof of all records on the way. What else
/// the answer holds is not looked at.
fn collect(name: &Name, answers: &[DnsRecord]) -> Collected {
    let mut owner = name.clone();
    let mut weakest = DnsProof::Secure;
    for _ in 0..=MAX_CHAIN {
        let at_owner = || answers.iter().filter(|record| record.name == owner);
        let texts: Vec<&DnsRecord> = at_owner().filter(|record| matches!(record.data, RData::TXT(_))).collect();
        if !texts.is_empty() {
            weakest = texts.iter().map(|record| record.proof).fold(weakest, Ord::min);
            let proof = match weakest {
                DnsProof::Secure => Proof::Secure,
                DnsProof::Insecure => Proof::Insecure,
                DnsProof::Bogus | DnsProof::Indeterminate => return Collected::Bogus,
            };
            let joined = texts.iter().filter_map(|record| match &record.data {
                RData::TXT(text) => Some(text.txt_data.concat()),
                _ => None,
            });
            return Collected::Texts(joined.collect(), proof);
        }
        let Some(alias) = at_owner().find(|record| matches!(record.data, RData::CNAME(_))) else { break };
        weakest = weakest.min(alias.proof);
        let RData::CNAME(target) = &alias.data else { break };
        owner = target.0.clone();
    }
    Collected::Nothing
}

/// A domain as the DNS has it: other letters than ASCII's encoded (IDNA), in lower case.
fn ascii(domain: &str) -> String {
    let encoded = Name::from_utf8(domain).map(|name| name.to_ascii());
    encoded.unwrap_or_else(|_| domain.to_owned()).trim_end_matches('.').to_lowercase()
}

/// What an error means, and its name for people.
fn failure(query: &Query, error: &NetError) -> (Answer, String) {
    let nothing = |code: ResponseCode, proved: bool| {
        let text = match code {
            ResponseCode::NXDomain => format!("there is no {query} in the DNS"),
            _ => format!("{query} has no TXT record"),
        };
        let outcome = if code == ResponseCode::NXDomain { "no such name" } else { "no TXT record" };
        (Answer::Nothing { proved, text }, outcome.to_owned())
    };
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => nothing(none.response_code, denial_proved(none)),
        NetError::Dns(DnsError::Nsec { response, proof, .. }) if *proof != DnsProof::Bogus => {
            nothing(response.response_code, *proof == DnsProof::Secure)
        }
        NetError::Dns(DnsError::DnssecBogus | DnsError::Nsec { .. }) => (Answer::Bogus, "bogus".to_owned()),
        NetError::Dns(DnsError::ResponseCode(code)) => {
            (Answer::Failed(format!("{query}: the DNS server says {code}")), code.to_string())
        }
        NetError::Timeout => (Answer::Failed(format!("{query}: the DNS did not answer in time")), "timeout".to_owned()),
        other => {
            (Answer::Failed(format!("{query}: the DNS server gave no proper answer ({other})")), other.to_string())
        }
    }
}

/// Whether all records that deny are proved. An NSEC3 record with opt-out leaves room for names of unsigned zones (RFC 5155
/// section 9.2), and so proves nothing.
fn denial_proved(none: &NoRecords) -> bool {
    let opts_out =
        |record: &DnsRecord| matches!(&record.data, RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) if nsec3.opt_out());
    if none.authorities.iter().flat_map(|records| records.iter()).any(opts_out) {
        return false;
    }
    let proofs = none.authorities.iter().flat_map(|records| records.iter()).map(|record| record.proof);
    proofs.min() == Some(DnsProof::Secure)
}
