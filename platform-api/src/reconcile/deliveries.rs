//! The secrets that instances use, opened, each once: what is delivered with the assignments of the nodes that run them.

use std::collections::{BTreeSet, HashMap};

use tracing::error;
use wharf_types::SecretVersionId;
use wharf_types::node::AssignedInstance;
use wharf_types::secret::{DeliveredSecret, SecretContent};

use super::fleet::Fleet;
use super::jobs::Jobs;
use crate::context::Context;
use crate::store;

#[derive(Default)]
pub(super) struct Deliveries {
    opened: HashMap<SecretVersionId, SecretContent>,
}

impl Deliveries {
    /// Opens what is newly used, and forgets what nobody uses any more.
    pub(super) async fn update(
        &mut self,
        context: &Context,
        fleet: &Fleet,
        jobs: &Jobs,
    ) -> store::Result<()> {
        let of_apps = fleet.instances().flat_map(|(_, release, _)| release.secrets.values().copied());
        let used: BTreeSet<SecretVersionId> = of_apps.chain(jobs.secrets()).collect();
        self.opened.retain(|id, _| used.contains(id));
        let unknown: Vec<SecretVersionId> =
            used.into_iter().filter(|id| !self.opened.contains_key(id)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut tx = context.store.read().await?;
        for id in unknown {
            self.opened.insert(id, open(&mut tx, context, id).await?);
        }
        Ok(())
    }

    /// What these instances use.
    pub(super) fn to(&self, instances: &[AssignedInstance]) -> Vec<DeliveredSecret> {
        let used: BTreeSet<SecretVersionId> =
            instances.iter().flat_map(|instance| instance.secrets.values().copied()).collect();
        let delivered = |id| Some(DeliveredSecret { id, content: self.opened.get(&id)?.clone() });
        used.into_iter().filter_map(delivered).collect()
    }
}

async fn open(
    conn: &mut store::Conn,
    context: &Context,
    id: SecretVersionId,
) -> store::Result<SecretContent> {
    let Some(row) = store::secret::get(conn, id).await? else {
        return Ok(SecretContent::Unreadable("a secret of the release is no longer kept".to_owned()));
    };
    match context.secret_keys.keyring().open(&row) {
        Ok(value) => Ok(SecretContent::Value(value)),
        Err(problem) => {
            let text = format!("the secret `{}` (version {}) {problem}", row.name, row.version);
            error!("{text}");
            Ok(SecretContent::Unreadable(text))
        }
    }
}
