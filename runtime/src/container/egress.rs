//! What containers send beyond their node, held to the egress quota of their namespace and counted in it.
//!
//! The kernel does the first, at the bridges of the namespace: what is too much is dropped ([`rules`]), so that a connection sends more slowly. It also
//! counts what has passed; every second that is taken from the budget which answers of the front door and guests have part in, and [`share`] decides
//! how much of it the containers may have.

mod rules;
mod share;

use std::collections::{BTreeMap, HashMap};
use std::sync::Weak;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};
use wharf_docker::{Bridge, Engine};
use wharf_types::NamespaceName;

use self::rules::{Rule, Wanted};
use self::share::Share;
use super::backend::ContainerBackend;
use crate::wasm::outbound::{Egress, EgressLimit};

/// How often what has passed is counted, and looked whether the rules are there.
const LOOK: Duration = Duration::from_secs(1);
/// How long after its start a worker may not have been told what is limited. Until then rules of the process before it stay.
const START: Duration = Duration::from_secs(30);
/// Where it could not be done.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Holds containers to the quotas for as long as the backend is there.
pub(super) async fn keep(backend: Weak<ContainerBackend>) {
    let mut held = Held::default();
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        let Some(backend) = backend.upgrade() else { return };
        let Some(egress) = backend.egress() else { continue };
        pause = if held.look(backend.engine(), &*egress).await { LOOK } else { LOOK_AGAIN };
    }
}

/// Takes the rules away, when no container is left that they could be for.
pub(super) async fn leave_nothing(engine: &Engine) {
    let node = engine.platform();
    let removed = async {
        let found = rules::list(node).await?;
        rules::follow(rules::steps(node, &[], &found)).await.1
    };
    if let Err(why) = removed.await {
        debug!("rules of the packet filter for egress may be left: {why}");
    }
}

/// What is known of one look at the next.
#[derive(Default)]
struct Held {
    shares: HashMap<NamespaceName, Share>,
    /// What each bridge had let pass.
    passed: HashMap<String, u64>,
    began: Option<Instant>,
    /// Whether anything has been limited.
    knows_limits: bool,
    /// Whether the packet filter has nothing of ours.
    is_clean: bool,
    /// Whether the log has that it cannot be done.
    is_told: bool,
}

impl Held {
    /// False: it cannot be done.
    async fn look(&mut self, engine: &Engine, egress: &dyn Egress) -> bool {
        let limits = egress.limits();
        self.knows_limits |= !limits.is_empty();
        if !self.knows_limits && self.began.get_or_insert_with(Instant::now).elapsed() < START {
            return true;
        }
        self.shares.retain(|namespace, _| limits.iter().any(|limit| limit.namespace == *namespace));
        let bridges = match limits.is_empty() {
            true => Vec::new(),
            false => match engine.bridges().await {
                Ok(bridges) => bridges,
                // Containers go on meanwhile, and so do the rules.
                Err(error) => {
                    debug!("the bridges of containers are not known: {error}");
                    return true;
                }
            },
        };
        let is_any_limited =
            bridges.iter().any(|bridge| limits.iter().any(|it| it.namespace == bridge.namespace));
        if !is_any_limited && self.is_clean {
            return true;
        }
        match self.hold(engine.platform(), &limits, &bridges, egress).await {
            Ok(()) => {
                self.is_clean = !is_any_limited;
                if std::mem::take(&mut self.is_told) {
                    info!(
                        "what containers of this node send is held to the egress quota of their namespace again"
                    );
                }
                true
            }
            // There is nothing to hold, and nothing can be left where it cannot be done.
            Err(_) if !is_any_limited => {
                self.is_clean = true;
                true
            }
            Err(why) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    warn!(
                        "what containers of this node send is not held to the egress quota of their namespace, and not counted: {why}; \
                         this takes root, iptables, and its match `hashlimit` in the kernel"
                    );
                }
                false
            }
        }
    }

    async fn hold(
        &mut self,
        node: &str,
        limits: &[EgressLimit],
        bridges: &[Bridge],
        egress: &dyn Egress,
    ) -> Result<(), String> {
        let found = rules::list(node).await?;
        let passed = self.count(&found, bridges);
        let now = Instant::now();
        let mut wanted = Vec::new();
        for limit in limits {
            let octets = passed.get(&limit.namespace).copied().unwrap_or(0);
            let share = self.shares.entry(limit.namespace.clone()).or_default();
            let per_second = share.look(now, limit, octets);
            if octets > 0 {
                egress.took(&limit.namespace, usize::try_from(octets).unwrap_or(usize::MAX));
            }
            wanted.extend(bridges.iter().filter(|bridge| bridge.namespace == limit.namespace).map(
                |bridge| Wanted {
                    bridge: bridge.interface.clone(),
                    namespace: limit.namespace.clone(),
                    per_second,
                },
            ));
        }
        let (counted, outcome) = rules::follow(rules::steps(node, &wanted, &found)).await;
        self.passed.extend(counted.into_iter().map(|bridge| (bridge, 0)));
        outcome
    }

    /// What has passed since the last look, of each namespace. Of a rule that was there before this process nobody knows since when.
    fn count(&mut self, found: &[Rule], bridges: &[Bridge]) -> BTreeMap<NamespaceName, u64> {
        let mut since = BTreeMap::new();
        self.passed.retain(|interface, _| bridges.iter().any(|bridge| bridge.interface == *interface));
        for bridge in bridges {
            let Some(now) = rules::passed(found, &bridge.interface) else { continue };
            let before = self.passed.insert(bridge.interface.clone(), now).unwrap_or(now);
            // Less than before: the rule was made anew.
            let octets = if now < before { now } else { now - before };
            *since.entry(bridge.namespace.clone()).or_insert(0) += octets;
        }
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_a_bridge_is_counted_once_and_from_when_it_is_known() {
        let bridge = |namespace: &str, interface: &str| Bridge {
            namespace: namespace.parse().unwrap(),
            interface: interface.to_owned(),
        };
        let bridges = [bridge("blue", "br-1"), bridge("blue", "br-2"), bridge("red", "br-3")];
        let rule = |interface: &str, octets| Rule::count(interface, octets);
        let mut held = Held::default();
        let mut count = |found: &[Rule], bridges: &[Bridge]| {
            let counted = held.count(found, bridges);
            counted.into_iter().map(|(namespace, octets)| (namespace.to_string(), octets)).collect::<Vec<_>>()
        };
        let (blue, red) = ("blue".to_owned(), "red".to_owned());
        assert_eq!(count(&[rule("br-1", 500)], &bridges), [(blue.clone(), 0)]);
        let found = [rule("br-1", 700), rule("br-2", 1000), rule("br-3", 9)];
        assert_eq!(count(&found, &bridges), [(blue.clone(), 200), (red.clone(), 0)]);
        let found = [rule("br-1", 710), rule("br-2", 1030), rule("br-3", 4)];
        assert_eq!(count(&found, &bridges), [(blue.clone(), 40), (red, 4)]);
        assert_eq!(count(&found, &bridges[..1]), [(blue, 0)]);
        assert_eq!(held.passed.len(), 1, "bridges that have gone are forgotten");
    }
}
