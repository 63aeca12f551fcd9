//! Apps whose open requests decide how many instances they have.

use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::{NamespaceName, Timestamp};

use super::deploying::{HELLO, with_env};
use super::fixture::{Platform, component, eventually, quick};
use super::worker::Worker;
use crate::operations::autoscale::{Outcome, scale};
use crate::plan::autoscale::{Scaling, Why};
use crate::store;

/// It sleeps after a second.
fn range(min: u32, max: u32) -> Value {
    let mut spec = quick();
    spec["scale"] = json!({"replicas": {"min": min, "max": max, "concurrency": 10, "window": "1s"}});
    if min == 0 {
        spec["scale"]["replicas"]["sleep_after"] = json!("1s");
    }
    spec
}

impl Platform {
    async fn app_is(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || Some(self.app("hello").await).filter(|app| is(app))).await
    }

    async fn is_asleep(&self) {
        self.app_is("it is asleep", |app| app["condition"] == "asleep").await;
    }

    /// Whether requests wait becomes so in the routes that the worker has.
    async fn lets_wait(&self, worker: &Worker, waits: bool) {
        eventually("the routes say whether requests wait", async || {
            worker.newest().filter(|newest| newest.routes.routes[0].wakes == waits)
        })
        .await;
    }

    async fn told(&self, kind: &str) -> Vec<String> {
        let events = self.get(&format!("{HELLO}/events")).await;
        let of_kind = |event: &&Value| event["kind"] == kind;
        let items = events["items"].as_array().unwrap().iter().filter(of_kind);
        items.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_quiet_app_falls_asleep_and_a_request_that_waits_wakes_it() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, range(0, 5)).await;
    platform.is_asleep().await;
    assert_eq!(platform.told("app.asleep").await, ["asleep after 1s without requests"]);
    eventually("its route has no instance, and wakes it", async || {
        let route = worker.newest()?.routes.routes[0].clone();
        (route.endpoints.is_empty() && route.wakes && route.counted).then_some(())
    })
    .await;

    worker.is_asked(0, 12);
    platform.app_is("it is awake", |app| app["ready"] == 2).await;
    assert_eq!(platform.told("app.woken").await, ["woken by 12 requests: 2 instances"]);
    worker.is_asked(44, 0);
    let app = platform.app_is("it has what it needs", |app| app["ready"] == 5).await;
    assert_eq!(app["scaling"], json!({"min": 0, "max": 5, "concurrency": 10, "open": 44.0, "waiting": 0}));
    worker.is_asked(5, 0);
    platform.app_is("it is down to one", |app| app["replicas"] == 1).await;
    worker.is_asked(0, 0);
    platform.is_asleep().await;
}

#[tokio::test]
async fn the_number_outlives_the_control_plane_and_a_sleeper_goes_on_sleeping() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, range(0, 5)).await;
    worker.is_asked(33, 0);
    platform.app_is("it has grown", |app| app["replicas"] == 4).await;
    let node = worker.node;
    drop(worker);
    let platform = Platform::start_in(platform.crash()).await;
    let worker = Worker::join_as(&platform, node).await;
    worker.is_asked(33, 0);
    assert_eq!(platform.app("hello").await["replicas"], 4);
    worker.is_asked(0, 0);
    platform.is_asleep().await;
    drop(worker);
    let platform = Platform::start_in(platform.crash()).await;
    let _worker = Worker::join_as(&platform, node).await;
    assert_eq!(platform.app("hello").await["condition"], "asleep");
}

#[tokio::test]
async fn a_release_of_a_sleeping_app_is_proved_and_a_bad_one_goes_back_to_sleep() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, range(0, 5)).await;
    platform.is_asleep().await;
    let deployed = platform.serve(1, range(0, 5)).await;
    assert_eq!(platform.rollout("hello", &deployed).await["ready"], 1);
    assert!(platform.told("app.woken").await[0].starts_with("woken for a rollout"));
    platform.is_asleep().await;

    let mut bad = with_env("FAIL", "it exploded");
    bad["scale"] = range(0, 5)["scale"].clone();
    let deployed = platform.deploy("hello", &component(2), bad).await.is(201);
    assert_eq!(platform.rollout("hello", &deployed).await["state"], "failed");
    platform.is_asleep().await;
    assert_eq!(platform.app("hello").await["release"], 2);
    worker.is_asked(0, 1);
    platform.app_is("it is awake", |app| app["ready"] == 1).await;
}

#[tokio::test]
async fn a_number_of_a_users_stands_until_it_is_reset() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.serve(0, range(0, 5)).await;
    let scale = format!("{HELLO}/scale");
    let put = async |replicas: Value| {
        platform.call(Method::PUT, &scale, json!({ "replicas": replicas })).await.is(200)
    };
    let app = put(json!(7)).await;
    assert_eq!((&app["replicas"], &app["scaling"]), (&json!(7), &Value::Null));
    worker.is_asked(1000, 0);
    platform.lets_wait(&worker, false).await;
    let app = put(Value::Null).await;
    assert_eq!(app["replicas"], 5, "from there on, within the range");
    platform.lets_wait(&worker, true).await;
    let told = platform.told("app.scaled").await;
    assert_eq!(told.last().unwrap(), "scaled from 7 back to the release's own 0 to 5 by admin");

    platform.call(Method::POST, &format!("{HELLO}/stop"), Value::Null).await.is(200);
    let app = platform.app_is("it is stopped", |app| app["ready"] == 0).await;
    assert_eq!(app["condition"], "stopped");
    platform.lets_wait(&worker, false).await;
    let started = platform.call(Method::POST, &format!("{HELLO}/start"), Value::Null).await.is(201);
    platform.arrives(&started).await;
}

#[tokio::test]
async fn growth_ends_at_the_quota_and_a_range_beyond_it_is_refused() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    let quota = "/v1/namespaces/default/quota";
    platform.call(Method::PUT, quota, json!({"instances": 4})).await.is(200);
    let beyond = platform.deploy("hello", &component(0), range(0, 5)).await;
    beyond.refuses(403, "quota_exceeded", &["scale.replicas.max: 5", "4 instances", "`default`"]);
    platform.serve(0, range(1, 4)).await;
    platform.deploy("other", &component(0), quick()).await.is(201);
    assert_eq!(
        platform.get(quota).await["used"]["instances"],
        2,
        "what there is counts, and not what may be"
    );
    // However short the first report of it is, all are needed.
    worker.is_asked(1_000_000, 0);
    platform.app_is("it has what is left", |app| app["replicas"] == 3).await;
    let refused = eventually("it is told once that there is no more", async || {
        platform.told("app.autoscale-refused").await.pop()
    });
    assert!(refused.await.starts_with("stays at 3; 4 were needed, but instances: the namespace uses 4 of 4"));
    let told = platform.told("app.autoscaled").await;
    assert!(told[0].starts_with("scaled 1 -> 3: ") && told[0].contains("; 4 were needed, but"), "{told:?}");
    assert_eq!(platform.get(quota).await["used"]["instances"], 4);
}

#[tokio::test]
async fn refused_growth_leaves_the_number_of_a_sleeper_as_it_was() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    platform.serve(0, range(0, 5)).await;
    platform.is_asleep().await;
    let quota = "/v1/namespaces/default/quota";
    platform.call(Method::PUT, quota, json!({"instances": 0})).await.is(200);
    let mut tx = platform.context.store.read().await.unwrap();
    let (namespace, name) = (NamespaceName::default_namespace(), "hello".parse().unwrap());
    let app = store::app::find(&mut tx, &namespace, &name).await.unwrap().unwrap();
    drop(tx);
    assert_eq!(app.autoscaled_to, Some(0));
    // As in a rollout that goes back to it, which needs an instance where nobody asks for one.
    let scaling = Scaling { from: 1, to: 3, why: Why::Woken { waiting: 20 } };
    let scaled = scale(&platform.context, app.id, Some(0), &scaling, true, Timestamp::now());
    assert_eq!(scaled.await.unwrap(), Outcome::Refused);
    assert_eq!(platform.get(quota).await["used"]["instances"], 0);
    let told = platform.told("app.autoscale-refused").await;
    assert!(told[0].starts_with("stays at 1; 3 were needed, but instances: "), "{told:?}");
}
