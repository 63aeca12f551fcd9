//! What became of requests, as the front door saw it.

mod times;

use serde::{Deserialize, Serialize};

use crate::name::{AppName, NamespaceName};
pub use times::AnswerTimes;

/// Requests and connections, by how they ended. Health checks, and what guests ask of each other, are not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct RequestCounts {
    /// Answered by a guest with a status of 200 to 299.
    pub ok: u64,
    /// With 300 to 399.
    pub redirects: u64,
    /// With 400 to 499, or refused by the ingress because of what the client sent.
    pub client_errors: u64,
    /// Answered by a guest with 500 or more.
    pub server_errors: u64,
    /// Answered by the platform with an error, because the guest failed, was busy, took too long, or because there was none.
    pub failed: u64,
    /// Answers, counted above, and connections that were broken off before their end: by a guest's failure, a stop or a limit.
    pub cut: u64,
    /// Time from the end of a request's head to the head of its answer, in all, in microseconds.
    pub answer_micros: u64,
    /// How many answers took how long, as pairs of a bucket and a number: since the first trial of a release of the app. Ingresses of before
    /// do not say it.
    #[serde(skip_serializing_if = "AnswerTimes::is_empty")]
    pub times: AnswerTimes,
}

impl RequestCounts {
    /// Requests that a guest answered.
    pub fn served(&self) -> u64 {
        let Self { ok, redirects, client_errors, server_errors, .. } = self;
        [redirects, client_errors, server_errors].iter().fold(*ok, |sum, more| sum.saturating_add(**more))
    }

    pub fn total(&self) -> u64 {
        self.served().saturating_add(self.failed)
    }

    /// What a user would call an error: of the app, of the platform, or an answer without its end.
    pub fn errors(&self) -> u64 {
        self.server_errors.saturating_add(self.failed).saturating_add(self.cut).min(self.total())
    }

    /// The share of errors, 0 to 1. Of nothing it is 0.
    pub fn error_share(&self) -> f64 {
        if self.total() == 0 { 0.0 } else { self.errors() as f64 / self.total() as f64 }
    }

    /// The mean time to an answer, in microseconds. None: there was none.
    pub fn mean_micros(&self) -> Option<f64> {
        (self.served() > 0).then(|| self.answer_micros as f64 / self.served() as f64)
    }

    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// What was added since `before`.
    pub fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    fn with(&self, other: &Self, both: fn(u64, u64) -> u64) -> Self {
        Self {
            ok: both(self.ok, other.ok),
            redirects: both(self.redirects, other.redirects),
            client_errors: both(self.client_errors, other.client_errors),
            server_errors: both(self.server_errors, other.server_errors),
            failed: both(self.failed, other.failed),
            cut: both(self.cut, other.cut),
            answer_micros: both(self.answer_micros, other.answer_micros),
            times: self.times.with(&other.times, both),
        }
    }
}

/// Totals of one release at one ingress since its worker started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RequestTotals {
    pub namespace: NamespaceName,
    pub app: AppName,
    /// 0: of requests that no instance could be given to.
    pub release: u64,
    pub counts: RequestCounts,
}

/// What became of the requests to one release during a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReleaseRequests {
    /// 0: requests that no instance could be given to.
    pub release: u64,
    pub counts: RequestCounts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_the_app_and_of_the_platform_and_what_was_cut() {
        let counts = RequestCounts {
            ok: 90,
            client_errors: 4,
            server_errors: 3,
            failed: 3,
            ..RequestCounts::default()
        };
        assert_eq!((counts.served(), counts.total(), counts.errors()), (97, 100, 6));
        assert!((counts.error_share() - 0.06).abs() < 1e-9);
        let cut = RequestCounts { ok: 1, cut: 5, ..RequestCounts::default() };
        assert!(cut.error_share() <= 1.0, "connections may be cut that are no requests");
        assert!(
            RequestCounts::default().error_share() == 0.0 && RequestCounts::default().mean_micros().is_none()
        );
    }

    #[test]
    fn what_was_added_is_told_from_what_was_there() {
        let before = RequestCounts { ok: 5, answer_micros: 10, ..RequestCounts::default() };
        let more = RequestCounts { ok: 2, failed: 1, answer_micros: 30, ..RequestCounts::default() };
        assert_eq!(before.plus(&more).since(&before), more);
        assert!(RequestCounts::default().since(&before).is_zero());
    }

    #[test]
    fn counts_of_ingresses_that_know_no_times_are_read_and_written_as_they_were() {
        let old = r#"{"ok":5,"redirects":0,"client_errors":0,"server_errors":0,"failed":0,"cut":0,"answer_micros":10}"#;
        let counts: RequestCounts = serde_json::from_str(old).unwrap();
        assert!(counts.times.is_empty());
        assert_eq!(serde_json::to_string(&counts).unwrap(), old);
    }
}
