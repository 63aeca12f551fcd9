//! How requests and replies pass through the ingress.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;

use bytes::Bytes;
use futures::SinkExt as _;
use futures::channel::mpsc;
use http::header::{HOST, RETRY_AFTER, TE};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::time::Instant;
use wharf_tests::{Platform, SHORT, eventually, full, request, within};

const STREAM: &str = "stream.default.localhost";

async fn platform_with_stream() -> Platform {
    let platform = Platform::start().await;
    platform.deploy("stream", "stream", &[]).await;
    platform
}

async fn next_data(body: &mut Incoming) -> Bytes {
    let frame = within(SHORT, "the next frame of a body", body.frame()).await.unwrap().unwrap();
    frame.into_data().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_address_is_told_and_a_false_one_is_replaced() {
    let platform = platform_with_stream().await;
    let mut asked = request(STREAM, "/headers");
    for header in ["x-forwarded-for", "x-real-ip"] {
        asked.headers_mut().insert(header, HeaderValue::from_static("203.0.113.7"));
    }
    asked.headers_mut().insert("forwarded", HeaderValue::from_static("for=203.0.113.7"));
    let seen = platform.apps.send(asked).await.unwrap().text();
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\n"), "{seen}");
    assert!(!seen.contains("203.0.113.7"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_line_comes_long_before_the_last() {
    let platform = platform_with_stream().await;
    let reply = platform.apps.open(request(STREAM, "/count?n=2&ms=3000")).await.unwrap();
    let mut body = reply.into_body();
    assert_eq!(next_data(&mut body).await, "line 1\n");
    let first = Instant::now();
    let rest = within(SHORT, "the end of the body", body.collect()).await.unwrap().to_bytes();
    assert_eq!(rest, "line 2\n");
    // Three seconds lie between them; a body held back would come all at once. A busy machine may read the first one late.
    assert!(first.elapsed().as_millis() >= 1000, "{:?}", first.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_body_flows_while_it_is_being_sent() {
    let platform = platform_with_stream().await;
    let (mut send, chunks) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(chunks).boxed();
    send.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    let echo = Request::post("/echo").header(HOST, STREAM).body(body).unwrap();
    let mut reply = within(SHORT, "the reply's head", platform.apps.open(echo)).await.unwrap().into_body();
    assert_eq!(next_data(&mut reply).await, "one");
    // Only now is the second half sent: the first was not held back for it.
    send.send(Ok(Frame::data(Bytes::from_static(b"two")))).await.unwrap();
    assert_eq!(next_data(&mut reply).await, "two");
    drop(send);
    assert!(within(SHORT, "the end of the body", reply.collect()).await.unwrap().to_bytes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_through() {
    let platform = platform_with_stream().await;
    let mut asked = request(STREAM, "/trailers");
    asked.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    let reply = platform.apps.send(asked).await.unwrap();
    assert_eq!(reply.text(), "line 1\nline 2\n");
    assert_eq!(reply.trailers.get("x-lines").unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_many_megabytes_arrives_whole() {
    let platform = platform_with_stream().await;
    let reply = platform.apps.get(STREAM, "/bytes?n=20000000").await.unwrap();
    assert_eq!(reply.body.len(), 20_000_000);
    let sum = Request::post("/sum").header(HOST, STREAM).body(full(vec![b'x'; 5_000_000])).unwrap();
    assert_eq!(platform.apps.send(sum).await.unwrap().text(), "5000000\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_arrives_whole_from_a_guest_that_computes_for_long_before_it_and_within_it() {
    // Such a guest changes threads, in the midst of its request and of its body: no waking may be lost on the way.
    const OCTETS: usize = 2_000_000;
    let platform = platform_with_stream().await;
    let path = format!("/work?ms=50&n={OCTETS}");
    for at_once in [1, 1, 8] {
        let replies = (0..at_once).map(|_| within(SHORT, "the whole body", platform.get("stream", &path)));
        for reply in futures::future::join_all(replies).await {
            let reply = reply.unwrap();
            assert_eq!((reply.status.as_u16(), reply.body.len()), (200, OCTETS));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_is_404_and_never_another_app() {
    let platform = platform_with_stream().await;
    for hostname in
        ["nothing.default.localhost", "stream.other.localhost", "localhost", "127.0.0.1", "example.com"]
    {
        let reply = platform.apps.get(hostname, "/").await.unwrap();
        assert_eq!(reply.status, 404, "{hostname}: {}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_without_instances_is_503_until_it_has_some() {
    let platform = platform_with_stream().await;
    platform.wharf(&["scale", "stream=0"]).await.ok();
    let reply = eventually(SHORT, "503", || async {
        let reply = platform.get("stream", "/").await.unwrap();
        (reply.status == 503).then_some(reply)
    })
    .await;
    let seconds: u64 = reply.headers[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    platform.app_is("stream", "stopped", |info| info.condition.as_str() == "stopped").await;
    platform.wharf(&["scale", "stream=1"]).await.ok();
    platform.serves("stream").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_of_ones_own_leads_to_the_app_by_its_longest_prefix() {
    let platform = Platform::start().await;
    for (app, route, greeting) in [("one", "shop.test/", "one"), ("two", "shop.test/api", "two")] {
        let manifest =
            format!("app = \"{app}\"\n[http]\nroutes = [\"{route}\"]\n[env]\nGREETING = \"{greeting}\"\n");
        platform.deploy_manifest("hello", &manifest).await.ok();
    }
    for (path, app) in [("/", "one\n"), ("/apix", "one\n"), ("/api", "two\n"), ("/api/x", "two\n")] {
        assert_eq!(platform.apps.get("shop.test", path).await.unwrap().text(), app, "{path}");
    }
}
