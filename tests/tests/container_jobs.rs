//! Jobs that run images, in a real Docker engine: their output, their ends, and what becomes of them when the platform is killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wharf_tests::{Ours, SHORT, WEB, eventually};
use wharf_types::job::{JobInfo, JobState, Outcome};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_passes_on_both_streams_and_its_exit_code_and_leaves_nothing() {
    let Some(ours) = Ours::start().await else { return };
    let ran = ours.run(&["-e", "WORD=hello"], "echo $WORD $WHARF_JOB_ATTEMPT; echo err >&2; exit 3").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "hello 1\n"), "{}", ran.stderr);
    assert!(ran.stderr.lines().any(|line| line == "err"), "{}", ran.stderr);
    assert!(ran.stderr.contains("exit code 3"), "{}", ran.stderr);
    let info = ours.job("web").await;
    assert_eq!((info.state, info.exit_code, info.runs.len()), (JobState::Failed, Some(3), 1));

    let ran = ours
        .run(&["--container", "user = \"1000\"", "--container", "workdir = \"/tmp\""], "id -u; echo $PWD");
    assert_eq!(ran.await.ok(), "1000\n/tmp\n");
    let ran = ours.run(
        &["--name", "parts", "--completions", "3", "--parallelism", "3", "--indexed"],
        "echo $WHARF_JOB_INDEX",
    );
    let printed = ran.await.ok();
    for index in 0..3 {
        assert_eq!(printed.matches(&format!("| {index}\n")).count(), 1, "{printed}");
    }
    // The first process of a container cannot kill itself.
    let killed = ours.run(&[], "sh -c 'kill -9 $$'; exit $?").await;
    assert_eq!(killed.code, 137, "{}", killed.stderr);
    assert!(killed.stderr.contains("ended by signal 9"), "{}", killed.stderr);
    ours.nothing_is_left().await;
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_or_may_not_be_is_refused() {
    let Some(ours) = Ours::start().await else { return };
    ours.run(&["--container", "http_port = 80"], "true")
        .await
        .fails(6, &["container.http_port: a run gets no requests"]);
    ours.run(&["--allow", "https://example.com"], "true").await.fails(6, &["outbound.allow"]);
    ours.run(&["--container", "privileged = true"], "true")
        .await
        .fails(4, &["container.privileged", "--containers node"]);
    let missing = ["job", "run", "--image", WEB, "--name", "missing", "--", "/not/there"];
    ours.platform.wharf(&missing).await.fails(1, &["it cannot run", "/not/there"]);
    assert_eq!(ours.job("missing").await.runs.len(), 1, "another try would be of no use");
    ours.platform.wharf(&["namespace", "create", "team"]).await.ok();
    ours.run(&["-n", "team"], "true")
        .await
        .fails(4, &["may not run containers", "--containers isolated -n team"]);
    let wasm = wharf_tests::workspace::guest("c-command");
    let wasm = ["job", "run", wasm.to_str().unwrap(), "--container", "init = true"];
    ours.platform.wharf(&wasm).await.fails(6, &["container: is for images"]);
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_a_time_limit_and_a_deadline_ask_a_run_to_end_and_then_kill_it() {
    let Some(ours) = Ours::start().await else { return };
    const POLITE: &str = "trap 'echo bye; exit 0' TERM; echo ready; while true; do sleep 1; done";
    ours.run(&["--name", "polite", "--detach"], POLITE).await.ok();
    ours.has_said("polite", "ready").await;
    ours.platform.wharf(&["job", "cancel", "polite"]).await.ok();
    let ended = ours.job_is("polite", "over", |info| info.state.is_final()).await;
    assert_eq!((ended.state, ended.runs[0].outcome), (JobState::Cancelled, Some(Outcome::Stopped)));
    ours.has_said("polite", "bye").await;

    const DEAF: &str = "trap '' TERM; while true; do sleep 1; done";
    let (slow, late) = tokio::join!(
        ours.run(&["--name", "slow", "--run-timeout", "1s", "--grace", "1s"], DEAF),
        ours.run(&["--name", "late", "--deadline", "2s", "--grace", "1s"], DEAF),
    );
    slow.fails(1, &["it took longer than a run may take, which is 1s", "did not end within"]);
    late.fails(1, &["its deadline has passed"]);
    assert_eq!(ours.job("slow").await.runs[0].outcome, Some(Outcome::TimedOut));
    ours.nothing_is_left().await;
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_when_the_platform_is_killed_and_its_end_is_taken() {
    let Some(mut ours) = Ours::start().await else { return };
    // It ends when somebody says so in a file of its own.
    const WAITS: &str = "echo begun; while ! test -e /tmp/go; do sleep 1; done; echo finished; exit 7";
    for name in ["during", "meanwhile"] {
        ours.run(&["--name", name, "--detach"], WAITS).await.ok();
        ours.has_said(name, "begun").await;
        ours.job_is(name, "running", |info| info.state == JobState::Running).await;
    }
    let container = async |name: &str| {
        let run = ours.job(name).await.runs[0].id;
        format!("wharf-{run}")
    };
    let (during, meanwhile) = (container("during").await, container("meanwhile").await);
    ours.platform.kill().await;
    ours.engine.docker(&["exec", &meanwhile, "touch", "/tmp/go"]).await;
    eventually(SHORT, "one of them has ended while nobody looked", async || {
        let state = ours.engine.docker(&["inspect", "-f", "{{.State.Status}}", &meanwhile]).await;
        (state == "exited").then_some(())
    })
    .await;
    ours.platform.start_again().await;
    let is_over = |info: &JobInfo| info.state.is_final();
    let ended = ours.job_is("meanwhile", "over", is_over).await;
    assert_eq!(
        (ended.state, ended.exit_code, ended.runs.len()),
        (JobState::Failed, Some(7), 1),
        "{ended:#?}"
    );
    assert_eq!(ours.job("during").await.state, JobState::Running);
    ours.engine.docker(&["exec", &during, "touch", "/tmp/go"]).await;
    let ended = ours.job_is("during", "over", is_over).await;
    assert_eq!(
        (ended.state, ended.exit_code, ended.runs.len()),
        (JobState::Failed, Some(7), 1),
        "{ended:#?}"
    );
    for name in ["during", "meanwhile"] {
        ours.has_said(name, "finished").await;
    }
    ours.nothing_is_left().await;
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ended_in_time_while_nobody_looked_is_not_taken_for_a_slow_one() {
    let Some(mut ours) = Ours::start().await else { return };
    ours.run(&["--name", "quick", "--detach", "--run-timeout", "5s"], "echo begun; sleep 2").await.ok();
    ours.job_is("quick", "running", |info| info.state == JobState::Running).await;
    let run = format!("wharf-{}", ours.job("quick").await.runs[0].id);
    ours.platform.kill().await;
    let finished = eventually(SHORT, "it has ended", async || {
        let state = ours.engine.docker(&["inspect", "-f", "{{.State.Status}}", &run]).await;
        (state == "exited").then(tokio::time::Instant::now)
    })
    .await;
    // Until its time would have been up.
    eventually(SHORT, "its time is up", async || (finished.elapsed().as_secs() >= 6).then_some(())).await;
    ours.platform.start_again().await;
    let ended = ours.job_is("quick", "over", |info| info.state.is_final()).await;
    assert_eq!((ended.state, ended.runs.len()), (JobState::Succeeded, 1), "{ended:#?}");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_an_app_has_its_settings_but_no_name_volume_or_port() {
    let Some(ours) = Ours::start().await else { return };
    ours.platform.user().run_with_input(&["secret", "set", "word"], "hush").await.ok();
    let manifest = format!(
        "app = \"web\"\nimage = \"{WEB}\"\n[env]\nWORD = \"one\"\n[secrets]\nSECRET = \"word\"\n[container]\nhttp_port = 8000\nuser = \"1000\"\n\
         [[container.files]]\nfrom = \"SECRET\"\npath = \"/run/secrets/word\"\n\
         [[volumes]]\nname = \"words\"\npath = \"/data\"\n[release]\ncommand = [\"sh\", \"-c\", \"echo released with $WORD; test $WORD = one\"]\n"
    );
    let deployed = ours.deploy(&manifest).await;
    assert!(deployed.stderr.contains("released with one"), "{}", deployed.stderr);
    deployed.ok();
    ours.deploy(&manifest.replace("WORD = \"one\"", "WORD = \"two\""))
        .await
        .fails(5, &["the release command ended with exit code 1, so nothing was released"]);
    let line =
        "echo $WORD; id -u; cat /run/secrets/word; echo; echo kept >/tmp/a; test -e /data/word || echo none";
    let task = ["job", "run", "--app", "web", "--", "sh", "-c", line];
    assert_eq!(ours.platform.wharf(&task).await.ok(), "one\n1000\nhush\nnone\n");
    let info = ours.job("web").await;
    assert_eq!((info.app.unwrap().as_str(), info.release), ("web", Some(1)));
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_runs_the_image_that_its_name_meant_when_it_was_set() {
    let Some(ours) = Ours::start().await else { return };
    let set = ["schedule", "set", "nightly", "--cron", "@yearly", "--image", WEB, "--", "echo", "at night"];
    ours.platform.wharf(&set).await.ok();
    let made: JobInfo = ours.platform.wharf(&["schedule", "run-now", "nightly", "--json"]).await.json();
    ours.job_is(&made.id.to_string(), "over", |info| info.state == JobState::Succeeded).await;
    ours.has_said(&made.id.to_string(), "at night").await;
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_stack_is_run_once_before_what_waits_for_its_end() {
    let Some(ours) = Ours::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let compose = format!(
        "services:\n  web:\n    image: {WEB}\n    environment: {{WORD: served}}\n    ports: [\"80:8000\"]\n    x-wharf: {{http: {{}}}}\n    depends_on:\n      migrate: {{condition: service_completed_successfully}}\n  \
         migrate:\n    image: {WEB}\n    command: [sh, -c, \"echo migrated; exit 0\"]\n    deploy: {{mode: replicated-job, restart_policy: {{condition: none}}}}\n"
    );
    let deploy = async |text: &str| {
        std::fs::write(folder.path().join("compose.yaml"), text).unwrap();
        ours.platform.user().in_folder(folder.path()).run(&["stack", "deploy", "shop"]).await
    };
    let failing = compose.replace("exit 0", "exit 4");
    deploy(&failing).await.fails(5, &["the job `migrate` did not succeed"]);
    ours.platform.wharf(&["status", "web"]).await.fails(3, &[]);
    let said = deploy(&compose).await.ok();
    assert!(said.contains("migrated"), "{said}");
    ours.platform.serves_at("web", "/cgi-bin/answer").await;
    let first = ours.job("migrate").await;
    let said = deploy(&compose).await.ok();
    assert!(said.contains("has succeeded before, and has not changed"), "{said}");
    assert_eq!(ours.job("migrate").await.id, first.id);
    ours.end().await;
}
