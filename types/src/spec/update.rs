//! How a rollout moves: how many slots at once, in which order, what is too much failure, and what is done about it.

use serde::{Deserialize, Serialize};

use super::amount::{Portion, Ratio};
use super::is_default;
use crate::quantity::Span;

/// How a rollout moves. Unless asked otherwise it starts first, so that no slot is ever without an instance that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "Written", default, deny_unknown_fields)]
pub struct UpdateSpec {
    // Left out where nothing is asked for: workers of before know none of them, and refuse what they do not know.
    /// Slots moved at once: a number, or a share of all, rounded up. Default 25%.
    #[serde(skip_serializing_if = "is_usual_parallelism")]
    pub parallelism: Portion,
    /// Whether the new instance of a slot starts before the old one stops, or after. Default `start-first`.
    #[serde(skip_serializing_if = "is_default")]
    pub order: UpdateOrder,
    /// Pause between the moment when all slots of a batch serve and the next batch. Default 0s: no batches, a slot follows the other.
    #[serde(skip_serializing_if = "is_zero")]
    pub delay: Span,
    /// How long failures of the new release still count after it took over. Default 5s.
    pub monitor: Span,
    /// Share of the new instances that may fail before the rollout does. Default 0.
    #[serde(skip_serializing_if = "is_default")]
    pub max_failure_ratio: Ratio,
    /// A rollout that makes no progress for this long has failed. Default 60s.
    pub progress_deadline: Span,
    /// What a failure leads to. Default `rollback`.
    #[serde(skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
    /// The same on the way back to this release.
    #[serde(skip_serializing_if = "is_default")]
    pub rollback: RollbackSpec,
    /// A trial with a part of the requests before anything is replaced. None: no trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanarySpec>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old instance serves until the new one does.
    #[default]
    StartFirst,
    /// The old instance ends before the new one is made: its slot serves nobody meanwhile.
    StopFirst,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Go back to the release before.
    #[default]
    Rollback,
    /// Stand still until somebody resumes or aborts the rollout.
    Pause,
    /// Go on. Only where not one slot can serve the new release, go back all the same.
    Continue,
}

/// How a rollout moves that brings this release back. What is left out is as in `[update]`, except for `delay`, which is 0s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RollbackSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<Portion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<UpdateOrder>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failure_ratio: Option<Ratio>,
}

/// A trial of the new release with a part of the requests, beside all instances of the old one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CanarySpec {
    /// Share of the requests that the new release gets, above 0 and at most 1; and, rounded up, the share of the slots that it runs in.
    pub share: Ratio,
    /// How long the trial lasts, from the moment when its instances are routed.
    pub duration: Span,
    /// With fewer requests to the new release nothing is concluded. The trial then lasts up to twice as long.
    pub min_requests: u64,
    /// By how much the share of failed requests (5xx, errors of the platform, cut) may be above that of the old release.
    pub max_error_ratio: Ratio,
    /// How many times the old release's time to a response the new one's may be: in the mean, and, from 200 responses of each on, at the
    /// 95th percentile. None: it is not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency_ratio: Option<Ratio>,
}

impl Default for CanarySpec {
    fn default() -> Self {
        Self {
            share: Ratio::percent(10),
            duration: Span::from_secs(60),
            min_requests: 100,
            max_error_ratio: Ratio::percent(1),
            max_latency_ratio: None,
        }
    }
}

const PARALLELISM: Portion = Portion::Percent(25);

fn is_usual_parallelism(parallelism: &Portion) -> bool {
    *parallelism == PARALLELISM
}

fn is_zero(span: &Span) -> bool {
    span.as_duration().is_zero()
}

impl Default for UpdateSpec {
    fn default() -> Self {
        Self {
            parallelism: PARALLELISM,
            order: UpdateOrder::default(),
            delay: Span::from_secs(0),
            monitor: Span::from_secs(5),
            max_failure_ratio: Ratio::default(),
            progress_deadline: Span::from_secs(60),
            on_failure: OnFailure::default(),
            rollback: RollbackSpec::default(),
            canary: None,
        }
    }
}

/// The dials of one rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dials {
    pub parallelism: Portion,
    pub order: UpdateOrder,
    pub delay: Span,
    pub monitor: Span,
    pub max_failure_ratio: Ratio,
}

impl UpdateSpec {
    /// Those of a rollout to the release, or, `backwards`, of one that brings it back.
    pub fn dials(&self, backwards: bool) -> Dials {
        let forward = Dials {
            parallelism: self.parallelism,
            order: self.order,
            delay: self.delay,
            monitor: self.monitor,
            max_failure_ratio: self.max_failure_ratio,
        };
        if !backwards {
            return forward;
        }
        let RollbackSpec { parallelism, order, delay, monitor, max_failure_ratio } = self.rollback;
        Dials {
            parallelism: parallelism.unwrap_or(forward.parallelism),
            order: order.unwrap_or(forward.order),
            delay: delay.unwrap_or(Span::from_secs(0)),
            monitor: monitor.unwrap_or(forward.monitor),
            max_failure_ratio: max_failure_ratio.unwrap_or(forward.max_failure_ratio),
        }
    }
}

/// The settings as they may be written. Releases that were made before there was `parallelism` have `parallelism_percent`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    #[serde(deserialize_with = "crate::declare::present")]
    parallelism: Option<Portion>,
    parallelism_percent: Option<u32>,
    order: UpdateOrder,
    delay: Span,
    monitor: Span,
    max_failure_ratio: Ratio,
    progress_deadline: Span,
    on_failure: OnFailure,
    rollback: RollbackSpec,
    canary: Option<CanarySpec>,
}

impl Default for Written {
    fn default() -> Self {
        let UpdateSpec {
            parallelism: _,
            order,
            delay,
            monitor,
            max_failure_ratio,
            progress_deadline,
            on_failure,
            rollback,
            canary,
        } = UpdateSpec::default();
        let (parallelism, parallelism_percent) = (None, None);
        Self {
            parallelism,
            parallelism_percent,
            order,
            delay,
            monitor,
            max_failure_ratio,
            progress_deadline,
            on_failure,
            rollback,
            canary,
        }
    }
}

impl TryFrom<Written> for UpdateSpec {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        if written.parallelism.is_some() && written.parallelism_percent.is_some() {
            return Err(
                "`parallelism` and `parallelism_percent` are two words for one setting; write `parallelism` alone",
            );
        }
        let percent = written.parallelism_percent.map(Portion::Percent);
        Ok(Self {
            parallelism: written.parallelism.or(percent).unwrap_or(PARALLELISM),
            order: written.order,
            delay: written.delay,
            monitor: written.monitor,
            max_failure_ratio: written.max_failure_ratio,
            progress_deadline: written.progress_deadline,
            on_failure: written.on_failure,
            rollback: written.rollback,
            canary: written.canary,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_setting_has_one_word() {
        let both = r#"{"parallelism":2,"parallelism_percent":50}"#;
        let refused = serde_json::from_str::<UpdateSpec>(both).unwrap_err().to_string();
        assert!(refused.contains("write `parallelism` alone"), "{refused}");
        assert!(serde_json::from_str::<UpdateSpec>(r#"{"parallelism":null}"#).is_err());
        assert!(serde_json::from_str::<UpdateSpec>("{}").is_ok());
    }

    #[test]
    fn settings_of_releases_from_before_still_load() {
        let old = r#"{"parallelism_percent":50,"monitor":"5s","progress_deadline":"1m"}"#;
        let spec: UpdateSpec = serde_json::from_str(old).unwrap();
        assert_eq!(spec, UpdateSpec { parallelism: Portion::Percent(50), ..UpdateSpec::default() });
    }

    #[test]
    fn what_nobody_asked_for_is_not_written() {
        let written = serde_json::to_string(&UpdateSpec::default()).unwrap();
        assert_eq!(written, r#"{"monitor":"5s","progress_deadline":"1m"}"#);
    }

    #[test]
    fn every_dial_is_read_back_as_written() {
        let json = r#"{"parallelism":2,"order":"stop-first","delay":"3s","monitor":"1s","max_failure_ratio":0.2,
            "progress_deadline":"10s","on_failure":"pause",
            "rollback":{"parallelism":"100%","order":"start-first","delay":"1s","monitor":"2s","max_failure_ratio":1.0},
            "canary":{"share":0.1,"duration":"1m","min_requests":50,"max_error_ratio":0.05,"max_latency_ratio":1.5}}"#;
        let spec: UpdateSpec = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::from_str::<UpdateSpec>(&serde_json::to_string(&spec).unwrap()).unwrap(), spec);
        let compact: String = json.split_whitespace().collect();
        assert_eq!(serde_json::to_string(&spec).unwrap(), compact);
    }

    #[test]
    fn going_back_is_as_going_forward_but_does_not_wait_unless_it_is_told_to() {
        let forward = UpdateSpec { delay: Span::from_secs(9), ..UpdateSpec::default() };
        let back = forward.dials(true);
        assert_eq!((back.delay, back.parallelism), (Span::from_secs(0), PARALLELISM));
        let rollback = RollbackSpec { parallelism: Some(Portion::Count(3)), ..RollbackSpec::default() };
        let own = UpdateSpec { rollback, ..forward };
        assert_eq!(own.dials(true).parallelism, Portion::Count(3));
        assert_eq!(own.dials(false).parallelism, PARALLELISM);
    }

    #[test]
    fn an_unknown_dial_is_refused_by_name() {
        let error = serde_json::from_str::<UpdateSpec>(r#"{"paralelism":2}"#).unwrap_err();
        assert!(error.to_string().contains("`paralelism`"), "{error}");
    }
}
