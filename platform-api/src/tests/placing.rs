//! Instances go where their app's placement says, and a higher priority gets its room.

use serde_json::{Value, json};
use wharf_types::NodeId;
use wharf_types::state::Wanted;

use super::deploying::with_env;
use super::fixture::{Platform, component, eventually, quick};
use super::worker::Worker;

fn spec(edit: impl FnOnce(&mut Value)) -> Value {
    let mut spec = quick();
    edit(&mut spec);
    spec
}

/// More than half of what a test's worker has.
fn large(priority: &str) -> Value {
    spec(|spec| {
        spec["placement"] = json!({"priority": priority});
        spec["reserve"] = json!({"memory": "3GiB"});
    })
}

#[tokio::test]
async fn an_app_runs_only_where_its_constraints_hold() {
    let platform = Platform::start().await;
    let elsewhere = Worker::join_with(&platform, NodeId::new(), r#"{"zone":"eu-1"}"#).await;
    let zone = |zone: &str| {
        let constraint = format!("node.labels.zone == {zone}");
        spec(|spec| spec["placement"] = json!({"constraints": [constraint]}))
    };
    platform.deploy("hello", &component(0), zone("eu-2")).await.is(201);
    let words = "0 of 1 nodes fit: 1 lacks the label zone=eu-2 (it has eu-1)";
    eventually("the app says what it waits for", async || {
        platform.get("/v1/namespaces/default/apps/hello/why").await.to_string().contains(words).then_some(())
    })
    .await;
    assert!(elsewhere.newest().is_none_or(|newest| newest.instances.is_empty()));

    let there = Worker::join_with(&platform, NodeId::new(), r#"{"zone":"eu-2"}"#).await;
    eventually("it runs in its zone", async || there.newest().filter(|newest| newest.instances.len() == 1))
        .await;
    let nodes = platform.get("/v1/nodes").await;
    let zones: Vec<_> =
        nodes["items"].as_array().unwrap().iter().map(|node| &node["labels"]["zone"]).collect();
    assert_eq!(zones, ["eu-1", "eu-2"]);
}

#[tokio::test]
async fn a_higher_priority_takes_the_room_of_a_lower_which_waits_and_is_told() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    let low = platform.deploy("low", &component(0), large("low")).await.is(201);
    assert!(platform.rollout("low", &low).await["state"] != "failed");
    let victim = worker.newest().unwrap().instances[0].id;

    let high = platform.deploy("high", &component(1), large("high")).await.is(201);
    let rollout = platform.rollout("high", &high).await;
    assert!(["monitoring", "succeeded"].contains(&rollout["state"].as_str().unwrap()), "{rollout}");
    let together = |(_, assignment): &(_, wharf_types::node::Assignment)| {
        assignment.instances.iter().filter(|instance| instance.wanted == Wanted::Run).count() > 1
    };
    assert!(!worker.assignments().iter().any(together), "both were there at once");

    let events = platform.get("/v1/namespaces/default/events").await.to_string();
    assert!(events.contains(&format!("instance {victim} leaves its node")), "{events}");
    assert!(!events.contains("room for high"), "it is told for whom: {events}");
    eventually("the lower priority waits, with the reason", async || {
        let why = platform.get("/v1/namespaces/default/apps/low/why").await.to_string();
        why.contains("too little free memory (needs 3GiB, 1GiB free on test").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_equal_priority_waits_for_its_room() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    let first = platform.deploy("first", &component(0), large("high")).await.is(201);
    platform.rollout("first", &first).await;
    platform.deploy("second", &component(1), large("high")).await.is(201);
    eventually("it waits", async || {
        let why = platform.get("/v1/namespaces/default/apps/second/why").await.to_string();
        why.contains("too little free memory").then_some(())
    })
    .await;
    let newest = worker.newest().unwrap().instances;
    assert_eq!(newest.iter().map(|instance| instance.wanted).collect::<Vec<_>>(), [Wanted::Run]);
}

#[tokio::test]
async fn a_constraint_that_makes_no_sense_is_refused_with_its_column() {
    let platform = Platform::start().await;
    let mut spec = with_env("A", "1");
    spec["placement"] = json!({"constraints": ["node.lables.zone == a"]});
    platform.deploy("hello", &component(0), spec).await.refuses(
        422,
        "invalid_spec",
        &["placement.constraints", "column 1", "did you mean `node.labels.zone`?"],
    );
}
