//! Public TCP ports: which instance gets a connection, and how long a connection lasts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use wharf_ingress::{Shutdown, TcpError, TcpPlace, TcpPlaces, TcpProblem};
use wharf_types::InstanceId;

use crate::fixture::{Fixture, closes, until, within};

/// Instances that listen, each at an address of its own.
#[derive(Default)]
struct Guests {
    addresses: Mutex<HashMap<InstanceId, SocketAddr>>,
    gone: CancellationToken,
    /// One more for each place that is held.
    places: Arc<()>,
}

impl Guests {
    /// One that writes its letter, and then sends back what it gets.
    async fn serve(&self, letter: u8) -> InstanceId {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let id = self.at(listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    client.write_all(&[letter]).await.unwrap();
                    let (mut from, mut to) = client.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        id
    }

    fn at(&self, address: SocketAddr) -> InstanceId {
        let id = InstanceId::new();
        self.addresses.lock().unwrap().insert(id, address);
        id
    }
}

struct Way(Arc<Guests>);

impl TcpPlaces for Way {
    fn admit(&self, instance: InstanceId, _: u16) -> Option<TcpPlace> {
        let address = *self.0.addresses.lock().unwrap().get(&instance)?;
        let (cut, gone) = (CancellationToken::new(), self.0.gone.clone());
        Some(TcpPlace { address, cut, gone, held: Box::new(self.0.places.clone()) })
    }
}

struct Front {
    fixture: Fixture,
    guests: Arc<Guests>,
    errors: Arc<Mutex<Vec<TcpError>>>,
    port: u16,
}

impl Front {
    async fn start() -> Self {
        let (guests, errors) = (Arc::new(Guests::default()), Arc::new(Mutex::new(Vec::new())));
        let (way, sink) = (Way(guests.clone()), errors.clone());
        let (fixture, _) = Fixture::configured(0, |config| {
            config.idle = Duration::from_millis(50);
            config.tcp.places = Arc::new(way);
            config.tcp.max_connections = 2;
            config.tcp.on_error = Arc::new(move |error: &TcpError| sink.lock().unwrap().push(error.clone()));
        })
        .await;
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        Self { fixture, guests, errors, port }
    }

    async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(("127.0.0.1", self.port))).await.unwrap()
    }

    /// A connection, and the letter of the guest at its other end.
    async fn letter(&self) -> (TcpStream, u8) {
        let mut client = self.connect().await;
        let letter = within(client.read_u8()).await.unwrap();
        (client, letter)
    }

    fn problems(&self) -> Vec<TcpProblem> {
        self.errors.lock().unwrap().iter().map(|error| error.problem.clone()).collect()
    }
}

async fn echoes(client: &mut TcpStream) {
    client.write_all(b"x").await.unwrap();
    assert_eq!(within(client.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn an_instance_that_refuses_or_is_gone_is_passed_over() {
    let front = Front::start().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (refuses, gone) = (front.guests.at(nobody), InstanceId::new());
    let serves = front.guests.serve(b'a').await;
    front.fixture.route_tcp(2, front.port, &[refuses, gone, serves]).await;
    let (_client, letter) = front.letter().await;
    assert_eq!((letter, front.problems()), (b'a', vec![]));

    front.fixture.route_tcp(3, front.port, &[refuses]).await;
    let mut refused = front.connect().await;
    let error = within(refused.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let problems = front.problems();
    assert!(matches!(&problems[..], [TcpProblem::NotTaken(why)] if why.contains("refused")), "{problems:?}");
}

#[tokio::test]
async fn once_a_generation_is_applied_no_connection_goes_by_the_older_and_open_ones_go_on() {
    let front = Front::start().await;
    let (old, new) = (front.guests.serve(b'o').await, front.guests.serve(b'n').await);
    front.fixture.route_tcp(2, front.port, &[old]).await;
    let (mut first, letter) = front.letter().await;
    assert_eq!(letter, b'o');
    front.fixture.route_tcp(3, front.port, &[new]).await;
    let (_second, letter) = front.letter().await;
    assert_eq!(letter, b'n');
    echoes(&mut first).await;
    front.fixture.route(4, &[]).await;
    assert!(TcpStream::connect(("127.0.0.1", front.port)).await.is_err(), "no app has the port any more");
    echoes(&mut first).await;
}

#[tokio::test]
async fn a_silent_connection_is_not_too_slow_and_its_place_is_held_until_it_ends() {
    let front = Front::start().await;
    let guest = front.guests.serve(b'a').await;
    front.fixture.route_tcp(2, front.port, &[guest]).await;
    let (mut client, _) = front.letter().await;
    assert_eq!(Arc::strong_count(&front.guests.places), 2);
    // The watchdog has come by when it has closed a connection that sends no request.
    closes(&mut front.fixture.connect().await).await;
    echoes(&mut client).await;
    drop(client);
    until(|| Arc::strong_count(&front.guests.places) == 1).await;
}

#[tokio::test]
async fn one_more_than_a_node_can_take_is_reset() {
    let front = Front::start().await;
    let guest = front.guests.serve(b'a').await;
    front.fixture.route_tcp(2, front.port, &[guest]).await;
    let _open = (front.letter().await, front.letter().await);
    let error = within(front.connect().await.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(front.problems(), [TcpProblem::NodeFull]);
}

#[tokio::test]
async fn a_client_of_a_guest_that_has_ended_is_not_left_waiting() {
    let front = Front::start().await;
    let guest = front.guests.serve(b'a').await;
    front.fixture.route_tcp(2, front.port, &[guest]).await;
    let (mut client, _) = front.letter().await;
    // The connection itself stays open: nothing but the worker's word says that it leads nowhere.
    front.guests.gone.cancel();
    closes(&mut client).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_connections_and_then_cuts_them() {
    let front = Front::start().await;
    let guest = front.guests.serve(b'a').await;
    front.fixture.route_tcp(2, front.port, &[guest]).await;
    let (mut client, _) = front.letter().await;
    let remote = client.local_addr().unwrap();
    let Shutdown::Forced { cut } = front.fixture.ingress.shutdown(Duration::from_millis(100)).await else {
        panic!("it waited for nobody")
    };
    assert_eq!(cut.iter().map(|cut| cut.remote).collect::<Vec<_>>(), [remote]);
    let error = within(client.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
