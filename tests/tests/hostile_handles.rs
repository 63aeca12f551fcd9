//! Guests that open handles and never close them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wharf_tests::{Siege, command_p3};

/// What the platform may keep of ten thousand small things.
const KEEPS_MIB: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_opens_handles_for_ever_ends_at_its_limit() {
    let siege = Siege::begin().await;
    // Enough for what the handles count, so that it is their number that ends it.
    siege.platform.deploy_manifest("hostile", "app = \"bad\"\n[limits]\nmemory = \"2GiB\"\n").await.ok();
    for reply in futures::future::join_all((0..4).map(|_| siege.attack("bad", "/handles"))).await {
        assert_eq!(reply.status, 502, "{}", reply.text());
    }
    siege.is_logged("bad", "a guest may have 10000 open at once").await;
    siege.platform.text("bad", "/").await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_waits_for_a_million_things_at_once_is_refused() {
    let siege = Siege::begin().await;
    siege.platform.deploy_manifest("hostile", "app = \"bad\"\n").await.ok();
    for reply in futures::future::join_all((0..4).map(|_| siege.attack("bad", "/polls"))).await {
        assert_eq!(reply.status, 502, "{}", reply.text());
    }
    siege.is_logged("bad", "store handle limit exceeded").await;
    siege.platform.text("bad", "/").await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_of_wasi_0_3_that_opens_handles_for_ever_ends_at_its_limit() {
    let siege = Siege::begin().await;
    let definitions = r#"(import "$root" "[waitable-set-new]" (func $new (result i32)))"#;
    let component = command_p3(definitions, "(loop $more (drop (call $new)) (br $more))");
    siege.deploy_fails(&component, "app = \"bad\"\n", &["handle limit exceeded"]).await;
    siege.end(KEEPS_MIB).await;
}
