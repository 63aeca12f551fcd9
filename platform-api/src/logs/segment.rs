//! The files of one app's log.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::PathBuf;

use wharf_types::Timestamp;
use wharf_types::log::{LogRecord, LogStream};

use super::Positioned;

/// A segment that has grown beyond this is followed by a new one.
const SEGMENT_BYTES: u64 = 4 << 20;
const SEGMENTS_KEPT: usize = 8;

/// Knows the files by looking at the folder, and keeps none open: thousands of apps may be silent.
pub(super) struct Segments {
    dir: PathBuf,
    /// Records that the disk did not take since the last one that it took.
    dropped: u64,
}

pub(super) struct Appended {
    pub(super) records: Vec<Positioned>,
    pub(super) error: Option<io::Error>,
}

impl Segments {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, dropped: 0 }
    }

    pub(super) fn append(&mut self, mut records: Vec<LogRecord>) -> Appended {
        if self.dropped > 0
            && let Some(first) = records.first()
        {
            let gap = LogRecord {
                time: Timestamp::now(),
                stream: LogStream::Platform,
                message: format!("dropped {} records: the disk did not take them", self.dropped),
                ..first.clone()
            };
            records.insert(0, gap);
        }
        match self.write(&records) {
            Ok(positions) => {
                self.dropped = 0;
                let records = positions
                    .into_iter()
                    .zip(records)
                    .map(|(position, record)| Positioned { position: Some(position), record });
                Appended { records: records.collect(), error: None }
            }
            Err(error) => {
                let is_first = self.dropped == 0;
                self.dropped += records.len() as u64;
                let records =
                    records.into_iter().map(|record| Positioned { position: None, record }).collect();
                Appended { records, error: is_first.then_some(error) }
            }
        }
    }

    /// Writes all or nothing, and returns the positions.
    fn write(&self, records: &[LogRecord]) -> io::Result<Vec<u64>> {
        fs::create_dir_all(&self.dir)?;
        let numbers = self.numbers()?;
        let mut number = numbers.last().copied().unwrap_or(1);
        let mut file = self.open_for_append(number)?;
        let mut length = file.metadata()?.len();
        if length >= SEGMENT_BYTES {
            number += 1;
            file = self.open_for_append(number)?;
            length = file.metadata()?.len();
            let kept = numbers.len().saturating_sub(SEGMENTS_KEPT - 1);
            for old in &numbers[..kept] {
                fs::remove_file(self.file(*old))?;
            }
        }
        let mut lines = Vec::new();
        let mut positions = Vec::with_capacity(records.len());
        // A crash may have left half a line.
        if length > 0 && !self.ends_with_newline(number, length)? {
            lines.push(b'\n');
        }
        for record in records {
            positions.push(number << 32 | (length + lines.len() as u64));
            serde_json::to_writer(&mut lines, record)?;
            lines.push(b'\n');
        }
        if let Err(error) = file.write_all(&lines) {
            let _ = file.set_len(length);
            return Err(error);
        }
        Ok(positions)
    }

    /// The newest `count` records that `accept` takes, oldest first.
    pub(super) fn tail(
        &self,
        count: usize,
        accept: impl Fn(&LogRecord) -> bool,
    ) -> io::Result<Vec<Positioned>> {
        let mut found: VecDeque<Positioned> = VecDeque::new();
        for number in self.numbers()?.into_iter().rev() {
            let room = count - found.len();
            if room == 0 {
                break;
            }
            let mut newest = VecDeque::new();
            self.read(number, 0, |position, record| {
                if accept(&record) {
                    newest.push_back(Positioned { position: Some(position), record });
                    if newest.len() > room {
                        newest.pop_front();
                    }
                }
                true
            })?;
            for positioned in newest.into_iter().rev() {
                found.push_front(positioned);
            }
        }
        Ok(found.into())
    }

    /// At most `limit` records from a position on, oldest first.
    pub(super) fn since(&self, from: u64, limit: usize) -> io::Result<Vec<Positioned>> {
        let (segment, offset) = (from >> 32, from & 0xffff_ffff);
        let mut found = Vec::new();
        for number in self.numbers()?.into_iter().filter(|number| *number >= segment) {
            let from = if number == segment { offset } else { 0 };
            self.read(number, from, |position, record| {
                found.push(Positioned { position: Some(position), record });
                found.len() < limit
            })?;
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    /// Where the oldest segment begins. None: there is none.
    pub(super) fn oldest(&self) -> io::Result<Option<u64>> {
        Ok(self.numbers()?.first().map(|number| number << 32))
    }

    /// The position after the newest record.
    pub(super) fn end(&self) -> io::Result<u64> {
        let Some(newest) = self.numbers()?.last().copied() else { return Ok(0) };
        Ok(newest << 32 | fs::metadata(self.file(newest))?.len())
    }

    /// Calls `take` for every record of a segment from an offset on, until it says that it has enough.
    fn read(&self, number: u64, offset: u64, mut take: impl FnMut(u64, LogRecord) -> bool) -> io::Result<()> {
        let mut file = match File::open(self.file(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut reader = BufReader::with_capacity(64 << 10, file);
        let mut at = offset;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            // Half a line, left by a crash or by a wrong offset of a client, is passed over.
            if let Ok(record) = serde_json::from_slice(&line)
                && !take(number << 32 | at, record)
            {
                return Ok(());
            }
            at += read as u64;
        }
    }

    /// The segments' numbers, oldest first.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".ndjson")?.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn open_for_append(&self, number: u64) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).open(self.file(number))
    }

    fn ends_with_newline(&self, number: u64, length: u64) -> io::Result<bool> {
        let mut file = File::open(self.file(number))?;
        file.seek(SeekFrom::Start(length - 1))?;
        let mut last = [0];
        io::Read::read_exact(&mut file, &mut last)?;
        Ok(last == *b"\n")
    }

    fn file(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:06}.ndjson"))
    }
}
