//! The way from a request to its instance, for the front door and for guests that call their neighbours.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, WasiBody};
use wharf_types::{AppName, InstanceId, NamespaceName};

use super::admission::{Admitted, Refused};
use super::app::HttpApp;
use super::body::GuestBody;
use super::failure::InvokeError;
use super::outbound::Neighbours;

/// The apps that answer requests, swapped as a whole: a request reads it without a lock.
#[derive(Default)]
pub struct Table {
    apps: ArcSwap<Apps>,
}

#[derive(Clone, Default)]
struct Apps {
    by_instance: HashMap<InstanceId, Arc<HttpApp>>,
    by_name: HashMap<(NamespaceName, AppName), Vec<Arc<HttpApp>>>,
}

/// Whether an instance takes a request.
pub enum Admission {
    Admitted(Admitted),
    /// Its places are taken, and one may become free.
    Full(Arc<HttpApp>),
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
        let apps = self.apps.load();
        let Some(app) = apps.by_instance.get(&instance) else { return Admission::NotHere };
        match Admitted::try_new(app.clone()) {
            Ok(admitted) => Admission::Admitted(admitted),
            Err((Refused::Full, app)) => Admission::Full(app),
            Err((Refused::Closed, _)) => Admission::NotHere,
        }
    }

    pub(super) fn insert(&self, ids: &[InstanceId], name: &(NamespaceName, AppName), app: &Arc<HttpApp>) {
        self.apps.rcu(|apps| {
            let mut apps = Apps::clone(apps);
            for id in ids {
                apps.by_instance.insert(*id, app.clone());
            }
            let instances = apps.by_name.entry(name.clone()).or_default();
            if !instances.iter().any(|other| Arc::ptr_eq(other, app)) {
                instances.push(app.clone());
            }
            apps
        });
    }

    pub(super) fn remove(&self, ids: &[InstanceId], app: &Arc<HttpApp>) {
        self.apps.rcu(|apps| {
            let mut apps = Apps::clone(apps);
            for id in ids {
                // A replacement may answer for this id already.
                if apps.by_instance.get(id).is_some_and(|other| Arc::ptr_eq(other, app)) {
                    apps.by_instance.remove(id);
                }
            }
            apps.by_name.retain(|_, instances| {
                instances.retain(|other| !Arc::ptr_eq(other, app));
                !instances.is_empty()
            });
            apps
        });
    }
}

impl Admission {
    /// Hands a request to the instance. Its URI must be absolute.
    pub async fn call<B>(self, request: Request<B>) -> Result<Response<GuestBody>, DispatchError<B>>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Error>,
    {
        let admitted = match self {
            Self::Admitted(admitted) => admitted,
            Self::NotHere => return Err(DispatchError::NotHere(Box::new(request))),
            Self::Full(app) => match Admitted::wait(app.clone()).await {
                Ok(admitted) => admitted,
                Err(Refused::Full) => {
                    app.meter().refused();
                    return Err(DispatchError::Busy(Box::new(request)));
                }
                Err(Refused::Closed) => return Err(DispatchError::NotHere(Box::new(request))),
            },
        };
        admitted.call(request).await.map_err(DispatchError::Invoke)
    }
}

/// The other apps of a namespace, as far as they run on this node.
pub(super) struct NamespaceNeighbours {
    pub(super) table: Weak<Table>,
    pub(super) namespace: NamespaceName,
}

impl Neighbours for NamespaceNeighbours {
    fn call(
        &self,
        app: &AppName,
        request: Request<WasiBody>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<WasiBody>, Error>> + Send>> {
        let found = self.table.upgrade().and_then(|table| {
            let apps = table.apps.load();
            let instances = apps.by_name.get(&(self.namespace.clone(), app.clone()))?;
            instances.iter().min_by_key(|instance| instance.meter().active()).cloned()
        });
        Box::pin(async move {
            let app = found.ok_or(Error::DestinationNotFound)?;
            match app.call(request).await {
                Ok(response) => Ok(response.map(BodyExt::boxed_unsync)),
                Err(InvokeError::Busy) => Err(Error::DestinationUnavailable),
                Err(InvokeError::Timeout(_)) => Err(Error::HttpResponseTimeout),
                Err(error) => Err(Error::InternalError(Some(error.to_string()))),
            }
        })
    }
}
