//! What a worker's report makes of what is known: what the store has to make true.
//!
//! The store does the same in guarded updates, so that no report is lost to another that comes at the same moment. A test holds the two
//! together (`tests/observing.rs`), and the simulator runs on these.

use wharf_types::node::{InstanceReport, Reason};
use wharf_types::state::{Health, InstanceState};
use wharf_types::{InstanceId, Timestamp};

use super::InstanceView;
use super::job::RunView;

impl InstanceView {
    /// Merges a report. Returns `false` when it says nothing new, or when the instance has ended.
    pub fn observe(&mut self, report: &InstanceReport, now: Timestamp) -> bool {
        let is_news = self.state < report.state
            || (self.health, self.restarts, self.reason.as_deref())
                != (report.health, report.restarts, report.reason.as_ref());
        if self.state.is_final() || !is_news {
            return false;
        }
        self.state = self.state.advance(report.state);
        (self.health, self.restarts) = (report.health, report.restarts);
        self.reason = report.reason.clone().map(Box::new);
        self.was_healthy |= report.health == Health::Healthy;
        self.ended_at = report.state.is_final().then_some(now);
        true
    }

    /// An instance made by the supervisor has taken over its slot. If it has not ended, it has failed.
    pub fn be_replaced(&mut self, reason: Option<&Reason>, now: Timestamp) -> bool {
        if self.replaced {
            return false;
        }
        self.replaced = true;
        self.state = self.state.advance(InstanceState::Failed);
        self.reason = self.reason.take().or_else(|| reason.cloned().map(Box::new));
        self.ended_at = self.ended_at.or(Some(now));
        true
    }

    /// Whether a worker's report, of which `now` is the time, can tell of an instance that took over. It tells of the end of this one as well,
    /// so one that had ended before has been dealt with: it was given up, or has a successor, and what its worker made of an old
    /// assignment is not taken in, and so ends.
    pub fn can_be_succeeded(&self, now: Timestamp) -> bool {
        let ended_just_now = |at: Timestamp| at.as_millisecond() == now.as_millisecond();
        !self.replaced && self.state != InstanceState::Lost && self.ended_at.is_none_or(ended_just_now)
    }

    /// The instance that took over, before anything was observed of it.
    pub fn successor(&self, id: InstanceId, now: Timestamp) -> Self {
        Self {
            id,
            state: InstanceState::Assigned,
            health: Health::Unknown,
            restarts: 0,
            reason: None,
            // Also by a clock that was put back it comes after the other.
            created_at: now.max(self.created_at),
            ended_at: None,
            replaced: false,
            was_healthy: false,
            let_go: false,
            routed: false,
            moves: false,
            ..self.clone()
        }
    }
}

impl RunView {
    /// Merges a report. Returns `false` when it says nothing new, or when the run has ended.
    pub fn observe(&mut self, report: &InstanceReport, now: Timestamp) -> bool {
        if !self.is_live() || (self.state >= report.state && self.reason == report.reason) {
            return false;
        }
        let has_started = report.state == InstanceState::Running || report.exit_code.is_some();
        self.state = self.state.advance(report.state);
        self.reason.clone_from(&report.reason);
        self.exit_code = report.exit_code.or(self.exit_code);
        self.started_at = self.started_at.or(has_started.then_some(now));
        self.ended_at = report.state.is_final().then_some(now);
        true
    }
}
