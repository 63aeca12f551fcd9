//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use std::net::{IpAddr, SocketAddr};

use http::header::{CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Request};
use hyper::ext::Protocol;

use crate::forwarded::{Client, is_ours};
use crate::headers::{strip_request, strip_response};
use crate::peers::wire::{Ask, PREFIX};
use crate::trust::IpRange;
use crate::upgrade;
use crate::uri::make_absolute;

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("targets", targets, &[
        b"GET /a?b HTTP/1.1\nhost:a.example.com:8080", b"GET http://a.example.com/ HTTP/1.1\nhost:b", b"OPTIONS * HTTP/1.1\nhost:a",
        b"CONNECT a:1 HTTP/1.1\nhost:a", b"GET /\nhost:[::1]:80", b"GET /\nhost:user@a\nhost:b",
    ]),
    ("fields", fields, &[
        b"GET /\nhost:a\nconnection:close, x-mine\nx-mine:1\nte:trailers", b"GET /\nx-forwarded-for:1.2.3.4\nx_forwarded_for:1\nforwarded:for=1\nx-request-id:abc",
        b"GET /\ntransfer-encoding:chunked\nupgrade:h2c\nkeep-alive:1\nconnection:host",
    ]),
    ("upgrades", upgrades, &[
        b"GET /\nconnection:upgrade\nupgrade:websocket", b"GET /\nconnection:Upgrade, HTTP2-Settings\nupgrade:h2c", b"GET /\nconnection:upgrade\nupgrade:a/1\nupgrade:b",
        b"GET /\nconnection:upgrade\nupgrade:a, b\ntransfer-encoding:chunked",
    ]),
    ("asks", asks, &[
        b"GET /\nwharf-peer-instance:018f0000-0000-7000-8000-000000000000\nwharf-peer-client:203.0.113.9:5000",
        b"GET /\nwharf-peer-instance:018f0000-0000-7000-8000-000000000000\nwharf-peer-client:[::1]:5\nwharf-peer-port:7000", b"GET /\nwharf-peer-container:018f0000-0000-7000-8000-000000000000\nwharf-peer-port:6379", b"GET /\nwharf-peer-probe:1",
        b"GET /\nwharf-peer-upgrade:018f0000-0000-7000-8000-000000000000\nwharf-peer-protocol:websocket\nwharf-peer-client:203.0.113.9:5000",
    ]),
    ("address-ranges", address_ranges, &[b"10.0.0.0/8", b"2001:db8::/32", b"::ffff:1.2.3.4", b"0.0.0.0/0"]),
];

/// The head of a request: its method and target, then one field a line.
fn head(data: &[u8]) -> Option<Parts> {
    let mut lines = data.split(|octet| *octet == b'\n');
    let mut first = lines.next()?.split(|octet| *octet == b' ');
    let mut request = Request::builder().method(first.next()?).uri(first.next()?).body(()).ok()?;
    for line in lines {
        let mut field = line.splitn(2, |octet| *octet == b':');
        let name = HeaderName::from_bytes(field.next()?).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(field.next()?).ok()?);
    }
    Some(request.into_parts().0)
}

/// A request that is let in is for exactly one authority, with a path, and says so in `Host` as well.
fn targets(data: &[u8]) {
    let Some(mut parts) = head(data) else { return };
    if make_absolute(&mut parts, &Scheme::HTTP).is_err() {
        return;
    }
    let authority = parts.uri.authority().expect("it is absolute").as_str();
    assert!(!authority.is_empty() && !authority.contains('@'), "{authority}");
    assert!(parts.uri.path().starts_with('/') || parts.uri.path() == "*", "{}", parts.uri);
    assert!(parts.headers.get_all(HOST).iter().count() <= 1);
}

/// What is for this hop ends here, and nobody but a trusted peer says who the client is.
fn fields(data: &[u8]) {
    let Some(parts) = head(data) else { return };
    for trusted in [false, true] {
        let remote = SocketAddr::from(([203, 0, 113, 9], 5000));
        let client = Client::new(remote, 8080, Scheme::HTTP, trusted);
        let mut headers = parts.headers.clone();
        strip_request(&mut headers, |name| client.is_spoofed(name));
        assert!(!headers.contains_key(CONNECTION) && !headers.contains_key("transfer-encoding"));
        assert!(trusted || !headers.keys().any(is_ours), "{headers:?}");
        let id = client.mark(&mut headers, || 1).text();
        assert!((1..=128).contains(&id.len()), "{id}");
        assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
        if !trusted {
            assert_eq!(headers["x-forwarded-for"], "203.0.113.9");
        }
    }
    let mut headers = parts.headers;
    strip_response(&mut headers);
    assert!(!headers.contains_key(CONNECTION));
}

/// What is asked for is one protocol, which is not HTTP, and without a body.
fn upgrades(data: &[u8]) {
    let Some(parts) = head(data) else { return };
    for has_body in [false, true] {
        let mut parts = parts.clone();
        let Ok(asked) = upgrade::take(&mut parts, has_body) else { continue };
        let protocol = parts.extensions.get::<Protocol>().map(Protocol::as_str);
        assert_eq!(asked.is_some(), protocol.is_some());
        let Some(protocol) = protocol else { continue };
        assert!(!has_body && upgrade::is_passed_on(protocol), "{protocol}");
        assert_eq!(parts.headers.get_all(UPGRADE).iter().count(), 1);
        assert!(HeaderValue::from_str(protocol).is_ok(), "{protocol}");
    }
}

/// What a peer asks for is asked for in only one way, and nothing of it is left for a guest.
fn asks(data: &[u8]) {
    let Some(mut parts) = head(data) else { return };
    let ask = Ask::take(&mut parts.headers);
    assert!(!parts.headers.keys().any(|name| name.as_str().starts_with(PREFIX)), "{:?}", parts.headers);
    if let Some(ask) = ask {
        ask.clone().write(&mut parts.headers);
        assert_eq!(Ask::take(&mut parts.headers), Some(ask));
    }
}

fn address_ranges(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<IpRange>() {
        Ok(range) => {
            let (address, bits) = text.split_once('/').unwrap_or((text, "128"));
            let address: IpAddr = address.parse().expect("the range has it");
            // A wider range of mapped addresses is one of IPv6, and they count as IPv4.
            let is_wider = address.is_ipv6()
                && address.to_canonical().is_ipv4()
                && bits.parse().is_ok_and(|bits: u8| bits < 96);
            assert!(is_wider || range.contains(address), "{text}");
        }
        Err(error) => assert!(error.to_string().len() < 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 4000);
    }
}
