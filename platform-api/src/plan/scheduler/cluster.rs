//! The nodes and what is placed on them, indexed for placing more.
//!
//! Every change (an instance placed, leaving or ended, a node that came, changed or went) costs the logarithm of the number
//! of nodes and nothing more; the whole is never built anew, but for the classes when an app is the first to ask for some label.
//! Whatever order the changes came in, the same state gives the same choices.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use wharf_types::incarnation::Incarnation;
use wharf_types::node::NodeRegistration;
use wharf_types::spec::{PlacementSpec, Priority};
use wharf_types::{AppId, InstanceId, NodeId, Timestamp};

use super::counts::Counts;
use super::node::{BANDS, NO_CLASS, Node, Resident, band};
use super::ranking::Ranking;
use super::shape::{Shape, ShapeKey, number};
use super::{Needs, Resources};

/// Kinds of placement that are remembered; beyond that all are forgotten, and worked out again when they are asked for.
const SHAPES_MAX: usize = 1024;

/// See the module. Positions of nodes are private to it: a node that goes and comes back keeps its own.
#[derive(Debug, Default)]
pub struct Cluster {
    pub(super) nodes: Vec<Node>,
    by_id: HashMap<NodeId, u32>,
    by_hostname: HashMap<String, BTreeSet<u32>>,
    pub(super) classes: Vec<Class>,
    by_facts: HashMap<NodeRegistration, u32>,
    /// Where each is; what is known of it stands there. This table may have room for twice as many, so its entries are small.
    instances: HashMap<InstanceId, Spot>,
    apps: HashMap<AppId, Counts>,
    claims: HashMap<AppId, Vec<Claim>>,
    shapes: HashMap<ShapeKey, Arc<Shape>>,
    /// The labels by which nodes are told apart: those that some shape asks for. One that is different on every node and that
    /// nobody asks for would otherwise make a class of each.
    labels: BTreeSet<String>,
    /// Instances of each band.
    bands: [usize; BANDS],
    lingering: HashSet<NodeId>,
    awaited: HashSet<NodeId>,
    draining: HashSet<NodeId>,
    silent: HashSet<NodeId>,
}

/// An instance that takes something of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub app: AppId,
    pub node: NodeId,
    pub takes: Resources,
    pub priority: Priority,
    pub created_at: Timestamp,
    /// Whether it is to stop, so that its room will be free soon.
    pub leaving: bool,
}

/// Room on a node that an app is waiting for, because what has it now was asked to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub node: NodeId,
    pub takes: Resources,
    pub priority: Priority,
}

#[derive(Clone, Copy, Debug)]
struct Spot {
    /// Position of the node.
    node: u32,
    /// In the node's list.
    at: u32,
}

#[derive(Debug)]
pub(super) struct Class {
    pub(super) facts: NodeRegistration,
    /// Its nodes, ready or not.
    pub(super) members: u32,
    /// Those that are ready.
    pub(super) ranking: Ranking,
}

impl Cluster {
    /// Takes in a node, or what has changed of it. Returns whether it is another than before in what it says of itself.
    pub fn set_node(&mut self, id: NodeId, registration: &NodeRegistration, ready: bool) -> bool {
        let at = self.position(id);
        let node = &self.nodes[at as usize];
        if node.ready == ready && node.registration.as_ref() == Some(registration) {
            return false;
        }
        if node.registration.as_ref() == Some(registration) {
            self.set_ready(at, ready);
            return false;
        }
        self.take_out(at);
        let node = &mut self.nodes[at as usize];
        (node.registration, node.ready) = (Some(registration.clone()), ready);
        node.hostname.clone_from(&registration.hostname);
        self.by_hostname.entry(registration.hostname.clone()).or_default().insert(at);
        self.classify(at);
        true
    }

    /// Forgets a node. What is placed on it is still counted, should it come back.
    pub fn remove_node(&mut self, id: NodeId) {
        let Some(at) = self.by_id.get(&id).copied() else { return };
        self.take_out(at);
    }

    /// Whether the node is there, ready or not.
    pub fn knows(&self, id: NodeId) -> bool {
        self.by_id.get(&id).is_some_and(|at| self.nodes[*at as usize].is_present())
    }

    /// Says which nodes are gone, and may still run what there is to be only one of.
    pub fn set_lingering(&mut self, nodes: HashSet<NodeId>) {
        self.lingering = nodes;
    }

    /// Says which nodes are not ready because nobody could have heard of them yet.
    pub fn set_awaited(&mut self, nodes: HashSet<NodeId>) {
        self.awaited = nodes;
    }

    /// Whether nodes may be ready in a moment that are not now.
    pub(super) fn awaits_any(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Why nodes are not ready.
    pub(super) fn unready(&self, nodes: &[&Node]) -> &'static str {
        match nodes.iter().filter(|node| self.awaited.contains(&node.id)).count() {
            0 => "its lease has expired",
            count if count == nodes.len() => "it has not reported to this control plane yet",
            _ => "its lease has expired, or it has not reported to this control plane yet",
        }
    }

    pub(crate) fn lingers(&self, id: NodeId) -> bool {
        self.lingering.contains(&id)
    }

    /// Says which nodes are to be emptied: for the planner they are not ready, and no global app has anything on them.
    pub fn set_draining(&mut self, nodes: HashSet<NodeId>) {
        self.draining = nodes;
    }

    pub(crate) fn drains(&self, id: NodeId) -> bool {
        self.draining.contains(&id)
    }

    /// Says of which nodes nothing is heard, so that these are told from those that are only to be emptied.
    pub fn set_silent(&mut self, nodes: HashSet<NodeId>) {
        self.silent = nodes;
    }

    pub(super) fn is_silent(&self, id: NodeId) -> bool {
        self.silent.contains(&id)
    }

    /// What people call a node, also one that is gone, as long as it was known here.
    pub(crate) fn name_of(&self, id: NodeId) -> String {
        self.position_of(id).map_or_else(|| id.to_string(), |at| self.nodes[at as usize].name())
    }

    /// Says what a node is called that is not there.
    pub fn set_hostname(&mut self, id: NodeId, hostname: &str) {
        let at = self.position(id);
        let node = &mut self.nodes[at as usize];
        if node.hostname != hostname {
            hostname.clone_into(&mut node.hostname);
        }
    }

    /// The nodes that may have an instance of a global app, ready or not.
    pub(crate) fn allowed(&mut self, placement: &PlacementSpec, needs: Needs) -> BTreeSet<NodeId> {
        let shape = self.shape(placement, needs);
        let is_allowed = |node: &&Node| {
            let registration = node.registration.as_ref();
            registration.is_some_and(|registration| {
                shape.admits_class(node.class)
                    && shape.admits_node(node.id, registration)
                    && !self.draining.contains(&node.id)
            })
        };
        self.nodes.iter().filter(is_allowed).map(|node| node.id).collect()
    }

    /// The instances that take something of a node.
    pub fn instances_on(&self, id: NodeId) -> impl ExactSizeIterator<Item = InstanceId> {
        self.residents(id).iter().map(|resident| resident.id)
    }

    /// Whose they are, each of them.
    pub fn apps_on(&self, id: NodeId) -> impl Iterator<Item = AppId> {
        self.residents(id).iter().map(|resident| resident.app)
    }

    fn residents(&self, id: NodeId) -> &[Resident] {
        self.by_id.get(&id).map_or(&[], |at| &self.nodes[*at as usize].instances)
    }

    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().filter(|node| node.is_present()).map(|node| node.id)
    }

    /// Takes in an instance, or what has changed of it.
    pub fn put(&mut self, id: InstanceId, held: Held) {
        match self.instance(id) {
            Some(known) if known == held => return,
            Some(_) => self.remove(id),
            None => {}
        }
        let at = self.position(held.node);
        let node = &mut self.nodes[at as usize];
        self.instances.insert(id, Spot { node: at, at: number(node.instances.len()) });
        node.instances.push(Resident::new(id, held));
        self.bands[band(held.priority)] += 1;
        node.used = node.used.plus(held.takes);
        let sum = if held.leaving { &mut node.leaving } else { &mut node.staying[band(held.priority)] };
        *sum = sum.plus(held.takes);
        self.count(held.app, at, true);
        self.rerank(at);
    }

    /// Forgets an instance that has ended.
    pub fn remove(&mut self, id: InstanceId) {
        let Some(Spot { node: at, at: index }) = self.instances.remove(&id) else { return };
        let node = &mut self.nodes[at as usize];
        let held = node.instances.swap_remove(index as usize).held(node.id);
        if let Some(moved) = node.instances.get(index as usize) {
            let spot = self.instances.get_mut(&moved.id);
            spot.expect("a node's list names instances that are known").at = index;
        }
        self.bands[band(held.priority)] -= 1;
        node.used = node.used.minus(held.takes);
        let sum = if held.leaving { &mut node.leaving } else { &mut node.staying[band(held.priority)] };
        *sum = sum.minus(held.takes);
        self.count(held.app, at, false);
        self.rerank(at);
    }

    /// An instance was told to go, which whoever it belongs to has not been read of yet: who waits for its room is not to tell it again.
    pub fn leave(&mut self, id: InstanceId) {
        if let Some(held) = self.instance(id) {
            self.put(id, Held { leaving: true, ..held });
        }
    }

    pub fn instance(&self, id: InstanceId) -> Option<Held> {
        let Spot { node, at } = self.instances.get(&id)?;
        let node = &self.nodes[*node as usize];
        Some(node.instances[*at as usize].held(node.id))
    }

    /// Sets aside what an app is waiting for, instead of what was set aside for it before.
    pub fn set_claims(&mut self, app: AppId, claims: Vec<Claim>) {
        for claim in self.claims.remove(&app).unwrap_or_default() {
            self.unclaim(app, &claim);
        }
        for claim in &claims {
            self.claim(app, claim);
        }
        if !claims.is_empty() {
            self.claims.insert(app, claims);
        }
    }

    pub(super) fn claim(&mut self, app: AppId, claim: &Claim) {
        self.change_claim(app, claim, true);
    }

    pub(super) fn unclaim(&mut self, app: AppId, claim: &Claim) {
        self.change_claim(app, claim, false);
    }

    fn change_claim(&mut self, app: AppId, claim: &Claim, is_made: bool) {
        let at = self.position(claim.node);
        let sum = &mut self.nodes[at as usize].claimed[band(claim.priority)];
        *sum = if is_made { sum.plus(claim.takes) } else { sum.minus(claim.takes) };
        self.count(app, at, is_made);
        self.rerank(at);
    }

    /// Takes room for an instance that is not made yet.
    pub(super) fn reserve(&mut self, app: AppId, at: u32, takes: Resources) {
        let node = &mut self.nodes[at as usize];
        node.used = node.used.plus(takes);
        self.count(app, at, true);
        self.rerank(at);
    }

    pub(super) fn release(&mut self, app: AppId, at: u32, takes: Resources) {
        let node = &mut self.nodes[at as usize];
        node.used = node.used.minus(takes);
        self.count(app, at, false);
        self.rerank(at);
    }

    pub(super) fn counts(&self, app: AppId) -> Option<&Counts> {
        self.apps.get(&app)
    }

    pub(super) fn position_of(&self, id: NodeId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn positions_of_hostname(&self, hostname: &str) -> impl Iterator<Item = u32> {
        self.by_hostname.get(hostname).into_iter().flatten().copied()
    }

    /// Whether anything of a lower band is placed anywhere.
    pub(super) fn holds_below(&self, band: usize) -> bool {
        self.bands[..band].iter().any(|count| *count > 0)
    }

    /// What an app asks of nodes, for all classes that there are.
    pub(super) fn shape(&mut self, placement: &PlacementSpec, needs: Needs) -> Arc<Shape> {
        let key = ShapeKey::of(placement, needs);
        if !self.shapes.contains_key(&key) {
            if self.shapes.len() >= SHAPES_MAX {
                self.shapes.clear();
                self.labels.clear();
            }
            let shape = Shape::new(&key);
            let labels_before = self.labels.len();
            self.labels.extend(shape.labels().map(str::to_owned));
            if self.labels.len() > labels_before {
                self.reclassify();
            }
            self.shapes.insert(key.clone(), Arc::new(shape));
        }
        let shape = self.shapes.get_mut(&key).expect("it was put there if it was not there");
        if shape.classes_known() < self.classes.len() {
            let shape = Arc::make_mut(shape);
            for class in &self.classes[shape.classes_known()..] {
                shape.add_class(&class.facts);
            }
        }
        shape.clone()
    }

    fn position(&mut self, id: NodeId) -> u32 {
        *self.by_id.entry(id).or_insert_with(|| {
            self.nodes.push(Node::new(id));
            number(self.nodes.len() - 1)
        })
    }

    /// Makes a node one that is not there.
    fn take_out(&mut self, at: u32) {
        let node = &mut self.nodes[at as usize];
        if let Some(registration) = node.registration.take()
            && let Some(same) = self.by_hostname.get_mut(&registration.hostname)
        {
            same.remove(&at);
            if same.is_empty() {
                self.by_hostname.remove(&registration.hostname);
            }
        }
        node.ready = false;
        if let Some(leaf) = node.leaf.take() {
            self.classes[node.class as usize].ranking.remove(leaf);
        }
        self.move_to_class(at, NO_CLASS);
    }

    /// Puts a node that is there into its class.
    fn classify(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let Some(registration) = &node.registration else { return };
        let ready = node.ready;
        let facts = NodeRegistration {
            hostname: String::new(),
            memory_bytes: 0,
            version: String::new(),
            address: None,
            incarnation: Incarnation::default(),
            labels: registration
                .labels
                .iter()
                .filter(|(key, _)| self.labels.contains(*key))
                .map(cloned)
                .collect(),
            ..registration.clone()
        };
        let class = if let Some(class) = self.by_facts.get(&facts) {
            *class
        } else {
            let class = number(self.classes.len());
            self.classes.push(Class { facts: facts.clone(), members: 0, ranking: Ranking::default() });
            self.by_facts.insert(facts, class);
            class
        };
        self.move_to_class(at, class);
        self.set_ready(at, ready);
    }

    /// Only nodes that are ready are in the ranking of their class.
    fn set_ready(&mut self, at: u32, ready: bool) {
        let node = &mut self.nodes[at as usize];
        node.ready = ready;
        let ranking = &mut self.classes[node.class as usize].ranking;
        match node.leaf.take() {
            Some(leaf) if !ready => ranking.remove(leaf),
            None if ready => node.leaf = Some(ranking.insert(node.id, at, node.free())),
            unchanged => node.leaf = unchanged,
        }
    }

    fn move_to_class(&mut self, at: u32, class: u32) {
        let before = std::mem::replace(&mut self.nodes[at as usize].class, class);
        if before == class {
            return;
        }
        if let Some(class) = self.classes.get_mut(before as usize) {
            class.members = class.members.saturating_sub(1);
        }
        if let Some(class) = self.classes.get_mut(class as usize) {
            class.members += 1;
        }
        // Every app that has something on the node, found through what it has there.
        let node = &self.nodes[at as usize];
        let of_instances = node.instances.iter().map(|resident| resident.app);
        let waits_here = |claims: &Vec<Claim>| claims.iter().any(|claim| claim.node == node.id);
        let of_claims = self.claims.iter().filter(|(_, claims)| waits_here(claims)).map(|(app, _)| *app);
        let apps: BTreeSet<AppId> = of_instances.chain(of_claims).collect();
        for app in apps {
            if let Some(counts) = self.apps.get_mut(&app) {
                counts.move_node(at, before, class);
            }
        }
    }

    /// Makes all classes anew, because nodes are to be told apart by more labels.
    fn reclassify(&mut self) {
        let nodes = 0..number(self.nodes.len());
        for at in nodes.clone() {
            self.nodes[at as usize].leaf = None;
            self.move_to_class(at, NO_CLASS);
        }
        self.classes.clear();
        self.by_facts.clear();
        for shape in self.shapes.values_mut() {
            Arc::make_mut(shape).reset();
        }
        for at in nodes {
            self.classify(at);
        }
    }

    fn count(&mut self, app: AppId, at: u32, is_more: bool) {
        let class = self.nodes[at as usize].class;
        let counts = self.apps.entry(app).or_default();
        if is_more {
            counts.add(at, class);
        } else {
            counts.remove(at, class);
        }
        if counts.is_empty() {
            self.apps.remove(&app);
        }
    }

    fn rerank(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        if let Some(leaf) = node.leaf {
            let free = node.free();
            self.classes[node.class as usize].ranking.set(leaf, free);
        }
    }
}

fn cloned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}
