//! Asks its host about the corners of `wasi:http` 0.3, and tells what it was answered: the suite in `tests/` compares that with the
//! specification.
//!
//! Written against the bare bindings: a library would put right what a client or a host does wrong.

mod outgoing;
mod request;

use std::fmt::Write as _;

use wasip3::http::types::{DnsErrorPayload, ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

struct Conformance;

wasip3::http::service::export!(Conformance with_types_in wasip3);

const HELP: &str = "\
GET  /                this text
ANY  /request         what the host says of the request: method, target, fields, length of the body, trailers
GET  /fields          what the host allows to be done with header fields
GET  /respond?...     an answer: status=N, length=N announced, body=TEXT, trailer=TEXT, failed=1
GET  /error?code=C    answers with an error of wasi:http
GET  /send?url=U      sends a request: connect_ms=N, first_ms=N, between_ms=N
";

impl wasip3::exports::http::handler::Guest for Conformance {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = Query(query);
        match path {
            "/" => Ok(answer(HELP.to_owned())),
            "/fields" => Ok(answer(fields(&request))),
            "/respond" => Ok(respond(&query)),
            "/error" => Err(error(query.get("code").unwrap_or_default())),
            "/send" => Ok(answer(outgoing::send(&query).await)),
            // Everything else, so that a test can choose the target freely.
            _ => Ok(answer(request::report(request).await)),
        }
    }
}

/// The query of the target, `name=value&name=value`.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }
}

fn answer(text: String) -> Response {
    with_body(Fields::new(), text, Ok(None))
}

/// A response whose body is sent while the host reads it, and then ends like this.
fn with_body(fields: Fields, text: String, end: Result<Option<Fields>, ErrorCode>) -> Response {
    let (mut body, reader) = wit_stream::new();
    let (ending, end_reader) = wit_future::new(|| Ok(None));
    let (response, sent) = Response::new(fields, Some(reader), end_reader);
    spawn_local(async move {
        let unread = body.write_all(text.into_bytes()).await;
        drop(body);
        let taken = ending.write(end).await.is_ok();
        println!("unread: {}, end taken: {taken}, sent: {:?}", unread.len(), sent.await);
    });
    response
}

fn respond(query: &Query<'_>) -> Response {
    let fields = Fields::new();
    if let Some(length) = query.get("length") {
        fields.append("content-length", length.as_bytes()).expect("it is a field");
    }
    let end = match (query.get("trailer"), query.get("failed")) {
        (_, Some(_)) => Err(ErrorCode::InternalError(Some("asked to fail".to_owned()))),
        (None, None) => Ok(None),
        (Some(text), None) => {
            let trailers = Fields::new();
            trailers.append("x-trailer", text.as_bytes()).expect("it is a field");
            Ok(Some(trailers))
        }
    };
    let response = with_body(fields, query.get("body").unwrap_or_default().to_owned(), end);
    if let Some(status) = query.number("status")
        && response.set_status_code(status).is_err()
    {
        return answer("the status is refused\n".to_owned());
    }
    response
}

/// An error by the name that the specification gives it.
fn error(code: &str) -> ErrorCode {
    match code {
        "dns-error" => {
            ErrorCode::DnsError(DnsErrorPayload { rcode: Some("NXDOMAIN".to_owned()), info_code: Some(3) })
        }
        "connection-timeout" => ErrorCode::ConnectionTimeout,
        other => ErrorCode::InternalError(Some(other.to_owned())),
    }
}

fn fields(request: &Request) -> String {
    let mut text = String::new();
    let mut say = |what: &str, answer: String| {
        let _ = writeln!(text, "{what}: {answer}");
    };
    for name in ["connection", "host", "keep-alive", "transfer-encoding", "upgrade"] {
        say(name, format!("{:?}", Fields::new().append(name, b"x")));
    }
    say("of the request", format!("{:?}", request.get_headers().append("x-a", b"1")));
    say("of a response", format!("{:?}", answer(String::new()).get_headers().append("x-a", b"1")));
    let fields = Fields::new();
    say("name with a space", format!("{:?}", fields.append("x a", b"1")));
    say("value with a line break", format!("{:?}", fields.append("x-a", b"1\r\nx-b: 2")));
    fields.append("X-Many", b"1").expect("it is a field");
    fields.append("x-many", b"2").expect("it is a field");
    say("two values", fields.get("x-MANY").len().to_string());
    say("taken out", format!("{:?}", fields.get_and_delete("x-many").map(|values| values.len())));
    say("afterwards", fields.has("x-many").to_string());
    text
}
