//! What an assignment means for the chains that run here: pure decisions.
//!
//! A *chain* is the instances of one slot, oldest first: each replaced the one before it, the last one is the current one.
//! The control plane may list any of them, because it learns of replacements only from reports.

use std::collections::{BTreeMap, HashMap, HashSet};

use wharf_types::InstanceId;
use wharf_types::node::AssignedInstance;
use wharf_types::state::{InstanceState, Wanted};

/// Names a chain: the instance that it began with, also after that one has been pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainKey(pub InstanceId);

/// One consequence of an assignment. Indices point into the assigned instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is new, or may still run as it did in a process before this one: run it, or go on with it as far as that is wanted.
    Run(usize),
    /// It ran in a worker process that is gone: run another in its place.
    Replace(usize),
    /// It is a run of a job, and ran in a worker process that is gone: report that, and leave it to the control plane what comes after it.
    Lose(usize),
    /// It is unknown and not wanted any more: report its end.
    Settle(usize),
    /// The chain is kept, and this is wanted of it.
    Keep { chain: ChainKey, wanted: Wanted },
    /// The control plane knows what became of the members before this one.
    Prune { chain: ChainKey, before: InstanceId },
    /// No member is listed any more: stop the chain if it runs, then forget it.
    Release(ChainKey),
}

/// The steps from what is known to what is assigned.
///
/// `may_live` says of an instance that started in a worker process that is gone whether it may run all the same: then it is run as itself, and
/// whoever runs it finds out.
pub fn plan(
    known: &BTreeMap<ChainKey, Vec<InstanceId>>,
    assigned: &[AssignedInstance],
    may_live: impl Fn(&AssignedInstance) -> bool,
) -> Vec<Step> {
    let members: HashMap<InstanceId, (ChainKey, usize)> = known
        .iter()
        .flat_map(|(chain, ids)| ids.iter().enumerate().map(|(place, id)| (*id, (*chain, place))))
        .collect();
    let mut listed: BTreeMap<ChainKey, Listed> = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut steps = Vec::new();
    for (index, instance) in assigned.iter().enumerate() {
        if !seen.insert(instance.id) {
            continue;
        }
        match members.get(&instance.id) {
            Some((chain, place)) => listed
                .entry(*chain)
                .and_modify(|listed| listed.add(*place, instance.wanted))
                .or_insert(Listed { oldest: *place, newest: *place, wanted: instance.wanted }),
            None => {
                steps.extend(unknown(index, instance, may_live(instance)));
                continue;
            }
        };
    }
    for (chain, ids) in known {
        match listed.get(chain) {
            Some(listed) => {
                if listed.oldest > 0 {
                    steps.push(Step::Prune { chain: *chain, before: ids[listed.oldest] });
                }
                steps.push(Step::Keep { chain: *chain, wanted: listed.wanted });
            }
            None => steps.push(Step::Release(*chain)),
        }
    }
    steps
}

fn unknown(index: usize, instance: &AssignedInstance, may_live: bool) -> Option<Step> {
    match (instance.observed, instance.wanted) {
        (observed, _) if observed.is_final() => None,
        // It may have come to its end before it was told to stop, while nobody looked: whoever runs it finds that out, too.
        // What may not have been started is not started for that.
        (observed, Wanted::Unroute) if observed >= InstanceState::Starting && may_live => {
            Some(Step::Run(index))
        }
        (_, Wanted::Stop) if may_live => Some(Step::Run(index)),
        (_, Wanted::Unroute | Wanted::Stop) => Some(Step::Settle(index)),
        (observed, Wanted::Run) if observed >= InstanceState::Starting && !may_live => {
            Some(if instance.job.is_some() { Step::Lose(index) } else { Step::Replace(index) })
        }
        (_, Wanted::Run) => Some(Step::Run(index)),
    }
}

/// The members of one chain that the assignment lists, by their places in it.
struct Listed {
    oldest: usize,
    newest: usize,
    /// Of the newest: it speaks for the chain, an older one may only not have been taken out yet.
    wanted: Wanted,
}

impl Listed {
    fn add(&mut self, place: usize, wanted: Wanted) {
        self.oldest = self.oldest.min(place);
        if place > self.newest {
            self.newest = place;
            self.wanted = wanted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::assigned;
    use proptest::prelude::*;
    use wharf_types::JobId;
    use wharf_types::node::AssignedJob;

    fn plan(known: &BTreeMap<ChainKey, Vec<InstanceId>>, assigned: &[AssignedInstance]) -> Vec<Step> {
        super::plan(known, assigned, |_| false)
    }

    fn known(chain: &[InstanceId]) -> BTreeMap<ChainKey, Vec<InstanceId>> {
        BTreeMap::from([(ChainKey(chain[0]), chain.to_vec())])
    }

    fn ids<const N: usize>() -> [InstanceId; N] {
        std::array::from_fn(|_| InstanceId::new())
    }

    #[test]
    fn a_new_instance_runs() {
        let [a] = ids();
        assert_eq!(plan(&BTreeMap::new(), &[assigned(a)]), [Step::Run(0)]);
    }

    #[test]
    fn an_instance_that_may_still_run_is_run_as_itself() {
        let [a] = ids();
        let lost = AssignedInstance { observed: InstanceState::Running, ..assigned(a) };
        assert_eq!(super::plan(&BTreeMap::new(), &[lost], |_| true), [Step::Run(0)]);
    }

    #[test]
    fn an_instance_that_started_in_another_process_is_replaced() {
        let [a] = ids();
        let lost = AssignedInstance { observed: InstanceState::Running, ..assigned(a) };
        assert_eq!(plan(&BTreeMap::new(), &[lost]), [Step::Replace(0)]);
    }

    #[test]
    fn a_run_of_a_job_that_started_in_another_process_is_not_replaced() {
        let [a] = ids();
        let job = AssignedJob { id: JobId::new(), index: None, attempt: 1 };
        let run = AssignedInstance { job: Some(job), ..assigned(a) };
        assert_eq!(plan(&BTreeMap::new(), std::slice::from_ref(&run)), [Step::Run(0)]);
        let lost = AssignedInstance { observed: InstanceState::Running, ..run };
        assert_eq!(plan(&BTreeMap::new(), &[lost]), [Step::Lose(0)]);
    }

    #[test]
    fn a_run_of_a_job_that_may_still_run_is_looked_after_also_when_it_shall_stop() {
        let [a] = ids();
        let job = AssignedJob { id: JobId::new(), index: None, attempt: 1 };
        let run = AssignedInstance { job: Some(job), observed: InstanceState::Running, ..assigned(a) };
        let stopping = AssignedInstance { wanted: Wanted::Stop, ..run.clone() };
        for assigned in [run, stopping] {
            assert_eq!(super::plan(&BTreeMap::new(), &[assigned], |_| true), [Step::Run(0)]);
        }
    }

    #[test]
    fn an_unknown_instance_that_shall_stop_is_only_settled() {
        let [a] = ids();
        let lost = AssignedInstance { observed: InstanceState::Running, wanted: Wanted::Stop, ..assigned(a) };
        assert_eq!(plan(&BTreeMap::new(), &[lost]), [Step::Settle(0)]);
    }

    #[test]
    fn one_that_may_still_run_is_stopped_before_its_end_is_reported() {
        let [a] = ids();
        for (observed, wanted, step) in [
            (InstanceState::Running, Wanted::Stop, Step::Run(0)),
            (InstanceState::Assigned, Wanted::Stop, Step::Run(0)),
            (InstanceState::Running, Wanted::Unroute, Step::Run(0)),
            (InstanceState::Assigned, Wanted::Unroute, Step::Settle(0)),
        ] {
            let lost = AssignedInstance { observed, wanted, ..assigned(a) };
            assert_eq!(super::plan(&BTreeMap::new(), &[lost], |_| true), [step], "{observed:?} {wanted:?}");
        }
    }

    #[test]
    fn an_unknown_instance_that_has_ended_is_nothing_to_do() {
        let [a] = ids();
        let ended = AssignedInstance { observed: InstanceState::Failed, ..assigned(a) };
        assert_eq!(plan(&BTreeMap::new(), &[ended]), []);
    }

    #[test]
    fn a_chain_is_kept_by_an_ancestor_whose_replacement_is_not_known_yet() {
        let [a, b] = ids();
        let chain = ChainKey(a);
        assert_eq!(plan(&known(&[a, b]), &[assigned(a)]), [Step::Keep { chain, wanted: Wanted::Run }]);
    }

    #[test]
    fn ancestors_before_the_oldest_listed_one_are_pruned() {
        let [a, b, c] = ids();
        let chain = ChainKey(a);
        let steps = plan(&known(&[a, b, c]), &[assigned(b)]);
        assert_eq!(steps, [Step::Prune { chain, before: b }, Step::Keep { chain, wanted: Wanted::Run }]);
    }

    #[test]
    fn the_newest_listed_member_speaks_for_its_chain() {
        let [a, b] = ids();
        let stopping = AssignedInstance { wanted: Wanted::Stop, ..assigned(a) };
        for list in [[stopping.clone(), assigned(b)], [assigned(b), stopping]] {
            assert_eq!(
                plan(&known(&[a, b]), &list),
                [Step::Keep { chain: ChainKey(a), wanted: Wanted::Run }]
            );
        }
    }

    #[test]
    fn a_chain_that_is_not_listed_is_released() {
        let [a, b] = ids();
        assert_eq!(plan(&known(&[a, b]), &[]), [Step::Release(ChainKey(a))]);
    }

    proptest! {
        #[test]
        fn each_chain_gets_one_verdict_and_nothing_starts_twice(
            chains in proptest::collection::vec(1..4_usize, 0..6),
            picks in proptest::collection::vec((any::<proptest::sample::Index>(), any::<bool>()), 0..20),
        ) {
            let known: BTreeMap<ChainKey, Vec<InstanceId>> = chains
                .iter()
                .map(|length| (0..*length).map(|_| InstanceId::new()).collect::<Vec<_>>())
                .map(|ids| (ChainKey(ids[0]), ids))
                .collect();
            let strangers: Vec<InstanceId> = (0..3).map(|_| InstanceId::new()).collect();
            let all: Vec<InstanceId> = known.values().flatten().chain(&strangers).copied().collect();
            let list: Vec<AssignedInstance> = picks
                .iter()
                .map(|(pick, lost)| AssignedInstance {
                    observed: if *lost { InstanceState::Running } else { InstanceState::Assigned },
                    ..assigned(*pick.get(&all))
                })
                .collect();
            let steps = plan(&known, &list);
            for chain in known.keys() {
                let verdicts = steps.iter().filter(|step| {
                    matches!(step, Step::Keep { chain: kept, .. } | Step::Release(kept) if kept == chain)
                });
                prop_assert_eq!(verdicts.count(), 1);
            }
            let mut started: Vec<InstanceId> = steps
                .iter()
                .filter_map(|step| match step {
                    Step::Run(index) | Step::Replace(index) => Some(list[*index].id),
                    _ => None,
                })
                .collect();
            prop_assert!(started.iter().all(|id| strangers.contains(id)));
            let before = started.len();
            started.sort();
            started.dedup();
            prop_assert_eq!(started.len(), before);
        }
    }
}
