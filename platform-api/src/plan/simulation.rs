//! Runs the planner against workers that fail at random, and checks what must always hold.

mod properties;

use std::collections::BTreeSet;

use wharf_types::ReleaseId;
use wharf_types::api::Stopped;
use wharf_types::node::ReasonKind;
use wharf_types::requests::{ReleaseRequests, RequestCounts};
use wharf_types::spec::UpdateSpec;
use wharf_types::state::{Health, InstanceState, RolloutState, Wanted};

use super::fixture::{Fixture, SECOND, node, release, release_id};
use super::view::after;
use super::{AppView, Change, Changes, InstanceView, RolloutView, routes};

/// Room for nine instances on each of two nodes.
const NODE_MIB: u64 = 9;
const REPLICAS_MAX: u32 = 4;

/// Something that happens. Which instance it happens to is chosen among those that it can happen to.
#[derive(Clone, Debug)]
enum Step {
    /// Of a release that asks for so many slots, by these dials.
    Deploy(Quality, u32, Box<UpdateSpec>),
    RollBack(u64),
    Restart,
    Pause,
    Resume,
    Abort,
    Stop,
    Start,
    /// Another process takes over: it knows what is stored, and nothing else.
    ControlPlaneRestarts,
    /// So many requests to the old and the new release, and whether the new one fails them.
    Requests(u64, bool),
    Scale(Option<u32>),
    /// Open requests decide on so many.
    Autoscale(u32),
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
    fn deploy(&mut self, number: u64, replicas: u32, update: UpdateSpec) {
        self.fixture.deploy_by(number, replicas, update);
        // The store shows only what ended since the rollout began.
        self.fixture.app.instances.retain(|instance| !instance.state.is_final());
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Deploy(quality, mut replicas, ref update) => {
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
                self.deploy(self.newest, replicas, UpdateSpec::clone(update));
            }
            Step::RollBack(to) if to <= self.newest => {
                self.deploy(to, 0, UpdateSpec::default());
                if let Some(rollout) = &mut self.fixture.app.rollout {
                    rollout.backwards = true;
                }
            }
            Step::RollBack(_) => {}
            Step::Restart => self.restart(),
            Step::Pause => self.fixture.pause(),
            Step::Resume if self.fixture.app.rollout.as_ref().is_some_and(|it| it.paused.is_some()) => {
                self.fixture.resume();
            }
            Step::Resume => {}
            Step::Abort => self.fixture.abort(),
            Step::Stop => {
                let since = self.fixture.now;
                self.fixture.app.stopped.get_or_insert(Stopped { since, by: "ann".into() });
            }
            Step::Start => self.start(),
            Step::ControlPlaneRestarts => self.forget(),
            Step::Requests(count, bad) => self.requests(count, bad),
            Step::Scale(Some(0)) if !self.bad.is_empty() => {}
            Step::Scale(replicas) => self.fixture.app.scaled_to = replicas,
            Step::Autoscale(replicas) => self.fixture.app.autoscaled_to = Some(replicas),
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

    fn start(&mut self) {
        if self.fixture.app.stopped.take().is_none() {
            return;
        }
        match &self.fixture.app.rollout {
            Some(_) => self.fixture.begin_anew(),
            None => self.restart(),
        }
    }

    fn forget(&mut self) {
        let now = self.fixture.now;
        for instance in &mut self.fixture.app.instances {
            (instance.let_go, instance.routed) = (false, false);
        }
        if let Some(rollout) = &mut self.fixture.app.rollout {
            rollout.progressed_at = now;
        }
    }

    fn requests(&mut self, count: u64, bad: bool) {
        let app = &mut self.fixture.app;
        let (Some(target), Some(stable)) = (&app.target, &app.stable) else { return };
        let good = RequestCounts { ok: count, ..RequestCounts::default() };
        let new =
            if bad { RequestCounts { failed: count, ..RequestCounts::default() } } else { good.clone() };
        let Some(rollout) = &mut app.rollout else { return };
        for (release, more) in [(stable.number, good), (target.number, new)] {
            match rollout.requests.iter_mut().find(|known| known.release == release) {
                Some(known) => known.counts = known.counts.plus(&more),
                None => rollout.requests.push(ReleaseRequests { release, counts: more }),
            }
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
        let before = self.fixture.app.clone();

        let changes = self.fixture.plan();

        let app = &self.fixture.app;
        check_service(app, rollout.as_deref(), &served);
        check_pace(app, &before, &changes);
        check_wishes(app, &before, &changes);
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
            // A slot that was allowed to fail is not waited for.
            let failed = app.rollout.as_ref().map(|rollout| rollout.failed_slots.clone()).unwrap_or_default();
            let routed = app.slots_routed(target);
            assert!(
                app.slot_numbers().all(|slot| routed[slot as usize] || failed.contains(&slot)),
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

    /// No node is to have two of a global release, nor any that is for another.
    fn check_one_on_each_node(&self) {
        let app = &self.fixture.app;
        let releases = [&app.target, &app.stable].into_iter().flatten();
        for release in releases.filter(|release| release.spec.is_global()) {
            let mut nodes = BTreeSet::new();
            // A restart starts another beside the one that it replaces.
            let own = app.instances.iter().filter(|it| app.is_current(it, release) && it.is_wanted());
            for instance in own {
                assert!(nodes.insert(instance.node), "two of a global release on one node: {instance:?}");
                // What is to make way is there until something else serves.
                let is_counted = app.stopped.is_none() && app.is_slot(instance.slot);
                assert!(!is_counted || app.is_in_place(instance, release), "not on its node: {instance:?}");
            }
        }
    }

    /// No more faults: everything that can get well does, time passes, and ingresses acknowledge.
    fn settle(&mut self) {
        self.step(&Step::NodesReturn);
        self.step(&Step::Start);
        for _ in 0..400 {
            // What nobody resumes would stand still for ever, and rightly so.
            if self.fixture.app.rollout.as_ref().is_some_and(|rollout| rollout.paused.is_some()) {
                match self.fixture.app.rollout.as_ref().is_some_and(|rollout| rollout.automatic) {
                    true => self.step(&Step::Resume),
                    false => self.step(&Step::Abort),
                }
            }
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

/// What served goes on serving, as far as the dials promise it.
fn check_service(app: &AppView, rollout: Option<&RolloutView>, served: &BTreeSet<u32>) {
    let Some(target) = &app.target else { return };
    // Whoever writes to a volume ends first, and a stopped app serves nobody.
    if target.spec.is_exclusive() || app.stopped.is_some() {
        return;
    }
    let serves = served_slots(app.instances.iter());
    if app.stops_first(target) {
        let of_app = |slots: &BTreeSet<u32>| slots.iter().filter(|slot| app.is_slot(**slot)).count();
        // A slot that was allowed to fail makes room for the next.
        let failed = app.rollout.as_ref().map_or(0, |rollout| rollout.failed_slots.len());
        let least = app.replicas().saturating_sub(app.dials(target).parallelism.of(app.replicas()));
        let least = of_app(served).min((least as usize).saturating_sub(failed));
        assert!(of_app(&serves) >= least, "fewer than {least} slots serve");
        return;
    }
    let failed = rollout.map(|rollout| rollout.failed_slots.clone()).unwrap_or_default();
    let ended = rollout.is_some() && app.rollout.is_none();
    let left = served
        .difference(&serves)
        .find(|slot| (app.is_slot(**slot) || app.keeps_slot(**slot)) && !(ended && failed.contains(slot)));
    assert_eq!(left, None, "a slot served, and the plan left nothing in it that does");
}

/// No more moves at once than may, and batches keep their distance.
fn check_pace(app: &AppView, before: &AppView, changes: &Changes) {
    let (Some(target), true) = (&app.target, app.is_rolling_out()) else { return };
    let Some(rollout) = &app.rollout else { return };
    let parallelism = app.dials(target).parallelism.of(app.replicas()) as usize;
    let on_trial = if app.is_on_trial() { app.trial_slots(target) as usize } else { 0 };
    // What another rollout, or one before a resume, had begun is not taken back.
    let most = (parallelism.max(on_trial) + rollout.failed_slots.len()).max(doubled(before));
    assert!(doubled(app) <= most, "{} slots have two instances, more than {most}", doubled(app));
    if app.is_on_trial() {
        return;
    }
    let delay = app.dials(target).delay.as_duration();
    let next = rollout.stepped_at.filter(|_| !delay.is_zero()).map(|at| after(at, delay));
    for change in &changes.changes {
        let Change::CreateInstance { release, slot, .. } = change else { continue };
        let is_old = |old: &&InstanceView| {
            old.slot == *slot && old.is_wanted() && !before.instances.is_empty() && old.release != *release
        };
        let moves = *release == target.id && app.instances.iter().any(|old| is_old(&old));
        if let (true, Some(next)) = (moves && !app.stops_first(target), next) {
            let now = app.instances.iter().map(|instance| instance.created_at).max();
            assert!(now.is_some_and(|now| next <= now), "a slot moved before the delay was over");
        }
    }
}

/// How many slots have an instance beside the one that serves.
fn doubled(app: &AppView) -> usize {
    let of_slot = |slot: u32| app.instances.iter().filter(|it| it.is_wanted() && it.slot == slot).count();
    let counts: Vec<usize> = (0..app.slots_kept()).map(of_slot).collect();
    counts.into_iter().filter(|count| *count > 1).count()
}

/// A rollout that is paused stands still.
fn check_wishes(app: &AppView, before: &AppView, changes: &Changes) {
    let Some(rollout) = before.rollout.as_ref().filter(|rollout| rollout.paused.is_some()) else { return };
    if rollout.aborted_by.is_some() {
        assert!(app.rollout.as_ref().is_none_or(|now| now.id != rollout.id), "it was to go back");
        return;
    }
    assert_eq!(app.rollout.as_ref().map(|now| (now.id, now.state)), Some((rollout.id, rollout.state)));
    let other_before = before.stable.as_ref().is_none_or(|stable| stable.id != rollout.to);
    for change in &changes.changes {
        if let Change::CreateInstance { release, .. } = change {
            assert!(*release != rollout.to || !other_before, "a slot moved although the rollout is paused");
        }
    }
}

fn served_slots<'a>(instances: impl Iterator<Item = &'a InstanceView>) -> BTreeSet<u32> {
    instances.filter(|instance| instance.is_healthy()).map(|instance| instance.slot).collect()
}
