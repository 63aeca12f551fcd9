//! Whether an instance that ended by itself gets a successor, and when: pure decisions.

use std::time::Duration;

use wharf_types::node::{Reason, ReasonKind};
use wharf_types::quantity::Span;
use wharf_types::spec::{RestartCondition, RestartSpec};
use wharf_types::state::InstanceState;

use crate::backend::{Ended, Failure};
use crate::backoff::restart_wait;

/// What the slot is to do. Grows only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Run,
    /// Run on, but whoever ends now is not replaced.
    Unroute,
    /// Open requests may finish for at most so long, or for what the app asks if that is less.
    Stop {
        drain_max: Duration,
    },
}

impl Order {
    pub(super) fn is_stop(&self) -> bool {
        matches!(self, Self::Stop { .. })
    }

    /// Whether this order may take the place of another.
    pub(super) fn outranks(&self, other: &Self) -> bool {
        let rank = |order: &Self| match order {
            Self::Run => 0,
            Self::Unroute => 1,
            Self::Stop { .. } => 2,
        };
        rank(self) > rank(other)
    }
}

/// The wait, without jitter, before a successor starts. None: there will be none.
pub(super) fn successor_after(
    ended: &Ended,
    order: &Order,
    spec: &RestartSpec,
    restarts: u32,
) -> Option<Duration> {
    let wanted = match (spec.condition, ended) {
        (_, Ended::Failed(failure)) if !failure.is_retryable() => false,
        (RestartCondition::Any, _) | (RestartCondition::OnFailure, Ended::Failed(_)) => true,
        (RestartCondition::OnFailure, Ended::Success) | (RestartCondition::Never, _) => false,
    };
    (wanted && *order == Order::Run).then(|| restart_wait(spec, restarts))
}

/// How the end is reported.
pub(super) fn final_report(ended: &Ended) -> (InstanceState, Reason) {
    match ended {
        Ended::Success => {
            let message = "the command ended with success".to_owned();
            (InstanceState::Stopped, Reason { kind: ReasonKind::Exit, message })
        }
        Ended::Failed(Failure { reason, .. }) => (InstanceState::Failed, reason.clone()),
    }
}

/// What the guest gave back, if it ended by itself.
pub(super) fn exit_code(ended: &Ended) -> Option<i32> {
    match ended {
        Ended::Success => Some(0),
        Ended::Failed(failure) => failure.exit_code,
    }
}

/// Why a successor does not run yet.
pub(super) fn waiting(wait: Duration, ended: Reason) -> Reason {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let message = format!("waits {} before the next try: {}", Span::from_millis(millis), ended.message);
    Reason { kind: ended.kind, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failed(kind: ReasonKind) -> Ended {
        Ended::Failed(Failure::new(kind, "it broke"))
    }

    fn restarts(condition: RestartCondition, ended: Ended) -> bool {
        let spec = RestartSpec { condition, ..RestartSpec::default() };
        successor_after(&ended, &Order::Run, &spec, 0).is_some()
    }

    #[test]
    fn the_condition_says_which_ends_are_followed_by_a_successor() {
        use RestartCondition::{Any, Never, OnFailure};
        for (condition, after_success, after_failure) in
            [(Any, true, true), (OnFailure, false, true), (Never, false, false)]
        {
            assert_eq!(restarts(condition, Ended::Success), after_success, "{condition:?}");
            assert_eq!(restarts(condition, failed(ReasonKind::Trap)), after_failure, "{condition:?}");
        }
    }

    #[test]
    fn a_broken_artifact_is_not_tried_again() {
        assert!(!restarts(RestartCondition::Any, failed(ReasonKind::Artifact)));
    }

    #[test]
    fn what_is_being_unrouted_or_stopped_gets_no_successor() {
        for order in [Order::Unroute, Order::Stop { drain_max: Duration::ZERO }] {
            let wait = successor_after(&failed(ReasonKind::Trap), &order, &RestartSpec::default(), 0);
            assert_eq!(wait, None);
        }
    }

    #[test]
    fn a_wait_is_said_in_round_numbers_with_the_cause() {
        let reason = Reason { kind: ReasonKind::Trap, message: "unreachable".into() };
        let reason = waiting(Duration::from_nanos(1_200_345_678), reason);
        assert_eq!(reason.message, "waits 1s 200ms before the next try: unreachable");
    }

    proptest! {
        #[test]
        fn orders_only_grow(orders in proptest::collection::vec(0..3_u8, 0..20)) {
            let mut current = Order::Run;
            let mut stopped = false;
            for order in orders {
                let next = match order {
                    0 => Order::Run,
                    1 => Order::Unroute,
                    _ => Order::Stop { drain_max: Duration::MAX },
                };
                stopped |= next.is_stop();
                if next.outranks(&current) {
                    current = next;
                }
                prop_assert_eq!(current.is_stop(), stopped);
            }
        }
    }
}
