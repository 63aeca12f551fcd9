//! The way of a flow of datagrams to a container: a socket where that is on this node, or else a stream to its node.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_types::InstanceId;
use wharf_types::route::ContainerRoute;

use super::DATAGRAM_MAX_BYTES;
use crate::reach::directory::Asker;
use crate::reach::{FAR_MAX, Reach, rotate};

/// How soon a socket is read again that has said that nobody listens at the port, which may change.
const UNHEARD_PAUSE: Duration = Duration::from_millis(10);

/// Both directions of a flow to a container of another node. Dropped, it ends.
pub struct FarDatagrams {
    pub to: mpsc::Sender<Bytes>,
    /// It ends with the container.
    pub from: mpsc::Receiver<Bytes>,
}

pub(super) enum Link {
    /// With what is cancelled when the container has ended.
    Here(UdpSocket, CancellationToken),
    Far(FarDatagrams),
}

impl Link {
    /// False: it was dropped.
    pub(super) async fn send(&self, datagram: Bytes) -> bool {
        match self {
            // What fails first may be an earlier one, at which nobody listened.
            Self::Here(socket, _) => {
                socket.send(&datagram).await.is_ok() || socket.send(&datagram).await.is_ok()
            }
            Self::Far(far) => far.to.try_send(datagram).is_ok(),
        }
    }

    /// None: the container has ended, or nobody gets to it any more.
    pub(super) async fn receive(&mut self) -> Option<Bytes> {
        match self {
            Self::Here(socket, gone) => gone.run_until_cancelled(receive(socket)).await,
            Self::Far(far) => far.from.recv().await,
        }
    }
}

impl Reach {
    /// The way to a port of one of an app's containers that are ready: one of this node where there is one. Nobody says whether it takes what it gets.
    pub(super) async fn link(
        &self,
        asker: &Asker,
        route: &ContainerRoute,
        port: u16,
    ) -> Result<Link, String> {
        let mut why = "none of its containers is ready".to_owned();
        let is_ready = |id: InstanceId| route.endpoints.iter().any(|it| it.instance == id);
        let mut here = self.containers.of(asker, &route.app);
        here.retain(|container| is_ready(container.id));
        rotate(&mut here);
        for container in here {
            let Some(address) = container.address else { continue };
            match connect(SocketAddr::new(address, port)).await {
                Ok(socket) => return Ok(Link::Here(socket, container.gone.clone())),
                Err(error) => why = error.to_string(),
            }
        }
        let elsewhere = self.elsewhere(route);
        match self.far.get() {
            Some(far) if !elsewhere.is_empty() => {
                match tokio::time::timeout(FAR_MAX, far.exchange(elsewhere, port)).await {
                    Ok(exchange) => exchange.map(Link::Far),
                    Err(_) => Err(format!("no answer of another node within {FAR_MAX:?}")),
                }
            }
            _ => Err(why),
        }
    }
}

async fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

async fn receive(socket: &UdpSocket) -> Bytes {
    loop {
        let taken = match socket.readable().await {
            Ok(()) => take(socket),
            Err(error) => Err(error),
        };
        match taken {
            Ok(datagram) => return datagram,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => tokio::time::sleep(UNHEARD_PAUSE).await,
        }
    }
}

/// In a function of its own, so that no flow keeps the buffer while it waits.
fn take(socket: &UdpSocket) -> io::Result<Bytes> {
    let mut buffer = [0; DATAGRAM_MAX_BYTES];
    let length = socket.try_recv(&mut buffer)?;
    Ok(Bytes::copy_from_slice(&buffer[..length]))
}
