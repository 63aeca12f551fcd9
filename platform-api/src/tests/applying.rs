//! What else goes on while a file is applied, and what a quota says of all of it.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;
use wharf_types::declare::change::ApplyRequest;
use wharf_types::problem::ProblemCode;
use wharf_types::{Digest, NamespaceName, Problem, Timestamp, TokenId};

use super::fixture::{LIMIT, Platform, component, eventually};
use crate::operations::{self, AskedApply, OperationError};
use crate::store;

const PLANS: &str = "/v1/plans";
const APPLIES: &str = "/v1/applies";
const QUOTA: &str = "/v1/namespaces/default/quota";

fn app(name: &str, spec: Value) -> Value {
    json!({"kind": "app", "namespace": "default", "name": name, "artifact": Digest::of(&component(0)), "spec": spec})
}

fn apps(count: usize, spec: &Value) -> Vec<Value> {
    (0..count).map(|at| app(&format!("app-{at}"), spec.clone())).collect()
}

fn request(resources: &[Value], base: Option<&Value>) -> ApplyRequest {
    serde_json::from_value(json!({"resources": resources, "base": base})).unwrap()
}

fn asked() -> AskedApply {
    AskedApply {
        by: "test".to_owned(),
        token: TokenId::new(),
        no_namespaces: None,
        once: None,
        now: Timestamp::now(),
    }
}

impl Platform {
    async fn plan_of(&self, resources: &[Value]) -> Value {
        self.call(Method::POST, PLANS, json!({"resources": resources})).await.is(200)
    }

    /// Another number of instances for an app, in a transaction that is under way.
    async fn scale_in(&self, tx: &mut store::Tx, name: &str, replicas: u32) {
        let namespace = NamespaceName::default_namespace();
        let app = store::app::find(tx, &namespace, &name.parse().unwrap()).await.unwrap().unwrap();
        store::app::set_scale(tx, app.id, Some(replicas)).await.unwrap();
        store::change::touch(tx, app.id, Timestamp::now()).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_quota_refuses_is_told_without_the_writer_at_the_first_resource_beyond() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    platform.call(Method::PUT, QUOTA, json!({"apps": 3})).await.is(200);
    let resources = apps(50, &json!({}));
    let (request, asked) = (request(&resources, None), asked());

    let writing = platform.context.store.write().await.unwrap();
    let applying = operations::apply(&platform.context, &asked, &request);
    let refused = timeout(LIMIT, applying).await.expect("it needs no writer").unwrap_err();
    let OperationError::Problem(problem) = refused else { panic!("{refused}") };
    assert_eq!(problem.code, ProblemCode::QuotaExceeded);
    let words = "app default/app-3: apps: the namespace uses 0 of 3, and this asks for 50 more";
    assert!(problem.detail.starts_with(words), "{problem}");
    let plan = timeout(LIMIT, platform.plan_of(&resources)).await.expect("nor does a plan");
    drop(writing);

    let error = &plan["errors"][0];
    assert_eq!((&error["name"], &error["code"]), (&json!("app-3"), &json!("quota_exceeded")));
    assert_eq!(plan["errors"].as_array().unwrap().len(), 1);
    assert_eq!(platform.get("/v1/namespaces/default/apps").await["items"], json!([]));
}

#[tokio::test]
async fn a_plan_and_an_apply_count_the_same() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let of = |replicas: u32| json!({"scale": {"replicas": replicas}, "reserve": {"memory": "8MiB"}});
    platform.call(Method::POST, APPLIES, json!({"resources": [app("a", of(3))]})).await.is(200);
    platform.call(Method::PUT, QUOTA, json!({"instances": 4, "memory_bytes": 32 << 20})).await.is(200);
    // What becomes less makes room for what becomes more, wherever they stand.
    for (replicas, first) in [
        ([1, 2, 1], None),
        ([4, 0, 0], None),
        ([3, 2, 0], Some("b")),
        ([2, 1, 2], Some("c")),
        ([5, 0, 0], Some("a")),
        ([0, 0, 4], None),
    ] {
        let [a, b, c] = replicas.map(of);
        let resources = [app("a", a), app("b", b), app("c", c)];
        let plan = platform.plan_of(&resources).await;
        let told: Vec<Option<&str>> =
            plan["errors"].as_array().unwrap().iter().map(|error| error["name"].as_str()).collect();
        // Instances and memory are beyond at once.
        assert_eq!(told, [first, first].into_iter().filter(Option::is_some).collect::<Vec<_>>(), "{plan}");
        let applied = platform.call(Method::POST, APPLIES, json!({"resources": resources})).await;
        match first {
            None => drop(applied.is(200)),
            Some(name) => {
                applied.refuses(403, "quota_exceeded", &[&format!("app default/{name}: instances: ")]);
            }
        }
    }
    let used = platform.get(QUOTA).await["used"].clone();
    assert_eq!((&used["apps"], &used["instances"]), (&json!(3), &json!(4)));
    assert_eq!(used["memory_bytes"], 32 << 20);
}

#[tokio::test]
async fn volumes_and_configs_are_counted_in_a_plan() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    platform.call(Method::PUT, QUOTA, json!({"volume_bytes": 3 << 20, "secrets": 1})).await.is(200);
    let of = |size: &str| json!({"volumes": [{"name": "data", "path": "/data", "size": size}]});
    let config = |name: &str| json!({"kind": "config", "namespace": "default", "name": name, "value": "x"});
    let resources =
        [config("one"), config("two"), app("a", of("1MiB")), app("b", of("2MiB")), app("c", of("1MiB"))];
    let plan = platform.plan_of(&resources).await;
    let told: Vec<&str> =
        plan["errors"].as_array().unwrap().iter().map(|error| error["name"].as_str().unwrap()).collect();
    assert_eq!(told, ["c", "two"], "{plan}");
    let fits = [config("one"), app("a", of("1MiB")), app("b", of("2MiB"))];
    platform.call(Method::POST, APPLIES, json!({"resources": fits})).await.is(200);
    assert_eq!(platform.plan_of(&fits).await["errors"], json!([]));
    let plan = platform.plan_of(&[app("a", of("2MiB"))]).await;
    assert_eq!(plan["errors"][0]["name"], "a", "{plan}");
}

#[tokio::test]
async fn what_changes_after_a_file_was_checked_is_seen_before_it_is_carried_out() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let before = [app("a", json!({"scale": {"replicas": 2}}))];
    platform.call(Method::POST, APPLIES, json!({"resources": before})).await.is(200);
    let resources = [app("a", json!({"scale": {"replicas": 2}, "args": ["x"]})), app("b", json!({}))];
    let (request, asked) = (request(&resources, None), asked());

    let mut writing = platform.context.store.write().await.unwrap();
    let mut applying = Box::pin(operations::apply(&platform.context, &asked, &request));
    let early = timeout(Duration::from_millis(200), &mut applying).await;
    assert!(early.is_err(), "somebody else writes");
    platform.scale_in(&mut writing, "a", 5).await;
    writing.commit().await.unwrap();

    let applied = timeout(LIMIT, applying).await.expect("it goes on").unwrap();
    assert_eq!((applied.counts.create, applied.counts.update), (1, 1));
    let fields: Vec<&str> = applied.changes[0].fields.iter().map(|field| field.path.as_str()).collect();
    assert_eq!(fields, ["args", "scale.replicas"], "what was done is told, and not what was planned");
    assert_eq!(platform.app("a").await["replicas"], 2);
}

#[tokio::test]
async fn a_priority_that_is_taken_back_after_it_was_checked_is_refused() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    platform.call(Method::PUT, QUOTA, json!({"priority": "high"})).await.is(200);
    let resources = [app("a", json!({"placement": {"priority": "high"}}))];
    let no_namespaces = Some(Problem::new(ProblemCode::Forbidden, "only a cluster admin may"));
    let (request, asked) = (request(&resources, None), AskedApply { no_namespaces, ..asked() });

    let mut writing = platform.context.store.write().await.unwrap();
    let mut applying = Box::pin(operations::apply(&platform.context, &asked, &request));
    assert!(timeout(Duration::from_millis(200), &mut applying).await.is_err(), "somebody else writes");
    let namespace = store::namespace::find_id(&mut writing, &NamespaceName::default_namespace()).await;
    let namespace = namespace.unwrap().unwrap();
    store::quota::delete(&mut writing, namespace).await.unwrap();
    writing.commit().await.unwrap();

    let refused = timeout(LIMIT, applying).await.expect("it goes on").unwrap_err();
    let OperationError::Problem(problem) = refused else { panic!("{refused}") };
    assert_eq!(problem.code, ProblemCode::QuotaExceeded, "{problem}");
    assert!(problem.detail.starts_with("app default/a: placement.priority: `high`"), "{problem}");
    assert!(problem.detail.ends_with("; nothing was applied"), "{problem}");
}

#[tokio::test]
async fn a_base_that_moves_after_it_was_checked_is_refused() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    platform.call(Method::POST, APPLIES, json!({"resources": [app("a", json!({}))]})).await.is(200);
    let resources = [app("a", json!({"args": ["x"]})), app("b", json!({}))];
    let plan = platform.plan_of(&resources).await;
    let (request, asked) = (request(&resources, Some(&plan["base"])), asked());

    let mut writing = platform.context.store.write().await.unwrap();
    let mut applying = Box::pin(operations::apply(&platform.context, &asked, &request));
    assert!(timeout(Duration::from_millis(200), &mut applying).await.is_err(), "somebody else writes");
    platform.scale_in(&mut writing, "a", 5).await;
    writing.commit().await.unwrap();

    let refused = timeout(LIMIT, applying).await.expect("it goes on").unwrap_err();
    let OperationError::Problem(problem) = refused else { panic!("{refused}") };
    assert_eq!(problem.code, ProblemCode::PreconditionFailed, "{problem}");
    let apps = platform.get("/v1/namespaces/default/apps").await;
    assert_eq!(apps["items"].as_array().unwrap().len(), 1, "nothing was applied");
}

#[tokio::test]
async fn many_apps_are_made_changed_scaled_and_deleted_as_one_is() {
    // Not a power of two, so that there are pieces of every length.
    const COUNT: usize = 103;
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let send = async |resources: Vec<Value>| {
        let body = json!({"resources": resources, "prune": {"set": "many"}});
        platform.call(Method::POST, APPLIES, body).await.is(200)
    };
    let releases = |reply: &Value| -> Vec<Option<u64>> {
        reply["changes"].as_array().unwrap().iter().map(|change| change["release"].as_u64()).collect()
    };

    let made = send(apps(COUNT, &json!({}))).await;
    assert_eq!((&made["counts"]["create"], releases(&made)), (&json!(COUNT), vec![Some(1); COUNT]));
    assert!(made["changes"][COUNT - 1]["rollout"].is_string());
    let changed = send(apps(COUNT, &json!({"args": ["x"]}))).await;
    assert_eq!((&changed["counts"]["update"], releases(&changed)), (&json!(COUNT), vec![Some(2); COUNT]));
    let scaled = send(apps(COUNT, &json!({"args": ["x"], "scale": {"replicas": 2}}))).await;
    assert_eq!((&scaled["counts"]["update"], releases(&scaled)), (&json!(COUNT), vec![None; COUNT]));
    for name in ["app-0", "app-64", "app-102"] {
        let kept = platform.get(&format!("/v1/namespaces/default/apps/{name}/releases")).await;
        let numbers: Vec<u64> =
            kept["items"].as_array().unwrap().iter().map(|kept| kept["release"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [2, 1], "{name}");
        assert_eq!(platform.app(name).await["replicas"], 2, "{name}");
    }

    let rest = send(vec![app("app-0", json!({"args": ["x"], "scale": {"replicas": 2}}))]).await;
    assert_eq!((&rest["counts"]["delete"], &rest["counts"]["unchanged"]), (&json!(COUNT - 1), &json!(1)));
    eventually("only one is left", async || {
        let apps = platform.get("/v1/namespaces/default/apps").await;
        (apps["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
}
