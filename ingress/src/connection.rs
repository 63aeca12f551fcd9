//! The open connections: what the watchdog and a shutdown need to know of each, and how they reach it.
//!
//! A connection's own task writes only to its own counters, so that connections never wait for one another.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures::task::AtomicWaker;

use crate::stats::{Stats, StatsSnapshot};
use crate::watchdog::{Limits, Observed, Seen, Verdict};

/// What a connection has been told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Serve,
    /// Finish the open requests, take no new one.
    Close,
    /// End now.
    Cut,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) remote: SocketAddr,
    /// Octets from and to the client.
    pub(crate) read_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    /// `read_bytes` when the last request began or ended: more means that another head has begun to arrive.
    read_bytes_mark: AtomicU64,
    begun: AtomicU64,
    open: AtomicUsize,
    /// Responses of which the client has not taken what is there.
    owed: AtomicUsize,
    /// Request bodies of which a guest waits for more.
    awaited: AtomicUsize,
    /// Pieces of bodies so far, in both directions.
    frames: AtomicU64,
    multiplexed: AtomicBool,
    /// Whether it is one to a TCP port: nobody knows what passes there, so no client of it is too slow.
    is_tcp: bool,
    order: AtomicU8,
    waker: AtomicWaker,
}

impl Connection {
    fn new(remote: SocketAddr, is_tcp: bool) -> Self {
        Self {
            remote,
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            read_bytes_mark: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            owed: AtomicUsize::new(0),
            awaited: AtomicUsize::new(0),
            frames: AtomicU64::new(0),
            multiplexed: AtomicBool::new(false),
            is_tcp,
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
        }
    }

    pub(crate) fn set_multiplexed(&self) {
        self.multiplexed.store(true, Relaxed);
    }

    pub(crate) fn request_begins(&self) {
        self.open.fetch_add(1, Relaxed);
        self.begun.fetch_add(1, Relaxed);
        self.mark();
    }

    pub(crate) fn request_ends(&self) {
        self.mark();
        self.open.fetch_sub(1, Relaxed);
    }

    fn mark(&self) {
        self.read_bytes_mark.store(self.read_bytes.load(Relaxed), Relaxed);
    }

    pub(crate) fn client_owes(&self) {
        self.owed.fetch_add(1, Relaxed);
    }

    pub(crate) fn client_took(&self) {
        self.owed.fetch_sub(1, Relaxed);
    }

    pub(crate) fn upload_awaited(&self) {
        self.awaited.fetch_add(1, Relaxed);
    }

    pub(crate) fn upload_arrived(&self) {
        self.awaited.fetch_sub(1, Relaxed);
    }

    pub(crate) fn frame_passes(&self) {
        self.frames.fetch_add(1, Relaxed);
    }

    fn seen(&self) -> Seen {
        Seen {
            begun: self.begun.load(Relaxed),
            open: self.open.load(Relaxed),
            owed: self.owed.load(Relaxed),
            awaited: self.awaited.load(Relaxed),
            frames: self.frames.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            head_begun: self.read_bytes.load(Relaxed) != self.read_bytes_mark.load(Relaxed),
            multiplexed: self.multiplexed.load(Relaxed),
        }
    }

    /// Gives an order and wakes the connection's task. A weaker order does not replace a stronger one.
    fn give(&self, order: Order) {
        if self.order.fetch_max(order as u8, Relaxed) < order as u8 {
            self.waker.wake();
        }
    }

    /// The order, and a wake-up for `cx` when it changes.
    pub(crate) fn poll_order(&self, cx: &mut Context<'_>) -> Order {
        // Register first: an order given in between wakes the task that has just looked.
        self.waker.register(cx.waker());
        match self.order.load(Relaxed) {
            order if order == Order::Serve as u8 => Order::Serve,
            order if order == Order::Close as u8 => Order::Close,
            _ => Order::Cut,
        }
    }

    /// Returns when it has to end now.
    pub(crate) async fn cut(&self) {
        std::future::poll_fn(|cx| match self.poll_order(cx) {
            Order::Serve | Order::Close => Poll::Pending,
            Order::Cut => Poll::Ready(()),
        })
        .await;
    }

    /// Returns when there is any order but to serve.
    pub(crate) async fn ordered_to_end(&self) {
        std::future::poll_fn(|cx| match self.poll_order(cx) {
            Order::Serve => Poll::Pending,
            Order::Close | Order::Cut => Poll::Ready(()),
        })
        .await;
    }
}

/// All open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    stats: Arc<Stats>,
    max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    closing: bool,
    /// How many of the open ones are to TCP ports.
    tcp: usize,
    open: HashMap<u64, (Arc<Connection>, Observed)>,
}

/// An open connection; dropping it takes it off the list.
#[derive(Debug)]
pub(crate) struct Registered {
    id: u64,
    connection: Arc<Connection>,
    connections: Arc<Connections>,
}

impl Deref for Registered {
    type Target = Arc<Connection>;
    fn deref(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut inner = self.connections.lock();
        inner.open.remove(&self.id);
        inner.tcp -= usize::from(self.connection.is_tcp);
        // Inside the lock, so that a snapshot counts these requests exactly once.
        self.connections.stats.requests_ended.fetch_add(self.connection.begun.load(Relaxed), Relaxed);
    }
}

impl Connections {
    pub(crate) fn new(stats: Arc<Stats>, max: usize) -> Self {
        Self { stats, max, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The map is whole after every statement, so a panic elsewhere has not harmed it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None: as many as allowed are open, or the ingress is closing.
    pub(crate) fn register(self: &Arc<Self>, remote: SocketAddr, now: Instant) -> Option<Registered> {
        let mut inner = self.lock();
        if inner.closing || inner.open.len() - inner.tcp >= self.max {
            return None;
        }
        Some(self.insert(&mut inner, Connection::new(remote, false), now))
    }

    /// The same for a connection to a TCP port, of which there may be `max`.
    pub(crate) fn register_tcp(
        self: &Arc<Self>,
        remote: SocketAddr,
        now: Instant,
        max: usize,
    ) -> Option<Registered> {
        let mut inner = self.lock();
        if inner.closing || inner.tcp >= max {
            return None;
        }
        inner.tcp += 1;
        Some(self.insert(&mut inner, Connection::new(remote, true), now))
    }

    fn insert(self: &Arc<Self>, inner: &mut Inner, connection: Connection, now: Instant) -> Registered {
        let id = inner.next;
        inner.next += 1;
        let connection = Arc::new(connection);
        inner.open.insert(id, (connection.clone(), Observed::new(now)));
        Registered { id, connection, connections: self.clone() }
    }

    /// Looks at every connection and ends those whose client is too slow.
    pub(crate) fn sweep(&self, now: Instant, limits: &Limits) {
        let mut inner = self.lock();
        for (connection, observed) in inner.open.values_mut().filter(|(connection, _)| !connection.is_tcp) {
            match observed.observe(now, limits, &connection.seen()) {
                Verdict::Keep => {}
                Verdict::Close => connection.give(Order::Close),
                Verdict::Cut => {
                    crate::stats::add_one(&self.stats.cut);
                    connection.give(Order::Cut);
                }
            }
        }
    }

    /// Takes no further connection, and lets the open ones finish what they have begun.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        for (connection, _) in inner.open.values() {
            connection.give(Order::Close);
        }
    }

    /// Ends every connection now. Returns the peers with their open requests.
    pub(crate) fn cut(&self) -> Vec<(SocketAddr, usize)> {
        let inner = self.lock();
        let all = inner.open.values().map(|(connection, _)| {
            connection.give(Order::Cut);
            (connection.remote, connection.open.load(Relaxed))
        });
        all.collect()
    }

    pub(crate) fn snapshot(&self) -> StatsSnapshot {
        let inner = self.lock();
        let open = || inner.open.values().map(|(connection, _)| connection);
        let stats = &self.stats;
        StatsSnapshot {
            connections_open: inner.open.len(),
            requests_open: open().map(|connection| connection.open.load(Relaxed)).sum(),
            connections_accepted: stats.accepted.load(Relaxed),
            connections_over_limit: stats.over_limit.load(Relaxed),
            connections_cut: stats.cut.load(Relaxed),
            accept_errors: stats.accept_errors.load(Relaxed),
            requests: stats.requests_ended.load(Relaxed)
                + open().map(|connection| connection.begun.load(Relaxed)).sum::<u64>(),
            client_gone: stats.client_gone.load(Relaxed),
            errors: stats.errors(),
            run: stats.run().to_owned(),
            releases: stats.meters.totals(),
            loads: stats.loads.figures(),
            peers: stats.peers.figures(),
        }
    }
}
