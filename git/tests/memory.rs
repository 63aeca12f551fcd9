//! What a large push takes of this process. It is alone in its file, because it measures the whole process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the other suite uses more of the server")]

#[path = "http/client.rs"]
mod client;
#[path = "http/common.rs"]
mod common;
#[path = "http/server.rs"]
mod server;

pub(crate) use common::{noise, within};

use client::Client;
use server::Server;

const LARGE_BYTES: usize = 200 << 20;
const GROWTH_MAX_KIB: usize = 50 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_megabytes_pass_without_being_held() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    let (part, parts) = (noise(1 << 20), LARGE_BYTES >> 20);
    for number in 0..parts {
        // Each is another file, and none compresses.
        let mut content = part.clone();
        content.rotate_left(number + 1);
        client.write(&format!("part{number}"), content);
    }
    client.git(&["config", "core.compression", "0"]).await.succeeds();
    client.git(&["config", "pack.window", "0"]).await.succeeds();
    client.commit_all("large").await;
    client.git(&["push", &server.url, "main~1:refs/heads/main"]).await.succeeds();
    let before = peak_kib();
    client.git(&["push", &server.url, "main"]).await.succeeds();
    Client::empty().git(&["clone", &server.url, "."]).await.succeeds();
    let growth = peak_kib() - before;
    println!("{growth} KiB more for a push and a clone of {} MiB", LARGE_BYTES >> 20);
    assert!(growth < GROWTH_MAX_KIB, "{growth} KiB");
}

/// The most memory that this process has had, since it forgot that last.
fn peak_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
