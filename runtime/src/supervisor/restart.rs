//! Whether an instance that ended by itself gets a successor, and when: pure decisions.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use wharf_types::node::{Reason, ReasonKind};
use wharf_types::quantity::Span;
use wharf_types::spec::{RestartCondition, RestartSpec};
use wharf_types::state::{InstanceState, Wanted};

use crate::backend::{Ended, Failure};
use crate::backoff::restart_wait;

/// What the slot is to do. Grows only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Run,
    /// Run on, but whoever ends now is not replaced.
    Unroute,
    /// Open requests may finish for at most so long, or for what the app asks if that is less.
    Stop {
        drain_max: Duration,
    },
}

impl Order {
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Stop { .. })
    }

    /// Whether this order may take the place of another.
    pub fn outranks(&self, other: &Self) -> bool {
        let rank = |order: &Self| match order {
            Self::Run => 0,
            Self::Unroute => 1,
            Self::Stop { .. } => 2,
        };
        rank(self) > rank(other)
    }
}

/// What an assignment wants of a slot.
pub fn order_of(wanted: Wanted) -> Order {
    match wanted {
        Wanted::Run => Order::Run,
        Wanted::Unroute => Order::Unroute,
        Wanted::Stop => Order::Stop { drain_max: Duration::MAX },
    }
}

/// The wait, without jitter, before a successor starts. None: there will be none.
pub fn successor_after(ended: &Ended, order: &Order, spec: &RestartSpec, restarts: u32) -> Option<Duration> {
    let wanted = match (spec.condition, ended) {
        (_, Ended::Failed(failure)) if !failure.is_retryable() => false,
        (RestartCondition::Any, _) | (RestartCondition::OnFailure, Ended::Failed(_)) => true,
        (RestartCondition::OnFailure, Ended::Success) | (RestartCondition::Never, _) => false,
    };
    (wanted && *order == Order::Run).then(|| restart_wait(spec, restarts))
}

/// The successors that a slot has had, as far as `restart.attempts` counts them.
#[derive(Debug, Default)]
pub struct Attempts {
    made: VecDeque<Instant>,
}

impl Attempts {
    /// Takes one. Returns `false` when all are used up.
    pub fn take(&mut self, spec: &RestartSpec, now: Instant) -> bool {
        let Some(most) = spec.attempts else { return true };
        if let Some(window) = spec.window {
            let is_old = |made: &Instant| now.saturating_duration_since(*made) > window.as_duration();
            while self.made.front().is_some_and(is_old) {
                self.made.pop_front();
            }
        }
        if self.made.len() >= most as usize {
            return false;
        }
        self.made.push_back(now);
        true
    }

    /// The slot has been healthy for long enough. Where there is a window, only time forgives.
    pub fn forgive(&mut self, spec: &RestartSpec) {
        if spec.window.is_none() {
            self.made.clear();
        }
    }
}

/// How the end is reported when all attempts are used up.
pub fn given_up(spec: &RestartSpec, ended: Reason) -> (InstanceState, Reason) {
    let attempts = spec.attempts.unwrap_or_default();
    let plural = if attempts == 1 { "restart" } else { "restarts" };
    let within = spec.window.map(|window| format!(" within {window}")).unwrap_or_default();
    let message = format!("gave up after {attempts} {plural}{within}: {}", ended.message);
    (InstanceState::Failed, Reason { kind: ended.kind, message })
}

/// How the end is reported.
pub fn final_report(ended: &Ended) -> (InstanceState, Reason) {
    match ended {
        Ended::Success => {
            let message = "the command ended with success".to_owned();
            (InstanceState::Stopped, Reason { kind: ReasonKind::Exit, message })
        }
        Ended::Failed(Failure { reason, .. }) => (InstanceState::Failed, reason.clone()),
    }
}

/// What the guest gave back, if it ended by itself.
pub fn exit_code(ended: &Ended) -> Option<i32> {
    match ended {
        Ended::Success => Some(0),
        Ended::Failed(failure) => failure.exit_code,
    }
}

/// Why a successor does not run yet.
pub fn waiting(wait: Duration, ended: Reason) -> Reason {
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

    fn attempts(attempts: u32, window: Option<Span>) -> RestartSpec {
        RestartSpec { attempts: Some(attempts), window, ..RestartSpec::default() }
    }

    #[test]
    fn a_slot_gets_so_many_successors_and_no_more() {
        let (now, mut made) = (Instant::now(), Attempts::default());
        let spec = attempts(2, None);
        assert_eq!([0; 4].map(|_| made.take(&spec, now)), [true, true, false, false]);
        made.forgive(&spec);
        assert!(made.take(&spec, now));
        assert!((0..100).all(|_| made.take(&RestartSpec::default(), now)), "none is no limit");
    }

    #[test]
    fn attempts_count_for_as_long_as_the_window_says() {
        let (start, mut made) = (Instant::now(), Attempts::default());
        let spec = attempts(1, Some(Span::from_secs(10)));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(made.take(&spec, at(0)));
        made.forgive(&spec);
        assert!(!made.take(&spec, at(10)), "health does not forgive before the window does");
        assert!(made.take(&spec, at(11)));
    }

    #[test]
    fn giving_up_is_a_failure_with_its_figures_and_the_cause() {
        let reason = Reason { kind: ReasonKind::Exit, message: "it ended with exit code 3".into() };
        let (state, reason) = given_up(&attempts(3, Some(Span::from_secs(60))), reason);
        assert_eq!(state, InstanceState::Failed);
        assert_eq!(reason.message, "gave up after 3 restarts within 1m: it ended with exit code 3");
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
