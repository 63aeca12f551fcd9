//! The places of an app: who gets one, who gives one back, and who needs none.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use http_body_util::BodyExt;
use wharf_tests::{Platform, SHORT, request, within};

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_full_is_not_ill() {
    let platform = Platform::start().await;
    let manifest = "app = \"crash\"\n[limits]\nconcurrency = 1\n\
                    [http.health]\npath = \"/healthz\"\nliveness_path = \"/healthz\"\nperiod = \"100ms\"\nthreshold = 1\n";
    platform.deploy_manifest("crash", manifest).await.ok();
    // Its only place is taken for many health checks in a row.
    assert_eq!(platform.get("crash", "/sleep?ms=3000").await.unwrap().status, 200);
    assert_eq!(platform.get("crash", "/healthz").await.unwrap().status, 200);
    assert_eq!(platform.app("crash").await.ready, 1);
    let events = platform.wharf(&["events", "crash"]).await.ok();
    assert!(!events.contains("liveness") && !events.contains("not ready"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_goes_cuts_the_answers_that_do_not_end() {
    let platform = Platform::start().await;
    platform.deploy_manifest("stream", "app = \"stream\"\n[stop]\ndrain = \"200ms\"\n").await.ok();
    let endless = platform.apps.open(request("stream.default.localhost", "/count?n=1000000&ms=20")).await;
    let mut body = endless.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    platform.wharf(&["delete", "stream", "--yes"]).await.ok();
    let end = async {
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                end => return end.is_some_and(|frame| frame.is_err()),
            }
        }
    };
    assert!(within(SHORT, "the answer ends", end).await, "it must not look complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_away_leaves_a_place() {
    let platform = Platform::start().await;
    platform.deploy_manifest("crash", "app = \"crash\"\n[limits]\nconcurrency = 1\n").await.ok();
    let mut cut = 0;
    for _ in 0..5 {
        // One has the place and the other waits for it when both go away; or both are turned away, because nobody has noticed
        // yet that the pair before has gone.
        let pair = futures::future::join(
            platform.get("crash", "/sleep?ms=60000"),
            platform.get("crash", "/sleep?ms=60000"),
        );
        cut += u32::from(tokio::time::timeout(Duration::from_millis(100), pair).await.is_err());
    }
    assert!(cut > 0, "nobody waited");
    let served = async { while platform.get("crash", "/healthz").await.unwrap().status != 200 {} };
    within(SHORT, "the next request is served", served).await;
}
