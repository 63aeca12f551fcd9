//! Apps in files: planned, applied as a whole, changed, refused when the platform has moved, and pruned.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use tempfile::TempDir;
use wharf_tests::{Platform, Ran, workspace};

/// A folder with files; `GUEST` in them is the path of a built guest.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(&folder, name, text);
    }
    folder
}

fn write(folder: &TempDir, name: &str, text: &str) {
    let guest = workspace::guest("hello");
    std::fs::write(folder.path().join(name), text.replace("GUEST", guest.to_str().unwrap())).unwrap();
}

async fn run(platform: &Platform, folder: &TempDir, args: &[&str]) -> Ran {
    platform.user().in_folder(folder.path()).run(args).await
}

const SHOP: &str = "\
kind: app
name: web
artifact: GUEST
env:
  GREETING: one
---
kind: app
name: prices
artifact: GUEST
---
kind: app
name: gone
namespace: default
artifact: GUEST
";

#[tokio::test(flavor = "multi_thread")]
async fn files_are_planned_applied_changed_and_pruned() {
    let platform = Platform::start().await;
    let folder = folder(&[("shop.yaml", SHOP)]);
    let plan = run(&platform, &folder, &["plan", "-f", "shop.yaml"]).await.ok();
    assert!(
        plan.contains("+ app default/web\n")
            && plan.ends_with("3 to create, 0 to change, 0 to delete, 0 unchanged\n"),
        "{plan}"
    );
    assert_eq!(platform.get("web", "/").await.unwrap().status, 404, "a plan changes nothing");

    let apply = ["apply", "-f", "shop.yaml", "--prune", "shop"];
    let applied = run(&platform, &folder, &apply).await.ok();
    assert!(
        applied.contains("+ app default/prices\n") && applied.contains("3 releases in service"),
        "{applied}"
    );
    for (app, greeting) in [("web", "one"), ("prices", "Hello"), ("gone", "Hello")] {
        assert!(platform.text(app, "/").await.contains(greeting), "{app}");
    }
    let again = run(&platform, &folder, &apply).await.ok();
    assert!(again.contains("0 to create, 0 to change, 0 to delete, 3 unchanged\nnothing to do"), "{again}");
    run(&platform, &folder, &["diff", "-f", "shop.yaml"]).await.ok();

    let shorter = SHOP.replace("GREETING: one", "GREETING: two");
    write(&folder, "shop.yaml", shorter.split("---\nkind: app\nname: gone").next().unwrap());
    let diff = run(&platform, &folder, &["diff", "-f", "shop.yaml"]).await;
    assert_eq!(diff.code, 1, "{}", diff.stderr);
    assert!(diff.stdout.contains("-  GREETING: one\n+  GREETING: two\n"), "{}", diff.stdout);
    let plan = run(&platform, &folder, &["plan", "-f", "shop.yaml", "--prune", "shop"]).await.ok();
    assert!(
        plan.contains("~ app default/web\n    env.GREETING: \"one\" -> \"two\"\n- app default/gone"),
        "{plan}"
    );
    let applied: Value = run(&platform, &folder, &[&apply[..], &["--json"]].concat()).await.json();
    assert_eq!(
        (&applied["counts"]["update"], &applied["counts"]["delete"]),
        (&1.into(), &1.into()),
        "{applied}"
    );
    assert_eq!(platform.app("web").await.release, Some(2));
    wharf_tests::eventually(wharf_tests::SHORT, "the app is gone", || async {
        (platform.wharf(&["status", "gone"]).await.code == 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_plan_is_applied_exactly_or_refused() {
    let platform = Platform::start().await;
    let folder = folder(&[("shop.yaml", SHOP)]);
    run(&platform, &folder, &["apply", "-f", "shop.yaml"]).await.ok();
    write(&folder, "shop.yaml", &SHOP.replace("one", "two"));
    run(&platform, &folder, &["plan", "-f", "shop.yaml", "--out", "x.plan"]).await.ok();
    platform.wharf(&["scale", "prices", "2"]).await.ok();
    let refused = run(&platform, &folder, &["apply", "x.plan"]).await;
    refused.fails(7, &["the app `prices` in `default` was changed", "scaled from 1 to 2 by", "plan again"]);
    assert_eq!(platform.app("web").await.release, Some(1), "nothing was applied");

    run(&platform, &folder, &["plan", "-f", "shop.yaml", "--out", "x.plan"]).await.ok();
    // What the file says now is no part of the plan.
    write(&folder, "shop.yaml", "kind: app\nname: other\nartifact: GUEST\n");
    let applied = run(&platform, &folder, &["apply", "x.plan"]).await.ok();
    assert!(applied.contains("env.GREETING: \"one\" -> \"two\""), "{applied}");
    assert_eq!(platform.app("web").await.release, Some(2));
    assert_eq!(platform.app("prices").await.replicas, 2, "the file says nothing of the scale");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_config_is_set_and_rolls_out_the_apps_that_run_with_it() {
    let platform = Platform::start().await;
    let text = "\
kind: app
name: web
artifact: GUEST
configs:
  GREETING: greeting
---
kind: config
name: greeting
value: good morning
";
    let folder = folder(&[("shop.yaml", text)]);
    let plan = run(&platform, &folder, &["plan", "-f", "shop.yaml"]).await.ok();
    assert!(plan.contains("+ config default/greeting\n    value: \"good morning\"\n"), "{plan}");
    run(&platform, &folder, &["apply", "-f", "shop.yaml"]).await.ok();
    platform.says("web", "good morning\n").await;
    let again = run(&platform, &folder, &["apply", "-f", "shop.yaml"]).await.ok();
    assert!(again.contains("0 to create, 0 to change, 0 to delete, 2 unchanged"), "{again}");

    // Another app that runs with it is in no file.
    platform.deploy_manifest("hello", "app = \"hello\"\n[configs]\nGREETING = \"greeting\"\n").await.ok();
    write(&folder, "shop.yaml", &text.replace("good morning", "good evening"));
    let diff = run(&platform, &folder, &["diff", "-f", "shop.yaml"]).await;
    assert_eq!(diff.code, 1, "{}", diff.stderr);
    assert!(diff.stdout.contains("-value: \"good morning\"\n+value: \"good evening\"\n"), "{}", diff.stdout);
    let applied = run(&platform, &folder, &["apply", "-f", "shop.yaml"]).await.ok();
    for line in [
        "~ app default/web\n    configs.GREETING: \"greeting\" -> \"greeting, version 2\"\n",
        "~ config default/greeting\n    value: \"good morning\" -> \"good evening\"\n",
        "~ app default/hello\n    configs.GREETING: ",
        "2 releases in service",
    ] {
        assert!(applied.contains(line), "{applied}");
    }
    platform.says("web", "good evening\n").await;
    platform.says("hello", "good evening\n").await;
    assert_eq!(platform.app("hello").await.release, Some(2));

    // What somebody sets after the plan is not overwritten.
    write(&folder, "shop.yaml", &text.replace("good morning", "good night"));
    run(&platform, &folder, &["plan", "-f", "shop.yaml", "--out", "x.plan"]).await.ok();
    platform.wharf(&["config", "set", "greeting", "hello again"]).await.ok();
    run(&platform, &folder, &["apply", "x.plan"]).await.fails(7, &["plan again"]);
    assert_eq!(platform.wharf(&["config", "show", "greeting"]).await.ok(), "hello again\n");

    // A secret has the name, and its value is not told.
    platform.user().run_with_input(&["secret", "set", "password"], "hunter2\n").await.ok();
    write(&folder, "taken.yaml", "kind: config\nname: password\nvalue: x\n");
    let refused = run(&platform, &folder, &["plan", "-f", "taken.yaml"]).await;
    refused.fails(7, &["taken.yaml:2:1: config default/password: `password` is a secret"]);
    assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
    let printed = platform.wharf(&["get", "config", "greeting"]).await.ok();
    assert!(printed.contains("kind: config") && printed.contains("hello again"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_told_with_its_place_and_nothing_is_applied() {
    let platform = Platform::start().await;
    let folder = folder(&[
        ("a.yaml", "kind: app\nname: a\nartifact: GUEST\nscale:\n  replica: 2\nlimits:\n  memory: 64\n"),
        ("b.toml", "[[resources]]\nkind = \"app\"\nname = \"b\"\nartifact = \"nowhere.wasm\"\n"),
    ]);
    let refused = run(&platform, &folder, &["apply", "-f", "."]).await;
    refused.fails(
        6,
        &[
            "there are 2 errors",
            "a.yaml:5:3: app `a`: scale: there is no key `replica` here; did you mean `replicas`?",
            "a.yaml:7:11: app `a`: limits.memory: the number 64 stands where a text is needed; write it in quotes",
        ],
    );
    let missing = run(&platform, &folder, &["plan", "-f", "b.toml"]).await;
    missing.fails(6, &["b.toml:4:1: app `b`: artifact: there is no file", "nowhere.wasm"]);
    let fits = "kind: app\nname: a\nartifact: GUEST\n";
    write(&folder, "a.yaml", fits);
    write(
        &folder,
        "c.json",
        "{\"kind\":\"app\",\"name\":\"c\",\"artifact\":\"GUEST\",\n\"secrets\":{\n\"P\":\"missing\"}}",
    );
    let refused = run(&platform, &folder, &["apply", "-f", "a.yaml", "-f", "c.json"]).await;
    refused
        .fails(3, &["c.json:3:1: app default/c: there is no secret `missing`", "wharf secret set missing"]);
    let diff = run(&platform, &folder, &["diff", "-f", "c.json"]).await;
    diff.fails(2, &["there is no secret `missing`"]);
    assert_eq!(platform.get("a", "/").await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_and_an_apply_tell_the_first_resource_beyond_a_quota() {
    let platform = Platform::start().await;
    let folder = folder(&[("shop.yaml", SHOP)]);
    platform.wharf(&["quota", "set", "-n", "default", "--apps", "2"]).await.ok();
    for command in ["plan", "apply"] {
        let refused = run(&platform, &folder, &[command, "-f", "shop.yaml"]).await;
        let words =
            "shop.yaml:11:1: app default/gone: apps: the namespace uses 0 of 2, and this asks for 3 more";
        refused.fails(9, &[words, "delete an app", "wharf quota set -n default --apps"]);
    }
    platform.wharf(&["quota", "set", "-n", "default", "--apps", "3"]).await.ok();
    run(&platform, &folder, &["plan", "-f", "shop.yaml"]).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_printed_as_a_file_that_changes_nothing() {
    let platform = Platform::start().await;
    platform
        .deploy_manifest("hello", "app = \"hello\"\n[env]\nA = \"yes\"\nB = \"a: b # c\"\n[limits]\nmemory = \"64MiB\"\n[http]\nroutes = [\"hello.example.com\"]\n")
        .await
        .ok();
    let folder = folder(&[]);
    for (format, file) in [("yaml", "x.yaml"), ("json", "x.json"), ("toml", "x.toml")] {
        let text = platform.wharf(&["get", "app", "hello", "-o", format]).await.ok();
        std::fs::write(folder.path().join(file), &text).unwrap();
        let plan = run(&platform, &folder, &["plan", "-f", file]).await.ok();
        assert_eq!(plan, "0 to create, 0 to change, 0 to delete, 1 unchanged\n", "{text}");
        run(&platform, &folder, &["diff", "-f", file]).await.ok();
    }
    let schema: Value = platform.wharf(&["schema"]).await.json();
    assert!(schema["$defs"]["AppDocument"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_and_its_apps_come_from_stdin_and_a_failed_rollout_is_told() {
    let platform = Platform::start().await;
    let folder = folder(&[("hello.wasm", "")]);
    for guest in ["hello", "crash"] {
        std::fs::copy(workspace::guest(guest), folder.path().join(format!("{guest}.wasm"))).unwrap();
    }
    let user = platform.user().in_folder(folder.path());
    let team =
        "kind: app\nname: web\nnamespace: team\nartifact: hello.wasm\n---\nkind: namespace\nname: team\n";
    let applied = user.run_with_input(&["apply", "-f", "-"], team).await.ok();
    assert!(applied.contains("+ namespace team") && applied.contains("1 release in service"), "{applied}");
    assert_eq!(platform.apps.get("web.team.localhost", "/").await.unwrap().status, 200);

    let bad = format!(
        "{team}---\nkind: app\nname: bad\nnamespace: team\nartifact: crash.wasm\nenv: {{POISON: start}}\n"
    );
    let failed = user.run_with_input(&["apply", "-f", "-"], &bad).await;
    failed.fails(5, &["team/bad: release 1 of bad failed", "this release cannot serve anything"]);
    assert_eq!(platform.apps.get("web.team.localhost", "/").await.unwrap().status, 200);
}
