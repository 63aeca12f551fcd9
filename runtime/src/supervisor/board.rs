//! What the worker says of its instances: written by the slots, read as a whole by the supervisor.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wharf_types::InstanceId;
use wharf_types::node::{InstanceReport, Reason};
use wharf_types::state::{Health, InstanceState};

use super::plan::ChainKey;

/// The reports of every chain, oldest member first. No chain is empty.
#[derive(Default)]
pub struct Board {
    chains: Mutex<BTreeMap<ChainKey, Vec<InstanceReport>>>,
    /// Nudged by every change, so that many changes at once are published once.
    changed: Notify,
}

/// A report about an instance of which nothing is known yet.
pub fn report(id: InstanceId, state: InstanceState) -> InstanceReport {
    InstanceReport {
        id,
        replaces: None,
        state,
        health: Health::Unknown,
        reason: None,
        restarts: 0,
        exit_code: None,
    }
}

impl Board {
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub fn members(&self) -> BTreeMap<ChainKey, Vec<InstanceId>> {
        let ids = |reports: &Vec<InstanceReport>| reports.iter().map(|report| report.id).collect();
        self.chains().iter().map(|(chain, reports)| (*chain, ids(reports))).collect()
    }

    pub fn reports(&self) -> Vec<InstanceReport> {
        self.chains().values().flatten().cloned().collect()
    }

    pub fn open(&self, chain: ChainKey, reports: Vec<InstanceReport>) {
        self.chains().insert(chain, reports);
        self.changed.notify_one();
    }

    /// Forgets the chain.
    pub fn close(&self, chain: ChainKey) {
        self.chains().remove(&chain);
        self.changed.notify_one();
    }

    /// Forgets the members before this one.
    pub fn prune(&self, chain: ChainKey, before: InstanceId) {
        if let Some(reports) = self.chains().get_mut(&chain)
            && let Some(place) = reports.iter().position(|report| report.id == before)
        {
            reports.drain(..place);
            self.changed.notify_one();
        }
    }

    /// Changes the report of the current member. States only grow, whatever `change` says.
    pub fn update(&self, chain: ChainKey, change: impl FnOnce(&mut InstanceReport)) {
        if let Some(current) = self.chains().get_mut(&chain).and_then(|reports| reports.last_mut()) {
            let before = current.clone();
            change(current);
            current.state = before.state.advance(current.state);
            if *current != before {
                self.changed.notify_one();
            }
        }
    }

    /// Ends the current member.
    pub fn end(&self, chain: ChainKey, state: InstanceState, reason: Option<Reason>) {
        self.update(chain, |current| {
            current.state = state;
            current.reason = reason;
        });
    }

    /// Ends the current member and puts another in its place, at once: a report never shows the slot without either.
    pub fn replace(&self, chain: ChainKey, ended: (InstanceState, Option<Reason>), next: InstanceReport) {
        if let Some(reports) = self.chains().get_mut(&chain)
            && let Some(current) = reports.last_mut()
        {
            current.state = current.state.advance(ended.0);
            current.reason = ended.1;
            let replaces = Some(current.id);
            reports.push(InstanceReport { replaces, ..next });
            self.changed.notify_one();
        }
    }

    pub fn current(&self, chain: ChainKey) -> Option<InstanceId> {
        self.chains().get(&chain).and_then(|reports| reports.last()).map(|report| report.id)
    }

    /// The members before the current one, oldest first.
    pub fn ancestors(&self, chain: ChainKey) -> Vec<InstanceId> {
        match self.chains().get(&chain).map(Vec::as_slice) {
            Some([ancestors @ .., _]) => ancestors.iter().map(|report| report.id).collect(),
            _ => Vec::new(),
        }
    }

    fn chains(&self) -> MutexGuard<'_, BTreeMap<ChainKey, Vec<InstanceReport>>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(id: InstanceId) -> (Board, ChainKey) {
        let board = Board::default();
        board.open(ChainKey(id), vec![report(id, InstanceState::Preparing)]);
        (board, ChainKey(id))
    }

    #[test]
    fn a_state_never_goes_backwards() {
        let (board, chain) = opened(InstanceId::new());
        board.end(chain, InstanceState::Failed, None);
        board.update(chain, |current| current.state = InstanceState::Running);
        assert_eq!(board.reports()[0].state, InstanceState::Failed);
    }

    #[test]
    fn pruned_members_are_forgotten_but_still_named_by_their_replacement() {
        let (a, b) = (InstanceId::new(), InstanceId::new());
        let (board, chain) = opened(a);
        board.replace(chain, (InstanceState::Failed, None), report(b, InstanceState::Starting));
        assert_eq!(board.ancestors(chain), [a]);
        board.prune(chain, b);
        let reports = board.reports();
        assert_eq!((reports.len(), reports[0].id, reports[0].replaces), (1, b, Some(a)));
        assert_eq!(board.members(), BTreeMap::from([(chain, vec![b])]));
    }
}
