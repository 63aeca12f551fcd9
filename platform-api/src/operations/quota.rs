//! Keeps namespaces within their quotas: what they use is counted before and after a change, in its own transaction.

use std::sync::Arc;

use serde_json::json;
use wharf_types::api::{Quota, QuotaInfo, QuotaUsed};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::AppSpec;
use wharf_types::world::World;
use wharf_types::{AppId, NamespaceId, NamespaceName, Problem};

use super::{Result, artifact_of, commit, problem};
use crate::audit;
use crate::context::Context;
use crate::plan::reservation_bytes;
use crate::plan::scheduler::{Cluster, Needs};
use crate::quota::{self, Demand, Standing};
use crate::store::{self, Conn};

/// A namespace before it changes. None inside: it has no quota, and nothing is counted.
pub(crate) struct Before(Option<(NamespaceId, NamespaceName, Quota, QuotaUsed)>);

/// Counts, before the first thing is written.
pub(crate) async fn begin(conn: &mut Conn, id: NamespaceId, name: &NamespaceName) -> Result<Before> {
    let Some(quota) = store::quota::lock(conn, id).await? else { return Ok(Before(None)) };
    let used = used(conn, id).await?;
    Ok(Before(Some((id, name.clone(), quota, used))))
}

impl Before {
    /// Counts again, after the last thing was written, and refuses what goes beyond a limit: nothing is committed then.
    pub(crate) async fn check(self, conn: &mut Conn) -> Result<()> {
        self.check_still(conn).await
    }

    /// The same for who may write something else instead, and ask once more.
    pub(crate) async fn check_still(&self, conn: &mut Conn) -> Result<()> {
        let Some((id, name, quota, before)) = &self.0 else { return Ok(()) };
        let wanted = used(conn, *id).await?;
        within(name, quota, before, &wanted)
    }
}

fn within(name: &NamespaceName, quota: &Quota, used: &QuotaUsed, wanted: &QuotaUsed) -> Result<()> {
    quota::check(quota, used, wanted)
        .map_err(|exceeded| Problem::new(ProblemCode::QuotaExceeded, exceeded.sentence(name)).into())
}

/// Refuses an upload of so many octets before it is taken in. What counts is asked again when it is recorded.
pub(crate) async fn room_for(
    context: &Context,
    id: NamespaceId,
    name: &NamespaceName,
    bytes: u64,
) -> Result<()> {
    let mut tx = context.store.read().await?;
    let Some(quota) = store::quota::find(&mut tx, id).await? else { return Ok(()) };
    let used = store::quota::used(&mut tx, id).await?;
    let wanted = QuotaUsed { artifact_bytes: used.artifact_bytes.saturating_add(bytes), ..used };
    within(name, &quota, &used, &wanted)
}

/// Why a push of so many octets is not taken, if it would take the namespace beyond its quota.
pub(crate) async fn room_for_push(
    conn: &mut Conn,
    id: NamespaceId,
    name: &NamespaceName,
    bytes: u64,
) -> store::Result<std::result::Result<(), String>> {
    let Some(quota) = store::quota::find(conn, id).await? else { return Ok(Ok(())) };
    let used = store::quota::used(conn, id).await?;
    let wanted = QuotaUsed { repository_bytes: used.repository_bytes.saturating_add(bytes), ..used };
    Ok(quota::check(&quota, &used, &wanted).map_err(|exceeded| exceeded.sentence(name)))
}

/// What the namespace uses, in a transaction that may write.
async fn used(conn: &mut Conn, id: NamespaceId) -> Result<QuotaUsed> {
    for release in store::quota::without_demand(conn, id).await? {
        if let Some(release) = store::release::get(conn, release).await? {
            let world = artifact_of(conn, &release).await?.world.with(&release.spec);
            let demand = demand_among_nodes(conn, &release.spec, world).await?;
            store::quota::put_demands(conn, &[(release.id, demand)]).await?;
        }
    }
    Ok(store::quota::used(conn, id).await?)
}

/// Refuses a job that would take the namespace beyond its quota, before it is written.
pub(super) async fn room_for_job(
    conn: &mut Conn,
    id: NamespaceId,
    name: &NamespaceName,
    demand: &Demand,
) -> Result<()> {
    let Some(quota) = store::quota::lock(conn, id).await? else { return Ok(()) };
    let used = used(conn, id).await?;
    let instances = u64::from(demand.replicas);
    let wanted = QuotaUsed {
        instances: used.instances.saturating_add(instances),
        memory_bytes: used.memory_bytes.saturating_add(demand.memory_bytes.saturating_mul(instances)),
        cpu_millis: used.cpu_millis.saturating_add(u64::from(demand.cpu_millis).saturating_mul(instances)),
        ..used
    };
    within(name, &quota, &used, &wanted)
}

/// What a release asks for, counted as the scheduler counts.
pub(super) fn demand(spec: &AppSpec, world: World) -> Demand {
    Demand {
        replicas: spec.scale.replicas.first(),
        range: spec.scale.replicas.range().map(|range| (range.min, range.max)),
        nodes: None,
        memory_bytes: reservation_bytes(spec, world),
        cpu_millis: spec.reserve.cpu.map_or(0, |cpu| cpu.as_millis()),
    }
}

/// The same of what may run on every node: as many instances as there are nodes for it now.
pub(super) async fn demand_among_nodes(conn: &mut Conn, spec: &AppSpec, world: World) -> Result<Demand> {
    Nodes::default().demand(conn, spec, world).await
}

/// The nodes that are not drained, which are asked for once, and only if some app may run on every one.
#[derive(Default)]
pub(super) struct Nodes(Option<Cluster>);

impl Nodes {
    pub(super) async fn demand(&mut self, conn: &mut Conn, spec: &AppSpec, world: World) -> Result<Demand> {
        let demand = demand(spec, world);
        if !spec.is_global() {
            return Ok(demand);
        }
        if self.0.is_none() {
            let known = store::node::list(conn).await?;
            let mut cluster = Cluster::default();
            for (id, mut registration, settings) in known {
                if !settings.draining {
                    settings.label(&mut registration);
                    cluster.set_node(id, &registration, true);
                }
            }
            self.0 = Some(cluster);
        }
        let cluster = self.0.get_or_insert_default();
        let nodes = cluster.allowed(&spec.placement, Needs::of(world, false)).len();
        Ok(Demand { nodes: Some(u32::try_from(nodes).unwrap_or(u32::MAX)), ..demand })
    }
}

/// The apps of a namespace, without writing down what nobody has worked out yet.
pub(super) async fn standings(conn: &mut Conn, id: NamespaceId) -> Result<Vec<(AppId, Standing)>> {
    let mut standings = store::quota::standings(conn, id).await?;
    let uncounted = store::quota::without_demand(conn, id).await?;
    for release in store::release::get_all(conn, &uncounted).await? {
        let world = artifact_of(conn, &release).await?.world.with(&release.spec);
        let demand = demand_among_nodes(conn, &release.spec, world).await?;
        if let Some((_, standing)) = standings.iter_mut().find(|(app, _)| *app == release.app) {
            standing.demand = Some(demand);
        }
    }
    Ok(standings)
}

pub(crate) async fn show(context: &Context, name: &NamespaceName) -> Result<QuotaInfo> {
    let mut tx = context.store.read().await?;
    let id = find_namespace(&mut tx, name).await?;
    let quota = store::quota::find(&mut tx, id).await?.unwrap_or_default();
    let used = if store::quota::without_demand(&mut tx, id).await?.is_empty() {
        store::quota::used(&mut tx, id).await?
    } else {
        // Releases of earlier versions, which are counted for the first time.
        let mut tx = context.store.write().await?;
        let used = used(&mut tx, id).await?;
        tx.commit().await?;
        used
    };
    Ok(QuotaInfo { over: quota::over(&quota, &used), quota, used })
}

pub(crate) async fn set(context: &Arc<Context>, name: &NamespaceName, quota: Quota) -> Result<QuotaInfo> {
    let mut tx = context.store.write().await?;
    let id = find_namespace(&mut tx, name).await?;
    let before = store::quota::find(&mut tx, id).await?.unwrap_or_default();
    audit::change(json!(before), json!(quota));
    if quota == Quota::default() {
        store::quota::delete(&mut tx, id).await?;
    } else {
        store::quota::put(&mut tx, id, &quota).await?;
    }
    let used = used(&mut tx, id).await?;
    commit(context, tx, []).await?;
    context.rates_changed();
    Ok(QuotaInfo { over: quota::over(&quota, &used), quota, used })
}

async fn find_namespace(conn: &mut Conn, name: &NamespaceName) -> Result<NamespaceId> {
    match store::namespace::find(conn, name).await? {
        Some(namespace) => Ok(namespace.id),
        None => problem(ProblemCode::NotFound, format!("there is no namespace `{name}`")),
    }
}
