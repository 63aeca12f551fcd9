//! Runs the planner against workers that fail at random, and checks what must always hold.

mod properties;

use std::collections::BTreeSet;
use std::sync::Arc;

use wharf_types::ReleaseId;
use wharf_types::node::ReasonKind;
use wharf_types::state::{Health, InstanceState, RolloutState, Wanted};

use super::fixture::{Fixture, SECOND, node, release, release_id};
use super::view::after;
use super::{Change, Changes, InstanceView, ReleaseView, routes};

/// Room for nine instances on each of two nodes.
const NODE_MIB: u64 = 9;
const REPLICAS_MAX: u32 = 4;

/// Something that happens. Which instance it happens to is chosen among those that it can happen to.
#[derive(Clone, Debug)]
enum Step {
    /// Of a release that asks for so many slots.
    Deploy(Quality, u32),
    RollBack(u64),
    Restart,
    Scale(Option<u32>),
    /// A worker takes an instance one state further, or finds it healthy.
    Advance(usize),
    AdvanceAll,
    /// An instance fails and its supervisor replaces it.
    Crash(usize),
    PlatformFailure(usize),
    Unhealthy(usize),
    /// Every ingress takes up routes with an instance, or without it.
    Acknowledge(usize),
    NodeGoes(usize),
    LeaseExpires(usize),
    NodesReturn,
    Wait(u32),
}

/// What a release is like.
#[derive(Clone, Copy, Debug)]
enum Quality {
    Good,
    CannotStart,
    /// Its instances become ready, and fail while the rollout is monitored.
    FailsInService,
}

struct Simulation {
    fixture: Fixture,
    /// Releases that cannot start.
    bad: BTreeSet<u64>,
    /// Releases that fail in service.
    weak: BTreeSet<u64>,
    /// Releases that a rollout of their own was the last to give up.
    rejected: BTreeSet<ReleaseId>,
    newest: u64,
    present: [bool; 2],
    ready: [bool; 2],
}

impl Simulation {
    fn new() -> Self {
        let mut fixture = Fixture::empty(0);
        fixture.app.scaled_to = None;
        Self {
            fixture,
            bad: BTreeSet::new(),
            weak: BTreeSet::new(),
            rejected: BTreeSet::new(),
            newest: 0,
            present: [true; 2],
            ready: [true; 2],
        }
    }

    /// What the store knows of the nodes.
    fn observe_nodes(&mut self) {
        self.fixture.nodes = (0..2)
            .filter(|index| self.present[*index])
            .map(|index| {
                let mut node = node(index as u128 + 1, NODE_MIB);
                node.ready = self.ready[index];
                let on_node = |known: &&InstanceView| known.is_live() && known.node == Some(node.id);
                let count = u32::try_from(self.fixture.app.instances.iter().filter(on_node).count()).unwrap();
                let reserved = u64::from(count) * release(1).reservation_bytes();
                node.memory_free_bytes =
                    node.memory_free_bytes.checked_sub(reserved).expect("it was reserved");
                node
            })
            .collect();
    }

    fn choose(&self, at: usize, can: impl Fn(&InstanceView) -> bool) -> Option<usize> {
        let able: Vec<_> =
            (0..self.fixture.app.instances.len()).filter(|i| can(&self.fixture.app.instances[*i])).collect();
        (!able.is_empty()).then(|| able[at % able.len()])
    }

    /// Whether a worker that can be reached looks after the instance.
    fn is_tended(&self, instance: &InstanceView) -> bool {
        instance.is_live()
            && self.fixture.nodes.iter().any(|node| node.ready && Some(node.id) == instance.node)
    }

    fn restart(&mut self) {
        if self.fixture.app.target.is_some() {
            self.fixture.restart();
            self.fixture.app.instances.retain(|instance| !instance.state.is_final());
        }
    }

    /// A release that is known keeps the number of slots that it asked for first.
    fn deploy(&mut self, number: u64, replicas: u32) {
        self.fixture.deploy_scaled(number, replicas);
        // The store shows only what ended since the rollout began.
        self.fixture.app.instances.retain(|instance| !instance.state.is_final());
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Deploy(quality, mut replicas) => {
                self.newest += 1;
                match quality {
                    // With no instances at all, nobody can tell a bad release.
                    Quality::CannotStart if self.fixture.app.scaled_to != Some(0) => {
                        self.bad.insert(self.newest);
                        replicas = replicas.max(1);
                    }
                    Quality::FailsInService => {
                        self.weak.insert(self.newest);
                    }
                    Quality::CannotStart | Quality::Good => {}
                }
                self.deploy(self.newest, replicas);
            }
            Step::RollBack(to) if to <= self.newest => self.deploy(to, 0),
            Step::RollBack(_) => {}
            Step::Restart => self.restart(),
            Step::Scale(Some(0)) if !self.bad.is_empty() => {}
            Step::Scale(replicas) => self.fixture.app.scaled_to = replicas,
            Step::Advance(at) => {
                if let Some(index) = self.choose(at, |instance| self.is_tended(instance)) {
                    self.advance(index);
                }
            }
            Step::AdvanceAll => self.advance_all(),
            Step::Crash(at) => {
                if let Some(index) =
                    self.choose(at, |i| self.is_tended(i) && i.state == InstanceState::Running)
                {
                    self.crash(index);
                }
            }
            Step::PlatformFailure(at) => {
                if let Some(index) = self.choose(at, |instance| self.is_tended(instance)) {
                    self.fixture.fail(index, ReasonKind::Platform, "disk full");
                }
            }
            Step::Unhealthy(at) => {
                if let Some(index) =
                    self.choose(at, |instance| self.is_tended(instance) && instance.is_healthy())
                {
                    let instance = &mut self.fixture.app.instances[index];
                    (instance.health, instance.routed) = (Health::Unhealthy, false);
                }
            }
            Step::Acknowledge(at) => {
                let waits = |instance: &InstanceView| {
                    instance.wanted == Wanted::Unroute || (instance.is_healthy() && !instance.routed)
                };
                if let Some(index) = self.choose(at, waits) {
                    let instance = &mut self.fixture.app.instances[index];
                    instance.let_go |= instance.wanted == Wanted::Unroute;
                    instance.routed |= instance.is_healthy();
                }
            }
            Step::NodeGoes(index) => self.present[index] = false,
            Step::LeaseExpires(index) => self.ready[index] = false,
            Step::NodesReturn => (self.present, self.ready) = ([true; 2], [true; 2]),
            Step::Wait(seconds) => self.fixture.wait(seconds),
        }
    }

    fn advance_all(&mut self) {
        for index in 0..self.fixture.app.instances.len() {
            if self.is_tended(&self.fixture.app.instances[index]) {
                self.advance(index);
            }
        }
    }

    fn advance(&mut self, index: usize) {
        let release = self.fixture.app.instances[index].release;
        let is_of = |releases: &BTreeSet<u64>| releases.iter().any(|number| release_id(*number) == release);
        let is_bad = is_of(&self.bad);
        let is_monitored = self
            .fixture
            .app
            .rollout
            .as_ref()
            .is_some_and(|rollout| rollout.state == RolloutState::Monitoring && rollout.to == release);
        let is_failing = is_of(&self.weak) && is_monitored;
        let instance = &mut self.fixture.app.instances[index];
        match instance.state {
            _ if instance.wanted == Wanted::Stop => instance.state = InstanceState::Stopped,
            InstanceState::Assigned => instance.state = InstanceState::Preparing,
            InstanceState::Preparing => instance.state = InstanceState::Starting,
            InstanceState::Starting if is_bad => self.crash(index),
            InstanceState::Starting => instance.state = InstanceState::Running,
            InstanceState::Running if is_failing && instance.is_healthy() => self.crash(index),
            _ => {
                // That the ingresses know the way to it is another step.
                let routed = instance.routed;
                self.fixture.make_ready(index);
                self.fixture.app.instances[index].routed = routed;
            }
        }
    }

    fn crash(&mut self, index: usize) {
        self.fixture.fail(index, ReasonKind::Trap, "boom");
        let failed = &mut self.fixture.app.instances[index];
        if failed.wanted == Wanted::Run {
            failed.replaced = true;
            let (release, slot, node, restarts) = (failed.release, failed.slot, failed.node, failed.restarts);
            let number = (1..=self.newest).find(|number| release_id(*number) == release).unwrap();
            let index = self.fixture.add(number, slot);
            let successor = &mut self.fixture.app.instances[index];
            (successor.node, successor.restarts) = (node, restarts + 1);
        }
    }

    /// Plans, and checks what must hold after every plan.
    fn plan(&mut self) -> Changes {
        self.observe_nodes();
        // An instance on a node that is gone is not the planner's to keep.
        let is_present =
            |instance: &&InstanceView| self.fixture.nodes.iter().any(|node| Some(node.id) == instance.node);
        let served = served_slots(self.fixture.app.instances.iter().filter(is_present));
        let rollout = self.fixture.app.rollout.clone();
        let stable = self.fixture.app.stable.as_ref().map(|stable| stable.id);

        let changes = self.fixture.plan();

        let app = &self.fixture.app;
        // Whoever writes to a volume ends first.
        let starts_first = |target: &Arc<ReleaseView>| target.spec.exclusive_volume().is_none();
        if app.target.as_ref().is_some_and(starts_first) {
            let serves = served_slots(app.instances.iter());
            let left = served.difference(&serves).find(|slot| **slot < app.replicas_kept());
            assert_eq!(left, None, "a slot served, and the plan left nothing in it that does");
        }
        if let (Some(target), true) = (&app.target, app.is_rolling_out()) {
            let wanted = app.instances.iter().filter(|instance| instance.is_wanted()).count();
            let most = app.replicas_kept() as usize + target.surge(app.replicas());
            assert!(wanted <= most, "{wanted} instances are wanted, more than {most}");
        }
        if let Some(rollout) = rollout
            && app.rollout.as_ref().is_none_or(|other| other.id != rollout.id)
        {
            let target = app.target.as_ref().map(|target| target.id);
            let ends = [Some(rollout.to), rollout.from, stable, None];
            assert!(ends.contains(&target), "a rollout ends in the new release or the one before");
        }
        let served =
            |change: &Change| matches!(change, Change::SetRollout { state: RolloutState::Monitoring, .. });
        if let Some(target) = app.target.as_ref().filter(|_| changes.changes.iter().any(served)) {
            let routed = app.slots_routed(target);
            assert!(
                routed.iter().all(|routed| *routed),
                "it is said to serve before the ingresses know the way"
            );
        }
        for change in &changes.changes {
            match change {
                Change::SetServed { release, served: true } => self.rejected.remove(release),
                Change::SetServed { release, served: false } => self.rejected.insert(*release),
                _ => false,
            };
        }
        let stable = app.stable.as_ref().map(|stable| stable.id);
        assert!(
            stable.is_none_or(|stable| !self.rejected.contains(&stable)),
            "a bad release is called stable"
        );
        let healthy = app.instances.iter().filter(|instance| instance.is_healthy()).count();
        let table = routes::build(1, std::slice::from_ref(app));
        assert!(table.routes.iter().all(|route| route.endpoints.len() == healthy));
        changes
    }

    /// No more faults: everything that can get well does, time passes, and ingresses acknowledge.
    fn settle(&mut self) {
        self.step(&Step::NodesReturn);
        for _ in 0..400 {
            let changes = self.plan();
            let app = &mut self.fixture.app;
            let mut is_moving =
                app.rollout.is_some() || !changes.changes.is_empty() || changes.wake_at.is_some();
            for instance in &mut app.instances {
                instance.let_go |= instance.wanted == Wanted::Unroute;
                instance.routed |= instance.is_healthy();
                is_moving |= instance.is_live() && !instance.is_healthy();
            }
            if !is_moving {
                return;
            }
            self.advance_all();
            self.fixture.now =
                changes.wake_at.unwrap_or(self.fixture.now).min(after(self.fixture.now, SECOND));
        }
        panic!("nothing settles: {:#?}", self.fixture.app);
    }
}

fn served_slots<'a>(instances: impl Iterator<Item = &'a InstanceView>) -> BTreeSet<u32> {
    instances.filter(|instance| instance.is_healthy()).map(|instance| instance.slot).collect()
}
