//! What a user wants of an app: who asks, for which app, under which condition, and the request itself.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use wharf_types::api::Verb;
use wharf_types::problem::ProblemCode;
use wharf_types::{AppName, NamespaceName, Timestamp};

use super::auth::Identity;
use super::extract::{Path, parse, read};
use super::{ApiError, ApiResult};
use crate::conditions::IfMatch;
use crate::operations::{Asked, Once};

const KEY_MAX_BYTES: usize = 200;

pub(super) type AppPath = (NamespaceName, AppName);

pub(super) struct Wish<T> {
    pub(super) asked: Asked,
    pub(super) request: T,
}

/// A request that has no settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Wish<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let (mut parts, body) = request.into_parts();
        let Path((namespace, app)) = Path::<AppPath>::from_request_parts(&mut parts, state).await?;
        let identity = Identity::from_request_parts(&mut parts, state).await?;
        let key = idempotency_key(&parts.headers)?;
        let what = format!("{} {}\n", parts.method, parts.uri.path());
        let bytes = read(Request::from_parts(parts, body), state).await?;
        let once = key.map(|key| Once {
            key,
            request_hash: blake3::Hasher::new().update(what.as_bytes()).update(&bytes).finalize().to_string(),
        });
        let (by, any_rights) = (identity.name(), identity.demand_everywhere(Verb::Admin).is_ok());
        let asked = Asked { namespace, app, by, once, any_rights, now: Timestamp::now() };
        Ok(Self { asked, request: parse(&bytes)? })
    }
}

/// What `If-Match` asks for: a revision is written as `"17"`.
pub(super) fn condition(headers: &HeaderMap) -> ApiResult<Option<IfMatch>> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if text == "*" {
        return Ok(Some(IfMatch::Anything));
    }
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')?.parse().ok()) {
        Some(revision) => Ok(Some(IfMatch::Revision(revision))),
        None => Err(ApiError::new(
            ProblemCode::InvalidRequest,
            "If-Match is not an ETag of this API, such as \"17\"; take it from the reply to GET",
        )),
    }
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_MAX_BYTES => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("Idempotency-Key: use 1 to {KEY_MAX_BYTES} printable ASCII characters");
            Err(ApiError::new(ProblemCode::InvalidRequest, detail))
        }
    }
}
