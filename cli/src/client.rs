//! The API's client: one method a route, errors as [`Problem`]s or as [`Failure`]s with an exit code.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use wharf_types::api::{
    AppInfo, ArtifactInfo, CreateNamespace, CreateRelease, CreateToken, CreatedToken, Deployed, Env,
    EnvPatch, NamespaceInfo, NodeInfo, Page, ReleaseInfo, Rollback, RolloutInfo, Scale, TokenInfo, Usage,
    WhoAmI, Why,
};
use wharf_types::{Digest, NamespaceName, Problem, RolloutId};

use crate::context::{AppRef, Target};
use crate::exit::{Exit, Failure};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// An upload may be slow, and its artifact is compiled before the reply.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// Of a list of any length; a server that never ends its pages must not keep us for ever.
const PAGES_MAX: usize = 1000;

#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    api: String,
    token: Option<String>,
}

impl Client {
    pub fn new(target: &Target) -> anyhow::Result<Self> {
        Self::with_token(&target.api, target.token.read()?)
    }

    pub fn with_token(api: &str, token: Option<String>) -> anyhow::Result<Self> {
        let url = reqwest::Url::parse(api)
            .ok()
            .filter(|url| url.host().is_some() && matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| {
                Failure::usage(format!("`{api}` is not an address of a platform: write `https://HOST`"))
            })?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if url.scheme() == "http" {
            // Loading the machine's certificates takes longer than the whole command.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        let http = builder.build().context("could not set up the HTTP client")?;
        Ok(Self { http, api: api.to_owned(), token })
    }

    pub async fn whoami(&self) -> anyhow::Result<WhoAmI> {
        self.get("/v1/whoami").await
    }

    pub async fn create_token(&self, token: &CreateToken) -> anyhow::Result<CreatedToken> {
        self.json(self.request(Method::POST, "/v1/tokens").json(token)).await
    }

    pub async fn tokens(&self) -> anyhow::Result<Vec<TokenInfo>> {
        self.all("/v1/tokens").await
    }

    pub async fn revoke_token(&self, id: wharf_types::TokenId) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/tokens/{id}"))).await
    }

    pub async fn create_namespace(&self, name: NamespaceName) -> anyhow::Result<()> {
        self.done(self.request(Method::POST, "/v1/namespaces").json(&CreateNamespace { name })).await
    }

    pub async fn namespaces(&self) -> anyhow::Result<Vec<NamespaceInfo>> {
        self.all("/v1/namespaces").await
    }

    pub async fn delete_namespace(&self, name: &NamespaceName) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/namespaces/{name}"))).await
    }

    pub async fn nodes(&self) -> anyhow::Result<Vec<NodeInfo>> {
        self.all("/v1/nodes").await
    }

    pub async fn usage(&self, namespace: &NamespaceName) -> anyhow::Result<Usage> {
        self.get(&format!("/v1/namespaces/{namespace}/usage")).await
    }

    /// None: the platform does not have it.
    pub async fn find_artifact(
        &self,
        namespace: &NamespaceName,
        digest: Digest,
    ) -> anyhow::Result<Option<ArtifactInfo>> {
        let found = self.get(&format!("/v1/namespaces/{namespace}/artifacts/{digest}")).await;
        match found {
            Err(error) if Exit::of(&error) == Exit::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Uploads content; `sent` is called with the number of octets that have left so far.
    pub async fn put_artifact(
        &self,
        namespace: &NamespaceName,
        digest: Digest,
        content: Bytes,
        mut sent: impl FnMut(u64) + Send + 'static,
    ) -> anyhow::Result<ArtifactInfo> {
        const CHUNK_BYTES: usize = 64 << 10;
        let length = content.len();
        let offsets = (0..length).step_by(CHUNK_BYTES);
        let chunks = offsets.map(move |start| {
            let end = length.min(start + CHUNK_BYTES);
            sent(end as u64);
            Ok::<_, std::io::Error>(content.slice(start..end))
        });
        let request = self
            .request(Method::PUT, &format!("/v1/namespaces/{namespace}/artifacts/{digest}"))
            .timeout(UPLOAD_TIMEOUT)
            .header(http::header::CONTENT_TYPE, "application/wasm")
            .header(http::header::CONTENT_LENGTH, length)
            .body(reqwest::Body::wrap_stream(futures::stream::iter(chunks)));
        self.json(request).await
    }

    pub async fn create_release(&self, app: &AppRef, release: &CreateRelease) -> anyhow::Result<Deployed> {
        self.once_only(app.request(self, Method::POST, "/releases").json(release)).await
    }

    pub async fn apps(&self, namespace: &NamespaceName) -> anyhow::Result<Vec<AppInfo>> {
        self.all(&format!("/v1/namespaces/{namespace}/apps")).await
    }

    pub async fn app(&self, app: &AppRef) -> anyhow::Result<AppInfo> {
        self.json(app.request(self, Method::GET, "")).await
    }

    pub async fn why(&self, app: &AppRef) -> anyhow::Result<Why> {
        self.json(app.request(self, Method::GET, "/why")).await
    }

    pub async fn releases(&self, app: &AppRef) -> anyhow::Result<Vec<ReleaseInfo>> {
        self.all(&app.path("/releases")).await
    }

    /// The rollout as it is, or, with `wait`, as it is when it is decided or the time is up.
    pub async fn rollout(&self, app: &AppRef, id: RolloutId, wait: Duration) -> anyhow::Result<RolloutInfo> {
        let request = app
            .request(self, Method::GET, &format!("/rollouts/{id}"))
            .query(&[("wait", format!("{}ms", wait.as_millis()))])
            .timeout(wait + REPLY_TIMEOUT);
        self.json(request).await
    }

    pub async fn rollback(&self, app: &AppRef, release: Option<u64>) -> anyhow::Result<Deployed> {
        self.once_only(app.request(self, Method::POST, "/rollback").json(&Rollback { release })).await
    }

    pub async fn scale(&self, app: &AppRef, replicas: u32) -> anyhow::Result<()> {
        self.done(app.request(self, Method::PUT, "/scale").json(&Scale { replicas: Some(replicas) })).await
    }

    pub async fn patch_env(&self, app: &AppRef, patch: &EnvPatch) -> anyhow::Result<Deployed> {
        self.once_only(app.request(self, Method::PATCH, "/env").json(patch)).await
    }

    /// The variables of the current release.
    pub async fn env(&self, app: &AppRef) -> anyhow::Result<Env> {
        self.json(app.request(self, Method::GET, "/env")).await
    }

    pub async fn restart(&self, app: &AppRef) -> anyhow::Result<Deployed> {
        self.once_only(app.request(self, Method::POST, "/restart")).await
    }

    pub async fn delete_app(&self, app: &AppRef) -> anyhow::Result<()> {
        self.done(app.request(self, Method::DELETE, "")).await
    }

    /// One page of a list, as it is.
    pub async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<Page<T>> {
        self.json(self.request(Method::GET, path).query(query)).await
    }

    /// Opens a stream of server-sent events.
    pub async fn open_stream(
        &self,
        path: &str,
        query: &[(&str, String)],
        last_id: Option<&str>,
    ) -> anyhow::Result<Response> {
        let mut request = self
            .request(Method::GET, path)
            .query(query)
            .header(http::header::ACCEPT, "text/event-stream")
            // The stream has no end; whoever reads it watches that something arrives.
            .timeout(Duration::from_secs(u64::from(u32::MAX)));
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        self.send(request).await
    }

    /// Reads a reply's head only, for its date.
    pub async fn head(&self) -> anyhow::Result<http::HeaderMap> {
        Ok(self.send(self.request(Method::GET, "/v1/whoami")).await?.headers().clone())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.api)).timeout(REPLY_TIMEOUT);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.json(self.request(Method::GET, path)).await
    }

    async fn all<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        self.all_with(path, &[]).await
    }

    /// A whole list, page by page.
    pub async fn all_with<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<Vec<T>> {
        let mut items = Vec::new();
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let more = cursor.map(|cursor| ("cursor", cursor));
            let query: Vec<_> = query.iter().cloned().chain(more).collect();
            let page: Page<T> = self.page(path, &query).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok(items)
    }

    /// Sends a request that must take effect once: with a key by which the platform knows a repetition, and a second
    /// try when the connection broke before the reply.
    async fn once_only<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let request = request.header("idempotency-key", uuid::Uuid::now_v7().to_string());
        let second = request.try_clone();
        match (self.json(request).await, second) {
            (Err(error), Some(second)) if error.is::<BrokenConnection>() => self.json(second).await,
            (reply, _) => reply,
        }
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let response = self.send(request).await?;
        let body = response.bytes().await.map_err(|error| self.transport(error))?;
        serde_json::from_slice(&body).with_context(|| {
            format!(
                "the reply of {} is not what this version of wharf ({}) expects",
                self.api,
                env!("CARGO_PKG_VERSION")
            )
        })
    }

    /// For requests whose reply says nothing more than that it worked.
    async fn done(&self, request: RequestBuilder) -> anyhow::Result<()> {
        self.send(request).await.map(drop)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|error| self.transport(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        Err(self.refusal(status, &body))
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> anyhow::Error {
        if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
            return problem.into();
        }
        let message =
            format!("what answers at {} is not a Wharf platform of this version: it said {status}", self.api);
        Failure::new(if status == 404 { Exit::NotFound } else { Exit::Platform }, message)
            .help("check the address with `wharf context show`")
            .into()
    }

    fn transport(&self, error: reqwest::Error) -> anyhow::Error {
        let api = &self.api;
        let cause = root_cause(&error);
        if error.is_connect() {
            return Failure::new(Exit::Unreachable, format!("no platform answers at {api}: {cause}"))
                .help("start one with `wharf up`, or log in to another one with `wharf login URL`")
                .into();
        }
        if error.is_timeout() {
            return Failure::new(Exit::Unreachable, format!("the platform at {api} did not answer in time"))
                .help("`wharf doctor` checks the connection")
                .into();
        }
        anyhow::Error::new(Failure::new(Exit::Unreachable, format!("the connection to {api} broke: {cause}")))
            .context(BrokenConnection)
    }
}

impl AppRef {
    /// The path of something of the app.
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/namespaces/{}/apps/{}{rest}", self.namespace, self.app)
    }

    fn request(&self, client: &Client, method: Method, rest: &str) -> RequestBuilder {
        client.request(method, &self.path(rest))
    }
}

/// Marks an error after which nobody knows whether the request took effect.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the request may not have arrived")]
pub struct BrokenConnection;

/// What the operating system said, without the layers between.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn is_loopback(url: &reqwest::Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_server::{self, TestServer};
    use wharf_types::problem::ProblemCode;

    fn client() -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::with_token("http://127.0.0.1:1", None).unwrap()
    }

    #[test]
    fn a_problem_document_becomes_its_problem() {
        let problem = Problem::new(ProblemCode::QuotaExceeded, "20 apps are the most");
        let body = serde_json::to_vec(&problem).unwrap();
        let error = client().refusal(StatusCode::TOO_MANY_REQUESTS, &body);
        assert_eq!(error.downcast_ref::<Problem>(), Some(&problem));
        assert_eq!(Exit::of(&error), Exit::Full);
    }

    #[test]
    fn a_stranger_at_the_address_is_named() {
        let error = client().refusal(StatusCode::BAD_GATEWAY, b"<html>");
        assert!(error.to_string().contains("http://127.0.0.1:1"), "{error}");
    }

    #[tokio::test]
    async fn nobody_at_the_address_says_how_to_start_a_platform() {
        let error = client().whoami().await.unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unreachable);
        assert!(error.to_string().starts_with("no platform answers at http://127.0.0.1:1"), "{error}");
    }

    #[test]
    fn only_http_addresses_are_taken() {
        for bad in ["ftp://x", "nonsense", "http://"] {
            assert!(Client::with_token(bad, None).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_wish_is_sent_again_with_the_same_key_when_the_connection_broke() {
        let deployed = serde_json::json!({
            "namespace": "default", "app": "hello", "release": 2, "rollout": RolloutId::new(),
            "digest": Digest::of(b""), "url": "", "urls": [], "capabilities": [], "new_capabilities": [],
        });
        let server =
            TestServer::spawn(vec![String::new(), test_server::json("201 Created", &deployed)]).await;
        let app = AppRef { namespace: "default".parse().unwrap(), app: "hello".parse().unwrap() };
        let reply = server.client().rollback(&app, Some(1)).await.unwrap();
        assert_eq!(reply.release, 2);
        let requests = server.requests();
        let key = |request: &str| request.split_once("idempotency-key: ").unwrap().1[..36].to_owned();
        assert_eq!(requests.len(), 2);
        assert_eq!(key(&requests[0]), key(&requests[1]));
        assert!(
            requests[0].starts_with("POST /v1/namespaces/default/apps/hello/rollback HTTP/1.1"),
            "{}",
            requests[0]
        );
        assert!(requests[0].contains("authorization: Bearer secret"));
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page() {
        let page = |names: &[&str], next: Option<&str>| {
            let items: Vec<_> = names
                .iter()
                .map(|name| serde_json::json!({ "name": name, "apps": 0, "created_at": "2026-01-01T00:00:00Z" }))
                .collect();
            test_server::json("200 OK", &serde_json::json!({ "items": items, "next_cursor": next }))
        };
        let server = TestServer::spawn(vec![page(&["a", "b"], Some("b c")), page(&["d"], None)]).await;
        let names: Vec<String> = server
            .client()
            .namespaces()
            .await
            .unwrap()
            .into_iter()
            .map(|info| info.name.to_string())
            .collect();
        assert_eq!(names, ["a", "b", "d"]);
        assert!(
            server.requests()[1].starts_with("GET /v1/namespaces?cursor=b+c "),
            "{}",
            server.requests()[1]
        );
    }

    #[tokio::test]
    async fn an_upload_arrives_whole_and_tells_how_far_it_is() {
        let content = Bytes::from(vec![b'x'; 200_000]);
        let digest = Digest::of(&content);
        let info = ArtifactInfo {
            digest,
            bytes: 200_000,
            world: wharf_types::world::World::HttpProxy,
            imports: Vec::new(),
            capabilities: Vec::new(),
        };
        let server = TestServer::spawn(vec![test_server::json("201 Created", &info)]).await;
        let so_far = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let told = so_far.clone();
        let sent = move |bytes| told.store(bytes, std::sync::atomic::Ordering::Relaxed);
        let namespace = NamespaceName::default_namespace();
        server.client().put_artifact(&namespace, digest, content, sent).await.unwrap();
        assert_eq!(so_far.load(std::sync::atomic::Ordering::Relaxed), 200_000);
        assert!(server.requests()[0].ends_with(&"x".repeat(200_000)));
    }
}
