//! Jobs and schedules: one live run a completion, no more tries than declared, each planned time decided on once.

use std::collections::BTreeMap;
use std::sync::Arc;

use wharf_platform_api::plan::job::{JobChange, JobView, RunView};
use wharf_platform_api::plan::schedule::{ScheduleChange, ScheduleView};
use wharf_types::job::Outcome;
use wharf_types::{JobId, Timestamp};

use crate::world::World;

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

    pub(crate) fn check_job_changes(&mut self, id: JobId, changes: &[JobChange]) {
        let Some(job) = self.store.jobs.get(&id).map(|job| job.view.clone()) else { return };
        for change in changes {
            let JobChange::CreateRun { id: run, index, .. } = change else { continue };
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
    ) {
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
