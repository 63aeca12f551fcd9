//! `wharf run --profile`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use wharf_tests::{Wharf, workspace};

/// All strings of a profile: the names of functions are among them, wherever the format keeps them.
fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| strings(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}

/// A core module that computes for some tenths of a second in a function that has a name.
const MODULE: &str = r#"(module
    (func $count_down (param $left i64)
      (loop $again
        (local.set $left (i64.sub (local.get $left) (i64.const 1)))
        (br_if $again (i64.ne (local.get $left) (i64.const 0)))))
    (func (export "_start") (call $count_down (i64.const 300000000)))
    (func (export "run") (result i32) (call $count_down (i64.const 300000000)) (i32.const 0)))"#;

/// The same as a component.
fn component() -> String {
    format!(
        r#"(component
            (core module $code {})
            (core instance $made (instantiate $code))
            (func $run (result (result)) (canon lift (core func $made "run")))
            (instance $cli (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
        MODULE.strip_prefix("(module").unwrap().strip_suffix(')').unwrap()
    )
}

#[tokio::test]
async fn a_profile_names_the_functions_in_which_a_command_computes() {
    let home = tempfile::tempdir().unwrap();
    let wharf = Wharf::at_home(home.path());
    for text in [MODULE, &component()] {
        let (guest, file) = (home.path().join("computes.wasm"), home.path().join("computes.json"));
        std::fs::write(&guest, wat::parse_str(text).unwrap()).unwrap();
        let ran = wharf.run(&["run", "--profile", file.to_str().unwrap(), guest.to_str().unwrap()]).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains("computes.json"), "{}", ran.stderr);
        let profile: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let samples = profile["threads"][0]["samples"]["length"].as_u64().unwrap();
        assert!(samples > 10, "{samples}");
        let mut names = Vec::new();
        strings(&profile, &mut names);
        assert!(names.iter().any(|name| name == "count_down"), "{names:?}");
    }
}

#[tokio::test]
async fn a_profile_that_cannot_be_written_stops_the_guest_before_it_runs() {
    let home = tempfile::tempdir().unwrap();
    let wharf = Wharf::at_home(home.path());
    let guest = workspace::guest("c-command");
    let ran = wharf.run(&["run", "--profile", "/nowhere/p.json", guest.to_str().unwrap(), "--", "x"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (6, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("/nowhere/p.json"), "{}", ran.stderr);
}
