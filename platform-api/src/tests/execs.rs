//! Commands in containers: who may run which where, and what is said while one runs.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{Method, Request};
use bytes::Bytes;
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use wharf_types::exec::{Decoder, ExecOrder, Frame, MEDIA_TYPE};
use wharf_types::image::{ImageDocument, ImagePin};
use wharf_types::{Digest, NodeId};

use super::fixture::{LIMIT, Platform, component, quick, request};
use super::worker::Worker;
use crate::execs::frames::Frames;
use crate::listener;

const NS: &str = "/v1/namespaces/default";

/// These frames, and then nothing more, as of somebody who goes on listening.
pub(super) fn saying(frames: Vec<Frame>) -> Body {
    let said = frames.into_iter().map(|frame| Ok::<_, Infallible>(Bytes::from(frame.encode())));
    Body::from_stream(futures::stream::iter(said).chain(futures::stream::pending()))
}

pub(super) async fn all(body: Body) -> Vec<Frame> {
    let (mut frames, mut all) = (Frames::new(body), Vec::new());
    while let Some(frame) = timeout(LIMIT, frames.next()).await.expect("a frame in time").unwrap() {
        all.push(frame);
    }
    all
}

impl Platform {
    /// An app that runs in a container, and its node.
    pub(super) async fn runs_container(&self, app: &str) -> NodeId {
        self.call(Method::PUT, &format!("{NS}/quota"), json!({"containers": "isolated"})).await.is(200);
        let node = Worker::join_with_engine(self).await.until_the_end();
        let pin = ImagePin::Digest(Digest::of(b"an image"));
        let image = ImageDocument { image: "redis:7".into(), pin, platforms: Vec::new() };
        let deployed = self.deploy(app, &image.to_octets(), quick()).await.is(201);
        let rollout = self.rollout(app, &deployed).await;
        assert!(["monitoring", "succeeded"].contains(&rollout["state"].as_str().unwrap()), "{rollout}");
        node
    }

    /// The worker of this node follows its orders from now on, and of each command it says this.
    pub(super) async fn runs_commands(
        &self,
        node: NodeId,
        says: Vec<Frame>,
    ) -> mpsc::UnboundedReceiver<ExecOrder> {
        self.follows(node, "execs", says).await
    }

    /// The same for orders of any kind.
    pub(super) async fn follows<O: DeserializeOwned + Send + 'static>(
        &self,
        node: NodeId,
        kind: &str,
        says: Vec<Frame>,
    ) -> mpsc::UnboundedReceiver<O> {
        let (router, token) = (self.router.clone(), self.node_token.clone());
        let path = format!("/v1/nodes/{node}/{kind}");
        let follow = request(&token, Method::GET, &path).body(Body::empty()).unwrap();
        let orders = router.clone().oneshot(follow).await.unwrap();
        assert_eq!(orders.status(), 200);
        let (heard, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut orders = orders.into_body().into_data_stream();
            let mut answers = Vec::new();
            while let Some(Ok(line)) = orders.next().await {
                let Ok(order) = serde_json::from_slice::<Value>(&line) else { continue };
                let id = order["id"].as_str().unwrap().to_owned();
                let join = request(&token, Method::POST, &format!("{path}/{id}"));
                let answer = router.clone().oneshot(join.body(saying(says.clone())).unwrap()).await.unwrap();
                assert_eq!(answer.status(), 200);
                answers.push(answer);
                let _ = heard.send(serde_json::from_value(order).unwrap());
            }
        });
        told
    }

    pub(super) fn exec_request(&self, token: &str, app: &str, spec: &Value) -> Request<Body> {
        let start = Frame::Start(spec.to_string().into_bytes());
        let request = request(token, Method::POST, &format!("{NS}/apps/{app}/exec"));
        request.header("content-type", MEDIA_TYPE).body(saying(vec![start])).unwrap()
    }

    /// All that comes back of a command.
    pub(super) async fn exec(&self, app: &str, spec: &Value) -> Vec<Frame> {
        let answer = self.router.clone().oneshot(self.exec_request(&self.admin, app, spec)).await.unwrap();
        assert_eq!(answer.status(), 200);
        all(answer.into_body()).await
    }
}

#[tokio::test]
async fn a_command_is_run_beside_its_app_and_what_it_says_comes_back() {
    let platform = Platform::start().await;
    let node = platform.runs_container("box").await;
    let said = vec![Frame::Stdout(b"out".to_vec()), Frame::Stderr(b"err".to_vec()), Frame::Exit(3)];
    let mut orders = platform.runs_commands(node, said.clone()).await;
    let spec = json!({"command": ["sh", "-c", "exit 3"], "tty": true, "user": "root", "env": {"A": "b"}});
    assert_eq!(platform.exec("box", &spec).await, said);
    let order = orders.recv().await.unwrap();
    let instance = platform.app("box").await["instances"][0]["id"].clone();
    assert_eq!(json!(order.instance), instance);
    assert_eq!((order.spec.command.len(), order.spec.tty, &order.spec.env["A"][..]), (3, true, "b"));
}

#[tokio::test]
async fn developers_run_commands_in_their_namespaces_and_viewers_and_others_do_not() {
    let platform = Platform::start().await;
    let node = platform.runs_container("box").await;
    platform.runs_commands(node, vec![Frame::Exit(0)]).await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let spec = json!({"command": ["cat", "/etc/passwd"], "env": {"PASSWORD": "s3cret"}});
    let victor = platform.member("victor", "default", "viewer").await;
    let refused = platform.send(platform.exec_request(&victor, "box", &spec)).await;
    refused.refuses(403, "forbidden", &["role `developer`"]);
    let mallory = platform.member("mallory", "other", "admin").await;
    let refused = platform.send(platform.exec_request(&mallory, "box", &spec)).await;
    refused.refuses(404, "not_found", &["there is no namespace `default`"]);
    let alice = platform.member("alice", "default", "developer").await;
    let answer = platform.router.clone().oneshot(platform.exec_request(&alice, "box", &spec)).await.unwrap();
    assert_eq!(all(answer.into_body()).await, [Frame::Exit(0)]);

    let record = &platform.audit("actor=alice&object=apps/box").await[0];
    assert_eq!((&record["action"], &record["outcome"]), (&json!("post_namespace_app_exec"), &json!("done")));
    let after = &record["after"];
    assert_eq!((&after["command"], &after["slot"]), (&json!(["cat", "/etc/passwd"]), &json!(1)));
    assert_eq!(after["env"], json!({"PASSWORD": "(set)"}));
    let refused = &platform.audit("actor=victor").await[0];
    assert_eq!((&refused["outcome"], &refused["after"]), (&json!("refused"), &Value::Null));
}

#[tokio::test]
async fn a_command_ends_for_whoever_may_not_run_it_any_more() {
    let platform = Platform::start().await;
    let node = platform.runs_container("box").await;
    platform.runs_commands(node, vec![Frame::Stdout(b"begun".to_vec())]).await;
    let alice = platform.member("alice", "default", "developer").await;
    let request = platform.exec_request(&alice, "box", &json!({"command": ["sleep", "1000"]}));
    let answer = platform.router.clone().oneshot(request).await.unwrap();
    let mut frames = Frames::new(answer.into_body());
    assert_eq!(frames.next().await, Ok(Some(Frame::Stdout(b"begun".to_vec()))));
    platform.call(Method::DELETE, &format!("{NS}/members/alice"), Value::Null).await.is(204);
    let next = timeout(LIMIT, frames.next()).await.expect("it ends in time");
    assert_eq!(next, Ok(None));
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_with_what_to_do_and_leaves_no_record() {
    let platform = Platform::start().await;
    let id = json!({"command": ["id"]});
    let tries = async |app: &str, spec: &Value| {
        platform.send(platform.exec_request(&platform.admin, app, spec)).await
    };
    platform.deploy("wasm", &component(0), quick()).await.is(201);
    tries("wasm", &id).await.refuses(400, "invalid_request", &["WebAssembly", "wharf job run --app wasm"]);
    tries("none", &id).await.refuses(404, "not_found", &["no app `none`"]);
    let node = platform.runs_container("box").await;
    tries("box", &id).await.refuses(503, "unavailable", &["takes no commands now"]);
    let orders = platform.runs_commands(node, vec![Frame::Exit(0)]).await;
    let from = platform.audit("cursor=0").await.len();
    for (spec, words) in [
        (json!({}), "command"),
        (json!({"command": []}), "name a program"),
        (json!({"command": ["id"], "what": 1}), "what"),
        (json!({"command": ["id"], "slot": 0}), "counted from 1"),
    ] {
        tries("box", &spec).await.refuses(400, "invalid_request", &[words]);
    }
    tries("box", &json!({"command": ["id"], "slot": 7})).await.refuses(404, "not_found", &["no slot 7"]);
    let plain = platform.call(Method::POST, &format!("{NS}/apps/box/exec"), id.clone()).await;
    plain.refuses(400, "invalid_request", &["Upgrade: wharf-exec/1"]);
    assert_eq!(platform.audit("cursor=0").await.len(), from);
    platform.call(Method::POST, &format!("{NS}/apps/box/stop"), Value::Null).await.is(200);
    tries("box", &id).await.refuses(409, "conflict", &["wharf start box"]);
    drop(orders);
}

#[tokio::test]
async fn a_connection_is_taken_over() {
    let platform = Platform::start().await;
    let node = platform.runs_container("box").await;
    platform.runs_commands(node, vec![Frame::Stdout(b"hi".to_vec()), Frame::Exit(7)]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(listener::serve(listener, platform.router.clone(), shutdown.clone()));
    let mut connection = TcpStream::connect(address).await.unwrap();
    let body = json!({"command": ["id"]}).to_string();
    let head = format!(
        "POST {NS}/apps/box/exec HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: upgrade\r\n\
         upgrade: wharf-exec/1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        platform.admin,
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(LIMIT, connection.read_to_end(&mut answer)).await.expect("it is closed").unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: wharf-exec/1"), "{head}");
    let mut decoder = Decoder::default();
    decoder.push(&answer[end..]);
    assert_eq!(decoder.next_frame(), Ok(Some(Frame::Stdout(b"hi".to_vec()))));
    assert_eq!(decoder.next_frame(), Ok(Some(Frame::Exit(7))));
    assert_eq!(decoder.next_frame(), Ok(None));
    shutdown.cancel();
    timeout(LIMIT, serving).await.expect("nothing of it is left").unwrap();
}
