//! Namespaces come and go.

use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::Digest;

use super::fixture::{Platform, component, eventually, quick};

#[tokio::test]
async fn a_namespace_that_is_made_again_knows_nothing_of_the_one_before() {
    let platform = Platform::start().await;
    let other = "/v1/namespaces/other";
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    platform.push("other", &component(0)).await.is(201);
    let body = json!({"artifact": Digest::of(&component(0)), "spec": quick()});
    platform.call(Method::POST, &format!("{other}/apps/hello/releases"), body).await.is(201);
    platform.call(Method::DELETE, &format!("{other}/apps/hello"), Value::Null).await;
    eventually("the namespace is gone", async || {
        (platform.call(Method::DELETE, other, Value::Null).await.status == 204).then_some(())
    })
    .await;
    let logs = platform.dir.path().join("data/logs/other");
    assert!(!logs.exists());
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    for list in ["events", "apps"] {
        assert_eq!(platform.get(&format!("{other}/{list}")).await["items"], json!([]), "{list}");
    }
    assert_eq!(platform.get(&format!("{other}/usage")).await["apps"], json!([]));
}
