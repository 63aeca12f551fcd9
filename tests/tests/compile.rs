//! The process that compiles: its limits, and what it can reach.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Seek as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use wharf_tests::workspace;

const GIB: u64 = 1 << 30;
/// Address space, CPU time, length of the result, niceness.
const LIMITS: [u64; 4] = [8 * GIB, 120, GIB, 10];

/// A child that waits for its artifact and writes to `output`.
fn child(limits: [u64; 4], output: &std::fs::File) -> Child {
    Command::new(workspace::wharf_binary())
        .args(["__compile", "short"])
        .args(limits.map(|limit| limit.to_string()))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(output.try_clone().unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What ended it (an exit code, or a signal), what it said, and the length of what it wrote.
fn compile(limits: [u64; 4], artifact: &[u8]) -> (Result<i32, i32>, String, u64) {
    let mut output = tempfile::tempfile().unwrap();
    let mut child = child(limits, &output);
    // Who is stopped early does not read to the end.
    let _ = child.stdin.take().unwrap().write_all(artifact);
    let ended = child.wait_with_output().unwrap();
    let end = ended.status.code().ok_or_else(|| ended.status.signal().unwrap());
    (end, String::from_utf8(ended.stderr).unwrap(), output.seek(std::io::SeekFrom::End(0)).unwrap())
}

/// One function of nested loops over many locals, which register allocation takes long for.
fn bomb() -> Vec<u8> {
    let mut text = String::from("(component (core module (func (local ");
    text.push_str(&"i64 ".repeat(400));
    text.push_str(")\n");
    for block in 0..20_000 {
        let (a, b, c) = (block % 400, (block * 7 + 3) % 400, (block * 13 + 5) % 400);
        text.push_str(&format!(
            "(loop (local.set {a} (i64.add (local.get {b}) (local.get {c}))) (br_if 0 (i64.eqz (local.get {a}))))\n"
        ));
    }
    text.push_str(")))");
    wat::parse_str(text).unwrap()
}

#[test]
fn a_component_is_compiled_for_the_profile_that_it_needs() {
    for (guest, profile) in [("hello", "short"), ("hello-p3", "concurrent")] {
        let (end, said, length) = compile(LIMITS, &std::fs::read(workspace::guest(guest)).unwrap());
        assert_eq!(end, Ok(0), "{said}");
        assert_eq!(said.split_whitespace().next(), Some(profile));
        assert!(length > 100_000, "{length}");
    }
}

#[test]
fn what_is_no_artifact_is_refused_with_the_reason() {
    let (end, said, length) = compile(LIMITS, b"hello");
    assert_eq!((end, length), (Ok(10), 0));
    assert!(said.contains("does not compile"), "{said}");
}

#[test]
fn each_limit_ends_the_process() {
    let hello = std::fs::read(workspace::guest("hello")).unwrap();
    let [memory, cpu, output, nice] = LIMITS;
    assert_eq!(compile([memory, 1, output, nice], &bomb()).0, Err(libc::SIGXCPU));
    assert_eq!(compile([memory, cpu, 1000, nice], &hello).0, Err(libc::SIGXFSZ));
    assert_eq!(compile([1400 << 20, cpu, output, nice], &bomb()).0, Err(libc::SIGABRT));
}

#[test]
fn it_gives_up_its_rights_before_it_reads() {
    let output = tempfile::tempfile().unwrap();
    let mut child = child(LIMITS, &output);
    let proc = format!("/proc/{}", child.id());
    let status = || std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let start = Instant::now();
    while !status().contains("NoNewPrivs:\t1") {
        assert!(start.elapsed() < Duration::from_secs(20), "{}", status());
        std::thread::sleep(Duration::from_millis(2));
    }
    let niceness = std::fs::read_to_string(format!("{proc}/stat")).unwrap();
    let fields = niceness.rsplit(')').next().unwrap();
    assert_eq!(fields.split_whitespace().nth(16), Some("10"));
    drop(child.stdin.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(10), "{}", String::from_utf8_lossy(&ended.stderr));
}
