//! The table of all routes: method, path, who may, what goes in and out.
//!
//! The router and the OpenAPI document are both made from it, so neither can know a route that the other does not.

/// A path below that of an app.
macro_rules! app {
    ($rest:literal) => {
        concat!("/v1/namespaces/{namespace}/apps/{app}", $rest)
    };
}

mod apps;
mod builds;
mod jobs;
mod namespaces;
mod platform;
mod workers;

use std::sync::Arc;

use axum::http::Method;
use axum::routing::MethodRouter;
use wharf_types::api::Verb;

use super::openapi::Payload;
use super::parameters::{ONCE, Parameters};
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

pub(crate) fn endpoints() -> Vec<Endpoint> {
    let mut all = platform::about_the_platform();
    all.extend(namespaces::about_namespaces());
    all.extend(apps::about_apps());
    all.extend(apps::about_moving());
    all.extend(jobs::about_jobs());
    all.extend(apps::about_declared_resources());
    all.extend(builds::about_builds());
    all.extend(builds::for_git());
    all.extend(workers::for_workers());
    all
}
