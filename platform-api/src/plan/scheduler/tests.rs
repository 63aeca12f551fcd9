//! The order of nodes and the words of refusals, by example. That they hold for every state is in `properties`.

use std::collections::BTreeMap;

use uuid::Uuid;
use wharf_types::node::NodeRegistration;
use wharf_types::spec::{PlacementSpec, Priority};
use wharf_types::{AppId, InstanceId, NodeId, Timestamp};

use super::{Ask, Claim, Cluster, Held, Needs, Placed, Resources};

const MIB: u64 = 1 << 20;

fn id(number: u128) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(number))
}

fn app(number: u128) -> AppId {
    AppId::from_uuid(Uuid::from_u128(number))
}

fn takes(mib: u64) -> Resources {
    Resources { memory_bytes: mib * MIB, cpu_millis: 0 }
}

/// A node of four processors with labels written `zone=a`.
fn add(cluster: &mut Cluster, number: u128, mib: u64, labels: &[&str]) {
    let labels: BTreeMap<_, _> = labels
        .iter()
        .map(|label| label.split_once('=').unwrap())
        .map(|(k, v)| (k.into(), v.into()))
        .collect();
    let registration = NodeRegistration {
        hostname: format!("n{number}"),
        memory_bytes: mib * MIB,
        cpus: 4,
        labels,
        ..NodeRegistration::default()
    };
    cluster.set_node(id(number), &registration, true);
}

fn hold(cluster: &mut Cluster, number: u128, held: Held) -> InstanceId {
    let id = InstanceId::from_uuid(Uuid::from_u128(number));
    cluster.put(id, held);
    id
}

fn held(of: u128, node: u128, mib: u64, priority: Priority) -> Held {
    let created_at = Timestamp::UNIX_EPOCH;
    Held { app: app(of), node: id(node), takes: takes(mib), priority, created_at, leaving: false }
}

fn ask(placement: &PlacementSpec, mib: u64) -> Ask<'_> {
    Ask { takes: takes(mib), placement, needs: Needs::Nothing, pinned: None, warm: &[], failing: &[] }
}

fn constrained(constraints: &[&str]) -> PlacementSpec {
    let constraints = constraints.iter().map(ToString::to_string).collect();
    PlacementSpec { constraints, ..PlacementSpec::default() }
}

fn of(priority: Priority) -> PlacementSpec {
    PlacementSpec { priority, ..PlacementSpec::default() }
}

/// The nodes of so many instances, by number.
fn choices(cluster: &mut Cluster, ask: Ask<'_>, count: usize) -> Vec<u128> {
    let mut round = cluster.round(app(1), ask);
    let choice = |_| match round.place() {
        Ok(Placed::On(node)) => node.as_uuid().as_u128(),
        other => panic!("{other:?}"),
    };
    (0..count).map(choice).collect()
}

fn refusal(cluster: &mut Cluster, ask: Ask<'_>) -> String {
    cluster.round(app(1), ask).place().unwrap_err().to_string()
}

#[test]
fn an_app_is_spread_before_memory_is_looked_at() {
    let mut cluster = Cluster::default();
    for (number, mib) in [(1, 1000), (2, 500), (3, 500)] {
        add(&mut cluster, number, mib, &[]);
    }
    let placement = PlacementSpec::default();
    assert_eq!(choices(&mut cluster, ask(&placement, 100), 4), [1, 2, 3, 1]);
}

#[test]
fn zones_come_before_racks_and_racks_before_nodes() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 1000, &["zone=a", "rack=1"]);
    add(&mut cluster, 2, 900, &["zone=a", "rack=1"]);
    add(&mut cluster, 3, 800, &["zone=a", "rack=2"]);
    add(&mut cluster, 4, 700, &["zone=b", "rack=1"]);
    let placement = PlacementSpec { spread: vec!["zone".into(), "rack".into()], ..PlacementSpec::default() };
    assert_eq!(choices(&mut cluster, ask(&placement, 10), 6), [1, 4, 3, 4, 2, 4]);
}

#[test]
fn a_node_that_has_the_artifact_is_taken_before_one_with_more_memory() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 1000, &[]);
    add(&mut cluster, 2, 500, &[]);
    let placement = PlacementSpec::default();
    let warm = [id(2)];
    assert_eq!(choices(&mut cluster, Ask { warm: &warm, ..ask(&placement, 10) }, 2), [2, 1]);
}

#[test]
fn a_node_where_the_release_fails_is_the_last_resort() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 1000, &[]);
    add(&mut cluster, 2, 20, &[]);
    let placement = PlacementSpec::default();
    let failing = [(id(1), 3)];
    assert_eq!(choices(&mut cluster, Ask { failing: &failing, ..ask(&placement, 10) }, 3), [2, 2, 1]);
}

#[test]
fn what_is_pinned_goes_to_its_node_or_nowhere() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 1000, &[]);
    add(&mut cluster, 2, 20, &[]);
    let placement = PlacementSpec::default();
    let pinned = |mib| Ask { pinned: Some(id(2)), ..ask(&placement, mib) };
    assert_eq!(choices(&mut cluster, pinned(10), 2), [2, 2]);
    let refused = refusal(&mut cluster, pinned(30));
    let words = "0 of 2 nodes fit: 1 does not have the app's volumes, 1 has too little free memory (needs 30MiB, 20MiB free on n2";
    assert!(refused.starts_with(words), "{refused}");
}

#[test]
fn a_refusal_counts_the_nodes_of_each_filter_and_says_what_would_have_to_change() {
    let mut cluster = Cluster::default();
    let placement = constrained(&["node.labels.zone == eu-1"]);
    assert!(refusal(&mut cluster, ask(&placement, 512)).contains("no node has joined"));
    add(&mut cluster, 1, 4096, &["zone=eu-2"]);
    add(&mut cluster, 2, 4096, &["zone=eu-2"]);
    for number in 3..6 {
        add(&mut cluster, number, 1024, &["zone=eu-1"]);
        hold(&mut cluster, number, held(7, number, 540 + u64::try_from(number).unwrap(), Priority::Normal));
    }
    let gone = NodeRegistration { hostname: "n6".into(), ..NodeRegistration::default() };
    cluster.set_node(id(6), &gone, false);
    assert_eq!(
        refusal(&mut cluster, ask(&placement, 512)),
        "0 of 6 nodes fit: 1 is not ready (its lease has expired), 2 lack the label zone=eu-1 (they have eu-2), \
         3 have too little free memory (needs 512MiB, at most 481MiB free on n3); \
         lower `reserve.memory` from 512MiB to 481MiB, or free 31MiB on n3"
    );
}

#[test]
fn the_nearest_miss_of_a_number_is_named() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 64, &["rack=3"]);
    add(&mut cluster, 2, 64, &["rack=9"]);
    add(&mut cluster, 3, 64, &[]);
    assert_eq!(
        refusal(&mut cluster, ask(&constrained(&["node.labels.rack >= 10"]), 1)),
        "0 of 3 nodes fit: 3 do not meet `node.labels.rack >= 10` (at most 9, on n2); \
         change the label rack of n2 from 9 to 10 (`wharf node label n2 rack=10`)"
    );
    assert_eq!(
        refusal(&mut cluster, ask(&constrained(&["node.labels.zone in (a, b)"]), 1)),
        "0 of 3 nodes fit: 3 do not meet `node.labels.zone in (a, b)` (they have no such label); \
         add the label zone=a to n1 (`wharf node label n1 zone=a`)"
    );
    let cpu =
        Ask { takes: Resources { memory_bytes: 0, cpu_millis: 5000 }, ..ask(&constrained(&[]), 0) }.takes;
    let placement = constrained(&["node.hostname == n1"]);
    let refused = refusal(&mut cluster, Ask { takes: cpu, ..ask(&placement, 0) });
    assert!(
        refused.contains("1 has too few free processors (needs 5, 4 free on n1)")
            && refused.ends_with("; lower `reserve.cpu` from 5 to 4, or add a larger node"),
        "{refused}"
    );
}

#[test]
fn as_many_as_a_node_may_hold_is_a_reason_of_its_own() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 64, &[]);
    let placement = PlacementSpec { max_per_node: Some(2), ..PlacementSpec::default() };
    let mut round = cluster.round(app(1), ask(&placement, 1));
    assert!(round.place().is_ok() && round.place().is_ok());
    assert_eq!(
        round.place().unwrap_err().to_string(),
        "0 of 1 nodes fit: 1 holds 2 of its instances already, all that placement.max_per_node allows; \
         raise `placement.max_per_node` to 3, or add a node"
    );
}

#[test]
fn the_advice_is_about_everything_that_speaks_against_the_nearest_node() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 64, &["zone=a"]);
    add(&mut cluster, 2, 64, &[]);
    let placement = constrained(&["node.labels.zone == b"]);
    let needs = |memory_mib: u64, cpus: u64| {
        let takes = Resources { memory_bytes: memory_mib * MIB, cpu_millis: cpus * 1000 };
        Ask { takes, ..ask(&placement, 0) }
    };
    let change =
        |cluster: &mut Cluster, ask: Ask<'_>| cluster.round(app(1), ask).place().unwrap_err().change.clone();
    assert_eq!(
        change(&mut cluster, needs(1, 6)),
        "change the label zone of n1 from a to b (`wharf node label n1 zone=b`), and lower `reserve.cpu` from 6 to 4"
    );
    // Where the constraint is met, only settings have to change.
    add(&mut cluster, 3, 64, &["zone=b"]);
    assert_eq!(
        change(&mut cluster, needs(100, 6)),
        "lower `reserve.cpu` from 6 to 4, and lower `reserve.memory` from 100MiB to 64MiB"
    );
}

#[test]
fn what_a_node_is_cannot_be_set_so_the_constraint_has_to_change() {
    let mut cluster = Cluster::default();
    let node = NodeRegistration {
        hostname: "n1".into(),
        memory_bytes: 18_513_063 << 10,
        cpus: 4,
        ..NodeRegistration::default()
    };
    cluster.set_node(id(1), &node, true);
    assert_eq!(
        refusal(&mut cluster, ask(&constrained(&["node.memory >= 900GiB"]), 1)),
        "0 of 1 nodes fit: 1 does not meet `node.memory >= 900GiB` (it has 18079MiB); \
         write `node.memory >= 18079MiB` in the place of `node.memory >= 900GiB`, or add a node that meets it"
    );
    assert_eq!(
        refusal(&mut cluster, ask(&constrained(&["node.hostname == n9"]), 1)),
        "0 of 1 nodes fit: 1 does not meet `node.hostname == n9` (it has n1); \
         change the constraint `node.hostname == n9` so that n1 meets it, or add a node that meets it"
    );
}

#[test]
fn a_node_that_is_drained_is_told_from_one_that_is_silent() {
    let mut cluster = Cluster::default();
    for number in 1..4 {
        add(&mut cluster, number, 64, &[]);
    }
    let registration = |number: u128| NodeRegistration {
        hostname: format!("n{number}"),
        memory_bytes: 64 * MIB,
        cpus: 4,
        ..NodeRegistration::default()
    };
    for number in 1..4 {
        cluster.set_node(id(number), &registration(number), false);
    }
    cluster.set_draining([id(1), id(2)].into());
    cluster.set_silent([id(2), id(3)].into());
    let placement = constrained(&[]);
    assert_eq!(
        refusal(&mut cluster, ask(&placement, 1)),
        "0 of 3 nodes fit: 2 are being drained (n1, n2), 1 is not ready (its lease has expired); \
         take n1 back into service (`wharf node resume n1`)"
    );
    cluster.remove_node(id(1));
    cluster.remove_node(id(3));
    assert_eq!(
        refusal(&mut cluster, ask(&placement, 1)),
        "0 of 1 nodes fit: 1 is being drained (n2); \
         take n2 back into service (`wharf node resume n2`), and bring n2 back, of which nothing is heard"
    );
    assert_eq!(cluster.name_of(id(3)), "n3", "it is gone, and known by its name");
}

#[test]
fn a_label_is_quoted_for_a_shell_where_it_has_to_be() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 64, &[]);
    let refused = refusal(&mut cluster, ask(&constrained(&[r#"node.labels.room == "two words""#]), 1));
    assert!(refused.ends_with("(`wharf node label n1 'room=two words'`)"), "{refused}");
}

#[test]
fn the_lowest_priority_leaves_and_as_few_of_it_as_will_do() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 100, &[]);
    add(&mut cluster, 2, 100, &[]);
    hold(&mut cluster, 11, held(7, 1, 100, Priority::Normal));
    hold(&mut cluster, 21, held(8, 2, 30, Priority::Low));
    let large = hold(&mut cluster, 22, held(8, 2, 60, Priority::Low));
    let high = of(Priority::High);
    let placed = cluster.round(app(1), ask(&high, 50)).place();
    assert_eq!(placed, Ok(Placed::After(id(2), vec![large])));
    let normal = of(Priority::Normal);
    assert!(cluster.round(app(1), ask(&normal, 100)).place().is_ok());
    let low = of(Priority::Low);
    assert!(cluster.round(app(1), ask(&low, 50)).place().is_err(), "equals do not push each other out");
}

#[test]
fn of_equals_the_newest_leaves() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 100, &[]);
    let at = |second| Timestamp::from_second(second).unwrap();
    for (number, second) in [(1, 10), (2, 30), (3, 20)] {
        hold(&mut cluster, number, Held { created_at: at(second), ..held(7, 1, 30, Priority::Low) });
    }
    let newest = InstanceId::from_uuid(Uuid::from_u128(2));
    let placed = cluster.round(app(1), ask(&of(Priority::High), 40)).place();
    assert_eq!(placed, Ok(Placed::After(id(1), vec![newest])));
}

#[test]
fn who_was_told_to_leave_is_not_told_again() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 100, &[]);
    let victim = hold(&mut cluster, 1, held(7, 1, 80, Priority::Low));
    let high = of(Priority::High);
    let placed = cluster.round(app(1), ask(&high, 50)).place();
    assert_eq!(placed, Ok(Placed::After(id(1), vec![victim])));
    cluster.leave(victim);
    let placed = cluster.round(app(1), ask(&high, 50)).place();
    assert_eq!(placed, Ok(Placed::After(id(1), vec![])));
}

#[test]
fn others_leave_for_ten_instances_of_an_app_at_a_time() {
    let mut cluster = Cluster::default();
    for number in 1..=12 {
        add(&mut cluster, number, 100, &[]);
        hold(&mut cluster, number, held(7, number, 80, Priority::Low));
    }
    let high = of(Priority::High);
    let mut round = cluster.round(app(1), ask(&high, 90));
    for _ in 0..10 {
        assert!(matches!(round.place(), Ok(Placed::After(_, victims)) if victims.len() == 1));
    }
    for _ in 0..2 {
        let refusal = round.place().unwrap_err();
        assert!(refusal.facts.contains("10 others of it already"), "{refusal}");
    }
    drop(round);
    // Who waits is no obstacle to what fits.
    add(&mut cluster, 13, 100, &[]);
    let mut round = cluster.round(app(1), ask(&high, 90));
    let placed = (0..14).map(|_| round.place()).collect::<Vec<_>>();
    assert_eq!(placed.iter().filter(|placed| matches!(placed, Ok(Placed::On(_)))).count(), 1);
    assert_eq!(placed.iter().filter(|placed| matches!(placed, Ok(Placed::After(..)))).count(), 10);
}

#[test]
fn an_app_never_pushes_out_itself() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 100, &[]);
    hold(&mut cluster, 1, held(1, 1, 80, Priority::Low));
    assert!(cluster.round(app(1), ask(&of(Priority::High), 50)).place().is_err());
}

#[test]
fn room_that_somebody_waits_for_goes_to_no_equal_or_lower_one() {
    let mut cluster = Cluster::default();
    add(&mut cluster, 1, 100, &[]);
    let leaving = hold(&mut cluster, 1, held(7, 1, 80, Priority::Low));
    let (low, normal, high) = (of(Priority::Low), of(Priority::Normal), of(Priority::High));
    let claim = Claim { node: id(1), takes: takes(80), priority: Priority::Normal };
    cluster.set_claims(app(2), vec![claim]);
    cluster.remove(leaving);
    assert!(cluster.round(app(3), ask(&low, 50)).place().is_err());
    assert!(cluster.round(app(3), ask(&normal, 50)).place().is_err());
    hold(&mut cluster, 2, held(7, 1, 10, Priority::Low));
    assert_eq!(cluster.round(app(3), ask(&high, 50)).place(), Ok(Placed::On(id(1))), "a higher one takes it");
    cluster.set_claims(app(2), Vec::new());
    assert_eq!(cluster.round(app(3), ask(&low, 50)).place(), Ok(Placed::On(id(1))));
}

#[test]
fn a_label_that_nobody_asks_for_makes_no_classes() {
    let mut cluster = Cluster::default();
    for number in 1..50 {
        add(&mut cluster, number, 100, &[&format!("serial={number}"), &format!("zone={}", number % 2)]);
    }
    assert_eq!(cluster.classes.len(), 1);
    let placement = PlacementSpec { spread: vec!["zone".into()], ..PlacementSpec::default() };
    assert_eq!(choices(&mut cluster, ask(&placement, 10), 4), [1, 2, 3, 4]);
    assert_eq!(cluster.classes.len(), 2);
}

#[test]
fn nobody_has_to_leave_while_nodes_are_awaited_and_the_refusal_says_which() {
    let mut cluster = Cluster::default();
    for number in 1..=2 {
        add(&mut cluster, number, 100, &[]);
    }
    let low = hold(&mut cluster, 11, held(7, 1, 100, Priority::Low));
    let unready =
        NodeRegistration { hostname: "n2".into(), memory_bytes: 100 * MIB, cpus: 4, ..Default::default() };
    cluster.set_node(id(2), &unready, false);
    cluster.set_awaited([id(2)].into());
    let high = of(Priority::High);
    let refused = refusal(&mut cluster, ask(&high, 50));
    assert!(refused.contains("1 is not ready (it has not reported to this control plane yet)"), "{refused}");
    cluster.set_awaited([].into());
    assert!(
        refusal(&mut cluster, ask(&constrained(&["node.hostname == n2"]), 50))
            .contains("its lease has expired")
    );
    let placed = cluster.round(app(1), ask(&high, 50)).place();
    assert_eq!(placed, Ok(Placed::After(id(1), vec![low])));
}
