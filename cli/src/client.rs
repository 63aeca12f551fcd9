//! The API's client: how requests are sent and lists read, with errors as [`Problem`]s or as [`Failure`]s with an exit code.
//! The requests themselves are in [`routes`], [`jobs`] and [`exec`].

mod exec;
mod jobs;
mod pushes;
mod routes;

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use wharf_types::Problem;
use wharf_types::api::Page;

use crate::context::Target;
use crate::exit::{Exit, Failure};
use crate::secret::Secret;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a list of any length; a server that never ends its pages must not keep us for ever.
const PAGES_MAX: usize = 1000;

#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    api: String,
    token: Option<Secret>,
    /// Until a reply is there; for a stream, until its head is.
    reply_timeout: Duration,
}

impl Client {
    pub fn new(target: &Target) -> anyhow::Result<Self> {
        Self::with_token(&target.api, target.token.read()?)
    }

    pub fn with_token(api: &str, token: Option<Secret>) -> anyhow::Result<Self> {
        let url = reqwest::Url::parse(api)
            .ok()
            .filter(|url| url.host().is_some() && matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| {
                Failure::usage(format!("`{api}` is not an address of a platform: write `https://HOST`"))
            })?;
        let http = builder(&url).build().context("could not set up the HTTP client")?;
        Ok(Self { http, api: api.to_owned(), token, reply_timeout: REPLY_TIMEOUT })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.api)).timeout(self.reply_timeout);
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    /// One page of a list, as it is.
    pub async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<Page<T>> {
        self.json(self.request(Method::GET, path).query(query)).await
    }

    /// Opens a stream of server-sent events: returns when its head is there.
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
        match tokio::time::timeout(self.reply_timeout, self.send(request)).await {
            Ok(opened) => opened,
            Err(_) => Err(self.silence().into()),
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
                return Ok(items);
            }
        }
        let message = format!("the list at {}{path} has no end: {PAGES_MAX} pages were read", self.api);
        Err(Failure::new(Exit::Platform, message).into())
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
        self.read(response).await
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> anyhow::Result<T> {
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
        Failure::new(Exit::Platform, message).help("check the address with `wharf context show`").into()
    }

    fn silence(&self) -> Failure {
        Failure::new(Exit::Unreachable, format!("the platform at {} did not answer in time", self.api))
            .help("`wharf doctor` checks the connection")
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
            return self.silence().into();
        }
        anyhow::Error::new(Failure::new(Exit::Unreachable, format!("the connection to {api} broke: {cause}")))
            .context(BrokenConnection)
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

/// Of clients of the API at an address.
fn builder(url: &reqwest::Url) -> reqwest::ClientBuilder {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    if url.scheme() == "http" {
        // Loading the machine's certificates takes longer than the whole command.
        builder = builder.tls_certs_only([]);
    }
    if is_loopback(url) {
        builder = builder.no_proxy();
    }
    builder
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
    use crate::app_ref::AppRef;
    use crate::test_server::{self, TestServer};
    use wharf_types::problem::ProblemCode;
    use wharf_types::{Digest, RolloutId};

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
    async fn a_stream_whose_head_never_comes_is_given_up() {
        // It takes connections and reads nothing.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client {
            api: format!("http://{}", listener.local_addr().unwrap()),
            reply_timeout: Duration::from_millis(50),
            ..client()
        };
        let opened = client.open_stream("/v1/x/logs", &[], None);
        let error = tokio::time::timeout(Duration::from_secs(20), opened).await.unwrap().unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unreachable);
        assert!(error.to_string().contains("did not answer in time"), "{error}");
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
    async fn a_list_without_an_end_is_not_taken_for_a_whole_one() {
        let page = serde_json::json!({ "items": [], "next_cursor": "again" });
        let server = TestServer::spawn(vec![test_server::json("200 OK", &page); PAGES_MAX]).await;
        let error = server.client().namespaces().await.unwrap_err();
        assert!(error.to_string().contains("has no end"), "{error}");
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
}
