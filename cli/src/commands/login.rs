//! `wharf login` and `logout`: keeping an address and a token for later commands, and forgetting them.

use clap::Args;

use super::context::{no_context, scope_text};
use super::git::{self, Scope};
use crate::args::Global;
use crate::client::Client;
use crate::context::{self, Config, SavedContext};
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output;
use crate::secret::Secret;
use crate::unseen;

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
    // Who is at home in one namespace alone means that one.
    let only = match &who.memberships[..] {
        [membership] => Some(membership.namespace.clone()),
        _ => None,
    };
    let namespace = global.namespace.or_else(|| who.namespace.clone()).or(only);
    let mut config = Config::load()?;
    config.contexts.insert(name.clone(), SavedContext { api: api.clone(), token, namespace });
    config.current = Some(name.clone());
    config.save()?;
    // Without git, or with a configuration that cannot be written, nothing else is missing.
    if let Err(error) = git::teach_credentials(&api, Scope::User) {
        output::note(format!("note: `git push` will ask for the token: {error:#}"));
    }
    if global.json {
        return output::json(&serde_json::json!({ "context": name, "api": api, "whoami": who }));
    }
    output::line(format!("logged in to {api} as {} ({}); context `{name}`", who.name, scope_text(&who)))
}

fn given_token(global: &Global) -> Option<Secret> {
    let from_env = || std::env::var("WHARF_TOKEN").ok().filter(|token| !token.is_empty()).map(Secret::from);
    global.token.clone().or_else(from_env)
}

/// Without an address: the platform of this machine, with its own token unless another one is given.
fn local_platform(global: &Global) -> anyhow::Result<(String, Secret)> {
    if let Some(api) = &global.api {
        let api = context::normalise_api(api);
        let token = match given_token(global) {
            Some(token) => token,
            None => ask_for_token(&api)?,
        };
        return Ok((api, token));
    }
    let local = local::read()?.into_iter().next().ok_or_else(|| {
        Failure::usage("no address was given, and no platform runs on this machine")
            .help("`wharf login https://HOST`, or start a platform with `wharf up`")
    })?;
    let token = match given_token(global) {
        Some(token) => token,
        None => context::token_in(&local.token_file)?,
    };
    Ok((local.api, token))
}

/// At a terminal the token is typed unseen; elsewhere it is the first line of stdin.
fn ask_for_token(api: &str) -> anyhow::Result<Secret> {
    let at_terminal = output::is_interactive();
    if at_terminal {
        output::note(format!("Token for {api} (it is not shown):"));
    }
    let token = Secret::from(unseen::read_line("the token", at_terminal)?);
    if token.reveal().is_empty() {
        return Err(Failure::usage("no token was given")
            .help("pass it with --token or WHARF_TOKEN, or write it to stdin; an admin makes one with `wharf token create`")
            .into());
    }
    Ok(token)
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
