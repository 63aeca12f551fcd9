//! Makes, cancels and deletes jobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use wharf_types::job::{CreateJob, JobInfo, JobSpec, JobState, JobTemplate, Runs};
use wharf_types::problem::ProblemCode;
use wharf_types::secret::ValueKind;
use wharf_types::spec::{OutboundSpec, Priority, StopSpec};
use wharf_types::{
    AppName, JobId, JobName, NamespaceId, NamespaceName, Problem, ScheduleId, ScheduleName, SecretName,
    SecretVersionId, Timestamp,
};

use super::secrets::{check_size, find_namespace, newest_of};
use super::{
    Once, Result, app_not_found, commit_then, containers, current_release, invalid_spec, no_release,
    outbound, problem, quota,
};
use crate::conditions;
use crate::context::Context;
use crate::plan::job::Ending;
use crate::quota::Demand;
use crate::store::artifact::Artifact;
use crate::store::job::{Job, NewJob};
use crate::store::{self, Conn, Tx};
use crate::view;

/// Jobs of a namespace that have not ended.
const LIVE_MAX: u64 = 1000;
/// Jobs of a namespace that are kept.
const KEPT_MAX: u64 = 10_000;

/// Who asks, and whether for a second time.
#[derive(Clone, Debug)]
pub(crate) struct AskedJob {
    pub(crate) namespace: NamespaceName,
    /// Name of the token.
    pub(crate) by: String,
    pub(crate) once: Option<Once>,
    /// Whether what is asked for may be more than a cluster admin has allowed the namespace: one asks.
    pub(crate) any_rights: bool,
    pub(crate) now: Timestamp,
}

/// Returns the job, and whether it is new.
pub(crate) async fn create(
    context: &Arc<Context>,
    asked: &AskedJob,
    request: CreateJob,
) -> Result<(JobInfo, bool)> {
    let mut tx = context.store.write().await?;
    let namespace = find_namespace(&mut tx, &asked.namespace).await?;
    if let Some(job) = made_before(&mut tx, namespace, asked).await? {
        return Ok((view::job::complete(&mut tx, job).await?.info(context, true), false));
    }
    let of_app = request.job.app.clone().map(JobName::from);
    let name = match request.name.or(of_app) {
        Some(name) => name,
        None => "job".parse().map_err(|_| Problem::new(ProblemCode::Internal, "`job` is a name"))?,
    };
    let made = Making { namespace, asked, name: &name, schedule: None };
    let id = make(&mut tx, context, &made, &request.job).await?;
    let Some(loaded) = view::job::load(&mut tx, id).await? else {
        return problem(ProblemCode::Conflict, "the job went away while it was made; try again");
    };
    let info = loaded.info(context, true);
    commit_jobs(context, tx, [id]).await?;
    Ok((info, true))
}

/// The job that the same request made.
pub(super) async fn made_before(
    conn: &mut Conn,
    namespace: NamespaceId,
    asked: &AskedJob,
) -> Result<Option<Job>> {
    let Some(Once { key, request_hash }) = &asked.once else { return Ok(None) };
    conditions::note_looked_up();
    let Some(job) = store::job::find_by_token(conn, namespace, key).await? else { return Ok(None) };
    if job.request_hash.as_ref() == Some(request_hash) {
        return Ok(Some(job));
    }
    let detail = format!(
        "the Idempotency-Key `{key}` made the job {} ({}) of another request; choose a new one",
        job.name, job.id
    );
    problem(ProblemCode::Conflict, detail)
}

/// What a job is made for, beside its template.
pub(crate) struct Making<'a> {
    pub(crate) namespace: NamespaceId,
    pub(crate) asked: &'a AskedJob,
    pub(crate) name: &'a JobName,
    pub(crate) schedule: Option<(ScheduleId, &'a ScheduleName, Option<Timestamp>)>,
}

/// Writes a new job, if it can run.
pub(crate) async fn make(
    conn: &mut Conn,
    context: &Context,
    making: &Making<'_>,
    template: &JobTemplate,
) -> Result<JobId> {
    let Making { namespace, asked, name, schedule } = *making;
    let (all, live) = store::job::count(conn, namespace).await?;
    if live >= LIVE_MAX || all >= KEPT_MAX {
        let detail = format!(
            "the namespace `{}` has {live} jobs that have not ended ({LIVE_MAX} is the most) and {all} in all ({KEPT_MAX}); \
             wait for some, or `wharf job delete` some that have ended",
            asked.namespace
        );
        return problem(ProblemCode::QuotaExceeded, detail);
    }
    let settled = settle(conn, context, namespace, &asked.namespace, template).await?;
    // That of a schedule's jobs was looked at when it was set.
    if schedule.is_none() && !asked.any_rights {
        settled.check_priority(conn, (namespace, &asked.namespace), None).await?;
        settled.check_outbound(conn, (namespace, &asked.namespace), None).await?;
    }
    let Settled { artifact, app, release, spec, secrets, priority_of_app: _, outbound_of_app: _ } = settled;
    let runs = spec.parallelism.min(spec.completions);
    let demand = Demand { replicas: runs, ..quota::demand(&spec.for_worker(), artifact.world) };
    quota::room_for_job(conn, namespace, &asked.namespace, &demand).await?;
    let id = JobId::new();
    let new = NewJob {
        id,
        namespace,
        name,
        artifact: artifact.digest,
        app: app.as_ref(),
        release,
        spec: &spec,
        secrets: &secrets,
        token: asked.once.as_ref().map(|once| (once.key.as_str(), once.request_hash.as_str())),
        schedule,
        created_by: &asked.by,
        demand,
    };
    store::job::create(conn, &new, asked.now).await?;
    let for_what = match schedule {
        Some((_, schedule, Some(planned_at))) => format!("the schedule {schedule} for {planned_at}"),
        Some((_, schedule, None)) => format!("{} by the schedule {schedule}", asked.by),
        None => asked.by.clone(),
    };
    let message = format!("the job {name} ({id}) of {} was made by {for_what}", artifact.digest.short());
    store::event::append(conn, &asked.namespace, app.as_ref(), "job.created", &message, asked.now).await?;
    Ok(id)
}

/// A template with all that it refers to.
pub(crate) struct Settled {
    artifact: Artifact,
    app: Option<AppName>,
    release: u64,
    spec: JobSpec,
    secrets: BTreeMap<String, SecretVersionId>,
    /// Of the app whose task it is.
    priority_of_app: Option<Priority>,
    outbound_of_app: Option<OutboundSpec>,
}

impl Settled {
    /// Refuses private destinations that the namespace may not be granted. `has`: the settings that the jobs have so far.
    pub(super) async fn check_outbound(
        &self,
        conn: &mut Conn,
        (id, name): (NamespaceId, &NamespaceName),
        has: Option<&OutboundSpec>,
    ) -> Result<()> {
        let has: Vec<&OutboundSpec> = has.into_iter().chain(&self.outbound_of_app).collect();
        outbound::check(conn, (Some(id), name), &has, &self.spec.for_worker().outbound).await
    }

    /// Refuses a priority that the namespace may not give. `has`: what the jobs have so far.
    pub(super) async fn check_priority(
        &self,
        conn: &mut Conn,
        whose: (NamespaceId, &NamespaceName),
        has: Option<Priority>,
    ) -> Result<()> {
        let has = has.max(self.priority_of_app);
        quota::check_priority(conn, whose, has, self.spec.placement.priority).await
    }
}

/// Finds what a template refers to now, and checks that it can run.
pub(crate) async fn settle(
    conn: &mut Conn,
    context: &Context,
    namespace: NamespaceId,
    namespace_name: &NamespaceName,
    template: &JobTemplate,
) -> Result<Settled> {
    let mut of_app = None;
    if let Some(name) = &template.app {
        let Some(app) = store::app::find(conn, namespace_name, name).await? else {
            return Err(app_not_found(namespace_name, name).into());
        };
        let Some(current) = current_release(conn, &app).await? else { return Err(no_release(&app).into()) };
        of_app = Some(current);
    }
    let Some(digest) = template.artifact.or(of_app.as_ref().map(|release| release.artifact)) else {
        return problem(
            ProblemCode::InvalidSpec,
            "artifact: a job needs one, or an app whose artifact it runs",
        );
    };
    let Some(artifact) = store::artifact::find(conn, namespace, digest).await? else {
        let detail = format!("the namespace `{namespace_name}` has no artifact {digest}; push it first");
        return problem(ProblemCode::NotFound, detail);
    };
    let mut spec = template.spec.clone();
    if let (Some(name), Some(current)) = (&template.app, &of_app) {
        let runs = match artifact.world.is_container() {
            false => Runs::Guest,
            true if digest == current.artifact => Runs::AppsImage,
            true => Runs::OtherImage,
        };
        if runs == Runs::Guest && !current.spec.volumes.is_empty() {
            let detail = format!(
                "the app `{name}` has volumes, and its tasks cannot have them yet; give the job an artifact of its own"
            );
            return problem(ProblemCode::InvalidSpec, detail);
        }
        spec = spec.or_of_app(&current.spec, runs);
    }
    let priority_of_app = of_app.as_ref().map(|release| release.spec.placement.priority);
    let outbound_of_app = of_app.as_ref().map(|release| release.spec.outbound.clone());
    let release = of_app.map_or(0, |release| release.number);
    check(&artifact, &spec, template)?;
    if let Some(files) = &spec.files
        && store::archive::find(conn, namespace, files.digest).await?.is_none()
    {
        let detail =
            format!("the namespace `{namespace_name}` has no files {}; push them first", files.digest);
        return problem(ProblemCode::NotFound, detail);
    }
    let for_worker = spec.for_worker();
    containers::check(conn, (Some(namespace), namespace_name), artifact.world, &for_worker).await?;
    quota::check_processors(conn, (namespace, namespace_name), artifact.world, &for_worker).await?;
    let pins = newest_of(conn, context, (namespace, namespace_name), &for_worker).await?;
    check_size(&pins)?;
    let pin =
        |(variable, name, _): (&String, &SecretName, ValueKind)| Some((variable.clone(), pins.get(name)?.id));
    let secrets = for_worker.values().filter_map(pin).collect();
    Ok(Settled {
        artifact,
        app: template.app.clone(),
        release,
        spec,
        secrets,
        priority_of_app,
        outbound_of_app,
    })
}

fn check(artifact: &Artifact, spec: &JobSpec, template: &JobTemplate) -> Result<()> {
    let for_worker = spec.for_worker();
    let valid = spec
        .validate()
        .and_then(|()| for_worker.validate())
        .and_then(|()| for_worker.validate_for(artifact.world));
    valid.map_err(invalid_spec)?;
    if !artifact.world.is_container() && template.spec.stop != StopSpec::default() {
        let detail =
            "stop: a guest of WebAssembly gets no signal, and is stopped without a warning; leave it out";
        return problem(ProblemCode::InvalidSpec, detail);
    }
    if artifact.world.is_http() {
        let detail = format!(
            "the artifact {} answers requests and never ends; a job runs a command. For a task of an app that answers requests, name a command with its artifact",
            artifact.digest.short()
        );
        return problem(ProblemCode::InvalidSpec, detail);
    }
    if template.app.is_none() && artifact.imports.iter().any(|import| import.starts_with("wasi:keyvalue")) {
        let detail =
            "the artifact uses key-value data, which belongs to apps; name the app whose data it is to be";
        return problem(ProblemCode::InvalidSpec, detail);
    }
    Ok(())
}

/// The job that is meant by an id or a name: of several with that name the newest.
pub(crate) async fn find(conn: &mut Conn, namespace: &NamespaceName, text: &str) -> Result<Job> {
    if let Some(job) = store::job::find(conn, namespace, text).await? {
        return Ok(job);
    }
    find_namespace(conn, namespace).await?;
    let shown: String = text.chars().take(60).collect::<String>().escape_debug().to_string();
    problem(
        ProblemCode::NotFound,
        format!(
            "there is no job `{shown}` in the namespace `{namespace}`, or no longer; `wharf job ls` lists them"
        ),
    )
}

/// Cancelling what has ended, or is to end, changes nothing.
pub(crate) async fn cancel(context: &Arc<Context>, asked: &AskedJob, job: &str) -> Result<JobInfo> {
    let mut tx = context.store.write().await?;
    let job = find(&mut tx, &asked.namespace, job).await?;
    let ending = Ending { state: JobState::Cancelled, reason: Some(format!("{} cancelled it", asked.by)) };
    store::job::end(&mut tx, job.id, &ending).await?;
    let id = job.id;
    let Some(loaded) = view::job::load(&mut tx, id).await? else {
        return problem(ProblemCode::NotFound, format!("the job {id} is gone"));
    };
    let info = loaded.info(context, true);
    commit_jobs(context, tx, [id]).await?;
    Ok(info)
}

/// Forgets a job that has ended, with what it printed.
pub(crate) async fn delete(context: &Arc<Context>, asked: &AskedJob, job: &str) -> Result<()> {
    let mut tx = context.store.write().await?;
    let job = find(&mut tx, &asked.namespace, job).await?;
    if !store::job::delete(&mut tx, job.id).await? {
        let detail =
            format!("the job {} ({}) has not ended; `wharf job cancel {}` ends it", job.name, job.id, job.id);
        return problem(ProblemCode::Conflict, detail);
    }
    let message = format!("the job {} ({}) was deleted by {}", job.name, job.id, asked.by);
    store::event::append(&mut tx, &asked.namespace, job.app.as_ref(), "job.deleted", &message, asked.now)
        .await?;
    let namespace = asked.namespace.clone();
    commit_then(context, tx, move |context| {
        context.jobs_changed([job.id]);
        let context = context.clone();
        tokio::spawn(async move { context.logs.remove(&namespace, job.id).await });
    })
    .await
}

/// Like [`super::commit`], for jobs.
async fn commit_jobs(context: &Arc<Context>, tx: Tx, jobs: impl IntoIterator<Item = JobId>) -> Result<()> {
    let jobs: Vec<JobId> = jobs.into_iter().collect();
    commit_then(context, tx, move |context| context.jobs_changed(jobs)).await
}
