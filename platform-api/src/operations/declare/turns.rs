//! Whose turn it is to plan or apply many resources: one at a time of a namespace, and one at a time that writes.
//!
//! A large file keeps a reader busy while it is checked, and then the only writer for up to a second. Nobody has to wait for more than one of
//! them, however many namespaces have one, and nobody is kept from anything by how often somebody else tries.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use wharf_types::declare::{Prune, Resource};
use wharf_types::problem::ProblemCode;
use wharf_types::{NamespaceName, Problem};

use crate::operations::{Result, problem};

/// Resources from which on a request waits for its turn: those of fewer are written in some ten milliseconds.
const LARGE: usize = 500;
/// How long it waits until it may write.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Of this process.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Namespaces that have one.
    taken: Mutex<BTreeSet<NamespaceName>>,
    writing: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { taken: Mutex::default(), writing: Semaphore::new(1) }
    }
}

impl Turns {
    fn taken(&self) -> MutexGuard<'_, BTreeSet<NamespaceName>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refused while a namespace of these has one. Small requests need none.
    pub(super) fn take(
        &self,
        resources: &[Resource],
        prune: Option<&Prune>,
    ) -> std::result::Result<Turn<'_>, Problem> {
        if resources.len() < LARGE {
            return Ok(Turn { turns: self, namespaces: None });
        }
        let mut namespaces: BTreeSet<NamespaceName> =
            resources.iter().map(|resource| resource.namespace().clone()).collect();
        namespaces.extend(prune.into_iter().flat_map(|prune| prune.namespaces.iter().cloned()));
        let mut taken = self.taken();
        if let Some(busy) = namespaces.intersection(&taken).next() {
            let detail = format!(
                "another plan or apply of {LARGE} resources or more is under way in the namespace `{busy}`; try again when it has ended"
            );
            return Err(Problem::new(ProblemCode::Unavailable, detail));
        }
        taken.extend(namespaces.iter().cloned());
        Ok(Turn { turns: self, namespaces: Some(namespaces) })
    }
}

/// Until it is dropped. None: it is small, and nobody waits for it.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    namespaces: Option<BTreeSet<NamespaceName>>,
}

impl Turn<'_> {
    /// Waits until no other large one writes. To be asked before the writer is, so that only one of them ever waits in its queue.
    pub(super) async fn write(&self) -> Result<Option<SemaphorePermit<'_>>> {
        if self.namespaces.is_none() {
            return Ok(None);
        }
        match timeout(WAIT_MAX, self.turns.writing.acquire()).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => problem(
                ProblemCode::Unavailable,
                "other large files are being applied; try again in a moment",
            ),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(namespaces) = &self.namespaces else { return };
        self.turns.taken().retain(|taken| !namespaces.contains(taken));
    }
}

#[cfg(test)]
mod tests {
    use wharf_types::declare::ConfigResource;

    use super::*;

    fn configs(namespace: &str, count: usize) -> Vec<Resource> {
        let config = |at: usize| ConfigResource {
            namespace: namespace.parse().unwrap(),
            name: format!("config-{at}").parse().unwrap(),
            value: "x".to_owned(),
        };
        (0..count).map(|at| Resource::Config(config(at))).collect()
    }

    #[test]
    fn a_namespace_has_one_large_request_at_a_time_and_any_number_of_small_ones() {
        let turns = Turns::default();
        let (large, small) = (configs("blue", LARGE), configs("blue", LARGE - 1));
        let first = turns.take(&large, None).unwrap();
        let refused = turns.take(&large, None).unwrap_err();
        assert_eq!(refused.code, ProblemCode::Unavailable);
        assert!(refused.detail.contains("in the namespace `blue`"), "{refused}");
        let (_small, _smaller) = (turns.take(&small, None).unwrap(), turns.take(&small, None).unwrap());
        let _other = turns.take(&configs("red", LARGE), None).unwrap();
        drop(first);
        turns.take(&large, None).unwrap();
    }

    #[tokio::test]
    async fn one_large_request_writes_at_a_time() {
        let turns = Turns::default();
        let (blue, red) = (configs("blue", LARGE), configs("red", LARGE));
        let (blue, red) = (turns.take(&blue, None).unwrap(), turns.take(&red, None).unwrap());
        let small = turns.take(&configs("blue", 1), None).unwrap();
        let writing = blue.write().await.unwrap();
        assert!(small.write().await.unwrap().is_none(), "it does not wait");
        let waiting = timeout(Duration::from_millis(20), red.write()).await;
        assert!(waiting.is_err(), "it waits");
        drop(writing);
        assert!(red.write().await.unwrap().is_some());
    }
}
