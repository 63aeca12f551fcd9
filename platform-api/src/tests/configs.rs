//! Configs: values that may be read, beside secrets of which none may.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use super::fixture::{Platform, Reply, component, quick, request};
use super::worker::Worker;
use crate::store;

const CONFIGS: &str = "/v1/namespaces/default/configs";
const SECRETS: &str = "/v1/namespaces/default/secrets";

pub(super) async fn put(platform: &Platform, path: &str, value: &str) -> Reply {
    let put = request(&platform.admin, Method::PUT, path).body(Body::from(value.to_owned()));
    platform.send(put.unwrap()).await
}

fn using(table: &str, name: &str) -> Value {
    let mut spec = quick();
    spec[table] = json!({"GREETING": name});
    spec
}

#[tokio::test]
async fn a_changed_config_is_a_release_and_each_version_that_is_used_can_be_read() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    let config = format!("{CONFIGS}/greeting");
    assert_eq!(put(&platform, &config, "hello").await.is(200)["version"], 1);
    let deployed = platform.deploy("hello", &component(0), using("configs", "greeting")).await.is(201);
    platform.arrives(&deployed).await;
    let assigned = worker.newest().unwrap();
    assert_eq!(assigned.instances[0].secrets["GREETING"], assigned.secrets[0].id);

    let changed = put(&platform, &config, "good day").await.is(200);
    assert_eq!((&changed["version"], &changed["releases"][0]["release"]), (&json!(2), &json!(2)));
    platform.arrives(&changed["releases"][0]).await;
    assert_eq!(platform.get(&config).await, json!({"name": "greeting", "version": 2, "value": "good day"}));
    assert_eq!(platform.get(&format!("{config}?version=1")).await["value"], "hello");
    let none = platform.call(Method::GET, &format!("{config}?version=7"), Value::Null).await;
    none.refuses(404, "not_found", &["no version 7", "newest is 2"]);
    let listed = platform.get(CONFIGS).await;
    assert_eq!(
        (&listed["items"][0]["versions"], &listed["items"][0]["apps"]),
        (&json!([1, 2]), &json!(["hello"]))
    );
    assert_eq!(platform.get(SECRETS).await["items"], json!([]), "it is no secret");
    platform.call(Method::DELETE, &config, Value::Null).await.refuses(409, "conflict", &["hello (1, 2)"]);

    let records = platform.get("/v1/audit?object=configs/greeting").await;
    let changed = &records["items"][1];
    assert_eq!(
        (&changed["before"]["value"], &changed["after"]["value"]),
        (&json!("hello"), &json!("good day"))
    );
}

#[tokio::test]
async fn a_name_is_of_one_kind() {
    let platform = Platform::start().await;
    put(&platform, &format!("{SECRETS}/password"), "hush").await.is(200);
    put(&platform, &format!("{CONFIGS}/greeting"), "hello").await.is(200);
    let twice = put(&platform, &format!("{CONFIGS}/password"), "hush").await;
    twice.refuses(409, "conflict", &["`password` is a secret", "wharf secret ls"]);
    let twice = put(&platform, &format!("{SECRETS}/greeting"), "hello").await;
    twice.refuses(409, "conflict", &["`greeting` is a config"]);
    let read = platform.call(Method::GET, &format!("{CONFIGS}/password"), Value::Null).await;
    read.refuses(409, "conflict", &["`password` is a secret"]);
    let removed = platform.call(Method::DELETE, &format!("{CONFIGS}/password"), Value::Null).await;
    removed.refuses(409, "conflict", &["`password` is a secret"]);
    for (table, name, says) in [
        ("configs", "password", "`password` is a secret, not a config; name it in `secrets` instead"),
        ("secrets", "greeting", "`greeting` is a config, not a secret; name it in `configs` instead"),
    ] {
        let refused = platform.deploy("hello", &component(0), using(table, name)).await;
        refused.refuses(422, "invalid_spec", &[says]);
    }
    let missing = platform.deploy("hello", &component(0), using("configs", "nothing")).await;
    missing.refuses(404, "not_found", &["there is no config `nothing`", "wharf config set nothing"]);
}

#[tokio::test]
async fn a_viewer_sees_the_names_of_configs_and_a_developer_their_values() {
    let platform = Platform::start().await;
    let config = format!("{CONFIGS}/greeting");
    put(&platform, &config, "hello").await.is(200);
    let viewer = platform.token("viewer", None, "1h").await;
    platform.call_as(&viewer, Method::GET, CONFIGS, Value::Null).await.is(200);
    platform.call_as(&viewer, Method::GET, &config, Value::Null).await.refuses(
        403,
        "forbidden",
        &["developer"],
    );
    let developer = platform.token("developer", None, "1h").await;
    platform.call_as(&developer, Method::GET, &config, Value::Null).await.is(200);
}

/// Whoever can change rows cannot make a secret readable.
#[tokio::test]
async fn a_secret_whose_row_says_config_does_not_open() {
    let platform = Platform::start().await;
    put(&platform, &format!("{SECRETS}/password"), "hush").await.is(200);
    let mut tx = platform.context.store.write().await.unwrap();
    store::query("UPDATE secret_version SET readable = TRUE").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let read = platform.call(Method::GET, &format!("{CONFIGS}/password"), Value::Null).await;
    read.refuses(503, "unavailable", &["changed or is damaged"]);
    assert!(!read.json.to_string().contains("hush"));
}
