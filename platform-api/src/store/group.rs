//! Makes commits durable, many at a time.
//!
//! SQLite commits to its write-ahead log without waiting for the disk (`synchronous = NORMAL`); a commit is acknowledged when a sync
//! of that log that began after it has ended. While one sync is under way the next commits gather, and share the next one. A
//! checkpoint, and the first commit after one, are synced by SQLite itself, so the database is whole whatever the moment of a crash
//! (<https://www.sqlite.org/pragma.html#pragma_synchronous>).

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};

use tokio::sync::oneshot;

use super::{Result, StoreError};

type Outcome = std::result::Result<(), Arc<io::Error>>;

/// Ends its thread when it is dropped.
pub(super) struct GroupSync {
    waiting: mpsc::Sender<oneshot::Sender<Outcome>>,
}

impl GroupSync {
    /// For the log of the database in `file`.
    pub(super) fn of_log(file: &Path) -> io::Result<Self> {
        let mut name = file.as_os_str().to_owned();
        name.push("-wal");
        // SQLite may put another file in its place, so it is opened each time. It has no locks that closing it could lose.
        Self::start(move || match File::open(&name) {
            // It goes when all of it is in the database, and that on the disk.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            log => log?.sync_data(),
        })
    }

    fn start(sync: impl FnMut() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (waiting, queue) = mpsc::channel();
        std::thread::Builder::new().name("wharf-commits".to_owned()).spawn(move || serve(&queue, sync))?;
        Ok(Self { waiting })
    }

    /// Waits until everything that was committed before this call is on the disk.
    pub(super) async fn durable(&self) -> Result<()> {
        let (done, synced) = oneshot::channel();
        let sent = self.waiting.send(done);
        match sent.ok().zip(synced.await.ok()) {
            Some(((), Ok(()))) => Ok(()),
            Some(((), Err(error))) => Err(StoreError::NotKept(error)),
            None => Err(StoreError::Database(sqlx::Error::WorkerCrashed)),
        }
    }
}

fn serve(queue: &mpsc::Receiver<oneshot::Sender<Outcome>>, mut sync: impl FnMut() -> io::Result<()>) {
    let mut outcome = Ok(());
    while let Ok(first) = queue.recv() {
        let group: Vec<_> = std::iter::once(first).chain(queue.try_iter()).collect();
        // What a failed sync did not write is gone from the kernel's memory as well, and a later one would not miss it: nothing is
        // acknowledged any more.
        if outcome.is_ok() {
            outcome = sync().map_err(Arc::new);
        }
        for waiting in group {
            // Who has gone does not need to know.
            let _ = waiting.send(outcome.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use futures::future::join_all;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[tokio::test]
    async fn commits_that_wait_share_one_sync_which_began_after_them() {
        let (began, mut begins) = unbounded_channel();
        let (end, ends) = mpsc::channel();
        let group = GroupSync::start(move || {
            began.send(()).unwrap();
            ends.recv().unwrap();
            Ok(())
        })
        .unwrap();
        let mut first = Box::pin(group.durable());
        assert!(futures::poll!(&mut first).is_pending());
        begins.recv().await.unwrap();
        // These come while a sync is under way, which may have looked at the log before they were in it.
        let mut later = Box::pin(join_all((0..50).map(|_| group.durable())));
        assert!(futures::poll!(&mut later).is_pending());
        end.send(()).unwrap();
        first.await.unwrap();
        begins.recv().await.unwrap();
        assert!(futures::poll!(&mut later).is_pending(), "the first sync is not theirs");
        end.send(()).unwrap();
        assert!(later.await.iter().all(std::result::Result::is_ok));
        assert!(begins.try_recv().is_err(), "one sync was enough for all of them");
    }

    #[tokio::test]
    async fn after_a_failed_sync_nothing_is_acknowledged() {
        let syncs = Arc::new(AtomicU32::new(0));
        let count = syncs.clone();
        let group = GroupSync::start(move || match count.fetch_add(1, SeqCst) {
            1 => Err(io::Error::other("the disk is gone")),
            _ => Ok(()),
        })
        .unwrap();
        group.durable().await.unwrap();
        for _ in 0..2 {
            let error = group.durable().await.unwrap_err();
            assert!(
                matches!(&error, StoreError::NotKept(cause) if cause.to_string() == "the disk is gone"),
                "{error}"
            );
        }
        assert_eq!(syncs.load(SeqCst), 2);
    }
}
