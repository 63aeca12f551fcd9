//! Workers and control planes of two versions: one version back works in everything that both know, and what is further apart is refused.
//!
//! The older side is this program, told to speak version 1 only (see `docs/decisions/0048-older-versions.md`), or the binary that `WHARF_OLDER_BIN`
//! names.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use wharf_tests::{Cluster, Load, SHORT, Speak, eventually};
use wharf_types::NodeId;
use wharf_types::api::{AppInfo, NodeInfo};
use wharf_types::protocol::SPOKEN;

const HOSTS: usize = 3;
const ALL_OLDER: Speak = Speak { servers: Some(Speak::OLDER), workers: Some(Speak::OLDER) };
/// Nobody speaks these yet.
const TO_COME: &str = "8-9";

fn ready_on(app: &AppInfo) -> BTreeSet<NodeId> {
    app.instances.iter().filter(|it| !it.state.is_final()).filter_map(|it| it.node).collect()
}

/// Everything that an app goes through, at every front door.
async fn an_app_goes_through_all(cluster: &Cluster, app: &str) {
    cluster.deploy("crash", app, "").await;
    let first = *ready_on(&cluster.app_is(app, "it serves", |app| app.ready == 1).await).first().unwrap();
    let hostname = format!("{app}.default.localhost");
    let other = cluster.hosts.iter().position(|host| host.node != first).unwrap();
    eventually(SHORT, "the front door of another host knows it", async || {
        // What the guest fails at, the front door says to the app's log.
        let reply = cluster.hosts[other].apps.get(&hostname, "/trap").await.ok()?;
        (reply.status == 502).then_some(())
    })
    .await;
    eventually(SHORT, "the log has it", async || {
        let log = cluster.wharf(&["logs", app]).await.ok();
        log.contains("GET /trap answered 502").then_some(())
    })
    .await;

    cluster.wharf(&["scale", app, &HOSTS.to_string()]).await.ok();
    cluster.app_is(app, "it is on every host", |app| ready_on(app).len() == HOSTS).await;
    cluster.deploy("hello", app, "").await;
    let is_new = |app: &AppInfo| app.release == Some(2) && app.ready as usize == HOSTS;
    cluster.app_is(app, "the next release is everywhere", is_new).await;
    for host in 0..HOSTS {
        eventually(SHORT, "every front door has the next release", async || {
            let reply = cluster.hosts[host].apps.get(&hostname, "/").await.ok()?;
            (reply.status == 200 && reply.text().contains("Hello from WASI 0.2")).then_some(())
        })
        .await;
    }

    let mut load = cluster.load(other, app, "/");
    load.go_on_for(20).await;
    is_emptied(cluster, first).await;
    load.go_on_for(20).await;
    cluster.wharf(&["node", "resume", &first.to_string()]).await.ok();
    cluster.wharf(&["scale", app, "1"]).await.ok();
    cluster.app_is(app, "there is one", |app| app.ready == 1 && ready_on(app).len() == 1).await;
    load.go_on_for(20).await;
    let served = load.stop().await;
    assert_eq!(served.failures, Vec::<String>::new(), "{app}, of {} requests", served.requests);
    cluster.wharf(&["delete", app, "--yes"]).await.ok();
}

/// Drains a host, and waits until nothing is left there.
async fn is_emptied(cluster: &Cluster, node: NodeId) {
    cluster.wharf(&["node", "drain", &node.to_string()]).await.ok();
    let is_empty = |nodes: &[NodeInfo]| nodes.iter().any(|it| it.id == node && it.instances == 0);
    cluster.nodes_are("the host is empty", is_empty).await;
}

async fn all_are_ready(cluster: &Cluster) {
    let are_ready = |nodes: &[NodeInfo]| nodes.iter().filter(|node| node.ready).count() == HOSTS;
    cluster.nodes_are("every worker has its session", are_ready).await;
}

/// Starts the control plane again, of what is to be started from now on.
async fn the_server_is_replaced(cluster: &mut Cluster) {
    cluster.stop_server(0).await;
    cluster.start_server(0).await;
    all_are_ready(cluster).await;
}

/// The same of each worker in turn, while the others serve.
async fn the_workers_are_replaced(cluster: &mut Cluster) {
    for host in 0..HOSTS {
        let node = cluster.hosts[host].node;
        let mut loads: Vec<Load> = (0..HOSTS)
            .filter(|other| *other != host)
            .map(|other| cluster.load(other, "stays", "/"))
            .collect();
        for load in &mut loads {
            load.go_on_for(20).await;
        }
        // One of version 1 empties nothing when it is told to end.
        is_emptied(cluster, node).await;
        cluster.hosts[host].stop().await;
        cluster.start_again(host).await;
        cluster.wharf(&["node", "resume", &node.to_string()]).await.ok();
        all_are_ready(cluster).await;
        cluster.app_is("stays", "the host has its share again", |app| ready_on(app).contains(&node)).await;
        none_has_failed(loads, &format!("the worker of host {host} is replaced")).await;
    }
}

async fn none_has_failed(loads: Vec<Load>, when: &str) {
    for mut load in loads {
        load.go_on_for(20).await;
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "{when}, of {} requests", served.requests);
    }
}

/// An app that is on every host while things change.
async fn with_an_app_that_stays(speak: Speak) -> Cluster {
    let cluster = Cluster::start_speaking(HOSTS, speak).await;
    let everywhere = format!("[scale]\nreplicas = {HOSTS}\n");
    cluster.deploy("hello", "stays", &everywhere).await;
    cluster.app_is("stays", "it is on every host", |app| ready_on(app).len() == HOSTS).await;
    cluster
}

fn the_server_says_that_a_worker_is_older(cluster: &Cluster) {
    let log = cluster.server_log(0);
    assert!(log.contains("is of an older version: it is told what version 1"), "{log}");
}

fn a_worker_says_that_the_server_is_older(cluster: &Cluster) {
    let log = cluster.hosts[0].log();
    assert!(log.contains("this node speaks version 1 of the node protocol"), "{log}");
}

#[tokio::test]
async fn older_workers_work_with_a_newer_server_and_are_replaced_after_it() {
    let mut cluster = with_an_app_that_stays(ALL_OLDER).await;
    an_app_goes_through_all(&cluster, "before").await;
    cluster.speak(Speak { servers: None, workers: Some(Speak::OLDER) });
    let loads = (0..HOSTS).map(|host| cluster.load(host, "stays", "/")).collect();
    the_server_is_replaced(&mut cluster).await;
    an_app_goes_through_all(&cluster, "between").await;
    none_has_failed(loads, "the server is replaced").await;
    the_server_says_that_a_worker_is_older(&cluster);
    cluster.speak(Speak::default());
    the_workers_are_replaced(&mut cluster).await;
    an_app_goes_through_all(&cluster, "after").await;
}

#[tokio::test]
async fn newer_workers_work_with_an_older_server_and_it_is_replaced_after_them() {
    let mut cluster = with_an_app_that_stays(ALL_OLDER).await;
    cluster.speak(Speak { servers: Some(Speak::OLDER), workers: None });
    the_workers_are_replaced(&mut cluster).await;
    a_worker_says_that_the_server_is_older(&cluster);
    an_app_goes_through_all(&cluster, "between").await;
    cluster.speak(Speak::default());
    let loads = (0..HOSTS).map(|host| cluster.load(host, "stays", "/")).collect();
    the_server_is_replaced(&mut cluster).await;
    an_app_goes_through_all(&cluster, "after").await;
    none_has_failed(loads, "the server is replaced").await;
}

#[tokio::test]
async fn hosts_of_both_versions_hand_each_other_requests() {
    let mut cluster = Cluster::start_speaking(2, Speak::default()).await;
    cluster.speak(Speak { servers: None, workers: Some(Speak::OLDER) });
    cluster.add_host().await;
    all_are_ready(&cluster).await;
    let older = cluster.hosts[HOSTS - 1].node;
    cluster.deploy("hello", "only", "[scale]\nsingleton = true\n").await;
    let only = cluster.app_is("only", "it serves", |app| app.ready == 1).await;
    assert!(!ready_on(&only).contains(&older), "that worker could not read what it is told: {only:?}");
    for host in [0, HOSTS - 1] {
        let (app, node) = (format!("on-{host}"), cluster.hosts[host].node);
        let there = format!("[placement]\nconstraints = [\"node.id == {node}\"]\n");
        cluster.deploy("hello", &app, &there).await;
        for door in 0..HOSTS {
            eventually(SHORT, "the front door knows it", async || {
                let reply =
                    cluster.hosts[door].apps.get(&format!("{app}.default.localhost"), "/").await.ok()?;
                (reply.status == 200).then_some(())
            })
            .await;
            let mut load = cluster.load(door, &app, "/");
            load.go_on_for(50).await;
            none_has_failed(vec![load], &format!("{app} at the front door of host {door}")).await;
        }
    }
}

#[tokio::test]
async fn versions_that_are_too_far_apart_are_refused_with_a_reason_in_both_logs() {
    let mut cluster = with_an_app_that_stays(Speak::default()).await;
    let loads = (0..HOSTS - 1).map(|host| cluster.load(host, "stays", "/")).collect();
    let both_say = async |cluster: &Cluster, host: usize, words: &str| {
        eventually(SHORT, "the worker says why", async || {
            cluster.hosts[host].log().contains(words).then_some(())
        })
        .await;
        eventually(SHORT, "the control plane says why", async || {
            cluster.server_log(0).contains(words).then_some(())
        })
        .await;
    };
    let last = HOSTS - 1;
    let node = cluster.hosts[last].node;
    cluster.hosts[last].stop().await;
    cluster.speak(Speak { servers: None, workers: Some(TO_COME) });
    cluster.start_again(last).await;
    let newer = format!(
        "the worker speaks {TO_COME} of the node protocol, and the control plane {SPOKEN}: upgrade the control plane first"
    );
    both_say(&cluster, last, &newer).await;
    let others = |app: &AppInfo| app.ready as usize == HOSTS && !ready_on(app).contains(&node);
    cluster.app_is("stays", "the others have taken over", others).await;

    // What it is now, it comes back as.
    cluster.hosts[last].kill().await;
    cluster.speak(Speak::default());
    cluster.start_again(last).await;
    all_are_ready(&cluster).await;

    cluster.stop_server(0).await;
    cluster.speak(Speak { servers: Some(TO_COME), workers: None });
    cluster.start_server(0).await;
    let older = format!(
        "the worker speaks {SPOKEN} of the node protocol, and the control plane {TO_COME}: upgrade the worker first"
    );
    for host in 0..HOSTS {
        both_say(&cluster, host, &older).await;
    }
    cluster.speak(Speak::default());
    the_server_is_replaced(&mut cluster).await;
    none_has_failed(loads, "others are refused").await;
}
