//! The secrets that instances use, opened, each once: what is delivered with the assignments of the nodes that run them.

use std::collections::HashMap;

use tracing::error;
use wharf_types::SecretVersionId;
use wharf_types::secret::{DeliveredSecret, SecretContent};

use super::publish::Publisher;
use crate::context::Context;
use crate::store;

#[derive(Default)]
pub struct Deliveries {
    opened: HashMap<SecretVersionId, SecretContent>,
}

impl Deliveries {
    /// Opens what is newly used, and forgets what nobody uses any more.
    pub(super) async fn update(&mut self, context: &Context, publisher: &mut Publisher) -> store::Result<()> {
        let mut opened = Vec::new();
        let missing = self.missing(publisher);
        if !missing.is_empty() {
            let mut tx = context.store.read().await?;
            for id in missing {
                opened.push((id, open(&mut tx, context, id).await?));
            }
        }
        self.take_in(opened, publisher);
        Ok(())
    }

    /// What is newly used, and has to be opened.
    pub fn missing(&self, publisher: &Publisher) -> Vec<SecretVersionId> {
        let is_missing = |id: &SecretVersionId| publisher.uses(*id) && !self.opened.contains_key(id);
        publisher.turned_secrets().into_iter().filter(is_missing).collect()
    }

    /// Takes in what was missing, and forgets what nobody uses any more.
    pub fn take_in(&mut self, opened: Vec<(SecretVersionId, SecretContent)>, publisher: &mut Publisher) {
        for id in publisher.turned_secrets().into_iter().filter(|id| !publisher.uses(*id)) {
            self.opened.remove(&id);
        }
        self.opened.extend(opened);
        publisher.secrets_settled();
    }

    pub fn get(&self, id: SecretVersionId) -> Option<DeliveredSecret> {
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
