//! The scheduler beside one that looks at every node and every instance each time: they must always agree.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;
use wharf_types::node::NodeRegistration;
use wharf_types::spec::placement::Constraint;
use wharf_types::spec::{PlacementSpec, Priority};
use wharf_types::{AppId, InstanceId, NodeId, Timestamp};

use super::{Ask, Cluster, Held, Needs, Placed, Resources};

const APPS: u128 = 4;
const NODES: u128 = 8;
const CONSTRAINTS: [&str; 7] = [
    "node.labels.zone == a",
    "node.labels.zone not in (b, c)",
    "node.cpus >= 3",
    "node.memory > 20B",
    "node.hostname in (n1, n2, n3)",
    "node.hostname != n4",
    "node.labels.rack < 2",
];

/// Everything that is known, without any index.
#[derive(Clone, Debug, Default)]
struct Model {
    nodes: BTreeMap<NodeId, (NodeRegistration, bool)>,
    instances: BTreeMap<InstanceId, Held>,
    last: u128,
}

#[derive(Clone, Debug)]
enum Step {
    Node { number: u128, memory_bytes: u64, cpus: u32, zone: Option<&'static str>, rack: u32, ready: bool },
    NodeGoes(u128),
    Place { app: u128, count: usize, takes: Resources, placement: PlacementSpec, hints: Hints },
    End(prop::sample::Index),
    Leave(prop::sample::Index),
}

/// Numbers of nodes.
#[derive(Clone, Debug)]
struct Hints {
    pinned: Option<u128>,
    warm: Vec<u128>,
    failing: Vec<(u128, u32)>,
}

fn node_id(number: u128) -> NodeId {
    // Ids do not come in the order of the numbers.
    NodeId::from_uuid(Uuid::from_u128(number * 5 % 11 + 1))
}

fn app_id(number: u128) -> AppId {
    AppId::from_uuid(Uuid::from_u128(number))
}

fn any_resources() -> impl Strategy<Value = Resources> {
    (1..12u64, prop_oneof![3 => Just(0), 1 => 0..1500u64])
        .prop_map(|(memory_bytes, cpu_millis)| Resources { memory_bytes, cpu_millis })
}

fn any_placement() -> impl Strategy<Value = PlacementSpec> {
    let constraints = prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::sample::subsequence(CONSTRAINTS.to_vec(), 1..3),
    ];
    let spread = proptest::sample::select(vec![vec![], vec!["zone"], vec!["rack"], vec!["zone", "rack"]]);
    let max = prop_oneof![3 => Just(None), 1 => (1..3u32).prop_map(Some)];
    let priority = proptest::sample::select(vec![Priority::Low, Priority::Normal, Priority::High]);
    (constraints, spread, max, priority).prop_map(|(constraints, spread, max_per_node, priority)| {
        PlacementSpec {
            constraints: constraints.into_iter().map(str::to_owned).collect(),
            spread: spread.into_iter().map(str::to_owned).collect(),
            max_per_node,
            priority,
        }
    })
}

fn any_hints() -> impl Strategy<Value = Hints> {
    let some = || proptest::collection::vec(0..NODES, 0..3);
    let failing = proptest::collection::btree_map(0..NODES, 0..3u32, 0..3);
    let pinned = prop_oneof![9 => Just(None), 1 => (0..NODES).prop_map(Some)];
    (pinned, some(), failing).prop_map(|(pinned, warm, failing)| Hints {
        pinned,
        warm,
        failing: failing.into_iter().collect(),
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let zone = proptest::sample::select(vec![None, Some("a"), Some("b"), Some("c")]);
    prop_oneof![
        4 => (0..NODES, 0..40u64, 1..5u32, zone, 0..3u32, any::<bool>(), any::<bool>()).prop_map(
            |(number, memory_bytes, cpus, zone, rack, ready, really)| {
                Step::Node { number, memory_bytes, cpus, zone, rack, ready: ready || really }
            }
        ),
        1 => (0..NODES).prop_map(Step::NodeGoes),
        6 => (0..APPS, 1..5usize, any_resources(), any_placement(), any_hints()).prop_map(
            |(app, count, takes, placement, hints)| Step::Place { app, count, takes, placement, hints }
        ),
        2 => any::<prop::sample::Index>().prop_map(Step::End),
        1 => any::<prop::sample::Index>().prop_map(Step::Leave),
    ]
}

impl Model {
    /// An index made anew, from the last to the first, so that nothing in it can depend on how things came about.
    fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        for (id, held) in self.instances.iter().rev() {
            cluster.put(*id, *held);
        }
        for (id, (registration, ready)) in self.nodes.iter().rev() {
            cluster.set_node(*id, registration, *ready);
        }
        cluster
    }

    fn on(&self, node: NodeId) -> impl Iterator<Item = (&InstanceId, &Held)> {
        self.instances.iter().filter(move |(_, held)| held.node == node)
    }

    fn total(&self, node: NodeId) -> Resources {
        let (registration, _) = &self.nodes[&node];
        let cpu_millis = u64::from(registration.cpus) * 1000;
        Resources { memory_bytes: registration.memory_bytes, cpu_millis }
    }

    /// Whether the total holds those that are counted, and the asked for beside them.
    fn has_room(&self, node: NodeId, ask: &Ask<'_>, counts: impl Fn(&Held) -> bool) -> bool {
        let taken = self.on(node).filter(|(_, held)| counts(held)).map(|(_, held)| held.takes);
        self.total(node).covers(Resources::sum(taken).plus(ask.takes))
    }

    fn is_usable(&self, node: NodeId, app: AppId, ask: &Ask<'_>) -> bool {
        let (registration, ready) = &self.nodes[&node];
        let meets = |text: &String| text.parse::<Constraint>().unwrap().holds(node, registration);
        let own = self.on(node).filter(|(_, held)| held.app == app).count();
        *ready
            && ask.pinned.is_none_or(|pinned| pinned == node)
            && ask.placement.constraints.iter().all(meets)
            && ask.placement.max_per_node.is_none_or(|most| own < most as usize)
    }

    fn choose(&self, app: AppId, ask: &Ask<'_>) -> Option<NodeId> {
        let usable = self
            .nodes
            .keys()
            .copied()
            .filter(|node| self.is_usable(*node, app, ask) && self.has_room(*node, ask, |_| true));
        usable.min_by_key(|node| {
            let own = || self.instances.values().filter(|held| held.app == app);
            let labels = |node: &NodeId| self.nodes.get(node).map(|(registration, _)| &registration.labels);
            let spread: Vec<usize> = (1..=ask.placement.spread.len())
                .map(|level| {
                    let same = |held: &&Held| {
                        let (there, here) = (labels(&held.node), labels(node));
                        there.is_some_and(|there| {
                            let keys = ask.placement.spread[..level].iter();
                            keys.into_iter().all(|key| there.get(key) == here.and_then(|here| here.get(key)))
                        })
                    };
                    own().filter(same).count()
                })
                .collect();
            let failures =
                ask.failing.iter().filter(|(id, _)| id == node).map(|(_, times)| *times).sum::<u32>();
            let count = own().filter(|held| held.node == *node).count();
            let used: u64 = self.on(*node).map(|(_, held)| held.takes.memory_bytes).sum();
            let free = self.total(*node).memory_bytes - used;
            (failures, spread, count, !ask.warm.contains(node), Reverse(free), *node)
        })
    }

    /// Whether pushing out what is of a lower priority, and waiting for what leaves, makes room anywhere.
    fn can_make_room(&self, app: AppId, ask: &Ask<'_>) -> bool {
        let own = ask.placement.priority;
        let stays = |held: &Held| !held.leaving && (held.priority >= own || held.app == app);
        self.instances.values().any(|held| held.priority < own)
            && self
                .nodes
                .keys()
                .any(|node| self.is_usable(*node, app, ask) && self.has_room(*node, ask, stays))
    }

    fn place(&mut self, app: AppId, node: NodeId, ask: &Ask<'_>) -> (InstanceId, Held) {
        self.last += 1;
        let held = Held {
            app,
            node,
            takes: ask.takes,
            priority: ask.placement.priority,
            created_at: Timestamp::from_second(i64::try_from(self.last).unwrap()).unwrap(),
            leaving: false,
        };
        let id = InstanceId::from_uuid(Uuid::from_u128(self.last));
        self.instances.insert(id, held);
        (id, held)
    }
}

/// Places in one round, and checks each choice against the model. Returns what was placed, and who was told to leave.
fn place(model: &mut Model, cluster: &mut Cluster, app: AppId, ask: Ask<'_>, count: usize) -> Vec<Placed> {
    let mut round = cluster.round(app, ask);
    let mut all = Vec::new();
    for _ in 0..count {
        let expected = model.choose(app, &ask);
        match round.place() {
            Ok(Placed::On(node)) => {
                assert_eq!(Some(node), expected);
                model.place(app, node, &ask);
                all.push(Placed::On(node));
            }
            Ok(Placed::After(node, victims)) => {
                assert_eq!(expected, None, "somebody had to leave although there was room");
                assert!(model.is_usable(node, app, &ask));
                for victim in &victims {
                    let held = model.instances.get_mut(victim).unwrap();
                    assert!(held.priority < ask.placement.priority && held.app != app && held.node == node);
                    assert!(!held.leaving, "who leaves already is not told again");
                    held.leaving = true;
                }
                assert!(model.has_room(node, &ask, |held| !held.leaving), "that is not room enough");
                for needless in &victims {
                    let without = |held: &Held| !held.leaving || *held == model.instances[needless];
                    assert!(!model.has_room(node, &ask, without), "{needless} left for nothing");
                }
                all.push(Placed::After(node, victims));
                // What waits for room is in no list of instances; the next round would have to be told by a claim.
                return all;
            }
            Err(refusal) => {
                assert_eq!(expected, None, "{refusal}");
                assert!(!model.can_make_room(app, &ask), "{refusal}");
                let nodes = model.nodes.len();
                let counted = refusal.facts.starts_with(&format!("0 of {nodes} nodes fit: "));
                assert!(nodes == 0 || counted, "{refusal}");
                assert!(!refusal.change.is_empty(), "{refusal}");
                return all;
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn it_chooses_as_one_would_who_looks_at_everything(steps in proptest::collection::vec(any_step(), 0..60)) {
        let mut model = Model::default();
        let mut cluster = Cluster::default();
        for step in steps {
            match step {
                Step::Node { number, memory_bytes, cpus, zone, rack, ready } => {
                    let id = node_id(number);
                    let held = Resources::sum(model.on(id).map(|(_, held)| held.takes));
                    let mut labels = BTreeMap::from([("rack".to_owned(), rack.to_string())]);
                    labels.extend(zone.map(|zone| ("zone".to_owned(), zone.to_owned())));
                    let registration = NodeRegistration {
                        hostname: format!("n{number}"),
                        memory_bytes: memory_bytes + held.memory_bytes,
                        cpus: cpus + u32::try_from(held.cpu_millis.div_ceil(1000)).unwrap(),
                        labels,
                        ..NodeRegistration::default()
                    };
                    cluster.set_node(id, &registration, ready);
                    model.nodes.insert(id, (registration, ready));
                }
                Step::NodeGoes(number) => {
                    cluster.remove_node(node_id(number));
                    model.nodes.remove(&node_id(number));
                }
                Step::Place { app, count, takes, placement, hints } => {
                    let warm: Vec<NodeId> = hints.warm.into_iter().map(node_id).collect();
                    let failing: Vec<_> = hints.failing.into_iter().map(|(node, times)| (node_id(node), times)).collect();
                    let pinned = hints.pinned.map(node_id);
                    let ask = Ask { takes, placement: &placement, needs: Needs::Nothing, pinned, warm: &warm, failing: &failing };
                    let before = model.clone();
                    let placed = place(&mut model, &mut cluster, app_id(app), ask, count);
                    let again = place(&mut before.clone(), &mut cluster, app_id(app), ask, count);
                    prop_assert_eq!(&placed, &again, "the round before left something behind");
                    let anew = place(&mut before.clone(), &mut before.cluster(), app_id(app), ask, count);
                    prop_assert_eq!(&placed, &anew, "the choice depends on what was before");
                    for (id, held) in &model.instances {
                        cluster.put(*id, *held);
                    }
                }
                Step::End(at) if !model.instances.is_empty() => {
                    let id = *at.get(&model.instances.keys().copied().collect::<Vec<_>>());
                    cluster.remove(id);
                    model.instances.remove(&id);
                }
                Step::Leave(at) if !model.instances.is_empty() => {
                    let id = *at.get(&model.instances.keys().copied().collect::<Vec<_>>());
                    let held = Held { leaving: true, ..model.instances[&id] };
                    cluster.put(id, held);
                    model.instances.insert(id, held);
                }
                Step::End(_) | Step::Leave(_) => {}
            }
            for node in model.nodes.keys() {
                let used = Resources::sum(model.on(*node).map(|(_, held)| held.takes));
                prop_assert!(model.total(*node).covers(used), "{} holds more than it has", node);
            }
        }
    }

    #[test]
    fn with_room_enough_the_values_of_a_label_differ_by_one_at_most(
        zones in proptest::collection::vec(1..5u128, 1..5),
        count in 1..40usize,
    ) {
        let mut cluster = Cluster::default();
        let mut zone_of = BTreeMap::new();
        for (zone, nodes) in zones.iter().enumerate() {
            for node in 0..*nodes {
                let id = NodeId::from_uuid(Uuid::from_u128((zone as u128) * 10 + node));
                let labels = BTreeMap::from([("zone".to_owned(), zone.to_string())]);
                let registration = NodeRegistration { memory_bytes: 1000, cpus: 1, labels, ..NodeRegistration::default() };
                cluster.set_node(id, &registration, true);
                zone_of.insert(id, zone);
            }
        }
        let placement = PlacementSpec { spread: vec!["zone".into()], ..PlacementSpec::default() };
        let takes = Resources { memory_bytes: 1, cpu_millis: 0 };
        let ask = Ask { takes, placement: &placement, needs: Needs::Nothing, pinned: None, warm: &[], failing: &[] };
        let mut round = cluster.round(app_id(1), ask);
        let mut in_zone = vec![0u32; zones.len()];
        let mut on_node: BTreeMap<NodeId, u32> = zone_of.keys().map(|id| (*id, 0)).collect();
        for _ in 0..count {
            let Ok(Placed::On(node)) = round.place() else { panic!("there is room") };
            in_zone[zone_of[&node]] += 1;
            *on_node.get_mut(&node).unwrap() += 1;
            prop_assert!(in_zone.iter().max().unwrap() - in_zone.iter().min().unwrap() <= 1, "{:?}", in_zone);
            for zone in 0..zones.len() {
                let counts = || on_node.iter().filter(|(id, _)| zone_of[id] == zone).map(|(_, count)| *count);
                prop_assert!(counts().max().unwrap() - counts().min().unwrap() <= 1);
            }
        }
    }
}
