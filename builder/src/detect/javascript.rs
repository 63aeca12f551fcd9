//! JavaScript projects for jco or componentize-js.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    ARTIFACT_FOLDERS, Artifact, DetectError, Detection, Kind, Language, Recipe, Steps, has_file, has_folder,
    shell, wit,
};
use crate::tree::{Entry, Tree};

const FILE: &str = "package.json";
const TOOLS: [&str; 2] = ["@bytecodealliance/jco", "@bytecodealliance/componentize-js"];
const SOURCES: [&str; 6] = ["app.js", "index.js", "main.js", "src/app.js", "src/index.js", "src/main.js"];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PackageJson {
    name: Option<String>,
    main: Option<String>,
    #[serde(default)]
    scripts: BTreeMap<String, String>,
    #[serde(default)]
    dependencies: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    dev_dependencies: BTreeMap<String, serde_json::Value>,
}

/// What was found, or why a package.json is not one of these projects.
pub(super) fn detect(
    tree: &dyn Tree,
    top: &[Entry],
) -> Result<(Option<Detection>, Option<String>), DetectError> {
    let Some(text) = tree.read(FILE)? else { return Ok((None, None)) };
    let package: PackageJson = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| DetectError::Syntax { file: FILE.to_owned(), source: Box::new(error) })?;
    let named = |tool: &&&str| {
        package.dependencies.contains_key(**tool) || package.dev_dependencies.contains_key(**tool)
    };
    let Some(tool) = TOOLS.iter().find(named) else {
        let because = format!("{FILE} names neither {} nor {} as a dependency", TOOLS[0], TOOLS[1]);
        return Ok((None, Some(because)));
    };
    let (run, artifact, how) = match package.scripts.get("build") {
        Some(script) => {
            ("npm run build".to_owned(), written_by(script, &package.scripts), "its script `build`")
        }
        None => (
            componentize(tree, top, tool, &package)?,
            Artifact::Path("app.wasm".to_owned()),
            "no script `build`",
        ),
    };
    let (install, run) = with_manager(top, &run);
    let name = package.name.as_deref().map(|name| format!("{name}, ")).unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
    let detection = Detection {
        kind: Kind::JavaScript,
        language: Language::JavaScript,
        found: format!("{FILE} ({name}{}, {how})", tool.trim_start_matches("@bytecodealliance/")),
        recipe: Recipe::Command(Steps {
            command: Some(format!("{install} && {run}")),
            artifact,
            kept: Vec::new(),
        }),
        notes: Vec::new(),
    };
    Ok((Some(detection), None))
}

/// How packages are installed and commands run, by whose lock file there is.
fn with_manager(top: &[Entry], run: &str) -> (&'static str, String) {
    let (install, npm, npx) = if has_file(top, "pnpm-lock.yaml") {
        ("pnpm install --frozen-lockfile", "pnpm run", "pnpm exec")
    } else if has_file(top, "yarn.lock") {
        ("yarn install --frozen-lockfile", "yarn run", "yarn run")
    } else if has_file(top, "package-lock.json") || has_file(top, "npm-shrinkwrap.json") {
        ("npm ci --no-audit --no-fund", "npm run", "npx --no-install")
    } else {
        ("npm install --no-audit --no-fund", "npm run", "npx --no-install")
    };
    let run = match (run.strip_prefix("npm run"), run.strip_prefix("npx")) {
        (Some(rest), _) => format!("{npm}{rest}"),
        (None, Some(rest)) => format!("{npx}{rest}"),
        (None, None) => run.to_owned(),
    };
    (install, run)
}

/// The file that a script says it writes, where all of the scripts that it may call say only one.
fn written_by(build: &str, scripts: &BTreeMap<String, String>) -> Artifact {
    let others =
        scripts.iter().filter(|(name, _)| name.starts_with("build")).map(|(_, script)| script.as_str());
    let mut files: Vec<&str> = outputs(build).collect();
    if files.is_empty() {
        files = others.flat_map(outputs).collect();
        files.sort_unstable();
        files.dedup();
    }
    match files.as_slice() {
        [.., last] if files.len() == 1 || outputs(build).count() > 0 => Artifact::Path((*last).to_owned()),
        _ => Artifact::OnlyOneIn(ARTIFACT_FOLDERS.map(str::to_owned).to_vec()),
    }
}

/// What follows `-o` or `--out` in a command, if it is a .wasm file.
fn outputs(script: &str) -> impl Iterator<Item = &str> {
    let words: Vec<&str> = script.split_whitespace().collect();
    let pairs: Vec<&str> = words
        .iter()
        .enumerate()
        .filter_map(|(at, word)| match word.strip_prefix("--out=") {
            Some(file) => Some(file),
            None if ["-o", "--out"].contains(word) => words.get(at + 1).copied(),
            None => None,
        })
        .collect();
    let plain = |file: &&str| file.ends_with(".wasm") && !file.contains(['$', '*', '`']);
    let unquoted = pairs.into_iter().map(|file| file.trim_matches(['"', '\'']));
    unquoted.filter(plain).map(|file| file.trim_start_matches("./"))
}

fn componentize(
    tree: &dyn Tree,
    top: &[Entry],
    tool: &str,
    package: &PackageJson,
) -> Result<String, DetectError> {
    let has = |path: &str| tree.read(path).is_ok_and(|text| text.is_some());
    let main = package.main.as_deref().map(|main| main.trim_start_matches("./"));
    let source = main.into_iter().chain(SOURCES).find(|path| has(path));
    let (Some(source), true) = (source, has_folder(top, "wit")) else {
        return Err(DetectError::NothingToBuild {
            file: FILE.to_owned(),
            what: "there is no script `build`, and not both a source (`main`, or app.js) and a folder `wit`".to_owned(),
            help: "Add a script `build` that writes a component, such as `jco componentize app.js --wit wit -o app.wasm`"
                .to_owned(),
        });
    };
    let world = match wit::worlds(tree, "wit")?.as_slice() {
        [world] => format!(" --world-name {world}"),
        // The tool says what is wrong, or takes the default.
        [] => String::new(),
        several => {
            return Err(DetectError::Ambiguous {
                file: FILE.to_owned(),
                what: "world in `wit`",
                choices: several.to_vec(),
                example: format!(
                    "command = \"npm install && npx {}\"\nartifact = \"app.wasm\"",
                    command(tool, source, &format!(" --world-name {}", several[0]))
                ),
            });
        }
    };
    Ok(format!("npx {}", command(tool, source, &world)))
}

fn command(tool: &str, source: &str, world: &str) -> String {
    let (program, out) =
        if tool == TOOLS[0] { ("jco componentize", "-o") } else { ("componentize-js", "--out") };
    format!("{program} {} --wit wit{world} {out} app.wasm", shell::quote(source))
}
