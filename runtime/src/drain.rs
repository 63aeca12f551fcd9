//! How long the open requests and connections of instances may go on while this process ends: each as its app declares (`stop.drain`).
//!
//! An instance that is stopped for another reason drains by itself, as part of its stop. That of a process ends the front door first, and the
//! instances after it, so what is open is cut here, while the instances go on for those that have more time.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep_until};
use wharf_types::InstanceId;

/// Nobody waits for longer, so more makes no difference.
const TOLD_MOST: Duration = Duration::from_secs(24 * 3600);

/// Calls `cut` for each instance when its time is over, which is `most` at the longest. Returns when that is done for all.
pub(crate) async fn cut_in_time<F: Future<Output = ()>>(
    drains: Vec<(InstanceId, Duration)>,
    most: Duration,
    cut: impl Fn(InstanceId, Duration) -> F,
) {
    let began = Instant::now();
    let each = drains.into_iter().map(|(id, drain)| {
        let (drain, cut) = (drain.min(most), &cut);
        async move {
            sleep_until(began + drain).await;
            cut(id, drain).await;
        }
    });
    join_all(each).await;
}

/// Instances that are being stopped, and until when what is open of them may go on. They see to that themselves.
#[derive(Default)]
pub(crate) struct Draining(Mutex<HashMap<InstanceId, Instant>>);

impl Draining {
    /// It drains until what is returned is dropped.
    pub(crate) fn begin(&self, id: InstanceId, drain: Duration) -> Drains<'_> {
        self.lock().insert(id, Instant::now() + drain.min(TOLD_MOST));
        Drains { all: self, id }
    }

    /// What each has left.
    pub(crate) fn left(&self) -> Vec<(InstanceId, Duration)> {
        let now = Instant::now();
        self.lock().iter().map(|(id, until)| (*id, until.saturating_duration_since(now))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Drains<'a> {
    all: &'a Draining,
    id: InstanceId,
}

impl Drop for Drains<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_has_its_own_time_and_nobody_more_than_the_most() {
        let secs = Duration::from_secs;
        let (short, long, longest) = (InstanceId::new(), InstanceId::new(), InstanceId::new());
        let cuts = Mutex::new(Vec::new());
        let began = Instant::now();
        let drains = vec![(longest, secs(3600)), (short, secs(3)), (long, secs(300))];
        cut_in_time(drains, secs(600), |id, drain| {
            cuts.lock().unwrap().push((id, drain, began.elapsed()));
            std::future::ready(())
        })
        .await;
        let expected = [(short, 3), (long, 300), (longest, 600)];
        assert_eq!(*cuts.lock().unwrap(), expected.map(|(id, at)| (id, secs(at), secs(at))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_being_stopped_already_has_what_is_left_of_its_time() {
        let (draining, id) = (Draining::default(), InstanceId::new());
        let drains = draining.begin(id, Duration::from_secs(300));
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(draining.left(), [(id, Duration::from_secs(200))]);
        drop(drains);
        assert!(draining.left().is_empty());
    }
}
