//! What an ingress waits for that has just begun: its first routes, and the instances that are taken up again beside it.
//!
//! Whoever asks meanwhile would hear that an app is unknown, or has nobody, of which neither is so for long.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// Instances that routes lead to are taken up without other routes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long an ingress counts as new.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    over: Instant,
}

/// A request that waits for other routes.
#[derive(Debug)]
pub(crate) struct ForRoutes {
    routes: watch::Receiver<u64>,
    until: Instant,
}

impl Start {
    pub(crate) fn new(grace: Duration) -> Self {
        Self { over: Instant::now() + grace }
    }

    /// Whether to look again, which is when [`ForRoutes::look_again`] returns; `waiting` is then set.
    pub(crate) fn has_patience(
        &self,
        waiting: &mut Option<ForRoutes>,
        installed: &watch::Sender<u64>,
    ) -> bool {
        let is_new = Instant::now() < self.over;
        if is_new && waiting.is_none() {
            *waiting = Some(ForRoutes::new(installed, self.over));
        }
        is_new
    }
}

impl ForRoutes {
    pub(crate) fn new(installed: &watch::Sender<u64>, until: Instant) -> Self {
        // They may be other routes already than those that were looked at.
        let mut routes = installed.subscribe();
        routes.mark_changed();
        Self { routes, until }
    }

    /// Returns when there are other routes, or after a moment. False: the time is up.
    pub(crate) async fn look_again(&mut self) -> bool {
        if timeout(LOOK_AGAIN, self.routes.changed()).await.is_ok_and(|changed| changed.is_err()) {
            // Nobody sets routes any more, but instances may still come.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Instant::now() < self.until
    }

    /// Returns when there are other routes. False: the time is up, or nobody sets routes any more.
    pub(crate) async fn go_on(&mut self) -> bool {
        matches!(timeout_at(self.until, self.routes.changed()).await, Ok(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_ingress_looks_again_with_each_change_until_it_is_new_no_more() {
        let installed = watch::Sender::new(0);
        let start = Start::new(Duration::from_secs(5));
        let mut waiting = None;
        assert!(start.has_patience(&mut waiting, &installed));
        let mut waits = waiting.take().unwrap();
        let before = Instant::now();
        assert!(waits.look_again().await, "what came in between is looked at");
        installed.send_replace(1);
        assert!(waits.look_again().await);
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(waits.look_again().await);
        assert_eq!(before.elapsed(), LOOK_AGAIN);
        while waits.look_again().await {}
        assert_eq!(before.elapsed(), Duration::from_secs(5));
        assert!(!start.has_patience(&mut waiting, &installed) && waiting.is_none());
    }

    #[tokio::test]
    async fn without_a_grace_nothing_is_waited_for() {
        let start = Start::new(Duration::ZERO);
        assert!(!start.has_patience(&mut None, &watch::Sender::new(0)));
    }
}
