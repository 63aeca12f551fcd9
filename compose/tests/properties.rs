//! What holds of any text, and of what is printed of a project.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{loaded, project_of};
use proptest::prelude::*;
use wharf_compose::{Context, Project, translate};

/// Printed, and read again.
fn reloaded(project: &Project) -> Result<Project, String> {
    let path = if project.folder.is_empty() {
        "again.yml".to_owned()
    } else {
        format!("{}/again.yml", project.folder)
    };
    loaded(&[&path], &[(&path, &project.to_yaml())], &["*"], &[])
}

fn check_printing(project: &Project) {
    let again = reloaded(project).unwrap_or_else(|error| panic!("{error}\n{}", project.to_yaml()));
    assert_eq!(again.tree, project.tree, "{}", project.to_yaml());
    assert_eq!(again.to_yaml(), project.to_yaml());
    assert_eq!(again.notices, []);
}

#[test]
fn a_printed_project_loads_as_the_same() {
    check_printing(&project_of(&[("voting.yml", include_str!("fixtures/voting.yml"))]).unwrap());
    let sub = "services:\n  a:\n    image: x\n    volumes: ['./d:/d', '../e:/e', '/f:/f']\n    command: ['$$HOME', 'yes', '1', '', 'a: b', \"line\\nbreak\", '#']\n    build: {context: ., args: [A]}\n";
    check_printing(&project_of(&[("s/c.yml", sub)]).unwrap());
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("services:\n".to_owned()),
        Just("  web:\n".to_owned()),
        Just("    image: nginx\n".to_owned()),
        Just("    ports: ['80:80']\n".to_owned()),
        Just("    environment: {A: ${B:-c}}\n".to_owned()),
        Just("    extends: web\n".to_owned()),
        Just("    volumes: [a:/b]\n".to_owned()),
        Just("    <<: *x\n".to_owned()),
        Just("x-x: &x {a: !reset b}\n".to_owned()),
        Just("include: [compose.yaml]\n".to_owned()),
        Just("\t".to_owned()),
        "[ -~\\n]{0,12}",
        "\\PC{0,6}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    "(\\PC|[\\n\\t ]){0,24}".prop_map(|text| text.replace('\u{feff}', ""))
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(parts in prop::collection::vec(words(), 0..12)) {
        if let Ok(project) = project_of(&[("compose.yaml", &parts.concat())]) {
            check_printing(&project);
            drop(translate(&project, &Context::default()));
        }
    }

    #[test]
    fn any_value_is_printed_as_it_was(values in prop::collection::vec(text(), 1..6), number in any::<u16>()) {
        let environment: serde_json::Map<String, serde_json::Value> = values
            .iter()
            .enumerate()
            .map(|(index, value)| (format!("V{index}"), value.replace('$', "$$").into()))
            .collect();
        let document = serde_json::json!({"services": {"a": {
            "image": "x",
            "environment": environment,
            "command": values.iter().map(|value| value.replace('$', "$$")).collect::<Vec<_>>(),
            "cpus": f64::from(number) / 100.0,
        }}});
        let project = project_of(&[("compose.yaml", &document.to_string())]);
        let project = project.map_err(TestCaseError::fail)?;
        for (index, value) in values.iter().enumerate() {
            prop_assert_eq!(&project.services["a"].environment[&format!("V{index}")], value);
        }
        check_printing(&project);
    }
}
