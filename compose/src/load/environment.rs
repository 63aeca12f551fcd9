//! Variables and labels of services, with what files say of them.

use super::Loader;
use super::files::Missing;
use crate::env_file::{self, Format};
use crate::interpolate::Variables;
use crate::node::{Entry, Node, Place, Table, Value};
use crate::problem::{PROBLEMS_MAX, Problem, shown};

impl Loader<'_> {
    /// Puts what `env_file` and `label_file` say below what `environment` and `labels` do, and looks up what has no value.
    pub(super) fn add_variables(&mut self, project: &mut Node, variables: &Variables) {
        let services = project.table_mut().and_then(|table| table.get_mut("services"));
        for (name, entry) in services.and_then(|entry| entry.node.table_mut()).into_iter().flatten() {
            let Some(service) = entry.node.table_mut() else { continue };
            let before = self.problems.len();
            if let Some(files) = service.remove("env_file") {
                let found = self.of_env_files(&files.node, variables);
                add_below(service, "environment", &files.place, found);
            }
            if let Some(files) = service.remove("label_file") {
                let mut found = Table::new();
                for file in files.node.items() {
                    let path = file.text().unwrap_or_default();
                    let labels = self.env_file(path, Format::Compose, &[variables], true, Some(&file.place));
                    found.extend(labels.into_iter().map(|(name, value)| entry_of(&file.place, name, value)));
                }
                add_below(service, "labels", &files.place, found);
            }
            self.faulty.note("services", name, before..self.problems.len());
            if let Some(environment) = service.get_mut("environment").and_then(|entry| entry.node.table_mut())
            {
                self.look_up(environment, variables);
            }
            for table in ["labels", "annotations", "sysctls"] {
                let table = service.get_mut(table).and_then(|entry| entry.node.table_mut());
                table.into_iter().for_each(empty_for_none);
            }
        }
    }

    fn of_env_files(&mut self, files: &Node, variables: &Variables) -> Table {
        let mut found = Table::new();
        for file in files.items() {
            let Some(path) = file.get("path").and_then(Node::text) else {
                self.problems
                    .push(Problem::new(&file.place, "`path` is needed: the file with the variables"));
                continue;
            };
            let is_raw = file.get("format").is_some();
            let format = if is_raw { Format::Raw } else { Format::Compose };
            let needed = file.get("required").and_then(Node::text) != Some("false");
            for (name, value) in self.env_file(path, format, &[variables], needed, Some(&file.place)) {
                let (name, entry) = entry_of(&file.place, name, value);
                found.insert(name, entry);
            }
        }
        found
    }

    /// The variables of a file. One that is not there has none, unless it is needed.
    pub(super) fn env_file(
        &mut self,
        path: &str,
        format: Format,
        known: &[&Variables],
        needed: bool,
        asked: Option<&Place>,
    ) -> Vec<(String, Option<String>)> {
        if self.problems.len() >= PROBLEMS_MAX {
            return Vec::new();
        }
        let name = self.files.name(path);
        let start = Place::new(&name, 1, 1);
        let text = match self.files.find(path) {
            Ok(text) => text,
            Err(Missing::NotThere) if needed => {
                let message = format!("there is no file {name}; `required: false` lets it be missing");
                self.problems.push(Problem::new(asked.unwrap_or(&start), message));
                return Vec::new();
            }
            Err(Missing::NotThere) => {
                if let Some(asked) = asked {
                    self.note(asked, format!("there is no file {name}, which may be missing"));
                }
                return Vec::new();
            }
            Err(Missing::Unreadable(message)) => {
                self.problems.push(Problem::new(asked.unwrap_or(&start), message));
                return Vec::new();
            }
            Err(Missing::Undecoded(problem)) => {
                self.problems.push(problem);
                return Vec::new();
            }
        };
        match env_file::parse(&text, format, known, &mut self.files.expanded_left) {
            Ok(found) => match self.files.budget.take(found.len(), asked.unwrap_or(&start)) {
                Ok(()) => found,
                Err(problem) => {
                    self.problems.push(problem);
                    Vec::new()
                }
            },
            Err(faults) => {
                let problem =
                    |fault: env_file::Fault| Problem::new(&Place::new(&name, fault.line, 1), fault.message);
                self.problems.extend(faults.into_iter().map(problem));
                Vec::new()
            }
        }
    }

    /// A name alone has the value that it has in the environment, and is left out where it has none there.
    fn look_up(&mut self, environment: &mut Table, variables: &Variables) {
        environment.retain(|name, entry| {
            if entry.node.value != Value::Null {
                return true;
            }
            let Some(value) = variables.get(name) else {
                let message =
                    format!("the variable `{}` is not set, so the service does not get it", shown(name));
                self.note(&entry.place, message);
                return false;
            };
            entry.node = Node::text_at(&entry.place, value);
            true
        });
    }
}

fn entry_of(place: &Place, name: String, value: Option<String>) -> (String, Entry) {
    let node = match value {
        Some(value) => Node::text_at(place, value),
        None => Node::new(place, Value::Null),
    };
    (name, Entry { place: place.clone(), node })
}

fn add_below(service: &mut Table, key: &str, place: &Place, found: Table) {
    let entry = || Entry { place: place.clone(), node: Node::empty_table(place) };
    let Some(table) = service.entry(key.to_owned()).or_insert_with(entry).node.table_mut() else { return };
    for (name, entry) in found {
        table.entry(name).or_insert(entry);
    }
}

fn empty_for_none(table: &mut Table) {
    for entry in table.values_mut().filter(|entry| entry.node.value == Value::Null) {
        entry.node = Node::text_at(&entry.place, "");
    }
}
