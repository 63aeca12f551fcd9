//! Sessions with somebody who is slow: neither side keeps more and more for the other, and what it hears afterwards is right.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use wharf_tests::{Cluster, SHORT, Weather, eventually, within};
use wharf_types::api::{AppInfo, InstanceInfo, NodeInfo};
use wharf_types::state::RolloutState;

const PORT: u16 = 7500;
/// More than are told of at once.
const CRASHES: u32 = 24;
/// What a process may have gained: caches, the allocator's own, and what is bounded. Of the flood of lines a queue would have kept more.
const KEEPS_BYTES: u64 = 96 << 20;
/// Of a variable that each instance is told with: nearly what one may have.
const LARGE: usize = 24 << 10;

fn live(app: &AppInfo) -> Vec<&InstanceInfo> {
    app.instances.iter().filter(|it| !it.state.is_final()).collect()
}

fn has_settled(app: &AppInfo) -> bool {
    app.ready == app.replicas
        && app.rollout.as_ref().is_some_and(|rollout| rollout.state == RolloutState::Succeeded)
}

fn all_ready(nodes: &[NodeInfo]) -> bool {
    nodes.iter().all(|node| node.ready)
}

/// Ends the echo server, once it has greeted.
async fn crash(cluster: &Cluster, number: u32) {
    let door = (cluster.hosts[0].address, PORT);
    let mut client = eventually(SHORT, &format!("it greets before crash {number}"), async || {
        let stream = within(SHORT, "a connection", TcpStream::connect(door)).await.ok()?;
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        let read = within(SHORT, "a greeting, or an end", stream.read_line(&mut greeting)).await;
        (read.ok()? > 0).then_some(stream)
    })
    .await;
    client.write_all(b"exit\n").await.unwrap();
    let mut rest = Vec::new();
    // In whatever way the connection ends.
    let _ = within(SHORT, "the server has crashed", client.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_worker_keeps_nothing_without_end_for_a_server_that_stands_still_and_then_says_what_is_so() {
    let cluster = Cluster::start(1).await;
    cluster.deploy("hello", "hello", "").await;
    cluster.deploy("hostile", "prints", "[limits]\ncpu = \"5s\"\n").await;
    let echo = format!(
        "[tcp]\nports = [{PORT}]\n[env]\nGREETING = \"hello\"\n[restart]\nbackoff = \"1ms\"\nbackoff_max = \"1s\"\n"
    );
    cluster.deploy("echo-tcp", "echo", &echo).await;
    // Until then, a crash would be held against the release.
    let before = cluster.app_is("echo", "its rollout has succeeded", has_settled).await;
    cluster.text(0, "prints", "/logs?n=1000").await;
    let mut load = cluster.load(0, "hello", "/");
    load.go_on_for(20).await;
    let memory = cluster.hosts[0].memory_bytes();

    cluster.signal_server(0, Signal::SIGSTOP);
    let prints = async {
        // For as long as it may.
        let reply = cluster.hosts[0].apps.get("prints.default.localhost", "/logs").await;
        assert_eq!(reply.unwrap().status, 504);
    };
    let crashes = async {
        for number in 1..=CRASHES {
            crash(&cluster, number).await;
        }
    };
    tokio::join!(prints, crashes);
    let gained = cluster.hosts[0].memory_bytes().saturating_sub(memory);
    assert!(gained < KEEPS_BYTES, "the worker has gained {} MiB", gained >> 20);
    load.go_on_for(20).await;
    cluster.signal_server(0, Signal::SIGCONT);

    cluster.nodes_are("the worker is there", all_ready).await;
    let after = cluster
        .app_is("echo", "one is left, and it is known how often it was started", |app| {
            app.ready == 1 && matches!(live(app)[..], [now] if now.restarts >= CRASHES)
        })
        .await;
    let (was, now) = (live(&before)[0], live(&after)[0]);
    assert!(now.id != was.id && now.slot == was.slot && now.node == was.node, "{was:?}, then {now:?}");
    crash(&cluster, CRASHES + 1).await;
    cluster
        .app_is("echo", "the next crash is told, too", |app| {
            app.ready == 1 && matches!(live(app)[..], [next] if next.id != now.id)
        })
        .await;
    eventually(SHORT, "the log says that lines are missing", async || {
        let log = cluster.wharf(&["logs", "prints"]).await;
        log.stdout.contains("dropped").then_some(())
    })
    .await;
    let served = load.stop().await;
    assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
}

#[tokio::test]
async fn neither_side_keeps_more_and_more_where_the_way_between_them_drips() {
    let cluster = Cluster::start_with_ways(2, 1, None).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    // Each instance of it is told to its worker with all of this.
    let large = format!("[env]\nLARGE = \"{}\"\n", "x".repeat(LARGE));
    cluster.deploy("hello", "large", &large).await;
    cluster.app_is("large", "it has settled", has_settled).await;
    cluster.app_is("hello", "it has settled", has_settled).await;
    let memory = |cluster: &Cluster| {
        let workers = cluster.hosts.iter().map(wharf_tests::Host::memory_bytes);
        workers.chain([cluster.server_memory_bytes(0)]).collect::<Vec<u64>>()
    };
    let before = memory(&cluster);
    for (at_a_time, pause) in [(1024, 100), (64, 20)] {
        cluster.way(0, Weather::Drip(at_a_time, Duration::from_millis(pause)));
        let began = Instant::now();
        for round in 0_u32.. {
            if began.elapsed() > Duration::from_secs(10) {
                break;
            }
            cluster.wharf(&["scale", "large", &(1 + round % 8).to_string()]).await.ok();
            cluster.wharf(&["scale", "hello", &(2 + round % 3).to_string()]).await.ok();
        }
        for (before, now) in before.iter().zip(memory(&cluster)) {
            let gained = now.saturating_sub(*before);
            assert!(gained < KEEPS_BYTES, "{at_a_time} octets at a time: {} MiB gained", gained >> 20);
        }
        cluster.way(0, Weather::Fair);
        cluster.nodes_are("both workers are there", all_ready).await;
        for (app, replicas) in [("large", 3), ("hello", 2)] {
            cluster.wharf(&["scale", app, &replicas.to_string()]).await.ok();
            let is_so = |app: &AppInfo| app.ready == replicas && live(app).len() == replicas as usize;
            cluster.app_is(app, "it is as was wanted last", is_so).await;
        }
    }
}

#[tokio::test]
async fn a_server_keeps_nothing_without_end_for_a_worker_that_stands_still() {
    let cluster = Cluster::start(2).await;
    let large = format!("[env]\nLARGE = \"{}\"\n[scale]\nreplicas = 2\n", "x".repeat(LARGE));
    cluster.deploy("hello", "large", &large).await;
    cluster.app_is("large", "it has settled", has_settled).await;
    let before = cluster.server_memory_bytes(0);
    cluster.hosts[1].signal(Signal::SIGSTOP);
    let began = Instant::now();
    for round in 0_u32.. {
        if began.elapsed() > Duration::from_secs(15) {
            break;
        }
        cluster.wharf(&["scale", "large", &(1 + round % 8).to_string()]).await.ok();
    }
    let gained = cluster.server_memory_bytes(0).saturating_sub(before);
    assert!(gained < KEEPS_BYTES, "the server has gained {} MiB", gained >> 20);
    cluster.hosts[1].signal(Signal::SIGCONT);
    cluster.nodes_are("the worker is back", all_ready).await;
    cluster.wharf(&["scale", "large", "4"]).await.ok();
    let is_so = |app: &AppInfo| app.ready == 4 && live(app).len() == 4;
    cluster.app_is("large", "it is as was wanted last", is_so).await;
    eventually(SHORT, "the worker that stood still serves", async || {
        (cluster.hosts[1].asks_itself("large") == Some(200)).then_some(())
    })
    .await;
}
