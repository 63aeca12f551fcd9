//! Where a command talks to, as whom, and about what.
//!
//! Flags come first, then the environment, then the saved context of `wharf login`, then the platform that runs on this
//! machine. [`resolve`] decides, without I/O; a token is never sent to an address that it was not saved for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use wharf_types::NamespaceName;
use wharf_types::manifest::Manifest;

use crate::args::Global;
use crate::exit::Failure;
use crate::local::{self, Local};
use crate::secret::Secret;

/// The address of a `wharf up` that was told nothing else.
pub const DEFAULT_API: &str = "http://127.0.0.1:7070";

/// What `wharf login` saves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Name of the context in use.
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, SavedContext>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedContext {
    pub api: String,
    pub token: Secret,
    pub namespace: Option<NamespaceName>,
}

impl Config {
    pub fn load() -> anyhow::Result<Self> {
        Ok(local::read_json(&Self::path()?)?.unwrap_or_default())
    }

    pub fn save(&self) -> anyhow::Result<()> {
        local::write_json(&Self::path()?, self)
    }

    fn path() -> anyhow::Result<PathBuf> {
        Ok(local::config_dir()?.join("config.json"))
    }

    pub fn current(&self) -> Option<(&String, &SavedContext)> {
        self.contexts.get_key_value(self.current.as_ref()?)
    }
}

/// What flags or the environment say.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub api: Option<String>,
    pub token: Option<Secret>,
    pub namespace: Option<NamespaceName>,
}

impl Given {
    fn from_env() -> anyhow::Result<Self> {
        let read = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let namespace = read("WHARF_NAMESPACE").map(|name| name.parse::<NamespaceName>()).transpose();
        let namespace = namespace.map_err(|error| Failure::usage(format!("WHARF_NAMESPACE: {error}")))?;
        Ok(Self { api: read("WHARF_API"), token: read("WHARF_TOKEN").map(Secret::from), namespace })
    }
}

/// Everything that the choice depends on.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub flags: Given,
    pub env: Given,
    pub config: Config,
    /// The platforms on this machine, the oldest first.
    pub local: Vec<Local>,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Without a trailing slash.
    pub api: String,
    pub token: TokenSource,
    pub namespace: NamespaceChoice,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    Given(Secret),
    /// The file of the platform on this machine, read when needed.
    File(PathBuf),
    None,
}

impl TokenSource {
    pub fn read(&self) -> anyhow::Result<Option<Secret>> {
        match self {
            Self::Given(token) => Ok(Some(token.clone())),
            Self::File(path) => token_in(path).map(Some),
            Self::None => Ok(None),
        }
    }
}

/// The token in a file of a platform.
pub fn token_in(file: &Path) -> anyhow::Result<Secret> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("could not read the token in {}", file.display()))?;
    Ok(text.into())
}

/// The namespace so far: a manifest stands between what was said for this command and what was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceChoice {
    Said(NamespaceName),
    Saved(NamespaceName),
}

impl NamespaceChoice {
    pub fn with_manifest(&self, manifest: Option<&Manifest>) -> NamespaceName {
        self.with_named(manifest.and_then(|manifest| manifest.namespace.as_ref()))
    }

    /// The same with what the manifest names.
    pub fn with_named(&self, named: Option<&NamespaceName>) -> NamespaceName {
        match (self, named) {
            (Self::Said(name), _) | (Self::Saved(name), None) => name.clone(),
            (Self::Saved(_), Some(name)) => name.clone(),
        }
    }
}

/// Where the address came from, for `wharf context show` and `wharf doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Env,
    Context(String),
    Local,
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("--api"),
            Self::Env => f.write_str("WHARF_API"),
            Self::Context(name) => write!(f, "context `{name}`"),
            Self::Local => f.write_str("the platform on this machine"),
            Self::Default => f.write_str("the usual address"),
        }
    }
}

/// Chooses address, token and namespace.
pub fn resolve(sources: Sources) -> Target {
    let Sources { flags, env, config, local } = sources;
    let current = config.current();
    let (api, origin) = if let Some(api) = flags.api {
        (normalise_api(&api), Origin::Flag)
    } else if let Some(api) = env.api {
        (normalise_api(&api), Origin::Env)
    } else if let Some((name, context)) = current {
        (context.api.clone(), Origin::Context(name.clone()))
    } else if let Some(local) = local.first() {
        (local.api.clone(), Origin::Local)
    } else {
        (DEFAULT_API.to_owned(), Origin::Default)
    };
    let context = current
        .map(|(_, context)| context)
        .into_iter()
        .chain(config.contexts.values())
        .find(|context| context.api == api);
    let token = if let Some(token) = flags.token.or(env.token) {
        TokenSource::Given(token)
    } else if let Some(context) = context {
        TokenSource::Given(context.token.clone())
    } else if let Some(local) = local.into_iter().find(|local| local.api == api) {
        TokenSource::File(local.token_file)
    } else {
        TokenSource::None
    };
    let namespace = match flags.namespace.or(env.namespace) {
        Some(name) => NamespaceChoice::Said(name),
        None => NamespaceChoice::Saved(
            context
                .and_then(|context| context.namespace.clone())
                .unwrap_or_else(NamespaceName::default_namespace),
        ),
    };
    Target { api, token, namespace, origin }
}

/// [`resolve`] with the sources of this process.
pub fn target(global: &Global) -> anyhow::Result<Target> {
    let flags =
        Given { api: global.api.clone(), token: global.token.clone(), namespace: global.namespace.clone() };
    Ok(resolve(Sources { flags, env: Given::from_env()?, config: Config::load()?, local: local::read()? }))
}

/// An address with its scheme and without a trailing slash. Without a scheme, it is `http` on this machine and `https`
/// elsewhere.
pub fn normalise_api(api: &str) -> String {
    let api = api.trim().trim_end_matches('/');
    if api.contains("://") {
        return api.to_owned();
    }
    let is_here = ["localhost", "127.", "[::1]", "0.0.0.0"].iter().any(|start| api.starts_with(start));
    format!("{}://{api}", if is_here { "http" } else { "https" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        text.to_owned().into()
    }

    fn sources() -> Sources {
        let saved = |api: &str, token: &str| SavedContext {
            api: api.to_owned(),
            token: secret(token),
            namespace: Some("team".parse().unwrap()),
        };
        let given = |api: &str| Given {
            api: Some(api.to_owned()),
            token: Some(secret(&format!("token of {api}"))),
            namespace: Some(api.parse().unwrap()),
        };
        Sources {
            flags: given("flag"),
            env: given("env"),
            config: Config {
                current: Some("prod".into()),
                contexts: BTreeMap::from([
                    ("prod".into(), saved("https://prod", "prod token")),
                    ("other".into(), saved("https://other", "other token")),
                ]),
            },
            local: vec![Local {
                api: "http://127.0.0.1:7070".into(),
                http: "http://127.0.0.1:8080".into(),
                token_file: "/token".into(),
            }],
        }
    }

    #[test]
    fn flags_come_first_then_the_environment_then_the_context_then_the_local_platform() {
        let mut sources = sources();
        assert_eq!(resolve(sources.clone()).api, "https://flag");
        sources.flags = Given::default();
        let target = resolve(sources.clone());
        assert_eq!((target.api.as_str(), target.origin), ("https://env", Origin::Env));
        sources.env = Given::default();
        let target = resolve(sources.clone());
        assert_eq!(target.api, "https://prod");
        assert_eq!(target.token, TokenSource::Given(secret("prod token")));
        assert_eq!(target.namespace, NamespaceChoice::Saved("team".parse().unwrap()));
        sources.config = Config::default();
        let target = resolve(sources.clone());
        assert_eq!((target.api.as_str(), target.token), (DEFAULT_API, TokenSource::File("/token".into())));
        sources.local.clear();
        let target = resolve(sources);
        assert_eq!(
            (target.api.as_str(), target.token, target.origin),
            (DEFAULT_API, TokenSource::None, Origin::Default)
        );
    }

    #[test]
    fn a_saved_token_goes_only_to_its_own_address() {
        let mut sources = sources();
        sources.env = Given::default();
        sources.flags = Given { api: Some("https://evil".into()), ..Given::default() };
        assert_eq!(resolve(sources.clone()).token, TokenSource::None);
        sources.flags.api = Some("https://other/".into());
        assert_eq!(resolve(sources.clone()).token, TokenSource::Given(secret("other token")));
        sources.flags.api = Some("127.0.0.1:7070".into());
        assert_eq!(resolve(sources).token, TokenSource::File("/token".into()));
    }

    #[test]
    fn of_several_local_platforms_the_oldest_is_meant_and_each_has_its_token() {
        let mut sources = Sources { local: sources().local, ..Sources::default() };
        sources.local.push(Local {
            api: "http://127.0.0.1:7071".into(),
            http: "http://127.0.0.1:8081".into(),
            token_file: "/second".into(),
        });
        assert_eq!(resolve(sources.clone()).api, "http://127.0.0.1:7070");
        sources.flags.api = Some("127.0.0.1:7071".into());
        assert_eq!(resolve(sources).token, TokenSource::File("/second".into()));
    }

    #[test]
    fn a_manifest_stands_between_what_was_said_and_what_was_saved() {
        let manifest = Manifest::parse("app = \"a\"\nnamespace = \"file\"\n").unwrap();
        let name = |text: &str| text.parse::<NamespaceName>().unwrap();
        assert_eq!(NamespaceChoice::Said(name("said")).with_manifest(Some(&manifest)), name("said"));
        assert_eq!(NamespaceChoice::Saved(name("saved")).with_manifest(Some(&manifest)), name("file"));
        assert_eq!(NamespaceChoice::Saved(name("saved")).with_manifest(None), name("saved"));
    }

    #[test]
    fn addresses_get_the_scheme_that_is_safe() {
        assert_eq!(normalise_api("localhost:7070/"), "http://localhost:7070");
        assert_eq!(normalise_api("wharf.example.com"), "https://wharf.example.com");
        assert_eq!(normalise_api("http://10.0.0.1:7070"), "http://10.0.0.1:7070");
    }
}
