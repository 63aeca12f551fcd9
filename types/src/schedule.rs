//! Schedules: jobs that are made at planned times.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{JobId, ScheduleId};
use crate::job::{JobState, JobTemplate};
use crate::name::{NamespaceName, ScheduleName};
use crate::quantity::Span;
use crate::spec::InvalidSpec;

/// Missed times that `run-all` makes up for.
pub const MISSED_MAX: u32 = 100;
/// Ended jobs of each kind that a schedule can keep.
pub const HISTORY_MAX: u32 = 100;

/// When jobs are made, and which. `PUT /v1/namespaces/{namespace}/schedules/{schedule}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSpec {
    /// Minute, hour, day of the month, month and day of the week, such as `30 2 * * mon-fri`; with six fields the first is the second.
    /// Or one of `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    pub cron: String,
    /// Whose clock that is, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    pub timezone: String,
    #[serde(default)]
    pub overlap: Overlap,
    #[serde(default)]
    pub missed: Missed,
    /// Of the missed times, `run-all` makes up for at most so many, the newest; 1 to 100.
    #[serde(default = "missed_max")]
    pub missed_max: u32,
    /// A time that is further back than this is not made up for any more. None: however far.
    #[serde(default)]
    pub start_deadline: Option<Span>,
    /// Jobs are made later than planned, at most by this: each schedule has a delay of its own, so that those of the same minute do not
    /// all start at once. At most a day.
    #[serde(default)]
    pub jitter: Option<Span>,
    #[serde(default)]
    pub suspended: bool,
    /// Jobs that are kept after they have succeeded, 0 to 100. Those of a schedule are kept by number, and not for a time.
    #[serde(default = "history")]
    pub keep_succeeded: u32,
    /// The same of those that failed or were cancelled.
    #[serde(default = "history")]
    pub keep_failed: u32,
    #[serde(default)]
    pub job: JobTemplate,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn missed_max() -> u32 {
    MISSED_MAX
}

fn history() -> u32 {
    3
}

impl ScheduleSpec {
    /// Checks what the field types and the cron line's own reader do not.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let invalid = |field: &str, problem: &str| Err(InvalidSpec::new(field, problem));
        if !(1..=MISSED_MAX).contains(&self.missed_max) {
            return invalid("missed_max", &format!("{} is not between 1 and {MISSED_MAX}", self.missed_max));
        }
        if self.keep_succeeded > HISTORY_MAX || self.keep_failed > HISTORY_MAX {
            return invalid("keep_succeeded and keep_failed", "are at most 100");
        }
        if self.jitter.is_some_and(|jitter| jitter.as_duration().as_secs() > 24 * 3600) {
            return invalid("jitter", "is longer than a day");
        }
        if self.missed == Missed::RunAll && self.overlap != Overlap::Allow {
            return invalid(
                "missed",
                "`run-all` makes several jobs at once, of which `overlap` would let only one run; set it to `allow`, or choose `run-once`",
            );
        }
        Ok(())
    }
}

/// What happens when a time comes while a job of the schedule has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// The time is passed over.
    #[default]
    Forbid,
    /// There are two.
    Allow,
    /// The older one is cancelled; the new one starts beside it until it has stopped.
    Replace,
}

impl Overlap {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forbid => "forbid",
            Self::Allow => "allow",
            Self::Replace => "replace",
        }
    }
}

/// What happens with times that passed while nobody could look, such as while the platform was down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Missed {
    /// They are passed over.
    Skip,
    /// There is one job, for the newest of them.
    #[default]
    RunOnce,
    /// There is a job for each of them, up to `missed_max`.
    RunAll,
}

impl Missed {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::RunOnce => "run-once",
            Self::RunAll => "run-all",
        }
    }
}

/// `GET …/schedules` and `GET …/schedules/{schedule}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ScheduleInfo {
    pub id: ScheduleId,
    pub namespace: NamespaceName,
    pub name: ScheduleName,
    pub spec: ScheduleSpec,
    /// The next planned time. None: it is suspended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_at: Option<Timestamp>,
    /// Every time up to this one has been decided on.
    #[schema(value_type = String, format = DateTime)]
    pub decided_until: Timestamp,
    /// What became of the newest time that came.
    pub last: Option<Firing>,
    /// Its jobs, newest first: those that run, and the ended ones that are kept.
    pub jobs: Vec<ScheduledJob>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// What became of a planned time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Firing {
    #[schema(value_type = String, format = DateTime)]
    pub planned_at: Timestamp,
    /// None: no job was made.
    pub job: Option<JobId>,
    /// Why not.
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ScheduledJob {
    pub id: JobId,
    pub state: JobState,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub planned_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_needs_a_cron_line_and_nothing_else() {
        let spec: ScheduleSpec = serde_json::from_str(r#"{"cron":"@daily"}"#).unwrap();
        spec.validate().unwrap();
        assert_eq!(
            (spec.timezone.as_str(), spec.overlap, spec.missed),
            ("UTC", Overlap::Forbid, Missed::RunOnce)
        );
        assert!(serde_json::from_str::<ScheduleSpec>("{}").is_err());
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ScheduleSpec>(&json).unwrap(), spec);
    }
}
