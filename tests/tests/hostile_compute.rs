//! Guests that compute for ever, trap, or never answer, wherever the host calls them: each ends with a reason, alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures::StreamExt as _;
use wharf_tests::{HttpGuest, Siege};

/// On a busy machine a guest that computes for long waits for the CPU for long, too.
const MANIFEST: &str = "app = \"bad\"\n[limits]\ncpu = \"300ms\"\ntimeout = \"50s\"\n";
const LOOP: &str = "(loop $for_ever (br $for_ever))";
/// What the platform may keep of an attack that takes no memory of its own.
const KEEPS_MIB: u64 = 64;

/// Deploys the guest, attacks it, and compares the status, and what the owner reads in the log. The app serves afterwards.
async fn attacked(guest: HttpGuest<'_>, status: u16, logged: &str) {
    let siege = Siege::begin().await;
    siege.platform.deploy_bytes(&guest.component(), MANIFEST).await.ok();
    for _ in 0..3 {
        let reply = siege.attack("bad", "/attack").await;
        assert_eq!(reply.status, status, "{}", reply.text());
        siege.platform.text("bad", "/").await;
    }
    siege.is_logged("bad", logged).await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_in_a_handler_ends_at_its_cpu_limit() {
    let guest = HttpGuest { before_answer: LOOP, ..HttpGuest::default() };
    attacked(guest, 504, "the request computed for more than 300ms: `limits.cpu` is reached").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_in_an_allocation_that_the_host_asks_for_ends_at_its_cpu_limit() {
    let guest = HttpGuest { in_realloc: LOOP, ..HttpGuest::default() };
    attacked(guest, 504, "`limits.cpu` is reached").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_after_the_answer_ends_at_its_cpu_limit() {
    let guest = HttpGuest { after_answer: LOOP, ..HttpGuest::default() };
    attacked(guest, 200, "`limits.cpu` is reached").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_in_post_return_ends_at_its_cpu_limit() {
    let guest = HttpGuest { in_post_return: LOOP, ..HttpGuest::default() };
    attacked(guest, 200, "`limits.cpu` is reached").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_in_post_return_takes_the_answer_with_it() {
    // The guest has not waited since it answered, so nothing was sent yet.
    let guest = HttpGuest { in_post_return: "unreachable", ..HttpGuest::default() };
    attacked(guest, 502, "the guest trapped: wasm trap: wasm `unreachable` instruction executed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recursion_without_end_traps_when_its_stack_is_used_up() {
    let definitions = "(func $deeper (param i64) (result i64)
        (i64.add (call $deeper (i64.add (local.get 0) (i64.const 1))) (local.get 0)))";
    let before_answer = "(drop (call $deeper (i64.const 0)))";
    let guest = HttpGuest { definitions, before_answer, ..HttpGuest::default() };
    attacked(guest, 502, "call stack exhausted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_sets_its_response_is_a_failure_with_that_reason() {
    let guest = HttpGuest { before_answer: "return", ..HttpGuest::default() };
    attacked(guest, 502, "the guest returned without a response").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_in_the_start_function_fails_the_deploy_with_the_limit() {
    let guest =
        HttpGuest { definitions: "(func $start (loop $l (br $l))) (start $start)", ..HttpGuest::default() };
    start_fails(guest, &["300ms", "`limits.cpu` is reached"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_in_the_start_function_fails_the_deploy_with_the_trap() {
    let guest = HttpGuest { definitions: "(func $start unreachable) (start $start)", ..HttpGuest::default() };
    start_fails(guest, &["the guest trapped", "unreachable"]).await;
}

async fn start_fails(guest: HttpGuest<'_>, words: &[&str]) {
    let siege = Siege::begin().await;
    siege.deploy_fails(&guest.component(), MANIFEST, words).await;
    // A release that starts is served as if the other had never been.
    siege.platform.deploy_bytes(&HttpGuest::default().component(), MANIFEST).await.ok();
    siege.platform.text("bad", "/").await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_requests_only_the_one_that_traps_fails() {
    let siege = Siege::begin().await;
    // Also where requests share their memory one after the other.
    for reuse in ["", "[reuse]\nmode = \"serial\"\n"] {
        siege.platform.deploy_manifest("crash", &format!("app = \"bad\"\n{reuse}")).await.ok();
        let requests = (0..1000).map(|number| {
            let siege = &siege;
            async move {
                let path = if number == 500 { "/trap" } else { "/healthz" };
                (number, siege.attack("bad", path).await.status.as_u16())
            }
        });
        let failed = futures::stream::iter(requests).buffer_unordered(8);
        let failed: Vec<_> = failed.filter(|(_, status)| std::future::ready(*status != 200)).collect().await;
        assert_eq!(failed, [(500, 502)], "{reuse:?}");
    }
    siege.is_logged("bad", "asked to panic by GET /trap").await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_thread_is_lost_to_guests_that_compute_for_ever() {
    let siege = Siege::begin().await;
    let guest = HttpGuest { before_answer: LOOP, ..HttpGuest::default() };
    siege.platform.deploy_bytes(&guest.component(), MANIFEST).await.ok();
    // Many times as many as there are threads.
    for _ in 0..2 {
        let replies = futures::future::join_all((0..16).map(|_| siege.attack("bad", "/attack"))).await;
        assert!(replies.iter().all(|reply| reply.status == 504), "{replies:?}");
    }
    let answers = futures::future::join_all((0..64).map(|_| siege.attack("bad", "/"))).await;
    assert!(answers.iter().all(|reply| reply.status == 200), "{answers:?}");
    siege.end(KEEPS_MIB).await;
}
