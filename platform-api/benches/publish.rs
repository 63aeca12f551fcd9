//! Measures what a change costs the control plane beside the database: `cargo bench -p wharf-platform-api --bench publish`.
//!
//! A thousand nodes, and 1,000, 10,000 and 100,000 apps of ten instances each, placed by the planner; every instance serves, and every app has a
//! route. A change is taken in, published, and written for each node that is told. A plain program and no harness, like the bench of the scheduler.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;
use wharf_platform_api::cores::{AppRows, Beside, Fleet, Next, NodeStatus, Nodes, Publisher, Settled};
use wharf_platform_api::plan::{
    AppView, InstanceView, Places, RandomIds, ReleaseView, alone, numbers, routes,
};
use wharf_types::node::NodeRegistration;
use wharf_types::spec::AppSpec;
use wharf_types::state::{Health, InstanceState};
use wharf_types::world::World;
use wharf_types::{AppId, Digest, InstanceId, NamespaceName, NodeId, ReleaseId, Timestamp};

const NODES: u32 = 1_000;
const REPLICAS: u32 = 10;
const MIB: u64 = 1 << 20;
/// Apps that the reconciler plans before the nodes are told.
const BATCH: usize = 64;
const CHANGES: u32 = 200;

/// Counts what is allocated, so that memory is what was asked for and not what pages were touched.
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
    println!("| What | figure | bar |\n|---|---|---|");
    for apps in [1_000, 10_000] {
        Bench::new(apps).changes();
    }
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut bench = Bench::new(100_000);
    let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
    bench.changes();
    let each = bytes as u64 / u64::from(bench.apps * REPLICAS);
    row("memory of all that is kept, of 1,000,000 instances", &format!("{each} B an instance"), "");
    bench.anew();
    bench.lost_node();
    full_pass(bench.apps);
}

/// What the reconciler keeps.
struct Bench {
    apps: u32,
    fleet: Fleet,
    publisher: Publisher,
    nodes: Nodes,
    statuses: Vec<NodeStatus>,
    settled: Settled,
    now: Timestamp,
}

impl Bench {
    fn new(apps: u32) -> Self {
        let nodes = Nodes::default();
        for number in 0..NODES {
            let registered = nodes.register_at(Instant::now(), node_id(number), registration(number));
            registered.expect("each is there once");
        }
        let mut bench = Self {
            apps,
            fleet: Fleet::default(),
            publisher: Publisher::new(1 << 32),
            statuses: (0..NODES).map(status).collect(),
            nodes,
            settled: Settled::default(),
            now: Timestamp::UNIX_EPOCH,
        };
        let start = Instant::now();
        bench.fleet.observe(&bench.statuses);
        for number in 0..apps {
            let (view, releases) = app(number);
            let id = view.id;
            bench.fleet.put(view, releases);
            bench.plan(id);
            bench.edit(number, |view| view.instances.iter_mut().for_each(serve));
            bench.settled.settle(id, i64::from(number));
        }
        let planned = start.elapsed();
        let start = Instant::now();
        bench.publish();
        let what = format!("{apps} apps from nothing: planning, then publishing");
        row(&what, &format!("{} + {}", millis(planned), millis(start.elapsed())), "");
        bench
    }

    /// Has an app planned until there is nothing left to do, as the reconciler does, but for what it writes and reads meanwhile.
    fn plan(&mut self, id: AppId) {
        loop {
            let changes = self.fleet.plan(self.now, id, &mut RandomIds).expect("it is there");
            if changes.changes.is_empty() {
                return;
            }
            let (view, releases) = self.fleet.get(id).expect("it is there");
            let (mut view, releases) = (view.clone(), releases.to_vec());
            changes.changes.iter().for_each(|change| view.apply(self.now, change));
            self.fleet.put(view, releases);
        }
    }

    fn edit(&mut self, number: u32, edit: impl FnOnce(&mut AppView)) {
        let (view, releases) = self.fleet.get(app_id(number)).expect("it is there");
        let (mut view, releases) = (view.clone(), releases.to_vec());
        edit(&mut view);
        self.fleet.put(view, releases);
    }

    /// Tells the nodes what has changed. Returns how many are told something.
    fn publish(&mut self) -> usize {
        let changed = self.fleet.take_changed();
        self.publisher.take_in(&self.fleet, changed);
        let doomed = BTreeMap::new();
        let beside = Beside { doomed: &doomed, rates: &[], removed: &[], secrets: &|_| None };
        let all = self.publisher.publish(&self.statuses, beside);
        let count = all.len();
        write(&all);
        self.nodes.publish(all);
        self.publisher.take_acknowledged(u64::MAX);
        count
    }

    fn changes(&mut self) {
        let apps = self.apps;
        self.change(&format!("one change of {apps} apps: how far an instance has got"), |view, turn| {
            view.instances[0].restarts = turn + 1;
        });
        self.change(&format!("… one that a node is told ({apps} apps)"), |view, turn| {
            // No route leads to what has only started.
            if turn == 0 {
                view.instances
                    .push(InstanceView { state: InstanceState::Assigned, ..view.instances[0].clone() });
            }
            let added = view.instances.last_mut().expect("it was added");
            added.id = InstanceId::from_uuid(uuid_of(3, turn));
            added.health = Health::Unknown;
        });
        self.change(&format!("… one of routes, which all nodes are told ({apps} apps)"), |view, turn| {
            view.instances[1].health =
                if turn.is_multiple_of(2) { Health::Unhealthy } else { Health::Healthy };
        });
    }

    /// Changes one app again and again.
    fn change(&mut self, what: &str, edit: impl Fn(&mut AppView, u32)) {
        let number = self.apps / 2;
        let mut times = Vec::new();
        let mut told = 0;
        for turn in 0..CHANGES {
            let start = Instant::now();
            self.edit(number, |view| edit(view, turn));
            told += self.publish();
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let worst = micros(times[times.len() * 99 / 100]);
        let figure = format!(
            "{}, p99 {worst}, {} nodes told",
            micros(times[times.len() / 2]),
            told / CHANGES as usize
        );
        row(what, &figure, "");
    }

    /// What each change had cost before at the least.
    fn anew(&self) {
        let start = Instant::now();
        black_box(routes::build(1, self.fleet.views()));
        row("building the route table of all apps anew, for comparison", &millis(start.elapsed()), "");
    }

    /// From the moment at which a node is given up: who is concerned, plans for all of them, and publishing, in the batches of the reconciler.
    fn lost_node(&mut self) {
        let lost = 17;
        let there = self.fleet.cluster().instances_on(node_id(lost)).len();
        let status = &mut self.statuses[lost as usize];
        (status.ready, status.given_up) = (false, true);
        let start = Instant::now();
        let apps: Vec<AppId> = self.fleet.observe(&self.statuses).into_iter().flatten().collect();
        let mut planning = Duration::ZERO;
        for batch in apps.chunks(BATCH) {
            let planned = Instant::now();
            batch.iter().for_each(|app| self.plan(*app));
            planning += planned.elapsed();
            self.publish();
        }
        let took = start.elapsed();
        let what =
            format!("losing a node with {there} instances of {} apps: planning and publishing", apps.len());
        let figure = format!("{}, {} of it planning", millis(took), millis(planning));
        row(&what, &figure, "");
    }
}

/// What a follower of each node is sent.
fn write(all: &[Next]) {
    let mut routes: Option<(u64, Vec<u8>)> = None;
    for delta in all.iter().filter_map(|next| next.delta.as_ref()) {
        if let Some(changed) = &delta.routes
            && routes.as_ref().is_none_or(|(generation, _)| *generation != changed.generation)
        {
            let json = serde_json::to_vec(&**changed).expect("routes can be written");
            routes = Some((changed.generation, json));
        }
        black_box(delta.line_before_routes(delta.routes.is_some()).expect("it can be written"));
    }
    black_box(routes);
}

/// Nothing has changed in a database with all these apps.
fn full_pass(apps: u32) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    runtime.block_on(async {
        let rows = AppRows::create(&dir.path().join("wharf.db"), apps).await.expect("a database");
        let mut settled = Settled::default();
        for (app, revision) in rows.revisions().await.expect("it can be read") {
            settled.settle(app, revision);
        }
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            let stored = rows.revisions().await.expect("it can be read");
            assert!(settled.others(&stored).is_empty(), "nothing has changed");
            times.push(start.elapsed());
        }
        let what = format!("a full pass over {} instances with nothing to do, median", apps * REPLICAS);
        row(&what, &millis(median(times)), "< 1 s");
    });
}

/// An app whose only release has been in service for long, and none of whose instances is placed yet.
fn app(number: u32) -> (AppView, Vec<Arc<ReleaseView>>) {
    let mut spec = AppSpec::default();
    spec.scale.replicas = REPLICAS.into();
    let route = format!("app-{number}.default.example.com/").parse().expect("it is a route");
    let release = Arc::new(ReleaseView {
        id: ReleaseId::from_uuid(uuid_of(2, number)),
        number: 1,
        artifact: Digest::of(&number.to_le_bytes()),
        world: World::HttpProxy,
        spec: Arc::new(spec),
        secrets: Arc::default(),
        routes: vec![route],
    });
    let releases = vec![release.clone()];
    let view = AppView {
        id: app_id(number),
        namespace: NamespaceName::default_namespace(),
        name: format!("app-{number}").parse().expect("it is a name"),
        deleting: false,
        stopped: None,
        scaled_to: None,
        autoscaled_to: None,
        places: Places::default(),
        target: Some(release.clone()),
        stable: Some(release.clone()),
        latest: Some(release.clone()),
        rollout: None,
        volumes: Vec::new(),
        instances: Vec::new(),
        numbers: numbers(&releases),
        alone: alone(&releases),
    };
    (view, releases)
}

fn serve(instance: &mut InstanceView) {
    (instance.state, instance.health) = (InstanceState::Running, Health::Healthy);
    (instance.was_healthy, instance.routed) = (true, true);
}

fn status(number: u32) -> NodeStatus {
    NodeStatus::ready(node_id(number), registration(number))
}

fn registration(number: u32) -> NodeRegistration {
    NodeRegistration {
        hostname: format!("node-{number}"),
        memory_bytes: 65_536 * MIB,
        cpus: 16,
        version: "0.1.0".to_owned(),
        labels: [("zone".to_owned(), format!("zone-{}", number % 3))].into(),
        os: "linux".to_owned(),
        arch: "x86_64".to_owned(),
        role: "worker".to_owned(),
        address: Some(([10, 0, (number / 250) as u8, (number % 250) as u8], 7072).into()),
        ..NodeRegistration::default()
    }
}

fn uuid_of(kind: u128, number: u32) -> Uuid {
    Uuid::from_u128((kind << 64) | (u128::from(number) + 1))
}

fn node_id(number: u32) -> NodeId {
    NodeId::from_uuid(uuid_of(1, number))
}

fn app_id(number: u32) -> AppId {
    AppId::from_uuid(uuid_of(4, number))
}

fn row(what: &str, figure: &str, bar: &str) {
    println!("| {what} | {figure} | {bar} |");
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
