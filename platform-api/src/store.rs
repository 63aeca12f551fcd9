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
pub(crate) mod authority;
pub(crate) mod build;
pub(crate) mod change;
pub(crate) mod claim;
mod codec;
mod conn;
pub(crate) mod event;
mod group;
pub(crate) mod idempotency;
pub(crate) mod instance;
pub(crate) mod job;
pub(crate) mod joining;
pub(crate) mod keyvalue;
pub(crate) mod lease;
mod location;
pub(crate) mod member;
pub(crate) mod namespace;
pub(crate) mod news;
pub(crate) mod node;
pub(crate) mod once;
pub(crate) mod platform;
pub(crate) mod port;
mod postgres;
mod query;
pub(crate) mod quota;
pub(crate) mod release;
pub(crate) mod repository;
pub(crate) mod requests;
pub(crate) mod rollout;
pub(crate) mod route;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod secret;
pub(crate) mod server;
mod sqlite;
pub(crate) mod stack_preview;
pub(crate) mod surplus;
pub(crate) mod token;
pub(crate) mod transfer;
mod turns;
pub(crate) mod user;
pub(crate) mod volume;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wharf_types::{AppName, NamespaceName};

pub(crate) use conn::{Conn, Tx};
pub(crate) use location::Location;
pub use location::{Database, NotAPostgresUrl, PostgresUrl};
#[cfg(test)]
pub(crate) use query::query;

use lease::{Candidate, Leader, Leases};
use news::Follower;
pub(crate) use news::News;
use postgres::PostgresStore;
use sqlite::SqliteStore;
use turns::Turns;

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// More than there are statements in here, so that a connection parses each of them once.
const STATEMENTS: usize = 700;
/// Requests that stand in line at the database for its only writer: one that has it, and one that can go on at once. The others wait for these in the
/// order they came in, so that what the platform itself has to write waits for these two, and not for everybody who asks for something.
const REQUESTS_IN_LINE: usize = 2;

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
    #[error("this control plane does not lead, or no longer")]
    Deposed,
    /// Nothing was written. The same may succeed later.
    #[error("the database does not answer")]
    Away(#[source] sqlx::Error),
    /// The connection broke while it was committed.
    #[error("the database went away while this was written: it may or may not have been")]
    InDoubt(#[source] sqlx::Error),
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// A request with this `Idempotency-Key` was carried out meanwhile. Nothing was written.
    #[error("a request with this Idempotency-Key was carried out just now")]
    Repeated,
    /// What a request was sent with was looked at by nobody. Nothing was written.
    #[error("{0} of the request was dropped on its way")]
    Unsettled(&'static str),
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
        if is_away(&error) {
            return Self::Away(error);
        }
        match error {
            sqlx::Error::Database(ref database) if database.is_unique_violation() => Self::Taken,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
            error => Self::Database(error),
        }
    }
}

/// Whether the disk has no room left: SQLITE_FULL, the shared memory of the write-ahead log cannot grow, or PostgreSQL's disk_full.
pub(crate) fn is_full(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else { return false };
    matches!(database.code().as_deref(), Some("13" | "4874" | "53100"))
}

/// Whether the database cannot be reached, ends, starts, only reads for now, or is too busy.
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            // Classes 08 (connection), 40 (rolled back) and 53 (resources), and of others: read_only_sql_transaction,
            // idle_in_transaction_session_timeout, lock_not_available, and what an operator does.
            code.len() == 5
                && (["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
                    || ["25006", "25P03", "55P03"].contains(&&*code))
        }),
        _ => false,
    }
}

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenStoreError {
    /// It has a migration that this version does not have, or has as another one, and this version's newest is `knows`.
    #[error("a newer version wrote it: it has migration {has}, and this one those up to {knows}")]
    Newer { has: i64, knows: i64 },
    #[error("it is damaged")]
    Damaged(#[source] sqlx::Error),
    #[error("it does not answer")]
    Away(#[source] sqlx::Error),
    /// The text says why, and what to do.
    #[error("{0}")]
    Unfit(String),
    #[error("it cannot be opened")]
    Open(#[source] sqlx::Error),
    #[error("the thread that writes it to the disk cannot be started")]
    Thread(#[source] io::Error),
    #[error("its tables cannot be brought up to date")]
    Migrate(#[source] MigrateError),
}

#[derive(Clone)]
pub(crate) struct Store {
    kind: Kind,
    /// What requests wait at for their turn to write.
    turns: Arc<Semaphore>,
    /// What guests wait at before that: all of them together are as one that asks.
    guests: Arc<Turns>,
}

#[derive(Clone)]
enum Kind {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl Store {
    /// Opens the database and brings its tables up to date.
    pub(crate) async fn open(location: Location<'_>) -> std::result::Result<Self, OpenStoreError> {
        Self::open_with(location, &MIGRATOR).await
    }

    /// The same, with the tables as they were at a version.
    pub(crate) async fn open_at(
        location: Location<'_>,
        version: i64,
    ) -> std::result::Result<Self, OpenStoreError> {
        if MIGRATOR.iter().all(|migration| migration.version != version) {
            return Err(newer(version));
        }
        let migrations = MIGRATOR.iter().filter(|migration| migration.version <= version).cloned();
        let migrations = Cow::Owned(migrations.collect());
        Self::open_with(location, &Migrator { migrations, ..Migrator::DEFAULT }).await
    }

    async fn open_with(
        location: Location<'_>,
        migrator: &Migrator,
    ) -> std::result::Result<Self, OpenStoreError> {
        let kind = match location {
            Location::File(file) => Kind::Sqlite(SqliteStore::open(file, migrator).await?),
            Location::Postgres(url) => Kind::Postgres(PostgresStore::open(url, migrator).await?),
        };
        Ok(Self { kind, turns: Arc::new(Semaphore::new(REQUESTS_IN_LINE)), guests: Arc::default() })
    }

    /// A snapshot of a database, which may be in use, as it is.
    pub(crate) async fn snapshot(location: Location<'_>) -> std::result::Result<Conn, OpenStoreError> {
        match location {
            Location::File(file) => sqlite::snapshot(file).await,
            Location::Postgres(url) => postgres::snapshot(url).await,
        }
    }

    /// A transaction that may write, for what somebody asked for. It holds the only writer: nothing slow may happen before its end.
    pub(crate) async fn write(&self) -> Result<Tx> {
        let turn = timeout(self.turn_max(), self.turns.clone().acquire_owned()).await;
        let turn = turn.ok().and_then(std::result::Result::ok).ok_or(sqlx::Error::PoolTimedOut)?;
        Ok(self.writer().await?.in_turn(turn))
    }

    /// The same for what the guests of an app keep.
    pub(crate) async fn write_for(&self, namespace: &NamespaceName, app: &AppName) -> Result<Tx> {
        let turn = timeout(self.turn_max(), self.guests.take(namespace, app)).await;
        let turn = turn.map_err(|_| sqlx::Error::PoolTimedOut)?;
        Ok(self.write().await?.in_turn_of_guests(turn))
    }

    /// How long a request waits for its turn.
    fn turn_max(&self) -> Duration {
        match self.kind {
            Kind::Sqlite(_) => sqlite::WAIT_MAX,
            Kind::Postgres(_) => postgres::WAIT_MAX,
        }
    }

    async fn writer(&self) -> Result<Tx> {
        match &self.kind {
            Kind::Sqlite(store) => store.write().await,
            Kind::Postgres(store) => store.write().await,
        }
    }

    /// The newest state, for each statement anew.
    pub(crate) async fn look(&self) -> Result<Conn> {
        match &self.kind {
            Kind::Sqlite(store) => store.look().await,
            Kind::Postgres(store) => store.look().await,
        }
    }

    /// How often a commit has changed who may do what. Whoever has read that since the last change may go on with it: nobody else writes to this
    /// database. None: others do.
    pub(crate) fn access(&self) -> Option<u64> {
        match &self.kind {
            Kind::Sqlite(store) => Some(store.access()),
            Kind::Postgres(_) => None,
        }
    }

    /// A transaction for what the leader of this epoch has planned. However many requests there are, only those in line at the database come
    /// before it. Once another leads, which may have decided otherwise, it writes nothing of that any more. Nobody can begin to lead before the
    /// end of this transaction: that is a write, too.
    pub(crate) async fn write_as(&self, epoch: u64) -> Result<Tx> {
        let mut tx = self.writer().await?;
        if change::starts(&mut tx).await? != epoch {
            return Err(StoreError::Deposed);
        }
        Ok(tx)
    }

    /// A snapshot to read from.
    pub(crate) async fn read(&self) -> Result<Tx> {
        match &self.kind {
            Kind::Sqlite(store) => store.read().await,
            Kind::Postgres(store) => store.read().await,
        }
    }

    /// What other processes change on the same database from when it was opened. None: there are no others.
    pub(crate) fn follow(&self) -> Option<Follower> {
        match &self.kind {
            Kind::Sqlite(_) => None,
            Kind::Postgres(store) => Some(store.follow()),
        }
    }

    /// The way to the lease for one process. None: there are no others.
    pub(crate) fn leases(&self, candidate: Candidate) -> Option<Leases> {
        match &self.kind {
            Kind::Sqlite(_) => None,
            Kind::Postgres(store) => Some(store.leases(candidate)),
        }
    }

    /// Who leads, of several. None: nobody for now, or there is only one.
    pub(crate) async fn leader(&self) -> Result<Option<Leader>> {
        match &self.kind {
            Kind::Sqlite(_) => Ok(None),
            Kind::Postgres(store) => store.leader().await,
        }
    }

    /// Says to others that a server is there.
    pub(crate) async fn announce(&self, about: &server::About) -> Result<()> {
        match &self.kind {
            Kind::Sqlite(_) => Ok(()),
            Kind::Postgres(store) => store.announce(about).await,
        }
    }

    /// Says to others that a server is about to end.
    pub(crate) async fn leave(&self, id: &str) -> Result<()> {
        match &self.kind {
            Kind::Sqlite(_) => Ok(()),
            Kind::Postgres(store) => store.leave(id).await,
        }
    }

    /// The servers that share the database. None: there can be only one.
    pub(crate) async fn servers(&self) -> Result<Option<Vec<server::Server>>> {
        match &self.kind {
            Kind::Sqlite(_) => Ok(None),
            Kind::Postgres(store) => store.servers().await.map(Some),
        }
    }

    pub(crate) async fn close(&self) {
        match &self.kind {
            Kind::Sqlite(store) => store.close().await,
            Kind::Postgres(store) => store.close().await,
        }
    }

    /// Lets the database grow no further, as on a full disk.
    #[cfg(test)]
    pub(crate) async fn stop_growing(&self, stop: bool) {
        match &self.kind {
            Kind::Sqlite(store) => store.stop_growing(stop).await,
            Kind::Postgres(store) => store.stop_growing(stop).await,
        }
    }
}

fn migrate_error(error: MigrateError, open_error: fn(sqlx::Error) -> OpenStoreError) -> OpenStoreError {
    match error {
        MigrateError::VersionMissing(version)
        | MigrateError::VersionMismatch(version)
        | MigrateError::VersionTooNew(version, _) => newer(version),
        MigrateError::Execute(error) => open_error(error),
        error => OpenStoreError::Migrate(error),
    }
}

fn newer(has: i64) -> OpenStoreError {
    let knows = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default();
    OpenStoreError::Newer { has, knows }
}
