//! The command line: every command and flag, and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use wharf_types::api::Role;
use wharf_types::quantity::Span;
use wharf_types::{AppName, NamespaceName};

use crate::run::RunArgs;
use crate::up::UpArgs;

pub const EXIT_CODES: &str = "\
Exit codes:
  0  it worked
  1  the platform failed, or the command did
  2  the command line was not understood
  3  there is no such thing
  4  refused: no valid token, or it does not allow this
  5  the rollout failed: the release cannot start, or was rolled back
  6  the artifact, the manifest or a setting is not valid
  7  conflict: it exists, the route is taken, or it changed in between
  8  the platform cannot be reached
  9  a quota is used up, or a disk is full";

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
    pub token: Option<String>,
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
    /// Run one component here, without a platform
    Run(RunArgs),

    /// Build, push and roll out an app
    Deploy(With<DeployArgs>),
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
    #[command(args_conflicts_with_subcommands = true)]
    Env(With<EnvArgs>),
    /// Replace an app's instances by new ones of the same release
    Restart(With<RestartArgs>),
    /// Delete an app, its releases and its data
    Delete(With<DeleteArgs>),

    /// Keep an address and a token for later commands
    Login(With<LoginArgs>),
    /// Forget the address and token in use
    Logout(With<LogoutArgs>),
    /// List and choose where to talk to
    Context(With<ContextArgs>),
    /// Create, list and revoke tokens
    Token(With<TokenArgs>),
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

#[derive(Args, Debug)]
pub struct DeployArgs {
    /// A .wasm file, or a folder, usually with a wharf.toml [default: this folder]
    ///
    /// A file without --app belongs to the app of wharf.toml in this folder, and without a wharf.toml to the app with
    /// the file's name. A file with --app keeps the settings that the app has.
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Do not run the build command of wharf.toml
    #[arg(long)]
    pub no_build: bool,
    /// Set an environment variable in this release; may be repeated
    #[arg(short = 'e', long, value_name = "K=V", value_parser = parse_assignment)]
    pub env: Vec<(String, String)>,
}

#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Left out: --app, then the app of wharf.toml in this folder
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
    /// Wait for more
    #[arg(short, long)]
    pub follow: bool,
    /// Start with this many of the last lines
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub tail: u32,
}

#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Left out, and without --app and wharf.toml: the whole namespace
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
    /// Wait for more
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// The release's number; left out: the newest one before this that served
    #[arg(value_name = "[APP] [RELEASE]", num_args = 0..=2)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct RestartArgs {
    /// Left out: --app, then the app of wharf.toml in this folder
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// What is common to everything that starts a rollout.
#[derive(Args, Clone, Copy, Debug)]
pub struct WaitArgs {
    /// Do not wait for the rollout
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the rollout
    #[arg(long, value_name = "TIME", default_value = "90s")]
    pub timeout: Span,
}

#[derive(Args, Debug)]
pub struct ScaleArgs {
    /// The number of instances, such as `3`, `hello 3` or `hello=3`
    #[arg(value_name = "[APP] REPLICAS", num_args = 1..=2, required = true)]
    pub words: Vec<String>,
}

#[derive(Args, Debug)]
pub struct EnvArgs {
    #[command(subcommand)]
    pub command: Option<EnvCommand>,
}

#[derive(Subcommand, Debug)]
pub enum EnvCommand {
    /// Set variables
    Set(With<EnvSetArgs>),
    /// Remove variables
    Unset(With<EnvUnsetArgs>),
    /// Show the variables of the current release
    List(With<AppArg>),
}

#[derive(Args, Debug)]
pub struct EnvSetArgs {
    #[arg(value_name = "K=V", required = true, value_parser = parse_assignment)]
    pub variables: Vec<(String, String)>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct EnvUnsetArgs {
    #[arg(value_name = "K", required = true)]
    pub variables: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Left out: --app, then the app of wharf.toml in this folder
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
pub struct LoginArgs {
    /// The platform's API, such as `https://wharf.example.com`; left out: the platform on this machine
    ///
    /// The token comes from --token, WHARF_TOKEN, a question at a terminal, or else stdin.
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    /// Name of the context [default: the address's host]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Args, Debug)]
pub struct LogoutArgs {
    /// The context to forget [default: the current one]
    #[arg(value_name = "CONTEXT")]
    pub name: Option<String>,
}

#[derive(Args, Debug)]
pub struct ContextArgs {
    #[command(subcommand)]
    pub command: Option<ContextCommand>,
}

#[derive(Subcommand, Debug)]
pub enum ContextCommand {
    /// List the contexts
    List(With<NoArgs>),
    /// Use another context from now on
    Use {
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
    /// Show what later commands will talk to, and as whom
    Show(With<NoArgs>),
}

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct TokenArgs {
    #[command(subcommand)]
    pub command: TokenCommand,
}

#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Create a token; its secret is shown once
    Create(With<TokenCreateArgs>),
    /// List the tokens
    List(With<NoArgs>),
    /// Make a token useless from now on
    Revoke(With<TokenRevokeArgs>),
}

/// With -n, the token is for that namespace only.
#[derive(Args, Debug)]
pub struct TokenCreateArgs {
    /// What it is for
    pub name: String,
    #[arg(long, value_enum, default_value_t = RoleArg::Developer)]
    pub role: RoleArg,
    /// Such as `30d` [default: 90 days]
    #[arg(long, value_name = "TIME")]
    pub expires_in: Option<Span>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleArg {
    /// Reads
    Viewer,
    /// Deploys
    Developer,
    /// Everything
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Developer => Self::Developer,
            RoleArg::Admin => Self::Admin,
        }
    }
}

#[derive(Args, Debug)]
pub struct TokenRevokeArgs {
    /// The token's id, as `wharf token list` shows it
    pub id: String,
}

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct NamespaceArgs {
    #[command(subcommand)]
    pub command: NamespaceCommand,
}

#[derive(Subcommand, Debug)]
pub enum NamespaceCommand {
    /// Create a namespace
    Create(With<NamespaceNameArg>),
    /// List the namespaces
    List(With<NoArgs>),
    /// Delete a namespace that has no apps
    Delete(With<NamespaceDeleteArgs>),
}

#[derive(Args, Debug)]
pub struct NamespaceNameArg {
    #[arg(value_name = "NAMESPACE")]
    pub name: NamespaceName,
}

#[derive(Args, Debug)]
pub struct NamespaceDeleteArgs {
    #[arg(value_name = "NAMESPACE")]
    pub name: NamespaceName,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
pub struct NodeArgs {
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
}

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List the nodes
    #[command(visible_alias = "list")]
    Ls(With<NoArgs>),
}

#[derive(Args, Debug)]
pub struct ComponentizeArgs {
    /// The core module, made for wasm32-wasip1
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// Where the component goes; may be the same file
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
}

#[derive(Args, Debug)]
pub struct CompletionArgs {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
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
    fn values_may_hold_equals_signs() {
        assert_eq!(parse_assignment("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(parse_assignment("A").is_err() && parse_assignment("=b").is_err());
    }
}
