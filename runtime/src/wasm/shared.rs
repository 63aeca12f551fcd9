//! What every app of a worker shares: the clock, the pool, the memory and the logs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wharf_types::figures::Share;

use super::admission::QUEUE_TIMEOUT;
use super::allowance::{Allowance, Room};
use super::app::HttpApp;
use super::engine::Activity;
use super::failure::InvokeError;
use super::memory::HostMemory;
use super::pool::STORES_MAX;
use crate::logs::LogSink;

/// What a new store needs: a place in its engine's pool, and room in the memory of its namespace.
pub(super) struct StorePlace {
    pub(super) pool: OwnedSemaphorePermit,
    pub(super) room: Room,
}

/// What every app of a worker shares.
pub(super) struct Shared {
    pub(super) activity: Arc<Activity>,
    /// Places in the engines' pools.
    pub(super) stores: Arc<Semaphore>,
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
            stores: Arc::new(Semaphore::new(STORES_MAX)),
            memory: Arc::new(HostMemory::of_this_host()),
            logs,
            refused: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            apps: Mutex::default(),
        }
    }

    /// Room for a store in the engine's pool. Where there is none, warm stores make room: they only save time.
    pub(super) async fn place(&self, places: u32) -> Result<OwnedSemaphorePermit, InvokeError> {
        loop {
            match self.stores.clone().try_acquire_many_owned(places) {
                Ok(place) => return Ok(place),
                Err(_) if self.drop_a_warm_store() => {}
                Err(_) => break,
            }
        }
        match tokio::time::timeout(QUEUE_TIMEOUT, self.stores.clone().acquire_many_owned(places)).await {
            Ok(Ok(place)) => Ok(place),
            _ => {
                self.refused.fetch_add(1, Relaxed);
                Err(InvokeError::Busy)
            }
        }
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
        let used = STORES_MAX.saturating_sub(self.stores.available_permits());
        Share { used: used as u64, max: STORES_MAX as u64 }
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
