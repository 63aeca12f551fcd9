//! Guests that never come to the end of what they say: bodies and logs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use wharf_tests::{Platform, SHORT, Siege, eventually, request, within};
use wharf_types::api::Usage;

const KEEPS_MIB: u64 = 64;

/// Opens a response and reads this much of it.
async fn open(siege: &Siege, path: &str, bytes: usize) -> Incoming {
    let reply = siege.platform.apps.open(request("bad.default.localhost", path)).await.unwrap();
    assert_eq!(reply.status(), 200);
    let mut body = reply.into_body();
    let mut read = 0;
    while read < bytes {
        let frame = within(SHORT, "more of the body", body.frame()).await.unwrap().unwrap();
        read += frame.into_data().unwrap().len();
    }
    body
}

/// Waits until no request of the app is under way.
async fn is_at_rest(platform: &Platform) {
    eventually(SHORT, "no request of `bad` is under way", || async {
        let usage: Usage = platform.wharf(&["top", "--json"]).await.json();
        usage.apps.iter().all(|app| app.app.as_str() != "bad" || app.active == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_ends_with_its_client() {
    let siege = Siege::begin().await;
    siege.platform.deploy_manifest("hostile", "app = \"bad\"\n").await.ok();
    let bodies = futures::future::join_all((0..8).map(|_| open(&siege, "/endless", 1 << 20))).await;
    // Nobody reads on. What the guests have written meanwhile waits, and they with it.
    siege.platform.text("bad", "/").await;
    let held = siege.end(KEEPS_MIB).await;
    drop(bodies);
    is_at_rest(&held).await;
    held.text("bad", "/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_uses_up_its_cpu_time() {
    let siege = Siege::begin().await;
    siege.platform.deploy_manifest("hostile", "app = \"bad\"\n[limits]\ncpu = \"200ms\"\n").await.ok();
    let mut body = open(&siege, "/endless", 1).await;
    let end = async {
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                end => return end.is_some_and(|frame| frame.is_err()),
            }
        }
    };
    assert!(within(SHORT, "the body ends", end).await, "it must not look complete");
    siege.is_logged("bad", "`limits.cpu` is reached").await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_a_byte_a_second_holds_up_its_own_app_only() {
    let siege = Siege::begin().await;
    siege.platform.deploy_manifest("hostile", "app = \"bad\"\n[limits]\nconcurrency = 2\n").await.ok();
    let bodies = futures::future::join_all((0..2).map(|_| open(&siege, "/drip?ms=1000", 2))).await;
    let full = siege.attack("bad", "/").await;
    assert_eq!((full.status.as_u16(), full.headers.contains_key("retry-after")), (503, true));
    drop(bodies);
    is_at_rest(&siege.platform).await;
    siege.platform.text("bad", "/").await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_with_bodies_that_never_end_can_be_deleted() {
    let siege = Siege::begin().await;
    siege.platform.deploy_manifest("hostile", "app = \"bad\"\n[stop]\ndrain = \"200ms\"\n").await.ok();
    let (_endless, _slow) = (open(&siege, "/endless", 1 << 20).await, open(&siege, "/drip?ms=1000", 1).await);
    siege.platform.wharf(&["delete", "bad", "--yes"]).await.ok();
    let gone = || async { (siege.attack("bad", "/").await.status == 404).then_some(()) };
    eventually(SHORT, "nothing serves `bad`", gone).await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_lines_is_cut_and_says_so_while_a_neighbour_is_heard() {
    let siege = Siege::begin().await;
    let platform = &siege.platform;
    platform.deploy_manifest("hostile", "app = \"bad\"\n[limits]\ncpu = \"1s\"\n").await.ok();
    platform.deploy("crash", "crash", &[]).await;
    let floods = futures::future::join_all((0..4).map(|_| siege.attack("bad", "/logs")));
    let heard = async {
        assert_eq!(siege.attack("crash", "/trap").await.status, 502);
        siege.is_logged("crash", "asked to panic by GET /trap").await;
    };
    let (floods, ()) = futures::future::join(floods, heard).await;
    assert!(floods.iter().all(|reply| reply.status == 504), "{floods:?}");
    siege.is_logged("bad", "dropped").await;
    siege.is_logged("bad", "`limits.cpu` is reached").await;
    let platform = siege.end(KEEPS_MIB).await;
    let on_disk = bytes_below(&platform.data().join("logs"));
    assert!(on_disk < 48 << 20, "the logs take {} MiB", on_disk >> 20);
}

fn bytes_below(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        // Gone meanwhile.
        metadata => metadata.map_or(0, |metadata| metadata.len()),
    };
    entries.map(size).sum()
}
