//! Views for tests, in a few words.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;
use wharf_types::api::Pause;
use wharf_types::node::{NodeRegistration, Reason, ReasonKind};
use wharf_types::quantity::Span;
use wharf_types::spec::{AppSpec, ReplicaRange, Replicas, UpdateSpec, VolumeSpec};
use wharf_types::state::{Health, InstanceState, Wanted};
use wharf_types::world::World;
use wharf_types::{
    AppId, Digest, InstanceId, NamespaceName, NodeId, ReleaseId, RolloutId, Timestamp, VolumeId,
};

use super::ids::CountingIds;
use super::scheduler::Cluster;
use super::view::after;
use super::{AppView, Change, Changes, InstanceView, Places, ReleaseView, RolloutView, VolumeView, plan};

pub(super) const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// A node as tests see it: what is free there beside the fixture's own app.
#[derive(Clone, Debug)]
pub(super) struct TestNode {
    pub(super) id: NodeId,
    pub(super) ready: bool,
    pub(super) memory_free_bytes: u64,
}

/// An app, its only node with plenty of memory, and the time. The node has id 1; release N has number and id N.
pub(super) struct Fixture {
    pub(super) app: AppView,
    pub(super) nodes: Vec<TestNode>,
    pub(super) now: Timestamp,
    releases: Vec<Arc<ReleaseView>>,
    /// What every release asks for that is made from now on.
    volumes: Vec<VolumeSpec>,
    singleton: bool,
    range: Option<ReplicaRange>,
    global: bool,
    last_id: u128,
}

pub(super) fn node(id: u128, free_mib: u64) -> TestNode {
    let id = NodeId::from_uuid(Uuid::from_u128(id));
    TestNode { id, ready: true, memory_free_bytes: free_mib << 20 }
}

pub(super) fn release_id(number: u64) -> ReleaseId {
    ReleaseId::from_uuid(Uuid::from_u128(number.into()))
}

pub(super) fn release(number: u64) -> ReleaseView {
    let routes = ["hello.default.localhost".to_owned(), format!("hello.example.com/r{number}")];
    ReleaseView {
        id: release_id(number),
        number,
        artifact: Digest::of(&number.to_le_bytes()),
        world: World::HttpProxy,
        spec: Arc::new(AppSpec::default()),
        secrets: Arc::default(),
        routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
    }
}

impl Fixture {
    /// An app without a release.
    pub(super) fn empty(replicas: u32) -> Self {
        let app = AppView {
            id: AppId::from_uuid(Uuid::from_u128(7)),
            namespace: NamespaceName::default_namespace(),
            name: "hello".parse().unwrap(),
            deleting: false,
            stopped: None,
            scaled_to: Some(replicas),
            autoscaled_to: None,
            places: Places::default(),
            target: None,
            stable: None,
            latest: None,
            rollout: None,
            volumes: Vec::new(),
            instances: Vec::new(),
            numbers: (1..100).map(|number| (release_id(number), number)).collect(),
            alone: BTreeSet::new(),
        };
        let now = after(Timestamp::UNIX_EPOCH, SECOND * 1000);
        Self {
            app,
            nodes: vec![node(1, 1 << 20)],
            now,
            releases: Vec::new(),
            volumes: Vec::new(),
            singleton: false,
            range: None,
            global: false,
            last_id: 1 << 64,
        }
    }

    /// Has every release that is made from now on be alone, or not.
    pub(super) fn ask_to_be_alone(&mut self, singleton: bool) {
        self.singleton = singleton;
    }

    /// Has every release that is made from now on ask for a volume.
    pub(super) fn ask_for_volume(&mut self, shared: bool) {
        let volume = format!(r#"{{"name": "data", "path": "/data", "shared": {shared}}}"#);
        self.volumes = vec![serde_json::from_str(&volume).unwrap()];
        let id = VolumeId::from_uuid(Uuid::from_u128(1 << 70));
        self.app.volumes = vec![VolumeView { id, name: "data".parse().unwrap(), node: None }];
    }

    /// Has open requests decide for every release that is made from now on, and in place of users.
    pub(super) fn ask_for_range(&mut self, min: u32, max: u32) {
        let (window, sleep_after) = (Span::from_secs(60), None);
        self.range = Some(ReplicaRange { min, max, concurrency: 10, window, sleep_after });
        self.app.scaled_to = None;
    }

    /// Has every release that is made from now on run on every node, or not.
    pub(super) fn ask_for_every_node(&mut self, global: bool) {
        self.global = global;
        self.app.scaled_to = None;
    }

    /// What the API writes when a release is made that asks for so many slots.
    pub(super) fn deploy_scaled(&mut self, number: u64, replicas: u32) {
        self.deploy_with(number, |release| {
            let mut spec = (*release.spec).clone();
            spec.scale.replicas = replicas.into();
            release.spec = spec.into();
        });
    }

    /// The same, and says how the rollout moves.
    pub(super) fn deploy_by(&mut self, number: u64, replicas: u32, update: UpdateSpec) {
        self.deploy_with(number, |release| {
            let mut spec = (*release.spec).clone();
            (spec.scale.replicas, spec.update) = (replicas.into(), update);
            release.spec = spec.into();
        });
    }

    /// What the API writes when somebody resumes the rollout.
    pub(super) fn resume(&mut self) {
        if let Some(rollout) = &mut self.app.rollout {
            rollout.paused = None;
        }
        self.begin_anew();
    }

    /// What the store does with a rollout that has stood still.
    pub(super) fn begin_anew(&mut self) {
        let now = self.now;
        if let Some(rollout) = &mut self.app.rollout {
            (rollout.progressed_at, rollout.judged_since) = (now, now);
            rollout.failed_slots.clear();
            rollout.canary = None;
            rollout.monitoring_since = rollout.monitoring_since.map(|_| now);
        }
    }

    pub(super) fn pause(&mut self) {
        let since = self.now;
        if let Some(rollout) = &mut self.app.rollout {
            rollout.paused.get_or_insert(Pause { since, by: Some("ann".into()) });
        }
    }

    pub(super) fn abort(&mut self) {
        if let Some(rollout) = self.app.rollout.as_mut().filter(|rollout| !rollout.automatic) {
            rollout.aborted_by = Some("ann".into());
        }
    }

    /// What the API writes when a restart is asked for.
    pub(super) fn restart(&mut self) {
        let number = self.app.target.as_ref().unwrap().number;
        self.deploy(number);
        self.app.rollout.as_mut().unwrap().renews = true;
    }

    /// An app all of whose slots serve `number`, with no rollout under way.
    pub(super) fn serving(number: u64, replicas: u32) -> Self {
        let mut fixture = Self::empty(replicas);
        fixture.app.target = Some(fixture.release(number, |_| {}));
        fixture.app.stable = fixture.app.target.clone();
        fixture.app.latest = fixture.app.target.clone();
        for slot in 0..replicas {
            let index = fixture.add(number, slot);
            fixture.make_ready(index);
        }
        fixture.now = after(fixture.now, SECOND);
        fixture
    }

    /// What the API writes when a release is made.
    pub(super) fn deploy(&mut self, number: u64) {
        self.deploy_with(number, |_| {});
    }

    pub(super) fn deploy_with(&mut self, number: u64, edit: impl FnOnce(&mut ReleaseView)) {
        let replicas = self.range.clone().map(Replicas::Range);
        let replicas = replicas.or(self.global.then_some(Replicas::GLOBAL));
        self.app.target = Some(self.release(number, |release| {
            edit(release);
            if let Some(replicas) = replicas {
                let mut spec = (*release.spec).clone();
                spec.scale.replicas = replicas;
                release.spec = spec.into();
            }
        }));
        self.app.latest = self.app.target.clone();
        if self.range.is_some() {
            self.app.autoscaled_to = Some(self.app.autoscaled_to.unwrap_or(1).max(1));
        }
        let id = RolloutId::from_uuid(Uuid::from_u128(u128::from(number) << 32));
        let from = self.app.stable.as_ref().map(|stable| stable.id);
        self.app.rollout = Some(Box::new(RolloutView::new(self.now, id, from, release_id(number))));
    }

    fn release(&mut self, number: u64, edit: impl FnOnce(&mut ReleaseView)) -> Arc<ReleaseView> {
        let known = self.releases.iter().find(|known| known.number == number);
        known.cloned().unwrap_or_else(|| {
            let mut made = release(number);
            let mut spec = (*made.spec).clone();
            spec.volumes.clone_from(&self.volumes);
            spec.scale.singleton = self.singleton;
            made.spec = Arc::new(spec);
            edit(&mut made);
            self.app.alone.extend(made.spec.scale.singleton.then_some(made.id));
            self.releases.push(Arc::new(made));
            self.releases[self.releases.len() - 1].clone()
        })
    }

    /// A fresh instance, as if planned now. Returns its index.
    pub(super) fn add(&mut self, number: u64, slot: u32) -> usize {
        self.last_id += 1;
        self.app.instances.push(InstanceView {
            id: InstanceId::from_uuid(Uuid::from_u128(self.last_id)),
            release: release_id(number),
            slot,
            node: Some(node(1, 0).id),
            wanted: Wanted::Run,
            state: InstanceState::Assigned,
            health: Health::Unknown,
            restarts: 0,
            reason: None,
            created_at: self.now,
            ended_at: None,
            replaced: false,
            was_healthy: false,
            let_go: false,
            routed: false,
            moves: false,
        });
        self.app.instances.len() - 1
    }

    pub(super) fn make_ready(&mut self, index: usize) {
        let instance = &mut self.app.instances[index];
        (instance.state, instance.health, instance.was_healthy) =
            (InstanceState::Running, Health::Healthy, true);
        instance.routed = true;
        instance.reason = None;
    }

    /// Makes everything of a release ready that still runs.
    pub(super) fn make_all_ready(&mut self, number: u64) {
        for index in 0..self.app.instances.len() {
            let instance = &self.app.instances[index];
            if instance.release == release_id(number) && !instance.state.is_final() {
                self.make_ready(index);
            }
        }
    }

    pub(super) fn fail(&mut self, index: usize, kind: ReasonKind, message: &str) {
        let instance = &mut self.app.instances[index];
        instance.state = InstanceState::Failed;
        instance.ended_at = Some(self.now);
        instance.reason = Some(Box::new(Reason { kind, message: message.to_owned() }));
    }

    pub(super) fn wait(&mut self, seconds: u32) {
        self.now = after(self.now, SECOND * seconds);
    }

    /// Plans, checks that a further plan has nothing to add, and carries the changes out.
    pub(super) fn plan(&mut self) -> Changes {
        let mut ids = CountingIds::starting_at(self.last_id);
        let mut cluster = self.cluster();
        let mut all = plan(self.now, &self.app, &mut cluster, &mut ids);
        let again = plan(self.now, &self.app, &mut cluster, &mut CountingIds::starting_at(self.last_id));
        assert_eq!(all, again, "the same input made another plan");
        self.carry_out(&all.changes);
        if all.wake_at == Some(self.now) {
            let rest = plan(self.now, &self.app, &mut self.cluster(), &mut ids);
            self.carry_out(&rest.changes);
            all.changes.extend(rest.changes);
            (all.wake_at, all.unplaced) = (rest.wake_at, rest.unplaced);
        }
        let more = plan(self.now, &self.app, &mut self.cluster(), &mut ids);
        assert_eq!(more.changes, [], "planning again changed more");
        self.last_id += 10_000;
        all
    }

    /// The nodes, named n1 and so on, with what the app has on them.
    pub(super) fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        let releases = [&self.app.target, &self.app.stable].into_iter().flatten().chain(&self.releases);
        let releases: Vec<_> = releases.collect();
        let held = |instance: &InstanceView| {
            let release = releases.iter().find(|release| release.id == instance.release)?;
            Some((instance.id, release.held(&self.app, instance)?))
        };
        for node in &self.nodes {
            let own = self.app.instances.iter().filter_map(held).filter(|(_, held)| held.node == node.id);
            let registration = NodeRegistration {
                hostname: format!("n{}", node.id.as_uuid().as_u128()),
                memory_bytes: node.memory_free_bytes
                    + own.map(|(_, held)| held.takes.memory_bytes).sum::<u64>(),
                cpus: 4,
                ..NodeRegistration::default()
            };
            cluster.set_node(node.id, &registration, node.ready);
        }
        for (id, held) in self.app.instances.iter().filter_map(held) {
            cluster.put(id, held);
        }
        cluster
    }

    /// Does what the store does with the changes.
    fn carry_out(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::SetWanted { instance, wanted } => {
                    let known = self.app.instances.iter().find(|known| known.id == *instance).unwrap();
                    assert!(known.wanted < *wanted, "wanted only grows");
                }
                Change::CreateInstance { node, release, slot, .. } => {
                    let memory = self.app.release(*release).unwrap().reservation_bytes();
                    let node = self.nodes.iter_mut().find(|known| known.id == *node).unwrap();
                    let free = node.memory_free_bytes.checked_sub(memory);
                    node.memory_free_bytes = free.expect("capacity is never exceeded");
                    assert!(node.ready, "nothing is placed on a node that is not ready");
                    let target = self.app.release(*release).unwrap();
                    assert!(!self.app.waits_for_a_writer(target), "there are never two writers");
                    let home = self.app.home(target);
                    assert!(home.is_none_or(|home| home == node.id), "an app goes to its volumes");
                    let own = self.app.node_of(target, *slot);
                    assert!(own.is_none_or(|own| own == node.id), "an instance goes to the node of its slot");
                }
                _ => {}
            }
            self.app.apply(self.now, change);
            let known = |id: ReleaseId| self.releases.iter().find(|known| known.id == id).cloned();
            match change {
                Change::SetTarget { release } => self.app.target = release.and_then(known),
                Change::SetStable { release } => self.app.stable = release.and_then(known),
                _ => {}
            }
        }
    }

    pub(super) fn instances(&self, number: u64) -> impl Iterator<Item = &InstanceView> {
        self.app.instances.iter().filter(move |instance| instance.release == release_id(number))
    }

    /// How many live instances of a release are wanted to run.
    pub(super) fn wanted(&self, number: u64) -> usize {
        self.instances(number).filter(|instance| instance.is_wanted()).count()
    }
}

/// The kinds of the events among some changes.
pub(super) fn events(changes: &Changes) -> Vec<&'static str> {
    changes
        .changes
        .iter()
        .filter_map(|change| if let Change::Event { kind, .. } = change { Some(*kind) } else { None })
        .collect()
}
