//! What two ingresses say to each other beside the request itself: a few header fields, which no client and no guest ever sees.
//!
//! A field that begins with [`PREFIX`] belongs to one connection, as `Connection` does, and is removed wherever a message enters or leaves
//! ([`crate::headers`]). So the peer's word cannot be confused with that of a guest or a client.

use std::net::SocketAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use wharf_types::{Digest, InstanceId};

use crate::upgrade;

/// Of all fields between peers.
pub(crate) const PREFIX: &str = "wharf-peer-";

/// Which instance is asked.
const INSTANCE: HeaderName = HeaderName::from_static("wharf-peer-instance");
/// Address and port of the client.
const CLIENT: HeaderName = HeaderName::from_static("wharf-peer-client");
/// The public port that the client has connected to: the bodies are the octets of a TCP connection.
const PORT: HeaderName = HeaderName::from_static("wharf-peer-port");
/// Which container is to be connected to, at a port of its own. It stands for the instance and the client, so that who does not know it finds no
/// request in it.
const CONTAINER: HeaderName = HeaderName::from_static("wharf-peer-container");
/// With which container datagrams are to be exchanged, at a port of its own: in the place of [`CONTAINER`], so that a version which knows nothing of it takes it
/// for nonsense and not for a connection.
const DATAGRAMS: HeaderName = HeaderName::from_static("wharf-peer-datagrams");
/// Which instance is asked to go over to another protocol, in the place of [`INSTANCE`], so that a version which knows nothing of it takes it for
/// nonsense and not for a request.
const UPGRADE: HeaderName = HeaderName::from_static("wharf-peer-upgrade");
/// To which one: the bodies are the octets that follow.
const PROTOCOL: HeaderName = HeaderName::from_static("wharf-peer-protocol");
/// To which one it has gone over. HTTP/2 has no 101.
const UPGRADED: HeaderName = HeaderName::from_static("wharf-peer-upgraded");
/// Which artifact is asked for,
const ARTIFACT: HeaderName = HeaderName::from_static("wharf-peer-artifact");
/// and what it is given for.
const KEY: HeaderName = HeaderName::from_static("wharf-peer-key");
/// Whether anybody is there.
const PROBE: HeaderName = HeaderName::from_static("wharf-peer-probe");
/// That the answer is not an instance's, and what it says.
const VERDICT: HeaderName = HeaderName::from_static("wharf-peer-verdict");

/// Fields of one message, as HTTP/2 counts them. Both sides take that much; what is larger is refused where it can be refused alone,
/// because an HTTP/2 library may end the connection over it.
pub(crate) const FIELDS_MAX_BYTES: usize = 192 * 1024;
/// The words that go with a verdict.
pub(crate) const DETAIL_MAX_BYTES: usize = 16 * 1024;

/// What a peer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Probe,
    Artifact {
        digest: Digest,
        key: String,
    },
    Request {
        instance: InstanceId,
        client: SocketAddr,
    },
    Connection {
        instance: InstanceId,
        port: u16,
        client: SocketAddr,
    },
    /// A connection to any port of a container, of somebody in its namespace.
    Container {
        instance: InstanceId,
        port: u16,
    },
    /// The same for datagrams. The bodies have each of them behind its length.
    Datagrams {
        instance: InstanceId,
        port: u16,
    },
    Upgrade {
        instance: InstanceId,
        protocol: String,
        client: SocketAddr,
    },
}

/// What a peer says instead of an instance. All but the first three have words beside them, in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The instance has not touched the request, because it is not here.
    NotHere,
    /// It has not touched it, because it has no room.
    Busy,
    /// It has no room, and the request is gone. With words it is the quota of its namespace that has none.
    BusyAndGone,
    BodyTooLarge,
    ClientGone,
    Timeout,
    Failed,
    BadRequest,
    /// The instance did not take the connection.
    NotTaken,
    /// The message makes no sense.
    Malformed,
}

impl Verdict {
    pub(crate) const ALL: [Self; 10] = [
        Self::NotHere,
        Self::Busy,
        Self::BusyAndGone,
        Self::BodyTooLarge,
        Self::ClientGone,
        Self::Timeout,
        Self::Failed,
        Self::BadRequest,
        Self::NotTaken,
        Self::Malformed,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::NotHere => "not-here",
            Self::Busy => "busy",
            Self::BusyAndGone => "busy-and-gone",
            Self::BodyTooLarge => "body-too-large",
            Self::ClientGone => "client-gone",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::BadRequest => "bad-request",
            Self::NotTaken => "not-taken",
            Self::Malformed => "malformed",
        }
    }

    pub(crate) fn respond<B>(self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(VERDICT, HeaderValue::from_static(self.as_str()));
        response
    }

    /// None: the answer is an instance's. A verdict of a later version is a failure.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(VERDICT)?.as_bytes();
        let known = Self::ALL.into_iter().find(|verdict| verdict.as_str().as_bytes() == text);
        Some(known.unwrap_or(Self::Failed))
    }
}

impl Ask {
    /// Adds it to the fields of a request, instead of whatever there is of the kind.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        strip(headers);
        match self {
            Self::Probe => {
                headers.insert(PROBE, HeaderValue::from_static("1"));
            }
            Self::Artifact { digest, key } => {
                let value = |text: String| HeaderValue::try_from(text);
                // A key that is no text of a header is not the right one, as none is.
                let key = value(key).unwrap_or(HeaderValue::from_static(""));
                headers.insert(ARTIFACT, value(digest.to_string()).expect("a digest is a valid value"));
                headers.insert(KEY, key);
            }
            Self::Request { instance, client } => write_instance(headers, INSTANCE, instance, client),
            Self::Connection { instance, port, client } => {
                write_instance(headers, INSTANCE, instance, client);
                headers.insert(PORT, HeaderValue::from(port));
            }
            Self::Container { instance, port } => write_port_of(headers, CONTAINER, instance, port),
            Self::Datagrams { instance, port } => write_port_of(headers, DATAGRAMS, instance, port),
            Self::Upgrade { instance, protocol, client } => {
                write_instance(headers, UPGRADE, instance, client);
                let protocol = HeaderValue::try_from(protocol);
                headers.insert(PROTOCOL, protocol.expect("the name of a protocol is a valid value"));
            }
        }
    }

    /// The version of the node protocol that it has come with.
    pub(crate) fn since(&self) -> u32 {
        match self {
            Self::Probe | Self::Request { .. } | Self::Connection { .. } => 1,
            Self::Artifact { .. }
            | Self::Container { .. }
            | Self::Datagrams { .. }
            | Self::Upgrade { .. } => 2,
        }
    }

    /// Takes it out of the fields of a request, with all others of the kind. None: it makes no sense.
    pub(crate) fn take(headers: &mut HeaderMap) -> Option<Self> {
        let ask = Self::read(headers);
        strip(headers);
        ask
    }

    fn read(headers: &HeaderMap) -> Option<Self> {
        if headers.contains_key(PROBE) {
            return Some(Self::Probe);
        }
        if headers.contains_key(ARTIFACT) {
            let (digest, key) = (only(headers, &ARTIFACT)?.parse().ok()?, only(headers, &KEY)?.to_owned());
            return Some(Self::Artifact { digest, key });
        }
        if headers.contains_key(CONTAINER) {
            let instance = only(headers, &CONTAINER)?.parse().ok()?;
            return Some(Self::Container { instance, port: only(headers, &PORT)?.parse().ok()? });
        }
        if headers.contains_key(DATAGRAMS) {
            let instance = only(headers, &DATAGRAMS)?.parse().ok()?;
            return Some(Self::Datagrams { instance, port: only(headers, &PORT)?.parse().ok()? });
        }
        let client = only(headers, &CLIENT)?.parse().ok()?;
        if headers.contains_key(UPGRADE) {
            let (instance, protocol) = (only(headers, &UPGRADE)?.parse().ok()?, only(headers, &PROTOCOL)?);
            let protocol = Some(protocol.to_owned()).filter(|protocol| upgrade::is_passed_on(protocol))?;
            return Some(Self::Upgrade { instance, protocol, client });
        }
        let instance = only(headers, &INSTANCE)?.parse().ok()?;
        if !headers.contains_key(PORT) {
            return Some(Self::Request { instance, client });
        }
        Some(Self::Connection { instance, port: only(headers, &PORT)?.parse().ok()?, client })
    }
}

fn write_instance(headers: &mut HeaderMap, name: HeaderName, instance: InstanceId, client: SocketAddr) {
    let value = |text: String| HeaderValue::try_from(text).expect("ids and addresses are valid values");
    headers.insert(name, value(instance.to_string()));
    headers.insert(CLIENT, value(client.to_string()));
}

fn write_port_of(headers: &mut HeaderMap, name: HeaderName, instance: InstanceId, port: u16) {
    let value = HeaderValue::try_from(instance.to_string()).expect("an id is a valid value");
    headers.insert(name, value);
    headers.insert(PORT, HeaderValue::from(port));
}

/// Says in an answer which protocol an instance has gone over to.
pub(crate) fn write_upgraded(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(UPGRADED, protocol);
}

/// Takes that out of an answer. None: it is an ordinary one.
pub(crate) fn take_upgraded(headers: &mut HeaderMap) -> Option<HeaderValue> {
    headers.remove(UPGRADED)
}

/// The value of a field that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Removes what is between peers only.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// The length of the fields, as HTTP/2 counts it (RFC 9113 §6.5.2).
pub(crate) fn fields_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_is_asked_arrives_and_leaves_nothing_behind() {
        let (instance, client) = (InstanceId::new(), "[2001:db8::1]:50000".parse().unwrap());
        for ask in [
            Ask::Probe,
            Ask::Artifact { digest: Digest::of(b"x"), key: "ab12".into() },
            Ask::Request { instance, client },
            Ask::Connection { instance, port: 65_535, client },
            Ask::Container { instance, port: 6379 },
            Ask::Datagrams { instance, port: 8125 },
            Ask::Upgrade { instance, protocol: "echo/1".into(), client },
        ] {
            let mut headers = map(&[("accept", "*/*"), ("wharf-peer-port", "1"), ("wharf-peer-x", "1")]);
            ask.clone().write(&mut headers);
            assert_eq!(Ask::take(&mut headers), Some(ask));
            assert_eq!(headers, map(&[("accept", "*/*")]));
        }
    }

    /// Workers of the version before read the same. What a later one asks for needs a field of its own, and a version in [`Ask::since`].
    #[test]
    fn what_is_asked_stands_in_the_fields_that_it_always_stood_in() {
        let id = "018f0000-0000-7000-8000-000000000000";
        let (instance, client): (InstanceId, SocketAddr) =
            (id.parse().unwrap(), "203.0.113.9:5000".parse().unwrap());
        let digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
        let at = ("wharf-peer-client", "203.0.113.9:5000");
        let asked: [(Ask, &[(&'static str, &str)]); 7] = [
            (Ask::Probe, &[("wharf-peer-probe", "1")]),
            (Ask::Request { instance, client }, &[("wharf-peer-instance", id), at]),
            (
                Ask::Connection { instance, port: 7000, client },
                &[("wharf-peer-instance", id), at, ("wharf-peer-port", "7000")],
            ),
            (
                Ask::Artifact { digest: digest.parse().unwrap(), key: "ab".into() },
                &[("wharf-peer-artifact", digest), ("wharf-peer-key", "ab")],
            ),
            (
                Ask::Container { instance, port: 6379 },
                &[("wharf-peer-container", id), ("wharf-peer-port", "6379")],
            ),
            (
                Ask::Datagrams { instance, port: 8125 },
                &[("wharf-peer-datagrams", id), ("wharf-peer-port", "8125")],
            ),
            (
                Ask::Upgrade { instance, protocol: "websocket".into(), client },
                &[("wharf-peer-upgrade", id), at, ("wharf-peer-protocol", "websocket")],
            ),
        ];
        for (ask, fields) in asked {
            let mut headers = HeaderMap::new();
            ask.clone().write(&mut headers);
            assert_eq!(headers, map(fields));
            assert_eq!(Ask::take(&mut headers), Some(ask));
        }
        let verdicts = Verdict::ALL.map(Verdict::as_str);
        let known = [
            "not-here",
            "busy",
            "busy-and-gone",
            "body-too-large",
            "client-gone",
            "timeout",
            "failed",
            "bad-request",
            "not-taken",
            "malformed",
        ];
        assert_eq!(verdicts, known);
    }

    #[test]
    fn a_version_that_knows_no_upgrades_or_datagrams_is_asked_for_nothing_that_it_knows() {
        let (instance, client) = (InstanceId::new(), "1.2.3.4:5".parse().unwrap());
        for ask in [
            Ask::Upgrade { instance, protocol: "echo".into(), client },
            Ask::Datagrams { instance, port: 53 },
        ] {
            let mut headers = HeaderMap::new();
            ask.write(&mut headers);
            for known in [PROBE, ARTIFACT, INSTANCE, CONTAINER] {
                assert!(!headers.contains_key(&known), "{known}");
            }
        }
    }

    #[test]
    fn nonsense_asks_for_nothing_and_leaves_nothing_behind() {
        let id = "018f0000-0000-7000-8000-000000000000";
        for fields in [
            &[][..],
            &[("wharf-peer-instance", id)],
            &[("wharf-peer-client", "1.2.3.4:5")],
            &[("wharf-peer-artifact", "sha256:12"), ("wharf-peer-key", "ab")],
            &[(
                "wharf-peer-artifact",
                "sha256:0000000000000000000000000000000000000000000000000000000000000000",
            )],
            &[("wharf-peer-container", id)],
            &[("wharf-peer-container", id), ("wharf-peer-port", "65536")],
            &[("wharf-peer-container", "x"), ("wharf-peer-port", "1")],
            &[("wharf-peer-datagrams", id)],
            &[("wharf-peer-datagrams", id), ("wharf-peer-port", "-1")],
            &[("wharf-peer-instance", "x"), ("wharf-peer-client", "1.2.3.4:5")],
            &[("wharf-peer-instance", id), ("wharf-peer-client", "1.2.3.4")],
            &[("wharf-peer-instance", id), ("wharf-peer-instance", id), ("wharf-peer-client", "1.2.3.4:5")],
            &[("wharf-peer-instance", id), ("wharf-peer-client", "1.2.3.4:5"), ("wharf-peer-port", "70000")],
            &[("wharf-peer-instance", id), ("wharf-peer-client", "1.2.3.4:5"), ("wharf-peer-port", "")],
            &[("wharf-peer-upgrade", id), ("wharf-peer-client", "1.2.3.4:5")],
            &[("wharf-peer-upgrade", id), ("wharf-peer-protocol", "echo")],
            &[("wharf-peer-upgrade", id), ("wharf-peer-client", "1.2.3.4:5"), ("wharf-peer-protocol", "h2c")],
            &[("wharf-peer-upgrade", id), ("wharf-peer-client", "1.2.3.4:5"), ("wharf-peer-protocol", "a b")],
        ] {
            let mut headers = map(fields);
            assert_eq!(Ask::take(&mut headers), None, "{fields:?}");
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn each_verdict_arrives_as_it_was_given_and_an_unknown_one_is_a_failure() {
        for verdict in Verdict::ALL {
            let response = verdict.respond(());
            assert_eq!(Verdict::of(response.headers()), Some(verdict));
        }
        assert_eq!(Verdict::of(&map(&[("wharf-peer-verdict", "later")])), Some(Verdict::Failed));
        assert_eq!(Verdict::of(&map(&[("x-wharf-error", "busy")])), None);
    }
}
