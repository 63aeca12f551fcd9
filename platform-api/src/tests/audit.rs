//! Every change that comes through the API leaves a record, and so does what was refused.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::Digest;
use wharf_types::exec::Frame;

use super::fixture::{Platform, Reply, component, eventually, quick, request};
use super::worker::Worker;
use crate::access::Access;
use crate::api::{endpoints, operation_id};
use crate::store;

const NS: &str = "/v1/namespaces/default";

impl Platform {
    pub(super) async fn audit(&self, query: &str) -> Vec<Value> {
        let page = self.get(&format!("/v1/audit?{query}")).await;
        page["items"].as_array().unwrap().clone()
    }

    async fn newest_record(&self) -> i64 {
        self.audit("cursor=0").await.last().map_or(0, |record| record["seq"].as_i64().unwrap())
    }

    async fn put_octets(&self, path: &str, octets: Vec<u8>) -> Reply {
        self.send(request(&self.admin, Method::PUT, path).body(Body::from(octets)).unwrap()).await
    }

    /// Carries out one example of an operation; what it needs is there or made before `from` is read.
    async fn example(&self, operation: &str) -> Option<(i64, Reply)> {
        let app = format!("{NS}/apps/hello");
        let call = async |method: Method, path: &str, body: Value| {
            let from = self.newest_record().await;
            Some((from, self.call(method, path, body).await))
        };
        match operation {
            "post_tokens" => call(Method::POST, "/v1/tokens", json!({"name": "x"})).await,
            "delete_token" => {
                let made = self.call(Method::POST, "/v1/tokens", json!({"name": "gone"})).await.is(201);
                call(Method::DELETE, &format!("/v1/tokens/{}", made["id"].as_str().unwrap()), Value::Null)
                    .await
            }
            "patch_node" => {
                // Instances that were given to a node that says nothing any more are waited for.
                let node = Worker::join(self).await.until_the_end();
                call(Method::PATCH, &format!("/v1/nodes/{node}"), json!({"labels": {"zone": "a"}})).await
            }
            "delete_node" => {
                let node = Worker::join(self).await.until_the_end();
                call(Method::DELETE, &format!("/v1/nodes/{node}"), Value::Null).await
            }
            "post_authorities" => call(Method::POST, "/v1/authorities", json!({})).await,
            "post_join_tokens" => call(Method::POST, "/v1/join-tokens", json!({})).await,
            "delete_join_token" => {
                let made = self.call(Method::POST, "/v1/join-tokens", json!({})).await.is(201);
                let path = format!("/v1/join-tokens/{}", made["id"].as_str().unwrap());
                call(Method::DELETE, &path, Value::Null).await
            }
            "post_users" => call(Method::POST, "/v1/users", json!({"name": "alice"})).await,
            "delete_user" => {
                self.call(Method::POST, "/v1/users", json!({"name": "gone"})).await.is(201);
                call(Method::DELETE, "/v1/users/gone", Value::Null).await
            }
            "put_namespace_member" => {
                self.call(Method::POST, "/v1/users", json!({"name": "bob"})).await.is(201);
                call(Method::PUT, &format!("{NS}/members/bob"), json!({"role": "viewer"})).await
            }
            "delete_namespace_member" => {
                self.member("carol", "default", "viewer").await;
                call(Method::DELETE, &format!("{NS}/members/carol"), Value::Null).await
            }
            "post_secret_keys" => call(Method::POST, "/v1/secret-keys", Value::Null).await,
            "post_namespaces" => call(Method::POST, "/v1/namespaces", json!({"name": "made"})).await,
            "delete_namespace" => {
                self.call(Method::POST, "/v1/namespaces", json!({"name": "gone"})).await.is(201);
                call(Method::DELETE, "/v1/namespaces/gone", Value::Null).await
            }
            "put_namespace_quota" => call(Method::PUT, &format!("{NS}/quota"), json!({"apps": 100})).await,
            "put_namespace_artifact" => {
                let from = self.newest_record().await;
                Some((from, self.push("default", &component(7)).await))
            }
            "put_namespace_file" => {
                let mut writer = wharf_types::archive::Writer::new(Vec::new());
                writer.append("a.txt", 1, &b"a"[..]).unwrap();
                let archive = writer.finish().unwrap().0;
                let from = self.newest_record().await;
                Some((from, self.push_files(&archive).await))
            }
            "put_namespace_secret" => {
                let from = self.newest_record().await;
                Some((from, self.put_octets(&format!("{NS}/secrets/db"), b"value".to_vec()).await))
            }
            "delete_namespace_secret" => {
                self.put_octets(&format!("{NS}/secrets/gone"), b"value".to_vec()).await.is(200);
                call(Method::DELETE, &format!("{NS}/secrets/gone"), Value::Null).await
            }
            "put_namespace_config" => {
                let from = self.newest_record().await;
                Some((from, self.put_octets(&format!("{NS}/configs/greeting"), b"hi".to_vec()).await))
            }
            "delete_namespace_config" => {
                self.put_octets(&format!("{NS}/configs/gone-config"), b"hi".to_vec()).await.is(200);
                call(Method::DELETE, &format!("{NS}/configs/gone-config"), Value::Null).await
            }
            "delete_namespace_volume" => {
                let volumes = json!({"volumes": [{"name": "data", "path": "/data", "size": "1MiB"}]});
                self.deploy("keeper", &component(0), volumes).await.is(201);
                self.call(Method::DELETE, &format!("{NS}/apps/keeper"), Value::Null).await;
                let id = eventually("the volume is nobody's", async || {
                    let volumes = self.get(&format!("{NS}/volumes")).await;
                    let kept =
                        volumes["items"].as_array()?.iter().find(|volume| volume["state"] == "kept")?;
                    Some(kept["id"].as_str()?.to_owned())
                })
                .await;
                call(Method::DELETE, &format!("{NS}/volumes/{id}"), Value::Null).await
            }
            "post_namespace_volume_backup" | "post_namespace_volume_restore" => {
                let way = operation.rsplit('_').next().unwrap();
                let (id, node) = self.kept_volume(&format!("of-{way}")).await;
                self.transfers(node, vec![Frame::Exit(0)]).await;
                let from = self.newest_record().await;
                Some((from, self.send(self.transfer_request(&self.admin, &id, way)).await))
            }
            "post_namespace_app_releases" => {
                let body = json!({"artifact": Digest::of(&component(0)), "spec": quick()});
                call(Method::POST, &format!("{app}/releases"), body).await
            }
            "post_namespace_app_rollback" => {
                call(Method::POST, &format!("{app}/rollback"), json!({"release": 1})).await
            }
            "put_namespace_app_scale" => {
                call(Method::PUT, &format!("{app}/scale"), json!({"replicas": 3})).await
            }
            "patch_namespace_app_env" => {
                call(Method::PATCH, &format!("{app}/env"), json!({"set": {"A": "s3cret"}})).await
            }
            "post_namespace_app_restart" => call(Method::POST, &format!("{app}/restart"), Value::Null).await,
            "post_namespace_app_exec" => {
                let node = self.runs_container("box").await;
                self.runs_commands(node, vec![Frame::Exit(0)]).await;
                let spec = json!({"command": ["id"], "env": {"A": "s3cret"}});
                let from = self.newest_record().await;
                Some((from, self.send(self.exec_request(&self.admin, "box", &spec)).await))
            }
            "post_namespace_app_copy" => {
                self.runs_container("copied").await;
                // It may be where another one runs already.
                let node =
                    self.app("copied").await["instances"][0]["node"].as_str().unwrap().parse().unwrap();
                self.copies(node, vec![Frame::Exit(0)]).await;
                let spec = json!({"way": "in", "path": "/srv"});
                let from = self.newest_record().await;
                Some((from, self.send(self.copy_request(&self.admin, "copied", &spec)).await))
            }
            "post_applies" => {
                let artifact = Digest::of(&component(0));
                let app =
                    json!({"kind": "app", "namespace": "default", "name": "declared", "artifact": artifact});
                call(Method::POST, "/v1/applies", json!({"resources": [app]})).await
            }
            "delete_namespace_app" => {
                self.deploy("gone", &component(0), quick()).await.is(201);
                call(Method::DELETE, &format!("{NS}/apps/gone"), Value::Null).await
            }
            "put_namespace_push_policy" => {
                call(Method::PUT, &format!("{NS}/push-policy"), json!({"creates_apps": false})).await
            }
            "patch_namespace_app_repository" => {
                call(Method::PATCH, &format!("{app}/repository"), json!({"branch": "live"})).await
            }
            "post_namespace_build_cancel" => {
                let build = self.build_under_way().await;
                call(Method::POST, &format!("{NS}/builds/{build}/cancel"), Value::Null).await
            }
            _ => match Box::pin(self.example_of_rollout(operation)).await {
                Some(done) => Some(done),
                None => Box::pin(self.example_of_job(operation)).await,
            },
        }
    }

    async fn build_under_way(&self) -> wharf_types::BuildId {
        let (id, now) = (wharf_types::BuildId::new(), wharf_types::Timestamp::now());
        let mut tx = self.context.store.write().await.unwrap();
        let namespace = store::namespace::find(&mut tx, &"default".parse().unwrap()).await.unwrap().unwrap();
        let app = "pushed".parse().unwrap();
        let repository = store::repository::ensure(&mut tx, namespace.id, &app, now).await.unwrap();
        let new = store::build::NewBuild {
            id,
            repository: repository.id,
            app: &app,
            branch: "main",
            commit: "0000",
            subject: "Say hello",
            by: "alice",
        };
        let state = wharf_types::api::BuildState::Building;
        store::build::create(&mut tx, &new, state, now).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    async fn example_of_rollout(&self, operation: &str) -> Option<(i64, Reply)> {
        let app = format!("{NS}/apps/moving");
        let wish = operation.strip_prefix("post_namespace_app_")?;
        let before: &[&str] = match wish {
            "rollout_pause" | "rollout_abort" | "stop" => &[],
            "rollout_resume" => &["rollout/pause"],
            "start" => &["stop"],
            _ => return None,
        };
        // Long enough that it is still under way when it is paused or aborted.
        let slow = json!({"update": {"monitor": "10m"}});
        self.deploy("moving", &component(0), slow).await.is(201);
        for step in before {
            self.call(Method::POST, &format!("{app}/{step}"), Value::Null).await.is(200);
        }
        let from = self.newest_record().await;
        let path = format!("{app}/{}", wish.replace('_', "/"));
        Some((from, self.call(Method::POST, &path, Value::Null).await))
    }

    async fn example_of_job(&self, operation: &str) -> Option<(i64, Reply)> {
        let command =
            wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap();
        self.push("default", &command).await;
        let template = json!({"artifact": Digest::of(&command), "spec": {"env": {"A": "s3cret"}}});
        let schedule = json!({"cron": "@daily", "job": template});
        let (jobs, nightly) = (format!("{NS}/jobs"), format!("{NS}/schedules/nightly"));
        let id = async || {
            let body = json!({"name": "import", "job": template});
            let made = self.call(Method::POST, &jobs, body).await.is(201);
            format!("{jobs}/{}", made["id"].as_str().unwrap())
        };
        let (method, path, body) = match operation {
            "post_namespace_jobs" => (Method::POST, jobs.clone(), json!({"name": "import", "job": template})),
            "post_namespace_job_cancel" => (Method::POST, format!("{}/cancel", id().await), Value::Null),
            "delete_namespace_job" => {
                let job = id().await;
                self.call(Method::POST, &format!("{job}/cancel"), Value::Null).await.is(200);
                eventually("the job has ended", async || {
                    let state = self.get(&job).await["state"].clone();
                    (state == "cancelled").then_some(())
                })
                .await;
                (Method::DELETE, job, Value::Null)
            }
            "put_namespace_schedule" => (Method::PUT, nightly, schedule),
            "post_namespace_schedule_suspend" => (Method::POST, format!("{nightly}/suspend"), Value::Null),
            "post_namespace_schedule_resume" => (Method::POST, format!("{nightly}/resume"), Value::Null),
            "post_namespace_schedule_run" => (Method::POST, format!("{nightly}/run"), Value::Null),
            "delete_namespace_schedule" => {
                let gone = format!("{NS}/schedules/gone");
                self.call(Method::PUT, &gone, schedule).await.is(201);
                (Method::DELETE, gone, Value::Null)
            }
            _ => return None,
        };
        let from = self.newest_record().await;
        Some((from, self.call(method, &path, body).await))
    }
}

#[tokio::test]
async fn every_route_that_changes_something_leaves_one_record() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    for endpoint in endpoints() {
        // What a push changes is asked for over the API, and recorded there.
        if endpoint.method == Method::GET
            || endpoint.speaks_git()
            || matches!(endpoint.access, Access::Node | Access::Public | Access::Joining)
        {
            continue;
        }
        let operation = operation_id(&endpoint);
        // They say what would be, and change nothing.
        if matches!(operation.as_str(), "post_plans" | "post_namespace_images") {
            continue;
        }
        // On the heap: what all examples together keep is more than a test's stack has.
        let Some((from, reply)) = Box::pin(platform.example(&operation)).await else {
            panic!(
                "`{operation}` has no example: add one to `Platform::example`, with a request that changes something"
            );
        };
        assert!(matches!(reply.status, 200..=299), "{operation}: {} {}", reply.status, reply.json);
        let records = platform.audit(&format!("cursor={from}")).await;
        let [record] = &records[..] else { panic!("{operation}: {records:?}") };
        assert_eq!((&record["action"], &record["outcome"]), (&json!(operation), &json!("done")));
        assert_eq!((&record["actor"], &record["token_name"]), (&json!("admin"), &json!("admin")));
        let namespace = if endpoint.path.contains("{namespace}") && operation != "delete_namespace" {
            json!("default")
        } else {
            record["namespace"].clone()
        };
        assert_eq!(record["namespace"], namespace, "{operation}");
        assert!(!record.to_string().contains("s3cret"), "{record}");
    }
}

#[tokio::test]
async fn a_record_says_what_was_before_and_what_is_after() {
    let platform = Platform::start().await;
    platform
        .deploy("hello", &component(0), json!({"env": {"A": "s3cret"}, "update": {"monitor": "20ms"}}))
        .await
        .is(201);
    let alice = platform.member("alice", "default", "developer").await;
    let app = format!("{NS}/apps/hello");
    platform.call_as(&alice, Method::PUT, &format!("{app}/scale"), json!({"replicas": 3})).await.is(200);
    platform
        .call_as(&alice, Method::PATCH, &format!("{app}/env"), json!({"set": {"B": "hush"}}))
        .await
        .is(201);
    let records = platform.audit("actor=alice&object=apps/hello").await;
    let [scale, env] = &records[..] else { panic!("{records:?}") };
    assert_eq!((&scale["before"], &scale["after"]), (&json!({"replicas": 1}), &json!({"replicas": 3})));
    assert_eq!((&scale["user"], &scale["token_name"]), (&json!("alice"), &json!("laptop")));
    assert_eq!((&env["before"]["env"], &env["after"]["env"]), (&json!({}), &json!({"B": "(set)"})));
    assert_eq!((&env["before"]["release"], &env["after"]["release"]), (&json!(1), &json!(2)));
    let all = json!(platform.audit("namespace=default").await).to_string();
    assert!(!all.contains("s3cret") && !all.contains("hush"), "{all}");
}

#[tokio::test]
async fn what_was_refused_by_role_or_quota_is_recorded_and_a_flood_of_it_is_not() {
    let platform = Platform::start().await;
    platform.call(Method::PUT, &format!("{NS}/quota"), json!({"apps": 0})).await.is(200);
    platform.deploy("hello", &component(0), quick()).await.refuses(403, "quota_exceeded", &["apps"]);
    let alice = platform.member("alice", "default", "viewer").await;
    let path = format!("{NS}/apps/hello/scale");
    for _ in 0..30 {
        platform.call_as(&alice, Method::PUT, &path, json!({"replicas": 1})).await.refuses(
            403,
            "forbidden",
            &["role"],
        );
    }
    let quota = &platform.audit("actor=admin&object=apps/hello").await[0];
    assert_eq!((&quota["outcome"], &quota["after"]), (&json!("refused"), &Value::Null));
    assert!(quota["detail"].as_str().unwrap().contains("apps: the namespace uses 0 of 0"), "{quota}");
    let refused = platform.audit("actor=alice").await;
    // A minute may have begun in between.
    assert!((20..30).contains(&refused.len()), "{}", refused.len());
    assert!(refused.iter().all(|record| record["namespace"] == "default" && record["outcome"] == "refused"));
    // What somebody tried in a namespace that they do not reach is for cluster admins.
    platform.call(Method::DELETE, &format!("{NS}/members/alice"), Value::Null).await.is(204);
    let bob = platform.member("bob", "default", "admin").await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let tried = "/v1/namespaces/other/apps/x/restart";
    platform.call_as(&bob, Method::POST, tried, Value::Null).await.refuses(404, "not_found", &["`other`"]);
    let record = &platform.audit("actor=bob").await[0];
    assert_eq!(
        (&record["namespace"], &record["object"]),
        (&Value::Null, &json!("namespaces/other/apps/x/restart"))
    );
}

#[tokio::test]
async fn an_admin_of_a_namespace_sees_its_records_and_none_of_an_earlier_one_of_its_name() {
    let platform = Platform::start().await;
    let other = "/v1/namespaces/other";
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    platform.put_octets(&format!("{other}/secrets/theirs"), b"x".to_vec()).await.is(200);
    platform.call(Method::DELETE, other, Value::Null).await.is(204);
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let alice = platform.member("alice", "other", "admin").await;
    let viewer = platform.member("victor", "other", "viewer").await;
    let seen = async |token: &str, query: &str| {
        platform.call_as(token, Method::GET, &format!("/v1/audit{query}"), Value::Null).await
    };
    seen(&viewer, "?namespace=other").await.refuses(403, "forbidden", &["role `admin`"]);
    seen(&alice, "").await.refuses(403, "forbidden", &["whole platform"]);
    seen(&alice, "?namespace=default").await.refuses(404, "not_found", &["`default`"]);
    let records = seen(&alice, "?namespace=other").await.is(200);
    let objects: Vec<&str> = records["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["object"].as_str().unwrap())
        .collect();
    assert_eq!(objects, ["members/alice", "members/victor"]);
    let all = platform.audit("namespace=other").await;
    assert!(all.iter().any(|record| record["object"] == "secrets/theirs"), "cluster admins see all of them");
    let late = platform.audit("after=2999-01-01T00:00:00Z").await;
    assert!(late.is_empty());
}

#[tokio::test]
async fn what_was_not_carried_out_has_no_record_of_having_been() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let from = platform.newest_record().await;
    platform.context.store.stop_growing(true).await;
    let large = json!({"set": {"A": "x".repeat(20_000)}});
    let reply = platform.call(Method::PATCH, &format!("{NS}/apps/hello/env"), large).await;
    platform.context.store.stop_growing(false).await;
    assert_eq!(reply.status, 507, "{}", reply.json);
    platform.call(Method::PUT, &format!("{NS}/apps/hello/scale"), json!({"replicas": 5000})).await;
    assert_eq!(platform.audit(&format!("cursor={from}")).await, Vec::<Value>::new());
}
