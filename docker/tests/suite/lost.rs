//! Engines that are away, come back, or are none.

use std::time::{Duration, Instant};

use wharf_docker::{Engine, EngineError, Exit, FoundState};
use wharf_types::spec::ContainerSpec;

use crate::daemon::Daemon;
use crate::support::{Test, ended, eventually, settings, shell, socket};

async fn connect(socket: std::path::PathBuf) -> EngineError {
    match Engine::connect(settings(socket)).await {
        Err(error) => error,
        Ok(_) => panic!("nobody answers there"),
    }
}

#[tokio::test]
async fn where_no_engine_is_that_is_said() {
    let folder = tempfile::TempDir::new().unwrap();
    let error = connect(folder.path().join("none.sock")).await;
    assert!(matches!(error, EngineError::Absent { .. }) && error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("none.sock"), "{error}");
    // A socket that a dead engine has left.
    let path = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = connect(path).await;
    assert!(matches!(error, EngineError::Absent { .. }) && error.is_away(), "{error:?}");
}

#[tokio::test]
async fn an_engine_that_takes_connections_and_says_nothing_is_given_up() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("silent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = connect(path).await;
    assert!(matches!(error, EngineError::Silent { .. }) && error.is_away(), "{error:?}");
}

/// Answers every connection with the same.
fn answering(answer: String) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("other.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (folder, path)
}

fn http(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn what_is_no_engine_or_an_old_one_is_told_apart() {
    let (_folder, path) = answering(http(r#"{"Version":"19.03.15","ApiVersion":"1.40"}"#));
    let error = connect(path).await;
    assert!(matches!(error, EngineError::TooOld { .. }) && !error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("19.03.15"), "{error}");
    let (_folder, path) = answering(http("hello"));
    assert!(matches!(connect(path).await, EngineError::Answer { .. }));
    let (_folder, path) = answering("220 mail.example.com ESMTP\r\n".into());
    assert!(matches!(connect(path).await, EngineError::BrokeOff { .. }));
    let (_folder, path) = answering(String::new());
    assert!(matches!(connect(path).await, EngineError::BrokeOff { .. }));
}

#[tokio::test]
async fn an_engine_that_is_killed_and_comes_back_is_used_again() {
    if socket().is_none() {
        return;
    }
    let mut daemon = Daemon::start();
    let test = Test::on(daemon.socket()).await;
    let id = test.shell("echo before; exec sleep 1000").await;
    let waits = tokio::spawn({
        let engine = test.engine.clone();
        async move { engine.wait(id).await }
    });
    eventually("the first line", async || {
        use futures::StreamExt as _;
        test.engine.follow_logs(id, wharf_docker::LogMark::default()).next().await?.ok()
    })
    .await;
    daemon.kill();
    let began = Instant::now();
    let error = test.engine.list().await.unwrap_err();
    assert!(error.is_away() && error.is_retryable(), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(!waits.is_finished(), "that the engine is away is no end of a container");
    daemon.start_again();
    // An engine without live restore ends what it finds running, and says so.
    let exit = tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap().unwrap();
    assert!(matches!(exit, Exit::Ended { .. }), "{exit:?}");
    let found = test.engine.list().await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(matches!(found[0].state, FoundState::Ended(_)), "{found:?}");
    assert_eq!(test.printed(id).await, "before");
    let (exit, output) = test.output(&ContainerSpec::default(), "echo after").await;
    assert_eq!((exit, output.as_str()), (ended(0), "after"));
    test.engine.remove(id).await.unwrap();
    drop(test);
}

#[tokio::test]
async fn an_engine_that_is_killed_in_the_middle_of_a_call_fails_that_call() {
    if socket().is_none() {
        return;
    }
    let mut daemon = Daemon::start();
    let test = Test::on(daemon.socket()).await;
    let id = test.shell("exec sleep 1000").await;
    let probe = tokio::spawn({
        let engine = test.engine.clone();
        async move { engine.probe_command(id, &shell("sleep 1000"), Duration::from_secs(30)).await }
    });
    eventually("the check runs", async || {
        (test.engine.usage(id).await.unwrap()?.processes > 1).then_some(())
    })
    .await;
    daemon.kill();
    let error = tokio::time::timeout(Duration::from_secs(10), probe).await.unwrap().unwrap().unwrap_err();
    assert!(error.is_away(), "{error:?}");
    daemon.start_again();
    drop(test);
}
