//! Who there is and what they may: roles and verbs, users, members of namespaces, tokens.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::TokenId;
use crate::name::{NamespaceName, UserName};

/// What a token, or a member of a namespace, may do; each role may do what the ones before it may.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Deploys.
    Developer,
    /// Everything.
    Admin,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Developer => "developer",
            Self::Admin => "admin",
        }
    }
}

/// What a route is for. Each route of the API has one, which says what role it needs, and a token can be limited to some of them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Looks at everything but the values of variables.
    Read,
    /// Pushes, deploys, rolls back, restarts and deletes; reads and changes variables.
    Deploy,
    /// Sets the number of instances.
    Scale,
    /// Sets and removes secrets.
    Secrets,
    /// Members, quotas, namespaces, users.
    Admin,
}

impl Verb {
    pub const ALL: [Self; 5] = [Self::Read, Self::Deploy, Self::Scale, Self::Secrets, Self::Admin];

    /// The least role that may do it.
    pub fn role(self) -> Role {
        match self {
            Self::Read => Role::Viewer,
            Self::Deploy | Self::Scale | Self::Secrets => Role::Developer,
            Self::Admin => Role::Admin,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Scale => "scale",
            Self::Secrets => "secrets",
            Self::Admin => "admin",
        }
    }
}

/// `GET /v1/whoami`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhoAmI {
    pub token: TokenId,
    pub name: String,
    /// Whose the token is. None: nobody's.
    #[serde(default)]
    pub user: Option<UserName>,
    /// Of a user's token: the most that it may do, whatever role the user has in a namespace.
    pub role: Role,
    /// None: every namespace, or every one that the user is a member of.
    pub namespace: Option<NamespaceName>,
    /// What the token is limited to. Empty: nothing but its role limits it.
    #[serde(default)]
    pub verbs: Vec<Verb>,
    /// Of a user's token: the namespaces that it reaches, and as what.
    #[serde(default)]
    pub memberships: Vec<Membership>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Version of the control plane.
    pub version: String,
    /// Where the ingress answers, such as `http://127.0.0.1:8080`.
    pub http: String,
}

/// `POST /v1/tokens`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// 1 to 80 printable characters.
    #[schema(
        max_length = 80,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub name: String,
    /// Whose it is to be. None: the caller's own where the caller is a user, else nobody's.
    #[serde(default)]
    pub user: Option<UserName>,
    /// None: `developer`; of a user's token: whatever the user is.
    #[serde(default)]
    pub role: Option<Role>,
    /// None: every namespace.
    #[serde(default)]
    pub namespace: Option<NamespaceName>,
    /// Empty: everything that the role may do.
    #[serde(default)]
    pub verbs: Vec<Verb>,
    /// None: 90 days.
    #[serde(default)]
    pub expires_in: Option<crate::quantity::Span>,
}

/// The only reply that holds a token's secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CreatedToken {
    pub id: TokenId,
    pub name: String,
    /// The bearer token. It is shown once, and kept as a hash only.
    pub secret: String,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// `GET /v1/tokens`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenInfo {
    pub id: TokenId,
    pub name: String,
    /// Whose it is. None: nobody's.
    #[serde(default)]
    pub user: Option<UserName>,
    /// Of a user's token: the most that it may do, whatever role the user has in a namespace.
    pub role: Role,
    pub namespace: Option<NamespaceName>,
    /// What it is limited to. Empty: nothing but its role limits it.
    #[serde(default)]
    pub verbs: Vec<Verb>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// A namespace of a user, and what the user is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Membership {
    pub namespace: NamespaceName,
    pub role: Role,
}

/// `POST /v1/users`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    pub name: UserName,
}

/// `GET /v1/users`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UserInfo {
    pub name: UserName,
    pub memberships: Vec<Membership>,
    /// How many tokens the user has.
    pub tokens: u64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// `PUT /v1/namespaces/{namespace}/members/{user}`: adds a member, or gives one another role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetMember {
    pub role: Role,
}

/// `GET /v1/namespaces/{namespace}/members`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MemberInfo {
    pub user: UserName,
    pub role: Role,
    /// When the user became a member, or got this role.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Who made it so: a user, or a token that is nobody's.
    pub by: String,
}
