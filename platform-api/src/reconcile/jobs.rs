//! Carries out what the planner finds for jobs. Beside the apps, in the same task, so that both place on the same nodes in turn.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tracing::{error, warn};
use wharf_types::job::JobState;
use wharf_types::{AppId, JobId, Timestamp};

use super::apply::Victim;
use super::{RETRY, apply, chain, plan_after};
use crate::context::Context;
use crate::operations::OperationError;
use crate::plan::RandomIds;
use crate::plan::job::{self, JobChange, JobChanges, JobView};
use crate::plan::scheduler::Cluster;
use crate::store::job::Job;
use crate::store::run::NewRun;
use crate::store::{self, Conn, StoreError};
use crate::view;

/// Jobs that are planned before the nodes are told.
const BATCH: usize = 64;
/// Plans of one job in a row.
const ROUNDS_MAX: usize = 8;

#[derive(Default)]
pub(super) struct Jobs {
    /// Those that have not ended.
    views: HashMap<JobId, JobView>,
    due: BTreeSet<JobId>,
    wakes: BTreeMap<JobId, Timestamp>,
    /// Jobs that have not been read since the start. None: not even listed.
    unread: Option<BTreeSet<JobId>>,
    /// Jobs that have changed, or ended, since somebody asked.
    changed: BTreeSet<JobId>,
}

impl Jobs {
    /// Looks at all of them again.
    pub(super) async fn mark_all(&mut self, context: &Context) {
        let due = async {
            let mut tx = context.store.read().await?;
            store::job::due(&mut tx, Timestamp::now()).await
        };
        match due.await {
            Ok(due) => {
                self.unread.get_or_insert_with(|| due.iter().copied().collect());
                self.due.extend(due);
            }
            Err(error) => warn!("cannot list the jobs: {}", chain(&error)),
        }
    }

    /// Nodes came or went.
    pub(super) fn mark_live(&mut self) {
        self.due.extend(self.views.keys().copied());
    }

    /// Whether every job is known, so that an assignment can be whole.
    pub(super) fn are_read(&self) -> bool {
        self.unread.as_ref().is_some_and(BTreeSet::is_empty)
    }

    pub(super) fn have_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The jobs that are another than when this was asked last, or have ended.
    pub(super) fn take_changed(&mut self) -> BTreeSet<JobId> {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.due.is_empty()
    }

    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.values().min().copied()
    }

    pub(super) fn views(&self) -> &HashMap<JobId, JobView> {
        &self.views
    }

    /// Plans the next jobs that are due. What places anything waits until the apps and jobs of before are all counted.
    pub(super) async fn pass(&mut self, context: &Arc<Context>, cluster: &mut Cluster, apps_are_read: bool) {
        let now = Timestamp::now();
        self.due.extend(context.dirty.take_jobs());
        self.due.extend(self.wakes.extract_if(.., |_, at| *at <= now).map(|(job, _)| job));
        for id in self.unread.clone().unwrap_or_default() {
            if let Err(error) = self.load(context, cluster, id).await {
                self.failed(id, &error);
            }
        }
        if !apps_are_read || !self.are_read() {
            return;
        }
        for _ in 0..BATCH {
            let Some(id) = self.due.pop_first() else { return };
            self.wakes.remove(&id);
            if let Err(error) = self.reconcile(context, cluster, id).await {
                self.failed(id, &error);
            }
        }
    }

    /// Reads a job anew. None: it is gone.
    async fn load(
        &mut self,
        context: &Context,
        cluster: &mut Cluster,
        id: JobId,
    ) -> Result<Option<(Job, JobView)>, OperationError> {
        let mut tx = context.store.read().await?;
        let loaded = view::job::load(&mut tx, id).await?;
        drop(tx);
        self.read(id);
        let Some(loaded) = loaded else {
            self.forget(context, cluster, id);
            return Ok(None);
        };
        self.put(cluster, loaded.view.clone());
        Ok(Some((loaded.job, loaded.view)))
    }

    /// Takes in what was read, and tells the cluster what has changed of it.
    fn put(&mut self, cluster: &mut Cluster, view: JobView) {
        let id = view.id;
        if self.views.get(&id) == Some(&view) {
            return;
        }
        self.changed.insert(id);
        for run in &view.runs {
            match view.held(run) {
                Some(held) => cluster.put(run.id, held),
                None => cluster.remove(run.id),
            }
        }
        if view.state.is_final() {
            self.views.remove(&id);
        } else {
            self.views.insert(id, view);
        }
    }

    async fn reconcile(
        &mut self,
        context: &Arc<Context>,
        cluster: &mut Cluster,
        id: JobId,
    ) -> Result<(), OperationError> {
        for _ in 0..ROUNDS_MAX {
            let Some((job, view)) = self.load(context, cluster, id).await? else { return Ok(()) };
            let now = Timestamp::now();
            // What it was waiting for is its own to take.
            cluster.set_claims(id.as_owner(), Vec::new());
            let changes = job::plan(now, &view, cluster, &mut RandomIds);
            cluster.set_claims(id.as_owner(), changes.claims.clone());
            if changes.unplaced.is_empty() {
                context.unplaced().remove(&id.as_owner());
            } else {
                context.unplaced().insert(id.as_owner(), changes.unplaced.clone());
            }
            match changes.wake_at {
                Some(at) => self.wakes.insert(id, at),
                None => self.wakes.remove(&id),
            };
            if changes.changes.is_empty() {
                return Ok(());
            }
            if write(context, &job, &view, &changes, now).await? {
                tell_to_leave(cluster, &changes.changes);
            }
        }
        self.due.insert(id);
        Ok(())
    }

    fn failed(&mut self, id: JobId, error: &OperationError) {
        if let OperationError::Store(StoreError::Corrupt(_)) = error {
            error!(
                job.id = %id,
                "job {id} cannot be read and is left out until it can, restore the data directory from a backup: {}",
                chain(error)
            );
            self.read(id);
        } else {
            warn!(job.id = %id, "cannot reconcile job {id}, trying again in {RETRY:?}: {}", chain(error));
            self.wakes.insert(id, plan_after(Timestamp::now(), RETRY));
        }
    }

    fn read(&mut self, id: JobId) {
        if let Some(unread) = &mut self.unread {
            unread.remove(&id);
        }
    }

    fn forget(&mut self, context: &Context, cluster: &mut Cluster, id: JobId) {
        self.wakes.remove(&id);
        context.unplaced().remove(&id.as_owner());
        cluster.set_claims(id.as_owner(), Vec::new());
        if let Some(view) = self.views.remove(&id) {
            self.changed.insert(id);
            view.runs.iter().for_each(|run| cluster.remove(run.id));
        }
    }
}

/// Takes in, of changes that were written, that instances of others are to go.
fn tell_to_leave(cluster: &mut Cluster, changes: &[JobChange]) {
    for change in changes {
        if let JobChange::Preempt { instance, .. } = change {
            cluster.leave(*instance);
        }
    }
}

/// Writes a plan in one transaction. `false`: somebody changed the job since it was read, and the next round sees what they did.
async fn write(
    context: &Arc<Context>,
    job: &Job,
    view: &JobView,
    changes: &JobChanges,
    now: Timestamp,
) -> Result<bool, OperationError> {
    let mut tx = context.write_as_leader().await?;
    if !store::job::touch_if(&mut tx, job.id, job.revision).await? {
        return Ok(false);
    }
    let mut gone = Vec::new();
    for change in &changes.changes {
        gone.extend(write_one(&mut tx, job, view, change, now).await?);
    }
    let victim = |change: &JobChange| match change {
        JobChange::Preempt { instance, owner, node } => {
            Some(Victim { owner: *owner, instance: *instance, node: *node })
        }
        _ => None,
    };
    let victims: Vec<Victim> = changes.changes.iter().filter_map(victim).collect();
    apply::preempt(&mut tx, context, &victims, now).await?;
    tx.commit().await?;
    context.announce(job.id.as_owner());
    for id in gone {
        context.logs.remove(&job.namespace, id).await;
    }
    let owners: BTreeSet<AppId> = victims.into_iter().map(|victim| victim.owner).collect();
    owners.into_iter().for_each(|owner| context.owner_changed(owner));
    Ok(true)
}

/// Returns the jobs that are gone with this.
async fn write_one(
    conn: &mut Conn,
    job: &Job,
    view: &JobView,
    change: &JobChange,
    now: Timestamp,
) -> Result<Vec<JobId>, OperationError> {
    match change {
        JobChange::CreateRun { id, index, attempt, node } => {
            let new = NewRun { id: *id, job: job.id, index: *index, attempt: *attempt, node: *node };
            store::run::create(conn, &new, now).await?;
        }
        JobChange::StopRun { run, cause } => {
            store::run::stop(conn, *run, *cause).await?;
        }
        JobChange::LoseRun { run, reason } => {
            store::run::lose(conn, *run, reason, now).await?;
        }
        JobChange::End { ending } => {
            store::job::end(conn, job.id, ending).await?;
        }
        JobChange::SetState { state } => return set_state(conn, job, view, *state, now).await,
        // What leaves of one app is told in one event.
        JobChange::Preempt { .. } => {}
        JobChange::Delete => {
            store::job::delete(conn, job.id).await?;
            return Ok(vec![job.id]);
        }
        JobChange::Event { kind, message } => {
            store::event::append(conn, &job.namespace, job.app.as_ref(), kind, message, now).await?;
        }
    }
    Ok(Vec::new())
}

async fn set_state(
    conn: &mut Conn,
    job: &Job,
    view: &JobView,
    state: JobState,
    now: Timestamp,
) -> Result<Vec<JobId>, OperationError> {
    let mut after = view.clone();
    after.apply(now, &JobChange::SetState { state });
    store::job::advance(conn, job.id, state, after.expires_at, now).await?;
    let mut gone = Vec::new();
    if !state.is_final() {
        return Ok(gone);
    }
    if let Some(namespace) = store::namespace::find(conn, &job.namespace).await? {
        store::secret::prune(conn, namespace.id).await?;
    }
    let Some(schedule) = job.schedule else { return Ok(gone) };
    let Some(schedule) = store::schedule::get(conn, schedule).await? else { return Ok(gone) };
    let (succeeded, others) = (schedule.spec.keep_succeeded, schedule.spec.keep_failed);
    for id in store::job::surplus(conn, schedule.id, succeeded, others).await? {
        if store::job::delete(conn, id).await? {
            gone.push(id);
        }
    }
    Ok(gone)
}
