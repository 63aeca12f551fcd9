//! Apps that sleep, wake and grow with what is asked of them, on a real platform.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use tokio::time::Instant;
use wharf_tests::{Platform, Reply, SHORT, eventually, request};
use wharf_types::api::AppInfo;
use wharf_types::state::AppCondition;

/// A manifest of an app that sleeps after a second.
fn sleeper(app: &str, max: u32, concurrency: u32, rest: &str) -> String {
    let range = format!(
        "{{ min = 0, max = {max}, concurrency = {concurrency}, window = \"2s\", sleep_after = \"1s\" }}"
    );
    format!("app = \"{app}\"\n[scale]\nreplicas = {range}\n[update]\nmonitor = \"100ms\"\n{rest}\n")
}

fn is_asleep(info: &AppInfo) -> bool {
    info.condition == AppCondition::Asleep && info.instances.iter().all(|it| it.state.is_final())
}

async fn events(platform: &Platform, app: &str) -> String {
    platform.wharf(&["events", app]).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_to_a_sleeping_app_waits_and_is_answered() {
    let mut platform = Platform::start().await;
    platform.deploy_manifest("hello", &sleeper("hello", 3, 50, "[env]\nGREETING = \"one\"")).await.ok();
    let info = platform.app_is("hello", "asleep", is_asleep).await;
    assert_eq!((info.replicas, info.ready), (0, 0));
    let status = platform.wharf(&["status", "hello"]).await.ok();
    assert!(
        status.contains("asleep") && status.contains("scales from 0 to 3, 50 open requests each"),
        "{status}"
    );
    let why = platform.wharf(&["why", "hello"]).await.ok();
    assert!(why.contains("the next request wakes release 1"), "{why}");
    assert!(platform.wharf(&["apps"]).await.ok().contains("asleep"));

    let asked = Instant::now();
    platform.says("hello", "one\n").await;
    println!("woken within {:?}", asked.elapsed());
    let told = events(&platform, "hello").await;
    assert!(
        told.contains("asleep after 1s without requests") && told.contains("woken by a request"),
        "{told}"
    );
    platform.app_is("hello", "asleep again", is_asleep).await;

    // What slept before a crash sleeps after it, and wakes as well.
    platform.kill().await;
    platform.start_again().await;
    platform.app_is("hello", "asleep still", is_asleep).await;
    assert_eq!(platform.serves("hello").await, "one\n");

    // A release of a sleeping app is proved before it is said to serve.
    platform.app_is("hello", "asleep again", is_asleep).await;
    let bad = sleeper("hello", 3, 50, "[env]\nPOISON = \"start\"");
    platform.deploy_manifest("crash", &bad).await.fails(5, &["release 2", "POISON=start"]);
    assert!(events(&platform, "hello").await.contains("woken for a rollout"));
    platform.deploy_manifest("hello", &sleeper("hello", 3, 50, "[env]\nGREETING = \"two\"")).await.ok();
    platform.app_is("hello", "asleep again", is_asleep).await;
    platform.says("hello", "two\n").await;
    platform.wharf(&["stop", "hello"]).await.ok();
    let stopped =
        |reply: &Reply| reply.headers.get("x-wharf-error").is_some_and(|code| code == "app_stopped");
    eventually(SHORT, "a stopped app lets nobody wait", || async {
        platform.get("hello", "/").await.ok().filter(stopped)
    })
    .await;
    platform.wharf(&["start", "hello"]).await.ok();
    platform.says("hello", "two\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_another_app_wakes_one_that_sleeps_and_keeps_it_awake() {
    let platform = Platform::start().await;
    platform.deploy_manifest("stream", &sleeper("called", 3, 50, "")).await.ok();
    let grant = "app = \"caller\"\n[outbound]\nallow = [\"http://called.internal\"]\n";
    platform.deploy_manifest("stream", grant).await.ok();
    platform.app_is("called", "asleep", is_asleep).await;
    let fetch =
        |path: &str| request("caller.default.localhost", &format!("/fetch?url=http://called.internal{path}"));
    let answer = platform.apps.send(fetch("/count?n=2")).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "line 1\nline 2\n"));
    let told = events(&platform, "called").await;
    assert!(told.contains("woken by a request"), "{told}");
    // One call that is open for five times as long as it takes to fall asleep.
    let long = platform.apps.send(fetch("/count?n=51")).await.unwrap();
    assert_eq!((long.status.as_u16(), long.text().lines().count()), (200, 51));
    let told = events(&platform, "called").await;
    assert!(
        told.matches("woken by a request").count() <= 2,
        "it slept before the long call or not at all: {told}"
    );
    let slept = told.matches("asleep after 1s without requests").count();
    assert_eq!(slept, told.matches("woken by a request").count(), "it was awake throughout: {told}");
    platform.app_is("called", "asleep again", is_asleep).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_load_is_absorbed_and_given_back_and_no_request_fails() {
    let platform = Platform::start().await;
    platform.deploy_manifest("stream", &sleeper("stream", 5, 2, "")).await.ok();
    platform.app_is("stream", "asleep", is_asleep).await;
    // A request that waits for the first instance, and then nine more beside it, each open for as long as the test wants.
    let ask = || platform.apps.open(request("stream.default.localhost", "/count?n=100000&ms=50"));
    let mut open = vec![ask().await.unwrap()];
    let step = Instant::now();
    for _ in 0..9 {
        open.push(ask().await.unwrap());
    }
    assert!(open.iter().all(|reply| reply.status() == 200));
    platform.app_is("stream", "as large as ten requests need", |info| info.ready == 5).await;
    let took = step.elapsed();
    println!("absorbed within {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    let told = events(&platform, "stream").await;
    assert!(told.contains("open requests, 2 each"), "{told}");
    drop(open);
    platform.app_is("stream", "asleep", is_asleep).await;
    // By hand it is a number until that is taken back.
    platform.wharf(&["scale", "stream", "2"]).await.ok();
    platform.app_is("stream", "two", |info| info.ready == 2 && info.scaling.is_none()).await;
    platform.wharf(&["scale", "stream", "--reset"]).await.ok();
    platform.app_is("stream", "asleep", is_asleep).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_makes_no_sense_is_refused_with_what_to_write() {
    let platform = Platform::start().await;
    let refused = async |guest: &str, replicas: &str, rest: &str, words: &[&str]| {
        let manifest = format!("app = \"hello\"\n[scale]\nreplicas = {replicas}\n{rest}");
        platform.deploy_manifest(guest, &manifest).await.fails(6, words);
    };
    refused(
        "hello",
        "{ min = 3, max = 2, concurrency = 5 }",
        "",
        &["scale.replicas.min: 3 is more than `max`"],
    )
    .await;
    refused("hello", "{ max = 2 }", "", &["concurrency"]).await;
    refused("hello", "{ max = 2, concurency = 5 }", "", &["concurency", "wharf.toml:3:"]).await;
    refused("hello", "\"many\"", "", &["a number such as 3, or a table such as", "wharf.toml:3:"]).await;
    refused("hello", "{ max = 2, concurrency = 999 }", "", &["`limits.concurrency`, which is 256"]).await;
    let volume = "[[volumes]]\nname = \"data\"\npath = \"/data\"\n";
    refused(
        "hello",
        "{ min = 0, max = 2, concurrency = 5 }",
        volume,
        &["scale.replicas.max: 2 instances", "`data`"],
    )
    .await;
    refused(
        "ticker",
        "{ min = 1, max = 2, concurrency = 5 }",
        "",
        &["scale.replicas: a command without `tcp.ports`"],
    )
    .await;
    let ports = "[tcp]\nports = [17431]\n";
    refused(
        "echo-tcp",
        "{ min = 0, max = 2, concurrency = 5 }",
        ports,
        &["scale.replicas.min", "write at least 1"],
    )
    .await;
}
