//! What lies between hosts, where a kernel cannot be told to delay or to lose: a TCP proxy that does.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How the way is at the moment, for all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Whatever is sent comes so much later.
    Slow(Duration),
    /// So many octets come at a time, and the next ones so much later: whoever sends more has to wait.
    Drip(usize, Duration),
    /// One in ten packets is lost, and comes again after 300 ms, as TCP sends it again.
    Lossy,
    /// Nothing comes through, and nobody is told: connections stay as if half open.
    Silent,
    /// The same of what clients send.
    SilentUp,
    /// The same of what they are sent.
    SilentDown,
    /// Connections are cut, and none is taken.
    Broken,
}

/// Ends with the test.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Proxy {
    /// Leads from one address to another.
    ///
    /// # Panics
    ///
    /// When nobody can listen at the first.
    pub async fn start(at: SocketAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let weather = watch::Sender::new(Weather::Fair);
        let address = listener.local_addr().unwrap();
        let seen = weather.subscribe();
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                if *seen.borrow() == Weather::Broken {
                    continue;
                }
                tokio::spawn(connect(client, to, seen.clone()));
            }
        });
        Self { address, weather, task }
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(client: TcpStream, to: SocketAddr, seen: watch::Receiver<Weather>) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut breaks = seen.clone();
    tokio::select! {
        _ = breaks.wait_for(|weather| *weather == Weather::Broken) => {}
        _ = async { tokio::join!(pass(from_client, to_server, Way::Up, seen.clone()), pass(from_server, to_client, Way::Down, seen)) } => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    mut seen: watch::Receiver<Weather>,
) -> Option<()> {
    let mut chunk = vec![0; 16 << 10];
    for number in 0_u64.. {
        let read = from.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        let silent = |weather: &Weather| match weather {
            Weather::Silent => true,
            Weather::SilentUp => way == Way::Up,
            Weather::SilentDown => way == Way::Down,
            Weather::Fair | Weather::Slow(_) | Weather::Drip(..) | Weather::Lossy | Weather::Broken => false,
        };
        let weather = *seen.wait_for(|weather| !silent(weather)).await.ok()?;
        match weather {
            Weather::Slow(by) => sleep(by).await,
            Weather::Lossy if number % 10 == 7 => sleep(Duration::from_millis(300)).await,
            _ => {}
        }
        let (at_a_time, pause) = match weather {
            Weather::Drip(octets, pause) => (octets.max(1), pause),
            _ => (chunk.len(), Duration::ZERO),
        };
        for octets in chunk[..read].chunks(at_a_time) {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            to.write_all(octets).await.ok()?;
        }
    }
    None
}
