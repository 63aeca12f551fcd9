//! The dials of a rollout, and what users wish of one, on a real platform and under load.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use wharf_tests::{Platform, SHORT, Served, eventually};
use wharf_types::state::{AppCondition, RolloutState};

/// Requests before and after what is tried.
const AROUND: u64 = 50;

fn assert_nothing_failed(served: &Served) {
    assert!(served.failures.is_empty(), "{} failed: {:?}", served.failures.len(), served.failures);
}

/// A manifest of the app `hello`, whose greeting tells its releases apart.
fn hello(greeting: &str, rest: &str) -> String {
    format!("app = \"hello\"\n{rest}\n[env]\nGREETING = \"{greeting}\"\n")
}

async fn rollout(platform: &Platform, app: &str) -> Value {
    let told = platform.wharf(&["rollout", "status", app, "--json"]).await.ok();
    serde_json::from_str(&told).unwrap()
}

/// What was counted for a release, by name.
fn counted(rollout: &Value, release: u64, what: &str) -> u64 {
    let all = rollout["requests"].as_array().unwrap();
    all.iter().find(|it| it["release"] == release).map_or(0, |it| it["counts"][what].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_tells_what_became_of_requests_by_release() {
    let platform = Platform::start().await;
    let slow = "[scale]\nreplicas = 2\n[update]\nparallelism = 1\ndelay = \"2s\"";
    platform.deploy_manifest("hello", &hello("one", slow)).await.ok();
    let mut load = platform.load("hello", "/");
    load.go_on_for(AROUND).await;
    let told = platform.deploy_manifest("hello", &hello("two", slow)).await.ok();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(counted(&told, 1, "ok") > 0 && counted(&told, 2, "ok") > 0, "{told}");
    load.go_on_for(AROUND).await;
    assert_nothing_failed(&load.stop().await);

    let rollout = rollout(&platform, "hello").await;
    for release in [1, 2] {
        for what in ["failed", "cut", "server_errors"] {
            assert_eq!(counted(&rollout, release, what), 0, "{what} of {release}: {rollout}");
        }
    }
    let shown = platform.wharf(&["rollout", "status", "hello"]).await.ok();
    assert!(shown.contains("release 1: ") && shown.contains(" served (2xx "), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_goes_badly_goes_back_with_the_figures() {
    let platform = Platform::start().await;
    let canary =
        "[update.canary]\nshare = \"50%\"\nduration = \"60s\"\nmin_requests = 20\nmax_error_ratio = 0.1\n";
    platform.deploy_manifest("hello", &hello("one", "")).await.ok();
    // The new release fails at this path, and at no other, so that it is healthy.
    let mut load = platform.load("hello", "/trap");
    load.go_on_for(AROUND).await;
    let bad = format!("app = \"hello\"\n{canary}");
    let ran = platform.deploy_manifest("crash", &bad).await;
    ran.fails(5, &["release 2 failed", "requests, release 1 0 %", "back on release 1"]);
    let info = platform.app_is("hello", "back on release 1", |info| info.release == Some(1)).await;
    assert_eq!(info.ready, 1);
    let served = load.stop().await;
    assert!(!served.failures.is_empty() && (served.failures.len() as u64) < served.requests, "{served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_goes_well_goes_on() {
    let platform = Platform::start().await;
    let canary = "[update.canary]\nshare = \"50%\"\nduration = \"1s\"\nmin_requests = 5\n";
    platform.deploy_manifest("hello", &hello("one", "")).await.ok();
    let mut load = platform.load("hello", "/");
    load.go_on_for(AROUND).await;
    platform.deploy_manifest("hello", &hello("two", canary)).await.ok();
    platform.says("hello", "two\n").await;
    assert_nothing_failed(&load.stop().await);
    let events = platform.wharf(&["events", "hello"]).await.ok();
    assert!(
        events.contains("release 2 gets 50% of the requests") && events.contains("it goes on"),
        "{events}"
    );
    // Both were timed for the comparison.
    let rollout = rollout(&platform, "hello").await;
    let counted = rollout["requests"].as_array().unwrap();
    for release in [1, 2] {
        let of_release = counted.iter().find(|it| it["release"] == release).unwrap();
        let times = of_release["counts"]["times"].as_array();
        assert!(times.is_some_and(|times| !times.is_empty()), "of {release}: {rollout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_slower_on_trial_goes_back() {
    let platform = Platform::start().await;
    let canary =
        "[update.canary]\nshare = \"50%\"\nduration = \"2s\"\nmin_requests = 5\nmax_latency_ratio = 3.0\n";
    platform.deploy_manifest("hello", &hello("one", "")).await.ok();
    // The new release takes its time at this path, and is healthy.
    let mut load = platform.load("hello", "/sleep?ms=100");
    load.go_on_for(AROUND).await;
    let slow = format!("app = \"hello\"\n{canary}");
    let ran = platform.deploy_manifest("crash", &slow).await;
    ran.fails(5, &["release 2", "ms", "at most 3 times may", "back on release 1"]);
    assert_nothing_failed(&load.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_paused_resumed_and_aborted_and_survives_a_crash_meanwhile() {
    let mut platform = Platform::start().await;
    let slow = "[scale]\nreplicas = 3\n[update]\nparallelism = 1\ndelay = \"1h\"";
    platform.deploy_manifest("hello", &hello("one", slow)).await.ok();
    let mut load = platform.load("hello", "/");
    load.go_on_for(AROUND).await;
    platform.deploy_manifest_with("hello", &hello("two", slow), &["--no-wait"]).await.ok();
    let waits = |text: &'static str| {
        move |info: &wharf_types::api::AppInfo| {
            let waits = info.rollout.as_ref().and_then(|rollout| rollout.waits.as_ref());
            waits.is_some_and(|waits| waits.contains(text))
        }
    };
    platform.app_is("hello", "waiting for the next batch", waits("update.delay")).await;
    platform.wharf(&["rollout", "pause", "hello"]).await.ok();
    let why = platform.wharf(&["why", "hello"]).await.ok();
    assert!(why.contains("it is paused by `admin`") && why.contains("wharf rollout resume hello"), "{why}");
    load.go_on_for(AROUND).await;
    assert_nothing_failed(&load.stop().await);

    platform.kill().await;
    platform.start_again().await;
    platform.app_is("hello", "paused still", waits("paused by `admin`")).await;
    platform.wharf(&["rollout", "resume", "hello"]).await.ok();
    platform.app_is("hello", "waiting for the next batch", waits("update.delay")).await;
    let info = platform.app("hello").await;
    let moved = info.instances.iter().filter(|it| it.release == 2 && !it.state.is_final()).count();
    assert_eq!(moved, 1, "{info:?}");

    let mut load = platform.load("hello", "/");
    load.go_on_for(AROUND).await;
    platform.wharf(&["rollout", "abort", "hello"]).await.ok();
    let is_back = |info: &wharf_types::api::AppInfo| {
        info.release == Some(1)
            && info.instances.iter().filter(|it| !it.state.is_final()).all(|it| it.release == 1)
    };
    platform.app_is("hello", "back on release 1", is_back).await;
    load.go_on_for(AROUND).await;
    assert_nothing_failed(&load.stop().await);
    let again = platform.wharf(&["rollout", "pause", "hello"]).await;
    // The way back is monitored for a moment; then there is nothing to pause.
    if again.code == 0 {
        platform.wharf(&["rollout", "resume", "hello"]).await.ok();
    }
    let events = platform.wharf(&["events", "hello"]).await.ok();
    assert!(events.contains("it was aborted by admin"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_first_never_has_more_instances_than_slots() {
    let platform = Platform::start().await;
    let dials = "[scale]\nreplicas = 2\n[update]\norder = \"stop-first\"\nparallelism = 1";
    platform.deploy_manifest("hello", &hello("one", dials)).await.ok();
    let mut load = platform.load("hello", "/");
    load.go_on_for(AROUND).await;
    platform.deploy_manifest("hello", &hello("two", dials)).await.ok();
    load.go_on_for(AROUND).await;
    assert_nothing_failed(&load.stop().await);
    platform.says("hello", "two\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_app_says_so_keeps_its_deploys_and_comes_back() {
    let mut platform = Platform::start().await;
    platform.deploy_manifest("hello", &hello("one", "")).await.ok();
    platform.wharf(&["stop", "hello"]).await.ok();
    let is_stopped = |reply: &wharf_tests::Reply| {
        reply.status == 503 && reply.headers.get("x-wharf-error").is_some_and(|code| code == "app_stopped")
    };
    let reply = eventually(SHORT, "the front door says that the app is stopped", || async {
        platform.get("hello", "/").await.ok().filter(is_stopped)
    })
    .await;
    assert!(reply.text().contains("stopped"), "{}", reply.text());

    platform.kill().await;
    platform.start_again().await;
    let info = platform.app_is("hello", "stopped", |info| info.condition == AppCondition::Stopped).await;
    assert_eq!(info.stopped.unwrap().by, "admin");
    let told = platform.deploy_manifest("hello", &hello("two", "")).await.ok();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((told["stopped"].as_bool(), told["release"].as_u64()), (Some(true), Some(2)), "{told}");
    assert_eq!(platform.get("hello", "/").await.unwrap().status, 503);
    let why = platform.wharf(&["why", "hello"]).await.ok();
    assert!(why.contains("stopped by `admin`") && why.contains("wharf start hello"), "{why}");

    platform.wharf(&["start", "hello"]).await.ok();
    platform.says("hello", "two\n").await;
    platform.wharf(&["start", "hello"]).await.fails(7, &["is not stopped"]);
    let rollout = platform.app("hello").await.rollout.unwrap();
    assert!(rollout.state >= RolloutState::Monitoring, "{rollout:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_release_comes_back_whole_within_a_second() {
    let platform = Platform::start().await;
    let first = hello(
        "one",
        "[http]\nroutes = [\"first.example.com\"]\n[scale]\nreplicas = 2\n[outbound]\nallow = [\"https://one.example.com\"]",
    );
    platform.deploy_manifest("hello", &first).await.ok();
    for number in 2..=20 {
        platform.deploy_manifest("hello", &hello(&format!("{number}"), "")).await.ok();
    }
    let spec_of = async |number: u64| {
        let all: Value = platform.wharf(&["releases", "hello", "--json"]).await.json();
        let all = all["items"].as_array().unwrap().clone();
        all.into_iter().find(|it| it["release"] == number).unwrap()
    };
    let before = spec_of(1).await;
    assert_eq!(before["current"], false);
    let told: Value = platform.wharf(&["rollback", "hello", "1", "--json"]).await.json();
    assert!(told["elapsed_millis"].as_u64().unwrap() < 1000, "{told}");
    platform.says("hello", "one\n").await;
    let info = platform.app("hello").await;
    assert_eq!((info.release, info.replicas, info.ready), (Some(1), 2, 2));
    assert!(info.urls.iter().any(|url| url.contains("first.example.com")), "{:?}", info.urls);
    let after = spec_of(1).await;
    assert_eq!((&after["spec"], &after["capabilities"]), (&before["spec"], &before["capabilities"]));
    assert_eq!(after["current"], true);
}
