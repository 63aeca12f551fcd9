//! All resources of all files, or all that is wrong with them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use wharf_types::NamespaceName;
use wharf_types::declare::ResourceId;
use wharf_types::declare::document::Document;

use super::check;
use super::node::{Fault, Node, Place};
use super::source::{self, Source};
use crate::exit::Failure;

/// Errors that are told.
pub const FAULTS_TOLD: usize = 20;

/// A resource of a file, and where it stands.
#[derive(Debug)]
pub struct Declared {
    pub id: ResourceId,
    pub namespace: NamespaceName,
    pub document: Document,
    pub node: Node,
    /// Which of the files.
    pub source: usize,
}

/// Everything that was read.
#[derive(Debug)]
pub struct Files {
    pub sources: Vec<Source>,
    pub resources: Vec<Declared>,
}

/// Errors with their files, in the order of the files.
#[derive(Debug, Default)]
pub struct Faults(Vec<(usize, Fault)>);

impl Faults {
    pub fn push(&mut self, source: usize, fault: Fault) {
        self.0.push((source, fault));
    }

    fn extend(&mut self, source: usize, faults: Vec<Fault>) {
        self.0.extend(faults.into_iter().map(|fault| (source, fault)));
    }

    /// None: there are none.
    pub fn into_failure(mut self, sources: &[Source]) -> Option<Failure> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_by_key(|(source, fault)| (*source, fault.place));
        let lines = self.0.iter().map(|(source, Fault { place: Place { line, column }, message })| {
            let file = sources.get(*source).map_or("?", |source| source.name.as_str());
            format!("{file}:{line}:{column}: {message}")
        });
        Some(Failure::invalid(told(lines)))
    }
}

/// One error as it is, several below a line that counts them.
pub fn told(mut lines: impl ExactSizeIterator<Item = String>) -> String {
    let count = lines.len();
    if count == 1 {
        return lines.next().unwrap_or_default();
    }
    let mut text = format!("there are {count} errors");
    for line in lines.take(FAULTS_TOLD) {
        let _ = write!(text, "\n  {line}");
    }
    if count > FAULTS_TOLD {
        let _ = write!(text, "\n  and {} more", count - FAULTS_TOLD);
    }
    text
}

impl Files {
    /// Reads and checks. `namespace` is that of apps and configs which name none.
    pub fn read(paths: &[PathBuf], namespace: &NamespaceName) -> anyhow::Result<Self> {
        Self::of(source::read(paths)?, namespace)
    }

    pub fn of(sources: Vec<Source>, namespace: &NamespaceName) -> anyhow::Result<Self> {
        let mut faults = Faults::default();
        let mut resources: Vec<Declared> = Vec::new();
        for (at, source) in sources.iter().enumerate() {
            let nodes = match source::resources(&source.text, source.format) {
                Ok(nodes) => nodes,
                Err(found) => {
                    faults.extend(at, found);
                    continue;
                }
            };
            for node in nodes {
                match check::document(&node) {
                    Ok(document) => resources.push(declared(document, node, at, namespace)),
                    Err(found) => faults.extend(at, found),
                }
            }
        }
        find_twins(&resources, &sources, &mut faults);
        if let Some(failure) = faults.into_failure(&sources) {
            return Err(failure.into());
        }
        if resources.is_empty() {
            let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
            let message = format!("there is no resource in {}", names.join(", "));
            return Err(Failure::invalid(message)
                .help("write `kind: app`, `name: …` and `artifact: …`; `wharf schema` describes it all")
                .into());
        }
        Ok(Self { sources, resources })
    }

    /// `FILE:LINE:COLUMN` of a setting of a resource, or else of what is nearest.
    pub fn place(&self, id: &ResourceId, field: Option<&str>) -> Option<String> {
        let declared = self.resources.iter().find(|declared| declared.id == *id)?;
        let place = field.map_or(declared.node.place, |field| declared.node.place_of(field));
        Some(place_in(&self.sources, declared.source, place))
    }

    /// The same of the resource with this number.
    pub fn place_at(&self, at: usize) -> Option<String> {
        let declared = self.resources.get(at)?;
        Some(place_in(&self.sources, declared.source, declared.node.place))
    }
}

fn place_in(sources: &[Source], source: usize, Place { line, column }: Place) -> String {
    format!("{}:{line}:{column}", sources.get(source).map_or("?", |source| source.name.as_str()))
}

fn declared(document: Document, node: Node, source: usize, default: &NamespaceName) -> Declared {
    let (id, namespace) = match &document {
        Document::Namespace(document) => (ResourceId::of_namespace(&document.name), document.name.clone()),
        Document::Config(config) => {
            let namespace = config.namespace.clone().unwrap_or_else(|| default.clone());
            (ResourceId::of_config(&namespace, &config.name), namespace)
        }
        Document::App(app) => {
            let namespace = app.namespace.clone().unwrap_or_else(|| default.clone());
            (ResourceId::of_app(&namespace, &app.name), namespace)
        }
    };
    Declared { id, namespace, document, node, source }
}

fn find_twins(resources: &[Declared], sources: &[Source], faults: &mut Faults) {
    let mut first: HashMap<&ResourceId, &Declared> = HashMap::with_capacity(resources.len());
    for declared in resources {
        match first.get(&declared.id) {
            Some(before) => {
                let there = place_in(sources, before.source, before.node.place);
                let message = format!("the {} is declared twice; it stands at {there} already", declared.id);
                faults.push(declared.source, Fault::new(declared.node.place, message));
            }
            None => {
                first.insert(&declared.id, declared);
            }
        }
    }
}
