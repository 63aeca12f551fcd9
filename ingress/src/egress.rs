//! What guests and containers of this node send by themselves, out of the same budget as the answers of their namespace.

use std::sync::Arc;
use std::time::Duration;

use wharf_types::NamespaceName;

use crate::limit;
use crate::proxy::Shared;

/// The budgets of namespaces, for who sends beside the ingress.
#[derive(Clone)]
pub struct Egress(pub(crate) Arc<Shared>);

/// What a namespace may send, and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressBudget {
    pub namespace: NamespaceName,
    pub bytes_per_second: u64,
    /// Octets in all, as long as the namespace has had a limit.
    pub taken: u64,
    /// Whether anybody had to wait since this was asked for last.
    pub has_waited: bool,
}

impl Egress {
    /// How long nothing more of the namespace may leave, at most a second; then is to be asked again. None: something may, or it has no limit.
    pub fn owed(&self, namespace: &NamespaceName) -> Option<Duration> {
        let table = self.0.table.load();
        table.egress(namespace)?.owed(limit::now())
    }

    /// So many octets have left.
    pub fn took(&self, namespace: &NamespaceName, octets: usize) {
        let table = self.0.table.load();
        if let Some(bucket) = table.egress(namespace) {
            bucket.take(limit::now(), octets as u64);
        }
    }

    /// The namespaces that have a limit.
    pub fn budgets(&self) -> Vec<EgressBudget> {
        let table = self.0.table.load();
        let budgets = table.egress_buckets().map(|(namespace, bucket)| {
            let (taken, has_waited) = bucket.look();
            let bytes_per_second = bucket.per_second();
            EgressBudget { namespace: namespace.clone(), bytes_per_second, taken, has_waited }
        });
        budgets.collect()
    }
}
