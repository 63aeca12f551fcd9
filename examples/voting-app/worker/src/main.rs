//! Moves votes from the queue to the database. A command, not an HTTP app: it runs until it is stopped.
//!
//! A vote leaves the queue when it is committed, and not before. When either server is lost, the worker connects again, and ends for no such
//! reason; any number of workers share the work.
//!
//! - `REDIS_ADDR`: host and port of the queue. Default `redis:6379`.
//! - those of [`Login::from_variables`], for the database.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use voting::error::chain;
use voting::pace::Backoff;
use voting::postgres::{Login, Postgres};
use voting::queue::Queue;
use voting::vote::Vote;
use voting::{Result, tables, variable};

/// How long one wait for a vote is.
const WAIT: Duration = Duration::from_secs(1);
/// How often it looks for votes that another worker has taken and not finished.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

#[wstd::main]
async fn main() {
    let redis = variable("REDIS_ADDR", "redis:6379");
    let login = Login::from_variables();
    let mut backoff = Backoff::default();
    loop {
        let Err(error) = work(&redis, &login, &mut backoff).await;
        let wait = backoff.step();
        eprintln!("connecting again in {} ms: {}", wait.as_millis(), chain(&error));
        wstd::task::sleep(wait.into()).await;
    }
}

/// Ends when either server is lost.
async fn work(redis: &str, login: &Login, backoff: &mut Backoff) -> Result<Infallible> {
    let mut database = Postgres::connect(login).await?;
    tables::ensure(&mut database).await?;
    let mut queue = Queue::connect(redis).await?;
    println!("moving votes from {redis} to {}", login.address);
    let mut next_sweep = Instant::now();
    loop {
        if next_sweep <= Instant::now() {
            sweep(&mut queue, &mut database).await?;
            next_sweep = Instant::now() + SWEEP_PERIOD;
        }
        if let Some(vote) = queue.take(WAIT).await? {
            finish(&mut queue, &mut database, &vote).await?;
        }
        *backoff = Backoff::default();
    }
}

/// Finishes what was taken by a worker that was lost, or that lost a server. Some of it may be in the hands of one that is at work, which
/// does no harm: a vote that is recorded twice counts once.
async fn sweep(queue: &mut Queue, database: &mut Postgres) -> Result<()> {
    loop {
        let votes = queue.taken().await?;
        if votes.is_empty() {
            return Ok(());
        }
        let mut found = 0;
        for vote in &votes {
            found += usize::from(finish(queue, database, vote).await?);
        }
        if found > 0 {
            println!("finished {found} votes that were taken before");
        }
    }
}

/// Records a vote that was taken, and then lets the queue forget it. Returns whether it was new.
async fn finish(queue: &mut Queue, database: &mut Postgres, taken: &[u8]) -> Result<bool> {
    let vote = std::str::from_utf8(taken).ok().and_then(|line| line.parse::<Vote>().ok());
    let Some(vote) = vote else {
        eprintln!("put aside {} octets that are no vote", taken.len());
        queue.refuse(taken).await?;
        return Ok(false);
    };
    let is_new = tables::record(database, &vote).await?;
    queue.done(taken).await?;
    Ok(is_new)
}
