//! Somebody or something spoils the folder of compiled artifacts: nothing of it is trusted, and all of it is made again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use wharf_tests::{Platform, SHORT, Siege, eventually, workspace};

const CHANGED: &str = "a compiled artifact was changed; it is compiled again";

/// A platform that has served `hello` and has ended, with the files of its compiled form.
async fn ended() -> (Platform, Vec<PathBuf>) {
    let mut platform = Platform::start().await;
    platform.deploy("hello", "hello", &[]).await;
    assert_eq!(platform.terminate().await.code(), Some(0));
    let files = files_below(&compiled(&platform));
    assert_eq!(files.len(), 2, "code and its keyed hash: {files:?}");
    (platform, files)
}

fn compiled(platform: &Platform) -> PathBuf {
    platform.data().join("worker/compiled")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Spoils the files, starts the platform, and waits until it serves by what it has compiled anew.
async fn serves_after(spoil: impl FnOnce(&Path, &Path), is_noticed: bool) {
    let (mut platform, files) = ended().await;
    let [code, hash] = files.as_slice() else { panic!("{files:?}") };
    let good = std::fs::read(code).unwrap();
    spoil(code, hash);
    platform.start_again().await;
    platform.serves("hello").await;
    assert_eq!(platform.log().contains(CHANGED), is_noticed, "{}", platform.log());
    assert_eq!(std::fs::read(code).unwrap().len(), good.len(), "it was not compiled again");
    // What was made anew is good for the next start.
    assert_eq!(platform.terminate().await.code(), Some(0));
    platform.start_again().await;
    platform.serves("hello").await;
    assert!(!platform.log().contains(CHANGED), "{}", platform.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiled_artifact_that_was_tampered_with_is_compiled_again() {
    let flip = |code: &Path, _: &Path| {
        let mut bytes = std::fs::read(code).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(code, bytes).unwrap();
    };
    serves_after(flip, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_of_another_artifact_does_not_help() {
    let exchange = |_: &Path, hash: &Path| std::fs::write(hash, [7; 32]).unwrap();
    serves_after(exchange, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_compiled_artifact_is_compiled_again() {
    let cut = |code: &Path, _: &Path| {
        let bytes = std::fs::read(code).unwrap();
        std::fs::write(code, &bytes[..bytes.len() / 2]).unwrap();
    };
    serves_after(cut, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_without_its_hash_is_compiled_again() {
    // As after the end of the process between the two.
    serves_after(|_: &Path, hash: &Path| std::fs::remove_file(hash).unwrap(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_without_its_code_is_compiled_again() {
    serves_after(|code: &Path, _: &Path| std::fs::remove_file(code).unwrap(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_killed_while_it_compiles_compiles_again() {
    let mut platform = Platform::start().await;
    killed_while_it_compiles(&mut platform).await;
    platform.start_again().await;
    platform.serves("python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_platform_had_half_written_is_removed() {
    let mut platform = Platform::start().await;
    killed_while_it_compiles(&mut platform).await;
    platform.start_again().await;
    platform.serves("python").await;
    let files = files_below(&compiled(&platform));
    assert_eq!(files.len(), 2, "{files:?}");
}

/// Kills it as soon as the compiler has a file.
async fn killed_while_it_compiles(platform: &mut Platform) {
    let guest = workspace::guest("python");
    let args = ["deploy", guest.to_str().unwrap(), "--app", "python", "--json"];
    let deploy = platform.user().command(&args).spawn().unwrap();
    let folder = compiled(platform);
    eventually(SHORT, "the compiler has a file", || async {
        (!files_below(&folder).is_empty()).then_some(())
    })
    .await;
    platform.kill().await;
    // It would wait for the platform for minutes.
    drop(deploy);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_goes_on_when_the_folder_vanishes() {
    let siege = Siege::begin().await;
    std::fs::remove_dir_all(compiled(&siege.platform)).unwrap();
    siege.platform.text("hello", "/").await;
    siege.platform.deploy("hello", "hello", &["-e", "GREETING=changed"]).await;
    siege.platform.says("hello", "changed\n").await;
    let mut platform = siege.end(64).await;
    platform.kill().await;
    platform.start_again().await;
    platform.serves("hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_artifact_is_compiled_when_the_folder_has_vanished() {
    let siege = Siege::begin().await;
    std::fs::remove_dir_all(compiled(&siege.platform)).unwrap();
    siege.platform.deploy("hello-plain", "late", &[]).await;
    siege.platform.text("late", "/").await;
    siege.end(64).await;
}
