//! The corners of a request on its way to a guest, through the front door: what a client sends as a guest sees it.
//!
//! The guests `conformance` (WASI 0.2) and `conformance-p3` (0.3) tell what their host told them. `docs/guide/conformance.md` says
//! what differs from the specifications.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use wharf_tests::Platform;

/// The guests of both WASI versions.
const BOTH: [&str; 2] = ["conformance", "conformance-p3"];

async fn platform() -> Platform {
    let platform = Platform::start().await;
    for guest in BOTH {
        platform.deploy(guest, guest, &[]).await;
    }
    platform
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_reaches_the_guest_as_it_was_sent() {
    let platform = platform().await;
    for app in BOTH {
        let odd = "/x%2Fy/../z//w;a=b?q=%20&{}|'^`[]\\&&=?";
        platform.raw_to(app, &format!("GET {odd} HTTP/1.1"), "").await.tells(&[&format!("target: {odd}")]);
        // The authority of the request line wins over `Host`, the scheme is how the client came in.
        let absolute = format!("GET https://{app}.default.localhost:81/a?b HTTP/1.1");
        platform.raw_to("nobody", &absolute, "").await.tells(&[
            "target: /a?b",
            &format!("authority: {app}.default.localhost:81"),
            "scheme: Some(Scheme::Http)",
        ]);
        // A path is never empty.
        let no_path = format!("GET http://{app}.default.localhost?q=/1 HTTP/1.1");
        platform.raw_to(app, &no_path, "").await.tells(&["GET  /                this text"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_names_no_resource_is_refused() {
    let platform = platform().await;
    for (line, status) in [
        ("OPTIONS * HTTP/1.1", "400 Bad Request"),
        ("GET a.test:80 HTTP/1.1", "400 Bad Request"),
        ("GET /a b HTTP/1.1", "400 Bad Request"),
        ("GET a/b HTTP/1.1", "400 Bad Request"),
        ("CONNECT a.test:80 HTTP/1.1", "501 Not Implemented"),
    ] {
        let reply = platform.raw_to("conformance", line, "").await;
        assert!(reply.has(&format!("HTTP/1.1 {status}")), "{line}: {}", reply.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_method_reaches_the_guest() {
    let platform = platform().await;
    for app in BOTH {
        for (method, seen) in [
            ("PATCH", "Method::Patch"),
            ("OPTIONS", "Method::Options"),
            ("PROPFIND", "Method::Other(\"PROPFIND\")"),
            ("M-SEARCH!#$", "Method::Other(\"M-SEARCH!#$\")"),
            ("get", "Method::Other(\"get\")"),
        ] {
            let reply = platform.raw_to(app, &format!("{method} /request HTTP/1.1"), "").await;
            reply.tells(&[&format!("method: {seen}")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_reach_the_guest_as_they_were_sent_and_those_of_the_connection_do_not() {
    let platform = platform().await;
    let sent = b"GET /request HTTP/1.1\r\nHost: APP.default.localhost\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
        Keep-Alive: 5\r\nProxy-Authorization: x\r\nUpgrade: websocket\r\nX-Many: 1\r\nx-other: caf\xe9\r\nX-MANY: 2\r\nx-many: 1\r\n\
        X-Empty:\r\nX-Tab: \ta\tb \r\nCookie: a=1\r\nCookie: b=2\r\n\r\n";
    for app in BOTH {
        let sent: Vec<u8> = {
            let at = sent.windows(3).position(|three| three == b"APP").unwrap();
            [&sent[..at], app.as_bytes(), &sent[at + 3..]].concat()
        };
        let reply = platform.raw(&sent).await;
        reply.tells(&["field x-other: caf\\xe9", "field x-empty: ", "field x-tab: a\\tb"]);
        let told = |prefix: &str| -> Vec<String> {
            reply.body.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect()
        };
        assert_eq!(told("field x-many: "), ["1", "2", "1"]);
        assert_eq!(told("field cookie: "), ["a=1", "b=2"]);
        for gone in ["connection", "x-hop", "keep-alive", "proxy-authorization", "upgrade"] {
            assert!(told(&format!("field {gone}: ")).is_empty(), "{gone}: {}", reply.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_request_body_is_found_in_every_framing() {
    let platform = platform().await;
    for app in BOTH {
        for (fields_and_body, length, trailer) in [
            ("\r\n", 0, "no trailers"),
            ("content-length: 0\r\n\r\n", 0, "no trailers"),
            ("content-length: 3\r\n\r\nabc", 3, "no trailers"),
            ("transfer-encoding: chunked\r\n\r\n0\r\n\r\n", 0, "no trailers"),
            (
                "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n",
                5,
                "trailer x-sum: 5",
            ),
            // What frames a message has no place behind it.
            (
                "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 5\r\nContent-Length: 9\r\nTE: gzip\r\n\r\n",
                3,
                "trailer x-sum: 5",
            ),
            // With both, the length is what a proxy before us may have been fooled by: it does not reach the guest.
            (
                "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
                4,
                "no trailers",
            ),
        ] {
            let head =
                format!("POST /request HTTP/1.1\r\nhost: {app}.default.localhost\r\nconnection: close\r\n");
            let reply = platform.raw(head + fields_and_body).await;
            reply.tells(&[&format!("body: {length}"), trailer]);
            let is_framed = ["transfer-encoding", "trailer content-length", "trailer te"]
                .iter()
                .any(|field| reply.body.contains(field));
            assert!(!is_framed, "{}", reply.body);
            let told = reply.has("field content-length: 3");
            assert_eq!(told, fields_and_body.starts_with("content-length: 3\r\n\r\n"), "{}", reply.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_100_is_told_to_go_on_when_the_guest_reads() {
    let platform = platform().await;
    for app in BOTH {
        let head =
            format!("POST /request HTTP/1.1\r\nhost: {app}.default.localhost\r\nconnection: close\r\n");
        let reply = platform.raw(head + "content-length: 3\r\nexpect: 100-continue\r\n\r\nabc").await;
        assert_eq!(reply.head, "HTTP/1.1 100 Continue");
        reply.tells(&["HTTP/1.1 200 OK", "body: 3"]);
        assert!(!reply.body.contains("field expect"), "{}", reply.body);
        let head = format!(
            "POST /respond?body=no HTTP/1.1\r\nhost: {app}.default.localhost\r\nconnection: close\r\n"
        );
        let reply = platform.raw(head + "content-length: 3\r\nexpect: 100-continue\r\n\r\n").await;
        assert!(reply.has("HTTP/1.1 200 OK"), "a guest that does not read asks for nothing: {}", reply.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_come_after_the_body_by_http_2_too() {
    let platform = platform().await;
    for app in BOTH {
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("5"))]);
        let frames = [Frame::data(Bytes::from_static(b"abcde")), Frame::trailers(trailers)];
        let body = StreamBody::new(futures::stream::iter(frames.map(Ok))).boxed();
        let hostname = format!("{app}.default.localhost");
        let sent = Request::post("/request").header(HOST, hostname).body(body).unwrap();
        let told = platform.apps.send_by_http2(sent).await.unwrap().text();
        assert!(told.contains("body: 5\ntrailer x-sum: 5\n"), "{app}: {told}");
    }
}
