//! What a container prints, line by line.
//!
//! Whoever follows keeps the mark of the last line that it has dealt with, and goes on after it: also when it is another process by then.
//! The engine writes a time beside everything, and within one of the two streams these never go back, so a mark is a time and
//! how many entries of that time were dealt with.

use bollard::container::LogOutput;
use bollard::errors::Error as ClientError;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use wharf_types::log::LogStream;
use wharf_types::{InstanceId, Timestamp};

use crate::container::name_of;
use crate::engine::Engine;
use crate::error::EngineError;

/// The longest text of one line, in octets.
const LINE_MAX_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub time: Timestamp,
    pub stream: LogStream,
    pub text: String,
    /// Whether the line was too long, and goes on in the next one of its stream.
    pub is_unfinished: bool,
    /// Where to go on after this line.
    pub mark: LogMark,
}

/// Up to where somebody has followed a container. The default is before its first line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    pub stdout: Option<StreamMark>,
    pub stderr: Option<StreamMark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamMark {
    time: Timestamp,
    /// Entries of just that time.
    count: u32,
}

impl Engine {
    /// The lines of a container after a mark, and those to come; ends when the container has ended. After an error the caller goes on
    /// from the last line's mark.
    pub fn follow_logs(
        &self,
        id: InstanceId,
        after: LogMark,
    ) -> impl Stream<Item = Result<LogLine, EngineError>> + Send + Unpin + use<> {
        let mut options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).timestamps(true);
        if let Some(since) = after.since() {
            options = options.since(since);
        }
        let entries = self.docker.logs(&name_of(id), Some(options.build()));
        let (engine, mut lines) = (self.clone(), Lines::new(after));
        Box::pin(entries.map(Some).chain(futures::stream::iter([None])).flat_map(move |entry| {
            let found: Vec<Result<LogLine, EngineError>> = match entry {
                Some(Ok(entry)) => lines.take(entry).into_iter().map(Ok).collect(),
                Some(Err(error)) => vec![Err(of_log(&engine, error))],
                None => lines.end().into_iter().map(Ok).collect(),
            };
            futures::stream::iter(found)
        }))
    }
}

fn of_log(engine: &Engine, error: ClientError) -> EngineError {
    engine.error("follow the log", error)
}

impl LogMark {
    /// The second from which entries may be missing. The two streams are written side by side, so one may be a little behind.
    fn since(self) -> Option<i32> {
        let first = [self.stdout, self.stderr].into_iter().flatten().map(|mark| mark.time).min()?;
        i32::try_from(first.as_second() - 1).ok()
    }
}

/// Makes lines of entries. The engine cuts what is longer than 16 KiB into several, of which only the last ends with a line's end.
pub(crate) struct Lines {
    mark: LogMark,
    stdout: Part,
    stderr: Part,
}

/// One of the two streams.
#[derive(Default)]
struct Part {
    /// What was dealt with before.
    skip: Option<StreamMark>,
    /// The last entry that has come.
    last: Option<StreamMark>,
    begun: BytesMut,
    /// When the line that has begun did.
    since: Option<Timestamp>,
}

impl Lines {
    pub(crate) fn new(after: LogMark) -> Self {
        let part = |skip| Part { skip, last: skip, ..Part::default() };
        Self { mark: after, stdout: part(after.stdout), stderr: part(after.stderr) }
    }

    pub(crate) fn take(&mut self, entry: LogOutput) -> Vec<LogLine> {
        let (stream, octets) = match entry {
            LogOutput::StdOut { message } => (LogStream::Stdout, message),
            LogOutput::StdErr { message } => (LogStream::Stderr, message),
            LogOutput::StdIn { .. } | LogOutput::Console { .. } => return Vec::new(),
        };
        let (time, octets) = timed(octets);
        let part = self.part(stream);
        if !part.is_new(time) {
            return Vec::new();
        }
        let mut lines = Vec::new();
        // Before this entry is counted, so that whoever goes on from there gets the rest of the line.
        if part.begun.len() + octets.len() > LINE_MAX_BYTES && !part.begun.is_empty() {
            lines.extend(self.cut(stream, true));
        }
        let part = self.part(stream);
        part.count(time);
        part.since.get_or_insert(time);
        let is_finished = octets.ends_with(b"\n");
        part.begun.extend_from_slice(octets.strip_suffix(b"\n").unwrap_or(&octets));
        if is_finished || part.begun.len() >= LINE_MAX_BYTES {
            lines.extend(self.cut(stream, !is_finished));
        }
        lines
    }

    /// What was printed last without a line's end.
    pub(crate) fn end(&mut self) -> Vec<LogLine> {
        let mut lines = Vec::new();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            if !self.part(stream).begun.is_empty() {
                lines.extend(self.cut(stream, false));
            }
        }
        lines
    }

    fn cut(&mut self, stream: LogStream, is_unfinished: bool) -> Option<LogLine> {
        let part = self.part(stream);
        let (time, last) = (part.since.take()?, part.last);
        let octets = part.begun.split();
        match stream {
            LogStream::Stderr => self.mark.stderr = last,
            LogStream::Stdout | LogStream::Platform => self.mark.stdout = last,
        }
        let text = String::from_utf8_lossy(&octets).into_owned();
        Some(LogLine { time, stream, text, is_unfinished, mark: self.mark })
    }

    fn part(&mut self, stream: LogStream) -> &mut Part {
        match stream {
            LogStream::Stderr => &mut self.stderr,
            LogStream::Stdout | LogStream::Platform => &mut self.stdout,
        }
    }
}

impl Part {
    /// Whether an entry comes after what was dealt with. From the first one on that does, all do.
    fn is_new(&mut self, time: Timestamp) -> bool {
        match &mut self.skip {
            Some(skip) if time < skip.time => return false,
            Some(skip) if time == skip.time && skip.count > 0 => {
                skip.count -= 1;
                return false;
            }
            _ => {}
        }
        self.skip = None;
        true
    }

    fn count(&mut self, time: Timestamp) {
        let before = self.last.filter(|last| last.time == time).map_or(0, |last| last.count);
        self.last = Some(StreamMark { time, count: before.saturating_add(1) });
    }
}

/// Parts an entry from its time.
pub(crate) fn timed(entry: Bytes) -> (Timestamp, Bytes) {
    let parted = entry.iter().take(40).position(|&octet| octet == b' ').and_then(|at| {
        let time = std::str::from_utf8(&entry[..at]).ok()?.parse().ok()?;
        Some((time, entry.slice(at + 1..)))
    });
    parted.unwrap_or((Timestamp::UNIX_EPOCH, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(second: u32, text: &str) -> LogOutput {
        LogOutput::StdOut { message: format!("2026-01-01T00:00:{second:02}.5Z {text}").into() }
    }

    fn err(second: u32, text: &str) -> LogOutput {
        LogOutput::StdErr { message: format!("2026-01-01T00:00:{second:02}.5Z {text}").into() }
    }

    fn follow(after: LogMark, entries: &[LogOutput]) -> Vec<LogLine> {
        let mut lines = Lines::new(after);
        let mut all: Vec<LogLine> = entries.iter().cloned().flat_map(|entry| lines.take(entry)).collect();
        all.extend(lines.end());
        all
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn whoever_goes_on_from_any_line_gets_each_line_once() {
        let entries = [
            out(1, "a\n"),
            out(1, "b\n"),
            err(1, "c\n"),
            out(1, "d\n"),
            err(2, "e\n"),
            out(2, "\n"),
            out(3, "f1 "),
            err(3, "g\n"),
            out(4, "f2\n"),
            out(5, "h"),
        ];
        let all = follow(LogMark::default(), &entries);
        assert_eq!(texts(&all), ["a", "b", "c", "d", "e", "", "g", "f1 f2", "h"]);
        for (index, line) in all.iter().enumerate() {
            let rest = follow(line.mark, &entries);
            assert_eq!(texts(&rest), texts(&all[index + 1..]), "after line {index}");
            assert_eq!(rest.last().map(|it| it.mark), all[index + 1..].last().map(|it| it.mark));
        }
    }

    #[test]
    fn a_long_line_is_parted_and_nothing_of_it_is_lost() {
        let piece = "x".repeat(16 << 10);
        let mut entries: Vec<LogOutput> = (0..9).map(|_| out(1, &piece)).collect();
        entries.push(out(2, "end\n"));
        let all = follow(LogMark::default(), &entries);
        let unfinished: Vec<bool> = all.iter().map(|line| line.is_unfinished).collect();
        assert_eq!(unfinished, [true, true, false]);
        assert!(all.iter().all(|line| line.text.len() <= LINE_MAX_BYTES));
        assert_eq!(all.iter().map(|line| line.text.len()).sum::<usize>(), 9 * piece.len() + 3);
        let rest = follow(all[0].mark, &entries);
        assert_eq!(texts(&rest), texts(&all[1..]));
    }

    #[test]
    fn a_clock_that_went_back_takes_nothing_away() {
        let all = follow(LogMark::default(), &[out(5, "a\n"), out(2, "b\n")]);
        assert_eq!(texts(&all), ["a", "b"]);
        let rest = follow(all[0].mark, &[out(5, "a\n"), out(6, "b\n"), out(2, "c\n")]);
        assert_eq!(texts(&rest), ["b", "c"]);
    }

    #[test]
    fn what_is_no_text_or_has_no_time_is_shown_as_far_as_it_goes() {
        let message = Bytes::from_static(b"2026-01-01T00:00:01Z \xff\x00a\n");
        let all = follow(LogMark::default(), &[LogOutput::StdOut { message }]);
        assert_eq!(texts(&all), ["\u{fffd}\0a"]);
        let message = Bytes::from_static(b"no time\n");
        assert_eq!(texts(&follow(LogMark::default(), &[LogOutput::StdErr { message }])), ["no time"]);
    }

    #[test]
    fn a_mark_asks_for_what_may_be_missing() {
        assert_eq!(LogMark::default().since(), None);
        let all = follow(LogMark::default(), &[err(1, "a\n"), out(9, "b\n")]);
        assert_eq!(all[0].mark.since(), all[1].mark.since());
        assert!(all[1].mark.since().is_some());
    }
}
