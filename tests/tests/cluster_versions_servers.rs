//! Two control planes of two versions on one database, with workers of both, while the lead goes from the one to the other: as in an upgrade
//! that takes its time. The older side is this program, told to be its predecessor, as in `cluster_versions.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use wharf_tests::{Cluster, Load, Postgres, SHORT, Speak, eventually};
use wharf_types::NodeId;
use wharf_types::api::{AppInfo, NodeInfo};

const NEWER: usize = 0;
const OLDER: usize = 1;
const HOSTS: usize = 3;
const SPEAK_OLDER: Speak = Speak { servers: Some(Speak::OLDER), workers: Some(Speak::OLDER) };

fn ready_on(app: &AppInfo) -> BTreeSet<NodeId> {
    app.instances.iter().filter(|it| !it.state.is_final()).filter_map(|it| it.node).collect()
}

/// Starts one of the two, as what it is.
async fn starts(cluster: &mut Cluster, server: usize) {
    cluster.speak(if server == OLDER { SPEAK_OLDER } else { Speak::default() });
    cluster.start_server(server).await;
}

/// A newer server, which leads, an older one, and hosts of both versions.
async fn of_two_versions(database: &Postgres) -> Cluster {
    let mut cluster = Cluster::start_with(0, 1, Some(database.url())).await;
    leads(&cluster, NEWER, NEWER).await;
    starts(&mut cluster, OLDER).await;
    for speak in [Speak::default(), SPEAK_OLDER, Speak::default()] {
        cluster.speak(speak);
        cluster.add_host().await;
    }
    cluster
}

/// One of the two leads, by the word of one that runs.
async fn leads(cluster: &Cluster, server: usize, asked: usize) {
    eventually(SHORT, &format!("server {server} leads"), async || {
        (cluster.leader(asked).await == Some(server)).then_some(())
    })
    .await;
}

async fn all_are_ready(cluster: &Cluster) {
    let are_ready = |nodes: &[NodeInfo]| nodes.len() == HOSTS && nodes.iter().all(|node| node.ready);
    cluster.nodes_are("every worker has its session", are_ready).await;
}

/// Deploys an app that is on every host while things change.
async fn is_everywhere(cluster: &Cluster) {
    all_are_ready(cluster).await;
    cluster.deploy("hello", "stays", &format!("[scale]\nreplicas = {HOSTS}\n")).await;
    let is = |app: &AppInfo| app.ready as usize == HOSTS && ready_on(app).len() == HOSTS;
    cluster.app_is("stays", "it is on every host", is).await;
}

/// What either server is told is carried out, whoever leads, and comes to the front doors of both versions.
async fn both_take_changes(cluster: &Cluster, round: &str) {
    for server in [NEWER, OLDER] {
        let greeting = format!("{round}, by {server}");
        let rest = format!("[scale]\nreplicas = 2\n[env]\nGREETING = \"{greeting}\"\n");
        cluster.deploy_at(server, "hello", "moves", &rest).await;
        for host in &cluster.hosts {
            eventually(SHORT, &format!("{greeting}: every front door has it"), async || {
                let reply = host.apps.get("moves.default.localhost", "/").await.ok()?;
                (reply.text() == format!("{greeting}\n")).then_some(())
            })
            .await;
        }
        for replicas in [3, 2] {
            cluster.user_at(server).run(&["scale", "moves", &replicas.to_string()]).await.ok();
            let what = format!("{greeting}: there are {replicas}");
            let is_so = |app: &AppInfo| {
                let live = app.instances.iter().filter(|it| !it.state.is_final()).count();
                app.ready == replicas && live == replicas as usize
            };
            cluster.app_is("moves", &what, is_so).await;
        }
    }
}

/// At every front door, on the app that stays and on the one that is changed.
fn loads(cluster: &Cluster) -> Vec<Load> {
    (0..HOSTS).flat_map(|host| [cluster.load(host, "stays", "/"), cluster.load(host, "moves", "/")]).collect()
}

async fn none_failed(loads: Vec<Load>, when: &str) {
    for mut load in loads {
        load.go_on_for(30).await;
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "{when}, of {} requests", served.requests);
    }
}

#[tokio::test]
async fn the_lead_goes_from_one_version_to_the_other_and_back_and_no_request_fails() {
    let database = Postgres::start();
    let mut cluster = of_two_versions(&database).await;
    is_everywhere(&cluster).await;
    both_take_changes(&cluster, "newer").await;

    let all = loads(&cluster);
    cluster.kill_server(NEWER).await;
    leads(&cluster, OLDER, OLDER).await;
    starts(&mut cluster, NEWER).await;
    all_are_ready(&cluster).await;
    both_take_changes(&cluster, "older after a crash").await;
    none_failed(all, "the newer one was killed").await;

    let all = loads(&cluster);
    cluster.stop_server(OLDER).await;
    leads(&cluster, NEWER, NEWER).await;
    starts(&mut cluster, OLDER).await;
    all_are_ready(&cluster).await;
    both_take_changes(&cluster, "newer after an end").await;
    none_failed(all, "the older one was stopped").await;

    let all = loads(&cluster);
    cluster.signal_server(NEWER, Signal::SIGSTOP);
    leads(&cluster, OLDER, OLDER).await;
    cluster.signal_server(NEWER, Signal::SIGCONT);
    all_are_ready(&cluster).await;
    both_take_changes(&cluster, "older after a standstill").await;
    none_failed(all, "the newer one stood still").await;

    let newer = cluster.server_log(NEWER);
    assert!(newer.contains("is of an older version: it is told what version 1"), "{newer}");
    let worker = cluster.hosts[0].log();
    assert!(worker.contains("this node speaks version 1 of the node protocol"), "{worker}");
}

#[tokio::test]
async fn an_older_server_is_upgraded_beside_a_newer_one_and_then_the_workers_get_what_came_since() {
    let database = Postgres::start();
    let mut cluster = of_two_versions(&database).await;
    is_everywhere(&cluster).await;
    let all: Vec<Load> = (0..HOSTS).map(|host| cluster.load(host, "stays", "/")).collect();
    // The older one leads when it ends.
    cluster.stop_server(NEWER).await;
    leads(&cluster, OLDER, OLDER).await;
    starts(&mut cluster, NEWER).await;
    cluster.stop_server(OLDER).await;
    cluster.speak(Speak::default());
    cluster.start_server(OLDER).await;
    all_are_ready(&cluster).await;
    let older = cluster.hosts[1].node;
    let knows_it = |nodes: &[NodeInfo]| {
        nodes.iter().all(|node| node.labels.contains_key("wharf.protocol") == (node.id == older))
    };
    cluster.nodes_are("the leader knows which worker is older", knows_it).await;
    cluster.deploy("hello", "only", "[scale]\nsingleton = true\n").await;
    let only = cluster.app_is("only", "it serves", |app| app.ready == 1).await;
    assert!(!ready_on(&only).contains(&older), "that worker could not read what it is told: {only:?}");
    none_failed(all, "the older one is upgraded").await;
}
