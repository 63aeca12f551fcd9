//! What the host says of a request.

use std::fmt::Write as _;

use wasip3::http::types::Request;
use wasip3::wit_bindgen::StreamResult;
use wasip3::wit_future;

pub(crate) async fn report(request: Request) -> String {
    let mut text = format!("method: {:?}\nscheme: {:?}\n", request.get_method(), request.get_scheme());
    let _ = writeln!(text, "authority: {}", request.get_authority().unwrap_or_default());
    let _ = writeln!(text, "target: {}", request.get_path_with_query().unwrap_or_default());
    for (name, value) in request.get_headers().copy_all() {
        let _ = writeln!(text, "field {name}: {}", value.escape_ascii());
    }
    // Nobody tells the host how the request was dealt with.
    let (_, dealt_with) = wit_future::new(|| Ok(()));
    let (mut body, trailers) = Request::consume_body(request, dealt_with);
    let mut length = 0;
    loop {
        let (result, octets) = body.read(Vec::with_capacity(64 << 10)).await;
        length += octets.len();
        if !matches!(result, StreamResult::Complete(_)) {
            break;
        }
    }
    let _ = writeln!(text, "body: {length}");
    drop(body);
    match trailers.await {
        Ok(Some(trailers)) => {
            for (name, value) in trailers.copy_all() {
                let _ = writeln!(text, "trailer {name}: {}", value.escape_ascii());
            }
        }
        Ok(None) => text.push_str("no trailers\n"),
        Err(code) => {
            let _ = writeln!(text, "trailers failed: {code:?}");
        }
    }
    text
}
