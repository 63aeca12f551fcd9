//! Whatever server is asked, the one that leads answers. On SQLite there is only one, and these tests are about nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;
use wharf_types::api::JoinTokenInfo;
use wharf_types::exec::Frame;
use wharf_types::{NodeId, Timestamp, TokenId};

use super::fixture::{LIMIT, Platform, config, quick, request};
use super::worker::Worker;
use crate::Config;
use crate::api::PeerNode;
use crate::context::Joining;
use crate::listener::serve_workers;
use crate::store;

/// Two servers that reach each other; the first one leads. A door closes with its guard.
struct Two {
    first: Platform,
    second: Platform,
    doors: [Option<DropGuard>; 2],
}

/// A server whose port for workers is open, and that port's guard.
async fn open(platform: Platform, listener: TcpListener) -> (Platform, DropGuard) {
    let address = platform.context.config.address.clone();
    let authorities = platform.authorities().await;
    let joining = Joining { authorities: authorities.clone(), address };
    assert!(platform.context.joining.set(joining).is_ok());
    let shutdown = CancellationToken::new();
    tokio::spawn(serve_workers(listener, platform.router.clone(), authorities, shutdown.clone()));
    (platform, shutdown.drop_guard())
}

async fn two() -> Option<Two> {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = config(&dir).await;
    (config.database != crate::Database::DataDir).then_some(())?;
    let listen = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    };
    let (listener, address) = listen().await;
    let first = Platform::start_with(Config { address, ..config.clone() }, dir.clone()).await;
    first.leads().await;
    let (first, door) = open(first, listener).await;
    let (listener, address) = listen().await;
    let beside = Config { address, data_dir: dir.path().join("beside"), ..config };
    std::fs::create_dir_all(&beside.data_dir).unwrap();
    std::fs::copy(dir.path().join("data/secret.key"), beside.data_dir.join("secret.key")).unwrap();
    let (second, other) = open(Platform::start_with(beside, dir).await, listener).await;
    Some(Two { first, second, doors: [Some(door), Some(other)] })
}

/// What a server answers to the worker whose certificate the connection has shown.
async fn as_node(
    at: &Platform,
    node: NodeId,
    method: Method,
    path: &str,
    body: Value,
) -> super::fixture::Reply {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let mut request = request("none", method, path).body(body).unwrap();
    request.extensions_mut().insert(PeerNode(node));
    at.send(request).await
}

async fn join(at: &Platform) -> NodeId {
    let node = NodeId::new();
    let mut tx = at.context.store.write().await.unwrap();
    let now = Timestamp::now();
    let token = JoinTokenInfo {
        id: TokenId::new(),
        node: None,
        role: None,
        drained: false,
        uses_left: 1,
        expires_at: now,
        created_at: now,
    };
    store::joining::admit(&mut tx, node, &token, "key", now).await.unwrap();
    tx.commit().await.unwrap();
    node
}

fn registration() -> Value {
    json!({"hostname": "b", "memory_bytes": 1u64 << 32, "cpus": 2, "version": "0"})
}

#[tokio::test]
async fn every_server_knows_what_the_leader_knows_of_nodes_and_apps() {
    let Some(Two { first, second, doors: _doors }) = two().await else { return };
    let worker = Worker::join(&first).await;
    first.serve(0, quick()).await;
    let nodes = second.get("/v1/nodes").await;
    assert_eq!(nodes["items"][0]["ready"], true);
    let usage = second.get("/v1/namespaces/default/usage").await;
    assert_eq!(usage["apps"][0]["invocations"], 7, "{usage}");
    let path = format!("/v1/nodes/{}", worker.node);
    let patched = second.call(Method::PATCH, &path, json!({"labels": {"zone": "b"}})).await.is(200);
    assert_eq!(patched["labels"]["zone"], "b");
    second.call(Method::DELETE, &path, Value::Null).await.refuses(409, "conflict", &["runs 1 instances"]);
    let nobody = second.call_as("wharf_none", Method::GET, "/v1/nodes", Value::Null).await;
    nobody.refuses(401, "unauthenticated", &["not known here"]);
    let servers = second.get("/v1/servers").await;
    let leads: Vec<bool> = servers["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| server["leads"].as_bool().unwrap())
        .collect();
    assert_eq!(leads.iter().filter(|leads| **leads).count(), 1, "{servers}");
}

#[tokio::test]
async fn a_worker_that_reaches_any_server_has_a_session_with_the_leader_and_speaks_for_itself_only() {
    let Some(Two { first, second, doors: _doors }) = two().await else { return };
    let (node, other) = (join(&first).await, join(&first).await);
    let path = format!("/v1/nodes/{node}");
    as_node(&second, node, Method::PUT, &path, registration()).await.is(204);
    assert!(first.context.nodes.ids().contains(&node), "the leader has it");
    let foreign = as_node(&second, other, Method::PUT, &path, registration()).await;
    foreign.refuses(403, "forbidden", &["speaks for no other"]);
    let mut asked = request("none", Method::GET, &format!("{path}/assignments")).body(Body::empty()).unwrap();
    asked.extensions_mut().insert(PeerNode(node));
    let stream = second.router.clone().oneshot(asked).await.unwrap();
    assert_eq!(stream.status(), 200);
    let mut lines = stream.into_body().into_data_stream();
    let line = tokio::time::timeout(LIMIT, lines.next()).await.unwrap().unwrap().unwrap();
    let assignment: wharf_types::node::Assignment = serde_json::from_slice(&line).unwrap();
    assert_eq!(assignment.node, node);
    first.context.follow_others();
    while let Ok(Some(Ok(_))) = tokio::time::timeout(LIMIT, lines.next()).await {}
    assert!(lines.next().await.is_none(), "the stream ends with the leader");
}

#[tokio::test]
async fn a_command_is_run_also_through_a_server_that_does_not_lead() {
    let Some(Two { first, second, doors: _doors }) = two().await else { return };
    let node = first.runs_container("box").await;
    let said = vec![Frame::Stdout(b"hi".to_vec()), Frame::Exit(3)];
    first.runs_commands(node, said.clone()).await;
    assert_eq!(second.exec("box", &json!({"command": ["id"]})).await, said);
}

#[tokio::test]
async fn a_request_waits_for_the_next_leader() {
    let Some(Two { first, second, mut doors }) = two().await else { return };
    let epoch = first.leads().await;
    Worker::join(&first).await;
    second.get("/v1/nodes").await;
    drop(doors[0].take());
    first.crash();
    let began = std::time::Instant::now();
    let nodes = second.call(Method::GET, "/v1/nodes", Value::Null).await;
    assert_eq!(nodes.status, 200, "{:?}: {}", began.elapsed(), nodes.json);
    assert!(second.leads().await > epoch);
}

#[tokio::test]
async fn where_no_leader_can_be_reached_it_is_said_in_time() {
    let Some(Two { first, second, mut doors }) = two().await else { return };
    drop(doors[0].take());
    let began = std::time::Instant::now();
    let refused = second.call(Method::GET, "/v1/nodes", Value::Null).await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.refuses(503, "unavailable", &["no control plane leads"]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    second.get("/v1/namespaces").await;
    drop(first);
}

#[tokio::test]
async fn two_servers_that_both_do_not_lead_do_not_send_a_request_round_in_circles() {
    let Some(Two { first, second, doors: _doors }) = two().await else { return };
    second.get("/v1/nodes").await;
    // It still has the lease, and does not know it.
    first.context.follow_others();
    let refused = second.call(Method::DELETE, &format!("/v1/nodes/{}", NodeId::new()), Value::Null).await;
    refused.refuses(503, "unavailable", &["no control plane leads"]);
    second.call(Method::GET, "/v1/nodes", Value::Null).await.refuses(503, "unavailable", &["try again"]);
}
