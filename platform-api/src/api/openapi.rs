//! The OpenAPI document, made from the table of routes and the schemas of `wharf-types`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use wharf_types::api::Verb;
use wharf_types::quantity::Span;
use wharf_types::secret::VALUE_MAX_BYTES;
use wharf_types::{JobName, Problem, SecretName};

use super::routes::{Endpoint, endpoints};
use super::{parameters, problems};
use crate::access::Access;

/// What a request or a reply holds.
pub(super) enum Payload {
    Nothing,
    Json(Named),
    /// A page of these.
    List(Named),
    Array(Named),
    /// Some JSON object.
    Object,
    /// Of this media type.
    Octets(&'static str),
    /// A text that is never shown.
    Secret,
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
    // What only parameters are.
    schemas.extend(
        [named::<SecretName>(), named::<JobName>(), named::<Span>()]
            .map(|named| named.schemas)
            .into_iter()
            .flatten(),
    );
    for endpoint in endpoints().into_iter().filter(|endpoint| !endpoint.speaks_git()) {
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
            "responses": problems::components(),
            "schemas": bounded(json!(schemas)),
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
        Access::Joining => ("a host with a join token".to_owned(), json!([{"token": []}])),
    };
    let description = match verb(endpoint.access) {
        Some(verb) => format!("For {who}; verb `{}`.", verb.as_str()),
        None => format!("For {who}."),
    };
    operation.insert("description".into(), description.into());
    operation.insert("security".into(), security);
    let segments = endpoint.path.split('/');
    let names = segments.filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = names
        .map(parameters::of_path)
        .chain(endpoint.query.iter().map(|parameter| parameter.describe("query")))
        .chain(endpoint.headers.iter().map(|parameter| parameter.describe("header")))
        .collect();
    if !parameters.is_empty() {
        operation.insert("parameters".into(), parameters.into());
    }
    if let Some(content) = content(&endpoint.request) {
        let body = json!({"content": content, "required": endpoint.request.is_required()});
        operation.insert("requestBody".into(), body);
    }
    let mut responses: Map<String, Value> = problems::responses(endpoint).collect();
    let reply = reply(endpoint);
    if let Some((status, when)) = endpoint.or {
        let mut reply = reply.clone();
        reply["description"] = when.into();
        responses.insert(status.to_string(), reply);
    }
    responses.insert(endpoint.status.to_string(), reply);
    operation.insert("responses".into(), responses.into());
    operation.into()
}

fn reply(endpoint: &Endpoint) -> Value {
    let mut reply = json!({"description": "Done"});
    if let Some(mut content) = content(&endpoint.reply) {
        // What can be resumed can be a stream.
        if endpoint.headers.iter().any(|header| header.name == "Last-Event-ID")
            && let (Some(all), Some(Value::Object(events))) =
                (content.as_object_mut(), self::content(&Payload::Events))
        {
            all.extend(events);
        }
        reply["content"] = content;
    }
    if endpoint.etag {
        let about = "The revision, which `If-Match` can ask for";
        reply["headers"] =
            json!({"ETag": {"description": about, "required": true, "schema": {"type": "string"}}});
    }
    reply
}

/// What a limited token must be allowed, where that is asked.
fn verb(access: Access) -> Option<Verb> {
    match access {
        Access::User(verb) | Access::Asked(verb) | Access::Body(verb) | Access::Cluster(verb) => Some(verb),
        Access::Public | Access::Anyone | Access::Own | Access::Node | Access::Joining => None,
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
        Payload::Object => json!({"application/json": {"schema": {"type": "object"}}}),
        Payload::Octets(kind) => json!({*kind: {"schema": {"type": "string", "format": "binary"}}}),
        Payload::Secret => json!({"text/plain": {"schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": VALUE_MAX_BYTES,
            "pattern": "^[^\\u0000]+$",
            "description": "At most 64 KiB",
        }}}),
        Payload::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
        Payload::Events => json!({"text/event-stream": {"schema": {"type": "string"}}}),
        Payload::Lines => json!({"application/x-ndjson": {"schema": {"type": "string"}}}),
    })
}

impl Payload {
    /// Whether a request without a body is refused. An absent JSON document is an empty object.
    fn is_required(&self) -> bool {
        match self {
            Self::Json(named) => named.schemas.iter().any(|(name, schema)| {
                *name == named.name
                    && !matches!(schema, RefOr::T(Schema::Object(object)) if object.required.is_empty())
            }),
            _ => true,
        }
    }
}

/// The bounds of integers, which `format` only names.
fn bounded(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(object) => {
            let most = match object.get("format").and_then(Value::as_str) {
                Some("int32") => Some(json!(u32::MAX)),
                Some("int64") => Some(json!(u64::MAX)),
                _ => None,
            };
            let is_unsigned = object.get("minimum").is_some_and(|least| least.as_f64() >= Some(0.0));
            if let Some(most) = most.filter(|_| is_unsigned) {
                object.entry("maximum").or_insert(most);
            }
            object.values_mut().for_each(|value| *value = bounded(value.take()));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| *value = bounded(value.take())),
        _ => {}
    }
    schema
}

pub(super) fn reference(name: &str) -> Value {
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
            words.push(if followed_by_name { one_of(&word) } else { word });
        }
    }
    words.join("_")
}

fn one_of(many: &str) -> String {
    match many.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => many.trim_end_matches('s').to_owned(),
    }
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
        for kind in ["schemas", "responses"] {
            for reference in text.split(&format!("\"$ref\":\"#/components/{kind}/")).skip(1) {
                let name = reference.split('"').next().unwrap();
                assert!(document["components"][kind].get(name).is_some(), "{name} is not defined");
            }
        }
        let mut ids: Vec<String> = endpoints().iter().map(operation_id).collect();
        ids.sort();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
