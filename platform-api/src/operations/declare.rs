//! Plans and applies declared resources. A plan only reads; an apply is one transaction, and refuses when what a plan looked at has
//! changed.
//!
//! An apply is checked as a plan is, without the only writer, so that a file which is refused keeps nobody from anything. The writer is
//! taken for what is left then: to see that nothing has changed since ([`declared::base`]), and to carry it out.

mod carry;
mod check;
mod load;
mod quotas;
mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use wharf_types::declare::change::{
    Action, Applied, ApplyRequest, Change, Counts, Plan, PlanError, PlanRequest,
};
use wharf_types::declare::{AppResource, Kind, Prune, RESOURCES_MAX, Resource};
use wharf_types::problem::ProblemCode;
use wharf_types::{AppName, NamespaceName, Problem, SecretName, Timestamp, TokenId};

use super::{Once, Result, app_not_found, commit, current_release, invalid_spec, problem, quota};
use crate::audit;
use crate::conditions;
use crate::context::Context;
use crate::plan::declared::{self, Live, LiveRelease, Planned};
use crate::store::apply::Found;
use crate::store::{self, Conn};

pub(crate) use turns::Turns;

/// Errors that one refusal names.
const ERRORS_TOLD: usize = 20;
/// Events among which is looked for who moved a base.
const EVENTS_SEARCHED: i64 = 1000;
/// How often an apply is checked anew because somebody was faster.
const CHECKS_MAX: usize = 5;

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct AskedApply {
    /// Name of the token.
    pub(crate) by: String,
    pub(crate) token: TokenId,
    /// Why the token cannot make a namespace. None: it can.
    pub(crate) no_namespaces: Option<Problem>,
    /// From `Idempotency-Key`.
    pub(crate) once: Option<Once>,
    pub(crate) now: Timestamp,
}

/// What an apply would do, and why it would be refused.
pub(crate) async fn plan_apply(context: &Context, asked: &AskedApply, request: &PlanRequest) -> Result<Plan> {
    check_request(&request.resources)?;
    // Whatever else there is, this could be applied nowhere: it is no request, and not a plan that fails.
    if let Some(refusal) = refusal(out_of_bounds(&request.resources)) {
        return Err(refusal.into());
    }
    let _turn = context.turns.take(&request.resources, request.prune.as_ref())?;
    let mut tx = context.store.read().await?;
    let keyring = context.secret_keys.keyring();
    let live = load::live(&mut tx, &keyring, &request.resources, request.prune.as_ref()).await?;
    let planned = declared::changes(&request.resources, request.prune.as_ref(), &live);
    let errors = check::errors(&mut tx, context, asked, &planned, &live).await?;
    let mut changes: Vec<_> = planned.into_iter().map(|planned| planned.change).collect();
    if request.with_live {
        for change in &mut changes {
            change.live = load::as_live(&change.resource, &live).map(Box::new);
        }
    }
    let base = format!("{:x}.{}", asked.now.as_microsecond(), declared::base(&live));
    Ok(Plan { base, counts: Counts::of(&changes), changes, errors })
}

/// Makes it so.
pub(crate) async fn apply(
    context: &Arc<Context>,
    asked: &AskedApply,
    request: &ApplyRequest,
) -> Result<Applied> {
    check_request(&request.resources)?;
    let turn = context.turns.take(&request.resources, request.prune.as_ref())?;
    for _ in 0..CHECKS_MAX {
        let checked = match prepare(context, asked, request).await? {
            Looked::Replied(reply) => return Ok(*reply),
            Looked::Checked(checked) => checked,
        };
        let _writing = turn.write().await?;
        let carried = Box::pin(carry_out(context, asked, request, checked)).await?;
        if let Some(applied) = carried {
            return Ok(applied);
        }
    }
    let detail = "what is declared was changed again and again while it was checked; nothing was applied: apply it again";
    problem(ProblemCode::Conflict, detail)
}

/// What was found without the writer.
enum Looked {
    /// The same request got this before.
    Replied(Box<Applied>),
    Checked(Checked),
}

/// What is to be done, as long as the base is the same.
struct Checked {
    base: String,
    planned: Vec<Planned>,
}

/// Works out what is to be done, and refuses what could not be.
async fn prepare(context: &Context, asked: &AskedApply, request: &ApplyRequest) -> Result<Looked> {
    let mut tx = context.store.read().await?;
    if let Some(reply) = replay(&mut tx, asked).await? {
        return Ok(Looked::Replied(Box::new(reply)));
    }
    let keyring = context.secret_keys.keyring();
    let live = load::live(&mut tx, &keyring, &request.resources, request.prune.as_ref()).await?;
    if let Some(base) = &request.base {
        check_base(&mut tx, base, &live).await?;
    }
    let planned = declared::changes(&request.resources, request.prune.as_ref(), &live);
    if let Some(refusal) = refusal(check::errors(&mut tx, context, asked, &planned, &live).await?) {
        return Err(refusal.into());
    }
    Ok(Looked::Checked(Checked { base: declared::base(&live), planned }))
}

/// Does it, as a whole or not at all. None: something was changed since it was checked, and nothing was done.
async fn carry_out(
    context: &Arc<Context>,
    asked: &AskedApply,
    request: &ApplyRequest,
    Checked { base, planned }: Checked,
) -> Result<Option<Applied>> {
    let mut tx = context.store.write().await?;
    if let Some(reply) = replay(&mut tx, asked).await? {
        return Ok(Some(reply));
    }
    let keyring = context.secret_keys.keyring();
    let seen = load::seen(&mut tx, &keyring, &request.resources, request.prune.as_ref()).await?;
    if declared::base(&seen) != base {
        return Ok(None);
    }
    let mut quotas = Vec::new();
    for (namespace, id) in &seen.namespaces {
        if let Some(id) = id {
            quotas.push(quota::begin(&mut tx, *id, namespace).await?);
        }
    }
    let set = request.prune.as_ref().map(|prune: &Prune| &prune.set);
    let (changes, apps) = carry::out(&mut tx, context, asked, set, planned).await?;
    for before in quotas {
        before.check(&mut tx).await?;
    }
    record(&mut tx, &changes).await?;
    let reply = Applied { counts: Counts::of(&changes), changes };
    if let Some(Once { key, request_hash }) = &asked.once {
        store::apply::put(&mut tx, asked.token, key, request_hash, &kept(&reply), asked.now).await?;
    }
    commit(context, tx, apps).await?;
    Ok(Some(reply))
}

/// Says in the audit log of each namespace what changes in it. The record of the last is written with the commit.
async fn record(conn: &mut Conn, changes: &[Change]) -> Result<()> {
    let mut by_namespace: BTreeMap<Option<&NamespaceName>, Vec<serde_json::Value>> = BTreeMap::new();
    for change in changes.iter().filter(|change| change.action != Action::Unchanged) {
        let mut said = json!({"resource": change.resource.to_string(), "action": change.action, "release": change.release});
        if change.resource.kind == Kind::Config {
            said["fields"] = json!(change.fields);
        }
        by_namespace.entry(change.resource.namespace.as_ref()).or_default().push(said);
    }
    let last = by_namespace.len();
    for (place, (namespace, said)) in by_namespace.into_iter().enumerate() {
        // What belongs to none comes first.
        if let Some(namespace) = namespace {
            audit::within(namespace);
        }
        // Values of configs may be large, and which resources changed matters more.
        audit::change(serde_json::Value::Null, audit::lightened(json!({"changes": said}), "fields"));
        if place + 1 < last {
            audit::write(conn).await?;
        }
    }
    Ok(())
}

/// What a file would say of an app as it is.
pub(crate) async fn declaration(
    context: &Context,
    namespace: &NamespaceName,
    name: &AppName,
) -> Result<Resource> {
    let mut tx = context.store.read().await?;
    let Some(app) = store::app::find(&mut tx, namespace, name).await? else {
        return Err(app_not_found(namespace, name).into());
    };
    let Some(release) = current_release(&mut tx, &app).await? else {
        return Err(super::no_release(&app).into());
    };
    let release = LiveRelease { id: release.id, artifact: release.artifact, spec: release.spec };
    let resource: AppResource = declared::as_resource(namespace, name, app.scaled_to, &release);
    Ok(Resource::App(Box::new(resource)))
}

fn check_request(resources: &[Resource]) -> Result<()> {
    if resources.is_empty() {
        let detail = "resources: there are none; to delete the apps of a set, delete them by name";
        return problem(ProblemCode::InvalidRequest, detail);
    }
    if resources.len() > RESOURCES_MAX {
        let detail =
            format!("resources: {} are more than {RESOURCES_MAX}; apply them in parts", resources.len());
        return problem(ProblemCode::TooLarge, detail);
    }
    let mut seen = std::collections::HashSet::with_capacity(resources.len());
    match resources.iter().map(Resource::id).find(|id| !seen.insert(id.clone())) {
        Some(twice) => problem(ProblemCode::InvalidSpec, format!("resources: the {twice} is declared twice")),
        None => Ok(()),
    }
}

/// What the schema of the request forbids, and its types do not.
fn out_of_bounds(resources: &[Resource]) -> Vec<PlanError> {
    let of_resource = |resource: &Resource| {
        let invalid = match resource {
            Resource::App(app) => app.spec.out_of_bounds(),
            Resource::Namespace(_) | Resource::Config(_) => Vec::new(),
        };
        let id = resource.id();
        invalid.into_iter().map(move |invalid| {
            let field = Some(invalid.path());
            let Problem { code, detail, .. } = invalid_spec(invalid);
            PlanError { resource: id.clone(), code, detail, field }
        })
    };
    resources.iter().flat_map(of_resource).collect()
}

/// The reply as it is stored: without the values of configs, which are sealed where they are kept.
fn kept(reply: &Applied) -> Applied {
    let mut kept = reply.clone();
    for change in kept.changes.iter_mut().filter(|change| change.resource.kind == Kind::Config) {
        change.fields.clear();
    }
    kept
}

/// The reply that the same request got before.
async fn replay(conn: &mut Conn, asked: &AskedApply) -> Result<Option<Applied>> {
    let Some(once) = &asked.once else { return Ok(None) };
    conditions::note_looked_up();
    match store::apply::find(conn, asked.token, &once.key, &once.request_hash).await? {
        Some(Found::Reply(reply)) => Ok(Some(*reply)),
        Some(Found::Other) => Err(once.used_otherwise().into()),
        None => Ok(None),
    }
}

/// Refuses when what the plan looked at is not as it was.
async fn check_base(conn: &mut Conn, base: &str, live: &Live) -> Result<()> {
    let parts = base.split_once('.').and_then(|(time, digest)| {
        let micros = i64::from_str_radix(time, 16).ok()?;
        Some((Timestamp::from_microsecond(micros).ok()?, digest))
    });
    let Some((planned_at, digest)) = parts else {
        let detail = "base: take it from the reply to `POST /v1/plans`, as it is";
        return problem(ProblemCode::InvalidRequest, detail);
    };
    if digest == declared::base(live) {
        return Ok(());
    }
    let what = match who_changed(conn, planned_at, live).await? {
        Some(what) => what,
        None => "something that the plan looked at was changed since then".to_owned(),
    };
    problem(ProblemCode::PreconditionFailed, format!("{what}; nothing was applied: plan again"))
}

/// The newest event since the plan that concerns one of its apps or configs, as a sentence.
async fn who_changed(conn: &mut Conn, since: Timestamp, live: &Live) -> Result<Option<String>> {
    for namespace in live.namespaces.keys() {
        for event in store::event::changes_since(conn, namespace, since, EVENTS_SEARCHED).await? {
            let Some(app) = event.app else {
                let is_of = |(of, config): &(NamespaceName, SecretName)| {
                    of == namespace && event.message.starts_with(&format!("the config {config} was "))
                };
                if live.configs.keys().any(is_of) {
                    return Ok(Some(format!(
                        "in `{namespace}`, {}, at {}, after the plan was made",
                        event.message, event.time
                    )));
                }
                continue;
            };
            let key = (namespace.clone(), app);
            let is_gone = event.kind == "app.deleted";
            if live.apps.contains_key(&key) || is_gone {
                let (_, app) = key;
                return Ok(Some(format!(
                    "the app `{app}` in `{namespace}` was changed since the plan was made, at {}: {}",
                    event.time, event.message
                )));
            }
        }
    }
    Ok(None)
}

/// All errors as one problem, with the code of the first.
fn refusal(errors: Vec<PlanError>) -> Option<Problem> {
    let code = errors.first()?.code;
    let mut told: Vec<String> = errors
        .iter()
        .take(ERRORS_TOLD)
        .map(|error| format!("{}: {}", error.resource, error.detail))
        .collect();
    if errors.len() > ERRORS_TOLD {
        told.push(format!("and {} more", errors.len() - ERRORS_TOLD));
    }
    Some(Problem::new(code, format!("{}; nothing was applied", told.join("; "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::declare::ResourceId;
    use wharf_types::declare::change::FieldChange;

    #[test]
    fn a_reply_is_kept_without_the_values_of_configs() {
        let namespace = NamespaceName::default_namespace();
        let change = |resource: ResourceId, path: &str| {
            let (before, after) = (serde_json::Value::Null, "hush".into());
            let fields = vec![FieldChange { path: path.to_owned(), before, after }];
            Change { resource, action: Action::Update, fields, live: None, release: None, rollout: None }
        };
        let config = change(ResourceId::of_config(&namespace, &"greeting".parse().unwrap()), "value");
        let app = change(ResourceId::of_app(&namespace, &"web".parse().unwrap()), "env.A");
        let changes = vec![config, app.clone()];
        let reply = Applied { counts: Counts::of(&changes), changes };
        let kept = kept(&reply);
        assert_eq!((kept.counts, &kept.changes[1]), (reply.counts, &app));
        assert_eq!(kept.changes[0].resource, reply.changes[0].resource);
        assert!(kept.changes[0].fields.is_empty());
    }

    #[test]
    fn a_refusal_names_twenty_errors_and_counts_the_rest() {
        let error = |number: usize| PlanError {
            resource: ResourceId::of_app(
                &NamespaceName::default_namespace(),
                &format!("app-{number}").parse().unwrap(),
            ),
            code: ProblemCode::InvalidSpec,
            detail: "no".to_owned(),
            field: None,
        };
        let refusal = refusal((0..25).map(error).collect()).unwrap();
        assert!(
            refusal.detail.contains("app default/app-19: no; and 5 more; nothing was applied"),
            "{refusal}"
        );
        assert!(!refusal.detail.contains("app-20"));
        assert!(super::refusal(Vec::new()).is_none());
    }
}
