//! What waits to be sent, who may have how much of it, and the last lines of each instance.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use wharf_types::log::{LogRecord, LogStream};
use wharf_types::{AppName, InstanceId, JobId, NamespaceName, Timestamp};

use crate::secrets::Mask;

/// Records that may wait to be sent, in all.
const RECORDS_MAX: usize = 4096;
/// Octets of messages that may wait to be sent, in all.
const BYTES_MAX: usize = 8 << 20;
/// What an app may have waiting when others have filled the rest.
const LITTLE_RECORDS: usize = 16;
const LITTLE_BYTES: usize = 32 << 10;
/// Of what the platform says of an instance that floods its log, so many lines are kept in spite of that: among them is why
/// the flood has ended.
const KEPT_LINES: usize = 16;
/// Lines of an instance that are remembered.
const TAIL_LINES: usize = 20;
/// Of a remembered line, only so much: they are kept for every instance.
const TAIL_LINE_BYTES: usize = 512;

/// Who says something.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) app: (NamespaceName, AppName),
    pub(super) job: Option<JobId>,
    pub(super) release: u64,
    pub(super) instance: InstanceId,
    pub(super) stream: LogStream,
}

/// Something that was said. It becomes a record only when there is room for one: a flood should cost little.
pub(super) struct Line<'a> {
    pub(super) origin: &'a Origin,
    pub(super) time: Timestamp,
    pub(super) seq: u64,
    pub(super) message: Cow<'a, str>,
}

impl Line<'_> {
    fn into_record(self) -> LogRecord {
        let (namespace, app) = self.origin.app.clone();
        LogRecord {
            time: self.time,
            namespace,
            app,
            job: self.origin.job,
            release: self.origin.release,
            instance: self.origin.instance,
            stream: self.origin.stream,
            seq: self.seq,
            message: self.message.into_owned(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    records: VecDeque<LogRecord>,
    bytes: usize,
    shares: HashMap<(NamespaceName, AppName), Share>,
    instances: HashMap<InstanceId, InstanceLog>,
    /// Instances with dropped lines, in the order in which they began to drop.
    dropping: VecDeque<InstanceId>,
}

/// What of an app waits to be sent.
#[derive(Debug, Default)]
struct Share {
    records: usize,
    bytes: usize,
}

impl Share {
    /// Whether the app may have one more, given what all have together. It may have as much as is left, so that the first chatty
    /// app takes half of the room; but a quarter of the ring is for those who have little waiting, however many are chatty.
    fn takes(&self, size: usize, all_records: usize, all_bytes: usize) -> bool {
        let (records, bytes) = (all_records + 1, all_bytes + size);
        let is_little = self.records < LITTLE_RECORDS && self.bytes + size <= LITTLE_BYTES;
        if is_little {
            return records <= RECORDS_MAX && bytes <= BYTES_MAX;
        }
        self.records + records <= RECORDS_MAX / 4 * 3 && self.bytes + bytes <= BYTES_MAX / 4 * 3
    }
}

/// It lives as long as somebody writes, something waits, or the last lines may be asked for.
#[derive(Debug, Default)]
struct InstanceLog {
    tail: VecDeque<String>,
    waiting: usize,
    gap: Option<Gap>,
    /// Outputs that are open.
    writers: usize,
    /// Whether somebody will ask for its last lines, and say when not any more.
    is_remembered: bool,
    /// What of its last lines is not to be quoted.
    mask: Mask,
}

/// Lines that were dropped.
#[derive(Debug)]
struct Gap {
    count: u64,
    /// Stands in their place, so it has the time and the number of the last one.
    marker: LogRecord,
    /// What the platform said meanwhile, in order.
    kept: VecDeque<LogRecord>,
}

impl Ring {
    /// An output of an instance was opened. From now on its last lines are kept until [`Ring::forget`].
    pub(super) fn attach(&mut self, instance: InstanceId) {
        let log = self.instances.entry(instance).or_default();
        log.writers += 1;
        log.is_remembered = true;
    }

    pub(super) fn detach(&mut self, instance: InstanceId) {
        if let Some(log) = self.instances.get_mut(&instance) {
            log.writers = log.writers.saturating_sub(1);
        }
        self.clean(instance);
    }

    pub(super) fn forget(&mut self, instance: InstanceId) {
        if let Some(log) = self.instances.get_mut(&instance) {
            log.tail = VecDeque::new();
            log.is_remembered = false;
            log.mask = Mask::default();
        }
        self.clean(instance);
    }

    pub(super) fn hide(&mut self, instance: InstanceId, mask: Mask) {
        let log = self.instances.entry(instance).or_default();
        log.mask = mask;
        // Somebody gives it up, also when it never prints.
        log.is_remembered = true;
    }

    pub(super) fn mask(&self, instance: InstanceId) -> Mask {
        self.instances.get(&instance).map(|log| log.mask.clone()).unwrap_or_default()
    }

    pub(super) fn tail(&self, instance: InstanceId) -> Vec<String> {
        self.instances.get(&instance).map(|log| log.tail.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn push(&mut self, line: Line<'_>) {
        let Origin { app, instance, stream, .. } = line.origin;
        let log = self.instances.entry(*instance).or_default();
        if *stream != LogStream::Platform && log.is_remembered {
            log.remember(&line.message);
        }
        // Once something was dropped, everything is until the marker has gone out: so it stands at the gap.
        if let Some(gap) = &mut log.gap {
            gap.push(line);
            return;
        }
        let (all_records, all_bytes, size) = (self.records.len(), self.bytes, line.message.len());
        let has_room = match self.shares.get(app) {
            Some(share) => share.takes(size, all_records, all_bytes),
            None => Share::default().takes(size, all_records, all_bytes),
        };
        if !has_room {
            self.dropping.push_back(*instance);
            let marker = Line { message: Cow::Borrowed(""), ..line }.into_record();
            let marker = LogRecord { stream: LogStream::Platform, ..marker };
            log.gap.insert(Gap { count: 0, marker, kept: VecDeque::new() }).push(line);
            return;
        }
        log.waiting += 1;
        self.bytes += size;
        let record = line.into_record();
        let share = self.shares.entry((record.namespace.clone(), record.app.clone())).or_default();
        share.records += 1;
        share.bytes += size;
        self.records.push_back(record);
    }

    pub(super) fn take(&mut self, max: usize) -> Vec<LogRecord> {
        let mut taken: Vec<LogRecord> = self.records.drain(..self.records.len().min(max)).collect();
        for record in &taken {
            self.bytes -= record.message.len();
            if let Some(log) = self.instances.get_mut(&record.instance) {
                log.waiting -= 1;
            }
            self.give_back(record);
        }
        // An instance's marker goes out as soon as nothing that was said before the gap is left.
        for _ in 0..self.dropping.len() {
            let Some(instance) = self.dropping.pop_front() else { break };
            match self.instances.get_mut(&instance) {
                Some(log) if log.waiting == 0 => {
                    let gap = log.gap.iter_mut();
                    taken.extend(gap.flatten().take(max - taken.len()));
                    if log.gap.as_ref().is_some_and(Gap::is_empty) {
                        log.gap = None;
                    } else {
                        self.dropping.push_back(instance);
                    }
                }
                Some(_) => self.dropping.push_back(instance),
                None => {}
            }
        }
        for record in &taken {
            self.clean(record.instance);
        }
        taken
    }

    fn give_back(&mut self, record: &LogRecord) {
        let app = (record.namespace.clone(), record.app.clone());
        if let Some(share) = self.shares.get_mut(&app) {
            share.records -= 1;
            share.bytes -= record.message.len();
            if share.records == 0 {
                self.shares.remove(&app);
            }
        }
    }

    fn clean(&mut self, instance: InstanceId) {
        if self.instances.get(&instance).is_some_and(InstanceLog::is_over) {
            self.instances.remove(&instance);
        }
    }
}

impl InstanceLog {
    fn is_over(&self) -> bool {
        self.waiting == 0 && self.gap.is_none() && self.writers == 0 && !self.is_remembered
    }

    fn remember(&mut self, message: &str) {
        let oldest = if self.tail.len() == TAIL_LINES { self.tail.pop_front() } else { None };
        let mut line = oldest.unwrap_or_default();
        line.clear();
        line.push_str(&message[..message.floor_char_boundary(TAIL_LINE_BYTES)]);
        self.tail.push_back(line);
    }
}

impl Gap {
    fn push(&mut self, line: Line<'_>) {
        if line.origin.stream == LogStream::Platform && self.kept.len() < KEPT_LINES {
            self.kept.push_back(line.into_record());
            return;
        }
        self.count += 1;
        (self.marker.time, self.marker.seq) = (line.time, line.seq);
    }

    fn is_empty(&self) -> bool {
        self.count == 0 && self.kept.is_empty()
    }
}

/// What stands in the place of the gap, in order.
impl Iterator for Gap {
    type Item = LogRecord;

    fn next(&mut self) -> Option<LogRecord> {
        let is_before_kept = self.kept.front().is_none_or(|kept| kept.seq > self.marker.seq);
        if self.count == 0 || !is_before_kept {
            return self.kept.pop_front();
        }
        let count = std::mem::take(&mut self.count);
        let message = format!("dropped {count} {}", if count == 1 { "line" } else { "lines" });
        Some(LogRecord { message, ..self.marker.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin(app: &str, instance: InstanceId) -> Origin {
        let app = (NamespaceName::default_namespace(), app.parse().unwrap());
        Origin { app, job: None, release: 1, instance, stream: LogStream::Stdout }
    }

    fn say(ring: &mut Ring, origin: &Origin, seq: u64, message: &str) {
        ring.push(Line { origin, time: Timestamp::now(), seq, message: message.into() });
    }

    #[test]
    fn the_last_lines_are_remembered_until_they_are_forgotten() {
        let (mut ring, id) = (Ring::default(), InstanceId::new());
        ring.attach(id);
        for seq in 0..30 {
            say(&mut ring, &origin("hello", id), seq, &seq.to_string());
        }
        let tail = ring.tail(id);
        assert_eq!((tail.len(), tail[0].as_str(), tail[19].as_str()), (20, "10", "29"));
        ring.detach(id);
        assert_eq!(ring.tail(id).len(), 20, "the end of a guest is told after it");
        ring.forget(id);
        assert_eq!(ring.tail(id), Vec::<String>::new());
        assert_eq!(ring.take(100).len(), 30);
        assert!(ring.instances.is_empty() && ring.shares.is_empty());
    }

    #[test]
    fn what_is_said_of_a_forgotten_instance_leaves_nothing_behind() {
        let (mut ring, id) = (Ring::default(), InstanceId::new());
        ring.attach(id);
        ring.forget(id);
        say(&mut ring, &origin("hello", id), 0, "the last words of a store");
        ring.detach(id);
        say(&mut ring, &Origin { stream: LogStream::Platform, ..origin("hello", id) }, 1, "it was cut");
        assert_eq!(ring.take(100).len(), 2);
        assert!(ring.instances.is_empty());
    }

    #[test]
    fn a_chatty_app_leaves_room_for_others_and_its_gap_is_marked() {
        let mut ring = Ring::default();
        let (chatty, quiet) = (origin("chatty", InstanceId::new()), origin("quiet", InstanceId::new()));
        for seq in 0..10_000 {
            say(&mut ring, &chatty, seq, "x");
        }
        say(&mut ring, &quiet, 0, "hello");
        let taken = ring.take(usize::MAX);
        assert_eq!(taken.len(), 1536 + 1 + 1);
        assert_eq!(taken[1536].message, "hello");
        let marker = &taken[1537];
        assert_eq!((marker.message.as_str(), marker.stream), ("dropped 8464 lines", LogStream::Platform));
        assert_eq!(marker.seq, 9999);
        say(&mut ring, &chatty, 10_000, "y");
        assert_eq!(ring.take(usize::MAX)[0].message, "y");
    }

    #[test]
    fn what_the_platform_says_of_a_flood_is_kept() {
        let mut ring = Ring::default();
        let flood = origin("flood", InstanceId::new());
        let platform = Origin { stream: LogStream::Platform, ..flood.clone() };
        for seq in 0..5000 {
            say(&mut ring, &flood, seq, "x");
        }
        say(&mut ring, &platform, 5000, "it computed for too long");
        say(&mut ring, &flood, 5001, "x");
        (0..100).for_each(|_| say(&mut ring, &platform, 5002, "and so did another"));
        let mut taken = ring.take(1537);
        assert_eq!(taken.pop().unwrap().message, "it computed for too long");
        let rest: Vec<_> = ring.take(usize::MAX).into_iter().map(|record| record.message).collect();
        assert_eq!((rest.len(), rest[0].as_str()), (KEPT_LINES, "and so did another"));
        assert_eq!(
            rest[KEPT_LINES - 1],
            format!("dropped {} lines", 5000 - 1536 + 1 + 100 - (KEPT_LINES - 1))
        );
        assert!(ring.take(1).is_empty() && ring.dropping.is_empty());
    }

    #[test]
    fn many_instances_of_one_app_have_no_more_than_one_of_another() {
        let mut ring = Ring::default();
        for _ in 0..100 {
            let one_of_many = origin("many", InstanceId::new());
            for seq in 0..100 {
                say(&mut ring, &one_of_many, seq, "x");
            }
        }
        let single = origin("single", InstanceId::new());
        for seq in 0..700 {
            say(&mut ring, &single, seq, "y");
        }
        let taken = ring.take(usize::MAX);
        assert_eq!(taken.iter().filter(|record| record.message == "y").count(), 700);
    }

    #[test]
    fn fifty_chatty_apps_leave_room_for_a_quiet_one() {
        let mut ring = Ring::default();
        for app in 0..50 {
            let chatty = origin(&format!("chatty-{app}"), InstanceId::new());
            for seq in 0..5000 {
                say(&mut ring, &chatty, seq, &"x".repeat(1000));
            }
        }
        let quiet = origin("quiet", InstanceId::new());
        say(&mut ring, &quiet, 0, "hello");
        assert_eq!(ring.take(usize::MAX).iter().filter(|record| record.message == "hello").count(), 1);
    }

    proptest! {
        #[test]
        fn every_line_is_taken_in_order_or_counted(
            said in proptest::collection::vec((0..3_usize, 0..40_000_usize), 0..600),
            take_every in 1..200_usize,
            take_max in 1..100_usize,
        ) {
            let origins = ["a", "a", "b"].map(|app| origin(app, InstanceId::new()));
            let mut ring = Ring::default();
            let mut taken = Vec::new();
            for (seq, (which, size)) in said.iter().enumerate() {
                say(&mut ring, &origins[*which], seq as u64, &"x".repeat(*size));
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
            for origin in &origins {
                let of_instance = taken.iter().filter(|record| record.instance == origin.instance);
                let seqs: Vec<u64> = of_instance.map(|record| record.seq).collect();
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
            prop_assert!(ring.shares.is_empty() && ring.instances.is_empty());
        }
    }
}
