//! Requests that the guest sends.

use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, RequestOptions, Response, Scheme};
use wasip3::wit_bindgen::StreamResult;
use wasip3::wit_future;

use crate::Query;

pub(crate) async fn send(query: &Query<'_>) -> String {
    let url = query.get("url").unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let nanos = |name: &str| query.number::<u64>(name).map(|millis| millis * 1_000_000);
    let options = RequestOptions::new();
    options.set_connect_timeout(nanos("connect_ms")).expect("the host knows it");
    options.set_first_byte_timeout(nanos("first_ms")).expect("the host knows it");
    options.set_between_bytes_timeout(nanos("between_ms")).expect("the host knows it");
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _) = Request::new(Fields::new(), None, trailers, Some(options));
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    request.set_scheme(Some(&scheme)).expect("it is a scheme");
    request.set_authority(Some(authority)).expect("it is an authority");
    request.set_path_with_query(Some(path).filter(|path| !path.is_empty())).expect("it is a path");
    match client::send(request).await {
        Ok(response) => read(response).await,
        Err(code) => format!("{code:?}\n"),
    }
}

/// The status and the body, and how it failed.
async fn read(response: Response) -> String {
    let mut text = format!("{} ", response.get_status_code());
    let (_, dealt_with) = wit_future::new(|| Ok::<(), ErrorCode>(()));
    let (mut body, end) = Response::consume_body(response, dealt_with);
    loop {
        let (result, octets) = body.read(Vec::with_capacity(4096)).await;
        text.push_str(&String::from_utf8_lossy(&octets));
        if !matches!(result, StreamResult::Complete(_)) {
            break;
        }
    }
    drop(body);
    match end.await {
        Ok(_) => text + "\n",
        Err(code) => format!("{text} and then {code:?}\n"),
    }
}
