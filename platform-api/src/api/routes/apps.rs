//! Routes of apps, and of what is declared.

use axum::http::Method;
use axum::routing::{delete, get, patch, post, put};
use wharf_types::api::{
    AppInfo, CreateRelease, Deployed, Env, EnvPatch, ReleaseInfo, Rollback, RolloutInfo, Scale, Verb, Why,
};
use wharf_types::copy::CopySpec;
use wharf_types::declare::change::{Applied, ApplyRequest, Plan, PlanRequest};
use wharf_types::declare::{REQUEST_MAX_BYTES, Resource};
use wharf_types::event::Event;
use wharf_types::exec::ExecSpec;
use wharf_types::log::LogRecord;

use super::{DEVELOPER, Endpoint, VIEWER};
use crate::access::Access;
use crate::api::openapi::{Payload, json, list};
use crate::api::parameters::{
    CHANGES, CHANGES_ONCE, EVENTS, EXEC, LOGS, ONCE, PAGE_BY_NUMBER, RESUMES, ROLLOUT_WAIT, VOLUMES,
};
use crate::api::{applies, apps, copy, events, exec, logs, releases, rollouts, settings, watch};

pub(super) fn about_apps() -> Vec<Endpoint> {
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
pub(super) fn about_moving() -> Vec<Endpoint> {
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

pub(super) fn about_declared_resources() -> Vec<Endpoint> {
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
