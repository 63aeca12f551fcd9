//! Which of an app's instances routes lead to, since which table, and which of that every ready node has acknowledged.

use wharf_types::state::{InstanceState, Wanted};
use wharf_types::{InstanceId, NodeId};

use crate::plan::InstanceView;

/// An instance of an app, as far as it was taken in; there may be a million of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) id: InstanceId,
    /// Whether it has not ended. One that has is kept as long as routes lead to it.
    pub(super) is_live: bool,
    wanted: Wanted,
    observed: InstanceState,
    pub(super) node: Option<NodeId>,
    pub(super) way: Way,
}

/// Whether routes lead to an instance, with the generation of the first table in which it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// None does, and none has to be let go of.
    Unknown,
    Routed(u64),
    /// None does any more, of one that is to go.
    Unrouted(u64),
}

impl Own {
    /// Whether the instance is as it was when it was taken in, as far as its node is told; slot and release of one never change.
    pub(super) fn is_as(&self, instance: &InstanceView) -> bool {
        self.is_live
            && (self.node, self.wanted, self.observed) == (instance.node, instance.wanted, instance.state)
    }

    fn is_leaving(&self) -> bool {
        self.wanted >= Wanted::Unroute
    }
}

/// The instances of an app that are live and known now, in the order of their ids, with what was known of their ways.
pub(super) fn succeed<'a>(before: &[Own], live: impl Iterator<Item = &'a InstanceView>) -> Vec<Own> {
    let mut all: Vec<Own> = live
        .map(|instance| Own {
            id: instance.id,
            is_live: true,
            wanted: instance.wanted,
            observed: instance.state,
            node: instance.node,
            way: find(before, instance.id).map_or(Way::Unknown, |own| own.way),
        })
        .collect();
    all.sort_unstable_by_key(|own| own.id);
    let live = all.len();
    for own in before.iter().filter(|own| matches!(own.way, Way::Routed(_))) {
        if find(&all[..live], own.id).is_none() {
            all.push(Own { is_live: false, node: None, ..*own });
        }
    }
    all.sort_unstable_by_key(|own| own.id);
    // What was collected one by one has room for up to twice as many.
    all.shrink_to_fit();
    all
}

pub(super) fn find(all: &[Own], id: InstanceId) -> Option<&Own> {
    let at = all.binary_search_by_key(&id, |own| own.id).ok()?;
    all.get(at)
}

/// Takes in which instances the table of a generation leads to. Returns whether one has become routed or unrouted with it.
pub(super) fn follow(all: &mut Vec<Own>, generation: u64, leads_to: impl Fn(InstanceId) -> bool) -> bool {
    let mut is_news = false;
    for own in &mut *all {
        own.way = match own.way {
            way @ Way::Routed(_) if leads_to(own.id) => way,
            way @ Way::Unrouted(_) if own.is_leaving() && !leads_to(own.id) => way,
            _ if own.is_live && leads_to(own.id) => {
                is_news = true;
                Way::Routed(generation)
            }
            _ if own.is_live && own.is_leaving() => {
                is_news = true;
                Way::Unrouted(generation)
            }
            _ => Way::Unknown,
        };
    }
    all.retain(|own| own.is_live || own.way != Way::Unknown);
    is_news
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn own(number: u128, is_leaving: bool) -> Own {
        let id = InstanceId::from_uuid(Uuid::from_u128(number));
        let wanted = if is_leaving { Wanted::Unroute } else { Wanted::Run };
        Own { id, is_live: true, wanted, observed: InstanceState::Running, node: None, way: Way::Unknown }
    }

    #[test]
    fn an_instance_is_routed_and_unrouted_by_the_first_table_that_says_so() {
        let mut all = vec![own(1, false), own(2, false)];
        let first = all[0].id;
        assert!(follow(&mut all, 3, |id| id == first));
        assert_eq!([all[0].way, all[1].way], [Way::Routed(3), Way::Unknown]);
        assert!(!follow(&mut all, 4, |id| id == first));
        assert_eq!(all[0].way, Way::Routed(3));
        all[0].wanted = Wanted::Unroute;
        assert!(follow(&mut all, 5, |_| false));
        assert!(!follow(&mut all, 6, |_| false));
        assert_eq!(all[0].way, Way::Unrouted(5));
    }

    #[test]
    fn one_that_ended_is_known_for_as_long_as_routes_lead_to_it() {
        let mut all = vec![own(1, false)];
        follow(&mut all, 3, |_| true);
        let mut all = succeed(&all, std::iter::empty());
        assert!(!follow(&mut all, 4, |_| true));
        assert_eq!(all[0].way, Way::Routed(3));
        assert!(!follow(&mut all, 5, |_| false));
        assert!(all.is_empty());
        let never = own(2, false);
        assert!(succeed(&[never], std::iter::empty()).is_empty());
    }
}
