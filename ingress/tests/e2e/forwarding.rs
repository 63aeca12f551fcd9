//! What passes through, and what does not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt as _;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use tokio::io::AsyncWriteExt as _;

use crate::fixture::{Fixture, http2, http2_request, read_reply, read_until, within};

const SPOOFED: &str = "GET / HTTP/1.1\r\nhost: hello.test\r\nx-forwarded-for: 192.0.2.1\r\nx_forwarded_for: 192.0.2.2\r\n\
    x-forwarded-proto: https\r\nforwarded: for=192.0.2.3\r\nx-request-id: mine\r\nx-real-ip: 192.0.2.4\r\n\r\n";

#[tokio::test]
async fn what_an_untrusted_client_says_about_itself_is_replaced() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let body = fixture.send(SPOOFED).await.body;
    for wanted in ["x-forwarded-for: 127.0.0.1\n", "x-forwarded-proto: http\n"] {
        assert!(body.contains(wanted), "{wanted} in {body}");
    }
    assert!(!body.contains("192.0.2.") && !body.contains("mine"), "{body}");
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_kept_and_added_to() {
    let trust =
        |config: &mut wharf_ingress::Config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let (fixture, _) = Fixture::configured(1, trust).await;
    let body = fixture.send(SPOOFED).await.body;
    for wanted in
        ["x-forwarded-for: 192.0.2.1, 127.0.0.1\n", "x-forwarded-proto: https\n", "x-request-id: mine\n"]
    {
        assert!(body.contains(wanted), "{wanted} in {body}");
    }
}

#[tokio::test]
async fn every_request_has_an_id_of_its_own() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let id = |body: &str| body.lines().find(|line| line.starts_with("x-request-id: ")).unwrap().to_owned();
    let (first, second) = (id(&fixture.get("/").await.body), id(&fixture.get("/").await.body));
    assert!(first.len() == "x-request-id: ".len() + 32 && first != second);
}

#[tokio::test]
async fn fields_of_one_hop_do_not_pass_in_either_direction() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut socket = fixture.connect().await;
    let request = "GET / HTTP/1.1\r\nhost: hello.test\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\n\
        proxy-authorization: x\r\nupgrade: websocket\r\nte: gzip\r\nx-end: 1\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let reply = read_reply(&mut socket).await;
    for gone in ["x-hop", "keep-alive", "proxy-", "upgrade", "te:", "connection"] {
        assert!(!reply.body.contains(gone), "{gone} in {}", reply.body);
    }
    assert!(reply.body.contains("x-end: 1"));
    assert_eq!(
        (reply.header("connection"), reply.header("x-private"), reply.header("keep-alive")),
        (None, None, None)
    );
    // The guest asked for an end of the connection, which is not its to end.
    socket.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(read_reply(&mut socket).await.status, 200);
}

#[tokio::test]
async fn a_head_request_gets_the_length_and_no_body() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut socket = fixture.connect().await;
    for _ in 0..2 {
        socket.write_all(b"HEAD / HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
        let head = read_until(&mut socket, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: "), "{head}");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut socket = fixture.connect().await;
    let head =
        "POST /collect HTTP/1.1\r\nhost: hello.test\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut socket, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"abc").await.unwrap();
    assert!(read_until(&mut socket, "abc").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_first_octets_arrive_before_the_response_ends() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut stream = fixture.guest.stream();
    let mut socket = fixture.connect().await;
    socket.write_all(b"GET /stream HTTP/1.1\r\nhost: hello.test\r\nte: trailers\r\n\r\n").await.unwrap();
    read_until(&mut socket, "\r\n\r\n").await;
    for part in ["one", "two"] {
        stream.send(Frame::data(Bytes::from(part))).await.unwrap();
        assert_eq!(read_until(&mut socket, &format!("{part}\r\n")).await, format!("3\r\n{part}\r\n"));
    }
    stream.send(Frame::trailers(sum())).await.unwrap();
    drop(stream);
    assert_eq!(read_until(&mut socket, "\r\n\r\n").await, "0\r\nx-sum: 7\r\n\r\n");
}

#[tokio::test]
async fn a_request_is_answered_while_its_body_still_comes() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut socket = fixture.connect().await;
    let head =
        "POST /echo HTTP/1.1\r\nhost: hello.test\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(b"3\r\nabc\r\n").await.unwrap();
    assert!(read_until(&mut socket, "3\r\nabc\r\n").await.starts_with("HTTP/1.1 200"));
    socket.write_all(b"0\r\nx-sum: 9\r\n\r\n").await.unwrap();
    assert_eq!(read_until(&mut socket, "\r\n\r\n").await, "0\r\nx-sum: 9\r\n\r\n");
}

#[tokio::test]
async fn http2_streams_bodies_and_trailers_both_ways() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut client = http2(fixture.address).await;
    let (mut upload, frames) =
        futures::channel::mpsc::unbounded::<Result<Frame<Bytes>, std::convert::Infallible>>();
    let response =
        within(client.send_request(http2_request("/echo", StreamBody::new(frames)))).await.unwrap();
    let mut body = response.into_body();
    upload.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    let first = within(body.frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "one");
    upload.send(Ok(Frame::trailers(sum()))).await.unwrap();
    drop(upload);
    let rest = within(body.collect()).await.unwrap();
    assert_eq!(rest.trailers().unwrap()["x-sum"], "7");
}

#[tokio::test]
async fn http2_requests_are_marked_like_others() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut client = http2::<Empty<Bytes>>(fixture.address).await;
    let request = Request::builder()
        .uri("https://hello.test/x?y")
        .header("x-forwarded-for", "192.0.2.1")
        .body(Empty::new())
        .unwrap();
    let response = within(client.send_request(request)).await.unwrap();
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    let body = std::str::from_utf8(&body).unwrap();
    assert!(body.starts_with("GET http://hello.test/x?y\n"), "{body}");
    assert!(
        body.contains("x-forwarded-for: 127.0.0.1\n") && body.contains("x-forwarded-proto: http\n"),
        "{body}"
    );
}

fn sum() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))])
}

#[tokio::test]
async fn octets_beyond_the_rate_of_their_namespace_wait_and_are_not_lost() {
    let (fixture, instances) = Fixture::with_instances(1).await;
    fixture.route_limited(50, &instances, (None, Some(10_000))).await;
    let mut stream = fixture.guest.stream();
    let mut socket = fixture.connect().await;
    socket.write_all(b"GET /stream HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
    read_until(&mut socket, "\r\n\r\n").await;
    let began = Instant::now();
    // One second's worth passes at once, and so does what comes when nothing is owed; then a second is.
    for _ in 0..3 {
        stream.send(Frame::data(Bytes::from(vec![b'x'; 10_000]))).await.unwrap();
    }
    drop(stream);
    let body = read_until(&mut socket, "0\r\n\r\n").await;
    assert_eq!(body.matches('x').count(), 30_000);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    fixture.route(51, &instances).await;
    assert_eq!(fixture.get("/").await.status, 200);
}
