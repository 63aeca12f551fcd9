//! Commands: guests that run until they return.

use std::sync::Arc;

use wasmtime::component::InstancePre;
use wasmtime::{Engine, Store};
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};
use wharf_types::node::ReasonKind;
use wharf_types::spec::OutboundScheme;

use super::failure::{InvokeError, classify};
use super::module::{self, ModuleState};
use super::outbound::Policy;
use super::places::Place;
use super::ports::{may_accept, may_listen};
use super::state::{State, Template, new_store};
use crate::backend::{Ended, Failure};

/// A linked command of any WASI version.
pub enum Command {
    P1(wasmtime::InstancePre<ModuleState>),
    P2(wasmtime_wasi::p2::bindings::CommandPre<State>),
    P3(wasmtime_wasi::p3::bindings::CommandPre<State>),
}

impl Command {
    /// None: the component exports no `wasi:cli/run`.
    pub fn new(pre: &InstancePre<State>) -> Option<Self> {
        if let Ok(pre) = wasmtime_wasi::p3::bindings::CommandPre::new(pre.clone()) {
            return Some(Self::P3(pre));
        }
        wasmtime_wasi::p2::bindings::CommandPre::new(pre.clone()).ok().map(Self::P2)
    }

    /// Whether it could make use of outbound grants.
    pub(super) fn has_network(&self) -> bool {
        !matches!(self, Self::P1(_))
    }

    /// Runs the guest to its end, in a store that has this place in the engine's pool.
    pub(super) async fn run(
        &self,
        mut wasi: WasiCtxBuilder,
        template: &Template,
        place: Option<Place>,
    ) -> CommandEnd {
        let (ended, denied) = match self {
            Self::P1(pre) => {
                let mut state = ModuleState::new(&mut wasi, template);
                state.bounds.hold(place);
                let mut store = new_store(pre.module().engine(), state);
                let ended = module::run(pre, &mut store).await.map(Ok);
                (ended, store.data().bounds.denied())
            }
            Self::P2(pre) => {
                let mut store = component_store(pre.engine(), wasi, template, place);
                let ended = match pre.instantiate_async(&mut store).await {
                    Ok(command) => command.wasi_cli_run().call_run(&mut store).await,
                    Err(error) => Err(error),
                };
                (ended, store.data().bounds.denied())
            }
            Self::P3(pre) => {
                let mut store = component_store(pre.engine(), wasi, template, place);
                let ended = match pre.instantiate_async(&mut store).await {
                    Ok(command) => {
                        let run = store
                            .run_concurrent(async |access| command.wasi_cli_run().call_run(access).await);
                        run.await.and_then(|ended| ended)
                    }
                    Err(error) => Err(error),
                };
                (ended, store.data().bounds.denied())
            }
        };
        match ended {
            Ok(Ok(())) => CommandEnd::Exit(0),
            Ok(Err(())) => CommandEnd::Exit(1),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(exit) => CommandEnd::Exit(exit.0),
                None => CommandEnd::Trap(classify(&error, denied, &[])),
            },
        }
    }
}

fn component_store(
    engine: &Engine,
    mut wasi: WasiCtxBuilder,
    template: &Template,
    place: Option<Place>,
) -> Store<State> {
    let mut state = State::new(wasi.build(), template);
    state.bounds.hold(place);
    new_store(engine, state)
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    Exit(i32),
    Trap(InvokeError),
}

impl CommandEnd {
    pub(super) fn is_trap(&self) -> bool {
        matches!(self, Self::Trap(_))
    }

    /// The same for the supervisor, with what the guest last printed.
    pub(super) fn into_ended(self, last_words: &[String]) -> Ended {
        let words = || match &last_words[last_words.len().saturating_sub(3)..] {
            [] => String::new(),
            last => format!("; it last printed: {}", last.join(" / ")),
        };
        match self {
            Self::Exit(0) => Ended::Success,
            Self::Exit(code) => {
                let message = format!("the command ended with exit code {code}{}", words());
                Ended::Failed(Failure { exit_code: Some(code), ..Failure::new(ReasonKind::Exit, message) })
            }
            Self::Trap(error) => {
                let reason = error.reason();
                Ended::Failed(Failure::new(reason.kind, format!("{}{}", reason.message, words())))
            }
        }
    }
}

/// Opens the sockets that the policy grants, connections to granted addresses, and those that listen at the guest's own ports.
pub(super) fn grant_sockets(wasi: &mut WasiCtxBuilder, policy: &Arc<Policy>, ports: &[u16]) {
    let (tcp, udp) = (policy.grants_scheme(OutboundScheme::Tcp), policy.grants_scheme(OutboundScheme::Udp));
    let listens = !ports.is_empty();
    if !tcp && !udp && !listens {
        return;
    }
    wasi.allow_tcp(tcp || listens).allow_udp(udp).allow_ip_name_lookup(tcp || udp);
    let (policy, ports) = (policy.clone(), Arc::<[u16]>::from(ports));
    wasi.socket_addr_check(move |address, usage| {
        let (policy, ports) = (policy.clone(), ports.clone());
        Box::pin(async move {
            match usage {
                SocketAddrUse::TcpConnect => policy.permits_socket(OutboundScheme::Tcp, address).await,
                SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => {
                    policy.permits_socket(OutboundScheme::Udp, address).await
                }
                // A client's own end is chosen by the kernel.
                SocketAddrUse::TcpBind => address.port() == 0 || may_listen(&ports, address),
                SocketAddrUse::UdpBind => address.port() == 0,
                SocketAddrUse::TcpListen => may_listen(&ports, address),
                SocketAddrUse::TcpAccept => may_accept(address),
            }
        })
    });
}
