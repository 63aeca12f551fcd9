//! What kind of project a tree is, and how it is built.
//!
//! The first of these that fits decides, so that the same tree always gives the same answer:
//!
//! 1. `[build]` of `wharf.toml`
//! 2. a Compose file that names a `.wasm` file beside it, or that its reader says comes first ([`ComposeRank`])
//! 3. one `.wasm` file at the top
//! 4. `Cargo.toml`
//! 5. Python for componentize-py: `requirements.txt` or `pyproject.toml` names it, or `app.py` beside a folder `wit`
//! 6. `package.json` with jco or componentize-js
//! 7. a Compose file
//! 8. a `Dockerfile`
//!
//! Nothing is run, and nothing outside of the tree is read. How a Cargo project is built depends on the Rust that is there, which is not
//! known here: see [`Recipe::steps`].

mod cargo;
mod error;
mod javascript;
mod python;
pub(crate) mod shell;
mod wit;

use std::fmt;

use wharf_types::manifest::{self, BuildSpec, Manifest};

pub use self::cargo::{CargoBuild, CargoTarget};
pub use self::error::DetectError;
use crate::rust::RustWay;
use crate::tree::{Entry, EntryKind, Tree};

/// Where builds leave their result when nobody says where, looked at in this order.
pub const ARTIFACT_FOLDERS: [&str; 6] =
    ["", "target/wasm32-wasip2/release", "target/wasm32-wasip1/release", "dist", "build", "out"];

const COMPOSE_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
const DOCKERFILES: [&str; 2] = ["Dockerfile", "Containerfile"];

/// Whether whoever deploys may run containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containers {
    Allowed,
    Refused,
}

/// How much a Compose file at the top counts, as whoever reads such files says: here nothing is known of what is in them. The text is what
/// stands behind its name where it decides, such as `which names api.wasm`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ComposeRank {
    /// Behind all that makes a component, unless the text names a `.wasm` file beside it: it may be there for a database on a laptop.
    #[default]
    Last,
    /// Before `.wasm` files, and behind sources.
    BeforeFiles(String),
    /// Before all but `[build]`.
    First(String),
}

/// What a tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    pub kind: Kind,
    pub language: Language,
    /// What was found, as a user reads it: `Cargo.toml (package hello, cdylib)`.
    pub found: String,
    pub recipe: Recipe,
    /// What a user should know beside that.
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `wharf.toml` says how.
    Manifest,
    Prebuilt,
    Cargo,
    ComponentizePy,
    JavaScript,
    Compose,
    Docker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Rust,
    Python,
    JavaScript,
    /// Nothing tells.
    Unknown,
}

/// How a tree becomes an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// It is there.
    Prebuilt(Artifact),
    Command(Steps),
    Cargo(CargoBuild),
    /// A file for a container engine; nothing is built here.
    Containers {
        file: String,
    },
    /// A Compose file, whose services each have an artifact of their own.
    Stack {
        file: String,
    },
}

/// A shell command, run in the tree, and what it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    /// None: nothing is to be run.
    pub command: Option<String>,
    pub artifact: Artifact,
    /// Folders of the tree that make the next build faster when they are kept.
    pub kept: Vec<String>,
}

/// Which file of the tree is the artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artifact {
    Path(String),
    /// The only `.wasm` file of the first of these folders that has any; the tree itself is the empty path.
    OnlyOneIn(Vec<String>),
}

impl Recipe {
    /// What is to be run here. None: it is for a container engine, or for more than one app.
    pub fn steps(&self, rust: &RustWay) -> Option<Steps> {
        match self {
            Self::Prebuilt(artifact) => {
                Some(Steps { command: None, artifact: artifact.clone(), kept: Vec::new() })
            }
            Self::Command(steps) => Some(steps.clone()),
            Self::Cargo(build) => Some(build.steps(rust)),
            Self::Containers { .. } | Self::Stack { .. } => None,
        }
    }
}

impl fmt::Display for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found: {}, so: ", self.found)?;
        match &self.recipe {
            Recipe::Containers { file } => write!(f, "a container engine takes {file}"),
            Recipe::Stack { file } => write!(f, "the services of {file} are deployed"),
            recipe => match recipe.steps(&RustWay::Wasip2).and_then(|steps| steps.command) {
                Some(command) => f.write_str(&command),
                None => f.write_str("nothing is built"),
            },
        }
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::OnlyOneIn(folders) => {
                let pattern = |folder: &String| match folder.as_str() {
                    "" => "*.wasm".to_owned(),
                    folder => format!("{folder}/*.wasm"),
                };
                f.write_str(&folders.iter().map(pattern).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Finds out what a tree is.
///
/// # Errors
/// When nothing fits, when more than one thing fits and a user has to choose, and when a file that decides cannot be understood. The
/// message says what to do.
pub fn detect(tree: &dyn Tree, containers: Containers) -> Result<Detection, DetectError> {
    detect_with(tree, containers, ComposeRank::Last)
}

/// The Compose file of a tree: one at its top, of the usual names.
pub fn compose_file(tree: &dyn Tree) -> Option<String> {
    first_file(&tree.list("").unwrap_or_default(), &COMPOSE_FILES)
}

/// [`detect`], where somebody has read the Compose file.
///
/// # Errors
/// As there.
pub fn detect_with(
    tree: &dyn Tree,
    containers: Containers,
    compose: ComposeRank,
) -> Result<Detection, DetectError> {
    let top = tree.list("").unwrap_or_default();
    let build = match tree.read(manifest::FILE_NAME)? {
        Some(text) => Manifest::parse(&text)?.build,
        None => None,
    };
    if let Some(detection) = build.and_then(|build| told(tree, build)) {
        return match (detection.recipe, containers) {
            (Recipe::Containers { file }, Containers::Refused) => {
                Err(DetectError::ContainersRefused { file })
            }
            (recipe, _) => Ok(Detection { recipe, ..detection }),
        };
    }
    let there = match stack_by_rank(&top, compose).or_else(|| stack_of_artifacts(tree, &top)) {
        Some(detection) => Some(detection),
        None => prebuilt(&top)?,
    };
    let mut detection = match there {
        Some(detection) => detection,
        None => first_project(tree, &top, containers)?,
    };
    detection.notes.extend(passed_over(detection.kind, &top));
    Ok(detection)
}

fn first_project(tree: &dyn Tree, top: &[Entry], containers: Containers) -> Result<Detection, DetectError> {
    if let Some(detection) = cargo::detect(tree)? {
        return Ok(detection);
    }
    if let Some(detection) = python::detect(tree, top)? {
        return Ok(detection);
    }
    let (javascript, looked_for) = javascript::detect(tree, top)?;
    if let Some(detection) = javascript {
        return Ok(detection);
    }
    if let Some(file) = first_file(top, &COMPOSE_FILES) {
        return Ok(stack(file));
    }
    match (first_file(top, &DOCKERFILES), containers) {
        (Some(file), Containers::Allowed) => Ok(for_containers(Kind::Docker, file)),
        (Some(file), Containers::Refused) => Err(DetectError::ContainersRefused { file }),
        (None, _) => Err(DetectError::nothing(top, looked_for)),
    }
}

/// What `[build]` says. A `[build]` with nothing in it says nothing.
fn told(tree: &dyn Tree, build: BuildSpec) -> Option<Detection> {
    if let Some(file) = build.dockerfile {
        let found = format!("wharf.toml (dockerfile {file})");
        return Some(Detection { found, ..for_containers(Kind::Docker, file) });
    }
    if let Some(file) = build.compose {
        let found = format!("wharf.toml (compose {file})");
        return Some(Detection { found, ..stack(file) });
    }
    let (found, recipe) = match (build.command, build.artifact) {
        (None, None) => return None,
        (None, Some(path)) => {
            (format!("wharf.toml (artifact {path})"), Recipe::Prebuilt(Artifact::Path(path)))
        }
        (Some(command), artifact) => {
            let artifact = artifact.map_or_else(
                || Artifact::OnlyOneIn(ARTIFACT_FOLDERS.map(str::to_owned).to_vec()),
                Artifact::Path,
            );
            let is_cargo = tree.read("Cargo.toml").is_ok_and(|text| text.is_some());
            let kept = if is_cargo { vec!["target".to_owned()] } else { Vec::new() };
            let steps = Steps { command: Some(command), artifact, kept };
            ("wharf.toml ([build] command)".to_owned(), Recipe::Command(steps))
        }
    };
    Some(Detection { kind: Kind::Manifest, language: Language::Unknown, found, recipe, notes: Vec::new() })
}

/// A Compose file that comes before what else is at the top, by what its reader says.
fn stack_by_rank(top: &[Entry], rank: ComposeRank) -> Option<Detection> {
    let why = match rank {
        ComposeRank::First(why) => why,
        ComposeRank::BeforeFiles(why) if files(top).any(|name| name.ends_with(".wasm")) => why,
        ComposeRank::BeforeFiles(_) | ComposeRank::Last => return None,
    };
    let file = first_file(top, &COMPOSE_FILES)?;
    Some(Detection { found: format!("{file}, {why}"), ..stack(file) })
}

/// A Compose file whose services run what lies beside it: a `.wasm` file there is no app of its own then.
fn stack_of_artifacts(tree: &dyn Tree, top: &[Entry]) -> Option<Detection> {
    let file = first_file(top, &COMPOSE_FILES)?;
    // What is wrong with it is told by whoever reads it as a Compose file.
    let text = tree.read(&file).ok().flatten()?;
    let named = files(top).find(|name| name.ends_with(".wasm") && is_named(&text, name))?;
    Some(Detection { found: format!("{file}, which names {named}"), ..stack(file) })
}

/// Whether a text has the name of a file, and not only one that ends in it.
fn is_named(text: &str, name: &str) -> bool {
    let is_of_name = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | '/');
    let before = |at: usize| text.get(..at).unwrap_or_default().trim_end_matches("./");
    text.match_indices(name).any(|(at, _)| !before(at).ends_with(is_of_name))
}

fn prebuilt(top: &[Entry]) -> Result<Option<Detection>, DetectError> {
    let files = files(top).filter(|name| name.ends_with(".wasm"));
    let files: Vec<String> = files.map(str::to_owned).collect();
    match files.as_slice() {
        [] => Ok(None),
        [file] => Ok(Some(Detection {
            kind: Kind::Prebuilt,
            language: Language::Unknown,
            found: file.clone(),
            recipe: Recipe::Prebuilt(Artifact::Path(file.clone())),
            notes: Vec::new(),
        })),
        _ => Err(DetectError::SeveralArtifacts { files }),
    }
}

fn for_containers(kind: Kind, file: String) -> Detection {
    Detection {
        kind,
        language: Language::Unknown,
        found: file.clone(),
        recipe: Recipe::Containers { file },
        notes: Vec::new(),
    }
}

fn stack(file: String) -> Detection {
    Detection {
        kind: Kind::Compose,
        language: Language::Unknown,
        found: file.clone(),
        recipe: Recipe::Stack { file },
        notes: Vec::new(),
    }
}

/// Says which other projects are there, because the order may not be what a user had in mind.
fn passed_over(kind: Kind, top: &[Entry]) -> Option<String> {
    let others = [
        (Kind::Cargo, &["Cargo.toml"][..]),
        (Kind::ComponentizePy, &["pyproject.toml", "requirements.txt"]),
        (Kind::JavaScript, &["package.json"]),
        (Kind::Compose, &COMPOSE_FILES),
        (Kind::Docker, &DOCKERFILES),
    ];
    let found = others.iter().filter(|(other, _)| *other != kind);
    let found: Vec<String> = found.filter_map(|(_, names)| first_file(top, names)).collect();
    (!found.is_empty())
        .then(|| format!("also here, and not used: {}; `[build]` in wharf.toml chooses", found.join(", ")))
}

fn first_file(top: &[Entry], names: &[&str]) -> Option<String> {
    names.iter().find(|name| has_file(top, name)).map(|&name| name.to_owned())
}

fn files(entries: &[Entry]) -> impl Iterator<Item = &str> {
    entries.iter().filter(|entry| entry.kind == EntryKind::File).map(|entry| entry.name.as_str())
}

fn has_file(entries: &[Entry], name: &str) -> bool {
    files(entries).any(|file| file == name)
}

fn has_folder(entries: &[Entry], name: &str) -> bool {
    entries.iter().any(|entry| entry.kind == EntryKind::Folder && entry.name == name)
}

#[cfg(test)]
mod tests;
