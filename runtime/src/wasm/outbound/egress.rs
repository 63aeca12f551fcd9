//! How fast what guests send by `wasi:http` leaves: no faster than the quota of their namespace says, of which the answers that the front
//! door sends to clients take their part as well. What is more waits here, and is never refused.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use wharf_types::NamespaceName;

use super::home::Home;

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
}

impl Pace {
    pub(super) fn new(payer: Option<Payer>, home: Home) -> Self {
        Self { payer, home, pause: None }
    }

    /// Whether the next octets may leave.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Payer { egress, namespace }) = &self.payer else { return Poll::Ready(()) };
        let Some(egress) = egress.get() else { return Poll::Ready(()) };
        loop {
            if let Some(pause) = &mut self.pause {
                let ended = ready!(Pin::new(pause).poll(cx));
                self.pause = None;
                if ended.is_err() {
                    // The worker is stopping.
                    return Poll::Ready(());
                }
            }
            match egress.owed(namespace) {
                // Others may have been quicker when it ends.
                Some(owed) => {
                    self.pause = Some(self.home.spawn(async move { tokio::time::sleep(owed).await }));
                }
                None => return Poll::Ready(()),
            }
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
        std::future::poll_fn(|cx| pace.poll_ready(cx)).await;
        assert!(begun.elapsed() >= Duration::from_secs(1));
        pace.took(7);
        assert_eq!(counting.0.lock().unwrap().1, 7);
    }

    #[tokio::test]
    async fn without_a_front_door_nothing_waits() {
        let mut pace = pace(EgressPlace::default());
        assert!(futures::poll!(std::future::poll_fn(|cx| pace.poll_ready(cx))).is_ready());
        pace.took(7);
    }
}
