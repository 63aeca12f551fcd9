//! Has the reports of many workers written together.
//!
//! There is one writer at a time. While it is at work the next reports gather, and share the next transaction: a thousand workers that wait for one of
//! their own each would wait for one another.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wharf_types::node::InstanceReport;
use wharf_types::{NodeId, Timestamp};

use crate::context::Context;
use crate::operations::report::{Said, observe};
use crate::operations::{OperationError, Result};

/// Instances that one transaction is about, unless a single report is about more: no other writer is to wait for longer.
const AT_ONCE: usize = 1000;

#[derive(Default)]
pub(crate) struct Intake {
    waiting: Mutex<Vec<Waiting>>,
    /// Held while something is written.
    turn: tokio::sync::Mutex<()>,
}

struct Waiting {
    said: Said,
    written: oneshot::Sender<Outcome>,
}

enum Outcome {
    Written,
    Failed(OperationError),
    /// It was written with others, and that failed, perhaps because of them.
    FailedTogether,
}

impl Intake {
    /// Writes what a worker has reported. It is written also when nobody waits for that any more.
    pub(crate) async fn take_in(
        context: &Arc<Context>,
        node: NodeId,
        reports: Vec<InstanceReport>,
        now: Timestamp,
    ) -> Result<()> {
        if reports.is_empty() {
            return Ok(());
        }
        let said = Said { node, reports, now };
        let (written, outcome) = oneshot::channel();
        context.intake.lock().push(Waiting { said: said.clone(), written });
        tokio::spawn(write_next(context.clone()));
        match outcome.await {
            Ok(Outcome::Written) => Ok(()),
            Ok(Outcome::Failed(error)) => Err(error),
            Ok(Outcome::FailedTogether) | Err(_) => observe(context, &[said]).await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the reports that came first. Each that came is followed by a call of this, so that none is left.
async fn write_next(context: Arc<Context>) {
    let _turn = context.intake.turn.lock().await;
    let batch = take_batch(&mut context.intake.lock());
    if batch.is_empty() {
        return;
    }
    let (all, waiting): (Vec<Said>, Vec<_>) = batch.into_iter().map(|it| (it.said, it.written)).unzip();
    let mut outcome = Some(observe(&context, &all).await);
    let is_alone = waiting.len() == 1;
    for written in waiting {
        let told = match &mut outcome {
            Some(Ok(())) => Outcome::Written,
            failed => match failed.take().filter(|_| is_alone) {
                Some(Err(error)) => Outcome::Failed(error),
                _ => Outcome::FailedTogether,
            },
        };
        // Who has gone does not need to know.
        let _ = written.send(told);
    }
}

/// In their order, one of each node: what a node says next is merged with what it has said before.
fn take_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    let (mut nodes, mut instances) = (HashSet::new(), 0);
    let fits = |it: &mut Waiting| {
        let is_next = instances < AT_ONCE && nodes.insert(it.said.node);
        instances += if is_next { it.said.reports.len() } else { 0 };
        is_next
    };
    waiting.extract_if(.., fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::InstanceId;
    use wharf_types::state::{Health, InstanceState};

    fn waiting(node: NodeId, instances: usize) -> Waiting {
        let report = |_| InstanceReport {
            id: InstanceId::new(),
            replaces: None,
            state: InstanceState::Running,
            health: Health::Healthy,
            reason: None,
            restarts: 0,
            exit_code: None,
        };
        let reports = (0..instances).map(report).collect();
        Waiting { said: Said { node, reports, now: Timestamp::now() }, written: oneshot::channel().0 }
    }

    fn instances(batch: &[Waiting]) -> Vec<usize> {
        batch.iter().map(|it| it.said.reports.len()).collect()
    }

    #[test]
    fn what_a_node_says_next_is_not_written_together_with_what_it_said_before() {
        let (a, b) = (NodeId::new(), NodeId::new());
        let mut queue = vec![waiting(a, 1), waiting(a, 2), waiting(b, 3), waiting(a, 4)];
        assert_eq!(instances(&take_batch(&mut queue)), [1, 3]);
        assert_eq!(instances(&take_batch(&mut queue)), [2]);
        assert_eq!(instances(&take_batch(&mut queue)), [4]);
        assert!(take_batch(&mut queue).is_empty());
    }

    #[test]
    fn a_batch_has_an_end_and_a_report_that_is_larger_goes_all_the_same() {
        let mut queue: Vec<Waiting> =
            [AT_ONCE - 1, 5, 1, 2 * AT_ONCE, 1].map(|count| waiting(NodeId::new(), count)).into();
        assert_eq!(instances(&take_batch(&mut queue)), [AT_ONCE - 1, 5]);
        assert_eq!(instances(&take_batch(&mut queue)), [1, 2 * AT_ONCE]);
        assert_eq!(instances(&take_batch(&mut queue)), [1]);
    }
}
