//! Sockets of guests: how many there may be. Files that they open are bounded by the same rule ([`has_room`]).
//!
//! A socket is a file handle of this process from the moment when a guest makes it, connected or not, and the front door needs one
//! for each connection that it accepts. So a guest gets none that would leave less than a quarter of them.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::LazyLock;

use nix::sys::resource::{Resource, getrlimit};
use wasmtime::component::Linker;
use wasmtime_wasi::p2::bindings::sockets as p2;
use wasmtime_wasi::p3::bindings::sockets::types as p3;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};

use super::super::engine::Profile;
use super::super::state::State;
use super::paid;

/// Interfaces and functions that make sockets, as the engine's own linker calls them.
const TCP_02: (&str, &str) = ("wasi:sockets/tcp-create-socket@0.2.12", "create-tcp-socket");
const UDP_02: (&str, &str) = ("wasi:sockets/udp-create-socket@0.2.12", "create-udp-socket");
const TCP_03: (&str, &str) = ("wasi:sockets/types@0.3.0", "[static]tcp-socket.create");
const UDP_03: (&str, &str) = ("wasi:sockets/types@0.3.0", "[static]udp-socket.create");

static FILE_HANDLES_MAX: LazyLock<u64> =
    LazyLock::new(|| getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft));

/// The kernel gives the lowest handle that is free, so its number tells at least how many are taken.
pub(in super::super) fn has_room() -> bool {
    let next = std::io::stdin().as_fd().try_clone_to_owned();
    next.is_ok_and(|next| leaves_enough(next.as_raw_fd().unsigned_abs().into(), *FILE_HANDLES_MAX))
}

fn leaves_enough(taken: u64, max: u64) -> bool {
    taken < max / 4 * 3
}

/// Where connections begin.
const CONNECT_02: (&str, &str) = ("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.start-connect");
const CONNECT_03: (&str, &str) = ("wasi:sockets/types@0.3.0", "[method]tcp-socket.connect");

/// Leads a connection to an address that stands for a container of another node to who listens for it. Guests learn such addresses by
/// [`super::lookups`].
pub(in super::super) fn lead_connections(
    linker: &mut Linker<State>,
    profile: Profile,
) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    lead_connections_02(linker)?;
    if profile == Profile::Concurrent {
        lead_connections_03(linker)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// The port at which somebody listens for this one.
fn led(state: &State, (a, b, c, d): (u8, u8, u8, u8), port: u16) -> u16 {
    state.policy.led(SocketAddr::from(([a, b, c, d], port)))
}

fn lead_connections_02(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use p2::network::{Host as _, IpSocketAddress, Network};
    use p2::tcp::{HostTcpSocket as _, TcpSocket};
    type To =
        (wasmtime::component::Resource<TcpSocket>, wasmtime::component::Resource<Network>, IpSocketAddress);
    linker.instance(CONNECT_02.0)?.func_wrap(CONNECT_02.1, |mut store, (socket, network, mut to): To| {
        if let IpSocketAddress::Ipv4(to) = &mut to {
            to.port = led(store.data(), to.address, to.port);
        }
        let mut sockets = store.data_mut().sockets();
        let begun = sockets.start_connect(socket, network, to);
        Ok((begun.map(Ok).or_else(|error| sockets.convert_error_code(error).map(Err))?,))
    })
}

fn lead_connections_03(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use p3::{Host as _, HostTcpSocketWithStore, IpSocketAddress, TcpSocket};
    type To = (wasmtime::component::Resource<TcpSocket>, IpSocketAddress);
    linker.instance(CONNECT_03.0)?.func_wrap_concurrent(CONNECT_03.1, |accessor, (socket, mut to): To| {
        Box::pin(async move {
            if let IpSocketAddress::Ipv4(to) = &mut to {
                to.port = accessor.with(|mut access| led(access.data_mut(), to.address, to.port));
            }
            let (place, address) = (socket.rep(), SocketAddr::from(to));
            let sockets = accessor.with_getter::<WasiSockets>(State::sockets);
            let connect = <WasiSockets as HostTcpSocketWithStore<State>>::connect(&sockets, socket, to);
            let connected = match connect.await {
                Ok(()) => {
                    accessor.with(|mut access| paid::connected(access.data_mut(), place, address));
                    Ok(())
                }
                Err(error) => {
                    Err(accessor.with(|mut access| access.data_mut().sockets().convert_error_code(error))?)
                }
            };
            Ok((connected,))
        })
    })
}

/// Puts the bound before the functions that make sockets, which the linker has already.
pub(in super::super) fn bound_sockets(linker: &mut Linker<State>, profile: Profile) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    bound_sockets_02(linker)?;
    if profile == Profile::Concurrent {
        bound_sockets_03(linker)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

fn bound_sockets_02(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use p2::network::{ErrorCode, Host, IpAddressFamily};
    use p2::tcp_create_socket::Host as _;
    use p2::udp_create_socket::Host as _;
    linker.instance(TCP_02.0)?.func_wrap(TCP_02.1, |mut store, (family,): (IpAddressFamily,)| {
        if !has_room() {
            return Ok((Err(ErrorCode::NewSocketLimit),));
        }
        let mut sockets = store.data_mut().sockets();
        let made = sockets.create_tcp_socket(family);
        Ok((made.map(Ok).or_else(|error| sockets.convert_error_code(error).map(Err))?,))
    })?;
    linker.instance(UDP_02.0)?.func_wrap_async(UDP_02.1, |mut store, (family,): (IpAddressFamily,)| {
        Box::new(async move {
            if !has_room() {
                return Ok((Err(ErrorCode::NewSocketLimit),));
            }
            let mut sockets = store.data_mut().sockets();
            let made = sockets.create_udp_socket(family).await;
            Ok((made.map(Ok).or_else(|error| sockets.convert_error_code(error).map(Err))?,))
        })
    })
}

fn bound_sockets_03(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use p3::{ErrorCode, Host, HostTcpSocket, HostUdpSocket, IpAddressFamily};
    let too_many = || ErrorCode::Other(Some("the host has no more sockets for guests".into()));
    linker.instance(TCP_03.0)?.func_wrap(TCP_03.1, move |mut store, (family,): (IpAddressFamily,)| {
        if !has_room() {
            return Ok((Err(too_many()),));
        }
        let mut sockets = store.data_mut().sockets();
        let made = HostTcpSocket::create(&mut sockets, family);
        Ok((made.map(Ok).or_else(|error| sockets.convert_error_code(error).map(Err))?,))
    })?;
    linker.instance(UDP_03.0)?.func_wrap_async(UDP_03.1, move |mut store, (family,): (IpAddressFamily,)| {
        Box::new(async move {
            if !has_room() {
                return Ok((Err(too_many()),));
            }
            let mut sockets = store.data_mut().sockets();
            let made = HostUdpSocket::create(&mut sockets, family).await;
            Ok((made.map(Ok).or_else(|error| sockets.convert_error_code(error).map(Err))?,))
        })
    })
}

#[cfg(test)]
mod tests {
    use wasmtime::Engine;

    use super::super::super::engine::{Purpose, config};
    use super::super::super::state::linker;
    use super::*;

    #[test]
    fn guests_leave_a_quarter_of_the_file_handles() {
        assert!(leaves_enough(0, 1024) && leaves_enough(767, 1024));
        assert!(!leaves_enough(768, 1024));
        assert!(has_room());
    }

    #[test]
    fn what_is_bounded_and_led_is_what_the_engine_has() {
        let engine = Engine::new(&config(Profile::Concurrent, Purpose::Compile)).unwrap();
        for (interface, function) in [TCP_02, UDP_02, TCP_03, UDP_03, CONNECT_02, CONNECT_03] {
            let mut fresh = Linker::<State>::new(&engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut fresh).unwrap();
            wasmtime_wasi::p3::add_to_linker(&mut fresh).unwrap();
            // Without shadowing, a name that is there cannot be defined again.
            let again = fresh.instance(interface).unwrap().func_wrap(function, |_, (): ()| Ok(()));
            assert!(again.is_err(), "{interface} has no {function}");
        }
        assert!(linker(&engine, Profile::Concurrent).is_ok());
    }
}
