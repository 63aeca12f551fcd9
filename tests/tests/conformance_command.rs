//! The corners of `wasi:cli`, clocks, random numbers, files and sockets, as a command sees them.
//!
//! The guest `conformance-command` tells what its host answered it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::AsyncReadExt as _;
use wharf_tests::conformance::{Command, echo_server, folder_to_explore};
use wharf_tests::{Platform, Ran, SHORT, Wharf, eventually, within, workspace};

const GUEST: Command = Command("conformance-command");

#[tokio::test]
async fn the_exit_code_is_the_guests_whichever_way_it_ends() {
    for (args, code) in [
        (["exit", "ok"], 0),
        (["exit", "err"], 1),
        (["return", "err"], 1),
        (["exit", "0"], 0),
        (["exit", "2"], 2),
        (["exit", "127"], 127),
        (["exit", "255"], 255),
    ] {
        let ran = GUEST.run(&[], &args).await;
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn arguments_and_variables_arrive_as_they_are() {
    let flags = ["--env", "EMPTY=", "--env", "ODD=ü \"x\"\n=y"];
    let args = ["world", "", "a b", "ü\n\t\"'", "*", "--flag=1", "\u{1f980}"];
    GUEST
        .tells(
            &flags,
            &args,
            &[
                "argument \"\"",
                "argument \"a b\"",
                "argument \"ü\\n\\t\\\"'\"",
                "argument \"*\"",
                "argument \"--flag=1\"",
                "argument \"\u{1f980}\"",
                "variable \"EMPTY\" = \"\"",
                "variable \"ODD\" = \"ü \\\"x\\\"\\n=y\"",
                "working folder: None",
            ],
        )
        .await;
}

#[tokio::test]
async fn stdin_is_read_to_its_end_which_stays_the_end() {
    let home = tempfile::tempdir().unwrap();
    let wharf = Wharf::at_home(home.path());
    let guest = workspace::guest("conformance-command");
    let args = ["run", guest.to_str().unwrap(), "--", "stdin"];
    for length in [0, 1, 3 << 20] {
        let told = wharf.run_with_input(&args, &"x".repeat(length)).await.ok();
        assert_eq!(told, format!("{length} octets\nagain: Some(0)\n"));
    }
    // A shell closes it like this: there is no such file handle at all.
    let closed = ["-c", "exec \"$@\" <&-", "sh"];
    let wrapper: Vec<&str> = ["sh"].iter().chain(&closed).copied().collect();
    let told = wharf.wrapped_in(&wrapper).run(&args).await.ok();
    assert_eq!(told, "0 octets\nagain: Some(0)\n");
}

#[tokio::test]
async fn a_guest_whose_reader_has_gone_is_told_so() {
    let home = tempfile::tempdir().unwrap();
    let guest = workspace::guest("conformance-command");
    let mut command =
        Wharf::at_home(home.path()).command(&["run", guest.to_str().unwrap(), "--", "stdout", "1000000000"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 6];
    within(SHORT, "the first line", stdout.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"line 0");
    drop(stdout);
    assert_eq!(within(SHORT, "the end", child.wait()).await.unwrap().code(), Some(9));
}

#[tokio::test]
async fn there_is_no_terminal_where_there_is_none() {
    GUEST.tells(&[], &["terminals"], &["stdin: false", "stdout: false", "stderr: false"]).await;
}

#[tokio::test]
async fn clocks_run_forward_and_show_the_hosts_time() {
    let ran = GUEST.run(&[], &["clocks"]).await;
    for line in [
        "went back: false",
        "resolutions: true true",
        "waited: true",
        "the past is over: true",
        "nanoseconds in bounds: true",
    ] {
        assert!(ran.stdout.contains(line), "`{line}` is not told: {}", ran.stdout);
    }
    let told: u64 =
        ran.stdout.lines().find_map(|line| line.strip_prefix("seconds: ")).unwrap().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(told) < 60, "{told} is not {now}");
}

#[tokio::test]
async fn random_octets_are_as_many_as_asked_for_and_never_the_same() {
    let seed =
        |ran: &Ran| ran.stdout.lines().find(|line| line.starts_with("seed: ")).map(str::to_owned).unwrap();
    let (one, other) = (GUEST.run(&[], &["random"]).await, GUEST.run(&[], &["random"]).await);
    for line in [
        "0: 0 0",
        "1: 1 1",
        "102400: 102400 102400",
        "secure differs: true",
        "secure number differs: true",
        "insecure number differs: true",
    ] {
        assert!(one.stdout.lines().any(|told| told == line), "`{line}` is not told: {}", one.stdout);
    }
    assert_ne!(seed(&one), seed(&other), "two runs begin with the same seed");
}

/// What reading and leaving the folder are answered with, whether it can be written to or not.
const READS: [&str; 24] = [
    "type: DescriptorType::Directory",
    "missing: no-entry",
    "missing stat: no-entry",
    "a file as a folder: not-directory",
    "empty path: no-entry",
    "size: 5",
    "read: (\"ell\", false)",
    "read to the end: \"hello\"",
    "read beyond: (0, true)",
    "write to what is read: bad-descriptor",
    "same object: true",
    "same hash: true",
    "entries: [\"file DescriptorType::RegularFile\", \"in DescriptorType::SymbolicLink\", \"out DescriptorType::SymbolicLink\", \"sub DescriptorType::Directory\"]",
    "open ..: not-permitted",
    "open ../secret: not-permitted",
    "open sub/../../secret: not-permitted",
    "open /etc/passwd: not-permitted",
    "open out: not-permitted",
    "follow a link inside: ()",
    "not follow it: loop",
    "read the link: \"file\"",
    "absolute link: not-permitted",
    "rename out: not-permitted",
    "unlink missing: no-entry",
];

#[tokio::test]
async fn a_folder_is_read_and_written_and_not_left() {
    let home = folder_to_explore();
    let dir = format!("{}::/data", home.path().join("given").display());
    let writes = [
        "folders: [\"/data\"]",
        "create: ()",
        "create again: exist",
        "write: 6",
        "grown: \"abcdef\\\\x00\\\\x00z\"",
        "shrink: ()",
        "shrunk: 3",
        "append: true",
        "appended: \"abc+end\"",
        "truncate: 0",
        "rename: ()",
        "the old name: no-entry",
        "remove a file as a folder: not-directory",
        "unlink a folder fails: true",
        "make it again: exist",
        "rename into it: ()",
        "remove it full: not-empty",
        "unlink: ()",
        "remove it: ()",
    ];
    GUEST.tells(&["--dir", &dir], &["files"], &[&READS[..], &writes].concat()).await;
    assert_eq!(std::fs::read(home.path().join("given/file")).unwrap(), b"hello");
    assert!(!home.path().join("stolen").exists());
    GUEST.tells(&[], &["files"], &["folders: []"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_shipped_with_an_app_are_read_only() {
    let platform = Platform::start().await;
    let shipped = tempfile::tempdir().unwrap();
    std::fs::create_dir(shipped.path().join("files")).unwrap();
    std::fs::write(shipped.path().join("files/file"), "hello").unwrap();
    let manifest = "app = \"reader\"\nargs = [\"files\"]\n[files]\npath = \"files\"\nmount = \"/data\"\n[restart]\ncondition = \"never\"\n";
    deploy(&platform, shipped.path(), manifest).await;
    eventually(SHORT, "the guest's report", || async {
        let told = platform.wharf(&["logs", "reader"]).await.stdout;
        told.contains("link: ").then_some(told)
    })
    .await;
    let told = platform.wharf(&["logs", "reader"]).await.stdout;
    // The specification says `read-only` for some of these; the engine has one word for all of them.
    for line in [
        "size: 5",
        "create: not-permitted",
        "make a folder: not-permitted",
        "truncate: not-permitted",
        "unlink: not-permitted",
        "rename: not-permitted",
        "link: not-permitted",
    ] {
        assert!(told.contains(line), "`{line}` is not told: {told}");
    }
}

async fn deploy(platform: &Platform, folder: &Path, manifest: &str) {
    std::fs::write(folder.join("wharf.toml"), manifest).unwrap();
    let guest = workspace::guest("conformance-command");
    // Whether a command that ends at once counts as deployed is not asked here.
    platform.user().in_folder(folder).run(&["deploy", guest.to_str().unwrap()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_reach_what_is_granted_and_nothing_else() {
    let port = echo_server().await.to_string();
    let (tcp, udp) = (format!("tcp://127.0.0.1:{port}"), format!("udp://127.0.0.1:{port}"));
    let granted = [
        "tcp: connect again Err(\"invalid-state\"), sent true, shut Ok(()), back \"hello\", closed",
        "tcp to another: access-denied",
        "tcp to nowhere: invalid-argument",
        "tcp to port 0: invalid-argument",
        "listen: access-denied",
        "udp: \"ping\"",
        "udp to another: access-denied",
        "name: invalid-argument",
    ];
    GUEST.tells(&["--net", &tcp, "--net", &udp], &["sockets", &port], &granted).await;
    GUEST.tells(&["--net", &tcp], &["sockets", &port], &["udp: access-denied"]).await;
    GUEST
        .tells(
            &[],
            &["sockets", &port],
            &["tcp: access-denied", "listen: access-denied", "udp: access-denied"],
        )
        .await;
}
