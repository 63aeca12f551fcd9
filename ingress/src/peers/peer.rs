//! A node whose instances are asked over the network: its connections, and whether it is asked at all.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use wharf_types::NodeId;

use super::health::Health;
use super::link::{self, DialError, Held, Link};
use super::{PeerStats, PeerTls};
use crate::stats::add_one;

/// A further connection is made when all have so many requests.
const STREAMS_GOOD: usize = 32;
const LINKS_MAX: usize = 16;

pub(crate) struct Peer {
    pub(crate) node: NodeId,
    tls: Arc<PeerTls>,
    pub(super) stats: Arc<PeerStats>,
    inner: Mutex<Inner>,
    /// What `inner.health` says, for those who choose.
    is_ejected: AtomicBool,
}

struct Inner {
    address: SocketAddr,
    links: Vec<Arc<Link>>,
    /// A connection that is being made, and that many may wait for.
    dialing: Option<Dialing>,
    health: Health,
    /// Whether somebody sees to the next probe.
    is_probed: bool,
}

type Dialing = Shared<BoxFuture<'static, Result<Arc<Link>, Arc<str>>>>;

/// Where there is a place for one request.
enum Place {
    Link(Held),
    Soon(Dialing),
    Nowhere,
}

/// Why there is no connection, or no place on one. Nothing was sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("node {node}: {why}")]
pub(crate) struct Unreachable {
    node: NodeId,
    why: Arc<str>,
}

impl Peer {
    pub(super) fn new(node: NodeId, address: SocketAddr, tls: Arc<PeerTls>, stats: Arc<PeerStats>) -> Self {
        let inner =
            Inner { address, links: Vec::new(), dialing: None, health: Health::default(), is_probed: false };
        Self { node, tls, stats, inner: Mutex::new(inner), is_ejected: AtomicBool::new(false) }
    }

    /// Whether others are to be asked where there are any.
    pub(crate) fn is_ejected(&self) -> bool {
        self.is_ejected.load(Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn set_ejected(&self, ejected: bool) {
        self.is_ejected.store(ejected, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whole after every statement, so a panic elsewhere has not harmed it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its listener is here from now on.
    pub(super) fn moved_to(&self, address: SocketAddr) {
        let mut inner = self.lock();
        if inner.address != address {
            inner.address = address;
            inner.dialing = None;
            inner.links.drain(..).for_each(|link| link.retire());
        }
    }

    pub(super) fn unreachable(&self, why: &str) -> Unreachable {
        Unreachable { node: self.node, why: why.into() }
    }

    /// A place on a connection whose other end has answered lately.
    pub(super) async fn hold(self: &Arc<Self>) -> Result<Held, Unreachable> {
        // Once more after a connection that turned out to lead nowhere: another may have been made already.
        for _ in 0..2 {
            let held = match self.place() {
                Place::Link(held) => held,
                Place::Soon(dialing) => match dialing.await {
                    Ok(link) => match link.hold() {
                        Some(held) => held,
                        None => continue,
                    },
                    Err(why) => {
                        add_one(&self.stats.unreachable);
                        return Err(Unreachable { node: self.node, why });
                    }
                },
                Place::Nowhere => {
                    return Err(self.unreachable("every connection has as many requests as it can take"));
                }
            };
            if held.link().is_fresh().await {
                return Ok(held);
            }
            held.link().retire();
            self.failed("a connection does not answer any more");
        }
        add_one(&self.stats.unreachable);
        Err(self.unreachable("a connection does not answer any more"))
    }

    /// The connection with the fewest requests, and one more for those who come later where all have many.
    fn place(self: &Arc<Self>) -> Place {
        let mut inner = self.lock();
        let generation = self.tls.generation.load(Relaxed);
        inner.links.retain(|link| {
            if link.tls_generation != generation {
                link.retire();
            }
            link.is_kept()
        });
        let usable = || inner.links.iter().filter(|link| link.is_usable());
        let (best, count) = (usable().min_by_key(|link| link.open()).cloned(), usable().count());
        match best {
            Some(link) => {
                if link.open() >= STREAMS_GOOD && count < LINKS_MAX && inner.dialing.is_none() {
                    // Nobody waits for it.
                    drop(self.spawn_dial(&mut inner));
                }
                match (link.hold(), &inner.dialing) {
                    (Some(held), _) => Place::Link(held),
                    (None, Some(dialing)) => Place::Soon(dialing.clone()),
                    (None, None) => Place::Nowhere,
                }
            }
            None => Place::Soon(inner.dialing.clone().unwrap_or_else(|| self.spawn_dial(&mut inner))),
        }
    }

    /// Makes a connection in a task of its own: whoever asked for it may leave, and others wait for it, too.
    fn spawn_dial(self: &Arc<Self>, inner: &mut Inner) -> Dialing {
        let (peer, address) = (self.clone(), inner.address);
        let task = tokio::spawn(async move {
            let dialed = peer.dial(address).await;
            let mut inner = peer.lock();
            inner.dialing = None;
            match dialed {
                Ok(link) if inner.address == address => {
                    inner.links.push(link.clone());
                    drop(inner);
                    peer.answered();
                    Ok(link)
                }
                Ok(_) => Err(Arc::from("the node has moved")),
                Err(error) => {
                    drop(inner);
                    let why: Arc<str> = chain(&error).into();
                    peer.failed(&why);
                    Err(why)
                }
            }
        });
        let dialing = async move { task.await.unwrap_or_else(|_| Err(Arc::from("connecting has failed"))) };
        let dialing = dialing.boxed().shared();
        inner.dialing = Some(dialing.clone());
        dialing
    }

    /// A new connection over which the peer has answered.
    async fn dial(self: &Arc<Self>, address: SocketAddr) -> Result<Arc<Link>, DialError> {
        let (link, driver) = Link::dial(self.node, address, &self.tls).await?;
        add_one(&self.stats.connections);
        self.stats.open.fetch_add(1, Relaxed);
        let (peer, stats) = (Arc::downgrade(self), self.stats.clone());
        tokio::spawn(async move {
            let ended = driver.await;
            stats.open.fetch_sub(1, Relaxed);
            // In order: the peer has said that it goes, or we let go of it.
            if let (Err(error), Some(peer)) = (ended, peer.upgrade()) {
                peer.failed(&format!("a connection was lost: {}", chain(&error)));
            }
        });
        if !link.is_there().await {
            link.retire();
            return Err(DialError::NotTaken(address));
        }
        let (watched, peer) = (Arc::downgrade(&link), Arc::downgrade(self));
        tokio::spawn(async move {
            let changed = |is_silent| match (is_silent, peer.upgrade()) {
                (true, Some(peer)) => peer.failed("it does not answer"),
                (false, Some(peer)) => peer.answered(),
                (_, None) => {}
            };
            link::watch(watched, changed).await;
            if let Some(peer) = peer.upgrade() {
                peer.lock().links.retain(|link| link.is_kept());
            }
        });
        Ok(link)
    }

    /// Something has gone wrong with a connection.
    fn failed(self: &Arc<Self>, why: &str) {
        let mut inner = self.lock();
        if !inner.health.failed(Instant::now(), rand::random()) {
            return;
        }
        self.is_ejected.store(true, Relaxed);
        add_one(&self.stats.ejections);
        self.stats.ejected.fetch_add(1, Relaxed);
        if !std::mem::replace(&mut inner.is_probed, true) {
            tokio::spawn(recover(Arc::downgrade(self)));
        }
        drop(inner);
        tracing::warn!(node.id = %self.node, "node {} gets no requests from here: {why}", self.node);
    }

    pub(super) fn answered(&self) {
        // Said of every answer, so without the lock where there is nothing to do.
        if !self.is_ejected() {
            return;
        }
        let mut inner = self.lock();
        if inner.health.answered() {
            self.is_ejected.store(false, Relaxed);
            self.stats.ejected.fetch_sub(1, Relaxed);
            drop(inner);
            tracing::info!(node.id = %self.node, "node {} gets requests from here again", self.node);
        }
    }

    /// When the next probe is due. None: nobody needs to see to it any more.
    fn next_probe(&self) -> Option<Instant> {
        let mut inner = self.lock();
        let probe_at = inner.health.probe_at();
        inner.is_probed = probe_at.is_some();
        probe_at
    }

    /// Asks whether it is there, by a connection that is there or a new one.
    async fn probe(self: &Arc<Self>) -> bool {
        let known = self.lock().links.iter().find(|link| link.is_usable()).cloned();
        match known {
            Some(link) => link.is_there().await,
            None => {
                let dialing = {
                    let mut inner = self.lock();
                    inner.dialing.clone().unwrap_or_else(|| self.spawn_dial(&mut inner))
                };
                dialing.await.is_ok()
            }
        }
    }
}

/// Probes a peer that is ejected until it answers, one probe at a time.
async fn recover(peer: Weak<Peer>) {
    while let Some(probe_at) = peer.upgrade().and_then(|peer| peer.next_probe()) {
        tokio::time::sleep_until(probe_at.into()).await;
        let Some(peer) = peer.upgrade() else { return };
        if !peer.is_ejected() {
            continue;
        }
        if peer.probe().await {
            peer.answered();
        } else {
            peer.lock().health.probe_failed(Instant::now(), rand::random());
        }
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl Drop for Peer {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if inner.health.is_ejected() {
            self.stats.ejected.fetch_sub(1, Relaxed);
        }
        inner.links.drain(..).for_each(|link| link.retire());
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("node", &self.node)
            .field("is_ejected", &self.is_ejected())
            .finish_non_exhaustive()
    }
}
