//! Streams: events, logs, states; they resume after the last id that was seen.

use axum::body::Body;
use axum::http::Method;
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::fixture::{LIMIT, Platform, component, eventually, quick, request};
use super::worker::Worker;

const HELLO: &str = "/v1/namespaces/default/apps/hello";

/// Reads server-sent events.
struct Events {
    body: axum::body::BodyDataStream,
    pending: String,
}

struct Event {
    id: String,
    kind: String,
    data: Value,
}

impl Events {
    fn of(response: Response) -> Self {
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), pending: String::new() }
    }

    /// None: the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.pending.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    line.unwrap_or_default().to_owned()
                };
                let data = serde_json::from_str(&field("data")).unwrap_or(Value::Null);
                let found = Event { id: field("id"), kind: field("event"), data };
                self.pending = rest.to_owned();
                if found.kind.is_empty() {
                    continue;
                }
                return Some(found);
            }
            let chunk = timeout(LIMIT, self.body.next()).await.expect("an event in time")?;
            self.pending.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn events_stream_as_they_happen_and_resume() {
    let platform = Platform::start().await;
    let mut events = Events::of(platform.open_stream("/v1/namespaces/default/events", &[]).await);
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let first = events.next().await.unwrap();
    assert_eq!((first.kind.as_str(), &first.data["kind"]), ("event", &json!("release.created")));
    platform.call(Method::PUT, &format!("{HELLO}/scale"), json!({"replicas": 2})).await.is(200);
    let path = format!("{HELLO}/events");
    let mut resumed = Events::of(platform.open_stream(&path, &[("last-event-id", &first.id)]).await);
    let next = resumed.next().await.unwrap();
    assert!(next.data["seq"].as_i64().unwrap() > first.data["seq"].as_i64().unwrap());
}

#[tokio::test]
async fn an_app_is_watched_until_it_is_gone() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let mut states = Events::of(platform.open_stream(&format!("{HELLO}/watch"), &[]).await);
    while states.next().await.unwrap().data["condition"] != "running" {}
    platform.call(Method::DELETE, HELLO, Value::Null).await.is(204);
    while let Some(state) = states.next().await {
        if state.kind == "deleted" {
            return;
        }
    }
    panic!("the stream ended without saying that the app is gone");
}

#[tokio::test]
async fn streams_end_with_the_control_plane() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let mut states = Events::of(platform.open_stream(&format!("{HELLO}/watch"), &[]).await);
    states.next().await.unwrap();
    platform.context.shutdown.cancel();
    while states.next().await.is_some() {}
}

fn record(seq: u64, message: &str) -> Value {
    json!({"time": "2026-01-01T00:00:00Z", "namespace": "default", "app": "hello", "release": 1,
        "instance": uuid::Uuid::nil(), "stream": "stdout", "seq": seq, "message": message})
}

#[tokio::test]
async fn logs_are_tailed_followed_and_go_with_the_app() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    let send = async |records: Value| {
        let path = format!("/v1/nodes/{}/logs", worker.node);
        let body = Body::from(records.to_string());
        platform.send(request(&platform.node_token, Method::POST, &path).body(body).unwrap()).await.is(204);
    };
    send(json!([record(0, "one"), record(1, "two")])).await;
    let tail = platform.get(&format!("{HELLO}/logs?tail=1")).await;
    assert_eq!(tail["items"][0]["message"], "two");
    assert_eq!(platform.get(&format!("{HELLO}/logs?since_release=2")).await["items"], json!([]));
    let mut logs = Events::of(platform.open_stream(&format!("{HELLO}/logs?tail=2"), &[]).await);
    let first = logs.next().await.unwrap();
    assert_eq!(first.data["message"], "one");
    logs.next().await.unwrap();
    send(json!([record(2, "three")])).await;
    assert_eq!(logs.next().await.unwrap().data["message"], "three");
    let path = format!("{HELLO}/logs");
    let mut resumed = Events::of(platform.open_stream(&path, &[("last-event-id", &first.id)]).await);
    assert_eq!(resumed.next().await.unwrap().data["message"], "two");

    platform.call(Method::DELETE, HELLO, Value::Null).await.is(204);
    let dir = platform.dir.path().join("data/logs/default/hello");
    eventually("the records are gone", async || (!dir.exists()).then_some(())).await;
    send(json!([record(3, "late")])).await;
    assert!(!dir.exists());
}
