//! `wharf git`: where to push an app, and the token that goes with it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use wharf_types::AppName;
use wharf_types::api::{PreviewInfo, RepositoryInfo, RepositoryPatch, WhenBusy};

use crate::app_ref::AppRef;
use crate::args::{AppArg, Global, With};
use crate::context::{self, Config};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::secret::Secret;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct GitArgs {
    #[command(subcommand)]
    pub command: GitCommand,
}

#[derive(Subcommand, Debug)]
pub enum GitCommand {
    /// Add the remote `wharf` to the repository in this folder, so that `git push wharf` deploys
    Remote(With<RemoteArgs>),
    /// Show where to push an app, which branch is deployed, and its previews
    Show(With<AppArg>),
    /// Say which branch is deployed, and what a push does while another one is under way
    Set(With<SetArgs>),
    /// Give git the token; git runs this itself
    #[command(hide = true)]
    Credential(CredentialArgs),
}

#[derive(Args, Debug)]
pub struct RemoteArgs {
    /// Left out: --app, then the app of wharf.toml in this folder, then the folder's name
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Name of the remote
    #[arg(long, value_name = "NAME", default_value = REMOTE)]
    pub name: String,
}

#[derive(Args, Debug)]
pub struct SetArgs {
    /// Left out: --app, then the app of wharf.toml in this folder
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// The branch that is deployed
    #[arg(long, value_name = "NAME", required_unless_present = "when_busy")]
    pub branch: Option<String>,
    /// What a push does while another one of the app is under way
    #[arg(long, value_name = "WHAT")]
    pub when_busy: Option<Busy>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Busy {
    Wait,
    Fail,
}

#[derive(Args, Debug)]
pub struct CredentialArgs {
    /// What git wants: `get`, `store` or `erase`
    #[arg(value_name = "WHAT")]
    pub what: String,
}

/// The remote that `wharf git remote` adds.
pub const REMOTE: &str = "wharf";

pub async fn run(before: Global, args: GitArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        GitCommand::Remote(with) => remote(&open(with.global)?, with.args),
        GitCommand::Show(with) => show(&open(with.global)?, with.args).await,
        GitCommand::Set(with) => set(&open(with.global)?, with.args).await,
        GitCommand::Credential(args) => credential(&args),
    }
}

/// Of the API at this address.
pub fn url(api: &str, app: &AppRef) -> String {
    format!("{api}/git/{}/{}.git", app.namespace, app.app)
}

/// The app whose repository is at this address; None: it is none of ours.
pub fn app_at(url: &str) -> Option<AppRef> {
    let (_, path) = url.rsplit_once("/git/")?;
    let (namespace, app) = path.strip_suffix(".git")?.split_once('/')?;
    Some(AppRef { namespace: namespace.parse().ok()?, app: app.parse().ok()? })
}

fn remote(session: &Session, args: RemoteArgs) -> anyhow::Result<()> {
    let named = session.find_app(args.app)?;
    let app = match named {
        Some(app) => app,
        None => AppRef { namespace: session.namespace()?, app: app_of_folder()? },
    };
    let url = url(&session.target.api, &app);
    git(&["rev-parse", "--git-dir"]).map_err(|_| {
        Failure::usage("this folder is in no git repository").help("`git init` makes one of it")
    })?;
    let before = git(&["config", "--get", &format!("remote.{}.url", args.name)]).ok();
    match before.as_deref().map(str::trim) {
        None => drop(git(&["remote", "add", &args.name, &url])?),
        Some(before) if before == url => {}
        Some(_) => drop(git(&["remote", "set-url", &args.name, &url])?),
    }
    teach_credentials(&session.target.api, Scope::Repository)?;
    if session.json {
        return output::json(&serde_json::json!({ "remote": args.name, "url": url, "app": app }));
    }
    output::line(format!("the remote `{}` is {url}", args.name))?;
    output::line(format!("`git push {} main` deploys {} in {}", args.name, app.app, app.namespace))
}

fn app_of_folder() -> anyhow::Result<AppName> {
    let folder = std::env::current_dir().context("could not read where this is")?;
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Ok(name.parse().map_err(|error| {
        Failure::usage(format!("no app was named, and the folder's name is none: {error}"))
            .help("`wharf git remote APP`")
    })?)
}

/// Where git learns who answers for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For everything that this user does.
    User,
    Repository,
}

/// Has git ask this command for the token of an address, and nobody else.
pub fn teach_credentials(api: &str, scope: Scope) -> anyhow::Result<()> {
    let here = std::env::current_exe().context("could not find this command")?;
    let helper = format!("!{} git credential", quoted(&here));
    let key = format!("credential.{api}.helper");
    let place = match scope {
        Scope::User => "--global",
        Scope::Repository => "--local",
    };
    // The empty one takes away what was said for all addresses.
    git(&["config", place, "--replace-all", &key, ""])?;
    git(&["config", place, "--add", &key, &helper])?;
    Ok(())
}

/// As a word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

fn git(args: &[&str]) -> anyhow::Result<String> {
    let run = std::process::Command::new("git").args(args).stdin(Stdio::null()).output();
    let run = run.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::usage("git is not installed here, and this needs it"),
        _ => Failure::new(Exit::Platform, format!("could not start git: {error}")),
    })?;
    if run.status.success() {
        return Ok(String::from_utf8_lossy(&run.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&run.stderr).trim().to_owned();
    Err(Failure::new(Exit::Platform, format!("`git {}` failed: {said}", args.join(" "))).into())
}

async fn show(session: &Session, args: AppArg) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let info = session.client.repository(&app).await?;
    print(session, &app, &info)
}

async fn set(session: &Session, args: SetArgs) -> anyhow::Result<()> {
    let app = session.app(args.app)?;
    let when_busy = args.when_busy.map(|busy| match busy {
        Busy::Wait => WhenBusy::Wait,
        Busy::Fail => WhenBusy::Fail,
    });
    let info =
        session.client.set_repository(&app, &RepositoryPatch { branch: args.branch, when_busy }).await?;
    print(session, &app, &info)
}

fn print(session: &Session, app: &AppRef, info: &RepositoryInfo) -> anyhow::Result<()> {
    if session.json {
        return output::json(info);
    }
    let busy = match info.when_busy {
        WhenBusy::Wait => "waits for it",
        WhenBusy::Fail => "fails",
    };
    output::line(format!("push to      {}", url(&session.target.api, app)))?;
    output::line(format!("deployed is  {}", info.branch))?;
    output::line(format!("commit       {}", info.commit.as_deref().unwrap_or("nothing was pushed yet")))?;
    output::line(format!("a push while another one is under way {busy}"))?;
    for preview in &info.previews {
        output::line(format!("preview      {}", described(preview)))?;
    }
    Ok(())
}

fn described(preview: &PreviewInfo) -> String {
    let PreviewInfo { app, branch, expires_at, services } = preview;
    if services.is_empty() {
        return format!("{branch} is {app}, until {expires_at:.0}");
    }
    let services: Vec<&str> = services.iter().map(AppName::as_str).collect();
    format!("{branch} is the stack {app} ({}), until {expires_at:.0}", services.join(", "))
}

/// What git asks and says in lines of `key=value`: see `git help credential`.
fn credential(args: &CredentialArgs) -> anyhow::Result<()> {
    let mut asked = String::new();
    std::io::stdin().take(64 << 10).read_to_string(&mut asked).context("could not read what git asks")?;
    if args.what != "get" {
        // A token is kept by `wharf login`, and forgotten by `wharf logout`.
        return Ok(());
    }
    let asked: BTreeMap<&str, &str> = asked.lines().filter_map(|line| line.split_once('=')).collect();
    let address = format!(
        "{}://{}",
        asked.get("protocol").copied().unwrap_or_default(),
        asked.get("host").copied().unwrap_or_default()
    );
    let Some(token) = token_for(&address)? else {
        // Git asks whoever it runs for then, or says only that it cannot.
        output::note(format!("there is no token for {address}: log in with `wharf login {address}`"));
        return Ok(());
    };
    output::line("username=wharf")?;
    output::line(format!("password={}", token.reveal()))
}

/// The token that was kept for just this address, or that of the platform on this machine.
fn token_for(address: &str) -> anyhow::Result<Option<Secret>> {
    let is_asked = |api: &str| context::normalise_api(api) == address;
    let config = Config::load()?;
    let current = config.current().map(|(_, saved)| saved);
    let mut saved = current.into_iter().chain(config.contexts.values());
    if let Some(saved) = saved.find(|saved| is_asked(&saved.api)) {
        return Ok(Some(saved.token.clone()));
    }
    let target = context::target(&Global::default())?;
    if is_asked(&target.api) { target.token.read() } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_its_app_and_back() {
        let app = AppRef { namespace: "blue".parse().unwrap(), app: "hello".parse().unwrap() };
        let url = url("https://wharf.example.com", &app);
        assert_eq!(url, "https://wharf.example.com/git/blue/hello.git");
        assert_eq!(app_at(&url), Some(app));
        for other in
            ["https://github.com/a/b.git", "https://x/git/a/b", "git@x:a/b.git", "https://x/git/A/b.git"]
        {
            assert_eq!(app_at(other), None, "{other}");
        }
    }

    #[test]
    fn a_preview_is_an_app_or_a_stack_with_its_services() {
        let mut preview = PreviewInfo {
            app: "shop-preview-a".parse().unwrap(),
            branch: "preview/a".to_owned(),
            expires_at: wharf_types::Timestamp::UNIX_EPOCH,
            services: Vec::new(),
        };
        assert_eq!(described(&preview), "preview/a is shop-preview-a, until 1970-01-01T00:00:00Z");
        preview.services =
            ["db", "web"].map(|name| format!("shop-preview-a-{name}").parse().unwrap()).to_vec();
        let said = described(&preview);
        assert!(
            said.contains("the stack shop-preview-a (shop-preview-a-db, shop-preview-a-web), until"),
            "{said}"
        );
    }

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("/it's/a b")), r"'/it'\''s/a b'");
    }
}
