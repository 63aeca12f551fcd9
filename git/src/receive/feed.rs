//! The body of a push on its way to git.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;
use tokio::time::{Instant, timeout, timeout_at};

use super::ReceiveError;
use crate::limits::Limits;
use crate::push_head::{InvalidPush, PushHead, Reader};

/// How long is listened to a client after it was refused. Clients read the answer only when they have sent everything.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);

pub(crate) type Body = BoxStream<'static, io::Result<Bytes>>;

/// Why a body was not passed on to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    #[error("the push broke off")]
    Broken(#[source] io::Error),
    #[error("nothing came for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("it has taken too long")]
    Slow,
    #[error("there is more than a pack may have")]
    TooLarge,
}

/// How feeding ended. Until the input is dropped, git does not take what it has for all.
pub(crate) struct Fed {
    pub(crate) body: Body,
    pub(crate) result: Result<(), FeedError>,
    _input: Option<ChildStdin>,
}

/// The next octets of a body. None: there are no more.
async fn next(body: &mut Body, stall: Duration) -> Result<Option<Bytes>, FeedError> {
    let chunk = timeout(stall, body.next()).await.map_err(|_| FeedError::Stalled(stall))?;
    chunk.transpose().map_err(FeedError::Broken)
}

/// Reads what stands before the pack, and all that came with it.
pub(crate) async fn head(
    body: &mut Body,
    limits: &Limits,
    end: Instant,
) -> Result<(PushHead, Bytes), ReceiveError> {
    let mut reader = Reader::new();
    loop {
        let stall = limits.stall.min(end.saturating_duration_since(Instant::now()));
        let chunk = next(body, stall).await.map_err(|error| match error {
            FeedError::Broken(source) => ReceiveError::Body(source),
            _ => ReceiveError::Slow,
        })?;
        let chunk = chunk.ok_or(InvalidPush::Truncated)?;
        if reader.take(&chunk)? {
            return Ok(reader.finish());
        }
    }
}

/// Gives git a body, no faster than it takes it.
pub(crate) async fn feed(
    first: Bytes,
    mut body: Body,
    input: ChildStdin,
    limits: Limits,
    end: Instant,
) -> Fed {
    let mut input = Some(input);
    let mut left_bytes = limits.pack_max_bytes.saturating_add(first.len() as u64);
    let mut chunk = Some(first);
    let result = loop {
        let Some(bytes) = chunk.take() else {
            // Git has all of it.
            input = None;
            break Ok(());
        };
        match left_bytes.checked_sub(bytes.len() as u64) {
            Some(left) => left_bytes = left,
            None => break Err(FeedError::TooLarge),
        }
        if let Some(open) = &mut input {
            match timeout_at(end, open.write_all(&bytes)).await {
                Ok(Ok(())) => {}
                // Git has seen enough, and says why. What is still sent is read all the same.
                Ok(Err(_)) => input = None,
                Err(_) => break Err(FeedError::Slow),
            }
        }
        match timeout_at(end, next(&mut body, limits.stall)).await {
            Ok(Ok(more)) => chunk = more,
            Ok(Err(error)) => break Err(error),
            Err(_) => break Err(FeedError::Slow),
        }
    };
    Fed { body, result, _input: input }
}

/// Reads what a client still sends, so that it comes to read the answer.
pub(crate) async fn drain(mut body: Body) {
    let end = Instant::now() + DRAIN;
    while let Ok(Some(Ok(_))) = timeout_at(end, body.next()).await {}
}
