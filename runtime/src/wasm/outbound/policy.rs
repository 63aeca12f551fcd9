//! What the grants of a release permit.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wharf_types::spec::{AppSpec, OutboundGrant, OutboundScheme, is_public};
use wharf_types::{AppName, NamespaceName};

use super::hosts::Hosts;
use super::names::Names;
use super::shares::Places;
use crate::container::names::{bare, is_of_platform};
use crate::reach::Reach;

/// How long a socket may use an address after a granted name has resolved to it.
const FOUND_FOR: Duration = Duration::from_secs(5);

/// The grants of a release.
#[derive(Debug, Default)]
pub struct Policy {
    grants: Vec<OutboundGrant>,
    /// The way to containers, and the namespace of which they are reached.
    containers: Option<(Arc<Reach>, NamespaceName)>,
    /// What the guest calls apps by beside their own names. Grants have the names that the guest says.
    own_names: BTreeMap<String, AppName>,
    hosts: Arc<Hosts>,
    found: Found,
    pub(super) names: Names,
}

impl Policy {
    /// Grants that do not parse are left out: specs are checked before they get here.
    pub fn new(allow: &[String]) -> Self {
        Self {
            grants: allow.iter().filter_map(|grant| grant.parse().ok()).collect(),
            containers: None,
            own_names: BTreeMap::new(),
            hosts: Arc::default(),
            found: Found::default(),
            names: Names::default(),
        }
    }

    /// Names in grants may be those of containers.
    pub(crate) fn with_containers(self, reach: Arc<Reach>, namespace: NamespaceName) -> Self {
        Self { containers: Some((reach, namespace)), ..self }
    }

    /// The guest calls apps so beside their own names.
    pub(crate) fn with_names(self, own_names: BTreeMap<String, AppName>) -> Self {
        Self { own_names, ..self }
    }

    /// What the platform's own hosts keep for themselves takes a grant that spells it.
    pub(crate) fn with_hosts(self, hosts: Arc<Hosts>) -> Self {
        Self { hosts, ..self }
    }

    /// Names are looked up at these places.
    pub(super) fn with_lookups(self, places: Places) -> Self {
        Self { names: Names::new(places), ..self }
    }

    /// The app that the guest calls so, if it has a name of its own for it.
    pub(super) fn app_called(&self, name: &str) -> Option<&AppName> {
        AppSpec::named(&self.own_names, name)
    }

    /// What a name of the guest is to everybody.
    fn meant<'a>(&'a self, name: &'a str) -> &'a str {
        self.app_called(name).map_or(name, AppName::as_str)
    }

    /// Where a socket reaches a container whose name is granted. None: it is no such name, and means what it means everywhere.
    pub(crate) fn container(&self, name: &str) -> Option<IpAddr> {
        let (reach, namespace) = self.containers.as_ref()?;
        let is_granted = self
            .grants
            .iter()
            .any(|grant| is_of_socket(grant) && bare(&grant.host).eq_ignore_ascii_case(bare(name)));
        is_granted.then(|| reach.for_guest(namespace, self.meant(name)))?
    }

    /// Whether an address is that of a container whose name is granted.
    fn is_container(&self, scheme: OutboundScheme, address: SocketAddr) -> bool {
        let Some((reach, namespace)) = &self.containers else { return false };
        self.matching(scheme, address.port())
            .any(|grant| reach.names.has(namespace, self.meant(&grant.host), address.ip().to_canonical()))
    }

    /// The port of an address that a connection has to go to: another one where the address stands for a container of another node, whose name is granted.
    /// Then one connection is let through.
    pub(crate) fn led(&self, address: SocketAddr) -> u16 {
        let led = || {
            let (reach, namespace) =
                self.containers.as_ref().filter(|_| Reach::is_for_guests(address.ip()))?;
            self.matching(OutboundScheme::Tcp, address.port())
                .find_map(|grant| reach.lets_guest(namespace, self.meant(&grant.host), address))
        };
        led().unwrap_or(address.port())
    }

    /// Whether a connection was led to this address for a container whose name is granted.
    fn is_led(&self, address: SocketAddr) -> bool {
        let Some((reach, namespace)) = &self.containers else { return false };
        let Some(meant) = reach.guest_port(address) else { return false };
        self.matching(OutboundScheme::Tcp, meant)
            .any(|grant| reach.stands_for(namespace, self.meant(&grant.host), address.ip()))
    }

    /// Whether an address stands for a container of the namespace whose name is granted, on whichever node: what goes there is no egress.
    pub(super) fn is_neighbour(&self, address: SocketAddr) -> bool {
        Reach::is_for_guests(address.ip()) || self.is_container(OutboundScheme::Tcp, address)
    }

    pub fn grants_scheme(&self, scheme: OutboundScheme) -> bool {
        self.grants.iter().any(|grant| grant.scheme == scheme)
    }

    /// Whether a connection to this host and port may be tried at all, before its name is resolved.
    pub fn permits_name(&self, scheme: OutboundScheme, host: &str, port: u16) -> bool {
        self.matching(scheme, port).any(|grant| match host.parse::<IpAddr>() {
            Ok(address) => {
                grant.covers(address)
                    || (grant.host == "*" && self.is_outside(SocketAddr::new(address, port)))
            }
            Err(_) => name_matches(&grant.host, host),
        })
    }

    /// Whether the address that a permitted name has resolved to may be connected to.
    pub fn permits_address(&self, scheme: OutboundScheme, address: SocketAddr) -> bool {
        self.is_outside(address) || self.permits_literally(scheme, address)
    }

    /// Whether a grant spells this address or its block, or stands for every public one. One that stands for a container takes the name.
    pub fn permits_literally(&self, scheme: OutboundScheme, address: SocketAddr) -> bool {
        if Reach::is_for_guests(address.ip()) {
            return false;
        }
        self.matching(scheme, address.port())
            .any(|grant| grant.covers(address.ip()) || (grant.host == "*" && self.is_outside(address)))
    }

    /// The same for a socket, where only the address is known: a grant by name permits what the name resolves to, and did
    /// a moment ago. A name with a `*` resolves to nothing.
    pub async fn permits_socket(&self, scheme: OutboundScheme, address: SocketAddr) -> bool {
        if Reach::is_for_guests(address.ip()) {
            return scheme == OutboundScheme::Tcp && self.is_led(address);
        }
        if self.permits_literally(scheme, address) || self.found.contains(scheme, address, Instant::now()) {
            return true;
        }
        if !self.is_outside(address) {
            return self.is_container(scheme, address);
        }
        let names = self.matching(scheme, address.port()).map(|grant| grant.host.as_str());
        for name in names.filter(|name| !name.contains('*') && !is_of_platform(name)) {
            if let Ok(found) = self.names.resolve_in_time(name, address.port()).await
                && found.iter().any(|found| found.ip() == address.ip())
            {
                self.found.insert(scheme, address, Instant::now());
                return true;
            }
        }
        false
    }

    /// Whether an address is on the public internet and not kept by the platform's own hosts.
    fn is_outside(&self, address: SocketAddr) -> bool {
        is_public(address.ip()) && !self.hosts.keep(address)
    }

    fn matching(&self, scheme: OutboundScheme, port: u16) -> impl Iterator<Item = &OutboundGrant> {
        self.grants
            .iter()
            .filter(move |grant| grant.scheme == scheme && grant.port.is_none_or(|granted| granted == port))
    }
}

/// Addresses that granted names have resolved to: without it every datagram would ask a name server.
#[derive(Debug, Default)]
struct Found(Mutex<Vec<(OutboundScheme, SocketAddr, Instant)>>);

impl Found {
    fn contains(&self, scheme: OutboundScheme, address: SocketAddr, now: Instant) -> bool {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.retain(|(_, _, since)| now - *since < FOUND_FOR);
        found.iter().any(|(for_scheme, other, _)| (*for_scheme, *other) == (scheme, address))
    }

    fn insert(&self, scheme: OutboundScheme, address: SocketAddr, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((scheme, address, now));
    }
}

fn is_of_socket(grant: &OutboundGrant) -> bool {
    matches!(grant.scheme, OutboundScheme::Tcp | OutboundScheme::Udp)
}

fn name_matches(grant: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    match grant.strip_prefix("*.") {
        _ if grant == "*" => true,
        Some(parent) => {
            host.len() > parent.len() + 1
                && host.as_bytes()[host.len() - parent.len() - 1] == b'.'
                && host[host.len() - parent.len()..].eq_ignore_ascii_case(parent)
        }
        None => grant.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(grants: &[&str]) -> Policy {
        Policy::new(&grants.iter().map(|grant| (*grant).to_owned()).collect::<Vec<_>>())
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_container_is_reached_by_its_granted_name_and_nothing_else_of_the_private_addresses() {
        let reach = Arc::new(Reach::default());
        let namespace: NamespaceName = "default".parse().unwrap();
        let place = (wharf_types::InstanceId::new(), [10, 0, 0, 2].into());
        reach.names.insert(&namespace, "redis", ["queue"].into_iter(), place);
        let with = |grants: &[&str]| policy(grants).with_containers(reach.clone(), namespace.clone());
        let granted = with(&["tcp://redis.internal:6379", "tcp://queue:*"]);
        for name in ["redis", "Redis.internal", "queue.internal.", "redis.INTERNAL.."] {
            assert_eq!(granted.container(name), Some([10, 0, 0, 2].into()), "{name}");
        }
        assert_eq!(granted.container("other"), None);
        assert!(granted.permits_socket(OutboundScheme::Tcp, at("10.0.0.2:6379")).await);
        assert!(!granted.permits_socket(OutboundScheme::Tcp, at("10.0.0.3:6379")).await);
        assert!(granted.is_neighbour(at("10.0.0.2:6379")) && !granted.is_neighbour(at("10.0.0.3:6379")));
        assert!(!granted.permits_socket(OutboundScheme::Udp, at("10.0.0.2:6379")).await);
        let narrow = with(&["tcp://redis.internal:6379"]);
        assert!(!narrow.permits_socket(OutboundScheme::Tcp, at("10.0.0.2:22")).await);
        let only_http = with(&["http://redis.internal:*"]);
        assert_eq!(only_http.container("redis"), None);
        assert!(!only_http.permits_socket(OutboundScheme::Tcp, at("10.0.0.2:6379")).await);
    }

    #[tokio::test]
    async fn a_name_of_the_guests_own_leads_to_the_app_that_is_meant_and_to_no_other() {
        let (reach, namespace) = (Arc::new(Reach::default()), "default".parse::<NamespaceName>().unwrap());
        for (app, last) in [("redis", 2_u8), ("a-redis", 3)] {
            let place = (wharf_types::InstanceId::new(), [10, 0, 0, last].into());
            reach.names.insert(&namespace, app, std::iter::empty(), place);
        }
        let names = BTreeMap::from([("redis".to_owned(), "a-redis".parse().unwrap())]);
        let guest = policy(&["tcp://redis:6379"]).with_names(names).with_containers(reach, namespace);
        assert_eq!(guest.container("Redis.internal"), Some([10, 0, 0, 3].into()));
        assert!(guest.permits_socket(OutboundScheme::Tcp, at("10.0.0.3:6379")).await);
        assert!(!guest.permits_socket(OutboundScheme::Tcp, at("10.0.0.2:6379")).await);
        assert_eq!(guest.container("a-redis"), None, "a grant has the name that the guest says");
        assert_eq!(guest.app_called("redis.internal").map(AppName::as_str), Some("a-redis"));
        assert_eq!(guest.app_called("other.internal"), None);
    }

    #[tokio::test]
    async fn an_address_that_stands_for_a_container_takes_the_grant_of_its_name() {
        use wharf_types::route::{ContainerEndpoint, ContainerRoute, RouteTable};
        let (reach, namespace) = (Arc::new(Reach::default()), "default".parse::<NamespaceName>().unwrap());
        let endpoint =
            ContainerEndpoint { instance: wharf_types::InstanceId::new(), node: wharf_types::NodeId::new() };
        let route = ContainerRoute {
            namespace: namespace.clone(),
            app: "redis".parse().unwrap(),
            networks: BTreeMap::new(),
            apart: false,
            endpoints: vec![endpoint],
        };
        reach.go_by(&RouteTable { containers: vec![Arc::new(route)], ..RouteTable::default() });
        reach.start(crate::logs::LogSink::new());
        let of = |namespace: &str, grants: &[&str]| {
            policy(grants).with_containers(reach.clone(), namespace.parse().unwrap())
        };
        let granted = of("default", &["tcp://redis.internal:6379"]);
        let address = SocketAddr::new(granted.container("redis").unwrap(), 6379);
        assert!(!granted.permits_socket(OutboundScheme::Tcp, address).await, "it has to be led first");
        let address = SocketAddr::new(address.ip(), granted.led(address));
        assert!(granted.permits_socket(OutboundScheme::Tcp, address).await);
        let other_port = SocketAddr::new(address.ip(), 22);
        assert_eq!(granted.led(other_port), 22);
        assert!(!granted.permits_socket(OutboundScheme::Tcp, other_port).await);
        assert_eq!(granted.led(at("10.0.0.2:6379")), 6379);
        assert!(!granted.permits_socket(OutboundScheme::Udp, address).await);
        let block = &["tcp://127.0.0.0/8:*", "http://127.0.0.0/8:*", "udp://127.0.0.0/8:*"];
        for (namespace, grants) in [
            ("default", &block[..]),
            ("default", &["tcp://other:*"]),
            ("theirs", &["tcp://redis.internal:6379"]),
        ] {
            let policy = of(namespace, grants);
            assert_eq!(policy.led(SocketAddr::new(address.ip(), 6379)), 6379);
            for scheme in [OutboundScheme::Tcp, OutboundScheme::Udp] {
                assert!(!policy.permits_socket(scheme, address).await, "{grants:?}");
            }
            assert!(!policy.permits_address(OutboundScheme::Http, address));
        }
    }

    #[test]
    fn nothing_is_reachable_without_a_grant() {
        assert!(!policy(&[]).permits_name(OutboundScheme::Https, "example.com", 443));
    }

    #[test]
    fn a_name_is_granted_with_its_scheme_and_port_only() {
        let policy = policy(&["https://api.example.com", "http://*.example.org:8080"]);
        assert!(policy.permits_name(OutboundScheme::Https, "API.example.com", 443));
        assert!(!policy.permits_name(OutboundScheme::Http, "api.example.com", 80));
        assert!(!policy.permits_name(OutboundScheme::Https, "api.example.com", 8443));
        assert!(policy.permits_name(OutboundScheme::Http, "a.example.org", 8080));
        assert!(!policy.permits_name(OutboundScheme::Http, "example.org", 8080));
        assert!(!policy.permits_name(OutboundScheme::Http, "aexample.org", 8080));
    }

    #[test]
    fn a_name_that_resolves_to_a_private_address_gets_nowhere() {
        let policy = policy(&["https://*"]);
        assert!(policy.permits_address(OutboundScheme::Https, at("93.184.216.34:443")));
        for inside in [
            "127.0.0.1:443",
            "10.1.2.3:443",
            "169.254.169.254:443",
            "[::1]:443",
            "[::ffff:127.0.0.1]:443",
            "[fe80::1]:443",
            "0.0.0.0:443",
            "100.64.0.1:443",
        ] {
            assert!(!policy.permits_address(OutboundScheme::Https, at(inside)), "{inside}");
        }
    }

    #[tokio::test]
    async fn the_platforms_own_ports_take_a_grant_that_spells_them_also_on_public_addresses() {
        use wharf_types::route::{RouteNode, RouteTable};
        let hosts = Arc::new(Hosts::default());
        let node = RouteNode { node: wharf_types::NodeId::new(), address: at("93.184.216.34:7072") };
        hosts.go_by(&RouteTable { nodes: vec![node], ..RouteTable::default() });
        let with = |grants: &[&str]| policy(grants).with_hosts(hosts.clone());
        let (api, door) = (at("93.184.216.34:7070"), at("93.184.216.34:443"));
        let any = with(&["http://*:*", "https://*", "tcp://*:*", "http://api.example.com:7070"]);
        assert!(!any.permits_name(OutboundScheme::Http, "93.184.216.34", 7070));
        assert!(!any.permits_address(OutboundScheme::Http, api));
        assert!(!any.permits_socket(OutboundScheme::Tcp, api).await);
        assert!(any.permits_address(OutboundScheme::Https, door), "everybody is served there");
        assert!(any.permits_address(OutboundScheme::Http, at("93.184.216.35:7070")));
        let spelled = with(&["http://93.184.216.34:7070", "tcp://93.184.216.0/24:7070"]);
        assert!(spelled.permits_name(OutboundScheme::Http, "93.184.216.34", 7070));
        assert!(spelled.permits_address(OutboundScheme::Http, api));
        assert!(spelled.permits_socket(OutboundScheme::Tcp, api).await);
    }

    #[test]
    fn a_private_address_is_reachable_when_a_grant_spells_it() {
        let policy = policy(&["http://10.0.0.0/8:*", "tcp://127.0.0.1:5432"]);
        assert!(policy.permits_address(OutboundScheme::Http, at("10.9.9.9:81")));
        assert!(!policy.permits_address(OutboundScheme::Http, at("192.168.0.1:81")));
        assert!(policy.permits_literally(OutboundScheme::Tcp, at("127.0.0.1:5432")));
        assert!(!policy.permits_literally(OutboundScheme::Tcp, at("127.0.0.1:22")));
    }

    #[test]
    fn an_address_that_was_found_is_good_for_a_moment() {
        let (found, address, now) = (Found::default(), at("93.184.216.34:53"), Instant::now());
        found.insert(OutboundScheme::Udp, address, now);
        assert!(found.contains(OutboundScheme::Udp, address, now + Duration::from_secs(4)));
        assert!(!found.contains(OutboundScheme::Tcp, address, now), "another scheme");
        assert!(!found.contains(OutboundScheme::Udp, at("93.184.216.34:54"), now), "another port");
        assert!(!found.contains(OutboundScheme::Udp, address, now + Duration::from_secs(5)));
        assert!(found.0.lock().unwrap().is_empty(), "nothing stays for ever");
    }

    #[tokio::test]
    async fn an_internal_name_is_not_looked_up_outside_for_a_socket() {
        let policy = policy(&["tcp://redis.internal:6379"])
            .with_lookups(Places::alone(0, Arc::new(tokio::sync::Semaphore::new(0))));
        // There is no place to look it up at, so that this would wait.
        let permits = policy.permits_socket(OutboundScheme::Tcp, at("93.184.216.34:6379"));
        assert!(!tokio::time::timeout(Duration::from_secs(5), permits).await.unwrap());
    }

    #[tokio::test]
    async fn a_socket_is_not_opened_by_a_name_with_a_star() {
        let policy = policy(&["tcp://*.example.com:443"]);
        assert!(!policy.permits_socket(OutboundScheme::Tcp, at("93.184.216.34:443")).await);
    }
}
