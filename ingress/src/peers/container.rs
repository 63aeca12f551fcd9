//! Connections of this node's guests and containers to ports of containers on other nodes, which they know by name, and flows of datagrams there.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wharf_types::{InstanceId, NodeId};

use super::datagrams::DatagramFlow;
use super::peer::Peer;
use super::tunnel::Tunnel;
use crate::proxy::Shared;

/// Containers that are asked for one connection.
const TRIES_MAX: usize = 3;
const NOBODY: &str = "no node has a container of it that is ready";

/// The way to the containers of other nodes.
#[derive(Clone)]
pub struct ContainerConnector(pub(crate) Arc<Shared>);

/// A connection to a port of a container. Dropped before it has been shut down, it resets the other end.
pub struct ContainerStream(Tunnel);

impl ContainerConnector {
    /// Connects to a port of one of these containers, in their order, but for those of nodes that do not answer lately. The error is for the log
    /// of an app.
    pub async fn connect(
        &self,
        containers: &[(NodeId, InstanceId)],
        port: u16,
    ) -> Result<ContainerStream, String> {
        let mut why = NOBODY.to_owned();
        for (peer, instance) in self.reached(containers).into_iter().take(TRIES_MAX) {
            match peer.connect_container(instance, port).await {
                Ok(tunnel) => return Ok(ContainerStream(tunnel)),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    /// A flow of datagrams to a port of one of these containers, in the same way.
    pub async fn exchange(
        &self,
        containers: &[(NodeId, InstanceId)],
        port: u16,
    ) -> Result<DatagramFlow, String> {
        let mut why = NOBODY.to_owned();
        for (peer, instance) in self.reached(containers).into_iter().take(TRIES_MAX) {
            match peer.exchange_datagrams(instance, port).await {
                Ok(tunnel) => return Ok(DatagramFlow::spawn(tunnel, self.0.stats.peers.clone())),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    fn reached(&self, containers: &[(NodeId, InstanceId)]) -> Vec<(Arc<Peer>, InstanceId)> {
        let table = self.0.table.load();
        let reached =
            containers.iter().filter_map(|(node, instance)| Some((table.peer_of(*node)?, *instance)));
        let mut reached: Vec<_> = reached.collect();
        reached.sort_by_key(|(peer, _)| peer.is_ejected());
        reached
    }
}

impl AsyncRead for ContainerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ContainerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
