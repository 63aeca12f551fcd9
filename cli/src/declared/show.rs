//! Plans and differences for people.

use std::fmt::Write as _;

use serde_json::Value;
use similar::TextDiff;
use wharf_types::declare::change::{Action, Change, Counts, FieldChange};
use wharf_types::declare::document::document_of;
use wharf_types::declare::{AppResource, ConfigResource, Kind, Resource};

use super::print::to_yaml;
use crate::output;

/// Characters of a value that are shown: variables may hold whole documents.
const VALUE_SHOWN: usize = 100;
/// Changes that are listed. More of them nobody reads, and a file keeps them all: `--json`, `--out`.
const CHANGES_SHOWN: usize = 500;

/// One line for each change, one for each field of it, and the counts.
pub fn plan_lines(changes: &[Change], counts: Counts) -> Vec<String> {
    let mut lines = Vec::new();
    let shown = changes.iter().filter(|change| change.action != Action::Unchanged);
    for change in shown.clone().take(CHANGES_SHOWN) {
        lines.push(heading(change));
        lines.extend(change.fields.iter().map(field_line));
    }
    let more = shown.count().saturating_sub(CHANGES_SHOWN);
    if more > 0 {
        lines.push(format!("and {more} more; `--json` lists them all"));
    }
    lines.push(counts_line(counts));
    lines
}

fn heading(change: &Change) -> String {
    let resource = &change.resource;
    let (style, mark, note) = match change.action {
        Action::Create => (output::style().green(), "+", ""),
        Action::Update => (output::style().yellow(), "~", ""),
        Action::Delete => (output::style().red(), "-", "  (its volumes are kept)"),
        Action::Unchanged => (output::style(), " ", ""),
    };
    format!("{} {resource}{note}", style.apply_to(mark))
}

fn field_line(field: &FieldChange) -> String {
    let FieldChange { path, before, after } = field;
    let line = match (before, after) {
        (Value::Null, after) => format!("    {path}: {}", shown(after)),
        (before, Value::Null) => format!("    {path}: {} -> (left out)", shown(before)),
        (before, after) => format!("    {path}: {} -> {}", shown(before), shown(after)),
    };
    output::printable(&line).into_owned()
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= VALUE_SHOWN {
        return text;
    }
    let start: String = text.chars().take(VALUE_SHOWN).collect();
    format!("{start}…")
}

/// `1 to create, 2 to change, 0 to delete, 3 unchanged`
fn counts_line(counts: Counts) -> String {
    let Counts { create, update, delete, unchanged } = counts;
    format!("{create} to create, {update} to change, {delete} to delete, {unchanged} unchanged")
}

/// A unified difference from what is live to what the files say. Empty: there is none.
pub fn diff(change: &Change, wanted: Option<(&Resource, &str)>) -> String {
    if change.action == Action::Unchanged {
        return String::new();
    }
    let live = live_of(change).map(|resource| to_yaml(&document_of(&resource)));
    let after = match wanted {
        Some((resource, _)) => Some(to_yaml(&document_of(&as_compared(resource, change.live.as_deref())))),
        // It is in no file, and changes all the same: it runs with a config that does.
        None if change.action == Action::Update => live.clone(),
        None => None,
    };
    let id = &change.resource;
    let from = if change.action == Action::Create { "/dev/null".to_owned() } else { format!("live: {id}") };
    let to = match wanted {
        Some((_, place)) => format!("{place}: {id}"),
        None if change.action == Action::Update => format!("{id}, with what the files say of its configs"),
        None => "/dev/null".to_owned(),
    };
    let (live, after) = (live.unwrap_or_default(), after.unwrap_or_default());
    let differences = TextDiff::from_lines(live.as_str(), after.as_str());
    let mut text = differences.unified_diff().context_radius(3).header(&from, &to).to_string();
    if text.is_empty() {
        // What no settings say: the set that it belongs to, or that its only release failed.
        let _ = writeln!(text, "--- {from}\n+++ {to}");
        for line in change.fields.iter().map(field_line) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

/// What there is. None: it is not there, or is a namespace.
fn live_of(change: &Change) -> Option<Resource> {
    let id = &change.resource;
    match id.kind {
        Kind::Namespace => None,
        Kind::App => change.live.clone().map(Resource::App),
        Kind::Config => {
            let field = change.fields.iter().find(|field| field.path == "value")?;
            let value = field.before.as_str()?.to_owned();
            let (namespace, name) = (id.namespace.clone()?, id.name.parse().ok()?);
            Some(Resource::Config(ConfigResource { namespace, name, value }))
        }
    }
}

/// A file that says nothing of the scale does not differ in it.
fn as_compared(resource: &Resource, live: Option<&AppResource>) -> Resource {
    match (resource, live) {
        (Resource::App(app), Some(live)) if app.keep_scale => {
            let mut app = app.clone();
            app.keep_scale = false;
            app.spec.scale = live.spec.scale.clone();
            Resource::App(app)
        }
        (resource, _) => resource.clone(),
    }
}

/// The lines of a difference in colour.
pub fn coloured(line: &str) -> String {
    let style = match line.chars().next() {
        Some('+') => output::style().green(),
        Some('-') => output::style().red(),
        Some('@') => output::style().cyan(),
        _ => output::style(),
    };
    style.apply_to(output::printable(line)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wharf_types::Digest;
    use wharf_types::declare::ResourceId;
    use wharf_types::declare::change::field_changes;

    fn app(replicas: u32) -> AppResource {
        let mut app = AppResource {
            namespace: "default".parse().unwrap(),
            name: "hello".parse().unwrap(),
            artifact: Digest::of(b""),
            spec: Default::default(),
            keep_scale: false,
        };
        app.spec.scale.replicas = replicas.into();
        app
    }

    fn change(action: Action) -> Change {
        let resource = ResourceId::of_app(&"default".parse().unwrap(), &"hello".parse().unwrap());
        Change { resource, action, fields: Vec::new(), live: None, release: None, rollout: None }
    }

    #[test]
    fn a_plan_lists_what_changes_and_counts_the_rest() {
        let fields =
            field_changes(&json!({"env": {"A": "1"}, "args": []}), &json!({"env": {"A": "2", "B": "3"}}));
        let changes =
            [change(Action::Unchanged), Change { fields, ..change(Action::Update) }, change(Action::Delete)];
        assert_eq!(
            plan_lines(&changes, Counts::of(&changes)),
            [
                "~ app default/hello",
                "    args: [] -> (left out)",
                "    env.A: \"1\" -> \"2\"",
                "    env.B: \"3\"",
                "- app default/hello  (its volumes are kept)",
                "0 to create, 1 to change, 1 to delete, 1 unchanged",
            ]
        );
    }

    #[test]
    fn a_difference_is_unified_and_names_both_sides() {
        let change = Change { live: Some(Box::new(app(2))), ..change(Action::Update) };
        let wanted = Resource::App(Box::new(app(3)));
        let text = diff(&change, Some((&wanted, "hello.yaml:1:1")));
        assert!(
            text.starts_with("--- live: app default/hello\n+++ hello.yaml:1:1: app default/hello\n@@"),
            "{text}"
        );
        assert!(text.contains("\n-  replicas: 2\n+  replicas: 3\n"), "{text}");
        let silent = Resource::App(Box::new(AppResource { keep_scale: true, ..app(1) }));
        let unchanged = Change { action: Action::Unchanged, ..change };
        assert_eq!(diff(&unchanged, Some((&silent, "x"))), "");
    }

    #[test]
    fn a_config_is_shown_as_it_was_and_as_it_is_to_be() {
        let (namespace, name) = ("default".parse().unwrap(), "greeting".parse().unwrap());
        let resource = ResourceId::of_config(&namespace, &name);
        let fields = field_changes(&json!({"value": "hi"}), &json!({"value": "hello"}));
        let change = Change { resource, fields, ..change(Action::Update) };
        let told = plan_lines(std::slice::from_ref(&change), Counts::of(std::slice::from_ref(&change)));
        assert_eq!(told[..2], ["~ config default/greeting", "    value: \"hi\" -> \"hello\""]);
        let wanted = Resource::Config(ConfigResource { namespace, name, value: "hello".to_owned() });
        let text = diff(&change, Some((&wanted, "shop.yaml:1:1")));
        assert!(text.contains("\n-value: hi\n+value: hello\n"), "{text}");
    }

    #[test]
    fn an_app_that_is_in_no_file_and_gets_another_version_of_a_config_is_not_shown_as_gone() {
        let fields = field_changes(&json!({}), &json!({"configs": {"GREETING": "greeting, version 2"}}));
        let change = Change { fields, live: Some(Box::new(app(2))), ..change(Action::Update) };
        let text = diff(&change, None);
        assert!(text.ends_with("    configs.GREETING: \"greeting, version 2\"\n"), "{text}");
        assert!(!text.contains("/dev/null") && !text.contains("replicas"), "{text}");
    }
}
