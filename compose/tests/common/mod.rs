//! Files in memory, and short ways to load them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each suite uses some of it")]

use std::collections::BTreeMap;
use std::io;

use wharf_compose::{Project, Reader, Variables, load};

#[derive(Default)]
pub(crate) struct Memory(pub(crate) BTreeMap<String, Vec<u8>>);

impl Memory {
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect())
    }
}

impl Reader for Memory {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

pub(crate) fn environment(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads the first file, and all that it refers to.
pub(crate) fn project_of(files: &[(&str, &str)]) -> Result<Project, String> {
    loaded(&[files[0].0], files, &[], &[])
}

pub(crate) fn loaded(
    named: &[&str],
    files: &[(&str, &str)],
    profiles: &[&str],
    variables: &[(&str, &str)],
) -> Result<Project, String> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    load(&texts(named), &texts(profiles), &environment(variables), &Memory::of(files))
        .map_err(|error| error.to_string())
}

pub(crate) fn project(text: &str) -> Project {
    project_of(&[("compose.yaml", text)]).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What is wrong with a file.
pub(crate) fn refused(text: &str) -> String {
    match project_of(&[("compose.yaml", text)]) {
        Ok(project) => panic!("it loads:\n{}", project.to_yaml()),
        Err(error) => error,
    }
}

/// One service, given by its settings.
pub(crate) fn service(settings: &str) -> String {
    let indented: String = settings.lines().map(|line| format!("    {line}\n")).collect();
    format!("services:\n  web:\n    image: nginx\n{indented}")
}

pub(crate) fn json(project: &Project, path: &str) -> serde_json::Value {
    let mut value = &project.tree.to_json();
    for part in path.split('.') {
        value = match part.parse::<usize>() {
            Ok(index) => &value[index],
            Err(_) => &value[part],
        };
    }
    value.clone()
}
