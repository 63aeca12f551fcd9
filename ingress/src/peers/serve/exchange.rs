//! Datagrams that another node exchanges with a port of a container here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use wharf_types::InstanceId;

use super::PeerDoor;
use super::answer::{ServeBody, says};
use crate::peers::PeerStats;
use crate::peers::datagrams::{DATAGRAM_MAX_BYTES, QUEUE_MAX, carry, offer};
use crate::peers::gather::Gather;
use crate::peers::tunnel::{self, Tunnel};
use crate::peers::wire::Verdict;
use crate::stats::add_one;
use crate::tcp::TcpPlace;

/// How soon a socket is read again that has said that nobody listens at the port, which may change.
const UNHEARD_PAUSE: Duration = Duration::from_millis(10);

impl<S> PeerDoor<S> {
    /// Joins the bodies of a request and its answer to a socket of its own that sends to a container: what it may cost, and whether it may be, was settled by
    /// the node that asks.
    pub(super) async fn exchange<B>(
        self,
        instance: InstanceId,
        port: u16,
        body: Incoming,
    ) -> Response<ServeBody<B>> {
        add_one(&self.shared.stats.peers.served);
        let Ok(permit) = self.by_name.clone().try_acquire_owned() else {
            return says(Verdict::NotTaken, "its node has as many connections by name as it can take");
        };
        let Some(place) = self.shared.config.tcp.places.admit_by_name(instance, port) else {
            return says(Verdict::NotHere, "");
        };
        let socket = match connect(place.address).await {
            Ok(socket) => socket,
            Err(error) => return says(Verdict::NotTaken, &format!("its node has no socket for it: {error}")),
        };
        // Containers go on when this process ends, so nobody would end such a flow before.
        let place = TcpPlace { cut: self.stop.clone(), ..place };
        let (writer, outgoing) = tunnel::outgoing();
        let exchange = Exchange {
            tunnel: Tunnel::new(body, writer, None),
            socket,
            place,
            stats: self.shared.stats.peers.clone(),
            _permit: permit,
        };
        self.serving.spawn(exchange.pass(self.cut.clone()));
        Response::new(ServeBody::Connection { body: Gather::new(outgoing) })
    }
}

/// A flow from another node, and the socket that stands for who sends there.
struct Exchange {
    tunnel: Tunnel,
    socket: UdpSocket,
    place: TcpPlace,
    stats: Arc<PeerStats>,
    _permit: OwnedSemaphorePermit,
}

impl Exchange {
    /// Until the other node ends it, or the container has ended. A flow that nobody uses is ended there.
    async fn pass(self, end: CancellationToken) {
        let Self { tunnel, socket, place, stats, _permit } = self;
        let (to_peer, outgoing) = mpsc::channel::<Bytes>(QUEUE_MAX);
        let (incoming, mut from_peer) = mpsc::channel::<Bytes>(QUEUE_MAX);
        let sends = async {
            while let Some(datagram) = from_peer.recv().await {
                if !send(&socket, &datagram).await {
                    add_one(&stats.datagrams_dropped);
                }
            }
        };
        let receives = async {
            loop {
                match receive(&socket).await {
                    Ok(datagram) => {
                        if !offer(&to_peer, datagram, &stats) {
                            return;
                        }
                    }
                    Err(_) => tokio::time::sleep(UNHEARD_PAUSE).await,
                }
            }
        };
        tokio::select! {
            () = carry(tunnel, outgoing, incoming, &stats) => {}
            () = sends => {}
            () = receives => {}
            () = end.cancelled() => {}
            () = place.cut.cancelled() => {}
            () = place.gone.cancelled() => {}
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

/// False: the kernel has not taken it.
async fn send(socket: &UdpSocket, datagram: &[u8]) -> bool {
    // What fails first may be an earlier one, at which nobody listened.
    socket.send(datagram).await.is_ok() || socket.send(datagram).await.is_ok()
}

async fn receive(socket: &UdpSocket) -> io::Result<Bytes> {
    loop {
        socket.readable().await?;
        match take(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            taken => return taken,
        }
    }
}

/// In a function of its own, so that no flow keeps the buffer while it waits.
fn take(socket: &UdpSocket) -> io::Result<Bytes> {
    let mut buffer = [0; DATAGRAM_MAX_BYTES];
    let length = socket.try_recv(&mut buffer)?;
    Ok(Bytes::copy_from_slice(&buffer[..length]))
}
