//! `wharf secret`: values that guests are given and nobody is shown. A changed one is a new release of the apps that use it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio::time::Instant;
use wharf_types::api::{Page, SecretSet};
use wharf_types::secret::{SecretValue, VALUE_MAX_BYTES, ValueKind};
use wharf_types::{NamespaceName, SecretName, Timestamp};

use crate::app_ref::AppRef;
use crate::args::{Global, NoArgs, WaitArgs, With};
use crate::exit::{Exit, Failure};
use crate::output::{self, ago};
use crate::rollout;
use crate::secret::Secret;
use crate::session::Session;
use crate::table::Table;
use crate::unseen;

#[derive(Args, Debug)]
pub struct SecretArgs {
    #[command(subcommand)]
    pub command: Option<SecretCommand>,
}

#[derive(Subcommand, Debug)]
pub enum SecretCommand {
    /// Set a secret; apps that use it get a new release
    ///
    /// The value is typed unseen at a terminal, or comes from stdin, without the line break at its end, or from a file, as it is.
    Set(With<SecretSetArgs>),
    /// List the namespace's secrets: names, versions and the apps that use them, never values
    #[command(name = "ls", visible_alias = "list")]
    List(With<NoArgs>),
    /// Remove a secret that no kept release uses
    #[command(name = "rm", visible_alias = "delete")]
    Remove(With<SecretNameArg>),
    /// Seal all secrets of the platform with a new key
    RotateKey(With<NoArgs>),
}

#[derive(Args, Debug)]
pub struct SecretSetArgs {
    /// Such as `db-password`
    #[arg(value_name = "NAME")]
    pub name: Secret,
    /// Only there to be refused without being shown.
    #[arg(hide = true)]
    pub value: Vec<Secret>,
    /// Take the value from a file
    #[arg(long, value_name = "FILE")]
    pub from_file: Option<PathBuf>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct SecretNameArg {
    #[arg(value_name = "NAME")]
    pub name: SecretName,
}

pub async fn run(before: Global, args: SecretArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        Some(SecretCommand::Set(with)) => set(&open(with.global)?, with.args).await,
        Some(SecretCommand::List(with)) => list(&open(with.global)?, ValueKind::Secret).await,
        Some(SecretCommand::Remove(with)) => {
            remove(&open(with.global)?, ValueKind::Secret, &with.args.name).await
        }
        Some(SecretCommand::RotateKey(with)) => rotate_key(&open(with.global)?).await,
        None => list(&Session::open(before)?, ValueKind::Secret).await,
    }
}

/// With `--json`: a line about the secret, then one for each rollout.
async fn set(session: &Session, args: SecretSetArgs) -> anyhow::Result<()> {
    let name = name_alone(&args)?;
    let namespace = session.namespace()?;
    let value = read_value(&name, args.from_file.as_deref())?;
    store(session, &namespace, (ValueKind::Secret, &name), value, args.wait).await
}

/// Sets a secret or a config, and waits for the rollouts to what it changes.
pub(super) async fn store(
    session: &Session,
    namespace: &NamespaceName,
    (kind, name): (ValueKind, &SecretName),
    value: SecretValue,
    wait: WaitArgs,
) -> anyhow::Result<()> {
    let since = Instant::now();
    let set = session.client.set_value(namespace, (kind, name), &value).await?;
    drop(value);
    finish(session, namespace, (kind, name), &set, (wait, since)).await
}

/// Says what was set, and waits for the rollouts to what it changes.
pub(super) async fn finish(
    session: &Session,
    namespace: &NamespaceName,
    (kind, name): (ValueKind, &SecretName),
    set: &SecretSet,
    (wait, since): (WaitArgs, Instant),
) -> anyhow::Result<()> {
    if session.json {
        output::json(set)?;
    } else {
        let users = match set.releases.len() {
            0 => "no app needs a new release for it".to_owned(),
            count => format!("{} for it", output::count(count as u64, "new release")),
        };
        output::line(format!("{kind} {name} in {namespace} is at version {}; {users}", set.version))?;
    }
    let mut outcome = Ok(());
    for deployed in &set.releases {
        let app = AppRef { namespace: deployed.namespace.clone(), app: deployed.app.clone() };
        let finished = rollout::finish(session, &app, deployed, wait, since).await;
        outcome = outcome.and(finished);
    }
    outcome
}

/// The name, if that is all that was given.
fn name_alone(args: &SecretSetArgs) -> Result<SecretName, Failure> {
    let name = args.name.reveal();
    if !args.value.is_empty() || name.contains('=') {
        return Err(Failure::usage(
            "a secret's value is not an argument: the shell's history and every user of this machine could read it there",
        )
        .help("leave it out to be asked for it, write it to stdin, or name a file with --from-file"));
    }
    name.parse().map_err(|error: wharf_types::name::InvalidName| Failure::usage(error.to_string()))
}

fn read_value(name: &SecretName, file: Option<&Path>) -> anyhow::Result<SecretValue> {
    if file.is_none() && output::is_interactive() {
        output::note(format!("Value of the secret {name} (it is not shown):"));
        return checked(without_line_break(unseen::read_line("the value", true)?.into()));
    }
    read_given(ValueKind::Secret, file)
}

/// The value in a file, as it is, or from stdin, without the line break at its end.
pub(super) fn read_given(kind: ValueKind, file: Option<&Path>) -> anyhow::Result<SecretValue> {
    checked(match file {
        Some(file) => {
            let cannot = || format!("cannot read the {kind}'s value from {}", file.display());
            read_some(std::fs::File::open(file).with_context(cannot)?).with_context(cannot)?
        }
        None => {
            let cannot = || format!("cannot read the {kind}'s value from stdin");
            without_line_break(read_some(std::io::stdin().lock()).with_context(cannot)?)
        }
    })
}

pub(super) fn checked(octets: Vec<u8>) -> anyhow::Result<SecretValue> {
    SecretValue::new(octets).map_err(|error| Failure::new(Exit::Invalid, error.to_string()).into())
}

/// All of it, or as much as shows that it is too long.
fn read_some(from: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    from.take(VALUE_MAX_BYTES as u64 + 3).read_to_end(&mut octets)?;
    Ok(octets)
}

/// What `echo` and a keyboard put at the end is no part of a value.
pub(super) fn without_line_break(mut octets: Vec<u8>) -> Vec<u8> {
    if octets.last() == Some(&b'\n') {
        octets.pop();
        if octets.last() == Some(&b'\r') {
            octets.pop();
        }
    }
    octets
}

/// Names, versions and who uses them.
pub(super) async fn list(session: &Session, kind: ValueKind) -> anyhow::Result<()> {
    let items = session.client.values(&session.namespace()?, kind).await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new([
        if kind == ValueKind::Secret { "SECRET" } else { "CONFIG" },
        ">VERSION",
        "SET",
        "BY",
        "~USED BY",
    ]);
    for value in items {
        let apps: Vec<&str> = value.apps.iter().map(|app| app.as_str()).collect();
        table.row([
            value.name.to_string(),
            value.version.to_string(),
            ago(now, value.set_at),
            output::printable(&value.set_by).into_owned(),
            apps.join(", "),
        ]);
    }
    table.print()
}

pub(super) async fn remove(session: &Session, kind: ValueKind, name: &SecretName) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    session.client.remove_value(&namespace, (kind, name)).await?;
    if session.json {
        return output::json(&serde_json::json!({ "name": name, "removed": true }));
    }
    output::line(format!("{kind} {name} in {namespace} is removed"))
}

async fn rotate_key(session: &Session) -> anyhow::Result<()> {
    let rotated = session.client.rotate_secret_key().await?;
    if session.json {
        return output::json(&rotated);
    }
    let versions = output::count(rotated.resealed, "version");
    output::line(format!("{versions} of secrets sealed anew, with the key {}", rotated.key))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn set_args(words: &[&str]) -> (SecretSetArgs, String) {
        let cli = Cli::parse_from([&["wharf", "secret", "set"], words].concat());
        let debug = format!("{cli:?}");
        let Command::Secret(secret) = cli.command else { panic!("not secret") };
        let Some(SecretCommand::Set(set)) = secret.args.command else { panic!("not set") };
        (set.args, debug)
    }

    #[test]
    fn a_value_on_the_command_line_is_refused_and_not_repeated() {
        assert_eq!(name_alone(&set_args(&["db-password"]).0).unwrap().as_str(), "db-password");
        for words in
            [&["db-password", "hush"][..], &["db-password=hush"], &["db-password", "-n", "x", "hush"]]
        {
            let (args, debug) = set_args(words);
            let refusal = name_alone(&args).unwrap_err().to_string();
            assert!(refusal.contains("not an argument"), "{refusal}");
            assert!(!refusal.contains("hush") && !debug.contains("hush"), "{refusal} {debug}");
        }
    }

    #[test]
    fn only_the_line_break_at_the_end_is_no_part_of_the_value() {
        for (read, value) in
            [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a "), ("a\nb", "a\nb")]
        {
            assert_eq!(without_line_break(read.into()), value.as_bytes(), "{read:?}");
        }
    }
}
