//! The database: what survives a restart.
//!
//! All SQL is in here, one file per table, and every statement is valid on SQLite and on PostgreSQL. Functions take the
//! connection first, so that operations put several of them in one transaction. A change of state is a guarded update that
//! says whether it applied.

pub(crate) mod app;
pub(crate) mod apply;
pub(crate) mod archive;
pub(crate) mod artifact;
pub(crate) mod audit;
pub(crate) mod change;
mod codec;
pub(crate) mod event;
mod group;
pub(crate) mod idempotency;
pub(crate) mod instance;
pub(crate) mod job;
pub(crate) mod joining;
pub(crate) mod keyvalue;
pub(crate) mod member;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod port;
pub(crate) mod quota;
pub(crate) mod release;
pub(crate) mod requests;
pub(crate) mod rollout;
pub(crate) mod route;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod secret;
pub(crate) mod token;
pub(crate) mod user;
pub(crate) mod volume;

use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Connection, Sqlite, Transaction};

use group::GroupSync;

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Readers beside the one writer.
const READERS: u32 = 4;
/// More than there are statements in here, so that a connection parses each of them once.
const STATEMENTS: usize = 500;

pub(crate) type Conn = SqliteConnection;
pub(crate) type Result<T> = std::result::Result<T, StoreError>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Nothing was written; what was there before is whole.
    #[error("the disk is full")]
    Full,
    /// A named constraint was violated.
    #[error("it exists already")]
    Taken,
    #[error("a row of the database cannot be read: {0}")]
    Corrupt(String),
    #[error("another control plane has started on this database, and plans from now on")]
    Deposed,
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// It may or may not have been written.
    #[error(
        "the disk failed to keep what was written; nothing more is acknowledged until the control plane has been restarted"
    )]
    NotKept(#[source] Arc<io::Error>),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_full(&error) {
            return Self::Full;
        }
        match error {
            sqlx::Error::Database(ref database) if database.is_unique_violation() => Self::Taken,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
            error => Self::Database(error),
        }
    }
}

/// Whether the disk has no room left: SQLITE_FULL, or the shared memory of the write-ahead log cannot grow.
pub(crate) fn is_full(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else { return false };
    matches!(database.code().as_deref(), Some("13" | "4874"))
}

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenStoreError {
    #[error("a newer version wrote it")]
    Newer,
    #[error("it is damaged")]
    Damaged(#[source] sqlx::Error),
    #[error("it cannot be opened")]
    Open(#[source] sqlx::Error),
    #[error("the thread that writes it to the disk cannot be started")]
    Thread(#[source] io::Error),
    #[error("its tables cannot be brought up to date")]
    Migrate(#[source] MigrateError),
}

/// SQLite has one writer at a time, so there is one connection for writes: writers queue in order instead of failing
/// with "busy". Readers see the last commit and never wait.
#[derive(Clone)]
pub(crate) struct Store {
    writes: SqlitePool,
    reads: SqlitePool,
    group: Arc<GroupSync>,
}

impl Store {
    pub(crate) async fn open(file: &Path) -> std::result::Result<Self, OpenStoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What is missing to FULL is done for many commits at once.
            .synchronous(SqliteSynchronous::Normal)
            .statement_cache_capacity(STATEMENTS)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let writes = SqlitePoolOptions::new()
            .max_connections(1)
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
        MIGRATOR.run(&writes).await.map_err(migrate_error)?;
        let reads = SqlitePoolOptions::new()
            .max_connections(READERS)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options.create_if_missing(false));
        let group = Arc::new(GroupSync::of_log(file).map_err(OpenStoreError::Thread)?);
        Ok(Self { writes, reads, group })
    }

    /// A transaction that may write. It holds the only writer: nothing slow may happen before its end.
    pub(crate) async fn write(&self) -> Result<Tx> {
        let inner = self.writes.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Tx { inner, group: self.group.clone() })
    }

    /// The newest state, for each statement anew.
    pub(crate) async fn look(&self) -> Result<PoolConnection<Sqlite>> {
        Ok(self.reads.acquire().await?)
    }

    /// The same for what the process of this epoch has planned. Once another has started, which may have decided otherwise, it writes
    /// nothing of that any more. In PostgreSQL the counter's row would have to be locked until the commit.
    pub(crate) async fn write_as(&self, epoch: u64) -> Result<Tx> {
        let mut tx = self.write().await?;
        if change::starts(&mut tx).await? != epoch {
            return Err(StoreError::Deposed);
        }
        Ok(tx)
    }

    /// A snapshot to read from.
    pub(crate) async fn read(&self) -> Result<Tx> {
        Ok(Tx { inner: self.reads.begin().await?, group: self.group.clone() })
    }

    pub(crate) async fn close(&self) {
        self.reads.close().await;
        self.writes.close().await;
    }

    /// Lets the database grow no further, as on a full disk.
    #[cfg(test)]
    pub(crate) async fn stop_growing(&self, stop: bool) {
        let mut conn = self.writes.acquire().await.unwrap();
        let statement = if stop { "PRAGMA max_page_count = 1" } else { "PRAGMA max_page_count = 1073741823" };
        sqlx::query(statement).execute(&mut *conn).await.unwrap();
    }
}

/// A transaction. Dropped, it has changed nothing.
pub(crate) struct Tx {
    inner: Transaction<'static, Sqlite>,
    group: Arc<GroupSync>,
}

impl Tx {
    /// Others see it, and the next writer goes on, before this returns; then it is on the disk.
    pub(crate) async fn commit(self) -> Result<()> {
        self.inner.commit().await?;
        self.group.durable().await
    }
}

impl Deref for Tx {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.inner
    }
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

fn migrate_error(error: MigrateError) -> OpenStoreError {
    match error {
        MigrateError::VersionMissing(_)
        | MigrateError::VersionMismatch(_)
        | MigrateError::VersionTooNew(..) => OpenStoreError::Newer,
        MigrateError::Execute(error) => open_error(error),
        error => OpenStoreError::Migrate(error),
    }
}
