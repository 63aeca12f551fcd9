//! What of a release is shown in the audit log: where it differs from the one before, without any value that may be a secret.

use serde_json::{Map, Value, json};
use wharf_types::spec::AppSpec;

use crate::store::release::Release;

/// In the place of a variable's value: that it is set is of interest, to what is not for everybody.
const HIDDEN: &str = "(set)";

/// Notes that an app goes from one release to another.
pub(crate) fn release_change(before: Option<&Release>, after: &Release) {
    let (mut old, mut new) = differences(before.map(|release| &*release.spec), &after.spec);
    for (side, release) in [(&mut old, before), (&mut new, Some(after))] {
        if let Some(release) = release {
            side.insert("release".to_owned(), release.number.into());
            side.insert("artifact".to_owned(), json!(release.artifact));
        }
    }
    let old = if before.is_some() { Value::Object(old) } else { Value::Null };
    super::change(old, Value::Object(new));
}

/// The settings in which two specs differ, by their first names; of variables those that differ.
fn differences(before: Option<&AppSpec>, after: &AppSpec) -> (Map<String, Value>, Map<String, Value>) {
    let (mut old, mut new) = (before.map(settings).unwrap_or_default(), settings(after));
    let names: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    for name in names {
        if old.get(&name) == new.get(&name) {
            old.remove(&name);
            new.remove(&name);
        }
    }
    if let (Some(Value::Object(was)), Some(Value::Object(is))) = (old.get_mut("env"), new.get_mut("env")) {
        let same: Vec<String> = was.keys().filter(|name| was.get(*name) == is.get(*name)).cloned().collect();
        for name in same {
            was.remove(&name);
            is.remove(&name);
        }
    }
    for side in [&mut old, &mut new] {
        if let Some(Value::Object(env)) = side.get_mut("env") {
            env.values_mut().for_each(|value| *value = HIDDEN.into());
        }
    }
    (old, new)
}

fn settings(spec: &AppSpec) -> Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(settings)) => settings,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: Value) -> AppSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn only_what_differs_is_shown_and_no_value_of_a_variable() {
        let before =
            spec(json!({"env": {"SAME": "s3cret", "CHANGED": "old", "GONE": "x"}, "scale": {"replicas": 1}}));
        let after =
            spec(json!({"env": {"SAME": "s3cret", "CHANGED": "new", "NEW": "y"}, "scale": {"replicas": 3}}));
        let (old, new) = differences(Some(&before), &after);
        assert_eq!(
            Value::Object(old),
            json!({"env": {"CHANGED": "(set)", "GONE": "(set)"}, "scale": {"replicas": 1}})
        );
        assert_eq!(
            Value::Object(new),
            json!({"env": {"CHANGED": "(set)", "NEW": "(set)"}, "scale": {"replicas": 3}})
        );
        let (old, new) = differences(Some(&before), &before);
        assert!(old.is_empty() && new.is_empty());
    }

    #[test]
    fn a_first_release_shows_all_its_settings() {
        let (old, new) = differences(None, &spec(json!({"env": {"A": "b"}})));
        assert!(old.is_empty());
        assert_eq!((&new["env"], new.contains_key("limits")), (&json!({"A": "(set)"}), true));
    }
}
