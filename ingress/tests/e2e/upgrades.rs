//! Connections that leave HTTP, here and through another host.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::fixture::{Fixture, closes, http2, http2_request, read_reply, read_until, until, within};
use crate::mesh::{Mesh, Passes, Wall, bind};

const ECHO: &str =
    "GET /upgrade HTTP/1.1\r\nhost: hello.test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

/// Asks to go over to `echo`; the head of the answer.
async fn ask(socket: &mut TcpStream) -> String {
    socket.write_all(ECHO.as_bytes()).await.unwrap();
    read_until(socket, "\r\n\r\n").await
}

async fn goes_over(socket: &mut TcpStream) {
    let head = ask(socket).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

async fn hears(mut side: impl tokio::io::AsyncRead + Unpin, what: &str) {
    let mut heard = vec![0; what.len()];
    within(side.read_exact(&mut heard)).await.unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), what);
}

/// What is left until it ends, in order or not.
async fn rest(side: &mut DuplexStream) -> String {
    let mut rest = String::new();
    let _ = within(side.read_to_string(&mut rest)).await;
    rest
}

#[tokio::test]
async fn octets_pass_both_ways_until_both_sides_have_ended() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut client = fixture.connect().await;
    // Some are so quick that they do not wait for the answer.
    client.write_all(format!("{ECHO}early").as_bytes()).await.unwrap();
    let head = read_until(&mut client, "\r\n\r\n").await;
    for wanted in
        ["HTTP/1.1 101 ", "connection: upgrade\r\n", "upgrade: echo\r\n", "sec-websocket-protocol: chat\r\n"]
    {
        assert!(head.contains(wanted), "{wanted} in {head}");
    }
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    let (mut instance, asked) = fixture.guest.upgraded().await;
    assert_eq!((asked.get("upgrade"), asked.get("connection")), (None, None));
    assert_eq!(asked["x-forwarded-for"], "127.0.0.1");
    hears(&mut instance, "early").await;
    client.write_all(b"ping").await.unwrap();
    hears(&mut instance, "ping").await;
    instance.write_all(b"pong").await.unwrap();
    hears(&mut client, "pong").await;
    let stats = fixture.ingress.stats();
    assert_eq!((stats.connections_open, stats.requests_open), (1, 1));
    // The client has finished, and the instance has not.
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut instance).await, "");
    instance.write_all(b"the last").await.unwrap();
    drop(instance);
    let mut last = String::new();
    within(client.read_to_string(&mut last)).await.unwrap();
    assert_eq!(last, "the last");
    until(|| fixture.ingress.stats().requests_open == 0).await;
    until(|| fixture.ingress.stats().connections_open == 0).await;
    assert_eq!(fixture.errors.lock().unwrap().len(), 0);
    let counts = fixture.ingress.stats().releases[0].counts.clone();
    assert_eq!((counts.ok, counts.failed, counts.cut), (1, 0, 0));
}

#[tokio::test]
async fn another_answer_leaves_the_connection_as_it_was() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut client = fixture.connect().await;
    for _ in 0..2 {
        client.write_all(ECHO.replace("/upgrade", "/").as_bytes()).await.unwrap();
        let reply = read_reply(&mut client).await;
        assert_eq!(reply.status, 200);
        assert!(!reply.body.contains("upgrade: ") && !reply.body.contains("connection: "), "{}", reply.body);
    }
}

#[tokio::test]
async fn what_is_no_clear_upgrade_is_a_plain_request_or_refused_and_never_goes_over() {
    let (fixture, _) = Fixture::with_instances(1).await;
    for fields in [
        "upgrade: echo\r\n",
        "connection: keep-alive\r\nupgrade: echo\r\n",
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        "connection: upgrade\r\nupgrade: echo, H2C\r\n",
    ] {
        let reply = fixture.send(&format!("GET /upgrade HTTP/1.1\r\nhost: hello.test\r\n{fields}\r\n")).await;
        assert_eq!(reply.status, 200, "{fields}");
        assert!(reply.body.starts_with("plain") && !reply.body.contains("upgrade"), "{}", reply.body);
    }
    for fields in [
        "upgrade: echo\r\nupgrade: echo\r\n\r\n",
        "upgrade: echo, other\r\n\r\n",
        "upgrade: an echo\r\n\r\n",
        "upgrade: echo\r\ncontent-length: 3\r\n\r\nabc",
        "upgrade: echo\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let request = format!("GET /upgrade HTTP/1.1\r\nhost: hello.test\r\nconnection: upgrade\r\n{fields}");
        let reply = fixture.send(&request).await;
        assert_eq!((reply.status, reply.header("x-wharf-error")), (400, Some("bad_request")), "{fields}");
    }
    assert_eq!(fixture.guest.calls(), 4);
}

#[tokio::test]
async fn an_instance_that_goes_over_to_something_else_has_failed() {
    let (fixture, _) = Fixture::with_instances(1).await;
    for other in ["other", "echo,%20echo"] {
        let reply = fixture.send(&ECHO.replace("/upgrade", &format!("/upgrade?{other}"))).await;
        assert_eq!((reply.status, reply.header("x-wharf-error")), (502, Some("guest_failed")));
        let (mut instance, _) = fixture.guest.upgraded().await;
        assert_eq!(rest(&mut instance).await, "");
        let detail = fixture.errors.lock().unwrap().pop().unwrap().detail.unwrap();
        assert!(detail.contains(other), "{detail}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_instance_and_a_stopped_instance_frees_the_client() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut client = fixture.connect().await;
    goes_over(&mut client).await;
    let (mut instance, _) = fixture.guest.upgraded().await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(rest(&mut instance).await, "");
    until(|| fixture.ingress.stats().requests_open == 0).await;

    let mut client = fixture.connect().await;
    goes_over(&mut client).await;
    fixture.guest.cut.cancel();
    let cut = within(client.read_u8()).await.unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionReset);
    until(|| fixture.ingress.stats().requests_open == 0).await;
    assert_eq!(fixture.ingress.stats().releases[0].counts.cut, 1);
}

#[tokio::test]
async fn silence_outlives_the_watchdog_and_ends_after_its_own_time() {
    let (fixture, _) = Fixture::configured(1, |config| {
        config.header_timeout = Duration::from_millis(20);
        config.idle = Duration::from_millis(40);
        config.upgraded_idle = Duration::from_millis(600);
    })
    .await;
    let mut client = fixture.connect().await;
    goes_over(&mut client).await;
    let began = std::time::Instant::now();
    closes(&mut client).await;
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert_eq!(fixture.ingress.stats().connections_cut, 0);
    // Once one side has ended, the other is waited for as any client is.
    let mut client = fixture.connect().await;
    goes_over(&mut client).await;
    let (_instance, _) = fixture.guest.upgraded().await;
    client.shutdown().await.unwrap();
    let began = std::time::Instant::now();
    closes(&mut client).await;
    assert!(began.elapsed() < Duration::from_millis(600));
}

#[tokio::test]
async fn a_shutdown_waits_for_what_was_taken_over_and_then_cuts_it() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut client = fixture.connect().await;
    goes_over(&mut client).await;
    let (mut instance, _) = fixture.guest.upgraded().await;
    let address = fixture.address;
    let shuts = tokio::spawn(fixture.ingress.shutdown(Duration::from_millis(500)));
    until(|| std::net::TcpStream::connect(address).is_err()).await;
    client.write_all(b"still").await.unwrap();
    hears(&mut instance, "still").await;
    let wharf_ingress::Shutdown::Forced { cut } = within(shuts).await.unwrap() else { panic!("it is open") };
    assert_eq!((cut.len(), cut[0].open_requests), (1, 1));
    assert_eq!(rest(&mut instance).await, "");
}

#[tokio::test]
async fn what_goes_to_the_client_keeps_to_the_pace_of_the_namespace() {
    let (fixture, instances) = Fixture::with_instances(1).await;
    fixture.route_limited(2, &instances, (None, Some(64 << 10))).await;
    let mut client = fixture.connect().await;
    goes_over(&mut client).await;
    let (mut instance, _) = fixture.guest.upgraded().await;
    let began = std::time::Instant::now();
    let sends = tokio::spawn(async move {
        instance.write_all(&vec![b'x'; 128 << 10]).await.unwrap();
        instance
    });
    let mut heard = vec![0; 128 << 10];
    within(client.read_exact(&mut heard)).await.unwrap();
    // A second's worth goes at once.
    assert!(began.elapsed() >= Duration::from_millis(800), "{:?}", began.elapsed());
    drop(sends);
}

/// A client that knows that it may ask.
async fn http2_client(fixture: &Fixture) -> SendRequest<Empty<Bytes>> {
    let mut client = http2(fixture.address).await;
    let reply = within(client.send_request(http2_request("/", Empty::new()))).await.unwrap();
    reply.into_body().collect().await.unwrap();
    client
}

fn connect(path: &str, protocol: &'static str) -> Request<Empty<Bytes>> {
    let uri = format!("http://hello.test{path}");
    let mut request =
        Request::builder().method(Method::CONNECT).uri(uri).header("sec-websocket-version", "13");
    request = request.extension(Protocol::from_static(protocol));
    request.body(Empty::new()).unwrap()
}

async fn over(response: Response<Incoming>) -> TokioIo<Upgraded> {
    TokioIo::new(within(hyper::upgrade::on(response)).await.unwrap())
}

#[tokio::test]
async fn a_stream_of_http2_becomes_a_websocket() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut sender = http2_client(&fixture).await;
    let response = within(sender.send_request(connect("/upgrade", "websocket"))).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let (mut instance, asked) = fixture.guest.upgraded().await;
    assert_eq!(asked["sec-websocket-key"].len(), 24);
    assert_eq!(asked["sec-websocket-version"], "13");
    assert_eq!(asked["host"], "hello.test");
    let mut client = over(response).await;
    client.write_all(b"ping").await.unwrap();
    hears(&mut instance, "ping").await;
    instance.write_all(b"pong").await.unwrap();
    hears(&mut client, "pong").await;
    assert_eq!(fixture.ingress.stats().requests_open, 1);
    // Others go on beside it.
    assert_eq!(within(sender.send_request(http2_request("/", Empty::new()))).await.unwrap().status(), 200);
    drop(instance);
    let mut rest = String::new();
    within(client.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "");
    client.shutdown().await.unwrap();
    until(|| fixture.ingress.stats().requests_open == 0).await;
}

#[tokio::test]
async fn a_stream_that_is_given_up_frees_the_instance_and_so_does_its_connection() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut sender = http2_client(&fixture).await;
    for _ in 0..3 {
        let response = within(sender.send_request(connect("/upgrade", "echo"))).await.unwrap();
        let (mut instance, _) = fixture.guest.upgraded().await;
        drop(over(response).await);
        assert_eq!(rest(&mut instance).await, "");
        drop(instance);
        until(|| fixture.ingress.stats().requests_open == 0).await;
    }
    let response = within(sender.send_request(connect("/upgrade", "echo"))).await.unwrap();
    let (mut instance, _) = fixture.guest.upgraded().await;
    let client = over(response).await;
    fixture.guest.cut.cancel();
    assert_eq!(rest(&mut instance).await, "");
    until(|| fixture.ingress.stats().requests_open == 0).await;
    drop(client);
}

#[tokio::test]
async fn a_connect_that_is_not_granted_is_never_answered_like_one_that_is() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut sender = http2_client(&fixture).await;
    for (path, protocol, status, code) in [
        // An app that serves it as a page.
        ("/", "websocket", 501, Some("not_implemented")),
        ("/upgrade", "h2c", 501, Some("not_implemented")),
        ("/upgrade?other", "echo", 502, Some("guest_failed")),
        ("/trap", "echo", 502, Some("guest_failed")),
        // Its own words.
        ("/own-error", "echo", 503, Some("busy")),
    ] {
        let response = within(sender.send_request(connect(path, protocol))).await.unwrap();
        let said = response.headers().get("x-wharf-error").map(|value| value.to_str().unwrap());
        assert_eq!((response.status().as_u16(), said), (status, code), "{path} {protocol}");
        within(response.into_body().collect()).await.unwrap();
    }
    let plain = Request::builder().method(Method::CONNECT).uri("hello.test:80").body(Empty::new()).unwrap();
    assert_eq!(within(sender.send_request(plain)).await.unwrap().status(), 501);
    until(|| fixture.ingress.stats().requests_open == 0).await;
}

#[tokio::test]
async fn an_instance_of_another_host_takes_over_as_well() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let (near, far) = (&mesh.hosts[0], &mesh.hosts[1]);
    let mut client = near.connect().await;
    let head = ask(&mut client).await;
    for wanted in ["HTTP/1.1 101 ", "connection: upgrade\r\n", "upgrade: echo\r\n"] {
        assert!(head.contains(wanted), "{wanted} in {head}");
    }
    assert!(!head.contains("wharf-peer"), "{head}");
    let (mut instance, asked) = far.guest.upgraded().await;
    assert!(!asked.keys().any(|name| name.as_str().starts_with("wharf-peer")), "{asked:?}");
    assert_eq!(asked["x-forwarded-for"], "127.0.0.1");
    let pieces = "a piece of some length\n".repeat(10_000);
    let sent = pieces.clone();
    let sends = tokio::spawn(async move {
        client.write_all(sent.as_bytes()).await.unwrap();
        client
    });
    hears(&mut instance, &pieces).await;
    let mut client = within(sends).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut instance).await, "");
    instance.write_all(b"the last").await.unwrap();
    drop(instance);
    hears(&mut client, "the last").await;
    closes(&mut client).await;
    until(|| near.ingress.stats().requests_open == 0).await;

    // Each side hears of the other's end.
    let mut client = near.connect().await;
    goes_over(&mut client).await;
    let (mut instance, _) = far.guest.upgraded().await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(rest(&mut instance).await, "");
    let mut client = near.connect().await;
    goes_over(&mut client).await;
    far.guest.cut.cancel();
    closes(&mut client).await;
    until(|| near.ingress.stats().requests_open == 0).await;
    assert_eq!((near.figures().lost, near.codes()), (0, vec![]));
}

#[tokio::test]
async fn other_answers_of_another_host_are_ordinary_ones_and_its_faults_are_told() {
    let mut mesh = Mesh::of(2).await;
    let instances = mesh.place(&[1]).await;
    let (near, far) = (&mesh.hosts[0], &mesh.hosts[1]);
    let reply = near.send(&ECHO.replace("/upgrade", "/")).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.contains("x-forwarded-for") && !reply.body.contains("upgrade: "), "{}", reply.body);
    for (path, status, code) in [
        ("/upgrade?other", 502, "guest_failed"),
        ("/trap", 502, "guest_failed"),
        ("/timeout", 504, "guest_timeout"),
    ] {
        let reply = near.send(&ECHO.replace("/upgrade", path)).await;
        assert_eq!((reply.status, reply.header("x-wharf-error")), (status, Some(code)), "{path}");
    }
    far.guest.is_busy(instances[0]);
    assert_eq!(near.send(ECHO).await.header("x-wharf-error"), Some("busy"));
    assert_eq!(near.figures().lost, 0);
}

#[tokio::test]
async fn a_host_that_dies_takes_along_what_was_taken_over() {
    let mut mesh = Mesh::of(2).await;
    let wall = Wall::before(mesh.addresses[1]).await;
    mesh.addresses[1] = wall.address;
    mesh.place(&[1]).await;
    let mut client = mesh.hosts[0].connect().await;
    goes_over(&mut client).await;
    let (mut instance, _) = mesh.hosts[1].guest.upgraded().await;
    wall.set(Passes::Cut);
    closes(&mut client).await;
    assert_eq!(rest(&mut instance).await, "");
    until(|| mesh.hosts[0].ingress.stats().requests_open == 0).await;
}

#[tokio::test]
async fn a_host_of_the_version_before_is_not_taken_for_one_that_has_gone_over() {
    let mut mesh = Mesh::of(2).await;
    let listener = bind().await;
    mesh.addresses[1] = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(mesh.authority.server(&mesh.authority.identity(mesh.hosts[1].node)));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(socket).await.unwrap();
                let answer = service_fn(|request: Request<Incoming>| async move {
                    let mut response = Response::builder();
                    let fields = request.headers();
                    if !fields.contains_key("wharf-peer-probe") && !fields.contains_key("wharf-peer-instance")
                    {
                        response = response.status(503).header("wharf-peer-verdict", "malformed");
                    }
                    response.body(Full::new(Bytes::from_static(b"old")))
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    mesh.place(&[1]).await;
    let near = &mesh.hosts[0];
    let reply = near.send(ECHO).await;
    assert_eq!((reply.status, reply.header("x-wharf-error")), (501, Some("not_implemented")));
    let detail = near.errors.lock().unwrap()[0].detail.clone().unwrap();
    assert!(detail.contains("upgrade it"), "{detail}");
    assert_eq!(near.get("/").await.body, "old");
}
