//! Where the guests of this node listen, and who is connected to them.
//!
//! The worker chooses a port of the loopback address for each public port of an instance, and tells the guest. The front door
//! asks [`Ports`] for the way to an instance; a [`Place`] counts as an open connection until it is dropped.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wharf_types::InstanceId;
use wharf_types::node::ReasonKind;
use wharf_types::spec::TcpSpec;

use crate::backend::Failure;

/// A header of the PROXY protocol, version 2, that says: this connection is the proxy's own, to see whether anybody is there.
const PROXY_LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// How long the front door may take to notice that connections have to end.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// The instances that listen.
#[derive(Default)]
pub struct Ports {
    by_instance: Mutex<HashMap<InstanceId, Arc<Listening>>>,
}

/// The ports of one instance.
pub(crate) struct Listening {
    ports: Vec<LocalPort>,
    proxy_protocol: bool,
    open: watch::Sender<usize>,
    cut: CancellationToken,
    gone: CancellationToken,
}

struct LocalPort {
    public: u16,
    variable: String,
    address: SocketAddr,
    /// Bound, but not listening: nobody else gets the port, neither by asking for any nor between two tries of the guest, which
    /// may bind it all the same because its socket reuses addresses, too. None: the port is not this machine's.
    held: Option<TcpSocket>,
}

/// A place for one connection to an instance.
pub struct Place {
    /// Where the guest should listen.
    pub address: SocketAddr,
    /// Cancelled when the connection has to end although the guest goes on.
    pub cut: CancellationToken,
    /// Cancelled when the guest has ended.
    pub gone: CancellationToken,
    listening: Arc<Listening>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.listening.open.send_modify(|open| *open -= 1);
    }
}

impl Ports {
    /// Counts one more connection to the instance. None: it does not (or no longer) listen for this public port here.
    pub fn admit(&self, instance: InstanceId, port: u16) -> Option<Place> {
        let known = self.lock();
        let listening = known.get(&instance)?;
        let address = listening.ports.iter().find(|local| local.public == port)?.address;
        // Counted before the lock is released, so that whoever takes the instance away afterwards sees it.
        listening.open.send_modify(|open| *open += 1);
        let (cut, gone) = (listening.cut.clone(), listening.gone.clone());
        Some(Place { address, cut, gone, listening: listening.clone() })
    }

    pub(crate) fn insert(&self, ids: &[InstanceId], listening: &Arc<Listening>) {
        self.lock().extend(ids.iter().map(|id| (*id, listening.clone())));
    }

    pub(crate) fn remove(&self, ids: &[InstanceId], listening: &Arc<Listening>) {
        let mut known = self.lock();
        for id in ids {
            // A replacement may answer for this id already.
            if known.get(id).is_some_and(|other| Arc::ptr_eq(other, listening)) {
                known.remove(id);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Arc<Listening>>> {
        self.by_instance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listening {
    /// Chooses a free port of this machine for each public one, and keeps it. None: there are none to choose.
    pub(super) fn reserve(spec: &TcpSpec) -> io::Result<Option<Arc<Self>>> {
        let reserve = |public: &u16| {
            let held = TcpSocket::new_v4()?;
            held.set_reuseaddr(true)?;
            held.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            let address = held.local_addr()?;
            Ok(LocalPort { public: *public, variable: spec.variable(*public), address, held: Some(held) })
        };
        let ports = spec.ports.iter().map(reserve).collect::<io::Result<Vec<_>>>()?;
        Ok((!ports.is_empty()).then(|| {
            Arc::new(Self {
                ports,
                proxy_protocol: spec.proxy_protocol,
                open: watch::Sender::new(0),
                cut: CancellationToken::new(),
                gone: CancellationToken::new(),
            })
        }))
    }

    /// Of a container, which listens where it wants. None: it has no public ports.
    pub(crate) fn elsewhere(spec: &TcpSpec, at: &BTreeMap<u16, SocketAddr>) -> Option<Arc<Self>> {
        let port = |(public, address): (&u16, &SocketAddr)| LocalPort {
            public: *public,
            variable: spec.variable(*public),
            address: *address,
            held: None,
        };
        (!at.is_empty()).then(|| {
            Arc::new(Self {
                ports: at.iter().map(port).collect(),
                proxy_protocol: spec.proxy_protocol,
                open: watch::Sender::new(0),
                cut: CancellationToken::new(),
                gone: CancellationToken::new(),
            })
        })
    }

    /// The ports that the guest may bind.
    pub(super) fn local_ports(&self) -> Vec<u16> {
        self.ports.iter().map(|local| local.address.port()).collect()
    }

    /// The variables that tell the guest of them.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, String)> {
        self.ports.iter().map(|local| (local.variable.as_str(), local.address.port().to_string()))
    }

    /// Connects to every port, to see whether the guest listens there.
    pub(crate) async fn accepts(&self, timeout: Duration) -> Result<(), Failure> {
        for local in &self.ports {
            let connect = async {
                let mut stream = TcpStream::connect(local.address).await?;
                if self.proxy_protocol {
                    stream.write_all(&PROXY_LOCAL).await?;
                }
                Ok(())
            };
            let problem = match tokio::time::timeout(timeout, connect).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => io::Error::to_string(&error),
                Err(_) => format!("no answer within {timeout:?}"),
            };
            if local.held.is_none() {
                let message = format!(
                    "the container does not listen for the public port {}: it must accept connections at {} ({problem})",
                    local.public, local.address
                );
                return Err(Failure::new(ReasonKind::Probe, message));
            }
            let message = format!(
                "the guest does not listen for port {}: it must accept connections at {}, whose port is in its variable \
                 {} ({problem})",
                local.public, local.address, local.variable
            );
            return Err(Failure::new(ReasonKind::Probe, message));
        }
        Ok(())
    }

    /// Ends the connections while the guest goes on, so that no client takes the end of the guest for an end that it meant.
    pub(crate) async fn cut(&self) {
        self.cut.cancel();
        self.drain(CUT_GRACE).await;
    }

    pub(crate) fn has_open(&self) -> bool {
        *self.open.borrow() > 0
    }

    /// Waits until no connection is open, at most `limit`. Whether that came about.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        let mut open = self.open.subscribe();
        tokio::time::timeout(limit, open.wait_for(|open| *open == 0)).await.is_ok()
    }

    /// Says that the guest has ended.
    pub(crate) fn end(&self) {
        self.gone.cancel();
    }
}

/// Whether a guest with these ports may listen at an address: at its own ports, on this machine. All addresses of the machine will
/// do, because [`may_accept`] turns strangers away.
pub(super) fn may_listen(ports: &[u16], address: SocketAddr) -> bool {
    let is_here = address.ip() == Ipv4Addr::LOCALHOST || address.ip() == Ipv4Addr::UNSPECIFIED;
    is_here && ports.contains(&address.port())
}

/// Whether a guest may take a connection from this peer: from the front door, which is in this machine, and from nobody who goes
/// round it.
pub(super) fn may_accept(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(ports: &[u16]) -> Arc<Listening> {
        let spec = TcpSpec { ports: ports.to_vec(), proxy_protocol: false };
        Listening::reserve(&spec).unwrap().unwrap()
    }

    /// As the sockets of guests are made.
    fn guest_listens(address: SocketAddr) -> tokio::net::TcpListener {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        socket.listen(8).unwrap()
    }

    #[test]
    fn a_guest_listens_at_its_own_ports_and_nowhere_else() {
        let may = |address: &str| may_listen(&[4000, 4001], address.parse().unwrap());
        assert!(may("127.0.0.1:4000") && may("0.0.0.0:4001"));
        for other in ["127.0.0.1:4002", "127.0.0.1:0", "127.0.0.2:4000", "10.0.0.1:4000", "[::]:4000"] {
            assert!(!may(other), "{other}");
        }
    }

    #[test]
    fn a_guest_takes_connections_of_this_machine_only() {
        let may = |peer: &str| may_accept(peer.parse().unwrap());
        assert!(may("127.0.0.1:50000") && may("[::ffff:127.0.0.1]:50000"));
        assert!(!may("10.0.0.7:50000") && !may("93.184.216.34:1") && !may("[2a00::1]:1"));
    }

    #[test]
    fn one_port_has_the_usual_variable_and_several_have_one_each() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _in_it = runtime.enter();
        assert!(Listening::reserve(&TcpSpec::default()).unwrap().is_none());
        let names = |listening: &Listening| {
            listening.variables().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&listening(&[7000])), ["PORT"]);
        let two = listening(&[7000, 7001]);
        assert_eq!(names(&two), ["PORT_7000", "PORT_7001"]);
        let ports = two.local_ports();
        assert_ne!(ports[0], ports[1]);
        assert_eq!(two.variables().next().unwrap().1, ports[0].to_string());
    }

    #[tokio::test]
    async fn a_port_is_kept_for_its_guest_which_may_listen_at_it_again_and_again() {
        let listening = listening(&[7000]);
        let port = listening.local_ports()[0];
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let anybody = TcpSocket::new_v4().unwrap();
        assert!(anybody.bind(at).is_err(), "another program gets it");
        let refused = listening.accepts(Duration::from_secs(5)).await.unwrap_err().to_string();
        assert!(refused.contains("port 7000") && refused.contains(&at.to_string()), "{refused}");
        for address in [at, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), at] {
            let _guest = guest_listens(address);
            listening.accepts(Duration::from_secs(5)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_instance_that_is_taken_away_admits_nobody_and_waits_for_those_who_are_there() {
        let (ports, listening) = (Ports::default(), listening(&[7000]));
        let (id, before) = (InstanceId::new(), InstanceId::new());
        ports.insert(&[before, id], &listening);
        assert!(ports.admit(id, 7001).is_none());
        let place = ports.admit(before, 7000).unwrap();
        assert_eq!(place.address.port(), listening.local_ports()[0]);
        ports.remove(&[before, id], &listening);
        assert!(ports.admit(id, 7000).is_none());
        assert!(!listening.drain(Duration::ZERO).await && !place.cut.is_cancelled());
        let cut = place.cut.clone();
        let front_door = async {
            cut.cancelled().await;
            drop(place);
        };
        tokio::join!(listening.cut(), front_door);
        assert!(listening.drain(Duration::ZERO).await);
    }

    #[tokio::test]
    async fn a_replacement_keeps_the_ids_that_it_took_over() {
        let (ports, old, new) = (Ports::default(), listening(&[7000]), listening(&[7000]));
        let id = InstanceId::new();
        ports.insert(&[id], &old);
        ports.insert(&[id], &new);
        ports.remove(&[id], &old);
        assert_eq!(ports.admit(id, 7000).unwrap().address.port(), new.local_ports()[0]);
    }
}
