//! `securityContext` of a pod and of its container, which goes before the pod's.

use wharf_compose::problem::shown;
use wharf_types::spec::ContainerSpec;

use crate::at::At;
use crate::finding::Sink;
use crate::workload::Workload;

pub(crate) fn settle(workload: &Workload<'_>, spec: &mut ContainerSpec, sink: &mut Sink) {
    let contexts: Vec<At<'_>> =
        [&workload.container, &workload.pod].into_iter().filter_map(|at| at.get("securityContext")).collect();
    user(&contexts, spec, sink);
    for context in &contexts {
        profiles(context, sink);
    }
    if let Some(context) = workload.container.get("securityContext") {
        privileges(&context, spec, sink);
    }
    if let Some(context) = workload.pod.get("securityContext") {
        groups(&context, spec, sink);
        for item in context.items("sysctls") {
            spec.sysctls
                .insert(item.text_or_empty("name").to_owned(), item.text_or_empty("value").to_owned());
        }
    }
    if workload.pod.flag("hostUsers") == Some(false) {
        let message = "a container has the users of its node; leave it out";
        sink.refuse(&workload.pod.near("hostUsers"), message);
    }
    spec.host_network = workload.pod.flag("hostNetwork").unwrap_or_default();
}

/// The first of the contexts that says something counts, for each of the two.
fn user(contexts: &[At<'_>], spec: &mut ContainerSpec, sink: &mut Sink) {
    let mut first = |field: &str| {
        let mut found = None;
        for context in contexts {
            let Some(number) = context.int(field) else { continue };
            let id = u32::try_from(number).ok();
            if id.is_none() {
                sink.refuse(&context.near(field), "it is not the number of a user or a group");
            }
            found = found.or(id);
        }
        found
    };
    let (user, group) = (first("runAsUser"), first("runAsGroup"));
    spec.user = match (user, group) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        (None, Some(_)) => {
            let context = contexts.iter().find(|context| context.get("runAsGroup").is_some());
            if let Some(context) = context {
                sink.refuse(
                    &context.near("runAsGroup"),
                    "a group stands beside a user; write `runAsUser` as well",
                );
            }
            None
        }
        (None, None) => None,
    };
    for context in contexts.iter().filter(|context| context.flag("runAsNonRoot") == Some(true)) {
        match user {
            Some(0) => sink.refuse(&context.near("runAsNonRoot"), "`runAsUser` is 0; write another one"),
            Some(_) => {}
            None => {
                let message =
                    "nobody looks whether the user of the image is root; write `runAsUser` to be sure";
                sink.notice(&context.near("runAsNonRoot"), message);
            }
        }
    }
}

fn groups(context: &At<'_>, spec: &mut ContainerSpec, sink: &mut Sink) {
    for item in context.items("supplementalGroups") {
        match item.word().parse::<u32>() {
            Ok(group) => spec.groups.push(group.to_string()),
            Err(_) => sink.refuse(&item, "it is not the number of a group"),
        }
    }
    let Some(group) = context.text("fsGroup") else { return };
    if !spec.groups.iter().any(|known| known == group) {
        spec.groups.push(group.to_owned());
    }
    let message = "it is a further group of the container, and that of files of configs and secrets; nothing changes the owner of what \
                   is in a volume";
    sink.notice(&context.near("fsGroup"), message);
}

/// What confines system calls is the engine's, unless somebody asks for something else.
fn profiles(context: &At<'_>, sink: &mut Sink) {
    for field in ["seccompProfile", "appArmorProfile"] {
        let Some(profile) = context.get(field) else { continue };
        match profile.text("type") {
            None | Some("RuntimeDefault") => {}
            Some(other) => {
                let message =
                    format!("`{}`: a container has the profile of its engine; leave it out", shown(other));
                sink.refuse(&profile.near("type"), message);
            }
        }
    }
}

fn privileges(context: &At<'_>, spec: &mut ContainerSpec, sink: &mut Sink) {
    spec.privileged = context.flag("privileged").unwrap_or_default();
    spec.new_privileges = context.flag("allowPrivilegeEscalation").unwrap_or_default();
    spec.read_only = context.flag("readOnlyRootFilesystem").unwrap_or_default();
    if context.text("procMount") == Some("Unmasked") {
        sink.refuse(&context.near("procMount"), "what the engine masks stays masked; leave it out");
    }
    let names = |path: &str| -> Vec<String> {
        let bare = |name: &str| name.strip_prefix("CAP_").unwrap_or(name).to_ascii_uppercase();
        context.texts(path).into_iter().map(bare).collect()
    };
    spec.capabilities_add = names("capabilities.add");
    spec.capabilities_drop = names("capabilities.drop");
}

/// What of the container only some namespaces may have.
pub(crate) fn tell_reach(workload: &Workload<'_>, spec: &ContainerSpec, sink: &mut Sink) {
    let asked = spec.reaches_node();
    if asked.is_empty() {
        return;
    }
    let at = |name: &str| match name {
        "host_network" => workload.pod.near("hostNetwork"),
        "host_paths" => workload.pod.near("volumes"),
        "sysctls" => workload.pod.near("securityContext.sysctls"),
        "privileged" => workload.container.near("securityContext.privileged"),
        _ => workload.container.near("securityContext.capabilities.add"),
    };
    for name in asked {
        let message = format!(
            "`{name}` of a container: only where the cluster's admin allows the namespace to reach the node itself"
        );
        sink.notice(&at(name), message);
    }
}
