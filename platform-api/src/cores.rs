//! What decides and keeps account between [`crate::plan`] and the outside, for the simulator and the benchmarks: the real thing, without the database
//! and the sockets.
//!
//! Nobody else uses it, and nothing promises that it stays as it is.

use std::path::Path;

use wharf_types::{AppId, NamespaceName, Timestamp};

pub use crate::nodes::{News, NodeStatus, Nodes, Refusal, Start, Unwritten};
pub use crate::operations::autoscale::too_wide;
pub use crate::operations::quota::{demand as quota_demand, demand_among, undrained};
pub use crate::operations::secrets::{Pins, moved};
pub use crate::plan::autoscale::{Demand, History, Scaling, Why, decide};
pub use crate::quota::{
    Demand as QuotaDemand, Exceeded, Standing, check as check_quota, priority_max, priority_refusal,
};
use crate::reconcile::chain;
pub use crate::reconcile::{Beside, Deliveries, Fleet, Next, Publisher, Settled, Whole, acknowledged};
pub use crate::store::node::{NodeSettings, StoredNode};
pub use crate::store::secret::Pinned;
use crate::store::{self, Location, Store};
pub use crate::view::pinned_variables;

/// A database with nothing but apps, for the benchmark of the full pass.
pub struct AppRows(Store);

impl AppRows {
    /// Makes the file, with so many apps in it.
    pub async fn create(file: &Path, apps: u32) -> Result<Self, String> {
        let opened = Store::open(Location::File(file)).await;
        let rows = Self(opened.map_err(|error| chain(&error))?);
        rows.fill(apps).await.map_err(|error| chain(&error))?;
        Ok(rows)
    }

    async fn fill(&self, apps: u32) -> store::Result<()> {
        let now = Timestamp::now();
        let mut tx = self.0.write().await?;
        let namespace = store::namespace::create(&mut tx, &NamespaceName::default_namespace(), now).await?;
        for number in 0..apps {
            let name = format!("app-{number}").parse().expect("it is a name");
            let app = store::app::create(&mut tx, namespace, &name, now).await?;
            store::change::touch(&mut tx, app, now).await?;
        }
        tx.commit().await
    }

    /// What a full pass reads.
    pub async fn revisions(&self) -> Result<Vec<(AppId, i64)>, String> {
        let revisions = async {
            let mut tx = self.0.read().await?;
            store::app::revisions(&mut tx).await
        };
        revisions.await.map_err(|error: store::StoreError| chain(&error))
    }
}
