//! Requests and replies of the `/v1` API.

mod access;
mod audit;
mod build;
mod node;
mod quota;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{InstanceId, NodeId, RolloutId, VolumeId};
use crate::name::{AppName, NamespaceName, SecretName, SetName, VolumeName};
use crate::node::{AppUsage, Reason};
use crate::requests::ReleaseRequests;
use crate::spec::AppSpec;
use crate::state::{AppCondition, Health, InstanceState, RolloutState, Wanted};
use crate::world::{Capability, World};

pub use access::{
    CreateToken, CreateUser, CreatedToken, MemberInfo, Membership, Role, SetMember, TokenInfo, UserInfo,
    Verb, WhoAmI,
};

pub use node::{
    AUTHORITIES_HEADER, AuthorityInfo, AuthorityState, CertificateRequest, CreateJoinToken, CreatedJoinToken,
    JoinTokenInfo, Leaving, NodeCertificate, NodeInfo, NodePatch, RotateAuthority, SERVERS_HEADER,
    ServerInfo,
};

pub use audit::{AuditOutcome, AuditRecord};
pub use build::{BuildInfo, BuildState, PreviewInfo, PushPolicy, RepositoryInfo, RepositoryPatch, WhenBusy};
pub use quota::{ContainerRights, Quota, QuotaInfo, QuotaUsed};

/// The envelope of every list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass it as `?cursor=` for what comes next. None: that was all.
    pub next_cursor: Option<String>,
}

/// `POST /v1/namespaces`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNamespace {
    pub name: NamespaceName,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NamespaceInfo {
    pub name: NamespaceName,
    pub apps: u64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// `PUT` and `GET /v1/namespaces/{namespace}/artifacts/{digest}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ArtifactInfo {
    pub digest: Digest,
    pub bytes: u64,
    pub world: World,
    /// Interfaces that the artifact imports, as it names them.
    pub imports: Vec<String>,
    /// The same for people.
    pub capabilities: Vec<Capability>,
}

/// `GET /v1/artifacts/{digest}/sources`: where a worker gets an artifact beside the control plane
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ArtifactSources {
    /// What other workers give it for. It is told to those only that are to run something of it.
    pub key: String,
    /// Nodes that have it, or soon will. The first ones are to be asked first.
    pub nodes: Vec<NodeId>,
}

/// `PUT` and `GET /v1/namespaces/{namespace}/files/{digest}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FilesInfo {
    pub digest: Digest,
    /// Of the archive.
    pub bytes: u64,
    /// How many there are.
    pub files: u64,
}

/// `POST /v1/namespaces/{namespace}/apps/{app}/releases`: makes a release, and a rollout to it. Creates the app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRelease {
    pub artifact: Digest,
    #[serde(default)]
    pub spec: AppSpec,
    /// Which parts of the spec stay as the app has them: for a deploy without a manifest.
    #[serde(default)]
    pub keep: Keep,
}

/// What a new release takes over from the release before, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Nothing: the request's spec is the whole, except for `env` set by `wharf env set` and replicas set by `wharf scale`.
    #[default]
    Overrides,
    /// The whole spec.
    Spec,
}

/// The reply to everything that starts a rollout: a new release, `env`, `rollback`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Deployed {
    pub namespace: NamespaceName,
    pub app: AppName,
    pub release: u64,
    pub rollout: RolloutId,
    pub digest: Digest,
    pub url: String,
    /// Every address of the app, the default one first. Empty for a command without ports.
    pub urls: Vec<String>,
    pub capabilities: Vec<Capability>,
    /// Those that the release before did not ask for.
    pub new_capabilities: Vec<Capability>,
    /// Whether the app is stopped: the rollout waits until it is started.
    #[serde(default)]
    pub stopped: bool,
}

/// `POST …/apps/{app}/rollback`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// None: the newest release before the current one that served without failing.
    #[serde(default)]
    pub release: Option<u64>,
}

/// `PUT …/apps/{app}/scale`: stands over every release until it is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Null: as many as each release asks for itself. It cannot be left out, so that nothing is reset by mistake.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required = true)]
    pub replicas: Option<u32>,
}

/// `POST /v1/namespaces/{namespace}/images`: which image is it now?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveImage {
    /// Such as `redis:7`, or the ID of an image that the engine has.
    pub image: String,
    /// The secret of the namespace that opens the image's registry: `USER:PASSWORD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<SecretName>,
}

/// `GET …/apps/{app}/env`: the variables of the current release, those of its manifest included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct Env(pub BTreeMap<String, String>);

/// `PATCH …/apps/{app}/env`: makes a new release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvPatch {
    /// Values that stand over those of every manifest until they are reset. Null: the variable is taken away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, Option<String>>,
    /// Variables that become again what the manifest says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reset: Vec<String>,
}

/// `PUT /v1/namespaces/{namespace}/secrets/{secret}`, and the same of `configs`: a new version, and a new release of each app that uses
/// it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SecretSet {
    pub name: SecretName,
    /// Counted from 1. That of before, where it had this value already.
    pub version: u64,
    /// The releases that were made with this version.
    pub releases: Vec<Deployed>,
}

/// `GET /v1/namespaces/{namespace}/secrets`, and the same of `configs`. No reply holds a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SecretInfo {
    pub name: SecretName,
    /// The newest version.
    pub version: u64,
    /// When the newest version was set.
    #[schema(value_type = String, format = DateTime)]
    pub set_at: Timestamp,
    /// Name of the token that set it.
    pub set_by: String,
    /// Every version that is kept, oldest first: the newest, and those that kept releases were made with.
    pub versions: Vec<u64>,
    /// Apps with a kept release that uses it.
    pub apps: Vec<AppName>,
}

/// `GET /v1/namespaces/{namespace}/configs/{config}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConfigValue {
    pub name: SecretName,
    pub version: u64,
    pub value: String,
}

/// `POST /v1/secret-keys`: seals every secret anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RotatedKey {
    /// Which key seals them now. It tells keys apart and nothing of the key itself.
    pub key: String,
    /// How many versions were sealed anew.
    pub resealed: u64,
}

/// `GET …/apps` and `GET …/apps/{app}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AppInfo {
    pub namespace: NamespaceName,
    pub app: AppName,
    pub condition: AppCondition,
    /// Why it is not simply running.
    pub reason: Option<Reason>,
    /// The release that the app is on or moves to, from the moment that it was made. None after a first release failed.
    pub release: Option<u64>,
    pub replicas: u32,
    pub ready: u32,
    /// Whether it runs once on every node that may have it: `replicas` is the number of these nodes.
    #[serde(default)]
    pub global: bool,
    /// The range within which its open requests decide on `replicas`. Null: it has a number.
    #[serde(default)]
    pub scaling: Option<ScalingInfo>,
    /// Whether a user has stopped it.
    #[serde(default)]
    pub stopped: Option<Stopped>,
    pub url: String,
    pub urls: Vec<String>,
    /// The newest rollout.
    pub rollout: Option<RolloutInfo>,
    pub instances: Vec<InstanceInfo>,
    #[serde(default)]
    pub volumes: Vec<VolumeInfo>,
    /// What `release` has used since the workers started. Null while they have counted nothing; in a list or a stream it is as of
    /// the moment when the app was read.
    pub usage: Option<AppUsage>,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// The set of files that it was applied with, such as a stack.
    #[serde(default)]
    pub set: Option<SetName>,
}

/// How an app scales by its open requests, and what is asked of it now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ScalingInfo {
    pub min: u32,
    pub max: u32,
    /// Open requests, or connections, that each instance should have.
    pub concurrency: u32,
    /// Open requests or connections, on the mean of half a second.
    pub open: f64,
    /// Requests that wait for a first instance.
    pub waiting: u64,
}

/// An app whose instances a user has stopped. It stays so until it is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Stopped {
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Name of the token.
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InstanceInfo {
    pub id: InstanceId,
    /// Position 1..replicas of the app; survives replacement.
    pub slot: u32,
    pub release: u64,
    pub node: Option<NodeId>,
    pub wanted: Wanted,
    pub state: InstanceState,
    pub health: Health,
    pub restarts: u32,
    pub reason: Option<Reason>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// `GET /v1/namespaces/{namespace}/volumes`, and among what is told of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VolumeInfo {
    pub id: VolumeId,
    pub name: VolumeName,
    /// The app that it was made for.
    pub app: AppName,
    pub state: VolumeState,
    /// Where its data is. None: it was never used, so there is none.
    pub node: Option<NodeId>,
    /// What it may hold, in octets, as the app's newest release that has it says.
    pub size_bytes: u64,
    /// What it holds, in octets. None: no instance has had it since its worker started.
    pub used_bytes: Option<u64>,
    /// Whether a guest was refused room, and nothing was deleted since then.
    pub full: bool,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Who has a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Its app.
    Attached,
    /// Nobody: its app was deleted, and its data is kept.
    Kept,
    /// Its data is being removed.
    Removing,
}

impl VolumeState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Kept => "kept",
            Self::Removing => "removing",
        }
    }
}

/// `GET …/apps/{app}/releases`, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReleaseInfo {
    pub release: u64,
    pub digest: Digest,
    pub spec: AppSpec,
    pub capabilities: Vec<Capability>,
    /// The version of each secret that it was made with. Values are never read back.
    pub secrets: BTreeMap<SecretName, u64>,
    /// What made it: `deploy`, `env`, `secret`.
    pub cause: String,
    pub current: bool,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Name of the token that made it.
    pub created_by: String,
}

/// `GET …/apps/{app}/rollouts/{rollout}?wait=30s`: with `wait`, replies when the state is at least `monitoring`,
/// or when the time is up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RolloutInfo {
    pub id: RolloutId,
    pub from: Option<u64>,
    pub to: u64,
    pub state: RolloutState,
    /// Ready instances of the new release.
    pub ready: u32,
    pub replicas: u32,
    /// Why it failed, or what it waits for.
    pub reason: Option<Reason>,
    /// The rollout that this one's failure started, back to `from`.
    pub rolled_back_by: Option<RolloutId>,
    /// Since when it stands still, because of a user or of `update.on_failure`.
    #[serde(default)]
    pub paused: Option<Pause>,
    /// What it waits for, in a sentence.
    #[serde(default)]
    pub waits: Option<String>,
    /// What became of requests since it started, by release.
    #[serde(default)]
    pub requests: Vec<ReleaseRequests>,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// A rollout that stands still until somebody resumes or aborts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Pause {
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Name of the token. None: the platform, as `update.on_failure` asks.
    pub by: Option<String>,
}

/// `GET …/apps/{app}/why`: the facts, then what follows from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Why {
    pub condition: AppCondition,
    /// Sentences, most important first.
    pub because: Vec<String>,
    /// What to do about it.
    pub advice: Vec<String>,
    /// The last lines that the app's newest failed instance printed.
    pub last_log: Vec<String>,
}

/// `GET /v1/namespaces/{namespace}/usage`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Totals since the workers started, one entry a release.
    pub apps: Vec<AppUsage>,
}
