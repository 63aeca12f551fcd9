//! Random faults, one every few seconds, under load and while things are changed: a singleton never runs twice meanwhile, and then
//! everything that was acknowledged is so, every app answers at every front door, and nothing is left over.
//!
//! `CHAOS_SECONDS` says for how long (40 by default), `CHAOS_SEED` which course of faults, so that a loop can try many: what breaks, in
//! which order and for how long follows from it alone. Each fault and its cure is said with its time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use wharf_tests::{
    Beside, Cluster, Course, Dice, Fault, Guestbook, Load, Postgres, Ran, Role, SHORT, Served, SmallDisk,
    Stall, Step, Watch, Wharf, eventually, seen_beside_another,
};
use wharf_types::api::{AppInfo, NodeInfo, Page};

const SECONDS: u64 = 40;
/// There is time for about eight faults of fifteen: the first eight of this course have all that take more than one step.
const SEED: u64 = 1856;
const SERVERS: usize = 2;
const HOSTS: usize = 3;
/// Of each worker: several times what it keeps.
const DISK_MIB: u32 = 64;
/// How long a command is waited for. What takes longer was not acknowledged.
const PATIENCE: Duration = Duration::from_secs(5);
/// A worker that goes on after it stood still ends its singletons within milliseconds, and on a busy machine within this.
const AWAKE: Duration = Duration::from_secs(1);
/// Every host is looked at many times meanwhile.
const LOOK: Duration = Duration::from_secs(1);
/// A command that listens, so that one can see where it runs.
const ONLY: &str = "[scale]\nsingleton = true\n[tcp]\nports = [7500]\n[env]\nGREETING = \"only\"\n";
const ONLY_PORT: u16 = 7500;
const ONLY_SAYS: &str = "only from port";
/// Those that answer requests.
const APPS: [&str; 3] = ["hello", "steady", "guestbook"];

/// By the names of the apps.
type Loads = Vec<(&'static str, Load)>;

/// What faults are taken to.
struct Ground {
    // Before what its processes use.
    cluster: Cluster,
    database: Postgres,
    /// Of the hosts, in their order.
    disks: Vec<SmallDisk>,
}

impl Ground {
    async fn laid() -> Self {
        let database = Postgres::start();
        let disk = |_| SmallDisk::mount(DISK_MIB).expect("the tests of a cluster take root");
        let disks: Vec<SmallDisk> = (0..HOSTS).map(disk).collect();
        let cluster = Cluster::start_with_ways_on(&disks, SERVERS, Some(database.url())).await;
        cluster.deploy("hello", "hello", "[scale]\nreplicas = 3\n").await;
        // Nobody scales it, so wherever a host is lost another has some of it.
        cluster.deploy("hello", "steady", "[scale]\nreplicas = 6\n").await;
        cluster.deploy("echo-tcp", "only", ONLY).await;
        cluster.deploy("guestbook", "guestbook", Guestbook::MANIFEST).await;
        settles(&cluster, &BTreeSet::from([3])).await;
        all_answer(&cluster).await;
        Self { cluster, database, disks }
    }

    /// `asked`: the server that takes wishes.
    async fn take(&mut self, step: Step, asked: usize) {
        let Self { cluster, database, disks } = self;
        match step {
            Step::Kill(Role::Worker(host)) => cluster.hosts[host].kill().await,
            Step::Kill(Role::Server(server)) => cluster.kill_server(server).await,
            Step::Start(role, off_by) => {
                cluster.clock_is(off_by);
                match role {
                    Role::Worker(host) => cluster.start_again(host).await,
                    Role::Server(server) => cluster.start_server(server).await,
                }
                cluster.clock_is(None);
            }
            Step::Halt(role) => signal(cluster, role, Signal::SIGSTOP),
            Step::GoOn(role) => signal(cluster, role, Signal::SIGCONT),
            Step::Terminate(host) => cluster.hosts[host].signal(Signal::SIGTERM),
            Step::HasEnded(host) => cluster.hosts[host].has_ended().await,
            Step::CutOff(host) => cluster.hosts[host].is_cut_off(),
            Step::Connect(host) => cluster.hosts[host].is_connected(),
            Step::Fill(host) => {
                disks[host].fill();
            }
            Step::Free(host) => disks[host].free(),
            Step::Drain(host) => tell(cluster, asked, host, &["node", "drain", "--detach"]).await,
            Step::Resume(host) => tell(cluster, asked, host, &["node", "resume"]).await,
            Step::Way(server, weather) => cluster.way(server, weather),
            Step::KillDatabase => database.tell("kill"),
            Step::StartDatabase => database.tell("start"),
        }
    }

    /// Through the first front door. Where no host is lost, they are also on an app that is scaled all the time, to two replicas at least.
    fn loads(&self, fault: Fault) -> Loads {
        let is_calm = fault.is_planned() && fault.losses() == 0;
        loads(&self.cluster, if is_calm { &["steady", "hello"] } else { &["steady"] })
    }
}

fn loads(cluster: &Cluster, apps: &[&'static str]) -> Loads {
    apps.iter().map(|app| (*app, cluster.load(0, app, "/"))).collect()
}

fn signal(cluster: &Cluster, role: Role, signal: Signal) {
    match role {
        Role::Worker(host) => cluster.hosts[host].signal(signal),
        Role::Server(server) => cluster.signal_server(server, signal),
    }
}

/// Has something done to a host's node. Who leads may have to be found out first.
async fn tell(cluster: &Cluster, asked: usize, host: usize, what: &[&str]) {
    let node = cluster.hosts[host].node.to_string();
    let args = [what, &[node.as_str()]].concat();
    eventually(SHORT, &format!("`wharf {}` is accepted", args.join(" ")), async || {
        let ran = said(&cluster.user_at(asked), &args).await?;
        (ran.code == 0).then_some(())
    })
    .await;
}

/// What was asked for while things broke, and what of that was acknowledged.
struct Changes {
    dice: Dice,
    users: BTreeSet<String>,
    configs: BTreeSet<String>,
    entries: BTreeSet<u64>,
    /// What the number of replicas may be: the last that was acknowledged, and what was asked for after that.
    replicas: BTreeSet<u64>,
}

impl Changes {
    /// Has dice of its own: how often they are thrown is up to how fast things go.
    fn new(seed: u64) -> Self {
        let (users, configs, entries) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Self { dice: Dice::new(!seed), users, configs, entries, replicas: BTreeSet::from([3]) }
    }

    /// One of each.
    async fn go_on(&mut self, cluster: &Cluster, book: &Guestbook, asked: usize) {
        let user = cluster.user_at(asked);
        let (name, config) = (format!("u{}", self.users.len() + 1), format!("c{}", self.configs.len() + 1));
        let (added, set, entry) = tokio::join!(
            async { said(&user, &["user", "add", &name]).await },
            async { said(&user, &["config", "set", &config, &config]).await },
            book.sign()
        );
        if added.is_some_and(|ran| ran.code == 0 || ran.stderr.contains("already")) {
            self.users.insert(name);
        }
        if set.is_some_and(|ran| ran.code == 0) {
            self.configs.insert(config);
        }
        if let Some(entry) = entry {
            assert!(self.entries.insert(entry), "entry {entry} was acknowledged twice");
        }
        let wanted = 2 + self.dice.below(4);
        self.replicas.insert(wanted);
        let wish = wanted.to_string();
        if said(&user, &["scale", "hello", &wish]).await.is_some_and(|ran| ran.code == 0) {
            self.replicas = BTreeSet::from([wanted]);
        }
    }

    /// All that was acknowledged is there.
    async fn are_kept(&self, cluster: &Cluster, book: &Guestbook) {
        for (kind, acknowledged) in [("user", &self.users), ("config", &self.configs)] {
            let listed = cluster.wharf(&[kind, "ls", "--json"]).await.ok();
            let lost: Vec<&String> =
                acknowledged.iter().filter(|name| !listed.contains(&format!("\"{name}\""))).collect();
            assert!(lost.is_empty(), "{kind}: {lost:?} were acknowledged");
        }
        let kept = eventually(SHORT, "the guestbook shows itself", async || book.entries().await).await;
        assert!(kept >= self.entries.len() as u64, "{kept} of {} acknowledged entries", self.entries.len());
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
    timeout(PATIENCE, user.run(args)).await.ok()
}

async fn all_are_ready(cluster: &Cluster) {
    eventually(SHORT, "somebody leads, and every worker is there", async || {
        let listed = said(&cluster.user_at(0), &["node", "ls", "--json"]).await?;
        let nodes = serde_json::from_str::<Page<NodeInfo>>(&listed.stdout).ok()?.items;
        let is_there = |node: &NodeInfo| node.ready && !node.draining;
        (nodes.len() == HOSTS && nodes.iter().all(is_there)).then_some(())
    })
    .await;
}

/// Everything becomes what was wanted last, and hosts have nothing else.
async fn settles(cluster: &Cluster, replicas: &BTreeSet<u64>) -> AppInfo {
    all_are_ready(cluster).await;
    let hello = cluster
        .app_is("hello", "it is as was wanted last", |app| {
            replicas.contains(&u64::from(app.ready)) && live(app) == app.ready as usize
        })
        .await;
    for (app, count) in [("steady", 6), ("guestbook", 2), ("only", 1)] {
        let what = format!("there are {count} of {app}, and all are ready");
        cluster.app_is(app, &what, |info| info.ready == count && live(info) == count as usize).await;
    }
    eventually(SHORT, "no host has anything else", async || {
        let mut wanted = 0;
        for app in ["hello", "steady", "guestbook", "only"] {
            wanted += live(&cluster.app(app).await) as u64;
        }
        let have: u64 = cluster.nodes().await.iter().map(|node| node.instances).sum();
        (have == wanted).then_some(())
    })
    .await;
    hello
}

/// Every app, at every front door.
async fn all_answer(cluster: &Cluster) {
    for (number, host) in cluster.hosts.iter().enumerate() {
        for app in APPS {
            let hostname = format!("{app}.default.localhost");
            eventually(SHORT, &format!("{app} answers at the front door of host {number}"), async || {
                let reply = host.apps.get(&hostname, "/").await.ok()?;
                (reply.status == 200).then_some(())
            })
            .await;
        }
        let what = format!("the singleton greets at the front door of host {number}");
        eventually(SHORT, &what, async || greets(host.address).await).await;
    }
}

async fn greets(door: Ipv4Addr) -> Option<()> {
    let stream = timeout(PATIENCE, TcpStream::connect((door, ONLY_PORT))).await.ok()?.ok()?;
    let (mut stream, mut greeting) = (BufReader::new(stream), String::new());
    timeout(PATIENCE, stream.read_line(&mut greeting)).await.ok()?.ok()?;
    greeting.starts_with(ONLY_SAYS).then_some(())
}

/// With nothing else the matter, a host that was emptied has its share of all instances again.
async fn comes_back_in_balance(cluster: &Cluster, host: usize) {
    let id = cluster.hosts[host].node;
    let is_empty = |node: &NodeInfo| node.id == id && node.instances == 0;
    tell(cluster, 0, host, &["node", "drain", "--detach"]).await;
    cluster.nodes_are("the host is empty", |nodes| nodes.iter().any(is_empty)).await;
    tell(cluster, 0, host, &["node", "resume"]).await;
    let has_share = |nodes: &[NodeInfo]| {
        let all: u64 = nodes.iter().map(|node| node.instances).sum();
        nodes.iter().any(|node| node.id == id && node.instances >= all / HOSTS as u64)
    };
    cluster.nodes_are("the host has its share again", has_share).await;
}

/// Ends loads after a few more requests, and adds up what became of them.
async fn served_by(loads: Loads) -> Served {
    let mut all = Served::default();
    for (app, mut load) in loads {
        load.go_on_for(20).await;
        let served = load.stop().await;
        all.requests += served.requests;
        all.failures.extend(served.failures.into_iter().map(|failure| format!("{app}: {failure}")));
        all.slowest = all.slowest.max(served.slowest);
    }
    all
}

#[test]
fn the_usual_course_begins_with_all_faults_that_take_more_than_one_step() {
    let mut course = Course::new(SEED, HOSTS, SERVERS);
    let first: Vec<Fault> = (0..8).map(|_| course.turn().0).collect();
    let has = |is: fn(&Fault) -> bool| assert!(first.iter().any(is), "{first:?}");
    has(|fault| matches!(fault, Fault::Clock(Role::Worker(_), _)));
    has(|fault| matches!(fault, Fault::Clock(Role::Server(_), _)));
    has(|fault| matches!(fault, Fault::DiskFull(_)));
    has(|fault| matches!(fault, Fault::Left(_)));
    has(|fault| matches!(fault, Fault::Drained(_, Beside::Nothing)));
    has(|fault| matches!(fault, Fault::Drained(_, Beside::CutOff(_))));
    has(|fault| matches!(fault, Fault::Drained(_, Beside::ServerKilled(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_what_was_acknowledged_is_so_in_the_end() {
    let seed = from_env("CHAOS_SEED").unwrap_or(SEED);
    println!("CHAOS_SEED={seed}");
    let mut ground = Ground::laid().await;
    let book = Guestbook::at(&ground.cluster.hosts[0].apps);
    let (watch, mut stalls) = (Watch::start(&ground.cluster, ONLY_SAYS), Vec::new());
    let (mut course, mut changes) = (Course::new(seed, HOSTS, SERVERS), Changes::new(seed));
    let mut turns = Vec::new();
    let began = Instant::now();
    let time = || format!("{:.1} s", began.elapsed().as_secs_f64());
    let span = Duration::from_secs(from_env("CHAOS_SECONDS").unwrap_or(SECONDS));
    while began.elapsed() < span {
        let (fault, lasts) = course.turn();
        if fault.is_planned() {
            all_are_ready(&ground.cluster).await;
        }
        let (from, asked, loads) = (Instant::now(), fault.asked(SERVERS), ground.loads(fault));
        println!("{}: {fault:?} for {lasts:?}", time());
        for step in fault.strikes() {
            ground.take(step, asked).await;
        }
        let mended_at = Instant::now() + lasts;
        while Instant::now() < mended_at {
            changes.go_on(&ground.cluster, &book, asked).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for step in fault.cures() {
            println!("{}: {step:?}", time());
            ground.take(step, asked).await;
        }
        if let Fault::Halted(Role::Worker(host)) = fault {
            stalls.push(Stall { host, from, until: Instant::now() + AWAKE });
        }
        let served = served_by(loads).await;
        println!("{}: mended; {} of {} requests failed", time(), served.failures.len(), served.requests);
        turns.push((fault, served));
    }

    let cluster = &ground.cluster;
    settles(cluster, &changes.replicas).await;
    let calm = loads(cluster, &["steady", "hello"]);
    comes_back_in_balance(cluster, Dice::new(seed).index(HOSTS)).await;
    let settled = settles(cluster, &changes.replicas).await;
    all_answer(cluster).await;
    let calm_from = Instant::now();
    tokio::time::sleep(LOOK).await;
    let sights = watch.stop(&stalls);
    assert_eq!(seen_beside_another(&sights), None, "two ran at once");
    let last: BTreeSet<(usize, u16)> = sights
        .iter()
        .filter(|sight| sight.asked >= calm_from)
        .map(|sight| (sight.host, sight.port))
        .collect();
    assert_eq!(last.len(), 1, "one is to run in the end: {last:?}");
    changes.are_kept(cluster, &book).await;
    let calm = served_by(calm).await;
    assert_eq!(calm.failures, Vec::<String>::new(), "in the end, of {} requests", calm.requests);

    let guests: BTreeSet<(usize, u16)> = sights.iter().map(|sight| (sight.host, sight.port)).collect();
    println!(
        "{}: {} users, {} configs, {} entries, {} singletons seen {} times, {} of {:?} replicas, {} requests, {} failed, {} losses of hosts",
        time(),
        changes.users.len(),
        changes.configs.len(),
        changes.entries.len(),
        guests.len(),
        sights.len(),
        settled.ready,
        changes.replicas,
        calm.requests + turns.iter().map(|(_, served)| served.requests).sum::<u64>(),
        turns.iter().map(|(_, served)| served.failures.len()).sum::<usize>(),
        turns.iter().map(|(fault, _)| fault.losses()).sum::<usize>()
    );
    // One request after the other: each loss of a host may meet the one that is on its way, and nothing else does.
    for (fault, served) in &turns {
        let few: Vec<&String> = served.failures.iter().take(10).collect();
        assert!(
            served.failures.len() <= fault.losses(),
            "{fault:?}: {} of {} requests failed: {few:?}",
            served.failures.len(),
            served.requests
        );
    }
}
