//! Streams of WASI 0.3 into sockets: the engine reads what a guest sends from a stream of ours, into which it comes piece by piece as the quota lets it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream as _;
use futures::channel::{mpsc, oneshot};
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, Source, StreamConsumer, StreamProducer, StreamReader, StreamResult};

use super::super::super::state::State;
use super::super::egress::Pace;

/// As much as the engine's own streams write at once.
const PIECE_BYTES: usize = 64 << 10;

/// A piece, and who is told once the socket has all of it.
type Piece = (Bytes, oneshot::Sender<()>);

/// Returns a stream of what comes out of `data`, no faster than `pace` lets it.
pub(super) fn through(
    store: &mut StoreContextMut<'_, State>,
    data: StreamReader<u8>,
    pace: Pace,
) -> wasmtime::Result<StreamReader<u8>> {
    let (pieces, taken) = mpsc::channel(0);
    data.pipe(&mut *store, FromGuest { pace, pieces, passing: None })?;
    StreamReader::new(&mut *store, ToSocket { pieces: taken, passed: None })
}

/// Takes what the guest writes. A write has come to its end when the socket has it, as it would without this.
struct FromGuest {
    pace: Pace,
    pieces: mpsc::Sender<Piece>,
    /// How much the piece on its way has, and who will tell that it has arrived.
    passing: Option<(usize, oneshot::Receiver<()>)>,
}

impl FromGuest {
    /// Whether the next piece may go. False: nobody takes it any more.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        // Of a socket, so it never gives up.
        let _ = std::task::ready!(self.pace.poll_ready(context));
        self.pieces.poll_ready(context).map(|room| room.is_ok())
    }
}

impl<T> StreamConsumer<T> for FromGuest {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<'_, T>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let relay = &mut *self;
        let mut source = source.as_direct(store);
        let (length, mut arrival) = match relay.passing.take() {
            Some(passing) => passing,
            None => {
                match relay.poll_room(context) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(Ok(StreamResult::Dropped)),
                    Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                    Poll::Pending => return Poll::Pending,
                }
                let remaining = source.remaining();
                // The guest only asks whether it could write.
                if remaining.is_empty() {
                    return Poll::Ready(Ok(StreamResult::Completed));
                }
                let piece = Bytes::copy_from_slice(&remaining[..remaining.len().min(PIECE_BYTES)]);
                let length = piece.len();
                let (passed, arrival) = oneshot::channel();
                if relay.pieces.start_send((piece, passed)).is_err() {
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
                relay.pace.took(length);
                (length, arrival)
            }
        };
        match Pin::new(&mut arrival).poll(context) {
            Poll::Ready(Ok(())) => {}
            // The socket takes nothing any more, and the future that the guest has says why.
            Poll::Ready(Err(oneshot::Canceled)) => return Poll::Ready(Ok(StreamResult::Dropped)),
            // The guest does not wait any longer. The piece is on its way, so it is told that it was written.
            Poll::Pending if finish => {}
            Poll::Pending => {
                relay.passing = Some((length, arrival));
                return Poll::Pending;
            }
        }
        source.mark_read(length);
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

/// Gives it to the socket.
struct ToSocket {
    pieces: mpsc::Receiver<Piece>,
    /// Who waits for the piece before to be taken.
    passed: Option<oneshot::Sender<()>>,
}

impl<T> StreamProducer<T> for ToSocket {
    type Item = u8;
    type Buffer = Bytes;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        _store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, u8, Bytes>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        // More is asked for when the socket has taken all that there was.
        if let Some(passed) = self.passed.take() {
            // Whoever does not wait for it does not hear of it.
            let _ = passed.send(());
        }
        match Pin::new(&mut self.pieces).poll_next(context) {
            Poll::Ready(Some((piece, passed))) => {
                destination.set_buffer(piece);
                self.passed = Some(passed);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(None) => Poll::Ready(Ok(StreamResult::Dropped)),
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}
