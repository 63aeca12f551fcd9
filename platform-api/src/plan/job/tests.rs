//! Jobs by example, and a simulation: workers that fail, lose and repeat their reports, nodes that go, and a control plane that is started
//! anew again and again with nothing but what it had stored.

use proptest::prelude::*;
use uuid::Uuid;
use wharf_types::node::NodeRegistration;
use wharf_types::quantity::Span;

use super::*;
use crate::plan::ids::CountingIds;

const SECOND: Duration = Duration::from_secs(1);

fn node(number: u128) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(number))
}

/// A job, two nodes with room for so many runs each, and the time.
struct Trial {
    job: JobView,
    nodes: Vec<(NodeId, bool)>,
    room: u64,
    now: Timestamp,
    last_id: u128,
}

impl Trial {
    fn new(edit: impl FnOnce(&mut JobSpec)) -> Self {
        let mut spec = JobSpec::default();
        edit(&mut spec);
        spec.validate().unwrap();
        let now = after(Timestamp::UNIX_EPOCH, SECOND * 1000);
        let command = CommandView {
            artifact: Digest::of(b"x"),
            world: World::CommandP2,
            spec: Arc::new(spec.for_worker()),
            secrets: Arc::default(),
            app: "import".parse().unwrap(),
            release: 0,
        };
        let job = JobView {
            id: JobId::from_uuid(Uuid::from_u128(5)),
            namespace: NamespaceName::default_namespace(),
            name: "import".parse().unwrap(),
            scheduled: false,
            spec: Arc::new(spec),
            command: Arc::new(command),
            state: JobState::Pending,
            ending: None,
            created_at: now,
            ended_at: None,
            expires_at: None,
            runs: Vec::new(),
        };
        Self { job, nodes: vec![(node(1), true), (node(2), true)], room: 8, now, last_id: 1 << 64 }
    }

    /// Nodes and runs as a process finds them that was only just started.
    fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        let memory_bytes = self.room * self.job.reservation().memory_bytes;
        for (id, _) in self.nodes.iter().filter(|(_, there)| *there) {
            let registration = NodeRegistration { memory_bytes, cpus: 4, ..NodeRegistration::default() };
            cluster.set_node(*id, &registration, true);
        }
        for run in &self.job.runs {
            if let Some(held) = self.job.held(run) {
                cluster.put(run.id, held);
            }
        }
        cluster
    }

    /// Plans, and carries it out.
    fn plan(&mut self) -> JobChanges {
        let mut ids = CountingIds::starting_at(self.last_id);
        self.last_id += 1 << 20;
        let changes = plan(self.now, &self.job, &mut self.cluster(), &mut ids);
        for change in &changes.changes {
            self.job.apply(self.now, change);
        }
        let again = plan(self.now, &self.job, &mut self.cluster(), &mut ids);
        let is_news = again.changes.iter().any(|change| *change != JobChange::Delete);
        assert!(!is_news, "planning again changes nothing: {:?}", again.changes);
        changes
    }

    /// What the store makes of a worker's report.
    fn report(
        &mut self,
        run: InstanceId,
        state: InstanceState,
        exit_code: Option<i32>,
        kind: Option<ReasonKind>,
    ) {
        let Some(run) = self.job.runs.iter_mut().find(|known| known.id == run) else { return };
        if run.state.is_final() {
            return;
        }
        run.state = run.state.advance(state);
        if state >= InstanceState::Running {
            run.started_at = run.started_at.or(Some(self.now));
        }
        if run.state.is_final() {
            run.exit_code = exit_code;
            run.reason = kind.map(|kind| Reason { kind, message: "it ended".to_owned() });
            run.ended_at = Some(self.now);
        }
    }

    fn live(&self) -> Vec<InstanceId> {
        self.job.runs.iter().filter(|run| run.is_live()).map(|run| run.id).collect()
    }

    fn run(&mut self) {
        for run in self.live() {
            self.report(run, InstanceState::Running, None, None);
        }
    }

    fn exit(&mut self, run: InstanceId, code: i32) {
        let state = if code == 0 { InstanceState::Stopped } else { InstanceState::Failed };
        self.report(run, state, Some(code), Some(ReasonKind::Exit));
    }

    fn wait(&mut self, span: Duration) -> JobChanges {
        self.now = after(self.now, span);
        self.plan()
    }

    fn reason(&self) -> &str {
        self.job.ending.as_ref().unwrap().reason.as_deref().unwrap_or_default()
    }
}

#[test]
fn a_job_pends_runs_and_succeeds() {
    let mut world = Trial::new(|_| {});
    world.plan();
    assert_eq!((world.job.state, world.live().len()), (JobState::Pending, 1));
    world.run();
    world.plan();
    assert_eq!(world.job.state, JobState::Running);
    let run = world.live()[0];
    world.exit(run, 0);
    world.plan();
    assert_eq!((world.job.state, world.job.exit_code()), (JobState::Succeeded, Some(0)));
    let changes = world.wait(SECOND * 3600);
    assert_eq!(changes.wake_at, Some(after(world.now, SECOND * 23 * 3600)));
    assert_eq!(world.wait(SECOND * 24 * 3600).changes, [JobChange::Delete]);
}

#[test]
fn a_completion_is_tried_again_with_growing_pauses_and_fails_with_its_last_exit_code() {
    let mut world = Trial::new(|spec| spec.retries = 3);
    let mut pauses = Vec::new();
    for code in [7, 8, 9, 10] {
        world.plan();
        world.run();
        let run = world.live()[0];
        world.exit(run, code);
        let changes = world.plan();
        if let Some(wake) = changes.wake_at.filter(|_| !world.job.state.is_final()) {
            pauses.push(Duration::try_from(wake.duration_since(world.now)).unwrap().as_secs());
            world.now = wake;
        }
    }
    assert_eq!(pauses, [10, 20, 40]);
    assert_eq!((world.job.state, world.job.exit_code()), (JobState::Failed, Some(10)));
    assert_eq!(world.reason(), "no more retries after 4 runs: it ended");
}

#[test]
fn an_artifact_that_cannot_run_is_not_tried_again() {
    let mut world = Trial::new(|spec| (spec.completions, spec.parallelism, spec.indexed) = (3, 1, true));
    world.plan();
    let run = world.live()[0];
    world.report(run, InstanceState::Failed, None, Some(ReasonKind::Artifact));
    world.plan();
    assert_eq!((world.job.state, world.job.runs.len()), (JobState::Failed, 1));
}

#[test]
fn a_run_that_is_lost_with_its_node_is_no_retry() {
    let mut world = Trial::new(|spec| spec.retries = 0);
    world.plan();
    world.run();
    let first = world.job.runs[0].clone();
    world.nodes.iter_mut().find(|(id, _)| *id == first.node).unwrap().1 = false;
    world.plan();
    assert_eq!(world.job.runs[0].outcome(), Some(Outcome::Lost));
    // The report of the run on the node that was given up comes too late.
    world.exit(first.id, 0);
    assert_eq!(world.job.runs[0].outcome(), Some(Outcome::Lost));
    world.wait(SECOND);
    let run = world.live()[0];
    assert_ne!(run, first.id);
    world.report(run, InstanceState::Failed, None, Some(ReasonKind::Platform));
    world.wait(SECOND * 2);
    let run = world.live()[0];
    world.exit(run, 0);
    world.plan();
    assert_eq!((world.job.state, world.job.runs.len()), (JobState::Succeeded, 3));
}

#[test]
fn a_guest_that_takes_its_worker_down_does_not_do_so_for_ever() {
    let mut world = Trial::new(|spec| spec.retries = 0);
    for _ in 0..=LOST_MAX {
        world.wait(SECOND * 360);
        let run = world.live()[0];
        world.report(run, InstanceState::Failed, None, Some(ReasonKind::Platform));
    }
    world.plan();
    assert_eq!(world.job.state, JobState::Failed);
    assert!(world.reason().contains("100 runs in a row were lost"), "{}", world.reason());
}

#[test]
fn an_indexed_job_has_a_result_for_each_completion_and_another_ends_with_the_first_failure() {
    for indexed in [true, false] {
        let mut world = Trial::new(|spec| {
            (spec.completions, spec.parallelism, spec.retries, spec.indexed) = (3, 2, 0, indexed);
        });
        world.plan();
        world.run();
        let run = world.job.runs.iter().find(|run| run.index == 0).unwrap().id;
        world.exit(run, 3);
        world.plan();
        let stopping = world.job.runs.iter().filter(|run| run.stop.is_some()).count();
        assert_eq!((stopping, world.job.runs.len()), if indexed { (0, 3) } else { (1, 2) });
        for run in world.live() {
            if indexed { world.exit(run, 0) } else { world.report(run, InstanceState::Stopped, None, None) }
        }
        world.plan();
        assert_eq!((world.job.state, world.job.exit_code()), (JobState::Failed, Some(3)));
        let succeeded = world.job.completions().iter().filter(|completion| completion.succeeded).count();
        assert_eq!(succeeded, if indexed { 2 } else { 0 });
    }
}

#[test]
fn a_run_that_takes_too_long_has_failed_and_a_deadline_ends_all() {
    let mut world = Trial::new(|spec| {
        (spec.timeout, spec.deadline) = (Some(Span::from_secs(30)), Some(Span::from_secs(100)));
    });
    world.plan();
    world.run();
    world.wait(SECOND * 30);
    assert_eq!(world.job.runs[0].stop, Some(StopCause::Timeout));
    let run = world.live()[0];
    world.report(run, InstanceState::Stopped, None, None);
    assert_eq!(world.job.runs[0].outcome(), Some(Outcome::TimedOut));
    world.plan();
    world.wait(SECOND * 10);
    assert_eq!(world.live().len(), 1);
    world.wait(SECOND * 60);
    assert_eq!(
        (world.job.state, world.job.runs[1].stop),
        (JobState::Pending.max(world.job.state), Some(StopCause::End))
    );
    assert!(!world.job.state.is_final(), "a run still stops");
    let run = world.live()[0];
    world.report(run, InstanceState::Stopped, None, None);
    world.plan();
    assert_eq!(world.job.state, JobState::Failed);
    assert_eq!(world.reason(), "its deadline has passed, 1m 40s after it was made");
}

#[test]
fn what_fits_nowhere_waits_and_says_why() {
    let mut world = Trial::new(|spec| (spec.completions, spec.parallelism) = (5, 5));
    world.room = 2;
    let changes = world.plan();
    assert_eq!((world.live().len(), changes.unplaced.len()), (4, 1));
    assert!(changes.unplaced[0].message.contains("too little free memory"), "{:?}", changes.unplaced);
    assert!(changes.wake_at.is_some());
}

#[test]
fn a_cancelled_job_ends_when_nothing_of_it_runs() {
    let mut world = Trial::new(|_| {});
    world.plan();
    world.run();
    world.plan();
    let ending = Ending { state: JobState::Cancelled, reason: None };
    world.job.ending = Some(ending);
    world.plan();
    assert_eq!(world.job.state, JobState::Running);
    let run = world.live()[0];
    world.report(run, InstanceState::Stopped, None, None);
    world.plan();
    assert_eq!((world.job.state, world.job.runs[0].outcome()), (JobState::Cancelled, Some(Outcome::Stopped)));
}

#[derive(Clone, Debug)]
enum Step {
    /// A worker takes a run one state further.
    Advance(usize),
    Exit(usize, i32),
    PlatformFailure(usize),
    /// A report that was sent before comes again, or late.
    Repeat(usize),
    NodeGoes(usize),
    NodesReturn,
    Wait(u32),
    /// A plan that was never written: the process was killed.
    Crash,
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    let any = any::<usize>;
    prop_oneof![
        6 => any().prop_map(Step::Advance),
        4 => (any(), prop_oneof![3 => Just(0), 1 => Just(1)]).prop_map(|(run, code)| Step::Exit(run, code)),
        1 => any().prop_map(Step::PlatformFailure),
        2 => any().prop_map(Step::Repeat),
        1 => (0..2_usize).prop_map(Step::NodeGoes),
        1 => Just(Step::NodesReturn),
        3 => (0..40_u32).prop_map(Step::Wait),
        2 => Just(Step::Crash),
    ]
}

type Sent = (InstanceId, InstanceState, Option<i32>, Option<ReasonKind>);

impl Trial {
    fn pick(&self, number: usize) -> Option<InstanceId> {
        let live = self.live();
        (!live.is_empty()).then(|| live[number % live.len()])
    }

    fn step(&mut self, step: &Step, sent: &mut Vec<Sent>) {
        let report = |world: &mut Self, sent: &mut Vec<Sent>, it: Sent| {
            sent.push(it);
            world.report(it.0, it.1, it.2, it.3);
        };
        match *step {
            Step::Advance(number) => {
                let Some(run) = self.pick(number) else { return };
                let known = self.job.runs.iter().find(|known| known.id == run).unwrap();
                let next = match known.state {
                    _ if known.stop.is_some() => InstanceState::Stopped,
                    InstanceState::Assigned => InstanceState::Preparing,
                    InstanceState::Preparing => InstanceState::Starting,
                    _ => InstanceState::Running,
                };
                report(self, sent, (run, next, None, None));
            }
            Step::Exit(number, code) => {
                let Some(run) = self.pick(number) else { return };
                let state = if code == 0 { InstanceState::Stopped } else { InstanceState::Failed };
                report(self, sent, (run, state, Some(code), Some(ReasonKind::Exit)));
            }
            Step::PlatformFailure(number) => {
                let Some(run) = self.pick(number) else { return };
                report(self, sent, (run, InstanceState::Failed, None, Some(ReasonKind::Platform)));
            }
            Step::Repeat(number) => {
                if let Some(it) = (!sent.is_empty()).then(|| sent[number % sent.len()]) {
                    self.report(it.0, it.1, it.2, it.3);
                }
            }
            Step::NodeGoes(index) => self.nodes[index].1 = false,
            Step::NodesReturn => self.nodes.iter_mut().for_each(|(_, there)| *there = true),
            Step::Wait(seconds) => self.now = after(self.now, SECOND * seconds),
            Step::Crash => {
                let before = self.job.clone();
                self.plan();
                self.job = before;
            }
            Step::Cancel => {
                let ending = Ending { state: JobState::Cancelled, reason: None };
                self.job.ending = self.job.ending.take().or(Some(ending));
            }
        }
    }

    fn check(&self, before: &JobView) {
        let (job, spec) = (&self.job, &self.job.spec);
        assert!(job.state >= before.state, "a state went backwards");
        assert!(!before.state.is_final() || before.state == job.state, "an end was changed");
        assert!(job.active() <= spec.parallelism, "more run than may");
        for index in 0..spec.completions {
            let runs: Vec<&RunView> = job.runs.iter().filter(|run| run.index == index).collect();
            let of = |outcome| runs.iter().filter(|run| run.outcome() == Some(outcome)).count();
            assert!(of(Outcome::Succeeded) <= 1, "a completion succeeded twice");
            assert!(runs.iter().filter(|run| run.is_live()).count() <= 1, "a completion has two runs");
            let failures = of(Outcome::Failed) + of(Outcome::TimedOut);
            assert!(failures <= spec.retries as usize + 1, "more was tried than may be");
            let mut attempts: Vec<u32> = runs.iter().map(|run| run.attempt).collect();
            attempts.sort_unstable();
            assert!((1..).zip(&attempts).all(|(number, attempt)| number == *attempt), "{attempts:?}");
        }
        if let (Some(deadline), None) = (spec.deadline, &job.ending) {
            assert!(after(job.created_at, deadline.as_duration()) > self.now, "the deadline was passed over");
        }
        if job.state.is_final() {
            assert_eq!(job.active(), 0, "it ended while something ran");
            assert!(job.state == JobState::Succeeded || job.ending.is_some());
        }
        let all = (0..spec.completions).all(|index| {
            job.runs.iter().any(|run| run.index == index && run.outcome() == Some(Outcome::Succeeded))
        });
        assert_eq!(job.state == JobState::Succeeded, all && job.state.is_final());
    }

    /// No more faults: runs come to their ends, and time passes.
    fn settle(&mut self) {
        self.step(&Step::NodesReturn, &mut Vec::new());
        for _ in 0..4000 {
            let before = self.job.clone();
            let changes = self.plan();
            self.check(&before);
            if self.job.state.is_final() {
                return;
            }
            for run in self.live() {
                let known = self.job.runs.iter().find(|known| known.id == run).unwrap();
                if known.stop.is_some() {
                    self.report(run, InstanceState::Stopped, None, None);
                } else {
                    self.exit(run, 0);
                }
            }
            let wake = changes.wake_at.filter(|_| self.live().is_empty());
            self.now = wake.unwrap_or(self.now).max(self.now);
        }
        panic!("nothing settles: {:#?}", self.job);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every plan is made by a process that knows nothing but what is stored, so each of them is a change of leaders: at least a hundred.
    #[test]
    fn a_job_runs_exactly_as_declared_across_a_hundred_leaders(
        steps in proptest::collection::vec(step(), 100..200),
        cancel in prop_oneof![3 => Just(None), 1 => (0..100_usize).prop_map(Some)],
        completions in 1..6_u32, parallelism in 1..4_u32, retries in 0..3_u32, indexed in any::<bool>(),
        deadline in prop_oneof![2 => Just(None), 1 => (1..600_u64).prop_map(Some)],
        timeout in prop_oneof![2 => Just(None), 1 => (1..60_u64).prop_map(Some)],
        room in 1..4_u64,
    ) {
        let mut world = Trial::new(|spec| {
            (spec.completions, spec.parallelism, spec.retries, spec.indexed) = (completions, parallelism, retries, indexed);
            (spec.deadline, spec.timeout) = (deadline.map(Span::from_secs), timeout.map(Span::from_secs));
        });
        world.room = room;
        let mut sent = Vec::new();
        for (place, step) in steps.iter().enumerate() {
            let before = world.job.clone();
            world.step(step, &mut sent);
            if cancel == Some(place) {
                world.step(&Step::Cancel, &mut sent);
            }
            world.plan();
            world.check(&before);
        }
        world.settle();
    }
}
