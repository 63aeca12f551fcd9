//! What a guest may call, and the client that calls it.
//!
//! Nothing is reachable unless a grant lists it. A grant by name reaches that name's *public* addresses only: the check is
//! on the resolved address of every connection, so a name that points to the loopback, to a private network or to
//! a cloud's metadata service gets nowhere. Such addresses need a grant that spells the address or its block.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};
use wharf_types::AppName;
use wharf_types::spec::{OutboundGrant, OutboundScheme};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);

/// Calls another app of the same namespace in this process.
pub trait Neighbours: Send + Sync {
    fn call(
        &self,
        app: &AppName,
        request: http::Request<WasiBody>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<WasiBody>, Error>> + Send>>;
}

/// The grants of a release.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    grants: Vec<OutboundGrant>,
}

impl Policy {
    /// Grants that do not parse are left out: specs are checked before they get here.
    pub fn new(allow: &[String]) -> Self {
        Self { grants: allow.iter().filter_map(|grant| grant.parse().ok()).collect() }
    }

    pub fn grants_scheme(&self, scheme: OutboundScheme) -> bool {
        self.grants.iter().any(|grant| grant.scheme == scheme)
    }

    /// Whether a connection to this host and port may be tried at all, before its name is resolved.
    pub fn permits_name(&self, scheme: OutboundScheme, host: &str, port: u16) -> bool {
        self.matching(scheme, port).any(|grant| match host.parse::<IpAddr>() {
            Ok(address) => covers(grant, address) || (grant.host == "*" && is_public(address)),
            Err(_) => name_matches(&grant.host, host),
        })
    }

    /// Whether the address that a permitted name has resolved to may be connected to.
    pub fn permits_address(&self, scheme: OutboundScheme, address: SocketAddr) -> bool {
        is_public(address.ip()) || self.permits_literally(scheme, address)
    }

    /// Whether a grant spells this address or its block, or stands for every public one.
    pub fn permits_literally(&self, scheme: OutboundScheme, address: SocketAddr) -> bool {
        self.matching(scheme, address.port())
            .any(|grant| covers(grant, address.ip()) || (grant.host == "*" && is_public(address.ip())))
    }

    /// The same for a socket, where only the address is known: a grant by name permits what the name resolves to now.
    pub async fn permits_socket(&self, scheme: OutboundScheme, address: SocketAddr) -> bool {
        if self.permits_literally(scheme, address) {
            return true;
        }
        if !is_public(address.ip()) {
            return false;
        }
        let names: Vec<&str> =
            self.matching(scheme, address.port()).map(|grant| grant.host.as_str()).collect();
        for name in names {
            if let Ok(mut found) = tokio::net::lookup_host((name, address.port())).await
                && found.any(|found| found.ip() == address.ip())
            {
                return true;
            }
        }
        false
    }

    fn matching(&self, scheme: OutboundScheme, port: u16) -> impl Iterator<Item = &OutboundGrant> {
        self.grants
            .iter()
            .filter(move |grant| grant.scheme == scheme && grant.port.is_none_or(|granted| granted == port))
    }
}

fn name_matches(grant: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    match grant.strip_prefix("*.") {
        _ if grant == "*" => true,
        Some(parent) => {
            host.len() > parent.len() + 1
                && host.as_bytes()[host.len() - parent.len() - 1] == b'.'
                && host[host.len() - parent.len()..].eq_ignore_ascii_case(parent)
        }
        None => grant.eq_ignore_ascii_case(host),
    }
}

fn covers(grant: &OutboundGrant, address: IpAddr) -> bool {
    let (network, bits) = match grant.host.split_once('/') {
        Some((network, bits)) => (network, bits.parse::<u32>().ok()),
        None => (grant.host.as_str(), None),
    };
    match (network.parse::<IpAddr>(), address.to_canonical()) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(address)) => same_prefix(
            u128::from(u32::from(network)),
            u128::from(u32::from(address)),
            32,
            bits.unwrap_or(32),
        ),
        (Ok(IpAddr::V6(network)), IpAddr::V6(address)) => {
            same_prefix(u128::from(network), u128::from(address), 128, bits.unwrap_or(128))
        }
        _ => false,
    }
}

fn same_prefix(a: u128, b: u128, width: u32, bits: u32) -> bool {
    let host_bits = width.saturating_sub(bits);
    host_bits >= 128 || (a >> host_bits) == (b >> host_bits)
}

/// Whether an address is reachable over the public internet, after the special-purpose registries of RFC 6890.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b)) // carrier-grade NAT, RFC 6598
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b == 18 || b == 19))) // benchmarks, RFC 2544
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            // Global unicast is 2000::/3; of that, 2001:db8::/32 is for documentation and 2002::/16 embeds IPv4.
            (first & 0xe000) == 0x2000 && first != 0x2002 && !(first == 0x2001 && v6.segments()[1] == 0xdb8)
        }
    }
}

type HttpClient = Client<hyper_rustls::HttpsConnector<Connector>, WasiBody>;

/// The outbound side of one release: its policy, and a client that keeps connections for all its stores.
pub struct Outbound {
    policy: Arc<Policy>,
    neighbours: Option<Arc<dyn Neighbours>>,
    /// Built by the first call: most apps never make one.
    client: std::sync::OnceLock<HttpClient>,
}

impl Outbound {
    pub fn new(allow: &[String], neighbours: Option<Arc<dyn Neighbours>>) -> Self {
        Self { policy: Arc::new(Policy::new(allow)), neighbours, client: std::sync::OnceLock::new() }
    }

    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    fn client(&self) -> &HttpClient {
        self.client.get_or_init(|| {
            // Nobody but us chooses the provider; where it is installed already, it is this one.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let connector = hyper_rustls::HttpsConnectorBuilder::new()
                .with_webpki_roots()
                .https_or_http()
                .enable_all_versions()
                .wrap_connector(Connector { policy: self.policy.clone() });
            Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(connector)
        })
    }

    async fn send(
        self: Arc<Self>,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<http::Response<WasiBody>, Error> {
        let scheme = match request.uri().scheme_str() {
            Some("http") => OutboundScheme::Http,
            Some("https") => OutboundScheme::Https,
            _ => return Err(Error::HttpProtocolError),
        };
        let host =
            request.uri().host().ok_or(Error::HttpRequestUriInvalid)?.trim_matches(['[', ']']).to_owned();
        let default_port = if scheme == OutboundScheme::Https { 443 } else { 80 };
        let port = request.uri().port_u16().unwrap_or(default_port);
        if !self.policy.permits_name(scheme, &host, port) {
            return Err(Error::HttpRequestDenied);
        }
        let first_byte = options.and_then(|options| options.first_byte_timeout).unwrap_or(FIRST_BYTE_TIMEOUT);
        if let (Some(app), Some(neighbours)) = (host.strip_suffix(".internal"), &self.neighbours) {
            let app: AppName = app.parse().map_err(|_| Error::DestinationNotFound)?;
            let answer = tokio::time::timeout(first_byte, neighbours.call(&app, request)).await;
            return answer.map_err(|_| Error::ConnectionReadTimeout)?;
        }
        // The client keeps HTTP/1 connections to each authority; it wants the version left to it.
        *request.version_mut() = http::Version::HTTP_11;
        let answer = tokio::time::timeout(first_byte, self.client().request(request)).await;
        match answer {
            Err(_) => Err(Error::ConnectionReadTimeout),
            Ok(Err(error)) => Err(client_error(&error)),
            Ok(Ok(response)) => Ok(response.map(|body| body.map_err(Error::Hyper).boxed_unsync())),
        }
    }
}

fn client_error(error: &hyper_util::client::legacy::Error) -> Error {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(denied) = cause.downcast_ref::<ConnectError>() {
            return match denied {
                ConnectError::Denied => Error::DestinationIpProhibited,
                ConnectError::Resolve => Error::DnsError { rcode: None, info_code: None },
                ConnectError::Refused => Error::ConnectionRefused,
                ConnectError::Timeout => Error::ConnectionTimeout,
            };
        }
        source = cause.source();
    }
    if error.is_connect() { Error::ConnectionRefused } else { Error::HttpProtocolError }
}

/// Why no connection came about.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum ConnectError {
    #[error("the name resolves to addresses that no grant permits")]
    Denied,
    #[error("the name does not resolve")]
    Resolve,
    #[error("no address accepted the connection")]
    Refused,
    #[error("connecting took too long")]
    Timeout,
}

/// Resolves, checks, connects: in that order, so that what was checked is what is connected to.
#[derive(Clone, Debug)]
struct Connector {
    policy: Arc<Policy>,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let policy = self.policy.clone();
        Box::pin(async move {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(&policy, &uri)).await;
            connected.map_err(|_| ConnectError::Timeout)?
        })
    }
}

async fn connect(policy: &Policy, uri: &Uri) -> Result<TokioIo<TcpStream>, ConnectError> {
    let (scheme, default_port) = match uri.scheme_str() {
        Some("https") => (OutboundScheme::Https, 443),
        _ => (OutboundScheme::Http, 80),
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(default_port);
    let mut refusal = ConnectError::Resolve;
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|_| ConnectError::Resolve)?;
    for address in addresses {
        if !policy.permits_address(scheme, address) {
            refusal = ConnectError::Denied;
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Without it, small writes wait up to 40 ms for the peer's delayed acknowledgement. It is not fatal.
                let _ = stream.set_nodelay(true);
                return Ok(TokioIo::new(stream));
            }
            Err(_) => refusal = ConnectError::Refused,
        }
    }
    Err(refusal)
}

/// The hooks of one store.
pub(super) struct Hooks {
    outbound: Arc<Outbound>,
}

impl Hooks {
    pub(super) fn new(outbound: Arc<Outbound>) -> Self {
        Self { outbound }
    }
}

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let outbound = self.outbound.clone();
        Box::new(async move {
            let response = outbound.send(request, options).await?;
            // The connection is driven by the client's own task.
            Ok((response, Box::new(async { Ok(()) }) as Box<dyn Future<Output = _> + Send>))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(grants: &[&str]) -> Policy {
        Policy::new(&grants.iter().map(|grant| (*grant).to_owned()).collect::<Vec<_>>())
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nothing_is_reachable_without_a_grant() {
        assert!(!policy(&[]).permits_name(OutboundScheme::Https, "example.com", 443));
    }

    #[test]
    fn a_name_is_granted_with_its_scheme_and_port_only() {
        let policy = policy(&["https://api.example.com", "http://*.example.org:8080"]);
        assert!(policy.permits_name(OutboundScheme::Https, "API.example.com", 443));
        assert!(!policy.permits_name(OutboundScheme::Http, "api.example.com", 80));
        assert!(!policy.permits_name(OutboundScheme::Https, "api.example.com", 8443));
        assert!(policy.permits_name(OutboundScheme::Http, "a.example.org", 8080));
        assert!(!policy.permits_name(OutboundScheme::Http, "example.org", 8080));
        assert!(!policy.permits_name(OutboundScheme::Http, "aexample.org", 8080));
    }

    #[test]
    fn a_name_that_resolves_to_a_private_address_gets_nowhere() {
        let policy = policy(&["https://*"]);
        assert!(policy.permits_address(OutboundScheme::Https, at("93.184.216.34:443")));
        for inside in [
            "127.0.0.1:443",
            "10.1.2.3:443",
            "169.254.169.254:443",
            "[::1]:443",
            "[::ffff:127.0.0.1]:443",
            "[fe80::1]:443",
            "0.0.0.0:443",
            "100.64.0.1:443",
        ] {
            assert!(!policy.permits_address(OutboundScheme::Https, at(inside)), "{inside}");
        }
    }

    #[test]
    fn a_private_address_is_reachable_when_a_grant_spells_it() {
        let policy = policy(&["http://10.0.0.0/8:*", "tcp://127.0.0.1:5432"]);
        assert!(policy.permits_address(OutboundScheme::Http, at("10.9.9.9:81")));
        assert!(!policy.permits_address(OutboundScheme::Http, at("192.168.0.1:81")));
        assert!(policy.permits_literally(OutboundScheme::Tcp, at("127.0.0.1:5432")));
        assert!(!policy.permits_literally(OutboundScheme::Tcp, at("127.0.0.1:22")));
    }
}
