//! The changes planned so far, and the job as they will leave it: each step sees the outcome of the one before.

use super::*;
use crate::plan::scheduler::Needs;

pub(super) struct Draft<'a> {
    now: Timestamp,
    pub(super) job: JobView,
    cluster: &'a mut Cluster,
    ids: &'a mut dyn IdSource,
    changes: JobChanges,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        now: Timestamp,
        job: &JobView,
        cluster: &'a mut Cluster,
        ids: &'a mut dyn IdSource,
    ) -> Self {
        Self { now, job: job.clone(), cluster, ids, changes: JobChanges::default() }
    }

    pub(super) fn finish(self) -> JobChanges {
        self.changes
    }

    fn push(&mut self, change: JobChange) {
        self.job.apply(self.now, &change);
        self.changes.changes.push(change);
    }

    fn wake(&mut self, at: Timestamp) {
        self.changes.wake_at = Some(self.changes.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Forgets a job that ended long ago.
    pub(super) fn expire(&mut self) {
        let Some(at) = self.job.expires_at else { return };
        if at <= self.now {
            self.push(JobChange::Delete);
        } else {
            self.wake(at);
        }
    }

    /// Ends the runs of nodes that no longer exist. A node whose lease has only expired may come back with them, and one whose worker is started again
    /// comes back with its containers.
    pub(super) fn give_up_lost_nodes(&mut self) {
        let may_come_back = |node| self.job.command.world.is_container() && self.cluster.lingers(node);
        let lost: Vec<(InstanceId, NodeId)> = self
            .job
            .runs
            .iter()
            .filter(|run| run.is_live() && !self.cluster.knows(run.node) && !may_come_back(run.node))
            .map(|run| (run.id, run.node))
            .collect();
        let mut runs_of: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (run, node) in lost {
            *runs_of.entry(node).or_default() += 1;
            let message = format!("node {} is gone", self.cluster.name_of(node));
            self.push(JobChange::LoseRun { run, reason: Reason { kind: ReasonKind::Platform, message } });
        }
        for (node, count) in runs_of {
            let runs = if count == 1 { "a run".to_owned() } else { format!("{count} runs") };
            let name = self.cluster.name_of(node);
            self.event("job.run-lost", format!("has lost {runs} with {name}, which is gone"));
        }
    }

    pub(super) fn begin(&mut self) {
        if self.job.state == JobState::Pending && self.job.runs.iter().any(|run| run.started_at.is_some()) {
            self.push(JobChange::SetState { state: JobState::Running });
            self.event("job.started", "runs".to_owned());
        }
    }

    /// Says how the job ends, as soon as that is clear.
    pub(super) fn judge(&mut self) {
        if self.job.ending.is_some() {
            return;
        }
        let completions = self.job.completions();
        let ending = if completions.iter().all(|completion| completion.succeeded) {
            Some(Ending { state: JobState::Succeeded, reason: None })
        } else {
            self.failure(&completions)
        };
        if let Some(ending) = ending {
            self.push(JobChange::End { ending });
        } else if let Some(deadline) = self.deadline() {
            self.wake(deadline);
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        Some(after(self.job.created_at, self.job.spec.deadline?.as_duration()))
    }

    fn failure(&self, completions: &[Completion<'_>]) -> Option<Ending> {
        let job = &self.job;
        let failed = |reason| Some(Ending { state: JobState::Failed, reason: Some(reason) });
        if self.deadline().is_some_and(|deadline| deadline <= self.now) {
            let most = job.spec.deadline.map_or_else(String::new, |deadline| deadline.to_string());
            return failed(format!("its deadline has passed, {most} after it was made"));
        }
        let (index, first) =
            completions.iter().enumerate().find(|(_, completion)| job.has_failed(completion))?;
        let is_over = completions.iter().all(|completion| completion.succeeded || job.has_failed(completion));
        // Of an indexed job, each completion is a result of its own.
        if job.spec.indexed && !first.is_hopeless() && !is_over {
            return None;
        }
        let failures = completions.iter().filter(|completion| job.has_failed(completion)).count();
        let which = match (job.spec.indexed, failures) {
            (true, 1) => format!("completion {index} failed"),
            (true, more) => format!("{more} of {} completions failed; number {index}", completions.len()),
            (false, _) => "no more retries".to_owned(),
        };
        failed(match first.failure {
            Some(run) if first.is_hopeless() => format!("it cannot run: {}", run.failure(&job.spec)),
            Some(run) if first.lost <= LOST_MAX => {
                let tries =
                    if first.failures == 1 { "1 run".to_owned() } else { format!("{} runs", first.failures) };
                format!("{which} after {tries}: {}", run.failure(&job.spec))
            }
            _ => format!(
                "{LOST_MAX} runs in a row were lost with their workers; see whether the guest takes them down"
            ),
        })
    }

    /// Stops what runs, and ends the job when nothing does.
    pub(super) fn wind_up(&mut self) {
        let live: Vec<InstanceId> = self
            .job
            .runs
            .iter()
            .filter(|run| run.is_live() && run.stop.is_none())
            .map(|run| run.id)
            .collect();
        for run in live {
            self.push(JobChange::StopRun { run, cause: StopCause::End });
        }
        if self.job.active() > 0 {
            return;
        }
        let Some(ending) = self.job.ending.clone() else { return };
        // What all the same succeeded before it was stopped has succeeded.
        let succeeded = self.job.completions().iter().all(|completion| completion.succeeded);
        let state = if succeeded { JobState::Succeeded } else { ending.state };
        self.push(JobChange::SetState { state });
        let why =
            ending.reason.filter(|_| !succeeded).map_or_else(String::new, |reason| format!(": {reason}"));
        match state {
            JobState::Succeeded => self.event("job.succeeded", "succeeded".to_owned()),
            JobState::Cancelled => self.event("job.cancelled", format!("was cancelled{why}")),
            _ => self.event("job.failed", format!("failed{why}")),
        }
        self.expire();
    }

    fn event(&mut self, kind: &'static str, what: String) {
        let message = format!("the job {} ({}) {what}", self.job.name, self.job.id);
        self.push(JobChange::Event { kind, message });
    }

    pub(super) fn stop_slow_runs(&mut self) {
        let Some(timeout) = self.job.spec.timeout else { return };
        let running = self.job.runs.iter().filter(|run| run.is_live() && run.stop.is_none());
        let started: Vec<_> = running.filter_map(|run| Some((run.id, run.started_at?))).collect();
        for (run, started_at) in started {
            let at = after(started_at, timeout.as_duration());
            if at <= self.now {
                self.push(JobChange::StopRun { run, cause: StopCause::Timeout });
            } else {
                self.wake(at);
            }
        }
    }

    /// Starts runs for the completions that need one, lowest index first, as far as so many may run at once.
    pub(super) fn start_runs(&mut self) {
        let room = self.job.spec.parallelism.saturating_sub(self.job.active());
        let mut due: Vec<(u32, u32)> = Vec::new();
        let mut wakes = Vec::new();
        for (index, completion) in (0_u32..).zip(self.job.completions()) {
            if due.len() == room as usize {
                break;
            }
            if completion.succeeded || completion.live || self.job.has_failed(&completion) {
                continue;
            }
            match completion.ready_at(&self.job.spec) {
                Some(at) if at > self.now => wakes.push(at),
                _ => due.push((index, completion.attempts + 1)),
            }
        }
        wakes.into_iter().for_each(|at| self.wake(at));
        if !due.is_empty() {
            self.place(due);
        }
    }

    fn place(&mut self, due: Vec<(u32, u32)>) {
        let job = self.job.clone();
        let (warm, failing) = (job.warm(), job.failing());
        let ask = Ask {
            takes: job.reservation(),
            placement: &job.spec.placement,
            needs: Needs::of(job.command.world, false),
            pinned: None,
            warm: &warm,
            failing: &failing,
        };
        let mut round = self.cluster.round(job.id.as_owner(), ask);
        let outcomes: Vec<_> = due.into_iter().map(|run| (run, round.place())).collect();
        self.changes.claims = round.claims().to_vec();
        drop(round);
        for ((index, attempt), placed) in outcomes {
            let unplaced = match placed {
                Ok(Placed::On(node)) => {
                    let id = self.ids.instance();
                    self.push(JobChange::CreateRun { id, index, attempt, node });
                    continue;
                }
                Ok(Placed::After(node, victims)) => {
                    Unplaced { slot: index, message: self.make_room(node, &victims), change: None }
                }
                Err(refused) => Unplaced::refused(index, &refused),
            };
            self.wake(after(self.now, PLACEMENT_RETRY));
            self.changes.unplaced.push(unplaced);
        }
    }

    fn make_room(&mut self, node: NodeId, victims: &[InstanceId]) -> String {
        for instance in victims.iter().copied() {
            if let Some(owner) = self.cluster.instance(instance).map(|held| held.app) {
                self.push(JobChange::Preempt { instance, owner, node });
            }
        }
        let name = self.cluster.name_of(node);
        format!("node {name} will have room when instances of a lower priority have left it")
    }
}

impl JobView {
    /// Nodes where a run of it was.
    fn warm(&self) -> Vec<NodeId> {
        let mut warm: Vec<NodeId> = self.runs.iter().map(|run| run.node).collect();
        warm.sort_unstable();
        warm.dedup();
        warm
    }

    /// Nodes where runs of it failed or were lost, and how often.
    fn failing(&self) -> Vec<(NodeId, u32)> {
        let mut failing: BTreeMap<NodeId, u32> = BTreeMap::new();
        for run in &self.runs {
            if matches!(run.outcome(), Some(Outcome::Failed | Outcome::TimedOut | Outcome::Lost)) {
                *failing.entry(run.node).or_default() += 1;
            }
        }
        failing.into_iter().collect()
    }

    /// The view as it is after a change: what the store has to make true.
    pub fn apply(&mut self, now: Timestamp, change: &JobChange) {
        match change {
            JobChange::CreateRun { id, index, attempt, node } => self.runs.push(RunView {
                id: *id,
                index: *index,
                attempt: *attempt,
                node: *node,
                state: InstanceState::Assigned,
                stop: None,
                exit_code: None,
                reason: None,
                created_at: now,
                started_at: None,
                ended_at: None,
            }),
            JobChange::StopRun { run, cause } => {
                if let Some(run) = self.runs.iter_mut().find(|known| known.id == *run) {
                    run.stop = run.stop.or(Some(*cause));
                }
            }
            JobChange::LoseRun { run, reason } => {
                if let Some(run) = self.runs.iter_mut().find(|known| known.id == *run && known.is_live()) {
                    run.state = InstanceState::Lost;
                    run.reason = Some(reason.clone());
                    run.ended_at = Some(now);
                }
            }
            JobChange::End { ending } => self.ending = self.ending.take().or_else(|| Some(ending.clone())),
            JobChange::SetState { state } => {
                self.state = self.state.max(*state);
                if self.state.is_final() {
                    self.ended_at = Some(now);
                    self.expires_at = (!self.scheduled).then(|| after(now, self.spec.ttl.as_duration()));
                }
            }
            JobChange::Preempt { .. } | JobChange::Delete | JobChange::Event { .. } => {}
        }
    }
}
