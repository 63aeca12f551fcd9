//! Texts into manifests, each with fields that are known and values of the kind that they take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wharf_compose::node::{Node, Place, Value};
use wharf_compose::problem::{Problem, shown};
use wharf_compose::shape::shaped_by;
use wharf_compose::yaml::{BYTES_MAX, Budget, Tags, decoded, parse};

use crate::at::Manifest;
use crate::finding::{Finding, Level, Sink};
use crate::keys;
use crate::kind::Kind;

/// Of all files together. More is no text that a person looks after.
const MANIFESTS_MAX: usize = 20_000;

/// A file: what it is called in messages, and what is in it.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub octets: Vec<u8>,
}

pub(crate) fn manifests(sources: &[Source], sink: &mut Sink) -> Vec<Manifest> {
    let mut reader = Reader { budget: Budget::default(), found: Vec::new(), twice: BTreeMap::new(), sink };
    let mut bytes_left = BYTES_MAX;
    for source in sources {
        let file: Arc<str> = source.name.as_str().into();
        let start = Place::new(&file, 1, 1);
        let Some(left) = bytes_left.checked_sub(source.octets.len()) else {
            let text =
                format!("the files are larger than {} MiB together; import fewer at once", BYTES_MAX >> 20);
            reader.refuse(Problem::new(&start, text));
            break;
        };
        bytes_left = left;
        reader.file(&file, source.octets.clone());
    }
    reader.found
}

struct Reader<'a> {
    budget: Budget,
    found: Vec<Manifest>,
    /// Where each stands already.
    twice: BTreeMap<(Kind, Option<String>, String), Place>,
    sink: &'a mut Sink,
}

impl Reader<'_> {
    fn refuse(&mut self, problem: Problem) {
        let Problem { place, message } = problem;
        let (subject, path, remark) = (String::new(), String::new(), String::new());
        self.sink.add(Finding { place, level: Level::Refused, subject, path, text: message, remark });
    }

    fn file(&mut self, file: &Arc<str>, octets: Vec<u8>) {
        let documents = decoded(file, octets).map_err(Into::into);
        match documents.and_then(|text| parse(file, &text, Tags::None, &mut self.budget)) {
            Ok(documents) => documents.into_iter().for_each(|document| self.document(document)),
            Err(problems) => problems.into_vec().into_iter().for_each(|problem| self.refuse(problem)),
        }
    }

    fn document(&mut self, node: Node) {
        if node.table().is_none() {
            let message = "a manifest is a table with `apiVersion`, `kind` and `metadata`";
            return self.refuse(Problem::new(&node.place, message));
        }
        let kind = node.get("kind").and_then(Node::text).unwrap_or_default();
        if kind == "List" || (kind.ends_with("List") && node.get("items").is_some()) {
            return self.list(node);
        }
        if self.found.len() >= MANIFESTS_MAX {
            let message = format!("there are more than {MANIFESTS_MAX} manifests; import fewer at once");
            return self.refuse(Problem::new(&node.place, message));
        }
        self.manifest(node);
    }

    /// A list of manifests, with no meaning of its own.
    fn list(&mut self, node: Node) {
        for (name, entry) in node.entries() {
            if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "items") {
                let message = format!("there is no field `{}` here; a list has `items`", shown(name));
                self.refuse(Problem::new(&entry.place, message));
            }
        }
        let items = node.get("items").cloned();
        match items.map(|items| (items.place.clone(), items.value)) {
            Some((_, Value::List(items))) => items.into_iter().for_each(|item| self.document(item)),
            Some((place, _)) => self.refuse(Problem::new(&place, "`items` must be a list of manifests")),
            None => self.refuse(Problem::new(&node.place, "a list needs `items`")),
        }
    }

    fn manifest(&mut self, node: Node) {
        let word = |node: Option<&Node>| node.and_then(Node::text).unwrap_or_default().to_owned();
        let of_metadata = |field: &str| word(node.get("metadata").and_then(|metadata| metadata.get(field)));
        let (api_version, kind) = (word(node.get("apiVersion")), word(node.get("kind")));
        if kind.is_empty() {
            return self.refuse(Problem::new(&node.place, "`kind` is needed, such as `kind: Deployment`"));
        }
        let kind = match Kind::of(&api_version, &kind) {
            Ok(kind) => kind,
            Err(message) => return self.refuse(Problem::new(node.place_of("kind"), message)),
        };
        let (name, namespace) = (of_metadata("name"), of_metadata("namespace"));
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        let number = self.found.len();
        let mut problems = Vec::new();
        let shaped = shaped_by(node.clone(), keys::of(kind), &mut problems);
        let manifest = Manifest::new(number, kind, name, namespace, shaped);
        if manifest.name.is_empty() {
            problems.push(Problem::new(node.place_of("metadata"), "`metadata.name` is needed"));
        }
        self.check_namespace(&manifest, &mut problems);
        self.check_twice(&manifest, &mut problems);
        if !problems.is_empty() {
            self.sink.mark_refused(number);
            let paths = paths(&node, problems.iter().map(|problem| problem.place.clone()).collect());
            for Problem { place, message } in problems {
                let path = paths.get(&place).cloned().unwrap_or_default();
                let (subject, remark) = (manifest.subject(), String::new());
                self.sink.add(Finding { place, level: Level::Refused, subject, path, text: message, remark });
            }
        }
        self.found.push(manifest);
    }

    fn check_namespace(&self, manifest: &Manifest, problems: &mut Vec<Problem>) {
        let Some(namespace) = &manifest.namespace else { return };
        let place = manifest.node.place_of("metadata.namespace");
        if manifest.kind == Kind::Namespace {
            problems.push(Problem::new(place, "a namespace is in no other; leave it out"));
        }
        if let Err(error) = namespace.parse::<wharf_types::NamespaceName>() {
            problems.push(Problem::new(place, error.to_string()));
        }
    }

    fn check_twice(&mut self, manifest: &Manifest, problems: &mut Vec<Problem>) {
        let key = (manifest.kind, manifest.namespace.clone(), manifest.name.clone());
        let place = manifest.node.place_of("metadata.name").clone();
        if let Some(first) = self.twice.get(&key) {
            problems.push(Problem::new(&place, format!("it is here twice; it stands in {first} already")));
        } else {
            self.twice.insert(key, place);
        }
    }
}

/// The paths of what stands at some places of a tree. Of two at the same place the inner one counts.
fn paths(node: &Node, wanted: BTreeSet<Place>) -> BTreeMap<Place, String> {
    fn walk(node: &Node, path: &str, wanted: &BTreeSet<Place>, paths: &mut BTreeMap<Place, String>) {
        if wanted.contains(&node.place) {
            paths.entry(node.place.clone()).or_insert_with(|| path.to_owned());
        }
        for (name, entry) in node.entries() {
            let path = if path.is_empty() { shown(name) } else { format!("{path}.{}", shown(name)) };
            if wanted.contains(&entry.place) {
                paths.insert(entry.place.clone(), path.clone());
            }
            walk(&entry.node, &path, wanted, paths);
        }
        for (index, item) in node.items().iter().enumerate() {
            walk(item, &format!("{path}[{index}]"), wanted, paths);
        }
    }
    let mut found = BTreeMap::new();
    walk(node, "", &wanted, &mut found);
    found
}
