//! Requests of this node's guests to other apps of their namespace that have instances on other nodes only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use wharf_types::{AppName, InstanceId, NamespaceName};

use super::call::{PeerBody, detail};
use super::gather::Gather;
use super::link::Outgoing;
use super::peer::{Peer, Unreachable};
use super::wire::{Ask, Verdict};
use crate::BoxError;
use crate::load::{CallInside, Load, NoWait};
use crate::proxy::Shared;
use crate::router::{OpenAt, Target};
use crate::stats::add_one;

/// The body of what a guest sends.
pub type NeighbourBody = UnsyncBoxBody<Bytes, BoxError>;

/// Instances that are asked for one request.
const TRIES_MAX: usize = 3;
/// A guest has no address.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Why a neighbour gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NeighbourError {
    #[error("no other node has an instance of the app that is ready")]
    NoneReady,
    #[error("the app was asleep: {0}")]
    Asleep(String),
    #[error("no node that has the app can be reached: {0}")]
    Unreachable(String),
    /// The request may have reached the instance.
    #[error("the node of the instance has gone away: {0}")]
    Lost(String),
    #[error("the instances of the app take no more requests at the moment")]
    Busy,
    #[error("the app did not answer in time: {0}")]
    Timeout(String),
    #[error("the app failed: {0}")]
    Failed(String),
}

/// Why one instance gave none.
enum Refused {
    /// Nothing was sent.
    Unsent(Box<Request<NeighbourBody>>, Unreachable),
    Lost(String),
    Verdict(Verdict, String),
}

impl From<Refused> for NeighbourError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unsent(_, why) => Self::Unreachable(why.to_string()),
            Refused::Lost(why) => Self::Lost(why),
            Refused::Verdict(Verdict::NotHere, _) => Self::NoneReady,
            Refused::Verdict(Verdict::Busy | Verdict::BusyAndGone, _) => Self::Busy,
            Refused::Verdict(Verdict::Timeout, why) => Self::Timeout(why),
            Refused::Verdict(Verdict::BodyTooLarge, _) => {
                Self::Failed("the body is larger than it accepts".to_owned())
            }
            Refused::Verdict(_, why) => Self::Failed(why),
        }
    }
}

/// The way to the apps of other nodes.
#[derive(Clone)]
pub struct NeighbourCaller(pub(crate) Arc<Shared>);

impl NeighbourCaller {
    /// Asks an instance of an app on another node. The URI is absolute. What was not sent goes to another instance, and so does a request
    /// without a body that an instance has not taken.
    pub async fn call(
        &self,
        namespace: &NamespaceName,
        app: &AppName,
        mut request: Request<NeighbourBody>,
    ) -> Result<Response<NeighbourBody>, NeighbourError> {
        let mut tried: Vec<InstanceId> = Vec::new();
        let mut error = NeighbourError::NoneReady;
        while tried.len() < TRIES_MAX {
            let Some((target, peer)) = self.choose(namespace, app, &tried) else { break };
            tried.push(target.instance);
            let spare = copy_of(&request);
            let open = OpenAt::new(target);
            let refused = match peer.call_for_guest(open.instance(), request).await {
                Ok(response) => {
                    return Ok(response.map(|body| OfNeighbour { body, _open: open }.boxed_unsync()));
                }
                Err(refused) => refused,
            };
            let again = match refused {
                Refused::Unsent(request, why) => {
                    error = NeighbourError::Unreachable(why.to_string());
                    Some(*request)
                }
                refused @ Refused::Verdict(Verdict::NotHere | Verdict::Busy | Verdict::BusyAndGone, _) => {
                    error = refused.into();
                    spare
                }
                refused => return Err(refused.into()),
            };
            let Some(again) = again else { break };
            request = again;
        }
        Err(error)
    }

    /// Waits until an app that sleeps has an instance, on whichever node; it returns at once for any other. What asks is one of those that the
    /// app is woken for.
    pub async fn wake(&self, namespace: &NamespaceName, app: &AppName) -> Result<(), NeighbourError> {
        let Shared { config, installed, stats, table, .. } = &*self.0;
        let too_long = |no_wait: NoWait| NeighbourError::Asleep(no_wait.detail(config));
        let mut waiting = None;
        loop {
            let Some(load) = table.load().asleep(namespace, app).cloned() else { return Ok(()) };
            if waiting.is_none() {
                waiting = Some(stats.loads.wait(load, config, installed).map_err(too_long)?);
            }
            if let Some(waiting) = &mut waiting {
                waiting.go_on().await.map_err(too_long)?;
            }
        }
    }

    /// Counts a call to an instance of this node, which does not come through the front door, as one of its app's open requests. None: nobody
    /// asks how many these are.
    pub fn count(&self, namespace: &NamespaceName, app: &AppName) -> Option<CallInside> {
        self.0.table.load().counted(namespace, app).map(Load::begin_inside)
    }

    fn choose(
        &self,
        namespace: &NamespaceName,
        app: &AppName,
        tried: &[InstanceId],
    ) -> Option<(Arc<Target>, Arc<Peer>)> {
        let table = self.0.table.load();
        let target = table.elsewhere(namespace, app, tried, |below| rand::random_range(0..below))?;
        let peer = target.peer.clone()?;
        Some((target, peer))
    }
}

/// None: it has a body, which can be sent once.
fn copy_of(request: &Request<NeighbourBody>) -> Option<Request<NeighbourBody>> {
    if !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

impl Peer {
    async fn call_for_guest(
        self: Arc<Self>,
        instance: InstanceId,
        request: Request<NeighbourBody>,
    ) -> Result<Response<PeerBody>, Refused> {
        let held = match self.hold().await {
            Ok(held) => held,
            Err(why) => return Err(Refused::Unsent(Box::new(request), why)),
        };
        let mut request = request.map(|body| Outgoing::Guest(Gather::new(body)));
        *request.version_mut() = http::Version::HTTP_2;
        crate::headers::strip_request(request.headers_mut(), |_| false);
        Ask::Request { instance, client: NOBODY }.write(request.headers_mut());
        add_one(&self.stats.requests);
        let response = held.send(request).await.map_err(|(error, _)| {
            add_one(&self.stats.lost);
            Refused::Lost(super::peer::chain(&error))
        })?;
        self.answered();
        match Verdict::of(response.headers()) {
            None => Ok(response.map(|body| PeerBody::new(body, held))),
            Some(verdict) => Err(Refused::Verdict(verdict, detail(response).await)),
        }
    }
}

/// What a neighbour answers; it counts as open until it has been read, or dropped.
struct OfNeighbour {
    body: PeerBody,
    _open: OpenAt,
}

impl Body for OfNeighbour {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
