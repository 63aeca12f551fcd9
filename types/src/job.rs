//! Jobs: runs to completion. What a user wants of one, and what is told of it.
//!
//! A job has a number of completions, each of which has to end with success once. A run is one try at a completion; it fails, is lost with
//! its node, or succeeds, and is never revived: what is tried again is another run.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{InstanceId, JobId, NodeId};
use crate::name::{AppName, JobName, NamespaceName, ScheduleName, SecretName};
use crate::node::Reason;
use crate::quantity::{ByteSize, Span};
use crate::spec::{
    AppSpec, ContainerSpec, FilesSpec, InvalidSpec, LimitsSpec, OutboundSpec, PlacementSpec, ReserveSpec,
    RestartCondition, RestartSpec, StopSpec, is_default,
};
use crate::state::InstanceState;

/// Of one job.
pub const COMPLETIONS_MAX: u32 = 1000;
/// Of one completion.
pub const RETRIES_MAX: u32 = 100;
/// Completions times the runs that each may have.
pub const RUNS_MAX: u32 = 10_000;
const SPAN_MAX: Span = Span::from_secs(366 * 24 * 3600);

/// The settings of a job, which never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobSpec {
    /// Environment variables of the guest. With an `app` they come on top of the app's.
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secrets of the namespace, by name; the versions are those that are the newest when the job is made.
    pub secrets: BTreeMap<String, SecretName>,
    /// The same with configs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, SecretName>,
    /// Arguments of the guest, after its own name.
    pub args: Vec<String>,
    /// Files that the guest can read. None: those of the `app`, if there is one.
    pub files: Option<FilesSpec>,
    /// On which nodes runs are placed. Left out with an `app`: as the app's instances are.
    pub placement: PlacementSpec,
    /// What is set aside for each run. Left out with an `app`: what is for an instance of the app.
    pub reserve: ReserveSpec,
    /// Memory of one run, 1 MiB to 4 GiB. None: that of the `app`, or 128 MiB.
    pub memory: Option<ByteSize>,
    /// What the guest may reach. Left out with an `app`: what the app may.
    pub outbound: OutboundSpec,
    /// What the run calls apps of its namespace by beside their own names. Left out with an `app`: what the app calls them by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, AppName>,
    /// Of a job whose artifact is an image. With an `app`, on top of the app's. What is about requests, connections and health is refused.
    #[serde(skip_serializing_if = "is_default")]
    pub container: ContainerSpec,
    /// How long a container may take to end after its stop signal. Left out with an `app`: as long as an instance of the app.
    #[serde(skip_serializing_if = "is_default")]
    pub stop: StopSpec,
    /// Runs that have to succeed, 1 to 1000.
    pub completions: u32,
    /// Runs at once, 1 to 1000.
    pub parallelism: u32,
    /// Whether each completion is a piece of work of its own: its runs are told which by `WHARF_JOB_INDEX`, from 0, and one that fails for
    /// good does not end the others.
    pub indexed: bool,
    /// How often a completion is tried again after a run of it has failed, 0 to 100.
    pub retries: u32,
    /// The wait before the first retry; it doubles from one to the next.
    pub backoff: Span,
    /// The longest wait before a retry.
    pub backoff_max: Span,
    /// How long one run may take. One that takes longer is stopped, and has failed.
    pub timeout: Option<Span>,
    /// How long the whole job may take, from the moment that it is made, waiting included.
    pub deadline: Option<Span>,
    /// How long the job is kept after its end, with what it printed.
    pub ttl: Span,
}

impl Default for JobSpec {
    fn default() -> Self {
        Self {
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            configs: BTreeMap::new(),
            args: Vec::new(),
            files: None,
            placement: PlacementSpec::default(),
            reserve: ReserveSpec::default(),
            memory: None,
            outbound: OutboundSpec::default(),
            names: BTreeMap::new(),
            container: ContainerSpec::default(),
            stop: StopSpec::default(),
            completions: 1,
            parallelism: 1,
            indexed: false,
            retries: 3,
            backoff: Span::from_secs(10),
            backoff_max: Span::from_secs(6 * 60),
            timeout: None,
            deadline: None,
            ttl: Span::from_secs(24 * 3600),
        }
    }
}

impl JobSpec {
    /// Fills in what an app has and the job does not say itself, as far as it is of use to what runs.
    pub fn or_of_app(self, app: &AppSpec, runs: Runs) -> Self {
        fn or<T: Default + PartialEq + Clone>(own: T, of_app: &T) -> T {
            if own == T::default() { of_app.clone() } else { own }
        }
        let own: BTreeSet<&String> =
            self.env.keys().chain(self.secrets.keys()).chain(self.configs.keys()).collect();
        let kept_back = kept_back(app, runs);
        let of_app = |name: &&String| !own.contains(*name) && !kept_back.contains(*name);
        fn filtered<T: Clone>(
            named: &BTreeMap<String, T>,
            is_taken: impl Fn(&&String) -> bool,
        ) -> BTreeMap<String, T> {
            let taken = named.iter().filter(|(name, _)| is_taken(name));
            taken.map(|(name, value)| (name.clone(), value.clone())).collect()
        }
        let (mut env, mut secrets, mut configs) =
            (filtered(&app.env, of_app), filtered(&app.secrets, of_app), filtered(&app.configs, of_app));
        env.extend(self.env);
        secrets.extend(self.secrets);
        configs.extend(self.configs);
        let of_all = Self {
            env,
            secrets,
            configs,
            placement: or(self.placement, &app.placement),
            reserve: or(self.reserve, &app.reserve),
            memory: self.memory.or(Some(app.limits.memory)),
            names: or(self.names, &app.names),
            ..self
        };
        match runs {
            Runs::Guest => Self {
                files: of_all.files.or_else(|| app.files.clone()),
                outbound: or(of_all.outbound, &app.outbound),
                ..of_all
            },
            Runs::AppsImage | Runs::OtherImage => Self {
                container: of_all.container.or(app.container.of_task(runs == Runs::AppsImage)),
                stop: or(of_all.stop, &app.stop),
                ..of_all
            },
        }
    }

    /// The same as a worker takes it, which runs it like any command that is not to be started again.
    pub fn for_worker(&self) -> AppSpec {
        let limits = LimitsSpec::default();
        AppSpec {
            env: self.env.clone(),
            secrets: self.secrets.clone(),
            configs: self.configs.clone(),
            args: self.args.clone(),
            files: self.files.clone(),
            placement: self.placement.clone(),
            reserve: self.reserve.clone(),
            limits: LimitsSpec { memory: self.memory.unwrap_or(limits.memory), ..limits },
            restart: RestartSpec { condition: RestartCondition::Never, ..RestartSpec::default() },
            outbound: self.outbound.clone(),
            names: self.names.clone(),
            container: self.container.clone(),
            stop: self.stop.clone(),
            ..AppSpec::default()
        }
    }

    /// Checks the numbers and spans. What [`JobSpec::for_worker`] makes has a check of its own.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let invalid = |field: &str, problem: String| Err(InvalidSpec::new(field, problem));
        for (field, number, least, most) in [
            ("completions", self.completions, 1, COMPLETIONS_MAX),
            ("parallelism", self.parallelism, 1, COMPLETIONS_MAX),
            ("retries", self.retries, 0, RETRIES_MAX),
        ] {
            if !(least..=most).contains(&number) {
                return invalid(field, format!("{number} is not between {least} and {most}"));
            }
        }
        let runs = self.completions.saturating_mul(self.retries + 1);
        if runs > RUNS_MAX {
            let problem = format!(
                "{} completions with {} retries each may take {runs} runs, and {RUNS_MAX} is the most; make several jobs of it",
                self.completions, self.retries
            );
            return invalid("completions", problem);
        }
        let spans = [
            ("backoff", Some(self.backoff)),
            ("backoff_max", Some(self.backoff_max)),
            ("timeout", self.timeout),
            ("deadline", self.deadline),
            ("ttl", Some(self.ttl)),
        ];
        for (field, span) in spans {
            if span.is_some_and(|span| span.as_duration() > SPAN_MAX.as_duration()) {
                return invalid(field, "is longer than 366 days".to_owned());
            }
        }
        for (field, span) in [("timeout", self.timeout), ("deadline", self.deadline)] {
            if span.is_some_and(|span| span.as_duration().is_zero()) {
                return invalid(field, "is zero, so nothing could run; leave it out for no limit".to_owned());
            }
        }
        self.container.validate_for_run()
    }
}

/// What a task of an app runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// WebAssembly: the app's, or something else.
    Guest,
    /// The image that the app runs.
    AppsImage,
    OtherImage,
}

/// Variables of secrets and configs that no guest of the app sees as such, and that what runs has no other use for.
fn kept_back(app: &AppSpec, runs: Runs) -> BTreeSet<&String> {
    let login = app.container.registry_login.iter().filter(|_| runs != Runs::AppsImage);
    let of_files = app.container.files.iter().filter(|_| runs == Runs::Guest).map(|file| &file.from);
    login.chain(of_files).collect()
}

/// How far a job has come. Declaration order is the lifecycle; it only grows.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Nothing of it has run yet.
    Pending,
    Running,
    /// Every completion has succeeded.
    Succeeded,
    /// A completion has failed for good, or the deadline has passed.
    Failed,
    /// Somebody, or its schedule, ended it.
    Cancelled,
}

impl JobState {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Nothing of it runs any more.
    pub fn is_final(self) -> bool {
        self >= Self::Succeeded
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What became of a run that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    /// By the guest's own fault.
    Failed,
    /// It took longer than `timeout`.
    TimedOut,
    /// Its node went away, or its worker was restarted: nobody knows how it would have ended. It is tried again and is no retry.
    Lost,
    /// The job ended, or something of a higher priority needed the room.
    Stopped,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::Lost => "lost",
            Self::Stopped => "stopped",
        }
    }
}

/// `POST /v1/namespaces/{namespace}/jobs`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateJob {
    /// None: that of the app, or `job`.
    pub name: Option<JobName>,
    pub job: JobTemplate,
}

/// What a job runs, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobTemplate {
    /// A command, or an image, that was pushed to the namespace. None: that of the app's current release.
    pub artifact: Option<Digest>,
    /// The job is a task of this app: it has the settings and the key-value data of the app.
    pub app: Option<AppName>,
    pub spec: JobSpec,
}

/// `GET …/jobs` and `GET …/jobs/{job}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JobInfo {
    pub id: JobId,
    pub namespace: NamespaceName,
    pub name: JobName,
    pub state: JobState,
    /// It is to end in this state, when what still runs of it has stopped.
    pub ending: Option<JobState>,
    /// Why it ended, or is to end, so.
    pub reason: Option<String>,
    /// That of the guest: 0 after success; after a failure that of the run that failed last, if that one had any.
    pub exit_code: Option<i32>,
    pub artifact: Digest,
    pub app: Option<AppName>,
    /// Of the app.
    pub release: Option<u64>,
    /// The schedule that made it, and for which time.
    pub schedule: Option<ScheduleName>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub planned_at: Option<Timestamp>,
    pub spec: JobSpec,
    /// Completions that have succeeded.
    pub succeeded: u32,
    /// Completions that have failed for good.
    pub failed: u32,
    /// Runs under way.
    pub active: u32,
    /// Why runs wait for a node.
    pub waits: Vec<String>,
    /// Of a job that was asked for alone: its runs in the order of completions, and of each the oldest first.
    pub runs: Vec<JobRun>,
    pub created_by: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// One try at a completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JobRun {
    pub id: InstanceId,
    /// The completion, from 0.
    pub index: u32,
    /// Counts the runs of the completion, from 1.
    pub attempt: u32,
    pub node: NodeId,
    pub state: InstanceState,
    /// None: it has not ended.
    pub outcome: Option<Outcome>,
    pub exit_code: Option<i32>,
    pub reason: Option<Reason>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn an_empty_job_is_one_run_with_three_retries_and_survives_json() {
        let spec: JobSpec = serde_json::from_str("{}").unwrap();
        assert_eq!(spec, JobSpec::default());
        spec.validate().unwrap();
        spec.for_worker().validate().unwrap();
        assert_eq!((spec.completions, spec.parallelism, spec.retries), (1, 1, 3));
        let request: CreateJob = serde_json::from_str(r#"{"name":"import","job":{"app":"shop"}}"#).unwrap();
        assert_eq!(request.job.app.unwrap().as_str(), "shop");
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_name() {
        let refused = |spec: JobSpec| spec.validate().unwrap_err().field;
        let default = JobSpec::default;
        assert_eq!(refused(JobSpec { completions: 0, ..default() }), "completions");
        assert_eq!(refused(JobSpec { parallelism: 1001, ..default() }), "parallelism");
        assert_eq!(refused(JobSpec { retries: 101, ..default() }), "retries");
        assert_eq!(refused(JobSpec { completions: 1000, retries: 10, ..default() }), "completions");
        assert_eq!(refused(JobSpec { deadline: Some(Span::from_secs(0)), ..default() }), "deadline");
        assert_eq!(refused(JobSpec { ttl: Span::from_secs(1 << 40), ..default() }), "ttl");
    }

    #[test]
    fn a_task_of_an_app_has_what_the_app_has_unless_it_says_otherwise() {
        let env = [("A", "app"), ("B", "app")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let mut app = AppSpec { env: env.into(), ..AppSpec::default() };
        app.secrets.insert("C".to_owned(), "token".parse().unwrap());
        app.limits.memory = ByteSize::mib(7);
        let own = JobSpec {
            env: [("B", "own"), ("C", "own")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..JobSpec::default()
        };
        let spec = own.or_of_app(&app, Runs::Guest);
        let env: Vec<_> = spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=app", "B=own", "C=own"]);
        assert!(spec.secrets.is_empty(), "a variable has one value");
        assert_eq!(spec.memory, Some(ByteSize::mib(7)));
    }

    /// An app that runs an image, with a bit of everything.
    fn container_app() -> AppSpec {
        let mut app = AppSpec { stop: StopSpec { drain: Span::from_secs(5) }, ..AppSpec::default() };
        for variable in ["LOGIN", "PASSWORD", "TOKEN"] {
            app.secrets.insert(variable.to_owned(), "secret".parse().unwrap());
        }
        app.tcp.ports = vec![7000];
        app.container = serde_json::from_value(serde_json::json!({
            "http_port": 80, "tcp": {"7000": 70}, "health": {"command": ["check"]}, "user": "app", "entrypoint": ["/serve"],
            "networks": {"back": ["web"]}, "internal_networks": ["back"], "registry_login": "LOGIN", "files": [{"from": "PASSWORD", "path": "/run/password"}],
        }))
        .unwrap();
        app.validate_for(World::HttpContainer).unwrap();
        app
    }

    #[test]
    fn a_task_in_a_container_has_what_is_around_the_apps_but_its_ports_names_and_checks() {
        let app = container_app();
        let own = JobSpec {
            container: ContainerSpec { user: Some("root".to_owned()), ..ContainerSpec::default() },
            ..JobSpec::default()
        };
        let spec = own.clone().or_of_app(&app, Runs::AppsImage);
        spec.validate().unwrap();
        spec.for_worker().validate_for(World::Container).unwrap();
        let container = &spec.container;
        assert_eq!((container.http_port, &container.tcp, &container.health), (None, &BTreeMap::new(), &None));
        assert_eq!(container.networks, BTreeMap::from([("back".to_owned(), Vec::new())]));
        assert_eq!(
            (container.user.as_deref(), container.registry_login.as_deref()),
            (Some("root"), Some("LOGIN"))
        );
        assert_eq!((container.files.len(), spec.secrets.len(), spec.stop.drain), (1, 3, Span::from_secs(5)));

        // What opens the app's registry is not shown to another one.
        let spec = own.or_of_app(&app, Runs::OtherImage);
        spec.for_worker().validate_for(World::Container).unwrap();
        assert_eq!((&spec.container.registry_login, &spec.container.entrypoint), (&None, &None));
        assert_eq!(spec.secrets.keys().collect::<Vec<_>>(), ["PASSWORD", "TOKEN"]);
    }

    #[test]
    fn a_network_without_a_way_out_has_none_for_a_task_that_names_it_itself() {
        let of = |networks: serde_json::Value| {
            let container = serde_json::from_value(serde_json::json!({ "networks": networks })).unwrap();
            let spec = JobSpec { container, ..JobSpec::default() };
            let spec = spec.or_of_app(&container_app(), Runs::AppsImage);
            spec.for_worker().validate_for(World::Container).unwrap();
            spec.container.internal_networks
        };
        assert_eq!(of(serde_json::json!({})), ["back"]);
        assert_eq!(of(serde_json::json!({"back": [], "front": []})), ["back"]);
        assert!(of(serde_json::json!({"front": []})).is_empty());
    }

    #[test]
    fn a_guest_that_is_a_task_of_a_container_sees_only_what_the_container_sees_as_variables() {
        let spec = JobSpec::default().or_of_app(&container_app(), Runs::Guest);
        spec.for_worker().validate_for(World::CommandP2).unwrap();
        assert_eq!(spec.secrets.keys().collect::<Vec<_>>(), ["TOKEN"]);
        assert_eq!(spec.stop, StopSpec::default());
    }

    #[test]
    fn what_makes_no_sense_for_a_run_is_refused_by_name() {
        for (key, value) in [
            ("http_port", serde_json::json!(80)),
            ("tcp", serde_json::json!({"7000": 70})),
            ("health", serde_json::json!({"disable": true})),
            ("networks", serde_json::json!({"back": ["web"]})),
        ] {
            let container = serde_json::json!({ key: value });
            let spec: JobSpec =
                serde_json::from_value(serde_json::json!({ "container": container })).unwrap();
            assert_eq!(spec.validate().unwrap_err().field, format!("container.{key}"));
        }
    }
}
