//! The server of the control socket.
//!
//! Who may use it is settled by the socket's file mode and the kernel's word on the peer's user. A browser cannot open
//! a Unix socket; should a proxy ever put one in reach of it, requests with an `Origin` or a `Host` other than
//! `localhost` are refused.

use std::future::{Future, IntoFuture};
use std::io;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path as UrlPath, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete as delete_method, get, post};
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use nix::unistd::geteuid;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep};

use super::api::{
    Accept, AcceptKey, ApiError, AskInvitation, Flush, NewContact, NewInvite, QueuePage, QueueStep, Refuse, Rename,
    Selection, UseRelay,
};
use super::{Backend, Failure};

/// The largest request body, in octets.
pub const MAX_BODY: usize = 64 << 10;
/// The largest (and the default) page of the queue, in mails.
pub const MAX_PAGE: usize = 1000;
/// How many connections of users who may not use the socket are answered at a time.
const STRANGERS: usize = 4;
/// How long requests may go on after the shutdown.
const GRACE: Duration = Duration::from_secs(5);

/// How the server behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The users who may use the socket besides root and the agent's own; `None`: whoever can open it.
    pub allow_uids: Option<Vec<u32>>,
    /// The most connections at once; more wait.
    pub max_connections: usize,
    /// How long one request may take; a connection may be silent for twice as long.
    pub request_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { allow_uids: None, max_connections: 64, request_timeout: Duration::from_secs(50) }
    }
}

/// Serves `backend` on `listener` until `shutdown` holds true (or its sender is gone) and requests under way are
/// answered, which they have 5 s for.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(
    listener: UnixListener,
    backend: Arc<dyn Backend>,
    options: Options,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let guarded = GuardedListener {
        listener: tokio::net::UnixListener::from_std(listener)?,
        permits: Arc::new(Semaphore::new(options.max_connections.max(1))),
        strangers: Arc::new(Semaphore::new(STRANGERS)),
        allow_uids: options.allow_uids.clone(),
        idle: options.request_timeout * 2,
    };
    let service = router(backend, options).into_make_service_with_connect_info::<Peer>();
    let stopped = |mut shutdown: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, and with it whoever would want this server.
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    let late = {
        let stopped = stopped(shutdown.clone());
        async move {
            stopped.await;
            tokio::time::sleep(GRACE).await;
        }
    };
    tokio::select! {
        result = axum::serve(guarded, service).with_graceful_shutdown(stopped(shutdown)).into_future() => result,
        () = late => Ok(()),
    }
}

fn router(backend: Arc<dyn Backend>, options: Options) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/v1/reload", post(reload))
        .route("/v1/probes/{token}", get(probe))
        .route("/v1/contacts", get(contacts).post(add_contact))
        .route("/v1/contacts/{who}", get(contact).delete(remove_contact))
        .route("/v1/contacts/{who}/rename", post(rename_contact))
        .route("/v1/contacts/{who}/block", post(block))
        .route("/v1/contacts/{who}/unblock", post(unblock))
        .route("/v1/blocked", get(blocked))
        .route("/v1/names", get(names))
        .route("/v1/names/refresh", post(refresh))
        .route("/v1/names/{address}/accept-key", post(accept_key))
        .route("/v1/lookup/{address}", get(look_up))
        .route("/v1/records", get(records))
        .route("/v1/requests", get(requests))
        .route("/v1/requests/{key}/accept", post(accept_request))
        .route("/v1/requests/{key}/refuse", post(refuse_request))
        .route("/v1/queue", get(queue))
        .route("/v1/queue/flush", post(flush))
        .route("/v1/queue/hold", post(hold))
        .route("/v1/queue/release", post(release))
        .route("/v1/queue/delete", post(delete))
        .route("/v1/nospam/rotate", post(rotate_nospam))
        .route("/v1/relays", get(relays).post(use_relay))
        .route("/v1/relays/{relay}", delete_method(forget_relay))
        .route("/v1/invitation", post(invitation))
        .route("/v1/relay/invites", post(invite))
        .route("/v1/relay/owners", get(owners))
        .route("/v1/relay/owners/{key}", delete_method(remove_owner))
        .fallback(|| async { Reply::new(StatusCode::NOT_FOUND, "the API has no such path") })
        .method_not_allowed_fallback(|| async {
            Reply::new(StatusCode::METHOD_NOT_ALLOWED, "the API's path has no such method")
        })
        .with_state(backend)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(options.request_timeout, in_time))
        .layer(from_fn(from_localhost))
        .layer(from_fn_with_state(options.allow_uids.map(Arc::from), allowed))
}

/// An answer that is no success.
struct Reply(StatusCode, ApiError);

impl Reply {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self(status, ApiError { error: error.into(), hint: None })
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        let status = match &failure {
            Failure::NotFound(_) => StatusCode::NOT_FOUND,
            Failure::Invalid(_) => StatusCode::BAD_REQUEST,
            Failure::Conflict(_) => StatusCode::CONFLICT,
            Failure::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, failure.to_string())
    }
}

impl From<JsonRejection> for Reply {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Reply {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// Where anyone who can open the socket is welcome, it does not matter who the kernel says it is.
fn may(allowed: Option<&[u32]>, own: u32, peer: Option<u32>) -> bool {
    let Some(allowed) = allowed else { return true };
    peer.is_some_and(|uid| uid == 0 || uid == own || allowed.contains(&uid))
}

async fn allowed(
    State(uids): State<Option<Arc<[u32]>>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if may(uids.as_deref(), geteuid().as_raw(), peer.uid) {
        return next.run(request).await;
    }
    let who = peer.uid.map_or_else(|| "an unknown user".to_owned(), |uid| format!("the user with number {uid}"));
    log::warn!("control: refused {who}");
    let hint = "allow_users of [control] in the agent's configuration says who may".to_owned();
    Reply(StatusCode::FORBIDDEN, ApiError { error: format!("{who} may not manage this agent"), hint: Some(hint) })
        .into_response()
}

async fn from_localhost(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let local = hosts.next().is_some_and(|host| host == "localhost") && hosts.next().is_none();
    if !local || request.headers().contains_key(header::ORIGIN) {
        return Reply::new(StatusCode::FORBIDDEN, "requests must have `Host: localhost` and no `Origin`")
            .into_response();
    }
    next.run(request).await
}

async fn in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Reply::new(
            StatusCode::GATEWAY_TIMEOUT,
            "the agent did not answer in time; it may do what was asked all the same",
        )
        .into_response(),
    }
}

type Agent = State<Arc<dyn Backend>>;

/// Asks the backend on a thread that may block.
async fn ask<T: Send + 'static>(
    State(backend): Agent,
    question: impl FnOnce(&dyn Backend) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Reply> {
    match tokio::task::spawn_blocking(move || question(backend.as_ref())).await {
        Ok(answer) => answer.map_err(Reply::from),
        Err(_) => Err(Reply::new(StatusCode::INTERNAL_SERVER_ERROR, "the agent failed; its log says more")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    account: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    account: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    account: Option<String>,
    who: Option<String>,
}

type Account = Result<Query<Of>, QueryRejection>;
type Body<T> = Result<Json<T>, JsonRejection>;

async fn status(agent: Agent) -> Result<Response, Reply> {
    Ok(Json(ask(agent, |agent| agent.status()).await?).into_response())
}

async fn metrics(agent: Agent) -> Result<Response, Reply> {
    let text = super::metrics::text(&ask(agent, |agent| agent.status()).await?);
    Ok(([(header::CONTENT_TYPE, super::metrics::CONTENT_TYPE)], text).into_response())
}

async fn reload(agent: Agent) -> Result<Response, Reply> {
    Ok(Json(ask(agent, |agent| agent.reload()).await?).into_response())
}

async fn probe(agent: Agent, UrlPath(token): UrlPath<String>) -> Result<Response, Reply> {
    Ok(Json(ask(agent, move |agent| agent.probe(&token)).await?).into_response())
}

async fn contacts(agent: Agent, of: Account) -> Result<Response, Reply> {
    let Query(of) = of?;
    Ok(Json(ask(agent, move |agent| agent.contacts(of.account.as_deref())).await?).into_response())
}

async fn add_contact(agent: Agent, body: Body<NewContact>) -> Result<Response, Reply> {
    let Json(contact) = body?;
    let added = ask(agent, move |agent| agent.add_contact(contact)).await?;
    Ok((StatusCode::CREATED, Json(added)).into_response())
}

async fn remove_contact(agent: Agent, UrlPath(who): UrlPath<String>, of: Account) -> Result<StatusCode, Reply> {
    let Query(of) = of?;
    ask(agent, move |agent| agent.remove_contact(of.account.as_deref(), &who)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn contact(agent: Agent, UrlPath(who): UrlPath<String>, of: Account) -> Result<Response, Reply> {
    let Query(of) = of?;
    Ok(Json(ask(agent, move |agent| agent.contact(of.account.as_deref(), &who)).await?).into_response())
}

async fn rename_contact(
    agent: Agent,
    UrlPath(who): UrlPath<String>,
    of: Account,
    body: Body<Rename>,
) -> Result<Response, Reply> {
    let (Query(of), Json(rename)) = (of?, body?);
    let renamed = ask(agent, move |agent| agent.rename_contact(of.account.as_deref(), &who, rename.nick)).await?;
    Ok(Json(renamed).into_response())
}

async fn block(agent: Agent, UrlPath(who): UrlPath<String>, of: Account) -> Result<StatusCode, Reply> {
    let Query(of) = of?;
    ask(agent, move |agent| agent.block(of.account.as_deref(), &who, true)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unblock(agent: Agent, UrlPath(who): UrlPath<String>, of: Account) -> Result<StatusCode, Reply> {
    let Query(of) = of?;
    ask(agent, move |agent| agent.block(of.account.as_deref(), &who, false)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn names(agent: Agent, of: Account) -> Result<Response, Reply> {
    let Query(of) = of?;
    Ok(Json(ask(agent, move |agent| agent.names(of.account.as_deref())).await?).into_response())
}

async fn refresh(agent: Agent, which: Result<Query<Which>, QueryRejection>) -> Result<Response, Reply> {
    let Query(which) = which?;
    let refreshed = ask(agent, move |agent| agent.refresh(which.account.as_deref(), which.who.as_deref())).await?;
    Ok(Json(refreshed).into_response())
}

async fn accept_key(
    agent: Agent,
    UrlPath(address): UrlPath<String>,
    of: Account,
    body: Body<AcceptKey>,
) -> Result<Response, Reply> {
    let (Query(of), Json(key)) = (of?, body?);
    let accept = move |agent: &dyn Backend| agent.accept_key(of.account.as_deref(), &address, key.tox_id.as_deref());
    Ok(Json(ask(agent, accept).await?).into_response())
}

async fn blocked(agent: Agent, of: Account) -> Result<Response, Reply> {
    let Query(of) = of?;
    Ok(Json(ask(agent, move |agent| agent.blocked(of.account.as_deref())).await?).into_response())
}

async fn look_up(agent: Agent, UrlPath(address): UrlPath<String>) -> Result<Response, Reply> {
    Ok(Json(ask(agent, move |agent| agent.look_up(&address)).await?).into_response())
}

async fn records(agent: Agent, of: Account) -> Result<Response, Reply> {
    let Query(of) = of?;
    Ok(Json(ask(agent, move |agent| agent.records(of.account.as_deref())).await?).into_response())
}

async fn requests(agent: Agent, of: Account) -> Result<Response, Reply> {
    let Query(of) = of?;
    Ok(Json(ask(agent, move |agent| agent.requests(of.account.as_deref())).await?).into_response())
}

async fn accept_request(
    agent: Agent,
    UrlPath(key): UrlPath<String>,
    of: Account,
    body: Body<Accept>,
) -> Result<Response, Reply> {
    let (Query(of), Json(accept)) = (of?, body?);
    let contact = ask(agent, move |agent| agent.accept_request(of.account.as_deref(), &key, accept.nick)).await?;
    Ok(Json(contact).into_response())
}

async fn refuse_request(
    agent: Agent,
    UrlPath(key): UrlPath<String>,
    of: Account,
    body: Body<Refuse>,
) -> Result<Response, Reply> {
    let (Query(of), Json(refuse)) = (of?, body?);
    let refused = ask(agent, move |agent| agent.refuse_request(of.account.as_deref(), &key, refuse.silent)).await?;
    Ok(Json(refused).into_response())
}

async fn queue(agent: Agent, page: Result<Query<Page>, QueryRejection>) -> Result<Response, Reply> {
    let Query(page) = page?;
    let limit = page.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let page = ask(agent, move |agent| {
        // One more than asked for tells whether there is a next page.
        let mut mails = agent.queue(page.account.as_deref(), page.after.as_deref(), limit + 1)?;
        let more = mails.len() > limit;
        mails.truncate(limit);
        let next = mails.last().filter(|_| more).map(|mail| mail.queue_id.clone());
        Ok(QueuePage { mails, next })
    });
    Ok(Json(page.await?).into_response())
}

async fn flush(agent: Agent, body: Body<Flush>) -> Result<Response, Reply> {
    let Json(what) = body?;
    Ok(Json(ask(agent, move |agent| agent.flush(what)).await?).into_response())
}

async fn change_queue(agent: Agent, step: QueueStep, body: Body<Selection>) -> Result<Response, Reply> {
    let Json(what) = body?;
    Ok(Json(ask(agent, move |agent| agent.change_queue(step, what)).await?).into_response())
}

async fn hold(agent: Agent, body: Body<Selection>) -> Result<Response, Reply> {
    change_queue(agent, QueueStep::Hold, body).await
}

async fn release(agent: Agent, body: Body<Selection>) -> Result<Response, Reply> {
    change_queue(agent, QueueStep::Release, body).await
}

async fn delete(agent: Agent, body: Body<Selection>) -> Result<Response, Reply> {
    change_queue(agent, QueueStep::Delete, body).await
}

async fn rotate_nospam(agent: Agent, of: Account) -> Result<Response, Reply> {
    let Query(of) = of?;
    Ok(Json(ask(agent, move |agent| agent.rotate_nospam(of.account.as_deref())).await?).into_response())
}

async fn relays(agent: Agent, of: Account) -> Result<Response, Reply> {
    let Query(of) = of?;
    Ok(Json(ask(agent, move |agent| agent.relays(of.account.as_deref())).await?).into_response())
}

async fn use_relay(agent: Agent, body: Body<UseRelay>) -> Result<Response, Reply> {
    let Json(what) = body?;
    let used = ask(agent, move |agent| agent.use_relay(what)).await?;
    Ok((StatusCode::CREATED, Json(used)).into_response())
}

async fn forget_relay(agent: Agent, UrlPath(relay): UrlPath<String>, of: Account) -> Result<StatusCode, Reply> {
    let Query(of) = of?;
    ask(agent, move |agent| agent.forget_relay(of.account.as_deref(), &relay)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn invitation(agent: Agent, body: Body<AskInvitation>) -> Result<Response, Reply> {
    let Json(what) = body?;
    Ok(Json(ask(agent, move |agent| agent.invitation(what)).await?).into_response())
}

async fn invite(agent: Agent, body: Body<NewInvite>) -> Result<Response, Reply> {
    let Json(what) = body?;
    let invited = ask(agent, move |agent| agent.invite(what)).await?;
    Ok((StatusCode::CREATED, Json(invited)).into_response())
}

async fn owners(agent: Agent) -> Result<Response, Reply> {
    Ok(Json(ask(agent, |agent| agent.owners()).await?).into_response())
}

async fn remove_owner(agent: Agent, UrlPath(key): UrlPath<String>) -> Result<StatusCode, Reply> {
    ask(agent, move |agent| agent.remove_owner(&key)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who is on the other side of a connection, by the kernel's word (SO_PEERCRED).
#[derive(Debug, Clone, Copy)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, GuardedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, GuardedListener>) -> Self {
        *stream.remote_addr()
    }
}

struct GuardedListener {
    listener: tokio::net::UnixListener,
    permits: Arc<Semaphore>,
    /// For those who are only told that they may not.
    strangers: Arc<Semaphore>,
    allow_uids: Option<Vec<u32>>,
    idle: Duration,
}

impl Listener for GuardedListener {
    type Io = GuardedStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (GuardedStream, Peer) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let peer = Peer { uid: stream.peer_cred().ok().map(|cred| cred.uid()) };
                    let permit = if may(self.allow_uids.as_deref(), geteuid().as_raw(), peer.uid) {
                        // Never closed, so there is a permit sooner or later.
                        self.permits.clone().acquire_owned().await.ok()
                    } else {
                        match self.strangers.clone().try_acquire_owned() {
                            Ok(permit) => Some(permit),
                            // They must not be in the way of those who may.
                            Err(_) => continue,
                        }
                    };
                    let timer = Box::pin(tokio::time::sleep(self.idle));
                    return (GuardedStream { stream, timer, idle: self.idle, _permit: permit }, peer);
                }
                Err(error) => {
                    // Out of file descriptors, most likely: a pause, not a busy loop.
                    log::warn!("control: cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { uid: None })
    }
}

/// A connection that counts against the limit and ends when it is silent for too long.
struct GuardedStream {
    stream: UnixStream,
    timer: Pin<Box<Sleep>>,
    idle: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl GuardedStream {
    fn watch<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            let idle = self.idle;
            self.timer.as_mut().reset(Instant::now() + idle);
            return poll;
        }
        self.timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.watch(cx, poll)
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, octets);
        self.watch(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
