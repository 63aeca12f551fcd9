//! Requests to an app that sleeps.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use wharf_types::InstanceId;
use wharf_types::figures::AppLoad;

use crate::fixture::{Fixture, read_reply, until, within};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: hello.test\r\n\r\n";
const WAIT: &[u8] = b"GET /wait HTTP/1.1\r\nhost: hello.test\r\n\r\n";

fn waiting(fixture: &Fixture) -> u64 {
    fixture.ingress.stats().loads.iter().map(|load| load.waiting).sum()
}

#[tokio::test]
async fn requests_to_a_sleeping_app_wait_call_for_it_and_are_answered() {
    let (fixture, instances) = Fixture::with_instances(1).await;
    fixture.route_sleeper(2, &[]).await;
    let mut calls = fixture.ingress.calls();
    calls.mark_unchanged();
    let (mut first, mut second) = (fixture.connect().await, fixture.connect().await);
    first.write_all(GET).await.unwrap();
    within(calls.changed()).await.unwrap();
    second
        .write_all(b"POST /echo HTTP/1.1\r\nhost: hello.test\r\ncontent-length: 5\r\n\r\n12345")
        .await
        .unwrap();
    until(|| waiting(&fixture) == 2).await;
    // Other routes are no reason to give up.
    fixture.route_sleeper(3, &[]).await;
    assert_eq!((waiting(&fixture), fixture.guest.calls()), (2, 0));
    fixture.route_sleeper(4, &instances).await;
    assert_eq!(read_reply(&mut first).await.status, 200);
    let echo = read_reply(&mut second).await;
    assert_eq!((echo.status, echo.body.as_str()), (200, "12345"));
    assert_eq!(waiting(&fixture), 0);
    assert!(!calls.has_changed().unwrap(), "one call is enough for all who wait");
    assert!(fixture.errors.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_request_whose_instance_has_just_gone_waits_too() {
    let (fixture, instances) = Fixture::with_instances(1).await;
    fixture.guest.leaves(instances[0]);
    fixture.route_sleeper(2, &instances).await;
    let mut socket = fixture.connect().await;
    socket.write_all(GET).await.unwrap();
    until(|| waiting(&fixture) == 1).await;
    let successor = InstanceId::new();
    fixture.route_sleeper(3, &[successor]).await;
    let reply = read_reply(&mut socket).await;
    assert_eq!(reply.header("x-instance"), Some(successor.to_string().as_str()));
}

#[tokio::test]
async fn an_app_that_is_awake_and_full_lets_nobody_wait_for_another_instance() {
    let (fixture, instances) = Fixture::with_instances(1).await;
    fixture.guest.is_busy(instances[0]);
    fixture.route_sleeper(2, &instances).await;
    let reply = fixture.get("/").await;
    assert_eq!((reply.status, reply.header("x-wharf-error")), (503, Some("busy")));
}

#[tokio::test]
async fn an_app_that_does_not_wake_in_time_is_told_by_a_code_of_its_own() {
    let wait = Duration::from_millis(50);
    let (fixture, _) = Fixture::configured(1, |config| config.wake_timeout = wait).await;
    fixture.route_sleeper(2, &[]).await;
    let reply = fixture.get("/").await;
    assert_eq!((reply.status, reply.header("x-wharf-error")), (503, Some("waking")));
    assert_eq!(reply.header("retry-after"), Some("1"));
    let errors = fixture.errors.lock().unwrap();
    assert!(
        errors[0].app.is_some() && errors[0].detail.as_ref().unwrap().contains("within 50ms"),
        "{errors:?}"
    );
}

#[tokio::test]
async fn only_so_many_wait_and_who_leaves_makes_room() {
    let (fixture, instances) = Fixture::configured(1, |config| config.wake_max = 1).await;
    fixture.route_sleeper(2, &[]).await;
    let mut first = fixture.connect().await;
    first.write_all(GET).await.unwrap();
    until(|| waiting(&fixture) == 1).await;
    let refused = fixture.get("/").await;
    assert_eq!((refused.status, refused.header("x-wharf-error")), (503, Some("waking")));
    drop(first);
    until(|| waiting(&fixture) == 0).await;
    let mut second = fixture.connect().await;
    second.write_all(GET).await.unwrap();
    until(|| waiting(&fixture) == 1).await;
    fixture.route_sleeper(3, &instances).await;
    assert_eq!(read_reply(&mut second).await.status, 200);
    assert_eq!(fixture.guest.calls(), 1, "nobody is asked for somebody who has left");
}

#[tokio::test]
async fn what_is_open_is_looked_at_while_there_are_instances() {
    let (fixture, instances) = Fixture::with_instances(2).await;
    let open = || fixture.ingress.stats().loads.first().map(|load: &AppLoad| load.open_thousandths);
    until(|| open() == Some(0)).await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = fixture.connect().await;
        socket.write_all(WAIT).await.unwrap();
        sockets.push(socket);
    }
    until(|| open() == Some(3000)).await;
    fixture.guest.go_on.add_permits(3);
    until(|| open() == Some(0)).await;
    fixture.route(2, &[]).await;
    until(|| open().is_none()).await;
    fixture.route(3, &instances).await;
    until(|| open() == Some(0)).await;
}
