//! Wharf's HTTP front door: it finds the app that a request is for, and one of that app's instances to answer it.
//!
//! The guest is reached through a [`tower::Service`] that the binary hands in, and is awaited inside the connection's own
//! task: between a client's bytes and the guest there is no channel, no second parser and no spawned task. Decisions
//! ([`Router::find`], what happens to a header, when a connection has been quiet for too long) are pure functions; the
//! shell around them accepts, counts and closes.
//!
//! Apps may have TCP ports as well, which are joined to instances without a look at what passes.
//!
//! What a client sends is never trusted: names and addresses that only the ingress knows are replaced, and every
//! error that the ingress makes itself has a stable [`ErrorCode`].

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod accept;
mod body;
mod call;
mod config;
mod connection;
mod egress;
mod error;
mod forwarded;
mod headers;
mod ingress;
mod limit;
mod load;
mod meter;
mod pace;
mod page;
mod peers;
mod proxy;
mod request_body;
mod router;
mod serve;
mod start;
mod stats;
mod stream;
mod tcp;
mod trust;
mod upgrade;
mod uri;
mod watchdog;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use call::{CallError, LocalCall};
pub use config::{CONNECTIONS_MAX, Config, connections_within};
pub use egress::{Egress, EgressBudget};
pub use error::{ErrorCode, IngressError};
pub use ingress::{CutConnection, Ingress, IngressHandle, Shutdown};
pub use limit::Bucket;
pub use load::CallInside;
pub use meter::Meter;
pub use peers::PeerTls;
pub use peers::container::{ContainerConnector, ContainerStream};
pub use peers::content::{ArtifactBytes, ArtifactReader, PeerArtifacts};
pub use peers::datagrams::DatagramFlow;
pub use peers::neighbour::{NeighbourBody, NeighbourCaller, NeighbourError};
pub use request_body::RequestBody;
pub use router::{
    Match, OpenConnection, Route, Router, Side, Target, Targets, TcpRefused, TcpRoute, TcpTarget,
};
pub use stats::StatsSnapshot;
pub use tcp::{TcpConfig, TcpError, TcpPlace, TcpPlaces, TcpProblem, tcp_connections_within};
pub use trust::{InvalidIpRange, IpRange};
pub use upgrade::Upgraded;

/// What a response body may fail with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;
