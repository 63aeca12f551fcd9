//! Places instances of one app, one after the other.
//!
//! Each sees what the ones before it took. Nothing of that lasts: a round that ends leaves the cluster as it was, because what it
//! chose is a proposal until it stands in the store.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use wharf_types::spec::placement::NodeKey;
use wharf_types::{AppId, InstanceId, NodeId};

use super::cluster::{Claim, Class, Cluster, Held};
use super::counts::Counts;
use super::node::{Node, band};
use super::ranking::Found;
use super::shape::{Domain, LEVELS, Shape, number};
use super::{Ask, Placed, Refused, explain, preempt};

/// See the module.
#[derive(Debug)]
pub struct Round<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) app: AppId,
    pub(super) ask: Ask<'a>,
    pub(super) shape: Arc<Shape>,
    /// Positions in their order, as are the next.
    warm: Vec<u32>,
    failing: Vec<(u32, u32)>,
    /// Instances of the app in each group of the shape.
    groups: Vec<u32>,
    /// What has to be taken back at the end.
    placed: Vec<u32>,
    claims: Vec<Claim>,
    told_to_leave: Vec<(InstanceId, Held)>,
    /// Why nothing more fits: that cannot change within a round.
    refusal: Option<Arc<Refused>>,
    /// Whether the node that is pinned is the instance's own: see [`Self::bind`].
    is_bound: bool,
}

/// How a node compares with others that can take the instance; the least is the best.
type Rank = (u32, Spread, u32, bool, Reverse<u64>, NodeId);
/// Instances in the node's group of each level.
type Spread = [u32; LEVELS];

/// Instances of one app, or runs of one job, for which others leave at a time. So a large app of a high priority moves in step by step, and who has
/// to leave for it finds room elsewhere meanwhile, or is missed early on.
const CLAIMS_MAX: usize = 10;

impl Cluster {
    /// Begins to place instances of an app. What the app waits for elsewhere counts as taken; see [`Cluster::set_claims`].
    pub fn round<'a>(&'a mut self, app: AppId, ask: Ask<'a>) -> Round<'a> {
        let shape = self.shape(ask.placement, ask.needs);
        let mut groups = vec![0; shape.groups_len()];
        for (class, count) in self.counts(app).into_iter().flat_map(|counts| counts.classes()) {
            for group in shape.domain(*class).into_iter().flat_map(|domain| &domain.groups) {
                groups[*group as usize] += count.instances;
            }
        }
        let mut warm: Vec<u32> = ask.warm.iter().filter_map(|id| self.position_of(*id)).collect();
        warm.sort_unstable();
        let failing = ask.failing.iter().filter_map(|(id, times)| Some((self.position_of(*id)?, *times)));
        let mut failing: Vec<_> = failing.filter(|(_, times)| *times > 0).collect();
        failing.sort_unstable();
        Round {
            cluster: self,
            app,
            ask,
            shape,
            warm,
            failing,
            groups,
            placed: Vec::new(),
            claims: Vec::new(),
            told_to_leave: Vec::new(),
            refusal: None,
            is_bound: false,
        }
    }
}

impl Round<'_> {
    /// Finds a node for one more instance and takes the room there, or says why there is none.
    pub fn place(&mut self) -> Result<Placed, Arc<Refused>> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        if let Some(at) = self.choose() {
            return Ok(self.take(at));
        }
        match preempt::search(self) {
            Some(found) if found.is_free_now => Ok(self.take(found.node)),
            Some(found) if self.claims.len() < CLAIMS_MAX => Ok(self.wait_for(found.node, found.victims)),
            Some(_) => self.refuse(Refused::has_its_turn(CLAIMS_MAX)),
            None => {
                let refusal = explain::explain(self);
                self.refuse(refusal)
            }
        }
    }

    fn refuse(&mut self, refusal: Refused) -> Result<Placed, Arc<Refused>> {
        let refusal = Arc::new(refusal);
        self.refusal = Some(refusal.clone());
        Err(refusal)
    }

    /// Has all further instances go to one node.
    pub fn pin(&mut self, node: NodeId) {
        self.ask.pinned = Some(node);
    }

    /// Has the next instance go to the node that it is meant for: a global app has one on each.
    pub fn bind(&mut self, node: NodeId) {
        self.pin(node);
        (self.is_bound, self.refusal) = (true, None);
    }

    /// The positions of the nodes that may be looked at.
    pub(super) fn looked_at(&self) -> Range<u32> {
        let own = self.ask.pinned.filter(|_| self.is_bound).and_then(|node| self.cluster.position_of(node));
        own.map_or(0..number(self.cluster.nodes.len()), |at| at..at + 1)
    }

    /// The node that it is bound to.
    pub(super) fn bound_to(&self) -> Option<&Node> {
        let node = self.ask.pinned.filter(|_| self.is_bound)?;
        Some(self.node(self.cluster.position_of(node)?))
    }

    /// The room that the instances placed with [`Placed::After`] are waiting for.
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }

    fn take(&mut self, at: u32) -> Placed {
        self.cluster.reserve(self.app, at, self.ask.takes);
        self.placed.push(at);
        self.count(at);
        Placed::On(self.node(at).id)
    }

    fn wait_for(&mut self, at: u32, victims: Vec<InstanceId>) -> Placed {
        for id in &victims {
            if let Some(held) = self.cluster.instance(*id) {
                self.told_to_leave.push((*id, held));
                self.cluster.put(*id, Held { leaving: true, ..held });
            }
        }
        let node = self.node(at).id;
        let claim = Claim { node, takes: self.ask.takes, priority: self.ask.priority() };
        self.cluster.claim(self.app, &claim);
        self.claims.push(claim);
        self.count(at);
        Placed::After(node, victims)
    }

    fn count(&mut self, at: u32) {
        let class = self.node(at).class;
        for group in self.shape.domain(class).into_iter().flat_map(|domain| &domain.groups) {
            self.groups[*group as usize] += 1;
        }
    }

    /// The first node by [`Rank`], without looking at more than the app's own nodes, the warm ones and the best of each class.
    fn choose(&self) -> Option<u32> {
        if let Some(candidates) = self.candidates() {
            return self.first_of(candidates.into_iter());
        }
        let mut below = None;
        while let Some(spread) = self.next_spread(below) {
            let found = self.first_in(spread);
            if found.is_some() {
                return found;
            }
            below = Some(spread);
        }
        // Only nodes on which the release has failed are left.
        self.first_of(self.failing.iter().map(|(at, _)| *at))
    }

    /// The few nodes that the app names, if it does.
    fn candidates(&self) -> Option<Vec<u32>> {
        if let Some(pinned) = self.ask.pinned {
            return Some(self.cluster.position_of(pinned).into_iter().collect());
        }
        let (key, values) = self.shape.named()?;
        let of_id = |value: &String| self.cluster.position_of(value.parse().ok()?);
        Some(if *key == NodeKey::Id {
            values.iter().filter_map(of_id).collect()
        } else {
            values.iter().flat_map(|name| self.cluster.positions_of_hostname(name)).collect()
        })
    }

    /// How evenly spread the best domains are that are worse than `below`.
    fn next_spread(&self, below: Option<Spread>) -> Option<Spread> {
        let usable = self.shape.domains.iter().filter(|domain| !domain.classes.is_empty());
        let spreads = usable.map(|domain| self.spread(domain));
        spreads.filter(|spread| below.is_none_or(|below| *spread > below)).min()
    }

    /// The first of the nodes without failures in the domains that are spread as said.
    fn first_in(&self, spread: Spread) -> Option<u32> {
        let nothing = Counts::default();
        let own = self.cluster.counts(self.app).unwrap_or(&nothing);
        let is_in = |at: u32| {
            let class = self.node(at).class;
            self.shape.domain(class).is_some_and(|domain| self.spread(domain) == spread)
        };
        let is_new = |at: u32| own.on(at) == 0 && self.failures(at) == 0;
        let warm = self.warm.iter().copied().filter(|at| is_new(*at) && is_in(*at));
        if let Some(found) = self.first_of(warm) {
            return Some(found);
        }
        let mut best: Option<Found> = None;
        for domain in self.shape.domains.iter().filter(|domain| self.spread(domain) == spread) {
            for class in &domain.classes {
                let Class { ranking, members, .. } = &self.cluster.classes[*class as usize];
                // Where the app is on every node already, looking for one without it would look at all of them.
                if own.of_class(*class).nodes < *members {
                    ranking.search(self.ask.takes, &mut best, |at| is_new(at) && self.admits_node(at));
                }
            }
        }
        if let Some(found) = best {
            return Some(found.node);
        }
        self.first_of(
            own.nodes().iter().map(|(at, _)| *at).filter(|at| self.failures(*at) == 0 && is_in(*at)),
        )
    }

    fn first_of(&self, nodes: impl Iterator<Item = u32>) -> Option<u32> {
        nodes.filter(|at| self.fits(*at)).min_by_key(|at| self.rank(*at))
    }

    fn fits(&self, at: u32) -> bool {
        self.is_usable(at) && self.node(at).free().covers(self.ask.takes)
    }

    /// Whether the node passes every filter but that of free room.
    pub(super) fn is_usable(&self, at: u32) -> bool {
        let node = self.node(at);
        node.ready
            && self.is_pinned_to(node)
            && self.shape.admits_class(node.class)
            && self.admits_node(at)
            && self.count_on(at) < self.ask.max_per_node()
    }

    pub(super) fn is_pinned_to(&self, node: &Node) -> bool {
        self.ask.pinned.is_none_or(|pinned| pinned == node.id)
    }

    fn admits_node(&self, at: u32) -> bool {
        if !self.shape.asks_for_single_nodes() {
            return true;
        }
        let node = self.node(at);
        node.registration.as_ref().is_some_and(|registration| self.shape.admits_node(node.id, registration))
    }

    pub(super) fn rank(&self, at: u32) -> Rank {
        let node = self.node(at);
        let spread = self.shape.domain(node.class).map_or([0; LEVELS], |domain| self.spread(domain));
        let is_cold = self.warm.binary_search(&at).is_err();
        let free = node.free().memory_bytes;
        (self.failures(at), spread, self.count_on(at), is_cold, Reverse(free), node.id)
    }

    fn spread(&self, domain: &Domain) -> Spread {
        let mut spread = [0; LEVELS];
        for (level, group) in spread.iter_mut().zip(&domain.groups) {
            *level = self.groups[*group as usize];
        }
        spread
    }

    fn failures(&self, at: u32) -> u32 {
        let found = self.failing.binary_search_by_key(&at, |(node, _)| *node);
        found.map_or(0, |index| self.failing[index].1)
    }

    pub(super) fn count_on(&self, at: u32) -> u32 {
        self.cluster.counts(self.app).map_or(0, |counts| counts.on(at))
    }

    pub(super) fn node(&self, at: u32) -> &Node {
        &self.cluster.nodes[at as usize]
    }

    pub(super) fn band(&self) -> usize {
        band(self.ask.priority())
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        for at in std::mem::take(&mut self.placed) {
            self.cluster.release(self.app, at, self.ask.takes);
        }
        for claim in std::mem::take(&mut self.claims) {
            self.cluster.unclaim(self.app, &claim);
        }
        for (id, held) in std::mem::take(&mut self.told_to_leave) {
            self.cluster.put(id, held);
        }
    }
}
