//! What the host says of a request.

use std::fmt::Write as _;

use wasip2::http::types::{IncomingBody, IncomingRequest};
use wasip2::io::streams::StreamError;

pub(crate) fn report(request: IncomingRequest) -> String {
    let mut text = format!("method: {:?}\nscheme: {:?}\n", request.method(), request.scheme());
    let _ = writeln!(text, "authority: {}", request.authority().unwrap_or_default());
    let _ = writeln!(text, "target: {}", request.path_with_query().unwrap_or_default());
    for (name, value) in request.headers().entries() {
        let _ = writeln!(text, "field {name}: {}", value.escape_ascii());
    }
    let body = request.consume().expect("nobody has taken it");
    let _ = writeln!(text, "consumed again: {}", request.consume().is_ok());
    let _ = writeln!(text, "body: {}", read(&body));
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    match trailers.get() {
        Some(Ok(Ok(Some(trailers)))) => {
            for (name, value) in trailers.entries() {
                let _ = writeln!(text, "trailer {name}: {}", value.escape_ascii());
            }
        }
        Some(Ok(Ok(None))) => text.push_str("no trailers\n"),
        other => {
            let _ = writeln!(text, "trailers failed: {other:?}");
        }
    }
    text
}

/// The length of the body, or how it failed.
fn read(body: &IncomingBody) -> String {
    let stream = body.stream().expect("nobody has taken it");
    let mut length = 0;
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(octets) => length += octets.len(),
            Err(StreamError::Closed) => return length.to_string(),
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return format!("{length} and then {code:?}");
            }
        }
    }
}
