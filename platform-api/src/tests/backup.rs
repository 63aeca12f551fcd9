//! Backups, and the way from SQLite to PostgreSQL. What comes back is asked through the API.

use std::path::Path;
use std::sync::Arc;

use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::Digest;

use super::configs::put;
use super::database::is_postgres;
use super::fixture::{Platform, component, config, eventually, quick};
use super::worker::Worker;
use crate::{
    ArtifactsAt, BackupError, Config, ControlPlane, Database, Keys, OpenError, backup, migrate_store, restore,
};

const SECRET: &str = "/v1/namespaces/default/secrets/password";

/// Something in many tables.
async fn fill(platform: &Platform) {
    let worker = Worker::join(platform).await;
    put(platform, SECRET, "hush").await.is(200);
    platform.serve(0, quick()).await;
    eventually("it is at rest", async || {
        (platform.app("hello").await["rollout"]["state"] == "succeeded").then_some(())
    })
    .await;
    platform.kv("hello", json!({"set": {"key": "k", "value": "00ff"}})).await.is(200);
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    drop(worker);
}

/// The same as they were before.
async fn is_filled(platform: &Platform, before: &Value) {
    let now = platform.app("hello").await;
    for part in ["release", "url", "rollout"] {
        assert_eq!(now[part], before[part]);
    }
    platform.get("/v1/namespaces/other").await;
    assert!(platform.get("/v1/namespaces/default/secrets").await.to_string().contains("password"));
    let read = platform.kv("hello", json!({"get": {"key": "k"}})).await.is(200);
    assert!(read.to_string().contains("00ff"), "{read}");
    let worker = Worker::join(platform).await;
    platform.serve(1, quick()).await;
    drop(worker);
}

fn quiet(_: crate::Progress<'_>) {}

#[tokio::test]
async fn a_backup_of_a_running_platform_comes_back_with_everything_and_its_keys() {
    let platform = Platform::start().await;
    fill(&platform).await;
    let before = platform.app("hello").await;
    let database = platform.context.config.database.clone();
    let data_dir = platform.context.config.data_dir.clone();
    let kept = tempfile::tempdir().unwrap();
    let archive = kept.path().join("wharf.backup");
    let made =
        backup(&data_dir, &database, &ArtifactsAt::DataDir, &archive, Keys::Included, quiet).await.unwrap();
    assert!(made.artifacts == 1 && made.rows > 20, "{made:?}");
    assert_eq!(std::fs::read_dir(kept.path()).unwrap().count(), 1, "nothing else is left there");
    let _dir = platform.crash();

    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = config(&dir).await;
    let restored = restore_into(&archive, &config).await.unwrap();
    assert_eq!(restored, made);
    let again = restore_into(&archive, &config).await.unwrap_err();
    assert!(matches!(again, BackupError::NotEmpty { .. }), "{again}");
    let platform = Platform::start_with(config, dir).await;
    platform.leads().await;
    is_filled(&platform, &before).await;
}

async fn restore_into(archive: &Path, config: &Config) -> Result<crate::Summary, BackupError> {
    restore(archive, &config.data_dir, &config.database, &config.artifacts, quiet).await
}

#[tokio::test]
async fn what_is_not_a_whole_backup_is_refused_and_changes_nothing() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let config_of = platform.context.config.clone();
    let kept = tempfile::tempdir().unwrap();
    let archive = kept.path().join("wharf.backup");
    backup(&config_of.data_dir, &config_of.database, &config_of.artifacts, &archive, Keys::LeftOut, quiet)
        .await
        .unwrap();
    let whole = std::fs::read(&archive).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let target = config(&dir).await;
    for length in [0, 100, 5_000, whole.len() / 2] {
        std::fs::write(&archive, &whole[..length]).unwrap();
        let refused = restore(&archive, &target.data_dir, &Database::DataDir, &ArtifactsAt::DataDir, quiet)
            .await
            .unwrap_err();
        let is_told = matches!(refused, BackupError::NotABackup { .. } | BackupError::File { .. });
        assert!(is_told, "{length}: {refused:?}");
    }
    std::fs::write(&archive, &whole).unwrap();
    restore(&archive, &target.data_dir, &Database::DataDir, &ArtifactsAt::DataDir, quiet).await.unwrap();
    assert!(!target.data_dir.join("secret.key").exists(), "keys are only in it when they are asked for");
}

#[tokio::test]
async fn a_table_of_another_program_is_named_and_left_out() {
    let platform = Platform::start().await;
    let source = platform.context.config.clone();
    let mut tx = platform.context.store.write().await.unwrap();
    crate::store::query("CREATE TABLE inventory (number INTEGER)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let kept = tempfile::tempdir().unwrap();
    let archive = kept.path().join("wharf.backup");
    let mut foreign = Vec::new();
    let told = |progress: crate::Progress<'_>| {
        if let crate::Progress::Foreign { table } = progress {
            foreign.push(table.to_owned());
        }
    };
    let made =
        backup(&source.data_dir, &source.database, &source.artifacts, &archive, Keys::LeftOut, told).await;
    let made = made.unwrap();
    assert_eq!(foreign, ["inventory"]);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(restore_into(&archive, &config(&dir).await).await.unwrap(), made);
}

#[tokio::test]
async fn a_damaged_backup_leaves_no_artifact_and_no_key_and_another_key_is_not_written_over() {
    let platform = Platform::start().await;
    put(&platform, SECRET, "hush").await.is(200);
    let content = component(0);
    platform.deploy("hello", &content, quick()).await.is(201);
    let source = platform.context.config.clone();
    let kept = tempfile::tempdir().unwrap();
    let archive = kept.path().join("wharf.backup");
    backup(&source.data_dir, &source.database, &source.artifacts, &archive, Keys::Included, quiet)
        .await
        .unwrap();
    let whole = std::fs::read(&archive).unwrap();
    let at = whole.windows(content.len()).position(|window| window == content).unwrap();
    let mut changed = whole.clone();
    changed[at + content.len() - 1] ^= 1;
    // Without the artifact and its header, but with the end of an archive.
    let cut = [&whole[..at - 512], &[0; 1024]].concat();

    let dir = tempfile::tempdir().unwrap();
    let target = config(&dir).await;
    let (key, artifact) =
        (target.data_dir.join("secret.key"), crate::artifact_file(&target.data_dir, Digest::of(&content)));
    for (octets, why) in [(&changed, "is damaged"), (&cut, "is missing")] {
        std::fs::write(&archive, octets).unwrap();
        let refused = restore_into(&archive, &target).await.unwrap_err();
        assert!(matches!(refused, BackupError::NotABackup { .. }), "{refused}");
        assert!(refused.to_string().contains(why), "{refused}");
        assert!(!key.exists() && !artifact.exists(), "{why}");
    }
    std::fs::write(&archive, &whole).unwrap();
    std::fs::write(&key, "another\n").unwrap();
    let refused = restore_into(&archive, &target).await.unwrap_err();
    assert!(matches!(refused, BackupError::OtherKey { .. }), "{refused}");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "another\n");
    assert!(!artifact.exists());
    std::fs::remove_file(&key).unwrap();
    restore_into(&archive, &target).await.unwrap();
    assert!(key.exists() && artifact.exists());
}

#[tokio::test]
async fn what_stood_in_sqlite_goes_on_in_postgres_with_the_same_token() {
    if !is_postgres() {
        return;
    }
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let target = config(&dir).await;
    let Database::Postgres(url) = target.database.clone() else { panic!("it is PostgreSQL") };
    let source = Config { database: Database::DataDir, ..target.clone() };
    let platform = Platform::start_with(source.clone(), dir.clone()).await;
    fill(&platform).await;
    let (before, admin) = (platform.app("hello").await, platform.admin.clone());
    let running = migrate_store(&source.data_dir, &url, quiet).await.unwrap_err();
    assert!(matches!(running, BackupError::Open(OpenError::Locked { .. })), "{running}");
    drop(platform);
    let moved = eventually("the directory is free", async || {
        match migrate_store(&source.data_dir, &url, quiet).await {
            Err(BackupError::Open(OpenError::Locked { .. })) => None,
            moved => Some(moved.unwrap()),
        }
    })
    .await;
    assert!(moved.rows > 20, "{moved:?}");
    let again = migrate_store(&source.data_dir, &url, quiet).await.unwrap_err();
    assert!(matches!(again, BackupError::AlreadyMoved { .. }), "{again}");
    let Err(without) = ControlPlane::open(source.clone()).await else { panic!("it opened") };
    assert!(matches!(without, OpenError::Moved { .. }), "{without}");
    let platform = Platform::start_with(target, dir).await;
    platform.leads().await;
    platform.call_as(&admin, Method::GET, "/v1/whoami", Value::Null).await.is(200);
    is_filled(&platform, &before).await;
}
