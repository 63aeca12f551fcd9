//! Who reaches whom: services that share a network, and what they are called there.

use std::collections::{BTreeMap, BTreeSet};

use wharf_types::AppName;
use wharf_types::spec::is_host;

use super::sink::Sink;
use super::{Kind, One};
use crate::model::Service;
use crate::problem::shown;

/// The networks of a service, by their keys in the file. None is the one of whoever names none: the engine's bridge to Compose, and the
/// namespace's own here.
fn of(service: &Service) -> BTreeSet<Option<&str>> {
    match service.network_mode.as_deref() {
        Some("bridge" | "default") => [None].into(),
        Some(_) => BTreeSet::new(),
        None => service.networks.keys().map(|key| Some(key.as_str())).collect(),
    }
}

/// Whether a container is in a network.
pub(super) fn has_container(
    services: &BTreeMap<String, Service>,
    kinds: &BTreeMap<&str, Kind>,
    key: &str,
) -> bool {
    services.iter().any(|(name, service)| {
        kinds.get(name.as_str()) == Some(&Kind::Container) && of(service).contains(&Some(key))
    })
}

/// The networks of a container, as the namespace knows them, with the names that it has in each beside its app's.
pub(super) fn joined(one: &One<'_>, sink: &mut Sink) -> BTreeMap<String, Vec<String>> {
    let mut joined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for key in of(one.settings).into_iter().flatten() {
        let (names, others): (Vec<&str>, Vec<&str>) =
            aliases(one, one.service, one.settings, Some(key)).into_iter().partition(|alias| is_host(alias));
        for alias in others {
            let place = one.place(&format!("networks.{key}.aliases"));
            sink.problem(place, format!("`{}` is no name of a host", shown(alias)));
        }
        let name = name(one, key);
        if one.project.networks.get(key).is_some_and(|network| network.external) {
            let message =
                format!("the network `{}` of the namespace is made if it is not there", shown(&name));
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
    one: &One<'_>,
    name: &'a str,
    service: &'a Service,
    network: Option<&str>,
) -> BTreeSet<&'a str> {
    let Some(attachment) = network.and_then(|key| service.networks.get(key)) else { return BTreeSet::new() };
    let app = one.names.get(name).map(AppName::as_str);
    let written = attachment.aliases.iter().chain(&service.container_name).map(String::as_str);
    written.chain([name]).filter(|alias| Some(*alias) != app).collect()
}

/// Another service in a network of a service.
struct Neighbour<'a> {
    service: &'a str,
    settings: &'a Service,
    app: &'a AppName,
    shared: Vec<Option<&'a str>>,
}

fn neighbours<'a>(one: &'a One<'_>) -> impl Iterator<Item = Neighbour<'a>> {
    let ours = of(one.settings);
    one.project.services.iter().filter_map(move |(service, settings)| {
        let app = one.names.get(service.as_str()).filter(|_| service != one.service)?;
        let shared: Vec<Option<&str>> = of(settings).intersection(&ours).copied().collect();
        (!shared.is_empty()).then_some(Neighbour { service: service.as_str(), settings, app, shared })
    })
}

/// What a Wasm app may reach, because it shares a network with it.
pub(super) fn grants(one: &One<'_>) -> Vec<String> {
    let mut grants = Vec::new();
    for Neighbour { service, settings, app, shared } in neighbours(one) {
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
    }
    grants
}

/// Says that a module of WASI 0.1 reaches nobody, where the file looks as if it were to. The network that all services are in says nothing.
pub(super) fn reaches_nobody(one: &One<'_>, sink: &mut Sink) {
    let waits_for_one = || neighbours(one).any(|it| one.settings.depends_on.contains_key(it.service));
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
