//! What every manifest has.

use wharf_compose::keys::Kind::{Any, Table, Text, TextTable};
use wharf_compose::keys::Support::{Refused, Translated};
use wharf_compose::keys::{Key, Support};

const OBSERVED: Support = Translated("a cluster wrote it, and no person; it is left out");

pub(super) const KEYS: &[Key] = &[
    Key::new("apiVersion", Text),
    Key::new("kind", Text),
    Key::new("metadata", Table),
    Key::new("metadata.name", Text),
    Key::new("metadata.generateName", Text).both(Refused("the platform makes up no names; write a `name`")),
    Key::new("metadata.namespace", Text),
    Key::new("metadata.labels", TextTable)
        .both(Translated("Wharf keeps no labels of apps; they are left out")),
    Key::new("metadata.annotations", TextTable)
        .both(Translated("Wharf keeps no annotations; they are left out")),
    Key::new("metadata.creationTimestamp", Any).both(OBSERVED),
    Key::new("metadata.deletionGracePeriodSeconds", Any).both(OBSERVED),
    Key::new("metadata.deletionTimestamp", Any).both(OBSERVED),
    Key::new("metadata.finalizers", Any).both(Translated("nothing waits for a deletion; they are left out")),
    Key::new("metadata.generation", Any).both(OBSERVED),
    Key::new("metadata.managedFields", Any).both(OBSERVED),
    Key::new("metadata.ownerReferences", Any).both(OBSERVED),
    Key::new("metadata.resourceVersion", Any).both(OBSERVED),
    Key::new("metadata.selfLink", Any).both(OBSERVED),
    Key::new("metadata.uid", Any).both(OBSERVED),
    Key::new("status", Any).both(OBSERVED),
];

/// What a template within a manifest has.
pub(super) const TEMPLATE: &[Key] = &[
    Key::new("metadata", Table)
        .both(Translated("only the manifest around it has a name here; it is left out")),
    Key::new("metadata.name", Text),
    Key::new("metadata.namespace", Text),
    Key::new("metadata.labels", TextTable),
    Key::new("metadata.annotations", TextTable),
    Key::new("metadata.creationTimestamp", Any),
];
