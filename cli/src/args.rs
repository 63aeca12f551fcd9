//! The command line: every command, the flags that they share, and their help. A command's own flags stand beside its code.

use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use wharf_types::quantity::Span;
use wharf_types::{AppName, InstanceId, NamespaceName};

use crate::commands::apps::DeleteArgs;
use crate::commands::audit::AuditArgs;
use crate::commands::build::{BuildArgs, BuildsArgs};
use crate::commands::completion::CompletionArgs;
use crate::commands::componentize::ComponentizeArgs;
use crate::commands::config::ConfigArgs;
use crate::commands::context::ContextArgs;
use crate::commands::cp::CpArgs;
use crate::commands::declare::{ApplyArgs, DiffArgs, PlanArgs};
use crate::commands::deploy::DeployArgs;
use crate::commands::env::EnvArgs;
use crate::commands::events::EventsArgs;
use crate::commands::exec::ExecArgs;
use crate::commands::get::GetArgs;
use crate::commands::git::GitArgs;
use crate::commands::import::ImportArgs;
use crate::commands::job::{JobArgs, JobRunArgs};
use crate::commands::login::{LoginArgs, LogoutArgs};
use crate::commands::logs::LogsArgs;
use crate::commands::member::MemberArgs;
use crate::commands::moving::RolloutArgs;
use crate::commands::namespace::NamespaceArgs;
use crate::commands::node::NodeArgs;
use crate::commands::quota::QuotaArgs;
use crate::commands::registry::RegistryArgs;
use crate::commands::releases::{RestartArgs, RollbackArgs};
use crate::commands::scale::ScaleArgs;
use crate::commands::schedule::ScheduleArgs;
use crate::commands::secret::SecretArgs;
use crate::commands::stack::StackArgs;
use crate::commands::token::TokenArgs;
use crate::commands::user::UserArgs;
use crate::commands::volume::VolumeArgs;
use crate::exit::{EXIT_CODES, Failure};
use crate::join::WorkerArgs;
use crate::precompile::PrecompileArgs;
use crate::run::RunArgs;
use crate::secret::Secret;
use crate::server::ServerArgs;
use crate::up::UpArgs;

/// A light platform for running apps as WebAssembly components.
#[derive(Parser, Debug)]
#[command(name = "wharf", version, after_help = EXIT_CODES, disable_help_subcommand = false)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Where to talk to, as whom, about what. Taken before and after the command's name.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Address of the platform's API [env: WHARF_API] [default: the context of `wharf login`, then the platform on this machine]
    #[arg(long, value_name = "URL")]
    pub api: Option<String>,
    /// Token to use [env: WHARF_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<Secret>,
    /// Namespace [env: WHARF_NAMESPACE] [default: that of wharf.toml, then of the context, then `default`]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<NamespaceName>,
    /// App [default: that of wharf.toml in this folder]
    #[arg(long, value_name = "NAME")]
    pub app: Option<AppName>,
    /// Print JSON: one object, or one a line for streams
    #[arg(long)]
    pub json: bool,
}

impl Global {
    /// Flags after the command's name win over flags before it.
    pub fn or(self, before: Self) -> Self {
        Self {
            api: self.api.or(before.api),
            token: self.token.or(before.token),
            namespace: self.namespace.or(before.namespace),
            app: self.app.or(before.app),
            json: self.json || before.json,
        }
    }

    /// For commands that are no client: a flag before their name that says where a client talks to would have no effect.
    pub fn refuse_all_but_json(&self, command: &str) -> Result<(), Failure> {
        let given = [
            ("--api", self.api.is_some()),
            ("--token", self.token.is_some()),
            ("--namespace", self.namespace.is_some()),
            ("--app", self.app.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((flag, _)) => Err(Failure::usage(format!(
                "{flag} before `{command}` says where a client talks to, and `{command}` is none"
            ))
            .help(format!("flags of its own stand behind its name: `wharf {command} --help` lists them"))),
        }
    }
}

/// A client command's own arguments, with the global flags beside them.
#[derive(Args, Debug)]
pub struct With<T: Args> {
    #[command(flatten)]
    pub args: T,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start a platform on this machine
    Up(UpArgs),
    /// Start the control plane of a cluster, which workers of other hosts join
    Server(ServerArgs),
    /// Join a cluster, and run apps for it
    Worker(WorkerArgs),
    /// Run one component here, without a platform
    Run(RunArgs),
    /// Before an upgrade: compile what a running platform's apps use for this version's engine
    Precompile(PrecompileArgs),

    /// Build, push and roll out an app
    Deploy(With<DeployArgs>),
    /// Deploy with `git push`: the remote of an app, and which of its branches is deployed
    Git(With<GitArgs>),
    /// List what was pushed with git, and what became of it
    Builds(With<BuildsArgs>),
    /// Show what a build said, or end it
    Build(With<BuildArgs>),
    /// Say what applying files would change; nothing is changed
    Plan(With<PlanArgs>),
    /// Make apps and namespaces as files declare them, all of them or none
    Apply(With<ApplyArgs>),
    /// Show how what is live differs from files; exits with 1 if it does
    Diff(With<DiffArgs>),
    /// Deploy compose files, as they are
    Stack(With<StackArgs>),
    /// Make files for `wharf apply` of what is written for other platforms
    Import(With<ImportArgs>),
    /// Print an app or a namespace as a file for `wharf apply`
    Get(With<GetArgs>),
    /// Print the JSON Schema of such files, for editors
    Schema,
    /// List the apps of a namespace
    Apps(With<NoArgs>),
    /// Show what an app does, and its instances
    Status(With<AppArg>),
    /// Explain why an app is not simply running
    Why(With<AppArg>),
    /// Print an app's address, and open it in a browser
    Open(With<AppArg>),
    /// Show what an app prints
    Logs(With<LogsArgs>),
    /// Run a command in a container of an app
    Exec(With<ExecArgs>),
    /// Copy files out of a container of an app, or into one
    Cp(With<CpArgs>),
    /// Show what happened to an app, or in a namespace
    Events(With<EventsArgs>),
    /// Show invocations, CPU time and memory of the namespace's apps
    Top(With<NoArgs>),
    /// List an app's releases
    Releases(With<AppArg>),
    /// Go back to an older release
    Rollback(With<RollbackArgs>),
    /// Set how many instances an app has
    Scale(With<ScaleArgs>),
    /// Read and change an app's environment variables; a change is a new release
    Env(With<EnvArgs>),
    /// Set and list secrets, which guests are given as variables; a change is a new release
    Secret(With<SecretArgs>),
    /// Set, show and list configs, which are like secrets, but may be read
    Config(With<ConfigArgs>),
    /// Log in to image registries for a namespace, and list its logins
    Registry(With<RegistryArgs>),
    /// Replace an app's instances by new ones of the same release
    Restart(With<RestartArgs>),
    /// Show, pause, resume or abort an app's rollout
    Rollout(With<RolloutArgs>),
    /// Stop every instance of an app, until it is started; the app stays
    Stop(With<AppArg>),
    /// Start a stopped app
    Start(With<RestartArgs>),
    /// Delete an app, its releases and its data; its volumes are kept unless asked for
    Delete(With<DeleteArgs>),

    /// Run commands to their end on the platform, and show what became of them
    #[command(visible_alias = "jobs")]
    Job(With<JobArgs>),
    /// The same as `wharf job run`
    #[command(hide = true)]
    RunJob(With<JobRunArgs>),
    /// Run jobs at planned times
    #[command(visible_alias = "schedules")]
    Schedule(With<ScheduleArgs>),

    /// List, back up, restore and remove volumes
    #[command(visible_alias = "volumes")]
    Volume(With<VolumeArgs>),

    /// Keep an address and a token for later commands
    Login(With<LoginArgs>),
    /// Forget the address and token in use
    Logout(With<LogoutArgs>),
    /// List and choose where to talk to
    Context(With<ContextArgs>),
    /// Create, list and revoke tokens
    Token(With<TokenArgs>),
    /// Make, list and remove users
    #[command(visible_alias = "users")]
    User(With<UserArgs>),
    /// Show who changed what, and what was refused
    Audit(With<AuditArgs>),
    /// Show and set what a namespace may use
    #[command(visible_alias = "quotas")]
    Quota(With<QuotaArgs>),
    /// Say who may what in a namespace
    #[command(visible_alias = "members")]
    Member(With<MemberArgs>),
    /// Create, list and delete namespaces
    #[command(visible_alias = "namespaces")]
    Namespace(With<NamespaceArgs>),
    /// Show the platform's nodes
    #[command(visible_alias = "nodes")]
    Node(With<NodeArgs>),
    /// Make a core module of WASI 0.1 into a component, without a platform
    Componentize(ComponentizeArgs),
    /// Check this machine and the platform, and say what is missing
    Doctor(With<NoArgs>),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
}

#[derive(Args, Debug)]
pub struct NoArgs {}

#[derive(Args, Debug)]
pub struct AppArg {
    /// Left out: --app, then the app of wharf.toml in this folder
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
}

/// What is common to everything that starts a rollout.
#[derive(Args, Clone, Copy, Debug)]
pub struct WaitArgs {
    /// Do not wait for the rollout
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the rollout, the compilation of its artifact included
    #[arg(long, value_name = "TIME", default_value = "3m")]
    pub timeout: Span,
}

/// An id, of which `lists` is the command that lists them.
pub fn parse_id<T: FromStr>(text: &str, lists: &str) -> Result<T, String> {
    let no_id = |_| format!("an id looks like `0199a3c1-7e52-7d31-9c1f-2b5a6d8e4f01`; `{lists}` lists them");
    text.parse().map_err(no_id)
}

/// An instance, as in `--instance ID`.
pub fn parse_instance(text: &str) -> Result<InstanceId, String> {
    parse_id(text, "wharf status --json")
}

/// A variable and its value, as in `--env GREETING=hi`.
pub fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::env::EnvCommand;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_of_tokens_and_namespaces_are_asked_for_by_either_word() {
        for what in ["token", "namespace"] {
            for word in ["ls", "list"] {
                assert!(Cli::try_parse_from(["wharf", what, word]).is_ok(), "{what} {word}");
            }
        }
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        let cli =
            Cli::parse_from(["wharf", "--api", "a", "-n", "x", "status", "hello", "--api", "b", "--json"]);
        let Command::Status(status) = cli.command else { panic!("not status") };
        let global = status.global.or(cli.global);
        assert_eq!(global.api.as_deref(), Some("b"));
        assert_eq!(global.namespace.unwrap().as_str(), "x");
        assert!(global.json);
        assert_eq!(status.args.name.unwrap().as_str(), "hello");
    }

    #[test]
    fn flags_may_stand_before_a_subcommand_too() {
        let cli = Cli::parse_from(["wharf", "env", "--app", "hello", "set", "A=1", "--json"]);
        let Command::Env(env) = cli.command else { panic!("not env") };
        assert_eq!(env.global.app.unwrap().as_str(), "hello");
        let Some(EnvCommand::Set(set)) = env.args.command else { panic!("not set") };
        assert_eq!(set.args.variables, [("A".to_owned(), "1".to_owned())]);
        assert!(set.global.json);
    }

    #[test]
    fn flags_of_a_client_are_refused_before_what_is_none() {
        for flags in [["--api", "a"], ["--token", "t"], ["-n", "x"], ["--app", "x"]] {
            let cli = Cli::parse_from([&["wharf"][..], &flags, &["up"]].concat());
            let refusal = cli.global.refuse_all_but_json("up").unwrap_err();
            assert!(refusal.to_string().contains("before `up`"), "{refusal}");
        }
        let cli = Cli::parse_from(["wharf", "--json", "up"]);
        assert!(cli.global.refuse_all_but_json("up").is_ok());
    }

    #[test]
    fn values_may_hold_equals_signs() {
        assert_eq!(parse_assignment("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(parse_assignment("A").is_err() && parse_assignment("=b").is_err());
    }

    #[test]
    fn what_is_no_id_is_told_what_one_is_and_where_they_are() {
        let id = InstanceId::new();
        assert_eq!(parse_instance(&id.to_string()), Ok(id));
        for args in [["build", "cancel", "nope"], ["node", "token", "revoke"], ["build", "logs", "gate"]] {
            let args = [&["wharf"][..], &args, if args[0] == "node" { &["x"][..] } else { &[] }].concat();
            let error = Cli::try_parse_from(args).unwrap_err().to_string();
            assert!(error.contains("an id looks like") && error.contains("lists them"), "{error}");
        }
        let error = Cli::try_parse_from(["wharf", "volume", "rm", "vol"]).unwrap_err().to_string();
        assert!(error.contains("APP/NAME"), "{error}");
        assert!(Cli::try_parse_from(["wharf", "volume", "rm", "gate/vol"]).is_ok());
    }
}
