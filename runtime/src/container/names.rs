//! By which names the guests of this node reach its containers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wharf_types::{InstanceId, NamespaceName};

type Known = HashMap<(NamespaceName, String), Vec<Named>>;

#[derive(Clone, Copy, Debug)]
struct Named {
    id: InstanceId,
    address: IpAddr,
    /// Whether it is the name of its app, and no further one.
    is_own: bool,
}

/// The containers of this node by the names that they have in their networks: their apps', and further ones, which count where no app is called so. A
/// further name with dots is one in the DNS, and nobody's to take here.
#[derive(Debug, Default)]
pub(crate) struct ContainerNames {
    known: Mutex<Known>,
}

impl ContainerNames {
    pub(crate) fn insert<'a>(
        &self,
        namespace: &NamespaceName,
        own: &str,
        others: impl Iterator<Item = &'a str>,
        (id, address): (InstanceId, IpAddr),
    ) {
        let mut known = self.lock();
        let others = others.filter(|name| *name != own && !name.contains('.')).map(|name| (name, false));
        for (name, is_own) in std::iter::once((own, true)).chain(others) {
            let of_name = known.entry(key(namespace, name)).or_default();
            if of_name.iter().all(|named| named.id != id) {
                of_name.push(Named { id, address, is_own });
            }
        }
    }

    pub(crate) fn remove(&self, id: InstanceId) {
        self.lock().retain(|_, of_name| {
            of_name.retain(|named| named.id != id);
            !of_name.is_empty()
        });
    }

    /// Where a container of this name is, of several each in turn.
    pub(crate) fn next(&self, namespace: &NamespaceName, name: &str) -> Option<IpAddr> {
        let mut known = self.lock();
        let of_name = known.get_mut(&key(namespace, name))?;
        let is_apps = of_name.iter().any(|named| named.is_own);
        let next = of_name.iter().position(|named| named.is_own == is_apps)?;
        let next = of_name.remove(next);
        of_name.push(next);
        Some(next.address)
    }

    /// Whether a container of this name is there.
    pub(crate) fn has(&self, namespace: &NamespaceName, name: &str, address: IpAddr) -> bool {
        let known = self.lock();
        known
            .get(&key(namespace, name))
            .is_some_and(|of_name| meant(of_name).any(|named| named.address == address))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The containers of the app of a name, or those that have it besides.
fn meant(of_name: &[Named]) -> impl Iterator<Item = &Named> {
    let is_apps = of_name.iter().any(|named| named.is_own);
    of_name.iter().filter(move |named| named.is_own == is_apps)
}

fn key(namespace: &NamespaceName, name: &str) -> (NamespaceName, String) {
    (namespace.clone(), bare(name).to_ascii_lowercase())
}

/// `redis.internal.` and `redis` are one.
pub(crate) fn bare(name: &str) -> &str {
    internal(name).unwrap_or_else(|| name.trim_end_matches('.'))
}

/// The app of a name that ends in `.internal`, however that is spelled: such a name means nothing outside of the platform.
pub(crate) fn internal(name: &str) -> Option<&str> {
    const SUFFIX: &str = ".internal";
    let name = name.trim_end_matches('.');
    let (app, suffix) = name.split_at_checked(name.len().checked_sub(SUFFIX.len())?)?;
    suffix.eq_ignore_ascii_case(SUFFIX).then_some(app)
}

/// Whether a name is an app's or nobody's: only those of one label are apps' below `internal`, clouds have names of several there.
pub(crate) fn is_of_platform(name: &str) -> bool {
    internal(name).is_some_and(|app| !app.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_platform_is_one_however_it_is_spelled() {
        for name in ["hello.internal", "hello.INTERNAL", "hello.internal.", "hello.Internal.."] {
            assert_eq!((internal(name), bare(name)), (Some("hello"), "hello"), "{name}");
        }
        for name in ["hello", "internal", "hello.internal.example", "hellointernal", "é.intern"] {
            assert_eq!(internal(name), None, "{name}");
        }
        assert_eq!(bare("example.com."), "example.com");
        assert!(is_of_platform("hello.INTERNAL.") && !is_of_platform("db.zone.internal"));
    }

    #[test]
    fn a_name_leads_to_the_containers_of_its_namespace_in_turn() {
        let names = ContainerNames::default();
        let (ours, theirs): (NamespaceName, NamespaceName) =
            ("ours".parse().unwrap(), "theirs".parse().unwrap());
        let (a, b) = (InstanceId::new(), InstanceId::new());
        let at = |last| IpAddr::from([10, 0, 0, last]);
        names.insert(&ours, "redis", ["Queue", "api.example.com"].into_iter(), (a, at(1)));
        names.insert(&ours, "redis", std::iter::empty(), (b, at(2)));
        let thief = InstanceId::new();
        names.insert(&ours, "other", ["redis"].into_iter(), (thief, at(9)));
        assert!(!names.has(&ours, "redis", at(9)), "the app of that name has it");
        assert_eq!(names.next(&ours, "api.example.com"), None);
        assert_eq!(names.next(&ours, "redis"), Some(at(1)));
        assert_eq!(names.next(&ours, "REDIS.internal."), Some(at(2)));
        assert_eq!(names.next(&ours, "redis"), Some(at(1)));
        assert_eq!(names.next(&ours, "queue"), Some(at(1)));
        assert!(names.has(&ours, "redis.internal", at(2)) && !names.has(&ours, "queue", at(2)));
        assert!(names.next(&theirs, "redis").is_none() && !names.has(&theirs, "redis", at(1)));
        names.remove(a);
        assert_eq!(names.next(&ours, "redis"), Some(at(2)));
        assert_eq!(names.next(&ours, "queue"), None);
    }
}
