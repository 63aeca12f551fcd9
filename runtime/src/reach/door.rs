//! Where connections of this node's containers to apps by name come in, whatever port they are for. Their datagrams do at [`datagrams`](super::datagrams).
//!
//! A container is known by the address that it comes from, and the app by the one that it connects to, which the packet filter has kept.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use wharf_types::{AppName, NamespaceName, NodeId};

use super::addresses::{Addresses, Block};
use super::datagrams::DatagramDoor;
use super::directory::Way;
use super::filter::{self, Filter, Listening};
use super::present::Present;
use super::resolver::{self, Resolver};
use super::{Reach, http, listen, reset};
use crate::wasm::table::{NamespaceNeighbours, Table};

/// How often the rules are looked at: who sets up the packet filter anew removes them.
const LOOK: Duration = Duration::from_secs(60);
/// How long a container that has just started may take to be known.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);
const DNS_PORT: u16 = 53;

/// What is open for containers, before anything is served.
pub struct Door {
    filter: Filter,
    listening: Listening,
    tcp: std::net::TcpListener,
    udp: std::net::UdpSocket,
    /// None: it cannot be, and the log says why.
    datagrams: Option<DatagramDoor>,
}

/// A door in use. Dropped, it is closed, and its rules stay.
pub struct OpenDoor {
    filter: Arc<Filter>,
    reach: Arc<Reach>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// What those who come in need.
pub(super) struct Served {
    pub(super) reach: Arc<Reach>,
    pub(super) resolver: Resolver,
    table: Arc<Table>,
    addresses: Mutex<Addresses>,
}

impl Door {
    /// Takes a part of a block of addresses for this node. None: it cannot, and the log says why and what does not work.
    pub async fn open(node: NodeId, all: Block) -> Option<Self> {
        match Self::try_open(node, all).await {
            Ok(door) => Some(door),
            Err(why) => {
                warn!(
                    "containers of this node reach others by name only on this node, and not http://APP.internal/: {why}; \
                     this takes root, iproute2 and iptables, and --internal-addresses off goes without"
                );
                None
            }
        }
    }

    async fn try_open(node: NodeId, all: Block) -> Result<Self, String> {
        let _alone = filter::alone().await?;
        let filter = Filter::claim(node, all).await?;
        let home = filter.block.home();
        let at = SocketAddr::from((home, 0));
        let cannot = |error: std::io::Error| format!("could not listen at {home}: {error}");
        let tcp = listen(at).map_err(cannot)?;
        let udp = std::net::UdpSocket::bind(at).map_err(cannot)?;
        udp.set_nonblocking(true).map_err(cannot)?;
        let datagrams = match DatagramDoor::open(home) {
            Ok(datagrams) => Some(datagrams),
            Err(why) => {
                warn!("containers of this node reach others by name with TCP, but not with UDP: {why}");
                None
            }
        };
        let listening = Listening {
            tcp: tcp.local_addr().map_err(cannot)?.port(),
            dns: udp.local_addr().map_err(cannot)?.port(),
            datagrams: datagrams.as_ref().map(DatagramDoor::ports),
        };
        filter.install(listening).await?;
        info!("containers of this node reach apps by name at {}", filter.block);
        Ok(Self { filter, listening, tcp, udp, datagrams })
    }

    /// Lets containers in. To be called within a runtime, and before any container is made.
    pub fn serve(self, reach: &Arc<Reach>, table: Arc<Table>) -> std::io::Result<OpenDoor> {
        let Self { filter, listening, tcp, udp, datagrams } = self;
        let (tcp, udp) = (TcpListener::from_std(tcp)?, UdpSocket::from_std(udp)?);
        let home = filter.block.home();
        let servers = std::iter::once(IpAddr::V4(home)).chain(resolver::beside()).collect();
        let _ = reach.dns.set(servers);
        let served = Arc::new(Served {
            reach: reach.clone(),
            resolver: Resolver::default(),
            table,
            // Nothing but the name: so an app has its address again after a restart.
            addresses: Mutex::new(Addresses::new(filter.block, 0)),
        });
        let filter = Arc::new(filter);
        let mut tasks = match datagrams {
            Some(datagrams) => datagrams.spawn(&served)?,
            None => Vec::new(),
        };
        tasks.extend([
            tokio::spawn(accept(served.clone(), tcp)),
            tokio::spawn(Resolver::answer_datagrams(served, udp)),
            tokio::spawn(look_after(filter.clone(), listening)),
        ]);
        let reach = reach.clone();
        Ok(OpenDoor { filter, reach, tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect() })
    }
}

impl OpenDoor {
    /// Lets nobody in any more. Where containers go on the rules stay, so that these are refused at once until the next process serves them.
    pub async fn close(self) {
        let Self { filter, reach, tasks } = self;
        drop(tasks);
        if !reach.containers.is_empty() {
            return;
        }
        if let Err(why) = filter.remove_all().await {
            warn!("rules of the packet filter for {} may be left: {why}", filter.block);
        }
    }
}

async fn look_after(filter: Arc<Filter>, listening: Listening) {
    loop {
        tokio::time::sleep(LOOK).await;
        let mended = match filter.is_whole(listening).await {
            Ok(true) => continue,
            Ok(false) => filter.install(listening).await,
            Err(why) => Err(why),
        };
        match mended {
            Ok(()) => {
                info!("the rules of the packet filter for {} were gone, and are there again", filter.block)
            }
            Err(why) => warn!("containers may not reach apps by name: {why}"),
        }
    }
}

async fn accept(served: Arc<Served>, listener: TcpListener) {
    loop {
        let (client, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                // Such as no file handle: the next one may have one.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = served.reach.places.take(from.ip()) else {
            reset(&client);
            if let Some(container) = served.reach.containers.at_source(from.ip()) {
                let message = "a connection by name was reset: this container, or all of its node, have as many as they may";
                served.reach.tell(&container.asker.namespace, &container.app, message.to_owned());
            }
            continue;
        };
        let connection = served.clone();
        tokio::spawn(async move {
            let _place = place;
            connection.let_in(client, from.ip()).await;
        });
    }
}

impl Served {
    /// The address of an app for containers.
    pub(super) fn address(&self, namespace: &NamespaceName, app: &AppName) -> Option<Ipv4Addr> {
        let directory = self.reach.directory.load();
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let found = addresses.of(namespace, app, |namespace, app| !directory.has(namespace, app));
        if found.is_none() {
            warn!("{app} in {namespace} has no address for containers here: {} is full", addresses.block());
        }
        found
    }

    pub(super) fn app_at(&self, address: Ipv4Addr) -> Option<(NamespaceName, AppName)> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.app_at(address).cloned()
    }

    async fn let_in(&self, client: TcpStream, from: IpAddr) {
        let meant = SockRef::from(&client).original_dst_v4().ok().and_then(|it| it.as_socket_ipv4());
        let Some(meant) = meant else { return reset(&client) };
        let container = self.reach.containers.at_source_soon(from, KNOWN_WITHIN).await;
        let Some(container) = container.filter(|it| it.has_way_out) else { return reset(&client) };
        if meant.port() == DNS_PORT && self.is_home(*meant.ip()) {
            let answered = Resolver::answer_stream(self, client, from);
            let _ = container.gone.run_until_cancelled(answered).await;
            return;
        }
        let named = self.app_at(*meant.ip());
        let Some(app) = named.and_then(|named| who_is(&container, named)) else { return reset(&client) };
        let port = meant.port();
        let way = self.reach.directory.load().way(&container.asker, &app, port);
        match way {
            Way::Http => {
                let namespace = container.asker.namespace.clone();
                let neighbours = NamespaceNeighbours { table: Arc::downgrade(&self.table), namespace };
                let served = http::serve(app, Arc::new(neighbours), client);
                let _ = container.gone.run_until_cancelled(served).await;
            }
            Way::Container(route) => {
                self.reach.splice((&container.asker, &container.gone), (&route, port), client).await;
            }
            Way::Nothing => reset(&client),
        }
    }

    fn is_home(&self, address: Ipv4Addr) -> bool {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.block().home() == address
    }
}

/// The app at an address, for a container of its namespace. None: an address of another namespace is nobody's.
pub(super) fn who_is(container: &Present, (namespace, app): (NamespaceName, AppName)) -> Option<AppName> {
    (container.asker.namespace == namespace).then_some(app)
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use wharf_types::InstanceId;

    use super::super::directory::tests::of;
    use super::*;

    #[test]
    fn an_address_is_nobodys_for_another_namespace() {
        let container = |namespace| Present {
            id: InstanceId::new(),
            app: "web".parse().unwrap(),
            asker: of(namespace, &[""]),
            address: None,
            sources: Vec::new(),
            has_way_out: true,
            gone: CancellationToken::new(),
        };
        let redis = || ("ours".parse().unwrap(), "redis".parse().unwrap());
        assert_eq!(who_is(&container("ours"), redis()), Some("redis".parse().unwrap()));
        assert_eq!(who_is(&container("theirs"), redis()), None);
    }
}
