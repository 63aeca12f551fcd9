//! Apps as readers saw them last. Every change of an app, of its instances and of its rollouts draws a revision
//! (`store::change`), so what was read at a revision is what is there while the app has that revision.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wharf_types::AppId;

use super::{Loaded, Releases, complete};
use crate::store::app::App;
use crate::store::{self, Conn};

/// Apps that are kept in memory: some kilobytes each.
const APPS_MAX: usize = 2_000;

/// Instances of an app that is kept twice.
const INSTANCES_MAX: usize = 16;

#[derive(Default)]
pub(crate) struct Recent(Mutex<HashMap<AppId, Arc<Loaded>>>);

impl Recent {
    /// What [`complete`] read when the app was as it is.
    pub(crate) fn get(&self, app: &App) -> Option<Arc<Loaded>> {
        self.lock().get(&app.id).filter(|known| known.app.revision == app.revision).cloned()
    }

    /// What belongs to an app's row, read in its transaction unless it is known.
    pub(crate) async fn complete(
        &self,
        conn: &mut Conn,
        releases: &Releases,
        app: App,
    ) -> store::Result<Arc<Loaded>> {
        if let Some(known) = self.get(&app) {
            return Ok(known);
        }
        let loaded = Arc::new(complete(conn, releases, app).await?);
        if is_whole(&loaded) {
            self.put(loaded.clone());
        }
        Ok(loaded)
    }

    /// Takes in what the planner has read, unless that is much: it has a copy of its own.
    pub(crate) fn take_in(&self, loaded: &Loaded) {
        if is_whole(loaded) && loaded.view.instances.len() <= INSTANCES_MAX {
            self.put(Arc::new(loaded.clone()));
        }
    }

    /// Takes in an app of which somebody knows how a transaction has left it: nobody else wrote meanwhile, and only committed it counts.
    pub(crate) fn put(&self, loaded: Arc<Loaded>) {
        let mut known = self.lock();
        if known.len() >= APPS_MAX {
            known.clear();
        }
        known.insert(loaded.app.id, loaded);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AppId, Arc<Loaded>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an app cannot change without another revision: the requests of a rollout are counted without one.
fn is_whole(loaded: &Loaded) -> bool {
    loaded.rollout.as_ref().is_none_or(|rollout| !rollout.counting)
}
