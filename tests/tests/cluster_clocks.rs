//! Hosts whose clocks are wrong: by minutes nobody notices, and by hours certificates keep them out.
//!
//! A process sees another time of day by libfaketime. Spans are measured as everywhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wharf_tests::{Clock, Cluster, Load, Postgres, SHORT, eventually, within};
use wharf_types::api::{
    AppInfo, AuthorityInfo, AuthorityState, CreatedJoinToken, JoinTokenInfo, NodeInfo, Page,
};
use wharf_types::state::RolloutState;
use wharf_types::{InstanceId, NodeId, Timestamp};

/// Longer than a node may be silent.
const SPAN: Duration = Duration::from_secs(12);

fn live(app: &AppInfo) -> BTreeSet<InstanceId> {
    app.instances.iter().filter(|it| !it.state.is_final()).map(|it| it.id).collect()
}

fn ready_on(app: &AppInfo) -> BTreeSet<NodeId> {
    app.instances.iter().filter(|it| !it.state.is_final()).filter_map(|it| it.node).collect()
}

/// On so many hosts, one each, and not about to move.
fn is_on(app: &AppInfo, hosts: u32) -> bool {
    let rollout = app.rollout.as_ref();
    let is_over = rollout.is_some_and(|rollout| rollout.state == RolloutState::Succeeded);
    is_over
        && app.ready == hosts
        && ready_on(app).len() == hosts as usize
        && live(app).len() == hosts as usize
}

fn all_ready(nodes: &[NodeInfo]) -> bool {
    nodes.iter().all(|node| node.ready)
}

fn loads(cluster: &Cluster) -> Vec<Load> {
    (0..cluster.hosts.len()).map(|host| cluster.load(host, "hello", "/")).collect()
}

/// Every front door serves, and nobody is taken for dead.
async fn goes_on(cluster: &Cluster, loads: &mut [Load]) {
    let began = Instant::now();
    while began.elapsed() < SPAN {
        for load in loads.iter_mut() {
            load.go_on_for(50).await;
        }
        let nodes = cluster.nodes().await;
        assert!(all_ready(&nodes), "{nodes:?}");
    }
}

async fn none_failed(loads: Vec<Load>) {
    for load in loads {
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
    }
}

/// By how many minutes the clock was ahead that a worker has started with: it puts down the time.
fn worker_ahead(cluster: &Cluster, host: usize) -> i64 {
    let number = std::fs::read_to_string(cluster.hosts[host].folder().join("incarnation")).unwrap();
    let number: i64 = number.trim().parse().unwrap();
    (number - Timestamp::now().as_millisecond()) / 60_000
}

/// By how many minutes the clock of the first server that runs is ahead: its tokens last an hour by that.
async fn server_ahead(cluster: &Cluster) -> i64 {
    let created: CreatedJoinToken = cluster.wharf(&["node", "token", "create", "--json"]).await.json();
    (created.expires_at.as_second() - 3600 - Timestamp::now().as_second()) / 60
}

/// An app is restarted and deployed anew, whatever the times are by which it was before.
async fn takes_changes(cluster: &Cluster, greeting: &str) {
    let before = live(&cluster.app("other").await);
    cluster.wharf(&["restart", "other"]).await.ok();
    let is_another = |app: &AppInfo| is_on(app, 1) && live(app).is_disjoint(&before);
    cluster.app_is("other", &format!("{greeting}: its instance is another"), is_another).await;
    cluster.deploy("hello", "other", &format!("[env]\nGREETING = \"{greeting}\"\n")).await;
    for host in &cluster.hosts {
        eventually(SHORT, &format!("{greeting}: the new release answers everywhere"), async || {
            let reply = host.apps.get("other.default.localhost", "/").await.ok()?;
            (reply.text() == format!("{greeting}\n")).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn workers_whose_clocks_are_minutes_off_join_serve_and_are_not_taken_for_dead() {
    let mut cluster = Cluster::start(1).await;
    for clock in ["+10m", "-10m"] {
        cluster.clock_is(Some(clock));
        cluster.add_host().await;
    }
    cluster.clock_is(None);
    cluster.nodes_are("all have joined", |nodes| nodes.len() == 3 && all_ready(nodes)).await;
    let ahead = [0, 1, 2].map(|host| worker_ahead(&cluster, host));
    assert!(ahead[0].abs() <= 1 && ahead[1] >= 8 && ahead[2] <= -8, "the clocks are {ahead:?} minutes ahead");

    cluster.deploy("hello", "hello", "[scale]\nreplicas = 3\n").await;
    let before = cluster.app_is("hello", "it is on every host", |app| is_on(app, 3)).await;
    let mut all = loads(&cluster);
    goes_on(&cluster, &mut all).await;
    // Each node gets other certificates, and believes those of the others.
    let cas = async || {
        let listed = cluster.wharf(&["server", "ca", "ls", "--json"]).await;
        listed.json::<Page<AuthorityInfo>>().items
    };
    let old = cas().await[0].id.clone();
    cluster.wharf(&["server", "ca", "rotate"]).await.ok();
    eventually(SHORT * 4, "another CA is the only one", async || {
        let now = cas().await;
        let is_other = now.len() == 1 && now[0].id != old && now[0].state == AuthorityState::Signs;
        is_other.then_some(())
    })
    .await;
    for load in &mut all {
        load.go_on_for(50).await;
    }
    none_failed(all).await;
    assert_eq!(live(&cluster.app("hello").await), live(&before), "something was restarted");

    // The clocks are put right: the one that was ahead seems to have started before it did.
    for host in [1, 2] {
        let node = cluster.hosts[host].node;
        cluster.hosts[host].kill().await;
        cluster.start_again(host).await;
        assert_eq!(cluster.hosts[host].node, node);
        let serves = |app: &AppInfo| app.ready == 3 && ready_on(app).contains(&node);
        cluster.app_is("hello", "the host has its share again", serves).await;
    }
}

#[tokio::test]
async fn a_server_whose_clock_is_minutes_off_goes_on_with_what_there_is_and_lets_hosts_join() {
    let mut cluster = Cluster::start(2).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    cluster.deploy("hello", "other", "").await;
    // The second clock goes back by twenty minutes.
    for (clock, sign, hosts) in [("+10m", 1, 2), ("-10m", -1, 3)] {
        let before = cluster.app_is("hello", "all are ready", |app| app.ready == hosts).await;
        let mut all = loads(&cluster);
        cluster.stop_server(0).await;
        cluster.clock_is(Some(clock));
        cluster.start_server(0).await;
        cluster.clock_is(None);
        let ahead = server_ahead(&cluster).await;
        assert!(ahead * sign >= 8, "{clock}: it is {ahead} minutes ahead");
        cluster.nodes_are("the workers have come back", all_ready).await;
        goes_on(&cluster, &mut all).await;
        assert_eq!(live(&cluster.app("hello").await), live(&before), "{clock}: something was restarted");

        cluster.add_host().await;
        let are_more = |nodes: &[NodeInfo]| nodes.len() == hosts as usize + 1 && all_ready(nodes);
        cluster.nodes_are("the new host is there", are_more).await;
        cluster.wharf(&["scale", "hello", &(hosts + 1).to_string()]).await.ok();
        // Where it goes is up to what else moves to the new host at this moment.
        cluster.app_is("hello", "there is one more", |app| app.ready == hosts + 1).await;
        takes_changes(&cluster, &format!("at {clock}")).await;
        none_failed(all).await;
    }
}

#[tokio::test]
async fn servers_whose_clocks_differ_by_minutes_follow_each_other() {
    let database = Postgres::start();
    let mut cluster = Cluster::start_with(2, 2, Some(database.url())).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    cluster.deploy("hello", "other", "").await;
    let before = live(&cluster.app_is("hello", "it is on both hosts", |app| is_on(app, 2)).await);
    cluster.stop_server(1).await;
    cluster.clock_is(Some("+10m"));
    cluster.start_server(1).await;
    cluster.clock_is(None);
    let mut all = loads(&cluster);
    goes_on(&cluster, &mut all).await;

    cluster.kill_server(0).await;
    cluster.nodes_are("the one that is ahead leads", all_ready).await;
    assert!(server_ahead(&cluster).await >= 8);
    takes_changes(&cluster, "ahead").await;
    cluster.start_server(0).await;
    cluster.kill_server(1).await;
    cluster.nodes_are("the one that is right leads", all_ready).await;
    assert!(server_ahead(&cluster).await.abs() <= 1);
    takes_changes(&cluster, "right").await;
    none_failed(all).await;
    assert_eq!(live(&cluster.app("hello").await), before, "something was restarted");
}

#[tokio::test]
async fn a_host_whose_clock_is_hours_behind_is_kept_out_until_it_is_right() {
    let cluster = Cluster::start(1).await;
    let token = cluster.join_token(&[]).await;
    let folder = cluster.folder().join("late");
    let flags = ["--http", "127.0.0.1:0", "--peers", "127.0.0.1:0", "--join", &token];
    let behind = cluster.user().with_clock(&Clock::OffBy("-2h"));
    let mut refused = cluster.hosts[0].command(&behind, &folder, &flags);
    let ended = within(SHORT, "it is kept out", refused.output()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{said}");
    for words in ["by the clock of this host", "not valid", "set the clocks of both hosts"] {
        assert!(said.contains(words), "`{words}` is not told: {said}");
    }
    let tokens: Page<JoinTokenInfo> = cluster.wharf(&["node", "token", "ls", "--json"]).await.json();
    assert!(tokens.items.iter().any(|token| token.uses_left == 1), "its token has not been used");

    let mut joins = cluster.hosts[0].command(&cluster.user(), &folder, &flags);
    let mut joined = joins.stdout(std::process::Stdio::null()).spawn().unwrap();
    cluster.nodes_are("it has joined", |nodes| nodes.len() == 2 && all_ready(nodes)).await;
    joined.kill().await.unwrap();
}
