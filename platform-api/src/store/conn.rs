//! Connections and transactions, of either database.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection, Transaction};
use tokio::sync::OwnedSemaphorePermit;

use super::group::GroupSync;
use super::query::{self, Query, in_time};
use super::turns::Turn;
use super::{News, Result, StoreError, news};

/// Statements that are put off at most. All of them together are one for the database, which knows it again when it comes again.
const LATER_MAX: usize = 16;

/// A connection that statements run on.
pub(crate) struct Conn {
    inner: Inner,
    /// What the transaction changes of what others remember.
    news: BTreeSet<News>,
    /// Statements that run before the next one, or with the commit: nobody waits for what they say.
    later: Vec<Query>,
}

enum Inner {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
    LookSqlite(PoolConnection<Sqlite>),
    LookPostgres(PoolConnection<Postgres>),
}

/// Where a connection leads to.
pub(super) enum Link<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

impl Conn {
    fn new(inner: Inner) -> Self {
        Self { inner, news: BTreeSet::new(), later: Vec::new() }
    }

    pub(super) fn link(&mut self) -> Link<'_> {
        match &mut self.inner {
            Inner::Sqlite(tx) => Link::Sqlite(tx),
            Inner::Postgres(tx) => Link::Postgres(tx),
            Inner::LookSqlite(conn) => Link::Sqlite(conn),
            Inner::LookPostgres(conn) => Link::Postgres(conn),
        }
    }

    /// Has the commit tell other processes. There are none on SQLite, where the commit only counts changes of [`News::Access`].
    pub(super) fn note(&mut self, news: News) {
        let is_for_others = matches!(self.inner, Inner::Postgres(_));
        if is_for_others || news == News::Access {
            self.news.insert(news);
        }
    }

    /// Has a statement run later, or now where many wait already.
    pub(super) async fn put_off(&mut self, query: Query) -> sqlx::Result<()> {
        self.later.push(query);
        if self.later.len() >= LATER_MAX { self.catch_up().await } else { Ok(()) }
    }

    /// Runs what was put off.
    pub(super) async fn catch_up(&mut self) -> sqlx::Result<()> {
        if self.later.is_empty() {
            return Ok(());
        }
        let later = std::mem::take(&mut self.later);
        query::run_all(later, self.link()).await
    }
}

impl From<PoolConnection<Sqlite>> for Conn {
    fn from(conn: PoolConnection<Sqlite>) -> Self {
        Self::new(Inner::LookSqlite(conn))
    }
}

impl From<PoolConnection<Postgres>> for Conn {
    fn from(conn: PoolConnection<Postgres>) -> Self {
        Self::new(Inner::LookPostgres(conn))
    }
}

/// A transaction. Dropped, it has changed nothing.
pub(crate) struct Tx {
    conn: Conn,
    ending: Ending,
    turn: Option<OwnedSemaphorePermit>,
    guests: Option<Turn>,
}

/// What comes with a commit.
enum Ending {
    /// What makes it durable, which the commit of SQLite itself does not, and what counts changes of who may do what.
    Sync(Arc<GroupSync>, Arc<AtomicU64>),
    /// The name under which other processes are told.
    Tell(Arc<str>),
}

impl Tx {
    pub(super) fn of_sqlite(
        tx: Transaction<'static, Sqlite>,
        group: Arc<GroupSync>,
        access: Arc<AtomicU64>,
    ) -> Self {
        Self::new(Inner::Sqlite(tx), Ending::Sync(group, access))
    }

    pub(super) fn of_postgres(tx: Transaction<'static, Postgres>, origin: Arc<str>) -> Self {
        Self::new(Inner::Postgres(tx), Ending::Tell(origin))
    }

    fn new(inner: Inner, ending: Ending) -> Self {
        Self { conn: Conn::new(inner), ending, turn: None, guests: None }
    }

    /// Keeps the turn of a request until others can write.
    pub(super) fn in_turn(self, turn: OwnedSemaphorePermit) -> Self {
        Self { turn: Some(turn), ..self }
    }

    /// The same of the turn of an app's guests.
    pub(super) fn in_turn_of_guests(self, turn: Turn) -> Self {
        Self { guests: Some(turn), ..self }
    }

    /// Others see it, and the next writer goes on, before this returns; then it is on the disk.
    pub(crate) async fn commit(mut self) -> Result<()> {
        self.conn.catch_up().await?;
        let Conn { inner, news, .. } = self.conn;
        match (inner, self.ending) {
            (Inner::Sqlite(tx), Ending::Sync(group, access)) => {
                if news.contains(&News::Access) {
                    // Whoever asked may go away meanwhile, and then a commit that was begun happens all the same.
                    let counted = tokio::spawn(async move {
                        let committed = tx.commit().await;
                        // Also after a failure, which may have come behind the commit.
                        access.fetch_add(1, Ordering::SeqCst);
                        committed
                    });
                    counted.await.map_err(|_| sqlx::Error::WorkerCrashed)??;
                } else {
                    tx.commit().await?;
                }
                // The next one need not wait for the disk.
                drop((self.turn, self.guests));
                group.durable().await
            }
            (Inner::Postgres(mut tx), Ending::Tell(origin)) => {
                if !news.is_empty() {
                    news::tell(&mut tx, &origin, &news).await?;
                }
                in_time(tx.commit()).await.map_err(in_doubt)
            }
            _ => Ok(()),
        }
    }
}

/// When the connection breaks between the commit and its answer, nobody knows here whether it was carried out.
fn in_doubt(error: sqlx::Error) -> StoreError {
    match StoreError::from(error) {
        StoreError::Away(error) => StoreError::InDoubt(error),
        error => error,
    }
}

impl Deref for Tx {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::join_all;
    use wharf_types::NamespaceName;

    use super::super::query::{query, query_as};
    use super::*;
    use crate::tests::database;

    const COUNT: &str = "UPDATE counter SET value = value + 1 WHERE name = $1";

    async fn counted(conn: &mut Conn) -> i64 {
        let (value,): (i64,) = query_as("SELECT value FROM counter WHERE name = $1")
            .bind("event")
            .fetch_one(conn)
            .await
            .unwrap();
        value
    }

    #[tokio::test]
    async fn what_is_put_off_runs_before_the_next_statement_or_with_the_commit_or_never() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let before = counted(&mut tx).await;
        query(COUNT).bind("event").later(&mut tx).await.unwrap();
        query("UPDATE counter SET value = value * $2 WHERE name = $1")
            .bind("event")
            .bind(10)
            .later(&mut tx)
            .await
            .unwrap();
        assert_eq!(counted(&mut tx).await, (before + 1) * 10, "in their order, each with its own values");
        query(COUNT).bind("event").later(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let now = (before + 1) * 10 + 1;
        assert_eq!(counted(&mut store.look().await.unwrap()).await, now);

        let mut tx = store.write().await.unwrap();
        query(COUNT).bind("event").later(&mut tx).await.unwrap();
        drop(tx);
        let mut tx = store.write().await.unwrap();
        assert_eq!(counted(&mut tx).await, now);
        for _ in 0..3 * LATER_MAX + 1 {
            query(COUNT).bind("event").later(&mut tx).await.unwrap();
            assert!(tx.later.len() < LATER_MAX);
        }
        assert_eq!(counted(&mut tx).await, now + i64::try_from(3 * LATER_MAX + 1).unwrap());
    }

    #[tokio::test]
    async fn what_is_put_off_and_fails_is_not_committed() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let before = counted(&mut tx).await;
        query(COUNT).bind("event").later(&mut tx).await.unwrap();
        query("INSERT INTO counter (name, value) VALUES ($1, 0)").bind("event").later(&mut tx).await.unwrap();
        assert!(matches!(tx.commit().await, Err(StoreError::Taken)));
        assert_eq!(counted(&mut store.look().await.unwrap()).await, before);
    }

    #[tokio::test]
    async fn what_the_platform_writes_waits_for_no_long_line_of_requests() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let epoch = super::super::change::starts(&mut tx).await.unwrap();
        drop(tx);
        // So that nobody waits for a connection to be made.
        join_all((0..4).map(async |_| store.write_as(epoch).await.unwrap().commit().await.unwrap())).await;
        let tx = store.write().await.unwrap();
        let order = Mutex::new(Vec::new());
        let requests = join_all((0..20).map(async |_| {
            let tx = store.write().await.unwrap();
            order.lock().unwrap().push("request");
            tx.commit().await.unwrap();
        }));
        let platform = async {
            let tx = store.write_as(epoch).await.unwrap();
            order.lock().unwrap().push("platform");
            tx.commit().await.unwrap();
        };
        let mut all = Box::pin(async { tokio::join!(requests, platform) });
        // All of them wait now.
        assert!(futures::poll!(&mut all).is_pending());
        drop(tx);
        all.await;
        let at = order.lock().unwrap().iter().position(|who| *who == "platform").unwrap();
        assert!(at <= 2, "{:?}", order.lock().unwrap());
    }

    #[tokio::test]
    async fn apps_take_turns_to_write_what_their_guests_keep() {
        let (_dir, store) = database::store().await;
        let namespace: NamespaceName = "one".parse().unwrap();
        let first = store.write_for(&namespace, &"loud".parse().unwrap()).await.unwrap();
        let order = Mutex::new(Vec::new());
        let apps = (0..10).map(|_| "loud").chain(["calm"]);
        let mut all = Box::pin(join_all(apps.map(async |app: &'static str| {
            let tx = store.write_for(&namespace, &app.parse().unwrap()).await.unwrap();
            order.lock().unwrap().push(app);
            tx.commit().await.unwrap();
        })));
        // All of them wait now.
        assert!(futures::poll!(&mut all).is_pending());
        drop(first);
        all.await;
        let order = order.lock().unwrap();
        assert_eq!((order.len(), order[1]), (11, "calm"), "{order:?}");
    }
}
