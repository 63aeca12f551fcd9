//! `build` of services, for whoever can build: taken out of a project, with something in its place that is replaced by what was built.
//!
//! A project is translated without knowing of builds: the table of keys refuses `build`, and so does whoever does not ask for it here.

use std::collections::BTreeMap;

use crate::interpolate::Variables;
use crate::node::{Node, Place, Table};
use crate::paths::{is_component, is_url};
use crate::problem::{Notice, Problem, Problems, shown};
use crate::project::Project;

/// Keys of `build` that say what is built.
const TAKEN: [&str; 3] = ["context", "dockerfile", "args"];
/// What stands for an image, and for a component, until it is built. Nothing has that name, or that digest.
const IMAGE: &str = "wharf.localhost/built";
const COMPONENT: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// What a service is built of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    pub service: String,
    /// Of `build`.
    pub place: Place,
    /// Whether a component is to come of it, and no image.
    pub is_component: bool,
    /// A folder, relative to that of the project, such as `./web`.
    pub context: String,
    /// The Dockerfile of an image, relative to the context. None: the usual one.
    pub dockerfile: Option<String>,
    /// What an image is built with.
    pub args: BTreeMap<String, String>,
}

impl Project {
    /// Takes out what is to be built. Once translated, the apps and jobs of these services have an image or an artifact that there is
    /// not, and which is to be replaced.
    ///
    /// # Errors
    ///
    /// What no build here does, with its place.
    pub fn take_builds(&mut self) -> Result<Vec<Build>, Problems> {
        let (mut builds, mut problems) = (Vec::new(), Vec::new());
        let services = self.tree.table_mut().and_then(|table| table.get_mut("services"));
        let nodes = services.and_then(|entry| entry.node.table_mut());
        for (name, entry) in nodes.into_iter().flatten() {
            let Some(node) = entry.node.table_mut() else { continue };
            let Some(written) = node.remove("build") else { continue };
            let Some(service) = self.services.get_mut(name) else { continue };
            service.build = None;
            let is_wasm = service.platform.as_deref().is_some_and(|platform| platform.starts_with("wasi/"));
            if let Some(image) = service.image.take() {
                let place = node.get("image").map_or(&written.place, |image| &image.place);
                if is_component(&image) {
                    let message =
                        "`image`: the component comes of `build`, which says how; leave one of them out";
                    problems.push(Problem::new(place, message));
                } else {
                    let message =
                        format!("`image`: what is built is not called `{}` anywhere", shown(&image));
                    self.notices.push(Notice::new(place, message));
                }
            }
            let stands_for_it = if is_wasm { COMPONENT } else { IMAGE };
            service.image = Some(stands_for_it.to_owned());
            let whose = Whose { service: name, is_component: is_wasm, variables: &self.variables };
            let read = whose.build(&written.place, &written.node, &mut self.notices, &mut problems);
            builds.extend(read);
        }
        Problems::or(problems, builds)
    }
}

/// Whose `build` is read.
struct Whose<'a> {
    service: &'a str,
    is_component: bool,
    variables: &'a Variables,
}

impl Whose<'_> {
    fn build(
        &self,
        place: &Place,
        node: &Node,
        notices: &mut Vec<Notice>,
        problems: &mut Vec<Problem>,
    ) -> Option<Build> {
        let mut refuse = |place: &Place, message: String| problems.push(Problem::new(place, message));
        for (key, entry) in node.entries() {
            let is_taken = if self.is_component { key == "context" } else { TAKEN.contains(&key.as_str()) };
            if is_taken || entry.node.says_nothing() {
                continue;
            }
            let reason = if self.is_component {
                "a component is built as its folder says; leave it out, or write `[build]` into a wharf.toml there"
            } else {
                "an image is built by `context`, `dockerfile` and `args` alone; leave it out, or build it elsewhere and name it as `image`"
            };
            refuse(&entry.place, format!("`{}`: {reason}", shown(key)));
        }
        let Some(context) = node.get("context") else {
            refuse(place, "`context` is needed: the folder that is built".to_owned());
            return None;
        };
        let folder = context.text().unwrap_or_default();
        if is_url(folder) {
            let message =
                format!("`{}`: a folder beside this file is built, and nothing is fetched", shown(folder));
            refuse(&context.place, message);
            return None;
        }
        Some(Build {
            service: self.service.to_owned(),
            place: place.clone(),
            is_component: self.is_component,
            context: folder.to_owned(),
            dockerfile: node.get("dockerfile").and_then(Node::text).map(str::to_owned),
            args: self.args(node.get("args").and_then(Node::table), notices),
        })
    }

    /// A name alone has the value that it has among the variables, and is left out where it has none there.
    fn args(&self, written: Option<&Table>, notices: &mut Vec<Notice>) -> BTreeMap<String, String> {
        let mut args = BTreeMap::new();
        for (name, entry) in written.into_iter().flatten() {
            match entry.node.text().or_else(|| self.variables.get(name).map(String::as_str)) {
                Some(value) => drop(args.insert(name.clone(), value.to_owned())),
                None => {
                    let message =
                        format!("the variable `{}` is not set, so the build does not get it", shown(name));
                    notices.push(Notice::new(&entry.place, message));
                }
            }
        }
        args
    }
}
