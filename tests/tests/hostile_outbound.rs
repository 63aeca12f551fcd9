//! Guests that reach for what they must not reach, by names that lie, or for more than their share.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use wharf_tests::{NameServer, Platform, SHORT, Siege, Start, eventually};

const KEEPS_MIB: u64 = 128;

/// A server outside of the platform, which counts who has connected to it.
#[derive(Clone, Default)]
struct Outside {
    all: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Outside {
    /// At an address of the loopback; `answers`: it does not only listen.
    async fn spawn(address: &str, port: u16, answers: bool) -> (Self, u16) {
        let listener = TcpListener::bind((address, port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let outside = Self::default();
        let counts = outside.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counts = counts.clone();
                counts.all.fetch_add(1, Ordering::SeqCst);
                let open = counts.open.fetch_add(1, Ordering::SeqCst) + 1;
                counts.most.fetch_max(open, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        if answers {
                            let reply =
                                "HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\noutside\n";
                            let _ = stream.write_all(reply.as_bytes()).await;
                            break;
                        }
                    }
                    counts.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        (outside, port)
    }

    fn all(&self) -> usize {
        self.all.load(Ordering::SeqCst)
    }
}

fn addresses(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

/// A siege whose platform asks this name server, and an app that fetches what it is told to, with these grants.
async fn siege_with(names: &NameServer, grants: &[String]) -> Siege {
    let start = Start { name_server: Some(names.address), ..Start::default() };
    let siege = Siege::begin_on(Platform::start_with(start).await).await;
    let manifest = format!("app = \"bad\"\n[outbound]\nallow = {grants:?}\n");
    siege.platform.deploy_manifest("stream", &manifest).await.ok();
    siege
}

async fn fetch(siege: &Siege, name: &str, port: u16) -> (u16, String) {
    let reply = siege.attack("bad", &format!("/fetch?url=http://{name}:{port}/")).await;
    (reply.status.as_u16(), reply.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_resolves_to_an_address_inside_gets_nowhere() {
    let inside = [
        ("loopback.test", "127.0.0.1"),
        ("loopback6.test", "::1"),
        ("mapped.test", "::ffff:127.0.0.1"),
        ("metadata.test", "169.254.169.254"),
        ("private.test", "10.0.0.1"),
        ("unspecified.test", "0.0.0.0"),
    ];
    let answers = inside.map(|(name, address)| (name, vec![addresses(&[address])]));
    let Some(names) = NameServer::spawn(HashMap::from(answers)).await else { return };
    let (outside, port) = Outside::spawn("127.0.0.1", 0, true).await;
    let siege = siege_with(&names, &["http://*".to_owned(), format!("http://*.test:{port}")]).await;
    for (name, _) in inside {
        let (status, text) = fetch(&siege, name, port).await;
        assert_eq!(status, 502, "{name}: {text}");
        assert!(text.contains("DestinationIpProhibited"), "{name}: {text}");
    }
    assert_eq!(outside.all(), 0);
    assert!(names.asked("loopback.test") > 0, "the platform asked somebody else");
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_changes_its_mind_is_checked_for_each_connection() {
    let (good, bad) = (addresses(&["127.0.0.2"]), addresses(&["127.0.0.1"]));
    let answers = HashMap::from([("rebind.test", vec![good, bad])]);
    let Some(names) = NameServer::spawn(answers).await else { return };
    let (granted, port) = Outside::spawn("127.0.0.2", 0, true).await;
    let (forbidden, _) = Outside::spawn("127.0.0.1", port, true).await;
    let grants = [format!("http://rebind.test:{port}"), format!("http://127.0.0.2:{port}")];
    let siege = siege_with(&names, &grants).await;
    for turn in 1..=10 {
        let (status, text) = fetch(&siege, "rebind.test", port).await;
        // Whoever asked a second time, after the check, would get the other address.
        assert_eq!(names.asked("rebind.test"), turn, "each connection asks once");
        assert_eq!(status, if turn % 2 == 1 { 200 } else { 502 }, "{turn}: {text}");
    }
    assert_eq!((granted.all(), forbidden.all()), (5, 0));
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_addresses_only_granted_ones_are_tried() {
    // Nobody listens at the first, and the second one is not granted.
    let answers = HashMap::from([("both.test", vec![addresses(&["127.0.0.3", "127.0.0.1"])])]);
    let Some(names) = NameServer::spawn(answers).await else { return };
    let (forbidden, port) = Outside::spawn("127.0.0.1", 0, true).await;
    let grants = [format!("http://both.test:{port}"), format!("http://127.0.0.3:{port}")];
    let siege = siege_with(&names, &grants).await;
    for _ in 0..4 {
        let (status, text) = fetch(&siege, "both.test", port).await;
        assert_eq!(status, 502, "{text}");
    }
    assert_eq!(forbidden.all(), 0);
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_become_as_many_as_one_instance_may_have() {
    let siege = Siege::begin().await;
    let (outside, port) = Outside::spawn("127.0.0.1", 0, false).await;
    let address = format!("http://127.0.0.1:{port}");
    let manifest = format!("app = \"bad\"\n[outbound]\nallow = [\"{address}\"]\n");
    siege.platform.deploy_manifest("hostile", &manifest).await.ok();
    let path = format!("/connections?n=1000&url={address}");
    let replies = futures::future::join_all((0..10).map(|_| siege.attack("bad", &path))).await;
    let told: Vec<String> = replies.iter().map(|reply| reply.text()).collect();
    assert!(replies.iter().all(|reply| reply.status == 200), "{told:?}");
    assert!(told.iter().any(|told| told.contains("ConnectionLimitReached")), "{told:?}");
    let most = outside.most.load(Ordering::SeqCst);
    // A server may see the next one come before it sees the last one go.
    assert!((1..=2 * 256).contains(&most), "{most} connections at once");
    siege.platform.text("bad", "/").await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_leave_file_handles_to_others() {
    let siege = Siege::begin().await;
    let manifest =
        "app = \"bad\"\n[limits]\nmemory = \"1GiB\"\n[outbound]\nallow = [\"tcp://127.0.0.1:1\"]\n";
    siege.platform.deploy_manifest("hostile", manifest).await.ok();
    let attacks = futures::future::join_all((0..8).map(|_| siege.attack("bad", "/sockets")));
    let replies = tokio::select! {
        replies = attacks => replies,
        // Connections of the load are open already; a new one has to be accepted.
        never = async { loop { ask_anew(&siege).await } } => never,
    };
    assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
    siege.end(KEEPS_MIB).await;
}

/// Asks the neighbour over a new connection, which must be answered before the sockets are closed.
async fn ask_anew(siege: &Siege) {
    let address = siege.platform.ready.http.trim_start_matches("http://");
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    connection.write_all(b"GET / HTTP/1.0\r\nhost: hello.default.localhost\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), connection.read_to_string(&mut reply)).await;
    assert!(read.is_ok() && reply.contains("Hello"), "nobody accepts a connection: {reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_answers_for_hold_up_nobody_else() {
    let Some(names) = NameServer::spawn(HashMap::from([("silent.test", Vec::new())])).await else { return };
    let start = Start { name_server: Some(names.address), ..Start::default() };
    let siege = Siege::begin_on(Platform::start_with(start).await).await;
    for app in ["bad", "worse"] {
        let manifest = format!("app = \"{app}\"\n[outbound]\nallow = [\"http://silent.test\"]\n");
        siege.platform.deploy_manifest("hostile", &manifest).await.ok();
    }
    let attack = |app| siege.attack(app, "/connections?n=500&url=http://silent.test");
    let attacks = futures::future::join4(attack("bad"), attack("worse"), attack("bad"), attack("worse"));
    let (replies, ()) = futures::future::join(attacks, deploy_while_asked(&siege, &names)).await;
    assert!([replies.0, replies.1, replies.2, replies.3].iter().all(|reply| reply.status == 200));
    // Two instances, eight lookups each, two questions for each lookup: 32 every four seconds, for as long as a busy machine takes.
    let asked = names.asked("silent.test");
    assert!(asked < 300, "{asked} questions about two thousand connections");
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_sockets_look_up_are_as_few_at_once() {
    let Some(names) = NameServer::spawn(HashMap::from([("silent.test", Vec::new())])).await else { return };
    let start = Start { name_server: Some(names.address), ..Start::default() };
    let siege = Siege::begin_on(Platform::start_with(start).await).await;
    let manifest =
        "app = \"bad\"\n[limits]\ntimeout = \"1m\"\n[outbound]\nallow = [\"tcp://silent.test:1\"]\n";
    siege.platform.deploy_manifest("hostile", manifest).await.ok();
    let attack = siege.attack("bad", "/names?n=500&name=silent.test");
    let (reply, ()) = futures::future::join(attack, deploy_while_asked(&siege, &names)).await;
    let (status, told) = (reply.status, reply.text());
    assert!(status == 200 && told.contains("temporary-resolver-failure"), "{status}: {told}");
    // Eight at once for ten seconds, two questions for each.
    let asked = names.asked("silent.test");
    assert!(asked < 150, "{asked} questions about five hundred lookups");
    let told = siege.attack("bad", "/names?n=1&name=hello.INTERNAL.").await.text();
    assert_eq!(told, "name-unresolvable: 1\n");
    assert_eq!(names.asked("hello.internal"), 0, "a name of the platform has left it");
    siege.end(KEEPS_MIB).await;
}

/// Deploys an app that serves, once `silent.test` is asked for: the worker maps and reads files by the threads that lookups take.
async fn deploy_while_asked(siege: &Siege, names: &NameServer) {
    let asked = || async { (names.asked("silent.test") > 0).then_some(()) };
    eventually(SHORT, "the names are asked for", asked).await;
    siege.platform.deploy("hello-plain", "late", &[]).await;
    siege.platform.text("late", "/").await;
}
