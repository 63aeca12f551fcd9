//! Services: the names and public ports of the apps that they choose.

use std::collections::{BTreeMap, BTreeSet};

use wharf_compose::problem::shown;
use wharf_types::spec::PORT_MIN;

use crate::at::{At, Manifest};
use crate::finding::Sink;
use crate::kind::Kind;
use crate::labels::{has_all, labels};
use crate::quantity::port;
use crate::review::{column, review};
use crate::workload::Workload;

/// How an app is reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    pub(crate) aliases: BTreeSet<String>,
    /// The port of the container that answers requests.
    pub(crate) http: Option<u16>,
    /// Ports of the container by their public ones.
    pub(crate) tcp: BTreeMap<u16, u16>,
    pub(crate) routes: Vec<String>,
}

impl Reach {
    /// What another manifest may add to it.
    pub(crate) fn draft(&self) -> Self {
        Self { http: self.http, ..Self::default() }
    }

    pub(crate) fn add(&mut self, draft: Self) {
        let Self { aliases, http, tcp, routes } = draft;
        self.aliases.extend(aliases);
        self.http = http;
        self.tcp.extend(tcp);
        self.routes.extend(routes);
    }

    /// One port of an app answers requests.
    pub(crate) fn answer_at(&mut self, at: &At<'_>, port: u16, sink: &mut Sink) {
        match self.http {
            Some(other) if other != port => {
                let message =
                    format!("the app answers requests at {other} already, and has one such port only");
                sink.refuse(at, message);
            }
            _ => self.http = Some(port),
        }
    }
}

/// What a Service leads to.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    /// Which workload.
    pub(crate) workload: usize,
    pub(crate) ports: Ports<'a>,
}

/// Ports of a container, by the names and the numbers that a Service has for them.
#[derive(Debug, Default)]
pub(crate) struct Ports<'a> {
    pub(crate) by_name: BTreeMap<&'a str, u16>,
    pub(crate) by_number: BTreeMap<i64, u16>,
}

pub(crate) type Targets<'a> = BTreeMap<(Option<&'a str>, &'a str), Target<'a>>;

pub(crate) struct Services<'a, 'b> {
    pub(crate) workloads: &'b [Workload<'a>],
    /// Which workloads have a label.
    by_label: BTreeMap<(Option<&'a str>, &'b str, &'b str), Vec<usize>>,
    names: BTreeSet<(Option<&'a str>, &'b str)>,
}

impl<'a, 'b> Services<'a, 'b> {
    pub(crate) fn new(workloads: &'b [Workload<'a>]) -> Self {
        let (mut by_label, mut names) = (BTreeMap::<_, Vec<usize>>::new(), BTreeSet::new());
        for (index, workload) in workloads.iter().enumerate() {
            let namespace = workload.manifest.namespace.as_deref();
            names.insert((namespace, workload.name.as_str()));
            for (name, value) in &workload.labels {
                by_label.entry((namespace, name.as_str(), value.as_str())).or_default().push(index);
            }
        }
        Self { workloads, by_label, names }
    }

    pub(crate) fn take(
        &self,
        manifests: &'a [Manifest],
        reach: &mut [Reach],
        sink: &mut Sink,
    ) -> Targets<'a> {
        let mut targets = Targets::new();
        for manifest in manifests.iter().filter(|manifest| manifest.kind == Kind::Service) {
            review(manifest, column(false), sink);
            let root = manifest.root();
            let Some(spec) = root.get("spec") else {
                sink.refuse(&root, "`spec` is needed");
                continue;
            };
            if spec.text("type") == Some("ExternalName") {
                sink.refuse(
                    &spec.near("type"),
                    "a name stands for apps only; give those who call it the other name instead",
                );
                continue;
            }
            let Some(workload) = self.chosen(&spec, sink) else { continue };
            let mut reached = reach[workload].draft();
            self.name(manifest, workload, &mut reached, sink);
            let ports = self.ports(&spec, &self.workloads[workload], (&reach[workload], &mut reached), sink);
            settings(&spec, sink);
            // One that is refused leaves its app as if it were not there.
            if !sink.is_refused(manifest.number) {
                reach[workload].add(reached);
                let name = (manifest.namespace.as_deref(), manifest.name.as_str());
                targets.insert(name, Target { workload, ports });
            }
        }
        targets
    }

    /// The one workload whose pods have all labels of the selector.
    fn chosen(&self, spec: &At<'_>, sink: &mut Sink) -> Option<usize> {
        let wanted = labels(spec, "selector");
        let at = spec.near("selector");
        let Some((name, value)) = wanted.first_key_value() else {
            sink.refuse(&at, "a Service needs a selector: a name stands for an app, and not for addresses");
            return None;
        };
        let namespace = spec.manifest.namespace.as_deref();
        let key = (namespace, name.as_str(), value.as_str());
        let with_first = self.by_label.get(&key).map(Vec::as_slice).unwrap_or_default();
        let chosen: Vec<usize> = with_first
            .iter()
            .copied()
            .filter(|index| has_all(&self.workloads[*index].labels, &wanted))
            .collect();
        match chosen[..] {
            [] => {
                let message = "no app of these files has these labels; import the Service together with what it chooses";
                sink.refuse(&at, message);
                None
            }
            [one] => Some(one),
            [one, other, ..] => {
                let subject = |index: usize| self.workloads[index].manifest.subject();
                let message = format!(
                    "it chooses several, {} and {} among them, and a name belongs to one app; a trial of a release is `canary` below `update`",
                    subject(one),
                    subject(other)
                );
                sink.refuse(&at, message);
                None
            }
        }
    }

    fn name(&self, manifest: &Manifest, workload: usize, reach: &mut Reach, sink: &mut Sink) {
        let app = &self.workloads[workload];
        let at = manifest.root().near("metadata.name");
        if manifest.name == app.name.as_str() {
            return;
        }
        if self.names.contains(&(manifest.namespace.as_deref(), manifest.name.as_str())) {
            let message = format!(
                "an app is called so, and this would be another name of `{}`; rename one of them",
                app.name
            );
            sink.refuse(&at, message);
        } else if app.is_wasm {
            let message =
                format!("a component has no second name; others ask `http://{}.internal`", app.name);
            sink.notice(&at, message);
        } else {
            let message =
                format!("it is another name of the app `{}`, for containers of its namespace", app.name);
            sink.notice(&at, message);
            reach.aliases.insert(manifest.name.clone());
        }
    }

    /// Adds to what the app is reached by after the Services before this one.
    fn ports(
        &self,
        spec: &At<'a>,
        app: &Workload<'_>,
        (before, reach): (&Reach, &mut Reach),
        sink: &mut Sink,
    ) -> Ports<'a> {
        let kind = spec.text("type").unwrap_or("ClusterIP");
        let mut found = Ports::default();
        for item in spec.items("ports") {
            let Some(number) = port(&item, "port", sink) else {
                item.get("port").is_none().then(|| sink.refuse(&item, "`port` is needed"));
                continue;
            };
            let target = match item.get("targetPort") {
                Some(target) => app.port(&target, sink),
                None => Some(number),
            };
            let Some(target) = target else { continue };
            let name = item.text_or_empty("name");
            let takes_connections = item.text("protocol").unwrap_or("TCP") == "TCP";
            if !name.is_empty() {
                found.by_name.insert(name, target);
            }
            found.by_number.insert(i64::from(number), target);
            if kind != "ClusterIP" && !takes_connections {
                sink.refuse(&item, "public ports take connections of TCP only; leave the port out");
            } else if kind != "ClusterIP" {
                publish(&item, (kind, number, target), app, (before, reach), sink);
            } else if app.is_wasm {
                let message = format!("others ask `http://{}.internal`, and no port", app.name);
                sink.notice(&item.near("port"), message);
            } else if number != target {
                let message = format!(
                    "others reach the app at {target}, where the container listens, and not at {number}"
                );
                sink.notice(&item.near("port"), message);
            }
            if kind == "ClusterIP" && item.get("nodePort").is_some() {
                sink.notice(&item.near("nodePort"), "a Service of the type `ClusterIP` has no public port");
            }
            item.near("appProtocol").see();
        }
        found
    }
}

/// A port that the world reaches.
fn publish(
    item: &At<'_>,
    (kind, number, target): (&str, u16, u16),
    app: &Workload<'_>,
    (before, reach): (&Reach, &mut Reach),
    sink: &mut Sink,
) {
    let (name, protocol) = (item.text_or_empty("name"), item.text_or_empty("appProtocol"));
    let is_http = matches!(protocol, "http" | "kubernetes.io/h2c" | "kubernetes.io/ws")
        || (protocol.is_empty()
            && ((name.starts_with("http") && !name.starts_with("https")) || number == 80));
    let wanted = port(item, "nodePort", sink);
    if is_http {
        let message = "requests come through the front door, by the hostname of the app, and not at a port of their own";
        sink.notice(item, message);
        if !app.is_wasm {
            reach.answer_at(item, target, sink);
        }
        return;
    }
    let public = if kind == "NodePort" { wanted.unwrap_or(number) } else { number };
    if public < PORT_MIN {
        let message = format!(
            "public ports begin at {PORT_MIN}, and this is {public}; write another one, or `appProtocol: http` if it answers requests"
        );
        sink.refuse(item, message);
        return;
    }
    let known = before.tcp.get(&public).or_else(|| reach.tcp.get(&public));
    if known.is_some_and(|known| *known != target) {
        let message = format!("the port {public} is public already, and leads to another port of the app");
        sink.refuse(item, message);
        return;
    }
    if kind == "NodePort" && wanted.is_none() {
        sink.notice(item, format!("the platform chooses no ports; it is public at {public}"));
    } else if kind == "LoadBalancer" && wanted.is_some() {
        sink.notice(&item.near("nodePort"), format!("it is public at {public} only"));
    }
    if app.is_wasm {
        let message = format!(
            "the guest is told by `PORT`, or `PORT_{public}` where there are several, where to listen"
        );
        sink.notice(item, message);
    }
    reach.tcp.insert(public, target);
}

fn settings(spec: &At<'_>, sink: &mut Sink) {
    if spec.text("sessionAffinity") == Some("ClientIP") {
        let message = "a client is led to any instance; keep what belongs to it elsewhere, and leave it out";
        sink.refuse(&spec.near("sessionAffinity"), message);
    }
    match spec.text("clusterIP") {
        None | Some("None" | "") => {}
        Some(_) => {
            let message = "addresses are chosen by the platform; the app is reached by its names";
            sink.notice(&spec.near("clusterIP"), message);
        }
    }
}

/// Words of a Service for a message.
pub(crate) fn service_words(name: &str) -> String {
    format!("the Service `{}`", shown(name))
}
