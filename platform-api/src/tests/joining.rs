//! Hosts that ask again because they have not heard the answer, and hosts that somebody wants to look at first.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use wharf_pki::{JoinToken, NodeKey};
use wharf_types::NodeId;
use wharf_types::api::SERVERS_HEADER;

use super::fixture::{Platform, Reply, component, eventually, request};
use super::worker::Worker;
use crate::api::PeerNode;
use crate::listener::NotForWorkers;

impl Platform {
    async fn lets_in(&self, how: Value) -> JoinToken {
        let made = self.call(Method::POST, "/v1/join-tokens", how).await.is(201);
        made["token"].as_str().unwrap().parse().unwrap()
    }

    async fn joins_with(&self, token: &JoinToken, key: &NodeKey) -> Reply {
        let request = json!({"request": key.request().unwrap()});
        self.call_as(&token.secret, Method::POST, "/v1/join", request).await
    }

    async fn registers(&self, node: NodeId) -> Reply {
        let registration = json!({"hostname": "b", "memory_bytes": 1u64 << 32, "cpus": 2, "version": "0"});
        let put = request("none", Method::PUT, &format!("/v1/nodes/{node}"));
        let mut put = put.body(Body::from(registration.to_string())).unwrap();
        put.extensions_mut().insert(PeerNode(node));
        self.send(put).await
    }
}

fn node(joined: &Value) -> NodeId {
    joined["node"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_host_that_asks_again_with_its_key_is_the_same_node_and_takes_no_other_use() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let token = platform.lets_in(json!({})).await;
    let (key, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    let first = node(&platform.joins_with(&token, &key).await.is(201));
    for _ in 0..2 {
        assert_eq!(node(&platform.joins_with(&token, &key).await.is(201)), first);
    }
    platform.joins_with(&token, &other).await.refuses(401, "unauthenticated", &["used as often as it may"]);
    // With another token it is another host, whatever its key.
    let another = platform.lets_in(json!({})).await;
    assert_ne!(node(&platform.joins_with(&another, &key).await.is(201)), first);

    platform.registers(first).await.is(204);
    platform.call(Method::DELETE, &format!("/v1/nodes/{first}"), Value::Null).await.is(204);
    let again = platform.joins_with(&token, &key).await;
    again.refuses(401, "unauthenticated", &["used as often as it may"]);
}

#[tokio::test]
async fn a_token_whose_time_is_over_gives_nobody_another_certificate() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let token = platform.lets_in(json!({"expires_in": "1s"})).await;
    let key = NodeKey::generate().unwrap();
    platform.joins_with(&token, &key).await.is(201);
    eventually("it has expired", async || {
        let refused = platform.joins_with(&token, &key).await;
        (refused.status == 401 && refused.json["detail"].as_str()?.contains("expired at")).then_some(())
    })
    .await;
    for dead in ["0s", "1ns"] {
        let made = platform.call(Method::POST, "/v1/join-tokens", json!({"expires_in": dead})).await;
        made.refuses(422, "invalid_spec", &["expires_in"]);
    }
}

#[tokio::test]
async fn a_host_that_is_let_in_drained_gets_nothing_until_it_is_resumed() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let token = platform.lets_in(json!({"drained": true})).await;
    let listed = platform.get("/v1/join-tokens").await;
    assert_eq!(listed["items"][0]["drained"], true);
    let new = node(&platform.joins_with(&token, &NodeKey::generate().unwrap()).await.is(201));
    platform.registers(new).await.is(204);
    let path = format!("/v1/nodes/{new}");
    assert_eq!(platform.get(&path).await["draining"], true);
    let worker = Worker::join(&platform).await;
    let deployed = platform.deploy("hello", &component(0), json!({"scale": {"replicas": 2}})).await.is(201);
    platform.rollout("hello", &deployed).await;
    let instances = async |of: NodeId| platform.get(&format!("/v1/nodes/{of}")).await["instances"].clone();
    assert_eq!((instances(new).await, instances(worker.node).await), (json!(0), json!(2)));

    platform.call(Method::PATCH, &path, json!({"draining": false})).await.is(200);
    platform.registers(new).await.is(204);
    assert_eq!(platform.get(&path).await["draining"], false, "it was only to begin like that");
}

#[tokio::test]
async fn workers_are_told_where_the_servers_are() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let token = platform.lets_in(json!({})).await;
    let new = node(&platform.joins_with(&token, &NodeKey::generate().unwrap()).await.is(201));
    let told = platform.registers(new).await;
    assert_eq!(told.headers[SERVERS_HEADER], "10.0.0.1:7071");
    told.is(204);
}

#[tokio::test]
async fn who_looks_for_the_api_at_the_port_of_workers_is_told_where_it_is() {
    let platform = Platform::start().await;
    let mut asked = request("none", Method::GET, "/not-for-workers").body(Body::empty()).unwrap();
    asked.extensions_mut().insert(NotForWorkers);
    platform.send(asked).await.refuses(404, "not_found", &["this port is for workers", "7070", "--api"]);
}
