//! What is written on everything that a platform makes in an engine, and read again after the worker was killed.

use std::collections::HashMap;

use wharf_types::{AppName, InstanceId, NamespaceName};

use crate::network::WayOut;

/// Users' labels do not begin like this.
pub(crate) const PREFIX: &str = "wharf.";

pub(crate) const PLATFORM: &str = "wharf.platform";
pub(crate) const NETWORK: &str = "wharf.network";
/// On a network out of which no way leads.
const INTERNAL: &str = "wharf.internal";
const NAMESPACE: &str = "wharf.namespace";
const APP: &str = "wharf.app";
const RELEASE: &str = "wharf.release";
const SLOT: &str = "wharf.slot";
const INSTANCE: &str = "wharf.instance";
/// On a container that is only looked into: for which instance.
const LOOK: &str = "wharf.look";

/// On an image that was built here: which control plane had it built, of which repository, and for which service of a stack in there.
pub(crate) const BUILDER: &str = "wharf.builder";
pub(crate) const REPOSITORY: &str = "wharf.repository";
pub(crate) const SERVICE: &str = "wharf.service";

/// Whose instance it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub namespace: NamespaceName,
    /// Of a job: its name.
    pub app: AppName,
    /// Its number.
    pub release: u64,
    pub slot: u32,
}

pub(crate) fn of_instance(platform: &str, id: InstanceId, owner: &Owner) -> HashMap<String, String> {
    named([
        (PLATFORM, platform.to_owned()),
        (NAMESPACE, owner.namespace.to_string()),
        (APP, owner.app.to_string()),
        (RELEASE, owner.release.to_string()),
        (SLOT, owner.slot.to_string()),
        (INSTANCE, id.to_string()),
    ])
}

pub(crate) fn of_look(platform: &str, id: InstanceId) -> HashMap<String, String> {
    named([(PLATFORM, platform.to_owned()), (LOOK, id.to_string())])
}

pub(crate) fn of_network(
    platform: &str,
    namespace: &NamespaceName,
    network: Option<&str>,
    way_out: WayOut,
) -> HashMap<String, String> {
    let mut labels = named([
        (PLATFORM, platform.to_owned()),
        (NAMESPACE, namespace.to_string()),
        (NETWORK, network.unwrap_or_default().to_owned()),
    ]);
    if way_out == WayOut::None {
        labels.insert(INTERNAL.to_owned(), "yes".to_owned());
    }
    labels
}

/// The namespace of a network. None: somebody has changed its labels.
pub(crate) fn namespace_of(labels: &HashMap<String, String>) -> Option<NamespaceName> {
    labels.get(NAMESPACE)?.parse().ok()
}

fn named<const N: usize>(labels: [(&str, String); N]) -> HashMap<String, String> {
    labels.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The instance of a container, and whose it is. None: it has none, or somebody has changed its labels.
pub(crate) fn read(labels: &HashMap<String, String>) -> Option<(InstanceId, Owner)> {
    let owner = Owner {
        namespace: labels.get(NAMESPACE)?.parse().ok()?,
        app: labels.get(APP)?.parse().ok()?,
        release: labels.get(RELEASE)?.parse().ok()?,
        slot: labels.get(SLOT)?.parse().ok()?,
    };
    Some((labels.get(INSTANCE)?.parse().ok()?, owner))
}

/// The instance that a container is there for, be it that itself or one to look into.
pub(crate) fn serves(labels: &HashMap<String, String>) -> Option<InstanceId> {
    labels.get(INSTANCE).or_else(|| labels.get(LOOK))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_read_from_what_was_written_on_it() {
        let owner = Owner { namespace: "a".parse().unwrap(), app: "b".parse().unwrap(), release: 7, slot: 3 };
        let id = InstanceId::new();
        let labels = of_instance("platform", id, &owner);
        assert_eq!(read(&labels), Some((id, owner)));
        assert_eq!(serves(&labels), Some(id));
    }

    #[test]
    fn a_container_to_look_into_is_no_instance() {
        let id = InstanceId::new();
        let labels = of_look("platform", id);
        assert_eq!(read(&labels), None);
        assert_eq!(serves(&labels), Some(id));
    }
}
