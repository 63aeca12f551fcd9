//! Requests that take effect once, however often they are sent: by their `Idempotency-Key`, a repetition gets the first reply.

use wharf_types::api::Deployed;
use wharf_types::problem::ProblemCode;
use wharf_types::{AppId, Problem};

use super::{Asked, Result};
use crate::conditions;
use crate::store::idempotency::Found;
use crate::store::{self, Conn};

/// A key, and a hash of the whole request that it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Once {
    pub(crate) key: String,
    pub(crate) request_hash: String,
}

impl Once {
    /// The key stands for another request.
    pub(crate) fn used_otherwise(&self) -> Problem {
        let key = &self.key;
        let detail = format!("the Idempotency-Key `{key}` was used for another request; choose a new one");
        Problem::new(ProblemCode::Conflict, detail)
    }
}

/// The reply that the same request got before. To be asked before anything is checked: it was valid then.
pub(super) async fn replay(conn: &mut Conn, asked: &Asked) -> Result<Option<Deployed>> {
    let Some(once) = &asked.once else { return Ok(None) };
    conditions::note_looked_up();
    let Some(app) = store::app::find(conn, &asked.namespace, &asked.app).await? else { return Ok(None) };
    match store::idempotency::find(conn, app.id, &once.key, &once.request_hash).await? {
        Some(Found::Reply(reply)) => Ok(Some(*reply)),
        Some(Found::Other) => Err(once.used_otherwise().into()),
        None => Ok(None),
    }
}

/// Keeps the reply, in the transaction that the request is carried out in.
pub(super) async fn remember(conn: &mut Conn, app: AppId, asked: &Asked, reply: &Deployed) -> Result<()> {
    if let Some(Once { key, request_hash }) = &asked.once {
        store::idempotency::put(conn, app, key, request_hash, reply, asked.now).await?;
    }
    Ok(())
}
