//! What a worker has in use as a whole, and what it has had to refuse. What its apps use is [`crate::node::AppUsage`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::VolumeId;
use crate::name::{AppName, NamespaceName, VolumeName};
use crate::requests::RequestTotals;

/// How much of something is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Share {
    pub used: u64,
    /// All that there is.
    pub max: u64,
}

/// Figures of a worker: what is in use now, and totals since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeFigures {
    /// Places for guest stores.
    pub stores: Share,
    /// Stores that wait for their next request. Each has a place, and gives it up when somebody else needs it.
    pub idle_stores: u64,
    /// Total of guests that got no place in time.
    pub stores_refused: u64,
    /// Memory of all guests, in octets.
    pub memory_bytes: Share,
    /// Total of growths of memory that the host refused: it was full, or one app had its part.
    pub memory_refused: u64,
    /// Memory that nobody uses and the pool keeps for the next guest, in octets.
    pub pool_kept_bytes: u64,
    /// Compiled artifacts that instances of this worker have loaded.
    pub artifacts: u64,
    /// HTTP connections of guests to other servers, also those that wait to be used again.
    pub outbound_connections: Share,
    pub front_door: FrontDoorFigures,
    /// Volumes that instances of this worker have had since it started.
    #[serde(default)]
    pub volumes: Vec<VolumeFigures>,
    /// Of the volumes that the worker is to remove, those that are gone.
    #[serde(default)]
    pub removed_volumes: Vec<VolumeId>,
    #[serde(default)]
    pub datagrams: DatagramFigures,
}

/// Datagrams that containers of a worker have sent to apps by name, and what has come back. Those on their way between nodes that are dropped there are in
/// [`PeerFigures::datagrams_dropped`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DatagramFigures {
    /// Flows that there are now: one for each port of a container and the port of an app that it sends to.
    pub flows: u64,
    /// From here on totals.
    pub passed: u64,
    /// Those for which there was no room, and those that lead nowhere.
    pub dropped: u64,
}

/// How full a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VolumeFigures {
    pub id: VolumeId,
    pub namespace: NamespaceName,
    pub app: AppName,
    pub name: VolumeName,
    /// Each file and folder counts as its length and 4 KiB. As of the last measurement and the writes since then.
    pub used_bytes: u64,
    pub size_bytes: u64,
    /// Whether a guest was refused room, and nothing was deleted since then.
    pub full: bool,
}

/// Figures of a worker's ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FrontDoorFigures {
    pub open_connections: u64,
    pub open_requests: u64,
    /// From here on totals.
    pub connections: u64,
    /// Closed at once, because as many as allowed were open.
    pub connections_refused: u64,
    /// Closed because the client was too slow.
    pub connections_cut: u64,
    /// Connections that could not be accepted.
    pub accept_errors: u64,
    pub requests: u64,
    /// Requests whose client left before the answer, as far as it was noticed.
    pub clients_gone: u64,
    /// Requests that the ingress answered itself, by the code in `x-wharf-error`.
    pub errors: BTreeMap<String, u64>,
    /// Tells this run of the worker from others: the totals of [`Self::releases`] began with it.
    #[serde(default)]
    pub run: String,
    /// What became of the requests to each release. One that was not asked for anything is left out, and in time one that is gone.
    #[serde(default)]
    pub releases: Vec<RequestTotals>,
    /// Apps that scale by their open requests, and have instances here or requests that wait for one.
    #[serde(default)]
    pub loads: Vec<AppLoad>,
    #[serde(default)]
    pub peers: PeerFigures,
}

/// What a worker's ingress has sent to those of other nodes, and what came from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PeerFigures {
    /// Connections to other nodes.
    pub open_connections: u64,
    /// Nodes that get nothing new, because they do not answer.
    pub ejected: u64,
    /// From here on totals.
    pub connections: u64,
    pub ejections: u64,
    /// Requests, and connections to TCP ports, that were sent to other nodes.
    pub requests: u64,
    /// Those that could not be sent, so that another instance was asked.
    pub unreachable: u64,
    /// Those that were sent, and of which nothing was heard any more.
    pub lost: u64,
    /// Requests that another instance was asked for after one of another node had not taken them.
    pub retried: u64,
    /// Requests, and connections, that came from other nodes.
    pub served: u64,
    /// Datagrams that came from another node, or were to go there, and for which there was no room.
    #[serde(default)]
    pub datagrams_dropped: u64,
}

/// What is asked of an app at an ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AppLoad {
    pub namespace: NamespaceName,
    pub app: AppName,
    /// Requests that wait for a first instance now.
    pub waiting: u64,
    /// Open requests and connections, on the mean of the last half second, in thousandths.
    pub open_thousandths: u64,
}
