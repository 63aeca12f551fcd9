//! What the worker says of its instances: written by the slots, read as a whole by the supervisor.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wharf_types::InstanceId;
use wharf_types::node::{InstanceReport, Reason};
use wharf_types::state::{Health, InstanceState};

use super::plan::ChainKey;

/// So many instances of one slot are told of at once. The control plane takes note of one soon and has those before it forgotten; while it is
/// away, what crashes again and again must not make the reports longer and longer.
const TOLD_MAX: usize = 16;

/// The reports of every chain. No chain is empty.
#[derive(Default)]
pub struct Board {
    chains: Mutex<BTreeMap<ChainKey, Chain>>,
    /// Nudged by every change, so that many changes at once are published once.
    changed: Notify,
}

/// The instances of one slot.
struct Chain {
    /// Oldest first. Whoever is among these may be known to the control plane, and so has to be named by its successor.
    told: Vec<InstanceReport>,
    /// What has followed when there were too many of them. Until some are forgotten the last of them is told of as if it had not ended.
    untold: Option<Untold>,
}

struct Untold {
    /// How the last that is told of has ended.
    ended: (InstanceState, Option<Reason>),
    /// What runs. Of those in between nobody has heard, so nobody misses them: how many there were is in its `restarts`.
    current: InstanceReport,
}

impl Chain {
    fn members(&self) -> impl Iterator<Item = &InstanceReport> {
        self.told.iter().chain(self.untold.as_ref().map(|untold| &untold.current))
    }

    fn current_mut(&mut self) -> Option<&mut InstanceReport> {
        match &mut self.untold {
            Some(untold) => Some(&mut untold.current),
            None => self.told.last_mut(),
        }
    }

    /// Ends the current member and puts another in its place.
    fn replace(&mut self, ended: (InstanceState, Option<Reason>), next: InstanceReport) {
        let is_full = self.told.len() >= TOLD_MAX;
        let Some(last) = self.told.last_mut() else { return };
        let next = InstanceReport { replaces: Some(last.id), ..next };
        if let Some(untold) = &mut self.untold {
            untold.current = next;
        } else if is_full {
            self.untold = Some(Untold { ended, current: next });
        } else {
            end(last, ended);
            self.told.push(next);
        }
    }

    /// Forgets the members before this one. Whether there were any.
    fn prune(&mut self, before: InstanceId) -> bool {
        let place = self.told.iter().position(|report| report.id == before).unwrap_or_default();
        self.told.drain(..place);
        if place > 0
            && let Some(Untold { ended, current }) = self.untold.take()
        {
            if let Some(last) = self.told.last_mut() {
                end(last, ended);
            }
            self.told.push(current);
        }
        place > 0
    }
}

fn end(report: &mut InstanceReport, (state, reason): (InstanceState, Option<Reason>)) {
    report.state = report.state.advance(state);
    report.reason = reason;
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
        let ids = |chain: &Chain| chain.members().map(|report| report.id).collect();
        self.chains().iter().map(|(key, chain)| (*key, ids(chain))).collect()
    }

    pub fn reports(&self) -> Vec<InstanceReport> {
        self.chains().values().flat_map(|chain| &chain.told).cloned().collect()
    }

    pub fn open(&self, chain: ChainKey, reports: Vec<InstanceReport>) {
        self.chains().insert(chain, Chain { told: reports, untold: None });
        self.changed.notify_one();
    }

    /// Forgets the chain.
    pub fn close(&self, chain: ChainKey) {
        self.chains().remove(&chain);
        self.changed.notify_one();
    }

    /// Forgets the members before this one.
    pub fn prune(&self, chain: ChainKey, before: InstanceId) {
        if self.chains().get_mut(&chain).is_some_and(|chain| chain.prune(before)) {
            self.changed.notify_one();
        }
    }

    /// Changes the report of the current member. States only grow, whatever `change` says.
    pub fn update(&self, chain: ChainKey, change: impl FnOnce(&mut InstanceReport)) {
        if let Some(current) = self.chains().get_mut(&chain).and_then(Chain::current_mut) {
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
        if let Some(chain) = self.chains().get_mut(&chain) {
            chain.replace(ended, next);
            self.changed.notify_one();
        }
    }

    pub fn current(&self, chain: ChainKey) -> Option<InstanceId> {
        self.chains().get(&chain).and_then(|chain| chain.members().last()).map(|report| report.id)
    }

    /// The members before the current one, oldest first.
    pub fn ancestors(&self, chain: ChainKey) -> Vec<InstanceId> {
        let chains = self.chains();
        let members = chains.get(&chain).into_iter().flat_map(Chain::members);
        let mut ids: Vec<InstanceId> = members.map(|report| report.id).collect();
        ids.pop();
        ids
    }

    fn chains(&self) -> MutexGuard<'_, BTreeMap<ChainKey, Chain>> {
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
    /// A chain in which each has been replaced, so often.
    fn crashing(times: u32) -> (Board, ChainKey) {
        let (board, chain) = opened(InstanceId::new());
        for restarts in 1..=times {
            let next = InstanceReport { restarts, ..report(InstanceId::new(), InstanceState::Starting) };
            board.replace(chain, (InstanceState::Failed, None), next);
        }
        (board, chain)
    }

    #[test]
    fn however_often_one_crashes_while_nobody_takes_note_only_so_many_are_told_of() {
        let (board, chain) = crashing(1000);
        let reports = board.reports();
        assert_eq!(reports.len(), TOLD_MAX);
        let (last, before) = reports.split_last().unwrap();
        assert!(before.iter().all(|report| report.state == InstanceState::Failed));
        assert!(!last.state.is_final(), "its slot is not empty");
        // Also what the control plane may not know of yet belongs to the chain.
        assert_eq!(board.members()[&chain].len(), TOLD_MAX + 1);
        assert_eq!(board.members()[&chain].last().copied(), board.current(chain));
        assert_eq!(board.ancestors(chain).len(), TOLD_MAX);

        board.prune(chain, last.id);
        let reports = board.reports();
        assert_eq!((reports.len(), reports[0].id, reports[0].state), (2, last.id, InstanceState::Failed));
        assert_eq!((reports[1].replaces, reports[1].restarts), (Some(last.id), 1000));
        assert_eq!(Some(reports[1].id), board.current(chain));
    }

    #[test]
    fn what_became_of_one_that_is_not_told_of_is_told_when_there_is_room() {
        let (board, chain) = crashing(100);
        board.update(chain, |current| current.health = Health::Healthy);
        board.end(chain, InstanceState::Stopped, None);
        let told = board.reports();
        assert!(!told.last().unwrap().state.is_final(), "it is not known to have been replaced");
        board.prune(chain, InstanceId::new());
        assert_eq!(board.reports(), told, "nothing was forgotten");
        board.prune(chain, told[1].id);
        let reports = board.reports();
        assert_eq!(reports.len(), TOLD_MAX);
        let last = reports.last().unwrap();
        assert_eq!((last.state, last.health), (InstanceState::Stopped, Health::Healthy));
        assert_eq!(last.replaces, Some(told.last().unwrap().id));
    }
}
