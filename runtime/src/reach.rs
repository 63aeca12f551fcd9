//! What the guests and containers of this node reach by the names of apps, on any node.
//!
//! [`directory`] says which apps a name can mean for whom, after the route table; [`present`] knows the containers of this node. A name leads to an address
//! that stands for the app here ([`addresses`]). Of containers it is one that the packet filter brings to the [`door`] ([`filter`]), and that they learn from
//! a name server here ([`dns`], [`resolver`]); of guests one of the loopback, at which somebody listens just when a guest may connect ([`guests`]). From there
//! a connection goes to the app's container of this node, or through the front doors to one of another. So do datagrams of containers ([`datagrams`]), of which
//! only the kernel knows what they were meant for ([`conntrack`]).

pub(crate) mod addresses;
mod conntrack;
mod datagrams;
pub(crate) mod directory;
mod dns;
pub mod door;
pub(crate) mod filter;
mod guests;
mod http;
pub(crate) mod present;
mod resolver;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing {
    pub(crate) fn dns(octets: &[u8]) {
        super::dns::asked(octets);
        let text = String::from_utf8_lossy(octets);
        assert!(super::resolver::name_servers(&text).len() <= 3);
    }

    pub(crate) fn conntrack(octets: &[u8]) {
        super::conntrack::read_any(octets);
    }

    pub(crate) fn rules(octets: &[u8]) {
        super::filter::rules_of(&String::from_utf8_lossy(octets));
    }
}

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use nix::sys::resource::{Resource, getrlimit};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use wharf_types::figures::DatagramFigures;
use wharf_types::log::{LogRecord, LogStream};
use wharf_types::route::{ContainerRoute, RouteTable};
use wharf_types::{AppName, InstanceId, NamespaceName, NodeId, Timestamp};

pub use self::addresses::{Block, InvalidBlock};
pub use self::datagrams::FarDatagrams;
use self::directory::{Asker, Directory};
use self::guests::GuestPorts;
use self::present::Containers;
use crate::container::names::{ContainerNames, bare};
use crate::logs::LogSink;

/// How long a container of this machine may take to be connected to, and one of another node.
const CONNECT_MAX: Duration = Duration::from_secs(2);
const FAR_MAX: Duration = Duration::from_secs(5);
/// How long what a container has sent before it ended may take to arrive.
const GONE_GRACE: Duration = Duration::from_secs(1);
const BUFFER_BYTES: usize = 32 << 10;
/// Connections by name of this node at once, where it has file handles in plenty.
const CONNECTIONS_MAX: usize = 4096;
/// A failure is told in the log of the app, and after this time the next one.
const TOLD_FOR: Duration = Duration::from_secs(60);

static CONNECTIONS: LazyLock<usize> = LazyLock::new(|| {
    let file_handles_max = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    connections_within(file_handles_max)
});

/// A sixteenth of the file handles, of which each connection takes two.
fn connections_within(file_handles_max: u64) -> usize {
    usize::try_from(file_handles_max / 32).unwrap_or(usize::MAX).clamp(16, CONNECTIONS_MAX)
}

/// A connection to a container of another node.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}
pub type FarStream = Pin<Box<dyn Duplex>>;

/// Connects to ports of containers on other nodes.
pub trait FarContainers: Send + Sync {
    /// The first of them is asked first. The error is for the log of the app.
    fn connect(
        &self,
        containers: Vec<(NodeId, InstanceId)>,
        port: u16,
    ) -> BoxFuture<'static, Result<FarStream, String>>;

    /// The same for datagrams, which one of them takes from here on.
    fn exchange(
        &self,
        containers: Vec<(NodeId, InstanceId)>,
        port: u16,
    ) -> BoxFuture<'static, Result<FarDatagrams, String>>;
}

/// What there is to be reached.
#[derive(Default)]
pub struct Reach {
    pub(crate) names: ContainerNames,
    pub(crate) containers: Containers,
    directory: ArcSwap<Directory>,
    guests: GuestPorts,
    far: OnceLock<Arc<dyn FarContainers>>,
    logs: OnceLock<LogSink>,
    /// Which name servers containers are given. Empty: those that the engine has.
    dns: OnceLock<Vec<IpAddr>>,
    told: Mutex<HashMap<(NamespaceName, AppName), Instant>>,
    places: Places,
    datagrams: datagrams::Counts,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").field("names", &self.names).finish_non_exhaustive()
    }
}

/// A connection that stands.
pub(crate) enum Joined {
    /// With what is cancelled when the container has ended.
    Here(TcpStream, CancellationToken),
    Far(FarStream),
}

impl Reach {
    /// Failures are told in the logs of apps from here on, and guests reach what is on other nodes. To be called within a runtime, where all that is done.
    pub fn start(self: &Arc<Self>, logs: LogSink) {
        let _ = self.logs.set(logs);
        self.guests.start(Arc::downgrade(self));
    }

    /// Sends connections to containers that are not on this node there.
    pub fn reach_others(&self, far: Arc<dyn FarContainers>) {
        // The first way stays: a node has one front door.
        let _ = self.far.set(far);
    }

    /// Names lead where these routes say from here on.
    pub(crate) fn go_by(&self, routes: &RouteTable) {
        self.directory.store(Arc::new(Directory::of(routes)));
    }

    /// What became of the datagrams that containers of this node have sent by name.
    pub fn datagram_figures(&self) -> DatagramFigures {
        self.datagrams.figures()
    }

    /// Where a port of a container of this node is, for somebody of another, and what is cancelled when it has ended.
    pub fn container_at(&self, id: InstanceId, port: u16) -> Option<(SocketAddr, CancellationToken)> {
        self.containers.at(id, port)
    }

    /// Which name servers containers are given.
    pub(crate) fn dns(&self) -> &[IpAddr] {
        self.dns.get().map_or(&[], Vec::as_slice)
    }

    /// Where a guest reaches the container of a name: its own address where it is here, or else one that stands for its app.
    pub(crate) fn for_guest(&self, namespace: &NamespaceName, name: &str) -> Option<IpAddr> {
        self.names.next(namespace, name).or_else(|| {
            let directory = self.directory.load();
            let asker = Asker::guest(namespace);
            let app = directory.named(&asker, bare(name))?;
            self.guests.address(namespace, app, |namespace, app| !directory.has(namespace, app))
        })
    }

    /// Whether an address stands for apps, so that a guest needs the name and not the address.
    pub(crate) fn is_for_guests(address: IpAddr) -> bool {
        guests::is_ours(address)
    }

    /// Lets a guest connect once to a port of the address that stands for the container of a name: the port at which somebody listens for that. None: it does
    /// not stand for that one, or nobody can listen.
    pub(crate) fn lets_guest(&self, namespace: &NamespaceName, name: &str, at: SocketAddr) -> Option<u16> {
        let SocketAddr::V4(at) = at else { return None };
        let directory = self.directory.load();
        let asker = Asker::guest(namespace);
        let app = directory.named(&asker, bare(name))?;
        self.guests.lets(namespace, app, at)
    }

    /// For which port of a container somebody listens at an address.
    pub(crate) fn guest_port(&self, at: SocketAddr) -> Option<u16> {
        let SocketAddr::V4(at) = at else { return None };
        self.guests.meant(at)
    }

    /// Whether an address stands for the container of a name.
    pub(crate) fn stands_for(&self, namespace: &NamespaceName, name: &str, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        let directory = self.directory.load();
        let asker = Asker::guest(namespace);
        let app = directory.named(&asker, bare(name));
        app.is_some_and(|app| self.guests.stands_for(address, namespace, app))
    }

    /// Connects to a port of an app's containers: one of this node where there is one that takes the connection.
    pub(crate) async fn connect(
        &self,
        asker: &Asker,
        route: &ContainerRoute,
        port: u16,
    ) -> Result<Joined, String> {
        let mut why = "none of its containers is ready".to_owned();
        let mut here = self.containers.of(asker, &route.app);
        rotate(&mut here);
        for container in here {
            let Some(address) = container.address else { continue };
            let connect = tokio::time::timeout(CONNECT_MAX, TcpStream::connect((address, port)));
            match container.gone.run_until_cancelled(connect).await {
                Some(Ok(Ok(stream))) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(Joined::Here(stream, container.gone.clone()));
                }
                Some(Ok(Err(error))) => why = error.to_string(),
                Some(Err(_)) => why = format!("no answer within {CONNECT_MAX:?}"),
                None => {}
            }
        }
        let elsewhere = self.elsewhere(route);
        match self.far.get() {
            Some(far) if !elsewhere.is_empty() => {
                match tokio::time::timeout(FAR_MAX, far.connect(elsewhere, port)).await {
                    Ok(connected) => connected.map(Joined::Far),
                    Err(_) => Err(format!("no answer of another node within {FAR_MAX:?}")),
                }
            }
            _ => Err(why),
        }
    }

    /// The containers of an app on other nodes.
    fn elsewhere(&self, route: &ContainerRoute) -> Vec<(NodeId, InstanceId)> {
        let elsewhere = route.endpoints.iter().filter(|it| !self.containers.has(it.instance));
        let mut elsewhere: Vec<_> = elsewhere.map(|it| (it.node, it.instance)).collect();
        rotate(&mut elsewhere);
        elsewhere
    }

    /// Joins somebody who has connected to a port of an app with one of its containers, until one of both ends it. `near` is cancelled when who has connected is
    /// gone.
    pub(crate) async fn splice(
        &self,
        (asker, near): (&Asker, &CancellationToken),
        (route, port): (&ContainerRoute, u16),
        mut client: TcpStream,
    ) {
        let joined = match self.connect(asker, route, port).await {
            Ok(joined) => joined,
            Err(why) => {
                reset(&client);
                let what = format!("a connection by name to port {port} was reset: {why}");
                return self.tell(&route.namespace, &route.app, what);
            }
        };
        let _ = client.set_nodelay(true);
        match joined {
            Joined::Here(mut guest, gone) => {
                if !copy(&mut client, &mut guest, [near, &gone]).await {
                    reset(&client);
                    reset(&guest);
                }
            }
            Joined::Far(mut guest) => {
                if copy(&mut client, &mut guest, [near, &CancellationToken::new()]).await {
                    // Both directions have been told already.
                    let _ = guest.shutdown().await;
                } else {
                    // Dropped as it is, it resets the other end.
                    reset(&client);
                }
            }
        }
    }

    /// Tells an app in its log, unless it was told lately.
    pub(crate) fn tell(&self, namespace: &NamespaceName, app: &AppName, message: String) {
        let Some(logs) = self.logs.get() else { return };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, since| since.elapsed() < TOLD_FOR);
        if told.insert((namespace.clone(), app.clone()), Instant::now()).is_some() {
            return;
        }
        logs.push(LogRecord {
            time: Timestamp::now(),
            namespace: namespace.clone(),
            app: app.clone(),
            job: None,
            release: 0,
            instance: InstanceId::from_uuid(uuid::Uuid::nil()),
            stream: LogStream::Platform,
            seq: 0,
            message,
        });
    }
}

/// Begins with another each time.
fn rotate<T>(those: &mut [T]) {
    if !those.is_empty() {
        let by = rand::random_range(0..those.len());
        those.rotate_left(by);
    }
}

/// Whether both directions came to an end that was meant.
async fn copy<A, B>(one: &mut A, other: &mut B, gone: [&CancellationToken; 2]) -> bool
where
    A: AsyncRead + AsyncWrite + Unpin + ?Sized,
    B: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let [near, far] = gone;
    let ended = async {
        tokio::select! {
            () = near.cancelled() => {}
            () = far.cancelled() => {}
        }
        tokio::time::sleep(GONE_GRACE).await;
    };
    tokio::select! {
        copied = copy_bidirectional_with_sizes(one, other, BUFFER_BYTES, BUFFER_BYTES) => copied.is_ok(),
        () = ended => false,
    }
}

/// An end that looks like an answer without content would be taken for one.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Places for connections: of the node, and of each who connects a part of them, so that one leaves some to others.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    each_max: usize,
    each: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for Places {
    fn default() -> Self {
        Self::new(*CONNECTIONS)
    }
}

/// One of them, until dropped.
pub(crate) struct Place {
    of: IpAddr,
    each: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(crate) fn new(max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(max)), each_max: (max / 4).max(1), each: Arc::default() }
    }

    pub(crate) fn take(&self, of: IpAddr) -> Option<Place> {
        let permit = self.all.clone().try_acquire_owned().ok()?;
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = each.entry(of).or_default();
        if *taken >= self.each_max {
            return None;
        }
        *taken += 1;
        Some(Place { of, each: self.each.clone(), _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = each.get_mut(&self.of) {
            *taken -= 1;
            if *taken == 0 {
                each.remove(&self.of);
            }
        }
    }
}

/// Binds at an address of this machine, in whatever runtime serves it then.
fn listen(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&socket2::SockAddr::from(at))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

const BACKLOG: i32 = 1024;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, DuplexStream};
    use tokio::net::TcpListener;
    use wharf_types::route::ContainerEndpoint;

    use super::directory::tests::{container, of};
    use super::present::Present;
    use super::*;

    /// Another node, which says what it was asked and then ends.
    struct Elsewhere;

    impl FarContainers for Elsewhere {
        fn connect(
            &self,
            containers: Vec<(NodeId, InstanceId)>,
            port: u16,
        ) -> BoxFuture<'static, Result<FarStream, String>> {
            Box::pin(async move {
                if port == 1 {
                    return Err("nobody listens".to_owned());
                }
                let (near, mut far): (DuplexStream, DuplexStream) = tokio::io::duplex(1024);
                tokio::spawn(async move {
                    let said = format!("port {port} of {} containers", containers.len());
                    far.write_all(said.as_bytes()).await.unwrap();
                });
                Ok(Box::pin(near) as FarStream)
            })
        }

        fn exchange(
            &self,
            _: Vec<(NodeId, InstanceId)>,
            _: u16,
        ) -> BoxFuture<'static, Result<FarDatagrams, String>> {
            Box::pin(async { Err("nobody takes datagrams".to_owned()) })
        }
    }

    fn endpoints(route: &ContainerRoute, ids: &[InstanceId]) -> Arc<ContainerRoute> {
        let endpoint = |id: &InstanceId| ContainerEndpoint { instance: *id, node: NodeId::new() };
        Arc::new(ContainerRoute { endpoints: ids.iter().map(endpoint).collect(), ..route.clone() })
    }

    fn reach(routes: Vec<Arc<ContainerRoute>>) -> Arc<Reach> {
        let reach = Arc::new(Reach::default());
        reach.go_by(&RouteTable { containers: routes, ..RouteTable::default() });
        reach.reach_others(Arc::new(Elsewhere));
        reach.start(LogSink::new());
        reach
    }

    /// Both ends of a connection.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    fn present(id: InstanceId, address: IpAddr) -> Present {
        Present {
            id,
            app: "redis".parse().unwrap(),
            asker: of("ours", &[""]),
            address: Some(address),
            sources: vec![address],
            has_way_out: true,
            gone: CancellationToken::new(),
        }
    }

    async fn read(mut stream: TcpStream) -> io::Result<String> {
        let mut said = String::new();
        let read = stream.read_to_string(&mut said);
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("it takes too long").map(|_| said)
    }

    #[tokio::test]
    async fn a_connection_goes_to_the_container_here_and_then_to_one_elsewhere() {
        let (id, other) = (InstanceId::new(), InstanceId::new());
        let route = endpoints(&container("redis", &[]), &[id, other]);
        let reach = reach(vec![route.clone()]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        reach.containers.insert(present(id, Ipv4Addr::LOCALHOST.into()));
        let asker = of("ours", &[""]);
        let here = reach.connect(&asker, &route, port).await.unwrap();
        assert!(matches!(here, Joined::Here(..)));
        drop(listener);
        // It does not listen any more: the other one is asked.
        let (client, server) = connection().await;
        let near = CancellationToken::new();
        let splice = reach.splice((&asker, &near), (&route, port), server);
        let (said, ()) = tokio::join!(read(client), splice);
        assert_eq!(said.unwrap(), format!("port {port} of 1 containers"));
    }

    #[tokio::test]
    async fn what_nobody_takes_is_reset_at_once_and_told_once() {
        let route = endpoints(&container("redis", &[]), &[InstanceId::new()]);
        let reach = reach(vec![route.clone()]);
        for _ in 0..2 {
            let (client, server) = connection().await;
            reach.splice((&of("ours", &[""]), &CancellationToken::new()), (&route, 1), server).await;
            assert_eq!(read(client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
        assert_eq!(reach.told.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_connection_ends_with_the_container_that_has_it() {
        let id = InstanceId::new();
        let route = endpoints(&container("redis", &[]), &[id]);
        let reach = reach(vec![route.clone()]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        reach.containers.insert(present(id, Ipv4Addr::LOCALHOST.into()));
        let (client, server) = connection().await;
        let splice = tokio::spawn({
            let (reach, route) = (reach.clone(), route.clone());
            async move {
                reach.splice((&of("ours", &[""]), &CancellationToken::new()), (&route, port), server).await;
            }
        });
        let _guest = listener.accept().await.unwrap();
        reach.containers.end(id);
        assert_eq!(read(client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        splice.await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_reaches_what_is_elsewhere_when_it_may_and_nobody_else_does() {
        let route = endpoints(&container("redis", &[]), &[InstanceId::new()]);
        let reach = reach(vec![route]);
        let (ours, theirs): (NamespaceName, NamespaceName) =
            ("ours".parse().unwrap(), "theirs".parse().unwrap());
        let address = reach.for_guest(&ours, "redis.internal").unwrap();
        assert!(Reach::is_for_guests(address));
        assert_eq!(reach.for_guest(&ours, "redis"), Some(address));
        assert_eq!(reach.for_guest(&theirs, "redis"), None);
        let at = SocketAddr::new(address, 6379);
        assert_eq!(reach.lets_guest(&theirs, "redis", at), None);
        assert_eq!(reach.lets_guest(&ours, "other", at), None);
        let led = SocketAddr::new(address, reach.lets_guest(&ours, "redis", at).unwrap());
        assert_eq!(reach.guest_port(led), Some(6379));
        assert!(reach.stands_for(&ours, "redis", address) && !reach.stands_for(&theirs, "redis", address));
        let said = read(TcpStream::connect(led).await.unwrap()).await.unwrap();
        assert_eq!(said, "port 6379 of 1 containers");
        // Who was not let, such as another process of this machine, gets nothing.
        let uninvited = read(TcpStream::connect(led).await.unwrap()).await;
        assert!(uninvited.is_err(), "{uninvited:?}");
        assert_eq!(reach.lets_guest(&ours, "redis", at), Some(led.port()));
        assert!(read(TcpStream::connect(led).await.unwrap()).await.is_ok());
    }

    #[test]
    fn one_who_connects_leaves_places_to_others() {
        let places = Places::new(8);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let taken: Vec<_> = (0..3).map(|_| places.take(one)).collect();
        assert_eq!(taken.iter().flatten().count(), 2);
        assert!(places.take(other).is_some());
        drop(taken);
        assert!(places.take(one).is_some() && places.each.lock().unwrap().is_empty());
        assert_eq!((connections_within(1024), connections_within(u64::MAX)), (32, CONNECTIONS_MAX));
    }
}
