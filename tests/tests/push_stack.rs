//! `git push` of a Compose file deploys a stack: with the git of this machine, into the real platform.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use wharf_tests::{Platform, Ran, Repository, SHORT, eventually, remote_lines, workspace};

/// So that nothing is watched for longer than a test has time.
const QUICK: &str = "deploy: {update_config: {monitor: 50ms}}";

/// Two services that reach each other, one of which waits for the other.
fn compose(greeting: &str) -> String {
    format!(
        "services:\n  front:\n    image: front.wasm\n    depends_on: [greeter]\n    {QUICK}\n  greeter:\n    image: ./greeter.wasm\n    \
         environment: {{GREETING: \"{greeting}\"}}\n    secrets: [password]\n    {QUICK}\nsecrets:\n  password: {{file: ./password.txt}}\n"
    )
}

/// A repository with this Compose file, whose remote is the stack `shop`.
async fn shop(platform: &Platform, compose: &str) -> Repository {
    let repository = Repository::new(platform).await;
    repository.write("front.wasm", std::fs::read(workspace::guest("stream")).unwrap());
    repository.write("greeter.wasm", std::fs::read(workspace::guest("hello")).unwrap());
    repository.write("password.txt", "hunter2");
    repository.write(".env", "WORD=hi\n");
    repository.write("compose.yaml", compose);
    repository.commit("Two services").await;
    repository.user().run(&["git", "remote", "shop"]).await.ok();
    repository
}

/// Commits another Compose file and pushes it.
async fn push(repository: &Repository, compose: &str) -> Ran {
    repository.write("compose.yaml", compose);
    repository.commit("Another Compose file").await;
    repository.push(&["main"]).await
}

#[track_caller]
fn accepted(ran: &Ran) -> String {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    remote_lines(ran).join("\n")
}

/// A push that was refused, with these words somewhere in what the other side said.
#[track_caller]
fn refused(ran: &Ran, words: &[&str]) {
    assert_ne!(ran.code, 0, "{}", ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is missing in:\n{}", ran.stderr);
    }
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
}

async fn apps(platform: &Platform) -> Value {
    platform.wharf(&["apps", "--json"]).await.json::<Value>()["items"].clone()
}

async fn newest_build(platform: &Platform) -> Value {
    platform.wharf(&["builds", "--json"]).await.json::<Value>()["items"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compose_file_is_deployed_as_a_whole_and_the_last_lines_are_the_addresses() {
    let platform = Platform::start().await;
    // What the platform's own process knows is nobody's.
    let repository = shop(&platform, &compose("${PATH:-no path}, ${WORD} of $COMPOSE_PROJECT_NAME")).await;
    let pushed = repository.push(&["main"]).await;
    let said = accepted(&pushed);
    has(
        &said,
        &[
            "found: compose.yaml, which names front.wasm, so: the services of compose.yaml are deployed",
            "greeter: artifact sha256:",
            "-----> Stack shop: 2 to create, 0 to change, 0 to delete, 0 as they are",
            "+ front",
            "-----> Release 1 of greeter",
            "greeter: 1 of 1 instances ready",
            "-----> Release 1 of front",
            "deployed after",
        ],
    );
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(lines.last().unwrap().starts_with("http://greeter.default.localhost"), "{said}");
    let at = |words: &str| lines.iter().position(|line| line.contains(words)).unwrap();
    assert!(
        at("greeter: 1 of 1") < at("Release 1 of front"),
        "a service waits for what it depends on:\n{said}"
    );
    assert_eq!(platform.text("greeter", "/").await, "no path, hi of shop\n");
    let fetched = platform.text("front", "/fetch?url=http://greeter.internal/").await;
    assert_eq!(fetched, "no path, hi of shop\n");
    let listed = platform.wharf(&["stack", "ls"]).await.ok();
    assert!(listed.contains("shop") && listed.contains("2/2"), "{listed}");
    assert_eq!(newest_build(&platform).await["state"], "succeeded");

    // What has not changed stays as it is.
    let said = accepted(&push(&repository, &compose("changed")).await);
    has(&said, &["~ greeter: env.GREETING", "front is as it was", "-----> Release 2 of greeter"]);
    assert!(!said.contains("Release 2 of front"), "{said}");
    assert_eq!(platform.text("greeter", "/").await, "changed\n");

    // What is not in the file any more goes.
    let only = format!("services:\n  greeter:\n    image: greeter.wasm\n    {QUICK}\n");
    has(&accepted(&push(&repository, &only).await), &["- front, whose volumes are kept"]);
    eventually(SHORT, "the other one is gone", async || {
        (platform.get("front", "/").await.unwrap().status == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_compose_file_cannot_be_is_refused_with_its_line_and_changes_nothing() {
    let platform = Platform::start().await;
    let good = compose("hello");
    let repository = shop(&platform, &good).await;
    for (bad, words) in [
        (good.replace("depends_on", "depend_on"), &["compose.yaml:4:5", "`depend_on`"][..]),
        (
            good.replace(
                "    image: front.wasm\n",
                "    image: front.wasm\n    env_file: ../../admin.token\n",
            ),
            &["compose.yaml:4:", "leads out of what was pushed"],
        ),
        (
            good.replace("./password.txt", "/etc/hostname"),
            &["compose.yaml:12:", "leads out of what was pushed"],
        ),
        (
            good.replace("./password.txt", "./nothing.txt"),
            &["compose.yaml:12:", "not there in what was pushed"],
        ),
        (
            good.replace("image: front.wasm", "image: ../front.wasm # greeter.wasm"),
            &["compose.yaml:3:5", "leads out"],
        ),
        (
            good.replace("image: front.wasm", "platform: wasi/wasm\n    build: {context: ., args: {A: b}}"),
            &["compose.yaml:4:", "`args`: a component is built as its folder says"],
        ),
        (good.replace("services:", "service:"), &["compose.yaml:1:1", "did you mean `services`"]),
    ] {
        let pushed = push(&repository, &bad).await;
        refused(&pushed, &[words, &["nothing has moved"][..]].concat());
    }
    assert_eq!(apps(&platform).await, json!([]));
    let secrets = platform.wharf(&["secret", "list", "--json"]).await.json::<Value>();
    assert_eq!(secrets["items"], json!([]));
    let moved = repository.git(&["ls-remote", "wharf"]).await;
    assert!(!moved.stdout.contains("refs/heads/main"), "{}", moved.stdout);

    // A link that leads out does not even become a file here.
    repository.git(&["reset", "--quiet", "--hard", "HEAD~7"]).await.ok();
    std::fs::remove_file(repository.folder().join("password.txt")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", repository.folder().join("password.txt")).unwrap();
    refused(&push(&repository, &good).await, &["password.txt", "nothing has moved"]);

    // Services have settings of their own.
    repository.git(&["reset", "--quiet", "--hard", "HEAD~1"]).await.ok();
    repository.write("wharf.toml", "app = \"shop\"\n[scale]\nreplicas = 2\n");
    refused(&push(&repository, &good).await, &["settings of one app", "x-wharf", "nothing has moved"]);
    repository.write("wharf.toml", "app = \"shop\"\n");
    repository.commit("No settings").await;
    accepted(&repository.push(&["main"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_does_not_become_an_app_by_a_name_that_is_wrong() {
    let platform = Platform::start().await;
    let greeter = |image: &str| format!("services:\n  greeter:\n    image: {image}\n    {QUICK}\n");
    let repository = shop(&platform, &greeter("greter.wasm")).await;
    // With one `.wasm` file beside it, which would do for an app.
    std::fs::remove_file(repository.folder().join("front.wasm")).unwrap();
    refused(
        &push(&repository, &greeter("greter.wasm")).await,
        &[
            "found: compose.yaml, which names greter.wasm",
            "compose.yaml:3:5: `./greter.wasm`: it is not there",
            "nothing has moved",
        ],
    );
    accepted(&push(&repository, &greeter("greeter.wasm")).await);
    for (image, words) in [("greter.wasm", "it is not there"), ("../greeter.wasm", "leads out")] {
        refused(&push(&repository, &greeter(image)).await, &["compose.yaml:3:5", words, "nothing has moved"]);
        refused(
            &repository.push(&["HEAD:preview/blue"]).await,
            &["compose.yaml:3:5", words, "nothing has moved"],
        );
    }
    repository.write(".env", "FILE=greeter.wasm\n");
    let said = accepted(&push(&repository, &greeter("${FILE}")).await);
    has(&said, &["found: compose.yaml, whose stack shop is there"]);
    let there = apps(&platform).await;
    let names: Vec<&str> = there.as_array().unwrap().iter().map(|app| app["app"].as_str().unwrap()).collect();
    assert_eq!(names, ["greeter"]);
    // Without a Compose file it is an app, and the stack stays.
    std::fs::remove_file(repository.folder().join("compose.yaml")).unwrap();
    repository.commit("One app").await;
    let said = accepted(&repository.push(&["main"]).await);
    has(&said, &["the stack shop stays as it is; `wharf stack rm shop` removes it"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_come_up_leaves_the_branch_and_is_named_with_what_the_others_run() {
    let platform = Platform::start().await;
    let repository = shop(&platform, &compose("first")).await;
    accepted(&repository.push(&["main"]).await);
    let first = repository.git(&["rev-parse", "HEAD"]).await.ok();
    repository.write("worker.wasm", std::fs::read(workspace::guest("crash")).unwrap());
    let worker = format!(
        "  worker:\n    image: worker.wasm\n    depends_on: [greeter]\n    environment: {{POISON: start}}\n    {QUICK}\n"
    );
    let last = format!("  zebra:\n    image: greeter.wasm\n    depends_on: [worker]\n    {QUICK}\n");
    let broken =
        compose("second").replace("secrets:\n  password", &format!("{worker}{last}secrets:\n  password"));
    let pushed = push(&repository, &broken).await;
    refused(
        &pushed,
        &[
            "the service worker: release 1 of worker failed",
            "nothing of it runs",
            // `front` as well, where it was faster.
            "what was pushed",
            "zebra was not changed yet",
            "each service runs what its own rollout has come to",
            "nothing has moved",
        ],
    );
    let moved = repository.git(&["ls-remote", "wharf", "refs/heads/main"]).await.ok();
    assert!(moved.starts_with(first.trim()), "{moved}");
    assert_eq!(platform.text("greeter", "/").await, "second\n");
    assert_eq!(newest_build(&platform).await["state"], "failed");
    // What failed is mended by the next push.
    repository.write("worker.wasm", std::fs::read(workspace::guest("hello")).unwrap());
    has(
        &accepted(&push(&repository, &broken).await),
        &["of worker", "Release 1 of zebra", "greeter is as it was"],
    );
    assert_eq!(newest_build(&platform).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_gone_from_the_file_stays_until_everything_else_serves() {
    let platform = Platform::start().await;
    let repository = shop(&platform, &compose("first")).await;
    accepted(&repository.push(&["main"]).await);
    repository.write("worker.wasm", std::fs::read(workspace::guest("crash")).unwrap());
    let service = |name: &str| {
        format!("  {name}:\n    image: {name}.wasm\n    environment: {{POISON: start}}\n    {QUICK}\n")
    };
    let without_front = format!("services:\n{}{}", service("greeter"), service("worker"));
    refused(&push(&repository, &without_front).await, &["the service worker: release 1 of worker failed"]);
    let there = apps(&platform).await;
    let named = |app: &Value| (app["app"].as_str().unwrap().to_owned(), app["set"] == "shop");
    let mut there: Vec<(String, bool)> = there.as_array().unwrap().iter().map(named).collect();
    there.sort();
    let all = ["front", "greeter", "worker"].map(|name| (name.to_owned(), true));
    assert_eq!(there, all, "nothing is deleted, and what failed is a part of the stack as well");
    repository.write("worker.wasm", std::fs::read(workspace::guest("hello")).unwrap());
    let said = accepted(&push(&repository, &without_front).await);
    has(&said, &["- front, whose volumes are kept", "http://greeter.default.localhost"]);
    assert!(!said.contains("http://front."), "{said}");
    eventually(SHORT, "the one that has gone is deleted", async || {
        (platform.get("front", "/").await.unwrap().status == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_push_may_not_do_to_an_app_it_may_not_do_to_a_stack() {
    let platform = Platform::start().await;
    let repository = shop(&platform, &compose("hello")).await;
    platform.wharf(&["namespace", "pushes", "default", "--creates-apps", "false"]).await.ok();
    refused(&repository.push(&["main"]).await, &["there is no app `shop`", "--creates-apps true"]);
    platform.wharf(&["namespace", "pushes", "default", "--creates-apps", "true"]).await.ok();
    accepted(&repository.push(&["main"]).await);
    // The stack is there, and so it may change, but not grow.
    platform.wharf(&["namespace", "pushes", "default", "--creates-apps", "false"]).await.ok();
    accepted(&push(&repository, &compose("changed")).await);
    let more = compose("more").replace("  greeter:\n", "  another:\n    image: front.wasm\n  greeter:\n");
    refused(&push(&repository, &more).await, &["there is no app `another`", "nothing has moved"]);
    assert_eq!(platform.text("greeter", "/").await, "changed\n");
    // Nor does it become an app that there is not.
    std::fs::remove_file(repository.folder().join("compose.yaml")).unwrap();
    std::fs::remove_file(repository.folder().join("front.wasm")).unwrap();
    repository.commit("One app").await;
    refused(&repository.push(&["main"]).await, &["there is no app `shop`", "nothing has moved"]);
    // A namespace without the right runs no container by this way, either.
    platform.wharf(&["namespace", "create", "team"]).await.ok();
    let team = Repository::new(&platform).await;
    team.write("wharf.toml", "app = \"shop\"\nnamespace = \"team\"\n");
    team.user().run(&["git", "remote"]).await.ok();
    let pushed = push(&team, "services:\n  db:\n    image: redis:7\n").await;
    refused(
        &pushed,
        &["compose.yaml:3:5: the service `db` is a container", "may not run containers", "nothing has moved"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_takes_over_no_app_of_something_else_before_somebody_has_given_it_to_the_stack() {
    let platform = Platform::start().await;
    platform.deploy("hello", "greeter", &[]).await;
    let before = platform.text("greeter", "/").await;
    let repository = shop(&platform, &compose("taken")).await;
    refused(
        &repository.push(&["main"]).await,
        &[
            "the service `greeter`: the app `greeter` is there already, and belongs to no stack",
            "`wharf stack adopt shop greeter -n default`",
            "nothing has moved",
        ],
    );
    assert_eq!(platform.text("greeter", "/").await, before);
    assert_eq!(platform.wharf(&["status", "front"]).await.code, 3, "nothing of it was made");
    platform.wharf(&["stack", "adopt", "shop", "greeter", "-n", "default"]).await.ok();
    accepted(&repository.push(&["main"]).await);
    assert_eq!(platform.text("greeter", "/").await, "taken\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_with_a_pushed_file_is_told_by_one_push() {
    let platform = Platform::start().await;
    let wrong = "services:\n  front:\n    image: front.wasm\n    enviroment: {A: b}\n  ring:\n    image: front.wasm\n    depends_on: [ring]\n  \
                 again:\n    image: front.wasm\n    restart: alway\n  gone:\n    image: gone.wasm\n";
    let repository = shop(&platform, wrong).await;
    refused(
        &repository.push(&["main"]).await,
        &[
            "compose.yaml:4:5: there is no key `enviroment`",
            "compose.yaml:7:18: `ring` waits for itself",
            "compose.yaml:10:5: ",
            "compose.yaml:12:5: `./gone.wasm`: it is not there in what was pushed",
            "nothing has moved",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_of_a_stack_is_a_stack_of_its_own_whose_services_ask_each_other_alone() {
    let platform = Platform::start().await;
    let with_route = |greeting: &str| {
        compose(greeting).replace(
            "image: front.wasm\n",
            "image: front.wasm\n    x-wharf: {http: {routes: [shop.example.com]}}\n",
        )
    };
    let repository = shop(&platform, &with_route("first")).await;
    accepted(&repository.push(&["main"]).await);
    repository.write("password.txt", "another");
    repository.write("compose.yaml", with_route("blue"));
    repository.commit("Blue").await;
    let said = accepted(&repository.push(&["HEAD:preview/blue"]).await);
    has(
        &said,
        &[
            "a preview does not take the routes shop.example.com",
            "-----> Stack shop-preview-blue: 2 to create, 0 to change, 0 to delete, 0 as they are",
            "+ shop-preview-blue-front",
            "http://shop-preview-blue-front.default.localhost",
            "http://shop-preview-blue-greeter.default.localhost",
        ],
    );
    let fetched = async |app: &str| platform.text(app, "/fetch?url=http://greeter.internal/").await;
    assert_eq!(fetched("shop-preview-blue-front").await, "blue\n", "its own is meant");
    assert_eq!(fetched("front").await, "first\n", "and nothing has changed for the others");
    let values = async || {
        let listed = platform.wharf(&["secret", "list", "--json"]).await.json::<Value>();
        let items = listed["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|it| (it["name"].as_str().unwrap().to_owned(), it["version"].clone()))
            .collect::<Vec<_>>()
    };
    let one = |name: &str| (name.to_owned(), json!(1));
    assert_eq!(values().await, [one("password"), one("shop-preview-blue-password")]);
    let shown = platform.wharf(&["git", "show", "shop"]).await.ok();
    let listed = "preview/blue is the stack shop-preview-blue (shop-preview-blue-front, shop-preview-blue-greeter), until";
    assert!(shown.contains(listed), "{shown}");

    // A second push changes what is there, and takes what has gone from the file.
    let only = format!(
        "services:\n  greeter:\n    image: greeter.wasm\n    environment: {{GREETING: green}}\n    {QUICK}\n"
    );
    repository.write("compose.yaml", &only);
    repository.commit("Green").await;
    let said = accepted(&repository.push(&["HEAD:preview/blue"]).await);
    has(&said, &["~ shop-preview-blue-greeter", "- shop-preview-blue-front"]);
    assert_eq!(platform.text("shop-preview-blue-greeter", "/").await, "green\n");
    assert_eq!(fetched("front").await, "first\n");

    repository.push(&[":preview/blue"]).await.ok();
    eventually(SHORT, "the preview goes with its branch", async || {
        let there = apps(&platform).await;
        let mut names: Vec<&str> =
            there.as_array().unwrap().iter().map(|app| app["app"].as_str().unwrap()).collect();
        names.sort_unstable();
        (names == ["front", "greeter"]).then_some(())
    })
    .await;
    let shown = platform.wharf(&["git", "show", "shop"]).await.ok();
    assert!(!shown.contains("preview/blue"), "{shown}");
    assert_eq!(fetched("front").await, "first\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_does_not_become_a_stack_that_is_there() {
    let platform = Platform::start().await;
    let repository = shop(&platform, &compose("first")).await;
    repository.user().run(&["git", "remote", "shop-preview-blue", "--name", "other"]).await.ok();
    let pushed = repository.git(&["push", "other", "main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    refused(
        &repository.push(&["main:preview/blue"]).await,
        &["there is a stack `shop-preview-blue` already, which is no preview of this"],
    );
    assert_eq!(platform.text("greeter", "/").await, "first\n");
}
