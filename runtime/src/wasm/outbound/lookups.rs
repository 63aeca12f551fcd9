//! Names that guests look up for their sockets.
//!
//! The engine's own function has a thread of the runtime ask for each, as many as there are threads. So it is defined again here: the names of
//! containers are known, other names of the platform are nobody's, and for the rest a place among the lookups is waited for ([`super::names`]). The stream
//! that WASI 0.2 has of the answer is one of ours, with all that takes it.

use std::net::{IpAddr, Ipv6Addr};
use std::vec;

use futures::FutureExt as _;
use reqwest::Url;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::sockets::network as p2;
use wasmtime_wasi::p2::{Pollable, subscribe};
use wasmtime_wasi::p3::bindings::sockets::{ip_name_lookup as p3, types};
use wharf_types::spec::OutboundScheme;

use super::super::engine::Profile;
use super::super::state::State;
use crate::container::names::is_of_platform;

const LOOKUP_02: &str = "wasi:sockets/ip-name-lookup@0.2.12";
const LOOKUP_03: &str = "wasi:sockets/ip-name-lookup@0.3.0";
const RESOLVE: &str = "resolve-addresses";
const NEXT: &str = "[method]resolve-address-stream.resolve-next-address";
const SUBSCRIBE: &str = "[method]resolve-address-stream.subscribe";
const RESOURCE: &str = "resolve-address-stream";

/// Octets of a name as the guest has it: what waits for a place stays with the host meanwhile.
const GIVEN_MAX_BYTES: usize = 1024;
/// Letters of a name in the DNS, with the dot at its end (RFC 1035 §3.1).
const NAME_MAX: usize = 254;

/// Has names looked up here, before the functions that the linker has already.
pub(in super::super) fn look_up_names(linker: &mut Linker<State>, profile: Profile) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    look_up_names_02(linker)?;
    if profile == Profile::Concurrent {
        look_up_names_03(linker)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// Why there is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// The guest has no grant for which it would need one.
    NotGranted,
    NoName,
    NotFound,
    /// There was no answer in time.
    TooLate,
}

impl Failed {
    fn code_02(self) -> p2::ErrorCode {
        match self {
            Self::NotGranted => p2::ErrorCode::PermanentResolverFailure,
            Self::NoName => p2::ErrorCode::InvalidArgument,
            Self::NotFound => p2::ErrorCode::NameUnresolvable,
            Self::TooLate => p2::ErrorCode::TemporaryResolverFailure,
        }
    }

    fn code_03(self) -> p3::ErrorCode {
        match self {
            Self::NotGranted => p3::ErrorCode::PermanentResolverFailure,
            Self::NoName => p3::ErrorCode::InvalidArgument,
            Self::NotFound => p3::ErrorCode::NameUnresolvable,
            Self::TooLate => p3::ErrorCode::TemporaryResolverFailure,
        }
    }
}

/// What a guest has asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Address(IpAddr),
    /// As the DNS has it: without capital letters, and in ASCII.
    Name(String),
}

fn asked(given: &str) -> Result<Asked, Failed> {
    if given.len() > GIVEN_MAX_BYTES {
        return Err(Failed::NoName);
    }
    if let Ok(address) = given.parse::<Ipv6Addr>() {
        return Ok(Asked::Address(address.into()));
    }
    let is_bracketed = given.starts_with('[') && given.ends_with(']');
    // The parser takes what follows a colon for a port.
    if given.contains(':') && !is_bracketed {
        return Err(Failed::NoName);
    }
    let mut url = Url::parse("http://name.invalid").map_err(|_| Failed::NoName)?;
    url.set_host(Some(given)).map_err(|_| Failed::NoName)?;
    let host = url.host_str().unwrap_or_default();
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => Ok(Asked::Address(address)),
        Err(_) if host.is_empty() || host.len() > NAME_MAX => Err(Failed::NoName),
        Err(_) => Ok(Asked::Name(host.to_owned())),
    }
}

type Found = Result<Vec<IpAddr>, Failed>;

/// A lookup, which ends when nobody waits for it any more.
enum Lookup {
    Runs(AbortOnDropHandle<Found>),
    Done(Result<vec::IntoIter<IpAddr>, Failed>),
}

impl Lookup {
    /// What can be said at once is.
    fn begin(state: &State, given: &str) -> Self {
        match answered(state, given) {
            Ok(Asked::Address(address)) => Self::Done(Ok(vec![address].into_iter())),
            Ok(Asked::Name(name)) => {
                let policy = state.policy.clone();
                Self::Runs(state.hooks.outbound.home.spawn(async move {
                    let found = policy.names.resolve_in_time(&name, 0).await;
                    match found {
                        Ok(found) => Ok(found.iter().map(|found| found.ip().to_canonical()).collect()),
                        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Err(Failed::TooLate),
                        Err(_) => Err(Failed::NotFound),
                    }
                }))
            }
            Err(failed) => Self::Done(Err(failed)),
        }
    }
}

/// The address that is known without asking anybody, or the name to ask for.
fn answered(state: &State, given: &str) -> Result<Asked, Failed> {
    let policy = &state.policy;
    if !policy.grants_scheme(OutboundScheme::Tcp) && !policy.grants_scheme(OutboundScheme::Udp) {
        return Err(Failed::NotGranted);
    }
    if let Some(address) = policy.container(given) {
        return Ok(Asked::Address(address));
    }
    match asked(given)? {
        Asked::Name(name) if is_of_platform(&name) => Err(Failed::NotFound),
        asked => Ok(asked),
    }
}

#[async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let Self::Runs(lookup) = self {
            // Without an answer, the worker is stopping.
            let found = lookup.await.unwrap_or(Err(Failed::TooLate));
            *self = Self::Done(found.map(Vec::into_iter));
        }
    }
}

fn look_up_names_02(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut lookup = linker.instance(LOOKUP_02)?;
    lookup.resource(RESOURCE, ResourceType::host::<Lookup>(), |mut store, place| {
        store.data_mut().table.delete(Resource::<Lookup>::new_own(place))?;
        Ok(())
    })?;
    lookup.func_wrap(RESOLVE, |mut store, (network, name): (Resource<p2::Network>, String)| {
        let state = store.data_mut();
        // It is what permits the call, so it has to be one.
        state.table.get(&network)?;
        let lookup = match Lookup::begin(state, &name) {
            Lookup::Done(Err(failed)) => return Ok((Err(failed.code_02()),)),
            lookup => lookup,
        };
        Ok((Ok(state.table.push(lookup)?),))
    })?;
    lookup.func_wrap(NEXT, |mut store, (lookup,): (Resource<Lookup>,)| {
        let lookup = store.data_mut().table.get_mut(&lookup)?;
        if lookup.ready().now_or_never().is_none() {
            return Ok((Err(p2::ErrorCode::WouldBlock),));
        }
        let next = match lookup {
            Lookup::Done(Ok(found)) => Ok(found.next().map(p2::IpAddress::from)),
            Lookup::Done(Err(failed)) => Err(failed.code_02()),
            Lookup::Runs(_) => Err(p2::ErrorCode::WouldBlock),
        };
        Ok((next,))
    })?;
    lookup.func_wrap(SUBSCRIBE, |mut store, (lookup,): (Resource<Lookup>,)| {
        Ok((subscribe(store.data_mut().table(), lookup)?,))
    })
}

fn look_up_names_03(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(LOOKUP_03)?.func_wrap_concurrent(RESOLVE, |accessor, (name,): (String,)| {
        Box::pin(async move {
            let mut lookup = accessor.with(|mut access| Lookup::begin(access.data_mut(), &name));
            lookup.ready().await;
            let found = match lookup {
                Lookup::Done(Ok(found)) => Ok(found.map(types::IpAddress::from).collect::<Vec<_>>()),
                Lookup::Done(Err(failed)) => Err(failed.code_03()),
                Lookup::Runs(_) => Err(Failed::TooLate.code_03()),
            };
            Ok((found,))
        })
    })
}

#[cfg(test)]
mod tests {
    use wasmtime::Engine;

    use super::super::super::engine::{Purpose, config};
    use super::*;

    #[test]
    fn what_a_guest_asks_for_is_a_name_or_an_address() {
        for (given, name) in [
            ("example.com", "example.com"),
            ("Example.COM.", "example.com."),
            ("bücher.example", "xn--bcher-kva.example"),
            ("hello。INTERNAL", "hello.internal"),
            ("my_db", "my_db"),
        ] {
            assert_eq!(asked(given), Ok(Asked::Name(name.to_owned())), "{given}");
        }
        for (given, address) in
            [("127.0.0.1", "127.0.0.1"), ("0x7f.1", "127.0.0.1"), ("::1", "::1"), ("[::1]", "::1")]
        {
            assert_eq!(asked(given), Ok(Asked::Address(address.parse().unwrap())), "{given}");
        }
        let long = format!("{}example.com", "label.".repeat(50));
        let longer = "a".repeat(1 << 20);
        for given in ["", "no name", "a:80", "user@a", "a/b", "a?b", ":1", long.as_str(), longer.as_str()] {
            assert_eq!(asked(given), Err(Failed::NoName), "{given}");
        }
    }

    #[test]
    fn what_is_looked_up_here_is_what_the_engine_has() {
        let engine = Engine::new(&config(Profile::Concurrent, Purpose::Compile)).unwrap();
        for (interface, function) in [
            (LOOKUP_02, RESOLVE),
            (LOOKUP_02, NEXT),
            (LOOKUP_02, SUBSCRIBE),
            (LOOKUP_02, RESOURCE),
            (LOOKUP_03, RESOLVE),
        ] {
            let mut fresh = Linker::<State>::new(&engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut fresh).unwrap();
            wasmtime_wasi::p3::add_to_linker(&mut fresh).unwrap();
            // Without shadowing, a name that is there cannot be defined again.
            let again = fresh.instance(interface).unwrap().func_wrap(function, |_, (): ()| Ok(()));
            assert!(again.is_err(), "{interface} has no {function}");
        }
    }
}
