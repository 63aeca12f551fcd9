//! What guests print, on its way to the control plane.
//!
//! [`LineBuffer`] makes records of a guest's output, [`LogSink`] holds them for a moment and never makes a guest wait,
//! [`LogShipper`] sends them. What does not fit is dropped and counted, and the count takes its place in the log. The sink
//! also remembers the last lines of every instance, so that a failure can be reported in the guest's own words.

mod line;
mod ship;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wharf_types::InstanceId;
use wharf_types::log::{LogRecord, LogStream};

pub use self::line::LineBuffer;
pub use self::ship::LogShipper;

/// Records that may wait to be sent, in all.
const RECORDS_MAX: usize = 4096;
/// Octets of messages that may wait to be sent, in all.
const BYTES_MAX: usize = 8 << 20;
/// Of these, what one instance may take: a chatty one leaves room for the others.
const SHARE: usize = 4;
/// Lines of an instance that are remembered.
const TAIL_LINES: usize = 20;
/// Of a remembered line, only so much: they are kept for every instance.
const TAIL_LINE_BYTES: usize = 512;

/// Takes records from everywhere in the worker; cheap to clone.
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
        self.ring().push(record);
        self.0.filled.notify_one();
    }

    /// The last lines that an instance printed, oldest first. What the platform said is not among them.
    pub fn tail(&self, instance: InstanceId) -> Vec<String> {
        let ring = self.ring();
        ring.instances.get(&instance).map(|state| state.tail.iter().cloned().collect()).unwrap_or_default()
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

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<LogRecord>,
    bytes: usize,
    instances: HashMap<InstanceId, InstanceLog>,
    /// Instances with dropped records, in the order in which they began to drop.
    dropping: VecDeque<InstanceId>,
}

#[derive(Debug, Default)]
struct InstanceLog {
    tail: VecDeque<String>,
    waiting: usize,
    waiting_bytes: usize,
    dropped: u64,
    /// The last record that was dropped, for the marker to stand in its place.
    last_dropped: Option<LogRecord>,
    /// Its tail is not needed any more.
    forgotten: bool,
}

impl Ring {
    fn push(&mut self, record: LogRecord) {
        let size = record.message.len();
        let state = self.instances.entry(record.instance).or_default();
        if record.stream != LogStream::Platform {
            state.remember(&record.message);
        }
        let full = self.records.len() >= RECORDS_MAX || self.bytes + size > BYTES_MAX;
        let greedy = state.waiting >= RECORDS_MAX / SHARE || state.waiting_bytes + size > BYTES_MAX / SHARE;
        // Once something was dropped, everything is until the marker has gone out: so it stands at the gap.
        if full || greedy || state.dropped > 0 {
            if state.dropped == 0 {
                self.dropping.push_back(record.instance);
            }
            state.dropped += 1;
            state.last_dropped = Some(record);
            return;
        }
        state.waiting += 1;
        state.waiting_bytes += size;
        self.bytes += size;
        self.records.push_back(record);
    }

    fn take(&mut self, max: usize) -> Vec<LogRecord> {
        let mut taken: Vec<LogRecord> = self.records.drain(..self.records.len().min(max)).collect();
        for record in &taken {
            self.bytes -= record.message.len();
            if let Some(state) = self.instances.get_mut(&record.instance) {
                state.waiting -= 1;
                state.waiting_bytes -= record.message.len();
            }
        }
        // An instance's marker goes out as soon as nothing that was said before the gap is left.
        for _ in 0..self.dropping.len() {
            let Some(instance) = self.dropping.pop_front() else { break };
            match self.instances.get_mut(&instance) {
                Some(state) if state.waiting == 0 && taken.len() < max => taken.extend(state.marker()),
                Some(_) => self.dropping.push_back(instance),
                None => {}
            }
        }
        for record in &taken {
            self.clean(record.instance);
        }
        taken
    }

    fn forget(&mut self, instance: InstanceId) {
        if let Some(state) = self.instances.get_mut(&instance) {
            state.tail = VecDeque::new();
            state.forgotten = true;
        }
        self.clean(instance);
    }

    fn clean(&mut self, instance: InstanceId) {
        if self.instances.get(&instance).is_some_and(|state| state.forgotten && state.is_idle()) {
            self.instances.remove(&instance);
        }
    }
}

impl InstanceLog {
    fn is_idle(&self) -> bool {
        self.waiting == 0 && self.dropped == 0
    }

    fn remember(&mut self, message: &str) {
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(message[..message.floor_char_boundary(TAIL_LINE_BYTES)].to_owned());
    }

    fn marker(&mut self) -> Option<LogRecord> {
        let dropped = std::mem::take(&mut self.dropped);
        let last = self.last_dropped.take()?;
        let message = format!("dropped {dropped} {}", if dropped == 1 { "line" } else { "lines" });
        Some(LogRecord { stream: LogStream::Platform, message, ..last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wharf_types::{NamespaceName, Timestamp};

    pub(super) fn record(instance: InstanceId, seq: u64, message: &str) -> LogRecord {
        LogRecord {
            time: Timestamp::now(),
            namespace: NamespaceName::default_namespace(),
            app: "hello".parse().unwrap(),
            release: 1,
            instance,
            stream: LogStream::Stdout,
            seq,
            message: message.to_owned(),
        }
    }

    #[test]
    fn the_last_lines_are_remembered_until_they_are_forgotten() {
        let (sink, id) = (LogSink::new(), InstanceId::new());
        for seq in 0..30 {
            sink.push(record(id, seq, &seq.to_string()));
        }
        let tail = sink.tail(id);
        assert_eq!((tail.len(), tail[0].as_str(), tail[19].as_str()), (20, "10", "29"));
        sink.forget(id);
        assert_eq!(sink.tail(id), Vec::<String>::new());
        assert_eq!(sink.ring().take(100).len(), 30);
        assert!(sink.ring().instances.is_empty());
    }

    #[test]
    fn a_chatty_instance_leaves_room_for_others_and_its_gap_is_marked() {
        let mut ring = Ring::default();
        let (chatty, quiet) = (InstanceId::new(), InstanceId::new());
        for seq in 0..10_000 {
            ring.push(record(chatty, seq, "x"));
        }
        ring.push(record(quiet, 0, "hello"));
        let taken = ring.take(usize::MAX);
        assert_eq!(taken.len(), 1024 + 1 + 1);
        assert_eq!(taken[1024].message, "hello");
        let marker = &taken[1025];
        assert_eq!((marker.message.as_str(), marker.stream), ("dropped 8976 lines", LogStream::Platform));
        assert_eq!(marker.seq, 9999);
        ring.push(record(chatty, 10_000, "y"));
        assert_eq!(ring.take(usize::MAX)[0].message, "y");
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_a_record() {
        let sink = LogSink::new();
        let taken = tokio::spawn({
            let sink = sink.clone();
            async move { sink.take(10).await }
        });
        tokio::task::yield_now().await;
        sink.push(record(InstanceId::new(), 0, "hello"));
        assert_eq!(taken.await.unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn every_record_is_taken_in_order_or_counted(
            said in proptest::collection::vec((0..3_usize, 0..40_000_usize), 0..600),
            take_every in 1..200_usize,
            take_max in 1..100_usize,
        ) {
            let ids: Vec<InstanceId> = (0..3).map(|_| InstanceId::new()).collect();
            let mut ring = Ring::default();
            let mut taken = Vec::new();
            for (seq, (which, size)) in said.iter().enumerate() {
                ring.push(record(ids[*which], seq as u64, &"x".repeat(*size)));
                prop_assert!(ring.records.len() <= RECORDS_MAX && ring.bytes <= BYTES_MAX);
                if seq % take_every == 0 {
                    taken.extend(ring.take(take_max));
                }
            }
            loop {
                let more = ring.take(take_max);
                prop_assert!(more.len() <= take_max);
                if more.is_empty() { break }
                taken.extend(more);
            }
            let mut count = 0;
            for id in &ids {
                let seqs: Vec<u64> = taken.iter().filter(|record| record.instance == *id).map(|record| record.seq).collect();
                prop_assert!(seqs.is_sorted_by(|a, b| a < b));
            }
            for record in &taken {
                count += match record.stream {
                    LogStream::Platform => record.message.split(' ').nth(1).unwrap().parse::<usize>().unwrap(),
                    _ => 1,
                };
            }
            prop_assert_eq!(count, said.len());
            prop_assert_eq!(ring.bytes, 0);
        }
    }
}
