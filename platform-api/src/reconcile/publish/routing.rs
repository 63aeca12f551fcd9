//! The route table, kept up by what single apps contribute.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;
use wharf_types::delta::RoutesDelta;
use wharf_types::route::{ContainerRoute, RateLimit, Route, RouteNode, TcpRoute};
use wharf_types::{AppId, InstanceId, NodeId};

use super::sorted::{Keyed, Sorted};
use super::whole::{Claim, Routes};
use crate::plan::routes::AppRoutes;

#[derive(Debug, Default)]
pub(super) struct Routing {
    http: Claims<Route>,
    tcp: Claims<TcpRoute>,
    containers: Claims<ContainerRoute>,
    /// As nodes were told last.
    told: Arc<Routes>,
}

/// Who has what in one part of the table. Of apps that contribute the same pattern, port or name, the oldest has it.
#[derive(Debug)]
struct Claims<T>
where
    Claim<T>: Keyed,
{
    held: Sorted<Claim<T>>,
    /// What newer apps contribute, and have only when the older ones do not any more.
    others: BTreeMap<(<Claim<T> as Keyed>::Key, AppId), Arc<T>>,
    /// What may not be as nodes were told last.
    changed: BTreeSet<<Claim<T> as Keyed>::Key>,
}

/// What has changed of one part of the table: what is new or different, and the keys of what is gone.
type Changed<T> = (Vec<Arc<T>>, Vec<<Claim<T> as Keyed>::Key>);

impl Routing {
    /// Takes in what an app contributes instead of what it did before; of `after`, what is the same is made the same in memory. Returns the
    /// apps that may have something else in the table than before.
    pub(super) fn replace(
        &mut self,
        app: AppId,
        before: &AppRoutes,
        after: &mut AppRoutes,
    ) -> BTreeSet<AppId> {
        let mut affected = BTreeSet::from([app]);
        self.http.replace(app, &before.http, &mut after.http, &mut affected);
        self.tcp.replace(app, &before.tcp, &mut after.tcp, &mut affected);
        self.containers.replace(app, &before.containers, &mut after.containers, &mut affected);
        affected
    }

    /// The instances that requests and connections to an app go to, by what it has of what it contributes.
    pub(super) fn endpoints(&self, app: AppId, routes: &AppRoutes) -> BTreeSet<InstanceId> {
        let http = routes.http.iter().filter(|route| self.http.has(app, route));
        let http = http.flat_map(|route| &route.endpoints).map(|endpoint| endpoint.instance);
        let tcp = routes.tcp.iter().filter(|route| self.tcp.has(app, route));
        let tcp = tcp.flat_map(|route| &route.endpoints).map(|endpoint| endpoint.instance);
        http.chain(tcp).collect()
    }

    pub(super) fn told(&self) -> &Arc<Routes> {
        &self.told
    }

    /// Whether apps have contributed something else since nodes were told.
    pub(super) fn has_changed(&self) -> bool {
        !self.http.changed.is_empty() || !self.tcp.changed.is_empty() || !self.containers.changed.is_empty()
    }

    /// Makes the next table, if it differs from what nodes were told last, and returns what changes that one into it.
    pub(super) fn publish(
        &mut self,
        generation: u64,
        limits: &[RateLimit],
        nodes: Vec<RouteNode>,
        removed: &[NodeId],
    ) -> Option<Arc<RoutesDelta>> {
        let before = &*self.told;
        let (routes, dropped_routes) = self.http.take_changed(&before.http);
        let (tcp, dropped_tcp) = self.tcp.take_changed(&before.tcp);
        let (containers, dropped_containers) = self.containers.take_changed(&before.containers);
        let delta = RoutesDelta {
            after: before.generation,
            generation,
            routes,
            dropped_routes,
            tcp,
            dropped_tcp,
            containers,
            dropped_containers,
            limits: (before.limits != limits).then(|| limits.to_vec()),
            nodes: (before.nodes != nodes).then(|| nodes.clone()),
            removed: (before.removed != removed).then(|| removed.to_vec()),
        };
        let is_same = RoutesDelta { after: 0, generation: 0, ..delta.clone() } == nothing();
        if is_same && before.generation > 0 {
            return None;
        }
        self.told = Arc::new(Routes {
            generation,
            http: self.http.held.clone(),
            tcp: self.tcp.held.clone(),
            containers: self.containers.held.clone(),
            limits: limits.to_vec(),
            nodes,
            removed: removed.to_vec(),
        });
        Some(Arc::new(delta))
    }
}

fn nothing() -> RoutesDelta {
    RoutesDelta {
        after: 0,
        generation: 0,
        routes: Vec::new(),
        dropped_routes: Vec::new(),
        tcp: Vec::new(),
        dropped_tcp: Vec::new(),
        containers: Vec::new(),
        dropped_containers: Vec::new(),
        limits: None,
        nodes: None,
        removed: None,
    }
}

impl<T> Default for Claims<T>
where
    Claim<T>: Keyed,
{
    fn default() -> Self {
        Self { held: Sorted::default(), others: BTreeMap::new(), changed: BTreeSet::new() }
    }
}

impl<T: PartialEq> Claims<T>
where
    Claim<T>: Keyed,
{
    fn replace(
        &mut self,
        app: AppId,
        before: &[Arc<T>],
        after: &mut [Arc<T>],
        affected: &mut BTreeSet<AppId>,
    ) {
        for route in &mut *after {
            if let Some(same) = before.iter().find(|known| **known == *route) {
                *route = same.clone();
            }
        }
        // Most changes of an app are none of its routes.
        let is_same = |(before, after): (&Arc<T>, &Arc<T>)| Arc::ptr_eq(before, after);
        if before.len() == after.len() && before.iter().zip(&*after).all(is_same) {
            return;
        }
        let key = |route: &Arc<T>| Claim { app, route: route.clone() }.key();
        let kept: BTreeSet<_> = after.iter().map(key).collect();
        for gone in before.iter().map(key).filter(|key| !kept.contains(key)) {
            self.give_up(app, &gone, affected);
        }
        let mut seen = BTreeSet::new();
        for route in after.iter().filter(|route| seen.insert(key(route))) {
            self.claim(Claim { app, route: route.clone() }, affected);
        }
    }

    fn has(&self, app: AppId, route: &Arc<T>) -> bool {
        let key = Claim { app, route: route.clone() }.key();
        self.held.get(&key).is_some_and(|claim| claim.app == app)
    }

    fn claim(&mut self, claim: Claim<T>, affected: &mut BTreeSet<AppId>) {
        let key = claim.key();
        match self.held.get(&key) {
            Some(known) if known.app == claim.app && known.route == claim.route => return,
            Some(known) if known.app < claim.app => {
                self.others.insert((key, claim.app), claim.route);
                return;
            }
            Some(known) if known.app > claim.app => {
                affected.insert(known.app);
                self.others.insert((key.clone(), known.app), known.route.clone());
            }
            _ => {}
        }
        self.held.insert(claim);
        self.changed.insert(key);
    }

    fn give_up(&mut self, app: AppId, key: &<Claim<T> as Keyed>::Key, affected: &mut BTreeSet<AppId>) {
        if self.held.get(key).is_none_or(|claim| claim.app != app) {
            self.others.remove(&(key.clone(), app));
            return;
        }
        let first = (key.clone(), AppId::from_uuid(Uuid::nil()));
        let next = self.others.range(first..).next().filter(|((of, _), _)| of == key);
        match next.map(|((_, app), route)| Claim { app: *app, route: route.clone() }) {
            Some(next) => {
                affected.insert(next.app);
                self.others.remove(&(key.clone(), next.app));
                self.held.insert(next);
            }
            None => {
                self.held.remove(key);
            }
        }
        self.changed.insert(key.clone());
    }

    fn take_changed(&mut self, told: &Sorted<Claim<T>>) -> Changed<T> {
        let (mut new, mut dropped) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.changed) {
            match (told.get(&key), self.held.get(&key)) {
                (Some(told), Some(held)) if told.route == held.route => {}
                (_, Some(held)) => new.push(held.route.clone()),
                (Some(_), None) => dropped.push(key),
                (None, None) => {}
            }
        }
        (new, dropped)
    }
}
