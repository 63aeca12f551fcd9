//! Workers: generations that only grow, and one writer of a volume, whatever anybody believes.

use std::collections::BTreeMap;

use wharf_types::node::Assignment;

use crate::world::World;

impl World {
    pub(crate) fn check_accepted(&mut self, worker: usize, assignment: &Assignment) {
        let process = self.workers[worker].process;
        let before = self.check.accepted.insert((worker, process), assignment.generation);
        if before.is_some_and(|before| before >= assignment.generation) {
            let what = format!("worker {worker} takes {:#x} after {before:x?}", assignment.generation);
            self.fail("generations only grow at a worker", what);
        }
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
    }
}
