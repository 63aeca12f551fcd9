//! Secrets, configs and volumes at the top of a file.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wharf_types::name::SecretName;

use super::sink::Sink;
use super::{Kind, label};
use crate::model::{ValueSource, Volume};
use crate::node::Place;
use crate::problem::shown;
use crate::project::Project;

/// A secret or a config of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedValue {
    /// What services of the file call it.
    pub key: String,
    pub name: SecretName,
    pub from: ValueFrom,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueFrom {
    /// A path relative to the folder of the project.
    File(String),
    /// One of [`Project::variables`], which is set.
    Environment(String),
    Content(String),
    /// It was set before, and is not set again.
    External,
}

/// A volume of containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerVolume {
    /// What services of the file call it.
    pub key: String,
    /// What it is called among all volumes. None: whatever the platform makes of the stack and the key.
    pub name: Option<String>,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    /// Whether it is there already, and must not be made.
    pub external: bool,
    pub labels: BTreeMap<String, String>,
}

pub(super) fn secrets(project: &Project, sink: &mut Sink) -> Vec<NamedValue> {
    values(project, "secrets", &project.secrets, sink)
}

pub(super) fn configs(project: &Project, secrets: &[NamedValue], sink: &mut Sink) -> Vec<NamedValue> {
    let configs = values(project, "configs", &project.configs, sink);
    for config in &configs {
        if let Some(secret) = secrets.iter().find(|secret| secret.name == config.name) {
            let message = format!(
                "a config cannot be called `{}`, because a secret is, in {}; give it another `name`",
                config.name, secret.place
            );
            sink.problem(&config.place, message);
        }
    }
    configs
}

fn values(
    project: &Project,
    section: &str,
    sources: &BTreeMap<String, ValueSource>,
    sink: &mut Sink,
) -> Vec<NamedValue> {
    let mut made: Vec<NamedValue> = Vec::new();
    for (key, source) in sources {
        let place = project.place_of_name(section, key);
        let written = source.name.as_deref().unwrap_or(key);
        let name = match SecretName::try_from(label(written)) {
            Ok(name) => name,
            Err(error) => {
                sink.problem(place, error.to_string());
                continue;
            }
        };
        if name.as_str() != written {
            sink.notice(place, format!("`{}` is called `{name}` here", shown(written)));
        }
        if let Some(other) = made.iter().find(|other| other.name == name) {
            sink.problem(
                place,
                format!("`{}` and `{}` would both be called `{name}`", other.key, shown(key)),
            );
        }
        let ValueSource { content, environment, file, .. } = source;
        if let Some(variable) =
            environment.as_ref().filter(|variable| !project.variables.contains_key(*variable))
        {
            let message = format!("the variable `{}`, which has the value, is not set", shown(variable));
            sink.problem(project.place_of(&format!("{section}.{key}.environment")), message);
        }
        let from = match (file, environment, content) {
            (Some(file), ..) => ValueFrom::File(file.clone()),
            (_, Some(variable), _) => ValueFrom::Environment(variable.clone()),
            (.., Some(content)) => ValueFrom::Content(content.clone()),
            _ => ValueFrom::External,
        };
        made.push(NamedValue { key: key.clone(), name, from, place: place.clone() });
    }
    made
}

pub(super) fn volumes(
    project: &Project,
    kinds: &BTreeMap<&str, Kind>,
    sink: &mut Sink,
) -> Vec<ContainerVolume> {
    let users = |key: &str| -> Vec<(&str, Kind)> {
        let mounts = |service: &crate::model::Service| {
            service.volumes.iter().any(|mount| mount.kind == "volume" && mount.source.as_deref() == Some(key))
        };
        let of = |(name, service)| {
            let kind = kinds.get(name).copied()?;
            mounts(service).then_some((name, kind))
        };
        project.services.iter().map(|(name, service)| (name.as_str(), service)).filter_map(of).collect()
    };
    let mut made = Vec::new();
    for (key, volume) in &project.volumes {
        let place = project.place_of_name("volumes", key);
        let users = users(key);
        let of_wasm: BTreeSet<&str> =
            users.iter().filter(|(_, kind)| *kind == Kind::Wasm).map(|(name, _)| *name).collect();
        if let Some(wasm) = of_wasm.first()
            && users.len() > 1
        {
            let message = format!(
                "the volume `{}` is of several services, and the Wasm app `{wasm}` shares its volumes with nobody; let one \
                 service have it, and the others ask that over HTTP",
                shown(key)
            );
            sink.problem(place, message);
        }
        if users.is_empty() {
            sink.notice(place, format!("no service has the volume `{}`", shown(key)));
        }
        let Volume { driver, driver_opts, external, labels, name, wharf } = volume;
        if of_wasm.is_empty() {
            if !users.is_empty() && (wharf.size.is_some() || wharf.shared) {
                let message =
                    "`x-wharf` is about volumes of Wasm apps, and no Wasm app has this one; leave it out";
                sink.problem(place, message);
            }
            let texts = |pairs: &BTreeMap<String, Option<String>>| {
                pairs.iter().map(|(name, text)| (name.clone(), text.clone().unwrap_or_default())).collect()
            };
            made.push(ContainerVolume {
                key: key.clone(),
                name: name.clone(),
                driver: driver.clone(),
                driver_opts: texts(driver_opts),
                external: *external,
                labels: texts(labels),
            });
        }
    }
    made
}
