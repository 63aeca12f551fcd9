//! Python projects for componentize-py.

use serde::Deserialize;

use super::{
    Artifact, DetectError, Detection, Kind, Language, Recipe, Steps, files, has_file, has_folder, shell, wit,
};
use crate::tree::{Entry, Tree};

const TOOL: &str = "componentize-py";
const VENV: &str = ".venv";

#[derive(Debug, Default, Deserialize)]
struct Pyproject {
    #[serde(default)]
    project: Project,
    #[serde(default, rename = "dependency-groups")]
    groups: toml::Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Project {
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(default)]
    optional_dependencies: toml::Table,
}

pub(super) fn detect(tree: &dyn Tree, top: &[Entry]) -> Result<Option<Detection>, DetectError> {
    let Some((file, install)) = requirements(tree, top)? else { return Ok(None) };
    if !has_folder(top, "wit") {
        return Err(nothing(
            &file,
            "there is no folder `wit` with the world that the app is written for".to_owned(),
        ));
    }
    let world = match wit::worlds(tree, "wit")?.as_slice() {
        [world] => world.clone(),
        [] => return Err(nothing(&file, "the files in `wit` define no world".to_owned())),
        several => return Err(ambiguous(&file, "world in `wit`", several, &several[0], "app")),
    };
    let module = module(top, &file, &world)?;
    let command = format!(
        "python3 -m venv {VENV} && {VENV}/bin/pip install --quiet --disable-pip-version-check {install} && {}",
        componentize(&world, &module)
    );
    Ok(Some(Detection {
        kind: Kind::ComponentizePy,
        language: Language::Python,
        found: format!("{file} ({TOOL}, module {module}, world {world})"),
        recipe: Recipe::Command(Steps {
            command: Some(command),
            artifact: Artifact::Path("app.wasm".to_owned()),
            kept: Vec::new(),
        }),
        notes: Vec::new(),
    }))
}

fn componentize(world: &str, module: &str) -> String {
    format!("{VENV}/bin/{TOOL} -d wit -w {world} componentize {} -o app.wasm", shell::quote(module))
}

/// The file that makes this a project for componentize-py, and what pip is to install.
fn requirements(tree: &dyn Tree, top: &[Entry]) -> Result<Option<(String, String)>, DetectError> {
    if let Some(text) = tree.read("requirements.txt")?
        && text.lines().any(names_tool)
    {
        return Ok(Some(("requirements.txt".to_owned(), "-r requirements.txt".to_owned())));
    }
    if let Some(text) = tree.read("pyproject.toml")? {
        let project: Pyproject = toml::from_str(&text).map_err(|error| DetectError::Syntax {
            file: "pyproject.toml".to_owned(),
            source: Box::new(error),
        })?;
        if let Some(packages) = packages(&project, &text) {
            return Ok(Some(("pyproject.toml".to_owned(), packages)));
        }
    }
    let is_app = has_file(top, "app.py") && has_folder(top, "wit");
    Ok(is_app.then(|| ("app.py".to_owned(), TOOL.to_owned())))
}

/// What a pyproject.toml asks for together with componentize-py. None: it does not name that.
fn packages(project: &Pyproject, text: &str) -> Option<String> {
    let tables = project.groups.values().chain(project.project.optional_dependencies.values());
    let groups = tables.filter_map(toml::Value::as_array).map(|group| {
        group.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect::<Vec<String>>()
    });
    let mut packages = project.project.dependencies.clone();
    packages.extend(groups.filter(|group| group.iter().any(|it| names_tool(it))).flatten());
    if !packages.iter().any(|package| names_tool(package)) {
        // Poetry and others have tables of their own.
        if !text.lines().any(|line| names_tool(line.trim_start_matches('"'))) {
            return None;
        }
        packages.push(TOOL.to_owned());
    }
    Some(packages.iter().map(|package| shell::quote(package)).collect::<Vec<_>>().join(" "))
}

/// Whether a requirement such as `componentize-py==0.17` is one of componentize-py.
fn names_tool(requirement: &str) -> bool {
    let name: String = requirement
        .trim()
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .map(|c| if c == '_' || c == '.' { '-' } else { c.to_ascii_lowercase() })
        .collect();
    name == TOOL
}

fn module(top: &[Entry], file: &str, world: &str) -> Result<String, DetectError> {
    if has_file(top, "app.py") {
        return Ok("app".to_owned());
    }
    let modules = files(top).filter_map(|name| name.strip_suffix(".py"));
    let modules: Vec<String> = modules.filter(|name| *name != "setup").map(str::to_owned).collect();
    match modules.as_slice() {
        [] => Err(nothing(file, "there is no module: neither `app.py` nor another .py file".to_owned())),
        [module] => Ok(module.clone()),
        several => Err(ambiguous(file, "module", several, world, &several[0])),
    }
}

fn nothing(file: &str, what: String) -> DetectError {
    DetectError::NothingToBuild {
        file: file.to_owned(),
        what,
        help: "Add it, or say how the app is built in wharf.toml (`[build]` with `command` and `artifact`)"
            .to_owned(),
    }
}

fn ambiguous(file: &str, what: &'static str, choices: &[String], world: &str, module: &str) -> DetectError {
    DetectError::Ambiguous {
        file: file.to_owned(),
        what,
        choices: choices.to_vec(),
        example: format!("command = \"{}\"\nartifact = \"app.wasm\"", componentize(world, module)),
    }
}
