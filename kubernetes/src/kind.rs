//! Which kinds of manifests are taken, and what is said of others.

use wharf_compose::problem::shown;
use wharf_types::suggest::nearest;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Namespace,
    ConfigMap,
    Secret,
    PersistentVolumeClaim,
    Service,
    Ingress,
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
}

/// Why others are not taken, and what to do instead.
const OTHERS: &[(&str, &str)] = &[
    ("ReplicaSet", "write a Deployment; a cluster makes ReplicaSets of it"),
    ("ReplicationController", "write a Deployment"),
    ("Pod", "nothing would replace it; write a Deployment, or a Job"),
    (
        "HorizontalPodAutoscaler",
        "write a range of replicas below `scale`, such as `{min: 1, max: 10, concurrency: 50}`",
    ),
    ("PersistentVolume", "the platform makes volumes; leave it out"),
    ("StorageClass", "a volume is a folder of the node, and there are no classes of them; leave it out"),
    ("IngressClass", "there is one front door, and no classes of it; leave it out"),
    (
        "NetworkPolicy",
        "containers of a namespace reach each other, and no others; separate by namespaces, and leave it out",
    ),
    (
        "PodDisruptionBudget",
        "a rollout and a drain never leave a slot without an instance that serves; leave it out",
    ),
    ("PriorityClass", "priorities are `low`, `normal` and `high`; leave it out"),
    ("ServiceAccount", "an app has no account; leave it out"),
    ("Role", "people and programs are members of namespaces, `wharf member add`; leave it out"),
    ("RoleBinding", "people and programs are members of namespaces, `wharf member add`; leave it out"),
    ("ClusterRole", "people and programs are members of namespaces, `wharf member add`; leave it out"),
    ("ClusterRoleBinding", "people and programs are members of namespaces, `wharf member add`; leave it out"),
    ("ResourceQuota", "a namespace has a quota, `wharf quota set`; leave it out"),
    ("LimitRange", "every app says its own limits; leave it out"),
    ("Endpoints", "a name leads to apps only; leave it out"),
    ("EndpointSlice", "a name leads to apps only; leave it out"),
    ("CustomResourceDefinition", "there are no kinds but the platform's own; leave it out"),
];

impl Kind {
    /// In the order of their numbers.
    pub(crate) const ALL: &[Self] = &[
        Self::Namespace,
        Self::ConfigMap,
        Self::Secret,
        Self::PersistentVolumeClaim,
        Self::Service,
        Self::Ingress,
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Job,
        Self::CronJob,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Service => "Service",
            Self::Ingress => "Ingress",
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::Deployment | Self::StatefulSet | Self::DaemonSet => "apps/v1",
            Self::Job | Self::CronJob => "batch/v1",
            Self::Ingress => "networking.k8s.io/v1",
            _ => "v1",
        }
    }

    /// Where its template of pods is, if it has one.
    pub(crate) fn template(self) -> Option<&'static str> {
        match self {
            Self::Deployment | Self::StatefulSet | Self::DaemonSet | Self::Job => Some("spec.template"),
            Self::CronJob => Some("spec.jobTemplate.spec.template"),
            _ => None,
        }
    }

    /// # Errors
    ///
    /// What is wrong with the words, and what to write instead.
    pub(crate) fn of(api_version: &str, kind: &str) -> Result<Self, String> {
        let Some(found) = Self::ALL.iter().copied().find(|known| known.as_str() == kind) else {
            return Err(unknown(kind));
        };
        if api_version != found.api_version() {
            return Err(format!(
                "`{}`: a {kind} is taken as `apiVersion: {}` only; write it in that form",
                shown(api_version),
                found.api_version()
            ));
        }
        Ok(found)
    }
}

fn unknown(kind: &str) -> String {
    if let Some((_, instead)) = OTHERS.iter().find(|(other, _)| *other == kind) {
        return format!("a {kind} is not taken: {instead}");
    }
    let known = Kind::ALL.iter().map(|kind| kind.as_str());
    let kind = shown(kind);
    match nearest(&kind, known.clone()) {
        Some(meant) => format!("there is no kind `{kind}` here; did you mean `{meant}`?"),
        None => {
            let list = known.map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
            format!("there is no kind `{kind}` here; there are {list}")
        }
    }
}
