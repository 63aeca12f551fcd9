//! What users set without a deploy, take back, and start anew.

use axum::http::Method;
use serde_json::{Value, json};

use super::deploying::{HELLO, with_env};
use super::fixture::{Platform, component, eventually, quick};
use super::worker::Worker;

#[tokio::test]
async fn bad_changes_of_variables_are_refused_and_change_nothing() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), with_env("A", "file")).await.is(201);
    let env = format!("{HELLO}/env");
    let patch = async |body: Value| platform.call(Method::PATCH, &env, body).await;
    patch(json!({})).await.refuses(422, "invalid_spec", &["nothing is changed"]);
    patch(json!({"A": "old shape"})).await.refuses(400, "invalid_request", &["`A`"]);
    patch(json!({"set": {"A": "x"}, "reset": ["A"]})).await.refuses(422, "invalid_spec", &["`A`"]);
    patch(json!({"set": {"A=B": "x"}})).await.refuses(422, "invalid_spec", &["`A=B`"]);
    patch(json!({"set": {"A": "x\u{0}"}})).await.refuses(422, "invalid_spec", &["NUL"]);
    let gone: serde_json::Map<_, _> =
        (0..5000).map(|number| (format!("NAME_{number}"), Value::Null)).collect();
    patch(json!({"set": gone})).await.refuses(422, "invalid_spec", &["env", "more than 32768"]);
    assert_eq!(platform.get(&env).await, json!({"A": "file"}));
    assert_eq!(platform.get(&format!("{HELLO}/releases")).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_variables_of_a_first_release_that_failed_are_those_that_a_change_builds_on() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    let deployed = platform.deploy("hello", &component(0), with_env("FAIL", "no start")).await.is(201);
    assert_eq!(platform.rollout("hello", &deployed).await["state"], "failed");
    assert_eq!(platform.get(&format!("{HELLO}/env")).await, json!({"FAIL": "no start"}));
}

#[tokio::test]
async fn a_restart_gives_the_same_release_new_instances() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    platform.serve(1, quick()).await;
    let before = worker.newest().unwrap().instances.into_iter().map(|instance| instance.id).max();
    let restarted = platform.call(Method::POST, &format!("{HELLO}/restart"), Value::Null).await.is(201);
    assert_eq!(restarted["release"], 2);
    platform.arrives(&restarted).await;
    let left = eventually("only the new instance is left", async || {
        worker.newest().filter(|newest| newest.instances.len() == 1)
    });
    assert!(left.await.instances[0].id > before.unwrap());
    // Nothing lies between the release and the one before it.
    let back = platform.call(Method::POST, &format!("{HELLO}/rollback"), Value::Null).await.is(201);
    assert_eq!(back["release"], 1);
}

#[tokio::test]
async fn the_number_of_slots_goes_back_with_the_release_and_with_a_reset() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    let scaled = |replicas: u32, mut spec: Value| {
        spec["scale"] = json!({"replicas": replicas});
        spec
    };
    platform.serve(0, scaled(3, quick())).await;
    let bad = scaled(1, with_env("FAIL", "it exploded"));
    let deployed = platform.deploy("hello", &component(1), bad).await.is(201);
    assert_eq!(platform.rollout("hello", &deployed).await["state"], "failed");
    let back = eventually("release 1 serves again", async || {
        Some(platform.app("hello").await).filter(|app| app["condition"] == "running")
    })
    .await;
    assert_eq!((&back["release"], &back["replicas"], &back["ready"]), (&json!(1), &json!(3), &json!(3)));

    let scale = format!("{HELLO}/scale");
    let app = platform.call(Method::PUT, &scale, json!({"replicas": 2})).await.is(200);
    assert_eq!(app["replicas"], 2);
    platform.call(Method::PUT, &scale, json!({})).await.refuses(400, "invalid_request", &["replicas"]);
    let app = platform.call(Method::PUT, &scale, json!({"replicas": null})).await.is(200);
    assert_eq!(app["replicas"], 3);
    let events = platform.get(&format!("{HELLO}/events")).await;
    let newest = events["items"].as_array().unwrap().iter().rfind(|event| event["kind"] == "app.scaled");
    assert_eq!(newest.unwrap()["message"], "scaled from 2 back to the release's own 3 by admin");
}
