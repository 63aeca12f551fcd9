//! Another CA takes the place of the one that signs, while everything runs.
//!
//! First it is believed by all beside the one before; then it signs, and every node and server gets a certificate of it; then the one
//! before is believed no more. Each step waits until every node has said that it has taken up what the step before has changed, or for so
//! long that a node which has not cannot have a valid certificate any more. [`may_go_on`] decides, the leader acts.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wharf_pki::{Authority, NODE_LIFETIME, PkiError};
use wharf_types::{NodeId, Timestamp};

use super::{Current, row_of};
use crate::context::{Context, Joining};
use crate::reconcile::chain;
use crate::store::authority::{self as table, Stage};
use crate::store::{StoreError, Tx};

const LOOK_EVERY: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 1000 });
/// How long each step takes at least: other servers have heard of the step before by then.
const SETTLE: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 5000 });
/// Nodes that are silent for so long are not waited for, where somebody has said so.
const FORCED: Duration = Duration::from_secs(30);
/// Longer than any certificate is valid: a node that has not renewed its own by then has to join again in any case.
const OUTLIVED: Duration = NODE_LIFETIME.saturating_add(Duration::from_secs(3600));

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) node: NodeId,
    pub(crate) ready: bool,
    /// Whether it has taken up the newest CAs, and a certificate of the one that signs.
    pub(crate) holds: bool,
}

/// Whether the next step may follow one that was taken at `since`.
pub(crate) fn may_go_on(now: Timestamp, since: Timestamp, forced: bool, nodes: &[Holder]) -> bool {
    let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let lacks = |node: &&Holder| !node.holds;
    if elapsed < SETTLE {
        return false;
    }
    let mut lacking = nodes.iter().filter(lacks);
    elapsed >= OUTLIVED || lacking.all(|node| forced && elapsed >= FORCED && !node.ready)
}

/// Nodes that may have something to take up.
pub(crate) fn holders(context: &Context, joining: &Joining) -> Vec<Holder> {
    let nodes = context.nodes.list().into_iter();
    // The worker of a `wharf up` has no certificate.
    let has_certificate = nodes.filter(|node| node.registration.address.is_some());
    has_certificate
        .map(|node| Holder { node: node.id, ready: node.ready, holds: joining.authorities.holds(node.id) })
        .collect()
}

/// Why no rotation begins.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    #[error(
        "another CA is being brought in already; `wharf server ca` says what it waits for, and `--force` waits for no silent node"
    )]
    UnderWay,
    #[error("this control plane has no key for secrets, with which the CA's own would be sealed")]
    NoKey,
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the next CA, in a transaction that the caller commits; or, if that is under way, only lets it wait for silent nodes no more.
pub(crate) async fn begin(
    tx: &mut Tx,
    context: &Context,
    force: bool,
    now: Timestamp,
) -> Result<(), RotateError> {
    let is_under_way = table::list(tx).await?.len() > 1;
    if is_under_way && !force {
        return Err(RotateError::UnderWay);
    }
    if !is_under_way {
        let made = Authority::generate(now)?;
        let row =
            row_of(&made, &context.secret_keys.keyring(), Stage::Next, now).ok_or(RotateError::NoKey)?;
        table::create(tx, &row).await?;
    }
    if force {
        table::force(tx).await?;
    }
    Ok(())
}

/// Goes on with a rotation whenever it may, while this control plane leads.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let Some(joining) = context.joining.get() else { continue };
        let current = joining.authorities.current();
        if current.known.len() < 2 {
            continue;
        }
        if let Err(error) = step(&context, joining, &current, Timestamp::now()).await {
            warn!("cannot go on with the next CA, trying again: {}", chain(&error));
        }
    }
}

async fn step(
    context: &Context,
    joining: &Joining,
    current: &Current,
    now: Timestamp,
) -> Result<(), StoreError> {
    let since = current.known.iter().map(|known| known.changed_at).max().unwrap_or(now);
    let forced = current.known.iter().any(|known| known.forced);
    if !may_go_on(now, since, forced, &holders(context, joining)) {
        return Ok(());
    }
    let of = |stage| current.known.iter().filter(move |known| known.stage == stage);
    let mut tx = context.write_as_leader().await?;
    if let Some(next) = of(Stage::Next).next() {
        for signs in of(Stage::Signs) {
            table::advance(&mut tx, &signs.id, (Stage::Signs, Stage::Old), now).await?;
        }
        table::advance(&mut tx, &next.id, (Stage::Next, Stage::Signs), now).await?;
        info!(
            "the CA {} signs from now on; the one before is believed until every node has renewed",
            next.id
        );
    } else {
        for old in of(Stage::Old) {
            table::delete(&mut tx, &old.id).await?;
            info!("the CA {} is believed no more", old.id);
        }
    }
    tx.commit().await?;
    joining.authorities.changed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn node(ready: bool, holds: bool) -> Holder {
        Holder { node: NodeId::new(), ready, holds }
    }

    fn goes_on(after: Duration, forced: bool, nodes: &[Holder]) -> bool {
        let since = Timestamp::UNIX_EPOCH;
        may_go_on(since.checked_add(after).unwrap(), since, forced, nodes)
    }

    #[test]
    fn a_step_follows_when_every_node_has_taken_up_the_one_before() {
        let (done, waits) = (node(true, true), node(true, false));
        assert!(!goes_on(SETTLE / 2, false, &[done]), "other servers may not know of it");
        assert!(goes_on(SETTLE, false, &[done, node(false, true)]));
        assert!(goes_on(SETTLE, false, &[]));
        assert!(!goes_on(HOUR, false, &[done, waits]));
        assert!(!goes_on(HOUR, true, &[done, waits]), "one that is there is waited for");
    }

    #[test]
    fn a_silent_node_is_waited_for_until_its_certificate_has_run_out_or_somebody_does_not_want_to() {
        let nodes = [node(true, true), node(false, false)];
        assert!(!goes_on(HOUR * 24, false, &nodes));
        assert!(goes_on(HOUR * 25, false, &nodes));
        assert!(!goes_on(SETTLE, true, &nodes));
        assert!(goes_on(FORCED, true, &nodes));
    }
}
