//! Files that apps are shipped with: read by the guest, never changed, and those of the release that runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use http::header::{CONTENT_LENGTH, HOST};
use http::{Method, Request};
use tempfile::TempDir;
use wharf_tests::{Platform, Ran, SHORT, eventually, full, workspace};

/// A project whose folder `public` has these files.
fn project(manifest: &str, files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("wharf.toml"), manifest).unwrap();
    for (path, content) in files {
        let file = folder.path().join("public").join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }
    folder
}

async fn deploy(platform: &Platform, guest: &str, folder: &Path) -> Ran {
    let file = workspace::guest(guest);
    platform.user().in_folder(folder).run(&["deploy", file.to_str().unwrap(), "--json"]).await
}

const SITE: &str = "app = \"site\"\n[files]\npath = \"public\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_its_files_and_can_neither_change_nor_leave_them() {
    let platform = Platform::start().await;
    let folder = project(SITE, &[("index.html", "<p>hello"), ("css/all.css", "p {}")]);
    deploy(&platform, "site", folder.path()).await.ok();
    assert_eq!(platform.text("site", "/").await, "<p>hello");
    assert_eq!(platform.text("site", "/css/all.css").await, "p {}");
    assert_eq!(platform.get("site", "/missing").await.unwrap().status, 404);

    for path in ["/index.html", "/new.txt", "/css/new.txt"] {
        let put = Request::builder().method(Method::PUT).uri(path);
        let put =
            put.header(HOST, "site.default.localhost").header(CONTENT_LENGTH, 1).body(full("x")).unwrap();
        let reply = platform.apps.send(put).await.unwrap();
        assert_eq!(reply.status, 403, "{path}: {}", reply.text());
    }
    assert_eq!(platform.text("site", "/").await, "<p>hello");
    assert_eq!(platform.get("site", "/new.txt").await.unwrap().status, 404);

    // The folder of the node where they are has neighbours.
    for path in ["/../node.id", "/css/../../node.id", "/../../wharf.db", "/../../../../../../etc/passwd"] {
        let reply = platform.get("site", path).await.unwrap();
        assert!(reply.status.is_client_error(), "{path}: {} {}", reply.status, reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_belong_to_their_release_and_come_back_with_it() {
    let platform = Platform::start().await;
    let folder = project(SITE, &[("index.html", "one"), ("old.txt", "old")]);
    deploy(&platform, "site", folder.path()).await.ok();
    assert_eq!(platform.text("site", "/").await, "one");

    std::fs::write(folder.path().join("public/index.html"), "two").unwrap();
    std::fs::remove_file(folder.path().join("public/old.txt")).unwrap();
    deploy(&platform, "site", folder.path()).await.ok();
    assert_eq!(platform.text("site", "/").await, "two");
    assert_eq!(platform.get("site", "/old.txt").await.unwrap().status, 404);
    // A changed variable keeps them.
    platform.wharf(&["env", "set", "A=1", "--app", "site"]).await.ok();
    assert_eq!(platform.text("site", "/").await, "two");

    platform.wharf(&["rollback", "site", "1"]).await.ok();
    assert_eq!(platform.text("site", "/").await, "one");
    assert_eq!(platform.text("site", "/old.txt").await, "old");
    let unpacked = platform.data().join("worker/files");
    eventually(SHORT, "only the files in use are unpacked", || async {
        (std::fs::read_dir(&unpacked).unwrap().count() == 1).then_some(())
    })
    .await;

    let mut platform = platform;
    platform.kill().await;
    platform.start_again().await;
    assert_eq!(platform.serves("site").await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_files_in_the_manifest_a_guest_sees_none() {
    let platform = Platform::start().await;
    let folder = project("app = \"site\"\n", &[("index.html", "hello")]);
    deploy(&platform, "site", folder.path()).await.ok();
    assert!(platform.get("site", "/").await.unwrap().status.is_client_error());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_wasi_0_3_and_a_command_read_them_where_the_manifest_says() {
    let platform = Platform::start().await;
    let files = "[files]\npath = \"public\"\nmount = \"/shipped/here\"\n";
    let variable = |name: &str| format!("[env]\n{name} = \"/shipped/here/a/greeting.txt\"\n");
    let greeting = [("a/greeting.txt", "from a file\n")];

    let p3 = project(&format!("app = \"p3\"\n{files}{}", variable("GREETING_FILE")), &greeting);
    deploy(&platform, "hello-p3", p3.path()).await.ok();
    assert_eq!(platform.text("p3", "/").await, "from a file\n");

    let command = project(&format!("app = \"ticker\"\n{files}{}", variable("BANNER_FILE")), &greeting);
    deploy(&platform, "ticker", command.path()).await.ok();
    eventually(SHORT, "the command has printed the file", || async {
        let log = platform.wharf(&["logs", "ticker"]).await.ok();
        log.contains("from a file").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_refused_by_its_name_and_nothing_is_deployed() {
    let platform = Platform::start().await;
    let folder = project(SITE, &[("index.html", "hello")]);
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("public/secret.txt")).unwrap();
    let refused = deploy(&platform, "site", folder.path()).await;
    refused.fails(6, &["public/secret.txt is a symbolic link"]);
    let missing = project(SITE, &[]);
    deploy(&platform, "site", missing.path()).await.fails(3, &["public", "files.path"]);
    assert_eq!(platform.wharf(&["status", "site"]).await.code, 3, "an app was left behind");
}
