//! What a container is given: a function of what was assigned.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wharf_docker::{Found, ImageConfig, ImageHealth, MemoryFile, NetworkName};
use wharf_types::InstanceId;
use wharf_types::node::{AssignedInstance, ReasonKind};
use wharf_types::quantity::Span;
use wharf_types::spec::{ContainerHealthSpec, ContainerSpec};

use crate::backend::Failure;
use crate::reach::directory::{Asker, Who, networks_of};
use crate::reach::present::Present;
use crate::secrets::Environment;

/// What a file of a container may be read by: everybody in it.
const FILE_MODE: u32 = 0o444;

/// Variables, and files.
type Given<'a> = (Vec<(&'a str, &'a str)>, Vec<MemoryFile<'a>>);

/// The variables, and the values that become files instead.
pub(super) fn split<'a>(spec: &'a ContainerSpec, environment: &'a Environment) -> Result<Given<'a>, Failure> {
    let in_file = |name: &str| spec.files.iter().any(|file| file.from == name);
    let is_login = |name: &str| spec.registry_login.as_deref() == Some(name);
    let plain = environment.iter().filter(|(name, _)| !in_file(name) && !is_login(name));
    let variables = plain.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut files = Vec::new();
    for file in &spec.files {
        let value = environment.iter().find(|(name, _)| *name == file.from).map(|(_, value)| value);
        let Some(value) = value else {
            let message =
                format!("the file {} has no value: there is no variable `{}`", file.path, file.from);
            return Err(Failure::new(ReasonKind::Platform, message));
        };
        let mode = match &file.mode {
            Some(mode) => u32::from_str_radix(mode, 8).map_err(|_| {
                let message = format!("the mode `{mode}` of the file {} is not in octal digits", file.path);
                Failure::new(ReasonKind::Artifact, message)
            })?,
            None => FILE_MODE,
        };
        files.push(MemoryFile {
            content: value.as_bytes(),
            path: &file.path,
            mode,
            uid: file.uid.unwrap_or(0),
            gid: file.gid.unwrap_or(0),
        });
    }
    Ok((variables, files))
}

/// A network that a container is to be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joins<'a> {
    /// The namespace's own.
    Own,
    Other(&'a str),
    /// One out of which no way leads.
    Internal(&'a str),
}

/// The networks of a container, with the names under which it is reached in each; the app's own is always one, but for a run of a job, which is
/// not the app.
pub(super) fn networks(assigned: &AssignedInstance) -> Vec<(Joins<'_>, Vec<String>)> {
    let spec = &assigned.spec.container;
    if spec.host_network {
        return Vec::new();
    }
    let own = assigned.app.to_string();
    let names = |aliases: &[String]| {
        let others = aliases.iter().filter(|alias| **alias != own).cloned();
        assigned.job.is_none().then(|| own.clone()).into_iter().chain(others).collect()
    };
    if spec.networks.is_empty() {
        return vec![(Joins::Own, names(&[]))];
    }
    let joins = |name| match spec.internal_networks.contains(name) {
        true => Joins::Internal(name.as_str()),
        false => Joins::Other(name.as_str()),
    };
    spec.networks.iter().map(|(name, aliases)| (joins(name), names(aliases))).collect()
}

/// Whether one of the networks of a container has a way out. Engines of before (20.10) give a default route to those that have none, too, and so one to
/// this node.
fn has_way_out(spec: &ContainerSpec) -> bool {
    spec.networks.is_empty() || spec.networks.keys().any(|it| !spec.internal_networks.contains(it))
}

/// Where a container that runs answers. None: it has no network.
pub(super) fn address(found: &Found, first: Option<&NetworkName>) -> Option<IpAddr> {
    if found.is_on_host_network {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let named = first.and_then(|network| found.addresses.get(&network.to_string()));
    named.or_else(|| found.addresses.values().next()).copied()
}

/// What a container that runs is to others of its namespace.
pub(super) fn present(
    assigned: &AssignedInstance,
    id: InstanceId,
    found: &Found,
    address: Option<IpAddr>,
) -> Present {
    let networks = networks_of(&assigned.spec.container.networks);
    Present {
        id,
        app: assigned.app.clone(),
        asker: Asker {
            namespace: assigned.namespace.clone(),
            who: Who::Container(networks),
            names: Arc::new(assigned.spec.names.clone()),
        },
        // With the host's network it would be every port of the host.
        address: address.filter(|_| !found.is_on_host_network && assigned.job.is_none()),
        sources: match found.is_on_host_network {
            true => Vec::new(),
            false => found.addresses.values().copied().collect(),
        },
        has_way_out: has_way_out(&assigned.spec.container),
        gone: CancellationToken::new(),
    }
}

/// Which port of a container is behind each public one.
pub(super) fn tcp_addresses(assigned: &AssignedInstance, address: IpAddr) -> BTreeMap<u16, SocketAddr> {
    let spec = &assigned.spec;
    let own = |public: u16| spec.container.tcp.get(&public).copied().unwrap_or(public);
    spec.tcp.ports.iter().map(|public| (*public, SocketAddr::new(address, own(*public)))).collect()
}

/// The check by a command: the app's, or the image's where the app says nothing about it. None: there is none.
pub(super) fn health(spec: &ContainerSpec, image: &ImageConfig) -> Option<ContainerHealthSpec> {
    match &spec.health {
        Some(health) if health.disable => None,
        Some(health) if !health.command.is_empty() => Some(health.clone()),
        Some(health) => {
            let command = image.health.as_ref().map(|image| image.command.clone())?;
            Some(ContainerHealthSpec { command, ..health.clone() })
        }
        None => image.health.as_ref().map(of_image),
    }
}

/// As long as an engine gives an image that says nothing else: three tries, half a minute apart.
const IMAGE_START: Span = Span::from_secs(90);

/// What the image leaves out is as everywhere here, and not as the engine would have it: it would look half a minute later.
fn of_image(image: &ImageHealth) -> ContainerHealthSpec {
    let usual = ContainerHealthSpec::default();
    let span = |given: Option<Duration>, usual: Span| given.map_or(usual, span_of);
    ContainerHealthSpec {
        command: image.command.clone(),
        disable: false,
        interval: span(image.interval, usual.interval),
        timeout: span(image.timeout, Span::from_secs(30)),
        retries: image.retries.filter(|retries| *retries > 0).unwrap_or(usual.retries),
        start_period: span(image.start_period.filter(|period| !period.is_zero()), IMAGE_START),
        start_interval: span(image.start_interval, usual.start_interval),
    }
}

fn span_of(duration: Duration) -> Span {
    Span::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use wharf_types::node::AssignedJob;
    use wharf_types::spec::ContainerFileSpec;
    use wharf_types::{InstanceId, JobId};
    use zeroize::Zeroizing;

    use super::*;
    use crate::fake::assigned;

    fn environment(of: &[(&str, &str)]) -> Environment {
        of.iter().map(|(name, value)| ((*name).to_owned(), Zeroizing::new((*value).to_owned()))).collect()
    }

    #[test]
    fn a_value_that_becomes_a_file_is_no_variable() {
        let file = |from: &str| ContainerFileSpec {
            from: from.to_owned(),
            path: "/run/secrets/password".to_owned(),
            mode: Some("0400".to_owned()),
            uid: Some(70),
            gid: None,
        };
        let spec = ContainerSpec { files: vec![file("PASSWORD")], ..ContainerSpec::default() };
        let environment = environment(&[("A", "1"), ("PASSWORD", "hush")]);
        let (variables, files) = split(&spec, &environment).unwrap();
        assert_eq!(variables, [("A", "1")]);
        let [password] = &files[..] else { panic!("one file") };
        assert_eq!((password.content, password.mode, password.uid), (&b"hush"[..], 0o400, 70));
        let spec = ContainerSpec { files: vec![file("OTHER")], ..ContainerSpec::default() };
        assert!(split(&spec, &environment).unwrap_err().to_string().contains("`OTHER`"));
    }

    #[test]
    fn what_opens_the_registry_is_for_nobody_else() {
        let spec = ContainerSpec { registry_login: Some("LOGIN".to_owned()), ..ContainerSpec::default() };
        let environment = environment(&[("A", "1"), ("LOGIN", "ann:hush")]);
        assert_eq!(split(&spec, &environment).unwrap().0, [("A", "1")]);
    }

    #[test]
    fn a_container_is_known_by_its_app_in_each_network() {
        let mut instance = assigned(InstanceId::new());
        assert_eq!(networks(&instance), [(Joins::Own, vec!["hello".to_owned()])]);
        let container = &mut Arc::make_mut(&mut instance.spec).container;
        container.networks.insert("back".to_owned(), vec!["cache".to_owned(), "hello".to_owned()]);
        let names = || vec!["hello".to_owned(), "cache".to_owned()];
        assert_eq!(networks(&instance), [(Joins::Other("back"), names())]);
        let container = &mut Arc::make_mut(&mut instance.spec).container;
        container.internal_networks.push("back".to_owned());
        assert_eq!(networks(&instance), [(Joins::Internal("back"), names())]);
        Arc::make_mut(&mut instance.spec).container.host_network = true;
        assert!(networks(&instance).is_empty());
    }

    #[test]
    fn one_network_with_a_way_out_is_a_way_out() {
        let mut spec = ContainerSpec::default();
        assert!(has_way_out(&spec), "the namespace's own has one");
        spec.networks.insert("back".to_owned(), Vec::new());
        assert!(has_way_out(&spec));
        spec.internal_networks.push("back".to_owned());
        assert!(!has_way_out(&spec));
        spec.networks.insert("front".to_owned(), Vec::new());
        assert!(has_way_out(&spec));
    }

    #[test]
    fn nobody_who_asks_for_an_app_gets_to_a_task_of_it() {
        let mut instance = assigned(InstanceId::new());
        instance.job = Some(AssignedJob { id: JobId::new(), index: None, attempt: 1 });
        assert_eq!(networks(&instance), [(Joins::Own, Vec::new())]);
        Arc::make_mut(&mut instance.spec).container.networks.insert("back".to_owned(), Vec::new());
        assert_eq!(networks(&instance), [(Joins::Other("back"), Vec::new())]);
    }

    #[test]
    fn the_images_check_counts_unless_the_app_says_otherwise() {
        let image = |interval| ImageConfig {
            health: Some(ImageHealth {
                command: vec!["check".to_owned()],
                interval,
                timeout: None,
                start_period: None,
                start_interval: None,
                retries: Some(0),
            }),
            ..ImageConfig::default()
        };
        let spec = ContainerSpec::default();
        assert_eq!(health(&spec, &ImageConfig::default()), None);
        let found = health(&spec, &image(Some(Duration::from_secs(5)))).unwrap();
        assert_eq!((found.interval, found.retries), (Span::from_secs(5), 3));
        let with = |health| ContainerSpec { health: Some(health), ..ContainerSpec::default() };
        let off = with(ContainerHealthSpec { disable: true, ..ContainerHealthSpec::default() });
        assert_eq!(health(&off, &image(None)), None);
        let own = ContainerHealthSpec { command: vec!["mine".to_owned()], ..ContainerHealthSpec::default() };
        assert_eq!(health(&with(own.clone()), &image(None)), Some(own));
        let slower = ContainerHealthSpec { interval: Span::from_secs(9), ..ContainerHealthSpec::default() };
        let found = health(&with(slower), &image(None)).unwrap();
        assert_eq!((&found.command[..], found.interval), (&["check".to_owned()][..], Span::from_secs(9)));
    }

    #[test]
    fn a_public_port_leads_to_the_containers_own() {
        let mut instance = assigned(InstanceId::new());
        let spec = Arc::make_mut(&mut instance.spec);
        spec.tcp.ports = vec![7000, 6379];
        spec.container.tcp.insert(7000, 80);
        let addresses = tcp_addresses(&instance, IpAddr::from([10, 0, 0, 2]));
        let ports: Vec<_> = addresses.into_iter().map(|(public, at)| (public, at.port())).collect();
        assert_eq!(ports, [(6379, 6379), (7000, 80)]);
    }
}
