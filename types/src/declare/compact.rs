//! Settings without their defaults: what a person would have written.

use std::sync::LazyLock;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::spec::{AppSpec, ContainerSpec};

static DEFAULTS: LazyLock<Value> = LazyLock::new(|| {
    let mut defaults = as_value(&AppSpec::default());
    // Apps that are no containers have none of it.
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
    use serde_json::json;

    #[test]
    fn defaults_leave_nothing() {
        assert!(compact_spec(&AppSpec::default()).is_empty());
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
