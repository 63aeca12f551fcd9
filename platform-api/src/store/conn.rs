//! Connections and transactions, of either database.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection, Transaction};

use super::group::GroupSync;
use super::query::in_time;
use super::{Result, StoreError};

/// A connection that statements run on.
pub(crate) struct Conn(Inner);

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
        match &mut self.0 {
            Inner::Sqlite(tx) => Link::Sqlite(tx),
            Inner::Postgres(tx) => Link::Postgres(tx),
            Inner::LookSqlite(conn) => Link::Sqlite(conn),
            Inner::LookPostgres(conn) => Link::Postgres(conn),
        }
    }
}

impl From<PoolConnection<Sqlite>> for Conn {
    fn from(conn: PoolConnection<Sqlite>) -> Self {
        Self(Inner::LookSqlite(conn))
    }
}

impl From<PoolConnection<Postgres>> for Conn {
    fn from(conn: PoolConnection<Postgres>) -> Self {
        Self(Inner::LookPostgres(conn))
    }
}

/// A transaction. Dropped, it has changed nothing.
pub(crate) struct Tx {
    conn: Conn,
    /// What makes its commit durable, where the commit itself does not.
    group: Option<Arc<GroupSync>>,
}

impl Tx {
    pub(super) fn of_sqlite(tx: Transaction<'static, Sqlite>, group: Arc<GroupSync>) -> Self {
        Self { conn: Conn(Inner::Sqlite(tx)), group: Some(group) }
    }

    pub(super) fn of_postgres(tx: Transaction<'static, Postgres>) -> Self {
        Self { conn: Conn(Inner::Postgres(tx)), group: None }
    }

    /// Others see it, and the next writer goes on, before this returns; then it is on the disk.
    pub(crate) async fn commit(self) -> Result<()> {
        match self.conn.0 {
            Inner::Sqlite(tx) => tx.commit().await?,
            Inner::Postgres(tx) => in_time(tx.commit()).await.map_err(in_doubt)?,
            Inner::LookSqlite(_) | Inner::LookPostgres(_) => {}
        }
        match self.group {
            Some(group) => group.durable().await,
            None => Ok(()),
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
