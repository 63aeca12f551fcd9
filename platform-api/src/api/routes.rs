//! The table of all routes: method, path, who may, what goes in and out.
//!
//! The router and the OpenAPI document are both made from it, so neither can know a route that the other does not.

use std::sync::Arc;

use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use wharf_types::api::{
    AppInfo, ArtifactInfo, ArtifactSources, AuditRecord, AuthorityInfo, BuildInfo, CertificateRequest,
    ConfigValue, CreateJoinToken, CreateNamespace, CreateRelease, CreateToken, CreateUser, CreatedJoinToken,
    CreatedToken, Deployed, Env, EnvPatch, FilesInfo, JoinTokenInfo, Leaving, MemberInfo, NamespaceInfo,
    NodeCertificate, NodeInfo, NodePatch, PushPolicy, Quota, QuotaInfo, ReleaseInfo, RepositoryInfo,
    RepositoryPatch, ResolveImage, Rollback, RolloutInfo, RotateAuthority, RotatedKey, Scale, SecretInfo,
    SecretSet, ServerInfo, SetMember, TokenInfo, Usage, UserInfo, Verb, VolumeInfo, WhoAmI, Why,
};
use wharf_types::copy::CopySpec;
use wharf_types::declare::change::{Applied, ApplyRequest, Plan, PlanRequest};
use wharf_types::declare::{REQUEST_MAX_BYTES, Resource};
use wharf_types::event::{Event, NodeEvent};
use wharf_types::exec::{ExecSpec, MEDIA_TYPE};
use wharf_types::image::ImageDocument;
use wharf_types::job::{CreateJob, JobInfo};
use wharf_types::keyvalue::{KeyValueReply, KeyValueRequest};
use wharf_types::log::LogRecord;
use wharf_types::node::{NodeRegistration, NodeReport, ReportAnswer};
use wharf_types::schedule::{ScheduleInfo, ScheduleSpec};

use super::openapi::{Payload, array, json, list};
use super::parameters::{
    AUDIT, BUILDS, CHANGES, CHANGES_ONCE, CONFIG, EVENTS, EXEC, JOB_LOGS, JOB_ONCE, JOB_WAIT, LOGS, ONCE,
    PAGE_BY_NAME, PAGE_BY_NUMBER, PAGE_OF_JOBS, PROCESS, Parameters, RESUMES, ROLLOUT_WAIT, SCHEDULE_CHANGES,
    SERVICE, SETTINGS_CHANGES, VALUE_CHANGES, VOLUMES,
};
use super::{
    applies, apps, artifacts, audit, authorities, builds, copy, events, exec, files, git, images, jobs,
    joining, logs, members, meta, metrics, namespaces, nodes, quotas, releases, rollouts, schedules, secrets,
    servers, session, settings, tokens, users, volumes, watch,
};
use crate::access::Access;
use crate::context::Context;

type Handler = MethodRouter<Arc<Context>>;

pub(crate) struct Endpoint {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// Who may. There is no route without: nothing but [`Endpoint::new`] makes one.
    pub(crate) access: Access,
    pub(super) handler: Handler,
    pub(super) summary: &'static str,
    /// Query parameters; others are refused.
    pub(crate) query: Parameters,
    /// Header fields that not every request has. Of those that are conditions, others are refused.
    pub(crate) headers: Parameters,
    pub(super) request: Payload,
    pub(super) status: u16,
    pub(super) reply: Payload,
    /// Whether the reply has an `ETag`, for `If-Match`.
    pub(super) etag: bool,
    /// Whether the reply is kept for whoever sends the request again with its `Idempotency-Key`.
    pub(super) keeps_reply: bool,
    /// Another status with the same content, and when it is used.
    pub(super) or: Option<(u16, &'static str)>,
    /// The largest body, where it is not that of every other route.
    pub(super) body_max_bytes: Option<usize>,
    /// Whether only the server that leads can answer: it depends on what nodes say, or on what the planner has found. Others forward it.
    pub(crate) by_leader: bool,
    /// Whether the connection becomes one of another protocol.
    pub(super) takes_over: bool,
    /// The version of the node protocol that it has come with.
    pub(super) since: u32,
}

impl Endpoint {
    fn new(
        method: Method,
        path: &'static str,
        access: Access,
        handler: Handler,
        summary: &'static str,
    ) -> Self {
        let (request, reply) = (Payload::Nothing, Payload::Nothing);
        Self {
            method,
            path,
            access,
            handler,
            summary,
            query: &[],
            headers: &[],
            request,
            status: 200,
            reply,
            etag: false,
            keeps_reply: false,
            or: None,
            body_max_bytes: None,
            by_leader: access == Access::Node,
            takes_over: false,
            since: 1,
        }
    }

    /// Whether it is for git, whose errors are texts, and which sends a token as a password. It is described by git and not by the document.
    pub(crate) fn speaks_git(&self) -> bool {
        self.path.starts_with("/git/")
    }

    fn takes(self, request: Payload) -> Self {
        Self { request, ..self }
    }

    fn query(self, query: Parameters) -> Self {
        Self { query, ..self }
    }

    fn headers(self, headers: Parameters) -> Self {
        Self { headers, ..self }
    }

    fn with_etag(self) -> Self {
        Self { etag: true, ..self }
    }

    /// It makes something by one transaction, and only the first of several requests with one `Idempotency-Key` does.
    fn once(self) -> Self {
        Self { headers: ONCE, keeps_reply: true, ..self }
    }

    fn or(self, status: u16, when: &'static str) -> Self {
        Self { or: Some((status, when)), ..self }
    }

    fn body_of(self, max_bytes: usize) -> Self {
        Self { body_max_bytes: Some(max_bytes), ..self }
    }

    fn by_leader(self) -> Self {
        Self { by_leader: true, ..self }
    }

    fn takes_over(self) -> Self {
        Self { takes_over: true, ..self }
    }

    fn since(self, version: u32) -> Self {
        Self { since: version, ..self }
    }

    fn replies(self, status: u16, reply: Payload) -> Self {
        Self { status, reply, ..self }
    }
}

const VIEWER: Access = Access::User(Verb::Read);
const DEVELOPER: Access = Access::User(Verb::Deploy);
const NAMESPACE_ADMIN: Access = Access::User(Verb::Admin);
const ADMIN: Access = Access::Cluster(Verb::Admin);

macro_rules! app {
    ($rest:literal) => {
        concat!("/v1/namespaces/{namespace}/apps/{app}", $rest)
    };
}

pub(crate) fn endpoints() -> Vec<Endpoint> {
    let mut all = about_the_platform();
    all.extend(about_namespaces());
    all.extend(about_apps());
    all.extend(about_moving());
    all.extend(about_jobs());
    all.extend(about_declared_resources());
    all.extend(about_builds());
    all.extend(for_git());
    all.extend(for_workers());
    all
}

fn about_the_platform() -> Vec<Endpoint> {
    let e = Endpoint::new;
    vec![
        e(Method::GET, "/healthz", Access::Public, get(meta::health), "Whether the control plane works")
            .replies(200, Payload::Object),
        e(Method::GET, "/v1/openapi.json", Access::Public, get(meta::openapi), "This document")
            .replies(200, Payload::Object),
        e(Method::GET, "/v1/whoami", Access::Anyone, get(meta::who_am_i), "Who the token belongs to")
            .replies(200, json::<WhoAmI>()),
        e(Method::POST, "/v1/tokens", Access::Own, post(tokens::create), "Make a token")
            .once()
            .takes(json::<CreateToken>())
            .replies(201, json::<CreatedToken>()),
        e(Method::GET, "/v1/tokens", Access::Own, get(tokens::list), "List tokens: a user's own, or all")
            .replies(200, list::<TokenInfo>()),
        e(Method::DELETE, "/v1/tokens/{token}", Access::Own, delete(tokens::revoke), "Revoke a token")
            .replies(204, Payload::Nothing),
        e(Method::POST, "/v1/users", ADMIN, post(users::create), "Make a user")
            .once()
            .takes(json::<CreateUser>())
            .replies(201, json::<UserInfo>()),
        e(Method::GET, "/v1/users", ADMIN, get(users::list), "List users and what they are members of")
            .replies(200, list::<UserInfo>()),
        e(
            Method::DELETE,
            "/v1/users/{user}",
            ADMIN,
            delete(users::remove),
            "Remove a user, with all tokens and memberships",
        )
        .replies(204, Payload::Nothing),
        e(
            Method::GET,
            "/v1/audit",
            Access::Asked(Verb::Admin),
            get(audit::list),
            "What was changed and by whom, the oldest first",
        )
        .query(AUDIT)
        .replies(200, list::<AuditRecord>()),
        e(
            Method::POST,
            "/v1/secret-keys",
            ADMIN,
            post(secrets::rotate_key),
            "Seal every secret with a new key",
        )
        .once()
        .replies(201, json::<RotatedKey>()),
        e(Method::GET, "/v1/nodes", Access::Cluster(Verb::Read), get(nodes::list), "List workers")
            .replies(200, list::<NodeInfo>())
            .by_leader(),
        e(
            Method::GET,
            "/v1/events",
            Access::Cluster(Verb::Read),
            get(events::of_nodes),
            "What happened to workers; a stream with `Accept: text/event-stream`",
        )
        .query(EVENTS)
        .headers(RESUMES)
        .replies(200, list::<NodeEvent>())
        .by_leader(),
        e(Method::GET, "/v1/nodes/{node}", Access::Cluster(Verb::Read), get(nodes::show), "One worker")
            .replies(200, json::<NodeInfo>())
            .with_etag()
            .by_leader(),
        e(
            Method::PATCH,
            "/v1/nodes/{node}",
            ADMIN,
            patch(nodes::patch),
            "Empty a worker, take that back, or set labels",
        )
        .headers(SETTINGS_CHANGES)
        .takes(json::<NodePatch>())
        .replies(200, json::<NodeInfo>())
        .with_etag()
        .by_leader(),
        e(
            Method::DELETE,
            "/v1/nodes/{node}",
            ADMIN,
            delete(nodes::remove),
            "Take a worker out of the cluster; its certificates count no more",
        )
        .replies(204, Payload::Nothing)
        .by_leader(),
        e(
            Method::GET,
            "/v1/authorities",
            Access::Cluster(Verb::Read),
            get(authorities::list),
            "List the CAs of the cluster, and what a rotation waits for",
        )
        .replies(200, list::<AuthorityInfo>())
        .by_leader(),
        e(
            Method::POST,
            "/v1/authorities",
            ADMIN,
            post(authorities::rotate),
            "Make another CA, which takes the place of the one that signs when every node believes it",
        )
        .once()
        .takes(json::<RotateAuthority>())
        .replies(201, list::<AuthorityInfo>())
        .by_leader(),
        e(
            Method::GET,
            "/v1/servers",
            Access::Cluster(Verb::Read),
            get(servers::list),
            "List the servers of the control plane, and which of them leads",
        )
        .replies(200, list::<ServerInfo>()),
        e(Method::POST, "/v1/join-tokens", ADMIN, post(joining::create), "Let hosts join")
            .once()
            .takes(json::<CreateJoinToken>())
            .replies(201, json::<CreatedJoinToken>()),
        e(Method::GET, "/v1/join-tokens", ADMIN, get(joining::list), "List join tokens")
            .replies(200, list::<JoinTokenInfo>()),
        e(
            Method::DELETE,
            "/v1/join-tokens/{token}",
            ADMIN,
            delete(joining::revoke),
            "Let nobody join with a token any more",
        )
        .replies(204, Payload::Nothing),
        e(
            Method::POST,
            "/v1/join",
            Access::Joining,
            post(joining::join),
            "Become a node; the join token's secret is the bearer token",
        )
        .takes(json::<CertificateRequest>())
        .replies(201, json::<NodeCertificate>()),
        e(
            Method::GET,
            "/metrics",
            Access::Cluster(Verb::Read),
            get(metrics::show),
            "What apps and workers use, for Prometheus",
        )
        .replies(200, Payload::Text)
        .by_leader(),
    ]
}

fn about_builds() -> Vec<Endpoint> {
    let e = Endpoint::new;
    vec![
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/builds",
            VIEWER,
            get(builds::list),
            "List what was pushed with git, the newest first",
        )
        .query(BUILDS)
        .replies(200, list::<BuildInfo>()),
        e(Method::GET, "/v1/namespaces/{namespace}/builds/{build}", VIEWER, get(builds::show), "One build")
            .replies(200, json::<BuildInfo>()),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/builds/{build}/log",
            DEVELOPER,
            get(builds::log),
            "What a build said; with `Accept: text/event-stream` a stream that ends with it",
        )
        .headers(RESUMES)
        .replies(200, Payload::Text)
        .by_leader(),
        e(
            Method::POST,
            "/v1/namespaces/{namespace}/builds/{build}/cancel",
            DEVELOPER,
            post(builds::cancel),
            "End a build; what ran before runs",
        )
        .replies(202, Payload::Nothing)
        .by_leader(),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/push-policy",
            VIEWER,
            get(builds::policy),
            "What pushes may do in the namespace",
        )
        .replies(200, json::<PushPolicy>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/push-policy",
            ADMIN,
            put(builds::set_policy),
            "Say what pushes may do in the namespace",
        )
        .headers(SETTINGS_CHANGES)
        .takes(json::<PushPolicy>())
        .replies(200, json::<PushPolicy>())
        .with_etag(),
        e(
            Method::GET,
            app!("/repository"),
            VIEWER,
            get(builds::repository),
            "Where to push the app with git, and its previews",
        )
        .replies(200, json::<RepositoryInfo>())
        .with_etag()
        .by_leader(),
        e(
            Method::PATCH,
            app!("/repository"),
            DEVELOPER,
            patch(builds::set_repository),
            "Say which branch is deployed, and what a push does while another one is under way",
        )
        .headers(SETTINGS_CHANGES)
        .takes(json::<RepositoryPatch>())
        .replies(200, json::<RepositoryInfo>())
        .with_etag()
        .by_leader(),
    ]
}

/// What git itself asks for: see its `gitprotocol-http`.
fn for_git() -> Vec<Endpoint> {
    let e = Endpoint::new;
    vec![
        e(Method::GET, "/git/{namespace}/{repository}/info/refs", VIEWER, get(git::refs), "Refs, for git")
            .query(SERVICE)
            .by_leader(),
        e(
            Method::POST,
            "/git/{namespace}/{repository}/git-upload-pack",
            VIEWER,
            post(git::upload_pack),
            "Clone and fetch, for git",
        )
        .by_leader(),
        e(
            Method::POST,
            "/git/{namespace}/{repository}/git-receive-pack",
            DEVELOPER,
            post(git::receive_pack),
            "Push, for git",
        )
        .by_leader(),
    ]
}

fn about_namespaces() -> Vec<Endpoint> {
    let e = Endpoint::new;
    vec![
        e(Method::POST, "/v1/namespaces", ADMIN, post(namespaces::create), "Make a namespace")
            .once()
            .takes(json::<CreateNamespace>())
            .replies(201, json::<NamespaceInfo>()),
        e(
            Method::GET,
            "/v1/namespaces",
            Access::Anyone,
            get(namespaces::list),
            "List the namespaces that the token reaches",
        )
        .replies(200, list::<NamespaceInfo>()),
        e(Method::GET, "/v1/namespaces/{namespace}", VIEWER, get(namespaces::show), "One namespace")
            .replies(200, json::<NamespaceInfo>()),
        e(
            Method::DELETE,
            "/v1/namespaces/{namespace}",
            ADMIN,
            delete(namespaces::remove),
            "Delete an empty namespace",
        )
        .replies(204, Payload::Nothing),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/members",
            VIEWER,
            get(members::list),
            "List who is a member, and as what",
        )
        .replies(200, list::<MemberInfo>()),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/members/{user}",
            VIEWER,
            get(members::show),
            "One member",
        )
        .replies(200, json::<MemberInfo>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/members/{user}",
            NAMESPACE_ADMIN,
            put(members::set),
            "Make a user a member, or give a member another role",
        )
        .headers(SETTINGS_CHANGES)
        .takes(json::<SetMember>())
        .replies(200, json::<MemberInfo>())
        .with_etag(),
        e(
            Method::DELETE,
            "/v1/namespaces/{namespace}/members/{user}",
            NAMESPACE_ADMIN,
            delete(members::remove),
            "Remove a member, who loses access at once",
        )
        .replies(204, Payload::Nothing),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/quota",
            VIEWER,
            get(quotas::show),
            "What the namespace may use, and what it uses",
        )
        .replies(200, json::<QuotaInfo>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/quota",
            ADMIN,
            put(quotas::set),
            "Set the namespace's limits, as a whole; a limit below what is used only refuses growth",
        )
        .headers(SETTINGS_CHANGES)
        .takes(json::<Quota>())
        .replies(200, json::<QuotaInfo>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/artifacts/{digest}",
            DEVELOPER,
            put(artifacts::push),
            "Push an artifact; 200 when it was there before",
        )
        .takes(Payload::Octets("application/wasm"))
        .replies(201, json::<ArtifactInfo>())
        .or(200, "It was there before"),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/artifacts/{digest}",
            VIEWER,
            get(artifacts::show),
            "What is known of an artifact",
        )
        .replies(200, json::<ArtifactInfo>()),
        e(
            Method::POST,
            "/v1/namespaces/{namespace}/images",
            DEVELOPER,
            post(images::resolve),
            "Which image of a container a name means now; what is told is then pushed as an artifact",
        )
        .takes(json::<ResolveImage>())
        .replies(200, json::<ImageDocument>()),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/files/{digest}",
            DEVELOPER,
            put(files::push),
            "Push the files of an app as a tar archive; 200 when they were there before",
        )
        .takes(Payload::Octets("application/x-tar"))
        .replies(201, json::<FilesInfo>())
        .or(200, "They were there before"),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/files/{digest}",
            VIEWER,
            get(files::show),
            "What is known of pushed files",
        )
        .replies(200, json::<FilesInfo>()),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/secrets",
            VIEWER,
            get(secrets::list),
            "List secrets: names, versions and who uses them, never values",
        )
        .replies(200, list::<SecretInfo>()),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/secrets/{secret}",
            VIEWER,
            get(secrets::show),
            "One secret: its versions and who uses it, never its value",
        )
        .replies(200, json::<SecretInfo>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/secrets/{secret}",
            Access::User(Verb::Secrets),
            put(secrets::set),
            "Set a secret to the body, which is text; apps that use it get a new release",
        )
        .headers(VALUE_CHANGES)
        .takes(Payload::Secret)
        .replies(200, json::<SecretSet>())
        .with_etag(),
        e(
            Method::DELETE,
            "/v1/namespaces/{namespace}/secrets/{secret}",
            Access::User(Verb::Secrets),
            delete(secrets::remove),
            "Remove a secret that no kept release uses",
        )
        .replies(204, Payload::Nothing),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/configs",
            VIEWER,
            get(secrets::list_configs),
            "List configs: names, versions and who uses them",
        )
        .replies(200, list::<SecretInfo>()),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/configs/{config}",
            DEVELOPER,
            get(secrets::show_config),
            "A config with its value",
        )
        .query(CONFIG)
        .replies(200, json::<ConfigValue>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/configs/{config}",
            DEVELOPER,
            put(secrets::set_config),
            "Set a config to the body, which is text; apps that use it get a new release",
        )
        .headers(VALUE_CHANGES)
        .takes(Payload::Secret)
        .replies(200, json::<SecretSet>())
        .with_etag(),
        e(
            Method::DELETE,
            "/v1/namespaces/{namespace}/configs/{config}",
            DEVELOPER,
            delete(secrets::remove_config),
            "Remove a config that no kept release uses",
        )
        .replies(204, Payload::Nothing),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/usage",
            VIEWER,
            get(nodes::usage),
            "What the namespace's apps used",
        )
        .replies(200, json::<Usage>())
        .by_leader(),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/events",
            VIEWER,
            get(events::of_namespace),
            "What happened; a stream with `Accept: text/event-stream`",
        )
        .query(EVENTS)
        .headers(RESUMES)
        .replies(200, list::<Event>()),
        e(Method::GET, "/v1/namespaces/{namespace}/apps", VIEWER, get(apps::list), "List apps")
            .query(PAGE_BY_NAME)
            .replies(200, list::<AppInfo>())
            .by_leader(),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/volumes",
            VIEWER,
            get(volumes::list),
            "List volumes, also those of deleted apps",
        )
        .replies(200, list::<VolumeInfo>())
        .by_leader(),
        e(
            Method::DELETE,
            "/v1/namespaces/{namespace}/volumes/{volume}",
            DEVELOPER,
            delete(volumes::remove),
            "Remove a volume that no release in use has, and its data",
        )
        .replies(202, Payload::Nothing),
        e(
            Method::POST,
            "/v1/namespaces/{namespace}/volumes/{volume}/backup",
            DEVELOPER,
            post(volumes::backup),
            "Read what a volume holds: the connection then carries frames with a tar archive in stdout",
        )
        .headers(EXEC)
        .replies(101, Payload::Nothing)
        .by_leader()
        .takes_over(),
        e(
            Method::POST,
            "/v1/namespaces/{namespace}/volumes/{volume}/restore",
            DEVELOPER,
            post(volumes::restore),
            "Replace what a volume holds, which no instance has: the connection then carries frames with a tar archive in stdin, whose end is an empty one",
        )
        .headers(EXEC)
        .replies(101, Payload::Nothing)
        .by_leader()
        .takes_over(),
    ]
}

fn about_apps() -> Vec<Endpoint> {
    let e = Endpoint::new;
    vec![
        e(Method::GET, app!(""), VIEWER, get(apps::show), "One app")
            .replies(200, json::<AppInfo>())
            .by_leader()
            .with_etag(),
        e(Method::DELETE, app!(""), DEVELOPER, delete(apps::remove), "Delete an app and its data")
            .query(VOLUMES)
            .headers(CHANGES)
            .replies(204, Payload::Nothing)
            .or(202, "It is being deleted: open requests finish first"),
        e(
            Method::POST,
            app!("/releases"),
            DEVELOPER,
            post(releases::create),
            "Make a release and roll it out",
        )
        .headers(CHANGES_ONCE)
        .takes(json::<CreateRelease>())
        .replies(201, json::<Deployed>()),
        e(Method::GET, app!("/releases"), VIEWER, get(releases::list), "List releases, newest first")
            .query(PAGE_BY_NUMBER)
            .replies(200, list::<ReleaseInfo>()),
        e(Method::GET, app!("/rollouts/{rollout}"), VIEWER, get(rollouts::show), "One rollout")
            .query(ROLLOUT_WAIT)
            .replies(200, json::<RolloutInfo>())
            .by_leader(),
        e(
            Method::POST,
            app!("/rollback"),
            DEVELOPER,
            post(releases::rollback),
            "Go back to an older release",
        )
        .headers(CHANGES_ONCE)
        .takes(json::<Rollback>())
        .replies(201, json::<Deployed>()),
        e(
            Method::PUT,
            app!("/scale"),
            Access::User(Verb::Scale),
            put(settings::scale),
            "Set the number of slots",
        )
        .headers(CHANGES)
        .takes(json::<Scale>())
        .replies(200, json::<AppInfo>())
        .with_etag(),
        e(
            Method::GET,
            app!("/env"),
            DEVELOPER,
            get(settings::show_env),
            "The variables of the current release",
        )
        .replies(200, json::<Env>()),
        e(
            Method::PATCH,
            app!("/env"),
            DEVELOPER,
            patch(settings::patch_env),
            "Set or remove (null) variables",
        )
        .headers(CHANGES_ONCE)
        .takes(json::<EnvPatch>())
        .replies(201, json::<Deployed>()),
        e(Method::POST, app!("/restart"), DEVELOPER, post(settings::restart), "Replace every instance")
            .headers(CHANGES_ONCE)
            .replies(201, json::<Deployed>()),
        e(
            Method::POST,
            app!("/exec"),
            DEVELOPER,
            post(exec::start),
            "Run a command in a container of the app; the connection then carries frames of what it is told and says",
        )
        .headers(EXEC)
        .takes(json::<ExecSpec>())
        .replies(101, Payload::Nothing)
        .by_leader()
        .takes_over(),
        e(
            Method::POST,
            app!("/copy"),
            DEVELOPER,
            post(copy::start),
            "Copy files out of a container of the app, or into one: the connection then carries frames with a tar archive in stdout, or in stdin, whose end is an empty one",
        )
        .headers(EXEC)
        .takes(json::<CopySpec>())
        .replies(101, Payload::Nothing)
        .by_leader()
        .takes_over(),
        e(Method::GET, app!("/why"), VIEWER, get(apps::why), "Why the app is as it is")
            .replies(200, json::<Why>())
            .by_leader(),
        e(
            Method::GET,
            app!("/events"),
            VIEWER,
            get(events::of_app),
            "What happened to the app; a stream with `Accept: text/event-stream`",
        )
        .query(EVENTS)
        .headers(RESUMES)
        .replies(200, list::<Event>()),
        e(
            Method::GET,
            app!("/logs"),
            VIEWER,
            get(logs::show),
            "What the app printed; with `Accept: text/event-stream` also what it will print",
        )
        .query(LOGS)
        .headers(RESUMES)
        .replies(200, list::<LogRecord>())
        .by_leader(),
        e(Method::GET, app!("/watch"), VIEWER, get(watch::follow), "A stream of the app whenever it changes")
            .replies(200, Payload::Events)
            .by_leader(),
    ]
}

/// What is wished of a rollout that is under way, and of an app as a whole.
fn about_moving() -> Vec<Endpoint> {
    let wish = |path, handler, summary| {
        Endpoint::new(Method::POST, path, DEVELOPER, handler, summary)
            .headers(CHANGES)
            .replies(200, json::<RolloutInfo>())
    };
    vec![
        wish(app!("/rollout/pause"), post(rollouts::pause), "Let the rollout that is under way stand still"),
        wish(app!("/rollout/resume"), post(rollouts::resume), "Let a paused rollout go on"),
        wish(app!("/rollout/abort"), post(rollouts::abort), "Go back from the rollout that is under way"),
        Endpoint::new(
            Method::POST,
            app!("/stop"),
            DEVELOPER,
            post(settings::stop),
            "Stop every instance until the app is started",
        )
        .headers(CHANGES)
        .replies(200, json::<AppInfo>())
        .with_etag(),
        Endpoint::new(Method::POST, app!("/start"), DEVELOPER, post(settings::start), "Start a stopped app")
            .headers(CHANGES_ONCE)
            .replies(201, json::<Deployed>()),
    ]
}

macro_rules! job {
    ($rest:literal) => {
        concat!("/v1/namespaces/{namespace}/jobs", $rest)
    };
}

macro_rules! schedule {
    ($rest:literal) => {
        concat!("/v1/namespaces/{namespace}/schedules", $rest)
    };
}

fn about_jobs() -> Vec<Endpoint> {
    let e = Endpoint::new;
    let mut all = vec![
        e(
            Method::POST,
            job!(""),
            DEVELOPER,
            post(jobs::create),
            "Make a job: a command that runs to its end",
        )
        .headers(JOB_ONCE)
        .takes(json::<CreateJob>())
        .replies(201, json::<JobInfo>())
        .or(200, "The key made it before"),
        e(Method::GET, job!(""), VIEWER, get(jobs::list), "List jobs, newest first, without their runs")
            .query(PAGE_OF_JOBS)
            .replies(200, list::<JobInfo>())
            .by_leader(),
        e(
            Method::GET,
            job!("/{job}"),
            VIEWER,
            get(jobs::show),
            "One job, by its id or its name, with its runs",
        )
        .query(JOB_WAIT)
        .replies(200, json::<JobInfo>())
        .by_leader(),
        e(Method::DELETE, job!("/{job}"), DEVELOPER, delete(jobs::remove), "Forget a job that has ended")
            .replies(204, Payload::Nothing),
        e(
            Method::POST,
            job!("/{job}/cancel"),
            DEVELOPER,
            post(jobs::cancel),
            "Stop what runs of a job, and end it",
        )
        .replies(200, json::<JobInfo>()),
        e(
            Method::GET,
            job!("/{job}/logs"),
            VIEWER,
            get(jobs::logs),
            "What the job printed; with `Accept: text/event-stream` also what it will print",
        )
        .query(JOB_LOGS)
        .headers(RESUMES)
        .replies(200, list::<LogRecord>())
        .by_leader(),
    ];
    all.extend(about_schedules());
    all
}

fn about_schedules() -> Vec<Endpoint> {
    let e = Endpoint::new;
    vec![
        e(
            Method::PUT,
            schedule!("/{schedule}"),
            DEVELOPER,
            put(schedules::set),
            "Make a schedule, or give it these settings",
        )
        .headers(SCHEDULE_CHANGES)
        .takes(json::<ScheduleSpec>())
        .replies(201, json::<ScheduleInfo>())
        .with_etag()
        .or(200, "It was there before"),
        e(Method::GET, schedule!(""), VIEWER, get(schedules::list), "List schedules with their jobs")
            .query(PAGE_BY_NAME)
            .replies(200, list::<ScheduleInfo>()),
        e(Method::GET, schedule!("/{schedule}"), VIEWER, get(schedules::show), "One schedule")
            .replies(200, json::<ScheduleInfo>())
            .with_etag(),
        e(
            Method::DELETE,
            schedule!("/{schedule}"),
            DEVELOPER,
            delete(schedules::remove),
            "Remove a schedule, and cancel its jobs",
        )
        .headers(SCHEDULE_CHANGES)
        .replies(204, Payload::Nothing),
        e(
            Method::POST,
            schedule!("/{schedule}/suspend"),
            DEVELOPER,
            post(schedules::suspend),
            "Make no jobs until it is resumed",
        )
        .headers(SCHEDULE_CHANGES)
        .replies(200, json::<ScheduleInfo>())
        .with_etag(),
        e(
            Method::POST,
            schedule!("/{schedule}/resume"),
            DEVELOPER,
            post(schedules::resume),
            "Make jobs again, from the next time on",
        )
        .headers(SCHEDULE_CHANGES)
        .replies(200, json::<ScheduleInfo>())
        .with_etag(),
        e(Method::POST, schedule!("/{schedule}/run"), DEVELOPER, post(schedules::run_now), "Make a job now")
            .headers(JOB_ONCE)
            .replies(201, json::<JobInfo>())
            .or(200, "The key made it before"),
    ]
}

fn about_declared_resources() -> Vec<Endpoint> {
    let e = Endpoint::new;
    // The namespaces stand in the body: `Access::Body` asks for the role, and the handler for each namespace.
    let developer = Access::Body(Verb::Deploy);
    vec![
        e(
            Method::POST,
            "/v1/plans",
            developer,
            post(applies::plan),
            "What an apply of these resources would change; nothing is written",
        )
        .body_of(REQUEST_MAX_BYTES)
        .takes(json::<PlanRequest>())
        .replies(200, json::<Plan>()),
        e(
            Method::POST,
            "/v1/applies",
            developer,
            post(applies::apply),
            "Make resources as they are declared, all of them or none",
        )
        .body_of(REQUEST_MAX_BYTES)
        .headers(ONCE)
        .takes(json::<ApplyRequest>())
        .replies(200, json::<Applied>()),
        e(
            Method::GET,
            app!("/declaration"),
            DEVELOPER,
            get(applies::declaration),
            "The app as a resource that can be applied",
        )
        .replies(200, json::<Resource>()),
    ]
}

fn for_workers() -> Vec<Endpoint> {
    let node = |method, path, handler, summary| Endpoint::new(method, path, Access::Node, handler, summary);
    vec![
        node(Method::PUT, "/v1/nodes/{node}", put(session::register), "Start a worker's session")
            .takes(json::<NodeRegistration>())
            .replies(204, Payload::Nothing),
        node(
            Method::GET,
            "/v1/nodes/{node}/assignments",
            get(session::assignments),
            "What to run, one document a line",
        )
        .query(PROCESS)
        .replies(200, Payload::Lines),
        node(Method::POST, "/v1/nodes/{node}/reports", post(session::report), "What a worker observed")
            .takes(json::<NodeReport>())
            .replies(200, json::<ReportAnswer>())
            .replies(204, Payload::Nothing),
        node(
            Method::POST,
            "/v1/nodes/{node}/leave",
            post(session::leave),
            "A worker is about to end: what it runs starts elsewhere first",
        )
        .query(PROCESS)
        .replies(200, json::<Leaving>())
        .since(2),
        node(Method::POST, "/v1/nodes/{node}/logs", post(session::logs), "What guests printed")
            .takes(array::<LogRecord>())
            .replies(204, Payload::Nothing),
        node(
            Method::POST,
            "/v1/nodes/{node}/keyvalue",
            post(session::key_value),
            "One key-value operation of a guest",
        )
        .takes(json::<KeyValueRequest>())
        .replies(200, json::<KeyValueReply>()),
        node(
            Method::POST,
            "/v1/nodes/{node}/certificate",
            post(joining::renew),
            "Another certificate for a worker that shows the one before",
        )
        .takes(json::<CertificateRequest>())
        .replies(200, json::<NodeCertificate>()),
        node(
            Method::GET,
            "/v1/nodes/{node}/execs",
            get(exec::orders),
            "Commands to run in containers, one document a line",
        )
        .query(PROCESS)
        .replies(200, Payload::Lines)
        .since(2),
        node(
            Method::POST,
            "/v1/nodes/{node}/execs/{exec}",
            post(exec::join),
            "A worker comes for a command: frames of what it says, and of what it is told",
        )
        .takes(Payload::Octets(MEDIA_TYPE))
        .replies(200, Payload::Octets(MEDIA_TYPE))
        .since(2),
        node(
            Method::GET,
            "/v1/nodes/{node}/transfers",
            get(exec::transfers),
            "Volumes to write to archives or to fill from them, one document a line",
        )
        .query(PROCESS)
        .replies(200, Payload::Lines)
        .since(2),
        node(
            Method::POST,
            "/v1/nodes/{node}/transfers/{exec}",
            post(exec::join_transfer),
            "A worker comes for a transfer: frames of what it says, and of what it is told",
        )
        .takes(Payload::Octets(MEDIA_TYPE))
        .replies(200, Payload::Octets(MEDIA_TYPE))
        .since(2),
        node(
            Method::GET,
            "/v1/nodes/{node}/copies",
            get(exec::copies),
            "Files to copy out of containers or into them, one document a line",
        )
        .query(PROCESS)
        .replies(200, Payload::Lines)
        .since(2),
        node(
            Method::POST,
            "/v1/nodes/{node}/copies/{exec}",
            post(exec::join_copy),
            "A worker comes for a copy: frames of what it says, and of what it is told",
        )
        .takes(Payload::Octets(MEDIA_TYPE))
        .replies(200, Payload::Octets(MEDIA_TYPE))
        .since(2),
        node(Method::GET, "/v1/artifacts/{digest}", get(artifacts::download), "The bytes of an artifact")
            .replies(200, Payload::Octets("application/wasm")),
        node(
            Method::GET,
            "/v1/artifacts/{digest}/sources",
            get(artifacts::sources),
            "Which other workers have an artifact",
        )
        .replies(200, json::<ArtifactSources>())
        .since(2),
    ]
}
