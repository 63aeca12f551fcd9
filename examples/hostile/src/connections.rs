//! Many connections at once, or many lookups of names.

use std::collections::BTreeMap;

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, OutgoingRequest, RequestOptions, Scheme};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode as SocketError, IpAddressFamily};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

/// How long a request waits for a connection, and then for its answer. Those that have a connection keep it until all others have
/// given up.
const CONNECT_NANOS: u64 = 500_000_000;
const ANSWER_NANOS: u64 = 5_000_000_000;

/// How many sockets the host gives before it refuses one.
pub(crate) fn open_sockets() -> usize {
    let mut kept = Vec::new();
    while let Ok(socket) = create_tcp_socket(IpAddressFamily::Ipv4) {
        kept.push(socket);
    }
    subscribe_duration(8_000_000_000).block();
    kept.len()
}

/// Looks up a name so many times at once; with which errors that ended, one a line.
pub(crate) fn look_up(count: u64, name: &str) -> String {
    let network = instance_network();
    let begun: Vec<_> = (0..count).map(|_| resolve_addresses(&network, name)).collect();
    let mut ends = BTreeMap::<String, u64>::new();
    for lookup in begun {
        let end = lookup.and_then(|lookup| {
            let pollable = lookup.subscribe();
            loop {
                match lookup.resolve_next_address() {
                    Err(SocketError::WouldBlock) => pollable.block(),
                    next => break next.map(drop),
                }
            }
        });
        let end = end.map_or_else(|error| error.name().to_owned(), |()| "answered".to_owned());
        *ends.entry(end).or_default() += 1;
    }
    ends.iter().map(|(end, count)| format!("{end}: {count}\n")).collect()
}

/// Sends so many requests at once; how many were answered, and with which errors the others ended, one a line.
pub(crate) fn open(count: u64, url: &str) -> String {
    let authority = url.trim_start_matches("http://").trim_end_matches('/');
    let sent: Vec<_> = (0..count).map(|_| send(authority)).collect();
    let mut ends = BTreeMap::<String, u64>::new();
    for answer in sent {
        let end = answer.and_then(|answer| {
            answer.subscribe().block();
            answer.get().expect("it is there").expect("nobody has taken it").map(drop)
        });
        let end = end.map_or_else(|error| format!("{error:?}"), |()| "answered".to_owned());
        *ends.entry(end).or_default() += 1;
    }
    ends.iter().map(|(end, count)| format!("{end}: {count}\n")).collect()
}

fn send(authority: &str) -> Result<wasip2::http::types::FutureIncomingResponse, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).expect("it is a scheme");
    request.set_path_with_query(Some("/")).expect("it is a path");
    if request.set_authority(Some(authority)).is_err() {
        return Err(ErrorCode::HttpRequestUriInvalid);
    }
    let options = RequestOptions::new();
    options.set_connect_timeout(Some(CONNECT_NANOS)).expect("the host knows this option");
    options.set_first_byte_timeout(Some(ANSWER_NANOS)).expect("the host knows this option");
    outgoing_handler::handle(request, Some(options))
}
