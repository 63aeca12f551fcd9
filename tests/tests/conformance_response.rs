//! The corners of an answer on its way from a guest, through the front door: what a guest may set, and what a client gets.
//!
//! The guests `conformance` (WASI 0.2) and `conformance-p3` (0.3) answer as they are asked to. `docs/guide/conformance.md` says
//! what differs from the specifications.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::HeaderValue;
use http::header::TE;
use wharf_tests::{HttpGuest, Platform, SHORT, eventually, request};

/// The guests of both WASI versions.
const BOTH: [&str; 2] = ["conformance", "conformance-p3"];

async fn platform() -> Platform {
    let platform = Platform::start().await;
    for guest in BOTH {
        platform.deploy(guest, guest, &[]).await;
    }
    platform
}

async fn is_logged(platform: &Platform, app: &str, text: &str) {
    eventually(SHORT, text, || async {
        platform.wharf(&["logs", app]).await.stdout.contains(text).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_sets_neither_the_fields_of_the_connection_nor_those_of_a_request() {
    let platform = platform().await;
    let forbidden = ["connection", "host", "keep-alive", "transfer-encoding", "upgrade"];
    for app in BOTH {
        let told = platform.text(app, "/fields").await;
        let has = |line: String| {
            assert!(told.lines().any(|told| told == line), "{app} is not told `{line}`: {told}")
        };
        for name in forbidden {
            has(format!("{name}: Err(HeaderError::Forbidden)"));
        }
        has("of the request: Err(HeaderError::Immutable)".to_owned());
        has("of a response: Err(HeaderError::Immutable)".to_owned());
        has("name with a space: Err(HeaderError::InvalidSyntax)".to_owned());
        has("value with a line break: Err(HeaderError::InvalidSyntax)".to_owned());
        has("two values: 2".to_owned());
    }
    let told = platform.text("conformance", "/fields").await;
    for line in [
        "from a list: Err(HeaderError::Forbidden)",
        "empty name: Err(HeaderError::InvalidSyntax)",
        "value with a zero: Err(HeaderError::InvalidSyntax)",
        "get of a bad name: []",
        "value beyond ascii: Ok(())",
        "empty value: Ok(())",
        "set anew: 1",
        "delete: Ok(()), has: false",
        "the copy: has: true",
    ] {
        assert!(told.contains(line), "`{line}` is not told: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_a_final_one_of_three_digits() {
    let platform = platform().await;
    for app in BOTH {
        for (status, line) in [
            (200, "HTTP/1.1 200 OK"),
            (204, "HTTP/1.1 204 No Content"),
            (418, "HTTP/1.1 418 I'm a teapot"),
            (599, "HTTP/1.1 599 <none>"),
            (100, "HTTP/1.1 502 Bad Gateway"),
            (101, "HTTP/1.1 502 Bad Gateway"),
            (103, "HTTP/1.1 502 Bad Gateway"),
            (99, "the status is refused"),
            (1000, "the status is refused"),
        ] {
            platform.raw_to(app, &format!("GET /respond?status={status} HTTP/1.1"), "").await.tells(&[line]);
        }
    }
    // The engine's WASI 0.3 ends at 599.
    platform
        .raw_to("conformance", "GET /respond?status=999 HTTP/1.1", "")
        .await
        .tells(&["HTTP/1.1 999 <none>"]);
    platform
        .raw_to("conformance-p3", "GET /respond?status=600 HTTP/1.1", "")
        .await
        .tells(&["the status is refused"]);
    is_logged(&platform, "conformance", "which is not a final status").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_has_no_body_is_sent_without_one() {
    let platform = platform().await;
    for app in BOTH {
        for line in [
            "GET /respond?status=204&body=x HTTP/1.1",
            "GET /respond?status=205&body=x HTTP/1.1",
            "GET /respond?status=304&body=x HTTP/1.1",
            "HEAD /respond?body=abc HTTP/1.1",
            "HEAD /respond?length=3&body=abc HTTP/1.1",
        ] {
            let reply = platform.raw_to(app, line, "").await;
            assert_eq!(reply.body, "", "{app}: {line}: {}", reply.head);
            let announces = reply.has("content-length: 3") || !line.contains("length=3");
            assert!(announces && !reply.has("transfer-encoding: chunked"), "{app}: {line}: {}", reply.head);
        }
        for (status, length) in [(204, None), (205, Some("0")), (304, None)] {
            let asked =
                request(&format!("{app}.default.localhost"), &format!("/respond?status={status}&body=x"));
            let reply = platform.apps.send_by_http2(asked).await.unwrap();
            assert_eq!((reply.status.as_u16(), reply.text().as_str()), (status, ""), "{app}");
            let told = reply.headers.get("content-length").map(|length| length.to_str().unwrap());
            assert_eq!(told, length, "{app}: {status}");
        }
        let reply = platform.raw_to(app, "GET /respond?length=0 HTTP/1.1", "").await;
        assert!(reply.has("content-length: 0") && reply.body.is_empty(), "{}", reply.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_as_long_as_it_was_announced_never_looks_whole() {
    let platform = platform().await;
    for app in BOTH {
        let short = platform.raw_to(app, "GET /respond?length=5&body=abc HTTP/1.1", "").await;
        assert!(!short.head.contains("200") || short.body.len() < 5, "{app}: {}", short.head);
        let long = platform.raw_to(app, "GET /respond?length=3&body=abcd HTTP/1.1", "").await;
        // The client reads as much as it was promised, or nothing; the fourth octet would be taken for another answer.
        assert!(long.body == "abc" || !long.head.contains("200"), "{app}: {} {}", long.head, long.body);
    }
    is_logged(&platform, "conformance", "finished: Err(ErrorCode::HttpResponseBodySize(Some(3)))").await;
    is_logged(&platform, "conformance", "finished: Err(ErrorCode::HttpResponseBodySize(Some(4)))").await;
    is_logged(&platform, "conformance-p3", "HttpResponseBodySize").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_or_failed_body_is_cut_so_that_the_client_notices() {
    let platform = platform().await;
    for (app, how) in [("conformance", "unfinished"), ("conformance-p3", "failed")] {
        let reply = platform.raw_to(app, &format!("GET /respond?body=abc&{how}=1 HTTP/1.1"), "").await;
        let whole = reply.head.contains("200") && reply.body.ends_with("0\r\n\r\n");
        assert!(!whole, "{app}: {}\n{}", reply.head, reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_response_broke_off_is_in_the_log_of_its_app() {
    let platform = Platform::start().await;
    platform.deploy("conformance", "conformance", &[]).await;
    let reply = platform.raw_to("conformance", "GET /respond?length=9&body=hello HTTP/1.1", "").await;
    assert!(!reply.head.contains("200") || reply.body.len() < 9, "{}\n{}", reply.head, reply.body);
    let broke_off = "the response broke off: the guest did not finish its body";
    is_logged(
        &platform,
        "conformance",
        &format!("{broke_off}; 4 octets of its `content-length` are missing"),
    )
    .await;
    platform.raw_to("conformance", "GET /respond?body=abc&unfinished=1 HTTP/1.1", "").await;
    is_logged(&platform, "conformance", &format!("{broke_off}\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_gives_an_error_or_nothing_is_502_and_its_log_says_which() {
    let platform = platform().await;
    for (app, path, logged) in [
        ("conformance", "/error?code=dns-error", "ErrorCode::DnsError"),
        ("conformance", "/error?code=connection-timeout", "ErrorCode::ConnectionTimeout"),
        ("conformance", "/error?code=http-request-body-size", "ErrorCode::HttpRequestBodySize(Some(7))"),
        ("conformance", "/drop", "it never set its `response-outparam`"),
        ("conformance-p3", "/error?code=dns-error", "DnsError"),
        ("conformance-p3", "/error?code=connection-timeout", "ConnectionTimeout"),
    ] {
        let reply = platform.get(app, path).await.unwrap();
        assert_eq!(
            (reply.status.as_u16(), &reply.headers["x-wharf-error"]),
            (502, &HeaderValue::from_static("guest_failed"))
        );
        is_logged(&platform, app, logged).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_follow_the_body() {
    let platform = platform().await;
    for app in BOTH {
        let mut asked = request(&format!("{app}.default.localhost"), "/respond?body=abc&trailer=end");
        asked.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        let reply = platform.apps.send_by_http2(asked).await.unwrap();
        assert_eq!(reply.text(), "abc");
        assert_eq!(reply.trailers["x-trailer"], "end");
    }
    // By HTTP/1.1 those that the answer has announced, to a client that takes them.
    let line = "GET /respond?body=abc&trailer=end&field=trailer:x-trailer HTTP/1.1";
    let reply = platform.raw_to("conformance", line, "te: trailers\r\n").await;
    assert!(reply.body.ends_with("\r\n0\r\nx-trailer: end\r\n\r\n"), "{}", reply.body);
    let reply = platform.raw_to("conformance", line, "").await;
    assert!(reply.body.ends_with("\r\n0\r\n\r\n"), "{}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_answers_twice_traps() {
    let platform = Platform::start().await;
    // The handle is gone with the first call.
    let again = "(call $set (local.get $out) (i32.const 0) (call $response (call $fields)) (i32.const 0) (i64.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))";
    let guest = HttpGuest { after_answer: again, ..HttpGuest::default() };
    platform.deploy_bytes(&guest.component(), "app = \"twice\"\n").await.ok();
    // It traps before the host has looked at what it set.
    assert_eq!(platform.get("twice", "/twice").await.unwrap().status, 502);
    is_logged(&platform, "twice", "unknown handle index").await;
}
