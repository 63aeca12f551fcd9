//! Guests that fail harm only themselves, and only for one request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use tokio::time::Instant;
use wharf_tests::{Platform, SHORT, eventually, within};
use wharf_types::state::AppCondition;

const TIGHT: &str = "app = \"crash\"\n[limits]\ncpu = \"300ms\"\ntimeout = \"2s\"\nmemory = \"64MiB\"\n";

async fn platform_with(manifest: &str) -> Platform {
    let platform = Platform::start().await;
    platform.deploy_manifest("crash", manifest).await.ok();
    platform.deploy("hello", "hello", &[]).await;
    platform
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_502_and_the_next_request_is_served() {
    let platform = platform_with(TIGHT).await;
    for path in ["/trap", "/exit", "/error", "/trap"] {
        let reply = platform.get("crash", path).await.unwrap();
        assert!(matches!(reply.status.as_u16(), 500 | 502), "{path}: {}", reply.status);
        platform.text("crash", "/healthz").await;
    }
    let logged = || async {
        let logs = platform.wharf(&["logs", "crash"]).await.ok();
        (logs.contains("asked to panic by GET /trap") && logs.contains("502")).then_some(())
    };
    eventually(SHORT, "the log tells of the trap", logged).await;
    assert_eq!(platform.app("crash").await.ready, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_not_taken_for_a_whole_one() {
    let platform = platform_with(TIGHT).await;
    assert!(platform.get("crash", "/half").await.is_err());
    platform.text("crash", "/healthz").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_ends_at_its_cpu_limit_while_a_neighbour_answers() {
    let platform = platform_with(TIGHT).await;
    let mut load = platform.load("hello", "/");
    let since = Instant::now();
    let loops = futures::future::join_all((0..4).map(|_| platform.get("crash", "/loop"))).await;
    let took = since.elapsed();
    for reply in loops {
        let reply = reply.unwrap();
        assert_eq!(reply.status, 504, "{}", reply.text());
    }
    // Four loops of 300 ms share the processors with everything else of this machine.
    assert!(took < Duration::from_secs(10), "{took:?}");
    platform.text("crash", "/healthz").await;
    load.go_on_for(20).await;
    let served = load.stop().await;
    assert!(served.failures.is_empty(), "{:?}", served.failures);
    assert!(served.slowest < Duration::from_secs(2), "the neighbour waited for {:?}", served.slowest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_hangs_is_ended_at_its_timeout() {
    let platform = platform_with("app = \"crash\"\n[limits]\ntimeout = \"300ms\"\n").await;
    let since = Instant::now();
    assert_eq!(platform.get("crash", "/hang").await.unwrap().status, 504);
    assert!(since.elapsed() >= Duration::from_millis(290), "{:?}", since.elapsed());
    platform.text("crash", "/healthz").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb_ends_at_its_limit_while_others_serve() {
    // Its other limits are far away, however long a busy machine takes to find the pages.
    let platform = platform_with("app = \"crash\"\n[limits]\nmemory = \"64MiB\"\n").await;
    let before = platform.memory_bytes();
    let mut load = platform.load("hello", "/");
    let bombs = futures::future::join_all((0..3).map(|_| platform.get("crash", "/memory"))).await;
    for reply in bombs {
        assert_eq!(reply.unwrap().status, 502);
    }
    platform.text("crash", "/healthz").await;
    load.go_on_for(20).await;
    let served = load.stop().await;
    assert!(served.failures.is_empty(), "{:?}", served.failures);
    let grown = platform.memory_bytes().saturating_sub(before);
    assert!(grown < 300 << 20, "the platform keeps {} MiB", grown >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_ends_again_and_again_is_crash_looping_and_said_to_be() {
    let platform = Platform::start().await;
    // The rollout counts as good long before the command ends for the first time.
    let manifest =
        "app = \"ticker\"\n[update]\nmonitor = \"100ms\"\n[env]\nPERIOD_MS = \"2500\"\nTICKS = \"1\"\n";
    platform.deploy_manifest("ticker", manifest).await.ok();
    let info =
        platform.app_is("ticker", "crash-looping", |info| info.condition == AppCondition::CrashLooping).await;
    assert!(info.instances.iter().any(|instance| instance.restarts > 0), "{info:?}");
    // Between two ends it runs for a moment, and is said to.
    let told = || async {
        let table = platform.wharf(&["apps"]).await.ok();
        table.contains("crash-looping").then_some(())
    };
    eventually(SHORT, "`wharf apps` says that it is crash-looping", told).await;
    let why = platform.wharf(&["why", "ticker"]).await.ok();
    assert!(why.contains("ticker") && why.lines().count() > 1, "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_at_once_is_a_failed_rollout_with_its_own_words() {
    let platform = Platform::start().await;
    let failed = platform.deploy_manifest("ticker", "app = \"ticker\"\n[env]\nFAIL = \"1\"\n").await;
    failed.fails(5, &["failing, because FAIL=1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_an_open_request_finish_and_exits_with_0() {
    let mut platform = platform_with("app = \"crash\"\n").await;
    let client = platform.apps.clone();
    let slow = tokio::spawn(async move { client.get("crash.default.localhost", "/sleep?ms=6000").await });
    eventually(SHORT, "the request is under way", || async {
        let usage: wharf_types::api::Usage = platform.wharf(&["top", "--json"]).await.json();
        usage.apps.iter().any(|app| app.app.as_str() == "crash" && app.active > 0).then_some(())
    })
    .await;
    let status = platform.terminate().await;
    let reply = within(SHORT, "the reply", slow).await.unwrap().unwrap();
    assert_eq!(reply.text(), "slept for 6000 ms\n");
    assert_eq!(status.code(), Some(0), "{}", platform.log());

    platform.start_again().await;
    platform.serves("hello").await;
}
