//! The keys of a file that are not within a service.

use super::Kind::{Any, Bool, Int, List, Named, Pairs, Table, Text, Texts};
use super::Support::{Refused, Translated};
use super::{Key, Support};
use crate::short;

const NO_LABELS: Support = Translated("Wharf keeps no labels; they are left out");
const NO_MODELS: Support =
    Refused("Wharf runs no language models; run one as a service, or grant the address of one");
const NO_DRIVER: Support = Refused("Wharf keeps the value itself and takes no other drivers; leave it out");
const OLD_EXTERNAL: Support = Refused("this is the old form; write `external: true`, and `name` beside it");
const NO_NETWORK_DRIVER: Support =
    Translated("a guest is in no network; whom it reaches is granted, wherever they run");
const BRIDGE: Support = Translated(
    "a network is a bridge on each node, and containers reach those on other nodes by name, for TCP; there is no driver to choose",
);
const NO_ADDRESSES: Support =
    Translated("addresses are chosen by the platform; services are reached by their names");
const NO_VOLUME_OPTIONS: Support = Refused(
    "a volume is a folder that the platform keeps; leave the options out, or let a container mount a folder of its node by its path",
);

pub(super) const KEYS: &[Key] = &[
    Key::new("version", Text).both(Translated("it is obsolete, and says nothing; leave it out")),
    Key::new("name", Text),
    Key::new("include", List).short(short::include),
    Key::new("include.*", Table),
    Key::new("include.*.path", Texts).short(short::one_or_many),
    Key::new("include.*.env_file", Texts).short(short::one_or_many),
    Key::new("include.*.project_directory", Text),
    Key::new("services", Named),
    Key::new("models", Named).both(NO_MODELS),
    Key::new("models.*", Table),
    Key::new("models.*.name", Text),
    Key::new("models.*.model", Text),
    Key::new("models.*.context_size", Int),
    Key::new("models.*.runtime_flags", Texts),
    Key::new("networks", Named),
    Key::new("networks.*", Table),
    Key::new("networks.*.name", Text).app(Translated(
        "a guest is in no network; it reaches those that share the network's key in this file",
    )),
    Key::new("networks.*.driver", Text).app(NO_NETWORK_DRIVER).container(BRIDGE),
    Key::new("networks.*.driver_opts", Pairs).app(NO_NETWORK_DRIVER).container(BRIDGE),
    Key::new("networks.*.ipam", Table).both(NO_ADDRESSES),
    Key::new("networks.*.ipam.driver", Text),
    Key::new("networks.*.ipam.config", List),
    Key::new("networks.*.ipam.config.*", Table),
    Key::new("networks.*.ipam.config.*.subnet", Text),
    Key::new("networks.*.ipam.config.*.ip_range", Text),
    Key::new("networks.*.ipam.config.*.gateway", Text),
    Key::new("networks.*.ipam.config.*.aux_addresses", Pairs),
    Key::new("networks.*.ipam.options", Pairs),
    Key::new("networks.*.external", Bool).short(short::external).app(Refused(
        "a guest is in no network; list what it reaches in `x-wharf.outbound`, and leave it out",
    )),
    Key::new("networks.*.external.name", Text).both(OLD_EXTERNAL),
    Key::new("networks.*.internal", Bool)
        .app(Translated("a guest reaches nothing outside but what is granted, with or without it")),
    Key::new("networks.*.enable_ipv4", Bool).both(NO_ADDRESSES),
    Key::new("networks.*.enable_ipv6", Bool).both(NO_ADDRESSES),
    Key::new("networks.*.attachable", Bool).both(Translated(
        "containers of the same namespace may be in a network; nothing else is attached to it",
    )),
    Key::new("networks.*.labels", Pairs).both(NO_LABELS),
    Key::new("volumes", Named),
    Key::new("volumes.*", Table),
    Key::new("volumes.*.name", Text)
        .both(Translated("a volume belongs to its app, and has the name of its key there")),
    Key::new("volumes.*.driver", Text),
    Key::new("volumes.*.driver_opts", Pairs).both(NO_VOLUME_OPTIONS),
    Key::new("volumes.*.external", Bool)
        .short(short::external)
        .both(Refused("an app has volumes of its own only, which its first instance makes; leave it out")),
    Key::new("volumes.*.external.name", Text).both(OLD_EXTERNAL),
    Key::new("volumes.*.labels", Pairs).both(NO_LABELS),
    Key::new("volumes.*.x-wharf", Table),
    Key::new("volumes.*.x-wharf.size", Any),
    Key::new("volumes.*.x-wharf.shared", Bool),
    Key::new("secrets", Named),
    Key::new("secrets.*", Table),
    Key::new("secrets.*.name", Text),
    Key::new("secrets.*.environment", Text),
    Key::new("secrets.*.file", Text),
    Key::new("secrets.*.external", Bool).short(short::external),
    Key::new("secrets.*.external.name", Text).both(OLD_EXTERNAL),
    Key::new("secrets.*.labels", Pairs).both(NO_LABELS),
    Key::new("secrets.*.driver", Text).both(NO_DRIVER),
    Key::new("secrets.*.driver_opts", Pairs).both(NO_DRIVER),
    Key::new("secrets.*.template_driver", Text).both(NO_DRIVER),
    Key::new("configs", Named),
    Key::new("configs.*", Table),
    Key::new("configs.*.name", Text),
    Key::new("configs.*.content", Text),
    Key::new("configs.*.environment", Text),
    Key::new("configs.*.file", Text),
    Key::new("configs.*.external", Bool).short(short::external),
    Key::new("configs.*.external.name", Text).both(OLD_EXTERNAL),
    Key::new("configs.*.labels", Pairs).both(NO_LABELS),
    Key::new("configs.*.template_driver", Text).both(NO_DRIVER),
];
