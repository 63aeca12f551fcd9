//! Table `platform`: which platform a database is of, and where its artifacts are.

use super::query::{query, query_as};
use super::{Conn, Result};

#[derive(Clone, Debug)]
pub(crate) struct Platform {
    /// Tells it from other platforms, where artifacts are. A backup that is restored is the same platform.
    pub(crate) id: String,
    /// The URL of the bucket that has the artifacts. None: they are in the data directories of servers.
    pub(crate) artifacts: Option<String>,
    /// How often they have been brought to another place. What they were copied from says less than what they are in.
    pub(crate) moves: u64,
}

/// Makes the row. `false`: there was one.
pub(crate) async fn found(conn: &mut Conn) -> Result<bool> {
    let id = uuid::Uuid::now_v7().to_string();
    let insert = query(
        "INSERT INTO platform (only_one, id, moves) VALUES (1, $1, 0) ON CONFLICT (only_one) DO NOTHING",
    );
    Ok(insert.bind(id).execute(conn).await?.rows_affected() == 1)
}

/// None: nobody has founded it yet.
pub(crate) async fn get(conn: &mut Conn) -> Result<Option<Platform>> {
    let row: Option<(String, Option<String>, i64)> =
        query_as("SELECT id, artifacts, moves FROM platform").fetch_optional(conn).await?;
    Ok(row.map(|(id, artifacts, moves)| Platform { id, artifacts, moves: moves.unsigned_abs() }))
}

pub(crate) async fn move_artifacts(conn: &mut Conn, bucket: Option<String>) -> Result<()> {
    query("UPDATE platform SET artifacts = $1, moves = moves + 1").bind(bucket).execute(conn).await?;
    Ok(())
}
