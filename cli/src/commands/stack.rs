//! `wharf stack`: compose files, as they are.

pub mod jobs;
mod show;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use wharf_compose::model::Condition;
use wharf_compose::translate::{NamedValue, ValueFrom};
use wharf_compose::{Context, Notice, Project, Reader, Translation, Variables};
use wharf_types::declare::document::{AppDocument, ArtifactSource};
use wharf_types::secret::ValueKind;
use wharf_types::{AppName, NamespaceName, SetName};

use super::declare::{self, Rest};
use super::secret;
use crate::args::{Global, NoArgs, WaitArgs, With};
use crate::artifact;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct StackArgs {
    #[command(subcommand)]
    pub command: StackCommand,
}

#[derive(Subcommand, Debug)]
pub enum StackCommand {
    /// Make what a compose file says; what it said before and does not say any more is deleted
    Deploy(With<DeployArgs>),
    /// Print a compose file as it is understood: merged, with all variables, in long form
    Config(With<FileArgs>),
    /// List the stacks of a namespace
    Ls(With<NoArgs>),
    /// List the services of a stack, which are its apps
    Services(With<NameArgs>),
    /// List the instances of a stack's services
    Ps(With<NameArgs>),
    /// Delete the apps of a stack; their volumes are kept, and so are its jobs
    #[command(visible_alias = "down")]
    Rm(With<RmArgs>),
}

/// Which compose files.
#[derive(Args, Debug)]
pub struct FileArgs {
    /// A compose file; may be repeated, and later ones add to earlier ones [default: compose.yaml or docker-compose.yml]
    #[arg(short = 'c', long = "compose-file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A profile whose services count, too; may be repeated
    #[arg(long = "profile", value_name = "NAME")]
    pub profiles: Vec<String>,
}

#[derive(Args, Debug)]
pub struct DeployArgs {
    /// Name of the stack
    #[arg(value_name = "STACK")]
    pub name: SetName,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct NameArgs {
    /// Name of the stack
    #[arg(value_name = "STACK")]
    pub name: SetName,
}

#[derive(Args, Debug)]
pub struct RmArgs {
    /// Name of the stack
    #[arg(value_name = "STACK")]
    pub name: SetName,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Looked for where no file is named, as the Compose Specification has it.
const FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
/// The largest file that is read.
const FILE_MAX_BYTES: u64 = 8 << 20;

pub async fn run(before: Global, args: StackArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        StackCommand::Deploy(with) => deploy(&open(with.global)?, with.args).await,
        StackCommand::Config(with) => config(&with.args, with.global.or(before).json),
        StackCommand::Ls(with) => show::list(&open(with.global)?).await,
        StackCommand::Services(with) => show::services(&open(with.global)?, &with.args.name).await,
        StackCommand::Ps(with) => show::instances(&open(with.global)?, &with.args.name).await,
        StackCommand::Rm(with) => remove(&open(with.global)?, with.args).await,
    }
}

/// The files of this machine.
struct Disk;

impl Reader for Disk {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let bytes = std::fs::metadata(path)?.len();
        if bytes > FILE_MAX_BYTES {
            let text = format!("it has {bytes} octets, and the most are {FILE_MAX_BYTES}");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        std::fs::read(path)
    }
}

fn load(args: &FileArgs, name: Option<&SetName>) -> anyhow::Result<Project> {
    let given: Vec<String> = args.files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
    let found = || FILES.iter().find(|file| Path::new(file).exists()).map(|file| vec![(*file).to_owned()]);
    let files = if given.is_empty() {
        found().ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("there is no {} here", FILES.join(", no ")))
                .help("name one with `-c FILE`")
        })?
    } else {
        given
    };
    let mut environment: Variables = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    if let Some(name) = name {
        environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.to_string());
    }
    let project = wharf_compose::load(&files, &args.profiles, &environment, &Disk);
    let project = project.map_err(|problems| Failure::invalid(problems.to_string()))?;
    tell(&project.notices);
    Ok(project)
}

fn tell(notices: &[Notice]) {
    for notice in notices {
        output::note(format!("note: {}", output::printable(&notice.to_string())));
    }
}

fn config(args: &FileArgs, json: bool) -> anyhow::Result<()> {
    let project = load(args, None)?;
    if json {
        return output::json(&json!({ "yaml": project.to_yaml() }));
    }
    output::line(project.to_yaml().trim_end())
}

async fn deploy(session: &Session, args: DeployArgs) -> anyhow::Result<()> {
    let project = load(&args.files, Some(&args.name))?;
    let modules = wharf_compose::components(&project)
        .filter(|(_, path)| artifact::is_module(&Path::new(&project.folder).join(path)))
        .map(|(service, _)| service.to_owned())
        .collect();
    let context = Context { namespace: None, stack: Some(args.name.to_string()), modules };
    let translated = wharf_compose::translate(&project, &context);
    let translation = translated.map_err(|problems| Failure::invalid(problems.to_string()))?;
    tell(&translation.notices);
    check_waits(&translation)?.iter().for_each(|note| output::note(format!("note: {note}")));
    set_values(session, &project, &translation).await?;
    let folder = std::path::absolute(if project.folder.is_empty() { "." } else { &project.folder })?;
    let waves = waves(&translation);
    let wave_of = |app: &AppName| waves.get(app).copied().unwrap_or(0);
    let last = waves.values().copied().max().unwrap_or(0);
    for wave in 0..=last {
        let ready = translation.apps.iter().filter(|app| wave_of(&app.document.name) <= wave);
        let documents = ready.map(|app| document(&app.document, &folder));
        let documents = documents.collect::<anyhow::Result<Vec<_>>>()?;
        if !documents.is_empty() {
            // Whoever depends on these comes when they serve.
            let no_wait = args.wait.no_wait && wave == last;
            let (part, wait) = ((args.name.clone(), Rest::Stays), WaitArgs { no_wait, ..args.wait });
            declare::apply_documents(session, &documents, part, wait).await?;
        }
        for job in translation.jobs.iter().filter(|job| wave_of(&job.name) == wave) {
            let is_awaited = wave < last || !args.wait.no_wait;
            jobs::run(session, &args.name, job, &folder, is_awaited).await?;
        }
    }
    // Nothing is deleted before everything is there.
    let documents = translation.apps.iter().map(|app| document(&app.document, &folder));
    let mut documents = documents.collect::<anyhow::Result<Vec<_>>>()?;
    if documents.is_empty() {
        documents.push(only_the_set(&session.namespace()?));
    }
    let whole = (args.name, Rest::GoesIfAny);
    declare::apply_documents(session, &documents, whole, args.wait).await
}

/// What an apply needs where there is nothing but a set to look at.
fn only_the_set(namespace: &NamespaceName) -> String {
    json!({ "kind": "namespace", "name": namespace }).to_string()
}

/// What services wait for, as far as a deploy does not; returns what is to be told of it.
pub fn check_waits(translation: &Translation) -> Result<Vec<String>, Failure> {
    let (mut refused, mut notes) = (Vec::new(), Vec::new());
    for step in &translation.order {
        let apps = translation.apps.iter().map(|app| (&app.document.name, &app.place));
        let mut all = apps.chain(translation.jobs.iter().map(|job| (&job.name, &job.place)));
        let Some((_, place)) = all.find(|(name, _)| **name == step.app) else { continue };
        for wait in &step.waits {
            let (waits, other) = (format!("{place}: `{}`", step.service), &wait.app);
            let is_job = translation.jobs.iter().any(|job| job.name == *other);
            if wait.condition == Condition::Completed && !is_job {
                refused.push(format!(
                    "{waits} waits until `{other}` has ended with success, and an app does not end: make a job of it with `deploy: {{mode: replicated-job}}`"
                ));
            }
            if !wait.required {
                notes.push(format!(
                    "{waits} goes on without `{other}`, but the deploy ends where that cannot start"
                ));
            }
            if wait.restart {
                notes.push(format!("{waits} is not restarted when `{other}` is"));
            }
        }
    }
    if refused.is_empty() { Ok(notes) } else { Err(Failure::invalid(refused.join("\n"))) }
}

/// In which wave of the deploy each app and each job comes: after all that it depends on.
pub fn waves(translation: &Translation) -> BTreeMap<&AppName, usize> {
    let mut of: BTreeMap<&AppName, usize> = BTreeMap::new();
    for step in &translation.order {
        let before = step.waits.iter().filter_map(|wait| of.get(&wait.app)).max();
        let wave = before.map_or(0, |before| before + 1);
        of.insert(&step.app, wave);
    }
    of
}

/// As it stands in a file for `wharf apply`, with paths that hold wherever that file is.
fn document(app: &AppDocument, folder: &Path) -> anyhow::Result<String> {
    let mut app = app.clone();
    if let Some(ArtifactSource::File(path)) = &mut app.artifact {
        *path = folder.join(&*path).to_string_lossy().into_owned();
    }
    if let Some(path) = app.files.as_mut().and_then(|files| files.path.as_mut()) {
        *path = folder.join(&*path).to_string_lossy().into_owned();
    }
    serde_json::to_string(&app).context("could not write an app of the stack as JSON")
}

/// Sets the secrets and configs of the namespace that the files have values for. One that is as it was stays at its version.
async fn set_values(session: &Session, project: &Project, translation: &Translation) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let kinds = [(ValueKind::Secret, &translation.secrets), (ValueKind::Config, &translation.configs)];
    for (kind, values) in kinds {
        for value in values {
            let Some(octets) = octets_of(project, value)? else { continue };
            let octets =
                secret::checked(octets).with_context(|| format!("{}: `{}`", value.place, value.key))?;
            session.client.set_value(&namespace, (kind, &value.name), &octets).await?;
        }
    }
    Ok(())
}

/// None: it was set before.
fn octets_of(project: &Project, value: &NamedValue) -> anyhow::Result<Option<Vec<u8>>> {
    Ok(match &value.from {
        ValueFrom::External => None,
        ValueFrom::Content(content) => Some(content.clone().into_bytes()),
        ValueFrom::Environment(name) => project.variables.get(name).map(|value| value.clone().into_bytes()),
        ValueFrom::File(path) => {
            let file = Path::new(&project.folder).join(path);
            let read = std::fs::read(&file);
            Some(read.with_context(|| format!("{}: could not read {}", value.place, file.display()))?)
        }
    })
}

async fn remove(session: &Session, args: RmArgs) -> anyhow::Result<()> {
    super::confirm("all apps of the stack", args.name.as_str(), args.yes)?;
    let namespace = session.namespace()?;
    // The namespace is there, so that the set is all that is looked at.
    let only = only_the_set(&namespace);
    let wait = WaitArgs { no_wait: true, timeout: wharf_types::quantity::Span::from_secs(0) };
    declare::apply_documents(session, &[only], (args.name, Rest::Goes), wait).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translation(yaml: &str) -> Translation {
        struct One(Vec<u8>);
        impl Reader for One {
            fn read(&self, path: &str) -> io::Result<Vec<u8>> {
                if path == "compose.yaml" { Ok(self.0.clone()) } else { Err(io::ErrorKind::NotFound.into()) }
            }
        }
        let files = ["compose.yaml".to_owned()];
        let project = wharf_compose::load(&files, &[], &Variables::new(), &One(yaml.into())).unwrap();
        wharf_compose::translate(&project, &Context::default()).unwrap()
    }

    #[test]
    fn an_app_comes_after_all_that_it_depends_on() {
        let translation = translation(
            "services:\n  web:\n    image: web.wasm\n    depends_on: [api, log]\n  api:\n    image: api.wasm\n    depends_on: [log]\n  log:\n    image: log.wasm\n",
        );
        let waves: Vec<(&str, usize)> =
            waves(&translation).into_iter().map(|(name, wave)| (name.as_str(), wave)).collect();
        assert_eq!(waves, [("api", 1), ("log", 0), ("web", 2)]);
    }

    #[test]
    fn what_waits_for_the_end_of_a_job_comes_after_it() {
        let translation = translation(
            "services:\n  web:\n    image: web.wasm\n    depends_on: {migrate: {condition: service_completed_successfully}}\n  migrate:\n    image: migrate:1\n    deploy: {mode: replicated-job}\n    depends_on: [db]\n  db:\n    image: postgres:16\n",
        );
        check_waits(&translation).unwrap();
        let waves = waves(&translation);
        let of = |name: &str| waves[&name.parse::<AppName>().unwrap()];
        assert_eq!((of("db"), of("migrate"), of("web")), (0, 1, 2));
    }

    #[test]
    fn what_a_stack_does_not_wait_for_is_refused() {
        let of = |condition: &str| {
            translation(&format!(
                "services:\n  web:\n    image: web.wasm\n    depends_on: {{log: {{condition: {condition}}}}}\n  log:\n    image: log.wasm\n"
            ))
        };
        check_waits(&of("service_healthy")).unwrap();
        let refused = check_waits(&of("service_completed_successfully")).unwrap_err().to_string();
        assert!(
            refused.starts_with("compose.yaml:3:") && refused.contains("mode: replicated-job"),
            "{refused}"
        );
    }

    #[test]
    fn a_container_is_applied_as_a_component_is() {
        let translation =
            translation("services:\n  db:\n    image: postgres:16\n  web:\n    image: web.wasm\n");
        let documents: Vec<serde_json::Value> = translation
            .apps
            .iter()
            .map(|app| {
                let text = document(&app.document, Path::new("/srv")).unwrap();
                serde_json::from_str(&text).unwrap()
            })
            .collect();
        assert_eq!(
            (&documents[0]["image"], &documents[0]["artifact"]),
            (&json!("postgres:16"), &json!(null))
        );
        assert_eq!(documents[1]["artifact"], "/srv/./web.wasm");
    }
}
