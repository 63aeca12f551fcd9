//! Which problems a route can answer with: said by its place in the table of routes, and never by its handler.
//!
//! Only what a client can do something about is worth a line of a handler's own, so that is a status in the OpenAPI document of every
//! route that is alike, whether a handler of today gives it or not.

use http::Method;
use serde_json::{Map, Value, json};
use wharf_types::problem::ProblemCode;

use super::openapi::{Payload, reference};
use super::routes::Endpoint;
use crate::access::Access;

/// The statuses of problems, in order.
fn statuses() -> Vec<u16> {
    let mut all: Vec<u16> = ProblemCode::ALL.iter().map(|code| code.status()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether requests that the document allows can be answered with a status.
fn gives(endpoint: &Endpoint, status: u16) -> bool {
    let changes = endpoint.method != Method::GET;
    let asks_token = endpoint.access != Access::Public;
    let takes_body = !matches!(endpoint.request, Payload::Nothing);
    match status {
        // What the schema forbids is answered with 400, also where it is a header or a part of the path.
        400 | 401 | 403 => asks_token,
        // Of these the namespaces, users and apps stand in the query or in the body.
        404 => {
            endpoint.path.contains('{')
                || matches!(endpoint.access, Access::Asked(_) | Access::Body(_) | Access::Own)
        }
        // `wharf up` has no CA whose state could be read.
        409 => changes || (endpoint.by_leader && matches!(endpoint.access, Access::Cluster(_))),
        507 => changes,
        // An apply may name the plan that it was made from.
        412 => {
            endpoint.headers.iter().any(|header| header.name == "If-Match")
                || matches!(endpoint.access, Access::Body(_))
        }
        413 => takes_body,
        // Of workers that begin their session, and of users who change a lot.
        429 => {
            endpoint.access == Access::Node || (changes && asks_token && endpoint.access != Access::Joining)
        }
        // A release is made of settings also where the body has none, such as by a rollback.
        422 => {
            let is_settings = takes_body && matches!(endpoint.access, Access::Cluster(_));
            changes
                && (is_settings || matches!(endpoint.access, Access::User(_) | Access::Body(_) | Access::Own))
        }
        // Another method than those of the document.
        405 => false,
        _ => true,
    }
}

/// The problems of a route, for its `responses`.
pub(super) fn responses(endpoint: &Endpoint) -> impl Iterator<Item = (String, Value)> {
    let given = statuses().into_iter().filter(|status| gives(endpoint, *status));
    given.map(|status| {
        (status.to_string(), json!({"$ref": format!("#/components/responses/{}", component(status))}))
    })
}

fn component(status: u16) -> String {
    format!("Problem{status}")
}

/// What [`responses`] refers to.
pub(super) fn components() -> Map<String, Value> {
    statuses().into_iter().map(|status| (component(status), problem(status))).collect()
}

fn problem(status: u16) -> Value {
    let codes = ProblemCode::ALL.iter().filter(|code| code.status() == status);
    let listed: Vec<String> = codes
        .map(|code| format!("`{}`: {}", json!(code).as_str().unwrap_or_default(), code.title()))
        .collect();
    let mut problem = json!({
        "description": format!("{}.", listed.join(". ")),
        "content": {"application/problem+json": {"schema": reference("Problem")}},
    });
    if status == 401 {
        problem["headers"] = json!({"WWW-Authenticate": {"required": true, "schema": {"type": "string"}}});
    }
    if status == 429 {
        problem["headers"] = json!({"Retry-After": {"description": "In how many seconds the same will be taken", "required": true, "schema": {"type": "integer", "minimum": 1}}});
    }
    if status == 405 {
        problem["headers"] = json!({"Allow": {"description": "The methods that it takes", "required": true, "schema": {"type": "string"}}});
    }
    problem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::routes::endpoints;

    #[test]
    fn whoever_may_be_refused_is_told_with_which_status() {
        let of = |method: Method, path: &str| {
            let endpoint = endpoints().into_iter().find(|e| e.method == method && e.path == path).unwrap();
            responses(&endpoint).map(|(status, _)| status).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(Method::GET, "/healthz"), "500 503");
        assert_eq!(of(Method::GET, "/v1/namespaces"), "400 401 403 500 503");
        assert_eq!(
            of(Method::PUT, "/v1/namespaces/{namespace}/apps/{app}/scale"),
            "400 401 403 404 409 412 413 422 429 500 503 507"
        );
        assert_eq!(of(Method::POST, "/v1/users"), "400 401 403 409 413 422 429 500 503 507");
    }
}
