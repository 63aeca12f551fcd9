//! Shows how the votes stand: a page at `/`, numbers at `/votes`.
//!
//! - those of [`Login::from_variables`], for the database.
//! - `OPTION_A`, `OPTION_B`: what there was to choose. Default `Cats` and `Dogs`.

mod page;

use std::time::Duration;

use voting::error::chain;
use voting::postgres::{Login, Postgres};
use voting::tables::{self, Tally};
use voting::{pace, variable};
use wharf_sdk::http::{HeaderValue, Method, Request, Response, Result, StatusCode, header};

wharf_sdk::p2::http_app!(result);

/// How long a reader waits while the database is away.
const PATIENCE: Duration = Duration::from_secs(5);

async fn result(request: Request) -> Result<Response> {
    let is_page = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => true,
        (&Method::GET, "/votes") => false,
        (_, "/healthz") => return Ok(Response::new("ok\n".into())),
        (_, "/" | "/votes") => {
            return Ok(answer(StatusCode::METHOD_NOT_ALLOWED, "the result is only read\n"));
        }
        _ => return Ok(answer(StatusCode::NOT_FOUND, "there is nothing here; the result is at /\n")),
    };
    let login = Login::from_variables();
    let counted = pace::retry(PATIENCE, async || tables::tally(&mut Postgres::connect(&login).await?).await);
    let tally = match counted.await {
        Ok(tally) => tally,
        Err(error) => {
            eprintln!("the votes were not counted: {}", chain(&error));
            return Ok(answer(StatusCode::SERVICE_UNAVAILABLE, "the votes cannot be counted just now\n"));
        }
    };
    let (content, kind) = if is_page {
        let (a, b) = (variable("OPTION_A", "Cats"), variable("OPTION_B", "Dogs"));
        (page::render(&a, &b, tally), "text/html; charset=utf-8")
    } else {
        (json(tally), "application/json")
    };
    let mut response = Response::new(content.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn json(tally: Tally) -> String {
    let Tally { a, b, received } = tally;
    format!("{{\"a\":{a},\"b\":{b},\"voters\":{},\"received\":{received}}}\n", a + b)
}

fn answer(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_json() {
        let text = json(Tally { a: 2, b: 1, received: 5 });
        assert_eq!(text, "{\"a\":2,\"b\":1,\"voters\":3,\"received\":5}\n");
    }
}
