//! Connections and transactions, of either database.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection, Transaction};

use super::group::GroupSync;
use super::query::in_time;
use super::{News, Result, StoreError, news};

/// A connection that statements run on.
pub(crate) struct Conn {
    inner: Inner,
    /// What the transaction changes of what others remember.
    news: BTreeSet<News>,
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
}

impl From<PoolConnection<Sqlite>> for Conn {
    fn from(conn: PoolConnection<Sqlite>) -> Self {
        Self { inner: Inner::LookSqlite(conn), news: BTreeSet::new() }
    }
}

impl From<PoolConnection<Postgres>> for Conn {
    fn from(conn: PoolConnection<Postgres>) -> Self {
        Self { inner: Inner::LookPostgres(conn), news: BTreeSet::new() }
    }
}

/// A transaction. Dropped, it has changed nothing.
pub(crate) struct Tx {
    conn: Conn,
    ending: Ending,
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
        let conn = Conn { inner: Inner::Sqlite(tx), news: BTreeSet::new() };
        Self { conn, ending: Ending::Sync(group, access) }
    }

    pub(super) fn of_postgres(tx: Transaction<'static, Postgres>, origin: Arc<str>) -> Self {
        Self {
            conn: Conn { inner: Inner::Postgres(tx), news: BTreeSet::new() },
            ending: Ending::Tell(origin),
        }
    }

    /// Others see it, and the next writer goes on, before this returns; then it is on the disk.
    pub(crate) async fn commit(self) -> Result<()> {
        let Conn { inner, news } = self.conn;
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
