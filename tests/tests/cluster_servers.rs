//! Several control planes on one PostgreSQL: one leads, another takes over, and nothing that was acknowledged is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use wharf_tests::{Cluster, Postgres, SHORT, eventually};
use wharf_types::NodeId;
use wharf_types::api::AppInfo;
use wharf_types::state::{Health, InstanceState};

/// What a host with the leader ran is elsewhere by then: two and a half seconds until another leads, three until the host is given up there,
/// and as much again for a machine with much else to do. Whoever would wait for the host as after a start would take twelve.
const REPLACED_WITHIN: Duration = Duration::from_secs(10);

/// The instances that serve, on others than this node.
fn serve_beside(app: &AppInfo, node: NodeId) -> usize {
    let serves = app.instances.iter().filter(|it| {
        (it.state, it.health) == (InstanceState::Running, Health::Healthy)
            && it.node.is_some_and(|its| its != node)
    });
    serves.count()
}

/// The instances that are on this node, as far as the control plane knows.
fn live_on(app: &AppInfo, node: NodeId) -> usize {
    app.instances.iter().filter(|it| !it.state.is_final() && it.node == Some(node)).count()
}

#[tokio::test]
async fn a_host_that_dies_with_the_leader_is_replaced_soon_and_its_singleton_only_when_it_must_have_ended() {
    let database = Postgres::start();
    let mut cluster = Cluster::start_with(3, 2, Some(database.url())).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 6\n").await;
    cluster.deploy("hello", "only", "[scale]\nsingleton = true\n").await;
    cluster.app_is("hello", "all six serve", |app| app.ready == 6).await;
    let only = cluster.app_is("only", "it serves", |app| app.ready == 1).await;
    let dead = only.instances.iter().find(|it| !it.state.is_final()).and_then(|it| it.node).unwrap();
    let host = cluster.hosts.iter().position(|host| host.node == dead).unwrap();

    cluster.hosts[host].kill().await;
    cluster.kill_server(0).await;
    let began = Instant::now();
    eventually(REPLACED_WITHIN, "what the host ran serves elsewhere", async || {
        let app = cluster.app("hello").await;
        (serve_beside(&app, dead) == 6).then_some(())
    })
    .await;
    println!("all served elsewhere after {:.2} s", began.elapsed().as_secs_f64());
    let elsewhere = |app: &AppInfo| {
        app.instances.iter().filter(|it| !it.state.is_final() && it.node != Some(dead)).count()
    };
    let only = cluster.app("only").await;
    // Another leads after a second and a half at the earliest, and counts ten from then.
    if began.elapsed() < Duration::from_secs(11) {
        assert_eq!(elsewhere(&only), 0, "the host might only be cut off: {only:?}");
    }
    cluster
        .app_is("only", "the singleton is elsewhere", |app| {
            assert!(elsewhere(app) <= 1, "{app:?}");
            serve_beside(app, dead) == 1
        })
        .await;
}

#[tokio::test]
async fn a_server_that_starts_again_gives_nothing_to_a_host_that_was_dead_before() {
    let mut cluster = Cluster::start(3).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 3\n").await;
    let dead = cluster.hosts[2].node;
    cluster.hosts[2].kill().await;
    let moved = |app: &AppInfo| live_on(app, dead) == 0 && serve_beside(app, dead) == 3;
    cluster.app_is("hello", "what the host ran serves elsewhere", moved).await;
    cluster.kill_server(0).await;
    let restarted = wharf_types::Timestamp::now();
    cluster.start_server(0).await;
    cluster.wharf(&["scale", "hello", "6"]).await.ok();
    cluster
        .app_is("hello", "all six serve", |app| {
            assert_eq!(live_on(app, dead), 0, "{app:?}");
            serve_beside(app, dead) == 6
        })
        .await;
    let nodes = cluster.nodes().await;
    let node = nodes.iter().find(|node| node.id == dead).unwrap();
    assert!(!node.ready && node.seen_at < restarted, "{node:?}");
}

#[tokio::test]
async fn when_the_leader_is_killed_another_leads_and_no_request_fails() {
    let database = Postgres::start();
    let mut cluster = Cluster::start_with(2, 2, Some(database.url())).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    let mut loads = [cluster.load(0, "hello", "/"), cluster.load(1, "hello", "/")];
    for load in &mut loads {
        load.go_on_for(20).await;
    }
    cluster.kill_server(0).await;
    let killed = Instant::now();
    // The other one takes it at once, and carries it out as soon as it leads.
    cluster.wharf(&["scale", "hello", "4"]).await.ok();
    println!(
        "the next change was accepted {:.2} s after the leader was killed",
        killed.elapsed().as_secs_f64()
    );
    cluster.app_is("hello", "what was wanted after the leader's death is so", |app| app.ready == 4).await;
    println!("and carried out after {:.2} s", killed.elapsed().as_secs_f64());
    cluster
        .nodes_are("the workers have come to the other", |nodes| nodes.iter().all(|node| node.ready))
        .await;
    cluster.start_server(0).await;
    for load in &mut loads {
        load.go_on_for(50).await;
    }
    let mut requests = 0;
    for load in loads {
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
        requests += served.requests;
    }
    println!("{requests} requests, none of which failed");
}

#[tokio::test]
async fn a_worker_that_joined_when_there_was_one_server_goes_to_one_that_came_later() {
    let database = Postgres::start();
    let mut cluster = Cluster::start_with(1, 1, Some(database.url())).await;
    cluster.deploy("hello", "hello", "").await;
    cluster.start_server(1).await;
    eventually(SHORT, "the worker knows of the other", async || {
        cluster.hosts[0].log().contains("looks for the control plane at").then_some(())
    })
    .await;
    cluster.kill_server(0).await;
    cluster.wharf(&["scale", "hello", "2"]).await.ok();
    cluster.app_is("hello", "the worker has gone to the other", |app| app.ready == 2).await;
    // It has kept that, and looks for nobody at the first place.
    cluster.hosts[0].kill().await;
    cluster.start_again(0).await;
    cluster.wharf(&["scale", "hello", "3"]).await.ok();
    cluster.app_is("hello", "it has gone there again", |app| app.ready == 3).await;
}

#[tokio::test]
async fn a_leader_that_stood_still_writes_nothing_when_it_goes_on() {
    let database = Postgres::start();
    let cluster = Cluster::start_with(2, 2, Some(database.url())).await;
    cluster.deploy("hello", "hello", "").await;
    cluster.signal_server(0, Signal::SIGSTOP);
    cluster.user_at(1).run(&["scale", "hello", "3"]).await.ok();
    let ready_at = async |server: usize, ready: u32| {
        eventually(SHORT, "so many are ready", async || {
            let app: wharf_types::api::AppInfo =
                cluster.user_at(server).run(&["status", "hello", "--json"]).await.json();
            (app.ready == ready).then_some(app)
        })
        .await
    };
    let before = ready_at(1, 3).await;
    cluster.signal_server(0, Signal::SIGCONT);
    cluster.user_at(0).run(&["scale", "hello", "2"]).await.ok();
    let after = ready_at(1, 2).await;
    let live = |app: &wharf_types::api::AppInfo| {
        app.instances.iter().filter(|it| !it.state.is_final()).map(|it| it.id).collect::<Vec<_>>()
    };
    let kept = live(&before);
    assert!(
        live(&after).iter().all(|id| kept.contains(id)),
        "two of the three are left, and none was made anew"
    );
    ready_at(0, 2).await;
}

#[tokio::test]
async fn without_the_database_apps_are_served_and_changes_wait() {
    let mut database = Postgres::start();
    let cluster = Cluster::start_with(2, 1, Some(database.url())).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    let mut load = cluster.load(0, "hello", "/");
    database.tell("kill");
    load.go_on_for(300).await;
    let refused = cluster.wharf(&["scale", "hello", "3"]).await;
    assert_ne!(refused.code, 0, "nothing is acknowledged that could be lost");
    database.tell("start");
    eventually(SHORT, "the change is taken", async || {
        (cluster.wharf(&["scale", "hello", "3"]).await.code == 0).then_some(())
    })
    .await;
    cluster.app_is("hello", "it is carried out", |app| app.ready == 3).await;
    load.go_on_for(20).await;
    let served = load.stop().await;
    assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
}

#[tokio::test]
async fn what_stood_in_the_folder_goes_on_in_postgres_while_apps_are_served() {
    let database = Postgres::start();
    let mut cluster = Cluster::start(2).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    let before = cluster.app_is("hello", "both serve", |app| app.ready == 2).await;
    let mut load = cluster.load(0, "hello", "/");
    load.go_on_for(20).await;
    cluster.stop_server(0).await;
    let (data, url) = (cluster.data(0), database.url());
    let moved = ["server", "migrate-store", "--data", data.to_str().unwrap(), "--database", &url];
    cluster.user().run(&moved).await.ok();
    cluster.moves_to(url);
    cluster.start_server(0).await;
    cluster.nodes_are("the workers have come back", |nodes| nodes.iter().all(|node| node.ready)).await;
    let after = cluster.app("hello").await;
    let live = |app: &wharf_types::api::AppInfo| {
        app.instances.iter().filter(|it| !it.state.is_final()).map(|it| it.id).collect::<BTreeSet<_>>()
    };
    assert_eq!((after.release, live(&after)), (before.release, live(&before)), "nothing was started anew");
    cluster.wharf(&["scale", "hello", "3"]).await.ok();
    cluster.app_is("hello", "what is wanted now is carried out", |app| app.ready == 3).await;
    load.go_on_for(20).await;
    let served = load.stop().await;
    assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
}

/// All rows of all tables, each table in an order of its own.
async fn everything(db: &mut PgConnection) -> Vec<(String, String)> {
    let tables =
        "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut *db).await.unwrap();
    let mut all = Vec::new();
    for table in tables {
        let rows = format!(
            "SELECT coalesce(string_agg(line, ' ' ORDER BY line), '') FROM (SELECT CAST(it AS TEXT) AS line FROM \"{table}\" AS it) AS lines"
        );
        let rows: String = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_one(&mut *db).await.unwrap();
        all.push((table, rows));
    }
    all
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_with_both_and_left_as_it_was() {
    let database = Postgres::start();
    let mut cluster = Cluster::start_with(1, 1, Some(database.url())).await;
    cluster.deploy("hello", "hello", "").await;
    let before = cluster.app_is("hello", "it serves", |app| app.ready == 1).await;
    let mut load = cluster.load(0, "hello", "/");
    cluster.stop_server(0).await;
    let (data, url) = (cluster.data(0), database.url());
    let mut db = PgConnection::connect(&url).await.unwrap();
    let newest: i64 =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&mut db).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', TRUE, '', 0)",
    )
    .execute(&mut db)
    .await
    .unwrap();

    let kept = everything(&mut db).await;
    assert!(kept.iter().any(|(table, rows)| table == "app" && rows.contains("hello")), "rows are read");
    let args = ["server", "--data", data.to_str().unwrap(), "--database", &url];
    let free = ["--api", "127.0.0.1:0", "--workers", "127.0.0.1:0"];
    let refused = cluster.user().run(&[args.as_slice(), &free].concat()).await;
    let knows = format!("has those up to {newest};");
    let words =
        ["written by a newer wharf", "has migration 9999", &knows, "use that version or another database"];
    refused.fails(1, &words);
    assert_eq!(everything(&mut db).await, kept);

    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 9999").execute(&mut db).await.unwrap();
    db.close().await.unwrap();
    cluster.start_server(0).await;
    cluster.nodes_are("the worker has come back", |nodes| nodes.iter().all(|node| node.ready)).await;
    let after = cluster.app_is("hello", "it serves", |app| app.ready == 1).await;
    assert_eq!(after.release, before.release);
    load.go_on_for(20).await;
    let served = load.stop().await;
    assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
}
