//! Workers whose control plane is gone: what crashes meanwhile is started again where it ran, and every front door finds it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use wharf_tests::{Cluster, SHORT, eventually, within};
use wharf_types::api::{AppInfo, InstanceInfo};
use wharf_types::state::RolloutState;

/// Each host is alone in its network, so nobody else has it.
const PORT: u16 = 7500;

/// A connection to the echo server through the front door of a host, once the server has greeted. None: there is nobody.
async fn greeted(cluster: &Cluster, host: usize) -> Option<BufReader<TcpStream>> {
    let door = (cluster.hosts[host].address, PORT);
    let stream = within(SHORT, "a connection", TcpStream::connect(door)).await.ok()?;
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    let read = within(SHORT, "a greeting, or an end", stream.read_line(&mut greeting)).await;
    (read.ok()? > 0).then_some(stream)
}

async fn greets_everywhere(cluster: &Cluster) {
    for host in 0..cluster.hosts.len() {
        let what = format!("the server greets at the front door of host {host}");
        eventually(SHORT, &what, async || greeted(cluster, host).await).await;
    }
}

fn live(app: &AppInfo) -> Vec<&InstanceInfo> {
    app.instances.iter().filter(|it| !it.state.is_final()).collect()
}

#[tokio::test]
async fn a_worker_that_runs_nothing_ends_at_once_by_sigterm_also_without_a_control_plane() {
    let mut cluster = Cluster::start(1).await;
    cluster.kill_server(0).await;
    let begun = Instant::now();
    cluster.hosts[0].stop().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "it has waited for {:?}", begun.elapsed());
    let log = cluster.hosts[0].log();
    assert!(!log.contains("without being emptied") && !log.contains("started elsewhere"), "{log}");
}

#[tokio::test]
async fn without_a_control_plane_what_crashes_is_started_again_and_every_front_door_finds_it() {
    let mut cluster = Cluster::start(2).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    let manifest = format!("[tcp]\nports = [{PORT}]\n[env]\nGREETING = \"hello\"\n");
    cluster.deploy("echo-tcp", "echo", &manifest).await;
    // Until then, a crash would be held against the release.
    let has_settled = |app: &AppInfo| {
        let rollout = app.rollout.as_ref();
        app.ready == 1 && rollout.is_some_and(|rollout| rollout.state == RolloutState::Succeeded)
    };
    let before = cluster.app_is("echo", "its rollout has succeeded", has_settled).await;
    greets_everywhere(&cluster).await;
    let mut loads = [cluster.load(0, "hello", "/"), cluster.load(1, "hello", "/")];
    cluster.kill_server(0).await;

    for by in [0, 1, 0] {
        let mut client = greeted(&cluster, by).await.expect("it greets before it crashes");
        client.write_all(b"exit\n").await.unwrap();
        let mut rest = Vec::new();
        // In whatever way the connection ends.
        let _ = within(SHORT, "the server has crashed", client.read_to_end(&mut rest)).await;
        greets_everywhere(&cluster).await;
    }
    for load in &mut loads {
        load.go_on_for(50).await;
    }

    cluster.start_server(0).await;
    cluster.nodes_are("both are back", |nodes| nodes.iter().all(|node| node.ready)).await;
    let after = cluster
        .app_is("echo", "it is known to have crashed", |app| {
            app.ready == 1 && matches!(live(app)[..], [now] if now.restarts > 0)
        })
        .await;
    let (was, now) = (live(&before)[0], live(&after)[0]);
    assert_ne!(now.id, was.id);
    assert_eq!(now.node, was.node, "it was started again where it ran");
    greets_everywhere(&cluster).await;
    for load in loads {
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
    }
}
