//! On which nodes: `nodeSelector`, `affinity`, `topologySpreadConstraints`.

use wharf_compose::problem::shown;
use wharf_types::spec::PlacementSpec;

use crate::at::At;
use crate::finding::Sink;
use crate::labels::chooses;
use crate::workload::Workload;

const HOSTNAME: &str = "kubernetes.io/hostname";

pub(crate) fn placement(workload: &Workload<'_>, sink: &mut Sink) -> PlacementSpec {
    let mut spec = PlacementSpec::default();
    let pod = &workload.pod;
    for (key, at) in pod.entries("nodeSelector") {
        spec.constraints.push(format!("{} == {}", node_key(key), value(key, at.word())));
        tell_label(&at, key, sink);
    }
    if let Some(name) = pod.text("nodeName") {
        spec.constraints.push(format!("node.hostname == {}", value(HOSTNAME, name)));
    }
    required_nodes(pod, &mut spec, sink);
    anti_affinity(workload, &mut spec, sink);
    spread(workload, &mut spec, sink);
    spec
}

/// The platform's own word for what a node is known by.
fn node_key(label: &str) -> String {
    match label {
        "kubernetes.io/os" | "beta.kubernetes.io/os" => "node.platform.os".to_owned(),
        "kubernetes.io/arch" | "beta.kubernetes.io/arch" => "node.platform.arch".to_owned(),
        HOSTNAME => "node.hostname".to_owned(),
        other => format!("node.labels.{other}"),
    }
}

fn value(label: &str, value: &str) -> String {
    let value = match (node_key(label).as_str(), value) {
        ("node.platform.arch", "amd64") => "x86_64",
        ("node.platform.arch", "arm64") => "aarch64",
        (_, other) => other,
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+@".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) { value.to_owned() } else { format!("\"{value}\"") }
}

/// A label that a cluster gives its nodes, and Wharf does not.
fn tell_label(at: &At<'_>, label: &str, sink: &mut Sink) {
    if node_key(label).starts_with("node.labels.") {
        let message = format!(
            "nodes have the labels that somebody gives them: `wharf node label NODE {}=VALUE`",
            shown(label)
        );
        sink.notice(at, message);
    }
}

fn required_nodes(pod: &At<'_>, spec: &mut PlacementSpec, sink: &mut Sink) {
    let path = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let terms = pod.items(path);
    if terms.len() > 1 {
        let message = "several terms of which one is enough: constraints all have to hold; write one term, with all values in it";
        return sink.refuse(&terms[1], message);
    }
    for term in terms.iter().flat_map(|term| term.items("matchExpressions")) {
        let label = term.text_or_empty("key");
        let (key, values) = (node_key(label), term.texts("values"));
        let list = values.iter().map(|word| value(label, word)).collect::<Vec<_>>().join(", ");
        let constraint = match (term.text_or_empty("operator"), &values[..]) {
            ("In", [one]) => format!("{key} == {}", value(label, one)),
            ("NotIn", [one]) => format!("{key} != {}", value(label, one)),
            ("In", [_, ..]) => format!("{key} in ({list})"),
            ("NotIn", [_, ..]) => format!("{key} not in ({list})"),
            ("Gt", [one]) => format!("{key} > {one}"),
            ("Lt", [one]) => format!("{key} < {one}"),
            (other, _) => {
                let message = format!(
                    "`{}`: a constraint compares with a value; write `In` or `NotIn` with values",
                    shown(other)
                );
                sink.refuse(&term, message);
                continue;
            }
        };
        spec.constraints.push(constraint);
        tell_label(&term, label, sink);
    }
}

/// Instances that keep away from each other.
fn anti_affinity(workload: &Workload<'_>, spec: &mut PlacementSpec, sink: &mut Sink) {
    let pod = &workload.pod;
    for term in pod.items("affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution") {
        let is_own = is_own(workload, &term, sink);
        let is_by_node = term.text("topologyKey") == Some(HOSTNAME);
        if is_own && is_by_node {
            term.tell();
            spec.max_per_node = Some(1);
        } else if is_own {
            let message = "at most one instance is asked for on a node only, by the label `kubernetes.io/hostname`; write it as a wish";
            sink.refuse(&term, message);
        } else {
            sink.refuse(&term, "apps do not keep away from each other; choose their nodes by a label");
        }
    }
    for wish in pod.items("affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution") {
        wish.near("weight").see();
        let term = wish.near("podAffinityTerm");
        if is_own(workload, &term, sink) {
            spread_over(&term, spec, sink);
            term.tell();
        } else {
            wish.tell();
            sink.notice(&wish, "apps do not keep away from each other; the wish is left out");
        }
    }
}

/// Whether a selector means the instances of the app itself.
fn is_own(workload: &Workload<'_>, term: &At<'_>, sink: &mut Sink) -> bool {
    let Some(selector) = term.get("labelSelector") else { return false };
    !selector.node.says_nothing() && chooses(&selector, &workload.labels, sink)
}

fn spread(workload: &Workload<'_>, spec: &mut PlacementSpec, sink: &mut Sink) {
    for term in workload.pod.items("topologySpreadConstraints") {
        if !is_own(workload, &term, sink) {
            sink.refuse(
                &term,
                "instances of an app are spread, and not of several; let the selector choose its own labels",
            );
            continue;
        }
        spread_over(&term, spec, sink);
        if term.text("whenUnsatisfiable").unwrap_or("DoNotSchedule") == "DoNotSchedule" {
            let message = "instances are spread as evenly as there is room, and none waits for that";
            sink.notice(&term.near("whenUnsatisfiable"), message);
        }
        if term.int("maxSkew").is_some_and(|skew| skew != 1) {
            sink.notice(
                &term.near("maxSkew"),
                "instances are spread as evenly as there is room: 1, if possible",
            );
        }
    }
}

fn spread_over(term: &At<'_>, spec: &mut PlacementSpec, sink: &mut Sink) {
    let key = term.text_or_empty("topologyKey");
    // Over nodes they are spread in any case.
    if key == HOSTNAME || spec.spread.iter().any(|known| known == key) {
        return;
    }
    if key.is_empty() {
        return sink.refuse(term, "`topologyKey` is needed");
    }
    spec.spread.push(key.to_owned());
    tell_label(&term.near("topologyKey"), key, sink);
}
