//! Who reaches whom: services that share a network.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Kind, One};
use crate::model::Service;
use crate::project::Project;

/// A network that containers are in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerNetwork {
    /// Whether nothing outside is reached from it.
    pub internal: bool,
}

pub(super) fn networks(project: &Project) -> BTreeMap<String, ContainerNetwork> {
    let of = |(name, network): (&String, &crate::model::Network)| {
        (name.clone(), ContainerNetwork { internal: network.internal })
    };
    project.networks.iter().map(of).collect()
}

/// The networks of a service. The engine's own bridge is the default one.
fn of(service: &Service) -> BTreeSet<&str> {
    match service.network_mode.as_deref() {
        Some("bridge" | "default") => ["default"].into(),
        _ => service.networks.keys().map(String::as_str).collect(),
    }
}

/// What a Wasm app may reach, because it shares a network with it.
pub(super) fn grants(one: &One<'_>) -> Vec<String> {
    let ours = of(one.settings);
    let mut grants = Vec::new();
    for (name, service) in &one.project.services {
        if name == one.service || of(service).is_disjoint(&ours) {
            continue;
        }
        let Some(app) = one.names.get(name.as_str()) else { continue };
        grants.push(format!("http://{app}.internal:*"));
        let listens = service.wharf.contains_key("tcp");
        if listens || one.kinds.get(name.as_str()) == Some(&Kind::Container) {
            grants.push(format!("tcp://{app}.internal:*"));
        }
    }
    grants
}
