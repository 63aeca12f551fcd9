//! Namespaces: cluster admins set their quotas, and whatever users change is a transaction that a quota may refuse.

use std::fmt::Display;
use std::time::Duration;

use wharf_types::NamespaceName;
use wharf_types::api::{Quota, QuotaUsed};
use wharf_types::quantity::CpuShare;
use wharf_types::spec::{AppSpec, Priority};

use super::{Event, World, say};
use crate::check::tenants::Use;
use crate::store::{Refused, Store};

const NAMESPACES: [&str; 2] = ["default", "blue"];
/// How a limit differs from what is used, in steps.
const BELOW: u64 = 4;
const STEPS: u32 = 9;
/// Thousandths of a processor: so few that nodes are never too small for them.
const CPU_MILLIS: [u32; 3] = [10, 20, 50];

/// What was before a transaction.
pub(crate) struct Before {
    pub(crate) store: Store,
    namespace: NamespaceName,
    counted: QuotaUsed,
    used: Use,
}

impl World {
    pub(super) fn begin_tenants(&mut self) {
        if self.setup.extras.quotas {
            self.after(Duration::from_secs(1), Event::Quota);
        }
        self.begin_values();
    }

    /// Where something new is to be.
    pub(super) fn throw_namespace(&mut self) -> NamespaceName {
        if !self.setup.extras.has_tenants() {
            return NamespaceName::default_namespace();
        }
        self.tenant_dice.pick(&NAMESPACES).parse().expect("it is a name")
    }

    /// Whether a cluster admin asks, whose priorities no quota bounds.
    pub(super) fn is_admin(&mut self) -> bool {
        !self.setup.extras.quotas || self.tenant_dice.percent(20)
    }

    /// An app may reserve parts of processors.
    pub(super) fn reserve(&mut self, spec: &mut AppSpec) {
        if self.setup.extras.quotas && self.tenant_dice.percent(40) {
            spec.reserve.cpu = Some(CpuShare::millis(self.tenant_dice.pick(&CPU_MILLIS)));
        }
    }

    /// A cluster admin sets limits, about what is used now.
    pub(super) fn set_quota(&mut self) {
        if self.is_calm() {
            return;
        }
        let wait = self.tenant_dice.millis(100..=6_000);
        self.after(wait, Event::Quota);
        if !self.controls[self.leader()].is_up {
            return;
        }
        let namespace = self.throw_namespace();
        if self.tenant_dice.percent(20) {
            say!(self, "a cluster admin takes the quota of {namespace} away");
            self.store.quotas.remove(&namespace);
            return;
        }
        let used = Use::of(&self.store, &namespace);
        let priority = self.tenant_dice.pick(&[None, Some(Priority::Low), Some(Priority::High)]);
        let quota = Quota {
            apps: self.throw_limit(used.apps, 1),
            instances: self.throw_limit(used.instances, 1),
            memory_bytes: self.throw_limit(used.memory_bytes, 1 << 20),
            cpu_millis: self.throw_limit(used.cpu_millis, 20),
            secrets: self.throw_limit(used.secrets, 1),
            priority,
            ..Quota::default()
        };
        say!(self, "a cluster admin sets the quota of {namespace}: {quota:?}, where {used:?}");
        self.store.quotas.insert(namespace, quota);
    }

    fn throw_limit(&mut self, used: u64, step: u64) -> Option<u64> {
        if self.tenant_dice.percent(50) {
            return None;
        }
        let steps = u64::from(self.tenant_dice.number(0..=STEPS));
        Some((used + steps * step).saturating_sub(BELOW * step))
    }

    /// To be called before anything is written.
    pub(super) fn begin(&self, namespace: &NamespaceName) -> Before {
        Before {
            store: self.store.clone(),
            namespace: namespace.clone(),
            counted: self.store.used(namespace),
            used: Use::of(&self.store, namespace),
        }
    }

    /// The platform has written something by itself that a quota may refuse.
    pub(super) fn check_growth(&mut self, before: &Before, what: &dyn Display) {
        self.check_acknowledged(&before.namespace, &before.used, what);
    }

    /// Keeps what a transaction has made of the store, or, where it is refused, nothing of it.
    pub(super) fn end<T>(
        &mut self,
        before: &Before,
        what: &dyn Display,
        outcome: Result<T, Refused>,
    ) -> Option<T> {
        let namespace = &before.namespace;
        let checked = outcome.and_then(|done| {
            self.store.check_quota(namespace, &before.counted)?;
            Ok(done)
        });
        match checked {
            Ok(done) => {
                self.check_acknowledged(namespace, &before.used, what);
                Some(done)
            }
            Err(refused) => {
                say!(self, "{what} is refused: {refused}");
                self.check_refused(namespace, &before.used, &refused);
                self.store = before.store.clone();
                None
            }
        }
    }
}
