//! A worker without guests: it says of each instance what its environment tells it to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Method;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::ServiceExt;
use wharf_types::figures::{AppLoad, FrontDoorFigures, NodeFigures};
use wharf_types::node::{
    AppUsage, AssignedInstance, Assignment, InstanceReport, NodeReport, Reason, ReasonKind,
};
use wharf_types::protocol::{self, SPOKEN};
use wharf_types::state::{Health, InstanceState, Wanted};
use wharf_types::{InstanceId, NodeId, ProcessId};

use super::fixture::{Platform, request};

/// Last reports, which are repeated.
type Ended = Arc<Mutex<HashMap<InstanceId, InstanceReport>>>;

const HEARTBEAT: Duration = Duration::from_millis(500);

pub(super) struct Worker {
    pub(super) node: NodeId,
    seen: Arc<Mutex<Vec<(Instant, Assignment)>>>,
    /// Whether its ingress takes up new routes.
    takes_routes: watch::Sender<bool>,
    ended: Ended,
    /// What its front door says of apps that scale by it; sent at once.
    loads: watch::Sender<Vec<AppLoad>>,
    task: JoinHandle<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Worker {
    pub(super) async fn join(platform: &Platform) -> Self {
        Self::join_as(platform, NodeId::new()).await
    }

    pub(super) async fn join_as(platform: &Platform, node: NodeId) -> Self {
        Self::join_with(platform, node, "{}").await
    }

    /// `labels` is a JSON object.
    pub(super) async fn join_with(platform: &Platform, node: NodeId, labels: &str) -> Self {
        let more = format!(r#""labels":{labels}"#);
        Self::join_registered(platform, node, &more).await
    }

    /// One that runs containers.
    pub(super) async fn join_with_engine(platform: &Platform) -> Self {
        let more = r#""containers":{"os":"linux","architecture":"amd64"}"#;
        Self::join_registered(platform, NodeId::new(), more).await
    }

    /// `more` are fields of its registration.
    async fn join_registered(platform: &Platform, node: NodeId, more: &str) -> Self {
        let (router, token) = (platform.router.clone(), platform.node_token.clone());
        let registration =
            format!(r#"{{"hostname":"test","memory_bytes":4294967296,"cpus":2,"version":"0",{more}}}"#);
        let path = format!("/v1/nodes/{node}");
        let put = request(&token, Method::PUT, &path).header(protocol::HEADER, SPOKEN.to_string());
        let put = put.body(Body::from(registration)).unwrap();
        assert_eq!(router.clone().oneshot(put).await.unwrap().status(), 204);
        let stream =
            request(&token, Method::GET, &format!("{path}/assignments")).body(Body::empty()).unwrap();
        let stream = router.clone().oneshot(stream).await.unwrap();
        assert_eq!(stream.status(), 200);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let takes_routes = watch::Sender::new(true);
        let ended = Ended::default();
        let loads = watch::Sender::new(Vec::new());
        let reports = Reports {
            router,
            token,
            node,
            routes: 0,
            takes_routes: takes_routes.subscribe(),
            ended: ended.clone(),
            loads: loads.subscribe(),
        };
        let task = tokio::spawn(run(reports, stream.into_body(), seen.clone()));
        Self { node, seen, takes_routes, ended, loads, task }
    }

    /// It works for as long as the test goes on.
    pub(super) fn until_the_end(self) -> NodeId {
        std::mem::ManuallyDrop::new(self).node
    }

    /// Every assignment so far, with the time of its arrival.
    pub(super) fn assignments(&self) -> Vec<(Instant, Assignment)> {
        self.seen.lock().unwrap().clone()
    }

    /// With `false`, its ingress keeps to the routes that it has, until it may take up the newest.
    pub(super) fn take_routes(&self, takes: bool) {
        self.takes_routes.send_replace(takes);
    }

    /// An instance that runs ends by its own fault; the next heartbeat says so.
    pub(super) fn fail(&self, id: InstanceId, message: &str) {
        self.ended.lock().unwrap().insert(id, failure(id, message));
    }

    /// From now on its front door has so many requests of `hello` open, and so many that wait.
    pub(super) fn is_asked(&self, open: u64, waiting: u64) {
        let (namespace, app) = ("default".parse().unwrap(), "hello".parse().unwrap());
        self.loads.send_replace(vec![AppLoad { namespace, app, waiting, open_thousandths: open * 1000 }]);
    }

    /// The guest of a command ends with this code.
    pub(super) fn exit(&self, id: InstanceId, code: i32) {
        let state = if code == 0 { InstanceState::Stopped } else { InstanceState::Failed };
        let reason = Some(Reason { kind: ReasonKind::Exit, message: format!("it ended with {code}") });
        let report = InstanceReport { exit_code: Some(code), reason, ..report(id, state, Health::Unknown) };
        self.ended.lock().unwrap().insert(id, report);
    }

    /// Whether the stream of its assignments has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub(super) fn newest(&self) -> Option<Assignment> {
        self.seen.lock().unwrap().last().map(|(_, assignment)| assignment.clone())
    }
}

/// How the worker reports.
struct Reports {
    router: Router,
    token: String,
    node: NodeId,
    /// The routes that the ingress uses.
    routes: u64,
    takes_routes: watch::Receiver<bool>,
    ended: Ended,
    loads: watch::Receiver<Vec<AppLoad>>,
}

async fn run(mut reports: Reports, body: Body, seen: Arc<Mutex<Vec<(Instant, Assignment)>>>) {
    let mut stream = body.into_data_stream();
    let mut pending = Vec::new();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        let again = async {
            tokio::select! {
                _ = heartbeat.tick() => {}
                Ok(()) = reports.takes_routes.changed() => {}
                Ok(()) = reports.loads.changed() => {}
            }
        };
        let chunk = tokio::select! {
            chunk = stream.next() => chunk,
            () = again => {
                let newest = seen.lock().unwrap().last().map(|(_, assignment)| assignment.clone());
                if let Some(newest) = newest {
                    reports.send(&newest).await;
                }
                continue;
            }
        };
        let Some(Ok(chunk)) = chunk else { return };
        pending.extend_from_slice(&chunk);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if line.len() < 2 {
                continue;
            }
            let assignment: Assignment = serde_json::from_slice(&line).unwrap();
            seen.lock().unwrap().push((Instant::now(), assignment.clone()));
            reports.send(&assignment).await;
        }
    }
}

impl Reports {
    async fn send(&mut self, assignment: &Assignment) {
        if *self.takes_routes.borrow_and_update() {
            self.routes = assignment.routes.generation;
        }
        let report = NodeReport {
            process: ProcessId::default(),
            assignment_generation: assignment.generation,
            routes_generation: self.routes,
            instances: assignment.instances.iter().map(|instance| observe(instance, &self.ended)).collect(),
            usage: vec![AppUsage {
                invocations: 7,
                cpu_millis: 1,
                ..AppUsage::new("default".parse().unwrap(), "hello".parse().unwrap(), 1)
            }],
            figures: NodeFigures {
                front_door: FrontDoorFigures {
                    loads: self.loads.borrow_and_update().clone(),
                    ..FrontDoorFigures::default()
                },
                ..NodeFigures::default()
            },
        };
        let path = format!("/v1/nodes/{}/reports", self.node);
        let body = Body::from(serde_json::to_vec(&report).unwrap());
        let post = request(&self.token, Method::POST, &path).body(body).unwrap();
        assert_eq!(self.router.clone().oneshot(post).await.unwrap().status(), 204);
    }
}

fn observe(instance: &AssignedInstance, ended: &Ended) -> InstanceReport {
    let mut ended = ended.lock().unwrap();
    if let Some(report) = ended.get(&instance.id) {
        return report.clone();
    }
    let id = instance.id;
    let report = match (instance.wanted, instance.spec.env.get("FAIL")) {
        (_, Some(message)) => failure(id, message),
        (Wanted::Stop, None) => report(id, InstanceState::Stopped, Health::Unknown),
        (Wanted::Run | Wanted::Unroute, None) => report(id, InstanceState::Running, Health::Healthy),
    };
    if report.state.is_final() {
        ended.insert(id, report.clone());
    }
    report
}

fn report(id: InstanceId, state: InstanceState, health: Health) -> InstanceReport {
    InstanceReport { id, replaces: None, state, health, reason: None, restarts: 0, exit_code: None }
}

fn failure(id: InstanceId, message: &str) -> InstanceReport {
    let reason = Some(Reason { kind: ReasonKind::Trap, message: message.to_owned() });
    InstanceReport { reason, ..report(id, InstanceState::Failed, Health::Unknown) }
}
