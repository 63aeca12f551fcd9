//! A database of a PostgreSQL server, which several processes share.
//!
//! What SQLite gives by having one writer holds here by a lock: every transaction that may write takes it first and lets go of it
//! with its end, so that writers, of all processes, come one after the other. Nobody holds anything before that lock, so they
//! never wait for each other in vain, and none of them fails because of another. Readers take no lock.

use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, Postgres};
use tokio::time::Instant;

use super::conn::{Conn, Tx};
use super::lease::{self, Candidate, Leader, Leases};
use super::news::{self, Follower};
use super::query::in_time;
use super::server::{self, About, Server};
use super::{OpenStoreError, PostgresUrl, Result, STATEMENTS, StoreError, migrate_error};

/// One writer works, and the next ones have asked for the lock already. More would only wait at the database instead of here.
const WRITERS: u32 = 4;
const READERS: u32 = 8;
/// How long a request waits for a database that is away, or for its turn.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the one attempt may take that finds out why all others were in vain.
const WHY_MAX: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is asked whether it is still one.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// The first version whose databases have what is used here.
const VERSION_MIN: i32 = 150_000;

const SETTINGS: &str = "SET synchronous_commit = on; SET default_transaction_isolation = 'read committed';
    SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '10s'; SET statement_timeout = '30s'";

/// In READ COMMITTED each statement sees what was committed before it began, and the lock is only free after a commit can be seen: whoever has
/// it sees the newest state until the end of the transaction. The number is Wharf's own, and means nothing. A process that is stopped while it
/// has the lock must not keep all others from theirs, so the database ends a transaction in which nothing happens.
pub(super) const BEGIN_WRITE: &str =
    "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '2s'; SELECT pg_advisory_xact_lock(8246139274)";
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

#[derive(Clone)]
pub(super) struct PostgresStore {
    writes: PgPool,
    reads: PgPool,
    /// With one connection, to be told by.
    listening: PgPool,
    /// With one connection, for the lease.
    leasing: PgPool,
    /// The name of this process, for others.
    origin: Arc<str>,
    /// The newest change of others when it was opened: what is read here is newer.
    opened_at: i64,
}

impl PostgresStore {
    pub(super) async fn open(
        url: &PostgresUrl,
        migrator: &Migrator,
    ) -> std::result::Result<Self, OpenStoreError> {
        let options = url
            .options()
            .map_err(OpenStoreError::Open)?
            .application_name("wharf")
            .statement_cache_capacity(STATEMENTS);
        let pool = |connections: u32| {
            PgPoolOptions::new()
                .max_connections(connections)
                .max_lifetime(None)
                .acquire_timeout(WAIT_MAX)
                .test_before_acquire(false)
                .before_acquire(|conn, meta| {
                    Box::pin(async move { Ok(meta.idle_for < TRUSTED_FOR || conn.ping().await.is_ok()) })
                })
                .after_connect(|conn, _| Box::pin(async move { conn.execute(SETTINGS).await.map(drop) }))
                .connect_lazy_with(options.clone())
        };
        let (writes, reads) = (pool(WRITERS), pool(READERS));
        let (listening, leasing) = (pool(1), pool(1));
        let mut conn = first_of(&writes, &options).await?;
        check(&mut conn).await?;
        migrator.run(&mut *conn).await.map_err(|error| migrate_error(error, open_error))?;
        drop(conn);
        let opened_at = news::newest(&reads).await.map_err(open_error)?;
        let origin = uuid::Uuid::now_v7().to_string().into();
        Ok(Self { writes, reads, listening, leasing, origin, opened_at })
    }

    pub(super) async fn write(&self) -> Result<Tx> {
        begin(&self.writes, BEGIN_WRITE, &self.origin).await
    }

    pub(super) async fn look(&self) -> Result<Conn> {
        Ok(self.reads.acquire().await?.into())
    }

    pub(super) async fn read(&self) -> Result<Tx> {
        begin(&self.reads, BEGIN_READ, &self.origin).await
    }

    pub(super) fn follow(&self) -> Follower {
        Follower::new(self.reads.clone(), self.listening.clone(), self.origin.clone(), self.opened_at)
    }

    pub(super) fn leases(&self, candidate: Candidate) -> Leases {
        Leases::new(self.leasing.clone(), self.origin.clone(), candidate)
    }

    pub(super) async fn leader(&self) -> Result<Option<Leader>> {
        lease::leader(&self.reads).await
    }

    pub(super) async fn announce(&self, about: &About) -> Result<()> {
        server::announce(&self.writes, about).await
    }

    pub(super) async fn leave(&self, id: &str) -> Result<()> {
        server::leave(&self.writes, id).await
    }

    pub(super) async fn servers(&self) -> Result<Vec<Server>> {
        server::list(&self.reads).await
    }

    pub(super) async fn close(&self) {
        self.leasing.close().await;
        self.listening.close().await;
        self.reads.close().await;
        self.writes.close().await;
    }

    /// Answers every new row as a full disk does. Each trigger is made in a transaction of its own: one that made them all would
    /// wait for a table of another transaction that waits for a table of this one.
    #[cfg(test)]
    pub(super) async fn stop_growing(&self, stop: bool) {
        const ACCEPT: &str = "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RETURN NULL; END $$";
        const MAKE: &str = "DO $$ DECLARE name text; BEGIN
            FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
                EXECUTE format('CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON %I EXECUTE FUNCTION refuse()', name);
                COMMIT;
            END LOOP;
        END $$";
        const REFUSE: &str = "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$";
        let mut conn = self.writes.acquire().await.unwrap();
        for statement in if stop { &[ACCEPT, MAKE, REFUSE][..] } else { &[ACCEPT] } {
            conn.execute(*statement).await.unwrap();
        }
    }
}

pub(super) async fn snapshot(url: &PostgresUrl) -> std::result::Result<Conn, OpenStoreError> {
    let options = url.options().map_err(OpenStoreError::Open)?.application_name("wharf");
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(WAIT_MAX);
    let pool = pool.connect_lazy_with(options.clone());
    let mut conn = first_of(&pool, &options).await?;
    conn.execute(BEGIN_READ).await.map_err(open_error)?;
    Ok(conn.into())
}

/// The first connection. A pool waits for a database that is just starting, and in the end says only that it has waited: one more attempt
/// says why.
async fn first_of(
    pool: &PgPool,
    options: &PgConnectOptions,
) -> std::result::Result<PoolConnection<Postgres>, OpenStoreError> {
    match pool.acquire().await {
        Err(sqlx::Error::PoolTimedOut) => {
            let attempt = tokio::time::timeout(WHY_MAX, PgConnection::connect_with(options)).await;
            Err(open_error(match attempt {
                Ok(Err(why)) => why,
                Ok(Ok(_)) | Err(_) => sqlx::Error::PoolTimedOut,
            }))
        }
        first => first.map_err(open_error),
    }
}

/// Begins a transaction. A connection that turns out to be none any more has done nothing yet, so another one is taken.
pub(super) async fn begin(pool: &PgPool, statement: &'static str, origin: &Arc<str>) -> Result<Tx> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let begun = in_time(pool.begin_with(statement)).await;
        match begun.map_err(StoreError::from) {
            Ok(tx) => return Ok(Tx::of_postgres(tx, origin.clone())),
            Err(StoreError::Away(sqlx::Error::Io(_) | sqlx::Error::Database(_)))
                if Instant::now() < deadline =>
            {
                // The broken one is not back in the pool at once.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the database is one that the statements mean the same in.
async fn check(conn: &mut PgConnection) -> std::result::Result<(), OpenStoreError> {
    let (version, by_octets, encoding): (i32, bool, String) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int, 'Z' < 'a' AND '-b' < 'a' AND 'a-b' < 'aa' AND 'z' < 'é',
             current_setting('server_encoding')",
    )
    .fetch_one(conn)
    .await
    .map_err(open_error)?;
    match unfit(version, by_octets && encoding == "UTF8") {
        Some(why) => Err(OpenStoreError::Unfit(why)),
        None => Ok(()),
    }
}

/// Why a database cannot be used, and what to do. The version is as in `server_version_num`.
fn unfit(version: i32, sorts_by_octets: bool) -> Option<String> {
    if version < VERSION_MIN {
        return Some(format!(
            "its server is PostgreSQL {}, and {} or later is needed: upgrade it, or name a database of another server",
            version / 10_000,
            VERSION_MIN / 10_000
        ));
    }
    (!sorts_by_octets).then(|| {
        "it does not sort text by its octets in UTF-8: make one with `CREATE DATABASE wharf TEMPLATE template0 ENCODING 'UTF8' \
         LC_COLLATE 'C' LC_CTYPE 'C'`"
            .to_owned()
    })
}

fn open_error(error: sqlx::Error) -> OpenStoreError {
    match StoreError::from(error) {
        StoreError::Away(error) => OpenStoreError::Away(error),
        StoreError::Database(error) => OpenStoreError::Open(error),
        error => OpenStoreError::Open(sqlx::Error::Protocol(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_15_are_refused_with_their_version_and_what_to_do() {
        for (version, words) in [(140_011, "PostgreSQL 14, and 15 or"), (90_624, "PostgreSQL 9, and 15 or")] {
            let why = unfit(version, true).unwrap();
            assert!(why.contains(words) && why.contains("upgrade it"), "{why}");
        }
        for version in [150_000, 150_012, 170_002] {
            assert_eq!(unfit(version, true), None, "{version}");
        }
    }

    #[test]
    fn the_version_is_said_before_the_way_to_sort() {
        assert!(unfit(140_011, false).unwrap().contains("PostgreSQL 14"));
        assert!(unfit(150_000, false).unwrap().contains("LC_COLLATE 'C'"));
    }
}
