//! Manifests of whole applications, and all that is made and said of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use wharf_compose::yaml::{Budget, Tags, parse};
use wharf_kubernetes::{Source, import};
use wharf_types::declare::document::{AppDocument, NamespaceDocument};

/// Reads the documents as the platform does: an app whose settings are valid, and a container's settings beside it.
fn read(text: &str) {
    for node in parse(&"made.yaml".into(), text, Tags::None, &mut Budget::default()).unwrap() {
        let document = node.to_json();
        if document["kind"] == "namespace" {
            serde_json::from_value::<NamespaceDocument>(document).unwrap();
            continue;
        }
        let app: AppDocument = serde_json::from_value(document).unwrap();
        app.validate().unwrap();
    }
}

/// What is made of a fixture stands beside it. `UPDATE=1 cargo test -p wharf-kubernetes --test golden` writes it.
fn check(name: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let octets = std::fs::read(format!("{folder}/{name}.yaml")).unwrap();
    let made = import(&[Source { name: format!("{name}.yaml"), octets }]);
    read(&made.text);
    let mut text = made.text.clone();
    for finding in &made.findings {
        let level = format!("{:?}", finding.level).to_lowercase();
        let _ = writeln!(text, "=== {level}: {finding}");
    }
    let file = format!("{folder}/{name}.out");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(file).unwrap();
    let differs = expected.lines().zip(text.lines()).find(|(expected, made)| expected != made);
    assert!(expected == text, "{name}: look at what UPDATE=1 changes: {differs:?}");
}

#[test]
fn a_front_end_with_a_store_becomes_two_apps() {
    check("guestbook");
}

#[test]
fn jobs_become_commands() {
    check("jobs");
}

#[test]
fn a_stateful_set_with_one_instance_becomes_a_singleton() {
    check("everything");
}
