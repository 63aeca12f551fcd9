//! Follows what people want done on this node beside its instances, and carries what is said while it is done.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, pin_mut};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
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

/// Who carries out the orders of one kind.
pub(crate) trait Carrier: Send + Sync + 'static {
    const KIND: Orders;
    type Order: DeserializeOwned + Send + 'static;

    fn id(order: &Self::Order) -> ExecId;

    /// Carries one out to its end, or until it is cancelled. Returns what is to be said last.
    fn carry_out(
        &self,
        order: Self::Order,
        told: &mut Told,
        to_server: &ToServer,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Option<Frame>> + Send;
}

/// The task that follows the orders of one kind.
#[derive(Debug)]
pub struct Follower {
    kind: Orders,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Follower {
    pub(crate) fn spawn<C: Carrier>(control: ControlClient, process: ProcessId, carrier: C) -> Self {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(follow(control, process, Arc::new(carrier), cancel.clone()));
        Self { kind: C::KIND, cancel, task }
    }

    /// Breaks off what is under way, without waiting for it.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Breaks off what is under way.
    pub async fn shutdown(mut self, grace: Duration) {
        self.cancel();
        if timeout(grace, &mut self.task).await.is_err() {
            self.task.abort();
            // All else ends with the task, but these are processes of the engine.
            if self.kind == Orders::Execs {
                warn!("commands that people have run in containers may go on");
            }
        }
    }
}

/// Nobody follows orders whom nobody can stop.
impl Drop for Follower {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Begins with each order as it comes, until it is cancelled, and returns when all of them have ended.
async fn follow<C: Carrier>(
    control: ControlClient,
    process: ProcessId,
    carrier: Arc<C>,
    cancel: CancellationToken,
) {
    let salt = match C::KIND {
        Orders::Execs => 2,
        Orders::Transfers => 3,
        Orders::Copies => 4,
    };
    let mut reconnect = Reconnect::new(Jitter::seeded(control.node().as_uuid().as_u64_pair().1 ^ salt));
    let mut under_way = JoinSet::new();
    while !cancel.is_cancelled() {
        let followed = async {
            let orders = control.orders::<C::Order>(C::KIND, process).await?;
            reconnect.reset();
            pin_mut!(orders);
            loop {
                tokio::select! {
                    order = orders.next() => match order {
                        Some(order) => {
                            let run = run(control.clone(), carrier.clone(), order?, cancel.clone());
                            drop(under_way.spawn(run));
                        }
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

/// Carries out one order, with a connection of its own.
async fn run<C: Carrier>(
    control: ControlClient,
    carrier: Arc<C>,
    order: C::Order,
    cancel: CancellationToken,
) {
    let Some((mut told, to_server)) = join(&control, C::KIND, C::id(&order)).await else { return };
    let last = carrier.carry_out(order, &mut told, &to_server, &cancel).await;
    end(told, to_server, last).await;
}

/// Comes for an order. None: nobody waits for it any more.
async fn join(control: &ControlClient, kind: Orders, id: ExecId) -> Option<(Told, ToServer)> {
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
async fn end(mut told: Told, to_server: ToServer, last: Option<Frame>) {
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
