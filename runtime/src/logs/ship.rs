//! Sends what the sink holds.

use std::time::Duration;

use tokio::select;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use wharf_types::log::LogRecord;

use super::LogSink;
use crate::backoff::{Jitter, Reconnect};
use crate::control::ControlClient;

/// Records of one batch.
const BATCH_RECORDS: usize = 512;
/// Batches begin at least this far apart. After a longer silence the first one goes at once.
const BATCH_PERIOD: Duration = Duration::from_millis(100);

/// The task that brings records to the control plane, in order.
#[derive(Debug)]
pub struct LogShipper {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl LogShipper {
    pub fn spawn(sink: LogSink, control: ControlClient) -> Self {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(ship(sink, control, cancel.clone()));
        Self { cancel, task }
    }

    /// Sends what is left, for no longer than `grace`.
    pub async fn shutdown(mut self, grace: Duration) {
        self.cancel.cancel();
        if timeout(grace, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn ship(sink: LogSink, control: ControlClient, cancel: CancellationToken) {
    loop {
        let batch = select! {
            biased;
            batch = sink.take(BATCH_RECORDS) => batch,
            () = cancel.cancelled() => return,
        };
        let began = Instant::now();
        // Only one batch is out at a time: its retries keep the order, and the sink's bounds hold for the rest.
        send(&control, &batch).await;
        let full = batch.len() == BATCH_RECORDS;
        if !full && !cancel.is_cancelled() {
            select! {
                () = sleep_until(began + BATCH_PERIOD) => {}
                () = cancel.cancelled() => {}
            }
        }
    }
}

/// Sends until it is taken, or refused for good.
async fn send(control: &ControlClient, batch: &[LogRecord]) {
    let mut reconnect = Reconnect::new(Jitter::seeded(batch.first().map_or(0, |record| record.seq)));
    while let Err(error) = control.send_logs(batch).await {
        if !error.is_retryable() {
            warn!("the control plane refused {} log records, they are lost: {error}", batch.len());
            return;
        }
        sleep(reconnect.next_wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::becomes;
    use crate::logs::tests::record;
    use crate::session::fake_control::FakeControl;
    use wharf_types::InstanceId;

    #[tokio::test]
    async fn records_arrive_in_order_although_batches_fail() {
        let (control, sink, id) = (FakeControl::start().await, LogSink::new(), InstanceId::new());
        control.refuse_logs(2);
        let shipper = LogShipper::spawn(sink.clone(), control.client());
        for seq in 0..1000 {
            sink.push(record(id, seq, "hello"));
        }
        let logs = becomes(&mut control.logs(), |logs| logs.len() == 1000).await;
        assert!(logs.is_sorted_by_key(|record| record.seq));
        shipper.shutdown(Duration::from_secs(10)).await;
    }

    #[tokio::test]
    async fn shutdown_sends_what_is_left() {
        let (control, sink, id) = (FakeControl::start().await, LogSink::new(), InstanceId::new());
        let shipper = LogShipper::spawn(sink.clone(), control.client());
        sink.push(record(id, 0, "goodbye"));
        shipper.shutdown(Duration::from_secs(10)).await;
        assert_eq!(control.logs().borrow().len(), 1);
    }
}
