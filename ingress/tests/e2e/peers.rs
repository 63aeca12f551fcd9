//! Requests to instances of other hosts, as long as all goes well there.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt as _;
use futures::channel::mpsc;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fixture::{closes, http2, http2_request, read_reply, read_until, until, within};
use crate::mesh::{Mesh, within_a_second};

#[tokio::test]
async fn an_app_answers_at_an_ingress_that_has_no_instance_and_learns_who_the_client_is() {
    let mut mesh = Mesh::of(2).await;
    let instances = mesh.place(&[1]).await;
    let [near, far] = &mesh.hosts[..] else { panic!("there are two") };
    let mut socket = near.connect().await;
    let client = socket.local_addr().unwrap();
    let request =
        "GET /a?b=c HTTP/1.1\r\nhost: hello.test:8080\r\nx-forwarded-for: 192.0.2.1\r\nx-own: 1\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let reply = read_reply(&mut socket).await;
    assert_eq!((reply.status, reply.header("x-instance")), (200, Some(instances[0].to_string().as_str())));
    let mut lines: Vec<_> = reply.body.lines().filter(|line| !line.starts_with("x-request-id")).collect();
    assert_eq!(lines.remove(0), "GET http://hello.test:8080/a?b=c");
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["host: hello.test:8080", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", "x-own: 1"]
    );
    assert_eq!(*far.guest.clients.lock().unwrap(), [client]);
    assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("wharf-peer")), "{:?}", reply.headers);
    assert_eq!((reply.header("x-private"), reply.header("keep-alive")), (None, None));
}

#[tokio::test]
async fn an_instance_of_this_host_is_asked_as_long_as_it_has_room() {
    let mut mesh = Mesh::of(2).await;
    let instances = mesh.place_with(&[0, 1], 2).await;
    let [near, far] = &mesh.hosts[..] else { panic!("there are two") };
    for _ in 0..20 {
        assert_eq!(near.get("/").await.status, 200);
    }
    assert_eq!((near.guest.calls(), far.guest.calls()), (20, 0));
    let mut waiting = [near.begin("/wait").await, near.begin("/wait").await];
    until(|| near.guest.running() == 2).await;
    let reply = near.get("/").await;
    assert_eq!(reply.header("x-instance"), Some(instances[1].to_string().as_str()));
    near.guest.go_on.add_permits(2);
    for socket in &mut waiting {
        assert_eq!(read_reply(socket).await.body, "waited");
    }
    assert_eq!(near.get("/").await.header("x-instance"), Some(instances[0].to_string().as_str()));
}

#[tokio::test]
async fn what_comes_from_peers_counts_where_one_chooses_among_instances_of_this_host() {
    let mut mesh = Mesh::of(3).await;
    mesh.place_with(&[1, 2], 1).await;
    // The place of the one on the second host is taken by a request that came in at the first.
    let _first = mesh.hosts[0].begin("/wait").await;
    until(|| mesh.hosts[1].guest.running() + mesh.hosts[2].guest.running() == 1).await;
    let busy = if mesh.hosts[1].guest.running() == 1 { 1 } else { 2 };
    let (busy, idle) = (&mesh.hosts[busy], &mesh.hosts[3 - busy]);
    assert_eq!(busy.get("/").await.status, 200);
    assert_eq!((busy.guest.calls(), idle.guest.calls()), (1, 1));
}

#[tokio::test]
async fn words_between_peers_are_believed_from_nobody_else() {
    let mut mesh = Mesh::of(2).await;
    for on in [0, 1] {
        mesh.place(&[on]).await;
        let near = &mesh.hosts[0];
        let id = "018f0000-0000-7000-8000-000000000000";
        let reply = near
            .send(&format!(
                "GET / HTTP/1.1\r\nhost: hello.test\r\nwharf-peer-instance: {id}\r\nwharf-peer-client: 1.2.3.4:5\r\n\
                 wharf-peer-port: 7\r\nwharf-peer-probe: 1\r\nwharf-peer-other: 1\r\n\r\n"
            ))
            .await;
        assert_eq!(reply.status, 200);
        assert!(!reply.body.contains("wharf-peer"), "{}", reply.body);
        let reply = near.get("/own-error").await;
        assert_eq!((reply.status, reply.body.as_str()), (503, "own words"));
        assert_eq!(reply.header("wharf-peer-verdict"), None);
    }
    assert_eq!(mesh.hosts[1].guest.calls(), 2);
}

#[tokio::test]
async fn each_failure_of_an_instance_is_what_it_would_be_here() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let near = &mesh.hosts[0];
    for (path, status, code, detail) in [
        ("/trap", 502, "guest_failed", Some("secret backtrace")),
        ("/timeout", 504, "guest_timeout", Some("`limits.cpu` is reached")),
        ("/too-large", 413, "body_too_large", None),
        ("/bad", 400, "bad_request", Some("It has a <bad> header.")),
        ("/busy", 503, "busy", None),
        (
            "/switch",
            502,
            "guest_failed",
            Some("the guest answered with 101 Switching Protocols, which is not a final status"),
        ),
        ("/panic", 502, "guest_failed", Some("the node has failed at the request")),
        (
            "/head-too-large",
            502,
            "guest_failed",
            Some("the header fields of its answer are larger than 196608 octets"),
        ),
    ] {
        let reply = near.get(path).await;
        assert_eq!((reply.status, reply.header("x-wharf-error")), (status, Some(code)), "{path}");
        assert!(!reply.body.contains("secret"), "{}", reply.body);
        assert_eq!(near.errors.lock().unwrap().pop().unwrap().detail.as_deref(), detail, "{path}");
    }
    assert!(near.get("/bad").await.body.contains("It has a <bad> header."));
    closes(&mut near.begin("/gone").await).await;
    assert_eq!(near.ingress.stats().client_gone, 1);
    assert_eq!(near.figures().connections, 1, "no failure of a guest harms the connection");
    assert_eq!(mesh.hosts[1].codes(), [""; 0], "what went wrong is told where the request came in");
}

#[tokio::test]
async fn an_instance_that_has_left_or_is_busy_gives_the_request_back_whole() {
    let mut mesh = Mesh::of(3).await;
    // More than a window, which nobody reads before another instance is asked.
    let body = "0123456789".repeat(100_000);
    for leaves in [true, false] {
        let instances = mesh.place(&[1, 2]).await;
        let (near, away) = (&mesh.hosts[0], &mesh.hosts[1]);
        match leaves {
            true => away.guest.leaves(instances[0]),
            false => away.guest.is_busy(instances[0]),
        }
        until_asked(near, away, &body).await;
        assert_eq!(near.codes(), [""; 0]);
    }
    assert!(mesh.hosts[0].figures().retried >= 2);
}

/// Sends it until it was refused once, which an instance that is drawn at random may be spared.
async fn until_asked(near: &crate::mesh::Host, refuses: &crate::mesh::Host, body: &str) {
    let before = refuses.guest.calls();
    within(async {
        while refuses.guest.calls() == before {
            let sender = http2(near.address).await;
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "abc".parse().unwrap());
            let frames = [Frame::data(Bytes::from(body.to_owned())), Frame::trailers(trailers)];
            let stream =
                StreamBody::new(futures::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
            let response = sender.clone().send_request(http2_request("/echo", stream)).await.unwrap();
            assert_eq!(response.status(), 200);
            let answer = response.into_body().collect().await.unwrap();
            assert_eq!(answer.trailers().map(|trailers| trailers["x-sum"].clone()).unwrap(), "abc");
            assert!(answer.to_bytes() == body.as_bytes());
        }
    })
    .await;
}

#[tokio::test]
async fn where_no_instance_takes_a_request_the_client_is_told_so() {
    let mut mesh = Mesh::of(2).await;
    let instances = mesh.place(&[1, 1]).await;
    let [near, far] = &mesh.hosts[..] else { panic!("there are two") };
    far.guest.leaves(instances[0]);
    far.guest.leaves(instances[1]);
    assert_eq!(near.get("/").await.header("x-wharf-error"), Some("no_ready_instance"));
    assert_eq!(far.guest.calls(), 2, "each was asked once");
    let instances = mesh.place(&[1]).await;
    mesh.hosts[1].guest.is_busy(instances[0]);
    assert_eq!(mesh.hosts[0].get("/").await.header("x-wharf-error"), Some("busy"));
}

#[tokio::test]
async fn bodies_and_trailers_stream_both_ways() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let mut sender = http2(mesh.hosts[0].address).await;
    let (mut frames, receiver) = mpsc::unbounded::<Result<Frame<Bytes>, std::convert::Infallible>>();
    let response =
        within(sender.send_request(http2_request("/echo", StreamBody::new(receiver)))).await.unwrap();
    let mut body = response.into_body();
    // Each piece comes back before the next is sent.
    for piece in ["one", "two", "three"] {
        frames.send(Ok(Frame::data(piece.into()))).await.unwrap();
        assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), piece);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "abc".parse().unwrap());
    frames.send(Ok(Frame::trailers(trailers.clone()))).await.unwrap();
    drop(frames);
    assert_eq!(within(body.frame()).await.unwrap().unwrap().into_trailers().unwrap(), trailers);
    assert!(within(body.frame()).await.is_none());
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let mut sender = http2(mesh.hosts[0].address).await;
    let sent: Bytes = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    let response =
        within(sender.send_request(http2_request("/echo", Full::new(sent.clone())))).await.unwrap();
    assert!(within(response.into_body().collect()).await.unwrap().to_bytes() == sent);
}

#[tokio::test]
async fn answers_without_a_body_keep_what_they_say_of_it() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let mut socket = mesh.hosts[0].connect().await;
    socket.write_all(b"HEAD / HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
    let head = read_until(&mut socket, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: "), "{head}");
    socket.write_all(b"GET /not-modified HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
    let head = read_until(&mut socket, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 304"), "{head}");
    socket.write_all(b"GET / HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
    assert_eq!(read_reply(&mut socket).await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_guest_on_the_other_host_within_a_second() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let [near, far] = &mesh.hosts[..] else { panic!("there are two") };
    // While it waits for an answer, while it uploads, and while it downloads.
    let waits = near.begin("/wait").await;
    let mut uploads = near.connect().await;
    let head = "POST /collect HTTP/1.1\r\nhost: hello.test\r\ncontent-length: 1000000\r\n\r\nabc";
    uploads.write_all(head.as_bytes()).await.unwrap();
    until(|| far.guest.running() == 2).await;
    let stream = far.guest.stream();
    let mut downloads = near.begin("/stream").await;
    stream.unbounded_send(Frame::data("begun".into())).unwrap();
    read_until(&mut downloads, "begun").await;
    drop((waits, uploads, downloads));
    within_a_second(until(|| far.guest.running() == 0 && stream.is_closed())).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let mut socket = mesh.hosts[0].begin("/break").await;
    read_until(&mut socket, "begun").await;
    mesh.hosts[1].guest.go_on.add_permits(1);
    let mut rest = String::new();
    let _ = within(socket.read_to_string(&mut rest)).await;
    assert!(!rest.contains("0\r\n\r\n"), "{rest}");
    assert_eq!(mesh.hosts[0].figures().connections, 1);
    let released = &mesh.hosts[0].ingress.stats().releases;
    assert_eq!(released.iter().map(|release| release.counts.cut).sum::<u64>(), 1);
}

#[tokio::test]
async fn requests_count_once_and_where_they_came_in() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let [near, far] = &mesh.hosts[..] else { panic!("there are two") };
    for _ in 0..3 {
        near.get("/").await;
    }
    let _open = near.begin("/wait").await;
    // What is open counts where it is worked on, which decides how many instances there are.
    let open =
        |host: &crate::mesh::Host| host.ingress.stats().loads.iter().map(|load| load.open_thousandths).max();
    within(async {
        while open(far) != Some(1000) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(open(near), Some(0));
    let (near_stats, far_stats) = (near.ingress.stats(), far.ingress.stats());
    assert_eq!((near_stats.requests, near_stats.requests_open), (4, 1));
    assert_eq!((far_stats.requests, far_stats.requests_open, far_stats.connections_accepted), (0, 0, 0));
    assert_eq!(near_stats.releases.iter().map(|it| it.counts.ok).sum::<u64>(), 3);
    assert_eq!(far_stats.releases.iter().map(|it| it.counts.total()).sum::<u64>(), 0);
    let (near, far) = (near.figures(), far.figures());
    assert_eq!(
        (near.requests, near.served, near.open_connections, near.unreachable, near.lost),
        (4, 0, 1, 0, 0)
    );
    assert_eq!((far.requests, far.served), (0, 4));
}

#[tokio::test]
async fn a_sleeping_app_that_wakes_on_another_host_answers() {
    let mut mesh = Mesh::of(2).await;
    let asleep = mesh.table(&[], 0);
    let mut route = (*asleep.routes[0]).clone();
    route.wakes = true;
    mesh.route(wharf_types::route::RouteTable { routes: vec![route.into()], ..asleep }).await;
    let mut waits = mesh.hosts[0].begin("/").await;
    let mut calls = mesh.hosts[0].ingress.calls();
    within(calls.wait_for(|calls| *calls == 1)).await.unwrap();
    let instances = mesh.place(&[1]).await;
    let reply = read_reply(&mut waits).await;
    assert_eq!(reply.header("x-instance"), Some(instances[0].to_string().as_str()));
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_up_nobody_else() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let near = &mesh.hosts[0];
    let mut stalled = Vec::new();
    for path in ["/large", "/drip"] {
        for _ in 0..20 {
            let mut socket = near.begin(path).await;
            read_until(&mut socket, "\r\n\r\n").await;
            stalled.push(socket);
        }
    }
    // Those of the guest that read nothing.
    for _ in 0..20 {
        let mut socket = near.connect().await;
        let head = "POST /wait HTTP/1.1\r\nhost: hello.test\r\ncontent-length: 1000000\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&vec![0; 400_000]).await.unwrap();
        stalled.push(socket);
    }
    let mut sender = http2(near.address).await;
    let large = Bytes::from(vec![1; 4_000_000]);
    let response =
        within(sender.send_request(http2_request("/echo", Full::new(large.clone())))).await.unwrap();
    assert!(within(response.into_body().collect()).await.unwrap().to_bytes() == large);
    let figures = near.figures();
    assert_eq!((figures.lost, figures.ejections), (0, 0));
    // A client that leaves behind more than anybody reads is not noticed, here or elsewhere.
    mesh.hosts[1].guest.go_on.add_permits(20);
    until(|| mesh.hosts[1].guest.running() == 0).await;
}

#[tokio::test]
async fn thousands_of_clients_that_leave_do_not_end_the_connection_of_the_others() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let [near, far] = &mesh.hosts[..] else { panic!("there are two") };
    let _stays = near.begin("/wait").await;
    until(|| far.guest.running() == 1).await;
    for round in 0..30 {
        let sender = http2::<Empty<Bytes>>(near.address).await;
        let requests: Vec<_> = (0..100)
            .map(|n| {
                let path = if (n + round) % 2 == 0 { "/large" } else { "/wait" };
                let mut sender = sender.clone();
                tokio::spawn(async move { sender.send_request(http2_request(path, Empty::new())).await })
            })
            .collect();
        // Some leave at once, some when the guest has begun.
        if round % 3 != 0 {
            until(|| far.guest.running() >= 20).await;
        }
        requests.iter().for_each(|request| request.abort());
        drop((requests, sender));
    }
    until(|| far.guest.running() == 1).await;
    let figures = near.figures();
    assert_eq!((figures.lost, figures.ejections), (0, 0), "{figures:?}");
    far.guest.go_on.add_permits(1);
    let began = Instant::now();
    assert_eq!(near.get("/").await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_shutdown_answers_what_came_from_peers_and_then_nobody_asks() {
    let mut mesh = Mesh::of(3).await;
    mesh.place(&[1]).await;
    let far = mesh.hosts.remove(1);
    let near = &mesh.hosts[0];
    let mut waits = near.begin("/wait").await;
    until(|| far.guest.running() == 1).await;
    let shutdown = tokio::spawn(far.ingress.shutdown(Duration::from_secs(10)));
    // It takes nothing new, and nothing has been sent to it.
    within(async { while near.get("/").await.header("x-wharf-error") != Some("no_ready_instance") {} }).await;
    far.guest.go_on.add_permits(1);
    assert_eq!(read_reply(&mut waits).await.body, "waited");
    assert_eq!(within(shutdown).await.unwrap(), wharf_ingress::Shutdown::Clean);
    assert_eq!(near.figures().lost, 0);
}

#[tokio::test]
async fn a_node_that_was_removed_is_let_in_no_more_and_loses_the_connections_that_it_has() {
    let mut mesh = Mesh::of(3).await;
    let instances = mesh.place(&[2]).await;
    let table = mesh.table(&[(instances[0], 2)], 0);
    let [removed, other, far] = &mesh.hosts[..] else { panic!("there are three") };
    assert_eq!(removed.get("/").await.status, 200);
    assert_eq!(other.get("/").await.status, 200);
    let table = wharf_types::route::RouteTable { removed: vec![removed.node], ..table };
    far.route(table).await;
    let mut last = 200;
    for _ in 0..100 {
        last = removed.get("/").await.status;
        if last != 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(last, 200, "its connection is cut, and it gets no other");
    assert_eq!(other.get("/").await.status, 200, "nobody else is concerned");
}
