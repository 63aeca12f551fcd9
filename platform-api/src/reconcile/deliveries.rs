//! The secrets that instances use, opened, each once: what is delivered with the assignments of the nodes that run them.

use std::collections::HashMap;

use tracing::error;
use wharf_types::SecretVersionId;
use wharf_types::secret::{DeliveredSecret, SecretContent};

use super::publish::Publisher;
use crate::context::Context;
use crate::store;

#[derive(Default)]
pub(super) struct Deliveries {
    opened: HashMap<SecretVersionId, SecretContent>,
}

impl Deliveries {
    /// Opens what is newly used, and forgets what nobody uses any more.
    pub(super) async fn update(&mut self, context: &Context, publisher: &mut Publisher) -> store::Result<()> {
        let (used, unused): (Vec<_>, Vec<_>) =
            publisher.turned_secrets().into_iter().partition(|id| publisher.uses(*id));
        let unknown: Vec<SecretVersionId> =
            used.into_iter().filter(|id| !self.opened.contains_key(id)).collect();
        if !unknown.is_empty() {
            let mut tx = context.store.read().await?;
            for id in unknown {
                self.opened.insert(id, open(&mut tx, context, id).await?);
            }
        }
        for id in unused {
            self.opened.remove(&id);
        }
        publisher.secrets_settled();
        Ok(())
    }

    pub(super) fn get(&self, id: SecretVersionId) -> Option<DeliveredSecret> {
        Some(DeliveredSecret { id, content: self.opened.get(&id)?.clone() })
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
