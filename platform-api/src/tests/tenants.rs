//! Users, members and their tokens: what somebody may do is what holds now.

use axum::http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

use super::fixture::{LIMIT, Platform, component, eventually, quick, request};
use crate::access::Caller;
use crate::context::hash_secret;
use crate::store;

const MEMBERS: &str = "/v1/namespaces/default/members";

impl Platform {
    async fn whoami(&self, token: &str) -> Value {
        self.call_as(token, Method::GET, "/v1/whoami", Value::Null).await.is(200)
    }
}

#[tokio::test]
async fn a_role_is_what_it_is_now_whatever_token_asks() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let alice = platform.member("alice", "default", "viewer").await;
    let scale = "/v1/namespaces/default/apps/hello/scale";
    let refused = platform.call_as(&alice, Method::PUT, scale, json!({"replicas": 2})).await;
    refused.refuses(403, "forbidden", &["role `developer`", "`laptop` of `alice`", "`viewer`"]);

    let set = async |role: &str| {
        platform.call(Method::PUT, &format!("{MEMBERS}/alice"), json!({"role": role})).await.is(200)
    };
    set("developer").await;
    platform.call_as(&alice, Method::PUT, scale, json!({"replicas": 2})).await.is(200);
    assert_eq!(
        platform.whoami(&alice).await["memberships"],
        json!([{"namespace": "default", "role": "developer"}])
    );
    set("viewer").await;
    assert_eq!(platform.call_as(&alice, Method::PUT, scale, json!({"replicas": 1})).await.status, 403);
    platform.call(Method::DELETE, &format!("{MEMBERS}/alice"), Value::Null).await.is(204);
    let gone = platform.call_as(&alice, Method::PUT, scale, json!({"replicas": 1})).await;
    gone.refuses(404, "not_found", &["there is no namespace `default`"]);
    // The token is still hers; there is only nothing left that it opens.
    assert_eq!(platform.whoami(&alice).await["memberships"], json!([]));
    let seen = platform.call_as(&alice, Method::GET, "/v1/namespaces", Value::Null).await.is(200);
    assert_eq!(seen["items"], json!([]));
}

#[tokio::test]
async fn an_admin_of_a_namespace_looks_after_its_members_and_no_others() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let alice = platform.member("alice", "default", "admin").await;
    let bob = platform.member("bob", "other", "developer").await;
    let put = async |token: &str, path: &str, role: &str| {
        platform.call_as(token, Method::PUT, path, json!({"role": role})).await
    };
    let added = put(&alice, &format!("{MEMBERS}/bob"), "viewer").await.is(200);
    assert_eq!((&added["user"], &added["by"]), (&json!("bob"), &json!("alice")));
    let listed = platform.call_as(&bob, Method::GET, MEMBERS, Value::Null).await.is(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    put(&bob, &format!("{MEMBERS}/bob"), "admin").await.refuses(403, "forbidden", &["role `admin`"]);
    put(&alice, "/v1/namespaces/other/members/alice", "admin").await.refuses(404, "not_found", &["`other`"]);
    put(&alice, &format!("{MEMBERS}/nobody"), "viewer").await.refuses(
        404,
        "not_found",
        &["wharf user add nobody"],
    );
    platform.call_as(&alice, Method::DELETE, &format!("{MEMBERS}/bob"), Value::Null).await.is(204);
    for user in ["bob", "nobody"] {
        let twice = platform.call_as(&alice, Method::DELETE, &format!("{MEMBERS}/{user}"), Value::Null).await;
        twice.refuses(404, "not_found", &["is no member", user]);
    }
}

#[tokio::test]
async fn users_make_list_and_revoke_their_own_tokens_only() {
    let platform = Platform::start().await;
    let alice = platform.member("alice", "default", "developer").await;
    let bob = platform.member("bob", "default", "admin").await;
    let create =
        async |token: &str, body: Value| platform.call_as(token, Method::POST, "/v1/tokens", body).await;
    let made =
        create(&alice, json!({"name": "ci", "namespace": "default", "verbs": ["deploy"]})).await.is(201);
    let ci = made["secret"].as_str().unwrap();
    create(&alice, json!({"name": "x", "user": "bob"})).await.refuses(
        403,
        "forbidden",
        &["for `alice` only"],
    );
    create(&alice, json!({"name": "x", "namespace": "nowhere"})).await.refuses(
        404,
        "not_found",
        &["`nowhere`"],
    );
    create(ci, json!({"name": "x"})).await.refuses(403, "forbidden", &["limited", "without limits"]);
    let long = create(&alice, json!({"name": "x", "expires_in": "5000d"})).await;
    long.refuses(422, "invalid_spec", &["ten years"]);
    let dead = create(&alice, json!({"name": "x", "expires_in": "0s"})).await;
    dead.refuses(422, "invalid_spec", &["expires_in", "`30d`"]);

    let listed = async |token: &str| {
        let page = platform.call_as(token, Method::GET, "/v1/tokens", Value::Null).await.is(200);
        assert!(!page.to_string().contains(ci), "a secret is shown once");
        page["items"].as_array().unwrap().clone()
    };
    let names: Vec<Value> = listed(&alice).await.iter().map(|token| token["name"].clone()).collect();
    assert_eq!(names, ["laptop", "ci"]);
    assert_eq!(listed(&bob).await.len(), 1);
    assert_eq!(listed(&platform.admin).await.len(), 4);

    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    let theirs = platform.call_as(&bob, Method::DELETE, &path, Value::Null).await;
    theirs.refuses(404, "not_found", &["there is no token"]);
    platform.call_as(&alice, Method::DELETE, &path, Value::Null).await.is(204);
    let reply = platform.call_as(ci, Method::GET, "/v1/whoami", Value::Null).await;
    reply.refuses(401, "unauthenticated", &["revoked"]);
}

#[tokio::test]
async fn a_removed_user_has_no_token_left_and_a_new_one_of_the_name_is_somebody_else() {
    let platform = Platform::start().await;
    let alice = platform.member("alice", "default", "admin").await;
    let made = platform.call(Method::POST, "/v1/users", json!({"name": "alice"})).await;
    made.refuses(409, "already_exists", &["`alice`"]);
    platform.call(Method::DELETE, "/v1/users/alice", Value::Null).await.is(204);
    assert_eq!(platform.call_as(&alice, Method::GET, "/v1/whoami", Value::Null).await.status, 401);
    platform.call(Method::POST, "/v1/users", json!({"name": "alice"})).await.is(201);
    assert_eq!(platform.get(MEMBERS).await["items"], json!([]));
    assert_eq!(platform.get("/v1/users").await["items"][0]["memberships"], json!([]));
    assert_eq!(platform.call_as(&alice, Method::GET, "/v1/whoami", Value::Null).await.status, 401);
}

#[tokio::test]
async fn a_removed_members_open_streams_and_waits_end_at_once() {
    let platform = Platform::start().await;
    let deployed = platform.deploy("hello", &component(0), quick()).await.is(201);
    let alice = platform.member("alice", "default", "viewer").await;
    let stream =
        request(&alice, Method::GET, "/v1/namespaces/default/events").header("accept", "text/event-stream");
    let stream = stream.body(axum::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(platform.router.clone(), stream).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = tokio::spawn(response.into_body().collect());

    let rollout = deployed["rollout"].as_str().unwrap();
    let path = format!("/v1/namespaces/default/apps/hello/rollouts/{rollout}?wait=60s");
    let removed = async {
        let both_wait = async || (platform.context.access_watchers() == 2).then_some(());
        eventually("the stream and the other request are under way", both_wait).await;
        platform.call(Method::DELETE, &format!("{MEMBERS}/alice"), Value::Null).await.is(204);
    };
    let waiting = platform.call_as(&alice, Method::GET, &path, Value::Null);
    let (waited, _) = timeout(LIMIT, futures::future::join(waiting, removed)).await.unwrap();
    waited.refuses(404, "not_found", &["there is no namespace `default`"]);
    timeout(Duration::from_secs(1), body).await.expect("the stream has ended").unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let platform = Platform::start().await;
    let brief = platform.token("viewer", None, "300ms").await;
    let stream =
        request(&brief, Method::GET, "/v1/namespaces/default/events").header("accept", "text/event-stream");
    let stream = stream.body(axum::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(platform.router.clone(), stream).await.unwrap();
    assert_eq!(response.status(), 200);
    timeout(LIMIT, response.into_body().collect()).await.expect("the stream has ended").unwrap();
}

#[tokio::test]
async fn who_changes_too_much_is_told_to_wait_and_others_go_on() {
    let platform = Platform::start().await;
    let alice = platform.member("alice", "default", "developer").await;
    let mut conn = platform.context.store.look().await.unwrap();
    let found = store::token::find_by_hash(&mut conn, &hash_secret(&alice)).await.unwrap().unwrap();
    drop(conn);
    let caller = Caller { token: found.info, owner: found.owner, memberships: Vec::new() };
    let job = "/v1/namespaces/default/jobs/none";
    let mut refused = None;
    // A moment later there is room for one again.
    for _ in 0..1000 {
        while platform.context.pace.take(&caller).is_ok() {}
        let reply = platform.call_as(&alice, Method::DELETE, job, Value::Null).await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.unwrap();
    refused.refuses(429, "busy", &["`alice`", "100 changes a second"]);
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    platform.call_as(&alice, Method::GET, "/v1/namespaces/default/jobs", Value::Null).await.is(200);
    platform.call(Method::DELETE, job, Value::Null).await.refuses(404, "not_found", &["none"]);
}
