//! What guests print: kept in files, a folder for each app, and sent on to those who follow.
//!
//! `DIR/<namespace>/<app>/<number>.ndjson` are segments; the newest is appended to, the oldest goes when there are too many.
//! A record's position is its segment's number and its offset in it, in one number that only grows.

mod segment;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;
use tracing::warn;
use wharf_types::log::{LogRecord, LogStream};
use wharf_types::{AppName, NamespaceName, Timestamp};

use segment::Segments;

/// Records that a slow follower may lag behind before it loses some.
const FOLLOWER_LAG: usize = 1024;
/// The most that `tail` returns.
pub(crate) const TAIL_MAX: usize = 10_000;

/// A record and its position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Positioned {
    pub(crate) position: u64,
    pub(crate) record: LogRecord,
}

pub(crate) struct Logs {
    dir: PathBuf,
    apps: Mutex<HashMap<(NamespaceName, AppName), Arc<AppLog>>>,
}

struct AppLog {
    /// Held while appending, so that positions go to followers in their order.
    segments: Mutex<Segments>,
    live: broadcast::Sender<Arc<Positioned>>,
}

impl Logs {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir, apps: Mutex::default() })
    }

    /// Appends records of any apps. Those that the disk does not take still reach the followers; the gap is recorded later.
    pub(crate) async fn append(&self, records: Vec<LogRecord>) {
        let mut by_app: HashMap<(NamespaceName, AppName), Vec<LogRecord>> = HashMap::new();
        for record in records {
            by_app.entry((record.namespace.clone(), record.app.clone())).or_default().push(record);
        }
        for ((namespace, app), records) in by_app {
            let log = self.app(&namespace, &app);
            let append = move || {
                let mut segments = log.segments.lock().unwrap_or_else(PoisonError::into_inner);
                let appended = segments.append(records);
                if let Some(error) = appended.error {
                    warn!("records of {app} in {namespace} could not be kept: {error}");
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
        app: &AppName,
        count: usize,
        accept: impl Fn(&LogRecord) -> bool + Send + 'static,
    ) -> io::Result<Vec<Positioned>> {
        let log = self.app(namespace, app);
        blocking(move || log.lock().tail(count.min(TAIL_MAX), accept)).await
    }

    /// Every record after a position that is still kept, and then what comes. A follower that has seen nothing begins with
    /// the newest `tail` records.
    pub(crate) async fn follow(
        &self,
        namespace: &NamespaceName,
        app: &AppName,
        after: Option<u64>,
        tail: usize,
    ) -> io::Result<(Vec<Positioned>, Follower)> {
        let log = self.app(namespace, app);
        let identity = (namespace.clone(), app.clone());
        blocking(move || {
            let segments = log.lock();
            // While the lock is held nothing is appended, so nothing falls between the two.
            let live = log.live.subscribe();
            let before = match after {
                Some(position) => segments.after(position, TAIL_MAX)?,
                None => segments.tail(tail.min(TAIL_MAX), |_| true)?,
            };
            let last = before.last().map(|record| (record.position, record.record.clone()));
            Ok((before, Follower { live, last, identity }))
        })
        .await
    }

    /// Takes away what an app printed.
    pub(crate) async fn remove(&self, namespace: &NamespaceName, app: &AppName) {
        let dir = self.dir.join(namespace.as_str()).join(app.as_str());
        self.apps.lock().unwrap_or_else(PoisonError::into_inner).remove(&(namespace.clone(), app.clone()));
        match tokio::fs::remove_dir_all(&dir).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!("the log records of {app} in {namespace} could not be removed: {error}");
            }
            _ => {}
        }
    }

    fn app(&self, namespace: &NamespaceName, app: &AppName) -> Arc<AppLog> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let log = apps.entry((namespace.clone(), app.clone())).or_insert_with(|| {
            let dir = self.dir.join(namespace.as_str()).join(app.as_str());
            Arc::new(AppLog {
                segments: Mutex::new(Segments::new(dir)),
                live: broadcast::Sender::new(FOLLOWER_LAG),
            })
        });
        log.clone()
    }
}

impl AppLog {
    fn lock(&self) -> std::sync::MutexGuard<'_, Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives an app's records as they come.
pub(crate) struct Follower {
    live: broadcast::Receiver<Arc<Positioned>>,
    last: Option<(u64, LogRecord)>,
    identity: (NamespaceName, AppName),
}

impl Follower {
    /// The next record. None: the app is gone. A follower that was too slow gets a record that says how many it missed.
    pub(crate) async fn next(&mut self) -> Option<Positioned> {
        match self.live.recv().await {
            Ok(record) => {
                self.last = Some((record.position, record.record.clone()));
                Some(Positioned::clone(&record))
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(self.gap(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    fn gap(&self, missed: u64) -> Positioned {
        let (position, like) = match &self.last {
            Some((position, like)) => (*position, Some(like)),
            None => (0, None),
        };
        let record = LogRecord {
            time: Timestamp::now(),
            namespace: self.identity.0.clone(),
            app: self.identity.1.clone(),
            release: like.map_or(0, |like| like.release),
            instance: like
                .map_or(wharf_types::InstanceId::from_uuid(uuid::Uuid::nil()), |like| like.instance),
            stream: LogStream::Platform,
            seq: like.map_or(0, |like| like.seq),
            message: format!("dropped {missed} records: this reader was too slow for them"),
        };
        Positioned { position, record }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use wharf_types::InstanceId;

    use super::*;

    fn record(seq: u64, message: &str) -> LogRecord {
        LogRecord {
            time: Timestamp::UNIX_EPOCH,
            namespace: "default".parse().unwrap(),
            app: "hello".parse().unwrap(),
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

    #[tokio::test]
    async fn a_follower_gets_the_tail_and_then_what_comes_and_can_resume() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().into()).unwrap();
        let (namespace, app) = names();
        logs.append((0..5).map(|seq| record(seq, "x")).collect()).await;
        let (before, mut follower) = logs.follow(&namespace, &app, None, 2).await.unwrap();
        assert_eq!(seqs(&before), [3, 4]);
        logs.append(vec![record(5, "y")]).await;
        let next = follower.next().await.unwrap();
        assert_eq!(next.record.seq, 5);
        let (resumed, _) = logs.follow(&namespace, &app, Some(before[0].position), 0).await.unwrap();
        assert_eq!(seqs(&resumed), [4, 5]);
        assert_eq!(resumed[1].position, next.position);
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
    async fn a_slow_follower_is_told_what_it_missed() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().into()).unwrap();
        let (namespace, app) = names();
        let (_, mut follower) = logs.follow(&namespace, &app, None, 0).await.unwrap();
        logs.append((0..2000).map(|seq| record(seq, "x")).collect()).await;
        let first = follower.next().await.unwrap();
        assert_eq!(first.record.stream, LogStream::Platform);
        assert!(first.record.message.starts_with("dropped 976 records"), "{}", first.record.message);
        assert_eq!(follower.next().await.unwrap().record.seq, 976);
    }
}
