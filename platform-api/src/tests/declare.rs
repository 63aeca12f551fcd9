//! Declared resources are planned, applied as a whole, and pruned.

use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::Digest;

use super::database;
use super::fixture::{Platform, component, quick, request};
use crate::store;

const PLANS: &str = "/v1/plans";
const APPLIES: &str = "/v1/applies";

fn app(name: &str, spec: Value) -> Value {
    json!({"kind": "app", "namespace": "default", "name": name, "artifact": Digest::of(&component(0)), "spec": spec})
}

fn counts(reply: &Value) -> [u64; 4] {
    ["create", "update", "delete", "unchanged"].map(|name| reply["counts"][name].as_u64().unwrap())
}

impl Platform {
    async fn post(&self, path: &str, body: Value) -> super::fixture::Reply {
        self.call(Method::POST, path, body).await
    }

    async fn plan(&self, resources: &[Value]) -> Value {
        let plan = self.post(PLANS, json!({"resources": resources})).await.is(200);
        assert_eq!(plan["errors"], json!([]));
        plan
    }

    async fn apply(&self, resources: &[Value]) -> Value {
        self.post(APPLIES, json!({"resources": resources})).await.is(200)
    }
}

#[tokio::test]
async fn a_plan_writes_nothing_and_what_was_applied_plans_nothing() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let resources = [app("a", quick()), app("b", json!({"env": {"A": "1"}}))];
    assert_eq!(counts(&platform.plan(&resources).await), [2, 0, 0, 0]);
    assert_eq!(platform.get("/v1/namespaces/default/apps").await["items"], json!([]));

    let applied = platform.apply(&resources).await;
    assert_eq!(counts(&applied), [2, 0, 0, 0]);
    assert_eq!(applied["changes"][1]["release"], 1);
    assert!(applied["changes"][1]["rollout"].is_string());
    assert_eq!(counts(&platform.plan(&resources).await), [0, 0, 0, 2]);
    let releases = platform.get("/v1/namespaces/default/apps/b/releases").await;
    assert_eq!(
        (&releases["items"][0]["cause"], &releases["items"][0]["spec"]["env"]),
        (&json!("apply"), &json!({"A": "1"}))
    );
}

#[tokio::test]
async fn what_was_changed_by_hand_is_a_difference_and_goes() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let resources = [app("a", json!({"scale": {"replicas": 2}}))];
    platform.apply(&resources).await;
    let path = "/v1/namespaces/default/apps/a";
    platform.call(Method::PATCH, &format!("{path}/env"), json!({"set": {"X": "1"}})).await.is(201);
    platform.call(Method::PUT, &format!("{path}/scale"), json!({"replicas": 5})).await.is(200);
    let plan = platform.plan(&resources).await;
    assert_eq!(
        plan["changes"][0]["fields"],
        json!([{"path": "env.X", "before": "1", "after": null}, {"path": "scale.replicas", "before": 5, "after": 2}])
    );
    let applied = platform.apply(&resources).await;
    assert_eq!(applied["changes"][0]["release"], 3);
    assert_eq!(platform.get(path).await["replicas"], 2);
    assert_eq!(platform.get(&format!("{path}/env")).await, json!({}));
    assert_eq!(counts(&platform.plan(&resources).await), [0, 0, 0, 1]);
    platform.call(Method::PATCH, &format!("{path}/env"), json!({"reset": ["X"]})).await.is(201);
    assert_eq!(platform.get(&format!("{path}/env")).await, json!({}), "nothing is left of what `env` set");
}

#[tokio::test]
async fn only_another_number_of_instances_makes_no_release() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    platform.apply(&[app("a", json!({}))]).await;
    let applied = platform.apply(&[app("a", json!({"scale": {"replicas": 3}}))]).await;
    assert_eq!(counts(&applied), [0, 1, 0, 0]);
    assert_eq!(applied["changes"][0].get("release"), None);
    let now = platform.app("a").await;
    assert_eq!((&now["replicas"], &now["release"]), (&json!(3), &json!(1)));
    let many = json!({"resources": [app("a", json!({"scale": {"replicas": 5000}}))]});
    platform.post(APPLIES, many).await.refuses(
        422,
        "invalid_spec",
        &["scale.replicas: 5000 is more than 1000"],
    );
}

#[tokio::test]
async fn every_error_is_told_and_nothing_is_applied() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    platform.deploy("owner", &component(0), json!({"http": {"routes": ["taken.example.com"]}})).await.is(201);
    let mut lacking = app("no-artifact", json!({}));
    lacking["artifact"] = json!(Digest::of(b"nothing"));
    let mut stranger = app("stranger", json!({}));
    stranger["namespace"] = json!("nowhere");
    let resources = [
        app("good", json!({})),
        app("secret", json!({"secrets": {"P": "missing-one", "Q": "missing-two"}})),
        app("route", json!({"http": {"routes": ["taken.example.com"]}})),
        app("twin", json!({"http": {"routes": ["shared.example.com"]}})),
        app("other-twin", json!({"http": {"routes": ["shared.example.com"]}})),
        app("spec", json!({"scale": {"replicas": 5000}})),
        lacking,
        stranger,
    ];
    let plan = platform.post(PLANS, json!({"resources": resources})).await.is(200);
    let errors: Vec<String> = plan["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| format!("{} {} {}", error["name"], error["code"], error["detail"]))
        .collect();
    for (at, words) in [
        "\"secret\" \"not_found\" \"there is no secret `missing-one`",
        "\"secret\" \"not_found\" \"there is no secret `missing-two`",
        "\"route\" \"route_taken\" \"the route `taken.example.com/` belongs to the app `owner`",
        "\"other-twin\" \"route_taken\" \"the app default/twin is declared with the route",
        "\"spec\" \"invalid_spec\" \"scale.replicas",
        "\"no-artifact\" \"not_found\" \"the namespace `default` has no artifact",
        "\"stranger\" \"not_found\" \"there is no namespace `nowhere`; declare it",
    ]
    .iter()
    .enumerate()
    {
        assert!(errors[at].contains(words), "{at}: {errors:#?}");
    }
    assert_eq!(errors.len(), 7);
    let fields: Vec<&Value> =
        plan["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(
        fields,
        [
            "secrets.P",
            "secrets.Q",
            "http.routes[1]",
            "http.routes[1]",
            "scale.replicas",
            "artifact",
            "namespace"
        ]
    );
    let refused = platform.post(APPLIES, json!({"resources": resources})).await;
    refused.refuses(404, "not_found", &["app default/secret", "app nowhere/stranger", "nothing was applied"]);
    platform.call(Method::GET, "/v1/namespaces/default/apps/good", Value::Null).await.refuses(
        404,
        "not_found",
        &[],
    );
}

#[tokio::test]
async fn what_the_schema_forbids_is_no_plan_and_all_of_it_is_told() {
    let platform = Platform::start().await;
    let mut stranger = app("stranger", json!({"tcp": {"ports": [7000, 80]}}));
    stranger["namespace"] = json!("nowhere");
    let image = app("image", json!({"container": {"http_port": 0}, "tcp": {"ports": vec![7000; 17]}}));
    let resources = json!({"resources": [app("good", json!({})), stranger, image]});
    let words = [
        "app nowhere/stranger: tcp.ports: port 80 is below 1024",
        "app default/image: tcp.ports: 17 ports",
        "app default/image: container.http_port: 0 is not a port",
        "nothing was applied",
    ];
    platform.post(PLANS, resources).await.refuses(422, "invalid_spec", &words);
    // What the types forbid has a place in the request.
    let typed = json!({"resources": [app("a", json!({"update": {"max_failure_ratio": 5000}}))]});
    platform.post(PLANS, typed.clone()).await.refuses(400, "invalid_request", &["line 1 column"]);
    platform.post(APPLIES, typed).await.refuses(400, "invalid_request", &["line 1 column"]);
    // A rule between settings is what a plan is asked about.
    let ruled = json!({"resources": [app("a", json!({"update": {"max_failure_ratio": 4001}}))]});
    let plan = platform.post(PLANS, ruled).await.is(200);
    assert!(plan["errors"].to_string().contains("is more than 100%"), "{plan}");
}

#[tokio::test]
async fn a_base_that_moved_is_refused_with_who_moved_it() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    platform.apply(&[app("a", json!({})), app("b", json!({}))]).await;
    let resources = [app("a", json!({"args": ["x"]})), app("b", json!({})), app("c", json!({}))];
    let plan = platform.plan(&resources).await;
    let with_base = json!({"resources": resources, "base": plan["base"]});
    platform.deploy("elsewhere", &component(0), json!({})).await.is(201);
    assert_eq!(
        platform.plan(&resources).await["base"].as_str().unwrap().split_once('.').unwrap().1,
        plan["base"].as_str().unwrap().split_once('.').unwrap().1,
        "another app moves nothing"
    );
    platform.call(Method::PUT, "/v1/namespaces/default/apps/b/scale", json!({"replicas": 2})).await.is(200);
    let refused = platform.post(APPLIES, with_base).await;
    let words = ["the app `b` in `default` was changed", "scaled from 1 to 2 by admin", "plan again"];
    refused.refuses(412, "precondition_failed", &words);
    let plan = platform.plan(&resources).await;
    platform.post(APPLIES, json!({"resources": resources, "base": plan["base"]})).await.is(200);
    let nonsense = json!({"resources": resources, "base": "x"});
    platform.post(APPLIES, nonsense).await.refuses(400, "invalid_request", &["base"]);
}

#[tokio::test]
async fn an_apply_that_is_sent_twice_gets_its_first_reply() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let send = async |body: Value| {
        let request = request(&platform.admin, Method::POST, APPLIES).header("idempotency-key", "k");
        platform.send(request.body(body.to_string().into()).unwrap()).await
    };
    let first = send(json!({"resources": [app("a", json!({}))]})).await.is(200);
    let second = send(json!({"resources": [app("a", json!({}))]})).await.is(200);
    assert_eq!(first, second);
    let other = send(json!({"resources": [app("b", json!({}))]})).await;
    other.refuses(409, "conflict", &["`k` was used for another request"]);
}

#[tokio::test]
async fn the_reply_that_is_sent_again_has_no_values_of_configs() {
    let platform = Platform::start().await;
    let config = json!({"kind": "config", "namespace": "default", "name": "greeting", "value": "good day"});
    let send = async || {
        let request = request(&platform.admin, Method::POST, APPLIES).header("idempotency-key", "k");
        let body = json!({"resources": [config]}).to_string();
        platform.send(request.body(body.into()).unwrap()).await.is(200)
    };
    let (first, second) = (send().await, send().await);
    assert_eq!(first["changes"][0]["fields"][0]["after"], "good day");
    assert_eq!((&second["counts"], &second["changes"][0]["action"]), (&first["counts"], &json!("create")));
    assert!(!second.to_string().contains("good day"), "{second}");
}

#[tokio::test]
async fn apps_of_a_set_that_are_not_declared_any_more_are_deleted() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let pruned = |resources: &[Value], set: &str| json!({"resources": resources, "prune": {"set": set}});
    platform.deploy("by-hand", &component(0), json!({})).await.is(201);
    let both = [app("a", json!({})), app("b", json!({}))];
    platform.post(APPLIES, pruned(&both, "shop")).await.is(200);
    platform.post(APPLIES, pruned(&[app("c", json!({}))], "other")).await.is(200);

    let plan = platform.post(PLANS, pruned(&both[..1], "shop")).await.is(200);
    assert_eq!((counts(&plan), &plan["changes"][1]["name"]), ([0, 0, 1, 1], &json!("b")));
    let part = json!({"resources": &both[..1], "prune": {"set": "shop", "keep": true}});
    assert_eq!(counts(&platform.post(PLANS, part).await.is(200)), [0, 0, 0, 1], "a part deletes nothing");
    platform.post(APPLIES, pruned(&both[..1], "shop")).await.is(200);
    let names = async || {
        let apps = platform.get("/v1/namespaces/default/apps").await;
        let names =
            apps["items"].as_array().unwrap().iter().map(|app| app["app"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    super::fixture::eventually("b is gone", async || (names().await == ["a", "by-hand", "c"]).then_some(()))
        .await;
    // An app that is applied under another set belongs to that from then on.
    let moved = platform.post(APPLIES, pruned(&both[..1], "other")).await.is(200);
    assert_eq!(moved["changes"][0]["fields"], json!([{"path": "set", "before": "shop", "after": "other"}]));
}

#[tokio::test]
async fn a_plan_holds_while_an_app_that_is_being_deleted_goes() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let both = [app("a", json!({})), app("b", json!({}))];
    let pruned = json!({"resources": &both[..1], "prune": {"set": "shop"}});
    for _ in 0..5 {
        platform.post(APPLIES, json!({"resources": both, "prune": {"set": "shop"}})).await.is(200);
        platform.post(APPLIES, pruned.clone()).await.is(200);
        let plan = platform.post(PLANS, pruned.clone()).await.is(200);
        assert_eq!(counts(&plan), [0, 0, 0, 1]);
        super::fixture::eventually("b is gone", async || {
            let app = platform.call(Method::GET, "/v1/namespaces/default/apps/b", json!({})).await;
            (app.status == 404).then_some(())
        })
        .await;
        let mut apply = pruned.clone();
        apply["base"] = plan["base"].clone();
        platform.post(APPLIES, apply).await.is(200);
    }
}

#[tokio::test]
async fn a_namespace_is_made_with_its_apps_by_an_admin_only() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let mut inside = app("hello", json!({}));
    inside["namespace"] = json!("team");
    let resources = [inside, json!({"kind": "namespace", "name": "team"})];
    let developer = platform.token("developer", None, "1h").await;
    let as_developer = async |path: &str| {
        platform.call_as(&developer, Method::POST, path, json!({"resources": resources})).await
    };
    let plan = as_developer(PLANS).await.is(200);
    assert_eq!(
        (&plan["errors"][0]["code"], &plan["errors"][0]["kind"]),
        (&json!("forbidden"), &json!("namespace"))
    );
    as_developer(APPLIES).await.refuses(403, "forbidden", &["namespace team", "role `admin`"]);
    let applied = platform.apply(&resources).await;
    assert_eq!(counts(&applied), [2, 0, 0, 0]);
    platform.get("/v1/namespaces/team/apps/hello").await;
    assert_eq!(counts(&platform.plan(&resources).await), [0, 0, 0, 2]);
}

#[tokio::test]
async fn a_token_of_one_namespace_reaches_no_other() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    platform.push("default", &component(0)).await.is(201);
    let bound = platform.token("developer", Some("other"), "1h").await;
    for (path, body) in [
        (PLANS, json!({"resources": [app("a", json!({}))]})),
        (APPLIES, json!({"resources": [app("a", json!({}))]})),
        (
            APPLIES,
            json!({"resources": [{"kind": "namespace", "name": "other"}], "prune": {"set": "s", "namespaces": ["default"]}}),
        ),
    ] {
        let reply = platform.call_as(&bound, Method::POST, path, body).await;
        reply.refuses(404, "not_found", &["there is no namespace `default`"]);
    }
}

#[tokio::test]
async fn requests_that_say_nothing_or_one_thing_twice_are_refused() {
    let platform = Platform::start().await;
    platform.post(PLANS, json!({"resources": []})).await.refuses(400, "invalid_request", &["there are none"]);
    let twice = json!({"resources": [app("a", json!({})), app("a", json!({}))]});
    platform.post(APPLIES, twice).await.refuses(422, "invalid_spec", &["app default/a is declared twice"]);
}

#[tokio::test]
async fn an_apps_declaration_applies_without_a_change() {
    let platform = Platform::start().await;
    platform
        .deploy("hello", &component(0), json!({"env": {"A": "1"}, "limits": {"memory": "64MiB"}}))
        .await
        .is(201);
    platform
        .call(Method::PUT, "/v1/namespaces/default/apps/hello/scale", json!({"replicas": 4}))
        .await
        .is(200);
    let declared = platform.get("/v1/namespaces/default/apps/hello/declaration").await;
    assert_eq!(
        declared["spec"],
        json!({"env": {"A": "1"}, "limits": {"memory": "64MiB"}, "scale": {"replicas": 4}})
    );
    assert_eq!(counts(&platform.plan(&[declared]).await), [0, 0, 0, 1]);
}

#[tokio::test]
async fn a_secret_that_changed_alone_is_no_difference() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let path = "/v1/namespaces/default/secrets/db";
    let set = async |value: &'static str| {
        let put = request(&platform.admin, Method::PUT, path).body(value.into()).unwrap();
        platform.send(put).await.is(200)
    };
    set("one").await;
    let resources = [app("a", json!({"secrets": {"P": "db"}}))];
    let applied = platform.apply(&resources).await;
    assert!(!applied.to_string().contains("one"), "{applied}");
    set("two").await;
    assert_eq!(counts(&platform.plan(&resources).await), [0, 0, 0, 1]);
}

#[tokio::test]
async fn an_apply_with_a_large_config_is_recorded_with_all_that_it_changed() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let config =
        |value: String| json!({"kind": "config", "namespace": "default", "name": "page", "value": value});
    platform.apply(&[config("x".repeat(20 << 10)), app("web", json!({"configs": {"PAGE": "page"}}))]).await;
    let records = platform.audit("namespace=default").await;
    let record = records.iter().find(|record| record["after"]["changes"].is_array());
    let changes = record.map(|record| record["after"]["changes"].clone()).unwrap_or_default();
    assert_eq!(
        (&changes[0]["resource"], &changes[0]["action"]),
        (&json!("config default/page"), &json!("create"))
    );
    assert!(changes[0]["fields"]["too_large_bytes"].as_u64() > Some(20 << 10), "{changes}");
    assert_eq!((&changes[1]["resource"], &changes[1]["release"]), (&json!("app default/web"), &json!(1)));
}

#[tokio::test]
async fn a_plan_finds_values_that_are_too_large_for_one_release_and_names_that_are_too_many() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let config = |name: String, bytes: usize| {
        let value = "x".repeat(bytes);
        json!({"kind": "config", "namespace": "default", "name": name, "value": value})
    };
    let configs =
        |bytes: usize| (0..5).map(|number| config(format!("c{number}"), bytes)).collect::<Vec<Value>>();
    let spec = json!({"configs": {"A": "c0", "B": "c1", "C": "c2", "D": "c3", "E": "c4"}});
    platform.apply(&configs(1)).await;
    platform.deploy("outside", &component(0), spec.clone()).await.is(201);
    let mut resources = configs(60 << 10);
    resources.push(app("web", spec));
    let errors_of = async |resources: &[Value]| {
        let plan = platform.post(PLANS, json!({"resources": resources})).await.is(200);
        plan["errors"].as_array().unwrap().clone()
    };
    let errors = errors_of(&resources).await;
    let names: Vec<&Value> = errors.iter().map(|error| &error["name"]).collect();
    assert_eq!(names, ["web", "outside"], "{errors:?}");
    for error in &errors {
        assert!(
            error["detail"].as_str().unwrap().contains("307200 bytes in all, more than 262144"),
            "{error}"
        );
    }
    let applied = platform.post(APPLIES, json!({"resources": resources})).await;
    applied.refuses(422, "invalid_spec", &["app default/web", "app default/outside"]);

    let many: Vec<Value> = (0..996).map(|number| config(format!("more-{number}"), 1)).collect();
    let errors = errors_of(&many).await;
    assert_eq!((errors.len(), &errors[0]["name"]), (1, &json!("more-995")), "{errors:?}");
    assert_eq!(errors_of(&many[1..]).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_config_whose_rollout_went_back_is_planned_and_applied_again() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    let resources = |value: &str| {
        let config = json!({"kind": "config", "namespace": "default", "name": "greeting", "value": value});
        [config, app("web", json!({"configs": {"GREETING": "greeting"}}))]
    };
    platform.apply(&resources("A")).await;
    // The same in no file.
    let spec = json!({"configs": {"GREETING": "greeting"}});
    platform.deploy("outside", &component(0), spec).await.is(201);
    assert_eq!(counts(&platform.apply(&resources("B")).await), [0, 3, 0, 0]);
    assert_eq!(counts(&platform.plan(&resources("B")).await), [0, 0, 0, 2]);

    // What a rollout does that fails.
    let mut tx = platform.context.store.write().await.unwrap();
    for name in ["web", "outside"] {
        let namespace = "default".parse().unwrap();
        let app = store::app::find(&mut tx, &namespace, &name.parse().unwrap()).await.unwrap().unwrap();
        let first = store::release::find(&mut tx, app.id, 1).await.unwrap().unwrap();
        store::app::set_target(&mut tx, app.id, Some(first.id)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let planned = platform.plan(&resources("B")).await;
    assert_eq!(counts(&planned), [0, 2, 0, 1], "{planned}");
    let field = |at: usize| &planned["changes"][at]["fields"][0];
    for (at, app) in [(1, "web"), (2, "outside")] {
        assert_eq!(planned["changes"][at]["name"], app);
        let (path, after) = (json!("configs.GREETING"), json!("greeting, version 2"));
        assert_eq!((&field(at)["path"], &field(at)["after"]), (&path, &after), "{planned}");
    }
    let applied = platform.apply(&resources("B")).await;
    assert_eq!(
        (&applied["changes"][1]["release"], &applied["changes"][2]["release"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(platform.get("/v1/namespaces/default/configs/greeting").await["version"], 2);
    assert_eq!(counts(&platform.plan(&resources("B")).await), [0, 0, 0, 2]);
}

/// The figures of the guide are of `cargo test --release`: `ten_thousand -- --nocapture`.
#[tokio::test]
async fn ten_thousand_apps_are_planned_and_applied_as_a_whole() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    // Each of its statements is a message to another process there, which takes unoptimised code a while.
    let all: u64 = if database::is_postgres() { 500 } else { 10_000 };
    let last = usize::try_from(all).unwrap() - 1;
    let mut resources: Vec<Value> = (0..all)
        .map(|number| app(&format!("app-{number}"), json!({"env": {"NUMBER": number.to_string()}})))
        .collect();
    let timed = async |path: &str, resources: &[Value]| {
        let begun = std::time::Instant::now();
        let reply = platform.post(path, json!({"resources": resources})).await.is(200);
        println!("{path}: {} ms", begun.elapsed().as_millis());
        counts(&reply)
    };
    assert_eq!(timed(PLANS, &resources).await, [all, 0, 0, 0]);
    resources[last]["spec"]["secrets"] = json!({"P": "missing"});
    let refused = platform.post(APPLIES, json!({"resources": resources})).await;
    refused.refuses(404, "not_found", &[&format!("app default/app-{last}")]);
    assert_eq!(platform.get("/v1/namespaces/default/apps").await["items"], json!([]), "all or nothing");
    resources[last]["spec"]["secrets"] = json!({});
    assert_eq!(timed(APPLIES, &resources).await, [all, 0, 0, 0]);
    assert_eq!(timed(PLANS, &resources).await, [0, 0, 0, all]);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let platform = Platform::start().await;
    let size = wharf_types::declare::REQUEST_MAX_BYTES + 1;
    let large = request(&platform.admin, Method::POST, PLANS).body(vec![b' '; size].into()).unwrap();
    platform.send(large).await.refuses(413, "too_large", &[]);
}
