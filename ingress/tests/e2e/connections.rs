//! Connections: kept, limited, cut, and ended by a shutdown.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt as _;
use futures::channel::mpsc;
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wharf_ingress::{Config, Shutdown};

use crate::fixture::{Fixture, closes, http2, http2_request, read_reply, read_until, until, within};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: hello.test\r\n\r\n";
const WAIT: &[u8] = b"GET /wait HTTP/1.1\r\nhost: hello.test\r\n\r\n";
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_connection_serves_many_requests_also_pipelined_ones() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut socket = fixture.connect().await;
    for _ in 0..3 {
        socket.write_all(&GET.repeat(3)).await.unwrap();
        for _ in 0..3 {
            assert_eq!(read_reply(&mut socket).await.status, 200);
        }
    }
    let stats = fixture.ingress.stats();
    assert_eq!((stats.connections_accepted, stats.connections_open, stats.requests), (1, 1, 9));
    until(|| fixture.ingress.stats().requests_open == 0).await;
}

#[tokio::test]
async fn a_request_in_single_octets_is_served() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut socket = fixture.connect().await;
    socket.set_nodelay(true).unwrap();
    // `PRO` begins like the preface of HTTP/2.
    for octet in b"PROPFIND / HTTP/1.1\r\nhost: hello.test\r\n\r\n" {
        socket.write_all(&[*octet]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(read_reply(&mut socket).await.body.starts_with("PROPFIND http://hello.test/\n"));
}

fn quick(config: &mut Config) {
    config.header_timeout = Duration::from_millis(100);
    config.idle = LONG;
}

#[tokio::test]
async fn clients_that_are_slow_to_send_a_head_are_cut() {
    let (fixture, _) = Fixture::configured(1, quick).await;
    for beginning in ["", "PRI * HTTP/2", "GET / HTTP/1.1\r\nhost: he"] {
        let mut socket = fixture.connect().await;
        let start = Instant::now();
        socket.write_all(beginning.as_bytes()).await.unwrap();
        closes(&mut socket).await;
        assert!(start.elapsed() >= Duration::from_millis(90), "{beginning}");
    }
    // Also where the head is not the connection's first, and where it comes octet by octet.
    let mut socket = fixture.connect().await;
    socket.write_all(GET).await.unwrap();
    read_reply(&mut socket).await;
    within(async {
        while socket.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(fixture.ingress.stats().connections_cut, 4);
}

#[tokio::test]
async fn a_slow_guest_and_a_pause_between_requests_outlive_the_header_timeout() {
    let (fixture, _) = Fixture::configured(1, quick).await;
    let mut socket = fixture.connect().await;
    for _ in 0..2 {
        socket.write_all(WAIT).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        fixture.guest.go_on.add_permits(1);
        assert_eq!(read_reply(&mut socket).await.body, "waited");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn idle_connections_are_closed_in_both_protocols() {
    let (fixture, _) = Fixture::configured(1, |config| config.idle = Duration::from_millis(100)).await;
    let mut socket = fixture.connect().await;
    socket.write_all(GET).await.unwrap();
    read_reply(&mut socket).await;
    let mut client = http2::<Empty<Bytes>>(fixture.address).await;
    within(client.send_request(http2_request("/", Empty::new())))
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    closes(&mut socket).await;
    until(|| client.is_closed()).await;
    until(|| fixture.ingress.stats().connections_open == 0).await;
    assert_eq!(fixture.ingress.stats().connections_cut, 0);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let (fixture, _) = Fixture::configured(1, |config| config.idle = Duration::from_millis(200)).await;
    let mut stream = fixture.guest.stream();
    let mut socket = fixture.connect().await;
    socket.write_all(b"GET /stream HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
    for _ in 0..64 {
        stream.send(Frame::data(Bytes::from(vec![0; 1024 * 1024]))).await.unwrap();
    }
    until(|| fixture.ingress.stats().connections_cut == 1).await;
    until(|| stream.is_closed()).await;
}

#[tokio::test]
async fn a_client_that_stalls_its_upload_is_cut_in_both_protocols() {
    let (fixture, _) = Fixture::configured(1, |config| config.idle = Duration::from_millis(200)).await;
    let mut socket = fixture.connect().await;
    let head = "POST /collect HTTP/1.1\r\nhost: hello.test\r\ncontent-length: 100\r\n\r\n12345";
    socket.write_all(head.as_bytes()).await.unwrap();
    closes(&mut socket).await;
    let (mut upload, body) = mpsc::unbounded::<Result<Frame<Bytes>, std::convert::Infallible>>();
    let mut client = http2(fixture.address).await;
    let reply = client.send_request(http2_request("/collect", StreamBody::new(body)));
    upload.send(Ok(Frame::data(Bytes::from_static(b"12345")))).await.unwrap();
    assert!(within(reply).await.is_err());
    until(|| fixture.guest.running() == 0).await;
    assert_eq!(fixture.ingress.stats().connections_cut, 2);
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_guests_work() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut socket = fixture.connect().await;
    socket.write_all(WAIT).await.unwrap();
    until(|| fixture.guest.running() == 1).await;
    drop(socket);
    until(|| fixture.guest.running() == 0).await;
    until(|| fixture.ingress.stats().connections_open == 0).await;
}

#[tokio::test]
async fn five_hundred_idle_connections_block_nobody() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut idle = Vec::new();
    for _ in 0..500 {
        idle.push(fixture.connect().await);
    }
    for _ in 0..500 {
        assert_eq!(fixture.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let (fixture, _) = Fixture::configured(1, |config| config.max_connections = 2).await;
    let first = fixture.connect().await;
    let _second = fixture.connect().await;
    until(|| fixture.ingress.stats().connections_open == 2).await;
    let mut third = fixture.connect().await;
    closes(&mut third).await;
    assert_eq!(fixture.ingress.stats().connections_over_limit, 1);
    drop(first);
    until(|| fixture.ingress.stats().connections_open == 1).await;
    assert_eq!(fixture.get("/").await.status, 200);
}

#[tokio::test]
async fn a_shutdown_answers_open_requests_and_closes_idle_connections() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut idle = fixture.connect().await;
    idle.write_all(GET).await.unwrap();
    read_reply(&mut idle).await;
    let mut silent = fixture.connect().await;
    let mut busy = fixture.connect().await;
    busy.write_all(WAIT).await.unwrap();
    let mut client = http2::<Empty<Bytes>>(fixture.address).await;
    let multiplexed =
        tokio::spawn(async move { client.send_request(http2_request("/wait", Empty::new())).await });
    until(|| fixture.guest.calls() == 3).await;

    let (guest, address) = (fixture.guest.clone(), fixture.address);
    let shutdown = tokio::spawn(fixture.ingress.shutdown(LONG));
    closes(&mut idle).await;
    closes(&mut silent).await;
    within(async { while tokio::net::TcpStream::connect(address).await.is_ok() {} }).await;
    guest.go_on.add_permits(2);
    let reply = read_reply(&mut busy).await;
    assert_eq!((reply.body.as_str(), reply.header("connection")), ("waited", Some("close")));
    closes(&mut busy).await;
    let response = within(multiplexed).await.unwrap().unwrap();
    assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes(), "waited");
    assert_eq!(within(shutdown).await.unwrap(), Shutdown::Clean);
}

#[tokio::test]
async fn a_shutdown_that_is_not_to_wait_any_more_cuts_what_is_left_and_comes_to_its_end() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut stuck = fixture.connect().await;
    stuck.write_all(WAIT).await.unwrap();
    until(|| fixture.guest.calls() == 1).await;
    let guest = fixture.guest.clone();
    let (now, asked) = tokio::sync::oneshot::channel::<()>();
    let limit = async { drop(asked.await) };
    let shutdown = tokio::spawn(fixture.ingress.shutdown_before(limit));
    tokio::task::yield_now().await;
    assert!(!shutdown.is_finished());
    now.send(()).unwrap();
    assert!(matches!(within(shutdown).await.unwrap(), Shutdown::Forced { cut } if cut.len() == 1));
    assert_eq!(guest.running(), 0);
    closes(&mut stuck).await;
}

#[tokio::test]
async fn a_shutdown_cuts_what_outlasts_the_grace_and_says_which() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut stuck = fixture.connect().await;
    stuck.write_all(WAIT).await.unwrap();
    until(|| fixture.guest.calls() == 1).await;
    let guest = fixture.guest.clone();
    let Shutdown::Forced { cut } = within(fixture.ingress.shutdown(Duration::from_millis(50))).await else {
        panic!("the request cannot have ended");
    };
    assert_eq!(cut.len(), 1);
    assert_eq!((cut[0].remote, cut[0].open_requests), (stuck.local_addr().unwrap(), 1));
    assert_eq!(guest.running(), 0);
    closes(&mut stuck).await;
}

#[tokio::test]
async fn a_response_counts_as_open_until_its_body_has_ended() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut stream = fixture.guest.stream();
    let mut socket = fixture.connect().await;
    socket.write_all(b"GET /stream HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
    read_until(&mut socket, "\r\n\r\n").await;
    assert_eq!(fixture.ingress.stats().requests_open, 1);
    stream.send(Frame::data(Bytes::from_static(b"x"))).await.unwrap();
    drop(stream);
    read_until(&mut socket, "0\r\n\r\n").await;
    until(|| fixture.ingress.stats().requests_open == 0).await;
}

#[tokio::test]
async fn a_body_that_stalls_holds_up_nobody_else() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut stalled = fixture.connect().await;
    let head = "POST /echo HTTP/1.1\r\nhost: hello.test\r\ncontent-length: 100\r\n\r\n12345";
    stalled.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stalled, "12345").await;
    for _ in 0..20 {
        assert_eq!(fixture.get("/").await.status, 200);
    }
    let mut buffer = [0; 1];
    assert!(tokio::time::timeout(Duration::from_millis(10), stalled.read(&mut buffer)).await.is_err());
}
