//! Finds constraints that no node can ever meet together.

use super::{Constraint, Order, Test};

/// The first two constraints that exclude each other, by their positions. Only pairs are looked at: a conflict that needs three
/// is found by the scheduler, which says for each constraint how many nodes it refuses.
pub fn conflict(constraints: &[Constraint]) -> Option<(usize, usize)> {
    let excludes = |(a, b): &(usize, usize)| {
        let (a, b) = (&constraints[*a], &constraints[*b]);
        a.key == b.key && (exclude(&a.test, &b.test) || exclude(&b.test, &a.test))
    };
    (0..constraints.len()).flat_map(|b| (0..b).map(move |a| (a, b))).find(excludes)
}

fn exclude(a: &Test, b: &Test) -> bool {
    match (a, b) {
        (Test::AnyOf(a), Test::AnyOf(b)) => !a.iter().any(|value| b.contains(value)),
        (Test::AnyOf(a), Test::NoneOf(b)) => a.iter().all(|value| b.contains(value)),
        (Test::AnyOf(a), Test::Number(order, bound)) => {
            !a.iter().any(|value| value.parse().is_ok_and(|number: f64| order.holds(number, *bound)))
        }
        (Test::Number(low, least), Test::Number(high, most)) => match (low, high) {
            (Order::AtLeast, Order::AtMost) => least > most,
            (Order::AtLeast | Order::MoreThan, Order::AtMost | Order::LessThan) => least >= most,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[&str]) -> Option<(usize, usize)> {
        let constraints: Vec<Constraint> = texts.iter().map(|text| text.parse().unwrap()).collect();
        conflict(&constraints)
    }

    #[test]
    fn two_that_exclude_each_other_are_found() {
        let [zone_1, zone_2] = ["node.labels.zone == eu-1", "node.labels.zone == eu-2"];
        assert_eq!(found(&["node.cpus >= 2", zone_1, zone_2]), Some((1, 2)));
        assert_eq!(found(&["node.labels.zone not in (eu-1, eu-3)", zone_1]), Some((0, 1)));
        assert_eq!(found(&["node.cpus < 4", "node.cpus >= 4"]), Some((0, 1)));
        assert_eq!(found(&["node.labels.rack in (1, 2)", "node.labels.rack > 2"]), Some((0, 1)));
    }

    #[test]
    fn those_that_can_hold_together_are_not() {
        assert_eq!(found(&["node.labels.zone in (a, b)", "node.labels.zone != a"]), None);
        assert_eq!(found(&["node.cpus <= 4", "node.cpus >= 4"]), None);
        assert_eq!(found(&["node.labels.zone == a", "node.labels.rack == b"]), None);
    }
}
