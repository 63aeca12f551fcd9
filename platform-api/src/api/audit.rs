//! `/v1/audit`, and the record of each request that may change something.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json as Reply;
use axum::extract::{Request, State};
use serde::Deserialize;
use tracing::warn;
use wharf_types::api::{AuditRecord, Page};
use wharf_types::problem::ProblemCode;
use wharf_types::{NamespaceName, Problem, Timestamp, TokenId};

use super::ApiResult;
use super::auth::{Identity, namespace_not_found};
use super::extract::{Query, parse_cursor, place};
use crate::access::Caller;
use crate::audit;
use crate::context::Context;
use crate::reconcile::chain;
use crate::store::audit::Filter;
use crate::store::{self, Store};

/// Records of one page.
const PAGE: i64 = 200;
/// Refusals of one token that are recorded in a minute; more say nothing new, and would fill the log.
const REFUSALS_PER_MINUTE: u32 = 20;

#[derive(Deserialize)]
pub(super) struct AuditQuery {
    namespace: Option<NamespaceName>,
    actor: Option<String>,
    object: Option<String>,
    after: Option<Timestamp>,
    cursor: Option<String>,
}

pub(super) async fn list(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Query(query): Query<AuditQuery>,
) -> ApiResult<Reply<Page<AuditRecord>>> {
    let cursor = parse_cursor(query.cursor.as_deref())?.map_or(0, place);
    let mut tx = context.store.read().await?;
    let mut namespace_id = None;
    if let Some(name) = &query.namespace
        && !identity.is_cluster_wide()
    {
        // What was done in a namespace of this name that is gone was done to others.
        let Some(found) = store::namespace::find(&mut tx, name).await? else {
            return Err(namespace_not_found(name.as_str()));
        };
        namespace_id = Some(found.id);
    }
    let AuditQuery { namespace, actor, object, after, .. } = query;
    let filter = Filter { namespace, namespace_id, actor, object, after, cursor };
    let items = store::audit::list(&mut tx, &filter, PAGE).await?;
    let next_cursor =
        items.last().filter(|_| items.len() as i64 == PAGE).map(|record| record.seq.to_string());
    Ok(Reply(Page { items, next_cursor }))
}

/// Where a connection to the API comes from; the listener puts it into each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remote(pub(crate) SocketAddr);

/// What is recorded of a request, if it changes something or is refused.
pub(super) fn request_of(
    caller: &Caller,
    action: Arc<str>,
    namespace: Option<&str>,
    request: &Request,
) -> audit::Request {
    let remote = request.extensions().get::<Remote>().map(|remote| remote.0.ip().to_string());
    // A namespace that the caller does not reach is none of this record: its admins must not learn what others tried.
    let reached = namespace.filter(|namespace| caller.role_in(namespace).is_some());
    let object = object_of(request.uri().path(), reached.is_some());
    let reached = reached.and_then(|namespace| namespace.parse().ok());
    audit::Request::new((caller.token.clone(), caller.name()), remote, action, reached, object)
}

/// `apps/hello` of `/v1/namespaces/blue/apps/hello/scale`; without a namespace, `namespaces/blue` and the like.
fn object_of(path: &str, in_namespace: bool) -> String {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).skip(1).collect();
    if in_namespace && parts.len() > 2 {
        parts.drain(..2);
        parts.truncate(2);
    }
    parts.join("/").chars().take(200).collect()
}

/// How many refusals of each token were recorded in the current minute.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<(i64, HashMap<TokenId, u32>)>);

impl Refusals {
    /// Whether one more is to be recorded.
    fn admit(&self, token: TokenId, now: Timestamp) -> bool {
        let minute = now.as_second().div_euclid(60);
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != minute {
            *counted = (minute, HashMap::new());
        }
        let count = counted.1.entry(token).or_default();
        *count += 1;
        *count <= REFUSALS_PER_MINUTE
    }
}

/// Why a response is one of ours that refuses; put there by [`super::ApiError`].
#[derive(Clone, Debug)]
pub(super) struct Refusal(pub(super) Arc<Problem>);

/// Records it if the request was refused: by role, by what limits the token, or by a quota.
pub(super) async fn note_refusal(context: &Context, request: &audit::Request, refusal: Option<Refusal>) {
    let Some(Refusal(problem)) = refusal else { return };
    if matches!(problem.code, ProblemCode::Forbidden | ProblemCode::QuotaExceeded) {
        refuse(context, request, &problem.detail).await;
    }
}

pub(super) async fn refuse(context: &Context, request: &audit::Request, detail: &str) {
    let now = Timestamp::now();
    if !context.refusals.admit(request.token.id, now) {
        return;
    }
    if let Err(error) = append(&context.store, request, detail, now).await {
        warn!("a refusal cannot be recorded in the audit log: {}", chain(&error));
    }
}

async fn append(store: &Store, request: &audit::Request, detail: &str, now: Timestamp) -> store::Result<()> {
    let mut tx = store.write().await?;
    request.refused(&mut tx, detail, now).await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_below_its_namespace() {
        for (path, in_namespace, object) in [
            ("/v1/namespaces/blue/apps/hello/scale", true, "apps/hello"),
            ("/v1/namespaces/blue/quota", true, "quota"),
            ("/v1/namespaces/blue", true, "namespaces/blue"),
            ("/v1/namespaces/blue/apps/hello/scale", false, "namespaces/blue/apps/hello/scale"),
            ("/v1/users/alice", false, "users/alice"),
        ] {
            assert_eq!(object_of(path, in_namespace), object);
        }
    }

    #[test]
    fn a_flood_of_refusals_is_recorded_by_its_beginning() {
        let refusals = Refusals::default();
        let (token, other) = (TokenId::new(), TokenId::new());
        let admitted = |token, now| (0..100).filter(|_| refusals.admit(token, now)).count();
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(admitted(token, now), 20);
        assert_eq!(admitted(other, now), 20, "others are counted apart");
        assert_eq!(admitted(token, now + std::time::Duration::from_secs(60)), 20);
    }
}
