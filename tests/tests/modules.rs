//! Core modules of WASI 0.1 on a platform: what they get, what bounds them, and which of them are refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wharf_tests::{Platform, Ran, SHORT, Siege, eventually};

/// Deploys a module that is WebAssembly text.
async fn deploy(platform: &Platform, module: &str, manifest: &str) -> Ran {
    platform.deploy_bytes(&wat::parse_str(module).unwrap(), manifest).await
}

async fn logs(platform: &Platform, app: &str, text: &str) {
    eventually(SHORT, text, || async {
        platform.wharf(&["logs", app]).await.ok().contains(text).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_in_c_gets_its_arguments_and_its_exit_code_is_told() {
    let platform = Platform::start().await;
    let manifest = "app = \"args\"\nargs = [\"one\", \"two\"]\n[restart]\ncondition = \"never\"\n";
    platform.deploy_manifest("c-command", manifest).await.ok();
    logs(&platform, "args", "argument 2: two").await;

    let manifest = "app = \"fails\"\n[env]\nEXIT_CODE = \"200\"\n";
    platform.deploy_manifest("c-command", manifest).await.fails(5, &["exit code 200"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_again_and_again_is_crash_looping() {
    let platform = Platform::start().await;
    let manifest = "app = \"ends\"\n[update]\nmonitor = \"100ms\"\n";
    deploy(&platform, WAITS_AND_FAILS, manifest).await.ok();
    platform.app_is("ends", "crash-looping", |info| info.condition.as_str() == "crash-looping").await;
    let why = platform.wharf(&["why", "ends"]).await.ok();
    assert!(why.contains("exit code 9"), "{why}");
}

/// Sleeps for two seconds with `poll_oneoff`, then ends with code 9.
const WAITS_AND_FAILS: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 2000000000))
        (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
        (call $exit (i32.const 9))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_module_reads_the_files_that_it_is_shipped_with_and_cannot_change_them() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let manifest =
        "app = \"reads\"\n[files]\npath = \"public\"\nmount = \"/data\"\n[restart]\ncondition = \"never\"\n";
    std::fs::create_dir(folder.path().join("public")).unwrap();
    std::fs::write(folder.path().join("public/note"), "a note from a file\n").unwrap();
    std::fs::write(folder.path().join("wharf.toml"), manifest).unwrap();
    std::fs::write(folder.path().join("reads.wasm"), wat::parse_str(READS_NOTE).unwrap()).unwrap();
    platform.user().in_folder(folder.path()).run(&["deploy", "reads.wasm"]).await.ok();
    logs(&platform, "reads", "a note from a file").await;
    platform.app_is("reads", "stopped", |info| info.condition.as_str() == "stopped").await;
    let why = platform.wharf(&["why", "reads"]).await.ok();
    assert!(why.contains("ended with success"), "{why}");
}

/// Prints the file `note` of its first folder. Ends with an error if it cannot, or if it can open the file to write.
const READS_NOTE: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "note")
    (func $must (param $errno i32)
        (if (local.get $errno) (then (call $exit (local.get $errno)))))
    (func (export "_start")
        (if (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0)
                (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
            (then (call $exit (i32.const 99))))
        (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0)
            (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
        (i32.store (i32.const 32) (i32.const 256))
        (i32.store (i32.const 36) (i32.const 100))
        (call $must (call $read (i32.load (i32.const 16)) (i32.const 32) (i32.const 1) (i32.const 36)))
        (call $must (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 40)))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_told_with_its_reason() {
    let platform = Platform::start().await;
    let divides = r#"(module (func (export "_start") (drop (i32.div_u (i32.const 1) (i32.const 0)))))"#;
    deploy(&platform, divides, "app = \"traps\"\n").await.fails(5, &["integer divide by zero"]);
    let recurses = r#"(module (func $deeper (export "_start") (call $deeper)))"#;
    deploy(&platform, recurses, "app = \"deep\"\n").await.fails(5, &["call stack exhausted"]);
    let blind = r#"(module
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (func (export "_start") (drop (call $random (i32.const 0) (i32.const 8)))))"#;
    deploy(&platform, blind, "app = \"blind\"\n").await.fails(5, &["missing required memory export"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn memories_and_tables_of_a_module_share_the_limit() {
    let platform = Platform::start().await;
    let manifest = |app: &str| format!("app = \"{app}\"\n[limits]\nmemory = \"4MiB\"\n");
    for (app, grows) in [
        ("memory", "(i32.ne (memory.grow (i32.const 1)) (i32.const -1))"),
        ("table", "(i32.ne (table.grow (ref.null func) (i32.const 9000)) (i32.const -1))"),
    ] {
        let module = format!(
            r#"(module (memory (export "memory") 60) (table 0 funcref)
                (func (export "_start") (loop $more (br_if $more {grows})) unreachable))"#
        );
        let told = "it asked for more memory than `limits.memory`, 4MiB";
        deploy(&platform, &module, &manifest(app)).await.fails(5, &[told]);
    }
    let large = r#"(module (memory 100) (func (export "_start")))"#;
    deploy(&platform, large, &manifest("large")).await.fails(5, &["`limits.memory`, 4MiB; raise the limit"]);
    // More than fits into any pool, in pages of 32 and of 64 bits.
    let four_gib = r#"(module (memory 65536) (func (export "_start")))"#;
    deploy(&platform, four_gib, "app = \"four\"\n").await.fails(5, &["begins with 4GiB"]);
    let huge = r#"(module (memory i64 0x1000000000) (func (export "_start")))"#;
    deploy(&platform, huge, "app = \"huge\"\n").await.fails(5, &["does not fit into any place of the pool"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_of_a_module_count_as_its_memory() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("public")).unwrap();
    std::fs::write(folder.path().join("public/note"), "x").unwrap();
    let manifest = "app = \"opens\"\n[files]\npath = \"public\"\n[limits]\nmemory = \"16MiB\"\n";
    std::fs::write(folder.path().join("wharf.toml"), manifest).unwrap();
    std::fs::write(folder.path().join("opens.wasm"), wat::parse_str(OPENS_FOR_EVER).unwrap()).unwrap();
    // It may be a moment until it has opened too many.
    platform.user().in_folder(folder.path()).run(&["deploy", "opens.wasm"]).await;
    eventually(SHORT, "it ends with the reason", || async {
        let events = platform.wharf(&["events", "opens"]).await.ok();
        (events.contains("open handles, which count 64 KiB each")
            && events.contains("`limits.memory`, 16MiB"))
        .then_some(())
    })
    .await;
}

/// Opens the file `note` of its first folder again and again.
const OPENS_FOR_EVER: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "note")
    (func (export "_start")
        (loop $again
            (drop (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0)
                (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
            (br $again))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn one_that_computes_for_ever_is_in_nobodys_way_and_its_time_is_counted() {
    let siege = Siege::begin().await;
    let endless = r#"(module (func (export "_start") (loop $l (br $l))))"#;
    deploy(&siege.platform, endless, "app = \"bad\"\n").await.ok();
    eventually(SHORT, "a second of its CPU time is counted", || async {
        let page = siege.platform.api(http::Method::GET, "/metrics", "").await.text();
        let line = page.lines().find(|line| {
            line.contains("cpu_seconds_total") && line.contains("app=\"bad\"") && !line.starts_with('#')
        })?;
        let seconds: f64 = line.rsplit(' ').next()?.parse().ok()?;
        (seconds > 1.0).then_some(())
    })
    .await;
    siege.platform.wharf(&["delete", "bad", "--yes"]).await.ok();
    siege.end(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_wasi_0_1_does_not_have_is_refused_at_deploy() {
    let platform = Platform::start().await;
    let program = r#"(module (func (export "_start")))"#;
    let listens = deploy(&platform, program, "app = \"a\"\n[tcp]\nports = [7000]\n").await;
    listens.fails(6, &["tcp.ports", "a module of WASI 0.1 cannot listen"]);
    let granted =
        deploy(&platform, program, "app = \"a\"\n[outbound]\nallow = [\"tcp://10.0.0.1:1\"]\n").await;
    granted.fails(6, &["outbound.allow", "a module of WASI 0.1 reaches no address"]);
    let library = deploy(&platform, r#"(module (func (export "add")))"#, "app = \"a\"\n").await;
    library.fails(6, &["exports no function `_start`", "wharf componentize"]);
    let light = r#"(module (import "env" "light" (func)) (func (export "_start")))"#;
    deploy(&platform, light, "app = \"a\"\n").await.fails(6, &["imports `env.light`"]);
    let socket = r#"(module (import "wasi_snapshot_preview1" "sock_open" (func)) (func (export "_start")))"#;
    deploy(&platform, socket, "app = \"a\"\n").await.fails(6, &["`wasi_snapshot_preview1.sock_open`"]);
    assert_eq!(platform.wharf(&["status", "a"]).await.code, 3, "an app was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_answer_that_they_are_none_and_nobodys_log_fills() {
    let platform = Platform::start().await;
    let module = r#"(module
        (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (local $left i32)
            (local.set $left (i32.const 1000))
            (loop $again
                (drop (call $shutdown (i32.const 1) (i32.const 1)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br_if $again (local.get $left)))
            (call $exit (call $shutdown (i32.const 1) (i32.const 1)))))"#;
    // 57 is `notsock`.
    deploy(&platform, module, "app = \"sockets\"\n").await.fails(5, &["exit code 57"]);
    assert!(!platform.log().contains("sock_shutdown"), "{}", platform.log());
}
