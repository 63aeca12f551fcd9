//! What a guest may reach: other apps and addresses that its release lists, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;
use wharf_tests::{Platform, SHORT, within};

/// The guest `stream`, which fetches what it is told to, with these grants.
async fn deploy_fetcher(platform: &Platform, grants: &[&str]) {
    let manifest = format!("app = \"fetcher\"\n[outbound]\nallow = {grants:?}\n");
    platform.deploy_manifest("stream", &manifest).await.ok();
}

async fn fetch(platform: &Platform, url: &str) -> (u16, String) {
    let reply = platform.get("fetcher", &format!("/fetch?url={url}")).await.unwrap();
    (reply.status.as_u16(), reply.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_calls_another_by_its_name_when_that_is_granted() {
    let platform = Platform::start().await;
    platform.deploy("hello", "hello", &[]).await;
    deploy_fetcher(&platform, &["http://hello.internal"]).await;
    assert_eq!(fetch(&platform, "http://hello.internal/").await, (200, "Hello from WASI 0.2\n".to_owned()));
    // A new release of the other app is what the next call meets.
    platform.deploy("hello", "hello", &["-e", "GREETING=changed"]).await;
    assert_eq!(fetch(&platform, "http://hello.internal/").await, (200, "changed\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_not_granted_is_not_called() {
    let platform = Platform::start().await;
    platform.deploy("hello", "hello", &[]).await;
    deploy_fetcher(&platform, &["http://other.internal", "https://*"]).await;
    let (status, text) = fetch(&platform, "http://hello.internal/").await;
    assert_eq!(status, 502, "{text}");
    assert!(!text.contains("Hello from"), "{text}");
    // Granted, but there is no such app: the caller is told, and goes on.
    assert_ne!(fetch(&platform, "http://other.internal/").await.0, 200);
    platform.text("fetcher", "/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_another_namespace_is_not_called() {
    let platform = Platform::start().await;
    platform.wharf(&["namespace", "create", "other"]).await.ok();
    platform.deploy("hello", "hello", &["-n", "other"]).await;
    deploy_fetcher(&platform, &["http://hello.internal"]).await;
    let (status, text) = fetch(&platform, "http://hello.internal/").await;
    assert_ne!(status, 200, "{text}");
}

/// A server outside of the platform, which counts those who connect.
struct Outside {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Outside {
    async fn spawn() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    // One small request fits into one read, or the rest of it does not matter.
                    let _ = stream.read(&mut [0; 4096]).await;
                    let reply = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\noutside\n";
                    let _ = stream.write_all(reply.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { port, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_reached_when_it_is_granted() {
    let (platform, outside) = (Platform::start().await, Outside::spawn().await);
    let address = format!("http://127.0.0.1:{}", outside.port);
    deploy_fetcher(&platform, &[&address]).await;
    assert_eq!(fetch(&platform, &format!("{address}/")).await, (200, "outside\n".to_owned()));
    assert_eq!(outside.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_never_connected_to() {
    let (platform, outside) = (Platform::start().await, Outside::spawn().await);
    let port = outside.port;
    let (address, name) = (format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}"));
    let other_port = format!("http://127.0.0.1:{}", if port == 1 { 2 } else { port - 1 });
    // Nothing; every public address; another port; a name that resolves to an address which only itself may be granted.
    for grants in [&[][..], &["http://*", "https://*"], &[&other_port], &[&name]] {
        deploy_fetcher(&platform, grants).await;
        for url in [&address, &name] {
            let (status, text) = fetch(&platform, &format!("{url}/")).await;
            assert_eq!(status, 502, "{grants:?} let it reach {url}: {text}");
        }
    }
    assert_eq!(outside.connections(), 0);
    platform.text("fetcher", "/").await;
}

/// Takes so many octets at a port of its own, which it tells first; how long that took from the first one on. Nobody answers.
async fn take(by: &'static str, octets: usize, port: oneshot::Sender<u16>) -> Duration {
    let (mut left, mut began) = (octets, None);
    let mut piece = vec![0; 64 << 10];
    let mut has_all = |length: usize| {
        let began: Instant = *began.get_or_insert_with(Instant::now);
        left = left.saturating_sub(length);
        (left == 0).then(|| began.elapsed())
    };
    if by == "tcp" {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        port.send(listener.local_addr().unwrap().port()).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        loop {
            let length = stream.read(&mut piece).await.unwrap();
            assert!(length > 0, "it has ended before");
            if let Some(elapsed) = has_all(length) {
                return elapsed;
            }
        }
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    port.send(socket.local_addr().unwrap().port()).unwrap();
    loop {
        if let Some(elapsed) = has_all(socket.recv(&mut piece).await.unwrap()) {
            return elapsed;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_guests_send_over_sockets_of_their_own_leaves_no_faster_than_the_quota() {
    let platform = Platform::start().await;
    platform.wharf(&["quota", "set", "-n", "default", "--egress", "50KB"]).await.ok();
    for guest in ["conformance-command", "conformance-command-p3"] {
        for by in ["tcp", "udp"] {
            let (port, bound) = oneshot::channel();
            let taking = tokio::spawn(take(by, 250_000, port));
            let port = bound.await.unwrap();
            let app = format!("{guest}-{by}");
            let manifest = format!(
                "app = \"{app}\"\nargs = [\"flood\", \"{by}\", \"{port}\", \"250000\"]\n[outbound]\nallow = [\"{by}://127.0.0.1:{port}\"]\n"
            );
            platform.deploy_manifest(guest, &manifest).await.ok();
            let took = within(SHORT, "all octets", taking).await.unwrap();
            // A second's worth leaves at once, and the last piece before it is paid for.
            assert!(took >= Duration::from_secs(2), "{app}: {took:?}");
            platform.wharf(&["delete", &app, "--yes"]).await.ok();
        }
    }
}
