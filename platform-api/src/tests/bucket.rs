//! Artifacts in a bucket: what is pushed, read, lost, changed and collected there, and what is said when the storage fails.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use wharf_types::{Digest, Timestamp};

use super::fixture::{Platform, component, config, quick};
use super::object_storage::ObjectStorage;
use crate::artifacts::Content;
use crate::artifacts::collect::{Collected, Strays, collect};
use crate::{
    ArtifactsAt, BucketAt, BucketError, Config, ControlPlane, Keys, OpenError, backup, restore, store,
};

fn in_two_hours() -> Timestamp {
    Timestamp::now() + Duration::from_secs(2 * 3600)
}

impl Platform {
    /// What a worker gets.
    async fn download(&self, digest: Digest) -> (u16, Value) {
        let path = format!("/v1/artifacts/{digest}");
        let reply = self.call_as(&self.node_token, Method::GET, &path, Value::Null).await;
        (reply.status, reply.json)
    }

    /// Takes away the copies of this server.
    fn forget_copies(&self) {
        std::fs::remove_dir_all(self.context.config.data_dir.join("artifact-cache/sha256")).unwrap();
        std::fs::create_dir(self.context.config.data_dir.join("artifact-cache/sha256")).unwrap();
    }
}

async fn refused(config: Config) -> String {
    match ControlPlane::open(config).await {
        Err(OpenError::Bucket(error)) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it opened"),
    }
}

#[tokio::test]
async fn what_is_pushed_is_in_the_bucket_and_can_be_had_without_a_copy() {
    let storage = ObjectStorage::start().await;
    let platform = storage.platform().await;
    let digest = Digest::of(&component(0));
    platform.deploy("hello", &component(0), quick()).await.is(201);
    assert!(storage.has(digest).await);
    assert!(!platform.context.config.data_dir.join("artifacts").exists(), "its folder has no part in this");
    platform.forget_copies();
    assert_eq!(platform.download(digest).await.0, 200);
    // Pushed again it is found, and was it lost, it is brought in.
    platform.push("default", &component(0)).await.is(200);
    storage.ask(Method::DELETE, &ObjectStorage::path(digest), "").await;
    platform.push("default", &component(0)).await.is(201);
    assert!(storage.has(digest).await);
}

#[tokio::test]
async fn large_content_goes_in_parts_and_many_who_ask_bring_it_once() {
    let storage = ObjectStorage::start().await;
    let platform = storage.platform().await;
    let content = Bytes::from_iter((0..20 << 20_u32).map(|number| (number % 251) as u8));
    let digest = Digest::of(&content);
    let body = || {
        Box::pin(futures::stream::iter(
            content.chunks(1 << 20).map(|it| Ok(Bytes::copy_from_slice(it))).collect::<Vec<_>>(),
        ))
    };
    let artifacts = platform.context.artifacts.clone();
    assert_eq!(
        artifacts.put(digest, Content::Files, body(), &crate::artifacts::a_place()).await.unwrap(),
        20 << 20
    );
    platform.forget_copies();
    let asked = (0..4).map(|_| {
        let artifacts = artifacts.clone();
        tokio::spawn(async move {
            let (_, mut file) = artifacts.open(digest).await.unwrap().unwrap();
            let mut content = Vec::new();
            file.read_to_end(&mut content).await.unwrap();
            Digest::of(&content)
        })
    });
    for found in futures::future::join_all(asked).await {
        assert_eq!(found.unwrap(), digest);
    }
    let gets = String::from_utf8(storage.log()).unwrap();
    let path = ObjectStorage::path(digest);
    assert_eq!(gets.lines().filter(|line| line.contains(&format!("GET {path}"))).count(), 1, "{gets}");
    assert!(gets.contains("partNumber=3"), "{gets}");
}

#[tokio::test]
async fn what_was_changed_in_the_bucket_is_refused_until_it_is_pushed_again() {
    let storage = ObjectStorage::start().await;
    let platform = storage.platform().await;
    let digest = Digest::of(&component(0));
    platform.push("default", &component(0)).await.is(201);
    let changed = "x".repeat(component(0).len());
    storage.ask(Method::PUT, &ObjectStorage::path(digest), &changed).await;
    assert_eq!(platform.download(digest).await.0, 200, "the copy here is right");
    platform.forget_copies();
    let (status, problem) = platform.download(digest).await;
    assert_eq!(status, 503);
    assert!(problem["detail"].as_str().unwrap().contains("push the same file again"), "{problem}");
    platform.push("default", &component(0)).await.is(201);
    assert_eq!(platform.download(digest).await.0, 200);
}

#[tokio::test]
async fn while_the_storage_is_away_a_push_says_so_and_copies_serve() {
    let mut storage = ObjectStorage::start().await;
    let platform = storage.platform().await;
    platform.push("default", &component(0)).await.is(201);
    storage.tell("kill");
    let refused = platform.push("default", &component(1)).await;
    refused.refuses(
        503,
        "unavailable",
        &["s3://wharf/here", "does not answer", &storage.endpoint, "goes on"],
    );
    assert_eq!(platform.download(Digest::of(&component(0))).await.0, 200);
    assert_eq!(platform.download(Digest::of(&component(1))).await.0, 503);
    let collected = collect(&platform.context, Timestamp::now(), Strays::Removed).await.unwrap();
    assert_eq!(collected, Collected::default(), "what cannot be listed is looked for later");
    storage.tell("start");
    storage.ask(Method::PUT, "/wharf", "").await;
    platform.push("default", &component(1)).await.is(201);
}

#[tokio::test]
async fn a_start_says_what_is_wrong_with_the_bucket() {
    let mut storage = ObjectStorage::start().await;
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir).await;
    let with = |at: BucketAt| Config { artifacts: ArtifactsAt::Bucket(at), ..config.clone() };
    let missing = refused(with(storage.at("s3://other"))).await;
    assert!(missing.contains("no bucket `other`") && missing.contains(&storage.endpoint), "{missing}");
    let plain = ("AWS_ENDPOINT_URL".to_owned(), "http://127.0.0.1:1".to_owned());
    let plain = refused(with(BucketAt::new("s3://wharf".parse().unwrap(), [plain]))).await;
    assert!(plain.contains("AWS_ALLOW_HTTP=true"), "{plain}");
    storage.tell("kill");
    let away = refused(with(storage.at("s3://wharf"))).await;
    assert!(away.contains("does not answer"), "{away}");
    let closed = ObjectStorage::start_closed().await;
    let closed = refused(with(closed.at("s3://wharf"))).await;
    assert!(closed.contains("refuses the keys") && closed.contains("AWS_SECRET_ACCESS_KEY"), "{closed}");
    storage.tell("start");
    storage.ask(Method::PUT, "/wharf", "").await;
    ControlPlane::open(with(storage.at("s3://wharf/here"))).await.map(drop).unwrap();
}

#[tokio::test]
async fn what_one_server_finds_damaged_is_repaired_by_a_push_to_another_that_has_a_copy() {
    let storage = ObjectStorage::start().await;
    let platform = storage.platform().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let digest = Digest::of(&component(0));
    // Another server of the platform, without copies: its tables are the same, so its bucket is, too.
    let kept = tempfile::tempdir().unwrap();
    let archive = kept.path().join("wharf.tar");
    let Config { data_dir, database, artifacts, .. } = platform.context.config.clone();
    let quiet = |_: crate::Progress<'_>| {};
    backup(&data_dir, &database, &artifacts, &archive, Keys::Included, quiet).await.unwrap();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = Config { artifacts, ..config(&dir).await };
    restore(&archive, &config.data_dir, &config.database, &config.artifacts, quiet).await.unwrap();
    let other = Platform::start_with(config, dir).await;
    storage.ask(Method::PUT, &ObjectStorage::path(digest), &"x".repeat(component(0).len())).await;
    let (all, ()) = tokio::join!(futures::future::join_all((0..5).map(|_| other.download(digest))), async {
        assert_eq!(platform.download(digest).await.0, 200, "the copy here is right")
    });
    assert!(all.iter().all(|(status, _)| *status == 503), "{all:?}");
    platform.push("default", &component(0)).await.is(201);
    assert_eq!(other.download(digest).await.0, 200);
}

#[tokio::test]
async fn a_prefix_is_for_one_platform() {
    let storage = ObjectStorage::start().await;
    let first = storage.platform().await;
    first.push("default", &component(0)).await.is(201);
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir).await;
    let with = |url: &str| Config { artifacts: ArtifactsAt::Bucket(storage.at(url)), ..config.clone() };
    let taken = refused(with("s3://wharf/here")).await;
    assert!(taken.contains("of another platform") && taken.contains("s3://wharf/here/"), "{taken}");
    ControlPlane::open(with("s3://wharf/here/own")).await.map(drop).unwrap();
    assert!(storage.has(Digest::of(&component(0))).await);
}

#[tokio::test]
async fn a_platform_goes_to_another_bucket_when_everything_was_copied_there() {
    let storage = ObjectStorage::start().await;
    let platform = storage.platform().await;
    let config = platform.context.config.clone();
    let dir = platform.crash();
    let moved = Config { artifacts: ArtifactsAt::Bucket(storage.at("s3://wharf/there")), ..config.clone() };
    let Err(OpenError::ArtifactsElsewhere(why)) = ControlPlane::open(moved.clone()).await else {
        panic!("it opened")
    };
    assert!(why.contains("s3://wharf/here") && why.contains("wharf.json"), "{why}");
    let (_, mark) = storage.ask(Method::GET, "/wharf/here/wharf.json", "").await;
    storage.ask(Method::PUT, "/wharf/there/wharf.json", std::str::from_utf8(&mark).unwrap()).await;
    let platform = Platform::start_with(moved, dir).await;
    let dir = platform.crash();
    let Err(OpenError::ArtifactsElsewhere(why)) = ControlPlane::open(config).await else {
        panic!("it opened")
    };
    assert!(why.contains("s3://wharf/there"), "{why}");
    drop(dir);
}

#[tokio::test]
async fn the_folder_of_before_goes_into_the_bucket_and_is_not_used_without_it_again() {
    let storage = ObjectStorage::start().await;
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let data_dir = platform.context.config.data_dir.clone();
    let in_folder = platform.context.config.clone();
    let dir = platform.crash();
    let in_bucket = Config { artifacts: storage.config(&dir).await.artifacts, ..in_folder.clone() };
    for _ in 0..2 {
        let platform = Platform::start_with(in_bucket.clone(), dir.clone()).await;
        assert_eq!(platform.download(Digest::of(&component(0))).await.0, 200);
        platform.forget_copies();
        platform.crash();
    }
    assert!(storage.has(Digest::of(&component(0))).await);
    assert!(data_dir.join("artifacts.moved").exists() && !data_dir.join("artifacts").exists());
    let elsewhere =
        Config { artifacts: ArtifactsAt::Bucket(storage.at("s3://wharf/other")), ..in_folder.clone() };
    for config in [in_folder, elsewhere] {
        let Err(OpenError::ArtifactsElsewhere(why)) = ControlPlane::open(config).await else {
            panic!("it opened")
        };
        assert!(why.contains("start with `--artifacts s3://wharf/here`"), "{why}");
    }
}

#[tokio::test]
async fn what_nobody_uses_goes_from_the_bucket_but_not_what_some_server_brings_in() {
    let storage = ObjectStorage::start().await;
    let platform = storage.platform().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    platform.push("default", &component(1)).await.is(201);
    assert_eq!(
        collect(&platform.context, Timestamp::now(), Strays::Removed).await.unwrap(),
        Collected::default()
    );
    let digest = Digest::of(&component(1));
    // Another server brings in the same: it has its claim, and no row yet.
    let mut tx = platform.context.store.write().await.unwrap();
    assert!(store::claim::upload(&mut tx, digest, in_two_hours()).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(
        collect(&platform.context, in_two_hours(), Strays::Removed).await.unwrap(),
        Collected { rows: 1, files: 0 }
    );
    assert!(storage.has(digest).await);
    let later = in_two_hours() + Duration::from_secs(2 * 3600);
    assert_eq!(
        collect(&platform.context, later, Strays::Removed).await.unwrap(),
        Collected { rows: 0, files: 1 }
    );
    assert!(!storage.has(digest).await && storage.has(Digest::of(&component(0))).await);
}

#[tokio::test]
async fn what_is_being_removed_is_not_brought_in_and_a_removal_that_broke_off_is_made_again() {
    let storage = ObjectStorage::start().await;
    let platform = storage.platform().await;
    let digest = Digest::of(&component(1));
    let mut tx = platform.context.store.write().await.unwrap();
    assert!(store::claim::removal(&mut tx, digest, Timestamp::now()).await.unwrap());
    tx.commit().await.unwrap();
    platform.push("default", &component(1)).await.refuses(503, "unavailable", &["being removed", "again"]);
    let now = Timestamp::now();
    assert_eq!(
        collect(&platform.context, now, Strays::Removed).await.unwrap(),
        Collected::default(),
        "whoever claimed it is at it"
    );
    let later = now + Duration::from_secs(600);
    assert_eq!(
        collect(&platform.context, later, Strays::Removed).await.unwrap(),
        Collected { rows: 0, files: 1 }
    );
    platform.push("default", &component(1)).await.is(201);
}

#[tokio::test]
async fn a_backup_has_what_is_in_the_bucket_and_comes_back_into_either() {
    let storage = ObjectStorage::start().await;
    let platform = storage.platform().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let Config { data_dir, database, artifacts, .. } = platform.context.config.clone();
    let kept = tempfile::tempdir().unwrap();
    let archive = kept.path().join("wharf.tar");
    let quiet = |_: crate::Progress<'_>| {};
    let made = backup(&data_dir, &database, &artifacts, &archive, Keys::Included, quiet).await.unwrap();
    assert_eq!((made.artifacts, std::fs::read_dir(kept.path()).unwrap().count()), (1, 1));
    let elsewhere = backup(&data_dir, &database, &ArtifactsAt::DataDir, &archive, Keys::LeftOut, quiet).await;
    assert!(elsewhere.unwrap_err().to_string().contains("--artifacts s3://wharf/here"));
    for at in [ArtifactsAt::DataDir, ArtifactsAt::Bucket(storage.at("s3://wharf/restored"))] {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let config = Config { artifacts: at, ..config(&dir).await };
        restore(&archive, &config.data_dir, &config.database, &config.artifacts, quiet).await.unwrap();
        let platform = Platform::start_with(config, dir).await;
        assert_eq!(platform.download(Digest::of(&component(0))).await.0, 200);
    }
    storage.ask(Method::PUT, &ObjectStorage::path(Digest::of(&component(0))), "changed").await;
    let damaged = backup(&data_dir, &database, &artifacts, &archive, Keys::LeftOut, quiet).await.unwrap_err();
    assert!(matches!(damaged, crate::BackupError::Bucket(BucketError::Damaged { .. })), "{damaged}");
    assert_eq!(std::fs::read_dir(kept.path()).unwrap().count(), 1, "the whole one stays, and nothing else");
}
