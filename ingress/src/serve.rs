//! One connection from its first octet to its end.

use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::uri::Scheme;
use http_body::Body;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::BoxError;
use crate::call::{CallError, LocalCall};
use crate::config::Config;
use crate::connection::{Connection, Order, Registered};
use crate::forwarded::Client;
use crate::proxy::{self, Session, Shared};
use crate::stream::{ClientStream, Protocol};
use crate::upgrade;

/// hyper refuses smaller buffers.
const BUFFER_MIN_BYTES: usize = 8 * 1024;

/// Starts HTTP/2 streams as tasks that a shutdown waits for.
#[derive(Clone)]
pub(crate) struct StreamExecutor(pub(crate) TaskTracker);

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

/// How both protocols are spoken.
pub(crate) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<StreamExecutor>,
    /// Streams.
    tasks: TaskTracker,
}

impl Protocols {
    pub(crate) fn new(config: &Config, tasks: TaskTracker) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            // The watchdog does this, for less.
            .header_read_timeout(None)
            // The number of fields stays at hyper's own limit: setting even the same one costs an allocation a request.
            .max_header_size(config.max_header_bytes)
            .max_buf_size(config.max_header_bytes.max(BUFFER_MIN_BYTES))
            // A client that closes ends its request, and the guest's work on it.
            .half_close(false)
            .timer(TokioTimer::new());
        let mut http2 = http2::Builder::new(StreamExecutor(tasks.clone()));
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(256)
            .enable_connect_protocol()
            .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(256 * 1024)
            // Finds peers that vanished without a word while a response is on its way.
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        Self { http1, http2, tasks }
    }
}

/// Serves a connection until the client, the watchdog or a shutdown ends it.
pub(crate) async fn serve<S, B>(
    shared: Arc<Shared>,
    protocols: Arc<Protocols>,
    service: S,
    socket: TcpStream,
    registered: Registered,
) where
    S: tower::Service<LocalCall, Response = Response<B>, Error = CallError> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let connection: Arc<Connection> = registered.clone();
    let local_port = socket.local_addr().map_or(0, |address| address.port());
    let mut stream = ClientStream::new(socket, connection.clone());
    let protocol = tokio::select! {
        biased;
        () = connection.ordered_to_end() => return,
        protocol = stream.sniff() => match protocol {
            Ok(protocol) => protocol,
            // A client that connects and leaves, such as a load balancer's check, is not worth a word.
            Err(_) => return,
        },
    };
    let trusted = shared.config.trusted_proxies.iter().any(|range| range.contains(connection.remote.ip()));
    let client = Client::new(connection.remote, local_port, Scheme::HTTP, trusted);
    // Only this task keeps it, so that what is in there ends with the task.
    let taken_over = Arc::new(upgrade::Slot::default());
    let session = Arc::new(Session {
        shared,
        connection: connection.clone(),
        client,
        tasks: protocols.tasks.clone(),
        taken_over: Arc::downgrade(&taken_over),
    });
    let answer = service_fn(move |request| proxy::answer(session.clone(), service.clone(), request));
    let io = TokioIo::new(stream);
    let ended = match protocol {
        Protocol::Http1 => {
            let mut http = protocols.http1.serve_connection(io, answer);
            let ended = drive(Pin::new(&mut http), &connection).await;
            let taken_over = taken_over.lock().unwrap_or_else(PoisonError::into_inner).take();
            // HTTP has ended with the answer that hands the connection over.
            if let (Ok(()), Some(taken_over)) = (&ended, taken_over) {
                let left = http.into_parts();
                taken_over.over_connection(left.io.into_inner(), left.read_buf).await;
            }
            ended
        }
        Protocol::Http2 => {
            connection.set_multiplexed();
            let http = pin!(protocols.http2.serve_connection(io, answer));
            drive(http, &connection).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(client = %connection.remote, "connection of {} ended: {error}", connection.remote);
    }
}

/// Polls the connection, and obeys the orders that it is given.
async fn drive<C: GracefulConnection>(
    mut http: Pin<&mut C>,
    connection: &Connection,
) -> Result<(), C::Error> {
    let mut is_closing = false;
    std::future::poll_fn(|cx| {
        match connection.poll_order(cx) {
            Order::Serve => {}
            Order::Close if is_closing => {}
            Order::Close => {
                is_closing = true;
                http.as_mut().graceful_shutdown();
            }
            Order::Cut => return Poll::Ready(Ok(())),
        }
        http.as_mut().poll(cx)
    })
    .await
}
