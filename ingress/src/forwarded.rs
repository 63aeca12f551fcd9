//! Who the client is, as the guest learns it.
//!
//! What a peer that is not trusted says about this is removed, also where it is written with underscores: many
//! frameworks cannot tell `X_Forwarded_For` from the real one.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::Scheme;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Whether only the ingress, or a proxy that it trusts, may say this.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    if name == FORWARDED {
        return true;
    }
    let name = name.as_str().as_bytes();
    if name.first() != Some(&b'x') {
        return false;
    }
    let starts = |prefix: &[u8]| {
        name.len() >= prefix.len()
            && name.iter().zip(prefix).all(|(b, p)| b == p || (*b == b'_' && *p == b'-'))
    };
    starts(b"x-forwarded-")
        || (name.len() == 9 && starts(b"x-real-ip"))
        || (name.len() == 12 && starts(b"x-request-id"))
}

/// The id of a request: the client's proxy gave it, or it is a new one.
#[derive(Clone, Debug)]
pub(crate) enum RequestId {
    Own(u128),
    Given(HeaderValue),
}

impl RequestId {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Own(id) => format!("{id:032x}"),
            Self::Given(value) => value.to_str().unwrap_or_default().to_owned(),
        }
    }

    fn value(&self) -> HeaderValue {
        match self {
            Self::Own(id) => {
                let mut text = [b'0'; 32];
                for (i, digit) in text.iter_mut().enumerate() {
                    *digit = b"0123456789abcdef"[(id >> (124 - 4 * i) & 0xf) as usize];
                }
                HeaderValue::from_bytes(&text).expect("hexadecimal digits are a valid value")
            }
            Self::Given(value) => value.clone(),
        }
    }
}

/// What the guests learn about one connection, made once and then only copied.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) remote: SocketAddr,
    pub(crate) scheme: Scheme,
    trusted: bool,
    address: HeaderValue,
    proto: HeaderValue,
    port: HeaderValue,
    forwarded: HeaderValue,
}

impl Client {
    pub(crate) fn new(remote: SocketAddr, local_port: u16, scheme: Scheme, trusted: bool) -> Self {
        let value =
            |text: String| HeaderValue::try_from(text).expect("addresses and numbers are valid values");
        let address = remote.ip().to_canonical();
        let node = match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        Self {
            remote,
            trusted,
            address: value(address.to_string()),
            proto: value(scheme.to_string()),
            port: value(local_port.to_string()),
            forwarded: value(format!("for={node};proto={scheme}")),
            scheme,
        }
    }

    /// Whether a field that came with the request must not reach the guest.
    pub(crate) fn is_spoofed(&self, name: &HeaderName) -> bool {
        !self.trusted && is_ours(name)
    }

    /// Writes the client's address, and the request's id, into a request that was stripped before.
    pub(crate) fn mark(&self, headers: &mut HeaderMap, new_id: impl FnOnce() -> u128) -> RequestId {
        let given = if self.trusted {
            self.append(headers);
            headers.get(X_REQUEST_ID).filter(|id| is_id(id)).cloned()
        } else {
            headers.insert(X_FORWARDED_FOR, self.address.clone());
            headers.insert(X_FORWARDED_PROTO, self.proto.clone());
            // Nothing more: host and port are the request's own, and every field is copied into the guest, which is
            // what a short request costs most.
            None
        };
        match given {
            Some(id) => {
                // Of several only the one that is logged goes on.
                headers.insert(X_REQUEST_ID, id.clone());
                RequestId::Given(id)
            }
            None => {
                let id = RequestId::Own(new_id());
                headers.insert(X_REQUEST_ID, id.value());
                id
            }
        }
    }

    /// The peer is a proxy: its lists get one entry more, the rest stays as it says.
    fn append(&self, headers: &mut HeaderMap) {
        let host = headers.get(HOST).cloned();
        extend_list(headers, X_FORWARDED_FOR, &self.address);
        if headers.contains_key(FORWARDED) {
            extend_list(headers, FORWARDED, &self.forwarded);
        }
        headers.entry(X_FORWARDED_PROTO).or_insert_with(|| self.proto.clone());
        headers.entry(X_FORWARDED_PORT).or_insert_with(|| self.port.clone());
        if let Some(host) = host {
            headers.entry(X_FORWARDED_HOST).or_insert(host);
        }
    }
}

/// Makes one field of all the fields called `name`, with `last` at the end.
fn extend_list(headers: &mut HeaderMap, name: HeaderName, last: &HeaderValue) {
    let mut list = String::new();
    for value in headers.get_all(&name) {
        // An entry that is not text would hide the others.
        if let Ok(text) = value.to_str() {
            let _ = write!(list, "{text}, ");
        }
    }
    list.push_str(last.to_str().unwrap_or_default());
    if let Ok(value) = HeaderValue::try_from(list) {
        headers.insert(name, value);
    }
}

/// Whether it can stand in a log without harm.
fn is_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::strip_request;

    fn marked(trusted: bool, fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("a.com:8080"));
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let client = Client::new("203.0.113.9:5000".parse().unwrap(), 8080, Scheme::HTTP, trusted);
        strip_request(&mut headers, |name| client.is_spoofed(name));
        client.mark(&mut headers, || 0xab);
        headers
    }

    const SPOOFED: &[(&str, &str)] = &[
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-for", "192.0.2.2"),
        ("x_forwarded_for", "192.0.2.3"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/admin"),
        ("x-real-ip", "192.0.2.4"),
        ("forwarded", "for=192.0.2.5"),
        ("x-request-id", "mine"),
    ];

    #[test]
    fn the_word_of_an_untrusted_peer_is_replaced() {
        let headers = marked(false, SPOOFED);
        let all: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, ["203.0.113.9"]);
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-request-id"], "000000000000000000000000000000ab");
        for gone in ["x_forwarded_for", "x-forwarded-prefix", "x-real-ip", "forwarded"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn the_lists_of_a_trusted_peer_get_one_entry_more() {
        let headers = marked(true, SPOOFED);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1, 192.0.2.2, 203.0.113.9");
        assert_eq!(headers["forwarded"], "for=192.0.2.5, for=203.0.113.9;proto=http");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "a.com:8080");
        assert_eq!(headers["x-request-id"], "mine");
    }

    #[test]
    fn an_id_that_could_break_a_log_is_replaced() {
        for bad in ["", "a b", "<script>"] {
            let id = marked(true, &[("x-request-id", bad)])["x-request-id"].clone();
            assert_eq!(id, "000000000000000000000000000000ab");
        }
    }

    #[test]
    fn of_several_ids_of_a_trusted_peer_one_goes_on() {
        let headers = marked(true, &[("x-request-id", "first"), ("x-request-id", "second")]);
        let all: Vec<_> = headers.get_all("x-request-id").iter().collect();
        assert_eq!(all, ["first"]);
    }

    #[test]
    fn an_ipv6_address_is_quoted_in_forwarded() {
        let client = Client::new("[2001:db8::1]:1".parse().unwrap(), 80, Scheme::HTTP, false);
        assert_eq!(client.forwarded, "for=\"[2001:db8::1]\";proto=http");
        assert_eq!(client.address, "2001:db8::1");
        let mapped = Client::new("[::ffff:192.0.2.7]:1".parse().unwrap(), 80, Scheme::HTTP, false);
        assert_eq!(mapped.address, "192.0.2.7");
    }

    #[test]
    fn other_fields_are_not_ours() {
        for name in
            ["x-forwarded", "x-real-ips", "x-request-id2", "x-request", "forwarded-for", "xforwarded-for"]
        {
            assert!(!is_ours(&HeaderName::from_static(name)), "{name}");
        }
    }
}
