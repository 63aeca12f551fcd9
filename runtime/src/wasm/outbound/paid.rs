//! Sockets of guests whose octets come out of the quota of their namespace: what they write waits here, before the engine has it.
//!
//! That is what a guest sends over connections that it has begun, and as datagrams. What it answers over connections that it has accepted counts
//! where the front door passes it on, and what goes to containers of its own namespace by their names leaves nothing.

mod datagrams;
mod relay;

use std::mem;
use std::net::SocketAddr;

use bytes::Bytes;
use wasmtime::component::{Access, Linker, Resource, StreamReader};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::sockets as p2;
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::p3::bindings::sockets::types as p3;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};

use super::super::engine::Profile;
use super::super::state::State;
use super::egress::Pace;

/// Where connections are there, and where something is sent, as the engine's own linker calls them.
const FINISH_02: (&str, &str) = ("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.finish-connect");
const SEND_03: (&str, &str) = ("wasi:sockets/types@0.3.0", "[method]tcp-socket.send");
const SEND_UDP_03: (&str, &str) = ("wasi:sockets/types@0.3.0", "[method]udp-socket.send");

/// Puts the quota before the functions that send, which the linker has already.
pub(in super::super) fn count_sockets(linker: &mut Linker<State>, profile: Profile) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    count_streams_02(linker)?;
    datagrams::count(linker)?;
    if profile == Profile::Concurrent {
        count_streams_03(linker)?;
        count_datagrams_03(linker)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// A socket of WASI 0.3 is connected: what it sends counts.
pub(super) fn connected(state: &mut State, place: u32, address: SocketAddr) {
    // A place may be used again, and by a socket that was accepted: whatever was known of the one before ends here, or when that one sends.
    if state.hooks.outbound.is_counted() && !state.policy.is_neighbour(address) {
        state.paying.insert(place);
    } else {
        state.paying.remove(&place);
    }
}

fn count_streams_02(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use p2::network::Host as _;
    use p2::tcp::{HostTcpSocket as _, TcpSocket};
    linker.instance(FINISH_02.0)?.func_wrap(FINISH_02.1, |mut store, (socket,): (Resource<TcpSocket>,)| {
        let place = socket.rep();
        let mut sockets = store.data_mut().sockets();
        let streams = match sockets.finish_connect(socket) {
            Ok((input, output)) => Ok((input, counted(store.data_mut(), place, output)?)),
            Err(error) => Err(sockets.convert_error_code(error)?),
        };
        Ok((streams,))
    })
}

/// Puts the quota before the stream into a socket of WASI 0.2, unless what goes there does not count.
fn counted(
    state: &mut State,
    place: u32,
    stream: Resource<DynOutputStream>,
) -> wasmtime::Result<Resource<DynOutputStream>> {
    use p2::tcp::{HostTcpSocket as _, TcpSocket};
    let socket = || Resource::<TcpSocket>::new_borrow(place);
    let peer = state.sockets().remote_address(socket()).map(SocketAddr::from);
    if !state.hooks.outbound.is_counted() || peer.is_ok_and(|peer| state.policy.is_neighbour(peer)) {
        return Ok(stream);
    }
    let inner = state.table.delete(stream)?;
    let paced = PacedStream { inner, pace: state.hooks.outbound.pace_of_socket(), permit: 0 };
    Ok(state.table.push_child(Box::new(paced) as DynOutputStream, &socket())?)
}

fn count_streams_03(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use p3::{HostTcpSocketWithStore, TcpSocket};
    linker.instance(SEND_03.0)?.func_wrap(
        SEND_03.1,
        |mut store, (socket, data): (Resource<TcpSocket>, StreamReader<u8>)| {
            let data = match store.data_mut().paying.remove(&socket.rep()) {
                true => {
                    let pace = store.data().hooks.outbound.pace_of_socket();
                    relay::through(&mut store, data, pace)?
                }
                false => data,
            };
            let access = Access::<_, WasiSockets>::new(store, |state| state.sockets());
            Ok((<WasiSockets as HostTcpSocketWithStore<State>>::send(access, socket, data)?,))
        },
    )
}

fn count_datagrams_03(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use p3::{Host as _, HostUdpSocketWithStore, IpSocketAddress, UdpSocket};
    type Datagram = (Resource<UdpSocket>, Vec<u8>, Option<IpSocketAddress>);
    linker.instance(SEND_UDP_03.0)?.func_wrap_concurrent(
        SEND_UDP_03.1,
        |accessor, (socket, data, to): Datagram| {
            Box::pin(async move {
                let mut pace = accessor.with(|mut access| access.data_mut().hooks.outbound.pace_of_socket());
                pace.ready().await;
                let octets = data.len();
                let sockets = accessor.with_getter::<WasiSockets>(State::sockets);
                let send = <WasiSockets as HostUdpSocketWithStore<State>>::send(&sockets, socket, data, to);
                let sent =
                    match send.await {
                        Ok(()) => {
                            pace.took(octets);
                            Ok(())
                        }
                        Err(error) => Err(accessor
                            .with(|mut access| access.data_mut().sockets().convert_error_code(error))?),
                    };
                Ok((sent,))
            })
        },
    )
}

/// A stream of WASI 0.2 into a socket.
struct PacedStream {
    inner: DynOutputStream,
    pace: Pace,
    /// How much the guest was told that it may write now: the stream within may allow more.
    permit: usize,
}

#[async_trait]
impl OutputStream for PacedStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let octets = bytes.len();
        // As the engine's own streams have it: nothing takes no permit, and one that is closed says so.
        if octets == 0 {
            return self.inner.write(bytes);
        }
        if octets > mem::take(&mut self.permit) {
            self.inner.check_write()?;
            return Err(StreamError::trap("cannot write more than the last `check-write` allowed"));
        }
        self.inner.write(bytes)?;
        self.pace.took(octets);
        Ok(())
    }

    async fn blocking_write_and_flush(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        while !bytes.is_empty() {
            let permit = self.write_ready().await?;
            self.write(bytes.split_to(bytes.len().min(permit)))?;
        }
        // What was written may leave: of the quota it is only the next write that waits.
        let flushed = match self.inner.flush() {
            Ok(()) => self.inner.write_ready().await.map(drop),
            Err(error) => Err(error),
        };
        match flushed {
            // As the engine's own streams have it.
            Err(StreamError::Closed) => Ok(()),
            flushed => flushed,
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.permit = 0;
        let room = self.inner.check_write()?;
        if !self.pace.is_owed() {
            self.permit = room;
        }
        Ok(self.permit)
    }

    /// As often as it takes: others of the namespace may be quicker again and again, and the engine would give up after some tries.
    async fn write_ready(&mut self) -> StreamResult<usize> {
        loop {
            self.ready().await;
            let permit = self.check_write()?;
            if permit > 0 {
                return Ok(permit);
            }
        }
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[async_trait]
impl Pollable for PacedStream {
    async fn ready(&mut self) {
        self.pace.ready().await;
        self.inner.ready().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio::time::Instant;
    use wasmtime::Engine;
    use wharf_types::NamespaceName;

    use super::super::super::engine::{Purpose, config};
    use super::super::egress::{Egress, EgressPlace, Payer};
    use super::super::home::Home;
    use super::*;

    /// Takes whatever comes, and remembers how much.
    struct Sink(Arc<Mutex<usize>>);

    #[async_trait]
    impl OutputStream for Sink {
        fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
            *self.0.lock().unwrap() += bytes.len();
            Ok(())
        }

        fn flush(&mut self) -> StreamResult<()> {
            Ok(())
        }

        fn check_write(&mut self) -> StreamResult<usize> {
            Ok(1000)
        }
    }

    #[async_trait]
    impl Pollable for Sink {
        async fn ready(&mut self) {}
    }

    /// Whoever was to take it is gone.
    struct Gone;

    #[async_trait]
    impl OutputStream for Gone {
        fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
            if bytes.is_empty() { Ok(()) } else { Err(StreamError::Closed) }
        }

        fn flush(&mut self) -> StreamResult<()> {
            Err(StreamError::Closed)
        }

        fn check_write(&mut self) -> StreamResult<usize> {
            Err(StreamError::Closed)
        }
    }

    #[async_trait]
    impl Pollable for Gone {
        async fn ready(&mut self) {}
    }

    /// Lets a thousand octets leave in each second, one piece at a time.
    struct Thousand(Mutex<Instant>);

    impl Egress for Thousand {
        fn owed(&self, _: &NamespaceName) -> Option<Duration> {
            let owed = self.0.lock().unwrap().saturating_duration_since(Instant::now());
            (!owed.is_zero()).then_some(owed)
        }

        fn took(&self, _: &NamespaceName, octets: usize) {
            let mut free_at = self.0.lock().unwrap();
            *free_at = (*free_at).max(Instant::now()) + Duration::from_millis(octets as u64);
        }
    }

    fn pace() -> Pace {
        let place = EgressPlace::default();
        assert!(place.set(Arc::new(Thousand(Mutex::new(Instant::now())))).is_ok());
        let namespace = NamespaceName::default_namespace();
        Pace::of_socket(Some(Payer { egress: place, namespace }), Home::here())
    }

    fn stream() -> (Arc<Mutex<usize>>, PacedStream) {
        let written = Arc::default();
        let inner = Box::new(Sink(Arc::clone(&written)));
        (written, PacedStream { inner, pace: pace(), permit: 0 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_written_no_faster_than_the_quota_and_its_last_write_does_not_wait() {
        let (written, mut stream) = stream();
        let begun = Instant::now();
        stream.blocking_write_and_flush(Bytes::from(vec![0; 5000])).await.unwrap();
        assert_eq!(*written.lock().unwrap(), 5000);
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(5), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_wait_may_write_nothing_meanwhile() {
        let (written, mut stream) = stream();
        assert_eq!(stream.check_write().unwrap(), 1000);
        stream.write(Bytes::from(vec![0; 1000])).unwrap();
        assert_eq!(stream.check_write().unwrap(), 0);
        let trapped = stream.write(Bytes::from_static(b"x"));
        assert!(matches!(trapped, Err(StreamError::Trap(_))));
        let begun = Instant::now();
        stream.ready().await;
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert_eq!(stream.check_write().unwrap(), 1000);
        assert_eq!(*written.lock().unwrap(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_says_nothing_takes_no_permit_and_one_to_nobody_is_no_trap() {
        let (written, mut stream) = stream();
        assert_eq!(stream.check_write().unwrap(), 1000);
        stream.write(Bytes::new()).unwrap();
        stream.write(Bytes::from(vec![0; 1000])).unwrap();
        assert_eq!(*written.lock().unwrap(), 1000);

        let mut stream = PacedStream { inner: Box::new(Gone), pace: pace(), permit: 0 };
        assert!(matches!(stream.check_write(), Err(StreamError::Closed)));
        assert!(matches!(stream.write(Bytes::from_static(b"x")), Err(StreamError::Closed)));
    }

    #[test]
    fn what_is_counted_is_what_the_engine_has() {
        let engine = Engine::new(&config(Profile::Concurrent, Purpose::Compile)).unwrap();
        for (interface, function) in [FINISH_02, SEND_03, SEND_UDP_03].into_iter().chain(datagrams::FUNCTIONS)
        {
            let mut fresh = Linker::<State>::new(&engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut fresh).unwrap();
            wasmtime_wasi::p3::add_to_linker(&mut fresh).unwrap();
            // Without shadowing, a name that is there cannot be defined again.
            let again = fresh.instance(interface).unwrap().func_wrap(function, |_, (): ()| Ok(()));
            assert!(again.is_err(), "{interface} has no {function}");
        }
    }
}
