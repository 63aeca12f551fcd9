//! One request to an instance, to see how it is.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Limited};
use wharf_types::node::ReasonKind;

use crate::backend::Failure;

/// A health check reads this much of a response's body; it is the status that counts.
const BODY_MAX_BYTES: usize = 64 << 10;

/// Asks for a path, and returns the status of the answer.
pub(crate) async fn probe<B, F>(
    path: &str,
    timeout: Duration,
    send: impl FnOnce(Request<Empty<Bytes>>) -> F,
) -> Result<u16, Failure>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    F: Future<Output = Result<Response<B>, Failure>>,
{
    let request = Request::get(format!("http://localhost{path}"))
        .header(http::header::HOST, "localhost")
        .header(http::header::USER_AGENT, "wharf-health-check")
        .body(Empty::new())
        .map_err(|_| Failure::new(ReasonKind::Probe, format!("`{path}` is not a path")))?;
    let asked = async {
        let response = send(request).await?;
        let status = response.status().as_u16();
        // Reading the body lets a guest return by itself instead of being dropped half-way.
        let _ = std::pin::pin!(Limited::new(response.into_body(), BODY_MAX_BYTES)).collect().await;
        Ok(status)
    };
    tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| {
        Err(Failure::new(ReasonKind::Probe, format!("GET {path} did not answer within {timeout:?}")))
    })
}
