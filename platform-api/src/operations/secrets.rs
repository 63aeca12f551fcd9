//! Sets, removes and lists secrets and configs, and chooses the versions that a release is made with.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};
use wharf_types::api::{ConfigValue, SecretInfo, SecretSet};
use wharf_types::problem::ProblemCode;
use wharf_types::secret::{RELEASE_MAX_BYTES, SECRETS_MAX, SecretValue, ValueKind};
use wharf_types::spec::AppSpec;
use wharf_types::{
    AppId, Digest, NamespaceId, NamespaceName, Problem, ReleaseId, SecretName, SecretVersionId, Timestamp,
};

use super::releases::{self, By, Made, New, Refused};
use super::{OperationError, Result, artifact_of, commit, deployed, problem, quota};
use crate::audit;
use crate::conditions;
use crate::context::Context;
use crate::secrets::{Sealed, SecretOf};
use crate::store::app::App;
use crate::store::artifact::Artifact;
use crate::store::release::Release;
use crate::store::secret::{Pinned, SealedVersion};
use crate::store::{self, Conn};

/// The versions of a release, by the names of their secrets.
pub type Pins = BTreeMap<SecretName, Pinned>;

/// Who asks, and about which secret or config.
#[derive(Clone, Debug)]
pub(crate) struct AskedSecret {
    pub(crate) namespace: NamespaceName,
    pub(crate) name: SecretName,
    pub(crate) kind: ValueKind,
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
    let (newest, before) = store_value(&mut tx, context, namespace, asked, value).await?;
    let (mut apps, mut releases) = (Vec::new(), Vec::new());
    let moved_to = HashMap::from([(namespace, Pins::from([(asked.name.clone(), newest)]))]);
    let by = By { who: &asked.by, cause: asked.kind.as_str(), any_rights: true, now: asked.now };
    let users = store::secret::apps(&mut tx, namespace, &asked.name).await?;
    let mut users = store::app::get_all(&mut tx, &users).await?;
    users.retain(|app| !app.deleting);
    users.sort_by(|one, other| one.name.cmp(&other.name));
    let users: Vec<&App> = users.iter().collect();
    let moved = Box::pin(move_all(&mut tx, context, &users, &moved_to, by)).await;
    for Moved { app, before, artifact, made } in moved.map_err(|refused| blame(&users, refused))? {
        let Made { release, rollout } = made;
        let told = deployed(&mut tx, context, app, &release, &artifact, Some(&before), rollout);
        releases.push(told.await?);
        apps.push(app.id);
    }
    store::secret::prune(&mut tx, namespace).await?;
    before_change.check(&mut tx).await?;
    let released: Vec<String> =
        releases.iter().map(|released| format!("{} {}", released.app, released.release)).collect();
    let mut after = json!({"version": newest.version, "releases": released});
    if asked.kind == ValueKind::Config {
        after["value"] = value.reveal().into();
    }
    audit::change(audit::lightened(before, "value"), audit::lightened(after, "value"));
    commit(context, tx, apps).await?;
    Ok(SecretSet { name: asked.name.clone(), version: newest.version, releases })
}

/// The version that has the value from now on, and what may be recorded of the one before.
pub(super) async fn store_value(
    conn: &mut Conn,
    context: &Context,
    namespace: NamespaceId,
    asked: &AskedSecret,
    value: &SecretValue,
) -> Result<(Pinned, Value)> {
    let keyring = context.secret_keys.keyring();
    let before = store::secret::find(conn, namespace, &asked.name).await?;
    if let Some(before) = &before {
        check_kind(&asked.name, asked.kind, before.kind)?;
    }
    let revision = before.as_ref().map(|before| revision(before.version));
    conditions::check(&format!("{} `{}`", asked.kind, asked.name), revision)?;
    let mut told = Value::Null;
    if let Some(before) = &before {
        let opened = keyring.open(before);
        if opened.as_ref() == Ok(value) {
            return Ok((pinned(before), told));
        }
        if let (Ok(opened), ValueKind::Config) = (opened, asked.kind) {
            told = json!({"version": before.version, "value": opened.reveal()});
        }
    }
    if before.is_none() && store::secret::count(conn, namespace).await? >= SECRETS_MAX {
        return Err(full(&asked.namespace).into());
    }
    let id = SecretVersionId::new();
    let Some(sealed) = keyring.seal(SecretOf { namespace, id, kind: asked.kind }, value) else {
        return problem(ProblemCode::Unavailable, context.secret_keys.no_key());
    };
    let version = before.map_or(1, |before| before.version + 1);
    let new = SealedVersion { id, namespace, name: asked.name.clone(), kind: asked.kind, version, sealed };
    store::secret::create(conn, &new, &asked.by, asked.now).await?;
    let (kind, name, by) = (asked.kind, &asked.name, &asked.by);
    let message = format!("the {kind} {name} was set by {by} (version {version})");
    store::event::append(conn, &asked.namespace, None, &format!("{kind}.set"), &message, asked.now).await?;
    Ok((pinned(&new), told))
}

/// What `If-Match` asks for: a value is another one with each version.
pub(crate) fn revision(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

/// A release that was made because values have changed.
pub(super) struct Moved<'a> {
    pub(super) app: &'a App,
    before: Release,
    artifact: Artifact,
    pub(super) made: Made,
}

/// Makes releases that differ from the current ones in these versions alone, by namespace. An app that is on no release, or on one that uses
/// none of them or has these versions already, is left out.
pub(super) async fn move_all<'a>(
    conn: &mut Conn,
    context: &Context,
    apps: &[&'a App],
    newest: &HashMap<NamespaceId, Pins>,
    by: By<'_>,
) -> std::result::Result<Vec<Moved<'a>>, Refused> {
    let targets: Vec<ReleaseId> = apps.iter().filter_map(|app| app.target_release).collect();
    let current = store::release::get_all(conn, &targets).await?;
    let mut current: HashMap<AppId, Release> =
        current.into_iter().map(|release| (release.app, release)).collect();
    let mut artifacts: HashMap<Digest, Artifact> = HashMap::new();
    let mut moving: Vec<(&'a App, Release, Artifact, Pins)> = Vec::new();
    for &app in apps {
        let (Some(before), Some(newest)) = (current.remove(&app.id), newest.get(&app.namespace_id)) else {
            continue;
        };
        let Some(secrets) = moved(&store::secret::pinned(conn, &before).await?, newest) else { continue };
        let artifact = match artifacts.get(&before.artifact) {
            Some(artifact) => artifact.clone(),
            None => {
                let artifact = artifact_of(conn, &before).await?;
                artifacts.insert(before.artifact, artifact.clone());
                artifact
            }
        };
        releases::validate(&before.spec, &artifact).map_err(|error| Refused::of(app.id, error))?;
        moving.push((app, before, artifact, secrets));
    }
    let news = moving.iter().map(as_new).collect();
    let made = releases::make_all(conn, context, by, news).await?;
    let moved = moving.into_iter().zip(made);
    Ok(moved.map(|((app, before, artifact, _), made)| Moved { app, before, artifact, made }).collect())
}

/// What a release that was made with `pins` is to be made with where these are the newest versions. None: it has them, or uses none of them.
pub fn moved(pins: &Pins, newest: &Pins) -> Option<Pins> {
    let (mut moved, mut moves) = (pins.clone(), false);
    for (name, newest) in newest {
        if let Some(pinned) = moved.get_mut(name).filter(|pinned| pinned.id != newest.id) {
            *pinned = *newest;
            moves = true;
        }
    }
    moves.then_some(moved)
}

fn as_new<'a>((app, before, artifact, secrets): &'a (&App, Release, Artifact, Pins)) -> New<'a> {
    let (spec, own_env) = (AppSpec::clone(&before.spec), before.own_env.clone());
    New { app, spec, own_env, secrets: secrets.clone(), artifact }
}

fn blame(apps: &[&App], Refused { app, error }: Refused) -> OperationError {
    let app = app.and_then(|id| apps.iter().find(|app| app.id == id));
    match (app, error) {
        (Some(app), OperationError::Problem(Problem { code, detail, .. })) => {
            let detail = format!(
                "the app `{}` uses it and cannot get a new release, so nothing was changed: {detail}",
                app.name
            );
            Problem::new(code, detail).into()
        }
        (_, error) => error,
    }
}

/// Refused while a kept release was made with it, because a rollback to that would then have nothing to give to its guests.
pub(crate) async fn remove(context: &Arc<Context>, asked: &AskedSecret) -> Result<()> {
    let mut tx = context.store.write().await?;
    let namespace = find_namespace(&mut tx, &asked.namespace).await?;
    let Some(newest) = store::secret::find(&mut tx, namespace, &asked.name).await? else {
        return Err(nothing_named(&asked.namespace, &asked.name, asked.kind).into());
    };
    check_kind(&asked.name, asked.kind, newest.kind)?;
    let users = store::secret::users(&mut tx, namespace, &asked.name).await?;
    if !users.is_empty() {
        let detail = format!(
            "the {} `{}` is used by releases that are kept: {}; deploy those apps without it, and it can go when 20 newer \
             releases have taken the place of these, or delete the apps",
            asked.kind,
            asked.name,
            by_app(users)
        );
        return problem(ProblemCode::Conflict, detail);
    }
    let jobs = store::secret::jobs(&mut tx, namespace, &asked.name).await?;
    if !jobs.is_empty() {
        let detail = format!(
            "the {} `{}` is used by jobs that have not ended: {}; wait for them, or `wharf job cancel` them",
            asked.kind,
            asked.name,
            jobs.join(", ")
        );
        return problem(ProblemCode::Conflict, detail);
    }
    store::secret::delete(&mut tx, namespace, &asked.name).await?;
    let (kind, name, by) = (asked.kind, &asked.name, &asked.by);
    let message = format!("the {kind} {name} was removed by {by}");
    let event = format!("{kind}.removed");
    store::event::append(&mut tx, &asked.namespace, None, &event, &message, asked.now).await?;
    commit(context, tx, []).await
}

pub(crate) async fn list(
    context: &Context,
    namespace: &NamespaceName,
    kind: ValueKind,
) -> Result<Vec<SecretInfo>> {
    let mut tx = context.store.read().await?;
    let namespace = find_namespace(&mut tx, namespace).await?;
    Ok(store::secret::list(&mut tx, namespace, kind).await?)
}

/// What is known of a secret, which is not its value.
pub(crate) async fn secret(
    context: &Context,
    namespace: &NamespaceName,
    name: &SecretName,
) -> Result<SecretInfo> {
    let secrets = list(context, namespace, ValueKind::Secret).await?;
    let found = secrets.into_iter().find(|secret| secret.name == *name);
    Ok(found.ok_or_else(|| nothing_named(namespace, name, ValueKind::Secret))?)
}

/// A config with its value: its newest version, or the one of this number.
pub(crate) async fn config(
    context: &Context,
    namespace: &NamespaceName,
    name: &SecretName,
    version: Option<u64>,
) -> Result<ConfigValue> {
    let mut tx = context.store.read().await?;
    let id = find_namespace(&mut tx, namespace).await?;
    let Some(newest) = store::secret::find(&mut tx, id, name).await? else {
        return Err(nothing_named(namespace, name, ValueKind::Config).into());
    };
    check_kind(name, ValueKind::Config, newest.kind)?;
    let Some(found) = store::secret::find_version(&mut tx, id, name, version).await? else {
        let detail = format!(
            "the config `{name}` has no version {} that is kept, its newest is {}; see `wharf config ls`",
            version.unwrap_or_default(),
            newest.version
        );
        return problem(ProblemCode::NotFound, detail);
    };
    match context.secret_keys.keyring().open(&found) {
        Ok(value) => {
            let value = value.reveal().to_owned();
            Ok(ConfigValue { name: name.clone(), version: found.version, value })
        }
        Err(error) => {
            let detail = format!("the config `{name}` (version {}) {error}", found.version);
            problem(ProblemCode::Unavailable, detail)
        }
    }
}

/// What a secret is now, for what is done before a release has its version.
pub(crate) async fn newest_value(
    context: &Context,
    namespace: &NamespaceName,
    name: &SecretName,
) -> Result<SecretValue> {
    let mut tx = context.store.read().await?;
    let id = find_namespace(&mut tx, namespace).await?;
    let Some(newest) = store::secret::find(&mut tx, id, name).await? else {
        return Err(nothing_named(namespace, name, ValueKind::Secret).into());
    };
    check_kind(name, ValueKind::Secret, newest.kind)?;
    context.secret_keys.keyring().open(&newest).or_else(|error| {
        problem(ProblemCode::Unavailable, format!("the secret `{name}` (version {}) {error}", newest.version))
    })
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
    namespace: (NamespaceId, &NamespaceName),
    spec: &AppSpec,
) -> Result<Pins> {
    Values::default().newest(conn, context, namespace, spec).await
}

/// The newest versions of values, each asked for and opened once, however many apps name it.
#[derive(Default)]
pub(super) struct Values(HashMap<(NamespaceId, SecretName), Option<(ValueKind, Pinned)>>);

impl Values {
    pub(super) async fn newest(
        &mut self,
        conn: &mut Conn,
        context: &Context,
        (namespace, namespace_name): (NamespaceId, &NamespaceName),
        spec: &AppSpec,
    ) -> Result<Pins> {
        let names: BTreeMap<&SecretName, ValueKind> =
            spec.values().map(|(_, name, kind)| (name, kind)).collect();
        let mut pins = Pins::new();
        for (name, kind) in names {
            let newest = self.find(conn, context, namespace, name).await?;
            if let Some(problem) = unusable(namespace_name, name, kind, newest.map(|(kind, _)| kind)) {
                return Err(problem.into());
            }
            pins.extend(newest.map(|(_, pinned)| (name.clone(), pinned)));
        }
        Ok(pins)
    }

    async fn find(
        &mut self,
        conn: &mut Conn,
        context: &Context,
        namespace: NamespaceId,
        name: &SecretName,
    ) -> Result<Option<(ValueKind, Pinned)>> {
        let key = (namespace, name.clone());
        if let Some(known) = self.0.get(&key) {
            return Ok(*known);
        }
        let newest = store::secret::find(conn, namespace, name).await?;
        if let Some(newest) = &newest
            && let Err(error) = context.secret_keys.keyring().open(newest)
        {
            let detail = format!("the {} `{name}` (version {}) {error}", newest.kind, newest.version);
            return problem(ProblemCode::Unavailable, detail);
        }
        let found = newest.map(|newest| (newest.kind, pinned(&newest)));
        self.0.insert(key, found);
        Ok(found)
    }
}

/// What the guests of one release are given must not fill up a worker.
pub(super) fn check_size(pins: &Pins) -> Result<()> {
    match too_large(pins.values().map(|pinned| value_bytes(pinned.bytes)).sum()) {
        Some(problem) => Err(problem.into()),
        None => Ok(()),
    }
}

/// Why values of so many octets cannot be those of one release.
pub(super) fn too_large(bytes: usize) -> Option<Problem> {
    let detail = || {
        format!(
            "secrets and configs: {bytes} bytes in all, more than {RELEASE_MAX_BYTES}, which one app can have; put large data into files"
        )
    };
    (bytes > RELEASE_MAX_BYTES).then(|| Problem::new(ProblemCode::InvalidSpec, detail()))
}

/// The octets of a value that is sealed.
pub(super) fn value_bytes(sealed: usize) -> usize {
    sealed.saturating_sub(Sealed::OVERHEAD_BYTES)
}

/// What is said where one more name would be too many.
pub(super) fn full(namespace: &NamespaceName) -> Problem {
    let detail = format!(
        "the namespace `{namespace}` has {SECRETS_MAX} secrets and configs, which is the most; remove one that no app uses"
    );
    Problem::new(ProblemCode::QuotaExceeded, detail)
}

fn pinned(version: &SealedVersion) -> Pinned {
    Pinned { id: version.id, version: version.version, bytes: version.sealed.octets.len() }
}

fn nothing_named(namespace: &NamespaceName, name: &SecretName, kind: ValueKind) -> Problem {
    let detail = format!(
        "there is no {kind} `{name}` in the namespace `{namespace}`; set it with `wharf {kind} set {name}`, or see `wharf {kind} ls`"
    );
    Problem::new(ProblemCode::NotFound, detail)
}

/// Why settings cannot name this as a value of that kind. `there` is what the namespace has of this name.
pub(super) fn unusable(
    namespace: &NamespaceName,
    name: &SecretName,
    kind: ValueKind,
    there: Option<ValueKind>,
) -> Option<Problem> {
    match there {
        None => Some(nothing_named(namespace, name, kind)),
        Some(there) if there != kind => {
            let detail = format!(
                "{}: `{name}` is a {there}, not a {kind}; name it in `{}` instead",
                kind.table(),
                there.table()
            );
            Some(Problem::new(ProblemCode::InvalidSpec, detail))
        }
        Some(_) => None,
    }
}

/// A name that the other kind has is not of this one.
fn check_kind(name: &SecretName, asked: ValueKind, there: ValueKind) -> Result<()> {
    match taken(name, asked, there) {
        Some(problem) => Err(problem.into()),
        None => Ok(()),
    }
}

/// Why a name cannot be one of that kind.
pub(super) fn taken(name: &SecretName, asked: ValueKind, there: ValueKind) -> Option<Problem> {
    let detail = || {
        format!("`{name}` is a {there}, and a name is of one kind; choose another, or see `wharf {there} ls`")
    };
    (asked != there).then(|| Problem::new(ProblemCode::Conflict, detail()))
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
    fn a_release_moves_to_newer_versions_of_what_it_has_and_to_nothing_else() {
        let [one, other, newer] =
            [1, 1, 2].map(|version| Pinned { id: SecretVersionId::new(), version, bytes: 1 });
        let pins = |pins: &[(&str, Pinned)]| -> Pins {
            pins.iter().map(|(name, pinned)| (name.parse().unwrap(), *pinned)).collect()
        };
        let has = pins(&[("one", one), ("other", other)]);
        assert_eq!(moved(&has, &pins(&[("one", newer)])), Some(pins(&[("one", newer), ("other", other)])));
        for newest in [pins(&[("one", one)]), pins(&[("third", newer)]), Pins::new()] {
            assert_eq!(moved(&has, &newest), None);
        }
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
