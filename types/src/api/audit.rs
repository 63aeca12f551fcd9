//! What was changed through the API, and by whom.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::TokenId;
use crate::name::{NamespaceName, UserName};

/// `GET /v1/audit`: one change, or one that was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// Grows with every record.
    pub seq: i64,
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// The user, or the name of a token that is nobody's.
    pub actor: String,
    pub token: TokenId,
    pub token_name: String,
    pub user: Option<UserName>,
    /// Where the request came from. With something in front of the API that is the address of that.
    pub remote: Option<String>,
    /// The operation, by its id in the API's description, such as `put_namespace_app_scale`.
    pub action: String,
    /// None: it concerns the whole platform.
    pub namespace: Option<NamespaceName>,
    /// What was changed, such as `apps/hello`, `secrets/db-password` or `members/alice`.
    pub object: String,
    pub outcome: AuditOutcome,
    /// Why it was refused.
    pub detail: Option<String>,
    /// What differed before the change. No value of a variable or of a secret is in it.
    #[schema(value_type = Option<Object>)]
    pub before: Option<serde_json::Value>,
    /// What differs after it.
    #[schema(value_type = Option<Object>)]
    pub after: Option<serde_json::Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// It was carried out, or is being carried out.
    Done,
    /// The caller may not do it, or a quota is used up.
    Refused,
}

impl AuditOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}
