//! `wharf run`: one component or module here, without a platform.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use wharf_tests::{Client, SHORT, Wharf, within, workspace};

fn user() -> (TempDir, Wharf) {
    let home = tempfile::tempdir().unwrap();
    let wharf = Wharf::at_home(home.path());
    (home, wharf)
}

fn guest(name: &str) -> String {
    workspace::guest(name).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_c_command_gets_its_arguments() {
    let (_home, wharf) = user();
    let ran = wharf.run(&["run", &guest("c-command"), "--", "one", "--two"]).await;
    assert_eq!(ran.clone().ok(), "argument 1: one\nargument 2: --two\n", "{}", ran.stderr);
}

#[tokio::test]
async fn a_command_of_wasi_0_1_ends_with_its_own_code() {
    let (_home, wharf) = user();
    for code in [0, 1, 3, 42, 125, 126, 200, 255] {
        let set = format!("EXIT_CODE={code}");
        let ran = wharf.run(&["run", &guest("c-command"), "--env", &set, "--", "x"]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (code, "argument 1: x\n"), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn a_commands_exit_code_is_ours() {
    let (home, wharf) = user();
    let component = home.path().join("seven.wasm");
    std::fs::write(&component, wat::parse_str(ENDS_WITH_7).unwrap()).unwrap();
    let ran = wharf.run(&["run", component.to_str().unwrap()]).await;
    assert_eq!(ran.code, 7, "{}", ran.stderr);
}

const ENDS_WITH_7: &str = r#"(component
  (import "wasi:cli/exit@0.2.12" (instance $exit
    (export "exit-with-code" (func (param "status-code" u8)))))
  (core func $end (canon lower (func $exit "exit-with-code")))
  (core module $code
    (import "host" "end" (func $end (param i32)))
    (func (export "run") (result i32) (call $end (i32.const 7)) unreachable))
  (core instance $made (instantiate $code (with "host" (instance (export "end" (func $end))))))
  (func $run (result (result)) (canon lift (core func $made "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.12" (instance $cli)))"#;

#[tokio::test]
async fn a_command_reads_stdin_and_writes_stdout() {
    let (_home, wharf) = user();
    let text = "to be\nor not to be\n".repeat(10_000);
    assert_eq!(wharf.run_with_input(&["run", &guest("c-command")], &text).await.ok(), text);
    let counted = wharf.run_with_input(&["run", &guest("go-command")], "to be\nor not\n").await.ok();
    assert_eq!(counted, "2 lines, 4 words, 13 bytes\n");
}

#[tokio::test]
async fn a_go_program_reads_a_mebibyte_and_counts_right() {
    let (_home, wharf) = user();
    let line = "to be or not to be, that is the question: whether 'tis nobler i\n";
    let text = line.repeat((1 << 20) / line.len());
    assert_eq!(text.len(), 1 << 20);
    let counted = wharf.run_with_input(&["run", &guest("go-command")], &text).await.ok();
    assert_eq!(counted, "16384 lines, 229376 words, 1048576 bytes\n");
}

#[tokio::test]
async fn a_command_sees_the_folders_that_it_is_given_and_no_other() {
    let (home, wharf) = user();
    std::fs::create_dir(home.path().join("given")).unwrap();
    std::fs::write(home.path().join("given/note"), "x").unwrap();
    // Opens the file `note` below its first folder, and fails when it cannot.
    let module = home.path().join("open.wasm");
    std::fs::write(&module, wat::parse_str(OPENS_NOTE).unwrap()).unwrap();
    let module = module.to_str().unwrap();
    assert_eq!(wharf.run(&["run", module, "--dir", "given::/data"]).await.code, 0);
    // The module ends with the error of WASI 0.1: `badf` for a folder that it was not given, `noent` for a missing file.
    assert_eq!(wharf.run(&["run", module]).await.code, 8);
    std::fs::remove_file(home.path().join("given/note")).unwrap();
    assert_eq!(wharf.run(&["run", module, "--dir", "given::/data"]).await.code, 44);
}

const OPENS_NOTE: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "note")
  (func (export "_start")
    (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))))"#;

#[tokio::test]
async fn an_http_component_is_served_until_sigint() {
    let (_home, wharf) = user();
    let hello = guest("hello");
    let mut command = wharf.command(&["run", &hello, "--addr", "127.0.0.1:0", "--env", "GREETING=run"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = within(SHORT, "the first line", lines.next_line()).await.unwrap().unwrap();
    assert!(first.starts_with("http://127.0.0.1:"), "{first}");

    let reply = Client::new(&first).get("anything.test", "/").await.unwrap();
    assert_eq!(reply.text(), "run\n");
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGINT).unwrap();
    let status = within(SHORT, "the end", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_file_that_is_not_there_or_not_wasm_has_its_exit_code() {
    let (home, wharf) = user();
    wharf.run(&["run", "nothing.wasm"]).await.fails(3, &["nothing.wasm"]);
    std::fs::write(home.path().join("text.wasm"), "hello").unwrap();
    wharf.run(&["run", "text.wasm"]).await.fails(6, &["text.wasm is not WebAssembly"]);
    std::fs::write(home.path().join("lights.wasm"), wat::parse_str(IMPORTS_LIGHTS).unwrap()).unwrap();
    wharf.run(&["run", "lights.wasm"]).await.fails(6, &["lights.wasm", "acme:lights/switch@1.0.0"]);
    for (module, words) in [
        ("(module)", "exports no function `_start`"),
        (r#"(module (import "env" "light" (func)) (func (export "_start")))"#, "imports `light` from `env`"),
    ] {
        std::fs::write(home.path().join("module.wasm"), wat::parse_str(module).unwrap()).unwrap();
        wharf.run(&["run", "module.wasm"]).await.fails(6, &["module.wasm", words]);
    }
}

const IMPORTS_LIGHTS: &str = r#"(component
  (import "acme:lights/switch@1.0.0" (instance (export "on" (func)))))"#;

#[tokio::test]
async fn flags_that_are_not_understood_or_mean_nothing_are_refused() {
    let (_home, wharf) = user();
    let (command, http) = (guest("c-command"), guest("hello"));
    wharf.run(&["run", &command, "--env", "GREETING"]).await.fails(2, &["write NAME=VALUE"]);
    wharf.run(&["run", &command, "--dir", "data"]).await.fails(2, &["write HOST::GUEST"]);
    wharf.run(&["run", &command, "--addr", "127.0.0.1:0"]).await.fails(2, &["is a command", "--addr"]);
    let net = ["run", &command, "--net", "https://api.example.com"];
    wharf.run(&net).await.fails(2, &["is a core module of WASI 0.1", "--net"]);
    wharf.run(&["run", &http, "--dir", ".::/data"]).await.fails(2, &["is an HTTP app", "--dir"]);
}

#[tokio::test]
async fn the_first_line_is_the_address_even_when_the_guest_cannot_start() {
    let (home, wharf) = user();
    std::fs::write(home.path().join("traps.wasm"), wat::parse_str(TRAPS_AT_START).unwrap()).unwrap();
    let ran = wharf.run(&["run", "traps.wasm"]).await;
    assert!(ran.stderr.starts_with("http://127.0.0.1:"), "{}", ran.stderr);
    ran.fails(1, &["traps.wasm", "unreachable"]);
}

const TRAPS_AT_START: &str = r#"(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $outparam))
  (core module $code
    (func $trap unreachable)
    (func (export "handle") (param i32 i32))
    (start $trap))
  (core instance $made (instantiate $code))
  (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
    (canon lift (core func $made "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#;
