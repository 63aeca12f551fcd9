//! The guide's table of keys is made of the loader's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt::Write as _;

use common::project;
use wharf_compose::keys::{Key, Support, all, support};
use wharf_compose::{Context, translate};

const BEGIN: &str = "<!-- The table is generated: `UPDATE=1 cargo test -p wharf-compose --test guide`. -->\n";

fn cell(support: Support) -> String {
    match support {
        Support::Honoured => "yes".to_owned(),
        Support::Translated(how) => format!("notice: {how}"),
        Support::Refused(why) => format!("refused: {why}"),
    }
    .replace('|', "\\|")
}

fn of(key: &Key) -> (Support, Support) {
    (support(key, |key| key.app), support(key, |key| key.container))
}

/// A key, unless all that is said of it was said of the one that it is below.
fn table() -> String {
    let mut text = "| Key | Wasm app | Container |\n|---|---|---|\n".to_owned();
    let keys: Vec<&Key> = all().collect();
    for key in &keys {
        let parent = key.path.rsplit_once('.').and_then(|(path, _)| keys.iter().find(|key| key.path == path));
        let is_said = parent.is_some_and(|parent| of(parent) == of(key) && parent_is_told(parent));
        if is_said || key.path.ends_with(".*") {
            continue;
        }
        let (app, container) = of(key);
        let _ = match app == container {
            true => writeln!(text, "| `{}` | {} | the same |", key.path, cell(app)),
            false => writeln!(text, "| `{}` | {} | {} |", key.path, cell(app), cell(container)),
        };
    }
    text
}

/// Whether one line about a key tells all about those below it.
fn parent_is_told(parent: &Key) -> bool {
    !matches!(of(parent), (Support::Honoured, Support::Honoured))
}

#[test]
fn the_guide_has_the_table_of_all_keys() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guide/compose.md");
    let page = std::fs::read_to_string(file).unwrap();
    let (before, written) =
        page.split_once(BEGIN).expect("the page has the line before which nothing is generated");
    let table = format!("\n{}", table());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, format!("{before}{BEGIN}{table}")).unwrap();
        return;
    }
    assert!(
        written == table,
        "docs/guide/compose.md is out of date: run this test with UPDATE=1 and look at the change"
    );
}

#[test]
fn the_examples_of_the_guide_are_translated() {
    let page = include_str!("../../docs/guide/compose.md");
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 2);
    for example in examples {
        translate(&project(example), &Context::default())
            .unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
}
