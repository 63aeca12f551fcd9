//! The way from a request to its instance, for the front door and for guests that call their neighbours.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::watch::{self, Receiver};
use wasmtime_wasi_http::{Error, WasiBody};
use wharf_types::route::RouteTable;
use wharf_types::{AppName, InstanceId, NamespaceName};

use super::admission::{Admitted, Refused};
use super::allowance::{Allowance, Allowances};
use super::app::HttpApp;
use super::body::GuestBody;
use super::failure::InvokeError;
use super::outbound::{Egress, EgressPlace, Hosts, Neighbours};
use crate::container::upstream::{ContainerBody, ContainerConnection, Place, Upstream};
use crate::reach::Reach;

/// What answers for an instance.
#[derive(Clone)]
pub(crate) enum Target {
    Guest(Arc<HttpApp>),
    Container(Arc<Upstream>),
}

impl Target {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Guest(one), Self::Guest(other)) => Arc::ptr_eq(one, other),
            (Self::Container(one), Self::Container(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    fn active(&self) -> u64 {
        match self {
            Self::Guest(app) => app.meter().active(),
            Self::Container(upstream) => upstream.meter().active(),
        }
    }
}

/// The apps that answer requests. Both maps are swapped as a whole: a request reads them without a lock.
#[derive(Default)]
pub struct Table {
    by_instance: ArcSwap<HashMap<InstanceId, Target>>,
    /// The instances to which requests for an app may go, of all nodes.
    routed: ArcSwap<HashMap<(NamespaceName, AppName), Vec<InstanceId>>>,
    /// The way to what is on other nodes. Empty: there are none, or the front door is not open yet.
    far: OnceLock<Arc<dyn FarNeighbours>>,
    egress: EgressPlace,
    /// What guests are not to reach by its address only.
    hosts: Arc<Hosts>,
    /// What the guests of each namespace may use together.
    allowances: Allowances,
}

/// Why an app on another node gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum FarError {
    #[error("no node has an instance that is ready")]
    NotFound,
    #[error("no instance takes the request: {0}")]
    Unavailable(String),
    #[error("the app did not answer in time: {0}")]
    Timeout(String),
    #[error("the node has gone away: {0}")]
    Lost(String),
    #[error("{0}")]
    Failed(String),
}

/// The body of a request to another node, or of its answer.
pub type FarBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Calls the apps of other nodes.
pub trait FarNeighbours: Send + Sync {
    fn call(
        &self,
        namespace: NamespaceName,
        app: AppName,
        request: Request<FarBody>,
    ) -> BoxFuture<'static, Result<Response<FarBody>, FarError>>;

    /// Waits until an app that sleeps has an instance, on whichever node. For any other there is nothing to wait for.
    fn wake(&self, namespace: NamespaceName, app: AppName) -> BoxFuture<'static, Result<(), FarError>>;

    /// Counts a call to an instance of this node as one of its app's open requests, until it is dropped. None: nobody asks how many these are.
    fn count(&self, namespace: &NamespaceName, app: &AppName) -> Option<Counted>;
}

/// An open call that is counted.
pub type Counted = Box<dyn Any + Send>;

/// Whether an instance takes a request.
pub enum Admission {
    Admitted(Admitted),
    /// Its places are taken, and one may become free.
    Full(Arc<HttpApp>),
    InContainer(Place),
    FullContainer(Arc<Upstream>),
    /// It is not (or no longer) here.
    NotHere,
}

/// Why a request got no response from an instance. Where the guest has not touched it, it is as it was.
#[derive(Debug)]
pub enum DispatchError<B> {
    NotHere(Box<Request<B>>),
    Busy(Box<Request<B>>),
    Invoke(InvokeError),
}

impl Table {
    /// Takes a place in an instance of this node, if there is one now.
    pub fn admit(&self, instance: InstanceId) -> Admission {
        let by_instance = self.by_instance.load();
        match by_instance.get(&instance) {
            Some(Target::Guest(app)) => match Admitted::try_new(app.clone()) {
                Ok(admitted) => Admission::Admitted(admitted),
                Err((Refused::Full, app)) => Admission::Full(app),
                Err((Refused::Closed, _)) => Admission::NotHere,
            },
            Some(Target::Container(upstream)) => match upstream.try_enter() {
                Ok(place) => Admission::InContainer(place),
                Err(Refused::Full) => Admission::FullContainer(upstream.clone()),
                Err(Refused::Closed) => Admission::NotHere,
            },
            None => Admission::NotHere,
        }
    }

    /// Sends what guests ask of apps that are not on this node there.
    pub fn reach_others(&self, far: Arc<dyn FarNeighbours>) {
        // The first way stays: a node has one front door.
        let _ = self.far.set(far);
    }

    /// Has what guests send by themselves counted there, and held back.
    pub fn count_egress(&self, egress: Arc<dyn Egress>) {
        // As above.
        let _ = self.egress.set(egress);
    }

    /// The front door listens at this port, which guests may reach as everybody may.
    pub fn serve_at(&self, port: u16) {
        self.hosts.serve_at(port);
    }

    pub(crate) fn hosts(&self) -> Arc<Hosts> {
        self.hosts.clone()
    }

    pub(crate) fn egress(&self) -> EgressPlace {
        self.egress.clone()
    }

    pub(crate) fn allowance(&self, namespace: &NamespaceName) -> Arc<Allowance> {
        self.allowances.of(namespace)
    }

    pub(crate) fn insert(&self, ids: &[InstanceId], target: Target) {
        self.by_instance.rcu(|apps| {
            let mut apps = HashMap::clone(apps);
            apps.extend(ids.iter().map(|id| (*id, target.clone())));
            apps
        });
    }

    pub(crate) fn remove(&self, ids: &[InstanceId], target: &Target) {
        self.by_instance.rcu(|apps| {
            let mut apps = HashMap::clone(apps);
            for id in ids {
                // A replacement may answer for this id already.
                if apps.get(id).is_some_and(|other| other.is(target)) {
                    apps.remove(id);
                }
            }
            apps
        });
    }

    /// Guests that call their neighbours go by these routes from here on, and all use no more than their namespaces may.
    fn go_by(&self, routes: &RouteTable) {
        self.allowances.go_by(&routes.limits);
        self.hosts.go_by(routes);
        let mut routed = HashMap::new();
        // Each route of an app leads to the same instances.
        for route in &routes.routes {
            routed.entry((route.namespace.clone(), route.app.clone())).or_insert_with(|| {
                route.endpoints.iter().map(|endpoint| endpoint.instance).collect::<Vec<_>>()
            });
        }
        self.routed.store(Arc::new(routed));
    }

    /// The instance of an app on this node that has the fewest requests.
    fn neighbour(&self, namespace: &NamespaceName, app: &AppName) -> Option<Target> {
        let (routed, by_instance) = (self.routed.load(), self.by_instance.load());
        let instances = routed.get(&(namespace.clone(), app.clone()))?;
        let here = instances.iter().filter_map(|instance| by_instance.get(instance));
        here.min_by_key(|instance| instance.active()).cloned()
    }
}

/// Takes up each new table of routes and then hands it on. Whoever gets it tells the control plane that it is in use, and by then it
/// is in use by neighbours, too.
pub fn relay(
    table: Arc<Table>,
    reach: Arc<Reach>,
    mut routes: Receiver<Arc<RouteTable>>,
) -> Receiver<Arc<RouteTable>> {
    let (to, relayed) = watch::channel(routes.borrow().clone());
    tokio::spawn(async move {
        while routes.changed().await.is_ok() {
            let newest = routes.borrow_and_update().clone();
            table.go_by(&newest);
            reach.go_by(&newest);
            to.send_replace(newest);
        }
        // The last routes stay in use.
        to.closed().await;
    });
    relayed
}

impl Admission {
    /// Hands a request to the instance. Its URI must be absolute.
    pub async fn call<B>(self, request: Request<B>) -> Result<Response<AnswerBody>, DispatchError<B>>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Error> + Into<BoxError>,
    {
        let admitted = match self {
            Self::Admitted(admitted) => admitted,
            Self::NotHere => return Err(DispatchError::NotHere(Box::new(request))),
            Self::InContainer(place) => {
                return Ok(place.call(request).await?.map(AnswerBody::Container));
            }
            Self::FullContainer(upstream) => match upstream.enter().await {
                Ok(place) => return Ok(place.call(request).await?.map(AnswerBody::Container)),
                Err(Refused::Full) => {
                    upstream.meter().refused();
                    return Err(DispatchError::Busy(Box::new(request)));
                }
                Err(Refused::Closed) => return Err(DispatchError::NotHere(Box::new(request))),
            },
            Self::Full(app) => match Admitted::wait(app.clone()).await {
                Ok(admitted) => admitted,
                Err(Refused::Full) => {
                    app.meter().refused();
                    return Err(DispatchError::Busy(Box::new(request)));
                }
                Err(Refused::Closed) => return Err(DispatchError::NotHere(Box::new(request))),
            },
        };
        let answer = admitted.call(request).await.map_err(DispatchError::Invoke)?;
        Ok(answer.map(AnswerBody::Guest))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer, whoever it comes from.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are of guests, and a box would cost each an allocation"
)]
pub enum AnswerBody {
    Guest(GuestBody),
    Container(ContainerBody),
}

impl AnswerBody {
    /// The connection that an answer 101 has made of the request's. None: it was taken already, or a guest's, which has none.
    pub fn take_connection(&mut self) -> Option<ContainerConnection> {
        match self {
            Self::Guest(_) => None,
            Self::Container(body) => body.take_connection(),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Guest(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Container(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Guest(body) => body.is_end_stream(),
            Self::Container(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Guest(body) => body.size_hint(),
            Self::Container(body) => body.size_hint(),
        }
    }
}

/// The other apps of a namespace: those of this node, and of others where this one has none.
pub(crate) struct NamespaceNeighbours {
    pub(crate) table: Weak<Table>,
    pub(crate) namespace: NamespaceName,
}

impl Neighbours for NamespaceNeighbours {
    fn call(
        &self,
        app: &AppName,
        request: Request<WasiBody>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<WasiBody>, Error>> + Send>> {
        let Some(table) = self.table.upgrade() else {
            return Box::pin(async { Err(Error::DestinationNotFound) });
        };
        let (namespace, app) = (self.namespace.clone(), app.clone());
        Box::pin(async move {
            let far = table.far.get().cloned();
            let mut here = table.neighbour(&namespace, &app);
            if here.is_none()
                && let Some(far) = &far
            {
                far.wake(namespace.clone(), app.clone()).await.map_err(as_wasi)?;
                here = table.neighbour(&namespace, &app);
            }
            // What calls may outlive the table.
            drop(table);
            match (here, far) {
                (Some(here), far) => {
                    let counted = far.and_then(|far| far.count(&namespace, &app));
                    let answer = call_here(here, request).await?;
                    Ok(match counted {
                        None => answer,
                        Some(counted) => answer.map(|body| Open { body, _counted: counted }.boxed_unsync()),
                    })
                }
                (None, Some(far)) => {
                    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                    let answer = far.call(namespace, app, request).await.map_err(as_wasi)?;
                    Ok(answer.map(|body| body.map_err(|_| Error::ConnectionTerminated).boxed_unsync()))
                }
                (None, None) => Err(Error::DestinationNotFound),
            }
        })
    }
}

/// The body of an answer whose call is open until it has been read, or dropped.
struct Open {
    body: WasiBody,
    _counted: Counted,
}

impl Body for Open {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn call_here(here: Target, request: Request<WasiBody>) -> Result<Response<WasiBody>, Error> {
    let here = match here {
        Target::Guest(app) => app,
        Target::Container(upstream) => return call_container(&upstream, request).await,
    };
    match here.call(request).await {
        Ok(response) => Ok(response.map(BodyExt::boxed_unsync)),
        Err(InvokeError::Busy | InvokeError::OverQuota(_)) => Err(Error::DestinationUnavailable),
        Err(InvokeError::Timeout(_)) => Err(Error::HttpResponseTimeout),
        Err(error) => Err(Error::InternalError(Some(error.to_string()))),
    }
}

async fn call_container(
    upstream: &Arc<Upstream>,
    request: Request<WasiBody>,
) -> Result<Response<WasiBody>, Error> {
    let Ok(place) = upstream.enter().await else { return Err(Error::DestinationUnavailable) };
    match place.call(request).await {
        Ok(response) => Ok(response.map(|body| body.map_err(|_| Error::ConnectionTerminated).boxed_unsync())),
        Err(DispatchError::NotHere(_) | DispatchError::Busy(_)) => Err(Error::DestinationUnavailable),
        Err(DispatchError::Invoke(InvokeError::Timeout(_))) => Err(Error::HttpResponseTimeout),
        Err(DispatchError::Invoke(error)) => Err(Error::InternalError(Some(error.to_string()))),
    }
}

/// As the guest gets it.
fn as_wasi(error: FarError) -> Error {
    match error {
        FarError::NotFound => Error::DestinationNotFound,
        FarError::Unavailable(_) => Error::DestinationUnavailable,
        FarError::Timeout(_) => Error::HttpResponseTimeout,
        FarError::Lost(_) => Error::ConnectionTerminated,
        FarError::Failed(why) => Error::InternalError(Some(why)),
    }
}
