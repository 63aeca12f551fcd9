//! What a job has to do now: which runs start, which have to stop, and when it has ended.
//!
//! A completion has at most one live run, so it succeeds at most once. What became of a run follows from its row alone
//! ([`RunView::outcome`]), and what is left to do from the rows of all runs: nothing is counted that a crash could count twice.

mod draft;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wharf_types::job::{JobSpec, JobState, Outcome};
use wharf_types::node::{Reason, ReasonKind};
use wharf_types::spec::AppSpec;
use wharf_types::state::{InstanceState, Wanted};
use wharf_types::world::World;
use wharf_types::{
    AppId, AppName, Digest, InstanceId, JobId, JobName, NamespaceName, NodeId, SecretVersionId, Timestamp,
};

use super::scheduler::{Ask, Claim, Cluster, Held, Placed, Resources};
use super::view::after;
use super::{IdSource, Unplaced};
use draft::Draft;

/// The wait before a run takes the place of one that was lost; it doubles up to the longest wait before a retry.
const LOST_RETRY: Duration = Duration::from_secs(1);
/// Runs of one completion that may be lost in a row. A guest that takes its worker down must not do so for ever.
const LOST_MAX: usize = 100;
/// How long runs that no node could take wait before the nodes are looked at again, should nobody nudge earlier.
const PLACEMENT_RETRY: Duration = Duration::from_secs(1);

/// Everything that a decision about one job needs.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
    pub id: JobId,
    pub namespace: NamespaceName,
    pub name: JobName,
    /// Whether a schedule made it, which keeps its jobs by their number.
    pub scheduled: bool,
    pub spec: Arc<JobSpec>,
    pub command: Arc<CommandView>,
    pub state: JobState,
    /// How it is to end, once nothing of it runs any more.
    pub ending: Option<Ending>,
    pub created_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// When it is forgotten.
    pub expires_at: Option<Timestamp>,
    /// All of them, in any order.
    pub runs: Vec<RunView>,
}

/// What its runs execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandView {
    pub artifact: Digest,
    pub world: World,
    /// What a worker is told.
    pub spec: Arc<AppSpec>,
    pub secrets: Arc<BTreeMap<String, SecretVersionId>>,
    /// The app that the job is a task of, or what its guest is called.
    pub app: AppName,
    /// Of that app; 0 without one.
    pub release: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub state: JobState,
    pub reason: Option<String>,
}

/// One run of a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunView {
    pub id: InstanceId,
    /// The completion.
    pub index: u32,
    /// Counts the runs of the completion, from 1.
    pub attempt: u32,
    pub node: NodeId,
    pub state: InstanceState,
    /// Why it was told to stop, if it was.
    pub stop: Option<StopCause>,
    pub exit_code: Option<i32>,
    pub reason: Option<Reason>,
    pub created_at: Timestamp,
    /// When its guest ran.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// It took longer than a run may take.
    Timeout,
    /// The job ends.
    End,
    /// Something of a higher priority needs the room.
    Preempted,
}

/// What is to be written, in this order, in one transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobChanges {
    pub changes: Vec<JobChange>,
    pub wake_at: Option<Timestamp>,
    /// Runs that no node can take; the slot is the completion.
    pub unplaced: Vec<Unplaced>,
    pub claims: Vec<Claim>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum JobChange {
    CreateRun {
        id: InstanceId,
        index: u32,
        attempt: u32,
        node: NodeId,
    },
    StopRun {
        run: InstanceId,
        cause: StopCause,
    },
    /// Its node is lost.
    LoseRun {
        run: InstanceId,
        reason: Reason,
    },
    /// From now on no run starts, and those under way are to stop.
    End {
        ending: Ending,
    },
    SetState {
        state: JobState,
    },
    /// An instance of something else, of a lower priority, has to go.
    Preempt {
        instance: InstanceId,
        owner: AppId,
        /// Where it is.
        node: NodeId,
    },
    /// It ended long enough ago.
    Delete,
    Event {
        kind: &'static str,
        message: String,
    },
}

/// Compares what is wanted of a job with what is, and says what to change. Planning again after the changes, at the same time,
/// changes nothing more.
pub fn plan(now: Timestamp, job: &JobView, cluster: &mut Cluster, ids: &mut dyn IdSource) -> JobChanges {
    let mut draft = Draft::new(now, job, cluster, ids);
    if draft.job.state.is_final() {
        draft.expire();
        return draft.finish();
    }
    draft.give_up_lost_nodes();
    draft.begin();
    draft.judge();
    if draft.job.ending.is_some() {
        draft.wind_up();
    } else {
        draft.stop_slow_runs();
        draft.start_runs();
    }
    draft.finish()
}

/// What is known of a completion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Completion<'a> {
    pub(crate) succeeded: bool,
    pub(crate) live: bool,
    /// Runs that count as tries.
    failures: u32,
    /// Runs that were lost since the last one that was not.
    lost: usize,
    attempts: u32,
    /// Of those that ended, the newest, and how.
    newest: Option<(&'a RunView, Outcome)>,
    /// The newest that failed.
    pub(crate) failure: Option<&'a RunView>,
}

impl JobView {
    /// By index.
    pub(crate) fn completions(&self) -> Vec<Completion<'_>> {
        let mut runs: Vec<&RunView> = self.runs.iter().collect();
        runs.sort_unstable_by_key(|run| run.attempt);
        let mut completions = vec![Completion::default(); self.spec.completions as usize];
        for run in runs {
            let Some(completion) = completions.get_mut(run.index as usize) else { continue };
            completion.add(run);
        }
        completions
    }

    /// Whether the completion cannot succeed any more.
    pub(crate) fn has_failed(&self, completion: &Completion<'_>) -> bool {
        let is_over = completion.failures > self.spec.retries || completion.lost > LOST_MAX;
        !completion.succeeded && !completion.live && (is_over || completion.is_hopeless())
    }

    pub(crate) fn active(&self) -> u32 {
        u32::try_from(self.runs.iter().filter(|run| run.is_live()).count()).unwrap_or(u32::MAX)
    }

    /// What the job as a whole gave back.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self.state {
            JobState::Succeeded => Some(0),
            JobState::Failed => {
                let failed = self.runs.iter().filter(|run| run.outcome() == Some(Outcome::Failed));
                failed.max_by_key(|run| (run.ended_at, run.id)).and_then(|run| run.exit_code)
            }
            JobState::Pending | JobState::Running | JobState::Cancelled => None,
        }
    }

    /// What one run reserves on its node. A command holds its memory as long as it runs.
    fn reservation(&self) -> Resources {
        let spec = &self.command.spec;
        Resources {
            memory_bytes: spec.reserve.memory.unwrap_or(spec.limits.memory).as_bytes(),
            cpu_millis: spec.reserve.cpu.unwrap_or_default().as_millis().into(),
        }
    }

    /// What the scheduler knows of a run. None: it takes nothing of any node.
    pub fn held(&self, run: &RunView) -> Option<Held> {
        run.is_live().then(|| Held {
            app: self.id.as_owner(),
            node: run.node,
            takes: self.reservation(),
            priority: self.spec.placement.priority,
            created_at: run.created_at,
            leaving: run.stop.is_some(),
        })
    }
}

impl<'a> Completion<'a> {
    fn add(&mut self, run: &'a RunView) {
        self.attempts = self.attempts.max(run.attempt);
        let Some(outcome) = run.outcome() else {
            self.live = true;
            return;
        };
        self.newest = Some((run, outcome));
        match outcome {
            Outcome::Succeeded => self.succeeded = true,
            Outcome::Failed | Outcome::TimedOut => {
                self.failures += 1;
                self.failure = Some(run);
            }
            Outcome::Lost | Outcome::Stopped => {}
        }
        self.lost = if outcome == Outcome::Lost { self.lost + 1 } else { 0 };
    }

    /// Whether the artifact itself cannot run, so that another try is of no use.
    fn is_hopeless(&self) -> bool {
        let is_bad = |reason: &Reason| reason.kind == ReasonKind::Artifact;
        self.failure.is_some_and(|run| run.reason.as_ref().is_some_and(is_bad))
    }

    /// When the next run of it may start.
    fn ready_at(&self, spec: &JobSpec) -> Option<Timestamp> {
        let (run, outcome) = self.newest?;
        let (first, times) = match outcome {
            Outcome::Failed | Outcome::TimedOut => (spec.backoff.as_duration(), self.failures),
            Outcome::Lost => (LOST_RETRY, u32::try_from(self.lost).unwrap_or(u32::MAX)),
            Outcome::Succeeded | Outcome::Stopped => return None,
        };
        let most = spec.backoff_max.as_duration().max(first.min(LOST_RETRY));
        let factor = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
        Some(after(run.ended_at?, first.saturating_mul(factor).min(most)))
    }
}

impl RunView {
    pub fn is_live(&self) -> bool {
        !self.state.is_final()
    }

    pub(crate) fn wanted(&self) -> Wanted {
        if self.stop.is_some() { Wanted::Stop } else { Wanted::Run }
    }

    /// What became of it. None: it has not ended. A guest that ended by itself has the word, whatever was wanted of it meanwhile.
    pub fn outcome(&self) -> Option<Outcome> {
        if self.is_live() {
            return None;
        }
        let own_failure = self.reason.as_ref().is_some_and(|reason| reason.kind != ReasonKind::Platform);
        Some(match (self.exit_code, self.stop) {
            (Some(0), _) => Outcome::Succeeded,
            (Some(_), _) => Outcome::Failed,
            (None, Some(StopCause::Timeout)) => Outcome::TimedOut,
            (None, Some(StopCause::End | StopCause::Preempted)) => Outcome::Stopped,
            (None, None) if self.state == InstanceState::Failed && own_failure => Outcome::Failed,
            (None, None) => Outcome::Lost,
        })
    }

    /// Why it failed, for people.
    fn failure(&self, spec: &JobSpec) -> String {
        if self.outcome() == Some(Outcome::TimedOut) {
            let most = spec.timeout.map_or_else(String::new, |timeout| format!(", which is {timeout}"));
            return format!("it took longer than a run may take{most}");
        }
        self.reason
            .as_ref()
            .map_or_else(|| "no reason was reported".to_owned(), |reason| reason.message.clone())
    }
}

#[cfg(test)]
mod tests;
