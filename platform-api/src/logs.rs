//! What guests print: kept in files, a folder for each app and each job, and sent on to those who follow.
//!
//! `DIR/<namespace>/<app>/<number>.ndjson` are segments, for a job `DIR/<namespace>/job.<id>/`; the newest is appended to, the oldest goes when there are too many.
//! A record's position is its segment's number and its offset in it, in one number that only grows.

mod follow;
mod segment;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tracing::warn;
use wharf_types::log::LogRecord;
use wharf_types::{AppName, JobId, NamespaceName};

use follow::{Accept, Follower};
use segment::Segments;

/// Records that a slow follower may lag behind before it has to read the files.
const FOLLOWER_LAG: usize = 1024;
/// The most that `tail` returns.
pub(crate) const TAIL_MAX: usize = 10_000;

/// A record and its position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Positioned {
    /// None: the disk did not take the record, so nobody can come back to it.
    pub(crate) position: Option<u64>,
    pub(crate) record: LogRecord,
}

/// Whose log it is: an app's, or a job's, within a namespace. An app's name has no dot, so neither takes the other's folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    namespace: NamespaceName,
    folder: String,
}

impl Source {
    pub(crate) fn of(record: &LogRecord) -> Self {
        match record.job {
            Some(job) => Self::new(&record.namespace, job),
            None => Self::new(&record.namespace, &record.app),
        }
    }

    fn new(namespace: &NamespaceName, of: impl Into<Folder>) -> Self {
        Self { namespace: namespace.clone(), folder: of.into().0 }
    }
}

/// The folder of an app or a job below that of its namespace.
pub(crate) struct Folder(String);

impl From<&AppName> for Folder {
    fn from(app: &AppName) -> Self {
        Self(app.to_string())
    }
}

impl From<JobId> for Folder {
    fn from(job: JobId) -> Self {
        Self(format!("job.{job}"))
    }
}

pub(crate) struct Logs {
    dir: PathBuf,
    apps: Mutex<HashMap<Source, Arc<AppLog>>>,
}

struct AppLog {
    /// Held while appending, so that positions go to followers in their order.
    segments: Arc<Mutex<Segments>>,
    live: broadcast::Sender<Arc<Positioned>>,
}

impl Logs {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir, apps: Mutex::default() })
    }

    /// Appends records of any apps. Those that the disk does not take still reach the followers; the gap is recorded later.
    pub(crate) async fn append(&self, records: Vec<LogRecord>) {
        let mut by_source: HashMap<Source, Vec<LogRecord>> = HashMap::new();
        for record in records {
            by_source.entry(Source::of(&record)).or_default().push(record);
        }
        for (source, records) in by_source {
            let log = self.log(&source);
            let append = move || {
                let mut segments = lock(&log.segments);
                let appended = segments.append(records);
                if let Some(error) = appended.error {
                    let Source { namespace, folder } = &source;
                    warn!("records of {folder} in {namespace} could not be kept: {error}");
                }
                for record in appended.records {
                    // An error means that nobody follows.
                    let _ = log.live.send(Arc::new(record));
                }
            };
            if tokio::task::spawn_blocking(append).await.is_err() {
                warn!("appending log records ended by a panic");
            }
        }
    }

    /// The newest `count` records that `accept` takes, oldest first.
    pub(crate) async fn tail(
        &self,
        namespace: &NamespaceName,
        of: impl Into<Folder>,
        count: usize,
        accept: impl Fn(&LogRecord) -> bool + Send + 'static,
    ) -> io::Result<Vec<Positioned>> {
        let log = self.log(&Source::new(namespace, of));
        blocking(move || lock(&log.segments).tail(count.min(TAIL_MAX), accept)).await
    }

    /// The records that `accept` takes: those after a position, or the newest `tail` of them, and then what comes.
    pub(crate) async fn follow(
        &self,
        namespace: &NamespaceName,
        of: impl Into<Folder>,
        after: Option<u64>,
        tail: usize,
        accept: impl Fn(&LogRecord) -> bool + Send + Sync + 'static,
    ) -> io::Result<Follower> {
        let log = self.log(&Source::new(namespace, of));
        let accept: Accept = Arc::new(accept);
        blocking(move || {
            let segments = lock(&log.segments);
            let end = segments.end()?;
            let (from, ready) = match after {
                Some(position) if position < end => (position + 1, Vec::new()),
                // A position of another log: the app had the same name and is gone.
                Some(_) => (0, Vec::new()),
                None => (end, segments.tail(tail.min(TAIL_MAX), |record| accept(record))?),
            };
            let live = log.live.subscribe();
            let segments = log.segments.clone();
            Ok(Follower { segments, live, from, behind: from != end, ready: ready.into(), accept })
        })
        .await
    }

    /// Takes away what an app or a job printed.
    pub(crate) async fn remove(&self, namespace: &NamespaceName, of: impl Into<Folder>) {
        let source = Source::new(namespace, of);
        let (dir, folder) = (self.dir(&source), &source.folder);
        self.apps.lock().unwrap_or_else(PoisonError::into_inner).remove(&source);
        match tokio::fs::remove_dir_all(&dir).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!("the log records of {folder} in {namespace} could not be removed: {error}");
            }
            _ => {}
        }
    }

    /// Takes away what is left of a namespace without apps.
    pub(crate) async fn remove_namespace(&self, namespace: &NamespaceName) {
        self.apps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|source, _| source.namespace != *namespace);
        match tokio::fs::remove_dir_all(self.dir.join(namespace.as_str())).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!("the log records of the namespace {namespace} could not be removed: {error}");
            }
            _ => {}
        }
    }

    fn dir(&self, source: &Source) -> PathBuf {
        self.dir.join(source.namespace.as_str()).join(&source.folder)
    }

    fn log(&self, source: &Source) -> Arc<AppLog> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let log = apps.entry(source.clone()).or_insert_with(|| {
            Arc::new(AppLog {
                segments: Arc::new(Mutex::new(Segments::new(self.dir(source)))),
                live: broadcast::Sender::new(FOLLOWER_LAG),
            })
        });
        log.clone()
    }
}

/// A segment that anything may be in: what is read again holds no more than it, in its order. For [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn read_segment(data: &[u8]) {
    let dir = std::env::temp_dir().join(format!("wharf-segment-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("the temporary folder can be written to");
    std::fs::write(dir.join("000000.ndjson"), data).expect("a file can be written there");
    let segments = Segments::new(dir);
    let all = segments.tail(usize::MAX, |_| true).expect("the file can be read");
    assert!(all.len() <= data.len() && all.is_sorted_by_key(|positioned| positioned.position));
    let since = segments.since(0, usize::MAX).expect("the file can be read");
    assert_eq!(since.len(), all.len());
    for from in [1, data.len() as u64 / 2, data.len() as u64 + 1, u64::MAX] {
        drop(segments.since(from, 10));
    }
}

fn lock(segments: &Mutex<Segments>) -> MutexGuard<'_, Segments> {
    segments.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use wharf_types::log::LogStream;
    use wharf_types::{InstanceId, Timestamp};

    use super::*;

    fn record(seq: u64, message: &str) -> LogRecord {
        LogRecord {
            time: Timestamp::UNIX_EPOCH,
            namespace: "default".parse().unwrap(),
            app: "hello".parse().unwrap(),
            job: None,
            release: 1,
            instance: InstanceId::from_uuid(uuid::Uuid::nil()),
            stream: LogStream::Stdout,
            seq,
            message: message.to_owned(),
        }
    }

    fn names() -> (NamespaceName, AppName) {
        ("default".parse().unwrap(), "hello".parse().unwrap())
    }

    fn seqs(records: &[Positioned]) -> Vec<u64> {
        records.iter().map(|positioned| positioned.record.seq).collect()
    }

    async fn next(follower: &mut Follower, count: usize) -> Vec<Positioned> {
        let mut found = Vec::new();
        for _ in 0..count {
            let next = tokio::time::timeout(std::time::Duration::from_secs(20), follower.next()).await;
            found.extend(next.expect("a record in time").unwrap());
        }
        found
    }

    #[tokio::test]
    async fn a_follower_gets_the_tail_and_then_what_comes_and_can_resume() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().into()).unwrap();
        let (namespace, app) = names();
        logs.append((0..5).map(|seq| record(seq, "x")).collect()).await;
        let mut follower = logs.follow(&namespace, &app, None, 2, |_| true).await.unwrap();
        logs.append(vec![record(5, "y")]).await;
        let seen = next(&mut follower, 3).await;
        assert_eq!(seqs(&seen), [3, 4, 5]);
        let mut resumed = logs.follow(&namespace, &app, seen[0].position, 0, |_| true).await.unwrap();
        assert_eq!(next(&mut resumed, 2).await, seen[1..]);
        logs.remove(&namespace, &app).await;
        assert_eq!(resumed.next().await.unwrap(), None, "the app is gone");
    }

    #[tokio::test]
    async fn a_follower_that_filters_gets_as_many_as_it_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().into()).unwrap();
        let (namespace, app) = names();
        logs.append((0..10).map(|seq| record(seq, "x")).collect()).await;
        let even = |record: &LogRecord| record.seq.is_multiple_of(2);
        let mut follower = logs.follow(&namespace, &app, None, 3, even).await.unwrap();
        logs.append(vec![record(11, "odd"), record(12, "even")]).await;
        assert_eq!(seqs(&next(&mut follower, 4).await), [4, 6, 8, 12]);
    }

    #[tokio::test]
    async fn a_follower_that_was_away_for_long_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().into()).unwrap();
        let (namespace, app) = names();
        logs.append((0..12_000).map(|seq| record(seq, "x")).collect()).await;
        let first = logs.tail(&namespace, &app, 10_000, |_| true).await.unwrap()[0].position;
        let mut follower = logs.follow(&namespace, &app, first, 0, |_| true).await.unwrap();
        logs.append(vec![record(12_000, "while it reads")]).await;
        assert_eq!(seqs(&next(&mut follower, 9_999).await), (2001..12_000).collect::<Vec<_>>());
        assert_eq!(seqs(&next(&mut follower, 1).await), [12_000]);
        logs.append(vec![record(12_001, "live")]).await;
        assert_eq!(seqs(&next(&mut follower, 1).await), [12_001]);
    }

    #[tokio::test]
    async fn a_position_of_an_app_that_is_gone_begins_at_the_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().into()).unwrap();
        let (namespace, app) = names();
        logs.append(vec![record(0, "x"), record(1, "x")]).await;
        let mut follower = logs.follow(&namespace, &app, Some(u64::MAX), 0, |_| true).await.unwrap();
        assert_eq!(seqs(&next(&mut follower, 2).await), [0, 1]);
    }

    #[tokio::test]
    async fn a_record_that_the_disk_did_not_take_reaches_followers_without_a_position() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().join("logs")).unwrap();
        let (namespace, app) = names();
        let mut follower = logs.follow(&namespace, &app, None, 0, |_| true).await.unwrap();
        std::fs::write(dir.path().join("logs/default"), "in the way").unwrap();
        logs.append(vec![record(0, "x")]).await;
        assert_eq!(next(&mut follower, 1).await, [Positioned { position: None, record: record(0, "x") }]);
    }

    #[tokio::test]
    async fn records_survive_the_process_and_old_segments_go() {
        let dir = tempfile::tempdir().unwrap();
        let (namespace, app) = names();
        let long = "z".repeat(16 << 10);
        let logs = Logs::open(dir.path().into()).unwrap();
        for batch in 0..40 {
            logs.append((0..64).map(|seq| record(batch * 64 + seq, &long)).collect()).await;
        }
        drop(logs);
        let logs = Logs::open(dir.path().into()).unwrap();
        logs.append(vec![record(9999, "after the restart")]).await;
        let newest = logs.tail(&namespace, &app, 3, |_| true).await.unwrap();
        assert_eq!(seqs(&newest), [2558, 2559, 9999]);
        let kept = std::fs::read_dir(dir.path().join("default/hello")).unwrap().count();
        assert!(kept <= 8, "{kept} segments");
    }

    #[tokio::test]
    async fn a_slow_follower_reads_the_files_and_is_told_only_of_what_they_gave_up() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().into()).unwrap();
        let (namespace, app) = names();
        let mut follower = logs.follow(&namespace, &app, None, 0, |_| true).await.unwrap();
        logs.append((0..2000).map(|seq| record(seq, "x")).collect()).await;
        assert_eq!(seqs(&next(&mut follower, 2000).await), (0..2000).collect::<Vec<_>>());

        let long = "z".repeat(16 << 10);
        for batch in 0..40 {
            logs.append((0..64).map(|seq| record(batch * 64 + seq, &long)).collect()).await;
        }
        let seen = next(&mut follower, 2).await;
        assert_eq!((seen[0].position, seen[0].record.stream), (None, LogStream::Platform));
        assert!(seen[0].record.message.contains("may be missing"), "{}", seen[0].record.message);
        let oldest = logs.tail(&namespace, &app, TAIL_MAX, |_| true).await.unwrap().remove(0);
        assert_eq!(seen[1], oldest);
    }
}
