//! `wharf stack`: compose files, as they are.

mod contents;
mod deploy;
#[cfg(test)]
mod fixture;
pub mod jobs;
pub mod owner;
mod show;
pub mod values;
pub mod waits;
pub mod words;

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use wharf_compose::{Notice, Problem, Problems, Project, Reader, Variables};
use wharf_types::{AppName, SetName};

use crate::args::{Global, NoArgs, WaitArgs, With};
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
    /// Make apps that are there a part of a stack, as they are
    Adopt(With<AdoptArgs>),
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
    /// Take over apps with the names of services that belong to something else, which is refused otherwise
    #[arg(long)]
    pub adopt: bool,
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
pub struct AdoptArgs {
    /// Name of the stack
    #[arg(value_name = "STACK")]
    pub name: SetName,
    /// An app that is there; may be repeated
    #[arg(value_name = "APP", required = true)]
    pub apps: Vec<AppName>,
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
        StackCommand::Deploy(with) => deploy::run(&open(with.global)?, with.args).await,
        StackCommand::Config(with) => config(&with.args, with.global.or(before).json),
        StackCommand::Ls(with) => show::list(&open(with.global)?).await,
        StackCommand::Services(with) => show::services(&open(with.global)?, &with.args.name).await,
        StackCommand::Ps(with) => show::instances(&open(with.global)?, &with.args.name).await,
        StackCommand::Adopt(with) => {
            let AdoptArgs { name, apps } = with.args;
            owner::adopt(&open(with.global)?, name, apps).await
        }
        StackCommand::Rm(with) => deploy::remove(&open(with.global)?, with.args).await,
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

/// The project of these files, and what is wrong with it.
fn read(args: &FileArgs, name: Option<&SetName>) -> anyhow::Result<(Project, Vec<Problem>)> {
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
    let (project, problems) =
        wharf_compose::read(&files, &args.profiles, &environment, &Disk).map_err(invalid)?;
    tell(&project.notices);
    Ok((project, problems))
}

fn invalid(problems: Problems) -> Failure {
    Failure::invalid(problems.to_string())
}

fn tell(notices: &[Notice]) {
    for notice in notices {
        output::note(format!("note: {}", output::printable(&notice.to_string())));
    }
}

fn config(args: &FileArgs, json: bool) -> anyhow::Result<()> {
    let (project, problems) = read(args, None)?;
    let project = Problems::or(problems, project).map_err(invalid)?;
    if json {
        return output::json(&json!({ "yaml": project.to_yaml() }));
    }
    output::line(project.to_yaml().trim_end())
}
