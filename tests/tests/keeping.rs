//! What a platform has stays, however it is started or backed up.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use wharf_tests::Platform;

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_whose_state_has_moved_is_left_as_it_is_without_the_database() {
    let mut platform = Platform::start().await;
    platform.deploy("hello", "hello", &[]).await;
    assert_eq!(platform.terminate().await.code(), Some(0));
    let data = platform.data();
    // What `migrate-store` leaves.
    std::fs::rename(data.join("wharf.db"), data.join("wharf.db.migrated")).unwrap();
    let what_there_is =
        || (files(&data.join("artifacts")), std::fs::read_to_string(data.join("admin.token")).unwrap());
    let before = what_there_is();
    assert!(before.0.len() > 1, "{before:?}");

    let folder = data.to_str().unwrap();
    let words = ["has moved to PostgreSQL", "`--database`"];
    let at = ["--data", folder, "--api", "127.0.0.1:0"];
    let up = [["up"].as_slice(), &at, &["--http", "127.0.0.1:0"]].concat();
    platform.wharf(&up).await.fails(1, &words);
    let server = [["server"].as_slice(), &at, &["--workers", "127.0.0.1:0"]].concat();
    platform.wharf(&server).await.fails(1, &words);
    platform.wharf(&["server", "backup", "--data", folder, "one.tar"]).await.fails(1, &words);
    let again = ["server", "migrate-store", "--data", folder, "--database", "postgres://db.invalid/wharf"];
    platform.wharf(&again).await.fails(1, &["is in PostgreSQL already"]);
    assert_eq!(what_there_is(), before);
    assert!(!data.join("wharf.db").exists());

    std::fs::rename(data.join("wharf.db.migrated"), data.join("wharf.db")).unwrap();
    platform.start_again().await;
    platform.serves("hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_into_a_file_of_the_working_directory() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let data = platform.data();
    let user = platform.user().in_folder(folder.path());
    user.run(&["server", "backup", "--data", data.to_str().unwrap(), "one.tar"]).await.ok();
    assert_eq!(files(folder.path()), [folder.path().join("one.tar")]);
}
