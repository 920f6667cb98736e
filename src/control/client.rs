//! A blocking client of the control socket, for toxctl.

use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use super::api::{
    Accept, AcceptKey, ApiError, AskInvitation, Blocked, Contact, ContactDetails, Flush, Flushed, FriendRequest,
    Invitation, Invited, Lookup, Name, NewContact, NewId, NewInvite, Owner, Probe, QueuePage, QueueStep, Record,
    Refreshed, Refuse, Refused, Relays, Reloaded, Rename, Selection, Status, Touched, UseRelay, UsedRelay,
};

/// The largest answer taken, in octets.
const MAX_ANSWER: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens on the socket.
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The socket cannot be opened by this user.
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The agent said no.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        error: ApiError,
    },
    /// What answered was not understood, or did not answer to the end.
    Broken(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { socket, cause } => {
                write!(f, "tox-agent is not running ({}: {cause}): systemctl start tox-agent", socket.display())
            }
            Self::Denied { socket } => {
                write!(
                    f,
                    "you may not open {}: run this as root or as a member of the socket's group",
                    socket.display()
                )
            }
            Self::Refused { error, .. } => match &error.hint {
                Some(hint) => write!(f, "{} ({hint})", error.error),
                None => f.write_str(&error.error),
            },
            Self::Broken(text) => write!(f, "tox-agent gave no proper answer: {text}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// A client; each call opens a connection of its own.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    runtime: Runtime,
}

impl Client {
    /// A client of the agent at `socket`. Does not connect yet. A call may take 60 s.
    ///
    /// # Errors
    /// The system has no file descriptors left.
    pub fn new(socket: &Path) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket: socket.to_owned(), timeout: Duration::from_secs(60), runtime })
    }

    /// How the agent is.
    ///
    /// # Errors
    /// As of all calls: the agent is not there, or says no.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status", &[])
    }

    /// Figures for monitoring, in the text format of OpenMetrics.
    ///
    /// # Errors
    /// As of all calls.
    pub fn metrics(&self) -> Result<String, ClientError> {
        let octets = self.call(Method::GET, "/metrics", Bytes::new())?;
        String::from_utf8(octets.to_vec()).map_err(|_| ClientError::Broken("metrics that are no text".into()))
    }

    /// The probe mail with this token, once it has come from the MTA.
    ///
    /// # Errors
    /// As of all calls, other than that it has not come.
    pub fn probe(&self, token: &str) -> Result<Option<Probe>, ClientError> {
        match self.get(&format!("/v1/probes/{}", escaped(token)), &[]) {
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// The contacts of `account`, or all.
    ///
    /// # Errors
    /// As of all calls.
    pub fn contacts(&self, account: Option<&str>) -> Result<Vec<Contact>, ClientError> {
        self.get("/v1/contacts", &[("account", account)])
    }

    /// Asks for friendship.
    ///
    /// # Errors
    /// As of all calls.
    pub fn add_contact(&self, contact: &NewContact) -> Result<Contact, ClientError> {
        decode(&self.call(Method::POST, "/v1/contacts", body(contact)?)?)
    }

    /// All that is known of a contact: key, Tox ID, nick or address.
    ///
    /// # Errors
    /// As of all calls.
    pub fn contact(&self, account: Option<&str>, who: &str) -> Result<ContactDetails, ClientError> {
        self.get(&format!("/v1/contacts/{}", escaped(who)), &[("account", account)])
    }

    /// Gives a contact another nickname.
    ///
    /// # Errors
    /// As of all calls.
    pub fn rename_contact(&self, account: Option<&str>, who: &str, rename: &Rename) -> Result<Contact, ClientError> {
        let path = format!("/v1/contacts/{}/rename{}", escaped(who), query(&[("account", account)]));
        decode(&self.call(Method::POST, &path, body(rename)?)?)
    }

    /// Puts a contact or a key on the block list, or takes it off.
    ///
    /// # Errors
    /// As of all calls.
    pub fn block(&self, account: Option<&str>, who: &str, blocked: bool) -> Result<(), ClientError> {
        let verb = if blocked { "block" } else { "unblock" };
        let path = format!("/v1/contacts/{}/{verb}{}", escaped(who), query(&[("account", account)]));
        self.call(Method::POST, &path, Bytes::new()).map(drop)
    }

    /// The names of `account`, or all.
    ///
    /// # Errors
    /// As of all calls.
    pub fn names(&self, account: Option<&str>) -> Result<Vec<Name>, ClientError> {
        self.get("/v1/names", &[("account", account)])
    }

    /// Pins the key that a name was found to lead to.
    ///
    /// # Errors
    /// As of all calls.
    pub fn accept_key(&self, account: Option<&str>, address: &str, key: &AcceptKey) -> Result<Name, ClientError> {
        let path = format!("/v1/names/{}/accept-key{}", escaped(address), query(&[("account", account)]));
        decode(&self.call(Method::POST, &path, body(key)?)?)
    }

    /// The block list of `account`, or of all accounts.
    ///
    /// # Errors
    /// As of all calls.
    pub fn blocked(&self, account: Option<&str>) -> Result<Vec<Blocked>, ClientError> {
        self.get("/v1/blocked", &[("account", account)])
    }

    /// Has names looked up again: all, or those of one contact or address.
    ///
    /// # Errors
    /// As of all calls.
    pub fn refresh(&self, account: Option<&str>, who: Option<&str>) -> Result<Refreshed, ClientError> {
        let path = format!("/v1/names/refresh{}", query(&[("account", account), ("who", who)]));
        decode(&self.call(Method::POST, &path, Bytes::new())?)
    }

    /// Where an address leads by the DNS now.
    ///
    /// # Errors
    /// As of all calls.
    pub fn look_up(&self, address: &str) -> Result<Lookup, ClientError> {
        self.get(&format!("/v1/lookup/{}", escaped(address)), &[])
    }

    /// How the addresses of `account`, or of all accounts, stand in the DNS.
    ///
    /// # Errors
    /// As of all calls.
    pub fn records(&self, account: Option<&str>) -> Result<Vec<Record>, ClientError> {
        self.get("/v1/records", &[("account", account)])
    }

    /// Forgets a contact: key, Tox ID, nick or address.
    ///
    /// # Errors
    /// As of all calls.
    pub fn remove_contact(&self, account: Option<&str>, who: &str) -> Result<(), ClientError> {
        let path = format!("/v1/contacts/{}{}", escaped(who), query(&[("account", account)]));
        self.call(Method::DELETE, &path, Bytes::new()).map(drop)
    }

    /// The friend requests of `account`, or all.
    ///
    /// # Errors
    /// As of all calls.
    pub fn requests(&self, account: Option<&str>) -> Result<Vec<FriendRequest>, ClientError> {
        self.get("/v1/requests", &[("account", account)])
    }

    /// Accepts the friend request of `key`.
    ///
    /// # Errors
    /// As of all calls.
    pub fn accept_request(&self, account: Option<&str>, key: &str, accept: &Accept) -> Result<Contact, ClientError> {
        let path = format!("/v1/requests/{}/accept{}", escaped(key), query(&[("account", account)]));
        decode(&self.call(Method::POST, &path, body(accept)?)?)
    }

    /// Refuses the friend request of `key`.
    ///
    /// # Errors
    /// As of all calls.
    pub fn refuse_request(&self, account: Option<&str>, key: &str, refuse: &Refuse) -> Result<Refused, ClientError> {
        let path = format!("/v1/requests/{}/refuse{}", escaped(key), query(&[("account", account)]));
        decode(&self.call(Method::POST, &path, body(refuse)?)?)
    }

    /// A page of at most `limit` waiting mails, those after the queue id `after`.
    ///
    /// # Errors
    /// As of all calls.
    pub fn queue(&self, account: Option<&str>, after: Option<&str>, limit: usize) -> Result<QueuePage, ClientError> {
        let limit = limit.to_string();
        self.get("/v1/queue", &[("account", account), ("after", after), ("limit", Some(&limit))])
    }

    /// Has the configuration read again.
    ///
    /// # Errors
    /// As of all calls.
    pub fn reload(&self) -> Result<Reloaded, ClientError> {
        decode(&self.call(Method::POST, "/v1/reload", Bytes::new())?)
    }

    /// Makes waiting mail due now.
    ///
    /// # Errors
    /// As of all calls.
    pub fn flush(&self, what: &Flush) -> Result<Flushed, ClientError> {
        decode(&self.call(Method::POST, "/v1/queue/flush", body(what)?)?)
    }

    /// Puts waiting mail on hold, releases or deletes it.
    ///
    /// # Errors
    /// As of all calls.
    pub fn change_queue(&self, step: QueueStep, what: &Selection) -> Result<Touched, ClientError> {
        let verb = match step {
            QueueStep::Hold => "hold",
            QueueStep::Release => "release",
            QueueStep::Delete => "delete",
        };
        decode(&self.call(Method::POST, &format!("/v1/queue/{verb}"), body(what)?)?)
    }

    /// Gives an account a Tox ID with a new nospam.
    ///
    /// # Errors
    /// As of all calls.
    pub fn rotate_nospam(&self, account: Option<&str>) -> Result<NewId, ClientError> {
        let path = format!("/v1/nospam/rotate{}", query(&[("account", account)]));
        decode(&self.call(Method::POST, &path, Bytes::new())?)
    }

    /// The relay that the agent is, and those that `account`, or all accounts, use.
    ///
    /// # Errors
    /// As of all calls.
    pub fn relays(&self, account: Option<&str>) -> Result<Relays, ClientError> {
        self.get("/v1/relays", &[("account", account)])
    }

    /// Has mail for an account wait at a relay.
    ///
    /// # Errors
    /// As of all calls.
    pub fn use_relay(&self, what: &UseRelay) -> Result<UsedRelay, ClientError> {
        decode(&self.call(Method::POST, "/v1/relays", body(what)?)?)
    }

    /// Uses a relay no more: its text, its key or the first 16 digits of that.
    ///
    /// # Errors
    /// As of all calls.
    pub fn forget_relay(&self, account: Option<&str>, relay: &str) -> Result<(), ClientError> {
        let path = format!("/v1/relays/{}{}", escaped(relay), query(&[("account", account)]));
        self.call(Method::DELETE, &path, Bytes::new()).map(drop)
    }

    /// By what strangers may introduce themselves to an account.
    ///
    /// # Errors
    /// As of all calls.
    pub fn invitation(&self, what: &AskInvitation) -> Result<Invitation, ClientError> {
        decode(&self.call(Method::POST, "/v1/invitation", body(what)?)?)
    }

    /// Makes an invite to the relay that the agent is.
    ///
    /// # Errors
    /// As of all calls.
    pub fn invite(&self, what: &NewInvite) -> Result<Invited, ClientError> {
        decode(&self.call(Method::POST, "/v1/relay/invites", body(what)?)?)
    }

    /// The owners at the relay that the agent is.
    ///
    /// # Errors
    /// As of all calls.
    pub fn owners(&self) -> Result<Vec<Owner>, ClientError> {
        self.get("/v1/relay/owners", &[])
    }

    /// Removes an owner, by its key.
    ///
    /// # Errors
    /// As of all calls.
    pub fn remove_owner(&self, key: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, &format!("/v1/relay/owners/{}", escaped(key)), Bytes::new()).map(drop)
    }

    fn get<T: DeserializeOwned>(&self, path: &str, pairs: &[(&str, Option<&str>)]) -> Result<T, ClientError> {
        decode(&self.call(Method::GET, &format!("{path}{}", query(pairs)), Bytes::new())?)
    }

    fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let answer = async {
            let late = |_| ClientError::Broken(format!("none within {} s", self.timeout.as_secs()));
            tokio::time::timeout(self.timeout, self.exchange(method, path, body)).await.map_err(late)?
        };
        self.runtime.block_on(answer)
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
        let stream = UnixStream::connect(&self.socket).await.map_err(|cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket: self.socket.clone() },
            _ => ClientError::NotRunning { socket: self.socket.clone(), cause },
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Errors of the connection come back by the request, too.
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Broken(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let limited = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let octets = limited.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes();
        connection.abort();
        if status.is_success() {
            return Ok(octets);
        }
        let error = serde_json::from_slice(&octets)
            .map_err(|_| ClientError::Broken(format!("HTTP status {status} without a reason")))?;
        Err(ClientError::Refused { status: status.as_u16(), error })
    }
}

fn body<T: Serialize>(value: &T) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| ClientError::Broken(error.to_string()))
}

fn decode<T: DeserializeOwned>(octets: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(octets).map_err(|error| ClientError::Broken(error.to_string()))
}

/// `text` with all but RFC 3986's unreserved characters escaped.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &octet in text.as_bytes() {
        if octet.is_ascii_alphanumeric() || b"-_~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            // Dots as well: `.` and `..` mean something in a path.
            let _ = write!(out, "%{octet:02X}");
        }
    }
    out
}

/// The query of those `pairs` that have a value, with its `?`.
fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if let Some(value) = value {
            let _ = write!(out, "{}{name}={}", if out.is_empty() { '?' } else { '&' }, escaped(value));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_escaped() {
        assert_eq!(escaped("a/b ?.é"), "a%2Fb%20%3F%2E%C3%A9");
        assert_eq!(query(&[("a", None), ("b", Some("x&y")), ("c", Some("1"))]), "?b=x%26y&c=1");
        assert_eq!(query(&[("a", None)]), "");
    }

    #[test]
    fn an_agent_that_does_not_run_is_told() {
        let client = Client::new(Path::new("/nonexistent/control.sock")).expect("client");
        let error = client.status().expect_err("nobody").to_string();
        assert!(error.starts_with("tox-agent is not running (/nonexistent/control.sock: "), "{error}");
        assert!(error.ends_with("systemctl start tox-agent"), "{error}");
    }
}
