//! The answers that the ingress gives itself.

use bytes::Bytes;
use http_body_util::Empty;
use tokio::io::AsyncWriteExt as _;
use wharf_ingress::ErrorCode;

use crate::fixture::{Fixture, closes, http2, http2_request, read_reply, within};

#[tokio::test]
async fn each_failure_of_an_instance_has_its_status_and_code() {
    let (fixture, instances) = Fixture::with_instances(1).await;
    for (path, status, code, retry_after) in [
        ("/trap", 502, "guest_failed", None),
        ("/switch", 502, "guest_failed", None),
        ("/timeout", 504, "guest_timeout", None),
        ("/too-large", 413, "body_too_large", None),
        ("/bad", 400, "bad_request", None),
        ("/busy", 503, "busy", Some("1")),
    ] {
        let reply = fixture.get(path).await;
        assert_eq!((reply.status, reply.header("x-wharf-error")), (status, Some(code)), "{path}");
        assert_eq!(reply.header("retry-after"), retry_after, "{path}");
        assert!(!reply.body.contains("secret"), "{}", reply.body);
        let error = fixture.errors.lock().unwrap().pop().unwrap();
        assert_eq!(
            (error.code.as_str(), error.path.as_str(), error.instance),
            (code, path, Some(instances[0]))
        );
        assert_eq!(error.app.unwrap().as_str(), "hello");
        assert_eq!(reply.header("x-request-id"), Some(error.request_id.as_str()));
    }
}

#[tokio::test]
async fn the_guests_own_words_go_to_the_log_only() {
    let (fixture, _) = Fixture::with_instances(1).await;
    fixture.get("/trap?token=1").await;
    let error = fixture.errors.lock().unwrap().pop().unwrap();
    assert_eq!((error.detail.as_deref(), error.path.as_str()), (Some("secret backtrace"), "/trap"));
}

#[tokio::test]
async fn an_unknown_host_is_nobodys() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let reply = fixture.send("GET / HTTP/1.1\r\nhost: x.hello.test\r\n\r\n").await;
    assert_eq!((reply.status, reply.header("x-wharf-error")), (404, Some("unknown_host")));
    let error = fixture.errors.lock().unwrap().pop().unwrap();
    assert_eq!((error.app, error.host.as_deref()), (None, Some("x.hello.test")));
    assert_eq!(fixture.guest.calls(), 0);
}

#[tokio::test]
async fn requests_beyond_the_rate_of_their_namespace_are_refused_before_an_instance_is_asked() {
    let (fixture, instances) = Fixture::with_instances(2).await;
    fixture.route_limited(50, &instances, (Some(1), None)).await;
    // Of any two within a second one is too many, and three take no two seconds.
    let replies = [fixture.get("/").await, fixture.get("/").await, fixture.get("/").await];
    let limited: Vec<_> = replies.iter().filter(|reply| reply.status == 429).collect();
    assert!(!limited.is_empty(), "{replies:?}");
    for reply in &limited {
        assert_eq!(reply.header("x-wharf-error"), Some("rate_limited"));
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    assert_eq!(fixture.guest.calls(), 3 - limited.len());
    assert_eq!(fixture.errors.lock().unwrap().pop().unwrap().app.unwrap().as_str(), "hello");
    fixture.route(51, &instances).await;
    assert_eq!(fixture.get("/").await.status, 200, "without a limit nothing is counted");
}

#[tokio::test]
async fn an_app_without_a_ready_instance_asks_to_come_back() {
    let (fixture, _) = Fixture::with_instances(0).await;
    let reply = fixture.get("/").await;
    assert_eq!((reply.status, reply.header("x-wharf-error")), (503, Some("no_ready_instance")));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(fixture.errors.lock().unwrap().pop().unwrap().app.unwrap().as_str(), "hello");
}

#[tokio::test]
async fn where_all_have_left_or_are_busy_the_client_is_told_so() {
    let (fixture, instances) = Fixture::with_instances(2).await;
    instances.iter().for_each(|instance| fixture.guest.is_busy(*instance));
    assert_eq!(fixture.get("/").await.header("x-wharf-error"), Some("busy"));
    assert_eq!(fixture.guest.calls(), 2);
    instances.iter().for_each(|instance| fixture.guest.leaves(*instance));
    assert_eq!(fixture.get("/").await.header("x-wharf-error"), Some("no_ready_instance"));
    assert_eq!(fixture.guest.calls(), 4);
}

#[tokio::test]
async fn a_browser_gets_a_page() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let reply = fixture.send("GET /bad HTTP/1.1\r\nhost: hello.test\r\naccept: text/html,*/*\r\n\r\n").await;
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(reply.body.contains("&lt;bad&gt;") && !reply.body.contains("<bad>"), "{}", reply.body);
}

#[tokio::test]
async fn malformed_requests_are_refused_before_anyone_is_asked() {
    let (fixture, _) = Fixture::with_instances(1).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: hello.test, b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: u@hello.test\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nhost: hello.test\r\n\r\n", 400),
        ("CONNECT hello.test:80 HTTP/1.1\r\nhost: hello.test:80\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nhost: hello.test\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: hello.test\r\ntransfer-encoding: x\r\n\r\n", 400),
        ("not http at all\r\n\r\n", 400),
    ] {
        assert_eq!(fixture.send(request).await.status, status, "{request}");
    }
    let many = format!("GET / HTTP/1.1\r\nhost: hello.test\r\n{}\r\n", "a: b\r\n".repeat(200));
    assert_eq!(fixture.send(&many).await.status, 431);
    let long = format!("GET / HTTP/1.1\r\nhost: hello.test\r\na: {}\r\n\r\n", "b".repeat(64 * 1024));
    let mut socket = fixture.connect().await;
    let _ = socket.write_all(long.as_bytes()).await;
    assert_eq!(read_reply(&mut socket).await.status, 431);
    assert_eq!(fixture.guest.calls(), 0);
}

#[tokio::test]
async fn a_head_that_cannot_be_parsed_is_answered_barely_and_ends_the_connection() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut socket = fixture.connect().await;
    socket.write_all(b"not http at all\r\n\r\n").await.unwrap();
    let reply = read_reply(&mut socket).await;
    assert_eq!((reply.status, reply.body.as_str()), (400, ""));
    assert_eq!((reply.header("x-wharf-error"), reply.header("x-request-id")), (None, None));
    closes(&mut socket).await;
    assert!(fixture.errors.lock().unwrap().is_empty());
}

#[tokio::test]
async fn many_tiny_fields_over_http2_are_refused() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut client = http2::<Empty<Bytes>>(fixture.address).await;
    let mut request = http2_request("/", Empty::new());
    for _ in 0..200 {
        request.headers_mut().append("a", http::HeaderValue::from_static("b"));
    }
    let response = within(client.send_request(request)).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-wharf-error"]),
        (431, &"header_too_large".parse().unwrap())
    );
}

#[tokio::test]
async fn a_request_without_a_client_ends_without_an_answer() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let mut socket = fixture.connect().await;
    socket.write_all(b"GET /gone HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
    closes(&mut socket).await;
    assert_eq!(fixture.ingress.stats().client_gone, 1);
}

#[tokio::test]
async fn errors_are_counted_by_code() {
    let (fixture, _) = Fixture::with_instances(1).await;
    for _ in 0..3 {
        fixture.get("/trap").await;
    }
    let stats = fixture.ingress.stats();
    let failed = stats.errors.iter().find(|(code, _)| *code == ErrorCode::GuestFailed).unwrap().1;
    assert_eq!((failed, stats.requests), (3, 3));
}
