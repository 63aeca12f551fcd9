//! Table `server`: the servers that share a database, and when each was there last, by the database's clock.

use sqlx::postgres::PgPool;
use wharf_types::Timestamp;

use super::Result;
use super::codec::time;
use super::query::in_time;

/// A server that has been silent for longer is not there.
const THERE_MICROS: i64 = 7_000_000;
/// How long one is listed that went away without a word.
const LISTED_MICROS: i64 = 24 * 3600 * 1_000_000;

/// What a server says of itself.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) id: String,
    pub(crate) hostname: String,
    pub(crate) address: String,
    pub(crate) version: String,
    pub(crate) started_at: Timestamp,
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) about: About,
    pub(crate) seen_at: Timestamp,
    pub(crate) is_there: bool,
    /// Since when it leads. None: it does not, or took the lease when nobody wrote that down.
    pub(crate) leads_since: Option<Timestamp>,
    pub(crate) leads: bool,
}

macro_rules! clock {
    () => {
        "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
    };
}

/// It is there. Says nothing to others, so it takes none of the turns of those who write.
pub(super) async fn announce(pool: &PgPool, about: &About) -> Result<()> {
    let statement = sqlx::query(concat!(
        "WITH old AS (DELETE FROM server WHERE seen_at < ",
        clock!(),
        " - $6 AND id <> $1)
         INSERT INTO server (id, hostname, address, version, started_at, seen_at) VALUES ($1, $2, $3, $4, $5, ",
        clock!(),
        ") ON CONFLICT (id) DO UPDATE SET hostname = excluded.hostname, address = excluded.address,
             version = excluded.version, started_at = excluded.started_at, seen_at = excluded.seen_at"
    ))
    .bind(&about.id)
    .bind(&about.hostname)
    .bind(&about.address)
    .bind(&about.version)
    .bind(about.started_at.as_microsecond())
    .bind(LISTED_MICROS);
    in_time(statement.execute(pool)).await?;
    Ok(())
}

/// It is about to end.
pub(super) async fn leave(pool: &PgPool, id: &str) -> Result<()> {
    let statement = sqlx::query("DELETE FROM server WHERE id = $1").bind(id);
    in_time(statement.execute(pool)).await?;
    Ok(())
}

pub(super) async fn list(pool: &PgPool) -> Result<Vec<Server>> {
    #[derive(sqlx::FromRow)]
    struct Row {
        id: String,
        hostname: String,
        address: String,
        version: String,
        started_at: i64,
        seen_at: i64,
        is_there: bool,
        leads: bool,
        since: i64,
    }
    let statement = sqlx::query_as(concat!(
        "SELECT server.id, hostname, server.address, version, started_at, seen_at, seen_at > ",
        clock!(),
        " - $1 AS is_there, lease.name IS NOT NULL AS leads, coalesce(lease.since, 0) AS since FROM server
         LEFT JOIN lease ON lease.name = 'leader' AND lease.holder = server.id AND lease.expires_at > ",
        clock!(),
        " ORDER BY server.id"
    ))
    .bind(THERE_MICROS);
    let rows: Vec<Row> = in_time(statement.fetch_all(pool)).await?;
    let server = |row: Row| {
        let leads_since = if row.leads && row.since > 0 { Some(time(row.since)?) } else { None };
        Ok(Server {
            seen_at: time(row.seen_at)?,
            is_there: row.is_there,
            leads: row.leads,
            leads_since,
            about: About {
                id: row.id,
                hostname: row.hostname,
                address: row.address,
                version: row.version,
                started_at: time(row.started_at)?,
            },
        })
    };
    rows.into_iter().map(server).collect()
}
