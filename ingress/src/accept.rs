//! Takes connections from a listener. Nothing that happens to one of them, or to the listener, ends this loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::BoxError;
use crate::call::{CallError, LocalCall};
use crate::connection::Connections;
use crate::proxy::Shared;
use crate::serve::{self, Protocols};
use crate::stats::{Stats, add_one};

/// What an accept loop needs to start a connection.
#[derive(Clone)]
pub(crate) struct Acceptor<S> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) protocols: Arc<Protocols>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) service: S,
    pub(crate) tasks: TaskTracker,
}

impl<S, B> Acceptor<S>
where
    S: tower::Service<LocalCall, Response = Response<B>, Error = CallError> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(crate) async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let stats = self.shared.stats.clone();
        loop {
            let (socket, remote) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = accept(&listener, &stats) => accepted,
            };
            add_one(&stats.accepted);
            let Some(registered) = self.connections.register(remote, Instant::now()) else {
                add_one(&stats.over_limit);
                continue;
            };
            // It fails only where the client has left, which the first read finds out.
            let _ = socket.set_nodelay(true);
            self.tasks.spawn(serve::serve(
                self.shared.clone(),
                self.protocols.clone(),
                self.service.clone(),
                socket,
                registered,
            ));
        }
    }
}

/// The next connection. An error is counted, and never the end.
pub(crate) async fn accept(listener: &TcpListener, stats: &Stats) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                add_one(&stats.accept_errors);
                if !is_of_one_client(&error) {
                    tracing::warn!("could not accept a connection: {error}; trying again in a moment");
                    // Out of file handles, most likely: the error stays until some connection has ended.
                    tokio::time::sleep(Duration::from_millis(rand::random_range(50..=100))).await;
                }
            }
        }
    }
}

/// Whether only the connection that was to be accepted is affected.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
