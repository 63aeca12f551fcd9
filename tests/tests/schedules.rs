//! Schedules on a real platform: times that come, that are missed, and jobs that overlap.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Mutex;

use http::Method;
use wharf_tests::{Platform, SHORT, eventually, workspace};
use wharf_types::job::JobState;
use wharf_types::schedule::ScheduleInfo;

async fn schedule(platform: &Platform, name: &str) -> ScheduleInfo {
    let reply = platform.api(Method::GET, &format!("/v1/namespaces/default/schedules/{name}"), "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

async fn schedule_is(
    platform: &Platform,
    name: &str,
    what: &str,
    is: impl Fn(&ScheduleInfo) -> bool,
) -> ScheduleInfo {
    eventually(SHORT, &format!("the schedule {name} {what}"), || async {
        let info = schedule(platform, name).await;
        is(&info).then_some(info)
    })
    .await
}

/// Sets a schedule of a command that ends at once with this code.
async fn set(platform: &Platform, name: &str, cron: &str, flags: &[&str], exit: &str) -> wharf_tests::Ran {
    let file = workspace::guest("conformance-command");
    let args = ["schedule", "set", name, "--cron", cron, file.to_str().unwrap(), "--retries", "0"];
    platform.wharf(&[&args, flags, &["--", "exit", exit]].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_makes_one_job_for_each_time_and_keeps_the_newest() {
    let platform = Platform::start().await;
    set(&platform, "often", "* * * * * *", &["--overlap", "allow", "--keep-succeeded", "2"], "0").await.ok();
    let seen = Mutex::new(BTreeSet::new());
    schedule_is(&platform, "often", "has come four times", |info| {
        let planned: Vec<_> = info.jobs.iter().map(|job| job.planned_at.unwrap()).collect();
        let once: BTreeSet<_> = planned.iter().collect();
        assert_eq!(once.len(), planned.len(), "a time has two jobs");
        let mut seen = seen.lock().unwrap();
        seen.extend(planned);
        seen.len() >= 4
    })
    .await;
    let suspended = platform.wharf(&["schedule", "suspend", "often", "--json"]).await.json::<ScheduleInfo>();
    assert_eq!(suspended.next_at, None);
    let quiet = schedule_is(&platform, "often", "is quiet", |info| {
        info.jobs.iter().all(|job| job.state == JobState::Succeeded)
    })
    .await;
    assert_eq!(quiet.jobs.len(), 2);
    let listed = platform.wharf(&["schedule", "ls"]).await.ok();
    assert!(listed.contains("suspended"), "{listed}");
    let resumed = platform.wharf(&["schedule", "resume", "often", "--json"]).await.json::<ScheduleInfo>();
    assert!(resumed.next_at.is_some());
    platform.wharf(&["schedule", "rm", "often"]).await.ok();
    platform.wharf(&["schedule", "show", "often"]).await.fails(3, &["there is no schedule `often`"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_schedule_do_not_overlap_unless_they_may() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let endless = r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;
    let file = folder.path().join("endless.wasm");
    std::fs::write(&file, wat::parse_str(endless).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let args = ["schedule", "set", "one", "--cron", "* * * * * *", file];
    platform.wharf(&args).await.ok();
    let info = schedule_is(&platform, "one", "passed a time over", |info| {
        info.last.as_ref().is_some_and(|last| last.job.is_none())
    })
    .await;
    assert!(info.last.unwrap().reason.unwrap().contains("has not ended"));
    assert_eq!(info.jobs.len(), 1);

    platform.wharf(&[&args[..], &["--overlap", "replace"]].concat()).await.ok();
    schedule_is(&platform, "one", "replaced a job", |info| {
        info.jobs.iter().any(|job| job.state == JobState::Cancelled)
    })
    .await;
    platform.wharf(&["schedule", "rm", "one"]).await.ok();
    eventually(SHORT, "its jobs are cancelled", || async {
        let jobs = platform.wharf(&["job", "ls"]).await.ok();
        (!jobs.contains("running") && !jobs.contains("stopping") && !jobs.contains("pending")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_while_the_platform_was_down_is_made_up_for_once() {
    let mut platform = Platform::start().await;
    set(&platform, "missed", "*/2 * * * * *", &["--keep-succeeded", "100"], "0").await.ok();
    schedule_is(&platform, "missed", "has made a job", |info| !info.jobs.is_empty()).await;
    platform.kill().await;
    let before = std::time::Instant::now();
    // Longer than what still counts as on time.
    eventually(SHORT, "times are missed", || async { (before.elapsed().as_secs() >= 15).then_some(()) })
        .await;
    platform.start_again().await;
    let info = schedule_is(&platform, "missed", "goes on", |info| {
        info.jobs.iter().filter(|job| job.state == JobState::Succeeded).count() >= 3
    })
    .await;
    let planned: Vec<_> = info.jobs.iter().filter_map(|job| job.planned_at).collect();
    let once: BTreeSet<_> = planned.iter().collect();
    assert_eq!(once.len(), planned.len(), "a time has two jobs: {planned:?}");
    let late = info.jobs.iter().filter(|job| {
        let late = job.created_at.duration_since(job.planned_at.unwrap());
        late.as_secs() > 10
    });
    assert!(late.count() <= 1, "one at most makes up for what was missed: {info:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_come_is_refused_with_the_reason() {
    let platform = Platform::start().await;
    set(&platform, "never", "0 0 30 2 *", &[], "0")
        .await
        .fails(6, &["it never comes: February has no such day"]);
    set(&platform, "never", "0 0 * * *", &["--timezone", "Europe/Berlni"], "0")
        .await
        .fails(6, &["is `Europe/Berlin` meant?"]);
    set(&platform, "never", "0 0 * * *", &["--missed", "run-all"], "0")
        .await
        .fails(6, &["set it to `allow`"]);
    set(&platform, "nightly", "30 2 * * *", &["--timezone", "Europe/Berlin"], "3").await.ok();
    let job = platform.wharf(&["schedule", "run-now", "nightly", "--json"]).await.json::<serde_json::Value>();
    assert_eq!(job["schedule"], "nightly");
    let info = schedule_is(&platform, "nightly", "has a failed job", |info| {
        info.jobs.iter().any(|job| job.state == JobState::Failed)
    })
    .await;
    let path = "/v1/namespaces/default/schedules/nightly";
    let body = serde_json::to_string(&info.spec).unwrap();
    let reply = platform.api(Method::PUT, path, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}
