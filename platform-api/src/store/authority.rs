//! Table `authority`: the CAs of the cluster. Their keys come here sealed.

use wharf_types::Timestamp;

use super::codec::time;
use super::query::{query, query_as};
use super::{Conn, News, Result, StoreError};
use crate::secrets::Sealed;

/// How far a CA has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Believed, and signs nothing yet.
    Next,
    Signs,
    /// Believed, and signs nothing any more.
    Old,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The SHA-256 of the certificate, as join tokens have it.
    pub(crate) id: String,
    /// In PEM.
    pub(crate) certificate: String,
    pub(crate) key: Sealed,
    pub(crate) stage: Stage,
    /// Whether nodes that are silent are not waited for.
    pub(crate) forced: bool,
    pub(crate) created_at: Timestamp,
    /// Since when it has been in its stage.
    pub(crate) changed_at: Timestamp,
}

impl Stage {
    fn to_db(self) -> i64 {
        match self {
            Self::Next => 10,
            Self::Signs => 20,
            Self::Old => 30,
        }
    }

    fn from_db(stage: i64) -> Result<Self> {
        match stage {
            10 => Ok(Self::Next),
            20 => Ok(Self::Signs),
            30 => Ok(Self::Old),
            stage => Err(StoreError::Corrupt(format!("a CA is in the stage {stage}"))),
        }
    }
}

#[derive(sqlx::FromRow)]
struct Found {
    id: String,
    certificate: String,
    key_id: String,
    sealed: Vec<u8>,
    stage: i64,
    forced: bool,
    created_at: i64,
    changed_at: i64,
}

/// The one that signs first.
pub(crate) async fn list(conn: &mut Conn) -> Result<Vec<Row>> {
    let found: Vec<Found> = query_as(
        "SELECT id, certificate, key_id, sealed, stage, forced, created_at, changed_at FROM authority ORDER BY id",
    )
    .fetch_all(conn)
    .await?;
    let row = |found: Found| {
        Ok(Row {
            stage: Stage::from_db(found.stage)?,
            key: Sealed { key_id: found.key_id, octets: found.sealed },
            id: found.id,
            certificate: found.certificate,
            forced: found.forced,
            created_at: time(found.created_at)?,
            changed_at: time(found.changed_at)?,
        })
    };
    let mut rows = found.into_iter().map(row).collect::<Result<Vec<Row>>>()?;
    rows.sort_by_key(|row| (row.stage != Stage::Signs, row.stage));
    Ok(rows)
}

pub(crate) async fn create(conn: &mut Conn, row: &Row) -> Result<()> {
    conn.note(News::Authorities);
    query(
        "INSERT INTO authority (id, certificate, key_id, sealed, stage, forced, created_at, changed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&row.id)
    .bind(&row.certificate)
    .bind(&row.key.key_id)
    .bind(&row.key.octets)
    .bind(row.stage.to_db())
    .bind(row.forced)
    .bind(row.created_at.as_microsecond())
    .bind(row.changed_at.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves one on. False: it is not in that stage any more.
pub(crate) async fn advance(
    conn: &mut Conn,
    id: &str,
    (from, to): (Stage, Stage),
    now: Timestamp,
) -> Result<bool> {
    conn.note(News::Authorities);
    let done = query("UPDATE authority SET stage = $3, changed_at = $4 WHERE id = $1 AND stage = $2")
        .bind(id)
        .bind(from.to_db())
        .bind(to.to_db())
        .bind(now.as_microsecond())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Nodes that are silent are not waited for any more.
pub(crate) async fn force(conn: &mut Conn) -> Result<()> {
    conn.note(News::Authorities);
    query("UPDATE authority SET forced = TRUE").execute(conn).await?;
    Ok(())
}

/// Believes one no more.
pub(crate) async fn delete(conn: &mut Conn, id: &str) -> Result<()> {
    conn.note(News::Authorities);
    query("DELETE FROM authority WHERE id = $1").bind(id).execute(conn).await?;
    Ok(())
}

/// Puts the key of one, sealed anew, in the place of what it was sealed as.
pub(crate) async fn reseal(conn: &mut Conn, id: &str, key: &Sealed) -> Result<()> {
    query("UPDATE authority SET key_id = $2, sealed = $3 WHERE id = $1")
        .bind(id)
        .bind(&key.key_id)
        .bind(&key.octets)
        .execute(conn)
        .await?;
    Ok(())
}
