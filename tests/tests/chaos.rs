//! Random faults, one every few seconds, under load and while things are changed: a singleton never runs twice meanwhile, and then
//! everything that was acknowledged is so.
//!
//! `CHAOS_SECONDS` says for how long (40 by default), `CHAOS_SEED` which course of faults, so that a loop can try many.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use wharf_tests::{
    Cluster, Guestbook, Postgres, Ran, SHORT, Stall, Watch, Weather, Wharf, eventually, seen_beside_another,
};
use wharf_types::api::AppInfo;

const SECONDS: u64 = 40;
const SEED: u64 = 1;
const SERVERS: usize = 2;
const HOSTS: usize = 3;
/// How long a command is waited for. What takes longer was not acknowledged.
const PATIENCE: Duration = Duration::from_secs(5);
/// A worker that goes on after it stood still ends its singletons within milliseconds, and on a busy machine within this.
const AWAKE: Duration = Duration::from_secs(1);
/// A command that listens, so that one can see where it runs.
const ONLY: &str = "[scale]\nsingleton = true\n[tcp]\nports = [7500]\n[env]\nGREETING = \"only\"\n";

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// `kill -9`, and started again.
    Worker(usize),
    /// The host's link is down.
    Link(usize),
    /// SIGSTOP.
    WorkerStall(usize),
    Server(usize),
    ServerStall(usize),
    Way(usize, Weather),
    Database,
}

/// Pseudo-random numbers after Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }

    /// The first host has the front door that is asked, so its own end is not among the faults.
    fn fault(&mut self) -> Fault {
        let host = 1 + self.index(HOSTS - 1);
        let server = self.index(SERVERS);
        let ways = [
            Weather::Slow(Duration::from_millis(150)),
            Weather::Lossy,
            Weather::Silent,
            Weather::SilentUp,
            Weather::SilentDown,
            Weather::Broken,
        ];
        match self.below(9) {
            0 => Fault::Worker(host),
            1 => Fault::Link(host),
            2 => Fault::WorkerStall(host),
            3 => Fault::Server(server),
            4 => Fault::ServerStall(server),
            5 => Fault::Database,
            _ => Fault::Way(server, ways[self.index(ways.len())]),
        }
    }
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn live(app: &AppInfo) -> usize {
    app.instances.iter().filter(|it| !it.state.is_final()).count()
}

/// What a command said, unless that takes too long.
async fn said(user: &Wharf, args: &[&str]) -> Option<Ran> {
    tokio::time::timeout(PATIENCE, user.run(args)).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_what_was_acknowledged_is_so_in_the_end() {
    let seed = from_env("CHAOS_SEED").unwrap_or(SEED);
    println!("CHAOS_SEED={seed}");
    let mut dice = Dice(seed);
    let mut database = Postgres::start();
    let mut cluster = Cluster::start_with_ways(HOSTS, SERVERS, Some(database.url())).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 3\n").await;
    // Nobody scales it, so the first host, which nothing happens to, always has some of it.
    cluster.deploy("hello", "steady", "[scale]\nreplicas = 6\n").await;
    cluster.deploy("echo-tcp", "only", ONLY).await;
    cluster.deploy("guestbook", "guestbook", Guestbook::MANIFEST).await;
    cluster.app_is("hello", "it is everywhere", |app| app.ready == 3).await;
    cluster.app_is("steady", "it is everywhere", |app| app.ready == 6).await;
    let mut load = cluster.load(0, "steady", "/");
    load.go_on_for(20).await;
    let book = Guestbook::at(&cluster.hosts[0].apps);
    let (watch, mut stalls) = (Watch::start(&cluster, "only from port"), Vec::new());

    let (mut users, mut host_faults) = (BTreeSet::new(), 0);
    let (mut configs, mut entries) = (BTreeSet::new(), BTreeSet::new());
    // What the number of replicas may be: the last that was acknowledged, and what was asked for after that.
    let mut replicas = BTreeSet::from([3]);
    let began = Instant::now();
    let span = Duration::from_secs(from_env("CHAOS_SECONDS").unwrap_or(SECONDS));
    while began.elapsed() < span {
        let fault = dice.fault();
        let lasts = Duration::from_millis(500 + dice.below(7500));
        println!("{:.1} s: {fault:?} for {lasts:?}", began.elapsed().as_secs_f64());
        let from = Instant::now();
        let mut asked = 0;
        match fault {
            Fault::Worker(host) => cluster.hosts[host].kill().await,
            Fault::Link(host) => cluster.hosts[host].is_cut_off(),
            Fault::WorkerStall(host) => cluster.hosts[host].signal(Signal::SIGSTOP),
            Fault::Server(server) => {
                cluster.kill_server(server).await;
                asked = 1 - server;
            }
            Fault::ServerStall(server) => {
                cluster.signal_server(server, Signal::SIGSTOP);
                asked = 1 - server;
            }
            Fault::Way(server, weather) => cluster.way(server, weather),
            Fault::Database => database.tell("kill"),
        }
        host_faults += u64::from(matches!(fault, Fault::Worker(_) | Fault::Link(_) | Fault::WorkerStall(_)));
        let mended_at = Instant::now() + lasts;
        while Instant::now() < mended_at {
            let user = cluster.user_at(asked);
            let (name, config) = (format!("u{}", users.len() + 1), format!("c{}", configs.len() + 1));
            let (added, set, entry) = tokio::join!(
                async { said(&user, &["user", "add", &name]).await },
                async { said(&user, &["config", "set", &config, &config]).await },
                book.sign()
            );
            if added.is_some_and(|ran| ran.code == 0 || ran.stderr.contains("already")) {
                users.insert(name);
            }
            if set.is_some_and(|ran| ran.code == 0) {
                configs.insert(config);
            }
            if let Some(entry) = entry {
                assert!(entries.insert(entry), "entry {entry} was acknowledged twice");
            }
            let wanted = 2 + dice.below(4);
            replicas.insert(wanted);
            let wish = wanted.to_string();
            if said(&user, &["scale", "hello", &wish]).await.is_some_and(|ran| ran.code == 0) {
                replicas = BTreeSet::from([wanted]);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        match fault {
            Fault::Worker(host) => cluster.start_again(host).await,
            Fault::Link(host) => cluster.hosts[host].is_connected(),
            Fault::WorkerStall(host) => {
                cluster.hosts[host].signal(Signal::SIGCONT);
                stalls.push(Stall { host, from, until: Instant::now() + AWAKE });
            }
            Fault::Server(server) => cluster.start_server(server).await,
            Fault::ServerStall(server) => cluster.signal_server(server, Signal::SIGCONT),
            Fault::Way(server, _) => cluster.way(server, Weather::Fair),
            Fault::Database => database.tell("start"),
        }
    }

    eventually(SHORT, "somebody leads, and every worker is there", async || {
        let nodes = cluster.wharf(&["node", "ls", "--json"]).await;
        let nodes: Value = serde_json::from_str(&nodes.stdout).ok()?;
        let nodes = nodes["items"].as_array()?;
        (nodes.len() == HOSTS && nodes.iter().all(|node| node["ready"] == true)).then_some(())
    })
    .await;
    let settled = cluster
        .app_is("hello", "it is as was wanted last", |app| {
            replicas.contains(&u64::from(app.ready)) && live(app) == app.ready as usize
        })
        .await;
    cluster.app_is("steady", "there are six", |app| app.ready == 6 && live(app) == 6).await;
    cluster.app_is("only", "there is one", |app| app.ready == 1 && live(app) == 1).await;
    let sights = watch.stop(&stalls);
    assert_eq!(seen_beside_another(&sights), None, "two ran at once");
    let guests: BTreeSet<(usize, u16)> = sights.iter().map(|sight| (sight.host, sight.port)).collect();
    assert!(!guests.is_empty(), "the singleton was seen nowhere");
    for (kind, acknowledged) in [("user", &users), ("config", &configs)] {
        let listed = cluster.wharf(&[kind, "ls", "--json"]).await.ok();
        let lost: Vec<&String> =
            acknowledged.iter().filter(|name| !listed.contains(&format!("\"{name}\""))).collect();
        assert!(lost.is_empty(), "{kind}: {lost:?} were acknowledged");
    }
    let kept = eventually(SHORT, "the guestbook shows itself", async || book.entries().await).await;
    assert!(kept >= entries.len() as u64, "{kept} of {} acknowledged entries", entries.len());
    load.go_on_for(20).await;
    let served = load.stop().await;
    println!(
        "{} users, {} configs, {} entries, {} singletons seen {} times, {} of {:?} replicas, {} requests, {} failed, {host_faults} faults of hosts",
        users.len(),
        configs.len(),
        entries.len(),
        guests.len(),
        sights.len(),
        settled.ready,
        replicas,
        served.requests,
        served.failures.len()
    );
    // One request after the other: each loss of a host may meet the one that is on its way.
    let few: Vec<&String> = served.failures.iter().take(10).collect();
    assert!(
        served.failures.len() as u64 <= host_faults,
        "{} of {} requests failed: {few:?}",
        served.failures.len(),
        served.requests
    );
}
