//! Nodes, and how hosts become nodes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{NodeId, TokenId};
use crate::quantity::Span;

/// `GET /v1/nodes`, and `GET /v1/nodes/{node}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeInfo {
    pub id: NodeId,
    pub hostname: String,
    /// Whether it was heard of lately; nothing is placed on one that was not.
    pub ready: bool,
    /// Whether it is to be emptied: what is on it moves to others, and nothing new is placed on it.
    #[serde(default)]
    pub draining: bool,
    pub instances: u64,
    pub memory_bytes: u64,
    pub cpus: u32,
    pub version: String,
    /// What constraints of an app's placement look at, as are the next three. Those that an admin has set count before the worker's own.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub arch: String,
    #[serde(default)]
    pub role: String,
    /// Where other nodes reach it, such as `10.0.0.7:7072`. None: it takes no requests from others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: Timestamp,
}

/// `PATCH /v1/nodes/{node}`: what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodePatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
    /// Labels to set; null takes back what an admin has set, so that the worker's own counts again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
}

/// The answer to `POST /v1/nodes/{node}/leave`: how far the node is from being empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Leaving {
    /// Instances and runs of jobs that are there, and do not have to stay where they are. 0 also where no other node is ready: nothing is
    /// gained by waiting then.
    pub instances: u64,
}

/// The header field in which a worker says which CAs it believes, and the control plane which it should: where the two differ the worker
/// renews its certificate.
pub const AUTHORITIES_HEADER: &str = "wharf-authorities";

/// The header field in which the control plane says to a worker where its servers are, such as `10.0.0.1:7071,10.0.0.2:7071`. A worker that
/// joined when there were others goes there, too.
pub const SERVERS_HEADER: &str = "wharf-servers";

/// `GET /v1/authorities`: a CA of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuthorityInfo {
    /// The SHA-256 of its certificate, as in join tokens.
    pub id: String,
    pub state: AuthorityState,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Since when it is in this state.
    #[schema(value_type = String, format = DateTime)]
    pub changed_at: Timestamp,
    /// Nodes that have to take something up before it goes on: of one that is coming, and of one that is going.
    pub waits_for: Vec<NodeId>,
    /// Whether those of them that are silent are not waited for.
    pub forced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityState {
    /// Believed, and signs nothing yet.
    Next,
    Signs,
    /// Believed, and signs nothing any more.
    Old,
}

/// `POST /v1/authorities`: another CA is to take the place of the one that signs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateAuthority {
    /// Waits for no node that is silent: it has to join again when it is back. Also of a rotation that is under way.
    #[serde(default)]
    pub force: bool,
}

/// `GET /v1/servers`: one of those that make up the control plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ServerInfo {
    /// Tells it from others on the same database; empty where there can be none.
    pub id: String,
    pub hostname: String,
    /// Where workers reach it, such as `10.0.0.1:7071`. Empty: it takes none.
    pub address: String,
    pub version: String,
    /// Whether it was there in the last seconds.
    pub ready: bool,
    /// Whether it plans and speaks with workers. The others hand it what only it can answer.
    pub leads: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub leads_since: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: Timestamp,
}

/// `POST /v1/join-tokens`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinToken {
    /// How long it lets hosts in; an hour if it is left out, and 30 days at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Span>,
    /// How many hosts; one if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// Lets this node back in, whose certificate has run out, and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// What the hosts are then, for placement: `node.role`. See [`is_node_role`](crate::node::is_node_role). `worker`, or what the node was,
    /// if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether nothing is placed on the hosts until somebody has looked at them and takes that back (`wharf node resume`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CreatedJoinToken {
    pub id: TokenId,
    /// For `wharf worker --join`. It is shown once.
    pub token: String,
    /// Where the control plane takes workers, as far as it knows.
    pub address: String,
    pub uses: u32,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// `GET /v1/join-tokens`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JoinTokenInfo {
    pub id: TokenId,
    pub node: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether hosts that come with it are to be resumed before anything is placed on them.
    #[serde(default)]
    pub drained: bool,
    pub uses_left: u32,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// `POST /v1/join`, with a join token's secret, and `POST /v1/nodes/{node}/certificate`, with the certificate before. To join again with the
/// same token and the same key makes the same node, and takes no other use of the token: the answer may have been lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateRequest {
    /// PKCS #10 in PEM. Only the key of it counts.
    pub request: String,
}

/// What a node is from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeCertificate {
    pub node: NodeId,
    /// In PEM; of a day.
    pub certificate: String,
    /// The CAs of the cluster, in PEM.
    pub authorities: String,
}
