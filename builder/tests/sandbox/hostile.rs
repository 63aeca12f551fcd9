//! Builds that take more than they may, or do not end.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wharf_builder::{Artifact, Bound, BuildLimits, FailReason, Limit, Sandbox};

use crate::support::{Fixture, build, eventually, fixture, marker, processes_with};

const MADE: &str = "echo made > app.wasm";

fn limit_of(reason: &FailReason) -> Option<Limit> {
    match reason {
        FailReason::Limit(limit) => Some(*limit),
        _ => None,
    }
}

/// The limit that a command passes.
async fn passes(fixture: &Fixture, command: &str, limits: impl FnOnce(&mut BuildLimits)) -> Option<Limit> {
    let mut plan = fixture.plan(command);
    limits(&mut plan.limits);
    let failed = fixture.run(&plan).await.failed();
    let limit = limit_of(&failed.reason);
    assert!(limit.is_some(), "{command}: {failed}");
    limit
}

#[tokio::test]
async fn a_build_that_never_ends_is_ended_with_all_its_processes() {
    let Some(fixture) = fixture().await else { return };
    let marker = marker();
    let command = format!("sh -c 'sleep 1000; : {marker}' & sleep 1000; : {marker}");
    let wall_max = Duration::from_millis(1500);
    let limit = passes(&fixture, &command, |limits| limits.wall_max = wall_max).await;
    assert_eq!(limit, Some(Limit::WallClock(wall_max)));
    assert_eq!(processes_with(&marker), 0);
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_processes_and_ends() {
    let Some(fixture) = fixture().await else { return };
    let marker = marker();
    let mut plan = fixture.plan(&format!("f() {{ f | f & }}; f; sleep 1000; : {marker}"));
    plan.limits.processes_max = 40;
    plan.limits.wall_max = Duration::from_secs(3);
    let watched = async {
        while processes_with(&marker) < 100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let failed = tokio::select! {
        outcome = fixture.run(&plan) => outcome.failed(),
        () = watched => panic!("there are 100 processes"),
    };
    assert!(
        matches!(failed.reason, FailReason::Limit(Limit::WallClock(_)) | FailReason::ExitCode(_)),
        "{failed}"
    );
    assert_eq!(processes_with(&marker), 0);
}

#[tokio::test]
async fn more_processes_than_allowed_cannot_be_started() {
    let Some(fixture) = fixture().await else { return };
    let many = "i=0; while [ $i -lt 60 ]; do sleep 100 & i=$((i+1)); done";
    let mut plan = fixture.plan(&format!("{many}; {MADE}"));
    fixture.run(&plan).await.built();
    plan.limits.processes_max = 40;
    let failed = fixture.run(&plan).await.failed();
    assert!(failed.last_lines.iter().any(|line| line.contains("fork")), "{failed}");
}

#[tokio::test]
async fn a_disk_is_not_filled() {
    let Some(fixture) = fixture().await else { return };
    let max = 50 << 20;
    let little = |limits: &mut BuildLimits| limits.disk_max_bytes = max;
    let large = "head -c 1000000000 /dev/zero > large";
    assert_eq!(passes(&fixture, large, little).await, Some(Limit::Disk(max)));
    let many = "i=0; while :; do head -c 10000000 /dev/zero > f$i; i=$((i+1)); done";
    assert_eq!(passes(&fixture, many, little).await, Some(Limit::Disk(max)));
    let cache = "i=0; while :; do head -c 10000000 /dev/zero > $HOME/f$i; i=$((i+1)); done";
    assert_eq!(passes(&fixture, cache, little).await, Some(Limit::Disk(max)));
}

#[tokio::test]
async fn what_was_written_just_before_the_end_counts() {
    let Some(fixture) = fixture().await else { return };
    let mut plan = fixture.plan(&format!("head -c 9000000 /dev/zero > a; cp a b; cp a c; {MADE}"));
    plan.limits.disk_max_bytes = 20 << 20;
    let failed = fixture.run(&plan).await.failed();
    assert_eq!(limit_of(&failed.reason), Some(Limit::Disk(20 << 20)), "{failed}");
}

#[tokio::test]
async fn many_files_and_folders_without_bottom_are_ended() {
    let Some(fixture) = fixture().await else { return };
    let files = "i=0; while :; do : > f$i; i=$((i+1)); done";
    let limit = passes(&fixture, files, |limits| limits.files_max = 3000).await;
    assert_eq!(limit, Some(Limit::Files(3000)));
    let deep = "perl -e 'while (1) { mkdir \"d\"; chdir \"d\"; }'";
    let limit = passes(&fixture, deep, |_| {}).await;
    assert!(matches!(limit, Some(Limit::Unmeasurable | Limit::Files(_))), "{limit:?}");
    // So that the folder of this test can be removed.
    wharf_builder::remove_tree(&fixture.folder.path().join("tree")).unwrap();
}

#[tokio::test]
async fn what_has_to_stay_free_stays_free() {
    let Some(fixture) = fixture().await else { return };
    let limit = passes(&fixture, "sleep 1000", |limits| limits.disk_free_min_bytes = u64::MAX).await;
    assert_eq!(limit, Some(Limit::DiskFree(u64::MAX)));
}

#[tokio::test]
async fn folders_in_memory_are_small() {
    let Some(fixture) = fixture().await else { return };
    for path in ["/tmp/x", "/dev/shm/x"] {
        let mut plan = fixture.plan(&format!("head -c 200000000 /dev/zero > {path} || exit 9; {MADE}"));
        plan.limits.tmp_max_bytes = 10 << 20;
        let failed = fixture.run(&plan).await.failed();
        assert!(matches!(failed.reason, FailReason::ExitCode(9)), "{failed}");
        assert!(failed.last_lines[0].contains("No space left"), "{failed}");
    }
}

#[tokio::test]
async fn memory_is_bounded() {
    let Some(fixture) = fixture().await else { return };
    let mut plan = fixture.plan("tail /dev/zero");
    plan.limits.memory_max_bytes = 100 << 20;
    let failed = fixture.run(&plan).await.failed();
    let Sandbox::Confined(confined) = &fixture.sandbox else { panic!() };
    match confined.enforced().memory {
        Bound::Together => {
            assert_eq!(limit_of(&failed.reason), Some(Limit::Memory(100 << 20)), "{failed}");
        }
        bound => {
            assert_eq!(bound, Bound::EachProcess);
            assert!(failed.last_lines.iter().any(|line| line.contains("memory exhausted")), "{failed}");
        }
    }
}

#[tokio::test]
async fn cpu_time_is_bounded() {
    let Some(fixture) = fixture().await else { return };
    let limit =
        passes(&fixture, "while :; do :; done", |limits| limits.cpu_max = Duration::from_secs(1)).await;
    assert_eq!(limit, Some(Limit::Cpu(Duration::from_secs(1))));
}

#[tokio::test]
async fn a_gigabyte_of_output_is_neither_kept_nor_waited_for() {
    let Some(fixture) = fixture().await else { return };
    let mut plan = fixture.plan("yes | head -c 1000000000");
    plan.limits.lines_max = 100;
    plan.limits.output_max_bytes = 10 << 20;
    let outcome = fixture.run(&plan).await;
    assert_eq!(outcome.lines.len(), 101);
    let failed = outcome.failed();
    assert_eq!(limit_of(&failed.reason), Some(Limit::Output(10 << 20)), "{failed}");
    let mut plan = fixture.plan(&format!("head -c 5000000 /dev/zero; {MADE}"));
    plan.limits.output_max_bytes = 10 << 20;
    let outcome = fixture.run(&plan).await;
    assert!(outcome.lines.len() == 1 && outcome.lines[0].len() < 20_000, "{}", outcome.lines.len());
}

#[tokio::test]
async fn what_is_printed_does_no_harm_to_a_terminal() {
    let Some(fixture) = fixture().await else { return };
    let command = format!(r"printf '\033[2J\033]0;title\007a\033[31mb\rc\n'; echo err >&2; {MADE}");
    let outcome = fixture.succeeds(&command).await;
    assert_eq!(outcome.lines, ["c", "err"]);
}

#[tokio::test]
async fn what_a_build_leaves_behind_ends_with_it() {
    let Some(fixture) = fixture().await else { return };
    let marker = marker();
    let daemon = format!("setsid sh -c 'sleep 1000; : {marker}' >/dev/null 2>&1 </dev/null &");
    let built = fixture.succeeds(&format!("{daemon} {MADE}")).await.built();
    assert!(built.duration < Duration::from_secs(30), "{built:?}");
    assert_eq!(processes_with(&marker), 0);
}

#[tokio::test]
async fn whoever_cancels_or_goes_away_ends_the_build() {
    let Some(fixture) = fixture().await else { return };
    for is_dropped in [false, true] {
        let marker = marker();
        let plan = fixture.plan(&format!("(setsid sleep 1000; : {marker}) & sleep 1000; : {marker}"));
        let cancel = CancellationToken::new();
        let mut running = Box::pin(build(&plan, &fixture.sandbox, &cancel));
        tokio::select! {
            outcome = &mut running => panic!("it ended: {}", outcome.failed()),
            () = eventually("two processes of the build", || processes_with(&marker) >= 2) => {}
        }
        if is_dropped {
            drop(running);
            eventually("the end of the build", || processes_with(&marker) == 0).await;
        } else {
            cancel.cancel();
            let failed = running.await.failed();
            assert!(matches!(failed.reason, FailReason::Cancelled), "{failed}");
            assert_eq!(processes_with(&marker), 0);
        }
    }
}

#[tokio::test]
async fn an_artifact_is_a_file_of_the_tree() {
    let Some(fixture) = fixture().await else { return };
    for (command, words) in [
        ("ln -s /etc/passwd app.wasm", "leads out of the tree"),
        ("ln -s /cache app.wasm", "has not made app.wasm"),
        ("mkfifo app.wasm", "not a regular file"),
        ("mkdir app.wasm", "not a regular file"),
        (": > app.wasm", "is empty"),
        ("echo x > other.wasm", "has not made app.wasm; there is other.wasm"),
        ("head -c 2000 /dev/zero > app.wasm", "2000 octets; 1000 are allowed"),
    ] {
        let tree = fixture.tree("tree");
        let mut plan = fixture.plan(command);
        plan.limits.artifact_max_bytes = 1000;
        let failed = fixture.run(&plan).await.failed();
        assert!(matches!(failed.reason, FailReason::Artifact(_)), "{command}: {failed}");
        assert!(failed.to_string().contains(words), "{command}: {failed}");
        wharf_builder::remove_tree(&tree).unwrap();
    }
}

#[tokio::test]
async fn an_artifact_of_an_earlier_build_is_not_that_of_this_one() {
    let Some(fixture) = fixture().await else { return };
    let mut plan = fixture.plan("echo one > target/app.wasm");
    plan.steps.artifact = Artifact::Path("target/app.wasm".to_owned());
    plan.steps.kept = vec!["target".to_owned()];
    let built = fixture.run(&plan).await.built();
    assert_eq!(std::fs::read_to_string(built.artifact).unwrap(), "one\n");
    plan.tree = fixture.tree("again");
    plan.steps.command = Some("ls target".to_owned());
    let failed = fixture.run(&plan).await.failed();
    assert!(failed.to_string().contains("has not made target/app.wasm"), "{failed}");
}

#[tokio::test]
async fn a_failure_says_how_it_ended_and_what_was_printed_last() {
    let Some(fixture) = fixture().await else { return };
    let failed = fixture.run(&fixture.plan("seq 100; echo oh no >&2; exit 7")).await.failed();
    assert!(matches!(failed.reason, FailReason::ExitCode(7)) && !failed.reason.is_platforms());
    assert_eq!(failed.last_lines.len(), 20);
    assert!(failed.to_string().ends_with("\n  99\n  100\n  oh no"), "{failed}");
}
