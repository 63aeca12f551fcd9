//! Compose files for tests, without a disk.

use std::io;

use wharf_compose::{Context, Project, Reader, Translation, Variables};

/// One file, and no other.
struct One(Vec<u8>);

impl Reader for One {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        if path == "compose.yaml" { Ok(self.0.clone()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

pub(super) fn project(yaml: &str) -> Project {
    let files = ["compose.yaml".to_owned()];
    wharf_compose::load(&files, &[], &Variables::new(), &One(yaml.into())).unwrap()
}

pub(super) fn translation(yaml: &str) -> Translation {
    wharf_compose::translate(&project(yaml), &Context::default()).unwrap()
}
