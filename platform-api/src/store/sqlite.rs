//! A database in a file of this machine, for this process alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Connection;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::conn::{Conn, Tx};
use super::group::GroupSync;
use super::{OpenStoreError, Result, STATEMENTS, migrate_error};

/// How long a request waits for its turn: as long as the disk may take for what others write.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(30);
/// Readers beside the one writer.
const READERS: u32 = 4;

/// Rows that the thread of a connection has read ahead. It goes to sleep where there is no room for the next one, and whoever reads
/// has to wake it up again: for a thousand rows that would cost more than they do.
const ROWS_AHEAD: usize = 1024;

/// SQLite has one writer at a time, so there is one connection for writes: writers queue in order instead of failing
/// with "busy". Readers see the last commit and never wait.
#[derive(Clone)]
pub(super) struct SqliteStore {
    writes: SqlitePool,
    reads: SqlitePool,
    group: Arc<GroupSync>,
    access: Arc<AtomicU64>,
}

impl SqliteStore {
    pub(super) async fn open(file: &Path, migrator: &Migrator) -> std::result::Result<Self, OpenStoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What is missing to FULL is done for many commits at once.
            .synchronous(SqliteSynchronous::Normal)
            .statement_cache_capacity(STATEMENTS)
            .row_buffer_size(ROWS_AHEAD)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let writes = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(WAIT_MAX)
            .idle_timeout(None)
            .max_lifetime(None)
            // There is no network to ask whether it is still there.
            .test_before_acquire(false)
            // SQLite ends a transaction by itself when the disk is full, and sqlx then believes for ever that it is in one.
            // Such a connection is closed, so that the next writer gets a new one.
            .before_acquire(|conn, _| Box::pin(async move { Ok(!conn.is_in_transaction()) }))
            .connect_with(options.clone())
            .await
            .map_err(open_error)?;
        migrator.run(&writes).await.map_err(|error| migrate_error(error, open_error))?;
        let reads = SqlitePoolOptions::new()
            .max_connections(READERS)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options.create_if_missing(false));
        let group = Arc::new(GroupSync::of_log(file).map_err(OpenStoreError::Thread)?);
        Ok(Self { writes, reads, group, access: Arc::default() })
    }

    pub(super) async fn write(&self) -> Result<Tx> {
        let tx = self.writes.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Tx::of_sqlite(tx, self.group.clone(), self.access.clone()))
    }

    pub(super) fn access(&self) -> u64 {
        self.access.load(Ordering::SeqCst)
    }

    pub(super) async fn look(&self) -> Result<Conn> {
        Ok(self.reads.acquire().await?.into())
    }

    pub(super) async fn read(&self) -> Result<Tx> {
        Ok(Tx::of_sqlite(self.reads.begin().await?, self.group.clone(), self.access.clone()))
    }

    pub(super) async fn close(&self) {
        self.reads.close().await;
        self.writes.close().await;
    }

    /// Lets the database grow no further, as on a full disk.
    #[cfg(test)]
    pub(super) async fn stop_growing(&self, stop: bool) {
        let mut conn = self.writes.acquire().await.unwrap();
        let statement = if stop { "PRAGMA max_page_count = 1" } else { "PRAGMA max_page_count = 1073741823" };
        sqlx::query(statement).execute(&mut *conn).await.unwrap();
    }
}

pub(super) async fn snapshot(file: &Path) -> std::result::Result<Conn, OpenStoreError> {
    let options =
        SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(Duration::from_secs(10));
    let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options);
    let mut conn = pool.acquire().await.map_err(open_error)?;
    sqlx::query("BEGIN").execute(&mut *conn).await.map_err(open_error)?;
    Ok(conn.into())
}

fn open_error(error: sqlx::Error) -> OpenStoreError {
    match &error {
        // SQLITE_CORRUPT and SQLITE_NOTADB.
        sqlx::Error::Database(database) if matches!(database.code().as_deref(), Some("11" | "26")) => {
            OpenStoreError::Damaged(error)
        }
        _ => OpenStoreError::Open(error),
    }
}
