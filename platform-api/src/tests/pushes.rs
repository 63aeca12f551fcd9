//! What is kept of pushes, and what the next process makes of those that were under way.

use std::process::Command;

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use wharf_types::api::BuildState;
use wharf_types::secret::ValueKind;
use wharf_types::{AppName, BuildId, SecretName, SetName, Timestamp};

use super::fixture::{Platform, component, eventually, quick, request};
use super::worker::Worker;
use crate::git::{PreviewPart, recover};
use crate::store;
use crate::store::build::NewBuild;
use crate::store::repository::Repository;
use crate::store::stack_preview::NewStackPreview;

const NS: &str = "/v1/namespaces/default";

impl Platform {
    async fn repository(&self, app: &str) -> Repository {
        let mut tx = self.context.store.write().await.unwrap();
        let namespace = store::namespace::find(&mut tx, &"default".parse().unwrap()).await.unwrap().unwrap();
        let app: AppName = app.parse().unwrap();
        let repository =
            store::repository::ensure(&mut tx, namespace.id, &app, Timestamp::now()).await.unwrap();
        tx.commit().await.unwrap();
        repository
    }

    async fn build(&self, repository: &Repository, app: &str, commit: &str, release: Option<u64>) -> BuildId {
        let id = BuildId::new();
        let app = app.parse().unwrap();
        let new = NewBuild {
            id,
            repository: repository.id,
            app: &app,
            branch: "main",
            commit,
            subject: "Say hello",
            by: "alice",
        };
        let mut tx = self.context.store.write().await.unwrap();
        store::build::create(&mut tx, &new, BuildState::Building, Timestamp::now()).await.unwrap();
        assert!(store::build::advance(&mut tx, id, BuildState::Deploying, release).await.unwrap());
        tx.commit().await.unwrap();
        id
    }

    /// A commit in the folder of a repository.
    async fn commit(&self, repository: Uuid) -> String {
        self.context.git.repositories.ensure(repository).await.unwrap();
        let folder = self.context.config.data_dir.join("git").join(format!("{repository}.git"));
        let git = |args: &[&str]| {
            let who = ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"];
            let mut command = Command::new("git");
            command.arg("-C").arg(&folder).args(args).envs(who.map(|key| (key, "a@example.com")));
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let tree = git(&["hash-object", "-w", "-t", "tree", "/dev/null"]);
        git(&["commit-tree", &tree, "-m", "Say hello"])
    }

    async fn shown(&self, build: BuildId) -> Value {
        self.get(&format!("{NS}/builds/{build}")).await
    }
}

#[tokio::test]
async fn builds_are_listed_newest_first_and_end_once() {
    let platform = Platform::start().await;
    let (hello, other) = (platform.repository("hello").await, platform.repository("other").await);
    assert_eq!(platform.repository("hello").await.id, hello.id);
    let first = platform.build(&hello, "hello", "a", None).await;
    let second = platform.build(&hello, "hello", "b", Some(7)).await;
    platform.build(&other, "other", "c", None).await;
    let listed = platform.get(&format!("{NS}/builds?app=hello")).await;
    let ids: Vec<&Value> = listed["items"].as_array().unwrap().iter().map(|build| &build["id"]).collect();
    assert_eq!(ids, [&json!(second), &json!(first)]);
    assert_eq!(platform.get(&format!("{NS}/builds")).await["items"].as_array().unwrap().len(), 3);
    assert_eq!(platform.shown(second).await["release"], 7);
    let now = Timestamp::now();
    let mut tx = platform.context.store.write().await.unwrap();
    assert!(store::build::end(&mut tx, first, BuildState::Failed, Some("no"), now).await.unwrap());
    assert!(!store::build::end(&mut tx, first, BuildState::Succeeded, None, now).await.unwrap());
    assert!(!store::build::advance(&mut tx, first, BuildState::Deploying, None).await.unwrap());
    // What has not ended is never forgotten.
    assert_eq!(store::build::prune(&mut tx, Timestamp::MAX, 0).await.unwrap(), [first]);
    tx.commit().await.unwrap();
    platform.call(Method::GET, &format!("{NS}/builds/{first}"), Value::Null).await.refuses(
        404,
        "not_found",
        &["wharf builds"],
    );
}

#[tokio::test]
async fn the_last_build_that_has_succeeded_says_whether_a_repository_is_a_stack() {
    let platform = Platform::start().await;
    let (shop, other) = (platform.repository("shop").await, platform.repository("other").await);
    let was_stack = async |repository: &Repository, app: &str| {
        let mut tx = platform.context.store.read().await.unwrap();
        store::build::was_stack(&mut tx, repository.id, &app.parse().unwrap()).await.unwrap()
    };
    assert_eq!(was_stack(&shop, "shop").await, None);
    for (repository, app, release, state, expected) in [
        (&shop, "shop", None, BuildState::Failed, None),
        (&shop, "shop", None, BuildState::Succeeded, Some(true)),
        (&shop, "shop", Some(1), BuildState::Failed, Some(true)),
        (&shop, "shop-preview-a", Some(1), BuildState::Succeeded, Some(true)),
        (&other, "other", Some(1), BuildState::Succeeded, Some(true)),
        (&shop, "shop", Some(2), BuildState::Succeeded, Some(false)),
    ] {
        let build = platform.build(repository, app, "a", release).await;
        let mut tx = platform.context.store.write().await.unwrap();
        assert!(store::build::end(&mut tx, build, state, None, Timestamp::now()).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(was_stack(&shop, "shop").await, expected, "{app} {release:?} {state}");
    }
    assert_eq!(was_stack(&other, "other").await, Some(false));
}

#[tokio::test]
async fn too_many_builds_of_one_repository_are_forgotten_and_those_of_others_are_not() {
    let platform = Platform::start().await;
    let (hello, other) = (platform.repository("hello").await, platform.repository("other").await);
    let mut builds = Vec::new();
    for (repository, app) in [(&other, "other"), (&hello, "hello"), (&hello, "hello"), (&hello, "hello")] {
        let build = platform.build(repository, app, "a", None).await;
        let mut tx = platform.context.store.write().await.unwrap();
        store::build::end(&mut tx, build, BuildState::Succeeded, None, Timestamp::now()).await.unwrap();
        tx.commit().await.unwrap();
        builds.push(build);
    }
    let mut tx = platform.context.store.write().await.unwrap();
    assert_eq!(store::build::prune(&mut tx, Timestamp::MIN, 2).await.unwrap(), [builds[1]]);
}

#[tokio::test]
async fn the_next_process_goes_back_from_what_had_not_moved_and_keeps_what_had() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    let repository = platform.repository("hello").await;
    platform.serve(0, quick()).await;
    let commit = platform.commit(repository.id).await;
    let unbuilt = platform.build(&repository, "hello", &commit, None).await;
    platform.serve(1, quick()).await;
    let unmoved = platform.build(&repository, "hello", &commit, Some(2)).await;
    Box::pin(recover::recover(&platform.context)).await.unwrap();
    assert_eq!(platform.shown(unbuilt).await["state"], "failed");
    let shown = platform.shown(unmoved).await;
    assert_eq!(shown["state"], "failed");
    assert!(shown["problem"].as_str().unwrap().contains("release 1 is back"), "{shown}");
    eventually("release 1 is what runs", async || {
        (platform.app("hello").await["release"] == 1).then_some(())
    })
    .await;
    let folder = platform.context.git.repositories.find(repository.id).await.unwrap().unwrap();
    let name = "refs/heads/main".parse().unwrap();
    assert!(folder.update_ref(&name, None, commit.parse().unwrap()).await.unwrap());
    let moved = platform.build(&repository, "hello", &commit, Some(1)).await;
    Box::pin(recover::recover(&platform.context)).await.unwrap();
    assert_eq!(platform.shown(moved).await["state"], "succeeded");
    let info = platform.get(&format!("{NS}/apps/hello/repository")).await;
    assert_eq!((&info["commit"], &info["branch"]), (&json!(commit), &json!("main")));
}

#[tokio::test]
async fn a_preview_goes_when_its_time_is_over() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    let repository = platform.repository("hello").await;
    platform.serve(0, quick()).await;
    platform.deploy("hello-preview-a", &component(0), quick()).await.is(201);
    let commit = platform.commit(repository.id).await;
    let folder = platform.context.git.repositories.find(repository.id).await.unwrap().unwrap();
    let name = "refs/heads/preview/a".parse().unwrap();
    folder.update_ref(&name, None, commit.parse().unwrap()).await.unwrap();
    let mut tx = platform.context.store.write().await.unwrap();
    let (namespace, app) = ("default".parse().unwrap(), "hello-preview-a".parse().unwrap());
    let app = store::app::find(&mut tx, &namespace, &app).await.unwrap().unwrap();
    for expires_at in [Timestamp::MIN, Timestamp::now() + std::time::Duration::from_secs(3600)] {
        store::repository::put_preview(&mut tx, app.id, repository.id, "preview/a", expires_at)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    Box::pin(recover::tidy(&platform.context)).await.unwrap();
    let info = platform.get(&format!("{NS}/apps/hello/repository")).await;
    assert_eq!(info["previews"][0]["app"], "hello-preview-a", "a later push has made it last");
    let mut tx = platform.context.store.write().await.unwrap();
    store::repository::put_preview(&mut tx, app.id, repository.id, "preview/a", Timestamp::MIN)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    Box::pin(recover::tidy(&platform.context)).await.unwrap();
    eventually("the preview is gone", async || {
        let reply = platform.call(Method::GET, &format!("{NS}/apps/hello-preview-a"), Value::Null).await;
        (reply.status == 404).then_some(())
    })
    .await;
    assert_eq!(folder.find_ref(&name).await.unwrap(), None);
}

#[tokio::test]
async fn a_repository_that_no_app_has_come_of_is_forgotten_after_a_while() {
    let platform = Platform::start().await;
    let (unused, used) = (platform.repository("unused").await, platform.repository("hello").await);
    let under_way = platform.repository("new").await;
    platform.build(&under_way, "new", "a", None).await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let mut tx = platform.context.store.write().await.unwrap();
    store::repository::prune(&mut tx, Timestamp::MIN).await.unwrap();
    assert_eq!(store::repository::ids(&mut tx).await.unwrap().len(), 3);
    store::repository::prune(&mut tx, Timestamp::MAX).await.unwrap();
    let left = store::repository::ids(&mut tx).await.unwrap();
    assert!(left.contains(&used.id) && left.contains(&under_way.id) && !left.contains(&unused.id));
}

#[tokio::test]
async fn a_repository_goes_with_its_app() {
    let platform = Platform::start().await;
    let repository = platform.repository("hello").await;
    platform.commit(repository.id).await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    platform.call(Method::DELETE, &format!("{NS}/apps/hello"), Value::Null).await;
    assert_ne!(platform.repository("hello").await.id, repository.id, "the next app of this name has another");
    Box::pin(recover::tidy(&platform.context)).await.unwrap();
    assert!(platform.context.git.repositories.find(repository.id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_branch_that_cannot_be_what_runs_is_refused() {
    let platform = Platform::start().await;
    let path = format!("{NS}/apps/hello/repository");
    for branch in ["", "preview/x", "a..b", "a b", &"x".repeat(201)] {
        let reply = platform.call(Method::PATCH, &path, json!({"branch": branch})).await;
        reply.refuses(400, "invalid_request", &["branch:"]);
    }
    let set =
        platform.call(Method::PATCH, &path, json!({"branch": "live", "when_busy": "fail"})).await.is(200);
    assert_eq!(
        (&set["branch"], &set["when_busy"], &set["path"]),
        (&json!("live"), &json!("fail"), &json!("/git/default/hello.git"))
    );
}

#[tokio::test]
async fn a_stack_that_is_a_preview_goes_with_what_was_made_for_it_and_nothing_else() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    let repository = platform.repository("shop").await;
    let set: SetName = "shop-preview-a".parse().unwrap();
    let (own, other): (SecretName, SecretName) =
        ("shop-preview-a-key".parse().unwrap(), "key".parse().unwrap());
    for name in [&own, &other] {
        let put = request(&platform.admin, Method::PUT, &format!("{NS}/secrets/{name}"));
        platform.send(put.body(Body::from("value")).unwrap()).await.is(200);
    }
    for app in ["web", "shop-preview-a-web"] {
        platform.deploy(app, &component(0), quick()).await.is(201);
    }
    let mut tx = platform.context.store.write().await.unwrap();
    let namespace = store::namespace::find(&mut tx, &"default".parse().unwrap()).await.unwrap().unwrap();
    let app = "shop-preview-a-web".parse().unwrap();
    let app = store::app::find(&mut tx, &"default".parse().unwrap(), &app).await.unwrap().unwrap();
    store::app::set_applied_set(&mut tx, &[app.id], &set).await.unwrap();
    let parts = [
        PreviewPart::Value(ValueKind::Secret, own),
        PreviewPart::Job("shop-preview-a-move".parse().unwrap()),
    ];
    let new = NewStackPreview {
        namespace: namespace.id,
        repository: repository.id,
        name: &set,
        branch: "preview/a",
        expires_at: Timestamp::now() + std::time::Duration::from_secs(3600),
    };
    store::stack_preview::put(&mut tx, &new, &parts).await.unwrap();
    // Its repository has no app, and is used all the same.
    store::repository::prune(&mut tx, Timestamp::MAX).await.unwrap();
    tx.commit().await.unwrap();
    Box::pin(recover::tidy(&platform.context)).await.unwrap();
    let previews = async || {
        let mut tx = platform.context.store.read().await.unwrap();
        store::stack_preview::of_repository(&mut tx, repository.id).await.unwrap()
    };
    assert_eq!(previews().await[0].branch, "preview/a");
    let info = platform.get(&format!("{NS}/apps/shop/repository")).await;
    assert_eq!(info["previews"][0]["app"], "shop-preview-a");
    assert_eq!(info["previews"][0]["services"], json!(["shop-preview-a-web"]));

    let mut tx = platform.context.store.write().await.unwrap();
    store::stack_preview::set_expiry(&mut tx, repository.id, "preview/a", Timestamp::UNIX_EPOCH)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    eventually("nothing is left of the preview", async || {
        Box::pin(recover::tidy(&platform.context)).await.unwrap();
        previews().await.is_empty().then_some(())
    })
    .await;
    let there = platform.get(&format!("{NS}/secrets")).await;
    let names: Vec<&str> =
        there["items"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["key"]);
    platform.call(Method::GET, &format!("{NS}/apps/shop-preview-a-web"), Value::Null).await.is(404);
    assert_eq!(platform.app("web").await["app"], "web");
}
