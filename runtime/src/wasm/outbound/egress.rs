//! How fast what guests send by `wasi:http` and `wasi:sockets` leaves: no faster than the quota of their namespace says, of which the answers
//! that the front door sends to clients take their part as well. What is more waits here; a connection of `wasi:http` is given up after ten
//! minutes, a socket waits as long as its guest does.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::Error;
use wharf_types::NamespaceName;

use super::home::Home;

/// How long a connection waits to send anything at all, as long as a guest waits for an answer. Under a quota of next to nothing, not even
/// the octets that say goodbye may leave, and a connection that waited for ever would keep its place, which other namespaces need as well.
const HELD_MAX: Duration = Duration::from_secs(600);

/// What namespaces may still send. The front door counts.
pub trait Egress: Send + Sync {
    /// How long nothing more of the namespace may leave, at most a second; then is to be asked again. None: something may.
    fn owed(&self, namespace: &NamespaceName) -> Option<Duration>;

    /// So many octets of it have left.
    fn took(&self, namespace: &NamespaceName, octets: usize);

    /// The namespaces that have a limit, for who holds them to it elsewhere. None where nobody else has to.
    fn limits(&self) -> Vec<EgressLimit> {
        Vec::new()
    }
}

/// What one namespace may send, and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressLimit {
    pub namespace: NamespaceName,
    pub bytes_per_second: u64,
    /// Octets in all, of everybody. It only grows, until nothing of the namespace is counted any more.
    pub taken: u64,
    /// Whether anybody had to wait since the limits were asked for last.
    pub has_waited: bool,
}

/// Where the front door puts itself once it is open. Before that no request has come, and nothing is counted.
pub(crate) type EgressPlace = Arc<OnceLock<Arc<dyn Egress>>>;

/// Whose quota a connection's octets are of.
#[derive(Clone)]
pub(super) struct Payer {
    pub(super) egress: EgressPlace,
    pub(super) namespace: NamespaceName,
}

impl fmt::Debug for Payer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payer").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// What one connection has to wait for. Without a payer, nothing.
pub(super) struct Pace {
    payer: Option<Payer>,
    home: Home,
    /// At home, because a connection outlives the lane of the guest that began it.
    pause: Option<AbortOnDropHandle<()>>,
    /// Since when nothing may leave.
    held_since: Option<Instant>,
    /// For how long that may be. None: as long as whoever sends waits.
    held_max: Option<Duration>,
}

impl Pace {
    pub(super) fn new(payer: Option<Payer>, home: Home) -> Self {
        Self { payer, home, pause: None, held_since: None, held_max: Some(HELD_MAX) }
    }

    /// Of a guest's own socket, which ends with the guest.
    pub(super) fn of_socket(payer: Option<Payer>, home: Home) -> Self {
        Self { held_max: None, ..Self::new(payer, home) }
    }

    /// Whether nothing more may leave at this moment.
    pub(super) fn is_owed(&self) -> bool {
        self.payer.as_ref().is_some_and(|Payer { egress, namespace }| {
            egress.get().is_some_and(|egress| egress.owed(namespace).is_some())
        })
    }

    /// Returns when the next octets may leave, of somebody who never gives up.
    pub(super) async fn ready(&mut self) {
        let _ = poll_fn(|cx| self.poll_ready(cx)).await;
    }

    /// Whether the next octets may leave. An error when that has taken too long.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(Payer { egress, namespace }) = &self.payer else { return Poll::Ready(Ok(())) };
        let Some(egress) = egress.get() else { return Poll::Ready(Ok(())) };
        loop {
            if let Some(pause) = &mut self.pause {
                let ended = ready!(Pin::new(pause).poll(cx));
                self.pause = None;
                if ended.is_err() {
                    // The worker is stopping.
                    return Poll::Ready(Ok(()));
                }
            }
            let Some(owed) = egress.owed(namespace) else {
                self.held_since = None;
                return Poll::Ready(Ok(()));
            };
            let held = self.held_since.get_or_insert_with(Instant::now).elapsed();
            if self.held_max.is_some_and(|max| held >= max) {
                let error = io::Error::new(io::ErrorKind::TimedOut, Error::ConnectionWriteTimeout);
                return Poll::Ready(Err(error));
            }
            // Others may have been quicker when it ends.
            self.pause = Some(self.home.spawn(async move { tokio::time::sleep(owed).await }));
        }
    }

    /// So many have left.
    pub(super) fn took(&self, octets: usize) {
        if let Some(Payer { egress, namespace }) = &self.payer
            && let Some(egress) = egress.get()
        {
            egress.took(namespace, octets);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Lets nothing more leave for so long, once, and counts.
    #[derive(Default)]
    struct Counting(Mutex<(Option<Duration>, usize)>);

    impl Egress for Counting {
        fn owed(&self, _: &NamespaceName) -> Option<Duration> {
            self.0.lock().unwrap().0.take()
        }

        fn took(&self, _: &NamespaceName, octets: usize) {
            self.0.lock().unwrap().1 += octets;
        }
    }

    fn pace(egress: EgressPlace) -> Pace {
        let namespace = NamespaceName::default_namespace();
        Pace::new(Some(Payer { egress, namespace }), Home::here())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_is_waited_for_and_what_leaves_is_counted() {
        let counting = Arc::new(Counting(Mutex::new((Some(Duration::from_secs(1)), 0))));
        let place = EgressPlace::default();
        assert!(place.set(counting.clone()).is_ok());
        let mut pace = pace(place);
        let begun = tokio::time::Instant::now();
        std::future::poll_fn(|cx| pace.poll_ready(cx)).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1));
        pace.took(7);
        assert_eq!(counting.0.lock().unwrap().1, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_may_send_nothing_is_given_up() {
        struct Nothing;
        impl Egress for Nothing {
            fn owed(&self, _: &NamespaceName) -> Option<Duration> {
                Some(Duration::from_secs(1))
            }
            fn took(&self, _: &NamespaceName, _: usize) {}
        }
        let place = EgressPlace::default();
        assert!(place.set(Arc::new(Nothing)).is_ok());
        let mut pace = pace(place);
        let begun = Instant::now();
        let error = std::future::poll_fn(|cx| pace.poll_ready(cx)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!((HELD_MAX..HELD_MAX * 2).contains(&begun.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_waits_for_longer_than_a_connection_of_http() {
        struct Until(Instant);
        impl Egress for Until {
            fn owed(&self, _: &NamespaceName) -> Option<Duration> {
                (Instant::now() < self.0).then_some(Duration::from_secs(1))
            }
            fn took(&self, _: &NamespaceName, _: usize) {}
        }
        let begun = Instant::now();
        let place = EgressPlace::default();
        assert!(place.set(Arc::new(Until(begun + HELD_MAX * 2))).is_ok());
        let namespace = NamespaceName::default_namespace();
        let mut pace = Pace::of_socket(Some(Payer { egress: place, namespace }), Home::here());
        assert!(pace.is_owed());
        pace.ready().await;
        assert!(begun.elapsed() >= HELD_MAX * 2 && !pace.is_owed());
    }

    #[tokio::test]
    async fn without_a_front_door_nothing_waits() {
        let mut pace = pace(EgressPlace::default());
        assert!(futures::poll!(std::future::poll_fn(|cx| pace.poll_ready(cx))).is_ready());
        pace.took(7);
    }
}
