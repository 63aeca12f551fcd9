//! Connections that leave HTTP: a client asks to go over to another protocol, an instance agrees, and octets pass both ways until both sides
//! have ended.
//!
//! What is asked for, and what an answer means for it, is decided by functions of the two heads ([`take`], [`Asked::is_granted`]); what passes
//! then is in [`passing`]. To an instance it is always asked in the same way: a request with the extension [`hyper::ext::Protocol`], which it
//! may answer with 101 and [`Upgraded`]. A client of HTTP/1.1 asks by `Upgrade`, and its whole connection goes over; one of HTTP/2 by an
//! extended `CONNECT` (RFC 8441), and one stream does.

mod passing;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use crate::error::ErrorCode;
use crate::uri::Refused;

pub use passing::Upgraded;
pub(crate) use passing::{Slot, TakenOver};

/// The longest name of a protocol that is passed on.
const PROTOCOL_MAX_BYTES: usize = 64;
/// These lead to requests that nobody would route, limit or strip any more.
const HTTP_ITSELF: [&str; 4] = ["http", "h2", "h2c", "h3"];
const WEBSOCKET: &str = "websocket";
/// What a WebSocket server appends to a key before it hashes it (RFC 6455 §1.3).
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a client waits for.
#[derive(Debug)]
pub(crate) struct Asked {
    protocol: Protocol,
    pub(crate) way: Way,
}

/// What goes over.
#[derive(Debug)]
pub(crate) enum Way {
    /// A connection of HTTP/1.1.
    Connection,
    /// A stream of HTTP/2.
    Stream {
        stream: OnUpgrade,
        /// What the answer to a key that was made here has to be.
        accept: Option<HeaderValue>,
    },
}

/// Takes out of a client's request what it asks to go over to, and makes it what an instance is asked. None: it is an ordinary request, or one
/// whose wish is not granted, which HTTP/1.1 always allows.
pub(crate) fn take(parts: &mut Parts, has_body: bool) -> Result<Option<Asked>, Refused> {
    let stream = parts.extensions.remove::<OnUpgrade>();
    let (protocol, way) = match parts.extensions.remove::<Protocol>() {
        Some(protocol) if parts.method == Method::CONNECT => {
            let Some(stream) = stream.filter(|_| is_passed_on(protocol.as_str())) else {
                let hint = "No app can be asked for this protocol.";
                return Err(Refused { code: ErrorCode::NotImplemented, hint });
            };
            parts.method = Method::GET;
            let is_websocket = protocol.as_str().eq_ignore_ascii_case(WEBSOCKET);
            let accept = is_websocket.then(|| make_key(&mut parts.headers, rand::random()));
            (protocol, Way::Stream { stream, accept })
        }
        _ => match asked_by_fields(parts, has_body)? {
            Some(protocol) => {
                // That of no body says nothing to whoever gets no body.
                parts.headers.remove(CONTENT_LENGTH);
                (protocol, Way::Connection)
            }
            None => return Ok(None),
        },
    };
    parts.extensions.insert(protocol.clone());
    Ok(Some(Asked { protocol, way }))
}

fn asked_by_fields(parts: &Parts, has_body: bool) -> Result<Option<Protocol>, Refused> {
    let bad = |hint| Refused { code: ErrorCode::BadRequest, hint };
    let headers = &parts.headers;
    if !headers.contains_key(UPGRADE)
        || parts.version != Version::HTTP_11
        || parts.method == Method::CONNECT
        || !items(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
    {
        return Ok(None);
    }
    if items(headers, &UPGRADE).any(is_http_itself) {
        return Ok(None);
    }
    let protocol = only(headers, &UPGRADE).ok_or_else(|| bad("It has more than one `Upgrade` header."))?;
    if !is_passed_on(protocol) {
        return Err(bad("Its `Upgrade` header does not name one protocol."));
    }
    if has_body || headers.contains_key(TRANSFER_ENCODING) {
        return Err(bad("It asks for an upgrade and has a body."));
    }
    Ok(Some(Protocol::from(protocol)))
}

/// What a field says, without the commas.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.as_bytes().split(|octet| *octet == b',')).map(<[u8]>::trim_ascii)
}

/// The value of a field that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.trim())
}

fn is_http_itself(protocol: &[u8]) -> bool {
    let name = protocol.split(|octet| *octet == b'/').next().unwrap_or_default();
    HTTP_ITSELF.iter().any(|http| name.eq_ignore_ascii_case(http.as_bytes()))
}

/// Whether it is the name of one protocol, with or without a version, and not HTTP's.
pub(crate) fn is_passed_on(protocol: &str) -> bool {
    let is_token = |part: &str| {
        let may_be = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
        !part.is_empty() && part.bytes().all(may_be)
    };
    let (name, version) = protocol.split_once('/').unwrap_or((protocol, "1"));
    protocol.len() <= PROTOCOL_MAX_BYTES
        && is_token(name)
        && is_token(version)
        && !is_http_itself(protocol.as_bytes())
}

/// Asks a WebSocket server for a proof that it is one, as clients of HTTP/1.1 do. Returns what the proof has to be.
fn make_key(headers: &mut HeaderMap, random: [u8; 16]) -> HeaderValue {
    let value = |text: String| HeaderValue::try_from(text).expect("base64 is a valid value");
    let key = BASE64_STANDARD.encode(random);
    let accept = value(accept_of(&key));
    headers.insert(SEC_WEBSOCKET_KEY, value(key));
    accept
}

/// RFC 6455 §4.2.2. What a server proves by this is that it has read the key; nothing depends on SHA-1's being hard to break.
fn accept_of(key: &str) -> String {
    let digest = ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{WEBSOCKET_GUID}").as_bytes(),
    );
    BASE64_STANDARD.encode(digest)
}

/// Why an answer is not handed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotHandedOn {
    /// The app has answered with what makes no sense. For its log.
    Failed(String),
    /// The app has answered as if it had been asked for a page, and the client would take that for a yes.
    NotTakenOver,
}

impl Asked {
    /// Whether an answer grants what was asked for. One that does not is an ordinary answer.
    pub(crate) fn is_granted(
        asked: Option<&Self>,
        status: StatusCode,
        headers: &HeaderMap,
        has_connection: bool,
    ) -> Result<bool, NotHandedOn> {
        let failed = |why: String| Err(NotHandedOn::Failed(why));
        let asked = match asked {
            Some(asked) if status == StatusCode::SWITCHING_PROTOCOLS => asked,
            _ if status.is_informational() => {
                return failed(format!("the guest answered with {status}, which is not a final status"));
            }
            Some(Self { way: Way::Stream { .. }, .. }) if status.is_success() => {
                return Err(NotHandedOn::NotTakenOver);
            }
            _ => return Ok(false),
        };
        let wanted = asked.protocol.as_str();
        match only(headers, &UPGRADE) {
            Some(protocol) if protocol.eq_ignore_ascii_case(wanted) => {}
            Some(other) => {
                return failed(format!("it was asked to go over to `{wanted}`, and went over to `{other}`"));
            }
            None => {
                return failed(format!(
                    "it was asked to go over to `{wanted}`, and its answer 101 does not say in one `Upgrade` header what it went over to"
                ));
            }
        }
        if let Way::Stream { accept: Some(accept), .. } = &asked.way
            && headers.get(SEC_WEBSOCKET_ACCEPT) != Some(accept)
        {
            return failed(
                "it went over to `websocket` without the `Sec-WebSocket-Accept` of this request".to_owned(),
            );
        }
        if !has_connection {
            return failed(format!("it went over to `{wanted}`, and there is no connection to it"));
        }
        Ok(true)
    }

    /// Makes the head of an answer, stripped of what was for the hop before, what the client takes for a yes. Returns its status.
    pub(crate) fn grant(&self, headers: &mut HeaderMap) -> StatusCode {
        // Nothing that follows is a body.
        headers.remove(CONTENT_LENGTH);
        match &self.way {
            Way::Connection => {
                let protocol = HeaderValue::from_str(self.protocol.as_str());
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(UPGRADE, protocol.expect("the name of a protocol is a valid value"));
                StatusCode::SWITCHING_PROTOCOLS
            }
            Way::Stream { .. } => {
                headers.remove(SEC_WEBSOCKET_ACCEPT);
                StatusCode::OK
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/chat");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn asks(fields: &[(&str, &str)], has_body: bool) -> Result<Option<String>, ErrorCode> {
        let mut parts = parts(fields);
        let asked = take(&mut parts, has_body).map_err(|refused| refused.code)?;
        let told = parts.extensions.get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
        assert_eq!(asked.is_some(), told.is_some());
        Ok(told)
    }

    #[test]
    fn one_protocol_that_is_named_in_both_fields_is_asked_for() {
        for (name, also) in
            [("websocket", "Upgrade"), ("echo/1.1", "keep-alive, upgrade"), ("x", "x, UPGRADE")]
        {
            assert_eq!(asks(&[("upgrade", name), ("connection", also)], false), Ok(Some(name.to_owned())));
        }
    }

    #[test]
    fn what_need_not_be_granted_is_an_ordinary_request() {
        for fields in [
            &[][..],
            &[("connection", "upgrade")],
            &[("upgrade", "websocket")],
            &[("upgrade", "websocket"), ("connection", "keep-alive")],
            &[("upgrade", "h2c"), ("connection", "Upgrade, HTTP2-Settings"), ("http2-settings", "AAMAAABk")],
            &[("upgrade", "websocket, H2C"), ("connection", "upgrade")],
            &[("upgrade", "HTTP/2.0"), ("connection", "upgrade")],
        ] {
            assert_eq!(asks(fields, true), Ok(None), "{fields:?}");
        }
        let mut older = parts(&[("upgrade", "websocket"), ("connection", "upgrade")]);
        older.version = Version::HTTP_10;
        assert!(take(&mut older, false).unwrap().is_none());
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_refused() {
        let upgrade = ("connection", "upgrade");
        for fields in [
            &[upgrade, ("upgrade", "websocket"), ("upgrade", "websocket")][..],
            &[upgrade, ("upgrade", "websocket, echo")],
            &[upgrade, ("upgrade", "")],
            &[upgrade, ("upgrade", "web socket")],
            &[upgrade, ("upgrade", "a/b/c")],
            &[upgrade, ("upgrade", "websocket"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(asks(fields, false), Err(ErrorCode::BadRequest), "{fields:?}");
        }
        assert_eq!(asks(&[upgrade, ("upgrade", &"x".repeat(65))], false), Err(ErrorCode::BadRequest));
        assert_eq!(asks(&[upgrade, ("upgrade", "websocket")], true), Err(ErrorCode::BadRequest));
    }

    #[test]
    fn a_connect_without_a_protocol_is_left_to_be_refused() {
        let mut parts = parts(&[("upgrade", "websocket"), ("connection", "upgrade")]);
        parts.method = Method::CONNECT;
        assert!(take(&mut parts, false).unwrap().is_none());
        assert_eq!(parts.method, Method::CONNECT);
    }

    fn asked(protocol: &'static str) -> Asked {
        Asked { protocol: Protocol::from_static(protocol), way: Way::Connection }
    }

    fn answer(upgrades: &[&str]) -> HeaderMap {
        let upgrades = upgrades.iter().map(|value| (UPGRADE, value.parse().unwrap()));
        upgrades.collect()
    }

    #[test]
    fn an_answer_101_grants_what_was_asked_for_and_nothing_else() {
        let switched = |asked: Option<&Asked>, upgrades: &[&str], has_connection| {
            Asked::is_granted(asked, StatusCode::SWITCHING_PROTOCOLS, &answer(upgrades), has_connection)
        };
        let websocket = asked("websocket");
        assert_eq!(switched(Some(&websocket), &["WebSocket"], true), Ok(true));
        for (asked, upgrades, has_connection, why) in [
            (None, &["websocket"][..], true, "not a final status"),
            (Some(&websocket), &["echo"], true, "went over to `echo`"),
            (Some(&websocket), &["websocket, echo"], true, "went over to `websocket, echo`"),
            (Some(&websocket), &["websocket", "websocket"], true, "does not say in one"),
            (Some(&websocket), &[], true, "does not say in one"),
            (Some(&websocket), &["websocket"], false, "no connection"),
        ] {
            match switched(asked, upgrades, has_connection) {
                Err(NotHandedOn::Failed(said)) => assert!(said.contains(why), "{said}"),
                other => panic!("{upgrades:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn another_answer_is_an_ordinary_one() {
        let websocket = asked("websocket");
        for status in [200, 302, 403, 426, 500] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                Asked::is_granted(Some(&websocket), status, &answer(&["websocket"]), false),
                Ok(false)
            );
            assert_eq!(Asked::is_granted(None, status, &answer(&[]), false), Ok(false));
        }
    }

    #[test]
    fn the_proof_of_a_websocket_server_is_that_of_the_specification() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("of-the-client"));
        let accept = make_key(&mut headers, [7; 16]);
        let key = headers[SEC_WEBSOCKET_KEY].to_str().unwrap();
        assert_eq!((key, accept.to_str().unwrap()), ("BwcHBwcHBwcHBwcHBwcHBw==", &accept_of(key)[..]));
    }
}
