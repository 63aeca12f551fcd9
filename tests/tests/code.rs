//! The code of apps: when it is in memory, and for which profile it is compiled.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use wharf_tests::{Platform, SHORT, Start, eventually};

async fn platform_that_unloads() -> Platform {
    let flags = ["--unload-after", "1s"].map(str::to_owned).to_vec();
    Platform::start_with(Start { flags, ..Start::default() }).await
}

async fn is_unloaded(platform: &Platform) {
    eventually(SHORT, "no code is mapped", || async { (!platform.has_code()).then_some(()) }).await;
}

/// The compiled files of the platform.
fn compiled(platform: &Platform) -> Vec<PathBuf> {
    let list = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let folders = list(platform.data().join("worker/compiled"));
    folders.flat_map(list).filter(|file| file.extension().is_some_and(|end| end == "cwasm")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_app_has_no_code_in_memory_and_answers_all_the_same() {
    let platform = platform_that_unloads().await;
    for guest in ["hello", "hello-p3"] {
        platform.deploy(guest, "app", &[]).await;
        let said = platform.text("app", "/").await;
        assert!(platform.has_code());
        is_unloaded(&platform).await;
        assert_eq!(platform.text("app", "/").await, said);
        assert!(platform.has_code());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_has_vanished_is_compiled_again_by_the_request_that_needs_it() {
    let platform = platform_that_unloads().await;
    platform.deploy("hello", "app", &[]).await;
    let said = platform.text("app", "/").await;
    is_unloaded(&platform).await;
    std::fs::remove_dir_all(platform.data().join("worker/compiled")).unwrap();
    assert_eq!(platform.text("app", "/").await, said);
    assert_eq!(compiled(&platform).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_whose_requests_compute_for_long_gets_the_profile_for_it() {
    let platform = Platform::start().await;
    platform.deploy("stream", "stream", &[]).await;
    assert_eq!(compiled(&platform).len(), 1);
    eventually(SHORT, "code for long computations", || async {
        for _ in 0..40 {
            platform.text("stream", "/work?n=1&ms=20").await;
        }
        (compiled(&platform).len() == 2).then_some(())
    })
    .await;
    assert_eq!(platform.text("stream", "/bytes?n=3").await, "xxx");
    eventually(SHORT, "the status shows the profile", || async {
        let status = platform.wharf(&["status", "stream"]).await.ok();
        status.contains("engine profile: long").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_profile_can_be_chosen() {
    let platform = Platform::start().await;
    platform.deploy("hello", "short", &[]).await;
    let short = compiled(&platform);
    let manifest = "app = \"long\"\n[engine]\nprofile = \"long\"\n";
    platform.deploy_manifest("hello", manifest).await.json::<serde_json::Value>();
    let both = compiled(&platform);
    assert_eq!((short.len(), both.len()), (1, 2));
    assert_eq!(platform.text("long", "/").await, platform.text("short", "/").await);
}
