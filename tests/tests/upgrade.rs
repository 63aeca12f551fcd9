//! `wharf precompile`: what a new version's engine needs is there before the platform is started with it.
//!
//! There is one version to test with, so what it had compiled is taken away instead: then its engine has nothing either.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use wharf_tests::{Platform, Wharf};

/// What is compiled, and when it was.
fn compiled(data: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let paths = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<PathBuf> = paths(&data.join("worker/compiled")).collect();
    let files = folders.iter().flat_map(|folder| paths(folder).collect::<Vec<_>>());
    let mut found: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|end| end == "cwasm"))
        .map(|file| (file.clone(), std::fs::metadata(file).unwrap().modified().unwrap()))
        .collect();
    found.sort();
    found
}

fn data(platform: &Platform) -> String {
    platform.data().to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_platform_uses_is_compiled_beside_it_and_found_by_the_next_start() {
    let mut platform = Platform::start().await;
    platform.deploy("hello", "one", &[]).await;
    platform.deploy("hello", "two", &[]).await;
    platform.deploy("hello-p3", "three", &[]).await;
    let data = data(&platform);
    let first = platform.wharf(&["precompile", "--data", &data]).await.ok();
    assert!(first.starts_with("0 artifacts compiled for engine "), "{first}");
    assert!(first.ends_with(", 2 were there already\n"), "two of three apps are of one artifact: {first}");

    for (file, _) in compiled(&platform.data()) {
        std::fs::remove_file(file).unwrap();
    }
    let mut load = platform.load("one", "/");
    let told: Value = platform.wharf(&["precompile", "--data", &data, "--json"]).await.json();
    assert_eq!((&told["compiled"], &told["present"]), (&2.into(), &0.into()), "{told}");
    load.go_on_for(20).await;
    let served = load.stop().await;
    assert!(served.failures.is_empty(), "the platform was disturbed: {:?}", served.failures);

    let before = compiled(&platform.data());
    assert_eq!(before.len(), 2);
    platform.terminate().await;
    platform.start_again().await;
    for app in ["one", "two", "three"] {
        platform.serves(app).await;
    }
    assert_eq!(compiled(&platform.data()), before, "the start has compiled something anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_not_what_its_name_says_is_named_and_the_others_are_compiled() {
    let platform = Platform::start().await;
    platform.deploy("hello", "one", &[]).await;
    let other: Value = platform.deploy("hello-p3", "two", &[]).await;
    drop(other);
    let sha256 = platform.data().join("artifacts/sha256");
    let shelf = std::fs::read_dir(&sha256).unwrap().next().unwrap().unwrap().path();
    let artifact = std::fs::read_dir(shelf).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&artifact, b"something else").unwrap();
    let ran = platform.wharf(&["precompile", "--data", &data(&platform)]).await;
    ran.fails(6, &["its digest is another one", "1 could not be compiled"]);
    assert!(ran.stdout.ends_with(", 1 was there already\n"), "{}", ran.stdout);
}

#[tokio::test]
async fn without_a_platform_that_runs_there_it_says_so() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("nothing");
    let ran = Wharf::at_home(home.path()).run(&["precompile", "--data", folder.to_str().unwrap()]).await;
    ran.fails(8, &["no platform of yours runs on", "--data DIR"]);
    assert!(!folder.exists(), "it left something behind");
}
