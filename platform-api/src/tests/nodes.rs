//! How hosts become nodes, what they may then, and how they are emptied and removed.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use wharf_pki::{JoinToken, NodeKey};
use wharf_types::protocol::{self, Versions};
use wharf_types::{Digest, NodeId};

use super::fixture::{Platform, Reply, component, config, eventually, quick, request};
use super::worker::Worker;
use crate::Config;
use crate::api::PeerNode;
use crate::nodes::Start;

impl Platform {
    async fn join_token(&self, body: Value) -> JoinToken {
        let made = self.call(Method::POST, "/v1/join-tokens", body).await.is(201);
        assert_eq!(made["address"], "10.0.0.1:7071");
        made["token"].as_str().unwrap().parse().unwrap()
    }

    async fn join(&self, secret: &str) -> Reply {
        let request = json!({"request": NodeKey::generate().unwrap().request().unwrap()});
        self.call_as(secret, Method::POST, "/v1/join", request).await
    }

    /// As the node whose certificate the connection has shown.
    async fn as_node(&self, peer: NodeId, method: Method, path: &str, body: Value) -> Reply {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let mut request = request("none", method, path).body(body).unwrap();
        request.extensions_mut().insert(PeerNode(peer));
        self.send(request).await
    }
}

fn registration() -> Value {
    json!({"hostname": "b", "memory_bytes": 1u64 << 32, "cpus": 2, "version": "0"})
}

#[tokio::test]
async fn a_join_token_makes_as_many_nodes_as_it_may_and_opens_nothing_else() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/join-tokens", json!({})).await.refuses(
        409,
        "conflict",
        &["wharf server"],
    );
    platform.takes_workers().await;
    let token = platform.join_token(json!({"uses": 2})).await;
    for path in ["/v1/nodes", "/v1/namespaces", "/v1/whoami", "/v1/namespaces/default/apps"] {
        assert_eq!(
            platform.call_as(&token.secret, Method::GET, path, Value::Null).await.status,
            401,
            "{path}"
        );
    }
    let node = |joined: &Value| joined["node"].as_str().unwrap().to_owned();
    let first = platform.join(&token.secret).await.is(201);
    let second = platform.join(&token.secret).await.is(201);
    assert_ne!(node(&first), node(&second));
    platform.join(&token.secret).await.refuses(401, "unauthenticated", &["used as often as it may"]);
    platform.join("wharf_nonsense").await.refuses(401, "unauthenticated", &["not known"]);
    let spent =
        platform.call_as(&token.secret, Method::POST, "/v1/join", json!({"request": "nonsense"})).await;
    spent.refuses(401, "unauthenticated", &["used as often"]);
}

#[tokio::test]
async fn a_token_that_has_expired_or_was_revoked_lets_nobody_in() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let brief = platform.join_token(json!({"expires_in": "1ms"})).await;
    eventually("it has expired", async || {
        let refused = platform.join(&brief.secret).await;
        (refused.status == 401 && refused.json["detail"].as_str()?.contains("expired at")).then_some(())
    })
    .await;
    let token = platform.join_token(json!({})).await;
    let listed = platform.get("/v1/join-tokens").await;
    let id = listed["items"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    platform.call(Method::DELETE, &format!("/v1/join-tokens/{id}"), Value::Null).await.is(204);
    platform.join(&token.secret).await.refuses(401, "unauthenticated", &["revoked"]);
    for (bad, words) in [
        (json!({"uses": 0}), "uses"),
        (json!({"expires_in": "31d"}), "30 days"),
        (json!({"expires_in": "0s"}), "no time"),
        (json!({"node": NodeId::new()}), "no node"),
        (json!({"role": "server"}), "role"),
        (json!({"role": "Edge 1"}), "role"),
    ] {
        platform.call(Method::POST, "/v1/join-tokens", bad).await.refuses(422, "invalid_spec", &[words]);
    }
}

#[tokio::test]
async fn a_host_is_what_its_join_token_says_whatever_it_says_itself() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let token = platform.join_token(json!({"role": "edge"})).await;
    assert_eq!(platform.get("/v1/join-tokens").await["items"][0]["role"], "edge");
    let node = platform.join(&token.secret).await.is(201)["node"].as_str().unwrap().to_owned();
    let (node, path) = (node.parse::<NodeId>().unwrap(), format!("/v1/nodes/{node}"));
    let mut says_more = registration();
    says_more["role"] = json!("server");
    let role_of_node = async || {
        platform.as_node(node, Method::PUT, &path, says_more.clone()).await.is(204);
        platform.get(&path).await["role"].clone()
    };
    assert_eq!(role_of_node().await, "edge");
    // A token without a role leaves it, and another one changes it.
    for (again, role) in [(json!({"node": node}), "edge"), (json!({"node": node, "role": "core"}), "core")] {
        platform.join(&platform.join_token(again).await.secret).await.is(201);
        assert_eq!(role_of_node().await, role);
    }
}

#[tokio::test]
async fn a_request_that_is_no_request_spends_nothing() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let token = platform.join_token(json!({})).await;
    let nonsense = json!({"request": "nonsense"});
    let refused = platform.call_as(&token.secret, Method::POST, "/v1/join", nonsense).await;
    refused.refuses(400, "invalid_request", &["PKCS #10"]);
    platform.join(&token.secret).await.is(201);
}

#[tokio::test]
async fn a_node_speaks_for_itself_and_gets_only_what_it_is_to_run() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let joined = platform.join(&platform.join_token(json!({})).await.secret).await.is(201);
    let node: NodeId = joined["node"].as_str().unwrap().parse().unwrap();
    let other = NodeId::new();
    let path = format!("/v1/nodes/{node}");
    let put = platform.as_node(other, Method::PUT, &path, registration()).await;
    put.refuses(403, "forbidden", &["speaks for no other"]);
    let put = platform.as_node(other, Method::PUT, &format!("/v1/nodes/{other}"), registration()).await;
    put.refuses(403, "forbidden", &["never joined"]);
    platform.as_node(node, Method::PUT, &path, registration()).await.is(204);

    platform.push("default", &component(0)).await.is(201);
    let artifact = format!("/v1/artifacts/{}", Digest::of(&component(0)));
    let sources = format!("{artifact}/sources");
    for path in [&artifact, &sources] {
        assert_eq!(platform.as_node(node, Method::GET, path, Value::Null).await.status, 404);
    }
    let increment = json!({"namespace": "default", "app": "hello", "bucket": "default", "op": {"increment": {"key": "a", "delta": 1}}});
    let keyvalue = format!("{path}/keyvalue");
    let refused = platform.as_node(node, Method::POST, &keyvalue, increment.clone()).await;
    refused.refuses(403, "forbidden", &["runs nothing of `hello`"]);
    platform.deploy("hello", &component(0), quick()).await.is(201);
    eventually("it is assigned", async || {
        (platform.as_node(node, Method::GET, &artifact, Value::Null).await.status == 200).then_some(())
    })
    .await;
    let told = platform.as_node(node, Method::GET, &sources, Value::Null).await.is(200);
    assert_eq!((told["key"].as_str().unwrap().len(), &told["nodes"]), (64, &json!([])));
    platform.as_node(node, Method::POST, &keyvalue, increment).await.is(200);
    let users = platform.as_node(node, Method::GET, "/v1/namespaces/default/apps", Value::Null).await;
    assert_eq!(users.status, 401, "its certificate is for workers' routes only");

    let request = json!({"request": NodeKey::generate().unwrap().request().unwrap()});
    let renewed = platform.as_node(node, Method::POST, &format!("{path}/certificate"), request).await.is(200);
    assert_eq!(renewed["node"], json!(node));
}

#[tokio::test]
async fn a_node_that_sends_more_than_anybody_reads_is_refused_alone() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    for path in ["reports", "logs", "keyvalue"] {
        let endless = Body::from(vec![b' '; (64 << 20) + 1]);
        let address = format!("/v1/nodes/{}/{path}", worker.node);
        let post = request(&platform.node_token, Method::POST, &address).body(endless).unwrap();
        platform.send(post).await.refuses(413, "too_large", &["larger than this address takes"]);
    }
    assert_eq!(platform.app("hello").await["ready"], 1);
}

#[tokio::test]
async fn a_removed_node_comes_back_only_with_a_new_token() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let joined = platform.join(&platform.join_token(json!({})).await.secret).await.is(201);
    let node: NodeId = joined["node"].as_str().unwrap().parse().unwrap();
    let path = format!("/v1/nodes/{node}");
    let again = platform.join_token(json!({"node": node})).await;
    assert_eq!(
        platform.join(&again.secret).await.is(201)["node"],
        json!(node),
        "it comes back as what it was"
    );
    platform.as_node(node, Method::PUT, &path, registration()).await.is(204);
    let again = platform.join_token(json!({"node": node})).await;
    platform.call(Method::DELETE, &path, Value::Null).await.is(204);
    platform.as_node(node, Method::PUT, &path, registration()).await.refuses(
        403,
        "forbidden",
        &["was removed"],
    );
    platform.join(&again.secret).await.refuses(401, "unauthenticated", &["was removed"]);
    platform.call(Method::GET, &path, Value::Null).await.refuses(404, "not_found", &["no node"]);
}

#[tokio::test]
async fn a_node_that_is_drained_gives_its_instances_away_and_takes_none() {
    let platform = Platform::start().await;
    let first = Worker::join(&platform).await;
    let deployed = platform.deploy("hello", &component(0), json!({"scale": {"replicas": 3}})).await.is(201);
    platform.rollout("hello", &deployed).await;
    let path = format!("/v1/nodes/{}", first.node);
    assert_eq!(platform.get(&path).await["instances"], 3);
    // There is nowhere to go: everything goes on where it is.
    let drained = platform.call(Method::PATCH, &path, json!({"draining": true})).await.is(200);
    assert_eq!(drained["draining"], true);
    platform.call(Method::DELETE, &path, Value::Null).await.refuses(409, "conflict", &["wharf node drain"]);
    let words = "which is being drained, and goes on where it is until there is room elsewhere: 0 of 1 nodes fit: 1 is being drained (test)";
    eventually("the app says why it stays", async || {
        platform.get("/v1/namespaces/default/apps/hello/why").await.to_string().contains(words).then_some(())
    })
    .await;
    let second = Worker::join(&platform).await;
    let counts = async |node: NodeId| platform.get(&format!("/v1/nodes/{node}")).await["instances"].clone();
    eventually("the first is empty", async || {
        let ready = platform.app("hello").await["ready"].clone();
        assert_eq!(ready, 3, "it serves all the time");
        (counts(first.node).await == 0 && counts(second.node).await == 3).then_some(())
    })
    .await;
    let events = platform.get("/v1/namespaces/default/apps/hello/events").await["items"].clone();
    let events = events.as_array().unwrap().iter().filter(|event| event["kind"] == "instance.moved");
    let moved: Vec<&str> = events.filter_map(|event| event["message"].as_str()).collect();
    assert_eq!(moved, ["from test, which is being drained: slots 1, 2, 3 to test"]);
    platform.call(Method::PATCH, &path, json!({"draining": false})).await.is(200);
    let path = format!("/v1/nodes/{}", second.node);
    platform.call(Method::PATCH, &path, json!({"draining": true})).await.is(200);
    eventually("the second is empty", async || (counts(second.node).await == 0).then_some(())).await;
}

#[tokio::test]
async fn a_node_that_joins_gets_its_share_while_everything_serves() {
    let platform = Platform::start().await;
    let first = Worker::join(&platform).await;
    for app in ["hello", "other", "third"] {
        let spec = json!({"scale": {"replicas": 2}, "update": {"monitor": "20ms"}});
        let deployed = platform.deploy(app, &component(0), spec).await.is(201);
        platform.rollout(app, &deployed).await;
        eventually("its rollout has ended", async || {
            (platform.app(app).await["rollout"]["state"] == "succeeded").then_some(())
        })
        .await;
    }
    let counts = async |node: NodeId| platform.get(&format!("/v1/nodes/{node}")).await["instances"].clone();
    assert_eq!(counts(first.node).await, 6);
    let second = Worker::join(&platform).await;
    eventually("both have three", async || {
        for app in ["hello", "other", "third"] {
            assert_eq!(platform.app(app).await["ready"], 2, "{app} serves all the time");
        }
        (counts(first.node).await == 3 && counts(second.node).await == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_becomes_of_a_node_is_told_in_no_namespace() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    // Whoever has planned has looked at the nodes.
    platform.serve(0, json!({})).await;
    let path = format!("/v1/nodes/{}", worker.node);
    let told = async |kind: &str| {
        eventually("it is told", async || {
            let events = platform.get("/v1/events").await["items"].clone();
            let mut of_kind = events.as_array()?.iter().filter(|event| event["kind"] == kind);
            of_kind.next().cloned()
        })
        .await
    };
    platform.call(Method::PATCH, &path, json!({"draining": true})).await.is(200);
    let drained = told("node.draining").await;
    assert_eq!(drained["node"], worker.node.to_string());
    assert!(drained["message"].as_str().unwrap().starts_with("test is being drained"), "{drained}");
    platform.call(Method::PATCH, &path, json!({"draining": false})).await.is(200);
    told("node.resumed").await;
    let of_namespace = platform.get("/v1/namespaces/default/events").await.to_string();
    assert!(!of_namespace.contains("node.draining"), "{of_namespace}");
}

#[tokio::test]
async fn labels_that_an_admin_sets_count_before_those_of_the_worker() {
    let platform = Platform::start().await;
    let worker = Worker::join_with(&platform, NodeId::new(), r#"{"zone":"a","disk":"ssd"}"#).await;
    let path = format!("/v1/nodes/{}", worker.node);
    let set = json!({"labels": {"zone": "b", "rack": "7"}});
    let labels = platform.call(Method::PATCH, &path, set).await.is(200)["labels"].clone();
    assert_eq!(labels, json!({"zone": "b", "rack": "7", "disk": "ssd"}));
    let only_b = json!({"placement": {"constraints": ["node.labels.zone == b"]}});
    let deployed = platform.deploy("hello", &component(0), only_b).await.is(201);
    platform.rollout("hello", &deployed).await;
    let taken_back = json!({"labels": {"zone": null}});
    let labels = platform.call(Method::PATCH, &path, taken_back).await.is(200)["labels"].clone();
    assert_eq!(labels, json!({"zone": "a", "rack": "7", "disk": "ssd"}));
    for bad in ["-a", "a b", "", protocol::LABEL] {
        let bad = json!({"labels": {bad: "x"}});
        platform.call(Method::PATCH, &path, bad).await.refuses(422, "invalid_spec", &["label"]);
    }
}

#[tokio::test]
async fn a_worker_of_the_version_before_is_taken_and_one_of_a_version_to_come_is_told_what_to_upgrade() {
    let platform = Platform::start().await;
    let register = async |said: Option<&str>| {
        let mut put = request(&platform.node_token, Method::PUT, &format!("/v1/nodes/{}", NodeId::new()));
        if let Some(said) = said {
            put = put.header(protocol::HEADER, said);
        }
        platform.send(put.body(Body::from(registration().to_string())).unwrap()).await
    };
    for said in [None, Some("1-1"), Some("1-2"), Some("2-9")] {
        let answer = register(said).await;
        assert_eq!(answer.headers[protocol::HEADER], protocol::SPOKEN.to_string(), "{said:?}");
        answer.is(204);
    }
    let words = ["the worker speaks 8-9", "upgrade the control plane first"];
    register(Some("8-9")).await.refuses(409, "incompatible", &words);
    register(Some("0-0")).await.refuses(409, "incompatible", &["upgrade the worker first"]);
    register(Some("new")).await.refuses(400, "invalid_request", &["wharf-protocol"]);
}

#[tokio::test]
async fn a_worker_of_version_1_is_kept_from_singletons_until_it_speaks_what_they_take() {
    let platform = Platform::start().await;
    let node = NodeId::new();
    let path = format!("/v1/nodes/{node}");
    let put = request(&platform.node_token, Method::PUT, &path).header(protocol::HEADER, "1-1");
    platform.send(put.body(Body::from(registration().to_string())).unwrap()).await.is(204);
    assert_eq!(platform.get(&path).await["labels"], json!({"wharf.protocol": "1"}));
    let only = json!({"scale": {"singleton": true}, "update": {"monitor": "20ms"}});
    platform.deploy("only", &component(0), only).await.is(201);
    platform.deploy("hello", &component(1), quick()).await.is(201);
    let placed_on = async |app: &str| platform.app(app).await["instances"][0]["node"].clone();
    eventually("what it knows is placed there", async || {
        (placed_on("hello").await == json!(node)).then_some(())
    })
    .await;
    assert_ne!(placed_on("only").await, json!(node));
    let newer = Worker::join(&platform).await;
    eventually("a newer one has it", async || (placed_on("only").await == json!(newer.node)).then_some(()))
        .await;
}

#[tokio::test]
async fn whoever_leads_next_knows_which_worker_is_of_an_older_version_before_it_has_come() {
    let platform = Platform::start().await;
    let path = format!("/v1/nodes/{}", NodeId::new());
    let register = async |said: &str, labels: Value| {
        let mut registration = registration();
        registration["labels"] = labels;
        let put = request(&platform.node_token, Method::PUT, &path).header(protocol::HEADER, said);
        platform.send(put.body(Body::from(registration.to_string())).unwrap()).await.is(204);
    };
    register("1-1", json!({"zone": "a"})).await;
    let older = json!({"zone": "a", "wharf.protocol": "1"});
    assert_eq!(platform.get(&path).await["labels"], older);
    // What another server does when it begins, and this one after a start.
    platform.context.lead(platform.leads().await, Start::Anew).await.unwrap();
    assert_eq!(platform.get(&path).await["labels"], older);
    register("1-2", json!({"wharf.protocol": "1"})).await;
    assert_eq!(platform.get(&path).await["labels"], json!({}), "it is not the worker's to say");
}

#[tokio::test]
async fn a_control_plane_of_version_1_says_and_knows_nothing_of_what_came_later() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = Config { speaks: Versions::UNSAID, ..config(&dir).await };
    let platform = Platform::start_with(config, dir).await;
    platform.leads().await;
    let path = format!("/v1/nodes/{}", NodeId::new());
    let register = async |said: &str, registration: &Value| {
        let put = request(&platform.node_token, Method::PUT, &path).header(protocol::HEADER, said);
        platform.send(put.body(Body::from(registration.to_string())).unwrap()).await
    };
    let mut with_engine = registration();
    with_engine["containers"] = json!({"os": "linux", "architecture": "amd64"});
    register("1-2", &with_engine).await.refuses(400, "invalid_request", &["unknown field `containers`"]);
    // It does not look at what others say, and does not let them wait.
    platform.context.admissions.exhaust(std::time::Duration::from_secs(60));
    let answer = register("8-9", &registration()).await;
    assert!(!answer.headers.contains_key(protocol::HEADER), "{:?}", answer.headers);
    answer.is(204);
    for (method, late) in [(Method::POST, "leave"), (Method::GET, "execs"), (Method::GET, "transfers")] {
        let address = format!("{path}/{late}");
        let asked = platform.call_as(&platform.node_token, method, &address, Value::Null).await;
        asked.refuses(404, "not_found", &[late]);
    }
}

#[tokio::test]
async fn a_worker_that_comes_with_too_many_others_is_told_when_to_come_and_not_given_up_meanwhile() {
    let platform = Platform::start().await;
    let path = format!("/v1/nodes/{}", NodeId::new());
    let put = async || platform.call_as(&platform.node_token, Method::PUT, &path, registration()).await;
    put().await.is(204);
    platform.context.admissions.exhaust(std::time::Duration::from_secs(2));
    let told = put().await;
    let wait: u64 = told.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    told.refuses(429, "busy", &["come again later"]);
    let began = std::time::Instant::now();
    eventually("it is taken", async || (put().await.status == 204).then_some(())).await;
    assert!(began.elapsed() > std::time::Duration::from_secs(1));
}

#[tokio::test]
async fn a_worker_that_is_about_to_end_is_emptied_first_and_takes_instances_again_when_it_is_back() {
    let platform = Platform::start().await;
    let first = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    let path = format!("/v1/nodes/{}/leave", first.node);
    let leaves = async || {
        let answer = platform.call_as(&platform.node_token, Method::POST, &path, Value::Null).await;
        answer.is(200)["instances"].as_u64().unwrap()
    };
    assert_eq!(leaves().await, 0, "there is nowhere to go");
    let second = Worker::join(&platform).await;
    eventually("it is empty", async || (leaves().await == 0).then_some(())).await;
    let counts = async |node: NodeId| platform.get(&format!("/v1/nodes/{node}")).await["instances"].clone();
    assert_eq!((counts(first.node).await, counts(second.node).await), (json!(0), json!(1)));
    assert_eq!(platform.app("hello").await["ready"], 1);
    let other = format!("{path}?process={}", wharf_types::ProcessId::new());
    let late = platform.call_as(&platform.node_token, Method::POST, &other, Value::Null).await;
    late.refuses(409, "conflict", &["another process"]);
    let again = json!({"hostname": "b", "memory_bytes": 1u64 << 32, "cpus": 2, "version": "0",
        "incarnation": {"number": 7, "process": wharf_types::ProcessId::new(), "home": "a"}});
    let put = format!("/v1/nodes/{}", first.node);
    drop(first);
    eventually("it is back", async || {
        let put = platform.call_as(&platform.node_token, Method::PUT, &put, again.clone()).await;
        (put.status == 204).then_some(())
    })
    .await;
    assert_eq!(platform.get(&put).await["draining"], false);
}
