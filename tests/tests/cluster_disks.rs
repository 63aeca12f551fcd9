//! A server whose disk is full: what it cannot keep it refuses, everything that runs goes on, and so does the server once there is room.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wharf_tests::{Cluster, Guestbook, Load, Ran, SHORT, SmallDisk, eventually, workspace};

const DISK_MIB: u32 = 32;
/// Longer than a node may be silent, and than a singleton may run without an answer.
const SPAN: Duration = Duration::from_secs(12);
/// More configs than the whole disk has room for, and more entries than what these leave of it.
const WRITES_MAX: usize = 600;

/// Sets one config after the other until one is refused: what the database has of the disk has room for some.
async fn until_refused(cluster: &Cluster, acknowledged: &mut BTreeSet<String>) -> Ran {
    let value = "x".repeat(63 << 10);
    for number in 0..WRITES_MAX {
        let name = format!("c{number}");
        let ran = cluster.wharf(&["config", "set", &name, &value]).await;
        if ran.code != 0 {
            return ran;
        }
        acknowledged.insert(name);
    }
    panic!("{WRITES_MAX} configs have found room on a full disk");
}

/// The same with entries of the guestbook.
async fn until_not_signed(book: &Guestbook, entries: &mut BTreeSet<u64>) {
    for _ in 0..WRITES_MAX {
        match book.sign().await {
            Some(entry) => assert!(entries.insert(entry), "entry {entry} was acknowledged twice"),
            None => return,
        }
    }
    panic!("{WRITES_MAX} entries have found room on a full disk");
}

async fn all_is_kept(
    cluster: &Cluster,
    book: &Guestbook,
    configs: &BTreeSet<String>,
    entries: &BTreeSet<u64>,
) {
    let listed = cluster.wharf(&["config", "ls", "--json"]).await.ok();
    let lost: Vec<&String> = configs.iter().filter(|name| !listed.contains(&format!("\"{name}\""))).collect();
    assert!(lost.is_empty(), "the configs {lost:?} were acknowledged");
    let kept = eventually(SHORT, "the guestbook shows itself", async || book.entries().await).await;
    assert!(kept >= entries.len() as u64, "{kept} of {} acknowledged entries", entries.len());
}

/// Every front door serves, and nobody is taken for dead.
async fn goes_on(cluster: &Cluster, loads: &mut [Load]) {
    let began = Instant::now();
    while began.elapsed() < SPAN {
        for load in loads.iter_mut() {
            load.go_on_for(50).await;
        }
        let nodes = cluster.nodes().await;
        assert!(nodes.iter().all(|node| node.ready), "{nodes:?}");
    }
}

#[tokio::test]
async fn while_the_disk_of_a_server_is_full_it_refuses_what_is_new_and_all_that_runs_goes_on() {
    let disk = SmallDisk::mount(DISK_MIB).expect("the tests of a cluster take root");
    let mut cluster = Cluster::start_on(2, &disk).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    cluster.deploy("hello", "only", "[scale]\nsingleton = true\n").await;
    cluster.deploy("guestbook", "guestbook", Guestbook::MANIFEST).await;
    cluster.app_is("hello", "both serve", |app| app.ready == 2).await;
    let book = Guestbook::at(&cluster.hosts[0].apps);
    let (mut configs, mut entries) = (BTreeSet::new(), BTreeSet::new());
    entries.insert(eventually(SHORT, "the first entry is written", async || book.sign().await).await);

    let filler = disk.fill();
    until_refused(&cluster, &mut configs).await.fails(9, &["disk", "full", "make room"]);
    let mut loads =
        [cluster.load(0, "hello", "/"), cluster.load(1, "hello", "/"), cluster.load(0, "only", "/")];
    until_not_signed(&book, &mut entries).await;
    let file = workspace::guest("hello-plain");
    let pushed = cluster.wharf(&["deploy", file.to_str().unwrap(), "--app", "late"]).await;
    pushed.fails(9, &["disk", "full"]);
    let log = cluster.server_log(0);
    assert!(log.contains("the disk is full: a request was refused"), "{log}");
    goes_on(&cluster, &mut loads).await;
    let app = cluster.app("hello").await;
    assert_eq!((app.release, app.ready), (Some(1), 2), "it can still be looked at");

    std::fs::remove_file(&filler).unwrap();
    eventually(SHORT, "there is room for a config", async || {
        (cluster.wharf(&["config", "set", "room", "again"]).await.code == 0).then_some(())
    })
    .await;
    configs.insert("room".to_owned());
    entries.insert(eventually(SHORT, "and for an entry", async || book.sign().await).await);
    cluster.deploy("hello-plain", "late", "").await;
    cluster.wharf(&["scale", "hello", "3"]).await.ok();
    cluster.app_is("hello", "it is carried out", |app| app.ready == 3).await;
    for load in &mut loads {
        load.go_on_for(20).await;
    }
    for (load, what) in loads.into_iter().zip(["hello at 0", "hello at 1", "only"]) {
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "{what}, of {} requests", served.requests);
    }
    all_is_kept(&cluster, &book, &configs, &entries).await;

    cluster.kill_server(0).await;
    cluster.start_server(0).await;
    cluster.nodes_are("the workers have come back", |nodes| nodes.iter().all(|node| node.ready)).await;
    all_is_kept(&cluster, &book, &configs, &entries).await;
}
