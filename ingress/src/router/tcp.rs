//! Public ports of apps, and which instance takes a connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wharf_types::route;
use wharf_types::{AppName, InstanceId, NamespaceName, NodeId};

use super::{Place, Target, Targets};
use crate::limit::Bucket;
use crate::peers::Peer;

/// An app's public port.
#[derive(Debug)]
pub struct TcpRoute {
    pub namespace: NamespaceName,
    pub app: AppName,
    /// The instances, those of this node first.
    pub targets: Vec<TcpTarget>,
    /// What is left of its namespace's octets to clients. None: they have no limit.
    pub(crate) egress: Option<Arc<Bucket>>,
}

#[derive(Debug)]
pub struct TcpTarget {
    pub target: Arc<Target>,
    pub connections_max: usize,
    pub proxy_protocol: bool,
}

/// A connection that counts towards its instance until this is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    target: Arc<Target>,
    proxy_protocol: bool,
    /// Of its namespace.
    pub(crate) egress: Option<Arc<Bucket>>,
}

/// Why no instance takes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpRefused {
    NoneReady,
    /// Each has as many as it may.
    Full,
}

impl TcpRoute {
    pub(super) fn build(
        route: &route::TcpRoute,
        node: NodeId,
        targets: &mut Targets,
        egress: Option<Arc<Bucket>>,
    ) -> Self {
        let mut reached = Vec::new();
        for endpoint in &route.endpoints {
            let route::TcpEndpoint { instance, node: on, release, .. } = *endpoint;
            let place = Place { instance, node: on, release, concurrency: endpoint.connections_max };
            let Some(target) = targets.reach(&place, node, &route.namespace, &route.app) else { continue };
            reached.push(TcpTarget {
                target,
                connections_max: usize::try_from(endpoint.connections_max).unwrap_or(usize::MAX),
                proxy_protocol: endpoint.proxy_protocol,
            });
        }
        reached.sort_by_key(|target| target.target.peer.is_some());
        Self { namespace: route.namespace.clone(), app: route.app.clone(), targets: reached, egress }
    }

    pub(super) fn here(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.iter().map(|target| &target.target).filter(|target| target.peer.is_none())
    }

    /// Opens a connection to the instance that has the fewest, leaving out those that were `tried`; the first of equals. One of this node is
    /// taken as long as it has room, and one of a node that is ejected only where there is no other.
    pub fn admit(&self, tried: &[InstanceId]) -> Result<OpenConnection, TcpRefused> {
        let left = || self.targets.iter().filter(|target| !tried.contains(&target.target.instance));
        loop {
            let room = |target: &&TcpTarget| target.target.open_requests() < target.connections_max;
            let rank = |target: &&TcpTarget| {
                let target = &target.target;
                (target.peer.is_some(), target.is_ejected(), target.open_requests())
            };
            let Some(best) = left().filter(room).min_by_key(rank) else {
                return Err(if left().next().is_some() { TcpRefused::Full } else { TcpRefused::NoneReady });
            };
            // Where others came first and took the last place, the next look leaves the instance out.
            if let Some(open) = self.open(best) {
                return Ok(open);
            }
        }
    }

    /// Opens a connection of a peer to an instance of this node.
    pub(crate) fn admit_at(&self, instance: InstanceId) -> Result<OpenConnection, TcpRefused> {
        let is_it = |target: &&TcpTarget| target.target.instance == instance && target.target.peer.is_none();
        let target = self.targets.iter().find(is_it).ok_or(TcpRefused::NoneReady)?;
        self.open(target).ok_or(TcpRefused::Full)
    }

    fn open(&self, target: &TcpTarget) -> Option<OpenConnection> {
        target.target.try_open(target.connections_max).then(|| OpenConnection {
            target: target.target.clone(),
            proxy_protocol: target.proxy_protocol,
            egress: self.egress.clone(),
        })
    }
}

impl OpenConnection {
    pub fn instance(&self) -> InstanceId {
        self.target.instance
    }

    /// The node that has the instance. None: this one.
    pub(crate) fn peer(&self) -> Option<&Arc<Peer>> {
        self.target.peer.as_ref()
    }

    /// The connection was broken off.
    pub(crate) fn was_cut(&self) {
        self.target.meter.cut();
    }

    pub fn wants_proxy_header(&self) -> bool {
        self.proxy_protocol
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.target.open.fetch_sub(1, Ordering::Relaxed);
    }
}
