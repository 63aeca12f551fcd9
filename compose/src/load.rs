//! Files into one resolved project: read, interpolated, merged, extended, with what they include, and checked.

mod environment;
mod extends;
mod files;
mod include;

use crate::check;
use crate::faulty::{Faulty, is_section};
use crate::interpolate::{Replacer, Variables};
use crate::merge::{merged, settled};
use crate::node::{Entry, Node, Place};
use crate::paths::{joined, parent, rebase};
use crate::problem::{NOTICES_MAX, Notice, Problem, Problems, shown};
use crate::project::Project;
use crate::shape::shaped;
use crate::yaml;

use extends::Extended;
use files::Files;

pub use files::Reader;

/// Reads a project, if nothing is wrong with it.
///
/// # Errors
///
/// All that is wrong in the files, as far as it can be told at once, with file, line and column. See [`read`].
pub fn load(
    files: &[String],
    profiles: &[String],
    environment: &Variables,
    reader: &dyn Reader,
) -> Result<Project, Problems> {
    let (project, problems) = read(files, profiles, environment, reader)?;
    Problems::or(problems, project)
}

/// Reads a project without the services in which something is wrong, and all that is.
///
/// `files` are merged in their order; paths within them are relative to the folder of the first, where a `.env` file may be as well.
/// `environment` goes before what that says. Services that name profiles are left out unless one of these is in `profiles`, or `*`.
///
/// # Errors
///
/// What is wrong with more than one entry of the project, such as a file that is not there: whatever else could be told might be wrong because of it.
pub fn read(
    files: &[String],
    profiles: &[String],
    environment: &Variables,
    reader: &dyn Reader,
) -> Result<(Project, Vec<Problem>), Problems> {
    let Some(first) = files.first() else {
        let place = Place::new(&"compose.yaml".into(), 1, 1);
        return Err(Problem::new(&place, "no file was named").into());
    };
    let folder = parent(first);
    let mut loader = Loader {
        files: Files::new(reader, folder),
        profiles,
        environment,
        notices: Vec::new(),
        problems: Vec::new(),
        faulty: Faulty::default(),
        inactive: Vec::new(),
        extended: Extended::default(),
    };
    let within: Vec<String> = files.iter().map(|file| loader.files.within(file)).collect();
    let variables = loader.variables("", &[".env".to_owned()], false, None);
    let place = Place::new(&first.as_str().into(), 1, 1);
    let mut tree =
        loader.project(&Part { files: &within, folder: "", variables: &variables }, &place, &mut Vec::new());
    let Loader { mut problems, mut notices, mut faulty, inactive, .. } = loader;
    if notices.len() >= NOTICES_MAX {
        notices.push(Notice::new(&place, format!("there is more to say than these {NOTICES_MAX} notices")));
    }
    // What follows would complain of what is missing because it was refused.
    if !faulty.are_all(&problems) {
        return Err(Problems::of(problems));
    }
    faulty.settle(&mut tree);
    check::complete(&mut tree);
    check::check(&mut tree, &inactive, &mut faulty, &mut notices, &mut problems);
    if !faulty.are_all(&problems) {
        return Err(Problems::of(problems));
    }
    faulty.settle(&mut tree);
    notices.sort();
    notices.dedup();
    let (project, more) = Project::new(folder.to_owned(), tree, variables, notices);
    problems.extend(more);
    Ok((project, problems))
}

/// The files of the project, or of one that it includes.
struct Part<'a> {
    /// Relative to the folder of the project, as all paths in the loader are.
    files: &'a [String],
    folder: &'a str,
    variables: &'a Variables,
}

struct Loader<'a> {
    files: Files<'a>,
    profiles: &'a [String],
    environment: &'a Variables,
    notices: Vec<Notice>,
    problems: Vec<Problem>,
    /// What these are about, as far as that is one entry.
    faulty: Faulty,
    /// Services that no profile asks for.
    inactive: Vec<String>,
    extended: Extended,
}

impl Loader<'_> {
    /// `asked` is where somebody named the files; `including` the files that include each other on the way here.
    fn project(&mut self, part: &Part<'_>, asked: &Place, including: &mut Vec<String>) -> Node {
        let mut project = Node::empty_table(asked);
        for file in part.files {
            if including.contains(file) {
                let way: Vec<String> =
                    including.iter().map(|file| self.files.name(file).to_string()).collect();
                let message = format!("{} includes itself, by {}", self.files.name(file), way.join(", "));
                self.problems.push(Problem::new(asked, message));
                continue;
            }
            for document in self.documents(file, part.folder, part.variables, asked) {
                let document = self.with_extended(document, file, &project, part);
                project = merged(project, document);
            }
        }
        settled(&mut project);
        self.leave_out_inactive(&mut project);
        self.add_variables(&mut project, part.variables);
        including.extend(part.files.iter().cloned());
        self.add_included(&mut project, part, including);
        including.truncate(including.len() - part.files.len());
        project
    }

    /// The documents of a file in their long form.
    fn documents(&mut self, file: &str, folder: &str, variables: &Variables, asked: &Place) -> Vec<Node> {
        let documents = self.files.text(file, asked).map_err(Problems::from).and_then(|text| {
            let name = self.files.name(file);
            yaml::parse(&name, &text, yaml::Tags::Compose, &mut self.files.budget)
        });
        let documents = match documents {
            Ok(documents) => documents,
            Err(problems) => {
                self.problems.extend(problems.into_vec());
                return Vec::new();
            }
        };
        let mut long = Vec::with_capacity(documents.len());
        for mut document in documents {
            self.replace(&mut document, variables);
            let mut document = shaped(document, &mut self.problems, &mut self.faulty);
            rebase(&mut document, folder);
            long.push(document);
        }
        long
    }

    /// Replaces variables in a document, entry by entry.
    fn replace(&mut self, document: &mut Node, variables: &Variables) {
        let mut replacer = Replacer {
            variables,
            left: &mut self.files.expanded_left,
            notices: &mut self.notices,
            problems: &mut self.problems,
        };
        let Some(sections) = document.table_mut() else { return replacer.replace(document) };
        for (section, Entry { node, .. }) in sections {
            let Some(entries) = node.table_mut().filter(|_| is_section(section)) else {
                replacer.replace(node);
                continue;
            };
            for (name, entry) in entries {
                let before = replacer.problems.len();
                replacer.replace(&mut entry.node);
                self.faulty.note(section, name, before..replacer.problems.len());
            }
        }
    }

    /// What files of variables in a folder say, under what the environment says.
    fn variables(
        &mut self,
        folder: &str,
        files: &[String],
        needed: bool,
        asked: Option<&Place>,
    ) -> Variables {
        let mut variables = Variables::new();
        for file in files {
            let (path, environment) = (joined(folder, file), self.environment);
            let format = crate::env_file::Format::Compose;
            let found = self.env_file(&path, format, &[environment, &variables], needed, asked);
            for (name, value) in found {
                if let Some(value) = value {
                    variables.insert(name, value);
                }
            }
        }
        variables.extend(self.environment.clone());
        variables
    }

    fn note(&mut self, place: &Place, message: impl Into<String>) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(Notice::new(place, message));
        }
    }

    fn leave_out_inactive(&mut self, project: &mut Node) {
        let profiles = self.profiles;
        let is_active = |service: &Node| {
            let wanted = service.get("profiles").map(Node::items).unwrap_or_default();
            let is_asked = |name: &str| profiles.iter().any(|profile| profile == name || profile == "*");
            wanted.is_empty() || wanted.iter().filter_map(Node::text).any(is_asked)
        };
        let Some(services) = project.table_mut().and_then(|table| table.get_mut("services")) else { return };
        let Some(services) = services.node.table_mut() else { return };
        let (notices, inactive) = (&mut self.notices, &mut self.inactive);
        services.retain(|name, entry| {
            let active = is_active(&entry.node);
            if !active {
                let message =
                    format!("the service `{}` is left out: none of its profiles is active", shown(name));
                notices.push(Notice::new(&entry.place, message));
                inactive.push(name.clone());
            }
            active
        });
    }
}
