//! Whom the control plane has let in before, for as long as nothing of that has changed; and which other servers there are.
//!
//! Each request comes with a token, or from a worker with a certificate, and what that is good for stands in the database. Where this process is the
//! only one that writes there, it knows when something of it changes ([`Store::access`]), and need not ask again before.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use wharf_types::NodeId;

use crate::access::Caller;
use crate::store::Store;
use crate::store::server::Server;

/// Of each kind. With more, all are forgotten, and read again as they come.
const KEPT: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Known {
    /// By the hash of their token's secret. When a token ends is for whoever asks to look at.
    pub(crate) callers: Memory<String, Arc<Caller>>,
    /// Those that belong to the cluster.
    pub(crate) members: Memory<NodeId, ()>,
    pub(crate) servers: OtherServers,
}

/// Where workers reach the other servers on the database that are there, as this one has read last.
#[derive(Debug, Default)]
pub(crate) struct OtherServers(Mutex<Vec<String>>);

impl OtherServers {
    /// Takes in what the database says, of which the server `own` is this one.
    pub(crate) fn are(&self, servers: Vec<Server>, own: &str) {
        let others = servers.into_iter().filter(|it| it.is_there && it.about.id != own);
        let addresses = others.map(|it| it.about.address).filter(|address| !address.is_empty()).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Where a worker can go: to this server, and to the others. Separated by commas.
    pub(crate) fn with(&self, own: &str) -> String {
        let others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = others.iter().map(String::as_str).filter(|address| *address != own);
        std::iter::once(own).chain(others).collect::<Vec<_>>().join(",")
    }
}

/// What was read, each with the count of changes from before it was.
#[derive(Debug)]
pub(crate) struct Memory<K, V>(Mutex<HashMap<K, (u64, V)>>);

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    /// What was read, unless something has changed since.
    fn get(&self, changes: u64, key: &K) -> Option<V> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(read_at, _)| *read_at == changes).map(|(_, value)| value.clone())
    }

    fn put(&self, changes: u64, key: K, value: V) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(key, (changes, value));
    }

    /// What is remembered of `key`, or what `read` finds, which is remembered from then on. What is not there is asked for each time.
    pub(crate) async fn or_read<E>(
        &self,
        store: &Store,
        key: K,
        read: impl Future<Output = Result<Option<V>, E>>,
    ) -> Result<Option<V>, E> {
        // Before it is read: what changes in between is not missed.
        let changes = store.access();
        if let Some(value) = changes.and_then(|changes| self.get(changes, &key)) {
            return Ok(Some(value));
        }
        let value = read.await?;
        if let (Some(changes), Some(value)) = (changes, &value) {
            self.put(changes, key, value.clone());
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::server::About;
    use wharf_types::Timestamp;

    #[test]
    fn workers_are_sent_to_this_server_and_to_those_that_are_there() {
        let server = |id: &str, address: &str, is_there| Server {
            about: About {
                id: id.to_owned(),
                hostname: String::new(),
                address: address.to_owned(),
                version: String::new(),
                started_at: Timestamp::UNIX_EPOCH,
            },
            seen_at: Timestamp::UNIX_EPOCH,
            is_there,
            leads_since: None,
            leads: false,
        };
        let servers = OtherServers::default();
        assert_eq!(servers.with("a:1"), "a:1");
        let known = [("a", "a:1", true), ("b", "b:1", true), ("c", "c:1", false), ("d", "", true)];
        servers.are(known.into_iter().map(|(id, at, is_there)| server(id, at, is_there)).collect(), "a");
        assert_eq!(servers.with("a:1"), "a:1,b:1");
        servers.are(Vec::new(), "a");
        assert_eq!(servers.with("a:1"), "a:1");
    }

    #[test]
    fn what_was_read_counts_until_the_next_change_and_there_is_an_end_to_what_is_kept() {
        let memory = Memory::default();
        memory.put(7, "a".to_owned(), 1);
        assert_eq!(memory.get(7, &"a".to_owned()), Some(1));
        assert_eq!((memory.get(8, &"a".to_owned()), memory.get(7, &"b".to_owned())), (None, None));
        for number in 0..KEPT {
            memory.put(8, number.to_string(), 2);
        }
        assert!(memory.0.lock().unwrap().len() <= KEPT);
    }
}
