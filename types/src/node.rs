//! What control plane and worker say to each other: the session.
//!
//! The control plane streams [`Assignment`]s, one JSON document a line, with a growing generation: the first whole, the next ones too, or for a worker
//! that takes them as an [`AssignmentDelta`](crate::delta::AssignmentDelta). The worker answers with [`NodeReport`]s, and sends the guests' output as batches of [`crate::log::LogRecord`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::digest::Digest;
use crate::figures::NodeFigures;
use crate::id::{InstanceId, JobId, NodeId, ProcessId, SecretVersionId, VolumeId};
use crate::image::Platform;
use crate::incarnation::Incarnation;
use crate::name::{AppName, NamespaceName, VolumeName};
use crate::route::RouteTable;
use crate::secret::DeliveredSecret;
use crate::spec::{AppSpec, ScaleSpec};
use crate::state::{Health, InstanceState, Wanted};
use crate::world::World;

/// What a worker says of itself when it starts a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeRegistration {
    pub hostname: String,
    /// Memory that guests may use in all, in octets.
    pub memory_bytes: u64,
    pub cpus: u32,
    /// Version of the worker's binary.
    pub version: String,
    /// What whoever runs the node says of it, such as `zone` = `eu-1`; for placement.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Operating system, such as `linux`. Empty: a worker from before it said so; the same goes for the next two.
    #[serde(default)]
    pub os: String,
    /// Processor, such as `x86_64` or `aarch64`.
    #[serde(default)]
    pub arch: String,
    /// `server` where the control plane runs too, `worker` elsewhere. The one that a join token has given counts before it.
    #[serde(default)]
    pub role: String,
    /// Where other nodes reach its instances. None: nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<SocketAddr>,
    /// What images its Docker engine runs. None: it has none, and runs no containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<Platform>,
    /// Which process of the worker says so.
    #[serde(default)]
    pub incarnation: Incarnation,
}

/// As many as anybody needs, and few enough to be shown.
pub const LABELS_MAX: usize = 64;
/// Of a label's key or value, in octets.
const LABEL_MAX_BYTES: usize = 128;

/// Why a node cannot have a label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    #[error("`{0}` is not a label: write KEY=VALUE, such as `zone=eu-1`")]
    Form(String),
    #[error("`{0}` is not a label's key: at most 128 letters, digits and `-_./`, first a letter or digit")]
    Key(String),
    #[error("the value of label `{0}` is longer than 128 bytes, or contains a control character")]
    Value(String),
    #[error("a node has at most 64 labels, and these are {0}")]
    Many(usize),
}

/// Whether a join token may give this role: at most 63 lower-case letters, digits and `-`, first a letter. `server` is what a node is that has the
/// control plane, and is given to nobody.
pub fn is_node_role(role: &str) -> bool {
    role.len() <= 63
        && role != "server"
        && role.starts_with(|c: char| c.is_ascii_lowercase())
        && role.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Whether a label may have this key.
pub fn is_label_key(key: &str) -> bool {
    key.len() <= LABEL_MAX_BYTES
        && key.starts_with(|c: char| c.is_ascii_alphanumeric())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
}

/// Reads `KEY=VALUE`.
pub fn parse_label(text: &str) -> Result<(String, String), InvalidLabel> {
    let shown = |text: &str| text.chars().take(60).collect::<String>().escape_debug().to_string();
    let (key, value) = text.split_once('=').ok_or_else(|| InvalidLabel::Form(shown(text)))?;
    if !is_label_key(key) {
        return Err(InvalidLabel::Key(shown(key)));
    }
    if value.len() > LABEL_MAX_BYTES || value.contains(char::is_control) {
        return Err(InvalidLabel::Value(shown(key)));
    }
    Ok((key.to_owned(), value.to_owned()))
}

impl NodeRegistration {
    /// Checks what the field types do not.
    pub fn validate(&self) -> Result<(), InvalidLabel> {
        if self.labels.len() > LABELS_MAX {
            return Err(InvalidLabel::Many(self.labels.len()));
        }
        self.labels.iter().try_for_each(|(key, value)| parse_label(&format!("{key}={value}")).map(drop))
    }
}

/// The full set of instances of one node, and the routes of its ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub node: NodeId,
    /// Counter of wanted state; a worker refuses one that is not newer than what it has accepted.
    pub generation: u64,
    pub instances: Vec<AssignedInstance>,
    /// The secrets that these instances use, each once, and no others.
    pub secrets: Vec<DeliveredSecret>,
    pub routes: Arc<RouteTable>,
    /// Volumes whose data is to be removed for good. Nothing else ever removes one: what is not listed anywhere is kept.
    #[serde(default)]
    pub removed_volumes: Vec<VolumeId>,
}

/// Everything that a worker needs to run an instance, without asking again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedInstance {
    pub id: InstanceId,
    pub wanted: Wanted,
    /// What the control plane has been told so far. An instance that had started, but that the worker does not know, ran
    /// in a worker process that is gone: it is replaced, never revived.
    pub observed: InstanceState,
    pub namespace: NamespaceName,
    pub app: AppName,
    /// Number of the release.
    pub release: u64,
    /// Position in the app; survives replacement. Counted from 0 here, and from 1 where people read it.
    pub slot: u32,
    pub artifact: Digest,
    pub world: World,
    #[serde(serialize_with = "without_global")]
    pub spec: Arc<AppSpec>,
    /// Of each variable of `spec.secrets`, the version that the release was made with.
    pub secrets: Arc<BTreeMap<String, SecretVersionId>>,
    /// The folders of this node for the volumes of the spec.
    #[serde(default)]
    pub volumes: Vec<AssignedVolume>,
    /// The job that this is a run of. `app` is then only what its guest is called by, or the app that the job is a task of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<AssignedJob>,
}

/// A worker has no use for how many instances there are, and one of an earlier version could not read the word.
fn without_global<S: Serializer>(spec: &Arc<AppSpec>, serializer: S) -> Result<S::Ok, S::Error> {
    if !spec.is_global() {
        return spec.serialize(serializer);
    }
    let mut spec = AppSpec::clone(spec);
    spec.scale = ScaleSpec::default();
    spec.serialize(serializer)
}

impl AssignedInstance {
    /// Whether the same is wanted of it, and of the same: how far it has got does not matter.
    pub fn is_as_wanted(&self, other: &Self) -> bool {
        let Self {
            id,
            wanted,
            observed: _,
            namespace,
            app,
            release,
            slot,
            artifact,
            world,
            spec,
            secrets,
            volumes,
            job,
        } = self;
        (id, wanted, namespace, app, release, slot)
            == (&other.id, &other.wanted, &other.namespace, &other.app, &other.release, &other.slot)
            && (artifact, world, spec, secrets, volumes, job)
                == (&other.artifact, &other.world, &other.spec, &other.secrets, &other.volumes, &other.job)
    }
}

/// What a run of a job is told of it. A run is never replaced by the worker: whether there is another is the control plane's to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedJob {
    pub id: JobId,
    /// Which of the job's completions the run is for, from 0. None: they are all alike.
    pub index: Option<u32>,
    /// Counts the runs for this completion, from 1.
    pub attempt: u32,
}

/// Which folder of the node a volume of the spec is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedVolume {
    pub name: VolumeName,
    pub id: VolumeId,
}

/// What a worker observed. Sent when something changed, and as a heartbeat. A control plane passes over fields that it does
/// not know, as it does in log records: workers may be newer than it, and what it can use of a report must not be lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeReport {
    /// Whose report it is. One of a process that another has followed is refused.
    #[serde(default)]
    pub process: ProcessId,
    /// The newest assignment that was accepted.
    pub assignment_generation: u64,
    /// The newest routes that the ingress uses: no new request goes by older ones.
    pub routes_generation: u64,
    /// Every instance that the worker still knows. A final state is repeated until the control plane has taken
    /// the instance out of the assignment.
    pub instances: Vec<InstanceReport>,
    /// Totals since the worker started.
    pub usage: Vec<AppUsage>,
    pub figures: NodeFigures,
}

/// How long a worker goes on with an instance of which there is to be only one, after it has sent the last report whose answer listed it. It
/// outlasts a change of the leader; whoever places another waits for longer.
pub const SINGLETON_LEASE: Duration = Duration::from_secs(8);

/// The answer to a [`NodeReport`]. There is none where nothing of the node is a singleton.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReportAnswer {
    /// The instances of the assignment with `scale.singleton` that the worker, or whatever replaces them in their slot, may run for another
    /// [`SINGLETON_LEASE`] after it has sent the report.
    pub holds: Vec<InstanceId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InstanceReport {
    pub id: InstanceId,
    /// The instance of the assignment that this one replaced in its slot, after a restart by the supervisor. It may
    /// itself be such a replacement; reports of a chain come in order.
    pub replaces: Option<InstanceId>,
    pub state: InstanceState,
    pub health: Health,
    /// Why it is not (or no longer) running or healthy, in the guest's own words where there are any.
    pub reason: Option<Reason>,
    /// Replacements made in this slot since the supervisor was last healthy for long enough.
    pub restarts: u32,
    /// What the guest of a command gave back when it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// Why an instance failed or is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reason {
    pub kind: ReasonKind,
    /// For people: what was wrong, where, what to do.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// The artifact cannot be compiled or linked; trying again is of no use.
    Artifact,
    /// The guest trapped or could not be instantiated.
    Trap,
    /// A command ended; the message holds its exit code.
    Exit,
    /// A limit was reached.
    Limit,
    /// A probe failed.
    Probe,
    /// A trial with a part of the requests went badly.
    Canary,
    /// A user wanted it so.
    Asked,
    /// The fault is the platform's; the same may succeed later.
    Platform,
}

/// What one release has used: totals since the worker started, or of several workers together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AppUsage {
    pub namespace: NamespaceName,
    pub app: AppName,
    pub release: u64,
    /// Requests that a guest was given, the platform's own health checks among them, and runs of commands.
    pub invocations: u64,
    pub traps: u64,
    /// Invocations that ended at a limit: time or CPU. One that is refused memory usually traps.
    pub limited: u64,
    /// Requests that found every place taken, and none free in time.
    pub refused: u64,
    /// CPU time of guests, in milliseconds.
    pub cpu_millis: u64,
    /// Octets of request bodies that guests have read.
    pub received_bytes: u64,
    /// Octets of response bodies that have left the guests.
    pub sent_bytes: u64,
    /// Memory of the guests that live now, in octets.
    pub memory_bytes: u64,
    /// Invocations under way.
    pub active: u64,
    /// The engine's profile for which the code is compiled: `short`, `long` or `concurrent`. None: nothing has run yet.
    #[serde(default)]
    pub profile: Option<String>,
}

impl AppUsage {
    /// Of a release that has used nothing yet.
    pub fn new(namespace: NamespaceName, app: AppName, release: u64) -> Self {
        Self {
            namespace,
            app,
            release,
            invocations: 0,
            traps: 0,
            limited: 0,
            refused: 0,
            cpu_millis: 0,
            received_bytes: 0,
            sent_bytes: 0,
            memory_bytes: 0,
            active: 0,
            profile: None,
        }
    }

    /// Adds what the same release has used elsewhere.
    pub fn add(&mut self, other: &Self) {
        let Self {
            namespace: _,
            app: _,
            release: _,
            invocations,
            traps,
            limited,
            refused,
            cpu_millis,
            received_bytes,
            sent_bytes,
            memory_bytes,
            active,
            profile,
        } = other;
        if self.profile.is_none() {
            self.profile.clone_from(profile);
        }
        for (sum, more) in [
            (&mut self.invocations, invocations),
            (&mut self.traps, traps),
            (&mut self.limited, limited),
            (&mut self.refused, refused),
            (&mut self.cpu_millis, cpu_millis),
            (&mut self.received_bytes, received_bytes),
            (&mut self.sent_bytes, sent_bytes),
            (&mut self.memory_bytes, memory_bytes),
            (&mut self.active, active),
        ] {
            *sum = sum.saturating_add(*more);
        }
    }
}
