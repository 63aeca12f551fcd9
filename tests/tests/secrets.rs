//! Secrets from end to end: what guests are given, what a change does, and that a value is nowhere where it could be read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use http::Method;
use serde_json::Value;
use wharf_tests::{HttpGuest, Platform, Ran, SHORT, Start, Wharf, eventually};
use wharf_types::api::{Page, ReleaseInfo, RotatedKey, SecretInfo};

/// Values that stand nowhere by chance.
const FIRST: &str = "correct-horse-battery-staple";
const SECOND: &str = "tr0ub4dor-and-three";

const MANIFEST: &str = "app = \"hello\"\n[secrets]\nGREETING = \"greeting\"\n";

async fn set(platform: &Platform, name: &str, value: &str) -> Ran {
    platform.user().run_with_input(&["secret", "set", name], &format!("{value}\n")).await
}

/// A platform whose app greets with a secret.
async fn greeting(value: &str, start: Start) -> Platform {
    let platform = Platform::start_with(start).await;
    set(&platform, "greeting", value).await.ok();
    platform.deploy_manifest("hello", MANIFEST).await.ok();
    platform.says("hello", &format!("{value}\n")).await;
    platform
}

async fn secrets(platform: &Platform) -> Vec<SecretInfo> {
    platform.wharf(&["secret", "ls", "--json"]).await.json::<Page<SecretInfo>>().items
}

async fn releases(platform: &Platform) -> Vec<ReleaseInfo> {
    platform.wharf(&["releases", "hello", "--json"]).await.json::<Page<ReleaseInfo>>().items
}

/// The files below a folder that hold these octets.
fn files_with(folder: &Path, octets: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, octets));
        } else if std::fs::read(&path)
            .is_ok_and(|content| content.windows(octets.len()).any(|part| part == octets))
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_secret_is_a_new_release_without_a_lost_request_and_a_rollback_brings_the_old_value() {
    let platform = greeting(FIRST, Start::default()).await;
    let mut load = platform.load("hello", "/");
    load.go_on_for(20).await;
    let said = set(&platform, "greeting", SECOND).await.ok();
    assert!(said.contains("version 2") && said.contains("release 2 of hello runs"), "{said}");
    platform.says("hello", &format!("{SECOND}\n")).await;
    platform.wharf(&["rollback", "hello"]).await.ok();
    platform.says("hello", &format!("{FIRST}\n")).await;
    load.go_on_for(20).await;
    let served = load.stop().await;
    assert!(served.failures.is_empty(), "{:?}", served.failures);

    let made: Vec<(u64, u64, String)> = releases(&platform)
        .await
        .into_iter()
        .map(|release| (release.release, release.secrets[&"greeting".parse().unwrap()], release.cause))
        .collect();
    assert_eq!(made, [(2, 2, "secret".to_owned()), (1, 1, "deploy".to_owned())]);
    let [info] = &secrets(&platform).await[..] else { panic!("not one secret") };
    assert_eq!((info.version, &info.versions[..], info.set_by.as_str()), (2, &[1, 2][..], "admin"));
    assert_eq!(info.apps, ["hello".parse().unwrap()]);

    // Other variables leave the app on the value that it is on; the same value again brings it to the newest version.
    platform.wharf(&["env", "set", "OTHER=1", "--app", "hello"]).await.ok();
    platform.says("hello", &format!("{FIRST}\n")).await;
    let again = set(&platform, "greeting", SECOND).await.ok();
    assert!(again.contains("version 2") && again.contains("release 4 of hello runs"), "{again}");
    platform.says("hello", &format!("{SECOND}\n")).await;
    let nothing = set(&platform, "greeting", SECOND).await.ok();
    assert!(nothing.contains("version 2") && nothing.contains("no app needs"), "{nothing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_finds_a_secret_in_wasi_config() {
    let platform = Platform::start().await;
    set(&platform, "greeting", "hush, now").await.ok();
    // It traps unless the setting begins with "hush", read as a number.
    let guest = HttpGuest {
        imports: r#"(import "wasi:config/store@0.2.0-rc.1" "get" (func $get (param i32 i32 i32)))"#,
        definitions: r#"(data (i32.const 2048) "GREETING")"#,
        before_answer: "(call $get (i32.const 2048) (i32.const 8) (i32.const 16))
            (if (i32.ne (i32.load (i32.load (i32.const 24))) (i32.const 0x68737568)) (then unreachable))",
        ..HttpGuest::default()
    };
    platform.deploy_bytes(&guest.component(), MANIFEST).await.ok();
    assert_eq!(platform.get("hello", "/config").await.unwrap().status, 200);
    set(&platform, "greeting", "HUSH").await.ok();
    assert_eq!(platform.get("hello", "/config").await.unwrap().status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_on_no_disk_in_no_log_and_in_no_answer() {
    // Even the most talkative log.
    let env = vec![("RUST_LOG".to_owned(), "trace".to_owned())];
    let mut platform = greeting(FIRST, Start { env, ..Start::default() }).await;
    set(&platform, "greeting", SECOND).await.ok();
    platform.wharf(&["restart", "hello"]).await.ok();
    // What fails tells a reason, which must not tell the value.
    platform.wharf(&["secret", "set", "greeting", SECOND]).await.fails(2, &["not an argument"]);
    set(&platform, "Greeting", SECOND).await.fails(2, &["lower-case"]);
    platform.wharf(&["secret", "rm", "greeting"]).await.fails(7, &["hello (1, 2)"]);

    let document = platform.api(Method::GET, "/v1/openapi.json", "").await;
    let document: Value = serde_json::from_slice(&document.body).unwrap();
    let mut answers = vec![platform.log()];
    for (path, methods) in document["paths"].as_object().unwrap() {
        // A watch never ends by itself.
        if methods.get("get").is_none() || path.ends_with("/watch") {
            continue;
        }
        let path = path.replace("{namespace}", "default").replace("{app}", "hello");
        answers.push(platform.api(Method::GET, &path, "").await.text());
    }
    assert!(answers.iter().any(|answer| answer.contains("secret.set")), "the events were asked for");
    for command in [&["secret", "ls"][..], &["env", "list", "--app", "hello"], &["why", "hello"], &["events"]]
    {
        answers.push(platform.wharf(command).await.ok());
    }
    assert!(platform.log().contains("TRACE"), "the log is talkative");
    assert!(!files_with(&platform.data(), b"greeting").is_empty(), "what is on disk is found");
    for value in [FIRST, SECOND] {
        let shown: Vec<&String> = answers.iter().filter(|answer| answer.contains(value)).collect();
        assert!(shown.is_empty(), "{shown:?}");
        assert_eq!(files_with(&platform.data(), value.as_bytes()), [""; 0], "while it runs");
    }
    platform.terminate().await;
    for value in [FIRST, SECOND] {
        assert_eq!(files_with(platform.home(), value.as_bytes()), [""; 0], "after its end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_a_guest_printed_is_in_its_log_and_not_quoted_in_a_reason() {
    let platform = Platform::start().await;
    set(&platform, "greeting", FIRST).await.ok();
    let manifest = format!("{MANIFEST}[restart]\ncondition = \"never\"\n");
    let guest = wat::parse_str(PRINTS_ITS_VARIABLES_AND_FAILS).unwrap();
    let ran = platform.deploy_bytes(&guest, &manifest).await;
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    eventually(SHORT, "its own log", || async {
        platform.wharf(&["logs", "hello"]).await.ok().contains(FIRST).then_some(())
    })
    .await;
    let events = platform.wharf(&["events"]).await.ok();
    assert!(events.contains("exit code 3") && events.contains("GREETING=***"), "{events}");
    assert!(!events.contains(FIRST) && !platform.log().contains(FIRST), "{events}");
}

const PRINTS_ITS_VARIABLES_AND_FAILS: &str = r#"(module
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\n")
    (func $print (param i32 i32)
        (i32.store (i32.const 32) (local.get 0))
        (i32.store (i32.const 36) (local.get 1))
        (drop (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 48))))
    (func (export "_start")
        (drop (call $sizes (i32.const 16) (i32.const 20)))
        (drop (call $get (i32.const 1024) (i32.const 4096)))
        (call $print (i32.const 4096) (i32.load (i32.const 20)))
        (call $print (i32.const 0) (i32.const 1))
        (call $exit (i32.const 3))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_opens_everything_after_a_restart() {
    let mut platform = greeting(FIRST, Start::default()).await;
    let file = platform.data().join("secret.key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let before = std::fs::read_to_string(&file).unwrap();
    let rotated: RotatedKey = platform.wharf(&["secret", "rotate-key", "--json"]).await.json();
    assert_eq!(rotated.resealed, 1);
    let after = std::fs::read_to_string(&file).unwrap();
    assert_ne!(before, after);
    assert_eq!(before.lines().count(), after.lines().count(), "the old key is gone");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    platform.kill().await;
    platform.start_again().await;
    assert_eq!(platform.serves("hello").await, format!("{FIRST}\n"));
    set(&platform, "greeting", SECOND).await.ok();
    platform.says("hello", &format!("{SECOND}\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_was_broken_off_is_finished_by_the_next_start() {
    let mut platform = greeting(FIRST, Start::default()).await;
    platform.kill().await;
    // As it is after the first step: the new key is in front, and nothing is sealed with it yet.
    let file = platform.data().join("secret.key");
    let old = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{}\n{old}", "a".repeat(64))).unwrap();
    platform.start_again().await;
    assert_eq!(platform.serves("hello").await, format!("{FIRST}\n"));
    let finished = std::fs::read_to_string(&file).unwrap();
    assert!(
        finished.contains(&"a".repeat(64)) && finished.lines().count() == old.lines().count(),
        "{finished}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_key_an_app_says_which_is_missing_and_all_others_run() {
    let mut platform = greeting(FIRST, Start::default()).await;
    platform.deploy("hello-plain", "plain", &[]).await;
    platform.terminate().await;
    let file = platform.data().join("secret.key");
    let right = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "b".repeat(64)).unwrap();

    platform.start_again().await;
    platform.serves("plain").await;
    let why = eventually(SHORT, "the app says why it does not run", || async {
        let text = platform.wharf(&["why", "hello"]).await.ok();
        text.contains("was sealed with the key").then_some(text)
    })
    .await;
    assert!(why.contains("`greeting` (version 1)") && why.contains("WHARF_SECRET_KEY_FILE"), "{why}");
    assert!(platform.log().contains("does not hold"), "{}", platform.log());
    platform.wharf(&["secret", "rotate-key"]).await.fails(7, &["`greeting`", "was sealed with the key"]);
    // A deploy is told at once, rather than when its rollout has waited in vain.
    platform
        .deploy_manifest("hello-plain", MANIFEST)
        .await
        .fails(1, &["`greeting`", "was sealed with the key"]);

    // Nor does a file that is gone keep the platform from starting; what it cannot seal it refuses.
    platform.terminate().await;
    std::fs::remove_file(&file).unwrap();
    platform.start_again().await;
    platform.serves("plain").await;
    set(&platform, "other", SECOND).await.fails(1, &["has no key for secrets", "secret.key"]);

    platform.terminate().await;
    std::fs::write(&file, right).unwrap();
    platform.start_again().await;
    assert_eq!(platform.serves("hello").await, format!("{FIRST}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_environment_are_rotated_by_putting_a_new_one_in_front() {
    let (old, new) = ("1".repeat(64), "2".repeat(64));
    let env = vec![("WHARF_SECRET_KEY".to_owned(), old.clone())];
    let mut platform = greeting(FIRST, Start { env, ..Start::default() }).await;
    assert!(!platform.data().join("secret.key").exists());
    platform.wharf(&["secret", "rotate-key"]).await.fails(7, &["WHARF_SECRET_KEY", "in front"]);

    platform.terminate().await;
    platform.start_mut().env[0].1 = format!("{new},{old}");
    platform.start_again().await;
    assert_eq!(platform.serves("hello").await, format!("{FIRST}\n"));
    let rotated: RotatedKey = platform.wharf(&["secret", "rotate-key", "--json"]).await.json();
    assert_eq!(rotated.resealed, 1);

    platform.terminate().await;
    platform.start_mut().env.clear();
    let file = platform.home().join("elsewhere.key");
    std::fs::write(&file, format!("{new}\n")).unwrap();
    platform.start_mut().flags = vec!["--secret-key-file".to_owned(), file.display().to_string()];
    platform.start_again().await;
    assert_eq!(platform.serves("hello").await, format!("{FIRST}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_stops_the_start_without_being_shown() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let up = ["up", "--data", data.to_str().unwrap(), "--api", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let ran = Wharf::at_home(home.path()).env("WHARF_SECRET_KEY", "not-a-key-at-all").run(&up).await;
    ran.fails(1, &["WHARF_SECRET_KEY", "64 hexadecimal digits"]);
    assert!(!ran.stderr.contains("not-a-key-at-all"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_nobody_uses_can_go_and_one_that_is_not_there_is_named() {
    let platform = Platform::start().await;
    platform.deploy_manifest("hello", MANIFEST).await.fails(3, &["`greeting`", "wharf secret set greeting"]);
    set(&platform, "unused", FIRST).await.ok();
    platform.wharf(&["secret", "rm", "unused"]).await.ok();
    assert!(secrets(&platform).await.is_empty());
    platform.wharf(&["secret", "rm", "unused"]).await.fails(3, &["`unused`"]);
    set(&platform, "unused", SECOND).await.ok();
    assert_eq!(secrets(&platform).await[0].version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_taken_as_it_is_and_what_no_variable_can_hold_is_refused() {
    let platform = Platform::start().await;
    let file = platform.home().join("value");
    let set = ["secret", "set", "greeting", "--from-file", file.to_str().unwrap()];
    std::fs::write(&file, "two\nlines\n").unwrap();
    platform.wharf(&set).await.ok();
    platform.deploy_manifest("hello", MANIFEST).await.ok();
    platform.says("hello", "two\nlines\n\n").await;

    for (value, words) in
        [(&b"\xff\xfe"[..], "UTF-8"), (b"a\0b", "NUL"), (b"", "empty"), (&[b'x'; (64 << 10) + 1], "64 KiB")]
    {
        std::fs::write(&file, value).unwrap();
        platform.wharf(&set).await.fails(6, &[words]);
        let path = "/v1/namespaces/default/secrets/greeting";
        let reply = platform.api(Method::PUT, path, value.to_vec()).await;
        assert!(reply.text().contains(words), "{}", reply.text());
        assert!([400, 413].contains(&reply.status.as_u16()), "{}", reply.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_sees_its_own_secrets_and_a_viewer_sets_none() {
    let platform = Platform::start().await;
    set(&platform, "greeting", FIRST).await.ok();
    platform.wharf(&["namespace", "create", "other"]).await.ok();
    let manifest = MANIFEST.replace("[secrets]", "namespace = \"other\"\n[secrets]");
    platform.deploy_manifest("hello", &manifest).await.fails(3, &["`greeting`", "`other`"]);

    let token = platform.wharf(&["token", "create", "reader", "--role", "viewer"]).await.ok();
    let path = "/v1/namespaces/default/secrets/greeting";
    for (method, path) in [(Method::PUT, path), (Method::DELETE, path), (Method::POST, "/v1/secret-keys")] {
        assert_eq!(platform.api_as(token.trim(), method, path, "x").await.status, 403);
    }
    let list = platform.api_as(token.trim(), Method::GET, "/v1/namespaces/default/secrets", "").await;
    assert_eq!(list.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_is_given_to_guests_like_a_secret_and_can_be_read() {
    let platform = Platform::start().await;
    platform.wharf(&["config", "set", "greeting", "good morning"]).await.ok();
    let manifest = "app = \"hello\"\n[configs]\nGREETING = \"greeting\"\n";
    platform.deploy_manifest("hello", manifest).await.ok();
    platform.says("hello", "good morning\n").await;
    platform.user().run_with_input(&["config", "set", "greeting"], "good evening\n").await.ok();
    platform.says("hello", "good evening\n").await;
    assert_eq!(platform.wharf(&["config", "show", "greeting"]).await.ok(), "good evening\n");
    assert_eq!(
        platform.wharf(&["config", "show", "greeting", "--version", "1"]).await.ok(),
        "good morning\n"
    );
    platform.wharf(&["rollback", "hello"]).await.ok();
    platform.says("hello", "good morning\n").await;
    let listed = platform.wharf(&["config", "ls"]).await.ok();
    assert!(listed.contains("greeting") && listed.contains("hello"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_to_a_registry_is_a_secret_whose_user_is_shown_and_whose_password_is_not() {
    let platform = Platform::start().await;
    let login = async |registry: &str, more: &[&str]| {
        let args =
            [&["registry", "login", registry, "--username", "alice", "--password-stdin"][..], more].concat();
        platform.user().run_with_input(&args, &format!("{FIRST}\n")).await
    };
    let said = login("ghcr.io", &[]).await.ok();
    assert!(said.contains("secret ghcr-io in default is at version 1"), "{said}");
    let listed = platform.wharf(&["registry", "ls"]).await.ok();
    for word in ["ghcr.io", "alice", "ghcr-io"] {
        assert!(listed.contains(word), "{listed}");
    }
    let listed = platform.wharf(&["registry", "ls", "--json"]).await.json::<Value>();
    assert_eq!(listed["items"][0]["username"], "alice");
    assert_eq!(listed["items"][0]["value"]["version"], 1);
    assert!(!listed.to_string().contains(FIRST), "{listed}");
    // The same again is the same, and the secret is one as any other, of `USER:PASSWORD`.
    assert!(login("GHCR.io", &[]).await.ok().contains("version 1"));
    set(&platform, "ghcr-io", &format!("alice:{FIRST}")).await.ok();
    assert_eq!(secrets(&platform).await[0].version, 1);

    // What was set before is left alone until somebody says that it is the one.
    set(&platform, "quay-io", "alice:old").await.ok();
    login("quay.io", &[]).await.fails(7, &["there is a secret `quay-io`", "--secret quay-io"]);
    login("quay.io", &["--secret", "quay-io"]).await.ok();
    assert_eq!(
        platform.wharf(&["registry", "ls", "--json"]).await.json::<Value>()["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    platform.wharf(&["registry", "logout", "ghcr.io"]).await.ok();
    platform.wharf(&["registry", "logout", "ghcr.io"]).await.fails(3, &["no login to ghcr.io"]);
    let left = secrets(&platform).await;
    assert_eq!(left.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), ["quay-io"]);
    login("https://ghcr.io", &[]).await.fails(2, &["as image names begin"]);
    let nothing =
        platform.user().run_with_input(&["registry", "login", "ghcr.io", "--username", "alice"], "").await;
    nothing.fails(2, &["--password-stdin"]);
}
