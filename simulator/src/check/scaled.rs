//! Open requests decide within the range, and in the end there are as many instances as they need, or as the quota allows.

use wharf_platform_api::cores::Scaling;
use wharf_platform_api::plan::AppView;
use wharf_types::spec::ReplicaRange;

use crate::store::App;
use crate::world::World;
use crate::world::scaling::range_of;

/// So full may those be that stay when others are taken away.
const FULL_PERCENT: u32 = 90;

impl World {
    pub(crate) fn check_scaling(&mut self, view: &AppView, range: &ReplicaRange, scaling: &Scaling) {
        let Scaling { from, to, .. } = *scaling;
        if from == to || !(range.min..=range.max).contains(&to) {
            let what = format!("{} goes from {from} to {to} in {range:?}", view.name);
            self.fail("open requests decide within the range, and on another number", what);
        }
    }

    /// What is not as the open requests want it, of an app that scales by them.
    pub(super) fn wrong_number(&self, app: &App, view: &AppView) -> Option<String> {
        let range = range_of(view)?;
        let (open, replicas) = (self.open_requests(view.id), view.replicas());
        let needed = |percent: u32| {
            let instances = (100 * open).div_ceil(percent * range.concurrency);
            instances.clamp(range.min.max(1), range.max)
        };
        let is_quiet = open == 0 && range.min == 0;
        let right = if is_quiet { 0..=0 } else { needed(100)..=needed(FULL_PERCENT) };
        let name = &view.name;
        // Where the quota has no room, fewer are right.
        let may_not = || view.target.as_ref().is_some_and(|target| !self.has_quota_for_one_more(app, target));
        let is_as_good_as_may_be = !is_quiet && replicas < *right.start() && may_not();
        (!right.contains(&replicas) && !is_as_good_as_may_be)
            .then(|| format!("{name} has {replicas} slots for {open} open requests in {range:?}"))
    }
}
