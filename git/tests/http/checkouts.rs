//! Reading what was pushed.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::sync::mpsc;
use wharf_git::{
    Checkout, CheckoutError, CheckoutLimits, Entry, EntryKind, FileError, Limits, ObjectId, Verdict,
};

use crate::client::Client;
use crate::server::Server;

async fn pushed(client: &Client) -> (Server, ObjectId) {
    let server = Server::accepting().await;
    client.git(&["push", &server.url, "main"]).await.succeeds();
    (server, client.head().await.parse().unwrap())
}

/// Pushes, and says why that cannot be written to a folder.
async fn refused(client: &Client) -> String {
    client.commit_all("something").await;
    let (server, head) = pushed(client).await;
    let into = server.root.path().join("out");
    let error =
        server.repository.objects().checkout(head, &into, &CheckoutLimits::default()).await.unwrap_err();
    error.to_string()
}

fn read(folder: &Path, path: &str) -> Vec<u8> {
    std::fs::read(folder.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_read_before_it_is_accepted_just_as_it_was_committed() {
    let (sender, mut results) = mpsc::unbounded_channel();
    let into = tempfile::tempdir().unwrap();
    let target = into.path().join("new/folder");
    let server = Server::start(Limits::default(), {
        let target = target.clone();
        move |push, _| {
            let (sender, target) = (sender.clone(), target.clone());
            async move {
                let commit = push.updates[0].new.unwrap();
                let manifest = push.objects.file(commit, "wharf.toml", 1000).await.unwrap();
                let checkout =
                    push.objects.checkout(commit, &target, &CheckoutLimits::default()).await.unwrap();
                sender.send((manifest, checkout)).unwrap();
                Verdict::Refuse("that was enough".to_owned())
            }
        }
    })
    .await;

    let client = Client::with_commit().await;
    client.write("wharf.toml", "app = \"hello\"\n");
    client.write("empty", "");
    client.write("bin/run", "#!/bin/sh\n");
    std::fs::set_permissions(client.path().join("bin/run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../wharf.toml", client.path().join("bin/link")).unwrap();
    let odd = ["a\nb", "\"quoted\" 'x'", "tab\there", "grün", "-dash", "\u{1b}[31m"];
    odd.iter().for_each(|name| drop(client.write(name, name)));
    let octets = PathBuf::from(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    std::fs::write(client.path().join(&octets), "octets").unwrap();
    // `git archive` would leave out the first and change the second; a checkout would change the third.
    client.write(".gitattributes", "secret export-ignore\nversion export-subst\ncrlf text eol=crlf\n");
    client.write("secret", "kept");
    client.write("version", "$Format:%H$");
    client.write("crlf", "a\nb\n");
    client.commit_all("everything").await;
    client.git(&["push", &server.url, "main"]).await.fails_with("that was enough");

    let (manifest, checkout) = results.recv().await.unwrap();
    assert_eq!(manifest.unwrap(), "app = \"hello\"\n");
    assert_eq!((checkout.files, checkout.symlinks), (15, 1));
    for (path, content) in [
        ("README", "hello\n"),
        ("empty", ""),
        ("secret", "kept"),
        ("version", "$Format:%H$"),
        ("crlf", "a\nb\n"),
    ] {
        assert_eq!(read(&target, path), content.as_bytes(), "{path}");
    }
    odd.iter().for_each(|name| assert_eq!(read(&target, name), name.as_bytes()));
    assert_eq!(std::fs::read(target.join(octets)).unwrap(), b"octets");
    assert_eq!(read(&target, "bin/link"), b"app = \"hello\"\n");
    let mode = |path: &str| std::fs::metadata(target.join(path)).unwrap().permissions().mode() & 0o100;
    assert_eq!((mode("bin/run"), mode("README")), (0o100, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_entries_are_read_one_by_one() {
    let client = Client::with_commit().await;
    client.write("app/wharf.toml", "app = \"a\"\n");
    client.write("large", vec![0; 2000]);
    symlink("README", client.path().join("link")).unwrap();
    client.commit_all("files").await;
    let (server, head) = pushed(&client).await;
    let objects = server.repository.objects();
    assert_eq!(objects.file(head, "app/wharf.toml", 100).await.unwrap().unwrap(), "app = \"a\"\n");
    for path in ["wharf.toml", "app/none", "READM", "*", ":(top)README", "../README"] {
        assert!(matches!(objects.file(head, path, 100).await, Ok(None) | Err(FileError::Git(_))), "{path}");
    }
    for path in ["app", "link"] {
        assert!(matches!(objects.file(head, path, 100).await, Err(FileError::NotAFile(_))), "{path}");
    }
    let error = objects.file(head, "large", 100).await.unwrap_err().to_string();
    assert!(error.contains("`large` has 2000 octets"), "{error}");
    let file = |name: &str, bytes| {
        let kind = EntryKind::File { bytes, is_executable: false };
        Entry { name: name.to_owned(), kind }
    };
    let entry = |name: &str, kind| Entry { name: name.to_owned(), kind };
    let expected = [
        file("README", 6),
        entry("app", EntryKind::Folder),
        file("large", 2000),
        entry("link", EntryKind::Symlink),
    ];
    assert_eq!(objects.entries(head).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submodule_is_refused_with_a_cure() {
    let (library, client) = (Client::with_commit().await, Client::with_commit().await);
    let url = library.path().to_str().unwrap();
    client.git(&["submodule", "add", url, "vendor/lib"]).await.succeeds();
    let error = refused(&client).await;
    assert!(error.contains("`vendor/lib` is a submodule") && error.contains("git subtree add"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pointer_of_lfs_is_refused_with_a_cure() {
    let client = Client::with_commit().await;
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    client.write("models/large.bin", pointer);
    // Text that only speaks of it is none.
    client.write("docs/lfs.md", format!("{pointer}{}", "x".repeat(2000)));
    let error = refused(&client).await;
    assert!(
        error.contains("`models/large.bin` is a pointer of Git LFS") && error.contains("migrate export"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_lead_out_are_refused_by_name() {
    for target in ["/etc/passwd", "../../outside", "c/../../../outside"] {
        let client = Client::with_commit().await;
        client.write("a/b", "");
        symlink(target, client.path().join("a/\u{1b}link")).unwrap();
        let error = refused(&client).await;
        assert!(error.contains(&format!("`a/\\u{{1b}}link` is a symbolic link to `{target}`")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_checkout_are_kept() {
    let client = Client::with_commit().await;
    client.write("a", vec![0; 1000]);
    client.write("b", vec![0; 1000]);
    client.commit_all("files").await;
    let (server, head) = pushed(&client).await;
    let objects = server.repository.objects();
    let with = |limits: CheckoutLimits| {
        let into = tempfile::tempdir().unwrap();
        let objects = objects.clone();
        async move { objects.checkout(head, into.path(), &limits).await }
    };
    let limits = CheckoutLimits::default;
    assert_eq!(with(limits()).await.unwrap(), Checkout { files: 3, symlinks: 0, bytes: 2006 });
    let few = with(CheckoutLimits { files_max: 2, ..limits() }).await;
    assert!(matches!(few, Err(CheckoutError::TooManyFiles(2))), "{few:?}");
    let small = with(CheckoutLimits { total_max_bytes: 2005, ..limits() }).await;
    assert!(matches!(small, Err(CheckoutError::TooLarge(2005))), "{small:?}");
    let one = with(CheckoutLimits { file_max_bytes: 999, ..limits() }).await;
    assert!(matches!(one, Err(CheckoutError::FileTooLarge { max_bytes: 999, .. })), "{one:?}");

    let missing =
        objects.checkout("1".repeat(40).parse().unwrap(), &server.root.path().join("x"), &limits()).await;
    assert!(matches!(missing, Err(CheckoutError::Damaged)), "{missing:?}");
    let occupied = objects.checkout(head, server.root.path(), &limits()).await;
    assert!(matches!(occupied, Err(CheckoutError::NotEmpty(_))), "{occupied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_files_are_pushed_and_written_quickly() {
    let client = Client::with_commit().await;
    let mut import = String::from(
        "commit refs/heads/main\ncommitter Ada <ada@example.com> 1700000000 +0000\ndata 4\nmany\n",
    );
    for number in 0..100_000 {
        let content = format!("file {number}");
        import += &format!(
            "M 644 inline dir{}/sub{}/file{number}\ndata {}\n{content}\n",
            number % 100,
            number % 10,
            content.len()
        );
    }
    client.git_with(&["fast-import", "--force", "--quiet"], import.as_bytes()).await.succeeds();
    let (server, head) = pushed(&client).await;
    // In memory where there is such a folder: disks differ more than what this is to notice.
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let into = memory.path().join("out");
    let begin = Instant::now();
    let checkout =
        server.repository.objects().checkout(head, &into, &CheckoutLimits::default()).await.unwrap();
    let took = begin.elapsed();
    println!("100,000 files in {took:?}");
    assert_eq!(checkout.files, 100_000);
    assert_eq!(read(&into, "dir77/sub7/file99977"), b"file 99977");
    assert!(took.as_secs() < 60, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_trees_that_never_ends_is_stopped_at_the_limit() {
    let client = Client::with_commit().await;
    let blob = client.git(&["hash-object", "-w", "README"]).await.succeeds().stdout;
    let mut below = format!("100644 blob {}", blob.trim());
    // Ten to the power of nine files, in ten small objects.
    for _ in 0..9 {
        let entries: String = (0..10).map(|name| format!("{below}\t{name}\n")).collect();
        let tree = client.git_with(&["mktree"], entries.as_bytes()).await.succeeds().stdout;
        below = format!("040000 tree {}", tree.trim());
    }
    let tree = below.rsplit(' ').next().unwrap().to_owned();
    let commit = client.git(&["commit-tree", "-m", "bomb", &tree]).await.succeeds().stdout;
    client.git(&["update-ref", "refs/heads/main", commit.trim()]).await.succeeds();
    let (server, head) = pushed(&client).await;
    let limits = CheckoutLimits { files_max: 1000, ..CheckoutLimits::default() };
    let into = server.root.path().join("out");
    let stopped = server.repository.objects().checkout(head, &into, &limits).await;
    assert!(matches!(stopped, Err(CheckoutError::TooManyFiles(1000))), "{stopped:?}");
}
