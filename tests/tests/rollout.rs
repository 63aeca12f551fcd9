//! Moving to another release while people use the app: nothing is lost, and a bad release goes back by itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use tokio::time::Instant;
use wharf_tests::{Platform, SHORT, Served};
use wharf_types::state::RolloutState;

/// Requests before and after what is tried.
const AROUND: u64 = 50;
const LEAST: u64 = 200;

fn assert_nothing_failed(served: &Served) {
    assert!(served.requests >= LEAST, "{} requests are too few to tell", served.requests);
    assert!(
        served.failures.is_empty(),
        "{} of {} failed: {:?}",
        served.failures.len(),
        served.requests,
        served.failures
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_takes_over_without_a_failed_request() {
    let platform = Platform::start().await;
    platform.deploy("hello", "hello", &["-e", "GREETING=one"]).await;
    let mut load = platform.load("hello", "/");
    load.go_on_for(AROUND).await;
    platform.deploy("hello-plain", "hello", &[]).await;
    load.go_on_for(AROUND).await;
    platform.says("hello", "Hello from plain WASI, you asked for /\n").await;
    platform.wharf(&["rollback", "hello", "1"]).await.ok();
    load.go_on_for(LEAST).await;
    platform.says("hello", "one\n").await;
    let served = load.stop().await;
    if !served.failures.is_empty() {
        // When it happened, and what went on then, is what explains it.
        eprintln!("{}", platform.wharf(&["logs", "hello", "--json"]).await.stdout);
        eprintln!("{}", platform.wharf(&["events", "hello", "--json"]).await.stdout);
        eprintln!("{}", platform.wharf(&["status", "hello", "--json"]).await.stdout);
    }
    assert_nothing_failed(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_up_and_down_and_restarting_lose_no_request() {
    let platform = Platform::start().await;
    platform.deploy("hello", "hello", &[]).await;
    let mut load = platform.load("hello", "/");
    for step in [["scale", "hello=4"], ["restart", "hello"], ["scale", "hello=1"]] {
        platform.wharf(&step).await.ok();
        load.go_on_for(AROUND).await;
    }
    load.go_on_for(LEAST).await;
    assert_nothing_failed(&load.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_traps_at_its_start_fails_at_once_and_the_old_one_goes_on() {
    let platform = Platform::start().await;
    platform.deploy("crash", "crash", &[]).await;
    let mut load = platform.load("crash", "/healthz");
    load.go_on_for(AROUND).await;

    let since = Instant::now();
    let failed = platform.wharf(&["env", "set", "POISON=start", "--app", "crash"]).await;
    failed.fails(5, &["this release cannot serve anything", "back on release 1"]);
    assert!(since.elapsed() < SHORT / 2, "it took {:?} to tell", since.elapsed());

    load.go_on_for(LEAST).await;
    assert_nothing_failed(&load.stop().await);
    let info = platform.app_is("crash", "back on release 1", |info| info.release == Some(1)).await;
    assert_eq!(info.ready, 1);
    let why = platform.wharf(&["why", "crash"]).await.ok();
    assert!(why.contains("release 2 failed") && why.contains("this release cannot serve anything"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_deploy_that_cannot_start_says_so_and_leaves_nothing_running() {
    let platform = Platform::start().await;
    let failed = platform.deploy_manifest("crash", "app = \"bad\"\n[env]\nPOISON = \"start\"\n").await;
    failed.fails(5, &["this release cannot serve anything"]);
    let told: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!(told["state"], "failed", "{told}");
    let reply = platform.get("bad", "/").await.unwrap();
    assert_eq!(reply.status, 503, "the app exists, so it is not unknown: {}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_never_becomes_healthy_fails_by_its_deadline_and_goes_back() {
    let platform = Platform::start().await;
    // The release to go back to.
    platform.deploy("crash", "crash", &[]).await;
    let manifest = "app = \"crash\"\n[http]\nhealth = { path = \"/healthz\" }\n[update]\nprogress_deadline = \"1s\"\n\
                    [env]\nPOISON = \"500\"\n";
    let mut load = platform.load("crash", "/healthz");
    load.go_on_for(AROUND).await;
    platform.deploy_manifest("crash", manifest).await.fails(5, &["500"]);
    let rollout = platform.app("crash").await.rollout.unwrap();
    assert!(rollout.state == RolloutState::Failed || rollout.to == 1, "{rollout:?}");
    load.go_on_for(LEAST).await;
    assert_nothing_failed(&load.stop().await);
    let events = platform.wharf(&["events", "crash"]).await.ok();
    assert!(events.contains("release 2") && events.contains("500"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_deploy_overtakes_an_older_one() {
    let platform = Platform::start().await;
    platform.deploy("hello", "hello", &["-e", "GREETING=one"]).await;
    for greeting in ["GREETING=two", "GREETING=three"] {
        platform.wharf(&["env", "set", greeting, "--app", "hello", "--no-wait"]).await.ok();
    }
    platform.wharf(&["env", "set", "GREETING=four", "--app", "hello"]).await.ok();
    platform.says("hello", "four\n").await;
}
