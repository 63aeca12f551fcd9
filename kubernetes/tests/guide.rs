//! The guide's tables of fields are made of the reader's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use wharf_compose::keys::{Key, Support};
use wharf_kubernetes::keys::{SECTIONS, Section};

const BEGIN: &str =
    "<!-- The tables are generated: `UPDATE=1 cargo test -p wharf-kubernetes --test guide`. -->\n";

fn cell(support: Support) -> String {
    match support {
        Support::Honoured => "yes".to_owned(),
        Support::Translated(how) => format!("notice: {how}"),
        Support::Refused(why) => format!("refused: {why}"),
    }
    .replace('|', "\\|")
}

/// What becomes of a field, or of the one around it if that is not honoured.
fn of(section: &Section, key: &Key, column: fn(&Key) -> Support) -> Support {
    let around = section.keys.iter().filter(|other| key.path.starts_with(&format!("{}.", other.path)));
    around.map(column).find(|support| *support != Support::Honoured).unwrap_or_else(|| column(key))
}

fn both(section: &Section, key: &Key) -> (Support, Support) {
    (of(section, key, |key| key.app), of(section, key, |key| key.container))
}

fn table(section: &Section) -> String {
    let differs = |key: &Key| {
        let (app, container) = both(section, key);
        app != container
    };
    let has_columns = section.keys.iter().any(differs);
    let mut text = format!("\n### {}\n\n", section.title);
    text.push_str(if has_columns {
        "| Field | Component | Image |\n|---|---|---|\n"
    } else {
        "| Field | |\n|---|---|\n"
    });
    for key in section.keys {
        let parent =
            key.path.rsplit_once('.').and_then(|(path, _)| section.keys.iter().find(|key| key.path == path));
        let is_said = parent.is_some_and(|parent| {
            both(section, parent) == both(section, key)
                && both(section, parent) != (Support::Honoured, Support::Honoured)
        });
        if is_said || key.path.ends_with(".*") {
            continue;
        }
        let (app, container) = both(section, key);
        let _ = match (has_columns, app == container) {
            (false, _) => writeln!(text, "| `{}` | {} |", key.path, cell(app)),
            (true, true) => writeln!(text, "| `{}` | {} | the same |", key.path, cell(app)),
            (true, false) => writeln!(text, "| `{}` | {} | {} |", key.path, cell(app), cell(container)),
        };
    }
    text
}

#[test]
fn the_guide_has_the_tables_of_all_fields() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guide/kubernetes.md");
    let page = std::fs::read_to_string(file).unwrap();
    let (before, written) =
        page.split_once(BEGIN).expect("the page has the line before which nothing is generated");
    let tables: String = SECTIONS.iter().map(table).collect();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, format!("{before}{BEGIN}{tables}")).unwrap();
        return;
    }
    assert!(
        written == tables,
        "docs/guide/kubernetes.md is out of date: run this test with UPDATE=1 and look at the change"
    );
}
