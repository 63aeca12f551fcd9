//! Measures the scheduler at 10,000 nodes and 1,000,000 instances: `cargo bench -p wharf-platform-api --bench scheduler`.
//!
//! Constraints and spread are on everywhere. A plain program and no harness, because what is promised are rates, a high percentile
//! and memory, of one large state that takes seconds to build. The state and the order of events are the same in every run.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;
use wharf_platform_api::plan::scheduler::{Ask, Cluster, Held, Needs, Placed, Resources};
use wharf_types::node::NodeRegistration;
use wharf_types::spec::{PlacementSpec, Priority};
use wharf_types::{AppId, InstanceId, NodeId, Timestamp};

const NODES: u32 = 10_000;
const APPS: u32 = 10_000;
const REPLICAS: u32 = 100;
const MIB: u64 = 1 << 20;

/// Counts what is allocated, so that the memory of the index is what it asked for and not what pages it touched.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; the counter is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let mut bench = Bench::default();
    for number in 0..NODES {
        bench.cluster.set_node(node_id(number), &registration(number), true);
    }
    println!("| What | figure | bar |\n|---|---|---|");
    bench.fill();
    bench.new_apps();
    bench.single_decisions();
    bench.lost_node();
    bench.refusals();
    bench.preemptions();
}

#[derive(Default)]
struct Bench {
    cluster: Cluster,
    /// By the position of an app: where its instances are.
    placed: Vec<Vec<InstanceId>>,
    last: u128,
    random: Random,
}

impl Bench {
    /// From nothing to a million, each app in one round, and everything taken into the index.
    fn fill(&mut self) {
        let before = ALLOCATED.load(Ordering::Relaxed);
        let start = Instant::now();
        for app in 0..APPS {
            let placed = self.place(app, REPLICAS);
            self.placed.push(placed);
        }
        let took = start.elapsed();
        let count = u64::from(APPS) * u64::from(REPLICAS);
        let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
        row("placements/s from nothing to 1,000,000, with taking them in", rate(count, took), "");
        row("memory of the index", format!("{} B an instance", bytes as u64 / count), "< 1 kB");
    }

    /// Deploys of apps of a hundred instances each, at the full size.
    fn new_apps(&mut self) {
        let start = Instant::now();
        let all: Vec<_> = (APPS..APPS + 1000).map(|app| self.place(app, REPLICAS)).collect();
        let took = start.elapsed();
        row("placements/s at 1,000,000 instances, with taking them in", rate(100_000, took), "100,000");
        for id in all.into_iter().flatten() {
            self.cluster.remove(id);
        }
    }

    /// One instance of some app ends, and one is placed anew, each in a round of its own.
    fn single_decisions(&mut self) {
        let mut times = Vec::new();
        let start = Instant::now();
        for _ in 0..100_000 {
            let app = self.random.below(APPS);
            let at = self.random.below(REPLICAS) as usize;
            self.cluster.remove(self.placed[app as usize][at]);
            let decision = Instant::now();
            let node = self.decide(app);
            times.push(decision.elapsed());
            self.placed[app as usize][at] = self.take_in(app, node);
        }
        let took = start.elapsed();
        times.sort_unstable();
        let at = |share: f64| micros(times[((times.len() - 1) as f64 * share) as usize]);
        row("one decision, p50", at(0.5), "");
        row("… p99", at(0.99), "< 50 µs");
        row("… p99.9", at(0.999), "");
        row("ended, decided and taken in one by one, per second", rate(100_000, took), "");
    }

    /// A node with an instance each of a thousand apps is lost, and all of them are placed elsewhere.
    fn lost_node(&mut self) {
        let node = node_id(17);
        let lost: Vec<(u32, InstanceId)> =
            (0..1000).map(|number| number * 7).map(|app| (app, self.take_in(app, node))).collect();
        let start = Instant::now();
        self.cluster.remove_node(node);
        let mut nodes = Vec::new();
        for (app, id) in lost {
            self.cluster.remove(id);
            let node = self.decide(app);
            nodes.push((app, node));
            self.take_in(app, node);
        }
        let took = start.elapsed();
        black_box(nodes);
        self.cluster.set_node(node, &registration(17), true);
        row("losing a node with 1,000 instances of 1,000 apps: plan for all", millis(took), "< 50 ms");
    }

    /// What no node can take, with the reasons why.
    fn refusals(&mut self) {
        let placement = PlacementSpec {
            constraints: vec!["node.labels.disk == ssd".into(), "node.cpus >= 64".into()],
            ..placement(0)
        };
        let times: Vec<Duration> = (0..20)
            .map(|_| {
                let start = Instant::now();
                let ask = Ask { placement: &placement, ..ask(&placement) };
                black_box(
                    self.cluster.round(app_id(1), ask).place().expect_err("no node has so many processors"),
                );
                start.elapsed()
            })
            .collect();
        row("refusing and explaining it over all nodes, median", millis(median(times)), "");
    }

    /// What fits only when others leave.
    fn preemptions(&mut self) {
        let mut placement = placement(0);
        placement.priority = Priority::High;
        let takes = Resources { memory_bytes: 60 << 30, cpu_millis: 0 };
        let ask = Ask { takes, ..ask(&placement) };
        let times: Vec<Duration> = (0..20)
            .map(|_| {
                let start = Instant::now();
                let placed = self.cluster.round(app_id(1), ask).place().expect("the others can leave");
                assert!(matches!(&placed, Placed::After(_, victims) if !victims.is_empty()), "{placed:?}");
                start.elapsed()
            })
            .collect();
        row("finding who has to leave for a higher priority, median", millis(median(times)), "");
    }

    /// Places so many instances of an app in one round and takes them in.
    fn place(&mut self, app: u32, count: u32) -> Vec<InstanceId> {
        let placement = placement(app);
        let nodes: Vec<NodeId> = {
            let mut round = self.cluster.round(app_id(app), ask(&placement));
            (0..count).map(|_| node_of(round.place())).collect()
        };
        nodes.into_iter().map(|node| self.take_in(app, node)).collect()
    }

    fn decide(&mut self, app: u32) -> NodeId {
        let placement = placement(app);
        node_of(self.cluster.round(app_id(app), ask(&placement)).place())
    }

    fn take_in(&mut self, app: u32, node: NodeId) -> InstanceId {
        self.last += 1;
        let id = InstanceId::from_uuid(Uuid::from_u128(self.last));
        let held = Held {
            app: app_id(app),
            node,
            takes: ask(&placement(app)).takes,
            priority: placement(app).priority,
            created_at: Timestamp::UNIX_EPOCH,
            leaving: false,
        };
        self.cluster.put(id, held);
        id
    }
}

fn node_of(placed: Result<Placed, impl std::fmt::Debug>) -> NodeId {
    match placed {
        Ok(Placed::On(node)) => node,
        other => panic!("there is room for all of them: {other:?}"),
    }
}

/// Three zones of twenty racks; two kinds of processors and of disks. The hostname is one of a kind, and so is a label.
fn registration(number: u32) -> NodeRegistration {
    let labels = [
        ("zone", format!("zone-{}", number % 3)),
        ("rack", format!("rack-{}", number / 3 % 20)),
        ("disk", ["ssd", "hdd"][(number / 60 % 2) as usize].to_owned()),
        ("serial", format!("{number:08}")),
    ];
    NodeRegistration {
        hostname: format!("node-{number}"),
        memory_bytes: 65_536 * MIB + u64::from(number % 97) * MIB,
        cpus: [16, 32][(number / 120 % 2) as usize],
        version: "0.1.0".to_owned(),
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
        os: "linux".to_owned(),
        arch: ["x86_64", "aarch64"][(number / 240 % 2) as usize].to_owned(),
        role: "worker".to_owned(),
        ..NodeRegistration::default()
    }
}

/// One of eight kinds of placement, each with constraints and spread.
fn placement(app: u32) -> PlacementSpec {
    let constraints: &[&str] = [
        &["node.platform.arch == x86_64", "node.labels.disk == ssd"][..],
        &["node.labels.zone in (zone-0, zone-1)", "node.cpus >= 16"],
        &["node.labels.disk != floppy", "node.hostname != node-5"],
        &["node.cpus > 16", "node.role == worker"],
    ][app as usize % 4];
    let spread: &[&str] = [&["zone"][..], &["zone", "rack"]][app as usize / 4 % 2];
    PlacementSpec {
        constraints: constraints.iter().map(ToString::to_string).collect(),
        spread: spread.iter().map(ToString::to_string).collect(),
        max_per_node: None,
        priority: if app.is_multiple_of(10) { Priority::Low } else { Priority::Normal },
    }
}

fn ask(placement: &PlacementSpec) -> Ask<'_> {
    let takes = Resources { memory_bytes: 128 * MIB, cpu_millis: 10 };
    Ask { takes, placement, needs: Needs::Nothing, pinned: None, warm: &[], failing: &[] }
}

fn node_id(number: u32) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(u128::from(number) + 1))
}

fn app_id(number: u32) -> AppId {
    AppId::from_uuid(Uuid::from_u128(u128::from(number) + 1))
}

/// The same numbers in every run.
struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(end)) as u32
    }
}

fn row(what: &str, figure: String, bar: &str) {
    println!("| {what} | {figure} | {bar} |");
}

fn rate(count: u64, took: Duration) -> String {
    format!("{:.0}", count as f64 / took.as_secs_f64())
}

fn micros(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
