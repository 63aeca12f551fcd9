//! An app's folder: its manifest and its build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::sync::Once;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use wharf_builder::{
    BuildLimits, BuildPlan, Containers, DetectError, Folder, Kind, Network, Recipe, RustWay, Sandbox,
};
use wharf_types::manifest::{FILE_NAME, Manifest};
use wharf_types::{AppName, NamespaceName};

use crate::artifact;
use crate::declared;
use crate::exit::{self, Failure};
use crate::output;

/// The manifest in a folder, if there is one.
pub fn read_manifest(folder: &Path) -> anyhow::Result<Option<Manifest>> {
    let path = if folder == Path::new(".") { PathBuf::from(FILE_NAME) } else { folder.join(FILE_NAME) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
    };
    let manifest = declared::manifest::read(&path.display().to_string(), &text);
    manifest.map(Some).map_err(|wrong| Failure::invalid(wrong).into())
}

/// The app that the manifest in a folder names, also where something else in it is wrong, which is noted. None: it names none.
pub fn read_app(folder: &Path) -> anyhow::Result<Option<AppName>> {
    read_name(folder, "app", |manifest| Some(manifest.app))
}

/// The same of its namespace.
pub fn read_namespace(folder: &Path) -> anyhow::Result<Option<NamespaceName>> {
    read_name(folder, "namespace", |manifest| manifest.namespace)
}

/// A command that is about an app, or reads what there is, needs a name of the manifest and nothing else.
fn read_name<T: FromStr>(
    folder: &Path,
    key: &str,
    of: impl FnOnce(Manifest) -> Option<T>,
) -> anyhow::Result<Option<T>> {
    static NOTED: Once = Once::new();
    let error = match read_manifest(folder) {
        Ok(manifest) => return Ok(manifest.and_then(of)),
        Err(error) => error,
    };
    let Ok(octets) = std::fs::read(folder.join(FILE_NAME)) else { return Err(error) };
    let Ok(name) = name_in(&String::from_utf8_lossy(&octets), key) else { return Err(error) };
    NOTED.call_once(|| {
        let (text, _) = exit::told(&error);
        output::note(format!("note: {}; this does not matter here", output::printable(&text)));
    });
    Ok(name)
}

/// What stands at a key of a manifest that is not valid. An error: it cannot be said.
fn name_in<T: FromStr>(text: &str, key: &str) -> Result<Option<T>, ()> {
    let value = match text.parse::<toml::Table>() {
        Ok(mut table) => table.remove(key),
        // No table at all: lines are read alone, up to where another one begins.
        Err(_) => {
            let mut lines = text.lines().take_while(|line| !line.trim_start().starts_with('['));
            match lines.find(|line| line.split('=').next().is_some_and(|before| before.trim() == key)) {
                Some(line) => line.parse::<toml::Table>().map_err(drop)?.remove(key),
                None => None,
            }
        }
    };
    match value {
        None => Ok(None),
        Some(toml::Value::String(name)) => name.parse().map(Some).map_err(drop),
        Some(_) => Err(()),
    }
}

/// Runs the manifest's build command; what it prints goes to stderr.
pub async fn build(folder: &Path, command: &str) -> anyhow::Result<()> {
    crate::output::note(format!("building: {command}"));
    let status = tokio::process::Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .stdin(Stdio::null())
        // Our stdout is the command's result; a build's chatter is not part of it.
        .stdout(std::io::stderr())
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("could not start `sh` for the build in {}", folder.display()))?;
    if status.success() {
        return Ok(());
    }
    let how = match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    };
    Err(Failure::invalid(format!("the build failed with {how}: `{command}` in {}", folder.display()))
        .help("what it printed stands above; nothing was deployed")
        .into())
}

/// Finds out what kind of project a folder is, and builds it as its user does. None: there is nothing to be built, or nothing is known about it.
pub async fn make(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let tree = Folder::open(folder).with_context(|| format!("could not read {}", folder.display()))?;
    let detected = tokio::task::spawn_blocking(move || wharf_builder::detect(&tree, Containers::Allowed));
    let detection = match detected.await? {
        Ok(detection) => detection,
        // What the commands before looked for is looked for now, and said in their words.
        Err(DetectError::Nothing { .. } | DetectError::SeveralArtifacts { .. }) => return Ok(None),
        Err(error) => return Err(Failure::invalid(error.to_string()).into()),
    };
    let steps = match &detection.recipe {
        Recipe::Prebuilt(_) => return Ok(None),
        // What was built by hand counts before that.
        Recipe::Containers { .. } | Recipe::Stack { .. } if artifact::find_in(folder, None).is_ok() => {
            return Ok(None);
        }
        Recipe::Containers { file } | Recipe::Stack { file } => {
            return Err(for_an_engine(file, detection.kind).into());
        }
        recipe @ Recipe::Cargo(_) => recipe.steps(&Sandbox::Unconfined.rust(folder).await?),
        recipe @ Recipe::Command(_) => recipe.steps(&RustWay::Wasip2),
    };
    let Some(steps) = steps.filter(|steps| steps.command.is_some()) else { return Ok(None) };
    output::note(detection.to_string());
    detection.notes.iter().for_each(output::note);
    let plan = BuildPlan {
        app: None,
        part: None,
        tree: folder.to_owned(),
        steps,
        env: BTreeMap::new(),
        network: Network::Machine,
        limits: BuildLimits::default(),
    };
    let say = &mut |line: &str| output::note(line);
    let built = wharf_builder::run(&plan, &Sandbox::Unconfined, say, &CancellationToken::new()).await;
    let built = built.map_err(|failed| {
        Failure::invalid(failed.reason.to_string()).help("what it printed stands above; nothing was deployed")
    })?;
    Ok(Some(built.artifact))
}

/// What to do with a file for a container engine, which `wharf deploy` has none of.
pub fn for_an_engine(file: &str, kind: Kind) -> Failure {
    if kind == Kind::Compose {
        return Failure::invalid(format!("{file} is a compose file, whose services are deployed together"))
            .help(format!(
                "deploy them with `wharf stack deploy -c {file} NAME`, or with `wharf git remote NAME` and `git push wharf main`"
            ));
    }
    let option = if file == "Dockerfile" { String::new() } else { format!(" -f {file}") };
    Failure::invalid(format!("{file} is built by a container engine, and `wharf deploy` builds no images")).help(format!(
        "let the platform build it, with `wharf git remote` and `git push wharf main`; or build it here, with `docker build{option} -t \
         NAME .`, `docker save -o NAME.tar NAME` and `wharf deploy --image-archive NAME.tar`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn an_unknown_key_is_named_with_file_line_and_column() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), "app = \"a\"\n[scale]\nreplica = 2\n").unwrap();
        let error = read_manifest(folder.path()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.ends_with("wharf.toml:3:1: scale: there is no key `replica` here; did you mean `replicas`?"),
            "{text}"
        );
        assert_eq!(Exit::of(&error), Exit::Invalid);
    }

    #[test]
    fn a_bad_setting_is_named_with_its_field_and_place() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), "app = \"a\"\n[scale]\nreplicas = 5000\n").unwrap();
        let text = read_manifest(folder.path()).unwrap_err().to_string();
        assert!(text.ends_with("wharf.toml:3:1: scale.replicas: 5000 is more than 1000"), "{text}");
    }

    #[test]
    fn names_are_read_of_a_manifest_whatever_else_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
            let name = |name: anyhow::Result<Option<String>>| name.map_err(|error| error.to_string());
            let app = read_app(folder.path()).map(|app| app.map(|app| app.to_string()));
            let namespace = read_namespace(folder.path()).map(|name| name.map(|name| name.to_string()));
            (name(app), name(namespace))
        };
        let (a, blue) = (Some("a".to_owned()), Some("blue".to_owned()));
        for text in [
            "app = \"a\"\nnamespace = \"blue\"\n",
            "app = \"a\"\nnamespace = \"blue\"\n[scale]\nreplica = 2\n",
            "app = \"a\"\nnamespace = \"blue\"\n[scale]\nreplicas = 5000\n",
            "app = 'a' # comment\nbroken\n  namespace = \"blue\"\n[env]\napp = \"b\"\nX = \"\n",
        ] {
            assert_eq!(read(text), (Ok(a.clone()), Ok(blue.clone())), "{text}");
        }
        assert_eq!(read("namespace = \"blue\"\n[env\n"), (Ok(None), Ok(blue)));
        let (app, namespace) = read("app = \"a\"\nnamespace = \"blu\n");
        assert_eq!(app, Ok(a));
        assert!(namespace.unwrap_err().contains("wharf.toml:2:"), "what it says is not known");
        let (app, namespace) = read("app = \"No Name\"\nnamespace = 3\n");
        assert!(app.is_err() && namespace.is_err());
    }

    #[tokio::test]
    async fn of_what_an_engine_builds_it_is_said_what_to_run() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("Containerfile"), "FROM scratch\n").unwrap();
        let help = async || {
            let error = make(folder.path()).await.unwrap_err();
            crate::exit::told(&error).1.unwrap()
        };
        let said = help().await;
        assert!(said.contains("docker build -f Containerfile") && said.contains("git push wharf"), "{said}");
        std::fs::write(folder.path().join("compose.yaml"), "services: {}\n").unwrap();
        let said = help().await;
        assert!(said.contains("wharf stack deploy -c compose.yaml NAME"), "{said}");
        std::fs::create_dir(folder.path().join("dist")).unwrap();
        std::fs::write(folder.path().join("dist/app.wasm"), "").unwrap();
        assert_eq!(make(folder.path()).await.unwrap(), None, "what was built by hand is deployed");
    }

    #[tokio::test]
    async fn a_failed_build_says_its_exit_code() {
        let folder = tempfile::tempdir().unwrap();
        build(folder.path(), "touch made").await.unwrap();
        assert!(folder.path().join("made").exists());
        let error = build(folder.path(), "exit 7").await.unwrap_err();
        assert!(error.to_string().contains("exit code 7"), "{error}");
        assert_eq!(Exit::of(&error), Exit::Invalid);
    }
}
