//! What a guest may call, and the client that calls it.
//!
//! Nothing is reachable unless a grant lists it. A grant by name reaches that name's *public* addresses only: the check is
//! on the resolved address of every connection, so a name that points to the loopback, to a private network or to
//! a cloud's metadata service gets nowhere. Such addresses need a grant that spells the address or its block.

mod connect;
mod egress;
mod failed;
mod home;
mod hosts;
mod lookups;
mod names;
mod outbounds;
mod pace;
mod paid;
mod policy;
mod shares;
mod sockets;
mod trust;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::TokioTimer;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};
use wharf_types::spec::OutboundScheme;
use wharf_types::{AppName, NamespaceName};

pub(super) use self::connect::connections;
use self::connect::{CONNECT_MAX, CONNECT_TIMEOUT, Connector, SecureConnector};
pub(crate) use self::egress::EgressPlace;
pub use self::egress::{Egress, EgressLimit};
use self::egress::{Pace, Payer};
pub(super) use self::failed::tell_codes_of_bodies;
use self::home::Home;
pub(crate) use self::hosts::{Hosts, know_servers};
pub(super) use self::lookups::look_up_names;
pub(crate) use self::outbounds::Outbounds;
use self::pace::Paced;
pub(super) use self::paid::count_sockets;
pub use self::policy::Policy;
use self::shares::Places;
pub(super) use self::sockets::{bound_sockets, has_room, lead_connections};
use crate::container::names::internal;
use crate::reach::Reach;

/// How long a connection may wait to be used again.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Connections to one authority that may wait to be used again.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// Octets that a guest may write to a body in one call.
const BODY_CHUNK_MAX_BYTES: usize = 64 << 10;

/// How long a guest waits, at most; it may ask for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waits {
    connect: Duration,
    /// From the connection to the response's head.
    first_byte: Duration,
    between_bytes: Duration,
}

impl Waits {
    const MAX: Self = Self {
        connect: CONNECT_MAX,
        first_byte: Duration::from_secs(600),
        between_bytes: Duration::from_secs(600),
    };

    fn new(asked: Option<&RequestOptions>) -> Self {
        let least = |of: fn(&RequestOptions) -> Option<Duration>, max: Duration| {
            asked.and_then(of).map_or(max, |asked| asked.min(max))
        };
        Self {
            connect: least(|asked| asked.connect_timeout, Self::MAX.connect),
            first_byte: least(|asked| asked.first_byte_timeout, Self::MAX.first_byte),
            between_bytes: least(|asked| asked.between_bytes_timeout, Self::MAX.between_bytes),
        }
    }
}

/// Calls another app of the same namespace in this process.
pub trait Neighbours: Send + Sync {
    fn call(
        &self,
        app: &AppName,
        request: http::Request<WasiBody>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<WasiBody>, Error>> + Send>>;
}

type HttpClient = Client<SecureConnector, WasiBody>;

/// The outbound side of one release: its policy, and a client that keeps connections for all stores of its instances.
pub struct Outbound {
    policy: Arc<Policy>,
    neighbours: Option<Arc<dyn Neighbours>>,
    /// None: nobody counts what is sent.
    payer: Option<Payer>,
    home: Home,
    /// For connections.
    places: Places,
    /// Built by the first call: most apps never make one.
    client: std::sync::OnceLock<HttpClient>,
}

impl Outbound {
    /// # Panics
    /// Outside of a runtime: connections live in the one where this is called.
    pub fn new(allow: &[String], neighbours: Option<Arc<dyn Neighbours>>) -> Self {
        Self {
            policy: Arc::new(Policy::new(allow)),
            neighbours,
            payer: None,
            home: Home::here(),
            places: connect::places(),
            client: std::sync::OnceLock::new(),
        }
    }

    /// The same, for guests that reach the containers of their namespace by name.
    pub(crate) fn with_containers(self, reach: Arc<Reach>, namespace: NamespaceName) -> Self {
        // Nobody else has it yet; if somebody had, this one would grant nothing.
        let policy = Arc::into_inner(self.policy).unwrap_or_default().with_containers(reach, namespace);
        Self { policy: Arc::new(policy), ..self }
    }

    /// The same, for guests that call apps by names of their own.
    pub(crate) fn with_names(self, names: BTreeMap<String, AppName>) -> Self {
        let policy = Arc::into_inner(self.policy).unwrap_or_default().with_names(names);
        Self { policy: Arc::new(policy), ..self }
    }

    /// The same, for guests who are not to reach what the platform's hosts keep for themselves.
    pub(crate) fn with_hosts(self, hosts: Arc<Hosts>) -> Self {
        let policy = Arc::into_inner(self.policy).unwrap_or_default().with_hosts(hosts);
        Self { policy: Arc::new(policy), ..self }
    }

    /// The same, for guests who take their places for connections and for lookups here.
    fn sharing(self, places: Places, lookups: Places) -> Self {
        let policy = Arc::into_inner(self.policy).unwrap_or_default().with_lookups(lookups);
        Self { policy: Arc::new(policy), places, ..self }
    }

    /// The same, for guests whose octets are of a namespace's quota. What they send to their neighbours is not: it leaves nothing.
    pub(crate) fn paid_by(self, egress: EgressPlace, namespace: NamespaceName) -> Self {
        Self { payer: Some(Payer { egress, namespace }), ..self }
    }

    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Whether anybody counts what is sent.
    fn is_counted(&self) -> bool {
        self.payer.is_some()
    }

    /// What a socket of a guest has to wait for before it sends.
    fn pace_of_socket(&self) -> Pace {
        Pace::of_socket(self.payer.clone(), self.home.clone())
    }

    fn client(&self) -> &HttpClient {
        self.client.get_or_init(|| {
            let (policy, places) = (self.policy.clone(), self.places.clone());
            let connector = Connector::new(policy, self.home.clone(), self.payer.clone(), places);
            http_client(connector, self.home.clone(), IDLE_MAX)
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
        let host = spelled(request.uri().host().ok_or(Error::HttpRequestUriInvalid)?);
        let default_port = if scheme == OutboundScheme::Https { 443 } else { 80 };
        let port = request.uri().port_u16().unwrap_or(default_port);
        if !self.policy.permits_name(scheme, &host, port) {
            return Err(Error::HttpRequestDenied);
        }
        let waits = Waits::new(options.as_ref());
        if let Some(app) = internal(&host) {
            // Such a name never leaves the platform, also where there is nobody who has it.
            let neighbours = self.neighbours.as_ref().ok_or(Error::DestinationNotFound)?;
            let app = match self.policy.app_called(&host) {
                Some(meant) => meant.clone(),
                None => app.parse::<AppName>().map_err(|_| Error::DestinationNotFound)?,
            };
            let answer = self.ask(neighbours.clone(), app, request);
            let answer = tokio::time::timeout(waits.first_byte, answer).await;
            return Ok(paced(answer.map_err(|_| Error::ConnectionReadTimeout)??, waits));
        }
        // The client keeps HTTP/1 connections to each authority; it wants the version left to it.
        *request.version_mut() = http::Version::HTTP_11;
        let mut connection = capture_connection(&mut request);
        let answer = CONNECT_TIMEOUT.scope(waits.connect, self.client().request(request));
        let too_late = async {
            // The connector has its own limits. HTTP/2 begins after it, with octets that may have to wait.
            let connected = async { connection.wait_for_connection_metadata().await.is_some() };
            match tokio::time::timeout(waits.connect * 2, connected).await {
                Ok(true) => {
                    tokio::time::sleep(waits.first_byte).await;
                    Error::ConnectionReadTimeout
                }
                // Without a connection there is an error, which the other branch takes.
                Ok(false) => std::future::pending().await,
                Err(_) => Error::ConnectionTimeout,
            }
        };
        tokio::select! {
            biased;
            answer = answer => match answer {
                Ok(response) => Ok(paced(response, waits)),
                Err(error) => Err(failed::code(&error)),
            },
            error = too_late => Err(error),
        }
    }

    /// Calls a neighbour, who must not be slow because the caller is: he answers where requests arrive.
    async fn ask(
        &self,
        neighbours: Arc<dyn Neighbours>,
        app: AppName,
        request: http::Request<WasiBody>,
    ) -> Result<http::Response<WasiBody>, Error> {
        if self.home.is_here() {
            return neighbours.call(&app, request).await;
        }
        let answer = self.home.spawn(async move { neighbours.call(&app, request).await });
        answer.await.unwrap_or(Err(Error::ConnectionTerminated))
    }
}

/// A host as it is compared: `Hello.internal.` is `hello.internal`.
fn spelled(host: &str) -> String {
    host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase()
}

fn http_client(connector: Connector, home: Home, idle_max: Duration) -> HttpClient {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(trust::client_config())
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(connector);
    let connector = SecureConnector::new(connector, home.clone());
    Client::builder(home)
        .pool_idle_timeout(idle_max)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        // Without it, only the next call would notice that a connection has been idle for too long.
        .pool_timer(TokioTimer::new())
        .build(connector)
}

fn paced<B>(response: http::Response<B>, waits: Waits) -> http::Response<WasiBody>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Error>,
{
    response.map(|body| Paced::new(body, waits.between_bytes).boxed_unsync())
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
    /// Two such chunks wait in the host's memory for each body that a guest writes and nobody reads.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_MAX_BYTES
    }

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
    use bytes::Bytes;
    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn body() -> WasiBody {
        Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync()
    }

    fn get(uri: &str) -> http::Request<WasiBody> {
        http::Request::get(uri).body(body()).unwrap()
    }

    /// A runtime like the lanes: whatever it starts ends with it.
    fn lane() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    async fn within<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("it takes far too long")
    }

    /// Takes one connection and answers every request on it; how many there were.
    async fn answer_one_connection(listener: TcpListener) -> usize {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut read, mut requests) = (Vec::new(), 0);
        while socket.read_buf(&mut read).await.unwrap() > 0 {
            if read.ends_with(b"\r\n\r\n") {
                requests += 1;
                read.clear();
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
        requests
    }

    #[test]
    fn a_guest_may_wait_less_than_the_most_and_not_more() {
        assert_eq!(Waits::new(None), Waits::MAX);
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        let asked = RequestOptions {
            connect_timeout: Some(second),
            first_byte_timeout: Some(day),
            between_bytes_timeout: Some(second),
        };
        let waits = Waits { connect: second, between_bytes: second, ..Waits::MAX };
        assert_eq!(Waits::new(Some(&asked)), waits);
    }

    #[tokio::test]
    async fn a_connection_that_was_made_in_a_lane_serves_others_when_the_lane_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let requests = tokio::spawn(answer_one_connection(listener));
        let outbound = Arc::new(Outbound::new(std::slice::from_ref(&uri), None));
        let call = |outbound: Arc<Outbound>, request| async {
            let response = outbound.send(request, None).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        };
        let lane = lane();
        assert_eq!(within(lane.spawn(call(outbound.clone(), get(&uri)))).await.unwrap(), "ok");
        lane.shutdown_background();
        assert_eq!(within(call(outbound.clone(), get(&uri))).await, "ok");
        drop(outbound);
        assert_eq!(within(requests).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn what_a_guest_sends_is_counted_for_its_namespace() {
        #[derive(Default)]
        struct Counting(std::sync::atomic::AtomicUsize);
        impl Egress for Counting {
            fn owed(&self, _: &NamespaceName) -> Option<Duration> {
                None
            }
            fn took(&self, namespace: &NamespaceName, octets: usize) {
                assert_eq!(namespace.as_str(), "team");
                self.0.fetch_add(octets, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let requests = tokio::spawn(answer_one_connection(listener));
        let (counting, place) = (Arc::new(Counting::default()), EgressPlace::default());
        assert!(place.set(counting.clone()).is_ok());
        let outbound = Outbound::new(std::slice::from_ref(&uri), None);
        let outbound = Arc::new(outbound.paid_by(place, "team".parse().unwrap()));
        let response = within(outbound.clone().send(get(&uri), None)).await.unwrap();
        response.into_body().collect().await.unwrap();
        drop(outbound);
        assert_eq!(within(requests).await.unwrap(), 1);
        assert!(counting.0.load(std::sync::atomic::Ordering::Relaxed) > "GET / HTTP/1.1\r\n".len());
    }

    #[tokio::test]
    async fn a_connection_that_nobody_uses_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let requests = tokio::spawn(answer_one_connection(listener));
        let policy = Arc::new(Policy::new(std::slice::from_ref(&uri)));
        let connector = Connector::new(policy, Home::here(), None, connect::places());
        let client = http_client(connector, Home::here(), Duration::from_millis(100));
        let response = within(client.request(get(&uri))).await.unwrap();
        response.into_body().collect().await.unwrap();
        assert_eq!(within(requests).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_neighbour_answers_at_home_although_it_is_called_from_a_lane() {
        struct Elsewhere(tokio::runtime::Id);
        impl Neighbours for Elsewhere {
            fn call(
                &self,
                _: &AppName,
                _: http::Request<WasiBody>,
            ) -> Pin<Box<dyn Future<Output = Result<http::Response<WasiBody>, Error>> + Send>> {
                let home = self.0;
                Box::pin(async move {
                    let here = tokio::runtime::Handle::current().id() == home;
                    Ok(http::Response::builder().status(if here { 200 } else { 500 }).body(body()).unwrap())
                })
            }
        }
        let home = tokio::runtime::Handle::current().id();
        let grant = "http://other.internal".to_owned();
        let outbound = Arc::new(Outbound::new(&[grant], Some(Arc::new(Elsewhere(home)))));
        let lane = lane();
        let answer = lane.spawn(outbound.send(get("http://other.internal/"), None));
        assert_eq!(within(answer).await.unwrap().unwrap().status(), 200);
        lane.shutdown_background();
    }

    #[tokio::test]
    async fn a_name_of_the_platform_never_leaves_it_however_it_is_spelled() {
        struct Hello;
        impl Neighbours for Hello {
            fn call(
                &self,
                app: &AppName,
                _: http::Request<WasiBody>,
            ) -> Pin<Box<dyn Future<Output = Result<http::Response<WasiBody>, Error>> + Send>> {
                assert_eq!(app.as_str(), "hello");
                Box::pin(async { Ok(http::Response::new(body())) })
            }
        }
        let grants = ["http://hello.internal".to_owned()];
        let with = Arc::new(Outbound::new(&grants, Some(Arc::new(Hello))));
        let without = Arc::new(Outbound::new(&grants, None));
        for name in ["hello.internal", "hello.INTERNAL", "Hello.internal.", "hello.internal:80"] {
            let uri = format!("http://{name}/");
            assert_eq!(within(with.clone().send(get(&uri), None)).await.unwrap().status(), 200, "{name}");
            let alone = within(without.clone().send(get(&uri), None)).await;
            assert!(matches!(alone, Err(Error::DestinationNotFound)), "{name}: {:?}", alone.err());
        }
        let other = within(with.send(get("http://other.internal/"), None)).await;
        assert!(matches!(other, Err(Error::HttpRequestDenied)));
    }

    #[tokio::test]
    async fn a_handshake_that_gets_no_answer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://{}", listener.local_addr().unwrap());
        let outbound = Arc::new(Outbound::new(std::slice::from_ref(&uri), None));
        let soon = Some(Duration::from_millis(100));
        let options =
            RequestOptions { connect_timeout: soon, first_byte_timeout: None, between_bytes_timeout: None };
        let answer = within(outbound.clone().send(get(&uri), Some(options))).await;
        assert!(matches!(answer, Err(Error::ConnectionTimeout)), "{:?}", answer.err());
        let (mut socket, _) = within(listener.accept()).await.unwrap();
        let mut hello = Vec::new();
        within(socket.read_to_end(&mut hello)).await.unwrap();
        assert!(!hello.is_empty(), "the connection was closed after it");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up_when_the_guest_asks_for_that() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let outbound = Arc::new(Outbound::new(std::slice::from_ref(&uri), None));
        let soon = Some(Duration::from_millis(20));
        let options =
            RequestOptions { connect_timeout: None, first_byte_timeout: soon, between_bytes_timeout: None };
        let start = std::time::Instant::now();
        let answer = within(outbound.send(get(&uri), Some(options))).await;
        assert!(matches!(answer, Err(Error::ConnectionReadTimeout)));
        assert!(start.elapsed() < CONNECT_MAX, "the time for connecting is not for waiting");
    }
}
