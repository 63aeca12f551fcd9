//! The way from a server that does not lead to the one that does.
//!
//! What only the leader can answer goes to it as it came, over one connection to its port for workers, where this server shows its
//! certificate. The leader checks a token as it does any, because it came along; which worker asks, and from where, it believes a server
//! and nobody else ([`take_caller`]). What was forwarded is never forwarded again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::{debug, info};
use wharf_types::NodeId;

use crate::api::{PeerNode, Remote};
use crate::context::{Context, Joining};
use crate::reconcile::chain;

/// The node whose request this is.
const NODE: HeaderName = HeaderName::from_static("wharf-forwarded-node");
/// Where it came from.
const REMOTE: HeaderName = HeaderName::from_static("wharf-forwarded-from");
/// How long it is believed who leads.
const KNOWN_FOR: Duration = Duration::from_millis(200);
/// How long the leader may take to answer a connection. It has two thirds of the time in which another would be found.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// A leader that says nothing for twice this is gone.
const PING: Duration = Duration::from_secs(1);
/// Requests on the connection between two servers: a stream for each worker, and what it says meanwhile.
pub(crate) const STREAMS_MAX: u32 = 65_536;
/// What one side sends of a body before the other reads. The window of the connection holds up nobody: a client that takes nothing must
/// not keep others waiting.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 256 << 10;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// The request came from another server, and is not to leave this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forwarded;

/// Who leads, as far as is known, and the connection there.
#[derive(Default)]
pub(crate) struct WayToLeader {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    address: Option<String>,
    looked_at: Option<Instant>,
    link: Option<Link>,
}

struct Link {
    address: String,
    /// What it was made with. Another certificate wants another connection.
    tls: Arc<ClientConfig>,
    sender: SendRequest<Body>,
}

/// What became of a request.
pub(crate) enum Sent {
    Answered(Response<Incoming>),
    /// Nobody has seen it.
    Unsent(Request),
    /// The leader went away while it had it.
    Lost,
}

/// Why there is no connection to a leader.
#[derive(Debug, thiserror::Error)]
enum NoWay {
    #[error("nobody leads for now")]
    NoLeader,
    #[error("the database does not say who leads")]
    Unknown(#[source] crate::store::StoreError),
    #[error("its address `{0}` is none")]
    Address(String),
    #[error("{0} does not answer")]
    Silent(String),
    #[error("{0} cannot be reached")]
    Connect(String, #[source] std::io::Error),
    #[error("{0} does not speak HTTP/2")]
    Http(String, #[source] hyper::Error),
}

impl WayToLeader {
    pub(crate) async fn send(&self, context: &Context, joining: &Joining, request: Request) -> Sent {
        let mut sender = match self.sender(context, joining).await {
            Ok(sender) => sender,
            Err(error) => {
                debug!("cannot ask the leader: {}", chain(&error));
                return Sent::Unsent(request);
            }
        };
        let (parts, body) = request.into_parts();
        let outgoing = Request::from_parts(outgoing(&parts, &sender.address), body);
        match sender.sender.try_send_request(outgoing).await {
            Ok(response) => Sent::Answered(response),
            Err(mut error) => {
                self.forget(&sender.address).await;
                match error.take_message() {
                    Some(unsent) => Sent::Unsent(Request::from_parts(parts, unsent.into_body())),
                    None => {
                        debug!("the leader was lost with a request: {}", chain(error.error()));
                        Sent::Lost
                    }
                }
            }
        }
    }

    async fn sender(&self, context: &Context, joining: &Joining) -> Result<Link, NoWay> {
        let mut known = self.known.lock().await;
        if known.looked_at.is_none_or(|at| at.elapsed() > KNOWN_FOR) {
            let leader = context.store.leader().await.map_err(NoWay::Unknown)?;
            known.address = leader.map(|leader| leader.address);
            known.looked_at = Some(Instant::now());
        }
        let address = known.address.clone().filter(|address| !address.is_empty());
        // It would be this server's own, which has just taken the lease and is about to know.
        let address = address.filter(|address| *address != joining.address).ok_or(NoWay::NoLeader)?;
        let tls = joining.authorities.client_tls();
        let is_good = |link: &&Link| {
            link.address == address && Arc::ptr_eq(&link.tls, &tls) && !link.sender.is_closed()
        };
        if let Some(link) = known.link.as_ref().filter(is_good) {
            return Ok(link.again());
        }
        let connected = timeout(CONNECT_MAX, connect(&address, tls)).await;
        let link = connected.unwrap_or_else(|_| Err(NoWay::Silent(address.clone())))?;
        info!("this control plane sends to {address}, which leads, what only a leader can answer");
        known.link = Some(link.again());
        Ok(link)
    }

    /// The connection broke: somebody else may lead.
    async fn forget(&self, address: &str) {
        let mut known = self.known.lock().await;
        known.looked_at = None;
        if known.link.as_ref().is_some_and(|link| link.address == address) {
            known.link = None;
        }
    }
}

impl Link {
    fn again(&self) -> Self {
        Self { address: self.address.clone(), tls: self.tls.clone(), sender: self.sender.clone() }
    }
}

async fn connect(address: &str, tls: Arc<ClientConfig>) -> Result<Link, NoWay> {
    let failed = |source| NoWay::Connect(address.to_owned(), source);
    if address.parse::<Authority>().is_err() {
        return Err(NoWay::Address(address.to_owned()));
    }
    let socket = TcpStream::connect(address).await.map_err(failed)?;
    // It fails only where the other side has left, which the handshake finds out.
    let _ = socket.set_nodelay(true);
    // Who answers is checked by its certificate, whatever it is called.
    let name = ServerName::try_from("server.wharf").expect("it is a hostname");
    let stream = TlsConnector::from(tls.clone()).connect(name, socket).await.map_err(failed)?;
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        // Clients that leave reset streams, as many as they like.
        .max_concurrent_reset_streams(STREAMS_MAX as usize)
        .max_local_error_reset_streams(None)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| NoWay::Http(address.to_owned(), error))?;
    let peer = address.to_owned();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!("the connection to {peer}, which led, has ended: {error}");
        }
    });
    Ok(Link { address: address.to_owned(), tls, sender })
}

/// A request as it goes to the leader. Fields of the connection end here.
fn outgoing(parts: &Parts, address: &str) -> Parts {
    let mut out = parts.clone();
    let mut uri = std::mem::take(&mut out.uri).into_parts();
    uri.scheme = Some(Scheme::HTTPS);
    uri.authority = address.parse().ok();
    out.uri = Uri::from_parts(uri).unwrap_or_default();
    out.version = axum::http::Version::HTTP_2;
    let named: Vec<HeaderName> = out
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    named.into_iter().for_each(|name| drop(out.headers.remove(name)));
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::EXPECT,
        header::HOST,
        HeaderName::from_static("keep-alive"),
        NODE,
        REMOTE,
    ] {
        out.headers.remove(name);
    }
    let text = |text: String| HeaderValue::try_from(text).expect("an id or an address is a header's value");
    if let Some(PeerNode(node)) = parts.extensions.get() {
        out.headers.insert(NODE, text(node.to_string()));
    }
    if let Some(Remote(remote)) = parts.extensions.get() {
        out.headers.insert(REMOTE, text(remote.to_string()));
    }
    out.extensions = Default::default();
    out
}

/// Whose request it is that another server has sent: the worker, if it is one's, and where it came in from.
pub(crate) fn take_caller(headers: &mut HeaderMap) -> (Option<NodeId>, Option<SocketAddr>) {
    let mut take = |name| headers.remove(name).and_then(|value| value.to_str().map(str::to_owned).ok());
    let (node, remote) = (take(NODE), take(REMOTE));
    (node.and_then(|node| node.parse().ok()), remote.and_then(|remote| remote.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/v1/nodes/x/reports?process=1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_goes_on_as_it_came_without_what_was_for_this_connection() {
        let mut given = parts(&[
            ("host", "a.example"),
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("transfer-encoding", "chunked"),
            ("authorization", "Bearer secret"),
            ("accept", "text/event-stream"),
            // Whether an upload fits is decided by it, where the server leads.
            ("content-length", "12"),
            ("last-event-id", "7"),
        ]);
        given.extensions.insert(Remote("10.0.0.9:4444".parse().unwrap()));
        let out = outgoing(&given, "10.0.0.1:7071");
        assert_eq!(out.uri.to_string(), "https://10.0.0.1:7071/v1/nodes/x/reports?process=1");
        let mut names: Vec<&str> = out.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept", "authorization", "content-length", "last-event-id", "wharf-forwarded-from"]
        );
    }

    #[test]
    fn nobody_says_himself_whose_request_it_is() {
        let (node, other) = (NodeId::new(), NodeId::new());
        let mut given =
            parts(&[("wharf-forwarded-node", &other.to_string()), ("wharf-forwarded-from", "1.1.1.1:1")]);
        let mut nobodys = outgoing(&given, "a:1").headers;
        assert_eq!(take_caller(&mut nobodys), (None, None));
        given.extensions.insert(PeerNode(node));
        given.extensions.insert(Remote("[::1]:4".parse().unwrap()));
        let mut out = outgoing(&given, "a:1").headers;
        assert_eq!(take_caller(&mut out), (Some(node), "[::1]:4".parse().ok()));
        assert!(out.is_empty());
    }
}
