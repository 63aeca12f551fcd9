//! Attacks its host on demand, to show that its neighbours do not notice.
//!
//! Written against the bare bindings: the libraries that others use close what they open, wait where they should, and stop
//! when they are refused.

mod attack;
mod connections;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::StreamError;

struct Hostile;

wasip2::http::proxy::export!(Hostile with_types_in wasip2);

const HELP: &str = "\
GET /                      this text
GET /recursion             calls itself for ever
GET /handles               opens handles until it is refused
GET /fields                keeps as many header fields with its host as it can
GET /bodies                keeps as many octets in unsent bodies with its host as it can
GET /random                asks for more random octets than there is memory
GET /polls                 waits for the same thing a million times, in one call, again and again
GET /no-response           returns without a response
GET /endless               a body that never ends
GET /drip?ms=N             a body of one octet each N milliseconds (default 1000)
GET /logs?n=N              prints N lines (default: for ever)
GET /sockets               opens sockets until it is refused, and keeps them for eight seconds
GET /names?n=N&name=NAME    looks up a name N times at once, and tells what became of that
GET /connections?n=N&url=U opens N connections at once, and tells what became of them
";

impl Guest for Hostile {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        match path {
            "/" => answer(out, 200, HELP),
            "/recursion" => answer(out, 200, &format!("{}\n", attack::recurse(1))),
            "/handles" => attack::take_handles(),
            "/fields" => attack::keep_fields(),
            "/bodies" => attack::keep_bodies(),
            "/random" => answer(out, 200, &format!("{}\n", attack::random())),
            "/polls" => attack::poll_for_ever(),
            "/no-response" => {}
            "/endless" => write_for_ever(out, &[b'x'; 4096], 0),
            "/drip" => write_for_ever(out, b"x", number(query, "ms").unwrap_or(1000)),
            "/logs" => {
                attack::print(number(query, "n").unwrap_or(u64::MAX));
                answer(out, 200, "printed\n");
            }
            "/sockets" => answer(out, 200, &format!("{}\n", connections::open_sockets())),
            "/names" => {
                let told = connections::look_up(
                    number(query, "n").unwrap_or(1),
                    text(query, "name").unwrap_or_default(),
                );
                answer(out, 200, &told);
            }
            "/connections" => {
                let told = connections::open(
                    number(query, "n").unwrap_or(1),
                    text(query, "url").unwrap_or_default(),
                );
                answer(out, 200, &told);
            }
            path => answer(out, 404, &format!("there is nothing at {path}\n")),
        }
    }
}

/// A value in the query, `name=value`.
fn text<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
}

fn number(query: &str, name: &str) -> Option<u64> {
    text(query, name)?.parse().ok()
}

/// Sets the response's head, and returns its body.
fn begin(out: ResponseOutparam, status: u16) -> OutgoingBody {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("it is a status code");
    let body = response.body().expect("nobody has taken it");
    ResponseOutparam::set(out, Ok(response));
    body
}

fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let body = begin(out, status);
    let stream = body.write().expect("nobody has taken it");
    for chunk in text.as_bytes().chunks(4096) {
        if stream.blocking_write_and_flush(chunk).is_err() {
            return;
        }
    }
    drop(stream);
    OutgoingBody::finish(body, None).expect("no length was announced");
}

/// Until the client goes away.
fn write_for_ever(out: ResponseOutparam, chunk: &[u8], pause_ms: u64) {
    let body = begin(out, 200);
    let stream = body.write().expect("nobody has taken it");
    loop {
        match stream.blocking_write_and_flush(chunk) {
            Ok(()) => {}
            Err(StreamError::Closed | StreamError::LastOperationFailed(_)) => return,
        }
        if pause_ms > 0 {
            wasip2::clocks::monotonic_clock::subscribe_duration(pause_ms * 1_000_000).block();
        }
    }
}
