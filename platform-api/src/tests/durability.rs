//! What was acknowledged is there after a crash, and a full disk harms nothing that runs.

use axum::http::Method;
use serde_json::{Value, json};

use super::fixture::{Platform, component, eventually, quick};
use super::worker::Worker;
use crate::store;

#[tokio::test]
async fn after_a_crash_everything_that_was_acknowledged_is_there() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let token = platform.token("viewer", None, "1h").await;
    let deployed = platform.deploy("hello", &component(0), quick()).await.is(201);
    platform
        .call(Method::PUT, "/v1/namespaces/default/apps/hello/scale", json!({"replicas": 2}))
        .await
        .is(200);
    let platform = Platform::start_in(platform.crash()).await;
    platform.get("/v1/namespaces/other").await;
    platform.call_as(&token, Method::GET, "/v1/whoami", Value::Null).await.is(200);
    let _worker = Worker::join(&platform).await;
    platform.arrives(&deployed).await;
    assert_eq!(platform.app("hello").await["ready"], 2);
}

#[tokio::test]
async fn after_a_crash_the_same_instances_are_assigned_with_a_greater_generation() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    let (node, before) = (worker.node, worker.newest().unwrap());
    drop(worker);
    let platform = Platform::start_in(platform.crash()).await;
    let worker = Worker::join_as(&platform, node).await;
    let after = eventually("an assignment came", async || worker.newest()).await;
    assert!(after.generation > before.generation && after.routes.generation > before.routes.generation);
    assert_eq!(after.instances[0].id, before.instances[0].id);
    assert_eq!(after.instances[0].observed, wharf_types::state::InstanceState::Running);
    assert!(!worker.assignments()[0].1.instances.is_empty(), "the first assignment is complete");
}

#[tokio::test]
async fn a_control_plane_that_another_has_followed_writes_no_plan_any_more() {
    let platform = Platform::start().await;
    // What the start of another process does to the database.
    let mut tx = platform.context.store.write().await.unwrap();
    store::change::count(&mut tx, "starts").await.unwrap();
    tx.commit().await.unwrap();
    let refused = platform.context.store.write_as(platform.context.epoch().unwrap()).await;
    assert!(matches!(refused, Err(store::StoreError::Deposed)));
}

#[tokio::test]
async fn an_app_that_cannot_be_read_keeps_no_other_app_from_its_worker() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    let broken = platform.deploy("broken", &component(1), quick()).await.is(201);
    platform.rollout("broken", &broken).await;
    let node = worker.node;
    drop(worker);
    let mut tx = platform.context.store.write().await.unwrap();
    let ruin = "UPDATE release SET spec = '{' WHERE app = (SELECT id FROM app WHERE name = 'broken')";
    store::query(ruin).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();

    let platform = Platform::start_in(platform.crash()).await;
    let worker = Worker::join_as(&platform, node).await;
    let assigned = eventually("an assignment came", async || worker.newest()).await;
    let apps: Vec<_> = assigned.instances.iter().map(|instance| instance.app.as_str()).collect();
    assert_eq!(apps, ["hello"]);
    platform.serve(2, quick()).await;
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_leaves_what_runs() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    eventually("it is at rest", async || {
        (platform.app("hello").await["condition"] == "running").then_some(())
    })
    .await;
    platform.context.store.stop_growing(true).await;
    let filled = eventually("the disk is full", async || {
        let name = format!("ns-{}", uuid::Uuid::now_v7().simple());
        let reply = platform.call(Method::POST, "/v1/namespaces", json!({"name": name})).await;
        (reply.status != 201).then_some(reply)
    })
    .await;
    filled.refuses(507, "storage_full", &["disk", "goes on"]);
    let app = platform.app("hello").await;
    assert_eq!((&app["ready"], &app["condition"]), (&json!(1), &json!("running")));
    platform.context.store.stop_growing(false).await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "again"})).await.is(201);
    platform.serve(1, quick()).await;
}
