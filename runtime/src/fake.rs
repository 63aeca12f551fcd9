//! A backend for tests: it runs nothing, does what the test says, and writes down what it was asked.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use wharf_types::node::AssignedInstance;
use wharf_types::spec::AppSpec;
use wharf_types::state::{InstanceState, Wanted};
use wharf_types::world::World;
use wharf_types::{Digest, InstanceId, NamespaceName};

use crate::backend::{Backend, Ended, Failure, Run};

/// Longest time that a test waits for a value, on its own clock.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A new instance in slot 0 of an HTTP app with an empty spec.
pub(crate) fn assigned(id: InstanceId) -> AssignedInstance {
    AssignedInstance {
        id,
        wanted: Wanted::Run,
        observed: InstanceState::Assigned,
        namespace: NamespaceName::default_namespace(),
        app: "hello".parse().unwrap(),
        release: 1,
        slot: 0,
        artifact: Digest::of(b"hello"),
        world: World::HttpProxy,
        spec: Arc::new(AppSpec::default()),
        secrets: Arc::default(),
        volumes: Vec::new(),
        job: None,
    }
}

/// Waits until the value is as expected.
pub(crate) async fn becomes<T: Clone>(
    values: &mut watch::Receiver<T>,
    expected: impl FnMut(&T) -> bool,
) -> T {
    timeout(PATIENCE, values.wait_for(expected)).await.expect("the value came in time").unwrap().clone()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Prepare(InstanceId),
    Start(InstanceId),
    Probe(InstanceId, String),
    Accepts(InstanceId),
    Stop(InstanceId, Duration),
    Remove(InstanceId),
}

type Answer = Result<u16, Failure>;

#[derive(Default)]
struct Script {
    calls: Vec<Call>,
    runs: Vec<(Instant, Run)>,
    prepare_failure: Option<Failure>,
    prepares_take: Duration,
    /// What is told meanwhile.
    progress: Option<String>,
    start_failure: Option<Failure>,
    /// The next answers of probes; the last one is repeated.
    answers: HashMap<String, VecDeque<Answer>>,
    /// How the guests end by themselves; None: not.
    ends: HashMap<InstanceId, oneshot::Sender<Ended>>,
    waits: HashMap<InstanceId, oneshot::Receiver<Ended>>,
    stops_take: Duration,
    /// How the next connections fail.
    refused_connections: VecDeque<Failure>,
    /// Whether what it ran may outlive its process.
    adopts: bool,
}

/// Everything succeeds, unless the test says otherwise.
pub(crate) struct FakeBackend {
    script: Mutex<Script>,
    starts: watch::Sender<usize>,
}

impl FakeBackend {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { script: Mutex::default(), starts: watch::Sender::new(0) })
    }

    pub(crate) fn failing_to_start(failure: Failure) -> Arc<Self> {
        let backend = Self::new();
        backend.script().start_failure = Some(failure);
        backend
    }

    /// What it runs may outlive its process.
    pub(crate) fn adopting() -> Arc<Self> {
        let backend = Self::new();
        backend.script().adopts = true;
        backend
    }

    pub(crate) fn failing_to_prepare(failure: Failure) -> Arc<Self> {
        let backend = Self::new();
        backend.script().prepare_failure = Some(failure);
        backend
    }

    /// From now on, probes of this path get these answers, the last one for ever.
    pub(crate) fn answer(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        self.script().answers.insert(path.to_owned(), answers.into_iter().collect());
    }

    /// The next connections to its ports fail like this; later ones do not.
    pub(crate) fn refuse_connections(&self, failures: impl IntoIterator<Item = Failure>) {
        self.script().refused_connections.extend(failures);
    }

    pub(crate) fn prepares_take(&self, time: Duration, progress: &str) {
        let mut script = self.script();
        (script.prepares_take, script.progress) = (time, Some(progress.to_owned()));
    }

    pub(crate) fn stops_take(&self, time: Duration) {
        self.script().stops_take = time;
    }

    /// The guest ends by itself.
    pub(crate) fn end(&self, id: InstanceId, ended: Ended) {
        let end = self.script().ends.remove(&id).expect("the guest runs");
        end.send(ended).expect("somebody waits for its end");
    }

    /// Waits for so many starts in all; returns the time and the run of the last one of them.
    pub(crate) async fn starts_reach(&self, count: usize) -> (Instant, Run) {
        becomes(&mut self.starts.subscribe(), |starts| *starts >= count).await;
        self.script().runs[count - 1].clone()
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.script().calls.clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for FakeBackend {
    async fn prepare(&self, run: &Run) -> Result<(), Failure> {
        let (time, outcome) = {
            let mut script = self.script();
            script.calls.push(Call::Prepare(run.id));
            (script.prepares_take, script.prepare_failure.clone().map_or(Ok(()), Err))
        };
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        outcome
    }

    fn progress(&self, _: InstanceId) -> Option<String> {
        self.script().progress.clone()
    }

    async fn start(&self, run: &Run) -> Result<(), Failure> {
        let mut script = self.script();
        script.calls.push(Call::Start(run.id));
        script.runs.push((Instant::now(), run.clone()));
        let (end, wait) = oneshot::channel();
        script.ends.insert(run.id, end);
        script.waits.insert(run.id, wait);
        self.starts.send_modify(|starts| *starts += 1);
        script.start_failure.clone().map_or(Ok(()), Err)
    }

    async fn wait(&self, id: InstanceId) -> Ended {
        let wait = self.script().waits.remove(&id).expect("it was started, and is awaited once");
        match wait.await {
            Ok(ended) => ended,
            Err(_) => pending().await,
        }
    }

    async fn probe(&self, id: InstanceId, path: &str, _: Duration) -> Answer {
        let mut script = self.script();
        script.calls.push(Call::Probe(id, path.to_owned()));
        match script.answers.get_mut(path) {
            Some(answers) if answers.len() > 1 => answers.pop_front().expect("it has two"),
            Some(answers) => answers.front().expect("it has one").clone(),
            None => Ok(200),
        }
    }

    async fn accepts(&self, id: InstanceId, _: Duration) -> Result<(), Failure> {
        let mut script = self.script();
        script.calls.push(Call::Accepts(id));
        script.refused_connections.pop_front().map_or(Ok(()), Err)
    }

    async fn stop(&self, id: InstanceId, drain: Duration) {
        let time = {
            let mut script = self.script();
            script.calls.push(Call::Stop(id, drain));
            script.stops_take
        };
        tokio::time::sleep(time).await;
    }

    async fn remove(&self, id: InstanceId) {
        self.script().calls.push(Call::Remove(id));
    }

    fn adopts(&self, _: &AssignedInstance) -> bool {
        self.script().adopts
    }
}
