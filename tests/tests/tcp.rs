//! Services on TCP ports: reached from outside, through rollouts, crashes and changes of scale.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use wharf_tests::{Platform, Ran, SHORT, eventually, within};
use wharf_types::api::RolloutInfo;
use wharf_types::state::RolloutState;

/// A port that nobody uses now, and that the kernel gives to nobody who asks for any.
async fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Processes begin at different places, and the tests of one go on from there.
        let port = 10_000 + (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return port;
        }
    }
}

/// Deploys the echo server with this public port, this greeting and more lines of the manifest.
async fn deploy(platform: &Platform, port: u16, greeting: &str, more: &str) -> Ran {
    let manifest = format!(
        "app = \"echo\"\n{more}\n[tcp]\nports = [{port}]\n[env]\nGREETING = \"{greeting}\"\n[update]\nmonitor = \"100ms\"\n"
    );
    platform.deploy_manifest("echo-tcp", &manifest).await
}

/// A client that has been greeted.
struct Client {
    stream: BufReader<TcpStream>,
    greeting: String,
}

impl Client {
    async fn connect(port: u16) -> Self {
        Self::try_connect(port).await.unwrap()
    }

    async fn try_connect(port: u16) -> std::io::Result<Self> {
        let stream = within(SHORT, "a connection", TcpStream::connect(("127.0.0.1", port))).await?;
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        if within(SHORT, "a greeting", stream.read_line(&mut greeting)).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { stream, greeting })
    }

    async fn echoes(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        let mut back = vec![0; text.len()];
        within(SHORT, "the echo", self.stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(String::from_utf8(back).unwrap(), text);
    }

    /// Everything until the end, which must come in good order.
    async fn finish(mut self) -> String {
        self.stream.shutdown().await.unwrap();
        let mut rest = String::new();
        within(SHORT, "the end", self.stream.read_to_string(&mut rest)).await.unwrap();
        rest
    }

    /// Waits until the connection is cut.
    async fn ends_by_a_cut(mut self) {
        let mut rest = Vec::new();
        let end = within(SHORT, "the connection is cut", self.stream.read_to_end(&mut rest)).await;
        assert!(end.is_err(), "it ended in good order, as if the server had finished: {rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_reached_at_its_port_and_hears_that_a_client_has_finished() {
    let platform = Platform::start().await;
    let port = free_port().await;
    let deployed = deploy(&platform, port, "hello", "").await;
    assert!(deployed.ok().contains("listen"), "the release asks for its port");
    let status = platform.wharf(&["status", "echo"]).await.ok();
    assert!(status.contains(&format!("  tcp://127.0.0.1:{port}")), "{status}");

    let mut client = Client::connect(port).await;
    client.echoes("first").await;
    let large = "0123456789abcdef".repeat(1 << 14);
    let sent = large.clone();
    let (mut from, mut to) = tokio::io::split(client.stream);
    let sending = tokio::spawn(async move {
        to.write_all(sent.as_bytes()).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut back = String::new();
    within(SHORT, "all that was sent, and the end", from.read_to_string(&mut back)).await.unwrap();
    sending.await.unwrap();
    assert!(back == large, "{} octets of {} came back", back.len(), large.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_rollout_new_connections_meet_the_new_release_and_old_ones_may_finish() {
    let platform = Platform::start().await;
    let port = free_port().await;
    let drain = "[stop]\ndrain = \"4s\"\n";
    deploy(&platform, port, "one", drain).await.ok();
    let (mut old, finishing) = (Client::connect(port).await, Client::connect(port).await);
    assert!(old.greeting.starts_with("one from port "), "{}", old.greeting);

    deploy(&platform, port, "two", drain).await.ok();
    let mut new = Client::connect(port).await;
    assert!(new.greeting.starts_with("two from port "), "{}", new.greeting);
    old.echoes("still here").await;
    assert_eq!(finishing.finish().await, "");
    old.ends_by_a_cut().await;
    new.echoes("here to stay").await;
    eventually(SHORT, "the log says that connections were cut", || async {
        let log = platform.wharf(&["logs", "echo"]).await.ok();
        log.contains("connections were still open after 4s and have been cut").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_comes_back_at_the_same_port() {
    let platform = Platform::start().await;
    let port = free_port().await;
    deploy(&platform, port, "hello", "").await.ok();
    // Until then, a crash would be held against the release.
    let succeeded = |rollout: &RolloutInfo| rollout.state == RolloutState::Succeeded;
    platform.app_is("echo", "through its rollout", |info| info.rollout.as_ref().is_some_and(succeeded)).await;
    let (mut killer, mut bystander) = (Client::connect(port).await, Client::connect(port).await);
    killer.stream.write_all(b"exit\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = within(SHORT, "the end", killer.stream.read_to_end(&mut rest)).await;
    let _ = within(SHORT, "the end of the others", bystander.stream.read_to_end(&mut rest)).await;

    let mut client =
        eventually(SHORT, "the server is back", || async { Client::try_connect(port).await.ok() }).await;
    client.echoes("welcome back").await;
    platform
        .app_is("echo", "ready again after a restart", |info| {
            info.ready == 1 && info.instances.iter().any(|instance| instance.restarts == 1)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_the_connections_and_none_resets_them() {
    let platform = Platform::start().await;
    let port = free_port().await;
    deploy(&platform, port, "hello", "[scale]\nreplicas = 2\n").await.ok();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(port).await);
    }
    let mut greetings: Vec<_> = clients.iter().map(|client| client.greeting.clone()).collect();
    greetings.sort();
    assert_eq!((&greetings[0], &greetings[2]), (&greetings[1], &greetings[3]), "two each");
    assert_ne!(greetings[0], greetings[2]);
    drop(clients);

    platform.wharf(&["scale", "echo=0"]).await.ok();
    let reset = eventually(SHORT, "connections are refused", || async {
        Client::try_connect(port).await.err().map(|error| error.kind())
    })
    .await;
    assert_eq!(reset, std::io::ErrorKind::ConnectionReset, "the port stays the app's");
    eventually(SHORT, "the log says why", || async {
        let log = platform.wharf(&["logs", "echo"]).await.ok();
        log.contains("no instance is ready").then_some(())
    })
    .await;
    platform.wharf(&["scale", "echo=1"]).await.ok();
    eventually(SHORT, "it serves again", || async { Client::try_connect(port).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_more_than_allowed_is_reset() {
    let platform = Platform::start().await;
    let port = free_port().await;
    deploy(&platform, port, "hello", "[limits]\nconcurrency = 2\n").await.ok();
    // The health check may be there for a moment longer, but it does not come through the front door.
    let (mut first, second) = (Client::connect(port).await, Client::connect(port).await);
    let refused = Client::try_connect(port).await.err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
    first.echoes("undisturbed").await;
    second.finish().await;
    eventually(SHORT, "the place is free again", || async { Client::try_connect(port).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_asks_for_it_is_told_who_the_client_is() {
    let platform = Platform::start().await;
    let port = free_port().await;
    let manifest = format!("app = \"echo\"\n[tcp]\nports = [{port}]\nproxy_protocol = true\n");
    platform.deploy_manifest("echo-tcp", &manifest).await.ok();
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let from = client.local_addr().unwrap().port();
    // The guest sends back what it gets: first the header.
    let mut header = [0; 28];
    within(SHORT, "the header", client.read_exact(&mut header)).await.unwrap();
    assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!(header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
    assert_eq!(header[24..], [from.to_be_bytes(), port.to_be_bytes()].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_has_one_app_and_is_free_again_when_that_is_deleted() {
    let platform = Platform::start().await;
    let port = free_port().await;
    deploy(&platform, port, "hello", "").await.ok();
    let rival = format!("app = \"rival\"\n[tcp]\nports = [{port}]\n");
    let refused = platform.deploy_manifest("echo-tcp", &rival).await;
    refused.fails(7, &["belongs to the app `echo`", &port.to_string()]);
    let platforms = platform.ready.http.rsplit(':').next().unwrap();
    let own = format!("app = \"rival\"\n[tcp]\nports = [{platforms}]\n");
    platform.deploy_manifest("echo-tcp", &own).await.fails(6, &["the platform itself listens"]);

    platform.wharf(&["delete", "echo", "--yes"]).await.ok();
    eventually(SHORT, "the port is closed", || async {
        let error = TcpStream::connect(("127.0.0.1", port)).await.err()?;
        (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    })
    .await;
    eventually(SHORT, "the other app gets it", || async {
        (platform.deploy_manifest("echo-tcp", &rival).await.code == 0).then_some(())
    })
    .await;
    TcpStream::connect(("127.0.0.1", port)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_program_has_is_opened_once_that_ends() {
    let platform = Platform::start().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = other.local_addr().unwrap().port();
    deploy(&platform, port, "hello", "").await.ok();
    eventually(SHORT, "the log says that the port is in use", || async {
        let log = platform.wharf(&["logs", "echo"]).await.ok();
        log.contains(&format!("port {port}: the port cannot be opened")).then_some(())
    })
    .await;
    drop(other);
    eventually(SHORT, "the port is open", || async { Client::try_connect(port).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_listen_is_never_ready_and_the_deploy_says_so() {
    let platform = Platform::start().await;
    let port = free_port().await;
    let deadline = "[update]\nprogress_deadline = \"1s\"\n";
    let manifest = format!("app = \"mute\"\n{deadline}[tcp]\nports = [{port}]\n");
    let failed = platform.deploy_manifest("ticker", &manifest).await;
    failed.fails(5, &[&format!("does not listen for port {port}"), "its variable PORT"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_can_listen_nowhere_but_at_its_own_port() {
    let platform = Platform::start().await;
    let (port, other) = (free_port().await, free_port().await);
    let manifest =
        |address: &str| format!("app = \"echo\"\nargs = [\"{address}\"]\n[tcp]\nports = [{port}]\n");
    for address in [format!("127.0.0.1:{other}"), format!("0.0.0.0:{port}"), "127.0.0.1:0".to_owned()] {
        let failed = platform.deploy_manifest("echo-tcp", &manifest(&address)).await;
        failed.fails(5, &["exit code 1"]);
    }
    // Without a port of its own, it cannot even make a socket.
    let failed = platform.deploy_manifest("echo-tcp", "app = \"alone\"\n").await;
    failed.fails(5, &["exit code 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_open_when_the_platform_stops_may_finish() {
    let mut platform = Platform::start().await;
    let port = free_port().await;
    deploy(&platform, port, "hello", "").await.ok();
    let client = Client::connect(port).await;
    platform.signal(nix::sys::signal::Signal::SIGTERM);
    eventually(SHORT, "no new connection is taken", || async {
        TcpStream::connect(("127.0.0.1", port)).await.err().map(drop)
    })
    .await;
    assert_eq!(client.finish().await, "", "an open one may finish");
    assert!(platform.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_an_app_counts_also_where_the_platform_stops() {
    let mut platform = Platform::start().await;
    let port = free_port().await;
    deploy(&platform, port, "hello", "[stop]\ndrain = \"1s\"\n").await.ok();
    let client = Client::connect(port).await;
    let began = Instant::now();
    platform.signal(nix::sys::signal::Signal::SIGTERM);
    client.ends_by_a_cut().await;
    assert!(platform.ended().await.success());
    let took = began.elapsed();
    // Thirty seconds are for what is led to other nodes, of which there are none.
    assert!(Duration::from_secs(1) <= took && took < Duration::from_secs(20), "{took:?}");
}
