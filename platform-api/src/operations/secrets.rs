//! Sets, removes and lists secrets, and chooses the versions that a release is made with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use wharf_types::api::{Deployed, SecretInfo, SecretSet};
use wharf_types::problem::ProblemCode;
use wharf_types::secret::{RELEASE_MAX_BYTES, SECRETS_MAX, SecretValue};
use wharf_types::spec::AppSpec;
use wharf_types::{NamespaceId, NamespaceName, Problem, SecretName, SecretVersionId, Timestamp};

use super::deploy::{New, make_release};
use super::{Asked, OperationError, Result, artifact_of, commit, deployed, problem, quota};
use crate::audit;
use crate::context::Context;
use crate::secrets::{Sealed, SecretOf};
use crate::store::app::App;
use crate::store::secret::{Pinned, SealedVersion};
use crate::store::{self, Conn};

/// The versions of a release, by the names of their secrets.
pub(super) type Pins = BTreeMap<SecretName, Pinned>;

/// Who asks, and about which secret.
#[derive(Clone, Debug)]
pub(crate) struct AskedSecret {
    pub(crate) namespace: NamespaceName,
    pub(crate) name: SecretName,
    /// Name of the token.
    pub(crate) by: String,
    pub(crate) now: Timestamp,
}

/// Makes a version, unless the secret has this value already, and a release of each app that is on another version. All of it is one
/// transaction: there is no moment at which some apps have got the new value and others cannot.
pub(crate) async fn set(
    context: &Arc<Context>,
    asked: &AskedSecret,
    value: &SecretValue,
) -> Result<SecretSet> {
    let mut tx = context.store.write().await?;
    let namespace = find_namespace(&mut tx, &asked.namespace).await?;
    let before_change = quota::begin(&mut tx, namespace, &asked.namespace).await?;
    let newest = store_value(&mut tx, context, namespace, asked, value).await?;
    let (mut apps, mut releases) = (Vec::new(), Vec::new());
    for id in store::secret::apps(&mut tx, namespace, &asked.name).await? {
        let Some(app) = store::app::get(&mut tx, id).await? else { continue };
        let released =
            if app.deleting { Ok(None) } else { move_to(&mut tx, context, &app, asked, newest).await };
        if let Some(release) = released.map_err(|error| blame(&app, error))? {
            releases.push(release);
            apps.push(id);
        }
    }
    store::secret::prune(&mut tx, namespace).await?;
    before_change.check(&mut tx).await?;
    let released: Vec<String> =
        releases.iter().map(|released| format!("{} {}", released.app, released.release)).collect();
    audit::change(Value::Null, json!({"version": newest.version, "releases": released}));
    commit(context, tx, apps).await?;
    Ok(SecretSet { name: asked.name.clone(), version: newest.version, releases })
}

/// The version that has the value from now on.
async fn store_value(
    conn: &mut Conn,
    context: &Context,
    namespace: NamespaceId,
    asked: &AskedSecret,
    value: &SecretValue,
) -> Result<Pinned> {
    let keyring = context.secret_keys.keyring();
    let before = store::secret::find(conn, namespace, &asked.name).await?;
    if let Some(before) = before.as_ref().filter(|before| keyring.open(before).as_ref() == Ok(value)) {
        return Ok(pinned(before));
    }
    if before.is_none() && store::secret::count(conn, namespace).await? >= SECRETS_MAX {
        let detail = format!(
            "the namespace `{}` has {SECRETS_MAX} secrets, which is the most; remove one that no app uses",
            asked.namespace
        );
        return problem(ProblemCode::QuotaExceeded, detail);
    }
    let id = SecretVersionId::new();
    let Some(sealed) = keyring.seal(SecretOf { namespace, id }, value) else {
        return problem(ProblemCode::Unavailable, context.secret_keys.no_key());
    };
    let version = before.map_or(1, |before| before.version + 1);
    let new = SealedVersion { id, namespace, name: asked.name.clone(), version, sealed };
    store::secret::create(conn, &new, &asked.by, asked.now).await?;
    let message = format!("the secret {} was set by {} (version {version})", asked.name, asked.by);
    store::event::append(conn, &asked.namespace, None, "secret.set", &message, asked.now).await?;
    Ok(pinned(&new))
}

/// Makes a release that differs from the current one in this version alone. None: the app is on no release, or on one that does not
/// use the secret or has this version already.
async fn move_to(
    conn: &mut Conn,
    context: &Context,
    app: &App,
    asked: &AskedSecret,
    newest: Pinned,
) -> Result<Option<Deployed>> {
    let Some(before) = app.target_release else { return Ok(None) };
    let Some(before) = store::release::get(conn, before).await? else { return Ok(None) };
    let mut secrets = store::secret::pinned(conn, &before).await?;
    match secrets.get_mut(&asked.name) {
        Some(pinned) if pinned.id != newest.id => *pinned = newest,
        _ => return Ok(None),
    }
    let artifact = artifact_of(conn, &before).await?;
    let spec = AppSpec::clone(&before.spec);
    let new = New { spec, own_env: before.own_env.clone(), secrets, artifact: &artifact, cause: "secret" };
    let asked = Asked {
        namespace: app.namespace.clone(),
        app: app.name.clone(),
        by: asked.by.clone(),
        revision: None,
        once: None,
        now: asked.now,
    };
    let (release, rollout) = make_release(conn, context, app, &asked, new).await?;
    let reply = deployed(conn, context, app, &release, &artifact, Some(&before), rollout).await?;
    Ok(Some(reply))
}

fn blame(app: &App, error: OperationError) -> OperationError {
    match error {
        OperationError::Problem(Problem { code, detail, .. }) => {
            let detail = format!(
                "the app `{}` uses the secret and cannot get a new release, so nothing was changed: {detail}",
                app.name
            );
            Problem::new(code, detail).into()
        }
        error => error,
    }
}

/// Refused while a kept release was made with it, because a rollback to that would then have nothing to give to its guests.
pub(crate) async fn remove(context: &Arc<Context>, asked: &AskedSecret) -> Result<()> {
    let mut tx = context.store.write().await?;
    let namespace = find_namespace(&mut tx, &asked.namespace).await?;
    let users = store::secret::users(&mut tx, namespace, &asked.name).await?;
    if !users.is_empty() {
        let detail = format!(
            "the secret `{}` is used by releases that are kept: {}; deploy those apps without it, and it can go when 20 newer \
             releases have taken the place of these, or delete the apps",
            asked.name,
            by_app(users)
        );
        return problem(ProblemCode::Conflict, detail);
    }
    let jobs = store::secret::jobs(&mut tx, namespace, &asked.name).await?;
    if !jobs.is_empty() {
        let detail = format!(
            "the secret `{}` is used by jobs that have not ended: {}; wait for them, or `wharf job cancel` them",
            asked.name,
            jobs.join(", ")
        );
        return problem(ProblemCode::Conflict, detail);
    }
    if !store::secret::delete(&mut tx, namespace, &asked.name).await? {
        return Err(no_secret(&asked.namespace, &asked.name).into());
    }
    let message = format!("the secret {} was removed by {}", asked.name, asked.by);
    store::event::append(&mut tx, &asked.namespace, None, "secret.removed", &message, asked.now).await?;
    commit(context, tx, []).await
}

pub(crate) async fn list(context: &Context, namespace: &NamespaceName) -> Result<Vec<SecretInfo>> {
    let mut tx = context.store.read().await?;
    let namespace = find_namespace(&mut tx, namespace).await?;
    Ok(store::secret::list(&mut tx, namespace).await?)
}

/// The newest versions of everything that these settings ask for. One that cannot be opened is refused at once: a rollout would only
/// wait for it in vain.
pub(super) async fn newest(conn: &mut Conn, context: &Context, app: &App, spec: &AppSpec) -> Result<Pins> {
    newest_of(conn, context, (app.namespace_id, &app.namespace), spec).await
}

/// The same for what is no app.
pub(super) async fn newest_of(
    conn: &mut Conn,
    context: &Context,
    (namespace, namespace_name): (NamespaceId, &NamespaceName),
    spec: &AppSpec,
) -> Result<Pins> {
    let keyring = context.secret_keys.keyring();
    let names: BTreeSet<&SecretName> = spec.secrets.values().collect();
    let mut pins = Pins::new();
    for name in names {
        let Some(newest) = store::secret::find(conn, namespace, name).await? else {
            return Err(no_secret(namespace_name, name).into());
        };
        if let Err(error) = keyring.open(&newest) {
            let detail = format!("the secret `{name}` (version {}) {error}", newest.version);
            return problem(ProblemCode::Unavailable, detail);
        }
        pins.insert(name.clone(), pinned(&newest));
    }
    Ok(pins)
}

/// What the guests of one release are given must not fill up a worker.
pub(super) fn check_size(pins: &Pins) -> Result<()> {
    let bytes: usize = pins.values().map(|pinned| pinned.bytes.saturating_sub(Sealed::OVERHEAD_BYTES)).sum();
    if bytes > RELEASE_MAX_BYTES {
        let detail = format!(
            "secrets: {bytes} bytes in all, more than {RELEASE_MAX_BYTES}, which one app can have; put large data into files"
        );
        return problem(ProblemCode::InvalidSpec, detail);
    }
    Ok(())
}

fn pinned(version: &SealedVersion) -> Pinned {
    Pinned { id: version.id, version: version.version, bytes: version.sealed.octets.len() }
}

pub(super) fn no_secret(namespace: &NamespaceName, name: &SecretName) -> Problem {
    let detail = format!(
        "there is no secret `{name}` in the namespace `{namespace}`; set it with `wharf secret set {name}`, or see `wharf secret ls`"
    );
    Problem::new(ProblemCode::NotFound, detail)
}

pub(super) async fn find_namespace(conn: &mut Conn, name: &NamespaceName) -> Result<NamespaceId> {
    match store::namespace::find(conn, name).await? {
        Some(namespace) => Ok(namespace.id),
        None => problem(ProblemCode::NotFound, format!("there is no namespace `{name}`")),
    }
}

/// Such as `hello (1, 2), shop (7)`.
fn by_app(users: Vec<(String, u64)>) -> String {
    let mut apps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (app, release) in users {
        apps.entry(app).or_default().push(release.to_string());
    }
    let apps: Vec<String> =
        apps.into_iter().map(|(app, releases)| format!("{app} ({})", releases.join(", "))).collect();
    apps.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_by_app() {
        let users = [("shop", 7), ("hello", 1), ("hello", 2)].map(|(app, release)| (app.to_owned(), release));
        assert_eq!(by_app(users.to_vec()), "hello (1, 2), shop (7)");
    }

    #[test]
    fn the_values_of_one_release_are_bounded_together() {
        let pins = |count: usize| -> Pins {
            let pinned = |bytes| Pinned { id: SecretVersionId::new(), version: 1, bytes };
            let bytes = RELEASE_MAX_BYTES / 4 + Sealed::OVERHEAD_BYTES;
            (0..count).map(|index| (format!("s{index}").parse().unwrap(), pinned(bytes))).collect()
        };
        assert!(check_size(&pins(4)).is_ok());
        assert!(check_size(&pins(5)).unwrap_err().to_string().contains("262144"));
    }
}
