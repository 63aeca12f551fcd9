//! What the guests of an app have under way to the key-value store, from this node: no app can take the node's memory by it, nor keep others from theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use wharf_types::keyvalue::{BATCH_VALUES_MAX_BYTES, KeyValueOp, VALUE_MAX_BYTES};
use wharf_types::{AppName, NamespaceName};

use super::cursors::Cursors;

/// Keys and values that are under way for one app, and for all apps of the node; more waits. The host holds some eight times as much for them: as they are, and
/// as text twice as long, here and in the control plane, which may be this process.
const APP_BYTES: usize = 32 << 20;
const NODE_BYTES: usize = 64 << 20;
/// What the smallest operation counts, so that there are not too many of them.
const OP_BYTES: usize = 64 << 10;
/// Permits of a semaphore are no more than fit into 32 bits.
const UNIT_BYTES: usize = 1 << 10;

/// The shares of the apps that run on this node.
#[derive(Debug)]
pub(in crate::wasm) struct KeyValueShares {
    node: Arc<Semaphore>,
    apps: Mutex<HashMap<(NamespaceName, AppName), Weak<KeyValueShare>>>,
}

/// What all instances of an app on this node have in common.
#[derive(Debug)]
pub(in crate::wasm) struct KeyValueShare {
    node: Arc<Semaphore>,
    app: Arc<Semaphore>,
    pub(super) cursors: Cursors,
}

impl Default for KeyValueShares {
    fn default() -> Self {
        Self { node: Arc::new(Semaphore::new(NODE_BYTES / UNIT_BYTES)), apps: Mutex::default() }
    }
}

impl KeyValueShares {
    pub(in crate::wasm) fn of(&self, namespace: &NamespaceName, app: &AppName) -> Arc<KeyValueShare> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (namespace.clone(), app.clone());
        if let Some(share) = apps.get(&name).and_then(Weak::upgrade) {
            return share;
        }
        apps.retain(|_, share| share.strong_count() > 0);
        let app = Arc::new(Semaphore::new(APP_BYTES / UNIT_BYTES));
        let share = Arc::new(KeyValueShare { node: self.node.clone(), app, cursors: Cursors::default() });
        apps.insert(name, Arc::downgrade(&share));
        share
    }
}

impl KeyValueShare {
    /// Waits until there is room for an operation among those of the app. It is room until it is dropped.
    pub(super) async fn of_app(&self, op: &KeyValueOp) -> OwnedSemaphorePermit {
        self.app.clone().acquire_many_owned(units(op)).await.expect("it is never closed")
    }

    /// The same among those of the node, for one that has room in its app. To be held by what goes on in any case: a guest that others have taken the CPU from
    /// must not keep it from them.
    pub(super) async fn of_node(&self, of_app: &OwnedSemaphorePermit) -> SemaphorePermit<'_> {
        self.node.acquire_many(of_app.num_permits() as u32).await.expect("it is never closed")
    }
}

/// For what an operation hands over, or the most that it may be answered with.
fn units(op: &KeyValueOp) -> u32 {
    let bytes = match op {
        // The keys of a page are no longer than a value may be.
        KeyValueOp::Get { .. } | KeyValueOp::ListKeys { .. } => VALUE_MAX_BYTES,
        KeyValueOp::GetMany { keys } => {
            keys.len().saturating_mul(VALUE_MAX_BYTES).min(BATCH_VALUES_MAX_BYTES)
        }
        op => op.bytes(),
    };
    // No operation that was checked is larger than the share of its app. One that was not would wait for ever.
    (bytes.clamp(OP_BYTES, APP_BYTES) / UNIT_BYTES) as u32
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use wharf_types::keyvalue::{KEY_MAX_BYTES, KEYS_PER_PAGE, Octets};

    use super::*;

    fn batch(bytes: usize) -> KeyValueOp {
        KeyValueOp::SetMany { pairs: vec![("k".into(), Octets(vec![0; bytes]))] }
    }

    #[test]
    fn an_operation_counts_what_it_brings_or_may_fetch() {
        const { assert!(KEY_MAX_BYTES * KEYS_PER_PAGE <= VALUE_MAX_BYTES) };
        assert_eq!(units(&KeyValueOp::Exists { key: "k".into() }), 64);
        assert_eq!(units(&KeyValueOp::Get { key: "k".into() }), 1024);
        assert_eq!(units(&KeyValueOp::GetMany { keys: vec!["k".into(); 2] }), 2048);
        assert_eq!(units(&KeyValueOp::GetMany { keys: vec!["k".into(); 1000] }), 7 * 1024);
        assert_eq!(units(&batch(4 << 20)), 4096);
        assert_eq!(units(&batch(64 << 20)), 32 * 1024);
    }

    #[tokio::test]
    async fn an_app_waits_for_its_own_and_others_do_not() {
        let shares = KeyValueShares::default();
        let share = |app: &str| shares.of(&NamespaceName::default_namespace(), &app.parse().unwrap());
        let (loud, calm) = (share("loud"), share("calm"));
        let op = batch(8 << 20);
        let mut of_loud = Vec::new();
        for _ in 0..4 {
            of_loud.push(loud.of_app(&op).now_or_never().unwrap());
        }
        let again = share("loud");
        assert!(again.of_app(&op).now_or_never().is_none(), "the instances of an app share");
        let of_node: Vec<_> =
            of_loud.iter().map(|of_app| loud.of_node(of_app).now_or_never().unwrap()).collect();
        let of_calm = calm.of_app(&op).now_or_never().unwrap();
        assert!(calm.of_node(&of_calm).now_or_never().is_some());
        drop(of_node);
        of_loud.pop();
        assert!(again.of_app(&op).now_or_never().is_some());
    }
}
