//! Requests that share a store, which is what WASI 0.3 is for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::time::Instant;
use wharf_tests::{Platform, SHORT, eventually, request, within};

const HOST: &str = "crash-p3.default.localhost";

async fn platform_with(settings: &str) -> Platform {
    let platform = Platform::start().await;
    let manifest = format!("app = \"crash-p3\"\n{settings}");
    platform.deploy_manifest("crash-p3", &manifest).await.json::<serde_json::Value>();
    platform
}

async fn uses(platform: &Platform) -> u32 {
    platform.text("crash-p3", "/uses").await.trim().parse().unwrap()
}

/// Waits until the log has the text.
async fn logged(platform: &Platform, text: &str) {
    eventually(SHORT, text, || async {
        let logs = platform.wharf(&["logs", "crash-p3"]).await;
        logs.stdout.contains(text).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_serves_one_request_after_the_other_until_it_is_used_up() {
    let platform = platform_with("[reuse]\nmax_requests = 3\n").await;
    let mut seen = Vec::new();
    for _ in 0..9 {
        seen.push(uses(&platform).await);
    }
    // The platform's own checks are requests too.
    assert!(seen.iter().all(|uses| (1..=3).contains(uses)), "{seen:?}");
    assert!(seen.contains(&2) || seen.contains(&3), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_share_a_store_as_far_as_the_settings_go() {
    for (settings, most) in
        [("", 4), ("[reuse]\nmax_concurrent = 2\n", 2), ("[reuse]\nmode = \"serial\"\n", 1)]
    {
        let platform = platform_with(settings).await;
        let sleeps = (0..4).map(|_| async { platform.text("crash-p3", "/sleep?ms=1000").await });
        let open = futures::future::join_all(sleeps).await;
        let open: Vec<u32> = open.iter().map(|text| text.trim().parse().unwrap()).collect();
        let seen = open.iter().copied().max().unwrap();
        assert!(seen <= most && (most == 1 || seen > 1), "{settings:?}: {open:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_ends_the_requests_that_share_its_store_and_no_others() {
    let platform = platform_with("[limits]\nconcurrency = 64\n").await;
    // Two that come at once may each begin a store, and then share none.
    eventually(SHORT, "a request shares the store of one that traps", async || {
        let sleep = async { platform.get("crash-p3", "/sleep?ms=2000").await.unwrap() };
        let trap = async { platform.get("crash-p3", "/trap?ms=500").await.unwrap() };
        let (slept, trapped) = tokio::join!(sleep, trap);
        assert_eq!(trapped.status, 502, "{}", trapped.text());
        (slept.status == 502).then_some(())
    })
    .await;
    assert!(platform.get("crash-p3", "/").await.unwrap().status == 200);
    logged(&platform, "asked to panic by GET /trap").await;

    let platform = platform_with("[reuse]\nmode = \"serial\"\n").await;
    let sleep = async { platform.get("crash-p3", "/sleep?ms=2000").await.unwrap() };
    let trap = async { platform.get("crash-p3", "/trap?ms=500").await.unwrap() };
    let (slept, trapped) = tokio::join!(sleep, trap);
    assert_eq!((slept.status.as_u16(), trapped.status.as_u16()), (200, 502));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_a_trap_breaks_off_is_not_taken_for_a_whole_one() {
    let platform = platform_with("").await;
    for path in ["/half", "/half?ms=300"] {
        let reply = platform.apps.open(request(HOST, path)).await;
        // Where the guest fails before anything was sent, the client may learn it from the status.
        let Ok(reply) = reply else { continue };
        let status = reply.status();
        let body = within(SHORT, "the end of the body", reply.into_body().collect()).await;
        assert!(body.is_err() || status == 502, "{path}: {status} {body:?}");
    }
    logged(&platform, "asked to panic by GET /half").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_arrives_whole_whatever_its_pieces() {
    let platform = platform_with("").await;
    for count in [0, 1, 2, 3, 17, 1000] {
        let expected: String = (1..=count).map(|line| format!("line {line}\n")).collect();
        assert_eq!(platform.text("crash-p3", &format!("/count?n={count}")).await, expected);
    }
    assert_eq!(platform.text("crash-p3", "/count?n=3&ms=50").await, "line 1\nline 2\nline 3\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_frees_its_place() {
    let platform = platform_with("[limits]\nconcurrency = 1\ntimeout = \"60s\"\n").await;
    let mut asked = Box::pin(platform.apps.open(request(HOST, "/hang")));
    assert!(futures::poll!(asked.as_mut()).is_pending());
    assert!(tokio::time::timeout(Duration::from_millis(500), asked.as_mut()).await.is_err());
    drop(asked);
    let since = Instant::now();
    eventually(SHORT, "an answer from the app", || async {
        (platform.get("crash-p3", "/").await.ok()?.status == 200).then_some(())
    })
    .await;
    // A place is free at once; the rest is the test's own connection.
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_computes_for_ever_is_ended_at_its_limit() {
    let platform = platform_with("[limits]\ncpu = \"300ms\"\ntimeout = \"60s\"\n").await;
    let looped = platform.get("crash-p3", "/loop").await.unwrap();
    assert_eq!(looped.status, 504, "{}", looped.text());
    logged(&platform, "`limits.cpu` is reached").await;
    assert_eq!(platform.get("crash-p3", "/").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_answers_is_given_up_at_its_limit() {
    let platform = platform_with("[limits]\ntimeout = \"500ms\"\n").await;
    let hung = platform.get("crash-p3", "/hang").await.unwrap();
    assert_eq!(hung.status, 504, "{}", hung.text());
    assert_eq!(platform.get("crash-p3", "/").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_after_the_answer_goes_on_and_has_an_end() {
    let platform = platform_with("[limits]\ntimeout = \"2s\"\n").await;
    assert_eq!(platform.text("crash-p3", "/after?ms=300").await, "answered\n");
    logged(&platform, "done after the answer").await;
    assert_eq!(platform.text("crash-p3", "/after?ms=3600000").await, "answered\n");
    logged(&platform, "no response within 2s").await;
}
