//! Keeps namespaces within their quotas: what they use is counted before and after a change, in its own transaction.

use std::sync::Arc;

use serde_json::json;
use wharf_types::api::{Quota, QuotaInfo, QuotaUsed};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::{AppSpec, Priority, PrivateDestination};
use wharf_types::world::World;
use wharf_types::{AppId, NamespaceId, NamespaceName, Problem};

use super::{Result, artifact_of, commit, current_release, problem};
use crate::audit;
use crate::conditions::{self, revision_of};
use crate::context::Context;
use crate::plan::reservation_bytes;
use crate::plan::scheduler::{Cluster, Needs};
use crate::quota::{self, Demand, Resource, Standing};
use crate::store::app::App;
use crate::store::node::StoredNode;
use crate::store::{self, Conn};

/// A namespace before it changes. None inside: it has no quota, and nothing is counted.
pub(crate) struct Before(Option<(NamespaceId, NamespaceName, Quota, QuotaUsed)>);

/// Counts, before the first thing is written.
pub(crate) async fn begin(conn: &mut Conn, id: NamespaceId, name: &NamespaceName) -> Result<Before> {
    let Some(quota) = store::quota::lock(conn, id).await? else { return Ok(Before(None)) };
    let used = used(conn, id, &quota).await?;
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
        let wanted = used(conn, *id, quota).await?;
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
    let used = store::quota::used(&mut tx, id, &[Resource::Artifacts]).await?;
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
    let used = store::quota::used(conn, id, &[Resource::Repositories]).await?;
    let wanted = QuotaUsed { repository_bytes: used.repository_bytes.saturating_add(bytes), ..used };
    Ok(quota::check(&quota, &used, &wanted).map_err(|exceeded| exceeded.sentence(name)))
}

/// What the namespace uses of what its quota limits, in a transaction that may write.
async fn used(conn: &mut Conn, id: NamespaceId, quota: &Quota) -> Result<QuotaUsed> {
    let counted = Resource::limited_by(quota);
    if counted.iter().any(|resource| resource.is_of_apps()) {
        put_demands(conn, id).await?;
    }
    Ok(store::quota::used(conn, id, &counted).await?)
}

/// Works out what releases of earlier versions count for.
async fn put_demands(conn: &mut Conn, id: NamespaceId) -> Result<()> {
    for release in store::quota::without_demand(conn, id).await? {
        if let Some(release) = store::release::get(conn, release).await? {
            let world = artifact_of(conn, &release).await?.world.with(&release.spec);
            let demand = demand_among_nodes(conn, &release.spec, world).await?;
            store::quota::put_demands(conn, &[(release.id, demand)]).await?;
        }
    }
    Ok(())
}

/// Refuses a job that would take the namespace beyond its quota, before it is written.
pub(super) async fn room_for_job(
    conn: &mut Conn,
    id: NamespaceId,
    name: &NamespaceName,
    demand: &Demand,
) -> Result<()> {
    let Some(quota) = store::quota::lock(conn, id).await? else { return Ok(()) };
    let used = used(conn, id, &quota).await?;
    let instances = u64::from(demand.replicas);
    let wanted = QuotaUsed {
        instances: used.instances.saturating_add(instances),
        memory_bytes: used.memory_bytes.saturating_add(demand.memory_bytes.saturating_mul(instances)),
        cpu_millis: used.cpu_millis.saturating_add(u64::from(demand.cpu_millis).saturating_mul(instances)),
        ..used
    };
    within(name, &quota, &used, &wanted)
}

/// Refuses a priority that the namespace may not give to something that has `has` so far.
pub(super) async fn check_priority(
    conn: &mut Conn,
    (id, name): (NamespaceId, &NamespaceName),
    has: Option<Priority>,
    wanted: Priority,
) -> Result<()> {
    let quota = store::quota::find(conn, id).await?;
    match quota::priority_refusal(name, quota::priority_max(quota.as_ref()), has, wanted) {
        Some(detail) => problem(ProblemCode::QuotaExceeded, detail),
        None => Ok(()),
    }
}

/// The same for the settings to which an app moves.
pub(super) async fn check_priority_of(
    conn: &mut Conn,
    app: &App,
    any_rights: bool,
    spec: &AppSpec,
) -> Result<()> {
    if any_rights || spec.placement.priority == Priority::Low {
        return Ok(());
    }
    let quota = store::quota::find(conn, app.namespace_id).await?;
    check_priority_within(conn, app, quota.as_ref(), spec).await
}

/// The same where the quota of its namespace is known.
pub(super) async fn check_priority_within(
    conn: &mut Conn,
    app: &App,
    quota: Option<&Quota>,
    spec: &AppSpec,
) -> Result<()> {
    let (max, wanted) = (quota::priority_max(quota), spec.placement.priority);
    if wanted <= max {
        return Ok(());
    }
    let has = current_release(conn, app).await?.map(|release| release.spec.placement.priority);
    match quota::priority_refusal(&app.namespace, max, has, wanted) {
        Some(detail) => problem(ProblemCode::QuotaExceeded, detail),
        None => Ok(()),
    }
}

/// Refuses a container that may use as many processors as its node has, where the namespace has a quota of them. One that was there before goes on.
pub(super) async fn check_processors_of(
    conn: &mut Conn,
    app: &App,
    world: World,
    spec: &AppSpec,
) -> Result<()> {
    if !is_unbounded(spec, world) {
        return Ok(());
    }
    if let Some(before) = current_release(conn, app).await?
        && is_unbounded(&before.spec, artifact_of(conn, &before).await?.world)
    {
        return Ok(());
    }
    check_processors(conn, (app.namespace_id, &app.namespace), world, spec).await
}

/// The same of a job.
pub(super) async fn check_processors(
    conn: &mut Conn,
    (id, name): (NamespaceId, &NamespaceName),
    world: World,
    spec: &AppSpec,
) -> Result<()> {
    if !is_unbounded(spec, world) {
        return Ok(());
    }
    let quota = store::quota::find(conn, id).await?;
    if quota.is_none_or(|quota| quota.cpu_millis.is_none()) {
        return Ok(());
    }
    let detail = format!(
        "container.cpus: the namespace `{name}` has a quota of processors, so a container has to say how many it may use at the most, such as \
         `cpus = \"500m\"` below `container`; or ask a cluster admin: `wharf quota set -n {name} --cpu none`"
    );
    problem(ProblemCode::QuotaExceeded, detail)
}

fn is_unbounded(spec: &AppSpec, world: World) -> bool {
    world.is_container() && spec.container.cpus.is_none()
}

/// What a release asks for. Of guests it is what the scheduler counts, because what they use is bounded where they run. Of containers it is the most
/// that they may use: their engine bounds each, and nothing bounds all of a namespace.
pub fn demand(spec: &AppSpec, world: World) -> Demand {
    let (mut memory_bytes, mut cpu_millis) =
        (reservation_bytes(spec, world), spec.reserve.cpu.map_or(0, |cpu| cpu.as_millis()));
    if world.is_container() {
        memory_bytes = memory_bytes.max(spec.limits.memory.as_bytes());
        cpu_millis = cpu_millis.max(spec.container.cpus.map_or(0, |cpus| cpus.as_millis()));
    }
    Demand {
        replicas: spec.scale.replicas.first(),
        range: spec.scale.replicas.range().map(|range| (range.min, range.max)),
        nodes: None,
        memory_bytes,
        cpu_millis,
    }
}

/// The same of what may run on every node: as many instances as there are nodes for it among these.
pub fn demand_among(nodes: &mut Cluster, spec: &AppSpec, world: World) -> Demand {
    let demand = demand(spec, world);
    if !spec.is_global() {
        return demand;
    }
    let count = nodes.allowed(&spec.placement, Needs::of(world, false)).len();
    Demand { nodes: Some(u32::try_from(count).unwrap_or(u32::MAX)), ..demand }
}

/// Of all nodes that are known those that are not drained.
pub fn undrained(known: Vec<StoredNode>) -> Cluster {
    let mut cluster = Cluster::default();
    for mut node in known.into_iter().filter(|node| !node.settings.draining) {
        node.settings.label(&mut node.registration);
        cluster.set_node(node.id, &node.registration, true);
    }
    cluster
}

/// [`demand_among`] the nodes that there are now.
pub(super) async fn demand_among_nodes(conn: &mut Conn, spec: &AppSpec, world: World) -> Result<Demand> {
    Nodes::default().demand(conn, spec, world).await
}

/// The nodes that are not drained, which are asked for once, and only if some app may run on every one.
#[derive(Default)]
pub(super) struct Nodes(Option<Cluster>);

impl Nodes {
    pub(super) async fn demand(&mut self, conn: &mut Conn, spec: &AppSpec, world: World) -> Result<Demand> {
        if !spec.is_global() {
            return Ok(demand(spec, world));
        }
        if self.0.is_none() {
            self.0 = Some(undrained(store::node::list(conn).await?));
        }
        Ok(demand_among(self.0.get_or_insert_default(), spec, world))
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
        store::quota::used(&mut tx, id, &Resource::ALL).await?
    } else {
        // Releases of earlier versions, which are counted for the first time.
        let mut tx = context.store.write().await?;
        put_demands(&mut tx, id).await?;
        let used = store::quota::used(&mut tx, id, &Resource::ALL).await?;
        tx.commit().await?;
        used
    };
    Ok(QuotaInfo { over: quota::over(&quota, &used), quota, used })
}

/// Sets all limits.
pub(crate) async fn set(context: &Arc<Context>, name: &NamespaceName, quota: Quota) -> Result<QuotaInfo> {
    for destination in &quota.private_outbound {
        if let Err(invalid) = destination.parse::<PrivateDestination>() {
            return problem(ProblemCode::InvalidSpec, format!("private_outbound: {invalid}"));
        }
    }
    let mut tx = context.store.write().await?;
    let id = find_namespace(&mut tx, name).await?;
    let before = store::quota::find(&mut tx, id).await?.unwrap_or_default();
    conditions::check(&format!("quota of the namespace `{name}`"), Some(revision_of(&before)))?;
    audit::change(json!(before), json!(quota));
    if quota == Quota::default() {
        store::quota::delete(&mut tx, id).await?;
    } else {
        store::quota::put(&mut tx, id, &quota).await?;
    }
    put_demands(&mut tx, id).await?;
    let used = store::quota::used(&mut tx, id, &Resource::ALL).await?;
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

#[cfg(test)]
mod tests {
    use wharf_types::quantity::{ByteSize, CpuShare};

    use super::*;

    #[test]
    fn a_container_counts_for_what_it_may_use_and_a_guest_for_what_it_reserves() {
        let mut spec = AppSpec::default();
        spec.limits.memory = ByteSize::mib(512);
        spec.reserve.memory = Some(ByteSize::mib(64));
        spec.reserve.cpu = Some(CpuShare::millis(100));
        spec.container.cpus = Some(CpuShare::millis(2000));
        let of = |spec: &AppSpec, world| {
            let demand = demand(spec, world);
            (demand.memory_bytes >> 20, demand.cpu_millis)
        };
        assert_eq!(of(&spec, World::HttpProxy), (64, 100));
        for world in [World::Container, World::HttpContainer] {
            assert_eq!(of(&spec, world), (512, 2000));
            assert!(!is_unbounded(&spec, world));
        }
        spec.reserve.memory = Some(ByteSize::mib(1024));
        spec.container.cpus = None;
        assert_eq!(of(&spec, World::Container), (1024, 100));
        assert!(is_unbounded(&spec, World::Container) && !is_unbounded(&spec, World::HttpProxy));
    }
}
