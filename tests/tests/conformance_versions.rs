//! Versions of WASI that this host does not know by name: later patches link and run, other ones are refused when they are pushed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wharf_tests::{HttpGuest, Platform, Wharf, command_p3};

/// The same component for another version of all its interfaces, which must be written as long.
fn for_version(mut component: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let (from, to) = (format!("@{from}"), format!("@{to}"));
    let mut at = 0;
    let mut found = 0;
    while let Some(next) = component[at..].windows(from.len()).position(|octets| octets == from.as_bytes()) {
        at += next;
        component[at..at + to.len()].copy_from_slice(to.as_bytes());
        found += 1;
    }
    assert!(found > 0, "no interface has the version {from}");
    component
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_app_of_a_later_patch_serves() {
    let platform = Platform::start().await;
    for version in ["0.2.12", "0.2.99"] {
        let guest = for_version(HttpGuest::default().component(), "0.2.10", version);
        platform.deploy_bytes(&guest, "app = \"later\"\n").await.ok();
        assert_eq!(platform.get("later", "/").await.unwrap().status, 200, "{version}");
    }
}

#[tokio::test]
async fn a_command_of_a_later_patch_runs() {
    let home = tempfile::tempdir().unwrap();
    let guest = home.path().join("later.wasm");
    for version in ["0.3.2", "0.3.9"] {
        std::fs::write(&guest, for_version(command_p3("", ""), "0.3.0", version)).unwrap();
        let ran = Wharf::at_home(home.path()).run(&["run", guest.to_str().unwrap()]).await;
        assert_eq!(ran.code, 0, "{version}: {}", ran.stderr);
    }
    for version in ["0.2.12", "0.2.99"] {
        let text = PRINTS.replace("VERSION", version);
        std::fs::write(&guest, wat::parse_str(text).unwrap()).unwrap();
        let ran = Wharf::at_home(home.path()).run(&["run", guest.to_str().unwrap()]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "hello\n"), "{version}: {}", ran.stderr);
    }
}

/// Prints `hello`.
const PRINTS: &str = r#"(component
  (import "wasi:io/error@VERSION" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/streams@VERSION" (instance $streams
    (alias outer 1 $error-type (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (export "output-stream" (type $out (sub resource)))
    (type $failed (own $error))
    (type $why (variant (case "last-operation-failed" $failed) (case "closed")))
    (export "stream-error" (type $stream-error (eq $why)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $out))
  (import "wasi:cli/stdout@VERSION" (instance $stdout
    (alias outer 1 $out (type $outer-out))
    (export "output-stream" (type $stream (eq $outer-out)))
    (export "get-stdout" (func (result (own $stream))))))
  (core module $memory (memory (export "memory") 1) (data (i32.const 16) "hello\n"))
  (core instance $memory (instantiate $memory))
  (core func $get (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $memory "memory"))))
  (core module $code
    (import "host" "get" (func $get (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (func (export "run") (result i32)
      (call $write (call $get) (i32.const 16) (i32.const 6) (i32.const 0))
      (i32.const 0)))
  (core instance $made (instantiate $code
    (with "host" (instance (export "get" (func $get)) (export "write" (func $write))))))
  (func $run (result (result)) (canon lift (core func $made "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@VERSION" (instance $cli)))"#;

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_refused_when_it_is_pushed() {
    let platform = Platform::start().await;
    let http = for_version(HttpGuest::default().component(), "0.2.10", "0.4.10");
    let refused = platform.deploy_bytes(&http, "app = \"future\"\n").await;
    refused.fails(6, &["wasi:http/types@0.4.10", "0.2", "0.3"]);
    let command = for_version(command_p3("", ""), "0.3.0", "0.4.0");
    let refused = platform.deploy_bytes(&command, "app = \"future\"\n").await;
    refused.fails(6, &["wasi:cli/run@0.4.0"]);
    assert_eq!(platform.wharf(&["status", "future"]).await.code, 3, "an app was left behind");
}
