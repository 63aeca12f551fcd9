//! Whether a namespace may use more: decided from its limits, what it uses, and what it would use; and what an app counts for.
//!
//! Only growth is refused. A limit below what is used takes nothing away: what runs goes on, and everything may be done that makes it
//! less, or leaves it as it is.

use std::fmt;

use wharf_types::NamespaceName;
use wharf_types::api::{Quota, QuotaUsed};
use wharf_types::quantity::{ByteSize, CpuShare};
use wharf_types::spec::Priority;

/// What an instance of a release reserves, and how many the release asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    pub replicas: u32,
    /// The fewest and the most, where open requests decide.
    pub range: Option<(u32, u32)>,
    /// On how many nodes it could run when it was made, where it runs on each.
    pub nodes: Option<u32>,
    pub memory_bytes: u64,
    pub cpu_millis: u32,
}

/// What decides how much of a quota an app takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What `scale` has set.
    pub scaled_to: Option<u32>,
    /// What open requests have decided on last.
    pub autoscaled_to: Option<u32>,
    /// On how many nodes it runs, where it runs on each and the planner has looked at them for its release.
    pub settled: Option<u32>,
    /// Of its release. None: it has none, or nobody has worked it out yet.
    pub demand: Option<Demand>,
}

impl Standing {
    /// How many instances of which demand. None: nothing is to run.
    fn instances(&self) -> Option<(u32, Demand)> {
        let demand = self.demand?;
        // Until the planner has looked at the nodes, what was counted when the release was made stands for them.
        if let Some(nodes) = demand.nodes {
            return Some((self.settled.unwrap_or(nodes), demand));
        }
        // Where there is a range, what open requests have decided on counts within it.
        let range = self.autoscaled_to.zip(demand.range);
        let within = range.map_or(demand.replicas, |(to, (least, most))| to.max(least).min(most));
        Some((self.scaled_to.unwrap_or(within), demand))
    }

    /// Counts the app, and what it is to run.
    pub fn add_to(&self, used: &mut QuotaUsed) {
        used.apps = used.apps.saturating_add(1);
        let Some((instances, demand)) = self.instances() else { return };
        let instances = u64::from(instances);
        used.instances = used.instances.saturating_add(instances);
        let memory = demand.memory_bytes.saturating_mul(instances);
        used.memory_bytes = used.memory_bytes.saturating_add(memory);
        let cpu = u64::from(demand.cpu_millis).saturating_mul(instances);
        used.cpu_millis = used.cpu_millis.saturating_add(cpu);
    }

    /// The same backwards.
    pub(crate) fn take_from(&self, used: &mut QuotaUsed) {
        let mut own = QuotaUsed::default();
        self.add_to(&mut own);
        used.apps = used.apps.saturating_sub(own.apps);
        used.instances = used.instances.saturating_sub(own.instances);
        used.memory_bytes = used.memory_bytes.saturating_sub(own.memory_bytes);
        used.cpu_millis = used.cpu_millis.saturating_sub(own.cpu_millis);
    }
}

/// One of the amounts that are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Apps,
    Instances,
    Memory,
    Cpu,
    Volumes,
    Artifacts,
    Repositories,
    Secrets,
}

impl Resource {
    pub(crate) const ALL: [Self; 8] = [
        Self::Apps,
        Self::Instances,
        Self::Memory,
        Self::Cpu,
        Self::Volumes,
        Self::Artifacts,
        Self::Repositories,
        Self::Secrets,
    ];

    /// Those that a quota limits. Of most changes only these need to be counted.
    pub(crate) fn limited_by(quota: &Quota) -> Vec<Self> {
        Self::ALL.into_iter().filter(|resource| resource.limit(quota).is_some()).collect()
    }

    /// Whether it is counted by what apps and jobs are to run.
    pub(crate) fn is_of_apps(self) -> bool {
        matches!(self, Self::Apps | Self::Instances | Self::Memory | Self::Cpu)
    }

    /// Its name, which is also the flag of `wharf quota set`.
    fn name(self) -> &'static str {
        match self {
            Self::Apps => "apps",
            Self::Instances => "instances",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Volumes => "volumes",
            Self::Artifacts => "artifacts",
            Self::Repositories => "repositories",
            Self::Secrets => "secrets",
        }
    }

    fn limit(self, quota: &Quota) -> Option<u64> {
        match self {
            Self::Apps => quota.apps,
            Self::Instances => quota.instances,
            Self::Memory => quota.memory_bytes,
            Self::Cpu => quota.cpu_millis,
            Self::Volumes => quota.volume_bytes,
            Self::Artifacts => quota.artifact_bytes,
            Self::Repositories => quota.repository_bytes,
            Self::Secrets => quota.secrets,
        }
    }

    fn of(self, used: &QuotaUsed) -> u64 {
        match self {
            Self::Apps => used.apps,
            Self::Instances => used.instances,
            Self::Memory => used.memory_bytes,
            Self::Cpu => used.cpu_millis,
            Self::Volumes => used.volume_bytes,
            Self::Artifacts => used.artifact_bytes,
            Self::Repositories => used.repository_bytes,
            Self::Secrets => used.secrets,
        }
    }

    fn amount(self, amount: u64) -> String {
        match self {
            Self::Apps | Self::Instances | Self::Secrets => amount.to_string(),
            Self::Memory | Self::Volumes | Self::Artifacts | Self::Repositories => {
                ByteSize::bytes(amount).to_string()
            }
            Self::Cpu => CpuShare::millis(u32::try_from(amount).unwrap_or(u32::MAX)).to_string(),
        }
    }

    /// What its users can do themselves.
    fn way_out(self) -> &'static str {
        match self {
            Self::Apps => "delete an app",
            Self::Instances | Self::Memory | Self::Cpu => "scale down or delete an app",
            Self::Volumes => "ask for less, or remove a volume",
            Self::Artifacts => "delete an app: what no kept release needs goes within the hour",
            Self::Repositories => {
                "push without large files, or delete an app, with which its repository goes"
            }
            Self::Secrets => "remove a secret that no app uses",
        }
    }
}

/// A limit that something would go beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Exceeded {
    pub(crate) resource: Resource,
    pub(crate) used: u64,
    /// How much more.
    pub(crate) asked: u64,
    pub(crate) limit: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, used, asked, limit } = *self;
        write!(
            f,
            "{}: the namespace uses {} of {}, and this asks for {} more; {}",
            resource.name(),
            resource.amount(used),
            resource.amount(limit),
            resource.amount(asked),
            resource.way_out()
        )
    }
}

impl Exceeded {
    /// The same for people, with whom they can ask.
    pub(crate) fn sentence(&self, namespace: &NamespaceName) -> String {
        format!(
            "{self}, or ask a cluster admin: `wharf quota set -n {namespace} --{} …`",
            self.resource.name()
        )
    }
}

/// Whether the namespace may go from what it uses to what is wanted.
pub fn check(quota: &Quota, used: &QuotaUsed, wanted: &QuotaUsed) -> Result<(), Exceeded> {
    exceeded(quota, used, wanted).next().map_or(Ok(()), Err)
}

/// Every limit that it would go beyond.
pub(crate) fn exceeded(
    quota: &Quota,
    used: &QuotaUsed,
    wanted: &QuotaUsed,
) -> impl Iterator<Item = Exceeded> {
    Resource::ALL.into_iter().filter_map(move |resource| {
        let limit = resource.limit(quota)?;
        let (used, wanted) = (resource.of(used), resource.of(wanted));
        (wanted > used && wanted > limit).then(|| Exceeded { resource, used, asked: wanted - used, limit })
    })
}

/// The highest priority that a namespace may give.
pub fn priority_max(quota: Option<&Quota>) -> Priority {
    quota.and_then(|quota| quota.priority).unwrap_or(Priority::Normal)
}

/// Why a namespace that may give `max` may not give `wanted` to something that has `has` so far. None: it may; nothing is taken away.
pub fn priority_refusal(
    namespace: &NamespaceName,
    max: Priority,
    has: Option<Priority>,
    wanted: Priority,
) -> Option<String> {
    if wanted <= max || has.is_some_and(|has| wanted <= has) {
        return None;
    }
    let (wanted, max) = (wanted.as_str(), max.as_str());
    Some(format!(
        "placement.priority: `{wanted}` is more than the quota of the namespace `{namespace}` allows, which is `{max}`; \
         ask for `{max}`, or ask a cluster admin: `wharf quota set -n {namespace} --priority {wanted}`"
    ))
}

/// What is used beyond its limit, such as `apps: used 12 of 10`.
pub(crate) fn over(quota: &Quota, used: &QuotaUsed) -> Vec<String> {
    let over = |resource: &Resource| {
        let (limit, used) = (resource.limit(quota)?, resource.of(used));
        let text =
            format!("{}: used {} of {}", resource.name(), resource.amount(used), resource.amount(limit));
        (used > limit).then_some(text)
    };
    Resource::ALL.iter().filter_map(over).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_quota() -> impl Strategy<Value = Quota> {
        prop::array::uniform8(prop::option::of(0..20_u64)).prop_map(|limits| Quota {
            apps: limits[0],
            instances: limits[1],
            memory_bytes: limits[2],
            cpu_millis: limits[3],
            volume_bytes: limits[4],
            artifact_bytes: limits[5],
            repository_bytes: limits[6],
            secrets: limits[7],
            requests_per_second: None,
            egress_bytes_per_second: None,
            containers: None,
            priority: None,
            private_outbound: Vec::new(),
        })
    }

    fn any_amounts() -> impl Strategy<Value = QuotaUsed> {
        prop::array::uniform8(0..20_u64).prop_map(|amounts| QuotaUsed {
            apps: amounts[0],
            instances: amounts[1],
            memory_bytes: amounts[2],
            cpu_millis: amounts[3],
            volume_bytes: amounts[4],
            artifact_bytes: amounts[5],
            repository_bytes: amounts[6],
            secrets: amounts[7],
        })
    }

    proptest! {
        #[test]
        fn what_grows_ends_within_its_limit_and_nothing_else_is_refused(
            quota in any_quota(), used in any_amounts(), wanted in any_amounts()
        ) {
            let beyond = |resource: &Resource| {
                let grows = resource.of(&wanted) > resource.of(&used);
                grows && resource.limit(&quota).is_some_and(|limit| resource.of(&wanted) > limit)
            };
            match check(&quota, &used, &wanted) {
                Ok(()) => prop_assert!(!Resource::ALL.iter().any(beyond)),
                Err(exceeded) => {
                    prop_assert!(beyond(&exceeded.resource));
                    prop_assert_eq!(exceeded.used + exceeded.asked, exceeded.resource.of(&wanted));
                }
            }
        }

        #[test]
        fn less_or_the_same_is_always_allowed(quota in any_quota(), used in any_amounts(), part in 0..=4_u64) {
            let less = QuotaUsed {
                apps: used.apps * part / 4,
                instances: used.instances * part / 4,
                memory_bytes: used.memory_bytes * part / 4,
                cpu_millis: used.cpu_millis * part / 4,
                volume_bytes: used.volume_bytes * part / 4,
                artifact_bytes: used.artifact_bytes * part / 4,
                repository_bytes: used.repository_bytes * part / 4,
                secrets: used.secrets * part / 4,
            };
            prop_assert_eq!(check(&quota, &used, &less), Ok(()));
        }

        #[test]
        fn steps_that_are_each_allowed_never_lead_beyond_a_limit(
            quota in any_quota(), steps in prop::collection::vec(any_amounts(), 1..8)
        ) {
            let mut used = QuotaUsed::default();
            for wanted in steps {
                if check(&quota, &used, &wanted).is_ok() {
                    used = wanted;
                }
            }
            prop_assert_eq!(over(&quota, &used), Vec::<String>::new());
        }

        #[test]
        fn over_names_what_is_beyond_its_limit(quota in any_quota(), used in any_amounts()) {
            let count = Resource::ALL
                .iter()
                .filter(|resource| resource.limit(&quota).is_some_and(|limit| resource.of(&used) > limit))
                .count();
            prop_assert_eq!(over(&quota, &used).len(), count);
        }
    }

    #[test]
    fn a_priority_beyond_the_quota_is_refused_unless_it_is_there_already() {
        use Priority::{High, Low, Normal};
        let blue: NamespaceName = "blue".parse().unwrap();
        let of = |priority| priority_max(Some(&Quota { priority, ..Quota::default() }));
        assert_eq!((priority_max(None), of(None), of(Some(High))), (Normal, Normal, High));
        let refused = |max, has, wanted| priority_refusal(&blue, max, has, wanted);
        for (max, has, wanted) in [
            (Normal, None, Normal),
            (Normal, Some(Low), Normal),
            (High, None, High),
            (Normal, Some(High), High),
            (Low, Some(High), Normal),
        ] {
            assert_eq!(refused(max, has, wanted), None);
        }
        assert!(refused(Low, None, Normal).is_some() && refused(Low, Some(Normal), High).is_some());
        let words = refused(Normal, Some(Normal), High).unwrap();
        assert!(
            words.starts_with("placement.priority: `high`") && words.contains("ask for `normal`"),
            "{words}"
        );
        assert!(words.contains("`wharf quota set -n blue --priority high`"), "{words}");
    }

    #[test]
    fn the_refusal_says_what_is_used_asked_and_allowed_and_the_way_out() {
        let quota = Quota { memory_bytes: Some(2 << 30), ..Quota::default() };
        let used = QuotaUsed { memory_bytes: 3 << 29, ..QuotaUsed::default() };
        let wanted = QuotaUsed { memory_bytes: 5 << 29, ..QuotaUsed::default() };
        let exceeded = check(&quota, &used, &wanted).unwrap_err();
        let sentence = exceeded.sentence(&"blue".parse().unwrap());
        for words in [
            "memory: the namespace uses 1536MiB of 2GiB, and this asks for 1GiB more",
            "scale down or delete an app",
            "`wharf quota set -n blue --memory …`",
        ] {
            assert!(sentence.contains(words), "{sentence}");
        }
    }
}
