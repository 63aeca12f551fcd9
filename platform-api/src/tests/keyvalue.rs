//! Guests' data.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::NodeId;

use super::deploying::HELLO;
use super::fixture::{Platform, Reply, component, eventually, quick, request};
use crate::store;

impl Platform {
    pub(super) async fn kv(&self, app: &str, op: Value) -> Reply {
        let path = format!("/v1/nodes/{}/keyvalue", NodeId::new());
        let body = json!({"namespace": "default", "app": app, "bucket": "default", "op": op}).to_string();
        self.send(request(&self.node_token, Method::POST, &path).body(Body::from(body)).unwrap()).await
    }
}

#[tokio::test]
async fn values_are_kept_for_each_app_by_itself() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    platform.deploy("second", &component(0), quick()).await.is(201);
    assert_eq!(
        platform.kv("hello", json!({"set": {"key": "k", "value": "00ff"}})).await.is(200),
        json!("done")
    );
    assert_eq!(platform.kv("hello", json!({"get": {"key": "k"}})).await.is(200), json!({"value": "00ff"}));
    assert_eq!(platform.kv("second", json!({"get": {"key": "k"}})).await.is(200), json!({"value": null}));
    let many = json!({"set_many": {"pairs": [["a", "01"], ["b", ""]]}});
    platform.kv("hello", many).await.is(200);
    let values = platform.kv("hello", json!({"get_many": {"keys": ["b", "x", "a"]}})).await.is(200);
    assert_eq!(values, json!({"values": ["", null, "01"]}));
    let keys = platform.kv("hello", json!({"list_keys": {"after": "a"}})).await.is(200);
    assert_eq!(keys, json!({"keys": {"keys": ["b", "k"], "more": false}}));
    platform.kv("hello", json!({"delete_many": {"keys": ["a", "b", "none"]}})).await.is(200);
    assert_eq!(platform.kv("hello", json!({"exists": {"key": "a"}})).await.is(200), json!({"exists": false}));
    let platform = Platform::start_in(platform.crash()).await;
    assert_eq!(platform.kv("hello", json!({"get": {"key": "k"}})).await.is(200), json!({"value": "00ff"}));
}

#[tokio::test]
async fn increments_at_the_same_time_all_count() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let increments = (0..20).map(|_| platform.kv("hello", json!({"increment": {"key": "n", "delta": 2}})));
    for reply in futures::future::join_all(increments).await {
        reply.is(200);
    }
    let last = platform.kv("hello", json!({"increment": {"key": "n", "delta": 0}})).await.is(200);
    assert_eq!(last, json!({"number": 40}));
    platform.kv("hello", json!({"set": {"key": "text", "value": "78"}})).await.is(200);
    let refused = platform.kv("hello", json!({"increment": {"key": "text", "delta": 1}})).await;
    refused.refuses(400, "invalid_request", &["not a number"]);
}

#[tokio::test]
async fn what_an_increment_is_refused_for_is_not_written() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let value = async || platform.kv("hello", json!({"get": {"key": "n"}})).await.is(200);
    // "-5"
    platform.kv("hello", json!({"set": {"key": "n", "value": "2d35"}})).await.is(200);
    let refused = platform.kv("hello", json!({"increment": {"key": "n", "delta": 1}})).await;
    refused.refuses(400, "invalid_request", &["-4", "negative"]);
    assert_eq!(value().await, json!({"value": "2d35"}));
    platform.kv("hello", json!({"increment": {"key": "n", "delta": 7}})).await.is(200);
    assert_eq!(value().await, json!({"value": "32"}));
    let refused = platform.kv("hello", json!({"increment": {"key": "n", "delta": i64::MAX}})).await;
    refused.refuses(400, "invalid_request", &["2^63-1"]);
    assert_eq!(value().await, json!({"value": "32"}));
}

#[tokio::test]
async fn keys_values_and_namespaces_have_limits() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let long_key = platform.kv("hello", json!({"get": {"key": "k".repeat(1025)}})).await;
    long_key.refuses(400, "invalid_request", &["1024"]);
    let large = platform.kv("hello", json!({"set": {"key": "k", "value": "00".repeat((1 << 20) + 1)}})).await;
    large.refuses(413, "too_large", &["1048576"]);
    let pair = |at: usize| json!([format!("k{at}"), "00".repeat(1 << 20)]);
    let pairs = |count: usize| json!({"set_many": {"pairs": (0..count).map(pair).collect::<Vec<_>>()}});
    platform.kv("hello", pairs(8)).await.refuses(413, "too_large", &["8 MiB", "fewer"]);
    platform.kv("hello", pairs(13)).await.refuses(413, "too_large", &[]);
    for op in [json!({"get": {"key": "a\0b"}}), json!({"list_keys": {"after": "\0"}})] {
        platform.kv("hello", op).await.refuses(400, "invalid_request", &["NUL"]);
    }
    let unknown = platform.kv("hello", json!({"set": {"key": "k", "value": "", "if_absent": true}})).await;
    unknown.refuses(400, "invalid_request", &["`if_absent`"]);
    let mut tx = platform.context.store.write().await.unwrap();
    let full = "INSERT INTO kv_usage (namespace, bytes) SELECT id, $1 FROM namespace";
    store::query(full).bind((256_i64 << 20) - 300).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    platform.kv("hello", json!({"set": {"key": "k", "value": "0102"}})).await.is(200);
    let quota = platform.kv("hello", json!({"set": {"key": "l", "value": "00".repeat(100)}})).await;
    quota.refuses(403, "quota_exceeded", &["256 MiB"]);
    platform.kv("hello", json!({"delete": {"key": "k"}})).await.is(200);
    assert_eq!(platform.kv("none", json!({"get": {"key": "k"}})).await.status, 404);
}

#[tokio::test]
async fn a_batch_gathers_no_more_than_a_reply_may_hold() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    platform.kv("hello", json!({"set": {"key": "k", "value": "00".repeat(1 << 20)}})).await.is(200);
    platform.kv("hello", json!({"get_many": {"keys": vec!["k"; 7]}})).await.is(200);
    let large = platform.kv("hello", json!({"get_many": {"keys": vec!["k"; 1000]}})).await;
    large.refuses(413, "too_large", &["7 MiB", "fewer keys"]);
}

#[tokio::test]
async fn an_app_with_many_keys_is_deleted_also_across_a_restart_and_its_name_starts_empty() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    platform.deploy("second", &component(0), quick()).await.is(201);
    platform.kv("second", json!({"set": {"key": "k", "value": "00"}})).await.is(200);
    for part in 0..6 {
        let pairs: Vec<Value> = (0..1000).map(|at| json!([format!("{part}-{at}"), ""])).collect();
        platform.kv("hello", json!({"set_many": {"pairs": pairs}})).await.is(200);
    }
    platform.call(Method::DELETE, HELLO, Value::Null).await.is(204);
    let platform = Platform::start_in(platform.crash()).await;
    eventually("the app is gone", async || {
        let events = platform.get(&format!("{HELLO}/events")).await;
        let last = events["items"].as_array()?.last()?["kind"].clone();
        (last == "app.deleted").then_some(())
    })
    .await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let keys = platform.kv("hello", json!({"list_keys": {"after": null}})).await.is(200);
    assert_eq!(keys, json!({"keys": {"keys": [], "more": false}}));
    let mut conn = platform.context.store.look().await.unwrap();
    let namespace = store::namespace::find_id(&mut conn, &"default".parse().unwrap()).await.unwrap().unwrap();
    let of_second = 256 + "default".len() + 2;
    assert_eq!(
        store::keyvalue::usage(&mut conn, namespace).await.unwrap(),
        i64::try_from(of_second).unwrap()
    );
}
