//! Guests that hand over more to the key-value store than their host has memory for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use wharf_tests::{HttpGuest, Siege};

const LIMITS: &str = "app = \"bad\"\n[limits]\ncpu = \"20s\"\ntimeout = \"50s\"\n";
/// What may stay of a guest in slots of the pool and in the allocator.
const KEEPS_MIB: u64 = 192;
/// What the platform may take for all attacks at once: far less than they hand over.
const TAKES_MIB: u64 = 1024;

const IMPORTS: &str = r#"
    (import "wasi:keyvalue/store@0.2.0-draft" "open" (func $open (param i32 i32 i32)))
    (import "wasi:keyvalue/batch@0.2.0-draft" "set-many" (func $set_many (param i32 i32 i32 i32)))"#;

/// Sets a batch of so many pairs, so many times, and returns how often that failed. All pairs are the same mebibyte under the same key.
const FLOOD: &str = r#"
    (func $flood (param $pairs i32) (param $times i32) (result i32)
        (local $pair i32) (local $bucket i32) (local $failed i32)
        (drop (memory.grow (i32.const 32)))
        (i32.store8 (i32.const 3000) (i32.const 107))
        (call $open (i32.const 0) (i32.const 0) (i32.const 32))
        (if (i32.load8_u (i32.const 32)) (then unreachable))
        (local.set $bucket (i32.load (i32.const 36)))
        (local.set $pair (i32.add (i32.const 4096) (i32.mul (local.get $pairs) (i32.const 16))))
        (loop $fill
            (local.set $pair (i32.sub (local.get $pair) (i32.const 16)))
            (i32.store (local.get $pair) (i32.const 3000))
            (i32.store offset=4 (local.get $pair) (i32.const 1))
            (i32.store offset=8 (local.get $pair) (i32.const 65536))
            (i32.store offset=12 (local.get $pair) (i32.const 1048576))
            (br_if $fill (i32.gt_u (local.get $pair) (i32.const 4096))))
        (loop $again
            (call $set_many (local.get $bucket) (i32.const 4096) (local.get $pairs) (i32.const 32))
            (local.set $failed (i32.add (local.get $failed) (i32.load8_u (i32.const 32))))
            (local.set $times (i32.sub (local.get $times) (i32.const 1)))
            (br_if $again (local.get $times)))
        (local.get $failed))"#;

/// Attacks so often at once. Each must be answered, and the platform must not need more than [`TAKES_MIB`] for that.
async fn attacked(attacks: usize, memory: &str, before_answer: &str) {
    let siege = Siege::begin().await;
    let guest = HttpGuest { imports: IMPORTS, definitions: FLOOD, before_answer, ..HttpGuest::default() };
    let manifest = format!("{LIMITS}memory = \"{memory}\"\n");
    siege.platform.deploy_bytes(&guest.component(), &manifest).await.ok();
    let before = siege.platform.memory_bytes();
    let mut most = before;
    let mut replies =
        Box::pin(futures::future::join_all((0..attacks).map(|_| siege.attack("bad", "/attack"))));
    let answered = loop {
        tokio::select! {
            answered = &mut replies => break answered,
            () = tokio::time::sleep(Duration::from_millis(5)) => {
                most = most.max(siege.platform.memory_bytes());
            }
        }
    };
    drop(replies);
    for reply in answered {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let took = (most - before) >> 20;
    assert!(took < TAKES_MIB, "the platform took {took} MiB");
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_names_one_buffer_sixty_times_is_refused_before_anything_is_made_of_it() {
    let flood = "(if (i32.ne (call $flood (i32.const 60) (i32.const 2)) (i32.const 2)) (then unreachable))";
    attacked(8, "8MiB", flood).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_of_many_requests_wait_for_each_other() {
    let flood = "(if (call $flood (i32.const 7) (i32.const 1)) (then unreachable))";
    attacked(12, "64MiB", flood).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_hands_over_counts_as_memory_of_the_guest() {
    let flood = "(if (i32.ne (call $flood (i32.const 7) (i32.const 2)) (i32.const 2)) (then unreachable))";
    attacked(4, "8MiB", flood).await;
}
