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
use crate::secrets::Mask;

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

    /// From now on, and until [`Self::forget`], these values are not quoted of what an instance prints. Its log has them.
    pub(crate) fn hide(&self, instance: InstanceId, mask: Mask) {
        self.ring().hide(instance, mask);
    }

    /// Something that an instance has said, to be quoted in a reason.
    pub(crate) fn quotable(&self, instance: InstanceId, said: &str) -> String {
        let mask = self.ring().mask(instance);
        mask.over(said)
    }

    /// The last lines that an instance printed, oldest first, as they may be quoted. What the platform said is not among them.
    pub fn tail(&self, instance: InstanceId) -> Vec<String> {
        let (lines, mask) = {
            let ring = self.ring();
            (ring.tail(instance), ring.mask(instance))
        };
        lines.iter().map(|line| mask.over(line)).collect()
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
    use wharf_types::secret::SecretValue;
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

    #[test]
    fn last_lines_are_quoted_without_what_is_hidden_and_sent_as_they_are() {
        let (sink, id) = (LogSink::new(), InstanceId::new());
        sink.ring().attach(id);
        let hidden = SecretValue::from("hush, hush".to_owned());
        sink.hide(id, std::iter::once(hidden).collect());
        sink.push(record(id, 0, "the password is hush, hush"));
        assert_eq!(sink.tail(id), ["the password is ***"]);
        assert_eq!(sink.quotable(id, "hush, hush!"), "***!");
        assert_eq!(sink.quotable(InstanceId::new(), "hush, hush!"), "hush, hush!", "of another");
        assert_eq!(sink.ring().take(1)[0].message, "the password is hush, hush");
        sink.forget(id);
        assert_eq!(sink.quotable(id, "hush, hush!"), "hush, hush!", "nothing of it is kept");
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
