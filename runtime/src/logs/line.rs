//! Cuts a guest's output into lines.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wharf_types::log::{LogStream, MESSAGE_MAX_BYTES};
use wharf_types::{AppName, InstanceId, JobId, NamespaceName, Timestamp};

use super::LogSink;
use super::ring::{Line, Origin};

/// One output stream of one instance. Costs nothing until the guest prints.
#[derive(Debug)]
pub struct LineBuffer {
    sink: LogSink,
    origin: Origin,
    /// Shared by the streams of the instance.
    seq: Arc<AtomicU64>,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl LineBuffer {
    pub fn new(
        sink: LogSink,
        namespace: NamespaceName,
        app: AppName,
        release: u64,
        instance: InstanceId,
        stream: LogStream,
        seq: Arc<AtomicU64>,
    ) -> Self {
        sink.ring().attach(instance);
        let origin = Origin { app: (namespace, app), job: None, release, instance, stream };
        Self { sink, origin, seq, partial: Vec::new() }
    }

    /// What is said goes into the stream of this job.
    pub fn of_job(mut self, job: Option<JobId>) -> Self {
        self.origin.job = job;
        self
    }

    /// Makes a record of every line that is complete, and of every piece of a line that is too long for one.
    pub fn write(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.partial.is_empty() && line.len() <= MESSAGE_MAX_BYTES {
                self.say(without_return(line));
            } else {
                self.append(line);
                let line = std::mem::take(&mut self.partial);
                self.say(without_return(&line));
            }
        }
        self.append(bytes);
    }

    /// Makes a record of a line that has no end yet.
    pub fn flush(&mut self) {
        if !self.partial.is_empty() {
            let line = std::mem::take(&mut self.partial);
            self.say(&line);
        }
    }

    fn append(&mut self, mut bytes: &[u8]) {
        while self.partial.len() + bytes.len() > MESSAGE_MAX_BYTES {
            let (piece, rest) = bytes.split_at(MESSAGE_MAX_BYTES - self.partial.len());
            self.partial.extend_from_slice(piece);
            let cut = before_split_character(&self.partial);
            let begun = self.partial.split_off(cut);
            let line = std::mem::replace(&mut self.partial, begun);
            self.say(&line);
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn say(&self, line: &[u8]) {
        let mut message = String::from_utf8_lossy(line);
        // What replaces a broken octet is longer than it was.
        if message.len() > MESSAGE_MAX_BYTES {
            let end = message.floor_char_boundary(MESSAGE_MAX_BYTES);
            message = Cow::Owned(message[..end].to_owned());
        }
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        self.sink.say(Line { origin: &self.origin, time: Timestamp::now(), seq, message });
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        self.flush();
        self.sink.ring().detach(self.origin.instance);
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Where to cut, so that no character is cut in two: its first octet is among the last three, and asks for more than follow.
fn before_split_character(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let place = bytes.len() - back;
        let length = match bytes[place] {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            _ => 1,
        };
        return if length > back { place } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffer(sink: &LogSink, instance: InstanceId, stream: LogStream, seq: &Arc<AtomicU64>) -> LineBuffer {
        let app = "hello".parse().unwrap();
        LineBuffer::new(
            sink.clone(),
            NamespaceName::default_namespace(),
            app,
            1,
            instance,
            stream,
            seq.clone(),
        )
    }

    fn printed(writes: &[&[u8]]) -> Vec<String> {
        let sink = LogSink::new();
        let mut lines = buffer(&sink, InstanceId::new(), LogStream::Stdout, &Arc::default());
        for bytes in writes {
            lines.write(bytes);
        }
        drop(lines);
        sink.ring().take(usize::MAX).into_iter().map(|record| record.message).collect()
    }

    #[test]
    fn lines_are_put_together_and_the_last_one_needs_no_end() {
        assert_eq!(printed(&[b"he", b"llo\r\n\nwor", b"ld"]), ["hello", "", "world"]);
        assert_eq!(printed(&[]), Vec::<String>::new());
        assert_eq!(printed(&[b"a\n"]), ["a"]);
    }

    #[test]
    fn broken_text_is_shown_as_far_as_it_goes() {
        assert_eq!(printed(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }

    #[test]
    fn the_streams_of_an_instance_are_numbered_together() {
        let (sink, id, seq) = (LogSink::new(), InstanceId::new(), Arc::new(AtomicU64::new(0)));
        let mut out = buffer(&sink, id, LogStream::Stdout, &seq);
        let mut err = buffer(&sink, id, LogStream::Stderr, &seq);
        out.write(b"a\n");
        err.write(b"b\n");
        out.write(b"c\n");
        let seqs: Vec<u64> = sink.ring().take(9).iter().map(|record| record.seq).collect();
        assert_eq!(seqs, [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn a_long_line_is_cut_between_characters_and_nothing_is_lost(
            text in proptest::collection::vec(proptest::sample::select(vec!['a', 'ä', '€', '🚢']), 0..20_000),
            chunk in 1..5_000_usize,
        ) {
            let text: String = text.into_iter().collect();
            let writes: Vec<&[u8]> = text.as_bytes().chunks(chunk).collect();
            let lines = printed(&writes);
            prop_assert!(lines.iter().all(|line| line.len() <= MESSAGE_MAX_BYTES));
            prop_assert_eq!(lines.concat(), text);
        }

        #[test]
        fn no_octets_break_it(writes in proptest::collection::vec(any::<Vec<u8>>(), 0..20)) {
            let writes: Vec<&[u8]> = writes.iter().map(Vec::as_slice).collect();
            let _ = printed(&writes);
        }
    }
}
