//! Secrets: who is delivered what, which versions are kept, and what is refused.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::secret::{SecretContent, ValueKind};
use wharf_types::{NamespaceName, SecretVersionId, Timestamp};

use super::fixture::{Platform, Reply, component, eventually, quick, request};
use super::worker::Worker;
use crate::secrets::Sealed;
use crate::store;
use crate::store::secret::SealedVersion;

const SECRETS: &str = "/v1/namespaces/default/secrets";

async fn set(platform: &Platform, name: &str, value: &str) -> Reply {
    let path = format!("{SECRETS}/{name}");
    let put = request(&platform.admin, Method::PUT, &path).body(Body::from(value.to_owned()));
    platform.send(put.unwrap()).await
}

fn using(variable: &str, secret: &str) -> Value {
    let mut spec = quick();
    spec["secrets"] = json!({variable: secret});
    spec
}

/// The values that a worker's newest assignment brought.
fn delivered(worker: &Worker) -> Vec<String> {
    let Some(assignment) = worker.newest() else { return Vec::new() };
    let value = |content: &SecretContent| match content {
        SecretContent::Value(value) => value.reveal().to_owned(),
        SecretContent::Unreadable(problem) => panic!("{problem}"),
    };
    assignment.secrets.iter().map(|secret| value(&secret.content)).collect()
}

#[tokio::test]
async fn only_a_node_with_an_instance_that_uses_a_secret_gets_it_and_only_for_so_long() {
    let platform = Platform::start().await;
    let workers = [Worker::join(&platform).await, Worker::join(&platform).await];
    set(&platform, "used", "hush").await.is(200);
    set(&platform, "unused", "nobody asks for it").await.is(200);
    let deployed = platform.deploy("hello", &component(0), using("PASSWORD", "used")).await.is(201);
    assert!(platform.rollout("hello", &deployed).await["state"] == "monitoring");

    let (mut with, mut without) = (Vec::new(), Vec::new());
    for worker in &workers {
        let runs = worker.newest().is_some_and(|assignment| !assignment.instances.is_empty());
        if runs { with.push(worker) } else { without.push(worker) }
    }
    assert_eq!((with.len(), without.len()), (1, 1), "one instance is on one node");
    assert_eq!(delivered(with[0]), ["hush"]);
    let instance = &with[0].newest().unwrap().instances[0];
    assert_eq!(instance.secrets["PASSWORD"], with[0].newest().unwrap().secrets[0].id);
    for (_, assignment) in without[0].assignments() {
        assert!(assignment.secrets.is_empty());
    }

    set(&platform, "used", "hush again").await.is(200);
    eventually("the old value is no longer there", async || {
        let all: Vec<String> = workers.iter().flat_map(delivered).collect();
        (all == ["hush again"]).then_some(())
    })
    .await;
    platform.call(Method::DELETE, "/v1/namespaces/default/apps/hello", Value::Null).await;
    eventually("no value is left", async || {
        workers.iter().all(|worker| delivered(worker).is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_version_is_kept_as_long_as_it_is_the_newest_or_a_release_uses_it() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    let versions = async || platform.get(SECRETS).await["items"][0]["versions"].clone();
    for value in ["one", "two", "three"] {
        set(&platform, "password", value).await.is(200);
    }
    assert_eq!(versions().await, json!([3]), "nobody used the others");
    let deployed = platform.deploy("hello", &component(0), using("PASSWORD", "password")).await.is(201);
    platform.rollout("hello", &deployed).await;
    let changed = set(&platform, "password", "four").await.is(200);
    assert_eq!((&changed["version"], &changed["releases"][0]["release"]), (&json!(4), &json!(2)));
    platform.rollout("hello", &changed["releases"][0]).await;
    assert_eq!(versions().await, json!([3, 4]));

    let path = format!("{SECRETS}/password");
    let refused = platform.call(Method::DELETE, &path, Value::Null).await;
    refused.refuses(409, "conflict", &["`password`", "hello (1, 2)"]);
    platform.call(Method::DELETE, "/v1/namespaces/default/apps/hello", Value::Null).await;
    eventually("the version of the app that is gone is gone", async || {
        (versions().await == json!([4])).then_some(())
    })
    .await;
    assert_eq!(platform.call(Method::DELETE, &path, Value::Null).await.status, 204);
    assert_eq!(platform.get(SECRETS).await["items"], json!([]));
}

#[tokio::test]
async fn a_row_that_was_changed_is_told_and_what_does_not_use_it_goes_on() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    set(&platform, "password", "hush").await.is(200);
    let mut tx = platform.context.store.write().await.unwrap();
    let namespace =
        store::namespace::find(&mut tx, &NamespaceName::default_namespace()).await.unwrap().unwrap();
    let name = "password".parse().unwrap();
    let mut row = store::secret::find(&mut tx, namespace.id, &name).await.unwrap().unwrap();
    *row.sealed.octets.last_mut().unwrap() ^= 1;
    store::secret::reseal(&mut tx, row.id, &row.sealed).await.unwrap();
    tx.commit().await.unwrap();

    let refused = platform.deploy("hello", &component(0), using("PASSWORD", "password")).await;
    refused.refuses(503, "unavailable", &["`password` (version 1)", "changed or is damaged"]);
    let key = platform.dir.path().join("data/secret.key");
    let before = std::fs::read(&key).unwrap();
    let refused = platform.call(Method::POST, "/v1/secret-keys", Value::Null).await;
    refused.refuses(409, "conflict", &["`password` (version 1)", "changed or is damaged"]);
    assert_eq!(std::fs::read(&key).unwrap(), before, "no key was made in vain");
    let other = platform.deploy("other", &component(0), quick()).await.is(201);
    assert_eq!(platform.rollout("other", &other).await["state"], "monitoring");
    set(&platform, "password", "hush").await.is(200);
    platform.deploy("hello", &component(0), using("PASSWORD", "password")).await.is(201);
    // The row that cannot be opened is gone, so a key can be replaced again.
    assert_eq!(platform.call(Method::POST, "/v1/secret-keys", Value::Null).await.is(201)["resealed"], 1);
}

#[tokio::test]
async fn a_namespace_has_a_thousand_secrets_at_most() {
    let platform = Platform::start().await;
    let mut tx = platform.context.store.write().await.unwrap();
    let namespace =
        store::namespace::find(&mut tx, &NamespaceName::default_namespace()).await.unwrap().unwrap();
    for number in 0..1000 {
        let row = SealedVersion {
            id: SecretVersionId::new(),
            namespace: namespace.id,
            name: format!("s{number}").parse().unwrap(),
            kind: ValueKind::Secret,
            version: 1,
            sealed: Sealed { key_id: "none".to_owned(), octets: Vec::new() },
        };
        store::secret::create(&mut tx, &row, "test", Timestamp::UNIX_EPOCH).await.unwrap();
    }
    tx.commit().await.unwrap();
    set(&platform, "one-more", "x").await.refuses(403, "quota_exceeded", &["1000 secrets and configs"]);
    assert_eq!(set(&platform, "s7", "x").await.is(200)["version"], 2);
}

#[tokio::test]
async fn a_value_that_cannot_be_taken_is_not_repeated() {
    let platform = Platform::start().await;
    let long = set(&platform, "password", &"hush".repeat(20_000)).await;
    long.refuses(413, "too_large", &["64 KiB"]);
    let nul = set(&platform, "password", "hush\0").await;
    nul.refuses(400, "invalid_request", &["NUL"]);
    for reply in [long, nul] {
        assert!(!reply.json.to_string().contains("hush"), "{}", reply.json);
    }
    set(&platform, "password", "").await.refuses(400, "invalid_request", &["empty"]);
    set(&platform, "PASS", "x").await.refuses(400, "invalid_request", &["lower-case"]);
}
