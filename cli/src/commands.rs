//! The client commands: each is one question to the platform, or one wish.

pub mod build;
pub mod declare;
pub mod deploy;
pub mod get;
pub mod git;
pub mod import;

pub mod apps;
pub mod moving;
pub mod releases;
pub mod scale;
pub mod status;

pub mod config;
pub mod cp;
pub mod env;
pub mod events;
pub mod exec;
pub mod job;
pub mod logs;
pub mod schedule;
pub mod secret;
pub mod top;

pub mod audit;
pub mod context;
pub mod login;
pub mod member;
pub mod namespace;
pub mod node;
pub mod quota;
pub mod registry;
pub mod server;
pub mod stack;
pub mod token;
pub mod user;
pub mod volume;

pub mod completion;
pub mod componentize;
pub mod doctor;

use crate::args::{Command, Global};
use crate::exit::Failure;
use crate::output;
use crate::session::Session;

/// Runs the command of a client; `before` are the flags that stood before its name.
pub async fn run(command: Command, before: Global) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match command {
        Command::Deploy(with) => deploy::run(&open(with.global)?, with.args).await,
        Command::Git(with) => git::run(with.global.or(before), with.args).await,
        Command::Builds(with) => build::list(&open(with.global)?, with.args).await,
        Command::Build(with) => build::run(with.global.or(before), with.args).await,
        Command::Stack(with) => stack::run(with.global.or(before), with.args).await,
        Command::Import(with) => import::run(with.global.or(before), with.args),
        Command::Plan(with) => declare::plan(&open(with.global)?, with.args).await,
        Command::Apply(with) => declare::apply(&open(with.global)?, with.args).await,
        Command::Get(with) => get::get(&open(with.global)?, with.args).await,
        Command::Schema => {
            before.refuse_all_but_json("schema")?;
            get::schema()
        }
        Command::Apps(with) => apps::list(&open(with.global)?).await,
        Command::Status(with) => status::status(&open(with.global)?, with.args).await,
        Command::Why(with) => status::why(&open(with.global)?, with.args).await,
        Command::Open(with) => apps::open(&open(with.global)?, with.args).await,
        Command::Logs(with) => logs::run(&open(with.global)?, with.args).await,
        Command::Cp(with) => cp::run(&open(with.global)?, with.args).await,
        Command::Events(with) => events::run(&open(with.global)?, with.args).await,
        Command::Top(with) => top::run(&open(with.global)?).await,
        Command::Releases(with) => releases::list(&open(with.global)?, with.args).await,
        Command::Rollback(with) => releases::rollback(&open(with.global)?, with.args).await,
        Command::Scale(with) => scale::run(&open(with.global)?, with.args).await,
        Command::Rollout(with) => moving::run(with.global.or(before), with.args).await,
        Command::Stop(with) => moving::stop(&open(with.global)?, with.args).await,
        Command::Start(with) => moving::start(&open(with.global)?, with.args).await,
        Command::Restart(with) => releases::restart(&open(with.global)?, with.args).await,
        Command::Delete(with) => apps::delete(&open(with.global)?, with.args).await,
        Command::Env(with) => env::run(with.global.or(before), with.args).await,
        Command::Secret(with) => secret::run(with.global.or(before), with.args).await,
        Command::Config(with) => config::run(with.global.or(before), with.args).await,
        Command::Schedule(with) => schedule::run(with.global.or(before), with.args).await,
        Command::Login(with) => login::login(with.global.or(before), with.args).await,
        Command::Logout(with) => login::logout(&with.global.or(before), with.args),
        Command::Context(with) => context::run(with.global.or(before), with.args).await,
        Command::Token(with) => token::run(with.global.or(before), with.args).await,
        Command::User(with) => user::run(with.global.or(before), with.args).await,
        Command::Member(with) => member::run(with.global.or(before), with.args).await,
        Command::Quota(with) => quota::run(with.global.or(before), with.args).await,
        Command::Registry(with) => registry::run(with.global.or(before), with.args).await,
        Command::Audit(with) => audit::run(with.global.or(before), with.args).await,
        Command::Namespace(with) => namespace::run(with.global.or(before), with.args).await,
        Command::Volume(with) => volume::run(with.global.or(before), with.args).await,
        Command::Node(with) => node::run(with.global.or(before), with.args).await,
        Command::Doctor(with) => doctor::run(with.global.or(before)).await,
        Command::Componentize(args) => {
            before.refuse_all_but_json("componentize")?;
            componentize::run(&args)
        }
        Command::Completion(args) => {
            before.refuse_all_but_json("completion")?;
            completion::run(&args)
        }
        Command::Job(_) | Command::RunJob(_) | Command::Exec(_) => {
            unreachable!("what ends with a guest's code is dispatched before")
        }
        Command::Up(_)
        | Command::Server(_)
        | Command::Worker(_)
        | Command::Run(_)
        | Command::Precompile(_)
        | Command::Diff(_) => {
            unreachable!("what ends with a code of its own is dispatched before the other client commands")
        }
    }
}

/// Before something is lost: at a terminal the name has to be typed, elsewhere `--yes` has to be given.
fn confirm(what: &str, name: &str, yes: bool) -> anyhow::Result<()> {
    let (doing, does) =
        (format!("deleting {what} `{name}`"), format!("This deletes {what} `{name}` for good."));
    confirm_that((&doing, &does), name, yes)
}

/// The same, with words for what is to be done and for what it does.
fn confirm_that((doing, does): (&str, &str), name: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !output::is_interactive() {
        return Err(Failure::usage(format!("{doing} needs --yes where nobody can be asked")).into());
    }
    output::note(format!("{does} Type its name to go on:"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(Failure::usage("that is not its name: nothing was done").into())
}
