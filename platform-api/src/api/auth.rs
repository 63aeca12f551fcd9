//! Who may call what. A route that is not in the table does not exist; one that is needs what the table says.

use std::sync::Arc;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, Query, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use wharf_types::api::{Role, TokenInfo};
use wharf_types::problem::ProblemCode;
use wharf_types::{NamespaceName, Timestamp};

use super::{ApiError, ApiResult};
use crate::context::{Context, hash_secret};
use crate::store;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody, without a token.
    Public,
    /// A token of at least this role. One that is bound to a namespace reaches only that one.
    User(Role),
    /// The same, but not one that is bound to a namespace.
    Cluster(Role),
    /// A token of at least this role. Which namespaces it concerns is in the body, so the handler asks for each: [`Identity::may`].
    Body(Role),
    /// Only a worker.
    Node,
}

#[derive(Clone)]
pub(super) struct Guard {
    pub(super) context: Arc<Context>,
    pub(super) access: Access,
    /// The query parameters that the route knows.
    pub(super) query: super::routes::Named,
}

/// Who calls. Handlers of routes for users can take it out of the request.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) token: TokenInfo,
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
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (role, unbound) = match guard.access {
        Access::Public => return Ok(next.run(request).await),
        Access::Node => {
            authorize_node(&guard.context, request.headers()).await?;
            return Ok(next.run(request).await);
        }
        Access::User(role) | Access::Body(role) => (role, false),
        Access::Cluster(role) => (role, true),
    };
    let token = authenticate(&guard.context, request.headers()).await?;
    let params =
        params.map_err(|rejection| ApiError::new(ProblemCode::InvalidRequest, rejection.body_text()))?;
    let wanted = params.iter().find(|(name, _)| *name == "namespace").map(|(_, value)| value);
    if let (Some(bound), Some(wanted)) = (&token.namespace, wanted)
        && bound.as_str() != wanted
    {
        // As if it did not exist: a token of one namespace learns nothing of the others.
        return Err(namespace_not_found(wanted));
    }
    let identity = Identity { token };
    identity.has(role)?;
    if unbound {
        identity.is_unbound()?;
    }
    check_query(&request, guard.query)?;
    request.extensions_mut().insert(identity);
    Ok(next.run(request).await)
}

/// A parameter that nobody looks at would be a wish that is silently not granted.
fn check_query(request: &Request, known: &[(&str, &str)]) -> ApiResult<()> {
    let given = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    let Query(given) =
        given.map_err(|rejection| ApiError::new(ProblemCode::InvalidRequest, rejection.body_text()))?;
    let Some((unknown, _)) = given.iter().find(|(name, _)| known.iter().all(|(known, _)| known != name))
    else {
        return Ok(());
    };
    let shown: String = unknown.chars().take(60).collect();
    let names: Vec<String> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
    let takes = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let detail = format!("the query parameter `{shown}` is not known here; this address takes {takes}");
    Err(ApiError::new(ProblemCode::InvalidRequest, detail))
}

pub(super) fn namespace_not_found(namespace: &str) -> ApiError {
    let shown: String = namespace.chars().take(60).collect();
    ApiError::new(ProblemCode::NotFound, format!("there is no namespace `{shown}`"))
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

async fn authenticate(context: &Context, headers: &HeaderMap) -> ApiResult<TokenInfo> {
    let hash = hash_secret(bearer(headers)?);
    if hash == context.node_secret_hash {
        return Err(ApiError::new(ProblemCode::Forbidden, "a worker's token does not open this address"));
    }
    let mut tx = context.store.read().await?;
    let Some(token) = store::token::find_by_hash(&mut tx, &hash).await? else { return Err(unknown_token()) };
    match token.expires_at {
        Some(at) if at <= Timestamp::now() => Err(ApiError::new(
            ProblemCode::TokenExpired,
            format!(
                "the token `{}` expired at {at}; ask an admin for a new one, and log in with it: `wharf login`",
                token.name
            ),
        )),
        _ => Ok(token),
    }
}

fn bearer(headers: &HeaderMap) -> ApiResult<&str> {
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

pub(super) fn name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Developer => "developer",
        Role::Admin => "admin",
    }
}

impl Identity {
    /// The namespace that the token is bound to.
    pub(super) fn namespace(&self) -> Option<&NamespaceName> {
        self.token.namespace.as_ref()
    }

    /// Asks for a role in a namespace. One that the token does not reach is as if it did not exist.
    pub(super) fn may(&self, role: Role, namespace: &NamespaceName) -> ApiResult<()> {
        if self.namespace().is_some_and(|bound| bound != namespace) {
            return Err(namespace_not_found(namespace.as_str()));
        }
        self.has(role)
    }

    /// Asks for a role in all namespaces.
    pub(super) fn may_everywhere(&self, role: Role) -> ApiResult<()> {
        self.has(role)?;
        self.is_unbound()
    }

    fn has(&self, role: Role) -> ApiResult<()> {
        if self.token.role >= role {
            return Ok(());
        }
        let detail = format!(
            "this needs the role `{}`, and the token `{}` has `{}`",
            name(role),
            self.token.name,
            name(self.token.role)
        );
        Err(ApiError::new(ProblemCode::Forbidden, detail))
    }

    fn is_unbound(&self) -> ApiResult<()> {
        let Some(namespace) = &self.token.namespace else { return Ok(()) };
        let detail = format!(
            "the token `{}` is bound to the namespace `{namespace}`; this concerns all of them",
            self.token.name
        );
        Err(ApiError::new(ProblemCode::Forbidden, detail))
    }
}
