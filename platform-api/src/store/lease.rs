//! Table `lease`: who leads, of the servers that share a database, and until when by the database's clock.
//!
//! Taking it is a write like any other, and draws the next epoch: from then on the leader before writes nothing, whatever it believes
//! (`Store::write_as`). Renewing and taking each are one guarded update of the row, so that of the two only one applies.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use wharf_types::Timestamp;

use super::codec::{number, time};
use super::query::{in_time, query, query_as};
use super::{Result, StoreError, change, postgres, rollout};

/// How long a lease lasts from when it was taken or renewed.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) epoch: u64,
    /// Where other servers reach it.
    pub(crate) address: String,
}

/// Who wants to lead.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Tells a server from others, but for those whose folder is a copy of another's.
    pub(crate) server: String,
    /// Which folder on which running machine it is of. A folder has one process at a time.
    pub(crate) home: String,
    /// Where other servers reach it.
    pub(crate) address: String,
    pub(crate) started_at: Timestamp,
}

/// Another process that has the lease under this server's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Twin {
    pub(crate) address: String,
    /// By its own clock.
    pub(crate) started_at: Timestamp,
}

/// What became of an attempt to take the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// In this epoch.
    Taken(u64),
    /// Another process has it: one of another server, unless it is a twin.
    Refused(Option<Twin>),
}

/// What time it is, where all servers ask.
macro_rules! clock {
    () => {
        "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
    };
}

/// One server's way to the lease, over a connection of its own: what waits for other connections must not cost it the lease.
#[derive(Clone)]
pub(crate) struct Leases {
    pool: PgPool,
    origin: Arc<str>,
    candidate: Candidate,
}

impl Leases {
    pub(super) fn new(pool: PgPool, origin: Arc<str>, candidate: Candidate) -> Self {
        Self { pool, origin, candidate }
    }

    /// Takes the lease, unless another process has it. One that was not given up in this process's own home is of a process that has ended,
    /// because a data directory is one process's alone; that of a copy of the directory may live.
    pub(crate) async fn take(&self, now: Timestamp) -> Result<Taking> {
        let Candidate { server, home, address, started_at } = &self.candidate;
        let mut tx = postgres::begin(&self.pool, postgres::BEGIN_WRITE, &self.origin).await?;
        let taken = query(concat!(
            "UPDATE lease SET epoch = (SELECT value + 1 FROM counter WHERE counter.name = 'starts'), holder = $1, address = $2,
                 expires_at = $3 + ",
            clock!(),
            ", since = ",
            clock!(),
            ", holder_home = $4, holder_started_at = $5
             WHERE name = 'leader' AND ((holder = $1 AND holder_home = $4) OR expires_at <= ",
            clock!(),
            ")"
        ));
        let taken = taken.bind(server).bind(address).bind(lease_micros());
        let taken = taken.bind(home).bind(started_at.as_microsecond());
        if taken.execute(&mut tx).await?.rows_affected() == 0 {
            let twin: Option<(String, i64)> = query_as(
                "SELECT address, holder_started_at FROM lease
                 WHERE name = 'leader' AND holder = $1 AND holder_home <> $2 AND holder_home <> ''",
            )
            .bind(server)
            .bind(home)
            .fetch_optional(&mut tx)
            .await?;
            let twin = twin
                .map(|(address, micros)| Ok::<_, StoreError>(Twin { address, started_at: time(micros)? }));
            return Ok(Taking::Refused(twin.transpose()?));
        }
        let epoch = change::count(&mut tx, "starts").await?;
        rollout::restart_deadlines(&mut tx, now).await?;
        tx.commit().await?;
        Ok(Taking::Taken(number(epoch)?))
    }

    /// Lets the lease of an epoch last longer. False: another epoch has begun.
    pub(crate) async fn renew(&self, epoch: u64) -> Result<bool> {
        let renewed = sqlx::query(concat!(
            "UPDATE lease SET expires_at = $2 + ",
            clock!(),
            " WHERE name = 'leader' AND epoch = $1"
        ))
        .bind(signed(epoch))
        .bind(lease_micros());
        Ok(in_time(renewed.execute(&self.pool)).await?.rows_affected() == 1)
    }

    /// Lets others have it at once, if this process has it.
    pub(crate) async fn release(&self) -> Result<()> {
        let released = sqlx::query(
            "UPDATE lease SET expires_at = 0, address = '' WHERE name = 'leader' AND holder = $1 AND holder_home = $2",
        )
        .bind(&self.candidate.server)
        .bind(&self.candidate.home);
        in_time(released.execute(&self.pool)).await?;
        Ok(())
    }
}

/// None: nobody leads for now.
pub(super) async fn leader(pool: &PgPool) -> Result<Option<Leader>> {
    let statement = sqlx::query_as(concat!(
        "SELECT epoch, address FROM lease WHERE name = 'leader' AND expires_at > ",
        clock!()
    ));
    let row: Option<(i64, String)> =
        in_time(statement.fetch_optional(pool)).await.map_err(StoreError::from)?;
    row.map(|(epoch, address)| Ok(Leader { epoch: number(epoch)?, address })).transpose()
}

fn lease_micros() -> i64 {
    i64::try_from(LEASE.as_micros()).unwrap_or(i64::MAX)
}

fn signed(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(i64::MAX)
}
