//! Makes releases and rollouts to them, of one app or of thousands, in one transaction and with few statements.
//!
//! The only writer is held meanwhile, so what is the same for many apps is asked for once, and rows are written many at a time. Nothing in
//! here checks what depends on a release alone: see [`validate`].

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use wharf_types::api::Quota;
use wharf_types::problem::ProblemCode;
use wharf_types::spec::{AppSpec, Priority};
use wharf_types::{AppId, Digest, NamespaceId, ReleaseId, RolloutId, Timestamp};

use super::secrets::Pins;
use super::{
    OperationError, Result, autoscale, containers, current_release, invalid_spec, outbound, ports, problem,
    quota, routes, secrets, volumes,
};
use crate::context::Context;
use crate::store::app::{App, EnvOverrides};
use crate::store::artifact::Artifact;
use crate::store::event::NewEvent;
use crate::store::release::Release;
use crate::store::rollout::NewRollout;
use crate::store::{self, Conn, StoreError};
use crate::view;

/// Who makes them, why, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct By<'a> {
    pub(super) who: &'a str,
    pub(super) cause: &'static str,
    /// Whether they may have priorities and private destinations that the namespace may not give, as a cluster admin's may and what was looked at
    /// before.
    pub(super) any_rights: bool,
    pub(super) now: Timestamp,
}

/// What a release is made of.
pub(super) struct New<'a> {
    /// As it is in this transaction.
    pub(super) app: &'a App,
    pub(super) spec: AppSpec,
    pub(super) own_env: EnvOverrides,
    /// Of each secret that the settings name, the version.
    pub(super) secrets: Pins,
    pub(super) artifact: &'a Artifact,
}

#[derive(Debug)]
pub(super) struct Made {
    pub(super) release: Release,
    pub(super) rollout: RolloutId,
}

/// Why nothing was made.
#[derive(Debug)]
pub(super) struct Refused {
    /// Whose fault it is. None: no app's.
    pub(super) app: Option<AppId>,
    pub(super) error: OperationError,
}

impl Refused {
    pub(super) fn of(app: AppId, error: impl Into<OperationError>) -> Self {
        Self { app: Some(app), error: error.into() }
    }
}

impl From<OperationError> for Refused {
    fn from(error: OperationError) -> Self {
        Self { app: None, error }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self { app: None, error: error.into() }
    }
}

/// Checks the settings for what is to run with them.
pub(super) fn validate(spec: &AppSpec, artifact: &Artifact) -> Result<()> {
    let valid = spec.validate().and_then(|()| spec.validate_for(artifact.world.with(spec)));
    Ok(valid.map_err(invalid_spec)?)
}

/// Writes the releases, one of each app, takes their routes, ports and volumes, and starts the rollouts. They come back in their order. Their
/// settings are valid.
pub(super) async fn make_all(
    conn: &mut Conn,
    context: &Context,
    by: By<'_>,
    news: Vec<New<'_>>,
) -> std::result::Result<Vec<Made>, Refused> {
    let mut ground = Ground::default();
    let mut wanted = Vec::new();
    for new in &news {
        ground.check(conn, new, by).await.map_err(|error| Refused::of(new.app.id, error))?;
        if new.artifact.world.with(&new.spec).is_http() {
            let (app, domain) = (new.app, &context.config.domain);
            wanted.push((app, view::routes(&app.name, &app.namespace, domain, &new.spec)));
        }
    }
    routes::claim_all(conn, &context.config.domain, &wanted).await?;
    for new in &news {
        claim(conn, context, new, by.now).await.map_err(|error| Refused::of(new.app.id, error))?;
    }
    let mut nodes = quota::Nodes::default();
    let (mut releases, mut demands, mut pins) = (Vec::with_capacity(news.len()), Vec::new(), Vec::new());
    for New { app, spec, own_env, secrets, artifact } in news {
        let id = ReleaseId::new();
        demands.push((id, nodes.demand(conn, &spec, artifact.world.with(&spec)).await?));
        pins.extend(secrets.values().map(|pinned| (id, pinned.id)));
        let release = Release {
            id,
            app: app.id,
            number: app.last_release + 1,
            artifact: artifact.digest,
            spec: Arc::new(spec),
            own_env,
            cause: by.cause.to_owned(),
            created_by: by.who.to_owned(),
            served: false,
            created_at: by.now,
        };
        releases.push((app, release));
    }
    let rows: Vec<&Release> = releases.iter().map(|(_, release)| release).collect();
    store::release::create_all(conn, &rows).await?;
    store::quota::put_demands(conn, &demands).await?;
    store::secret::pin_all(conn, &pins).await?;
    let rollouts = start_rollouts(conn, &releases, by).await?;
    let made = releases.into_iter().zip(rollouts);
    Ok(made.map(|((_, release), rollout)| Made { release, rollout }).collect())
}

/// Takes what only few apps ask for.
async fn claim(conn: &mut Conn, context: &Context, new: &New<'_>, now: Timestamp) -> Result<()> {
    ports::claim(conn, &context.config.platform_ports, new.app, &new.spec.tcp.ports).await?;
    volumes::claim(conn, new.app, &new.spec, now).await?;
    autoscale::check_most(conn, new.app, &new.spec).await
}

/// Starts a rollout to each of these releases; those that are under way are superseded.
async fn start_rollouts(conn: &mut Conn, releases: &[(&App, Release)], by: By<'_>) -> Result<Vec<RolloutId>> {
    let now = by.now;
    for (app, release) in releases {
        autoscale::begin(conn, app, &release.spec, now).await?;
    }
    let apps: Vec<AppId> = releases.iter().map(|(app, _)| app.id).collect();
    let new = |(app, release): &(&App, Release)| NewRollout {
        id: RolloutId::new(),
        app: app.id,
        from: app.stable_release,
        to: release.id,
        automatic: false,
        backwards: false,
        renews: false,
    };
    let rollouts: Vec<NewRollout> = releases.iter().map(new).collect();
    store::rollout::supersede(conn, &apps, now).await?;
    store::rollout::create_all(conn, &rollouts, now).await?;
    store::app::take_next_release(conn, &apps).await?;
    store::change::touch_all(conn, &apps, now).await?;
    let told: Vec<NewEvent<'_>> = releases.iter().map(|(app, release)| created(app, release)).collect();
    store::event::append_all(conn, &told, now).await?;
    Ok(rollouts.into_iter().map(|rollout| rollout.id).collect())
}

fn created<'a>(app: &'a App, release: &Release) -> NewEvent<'a> {
    let message = format!(
        "release {} of {}, made by {} ({})",
        release.number,
        release.artifact.short(),
        release.created_by,
        release.cause
    );
    NewEvent { namespace: &app.namespace, app: Some(&app.name), kind: "release.created", message }
}

/// What namespaces allow and have. What many apps share is asked for once.
#[derive(Default)]
struct Ground {
    quotas: HashMap<NamespaceId, Option<Quota>>,
    /// Files that there are.
    archives: HashSet<(NamespaceId, Digest)>,
}

impl Ground {
    async fn check(&mut self, conn: &mut Conn, new: &New<'_>, by: By<'_>) -> Result<()> {
        let (namespace, name) = (new.app.namespace_id, &new.app.namespace);
        let world = new.artifact.world.with(&new.spec);
        if world.is_container() {
            let rights = self.quota(conn, namespace).await?.and_then(|quota| quota.containers);
            if let Some(refused) = containers::refusal(name, rights, &new.spec) {
                return Err(refused.into());
            }
        }
        // What everybody may have needs no look at the quota.
        if !by.any_rights && new.spec.placement.priority > Priority::Low {
            let quota = self.quota(conn, namespace).await?;
            quota::check_priority_within(conn, new.app, quota, &new.spec).await?;
        }
        if !by.any_rights && outbound::is_private(&new.spec.outbound) {
            let has = current_release(conn, new.app).await?;
            let has: Vec<_> = has.iter().map(|release| &release.spec.outbound).collect();
            let quota = self.quota(conn, namespace).await?;
            if let Some(refused) = outbound::refusal(name, quota, &has, &new.spec.outbound) {
                return Err(refused.into());
            }
        }
        quota::check_processors_of(conn, new.app, world, &new.spec).await?;
        secrets::check_size(&new.secrets)?;
        if let Some(files) = &new.spec.files
            && !self.archives.contains(&(namespace, files.digest))
        {
            if store::archive::find(conn, namespace, files.digest).await?.is_none() {
                let detail = format!("the namespace `{name}` has no files {}; push them first", files.digest);
                return problem(ProblemCode::NotFound, detail);
            }
            self.archives.insert((namespace, files.digest));
        }
        Ok(())
    }

    async fn quota(&mut self, conn: &mut Conn, namespace: NamespaceId) -> Result<Option<&Quota>> {
        let quota = match self.quotas.entry(namespace) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(store::quota::find(conn, namespace).await?),
        };
        Ok(quota.as_ref())
    }
}
