//! `include`: another project, whose resources become some of this one.

use super::{Loader, Part};
use crate::interpolate::Variables;
use crate::node::{Entry, Node, Place};
use crate::paths::{joined, parent};
use crate::problem::{PROBLEMS_MAX, Problem, shown};

/// Projects within each other.
const DEPTH_MAX: usize = 50;
const SECTIONS: [&str; 6] = ["services", "networks", "volumes", "secrets", "configs", "models"];

impl Loader<'_> {
    pub(super) fn add_included(&mut self, project: &mut Node, part: &Part<'_>, including: &mut Vec<String>) {
        let Some(include) = project.table_mut().and_then(|table| table.remove("include")) else { return };
        if including.len() > DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} files include each other in a row");
            self.problems.push(Problem::new(&include.place, message));
            return;
        }
        for item in include.node.items() {
            if self.problems.len() >= PROBLEMS_MAX {
                return;
            }
            let texts = |key: &str| -> Option<Vec<String>> {
                let items = item.get(key)?.items().iter();
                Some(items.filter_map(Node::text).map(str::to_owned).collect())
            };
            let files = texts("path").unwrap_or_default();
            let Some(first) = files.first() else {
                self.problems.push(Problem::new(&item.place, "`path` is needed: the file that is included"));
                continue;
            };
            let folder = match item.get("project_directory").and_then(Node::text) {
                Some(folder) => joined("", folder),
                None => parent(first).to_owned(),
            };
            let mut variables = match texts("env_file") {
                Some(files) => self.variables("", &files, true, Some(&item.place)),
                None => self.variables(&folder, &[".env".to_owned()], false, None),
            };
            if let Err(problem) = self.count(part.variables, &item.place) {
                self.problems.push(problem);
                return;
            }
            // What this project knows goes before what the files of that one say.
            variables.extend(part.variables.clone());
            let inner = Part { files: &files, folder: &folder, variables: &variables };
            let included = self.project(&inner, &item.place, including);
            self.copy(project, included);
        }
    }

    /// Variables that one more project gets.
    fn count(&mut self, variables: &Variables, place: &Place) -> Result<(), Problem> {
        self.files.budget.take(variables.len(), place)?;
        let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.files.expanded_left = self.files.expanded_left.checked_sub(bytes).ok_or_else(|| {
            Problem::new(
                place,
                "the variables are too large in all, in each project that gets them; leave some out",
            )
        })?;
        Ok(())
    }

    fn copy(&mut self, project: &mut Node, included: Node) {
        if let Some(name) = included.entry("name") {
            let message =
                "the name of a project that is included says nothing; the one that includes it has a name";
            self.note(&name.place, message);
        }
        for section in SECTIONS {
            let Some(theirs) = included.entry(section) else { continue };
            if project.get(section).is_none() {
                project.set(section, Node::empty_table(&theirs.place));
            }
            let Some(ours) = project.table_mut().and_then(|table| table.get_mut(section)) else { continue };
            let Some(ours) = ours.node.table_mut() else { continue };
            for (name, Entry { place, node }) in theirs.node.entries() {
                match ours.get(name) {
                    // The same file may come by two ways.
                    Some(there) if there.node == *node => {}
                    Some(there) => {
                        let message = format!(
                            "`{section}.{}` is here and, otherwise, in {} as well; give one of them another name",
                            shown(name),
                            there.place
                        );
                        self.problems.push(Problem::new(place, message));
                    }
                    None => {
                        ours.insert(name.clone(), Entry { place: place.clone(), node: node.clone() });
                    }
                }
            }
        }
    }
}
