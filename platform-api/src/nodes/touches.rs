//! What a node was assigned so far: to it nothing else exists, and it brings nothing of anything else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use wharf_types::{AppName, Digest, NamespaceName};

use crate::reconcile::Common;

#[derive(Debug, Default)]
pub(super) struct Touches {
    /// Those of artifacts are shared by all nodes that have them: on each there may be thousands.
    contents: HashSet<Arc<Digest>>,
    names: HashMap<NamespaceName, HashSet<AppName>>,
}

impl Touches {
    /// Takes in what an instance was assigned.
    pub(super) fn add(&mut self, told: &Common) {
        // Nearly all of it is known.
        if !self.uses(*told.artifact) {
            self.contents.insert(told.artifact.clone());
        }
        if let Some(files) = &told.spec.files
            && !self.uses(files.digest)
        {
            self.contents.insert(Arc::new(files.digest));
        }
        if !self.runs(&told.namespace, &told.app) {
            self.names.entry(told.namespace.clone()).or_default().insert(told.app.clone());
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
