//! A service that is run to its end: `deploy.mode: replicated-job`.
//!
//! What it runs, and with what, is as for an app; what is about requests, health, volumes and rollouts is refused.

use wharf_types::declare::document::{AppDocument, ArtifactSource};
use wharf_types::job::JobSpec;
use wharf_types::name::AppName;
use wharf_types::quantity::Span;
use wharf_types::spec::{InvalidSpec, LimitsSpec, StopSpec};
use wharf_types::world::World;

use super::One;
use super::common::whole;
use super::sink::Sink;
use crate::model::RestartPolicy;
use crate::node::Place;
use crate::problem::shown;

/// One service that is run once for each change of its settings.
#[derive(Clone, Debug)]
pub struct Job {
    pub service: String,
    pub place: Place,
    pub name: AppName,
    /// What it runs: this, or an image.
    pub artifact: Option<ArtifactSource>,
    pub image: Option<String>,
    pub spec: JobSpec,
}

/// As long as a job can be kept, so that it is known that it was run.
const KEPT: Span = Span::from_secs(366 * 24 * 3600);

/// Keys that say nothing of something that ends.
const OF_APPS: [(&str, &str); 10] = [
    ("ports", "a job takes no connections"),
    ("healthcheck", "the end of a job says what became of it"),
    ("deploy.update_config", "a job is not rolled out"),
    ("deploy.rollback_config", "a job is not rolled out"),
    ("x-wharf.http", "a job takes no requests"),
    ("x-wharf.tcp", "a job takes no connections"),
    ("x-wharf.scale", "a job has as many runs as `replicas` says"),
    ("x-wharf.singleton", "a job has as many runs at once as `x-wharf.max_concurrent` says"),
    ("x-wharf.reuse", "a job takes no requests"),
    ("x-wharf.engine", "a job takes no requests"),
];

pub(super) fn is_job(one: &One<'_>) -> bool {
    one.settings.deploy.mode.as_deref() == Some("replicated-job")
}

/// `document` is what the service would be as an app.
pub(super) fn job(one: &One<'_>, document: AppDocument, sink: &mut Sink) -> Job {
    for (path, reason) in OF_APPS {
        if one.has(path) {
            let key = path.rsplit('.').next().unwrap_or(path);
            sink.problem(one.place(path), format!("`{key}`: {reason}; leave it out"));
        }
    }
    let AppDocument {
        image,
        artifact,
        env,
        secrets,
        configs,
        args,
        files,
        volumes,
        scale,
        placement,
        reserve,
        limits,
        stop,
        outbound,
        names,
        mut container,
        ..
    } = document;
    if !volumes.is_empty() || files.is_some() {
        sink.problem(one.place("volumes"), "a job has no volumes; let it ask an app that has one");
    }
    if (LimitsSpec { memory: LimitsSpec::default().memory, ..limits.clone() }) != LimitsSpec::default() {
        sink.problem(one.place("x-wharf.limits"), "of a job there is `memory` only");
    }
    let is_named = one.settings.container_name.is_some()
        || one.settings.networks.values().any(|attachment| !attachment.aliases.is_empty());
    if is_named {
        let message = format!("nobody reaches a run of the job `{}` by a name", shown(one.service));
        sink.notice(&one.node.place, message);
    }
    container.networks.values_mut().for_each(Vec::clear);
    container.health = None;
    (container.http_port, container.tcp) = (None, Default::default());
    let stop = match artifact {
        Some(_) if stop != StopSpec::default() => {
            let message = "`stop_grace_period`: a guest gets no signal, and is stopped without a warning";
            sink.notice(one.place("stop_grace_period"), message);
            StopSpec::default()
        }
        _ => stop,
    };
    let completions = scale.map_or(1, |scale| scale.replicas.first());
    let mut spec = JobSpec {
        env,
        secrets,
        configs,
        args,
        placement,
        reserve,
        memory: Some(limits.memory),
        outbound,
        names,
        container,
        stop,
        completions,
        parallelism: max_concurrent(one, sink).unwrap_or(completions),
        ttl: KEPT,
        ..JobSpec::default()
    };
    tries(one, &mut spec, sink);
    if let Err(error) = check(&spec, image.is_some()) {
        one.invalid(&error, sink);
    }
    Job {
        service: one.service.to_owned(),
        place: one.node.place.clone(),
        name: one.name.clone(),
        artifact,
        image,
        spec,
    }
}

/// Whether a component is a command is not known before it is read.
fn check(spec: &JobSpec, is_container: bool) -> Result<(), InvalidSpec> {
    let for_worker = spec.for_worker();
    spec.validate()?;
    for_worker.validate()?;
    if is_container { for_worker.validate_for(World::Container) } else { Ok(()) }
}

/// Runs at once.
pub(super) fn max_concurrent(one: &One<'_>, sink: &mut Sink) -> Option<u32> {
    let most: i64 = one.wharf("max_concurrent", sink)?;
    let place = one.place("x-wharf.max_concurrent");
    if !is_job(one) {
        sink.problem(place, "`max_concurrent` is about jobs; write `deploy: {mode: replicated-job}` as well");
        return None;
    }
    whole(most, "max_concurrent", place, sink)
}

/// How often it is tried again.
fn tries(one: &One<'_>, spec: &mut JobSpec, sink: &mut Sink) {
    const AGAIN: &str = "what has succeeded is not run again; write `on-failure`";
    let Some(policy) = &one.settings.deploy.restart_policy else {
        match one.settings.restart.as_deref() {
            None | Some("on-failure") => {}
            Some("no" | "false") => spec.retries = 0,
            Some(word) => match word.strip_prefix("on-failure:").and_then(|tries| tries.parse().ok()) {
                Some(tries) => spec.retries = tries,
                None => sink.problem(one.place("restart"), format!("`{}`: {AGAIN}", shown(word))),
            },
        }
        return;
    };
    if one.settings.restart.is_some() {
        let message = "`restart`: `deploy.restart_policy` says it, and goes before this";
        sink.notice(one.place("restart"), message);
    }
    let RestartPolicy { condition, delay, max_attempts, window } = policy;
    if let Some(delay) = *delay {
        spec.backoff = delay;
        spec.backoff_max = delay;
    }
    let place = one.place("deploy.restart_policy.max_attempts");
    match max_attempts {
        Some(0) => sink.problem(
            place,
            "`max_attempts`: 0 would be without an end; write how often a run is tried again, up to 100",
        ),
        Some(tries) => spec.retries = whole(*tries, "max_attempts", place, sink).unwrap_or_default(),
        None => {}
    }
    if window.is_some() {
        let message = "`window`: all tries of a job count, however long ago they were";
        sink.notice(one.place("deploy.restart_policy.window"), message);
    }
    match condition.as_deref() {
        Some("none") => spec.retries = 0,
        Some("any") => sink.problem(one.place("deploy.restart_policy.condition"), format!("`any`: {AGAIN}")),
        _ => {}
    }
}
