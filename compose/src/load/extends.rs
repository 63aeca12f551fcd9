//! `extends`: a service that begins with what another one says.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Loader, Part};
use crate::merge::{merged, merged_service, settled};
use crate::node::{Node, Place};
use crate::paths::parent;
use crate::problem::{Problem, shown};

/// Services that extend each other in a row.
const CHAIN_MAX: usize = 50;

/// The files that services of other files are taken from, by their path.
#[derive(Default)]
pub(super) struct Extended {
    files: HashMap<String, Rc<Node>>,
    /// Whether something was wrong with one of them.
    is_faulty: bool,
}

/// Where a service is looked for.
#[derive(Clone)]
struct Source {
    file: String,
    document: Rc<Node>,
    /// What files before this one have said.
    before: Option<Rc<Node>>,
}

impl Loader<'_> {
    /// The document with services that extend nothing any more.
    pub(super) fn with_extended(
        &mut self,
        mut document: Node,
        file: &str,
        before: &Node,
        part: &Part<'_>,
    ) -> Node {
        let extends = |node: &Node| node.entries().any(|(_, entry)| entry.node.get("extends").is_some());
        if !document.get("services").is_some_and(extends) {
            return document;
        }
        let source = Source {
            file: file.to_owned(),
            document: Rc::new(document.clone()),
            before: Some(Rc::new(before.clone())),
        };
        let services = document.table_mut().and_then(|table| table.get_mut("services"));
        for (name, entry) in services.and_then(|entry| entry.node.table_mut()).into_iter().flatten() {
            if entry.node.get("extends").is_some() {
                let chain = vec![(file.to_owned(), name.clone())];
                let before = self.problems.len();
                match self.extended(entry.node.clone(), &source, chain, part) {
                    Ok(node) => entry.node = node,
                    Err(problem) => self.problems.push(problem),
                }
                self.faulty.note("services", name, before..self.problems.len());
                // What it lacks may have been refused where it has its settings from.
                if self.extended.is_faulty || self.faulty.has_service() {
                    self.faulty.add("services", name);
                }
            }
        }
        document
    }

    fn extended(
        &mut self,
        mut service: Node,
        source: &Source,
        mut chain: Vec<(String, String)>,
        part: &Part<'_>,
    ) -> Result<Node, Problem> {
        let extends = service.table_mut().and_then(|table| table.remove("extends"));
        let Some(extends) = extends.map(|entry| entry.node) else { return Ok(service) };
        let place = extends.place.clone();
        let Some(name) = extends.get("service").and_then(Node::text) else {
            return Err(Problem::new(
                &place,
                "`service` is needed: the name of the service that is extended",
            ));
        };
        let source = match extends.get("file").and_then(Node::text) {
            Some(file) => self.source_of(file, &place, part)?,
            None => source.clone(),
        };
        let link = (source.file.clone(), name.to_owned());
        if chain.contains(&link) {
            let way: Vec<String> = chain.iter().map(|(_, name)| format!("`{}`", shown(name))).collect();
            return Err(Problem::new(
                &place,
                format!("`{}` extends itself, by {}", shown(name), way.join(", ")),
            ));
        }
        if chain.len() == CHAIN_MAX {
            return Err(Problem::new(
                &place,
                format!("more than {CHAIN_MAX} services extend each other in a row"),
            ));
        }
        chain.push(link);
        let find = |node: &Node| node.get("services").and_then(|services| services.get(name)).cloned();
        let found = find(&source.document).or_else(|| source.before.as_deref().and_then(find));
        let Some(base) = found else {
            let message =
                format!("there is no service `{}` in {}", shown(name), self.files.name(&source.file));
            return Err(Problem::new(&place, message));
        };
        self.files.budget.take(base.measure().0, &place)?;
        let base = self.extended(base, &source, chain, part)?;
        let mut service = merged_service(base, service);
        settled(&mut service);
        Ok(service)
    }

    /// Another file as a source. Paths in it are relative to its own folder.
    fn source_of(&mut self, file: &str, asked: &Place, part: &Part<'_>) -> Result<Source, Problem> {
        let document = match self.extended.files.get(file) {
            Some(document) => document.clone(),
            None => {
                let (faulty, before) = (std::mem::take(&mut self.faulty), self.problems.len());
                let documents = self.documents(file, parent(file), part.variables, asked);
                // Its entries are not those of the project, and whoever extends one of them is told of it.
                self.faulty = faulty;
                self.extended.is_faulty |= self.problems.len() > before;
                let document =
                    Rc::new(documents.into_iter().reduce(merged).unwrap_or_else(|| Node::empty_table(asked)));
                self.extended.files.insert(file.to_owned(), document.clone());
                document
            }
        };
        Ok(Source { file: file.to_owned(), document, before: None })
    }
}
