//! An app's folder: its manifest, its build, and the artifact that comes out.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use bytes::Bytes;
use wharf_types::AppName;
use wharf_types::manifest::{BuildSpec, FILE_NAME, Manifest, ManifestError};

use crate::exit::{Exit, Failure};

/// The largest artifact that is pushed.
pub const ARTIFACT_MAX_BYTES: u64 = 256 << 20;

/// What every module and component begins with.
const MAGIC: [u8; 4] = *b"\0asm";

/// Where toolchains leave their result, looked at in this order.
const ARTIFACT_FOLDERS: [&str; 6] =
    [".", "target/wasm32-wasip2/release", "target/wasm32-wasip1/release", "dist", "build", "out"];

/// The manifest in a folder, if there is one.
pub fn read_manifest(folder: &Path) -> anyhow::Result<Option<Manifest>> {
    let path = if folder == Path::new(".") { PathBuf::from(FILE_NAME) } else { folder.join(FILE_NAME) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
    };
    match Manifest::parse(&text) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) => Err(manifest_failure(&path, &text, &error).into()),
    }
}

/// One sentence with file and line: `wharf.toml, line 3: unknown field …`.
fn manifest_failure(path: &Path, text: &str, error: &ManifestError) -> Failure {
    let path = path.display();
    match error {
        ManifestError::Syntax(error) => {
            let message = error.message().trim_end_matches('.').replace('\n', ", ");
            let message = match error.span() {
                Some(span) => format!("{path}, {}: {message}", place(text, span.start)),
                None => format!("{path}: {message}"),
            };
            Failure::invalid(message)
        }
        ManifestError::Spec(error) => Failure::invalid(format!("{path}: {error}")),
    }
}

/// `line 3, column 1 (`replica = 2`)`, counted from 1.
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line_number = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let line: String =
        text.lines().nth(line_number - 1).unwrap_or_default().trim().chars().take(80).collect();
    format!("line {line_number}, column {column} (`{line}`)")
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

/// The artifact of a folder: the one that the manifest names, or the only `.wasm` where builds leave theirs.
pub fn find_artifact(folder: &Path, build: Option<&BuildSpec>) -> anyhow::Result<PathBuf> {
    if let Some(artifact) = build.and_then(|build| build.artifact.as_ref()) {
        let path = folder.join(artifact);
        if path.is_file() {
            return Ok(path);
        }
        let message = format!("there is no {}, which {FILE_NAME} names as the artifact", path.display());
        return Err(Failure::invalid(message)
            .help("does `build.command` write it? a CARGO_TARGET_DIR moves it")
            .into());
    }
    for candidate in ARTIFACT_FOLDERS {
        let candidate = if candidate == "." { folder.to_owned() } else { folder.join(candidate) };
        let mut found = wasm_files(&candidate);
        match found.len() {
            0 => continue,
            1 => return Ok(found.remove(0)),
            _ => {
                let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
                let message = format!("there are several artifacts: {}", names.join(", "));
                return Err(Failure::invalid(message)
                    .help(format!(
                        "name one: `wharf deploy {}`, or `build.artifact` in {FILE_NAME}",
                        names[0]
                    ))
                    .into());
            }
        }
    }
    let message =
        format!("there is no .wasm file in {}; looked in {}", folder.display(), ARTIFACT_FOLDERS.join(", "));
    Err(Failure::invalid(message)
        .help(format!(
            "build it first, set `build.command` in {FILE_NAME}, or name the file: `wharf deploy FILE.wasm`"
        ))
        .into())
}

fn wasm_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_wasm =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wasm") && path.is_file();
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_wasm).collect();
    found.sort();
    found
}

/// Reads an artifact after the checks that need no platform. No more than the largest artifact is ever held.
pub fn read_artifact(path: &Path) -> anyhow::Result<Bytes> {
    let shown = path.display();
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(Exit::NotFound, format!("there is no file {shown}")).into());
        }
        Err(error) => return Err(error).with_context(|| format!("could not read {shown}")),
    };
    if file.metadata().with_context(|| format!("could not read {shown}"))?.is_dir() {
        return Err(Failure::invalid(format!("{shown} is a folder, not a .wasm file")).into());
    }
    let mut content = Vec::new();
    let mut read = |content: &mut Vec<u8>, bytes: u64| {
        file.by_ref()
            .take(bytes)
            .read_to_end(content)
            .map(drop)
            .with_context(|| format!("could not read {shown}"))
    };
    read(&mut content, MAGIC.len() as u64)?;
    check_start(&content).map_err(|problem| {
        let failure = Failure::invalid(format!("{shown} {problem}"));
        match suggestion(Path::new(".")) {
            Some(help) => failure.help(help),
            None => failure,
        }
    })?;
    // One octet more than is allowed tells that there is more.
    read(&mut content, ARTIFACT_MAX_BYTES + 1 - MAGIC.len() as u64)?;
    if content.len() as u64 > ARTIFACT_MAX_BYTES {
        let max = crate::output::bytes(ARTIFACT_MAX_BYTES);
        return Err(
            Failure::invalid(format!("{shown} is larger than {max}, the most for an artifact")).into()
        );
    }
    Ok(content.into())
}

/// Whether something that starts so may be an artifact.
fn check_start(start: &[u8]) -> Result<(), String> {
    if start.is_empty() {
        return Err("is empty: did the build finish?".to_owned());
    }
    if start == MAGIC {
        return Ok(());
    }
    let hint = if start.starts_with(b"(") {
        "it looks like the text format, which `wasm-tools parse` translates"
    } else {
        "a component or a WASI 0.1 module was expected"
    };
    Err(format!("is not WebAssembly (it does not begin with \\0asm): {hint}"))
}

/// Where an artifact may be, for somebody in this folder who named something else.
fn suggestion(folder: &Path) -> Option<String> {
    let folders = ARTIFACT_FOLDERS.iter().map(|name| folder.join(name));
    let found = folders.flat_map(|folder| wasm_files(&folder)).find(|path| starts_like_an_artifact(path))?;
    let found = found.strip_prefix(".").unwrap_or(&found);
    Some(format!("did you mean {}?", found.display()))
}

fn starts_like_an_artifact(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == MAGIC
}

/// The name that an artifact's file suggests: `target/hello_world.wasm` gives `hello-world`.
pub fn app_name_of_file(path: &Path) -> Option<AppName> {
    let stem = path.file_stem()?.to_str()?;
    stem.to_ascii_lowercase().replace(['_', '.', ' '], "-").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_becomes_an_apps_name_where_it_is_one() {
        let name = |path: &str| app_name_of_file(Path::new(path)).map(|name| name.to_string());
        assert_eq!(name("hello.wasm").as_deref(), Some("hello"));
        assert_eq!(name("target/My_App.component.wasm").as_deref(), Some("my-app-component"));
        assert_eq!(name("über.wasm"), None);
        assert_eq!(name("_.wasm"), None);
        assert_eq!(name(&format!("{}.wasm", "x".repeat(60))), None);
        assert_eq!(name("/"), None);
    }

    #[test]
    fn an_unknown_key_is_named_with_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), "app = \"a\"\n[scale]\nreplica = 2\n").unwrap();
        let error = read_manifest(folder.path()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("wharf.toml, line 3, column 1 (`replica = 2`): unknown field `replica`"),
            "{text}"
        );
        assert_eq!(Exit::of(&error), Exit::Invalid);
    }

    #[test]
    fn a_bad_setting_is_named_with_its_field() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), "app = \"a\"\n[scale]\nreplicas = 5000\n").unwrap();
        let text = read_manifest(folder.path()).unwrap_err().to_string();
        assert!(text.contains("scale.replicas"), "{text}");
    }

    #[test]
    fn only_what_may_be_webassembly_is_read() {
        assert!(check_start(b"\0asm").is_ok());
        assert!(check_start(b"").unwrap_err().contains("empty"));
        assert!(check_start(b"\0\0\0\0").unwrap_err().contains("not WebAssembly"));
        assert!(check_start(b"(com").unwrap_err().contains("text format"));
    }

    #[test]
    fn more_than_the_largest_artifact_is_refused_without_reading_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.wasm");
        std::fs::write(&path, MAGIC).unwrap();
        // A hole: it takes no room on the disk, and its end is never reached.
        File::options().append(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read_artifact(&path).unwrap_err();
        assert!(error.to_string().contains("larger than 256 MiB"), "{error}");
        assert_eq!(Exit::of(&error), Exit::Invalid);
        assert_eq!(Exit::of(&read_artifact(folder.path()).unwrap_err()), Exit::Invalid);
    }

    #[test]
    fn a_file_that_was_probably_meant_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let release = folder.path().join("target/wasm32-wasip2/release");
        std::fs::create_dir_all(&release).unwrap();
        std::fs::write(folder.path().join("text.wasm"), "text").unwrap();
        assert_eq!(suggestion(folder.path()), None);
        std::fs::write(release.join("hello.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
        let help = suggestion(folder.path()).unwrap();
        assert!(help.ends_with("target/wasm32-wasip2/release/hello.wasm?"), "{help}");
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let error = read_artifact(Path::new("/nowhere/x.wasm")).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NotFound);
    }

    #[test]
    fn the_only_artifact_is_found_and_several_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = find_artifact(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("looked in ., target/wasm32-wasip2/release"), "{error}");
        let release = folder.path().join("target/wasm32-wasip2/release");
        std::fs::create_dir_all(&release).unwrap();
        std::fs::write(release.join("a.wasm"), "").unwrap();
        assert_eq!(find_artifact(folder.path(), None).unwrap(), release.join("a.wasm"));
        std::fs::write(release.join("b.wasm"), "").unwrap();
        let error = find_artifact(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("a.wasm") && error.contains("b.wasm"), "{error}");
        let build = BuildSpec { command: None, artifact: Some("c.wasm".into()) };
        let error = find_artifact(folder.path(), Some(&build)).unwrap_err().to_string();
        assert!(error.contains("c.wasm"), "{error}");
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
