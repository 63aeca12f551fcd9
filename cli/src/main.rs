//! The `wharf` binary: starts the roles, and is the client of the API.
//!
//! `main` chooses what runs and on which runtime, and turns its end into an exit code. Client commands live in
//! [`commands`], each on one thread; the roles bring as many as they need.

#![allow(
    unreachable_pub,
    reason = "nothing of a binary is reachable from outside: `pub` marks what other modules use"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod args;
mod exit;

mod context;
mod local;
mod project;

mod client;
mod follow;
mod session;
mod sse;

mod output;
mod table;

#[cfg(test)]
mod test_server;

mod commands;
mod rollout;

mod compile_child;
mod file_handles;
mod run;
mod up;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::args::{
    Cli, Command, ContextCommand, EnvCommand, Global, NamespaceCommand, NodeCommand, TokenCommand,
};
use crate::session::Session;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == "__compile") {
        return compile_child::main();
    }
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(error) => exit::report(&error, wants_json(std::env::args())),
    }
}

/// Whether errors are told as JSON too. Read from the words themselves, so that it holds for every command alike.
fn wants_json(args: impl Iterator<Item = String>) -> bool {
    args.take_while(|arg| arg != "--").any(|arg| arg == "--json")
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider was installed first");
    }
    let mut builder = match cli.command {
        Command::Up(_) | Command::Run(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build().context("could not start the runtime")?;
    let ended = runtime.block_on(dispatch(cli));
    // A role has drained what it could by now; a thread that still blocks must not hold the process.
    runtime.shutdown_background();
    ended
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { global: before, command } = cli;
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Run(args) => run::run(args).await,
        command => client_command(command, before).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn client_command(command: Command, before: Global) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match command {
        Command::Deploy(with) => commands::deploy::run(&open(with.global)?, with.args).await,
        Command::Apps(with) => commands::apps::list(&open(with.global)?).await,
        Command::Status(with) => commands::apps::status(&open(with.global)?, with.args).await,
        Command::Why(with) => commands::apps::why(&open(with.global)?, with.args).await,
        Command::Open(with) => commands::apps::open(&open(with.global)?, with.args).await,
        Command::Logs(with) => commands::logs::run(&open(with.global)?, with.args).await,
        Command::Events(with) => commands::events::run(&open(with.global)?, with.args).await,
        Command::Top(with) => commands::top::run(&open(with.global)?).await,
        Command::Releases(with) => commands::releases::list(&open(with.global)?, with.args).await,
        Command::Rollback(with) => commands::releases::rollback(&open(with.global)?, with.args).await,
        Command::Scale(with) => commands::scale::run(&open(with.global)?, with.args).await,
        Command::Restart(with) => commands::releases::restart(&open(with.global)?, with.args).await,
        Command::Delete(with) => commands::apps::delete(&open(with.global)?, with.args).await,
        Command::Env(with) => env_command(with.args.command, with.global.or(before)).await,
        Command::Login(with) => commands::login::login(with.global.or(before), with.args).await,
        Command::Logout(with) => commands::login::logout(&with.global.or(before), with.args),
        Command::Context(with) => context_command(with.args.command, with.global.or(before)).await,
        Command::Token(with) => token_command(with.args.command, with.global.or(before)).await,
        Command::Namespace(with) => namespace_command(with.args.command, with.global.or(before)).await,
        Command::Node(with) => {
            let global = with.global.or(before);
            let inner = with.args.command.map(|NodeCommand::Ls(inner)| inner.global).unwrap_or_default();
            commands::node::list(&Session::open(inner.or(global))?).await
        }
        Command::Doctor(with) => commands::doctor::run(with.global.or(before)).await,
        Command::Componentize(args) => commands::componentize::run(&args),
        Command::Completion(args) => commands::completion::run(&args),
        Command::Up(_) | Command::Run(_) => unreachable!("roles are dispatched before client commands"),
    }
}

async fn env_command(command: Option<EnvCommand>, before: Global) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match command {
        Some(EnvCommand::Set(with)) => commands::env::set(&open(with.global)?, with.args).await,
        Some(EnvCommand::Unset(with)) => commands::env::unset(&open(with.global)?, with.args).await,
        Some(EnvCommand::List(with)) => commands::env::list(&open(with.global)?, with.args).await,
        None => commands::env::list(&Session::open(before)?, args::AppArg { name: None }).await,
    }
}

async fn context_command(command: Option<ContextCommand>, before: Global) -> anyhow::Result<()> {
    match command {
        None => commands::login::list_contexts(&before),
        Some(ContextCommand::List(with)) => commands::login::list_contexts(&with.global.or(before)),
        Some(ContextCommand::Show(with)) => commands::login::show(&with.global.or(before)).await,
        Some(ContextCommand::Use { name }) => commands::login::use_context(name),
    }
}

async fn token_command(command: TokenCommand, before: Global) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match command {
        TokenCommand::Create(with) => {
            // Only a flag narrows a token: a namespace of the environment or of the context is no wish about it.
            let scope = with.global.namespace.clone().or(before.namespace.clone());
            commands::token::create(&open(with.global)?, scope, with.args).await
        }
        TokenCommand::List(with) => commands::token::list(&open(with.global)?).await,
        TokenCommand::Revoke(with) => commands::token::revoke(&open(with.global)?, with.args).await,
    }
}

async fn namespace_command(command: NamespaceCommand, before: Global) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match command {
        NamespaceCommand::Create(with) => commands::namespace::create(&open(with.global)?, with.args).await,
        NamespaceCommand::List(with) => commands::namespace::list(&open(with.global)?).await,
        NamespaceCommand::Delete(with) => commands::namespace::delete(&open(with.global)?, with.args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_own_arguments_say_nothing_about_json() {
        let wants = |args: &[&str]| wants_json(args.iter().map(|arg| (*arg).to_owned()));
        assert!(wants(&["wharf", "status", "--json"]));
        assert!(!wants(&["wharf", "run", "x.wasm", "--", "--json"]));
    }
}
