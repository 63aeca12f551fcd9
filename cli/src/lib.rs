//! The `wharf` command: starts the roles, and is the client of the API.
//!
//! [`main`] chooses what runs and on which runtime, and turns its end into an exit code. Client commands live in
//! [`commands`], each on one thread; the roles bring as many as they need.

#![allow(unreachable_pub, reason = "nothing but `main` is for others: `pub` marks what other modules use")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod args;
mod exit;

mod app_ref;
mod artifact;
mod aside;
mod context;
mod local;
mod project;
mod secret;

mod client;
mod follow;
mod session;
mod sse;

mod output;
mod raw;
mod said;
mod table;
mod unpack;
mod unseen;

#[cfg(test)]
mod test_server;

mod commands;
mod declared;
mod rollout;

mod compile_child;
mod ending;
mod engine;
mod exposed;
mod file_handles;
mod files;
mod join;
mod precompile;
mod push;
mod release_command;
mod run;
mod server;
mod up;
mod worker;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::args::{Cli, Command};

pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == "__compile") {
        return compile_child::main();
    }
    let json = wants_json(std::env::args_os());
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::report_usage(&error, json),
    };
    take_small_pages();
    match start(cli) {
        Ok(code) => code,
        Err(error) => exit::report(&error, json),
    }
}

/// The allocator asks for pages of 2 MiB, of which a platform that is idle uses a third: 40 MB of memory for nothing, without a difference in
/// requests a second. That a kernel knows no such setting is no reason to fail.
fn take_small_pages() {
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Whether errors are told as JSON too. Read from the words themselves, so that it holds for every command alike, and for
/// words that are no command.
fn wants_json(args: impl Iterator<Item = OsString>) -> bool {
    args.take_while(|arg| arg != "--").any(|arg| arg == "--json")
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider was installed first");
    }
    let mut builder = match cli.command {
        Command::Up(_)
        | Command::Server(_)
        | Command::Worker(_)
        | Command::Run(_)
        | Command::Precompile(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder
        .thread_stack_size(aside::STACK_BYTES)
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let ended = runtime.block_on(dispatch(cli));
    // A role has drained what it could by now; a thread that still blocks must not hold the process.
    runtime.shutdown_background();
    ended
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { global: before, command } = cli;
    match command {
        Command::Up(args) => {
            before.refuse_all_but_json("up")?;
            up::run(up::UpArgs { json: args.json || before.json, ..args }).await
        }
        Command::Server(args) => {
            before.refuse_all_but_json("server")?;
            server::run(server::ServerArgs { json: args.json || before.json, ..args }).await
        }
        Command::Worker(args) => {
            before.refuse_all_but_json("worker")?;
            join::run(join::WorkerArgs { json: args.json || before.json, ..args }).await
        }
        Command::Run(args) => {
            before.refuse_all_but_json("run")?;
            run::run(args).await
        }
        Command::Precompile(args) => {
            before.refuse_all_but_json("precompile")?;
            let json = args.json || before.json;
            precompile::run(precompile::PrecompileArgs { json, ..args }).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Job(with) => commands::job::run(with.global.or(before), with.args).await,
        Command::RunJob(with) => {
            let session = session::Session::open(with.global.or(before))?;
            commands::job::start(&session, with.args).await
        }
        Command::Exec(with) => {
            let session = session::Session::open(with.global.or(before))?;
            commands::exec::run(&session, with.args).await
        }
        Command::Diff(with) => {
            let global = with.global.or(before);
            let json = global.json;
            let compared =
                async { commands::declare::diff(&session::Session::open(global)?, with.args).await };
            // As `diff` has it: 1 is a difference, and every error is 2.
            Ok(compared.await.unwrap_or_else(|error| exit::report_as(&error, json, exit::DIFF_FAILED)))
        }
        command => commands::run(command, before).await.map(|()| ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_own_arguments_say_nothing_about_json() {
        let wants = |args: &[&str]| wants_json(args.iter().map(|arg| OsString::from(*arg)));
        assert!(wants(&["wharf", "status", "--json"]));
        assert!(!wants(&["wharf", "run", "x.wasm", "--", "--json"]));
    }
}
