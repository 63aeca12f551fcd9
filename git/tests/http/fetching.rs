//! Clone and fetch.

use std::sync::atomic::Ordering;

use wharf_git::{ObjectId, RefName};

use crate::client::Client;
use crate::server::Server;

const VERSIONS: [&str; 3] = ["protocol.version=0", "protocol.version=1", "protocol.version=2"];

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_cloned_and_fetched_in_every_version_of_the_protocol() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    client.git(&["push", &server.url, "main"]).await.succeeds();
    for version in VERSIONS {
        let other = Client::empty();
        other.git(&["-c", version, "clone", &server.url, "."]).await.succeeds();
        assert_eq!(other.head().await, client.head().await, "{version}");
        let new = client.commit("more", version).await;
        client.git(&["push", &server.url, "main"]).await.succeeds();
        other.git(&["-c", version, "pull", "--ff-only"]).await.succeeds();
        assert_eq!(other.head().await, new, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_commits_is_cloned_with_a_warning() {
    let server = Server::accepting().await;
    for version in VERSIONS {
        let ran = Client::empty().git(&["-c", version, "clone", &server.url, "."]).await.succeeds();
        assert!(ran.stderr.contains("empty repository"), "{version}: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_compressed_is_understood() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    client.git(&["push", &server.url, "main"]).await.succeeds();
    for version in ["protocol.version=0", "protocol.version=2"] {
        let other = Client::empty();
        other.git(&["clone", &server.url, "."]).await.succeeds();
        // Git compresses what is longer than a KiB: many commits, newer than all that the server knows.
        let mine: String = (0..100)
            .map(|number| {
                let parent = if number == 0 { "from refs/remotes/origin/main\n" } else { "" };
                let date = 2_000_000_000 + number;
                format!("commit refs/heads/mine\ncommitter Ada <ada@example.com> {date} +0000\ndata 4\nmine\n{parent}\n")
            })
            .collect();
        other.git_with(&["fast-import", "--quiet"], mine.as_bytes()).await.succeeds();
        client.commit("more", version).await;
        client.git(&["push", &server.url, "main"]).await.succeeds();
        server.compressed.store(0, Ordering::Relaxed);
        other.git(&["-c", version, "fetch"]).await.succeeds();
        assert!(server.compressed.load(Ordering::Relaxed) > 0, "{version}");
        let fetched = other.git(&["rev-parse", "origin/main"]).await.stdout;
        assert_eq!(fetched.trim(), client.head().await, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_of_the_platform_are_neither_seen_nor_fetched() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    client.git(&["push", &server.url, "main"]).await.succeeds();
    let id: ObjectId = client.head().await.parse().unwrap();
    let name: RefName = "refs/wharf/releases/1".parse().unwrap();
    assert!(server.repository.update_ref(&name, None, id).await.unwrap());
    for version in VERSIONS {
        let ran = client.git(&["-c", version, "ls-remote", &server.url]).await.succeeds();
        assert!(ran.stdout.contains("refs/heads/main") && !ran.stdout.contains("wharf"), "{}", ran.stdout);
        client
            .git(&["-c", version, "fetch", &server.url, name.as_str()])
            .await
            .fails_with("couldn't find remote ref");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_clone_has_as_much_history_as_it_asked_for() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    client.commit("more", "1").await;
    client.git(&["push", &server.url, "main"]).await.succeeds();
    for version in VERSIONS {
        let other = Client::empty();
        other.git(&["-c", version, "clone", "--depth=1", &server.url, "."]).await.succeeds();
        assert_eq!(other.git(&["rev-list", "--count", "HEAD"]).await.stdout.trim(), "1");
        other.git(&["-c", version, "fetch", "--unshallow"]).await.succeeds();
        assert_eq!(other.git(&["rev-list", "--count", "HEAD"]).await.stdout.trim(), "2");
    }
}
