//! Hosts that have died, stand still, are not who they should be, or send nonsense.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wharf_types::NodeId;

use crate::fixture::{closes, read_reply, until, within};
use crate::mesh::{Authority, Mesh, Passes, Wall, bind, within_a_second};

/// An address where nobody listens.
async fn nowhere() -> std::net::SocketAddr {
    bind().await.local_addr().unwrap()
}

#[tokio::test]
async fn a_host_that_refuses_connections_is_passed_over_and_comes_back() {
    let mut mesh = Mesh::of(3).await;
    let alive = mesh.addresses[1];
    mesh.addresses[1] = nowhere().await;
    mesh.place(&[1, 2]).await;
    let near = &mesh.hosts[0];
    within(async {
        while near.figures().ejections == 0 {
            assert_eq!(near.get("/").await.status, 200);
        }
    })
    .await;
    let figures = near.figures();
    assert_eq!((figures.ejected, figures.unreachable, figures.retried, figures.lost), (1, 1, 1, 0));
    // Others can be asked, so nobody is sent there, however long it lasts.
    for _ in 0..30 {
        assert_eq!(near.get("/").await.status, 200);
    }
    assert_eq!((near.figures().unreachable, near.codes()), (1, vec![]));
    mesh.addresses[1] = alive;
    mesh.place(&[1, 2]).await;
    until(|| mesh.hosts[0].figures().ejected == 0).await;
    within(async {
        while mesh.hosts[1].guest.calls() == 0 {
            assert_eq!(mesh.hosts[0].get("/").await.status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn where_every_host_is_ejected_they_are_tried_anyway() {
    let mut mesh = Mesh::of(2).await;
    let alive = mesh.addresses[1];
    mesh.addresses[1] = nowhere().await;
    let instances = mesh.place(&[1]).await;
    assert_eq!(mesh.hosts[0].get("/").await.header("x-wharf-error"), Some("no_ready_instance"));
    let detail = mesh.hosts[0].errors.lock().unwrap()[0].detail.clone().unwrap();
    assert!(detail.contains(&mesh.hosts[1].node.to_string()) && detail.contains("refused"), "{detail}");
    mesh.addresses[1] = alive;
    let table = mesh.table(&[(instances[0], 1)], 0);
    mesh.route(table).await;
    // It need not wait for a probe.
    assert_eq!(mesh.hosts[0].get("/").await.status, 200);
    assert_eq!(mesh.hosts[0].figures().ejected, 0);
}

#[tokio::test]
async fn a_host_that_accepts_and_never_answers_is_ejected_within_a_second() {
    let mut mesh = Mesh::of(3).await;
    let silent = bind().await;
    mesh.addresses[1] = silent.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok(accepted) = silent.accept().await {
            open.push(accepted);
        }
    });
    mesh.place(&[1, 2]).await;
    let near = &mesh.hosts[0];
    let began = Instant::now();
    while near.figures().ejections == 0 {
        let reply = within_a_second(near.get("/")).await;
        assert_eq!(reply.status, 200);
        assert!(began.elapsed() < Duration::from_secs(15));
    }
    for _ in 0..30 {
        let began = Instant::now();
        assert_eq!(near.get("/").await.status, 200);
        assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
    }
    assert_eq!(near.codes(), [""; 0]);
}

/// Three hosts of which the second has a wall before it, and is well known to the first.
async fn behind_a_wall() -> (Mesh, Wall) {
    let mut mesh = Mesh::of(3).await;
    let wall = Wall::before(mesh.addresses[1]).await;
    mesh.addresses[1] = wall.address;
    mesh.place(&[1]).await;
    assert_eq!(mesh.hosts[0].get("/").await.status, 200);
    (mesh, wall)
}

#[tokio::test]
async fn a_host_without_power_is_noticed_within_a_second_while_requests_are_under_way() {
    let (mut mesh, wall) = behind_a_wall().await;
    let mut waits = mesh.hosts[0].begin("/wait").await;
    until(|| mesh.hosts[1].guest.running() == 1).await;
    wall.set(Passes::Nothing);
    within_a_second(until(|| mesh.hosts[0].figures().ejected == 1)).await;
    mesh.place(&[1, 2]).await;
    let near = &mesh.hosts[0];
    for _ in 0..30 {
        assert_eq!(within_a_second(near.get("/")).await.status, 200);
    }
    assert_eq!(mesh.hosts[1].guest.calls(), 2);
    // It was only a moment: the request that was under way has not been cut, and the host is asked again.
    wall.set(Passes::All);
    until(|| near.figures().ejected == 0).await;
    mesh.hosts[1].guest.go_on.add_permits(1);
    assert_eq!(read_reply(&mut waits).await.body, "waited");
    assert_eq!(near.figures().lost, 0);
}

#[tokio::test]
async fn a_request_on_a_host_that_stays_without_power_ends_and_is_sent_to_nobody_else() {
    let (mut mesh, wall) = behind_a_wall().await;
    let mut waits = mesh.hosts[0].begin("/wait").await;
    until(|| mesh.hosts[1].guest.running() == 1).await;
    mesh.place(&[1, 2]).await;
    wall.set(Passes::Nothing);
    let began = Instant::now();
    let reply = read_reply(&mut waits).await;
    assert_eq!((reply.status, reply.header("x-wharf-error")), (502, Some("node_lost")));
    assert!(began.elapsed() > Duration::from_millis(1500), "a node that only stood still has its lease");
    assert_eq!((mesh.hosts[0].figures().lost, mesh.hosts[2].guest.calls()), (1, 0));
    // The guest is freed, too, as nobody is left to answer to.
    until(|| mesh.hosts[1].guest.running() == 0).await;
}

#[tokio::test]
async fn nothing_is_lost_on_a_connection_that_has_died_while_nobody_used_it() {
    let (mut mesh, wall) = behind_a_wall().await;
    mesh.place(&[1, 2]).await;
    wall.set(Passes::Nothing);
    // Only what was heard lately is believed to be there, and nothing but time makes it late.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let near = &mesh.hosts[0];
    while near.figures().ejections == 0 {
        let reply = within_a_second(near.get("/")).await;
        assert_eq!(reply.status, 200);
    }
    assert_eq!((near.figures().lost, near.codes()), (0, vec![]));
}

#[tokio::test]
async fn a_process_that_is_killed_takes_along_only_what_it_was_asked() {
    let (mut mesh, wall) = behind_a_wall().await;
    let mut waits = mesh.hosts[0].begin("/wait").await;
    until(|| mesh.hosts[1].guest.running() == 1).await;
    mesh.place(&[1, 2]).await;
    wall.set(Passes::Cut);
    let reply = within_a_second(read_reply(&mut waits)).await;
    assert_eq!((reply.status, reply.header("x-wharf-error")), (502, Some("node_lost")));
    for _ in 0..30 {
        assert_eq!(within_a_second(mesh.hosts[0].get("/")).await.status, 200);
    }
    assert_eq!(mesh.hosts[0].figures().lost, 1);
    within_a_second(until(|| mesh.hosts[1].guest.running() == 0)).await;
}

#[tokio::test]
async fn an_answer_that_a_host_leaves_unfinished_does_not_look_whole() {
    let (mesh, wall) = behind_a_wall().await;
    let stream = mesh.hosts[1].guest.stream();
    let mut socket = mesh.hosts[0].begin("/stream").await;
    stream.unbounded_send(http_body::Frame::data("begun".into())).unwrap();
    crate::fixture::read_until(&mut socket, "begun").await;
    wall.set(Passes::Cut);
    let mut rest = String::new();
    let _ = within(socket.read_to_string(&mut rest)).await;
    assert!(!rest.contains("0\r\n\r\n"), "{rest}");
}

/// A connection of TLS to a host's listener for peers.
async fn shake(mesh: &Mesh, client: Arc<rustls::ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(mesh.hosts[1].peer_address).await.unwrap();
    let name = ServerName::try_from(format!("{}.node.wharf.internal", mesh.hosts[1].node)).unwrap();
    TlsConnector::from(client).connect(name, socket).await
}

/// Whether somebody with this configuration is answered.
async fn is_answered(mesh: &Mesh, client: Arc<rustls::ClientConfig>) -> bool {
    let Ok(stream) = within(shake(mesh, client)).await else { return false };
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let Ok((mut sender, connection)) = shaken else { return false };
    tokio::spawn(connection);
    let request = Request::builder().uri("http://x/").header("wharf-peer-probe", "1");
    within(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap())).await.is_ok()
}

#[tokio::test]
async fn strangers_get_no_answer() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let node = mesh.hosts[0].node;
    assert!(is_answered(&mesh, mesh.authority.client(&mesh.authority.identity(node))).await);
    assert!(!is_answered(&mesh, mesh.authority.anonymous()).await, "nobody at all");
    // Somebody whom another cluster knows.
    let other = Authority::new();
    let (certificate, key) = other.identity(node);
    let foreign = rustls::ClientConfig::builder()
        .with_root_certificates(mesh.authority.roots())
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    assert!(!is_answered(&mesh, Arc::new(foreign)).await);
    // A certificate of this cluster that is no node's.
    let forgotten = mesh.authority.identity(NodeId::new());
    mesh.authority.forget(&forgotten);
    assert!(!is_answered(&mesh, mesh.authority.client(&forgotten)).await);
    // An older TLS.
    let (certificate, key) = mesh.authority.identity(node);
    let older = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
        .with_root_certificates(mesh.authority.roots())
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    assert!(!is_answered(&mesh, Arc::new(older)).await);
    assert_eq!(mesh.hosts[0].get("/").await.status, 200);
    assert_eq!(mesh.hosts[1].figures().served, 1);
}

#[tokio::test]
async fn a_host_at_the_address_of_another_gets_nothing() {
    for (mut mesh, words) in [
        (Mesh::of(3).await, "not valid for name"),
        // Also where its name is good for any node, and only its identity is not.
        (Mesh::with_a_common_name(3).await, "is another node"),
    ] {
        mesh.addresses[1] = mesh.addresses[2];
        mesh.place(&[1]).await;
        assert_eq!(mesh.hosts[0].get("/").await.header("x-wharf-error"), Some("no_ready_instance"));
        let detail = mesh.hosts[0].errors.lock().unwrap()[0].detail.clone().unwrap();
        assert!(detail.contains(words), "{detail}");
        assert_eq!(mesh.hosts[2].guest.calls(), 0);
    }
}

#[tokio::test]
async fn noise_before_the_handshake_is_closed_in_time_and_disturbs_nobody() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let at = mesh.hosts[1].peer_address;
    let began = Instant::now();
    let mut silent = TcpStream::connect(at).await.unwrap();
    let mut plain = TcpStream::connect(at).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
    let mut preface = TcpStream::connect(at).await.unwrap();
    preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut half = TcpStream::connect(at).await.unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1]).await.unwrap();
    for _ in 0..100 {
        let mut noise = TcpStream::connect(at).await.unwrap();
        let _ = noise.write_all(&rand::random::<[u8; 32]>().repeat(100)).await;
    }
    assert_eq!(mesh.hosts[0].get("/").await.status, 200);
    for socket in [&mut silent, &mut plain, &mut preface, &mut half] {
        closes(socket).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(mesh.hosts[0].get("/").await.status, 200);
}

#[tokio::test]
async fn noise_of_a_node_harms_only_its_own_connection() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let client = mesh.authority.client(&mesh.authority.identity(NodeId::new()));
    let mut streams = Vec::new();
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: hello.test\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x05\x00\x00\x00\x01\xff",
    ] {
        let mut stream = shake(&mesh, client.clone()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        streams.push(stream);
    }
    // As many as a node may have: one more is closed, and other nodes are served.
    for _ in 0..80 {
        streams.extend(shake(&mesh, client.clone()).await);
    }
    let mut last = streams.pop().unwrap();
    let _ = within(last.read_to_end(&mut Vec::new())).await;
    assert_eq!(mesh.hosts[0].get("/").await.status, 200);
    drop(streams);
    within(async {
        while !is_answered(&mesh, client.clone()).await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_alone() {
    let mut mesh = Mesh::of(2).await;
    let instances = mesh.place(&[1]).await;
    let client = mesh.authority.client(&mesh.authority.identity(mesh.hosts[0].node));
    let stream = shake(&mesh, client).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let id = instances[0].to_string();
    let verdict = |response: &Response<hyper::body::Incoming>| {
        response.headers().get("wharf-peer-verdict").map(|value| value.to_str().unwrap().to_owned())
    };
    for (fields, expected) in [
        (&[][..], Some("malformed")),
        (&[("wharf-peer-instance", id.as_str())], Some("malformed")),
        (&[("wharf-peer-instance", "x"), ("wharf-peer-client", "1.2.3.4:5")], Some("malformed")),
        (&[("wharf-peer-instance", &id), ("wharf-peer-client", "x")], Some("malformed")),
        (
            &[("wharf-peer-instance", &id), ("wharf-peer-client", "1.2.3.4:5"), ("wharf-peer-port", "x")],
            Some("malformed"),
        ),
        (
            &[("wharf-peer-instance", &id), ("wharf-peer-client", "1.2.3.4:5"), ("wharf-peer-port", "7")],
            Some("not-here"),
        ),
        (&[("wharf-peer-instance", &id), ("wharf-peer-client", "1.2.3.4:5")], None),
    ] {
        let mut request = Request::builder().method("POST").uri("http://hello.test/collect");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(Bytes::from_static(b"abc"))).unwrap());
        let response = within(response).await.unwrap();
        assert_eq!(verdict(&response).as_deref(), expected, "{fields:?}");
    }
    // A head that is far too large, and a body that nobody asked for and that never ends.
    let large = Request::builder().uri("http://x/").header("x-large", "a".repeat(1_000_000));
    let response = within(sender.send_request(large.body(Full::default()).unwrap())).await;
    assert!(response.is_err() || response.unwrap().status() == 431);
    drop(sender);

    let client = mesh.authority.client(&mesh.authority.identity(mesh.hosts[0].node));
    let stream = shake(&mesh, client).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = taken.clone();
    let pieces = futures::stream::repeat_with(move || {
        counter.fetch_add(1 << 20, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(vec![0; 1 << 20])))
    });
    let endless = Request::builder().method("POST").uri("http://x/");
    let endless = endless.body(http_body_util::StreamBody::new(pieces).boxed_unsync()).unwrap();
    let response = within(sender.send_request(endless)).await.unwrap();
    assert_eq!(verdict(&response).as_deref(), Some("malformed"));
    assert!(taken.load(std::sync::atomic::Ordering::Relaxed) <= 8 << 20, "nobody reads it");
    assert_eq!(mesh.hosts[0].get("/").await.status, 200);
}

#[tokio::test]
async fn renewed_certificates_are_used_for_what_comes_then() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let [near, far] = &mesh.hosts[..] else { panic!("there are two") };
    let mut waits = near.begin("/wait").await;
    until(|| far.guest.running() == 1).await;
    for host in &mesh.hosts {
        let identity = mesh.authority.identity(host.node);
        host.tls.renew(mesh.authority.client(&identity), mesh.authority.server(&identity));
    }
    assert_eq!(near.get("/").await.status, 200);
    assert_eq!(near.figures().connections, 2);
    far.guest.go_on.add_permits(1);
    assert_eq!(read_reply(&mut waits).await.body, "waited");
    // The connection before is let go of.
    until(|| near.figures().open_connections == 1).await;
    assert_eq!((near.figures().lost, near.figures().ejections), (0, 0));
}

#[tokio::test]
async fn what_was_on_its_way_to_clients_that_have_left_does_not_end_the_connection() {
    let (mesh, wall) = behind_a_wall().await;
    let (near, far) = (&mesh.hosts[0], &mesh.hosts[1]);
    for _ in 0..4 {
        let mut clients = Vec::new();
        for _ in 0..300 {
            clients.push(near.begin("/wait").await);
        }
        until(|| far.guest.running() == 300).await;
        wall.set(Passes::Nothing);
        far.guest.go_on.add_permits(300);
        until(|| far.guest.running() == 0).await;
        drop(clients);
        until(|| near.ingress.stats().requests_open == 0).await;
        wall.set(Passes::All);
        assert_eq!(near.get("/").await.status, 200);
    }
    let figures = near.figures();
    assert_eq!((figures.lost, figures.connections), (0, figures.open_connections), "{figures:?}");
}

#[tokio::test]
async fn requests_that_are_taken_back_before_they_arrive_do_not_end_the_connection() {
    let (mesh, wall) = behind_a_wall().await;
    let near = &mesh.hosts[0];
    for round in 1..=3 {
        wall.set(Passes::Nothing);
        let mut clients = Vec::new();
        for _ in 0..100 {
            clients.push(near.begin("/wait").await);
        }
        until(|| near.ingress.stats().requests_open == 100).await;
        drop(clients);
        until(|| near.ingress.stats().requests_open == 0).await;
        wall.set(Passes::All);
        assert_eq!(near.get("/").await.status, 200, "{round}");
    }
    let figures = near.figures();
    assert_eq!((figures.lost, figures.connections), (0, figures.open_connections), "{figures:?}");
}

#[tokio::test]
async fn an_upload_that_a_dead_host_leaves_unfinished_is_not_taken_for_whole() {
    let (mesh, wall) = behind_a_wall().await;
    let far = &mesh.hosts[1];
    let mut uploads = mesh.hosts[0].connect().await;
    let head = "POST /collect HTTP/1.1\r\nhost: hello.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    uploads.write_all(head.as_bytes()).await.unwrap();
    until(|| far.guest.running() == 1).await;
    wall.set(Passes::Nothing);
    until(|| far.guest.running() == 0).await;
    assert_eq!(*far.guest.collected.lock().unwrap(), [""; 0]);
}
