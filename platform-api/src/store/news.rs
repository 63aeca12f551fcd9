//! Table `change`: what one process tells the others that share a database.
//!
//! Whoever changes a row that something is remembered of notes it at the connection, here in the store, so that no caller can forget
//! it. The commit writes the notes in its own transaction and wakes the others, who read on from where they were: a wake-up that
//! is lost costs a second, and never a change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use sqlx::{Postgres, Transaction};
use tracing::{debug, warn};
use wharf_types::{AppId, JobId};

use super::codec::parse;
use super::query::in_time;
use super::{Result, StoreError};

const CHANNEL: &str = "wharf_change";
/// How late a change may be noticed when the wake-up was lost.
const POLL: Duration = Duration::from_secs(1);
/// Changes that are kept for those who are behind. Who is further behind takes everything as changed.
const KEPT: i64 = 10_000;
/// Changes that are read at once.
const BATCH: i64 = 1_000;

/// What may be remembered somewhere, and is not as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    App(AppId),
    Job(JobId),
    Schedules,
    Volumes,
    /// How many requests a namespace may have.
    Rates,
    /// Something was taken from somebody: a token, a membership, a user, a node's place in the cluster.
    Access,
    Nodes,
    /// The CAs of the cluster.
    Authorities,
    /// Anything: more has happened than is kept.
    Everything,
}

impl News {
    fn to_db(self) -> (i64, String) {
        match self {
            Self::App(id) => (10, id.to_string()),
            Self::Job(id) => (20, id.to_string()),
            Self::Schedules => (30, String::new()),
            Self::Volumes => (40, String::new()),
            Self::Rates => (50, String::new()),
            Self::Access => (60, String::new()),
            Self::Nodes => (70, String::new()),
            Self::Everything => (80, String::new()),
            Self::Authorities => (90, String::new()),
        }
    }

    /// A kind that a newer version has is anything.
    fn from_db(kind: i64, subject: &str) -> Result<Self> {
        Ok(match kind {
            10 => Self::App(parse(subject)?),
            20 => Self::Job(parse(subject)?),
            30 => Self::Schedules,
            40 => Self::Volumes,
            50 => Self::Rates,
            60 => Self::Access,
            70 => Self::Nodes,
            90 => Self::Authorities,
            _ => Self::Everything,
        })
    }
}

/// Adds news to the log, in the transaction of the change, and wakes everybody when it commits. Only one transaction writes at a time, so the
/// numbers become visible in their order and without gaps.
pub(super) async fn tell(
    tx: &mut Transaction<'static, Postgres>,
    origin: &str,
    news: &BTreeSet<News>,
) -> Result<()> {
    let (kinds, subjects): (Vec<i64>, Vec<String>) = news.iter().map(|news| news.to_db()).unzip();
    let statement = sqlx::query(
        "WITH drawn AS (UPDATE counter SET value = value + $1 WHERE name = 'change' RETURNING value),
             told AS (INSERT INTO change (seq, origin, kind, subject)
                 SELECT drawn.value - $1 + news.position, $2, news.kind, news.subject FROM drawn,
                 unnest($3::bigint[], $4::text[]) WITH ORDINALITY AS news (kind, subject, position)),
             old AS (DELETE FROM change WHERE seq <= (SELECT value - $5 FROM drawn))
         SELECT pg_notify($6, '')",
    )
    .bind(i64::try_from(kinds.len()).unwrap_or(i64::MAX))
    .bind(origin)
    .bind(kinds)
    .bind(subjects)
    .bind(KEPT)
    .bind(CHANNEL);
    in_time(statement.execute(&mut **tx)).await?;
    Ok(())
}

/// The newest change that there is.
pub(super) async fn newest(pool: &PgPool) -> sqlx::Result<i64> {
    let statement = sqlx::query_scalar("SELECT value FROM counter WHERE name = 'change'");
    in_time(statement.fetch_one(pool)).await
}

/// Reads what other processes tell.
pub(crate) struct Follower {
    /// For the statements.
    pool: PgPool,
    /// With one connection, which listens.
    listening: PgPool,
    listener: Option<PgListener>,
    origin: Arc<str>,
    /// Everything up to here was heard.
    heard: i64,
}

impl Follower {
    pub(super) fn new(pool: PgPool, listening: PgPool, origin: Arc<str>, heard: i64) -> Self {
        Self { pool, listening, listener: None, origin, heard }
    }

    /// Waits until there may be something new, at most for a second, and returns what others have changed. Errors pass by
    /// themselves; nothing is lost by them.
    pub(crate) async fn next(&mut self) -> Result<BTreeSet<News>> {
        if self.listener.is_none() {
            self.listen().await;
        }
        match &mut self.listener {
            Some(listener) => {
                // It connects anew by itself, which it says with `None`.
                if let Ok(Err(error)) = tokio::time::timeout(POLL, listener.try_recv()).await {
                    debug!("the database wakes nobody for now: {error}");
                    self.listener = None;
                    tokio::time::sleep(POLL / 10).await;
                }
            }
            None => tokio::time::sleep(POLL).await,
        }
        self.read().await
    }

    async fn listen(&mut self) {
        let connect = async {
            let mut listener = PgListener::connect_with(&self.listening).await?;
            listener.listen(CHANNEL).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        match tokio::time::timeout(POLL, connect).await {
            Ok(Ok(listener)) => self.listener = Some(listener),
            Ok(Err(error)) => debug!("the database wakes nobody for now: {error}"),
            Err(_) => debug!("the database wakes nobody for now"),
        }
    }

    async fn read(&mut self) -> Result<BTreeSet<News>> {
        let mut news = BTreeSet::new();
        loop {
            let statement = sqlx::query_as(
                "SELECT seq, origin, kind, subject FROM change WHERE seq > $1 ORDER BY seq LIMIT $2",
            )
            .bind(self.heard)
            .bind(BATCH);
            let rows: Vec<(i64, String, i64, String)> = in_time(statement.fetch_all(&self.pool)).await?;
            let is_last = rows.len() < usize::try_from(BATCH).unwrap_or(usize::MAX);
            for (seq, origin, kind, subject) in rows {
                if seq != self.heard + 1 {
                    warn!(
                        "missed {} changes of other control planes, and looks at everything",
                        seq - self.heard - 1
                    );
                    news.insert(News::Everything);
                }
                self.heard = seq;
                // Of nodes, what this process itself has committed last may have been overtaken by what it had read before.
                if *origin != *self.origin || kind == News::Nodes.to_db().0 {
                    news.insert(News::from_db(kind, &subject)?);
                }
            }
            if is_last {
                return Ok(news);
            }
        }
    }
}

/// Whether an error says that there is nothing to follow any more.
pub(crate) fn is_closed(error: &StoreError) -> bool {
    matches!(error, StoreError::Database(sqlx::Error::PoolClosed))
}
