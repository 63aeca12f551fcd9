//! Routes of the platform as a whole: who is who, nodes, servers, and what is recorded.

use axum::http::Method;
use axum::routing::{delete, get, patch, post};
use wharf_types::api::{
    AuditRecord, AuthorityInfo, CertificateRequest, CreateJoinToken, CreateToken, CreateUser,
    CreatedJoinToken, CreatedToken, JoinTokenInfo, NodeCertificate, NodeInfo, NodePatch, RotateAuthority,
    RotatedKey, ServerInfo, TokenInfo, UserInfo, Verb, WhoAmI,
};
use wharf_types::event::NodeEvent;

use super::{ADMIN, Endpoint};
use crate::access::Access;
use crate::api::openapi::{Payload, json, list};
use crate::api::parameters::{AUDIT, EVENTS, RESUMES, SETTINGS_CHANGES};
use crate::api::{
    audit, authorities, events, joining, meta, metrics, nodes, secrets, servers, tokens, users,
};

pub(super) fn about_the_platform() -> Vec<Endpoint> {
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
