//! A project into resources of Wharf: apps in the order in which they are deployed, and the values that they need.
//!
//! What a service is follows from its image: a `.wasm` file, or the digest of a component, is a Wasm app; anything else is a container. The table
//! in [`crate::keys`] says what becomes of each key; what depends on a value is decided here.

mod common;
mod container;
mod job;
mod network;
mod order;
mod preview;
mod sink;
mod values;
mod volumes;
mod wasm;

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use wharf_types::declare::document::AppDocument;
use wharf_types::name::{AppName, NamespaceName, SetName};
use wharf_types::spec::InvalidSpec;

use crate::model::Service;
use crate::node::{Node, Place};
use crate::paths::is_component;
use crate::problem::{Notice, Problem, Problems, shown};
use crate::project::Project;

use network::Networks;
use sink::Sink;

pub use job::Job;
pub use order::{Step, Wait};
pub use values::{NamedValue, ValueFrom};

/// Where a project is deployed.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// None: the one that the command is about.
    pub namespace: Option<NamespaceName>,
    /// What the stack is called. None: what the file says.
    pub stack: Option<String>,
    /// Those of the [`components`] whose files are modules of WASI 0.1, by their services. They reach no address, and are granted none.
    pub modules: BTreeSet<String>,
    /// What the stack is called as a preview of another that is there as well. What it makes has names that begin so, its apps know each other by
    /// the names of the file all the same, and it takes nothing that there is only once. None: it is the stack itself.
    pub preview: Option<SetName>,
}

/// What a project asks of the platform.
#[derive(Clone, Debug)]
pub struct Translation {
    /// In the order of their services' names.
    pub apps: Vec<App>,
    /// The services that are run to their end, in the same order. They are no apps.
    pub jobs: Vec<Job>,
    pub secrets: Vec<NamedValue>,
    pub configs: Vec<NamedValue>,
    /// Every service once, after all that it waits for.
    pub order: Vec<Step>,
    /// What was not taken as it stands, and what was done instead. Those of [`Project::notices`] are not repeated.
    pub notices: Vec<Notice>,
}

/// One service that goes on.
#[derive(Clone, Debug)]
pub struct App {
    pub service: String,
    pub place: Place,
    /// Whose paths are relative to the folder of the project.
    pub document: AppDocument,
}

/// The services that run a file of WebAssembly, with its path, which is relative to the folder of the project.
pub fn components(project: &Project) -> impl Iterator<Item = (&str, &str)> {
    project.services.iter().filter(|(_, service)| Kind::of(service) == Kind::Wasm).filter_map(
        |(name, service)| {
            let image = service.image.as_deref().filter(|image| is_component(image))?;
            Some((name.as_str(), image))
        },
    )
}

/// Makes resources of a project.
///
/// # Errors
///
/// Everything in the project that Wharf cannot do, with file, line, column and reason. Nothing is left out silently.
pub fn translate(project: &Project, context: &Context) -> Result<Translation, Problems> {
    let (translation, problems) = translate_all(project, context);
    Problems::or(problems, translation)
}

/// The same of whatever can be made, with all that is wrong: where there is anything, nothing of it is to be deployed.
pub fn translate_all(project: &Project, context: &Context) -> (Translation, Vec<Problem>) {
    let mut sink = Sink::default();
    let labels = labels(project, context, &mut sink);
    let names = names(&labels, context);
    let kinds: BTreeMap<&str, Kind> =
        project.services.iter().map(|(name, service)| (name.as_str(), Kind::of(service))).collect();
    let networks = Networks::of(project, &names, &kinds);
    sink::review_project(project, &kinds, &networks, &mut sink);
    let order = order::order(project, &names);
    let ended = order::ended(project);
    let preview = context.preview.as_ref();
    let secrets = values::secrets(project, preview, &mut sink);
    let configs = values::configs(project, preview, &secrets, &mut sink);
    let (mut apps, mut jobs) = (Vec::with_capacity(names.len()), Vec::new());
    for (service, settings) in &project.services {
        let Some(name) = names.get(service.as_str()) else { continue };
        let one = One {
            project,
            context,
            names: &names,
            labels: &labels,
            kinds: &kinds,
            networks: &networks,
            secrets: &secrets,
            configs: &configs,
            service,
            name,
            settings,
            node: project.service_node(service),
        };
        let common = common::common(&one, ended.contains(service.as_str()), &mut sink);
        let document = match kinds.get(service.as_str()) {
            Some(Kind::Wasm) => wasm::document(&one, common, &mut sink),
            _ => container::document(&one, common, &mut sink),
        };
        let document = document.map(|document| preview::alone(&one, document, &mut sink));
        if job::is_job(&one) {
            jobs.extend(document.map(|document| job::job(&one, document, &mut sink)));
            continue;
        }
        let place = one.node.place.clone();
        apps.extend(document.map(|document| App { service: service.clone(), place, document }));
    }
    volumes::check(project, &mut sink);
    sink.say_what_is_unlimited();
    let Sink { mut notices, problems, .. } = sink;
    notices.sort();
    notices.dedup();
    (Translation { apps, jobs, secrets, configs, order, notices }, problems)
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
    context: &'a Context,
    names: &'a BTreeMap<&'a str, AppName>,
    /// What the apps are called where nothing is put before it: by others of the stack always.
    labels: &'a BTreeMap<&'a str, AppName>,
    kinds: &'a BTreeMap<&'a str, Kind>,
    networks: &'a Networks<'a>,
    secrets: &'a [NamedValue],
    configs: &'a [NamedValue],
    service: &'a str,
    name: &'a AppName,
    settings: &'a Service,
    node: &'a Node,
}

impl One<'_> {
    /// Where a setting of the service stands.
    fn place(&self, path: &str) -> &Place {
        self.node.place_of(path)
    }

    fn has(&self, path: &str) -> bool {
        has(self.node, path)
    }

    /// A key of `x-wharf`, which has the words of `wharf.toml`.
    fn wharf<T: DeserializeOwned>(&self, key: &str, sink: &mut Sink) -> Option<T> {
        let value = self.settings.wharf.get(key)?;
        T::deserialize(value)
            .map_err(|error| sink.problem(self.place(&format!("x-wharf.{key}")), error.to_string()))
            .ok()
    }

    /// Says what is wrong with a spec, where the file has what it comes from.
    fn invalid(&self, error: &InvalidSpec, sink: &mut Sink) {
        let written = written_as(&error.field).iter().find(|path| self.has(path));
        let place = written.map_or(&self.node.place, |path| self.place(path));
        sink.problem(place, format!("the app of the service `{}`: {error}", shown(self.service)));
    }

    /// Whether it runs a module of WASI 0.1, as far as that is known.
    fn is_module(&self) -> bool {
        self.context.modules.contains(self.service)
    }

    /// Where an item of a list stands.
    fn item(&self, list: &str, index: usize) -> &Place {
        let item = self.node.get(list).and_then(|list| list.items().get(index));
        item.map_or_else(|| self.place(list), |item| &item.place)
    }
}

/// What the apps are called: of a preview otherwise than by others of it.
fn names<'a>(labels: &BTreeMap<&'a str, AppName>, context: &Context) -> BTreeMap<&'a str, AppName> {
    let called = |label: &AppName| match &context.preview {
        Some(preview) => preview::app(preview, label),
        None => label.clone(),
    };
    labels.iter().map(|(service, label)| (*service, called(label))).collect()
}

/// What the services are called as apps: the same, as far as the letters of names go.
fn labels<'a>(project: &'a Project, context: &Context, sink: &mut Sink) -> BTreeMap<&'a str, AppName> {
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
        if name.as_str() != service && context.preview.is_none() {
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

fn has(node: &Node, path: &str) -> bool {
    path.split('.').try_fold(node, |node, key| node.get(key)).is_some()
}

/// The key of a service that a setting of its app comes of, such as `ports` for `tcp.ports`, and where that stands; or else the service itself.
pub fn key_of<'a>(project: &'a Project, service: &str, field: &str) -> (String, &'a Place) {
    let (node, keys) = (project.service_node(service), written_as(field));
    let written = keys.iter().find(|key| has(node, key)).or(keys.first());
    let key = match written.copied().unwrap_or("x-wharf") {
        // Which has the words of `wharf.toml`.
        "x-wharf" => format!("x-wharf.{field}"),
        key => key.to_owned(),
    };
    let place = node.place_of(&key);
    (key, place)
}

/// Where a field of a spec may come from, the nearest first.
fn written_as(field: &str) -> &'static [&'static str] {
    match field {
        "args" => &["command"],
        "env" => &["environment"],
        "limits.memory" => &["deploy.resources.limits.memory", "mem_limit", "x-wharf.limits"],
        "stop.drain" => &["stop_grace_period"],
        "completions" => &["deploy.replicas", "scale"],
        "parallelism" => &["x-wharf.max_concurrent"],
        "retries" | "backoff" => &["deploy.restart_policy", "restart"],
        "outbound.allow" => &["x-wharf.outbound", "networks"],
        "names" => &["networks"],
        "scale.replicas" => &["deploy.replicas", "scale", "volumes"],
        "container.capabilities_add" => &["cap_add"],
        "container.entrypoint" => &["entrypoint"],
        "container.files" => &["secrets", "configs"],
        "container.host_network" => &["network_mode"],
        "container.labels" => &["labels", "annotations"],
        "container.pids" => &["deploy.resources.limits.pids", "pids_limit"],
        "container.privileged" => &["privileged"],
        "container.registry_login" => &["x-wharf.registry_login"],
        "container.sysctls" => &["sysctls"],
        "container.tmpfs" => &["tmpfs", "volumes"],
        "container.host_paths" => &["volumes"],
        "container.networks" | "container.internal_networks" => &["networks"],
        "container.devices" => &["devices"],
        "container.disk_max" => &["storage_opt"],
        "container.extra_hosts" => &["extra_hosts"],
        "secrets" => &["secrets"],
        "configs" => &["configs"],
        _ if field.starts_with("volumes") || field.starts_with("files") => &["volumes"],
        _ if field.starts_with("placement") => &["deploy.placement"],
        _ if field.starts_with("reserve") => &["deploy.resources.reservations", "mem_reservation"],
        _ if field.starts_with("restart") => &["deploy.restart_policy", "restart"],
        _ if field.starts_with("update.rollback") => &["deploy.rollback_config"],
        _ if field.starts_with("update") => &["deploy.update_config"],
        _ if field.starts_with("container.health") => &["healthcheck"],
        _ if field.starts_with("container.http_port") || field.starts_with("container.tcp") => &["ports"],
        _ if field.starts_with("http.health") => &["healthcheck", "x-wharf.http"],
        _ if field.starts_with("tcp") => &["ports", "x-wharf.tcp"],
        _ => &["x-wharf"],
    }
}
