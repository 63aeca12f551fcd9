//! About the control plane itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use wharf_types::api::WhoAmI;

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

pub(super) async fn who_am_i(
    State(context): State<Arc<Context>>,
    Identity { token }: Identity,
) -> Json<WhoAmI> {
    Json(WhoAmI {
        token: token.id,
        name: token.name,
        role: token.role,
        namespace: token.namespace,
        expires_at: token.expires_at,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        http: context.config.http_url.clone(),
    })
}
