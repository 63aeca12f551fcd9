//! Routes of what is pushed: builds, repositories, and what git itself asks for.

use axum::http::Method;
use axum::routing::{get, patch, post, put};
use wharf_types::api::{BuildInfo, PushPolicy, RepositoryInfo, RepositoryPatch};

use super::{ADMIN, DEVELOPER, Endpoint, VIEWER};
use crate::api::openapi::{Payload, json, list};
use crate::api::parameters::{BUILDS, RESUMES, SERVICE, SETTINGS_CHANGES};
use crate::api::{builds, git};

pub(super) fn about_builds() -> Vec<Endpoint> {
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
pub(super) fn for_git() -> Vec<Endpoint> {
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
