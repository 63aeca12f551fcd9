//! `If-Match` on every update, `Idempotency-Key` on everything that makes something, and neither is ever dropped.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::{Timestamp, TokenId};

use super::access::filled;
use super::fixture::{Platform, Reply, request};
use super::worker::Worker;
use crate::access::Access;
use crate::api::{endpoints, operation_id};
use crate::store;

const NS: &str = "/v1/namespaces/default";

const BY_DIGEST: &str = "what a digest names never changes";
const AGAIN_IS_AS_GOOD: &str = "asking twice is as good as once";
const NOTHING_WRITTEN: &str = "it writes nothing";
const CONNECTION: &str = "what is answered is a connection";

/// Updates that take no `If-Match`, and why.
const NO_IF_MATCH: &[(&str, &str)] =
    &[("put_namespace_artifact", BY_DIGEST), ("put_namespace_file", BY_DIGEST)];

/// What takes no `Idempotency-Key`, and why.
const NO_KEY: &[(&str, &str)] = &[
    ("post_plans", NOTHING_WRITTEN),
    ("post_namespace_images", NOTHING_WRITTEN),
    ("post_namespace_build_cancel", AGAIN_IS_AS_GOOD),
    ("post_namespace_job_cancel", AGAIN_IS_AS_GOOD),
    ("post_namespace_schedule_suspend", AGAIN_IS_AS_GOOD),
    ("post_namespace_schedule_resume", AGAIN_IS_AS_GOOD),
    ("post_namespace_app_stop", AGAIN_IS_AS_GOOD),
    ("post_namespace_app_rollout_pause", AGAIN_IS_AS_GOOD),
    ("post_namespace_app_rollout_resume", AGAIN_IS_AS_GOOD),
    ("post_namespace_app_rollout_abort", AGAIN_IS_AS_GOOD),
    ("post_namespace_app_exec", CONNECTION),
    ("post_namespace_app_copy", CONNECTION),
    ("post_namespace_volume_backup", CONNECTION),
    ("post_namespace_volume_restore", CONNECTION),
];

#[test]
fn every_update_takes_if_match_and_whatever_makes_something_an_idempotency_key() {
    let mut excused: Vec<&(&str, &str)> = Vec::new();
    for endpoint in endpoints() {
        // Git has ways of its own to do things once, and so have workers: processes, generations, uses of a join token.
        if endpoint.speaks_git() || matches!(endpoint.access, Access::Node | Access::Joining) {
            continue;
        }
        let (header, exceptions) = match endpoint.method {
            Method::PUT | Method::PATCH => ("If-Match", NO_IF_MATCH),
            Method::POST => ("Idempotency-Key", NO_KEY),
            _ => continue,
        };
        let operation = operation_id(&endpoint);
        let takes = endpoint.headers.iter().any(|known| known.name == header);
        let exception = exceptions.iter().find(|(excused, _)| *excused == operation);
        assert!(
            takes != exception.is_some(),
            "`{operation}` has to take `{header}` in the table of routes, or to be an exception here with a reason, and not both"
        );
        excused.extend(exception);
    }
    assert_eq!(excused.len(), NO_IF_MATCH.len() + NO_KEY.len(), "each exception is a route: {excused:?}");
}

impl Platform {
    async fn send_with(&self, header: (&str, &str), method: Method, path: &str, body: &str) -> Reply {
        let request = request(&self.admin, method, path).header(header.0, header.1);
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn once(&self, key: &str, path: &str, body: &Value) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send_with(("idempotency-key", key), Method::POST, path, &body).await
    }
}

fn etag(reply: &Reply) -> String {
    reply.headers["etag"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_route_refuses_the_header_that_it_does_not_take() {
    let platform = Platform::start().await;
    for endpoint in endpoints() {
        if endpoint.speaks_git() || matches!(endpoint.access, Access::Node | Access::Joining) {
            continue;
        }
        let path = filled(endpoint.path, "default");
        for (header, value) in [("If-Match", "\"1\""), ("Idempotency-Key", "k")] {
            if endpoint.headers.iter().any(|known| known.name == header) {
                continue;
            }
            let reply = platform.send_with((header, value), endpoint.method.clone(), &path, "").await;
            reply.refuses(400, "invalid_request", &[&format!("does not take `{header}`")]);
        }
    }
}

#[tokio::test]
async fn what_was_changed_since_it_was_read_is_not_changed() {
    let platform = Platform::start().await;
    let node = Worker::join(&platform).await.until_the_end();
    platform.call(Method::POST, "/v1/users", json!({"name": "bob"})).await.is(201);
    let role = |role: &str| json!({"role": role}).to_string();
    let branch = |branch: &str| json!({"branch": branch}).to_string();
    let label = |zone: &str| json!({"labels": {"zone": zone}}).to_string();
    let policy =
        |network: bool, apps: bool| json!({"build_network": network, "creates_apps": apps}).to_string();
    for (path, method, [first, second, third]) in [
        (format!("{NS}/secrets/db"), Method::PUT, ["one", "two", "three"].map(str::to_owned)),
        (format!("{NS}/configs/greeting"), Method::PUT, ["one", "two", "three"].map(str::to_owned)),
        (format!("{NS}/members/bob"), Method::PUT, ["viewer", "developer", "admin"].map(role)),
        (format!("{NS}/apps/hello/repository"), Method::PATCH, ["live", "next", "main"].map(branch)),
        (format!("/v1/nodes/{node}"), Method::PATCH, ["a", "b", "c"].map(label)),
        (
            format!("{NS}/push-policy"),
            Method::PUT,
            [policy(false, false), policy(true, false), policy(true, true)],
        ),
    ] {
        let set = async |asked: &str, body: &str| {
            platform.send_with(("if-match", asked), method.clone(), &path, body).await
        };
        let read = async || etag(&platform.call(Method::GET, &path, Value::Null).await);
        let made = platform.send_with(("accept", "*/*"), method.clone(), &path, &first).await;
        assert_eq!(made.status, 200, "{path}: {}", made.json);
        let was = read().await;
        assert_eq!(etag(&made), was, "{path}");
        let changed = set(&was, &second).await;
        assert_eq!(changed.status, 200, "{path}: {}", changed.json);
        let is = read().await;
        assert_eq!(etag(&changed), is, "{path}");
        assert_ne!(was, is, "{path}");
        set(&was, &third).await.refuses(412, "precondition_failed", &["was changed since it was read", &is]);
        set("\"99999\"", &third).await.refuses(
            412,
            "precondition_failed",
            &["was changed since it was read"],
        );
        set("17", &third).await.refuses(400, "invalid_request", &["If-Match"]);
        assert_eq!(read().await, is, "{path}");
        set("*", &third).await.is(200);
    }
}

#[tokio::test]
async fn what_is_not_there_is_none_that_if_match_could_ask_for() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/users", json!({"name": "bob"})).await.is(201);
    for (path, body, what) in [
        ("secrets/db", "value", "secret `db`"),
        ("configs/greeting", "hi", "config `greeting`"),
        ("members/bob", r#"{"role": "viewer"}"#, "member `bob`"),
    ] {
        for asked in ["*", "\"1\""] {
            let path = format!("{NS}/{path}");
            let reply = platform.send_with(("if-match", asked), Method::PUT, &path, body).await;
            reply.refuses(412, "precondition_failed", &["there is no", what]);
        }
    }
}

#[tokio::test]
async fn what_is_made_twice_with_one_key_is_made_once_and_answered_alike() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    for (path, body) in [
        ("/v1/tokens", json!({"name": "ci"})),
        ("/v1/users", json!({"name": "alice"})),
        ("/v1/namespaces", json!({"name": "blue"})),
        ("/v1/join-tokens", json!({})),
        ("/v1/secret-keys", Value::Null),
        ("/v1/authorities", json!({})),
    ] {
        // Of keys and CAs those go that are not needed any more.
        let is_list = !matches!(path, "/v1/secret-keys" | "/v1/authorities");
        let count = async || match is_list {
            true => platform.get(path).await["items"].as_array().unwrap().len(),
            false => 0,
        };
        let before = count().await;
        let key = path;
        let first = platform.once(key, path, &body).await.is(201);
        let made = count().await;
        assert_eq!(made - before, usize::from(is_list), "{path}");
        let again = platform.once(key, path, &body).await;
        assert_eq!(again.headers["content-type"], "application/json", "{path}");
        assert_eq!(again.is(201), first, "{path}");
        assert_eq!(count().await, made, "{path}");
        let other = platform.once(key, path, &json!({"name": "other"})).await;
        other.refuses(409, "conflict", &[&format!("`{key}` was used for another request")]);
    }
}

#[tokio::test]
async fn a_token_that_is_made_once_works_and_a_key_is_of_one_token() {
    let platform = Platform::start().await;
    let body = json!({"name": "ci", "role": "admin"});
    let first = platform.once("k", "/v1/tokens", &body).await.is(201);
    let again = platform.once("k", "/v1/tokens", &body).await.is(201);
    let secret = again["secret"].as_str().unwrap();
    assert_eq!(first["secret"], secret);
    platform.call_as(secret, Method::GET, "/v1/whoami", Value::Null).await.is(200);
    let by_another = request(secret, Method::POST, "/v1/tokens").header("idempotency-key", "k");
    let made = platform.send(by_another.body(Body::from(body.to_string())).unwrap()).await.is(201);
    assert_ne!(made["id"], first["id"]);
    // What was refused has not used its key up.
    platform.once("l", "/v1/tokens", &json!({"name": ""})).await.refuses(400, "invalid_request", &["name"]);
    platform.once("l", "/v1/tokens", &body).await.is(201);
}

#[tokio::test]
async fn of_two_at_the_same_time_one_is_carried_out() {
    let platform = Platform::start().await;
    let body = json!({"name": "twin"});
    let (one, other) =
        tokio::join!(platform.once("k", "/v1/tokens", &body), platform.once("k", "/v1/tokens", &body));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert!(matches!(statuses, [201, 201 | 409]), "{statuses:?}");
    let tokens = platform.get("/v1/tokens").await;
    let twins = tokens["items"].as_array().unwrap().iter().filter(|token| token["name"] == "twin");
    assert_eq!(twins.count(), 1);
    assert_eq!(platform.once("k", "/v1/tokens", &body).await.status, 201);
}

#[tokio::test]
async fn a_request_whose_reply_was_lost_is_not_carried_out_again() {
    let platform = Platform::start().await;
    let tokens = platform.get("/v1/tokens").await;
    let token: TokenId = tokens["items"][0]["id"].as_str().unwrap().parse().unwrap();
    let body = json!({"name": "alice"});
    let request_hash = blake3::hash(format!("POST /v1/users\n{body}").as_bytes()).to_string();
    let mut tx = platform.context.store.write().await.unwrap();
    assert!(store::once::claim(&mut tx, token, ("k", &request_hash), Timestamp::now()).await.unwrap());
    tx.commit().await.unwrap();
    let again = platform.once("k", "/v1/users", &body).await;
    again.refuses(409, "conflict", &["was carried out at", "look for what it has made"]);
    assert_eq!(platform.get("/v1/users").await["items"], json!([]));
}
