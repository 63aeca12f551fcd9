//! Jobs on a real platform: what they print and give back, how they are tried again, stopped, and survive the platform.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wharf_tests::{Platform, SHORT, eventually, within, workspace};
use wharf_types::job::{JobInfo, JobState, Outcome};

fn guest(name: &str) -> String {
    workspace::guest(name).to_str().unwrap().to_owned()
}

/// A module that sleeps for so long, then ends with this code.
fn sleeper(folder: &tempfile::TempDir, millis: u64, code: i32) -> String {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (i32.store (i32.const 16) (i32.const 1))
                (i64.store (i32.const 24) (i64.const {}))
                (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
                (call $exit (i32.const {code}))))"#,
        millis * 1_000_000
    );
    let file: PathBuf = folder.path().join(format!("sleeps-{millis}-{code}.wasm"));
    std::fs::write(&file, wat::parse_str(text).unwrap()).unwrap();
    file.to_str().unwrap().to_owned()
}

async fn job(platform: &Platform, job: &str) -> JobInfo {
    let reply = platform.api(Method::GET, &format!("/v1/namespaces/default/jobs/{job}"), "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

async fn job_is(platform: &Platform, name: &str, what: &str, is: impl Fn(&JobInfo) -> bool) -> JobInfo {
    eventually(SHORT, &format!("the job {name} is {what}"), || async {
        let info = job(platform, name).await;
        is(&info).then_some(info)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_to_its_end_and_its_output_and_exit_code_are_passed_on() {
    let platform = Platform::start().await;
    let args = ["job", "run", &guest("c-command"), "-e", "EXIT_CODE=0", "--", "one", "--two"];
    let ran = platform.wharf(&args).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "argument 1: one\nargument 2: --two\n"),
        "{}",
        ran.stderr
    );
    let info = job(&platform, "c-command").await;
    assert_eq!((info.state, info.exit_code, info.runs.len()), (JobState::Succeeded, Some(0), 1));

    // A component of WASI 0.2, by the alias.
    let ran = platform
        .wharf(&["run-job", &guest("conformance-command"), "--retries", "0", "--", "exit", "42"])
        .await;
    assert_eq!(ran.code, 42, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("no more retries after 1 run: the command ended with exit code 42"),
        "{}",
        ran.stderr
    );

    let refused = platform.wharf(&["job", "run", &guest("hello")]).await;
    refused.fails(6, &["a job runs a command"]);
    platform.wharf(&["job", "show", "nothing"]).await.fails(3, &["there is no job `nothing`"]);
    let listed = platform.wharf(&["job", "ls"]).await.ok();
    assert!(listed.contains("succeeded") && listed.contains("failed"), "{listed}");
    platform.wharf(&["job", "delete", "c-command"]).await.ok();
    platform.wharf(&["job", "show", "c-command"]).await.fails(3, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_again_as_often_as_declared() {
    let platform = Platform::start().await;
    let args = [
        "job",
        "run",
        &guest("conformance-command"),
        "--name",
        "flaky",
        "--retries",
        "2",
        "--backoff",
        "50ms",
        "--",
        "exit",
        "7",
    ];
    assert_eq!(platform.wharf(&args).await.code, 7);
    let info = job(&platform, "flaky").await;
    let outcomes: Vec<_> = info.runs.iter().map(|run| (run.attempt, run.outcome, run.exit_code)).collect();
    assert_eq!(outcomes, [1, 2, 3].map(|attempt| (attempt, Some(Outcome::Failed), Some(7))));
    assert_eq!((info.state, info.exit_code, info.failed), (JobState::Failed, Some(7), 1));
    let events = platform.wharf(&["events"]).await.ok();
    for what in ["job.created", "job.run-failed", "job.failed"] {
        assert!(events.contains(what), "{what} is missing: {events}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_completion_of_an_indexed_job_is_told_its_number_and_no_more_run_than_may() {
    let platform = Platform::start().await;
    let args = [
        "job",
        "run",
        &guest("conformance-command"),
        "--name",
        "parts",
        "--completions",
        "5",
        "--parallelism",
        "2",
        "--indexed",
        "--",
        "world",
    ];
    let printed = platform.wharf(&args).await.ok();
    for index in 0..5 {
        let variable = format!("variable \"WHARF_JOB_INDEX\" = \"{index}\"");
        assert_eq!(printed.matches(&variable).count(), 1, "{variable}: {printed}");
    }
    let info = job(&platform, "parts").await;
    assert_eq!((info.succeeded, info.runs.len(), info.state), (5, 5, JobState::Succeeded));
    let mut spans: Vec<_> = info.runs.iter().map(|run| (run.created_at, run.ended_at.unwrap())).collect();
    spans.sort();
    let at_once =
        spans.iter().map(|(start, _)| spans.iter().filter(|(a, b)| a <= start && start < b).count());
    assert!(at_once.max().unwrap() <= 2, "{spans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_a_time_limit_and_a_cancellation_stop_what_runs() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let sleeps = sleeper(&folder, 600_000, 0);
    let run = |name: &'static str, flags: &'static [&'static str]| {
        let args = [&["job", "run", &sleeps, "--name", name][..], flags]
            .concat()
            .iter()
            .map(|arg| (*arg).to_owned())
            .collect::<Vec<_>>();
        let user = platform.user();
        async move {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            user.run(&args).await
        }
    };
    let (late, slow) = tokio::join!(
        run("late", &["--deadline", "1s"]),
        run("slow", &["--run-timeout", "500ms", "--retries", "1", "--backoff", "10ms"])
    );
    late.fails(1, &["its deadline has passed, 1s after it was made"]);
    slow.fails(1, &["no more retries after 2 runs: it took longer than a run may take, which is 500ms"]);
    let outcomes: Vec<_> = job(&platform, "slow").await.runs.iter().map(|run| run.outcome).collect();
    assert_eq!(outcomes, [Some(Outcome::TimedOut); 2]);

    platform.wharf(&["job", "run", &sleeps, "--name", "endless", "--detach"]).await.ok();
    job_is(&platform, "endless", "running", |info| info.state == JobState::Running).await;
    platform.wharf(&["job", "delete", "endless"]).await.fails(7, &["has not ended"]);
    platform.wharf(&["job", "cancel", "endless"]).await.ok();
    let ended = job_is(&platform, "endless", "cancelled", |info| info.state.is_final()).await;
    assert_eq!((ended.state, ended.runs[0].outcome), (JobState::Cancelled, Some(Outcome::Stopped)));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_waiting_cancels_the_job() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let sleeps = sleeper(&folder, 600_000, 0);
    let mut waiting = platform.user().command(&["job", "run", &sleeps, "--name", "watched"]).spawn().unwrap();
    eventually(SHORT, "the job runs", || async {
        let reply = platform.api(Method::GET, "/v1/namespaces/default/jobs/watched", "").await;
        let info: JobInfo = serde_json::from_slice(&reply.body).ok()?;
        (info.state == JobState::Running).then_some(())
    })
    .await;
    kill(Pid::from_raw(waiting.id().unwrap().try_into().unwrap()), Signal::SIGINT).unwrap();
    let status = within(SHORT, "the client ends", waiting.wait()).await.unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(job(&platform, "watched").await.state, JobState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_makes_one_job_also_after_its_end() {
    let platform = Platform::start().await;
    let once = |args: &'static [&'static str]| {
        let file = guest("c-command");
        let user = platform.user();
        async move {
            let all =
                [&["job", "run", file.as_str(), "--idempotency-key", "k-1", "--json", "--detach"], args]
                    .concat();
            user.run(&all).await
        }
    };
    let first: JobInfo = once(&["--", "x"]).await.json();
    job_is(&platform, &first.id.to_string(), "over", |info| info.state.is_final()).await;
    let second: JobInfo = once(&["--", "x"]).await.json();
    assert_eq!((second.id, second.state), (first.id, JobState::Succeeded));
    once(&["--", "y"]).await.fails(7, &["the Idempotency-Key `k-1` made the job"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_an_app_has_the_apps_settings_and_secrets() {
    let platform = Platform::start().await;
    std::fs::write(platform.home().join("value"), "hush").unwrap();
    platform.wharf(&["secret", "set", "token", "--from-file", "value"]).await.ok();
    let manifest = "app = \"shop\"\nargs = [\"clocks\"]\n[env]\nCOLOUR = \"red\"\n[secrets]\nTOKEN = \"token\"\n\
                    [restart]\ncondition = \"never\"\n";
    platform.deploy_manifest("conformance-command", manifest).await.ok();
    let printed = platform.wharf(&["job", "run", "--app", "shop", "-e", "SIZE=xl", "--", "world"]).await.ok();
    for variable in ["\"COLOUR\" = \"red\"", "\"SIZE\" = \"xl\"", "\"TOKEN\" = \"hush\""] {
        assert!(printed.contains(variable), "{variable}: {printed}");
    }
    let info = job(&platform, "shop").await;
    assert_eq!((info.app.unwrap().as_str(), info.release), ("shop", Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_no_node_can_take_says_why_and_can_be_cancelled() {
    let platform = Platform::start().await;
    let file = guest("c-command");
    let args = ["job", "run", &file, "--detach", "--name", "picky"];
    let rest = ["--constraint", "node.labels.disk == ssd", "--", "x"];
    platform.wharf(&[&args[..], &rest].concat()).await.ok();
    let info = job_is(&platform, "picky", "waiting", |info| !info.waits.is_empty()).await;
    assert_eq!(info.state, JobState::Pending);
    assert!(info.waits[0].contains("lacks the label disk=ssd"), "{:?}", info.waits);
    platform.wharf(&["job", "cancel", "picky"]).await.ok();
    job_is(&platform, "picky", "cancelled", |info| info.state == JobState::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_job_is_told_what_it_waits_for() {
    let platform = Platform::start().await;
    let file = guest("c-command");
    let args = ["job", "run", &file, "--constraint", "node.labels.disk == ssd", "--deadline", "4s"];
    let ran = platform.wharf(&[&args[..], &["--", "x"]].concat()).await;
    ran.fails(1, &["note: a run waits for a node: ", "lacks the label disk=ssd"]);
    assert_eq!(ran.stderr.matches("note: ").count(), 1, "{}", ran.stderr);
    let ran = platform.wharf(&[&args[..], &["--json", "--", "x"]].concat()).await;
    assert_eq!((ran.code, ran.stderr.matches("note: ").count()), (1, 0), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_killed_in_the_middle_still_ends_the_job_exactly_as_declared() {
    let mut platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let sleeps = sleeper(&folder, 2_000, 0);
    let args = [
        "job",
        "run",
        &sleeps,
        "--name",
        "long",
        "--detach",
        "--completions",
        "3",
        "--parallelism",
        "2",
        "--retries",
        "0",
    ];
    platform.wharf(&args).await.ok();
    job_is(&platform, "long", "running", |info| {
        info.runs.iter().filter(|run| run.started_at.is_some()).count() == 2
    })
    .await;
    platform.kill().await;
    platform.start_again().await;
    let info = job_is(&platform, "long", "over", |info| info.state.is_final()).await;
    assert_eq!((info.state, info.succeeded), (JobState::Succeeded, 3), "{info:#?}");
    for index in 0..3 {
        let of = |outcome| {
            info.runs.iter().filter(|run| run.index == index && run.outcome == Some(outcome)).count()
        };
        assert_eq!((of(Outcome::Succeeded), of(Outcome::Failed)), (1, 0), "{info:#?}");
    }
    assert_eq!(info.runs.iter().filter(|run| run.outcome == Some(Outcome::Lost)).count(), 2, "{info:#?}");
}
