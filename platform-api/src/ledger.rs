//! Counts the requests of rollouts: from what ingresses report as totals, those between a rollout's start and the end of the old
//! instances.
//!
//! A rollout's counters are stored with the totals that they began with, so that another process goes on where this one was. What a
//! worker has reported is written once a second at most, and when the counting ends.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use wharf_types::requests::{RequestCounts, RequestTotals};
use wharf_types::{AppId, AppName, NamespaceName, NodeId, RolloutId};

use crate::context::Context;
use crate::nodes::Nodes;
use crate::store::requests::{Counter, Totals};
use crate::store::{self, Result};
use crate::view::Loaded;

const WRITES_APART: Duration = Duration::from_secs(1);

/// The rollouts that requests are counted for.
#[derive(Default)]
pub(crate) struct Ledger {
    open: Mutex<HashMap<AppId, Account>>,
}

struct Account {
    namespace: NamespaceName,
    app: AppName,
    rollout: RolloutId,
    known: BTreeMap<Counter, Totals>,
    /// Those of them that are not stored as they are.
    unwritten: Vec<Counter>,
    written_at: Option<Instant>,
}

impl Ledger {
    /// As long as this is held, nobody counts.
    #[cfg(test)]
    pub(crate) async fn hold(&self) -> impl Drop {
        self.open.lock().await
    }

    /// What was counted is stored, and goes on where that is read.
    pub(crate) async fn forget_all(&self) {
        self.open.lock().await.clear();
    }

    /// Begins and ends the counting as an app's newest rollout wants it.
    pub(crate) async fn follow(&self, context: &Context, loaded: &Loaded) -> Result<()> {
        let app = loaded.app.id;
        let wanted = loaded.rollout.as_ref().filter(|rollout| rollout.counting);
        let mut open = self.open.lock().await;
        let newest = wanted.map(|rollout| rollout.view.id);
        if let Some(ended) = open.get_mut(&app).filter(|account| Some(account.rollout) != newest) {
            ended.close(context).await?;
            open.remove(&app);
        }
        let Some(rollout) = wanted else { return Ok(()) };
        if let Entry::Vacant(place) = open.entry(app) {
            place.insert(Account::open(context, loaded, rollout.view.id).await?);
        }
        let is_old = |instance: &&crate::plan::InstanceView| {
            instance.is_live() && (instance.release != rollout.view.to || !instance.is_wanted())
        };
        let is_over = rollout.view.state.is_final() && !loaded.view.instances.iter().any(|it| is_old(&it));
        if is_over && let Some(account) = open.get_mut(&app) {
            account.close(context).await?;
            open.remove(&app);
        }
        Ok(())
    }

    /// Takes in what a worker has reported. There may be many of both, so no report has the totals of all workers looked at.
    pub(crate) async fn count(&self, context: &Context, node: NodeId) -> Result<()> {
        let mut open = self.open.lock().await;
        if open.is_empty() {
            return Ok(());
        }
        let Some((run, mut releases)) = context.nodes.requests_at(node) else { return Ok(()) };
        releases.sort_by(|a, b| key(a).cmp(&key(b)));
        for account in open.values_mut() {
            let of_app = account.find(&releases);
            for totals in &releases[of_app] {
                account.take_in((node, run.clone(), totals.release), &totals.counts);
            }
            let is_due = account.written_at.is_none_or(|at| at.elapsed() >= WRITES_APART);
            if is_due && !account.unwritten.is_empty() {
                account.write(context, false).await?;
            }
        }
        Ok(())
    }

    /// The requests of a rollout as they are now. None: they are as stored.
    pub(crate) async fn now(
        &self,
        nodes: &Nodes,
        app: AppId,
        rollout: RolloutId,
    ) -> Option<Vec<wharf_types::requests::ReleaseRequests>> {
        let mut open = self.open.lock().await;
        let account = open.get_mut(&app).filter(|account| account.rollout == rollout)?;
        account.look(nodes);
        Some(store::requests::by_release(&account.known))
    }
}

impl Account {
    async fn open(context: &Context, loaded: &Loaded, rollout: RolloutId) -> Result<Self> {
        let (namespace, app) = (loaded.view.namespace.clone(), loaded.view.name.clone());
        let mut tx = context.store.read().await?;
        let known = store::requests::of_rollout(&mut tx, rollout).await?;
        drop(tx);
        let unwritten = Vec::new();
        let mut account = Self { namespace, app, rollout, known, unwritten, written_at: None };
        if account.known.is_empty() {
            // What there was before the rollout is none of its own.
            for (counter, counts) in context.nodes.requests(&account.namespace, &account.app) {
                account.unwritten.push(counter.clone());
                account.known.insert(counter, Totals { first: counts.clone(), newest: counts });
            }
        }
        Ok(account)
    }

    fn look(&mut self, nodes: &Nodes) {
        for (counter, counts) in nodes.requests(&self.namespace, &self.app) {
            self.take_in(counter, &counts);
        }
    }

    /// Where the app's own are among the totals of all apps, in the order of [`key`].
    fn find(&self, releases: &[RequestTotals]) -> Range<usize> {
        let own = (&self.namespace, &self.app);
        let first = releases.partition_point(|totals| key(totals) < own);
        first..first + releases[first..].partition_point(|totals| key(totals) == own)
    }

    fn take_in(&mut self, counter: Counter, counts: &RequestCounts) {
        let begun = || Totals { first: RequestCounts::default(), newest: RequestCounts::default() };
        let totals = self.known.entry(counter.clone()).or_insert_with(begun);
        if totals.newest != *counts {
            totals.newest = counts.clone();
            if !self.unwritten.contains(&counter) {
                self.unwritten.push(counter);
            }
        }
    }

    async fn write(&mut self, context: &Context, is_last: bool) -> Result<()> {
        let mut tx = context.write_as_leader().await?;
        // It may have been forgotten, with its app or because of its age.
        if store::rollout::exists(&mut tx, self.rollout).await? {
            for counter in &self.unwritten {
                if let Some(totals) = self.known.get(counter) {
                    store::requests::put(&mut tx, self.rollout, counter, totals).await?;
                }
            }
            if is_last {
                store::rollout::stop_counting(&mut tx, self.rollout).await?;
            }
        }
        tx.commit().await?;
        self.unwritten.clear();
        self.written_at = Some(Instant::now());
        Ok(())
    }

    async fn close(&mut self, context: &Context) -> Result<()> {
        self.look(&context.nodes);
        self.write(context, true).await
    }
}

fn key(totals: &RequestTotals) -> (&NamespaceName, &AppName) {
    (&totals.namespace, &totals.app)
}
