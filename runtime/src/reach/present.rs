//! The containers that run on this node, by their addresses: who asks, and where a connection to one leads.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wharf_types::{AppName, InstanceId};

use super::directory::Asker;

/// A container of this node.
#[derive(Debug)]
pub(crate) struct Present {
    pub(crate) id: InstanceId,
    pub(crate) app: AppName,
    /// What it is to others.
    pub(crate) asker: Asker,
    /// Where this node reaches it. None: it has the host's network, and is reached by nobody as a container.
    pub(crate) address: Option<IpAddr>,
    /// What its connections come from.
    pub(crate) sources: Vec<IpAddr>,
    /// Whether a way leads out of its networks. One without reaches no app by name here, whatever way the engine has left it.
    pub(crate) has_way_out: bool,
    /// Cancelled when it has ended.
    pub(crate) gone: CancellationToken,
}

#[derive(Debug, Default)]
pub(crate) struct Containers {
    known: Mutex<Known>,
    changed: Notify,
}

pub(crate) struct Ends<'a>(&'a Containers, InstanceId);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

#[derive(Debug, Default)]
struct Known {
    all: HashMap<InstanceId, Arc<Present>>,
    /// Those that are to end: they still ask, and take nothing new.
    closed: HashSet<InstanceId>,
}

impl Containers {
    pub(crate) fn insert(&self, container: Present) {
        let mut known = self.lock();
        // An address has one container: one that is still known by it has ended.
        let is_taken = |_: &InstanceId, it: &mut Arc<Present>| {
            let has_ended = it.sources.iter().any(|source| container.sources.contains(source));
            if has_ended {
                it.gone.cancel();
            }
            !has_ended
        };
        known.all.retain(is_taken);
        known.all.insert(container.id, Arc::new(container));
        drop(known);
        self.changed.notify_waiters();
    }

    /// It takes nothing new. What is open goes on until it has ended.
    pub(crate) fn close(&self, id: InstanceId) {
        let mut known = self.lock();
        if known.all.contains_key(&id) {
            known.closed.insert(id);
        }
    }

    /// It has ended, and so does what is open.
    pub(crate) fn end(&self, id: InstanceId) {
        let mut known = self.lock();
        known.closed.remove(&id);
        if let Some(ended) = known.all.remove(&id) {
            ended.gone.cancel();
        }
    }

    /// Ends it when this is dropped.
    pub(crate) fn ends(&self, id: InstanceId) -> Ends<'_> {
        Ends(self, id)
    }

    /// Where a port of a container is.
    pub(crate) fn at(&self, id: InstanceId, port: u16) -> Option<(SocketAddr, CancellationToken)> {
        let known = self.lock();
        let container = known.all.get(&id).filter(|_| !known.closed.contains(&id))?;
        Some((SocketAddr::new(container.address?, port), container.gone.clone()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().all.is_empty()
    }

    pub(crate) fn has(&self, id: InstanceId) -> bool {
        self.lock().all.contains_key(&id)
    }

    /// The containers of an app that are here and take connections.
    pub(crate) fn of(&self, asker: &Asker, app: &AppName) -> Vec<Arc<Present>> {
        let known = self.lock();
        let is_of = |it: &&Arc<Present>| {
            it.app == *app
                && it.asker.namespace == asker.namespace
                && asker.shares_network_with(&it.asker)
                && it.address.is_some()
                && !known.closed.contains(&it.id)
        };
        known.all.values().filter(is_of).cloned().collect()
    }

    pub(crate) fn at_source(&self, source: IpAddr) -> Option<Arc<Present>> {
        self.lock().all.values().find(|it| it.sources.contains(&source)).cloned()
    }

    /// The same of a container that may have started just now, so that it is not known for another moment.
    pub(crate) async fn at_source_soon(&self, source: IpAddr, within: Duration) -> Option<Arc<Present>> {
        let known = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(found) = self.at_source(source) {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(within, known).await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::tests::of;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_is_known_by_its_address_even_if_that_comes_a_moment_later() {
        let containers = Arc::new(Containers::default());
        let (id, source) = (InstanceId::new(), IpAddr::from([172, 18, 0, 2]));
        let second = Duration::from_secs(1);
        assert!(containers.at_source_soon(source, second).await.is_none());
        let asks = tokio::spawn({
            let containers = containers.clone();
            async move { containers.at_source_soon(source, second).await.map(|it| it.id) }
        });
        tokio::task::yield_now().await;
        let present = |address| Present {
            id,
            app: "web".parse().unwrap(),
            asker: of("ours", &[""]),
            address,
            sources: vec![source],
            has_way_out: true,
            gone: CancellationToken::new(),
        };
        containers.insert(present(Some(source)));
        assert_eq!(asks.await.unwrap(), Some(id));
        assert_eq!(containers.at(id, 6379).unwrap().0, SocketAddr::new(source, 6379));
        assert_eq!(containers.of(&of("ours", &["", "back"]), &"web".parse().unwrap()).len(), 1);
        assert!(
            containers.of(&of("ours", &["back"]), &"web".parse().unwrap()).is_empty(),
            "it is in another network"
        );
        assert!(containers.of(&of("theirs", &[""]), &"web".parse().unwrap()).is_empty());
        containers.insert(present(None));
        assert!(containers.at(id, 22).is_none(), "the host's ports are not those of a container");
        containers.insert(present(Some(source)));
        containers.close(id);
        assert!(containers.at(id, 6379).is_none() && containers.at_source(source).is_some(), "it still asks");
        let gone = containers.at_source(source).unwrap().gone.clone();
        containers.end(id);
        assert!(containers.at_source(source).is_none() && !containers.has(id) && gone.is_cancelled());
    }
}
