//! The queue of votes, in Redis.
//!
//! A vote that a worker takes is moved to another list, in one step, and leaves that one when it is in the database. So it is in a
//! list at every moment, and what a worker had taken when it was lost is found there.

use std::time::Duration;

use crate::error::Result;
use crate::resp::{self, Reply};
use crate::vote::Vote;
use crate::wire::Wire;

/// Votes that nobody has taken.
const WAITING: &[u8] = b"votes";
/// Votes that a worker has taken.
const TAKEN: &[u8] = b"votes:taken";
/// What was in the queue and is no vote.
const REFUSED: &[u8] = b"votes:refused";

const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

pub struct Queue {
    wire: Wire,
}

impl Queue {
    pub async fn connect(address: &str) -> Result<Self> {
        Ok(Self { wire: Wire::connect(address).await? })
    }

    /// Returns when Redis has the vote, and on its disk, if it is told to write before it answers.
    pub async fn push(&mut self, vote: &Vote) -> Result<()> {
        self.call(&[b"RPUSH", WAITING, vote.to_string().as_bytes()], Duration::ZERO).await.map(drop)
    }

    /// Takes the vote that has waited longest; waits for one if there is none.
    pub async fn take(&mut self, wait: Duration) -> Result<Option<Vec<u8>>> {
        let secs = wait.as_secs_f64().to_string();
        let command = [b"BLMOVE", WAITING, TAKEN, b"LEFT", b"RIGHT", secs.as_bytes()];
        match self.call(&command, wait).await? {
            Reply::Text(vote) => Ok(Some(vote)),
            Reply::Nothing => Ok(None),
            _ => Err(self.wire.unexpected("a vote is not a text")),
        }
    }

    /// Some of the votes that were taken, and are not done.
    pub async fn taken(&mut self) -> Result<Vec<Vec<u8>>> {
        let text = |item| if let Reply::Text(vote) = item { Some(vote) } else { None };
        let votes = match self.call(&[b"LRANGE", TAKEN, b"0", b"99"], Duration::ZERO).await? {
            Reply::List(items) => items.into_iter().map(text).collect(),
            _ => None,
        };
        votes.ok_or_else(|| self.wire.unexpected("the votes that were taken are no list"))
    }

    /// Forgets a vote that is in the database.
    pub async fn done(&mut self, vote: &[u8]) -> Result<()> {
        self.call(&[b"LREM", TAKEN, b"1", vote], Duration::ZERO).await.map(drop)
    }

    /// Puts aside what is no vote, where a person can look at it.
    pub async fn refuse(&mut self, what: &[u8]) -> Result<()> {
        self.call(&[b"RPUSH", REFUSED, what], Duration::ZERO).await?;
        self.done(what).await
    }

    /// `wait`: how long the server may wait before it answers, on top of the time that any answer takes.
    async fn call(&mut self, words: &[&[u8]], wait: Duration) -> Result<Reply> {
        self.wire.send(&resp::command(words)).await?;
        match self.wire.receive(REPLY_TIMEOUT + wait, resp::parse).await? {
            Reply::Error(error) => {
                let (code, message) = error.split_once(' ').unwrap_or((&error, ""));
                Err(self.wire.refused(code, message))
            }
            reply => Ok(reply),
        }
    }
}
