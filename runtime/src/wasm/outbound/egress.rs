//! How fast what guests send by `wasi:http` leaves: no faster than the quota of their namespace says, of which the answers that the front
//! door sends to clients take their part as well. What is more waits here, and is refused only after ten minutes.

use std::fmt;
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
}

impl Pace {
    pub(super) fn new(payer: Option<Payer>, home: Home) -> Self {
        Self { payer, home, pause: None, held_since: None }
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
            if self.held_since.get_or_insert_with(Instant::now).elapsed() >= HELD_MAX {
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

    #[tokio::test]
    async fn without_a_front_door_nothing_waits() {
        let mut pace = pace(EgressPlace::default());
        assert!(futures::poll!(std::future::poll_fn(|cx| pace.poll_ready(cx))).is_ready());
        pace.took(7);
    }
}
