//! Follows what people want done on this node beside its instances, and carries what is said while it is done.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, pin_mut};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wharf_types::exec::Frame;
use wharf_types::{ExecId, ProcessId};

use crate::backoff::{Jitter, Reconnect};
use crate::control::orders::Orders;
use crate::control::{ControlClient, ControlError};

/// Frames on their way to the control plane.
const FRAMES_MAX: usize = 4;
/// How long the control plane may take to answer whoever comes for an order.
const JOIN_MAX: Duration = Duration::from_secs(10);
/// How often something is said, which finds out that nobody listens any more.
const PING: Duration = Duration::from_secs(10);
/// How long the last word may take.
const LAST_WORD_MAX: Duration = Duration::from_secs(10);

pub(crate) type ToServer = mpsc::Sender<Bytes>;
pub(crate) type Told = Pin<Box<dyn Stream<Item = Result<Bytes, ControlError>> + Send>>;

/// Begins with each order as it comes, until it is cancelled, and returns when all of them have ended.
pub(crate) async fn follow<O, R>(
    (control, kind): (&ControlClient, Orders),
    process: ProcessId,
    cancel: &CancellationToken,
    run: impl Fn(O) -> R,
) where
    O: DeserializeOwned + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let salt = match kind {
        Orders::Execs => 2,
        Orders::Transfers => 3,
        Orders::Copies => 4,
    };
    let mut reconnect = Reconnect::new(Jitter::seeded(control.node().as_uuid().as_u64_pair().1 ^ salt));
    let mut under_way = JoinSet::new();
    while !cancel.is_cancelled() {
        let followed = async {
            let orders = control.orders::<O>(kind, process).await?;
            reconnect.reset();
            pin_mut!(orders);
            loop {
                tokio::select! {
                    order = orders.next() => match order {
                        Some(order) => drop(under_way.spawn(run(order?))),
                        None => return Ok::<(), ControlError>(()),
                    },
                    Some(_) = under_way.join_next() => {}
                }
            }
        };
        let ended = tokio::select! {
            ended = followed => ended,
            () = cancel.cancelled() => break,
        };
        if let Err(error) = ended {
            // The session says so where it matters: before it has registered, and while nobody answers.
            debug!("orders are not followed: {error}");
        }
        tokio::select! {
            () = sleep(reconnect.next_wait()) => {}
            () = cancel.cancelled() => break,
        }
    }
    while under_way.join_next().await.is_some() {}
}

/// Comes for an order. None: nobody waits for it any more.
pub(crate) async fn join(control: &ControlClient, kind: Orders, id: ExecId) -> Option<(Told, ToServer)> {
    let (to_server, said) = mpsc::channel(FRAMES_MAX);
    match timeout(JOIN_MAX, control.join(kind, id, said)).await {
        Ok(Ok(told)) => Some((Box::pin(told), to_server)),
        Ok(Err(error)) => {
            debug!("nobody waits for the order {id} any more: {error}");
            None
        }
        Err(_) => {
            debug!("nobody answers about the order {id}");
            None
        }
    }
}

/// Says what there is to be said last.
pub(crate) async fn end(mut told: Told, to_server: ToServer, last: Option<Frame>) {
    if let Some(last) = last {
        let _ = timeout(LAST_WORD_MAX, to_server.send(last.encode().into())).await;
    }
    drop(to_server);
    // Whoever ends the answer has read the last word; giving it up before would take the connection with it.
    let read = async { while let Some(Ok(_)) = told.next().await {} };
    let _ = timeout(LAST_WORD_MAX, read).await;
}

/// Returns when nobody listens any more.
pub(crate) async fn ping(to_server: &ToServer) {
    loop {
        sleep(PING).await;
        if let Err(mpsc::error::TrySendError::Closed(_)) = to_server.try_send(Frame::Ping.encode().into()) {
            return;
        }
    }
}
