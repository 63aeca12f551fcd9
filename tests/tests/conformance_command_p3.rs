//! The corners of a command of WASI 0.3, where it has its own interfaces for them; `conformance_command.rs` has those of 0.2.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{SystemTime, UNIX_EPOCH};

use wharf_tests::conformance::{Command, echo_server, folder_to_explore};
use wharf_tests::{Wharf, workspace};

const GUEST: Command = Command("conformance-command-p3");

#[tokio::test]
async fn the_exit_code_is_the_guests_whichever_way_it_ends() {
    for (args, code) in [
        (["exit", "ok"], 0),
        (["exit", "err"], 1),
        (["return", "err"], 1),
        (["exit", "0"], 0),
        (["exit", "2"], 2),
        (["exit", "255"], 255),
    ] {
        let ran = GUEST.run(&[], &args).await;
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn arguments_and_variables_arrive_as_they_are() {
    let told = ["argument: \"\"", "argument: \"ü\\n\"", "variable EMPTY: \"\"", "working folder: None"];
    GUEST.tells(&["--env", "EMPTY="], &["world", "", "ü\n"], &told).await;
}

#[tokio::test]
async fn stdin_ends_well_however_long_it_is() {
    let home = tempfile::tempdir().unwrap();
    let guest = workspace::guest(GUEST.0);
    for length in [0, 1, 3 << 20] {
        let args = ["run", guest.to_str().unwrap(), "--", "stdin"];
        let told = Wharf::at_home(home.path()).run_with_input(&args, &"x".repeat(length)).await.ok();
        assert_eq!(told, format!("octets: {length}\nend: ()\n"));
    }
}

#[tokio::test]
async fn there_is_no_terminal_where_there_is_none() {
    GUEST.tells(&[], &["terminals"], &["stdin: false", "stdout: false"]).await;
}

#[tokio::test]
async fn clocks_run_forward_and_show_the_hosts_time() {
    let ran = GUEST.run(&[], &["clocks"]).await;
    for line in
        ["went back: false", "resolutions: (true, true)", "waited: true", "nanoseconds in bounds: true"]
    {
        assert!(ran.stdout.contains(line), "`{line}` is not told: {}", ran.stdout);
    }
    let told: u64 =
        ran.stdout.lines().find_map(|line| line.strip_prefix("seconds: ")).unwrap().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(told) < 60, "{told} is not {now}");
}

#[tokio::test]
async fn random_octets_are_never_the_same() {
    let told = ["none: (0, 0)", "many: true", "secure differs: true", "insecure differs: true"];
    GUEST.tells(&[], &["random"], &told).await;
}

#[tokio::test]
async fn a_folder_is_read_and_written_and_not_left() {
    let home = folder_to_explore();
    let dir = format!("{}::/data", home.path().join("given").display());
    let told = [
        "folders: [\"/data\"]",
        "missing: ErrorCode::NoEntry",
        "a file as a folder: ErrorCode::NotDirectory",
        "unlink missing: ErrorCode::NoEntry",
        "read: \"ello\"",
        "read to its end: ()",
        "size: 5",
        "same hash: true",
        "entries: [\"file\", \"in\", \"out\", \"sub\"]",
        "entries to their end: ()",
        "open ..: ErrorCode::NotPermitted",
        "open ../secret: ErrorCode::NotPermitted",
        "open sub/../../secret: ErrorCode::NotPermitted",
        "open /etc/passwd: ErrorCode::NotPermitted",
        "open out: ErrorCode::NotPermitted",
        "rename out: ErrorCode::NotPermitted",
        "create: ()",
        "create again: ErrorCode::Exist",
        "write: ()",
        "append: ()",
        "written: \"\\\\x00\\\\x00abc+end\"",
        "shrink: ()",
        "shrunk: 3",
        "unlink: ()",
    ];
    GUEST.tells(&["--dir", &dir], &["files"], &told).await;
    assert_eq!(std::fs::read(home.path().join("given/file")).unwrap(), b"hello");
    assert!(!home.path().join("stolen").exists());
    GUEST.tells(&[], &["files"], &["folders: []"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_reach_what_is_granted_and_nothing_else() {
    let port = echo_server().await.to_string();
    let (tcp, udp) = (format!("tcp://127.0.0.1:{port}"), format!("udp://127.0.0.1:{port}"));
    let granted = [
        "tcp: \"hello\"",
        "tcp to another: ErrorCode::AccessDenied",
        "tcp to nowhere: ErrorCode::InvalidArgument",
        "listen: ErrorCode::AccessDenied",
        "udp: \"ping\"",
        "udp to another: ErrorCode::AccessDenied",
        "name: ErrorCode::InvalidArgument",
    ];
    GUEST.tells(&["--net", &tcp, "--net", &udp], &["sockets", &port], &granted).await;
    let denied =
        ["tcp: ErrorCode::AccessDenied", "listen: ErrorCode::AccessDenied", "udp: ErrorCode::AccessDenied"];
    GUEST.tells(&[], &["sockets", &port], &denied).await;
}
