//! Guests that take memory wherever it can be had: each is refused at its limit, and all of it comes back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wharf_tests::{HttpGuest, Siege};

/// Far away from every other limit, however long a busy machine takes to find the pages.
const LIMITS: &str = "app = \"bad\"\n[limits]\ncpu = \"20s\"\ntimeout = \"50s\"\n";
/// What may stay of a guest in slots of the pool and in the allocator.
const KEEPS_MIB: u64 = 128;

/// Attacks with four requests at once. Each fails with this reason, and the app serves afterwards.
async fn attacked(guest: HttpGuest<'_>, memory: &str, logged: &str) {
    let siege = Siege::begin().await;
    let manifest = format!("{LIMITS}memory = \"{memory}\"\n");
    siege.platform.deploy_bytes(&guest.component(), &manifest).await.ok();
    strike(&siege, "/attack", logged).await;
    siege.end(KEEPS_MIB).await;
}

async fn strike(siege: &Siege, path: &str, logged: &str) {
    for reply in futures::future::join_all((0..4).map(|_| siege.attack("bad", path))).await {
        assert_eq!(reply.status, 502, "{}", reply.text());
    }
    siege.platform.text("bad", "/").await;
    siege.is_logged("bad", logged).await;
}

/// Grows a memory by so many pages until that is refused, and writes to each page.
fn fill(memory: u32, pages: u32) -> String {
    format!(
        "(block $refused (loop $more
            (br_if $refused (i32.eq (memory.grow {memory} (i32.const {pages})) (i32.const -1)))
            (memory.fill {memory}
                (i32.shl (i32.sub (memory.size {memory}) (i32.const {pages})) (i32.const 16))
                (i32.const 1)
                (i32.shl (i32.const {pages}) (i32.const 16)))
            (br $more)))"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn several_memories_share_one_limit() {
    let attack = format!("{} {} unreachable", fill(0, 16), fill(1, 16));
    let guest = HttpGuest { definitions: "(memory 0)", before_answer: &attack, ..HttpGuest::default() };
    attacked(guest, "32MiB", "it asked for more memory than `limits.memory`, 32MiB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memories_of_four_gibibytes_are_granted_once_and_not_twice() {
    let four_gib = |memory| format!("(drop (memory.grow {memory} (i32.const 65535)))");
    let attack = format!("{} {} unreachable", four_gib(0), four_gib(1));
    let guest = HttpGuest { definitions: "(memory 0)", before_answer: &attack, ..HttpGuest::default() };
    // Of a small host the guest does not even get the first.
    attacked(guest, "4GiB", "; it asked for ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_grows_to_its_bound() {
    let grow = "(loop $more (br_if $more
        (i32.ne (table.grow (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable";
    let guest = HttpGuest { definitions: "(table 0 funcref)", before_answer: grow, ..HttpGuest::default() };
    attacked(guest, "32MiB", "it asked for a table of more than 100000 elements").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heap_that_is_collected_has_the_same_limit() {
    let definitions = "(type $bytes (array i8))
        (type $list (struct (field (ref null $list)) (field (ref $bytes))))
        (global $kept (mut (ref null $list)) (ref.null $list))";
    let keep = "(loop $more
        (global.set $kept (struct.new $list (global.get $kept) (array.new $bytes (i32.const 1) (i32.const 65536))))
        (br $more))";
    let guest = HttpGuest { definitions, before_answer: keep, ..HttpGuest::default() };
    attacked(guest, "32MiB", "it asked for more memory than `limits.memory`, 32MiB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_keeps_for_a_guest_has_the_same_limit() {
    let siege = Siege::begin().await;
    siege.platform.deploy_manifest("hostile", &format!("{LIMITS}memory = \"32MiB\"\n")).await.ok();
    for path in ["/fields", "/bodies"] {
        strike(&siege, path, "it asked for more memory than `limits.memory`, 32MiB").await;
    }
    strike(&siege, "/random", "exceeds limit 67108864").await;
    // The pools keep up to 10 MiB of each slot that is not used, and these guests have filled several.
    siege.end(2 * KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_begins_with_too_much_is_not_deployed() {
    let siege = Siege::begin().await;
    let manifest = format!("{LIMITS}memory = \"32MiB\"\n");
    let deployed = async |definitions: &str, words: &[&str]| {
        let guest = HttpGuest { definitions, ..HttpGuest::default() };
        siege.deploy_fails(&guest.component(), &manifest, words).await;
    };
    deployed("(memory 1000)", &["its memory begins with 64000KiB", "`limits.memory`"]).await;
    deployed("(memory 511)", &["exceeds memory limits", "`limits.memory`"]).await;
    let grow = format!("(memory 0) (func $start {} unreachable) (start $start)", fill(1, 16));
    deployed(&grow, &["it asked for more memory than `limits.memory`"]).await;
    siege.end(KEEPS_MIB).await;
}
