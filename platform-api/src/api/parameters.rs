//! Parameters of requests: what each is for, and what it may be. The table of routes names them, the OpenAPI document describes them.

use serde_json::{Value, json};

use super::openapi::reference;

/// A parameter of the query, or a header field.
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(super) about: &'static str,
    pub(super) shape: Shape,
}

pub(crate) type Parameters = &'static [Parameter];

/// What a parameter may be.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Text,
    Number,
    /// Such as `30s`.
    Span,
    Time,
    /// Something that has a schema of its own.
    Named(&'static str),
    OneOf(&'static [&'static str]),
    /// The cursor of a list in the order of names.
    AfterName,
    /// An `ETag` of a reply.
    Revision,
    Key,
}

const fn parameter(name: &'static str, about: &'static str, shape: Shape) -> Parameter {
    Parameter { name, about, shape }
}

const IF_MATCH: Parameter = parameter(
    "If-Match",
    "Only if this still is the `ETag` of the app; else 412 `precondition_failed`",
    Shape::Revision,
);
const IDEMPOTENCY_KEY: Parameter = parameter(
    "Idempotency-Key",
    "A repetition with the same key gets the first reply, for a day, and changes nothing",
    Shape::Key,
);
pub(super) const CHANGES: Parameters = &[IF_MATCH];
pub(super) const CHANGES_ONCE: Parameters = &[IF_MATCH, IDEMPOTENCY_KEY];
pub(super) const ONCE: Parameters = &[parameter(
    "Idempotency-Key",
    "A repetition with the same key by the same token gets the first reply, for a day, and changes nothing",
    Shape::Key,
)];
pub(super) const JOB_ONCE: Parameters = &[parameter(
    "Idempotency-Key",
    "A repetition with the same key gets the same job, also after its end, for as long as it is kept",
    Shape::Key,
)];
pub(super) const SCHEDULE_CHANGES: Parameters = &[parameter(
    "If-Match",
    "Only if this still is the `ETag` of the schedule; else 412 `precondition_failed`",
    Shape::Revision,
)];
pub(super) const VALUE_CHANGES: Parameters = &[parameter(
    "If-Match",
    "Only if this still is the version of the secret or config, in quotation marks; else 412 `precondition_failed`",
    Shape::Revision,
)];
/// Of what has no revisions that are counted.
pub(super) const SETTINGS_CHANGES: Parameters = &[parameter(
    "If-Match",
    "Only if this still is the `ETag` of a GET of this address; else 412 `precondition_failed`",
    Shape::Revision,
)];
pub(super) const EXEC: Parameters = &[parameter(
    "Upgrade",
    "What the connection becomes, together with `Connection: Upgrade`; without it 400",
    Shape::OneOf(&[wharf_types::exec::PROTOCOL]),
)];
pub(super) const CONFIG: Parameters =
    &[parameter("version", "One that is kept; the newest if it is left out", Shape::Number)];
pub(super) const RESUMES: Parameters =
    &[parameter("Last-Event-ID", "For a stream: the id of the last event that was seen", Shape::Number)];

const fn cursor(shape: Shape) -> Parameter {
    parameter("cursor", "Continue a list: the `next_cursor` of the page before", shape)
}
const TAIL: Parameter = parameter("tail", "How many of the newest records; 100 if left out", Shape::Number);
pub(super) const PAGE_BY_NUMBER: Parameters = &[cursor(Shape::Number)];
pub(super) const PAGE_BY_NAME: Parameters = &[cursor(Shape::AfterName)];
pub(super) const PAGE_OF_JOBS: Parameters = &[cursor(Shape::Named("JobId"))];
pub(super) const PROCESS: Parameters = &[parameter(
    "process",
    "Which process of the worker asks: the one that has registered last",
    Shape::Named("ProcessId"),
)];
pub(super) const EVENTS: Parameters = &[
    parameter("after", "Events with a greater `seq`; 0 is all that are kept", Shape::Number),
    cursor(Shape::Number),
];
pub(super) const AUDIT: Parameters = &[
    parameter(
        "namespace",
        "Only of this namespace; admins of one namespace have to name it",
        Shape::Named("NamespaceName"),
    ),
    parameter("actor", "Only of this user, or of tokens of this name that are nobody's", Shape::Text),
    parameter("object", "Only of this, such as `apps/hello`", Shape::Text),
    parameter("after", "Only what happened after this time, such as `2026-01-31T12:00:00Z`", Shape::Time),
    cursor(Shape::Number),
];
pub(super) const BUILDS: Parameters =
    &[parameter("app", "Only of this app", Shape::Named("AppName")), cursor(Shape::Named("BuildId"))];
pub(super) const SERVICE: Parameters =
    &[parameter("service", "Which of git's two", Shape::OneOf(&["git-upload-pack", "git-receive-pack"]))];
pub(super) const VOLUMES: Parameters = &[parameter(
    "volumes",
    "`remove`: also what is in its volumes; `keep`, the default: that is kept",
    Shape::OneOf(&["keep", "remove"]),
)];
pub(super) const ROLLOUT_WAIT: Parameters = &[parameter(
    "wait",
    "Reply when the state is at least `monitoring`, when the rollout is paused, or after this long, such as `30s`",
    Shape::Span,
)];
pub(super) const JOB_WAIT: Parameters =
    &[parameter("wait", "Reply when it has ended, or after this long, such as `30s`", Shape::Span)];
pub(super) const JOB_LOGS: Parameters = &[TAIL];
pub(super) const LOGS: Parameters =
    &[TAIL, parameter("since_release", "Only of this release and newer ones", Shape::Number)];

impl Shape {
    fn schema(self) -> Value {
        match self {
            Self::Text => json!({"type": "string"}),
            Self::Number => json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": u64::MAX}),
            Self::Span => reference("Span"),
            Self::Time => json!({"type": "string", "format": "date-time"}),
            Self::Named(name) => reference(name),
            Self::OneOf(words) => json!({"type": "string", "enum": words}),
            Self::AfterName => {
                json!({"type": "string", "pattern": "^after:[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"})
            }
            Self::Revision => json!({"anyOf": [
                {"type": "string", "const": "*"},
                {"type": "string", "pattern": "^\"[0-9]{1,18}\"$"},
            ]}),
            Self::Key => json!({"type": "string", "pattern": "^[!-~]([ -~]{0,198}[!-~])?$"}),
        }
    }
}

impl Parameter {
    pub(super) fn describe(&self, place: &str) -> Value {
        json!({"name": self.name, "in": place, "description": self.about, "schema": self.shape.schema()})
    }
}

/// A part of a path, by its name in the table of routes.
pub(super) fn of_path(name: &str) -> Value {
    let schema = match name {
        "namespace" => reference("NamespaceName"),
        "app" => reference("AppName"),
        "digest" => reference("Digest"),
        "rollout" => reference("RolloutId"),
        "secret" | "config" => reference("SecretName"),
        "volume" => reference("VolumeId"),
        "schedule" => reference("ScheduleName"),
        "user" => reference("UserName"),
        "token" => reference("TokenId"),
        "node" => reference("NodeId"),
        "build" => reference("BuildId"),
        // By its id or its name.
        "job" => json!({"anyOf": [reference("JobId"), reference("JobName")]}),
        _ => json!({"type": "string"}),
    };
    json!({"name": name, "in": "path", "required": true, "schema": schema})
}
