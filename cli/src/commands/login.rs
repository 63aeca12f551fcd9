//! `wharf login`, `logout` and `context`: which address and token later commands use.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::Context as _;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use wharf_types::api::WhoAmI;

use super::token::role_word;
use crate::args::{Global, LoginArgs, LogoutArgs};
use crate::client::Client;
use crate::context::{self, Config, SavedContext, Target};
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output;
use crate::table::Table;

/// `wharf login`: asks the platform whether the token is good before keeping it.
pub async fn login(global: Global, args: LoginArgs) -> anyhow::Result<()> {
    let (api, token) = match &args.url {
        Some(url) => {
            let asked = Global { api: Some(url.clone()), token: global.token.clone(), ..Global::default() };
            let api = context::target(&asked)?.api;
            let token = match given_token(&global) {
                Some(token) => token,
                None => ask_for_token(&api)?,
            };
            (api, token)
        }
        None => local_platform(&global)?,
    };
    let who = Client::with_token(&api, Some(token.clone()))?.whoami().await?;
    let name = args.name.unwrap_or_else(|| context_name(&api));
    let namespace = global.namespace.or_else(|| who.namespace.clone());
    let mut config = Config::load()?;
    config.contexts.insert(name.clone(), SavedContext { api: api.clone(), token, namespace });
    config.current = Some(name.clone());
    config.save()?;
    if global.json {
        return output::json(&serde_json::json!({ "context": name, "api": api, "whoami": who }));
    }
    output::line(format!("logged in to {api} as {} ({}); context `{name}`", who.name, scope_text(&who)))
}

fn given_token(global: &Global) -> Option<String> {
    let from_env = || std::env::var("WHARF_TOKEN").ok().filter(|token| !token.is_empty());
    global.token.clone().or_else(from_env)
}

/// Without an address: the platform of this machine, with its own token unless another one is given.
fn local_platform(global: &Global) -> anyhow::Result<(String, String)> {
    if let Some(api) = &global.api {
        let api = context::normalise_api(api);
        let token = match given_token(global) {
            Some(token) => token,
            None => ask_for_token(&api)?,
        };
        return Ok((api, token));
    }
    let local = local::read()?.ok_or_else(|| {
        Failure::usage("no address was given, and no platform runs on this machine")
            .help("`wharf login https://HOST`, or start a platform with `wharf up`")
    })?;
    let token = match given_token(global) {
        Some(token) => token,
        None => context::TokenSource::File(local.token_file).read()?.unwrap_or_default(),
    };
    Ok((local.api, token))
}

/// At a terminal the token is typed unseen; elsewhere it is the first line of stdin.
fn ask_for_token(api: &str) -> anyhow::Result<String> {
    let at_terminal = output::is_interactive();
    if at_terminal {
        output::note(format!("Token for {api} (it is not shown):"));
    }
    let mut line = String::new();
    let stdin = std::io::stdin();
    let unseen = if at_terminal { Some(Unseen::begin()?) } else { None };
    stdin.lock().read_line(&mut line).context("could not read the token from stdin")?;
    drop(unseen);
    let token = line.trim().to_owned();
    if token.is_empty() {
        return Err(Failure::usage("no token was given")
            .help("pass it with --token or WHARF_TOKEN, or write it to stdin; an admin makes one with `wharf token create`")
            .into());
    }
    Ok(token)
}

/// While it lives, the terminal does not show what is typed.
struct Unseen {
    before: nix::sys::termios::Termios,
}

impl Unseen {
    fn begin() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        debug_assert!(stdin.is_terminal());
        let before = tcgetattr(&stdin).context("could not ask the terminal for its settings")?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &quiet).context("could not turn the terminal's echo off")?;
        Ok(Self { before })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // There is nobody left to tell; the shell restores its own settings.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &self.before);
    }
}

/// `wharf logout`: forgets a context. The token itself stays good until it is revoked.
pub fn logout(global: &Global, args: LogoutArgs) -> anyhow::Result<()> {
    let mut config = Config::load()?;
    let name = args.name.or(config.current.clone()).ok_or_else(|| {
        Failure::new(Exit::NotFound, "not logged in anywhere").help("`wharf context list` shows the contexts")
    })?;
    let forgotten = config.contexts.remove(&name).ok_or_else(|| no_context(&name))?;
    if config.current.as_ref() == Some(&name) {
        config.current = None;
    }
    config.save()?;
    if global.json {
        return output::json(
            &serde_json::json!({ "context": name, "api": forgotten.api, "forgotten": true }),
        );
    }
    output::line(format!(
        "forgot the context `{name}` ({}); its token stays good until `wharf token revoke`",
        forgotten.api
    ))
}

fn no_context(name: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no context `{name}`"))
        .help("`wharf context list` shows them")
}

/// `wharf context list`
pub fn list_contexts(global: &Global) -> anyhow::Result<()> {
    let config = Config::load()?;
    if global.json {
        let items: Vec<_> = config
            .contexts
            .iter()
            .map(|(name, saved)| {
                let current = config.current.as_ref() == Some(name);
                serde_json::json!({ "name": name, "api": saved.api, "namespace": saved.namespace, "current": current })
            })
            .collect();
        return output::json(&serde_json::json!({ "items": items, "next_cursor": null }));
    }
    if config.contexts.is_empty() {
        return output::line("no contexts; `wharf login URL` makes one");
    }
    let mut table = Table::new(["CONTEXT", "", "API", "NAMESPACE"]);
    for (name, saved) in &config.contexts {
        let current = config.current.as_ref() == Some(name);
        table.row([
            name.clone(),
            if current { "current" } else { "" }.to_owned(),
            saved.api.clone(),
            saved.namespace.as_ref().map_or("default", |namespace| namespace.as_str()).to_owned(),
        ]);
    }
    table.print()
}

/// `wharf context use`
pub fn use_context(name: String) -> anyhow::Result<()> {
    let mut config = Config::load()?;
    let saved = config.contexts.get(&name).ok_or_else(|| no_context(&name))?;
    let line = format!("later commands talk to {}", saved.api);
    config.current = Some(name);
    config.save()?;
    output::line(line)
}

/// `wharf context show`
pub async fn show(global: &Global) -> anyhow::Result<()> {
    let target: Target = context::target(global)?;
    let who = Client::new(&target)?.whoami().await;
    let namespace = target.namespace.with_manifest(None);
    if global.json {
        return output::json(&serde_json::json!({
            "api": target.api,
            "origin": target.origin.to_string(),
            "namespace": namespace,
            "whoami": who?,
        }));
    }
    output::line(format!("{} (from {}), namespace {namespace}", target.api, target.origin))?;
    let who = who?;
    output::line(format!("as {} ({})", who.name, scope_text(&who)))
}

fn scope_text(who: &WhoAmI) -> String {
    match &who.namespace {
        Some(namespace) => format!("{} in {namespace}", role_word(who.role)),
        None => format!("{} in every namespace", role_word(who.role)),
    }
}

/// The address without its scheme: `https://wharf.example.com` gives `wharf.example.com`.
fn context_name(api: &str) -> String {
    api.split_once("://").map_or(api, |(_, rest)| rest).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_named_for_its_host() {
        assert_eq!(context_name("https://wharf.example.com"), "wharf.example.com");
        assert_eq!(context_name("http://127.0.0.1:7070"), "127.0.0.1:7070");
    }
}
