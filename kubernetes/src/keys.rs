//! Every field of the kinds of manifests that are taken: how it is written, and what Wharf does about it.
//!
//! The reader knows no other fields, so one that is not here is refused. A table is written once and stands wherever its fields are: the one of
//! a pod below `spec.template` of a Deployment, and deeper in a CronJob.

mod batch;
mod meta;
mod network;
mod pod;
mod values;
mod workload;

use std::sync::OnceLock;

use wharf_compose::keys::{Branch, Key};

use crate::kind::Kind;

/// The fields of one thing, with the title that people know it by.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    pub title: &'static str,
    pub keys: &'static [Key],
}

const fn section(title: &'static str, keys: &'static [Key]) -> Section {
    Section { title, keys }
}

/// All tables, in the order in which people look for them.
pub const SECTIONS: &[Section] = &[
    section("Every manifest", meta::KEYS),
    section("Deployment", workload::DEPLOYMENT),
    section("StatefulSet", workload::STATEFUL_SET),
    section("DaemonSet", workload::DAEMON_SET),
    section("The template of pods", pod::TEMPLATE),
    section("The pod", pod::POD),
    section("A container of the pod", pod::CONTAINER),
    section("A probe", pod::PROBE),
    section("A volume of the pod", pod::VOLUME),
    section("Job", batch::JOB),
    section("CronJob", batch::CRON_JOB),
    section("Service", network::SERVICE),
    section("Ingress", network::INGRESS),
    section("ConfigMap", values::CONFIG_MAP),
    section("Secret", values::SECRET),
    section("PersistentVolumeClaim, and the templates of a StatefulSet", values::CLAIM),
    section("Namespace", values::NAMESPACE),
];

fn add_template(root: &mut Branch, places: &TemplatePlaces) {
    root.add(places.template, pod::TEMPLATE);
    root.add(places.spec, pod::POD);
    root.add(places.container, pod::CONTAINER);
    for probe in places.probes {
        root.add(probe, pod::PROBE);
    }
    root.add(places.volume, pod::VOLUME);
}

/// Where the tables of a pod stand in a manifest.
struct TemplatePlaces {
    template: &'static str,
    spec: &'static str,
    container: &'static str,
    probes: [&'static str; 3],
    volume: &'static str,
}

macro_rules! template_at {
    ($at:literal) => {
        TemplatePlaces {
            template: $at,
            spec: concat!($at, ".spec"),
            container: concat!($at, ".spec.containers.*"),
            probes: [
                concat!($at, ".spec.containers.*.livenessProbe"),
                concat!($at, ".spec.containers.*.readinessProbe"),
                concat!($at, ".spec.containers.*.startupProbe"),
            ],
            volume: concat!($at, ".spec.volumes.*"),
        }
    };
}

/// The fields of a kind as a tree.
pub(crate) fn of(kind: Kind) -> &'static Branch {
    static TREES: OnceLock<Vec<Branch>> = OnceLock::new();
    let trees = TREES.get_or_init(|| Kind::ALL.iter().map(|kind| tree(*kind)).collect());
    &trees[kind as usize]
}

fn tree(kind: Kind) -> Branch {
    let mut root = Branch::of_table();
    root.add("", meta::KEYS);
    match kind {
        Kind::Namespace => root.add("", values::NAMESPACE),
        Kind::ConfigMap => root.add("", values::CONFIG_MAP),
        Kind::Secret => root.add("", values::SECRET),
        Kind::PersistentVolumeClaim => root.add("", values::CLAIM),
        Kind::Service => root.add("", network::SERVICE),
        Kind::Ingress => root.add("", network::INGRESS),
        Kind::Deployment => {
            root.add("", workload::DEPLOYMENT);
            add_template(&mut root, &template_at!("spec.template"));
        }
        Kind::StatefulSet => {
            root.add("", workload::STATEFUL_SET);
            add_template(&mut root, &template_at!("spec.template"));
            root.add("spec.volumeClaimTemplates.*", meta::KEYS);
            root.add("spec.volumeClaimTemplates.*", values::CLAIM);
        }
        Kind::DaemonSet => {
            root.add("", workload::DAEMON_SET);
            add_template(&mut root, &template_at!("spec.template"));
        }
        Kind::Job => {
            root.add("", batch::JOB);
            add_template(&mut root, &template_at!("spec.template"));
        }
        Kind::CronJob => {
            root.add("", batch::CRON_JOB);
            root.add("spec.jobTemplate", meta::TEMPLATE);
            root.add("spec.jobTemplate", batch::JOB);
            add_template(&mut root, &template_at!("spec.jobTemplate.spec.template"));
        }
    }
    root
}
