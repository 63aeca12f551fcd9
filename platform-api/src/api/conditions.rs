//! `If-Match` and `Idempotency-Key`: which route takes them, and how a repetition gets the first reply.
//!
//! Operations that give something of their own for a key, such as a job as it is now, look for it themselves. For every other route whose
//! table entry says so, [`once`] keeps the reply as it is. It may hold a secret that is stored nowhere else, such as a new token, so it is
//! sealed with a key that only the sender's token makes.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tracing::warn;
use wharf_types::problem::ProblemCode;
use wharf_types::{Timestamp, TokenId};

use super::auth::{Identity, secret_of};
use super::extract::read_octets;
use super::parameters::Parameters;
use super::wish::{condition, idempotency_key};
use super::{ApiError, ApiResult};
use crate::audit;
use crate::conditions::Conditions;
use crate::context::Context;
use crate::operations::Once;
use crate::reconcile::chain;
use crate::secrets::Key;
use crate::store;
use crate::store::once::Found;

/// Of a reply that is kept.
const REPLY_MAX_BYTES: usize = 1 << 20;

/// What a request was sent with. One that its route does not take is refused: it would be a wish that is silently not granted.
pub(super) fn read(headers: &HeaderMap, known: Parameters) -> ApiResult<Conditions> {
    for name in ["If-Match", "Idempotency-Key"] {
        let given = headers.get_all(name).iter().count();
        let detail = match given {
            0 => continue,
            _ if known.iter().all(|known| known.name != name) => {
                format!(
                    "this address does not take `{name}`, so nothing was done; send the request without it"
                )
            }
            1 => continue,
            _ => format!("`{name}` came {given} times; send it once"),
        };
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    Ok(Conditions::new(condition(headers)?, idempotency_key(headers)?))
}

/// Carries out a request with a key once. It goes to its end also when the client goes away, who will ask for the reply again.
pub(super) async fn once(
    State(context): State<Arc<Context>>,
    identity: Identity,
    request: Request,
    next: Next,
) -> ApiResult<Response> {
    let asked = audit::request();
    let Some((asked, key)) =
        asked.and_then(|asked| Some((asked.clone(), asked.conditions.key()?.to_owned())))
    else {
        return Ok(next.run(request).await);
    };
    let (parts, body) = request.into_parts();
    let seal = Key::of_token(&secret_of(&parts.headers)?);
    let what = format!("{} {}\n", parts.method, parts.uri.path());
    let bytes = read_octets(Request::from_parts(parts.clone(), body), &()).await?;
    let request_hash = blake3::Hasher::new().update(what.as_bytes()).update(&bytes).finalize().to_string();
    let once = Once { key, request_hash };
    let replies = Replies { context, token: identity.token.id, once, seal };
    if let Some(first) = replies.find().await? {
        return Ok(first);
    }
    asked.conditions.claim(replies.token, replies.once.clone());
    let carried_out = tokio::spawn(audit::carry(async move {
        let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
        replies.keep(&asked.conditions, response).await
    }));
    carried_out.await.unwrap_or_else(|panicked| Err(ApiError::internal(&panicked)))
}

/// A reply as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// The replies to one request.
struct Replies {
    context: Arc<Context>,
    token: TokenId,
    once: Once,
    seal: Key,
}

impl Replies {
    /// The first one.
    async fn find(&self) -> ApiResult<Option<Response>> {
        let mut conn = self.context.store.look().await?;
        let found = store::once::find(&mut conn, self.token, self.of(), Timestamp::now()).await?;
        drop(conn);
        match found {
            None => Ok(None),
            Some(Found::Reply(sealed)) => self.open(&sealed).map(Some),
            Some(Found::Other) => Err(self.once.used_otherwise().into()),
            Some(Found::Unanswered(at)) => {
                let detail = format!(
                    "the request with the Idempotency-Key `{}` was carried out at {at}, and its reply is not there yet, or was lost: send it \
                     again in a moment; if that does not help, look for what it has made before you choose a new key",
                    self.once.key
                );
                Err(ApiError::new(ProblemCode::Conflict, detail))
            }
        }
    }

    /// Keeps the reply to a request that was carried out. To one that was not, because the same was being carried out, the reply is the first
    /// one's.
    async fn keep(&self, conditions: &Conditions, response: Response) -> ApiResult<Response> {
        let is_success = response.status().is_success();
        match conditions.is_claimed() {
            true if is_success => {}
            false if !is_success => return Ok(self.find().await?.unwrap_or(response)),
            // Nothing was committed that could be done twice, or it may have been.
            _ => return Ok(response),
        }
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, REPLY_MAX_BYTES).await.map_err(|error| ApiError::internal(&error))?;
        let text = |name: &HeaderName| {
            let value = parts.headers.get(name)?.to_str().ok()?;
            Some((name.to_string(), value.to_owned()))
        };
        let kept = Kept {
            status: parts.status.as_u16(),
            headers: [header::CONTENT_TYPE, header::ETAG].iter().filter_map(text).collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        if let Err(error) = self.put(&kept).await {
            warn!("the reply to a request with an Idempotency-Key cannot be kept: {}", chain(&error));
        }
        Ok(Response::from_parts(parts, Body::from(body)))
    }

    async fn put(&self, kept: &Kept) -> store::Result<()> {
        let reply = serde_json::json!(kept).to_string();
        let sealed = self.seal.seal_reply(self.of(), &reply);
        let mut tx = self.context.store.write().await?;
        store::once::answer(&mut tx, self.token, &self.once.key, &sealed).await?;
        tx.commit().await
    }

    fn open(&self, sealed: &[u8]) -> ApiResult<Response> {
        let opened = self.seal.open_reply(self.of(), sealed).map_err(|error| ApiError::internal(&error))?;
        let Kept { status, headers, body } =
            serde_json::from_str(&opened).map_err(|error| ApiError::internal(&error))?;
        let mut response = body.into_response();
        *response.status_mut() = StatusCode::from_u16(status).map_err(|error| ApiError::internal(&error))?;
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::try_from(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        Ok(response)
    }

    /// What a reply is sealed for.
    fn of(&self) -> (&str, &str) {
        (&self.once.key, &self.once.request_hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::parameters::{CHANGES, ONCE};

    const NONE: Parameters = &[];

    #[test]
    fn a_header_that_is_not_taken_or_comes_twice_is_refused_by_name() {
        let read = |given: &[(&'static str, &'static str)], known: Parameters| {
            let mut headers = HeaderMap::new();
            for &(name, value) in given {
                headers.append(name, HeaderValue::from_static(value));
            }
            read(&headers, known).map(|_| ()).map_err(|error| error.detail().to_owned())
        };
        let (revision, key) = (("if-match", "\"17\""), ("idempotency-key", "k"));
        assert_eq!(read(&[], NONE), Ok(()));
        assert_eq!(read(&[revision], CHANGES), Ok(()));
        assert_eq!(read(&[key], ONCE), Ok(()));
        for (given, known, words) in [
            (&[revision][..], ONCE, "does not take `If-Match`"),
            (&[key][..], CHANGES, "does not take `Idempotency-Key`"),
            (&[key][..], NONE, "does not take `Idempotency-Key`"),
            (&[revision, revision][..], CHANGES, "`If-Match` came 2 times"),
            (&[("if-match", "17")][..], CHANGES, "If-Match is not an ETag"),
        ] {
            let refusal = read(given, known).unwrap_err();
            assert!(refusal.contains(words), "{refusal}");
        }
    }
}
