//! What the next report says, and whether somebody waits for it.

use std::collections::HashMap;

use bytes::Bytes;
use wharf_types::node::{InstanceReport, NodeReport};
use wharf_types::state::Health;
use wharf_types::{InstanceId, ProcessId};

use super::Figures;
use crate::control::encode;

/// Remembers the last report: one that says the same costs no second encoding.
#[derive(Default)]
pub(super) struct Reporter {
    last: Option<(NodeReport, Bytes)>,
}

/// The newest of each that this node has taken up.
#[derive(Clone, Copy)]
pub(super) struct Acknowledged {
    pub(super) assignment_generation: u64,
    pub(super) routes_generation: u64,
}

impl Reporter {
    pub(super) fn compose(
        &mut self,
        process: ProcessId,
        Acknowledged { assignment_generation, routes_generation }: Acknowledged,
        instances: &[InstanceReport],
        figures: Figures,
    ) -> Bytes {
        if let Some((last, body)) = &self.last
            && last.assignment_generation == assignment_generation
            && last.routes_generation == routes_generation
            && last.instances == instances
            && last.usage == figures.apps
            && last.figures == figures.node
        {
            return body.clone();
        }
        let report = NodeReport {
            process,
            assignment_generation,
            routes_generation,
            instances: instances.to_vec(),
            usage: figures.apps,
            figures: figures.node,
        };
        let body = encode(&report);
        self.last = Some((report, body.clone()));
        body
    }

    /// Whether an instance became healthy, unhealthy or ended since the last report. Steps before that are not worth a
    /// report of their own.
    pub(super) fn is_urgent(&self, instances: &[InstanceReport]) -> bool {
        let last: HashMap<InstanceId, &InstanceReport> = self
            .last
            .iter()
            .flat_map(|(report, _)| &report.instances)
            .map(|report| (report.id, report))
            .collect();
        instances
            .iter()
            .filter(|report| report.state.is_final() || report.health != Health::Unknown)
            .any(|report| last.get(&report.id).is_none_or(|last| *last != report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::state::InstanceState;

    fn report(state: InstanceState, health: Health) -> InstanceReport {
        let id = InstanceId::from_uuid(uuid::Uuid::nil());
        InstanceReport { id, replaces: None, state, health, reason: None, restarts: 0, exit_code: None }
    }

    fn compose(
        reporter: &mut Reporter,
        generation: u64,
        instances: &[InstanceReport],
        figures: Figures,
    ) -> Bytes {
        let acknowledged = Acknowledged { assignment_generation: generation, routes_generation: 1 };
        reporter.compose(ProcessId::default(), acknowledged, instances, figures)
    }

    #[test]
    fn only_what_somebody_waits_for_is_urgent() {
        let mut reporter = Reporter::default();
        compose(&mut reporter, 1, &[report(InstanceState::Preparing, Health::Unknown)], Figures::default());
        for (state, health, urgent) in [
            (InstanceState::Preparing, Health::Unknown, false),
            (InstanceState::Running, Health::Unknown, false),
            (InstanceState::Running, Health::Healthy, true),
            (InstanceState::Running, Health::Unhealthy, true),
            (InstanceState::Failed, Health::Unknown, true),
        ] {
            assert_eq!(reporter.is_urgent(&[report(state, health)]), urgent, "{state:?} {health:?}");
        }
        compose(&mut reporter, 1, &[report(InstanceState::Running, Health::Healthy)], Figures::default());
        assert!(!reporter.is_urgent(&[report(InstanceState::Running, Health::Healthy)]));
    }

    #[test]
    fn a_report_that_says_the_same_is_not_encoded_again() {
        let mut reporter = Reporter::default();
        let instances = [report(InstanceState::Running, Health::Healthy)];
        let first = compose(&mut reporter, 1, &instances, Figures::default());
        assert_eq!(compose(&mut reporter, 1, &instances, Figures::default()).as_ptr(), first.as_ptr());
        assert_ne!(compose(&mut reporter, 2, &instances, Figures::default()), first);
    }
}
