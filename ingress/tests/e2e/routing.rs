//! Which instance is asked, and when no other is.

use std::collections::HashSet;

use tokio::io::AsyncWriteExt as _;
use wharf_types::InstanceId;

use crate::fixture::{Fixture, read_reply, until, within};

#[tokio::test]
async fn a_request_reaches_an_instance_with_an_absolute_uri() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let reply = fixture.send("GET /a/b?c=d HTTP/1.1\r\nhost: HELLO.test.:80\r\n\r\n").await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.starts_with("GET http://HELLO.test.:80/a/b?c=d\n"), "{}", reply.body);
}

#[tokio::test]
async fn the_authority_of_an_absolute_target_decides() {
    let (fixture, _) = Fixture::with_instances(1).await;
    let reply = fixture.send("GET https://hello.test/x HTTP/1.1\r\nhost: other.test\r\n\r\n").await;
    assert!(reply.body.starts_with("GET http://hello.test/x\n"), "{}", reply.body);
    assert!(reply.body.contains("host: hello.test\n"), "{}", reply.body);
    let reply = fixture.send("GET http://other.test/x HTTP/1.1\r\nhost: hello.test\r\n\r\n").await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn a_request_goes_to_another_instance_where_the_first_has_left() {
    let (fixture, instances) = Fixture::with_instances(2).await;
    fixture.guest.leaves(instances[0]);
    for _ in 0..10 {
        let reply = fixture.get("/").await;
        assert_eq!(reply.header("x-instance"), Some(instances[1].to_string().as_str()));
    }
}

#[tokio::test]
async fn a_body_reaches_the_second_instance_whole() {
    let (fixture, instances) = Fixture::with_instances(2).await;
    fixture.guest.is_busy(instances[0]);
    for _ in 0..10 {
        let reply = fixture
            .send("POST /echo HTTP/1.1\r\nhost: hello.test\r\ncontent-length: 5\r\nx-a: b\r\n\r\n12345")
            .await;
        assert_eq!((reply.status, reply.body.as_str()), (200, "12345"));
    }
    assert!(fixture.errors.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_waiting_instance_gets_less_than_an_idle_one() {
    let (fixture, _) = Fixture::with_instances(2).await;
    let mut first = fixture.connect().await;
    first.write_all(b"GET /wait HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
    until(|| fixture.guest.calls() == 1).await;
    let waiting = fixture.guest.calls.lock().unwrap()[0];
    for _ in 0..10 {
        assert_ne!(fixture.get("/").await.header("x-instance"), Some(waiting.to_string().as_str()));
    }
    fixture.guest.go_on.add_permits(1);
    assert_eq!(read_reply(&mut first).await.body, "waited");
    // Its request has ended, so it is asked again.
    within(async {
        while fixture.get("/").await.header("x-instance") != Some(waiting.to_string().as_str()) {}
    })
    .await;
}

#[tokio::test]
async fn once_a_generation_is_applied_nothing_goes_by_the_older() {
    let (fixture, mut instances) = Fixture::with_instances(1).await;
    let mut kept = fixture.connect().await;
    for generation in 2..50 {
        let old: HashSet<_> = instances.iter().copied().collect();
        instances = vec![InstanceId::new()];
        fixture.route(generation, &instances).await;
        kept.write_all(b"GET / HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
        let instance: InstanceId = read_reply(&mut kept).await.header("x-instance").unwrap().parse().unwrap();
        assert!(instance == instances[0] && !old.contains(&instance));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_during_changes_of_the_table_all_succeed() {
    let (fixture, mut instances) = Fixture::with_instances(2).await;
    let address = fixture.address;
    let client = tokio::spawn(async move {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        for _ in 0..300 {
            socket.write_all(b"GET / HTTP/1.1\r\nhost: hello.test\r\n\r\n").await.unwrap();
            assert_eq!(read_reply(&mut socket).await.status, 200);
        }
    });
    let mut generation = 1;
    while !client.is_finished() {
        generation += 1;
        let old = std::mem::replace(&mut instances, vec![InstanceId::new(), InstanceId::new()]);
        fixture.route(generation, &instances).await;
        // What is no longer routed may go, once the ingress has let go of it.
        old.into_iter().for_each(|old| fixture.guest.leaves(old));
    }
    client.await.unwrap();
}
