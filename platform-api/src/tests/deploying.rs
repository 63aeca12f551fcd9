//! Releases come into service, fail, go back, and go.

use std::time::{Duration, Instant};

use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::Digest;

use super::fixture::{Platform, component, eventually, quick};
use super::worker::Worker;

const HELLO: &str = "/v1/namespaces/default/apps/hello";

fn with_env(name: &str, value: &str) -> Value {
    let mut spec = quick();
    spec["env"] = json!({name: value});
    spec
}

impl Platform {
    /// Deploys `hello` and waits until it serves.
    pub(super) async fn serve(&self, number: u32, spec: Value) -> Value {
        let deployed = self.deploy("hello", &component(number), spec).await.is(201);
        let rollout = self.rollout("hello", &deployed).await;
        assert!(["monitoring", "succeeded"].contains(&rollout["state"].as_str().unwrap()), "{rollout}");
        deployed
    }
}

#[tokio::test]
async fn a_release_comes_into_service_and_has_a_url() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    eventually("the worker has its first assignment", async || worker.newest()).await;
    platform.push("default", &component(0)).await.is(201);
    let before = worker.assignments().len();
    let begun = Instant::now();
    let deployed = platform.serve(0, quick()).await;
    let (arrived, _) = worker.assignments()[before];
    assert!(arrived - begun < Duration::from_secs(1));

    assert_eq!(deployed["url"], "http://hello.default.localhost:8080/");
    assert_eq!((&deployed["release"], &deployed["capabilities"][0]["kind"]), (&json!(1), &json!("keyvalue")));
    let app = platform.app("hello").await;
    assert_eq!((&app["release"], &app["ready"], &app["replicas"]), (&json!(1), &json!(1), &json!(1)));
    let routed = eventually("it is routed", async || {
        let routes = worker.newest()?.routes.routes;
        routes.iter().any(|route| !route.endpoints.is_empty()).then(|| routes[0].pattern.to_string())
    });
    assert_eq!(routed.await, "hello.default.localhost/");
    eventually("it is running", async || {
        (platform.app("hello").await["condition"] == "running").then_some(())
    })
    .await;
    let nodes = platform.get("/v1/nodes").await;
    assert_eq!((&nodes["items"][0]["ready"], &nodes["items"][0]["instances"]), (&json!(true), &json!(1)));
    assert_eq!(platform.get("/v1/namespaces/default/usage").await["apps"][0]["invocations"], 7);
}

#[tokio::test]
async fn the_old_release_stops_only_after_its_routes_were_let_go() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    let first = worker.newest().unwrap().instances[0].id;
    platform.serve(1, quick()).await;
    eventually("only the new release is left", async || {
        let newest = worker.newest()?;
        (newest.instances.len() == 1 && newest.instances[0].release == 2).then_some(())
    })
    .await;
    let mut routed_until = None;
    let mut stopped_from = None;
    let mut generation = 0;
    for (_, assignment) in worker.assignments() {
        assert!(assignment.generation > generation, "generations grow");
        generation = assignment.generation;
        let endpoints = || assignment.routes.routes.iter().flat_map(|route| &route.endpoints);
        if endpoints().any(|endpoint| endpoint.instance == first) {
            routed_until = Some(assignment.routes.generation);
        }
        let stops = assignment
            .instances
            .iter()
            .any(|i| i.id == first && i.wanted == wharf_types::state::Wanted::Stop);
        if stops && stopped_from.is_none() {
            stopped_from = Some(assignment.routes.generation);
        }
        if generation > 0 && routed_until.is_some() {
            assert!(endpoints().count() > 0, "somebody serves at every moment");
        }
    }
    assert!(stopped_from.unwrap() > routed_until.unwrap());
}

#[tokio::test]
async fn a_release_that_fails_goes_back_by_itself_and_says_why() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    let deployed = platform.deploy("hello", &component(1), with_env("FAIL", "it exploded")).await.is(201);
    let rollout = platform.rollout("hello", &deployed).await;
    assert_eq!(rollout["state"], "failed");
    assert!(rollout["reason"]["message"].as_str().unwrap().contains("it exploded"), "{rollout}");
    assert!(rollout["rolled_back_by"].is_string(), "{rollout}");
    eventually("release 1 serves again", async || {
        let app = platform.app("hello").await;
        (app["release"] == 1 && app["condition"] == "running").then_some(())
    })
    .await;
    let why = platform.get(&format!("{HELLO}/why")).await;
    assert!(why["because"].to_string().contains("it exploded"), "{why}");
    let events = platform.get(&format!("{HELLO}/events?after=0")).await;
    let kinds: Vec<&str> =
        events["items"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    for kind in ["release.created", "rollout.failed", "instance.failed"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
}

#[tokio::test]
async fn a_first_release_that_fails_leaves_nothing_running() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    let deployed = platform.deploy("hello", &component(0), with_env("FAIL", "no start")).await.is(201);
    let rollout = platform.rollout("hello", &deployed).await;
    assert_eq!((&rollout["state"], &rollout["rolled_back_by"]), (&json!("failed"), &Value::Null));
    eventually("nothing is assigned", async || worker.newest().filter(|newest| newest.instances.is_empty()))
        .await;
    assert_eq!(platform.app("hello").await["release"], Value::Null);
    // The variable is taken away, and the same artifact works.
    let deployed = platform.call(Method::PATCH, &format!("{HELLO}/env"), json!({"FAIL": null})).await.is(201);
    assert_eq!(platform.rollout("hello", &deployed).await["state"], "monitoring");
}

#[tokio::test]
async fn rollback_goes_to_the_newest_release_before_that_served_or_to_the_named_one() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    platform.serve(1, quick()).await;
    platform.serve(2, quick()).await;
    let rollback = format!("{HELLO}/rollback");
    platform.call(Method::POST, &rollback, json!({"release": 3})).await.refuses(
        409,
        "conflict",
        &["release 3 already"],
    );
    platform.call(Method::POST, &rollback, json!({"release": 9})).await.refuses(
        404,
        "not_found",
        &["1 to 3 are kept"],
    );
    let back = platform.call(Method::POST, &rollback, Value::Null).await.is(201);
    assert_eq!((&back["release"], &back["digest"]), (&json!(2), &json!(Digest::of(&component(1)))));
    assert_eq!(platform.rollout("hello", &back).await["from"], 3);
    let named = platform.call(Method::POST, &rollback, json!({"release": 1})).await.is(201);
    assert_eq!(named["release"], 1);
    platform.rollout("hello", &named).await;
    platform.call(Method::POST, &rollback, Value::Null).await.refuses(409, "conflict", &["has ever served"]);
}

#[tokio::test]
async fn scale_and_env_outlive_the_next_deploy() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    platform.serve(0, with_env("A", "file")).await;
    platform.call(Method::PUT, &format!("{HELLO}/scale"), json!({"replicas": 3})).await.is(200);
    let set =
        platform.call(Method::PATCH, &format!("{HELLO}/env"), json!({"B": "set", "A": null})).await.is(201);
    assert_eq!(set["release"], 2);
    platform.rollout("hello", &set).await;
    platform.serve(1, with_env("A", "file")).await;
    let app = platform.app("hello").await;
    assert_eq!((&app["replicas"], &app["release"]), (&json!(3), &json!(3)));
    assert_eq!(platform.get(&format!("{HELLO}/env")).await, json!({"B": "set"}));
    eventually("three slots are ready", async || (platform.app("hello").await["ready"] == 3).then_some(()))
        .await;

    // Without a manifest everything stays as it is.
    platform.push("default", &component(2)).await.is(201);
    let body = json!({"artifact": Digest::of(&component(2)), "keep": "spec"});
    platform.call(Method::POST, &format!("{HELLO}/releases"), body).await.is(201);
    let releases = platform.get(&format!("{HELLO}/releases")).await;
    assert_eq!(releases["items"][0]["spec"], releases["items"][1]["spec"]);
    let restarted = platform.call(Method::POST, &format!("{HELLO}/restart"), Value::Null).await.is(201);
    let releases = platform.get(&format!("{HELLO}/releases")).await;
    assert_eq!((&restarted["release"], &releases["items"][0]["cause"]), (&json!(5), &json!("restart")));
    assert_eq!(releases["items"][0]["digest"], releases["items"][1]["digest"]);
}

#[tokio::test]
async fn a_newer_rollout_supersedes_the_one_under_way() {
    let platform = Platform::start().await;
    let first = platform.deploy("hello", &component(0), quick()).await.is(201);
    let second = platform.deploy("hello", &component(1), quick()).await.is(201);
    assert_eq!(platform.rollout("hello", &first).await["state"], "superseded");
    let id = second["rollout"].as_str().unwrap();
    let waiting = platform.get(&format!("{HELLO}/rollouts/{id}?wait=10ms")).await;
    assert_eq!(waiting["state"], "running");
    let why = platform.get(&format!("{HELLO}/why")).await;
    assert!(why["because"].to_string().contains("no node"), "{why}");
    let _worker = Worker::join(&platform).await;
    platform.rollout("hello", &second).await;
    assert_eq!(platform.app("hello").await["release"], 2);
}

#[tokio::test]
async fn a_retry_with_the_same_key_gets_the_same_release() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let send = async |spec: Value| {
        let body = json!({"artifact": Digest::of(&component(0)), "spec": spec}).to_string();
        let request = super::fixture::request(&platform.admin, Method::POST, &format!("{HELLO}/releases"))
            .header("idempotency-key", "k1")
            .body(body.into())
            .unwrap();
        platform.send(request).await
    };
    let first = send(quick()).await.is(201);
    assert_eq!(send(quick()).await.is(201), first);
    send(json!({})).await.refuses(409, "conflict", &["`k1`"]);
    assert_eq!(platform.get(&format!("{HELLO}/releases")).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn if_match_refuses_a_change_that_did_not_see_the_one_before() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let scale = async |etag: &str, replicas: u32| {
        let request = super::fixture::request(&platform.admin, Method::PUT, &format!("{HELLO}/scale"))
            .header("if-match", etag)
            .body(json!({"replicas": replicas}).to_string().into())
            .unwrap();
        platform.send(request).await
    };
    scale("\"0\"", 2).await.refuses(412, "precondition_failed", &["read it again"]);
    scale("x", 2).await.refuses(400, "invalid_request", &["If-Match"]);
    let etag = eventually("the app is at rest", async || {
        let shown = platform.call(Method::GET, HELLO, Value::Null).await;
        let etag = shown.headers["etag"].to_str().unwrap().to_owned();
        (scale(&etag, 4).await.status == 200).then_some(etag)
    })
    .await;
    scale(&etag, 5).await.refuses(412, "precondition_failed", &[]);
}

#[tokio::test]
async fn a_deleted_app_goes_with_everything_and_its_name_is_free() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    platform.call(Method::DELETE, HELLO, Value::Null).await.is(204);
    assert_eq!(platform.get("/v1/namespaces/default/apps").await["items"], json!([]));
    eventually("nothing is assigned or routed", async || {
        worker.newest().filter(|newest| newest.instances.is_empty() && newest.routes.routes.is_empty())
    })
    .await;
    let events = platform.get(&format!("{HELLO}/events")).await;
    assert_eq!(events["items"].as_array().unwrap().last().unwrap()["kind"], "app.deleted");
    assert_eq!(platform.serve(1, quick()).await["release"], 1);
}

#[tokio::test]
async fn the_last_twenty_releases_are_kept() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    for number in 0..24 {
        platform.serve(number, quick()).await;
    }
    let count = async || {
        let releases = platform.get(&format!("{HELLO}/releases")).await;
        (releases["items"].as_array().unwrap().len() == 20).then_some(())
    };
    eventually("twenty are left", count).await;
    let reply = platform.call(Method::POST, &format!("{HELLO}/rollback"), json!({"release": 2})).await;
    reply.refuses(404, "not_found", &["5 to 24"]);
}
