//! Following one app's log: what is kept, and then what comes, without a gap between the two.
//!
//! A follower hears of new records as they are appended. One that was too slow for that, or that comes back after a while,
//! reads the files until it has caught up, so only what the files have given up is ever missing.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast;
use wharf_types::Timestamp;
use wharf_types::log::{LogRecord, LogStream};

use super::segment::Segments;
use super::{Positioned, blocking, lock};

/// Records that are read from the files at once.
const PAGE: usize = 500;

pub(crate) type Accept = Arc<dyn Fn(&LogRecord) -> bool + Send + Sync>;

/// Receives the records of an app that `accept` takes.
pub(crate) struct Follower {
    pub(super) segments: Arc<Mutex<Segments>>,
    pub(super) live: broadcast::Receiver<Arc<Positioned>>,
    /// Everything before this position was looked at.
    pub(super) from: u64,
    /// Whether the files may hold records from there on that `live` does not bring.
    pub(super) behind: bool,
    pub(super) ready: VecDeque<Positioned>,
    pub(super) accept: Accept,
}

impl Follower {
    /// The next record. None: the app is gone.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Positioned>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            if self.behind {
                self.catch_up().await?;
                continue;
            }
            match self.live.recv().await {
                Ok(positioned) => {
                    if positioned.position.is_some_and(|position| position < self.from) {
                        continue;
                    }
                    self.from = positioned.position.map_or(self.from, |position| position + 1);
                    if (self.accept)(&positioned.record) {
                        return Ok(Some(Positioned::clone(&positioned)));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
                Err(broadcast::error::RecvError::Closed) => return Ok(None),
            }
        }
    }

    /// Reads one page of the files.
    async fn catch_up(&mut self) -> io::Result<()> {
        // Before reading, so that nothing falls in between: what comes both ways is passed over by its position.
        self.live = self.live.resubscribe();
        let (segments, from) = (self.segments.clone(), self.from);
        let (page, oldest) = blocking(move || {
            let segments = lock(&segments);
            Ok((segments.since(from, PAGE)?, segments.oldest()?))
        })
        .await?;
        self.behind = page.len() == PAGE;
        if let Some(first) = page.first()
            && from > 0
            && oldest.is_some_and(|oldest| oldest > from)
        {
            self.ready.push_back(gap(&first.record));
        }
        if let Some(position) = page.last().and_then(|last| last.position) {
            self.from = position + 1;
        }
        self.ready.extend(page.into_iter().filter(|positioned| (self.accept)(&positioned.record)));
        Ok(())
    }
}

/// Says that the files went on before a follower could read them.
fn gap(before: &LogRecord) -> Positioned {
    let record = LogRecord {
        time: Timestamp::now(),
        stream: LogStream::Platform,
        message: "records may be missing here: the oldest ones were given up before this reader came to them"
            .to_owned(),
        ..before.clone()
    };
    Positioned { position: None, record }
}
