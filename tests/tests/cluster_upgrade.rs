//! What operators do while apps are served: one process after the other is replaced, and the cluster's CA is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use wharf_tests::{Cluster, Load, Postgres, SHORT, eventually};
use wharf_types::NodeId;
use wharf_types::api::{AppInfo, AuthorityInfo, AuthorityState, Page, ServerInfo};

fn ready_on(app: &AppInfo) -> BTreeSet<NodeId> {
    app.instances.iter().filter(|it| !it.state.is_final()).filter_map(|it| it.node).collect()
}

/// A load on each app at each of these front doors.
async fn loads(cluster: &Cluster, hosts: &[usize]) -> Vec<(String, Load)> {
    let mut loads = Vec::new();
    for host in hosts {
        for app in ["one", "three"] {
            loads.push((format!("{app} at host {host}"), cluster.load(*host, app, "/")));
        }
    }
    for (_, load) in &mut loads {
        load.go_on_for(20).await;
    }
    loads
}

/// Ends the loads after a few more requests, and returns how many there were. None has failed.
async fn all_served(loads: Vec<(String, Load)>, when: &str) -> u64 {
    let mut requests = 0;
    for (what, mut load) in loads {
        load.go_on_for(20).await;
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "{when}, {what}, of {} requests", served.requests);
        requests += served.requests;
    }
    requests
}

async fn two_apps(cluster: &Cluster) {
    cluster.deploy("hello", "one", "").await;
    cluster.deploy("hello", "three", "[scale]\nreplicas = 3\n").await;
    cluster.app_is("three", "it is on every host", |app| app.ready == 3 && ready_on(app).len() == 3).await;
}

#[tokio::test]
async fn every_server_and_worker_is_replaced_without_a_failed_request() {
    let database = Postgres::start();
    let mut cluster = Cluster::start_with(3, 2, Some(database.url())).await;
    two_apps(&cluster).await;
    let mut requests = 0;
    let all = loads(&cluster, &[0, 1, 2]).await;
    // The one that does not lead first, as the guide has it.
    for server in [1, 0] {
        cluster.stop_server(server).await;
        cluster.start_server(server).await;
        cluster.nodes_are("the workers have a leader", |nodes| nodes.iter().all(|node| node.ready)).await;
    }
    requests += all_served(all, "servers are replaced").await;
    for host in 0..3 {
        let others: Vec<usize> = (0..3).filter(|other| *other != host).collect();
        let elsewhere = loads(&cluster, &others).await;
        cluster.hosts[host].stop().await;
        cluster.start_again(host).await;
        let node = cluster.hosts[host].node;
        cluster.nodes_are("it is back", |nodes| nodes.iter().all(|it| it.ready && !it.draining)).await;
        cluster.app_is("three", "it has its share again", |app| ready_on(app).contains(&node)).await;
        requests += all_served(elsewhere, &format!("host {host} is replaced")).await;
    }
    println!("{requests} requests, none of which failed");
}

#[tokio::test]
async fn a_server_that_does_not_lead_answers_what_the_leader_knows() {
    let database = Postgres::start();
    let cluster = Cluster::start_with(2, 2, Some(database.url())).await;
    cluster.deploy("hello", "hello", "").await;
    let listed =
        |nodes: &Page<wharf_types::api::NodeInfo>| nodes.items.iter().filter(|node| node.ready).count();
    for server in 0..2 {
        let nodes = cluster.user_at(server).run(&["node", "ls", "--json"]).await.json();
        assert_eq!(listed(&nodes), 2, "at server {server}");
        let servers: Page<ServerInfo> = cluster.user_at(server).run(&["server", "ls", "--json"]).await.json();
        let leads: Vec<bool> = servers.items.iter().map(|server| server.leads).collect();
        assert_eq!((leads.len(), leads.iter().filter(|leads| **leads).count()), (2, 1), "{servers:?}");
        let log = cluster.user_at(server).run(&["logs", "hello", "--json"]).await;
        assert_eq!(log.code, 0);
    }
    let node = cluster.hosts[0].node.to_string();
    cluster.user_at(1).run(&["node", "drain", &node]).await.ok();
    cluster.user_at(1).run(&["node", "resume", &node]).await.ok();
}

#[tokio::test]
async fn the_ca_is_replaced_while_everything_is_served() {
    let database = Postgres::start();
    let mut cluster = Cluster::start_with(3, 2, Some(database.url())).await;
    two_apps(&cluster).await;
    let all = loads(&cluster, &[0, 1, 2]).await;
    let old_token = cluster.join_token(&[]).await;
    let cas =
        async || cluster.wharf(&["server", "ca", "ls", "--json"]).await.json::<Page<AuthorityInfo>>().items;
    let before = cas().await;
    assert_eq!(before.len(), 1);
    // Asked of the server that does not lead.
    cluster.user_at(1).run(&["server", "ca", "rotate"]).await.ok();
    let after = eventually(SHORT * 4, "another CA is the only one", async || {
        let now = cas().await;
        (now.len() == 1 && now[0].id != before[0].id && now[0].state == AuthorityState::Signs).then_some(now)
    })
    .await;
    assert_eq!(after.len(), 1);
    let requests = all_served(all, "the CA is replaced").await;
    println!("{requests} requests, none of which failed");

    // Everybody has what it takes to come back, and to be joined.
    cluster.stop_server(1).await;
    cluster.start_server(1).await;
    cluster.hosts[0].kill().await;
    cluster.start_again(0).await;
    cluster.nodes_are("all are there", |nodes| nodes.iter().all(|node| node.ready)).await;
    cluster.add_host().await;
    cluster.nodes_are("so is another", |nodes| nodes.iter().filter(|node| node.ready).count() == 4).await;
    let folder = cluster.folder().join("late");
    let mut late = cluster.hosts[0].command(
        &cluster.user(),
        &folder,
        &["--http", "127.0.0.1:0", "--peers", "127.0.0.1:0", "--join", &old_token],
    );
    let ended = wharf_tests::within(SHORT, "it is refused", late.output()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("another CA"), "{said}");
}

#[tokio::test]
async fn a_node_that_was_removed_is_let_in_by_no_other() {
    let mut cluster = Cluster::start(2).await;
    cluster.deploy("hello", "hello", "").await;
    let app = cluster.app_is("hello", "it serves", |app| app.ready == 1).await;
    let on = *ready_on(&app).first().unwrap();
    let other = cluster.hosts.iter().position(|host| host.node != on).unwrap();
    cluster.text(other, "hello", "/").await;
    // It goes on by itself, and its certificate is good for a day.
    let node = cluster.hosts[other].node;
    cluster.hosts[other].signal(nix::sys::signal::Signal::SIGSTOP);
    cluster.nodes_are("it is silent", |nodes| nodes.iter().any(|it| it.id == node && !it.ready)).await;
    cluster.wharf(&["node", "rm", &node.to_string()]).await.ok();
    cluster.hosts[other].signal(nix::sys::signal::Signal::SIGCONT);
    eventually(SHORT, "nobody answers it", async || {
        let reply = cluster.hosts[other].apps.get("hello.default.localhost", "/").await.ok()?;
        (reply.status != 200).then_some(())
    })
    .await;
    cluster.app_is("hello", "nothing else is disturbed", |app| app.ready == 1).await;
    cluster.hosts[other].kill().await;
}
