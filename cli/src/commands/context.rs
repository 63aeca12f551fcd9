//! `wharf context`: the addresses and tokens that `wharf login` saved.

use clap::{Args, Subcommand};
use wharf_types::api::WhoAmI;

use super::user::memberships_text;
use crate::args::{Global, NoArgs, With};
use crate::client::Client;
use crate::context::{self, Config, Target};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::table::Table;

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
    Use(With<ContextNameArg>),
    /// Show what later commands will talk to, and as whom
    Show(With<NoArgs>),
}

#[derive(Args, Debug)]
pub struct ContextNameArg {
    #[arg(value_name = "CONTEXT")]
    pub name: String,
}

pub async fn run(before: Global, args: ContextArgs) -> anyhow::Result<()> {
    match args.command {
        None => list(&before),
        Some(ContextCommand::List(with)) => list(&with.global.or(before)),
        Some(ContextCommand::Show(with)) => show(&with.global.or(before)).await,
        Some(ContextCommand::Use(with)) => choose(&with.global.or(before), with.args),
    }
}

/// The failure to find a context of this name.
pub fn no_context(name: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no context `{name}`"))
        .help("`wharf context list` shows them")
}

fn list(global: &Global) -> anyhow::Result<()> {
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

fn choose(global: &Global, args: ContextNameArg) -> anyhow::Result<()> {
    let name = args.name;
    let mut config = Config::load()?;
    let api = config.contexts.get(&name).ok_or_else(|| no_context(&name))?.api.clone();
    config.current = Some(name.clone());
    config.save()?;
    if global.json {
        return output::json(&serde_json::json!({ "context": name, "api": api }));
    }
    output::line(format!("later commands talk to {api}"))
}

async fn show(global: &Global) -> anyhow::Result<()> {
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

/// What a token is good for: `developer in team`, and of a user's token, whose it is.
pub fn scope_text(who: &WhoAmI) -> String {
    let scope = match (&who.user, &who.namespace) {
        (Some(user), _) => format!("user {user}, {}", memberships_text(&who.memberships)),
        (None, Some(namespace)) => format!("{} in {namespace}", who.role.as_str()),
        (None, None) => format!("{} in every namespace", who.role.as_str()),
    };
    if who.verbs.is_empty() {
        return scope;
    }
    let verbs: Vec<_> = who.verbs.iter().map(|verb| verb.as_str()).collect();
    format!("{scope}, only {}", verbs.join(", "))
}
