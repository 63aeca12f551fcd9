//! What a quota of memory and processors bounds of guests that run: what they hold and compute together, and nobody else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use http::StatusCode;
use wharf_tests::{HttpGuest, Platform, SHORT, eventually, workspace};

/// Limits that are far beyond the quota, as anybody may write them.
const MANIFEST: &str =
    "app = \"bad\"\n[limits]\nmemory = \"4GiB\"\nconcurrency = 1000\ncpu = \"45s\"\ntimeout = \"50s\"\n";
const COUNTER: &str = "(global $left (mut i32) (i32.const 0))";

/// Computes for something like half a second.
const COMPUTE: &str = "(global.set $left (i32.const 300000000))
    (loop $more
        (global.set $left (i32.sub (global.get $left) (i32.const 1)))
        (br_if $more (global.get $left)))";

/// How long an attack takes, which must come to a good end.
async fn attack_takes(platform: &Platform) -> Duration {
    let begun = Instant::now();
    let reply = platform.get("bad", "/attack").await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_a_namespace_hold_no_more_memory_than_its_quota_whatever_their_limits() {
    let platform = Platform::start().await;
    platform.wharf(&["quota", "set", "--memory", "64MiB", "--instances", "5"]).await.ok();
    // 40 MiB, or a trap where there are none.
    let hold = "(if (i32.eq (memory.grow 0 (i32.const 640)) (i32.const -1)) (then unreachable))";
    let attack = format!("{hold} {COMPUTE}");
    let guest = HttpGuest { definitions: COUNTER, before_answer: &attack, ..HttpGuest::default() };
    platform.deploy_bytes(&guest.component(), &format!("{MANIFEST}[scale]\nreplicas = 5\n")).await.ok();

    let attacks = async || {
        let replies = (0..8).map(|_| platform.get("bad", "/attack"));
        let replies = futures::future::join_all(replies).await;
        replies.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    // Nobody knows yet what a request needs: of those that begin together one gets it.
    let first = attacks().await;
    assert!(first.iter().any(|reply| reply.status == 200), "{:?}", first[0].text());
    assert!(first.iter().all(|reply| [200, 502, 503].contains(&reply.status.as_u16())));
    // Now it is known: they come one after the other, and who waits for too long is told so.
    let next = attacks().await;
    let refused: Vec<_> =
        next.iter().filter(|reply| reply.status == StatusCode::SERVICE_UNAVAILABLE).collect();
    let served = next.iter().filter(|reply| reply.status == 200).count();
    assert!(served > 0 && !refused.is_empty(), "{served} of {} were served", next.len());
    assert!(refused.iter().all(|reply| reply.headers["x-wharf-error"] == "quota_reached"));
    assert!(refused.iter().all(|reply| reply.headers["retry-after"] == "1"));
    eventually(SHORT, "the app's log names the quota", || async {
        let logs = platform.wharf(&["logs", "bad"]).await.stdout;
        logs.contains("memory: the guests of the namespace hold what its quota allows on a node, 64MiB")
            .then_some(())
    })
    .await;
    platform.text("bad", "/").await;

    platform.wharf(&["quota", "set", "--memory", "none"]).await.ok();
    eventually(SHORT, "without a quota all are served", || async {
        attacks().await.iter().all(|reply| reply.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_a_namespace_compute_no_longer_than_its_quota_and_others_do_not_notice() {
    let platform = Platform::start().await;
    platform.wharf(&["namespace", "create", "red"]).await.ok();
    let file = workspace::guest("hello");
    platform.wharf(&["deploy", file.to_str().unwrap(), "--app", "store", "-n", "red"]).await.ok();
    let guest = HttpGuest { definitions: COUNTER, before_answer: COMPUTE, ..HttpGuest::default() };
    platform.deploy_bytes(&guest.component(), MANIFEST).await.ok();
    let mut free = attack_takes(&platform).await;
    for _ in 0..2 {
        free = free.min(attack_takes(&platform).await);
    }

    // A twentieth of a processor, so that what takes half a second takes nine.
    platform.wharf(&["quota", "set", "--cpu", "50m"]).await.ok();
    let mut bounded = attack_takes(&platform).await;
    if bounded < 3 * free {
        // It had begun before the limit was known there.
        tokio::time::sleep(Duration::from_secs(5)).await;
        bounded = attack_takes(&platform).await;
    }
    assert!(bounded >= 3 * free, "{bounded:?} under the quota, {free:?} without");
    let reply = platform.apps.get("store.red.localhost", "/").await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());

    platform.wharf(&["quota", "set", "--cpu", "none"]).await.ok();
    eventually(SHORT, "without a quota it is as before", || async {
        (attack_takes(&platform).await < 3 * free).then_some(())
    })
    .await;
}
