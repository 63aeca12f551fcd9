//! A manifest that makes pods, as the others see it: what it is called, which labels its pods have, where they listen.

use std::collections::BTreeMap;

use wharf_types::name::AppName;

use crate::at::{At, Manifest};
use crate::finding::Sink;
use crate::labels::{Labels, labels};
use crate::quantity::port;
use crate::review::{column, review};

/// Names of what runs components in the place of images.
const RUNTIMES: [&str; 8] = ["wasm", "spin", "slight", "lunatic", "wws", "wasi", "wasmer", "crun-wasm"];

#[derive(Debug)]
pub(crate) struct Workload<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) template: At<'a>,
    pub(crate) pod: At<'a>,
    pub(crate) container: At<'a>,
    pub(crate) name: AppName,
    pub(crate) is_wasm: bool,
    pub(crate) labels: Labels,
    /// Ports that have a name.
    pub(crate) ports: BTreeMap<&'a str, u16>,
}

pub(crate) fn is_wasm(manifest: &Manifest) -> bool {
    let Some(template) = manifest.kind.template().and_then(|path| manifest.root().get(path)) else {
        return false;
    };
    let runtime = template.get("spec.runtimeClassName").and_then(|at| at.node.text()).unwrap_or_default();
    let image =
        template.get("spec.containers").and_then(|list| list.node.items().first()?.get("image")?.text());
    image.is_some_and(|image| image.ends_with(".wasm")) || RUNTIMES.iter().any(|word| runtime.contains(word))
}

impl<'a> Workload<'a> {
    /// None: it cannot be taken, which is told.
    pub(crate) fn of(manifest: &'a Manifest, sink: &mut Sink) -> Option<Self> {
        let root = manifest.root();
        let is_wasm = is_wasm(manifest);
        review(manifest, column(is_wasm), sink);
        let Some(template) = manifest.kind.template().and_then(|path| root.get(path)) else {
            sink.refuse(&root, "a template of pods is needed");
            return None;
        };
        let Some(pod) = template.get("spec") else {
            sink.refuse(&template, "`spec` is needed");
            return None;
        };
        let containers = pod.items("containers");
        let Some(container) = containers.first().cloned() else {
            sink.refuse(&pod, "a pod needs a container");
            return None;
        };
        for other in &containers[1..] {
            let message = "an app is one program, and this is another one; make an app of it by a Deployment of its own, \
                           which the first one reaches by name";
            sink.refuse(other, message);
        }
        let _ = container.text("name");
        let name = app_name(&root, sink)?;
        let labels = labels(&template, "metadata.labels");
        let mut ports = BTreeMap::new();
        for item in container.items("ports") {
            // Within a network a container is reached at all its ports, with whatever protocol.
            item.near("protocol").see();
            let Some(number) = port(&item, "containerPort", sink) else { continue };
            if let Some(name) = item.text("name") {
                ports.insert(name, number);
            }
        }
        Some(Self { manifest, template, pod, container, name, is_wasm, labels, ports })
    }

    /// A port that is written as a number or as a name.
    pub(crate) fn port(&self, at: &At<'_>, sink: &mut Sink) -> Option<u16> {
        let word = at.word();
        let found = match word.parse::<u16>() {
            Ok(number) => Some(number).filter(|number| *number > 0),
            Err(_) => self.ports.get(word).copied(),
        };
        if found.is_none() {
            let names = self.ports.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let known = if names.is_empty() { String::new() } else { format!("; there are {names}") };
            sink.refuse(at, format!("it is no port of the container{known}"));
        }
        found
    }
}

/// What the app is called: the same, as far as the letters of names go.
fn app_name(root: &At<'_>, sink: &mut Sink) -> Option<AppName> {
    let written = root.manifest.name.as_str();
    let at = root.near("metadata.name");
    at.see();
    match AppName::try_from(written.replace('.', "-")) {
        Ok(name) => {
            if name.as_str() != written {
                sink.notice(&at, format!("it is called `{name}` here, as names have no dots"));
            }
            Some(name)
        }
        Err(error) => {
            sink.refuse(&at, error.to_string());
            None
        }
    }
}
