//! `wharf stack`: compose files whose services are components, in the real platform.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wharf_tests::{Platform, SHORT, eventually, workspace};

const COMPOSE: &str = r#"
services:
  front:
    image: front.wasm
    platform: wasi/wasm
    depends_on: [greeter]
    networks: [inner]
  greeter:
    image: greeter.wasm
    platform: wasi/wasm
    environment:
      GREETING: "${WORD:-hi}, from a stack"
    networks: [inner]
    deploy:
      replicas: 2
networks:
  inner: {}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_compose_file_becomes_apps_that_reach_each_other_and_goes_as_a_whole() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let user = platform.user().in_folder(folder.path());
    let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).unwrap();
    write("front.wasm", &std::fs::read(workspace::guest("stream")).unwrap());
    write("greeter.wasm", &std::fs::read(workspace::guest("hello")).unwrap());
    write("compose.yaml", COMPOSE.as_bytes());
    let shown = user.run(&["stack", "config"]).await.ok();
    assert!(shown.contains("hi, from a stack"), "{shown}");
    user.clone().env("WORD", "hello").run(&["stack", "deploy", "shop"]).await.ok();
    assert_eq!(platform.text("greeter", "/").await, "hello, from a stack\n");
    platform.app_is("greeter", "it has its replicas", |app| app.ready == 2).await;
    let fetched = platform.text("front", "/fetch?url=http://greeter.internal/").await;
    assert_eq!(fetched, "hello, from a stack\n", "services of one network reach each other");
    let listed = user.run(&["stack", "ls"]).await.ok();
    assert!(listed.contains("shop") && listed.contains("3/3"), "{listed}");
    let services = user.run(&["stack", "services", "shop"]).await.ok();
    assert!(services.contains("greeter") && services.contains("front"), "{services}");
    let instances = user.run(&["stack", "ps", "shop"]).await.ok();
    assert_eq!(instances.matches("greeter").count(), 2, "{instances}");
    user.run(&["stack", "ps", "shp"]).await.fails(3, &["no stack `shp` in default", "did you mean `shop`"]);
    // A service that is not in the file any more goes.
    write("compose.yaml", b"services:\n  greeter:\n    image: greeter.wasm\n    platform: wasi/wasm\n");
    user.run(&["stack", "deploy", "shop"]).await.ok();
    eventually(SHORT, "the other one is gone", async || {
        (platform.get("front", "/").await.unwrap().status == 404).then_some(())
    })
    .await;
    user.run(&["stack", "rm", "shop", "--yes"]).await.ok();
    eventually(SHORT, "all of it is gone", async || {
        (platform.get("greeter", "/").await.unwrap().status == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_of_wasi_0_1_runs_beside_others_and_it_is_said_that_it_reaches_none() {
    const MODULE: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let user = platform.user().in_folder(folder.path());
    let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).unwrap();
    write("greeter.wasm", &std::fs::read(workspace::guest("hello")).unwrap());
    write("once.wasm", &wat::parse_str(MODULE).unwrap());
    write(
        "compose.yaml",
        b"services:\n  greeter:\n    image: greeter.wasm\n  once:\n    image: once.wasm\n    depends_on: [greeter]\n    deploy: {mode: replicated-job}\n",
    );
    let ran = user.run(&["stack", "deploy", "shop"]).await;
    let words = "`depends_on`: a module of WASI 0.1 reaches no address, so the service `once`";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    ran.ok();
    let jobs = platform.wharf(&["job", "ls"]).await.ok();
    assert!(jobs.contains("once") && jobs.contains("succeeded"), "{jobs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_compose_file_cannot_have_is_refused_with_its_place() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let user = platform.user().in_folder(folder.path());
    for (compose, words) in [
        (
            "services:\n  db:\n    build: .\n",
            &["compose.yaml:3:5", "images are built before", "--image-archive"][..],
        ),
        ("services:\n  a:\n    image: a.wasm\n    replica: 2\n", &["compose.yaml:4:5", "replica"]),
        (
            "services:\n  a:\n    image: a.wasm\n    depends_on: [b]\n  b:\n    image: b.wasm\n    depends_on: [a]\n",
            &["compose.yaml:7:18", "waits for itself"],
        ),
        ("services:\n\ta: 1\n", &["compose.yaml:2:"]),
    ] {
        std::fs::write(folder.path().join("compose.yaml"), compose).unwrap();
        user.run(&["stack", "deploy", "shop"]).await.fails(6, words);
    }
    std::fs::remove_file(folder.path().join("compose.yaml")).unwrap();
    user.run(&["stack", "deploy", "shop"]).await.fails(3, &["compose.yaml", "-c FILE"]);
    assert_eq!(
        platform.wharf(&["apps", "--json"]).await.json::<serde_json::Value>()["items"],
        serde_json::json!([])
    );
}

/// Which set each app belongs to.
async fn sets(platform: &Platform) -> Vec<(String, Option<String>)> {
    let apps = platform.wharf(&["apps", "--json"]).await.json::<serde_json::Value>()["items"].clone();
    let set = |app: &serde_json::Value| {
        (app["app"].as_str().unwrap().to_owned(), app["set"].as_str().map(str::to_owned))
    };
    let mut sets: Vec<_> = apps.as_array().unwrap().iter().map(set).collect();
    sets.sort();
    sets
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_belongs_to_something_else_is_taken_over_only_where_somebody_says_so() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let user = platform.user().in_folder(folder.path());
    let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).unwrap();
    write("hello.wasm", &std::fs::read(workspace::guest("hello")).unwrap());
    let greeter =
        "services:\n  greeter:\n    image: hello.wasm\n    deploy: {update_config: {monitor: 50ms}}\n";
    write("compose.yaml", greeter.as_bytes());
    user.run(&["stack", "deploy", "one"]).await.ok();
    platform.deploy("hello", "alone", &[]).await;
    let is = |app: &str, set: Option<&str>| (app.to_owned(), set.map(str::to_owned));
    let before = [is("alone", None), is("greeter", Some("one"))];
    let both = format!(
        "{greeter}  alone:\n    image: hello.wasm\n    environment: {{GREETING: taken}}\n  new:\n    image: hello.wasm\n"
    );
    write("compose.yaml", both.as_bytes());
    user.run(&["stack", "deploy", "two"]).await.fails(
        7,
        &[
            "there are 2 errors",
            "compose.yaml:3:5: the service `greeter`: the app `greeter` is there already, and belongs to `one`",
            "compose.yaml:6:5: the service `alone`: the app `alone` is there already, and belongs to no stack",
            "nothing was deployed",
            "`--adopt`",
        ],
    );
    assert_eq!(sets(&platform).await, before, "not even the one that is nobody's was made");
    // One of them by name, as it is.
    let said = user.run(&["stack", "adopt", "two", "alone"]).await.ok();
    assert!(said.contains("is a part of the stack `two` now"), "{said}");
    assert_eq!(sets(&platform).await, [is("alone", Some("two")), is("greeter", Some("one"))]);
    assert_ne!(platform.text("alone", "/").await, "taken\n");
    user.run(&["stack", "adopt", "two", "nobody"]).await.fails(3, &["nobody"]);
    user.run(&["stack", "deploy", "two"]).await.fails(7, &["belongs to `one`"]);
    // And all that the file has.
    user.run(&["stack", "deploy", "two", "--adopt"]).await.ok();
    let all = ["alone", "greeter", "new"].map(|app| is(app, Some("two")));
    assert_eq!(sets(&platform).await, all);
    assert_eq!(platform.text("alone", "/").await, "taken\n");
    let said = user.run(&["stack", "deploy", "two"]).await.ok();
    assert_eq!(said.matches("nothing to do").count(), 1, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changes_before_all_of_a_stack_can_be_deployed() {
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let user = platform.user().in_folder(folder.path());
    let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).unwrap();
    write("hello.wasm", &std::fs::read(workspace::guest("hello")).unwrap());
    let half = "services:\n  half:\n    image: hello.wasm\n    secrets: [word]\n    deploy: {update_config: {monitor: 50ms}}\n";
    let secrets = "secrets:\n  word: {file: word.txt}\n";
    write("word.txt", b"one");
    write("compose.yaml", format!("{half}{secrets}").as_bytes());
    user.run(&["stack", "deploy", "shop"]).await.ok();
    write("word.txt", b"two");
    let owner = "app = \"owner\"\n[http]\nroutes = [\"taken.example.com\"]\n";
    platform.deploy_manifest("hello", owner).await.ok();
    for (other, code, words) in [
        ("image: gone.wasm", 6, &["compose.yaml:7:5: the service `other`: there is no file"][..]),
        (
            "image: hello.wasm\n    x-wharf: {http: {routes: [taken.example.com]}}",
            7,
            &[
                "compose.yaml:8:",
                "the service `other`: the route `taken.example.com",
                "choose another in `x-wharf.http.routes`",
            ],
        ),
    ] {
        let other = format!("  other:\n    {other}\n    depends_on: [half]\n");
        write("compose.yaml", format!("{half}{other}{secrets}").as_bytes());
        user.run(&["stack", "deploy", "shop"]).await.fails(code, words);
        let secret = platform.wharf(&["secret", "list", "--json"]).await.json::<serde_json::Value>();
        assert_eq!(secret["items"][0]["version"], 1, "{secret}");
        let half: wharf_types::api::AppInfo = platform.wharf(&["status", "half", "--json"]).await.json();
        assert_eq!(half.release, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_until_something_is_healthy_that_has_ended() {
    const MODULE: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
    let platform = Platform::start().await;
    let folder = tempfile::tempdir().unwrap();
    let user = platform.user().in_folder(folder.path());
    let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).unwrap();
    write("hello.wasm", &std::fs::read(workspace::guest("hello")).unwrap());
    write("once.wasm", &wat::parse_str(MODULE).unwrap());
    write(
        "compose.yaml",
        b"services:\n  web:\n    image: hello.wasm\n    depends_on: {once: {condition: service_healthy}}\n  once:\n    image: once.wasm\n    restart: \"no\"\n    network_mode: none\n",
    );
    let words =
        ["compose.yaml:3:5: `web` waits until `once` is healthy, and that has ended", "replicated-job"];
    user.run(&["stack", "deploy", "shop"]).await.fails(5, &words);
    assert_eq!(sets(&platform).await, [("once".to_owned(), Some("shop".to_owned()))]);
}
