//! A Compose file that was pushed, with everything that it names, read before anything is changed.
//!
//! Nothing is read but what was pushed, whatever a path or a link says, and no variable of this process is known.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use wharf_builder::{Artifact, ArtifactError, BuildLimits};
use wharf_compose::translate::{NamedValue, ValueFrom};
use wharf_compose::{Build, Context, Place, Problems, Project, Reader, Translation, Variables};
use wharf_types::SetName;
use wharf_types::declare::document::ArtifactSource;
use wharf_types::secret::{SECRETS_MAX, SecretValue, ValueKind};

use crate::artifact;
use crate::commands::stack::values::Value;
use crate::commands::stack::waits;
use crate::exit::{Exit, Failure};
use crate::push::{CANCELLED, GIT_REV};

/// The largest file that is read. Strangers push them, and the control plane has to hold what comes of them.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// The variable that a Compose file knows its stack by.
const PROJECT_NAME: &str = "COMPOSE_PROJECT_NAME";

/// The files that were pushed.
#[derive(Clone, Debug)]
pub struct PushedTree {
    folder: PathBuf,
    /// The same without links.
    canonical: PathBuf,
}

/// Why something is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPushed {
    #[error("it leads out of what was pushed, and nothing else is read")]
    LeadsOut,
    #[error("it is not there in what was pushed")]
    Absent,
}

impl PushedTree {
    pub fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self { folder: folder.to_owned(), canonical: folder.canonicalize()? })
    }

    /// Where a path of the tree is on this machine. A link that leads out of the tree is as good as absent.
    pub fn find(&self, path: &str) -> Result<PathBuf, NotPushed> {
        if !stays_within(path) {
            return Err(NotPushed::LeadsOut);
        }
        let place = self.folder.join(path);
        match place.canonicalize() {
            Ok(real) if real.starts_with(&self.canonical) => Ok(place),
            _ => Err(NotPushed::Absent),
        }
    }
}

impl Reader for PushedTree {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let place = self.find(path).map_err(|error| match error {
            NotPushed::LeadsOut => io::Error::new(io::ErrorKind::PermissionDenied, error),
            NotPushed::Absent => io::ErrorKind::NotFound.into(),
        })?;
        if !place.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let mut octets = Vec::new();
        File::open(place)?.take(FILE_MAX_BYTES + 1).read_to_end(&mut octets)?;
        if octets.len() as u64 > FILE_MAX_BYTES {
            let text = format!("it has more than {FILE_MAX_BYTES} octets");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(octets)
    }
}

/// Whether a path, links aside, never leaves the folder that it begins in. `~` is somebody's home.
fn stays_within(path: &str) -> bool {
    let mut depth: usize = 0;
    !path.starts_with(['/', '~'])
        && path.split('/').all(|part| match part {
            "" | "." => true,
            ".." => match depth.checked_sub(1) {
                Some(above) => {
                    depth = above;
                    true
                }
                None => false,
            },
            _ => {
                depth += 1;
                true
            }
        })
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Of the tree.
    pub file: String,
    pub stack: SetName,
    pub commit: String,
    /// Whether it is a preview, and `stack` what that is called.
    pub is_preview: bool,
    /// Why the namespace may run none. None: it may.
    pub no_containers: Option<String>,
    /// Ends the reading, between two steps of it.
    pub cancel: CancellationToken,
}

impl Asked {
    /// Thousands of services take their time.
    fn go_on(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() { Err(Failure::new(Exit::Conflict, CANCELLED)) } else { Ok(()) }
    }
}

/// What a Compose file says.
#[derive(Debug)]
pub struct Reading {
    pub translation: Translation,
    pub builds: Vec<Build>,
    pub values: Vec<Value>,
    /// What people should know of how it was understood.
    pub notes: Vec<String>,
    /// Whose folder, in the tree, is what paths are relative to.
    pub project: Project,
    tree: PushedTree,
}

impl Reading {
    /// Everything that is wrong, with its place.
    pub fn of(tree: PushedTree, asked: &Asked) -> Result<Self, Failure> {
        let invalid = |problems: Problems| Failure::invalid(problems.to_string());
        let variables = Variables::from([
            (PROJECT_NAME.to_owned(), asked.stack.to_string()),
            (GIT_REV.to_owned(), asked.commit.clone()),
        ]);
        let files = [asked.file.clone()];
        asked.go_on()?;
        let (mut project, mut problems) =
            wharf_compose::read(&files, &[], &variables, &tree).map_err(invalid)?;
        asked.go_on()?;
        // Whatever is wrong with one service, the others are looked at, so that all of it is told at once.
        let builds = project.take_builds().unwrap_or_else(|more| {
            problems.extend(more.into_vec());
            Vec::new()
        });
        let is_module = |path: &str| {
            tree.find(&in_project(&project.folder, path)).is_ok_and(|path| artifact::is_module(&path))
        };
        let modules = wharf_compose::components(&project)
            .filter(|(_, path)| is_module(path))
            .map(|(service, _)| service.to_owned())
            .collect();
        let preview = asked.is_preview.then(|| asked.stack.clone());
        let context = Context { namespace: None, stack: Some(asked.stack.to_string()), modules, preview };
        asked.go_on()?;
        let (translation, more) = wharf_compose::translate_all(&project, &context);
        problems.extend(more);
        asked.go_on()?;
        let problems = Problems::or(problems, ()).err();
        let mut faults: Vec<String> =
            problems.iter().flat_map(Problems::iter).map(ToString::to_string).collect();
        let notices = project.notices.iter().chain(&translation.notices);
        let mut notes: Vec<String> = notices.map(ToString::to_string).collect();
        asked.go_on()?;
        let said = waits::check(&translation);
        notes.extend(said.notes);
        faults.extend(said.refused);
        let mut check = Check { tree: &tree, project: &project, faults };
        check.services(&translation, asked.no_containers.as_deref());
        check.builds(&builds);
        asked.go_on()?;
        let mut values = Vec::new();
        if check.may_have(translation.secrets.iter().chain(&translation.configs)) {
            values.extend(check.values(ValueKind::Secret, &translation.secrets));
            values.extend(check.values(ValueKind::Config, &translation.configs));
        }
        let faults = check.faults;
        if !faults.is_empty() {
            return Err(Failure::invalid(faults.join("\n")));
        }
        Ok(Self { translation, builds, values, notes, project, tree })
    }

    /// Where a path of the file is on this machine.
    pub fn find(&self, path: &str) -> Result<PathBuf, NotPushed> {
        self.tree.find(&self.in_tree(path))
    }

    /// Where an artifact is that was pushed: a file of the tree, also if a build has put something else in its place since it was looked at.
    pub fn artifact(&self, path: &str) -> Result<PathBuf, ArtifactError> {
        let wanted = Artifact::Path(self.in_tree(path));
        wharf_builder::find_pushed(&self.tree.folder, &wanted, BuildLimits::default().artifact_max_bytes)
    }

    /// A path of the file as one of the tree.
    pub fn in_tree(&self, path: &str) -> String {
        in_project(&self.project.folder, path)
    }
}

fn in_project(folder: &str, path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    if folder.is_empty() || path.starts_with(['/', '~']) {
        return path.to_owned();
    }
    format!("{folder}/{path}")
}

/// What is looked at in the tree.
struct Check<'a> {
    tree: &'a PushedTree,
    project: &'a Project,
    faults: Vec<String>,
}

impl Check<'_> {
    fn services(&mut self, translation: &Translation, no_containers: Option<&str>) {
        let apps = translation.apps.iter().map(|app| {
            let document = &app.document;
            let files = document.files.as_ref().and_then(|files| files.path.as_deref());
            (app.service.as_str(), document.image.is_some(), document.artifact.as_ref(), files)
        });
        let jobs = translation
            .jobs
            .iter()
            .map(|job| (job.service.as_str(), job.image.is_some(), job.artifact.as_ref(), None));
        for (service, is_container, artifact, files) in apps.chain(jobs) {
            let image = self.project.place_in_service(service, "image");
            if let Some(reason) = no_containers.filter(|_| is_container) {
                self.fault(image, format!("the service `{service}` is a container, and {reason}"));
            }
            if let Some(ArtifactSource::File(path)) = artifact {
                self.look(image, path, Path::is_file, "file");
            }
            if let Some(path) = files {
                let place = self.project.place_in_service(service, "volumes");
                self.look(place, path, Path::is_dir, "folder");
            }
        }
    }

    fn builds(&mut self, builds: &[Build]) {
        for build in builds {
            self.look(&build.place, &build.context, Path::is_dir, "folder");
        }
    }

    fn look(&mut self, place: &Place, path: &str, is_right: fn(&Path) -> bool, what: &str) {
        let found = self.tree.find(&in_project(&self.project.folder, path));
        let path = path.escape_debug();
        match found {
            Ok(found) if is_right(&found) => {}
            Ok(_) => self.fault(place, format!("`{path}` is no {what}")),
            Err(error) => self.fault(place, format!("`{path}`: {error}")),
        }
    }

    /// Before the values are read, which may be large: whether a namespace can have so many.
    fn may_have<'v>(&mut self, mut named: impl Iterator<Item = &'v NamedValue>) -> bool {
        let Some(first) = named.nth(SECRETS_MAX as usize) else { return true };
        let what = format!(
            "`{}` is one more than {SECRETS_MAX} secrets and configs, the most of a namespace",
            first.key
        );
        self.fault(&first.place, what);
        false
    }

    /// The values that the file has. Those that were set before are not among them.
    fn values(&mut self, kind: ValueKind, named: &[NamedValue]) -> Vec<Value> {
        let mut values = Vec::new();
        for NamedValue { key, name, from, place } in named {
            let place = match from {
                ValueFrom::File(_) => self.project.place_of(&format!("{}.{key}.file", kind.table())),
                _ => place,
            };
            let octets = match self.octets(from) {
                Ok(None) => continue,
                Ok(Some(octets)) => octets,
                Err(problem) => {
                    self.fault(place, problem);
                    continue;
                }
            };
            match SecretValue::new(octets) {
                Ok(value) => values.push(Value { kind, name: name.clone(), value }),
                Err(error) => self.fault(place, format!("`{key}`: {error}")),
            }
        }
        values
    }

    fn octets(&self, from: &ValueFrom) -> Result<Option<Vec<u8>>, String> {
        Ok(match from {
            ValueFrom::External => None,
            ValueFrom::Content(content) => Some(content.clone().into_bytes()),
            ValueFrom::Environment(name) => {
                self.project.variables.get(name).map(|value| value.clone().into_bytes())
            }
            ValueFrom::File(path) => {
                let read = self.tree.read(&in_project(&self.project.folder, path));
                let path = path.escape_debug();
                Some(read.map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => format!("`{path}`: {}", NotPushed::Absent),
                    _ => format!("`{path}`: {error}"),
                })?)
            }
        })
    }

    fn fault(&mut self, place: &Place, what: impl fmt::Display) {
        self.faults.push(format!("{place}: {what}"));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What was pushed, in a folder that has something else beside it.
    struct Pushed {
        around: tempfile::TempDir,
    }

    impl Pushed {
        fn new(files: &[(&str, &str)]) -> Self {
            let pushed = Self { around: tempfile::tempdir().unwrap() };
            std::fs::write(pushed.around.path().join("beside"), "A=secret").unwrap();
            std::fs::create_dir(pushed.folder()).unwrap();
            for (path, text) in files {
                let path = pushed.folder().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            pushed
        }

        fn folder(&self) -> PathBuf {
            self.around.path().join("tree")
        }

        fn read(&self, file: &str, no_containers: Option<&str>) -> Result<Reading, String> {
            let asked = Asked {
                file: file.to_owned(),
                stack: "shop".parse().unwrap(),
                commit: "7c1d05a3".to_owned(),
                is_preview: false,
                no_containers: no_containers.map(str::to_owned),
                cancel: CancellationToken::new(),
            };
            let tree = PushedTree::open(&self.folder()).unwrap();
            Reading::of(tree, &asked).map_err(|failure| failure.to_string())
        }
    }

    #[test]
    fn a_path_stays_within_as_long_as_it_goes_down_first() {
        for path in ["a", "./a", "a/../b", "a/b/../../c", "", "a//b", "..a/b", "a/.."] {
            assert!(stays_within(path), "{path}");
        }
        for path in ["..", "../a", "a/../../b", "/a", "/", "~", "~/a", "./.."] {
            assert!(!stays_within(path), "{path}");
        }
    }

    #[test]
    fn what_the_file_names_is_read_from_what_was_pushed() {
        let compose = "services:\n  web:\n    image: web.wasm\n    env_file: [web.env]\n    environment: {WORD: \"${WORD}\", REV: \"$GIT_REV\", HOME: }\n    \
                       secrets: [password]\nsecrets:\n  password: {file: ./password.txt}\n";
        let pushed = Pushed::new(&[
            ("deploy/compose.yaml", compose),
            ("deploy/.env", "WORD=hi\n"),
            ("deploy/web.env", "OTHER=${WORD} there\n"),
            ("deploy/web.wasm", ""),
            ("deploy/password.txt", "hunter2"),
        ]);
        let reading = pushed.read("deploy/compose.yaml", None).unwrap();
        let env = &reading.translation.apps[0].document.env;
        let told: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(told, [("OTHER", "hi there"), ("REV", "7c1d05a3"), ("WORD", "hi")], "and no HOME of ours");
        assert!(reading.notes.iter().any(|note| note.contains("`HOME` is not set")), "{:?}", reading.notes);
        assert_eq!(reading.values.len(), 1);
        assert_eq!(reading.find("./web.wasm").unwrap(), pushed.folder().join("deploy/web.wasm"));
    }

    #[test]
    fn what_leads_out_is_refused_with_its_line() {
        let web = "services:\n  web:\n    image: web.wasm\n";
        for (compose, line) in [
            (format!("{web}    env_file: ../beside\n"), 4),
            (format!("{web}    env_file: [{{path: /etc/hostname, required: false}}]\n"), 4),
            (format!("include: [../beside]\n{web}"), 1),
            (format!("{web}    extends: {{file: ../beside, service: web}}\n"), 4),
            (format!("{web}    volumes: [\"../:/data:ro\"]\n"), 4),
            ("services:\n  web:\n    image: ../beside.wasm\n".to_owned(), 3),
            ("services:\n  web:\n    image: /etc/web.wasm\n".to_owned(), 3),
            ("services:\n  web:\n    build: ..\n".to_owned(), 3),
            (format!("{web}secrets:\n  a: {{file: ../beside}}\n"), 5),
            (format!("{web}configs:\n  a: {{file: /etc/hostname}}\n"), 5),
        ] {
            let pushed = Pushed::new(&[("compose.yaml", compose.as_str()), ("web.wasm", "")]);
            let said = pushed.read("compose.yaml", None).unwrap_err();
            assert!(said.contains(&format!("compose.yaml:{line}:")), "{said}\n{compose}");
            assert!(said.contains("leads out of what was pushed"), "{said}\n{compose}");
        }
    }

    #[test]
    fn a_reading_that_is_cancelled_ends() {
        let pushed = Pushed::new(&[("compose.yaml", "services:\n  web:\n    image: absent.wasm\n")]);
        let cancel = CancellationToken::new();
        cancel.cancel();
        let asked = Asked {
            file: "compose.yaml".to_owned(),
            stack: "shop".parse().unwrap(),
            commit: "7c1d05a3".to_owned(),
            is_preview: false,
            no_containers: None,
            cancel,
        };
        let read = Reading::of(PushedTree::open(&pushed.folder()).unwrap(), &asked);
        assert_eq!(read.unwrap_err().to_string(), CANCELLED);
    }

    #[test]
    fn a_link_that_leads_out_is_as_good_as_absent() {
        let compose =
            "services:\n  web:\n    image: web.wasm\n    env_file: link\nsecrets:\n  a: {file: link}\n";
        let pushed = Pushed::new(&[("compose.yaml", compose), ("web.wasm", "")]);
        symlink("../beside", pushed.folder().join("link")).unwrap();
        let said = pushed.read("compose.yaml", None).unwrap_err();
        assert!(said.contains("compose.yaml:4:") && said.contains("there is no file link"), "{said}");
        let compose = compose.replace("    env_file: link\n", "");
        std::fs::write(pushed.folder().join("compose.yaml"), compose).unwrap();
        let said = pushed.read("compose.yaml", None).unwrap_err();
        assert!(said.contains("compose.yaml:5:") && said.contains("not there in what was pushed"), "{said}");
    }

    #[test]
    fn what_is_too_much_is_refused_before_it_is_read() {
        let web = "services:\n  web:\n    image: web.wasm\n";
        let secrets: String = (0..=SECRETS_MAX).map(|n| format!("  s{n}: {{file: absent}}\n")).collect();
        let compose = format!("{web}secrets:\n{secrets}");
        let pushed = Pushed::new(&[("compose.yaml", &compose), ("web.wasm", "")]);
        let said = pushed.read("compose.yaml", None).unwrap_err();
        assert!(said.contains("one more than 1000 secrets and configs"), "{said}");
        assert!(!said.contains("absent"), "{said}");
        let large = "#".repeat(FILE_MAX_BYTES as usize + 1);
        let compose = format!("{web}    env_file: large\n");
        let pushed = Pushed::new(&[("compose.yaml", &compose), ("web.wasm", ""), ("large", &large)]);
        let said = pushed.read("compose.yaml", None).unwrap_err();
        assert!(said.contains("large: it has more than 1048576 octets"), "{said}");
    }

    #[test]
    fn an_artifact_that_a_build_has_replaced_is_looked_at_again() {
        let compose = "services:\n  web:\n    image: web.wasm\n";
        let pushed = Pushed::new(&[("compose.yaml", compose), ("web.wasm", "\0asm")]);
        let reading = pushed.read("compose.yaml", None).unwrap();
        let file = pushed.folder().canonicalize().unwrap().join("web.wasm");
        assert_eq!(reading.artifact("./web.wasm").unwrap(), file);
        std::fs::remove_file(&file).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        assert!(matches!(reading.artifact("./web.wasm"), Err(ArtifactError::NotAFile { .. })));
        std::fs::remove_file(&file).unwrap();
        symlink("../beside", &file).unwrap();
        assert!(matches!(reading.artifact("./web.wasm"), Err(ArtifactError::LeadsOut { .. })));
    }

    #[test]
    fn all_that_is_missing_is_told_at_once() {
        let compose = "services:\n  web:\n    image: web.wasm\n  db:\n    image: redis:7\n  api:\n    platform: wasi/wasm\n    build: api\n";
        let pushed = Pushed::new(&[("compose.yaml", compose)]);
        let said = pushed.read("compose.yaml", Some("the namespace may not run containers")).unwrap_err();
        for words in [
            "compose.yaml:3:5: `./web.wasm`: it is not there",
            "compose.yaml:5:5: the service `db` is a container, and the namespace may not run containers",
            "compose.yaml:8:5: `./api`: it is not there",
        ] {
            assert!(said.contains(words), "`{words}` is missing in:\n{said}");
        }
    }
}
