//! A resolved project: what all files say together, as a tree with places and as types.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::interpolate::Variables;
use crate::model::{Network, Service, ValueSource, Volume};
use crate::node::{Node, Place};
use crate::problem::{Notice, Problem};

#[derive(Clone, Debug)]
pub struct Project {
    /// What paths are relative to; empty for the folder that the caller is in.
    pub folder: String,
    pub name: Option<String>,
    pub services: BTreeMap<String, Service>,
    pub networks: BTreeMap<String, Network>,
    pub volumes: BTreeMap<String, Volume>,
    pub secrets: BTreeMap<String, ValueSource>,
    pub configs: BTreeMap<String, ValueSource>,
    /// What values came from: the environment, and below it what `.env` says. Secrets and configs with `environment` are looked up here.
    pub variables: Variables,
    /// What people should know of how the files were read.
    pub notices: Vec<Notice>,
    /// The same in its long form, with the place of everything.
    pub tree: Node,
}

/// The project without places.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Written {
    name: Option<String>,
    networks: BTreeMap<String, Network>,
    volumes: BTreeMap<String, Volume>,
    secrets: BTreeMap<String, ValueSource>,
    configs: BTreeMap<String, ValueSource>,
    models: BTreeMap<String, serde_json::Value>,
}

impl Project {
    /// With what is wrong with it. A service of which something is has no settings here.
    pub(crate) fn new(
        folder: String,
        tree: Node,
        variables: Variables,
        notices: Vec<Notice>,
    ) -> (Self, Vec<Problem>) {
        let mut rest = tree.clone();
        let services = rest.table_mut().and_then(|table| table.remove("services"));
        let mut problems = Vec::new();
        let mut typed = BTreeMap::new();
        for (name, entry) in services.iter().flat_map(|services| services.node.entries()) {
            match Service::deserialize(entry.node.to_json()) {
                Ok(service) => drop(typed.insert(name.clone(), service)),
                Err(error) => {
                    problems.push(Problem::new(&entry.place, format!("the service `{name}`: {error}")))
                }
            }
        }
        let written = Written::deserialize(rest.to_json()).unwrap_or_else(|error| {
            problems.push(Problem::new(&rest.place, format!("the project: {error}")));
            Written::default()
        });
        let Written { name, networks, volumes, secrets, configs, models: _ } = written;
        let project = Self {
            folder,
            name,
            services: typed,
            networks,
            volumes,
            secrets,
            configs,
            variables,
            notices,
            tree,
        };
        (project, problems)
    }

    /// Where the setting of a dotted path stands, such as `services.web.deploy.replicas`, or else the nearest that is there.
    pub fn place_of(&self, path: &str) -> &Place {
        self.tree.place_of(path)
    }

    /// Where a name is defined at the top of the file.
    pub(crate) fn place_of_name(&self, section: &str, name: &str) -> &Place {
        let entry = self.tree.get(section).and_then(|section| section.entry(name));
        entry.map_or(&self.tree.place, |entry| &entry.place)
    }

    /// Where a key of a service stands, such as `image`, or else the nearest that is there.
    pub fn place_in_service(&self, service: &str, key: &str) -> &Place {
        self.service_node(service).place_of(key)
    }

    /// A service as it is written.
    pub(crate) fn service_node(&self, name: &str) -> &Node {
        self.tree.get("services").and_then(|services| services.get(name)).unwrap_or(&self.tree)
    }
}
