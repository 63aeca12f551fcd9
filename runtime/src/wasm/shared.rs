//! What every app of a worker shares: the clock, the pool, the memory and the logs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use wharf_types::figures::Share;

use super::admission::QUEUE_TIMEOUT;
use super::allowance::{Allowance, Purpose, Room};
use super::app::HttpApp;
use super::engine::Activity;
use super::failure::InvokeError;
use super::memory::HostMemory;
use super::meter::Meter;
use super::places::{Place, Places};
use super::pool::STORES_MAX;
use crate::logs::LogSink;

/// Between two looks at whether an engine's pool has what it lacked.
const POOL_WAIT: Duration = Duration::from_millis(10);

/// What a new store needs: a place in its engine's pool, and room in the memory of its namespace.
pub(super) struct StorePlace {
    pub(super) pool: Place,
    pub(super) room: Room,
}

/// What every app of a worker shares.
pub(super) struct Shared {
    pub(super) activity: Arc<Activity>,
    /// Places in the engines' pools.
    pub(super) places: Places,
    pub(super) memory: Arc<HostMemory>,
    pub(super) logs: LogSink,
    /// Guests that got no place in time, since the start.
    refused: AtomicU64,
    /// Idle stores at the last sweep.
    idle: AtomicU64,
    /// Those that may have warm stores.
    apps: Mutex<Vec<Weak<HttpApp>>>,
}

impl Shared {
    pub(super) fn new(activity: Arc<Activity>, logs: LogSink) -> Self {
        Self {
            activity,
            places: Places::new(STORES_MAX),
            memory: Arc::new(HostMemory::of_this_host()),
            logs,
            refused: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            apps: Mutex::default(),
        }
    }

    /// Room in the engine's pool for a store of the app that the meter is of. Where there is none, warm stores make room: they only save time.
    pub(super) async fn place(
        &self,
        meter: &Arc<Meter>,
        places: u32,
        purpose: Purpose,
    ) -> Result<Place, InvokeError> {
        let place = self.places.take(meter, places, purpose, || self.drop_a_warm_store()).await;
        place.ok_or_else(|| self.refuse())
    }

    /// A store had its place, and its engine's pool lacks something all the same: waits for a moment in which a warm store goes or something else ends.
    /// Fails where it has been so for long since `begun`.
    pub(super) async fn wait_for_pool(&self, begun: Instant) -> Result<(), InvokeError> {
        if begun.elapsed() >= QUEUE_TIMEOUT {
            return Err(self.refuse());
        }
        if !self.drop_a_warm_store() {
            tokio::time::sleep(POOL_WAIT).await;
        }
        Ok(())
    }

    fn refuse(&self) -> InvokeError {
        self.refused.fetch_add(1, Relaxed);
        InvokeError::Busy
    }

    /// Drops a store that waits for its next request, of an app whose namespace this is of; false: there is none.
    pub(super) fn drop_a_warm_store_of(&self, allowance: &Arc<Allowance>) -> bool {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_of =
            |app: &Arc<HttpApp>| app.meter().allowance().is_some_and(|other| Arc::ptr_eq(other, allowance));
        apps.iter().filter_map(Weak::upgrade).filter(is_of).any(|app| app.drop_idle_store())
    }

    /// Apps take turns.
    fn drop_a_warm_store(&self) -> bool {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..apps.len() {
            let Some(app) = apps.pop() else { break };
            let Some(app) = app.upgrade() else { continue };
            let dropped = app.drop_idle_store();
            apps.insert(0, Arc::downgrade(&app));
            if dropped {
                return true;
            }
        }
        false
    }

    /// Drops stores that have waited for their next request for longer than their apps want, and has the apps look at themselves.
    pub(super) fn sweep(&self, now: Instant) {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut idle = 0;
        for app in apps.iter().filter_map(Weak::upgrade) {
            idle += app.drop_stores_idle_since(now);
            if let Some(change) = app.review() {
                tokio::spawn(change);
            }
        }
        self.idle.store(idle as u64, Relaxed);
    }

    /// Places, and how many of them are taken.
    pub(super) fn places(&self) -> Share {
        self.places.share()
    }

    /// Guests that got no place in time, since the start.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Stores that wait for their next request, as of the last sweep.
    pub(super) fn idle_stores(&self) -> u64 {
        self.idle.load(Relaxed)
    }

    pub(super) fn register(&self, app: &Arc<HttpApp>) {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.retain(|app| app.strong_count() > 0);
        apps.push(Arc::downgrade(app));
    }
}
