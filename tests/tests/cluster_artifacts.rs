//! Artifacts of a cluster: in a bucket that servers share, from one worker to another, and on disks that are full.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use serde_json::Value;
use wharf_tests::{Cluster, ObjectStorage, Postgres, SHORT, eventually, workspace};
use wharf_types::Digest;
use wharf_types::api::AppInfo;

fn digest_of(guest: &str) -> Digest {
    Digest::of(&std::fs::read(workspace::guest(guest)).unwrap())
}

/// The compiled code of an artifact in a worker's folder.
fn has_code(folder: &Path, guest: &str) -> bool {
    let name = format!("{}.cwasm", digest_of(guest).hex());
    std::fs::read_dir(folder.join("compiled"))
        .unwrap()
        .any(|engine| engine.unwrap().path().join(&name).exists())
}

fn copy(folder: &Path, guest: &str) -> std::path::PathBuf {
    folder.join("artifacts").join(digest_of(guest).hex())
}

/// Takes from a server the copies of what is in the bucket.
fn forget_copies(cluster: &Cluster, server: usize) {
    let copies = cluster.data(server).join("artifact-cache/sha256");
    std::fs::remove_dir_all(&copies).unwrap();
    std::fs::create_dir(&copies).unwrap();
}

const TWO: &str = "[scale]\nreplicas = 2\n";

#[tokio::test]
async fn another_server_has_the_artifacts_of_one_that_is_gone() {
    let (database, storage) = (Postgres::start(), ObjectStorage::start().await);
    let mut cluster = Cluster::start_at(1, 2, Some(database.url()), Some(&storage)).await;
    cluster.deploy("hello", "app", "").await;
    cluster.deploy("hello-p3", "app", "").await;
    let before = cluster.text(0, "app", "/").await;
    cluster.kill_server(0).await;
    // A worker that has never heard of any of it gets it from the other.
    cluster.nodes_are("the worker has come to the other", |nodes| nodes.iter().all(|node| node.ready)).await;
    cluster.add_host().await;
    cluster.wharf(&["scale", "app", "2"]).await.ok();
    cluster.app_is("app", "it is on both hosts", |app| app.ready == 2).await;
    assert_eq!(cluster.text(1, "app", "/").await, before);
    cluster.wharf(&["rollback", "app"]).await.ok();
    cluster.app_is("app", "the release before is back", |app| app.ready == 2).await;
    assert!(cluster.text(1, "app", "/").await.contains("Hello from WASI 0.2"));
    cluster.deploy("hello-p3", "other", "").await;
    assert_eq!(storage.requests("PUT", digest_of("hello-p3")), 1, "what is there is not brought in again");
}

#[tokio::test]
async fn while_the_storage_is_away_apps_go_on_and_a_push_says_why_it_fails() {
    let mut storage = ObjectStorage::start().await;
    let cluster = Cluster::start_at(2, 1, None, Some(&storage)).await;
    cluster.deploy("hello", "hello", TWO).await;
    let mut loads = [cluster.load(0, "hello", "/"), cluster.load(1, "hello", "/")];
    storage.tell("hang");
    let stream = workspace::guest("stream");
    let refused = cluster.wharf(&["deploy", stream.to_str().unwrap(), "--app", "stream"]).await;
    assert_ne!(refused.code, 0);
    for words in ["s3://wharf/here", "does not answer", "what runs goes on"] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    // What is here can be deployed again and moved about.
    cluster.wharf(&["scale", "hello", "4"]).await.ok();
    cluster.app_is("hello", "it has more instances", |app| app.ready == 4).await;
    for load in &mut loads {
        load.go_on_for(50).await;
    }
    storage.tell("go on");
    cluster.deploy("stream", "stream", "").await;
    for load in loads {
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
    }
}

#[tokio::test]
async fn a_worker_gets_from_another_what_the_servers_cannot_give() {
    let storage = ObjectStorage::start().await;
    let mut cluster = Cluster::start_at(1, 1, None, Some(&storage)).await;
    cluster.deploy("hello", "hello", "").await;
    assert!(copy(cluster.hosts[0].folder(), "hello").exists());
    storage.alter(digest_of("hello")).await;
    forget_copies(&cluster, 0);
    cluster.add_host().await;
    cluster.wharf(&["scale", "hello", "2"]).await.ok();
    cluster.app_is("hello", "the second host serves it", |app| app.ready == 2).await;
    let given = std::fs::read(copy(cluster.hosts[1].folder(), "hello")).unwrap();
    assert_eq!(Digest::of(&given), digest_of("hello"));
    assert!(!cluster.data(0).join("artifact-cache/sha256").join(&digest_of("hello").hex()[..2]).exists());
    // Pushed again, the bucket has what it should.
    cluster.deploy("hello", "again", "").await;
    assert!(storage.has(digest_of("hello")).await);
}

#[tokio::test]
async fn what_a_worker_gives_is_used_only_if_it_is_what_was_asked_for() {
    let mut cluster = Cluster::start(1).await;
    cluster.deploy("hello", "hello", "").await;
    let mut newest = 0;
    // Who does not answer at once is not waited for, so it may take a further host until one is given the wrong thing.
    while newest < 4 && !cluster.hosts[newest].log().contains("it is not used") {
        for host in &cluster.hosts {
            std::fs::write(copy(host.folder(), "hello"), "something else").unwrap();
        }
        newest += 1;
        cluster.add_host().await;
        cluster.wharf(&["scale", "hello", &(newest + 1).to_string()]).await.ok();
        let is_there = |app: &AppInfo| app.ready as usize == newest + 1;
        cluster.app_is("hello", "the new host has it from the server", is_there).await;
        let kept = std::fs::read(copy(cluster.hosts[newest].folder(), "hello")).unwrap();
        assert_eq!(Digest::of(&kept), digest_of("hello"));
    }
    let log = cluster.hosts[newest].log();
    assert!(log.contains("it is not used"), "{log}");
}

/// The newest reason that an app's instances give.
fn reason(app: &AppInfo) -> String {
    serde_json::to_value(app).unwrap().to_string()
}

#[tokio::test]
async fn on_a_small_disk_the_oldest_unused_goes_and_what_runs_stays() {
    let mut cluster = Cluster::start(0).await;
    cluster.add_host_with(Some("4m"), &[]).await;
    let inside = cluster.hosts[0].inside();
    cluster.deploy("hello", "stays", "").await;
    for guest in ["stream", "crash", "guestbook", "hello-p3", "hello-plain"] {
        cluster.deploy(guest, guest, "").await;
        cluster.wharf(&["delete", guest, "--yes"]).await.ok();
    }
    assert!(!has_code(&inside, "stream") && has_code(&inside, "hello-plain") && has_code(&inside, "hello"));
    assert!(cluster.text(0, "stays", "/").await.contains("Hello from WASI 0.2"));
    // More than the disk has, even without all that is unused.
    let large = workspace::guest("go-command");
    let refused = cluster.wharf(&["deploy", large.to_str().unwrap(), "--app", "large"]).await;
    assert_ne!(refused.code, 0);
    let why = format!("{}{}", refused.stderr, reason(&cluster.app("large").await));
    for words in ["there is no room for the code", "free", "wharf node drain"] {
        assert!(why.contains(words), "{why}");
    }
    assert!(has_code(&inside, "hello"));
    assert!(cluster.text(0, "stays", "/").await.contains("Hello from WASI 0.2"));
}

#[tokio::test]
async fn a_worker_keeps_no_more_than_it_was_told_to() {
    let mut cluster = Cluster::start(0).await;
    cluster.add_host_with(None, &["--cache-max", "3MiB"]).await;
    let folder = cluster.hosts[0].folder().to_owned();
    for guest in ["hello", "stream", "crash"] {
        cluster.deploy(guest, guest, "").await;
        cluster.wharf(&["delete", guest, "--yes"]).await.ok();
    }
    assert!(!has_code(&folder, "hello") && has_code(&folder, "crash"));
    let large = workspace::guest("go-command");
    let refused = cluster.wharf(&["deploy", large.to_str().unwrap(), "--app", "large"]).await;
    assert_ne!(refused.code, 0);
    let app: Value = cluster.wharf(&["status", "large", "--json"]).await.json();
    let why = format!("{}{app}", refused.stderr);
    assert!(why.contains("--cache-max of 3.0 MiB"), "{why}");
    eventually(SHORT, "the one that fits runs", async || {
        (cluster.wharf(&["delete", "large", "--yes"]).await.code == 0).then_some(())
    })
    .await;
    cluster.deploy("hello", "hello", "").await;
}
