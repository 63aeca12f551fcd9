//! Deployments, StatefulSets and DaemonSets, but for their pods.

use wharf_compose::keys::Key;
use wharf_compose::keys::Kind::{Any, Bool, Int, List, Table, Text, TextTable, Word};
use wharf_compose::keys::Support;
use wharf_compose::keys::Support::{Refused, Translated};

const HISTORY: Support = Translated("the platform keeps releases by a rule of its own; it is left out");

pub(super) const DEPLOYMENT: &[Key] = &[
    Key::new("spec", Table),
    Key::new("spec.replicas", Int),
    Key::new("spec.selector", Table),
    Key::new("spec.selector.matchLabels", TextTable),
    Key::new("spec.selector.matchExpressions", List),
    Key::new("spec.selector.matchExpressions.*", Any),
    Key::new("spec.strategy", Table),
    Key::new("spec.strategy.type", Word(&["RollingUpdate", "Recreate"])),
    Key::new("spec.strategy.rollingUpdate", Table),
    Key::new("spec.strategy.rollingUpdate.maxSurge", Text),
    Key::new("spec.strategy.rollingUpdate.maxUnavailable", Text),
    Key::new("spec.minReadySeconds", Int),
    Key::new("spec.progressDeadlineSeconds", Int),
    Key::new("spec.revisionHistoryLimit", Int).both(HISTORY),
    Key::new("spec.paused", Bool)
        .both(Refused("a release that is made is rolled out; leave it out, and use `wharf rollout pause`")),
    Key::new("spec.template", Table),
];

pub(super) const STATEFUL_SET: &[Key] = &[
    Key::new("spec", Table),
    Key::new("spec.replicas", Int),
    Key::new("spec.selector", Table),
    Key::new("spec.selector.matchLabels", TextTable),
    Key::new("spec.selector.matchExpressions", List),
    Key::new("spec.selector.matchExpressions.*", Any),
    Key::new("spec.serviceName", Text).both(Translated(
        "the app is reached by the names of its Services; its instance has no name of its own",
    )),
    Key::new("spec.podManagementPolicy", Word(&["OrderedReady", "Parallel"]))
        .both(Translated("there is one instance, so there is no order")),
    Key::new("spec.updateStrategy", Table),
    Key::new("spec.updateStrategy.type", Word(&["RollingUpdate", "OnDelete"])),
    Key::new("spec.updateStrategy.rollingUpdate", Table),
    Key::new("spec.updateStrategy.rollingUpdate.partition", Int),
    Key::new("spec.updateStrategy.rollingUpdate.maxUnavailable", Any)
        .both(Translated("there is one instance, which ends before its successor starts")),
    Key::new("spec.minReadySeconds", Int),
    Key::new("spec.revisionHistoryLimit", Int).both(HISTORY),
    Key::new("spec.persistentVolumeClaimRetentionPolicy", Any).both(Translated(
        "a volume stays until somebody removes it: `wharf delete --volumes`, or `wharf volume rm`",
    )),
    Key::new("spec.ordinals", Any).both(Refused("instances have no numbers of their own; leave it out")),
    Key::new("spec.volumeClaimTemplates", List),
    Key::new("spec.volumeClaimTemplates.*", Table),
    Key::new("spec.template", Table),
];

pub(super) const DAEMON_SET: &[Key] = &[
    Key::new("spec", Table),
    Key::new("spec.selector", Table),
    Key::new("spec.selector.matchLabels", TextTable),
    Key::new("spec.selector.matchExpressions", List),
    Key::new("spec.selector.matchExpressions.*", Any),
    Key::new("spec.updateStrategy", Table),
    Key::new("spec.updateStrategy.type", Word(&["RollingUpdate", "OnDelete"])),
    Key::new("spec.updateStrategy.rollingUpdate", Table),
    Key::new("spec.updateStrategy.rollingUpdate.maxSurge", Text),
    Key::new("spec.updateStrategy.rollingUpdate.maxUnavailable", Text),
    Key::new("spec.minReadySeconds", Int),
    Key::new("spec.revisionHistoryLimit", Int).both(HISTORY),
    Key::new("spec.template", Table),
];
