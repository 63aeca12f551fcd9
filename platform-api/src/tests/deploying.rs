//! Releases come into service, fail, go back, and go.

use std::time::{Duration, Instant};

use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::Digest;
use wharf_types::node::Assignment;
use wharf_types::state::Wanted;

use super::fixture::{Platform, component, eventually, quick};
use super::worker::Worker;
use crate::{store, view};

pub(super) const HELLO: &str = "/v1/namespaces/default/apps/hello";

pub(super) fn with_env(name: &str, value: &str) -> Value {
    let mut spec = quick();
    spec["env"] = json!({name: value});
    spec
}

impl Platform {
    /// Deploys `hello` and waits until it serves.
    pub(super) async fn serve(&self, number: u32, spec: Value) -> Value {
        let deployed = self.deploy("hello", &component(number), spec).await.is(201);
        self.arrives(&deployed).await;
        deployed
    }

    /// Waits until the rollout of `hello` serves.
    pub(super) async fn arrives(&self, deployed: &Value) {
        let rollout = self.rollout("hello", deployed).await;
        assert!(["monitoring", "succeeded"].contains(&rollout["state"].as_str().unwrap()), "{rollout}");
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
        let routes = worker.newest()?.routes.routes.clone();
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
    let old = worker.newest().unwrap().instances[0].id;
    worker.take_routes(false);
    let deployed = platform.deploy("hello", &component(1), quick()).await.is(201);
    let wanted = |assignment: &Assignment| {
        assignment.instances.iter().find(|instance| instance.id == old).map(|instance| instance.wanted)
    };
    let leads_to_new_only = |assignment: &Assignment| {
        let route = &assignment.routes.routes[0];
        route.endpoints.len() == 1 && route.endpoints[0].instance != old
    };
    eventually("the new release alone is routed", async || worker.newest().filter(leads_to_new_only)).await;

    // The ingress still uses the routes that lead to the old instance. Whatever else happens meanwhile, that instance is
    // left alone, and the new release does not count as serving.
    for replicas in 2..5 {
        platform.call(Method::PUT, &format!("{HELLO}/scale"), json!({"replicas": replicas})).await.is(200);
        let grown = eventually("the further slot is routed", async || {
            worker.newest().filter(|newest| newest.routes.routes[0].endpoints.len() == replicas)
        });
        assert_eq!(wanted(&grown.await), Some(Wanted::Unroute));
    }
    let id = deployed["rollout"].as_str().unwrap();
    assert_eq!(platform.get(&format!("{HELLO}/rollouts/{id}")).await["state"], "running");

    worker.take_routes(true);
    eventually("the old instance is gone", async || {
        worker.newest().filter(|newest| wanted(newest).is_none())
    })
    .await;
    platform.arrives(&deployed).await;
    let mut last = None;
    for (_, assignment) in worker.assignments() {
        assert!(last < Some(assignment.generation), "generations grow");
        last = Some(assignment.generation);
        let serves = assignment.routes.routes.iter().any(|route| !route.endpoints.is_empty());
        assert!(serves || wanted(&assignment) == Some(Wanted::Run) || wanted(&assignment).is_none());
    }
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
    let mut spec = with_env("FAIL", "no start");
    spec["http"] = json!({"routes": ["shop.example.com/"]});
    let deployed = platform.deploy("hello", &component(0), spec).await.is(201);
    let rollout = platform.rollout("hello", &deployed).await;
    assert_eq!((&rollout["state"], &rollout["rolled_back_by"]), (&json!("failed"), &Value::Null));
    let idle = eventually("nothing is assigned", async || {
        worker.newest().filter(|newest| newest.instances.is_empty())
    })
    .await;
    // The ingress answers 503 for an app that exists, and 404 for one that does not.
    let routes: Vec<_> = idle.routes.routes.iter().map(|route| route.pattern.to_string()).collect();
    assert_eq!(routes, ["hello.default.localhost/", "shop.example.com/"]);
    assert!(idle.routes.routes.iter().all(|route| route.endpoints.is_empty()));
    let app = platform.app("hello").await;
    assert_eq!(
        (&app["release"], &app["url"]),
        (&Value::Null, &json!("http://hello.default.localhost:8080/"))
    );
    let thief =
        platform.deploy("thief", &component(0), json!({"http": {"routes": ["shop.example.com"]}})).await;
    thief.refuses(409, "route_taken", &["app `hello`"]);
    // The variable is taken away, and the same artifact works.
    let deployed =
        platform.call(Method::PATCH, &format!("{HELLO}/env"), json!({"set": {"FAIL": null}})).await.is(201);
    platform.arrives(&deployed).await;
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
    platform.call(Method::POST, &rollback, Value::Null).await.refuses(
        409,
        "conflict",
        &["served without failing"],
    );
}

#[tokio::test]
async fn rollback_passes_over_a_release_that_failed_while_it_was_monitored() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    let second = platform.serve(1, json!({"update": {"monitor": "1m"}})).await;
    let serving = worker.newest().unwrap().instances.into_iter().find(|instance| instance.release == 2);
    worker.fail(serving.unwrap().id, "it fell over");
    eventually("release 1 serves again", async || {
        let app = platform.app("hello").await;
        (app["release"] == 1 && app["condition"] == "running").then_some(())
    })
    .await;
    let failed = platform.rollout("hello", &second).await;
    assert_eq!(failed["reason"]["message"], "it fell over");
    platform.serve(2, quick()).await;
    let back = platform.call(Method::POST, &format!("{HELLO}/rollback"), Value::Null).await.is(201);
    assert_eq!(back["release"], 1);
}

#[tokio::test]
async fn scale_and_env_outlive_the_next_deploy() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    platform.serve(0, with_env("A", "file")).await;
    platform.call(Method::PUT, &format!("{HELLO}/scale"), json!({"replicas": 3})).await.is(200);
    let env = format!("{HELLO}/env");
    let set = platform.call(Method::PATCH, &env, json!({"set": {"B": "set", "A": null}})).await.is(201);
    assert_eq!(set["release"], 2);
    platform.rollout("hello", &set).await;
    platform.serve(1, with_env("A", "file")).await;
    let app = platform.app("hello").await;
    assert_eq!((&app["replicas"], &app["release"]), (&json!(3), &json!(3)));
    assert_eq!(platform.get(&env).await, json!({"B": "set"}));
    eventually("three slots are ready", async || (platform.app("hello").await["ready"] == 3).then_some(()))
        .await;

    // Without a manifest everything stays as it is.
    platform.push("default", &component(2)).await.is(201);
    let body = json!({"artifact": Digest::of(&component(2)), "keep": "spec"});
    platform.call(Method::POST, &format!("{HELLO}/releases"), body).await.is(201);
    let releases = platform.get(&format!("{HELLO}/releases")).await;
    assert_eq!(releases["items"][0]["spec"], releases["items"][1]["spec"]);

    // What was set is taken back, also over a deploy that kept it.
    let reset = platform.call(Method::PATCH, &env, json!({"reset": ["A", "B"]})).await.is(201);
    assert_eq!((&reset["release"], platform.get(&env).await), (&json!(5), json!({"A": "file"})));
    platform.rollout("hello", &reset).await;
    platform.serve(3, with_env("A", "newer file")).await;
    assert_eq!(platform.get(&env).await, json!({"A": "newer file"}));
}

/// The reply to `scale` is made of what is known; what is in the store has to be the same.
#[tokio::test]
async fn an_app_that_was_scaled_is_known_as_the_store_has_it() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, quick()).await;
    eventually("it is running", async || {
        (platform.app("hello").await["condition"] == "running").then_some(())
    })
    .await;
    drop(worker);
    let context = &platform.context;
    let (namespace, name) = ("default".parse().unwrap(), "hello".parse().unwrap());
    for replicas in [3, 2, 1] {
        let reply = platform
            .call(Method::PUT, &format!("{HELLO}/scale"), json!({"replicas": replicas}))
            .await
            .is(200);
        assert_eq!(reply["replicas"], replicas);
        // Unless the planner has written meanwhile, which makes it another app.
        let mut tx = context.store.read().await.unwrap();
        let app = store::app::find(&mut tx, &namespace, &name).await.unwrap().unwrap();
        if let Some(known) = context.recent.get(&app) {
            let read = view::complete(&mut tx, &context.releases, app).await.unwrap();
            assert_eq!(known.view, read.view);
            assert_eq!(format!("{:?}", known.app), format!("{:?}", read.app));
            assert_eq!(format!("{:?}", known.rollout), format!("{:?}", read.rollout));
        }
    }
}

#[tokio::test]
async fn a_newer_rollout_supersedes_the_one_under_way() {
    let platform = Platform::start().await;
    let first = platform.deploy("hello", &component(0), quick()).await.is(201);
    let second = platform.deploy("hello", &component(1), quick()).await.is(201);
    assert_eq!(platform.rollout("hello", &first).await["state"], "superseded");
    let id = second["rollout"].as_str().unwrap();
    eventually("the second runs", async || {
        let waiting = platform.get(&format!("{HELLO}/rollouts/{id}?wait=10ms")).await;
        (waiting["state"] == "running").then_some(())
    })
    .await;
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
