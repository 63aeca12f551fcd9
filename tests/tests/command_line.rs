//! The command line itself: what is not understood is said in every form that was promised, and nothing panics.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use wharf_tests::{Platform, Ran, Ready, SHORT, Wharf, within};

fn user() -> (TempDir, Wharf) {
    let home = tempfile::tempdir().unwrap();
    let wharf = Wharf::at_home(home.path());
    (home, wharf)
}

#[tokio::test]
async fn an_argument_that_is_not_utf_8_is_an_error_and_no_panic() {
    let (_home, wharf) = user();
    for words in [&["status"][..], &["deploy"]] {
        let mut command = wharf.command(words);
        command.arg(OsStr::from_bytes(b"\xff")).stdin(Stdio::null());
        let output = within(SHORT, "the end", command.output()).await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.starts_with("error: "), "{stderr}");
        assert!(matches!(output.status.code(), Some(2 | 3)), "{:?}: {stderr}", output.status);
    }
}

#[tokio::test]
async fn a_bad_command_line_is_told_as_json_too() {
    let (_home, wharf) = user();
    let ran = wharf.run(&["status", "--nonsense", "--json"]).await;
    ran.fails(2, &["--nonsense"]);
    let report: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&report["code"], &report["exit"]), (&"usage".into(), &2.into()));
    assert_eq!(wharf.run(&["--help"]).await.code, 0);
    assert_eq!(wharf.run(&["--version"]).await.code, 0);
}

#[tokio::test]
async fn flags_before_up_are_honoured_or_refused() {
    let (home, wharf) = user();
    wharf.run(&["--api", "127.0.0.1:0", "up"]).await.fails(2, &["--api before `up`"]);
    wharf.run(&["--app", "hello", "run", "x.wasm"]).await.fails(2, &["--app before `run`"]);

    let (_child, ready) = second_platform(&wharf, home.path()).await;
    assert!(ready.api.starts_with("http://127.0.0.1:"), "{}", ready.api);
}

/// `wharf --json up` in a folder of its own below `home`, when it is ready.
async fn second_platform(wharf: &Wharf, home: &Path) -> (Child, Ready) {
    let data = home.join("second");
    let args =
        ["--json", "up", "--data", data.to_str().unwrap(), "--api", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let mut command = wharf.command(&args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(SHORT, "the first line", lines.next_line()).await.unwrap().unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_platforms_of_one_user_do_not_take_each_others_clients() {
    let mut first = Platform::start().await;
    let wharf = first.user();
    let (mut child, second) = second_platform(&wharf, first.home()).await;
    let shown = |ran: Ran| ran.json::<Value>()["api"].as_str().unwrap().to_owned();
    assert_eq!(shown(wharf.run(&["context", "show", "--json"]).await), first.ready.api);
    assert_eq!(shown(wharf.run(&["context", "show", "--json", "--api", &second.api]).await), second.api);

    first.terminate().await;
    assert_eq!(shown(wharf.run(&["context", "show", "--json"]).await), second.api);
    first.start_again().await;
    assert_eq!(shown(wharf.run(&["context", "show", "--json"]).await), second.api);
    // Killed, it cannot take its file away: who starts next does.
    child.kill().await.unwrap();
    first.terminate().await;
    first.start_again().await;
    assert_eq!(shown(wharf.run(&["context", "show", "--json"]).await), first.ready.api);
}
