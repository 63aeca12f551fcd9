//! Settings without their defaults: what a person would have written.

use std::sync::LazyLock;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::spec::{AppSpec, ContainerSpec, PlacementSpec, ReserveSpec};

static DEFAULTS: LazyLock<Value> = LazyLock::new(|| {
    let mut defaults = as_value(&AppSpec::default());
    // What is left out as a whole where nothing is asked for.
    defaults["placement"] = as_value(&PlacementSpec::default());
    defaults["reserve"] = as_value(&ReserveSpec::default());
    defaults["container"] = as_value(&ContainerSpec::default());
    defaults
});

fn as_value(spec: &impl Serialize) -> Value {
    serde_json::to_value(spec)
        .expect("settings are JSON: strings, numbers, lists and tables with text for keys")
}

/// The settings that differ from their defaults. Parsed, they are the same settings.
pub fn compact_spec(spec: &AppSpec) -> Map<String, Value> {
    match without(as_value(spec), Some(&DEFAULTS)) {
        Some(Value::Object(table)) => table,
        _ => Map::new(),
    }
}

/// All settings, those that have their defaults included, so that two of them differ in nothing else than what differs.
pub fn complete_spec(spec: &AppSpec) -> Value {
    let mut settings = as_value(spec);
    if let (Value::Object(settings), Value::Object(defaults)) = (&mut settings, &*DEFAULTS) {
        for (key, default) in defaults {
            settings.entry(key).or_insert_with(|| default.clone());
        }
    }
    settings
}

/// None: nothing of it differs.
fn without(value: Value, default: Option<&Value>) -> Option<Value> {
    match value {
        // What is not there is the default of everything that may be missing.
        Value::Null => None,
        value if Some(&value) == default => None,
        Value::Object(table) => {
            let default_of = |key: &str| default.and_then(|default| default.get(key));
            let kept: Map<String, Value> = table
                .into_iter()
                .filter_map(|(key, value)| {
                    let value = without(value, default_of(&key))?;
                    Some((key, value))
                })
                .collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        value => Some(value),
    }
}

pub(super) fn serialize<S: Serializer>(spec: &AppSpec, serializer: S) -> Result<S::Ok, S::Error> {
    compact_spec(spec).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declare::change::field_changes;
    use serde_json::json;

    #[test]
    fn defaults_leave_nothing() {
        assert!(compact_spec(&AppSpec::default()).is_empty());
    }

    #[test]
    fn a_table_that_asks_for_one_thing_is_compared_by_that_alone() {
        let high: AppSpec = serde_json::from_value(json!({"placement": {"priority": "high"}})).unwrap();
        assert_eq!(Value::Object(compact_spec(&high)), json!({"placement": {"priority": "high"}}));
        let (usual, high) = (complete_spec(&AppSpec::default()), complete_spec(&high));
        let told: Vec<String> = field_changes(&usual, &high)
            .into_iter()
            .map(|change| format!("{} {} {}", change.path, change.before, change.after))
            .collect();
        assert_eq!(told, [r#"placement.priority "normal" "high""#]);
        assert_eq!(field_changes(&high, &usual)[0].after, "normal");
    }

    #[test]
    fn of_a_container_too_only_what_differs_is_kept() {
        let text = json!({"container": {"user": "70", "health": {"command": ["ask"]}}});
        let spec: AppSpec = serde_json::from_value(text).unwrap();
        let compact = Value::Object(compact_spec(&spec));
        assert!(compact["container"].get("pids").is_none(), "{compact}");
        assert_eq!(serde_json::from_value::<AppSpec>(compact).unwrap(), spec);
    }

    #[test]
    fn what_differs_is_kept_and_reads_back_the_same() {
        let text = json!({
            "env": {"A": ""}, "args": ["x"], "http": {"health": {"path": "/h"}}, "limits": {"memory": "256MiB"},
            "volumes": [{"name": "data", "path": "/data", "size": "1GiB", "read_only": false, "shared": false}],
            "placement": {"max_per_node": 2, "constraints": [], "spread": [], "priority": "normal"},
            "reuse": {"mode": "serial"},
        });
        let spec: AppSpec = serde_json::from_value(text).unwrap();
        let compact = Value::Object(compact_spec(&spec));
        assert_eq!(compact["limits"], json!({"memory": "256MiB"}));
        assert_eq!(compact["http"], json!({"health": {"path": "/h"}}));
        assert_eq!(compact["env"], json!({"A": ""}));
        assert_eq!(compact["placement"]["max_per_node"], 2);
        assert!(compact.get("scale").is_none());
        assert_eq!(serde_json::from_value::<AppSpec>(compact).unwrap(), spec);
    }
}
