//! A service as a Wasm app.

use std::collections::BTreeMap;

use wharf_types::declare::document::{AppDocument, AppKind, ArtifactSource, FilesSource};
use wharf_types::name::SecretName;
use wharf_types::spec::{ContainerSpec, HealthSpec, HttpSpec, LimitsSpec, OutboundSpec, TcpSpec, VolumeSpec};

use super::common::{CommonSettings, limits, published, refuse_address};
use super::sink::Sink;
use super::values::{NamedValue, variable_of};
use super::{One, network, volumes};
use crate::model::{FileGrant, HealthCheck, Port};
use crate::problem::shown;
use crate::words;

pub(super) fn document(one: &One<'_>, common: CommonSettings, sink: &mut Sink) -> Option<AppDocument> {
    networks(one, sink);
    let CommonSettings { scale, placement, reserve, restart, update, stop } = common;
    let mut http: HttpSpec = one.wharf("http", sink).unwrap_or_default();
    let tcp = tcp(one, sink);
    health(one, tcp.is_some(), &mut http.health, sink);
    let mut outbound: OutboundSpec = one.wharf("outbound", sink).unwrap_or_default();
    if one.is_module() {
        network::reaches_nobody(one, sink);
    } else {
        outbound.allow.extend(network::grants(one, sink));
    }
    let (volumes, files) = mounts(one, sink);
    let (limits, memory) = limits(one, sink);
    let document = AppDocument {
        kind: AppKind::App,
        name: one.name.clone(),
        namespace: one.context.namespace.clone(),
        artifact: Some(artifact(one, sink)?),
        image: None,
        env: one.settings.environment.clone(),
        secrets: variables(one, "secrets", &one.settings.secrets, one.secrets, sink),
        configs: variables(one, "configs", &one.settings.configs, one.configs, sink),
        args: one.settings.command.clone().unwrap_or_default(),
        http,
        tcp: tcp.unwrap_or_default(),
        files,
        volumes,
        scale,
        placement,
        reserve,
        limits: LimitsSpec { memory: memory.unwrap_or(limits.memory), ..limits },
        restart,
        update,
        stop,
        outbound,
        names: network::own_names(one, sink),
        reuse: one.wharf("reuse", sink).unwrap_or_default(),
        engine: one.wharf("engine", sink).unwrap_or_default(),
        container: ContainerSpec::default(),
    };
    if let Err(error) = document.validate() {
        one.invalid(&error, sink);
    }
    Some(document)
}

fn artifact(one: &One<'_>, sink: &mut Sink) -> Option<ArtifactSource> {
    if let Some(platform) =
        one.settings.platform.as_deref().filter(|platform| !matches!(*platform, "wasi/wasm" | "wasi/wasm32"))
    {
        let message = format!("`{}`: components are `wasi/wasm`", shown(platform));
        sink.problem(one.place("platform"), message);
    }
    let Some(image) = one.settings.image.as_deref() else {
        sink.problem(
            &one.node.place,
            "`image` is needed: the path of a `.wasm` file, or the digest of a component",
        );
        return None;
    };
    if !image.ends_with(".wasm") && !image.starts_with("sha256:") {
        let message = format!(
            "`{}`: components are not taken from registries of images; name a `.wasm` file, or the digest of one that was pushed",
            shown(image)
        );
        sink.problem(one.place("image"), message);
        return None;
    }
    ArtifactSource::try_from(image.to_owned())
        .map_err(|message| sink.problem(one.place("image"), message))
        .ok()
}

fn networks(one: &One<'_>, sink: &mut Sink) {
    let mode = one.settings.network_mode.as_deref();
    if let Some(mode) = mode.filter(|mode| !matches!(*mode, "none" | "bridge" | "default")) {
        let message = format!(
            "`{}`: a guest shares no network with its node or with others; list what it reaches in `x-wharf.outbound`",
            shown(mode)
        );
        sink.problem(one.place("network_mode"), message);
    }
    for (network, attachment) in &one.settings.networks {
        let top = one.project.networks.get(network);
        // Where no container is in it, the table of keys says so.
        if top.is_some_and(|top| top.internal) && one.networks.has_container(network) {
            let message =
                "`internal`: a guest reaches nothing outside but what is granted, with or without it";
            sink.notice(one.place(&format!("networks.{network}")), message);
        }
        if top.is_some_and(|top| top.external) && !one.is_module() {
            let message = "the network has services of others, too: list what the guest reaches of them in `x-wharf.outbound`";
            sink.notice(one.place(&format!("networks.{network}")), message);
        }
        if !attachment.aliases.is_empty() {
            let message = format!(
                "`aliases`: the app is known by its name only; others ask `http://{}.internal`",
                one.name
            );
            sink.notice(one.place(&format!("networks.{network}.aliases")), message);
        }
    }
}

/// The ports of a command that listens; None: requests come over HTTP.
fn tcp(one: &One<'_>, sink: &mut Sink) -> Option<TcpSpec> {
    let listens: Option<TcpSpec> = one.wharf("tcp", sink);
    for (index, port) in one.settings.ports.iter().enumerate() {
        let place = one.item("ports", index).clone();
        if port.protocol != "tcp" {
            sink.problem(
                &place,
                format!("`{}`: a Wasm app takes HTTP requests and TCP connections only", port.protocol),
            );
        }
        if let Err(message) = refuse_address(port) {
            sink.problem(&place, message);
        }
        if listens.is_none() {
            let port = port.published.as_deref().unwrap_or("a port");
            let message = format!(
                "requests come through the front door, by hostname, and not at {}; `x-wharf.http.routes` adds hostnames, and a \
                 command that listens has `x-wharf.tcp: {{}}`",
                shown(port)
            );
            sink.notice(&place, message);
        }
    }
    let mut spec = listens?;
    if one.settings.wharf.contains_key("http") {
        sink.problem(
            one.place("x-wharf.http"),
            "an app takes either requests or connections; leave `http` or `tcp` out",
        );
    }
    for (index, port) in one.settings.ports.iter().enumerate() {
        let place = one.item("ports", index);
        match published(port) {
            Ok(public) => {
                sink.notice(place, told_by(port, public));
                if !spec.ports.contains(&public) {
                    spec.ports.push(public);
                }
            }
            Err(message) => sink.problem(place, message),
        }
    }
    Some(spec)
}

fn told_by(port: &Port, public: u16) -> String {
    let Port { target, app_protocol, mode, .. } = port;
    let protocol =
        app_protocol.as_ref().map(|protocol| format!(" for {}", shown(protocol))).unwrap_or_default();
    let where_from = if mode == "host" { "; it is public at every front door" } else { "" };
    format!(
        "the guest is told by `PORT`, or `PORT_{public}` where there are several, where to listen, and not at \
         {target}{protocol}{where_from}"
    )
}

/// A check over HTTP, made of the command that would ask the same.
fn health(one: &One<'_>, listens: bool, spec: &mut HealthSpec, sink: &mut Sink) {
    let Some(check) = &one.settings.healthcheck else { return };
    let HealthCheck { disable, interval, retries, start_interval, start_period: _, test, timeout } = check;
    let place = one.place("healthcheck.test");
    if *disable || test.first().is_some_and(|word| word == "NONE") {
        sink.notice(
            one.place("healthcheck"),
            "an app is asked for nothing but an answer below 500, or a connection",
        );
        return;
    }
    if listens {
        let message =
            "`healthcheck`: a command that listens is ready when each of its ports takes a connection";
        sink.notice(one.place("healthcheck"), message);
        return;
    }
    spec.period = interval.unwrap_or(spec.period);
    spec.timeout = timeout.unwrap_or(spec.timeout);
    spec.startup_period = start_interval.unwrap_or(spec.startup_period);
    if let Some(retries) = retries {
        match u32::try_from(*retries) {
            Ok(retries) => spec.threshold = retries,
            Err(_) => {
                sink.problem(one.place("healthcheck.retries"), format!("{retries} is not a number of tries"))
            }
        }
    }
    if test.is_empty() {
        return;
    }
    match (path_of(test), &spec.path) {
        (_, Some(path)) => {
            sink.notice(place, format!("`test`: the app is asked for `{path}`, as `x-wharf.http` says"))
        }
        (Some(path), None) => {
            sink.notice(
                place,
                format!("`test`: the platform asks for `{path}` itself; nothing runs beside a guest"),
            );
            spec.path = Some(path);
        }
        (None, None) => {
            let message = "`test`: nothing runs beside a guest; write the path that is asked for, \
                           `x-wharf: {http: {health: {path: /healthz}}}`, or `disable: true`";
            sink.problem(place, message);
        }
    }
}

/// The path that a command such as `curl -f http://localhost:8080/healthz || exit 1` asks for.
fn path_of(test: &[String]) -> Option<String> {
    let words: Vec<String> = match test {
        [how, line] if how == "CMD-SHELL" => words::split(line)?,
        [how, words @ ..] if how == "CMD" => words.to_vec(),
        _ => return None,
    };
    let asks = words.first().is_some_and(|program| {
        matches!(program.rsplit('/').next(), Some("curl" | "wget" | "http" | "https" | "wget2"))
    });
    let path = |word: &String| {
        let rest = word.strip_prefix("http://").or_else(|| word.strip_prefix("https://"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let is_local = matches!(host, "localhost" | "127.0.0.1" | "0.0.0.0" | "[::1]");
        is_local.then(|| if path.is_empty() { "/".to_owned() } else { path.to_owned() })
    };
    words.iter().find_map(path).filter(|_| asks)
}

/// Secrets and configs as variables: a guest has no files of them.
fn variables(
    one: &One<'_>,
    list: &str,
    grants: &[FileGrant],
    values: &[NamedValue],
    sink: &mut Sink,
) -> BTreeMap<String, SecretName> {
    let mut variables = BTreeMap::new();
    for (index, grant) in grants.iter().enumerate() {
        let Some(value) = values.iter().find(|value| value.key == grant.source) else { continue };
        let file = grant.target.rsplit('/').next().unwrap_or_default();
        let variable = variable_of(file);
        let place = one.item(list, index).clone();
        let message = format!(
            "the guest gets `{}` as the variable `{variable}`, and not as a file",
            shown(&grant.source)
        );
        sink.notice(&place, message);
        let path = if list == "secrets" { format!("/run/secrets/{file}") } else { grant.target.clone() };
        for (name, _) in one.settings.environment.iter().filter(|(_, value)| **value == path) {
            let message = format!(
                "there is no file `{}` for a guest to read; the value is in `{variable}`",
                shown(&path)
            );
            sink.notice(one.place(&format!("environment.{name}")), message);
        }
        if variables.insert(variable.clone(), value.name.clone()).is_some() {
            sink.problem(
                &place,
                format!("there are two values for the variable `{variable}`; give one another `target`"),
            );
        }
    }
    variables
}

/// Volumes, and the files that the app is shipped with.
fn mounts(one: &One<'_>, sink: &mut Sink) -> (Vec<VolumeSpec>, Option<FilesSource>) {
    let (mut made, mut files) = (Vec::new(), None);
    for (index, mount) in one.settings.volumes.iter().enumerate() {
        let place = one.item("volumes", index).clone();
        let source = mount.source.as_deref().unwrap_or_default();
        match mount.kind.as_str() {
            "volume" => match volumes::of_mount(one, mount) {
                Ok((spec, notice)) => {
                    notice.into_iter().for_each(|notice| sink.notice(&place, notice));
                    made.push(spec);
                }
                Err(message) => sink.problem(&place, message),
            },
            "bind" if !mount.read_only => {
                let message = format!(
                    "`{}`: a guest writes to no folder of its node; use a volume, or add `:ro` to ship the files with the app",
                    shown(source)
                );
                sink.problem(&place, message);
            }
            "bind" if source.starts_with(['/', '~']) => {
                let message = format!(
                    "`{}`: a guest sees no folder of its node; name one of the project, which is shipped with the app",
                    shown(source)
                );
                sink.problem(&place, message);
            }
            "bind" if files.is_some() => {
                sink.problem(
                    &place,
                    "one folder is shipped with an app, and there is one already; put them into one",
                );
            }
            "bind" => {
                let message = format!(
                    "the files of `{}` are shipped with the app; changed ones need a deploy",
                    shown(source)
                );
                sink.notice(&place, message);
                files = Some(FilesSource {
                    path: Some(source.to_owned()),
                    digest: None,
                    mount: mount.target.clone(),
                });
            }
            other => {
                let message = format!(
                    "`{}`: a guest has volumes and shipped files only; give it a volume",
                    shown(other)
                );
                sink.problem(&place, message);
            }
        }
    }
    (made, files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_asks_over_http_names_a_path() {
        for (test, path) in [
            (vec!["CMD", "curl", "-f", "http://localhost:8080/healthz"], Some("/healthz")),
            (vec!["CMD-SHELL", "curl -f http://127.0.0.1 || exit 1"], Some("/")),
            (vec!["CMD-SHELL", "/usr/bin/wget -q --spider 'http://[::1]:80/a?b=c'"], Some("/a?b=c")),
            (vec!["CMD", "curl", "http://example.com/"], None),
            (vec!["CMD", "pg_isready"], None),
            (vec!["CMD", "echo", "http://localhost/"], None),
            (vec!["NONE"], None),
        ] {
            let words: Vec<String> = test.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(path_of(&words).as_deref(), path, "{test:?}");
        }
    }
}
