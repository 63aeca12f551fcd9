//! What guests of this node send by themselves, out of the same budget as the answers of their namespace.

use std::sync::Arc;
use std::time::Duration;

use wharf_types::NamespaceName;

use crate::limit;
use crate::proxy::Shared;

/// The budgets of namespaces, for who sends beside the ingress.
#[derive(Clone)]
pub struct Egress(pub(crate) Arc<Shared>);

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
}
