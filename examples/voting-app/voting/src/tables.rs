//! The tables of the votes, and all SQL of this app.
//!
//! `votes` has every vote by its id. `ballots` has one row for each voter, with the vote of theirs that counts.

use crate::error::{Error, Result};
use crate::postgres::{Postgres, Value};
use crate::vote::Vote;

/// How the votes stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Voters whose last vote is for the first option.
    pub a: u64,
    pub b: u64,
    /// All votes, also those that a later one of the same voter has replaced.
    pub received: u64,
}

/// PostgreSQL's code for a table that is not there.
const UNDEFINED_TABLE: &str = "42P01";

/// Makes the tables where they are missing. Workers that start at once wait for one another: two who make the same table would
/// both find it missing, and one would fail.
pub async fn ensure(database: &mut Postgres) -> Result<()> {
    let sql = "SELECT pg_advisory_xact_lock(5432001);
        CREATE TABLE IF NOT EXISTS votes (
            id text PRIMARY KEY, voter text NOT NULL, choice text NOT NULL, cast_at_ms bigint NOT NULL);
        CREATE TABLE IF NOT EXISTS ballots (
            voter text PRIMARY KEY, vote text NOT NULL, choice text NOT NULL, cast_at_ms bigint NOT NULL)";
    database.run(sql).await
}

/// Counts a vote, unless it is counted. Returns whether it was new.
///
/// Two workers with the same vote wait for each other at its id: the second finds it when the first has committed, and counts it itself
/// when the first has not.
pub async fn record(database: &mut Postgres, vote: &Vote) -> Result<bool> {
    let cast_at_ms = vote.cast_at_ms.to_string();
    let values = [vote.id.as_str(), vote.voter.as_str(), vote.choice.as_str(), &cast_at_ms];
    database.run("BEGIN").await?;
    let inserted = database
        .query(
            "INSERT INTO votes (id, voter, choice, cast_at_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (id) DO NOTHING RETURNING id",
            &values,
        )
        .await?;
    let is_new = !inserted.is_empty();
    if is_new {
        // Votes of one voter may come here in any order; the last one that was cast wins.
        database
            .query(
                "INSERT INTO ballots (vote, voter, choice, cast_at_ms) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (voter) DO UPDATE
                 SET vote = excluded.vote, choice = excluded.choice, cast_at_ms = excluded.cast_at_ms
                 WHERE (ballots.cast_at_ms, ballots.vote) < (excluded.cast_at_ms, excluded.vote)",
                &values,
            )
            .await?;
    }
    database.run("COMMIT").await?;
    Ok(is_new)
}

/// One statement, so that all numbers are of the same moment.
pub async fn tally(database: &mut Postgres) -> Result<Tally> {
    let sql = "SELECT count(*) FILTER (WHERE choice = 'a'), count(*) FILTER (WHERE choice = 'b'),
        (SELECT count(*) FROM votes) FROM ballots";
    let rows = match database.query(sql, &[]).await {
        // No worker has come here yet.
        Err(Error::Refused { code, .. }) if code == UNDEFINED_TABLE => return Ok(Tally::default()),
        rows => rows?,
    };
    let number = |value: Option<&Value>| value?.as_ref()?.parse().ok();
    let row = rows.first();
    let column = |index| number(row.and_then(|row: &Vec<Value>| row.get(index))).unwrap_or_default();
    Ok(Tally { a: column(0), b: column(1), received: column(2) })
}
