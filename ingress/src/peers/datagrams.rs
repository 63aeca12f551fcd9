//! Datagrams between containers of two nodes: a flow of them is one stream of HTTP/2, in which each stands behind its length.
//!
//! A stream loses nothing and keeps the order, so what would have to wait in front of it is dropped there, and counted.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::PeerStats;
use super::tunnel::Tunnel;
use crate::stats::add_one;

/// The longest datagram that UDP over IPv4 has.
pub(super) const DATAGRAM_MAX_BYTES: usize = 65_507;
/// Datagrams that wait in one direction of a flow.
pub(super) const QUEUE_MAX: usize = 64;
/// What is read of a stream at once.
const BUFFER_BYTES: usize = 2048;

/// Both directions of a flow, at the node where it begins. Dropped, it ends.
pub struct DatagramFlow {
    /// To the container of the other node.
    pub to: mpsc::Sender<Bytes>,
    /// From there. It ends with the container.
    pub from: mpsc::Receiver<Bytes>,
}

impl DatagramFlow {
    /// Makes one of a stream that the other node has taken.
    pub(super) fn spawn(tunnel: Tunnel, stats: Arc<PeerStats>) -> Self {
        let (to, outgoing) = mpsc::channel(QUEUE_MAX);
        let (incoming, from) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(async move { carry(tunnel, outgoing, incoming, &stats).await });
        Self { to, from }
    }
}

/// Carries datagrams both ways until one side has ended. Dropped before that, it resets the other.
pub(super) async fn carry(
    tunnel: Tunnel,
    mut outgoing: mpsc::Receiver<Bytes>,
    incoming: mpsc::Sender<Bytes>,
    stats: &PeerStats,
) {
    let let_go = tunnel.let_go();
    let (reader, mut writer) = tokio::io::split(tunnel);
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let reads = async {
        while let Ok(datagram) = read(&mut reader).await {
            if !offer(&incoming, datagram, stats) {
                return;
            }
        }
    };
    let writes = async {
        while let Some(datagram) = outgoing.recv().await {
            if write(&mut writer, &datagram).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reads => {}
        () = writes => {}
        () = let_go.cancelled() => {}
        // Who has the flow has let go of it, and of the other direction as well.
        () = incoming.closed() => {}
    }
    let _ = writer.shutdown().await;
}

/// Puts a datagram where it waits for the next step, or drops it. False: nobody takes any.
pub(super) fn offer(to: &mpsc::Sender<Bytes>, datagram: Bytes, stats: &PeerStats) -> bool {
    match to.try_send(datagram) {
        Ok(()) => true,
        Err(TrySendError::Full(_)) => {
            add_one(&stats.datagrams_dropped);
            true
        }
        Err(TrySendError::Closed(_)) => false,
    }
}

/// The next datagram. One that is longer than UDP has is for who sends it to refuse.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let length = usize::from(from.read_u16().await?);
    let mut datagram = vec![0; length];
    from.read_exact(&mut datagram).await?;
    Ok(datagram.into())
}

/// As one piece, so that a datagram mostly is one frame.
async fn write(to: &mut (impl AsyncWrite + Unpin), datagram: &[u8]) -> io::Result<()> {
    let length = u16::try_from(datagram.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut piece = BytesMut::with_capacity(2 + datagram.len());
    piece.put_u16(length);
    piece.put_slice(datagram);
    to.write_all(&piece).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_what_nobody_takes_ends_the_flow() {
        let (stats, datagram) = (PeerStats::default(), || Bytes::from_static(b"x"));
        let (to, from) = mpsc::channel(2);
        assert!((0..5).all(|_| offer(&to, datagram(), &stats)));
        assert_eq!(stats.datagrams_dropped.load(Relaxed), 3);
        drop(from);
        assert!(!offer(&to, datagram(), &stats));
    }

    #[tokio::test]
    async fn a_stream_that_ends_within_a_datagram_has_none() {
        let cut: &[u8] = b"\0\x03ab";
        assert!(read(&mut { cut }).await.is_err());
        assert!(write(&mut Vec::<u8>::new(), &[0; 70_000]).await.is_err());
    }

    proptest! {
        #[test]
        fn datagrams_arrive_one_by_one_as_they_were_sent(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..20)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read_back = runtime.block_on(async {
                let mut stream = Vec::new();
                for datagram in &sent {
                    write(&mut stream, datagram).await.unwrap();
                }
                let mut from = &stream[..];
                let mut read_back = Vec::new();
                while let Ok(datagram) = read(&mut from).await {
                    read_back.push(datagram.to_vec());
                }
                read_back
            });
            prop_assert_eq!(read_back, sent);
        }
    }
}
