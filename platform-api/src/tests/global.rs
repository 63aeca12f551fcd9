//! Apps that run on every node that may have them.

use axum::http::Method;
use serde_json::{Value, json};

use super::deploying::HELLO;
use super::fixture::{Platform, component, eventually, quick};
use super::worker::Worker;

fn global() -> Value {
    let mut spec = quick();
    spec["scale"] = json!({"replicas": "global"});
    spec
}

impl Platform {
    /// Waits until the app serves on so many nodes, and has nothing else.
    async fn is_on(&self, nodes: u64) -> Value {
        eventually("it is on so many nodes", async || {
            let app = self.app("hello").await;
            let live =
                app["instances"].as_array()?.iter().filter(|it| it["state"] == "running").count() as u64;
            (app["ready"] == nodes && app["replicas"] == nodes && live == nodes).then_some(app)
        })
        .await
    }
}

#[tokio::test]
async fn an_app_follows_the_nodes() {
    let platform = Platform::start().await;
    let _first = Worker::join(&platform).await;
    platform.serve(0, global()).await;
    let app = platform.is_on(1).await;
    assert_eq!((&app["global"], &app["scaling"]), (&json!(true), &Value::Null));
    let second = Worker::join(&platform).await;
    platform.is_on(2).await;
    let assigned = second.newest().unwrap();
    let spec = &assigned.instances[0].spec;
    assert!(!spec.is_global(), "a worker of an earlier version could not read it");

    let path = format!("/v1/nodes/{}", second.node);
    platform.call(Method::PATCH, &path, json!({"draining": true})).await.is(200);
    platform.is_on(1).await;
    platform.call(Method::PATCH, &path, json!({"draining": false})).await.is(200);
    platform.is_on(2).await;
}

#[tokio::test]
async fn a_number_is_refused_and_a_quota_counts_the_nodes() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    let quota = "/v1/namespaces/default/quota";
    platform.call(Method::PUT, quota, json!({"instances": 1})).await.is(200);
    platform.serve(0, global()).await;
    platform.is_on(1).await;
    assert_eq!(platform.get(quota).await["used"]["instances"], 1);
    let scaled = platform.call(Method::PUT, &format!("{HELLO}/scale"), json!({"replicas": 3})).await;
    scaled.refuses(422, "invalid_spec", &["replicas: 3 instances", "`placement.constraints`"]);
    platform.deploy("other", &component(0), global()).await.refuses(
        403,
        "quota_exceeded",
        &["instances", "1 of 1"],
    );

    let _second = Worker::join(&platform).await;
    platform.is_on(2).await;
    let used = platform.get(quota).await;
    assert_eq!(used["used"]["instances"], 2, "a node that joins is served: {used}");
}

#[tokio::test]
async fn where_no_node_may_have_it_somebody_is_told_why() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    let mut spec = global();
    spec["placement"] = json!({"constraints": ["node.labels.edge == yes"]});
    platform.deploy("hello", &component(0), spec).await.is(201);
    let why = eventually("it is told", async || {
        let why = platform.get(&format!("{HELLO}/why")).await;
        (why["condition"] == "down").then_some(why.to_string())
    })
    .await;
    assert!(
        why.contains("and none may: 0 of 1 nodes fit") && why.contains("lacks the label edge=yes"),
        "{why}"
    );
    let path = format!("/v1/nodes/{}", worker.node);
    platform.call(Method::PATCH, &path, json!({"labels": {"edge": "yes"}})).await.is(200);
    platform.is_on(1).await;
}
