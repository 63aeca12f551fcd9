//! `wharf registry`: the logins of a namespace to image registries.
//!
//! A login is a secret `USER:PASSWORD`, as `container.registry_login` has always taken it. Nobody reads a secret back, so what may be shown, whose it is and
//! of which registry, stands in a config beside it.

use std::fmt;
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use wharf_types::api::{Page, SecretInfo};
use wharf_types::secret::{SecretValue, ValueKind};
use wharf_types::spec::is_host;
use wharf_types::{Digest, NamespaceName, SecretName, Timestamp};

use super::secret::{checked, finish, read_given, without_line_break};
use crate::args::{Global, NoArgs, WaitArgs, With};
use crate::exit::{Exit, Failure};
use crate::output::{self, ago};
use crate::session::Session;
use crate::table::Table;
use crate::unseen;

/// Configs with what is known of logins are called so, and then by their registry.
const PREFIX: &str = "wharf-login-";
/// Letters of a registry in a name. With the prefix they are a name.
const SLUG_MAX: usize = 28;
/// Digits that tell registries apart of which not all is in a name.
const DIGITS: usize = 8;

#[derive(Args, Debug)]
pub struct RegistryArgs {
    #[command(subcommand)]
    pub command: Option<RegistryCommand>,
}

#[derive(Subcommand, Debug)]
pub enum RegistryCommand {
    /// Keep a login to a registry as a secret of the namespace; apps that use it get a new release
    ///
    /// The password is typed unseen at a terminal, or comes from stdin with --password-stdin.
    Login(With<LoginArgs>),
    /// List the namespace's logins: registries, users and the apps that use them, never passwords
    #[command(name = "ls", visible_alias = "list")]
    List(With<NoArgs>),
    /// Forget a login that no kept release uses
    Logout(With<RegistryArg>),
}

#[derive(Args, Debug)]
pub struct LoginArgs {
    /// As image names begin, such as `ghcr.io` or `registry.example.com:5000`
    #[arg(value_name = "REGISTRY")]
    pub registry: Registry,
    #[arg(short, long, value_name = "USER")]
    pub username: String,
    /// Take the password, or the token that the registry has in its place, from stdin
    #[arg(long)]
    pub password_stdin: bool,
    /// The secret that has it [default: that of the login before, or one that is called like the registry]
    #[arg(long, value_name = "NAME")]
    pub secret: Option<SecretName>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct RegistryArg {
    #[arg(value_name = "REGISTRY")]
    pub registry: Registry,
}

/// Where images are, as their names begin: a host, perhaps with a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Registry(String);

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        let (host, port) =
            text.split_once(':').map_or((text.as_str(), None), |(host, port)| (host, Some(port)));
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        if is_host(host) && port.is_none_or(is_port) {
            return Ok(Self(text));
        }
        Err("write it as image names begin, such as `ghcr.io` or `registry.example.com:5000`".to_owned())
    }
}

impl TryFrom<String> for Registry {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Registry> for String {
    fn from(registry: Registry) -> Self {
        registry.0
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Registry {
    /// With the letters of a name, and the same each time: `ghcr-io`.
    fn slug(&self) -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let slug: String = self.0.chars().map(letter).collect();
        let slug = slug.trim_matches('-');
        if slug.len() <= SLUG_MAX {
            return slug.to_owned();
        }
        let digits: String = Digest::of(self.0.as_bytes()).short().chars().take(DIGITS).collect();
        let begin: String = slug.chars().take(SLUG_MAX - DIGITS - 1).collect();
        format!("{}-{digits}", begin.trim_end_matches('-'))
    }

    /// The secret of a login, unless somebody says another.
    fn secret(&self) -> anyhow::Result<SecretName> {
        named(self.slug())
    }

    /// The config that says what is known of the login.
    fn record(&self) -> anyhow::Result<SecretName> {
        named(format!("{PREFIX}{}", self.slug()))
    }
}

fn named(name: String) -> anyhow::Result<SecretName> {
    Ok(SecretName::try_from(name).map_err(|error| Failure::invalid(error.to_string()))?)
}

/// What may be shown of a login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Login {
    registry: Registry,
    username: String,
    secret: SecretName,
}

/// The same with what the platform says of its secret. None: somebody has removed that.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    login: Login,
    value: Option<SecretInfo>,
}

pub async fn run(before: Global, args: RegistryArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        Some(RegistryCommand::Login(with)) => login(&open(with.global)?, with.args).await,
        Some(RegistryCommand::List(with)) => list(&open(with.global)?).await,
        Some(RegistryCommand::Logout(with)) => logout(&open(with.global)?, &with.args.registry).await,
        None => list(&Session::open(before)?).await,
    }
}

/// With `--json`: a line about the secret, then one for each rollout.
async fn login(session: &Session, args: LoginArgs) -> anyhow::Result<()> {
    let LoginArgs { registry, username, password_stdin, secret, wait } = args;
    check_username(&username)?;
    let password = read_password(&registry, password_stdin)?;
    let value = checked(format!("{username}:{}", password.reveal()).into_bytes())?;
    drop(password);
    let namespace = session.namespace()?;
    let known = find(session, &namespace, &registry).await?;
    let secret = match (secret, known) {
        (Some(secret), _) => secret,
        (None, Some(known)) => known.secret,
        (None, None) => free_secret(session, &namespace, &registry).await?,
    };
    let since = Instant::now();
    let set = session.client.set_value(&namespace, (ValueKind::Secret, &secret), &value).await?;
    drop(value);
    let record = serde_json::to_vec(&Login { registry: registry.clone(), username, secret: secret.clone() })?;
    let known_as = registry.record()?;
    session.client.set_value(&namespace, (ValueKind::Config, &known_as), &checked(record)?).await?;
    let is_new = set.version == 1;
    let finished = finish(session, &namespace, (ValueKind::Secret, &secret), &set, (wait, since)).await;
    if is_new && !session.json {
        output::note(format!(
            "an app pulls images of {registry} with it that has `LOGIN = \"{secret}\"` in `[secrets]` and `registry_login = \"LOGIN\"` in \
             `[container]` of its wharf.toml"
        ));
    }
    finished
}

/// A colon ends the user's name where the secret is read.
fn check_username(username: &str) -> Result<(), Failure> {
    if username.is_empty() || username.contains(|c: char| c == ':' || c.is_control()) {
        return Err(Failure::usage("--username: the name of a user is not empty, and holds no `:`"));
    }
    Ok(())
}

fn read_password(registry: &Registry, is_on_stdin: bool) -> anyhow::Result<SecretValue> {
    if is_on_stdin {
        return read_given(ValueKind::Secret, None);
    }
    if !output::is_interactive() {
        return Err(Failure::usage("there is no password")
            .help("write it to stdin, with --password-stdin")
            .into());
    }
    output::note(format!("Password for {registry} (it is not shown):"));
    checked(without_line_break(unseen::read_line("the password", true)?.into()))
}

/// The secret that is called like the registry, which must not be one of something else.
async fn free_secret(
    session: &Session,
    namespace: &NamespaceName,
    registry: &Registry,
) -> anyhow::Result<SecretName> {
    let secret = registry.secret()?;
    let there = session.client.values(namespace, ValueKind::Secret).await?;
    if there.iter().all(|it| it.name != secret) {
        return Ok(secret);
    }
    let message =
        format!("there is a secret `{secret}` in {namespace} already, which is no login that is known here");
    Err(Failure::new(Exit::Conflict, message)
        .help(format!(
            "if it is the login to {registry} all the same, `--secret {secret}` gives it another value; `--secret NAME` names another one"
        ))
        .into())
}

/// What is known of the login to a registry.
async fn find(
    session: &Session,
    namespace: &NamespaceName,
    registry: &Registry,
) -> anyhow::Result<Option<Login>> {
    let record = registry.record()?;
    let there = session.client.values(namespace, ValueKind::Config).await?;
    if there.iter().all(|it| it.name != record) {
        return Ok(None);
    }
    let config = session.client.config(namespace, &record, None).await?;
    match read(&config.value) {
        Some(login) if login.registry == *registry => Ok(Some(login)),
        _ => {
            let message = format!(
                "the config `{record}` in {namespace} is something else than what is known of the login to {registry}"
            );
            Err(Failure::new(Exit::Conflict, message)
                .help(format!("`wharf config rm {record}` removes it, if nothing needs it"))
                .into())
        }
    }
}

/// None: it is a config of somebody who has called it so.
fn read(record: &str) -> Option<Login> {
    serde_json::from_str(record).ok()
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let configs = session.client.values(&namespace, ValueKind::Config).await?;
    let secrets = session.client.values(&namespace, ValueKind::Secret).await?;
    let mut items = Vec::new();
    for record in configs.into_iter().filter(|it| it.name.as_str().starts_with(PREFIX)) {
        let config = session.client.config(&namespace, &record.name, None).await?;
        let Some(login) = read(&config.value) else { continue };
        let value = secrets.iter().find(|it| it.name == login.secret).cloned();
        items.push(Listed { login, value });
    }
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new(["REGISTRY", "USER", "SECRET", "SET", "BY", "~USED BY"]);
    for Listed { login, value } in items {
        let user = output::printable(&login.username).into_owned();
        let (set, by, used_by) = match value {
            Some(value) => {
                let apps: Vec<&str> = value.apps.iter().map(|app| app.as_str()).collect();
                (ago(now, value.set_at), output::printable(&value.set_by).into_owned(), apps.join(", "))
            }
            None => ("it is removed".to_owned(), String::new(), String::new()),
        };
        table.row([login.registry.to_string(), user, login.secret.to_string(), set, by, used_by]);
    }
    table.print()
}

/// The secret goes first: while an app may still need it, the login stays as it is.
async fn logout(session: &Session, registry: &Registry) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let Some(login) = find(session, &namespace, registry).await? else {
        let message = format!("there is no login to {registry} in {namespace}");
        return Err(Failure::new(Exit::NotFound, message)
            .help("`wharf registry ls` lists them; a secret that was set otherwise is removed by `wharf secret rm`")
            .into());
    };
    match session.client.remove_value(&namespace, (ValueKind::Secret, &login.secret)).await {
        Err(error) if Exit::of(&error) != Exit::NotFound => return Err(error),
        _ => {}
    }
    session.client.remove_value(&namespace, (ValueKind::Config, &registry.record()?)).await?;
    if session.json {
        return output::json(&serde_json::json!({ "registry": registry, "removed": true }));
    }
    output::line(format!("the login to {registry} in {namespace} is forgotten"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_written_as_image_names_begin() {
        for text in ["ghcr.io", "GHCR.io", "localhost:5000", "registry.example.com"] {
            assert_eq!(text.parse::<Registry>().unwrap().to_string(), text.to_ascii_lowercase());
        }
        for text in [
            "",
            "https://ghcr.io",
            "ghcr.io/team",
            "ghcr.io:",
            "ghcr.io:0",
            "ghcr.io:70000",
            "a b",
            "user@ghcr.io",
        ] {
            let problem = text.parse::<Registry>().unwrap_err();
            assert!(problem.contains("ghcr.io"), "{text}: {problem}");
        }
    }

    #[test]
    fn each_registry_has_names_of_its_own() {
        let of = |text: &str| text.parse::<Registry>().unwrap();
        assert_eq!(of("ghcr.io").secret().unwrap().as_str(), "ghcr-io");
        assert_eq!(of("ghcr.io").record().unwrap().as_str(), "wharf-login-ghcr-io");
        let long = "registry.of.the.team.example.com";
        let (one, other) = (of(long).slug(), of(&format!("{long}:5000")).slug());
        assert_ne!(one, other);
        assert!(one.len() <= SLUG_MAX && other.len() <= SLUG_MAX, "{one} {other}");
        assert!(of(long).record().is_ok());
    }

    #[test]
    fn what_is_kept_of_a_login_is_read_again_and_other_configs_are_none() {
        let login = Login {
            registry: "ghcr.io".parse().unwrap(),
            username: "alice".to_owned(),
            secret: "ghcr-io".parse().unwrap(),
        };
        let record = serde_json::to_string(&login).unwrap();
        assert_eq!(record, r#"{"registry":"ghcr.io","username":"alice","secret":"ghcr-io"}"#);
        assert_eq!(read(&record), Some(login));
        for other in ["", "alice", "{}", r#"{"registry":"https://x","username":"a","secret":"b"}"#] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_user_is_told_from_the_password_by_the_first_colon() {
        assert!(check_username("alice@example.com").is_ok());
        for name in ["", "a:b", "a\n"] {
            assert!(check_username(name).is_err(), "{name:?}");
        }
    }
}
