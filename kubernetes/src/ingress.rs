//! Ingresses: hostnames and paths that lead to apps.

use std::collections::BTreeMap;

use wharf_types::route::RoutePattern;

use crate::at::{At, Manifest};
use crate::finding::Sink;
use crate::kind::Kind;
use crate::review::{column, review};
use crate::service::{Reach, Targets, service_words};
use crate::workload::Workload;

pub(crate) fn take(
    manifests: &[Manifest],
    workloads: &[Workload<'_>],
    targets: &Targets<'_>,
    reach: &mut [Reach],
    sink: &mut Sink,
) {
    for manifest in manifests.iter().filter(|manifest| manifest.kind == Kind::Ingress) {
        review(manifest, column(false), sink);
        annotations(&manifest.root(), sink);
        let mut reached: BTreeMap<usize, Reach> = BTreeMap::new();
        for rule in manifest.root().items("spec.rules") {
            for path in rule.items("http.paths") {
                let Some((workload, port)) = backend(&path, targets, sink) else { continue };
                let reached = reached.entry(workload).or_insert_with(|| reach[workload].draft());
                if !workloads[workload].is_wasm {
                    reached.answer_at(&path, port, sink);
                }
                reached.routes.extend(route(&rule, &path, &workloads[workload], sink));
            }
            if rule.get("http").is_none() {
                sink.refuse(&rule, "it leads nowhere; write `http.paths`");
            }
        }
        // One that is refused leaves its apps as if it were not there.
        if !sink.is_refused(manifest.number) {
            reached.into_iter().for_each(|(workload, reached)| reach[workload].add(reached));
        }
    }
}

/// What changes the answers of the front door of a cluster is not passed over.
fn annotations(root: &At<'_>, sink: &mut Sink) {
    for (name, at) in root.entries("metadata.annotations") {
        let prefix = name.split('/').next().unwrap_or_default();
        let is_setting = ["ingress", "traefik", "haproxy", "nginx", "konghq", "alb."]
            .iter()
            .any(|word| prefix.contains(word));
        if is_setting {
            let message = "the front door leads requests by hostname and path, and does nothing else to them; leave it out if the app \
                           can do without";
            sink.refuse(&at, message);
        } else {
            sink.notice(&at, "Wharf keeps no annotations; it is left out");
        }
    }
}

/// The workload and the port of its container.
fn backend(path: &At<'_>, targets: &Targets<'_>, sink: &mut Sink) -> Option<(usize, u16)> {
    let Some(service) = path.get("backend.service") else {
        if path.get("backend.resource").is_none() {
            sink.refuse(path, "`backend.service` is needed");
        }
        return None;
    };
    let name = service.text_or_empty("name");
    let at = service.near("name");
    let Some(target) = targets.get(&(path.manifest.namespace.as_deref(), name)) else {
        let message =
            format!("{} is not in these files, or was refused; import the two together", service_words(name));
        sink.refuse(&at, message);
        return None;
    };
    let (by_name, by_number) = (service.text("port.name"), service.int("port.number"));
    if by_name.is_some() && by_number.is_some() {
        sink.refuse(&service.near("port"), "`name` and `number` say it twice; write one of the two");
    }
    let found = by_name.and_then(|name| target.ports.by_name.get(name));
    match found.or_else(|| target.ports.by_number.get(&by_number?)) {
        Some(port) => Some((target.workload, *port)),
        None => {
            sink.refuse(&service.near("port"), format!("{} has no such port", service_words(name)));
            None
        }
    }
}

fn route(rule: &At<'_>, path: &At<'_>, app: &Workload<'_>, sink: &mut Sink) -> Option<String> {
    let (host, prefix) = (rule.text_or_empty("host"), path.text("path").unwrap_or("/"));
    match path.text("pathType") {
        Some("Exact") => {
            sink.notice(
                &path.near("pathType"),
                "what is below the path is led there as well; a route is a prefix",
            );
        }
        Some("ImplementationSpecific") => {
            sink.notice(&path.near("pathType"), "a route is a prefix of whole segments, as with `Prefix`");
        }
        _ => {}
    }
    if host.is_empty() {
        if prefix == "/" {
            let message =
                format!("without a `host` the app `{}` is reached at its own address only", app.name);
            sink.notice(rule, message);
        } else {
            sink.refuse(rule, "a route begins with a hostname; write a `host`");
        }
        return None;
    }
    let route =
        if prefix == "/" { host.to_owned() } else { format!("{host}{}", prefix.trim_end_matches('/')) };
    match route.parse::<RoutePattern>() {
        Ok(_) => Some(route),
        Err(error) => {
            let at = if path.get("path").is_some() && !host.contains('*') {
                path.near("path")
            } else {
                rule.near("host")
            };
            sink.refuse(&at, error.to_string());
            None
        }
    }
}
