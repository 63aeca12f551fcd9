//! The outbound sides of the releases that run on this node.
//!
//! The instances of a release share one: its pooled connections serve them all, and what they may have open at once does not grow with their
//! number. Whoever has other grants is never given connections of these.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use wharf_types::node::AssignedInstance;
use wharf_types::{AppName, NamespaceName};

use super::shares::Shares;
use super::{Outbound, connect, names};

/// All that the outbound side of an instance follows from. Jobs may be called as an app is, and have grants of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Of {
    namespace: NamespaceName,
    app: AppName,
    release: u64,
    allow: Vec<String>,
    names: BTreeMap<String, AppName>,
}

impl From<&AssignedInstance> for Of {
    fn from(assigned: &AssignedInstance) -> Self {
        Self {
            namespace: assigned.namespace.clone(),
            app: assigned.app.clone(),
            release: assigned.release,
            allow: assigned.spec.outbound.allow.clone(),
            names: assigned.spec.names.clone(),
        }
    }
}

/// One for each release, as long as an instance has it.
pub(crate) struct Outbounds {
    known: Mutex<HashMap<Of, Weak<Outbound>>>,
    connections: Shares,
    lookups: Shares,
}

impl Default for Outbounds {
    fn default() -> Self {
        Self { known: Mutex::default(), connections: connect::shares(), lookups: names::shares() }
    }
}

impl Outbounds {
    /// The one of a release, which is made where there is none.
    pub(crate) fn of(&self, of: Of, make: impl FnOnce() -> Outbound) -> Arc<Outbound> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outbound) = known.get(&of).and_then(Weak::upgrade) {
            return outbound;
        }
        known.retain(|_, outbound| outbound.strong_count() > 0);
        let release = (of.namespace.clone(), of.app.clone(), of.release);
        let outbound = make().sharing(self.connections.of(&release), self.lookups.of(&release));
        let outbound = Arc::new(outbound);
        known.insert(of, Arc::downgrade(&outbound));
        outbound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(release: u64, allow: &[&str]) -> Of {
        Of {
            namespace: "team".parse().unwrap(),
            app: "web".parse().unwrap(),
            release,
            allow: allow.iter().map(|grant| (*grant).to_owned()).collect(),
            names: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn the_instances_of_a_release_share_one_and_nobody_with_other_grants_does() {
        let outbounds = Outbounds::default();
        let get = |of: Of| outbounds.of(of.clone(), || Outbound::new(&of.allow, None));
        let grants = ["https://api.example.com"];
        let first = get(of(1, &grants));
        assert!(Arc::ptr_eq(&first, &get(of(1, &grants))));
        assert!(!Arc::ptr_eq(&first, &get(of(1, &["https://*"]))));
        assert!(!Arc::ptr_eq(&first, &get(of(2, &grants))));
        drop(first);
        drop(get(of(3, &grants)));
        assert_eq!(outbounds.known.lock().unwrap().len(), 1, "what no instance has is forgotten");
    }
}
