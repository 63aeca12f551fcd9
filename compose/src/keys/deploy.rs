//! The keys of a service's `deploy`.

use super::Kind::{Any, Bool, Duration, Int, List, Number, Pairs, Size, Table, Text, Texts, Word};
use super::Support::{Refused, Translated};
use super::{Key, Support};

const ORDERS: &[&str] = &["start-first", "stop-first"];
const NO_DEVICES: Support = Refused("a guest reaches no devices of its node; run the service as a container");
const NO_REQUESTS: Support = Refused(
    "devices are given by their paths: write `devices: [/dev/dri]`, and a placement constraint for the nodes that have them",
);
const OF_WASM: Support = Refused("it is about Wasm apps, and this is a container; leave it out");
const GENERIC: Support = Refused(
    "nodes count no resources of that kind; give the nodes that have them a label, and write a placement constraint",
);

pub(super) const KEYS: &[Key] = &[
    Key::new("services.*.deploy", Table),
    Key::new("services.*.deploy.mode", Word(&["replicated", "global", "replicated-job", "global-job"])),
    Key::new("services.*.deploy.endpoint_mode", Text).both(Translated(
        "requests and connections are spread over the instances by the platform, in either mode",
    )),
    Key::new("services.*.deploy.replicas", Int),
    Key::new("services.*.deploy.labels", Pairs)
        .both(Translated("Wharf keeps no labels of apps; they are left out")),
    Key::new("services.*.deploy.rollback_config", Table),
    Key::new("services.*.deploy.rollback_config.parallelism", Int),
    Key::new("services.*.deploy.rollback_config.delay", Duration),
    Key::new("services.*.deploy.rollback_config.failure_action", Word(&["continue", "pause"]))
        .both(Translated("a rollback goes on until the release before serves")),
    Key::new("services.*.deploy.rollback_config.monitor", Duration),
    Key::new("services.*.deploy.rollback_config.max_failure_ratio", Number),
    Key::new("services.*.deploy.rollback_config.order", Word(ORDERS)),
    Key::new("services.*.deploy.update_config", Table),
    Key::new("services.*.deploy.update_config.parallelism", Int),
    Key::new("services.*.deploy.update_config.delay", Duration),
    Key::new("services.*.deploy.update_config.failure_action", Word(&["continue", "pause", "rollback"])),
    Key::new("services.*.deploy.update_config.monitor", Duration),
    Key::new("services.*.deploy.update_config.max_failure_ratio", Number),
    Key::new("services.*.deploy.update_config.order", Word(ORDERS)),
    Key::new("services.*.deploy.resources", Table),
    Key::new("services.*.deploy.resources.limits", Table),
    Key::new("services.*.deploy.resources.limits.cpus", Number).app(Translated(
        "guests share the processors of their node in short turns, and have no limit of their own",
    )),
    Key::new("services.*.deploy.resources.limits.memory", Size),
    Key::new("services.*.deploy.resources.limits.pids", Int)
        .app(Translated("a guest cannot start processes")),
    Key::new("services.*.deploy.resources.reservations", Table),
    Key::new("services.*.deploy.resources.reservations.cpus", Number),
    Key::new("services.*.deploy.resources.reservations.memory", Size),
    Key::new("services.*.deploy.resources.reservations.generic_resources", List).both(GENERIC),
    Key::new("services.*.deploy.resources.reservations.generic_resources.*", Table),
    Key::new("services.*.deploy.resources.reservations.generic_resources.*.discrete_resource_spec", Table),
    Key::new(
        "services.*.deploy.resources.reservations.generic_resources.*.discrete_resource_spec.kind",
        Text,
    ),
    Key::new(
        "services.*.deploy.resources.reservations.generic_resources.*.discrete_resource_spec.value",
        Number,
    ),
    Key::new("services.*.deploy.resources.reservations.devices", List).app(NO_DEVICES).container(NO_REQUESTS),
    Key::new("services.*.deploy.resources.reservations.devices.*", Table),
    Key::new("services.*.deploy.resources.reservations.devices.*.capabilities", Texts),
    Key::new("services.*.deploy.resources.reservations.devices.*.count", Text),
    Key::new("services.*.deploy.resources.reservations.devices.*.device_ids", Texts),
    Key::new("services.*.deploy.resources.reservations.devices.*.driver", Text),
    Key::new("services.*.deploy.resources.reservations.devices.*.options", Pairs),
    Key::new("services.*.deploy.restart_policy", Table),
    Key::new("services.*.deploy.restart_policy.condition", Word(&["none", "on-failure", "any"])),
    Key::new("services.*.deploy.restart_policy.delay", Duration),
    Key::new("services.*.deploy.restart_policy.max_attempts", Int),
    Key::new("services.*.deploy.restart_policy.window", Duration),
    Key::new("services.*.deploy.placement", Table),
    Key::new("services.*.deploy.placement.constraints", Texts),
    Key::new("services.*.deploy.placement.preferences", List),
    Key::new("services.*.deploy.placement.preferences.*", Table),
    Key::new("services.*.deploy.placement.preferences.*.spread", Text),
    Key::new("services.*.deploy.placement.max_replicas_per_node", Int),
    Key::new("services.*.x-wharf", Table),
    Key::new("services.*.x-wharf.http", Any),
    Key::new("services.*.x-wharf.tcp", Any),
    Key::new("services.*.x-wharf.limits", Any),
    Key::new("services.*.x-wharf.outbound", Any).container(OF_WASM),
    Key::new("services.*.x-wharf.reuse", Any).container(OF_WASM),
    Key::new("services.*.x-wharf.engine", Any).container(OF_WASM),
    Key::new("services.*.x-wharf.scale", Any),
    Key::new("services.*.x-wharf.singleton", Bool),
    Key::new("services.*.x-wharf.max_concurrent", Int),
    Key::new("services.*.x-wharf.registry_login", Text)
        .app(Refused("it is about images; components are pushed from files, and need no registry")),
];
