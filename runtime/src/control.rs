//! The worker's client of the control plane.
//!
//! One request per method, no retries and no state: when to call, and what to do when a call fails, is the business of
//! [`crate::session`], [`crate::logs`] and the backends.

mod lines;
pub(crate) mod orders;
mod servers;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{RequestBuilder, Response, Url};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinError;
use wharf_types::api::{
    AUTHORITIES_HEADER, ArtifactSources, CertificateRequest, Leaving, NodeCertificate, SERVERS_HEADER,
};
use wharf_types::delta::{DELTAS, Told};
use wharf_types::digest::Digest;
use wharf_types::keyvalue::{KeyValueReply, KeyValueRequest};
use wharf_types::log::LogRecord;
use wharf_types::node::{NodeRegistration, NodeReport, ReportAnswer};
use wharf_types::problem::ProblemCode;
use wharf_types::protocol::{self, Incompatible, Versions};
use wharf_types::{NodeId, Problem, ProcessId};

use self::lines::{Lines, TooLong};
pub use self::servers::Heard;
use self::servers::Servers;

/// How long a small request may take, from its first octet to the last one of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for an artifact, which may have hundreds of megabytes.
const ARTIFACT_TIMEOUT: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that vanished without a word is noticed after about three of these.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// How often a connection over HTTP/2 is asked whether it lives, and how long the answer may take.
const PING: Duration = Duration::from_secs(1);
/// Nobody waits for longer, whatever an answer says.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Servers that one answer may name; beyond that it is nonsense.
const SERVERS_MAX: usize = 32;
/// The longest assignment, in octets.
const ASSIGNMENT_MAX_BYTES: usize = 64 << 20;
/// The longest answer of any other kind except an artifact, in octets.
const ANSWER_MAX_BYTES: usize = 16 << 20;
/// What a key-value operation does.
const KEY_VALUE: &str = "reach the key-value store";
/// Octets that are written as JSON, or read from it, between two polls: some hundred microseconds.
const ASIDE_BYTES: usize = 128 << 10;
/// The largest artifact, in octets.
pub(crate) const ARTIFACT_MAX_BYTES: usize = 1 << 30;

/// Speaks to the control plane as one node; cheap to clone.
#[derive(Clone)]
pub struct ControlClient(Arc<Inner>);

struct Inner {
    http: ArcSwap<reqwest::Client>,
    /// Opens a connection for each request that goes on for long: who does not read there must hold up nothing else.
    apart: ArcSwap<reqwest::Client>,
    servers: Servers,
    node: NodeId,
    speaks: Versions,
    /// What tells the CAs that are believed here from others.
    believes: ArcSwapOption<String>,
    /// The same of those that should be, as an answer has said last.
    should_believe: watch::Sender<Option<String>>,
    /// What was said last of where the servers are.
    heard: watch::Sender<Heard>,
    /// When one of them has answered last, and not with a failure of its own.
    heard_at: Mutex<Option<Instant>>,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the address of the control plane, `{0}`, is not an `http://` or `https://` address with a host")]
    Address(String),
    #[error("the node's token is not text that fits into an HTTP header")]
    Token,
    #[error("could not set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    #[error("could not {what}: the control plane does not answer")]
    Unreachable {
        what: &'static str,
        #[source]
        source: reqwest::Error,
    },
    /// A 4xx: the same request will be refused again.
    #[error("{0}")]
    Refused(Problem),
    /// A 429: the same request will be taken after so long.
    #[error("could not {what} yet: {detail}")]
    Later { what: &'static str, detail: String, wait: Duration },
    #[error("the control plane does not speak the versions of this worker: {0}")]
    Versions(Incompatible),
    #[error("could not {what}: the control plane answered {status}: {detail}")]
    Failed { what: &'static str, status: u16, detail: String },
    #[error(
        "could not {what}: the answer is not understood; control plane and worker may be of different versions"
    )]
    Decode {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("could not {what}: the answer has more than {max_bytes} octets")]
    TooLong { what: &'static str, max_bytes: usize },
    #[error("assignment {generation} changes one that was not accepted here, {after}")]
    Gap { after: u64, generation: u64 },
    #[error("the control plane sent {found} when asked for the artifact {wanted}; its store may be damaged")]
    Digest { wanted: Digest, found: Digest },
}

impl ControlError {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Failed { .. } | Self::Digest { .. } => true,
            Self::Later { .. } | Self::Gap { .. } => true,
            Self::Address(_) | Self::Token | Self::Setup(_) | Self::Refused(_) => false,
            Self::Decode { .. } | Self::TooLong { .. } | Self::Versions(_) => false,
        }
    }

    /// How long to wait before the same is asked again, where the control plane has said so.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Later { wait, .. } => Some(*wait),
            _ => None,
        }
    }
}

impl ControlClient {
    /// `api` is the address of the control plane, such as `http://127.0.0.1:7070`; `token` is the node's own.
    pub fn new(api: &str, token: &str, node: NodeId) -> Result<Self, ControlError> {
        let api = address(api)?;
        let mut bearer =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| ControlError::Token)?;
        bearer.set_sensitive(true);
        // The HTTP client asks for a provider even when it will never see an `https` address. An error says that the
        // process has chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = client()
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            .build()
            .map_err(ControlError::Setup)?;
        Ok(Self::of(http.clone(), http, vec![api], node))
    }

    /// Of the control plane of a cluster, at any of these addresses. `tls` shows the node's certificate.
    pub fn over_tls(apis: &[String], tls: ClientConfig, node: NodeId) -> Result<Self, ControlError> {
        let apis = apis.iter().map(|api| address(api)).collect::<Result<Vec<Url>, _>>()?;
        if apis.is_empty() {
            return Err(ControlError::Address(String::new()));
        }
        Ok(Self::of(client_over(tls.clone())?, client_apart(tls)?, apis, node))
    }

    fn of(http: reqwest::Client, apart: reqwest::Client, apis: Vec<Url>, node: NodeId) -> Self {
        Self(Arc::new(Inner {
            http: ArcSwap::from_pointee(http),
            apart: ArcSwap::from_pointee(apart),
            servers: Servers::new(apis),
            node,
            speaks: protocol::SPOKEN,
            believes: ArcSwapOption::empty(),
            should_believe: watch::Sender::default(),
            heard: watch::Sender::default(),
            heard_at: Mutex::default(),
        }))
    }

    /// Speaks these versions of the node protocol instead of all that this program does.
    ///
    /// # Panics
    ///
    /// When there is a clone already, which would go on with others.
    #[must_use]
    pub fn speaking(mut self, speaks: Versions) -> Self {
        Arc::get_mut(&mut self.0).expect("it was not cloned yet").speaks = speaks;
        self
    }

    /// What it speaks.
    pub fn speaks(&self) -> Versions {
        self.0.speaks
    }

    /// From now on this is said of which CAs are believed here.
    pub fn believe(&self, tag: String) {
        if self.0.speaks.knows(2) {
            self.0.believes.store(Some(Arc::new(tag)));
        }
    }

    /// Waits until the control plane says that others should be believed than those of this tag.
    pub async fn should_believe_others_than(&self, tag: &str) {
        let mut said = self.0.should_believe.subscribe();
        // The sender lives as long as this client.
        let _ = said.wait_for(|said| said.as_ref().is_some_and(|said| said != tag)).await;
    }

    /// From now on connections show another certificate.
    pub fn use_tls(&self, tls: ClientConfig) -> Result<(), ControlError> {
        self.0.http.store(Arc::new(client_over(tls.clone())?));
        self.0.apart.store(Arc::new(client_apart(tls)?));
        Ok(())
    }

    /// What answers say of where the servers are.
    pub fn heard(&self) -> watch::Receiver<Heard> {
        self.0.heard.subscribe()
    }

    /// When the control plane has answered last, and not with a failure of its own. None: it has not yet.
    pub fn heard_at(&self) -> Option<Instant> {
        *self.0.heard_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is another server to ask when one does not answer.
    pub fn has_several_servers(&self) -> bool {
        self.0.servers.all().len() > 1
    }

    /// Where the servers are that are asked: names, or addresses.
    pub(crate) fn server_hosts(&self) -> Vec<String> {
        let hosts = self.0.servers.all();
        let hosts = hosts.iter().filter_map(|url| url.host_str());
        hosts.map(|host| host.trim_matches(['[', ']']).to_owned()).collect()
    }

    /// From now on these are asked. The one that answers now is asked on, if it is among them.
    pub fn use_servers(&self, apis: &[String]) -> Result<(), ControlError> {
        self.0.servers.set(apis.iter().map(|api| address(api)).collect::<Result<_, _>>()?);
        Ok(())
    }

    /// Asks for another certificate, for the key of a request in PEM.
    pub async fn renew(&self, request: &str) -> Result<NodeCertificate, ControlError> {
        let what = "renew the certificate";
        let call = self.request(Method::POST, &self.node_path("/certificate")).timeout(REQUEST_TIMEOUT);
        let response = self.send(what, json(call, &certificate_request(request))).await?;
        decode(what, &read(what, response, ANSWER_MAX_BYTES).await?)
    }

    /// Sends; where nobody answers, the next call asks another control plane.
    async fn send(&self, what: &'static str, request: RequestBuilder) -> Result<Response, ControlError> {
        let at = self.0.servers.current();
        let sent = match send(what, request).await {
            // Whoever is of version 1 does not know that it is to come later, and comes when it would after any failure.
            Err(ControlError::Later { what, detail, .. }) if !self.0.speaks.knows(2) => {
                Err(ControlError::Failed { what, status: 429, detail })
            }
            sent => sent,
        };
        if !matches!(sent, Err(ControlError::Unreachable { .. } | ControlError::Failed { .. })) {
            *self.0.heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        if let Ok(answer) = &sent
            && self.0.speaks.knows(2)
        {
            self.take_note(answer);
        }
        // One that does not lead answers 503.
        if matches!(sent, Err(ControlError::Unreachable { .. } | ControlError::Failed { status: 503, .. })) {
            self.0.servers.move_on(&at);
        }
        sent
    }

    /// Of what an answer says beside what was asked.
    fn take_note(&self, answer: &Response) {
        let said = |header: &str| answer.headers().get(header).and_then(|said| said.to_str().ok());
        if let Some(tag) = said(AUTHORITIES_HEADER) {
            self.0.should_believe.send_if_modified(|known| {
                let is_news = known.as_deref() != Some(tag);
                if is_news {
                    *known = Some(tag.to_owned());
                }
                is_news
            });
        }
        let servers = said(SERVERS_HEADER).unwrap_or_default();
        let servers = servers.split(',').map(str::trim).filter(|server| !server.is_empty());
        let heard = Heard {
            from: host_and_port(answer.url()),
            servers: servers.take(SERVERS_MAX).map(str::to_owned).collect(),
        };
        self.0.heard.send_if_modified(|known| {
            let is_news = *known != heard;
            if is_news {
                *known = heard;
            }
            is_news
        });
    }

    /// The same for artifacts. There a 503 may be about their storage, for which the next control plane has no other: whether this one
    /// leads is seen by the session.
    async fn send_for_artifact(
        &self,
        what: &'static str,
        request: RequestBuilder,
    ) -> Result<Response, ControlError> {
        let at = self.0.servers.current();
        let sent = send(what, request).await;
        if matches!(sent, Err(ControlError::Unreachable { .. })) {
            self.0.servers.move_on(&at);
        }
        sent
    }

    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// Returns the version of the node protocol that both sides speak from then on.
    pub async fn register(&self, registration: &NodeRegistration) -> Result<u32, ControlError> {
        let registered = self.register_as(registration).await;
        let is_too_new = matches!(&registered, Err(ControlError::Refused(problem)) if knows_none(problem));
        if !is_too_new || registration.containers.is_none() {
            return registered;
        }
        tracing::warn!(
            "the control plane is of a version that knows no containers, and this node gets none: upgrade the control plane"
        );
        let without = NodeRegistration { containers: None, ..registration.clone() };
        self.register_as(&without).await
    }

    async fn register_as(&self, registration: &NodeRegistration) -> Result<u32, ControlError> {
        let what = "register the node";
        let speaks = self.0.speaks;
        let mut request = self.request(Method::PUT, &self.node_path("")).timeout(REQUEST_TIMEOUT);
        if let Some(said) = speaks.said() {
            request = request.header(protocol::HEADER, said);
        }
        let answer = self.send(what, json(request, registration)).await?;
        let said = answer.headers().get(protocol::HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        // Whoever is of version 1 knows nothing of what an answer may say.
        let said = said.filter(|_| speaks.knows(2));
        protocol::agree(speaks, said.unwrap_or(Versions::UNSAID)).map_err(ControlError::Versions)
    }

    /// The assignments of this node: the newest whole, and then what changes of it, or each next one whole. Ends when the control plane ends it, or when another process of the worker
    /// has registered.
    pub async fn assignments(
        &self,
        process: ProcessId,
    ) -> Result<impl Stream<Item = Result<Told, ControlError>> + Send + use<>, ControlError> {
        let what = "follow the assignments";
        let mut request = self.request(Method::GET, &self.node_path("/assignments"));
        if self.0.speaks.knows(2) {
            request = request.header(ACCEPT, DELTAS);
        }
        let response = self.send(what, request.query(&[("process", process)])).await?;
        let lines = Lines::new(response.bytes_stream(), ASSIGNMENT_MAX_BYTES);
        Ok(lines.into_stream().map(move |line| {
            let line = line.map_err(|error| line_error(what, error))?;
            Told::read(&line).map_err(|source| ControlError::Decode { what, source })
        }))
    }

    /// Says that this process is about to end, and returns how much of what it runs has not started elsewhere yet.
    pub async fn leave(&self, process: ProcessId) -> Result<u64, ControlError> {
        let what = "ask to be emptied";
        let request = self.request(Method::POST, &self.node_path("/leave")).timeout(REQUEST_TIMEOUT);
        let response = self.send(what, request.query(&[("process", process)])).await?;
        let Leaving { instances } = decode(what, &read(what, response, ANSWER_MAX_BYTES).await?)?;
        Ok(instances)
    }

    pub async fn report(&self, report: &NodeReport) -> Result<ReportAnswer, ControlError> {
        self.send_report(encode(report)).await
    }

    /// Sends a [`NodeReport`] that is JSON already.
    pub(crate) async fn send_report(&self, report: Bytes) -> Result<ReportAnswer, ControlError> {
        let what = "report to the control plane";
        let request = self.request(Method::POST, &self.node_path("/reports")).timeout(REQUEST_TIMEOUT);
        let request = request.header(CONTENT_TYPE, "application/json").body(report);
        let response = self.send(what, request).await?;
        if response.status() == StatusCode::NO_CONTENT || !self.0.speaks.knows(2) {
            return Ok(ReportAnswer::default());
        }
        decode(what, &read(what, response, ANSWER_MAX_BYTES).await?)
    }

    pub async fn send_logs(&self, records: &[LogRecord]) -> Result<(), ControlError> {
        let request = self.request(Method::POST, &self.node_path("/logs")).timeout(REQUEST_TIMEOUT);
        self.send("send log records", json(request, records)).await.map(drop)
    }

    /// Has a key-value operation carried out, which [`encode_keyvalue`] has written, and returns the answer for [`decode_keyvalue`]. A quota that is used up
    /// is [`ControlError::Refused`].
    pub(crate) async fn send_keyvalue(&self, request: Bytes) -> Result<Bytes, ControlError> {
        let call = self.request(Method::POST, &self.node_path("/keyvalue")).timeout(REQUEST_TIMEOUT);
        let call = call.header(CONTENT_TYPE, "application/json").body(request);
        let response = self.send(KEY_VALUE, call).await?;
        read(KEY_VALUE, response, ANSWER_MAX_BYTES).await
    }

    /// The bytes of an artifact, checked against its digest.
    pub async fn artifact(&self, digest: Digest) -> Result<Bytes, ControlError> {
        let what = "fetch the artifact";
        let request = self.request(Method::GET, &format!("v1/artifacts/{digest}")).timeout(ARTIFACT_TIMEOUT);
        let bytes = read(what, self.send_for_artifact(what, request).await?, ARTIFACT_MAX_BYTES).await?;
        let found = Digest::of(&bytes);
        if found == digest { Ok(bytes) } else { Err(ControlError::Digest { wanted: digest, found }) }
    }

    /// The same as it comes, and not checked. Over a connection of its own: while the disk takes nothing it is not read.
    pub(crate) async fn artifact_stream(
        &self,
        digest: Digest,
    ) -> Result<impl Stream<Item = Result<Bytes, ControlError>> + Send + use<>, ControlError> {
        let what = "fetch the artifact";
        let path = format!("v1/artifacts/{digest}");
        let request = self.request_by(&self.0.apart.load(), Method::GET, &path);
        let response = self.send_for_artifact(what, request).await?;
        Ok(response.bytes_stream().map_err(move |source| ControlError::Unreachable { what, source }))
    }

    /// Which other nodes have an artifact, and what they give it for.
    pub async fn artifact_sources(&self, digest: Digest) -> Result<ArtifactSources, ControlError> {
        let what = "ask who has the artifact";
        let path = format!("v1/artifacts/{digest}/sources");
        let request = self.request(Method::GET, &path).timeout(REQUEST_TIMEOUT);
        decode(what, &read(what, self.send_for_artifact(what, request).await?, ANSWER_MAX_BYTES).await?)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_by(&self.0.http.load(), method, path)
    }

    fn request_by(&self, http: &reqwest::Client, method: Method, path: &str) -> RequestBuilder {
        let url = path_of(&self.0.servers.current(), path);
        let request = http.request(method, url);
        match &*self.0.believes.load() {
            Some(tag) => request.header(AUTHORITIES_HEADER, tag.as_str()),
            None => request,
        }
    }

    fn node_path(&self, rest: &str) -> String {
        format!("v1/nodes/{}{rest}", self.0.node)
    }
}

impl fmt::Debug for ControlClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The HTTP client holds the token.
        f.debug_struct("ControlClient")
            .field("servers", &self.0.servers.all())
            .field("node", &self.0.node)
            .finish_non_exhaustive()
    }
}

/// Makes a host a node: `secret` is that of a join token, `request` in PEM, `tls` what checks the control plane. Where a server does not answer,
/// or cannot, the next one is asked: the same request makes the same node at each of them. An error is that of the first one that has answered,
/// or of the last one.
pub async fn join(
    apis: &[String],
    tls: ClientConfig,
    secret: &str,
    request: &str,
) -> Result<NodeCertificate, ControlError> {
    let what = "join";
    let http = client().tls_backend_preconfigured(tls).build().map_err(ControlError::Setup)?;
    let mut failed = ControlError::Address(String::new());
    for api in apis {
        let url = path_of(&address(api)?, "v1/join");
        let call = http.request(Method::POST, url).bearer_auth(secret).timeout(REQUEST_TIMEOUT);
        let asked = async {
            let response = send(what, json(call, &certificate_request(request))).await?;
            decode(what, &read(what, response, ANSWER_MAX_BYTES).await?)
        };
        match asked.await {
            Ok(issued) => return Ok(issued),
            Err(error) if !error.is_retryable() => return Err(error),
            Err(error) if matches!(failed, ControlError::Unreachable { .. } | ControlError::Address(_)) => {
                failed = error;
            }
            Err(_) => {}
        }
    }
    Err(failed)
}

fn certificate_request(request: &str) -> CertificateRequest {
    CertificateRequest { request: request.to_owned() }
}

/// Whether a registration was refused because its reader, who refuses fields that it does not know, has never heard of containers.
fn knows_none(problem: &Problem) -> bool {
    problem.code == ProblemCode::InvalidRequest && problem.detail.contains("unknown field `containers`")
}

fn address(api: &str) -> Result<Url, ControlError> {
    let invalid = || ControlError::Address(api.chars().take(200).collect());
    let url = Url::parse(api).map_err(|_| invalid())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(invalid());
    }
    Ok(url)
}

fn host_and_port(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

fn path_of(api: &Url, path: &str) -> Url {
    let mut url = api.clone();
    url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
    url
}

fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE)
        .connect_timeout(CONNECT_TIMEOUT)
        // A proxy of the user's environment is for the outside world, and would see the token.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
}

/// One connection for everything. A host that is gone without a word is noticed by it within two pings.
fn client_over(mut tls: ClientConfig) -> Result<reqwest::Client, ControlError> {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    client()
        .tls_backend_preconfigured(tls)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .http2_keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .build()
        .map_err(ControlError::Setup)
}

/// A connection for each request under way.
fn client_apart(mut tls: ClientConfig) -> Result<reqwest::Client, ControlError> {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let client = client().tls_backend_preconfigured(tls).http1_only();
    // One that is done is closed, so that a control plane that stops does not wait for it.
    client.pool_max_idle_per_host(0).build().map_err(ControlError::Setup)
}

fn line_error(what: &'static str, error: lines::LineError<reqwest::Error>) -> ControlError {
    match error {
        lines::LineError::Read(source) => ControlError::Unreachable { what, source },
        lines::LineError::TooLong(TooLong { max_bytes }) => ControlError::TooLong { what, max_bytes },
    }
}

/// JSON of one of the wire structures.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("a wire structure has text keys only, so it is JSON").into()
}

pub(crate) async fn encode_keyvalue(request: KeyValueRequest) -> Bytes {
    aside(request.op.bytes(), move || encode(&request)).await
}

pub(crate) async fn decode_keyvalue(answer: Bytes) -> Result<KeyValueReply, ControlError> {
    aside(answer.len(), move || decode(KEY_VALUE, &answer)).await
}

/// Does what takes its time with so many octets where nobody waits behind it: the thread serves others, too. The runtime of a guest that has computed for long
/// does it when nobody else wants the CPU.
async fn aside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= ASIDE_BYTES {
        return work();
    }
    match tokio::task::spawn_blocking(work).await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The process ends.
        Err(Err(_)) => std::future::pending().await,
    }
}

fn json<T: Serialize + ?Sized>(request: RequestBuilder, value: &T) -> RequestBuilder {
    request.header(CONTENT_TYPE, "application/json").body(encode(value))
}

fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(bytes).map_err(|source| ControlError::Decode { what, source })
}

/// Sends, and sorts out answers that are no success.
async fn send(what: &'static str, request: RequestBuilder) -> Result<Response, ControlError> {
    let response = request.send().await.map_err(|source| ControlError::Unreachable { what, source })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let wait = (status.as_u16() == 429).then(|| retry_after(response.headers()));
    let body = read(what, response, ANSWER_MAX_BYTES).await.unwrap_or_default();
    let status = status.as_u16();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(Problem { detail, .. }) if let Some(wait) = wait => {
            Err(ControlError::Later { what, detail, wait })
        }
        Ok(problem) if (400..500).contains(&status) => Err(ControlError::Refused(problem)),
        Ok(problem) => Err(ControlError::Failed { what, status, detail: problem.detail }),
        Err(_) => {
            let detail = String::from_utf8_lossy(&body).trim().chars().take(300).collect();
            Err(ControlError::Failed { what, status, detail })
        }
    }
}

/// A second, where the answer does not say.
fn retry_after(headers: &HeaderMap) -> Duration {
    let secs = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(secs.unwrap_or(1)).min(RETRY_AFTER_MAX)
}

async fn read(what: &'static str, response: Response, max_bytes: usize) -> Result<Bytes, ControlError> {
    let announced = response.content_length().unwrap_or(0);
    if announced > max_bytes as u64 {
        return Err(ControlError::TooLong { what, max_bytes });
    }
    // What was announced is not reserved before it comes: it may never come.
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream().map_err(|source| ControlError::Unreachable { what, source });
    while let Some(chunk) = chunks.try_next().await? {
        if body.len() + chunk.len() > max_bytes {
            return Err(ControlError::TooLong { what, max_bytes });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::fake_control::FakeControl;
    use wharf_types::NamespaceName;
    use wharf_types::image::Platform;
    use wharf_types::keyvalue::KeyValueOp;

    fn increment() -> KeyValueRequest {
        KeyValueRequest {
            namespace: NamespaceName::default_namespace(),
            app: "hello".parse().unwrap(),
            bucket: "default".into(),
            op: KeyValueOp::Increment { key: "visits".into(), delta: 1 },
        }
    }

    #[test]
    fn an_address_without_a_host_is_refused() {
        for bad in ["", "127.0.0.1:7070", "ftp://example.com", "http://"] {
            let error = ControlClient::new(bad, "secret", NodeId::new()).unwrap_err();
            assert!(matches!(error, ControlError::Address(_)), "{bad}: {error}");
        }
    }

    #[test]
    fn the_token_is_not_shown() {
        let client = ControlClient::new("http://127.0.0.1:1", "secret", NodeId::new()).unwrap();
        assert!(!format!("{client:?}").contains("secret"));
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_problem() {
        let control = FakeControl::start().await;
        control.answer_keyvalue(Err(Problem::new(ProblemCode::QuotaExceeded, "256 MiB are full")));
        let client = control.client();
        let call = async || decode_keyvalue(client.send_keyvalue(encode(&increment())).await?).await;
        let error = call().await.unwrap_err();
        assert!(
            matches!(&error, ControlError::Refused(problem) if problem.code == ProblemCode::QuotaExceeded)
        );
        assert_eq!((error.to_string().as_str(), error.is_retryable()), ("256 MiB are full", false));
        control.answer_keyvalue(Ok(KeyValueReply::Number(1)));
        assert_eq!(call().await.unwrap(), KeyValueReply::Number(1));
    }

    #[tokio::test]
    async fn a_node_with_an_engine_registers_without_it_where_nobody_knows_what_that_is() {
        let control = FakeControl::start().await;
        control.know_no_containers();
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        let registration = NodeRegistration { containers: Some(platform), ..NodeRegistration::default() };
        assert_eq!(control.client().register(&registration).await.unwrap(), 1);
        assert_eq!(*control.registrations().borrow(), 1);
    }

    #[tokio::test]
    async fn a_worker_of_version_1_is_told_no_time_to_come() {
        let control = FakeControl::start().await;
        control.put_off(2);
        let registration = NodeRegistration::default();
        let told = control.client().register(&registration).await.unwrap_err();
        assert!(told.wait().is_some(), "{told}");
        let older = control.client().speaking(Versions::UNSAID);
        let told = older.register(&registration).await.unwrap_err();
        assert!(told.wait().is_none() && told.is_retryable(), "{told}");
        assert_eq!(older.register(&registration).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn what_an_answer_says_of_servers_is_passed_on_and_who_is_of_version_1_does_not_hear_it() {
        let control = FakeControl::start().await;
        let client = control.client();
        let heard = client.heard();
        assert!(client.heard_at().is_none());
        client.register(&NodeRegistration::default()).await.unwrap();
        let silent = Heard { from: control.address(), servers: Vec::new() };
        assert_eq!(*heard.borrow(), silent);
        control.name_servers("10.0.0.1:7071, b.example:7071,");
        client.register(&NodeRegistration::default()).await.unwrap();
        assert_eq!(heard.borrow().servers, ["10.0.0.1:7071", "b.example:7071"]);
        assert!(client.heard_at().is_some());
        let older = control.client().speaking(Versions::UNSAID);
        older.register(&NodeRegistration::default()).await.unwrap();
        assert_eq!(*older.heard().borrow(), Heard::default());
    }

    /// A server where hosts come to join, and its address.
    async fn door(status: StatusCode, answer: serde_json::Value) -> String {
        let route = axum::routing::post(move || {
            let answer = answer.clone();
            async move { (status, axum::Json(answer)) }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().route("/v1/join", route);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn a_host_that_joins_goes_on_where_a_server_cannot_and_takes_a_refusal_for_an_answer() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let joins = async |apis: &[&String]| {
            let apis: Vec<String> = apis.iter().map(|api| (*api).clone()).collect();
            join(&apis, tls.clone(), "secret", "request").await
        };
        let problem = |code| serde_json::to_value(Problem::new(code, "why")).unwrap();
        let node = NodeId::new();
        let issued = serde_json::json!({"node": node, "certificate": "c", "authorities": "a"});
        let gone = "http://127.0.0.1:1".to_owned();
        let away = door(StatusCode::SERVICE_UNAVAILABLE, problem(ProblemCode::Unavailable)).await;
        let refuses = door(StatusCode::UNAUTHORIZED, problem(ProblemCode::Unauthenticated)).await;
        let takes = door(StatusCode::CREATED, issued).await;
        assert_eq!(joins(&[&gone, &away, &takes]).await.unwrap().node, node);
        let refused = joins(&[&away, &refuses, &takes]).await.unwrap_err();
        assert!(matches!(refused, ControlError::Refused(_)), "{refused}");
        // Who has answered has more to say than who has not.
        let failed = joins(&[&gone, &away, &gone]).await.unwrap_err();
        assert!(matches!(failed, ControlError::Failed { status: 503, .. }), "{failed}");
    }

    #[tokio::test]
    async fn an_artifact_is_checked_against_its_digest() {
        let control = FakeControl::start().await;
        control.store_artifact(Digest::of(b"hello"), b"hello");
        control.store_artifact(Digest::of(b"other"), b"hello");
        assert_eq!(control.client().artifact(Digest::of(b"hello")).await.unwrap(), &b"hello"[..]);
        let error = control.client().artifact(Digest::of(b"other")).await.unwrap_err();
        assert!(matches!(error, ControlError::Digest { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_control_plane_that_is_down_is_unreachable_for_now() {
        let client = ControlClient::new("http://127.0.0.1:1", "secret", NodeId::new()).unwrap();
        let error = client.artifact(Digest::of(b"hello")).await.unwrap_err();
        assert!(matches!(error, ControlError::Unreachable { .. }) && error.is_retryable(), "{error}");
    }
}
