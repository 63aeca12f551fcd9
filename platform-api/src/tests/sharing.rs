//! Several control planes on one database: what one commits, all know. On SQLite there is only one, and these tests are about nothing.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::fixture::{LIMIT, Platform, component, quick, request};
use crate::store::{self, News};

async fn two() -> Option<(Platform, Platform)> {
    let first = Platform::start().await;
    let second = first.start_beside().await?;
    Some((first, second))
}

#[tokio::test]
async fn what_one_server_commits_wakes_the_watchers_of_another_before_they_poll() {
    let Some((first, second)) = two().await else { return };
    first.deploy("hello", &component(0), quick()).await.is(201);
    let app = {
        let mut tx = first.context.store.read().await.unwrap();
        let (namespace, name) = ("default".parse().unwrap(), "hello".parse().unwrap());
        store::app::find(&mut tx, &namespace, &name).await.unwrap().unwrap().id
    };
    let mut fastest = Duration::MAX;
    for replicas in 1..=10 {
        let mut watcher = second.context.watch();
        let path = "/v1/namespaces/default/apps/hello/scale";
        first.call(Method::PUT, path, json!({"replicas": replicas})).await.is(200);
        let committed = Instant::now();
        let told = tokio::time::timeout(LIMIT, watcher.changed(|id| id == app)).await;
        assert_eq!(told, Ok(true));
        fastest = fastest.min(committed.elapsed());
        assert_eq!(
            second.app("hello").await["scale"]["replicas"],
            first.app("hello").await["scale"]["replicas"]
        );
    }
    assert!(fastest < Duration::from_millis(500), "only polling brought it: {fastest:?}");
}

#[tokio::test]
async fn a_revoked_token_opens_nothing_at_any_server_and_its_streams_end() {
    let Some((first, second)) = two().await else { return };
    let token = first.token("viewer", None, "1h").await;
    let me = second.call_as(&token, Method::GET, "/v1/whoami", Value::Null).await.is(200);
    let stream = request(&token, Method::GET, "/v1/namespaces/default/events");
    let stream = stream.header("accept", "text/event-stream").body(Body::empty()).unwrap();
    let stream = second.router.clone().oneshot(stream).await.unwrap();
    assert_eq!(stream.status(), 200);
    let path = format!("/v1/tokens/{}", me["token"].as_str().unwrap());
    first.call(Method::DELETE, &path, Value::Null).await.is(204);
    second.call_as(&token, Method::GET, "/v1/whoami", Value::Null).await.refuses(
        401,
        "unauthenticated",
        &["revoked"],
    );
    tokio::time::timeout(LIMIT, stream.into_body().collect()).await.expect("the stream ends").unwrap();
}

#[tokio::test]
async fn each_server_has_a_first_token_of_its_own_and_all_of_them_count() {
    let Some((first, second)) = two().await else { return };
    assert_ne!(first.admin, second.admin);
    for (server, token) in [(&first, &second.admin), (&second, &first.admin)] {
        server.call_as(token, Method::GET, "/v1/whoami", Value::Null).await.is(200);
    }
}

#[tokio::test]
async fn nothing_is_missed_by_a_server_that_was_deaf_for_a_while() {
    let Some((first, second)) = two().await else { return };
    let mut follower = second.context.store.follow().unwrap();
    // What there was before.
    while !follower.next().await.unwrap().is_empty() {}
    // While nobody listens.
    first.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    first.call(Method::DELETE, "/v1/namespaces/other", Value::Null).await.is(204);
    assert!(follower.next().await.unwrap().contains(&News::Access));
    // More than is kept.
    let mut tx = first.context.store.write().await.unwrap();
    store::query("UPDATE counter SET value = value + 20000 WHERE name = 'change'")
        .execute(&mut tx)
        .await
        .unwrap();
    store::query("DELETE FROM change").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    first.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    first.call(Method::DELETE, "/v1/namespaces/other", Value::Null).await.is(204);
    assert!(follower.next().await.unwrap().contains(&News::Everything));
}
