//! Takes votes: a page with two options, whose votes go into the queue.
//!
//! - `REDIS_ADDR`: host and port of the queue. Default `redis:6379`.
//! - `OPTION_A`, `OPTION_B`: what there is to choose. Default `Cats` and `Dogs`.
//!
//! `POST /` with a form `choice=a` answers when the queue has the vote. A form may have an `id` of 32 hexadecimal digits, as those of the
//! page do: whoever got no answer may send the same form again, and the vote counts once.

mod form;
mod page;

use std::time::Duration;

use voting::error::chain;
use voting::queue::Queue;
use voting::vote::{Choice, Id, Vote};
use voting::{pace, variable};
use wharf_sdk::http::{HeaderValue, Method, Request, Response, Result, StatusCode, header};

wharf_sdk::p2::http_app!(vote);

/// Longest form in octets.
const FORM_MAX_BYTES: usize = 1 << 10;
/// How long a voter waits while the queue is away.
const PATIENCE: Duration = Duration::from_secs(8);
/// The cookie that tells voters apart, and how long it is kept.
const VOTER: &str = "voter";
const VOTER_MAX_AGE_SECS: u32 = 365 * 24 * 60 * 60;

async fn vote(request: Request) -> Result<Response> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => Ok(show()),
        (&Method::POST, "/") => take(request).await,
        (_, "/healthz") => Ok(Response::new("ok\n".into())),
        (_, "/") => Ok(answer(StatusCode::METHOD_NOT_ALLOWED, "look with GET, vote with POST\n")),
        _ => Ok(answer(StatusCode::NOT_FOUND, "there is nothing here; the vote is at /\n")),
    }
}

fn show() -> Response {
    let (a, b) = (variable("OPTION_A", "Cats"), variable("OPTION_B", "Dogs"));
    let mut response = Response::new(page::render(&a, &b, &Id::random()).into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    // The page has an id for one vote.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn take(request: Request) -> Result<Response> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_none_or(|length| length > FORM_MAX_BYTES) {
        let text = "a form is at most 1 KiB long, and says so in content-length\n";
        return Ok(answer(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let voter = form::cookie(cookies, VOTER).and_then(|voter| voter.parse().ok()).unwrap_or_else(Id::random);
    let form = request.into_body().text().await?;
    let choice = form::field(&form, "choice").and_then(|choice| choice.parse::<Choice>().ok());
    let id = form::field(&form, "id").map(str::parse::<Id>);
    let (Some(choice), None | Some(Ok(_))) = (choice, &id) else {
        let text = "`choice` is `a` or `b`, and `id`, if there is one, 32 hexadecimal digits\n";
        return Ok(answer(StatusCode::UNPROCESSABLE_ENTITY, text));
    };
    let vote = Vote::now(id.and_then(Result::ok).unwrap_or_else(Id::random), voter, choice);
    let redis = variable("REDIS_ADDR", "redis:6379");
    // A try whose answer was lost may have put the vote into the queue already. Then it is there twice, and counts once.
    let pushed = pace::retry(PATIENCE, async || Queue::connect(&redis).await?.push(&vote).await).await;
    if let Err(error) = pushed {
        eprintln!("a vote was not taken: {}", chain(&error));
        let text = "the votes cannot be kept just now; please send yours again\n";
        return Ok(answer(StatusCode::SERVICE_UNAVAILABLE, text));
    }
    // Back to the page by GET, so that reloading it does not vote again.
    let mut response = Response::new(format!("vote {} is taken\n", vote.id.as_str()).into());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let cookie = format!(
        "{VOTER}={}; Path=/; Max-Age={VOTER_MAX_AGE_SECS}; HttpOnly; SameSite=Lax",
        vote.voter.as_str()
    );
    response.headers_mut().insert(header::SET_COOKIE, cookie.parse()?);
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
    Ok(response)
}

fn answer(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
}
