//! Fails in every way on demand, to show that nobody else notices.
//!
//! The variable `POISON` spoils the whole app instead of one request: `start` traps before the handler is reached, `500`
//! answers every request with that status, `hang` never answers.

use std::hint::black_box;
use std::time::Duration;

use wharf_sdk::http::{Body, Request, Response, Result, StatusCode, Uri};
use wharf_sdk::p2;

p2::http_app!(crash);

const HELP: &str = "\
GET /                this text
GET /healthz         ok
GET /trap            panics
GET /loop            computes for ever
GET /memory          allocates for ever
GET /exit            ends the program
GET /error           returns an error from the handler
GET /sleep?ms=N      answers after N milliseconds (default 1000)
GET /hang            never answers
GET /half            breaks off in the middle of its body
GET /status?code=N   answers with the status N
";

async fn crash(request: Request) -> Result<Response> {
    match std::env::var("POISON").as_deref() {
        Ok("start") => panic!("POISON=start: this release cannot serve anything"),
        Ok("500") => return text(StatusCode::INTERNAL_SERVER_ERROR, "POISON=500\n"),
        Ok("hang") => hang().await,
        _ => {}
    }
    match request.uri().path() {
        "/" => text(StatusCode::OK, HELP),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/trap" => panic!("asked to panic by GET /trap"),
        "/loop" => compute_for_ever(),
        "/memory" => allocate_for_ever(),
        "/exit" => std::process::exit(1),
        "/error" => Err(wharf_sdk::http::Error::msg("asked to fail by GET /error")),
        "/sleep" => {
            let millis = number(request.uri(), "ms").unwrap_or(1000);
            p2::sleep(Duration::from_millis(millis)).await;
            text(StatusCode::OK, format!("slept for {millis} ms\n"))
        }
        "/hang" => hang().await,
        "/half" => Ok(Response::new(half_a_body())),
        "/status" => {
            let code = number(request.uri(), "code").and_then(|code| u16::try_from(code).ok());
            let status =
                code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::BAD_REQUEST);
            text(status, format!("{status}\n"))
        }
        path => text(StatusCode::NOT_FOUND, format!("there is nothing at {path}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Body>) -> Result<Response> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    Ok(response)
}

/// A number in the query, `?name=12`.
fn number(uri: &Uri, name: &str) -> Option<u64> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}

fn compute_for_ever() -> ! {
    let mut count = 0_u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}

/// Every page is written to, so that the memory is really taken. Ends by a trap when no more is granted.
fn allocate_for_ever() -> ! {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        taken.push(black_box(vec![0xA5; 1 << 20]));
    }
}

/// Sleeps for ever. (A future that waits for nothing at all would be noticed as a deadlock, and trap.)
async fn hang() -> ! {
    loop {
        p2::sleep(Duration::from_secs(3600)).await;
    }
}

/// One chunk, then an error.
fn half_a_body() -> Body {
    let chunks = ["the first half, and then\n"]
        .map(Ok)
        .into_iter()
        .chain([Err(wharf_sdk::http::Error::msg("asked to break off"))]);
    Body::from_stream(futures_lite::stream::iter(chunks))
}
