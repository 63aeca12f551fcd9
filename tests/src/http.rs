//! A client for apps and the API. It connects to the address it was made for, whatever the `Host` header says.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

/// No reply of a test takes longer.
const LIMIT: Duration = Duration::from_secs(60);

pub type RequestBody = BoxBody<Bytes, Infallible>;

#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    client: legacy::Client<HttpConnector, RequestBody>,
}

/// A reply that was read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

pub fn empty() -> RequestBody {
    Empty::new().boxed()
}

pub fn full(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into()).boxed()
}

/// A request without a body for one hostname.
pub fn request(hostname: &str, path: &str) -> Request<RequestBody> {
    Request::builder().method(Method::GET).uri(path).header(HOST, hostname).body(empty()).unwrap()
}

impl Client {
    /// For an address such as `http://127.0.0.1:8080`.
    pub fn new(base: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // A test wants to see a connection that breaks, not a second try behind its back.
        let client =
            legacy::Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build(connector);
        Self { base: base.trim_end_matches('/').to_owned(), client }
    }

    /// Sends a request; the reply's body is still to be read.
    pub async fn open(&self, mut request: Request<RequestBody>) -> anyhow::Result<Response<Incoming>> {
        let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        *request.uri_mut() = format!("{}{path}", self.base).parse::<Uri>()?;
        Ok(tokio::time::timeout(LIMIT, self.client.request(request)).await??)
    }

    /// Sends a request and reads the reply to its end.
    pub async fn send(&self, request: Request<RequestBody>) -> anyhow::Result<Reply> {
        read(self.open(request).await?).await
    }

    /// The same by HTTP/2 without TLS, over a connection of its own.
    pub async fn send_by_http2(&self, mut request: Request<RequestBody>) -> anyhow::Result<Reply> {
        let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let host = request.headers()[HOST].to_str()?;
        // The authority takes the place of the field, so it has to be the app's.
        *request.uri_mut() = format!("http://{host}{path}").parse::<Uri>()?;
        let stream = TcpStream::connect(self.base.trim_start_matches("http://")).await?;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        read(tokio::time::timeout(LIMIT, sender.send_request(request)).await??).await
    }

    pub async fn get(&self, hostname: &str, path: &str) -> anyhow::Result<Reply> {
        self.send(request(hostname, path)).await
    }
}

async fn read(reply: Response<Incoming>) -> anyhow::Result<Reply> {
    let (head, body) = reply.into_parts();
    let body = tokio::time::timeout(LIMIT, body.collect()).await??;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Panics
    ///
    /// When the body is something else.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}
