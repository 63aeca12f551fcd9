//! Carries planned changes out, within the transaction of their apply.
//!
//! Everybody else who writes waits meanwhile. So nothing is worked out here that could be known before, and what is done to many apps is
//! done in few statements.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use wharf_types::declare::change::Change;
use wharf_types::declare::{AppResource, ConfigResource, Kind};
use wharf_types::problem::ProblemCode;
use wharf_types::secret::{SecretValue, ValueKind};
use wharf_types::{AppId, Digest, NamespaceId, NamespaceName, Problem, SetName, Timestamp};

use super::AskedApply;
use crate::context::Context;
use crate::operations::releases::{self, By, Made, New, Refused};
use crate::operations::secrets::{AskedSecret, Pins, Values};
use crate::operations::{OperationError, Result, problem, secrets};
use crate::plan::declared::{Planned, Step};
use crate::store::app::{App, EnvOverrides};
use crate::store::artifact::Artifact;
use crate::store::event::NewEvent;
use crate::store::{self, Conn};

/// Returns the changes with what was made, in their order, and the apps that changed.
pub(super) async fn out(
    conn: &mut Conn,
    context: &Context,
    asked: &AskedApply,
    set: Option<&SetName>,
    planned: Vec<Planned>,
) -> Result<(Vec<Change>, Vec<AppId>)> {
    let (steps, mut changes): (Vec<Step>, Vec<Change>) =
        planned.into_iter().map(|planned| (planned.step, planned.change)).unzip();
    let mut carry = Carry { conn, context, asked, configs: HashMap::new(), changed: Vec::new() };
    // What others need comes first, whatever its place in the files.
    for kind in [Kind::Namespace, Kind::Config] {
        for (step, change) in steps.iter().zip(&changes) {
            if change.resource.kind == kind {
                carry.prepare(step).await.map_err(|error| blame(change, error))?;
            }
        }
    }
    let live = carry.live(&steps, &changes).await?;
    let mut joining = carry.release(&steps, &mut changes, &live).await?;
    carry.renew(&steps, &mut changes, &live).await?;
    joining.extend(carry.scale(&steps, &live).await?);
    carry.delete(&steps, &live).await?;
    if let Some(set) = set {
        let known = steps.iter().filter_map(|step| match step {
            Step::Join(id) => live.get(id),
            _ => None,
        });
        joining.extend(known.filter(|app| app.applied_set.as_ref() != Some(set)).map(|app| app.id));
        store::app::set_applied_set(carry.conn, &joining, set).await?;
    }
    let Carry { conn, configs, changed, .. } = carry;
    for namespace in configs.keys() {
        store::secret::prune(conn, *namespace).await?;
    }
    Ok((changes, changed))
}

fn blame(change: &Change, error: OperationError) -> OperationError {
    match error {
        OperationError::Problem(Problem { code, detail, .. }) => {
            Problem::new(code, format!("{}: {detail}; nothing was applied", change.resource)).into()
        }
        error => error,
    }
}

/// The same where only the app is known.
fn blame_app(
    changes: &[Change],
    places: &HashMap<AppId, usize>,
    Refused { app, error }: Refused,
) -> OperationError {
    match app.and_then(|app| changes.get(*places.get(&app)?)) {
        Some(change) => blame(change, error),
        None => error,
    }
}

/// The app that a step is about, if there is one yet.
fn app_of(step: &Step) -> Option<AppId> {
    match step {
        Step::Release { live, .. } => *live,
        Step::Scale { live, .. } => Some(*live),
        Step::Renew(live) | Step::Join(live) | Step::Delete(live) => Some(*live),
        Step::Nothing | Step::MakeNamespace(_) | Step::SetConfig(_) => None,
    }
}

struct Carry<'a> {
    conn: &'a mut Conn,
    context: &'a Context,
    asked: &'a AskedApply,
    /// The versions that were made.
    configs: HashMap<NamespaceId, Pins>,
    changed: Vec<AppId>,
}

impl<'a> Carry<'a> {
    fn by(&self) -> By<'a> {
        // A quota is no part of the base: it may have been changed since the check without the writer.
        let any_rights = self.asked.no_namespaces.is_none();
        By { who: &self.asked.by, cause: "apply", any_rights, now: self.asked.now }
    }

    async fn prepare(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::MakeNamespace(name) => {
                store::namespace::create(self.conn, name, self.asked.now).await?;
                Ok(())
            }
            Step::SetConfig(config) => self.set_config(config).await,
            _ => Ok(()),
        }
    }

    async fn set_config(&mut self, config: &ConfigResource) -> Result<()> {
        let Some(namespace) = store::namespace::find_id(self.conn, &config.namespace).await? else {
            return problem(ProblemCode::NotFound, format!("there is no namespace `{}`", config.namespace));
        };
        let asked = AskedSecret {
            namespace: config.namespace.clone(),
            name: config.name.clone(),
            kind: ValueKind::Config,
            by: self.asked.by.clone(),
            now: self.asked.now,
        };
        let value = SecretValue::from(config.value.clone());
        let (newest, _) = secrets::store_value(self.conn, self.context, namespace, &asked, &value).await?;
        self.configs.entry(namespace).or_default().insert(config.name.clone(), newest);
        Ok(())
    }

    /// All apps that are there and concerned.
    async fn live(&mut self, steps: &[Step], changes: &[Change]) -> Result<HashMap<AppId, App>> {
        let ids: Vec<AppId> = steps.iter().filter_map(app_of).collect();
        let live = store::app::get_all(self.conn, &ids).await?;
        let live: HashMap<AppId, App> = live.into_iter().map(|app| (app.id, app)).collect();
        let is_gone = |step: &Step| app_of(step).is_some_and(|id| !live.contains_key(&id));
        match steps.iter().position(is_gone).and_then(|at| changes.get(at)) {
            Some(change) => {
                let gone = Problem::new(ProblemCode::Conflict, "the app went away meanwhile; plan again");
                Err(blame(change, gone.into()))
            }
            None => Ok(live),
        }
    }

    /// Makes the apps that are not there, and the releases. Returns the apps of them.
    async fn release(
        &mut self,
        steps: &[Step],
        changes: &mut [Change],
        live: &HashMap<AppId, App>,
    ) -> Result<Vec<AppId>> {
        let wanted: Vec<Wanted<'_>> = steps
            .iter()
            .enumerate()
            .filter_map(|(at, step)| match step {
                Step::Release { app, live, rescale } => {
                    Some(Wanted { at, app, live: *live, rescale: *rescale })
                }
                _ => None,
            })
            .collect();
        let (apps, content) = self.ground(&wanted, changes, live).await?;
        let places: HashMap<AppId, usize> =
            apps.iter().zip(&wanted).map(|(app, wanted)| (app.id, wanted.at)).collect();
        let (mut values, mut news) = (Values::default(), Vec::with_capacity(wanted.len()));
        for (app, wanted) in apps.iter().zip(&wanted) {
            let Some(artifact) = content.artifacts.get(&(app.namespace_id, wanted.app.artifact)) else {
                let gone = Problem::new(ProblemCode::NotFound, "its artifact went away; push it again");
                return Err(blame(&changes[wanted.at], gone.into()));
            };
            let (namespace, spec) = ((app.namespace_id, &app.namespace), wanted.app.spec.clone());
            let secrets = values.newest(self.conn, self.context, namespace, &spec).await;
            let secrets = secrets.map_err(|error| blame(&changes[wanted.at], error))?;
            news.push(New { app, spec, own_env: EnvOverrides::new(), secrets, artifact });
        }
        let by = self.by();
        let made = releases::make_all(self.conn, self.context, by, news).await;
        let made = made.map_err(|refused| blame_app(changes, &places, refused))?;
        for (wanted, Made { release, rollout }) in wanted.iter().zip(made) {
            let change = &mut changes[wanted.at];
            (change.release, change.rollout) = (Some(release.number), Some(rollout));
        }
        let ids: Vec<AppId> = apps.iter().map(|app| app.id).collect();
        self.changed.extend(&ids);
        Ok(ids)
    }

    /// The apps of these, in their order and as they are now, and what they are made of.
    async fn ground(
        &mut self,
        wanted: &[Wanted<'_>],
        changes: &[Change],
        live: &HashMap<AppId, App>,
    ) -> Result<(Vec<App>, Content)> {
        let now = self.asked.now;
        let mut namespaces: HashMap<&NamespaceName, NamespaceId> = HashMap::new();
        let mut apps = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let app = match wanted.live.and_then(|id| live.get(&id)) {
                Some(app) => self.reset(app.clone(), wanted.rescale).await?,
                None => {
                    let name = &wanted.app.namespace;
                    let namespace = match namespaces.get(name) {
                        Some(id) => *id,
                        None => match store::namespace::find_id(self.conn, name).await? {
                            Some(id) => id,
                            None => {
                                let detail = format!("there is no namespace `{name}`");
                                let gone = Problem::new(ProblemCode::NotFound, detail);
                                return Err(blame(&changes[wanted.at], gone.into()));
                            }
                        },
                    };
                    namespaces.insert(name, namespace);
                    App::new(namespace, name, &wanted.app.name, now)
                }
            };
            apps.push(app);
        }
        let new: Vec<&App> = apps.iter().filter(|app| !live.contains_key(&app.id)).collect();
        store::app::create_all(self.conn, &new, now).await?;
        let mut content = Content::default();
        for (app, wanted) in apps.iter().zip(wanted) {
            let adopted = content.adopt(self.conn, app.namespace_id, wanted.app, now).await;
            adopted.map_err(|error| blame(&changes[wanted.at], error))?;
        }
        Ok((apps, content))
    }

    /// Gives up what `env` has set, as the file is the whole of the variables, and, if it says how many instances there are, what `scale` has.
    async fn reset(&mut self, mut app: App, rescale: bool) -> Result<App> {
        if rescale && app.scaled_to.is_some() {
            store::app::set_scale(self.conn, app.id, None).await?;
            app.scaled_to = None;
        }
        if !app.env_overrides.is_empty() {
            app.env_overrides = EnvOverrides::new();
            store::app::set_env_overrides(self.conn, app.id, &app.env_overrides).await?;
        }
        Ok(app)
    }

    /// Makes the releases that differ in the versions of configs alone.
    async fn renew(
        &mut self,
        steps: &[Step],
        changes: &mut [Change],
        live: &HashMap<AppId, App>,
    ) -> Result<()> {
        let mut places: HashMap<AppId, usize> = HashMap::new();
        let mut apps: Vec<&App> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            if let Step::Renew(id) = step {
                places.insert(*id, at);
                apps.extend(live.get(id));
            }
        }
        // They keep the priority that they have.
        let by = By { any_rights: true, ..self.by() };
        let moved = secrets::move_all(self.conn, self.context, &apps, &self.configs, by).await;
        for moved in moved.map_err(|refused| blame_app(changes, &places, refused))? {
            let change = places.get(&moved.app.id).and_then(|at| changes.get_mut(*at));
            if let Some(change) = change {
                change.release = Some(moved.made.release.number);
                change.rollout = Some(moved.made.rollout);
            }
            self.changed.push(moved.app.id);
        }
        Ok(())
    }

    /// Sets numbers of instances. Returns the apps of them.
    async fn scale(&mut self, steps: &[Step], live: &HashMap<AppId, App>) -> Result<Vec<AppId>> {
        let mut told = Vec::new();
        for step in steps {
            let Step::Scale { live: id, to } = step else { continue };
            let Some(app) = live.get(id) else { continue };
            store::app::set_scale(self.conn, app.id, *to).await?;
            let to = to.map_or_else(|| "its release's own number".to_owned(), |to| to.to_string());
            told.push((app, format!("scaled to {to} by {} (apply)", self.asked.by)));
        }
        self.tell("app.scaled", told).await
    }

    /// As `wharf delete` does: volumes are kept.
    async fn delete(&mut self, steps: &[Step], live: &HashMap<AppId, App>) -> Result<()> {
        let message = format!("deletion asked for by {} (apply without it)", self.asked.by);
        let doomed = steps.iter().filter_map(|step| match step {
            Step::Delete(id) => live.get(id),
            _ => None,
        });
        let told: Vec<(&App, String)> = doomed.map(|app| (app, message.clone())).collect();
        let ids: Vec<AppId> = told.iter().map(|(app, _)| app.id).collect();
        store::app::mark_deleting(self.conn, &ids).await?;
        store::rollout::supersede(self.conn, &ids, self.asked.now).await?;
        self.tell("app.deleting", told).await?;
        Ok(())
    }

    /// Says what became of apps, and returns them.
    async fn tell(&mut self, kind: &str, told: Vec<(&App, String)>) -> Result<Vec<AppId>> {
        let now = self.asked.now;
        let ids: Vec<AppId> = told.iter().map(|(app, _)| app.id).collect();
        let mut events = Vec::with_capacity(told.len());
        for (app, message) in told {
            events.push(NewEvent { namespace: &app.namespace, app: Some(&app.name), kind, message });
        }
        store::change::touch_all(self.conn, &ids, now).await?;
        store::event::append_all(self.conn, &events, now).await?;
        self.changed.extend(&ids);
        Ok(ids)
    }
}

/// A release that is to be made.
struct Wanted<'a> {
    /// Which change it is of.
    at: usize,
    app: &'a AppResource,
    live: Option<AppId>,
    rescale: bool,
}

/// What apps are made of. Each is asked for once.
#[derive(Default)]
struct Content {
    artifacts: HashMap<(NamespaceId, Digest), Artifact>,
    archives: HashSet<(NamespaceId, Digest)>,
}

impl Content {
    /// Finds the artifact, and lets a namespace that was just made have what it is made of: its apps could not be pushed there before.
    async fn adopt(
        &mut self,
        conn: &mut Conn,
        namespace: NamespaceId,
        wanted: &AppResource,
        now: Timestamp,
    ) -> Result<()> {
        let key = (namespace, wanted.artifact);
        if let Entry::Vacant(place) = self.artifacts.entry(key) {
            let found = match store::artifact::find(conn, namespace, wanted.artifact).await? {
                Some(found) => found,
                None => adopt_artifact(conn, namespace, wanted.artifact, now).await?,
            };
            place.insert(found);
        }
        if let Some(files) = &wanted.spec.files
            && self.archives.insert((namespace, files.digest))
            && store::archive::find(conn, namespace, files.digest).await?.is_none()
            && let Some(archive) = store::archive::get(conn, files.digest).await?
        {
            store::archive::put(conn, namespace, &archive, now).await?;
        }
        Ok(())
    }
}

/// The checks before have let only a namespace pass that is made here.
async fn adopt_artifact(
    conn: &mut Conn,
    namespace: NamespaceId,
    digest: Digest,
    now: Timestamp,
) -> Result<Artifact> {
    let Some(artifact) = store::artifact::get(conn, digest).await? else {
        return problem(ProblemCode::NotFound, format!("the artifact {digest} went away; push it again"));
    };
    store::artifact::put(conn, namespace, &artifact, now).await?;
    Ok(artifact)
}
