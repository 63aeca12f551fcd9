//! Whatever is handed to the platform, the answer is one clear sentence with a documented code, and what ran before still runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::Instant;
use wharf_tests::{Platform, SHORT, SmallDisk, Start, Wharf, eventually, workspace};
use wharf_types::Digest;
use wharf_types::api::CreatedToken;

/// A platform on which an app runs that must go on.
async fn platform() -> Platform {
    let platform = Platform::start().await;
    platform.deploy("hello", "hello", &[]).await;
    platform
}

async fn hello_still_serves(platform: &Platform) {
    assert!(platform.text("hello", "/").await.contains("Hello"));
    let info = platform.app("hello").await;
    assert_eq!((info.release, info.ready), (Some(1), 1));
}

/// Deploys these bytes as an app of their own, which must be refused as invalid with these words.
async fn refused(content: &[u8], words: &[&str]) {
    let platform = platform().await;
    let file = platform.home().join("bad.wasm");
    std::fs::write(&file, content).unwrap();
    let ran = platform.wharf(&["deploy", file.to_str().unwrap(), "--app", "bad"]).await;
    ran.fails(6, words);
    assert_eq!(platform.wharf(&["status", "bad"]).await.code, 3, "an app was left behind");

    // A client that checks nothing itself is told the same.
    let path = format!("/v1/namespaces/default/artifacts/{}", Digest::of(content));
    let reply = platform.api(Method::PUT, &path, content.to_vec()).await;
    assert_eq!(reply.status, 422, "{}", reply.text());
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    assert_eq!(reply.json::<Value>()["code"], "invalid_artifact");
    hello_still_serves(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_wasm_is_refused() {
    refused(b"#!/bin/sh\necho hello\n", &["is not WebAssembly"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_component_is_refused() {
    let whole = std::fs::read(workspace::guest("hello")).unwrap();
    refused(&whole[..whole.len() / 2], &["truncated"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_the_host_lacks_is_named() {
    let component = r#"(component
        (import "acme:lights/switch@1.0.0" (instance (export "on" (func)))))"#;
    refused(&wat::parse_str(component).unwrap(), &["acme:lights/switch@1.0.0", "does not provide"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_no_known_world_is_refused() {
    refused(&wat::parse_str("(component)").unwrap(), &["wasi:http/incoming-handler"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_megabytes_of_zeros_are_refused_without_being_kept() {
    let platform = platform().await;
    let zeros = vec![0; 200 << 20];
    let path = format!("/v1/namespaces/default/artifacts/{}", Digest::of(&zeros));
    let since = Instant::now();
    let reply = platform.api(Method::PUT, &path, zeros).await;
    let took = since.elapsed();
    assert_eq!(reply.status, 422, "{}", reply.text());
    assert_eq!(reply.json::<Value>()["code"], "invalid_artifact");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let memory = platform.memory_bytes();
    assert!(memory < 200 << 20, "the platform holds {} MiB", memory >> 20);
    hello_still_serves(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compile_bomb_harms_no_other_app() {
    let platform = platform().await;
    let file = platform.home().join("bomb.wasm");
    std::fs::write(&file, compile_bomb()).unwrap();
    let mut load = platform.load("hello", "/");
    let args = ["deploy", file.to_str().unwrap(), "--app", "bomb", "--timeout", "3s"];
    let ran = platform.wharf(&args).await;
    ran.fails(5, &["release 1 of bomb is not ready after 3", "0 of 1 instances are", "the rollout goes on"]);
    load.go_on_for(50).await;
    let served = load.stop().await;
    assert!(served.failures.is_empty(), "{:?}", served.failures);
    let memory = platform.memory_bytes();
    assert!(memory < 300 << 20, "the platform holds {} MiB", memory >> 20);
    // One artifact is compiled at a time: whoever comes next has its turn once nobody wants the bomb any more.
    platform.wharf(&["delete", "bomb", "--yes"]).await.ok();
    platform.deploy("hello-plain", "late", &[]).await;
    platform.text("late", "/").await;
    hello_still_serves(&platform).await;
}

/// 28 kB that no machine compiles within the compiler's limits: every local is carried around every one of the nested loops, so
/// the compiler has two million values to find registers for.
fn compile_bomb() -> Vec<u8> {
    const LOCALS: usize = 2000;
    const LOOPS: usize = 1000;
    let mut text = String::from("(module (memory (export \"memory\") 1) (func (export \"_start\") (local");
    text.push_str(&" i64".repeat(LOCALS));
    text.push_str(")\n");
    text.push_str(&"loop\n".repeat(LOOPS));
    for local in 0..LOCALS {
        let next = (local + 1) % LOCALS;
        text.push_str(&format!("local.get {local} local.get {next} i64.add local.set {local}\n"));
    }
    text.push_str(&"local.get 0 i64.eqz br_if 0 end\n".repeat(LOOPS));
    text.push_str("))");
    wat::parse_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_another_digest_are_refused() {
    let platform = platform().await;
    let content = std::fs::read(workspace::guest("hello-plain")).unwrap();
    let path = format!("/v1/namespaces/default/artifacts/{}", Digest::of(b"something else"));
    let reply = platform.api(Method::PUT, &path, content).await;
    assert_eq!(reply.status, 422);
    let problem: Value = reply.json();
    assert_eq!(problem["code"], "digest_mismatch");
    assert!(problem["detail"].as_str().unwrap().contains("push the file again"), "{problem}");
    hello_still_serves(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_a_slash_is_refused() {
    let platform = platform().await;
    let file = workspace::guest("hello");
    let ran = platform.wharf(&["deploy", file.to_str().unwrap(), "--app", "a/b"]).await;
    ran.fails(2, &["a/b", "lower-case"]);
    let body = json!({ "artifact": Digest::of(b""), "spec": {} }).to_string();
    let reply = platform.api(Method::POST, "/v1/namespaces/default/apps/a%2Fb/releases", body).await;
    assert_eq!((reply.status.as_u16(), &reply.json::<Value>()["code"]), (400, &json!("invalid_request")));
    hello_still_serves(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_of_another_namespace_is_taken() {
    let platform = platform().await;
    let manifest = |app: &str| format!("app = \"{app}\"\n[http]\nroutes = [\"shop.test/\"]\n");
    platform.deploy_manifest("hello", &manifest("first")).await.ok();
    platform.wharf(&["namespace", "create", "other"]).await.ok();
    let ran = platform.deploy_manifest_with("hello-plain", &manifest("second"), &["-n", "other"]).await;
    ran.fails(7, &["shop.test/", "route_taken"]);
    assert!(platform.apps.get("shop.test", "/").await.unwrap().text().contains("Hello from WASI 0.2"));
    hello_still_serves(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let platform = platform().await;
    let home = tempfile::tempdir().unwrap();
    for flag in ["--api", "--http"] {
        let other = if flag == "--api" { "--http" } else { "--api" };
        let taken = platform.ready.api.trim_start_matches("http://");
        let ran =
            Wharf::at_home(home.path()).run(&["up", "--data", "d", flag, taken, other, "127.0.0.1:0"]).await;
        ran.fails(1, &["cannot listen on", taken, flag]);
    }
    hello_still_serves(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_refused() {
    let platform = platform().await;
    up_fails(&platform.data(), 1, &["in use by another wharf"]).await;
    hello_still_serves(&platform).await;
}

/// Starts a platform in this folder, which must fail with this code and these words.
async fn up_fails(data: &Path, code: i32, words: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let args = ["up", "--data", data.to_str().unwrap(), "--api", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    Wharf::at_home(home.path()).run(&args).await.fails(code, words);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_written_is_named() {
    // Not even root can make a folder below a file, or in `/proc`.
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("data");
    up_fails(&below, 1, &["cannot write to the data directory", below.to_str().unwrap(), "--data"]).await;
    up_fails(Path::new("/proc/wharf"), 1, &["cannot write to the data directory /proc/wharf"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_has_become_read_only_is_named_and_left_alone() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let mut platform = Platform::start_with(Start { data: Some(disk.data()), ..Start::default() }).await;
    platform.deploy("hello", "hello", &[]).await;
    assert_eq!(platform.terminate().await.code(), Some(0));
    disk.remount("ro");
    let data = disk.data();
    up_fails(&data, 1, &["cannot write to the data directory", data.to_str().unwrap(), "--data"]).await;
    disk.remount("rw");
    platform.start_again().await;
    platform.serves("hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_a_newer_version_is_left_alone() {
    let mut platform = platform().await;
    assert_eq!(platform.terminate().await.code(), Some(0));
    let database = platform.data().join("wharf.db");
    let mut db = connect(&database).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', TRUE, X'00', 0)",
    )
    .execute(&mut db)
    .await
    .unwrap();
    db.close().await.unwrap();
    let words =
        ["written by a newer wharf", "has migration 9999", "those up to", "use that version or another"];
    up_fails(&platform.data(), 1, &words).await;

    let mut db = connect(&database).await;
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 9999").execute(&mut db).await.unwrap();
    db.close().await.unwrap();
    platform.start_again().await;
    platform.serves("hello").await;
}

async fn connect(database: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(database).connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_a_push_and_nothing_else() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let platform = Platform::start_with(Start { data: Some(disk.data()), ..Start::default() }).await;
    platform.deploy("hello", "hello", &[]).await;
    let filler = disk.fill();
    let file = workspace::guest("hello-plain");
    let ran = platform.wharf(&["deploy", file.to_str().unwrap(), "--app", "late", "--json"]).await;
    ran.fails(9, &["disk", "full"]);
    assert!(platform.text("hello", "/").await.contains("Hello"));

    std::fs::remove_file(&filler).unwrap();
    platform.deploy("hello-plain", "late", &[]).await;
    platform.text("late", "/").await;
    hello_still_serves(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_does_not_start_on_a_full_disk_and_says_so() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let filler = disk.fill();
    let data = disk.data();
    up_fails(&data, 9, &["disk of the data directory", data.to_str().unwrap(), "is full", "make room"]).await;

    // The same where a platform has been before.
    std::fs::remove_file(&filler).unwrap();
    let mut platform = Platform::start_with(Start { data: Some(disk.data()), ..Start::default() }).await;
    platform.deploy("hello", "hello", &[]).await;
    assert_eq!(platform.terminate().await.code(), Some(0));
    let filler = disk.fill();
    up_fails(&data, 9, &["disk of the data directory", data.to_str().unwrap(), "is full", "make room"]).await;
    std::fs::remove_file(&filler).unwrap();
    platform.start_again().await;
    platform.serves("hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused_as_expired() {
    let platform = platform().await;
    let token: CreatedToken =
        platform.wharf(&["token", "create", "short", "--expires-in", "1s", "--json"]).await.json();
    let path = "/v1/namespaces/default/apps";
    let reply = eventually(SHORT, "the token has expired", || async {
        let reply = platform.api_as(&token.secret, Method::GET, path, "").await;
        (reply.status == 401).then_some(reply)
    })
    .await;
    assert_eq!(reply.json::<Value>()["code"], "token_expired");
    let ran = platform.user().env("WHARF_TOKEN", &token.secret).run(&["apps"]).await;
    ran.fails(4, &["expired", "wharf login"]);
    assert_eq!(
        platform.api_as("wrong", Method::GET, path, "").await.json::<Value>()["code"],
        "unauthenticated"
    );
    hello_still_serves(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_manifest_key_is_named_with_its_line() {
    let platform = platform().await;
    let ran = platform.deploy_manifest("hello", "app = \"hello\"\n[scale]\nreplica = 2\n").await;
    ran.fails(6, &["replica", "wharf.toml:3:1", "did you mean `replicas`?"]);
    let body = json!({ "artifact": Digest::of(b""), "spec": { "scale": { "replica": 2 } } }).to_string();
    let reply = platform.api(Method::POST, "/v1/namespaces/default/apps/hello/releases", body).await;
    assert!(matches!(reply.status.as_u16(), 400 | 422), "{}", reply.status);
    assert!(reply.text().contains("replica"), "{}", reply.text());
    hello_still_serves(&platform).await;
}
