//! What is published change by change, beside what looking at everything makes of it: they must always agree, and so must whoever follows.

use proptest::prelude::*;
use uuid::Uuid;
use wharf_types::job::{JobSpec, JobState};
use wharf_types::node::{Assignment, NodeRegistration};
use wharf_types::secret::SecretContent;
use wharf_types::spec::AppSpec;
use wharf_types::state::{Health, InstanceState, Wanted};
use wharf_types::world::World;
use wharf_types::{Digest, NamespaceName, Timestamp};

use super::*;
use crate::plan::job::CommandView;
use crate::plan::{Places, alone, numbers};

const APPS: u8 = 5;
const NODES: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    App { number: u8, release: u8, deleting: bool, instances: BTreeMap<u8, Instance> },
    AppGoes(u8),
    Job { number: u8, runs: BTreeMap<u8, bool> },
    JobGoes(u8),
    Nodes(BTreeSet<u8>),
    GivenUp(u8),
    Doomed(BTreeSet<u8>),
    Limited(bool),
    Publish,
}

#[derive(Clone, Debug)]
struct Instance {
    release: u8,
    wanted: u8,
    state: u8,
    is_healthy: bool,
}

fn any_step() -> impl Strategy<Value = Step> {
    let instance = (0..3u8, 0..3u8, 0..4u8, any::<bool>())
        .prop_map(|(release, wanted, state, is_healthy)| Instance { release, wanted, state, is_healthy });
    let instances = proptest::collection::btree_map(0..6u8, instance, 0..6);
    let app = (0..APPS, 0..4u8, proptest::bool::weighted(0.1), instances);
    let runs = proptest::collection::btree_map(0..4u8, any::<bool>(), 0..4);
    let nodes = || proptest::collection::btree_set(0..NODES, 0..usize::from(NODES));
    prop_oneof![
        8 => app.prop_map(|(number, release, deleting, instances)| Step::App { number, release, deleting, instances }),
        1 => (0..APPS).prop_map(Step::AppGoes),
        2 => (0..2u8, runs).prop_map(|(number, runs)| Step::Job { number, runs }),
        1 => (0..2u8).prop_map(Step::JobGoes),
        1 => nodes().prop_map(Step::Nodes),
        1 => (0..NODES).prop_map(Step::GivenUp),
        1 => nodes().prop_map(Step::Doomed),
        1 => any::<bool>().prop_map(Step::Limited),
        8 => Just(Step::Publish),
    ]
}

fn id(kind: u128, number: u8) -> Uuid {
    Uuid::from_u128((kind << 64) | (u128::from(number) + 1))
}

fn node(number: u8) -> NodeId {
    // Ids do not come in the order of the numbers.
    NodeId::from_uuid(id(1, number * 5 % 7))
}

fn app_id(number: u8) -> AppId {
    AppId::from_uuid(id(2, number))
}

fn job_id(number: u8) -> JobId {
    JobId::from_uuid(id(3, number))
}

/// Every two apps claim a pattern, a port and a secret together. The last release is a container's, and of the one before there is only one.
fn release(app: u8, number: u8) -> Arc<ReleaseView> {
    let mut spec = AppSpec::default();
    spec.tcp.ports = vec![7000 + u16::from(app % 2)];
    spec.scale.singleton = number == 2;
    let routes = [format!("shared-{}.example.com/", (app + number) % 3), format!("app-{app}.example.com/")];
    let secret = SecretVersionId::from_uuid(id(4, (app + number) % 4));
    let is_container = number == 3;
    Arc::new(ReleaseView {
        id: ReleaseId::from_uuid(id(5, app * 8 + number)),
        number: number.into(),
        artifact: Digest::of(&[app, number]),
        world: if is_container { World::Container } else { World::HttpProxy },
        spec: Arc::new(spec),
        secrets: Arc::new(BTreeMap::from([("KEY".to_owned(), secret)])),
        routes: routes.iter().filter(|_| !is_container).map(|route| route.parse().unwrap()).collect(),
    })
}

fn instance_view(app: u8, number: u8, instance: &Instance) -> InstanceView {
    InstanceView {
        // One never changes its release.
        id: InstanceId::from_uuid(id(60 + u128::from(instance.release), app * 16 + number)),
        release: release(app, instance.release).id,
        slot: number.into(),
        // One in five is nowhere yet.
        node: (number % (NODES + 1) < NODES).then(|| node(number % (NODES + 1))),
        wanted: [Wanted::Run, Wanted::Unroute, Wanted::Stop][usize::from(instance.wanted)],
        state: [
            InstanceState::Assigned,
            InstanceState::Running,
            InstanceState::Running,
            InstanceState::Failed,
        ][usize::from(instance.state)],
        health: if instance.is_healthy { Health::Healthy } else { Health::Unknown },
        restarts: 0,
        reason: None,
        created_at: Timestamp::UNIX_EPOCH,
        ended_at: None,
        replaced: false,
        was_healthy: false,
        let_go: false,
        routed: false,
        moves: false,
    }
}

/// Of the third release of an app nothing more is known than its instances.
fn app_view(
    number: u8,
    target: u8,
    deleting: bool,
    instances: &BTreeMap<u8, Instance>,
) -> (AppView, Vec<Arc<ReleaseView>>) {
    let known = [0, 1, 3].map(|known| release(number, known));
    let target = release(number, target);
    let mut releases: Vec<_> = known.into_iter().chain([target.clone()]).collect();
    releases.sort_by_key(|release| release.id);
    releases.dedup_by_key(|release| release.id);
    let view = AppView {
        id: app_id(number),
        namespace: NamespaceName::default_namespace(),
        name: format!("app-{number}").parse().unwrap(),
        deleting,
        stopped: None,
        scaled_to: Some(6),
        autoscaled_to: None,
        places: Places::default(),
        stable: Some(target.clone()),
        latest: Some(target.clone()),
        target: Some(target),
        rollout: None,
        volumes: Vec::new(),
        instances: instances.iter().map(|(slot, it)| instance_view(number, *slot, it)).collect(),
        numbers: numbers(&releases),
        alone: alone(&releases),
    };
    (view, releases)
}

fn job_view(number: u8, runs: &BTreeMap<u8, bool>) -> JobView {
    let command = CommandView {
        artifact: Digest::of(b"job"),
        world: World::CommandP2,
        spec: Arc::default(),
        secrets: Arc::new(BTreeMap::from([("KEY".to_owned(), SecretVersionId::from_uuid(id(4, number)))])),
        app: "job".parse().unwrap(),
        release: 0,
    };
    let run = |(run, is_live): (&u8, &bool)| RunView {
        id: InstanceId::from_uuid(id(7, number * 8 + run)),
        index: u32::from(*run),
        attempt: 1,
        node: node(run % NODES),
        state: if *is_live { InstanceState::Running } else { InstanceState::Stopped },
        stop: None,
        exit_code: None,
        reason: None,
        created_at: Timestamp::UNIX_EPOCH,
        started_at: None,
        ended_at: None,
    };
    JobView {
        id: job_id(number),
        namespace: NamespaceName::default_namespace(),
        name: "job".parse().unwrap(),
        scheduled: false,
        spec: Arc::new(JobSpec::default()),
        command: Arc::new(command),
        state: JobState::Running,
        ending: None,
        created_at: Timestamp::UNIX_EPOCH,
        ended_at: None,
        expires_at: None,
        runs: runs.iter().map(run).collect(),
    }
}

fn status(number: u8, given_up: bool) -> NodeStatus {
    let address = Some(std::net::SocketAddr::from(([10, 0, 0, number], 7072)));
    let registration = NodeRegistration { address, ..NodeRegistration::default() };
    let is_there = !given_up;
    NodeStatus {
        ready: is_there,
        takes_more: is_there,
        given_up,
        ..NodeStatus::ready(node(number), registration)
    }
}

fn open(id: SecretVersionId) -> Option<DeliveredSecret> {
    Some(DeliveredSecret { id, content: SecretContent::Unreadable("it is a test".to_owned()) })
}

/// The reconciler around a publisher, and workers that follow it.
struct Trial {
    fleet: Fleet,
    jobs: HashMap<JobId, JobView>,
    changed_jobs: BTreeSet<JobId>,
    publisher: Publisher,
    nodes: BTreeMap<NodeId, NodeStatus>,
    doomed: BTreeMap<NodeId, Vec<VolumeId>>,
    rates: Vec<RateLimit>,
    followers: BTreeMap<NodeId, Assignment>,
}

impl Trial {
    fn new() -> Self {
        Self {
            fleet: Fleet::default(),
            jobs: HashMap::new(),
            changed_jobs: BTreeSet::new(),
            publisher: Publisher::new(1 << 32),
            nodes: (0..NODES).map(|number| (node(number), status(number, false))).collect(),
            doomed: BTreeMap::new(),
            rates: Vec::new(),
            followers: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::App { number, release, deleting, instances } => {
                let (view, releases) = app_view(number, release, deleting, &instances);
                self.fleet.put(view, releases);
            }
            Step::AppGoes(number) => self.fleet.remove(app_id(number)),
            Step::Job { number, runs } => {
                self.jobs.insert(job_id(number), job_view(number, &runs));
                self.changed_jobs.insert(job_id(number));
            }
            Step::JobGoes(number) => {
                self.jobs.remove(&job_id(number));
                self.changed_jobs.insert(job_id(number));
            }
            Step::Nodes(there) => {
                self.nodes = there.into_iter().map(|number| (node(number), status(number, false))).collect();
            }
            Step::GivenUp(number) => {
                if let Some(known) = self.nodes.get_mut(&node(number)) {
                    *known = status(number, true);
                }
            }
            Step::Doomed(on) => {
                let volume = |number: u8| vec![VolumeId::from_uuid(id(8, number))];
                self.doomed = on.into_iter().map(|number| (node(number), volume(number))).collect();
            }
            Step::Limited(is_limited) => {
                let limit = RateLimit {
                    namespace: NamespaceName::default_namespace(),
                    requests_per_second: Some(1),
                    egress_bytes_per_second: None,
                    memory_bytes: None,
                    cpu_millis: None,
                };
                self.rates = is_limited.then_some(limit).into_iter().collect();
            }
            Step::Publish => self.publish(),
        }
    }

    fn publish(&mut self) {
        let nodes: Vec<NodeStatus> = self.nodes.values().cloned().collect();
        let changed = self.fleet.take_changed();
        self.publisher.take_in(&self.fleet, changed);
        self.publisher.take_in_jobs(&self.jobs, std::mem::take(&mut self.changed_jobs));
        self.publisher.secrets_settled();
        let beside = Beside { doomed: &self.doomed, rates: &self.rates, removed: &[], secrets: &open };
        let all = self.publisher.publish(&nodes, beside);
        assert!(!self.publisher.has_news() && !self.publisher.lacks_any_of(&nodes));
        self.publisher.check(&self.fleet, &self.jobs, &nodes, beside).unwrap();
        assert!(self.publisher.publish(&nodes, beside).is_empty(), "nothing is said twice");
        self.followers.retain(|node, _| self.nodes.contains_key(node));
        for next in all {
            self.follow(&next);
        }
    }

    fn follow(&mut self, next: &Next) {
        let whole = next.whole.assignment();
        let known = self.followers.remove(&whole.node);
        let newest = known.as_ref().map_or(0, |known| known.generation);
        let followed = match (known, &next.delta) {
            (Some(known), _) if !next.is_news => known,
            (Some(known), Some(delta)) => known.with(delta).expect("it follows what was told before"),
            (known, delta) => {
                assert!(
                    known.is_none() && delta.is_none(),
                    "a node that was told something gets what changed"
                );
                whole.clone()
            }
        };
        assert_eq!(followed.generation > newest, next.is_news);
        assert_eq!(without_observed(&followed), without_observed(&whole));
        self.followers.insert(whole.node, followed);
    }
}

/// How far instances have got is not told.
fn without_observed(assignment: &Assignment) -> Assignment {
    let mut assignment = assignment.clone();
    for instance in &mut assignment.instances {
        instance.observed = InstanceState::Assigned;
    }
    assignment
}

proptest! {
    #[test]
    fn what_is_published_change_by_change_is_what_everything_makes(
        steps in proptest::collection::vec(any_step(), 0..60),
    ) {
        let mut trial = Trial::new();
        for step in steps {
            trial.take(step);
        }
        trial.publish();
    }
}

/// One app with an instance that serves, published.
fn serving() -> Trial {
    let mut trial = Trial::new();
    trial.take(one_app(0));
    trial.publish();
    trial
}

fn one_app(wanted: u8) -> Step {
    let instance = Instance { release: 0, wanted, state: 1, is_healthy: true };
    Step::App { number: 0, release: 0, deleting: false, instances: BTreeMap::from([(0, instance)]) }
}

/// Whether its instance is routed, and whether it has been let go of, where nodes have acknowledged this generation.
fn marks(trial: &mut Trial, acknowledged: u64) -> (bool, bool) {
    let (mut view, releases) =
        trial.fleet.get(app_id(0)).map(|(view, it)| (view.clone(), it.to_vec())).unwrap();
    trial.publisher.mark_acknowledged(&mut view, &releases, acknowledged);
    (view.instances[0].routed, view.instances[0].let_go)
}

#[test]
fn an_app_is_planned_again_when_its_routes_are_acknowledged_and_then_not_any_more() {
    let mut trial = serving();
    let first = trial.publisher.routing.told().generation;
    assert_eq!(marks(&mut trial, first - 1), (false, false));
    assert!(trial.publisher.take_acknowledged(first - 1).is_empty());
    assert_eq!(trial.publisher.take_acknowledged(first), BTreeSet::from([app_id(0)]));
    assert_eq!(marks(&mut trial, first), (true, false));
    assert!(trial.publisher.take_acknowledged(first + 100).is_empty());
    trial.take(one_app(1));
    trial.publish();
    let second = trial.publisher.routing.told().generation;
    assert!(second > first);
    assert_eq!(marks(&mut trial, first), (false, false));
    assert_eq!(trial.publisher.take_acknowledged(second), BTreeSet::from([app_id(0)]));
    assert_eq!(marks(&mut trial, second), (false, true));
}

#[test]
fn what_was_planned_while_a_node_had_no_routes_is_planned_again_when_it_has_them() {
    let mut trial = serving();
    let generation = trial.publisher.routing.told().generation;
    trial.publisher.take_acknowledged(generation);
    assert!(trial.publisher.take_acknowledged(generation).is_empty(), "nobody has looked meanwhile");
    assert_eq!(marks(&mut trial, 0), (false, false));
    assert_eq!(trial.publisher.take_acknowledged(generation), BTreeSet::from([app_id(0)]));
}

#[test]
fn a_change_of_one_app_is_told_to_the_nodes_that_have_it_alone_unless_routes_change() {
    let mut trial = Trial::new();
    let on = |number: u8, wanted| {
        let instance = Instance { release: 0, wanted, state: 0, is_healthy: false };
        BTreeMap::from([(number, instance)])
    };
    for number in 0..NODES {
        trial.take(Step::App { number, release: 0, deleting: false, instances: on(number, 0) });
    }
    trial.publish();
    trial.take(Step::App { number: 1, release: 0, deleting: false, instances: on(1, 1) });
    let nodes: Vec<NodeStatus> = trial.nodes.values().cloned().collect();
    let changed = trial.fleet.take_changed();
    trial.publisher.take_in(&trial.fleet, changed);
    let beside = Beside { doomed: &BTreeMap::new(), rates: &[], removed: &[], secrets: &open };
    let told: Vec<NodeId> =
        trial.publisher.publish(&nodes, beside).iter().map(|next| next.whole.node).collect();
    assert_eq!(told, [node(1)]);
}
