//! Workers: generations that only grow, and one writer of a volume, whatever anybody believes.

use std::collections::BTreeMap;

use wharf_types::InstanceId;
use wharf_types::node::Assignment;

use crate::store::Ids;
use crate::world::World;

impl World {
    pub(crate) fn check_accepted(&mut self, worker: usize, assignment: &Assignment) {
        let process = self.workers[worker].process;
        let before = self.check.accepted.insert((worker, process), assignment.generation);
        if before.is_some_and(|before| before >= assignment.generation) {
            let what = format!("worker {worker} takes {:#x} after {before:x?}", assignment.generation);
            self.fail("generations only grow at a worker", what);
        }
        self.check_delivered(worker, assignment);
    }

    pub(super) fn check_writers(&mut self) {
        let mut writers = BTreeMap::new();
        let mut found = None;
        for worker in &self.workers {
            for slot in worker.slots.values().filter(|slot| slot.is_running()) {
                for volume in slot.exclusive_volumes() {
                    let other = writers.insert(volume, slot.id);
                    found =
                        found.or(other.map(|other| format!("{other} and {} have volume {volume}", slot.id)));
                }
            }
        }
        if let Some(what) = found {
            self.fail("a volume never has two writers", what);
        }
        self.check_singletons();
    }

    /// What stands still does nothing, and what goes on has looked at its lease before anything else. An instance of a release from before
    /// the app became a singleton has no lease, so it may be left over where nobody reaches it.
    fn check_singletons(&mut self) {
        let mut running: BTreeMap<&str, Vec<(InstanceId, bool)>> = BTreeMap::new();
        for worker in self.workers.iter().filter(|worker| worker.stalled_until < self.now) {
            for slot in worker.slots.values().filter(|slot| slot.is_running() && slot.assigned.job.is_none())
            {
                let of_app = running.entry(slot.assigned.app.as_str()).or_default();
                of_app.push((slot.assigned.id, slot.assigned.spec.scale.singleton));
            }
        }
        let found = running.into_iter().find_map(|(app, mut of_app)| {
            // By which was made first, whatever clock was in its id.
            of_app.sort_unstable_by_key(|(id, _)| Ids::count_in(id.as_uuid()));
            let (only, _) = of_app.iter().rev().skip(1).find(|(_, is_singleton)| *is_singleton)?;
            Some(format!("{only} of {app} runs beside what came after it: {of_app:?}"))
        });
        if let Some(what) = found {
            self.fail("a singleton never runs twice", what);
        }
    }
}
