//! Writes down what whoever leads next has to know of the nodes: who was given up, and when the others were seen.
//!
//! That a node was given up, or is back, is written at once. When the others were seen is written once a minute, for all of them together: a
//! heartbeat is to cost the disk nothing, and whoever comes later wants to know it to the minute.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wharf_types::Timestamp;

use super::Unwritten;
use crate::context::Context;
use crate::reconcile::chain;
use crate::store;

const LOOK: Duration = Duration::from_millis(500);
const SEEN_EVERY: Duration = Duration::from_secs(60);
/// Nodes that one transaction is about: no other writer is to wait for long.
const AT_ONCE: usize = 200;

pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen_written = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = looks.tick() => {}
        }
        let now = std::time::Instant::now();
        let mut unwritten = context.nodes.unwritten_at(now);
        unwritten.truncate(AT_ONCE);
        let is_seen_due = seen_written.elapsed() >= SEEN_EVERY && context.nodes.are_all_heard(now);
        if unwritten.is_empty() && !is_seen_due {
            continue;
        }
        match write(&context, &unwritten, is_seen_due).await {
            Ok(()) if is_seen_due => seen_written = Instant::now(),
            Ok(()) => {}
            Err(error) => debug!("which nodes are there is not written yet: {}", chain(&error)),
        }
    }
}

async fn write(context: &Context, unwritten: &[Unwritten], is_seen_due: bool) -> store::Result<()> {
    let mut tx = context.write_as_leader().await?;
    for node in unwritten {
        store::node::set_given_up(&mut tx, node.node, node.given_up, node.seen_at).await?;
    }
    if is_seen_due {
        store::node::set_all_seen(&mut tx, Timestamp::now()).await?;
    }
    tx.commit().await?;
    // A node that has registered meanwhile is another than was written, and comes again with the next look.
    unwritten.iter().for_each(|node| context.nodes.wrote(node));
    Ok(())
}
