//! Follows a stream of server-sent events over broken connections.
//!
//! After a break the stream is opened again where it ended, by the id of its last event. The pauses between tries grow,
//! and when nothing came for long enough the error is told.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use wharf_types::Problem;

use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::sse::{SseEvent, SseParser};

/// A stream that says nothing for so long, not even that it lives, is opened again.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Without a platform for so long, following ends.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Calls `on_event` for every event, until it or the platform ends it with an error.
pub async fn follow<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
    mut on_event: impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<Infallible> {
    let mut last_id = None;
    let mut failures = 0;
    let mut alive_at: Option<Instant> = None;
    loop {
        let opened_at = Instant::now();
        let ended = match client.open_stream(path, query, last_id.as_deref()).await {
            Ok(response) => {
                let why = read(response, &mut last_id, &mut on_event).await?;
                alive_at = Some(Instant::now());
                why
            }
            // The first try fails at once: the address may simply be wrong.
            Err(error) if alive_at.is_none() || !is_worth_another_try(&error) => return Err(error),
            Err(error) => error,
        };
        if alive_at.is_some_and(|at| at.elapsed() > GIVE_UP_AFTER) {
            return Err(ended);
        }
        failures = if opened_at.elapsed() > PAUSE_MAX { 0 } else { failures + 1 };
        tokio::time::sleep(pause(failures)).await;
    }
}

/// Reads until the stream breaks, and returns why. An error of `on_event` or of the platform ends everything.
async fn read<T: DeserializeOwned>(
    mut response: reqwest::Response,
    last_id: &mut Option<String>,
    on_event: &mut impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<anyhow::Error> {
    let mut parser = SseParser::default();
    loop {
        let chunk = match timeout(SILENCE_MAX, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => {
                return Ok(Failure::new(Exit::Unreachable, "the platform ended the stream").into());
            }
            Ok(Err(error)) => return Ok(anyhow::Error::new(error).context("the stream broke")),
            Err(_) => return Ok(Failure::new(Exit::Unreachable, "the stream fell silent").into()),
        };
        for event in parser.feed(&chunk)? {
            on_event(parse(&event)?)?;
            *last_id = event.id.or(last_id.take());
        }
    }
}

fn parse<T: DeserializeOwned>(event: &SseEvent) -> anyhow::Result<T> {
    serde_json::from_str(&event.data).or_else(|error| match serde_json::from_str::<Problem>(&event.data) {
        Ok(problem) => Err(problem.into()),
        Err(_) => {
            Err(error).context("the stream holds an event that this version of wharf does not understand")
        }
    })
}

fn is_worth_another_try(error: &anyhow::Error) -> bool {
    matches!(Exit::of(error), Exit::Unreachable | Exit::Platform)
}

/// The pause after so many failures in a row.
fn pause(failures: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_server::{self, TestServer};
    use wharf_types::event::Event;
    use wharf_types::problem::ProblemCode;

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(pause(0), PAUSE_MIN);
        assert_eq!(pause(1), PAUSE_MIN);
        assert_eq!(pause(3), PAUSE_MIN * 4);
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }

    #[test]
    fn a_problem_within_a_stream_is_told() {
        let data = r#"{"status":404,"code":"not_found","title":"t","detail":"the app is gone"}"#;
        let event = SseEvent { id: None, data: data.to_owned() };
        let error = parse::<Event>(&event).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NotFound);
    }

    fn event(seq: i64) -> Event {
        Event {
            seq,
            time: wharf_types::Timestamp::UNIX_EPOCH,
            namespace: "default".parse().unwrap(),
            app: None,
            kind: "release.created".into(),
            message: "release 1".into(),
        }
    }

    #[tokio::test]
    async fn a_broken_stream_goes_on_where_it_ended() {
        let sse = |seq: i64| format!("id: {seq}\ndata: {}\n\n", serde_json::to_string(&event(seq)).unwrap());
        let gone = Problem::new(ProblemCode::NotFound, "the app is gone");
        let server = TestServer::spawn(vec![
            test_server::stream(&format!("{}{}id: 3\ndata: {{\"se", sse(1), sse(2))),
            String::new(),
            test_server::stream(&sse(3)),
            test_server::json("404 Not Found", &gone),
        ])
        .await;
        let mut seen = Vec::new();
        let error = follow(&server.client(), "/v1/x/events", &[], |event: Event| {
            seen.push(event.seq);
            Ok(())
        })
        .await
        .unwrap_err();
        assert_eq!(seen, [1, 2, 3]);
        assert_eq!(Exit::of(&error), Exit::NotFound);
        let last_ids: Vec<Option<String>> = server
            .requests()
            .iter()
            .map(|request| Some(request.split_once("last-event-id: ")?.1.lines().next()?.to_owned()))
            .collect();
        assert_eq!(last_ids, [None, Some("2".into()), Some("2".into()), Some("3".into())]);
    }

    #[tokio::test]
    async fn an_address_that_never_answered_fails_at_once() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::with_token("http://127.0.0.1:1", None).unwrap();
        let error = follow(&client, "/v1/x", &[], |_: Event| Ok(())).await.unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unreachable);
    }
}
