//! Header fields that belong to one connection and not to the message: they end here, in both directions.

use http::StatusCode;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};

/// Whether a field ends at this hop whatever `Connection` says (RFC 9110 §7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    if name == CONNECTION || name == TRANSFER_ENCODING || name == UPGRADE {
        return true;
    }
    let name = name.as_str();
    name.starts_with(crate::peers::wire::PREFIX)
        || name == "keep-alive"
        || name == "http2-settings"
        || name.starts_with("proxy-")
}

/// Whether a client would gain something by having `Connection` name this field, which proxies before us have set or
/// which says where the message ends.
fn is_never_hop_by_hop(name: &HeaderName) -> bool {
    name == HOST || name == CONTENT_LENGTH || crate::forwarded::is_ours(name)
}

/// Removes what is for this hop, and the fields for which `also` says so.
fn remove(headers: &mut HeaderMap, also: impl Fn(&HeaderName) -> bool) {
    let mut doomed: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for token in value.as_bytes().split(|b| *b == b',') {
            // `keep-alive` and `close` are options and not fields. TE is looked at below.
            let token = token.trim_ascii();
            if token.eq_ignore_ascii_case(b"keep-alive")
                || token.eq_ignore_ascii_case(b"close")
                || token.eq_ignore_ascii_case(b"te")
            {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token)
                && !is_never_hop_by_hop(&name)
            {
                doomed.push(name);
            }
        }
    }
    doomed.extend(headers.keys().filter(|name| is_hop_by_hop(name) || also(name)).cloned());
    for name in doomed {
        headers.remove(name);
    }
}

/// Prepares a client's fields for the guest. `also` names further ones to remove.
pub(crate) fn strip_request(headers: &mut HeaderMap, also: impl Fn(&HeaderName) -> bool) {
    // The HTTP library has answered `Expect`.
    remove(headers, |name| name == EXPECT || also(name));
    if headers.contains_key(TE) {
        let trailers = headers.get_all(TE).iter().any(|value| {
            value
                .as_bytes()
                .split(|b| *b == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// Prepares a guest's fields for the client.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    remove(headers, |name| name == TE);
}

/// Whether an answer of this status has no content, whatever a guest sends: its fields say so then (RFC 9110 §8.6, §15.3.6).
pub(crate) fn without_content(status: StatusCode, headers: &mut HeaderMap) -> bool {
    match status {
        StatusCode::NO_CONTENT => drop(headers.remove(CONTENT_LENGTH)),
        StatusCode::RESET_CONTENT => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"))),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn fields_of_one_hop_end_here() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "upgrade"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "x"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("http2-settings", "x"),
            ("te", "gzip"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
        ]);
        strip_request(&mut headers, |_| false);
        assert_eq!(names(&headers), ["accept"]);
    }

    #[test]
    fn te_keeps_trailers_only() {
        let mut headers = map(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")]);
        strip_request(&mut headers, |_| false);
        assert_eq!(headers[TE], "trailers");
    }

    #[test]
    fn connection_cannot_name_what_the_message_needs() {
        let mut headers = map(&[
            ("connection", "host, content-length, x-forwarded-for, @, a b"),
            ("host", "a.com"),
            ("content-length", "3"),
            ("x-forwarded-for", "192.0.2.1"),
        ]);
        strip_request(&mut headers, |_| false);
        assert_eq!(names(&headers), ["content-length", "host", "x-forwarded-for"]);
    }

    #[test]
    fn a_guest_cannot_end_the_clients_connection() {
        let mut headers =
            map(&[("connection", "close"), ("keep-alive", "x"), ("trailer", "x-sum"), ("etag", "1")]);
        strip_response(&mut headers);
        assert_eq!(names(&headers), ["etag", "trailer"]);
    }

    #[test]
    fn answers_that_have_no_content_say_no_length_or_none() {
        let after = |status| {
            let mut headers = map(&[("content-length", "5")]);
            let is_without = without_content(status, &mut headers);
            (is_without, headers.get(CONTENT_LENGTH).map(|length| length.as_bytes().to_vec()))
        };
        assert_eq!(after(StatusCode::NO_CONTENT), (true, None));
        assert_eq!(after(StatusCode::RESET_CONTENT), (true, Some(b"0".to_vec())));
        assert_eq!(after(StatusCode::OK), (false, Some(b"5".to_vec())));
    }
}
