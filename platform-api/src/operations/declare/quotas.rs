//! What planned changes come to, all together, and which of them goes beyond a quota.
//!
//! It is counted before anything is written, so that a refusal costs little and says which resource is the first one too many. What counts in the
//! end is counted again where the changes are written.

use std::collections::HashMap;

use wharf_types::api::{Quota, QuotaUsed};
use wharf_types::declare::change::PlanError;
use wharf_types::declare::{AppResource, ResourceId};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::VolumeSpec;
use wharf_types::world::World;
use wharf_types::{AppId, Digest, NamespaceId, NamespaceName, Problem};

use crate::operations::quota::{Nodes, standings};
use crate::operations::{Result, autoscale};
use crate::plan::declared::{Live, LiveApp, Planned, Step};
use crate::quota::{self, Resource, Standing};
use crate::store::{self, Conn};

/// What runs of an artifact of a namespace. None: it has no such artifact, which is told elsewhere.
pub(super) type Worlds = HashMap<(NamespaceName, Digest), Option<World>>;

pub(super) async fn errors(
    conn: &mut Conn,
    planned: &[Planned],
    live: &Live,
    worlds: &Worlds,
) -> Result<Vec<PlanError>> {
    let mut of_namespace: HashMap<&NamespaceName, Vec<&Planned>> = HashMap::new();
    for planned in planned {
        if let Some(namespace) = &planned.change.resource.namespace {
            of_namespace.entry(namespace).or_default().push(planned);
        }
    }
    let mut found = Vec::new();
    let mut nodes = Nodes::default();
    for (name, id) in &live.namespaces {
        let (Some(id), Some(planned)) = (*id, of_namespace.get(name)) else { continue };
        let Some(quota) = store::quota::find(conn, id).await? else { continue };
        let mut count = Count::begin(conn, id).await?;
        let mut course = Vec::with_capacity(planned.len());
        for planned in planned {
            count.add(conn, &mut nodes, planned, live, worlds).await?;
            course.push((&planned.change.resource, count.wanted));
            found.extend(too_wide(planned, live, name, &quota));
        }
        found.extend(beyond(name, &quota, &count.used, &course));
    }
    Ok(found)
}

/// One error for each limit that is exceeded in the end, at the first resource with which it is.
fn beyond(
    namespace: &NamespaceName,
    quota: &Quota,
    used: &QuotaUsed,
    course: &[(&ResourceId, QuotaUsed)],
) -> Vec<PlanError> {
    let Some((_, end)) = course.last() else { return Vec::new() };
    let at = |limited: Resource| {
        let is_beyond = |wanted: &QuotaUsed| {
            quota::exceeded(quota, used, wanted).any(|exceeded| exceeded.resource == limited)
        };
        course.iter().find(|(_, wanted)| is_beyond(wanted)).map(|(resource, _)| *resource)
    };
    let error = |exceeded: quota::Exceeded| {
        let resource = at(exceeded.resource)?.clone();
        let detail = exceeded.sentence(namespace);
        Some(PlanError { resource, code: ProblemCode::QuotaExceeded, detail, field: None })
    };
    quota::exceeded(quota, used, end).filter_map(error).collect()
}

/// What a namespace uses, and would use.
struct Count {
    used: QuotaUsed,
    wanted: QuotaUsed,
    apps: HashMap<AppId, Standing>,
}

impl Count {
    async fn begin(conn: &mut Conn, id: NamespaceId) -> Result<Self> {
        let standings = standings(conn, id).await?;
        let used = store::quota::used_with(conn, id, &standings, &Resource::ALL).await?;
        Ok(Self { used, wanted: used, apps: standings.into_iter().collect() })
    }

    async fn add(
        &mut self,
        conn: &mut Conn,
        nodes: &mut Nodes,
        planned: &Planned,
        live: &Live,
        worlds: &Worlds,
    ) -> Result<()> {
        match &planned.step {
            // An app that is deleted counts until it is gone.
            Step::Nothing | Step::MakeNamespace(_) | Step::Join(_) | Step::Delete(_) => {}
            Step::SetConfig(config) => {
                let is_new = !live.configs.contains_key(&(config.namespace.clone(), config.name.clone()));
                self.wanted.secrets += u64::from(is_new);
            }
            Step::Scale { live, to } => {
                let is = self.apps.get(live).copied().unwrap_or_default();
                self.replace(*live, Some(is), Standing { scaled_to: *to, ..is });
            }
            Step::Renew(id) => {
                let Some(is) = self.apps.get(id).copied() else { return Ok(()) };
                // One that sleeps is woken for it.
                if is.demand.is_some_and(|demand| demand.range.is_some()) {
                    let autoscaled_to = is.autoscaled_to.map(|to| to.max(1));
                    self.replace(*id, Some(is), Standing { autoscaled_to, ..is });
                }
            }
            Step::Release { app, live: id, rescale } => {
                let before = id.and_then(|_| live_app(live, app));
                let is = id.and_then(|id| self.apps.get(&id).copied());
                let mut standing = is.unwrap_or_default();
                if *rescale {
                    standing.scaled_to = None;
                }
                if app.spec.scale.replicas.range().is_some() {
                    let spec =
                        before.and_then(|before| before.release.as_ref()).map(|release| &*release.spec);
                    standing.autoscaled_to = Some(autoscale::first(spec, standing.autoscaled_to, &app.spec));
                }
                standing.settled = None;
                let world = worlds.get(&(app.namespace.clone(), app.artifact)).copied().flatten();
                standing.demand = match world {
                    Some(world) => Some(nodes.demand(conn, &app.spec, world.with(&app.spec)).await?),
                    None => standing.demand,
                };
                self.replace(id.unwrap_or_else(AppId::new), is, standing);
                self.volumes(conn, *id, &app.spec.volumes).await?;
            }
        }
        Ok(())
    }

    fn replace(&mut self, id: AppId, before: Option<Standing>, after: Standing) {
        if let Some(before) = before {
            before.take_from(&mut self.wanted);
        }
        after.add_to(&mut self.wanted);
        self.apps.insert(id, after);
    }

    /// Those that a release has not are kept, and count.
    async fn volumes(&mut self, conn: &mut Conn, app: Option<AppId>, volumes: &[VolumeSpec]) -> Result<()> {
        if volumes.is_empty() {
            return Ok(());
        }
        let known = match app {
            Some(app) => store::volume::of_app(conn, app).await?,
            None => Vec::new(),
        };
        for volume in volumes {
            let before = known.iter().find(|known| known.name == volume.name);
            let total = self.wanted.volume_bytes.saturating_add(volume.size.as_bytes());
            self.wanted.volume_bytes = total.saturating_sub(before.map_or(0, |before| before.size_bytes));
        }
        Ok(())
    }
}

fn live_app<'a>(live: &'a Live, app: &AppResource) -> Option<&'a LiveApp> {
    live.apps.get(&(app.namespace.clone(), app.name.clone()))
}

/// Whether a release has a range that its namespace could never use up.
fn too_wide(planned: &Planned, live: &Live, namespace: &NamespaceName, quota: &Quota) -> Option<PlanError> {
    let Step::Release { app, .. } = &planned.step else { return None };
    let range = app.spec.scale.replicas.range()?;
    let before = live_app(live, app).and_then(|before| before.release.as_ref()).map(|release| &*release.spec);
    let Problem { code, detail, .. } = autoscale::too_wide(namespace, quota.instances?, before, range)?;
    let field = Some("scale.replicas.max".to_owned());
    Some(PlanError { resource: planned.change.resource.clone(), code, detail, field })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_resource_beyond_each_limit_is_named_with_all_that_is_asked_for() {
        let namespace: NamespaceName = "blue".parse().unwrap();
        let quota = Quota { apps: Some(2), memory_bytes: Some(2 << 20), ..Quota::default() };
        let used = QuotaUsed { apps: 1, ..QuotaUsed::default() };
        let ids: Vec<ResourceId> =
            (0..5).map(|at| ResourceId::of_app(&namespace, &format!("app-{at}").parse().unwrap())).collect();
        let course: Vec<(&ResourceId, QuotaUsed)> = ids
            .iter()
            .zip(1_u64..)
            .map(|(id, more)| (id, QuotaUsed { apps: 1 + more, memory_bytes: more << 20, ..used }))
            .collect();
        let found = beyond(&namespace, &quota, &used, &course);
        let told: Vec<(&str, bool)> = found
            .iter()
            .map(|error| (error.resource.name.as_str(), error.detail.contains("5 more; delete an app")))
            .collect();
        assert_eq!(told, [("app-1", true), ("app-2", false)]);
        assert!(found[1].detail.starts_with("memory: the namespace uses 0"), "{}", found[1].detail);
        assert!(beyond(&namespace, &quota, &used, &course[..1]).is_empty());
        assert!(beyond(&namespace, &quota, &used, &[]).is_empty());
    }

    #[test]
    fn what_is_beyond_for_a_while_and_not_in_the_end_is_allowed() {
        let namespace: NamespaceName = "blue".parse().unwrap();
        let quota = Quota { instances: Some(4), ..Quota::default() };
        let of = |instances| QuotaUsed { instances, ..QuotaUsed::default() };
        let id = ResourceId::of_app(&namespace, &"web".parse().unwrap());
        assert!(beyond(&namespace, &quota, &of(4), &[(&id, of(6)), (&id, of(3))]).is_empty());
    }
}
