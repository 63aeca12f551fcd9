//! A Deployment, a StatefulSet or a DaemonSet as an app.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use wharf_compose::problem::shown;
use wharf_types::declare::compact_spec;
use wharf_types::image::ImageReference;
use wharf_types::spec::{
    AppSpec, ContainerHealthSpec, ContainerSpec, InvalidSpec, Replicas, ScaleSpec, TcpSpec,
};
use wharf_types::world::World;

use crate::at::At;
use crate::claims::Claims;
use crate::finding::Sink;
use crate::kind::Kind;
use crate::labels::chooses;
use crate::mounts::Mounter;
use crate::placement::placement;
use crate::probes::checks;
use crate::quantity::{count, seconds};
use crate::resources::{memory, resources};
use crate::security;
use crate::service::Reach;
use crate::update::update;
use crate::values::Values;
use crate::variables::{Variable, Variables, all_expanded, variables};
use crate::workload::Workload;

/// What all apps of a namespace are in, where one of them needs another name: names are those of a network.
const NETWORK: &str = "default";

/// What apps are made of, beside their own manifest.
pub(crate) struct Around<'b> {
    pub(crate) values: &'b mut Values,
    pub(crate) claims: &'b mut Claims,
    /// Whether some container of the namespace has a second name.
    pub(crate) is_named: bool,
}

/// The document of the app.
pub(crate) fn document(
    workload: &Workload<'_>,
    mut reach: Reach,
    around: Around<'_>,
    sink: &mut Sink,
) -> Map<String, Value> {
    let root = workload.manifest.root();
    let spec_at = root.near("spec");
    own_labels(workload, &spec_at, sink);
    let replicas = replicas(workload, &spec_at, sink);
    let mut known = variables(workload, around.values, sink);
    let command = all_expanded(&workload.container, "command", &known, sink);
    let args = all_expanded(&workload.container, "args", &known, sink);
    let mounts = Mounter::new(workload, (around.values, around.claims), &mut known, sink).run();
    let checks = checks(workload, &mut reach, sink);
    let (requests, limits) = resources(workload, sink);
    let mut spec = AppSpec {
        args,
        volumes: mounts.volumes,
        placement: placement(workload, sink),
        update: update(workload, &spec_at, sink),
        ..AppSpec::default()
    };
    spec.http.routes = reach.routes;
    spec.http.health = checks.http;
    spec.tcp = TcpSpec { ports: reach.tcp.keys().copied().collect(), proxy_protocol: false };
    (spec.reserve.memory, spec.reserve.cpu) = (requests.memory, requests.cpu);
    if let Some(grace) = seconds(&workload.pod, "terminationGracePeriodSeconds", 0, sink) {
        spec.stop.drain = grace;
    }
    let is_global = workload.manifest.kind == Kind::DaemonSet;
    spec.scale = ScaleSpec {
        replicas: if is_global { Replicas::GLOBAL } else { replicas.unwrap_or(1).into() },
        singleton: workload.manifest.kind == Kind::StatefulSet,
    };
    set_variables(known, &mut spec);
    pod_settings(workload, sink);
    let mut document = head(workload);
    if workload.is_wasm {
        artifact(workload, &mut document, sink);
        let usual = spec.limits.memory;
        spec.limits.memory = limits.memory.unwrap_or(requests.memory.map_or(usual, |asked| asked.max(usual)));
    } else {
        image(workload, &mut document, sink);
        spec.limits.memory = memory(workload, &requests, &limits, sink);
        let container = ContainerSpec {
            http_port: reach.http,
            tcp: reach.tcp.into_iter().filter(|(public, target)| public != target).collect(),
            entrypoint: Some(command).filter(|command| !command.is_empty()),
            tmpfs: mounts.tmpfs,
            cpus: limits.cpu,
            disk_max: limits.disk,
            health: checks.command,
            files: mounts.files,
            host_paths: mounts.host_paths,
            ..ContainerSpec::default()
        };
        spec.container = completed(workload, container, &reach.aliases, around.is_named, sink);
    }
    check(workload, &spec, sink);
    document.extend(compact(&spec));
    if replicas.is_some() {
        let scale = document.entry("scale").or_insert_with(|| json!({}));
        scale["replicas"] = json!(replicas);
    }
    document
}

/// What the app is called, and where it is.
fn head(workload: &Workload<'_>) -> Map<String, Value> {
    let mut document = Map::new();
    document.insert("kind".to_owned(), "app".into());
    document.insert("name".to_owned(), workload.name.as_str().into());
    if let Some(namespace) = &workload.manifest.namespace {
        document.insert("namespace".to_owned(), namespace.as_str().into());
    }
    document
}

/// The container with what the pod says of it.
pub(crate) fn completed(
    workload: &Workload<'_>,
    mut spec: ContainerSpec,
    aliases: &BTreeSet<String>,
    is_named: bool,
    sink: &mut Sink,
) -> ContainerSpec {
    spec.workdir = workload.container.text("workingDir").map(str::to_owned);
    spec.hostname = workload.pod.text("hostname").map(str::to_owned);
    spec.labels = workload.labels.clone();
    names(workload, aliases, is_named, &mut spec, sink);
    security::settle(workload, &mut spec, sink);
    stop(workload, &mut spec, sink);
    security::tell_reach(workload, &spec, sink);
    spec
}

/// A selector that chooses other pods than those of its template is a mistake.
fn own_labels(workload: &Workload<'_>, spec: &At<'_>, sink: &mut Sink) {
    let Some(selector) = spec.get("selector") else { return };
    if !chooses(&selector, &workload.labels, sink) {
        sink.refuse(&selector, "it does not choose the labels of the template");
    }
    selector.tell();
}

fn replicas(workload: &Workload<'_>, spec: &At<'_>, sink: &mut Sink) -> Option<u32> {
    let replicas = count(spec, "replicas", 0, sink);
    if workload.manifest.kind == Kind::StatefulSet && replicas.is_some_and(|replicas| replicas > 1) {
        let message = "instances of an app have neither names nor volumes of their own, so there can be one; write a manifest for each, \
                       or a Deployment if they need neither";
        sink.refuse(&spec.near("replicas"), message);
        return None;
    }
    replicas
}

fn set_variables(known: Variables, spec: &mut AppSpec) {
    for (name, variable) in known {
        match variable {
            Variable::Plain(text) => drop(spec.env.insert(name, text)),
            Variable::Secret(secret) => drop(spec.secrets.insert(name, secret)),
            Variable::Config(config, _) => drop(spec.configs.insert(name, config)),
        }
    }
}

/// What is honoured by being what the platform does anyway.
pub(crate) fn pod_settings(workload: &Workload<'_>, sink: &mut Sink) {
    let pod = &workload.pod;
    let is_job = matches!(workload.manifest.kind, Kind::Job | Kind::CronJob);
    if let Some(policy) = pod.text("restartPolicy").filter(|policy| !is_job && *policy != "Always") {
        let message = format!("`{policy}`: an app is restarted whenever it ends; what ends is a Job");
        sink.refuse(&pod.near("restartPolicy"), message);
    }
    if !is_job && pod.get("activeDeadlineSeconds").is_some() {
        sink.refuse(&pod.near("activeDeadlineSeconds"), "an app has no end; what ends is a Job");
    }
    if pod.text("os.name") == Some("windows") {
        sink.refuse(&pod.near("os.name"), "workers run on Linux");
    }
    match pod.text("runtimeClassName") {
        Some(runtime) if workload.is_wasm => {
            let message = format!("`{}`: components are run by the platform's own engine", shown(runtime));
            sink.notice(&pod.near("runtimeClassName"), message);
        }
        Some(_) => {
            let message = "containers are run by the engine of their node; leave it out";
            sink.refuse(&pod.near("runtimeClassName"), message);
        }
        None => {}
    }
}

/// The file of a component.
pub(crate) fn artifact(workload: &Workload<'_>, document: &mut Map<String, Value>, sink: &mut Sink) {
    let at = workload.container.near("image");
    let image = at.word();
    if !image.ends_with(".wasm") {
        let message =
            "components are not taken from registries of images; write the path of its `.wasm` file";
        return sink.refuse(&at, message);
    }
    let message = "it is a component, and a file beside the text; it reaches nothing but what `outbound.allow` lists, which is nothing yet";
    sink.notice(&at, message);
    document.insert("artifact".to_owned(), image.into());
}

pub(crate) fn image(workload: &Workload<'_>, document: &mut Map<String, Value>, sink: &mut Sink) {
    let Some(at) = workload.container.get("image") else {
        return sink.refuse(&workload.container, "`image` is needed");
    };
    if let Err(error) = at.word().parse::<ImageReference>() {
        return sink.refuse(&at, error.to_string());
    }
    document.insert("image".to_owned(), at.word().into());
}

/// Other names of the app, and names that are given to it.
fn names(
    workload: &Workload<'_>,
    aliases: &BTreeSet<String>,
    is_named: bool,
    spec: &mut ContainerSpec,
    sink: &mut Sink,
) {
    // With the network of its node it is in no other. One that needs a second name there is refused where all settings are checked.
    let has_own_network = workload.pod.flag("hostNetwork") != Some(true);
    if is_named && (has_own_network || !aliases.is_empty()) {
        spec.networks = BTreeMap::from([(NETWORK.to_owned(), aliases.iter().cloned().collect())]);
        let message = format!(
            "it is in the network `{NETWORK}` of its namespace, as all containers of these files are, so that names of Services are known"
        );
        sink.notice(&workload.manifest.root(), message);
    }
    for item in workload.pod.items("hostAliases") {
        for name in item.items("hostnames") {
            spec.extra_hosts.insert(name.word().to_owned(), item.text_or_empty("ip").to_owned());
        }
    }
    spec.dns = workload.pod.texts("dnsConfig.nameservers").into_iter().map(str::to_owned).collect();
    match workload.pod.text("dnsPolicy") {
        Some("None") if spec.dns.is_empty() => {
            sink.refuse(
                &workload.pod.near("dnsPolicy"),
                "nothing would resolve names; write `dnsConfig.nameservers`",
            );
        }
        Some("Default" | "ClusterFirstWithHostNet") => {
            sink.notice(
                &workload.pod.near("dnsPolicy"),
                "names of apps are known in any case, and others as on the node",
            );
        }
        _ => {}
    }
}

/// What happens before an instance is stopped.
fn stop(workload: &Workload<'_>, spec: &mut ContainerSpec, sink: &mut Sink) {
    spec.stop_signal = workload.container.text("lifecycle.stopSignal").map(str::to_owned);
    let Some(exec) = workload.container.get("lifecycle.preStop.exec") else { return };
    let command = exec.texts("command").join(" ");
    let line = command.trim_start_matches("/bin/").trim_start_matches("sh -c ");
    let is_wait =
        line.strip_prefix("sleep ").is_some_and(|rest| rest.trim().bytes().all(|b| b.is_ascii_digit()));
    if is_wait {
        sink.notice(
            &exec,
            "an instance is taken off its routes before it is stopped; there is nothing to wait for",
        );
    } else {
        sink.refuse(&exec, "nothing runs before an instance is stopped; let it do this on its signal");
    }
}

/// Checks what the settings are together.
fn check(workload: &Workload<'_>, spec: &AppSpec, sink: &mut Sink) {
    // Whether a component takes requests is not known here, so of one only what holds for all is asked.
    let of_container =
        || if workload.is_wasm { Ok(()) } else { spec.validate_for(World::Container.with(spec)) };
    if let Err(error) = spec.validate().and_then(|()| of_container()) {
        invalid(workload, &error, sink);
    }
}

/// Says what is wrong with a spec, where the manifest has what it comes from.
pub(crate) fn invalid(workload: &Workload<'_>, error: &InvalidSpec, sink: &mut Sink) {
    let (pod, container, root) = (&workload.pod, &workload.container, workload.manifest.root());
    let at = match error.field.split('.').next().unwrap_or_default() {
        "args" => container.near("args"),
        "env" | "secrets" | "configs" => container.near("env"),
        "limits" | "reserve" | "memory" => container.near("resources"),
        "placement" => pod.near("affinity"),
        "volumes" => container.near("volumeMounts"),
        "scale" => root.near("spec.replicas"),
        "stop" => pod.near("terminationGracePeriodSeconds"),
        "update" => root.near("spec.strategy"),
        _ => root,
    };
    sink.refuse(&at, error.to_string());
}

/// The settings that differ from their defaults, with those of a check by a command, which has defaults only where there is one.
fn compact(spec: &AppSpec) -> Map<String, Value> {
    let mut settings = compact_spec(spec);
    let health = settings.get_mut("container").and_then(|container| container.get_mut("health"));
    if let Some(Value::Object(health)) = health {
        let usual = serde_json::to_value(ContainerHealthSpec::default()).unwrap_or_default();
        health.retain(|key, value| usual.get(key) != Some(value));
    }
    settings
}
