//! One request, or one connection, to an instance of another node.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::UPGRADE;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use tokio::time::timeout;
use wharf_types::InstanceId;

use super::gather::Gather;
use super::link::{Held, Outgoing};
use super::peer::{Peer, Unreachable};
use super::tunnel::{self, Tunnel};
use super::upload::{Lent, lend};
use super::wire::{self, Ask, Verdict};
use crate::BoxError;
use crate::call::CallError;
use crate::request_body::RequestBody;
use crate::stats::add_one;
use crate::upgrade::Upgraded;

/// How long the words of a verdict may take, which come with it.
const DETAIL_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no answer of an instance of another node.
#[derive(Debug)]
pub(crate) enum PeerError {
    /// Nothing was sent: the request comes back untouched, for another instance.
    Unreachable { request: Box<Request<RequestBody>>, why: Unreachable },
    /// The request may have reached the instance, and nobody will say what became of it.
    Lost(String),
    /// What the peer says, as if the instance were here.
    Call(CallError),
    /// The peer's version knows no upgrades: the request comes back untouched.
    TooOld(Box<Request<RequestBody>>),
}

/// Why an instance of another node has not taken a connection. Nothing of the client's was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("the node does not answer any more: {0}")]
    Lost(hyper::Error),
    #[error("the instance is not there any more")]
    NotHere,
    #[error("the instance has as many connections as it may")]
    Full,
    #[error("{0}")]
    NotTaken(String),
    #[error("its node is of a version that passes on no datagrams: upgrade the worker there")]
    KnowsNoDatagrams,
}

/// The body of an answer from another node. Dropped, it ends what is left of the request.
pub(crate) struct PeerBody {
    /// None: what was HTTP is a tunnel now.
    content: Option<(Incoming, Held)>,
    /// None: the request was of a guest, which nobody gives back.
    _lent: Option<Lent>,
}

#[derive(Debug, thiserror::Error)]
#[error("the connection to the node broke off")]
struct BrokenOff;

impl Peer {
    pub(crate) async fn call(
        self: Arc<Self>,
        instance: InstanceId,
        request: Request<RequestBody>,
        client: SocketAddr,
    ) -> Result<Response<PeerBody>, PeerError> {
        if let Some(protocol) = request.extensions().get::<Protocol>() {
            let protocol = protocol.as_str().to_owned();
            return self.upgrade(instance, request, protocol, client).await;
        }
        let held = match self.hold().await {
            Ok(held) => held,
            Err(why) => return Err(PeerError::Unreachable { request: Box::new(request), why }),
        };
        let (parts, body) = request.into_parts();
        let mut head = Request::new(());
        *head.method_mut() = parts.method.clone();
        *head.uri_mut() = parts.uri.clone();
        *head.headers_mut() = parts.headers.clone();
        Ask::Request { instance, client }.write(head.headers_mut());
        let (handle, lent) = lend(body);
        let untouched = move |lent: Lent| {
            let body = lent.take_back()?;
            Some(Box::new(Request::from_parts(parts, body)))
        };
        add_one(&self.stats.requests);
        let response = match held.send(head.map(|()| Outgoing::Upload(Gather::new(handle)))).await {
            Ok(response) => response,
            Err((error, unsent)) => {
                if lent.is_broken() {
                    return Err(PeerError::Call(CallError::ClientGone));
                }
                if unsent.is_some()
                    && let Some(request) = untouched(lent)
                {
                    add_one(&self.stats.unreachable);
                    return Err(PeerError::Unreachable {
                        request,
                        why: self.unreachable("the connection has ended"),
                    });
                }
                add_one(&self.stats.lost);
                return Err(PeerError::Lost(super::peer::chain(&error)));
            }
        };
        self.answered();
        let Some(verdict) = Verdict::of(response.headers()) else {
            return Ok(response.map(|body| PeerBody { content: Some((body, held)), _lent: Some(lent) }));
        };
        Err(PeerError::Call(refused(verdict, response, || untouched(lent)).await))
    }

    /// The same for a request to go over to another protocol, which has no body. Where it is granted, the answer is one of HTTP/1.1, 101 and
    /// [`Upgraded`], as that of an instance here.
    async fn upgrade(
        self: Arc<Self>,
        instance: InstanceId,
        request: Request<RequestBody>,
        protocol: String,
        client: SocketAddr,
    ) -> Result<Response<PeerBody>, PeerError> {
        let request = Box::new(request);
        let held = match self.hold().await {
            Ok(held) => held,
            Err(why) => return Err(PeerError::Unreachable { request, why }),
        };
        let (writer, outgoing) = tunnel::outgoing();
        let mut head = Request::new(Outgoing::Tunnel(Gather::new(outgoing)));
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.headers_mut() = request.headers().clone();
        Ask::Upgrade { instance, protocol, client }.write(head.headers_mut());
        add_one(&self.stats.requests);
        let mut response = match held.send(head).await {
            Ok(response) => response,
            Err((_, Some(_))) => {
                add_one(&self.stats.unreachable);
                let why = self.unreachable("the connection has ended");
                return Err(PeerError::Unreachable { request, why });
            }
            Err((error, None)) => {
                add_one(&self.stats.lost);
                return Err(PeerError::Lost(super::peer::chain(&error)));
            }
        };
        self.answered();
        match Verdict::of(response.headers()) {
            None => {}
            Some(Verdict::Malformed) => return Err(PeerError::TooOld(request)),
            Some(verdict) => {
                return Err(PeerError::Call(refused(verdict, response, || Some(request)).await));
            }
        }
        let Some(protocol) = wire::take_upgraded(response.headers_mut()) else {
            writer.end();
            return Ok(response.map(|body| PeerBody::new(body, held)));
        };
        let (mut parts, body) = response.into_parts();
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        parts.headers.insert(UPGRADE, protocol);
        let tunnel = Tunnel::new(body, writer, Some(held));
        parts.extensions.insert(Upgraded::new(tunnel, Default::default(), Default::default()));
        Ok(Response::from_parts(parts, PeerBody { content: None, _lent: None }))
    }

    /// A connection to a public port of an instance.
    pub(crate) async fn connect(
        self: Arc<Self>,
        instance: InstanceId,
        port: u16,
        client: SocketAddr,
    ) -> Result<Tunnel, TunnelError> {
        self.tunnel(Ask::Connection { instance, port, client }).await
    }

    /// A connection to a container's own port.
    pub(super) async fn connect_container(
        self: Arc<Self>,
        instance: InstanceId,
        port: u16,
    ) -> Result<Tunnel, TunnelError> {
        self.tunnel(Ask::Container { instance, port }).await
    }

    /// The same for datagrams.
    pub(super) async fn exchange_datagrams(
        self: Arc<Self>,
        instance: InstanceId,
        port: u16,
    ) -> Result<Tunnel, TunnelError> {
        self.tunnel(Ask::Datagrams { instance, port }).await
    }

    async fn tunnel(self: Arc<Self>, ask: Ask) -> Result<Tunnel, TunnelError> {
        let is_for_datagrams = matches!(ask, Ask::Datagrams { .. });
        let held = self.hold().await?;
        let (writer, outgoing) = tunnel::outgoing();
        let mut request = Request::new(Outgoing::Tunnel(Gather::new(outgoing)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("http://peer.internal/");
        ask.write(request.headers_mut());
        add_one(&self.stats.requests);
        let response = match held.send(request).await {
            Ok(response) => response,
            Err((error, _)) => {
                add_one(&self.stats.lost);
                return Err(TunnelError::Lost(error));
            }
        };
        self.answered();
        Err(match Verdict::of(response.headers()) {
            None => return Ok(Tunnel::new(response.into_body(), writer, Some(held))),
            Some(Verdict::NotHere) => TunnelError::NotHere,
            Some(Verdict::Busy | Verdict::BusyAndGone) => TunnelError::Full,
            // To a version of before it makes no sense.
            Some(Verdict::Malformed) if is_for_datagrams => TunnelError::KnowsNoDatagrams,
            Some(_) => TunnelError::NotTaken(detail(response).await),
        })
    }
}

/// What a verdict means for a request. `untouched` is the request, if it can be had back.
async fn refused(
    verdict: Verdict,
    response: Response<Incoming>,
    untouched: impl FnOnce() -> Option<Box<Request<RequestBody>>>,
) -> CallError {
    let gone =
        || CallError::Failed("the node has given back a request of which it has taken much".to_owned());
    match verdict {
        Verdict::NotHere => untouched().map_or_else(gone, CallError::NotHere),
        Verdict::Busy => untouched().map_or_else(gone, |request| CallError::Busy(Some(request))),
        Verdict::BusyAndGone => match detail(response).await {
            words if words.is_empty() => CallError::Busy(None),
            words => CallError::OverQuota(words),
        },
        Verdict::BodyTooLarge => CallError::BodyTooLarge,
        Verdict::ClientGone => CallError::ClientGone,
        Verdict::Timeout => CallError::Timeout(detail(response).await),
        Verdict::BadRequest => CallError::BadRequest(detail(response).await),
        Verdict::Failed | Verdict::NotTaken | Verdict::Malformed => CallError::Failed(detail(response).await),
    }
}

/// The words of a verdict.
pub(super) async fn detail(response: Response<Incoming>) -> String {
    let words = Limited::new(response.into_body(), wire::DETAIL_MAX_BYTES).collect();
    match timeout(DETAIL_TIMEOUT, words).await {
        Ok(Ok(words)) => String::from_utf8_lossy(&words.to_bytes()).into_owned(),
        Ok(Err(_)) | Err(_) => "the node did not say why".to_owned(),
    }
}

impl PeerBody {
    pub(super) fn new(body: Incoming, held: Held) -> Self {
        Self { content: Some((body, held)), _lent: None }
    }
}

impl Body for PeerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some((body, held)) = &mut self.content else { return Poll::Ready(None) };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                held.is_heard();
                Poll::Ready(Some(Ok(frame)))
            }
            // See [`crate::request_body`].
            Poll::Ready(None) if !body.is_end_stream() => Poll::Ready(Some(Err(BrokenOff.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.content.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.content.as_ref().map_or(SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}
