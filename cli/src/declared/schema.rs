//! The JSON Schema of files with resources, made from the types that they are read into.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use wharf_types::declare::document::{AppDocument, ConfigDocument, NamespaceDocument};

/// JSON Schema 2020-12.
pub fn schema() -> Value {
    let mut schemas: Vec<(String, RefOr<Schema>)> = Vec::new();
    let app = add::<AppDocument>(&mut schemas);
    let namespace = add::<NamespaceDocument>(&mut schemas);
    let config = add::<ConfigDocument>(&mut schemas);
    let definitions: BTreeMap<String, Value> = schemas
        .into_iter()
        .map(|(name, schema)| {
            let schema = serde_json::to_value(schema).unwrap_or(Value::Null);
            (name, moved(schema))
        })
        .collect();
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Resources of Wharf",
        "description": "Files of `wharf plan`, `wharf apply` and `wharf diff`: one resource, a list of them, or `resources` with a list.",
        "anyOf": [
            {"$ref": "#/$defs/Resource"},
            {"type": "array", "items": {"$ref": "#/$defs/Resource"}},
            {
                "type": "object",
                "required": ["resources"],
                "properties": {"resources": {"type": "array", "items": {"$ref": "#/$defs/Resource"}}},
                "additionalProperties": false,
            },
        ],
        "$defs": definitions,
    });
    let resource = json!({
        "type": "object",
        "required": ["kind"],
        // So that an editor complains about a key, and not that no alternative matches.
        "if": {"properties": {"kind": {"const": "namespace"}}},
        "then": {"$ref": format!("#/$defs/{namespace}")},
        "else": {
            "if": {"properties": {"kind": {"const": "config"}}},
            "then": {"$ref": format!("#/$defs/{config}")},
            "else": {"$ref": format!("#/$defs/{app}")},
        },
    });
    document["$defs"]["Resource"] = resource;
    document
}

fn add<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) -> String {
    let name = T::name().into_owned();
    schemas.push((name.clone(), <T as PartialSchema>::schema()));
    T::schemas(schemas);
    name
}

/// The same with references that lead into this document.
fn moved(value: Value) -> Value {
    match value {
        Value::Object(table) => table
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) if key == "$ref" => {
                    (key, text.replace("#/components/schemas/", "#/$defs/").into())
                }
                value => (key, moved(value)),
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(moved).collect(),
        other => other,
    }
}
