//! Closes the gap between what is wanted and what is, by carrying out what the planner finds.
//!
//! One task, nudged whenever an app or a node changed; it takes no input but the store and the nodes, so a restart changes
//! nothing. A slow full pass is the safety net: it plans what has another revision than when it was planned last. What a change costs
//! does not depend on how many apps there are that it is none of ([`fleet`], [`publish`]).

mod apply;
mod deliveries;
mod fleet;
mod jobs;
mod publish;
mod queue;
mod rebalance;
mod scaling;
mod schedules;
mod settled;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use wharf_types::route::RateLimit;
use wharf_types::{AppId, NodeId, Timestamp, VolumeId};

use crate::context::Context;
use crate::nodes::NodeStatus;
use crate::operations::OperationError;
use crate::plan::RandomIds;
use crate::store::StoreError;
use crate::view::Loaded;
use crate::{store, view};
use apply::Applied;
use jobs::Jobs;
use queue::Queue;
use scaling::Autoscaler;
use schedules::Schedules;
use turns::Turns;

pub use deliveries::Deliveries;
pub use fleet::Fleet;
pub(crate) use publish::Common;
pub use publish::{Beside, Next, Publisher, Whole, acknowledged};
pub use settled::Settled;

/// The safety net, should a nudge ever be missed.
const FULL_PASS: Duration = Duration::from_secs(30);
/// How often leases are looked at; that a node came back is known at once.
const LEASES: Duration = Duration::from_millis(250);
/// A round of telling the nodes that took longer than this is followed by a pause of the same length, at most until the leases are looked at: with other
/// routes every node is told, which costs the same for one app as for many, and leads to as many reports.
const LONG_ROUND: Duration = Duration::from_millis(50);
/// How long an app waits after the store failed.
const RETRY: Duration = Duration::from_secs(1);
/// Plans of one app in a row; each sees the outcome of the one before.
const ROUNDS_MAX: usize = 8;

pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    // Who has been deposed meanwhile is told to end.
    let Ok(epoch) = context.epoch() else { return };
    let mut reconciler = Reconciler::new(context.clone(), epoch);
    let mut full_pass = interval(FULL_PASS);
    let mut leases = interval(LEASES);
    for timer in [&mut full_pass, &mut leases] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        // The first tick comes at once: at the start every app is looked at.
        let full = tokio::select! {
            () = shutdown.cancelled() => return,
            _ = full_pass.tick() => true,
            () = context.dirty.nudged() => false,
            _ = leases.tick() => false,
            () = sleep_until(reconciler.next_wake()) => false,
        };
        if full || context.dirty.take_everything() {
            reconciler.mark_all().await;
        }
        let began = Instant::now();
        let told = reconciler.pass().await;
        let took = began.elapsed();
        if told && took > LONG_ROUND {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(took.min(LEASES)) => {}
            }
        }
    }
}

struct Reconciler {
    context: Arc<Context>,
    fleet: Fleet,
    publisher: Publisher,
    deliveries: Deliveries,
    queue: Queue,
    jobs: Jobs,
    schedules: Schedules,
    autoscaler: Autoscaler,
    turns: Turns,
    /// When apps have to be planned again even if nothing happens.
    wakes: BTreeMap<AppId, Timestamp>,
    /// What the full pass need not look at.
    settled: Settled,
    /// The newest routes that every ready node uses.
    acknowledged: u64,
    /// Apps that have not been read since the start. None: not even listed.
    unread: Option<BTreeSet<AppId>>,
    /// Apps that were read, and wait for the others: whoever places anything has to know what everything takes.
    unplanned: BTreeSet<AppId>,
    /// The volumes that each node is to remove.
    doomed: BTreeMap<NodeId, Vec<VolumeId>>,
    /// The namespaces whose requests are limited.
    rates: Vec<RateLimit>,
    /// Nodes that were taken out of the cluster, and may still have a certificate.
    removed: Vec<NodeId>,
}

impl Reconciler {
    fn new(context: Arc<Context>, epoch: u64) -> Self {
        // 2^32 generations an epoch are more than a process can make, and 2^20 epochs fit into a JSON number.
        let publisher = Publisher::new(epoch << 32);
        Self {
            context,
            fleet: Fleet::default(),
            publisher,
            deliveries: Deliveries::default(),
            queue: Queue::default(),
            jobs: Jobs::default(),
            schedules: Schedules::default(),
            autoscaler: Autoscaler::default(),
            turns: Turns::default(),
            wakes: BTreeMap::new(),
            settled: Settled::default(),
            acknowledged: 0,
            unread: None,
            unplanned: BTreeSet::new(),
            doomed: BTreeMap::new(),
            rates: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// Queues every app that is another than when it was planned last.
    async fn mark_all(&mut self) {
        // Some of them may have no certificate any more.
        self.context.removed_changed();
        let stored = async {
            let mut tx = self.context.store.read().await?;
            store::app::revisions(&mut tx).await
        };
        match stored.await {
            Ok(stored) => {
                self.unread.get_or_insert_with(|| stored.iter().map(|(app, _)| *app).collect());
                self.queue.add_background(self.settled.others(&stored));
            }
            Err(error) => warn!("cannot list the apps: {}", chain(&error)),
        }
        self.jobs.mark_all(&self.context).await;
    }

    /// Plans the next apps that are due, then tells the nodes. Returns whether there was something to tell.
    async fn pass(&mut self) -> bool {
        let nodes = self.context.nodes.list();
        self.look_at_nodes(&nodes);
        let now = Timestamp::now();
        self.turns.look(&nodes, now);
        self.autoscaler.pass(&self.context, &self.fleet, now).await;
        self.queue.add_changed(self.context.dirty.take());
        self.queue.add_changed(self.wakes.extract_if(.., |_, at| *at <= now).map(|(app, _)| app));
        for app in self.queue.take_batch() {
            self.wakes.remove(&app);
            if let Err(error) = self.reconcile(app).await {
                self.failed(app, &error);
            }
        }
        let apps_are_read = self.are_apps_read();
        self.schedules.pass(&self.context).await;
        self.jobs.pass(&self.context, self.fleet.cluster(), apps_are_read).await;
        if self.is_all_read() {
            self.queue.add_changed(std::mem::take(&mut self.unplanned));
            if self.queue.is_empty() {
                self.queue.add_changed(self.fleet.rebalance());
            }
        }
        let other_rates = self.read_rates().await;
        let other_removed = self.read_removed().await;
        let is_news = self.read_doomed().await
            || other_rates
            || other_removed
            || self.fleet.has_changed()
            || self.jobs.have_changed()
            || self.publisher.has_news()
            || self.publisher.lacks_any_of(&nodes);
        // An assignment that lacks apps or jobs because they were not read yet would stop what runs.
        let tells = is_news && apps_are_read && self.jobs.are_read();
        if tells {
            self.publish(&nodes).await;
        }
        // Whatever has to start elsewhere does not wait for it.
        self.turns.tell(&self.context, now).await;
        if !self.queue.is_empty() || (apps_are_read && !self.jobs.is_idle()) {
            self.context.dirty.nudge();
        }
        tells
    }

    async fn publish(&mut self, nodes: &[NodeStatus]) {
        let (apps, jobs) = (self.fleet.take_changed(), self.jobs.take_changed());
        self.publisher.take_in(&self.fleet, apps);
        self.publisher.take_in_jobs(self.jobs.views(), jobs);
        if let Err(error) = self.deliveries.update(&self.context, &mut self.publisher).await {
            // The publisher still has news where there were any; volumes or rates may be all that has changed.
            self.context.volumes_unread();
            warn!("cannot read secrets, trying again: {}", chain(&error));
            return;
        }
        let beside = Beside {
            doomed: &self.doomed,
            rates: &self.rates,
            removed: &self.removed,
            secrets: &|id| self.deliveries.get(id),
        };
        let next = self.publisher.publish(nodes, beside);
        self.context.nodes.publish(next);
        self.mark_acknowledged();
    }

    /// Has the apps planned that the ready nodes have let go of something of, or have come to know.
    fn mark_acknowledged(&mut self) {
        let apps = self.publisher.take_acknowledged(self.acknowledged);
        if !apps.is_empty() {
            self.context.dirty.mark(apps);
        }
    }

    /// Reads which volumes are to be removed, if others are than before.
    async fn read_doomed(&mut self) -> bool {
        if !self.context.take_volumes_changed() {
            return false;
        }
        let doomed = async {
            let mut tx = self.context.store.read().await?;
            store::volume::doomed(&mut tx).await
        };
        match doomed.await {
            Ok(doomed) => {
                self.doomed.clear();
                for (node, volume) in doomed {
                    self.doomed.entry(node).or_default().push(volume);
                }
                true
            }
            Err(error) => {
                warn!("cannot list the volumes that are to be removed, trying again: {}", chain(&error));
                self.context.volumes_unread();
                false
            }
        }
    }

    /// Reads how much namespaces may have in a second, if that has changed.
    async fn read_rates(&mut self) -> bool {
        if !self.context.take_rates_changed() {
            return false;
        }
        let rates = async {
            let mut tx = self.context.store.read().await?;
            store::quota::rates(&mut tx).await
        };
        match rates.await {
            Ok(rates) => {
                self.rates = rates;
                true
            }
            Err(error) => {
                warn!("cannot read the quotas of namespaces, trying again: {}", chain(&error));
                self.context.rates_unread();
                false
            }
        }
    }

    /// Reads which nodes were taken out of the cluster, if that may be others than before.
    async fn read_removed(&mut self) -> bool {
        if !self.context.take_removed_changed() {
            return false;
        }
        let removed = async {
            let mut tx = self.context.store.read().await?;
            store::joining::removed(&mut tx, Timestamp::now()).await
        };
        match removed.await {
            Ok(removed) => {
                let is_news = removed != self.removed;
                self.removed = removed;
                is_news
            }
            Err(error) => {
                warn!("cannot read which nodes were removed, trying again: {}", chain(&error));
                self.context.removed_unread();
                false
            }
        }
    }

    /// Marks the apps that have to be planned again because nodes came, went, or let go of routes.
    fn look_at_nodes(&mut self, nodes: &[NodeStatus]) {
        let acknowledged = acknowledged(nodes, self.acknowledged);
        if let Some(apps) = self.fleet.observe(nodes) {
            self.queue.add_background(apps);
            self.jobs.mark_live();
        }
        if acknowledged != self.acknowledged {
            self.acknowledged = acknowledged;
            self.mark_acknowledged();
        }
    }

    /// Reads an app, unless it is known as it is.
    async fn load(&self, id: AppId) -> Result<Option<Loaded>, OperationError> {
        let Context { store, recent, releases, .. } = &*self.context;
        let Some(app) = store::app::get(&mut store.look().await?, id).await? else { return Ok(None) };
        if let Some(known) = recent.get(&app) {
            return Ok(Some(Loaded::clone(&known)));
        }
        let mut tx = store.read().await?;
        let loaded = view::load(&mut tx, releases, id).await?;
        if let Some(loaded) = &loaded {
            recent.take_in(loaded);
        }
        Ok(loaded)
    }

    /// Plans one app until there is nothing more to do now.
    async fn reconcile(&mut self, id: AppId) -> Result<(), OperationError> {
        for round in 0..ROUNDS_MAX {
            let Some(loaded) = self.load(id).await? else {
                self.forget(id);
                return Ok(());
            };
            self.context.ledger.follow(&self.context, &loaded).await?;
            let (mut view, revision) = (loaded.view, loaded.app.revision);
            let releases: Vec<_> = loaded.releases.into_values().collect();
            self.publisher.mark_acknowledged(&mut view, &releases, self.acknowledged);
            self.fleet.mark_moving(&mut view, &releases);
            let now = view.time(Timestamp::now());
            self.fleet.put(view, releases);
            self.read(id);
            if !self.is_all_read() {
                self.unplanned.insert(id);
                return Ok(());
            }
            let Some(changes) = self.fleet.plan(now, id, &mut RandomIds) else { return Ok(()) };
            let Some(entry) = self.fleet.view(id) else { return Ok(()) };
            self.context.unplaced().insert(id, changes.unplaced.clone());
            match changes.wake_at {
                Some(at) => self.wakes.insert(id, at),
                None => self.wakes.remove(&id),
            };
            if changes.changes.is_empty() {
                self.settled.settle(id, revision);
                return Ok(());
            }
            match apply::apply(&self.context, id, entry, revision, &changes, now).await? {
                Applied::Deleted => {
                    self.forget(id);
                    return Ok(());
                }
                Applied::Done => self.fleet.tell_to_leave(&changes.changes),
                // The others have their turn before the rest.
                Applied::Emptied => break,
                // If somebody was faster, the next round sees what they did; if there are many of them, when the other apps had their turn.
                Applied::Outdated if round > 0 => break,
                Applied::Outdated => {}
            }
        }
        self.context.dirty.mark([id]);
        Ok(())
    }

    fn failed(&mut self, app: AppId, error: &OperationError) {
        if let OperationError::Store(StoreError::Corrupt(_)) = error {
            // No other app has to wait for one that cannot be read. What runs of it goes on if it was read before; else nobody knows
            // what that is, and it ends.
            error!(
                app.id = %app,
                "app {app} cannot be read and is left out until it can, restore the data directory from a backup: {}",
                chain(error)
            );
            self.read(app);
            self.settled.forget(app);
        } else {
            warn!(app.id = %app, "cannot reconcile app {app}, trying again in {RETRY:?}: {}", chain(error));
            self.wakes.insert(app, plan_after(Timestamp::now(), RETRY));
        }
    }

    fn are_apps_read(&self) -> bool {
        self.unread.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Whether everything is known that takes something of a node.
    fn is_all_read(&self) -> bool {
        self.are_apps_read() && self.jobs.are_read()
    }

    fn read(&mut self, id: AppId) {
        if let Some(unread) = &mut self.unread {
            unread.remove(&id);
        }
    }

    fn forget(&mut self, id: AppId) {
        self.read(id);
        self.fleet.remove(id);
        self.settled.forget(id);
        self.wakes.remove(&id);
        self.context.unplaced().remove(&id);
    }

    /// When the first app, job or schedule is due.
    fn next_wake(&self) -> Instant {
        let far = Instant::now() + FULL_PASS;
        let wakes = [self.wakes.values().min().copied(), self.jobs.next_wake(), self.schedules.next_wake()];
        let Some(at) = wakes.into_iter().flatten().min() else { return far };
        let wait = at.duration_since(Timestamp::now());
        match Duration::try_from(wait) {
            // A plan that is due again at once must not keep the task from everything else.
            Ok(wait) => Instant::now() + wait.clamp(Duration::from_millis(1), FULL_PASS),
            Err(_) => Instant::now() + Duration::from_millis(1),
        }
    }
}

fn plan_after(now: Timestamp, span: Duration) -> Timestamp {
    now.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// An error with everything that caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
