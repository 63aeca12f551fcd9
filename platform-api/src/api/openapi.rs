//! The OpenAPI document, made from the table of routes and the schemas of `wharf-types`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use wharf_types::Problem;
use wharf_types::api::Verb;

use super::routes::{Endpoint, endpoints};
use crate::access::Access;

/// What a request or a reply holds.
pub(super) enum Payload {
    Nothing,
    Json(Named),
    /// A page of these.
    List(Named),
    Array(Named),
    Octets,
    Text,
    /// Server-sent events.
    Events,
    /// JSON documents, one a line.
    Lines,
}

pub(super) struct Named {
    name: String,
    /// The type itself, and all that it refers to.
    schemas: Vec<(String, RefOr<Schema>)>,
}

pub(super) fn json<T: ToSchema>() -> Payload {
    Payload::Json(named::<T>())
}

pub(super) fn list<T: ToSchema>() -> Payload {
    Payload::List(named::<T>())
}

pub(super) fn array<T: ToSchema>() -> Payload {
    Payload::Array(named::<T>())
}

fn named<T: ToSchema>() -> Named {
    let name = T::name().into_owned();
    let mut schemas = vec![(name.clone(), <T as PartialSchema>::schema())];
    T::schemas(&mut schemas);
    Named { name, schemas }
}

/// OpenAPI 3.1.
pub(super) fn document() -> Value {
    let mut schemas = BTreeMap::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    schemas.extend(named::<Problem>().schemas);
    for endpoint in endpoints() {
        let operation = operation(&endpoint);
        paths.entry(endpoint.path).or_default().insert(endpoint.method.as_str().to_lowercase(), operation);
        for payload in [endpoint.request, endpoint.reply] {
            if let Payload::Json(named) | Payload::List(named) | Payload::Array(named) = payload {
                schemas.extend(named.schemas);
            }
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Wharf",
            "description": "The API of the control plane. Errors are problem documents (RFC 9457) with a stable `code`.",
            "version": "v1",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut operation = Map::new();
    operation.insert("summary".into(), endpoint.summary.into());
    operation.insert("operationId".into(), operation_id(endpoint).into());
    let (who, security) = match endpoint.access {
        Access::Public => ("anybody".to_owned(), json!([])),
        Access::Anyone => ("any token".to_owned(), json!([{"token": []}])),
        Access::Own => ("users about their own, and cluster admins".to_owned(), json!([{"token": []}])),
        Access::User(verb) => (format!("role `{}`", verb.role().as_str()), json!([{"token": []}])),
        Access::Asked(verb) => {
            let role = verb.role().as_str();
            (format!("role `{role}` in `namespace`, or in all namespaces"), json!([{"token": []}]))
        }
        Access::Body(verb) => {
            let role = verb.role().as_str();
            (format!("role `{role}` in each namespace that the body names"), json!([{"token": []}]))
        }
        Access::Cluster(verb) => {
            (format!("role `{}` in all namespaces", verb.role().as_str()), json!([{"token": []}]))
        }
        Access::Node => ("workers only".to_owned(), json!([{"token": []}])),
    };
    let description = match verb(endpoint.access) {
        Some(verb) => format!("For {who}; verb `{}`.", verb.as_str()),
        None => format!("For {who}."),
    };
    operation.insert("description".into(), description.into());
    operation.insert("security".into(), security);
    let in_path =
        |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    let given = |place: &'static str| move |(name, about): &(&str, &str)| json!({"name": name, "in": place, "description": about, "schema": {"type": "string"}});
    let segments = endpoint.path.split('/');
    let names = segments.filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = names
        .map(in_path)
        .chain(endpoint.query.iter().map(given("query")))
        .chain(endpoint.headers.iter().map(given("header")))
        .collect();
    if !parameters.is_empty() {
        operation.insert("parameters".into(), parameters.into());
    }
    if let Some(content) = content(&endpoint.request) {
        operation.insert("requestBody".into(), json!({"content": content}));
    }
    let mut reply = json!({"description": "Done"});
    if let Some(content) = content(&endpoint.reply) {
        reply["content"] = content;
    }
    let problem = json!({
        "description": "A problem",
        "content": {"application/problem+json": {"schema": reference("Problem")}},
    });
    let mut responses = json!({endpoint.status.to_string(): reply, "default": problem});
    if let Some((status, when)) = endpoint.or {
        let mut reply = responses[endpoint.status.to_string()].clone();
        reply["description"] = when.into();
        responses[status.to_string()] = reply;
    }
    operation.insert("responses".into(), responses);
    operation.into()
}

/// What a limited token must be allowed, where that is asked.
fn verb(access: Access) -> Option<Verb> {
    match access {
        Access::User(verb) | Access::Asked(verb) | Access::Body(verb) | Access::Cluster(verb) => Some(verb),
        Access::Public | Access::Anyone | Access::Own | Access::Node => None,
    }
}

fn content(payload: &Payload) -> Option<Value> {
    Some(match payload {
        Payload::Nothing => return None,
        Payload::Json(named) => json!({"application/json": {"schema": reference(&named.name)}}),
        Payload::List(named) => json!({"application/json": {"schema": {
            "type": "object",
            "required": ["items"],
            "properties": {
                "items": {"type": "array", "items": reference(&named.name)},
                "next_cursor": {"type": ["string", "null"], "description": "Pass it as `?cursor=` for what comes next. Null: that was all."},
            },
        }}}),
        Payload::Array(named) => {
            json!({"application/json": {"schema": {"type": "array", "items": reference(&named.name)}}})
        }
        Payload::Octets => json!({"application/wasm": {"schema": {"type": "string", "format": "binary"}}}),
        Payload::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
        Payload::Events => json!({"text/event-stream": {"schema": {"type": "string"}}}),
        Payload::Lines => json!({"application/x-ndjson": {"schema": {"type": "string"}}}),
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// `GET /v1/namespaces/{namespace}/apps/{app}/env` is `get_app_env`.
pub(crate) fn operation_id(endpoint: &Endpoint) -> String {
    let mut words = vec![endpoint.method.as_str().to_lowercase()];
    let segments: Vec<&str> =
        endpoint.path.split('/').filter(|segment| !segment.is_empty() && *segment != "v1").collect();
    for (at, segment) in segments.iter().enumerate() {
        let followed_by_name = segments.get(at + 1).is_some_and(|next| next.starts_with('{'));
        if !segment.starts_with('{') {
            let word = segment.replace(['.', '-'], "_");
            words.push(if followed_by_name { word.trim_end_matches('s').to_owned() } else { word });
        }
    }
    words.join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE=1 cargo test -p wharf-platform-api openapi` writes the file anew.
    #[test]
    fn the_document_is_the_golden_file() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let document = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(file, &document).unwrap();
        }
        let golden = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            golden == document,
            "docs/openapi.json is out of date: run this test with UPDATE=1 and look at the change"
        );
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_its_own_id() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name} is not defined");
        }
        let mut ids: Vec<String> = endpoints().iter().map(operation_id).collect();
        ids.sort();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
