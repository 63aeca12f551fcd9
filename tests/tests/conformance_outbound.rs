//! Requests that a guest sends and that fail: each failure has the code that `wasi:http` has for it, in both WASI versions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use wharf_tests::Platform;

const BOTH: [&str; 2] = ["conformance", "conformance-p3"];

async fn platform() -> Platform {
    let platform = Platform::start().await;
    for guest in BOTH {
        let manifest = format!(
            "app = \"{guest}\"\n[outbound]\nallow = [\"http://127.0.0.1:*\", \"https://127.0.0.1:*\", \"http://*\"]\n"
        );
        platform.deploy_manifest(guest, &manifest).await.ok();
    }
    platform
}

/// A server that answers each request with these octets, and then closes the connection or keeps it open.
async fn server(reply: &'static [u8], closes: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(reply).await;
                if !closes {
                    // Until the other side has had enough.
                    while stream.read(&mut request).await.is_ok_and(|length| length > 0) {}
                }
            });
        }
    });
    address.to_string()
}

/// Both guests are told this when they send to this URL.
async fn both_are_told(platform: &Platform, url: &str, told: &str) {
    for app in BOTH {
        let text = platform.text(app, &format!("/send?url={url}")).await;
        assert!(text.contains(told), "{app} is told of {url}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_cannot_be_reached_has_the_code_of_its_reason() {
    let platform = platform().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    both_are_told(&platform, &format!("http://{gone}/"), "ConnectionRefused").await;
    both_are_told(&platform, "http://nothing.invalid/", "DnsError").await;
    both_are_told(&platform, "http://127.0.0.2:9/", "HttpRequestDenied").await;
    both_are_told(&platform, "https://example.com/", "HttpRequestDenied").await;
    // The name is granted, and the address that it leads to is not.
    for guest in BOTH {
        let app = format!("app = \"named-{guest}\"\n[outbound]\nallow = [\"http://localhost\"]\n");
        platform.deploy_manifest(guest, &app).await.ok();
        let text = platform.text(&format!("named-{guest}"), "/send?url=http://localhost/").await;
        assert!(text.contains("DestinationIpProhibited"), "{guest}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_the_protocol_has_the_code_of_how() {
    let platform = platform().await;
    for (reply, told) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..], "200 ok"),
        (b"", "HttpResponseIncomplete"),
        (b"HTTP/1.1 200 OK\r\nx-a: 1", "HttpResponseIncomplete"),
        (b"no http at all\r\n\r\n", "HttpProtocolError"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", "HttpResponseIncomplete"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", "HttpResponseIncomplete"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok", "HttpResponseTransferCoding"),
    ] {
        both_are_told(&platform, &format!("http://{}/", server(reply, true).await), told).await;
    }
    let many: &'static [u8] =
        [b"HTTP/1.1 200 OK\r\n", b"x-a: 1\r\n".repeat(200).as_slice(), b"\r\n"].concat().leak();
    both_are_told(
        &platform,
        &format!("http://{}/", server(many, true).await),
        "HttpResponseHeaderSectionSize",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_fails_is_told_apart_from_a_refused_connection() {
    let platform = platform().await;
    let no_tls = server(b"HTTP/1.1 400 Bad Request\r\n\r\n", true).await;
    both_are_told(&platform, &format!("https://{no_tls}/"), "TlsProtocolError").await;
    // What a server sends that has no certificate for us: the alert `handshake_failure`.
    let refuses = server(b"\x15\x03\x03\x00\x02\x02\x28", true).await;
    both_are_told(&platform, &format!("https://{refuses}/"), "TlsAlertReceived").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_the_three_timeouts_is_its_own() {
    let platform = platform().await;
    let mute = server(b"", false).await;
    both_are_told(&platform, &format!("http://{mute}/&first_ms=100"), "ConnectionReadTimeout").await;
    let stops = server(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", false).await;
    both_are_told(&platform, &format!("http://{stops}/&between_ms=100"), "ConnectionReadTimeout").await;

    // A listener whose queue is full: the kernel drops what knocks.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let fillers: Vec<_> = (0..8).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
    both_are_told(&platform, &format!("http://{address}/&connect_ms=200"), "ConnectionTimeout").await;
    fillers.iter().for_each(|filler| filler.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_as_long_as_it_was_announced_fails() {
    let platform = platform().await;
    let ok = server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true).await;
    for (announced, told) in [
        (3, "written: true\n200 ok\n"),
        (5, "written: true\nfinished: ErrorCode::HttpRequestBodySize(Some(3))\n"),
        (2, "written: false\nfinished: ErrorCode::HttpRequestBodySize(Some(3))\n"),
    ] {
        let text = platform
            .text("conformance", &format!("/send?url=http://{ok}/&body=abc&announced={announced}"))
            .await;
        assert!(text.starts_with(told), "{announced}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_refused_before_it_is() {
    let platform = platform().await;
    let told = platform.text("conformance", "/outgoing").await;
    for line in [
        "as it is made: Method::Get None None None",
        "method PROPFIND: true",
        "method with a space: false",
        "path with a space: false",
        "path with a query: true",
        "authority with a port: true",
        "authority with a slash: false",
        "scheme with a space: false",
        "its fields: Err(HeaderError::Immutable)",
        "its body: true",
        "its body again: false",
        "no timeout: None",
        "set a timeout: Ok(Some(5))",
        "another scheme is sent: ErrorCode::HttpProtocolError",
        "no authority is sent: ErrorCode::HttpRequestUriInvalid",
    ] {
        assert!(told.lines().any(|had| had == line), "`{line}` is not told: {told}");
    }
}
