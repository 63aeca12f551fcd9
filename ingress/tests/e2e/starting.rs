//! Requests to an ingress that has just started.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use wharf_types::InstanceId;

use crate::fixture::{Fixture, read_reply, until, within};

const LONG: Duration = Duration::from_secs(60);
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: hello.test\r\n\r\n";

#[tokio::test]
async fn requests_wait_for_the_first_routes_and_for_the_first_instance() {
    let fixture = Fixture::starting(LONG).await;
    let mut socket = fixture.connect().await;
    socket.write_all(GET).await.unwrap();
    fixture.route(1, &[]).await;
    fixture.route(2, &[]).await;
    assert_eq!(fixture.guest.calls(), 0);
    fixture.route(3, &[InstanceId::new()]).await;
    assert_eq!(within(read_reply(&mut socket)).await.status, 200);
    assert!(fixture.errors.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_host_that_the_first_routes_do_not_have_is_unknown_at_once() {
    let fixture = Fixture::starting(LONG).await;
    let mut socket = fixture.connect().await;
    socket.write_all(b"GET / HTTP/1.1\r\nhost: other.test\r\n\r\n").await.unwrap();
    fixture.route(1, &[]).await;
    let reply = within(read_reply(&mut socket)).await;
    assert_eq!((reply.status, reply.header("x-wharf-error")), (404, Some("unknown_host")));
}

#[tokio::test]
async fn whoever_waits_in_vain_is_told_so() {
    let fixture = Fixture::starting(Duration::from_millis(50)).await;
    let reply = fixture.get("/").await;
    assert_eq!((reply.status, reply.header("x-wharf-error")), (503, Some("starting")));
    assert_eq!(reply.header("retry-after"), Some("1"));
    fixture.route(1, &[]).await;
    let reply = fixture.get("/").await;
    assert_eq!((reply.status, reply.header("x-wharf-error")), (503, Some("no_ready_instance")));
}

#[tokio::test]
async fn instances_that_the_routes_have_are_waited_for_until_they_are_taken_up() {
    let fixture = Fixture::starting(LONG).await;
    let instances: Vec<_> = (0..5).map(|_| InstanceId::new()).collect();
    instances.iter().for_each(|instance| fixture.guest.leaves(*instance));
    let mut socket = fixture.connect().await;
    socket.write_all(GET).await.unwrap();
    fixture.route(1, &instances).await;
    until(|| fixture.guest.calls() > 0).await;
    fixture.guest.returns(instances[0]);
    assert_eq!(within(read_reply(&mut socket)).await.status, 200);
}
