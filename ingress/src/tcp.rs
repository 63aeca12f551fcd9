//! Public TCP ports: each belongs to one app, and a connection to it is joined to one of the app's instances.
//!
//! Which ports are open follows from the route table ([`ports`]); so does the instance that a connection goes to
//! ([`crate::router`]). What passes is not looked at ([`splice`]), except that an app may ask to be told who the client is
//! ([`proxy_header`]).

pub(crate) mod ports;
mod proxy_header;
pub(crate) mod splice;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wharf_types::{AppName, InstanceId, NamespaceName};

use crate::config::CONNECTIONS_MAX;

/// File handles of one connection: the client's, ours to the guest, and the guest's own, which is in this process, too.
const HANDLES_PER_CONNECTION: u64 = 3;

/// Settings of the TCP ports of one ingress. [`TcpConfig::new`] has the defaults.
#[derive(Clone)]
pub struct TcpConfig {
    /// Where the ports are opened. Default: on this machine only.
    pub host: IpAddr,
    /// One more connection is reset at once; and of those that came in at other nodes one more is refused. Default [`CONNECTIONS_MAX`].
    pub max_connections: usize,
    /// The way to the instances of this node. Default: there is none.
    pub places: Arc<dyn TcpPlaces>,
    /// Told about every connection that the ingress refuses, and every port that it cannot open: it must not block.
    pub on_error: Arc<dyn Fn(&TcpError) + Send + Sync>,
}

/// The seam to the guests of this node that listen.
pub trait TcpPlaces: Send + Sync {
    /// Takes a place at an instance for one connection to this public port. None: it does not (or no longer) listen there.
    fn admit(&self, instance: InstanceId, port: u16) -> Option<TcpPlace>;

    /// The same at any port of a container, for somebody of its namespace on another node. Such a connection does not hold up the end of the ingress. None: it
    /// is not (or no longer) here.
    fn admit_by_name(&self, _instance: InstanceId, _port: u16) -> Option<TcpPlace> {
        None
    }
}

/// A place at an instance.
pub struct TcpPlace {
    /// Where the guest listens.
    pub address: SocketAddr,
    /// Cancelled when the connection has to end although the guest goes on.
    pub cut: CancellationToken,
    /// Cancelled when the guest has ended.
    pub gone: CancellationToken,
    /// Dropped when the connection has ended.
    pub held: Box<dyn Send>,
}

/// Something that went wrong at a port; for the app's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpError {
    pub namespace: NamespaceName,
    pub app: AppName,
    /// The instance that was asked last.
    pub instance: Option<InstanceId>,
    pub port: u16,
    /// None: it is about the port, not about a connection.
    pub remote: Option<SocketAddr>,
    pub problem: TcpProblem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TcpProblem {
    #[error("no instance is ready")]
    NoneReady,
    #[error("each instance has as many connections as `limits.concurrency` allows")]
    Full,
    #[error("no instance took the connection: {0}")]
    NotTaken(String),
    #[error("this node has as many TCP connections as it can take")]
    NodeFull,
    #[error("the port cannot be opened: {0}; the next try is in a moment")]
    CannotOpen(String),
}

/// As many connections as leave an eighth of the process's file handles to everything else, beside those of
/// [`crate::connections_within`].
pub fn tcp_connections_within(file_handles_max: u64) -> usize {
    usize::try_from(file_handles_max / 8 / HANDLES_PER_CONNECTION).unwrap_or(usize::MAX).min(CONNECTIONS_MAX)
}

impl TcpConfig {
    pub fn new() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            max_connections: CONNECTIONS_MAX,
            places: Arc::new(Nowhere),
            on_error: Arc::new(|_| {}),
        }
    }
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TcpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConfig")
            .field("host", &self.host)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for TcpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote {
            Some(remote) => {
                write!(f, "port {}: reset a connection from {remote}: {}", self.port, self.problem)
            }
            None => write!(f, "port {}: {}", self.port, self.problem),
        }
    }
}

/// Leads to no instance.
struct Nowhere;

impl TcpPlaces for Nowhere {
    fn admit(&self, _: InstanceId, _: u16) -> Option<TcpPlace> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::connections_within;

    #[test]
    fn connections_of_both_kinds_leave_file_handles_to_the_rest() {
        for handles in [1024, 65_536, 1 << 20] {
            let http = connections_within(handles) as u64;
            let tcp = tcp_connections_within(handles) as u64;
            assert!(tcp > 0 && http + tcp * HANDLES_PER_CONNECTION <= handles / 8 * 7, "{handles}");
        }
        assert_eq!(tcp_connections_within(u64::MAX), CONNECTIONS_MAX);
    }

    #[test]
    fn an_error_says_where_it_was_and_what_became_of_the_connection() {
        let mut error = TcpError {
            namespace: NamespaceName::default_namespace(),
            app: "echo".parse().unwrap(),
            instance: None,
            port: 7000,
            remote: Some("10.0.0.1:5".parse().unwrap()),
            problem: TcpProblem::NoneReady,
        };
        assert_eq!(error.to_string(), "port 7000: reset a connection from 10.0.0.1:5: no instance is ready");
        error.remote = None;
        error.problem = TcpProblem::CannotOpen("Address already in use".into());
        assert!(error.to_string().starts_with("port 7000: the port cannot be opened: Address"), "{error}");
    }
}
