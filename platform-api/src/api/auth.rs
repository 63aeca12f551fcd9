//! Lets in whom [`access::decide`] lets in. A route that is not in the table does not exist; one that is needs what the table says.
//!
//! What a caller may do is looked at anew for every request, and again while an answer is still on its way: a stream, or a reply that
//! waits for something, ends as soon as its caller could not ask for it any more.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, Query, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt;
use tokio::sync::watch;
use tracing::warn;
use wharf_types::api::{AUTHORITIES_HEADER, SERVERS_HEADER, Verb};
use wharf_types::exec;
use wharf_types::problem::ProblemCode;
use wharf_types::{NamespaceName, NodeId, Problem, Timestamp};

use super::parameters::Parameters;
use super::{ApiError, ApiResult, audit, conditions, git};
use crate::access::{self, Access, Caller, Denied};
use crate::context::{Context, hash_secret};
use crate::pace;
use crate::store::{self, StoreError};

/// The longest that a stream goes on without a look at the clock of its token.
const LOOK: Duration = Duration::from_secs(3600);

#[derive(Clone)]
pub(super) struct Guard {
    pub(super) context: Arc<Context>,
    pub(super) access: Access,
    /// The query parameters that the route knows.
    pub(super) query: Parameters,
    /// The header fields that it knows beside those of every request.
    pub(super) headers: Parameters,
    /// Whether it is for git: see [`Endpoint::speaks_git`](super::routes::Endpoint::speaks_git).
    pub(super) speaks_git: bool,
    /// What the route is called where changes are recorded.
    pub(super) action: Arc<str>,
}

/// Who calls. Handlers of routes for users can take it out of the request.
#[derive(Clone, Debug)]
pub(super) struct Identity(Arc<Caller>);

impl Deref for Identity {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl Identity {
    /// Asks for what a route with [`Access::Body`] needs, about a namespace of the body.
    pub(super) fn demand(&self, verb: Verb, namespace: &NamespaceName) -> ApiResult<()> {
        self.asked(Access::User(verb), Some(namespace.as_str()))
    }

    /// The same about all namespaces, also those to come.
    pub(super) fn demand_everywhere(&self, verb: Verb) -> ApiResult<()> {
        self.asked(Access::Cluster(verb), None)
    }

    fn asked(&self, access: Access, namespace: Option<&str>) -> ApiResult<()> {
        access::decide(access, self, namespace).map_err(|denied| explain(denied, self, namespace))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Identity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        parts.extensions.get().cloned().ok_or_else(|| {
            ApiError::new(ProblemCode::Internal, "this address asks who calls, but lets anybody in")
        })
    }
}

pub(super) async fn authorize(
    State(guard): State<Guard>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !guard.speaks_git {
        return admit(guard, params, request, next).await;
    }
    let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let is_git = agent.is_some_and(|agent| agent.starts_with("git/"));
    let refused = match admit(guard, params, request, next).await {
        Err(refused) => refused,
        // A handler's problem has its words in the answer's extensions.
        Ok(answer) => match answer.extensions().get::<audit::Refusal>() {
            Some(audit::Refusal(problem)) => Problem::clone(problem).into(),
            None => return Ok(answer),
        },
    };
    Ok(git::refusal(refused, is_git))
}

async fn admit(
    guard: Guard,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match guard.access {
        Access::Public => {
            conditions::read(request.headers(), guard.headers)?;
            return Ok(next.run(request).await);
        }
        Access::Joining => {
            authorize_joining(&guard.context, request.headers()).await?;
            conditions::read(request.headers(), guard.headers)?;
            return Ok(next.run(request).await);
        }
        Access::Node => {
            match request.extensions().get::<PeerNode>().copied() {
                Some(PeerNode(peer)) => authorize_peer(&guard.context, peer, params).await?,
                None => authorize_node(&guard.context, request.headers()).await?,
            }
            conditions::read(request.headers(), guard.headers)?;
            let told = told_of_cluster(&guard.context, &request);
            let mut answer = next.run(request).await;
            answer.headers_mut().extend(told);
            return Ok(answer);
        }
        Access::Anyone
        | Access::Own
        | Access::User(_)
        | Access::Asked(_)
        | Access::Body(_)
        | Access::Cluster(_) => {}
    }
    let secret_hash = secret_hash(&guard.context, request.headers())?;
    let namespace = wanted_namespace(guard.access, params, &request)?;
    // Before the first look, so that no change falls in between.
    let changes = guard.context.access_changes();
    let looked_at = *changes.borrow();
    let mut pass =
        Pass { context: guard.context, access: guard.access, secret_hash, namespace, changes, looked_at };
    let (caller, refusal) = pass.show().await?;
    let changes_something = !request.method().is_safe();
    let record = changes_something
        .then(|| audit::request_of(&caller, guard.action, pass.namespace.as_deref(), &request));
    if let Some(refusal) = refusal {
        if let Some(record) = record {
            audit::refuse(&pass.context, &record, refusal.detail()).await;
        }
        return Err(refusal);
    }
    if changes_something {
        pass.context.pace.take(&caller).map_err(|wait| too_many(&caller, wait))?;
    }
    check_query(&request, guard.query)?;
    let conditions = conditions::read(request.headers(), guard.headers)?;
    let expires_at = caller.token.expires_at;
    request.extensions_mut().insert(Identity(caller));
    // What changes something is not broken off half way.
    if let Some(mut record) = record {
        record.conditions = conditions;
        let record = Arc::new(record);
        let response = crate::audit::scope(record.clone(), next.run(request)).await;
        let refusal = response.extensions().get::<audit::Refusal>().cloned();
        audit::note_refusal(&pass.context, &record, refusal).await;
        return Ok(end_with(response, pass, expires_at));
    }
    let response = tokio::select! {
        response = next.run(request) => response,
        refusal = pass.lost(expires_at) => return Err(refusal),
    };
    Ok(end_with(response, pass, expires_at))
}

/// The namespace that the request is about, as the client wrote it.
fn wanted_namespace(
    access: Access,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: &Request,
) -> ApiResult<Option<String>> {
    let params =
        params.map_err(|rejection| ApiError::new(ProblemCode::InvalidRequest, rejection.body_text()))?;
    if let Some((_, namespace)) = params.iter().find(|(name, _)| *name == "namespace") {
        return Ok(Some(namespace.to_owned()));
    }
    if !matches!(access, Access::Asked(_)) {
        return Ok(None);
    }
    let given = query(request)?;
    Ok(given.into_iter().find(|(name, _)| name == "namespace").map(|(_, namespace)| namespace))
}

/// What a request came in with, to be shown again while it is answered.
struct Pass {
    context: Arc<Context>,
    access: Access,
    secret_hash: String,
    namespace: Option<String>,
    changes: watch::Receiver<u64>,
    /// How many changes there had been at the last look.
    looked_at: u64,
}

impl Pass {
    /// Who has it, and why that is not enough, if it is not.
    async fn show(&self) -> ApiResult<(Arc<Caller>, Option<ApiError>)> {
        let caller = authenticate(&self.context, &self.secret_hash).await?;
        let namespace = self.namespace.as_deref();
        let denied = access::decide(self.access, &caller, namespace).err();
        let refusal = denied.map(|denied| explain(denied, &caller, namespace));
        Ok((caller, refusal))
    }

    /// Waits until it is good for nothing any more, and says why.
    async fn lost(&mut self, expires_at: Option<Timestamp>) -> ApiError {
        loop {
            let left = expires_at.map(|at| Duration::try_from(at.duration_since(Timestamp::now())));
            let left = left.map_or(LOOK, |left| left.unwrap_or(Duration::ZERO).min(LOOK));
            // Whoever waits here may be dropped between a change and the look that follows it, and asks again later: the change
            // counts as seen only after the look.
            let looked_at = self.looked_at;
            let newest = tokio::select! {
                changed = self.changes.wait_for(|count| *count != looked_at) => match changed {
                    Ok(count) => *count,
                    Err(_) => {
                        return ApiError::new(ProblemCode::Unavailable, "the control plane is stopping");
                    }
                },
                () = tokio::time::sleep(left) => looked_at,
            };
            match self.show().await {
                Ok((_, None)) => self.looked_at = newest,
                Ok((_, Some(refusal))) | Err(refusal) => return refusal,
            }
        }
    }
}

/// Only what has no end of its own is watched; everything else has been answered already.
fn end_with(response: Response, mut pass: Pass, expires_at: Option<Timestamp>) -> Response {
    let content_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let goes_on = |kind: &[u8]| kind.starts_with(b"text/event-stream") || kind == exec::MEDIA_TYPE.as_bytes();
    if !content_type.is_some_and(goes_on) {
        return response;
    }
    let lost = async move {
        pass.lost(expires_at).await;
    };
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(lost))))
}

fn query(request: &Request) -> ApiResult<Vec<(String, String)>> {
    match Query::<Vec<(String, String)>>::try_from_uri(request.uri()) {
        Ok(Query(given)) => Ok(given),
        Err(rejection) => Err(ApiError::new(ProblemCode::InvalidRequest, rejection.body_text())),
    }
}

/// A parameter that nobody looks at would be a wish that is silently not granted.
fn check_query(request: &Request, known: Parameters) -> ApiResult<()> {
    let given = query(request)?;
    let Some((unknown, _)) = given.iter().find(|(name, _)| known.iter().all(|known| known.name != name))
    else {
        return Ok(());
    };
    let shown: String = unknown.chars().take(60).collect();
    let names: Vec<String> = known.iter().map(|known| format!("`{}`", known.name)).collect();
    let takes = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let detail = format!("the query parameter `{shown}` is not known here; this address takes {takes}");
    Err(ApiError::new(ProblemCode::InvalidRequest, detail))
}

pub(super) fn namespace_not_found(namespace: &str) -> ApiError {
    let shown: String = namespace.chars().take(60).collect();
    ApiError::new(ProblemCode::NotFound, format!("there is no namespace `{shown}`"))
}

/// Whose token it is, for people.
fn whose(caller: &Caller) -> String {
    let token = &caller.token;
    match &token.user {
        Some(user) => format!("the token `{}` of `{user}`", token.name),
        None => format!("the token `{}`", token.name),
    }
}

fn too_many(caller: &Caller, wait: Duration) -> ApiError {
    let whose = match &caller.token.user {
        Some(user) => format!("`{user}`"),
        None => whose(caller),
    };
    let detail = format!(
        "{whose} has asked for more than {} changes a second for a while, which is the most; nothing was done, so send this again after the \
         seconds of `Retry-After`",
        pace::PER_SECOND
    );
    ApiError::busy(detail, wait)
}

fn explain(denied: Denied, caller: &Caller, namespace: Option<&str>) -> ApiError {
    let token = &caller.token;
    let whose = whose(caller);
    let detail = match denied {
        // As if it did not exist: who is not in a namespace learns nothing of it.
        Denied::NoNamespace => return namespace_not_found(namespace.unwrap_or_default()),
        Denied::Role { needed, has } => {
            format!("this needs the role `{}`, and {whose} has `{}`", needed.as_str(), has.as_str())
        }
        Denied::Verb(verb) => {
            let verbs: Vec<_> = token.verbs.iter().map(|verb| format!("`{}`", verb.as_str())).collect();
            format!("this is `{}`, and {whose} is limited to {}", verb.as_str(), verbs.join(", "))
        }
        Denied::NotCluster => match &token.namespace {
            Some(bound) => format!("{whose} is bound to the namespace `{bound}`; this concerns all of them"),
            None => format!(
                "this concerns the whole platform, and {whose} only the user's namespaces; ask a cluster admin"
            ),
        },
        Denied::Limited => format!(
            "{whose} is limited to a namespace, a role or verbs, and such a token makes and revokes no tokens; use one of yours without limits"
        ),
        Denied::NotAWorker => "this address is for workers, not for user tokens".to_owned(),
    };
    ApiError::new(ProblemCode::Forbidden, detail)
}

/// The worker at the other end of the connection, by its certificate.
#[derive(Clone, Copy)]
pub(crate) struct PeerNode(pub(crate) NodeId);

/// Takes note of which CAs a worker believes, and says which it should, and where the servers are.
fn told_of_cluster(context: &Context, request: &Request) -> HeaderMap {
    let mut told = HeaderMap::new();
    let Some(joining) = context.joining.get().filter(|_| context.config.speaks.knows(2)) else { return told };
    let Some(PeerNode(node)) = request.extensions().get() else { return told };
    if let Some(tag) = request.headers().get(AUTHORITIES_HEADER).and_then(|tag| tag.to_str().ok()) {
        joining.authorities.hear(*node, tag);
    }
    let words = [
        (AUTHORITIES_HEADER, HeaderValue::try_from(&joining.authorities.current().tag)),
        (SERVERS_HEADER, HeaderValue::try_from(context.known.servers.with(&joining.address))),
    ];
    told.extend(
        words.into_iter().filter_map(|(name, said)| Some((HeaderName::from_static(name), said.ok()?))),
    );
    told
}

/// Whether there is such a join token. What it is still good for is the handler's to find out.
async fn authorize_joining(context: &Context, headers: &HeaderMap) -> ApiResult<()> {
    let hash = hash_secret(bearer(headers)?);
    let mut conn = context.store.look().await?;
    if store::joining::find(&mut conn, &hash).await?.is_some() {
        return Ok(());
    }
    warn!("a host that wants to join was refused: its join token is not known here");
    let detail = "the join token is not known here: it was revoked, or is of another cluster; `wharf node token create` makes another";
    Err(ApiError::new(ProblemCode::Unauthenticated, detail))
}

/// A worker speaks for itself only, and no longer when it was removed.
async fn authorize_peer(
    context: &Context,
    peer: NodeId,
    params: Result<RawPathParams, RawPathParamsRejection>,
) -> ApiResult<()> {
    let named = params.ok().and_then(|params| {
        params.iter().find(|(name, _)| *name == "node").map(|(_, value)| value.to_owned())
    });
    if named.is_some_and(|named| named.parse() != Ok(peer)) {
        let detail = format!("this is node {peer}, by its certificate, and speaks for no other");
        return Err(ApiError::new(ProblemCode::Forbidden, detail));
    }
    // Workers are the leader's; whoever asks another server goes on to the next.
    context.epoch()?;
    let read = async {
        let mut conn = context.store.look().await?;
        let is_member = store::joining::is_member(&mut conn, peer).await?;
        Ok::<_, StoreError>(is_member.then_some(()))
    };
    if context.known.members.or_read(&context.store, peer, read).await?.is_some() {
        return Ok(());
    }
    let detail = format!(
        "node {peer} was removed from the cluster, or never joined; to bring its host back, join with a new token: `wharf node token create`"
    );
    Err(ApiError::new(ProblemCode::Forbidden, detail))
}

async fn authorize_node(context: &Context, headers: &HeaderMap) -> ApiResult<()> {
    let hash = hash_secret(bearer(headers)?);
    if hash == context.node_secret_hash {
        return Ok(());
    }
    let mut tx = context.store.read().await?;
    match store::token::find_by_hash(&mut tx, &hash).await? {
        Some(_) => {
            Err(ApiError::new(ProblemCode::Forbidden, "this address is for workers, not for user tokens"))
        }
        None => Err(unknown_token()),
    }
}

fn secret_hash(context: &Context, headers: &HeaderMap) -> ApiResult<String> {
    let hash = hash_secret(&secret_of(headers)?);
    if hash == context.node_secret_hash {
        return Err(ApiError::new(ProblemCode::Forbidden, "a worker's token does not open this address"));
    }
    Ok(hash)
}

/// Whose the token is, and what its user is now.
async fn authenticate(context: &Context, secret_hash: &str) -> ApiResult<Arc<Caller>> {
    let read = async {
        let mut conn = context.store.look().await?;
        let Some(store::token::Token { info: token, owner }) =
            store::token::find_by_hash(&mut conn, secret_hash).await?
        else {
            return Ok(None);
        };
        let memberships = match owner {
            Some(owner) => store::member::of_user(&mut conn, owner).await?,
            None => Vec::new(),
        };
        Ok::<_, StoreError>(Some(Arc::new(Caller { token, owner, memberships })))
    };
    let found = context.known.callers.or_read(&context.store, secret_hash.to_owned(), read).await?;
    let caller = found.ok_or_else(unknown_token)?;
    let token = &caller.token;
    if let Some(at) = token.expires_at.filter(|at| *at <= Timestamp::now()) {
        let detail = format!(
            "the token `{}` expired at {at}; ask an admin for a new one, and log in with it: `wharf login`",
            token.name
        );
        return Err(ApiError::new(ProblemCode::TokenExpired, detail));
    }
    Ok(caller)
}

/// A user's token: a bearer token, or, as git sends it, a password.
pub(super) fn secret_of(headers: &HeaderMap) -> ApiResult<Cow<'_, str>> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let password = value.and_then(|value| {
        let (scheme, encoded) = value.split_once(' ')?;
        let decoded = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(encoded.trim()))?;
        let text = String::from_utf8(decoded.ok()?).ok()?;
        Some(text.split_once(':')?.1.to_owned())
    });
    match password {
        Some(password) if !password.is_empty() => Ok(Cow::Owned(password)),
        _ => bearer(headers).map(Cow::Borrowed),
    }
}

pub(super) fn bearer(headers: &HeaderMap) -> ApiResult<&str> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let secret = value.and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
    });
    secret.filter(|secret| !secret.is_empty()).ok_or_else(|| {
        ApiError::new(
            ProblemCode::Unauthenticated,
            "send a token as `Authorization: Bearer …`; `wharf login` does, or set WHARF_TOKEN",
        )
    })
}

fn unknown_token() -> ApiError {
    ApiError::new(
        ProblemCode::Unauthenticated,
        "this token is not known here: it was revoked, or is for another platform; log in again with `wharf login`",
    )
}
