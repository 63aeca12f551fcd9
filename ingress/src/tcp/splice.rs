//! One connection to a public port, from its first octet to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncWriteExt, copy_bidirectional, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use wharf_types::InstanceId;

use super::proxy_header;
use super::{TcpError, TcpPlace, TcpProblem};
use crate::connection::Registered;
use crate::pace::{Pace, Paced};
use crate::peers::Peer;
use crate::peers::tunnel::Tunnel;
use crate::proxy::Shared;
use crate::router::{OpenConnection, TcpRefused};
use crate::stats::add_one;

/// How long a guest of this machine may take to be connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what a guest had sent before it ended may take to reach the client.
pub(crate) const GONE_GRACE: Duration = Duration::from_secs(1);
/// What is read at once for another node: each piece is a frame.
const TUNNEL_BUFFER_BYTES: usize = 32 * 1024;
/// A client that is silent for so long is asked whether it is there, so often, and so many times.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// A guest that has taken the connection.
struct Joined {
    guest: Guest,
    /// Counts as long as it is there.
    open: OpenConnection,
}

enum Guest {
    Here {
        guest: TcpStream,
        place: TcpPlace,
    },
    /// On another node, which looks after its place.
    Elsewhere(Tunnel),
}

/// Where a connection may go.
enum Place {
    Here(Option<TcpPlace>),
    Elsewhere(Arc<Peer>),
}

/// Joins the client to an instance until one of both ends it, or somebody cuts it.
pub(super) async fn serve(shared: Arc<Shared>, port: u16, client: TcpStream, registered: Registered) {
    prepare(&client);
    let mut joined = match join(&shared, port, registered.remote).await {
        Ok(joined) => joined,
        Err(error) => {
            // An end that looks like an answer without content would be taken for one.
            let _ = client.set_zero_linger();
            if let Some(error) = error {
                (shared.config.tcp.on_error)(&error);
            }
            return;
        }
    };
    let mut client = Paced { client, pace: Pace::of(joined.open.egress.clone()) };
    let (cut, gone) = match &joined.guest {
        Guest::Here { place, .. } => (place.cut.clone(), place.gone.clone()),
        Guest::Elsewhere(_) => Default::default(),
    };
    let (whole, was_cut) = tokio::select! {
        copied = pass(&mut client, &mut joined) => (copied.is_ok(), false),
        () = registered.cut() => (false, true),
        () = cut.cancelled() => (false, true),
        () = async { gone.cancelled().await; tokio::time::sleep(GONE_GRACE).await } => (false, true),
    };
    if was_cut {
        joined.open.was_cut();
    }
    if !whole {
        // Each side learns that it was not the other that had finished.
        let _ = client.client.set_zero_linger();
        match &joined.guest {
            Guest::Here { guest, .. } => drop(guest.set_zero_linger()),
            // Dropped as it is, it resets the other end.
            Guest::Elsewhere(_) => {}
        }
    }
}

/// Best effort: where it fails the client has left, which the first read finds out.
fn prepare(client: &TcpStream) {
    let _ = client.set_nodelay(true);
    keep_alive(client);
}

/// Has a client that is silent asked whether it is there. Best effort, too.
pub(crate) fn keep_alive(client: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    let _ = SockRef::from(client).set_tcp_keepalive(&keepalive);
}

/// Finds an instance that takes the connection. While nothing has been sent, another may be tried. No error: the port has no
/// app any more.
async fn join(shared: &Shared, port: u16, remote: SocketAddr) -> Result<Joined, Option<TcpError>> {
    let mut tried: Vec<InstanceId> = Vec::new();
    let mut was_elsewhere = false;
    let mut last_failure = None;
    loop {
        // Choosing and taking the place happen without a pause in between, and the table is held just as long: once the table
        // has been replaced and nobody holds it, every connection that was routed by it is known to the worker.
        let (open, place) = {
            let table = shared.table.load();
            let Some(route) = table.tcp(port) else { return Err(None) };
            let open = route.admit(&tried).map_err(|refused| {
                let problem = match (last_failure.take(), refused) {
                    (Some(failure), _) => TcpProblem::NotTaken(failure),
                    (None, TcpRefused::NoneReady) => TcpProblem::NoneReady,
                    (None, TcpRefused::Full) => TcpProblem::Full,
                };
                Some(TcpError {
                    namespace: route.namespace.clone(),
                    app: route.app.clone(),
                    instance: tried.last().copied(),
                    port,
                    remote: Some(remote),
                    problem,
                })
            })?;
            let place = match open.peer() {
                Some(peer) => Place::Elsewhere(peer.clone()),
                None => Place::Here(shared.config.tcp.places.admit(open.instance(), port)),
            };
            (open, place)
        };
        let instance = open.instance();
        tried.push(instance);
        if std::mem::replace(&mut was_elsewhere, open.peer().is_some()) {
            add_one(&shared.stats.peers.retried);
        }
        let guest = match place {
            Place::Here(None) => Err("the instance is not here any more".to_owned()),
            Place::Here(Some(place)) => {
                connect(place.address).await.map(|guest| Guest::Here { guest, place })
            }
            Place::Elsewhere(peer) => {
                let tunnel = peer.connect(instance, port, remote).await;
                tunnel.map(Guest::Elsewhere).map_err(|error| error.to_string())
            }
        };
        match guest {
            Ok(guest) => return Ok(Joined { guest, open }),
            Err(why) => last_failure = Some(why),
        }
    }
}

/// Connects to a guest of this machine.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(guest)) => {
            let _ = guest.set_nodelay(true);
            Ok(guest)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {CONNECT_TIMEOUT:?}")),
    }
}

/// Copies both ways. The end of one direction is passed on, and the other goes on.
async fn pass(client: &mut Paced<TcpStream>, joined: &mut Joined) -> io::Result<()> {
    let header = match joined.open.wants_proxy_header() {
        true => proxy_header::encode(client.client.peer_addr()?, client.client.local_addr()?),
        false => Vec::new(),
    };
    match &mut joined.guest {
        Guest::Here { guest, .. } => {
            guest.write_all(&header).await?;
            copy_bidirectional(client, guest).await.map(drop)
        }
        Guest::Elsewhere(tunnel) => {
            if !header.is_empty() {
                tunnel.write_all(&header).await?;
            }
            copy_bidirectional_with_sizes(client, tunnel, TUNNEL_BUFFER_BYTES, TUNNEL_BUFFER_BYTES)
                .await
                .map(drop)
        }
    }
}
