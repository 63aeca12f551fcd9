//! Backups of volumes, and what comes back of them: whole, or not at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Stdio;

use http::header::{CONTENT_LENGTH, HOST};
use http::{Method, Request};
use wharf_tests::{Platform, Ran, full};
use wharf_types::api::{CreatedToken, Page, VolumeInfo};

const NOTES: &str = "app = \"notes\"\n[[volumes]]\nname = \"notes\"\npath = \"/data\"\nsize = \"1MiB\"\n";

async fn put(platform: &Platform, path: &str, body: &[u8]) {
    let request = Request::builder().method(Method::PUT).uri(path).header(HOST, "notes.default.localhost");
    let request = request.header(CONTENT_LENGTH, body.len()).body(full(body.to_vec())).unwrap();
    assert_eq!(platform.apps.send(request).await.unwrap().status, 200);
}

async fn platform_with_notes() -> Platform {
    let platform = Platform::start().await;
    platform.deploy_manifest("notes", NOTES).await.ok();
    put(&platform, "/today", b"buy bread").await;
    platform
}

async fn backup(platform: &Platform, to: &Path) -> Ran {
    platform.wharf(&["volume", "backup", "notes/notes", "-o", to.to_str().unwrap()]).await
}

async fn restore(platform: &Platform, from: &Path) -> Ran {
    platform.wharf(&["volume", "restore", "notes/notes", from.to_str().unwrap(), "--yes"]).await
}

/// The system's own tar, in a folder.
fn tar(folder: &Path, args: &[&str]) -> String {
    let ran = std::process::Command::new("tar").current_dir(folder).args(args).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

async fn starts_again(platform: &Platform) {
    platform.wharf(&["start", "notes"]).await.ok();
    platform.serves("notes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_a_tar_archive_and_a_restore_brings_back_what_was_in_it() {
    let platform = platform_with_notes().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.tar");
    let ran = backup(&platform, &file).await;
    assert!(ran.stderr.contains("`notes` may write to the volume meanwhile"), "{}", ran.stderr);
    assert!(ran.ok().contains("notes.tar"));
    let listed = tar(folder.path(), &["-tf", "notes.tar"]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["./", "./today"]);

    put(&platform, "/today", b"buy milk").await;
    put(&platform, "/tomorrow", b"nothing").await;
    restore(&platform, &file).await.fails(7, &["the app `notes` has the volume", "wharf stop notes"]);
    assert_eq!(platform.text("notes", "/today").await, "buy milk");
    platform.wharf(&["stop", "notes"]).await.ok();
    let volume = platform.wharf(&["volume", "ls", "--json"]).await.json::<Page<VolumeInfo>>().items.remove(0);
    let id = volume.id.to_string();
    let unasked = platform.wharf(&["volume", "restore", &id, file.to_str().unwrap()]).await;
    unasked.fails(2, &["--yes"]);
    wharf_tests::eventually(wharf_tests::SHORT, "its instance has ended", async || {
        (restore(&platform, &file).await.code == 0).then_some(())
    })
    .await;
    starts_again(&platform).await;
    assert_eq!(platform.text("notes", "/").await, "today\n");
    assert_eq!(platform.text("notes", "/today").await, "buy bread");
    // What it holds goes on as before.
    put(&platform, "/today", b"buy eggs").await;
    assert_eq!(platform.text("notes", "/today").await, "buy eggs");
    let beside = platform.data().join("worker/volumes");
    assert_eq!(fs::read_dir(beside).unwrap().count(), 1, "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_goes_through_pipes_and_may_be_large() {
    let platform = Platform::start().await;
    platform.deploy_manifest("notes", &NOTES.replace("1MiB", "1GiB")).await.ok();
    put(&platform, "/today", b"buy bread").await;
    platform.wharf(&["stop", "notes"]).await.ok();
    let volume = platform.wharf(&["volume", "ls", "--json"]).await.json::<Page<VolumeInfo>>().items.remove(0);
    let place = platform.data().join("worker/volumes").join(volume.id.to_string());
    // More than all the buffers on the way have room for.
    fs::write(place.join("large"), vec![b'x'; 100 << 20]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = fs::File::create(folder.path().join("piped.tar")).unwrap();
    let mut command = platform.user().command(&["volume", "backup", "notes/notes"]);
    assert!(command.stdin(Stdio::null()).stdout(file).status().await.unwrap().success());
    assert_eq!(tar(folder.path(), &["-tf", "piped.tar"]).lines().count(), 3);
    fs::remove_file(place.join("large")).unwrap();
    let again = async || {
        let file = fs::File::open(folder.path().join("piped.tar")).unwrap();
        let mut command = platform.user().command(&["volume", "restore", "notes/notes", "-", "--yes"]);
        command.stdin(file).stdout(Stdio::null()).stderr(Stdio::null()).status().await.unwrap().success()
    };
    wharf_tests::eventually(wharf_tests::SHORT, "its instance has ended", async || {
        again().await.then_some(())
    })
    .await;
    let large = fs::metadata(place.join("large")).unwrap();
    assert_eq!(large.len(), 100 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_not_whole_or_leads_out_leaves_the_volume_as_it_was() {
    let platform = platform_with_notes().await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    put(&platform, "/large", &vec![b'x'; 500 << 10]).await;
    backup(&platform, &at("whole.tar")).await.ok();
    platform.wharf(&["stop", "notes"]).await.ok();
    let refused = async |name: &str, code: i32, words: &[&str]| {
        let words = [words, &["the volume is as it was"]].concat();
        let ran = wharf_tests::eventually(wharf_tests::SHORT, "its instance has ended", async || {
            let ran = restore(&platform, &at(name)).await;
            (ran.code != 7).then_some(ran)
        })
        .await;
        ran.fails(code, &words);
    };
    let whole = fs::read(at("whole.tar")).unwrap();
    fs::write(at("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    refused("cut.tar", 6, &["was cut off"]).await;
    fs::create_dir(at("inner")).unwrap();
    fs::write(at("x"), "escaped").unwrap();
    tar(&at("inner"), &["-P", "-cf", "../out.tar", "../x"]);
    refused("out.tar", 6, &["`../x` leads out"]).await;
    fs::write(at("inner/huge"), vec![b'x'; 2 << 20]).unwrap();
    tar(&at("inner"), &["-cf", "../huge.tar", "."]);
    refused("huge.tar", 9, &["more than the volume's 1048576 octets"]).await;
    tar(&at("inner"), &["-czf", "../packed.tar", "."]);
    refused("packed.tar", 6, &["compressed"]).await;
    std::os::unix::fs::symlink("/etc", at("inner/link")).unwrap();
    fs::remove_file(at("inner/huge")).unwrap();
    fs::create_dir(at("other")).unwrap();
    fs::create_dir(at("other/link")).unwrap();
    fs::write(at("other/link/escaped"), "x").unwrap();
    tar(&at("inner"), &["-cf", "../through.tar", "link"]);
    tar(&at("other"), &["-rf", "../through.tar", "link/escaped"]);
    refused("through.tar", 6, &["goes through a link"]).await;

    starts_again(&platform).await;
    assert_eq!(platform.text("notes", "/today").await, "buy bread");
    assert_eq!(platform.text("notes", "/large").await.len(), 500 << 10);
    assert_eq!(fs::read_dir(platform.data().join("worker/volumes")).unwrap().count(), 1);
    assert!(!platform.data().join("worker/volumes/x").exists() && !platform.data().join("worker/x").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_backed_up_says_why_and_viewers_read_no_data() {
    let platform = platform_with_notes().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tar");
    let out = file.to_str().unwrap();
    platform.wharf(&["volume", "backup", "notes/none", "-o", out]).await.fails(3, &["no volume `none`"]);
    platform.wharf(&["volume", "backup", "nonsense", "-o", out]).await.fails(2, &["APP/NAME"]);
    let looker = ["token", "create", "looker", "--role", "viewer", "--json"];
    let looker = platform.wharf(&looker).await.json::<CreatedToken>().secret;
    let viewer = platform.user().env("WHARF_TOKEN", &looker);
    viewer.run(&["volume", "backup", "notes/notes", "-o", out]).await.fails(4, &["role `developer`"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    // An app that is gone has left its data, which can be read.
    platform.wharf(&["delete", "notes", "--yes"]).await.ok();
    let ran = backup(&platform, &file).await;
    assert!(!ran.stderr.contains("meanwhile"), "{}", ran.stderr);
    ran.ok();
    assert!(tar(folder.path(), &["-xOf", "a.tar", "./today"]) == "buy bread");
}
