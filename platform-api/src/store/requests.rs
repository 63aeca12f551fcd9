//! Table `rollout_requests`: what became of requests during rollouts.

use std::collections::BTreeMap;

use wharf_types::requests::{ReleaseRequests, RequestCounts};
use wharf_types::{NodeId, RolloutId};

use super::codec::{from_json, json, number, parse};
use super::query::{query, query_as};
use super::{Conn, Result};

/// Whose totals they are: a run of a worker on a node, and the number of a release.
pub(crate) type Counter = (NodeId, String, u64);

/// Totals of a counter when the rollout first saw them, and as they were last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) first: RequestCounts,
    pub(crate) newest: RequestCounts,
}

#[derive(sqlx::FromRow)]
struct Row {
    node: String,
    run: String,
    release: i64,
    first_totals: String,
    newest_totals: String,
}

pub(crate) async fn of_rollout(conn: &mut Conn, rollout: RolloutId) -> Result<BTreeMap<Counter, Totals>> {
    let rows: Vec<Row> = query_as(
        "SELECT node, run, release, first_totals, newest_totals FROM rollout_requests WHERE rollout = $1",
    )
    .bind(rollout.to_string())
    .fetch_all(conn)
    .await?;
    let domain = |row: Row| {
        let totals = Totals { first: from_json(&row.first_totals)?, newest: from_json(&row.newest_totals)? };
        Ok(((parse(&row.node)?, row.run, number(row.release)?), totals))
    };
    rows.into_iter().map(domain).collect()
}

/// Writes what a counter has come to. Its first totals, once written, stay.
pub(crate) async fn put(
    conn: &mut Conn,
    rollout: RolloutId,
    (node, run, release): &Counter,
    totals: &Totals,
) -> Result<()> {
    query(
        "INSERT INTO rollout_requests (rollout, node, run, release, first_totals, newest_totals)
             VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (rollout, node, run, release) DO UPDATE SET newest_totals = excluded.newest_totals",
    )
    .bind(rollout.to_string())
    .bind(node.to_string())
    .bind(run)
    .bind(i64::try_from(*release).unwrap_or(i64::MAX))
    .bind(json(&totals.first))
    .bind(json(&totals.newest))
    .execute(conn)
    .await?;
    Ok(())
}

/// The rollout's requests by release, in the order of their numbers. Releases without any are left out.
pub(crate) fn by_release<'a>(
    counted: impl IntoIterator<Item = (&'a Counter, &'a Totals)>,
) -> Vec<ReleaseRequests> {
    let mut sums: BTreeMap<u64, RequestCounts> = BTreeMap::new();
    for ((_, _, release), totals) in counted {
        let sum = sums.entry(*release).or_default();
        *sum = sum.plus(&totals.newest.since(&totals.first));
    }
    sums.retain(|_, counts| !counts.is_zero());
    sums.into_iter().map(|(release, counts)| ReleaseRequests { release, counts }).collect()
}
