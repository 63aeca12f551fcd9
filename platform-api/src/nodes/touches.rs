//! What a node was assigned so far: to it nothing else exists, and it brings nothing of anything else.

use std::collections::{HashMap, HashSet};

use wharf_types::node::AssignedInstance;
use wharf_types::{AppName, Digest, NamespaceName};

#[derive(Debug, Default)]
pub(super) struct Touches {
    contents: HashSet<Digest>,
    names: HashMap<NamespaceName, HashSet<AppName>>,
}

impl Touches {
    pub(super) fn add(&mut self, instance: &AssignedInstance) {
        self.contents.insert(instance.artifact);
        self.contents.extend(instance.spec.files.as_ref().map(|files| files.digest));
        // Nearly all of it is known.
        if !self.runs(&instance.namespace, &instance.app) {
            self.names.entry(instance.namespace.clone()).or_default().insert(instance.app.clone());
        }
    }

    /// Whether something was made of this content.
    pub(super) fn uses(&self, digest: Digest) -> bool {
        self.contents.contains(&digest)
    }

    /// Whether something had this name: an app, or a job.
    pub(super) fn runs(&self, namespace: &NamespaceName, app: &AppName) -> bool {
        self.names.get(namespace).is_some_and(|apps| apps.contains(app))
    }
}
