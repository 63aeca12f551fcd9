//! What planners and users write of jobs and schedules.

use wharf_platform_api::cores::quota_demand;
use wharf_platform_api::plan::job::{CommandView, Ending, JobChange, StopCause};
use wharf_platform_api::plan::schedule::ScheduleChange;
use wharf_types::Digest;
use wharf_types::job::{JobSpec, JobState};
use wharf_types::world::World;

use super::values::variables;
use super::*;

impl Store {
    /// Mirrors `operations::jobs::make`, but for the quota, which is asked when it is written.
    pub(crate) fn create_job(
        &mut self,
        namespace: &NamespaceName,
        spec: &JobSpec,
        schedule: Option<ScheduleId>,
        now: Timestamp,
    ) -> Result<JobId, Refused> {
        let id = JobId::from_uuid(self.ids(now).next());
        let for_worker = spec.for_worker();
        let pins = self.newest(namespace, &for_worker)?;
        let runs = spec.parallelism.min(spec.completions);
        let demand = QuotaDemand { replicas: runs, ..quota_demand(&for_worker, World::CommandP2) };
        let command = CommandView {
            artifact: Digest::of(b"job"),
            world: World::CommandP2,
            secrets: variables(&for_worker, &pins),
            spec: Arc::new(for_worker),
            app: "job".parse().unwrap(),
            release: 0,
        };
        let view = JobView {
            id,
            namespace: namespace.clone(),
            name: "job".parse().unwrap(),
            scheduled: schedule.is_some(),
            spec: Arc::new(spec.clone()),
            command: Arc::new(command),
            state: JobState::Pending,
            ending: None,
            created_at: now,
            ended_at: None,
            expires_at: None,
            runs: Vec::new(),
        };
        self.jobs.insert(id, Arc::new(Job { view, schedule, demand, pins, revision: 0 }));
        Ok(id)
    }

    /// Mirrors `reconcile::schedules::try_fire`: what is refused is a time without a job.
    fn try_fire(&mut self, spec: &JobSpec, schedule: ScheduleId, now: Timestamp) -> Option<JobId> {
        let namespace = NamespaceName::default_namespace();
        let before = self.used(&namespace);
        let job = self.create_job(&namespace, spec, Some(schedule), now).ok()?;
        if self.check_quota(&namespace, &before).is_err() {
            self.jobs.remove(&job);
            return None;
        }
        Some(job)
    }

    /// Mirrors what `reconcile::jobs::set_state` does with the values of a job that has ended.
    fn let_go_of_values(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.view.state.is_final() && !job.pins.is_empty() {
            Arc::make_mut(job).pins.clear();
            let namespace = job.view.namespace.clone();
            self.prune_values(&namespace);
        }
    }

    /// Says how the job is to end: `store::job::end`.
    pub(crate) fn end_job(&mut self, id: JobId) -> bool {
        let Some(job) = self.jobs.get_mut(&id).map(Arc::make_mut) else { return false };
        if job.view.ending.is_some() || job.view.state.is_final() {
            return false;
        }
        job.view.ending = Some(Ending { state: JobState::Cancelled, reason: None });
        job.revision += 1;
        true
    }

    pub(crate) fn load_job(&self, id: JobId) -> Option<(JobView, i64)> {
        let job = self.jobs.get(&id)?;
        Some((job.view.clone(), job.revision))
    }

    /// Mirrors `reconcile::jobs::write`, and the guard in `store::job::touch_if`.
    pub(crate) fn apply_job(
        &mut self,
        id: JobId,
        (epoch, seen): (u64, i64),
        changes: &[JobChange],
        now: Timestamp,
    ) -> Applied {
        if epoch != self.epoch {
            return Applied::Deposed;
        }
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.revision == seen) else {
            return Applied::Outdated;
        };
        let job = Arc::make_mut(job);
        job.revision += 1;
        let schedule = job.schedule;
        for change in changes {
            match change {
                JobChange::Delete => drop(self.jobs.remove(&id)),
                JobChange::Preempt { instance, owner, .. } => self.preempt(*owner, *instance),
                _ => {
                    let job = self.jobs.get_mut(&id).expect("it is changed only before it is deleted");
                    Arc::make_mut(job).view.apply(now, change);
                }
            }
        }
        self.let_go_of_values(id);
        if let Some(schedule) = schedule {
            self.prune_jobs(schedule);
        }
        Applied::Done
    }

    /// Mirrors `reconcile::apply::preempt_run`, and the guard in `store::run::stop`.
    pub(super) fn preempt_run(&mut self, id: InstanceId) {
        let is_it = |run: &RunView| run.id == id && run.is_live() && run.stop.is_none();
        let Some(job) = self.jobs.values_mut().find(|job| job.view.runs.iter().any(is_it)) else { return };
        let job = Arc::make_mut(job);
        job.revision += 1;
        for run in job.view.runs.iter_mut().filter(|run| is_it(run)) {
            run.stop = Some(StopCause::Preempted);
        }
    }

    /// Forgets the ended jobs of a schedule that are too many, as `store::job::surplus` finds them, but for how they ended.
    fn prune_jobs(&mut self, schedule: ScheduleId) {
        let kept = self.schedules[&schedule].spec.keep_failed as usize;
        let is_over = |job: &&Arc<Job>| job.schedule == Some(schedule) && job.view.state.is_final();
        let over: Vec<JobId> = self.jobs.values().filter(is_over).map(|job| job.view.id).collect();
        for job in &over[..over.len().saturating_sub(kept)] {
            self.jobs.remove(job);
        }
    }

    /// The jobs of a schedule that have not ended.
    pub(crate) fn active_jobs(&self, schedule: ScheduleId) -> Vec<JobId> {
        let is_active = |job: &&Arc<Job>| job.schedule == Some(schedule) && !job.view.state.is_final();
        self.jobs.values().filter(is_active).map(|job| job.view.id).collect()
    }

    /// Mirrors `reconcile::schedules::write`, and the guard in `store::schedule::decide`. Returns the jobs that have changed.
    pub(crate) fn decide(
        &mut self,
        seen: &ScheduleView,
        epoch: u64,
        (changes, until): (&[ScheduleChange], Timestamp),
        now: Timestamp,
    ) -> (Applied, Vec<JobId>) {
        if epoch != self.epoch {
            return (Applied::Deposed, Vec::new());
        }
        let Some(row) = self.schedules.get_mut(&seen.id) else { return (Applied::Outdated, Vec::new()) };
        if row.decided_until != seen.decided_until {
            return (Applied::Outdated, Vec::new());
        }
        row.decided_until = until;
        let spec = row.spec.job.spec.clone();
        let mut touched = Vec::new();
        for change in changes {
            match change {
                ScheduleChange::Fire { .. } => touched.extend(self.try_fire(&spec, seen.id, now)),
                ScheduleChange::Cancel { job } => {
                    self.end_job(*job);
                    touched.push(*job);
                }
                ScheduleChange::Pass { .. } => {}
            }
        }
        (Applied::Done, touched)
    }
}
