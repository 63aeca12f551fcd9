//! `git push` deploys: with the git of this machine, over HTTP, into the real platform.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use wharf_tests::{Platform, Ran, Repository, SHORT, eventually, remote_lines, workspace};

/// A repository with a built guest, and the remote of an app.
async fn prebuilt(platform: &Platform, guest: &str, app: &str, manifest: &str) -> Repository {
    let repository = Repository::new(platform).await;
    repository.write("app.wasm", std::fs::read(workspace::guest(guest)).unwrap());
    repository.write("wharf.toml", format!("app = \"{app}\"\n[update]\nmonitor = \"50ms\"\n{manifest}"));
    repository.commit("Say hello").await;
    repository.user().run(&["git", "remote"]).await.ok();
    repository
}

/// What is pushed next starts, and says that it is not ready.
fn never_healthy(repository: &Repository, progress_deadline: &str) {
    repository.write("app.wasm", std::fs::read(workspace::guest("stream")).unwrap());
    repository.write(
        "wharf.toml",
        format!("app = \"hello\"\n[update]\nmonitor = \"50ms\"\nprogress_deadline = \"{progress_deadline}\"\n[http.health]\npath = \"/nothing-here\"\n"),
    );
}

/// A push that was refused, with these words somewhere in what the other side said.
fn refused(ran: &Ran, words: &[&str]) {
    assert_ne!(ran.code, 0, "{}", ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is missing in:\n{}", ran.stderr);
    }
}

async fn builds(platform: &Platform) -> Vec<Value> {
    let listed = platform.wharf(&["builds", "--json"]).await.json::<Value>();
    listed["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_deploys_and_its_last_line_is_the_address() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    let pushed = repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let lines = remote_lines(&pushed);
    let text = lines.join("\n");
    for words in [
        "-----> Deploying",
        "hello in default",
        "Say hello (build ",
        "found: ",
        "-----> Artifact sha256:",
        "-----> Release 1 of hello",
    ] {
        assert!(text.contains(words), "`{words}` is missing in:\n{text}");
    }
    let last = lines.iter().rev().find(|line| !line.trim().is_empty()).unwrap();
    assert!(last.trim().starts_with("http://hello.default.localhost"), "{text}");
    assert_eq!(platform.text("hello", "/").await, "Hello from WASI 0.2\n");
    let [build] = &builds(&platform).await[..] else { panic!("one push is one build") };
    assert_eq!((&build["state"], &build["release"]), (&"succeeded".into(), &1.into()));
    // The next one moves on, and the guest knows its commit.
    repository.write(
        "wharf.toml",
        "app = \"hello\"\n[update]\nmonitor = \"50ms\"\n[env]\nGREETING = \"changed\"\n",
    );
    let commit = repository.commit("Say something else").await;
    repository.push(&["main"]).await.ok();
    assert_eq!(platform.text("hello", "/").await, "changed\n");
    let env = platform.wharf(&["env", "list", "hello", "--json"]).await.ok();
    assert!(env.contains(&commit), "{env}");
    let id = build["id"].as_str().unwrap();
    let log = platform.wharf(&["build", "logs", id]).await.ok();
    assert!(log.contains("-----> Release 1 of hello"), "{log}");
    let cancelled = platform.wharf(&["build", "cancel", id]).await;
    cancelled.fails(7, &[&format!("build {id} has ended already: it has succeeded"), "wharf rollback"]);
    let followed = platform.wharf(&["build", "logs", "-f", id]).await.ok();
    assert_eq!(followed, log, "of a build that has ended nothing more comes");
    assert_eq!(repository.push(&["main"]).await.code, 0, "nothing is to be done");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_can_be_cloned_and_fetched() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    repository.push(&["main"]).await.ok();
    repository.git(&["tag", "v1"]).await.ok();
    let tagged = repository.push(&["--tags"]).await;
    assert_eq!(tagged.code, 0, "{}", tagged.stderr);
    let url = repository.git(&["remote", "get-url", "wharf"]).await.ok();
    let other = Repository::new(&platform).await;
    other.user().run(&["git", "remote", "hello"]).await.ok();
    for version in ["0", "2"] {
        let fetched = other.git(&["-c", &format!("protocol.version={version}"), "fetch", "wharf"]).await;
        assert_eq!(fetched.code, 0, "{}", fetched.stderr);
    }
    let head = repository.git(&["rev-parse", "HEAD"]).await.ok();
    assert_eq!(other.git(&["rev-parse", "wharf/main"]).await.ok(), head);
    assert_eq!(other.git(&["rev-parse", "v1"]).await.ok(), head);
    assert_eq!(builds(&platform).await.len(), 1, "a tag deploys nothing");
    // Who has no token sees nothing.
    let stranger = Repository::of(platform.user(), other.folder()).await;
    let refusal = stranger.git(&["ls-remote", url.trim()]).await;
    refused(&refusal, &["could not read Username"]);
    // Where there is a `wharf` and no token, git gets nothing, and whoever it runs for hears what to do.
    let asked = "protocol=https\nhost=wharf.example.com\n\n";
    let ran = platform.user().run_with_input(&["git", "credential", "get"], asked).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert!(ran.stderr.contains("`wharf login https://wharf.example.com`"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_without_history_deploys_as_any_other() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    repository.commit("Say it again").await;
    let head = repository.git(&["rev-parse", "HEAD"]).await.ok();
    let shallow = Repository::new(&platform).await;
    let url = format!("file://{}", repository.folder().display());
    shallow.git(&["fetch", "--quiet", "--depth=1", &url, "main"]).await.ok();
    shallow.git(&["reset", "--quiet", "--hard", "FETCH_HEAD"]).await.ok();
    assert_eq!(shallow.git(&["rev-list", "--count", "HEAD"]).await.ok().trim(), "1");
    shallow.user().run(&["git", "remote", "hello"]).await.ok();
    let pushed = shallow.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert!(pushed.stderr.contains("Say it again (build "), "{}", pushed.stderr);
    assert_eq!(platform.text("hello", "/").await, "Hello from WASI 0.2\n");
    // Who has all of it goes on from there.
    repository.commit("Say it once more").await;
    let pushed = repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    shallow.git(&["fetch", "--quiet", "wharf"]).await.ok();
    assert_eq!(shallow.git(&["rev-parse", "wharf/main~1"]).await.ok(), head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_fails_leaves_branch_and_release_as_they_were() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    let first = repository.git(&["rev-parse", "HEAD"]).await.ok();
    repository.push(&["main"]).await.ok();
    never_healthy(&repository, "2s");
    repository.commit("Never healthy").await;
    let pushed = repository.push(&["main"]).await;
    refused(
        &pushed,
        &["release 2 of hello failed", "hello is back on release 1", "nothing has moved", "wharf build logs"],
    );
    assert_eq!(platform.text("hello", "/").await, "Hello from WASI 0.2\n");
    let moved = repository.git(&["ls-remote", "wharf", "refs/heads/main"]).await.ok();
    assert!(moved.starts_with(first.trim()), "{moved}");
    for (file, content, words) in [
        ("app.wasm", &b"not wasm"[..], &["app.wasm", "nothing has moved"][..]),
        (
            "wharf.toml",
            b"app = \"hello\"\n[scale]\nreplica = 2\n[update]\nparallelism = \"0%\"\n",
            &["there are 2 errors", "wharf.toml:3:1: ", "did you mean `replicas`?", "wharf.toml:5:1: "],
        ),
    ] {
        repository.git(&["reset", "--quiet", "--hard", first.trim()]).await.ok();
        repository.write(file, content);
        repository.commit("Broken").await;
        refused(&repository.push(&["main"]).await, words);
    }
    // What the push says to run works in its folder, where the manifest is not valid.
    let id = builds(&platform).await[0]["id"].as_str().unwrap().to_owned();
    for (args, words) in [
        (&["build", "logs", &id][..], "wharf.toml:3:1: "),
        (&["apps", "--json"], "hello"),
        (&["builds", "hello", "--json"], "failed"),
        (&["status", "--json"], "hello"),
    ] {
        let ran = repository.user().run(args).await;
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        assert!(ran.stdout.contains(words), "{args:?}: {}", ran.stdout);
        assert!(ran.stderr.contains("there is no key `replica`"), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("does not matter here"), "{args:?}: {}", ran.stderr);
    }
    assert_eq!(platform.text("hello", "/").await, "Hello from WASI 0.2\n");
    let states: Vec<_> = builds(&platform).await.iter().map(|build| build["state"].clone()).collect();
    assert_eq!(states, ["failed", "failed", "failed", "succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_branch_is_deployed_and_others_are_refused_or_previews() {
    let platform = Platform::start().await;
    let repository =
        prebuilt(&platform, "hello", "hello", "[http]\nroutes = [\"hello.example.com\"]\n").await;
    // What it is called there is not what it is called here, and the commands that are told work all the same.
    let elsewhere = repository.push(&["main:previews/feature"]).await;
    let head = repository.git(&["rev-parse", "HEAD"]).await.ok();
    let deploys = format!("{}:refs/heads/main", &head[..12]);
    let previews = format!("{}:refs/heads/preview/feature", &head[..12]);
    refused(
        &elsewhere,
        &["remote:  !     `previews/feature`", &format!("`git push wharf {deploys}`"), &previews],
    );
    let pushed = repository.push(&[&deploys]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let pushed = repository.push(&[&previews]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    repository.push(&[":preview/feature"]).await.ok();
    repository.write("app.wasm", std::fs::read(workspace::guest("hello")).unwrap());
    repository.write(
        "wharf.toml",
        "app = \"hello\"\n[update]\nmonitor = \"50ms\"\n[http]\nroutes = [\"hello.example.com\"]\n[env]\nGREETING = \"blue\"\n",
    );
    repository.commit("Blue").await;
    let preview = repository.push(&["HEAD:preview/blue"]).await;
    assert_eq!(preview.code, 0, "{}", preview.stderr);
    assert!(preview.stderr.contains("a preview does not take the routes"), "{}", preview.stderr);
    assert_eq!(platform.text("hello-preview-blue", "/").await, "blue\n");
    assert_eq!(platform.text("hello", "/").await, "Hello from WASI 0.2\n");
    let shown = platform.wharf(&["git", "show", "hello"]).await.ok();
    assert!(shown.contains("preview/blue is hello-preview-blue"), "{shown}");
    repository.push(&[":preview/blue"]).await.ok();
    eventually(SHORT, "the preview goes with its branch", async || {
        let reply = platform.get("hello-preview-blue", "/").await.unwrap();
        (reply.status == 404).then_some(())
    })
    .await;
    refused(&repository.push(&[":main"]).await, &["wharf delete hello"]);
    refused(&repository.push(&["-o", "skip=1", "HEAD:preview/x"]).await, &["push option `skip=1`"]);
    // Another branch can be the one.
    platform.wharf(&["git", "set", "hello", "--branch", "live"]).await.ok();
    refused(&repository.push(&["main"]).await, &[":refs/heads/live`"]);
    repository.push(&["main:live"]).await.ok();
    assert_eq!(platform.text("hello", "/").await, "blue\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_whose_first_push_failed_takes_the_next_one() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    let good = repository.git(&["rev-parse", "HEAD"]).await.ok();
    repository.push(&["main"]).await.ok();
    never_healthy(&repository, "2s");
    repository.commit("Never healthy").await;
    refused(
        &repository.push(&["HEAD:preview/blue"]).await,
        &["release 1 of hello-preview-blue failed", "nothing has moved"],
    );
    // It is a preview all the same, so that it goes when its time is over.
    let shown = platform.wharf(&["git", "show", "hello"]).await.ok();
    assert!(shown.contains("preview/blue is hello-preview-blue"), "{shown}");
    repository.git(&["reset", "--quiet", "--hard", good.trim()]).await.ok();
    repository.commit("Mended").await;
    let pushed = repository.push(&["HEAD:preview/blue"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert_eq!(platform.text("hello-preview-blue", "/").await, "Hello from WASI 0.2\n");
    // Another branch whose preview would have the same name is still somebody else's.
    refused(&repository.push(&["HEAD:preview/Blue"]).await, &["which is no preview of this"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_pushes_where_the_token_does_not_reach() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    repository.push(&["main"]).await.ok();
    platform.wharf(&["user", "create", "bob"]).await.ok();
    platform.wharf(&["namespace", "create", "blue"]).await.ok();
    platform.wharf(&["member", "set", "bob", "--role", "developer", "-n", "blue"]).await.ok();
    let token = platform.wharf(&["token", "create", "bobs", "--user", "bob", "--json"]).await.json::<Value>();
    let secret = token["secret"].as_str().unwrap();
    let at = |namespace: &str, app: &str, secret: &str| {
        let host = platform.ready.api.trim_start_matches("http://");
        format!("http://x:{secret}@{host}/git/{namespace}/{app}.git")
    };
    let bob = Repository::new(&platform).await;
    bob.write("app.wasm", std::fs::read(workspace::guest("hello")).unwrap());
    bob.commit("Say hello").await;
    let mut answers = Vec::new();
    for (namespace, app) in [("default", "hello"), ("default", "nothing"), ("nowhere", "hello")] {
        let pushed = bob.git(&["push", &at(namespace, app, secret), "main"]).await;
        refused(&pushed, &["there is no namespace"]);
        answers.push(pushed.stderr.lines().next().unwrap().replace(namespace, "NAMESPACE"));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let pushed = bob.git(&["push", &at("blue", "mine", secret), "main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let id = token["id"].as_str().unwrap();
    platform.wharf(&["token", "revoke", id]).await.ok();
    bob.commit("Again").await;
    refused(&bob.git(&["push", &at("blue", "mine", secret), "main"]).await, &["revoked", "wharf login"]);
    refused(&bob.git(&["push", &at("blue", "mine", "nonsense"), "main"]).await, &["wharf login"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deploy_of_an_app_at_a_time_and_the_next_waits_or_is_refused() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    repository.push(&["main"]).await.ok();
    never_healthy(&repository, "10m");
    repository.commit("Never healthy").await;
    let mut slow = repository.command(&["push", "wharf", "main"]).spawn().unwrap();
    let build = eventually(SHORT, "its rollout is under way", async || {
        let builds = builds(&platform).await;
        builds.iter().find(|build| build["state"] == "deploying").cloned()
    })
    .await;
    let id = build["id"].as_str().unwrap().to_owned();
    platform.wharf(&["git", "set", "hello", "--when-busy", "fail"]).await.ok();
    let second = Repository::new(&platform).await;
    second.user().run(&["git", "remote", "hello"]).await.ok();
    second.git(&["pull", "--quiet", "wharf", "main"]).await.ok();
    second
        .write("wharf.toml", "app = \"hello\"\n[update]\nmonitor = \"50ms\"\n[env]\nGREETING = \"second\"\n");
    second.commit("Second").await;
    refused(&second.push(&["main"]).await, &["the deploy of admin", &id, "wharf build cancel"]);
    platform.wharf(&["git", "set", "hello", "--when-busy", "wait"]).await.ok();
    let waits = tokio::spawn(async move { (second.push(&["main"]).await, second) });
    let refusal = platform.wharf(&["build", "cancel", &id]).await;
    assert_eq!(refusal.code, 0, "{}", refusal.stderr);
    assert!(!slow.wait().await.unwrap().success());
    let (waited, _second) = waits.await.unwrap();
    assert_eq!(waited.code, 0, "{}", waited.stderr);
    assert_eq!(platform.text("hello", "/").await, "second\n");
    let ended = builds(&platform).await;
    assert_eq!(ended.iter().find(|build| build["id"] == id.as_str()).unwrap()["state"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_waits_is_a_build_to_be_cancelled_and_ends_with_its_client() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    repository.push(&["main"]).await.ok();
    never_healthy(&repository, "10m");
    repository.commit("Never healthy").await;
    let mut slow = repository.command(&["push", "wharf", "main"]).spawn().unwrap();
    let in_state = async |state: &str| {
        let builds = builds(&platform).await;
        let build = builds.iter().find(|build| build["state"] == state)?;
        Some(build["id"].as_str()?.to_owned())
    };
    let holder = eventually(SHORT, "its rollout is under way", async || in_state("deploying").await).await;
    let second = Repository::new(&platform).await;
    second.user().run(&["git", "remote", "hello"]).await.ok();
    second.git(&["pull", "--quiet", "wharf", "main"]).await.ok();
    second
        .write("wharf.toml", "app = \"hello\"\n[update]\nmonitor = \"50ms\"\n[env]\nGREETING = \"second\"\n");
    second.commit("Second").await;

    let waits = second.command(&["push", "wharf", "main"]).spawn().unwrap();
    let id = eventually(SHORT, "it is listed while it waits", async || in_state("waiting").await).await;
    let log = platform.wharf(&["build", "logs", &id]).await.ok();
    assert!(log.contains(&format!("Waiting for the deploy of admin (build {holder}")), "{log}");
    platform.wharf(&["build", "cancel", &id]).await.ok();
    let ended =
        tokio::time::timeout(Duration::from_secs(30), waits.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains(&format!("build {id} cancelled")), "{said}");

    // With its helper, as the end of a terminal does.
    let mut command = second.command(&["push", "wharf", "main"]);
    let mut waits = command.process_group(0).spawn().unwrap();
    let id = eventually(SHORT, "the next one waits", async || in_state("waiting").await).await;
    let group = Pid::from_raw(waits.id().unwrap().try_into().unwrap());
    killpg(group, Signal::SIGTERM).unwrap();
    waits.wait().await.unwrap();
    eventually(SHORT, "it has ended with its client", async || {
        let builds = builds(&platform).await;
        let build = builds.iter().find(|build| build["id"] == id.as_str())?;
        let problem = build["problem"].as_str().unwrap_or_default();
        (build["state"] == "cancelled" && problem.contains("whoever pushed has gone")).then_some(())
    })
    .await;
    platform.wharf(&["build", "cancel", &holder]).await.ok();
    assert!(!slow.wait().await.unwrap().success());
    assert_eq!(platform.text("hello", "/").await, "Hello from WASI 0.2\n");
    let pushed = second.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert_eq!(platform.text("hello", "/").await, "second\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_the_deploy_to_finish() {
    let platform = Platform::start().await;
    let build = "[build]\ncommand = \"sleep 3; cp app.wasm out.wasm\"\nartifact = \"out.wasm\"\n";
    let repository = prebuilt(&platform, "hello", "hello", build).await;
    let head = repository.git(&["rev-parse", "HEAD"]).await.ok();
    let mut pushing = repository.command(&["push", "wharf", "main"]).spawn().unwrap();
    eventually(SHORT, "it is being built", async || builds(&platform).await.first().cloned()).await;
    pushing.kill().await.unwrap();
    assert_eq!(builds(&platform).await[0]["state"], "building", "the client has gone in the middle");
    eventually(SHORT, "it serves all the same", async || {
        (builds(&platform).await[0]["state"] == "succeeded").then_some(())
    })
    .await;
    let moved = repository.git(&["ls-remote", "wharf", "refs/heads/main"]).await.ok();
    assert!(moved.starts_with(head.trim()), "{moved}");
    assert_eq!(platform.text("hello", "/").await, "Hello from WASI 0.2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_lock_is_free_and_what_served_serves() {
    let mut platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    repository.push(&["main"]).await.ok();
    never_healthy(&repository, "10m");
    repository.commit("Never healthy").await;
    let mut pushing = repository.command(&["push", "wharf", "main"]).spawn().unwrap();
    eventually(SHORT, "its rollout is under way", async || {
        builds(&platform).await.iter().any(|build| build["state"] == "deploying").then_some(())
    })
    .await;
    platform.kill().await;
    assert!(!pushing.wait().await.unwrap().success());
    platform.start_again().await;
    eventually(SHORT, "the build is over", async || {
        (builds(&platform).await[0]["state"] == "failed").then_some(())
    })
    .await;
    platform.app_is("hello", "it is back on release 1", |app| app.release == Some(1) && app.ready == 1).await;
    let problem = builds(&platform).await[0]["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("release 1 is back") && problem.contains("push again"), "{problem}");
    repository.user().run(&["git", "remote"]).await.ok();
    repository.write("app.wasm", std::fs::read(workspace::guest("hello")).unwrap());
    repository
        .write("wharf.toml", "app = \"hello\"\n[update]\nmonitor = \"50ms\"\n[env]\nGREETING = \"mended\"\n");
    repository.commit("Mended").await;
    let pushed = repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert_eq!(platform.text("hello", "/").await, "mended\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_built_is_refused_with_the_cure() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    let clean = repository.git(&["rev-parse", "HEAD"]).await.ok();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    repository.write("large.bin", lfs);
    repository.commit("A pointer").await;
    refused(&repository.push(&["main"]).await, &["large.bin", "git lfs migrate export"]);
    repository.git(&["reset", "--quiet", "--hard", clean.trim()]).await.ok();
    let head = clean.trim();
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},lib")]).await.ok();
    repository.git(&["commit", "--quiet", "-m", "A submodule"]).await.ok();
    refused(&repository.push(&["main"]).await, &["`lib` is a submodule", "git subtree add"]);
    repository.git(&["reset", "--quiet", "--hard", clean.trim()]).await.ok();
    std::os::unix::fs::symlink("/etc/passwd", repository.folder().join("passwd")).unwrap();
    repository.commit("A link").await;
    refused(&repository.push(&["main"]).await, &["`passwd` is a symbolic link to `/etc/passwd`"]);
    repository.git(&["reset", "--quiet", "--hard", clean.trim()]).await.ok();
    for (key, value) in [("build]\nartifact", "../../../../etc/passwd"), ("files]\npath", "../..")] {
        repository.write("wharf.toml", format!("app = \"hello\"\n[{key} = \"{value}\"\n"));
        repository.commit("Out").await;
        refused(&repository.push(&["main"]).await, &["nothing has moved"]);
    }
    // Where it was pushed to says what it is, and the manifest is not passed over in silence.
    repository.git(&["reset", "--quiet", "--hard", clean.trim()]).await.ok();
    repository
        .write("wharf.toml", "app = \"other\"\nnamespace = \"blue\"\n[build]\nartifact = \"absent.wasm\"\n");
    repository.commit("Another name").await;
    refused(
        &repository.push(&["main"]).await,
        &[
            "`app = \"other\"` in wharf.toml does not count",
            "it is `hello`",
            "`namespace = \"blue\"`",
            "nothing has moved",
        ],
    );
    let empty = Repository::new(&platform).await;
    empty.write("README.md", "Nothing to build\n");
    empty.commit("Nothing").await;
    empty.user().run(&["git", "remote", "empty"]).await.ok();
    refused(&empty.push(&["main"]).await, &["wharf.toml", ".wasm"]);
    // Hooks of what is pushed are files like any others.
    repository.git(&["reset", "--quiet", "--hard", clean.trim()]).await.ok();
    repository.write(".git-hooks/pre-receive", "#!/bin/sh\nexit 1\n");
    repository.write("hooks/pre-receive", "#!/bin/sh\nexit 1\n");
    repository.commit("Hooks").await;
    let pushed = repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_runs_apart_from_the_platform_and_others() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    let data = platform.data().canonicalize().unwrap();
    let admin = data.join("admin.token");
    let port = platform.ready.api.rsplit(':').next().unwrap().to_owned();
    let script = format!(
        "echo built by $(id -u) of $GIT_REV\ncat '{}' && exit 1\nls '{}' && exit 1\n(exec 3<>/dev/tcp/127.0.0.1/{port}) && exit 1\nmkdir -p out && cp app.wasm out/\n",
        admin.display(),
        data.display()
    );
    repository.write("build.sh", script);
    repository.write(
        "wharf.toml",
        "app = \"hello\"\n[build]\ncommand = \"bash build.sh\"\nartifact = \"out/app.wasm\"\n[update]\nmonitor = \"50ms\"\n",
    );
    let commit = repository.commit("Built").await;
    let pushed = repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let text = remote_lines(&pushed).join("\n");
    assert!(text.contains("-----> Building") && text.contains(&format!("of {commit}")), "{text}");
    assert!(!text.contains(&platform.token), "{text}");
    assert_eq!(platform.text("hello", "/").await, "Hello from WASI 0.2\n");
    repository.write("build.sh", "echo what is wrong >&2\nexit 7\n");
    repository.commit("Broken").await;
    refused(&repository.push(&["main"]).await, &["what is wrong", "7", "nothing has moved"]);
    repository.write("build.sh", "while :; do :; done\n");
    repository.commit("Endless").await;
    let mut pushing = repository.command(&["push", "wharf", "main"]).spawn().unwrap();
    let id = eventually(SHORT, "it is being built", async || {
        let builds = builds(&platform).await;
        let building = builds.iter().find(|build| build["state"] == "building")?;
        Some(building["id"].as_str()?.to_owned())
    })
    .await;
    platform.wharf(&["build", "cancel", &id]).await.ok();
    let ended = tokio::time::timeout(Duration::from_secs(30), pushing.wait()).await.unwrap();
    assert!(!ended.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_says_what_pushes_may_do() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    platform.wharf(&["namespace", "pushes", "default", "--creates-apps", "false"]).await.ok();
    let words = ["there is no app `hello`", "wharf namespace pushes default --creates-apps true"];
    refused(&repository.push(&["main"]).await, &words);
    let port = platform.ready.api.rsplit(':').next().unwrap().to_owned();
    repository.write(
        "build.sh",
        format!("exec 3<>/dev/tcp/127.0.0.1/{port} && mkdir -p out && cp app.wasm out/\n"),
    );
    repository.write(
        "wharf.toml",
        "app = \"hello\"\n[build]\ncommand = \"bash build.sh\"\nartifact = \"out/app.wasm\"\n[update]\nmonitor = \"50ms\"\n",
    );
    repository.commit("Built").await;
    platform.wharf(&["namespace", "pushes", "default", "--creates-apps", "true"]).await.ok();
    refused(&repository.push(&["main"]).await, &["builds reach no network here", "--build-network true"]);
    let shown = platform.wharf(&["namespace", "pushes", "default", "--build-network", "true"]).await.ok();
    assert!(shown.contains("builds may use the network"), "{shown}");
    let pushed = repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_count_for_the_namespace_and_one_too_many_octets_move_nothing() {
    let platform = Platform::start().await;
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    repository.push(&["main"]).await.ok();
    let used = || async {
        let quota = platform.wharf(&["quota", "show", "--json"]).await.json::<Value>();
        quota["used"]["repository_bytes"].as_u64().unwrap()
    };
    let size = std::fs::metadata(workspace::guest("hello")).unwrap().len();
    let first = eventually(SHORT, "what was pushed is counted", || async {
        Some(used().await).filter(|&used| used > size / 10)
    })
    .await;
    let limit = format!("{}KiB", first.div_ceil(1024) + 64);
    platform.wharf(&["quota", "set", "--repositories", &limit]).await.ok();
    // Does not compress.
    let noise: Vec<u8> =
        (0_u64..40_000).flat_map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
    repository.write("large", noise);
    repository.commit("Add something large").await;
    refused(
        &repository.push(&["main"]).await,
        &["repositories: the namespace uses", "wharf quota set -n default --repositories"],
    );
    assert_eq!(builds(&platform).await.len(), 1, "nothing was begun");
    platform.wharf(&["quota", "set", "--repositories", "none"]).await.ok();
    repository.push(&["main"]).await.ok();
    eventually(SHORT, "the rest is counted as well", || async { (used().await > first).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_command_runs_before_and_its_failure_keeps_what_ran() {
    let platform = Platform::start().await;
    let release =
        |command: &str| format!("[release]\nartifact = \"migrate.wasm\"\ncommand = [\"{command}\"]\n");
    let repository = prebuilt(&platform, "hello", "hello", "").await;
    repository.write("migrate.wasm", std::fs::read(workspace::guest("c-command")).unwrap());
    let manifest = "app = \"hello\"\n[build]\nartifact = \"app.wasm\"\n[update]\nmonitor = \"50ms\"\n";
    repository.write("wharf.toml", format!("{manifest}{}", release("migrate")));
    repository.commit("With a command").await;
    let pushed = repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert!(pushed.stderr.contains("-----> Running the release command"), "{}", pushed.stderr);
    std::fs::write(repository.folder().join("migrate.wasm"), failing_command()).unwrap();
    repository.commit("That fails").await;
    refused(
        &repository.push(&["main"]).await,
        &["the release command ended with exit code 1", "nothing has moved"],
    );
    assert_eq!(platform.app("hello").await.release, Some(1));
    let folder = repository.folder().to_str().unwrap().to_owned();
    platform
        .wharf(&["deploy", &folder, "--no-build"])
        .await
        .fails(5, &["the release command", "wharf job logs"]);
}

/// A command of WASI 0.1 that ends with exit code 1.
fn failing_command() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.const 1))))"#,
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_on_stdin_is_deployed_like_a_folder() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let wasm = std::fs::read(workspace::guest("hello")).unwrap();
    std::fs::write(folder.path().join("app.wasm"), wasm).unwrap();
    std::fs::write(folder.path().join("wharf.toml"), "app = \"hello\"\n[update]\nmonitor = \"50ms\"\n")
        .unwrap();
    let wharf = platform.user().command(&["deploy", "-"]);
    let (program, args) = (wharf.as_std().get_program().to_owned(), wharf.as_std().get_args());
    let line = args.map(|arg| format!("'{}'", arg.to_str().unwrap())).collect::<Vec<_>>().join(" ");
    let script = format!("tar -C '{}' -cz . | '{}' {line}", folder.path().display(), program.display());
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", &script]).current_dir(platform.home());
    shell.envs(wharf.as_std().get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = shell.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(platform.text("hello", "/").await, "Hello from WASI 0.2\n");
    platform.user().run_with_input(&["deploy", "-"], "no archive").await.fails(6, &["tar archive"]);
}
