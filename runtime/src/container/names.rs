//! By which names the guests of this node reach its containers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wharf_types::{InstanceId, NamespaceName};

type Known = HashMap<(NamespaceName, String), Vec<(InstanceId, IpAddr)>>;

/// The containers of this node by the names that they have in their networks: their apps', and aliases.
#[derive(Debug, Default)]
pub struct ContainerNames {
    known: Mutex<Known>,
}

impl ContainerNames {
    pub(crate) fn insert<'a>(
        &self,
        namespace: &NamespaceName,
        names: impl Iterator<Item = &'a str>,
        id: InstanceId,
        address: IpAddr,
    ) {
        let mut known = self.lock();
        for name in names {
            let of_name = known.entry((namespace.clone(), name.to_ascii_lowercase())).or_default();
            if of_name.iter().all(|(other, _)| *other != id) {
                of_name.push((id, address));
            }
        }
    }

    pub(crate) fn remove(&self, id: InstanceId) {
        self.lock().retain(|_, of_name| {
            of_name.retain(|(other, _)| *other != id);
            !of_name.is_empty()
        });
    }

    /// Where the containers of this name are; the name may end in `.internal`. The first is another one each time.
    pub(crate) fn addresses(&self, namespace: &NamespaceName, name: &str) -> Vec<IpAddr> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let name = name.strip_suffix(".internal").unwrap_or(&name).to_owned();
        let mut known = self.lock();
        let Some(of_name) = known.get_mut(&(namespace.clone(), name)) else { return Vec::new() };
        let addresses = of_name.iter().map(|(_, address)| *address).collect();
        of_name.rotate_left(1);
        addresses
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_the_containers_of_its_namespace_in_turn() {
        let names = ContainerNames::default();
        let (ours, theirs): (NamespaceName, NamespaceName) =
            ("ours".parse().unwrap(), "theirs".parse().unwrap());
        let (a, b) = (InstanceId::new(), InstanceId::new());
        let at = |last| IpAddr::from([10, 0, 0, last]);
        names.insert(&ours, ["redis", "Queue"].into_iter(), a, at(1));
        names.insert(&ours, ["redis"].into_iter(), b, at(2));
        assert_eq!(names.addresses(&ours, "redis"), [at(1), at(2)]);
        assert_eq!(names.addresses(&ours, "REDIS.internal."), [at(2), at(1)]);
        assert_eq!(names.addresses(&ours, "queue"), [at(1)]);
        assert!(names.addresses(&theirs, "redis").is_empty());
        names.remove(a);
        assert_eq!(names.addresses(&ours, "redis"), [at(2)]);
        assert!(names.addresses(&ours, "queue").is_empty());
    }
}
