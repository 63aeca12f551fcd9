//! Looks up the addresses of names for guests.
//!
//! The system's resolver blocks a thread for each name, for many seconds where a name server says nothing, and goes on when nobody waits
//! for it any more. The threads are those that the worker reads files with. So guests get few of them at once.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::shares::{Places, Shares};

/// Lookups of one release at once.
const RELEASE_LOOKUPS_MAX: usize = 8;
/// Lookups of all guests at once. The runtime has 512 such threads.
const PROCESS_LOOKUPS_MAX: usize = 256;
/// How long a socket waits for an answer, the wait for a place among the lookups included.
const LOOKUP_MAX: Duration = Duration::from_secs(10);

static PROCESS_LOOKUPS: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(PROCESS_LOOKUPS_MAX)));

/// The lookups of all guests of this process, for those who share them.
pub(super) fn shares() -> Shares {
    Shares::new(RELEASE_LOOKUPS_MAX, PROCESS_LOOKUPS_MAX, PROCESS_LOOKUPS.clone())
}

/// The resolver of one release.
#[derive(Debug)]
pub(super) struct Names {
    places: Places,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(Places::alone(RELEASE_LOOKUPS_MAX, PROCESS_LOOKUPS.clone()))
    }
}

impl Names {
    pub(super) fn new(places: Places) -> Self {
        Self { places }
    }

    /// The addresses of a host, which may be one itself. Waits for a thread; who calls sets a limit to that.
    pub(super) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let places = self.places.take().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            // Until the thread is free, which may be long after the caller has given up.
            let _places = places;
            (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
        });
        lookup.await.map_err(io::Error::other)?
    }

    /// The same for a socket. [`io::ErrorKind::TimedOut`]: there was no answer in time.
    pub(super) async fn resolve_in_time(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let resolved = tokio::time::timeout(LOOKUP_MAX, self.resolve(host, port)).await;
        resolved.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_places(release: usize) -> Names {
        let places = Places {
            release: Arc::new(Semaphore::new(release)),
            ..Places::alone(1, PROCESS_LOOKUPS.clone())
        };
        Names::new(places)
    }

    #[tokio::test]
    async fn an_address_is_its_own_and_takes_no_thread() {
        let names = with_places(0);
        let found = names.resolve("::1", 80).await.unwrap();
        assert_eq!(found, ["[::1]:80".parse().unwrap()]);
        let mut waits = Box::pin(names.resolve("localhost", 80));
        assert!(futures::poll!(waits.as_mut()).is_pending());
        names.places.release.add_permits(1);
        assert!(waits.await.unwrap().iter().all(|address| address.ip().is_loopback()));
        assert_eq!(names.places.release.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_does_not_wait_for_a_thread_for_ever() {
        let error = with_places(0).resolve_in_time("localhost", 80).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
