//! Carries planned changes out, within the transaction of their apply.

use std::collections::HashMap;

use wharf_types::declare::change::Change;
use wharf_types::declare::{AppResource, ConfigResource, Kind};
use wharf_types::problem::ProblemCode;
use wharf_types::secret::{SecretValue, ValueKind};
use wharf_types::{AppId, Digest, NamespaceId, NamespaceName, Problem, SetName};

use super::AskedApply;
use crate::context::Context;
use crate::operations::deploy::{New, make_release};
use crate::operations::secrets::{AskedSecret, Pins};
use crate::operations::{Asked, OperationError, Result, problem, secrets};
use crate::plan::declared::{Planned, Step};
use crate::store::app::{App, EnvOverrides};
use crate::store::artifact::Artifact;
use crate::store::{self, Conn, StoreError};

/// Returns the changes with what was made, in their order, and the apps that changed.
pub(super) async fn out(
    conn: &mut Conn,
    context: &Context,
    asked: &AskedApply,
    set: Option<&SetName>,
    planned: Vec<Planned>,
) -> Result<(Vec<Change>, Vec<AppId>)> {
    let (artifacts, configs) = (HashMap::new(), HashMap::new());
    let mut carry = Carry { conn, context, asked, set, artifacts, configs, changed: Vec::new() };
    let (steps, mut changes): (Vec<Step>, Vec<Change>) =
        planned.into_iter().map(|planned| (planned.step, planned.change)).unzip();
    // What others need comes first, whatever its place in the files.
    for kind in Kind::ALL {
        for (step, change) in steps.iter().zip(&mut changes) {
            if change.resource.kind == *kind {
                let done = carry.step(step, change).await;
                done.map_err(|error| blame(change, error))?;
            }
        }
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

struct Carry<'a> {
    conn: &'a mut Conn,
    context: &'a Context,
    asked: &'a AskedApply,
    set: Option<&'a SetName>,
    artifacts: HashMap<(NamespaceName, Digest), Artifact>,
    /// The versions that were made.
    configs: HashMap<NamespaceId, Pins>,
    changed: Vec<AppId>,
}

impl Carry<'_> {
    async fn step(&mut self, step: &Step, change: &mut Change) -> Result<()> {
        match step {
            Step::Nothing => Ok(()),
            Step::MakeNamespace(name) => {
                store::namespace::create(self.conn, name, self.asked.now).await?;
                Ok(())
            }
            Step::SetConfig(config) => self.set_config(config).await,
            Step::Renew(live) => self.renew(*live, change).await,
            Step::Release { app, live, rescale } => self.release(app, *live, *rescale, change).await,
            Step::Scale { live, to } => self.scale(*live, *to).await,
            Step::Join(live) => self.join(*live).await,
            Step::Delete(live) => self.delete(*live).await,
        }
    }

    async fn set_config(&mut self, config: &ConfigResource) -> Result<()> {
        let namespace = secrets::find_namespace(self.conn, &config.namespace).await?;
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

    async fn renew(&mut self, live: AppId, change: &mut Change) -> Result<()> {
        let app = self.app(live).await?;
        let Some(newest) = self.configs.get(&app.namespace_id) else { return Ok(()) };
        let by = (self.asked.by.as_str(), "apply", self.asked.now);
        if let Some(moved) = secrets::move_to(self.conn, self.context, &app, newest, by).await? {
            change.release = Some(moved.release.number);
            change.rollout = Some(moved.rollout);
            self.changed.push(app.id);
        }
        Ok(())
    }

    async fn release(
        &mut self,
        wanted: &AppResource,
        live: Option<AppId>,
        rescale: bool,
        change: &mut Change,
    ) -> Result<()> {
        let mut app = match live {
            Some(id) => self.app(id).await?,
            None => self.create(wanted).await?,
        };
        if rescale && app.scaled_to.is_some() {
            store::app::set_scale(self.conn, app.id, None).await?;
            app.scaled_to = None;
        }
        if !app.env_overrides.is_empty() {
            // The file is the whole of the variables.
            app.env_overrides = EnvOverrides::new();
            store::app::set_env_overrides(self.conn, app.id, &app.env_overrides).await?;
        }
        self.adopt_content(&app, wanted).await?;
        let spec = wanted.spec.clone();
        let secrets = secrets::newest(self.conn, self.context, &app, &spec).await?;
        let key = (app.namespace.clone(), wanted.artifact);
        let Some(artifact) = self.artifacts.get(&key) else {
            return problem(ProblemCode::NotFound, "its artifact went away; push it again");
        };
        let asked = Asked {
            namespace: app.namespace.clone(),
            app: app.name.clone(),
            by: self.asked.by.clone(),
            once: None,
            // What is refused was found before anything was carried out.
            any_priority: true,
            now: self.asked.now,
        };
        let new = New { spec, own_env: EnvOverrides::new(), secrets, artifact, cause: "apply" };
        let (release, rollout) = make_release(self.conn, self.context, &app, &asked, new).await?;
        change.release = Some(release.number);
        change.rollout = Some(rollout);
        self.join_set(&app).await?;
        self.changed.push(app.id);
        Ok(())
    }

    async fn app(&mut self, id: AppId) -> Result<App> {
        match store::app::get(self.conn, id).await? {
            Some(app) => Ok(app),
            None => problem(ProblemCode::Conflict, "the app went away meanwhile; plan again"),
        }
    }

    async fn create(&mut self, wanted: &AppResource) -> Result<App> {
        let Some(namespace) = store::namespace::find_id(self.conn, &wanted.namespace).await? else {
            let detail = format!("there is no namespace `{}`", wanted.namespace);
            return problem(ProblemCode::NotFound, detail);
        };
        let id = store::app::create(self.conn, namespace, &wanted.name, self.asked.now).await?;
        self.app(id).await
    }

    /// Finds the artifact, and lets a namespace that was just made have what it is made of: its apps could not be pushed there before.
    async fn adopt_content(&mut self, app: &App, wanted: &AppResource) -> Result<()> {
        let key = (app.namespace.clone(), wanted.artifact);
        if !self.artifacts.contains_key(&key) {
            let found = match store::artifact::find(self.conn, app.namespace_id, wanted.artifact).await? {
                Some(found) => found,
                None => self.adopt_artifact(app, wanted.artifact).await?,
            };
            self.artifacts.insert(key, found);
        }
        if let Some(files) = &wanted.spec.files
            && store::archive::find(self.conn, app.namespace_id, files.digest).await?.is_none()
            && let Some(archive) = store::archive::get(self.conn, files.digest).await?
        {
            store::archive::put(self.conn, app.namespace_id, &archive, self.asked.now).await?;
        }
        Ok(())
    }

    /// The checks before have let only a namespace pass that is made here.
    async fn adopt_artifact(&mut self, app: &App, digest: Digest) -> Result<Artifact> {
        let Some(artifact) = store::artifact::get(self.conn, digest).await? else {
            return Err(StoreError::Corrupt(format!("artifact {digest} was there and is not")).into());
        };
        store::artifact::put(self.conn, app.namespace_id, &artifact, self.asked.now).await?;
        Ok(artifact)
    }

    async fn scale(&mut self, live: AppId, to: Option<u32>) -> Result<()> {
        let app = self.app(live).await?;
        store::app::set_scale(self.conn, app.id, to).await?;
        let to = to.map_or_else(|| "its release's own number".to_owned(), |to| to.to_string());
        self.tell(&app, "app.scaled", &format!("scaled to {to} by {} (apply)", self.asked.by)).await?;
        self.join_set(&app).await
    }

    async fn join(&mut self, live: AppId) -> Result<()> {
        let app = self.app(live).await?;
        self.join_set(&app).await
    }

    async fn join_set(&mut self, app: &App) -> Result<()> {
        if let Some(set) = self.set.filter(|set| app.applied_set.as_ref() != Some(set)) {
            store::app::set_applied_set(self.conn, app.id, set).await?;
        }
        Ok(())
    }

    /// As `wharf delete` does: its volumes are kept.
    async fn delete(&mut self, live: AppId) -> Result<()> {
        let app = self.app(live).await?;
        store::app::mark_deleting(self.conn, app.id).await?;
        store::rollout::supersede(self.conn, app.id, self.asked.now).await?;
        let message = format!("deletion asked for by {} (apply without it)", self.asked.by);
        self.tell(&app, "app.deleting", &message).await
    }

    async fn tell(&mut self, app: &App, kind: &str, message: &str) -> Result<()> {
        let now = self.asked.now;
        store::change::touch(self.conn, app.id, now).await?;
        store::event::append(self.conn, &app.namespace, Some(&app.name), kind, message, now).await?;
        self.changed.push(app.id);
        Ok(())
    }
}
