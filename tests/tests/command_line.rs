//! The command line itself: what is not understood is said in every form that was promised, and nothing panics.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use wharf_tests::{Ready, SHORT, Wharf, within};

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

    let data = home.path().join("data");
    let args =
        ["--json", "up", "--data", data.to_str().unwrap(), "--api", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let mut command = wharf.command(&args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(SHORT, "the first line", lines.next_line()).await.unwrap().unwrap();
    let ready: Ready = serde_json::from_str(&line).unwrap();
    assert!(ready.api.starts_with("http://127.0.0.1:"), "{line}");
}
