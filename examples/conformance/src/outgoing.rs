//! Requests that the guest sends.

use std::fmt::Write as _;

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use wasip2::io::streams::StreamError;

use crate::Query;

/// What the host allows in a request.
pub(crate) fn report() -> String {
    let mut text = String::new();
    let mut say = |what: &str, answer: String| {
        let _ = writeln!(text, "{what}: {answer}");
    };
    let request = OutgoingRequest::new(Fields::new());
    say(
        "as it is made",
        format!(
            "{:?} {:?} {:?} {:?}",
            request.method(),
            request.scheme(),
            request.authority(),
            request.path_with_query()
        ),
    );
    let method = |name: &str| request.set_method(&Method::Other(name.to_owned())).is_ok();
    say("method PROPFIND", method("PROPFIND").to_string());
    say("method with a space", method("A B").to_string());
    say("path with a space", request.set_path_with_query(Some("/a b")).is_ok().to_string());
    say("path with a query", request.set_path_with_query(Some("/a?b=c%20d&e")).is_ok().to_string());
    say("authority with a port", request.set_authority(Some("example.com:8080")).is_ok().to_string());
    say("authority with a slash", request.set_authority(Some("example.com/a")).is_ok().to_string());
    say("another scheme", request.set_scheme(Some(&Scheme::Other("ftp".to_owned()))).is_ok().to_string());
    say(
        "scheme with a space",
        request.set_scheme(Some(&Scheme::Other("a b".to_owned()))).is_ok().to_string(),
    );
    say("its fields", format!("{:?}", request.headers().append("x-a", b"1")));
    let body = request.body();
    say("its body", body.is_ok().to_string());
    say("its body again", request.body().is_ok().to_string());
    let options = RequestOptions::new();
    say("no timeout", format!("{:?}", options.connect_timeout()));
    say(
        "set a timeout",
        format!("{:?}", options.set_connect_timeout(Some(5)).map(|()| options.connect_timeout())),
    );
    say("another scheme is sent", {
        let request = OutgoingRequest::new(Fields::new());
        let _ = request.set_scheme(Some(&Scheme::Other("ftp".to_owned())));
        let _ = request.set_authority(Some("example.com"));
        result(outgoing_handler::handle(request, None).and_then(wait))
    });
    say("no authority is sent", {
        result(outgoing_handler::handle(OutgoingRequest::new(Fields::new()), None).and_then(wait))
    });
    text
}

pub(crate) fn send(query: &Query<'_>) -> String {
    let url = query.get("url").unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let fields = Fields::new();
    if let Some(length) = query.get("announced") {
        fields.append("content-length", length.as_bytes()).expect("it is a field");
    }
    let request = OutgoingRequest::new(fields);
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    request.set_scheme(Some(&scheme)).expect("it is a scheme");
    request.set_authority(Some(authority)).expect("it is an authority");
    request.set_path_with_query(Some(path).filter(|path| !path.is_empty())).expect("it is a path");
    let nanos = |name: &str| query.number::<u64>(name).map(|millis| millis * 1_000_000);
    let options = RequestOptions::new();
    options.set_connect_timeout(nanos("connect_ms")).expect("the host knows it");
    options.set_first_byte_timeout(nanos("first_ms")).expect("the host knows it");
    options.set_between_bytes_timeout(nanos("between_ms")).expect("the host knows it");
    let text = query.get("body");
    if text.is_some() {
        request.set_method(&Method::Post).expect("it is a method");
    }
    let body = request.body().expect("nobody has taken it");
    let answer = match outgoing_handler::handle(request, Some(options)) {
        Ok(answer) => answer,
        Err(code) => return format!("refused: {code:?}\n"),
    };
    let mut told = String::new();
    if let Some(text) = text {
        let _ = writeln!(told, "written: {}", crate::write(&body, text.as_bytes()));
    }
    if let Err(code) = OutgoingBody::finish(body, None) {
        let _ = writeln!(told, "finished: {code:?}");
    }
    told + &result(wait(answer)) + "\n"
}

fn wait(answer: wasip2::http::types::FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    answer.subscribe().block();
    answer.get().expect("it is there").expect("nobody has taken it")
}

/// The status and the body, or how one of them failed.
fn result(response: Result<IncomingResponse, ErrorCode>) -> String {
    let response = match response {
        Ok(response) => response,
        Err(code) => return format!("{code:?}"),
    };
    let mut text = format!("{} ", response.status());
    let body = response.consume().expect("nobody has taken it");
    let stream = body.stream().expect("nobody has taken it");
    loop {
        match stream.blocking_read(4096) {
            Ok(octets) => text.push_str(&String::from_utf8_lossy(&octets)),
            Err(StreamError::Closed) => return text,
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return format!("{text} and then {code:?}");
            }
        }
    }
}
