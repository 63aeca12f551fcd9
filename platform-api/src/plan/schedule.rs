//! What a schedule has to do now: the planned times that have come, and for which of them there is a job.
//!
//! Every planned time is decided on once. The newest time that was decided on is stored in the transaction that makes the jobs, so neither a
//! restart nor a clock that is put back can decide again; and a job knows the time that it was made for, of which there is one job at most.

use std::time::Duration;

use jiff::tz::TimeZone;
use wharf_types::schedule::{Missed, Overlap, ScheduleSpec};
use wharf_types::{JobId, ScheduleId, Timestamp};

use super::cron::Cron;
use super::view::after;

/// A time that is found so much later is a missed one: somebody should have looked, and could not.
const ON_TIME: Duration = Duration::from_secs(10);
/// Times that one look can find on time, and one more.
const ON_TIME_MAX: usize = 12;
/// Jobs of one schedule that may be under way. One whose jobs take longer than the time between them would fill the platform.
const ACTIVE_MAX: usize = 100;

/// Everything that a decision about a schedule needs.
#[derive(Clone, Debug)]
pub struct ScheduleView {
    pub id: ScheduleId,
    pub spec: ScheduleSpec,
    pub cron: Cron,
    pub zone: TimeZone,
    /// Every planned time up to this one has been decided on.
    pub decided_until: Timestamp,
    /// Its jobs that have not ended.
    pub active: Vec<JobId>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScheduleChanges {
    /// In the order of planned times.
    pub changes: Vec<ScheduleChange>,
    /// What [`ScheduleView::decided_until`] becomes.
    pub decided_until: Option<Timestamp>,
    /// When to look again even if nothing happens.
    pub wake_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ScheduleChange {
    /// Make the job of a planned time.
    Fire { planned_at: Timestamp },
    /// There is none for this time.
    Pass { planned_at: Timestamp, reason: String },
    /// The job has to make way for the next one.
    Cancel { job: JobId },
}

pub fn plan(now: Timestamp, schedule: &ScheduleView) -> ScheduleChanges {
    let mut changes = ScheduleChanges::default();
    if schedule.spec.suspended {
        return changes;
    }
    let delay = schedule.delay();
    let until = now.checked_sub(delay).unwrap_or(now);
    let due = schedule.due(until);
    if let Some(newest) = due.last() {
        changes.decided_until = Some(newest.planned_at);
        changes.changes = schedule.decide(due);
    }
    let decided = changes.decided_until.unwrap_or(schedule.decided_until);
    changes.wake_at = schedule.cron.next_after(decided, &schedule.zone).map(|next| after(next, delay));
    changes
}

/// A planned time that has come.
struct Due {
    planned_at: Timestamp,
    /// Why there is no job for it, whatever else is going on.
    passed: Option<String>,
}

impl ScheduleView {
    /// How much later than planned its jobs are made.
    fn delay(&self) -> Duration {
        let jitter = self.spec.jitter.map_or(Duration::ZERO, |jitter| jitter.as_duration());
        // The random part of the id, of which the lowest bits are as random as any.
        let part = (self.id.as_uuid().as_u64_pair().1 & 0xffff) as f64 / 65536.0;
        Duration::from_secs(jitter.mul_f64(part).as_secs())
    }

    /// The next planned time, with the delay.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let next = self.cron.next_after(self.decided_until.max(time), &self.zone);
        next.map(|next| after(next, self.delay()))
    }

    /// The times that are to be decided on, oldest first. Of a great many missed ones only the newest, which say enough.
    fn due(&self, until: Timestamp) -> Vec<Due> {
        let count = ON_TIME_MAX + self.spec.missed_max as usize;
        let (times, _) = self.cron.newest(self.decided_until, until, count, &self.zone);
        let age = |time: Timestamp| Duration::try_from(until.duration_since(time)).unwrap_or_default();
        let late = times.iter().filter(|time| age(**time) > ON_TIME).count();
        let made_up = match self.spec.missed {
            Missed::Skip => 0,
            Missed::RunOnce => 1,
            Missed::RunAll => self.spec.missed_max as usize,
        };
        let due = |(place, time): (usize, Timestamp)| {
            let too_late = self.spec.start_deadline.is_some_and(|most| age(time) > most.as_duration());
            let passed = if too_late {
                Some("it was found only after its start deadline".to_owned())
            } else if place + made_up < late {
                Some("it was missed while nobody could look, and is not made up for".to_owned())
            } else {
                None
            };
            Due { planned_at: time, passed }
        };
        times.into_iter().enumerate().map(due).collect()
    }

    fn decide(&self, due: Vec<Due>) -> Vec<ScheduleChange> {
        let newest = due.iter().rposition(|due| due.passed.is_none());
        let mut active = self.active.len();
        let mut changes = Vec::new();
        for (place, Due { planned_at, passed }) in due.into_iter().enumerate() {
            let reason = passed.or_else(|| match self.spec.overlap {
                Overlap::Forbid if active > 0 => {
                    Some("the job before it has not ended, and they may not overlap".to_owned())
                }
                Overlap::Replace if newest > Some(place) => {
                    Some("the next one would take its place at once".to_owned())
                }
                Overlap::Allow if active >= ACTIVE_MAX => {
                    Some(format!("{ACTIVE_MAX} jobs of the schedule have not ended, which is the most"))
                }
                Overlap::Forbid | Overlap::Replace | Overlap::Allow => None,
            });
            if let Some(reason) = reason {
                changes.push(ScheduleChange::Pass { planned_at, reason });
                continue;
            }
            if self.spec.overlap == Overlap::Replace {
                changes.extend(self.active.iter().map(|job| ScheduleChange::Cancel { job: *job }));
            }
            changes.push(ScheduleChange::Fire { planned_at });
            active += 1;
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use wharf_types::quantity::Span;

    use super::*;
    use crate::plan::cron::time_zone;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(cron: &str, edit: impl FnOnce(&mut ScheduleSpec)) -> ScheduleView {
        let mut spec: ScheduleSpec = serde_json::from_value(serde_json::json!({ "cron": cron })).unwrap();
        edit(&mut spec);
        ScheduleView {
            id: ScheduleId::from_uuid(uuid::Uuid::from_u128(7)),
            cron: Cron::parse(&spec.cron).unwrap(),
            zone: time_zone(&spec.timezone).unwrap(),
            spec,
            decided_until: at("2026-01-01T00:00:00Z"),
            active: Vec::new(),
        }
    }

    fn fired(changes: &ScheduleChanges) -> Vec<Timestamp> {
        let fired = |change: &ScheduleChange| match change {
            ScheduleChange::Fire { planned_at } => Some(*planned_at),
            _ => None,
        };
        changes.changes.iter().filter_map(fired).collect()
    }

    #[test]
    fn a_time_that_comes_is_one_job_and_the_next_look_is_at_the_next_time() {
        let mut hourly = schedule("@hourly", |_| {});
        let early = plan(at("2026-01-01T00:30:00Z"), &hourly);
        assert_eq!((early.changes.len(), early.wake_at), (0, Some(at("2026-01-01T01:00:00Z"))));
        let now = at("2026-01-01T01:00:00.5Z");
        let changes = plan(now, &hourly);
        assert_eq!(fired(&changes), [at("2026-01-01T01:00:00Z")]);
        assert_eq!(changes.wake_at, Some(at("2026-01-01T02:00:00Z")));
        hourly.decided_until = changes.decided_until.unwrap();
        assert!(plan(now, &hourly).changes.is_empty());
        assert!(plan(at("2026-01-01T00:10:00Z"), &hourly).changes.is_empty(), "the clock was put back");
    }

    #[test]
    fn what_was_missed_is_made_up_for_as_the_schedule_says() {
        let now = at("2026-01-01T05:30:00Z");
        let made_up = |missed, overlap, most, deadline: Option<u64>| {
            let view = schedule("@hourly", |spec| {
                (spec.missed, spec.overlap, spec.missed_max) = (missed, overlap, most);
                spec.start_deadline = deadline.map(Span::from_secs);
            });
            let changes = plan(now, &view);
            assert_eq!(changes.changes.len(), 5, "each of them is decided on");
            assert_eq!(changes.decided_until, Some(at("2026-01-01T05:00:00Z")));
            fired(&changes).len()
        };
        assert_eq!(made_up(Missed::Skip, Overlap::Allow, 100, None), 0);
        assert_eq!(made_up(Missed::RunOnce, Overlap::Forbid, 100, None), 1);
        assert_eq!(made_up(Missed::RunAll, Overlap::Allow, 100, None), 5);
        assert_eq!(made_up(Missed::RunAll, Overlap::Allow, 3, None), 3);
        assert_eq!(made_up(Missed::RunAll, Overlap::Allow, 100, Some(2 * 3600)), 2);
        assert_eq!(made_up(Missed::RunOnce, Overlap::Forbid, 100, Some(60)), 0);
    }

    #[test]
    fn years_of_missed_seconds_are_decided_on_at_once() {
        let mut view = schedule("* * * * * *", |_| {});
        view.decided_until = at("2010-01-01T00:00:00Z");
        let now = at("2026-01-01T00:00:00Z");
        let changes = plan(now, &view);
        assert_eq!((changes.decided_until, fired(&changes).len()), (Some(now), 1));
        assert!(changes.changes.len() < 200);
    }

    #[test]
    fn jobs_overlap_only_where_they_may() {
        let now = at("2026-01-01T01:00:00Z");
        let job = JobId::new();
        let with = |overlap| {
            let mut view = schedule("@hourly", |spec| spec.overlap = overlap);
            view.active = vec![job];
            plan(now, &view).changes
        };
        let fire = ScheduleChange::Fire { planned_at: now };
        assert!(matches!(&with(Overlap::Forbid)[..], [ScheduleChange::Pass { .. }]));
        assert_eq!(with(Overlap::Allow), std::slice::from_ref(&fire));
        assert_eq!(with(Overlap::Replace), [ScheduleChange::Cancel { job }, fire]);
        let mut full = schedule("@hourly", |spec| spec.overlap = Overlap::Allow);
        full.active = vec![job; ACTIVE_MAX];
        assert!(fired(&plan(now, &full)).is_empty());
    }

    #[test]
    fn a_delay_is_always_the_same_and_within_its_bound() {
        let delay = |id: u128| {
            let mut view = schedule("@hourly", |spec| spec.jitter = Some(Span::from_secs(600)));
            view.id = ScheduleId::from_uuid(uuid::Uuid::from_u128(id));
            view.delay()
        };
        assert_eq!(delay(0x8000), Duration::from_secs(300));
        assert_eq!(delay(0x8000), delay(0x8000));
        let mut view = schedule("@hourly", |spec| spec.jitter = Some(Span::from_secs(600)));
        view.id = ScheduleId::from_uuid(uuid::Uuid::from_u128(0x8000));
        assert!(plan(at("2026-01-01T01:04:59Z"), &view).changes.is_empty());
        assert_eq!(fired(&plan(at("2026-01-01T01:05:00Z"), &view)), [at("2026-01-01T01:00:00Z")]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u32),
        ClockBack(u32),
        /// A plan that was never written, because the process ended.
        Crash,
        JobEnds,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..400_u32).prop_map(Step::Wait),
            1 => (1..2000_u32).prop_map(Step::ClockBack),
            1 => Just(Step::Crash),
            2 => Just(Step::JobEnds),
        ]
    }

    proptest! {
        #[test]
        fn no_time_is_decided_on_twice_whatever_happens(
            steps in proptest::collection::vec(step(), 1..60),
            overlap in prop_oneof![Just(Overlap::Forbid), Just(Overlap::Allow), Just(Overlap::Replace)],
            missed in prop_oneof![Just(Missed::Skip), Just(Missed::RunOnce)],
            line in prop_oneof![Just("* * * * *"), Just("*/7 * * * * *"), Just("*/5 * * * *")],
        ) {
            let mut view = schedule(line, |spec| (spec.overlap, spec.missed) = (overlap, missed));
            let mut now = view.decided_until;
            let mut decided = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Wait(seconds) => now = after(now, Duration::from_secs(seconds.into())),
                    Step::ClockBack(seconds) => now = now.checked_sub(Duration::from_secs(seconds.into())).unwrap(),
                    Step::JobEnds => { view.active.pop(); }
                    Step::Crash => { plan(now, &view); continue; }
                }
                let changes = plan(now, &view);
                for change in &changes.changes {
                    match change {
                        ScheduleChange::Fire { planned_at } => {
                            prop_assert!(decided.insert(*planned_at) && *planned_at <= now);
                            view.active.push(JobId::new());
                        }
                        ScheduleChange::Pass { planned_at, .. } => prop_assert!(decided.insert(*planned_at)),
                        ScheduleChange::Cancel { job } => view.active.retain(|active| active != job),
                    }
                }
                if let Some(until) = changes.decided_until {
                    prop_assert!(until > view.decided_until);
                    view.decided_until = until;
                }
                prop_assert!(overlap == Overlap::Allow || view.active.len() <= 1);
                prop_assert!(changes.wake_at.unwrap() > view.decided_until);
                prop_assert!(plan(now, &view).changes.is_empty(), "planning again changes nothing");
            }
        }
    }
}
