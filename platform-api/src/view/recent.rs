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
        // The requests of a rollout are counted without a revision.
        if loaded.rollout.as_ref().is_none_or(|rollout| !rollout.counting) {
            self.put(loaded.clone());
        }
        Ok(loaded)
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
