//! What a user wants of an app. A spec is written by the user and never changed by us.
//!
//! Every field has a default, so the empty spec is a working HTTP app. Unknown fields are refused.

mod amount;
mod container;
mod grant;
pub mod placement;
mod private;
mod scale;
mod update;
mod validate;
mod volumes;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};

use crate::digest::Digest;
use crate::name::{AppName, SecretName};
use crate::quantity::{ByteSize, CpuShare, Span};
use crate::secret::ValueKind;

pub use amount::{InvalidAmount, Portion, Ratio};
pub use container::{
    ContainerFileSpec, ContainerHealthSpec, ContainerSpec, HostPathSpec, TmpfsSpec, UlimitSpec, is_host,
};
pub use grant::{InvalidGrant, OutboundGrant, OutboundScheme};
pub use private::{InvalidDestination, PrivateDestination, is_public};
pub use scale::{EveryNode, ReplicaRange, Replicas, ScaleSpec};
pub use update::{CanarySpec, Dials, OnFailure, RollbackSpec, UpdateOrder, UpdateSpec};
pub use validate::{
    GRANTS_MAX, InvalidSpec, NAMES_MAX, PORT_MIN, REPLICAS_MAX, validate_env, validate_mount,
};
pub use volumes::{VolumeSpec, validate_files};

/// The settings of an app; inside a release they are immutable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AppSpec {
    /// Environment variables of the guest. Values are plain text; at most 32 KiB in all.
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secrets of the namespace, by name. A release keeps the versions that were the newest when it was
    /// made. At most 100.
    pub secrets: BTreeMap<String, SecretName>,
    /// Variables whose values are configs of the namespace, in the same way. At most 100.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, SecretName>,
    /// Arguments of the guest, after its own name; at most 256, and 32 KiB in all.
    pub args: Vec<String>,
    pub http: HttpSpec,
    pub tcp: TcpSpec,
    /// Files that the guest can read. None: it sees no files.
    pub files: Option<FilesSpec>,
    /// Folders that outlive instances and releases; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSpec>,
    pub scale: ScaleSpec,
    // Left out where nothing is asked for: workers of before know neither, and refuse what they do not know.
    #[serde(skip_serializing_if = "is_default")]
    pub placement: PlacementSpec,
    #[serde(skip_serializing_if = "is_default")]
    pub reserve: ReserveSpec,
    pub limits: LimitsSpec,
    pub restart: RestartSpec,
    pub update: UpdateSpec,
    pub stop: StopSpec,
    pub outbound: OutboundSpec,
    /// What the app calls others of its namespace by beside their own names: the app that is meant by `vote`, and by `vote.internal`. Such a
    /// name goes before an app that is called so. The further names that an app with any of these has in networks are for containers in
    /// these alone. At most 256.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, AppName>,
    pub reuse: ReuseSpec,
    pub engine: EngineSpec,
    /// Of an app whose artifact is an image.
    #[serde(skip_serializing_if = "is_default")]
    pub container: ContainerSpec,
}

impl AppSpec {
    /// Variables whose values are the namespace's: what names them, and as what.
    pub fn values(&self) -> impl Iterator<Item = (&String, &SecretName, ValueKind)> {
        let of = |kind| move |(variable, name)| (variable, name, kind);
        self.secrets.iter().map(of(ValueKind::Secret)).chain(self.configs.iter().map(of(ValueKind::Config)))
    }

    /// Which app is meant by a name that this one asks for, `vote` or `vote.internal`, if it has a name of its own for it.
    pub fn named<'a>(names: &'a BTreeMap<String, AppName>, asked: &str) -> Option<&'a AppName> {
        let asked = asked.trim_end_matches('.');
        // Without regard to letter case, as in the DNS; no address and no name of several labels is among them.
        let label =
            match asked.len().checked_sub(".internal".len()).and_then(|end| asked.split_at_checked(end)) {
                Some((label, end)) if end.eq_ignore_ascii_case(".internal") => label,
                _ => asked,
            };
        names.iter().find(|(name, _)| name.eq_ignore_ascii_case(label)).map(|(_, app)| app)
    }

    /// The secret that opens the registry of the image. None: nothing has to, or it is not there.
    pub fn registry_login(&self) -> Option<&SecretName> {
        self.secrets.get(self.container.registry_login.as_ref()?)
    }
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSpec {
    /// Routes beside the default one: a hostname with an optional path prefix, such as `hello.example.com/api`. At most 100.
    pub routes: Vec<String>,
    pub health: HealthSpec,
}

/// Health checks over HTTP. Startup: until the first success, every `startup_period`. Readiness: afterwards every
/// `period`; `threshold` results in a row flip it. Liveness: only with a `liveness_path`; `threshold` failures in a
/// row replace the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSpec {
    /// Path of the readiness check. Ready is a status below 500, or 200–399 where a path is given.
    pub path: Option<String>,
    /// Path of the liveness check, 200–399 is alive. None: no liveness check.
    pub liveness_path: Option<String>,
    pub period: Span,
    pub startup_period: Span,
    pub timeout: Span,
    pub threshold: u32,
}

impl Default for HealthSpec {
    fn default() -> Self {
        Self {
            path: None,
            liveness_path: None,
            period: Span::from_secs(1),
            startup_period: Span::from_millis(100),
            timeout: Span::from_secs(1),
            threshold: 3,
        }
    }
}

/// Ports of a command that listens. An instance is ready when each of them accepts connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TcpSpec {
    /// Public ports, 1024 to 65535, at most 16. Where the guest itself listens for them it is told by the variable `PORT`, or,
    /// where there are several, by `PORT_7000` for the public port 7000.
    #[schema(schema_with = ports_schema)]
    pub ports: Vec<u16>,
    /// Whether each connection begins with a header of the PROXY protocol, version 2, which says who the client is.
    pub proxy_protocol: bool,
}

fn ports_schema() -> Schema {
    let port = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1024)).maximum(Some(65535));
    ArrayBuilder::new().items(port).max_items(Some(16)).into()
}

impl TcpSpec {
    /// The variable that tells the guest where to listen for the connections of a public port.
    pub fn variable(&self, port: u16) -> String {
        if self.ports.len() == 1 { "PORT".to_owned() } else { format!("PORT_{port}") }
    }
}

/// Files that were pushed for the app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesSpec {
    /// Of the archive: `PUT /v1/namespaces/{namespace}/files/{digest}`.
    pub digest: Digest,
    /// The folder where the guest sees them, such as `/` or `/public`.
    #[serde(default = "root")]
    pub mount: String,
}

/// Where the guest sees its files, unless its manifest says otherwise.
pub(crate) fn root() -> String {
    "/".to_owned()
}

/// On which nodes instances run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementSpec {
    /// What must hold of a node, such as `node.labels.zone in (eu-1, eu-2)` or `node.memory >= 16GiB`. At most 32; all must hold.
    pub constraints: Vec<String>,
    /// Keys of labels: instances are spread evenly over the values of the first, within each over those of the next, and in the
    /// end over nodes. At most 4. Empty: over nodes.
    pub spread: Vec<String>,
    /// Instances of the app on one node, 1 to 1000. None: any number.
    pub max_per_node: Option<u32>,
    pub priority: Priority,
}

/// Who goes first when there is not enough room. An instance that fits nowhere may take the place of one of a lower priority.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

impl Priority {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// What is set aside for each instance on its node, whether it uses it or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReserveSpec {
    /// 0 to 1 TiB. None: for a command `limits.memory`; for an HTTP app, which has a guest only while it answers, at most 1 MiB.
    pub memory: Option<ByteSize>,
    /// Processors or parts of one, `"0.5"` or `"500m"`; 0 to 1024. None: nothing.
    pub cpu: Option<CpuShare>,
}

/// Bounds of one guest store and one invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSpec {
    /// Over all memories and tables of a store; 1 MiB to 4 GiB.
    pub memory: ByteSize,
    /// Wall clock of one request, from its head to the end of its response's head.
    pub timeout: Span,
    /// CPU time of one request.
    pub cpu: Span,
    /// Requests of one instance at once, 1 to 10000; more wait for a short while, then get 503. For `tcp.ports`: connections;
    /// one more is closed at once.
    pub concurrency: u32,
    /// Largest request body. A larger one gets 413.
    pub request_body: ByteSize,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(128),
            timeout: Span::from_secs(30),
            cpu: Span::from_secs(10),
            concurrency: 256,
            request_body: ByteSize::mib(1024),
        }
    }
}

/// When an ended guest is replaced in its slot. The first replacement comes after `delay`, later ones after
/// `backoff` doubling up to `backoff_max` (at least a second), each with jitter; `reset_after` of good health starts over.
/// When `attempts` replacements within `window` were of no use, the slot has failed until the next deploy or restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RestartSpec {
    pub condition: RestartCondition,
    pub delay: Span,
    pub backoff: Span,
    pub backoff_max: Span,
    pub reset_after: Span,
    /// Replacements that a slot gets, 1 to 1000. None: as many as it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// How far back attempts count. None: since the slot was last healthy for `reset_after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Span>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    #[default]
    Any,
    OnFailure,
    Never,
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Span::from_secs(0),
            backoff: Span::from_millis(100),
            backoff_max: Span::from_secs(30),
            reset_after: Span::from_secs(60),
            attempts: None,
            window: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopSpec {
    /// How long open requests and connections may finish.
    pub drain: Span,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { drain: Span::from_secs(30) }
    }
}

/// What the guest may reach. Nothing, unless it is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutboundSpec {
    /// Grants such as `https://api.example.com`, `http://10.0.0.5:8080` or `http://other-app.internal`. At most 256.
    pub allow: Vec<String>,
}

/// How many invocations share one guest store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReuseSpec {
    /// None: a new store per request for WASI 0.2, `concurrent` for WASI 0.3.
    pub mode: Option<ReuseMode>,
    /// Requests that one store serves before it is replaced. None: 128 for WASI 0.3, 1000 for `serial`.
    pub max_requests: Option<u32>,
    /// Requests in one store at once (`concurrent` only). None: 16.
    pub max_concurrent: Option<u32>,
    /// A store that waits for its next request for so long is dropped. None: 10 s.
    pub idle_timeout: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReuseMode {
    /// Every request meets fresh memory.
    PerRequest,
    /// One request after the other in the same memory.
    Serial,
    /// Several requests at once in the same memory; a trap ends all of them. WASI 0.3 only.
    Concurrent,
}

/// How the code of a guest is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSpec {
    /// WASI 0.2 only; apps of WASI 0.3 share instances among requests and have a profile of their own.
    pub profile: EngineProfile,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EngineProfile {
    /// By what requests use: `short` until they turn out to compute for long.
    #[default]
    Auto,
    /// A new instance is cheap: for requests that compute for less than ten milliseconds.
    Short,
    /// Loops that live in memory are fast, and a new instance is dearer.
    Long,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_spec_is_valid_and_survives_json() {
        let spec = AppSpec::default();
        spec.validate().unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<AppSpec>(&json).unwrap(), spec);
        assert_eq!(serde_json::from_str::<AppSpec>("{}").unwrap(), spec);
    }

    #[test]
    fn a_name_means_an_app_whatever_its_letters_and_with_or_without_its_end() {
        let names = BTreeMap::from([("vote".to_owned(), "shop-preview-a-vote".parse().unwrap())]);
        for asked in ["vote", "VOTE.internal", "vote.Internal.", "vote."] {
            let app = AppSpec::named(&names, asked).map(AppName::as_str);
            assert_eq!(app, Some("shop-preview-a-vote"), "{asked}");
        }
        for asked in
            ["votes", "vote.example.com", ".internal", "", "internal", "vote.internal.internal", "ünternal"]
        {
            assert_eq!(AppSpec::named(&names, asked), None, "{asked}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = serde_json::from_str::<AppSpec>(r#"{"scale":{"replica":2}}"#).unwrap_err();
        assert!(error.to_string().contains("`replica`"), "{error}");
    }
}
