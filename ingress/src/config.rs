//! What the ingress can be told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use wharf_types::NodeId;
use wharf_types::protocol::{SPOKEN, Versions};

use crate::error::IngressError;
use crate::peers::PeerTls;
use crate::peers::content::PeerArtifacts;
use crate::tcp::TcpConfig;
use crate::trust::IpRange;

/// Connections of an ingress that has file handles in plenty.
pub const CONNECTIONS_MAX: usize = 10_000;

/// As many connections as leave a quarter of the process's file handles to everything else: a worker without any could
/// neither log nor start an instance, while a client that is turned away may try elsewhere.
pub fn connections_within(file_handles_max: u64) -> usize {
    usize::try_from(file_handles_max / 4 * 3).unwrap_or(usize::MAX).min(CONNECTIONS_MAX)
}

/// Settings of one ingress. [`Config::new`] has the defaults.
#[derive(Clone)]
pub struct Config {
    /// The node whose endpoints are called in process.
    pub node: NodeId,
    /// How long a client may take to send a request's head. Default 10 s.
    pub header_timeout: Duration,
    /// How long a connection may stay without a request, how long a client may take nothing of a response that waits
    /// for it, and how long it may send nothing of a body that a guest waits for. Default 60 s.
    pub idle: Duration,
    /// How long nothing may pass over a connection that was upgraded, such as one of WebSocket. Where one side has ended, `idle` holds for the
    /// other. Default one hour.
    pub upgraded_idle: Duration,
    /// One more connection is closed at once. Default [`CONNECTIONS_MAX`].
    pub max_connections: usize,
    /// The largest head of a request, in octets. Default 64 KiB.
    pub max_header_bytes: usize,
    /// Peers that may say whom they forward for. Default: nobody, not even private addresses.
    pub trusted_proxies: Vec<IpRange>,
    /// How long after its start the ingress lets requests wait for its first routes, and for instances of apps that have none ready. Default:
    /// not at all.
    pub start_grace: Duration,
    /// How long a request waits for the first instance of an app that sleeps. Default 10 s.
    pub wake_timeout: Duration,
    /// Requests to one app that wait at once; one more is refused. Default 1000.
    pub wake_max: usize,
    /// Public ports of apps.
    pub tcp: TcpConfig,
    /// How instances of other nodes are reached. Default: not at all.
    pub peers: Option<Arc<PeerTls>>,
    /// What the ingresses of other nodes may get of this one beside its instances. Default: nothing.
    pub artifacts: Option<Arc<dyn PeerArtifacts>>,
    /// Versions of the node protocol. What has come with others than these is nonsense to the listener for peers. Default: [`SPOKEN`].
    pub speaks: Versions,
    /// Told about every error that the ingress makes itself, inside the request's task: it must not block.
    pub on_error: Arc<dyn Fn(&IngressError) + Send + Sync>,
}

impl Config {
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            header_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            upgraded_idle: Duration::from_secs(60 * 60),
            max_connections: CONNECTIONS_MAX,
            max_header_bytes: 64 * 1024,
            trusted_proxies: Vec::new(),
            start_grace: Duration::ZERO,
            wake_timeout: Duration::from_secs(10),
            wake_max: 1000,
            tcp: TcpConfig::new(),
            peers: None,
            artifacts: None,
            speaks: SPOKEN,
            on_error: Arc::new(|_| {}),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node", &self.node)
            .field("header_timeout", &self.header_timeout)
            .field("idle", &self.idle)
            .field("upgraded_idle", &self.upgraded_idle)
            .field("max_connections", &self.max_connections)
            .field("max_header_bytes", &self.max_header_bytes)
            .field("trusted_proxies", &self.trusted_proxies)
            .field("start_grace", &self.start_grace)
            .field("wake_timeout", &self.wake_timeout)
            .field("wake_max", &self.wake_max)
            .field("tcp", &self.tcp)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_file_handles_to_the_rest() {
        assert_eq!(connections_within(1024), 768);
        assert_eq!(connections_within(1 << 20), CONNECTIONS_MAX);
        assert_eq!(connections_within(u64::MAX), CONNECTIONS_MAX);
    }
}
