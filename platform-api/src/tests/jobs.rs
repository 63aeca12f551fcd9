//! Jobs and schedules: what is refused, what is kept, and that a job ends as declared however often the control plane does not.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::job::{JobInfo, JobState, Outcome};
use wharf_types::node::Assignment;
use wharf_types::{Digest, InstanceId, NodeId, Timestamp};

use super::fixture::{Platform, component, eventually, request};
use super::worker::Worker;
use crate::artifacts::collect::{Strays, collect};

const JOBS: &str = "/v1/namespaces/default/jobs";
const SCHEDULE: &str = "/v1/namespaces/default/schedules/nightly";

/// A command of WASI 0.1.
fn command() -> Vec<u8> {
    wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap()
}

fn template(spec: Value) -> Value {
    json!({"artifact": Digest::of(&command()), "spec": spec})
}

async fn create(platform: &Platform, spec: Value) -> JobInfo {
    platform.push("default", &command()).await;
    let body = json!({"name": "import", "job": template(spec)});
    let reply = platform.call(Method::POST, JOBS, body).await.is(201);
    serde_json::from_value(reply).unwrap()
}

async fn job(platform: &Platform, id: &str) -> JobInfo {
    serde_json::from_value(platform.get(&format!("{JOBS}/{id}")).await).unwrap()
}

fn runs(assignment: &Assignment) -> Vec<InstanceId> {
    assignment
        .instances
        .iter()
        .filter(|instance| instance.job.is_some())
        .map(|instance| instance.id)
        .collect()
}

#[tokio::test]
async fn a_job_ends_exactly_as_declared_across_many_control_planes() {
    let mut dir = None;
    let node = NodeId::new();
    let mut id = String::new();
    // What the worker knows of runs that have ended; it outlives control planes, and repeats what was not heard.
    let mut ended: BTreeMap<InstanceId, i32> = BTreeMap::new();
    let mut failed_once = false;
    for round in 0..40 {
        let platform = match dir.take() {
            Some(dir) => Platform::start_in(dir).await,
            None => Platform::start().await,
        };
        if round == 0 {
            let spec = json!({"completions": 9, "parallelism": 2, "retries": 1, "backoff": "1ms"});
            id = create(&platform, spec).await.id.to_string();
        }
        let worker = Worker::join_as(&platform, node).await;
        ended.iter().for_each(|(run, code)| worker.exit(*run, *code));
        let next = eventually("a run is there, or the job is over", async || {
            let live = worker.newest().map(|newest| runs(&newest)).unwrap_or_default();
            let next = live.into_iter().find(|run| !ended.contains_key(run));
            let is_over = next.is_none() && job(&platform, &id).await.state.is_final();
            (next.is_some() || is_over).then_some(next)
        })
        .await;
        let Some(run) = next else {
            let info = job(&platform, &id).await;
            assert_eq!(
                (info.state, info.succeeded, info.runs.len()),
                (JobState::Succeeded, 9, 10),
                "{info:#?}"
            );
            let outcomes = |outcome| info.runs.iter().filter(|run| run.outcome == Some(outcome)).count();
            assert_eq!((outcomes(Outcome::Succeeded), outcomes(Outcome::Failed)), (9, 1));
            return;
        };
        let live = worker.newest().map(|newest| runs(&newest).len()).unwrap_or_default();
        assert!(live <= 2, "{live} runs at once");
        let code = i32::from(!std::mem::replace(&mut failed_once, true));
        ended.insert(run, code);
        // Every other report is lost with the control plane that should have heard it.
        if round % 2 == 0 {
            worker.exit(run, code);
            eventually("the end is known", async || {
                let info = job(&platform, &id).await;
                info.runs.iter().any(|known| known.id == run && known.outcome.is_some()).then_some(())
            })
            .await;
        }
        drop(worker);
        dir = Some(platform.crash());
    }
    panic!("the job does not end");
}

#[tokio::test]
async fn the_same_key_gives_the_same_job_and_another_request_with_it_is_refused() {
    let platform = Platform::start().await;
    platform.push("default", &command()).await.is(201);
    let post = async |body: Value| {
        let request = request(&platform.admin, Method::POST, JOBS).header("idempotency-key", "k");
        platform.send(request.body(Body::from(body.to_string())).unwrap()).await
    };
    let body = json!({"job": template(json!({}))});
    let first = post(body.clone()).await.is(201);
    assert_eq!(post(body).await.is(200)["id"], first["id"]);
    post(json!({"job": template(json!({"retries": 0}))})).await.refuses(
        409,
        "conflict",
        &["the Idempotency-Key `k`"],
    );
}

#[tokio::test]
async fn a_schedule_that_is_run_twice_with_one_key_makes_one_job() {
    let platform = Platform::start().await;
    platform.push("default", &command()).await.is(201);
    let spec = json!({"cron": "@yearly", "job": template(json!({}))});
    let other = format!("{SCHEDULE}-other");
    for schedule in [SCHEDULE, other.as_str()] {
        platform.call(Method::PUT, schedule, spec.clone()).await.is(201);
    }
    let run = async |schedule: &str, key: &str| {
        let request = request(&platform.admin, Method::POST, &format!("{schedule}/run"));
        platform.send(request.header("idempotency-key", key).body(Body::empty()).unwrap()).await
    };
    let first = run(SCHEDULE, "k").await.is(201);
    assert_eq!(run(SCHEDULE, "k").await.is(200)["id"], first["id"]);
    assert_ne!(run(SCHEDULE, "l").await.is(201)["id"], first["id"]);
    run(&other, "k").await.refuses(409, "conflict", &["the Idempotency-Key `k`"]);
    assert_eq!(platform.get(JOBS).await["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_cannot_run_to_an_end_is_refused() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    platform.push("default", &command()).await.is(201);
    let post = async |job: Value| platform.call(Method::POST, JOBS, json!({ "job": job })).await;
    let http = json!({"artifact": Digest::of(&component(0))});
    post(http).await.refuses(422, "invalid_spec", &["a job runs a command"]);
    post(json!({})).await.refuses(422, "invalid_spec", &["artifact"]);
    post(json!({"app": "shop"})).await.refuses(404, "not_found", &["there is no app `shop`"]);
    let zero = template(json!({"completions": 0}));
    post(zero).await.refuses(422, "invalid_spec", &["completions", "between 1 and 1000"]);
    let missing = template(json!({"secrets": {"A": "token"}}));
    post(missing).await.refuses(404, "not_found", &["there is no secret `token`"]);
    let unknown = template(json!({"retires": 1}));
    post(unknown).await.refuses(400, "invalid_request", &["retires"]);
}

#[tokio::test]
async fn what_a_job_needs_is_kept_while_it_has_not_ended() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let secret = "/v1/namespaces/default/secrets/token";
    let put = request(&platform.admin, Method::PUT, secret).body(Body::from("hush")).unwrap();
    platform.send(put).await.is(200);
    let made = create(&platform, json!({"secrets": {"A": "token"}, "ttl": "0s"})).await;
    let refused = platform.call(Method::DELETE, secret, Value::Null).await;
    refused.refuses(409, "conflict", &["jobs that have not ended: import"]);
    let in_two_hours = Timestamp::now() + std::time::Duration::from_secs(7200);
    assert_eq!(collect(&platform.context, in_two_hours, Strays::Removed).await.unwrap().rows, 0);

    let worker = Worker::join(&platform).await;
    let run = eventually("it runs", async || worker.newest().and_then(|newest| runs(&newest).pop())).await;
    worker.exit(run, 0);
    eventually("it is forgotten", async || {
        let path = format!("{JOBS}/{}", made.id);
        (platform.call(Method::GET, &path, Value::Null).await.status == 404).then_some(())
    })
    .await;
    platform.call(Method::DELETE, secret, Value::Null).await.is(204);
    assert_eq!(collect(&platform.context, in_two_hours, Strays::Removed).await.unwrap().rows, 1);
}

/// The document of an image.
fn image() -> Vec<u8> {
    json!({"image": "alpine:3", "digest": Digest::of(b"manifest")}).to_string().into_bytes()
}

#[tokio::test]
async fn a_namespace_needs_the_right_to_run_images_as_jobs_and_by_schedules() {
    let platform = Platform::start().await;
    platform.push("default", &image()).await.is(201);
    let job = |spec: Value| json!({"artifact": Digest::of(&image()), "spec": spec});
    let post = async |spec: Value| platform.call(Method::POST, JOBS, json!({"job": job(spec)})).await;
    let set =
        async || platform.call(Method::PUT, SCHEDULE, json!({"cron": "@daily", "job": job(json!({}))})).await;
    let words = &["the namespace `default` may not run containers"];
    post(json!({})).await.refuses(403, "forbidden", words);
    set().await.refuses(403, "forbidden", words);
    let quota = json!({"containers": "isolated"});
    platform.call(Method::PUT, "/v1/namespaces/default/quota", quota).await.is(200);
    set().await.is(201);
    let made = post(json!({"container": {"user": "1000"}, "stop": {"drain": "5s"}})).await.is(201);
    assert_eq!(
        (&made["spec"]["container"]["user"], &made["spec"]["stop"]["drain"]),
        (&json!("1000"), &json!("5s"))
    );
    let privileged = post(json!({"container": {"privileged": true}})).await;
    privileged.refuses(403, "forbidden", &["container.privileged", "--containers node"]);
    let port = post(json!({"container": {"http_port": 80}})).await;
    port.refuses(422, "invalid_spec", &["container.http_port: a run gets no requests"]);

    // What is for images is refused where the job is none.
    for (spec, words) in [
        (json!({"container": {"init": true}}), "container: is for images"),
        (json!({"stop": {"drain": "5s"}}), "stop: a guest of WebAssembly gets no signal"),
    ] {
        platform.push("default", &command()).await;
        let refused = platform.call(Method::POST, JOBS, json!({"job": template(spec)})).await;
        refused.refuses(422, "invalid_spec", &[words]);
    }

    // Where processors have a quota, each container says how many it may use, and counts for them.
    let quota = json!({"containers": "isolated", "cpu_millis": 1000});
    platform.call(Method::PUT, "/v1/namespaces/default/quota", quota).await.is(200);
    post(json!({})).await.refuses(403, "quota_exceeded", &["container.cpus", "--cpu none"]);
    post(json!({"container": {"cpus": "500m"}})).await.is(201);
    let more = post(json!({"container": {"cpus": "2"}})).await;
    more.refuses(403, "quota_exceeded", &["cpu: the namespace uses 500m of 1, and this asks for 2 more"]);
}

#[tokio::test]
async fn jobs_and_schedules_have_no_priority_beyond_the_quota() {
    let platform = Platform::start().await;
    platform.push("default", &command()).await.is(201);
    let ann = platform.member("ann", "default", "developer").await;
    let of = |priority: &str| template(json!({"placement": {"priority": priority}}));
    let job = |priority: &str| json!({"name": "import", "job": of(priority)});
    let schedule = |cron: &str| json!({"cron": cron, "job": of("high")});
    let words = ["placement.priority: `high`", "--priority high"];
    platform.call_as(&ann, Method::POST, JOBS, job("high")).await.refuses(403, "quota_exceeded", &words);
    platform.call_as(&ann, Method::POST, JOBS, job("normal")).await.is(201);
    platform.call(Method::POST, JOBS, job("high")).await.is(201);

    let put =
        async |token: &str, cron: &str| platform.call_as(token, Method::PUT, SCHEDULE, schedule(cron)).await;
    put(&ann, "@yearly").await.refuses(403, "quota_exceeded", &words);
    put(&platform.admin, "@yearly").await.is(201);
    put(&ann, "@monthly").await.is(200);
    platform.call_as(&ann, Method::POST, &format!("{SCHEDULE}/run"), Value::Null).await.is(201);
}

#[tokio::test]
async fn jobs_and_schedules_are_granted_no_private_destination_by_themselves() {
    let platform = Platform::start().await;
    let component = r#"(component (instance $run) (export "wasi:cli/run@0.2.0" (instance $run)))"#;
    let component = wat::parse_str(component).unwrap();
    platform.push("default", &component).await.is(201);
    let ann = platform.member("ann", "default", "developer").await;
    let spec = json!({"outbound": {"allow": ["tcp://127.0.0.1:5432"]}});
    let private = json!({"artifact": Digest::of(&component), "spec": spec});
    let (job, schedule) =
        (json!({"name": "import", "job": private}), json!({"cron": "@yearly", "job": private}));
    let words = ["outbound.allow: `tcp://127.0.0.1:5432`", "--private-outbound 127.0.0.1:5432"];
    platform.call_as(&ann, Method::POST, JOBS, job.clone()).await.refuses(403, "forbidden", &words);
    platform.call(Method::POST, JOBS, job).await.is(201);
    let put = async |token: &str| platform.call_as(token, Method::PUT, SCHEDULE, schedule.clone()).await;
    put(&ann).await.refuses(403, "forbidden", &words);
    put(&platform.admin).await.is(201);
    put(&ann).await.is(200);
    platform.call_as(&ann, Method::POST, &format!("{SCHEDULE}/run"), Value::Null).await.is(201);
}

#[tokio::test]
async fn a_schedule_keeps_what_it_runs() {
    let platform = Platform::start().await;
    platform.push("default", &command()).await.is(201);
    let spec = json!({"cron": "@yearly", "job": template(json!({}))});
    platform.call(Method::PUT, SCHEDULE, spec).await.is(201);
    let in_two_hours = Timestamp::now() + std::time::Duration::from_secs(7200);
    assert_eq!(collect(&platform.context, in_two_hours, Strays::Removed).await.unwrap().rows, 0);
    platform.call(Method::POST, &format!("{SCHEDULE}/run"), Value::Null).await.is(201);
}

#[tokio::test]
async fn a_schedule_is_changed_only_by_whoever_has_read_it_and_a_viewer_reads_no_values() {
    let platform = Platform::start().await;
    platform.push("default", &command()).await.is(201);
    let spec = |cron: &str| json!({"cron": cron, "job": template(json!({"env": {"A": "private"}}))});
    let first = platform.call(Method::PUT, SCHEDULE, spec("@daily")).await;
    let etag = first.headers["etag"].to_str().unwrap().to_owned();
    assert!(first.is(201)["next_at"].is_string());
    let put = async |body: Value, etag: &str| {
        let request = request(&platform.admin, Method::PUT, SCHEDULE).header("if-match", etag);
        platform.send(request.body(Body::from(body.to_string())).unwrap()).await
    };
    put(spec("@hourly"), &etag).await.is(200);
    put(spec("@weekly"), &etag).await.refuses(412, "precondition_failed", &["was changed since it was read"]);
    let never = platform.call(Method::PUT, SCHEDULE, spec("0 0 31 6 *")).await;
    never.refuses(422, "invalid_spec", &["June has no such day"]);
    let zone = json!({"cron": "@daily", "timezone": "Mars/Base", "job": template(json!({}))});
    platform.call(Method::PUT, SCHEDULE, zone).await.refuses(
        422,
        "invalid_spec",
        &["no time zone `Mars/Base`"],
    );

    let viewer =
        platform.call(Method::POST, "/v1/tokens", json!({"name": "v", "role": "viewer"})).await.is(201);
    let viewer = viewer["secret"].as_str().unwrap();
    create(&platform, json!({"env": {"A": "private"}})).await;
    for path in [SCHEDULE, "/v1/namespaces/default/schedules", JOBS] {
        let seen = platform.call_as(viewer, Method::GET, path, Value::Null).await.is(200).to_string();
        assert!(!seen.contains("private") && seen.contains("hidden"), "{path}: {seen}");
    }
    let refused = platform.call_as(viewer, Method::POST, &format!("{SCHEDULE}/run"), Value::Null).await;
    assert_eq!(refused.status, 403);
}

#[tokio::test]
async fn a_namespace_with_a_schedule_or_a_job_under_way_is_not_deleted() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    platform.push("other", &command()).await.is(201);
    let body = json!({"job": template(json!({}))});
    let job = platform.call(Method::POST, "/v1/namespaces/other/jobs", body).await.is(201);
    let gone = async || platform.call(Method::DELETE, "/v1/namespaces/other", Value::Null).await;
    gone().await.refuses(409, "conflict", &["1 jobs that have not ended"]);
    let path = format!("/v1/namespaces/other/jobs/{}", job["id"].as_str().unwrap());
    platform.call(Method::POST, &format!("{path}/cancel"), Value::Null).await.is(200);
    let ended = platform.get(&format!("{path}?wait=20s")).await;
    assert_eq!(ended["state"], "cancelled", "nothing of it ran, so it ends at once");
    gone().await.is(204);
}
