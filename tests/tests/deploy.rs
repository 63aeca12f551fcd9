//! From a file to a URL and on: deploys, releases, settings, and what the platform keeps through a `kill -9`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{CONTENT_LENGTH, HOST};
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wharf_tests::{Platform, SHORT, eventually, full, workspace};
use wharf_types::api::{Page, ReleaseInfo, Usage, Why};
use wharf_types::event::Event;
use wharf_types::log::LogRecord;

async fn serves_with(guest: &str, path: &str, words: &str) {
    let platform = Platform::start().await;
    let deployed = platform.deploy(guest, guest, &[]).await;
    assert_eq!(deployed["state"], "monitoring", "{deployed}");
    let text = platform.text(guest, path).await;
    assert!(text.contains(words), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wasi_0_2_component_serves() {
    serves_with("hello", "/", "Hello from WASI 0.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wasi_0_3_component_serves() {
    serves_with("hello-p3", "/", "Hello from WASI 0.3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_without_the_sdk_serves() {
    serves_with("hello-plain", "/a/path", "you asked for /a/path").await;
}

/// Interpreters are large: compiling one takes a busy machine longer than the command waits by default.
async fn large_app_serves(guest: &str, words: &str) {
    let platform = Platform::start().await;
    platform.deploy(guest, guest, &["--timeout", "4m"]).await;
    let text = platform.text(guest, "/p?q=1").await;
    assert!(text.contains(words), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_app_serves() {
    large_app_serves("python", "Hello from Python, you asked for /p?q=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_javascript_app_serves() {
    large_app_serves("javascript", "Hello from JavaScript, you asked for /p").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_says_in_json_what_it_made() {
    let platform = Platform::start().await;
    let deployed = platform.deploy("hello", "hello", &[]).await;
    let port = platform.ready.http.rsplit(':').next().unwrap();
    assert_eq!(deployed["namespace"], "default");
    assert_eq!(deployed["app"], "hello");
    assert_eq!(deployed["release"], 1);
    assert_eq!(deployed["url"], format!("http://hello.default.localhost:{port}/"));
    assert_eq!(deployed["ready"], 1);
    let content = std::fs::read(workspace::guest("hello")).unwrap();
    assert_eq!(deployed["digest"], wharf_types::Digest::of(&content).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_tells_people_the_release_and_the_url() {
    let platform = Platform::start().await;
    let file = workspace::guest("hello");
    let text = platform.wharf(&["deploy", file.to_str().unwrap(), "--app", "hello"]).await.ok();
    assert!(text.contains("release 1") && text.contains("http://hello.default.localhost:"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_before_is_not_sent_again() {
    let platform = Platform::start().await;
    let counter = Counter::spawn(&platform.ready.api).await;
    let user = platform.user().env("WHARF_API", &counter.api).env("WHARF_TOKEN", &platform.token);
    let file = workspace::guest("hello");
    let size = std::fs::metadata(&file).unwrap().len();
    let deploy = ["deploy", file.to_str().unwrap(), "--app", "hello", "--json"];

    let first: Value = user.run(&deploy).await.json();
    let sent = counter.sent();
    assert!(sent > size, "{sent} octets were sent of an artifact with {size}");
    let second: Value = user.run(&deploy).await.json();
    let sent = counter.sent() - sent;
    assert!(sent < size / 4, "{sent} octets were sent, although the platform has the artifact");
    assert_eq!((&second["release"], &second["digest"]), (&json!(2), &first["digest"]));

    // A client that does not ask first is told without its bytes, too.
    let path = format!("/v1/namespaces/default/artifacts/{}", first["digest"].as_str().unwrap());
    let again = platform.api(Method::PUT, &path, "").await;
    assert_eq!(again.status, 200, "the bytes were asked for: {}", again.text());
}

/// Stands before the API and counts what clients send.
struct Counter {
    api: String,
    sent: Arc<AtomicU64>,
}

impl Counter {
    async fn spawn(api: &str) -> Self {
        let behind = api.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (behind, counted) = (behind.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let (mut up, mut down) =
                        (TcpStream::connect(behind).await.unwrap().into_split(), client.into_split());
                    let reply = tokio::spawn(async move { tokio::io::copy(&mut up.0, &mut down.1).await });
                    let mut chunk = vec![0; 16 << 10];
                    while let Ok(length @ 1..) = down.0.read(&mut chunk).await {
                        counted.fetch_add(length as u64, Ordering::SeqCst);
                        up.1.write_all(&chunk[..length]).await.unwrap();
                    }
                    drop(up.1);
                    let _ = reply.await;
                });
            }
        });
        Self { api, sent }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_built_and_deployed() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let command = format!("echo building >&2; cp {} built.wasm", workspace::guest("hello").display());
    let manifest = format!("app = \"hello\"\n[build]\ncommand = \"{command}\"\nartifact = \"built.wasm\"\n");
    std::fs::write(folder.path().join("wharf.toml"), manifest).unwrap();
    let user = platform.user().in_folder(folder.path());
    let built = user.run(&["deploy"]).await;
    assert!(built.stderr.contains("building"), "{}", built.stderr);
    built.ok();
    platform.says("hello", "Hello from WASI 0.2\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_deploys_nothing() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let manifest =
        "app = \"hello\"\n[build]\ncommand = \"echo no compiler here >&2; exit 3\"\nartifact = \"a.wasm\"\n";
    std::fs::write(folder.path().join("wharf.toml"), manifest).unwrap();
    let failed = platform.user().in_folder(folder.path()).run(&["deploy"]).await;
    failed.fails(6, &["no compiler here", "the build failed with exit code 3", "nothing was deployed"]);
    assert_eq!(platform.wharf(&["status", "hello"]).await.code, 3, "an app was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_has_done_its_work_stays_ended_when_it_is_told_to() {
    let platform = Platform::start().await;
    for program in ["c-command", "go-command"] {
        let manifest = format!("app = \"{program}\"\n[restart]\ncondition = \"never\"\n");
        platform.deploy_manifest_with(program, &manifest, &["--timeout", "4m"]).await.ok();
        platform.app_is(program, "stopped", |info| info.condition.as_str() == "stopped").await;
        let why = platform.wharf(&["why", program]).await.ok();
        assert!(why.contains("ended with success"), "{why}");
    }
    eventually(SHORT, "the log has what the program printed", || async {
        let log = platform.wharf(&["logs", "go-command"]).await.ok();
        log.contains("0 lines, 0 words, 0 bytes").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_lists_what_a_release_asks_for() {
    let platform = Platform::start().await;
    let deployed = platform.deploy("guestbook", "guestbook", &[]).await;
    let kinds: Vec<&str> = deployed["capabilities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|capability| capability["kind"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"keyvalue"), "{deployed}");
    assert_eq!(deployed["capabilities"], deployed["new_capabilities"]);
    let again = platform.deploy("guestbook", "guestbook", &[]).await;
    assert_eq!(again["new_capabilities"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_variable_is_a_release_that_the_app_sees_and_a_rollback_undoes() {
    let platform = Platform::start().await;
    platform.deploy("hello", "hello", &["-e", "GREETING=first"]).await;
    platform.says("hello", "first\n").await;
    let set: Value =
        platform.wharf(&["env", "set", "GREETING=second", "--app", "hello", "--json"]).await.json();
    assert_eq!(set["release"], 2);
    platform.says("hello", "second\n").await;

    let back: Value = platform.wharf(&["rollback", "hello", "1", "--json"]).await.json();
    assert_eq!(back["release"], 1, "{back}");
    platform.says("hello", "first\n").await;
    let releases: Page<ReleaseInfo> = platform.wharf(&["releases", "hello", "--json"]).await.json();
    let current: Vec<u64> =
        releases.items.iter().filter(|info| info.current).map(|info| info.release).collect();
    assert_eq!(current, [1]);
    assert_eq!(releases.items.len(), 2, "a rollback makes no release of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_env_and_scale_changed_can_be_reset_to_the_manifests_values() {
    let platform = Platform::start().await;
    let manifest = "app = \"hello\"\n[scale]\nreplicas = 1\n[env]\nGREETING = \"file\"\n";
    platform.deploy_manifest("hello", manifest).await.ok();
    platform.wharf(&["env", "set", "GREETING=set", "--app", "hello"]).await.ok();
    platform.wharf(&["scale", "hello", "2"]).await.ok();
    platform.says("hello", "set\n").await;
    platform.app_is("hello", "2 of 2 ready", |info| (info.ready, info.replicas) == (2, 2)).await;

    platform.wharf(&["env", "reset", "GREETING", "--app", "hello"]).await.ok();
    platform.says("hello", "file\n").await;
    platform.wharf(&["scale", "hello", "--reset"]).await.ok();
    platform.app_is("hello", "1 of 1 ready", |info| (info.ready, info.replicas) == (1, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_are_three_ready_instances() {
    let platform = Platform::start().await;
    platform.deploy("hello", "hello", &[]).await;
    platform.wharf(&["scale", "hello=3"]).await.ok();
    let info = platform.app_is("hello", "3 of 3 ready", |info| info.ready == 3).await;
    assert_eq!(info.replicas, 3);
    let table = platform.wharf(&["apps"]).await.ok();
    assert!(table.contains("3/3"), "{table}");
    platform.wharf(&["scale", "hello=1"]).await.ok();
    platform
        .app_is("hello", "1 instance", |info| {
            info.ready == 1
                && info.instances.iter().filter(|instance| !instance.state.is_final()).count() == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_app_gives_its_hostname_back() {
    let platform = Platform::start().await;
    platform.deploy("hello", "hello", &[]).await;
    platform.wharf(&["delete", "hello", "--yes"]).await.ok();
    eventually(SHORT, "the hostname is unknown", || async {
        (platform.get("hello", "/").await.unwrap().status == 404).then_some(())
    })
    .await;
    eventually(SHORT, "the app is gone", || async {
        (platform.wharf(&["status", "hello"]).await.code == 3).then_some(())
    })
    .await;
    let anew = platform.deploy("hello", "hello", &[]).await;
    assert_eq!(anew["release"], 1, "a new app of that name begins anew");
    platform.text("hello", "/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_speaks_json() {
    let platform = Platform::start().await;
    platform.deploy("ticker", "ticker", &["-e", "PERIOD_MS=20"]).await;
    platform.deploy("hello", "hello", &[]).await;
    platform.text("hello", "/").await;

    let apps: Page<wharf_types::api::AppInfo> = platform.wharf(&["apps", "--json"]).await.json();
    assert_eq!(apps.items.len(), 2);
    assert_eq!(platform.app("hello").await.ready, 1);
    let why: Why = platform.wharf(&["why", "hello", "--json"]).await.json();
    assert!(!why.because.is_empty());
    let events = platform.wharf(&["events", "hello", "--json"]).await.ok();
    let events: Vec<Event> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event.kind == "release.created"), "{events:?}");
    assert!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    eventually(SHORT, "the usage counts the request", || async {
        let usage: Usage = platform.wharf(&["top", "--json"]).await.json();
        usage.apps.iter().any(|app| app.app.as_str() == "hello" && app.invocations > 0).then_some(())
    })
    .await;
    eventually(SHORT, "the log has what the guest printed", || async {
        let logs = platform.wharf(&["logs", "ticker", "--json"]).await.ok();
        let logs: Vec<LogRecord> = logs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        logs.iter().any(|record| record.message.starts_with("tick ")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let mut platform = Platform::start().await;
    platform.deploy("guestbook", "book", &[]).await;
    platform.deploy("hello", "hello", &["-e", "GREETING=still here"]).await;
    platform.deploy("hello-p3", "p3", &[]).await;
    let form = "name=Ada&message=first+entry";
    let sign = Request::post("/")
        .header(HOST, "book.default.localhost")
        .header(CONTENT_LENGTH, form.len())
        .body(full(form))
        .unwrap();
    assert_eq!(platform.apps.send(sign).await.unwrap().status, 303);
    assert!(platform.text("book", "/").await.contains("first entry"));

    platform.kill().await;
    platform.start_again().await;
    assert!(platform.serves("book").await.contains("first entry"));
    assert_eq!(platform.serves("hello").await, "still here\n");
    platform.serves("p3").await;
    assert_eq!(platform.app("hello").await.release, Some(1), "no new deploy was needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_a_deploy_leaves_an_app_that_serves_one_release_or_the_other() {
    let mut platform = Platform::start().await;
    platform.deploy("hello", "hello", &["-e", "GREETING=one"]).await;
    platform.wharf(&["env", "set", "GREETING=two", "--app", "hello", "--no-wait"]).await.ok();
    platform.kill().await;
    platform.start_again().await;
    eventually(SHORT, "the acknowledged release serves", || async {
        let reply = platform.get("hello", "/").await.ok()?;
        (reply.text() == "two\n").then_some(())
    })
    .await;
}
