//! A project into resources of Wharf: apps in the order in which they are deployed, and the values and volumes that they need.
//!
//! What a service is follows from its image: a `.wasm` file, or the digest of a component, is a Wasm app; anything else is a container. The table
//! in [`crate::keys`] says what becomes of each key; what depends on a value is decided here.

mod common;
mod container;
mod network;
mod order;
mod sink;
mod values;
mod wasm;

use std::collections::BTreeMap;

use wharf_types::declare::document::AppDocument;
use wharf_types::name::{AppName, NamespaceName};
use wharf_types::spec::InvalidSpec;

use crate::model::Service;
use crate::node::{Node, Place};
use crate::paths::is_component;
use crate::problem::{Notice, Problems, shown};
use crate::project::Project;

use sink::Sink;

pub use common::CommonSettings;
pub use container::{ContainerMount, ContainerSettings};
pub use network::ContainerNetwork;
pub use order::{Step, Wait};
pub use values::{ContainerVolume, NamedValue, ValueFrom};

/// Where a project is deployed.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// None: the one that the command is about.
    pub namespace: Option<NamespaceName>,
}

/// What a project asks of the platform.
#[derive(Clone, Debug)]
pub struct Translation {
    /// In the order of their services' names.
    pub apps: Vec<App>,
    /// Of containers; a Wasm app has its own.
    pub volumes: Vec<ContainerVolume>,
    /// Of containers, by their key in the file.
    pub networks: BTreeMap<String, ContainerNetwork>,
    pub secrets: Vec<NamedValue>,
    pub configs: Vec<NamedValue>,
    /// Every service once, after all that it waits for.
    pub order: Vec<Step>,
    /// What was not taken as it stands, and what was done instead. Those of [`Project::notices`] are not repeated.
    pub notices: Vec<Notice>,
}

/// One service.
#[derive(Clone, Debug)]
pub struct App {
    pub service: String,
    pub name: AppName,
    pub place: Place,
    pub workload: Workload,
}

#[derive(Clone, Debug)]
pub enum Workload {
    /// Whose paths are relative to the folder of the project.
    Wasm(Box<AppDocument>),
    Container(Box<ContainerApp>),
}

/// A service that runs as a container: what it has in common with every app, and what is its own.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerApp {
    pub common: CommonSettings,
    pub container: ContainerSettings,
}

/// Makes resources of a project.
///
/// # Errors
///
/// Everything in the project that Wharf cannot do, with file, line, column and reason. Nothing is left out silently.
pub fn translate(project: &Project, context: &Context) -> Result<Translation, Problems> {
    let mut sink = Sink::default();
    let names = names(project, &mut sink);
    let kinds: BTreeMap<&str, Kind> =
        project.services.iter().map(|(name, service)| (name.as_str(), Kind::of(service))).collect();
    sink::review_project(project, &kinds, &mut sink);
    let order = order::order(project, &names);
    let secrets = values::secrets(project, &mut sink);
    let configs = values::configs(project, &secrets, &mut sink);
    let mut apps = Vec::with_capacity(names.len());
    for (service, settings) in &project.services {
        let Some(name) = names.get(service.as_str()) else { continue };
        let node = project.service_node(service);
        let one = One { project, names: &names, kinds: &kinds, service, settings, node };
        let common = common::common(&one, order::ends(project, service), &mut sink);
        let workload = match kinds.get(service.as_str()) {
            Some(Kind::Wasm) => wasm::document(&one, common, context, &secrets, &configs, &mut sink)
                .map(|document| Workload::Wasm(Box::new(document))),
            _ => Some(Workload::Container(Box::new(container::container(&one, common, &mut sink)))),
        };
        let place = node.place.clone();
        apps.extend(workload.map(|workload| App {
            service: service.clone(),
            name: name.clone(),
            place,
            workload,
        }));
    }
    let volumes = values::volumes(project, &kinds, &mut sink);
    let networks = network::networks(project);
    let Sink { mut notices, problems } = sink;
    notices.sort();
    notices.dedup();
    Problems::or(problems, Translation { apps, volumes, networks, secrets, configs, order, notices })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Wasm,
    Container,
}

impl Kind {
    fn of(service: &Service) -> Self {
        let image = service.image.as_deref().unwrap_or_default();
        let is_wasm = match service.platform.as_deref() {
            Some(platform) => platform.starts_with("wasi/"),
            None => is_component(image) || image.starts_with("sha256:"),
        };
        if is_wasm { Self::Wasm } else { Self::Container }
    }
}

/// One service, and what is around it.
struct One<'a> {
    project: &'a Project,
    names: &'a BTreeMap<&'a str, AppName>,
    kinds: &'a BTreeMap<&'a str, Kind>,
    service: &'a str,
    settings: &'a Service,
    node: &'a Node,
}

impl One<'_> {
    /// Where a setting of the service stands.
    fn place(&self, path: &str) -> &Place {
        self.node.place_of(path)
    }

    fn has(&self, path: &str) -> bool {
        path.split('.').try_fold(self.node, |node, key| node.get(key)).is_some()
    }

    /// Says what is wrong with a spec, where the file has what it comes from.
    fn invalid(&self, error: &InvalidSpec, sink: &mut Sink) {
        let written = written_as(&error.field).iter().find(|path| self.has(path));
        let place = written.map_or(&self.node.place, |path| self.place(path));
        sink.problem(place, format!("the app of the service `{}`: {error}", shown(self.service)));
    }

    /// Where an item of a list stands.
    fn item(&self, list: &str, index: usize) -> &Place {
        let item = self.node.get(list).and_then(|list| list.items().get(index));
        item.map_or_else(|| self.place(list), |item| &item.place)
    }
}

/// What the apps of the services are called: the same, as far as the letters of names go.
fn names<'a>(project: &'a Project, sink: &mut Sink) -> BTreeMap<&'a str, AppName> {
    let mut names = BTreeMap::new();
    let mut taken: BTreeMap<AppName, &str> = BTreeMap::new();
    for service in project.services.keys() {
        let place = project.place_of_name("services", service);
        let name = match AppName::try_from(label(service)) {
            Ok(name) => name,
            Err(error) => {
                sink.problem(place, error.to_string());
                continue;
            }
        };
        if let Some(other) = taken.insert(name.clone(), service) {
            let message =
                format!("the services `{other}` and `{}` would both be the app `{name}`", shown(service));
            sink.problem(place, message);
        }
        if name.as_str() != service {
            sink.notice(place, format!("the app of the service `{}` is called `{name}`", shown(service)));
        }
        names.insert(service.as_str(), name);
    }
    names
}

/// A name with the letters of a label: `Db_Main.2` becomes `db-main-2`.
fn label(name: &str) -> String {
    let letter = |c: char| if matches!(c, '_' | '.') { '-' } else { c.to_ascii_lowercase() };
    name.chars().map(letter).collect::<String>().trim_matches('-').to_owned()
}

/// Where a field of a spec may come from, the nearest first.
fn written_as(field: &str) -> &'static [&'static str] {
    match field {
        "args" => &["command"],
        "env" => &["environment"],
        "limits.memory" => &["deploy.resources.limits.memory", "mem_limit", "x-wharf.limits"],
        "stop.drain" => &["stop_grace_period"],
        "outbound.allow" => &["x-wharf.outbound", "networks"],
        "scale.replicas" => &["deploy.replicas", "scale", "volumes"],
        "secrets" => &["secrets"],
        "configs" => &["configs"],
        _ if field.starts_with("volumes") || field.starts_with("files") => &["volumes"],
        _ if field.starts_with("placement") => &["deploy.placement"],
        _ if field.starts_with("reserve") => &["deploy.resources.reservations", "mem_reservation"],
        _ if field.starts_with("restart") => &["deploy.restart_policy", "restart"],
        _ if field.starts_with("update.rollback") => &["deploy.rollback_config"],
        _ if field.starts_with("update") => &["deploy.update_config"],
        _ if field.starts_with("http.health") => &["healthcheck", "x-wharf.http"],
        _ if field.starts_with("tcp") => &["ports", "x-wharf.tcp"],
        _ => &["x-wharf"],
    }
}
