//! Who reaches whom: services that share a network, and what they are called there.

use std::collections::{BTreeMap, BTreeSet};

use wharf_types::AppName;
use wharf_types::spec::{GRANTS_MAX, NAMES_MAX, is_host};

use super::sink::Sink;
use super::{Kind, One};
use crate::model::Service;
use crate::problem::shown;
use crate::project::Project;

/// The networks of a service, by their keys in the file. None is the one of whoever names none: the engine's bridge to Compose, and the
/// namespace's own here.
fn of(service: &Service) -> BTreeSet<Option<&str>> {
    match service.network_mode.as_deref() {
        Some("bridge" | "default") => [None].into(),
        Some(_) => BTreeSet::new(),
        None => service.networks.keys().map(|key| Some(key.as_str())).collect(),
    }
}

/// Who is in which network of the file, found once: there may be thousands of services.
pub(super) struct Networks<'a> {
    /// In the order of their names. Services without a name of an app are left out.
    members: BTreeMap<Option<String>, Vec<&'a str>>,
    /// Those with a container in them.
    with_container: BTreeSet<&'a str>,
}

impl<'a> Networks<'a> {
    pub(super) fn of(
        project: &'a Project,
        names: &BTreeMap<&str, AppName>,
        kinds: &BTreeMap<&str, Kind>,
    ) -> Self {
        let mut networks = Self { members: BTreeMap::new(), with_container: BTreeSet::new() };
        for (service, settings) in &project.services {
            for network in of(settings) {
                if kinds.get(service.as_str()) == Some(&Kind::Container) {
                    networks.with_container.extend(network);
                }
                if names.contains_key(service.as_str()) {
                    networks.members.entry(network.map(str::to_owned)).or_default().push(service);
                }
            }
        }
        networks
    }

    /// Whether a container is in a network.
    pub(super) fn has_container(&self, key: &str) -> bool {
        self.with_container.contains(key)
    }

    fn members(&self, network: Option<&str>) -> &[&'a str] {
        self.members.get(&network.map(str::to_owned)).map(Vec::as_slice).unwrap_or_default()
    }
}

/// The networks of a container, as the namespace knows them, with the names that it has in each beside its app's.
pub(super) fn joined(one: &One<'_>, sink: &mut Sink) -> BTreeMap<String, Vec<String>> {
    let mut joined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for network in of(one.settings) {
        let name = match (network, &one.context.preview) {
            (Some(key), _) => name(one, key),
            // The namespace's own network is where the stack itself is.
            (None, Some(preview)) => preview.to_string(),
            (None, None) => continue,
        };
        let (names, others): (Vec<&str>, Vec<&str>) =
            aliases(one, one.service, one.settings, network).into_iter().partition(|alias| is_host(alias));
        for alias in others {
            let place = match network {
                Some(key) => one.place(&format!("networks.{key}.aliases")),
                None => &one.node.place,
            };
            sink.problem(place, format!("`{}` is no name of a host", shown(alias)));
        }
        let external = network.filter(|key| one.project.networks.get(*key).is_some_and(|it| it.external));
        if let Some(key) = external {
            let message = match one.context.preview {
                Some(_) => format!("a preview has a network of its own in the place of `{}`", shown(key)),
                None => format!("the network `{}` of the namespace is made if it is not there", shown(&name)),
            };
            sink.notice(one.project.place_of_name("networks", key), message);
        }
        let known = joined.entry(name).or_default();
        known.extend(names.into_iter().map(str::to_owned));
        known.sort();
        known.dedup();
    }
    joined
}

/// Those of them out of which no way leads.
pub(super) fn internal(one: &One<'_>, sink: &mut Sink) -> Vec<String> {
    let is_internal = |key: &&str| one.project.networks.get(*key).is_some_and(|network| network.internal);
    let (internal, others): (Vec<&str>, Vec<&str>) =
        of(one.settings).into_iter().flatten().partition(is_internal);
    if !internal.is_empty() && others.is_empty() {
        let message = format!(
            "no network of the service `{}` has a way out, so it reaches others by their names on its own node only",
            shown(one.service)
        );
        sink.notice(one.place("networks"), message);
    }
    let names: BTreeSet<String> = internal.into_iter().map(|key| name(one, key)).collect();
    names.into_iter().collect()
}

/// What a network of the file is called in the namespace.
fn name(one: &One<'_>, key: &str) -> String {
    if let Some(preview) = &one.context.preview {
        return format!("{preview}_{key}");
    }
    let network = one.project.networks.get(key);
    if let Some(name) = network.and_then(|network| network.name.clone()) {
        return name;
    }
    let stack = one.context.stack.as_ref().or(one.project.name.as_ref());
    match stack.filter(|_| network.is_none_or(|network| !network.external)) {
        Some(stack) => format!("{stack}_{key}"),
        None => key.to_owned(),
    }
}

/// What a container is called in a network beside the name of its app.
fn aliases<'a>(
    one: &One<'a>,
    name: &'a str,
    service: &'a Service,
    network: Option<&str>,
) -> BTreeSet<&'a str> {
    let attachment = network.and_then(|key| service.networks.get(key));
    if attachment.is_none() && one.context.preview.is_none() {
        return BTreeSet::new();
    }
    let (app, label) = (one.names.get(name).map(AppName::as_str), one.labels.get(name).map(AppName::as_str));
    let container_name = &service.container_name;
    let written = attachment.into_iter().flat_map(move |it| it.aliases.iter().chain(container_name));
    written.map(String::as_str).chain([name]).chain(label).filter(|alias| Some(*alias) != app).collect()
}

/// The other services in the networks of a service, each with the networks that both are in. None: a network has so many that they
/// could not all be granted, which is told of that network.
fn neighbours<'a>(one: &One<'a>, sink: &mut Sink) -> Option<BTreeMap<&'a str, Vec<Option<&'a str>>>> {
    let mut found: BTreeMap<&str, Vec<Option<&str>>> = BTreeMap::new();
    for network in of(one.settings) {
        for service in one.networks.members(network).iter().copied().filter(|service| *service != one.service)
        {
            found.entry(service).or_default().push(network);
            if found.len() > GRANTS_MAX {
                crowded(one, sink);
                return None;
            }
        }
    }
    Some(found)
}

/// What a Wasm app may reach, because it shares a network with it.
pub(super) fn grants(one: &One<'_>, sink: &mut Sink) -> Vec<String> {
    let mut grants = Vec::new();
    for (service, shared) in neighbours(one, sink).into_iter().flatten() {
        // As it is called by others, which in a preview is not what its app is called.
        let (Some(settings), Some(app)) = (one.project.services.get(service), one.labels.get(service)) else {
            continue;
        };
        let is_container = one.kinds.get(service) == Some(&Kind::Container);
        let listens = is_container || settings.wharf.contains_key("tcp");
        // Whether a component without `tcp` serves requests is not known before it is read.
        if !listens || settings.wharf.contains_key("http") {
            grants.push(format!("http://{app}.internal:*"));
        }
        if listens {
            grants.push(format!("tcp://{app}.internal:*"));
        }
        if is_container {
            let aliases = shared.iter().flat_map(|network| aliases(one, service, settings, *network));
            let names: BTreeSet<&str> = aliases.chain([app.as_str()]).collect();
            grants.extend(names.iter().map(|name| format!("tcp://{name}:*")));
        }
        if grants.len() > GRANTS_MAX {
            crowded(one, sink);
            return Vec::new();
        }
    }
    grants
}

/// What an app of a preview calls the others by: what they are called in the file, which apps of the stack itself may be called as well. It knows
/// by further names those that it shares a network with.
pub(super) fn own_names(one: &One<'_>, sink: &mut Sink) -> BTreeMap<String, AppName> {
    if one.context.preview.is_none() {
        return BTreeMap::new();
    }
    if one.names.len() > NAMES_MAX {
        let message = format!(
            "there are {} services, and a preview has {NAMES_MAX} at most: push them to a namespace of their own",
            one.names.len()
        );
        sink.problem(one.project.place_of("services"), message);
        return BTreeMap::new();
    }
    let named =
        |(service, label): (&&str, &AppName)| Some((label.to_string(), one.names.get(*service)?.clone()));
    let mut names: BTreeMap<String, AppName> = one.labels.iter().filter_map(named).collect();
    let written = one.names.iter().map(|(service, app)| (*service, app));
    let mut further: Vec<(&str, &AppName)> = written.collect();
    for network in of(one.settings) {
        for service in one.networks.members(network).iter().copied() {
            let (Some(settings), Some(app)) = (one.project.services.get(service), one.names.get(service))
            else {
                continue;
            };
            further.extend(aliases(one, service, settings, network).into_iter().map(|alias| (alias, app)));
        }
    }
    // A name with dots is one in the DNS. What is no name of a host is refused where it is written.
    for (name, app) in further.into_iter().filter(|(name, _)| is_host(name) && !name.contains('.')) {
        names.entry(name.to_ascii_lowercase()).or_insert_with(|| app.clone());
    }
    if names.len() > NAMES_MAX {
        let message = format!(
            "the service `{}` knows others by {} names, and one of a preview may have {NAMES_MAX}: give them fewer `aliases`",
            shown(one.service),
            names.len()
        );
        sink.problem(one.place("networks"), message);
    }
    names
}

/// Says once of a network, the largest one that a service is in, that it is too large. The settings that it would become are none that people wrote.
fn crowded(one: &One<'_>, sink: &mut Sink) {
    let count = |network: &Option<&str>| one.networks.members(*network).len();
    let Some(network) = of(one.settings).into_iter().max_by_key(count) else { return };
    if !sink.crowded.insert(network.map(str::to_owned)) {
        return;
    }
    let (name, place) = match network {
        Some(key) => (format!("the network `{}`", shown(key)), one.project.place_of_name("networks", key)),
        None => ("`network_mode: bridge`".to_owned(), one.place("network_mode")),
    };
    let message = format!(
        "{name} has {} services, and a Wasm app can be granted {GRANTS_MAX} names at most: put those that ask each other into networks of their \
         own, or give a service `network_mode: none` and list in `x-wharf.outbound.allow` what it asks; `http://*.internal:*` there is every app \
         of the namespace that takes requests",
        count(&network)
    );
    sink.problem(place, message);
}

/// Says that a module of WASI 0.1 reaches nobody, where the file looks as if it were to. The network that all services are in says nothing.
pub(super) fn reaches_nobody(one: &One<'_>, sink: &mut Sink) {
    let ours = of(one.settings);
    let shares_a_network = |name: &String| {
        let other = one.project.services.get(name).filter(|_| name != one.service);
        other.is_some_and(|other| one.names.contains_key(name.as_str()) && !of(other).is_disjoint(&ours))
    };
    let waits_for_one = || one.settings.depends_on.keys().any(shares_a_network);
    let chooses_networks = of(one.settings).into_iter().flatten().any(|network| network != "default");
    let written = match chooses_networks {
        true => "networks",
        false if waits_for_one() => "depends_on",
        false => return,
    };
    let message = format!(
        "`{written}`: a module of WASI 0.1 reaches no address, so the service `{}` is granted no other; build a component of WASI 0.2 or 0.3 \
         if it is to ask one",
        shown(one.service)
    );
    sink.notice(one.place(written), message);
}
