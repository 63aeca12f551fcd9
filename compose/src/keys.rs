//! Every key of the Compose Specification: how it is written, how two files are merged, and what Wharf does about it.
//!
//! The loader knows no other keys, so one that is not here is refused. `services.*.ports.*.target` is a path: `*` stands for a name that users
//! choose, and for an item of a list.

mod deploy;
mod project;
mod service;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::short::Short;

#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub path: &'static str,
    pub kind: Kind,
    /// Makes the long form of a short one.
    pub(crate) short: Option<Short>,
    pub(crate) merge: Merge,
    /// For what runs as WebAssembly, and for what is not about one service.
    pub app: Support,
    /// For what runs as a container.
    pub container: Support,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Honoured,
    /// Something else is done, which people are told.
    Translated(&'static str),
    /// The project is not deployed, for this reason.
    Refused(&'static str),
}

/// What a value looks like in its long form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With the keys that are listed below it.
    Table,
    /// With keys that users choose.
    Named,
    List,
    Text,
    Texts,
    /// A command line.
    Words,
    /// Texts by name, or a list of `NAME=value`. A name alone has no value.
    Pairs,
    /// Texts by name, in a table only.
    TextTable,
    Bool,
    Int,
    Number,
    Duration,
    Size,
    /// A size, or -1 for none.
    SizeOrNone,
    /// Permissions of a file.
    Mode,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Whatever it is.
    Any,
}

/// What a later file does to the value of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// Tables are merged, lists appended, others replaced.
    Usual,
    Replace,
    /// Items with the same values of these keys are merged, others appended.
    Unique(&'static [&'static str]),
}

impl Key {
    pub const fn new(path: &'static str, kind: Kind) -> Self {
        let (app, container) = (Support::Honoured, Support::Honoured);
        Self { path, kind, short: None, merge: Merge::Usual, app, container }
    }

    const fn short(self, short: Short) -> Self {
        Self { short: Some(short), ..self }
    }

    pub const fn app(self, app: Support) -> Self {
        Self { app, ..self }
    }

    pub const fn container(self, container: Support) -> Self {
        Self { container, ..self }
    }

    /// For whatever it runs as.
    pub const fn both(self, support: Support) -> Self {
        Self { app: support, container: support, ..self }
    }

    const fn replaced(self) -> Self {
        Self { merge: Merge::Replace, ..self }
    }

    const fn unique(self, by: &'static [&'static str]) -> Self {
        Self { merge: Merge::Unique(by), ..self }
    }
}

/// What is to be said of the mode of a folder in memory, in either form: the engine mounts it with the mode of what is there.
pub(crate) const TMPFS_MODE: &str =
    "it counts where the image has no such folder; one that the image has keeps its own mode";

/// All keys, each after the one that it is below.
pub fn all() -> impl Iterator<Item = &'static Key> {
    [project::KEYS, service::KEYS, deploy::KEYS].into_iter().flatten()
}

/// The keys as a tree.
#[derive(Debug, Default)]
pub struct Branch {
    key: Option<&'static Key>,
    children: BTreeMap<&'static str, Branch>,
}

static ROOT_KEY: Key = Key::new("", Kind::Table);
/// What stands below a table of names that says nothing of its values.
static ANY_KEY: Key = Key::new("", Kind::Any);

impl Branch {
    /// A table that has no keys yet.
    pub fn of_table() -> Self {
        Self { key: Some(&ROOT_KEY), children: BTreeMap::new() }
    }

    /// Adds keys below a path, or at the top where that is empty. Of two at the same place the later one counts.
    pub fn add(&mut self, at: &'static str, keys: &'static [Key]) {
        for key in keys {
            let parts = at.split('.').filter(|part| !part.is_empty()).chain(key.path.split('.'));
            let branch = parts.fold(&mut *self, |branch, part| branch.children.entry(part).or_default());
            branch.key = Some(key);
        }
    }

    pub fn key(&self) -> &'static Key {
        self.key.unwrap_or(&ANY_KEY)
    }

    /// What is known of an entry or an item.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.get(name).or_else(|| self.children.get("*"))
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.children.keys().copied().filter(|name| *name != "*")
    }

    /// The branch of a path, with names and numbers of items where the table has `*`.
    pub(crate) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |branch, part| branch.child(part))
    }
}

pub(crate) fn root() -> &'static Branch {
    static ROOT: OnceLock<Branch> = OnceLock::new();
    ROOT.get_or_init(|| {
        let mut root = Branch::of_table();
        [project::KEYS, service::KEYS, deploy::KEYS].into_iter().for_each(|keys| root.add("", keys));
        root
    })
}

/// What becomes of a key, and of what is around it if that is not honoured.
pub fn support(key: &Key, of: impl Fn(&Key) -> Support) -> Support {
    let mut branch = root();
    for part in key.path.split('.') {
        let Some(child) = branch.child(part) else { break };
        branch = child;
        let support = of(branch.key());
        if support != Support::Honoured {
            return support;
        }
    }
    Support::Honoured
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The key paths of the specification's schema, as facts.
    const SCHEMA: &str = include_str!("../tests/schema-paths.txt");

    #[test]
    fn the_table_has_every_key_of_the_schema_and_no_other() {
        let schema: BTreeSet<&str> = SCHEMA.lines().filter(|line| !line.starts_with('#')).collect();
        let ours: BTreeSet<&str> =
            all().map(|key| key.path).filter(|path| !path.contains("x-wharf")).collect();
        let missing: Vec<&&str> = schema.difference(&ours).collect();
        let unknown: Vec<&&str> = ours.difference(&schema).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:#?}\nunknown: {unknown:#?}");
    }

    #[test]
    fn no_key_is_there_twice_or_before_what_it_is_below() {
        let mut seen = BTreeSet::new();
        for key in all() {
            if let Some((parent, _)) = key.path.rsplit_once('.') {
                assert!(seen.contains(parent), "{} comes before `{parent}`", key.path);
            }
            assert!(seen.insert(key.path), "{} is there twice", key.path);
        }
    }

    #[test]
    fn what_is_done_instead_is_said_in_words() {
        for key in all() {
            for support in [key.app, key.container] {
                if let Support::Translated(words) | Support::Refused(words) = support {
                    assert!(words.len() > 15 && !words.ends_with('.'), "{}: {words}", key.path);
                }
            }
        }
    }
}
