//! Looks up the addresses of names for guests.
//!
//! The system's resolver blocks a thread for each name, for many seconds where a name server says nothing, and goes on when nobody waits
//! for it any more. The threads are those that the worker reads files with. So guests get few of them at once.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;

/// Lookups of one instance at once.
const INSTANCE_LOOKUPS_MAX: usize = 8;
/// Lookups of all guests at once. The runtime has 512 such threads.
const PROCESS_LOOKUPS_MAX: usize = 256;

static PROCESS_LOOKUPS: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(PROCESS_LOOKUPS_MAX)));

/// The resolver of one instance.
#[derive(Debug)]
pub(super) struct Names {
    lookups: Arc<Semaphore>,
}

impl Default for Names {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(INSTANCE_LOOKUPS_MAX)) }
    }
}

impl Names {
    /// The addresses of a host, which may be one itself. Waits for a thread; who calls sets a limit to that.
    pub(super) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let of_instance = self.lookups.clone().acquire_owned().await.map_err(io::Error::other)?;
        let of_process = PROCESS_LOOKUPS.clone().acquire_owned().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            // Until the thread is free, which may be long after the caller has given up.
            let _places = (of_instance, of_process);
            (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
        });
        lookup.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_its_own_and_takes_no_thread() {
        let names = Names { lookups: Arc::new(Semaphore::new(0)) };
        let found = names.resolve("::1", 80).await.unwrap();
        assert_eq!(found, ["[::1]:80".parse().unwrap()]);
        let mut waits = Box::pin(names.resolve("localhost", 80));
        assert!(futures::poll!(waits.as_mut()).is_pending());
        names.lookups.add_permits(1);
        assert!(waits.await.unwrap().iter().all(|address| address.ip().is_loopback()));
        assert_eq!(names.lookups.available_permits(), 1);
    }
}
