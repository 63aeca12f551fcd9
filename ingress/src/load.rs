//! How much is asked of apps that scale by it: what they have open, looked at ten times a second, and who waits for a first instance.
//!
//! A request knows nothing of this. Its instance counts it anyway, so that the next one finds the instance with the fewest.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use wharf_types::figures::AppLoad;
use wharf_types::{AppName, NamespaceName};

use crate::config::Config;
use crate::proxy::Shared;
use crate::start::ForRoutes;

/// Five looks for each report of the worker.
const PERIOD: Duration = Duration::from_millis(100);
const LOOKS: usize = 5;
/// What was not looked at for so long has no instances here any more.
const OVER: Duration = Duration::from_secs(1);

/// Of one app.
#[derive(Debug, Default)]
pub(crate) struct Load {
    waiting: AtomicUsize,
    /// Calls of guests of this node to its instances on this node, which have not come through a front door.
    inside: AtomicUsize,
    /// What the last looks found, and when.
    looks: Mutex<VecDeque<(Instant, usize)>>,
}

/// Of all apps that routes lead to.
#[derive(Debug)]
pub(crate) struct Loads {
    known: Mutex<HashMap<(NamespaceName, AppName), Arc<Load>>>,
    /// Counts the apps that somebody began to wait for.
    calls: watch::Sender<u64>,
}

/// A request that waits; dropped, it no longer does.
pub(crate) struct Waiting {
    load: Arc<Load>,
    routes: ForRoutes,
}

/// A call of a guest to an app of its own node, open until dropped.
#[derive(Debug)]
pub struct CallInside(Arc<Load>);

/// Why a request does not wait, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoWait {
    TooMany,
    TooLong,
}

impl Load {
    pub(crate) fn begin_inside(self: &Arc<Self>) -> CallInside {
        self.inside.fetch_add(1, Relaxed);
        CallInside(self.clone())
    }

    /// So many that came through front doors are open now.
    pub(crate) fn put(&self, now: Instant, open: usize) {
        let open = open + self.inside.load(Relaxed);
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.push_back((now, open));
        if looks.len() > LOOKS {
            looks.pop_front();
        }
    }

    /// The mean of the last looks, in thousandths. None: there was none.
    fn open_thousandths(&self, now: Instant) -> Option<u64> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = looks.iter().filter(|(at, _)| now.saturating_duration_since(*at) < OVER);
        let (count, sum) = recent.fold((0, 0), |(count, sum), (_, open)| (count + 1, sum + *open as u64));
        (sum * 1000).checked_div(count)
    }
}

impl Default for Loads {
    fn default() -> Self {
        Self { known: Mutex::default(), calls: watch::Sender::new(0) }
    }
}

impl Loads {
    pub(crate) fn of(&self, namespace: &NamespaceName, app: &AppName) -> Arc<Load> {
        self.lock().entry((namespace.clone(), app.clone())).or_default().clone()
    }

    pub(crate) fn forget_the_unused(&self) {
        self.lock().retain(|_, load| Arc::strong_count(load) > 1);
    }

    /// Of every app that has instances here, or somebody who waits.
    pub(crate) fn figures(&self) -> Vec<AppLoad> {
        let now = Instant::now();
        let figures = |((namespace, app), load): (&(NamespaceName, AppName), &Arc<Load>)| {
            let (waiting, open) = (load.waiting.load(Relaxed) as u64, load.open_thousandths(now));
            (open.is_some() || waiting > 0).then(|| AppLoad {
                namespace: namespace.clone(),
                app: app.clone(),
                waiting,
                open_thousandths: open.unwrap_or(0),
            })
        };
        let mut loads: Vec<_> = self.lock().iter().filter_map(figures).collect();
        loads.sort_by(|a, b| (&a.namespace, &a.app).cmp(&(&b.namespace, &b.app)));
        loads
    }

    /// Grows whenever somebody begins to wait for an app that nobody waited for.
    pub(crate) fn calls(&self) -> watch::Receiver<u64> {
        self.calls.subscribe()
    }

    /// Joins those who wait for the app, and calls for it.
    pub(crate) fn wait(
        &self,
        load: Arc<Load>,
        config: &Config,
        installed: &watch::Sender<u64>,
    ) -> Result<Waiting, NoWait> {
        let one_more = |waiting| (waiting < config.wake_max).then_some(waiting + 1);
        let Ok(others) = load.waiting.fetch_update(Relaxed, Relaxed, one_more) else {
            return Err(NoWait::TooMany);
        };
        if others == 0 {
            self.calls.send_modify(|calls| *calls = calls.wrapping_add(1));
        }
        let until = tokio::time::Instant::now() + config.wake_timeout;
        Ok(Waiting { load, routes: ForRoutes::new(installed, until) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(NamespaceName, AppName), Arc<Load>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Returns when there are other routes.
    pub(crate) async fn go_on(&mut self) -> Result<(), NoWait> {
        if self.routes.go_on().await { Ok(()) } else { Err(NoWait::TooLong) }
    }
}

impl Drop for CallInside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.load.waiting.fetch_sub(1, Relaxed);
    }
}

impl NoWait {
    pub(crate) fn detail(self, config: &Config) -> String {
        match self {
            Self::TooMany => format!("{} requests wait for the app to wake already", config.wake_max),
            Self::TooLong => {
                format!(
                    "the app did not wake within {:?}; `wharf why` says what keeps it",
                    config.wake_timeout
                )
            }
        }
    }
}

/// Looks at what is open for as long as there is an app that wants it.
pub(crate) async fn look(shared: Arc<Shared>) {
    let mut installed = shared.installed.subscribe();
    let mut looks = interval(PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        installed.borrow_and_update();
        let any = shared.table.load().count_open(Instant::now());
        if !any && installed.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_that_of_the_last_half_second_and_ends_with_the_instances() {
        let load = Load::default();
        let now = Instant::now();
        assert_eq!(load.open_thousandths(now), None);
        for (look, open) in [100, 1, 2, 3, 4, 6].into_iter().enumerate() {
            load.put(now + PERIOD * look as u32, open);
        }
        assert_eq!(load.open_thousandths(now + PERIOD * 6), Some(3200));
        assert_eq!(load.open_thousandths(now + PERIOD * 30), None);
    }

    #[test]
    fn calls_from_within_count_while_they_are_open() {
        let (load, now) = (Arc::new(Load::default()), Instant::now());
        let call = load.begin_inside();
        load.put(now, 2);
        assert_eq!(load.open_thousandths(now), Some(3000));
        drop(call);
        load.put(now, 2);
        assert_eq!(load.open_thousandths(now), Some(2500));
    }

    #[test]
    fn an_app_without_instances_is_of_interest_while_somebody_waits() {
        let loads = Loads::default();
        let load = loads.of(&NamespaceName::default_namespace(), &"hello".parse().unwrap());
        assert!(loads.figures().is_empty());
        load.waiting.store(2, Relaxed);
        assert_eq!(loads.figures()[0].waiting, 2);
        drop(load);
        loads.forget_the_unused();
        assert!(loads.figures().is_empty());
    }
}
