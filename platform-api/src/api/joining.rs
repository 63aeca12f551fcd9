//! `/v1/join-tokens`, and how a host becomes a node and stays one.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tracing::{info, warn};
use wharf_pki::{JoinToken, key_of};
use wharf_types::api::{
    CertificateRequest, CreateJoinToken, CreatedJoinToken, JoinTokenInfo, NodeCertificate, Page,
};
use wharf_types::node::is_node_role;
use wharf_types::problem::ProblemCode;
use wharf_types::{NodeId, Timestamp, TokenId};

use super::auth::bearer;
use super::extract::{Json, Path};
use super::{ApiError, ApiResult};
use crate::audit;
use crate::authority::Authorities;
use crate::context::{Context, Joining, hash_secret, new_secret};
use crate::store;

const LIFETIME: Duration = Duration::from_secs(3600);
/// With less nobody could join.
const LIFETIME_MIN: Duration = Duration::from_millis(1);
const LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const USES_MAX: u32 = 10_000;
/// How long tokens are listed whose time is over.
const EXPIRED_KEPT: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn create(
    State(context): State<Arc<Context>>,
    Json(request): Json<CreateJoinToken>,
) -> ApiResult<(StatusCode, Reply<CreatedJoinToken>)> {
    let joining = joining(&context)?;
    let now = Timestamp::now();
    let lifetime = request.expires_in.map_or(LIFETIME, |span| span.as_duration());
    let is_possible = (LIFETIME_MIN..=LIFETIME_MAX).contains(&lifetime);
    let expires_at = now.checked_add(lifetime).ok().filter(|_| is_possible);
    let expires_at = expires_at.ok_or_else(|| {
        let detail = "expires_in: a join token lasts longer than no time at all, and 30 days at the most";
        ApiError::new(ProblemCode::InvalidSpec, detail)
    })?;
    let uses = request.uses.unwrap_or(1);
    if !(1..=USES_MAX).contains(&uses) {
        let detail = format!("uses: a join token lets in 1 to {USES_MAX} hosts, not {uses}");
        return Err(ApiError::new(ProblemCode::InvalidSpec, detail));
    }
    if let Some(role) = request.role.as_deref().filter(|role| !is_node_role(role)) {
        let detail = format!(
            "role: {role:?} cannot be given to a node: at most 63 of a-z, 0-9 and `-`, first a letter; `server` is the control plane's"
        );
        return Err(ApiError::new(ProblemCode::InvalidSpec, detail));
    }
    let address = addresses(&context, joining).await?;
    let secret = new_secret();
    let token = JoinTokenInfo {
        id: TokenId::new(),
        node: request.node,
        role: request.role,
        drained: request.drained,
        uses_left: uses,
        expires_at,
        created_at: now,
    };
    let mut tx = context.store.write().await?;
    if let Some(node) = request.node
        && !store::joining::is_member(&mut tx, node).await?
    {
        let detail = format!("node: no node {node} has joined, or it was removed; leave `node` out");
        return Err(ApiError::new(ProblemCode::InvalidSpec, detail));
    }
    store::joining::delete_expired(&mut tx, now.checked_sub(EXPIRED_KEPT).unwrap_or(Timestamp::MIN)).await?;
    store::joining::create(&mut tx, &token, &hash_secret(&secret)).await?;
    audit::object(format!("join-tokens/{}", token.id));
    audit::change(Value::Null, json!(token));
    audit::commit(tx).await?;
    let created = CreatedJoinToken {
        id: token.id,
        token: JoinToken { pin: joining.authorities.pin(), secret }.to_string(),
        address,
        uses,
        expires_at,
    };
    Ok((StatusCode::CREATED, Reply(created)))
}

/// Where a host can go to join: here, and where other servers are.
async fn addresses(context: &Context, joining: &Joining) -> ApiResult<String> {
    let servers = &context.known.servers;
    servers.are(context.store.servers().await?.unwrap_or_default(), &context.server);
    Ok(servers.with(&joining.address))
}

pub(super) async fn list(State(context): State<Arc<Context>>) -> ApiResult<Reply<Page<JoinTokenInfo>>> {
    let mut tx = context.store.read().await?;
    Ok(Reply(Page { items: store::joining::list(&mut tx).await?, next_cursor: None }))
}

pub(super) async fn revoke(
    State(context): State<Arc<Context>>,
    Path(id): Path<TokenId>,
) -> ApiResult<StatusCode> {
    let mut tx = context.store.write().await?;
    let token = store::joining::list(&mut tx).await?.into_iter().find(|token| token.id == id);
    if !store::joining::delete(&mut tx, id).await? {
        return Err(ApiError::new(ProblemCode::NotFound, format!("there is no join token {id}")));
    }
    audit::change(json!(token), Value::Null);
    audit::commit(tx).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A host with a join token becomes a node. What is wrong with a token is said to whoever has it, and to nobody else. One that asks again with
/// the same key has not heard the answer, and gets it once more.
pub(super) async fn join(
    State(context): State<Arc<Context>>,
    headers: HeaderMap,
    Json(request): Json<CertificateRequest>,
) -> ApiResult<(StatusCode, Reply<NodeCertificate>)> {
    let joining = joining(&context)?;
    let now = Timestamp::now();
    let mut tx = context.store.write().await?;
    let refused = |detail: &str| {
        warn!("a host that wants to join was refused: {detail}");
        let detail = format!("{detail}; `wharf node token create` makes another");
        ApiError::new(ProblemCode::Unauthenticated, detail)
    };
    let Some(token) = store::joining::find(&mut tx, &hash_secret(bearer(&headers)?)).await? else {
        return Err(refused("this is no join token of this cluster, or it was revoked"));
    };
    // What is no request has been nobody before; that is said below.
    let key = key_of(&request.request);
    let joined = match &key {
        Ok(key) if token.expires_at > now => store::joining::joined(&mut tx, token.id, key).await?,
        _ => None,
    };
    if let Some(node) = joined {
        info!(node.id = %node, "the host that has joined as node {node} asks for its certificate again");
        let certificate = certificate(&joining.authorities, &request, node, now)?;
        return Ok((StatusCode::CREATED, Reply(certificate)));
    }
    if !store::joining::spend(&mut tx, token.id, now).await? {
        return Err(match token.expires_at <= now {
            true => refused(&format!("the join token expired at {}", token.expires_at)),
            false => refused("the join token has been used as often as it may"),
        });
    }
    let node = token.node.unwrap_or_else(NodeId::new);
    if token.node.is_some() && !store::joining::is_member(&mut tx, node).await? {
        return Err(refused("the node of this join token was removed"));
    }
    let certificate = certificate(&joining.authorities, &request, node, now)?;
    let key = key.map_err(|error| ApiError::new(ProblemCode::InvalidRequest, error.to_string()))?;
    store::joining::admit(&mut tx, node, &token, &key, now).await?;
    tx.commit().await?;
    info!(node.id = %node, "a host has joined as node {node}, with the join token {}", token.id);
    Ok((StatusCode::CREATED, Reply(certificate)))
}

/// Another certificate for a node that shows the one before.
pub(super) async fn renew(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
    Json(request): Json<CertificateRequest>,
) -> ApiResult<Reply<NodeCertificate>> {
    Ok(Reply(certificate(&joining(&context)?.authorities, &request, node, Timestamp::now())?))
}

fn certificate(
    authorities: &Authorities,
    request: &CertificateRequest,
    node: NodeId,
    now: Timestamp,
) -> ApiResult<NodeCertificate> {
    let (certificate, authorities) = authorities
        .issue(&request.request, node, now)
        .map_err(|error| ApiError::new(ProblemCode::InvalidRequest, error.to_string()))?;
    Ok(NodeCertificate { node, certificate, authorities })
}

pub(super) fn joining(context: &Context) -> ApiResult<&Joining> {
    context.joining.get().ok_or_else(|| {
        let detail = "`wharf up` takes no workers of other hosts: stop it, and start `wharf server` on the same data folder";
        ApiError::new(ProblemCode::Conflict, detail)
    })
}
