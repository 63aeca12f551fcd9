//! How far things have come. Lifecycle, wish and health are separate enums, each with one writer.

use serde::{Deserialize, Serialize};

/// How far an instance has come. Declaration order is the lifecycle; observed state, written by the worker only.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Waits for a node.
    Pending,
    /// Has a node, which has not reported it yet.
    Assigned,
    /// Its artifact is being fetched and compiled.
    Preparing,
    /// The guest is being started, or waits for its backoff.
    Starting,
    /// The guest runs. Whether it may receive requests is its readiness.
    Running,
    /// Unrouted; finishes open requests.
    Stopping,
    /// Ended because it was asked to.
    Stopped,
    /// Ended by itself or could not start.
    Failed,
    /// Its node is gone.
    Lost,
}

impl InstanceState {
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Assigned,
        Self::Preparing,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Lost,
    ];

    /// Merges a report. A report that comes late, or after the end, changes nothing.
    pub fn advance(self, reported: Self) -> Self {
        if self.is_final() { self } else { self.max(reported) }
    }

    pub fn is_final(self) -> bool {
        self >= Self::Stopped
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }

    /// What such an instance is doing, for people, after `it is`.
    pub fn doing(self) -> &'static str {
        match self {
            Self::Pending | Self::Assigned => "waiting for its worker to take it up",
            Self::Preparing => "having its artifact fetched and compiled, or its image pulled",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "finishing its open requests",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Lost => "lost with its node",
        }
    }
}

/// What the control plane wants of an instance. Only grows: a stopping instance is never wanted again.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Run, and receive requests when ready.
    Run,
    /// Receive no new requests, but keep running: the ingress has not let go yet.
    Unroute,
    /// Finish open requests, then end.
    Stop,
}

/// What a health check found. `Unknown` before its first answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
}

/// How far a rollout has come.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    Pending,
    /// Beside all instances of the old release, a few of the new one get a part of the requests.
    Canary,
    /// Instances of the new release are being started and routed.
    Running,
    /// Every slot serves the new release; failures within the monitor window still roll back.
    Monitoring,
    Succeeded,
    /// Stopped by itself; the app is on, or goes back to, the release before.
    Failed,
    /// Replaced by a newer rollout before it ended.
    Superseded,
}

impl RolloutState {
    pub fn is_final(self) -> bool {
        self >= Self::Succeeded
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Canary => "canary",
            Self::Running => "running",
            Self::Monitoring => "monitoring",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }
}

/// One word for people: what an app is doing, derived from the above and never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AppCondition {
    /// Every slot is ready.
    Running,
    /// A rollout is under way.
    Deploying,
    /// Some, but not all slots are ready.
    Degraded,
    /// A slot fails again and again and waits for its backoff.
    CrashLooping,
    /// No slot is ready.
    Down,
    /// Nobody has asked for it for a while: it has no instance until somebody does.
    Asleep,
    /// Scaled to zero, or stopped by a user.
    Stopped,
}

impl AppCondition {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Deploying => "deploying",
            Self::Degraded => "degraded",
            Self::CrashLooping => "crash-looping",
            Self::Down => "down",
            Self::Asleep => "asleep",
            Self::Stopped => "stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_state() -> impl Strategy<Value = InstanceState> {
        proptest::sample::select(InstanceState::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn observed_state_never_goes_backwards(start in any_state(), reports in proptest::collection::vec(any_state(), 0..20)) {
            let mut state = start;
            for report in reports {
                let next = state.advance(report);
                prop_assert!(next >= state);
                if state.is_final() {
                    prop_assert_eq!(next, state);
                }
                state = next;
            }
        }
    }
}
