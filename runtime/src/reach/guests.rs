//! The way of guests to containers on other nodes: addresses of the loopback, which take no privileges.
//!
//! An address stands for an app of a namespace. Somebody listens there only after a guest was let connect, and each connection uses up one such leave: so
//! neither a guest with another grant nor another process of this machine gets through. The port is any that is free, because the one that is meant may be taken
//! by what listens at all addresses of this machine.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use wharf_types::{AppName, NamespaceName};

use super::addresses::{Addresses, Block};
use super::directory::{Asker, Way};
use super::{Reach, listen, reset};

const BLOCK: Block = Block::new([127, 198, 0, 0], 16);
/// How long a guest that was let may take to connect.
const LEAVE: Duration = Duration::from_secs(5);
/// How long somebody listens where no guest is let any more.
const IDLE: Duration = Duration::from_secs(60);
/// Ports at which somebody listens at once, of which the guests of a namespace have a quarter at most.
const LISTENERS_MAX: usize = 1024;
/// Guests that were let to one port and have not connected yet.
const LEAVES_MAX: usize = 256;

pub(super) fn is_ours(address: IpAddr) -> bool {
    matches!(address.to_canonical(), IpAddr::V4(address) if BLOCK.contains(address))
}

/// Where guests connect to.
#[derive(Debug)]
pub(super) struct GuestPorts {
    addresses: Mutex<Addresses>,
    /// By the address and the port that are meant.
    open: Mutex<HashMap<SocketAddrV4, Listening>>,
    started: OnceLock<(Weak<Reach>, Handle)>,
}

#[derive(Debug)]
struct Listening {
    /// Where somebody listens.
    port: u16,
    /// Until when guests that were let may connect. The newest stand last.
    leaves: Vec<Instant>,
}

impl Default for GuestPorts {
    fn default() -> Self {
        // Workers of one machine share the loopback.
        Self {
            addresses: Mutex::new(Addresses::new(BLOCK, rand::random())),
            open: Mutex::default(),
            started: OnceLock::new(),
        }
    }
}

impl GuestPorts {
    /// To be called within a runtime: there the connections live.
    pub(super) fn start(&self, reach: Weak<Reach>) {
        let _ = self.started.set((reach, Handle::current()));
    }

    /// None: there is no way to other nodes.
    pub(super) fn address(
        &self,
        namespace: &NamespaceName,
        app: &AppName,
        is_gone: impl Fn(&NamespaceName, &AppName) -> bool,
    ) -> Option<IpAddr> {
        self.started.get()?;
        self.addresses().of(namespace, app, is_gone).map(IpAddr::V4)
    }

    pub(super) fn stands_for(&self, address: Ipv4Addr, namespace: &NamespaceName, app: &AppName) -> bool {
        self.app_at(address).is_some_and(|(of, named)| (&of, &named) == (namespace, app))
    }

    /// The port that is meant by one at which somebody listens.
    pub(super) fn meant(&self, at: SocketAddrV4) -> Option<u16> {
        let open = self.open();
        let mut meant =
            open.iter().filter(|(meant, listening)| meant.ip() == at.ip() && listening.port == at.port());
        meant.next().map(|(meant, _)| meant.port())
    }

    /// Lets a guest connect once where the address stands for this app; at which port.
    pub(super) fn lets(&self, namespace: &NamespaceName, app: &AppName, at: SocketAddrV4) -> Option<u16> {
        if !self.stands_for(*at.ip(), namespace, app) {
            return None;
        }
        let (reach, home) = self.started.get()?;
        let has_many = self.listeners_of(namespace) >= LISTENERS_MAX / 4;
        let mut open = self.open();
        let now = Instant::now();
        if let Some(listening) = open.get_mut(&at) {
            listening.leaves.retain(|until| *until > now);
            if listening.leaves.len() >= LEAVES_MAX {
                return None;
            }
            listening.leaves.push(now + LEAVE);
            return Some(listening.port);
        }
        if open.len() >= LISTENERS_MAX || has_many {
            debug!(
                "guests of {namespace} use too many ports of containers on other nodes; one more is refused"
            );
            return None;
        }
        let _home = home.enter();
        let bound = listen((*at.ip(), 0).into()).and_then(|listener| {
            let port = listener.local_addr()?.port();
            Ok((TcpListener::from_std(listener)?, port))
        });
        let (listener, port) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                let ip = at.ip();
                warn!(
                    "a guest cannot reach port {} of {app} in {namespace}: could not listen at {ip}: {error}",
                    at.port()
                );
                return None;
            }
        };
        open.insert(at, Listening { port, leaves: vec![now + LEAVE] });
        home.spawn(serve(reach.clone(), at, listener));
        Some(port)
    }

    /// At how many ports somebody listens for guests of a namespace.
    fn listeners_of(&self, namespace: &NamespaceName) -> usize {
        // One lock after the other: who has the addresses may ask for what is open.
        let open: Vec<Ipv4Addr> = self.open().keys().map(|at| *at.ip()).collect();
        let addresses = self.addresses();
        open.iter().filter(|at| addresses.app_at(**at).is_some_and(|(of, _)| of == namespace)).count()
    }

    fn app_at(&self, address: Ipv4Addr) -> Option<(NamespaceName, AppName)> {
        self.addresses().app_at(address).cloned()
    }

    /// Uses up a leave.
    fn take_leave(&self, at: SocketAddrV4) -> bool {
        let (mut open, now) = (self.open(), Instant::now());
        let Some(Listening { leaves, .. }) = open.get_mut(&at) else { return false };
        leaves.retain(|until| *until > now);
        leaves.pop().is_some()
    }

    /// Whether nobody is let any more, and from here on nobody listens.
    fn closes(&self, at: SocketAddrV4) -> bool {
        let (mut open, now) = (self.open(), Instant::now());
        let is_idle = open.get(&at).is_none_or(|it| it.leaves.iter().all(|until| *until <= now));
        if is_idle {
            open.remove(&at);
        }
        is_idle
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SocketAddrV4, Listening>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `at` is what is meant.
async fn serve(reach: Weak<Reach>, at: SocketAddrV4, listener: TcpListener) {
    loop {
        let accepted = tokio::time::timeout(IDLE, listener.accept()).await;
        let Some(reach) = reach.upgrade() else { return };
        let (client, remote) = match accepted {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(_)) => {
                // Such as no file handle: the next one may have one.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(_) if reach.guests.closes(at) => return,
            Err(_) => continue,
        };
        let (is_let, stands_for) = (reach.guests.take_leave(at), reach.guests.app_at(*at.ip()));
        let Some((namespace, app)) = stands_for.filter(|_| is_let) else {
            reset(&client);
            continue;
        };
        // All guests come from one address, and each has its own bound of sockets.
        let Some(place) = reach.places.take(SocketAddr::V4(at).ip()) else {
            reset(&client);
            reach.tell(
                &namespace,
                &app,
                "this node has as many connections by name as it can take".to_owned(),
            );
            continue;
        };
        tracing::debug!("a guest at {remote} connects to port {} of {app} in {namespace}", at.port());
        tokio::spawn(async move {
            let _place = place;
            let asker = Asker::guest(&namespace);
            let way = reach.directory.load().way(&asker, &app, at.port());
            match way {
                Way::Container(route) => {
                    // A guest closes its own sockets, however it ends.
                    let near = CancellationToken::new();
                    reach.splice((&asker, &near), (&route, at.port()), client).await;
                }
                Way::Http | Way::Nothing => reset(&client),
            }
        });
    }
}
