//! Quotas of namespaces: growth ends at the limit, and everything else goes on.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::Digest;

use super::fixture::{Platform, Reply, component, eventually, quick, request};
use super::worker::Worker;

const QUOTA: &str = "/v1/namespaces/default/quota";

impl Platform {
    async fn set_quota(&self, quota: Value) -> Value {
        self.call(Method::PUT, QUOTA, quota).await.is(200)
    }

    async fn used(&self, what: &str) -> Value {
        self.get(QUOTA).await["used"][what].clone()
    }

    async fn scale(&self, app: &str, replicas: u32) -> Reply {
        let path = format!("/v1/namespaces/default/apps/{app}/scale");
        self.call(Method::PUT, &path, json!({"replicas": replicas})).await
    }

    async fn put_secret(&self, name: &str) -> Reply {
        let path = format!("/v1/namespaces/default/secrets/{name}");
        self.send(request(&self.admin, Method::PUT, &path).body(Body::from("value")).unwrap()).await
    }
}

fn reserving(memory: &str, cpu: &str, replicas: u32) -> Value {
    json!({
        "update": {"monitor": "20ms"},
        "reserve": {"memory": memory, "cpu": cpu},
        "scale": {"replicas": replicas},
    })
}

#[tokio::test]
async fn apps_and_instances_stop_growing_at_their_limits() {
    let platform = Platform::start().await;
    platform.set_quota(json!({"apps": 2, "instances": 4})).await;
    platform.deploy("one", &component(0), quick()).await.is(201);
    platform.deploy("two", &component(0), quick()).await.is(201);
    let third = platform.deploy("three", &component(0), quick()).await;
    third.refuses(
        403,
        "quota_exceeded",
        &["apps: the namespace uses 2 of 2", "1 more", "delete an app", "wharf quota set -n default --apps"],
    );
    assert_eq!(platform.get("/v1/namespaces/default/apps").await["items"].as_array().unwrap().len(), 2);

    platform.scale("one", 3).await.is(200);
    let refused = platform.scale("two", 2).await;
    refused.refuses(
        403,
        "quota_exceeded",
        &["instances: the namespace uses 4 of 4, and this asks for 1 more", "scale down"],
    );
    assert_eq!(platform.app("two").await["replicas"], 1, "nothing was changed");
    platform.scale("one", 2).await.is(200);
    platform.scale("two", 2).await.is(200);
    // Back to what the release asks for is more than what `scale` has set.
    platform.scale("two", 0).await.is(200);
    platform.scale("one", 4).await.is(200);
    let path = "/v1/namespaces/default/apps/two/scale";
    let reset = platform.call(Method::PUT, path, json!({"replicas": null})).await;
    reset.refuses(403, "quota_exceeded", &["instances"]);
}

#[tokio::test]
async fn memory_and_processors_count_for_each_instance_as_the_scheduler_counts_them() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), reserving("64MiB", "500m", 2)).await.is(201);
    assert_eq!(platform.used("memory_bytes").await, 128 << 20);
    assert_eq!(platform.used("cpu_millis").await, 1000);
    // Without a reservation an HTTP app reserves what its instances hold while they are idle.
    platform.deploy("idle", &component(0), quick()).await.is(201);
    assert_eq!(platform.used("memory_bytes").await, 129 << 20);
    platform.set_quota(json!({"memory_bytes": 130 << 20, "cpu_millis": 1200})).await;
    let more = platform.deploy("hello", &component(0), reserving("66MiB", "500m", 2)).await;
    more.refuses(
        403,
        "quota_exceeded",
        &["memory: the namespace uses 129MiB of 130MiB, and this asks for 4MiB more"],
    );
    let more = platform.deploy("hello", &component(0), reserving("60MiB", "700m", 2)).await;
    more.refuses(403, "quota_exceeded", &["cpu: the namespace uses 1 of 1200m, and this asks for 400m more"]);
    platform.deploy("hello", &component(0), reserving("60MiB", "500m", 2)).await.is(201);
    let back = "/v1/namespaces/default/apps/hello/rollback";
    platform.call(Method::POST, back, json!({"release": 1})).await.is(201);
    platform.set_quota(json!({"memory_bytes": 126 << 20})).await;
    platform.deploy("hello", &component(0), reserving("30MiB", "500m", 2)).await.is(201);
    platform.call(Method::POST, back, json!({"release": 1})).await.refuses(
        403,
        "quota_exceeded",
        &["memory"],
    );
}

#[tokio::test]
async fn volumes_secrets_and_pushed_octets_are_limited_too() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let bytes = component(0).len() as u64;
    let used =
        platform.set_quota(json!({"artifact_bytes": bytes + 3, "secrets": 1, "volume_bytes": 2 << 20})).await;
    assert_eq!(used["used"]["artifact_bytes"], bytes);
    platform.push("default", &component(1)).await.refuses(403, "quota_exceeded", &["artifacts", "more"]);
    platform.push("default", &component(0)).await.is(200);
    let mut writer = wharf_types::archive::Writer::new(Vec::new());
    writer.append("a.txt", 1, &b"a"[..]).unwrap();
    let archive = writer.finish().unwrap().0;
    platform.push_files(&archive).await.refuses(403, "quota_exceeded", &["artifacts"]);

    platform.put_secret("one").await.is(200);
    platform.put_secret("two").await.refuses(
        403,
        "quota_exceeded",
        &["secrets: the namespace uses 1 of 1", "remove a secret"],
    );
    let path = "/v1/namespaces/default/secrets/one";
    let again = request(&platform.admin, Method::PUT, path).body(Body::from("another value")).unwrap();
    platform.send(again).await.is(200);

    let with = |size: &str| json!({"volumes": [{"name": "data", "path": "/data", "size": size}]});
    let large = platform.deploy("hello", &component(0), with("3MiB")).await;
    large.refuses(
        403,
        "quota_exceeded",
        &["volumes: the namespace uses 0B of 2MiB, and this asks for 3MiB more"],
    );
    platform.deploy("hello", &component(0), with("2MiB")).await.is(201);
}

#[tokio::test]
async fn a_limit_below_what_is_used_only_refuses_growth_and_is_told() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    platform.scale("hello", 12).await.is(200);
    let set = platform.set_quota(json!({"instances": 10})).await;
    assert_eq!(set["over"], json!(["instances: used 12 of 10"]));
    platform.scale("hello", 13).await.refuses(403, "quota_exceeded", &["uses 12 of 10"]);
    platform.scale("hello", 11).await.is(200);
    platform.deploy("hello", &component(1), quick()).await.is(201);
    platform.set_quota(json!({})).await;
    assert_eq!(platform.get(QUOTA).await["quota"]["instances"], Value::Null);
    platform.scale("hello", 13).await.is(200);
    let wrong = platform.call(Method::PUT, QUOTA, json!({"instance": 1})).await;
    wrong.refuses(400, "invalid_request", &["`instance`"]);
}

/// Such as the API of the platform itself, the metadata of a cloud's machine, or what another tenant listens at.
#[tokio::test]
async fn private_destinations_are_granted_where_a_cluster_admin_has_allowed_them() {
    let platform = Platform::start().await;
    let ann = platform.member("ann", "default", "developer").await;
    platform.push("default", &component(0)).await.is(201);
    let spec = |grant: &str| json!({"outbound": {"allow": [grant]}, "update": {"monitor": "20ms"}});
    let deploy = async |token: &str, grant: &str| {
        let body = json!({"artifact": Digest::of(&component(0)), "spec": spec(grant)});
        platform.call_as(token, Method::POST, "/v1/namespaces/default/apps/shop/releases", body).await
    };
    let metadata = "http://169.254.169.254";
    let words = ["outbound.allow: `http://169.254.169.254`", "--private-outbound 169.254.169.254:80"];
    deploy(&ann, metadata).await.refuses(403, "forbidden", &words);
    deploy(&ann, "https://*").await.is(201);
    let resource = json!({
        "kind": "app", "namespace": "default", "name": "shop", "artifact": Digest::of(&component(0)), "spec": spec(metadata),
    });
    let request = json!({"resources": [resource]});
    let plan = platform.call_as(&ann, Method::POST, "/v1/plans", request.clone()).await.is(200);
    assert!(plan["errors"][0]["detail"].as_str().unwrap().contains(words[0]), "{plan}");
    platform.call_as(&ann, Method::POST, "/v1/applies", request).await.refuses(403, "forbidden", &words);

    // What a cluster admin has given goes on, and is no way back once it has been given up.
    deploy(&platform.admin, metadata).await.is(201);
    let path = "/v1/namespaces/default/apps/shop/env";
    platform.call_as(&ann, Method::PATCH, path, json!({"set": {"A": "1"}})).await.is(201);
    deploy(&ann, "http://127.0.0.1:*").await.refuses(403, "forbidden", &["`http://127.0.0.1:*`"]);
    deploy(&ann, "https://*").await.is(201);
    let path = "/v1/namespaces/default/apps/shop/rollback";
    let back = platform.call_as(&ann, Method::POST, path, json!({"release": 2})).await;
    back.refuses(403, "forbidden", &words);

    let wrong = platform.call(Method::PUT, QUOTA, json!({"private_outbound": ["localhost"]})).await;
    wrong.refuses(422, "invalid_spec", &["`localhost` is no private destination"]);
    platform.set_quota(json!({"private_outbound": ["169.254.0.0/16:80"]})).await;
    deploy(&ann, metadata).await.is(201);
    deploy(&ann, "http://169.254.169.254:*").await.refuses(403, "forbidden", &["169.254.169.254:*`"]);
}

#[tokio::test]
async fn a_priority_beyond_the_quota_is_given_by_cluster_admins_only_and_stays() {
    let platform = Platform::start().await;
    let ann = platform.member("ann", "default", "developer").await;
    platform.push("default", &component(0)).await.is(201);
    let spec = |priority: &str| json!({"placement": {"priority": priority}, "update": {"monitor": "20ms"}});
    let deploy = async |token: &str, priority: &str| {
        let body = json!({"artifact": Digest::of(&component(0)), "spec": spec(priority)});
        platform.call_as(token, Method::POST, "/v1/namespaces/default/apps/shop/releases", body).await
    };
    let words =
        ["placement.priority: `high`", "ask for `normal`", "wharf quota set -n default --priority high"];
    deploy(&ann, "high").await.refuses(403, "quota_exceeded", &words);
    deploy(&ann, "normal").await.is(201);
    let resource = json!({
        "kind": "app", "namespace": "default", "name": "shop", "artifact": Digest::of(&component(0)), "spec": spec("high"),
    });
    let request = json!({"resources": [resource]});
    let plan = platform.call_as(&ann, Method::POST, "/v1/plans", request.clone()).await.is(200);
    assert!(plan["errors"][0]["detail"].as_str().unwrap().contains(words[0]), "{plan}");
    platform.call_as(&ann, Method::POST, "/v1/applies", request).await.refuses(403, "quota_exceeded", &words);

    // What a cluster admin has given goes on, and is no way back once it has been given up.
    deploy(&platform.admin, "high").await.is(201);
    deploy(&ann, "high").await.is(201);
    let path = "/v1/namespaces/default/apps/shop/env";
    platform.call_as(&ann, Method::PATCH, path, json!({"set": {"A": "1"}})).await.is(201);
    deploy(&ann, "normal").await.is(201);
    let path = "/v1/namespaces/default/apps/shop/rollback";
    let back = platform.call_as(&ann, Method::POST, path, json!({"release": 3})).await;
    back.refuses(403, "quota_exceeded", &words);

    platform.set_quota(json!({"priority": "high"})).await;
    deploy(&ann, "high").await.is(201);
    platform.set_quota(json!({"priority": "low"})).await;
    let refused = platform.call_as(
        &ann,
        Method::POST,
        "/v1/namespaces/default/apps/other/releases",
        json!({
            "artifact": Digest::of(&component(0)), "spec": spec("normal"),
        }),
    );
    refused.await.refuses(403, "quota_exceeded", &["ask for `low`"]);
}

#[tokio::test]
async fn limits_that_somebody_else_has_set_meanwhile_are_not_overwritten() {
    let platform = Platform::start().await;
    let set = async |etag: &str, quota: Value| {
        let request = request(&platform.admin, Method::PUT, QUOTA).header("if-match", etag);
        let request = request.header("content-type", "application/json");
        platform.send(request.body(Body::from(quota.to_string())).unwrap()).await
    };
    let etag = async || {
        let shown = platform.call(Method::GET, QUOTA, Value::Null).await;
        shown.headers["etag"].to_str().unwrap().to_owned()
    };
    let read = etag().await;
    let first = set(&read, json!({"apps": 3})).await;
    assert_eq!(first.headers["etag"].to_str().unwrap(), etag().await);
    first.is(200);
    let refused = set(&read, json!({"secrets": 4})).await;
    refused.refuses(412, "precondition_failed", &["was changed since it was read", "read it again"]);
    assert_eq!(platform.get(QUOTA).await["quota"]["apps"], 3);
    set(&etag().await, json!({"apps": 3, "secrets": 4})).await.is(200);
    set("*", json!({})).await.is(200);
    assert_eq!(etag().await, read, "the limits of before have the revision of before");
    set("x", json!({})).await.refuses(400, "invalid_request", &["If-Match"]);
}

#[tokio::test]
async fn of_many_at_once_no_more_get_through_than_there_is_room_for() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    platform.set_quota(json!({"apps": 3})).await;
    let deploys = (0..10).map(|number| {
        let body = json!({"artifact": Digest::of(&component(0)), "spec": quick()});
        let path = format!("/v1/namespaces/default/apps/app-{number}/releases");
        let platform = &platform;
        async move { platform.call(Method::POST, &path, body).await.status }
    });
    let statuses = futures::future::join_all(deploys).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 3, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 403).count(), 7, "{statuses:?}");
}

#[tokio::test]
async fn a_rate_of_requests_reaches_the_ingresses_with_the_routes() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    platform.set_quota(json!({"requests_per_second": 7})).await;
    eventually("the route table has the limit", async || {
        let limits = worker.newest()?.routes.limits.clone();
        (limits.len() == 1 && limits[0].requests_per_second == Some(7)).then_some(())
    })
    .await;
    platform.set_quota(json!({"memory_bytes": 64 << 20, "cpu_millis": 500})).await;
    eventually("it has what guests may use", async || {
        let limits = worker.newest()?.routes.limits.clone();
        let limit = limits.first()?;
        let bounds = (limit.requests_per_second, limit.memory_bytes, limit.cpu_millis);
        (bounds == (None, Some(64 << 20), Some(500))).then_some(())
    })
    .await;
    platform.set_quota(json!({})).await;
    eventually("the route table has none", async || worker.newest()?.routes.limits.is_empty().then_some(()))
        .await;
}
