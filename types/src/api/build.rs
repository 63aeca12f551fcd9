//! What is pushed with git, and what becomes of it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::BuildId;
use crate::name::{AppName, NamespaceName};

/// Where a build has got to. The order is that of its life; the last three are ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BuildState {
    /// Another one of the app is under way.
    Waiting,
    Building,
    /// Its release is being rolled out.
    Deploying,
    /// Its release serves, and the branch has moved.
    Succeeded,
    /// The branch has not moved, and what ran before runs.
    Failed,
    Cancelled,
}

impl BuildState {
    pub const ALL: [Self; 6] =
        [Self::Waiting, Self::Building, Self::Deploying, Self::Succeeded, Self::Failed, Self::Cancelled];

    pub fn is_over(self) -> bool {
        self >= Self::Succeeded
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Building => "building",
            Self::Deploying => "deploying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for BuildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// `GET /v1/namespaces/{namespace}/builds/{build}`: one push, from its arrival until its release serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BuildInfo {
    pub id: BuildId,
    pub namespace: NamespaceName,
    /// The app that was deployed; for a preview its own.
    pub app: AppName,
    pub state: BuildState,
    /// The branch that was pushed to, such as `main`.
    pub branch: String,
    /// Of git, in hexadecimal digits.
    pub commit: String,
    /// The first line of the commit's message.
    pub subject: String,
    pub created_by: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// The number of the release that was made.
    pub release: Option<u64>,
    /// Why it does not serve.
    pub problem: Option<String>,
}

/// What a push does while another one of the same app is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenBusy {
    /// It waits for the other one's end.
    #[default]
    Wait,
    Fail,
}

/// `GET` and `PUT /v1/namespaces/{namespace}/push-policy`: what pushes may do there. It is set as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PushPolicy {
    /// Whether the first push to an app that is not there makes it.
    pub creates_apps: bool,
    /// Whether builds may connect to whatever the control plane's host can, itself included. Without it they reach nothing.
    pub build_network: bool,
}

impl Default for PushPolicy {
    fn default() -> Self {
        Self { creates_apps: true, build_network: false }
    }
}

/// `GET /v1/namespaces/{namespace}/apps/{app}/repository`: where to push an app, and what that does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RepositoryInfo {
    /// On this server, such as `/git/default/hello.git`.
    pub path: String,
    /// What is pushed to this branch is deployed.
    pub branch: String,
    pub when_busy: WhenBusy,
    /// The commit of that branch, which is what serves. None: nothing was pushed yet.
    pub commit: Option<String>,
    pub previews: Vec<PreviewInfo>,
}

/// `PATCH` of the same: what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RepositoryPatch {
    /// 1 to 200 octets, as git has them.
    #[schema(max_length = 200)]
    pub branch: Option<String>,
    pub when_busy: Option<WhenBusy>,
}

/// An app, or a stack, that shows what a branch would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PreviewInfo {
    /// Of a stack what that is called.
    pub app: AppName,
    /// Such as `preview/new-colours`.
    pub branch: String,
    /// When it is removed, unless it is pushed to before.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// The apps of a stack. Left out: it is one app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<AppName>,
}
