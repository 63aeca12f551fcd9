//! Who may call what: the table of routes is walked.

use axum::http::Method;
use serde_json::{Value, json};

use super::fixture::{Platform, component, eventually};
use crate::api::{Access, endpoints};

impl Platform {
    pub(super) async fn token(&self, role: &str, namespace: Option<&str>, expires_in: &str) -> String {
        let body = json!({"name": format!("test {role}"), "role": role, "namespace": namespace, "expires_in": expires_in});
        let created = self.call(Method::POST, "/v1/tokens", body).await.is(201);
        created["secret"].as_str().unwrap().to_owned()
    }
}

fn filled(path: &str) -> String {
    path.replace("{namespace}", "default")
        .replace("{app}", "hello")
        .replace("{digest}", &format!("sha256:{}", "0".repeat(64)))
        .replace("{node}", "0190f5d8-0000-7000-8000-000000000000")
        .replace("{token}", "0190f5d8-0000-7000-8000-000000000000")
        .replace("{rollout}", "0190f5d8-0000-7000-8000-000000000000")
}

#[tokio::test]
async fn every_route_refuses_who_may_not_call_it() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let viewer = platform.token("viewer", None, "1h").await;
    let developer = platform.token("developer", None, "1h").await;
    let foreign = platform.token("admin", Some("other"), "1h").await;
    for endpoint in endpoints() {
        let path = filled(endpoint.path);
        let call =
            async |token: &str| platform.call_as(token, endpoint.method.clone(), &path, Value::Null).await;
        let needed = match endpoint.access {
            Access::Public => continue,
            Access::User(role) | Access::Cluster(role) | Access::Body(role) => Some(role),
            Access::Node => None,
        };
        call("").await.refuses(401, "unauthenticated", &["token"]);
        call("wharf_wrong").await.refuses(401, "unauthenticated", &["not known"]);
        let Some(needed) = needed else {
            for token in [&viewer, &platform.admin] {
                call(token).await.refuses(403, "forbidden", &["workers"]);
            }
            continue;
        };
        call(&platform.node_token).await.refuses(403, "forbidden", &["worker"]);
        if needed > wharf_types::api::Role::Viewer {
            call(&viewer).await.refuses(403, "forbidden", &["role"]);
        }
        if needed > wharf_types::api::Role::Developer {
            call(&developer).await.refuses(403, "forbidden", &["role `admin`"]);
        }
        if endpoint.path.contains("{namespace}") {
            call(&foreign).await.refuses(404, "not_found", &["no namespace `default`"]);
        } else if matches!(endpoint.access, Access::Cluster(_)) {
            call(&foreign).await.refuses(403, "forbidden", &["bound to the namespace `other`"]);
        }
    }
}

#[tokio::test]
async fn a_bound_token_sees_only_its_namespace() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let bound = platform.token("admin", Some("other"), "1h").await;
    let seen = platform.call_as(&bound, Method::GET, "/v1/namespaces", Value::Null).await.is(200);
    assert_eq!(seen["items"].as_array().unwrap().len(), 1);
    assert_eq!(seen["items"][0]["name"], "other");
    platform.call_as(&bound, Method::GET, "/v1/namespaces/other/apps", Value::Null).await.is(200);
    let unknown = platform.call_as(&bound, Method::GET, "/v1/namespaces/nowhere", Value::Null).await;
    let existing = platform.call_as(&bound, Method::GET, "/v1/namespaces/default", Value::Null).await;
    assert_eq!(
        unknown.json["detail"],
        existing.json["detail"].as_str().unwrap().replace("default", "nowhere")
    );
}

#[tokio::test]
async fn an_expired_and_a_revoked_token_are_told_apart() {
    let platform = Platform::start().await;
    let short = platform.token("viewer", None, "1ms").await;
    let reply = eventually("the token has expired", async || {
        let reply = platform.call_as(&short, Method::GET, "/v1/whoami", Value::Null).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    reply.refuses(401, "token_expired", &["expired at", "wharf login"]);

    let long = platform.token("viewer", None, "1h").await;
    let listed = platform.get("/v1/tokens").await;
    let id = listed["items"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    platform.call(Method::DELETE, &format!("/v1/tokens/{id}"), Value::Null).await.is(204);
    let reply = platform.call_as(&long, Method::GET, "/v1/whoami", Value::Null).await;
    reply.refuses(401, "unauthenticated", &["revoked"]);
    assert!(!platform.get("/v1/tokens").await.to_string().contains(&long), "a secret is shown once only");
}

#[tokio::test]
async fn a_viewer_sees_the_names_of_variables_and_a_developer_their_values() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), json!({"env": {"PASSWORD": "s3cret"}})).await.is(201);
    let path = "/v1/namespaces/default/apps/hello/releases";
    for (role, shown) in
        [("viewer", "(hidden: reading it needs the role `developer`)"), ("developer", "s3cret")]
    {
        let token = platform.token(role, None, "1h").await;
        let releases = platform.call_as(&token, Method::GET, path, Value::Null).await.is(200);
        assert_eq!(releases["items"][0]["spec"]["env"], json!({"PASSWORD": shown}), "{role}");
    }
}
