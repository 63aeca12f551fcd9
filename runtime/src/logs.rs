//! What guests print, on its way to the control plane.
//!
//! [`LineBuffer`] makes lines of a guest's output, [`LogSink`] holds them for a moment and never makes a guest wait,
//! [`LogShipper`] sends them. What does not fit is dropped and counted, and the count takes its place in the log. The sink
//! also remembers the last lines of every instance, so that a failure can be reported in the guest's own words.

mod line;
mod ring;
mod ship;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wharf_types::InstanceId;
use wharf_types::log::LogRecord;

pub use self::line::LineBuffer;
use self::ring::{Line, Origin, Ring};
pub use self::ship::LogShipper;

/// Takes lines from everywhere in the worker; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LogSink(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ring: Mutex<Ring>,
    filled: Notify,
}

impl LogSink {
    pub fn new() -> Self {
        Self::default()
    }

    /// Never blocks and never fails: what does not fit is counted as dropped.
    pub fn push(&self, record: LogRecord) {
        let LogRecord { time, namespace, app, job, release, instance, stream, seq, message } = record;
        let origin = Origin { app: (namespace, app), job, release, instance, stream };
        self.say(Line { origin: &origin, time, seq, message: message.into() });
    }

    fn say(&self, line: Line<'_>) {
        self.ring().push(line);
        self.0.filled.notify_one();
    }

    /// The last lines that an instance printed, oldest first. What the platform said is not among them.
    pub fn tail(&self, instance: InstanceId) -> Vec<String> {
        self.ring().tail(instance)
    }

    /// Forgets the last lines of an instance. Records that wait to be sent are still sent.
    pub fn forget(&self, instance: InstanceId) {
        self.ring().forget(instance);
    }

    /// Waits for records and takes at most `max`, in order.
    async fn take(&self, max: usize) -> Vec<LogRecord> {
        loop {
            let records = self.ring().take(max);
            if !records.is_empty() {
                return records;
            }
            self.0.filled.notified().await;
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::log::LogStream;
    use wharf_types::{NamespaceName, Timestamp};

    pub(super) fn record(instance: InstanceId, seq: u64, message: &str) -> LogRecord {
        LogRecord {
            time: Timestamp::now(),
            namespace: NamespaceName::default_namespace(),
            app: "hello".parse().unwrap(),
            job: None,
            release: 1,
            instance,
            stream: LogStream::Stdout,
            seq,
            message: message.to_owned(),
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_a_record() {
        let sink = LogSink::new();
        let taken = tokio::spawn({
            let sink = sink.clone();
            async move { sink.take(10).await }
        });
        tokio::task::yield_now().await;
        let record = record(InstanceId::new(), 0, "hello");
        sink.push(record.clone());
        assert_eq!(taken.await.unwrap(), [record]);
    }
}
