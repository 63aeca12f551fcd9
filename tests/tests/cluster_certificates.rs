//! Certificates of a day, over days: the clocks of all processes are put forward while they run. That is also what a process sees whose machine
//! has slept.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use wharf_tests::{Cluster, Load, SHORT, eventually, within};
use wharf_types::api::{AppInfo, NodeInfo};
use wharf_types::state::RolloutState;
use wharf_types::{InstanceId, NodeId};

/// Two tries to renew are a minute apart, and a control plane looks at its clock twice a minute.
const RENEWAL: Duration = Duration::from_secs(240);
const RENEWED: &str = "has renewed its certificate";

fn live(app: &AppInfo) -> BTreeSet<InstanceId> {
    app.instances.iter().filter(|it| !it.state.is_final()).map(|it| it.id).collect()
}

fn ready_on(app: &AppInfo) -> BTreeSet<NodeId> {
    app.instances.iter().filter(|it| !it.state.is_final()).filter_map(|it| it.node).collect()
}

fn all_ready(nodes: &[NodeInfo]) -> bool {
    nodes.iter().all(|node| node.ready)
}

/// An app with one instance on each host, which is not about to move.
async fn is_everywhere(cluster: &Cluster, app: &str) -> AppInfo {
    let hosts = cluster.hosts.len();
    cluster.deploy("hello", app, &format!("[scale]\nreplicas = {hosts}\n")).await;
    let is = |app: &AppInfo| {
        let is_over = app.rollout.as_ref().is_some_and(|rollout| rollout.state == RolloutState::Succeeded);
        is_over && app.ready as usize == hosts && ready_on(app).len() == hosts && live(app).len() == hosts
    };
    cluster.app_is(app, "it is on every host", is).await
}

async fn answers(cluster: &Cluster, door: usize, app: &str) {
    eventually(SHORT, &format!("{app} answers at the front door of host {door}"), async || {
        let reply = cluster.hosts[door].apps.get(&format!("{app}.default.localhost"), "/").await.ok()?;
        (reply.status == 200).then_some(())
    })
    .await;
}

async fn none_failed(loads: Vec<Load>) {
    for mut load in loads {
        load.go_on_for(20).await;
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
    }
}

/// The certificate that a worker would start with.
fn certificate(cluster: &Cluster, host: usize) -> Value {
    let kept = std::fs::read(cluster.hosts[host].folder().join("node.json")).unwrap();
    serde_json::from_slice::<Value>(&kept).unwrap()["issued"]["certificate"].clone()
}

/// Asks these apps at these front doors once.
async fn all_answer(cluster: &Cluster, asked: &[(usize, &str)]) {
    for (door, app) in asked {
        let reply = cluster.hosts[*door].apps.get(&format!("{app}.default.localhost"), "/").await.unwrap();
        assert_eq!(reply.status, 200, "{app} at the front door of host {door}: {}", reply.text());
    }
}

/// Puts the clocks forward, and waits until the control plane and these hosts have other certificates. Meanwhile these apps answer.
async fn renew_at(cluster: &Cluster, off_by: &str, hosts: &[usize], asked: &[(usize, &str)]) {
    let renewals = |log: String| log.matches(RENEWED).count();
    let before = renewals(cluster.server_log(0));
    let kept: Vec<Value> = hosts.iter().map(|host| certificate(cluster, *host)).collect();
    cluster.set_clocks(off_by);
    for (host, kept) in hosts.iter().zip(kept) {
        eventually(RENEWAL, &format!("{off_by}: host {host} renews its certificate"), async || {
            all_answer(cluster, asked).await;
            (certificate(cluster, *host) != kept).then_some(())
        })
        .await;
        assert!(cluster.hosts[*host].log().contains(RENEWED));
    }
    eventually(RENEWAL, &format!("{off_by}: the control plane renews its certificate"), async || {
        all_answer(cluster, asked).await;
        (renewals(cluster.server_log(0)) > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn certificates_are_renewed_and_everything_is_served_beyond_the_end_of_the_first_ones() {
    let mut cluster = Cluster::start_with_clocks(2).await;
    let before = is_everywhere(&cluster, "hello").await;
    let node = cluster.hosts[0].node;
    let there = format!("[placement]\nconstraints = [\"node.id == {node}\"]\n");
    cluster.deploy("hello", "there", &there).await;
    answers(&cluster, 1, "there").await;
    let asked = [(0, "hello"), (1, "hello"), (1, "there")];
    // The first ones end after 24 hours, and those that are made at 20 after 44.
    for (renewal, beyond) in [("+20h", "+25h"), ("+40h", "+46h")] {
        renew_at(&cluster, renewal, &[0, 1], &asked).await;
        let mut loads: Vec<Load> = asked.iter().map(|(door, app)| cluster.load(*door, app, "/")).collect();
        for load in &mut loads {
            load.go_on_for(20).await;
        }
        cluster.set_clocks(beyond);
        for load in &mut loads {
            load.go_on_for(200).await;
        }
        none_failed(loads).await;
        let nodes = cluster.nodes().await;
        assert!(nodes.len() == 2 && all_ready(&nodes), "{beyond}: {nodes:?}");
    }
    assert_eq!(live(&cluster.app("hello").await), live(&before), "something was restarted");

    // Connections that are made now show what was renewed: of a host that joins, and of one that starts again without a token.
    cluster.add_host().await;
    cluster.nodes_are("another host has joined", |nodes| nodes.len() == 3 && all_ready(nodes)).await;
    answers(&cluster, 2, "there").await;
    let node = cluster.hosts[1].node;
    cluster.hosts[1].kill().await;
    cluster.start_again(1).await;
    assert_eq!(cluster.hosts[1].node, node);
    cluster.nodes_are("it is back", |nodes| nodes.len() == 3 && all_ready(nodes)).await;
    answers(&cluster, 1, "there").await;
}

#[tokio::test]
async fn nodes_whose_certificates_have_expired_say_so_and_come_back_as_who_they_were_with_a_token() {
    let mut cluster = Cluster::start_with_clocks(3).await;
    is_everywhere(&cluster, "hello").await;
    let nodes: Vec<NodeId> = cluster.hosts.iter().map(|host| host.node).collect();
    // One is off, and one stands still, for longer than a day.
    cluster.hosts[1].stop().await;
    cluster.hosts[2].signal(Signal::SIGSTOP);
    renew_at(&cluster, "+20h", &[0], &[(0, "hello")]).await;
    let load = cluster.load(0, "hello", "/");
    cluster.set_clocks("+26h");

    let flags = ["--http", "127.0.0.1:0", "--peers", "127.0.0.1:0"];
    let off = &cluster.hosts[1];
    let mut refused = off.command(&cluster.user_by_clock(), off.folder(), &flags);
    let ended = within(SHORT, "it does not start", refused.output()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{said}");
    for words in ["the certificate of this node has expired", "wharf node token create"] {
        assert!(said.contains(words), "`{words}` is not told: {said}");
    }

    cluster.hosts[2].signal(Signal::SIGCONT);
    eventually(SHORT, "the worker that stood still says what it needs", async || {
        let log = cluster.hosts[2].log();
        let is_told = log.contains(&format!("the certificate of node {} has expired at", nodes[2]));
        (is_told && log.contains("wharf node token create")).then_some(())
    })
    .await;
    eventually(SHORT, "so does the control plane", async || {
        cluster
            .server_log(0)
            .contains("`wharf node token create --node ID` lets that node back in")
            .then_some(())
    })
    .await;

    cluster.hosts[2].kill().await;
    for host in [1, 2] {
        let token = cluster.join_token(&["--node", &nodes[host].to_string()]).await;
        cluster.start_again_with(host, &["--join", &token]).await;
        assert_eq!(cluster.hosts[host].node, nodes[host]);
    }
    cluster.nodes_are("all are back", |nodes| nodes.len() == 3 && all_ready(nodes)).await;
    cluster.app_is("hello", "it is served as before", |app| app.ready == 3).await;
    none_failed(vec![load]).await;
}
