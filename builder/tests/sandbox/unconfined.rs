//! A user's own build on the user's own machine.

use tokio_util::sync::CancellationToken;
use wharf_builder::{Enforced, FailReason, Isolation, Sandbox};

use crate::support::{build, eventually, marker, plan, processes_with};

#[tokio::test]
async fn a_user_builds_with_everything_the_user_has() {
    let tree = tempfile::tempdir().unwrap();
    let mut plan = plan(tree.path(), "pwd; echo $GIT_REV$HOME; echo made > app.wasm");
    plan.env = [("GIT_REV".to_owned(), "abc".to_owned())].into();
    let outcome = build(&plan, &Sandbox::Unconfined, &CancellationToken::new()).await;
    let here = tree.path().canonicalize().unwrap();
    let home = std::env::var("HOME").unwrap_or_default();
    assert_eq!(outcome.lines, [here.display().to_string(), format!("abc{home}")]);
    let built = outcome.built();
    assert_eq!(built.artifact, here.join("app.wasm"));
    let Enforced { isolation, .. } = built.enforced;
    assert_eq!(isolation, Isolation::None);
    assert_eq!(built.enforced.to_string(), "no sandbox and no limits");
}

#[tokio::test]
async fn a_users_build_that_fails_says_how() {
    let tree = tempfile::tempdir().unwrap();
    let plan = plan(tree.path(), "echo oh no; exit 3");
    let failed = build(&plan, &Sandbox::Unconfined, &CancellationToken::new()).await.failed();
    assert!(matches!(failed.reason, FailReason::ExitCode(3)), "{failed}");
    assert_eq!(failed.last_lines, ["oh no"]);
}

#[tokio::test]
async fn a_users_build_that_is_cancelled_ends_with_what_it_started() {
    let tree = tempfile::tempdir().unwrap();
    let marker = marker();
    let plan = plan(tree.path(), &format!("sh -c 'sleep 1000; : {marker}' & sleep 1000; : {marker}"));
    let cancel = CancellationToken::new();
    let mut running = Box::pin(build(&plan, &Sandbox::Unconfined, &cancel));
    tokio::select! {
        outcome = &mut running => panic!("it ended: {}", outcome.failed()),
        () = eventually("two processes of the build", || processes_with(&marker) >= 2) => {}
    }
    cancel.cancel();
    let failed = running.await.failed();
    assert!(matches!(failed.reason, FailReason::Cancelled), "{failed}");
    eventually("the end of the build", || processes_with(&marker) == 0).await;
}

#[tokio::test]
async fn what_is_built_already_is_taken_as_it_is() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("app.wasm"), "1234").unwrap();
    let mut plan = plan(tree.path(), "");
    plan.steps.command = None;
    let built = build(&plan, &Sandbox::Unconfined, &CancellationToken::new()).await.built();
    assert_eq!(built.artifact_bytes, 4);
}
