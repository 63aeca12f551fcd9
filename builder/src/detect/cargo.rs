//! Cargo projects: which of their targets is the app, and where Cargo leaves it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Artifact, DetectError, Detection, Kind, Language, Recipe, Steps, has_file, shell};
use crate::rust::RustWay;
use crate::tree::{EntryKind, Tree};

const FILE: &str = "Cargo.toml";
const SDK: &str = "wharf-sdk";
/// Members of a workspace beyond this many are not looked at.
const MEMBERS_MAX: usize = 500;

/// A target of a Cargo project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CargoBuild {
    /// None: that of the folder.
    pub package: Option<String>,
    /// None: there is no other.
    pub target: Option<CargoTarget>,
    /// Of the file that is made, without `.wasm`.
    pub file_stem: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CargoTarget {
    Lib,
    Bin(String),
}

impl CargoBuild {
    pub(super) fn steps(&self, rust: &RustWay) -> Steps {
        let (command, artifact) = rust.command(self);
        Steps { command: Some(command), artifact: Artifact::Path(artifact), kept: vec!["target".to_owned()] }
    }

    /// What chooses this target on a command line, with a space before it.
    pub(crate) fn arguments(&self) -> String {
        let package = self.package.as_ref().map(|name| format!(" --package {}", shell::quote(name)));
        let target = self.target.as_ref().map(|target| match target {
            CargoTarget::Lib => " --lib".to_owned(),
            CargoTarget::Bin(name) => format!(" --bin {}", shell::quote(name)),
        });
        package.unwrap_or_default() + &target.unwrap_or_default()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CargoToml {
    package: Option<Package>,
    lib: Option<Target>,
    #[serde(default)]
    bin: Vec<Target>,
    workspace: Option<Workspace>,
    #[serde(default)]
    dependencies: BTreeMap<String, toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Package {
    name: String,
    default_run: Option<String>,
    #[serde(default = "yes")]
    autobins: bool,
    #[serde(flatten)]
    rest: BTreeMap<String, toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Target {
    name: Option<String>,
    path: Option<String>,
    #[serde(default, alias = "crate_type")]
    crate_type: Vec<String>,
    #[serde(default)]
    required_features: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Workspace {
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    default_members: Option<Vec<String>>,
}

const fn yes() -> bool {
    true
}

/// A package, and what of it could be the app.
#[derive(Debug)]
struct Found {
    name: String,
    uses_sdk: bool,
    targets: Vec<CargoTarget>,
    /// The name of the library as Cargo writes it to disk.
    lib_stem: String,
    /// Whether it takes settings from a workspace, whose root is the folder itself or above.
    inherits: bool,
}

impl Found {
    fn build(&self, target: &CargoTarget, in_workspace: bool) -> CargoBuild {
        CargoBuild {
            package: in_workspace.then(|| self.name.clone()),
            target: (self.targets.len() > 1).then(|| target.clone()),
            file_stem: match target {
                CargoTarget::Lib => self.lib_stem.clone(),
                // Dashes stay in the names of programs, and only there.
                CargoTarget::Bin(name) => name.clone(),
            },
        }
    }
}

pub(super) fn detect(tree: &dyn Tree) -> Result<Option<Detection>, DetectError> {
    let Some(root) = read(tree, FILE)? else { return Ok(None) };
    let own = root.package.as_ref().map(|_| package(tree, "", &root)).transpose()?.flatten();
    let (found, in_workspace) = match (own, &root.workspace) {
        (Some(found), workspace) if !found.targets.is_empty() || workspace.is_none() => (found, false),
        (_, Some(workspace)) => (member(tree, workspace)?, true),
        (_, None) => {
            return Err(nothing("it has neither a package nor a workspace".to_owned()));
        }
    };
    let target = choose(&found, root.package.as_ref().and_then(|package| package.default_run.as_deref()))?;
    let build = found.build(&target, in_workspace);
    let mut notes = Vec::new();
    if found.inherits && root.workspace.is_none() {
        notes.push(format!(
            "package {} belongs to a workspace above this folder; Cargo leaves what it builds there, and a build that has only \
             this folder fails: deploy the workspace, and choose the package in its wharf.toml",
            found.name
        ));
    }
    if has_toolchain_file(tree) {
        notes.push("rust-toolchain.toml is followed only where the build runs with rustup".to_owned());
    }
    Ok(Some(Detection {
        kind: Kind::Cargo,
        language: Language::Rust,
        found: words(&found, &target),
        recipe: Recipe::Cargo(build),
        notes,
    }))
}

/// `Cargo.toml (package hello, cdylib, with wharf-sdk)`.
fn words(found: &Found, target: &CargoTarget) -> String {
    let target = match target {
        CargoTarget::Lib => "cdylib".to_owned(),
        CargoTarget::Bin(name) if *name == found.name => "program".to_owned(),
        CargoTarget::Bin(name) => format!("program {name}"),
    };
    let sdk = if found.uses_sdk { ", with wharf-sdk" } else { "" };
    format!("{FILE} (package {}, {target}{sdk})", found.name)
}

/// The app among a package's targets. Nobody makes a cdylib by accident, so it comes before programs.
fn choose(found: &Found, default_run: Option<&str>) -> Result<CargoTarget, DetectError> {
    let bin = |name: &str| found.targets.iter().find(|it| matches!(it, CargoTarget::Bin(bin) if bin == name));
    if let Some(target) = default_run.and_then(bin) {
        return Ok(target.clone());
    }
    match found.targets.as_slice() {
        [] => Err(nothing(format!(
            "package {} is a library that nothing can run: there is neither a program nor a cdylib",
            found.name
        ))),
        [target] | [target @ CargoTarget::Lib, ..] => Ok(target.clone()),
        several => {
            let names = several.iter().filter_map(|target| match target {
                CargoTarget::Bin(name) => Some(name.clone()),
                CargoTarget::Lib => None,
            });
            let choices: Vec<String> = names.collect();
            Err(ambiguous("program", &format!("--bin {}", choices[0]), &choices[0], &choices))
        }
    }
}

/// The only member of a workspace that could be the app.
fn member(tree: &dyn Tree, workspace: &Workspace) -> Result<Found, DetectError> {
    let patterns = workspace.default_members.as_ref().unwrap_or(&workspace.members);
    let mut apps = Vec::new();
    for folder in members(tree, patterns, &workspace.exclude) {
        let Some(manifest) = read(tree, &format!("{folder}/{FILE}"))? else { continue };
        apps.extend(package(tree, &folder, &manifest)?.filter(|found| !found.targets.is_empty()));
    }
    match apps.len() {
        0 => Err(nothing("no member of the workspace is a program or a cdylib".to_owned())),
        1 => Ok(apps.remove(0)),
        _ => {
            let choices: Vec<String> = apps.iter().map(|found| found.name.clone()).collect();
            let first = &apps[0];
            let stem = first.build(&first.targets[0], true).file_stem;
            Err(ambiguous(
                "package with a program or a cdylib",
                &format!("--package {}", first.name),
                &stem,
                &choices,
            ))
        }
    }
}

/// Folders that patterns such as `crates/*` stand for.
fn members(tree: &dyn Tree, patterns: &[String], exclude: &[String]) -> Vec<String> {
    let mut folders = Vec::new();
    for pattern in patterns {
        let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
        let (parent, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
        if !last.contains('*') {
            folders.push(pattern.to_owned());
            continue;
        }
        let below = tree.list(parent).unwrap_or_default().into_iter();
        let below = below.filter(|entry| entry.kind == EntryKind::Folder && matches(last, &entry.name));
        folders.extend(below.map(|entry| join(parent, &entry.name)));
    }
    folders.retain(|folder| !exclude.iter().any(|it| it.trim_end_matches('/') == folder));
    folders.sort();
    folders.dedup();
    folders.truncate(MEMBERS_MAX);
    folders
}

/// A pattern with at most one `*`; more are not looked through.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn package(tree: &dyn Tree, folder: &str, manifest: &CargoToml) -> Result<Option<Found>, DetectError> {
    let Some(package) = &manifest.package else { return Ok(None) };
    if !is_name(&package.name) {
        return Err(nothing(format!("`{}` is no name of a package", package.name.escape_debug())));
    }
    let mut targets = Vec::new();
    let is_cdylib = |lib: &Target| lib.crate_type.iter().any(|kind| kind == "cdylib");
    if manifest.lib.as_ref().is_some_and(is_cdylib) {
        targets.push(CargoTarget::Lib);
    }
    targets.extend(programs(tree, folder, package, &manifest.bin).into_iter().map(CargoTarget::Bin));
    let lib_name = manifest.lib.as_ref().and_then(|lib| lib.name.as_ref()).unwrap_or(&package.name);
    let inherits = package.rest.values().any(|value| value.get("workspace").is_some())
        || package.rest.contains_key("workspace");
    Ok(Some(Found {
        name: package.name.clone(),
        uses_sdk: manifest.dependencies.contains_key(SDK),
        targets,
        lib_stem: lib_name.replace('-', "_"),
        inherits,
    }))
}

/// Names of programs, as Cargo finds them. One that needs features is built only when somebody asks for it.
fn programs(tree: &dyn Tree, folder: &str, package: &Package, declared: &[Target]) -> Vec<String> {
    let mut found = if package.autobins { sources(tree, folder, &package.name) } else { Vec::new() };
    for bin in declared {
        let Some(name) = bin.name.as_ref().filter(|name| is_name(name)) else { continue };
        // A declaration takes the place of what is found in its file.
        found.retain(|(path, found)| found != name && Some(path) != bin.path.as_ref());
        if bin.required_features.is_empty() {
            found.push((String::new(), name.clone()));
        }
    }
    found.into_iter().map(|(_, name)| name).collect()
}

/// Files that are programs by where they lie, and the names of these.
fn sources(tree: &dyn Tree, folder: &str, package: &str) -> Vec<(String, String)> {
    let has_main = |below: &str| tree.list(&join(folder, below)).is_some_and(|it| has_file(&it, "main.rs"));
    let mut found = Vec::new();
    if has_main("src") {
        found.push(("src/main.rs".to_owned(), package.to_owned()));
    }
    for entry in tree.list(&join(folder, "src/bin")).unwrap_or_default() {
        if !is_name(entry.name.trim_end_matches(".rs")) {
            continue;
        }
        let path = format!("src/bin/{}", entry.name);
        match (entry.kind, entry.name.strip_suffix(".rs")) {
            (EntryKind::File, Some(stem)) => found.push((path, stem.to_owned())),
            (EntryKind::Folder, _) if has_main(&path) => found.push((format!("{path}/main.rs"), entry.name)),
            _ => {}
        }
    }
    found
}

/// The letters that Cargo allows, which are also harmless in a command and on a terminal.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
}

fn read(tree: &dyn Tree, path: &str) -> Result<Option<CargoToml>, DetectError> {
    let Some(text) = tree.read(path)? else { return Ok(None) };
    toml::from_str(&text)
        .map(Some)
        .map_err(|error| DetectError::Syntax { file: path.to_owned(), source: Box::new(error) })
}

fn has_toolchain_file(tree: &dyn Tree) -> bool {
    let top = tree.list("").unwrap_or_default();
    has_file(&top, "rust-toolchain.toml") || has_file(&top, "rust-toolchain")
}

fn nothing(what: String) -> DetectError {
    DetectError::NothingToBuild {
        file: FILE.to_owned(),
        what,
        help: "Add a `src/main.rs`, or `crate-type = [\"cdylib\"]` to `[lib]`".to_owned(),
    }
}

fn ambiguous(what: &'static str, argument: &str, stem: &str, choices: &[String]) -> DetectError {
    let example = format!(
        "command = \"cargo build --release --target wasm32-wasip2 {argument}\"\n\
         artifact = \"target/wasm32-wasip2/release/{stem}.wasm\""
    );
    DetectError::Ambiguous { file: FILE.to_owned(), what, choices: choices.to_vec(), example }
}
