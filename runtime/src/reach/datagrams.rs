//! Where datagrams of this node's containers to apps by name come in, whatever port they are for, and the flows that they make.
//!
//! A flow is what one port of a container sends to one port of an app. All of it goes to one container of that app ([`link`]), and what that one answers comes
//! back. The packet filter brings it to one of a few ports here. Where a container sends to several apps from one port of its own, the kernel takes another of
//! ours for each, so that the two ends tell flows apart; what was meant it says when it is asked ([`conntrack`](super::conntrack)).
//!
//! Nobody waits for room: what there is none for is dropped, and counted.

mod link;
mod room;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wharf_types::figures::DatagramFigures;
use wharf_types::route::ContainerRoute;

pub use self::link::FarDatagrams;
use self::link::Link;
use self::room::{Room, Rooms, Waits};
use super::conntrack::Conntrack;
use super::door::{Served, who_is};
use super::filter::Ports;
use super::present::Present;
use super::{CONNECTIONS, Place, Places};

/// To how many ports of apps one port of a container may send at once. One more of our ports is for what is too much: the kernel, which takes them in their order,
/// brings that to the last one, where it does not know any more what was meant.
const PORTS: u16 = 16;
/// The first of ours: below what the kernel gives to those who ask for any. After a restart they are the same, as the kernel goes on to bring what comes between two
/// ends to where it has brought it before.
const FIRST_PORT: u16 = 20_000;
const TRIES_MAX: usize = 64;
/// The longest datagram that UDP over IPv4 has.
const DATAGRAM_MAX_BYTES: usize = 65_507;
/// Datagrams that wait in a flow.
const QUEUE_MAX: usize = 64;
/// The ends of a flow that was silent for so long may mean another one by now: the kernel forgets what it knows of one after 30 s.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// How long a flow may be silent,
const IDLE_MAX: Duration = Duration::from_secs(60);
/// and one of a question with its answer: the next question mostly comes from another port.
const BRIEF_MAX: Duration = Duration::from_secs(10);
/// How long after a flow found no container another one is not begun between the same ends.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// After a socket could not be read.
const PAUSE: Duration = Duration::from_millis(10);

/// Totals, and what there is now.
#[derive(Debug, Default)]
pub(super) struct Counts {
    flows: AtomicU64,
    passed: AtomicU64,
    dropped: AtomicU64,
}

/// What is open for datagrams, before any is served.
pub(super) struct DatagramDoor {
    sockets: Vec<std::net::UdpSocket>,
    ports: Ports,
    conntrack: Conntrack,
}

/// Who sends, and at which of our ports that comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    from: SocketAddrV4,
    at: SocketAddrV4,
}

/// The flows that there are.
#[derive(Default)]
struct Table {
    flows: HashMap<Ends, Flow>,
    /// Of the last one that was begun.
    number: u64,
}

struct Flow {
    number: u64,
    /// What the container sends to.
    meant: SocketAddrV4,
    heard: Instant,
    queue: mpsc::Sender<Waiting>,
    room: Arc<Room>,
}

/// A datagram on its way to the container that it is for.
struct Waiting {
    datagram: Bytes,
    _waits: Waits,
}

struct Flows {
    served: Arc<Served>,
    conntrack: Conntrack,
    table: Mutex<Table>,
    /// Of the node, and of each container a part of them.
    places: Places,
    /// Of each namespace.
    rooms: Rooms,
}

/// A flow that was just begun.
struct Begun {
    ends: Ends,
    number: u64,
    socket: Arc<UdpSocket>,
    container: Arc<Present>,
    route: Arc<ContainerRoute>,
    port: u16,
    waiting: mpsc::Receiver<Waiting>,
    _place: Place,
}

impl Counts {
    pub(super) fn figures(&self) -> DatagramFigures {
        DatagramFigures {
            flows: self.flows.load(Relaxed),
            passed: self.passed.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
        }
    }

    fn count(&self, has_passed: bool) {
        let total = if has_passed { &self.passed } else { &self.dropped };
        total.fetch_add(1, Relaxed);
    }
}

impl DatagramDoor {
    pub(super) fn open(home: Ipv4Addr) -> Result<Self, String> {
        let conntrack = Conntrack::open()
            .map_err(|error| format!("the kernel does not say what connections there are: {error}"))?;
        for first in (FIRST_PORT..).step_by(usize::from(PORTS) + 1).take(TRIES_MAX) {
            if let Ok(sockets) = bind(home, first) {
                return Ok(Self { sockets, ports: Ports { first, last: first + PORTS }, conntrack });
            }
        }
        Err(format!("others have ports from {FIRST_PORT} on at all addresses of this machine, or at {home}"))
    }

    /// What the packet filter is to lead here.
    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    /// Serves each port until its task is aborted.
    pub(super) fn spawn(self, served: &Arc<Served>) -> io::Result<Vec<JoinHandle<()>>> {
        let flows = Arc::new(Flows {
            served: served.clone(),
            conntrack: self.conntrack,
            table: Mutex::default(),
            places: Places::new(*CONNECTIONS),
            rooms: Rooms::new((*CONNECTIONS / 2).max(1)),
        });
        let mut tasks = Vec::new();
        for (socket, number) in self.sockets.into_iter().zip(0..) {
            let socket = UdpSocket::from_std(socket)?;
            tasks.push(match number {
                PORTS => tokio::spawn(refuse(flows.clone(), socket)),
                _ => tokio::spawn(receive(flows.clone(), Arc::new(socket))),
            });
        }
        Ok(tasks)
    }
}

fn bind(home: Ipv4Addr, first: u16) -> io::Result<Vec<std::net::UdpSocket>> {
    let mut sockets = Vec::new();
    for port in first..=first + PORTS {
        let socket = std::net::UdpSocket::bind((home, port))?;
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

async fn receive(flows: Arc<Flows>, socket: Arc<UdpSocket>) {
    let Ok(SocketAddr::V4(at)) = socket.local_addr() else { return };
    let mut buffer = vec![0; DATAGRAM_MAX_BYTES];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, SocketAddr::V4(from))) => flows.take(&socket, Ends { from, at }, &buffer[..length]),
            Ok(_) => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Drops what comes to the last port.
async fn refuse(flows: Arc<Flows>, socket: UdpSocket) {
    let mut buffer = [0; 1];
    loop {
        let Ok((_, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        flows.counts().count(false);
        let reach = &flows.served.reach;
        if let Some(container) = reach.containers.at_source(from.ip()) {
            let message = format!(
                "datagrams by name are dropped: one port of this container sends to more than {PORTS} ports of apps at once"
            );
            reach.tell(&container.asker.namespace, &container.app, message);
        }
    }
}

impl Table {
    /// The flow between two ends, where it is certain without asking what was meant.
    fn known(&mut self, now: Instant, ends: Ends) -> Option<&Flow> {
        let flow = self.flows.get_mut(&ends)?;
        if now.duration_since(flow.heard) >= KNOWN_FOR {
            return None;
        }
        flow.heard = now;
        Some(flow)
    }

    /// The same after the kernel was asked.
    fn meant(&mut self, now: Instant, ends: Ends, meant: SocketAddrV4) -> Option<&Flow> {
        let flow = self.flows.get_mut(&ends).filter(|flow| flow.meant == meant)?;
        flow.heard = now;
        Some(flow)
    }

    /// One that there was between the same ends was to somebody else, and ends when its queue is empty.
    fn begin(&mut self, ends: Ends, flow: Flow) -> u64 {
        self.number += 1;
        self.flows.insert(ends, Flow { number: self.number, ..flow });
        self.number
    }

    fn end(&mut self, ends: Ends, number: u64) {
        if self.flows.get(&ends).is_some_and(|flow| flow.number == number) {
            self.flows.remove(&ends);
        }
    }
}

impl Flow {
    /// False: there is no room for it.
    fn push(&self, datagram: &[u8]) -> bool {
        let Some(waits) = self.room.take(datagram.len()) else { return false };
        let waiting = Waiting { datagram: Bytes::copy_from_slice(datagram), _waits: waits };
        self.queue.try_send(waiting).is_ok()
    }
}

impl Flows {
    fn take(self: &Arc<Self>, socket: &Arc<UdpSocket>, ends: Ends, datagram: &[u8]) {
        // What was pushed counts when it has left the queue.
        if !self.is_pushed(socket, ends, datagram) {
            self.counts().count(false);
        }
    }

    fn is_pushed(self: &Arc<Self>, socket: &Arc<UdpSocket>, ends: Ends, datagram: &[u8]) -> bool {
        let now = Instant::now();
        if let Some(flow) = self.table().known(now, ends) {
            return flow.push(datagram);
        }
        let Ok(Some(meant)) = self.conntrack.meant(ends.at, ends.from) else { return false };
        if let Some(flow) = self.table().meant(now, ends, meant) {
            return flow.push(datagram);
        }
        let Some((container, route)) = self.way(*ends.from.ip(), meant) else { return false };
        let of = IpAddr::V4(*ends.from.ip());
        let (Some(place), Some(room)) = (self.places.take(of), self.rooms.take(&container.asker.namespace))
        else {
            let message = "datagrams by name are dropped: this container, its namespace, or all of its node, send to as many ports as they may";
            self.served.reach.tell(&container.asker.namespace, &container.app, message.to_owned());
            return false;
        };
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let flow = Flow { number: 0, meant, heard: now, queue, room };
        let is_pushed = flow.push(datagram);
        let number = self.table().begin(ends, flow);
        let begun = Begun {
            ends,
            number,
            socket: socket.clone(),
            container,
            route,
            port: meant.port(),
            waiting,
            _place: place,
        };
        tokio::spawn(self.clone().pass(begun));
        is_pushed
    }

    /// Who sends, and to which app. None: to nobody whom the container reaches.
    fn way(&self, from: Ipv4Addr, meant: SocketAddrV4) -> Option<(Arc<Present>, Arc<ContainerRoute>)> {
        let container = self.served.reach.containers.at_source(IpAddr::V4(from))?;
        if !container.has_way_out {
            return None;
        }
        let app = who_is(&container, self.served.app_at(*meant.ip())?)?;
        let route = self.served.reach.directory.load().containers_of(&container.asker, &app)?;
        Some((container, route))
    }

    async fn pass(self: Arc<Self>, begun: Begun) {
        let Begun { ends, number, socket, container, route, port, mut waiting, _place } = begun;
        self.counts().flows.fetch_add(1, Relaxed);
        let course = async {
            let reach = &self.served.reach;
            match reach.link(&container.asker, &route, port).await {
                Ok(link) => self.exchange(link, &mut waiting, (&*socket, ends.from)).await,
                Err(why) => {
                    let message = format!("datagrams by name to port {port} are dropped: {why}");
                    reach.tell(&route.namespace, &route.app, message);
                    tokio::time::sleep(FAILED_FOR).await;
                }
            }
        };
        // Another container may have the address of one that has ended.
        let _ = container.gone.run_until_cancelled(course).await;
        self.table().end(ends, number);
        while waiting.try_recv().is_ok() {
            self.counts().count(false);
        }
        self.counts().flows.fetch_sub(1, Relaxed);
    }

    /// Passes datagrams both ways until one end has gone, or both are silent.
    async fn exchange(
        &self,
        mut link: Link,
        waiting: &mut mpsc::Receiver<Waiting>,
        (socket, to): (&UdpSocket, SocketAddrV4),
    ) {
        let (mut sent, mut received) = (0_u64, 0_u64);
        loop {
            let silence = if sent.max(received) > 1 { IDLE_MAX } else { BRIEF_MAX };
            tokio::select! {
                next = waiting.recv() => {
                    // None: its ends are those of another flow by now.
                    let Some(Waiting { datagram, _waits }) = next else { return };
                    sent += 1;
                    self.counts().count(link.send(datagram).await);
                }
                answer = link.receive() => {
                    let Some(answer) = answer else { return };
                    received += 1;
                    self.counts().count(socket.send_to(&answer, to).await.is_ok());
                }
                () = tokio::time::sleep(silence) => return,
            }
        }
    }

    fn counts(&self) -> &Counts {
        &self.served.reach.datagrams
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(port: u16) -> Ends {
        let at = |address: [u8; 4], port| SocketAddrV4::new(Ipv4Addr::from(address), port);
        Ends { from: at([172, 20, 0, 2], 5555), at: at([198, 18, 16, 1], port) }
    }

    fn app(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new([198, 18, 16, last].into(), 8125)
    }

    fn flow(meant: SocketAddrV4) -> (Flow, mpsc::Receiver<Waiting>) {
        let (queue, waiting) = mpsc::channel(2);
        let room = Rooms::new(1).take(&"ours".parse().unwrap()).unwrap();
        (Flow { number: 0, meant, heard: Instant::now(), queue, room }, waiting)
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_meant_is_asked_again_after_a_silence_and_another_one_is_another_flow() {
        let (mut table, began) = (Table::default(), Instant::now());
        let (first, mut waiting) = flow(app(7));
        let number = table.begin(ends(4000), first);
        assert!(table.known(began, ends(4001)).is_none());
        let almost = began + KNOWN_FOR - Duration::from_millis(1);
        assert!(table.known(almost, ends(4000)).unwrap().push(b"one"));
        assert!(table.known(began + KNOWN_FOR, ends(4000)).is_some(), "it was heard meanwhile");
        let later = began + KNOWN_FOR * 3;
        assert!(table.known(later, ends(4000)).is_none());
        assert!(table.meant(later, ends(4000), app(8)).is_none());
        assert!(table.meant(later, ends(4000), app(7)).is_some());
        assert!(table.known(later, ends(4000)).is_some());

        let (second, _other) = flow(app(8));
        let other = table.begin(ends(4000), second);
        assert_eq!(&waiting.recv().await.unwrap().datagram[..], b"one");
        assert!(waiting.recv().await.is_none(), "the first one ends");
        table.end(ends(4000), number);
        assert!(table.flows.contains_key(&ends(4000)), "and takes nothing along");
        table.end(ends(4000), other);
        assert!(table.flows.is_empty());
    }

    #[tokio::test]
    async fn what_does_not_fit_into_the_queue_is_dropped_and_its_room_given_back() {
        let (flow, mut waiting) = flow(app(7));
        let pushed = (0..4).filter(|_| flow.push(b"x")).count();
        assert_eq!(pushed, 2);
        waiting.recv().await.unwrap();
        assert!(flow.push(b"y"));
    }
}
