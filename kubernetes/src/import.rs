//! All manifests together: what they refer to is found, and what is left is printed.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use wharf_compose::Node;
use wharf_compose::write::Writer;
use wharf_types::NamespaceName;

use crate::app::{self, Around};
use crate::at::Manifest;
use crate::batch;
use crate::claims::{claims, tell_unused};
use crate::finding::{Finding, Level, Sink};
use crate::ingress;
use crate::kind::Kind;
use crate::read::{Source, manifests};
use crate::review::{column, review, tell_unread};
use crate::service::{Reach, Services};
use crate::values::Values;
use crate::workload::{Workload, is_wasm};

/// What was made of manifests.
#[derive(Clone, Debug)]
pub struct Import {
    /// Documents as `wharf apply -f` takes them. What something was refused of is not in it.
    pub text: String,
    /// In the order of their places.
    pub findings: Vec<Finding>,
}

impl Import {
    /// How often something was refused.
    pub fn refused(&self) -> usize {
        self.findings.iter().filter(|finding| finding.level == Level::Refused).count()
    }
}

/// Makes declarative documents of manifests.
///
/// Those of all files are taken together: what they refer to may be in any of them.
pub fn import(sources: &[Source]) -> Import {
    let mut sink = Sink::default();
    let manifests = manifests(sources, &mut sink);
    for manifest in &manifests {
        if matches!(manifest.kind, Kind::Namespace | Kind::ConfigMap | Kind::Secret) {
            review(manifest, column(false), &mut sink);
        }
    }
    let mut values = Values::of(&manifests, &mut sink);
    let mut claims = claims(&manifests, &mut sink);
    let workloads: Vec<Workload<'_>> = manifests
        .iter()
        .filter(|manifest| manifest.kind.template().is_some())
        .filter_map(|manifest| Workload::of(manifest, &mut sink))
        .collect();
    let mut reach = vec![Reach::default(); workloads.len()];
    let targets = Services::new(&workloads).take(&manifests, &mut reach, &mut sink);
    ingress::take(&manifests, &workloads, &targets, &mut reach, &mut sink);
    let named = namespaces_with_names(&workloads, &reach);
    let mut documents = namespaces(&manifests, &mut sink);
    for (workload, reach) in workloads.iter().zip(reach) {
        let is_named = named.contains(&workload.manifest.namespace);
        let around = Around { values: &mut values, claims: &mut claims, is_named };
        if matches!(workload.manifest.kind, Kind::Job | Kind::CronJob) {
            batch::take(workload, around, &mut sink);
            continue;
        }
        let document = app::document(workload, reach, around, &mut sink);
        if !sink.is_refused(workload.manifest.number) {
            documents.push((workload.manifest, document));
        }
    }
    tell_unused(&manifests, &claims, &mut sink);
    for manifest in &manifests {
        // Of one that is refused not everything was looked at.
        if !sink.is_refused(manifest.number) {
            tell_unread(manifest, column(is_wasm(manifest)), &mut sink);
        }
    }
    let text = print(&manifests, &documents, &sink);
    Import { text, findings: sink.into_findings() }
}

/// Namespaces in which a container has a second name.
fn namespaces_with_names(workloads: &[Workload<'_>], reach: &[Reach]) -> BTreeSet<Option<String>> {
    let named = workloads.iter().zip(reach).filter(|(_, reach)| !reach.aliases.is_empty());
    named.map(|(workload, _)| workload.manifest.namespace.clone()).collect()
}

type Document<'a> = (&'a Manifest, Map<String, Value>);

fn namespaces<'a>(manifests: &'a [Manifest], sink: &mut Sink) -> Vec<Document<'a>> {
    let mut documents = Vec::new();
    for manifest in manifests.iter().filter(|manifest| manifest.kind == Kind::Namespace) {
        let root = manifest.root();
        match manifest.name.parse::<NamespaceName>() {
            Ok(name) => {
                let document = Map::from_iter([
                    ("kind".to_owned(), json!("namespace")),
                    ("name".to_owned(), json!(name)),
                ]);
                documents.push((manifest, document));
            }
            Err(error) => sink.refuse(&root.near("metadata.name"), error.to_string()),
        }
    }
    documents
}

/// The documents with where each comes from, after a list of what is not among them.
fn print(manifests: &[Manifest], documents: &[Document<'_>], sink: &Sink) -> String {
    let writer = Writer { first: &["kind", "name", "namespace", "image", "artifact"], has_variables: false };
    // Names of files are whatever people call them, and a comment ends with its line.
    let from = |manifest: &Manifest| -> String {
        let from = format!("{} ({})", manifest.subject(), manifest.node.place);
        from.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
    };
    let mut text = String::new();
    for manifest in manifests.iter().filter(|manifest| sink.is_refused(manifest.number)) {
        text.push_str(&format!("# Left out, because something of it was refused: {}\n", from(manifest)));
    }
    for (manifest, document) in documents.iter().filter(|(manifest, _)| !sink.is_refused(manifest.number)) {
        let node = Node::of_json(&manifest.node.place, &Value::Object(document.clone()));
        text.push_str(&format!("---\n# {}\n{}", from(manifest), writer.write(&node)));
    }
    text
}
