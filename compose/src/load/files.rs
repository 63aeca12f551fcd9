//! Where texts come from, and how much of them may come.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::node::Place;
use crate::paths::{is_url, joined};
use crate::problem::{Problem, shown};
use crate::yaml::{BYTES_MAX, Budget, decoded};

/// In all, each as often as it is asked for.
const FILES_MAX: usize = 20_000;

/// Whatever has files: a disk, or a table in a test.
pub trait Reader {
    /// The content of a file.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] says that there is none, which some files may.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
}

pub(super) struct Files<'a> {
    reader: &'a dyn Reader,
    /// Of the project, as the reader knows it.
    folder: String,
    bytes_left: usize,
    files_left: usize,
    texts: HashMap<String, Rc<str>>,
    /// Of values with variables, and of all that files of variables have.
    pub(super) expanded_left: usize,
    pub(super) budget: Budget,
}

impl<'a> Files<'a> {
    pub(super) fn new(reader: &'a dyn Reader, folder: &str) -> Self {
        Self {
            reader,
            folder: folder.to_owned(),
            bytes_left: BYTES_MAX,
            files_left: FILES_MAX,
            texts: HashMap::new(),
            expanded_left: BYTES_MAX,
            budget: Budget::default(),
        }
    }

    /// A path that the caller named, relative to the folder of the project.
    pub(super) fn within(&self, file: &str) -> String {
        let folder = if self.folder.is_empty() { String::new() } else { format!("{}/", self.folder) };
        match file.strip_prefix(&folder).filter(|rest| !rest.starts_with('/')) {
            Some(rest) => joined("", rest),
            None if file.starts_with('/') => joined("", file),
            None => {
                let up =
                    "../".repeat(self.folder.split('/').filter(|part| !matches!(*part, "" | ".")).count());
                joined("", &format!("{up}{file}"))
            }
        }
    }

    /// As messages name it.
    pub(super) fn name(&self, file: &str) -> Arc<str> {
        self.path(file).into()
    }

    fn path(&self, file: &str) -> String {
        let path = joined(&self.folder, file);
        path.strip_prefix("./").map(str::to_owned).unwrap_or(path)
    }

    /// The text of a file; `asked` is where somebody named it.
    pub(super) fn text(&mut self, file: &str, asked: &Place) -> Result<Rc<str>, Problem> {
        let name = self.name(file);
        if is_url(file) {
            let message = format!(
                "`{}`: files are read beside this one, and not fetched; fetch it, and name the path",
                shown(file)
            );
            return Err(Problem::new(asked, message));
        }
        let text = self.find(file).map_err(|problem| match problem {
            Missing::NotThere => Problem::new(asked, format!("there is no file {name}")),
            Missing::Unreadable(message) => Problem::new(asked, message),
            Missing::Undecoded(problem) => problem,
        })?;
        Ok(text)
    }

    pub(super) fn find(&mut self, file: &str) -> Result<Rc<str>, Missing> {
        let path = self.path(file);
        let unreadable = |message: String| Missing::Unreadable(message);
        // One that is known counts as well: whoever asks understands it anew.
        self.files_left = self
            .files_left
            .checked_sub(1)
            .ok_or_else(|| unreadable(format!("the project reads more than {FILES_MAX} files; split it")))?;
        if let Some(text) = self.texts.get(file).cloned() {
            self.count(&path, text.len())?;
            return Ok(text);
        }
        let bytes = self.reader.read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Missing::NotThere,
            _ => unreadable(format!("could not read {path}: {error}")),
        })?;
        self.count(&path, bytes.len())?;
        let text: Rc<str> = decoded(&self.name(file), bytes).map_err(Missing::Undecoded)?.into();
        self.texts.insert(file.to_owned(), text.clone());
        Ok(text)
    }

    fn count(&mut self, path: &str, bytes: usize) -> Result<(), Missing> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(|| {
            Missing::Unreadable(format!(
                "{path}: the files are larger than {} MiB together, each as often as it is named; split the project",
                BYTES_MAX >> 20
            ))
        })?;
        Ok(())
    }
}

pub(super) enum Missing {
    NotThere,
    Unreadable(String),
    /// It is there, and is no text.
    Undecoded(Problem),
}
