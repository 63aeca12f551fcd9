//! Asks its host about the corners of `wasi:http`, and tells what it was answered: the suite in `tests/` compares that with the
//! specification.
//!
//! Written against the bare bindings: a library would put right what a client or a host does wrong.

mod fields;
mod outgoing;
mod request;
mod respond;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Conformance;

wasip2::http::proxy::export!(Conformance with_types_in wasip2);

const HELP: &str = "\
GET  /                this text
ANY  /request         what the host says of the request: method, target, fields in their order, length of the body, trailers
GET  /fields          what the host allows to be done with header fields
GET  /outgoing        what the host allows in a request that is to be sent
GET  /respond?...     an answer: status=N, length=N announced, body=TEXT, trailer=TEXT, field=NAME:VALUE, obs=1, unfinished=1
GET  /error?code=C    answers with an error of wasi:http
GET  /drop            lets go of its response-outparam
GET  /send?url=U      sends a request: connect_ms=N, first_ms=N, between_ms=N, announced=N, body=TEXT
";

impl Guest for Conformance {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = Query(query);
        match path {
            "/" => answer(out, HELP),
            "/fields" => answer(out, &fields::report(&request)),
            "/outgoing" => answer(out, &outgoing::report()),
            "/respond" => respond::respond(&query, out),
            "/error" => {
                ResponseOutparam::set(out, Err(respond::error(query.get("code").unwrap_or_default())))
            }
            "/drop" => drop(out),
            "/send" => answer(out, &outgoing::send(&query)),
            // Everything else, so that a test can choose the target freely.
            _ => answer(out, &request::report(request)),
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

fn answer(out: ResponseOutparam, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("nobody has taken it");
    ResponseOutparam::set(out, Ok(response));
    if write(&body, text.as_bytes()) {
        OutgoingBody::finish(body, None).expect("no length was announced");
    }
}

/// False: the reader has gone, or takes no more.
fn write(body: &OutgoingBody, octets: &[u8]) -> bool {
    let stream = body.write().expect("nobody has taken it");
    octets.chunks(4096).all(|chunk| stream.blocking_write_and_flush(chunk).is_ok())
}
