//! TCP ports whose instances are on other hosts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;
use wharf_ingress::{TcpError, TcpPlace, TcpPlaces, TcpProblem};
use wharf_types::InstanceId;
use wharf_types::protocol::Versions;
use wharf_types::route::{RouteNode, RouteTable};

use crate::fixture::{until, within};
use crate::mesh::{Mesh, Passes, Wall, within_a_second};

/// The instances of all hosts that listen.
#[derive(Default)]
struct Guests {
    addresses: Mutex<HashMap<InstanceId, SocketAddr>>,
    cut: CancellationToken,
    /// One more for each place that is held.
    places: Arc<()>,
}

impl TcpPlaces for Guests {
    fn admit(&self, instance: InstanceId, _: u16) -> Option<TcpPlace> {
        let address = *self.addresses.lock().unwrap().get(&instance)?;
        let (cut, gone) = (self.cut.clone(), CancellationToken::new());
        Some(TcpPlace { address, cut, gone, held: Box::new(self.places.clone()) })
    }

    fn admit_by_name(&self, instance: InstanceId, port: u16) -> Option<TcpPlace> {
        self.admit(instance, port).filter(|_| port == OWN_PORT)
    }
}

/// The port that a container listens at beside its public ones.
const OWN_PORT: u16 = 6379;

impl Guests {
    fn places(&self) -> usize {
        Arc::strong_count(&self.places) - 1
    }

    async fn listen(&self) -> (InstanceId, TcpListener) {
        let (id, listener) = (InstanceId::new(), crate::mesh::bind().await);
        self.addresses.lock().unwrap().insert(id, listener.local_addr().unwrap());
        (id, listener)
    }
}

struct Front {
    mesh: Mesh,
    guests: Arc<Guests>,
    errors: Arc<Mutex<Vec<TcpError>>>,
    port: u16,
}

impl Front {
    async fn start(hosts: usize) -> Self {
        let (guests, errors) = (Arc::new(Guests::default()), Arc::new(Mutex::new(Vec::new())));
        let started = AtomicU8::new(0);
        let mesh = Mesh::configured(hosts, |config| {
            let sink = errors.clone();
            // Each host has an address of its own, so that each can open the port.
            config.tcp.host = [127, 0, 0, started.fetch_add(1, Ordering::Relaxed) + 1].into();
            config.tcp.places = guests.clone();
            config.tcp.on_error = Arc::new(move |error: &TcpError| sink.lock().unwrap().push(error.clone()));
        })
        .await;
        let port = crate::mesh::bind().await.local_addr().unwrap().port();
        Self { mesh, guests, errors, port }
    }

    async fn route(&mut self, instances: &[(InstanceId, usize)], settings: (u32, bool)) {
        let table = self.mesh.table_of_port(self.port, instances, settings);
        self.mesh.route(table).await;
    }

    async fn connect(&self) -> TcpStream {
        self.connect_to(0).await
    }

    async fn connect_to(&self, host: u8) -> TcpStream {
        within(TcpStream::connect(SocketAddr::from(([127, 0, 0, host + 1], self.port)))).await.unwrap()
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    within(listener.accept()).await.unwrap().0
}

async fn is_reset(socket: &mut TcpStream) -> bool {
    match within(socket.read_u8()).await {
        Ok(octet) => panic!("{octet} instead of an end"),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mut front = Front::start(2).await;
    let (id, listener) = front.guests.listen().await;
    front.route(&[(id, 1)], (10, false)).await;
    let mut client = front.connect().await;
    let mut guest = accept(&listener).await;
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut read = String::new();
    within(guest.read_to_string(&mut read)).await.unwrap();
    assert_eq!(read, "ping");
    // The client has finished, and still gets what the guest says.
    guest.write_all(b"pong").await.unwrap();
    drop(guest);
    let mut read = String::new();
    within(client.read_to_string(&mut read)).await.unwrap();
    assert_eq!((read.as_str(), front.errors.lock().unwrap().len()), ("pong", 0));
    until(|| front.guests.places() == 0).await;
}

#[tokio::test]
async fn a_reset_arrives_as_one_in_both_directions() {
    let mut front = Front::start(2).await;
    let (id, listener) = front.guests.listen().await;
    front.route(&[(id, 1)], (10, false)).await;
    for client_resets in [true, false] {
        let mut client = front.connect().await;
        let mut guest = accept(&listener).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(within(guest.read_u8()).await.unwrap(), b'x');
        let (resets, other) = if client_resets { (client, &mut guest) } else { (guest, &mut client) };
        resets.set_zero_linger().unwrap();
        drop(resets);
        assert!(is_reset(other).await, "{client_resets}");
        until(|| front.guests.places() == 0).await;
    }
    assert_eq!(front.mesh.hosts[0].figures().connections, 1);
}

#[tokio::test]
async fn the_guest_learns_the_address_of_the_client() {
    let mut front = Front::start(2).await;
    let (id, listener) = front.guests.listen().await;
    front.route(&[(id, 1)], (10, true)).await;
    let client = front.connect().await;
    let mut guest = accept(&listener).await;
    let mut header = [0; 28];
    within(guest.read_exact(&mut header)).await.unwrap();
    assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    let ports = [client.local_addr().unwrap().port(), front.port].map(u16::to_be_bytes).concat();
    assert_eq!(header[16..], [&[127, 0, 0, 1, 127, 0, 0, 1][..], &ports].concat());
}

#[tokio::test]
async fn a_side_that_reads_nothing_stops_the_other() {
    let mut front = Front::start(2).await;
    let (id, listener) = front.guests.listen().await;
    front.route(&[(id, 1)], (10, false)).await;
    let mut client = front.connect().await;
    let mut guest = accept(&listener).await;
    let piece = vec![7; 1 << 20];
    let mut sent = 0;
    // Until nothing moves any more: what is on its way is bounded.
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), client.write(&piece)).await {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "nobody has read any of it");
    }
    // And nothing of it is lost.
    client.shutdown().await.unwrap();
    let mut read = Vec::new();
    within(guest.read_to_end(&mut read)).await.unwrap();
    assert!(read.len() == sent && read.iter().all(|octet| *octet == 7));
}

#[tokio::test]
async fn a_host_lets_no_more_connect_than_the_instance_may_have() {
    let mut front = Front::start(3).await;
    let (full, listener) = front.guests.listen().await;
    let (other, other_listener) = front.guests.listen().await;
    front.route(&[(full, 1)], (1, false)).await;
    let first = front.connect_to(0).await;
    let guest = accept(&listener).await;
    // The ingress of a third host knows nothing of that connection, and nor does the second, which has the instance, of any other.
    for host in [1, 2] {
        assert!(is_reset(&mut front.connect_to(host).await).await);
    }
    assert_eq!(front.guests.places(), 1);
    let problems: Vec<_> = front.errors.lock().unwrap().iter().map(|error| error.problem.clone()).collect();
    let words = "the instance has as many connections as it may".to_owned();
    assert_eq!(problems, [TcpProblem::Full, TcpProblem::NotTaken(words)]);
    // Another instance is asked where there is one.
    front.route(&[(full, 1), (other, 1)], (1, false)).await;
    let _second = front.connect_to(2).await;
    let _other_guest = accept(&other_listener).await;
    // And the place is free when the first has left.
    drop((first, guest));
    until(|| front.guests.places() == 1).await;
    let _third = front.connect_to(0).await;
    accept(&listener).await;
}

#[tokio::test]
async fn an_instance_of_this_host_comes_first_as_long_as_it_has_room() {
    let mut front = Front::start(2).await;
    let (far, far_listener) = front.guests.listen().await;
    let (near, near_listener) = front.guests.listen().await;
    front.route(&[(far, 1), (near, 0)], (2, false)).await;
    let _clients = [front.connect().await, front.connect().await];
    let _here = [accept(&near_listener).await, accept(&near_listener).await];
    let _one_more = front.connect().await;
    accept(&far_listener).await;
}

#[tokio::test]
async fn an_instance_that_has_left_or_a_host_that_is_dead_is_passed_over() {
    let mut front = Front::start(3).await;
    let wall = Wall::before(front.mesh.addresses[2]).await;
    front.mesh.addresses[2] = wall.address;
    let (serves, listener) = front.guests.listen().await;
    let (gone, dead) = (InstanceId::new(), InstanceId::new());
    wall.set(Passes::Nothing);
    front.route(&[(gone, 1), (dead, 2), (serves, 1)], (10, false)).await;
    let mut client = front.connect().await;
    let mut guest = within_a_second(async { listener.accept().await.unwrap().0 }).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(within(guest.read_u8()).await.unwrap(), b'x');
    let figures = front.mesh.hosts[0].figures();
    assert_eq!((figures.retried, figures.ejected, front.errors.lock().unwrap().len()), (2, 1, 0));
    // Where there is no other, the client is told by a reset, and the app by a line.
    front.route(&[(gone, 1)], (10, false)).await;
    assert!(is_reset(&mut front.connect().await).await);
    let errors = front.errors.lock().unwrap();
    assert!(errors[0].to_string().ends_with("the instance is not there any more"), "{}", errors[0]);
}

#[tokio::test]
async fn a_guest_that_has_to_go_or_a_host_that_dies_resets_the_client() {
    let mut front = Front::start(2).await;
    let wall = Wall::before(front.mesh.addresses[1]).await;
    front.mesh.addresses[1] = wall.address;
    let (id, listener) = front.guests.listen().await;
    front.route(&[(id, 1)], (10, false)).await;
    let mut client = front.connect().await;
    let _guest = accept(&listener).await;
    wall.set(Passes::Cut);
    assert!(is_reset(&mut client).await);
    within_a_second(until(|| front.guests.places() == 0)).await;
    wall.set(Passes::All);
    until(|| front.mesh.hosts[0].figures().ejected == 0).await;
    let mut client = front.connect().await;
    let _guest = accept(&listener).await;
    front.guests.cut.cancel();
    assert!(is_reset(&mut client).await);
    until(|| front.guests.places() == 0).await;
}

#[tokio::test]
async fn a_container_is_reached_by_name_at_a_port_that_is_not_public() {
    let mut front = Front::start(3).await;
    let (id, listener) = front.guests.listen().await;
    front.route(&[], (10, false)).await;
    let connector = front.mesh.hosts[0].ingress.containers();
    let (here, there) = (front.mesh.hosts[0].node, front.mesh.hosts[1].node);
    let gone = (front.mesh.hosts[2].node, InstanceId::new());
    // The first one is not there, and another is asked.
    let mut stream = within(connector.connect(&[gone, (there, id)], OWN_PORT)).await.unwrap();
    let mut guest = accept(&listener).await;
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut read = String::new();
    within(guest.read_to_string(&mut read)).await.unwrap();
    assert_eq!(read, "ping");
    guest.write_all(b"pong").await.unwrap();
    drop(guest);
    let mut read = String::new();
    within(stream.read_to_string(&mut read)).await.unwrap();
    assert_eq!(read, "pong");
    drop(stream);
    until(|| front.guests.places() == 0).await;

    let why = within(connector.connect(&[(there, id)], 22)).await.err().unwrap();
    assert!(why.contains("not there any more"), "{why}");
    let why = within(connector.connect(&[(here, id)], OWN_PORT)).await.err().unwrap();
    assert!(why.contains("no node has"), "{why}: an ingress does not call itself");

    // Dropped, it resets the container.
    let stream = within(connector.connect(&[(there, id)], OWN_PORT)).await.unwrap();
    let mut guest = accept(&listener).await;
    drop(stream);
    assert!(is_reset(&mut guest).await);

    // Nor does it hold up the end of the ingress beside the container.
    let _stream = within(connector.connect(&[(there, id)], OWN_PORT)).await.unwrap();
    let mut guest = accept(&listener).await;
    let other = front.mesh.hosts.remove(1);
    within_a_second(other.ingress.shutdown(Duration::from_secs(60))).await;
    assert!(is_reset(&mut guest).await);
}

#[tokio::test]
async fn datagrams_reach_a_container_of_another_host_and_its_answers_come_back() {
    let mut front = Front::start(3).await;
    let (id, container) = (InstanceId::new(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    front.guests.addresses.lock().unwrap().insert(id, container.local_addr().unwrap());
    front.route(&[], (10, false)).await;
    let connector = front.mesh.hosts[0].ingress.containers();
    let there = front.mesh.hosts[1].node;
    let gone = (front.mesh.hosts[2].node, InstanceId::new());
    // The first one is not there, and another is asked.
    let mut flow = within(connector.exchange(&[gone, (there, id)], OWN_PORT)).await.unwrap();
    let mut buffer = vec![0; 70_000];
    for sent in [vec![1; 3], Vec::new(), vec![7; 60_000]] {
        flow.to.send(Bytes::from(sent.clone())).await.unwrap();
        let (length, from) = within(container.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..length], sent);
        container.send_to(&sent, from).await.unwrap();
        assert_eq!(within(flow.from.recv()).await.unwrap(), sent);
    }
    let why = within(connector.exchange(&[(there, id)], 22)).await.err().unwrap();
    assert!(why.contains("not there any more"), "{why}");
    drop(flow);
    until(|| front.guests.places() == 0).await;

    // Nor does a flow hold up the end of the ingress beside the container, and ends with it.
    let mut flow = within(connector.exchange(&[(there, id)], OWN_PORT)).await.unwrap();
    let other = front.mesh.hosts.remove(1);
    within_a_second(other.ingress.shutdown(Duration::from_secs(60))).await;
    assert_eq!(within(flow.from.recv()).await, None);
}

#[tokio::test]
async fn a_host_of_a_version_that_knows_no_datagrams_is_said_to_be_too_old() {
    let front = Mesh::configured(2, |config| config.speaks = Versions::UNSAID).await;
    let (node, peer) = (front.hosts[1].node, front.addresses[1]);
    let nodes = vec![RouteNode { node, address: peer }];
    front.hosts[0].route(RouteTable { generation: 1, nodes, ..RouteTable::default() }).await;
    let connector = front.hosts[0].ingress.containers();
    let why = within(connector.exchange(&[(node, InstanceId::new())], 53)).await.err().unwrap();
    assert!(why.contains("upgrade the worker there"), "{why}");
}
