//! Jobs and schedules: one live run a completion, no more tries than declared, each planned time decided on once.

use std::collections::BTreeMap;
use std::sync::Arc;

use wharf_platform_api::plan::job::{JobChange, JobView, RunView};
use wharf_platform_api::plan::schedule::{ScheduleChange, ScheduleView};
use wharf_types::job::Outcome;
use wharf_types::{JobId, NodeId, Timestamp};

use super::placed::Seen;
use crate::world::World;

/// Of more missed times than this, some may be left out.
const MANY: usize = 12;

impl World {
    pub(super) fn check_runs(&mut self) {
        let before = std::mem::take(&mut self.check.jobs_before);
        let mut found = None;
        for (id, before) in &before {
            let Some(after) = self.store.jobs.get(id).filter(|after| !Arc::ptr_eq(before, after)) else {
                continue;
            };
            found = found.or_else(|| tries(&after.view));
            let is_worse = |old: &RunView, new: &RunView| {
                new.state < old.state
                    || (old.state.is_final() && (new.state, new.exit_code) != (old.state, old.exit_code))
            };
            let runs = before.view.runs.iter().zip(&after.view.runs);
            if after.view.state < before.view.state || runs.into_iter().any(|(old, new)| is_worse(old, new)) {
                found = found.or(Some(("observed state never goes backwards", format!("job {id}"))));
            }
        }
        if let Some((invariant, what)) = found {
            self.fail(invariant, what);
        }
    }

    pub(crate) fn check_job_changes(
        &mut self,
        id: JobId,
        changes: &[JobChange],
        seen: &BTreeMap<NodeId, Seen>,
    ) {
        let Some(job) = self.store.jobs.get(&id).map(|job| job.view.clone()) else { return };
        let placement = &job.spec.placement;
        for change in changes {
            if let JobChange::Preempt { instance, owner, .. } = change {
                self.check_preempted((id.as_owner(), Some(placement.priority)), *owner, *instance);
            }
            let JobChange::CreateRun { id: run, index, node, .. } = change else { continue };
            self.check_placed(&format!("{run} of job {id}"), *node, placement, seen);
            let others = || job.runs.iter().filter(|other| other.index == *index && other.id != *run);
            if others().any(|other| other.outcome() == Some(Outcome::Succeeded)) {
                let what = format!("{run} is for completion {index} of {id}");
                self.fail("what has succeeded is not tried again", what);
            }
        }
    }

    pub(crate) fn check_decided(
        &mut self,
        seen: &ScheduleView,
        changes: &[ScheduleChange],
        until: Timestamp,
        now: Timestamp,
    ) {
        self.check_none_left_out(seen, changes, until);
        if until > now {
            self.fail("no planned time is decided on before it comes", format!("{until} at {now}"));
        }
        for change in changes {
            let (ScheduleChange::Fire { planned_at } | ScheduleChange::Pass { planned_at, .. }) = change
            else {
                continue;
            };
            if *planned_at > until || !self.check.decided.insert((seen.id, *planned_at)) {
                let what = format!("{planned_at} of {}", seen.id);
                self.fail("a planned time is decided on once", what);
            }
        }
    }
}

impl World {
    /// Every planned time since the last decision is decided on, or, where a great many were missed, the newest of them.
    fn check_none_left_out(&mut self, seen: &ScheduleView, changes: &[ScheduleChange], until: Timestamp) {
        let planned: Vec<Timestamp> = changes
            .iter()
            .filter_map(|change| match change {
                ScheduleChange::Fire { planned_at } | ScheduleChange::Pass { planned_at, .. } => {
                    Some(*planned_at)
                }
                ScheduleChange::Cancel { .. } => None,
            })
            .collect();
        let next = |time: Timestamp| seen.cron.next_after(time, &seen.zone);
        let is_first = planned.first().copied() == next(seen.decided_until);
        let is_whole = planned.windows(2).all(|pair| next(pair[0]) == Some(pair[1]));
        let are_many = planned.len() >= MANY;
        if planned.last() != Some(&until) || !is_whole || !(is_first || are_many) {
            let what = format!("between {} and {until} these are: {planned:?}", seen.decided_until);
            self.fail("no planned time is left out", what);
        }
    }
}

fn tries(job: &JobView) -> Option<(&'static str, String)> {
    let mut by_index: BTreeMap<u32, (u32, u32, Vec<u32>)> = BTreeMap::new();
    for run in &job.runs {
        let (live, failed, attempts) = by_index.entry(run.index).or_default();
        *live += u32::from(run.is_live());
        *failed += u32::from(matches!(run.outcome(), Some(Outcome::Failed | Outcome::TimedOut)));
        attempts.push(run.attempt);
    }
    by_index.into_iter().find_map(|(index, (live, failed, mut attempts))| {
        attempts.sort_unstable();
        let are_counted = attempts.iter().copied().eq(1..=attempts.len() as u32);
        let what = || format!("completion {index} of {}: {live} live, {failed} failed, {attempts:?}", job.id);
        if live > 1 {
            return Some(("a completion has one live run at most", what()));
        }
        // A run that is live is a try as well.
        let is_too_many = failed + live > job.spec.retries + 1;
        (is_too_many || !are_counted).then(|| ("a completion has no more tries than declared", what()))
    })
}
