//! Datagrams of WASI 0.2: the stream of them is put into another one, which stands in its place among the guest's handles.
//!
//! The engine looks up its own stream by the handle. So each function that gets one is defined again here, and lends the stream within to
//! the engine's function while that runs.

use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, Host as _, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    HostOutgoingDatagramStream as _, HostUdpSocket as _, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasmtime_wasi::p2::{Pollable, SocketResult, subscribe};
use wasmtime_wasi::sockets::{WasiSocketsCtxView, WasiSocketsView};

use super::super::super::state::State;
use super::super::egress::Pace;

const UDP: &str = "wasi:sockets/udp@0.2.12";
const STREAM: &str = "[method]udp-socket.stream";
const CHECK: &str = "[method]outgoing-datagram-stream.check-send";
const SEND: &str = "[method]outgoing-datagram-stream.send";
const SUBSCRIBE: &str = "[method]outgoing-datagram-stream.subscribe";
const RESOURCE: &str = "outgoing-datagram-stream";

/// All that gets such a handle, or makes one.
#[cfg(test)]
pub(super) const FUNCTIONS: [(&str, &str); 5] =
    [(UDP, STREAM), (UDP, CHECK), (UDP, SEND), (UDP, SUBSCRIBE), (UDP, RESOURCE)];

/// What the guest takes it for.
type Handle = Resource<OutgoingDatagramStream>;

struct PacedDatagrams {
    /// None: it is lent.
    inner: Option<OutgoingDatagramStream>,
    pace: Pace,
}

#[async_trait]
impl Pollable for PacedDatagrams {
    async fn ready(&mut self) {
        self.pace.ready().await;
        if let Some(inner) = &mut self.inner {
            inner.ready().await;
        }
    }
}

fn paced(handle: &Handle) -> Resource<PacedDatagrams> {
    Resource::new_borrow(handle.rep())
}

pub(super) fn count(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut udp = linker.instance(UDP)?;
    udp.func_wrap_async(
        STREAM,
        |mut store, (socket, remote): (Resource<UdpSocket>, Option<IpSocketAddress>)| {
            Box::new(async move {
                let place = socket.rep();
                let mut sockets = store.data_mut().sockets();
                let streams = match sockets.stream(socket, remote).await {
                    Ok((incoming, outgoing)) => Ok((incoming, put_in(store.data_mut(), place, outgoing)?)),
                    Err(error) => Err(sockets.convert_error_code(error)?),
                };
                Ok((streams,))
            })
        },
    )?;
    udp.func_wrap(CHECK, |mut store, (stream,): (Handle,)| {
        let state = store.data_mut();
        if state.table.get(&paced(&stream))?.pace.is_owed() {
            return Ok((Ok(0),));
        }
        Ok((lent(state, &stream, |sockets, inner| sockets.check_send(inner))?,))
    })?;
    udp.func_wrap(SEND, |mut store, (stream, datagrams): (Handle, Vec<OutgoingDatagram>)| {
        let state = store.data_mut();
        let sizes: Vec<usize> = datagrams.iter().map(|datagram| datagram.data.len()).collect();
        let sent = lent(state, &stream, |sockets, inner| sockets.send(inner, datagrams))?;
        if let Ok(count) = sent {
            let octets: usize = sizes.iter().take(usize::try_from(count).unwrap_or(usize::MAX)).sum();
            state.table.get(&paced(&stream))?.pace.took(octets);
        }
        Ok((sent,))
    })?;
    udp.func_wrap(SUBSCRIBE, |mut store, (stream,): (Handle,)| {
        Ok((subscribe(store.data_mut().table(), paced(&stream))?,))
    })?;
    udp.resource_async(RESOURCE, ResourceType::host::<OutgoingDatagramStream>(), |mut store, place| {
        Box::new(async move {
            let stream = Resource::<PacedDatagrams>::new_own(place);
            let mut stream = store.data_mut().table().delete(stream)?;
            // As the engine does: what was sent is not lost.
            if let Some(inner) = &mut stream.inner {
                inner.ready().await;
            }
            Ok(())
        })
    })
}

fn put_in(state: &mut State, place: u32, stream: Handle) -> wasmtime::Result<Handle> {
    let inner = Some(state.table.delete(stream)?);
    let pace = state.hooks.outbound.pace_of_socket();
    let socket = Resource::<UdpSocket>::new_borrow(place);
    let stream = state.table.push_child(PacedDatagrams { inner, pace }, &socket)?;
    Ok(Resource::new_own(stream.rep()))
}

/// Lets the engine's own function have the stream within.
fn lent<T>(
    state: &mut State,
    handle: &Handle,
    call: impl FnOnce(&mut WasiSocketsCtxView<'_>, Handle) -> SocketResult<T>,
) -> wasmtime::Result<Result<T, ErrorCode>> {
    let inner = state.table.get_mut(&paced(handle))?.inner.take();
    let inner = inner.ok_or_else(|| wasmtime::format_err!("the stream of datagrams is in use"))?;
    let stream = state.table.push(inner)?;
    let mut sockets = state.sockets();
    let answer = match call(&mut sockets, Resource::new_borrow(stream.rep())) {
        Ok(answer) => Ok(answer),
        Err(error) => Err(sockets.convert_error_code(error)?),
    };
    let inner = state.table.delete(stream)?;
    state.table.get_mut(&paced(handle))?.inner = Some(inner);
    Ok(answer)
}
