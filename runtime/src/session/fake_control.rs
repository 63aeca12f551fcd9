//! A control plane for tests: it speaks the node endpoints on a real socket, says what the test says, and keeps what it was
//! told.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures::StreamExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use wharf_types::api::{ArtifactSources, SERVERS_HEADER};
use wharf_types::figures::NodeFigures;
use wharf_types::keyvalue::{KeyValueReply, KeyValueRequest};
use wharf_types::log::LogRecord;
use wharf_types::node::{Assignment, NodeRegistration, NodeReport, ReportAnswer};
use wharf_types::problem::ProblemCode;
use wharf_types::{Digest, InstanceId, NodeId, Problem, ProcessId};

use crate::control::ControlClient;

const TOKEN: &str = "secret";

pub(crate) struct FakeControl {
    address: SocketAddr,
    node: NodeId,
    told: Arc<Told>,
}

struct Told {
    assignment: watch::Sender<Option<Assignment>>,
    /// Streams of assignments end when it changes.
    cuts: watch::Sender<u32>,
    registrations: watch::Sender<u32>,
    reports: watch::Sender<NodeReport>,
    report_count: watch::Sender<u32>,
    logs: watch::Sender<Vec<LogRecord>>,
    script: Mutex<Script>,
}

#[derive(Default)]
struct Script {
    artifacts: HashMap<Digest, Vec<u8>>,
    artifacts_given: u32,
    sources: HashMap<Digest, Vec<NodeId>>,
    keyvalue: Option<Result<KeyValueReply, Problem>>,
    refused_reports: u32,
    refused_logs: u32,
    holds: Vec<InstanceId>,
    is_away: bool,
    is_expelled: bool,
    put_off: u32,
    knows_no_containers: bool,
    servers: Option<String>,
}

impl FakeControl {
    pub(crate) async fn start() -> Self {
        let nothing = NodeReport {
            process: ProcessId::default(),
            assignment_generation: 0,
            routes_generation: 0,
            instances: vec![],
            usage: vec![],
            figures: NodeFigures::default(),
        };
        let told = Arc::new(Told {
            assignment: watch::Sender::new(None),
            cuts: watch::Sender::new(0),
            registrations: watch::Sender::new(0),
            reports: watch::Sender::new(nothing),
            report_count: watch::Sender::new(0),
            logs: watch::Sender::new(Vec::new()),
            script: Mutex::default(),
        });
        let router = Router::new()
            .route("/v1/nodes/{node}", put(register))
            .route("/v1/nodes/{node}/assignments", get(assignments))
            .route("/v1/nodes/{node}/reports", post(report))
            .route("/v1/nodes/{node}/logs", post(logs))
            .route("/v1/nodes/{node}/keyvalue", post(keyvalue))
            .route("/v1/artifacts/{digest}", get(artifact))
            .route("/v1/artifacts/{digest}/sources", get(sources))
            .with_state(told.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, node: NodeId::new(), told }
    }

    pub(crate) fn client(&self) -> ControlClient {
        ControlClient::new(&format!("http://{}", self.address), TOKEN, self.node).unwrap()
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn assign(&self, assignment: Assignment) {
        self.told.assignment.send_replace(Some(assignment));
    }

    /// Ends every stream of assignments.
    pub(crate) fn cut(&self) {
        self.told.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub(crate) fn registrations(&self) -> watch::Receiver<u32> {
        self.told.registrations.subscribe()
    }

    /// The newest report.
    pub(crate) fn reports(&self) -> watch::Receiver<NodeReport> {
        self.told.reports.subscribe()
    }

    pub(crate) fn report_count(&self) -> watch::Receiver<u32> {
        self.told.report_count.subscribe()
    }

    /// Every record so far.
    pub(crate) fn logs(&self) -> watch::Receiver<Vec<LogRecord>> {
        self.told.logs.subscribe()
    }

    pub(crate) fn refuse_reports(&self, count: u32) {
        self.told.script.lock().unwrap().refused_reports = count;
    }

    /// From now on, answers let these singletons run on.
    pub(crate) fn hold(&self, ids: impl IntoIterator<Item = InstanceId>) {
        self.told.script.lock().unwrap().holds = ids.into_iter().collect();
    }

    /// Answers no registration, and ends the streams.
    pub(crate) fn go_away(&self, is_away: bool) {
        self.told.script.lock().unwrap().is_away = is_away;
        self.cut();
    }

    /// Knows no such node any more.
    pub(crate) fn expel(&self) {
        self.told.script.lock().unwrap().is_expelled = true;
    }

    /// So many registrations are told to come again after a second.
    pub(crate) fn put_off(&self, count: u32) {
        self.told.script.lock().unwrap().put_off = count;
    }

    /// Refuses registrations with an engine, as a version does that knows none.
    pub(crate) fn know_no_containers(&self) {
        self.told.script.lock().unwrap().knows_no_containers = true;
    }

    /// Says to those who register where the servers are.
    pub(crate) fn name_servers(&self, servers: &str) {
        self.told.script.lock().unwrap().servers = Some(servers.to_owned());
    }

    /// Where it is, as the addresses of servers are written.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn refuse_logs(&self, count: u32) {
        self.told.script.lock().unwrap().refused_logs = count;
    }

    pub(crate) fn store_artifact(&self, digest: Digest, bytes: &[u8]) {
        self.told.script.lock().unwrap().artifacts.insert(digest, bytes.to_vec());
    }

    /// How often an artifact was given out.
    pub(crate) fn artifacts_given(&self) -> u32 {
        self.told.script.lock().unwrap().artifacts_given
    }

    pub(crate) fn name_sources(&self, digest: Digest, nodes: Vec<NodeId>) {
        self.told.script.lock().unwrap().sources.insert(digest, nodes);
    }

    pub(crate) fn answer_keyvalue(&self, answer: Result<KeyValueReply, Problem>) {
        self.told.script.lock().unwrap().keyvalue = Some(answer);
    }
}

type Control = State<Arc<Told>>;

async fn register(
    State(told): Control,
    headers: HeaderMap,
    Json(registration): Json<NodeRegistration>,
) -> Response {
    if headers.get("authorization").is_none_or(|value| value != "Bearer secret") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if spend(&mut told.script.lock().unwrap().put_off) {
        let problem = Problem::new(ProblemCode::Busy, "many at once");
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], Json(problem)).into_response();
    }
    if told.script.lock().unwrap().knows_no_containers && registration.containers.is_some() {
        let problem = Problem::new(ProblemCode::InvalidRequest, "unknown field `containers`");
        return (StatusCode::BAD_REQUEST, Json(problem)).into_response();
    }
    told.registrations.send_modify(|count| *count += 1);
    let script = told.script.lock().unwrap();
    match (script.is_away, script.is_expelled) {
        (true, _) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        (_, true) => {
            let problem = Problem::new(ProblemCode::Forbidden, "there is no such node");
            (StatusCode::FORBIDDEN, Json(problem)).into_response()
        }
        _ => {
            let servers = script.servers.clone().map(|servers| (SERVERS_HEADER, servers));
            (StatusCode::NO_CONTENT, AppendHeaders(servers)).into_response()
        }
    }
}

async fn assignments(State(told): Control) -> Body {
    let mut cuts = told.cuts.subscribe();
    let cut = async move { cuts.changed().await };
    let lines = WatchStream::new(told.assignment.subscribe()).map(|assignment| {
        let document = assignment.map(|assignment| serde_json::to_string(&assignment).unwrap());
        Ok::<_, Infallible>(format!("{}\n", document.unwrap_or_default()))
    });
    Body::from_stream(lines.take_until(Box::pin(cut)))
}

async fn report(State(told): Control, Json(report): Json<NodeReport>) -> Response {
    if spend(&mut told.script.lock().unwrap().refused_reports) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    told.report_count.send_modify(|count| *count += 1);
    told.reports.send_replace(report);
    let holds = told.script.lock().unwrap().holds.clone();
    if holds.is_empty() {
        return StatusCode::NO_CONTENT.into_response();
    }
    Json(ReportAnswer { holds }).into_response()
}

async fn logs(State(told): Control, Json(records): Json<Vec<LogRecord>>) -> StatusCode {
    if spend(&mut told.script.lock().unwrap().refused_logs) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    told.logs.send_modify(|all| all.extend(records));
    StatusCode::NO_CONTENT
}

async fn keyvalue(State(told): Control, Json(_): Json<KeyValueRequest>) -> Response {
    match told.script.lock().unwrap().keyvalue.clone() {
        Some(Ok(reply)) => Json(reply).into_response(),
        Some(Err(problem)) => (StatusCode::from_u16(problem.status).unwrap(), Json(problem)).into_response(),
        None => StatusCode::NOT_IMPLEMENTED.into_response(),
    }
}

async fn artifact(State(told): Control, Path(digest): Path<Digest>) -> Response {
    let mut script = told.script.lock().unwrap();
    let Some(bytes) = script.artifacts.get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    script.artifacts_given += 1;
    bytes.into_response()
}

async fn sources(State(told): Control, Path(digest): Path<Digest>) -> Response {
    match told.script.lock().unwrap().sources.get(&digest) {
        Some(nodes) => Json(ArtifactSources { key: "key".into(), nodes: nodes.clone() }).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn spend(count: &mut u32) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}
