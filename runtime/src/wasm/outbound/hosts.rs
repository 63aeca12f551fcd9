//! The addresses of the platform's own hosts: this one, the other nodes, the servers of the control plane.
//!
//! What listens there is not meant for everybody who may reach the public internet, and a firewall in front does not stand between a host and
//! itself. So to guests these addresses are as private ones, except for the ports at which everybody is served.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use wharf_types::route::RouteTable;

use crate::control::ControlClient;

/// Where front doors listen, or what stands in front of them.
const WEB_PORTS: [u16; 2] = [80, 443];
/// How long it is believed whether an address is one of this host.
const SEEN_FOR: Duration = Duration::from_secs(2);
/// Addresses of which that is known at once.
const SEEN_MAX: usize = 1024;
/// How often the names of servers are looked up, and how long that may take.
const SERVERS_LOOK: Duration = Duration::from_secs(60);
const LOOKUP_MAX: Duration = Duration::from_secs(10);

/// Which addresses are those of the platform's hosts.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    front_door: OnceLock<u16>,
    routed: ArcSwap<Routed>,
    servers: ArcSwap<BTreeSet<IpAddr>>,
    /// Whether an address is one of this host, and when that was found out.
    seen: Mutex<HashMap<IpAddr, (bool, Instant)>>,
}

/// What the table of routes says.
#[derive(Debug, Default)]
struct Routed {
    nodes: BTreeSet<IpAddr>,
    /// At which front doors take connections for apps.
    ports: BTreeSet<u16>,
}

impl Hosts {
    /// The front door listens at this port.
    pub(crate) fn serve_at(&self, port: u16) {
        // The first one stays: a node has one front door.
        let _ = self.front_door.set(port);
    }

    /// The other nodes are those of these routes from here on.
    pub(crate) fn go_by(&self, routes: &RouteTable) {
        let nodes = routes.nodes.iter().map(|node| node.address.ip().to_canonical()).collect();
        let ports = routes.tcp.iter().map(|route| route.port).collect();
        self.routed.store(Arc::new(Routed { nodes, ports }));
    }

    /// Whether what listens at an address is the platform's hosts', and not there for everybody.
    pub(super) fn keep(&self, address: SocketAddr) -> bool {
        !self.is_open(address.port()) && self.are_at(address.ip().to_canonical())
    }

    fn is_open(&self, port: u16) -> bool {
        WEB_PORTS.contains(&port)
            || self.front_door.get() == Some(&port)
            || self.routed.load().ports.contains(&port)
    }

    fn are_at(&self, address: IpAddr) -> bool {
        self.routed.load().nodes.contains(&address)
            || self.servers.load().contains(&address)
            || self.is_here(address, Instant::now())
    }

    fn is_here(&self, address: IpAddr, now: Instant) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((is_here, since)) = seen.get(&address)
            && now.saturating_duration_since(*since) < SEEN_FOR
        {
            return *is_here;
        }
        if seen.len() >= SEEN_MAX {
            seen.clear();
        }
        let is_here = is_of_this_host(address);
        seen.insert(address, (is_here, now));
        is_here
    }
}

/// Whether an address is one of this host: the kernel lets a socket be bound to those, and knows of each that comes and goes. Nothing is sent.
fn is_of_this_host(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        // Where the host lets sockets be bound to any address, the way there says it: to oneself one has one's own address.
        Ok(socket) if binds_to_strangers(address) => {
            drop(socket);
            comes_from_itself(address).unwrap_or(false)
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

/// Whether a socket can be bound to an address of documentation, which no host has (`net.ipv4.ip_nonlocal_bind`).
fn binds_to_strangers(like: IpAddr) -> bool {
    let nobodys = match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    UdpSocket::bind((nobodys, 0)).is_ok()
}

fn comes_from_itself(address: IpAddr) -> std::io::Result<bool> {
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((address, 9))?;
    Ok(socket.local_addr()?.ip() == address)
}

/// Keeps up where the servers are, until nobody asks any more. One whose name is not found stays where it was.
pub(crate) async fn know_servers(hosts: Weak<Hosts>, control: ControlClient) {
    let mut known = BTreeMap::<String, BTreeSet<IpAddr>>::new();
    loop {
        let mut found = BTreeMap::new();
        for host in control.server_hosts() {
            let lookup = tokio::net::lookup_host((host.as_str(), 0));
            let addresses = match tokio::time::timeout(LOOKUP_MAX, lookup).await {
                Ok(Ok(addresses)) => addresses.map(|address| address.ip().to_canonical()).collect(),
                Ok(Err(_)) | Err(_) => known.remove(&host).unwrap_or_default(),
            };
            found.insert(host, addresses);
        }
        known = found;
        let Some(hosts) = hosts.upgrade() else { return };
        hosts.servers.store(Arc::new(known.values().flatten().copied().collect()));
        drop(hosts);
        tokio::time::sleep(SERVERS_LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use wharf_types::NodeId;
    use wharf_types::route::{RouteNode, TcpRoute};

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_of_this_host_is_known_and_a_strangers_is_not() {
        let hosts = Hosts::default();
        assert!(hosts.keep(at("127.0.0.1:7070")));
        assert!(!hosts.keep(at("93.184.216.34:7070")));
        assert!(comes_from_itself([127, 0, 0, 1].into()).unwrap());
    }

    #[test]
    fn what_is_believed_of_an_address_is_looked_at_again() {
        let (hosts, address, now) = (Hosts::default(), IpAddr::from([127, 0, 0, 1]), Instant::now());
        hosts.seen.lock().unwrap().insert(address, (false, now));
        assert!(!hosts.is_here(address, now + Duration::from_secs(1)));
        assert!(hosts.is_here(address, now + SEEN_FOR));
    }

    #[test]
    fn other_nodes_and_servers_are_kept_and_the_ports_for_everybody_are_not() {
        let hosts = Hosts::default();
        let node = RouteNode { node: NodeId::new(), address: at("[::ffff:93.184.216.34]:7072") };
        let route = TcpRoute {
            port: 5432,
            namespace: "default".parse().unwrap(),
            app: "db".parse().unwrap(),
            endpoints: Vec::new(),
            counted: false,
        };
        let routes = RouteTable { nodes: vec![node], tcp: vec![Arc::new(route)], ..RouteTable::default() };
        hosts.go_by(&routes);
        hosts.servers.store(Arc::new(BTreeSet::from([[93, 184, 216, 35].into()])));
        hosts.serve_at(8080);
        for host in ["93.184.216.34", "93.184.216.35"] {
            for port in [22, 7070, 7071, 7072] {
                assert!(hosts.keep(at(&format!("{host}:{port}"))), "{host}:{port}");
            }
            for port in [80, 443, 8080, 5432] {
                assert!(!hosts.keep(at(&format!("{host}:{port}"))), "{host}:{port}");
            }
        }
        assert!(!hosts.keep(at("93.184.216.36:22")));
        hosts.go_by(&RouteTable::default());
        assert!(!hosts.keep(at("93.184.216.34:22")), "it has left");
    }
}
