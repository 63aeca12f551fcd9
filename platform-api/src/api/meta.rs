//! About the control plane itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use wharf_types::api::{Membership, WhoAmI};

use super::auth::Identity;
use super::{ApiResult, openapi as document};
use crate::context::Context;

/// Works as long as the database can be read.
pub(super) async fn health(State(context): State<Arc<Context>>) -> ApiResult<Json<Value>> {
    context.store.read().await?;
    Ok(Json(json!({"status": "ok"})))
}

pub(super) async fn openapi() -> Json<Value> {
    Json(document::document())
}

pub(super) async fn who_am_i(State(context): State<Arc<Context>>, identity: Identity) -> Json<WhoAmI> {
    let token = identity.token.clone();
    let reached = |membership: &Membership| {
        let role = identity.role_in(membership.namespace.as_str())?;
        Some(Membership { namespace: membership.namespace.clone(), role })
    };
    Json(WhoAmI {
        user: token.user,
        verbs: token.verbs,
        memberships: identity.memberships.iter().filter_map(reached).collect(),
        token: token.id,
        name: token.name,
        role: token.role,
        namespace: token.namespace,
        expires_at: token.expires_at,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        http: context.config.http_url.clone(),
    })
}
