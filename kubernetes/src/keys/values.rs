//! Namespaces, values and claims.

use wharf_compose::keys::Key;
use wharf_compose::keys::Kind::{Any, Bool, Table, Text, TextTable, Texts, Word};
use wharf_compose::keys::Support::{Refused, Translated};

pub(super) const NAMESPACE: &[Key] = &[
    Key::new("spec", Table),
    Key::new("spec.finalizers", Any).both(Translated("nothing waits for a deletion; they are left out")),
];

pub(super) const CONFIG_MAP: &[Key] = &[
    Key::new("data", TextTable),
    Key::new("binaryData", TextTable),
    Key::new("immutable", Bool)
        .both(Translated("a config that is set again gets another version, and keeps the older ones")),
];

pub(super) const SECRET: &[Key] = &[
    Key::new("data", TextTable),
    Key::new("stringData", TextTable),
    Key::new("type", Text),
    Key::new("immutable", Bool)
        .both(Translated("a secret that is set again gets another version, and keeps the older ones")),
];

pub(super) const CLAIM: &[Key] = &[
    Key::new("spec", Table),
    Key::new("spec.accessModes", Texts),
    Key::new("spec.resources", Table),
    Key::new("spec.resources.requests", Table),
    Key::new("spec.resources.requests.storage", Text),
    Key::new("spec.resources.limits", Table)
        .both(Translated("a volume has one size, which is what it requests and its bound at once")),
    Key::new("spec.resources.limits.storage", Text),
    Key::new("spec.storageClassName", Text)
        .both(Translated("a volume is a folder of the node, and there are no classes of them")),
    Key::new("spec.volumeAttributesClassName", Text)
        .both(Translated("a volume is a folder of the node, and there are no classes of them")),
    Key::new("spec.volumeMode", Word(&["Filesystem", "Block"])),
    Key::new("spec.volumeName", Text)
        .both(Translated("the platform makes the volume; copy what is in the other one into it")),
    Key::new("spec.selector", Any)
        .both(Translated("the platform makes the volume; there are none to choose from")),
    Key::new("spec.dataSource", Any)
        .both(Refused("a volume begins empty; leave it out, and copy the data into it")),
    Key::new("spec.dataSourceRef", Any)
        .both(Refused("a volume begins empty; leave it out, and copy the data into it")),
];
