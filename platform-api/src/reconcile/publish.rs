//! Says what every node is told to run and how to route, and knows which routes they have let go of. Sending it is up to others.
//!
//! What each app and each job contributes is kept, so that a change of one costs what that one has, however many others there are. What a node
//! was told last, and what it is told next, share what they have in common ([`sorted`]). [`scratch`] says what all of it has to be.

mod routing;
mod scratch;
mod shares;
mod sorted;
#[cfg(test)]
mod tests;
mod ways;
mod whole;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use wharf_types::delta::{AssignmentDelta, RoutesDelta};
use wharf_types::route::{RateLimit, RouteNode};
use wharf_types::secret::DeliveredSecret;
use wharf_types::{AppId, InstanceId, JobId, NodeId, ReleaseId, SecretVersionId, VolumeId};

use super::fleet::Fleet;
use crate::nodes::NodeStatus;
use crate::plan::job::{JobView, RunView};
use crate::plan::routes::AppRoutes;
use crate::plan::{AppView, InstanceView, ReleaseView, release_of};
use routing::Routing;
use shares::{Difference, Share, Shares};
use sorted::Sorted;
use ways::{Own, Way};
use whole::Assigned;

pub(crate) use whole::Common;
pub use whole::Whole;

pub struct Publisher {
    /// The newest generation that was given to a route table or an assignment.
    generation: u64,
    apps: HashMap<AppId, App>,
    /// Where the runs of each job are.
    jobs: HashMap<JobId, Vec<(NodeId, InstanceId)>>,
    routing: Routing,
    shares: Shares,
    /// Apps whose instances may have become routed or unrouted since nodes were told.
    untracked: BTreeSet<AppId>,
    /// Apps that wait until every ready node has acknowledged the table of a generation.
    waiting: BTreeSet<(u64, AppId)>,
    /// What each node that is there was told last.
    told: BTreeMap<NodeId, Arc<Whole>>,
}

/// What an app contributes.
#[derive(Debug, Default)]
struct App {
    routes: AppRoutes,
    own: Vec<Own>,
    /// What its instances are told alike, by release.
    commons: Vec<(ReleaseId, Arc<Common>)>,
}

/// What nodes are told beside what apps and jobs contribute.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    /// The volumes that each node is to remove.
    pub doomed: &'a BTreeMap<NodeId, Vec<VolumeId>>,
    pub rates: &'a [RateLimit],
    /// Nodes that were taken out of the cluster.
    pub removed: &'a [NodeId],
    /// Opens a secret.
    pub secrets: &'a dyn Fn(SecretVersionId) -> Option<DeliveredSecret>,
}

/// What a node is told next.
#[derive(Clone, Debug)]
pub struct Next {
    pub whole: Arc<Whole>,
    /// From what it was told before. None: nothing.
    pub delta: Option<AssignmentDelta>,
    /// Whether a worker that follows has to know: it does not matter to it how far its own instances have got.
    pub is_news: bool,
}

/// The newest routes that every ready node uses.
pub fn acknowledged(nodes: &[NodeStatus], before: u64) -> u64 {
    let ready = nodes.iter().filter(|node| node.ready);
    // While nobody is there, nobody acknowledges anything.
    ready.map(|node| node.routes_generation).min().unwrap_or(before)
}

impl Publisher {
    /// Generations begin above `base`, so that they also grow over restarts.
    pub fn new(base: u64) -> Self {
        Self {
            generation: base,
            apps: HashMap::new(),
            jobs: HashMap::new(),
            routing: Routing::default(),
            shares: Shares::default(),
            untracked: BTreeSet::new(),
            waiting: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    /// Takes in what apps contribute by now, of those that are another than before, or gone.
    pub fn take_in(&mut self, fleet: &Fleet, apps: impl IntoIterator<Item = AppId>) {
        for id in apps {
            match fleet.get(id) {
                Some((view, releases)) => self.put(view, releases),
                None => self.forget(id),
            }
        }
    }

    fn put(&mut self, view: &AppView, releases: &[Arc<ReleaseView>]) {
        let mut routes = AppRoutes::of(view);
        let before = self.apps.remove(&view.id).unwrap_or_default();
        self.untracked.extend(self.routing.replace(view.id, &before.routes, &mut routes));
        let commons = commons(view, releases, &before.commons);
        let common_of = |instance: &InstanceView| {
            let known = commons.iter().find(|(release, _)| *release == instance.release);
            known.map(|(_, common)| common)
        };
        let live = || view.instances.iter().filter(|it| !it.state.is_final() && common_of(it).is_some());
        let own = ways::succeed(&before.own, live());
        for (node, id) in placed(&before.own) {
            if ways::find(&own, id).is_none_or(|own| own.node != Some(node)) {
                self.shares.remove(node, id);
            }
        }
        for instance in live() {
            let (Some(node), Some(common)) = (instance.node, common_of(instance)) else { continue };
            // Nearly all of a large app is as it was, and is not looked for among what its node has.
            let is_told_alike = before.commons.iter().any(|(_, known)| Arc::ptr_eq(known, common));
            let is_same = ways::find(&before.own, instance.id).is_some_and(|own| own.is_as(instance));
            if !is_told_alike || !is_same {
                self.shares.put(node, Assigned::of_app(instance, common));
            }
        }
        self.apps.insert(view.id, App { routes, own, commons });
    }

    fn forget(&mut self, id: AppId) {
        let Some(before) = self.apps.remove(&id) else { return };
        let mut affected = self.routing.replace(id, &before.routes, &mut AppRoutes::default());
        affected.remove(&id);
        self.untracked.extend(affected);
        placed(&before.own).for_each(|(node, instance)| self.shares.remove(node, instance));
    }

    /// The same of jobs. `views` are those that have not ended.
    pub fn take_in_jobs(&mut self, views: &HashMap<JobId, JobView>, jobs: impl IntoIterator<Item = JobId>) {
        for id in jobs {
            let before = self.jobs.remove(&id).unwrap_or_default();
            let view = views.get(&id);
            let live = || view.into_iter().flat_map(|view| &view.runs).filter(|run| run.is_live());
            let now: Vec<(NodeId, InstanceId)> = live().map(|run: &RunView| (run.node, run.id)).collect();
            for (node, run) in before.into_iter().filter(|place| !now.contains(place)) {
                self.shares.remove(node, run);
            }
            if let Some(view) = view.filter(|_| !now.is_empty()) {
                let common = Arc::new(Common::of_job(view));
                live().for_each(|run| self.shares.put(run.node, Assigned::of_job(view, run, &common)));
                self.jobs.insert(id, now);
            }
        }
    }

    /// Whether something was taken in that no node was told of.
    pub fn has_news(&self) -> bool {
        self.routing.has_changed() || self.shares.has_changed() || !self.untracked.is_empty()
    }

    /// Secrets that some instance newly uses, or none does any more.
    pub(super) fn turned_secrets(&self) -> Vec<SecretVersionId> {
        self.shares.turned_secrets().iter().copied().collect()
    }

    /// Whether any instance uses a secret.
    pub(super) fn uses(&self, secret: SecretVersionId) -> bool {
        self.shares.uses(secret)
    }

    /// Call when the secrets that had turned are opened or forgotten.
    pub(super) fn secrets_settled(&mut self) {
        self.shares.secrets_settled();
    }

    /// Whether one of the nodes has not been told anything yet, or the others have not been told of one.
    pub fn lacks_any_of(&self, nodes: &[NodeStatus]) -> bool {
        nodes.iter().any(|node| !self.told.contains_key(&node.id))
            || self.routing.told().nodes != reached(nodes)
    }

    /// Makes what is to be sent to the nodes, each to its own, of what was taken in.
    pub fn publish(&mut self, nodes: &[NodeStatus], beside: Beside<'_>) -> Vec<Next> {
        let next = self.generation + 1;
        let routes = self.routing.publish(next, beside.rates, reached(nodes), beside.removed);
        if routes.is_some() {
            self.generation = next;
        }
        self.track();
        let mut all = Vec::new();
        for node in nodes {
            all.extend(self.tell(node.id, routes.as_ref(), beside));
        }
        self.shares.told();
        if self.told.len() > nodes.len() {
            let there: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
            self.told.retain(|node, _| there.contains(node));
        }
        all
    }

    /// None: the node was told just that before.
    fn tell(&mut self, node: NodeId, routes: Option<&Arc<RoutesDelta>>, beside: Beside<'_>) -> Option<Next> {
        let removed_volumes = beside.doomed.get(&node).map_or(&[][..], Vec::as_slice);
        let share = self.shares.get(node);
        let next = match self.told.get(&node) {
            None => {
                self.generation += 1;
                let instances = share.map_or_else(Sorted::default, |share| share.instances.clone());
                let secrets = share.into_iter().flat_map(Share::secrets).filter_map(beside.secrets);
                let whole = Arc::new(Whole {
                    node,
                    generation: self.generation,
                    instances,
                    secrets: secrets.collect(),
                    singletons: share.map(|share| share.singletons.clone()).unwrap_or_default(),
                    routes: self.routing.told().clone(),
                    removed_volumes: removed_volumes.to_vec(),
                });
                Next { whole, delta: None, is_news: true }
            }
            Some(known) => {
                let difference = share.map(|share| share.since(known)).unwrap_or_default();
                let has_routes = known.routes.generation == self.routing.told().generation;
                let is_news = difference.is_news() || !has_routes || known.removed_volumes != removed_volumes;
                if !is_news && !difference.is_observed {
                    return None;
                }
                let mut whole = Whole::clone(known);
                if let Some(share) = share {
                    whole.instances = share.instances.clone();
                    whole.singletons = share.singletons.clone();
                }
                if is_news {
                    self.generation += 1;
                    whole.generation = self.generation;
                    whole.routes = self.routing.told().clone();
                    whole.removed_volumes = removed_volumes.to_vec();
                    let delta = delta(known, &mut whole, difference, routes, beside);
                    Next { whole: Arc::new(whole), delta, is_news }
                } else {
                    Next { whole: Arc::new(whole), delta: None, is_news }
                }
            }
        };
        self.told.insert(node, next.whole.clone());
        Some(next)
    }

    /// Looks at what the newest table leads to.
    fn track(&mut self) {
        let generation = self.routing.told().generation;
        for id in std::mem::take(&mut self.untracked) {
            let Some(app) = self.apps.get_mut(&id) else { continue };
            let endpoints = self.routing.endpoints(id, &app.routes);
            if ways::follow(&mut app.own, generation, |instance| endpoints.contains(&instance)) {
                self.waiting.insert((generation, id));
            }
        }
    }

    /// The apps with instances that every ready node has let go of, or has come to know, since this was asked last.
    pub fn take_acknowledged(&mut self, acknowledged: u64) -> BTreeSet<AppId> {
        let mut apps = BTreeSet::new();
        while let Some((generation, app)) = self.waiting.first().copied()
            && generation <= acknowledged
        {
            self.waiting.pop_first();
            apps.insert(app);
        }
        apps
    }

    /// Fills in what only this process knows: what every ingress has acknowledged of an instance.
    pub fn mark_acknowledged(
        &mut self,
        view: &mut AppView,
        releases: &[Arc<ReleaseView>],
        acknowledged: u64,
    ) {
        let own = self.apps.get(&view.id).map_or(&[][..], |app| app.own.as_slice());
        for instance in &mut view.instances {
            let is_unroutable =
                release_of(releases, instance.release).is_some_and(|release| !release.is_routed());
            let way = ways::find(own, instance.id).map_or(Way::Unknown, |own| own.way);
            instance.let_go = is_unroutable || matches!(way, Way::Unrouted(since) if since <= acknowledged);
            instance.routed = is_unroutable || matches!(way, Way::Routed(since) if since <= acknowledged);
            // Also what was acknowledged before: a node that has come back begins anew.
            if let Way::Routed(since) | Way::Unrouted(since) = way
                && since > acknowledged
                && !is_unroutable
            {
                self.waiting.insert((since, view.id));
            }
        }
    }
}

/// Between what a node was told and what it is told next, of which the secrets are made here. None: only the whole tells.
fn delta(
    known: &Whole,
    next: &mut Whole,
    difference: Difference,
    routes: Option<&Arc<RoutesDelta>>,
    beside: Beside<'_>,
) -> Option<AssignmentDelta> {
    let secrets: Vec<DeliveredSecret> = difference.secrets.into_iter().filter_map(beside.secrets).collect();
    for secret in &secrets {
        next.secrets.insert(secret.clone());
    }
    for secret in &difference.dropped_secrets {
        next.secrets.remove(secret);
    }
    // Whenever the routes change, every node is told.
    let routes = match known.routes.generation == next.routes.generation {
        true => None,
        false => Some(routes.filter(|routes| known.routes.generation == routes.after)?.clone()),
    };
    let is_other = known.removed_volumes != next.removed_volumes;
    Some(AssignmentDelta {
        node: next.node,
        after: known.generation,
        generation: next.generation,
        instances: difference.instances,
        dropped_instances: difference.dropped_instances,
        secrets,
        dropped_secrets: difference.dropped_secrets,
        removed_volumes: is_other.then(|| next.removed_volumes.clone()),
        routes,
    })
}

/// Where the ingresses of nodes find one another.
fn reached(nodes: &[NodeStatus]) -> Vec<RouteNode> {
    let alive = nodes.iter().filter(|node| !node.given_up);
    alive.filter_map(|node| Some(RouteNode { node: node.id, address: node.registration.address? })).collect()
}

/// What the live instances of each release are told alike; what is the same as before is the same in memory.
fn commons(
    view: &AppView,
    releases: &[Arc<ReleaseView>],
    before: &[(ReleaseId, Arc<Common>)],
) -> Vec<(ReleaseId, Arc<Common>)> {
    let live = view.instances.iter().filter(|instance| !instance.state.is_final());
    let used: BTreeSet<ReleaseId> = live.map(|instance| instance.release).collect();
    let common = |id: ReleaseId| {
        let common = Common::of_app(view, release_of(releases, id)?);
        match before.iter().find(|(release, known)| *release == id && **known == common) {
            Some((_, same)) => Some((id, same.clone())),
            None => Some((id, Arc::new(common))),
        }
    };
    let mut commons: Vec<(ReleaseId, Arc<Common>)> = used.into_iter().filter_map(common).collect();
    // Of most apps it is one, and there are many apps.
    commons.shrink_to_fit();
    commons
}

fn placed(own: &[Own]) -> impl Iterator<Item = (NodeId, InstanceId)> {
    own.iter().filter_map(|own| Some((own.node?, own.id)))
}
