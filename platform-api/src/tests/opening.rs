//! Starting on directories in every state.

use std::os::unix::fs::PermissionsExt;

use axum::http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use wharf_types::Digest;

use super::database;
use super::fixture::{Platform, component, config, eventually};
use crate::{ControlPlane, OpenError, store};

async fn refused(config: crate::Config) -> OpenError {
    match ControlPlane::open(config).await {
        Err(error) => error,
        Ok(_) => panic!("it opened"),
    }
}

#[tokio::test]
async fn a_first_start_makes_a_token_that_only_its_user_may_read() {
    let platform = Platform::start().await;
    let file = platform.dir.path().join("data/admin.token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        std::fs::metadata(platform.dir.path().join("data")).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let me = platform.get("/v1/whoami").await;
    assert_eq!((&me["role"], &me["namespace"]), (&Value::from("admin"), &Value::Null));
    assert_eq!(platform.get("/v1/namespaces").await["items"][0]["name"], "default");
}

#[tokio::test]
async fn a_deleted_token_file_is_made_again_and_the_old_token_ends() {
    let platform = Platform::start().await;
    let old = platform.admin.clone();
    std::fs::remove_file(platform.dir.path().join("data/admin.token")).unwrap();
    let platform = Platform::start_in(platform.crash()).await;
    assert_ne!(platform.admin, old);
    platform.get("/v1/whoami").await;
    platform.call_as(&old, Method::GET, "/v1/whoami", Value::Null).await.refuses(
        401,
        "unauthenticated",
        &["wharf login"],
    );
}

#[tokio::test]
async fn a_token_file_that_outlived_its_token_is_made_again() {
    let mut platform = Platform::start().await;
    for ending in [
        "DELETE FROM token",
        "UPDATE token SET expires_at = 1 WHERE bootstrap",
        "UPDATE token SET role = 10 WHERE bootstrap",
    ] {
        let old = platform.admin.clone();
        let mut tx = platform.context.store.write().await.unwrap();
        store::query(ending).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        platform = Platform::start_in(platform.crash()).await;
        assert_ne!(platform.admin, old, "{ending}");
        assert_eq!(platform.get("/v1/whoami").await["role"], "admin");
    }
    let kept = platform.admin.clone();
    let platform = Platform::start_in(platform.crash()).await;
    assert_eq!(platform.admin, kept, "a valid one stays");
}

#[tokio::test]
async fn a_server_of_another_platform_leaves_a_folder_of_artifacts_that_it_finds_alone() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir).await;
    std::fs::create_dir(&config.data_dir).unwrap();
    let folder = platform.context.config.data_dir.join("artifacts");
    std::os::unix::fs::symlink(&folder, config.data_dir.join("artifacts")).unwrap();
    for words in ["artifacts of another platform", "knows none"] {
        let error = refused(config.clone()).await;
        assert!(matches!(error, OpenError::ArtifactsElsewhere(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!config.data_dir.join("admin.token").exists());
        // As versions of before have left it: nothing says whose it is.
        let _ = std::fs::remove_file(folder.join("wharf.json"));
    }
    assert!(platform.context.artifacts.open(Digest::of(&component(0))).await.unwrap().is_some());
    let platform = Platform::start_in(platform.crash()).await;
    assert!(folder.join("wharf.json").exists(), "its own platform says so again");
    platform.push("default", &component(0)).await.is(200);
}

#[tokio::test]
async fn a_second_process_hears_who_has_the_directory() {
    let platform = Platform::start().await;
    let error = refused(config(&platform.dir).await).await;
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
}

#[tokio::test]
async fn a_directory_of_a_newer_version_is_refused() {
    let platform = Platform::start().await;
    let mut tx = platform.context.store.write().await.unwrap();
    store::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', TRUE, '', 0)",
    )
    .execute(&mut tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let dir = platform.crash();
    let error = eventually("the lock is free", async || {
        Some(refused(config(&dir).await).await).filter(|error| !matches!(error, OpenError::Locked { .. }))
    })
    .await;
    let newer = |error: &OpenError| match error {
        OpenError::DatabaseNewer { .. } => database::is_postgres(),
        OpenError::NewerVersion { .. } => !database::is_postgres(),
        _ => false,
    };
    assert!(newer(&error), "{error}");
    let error = error.to_string();
    assert!(error.contains("newer wharf") && error.contains("has migration 9999, and this"), "{error}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_and_a_damaged_database_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = refused(crate::Config { data_dir: file.join("data"), ..config(&dir).await }).await;
    assert!(matches!(error, OpenError::NotWritable { .. }), "{error}");

    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("data/wharf.db"), vec![b'x'; 8192]).unwrap();
    let in_dir = crate::Config { database: crate::Database::DataDir, ..config(&dir).await };
    let error = refused(in_dir).await;
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn it_serves_on_a_socket_and_ends_in_time_although_streams_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let control = ControlPlane::open(config(&dir).await).await.unwrap();
    let admin = std::fs::read_to_string(control.admin_token_file()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(control.serve(listener, shutdown.clone()));
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /v1/namespaces/default/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\naccept: text/event-stream\r\n\r\n",
        admin.trim()
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut head = vec![0; 15];
    connection.read_exact(&mut head).await.unwrap();
    assert_eq!(head, b"HTTP/1.1 200 OK");
    shutdown.cancel();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(3), serving).await;
    ended.expect("it ends before the grace period does").unwrap().unwrap();
    // Everything was let go of: the next one may open the directory at once.
    ControlPlane::open(config(&dir).await).await.unwrap();
}

#[tokio::test]
async fn it_ends_with_an_error_when_the_reconciler_ends_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let control = ControlPlane::open(config(&dir).await).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reconciler = tokio::spawn(async { panic!("a fault") });
    let serving = control.serve_beside(reconciler, listener, CancellationToken::new());
    let ended = tokio::time::timeout(super::fixture::LIMIT, serving).await.expect("it ends");
    assert!(ended.unwrap_err().to_string().contains("the reconciler ended"));
}
