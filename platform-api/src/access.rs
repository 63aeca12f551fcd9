//! Who may call what: decided from the table's access of a route, from what is known of the caller as of now, and from nothing else.
//!
//! Whether a namespace exists is no part of it. One that the caller does not reach is refused before anybody looks for it, so the
//! answer, and the work behind it, are those of a namespace that does not exist.

use wharf_types::api::{Membership, Role, TokenInfo, Verb};
use wharf_types::{NamespaceName, UserId};

/// What a route asks of its caller. Every route of the table names one; there is no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody, without a token.
    Public,
    /// Any valid token; the answer is about the caller, or holds only what the caller may see.
    Anyone,
    /// The caller's own tokens: a user's token that nothing limits, or what [`Self::Cluster`] lets in for `admin`.
    Own,
    /// Whoever may do this in the namespace of the path.
    User(Verb),
    /// Whoever may do this in the namespace that the query names; without one the same as [`Self::Cluster`].
    Asked(Verb),
    /// Whoever may do this in each namespace that the body names, which the handler asks for: [`Caller::may`].
    Body(Verb),
    /// Whoever may do this in every namespace: a token that belongs to no user and is bound to no namespace.
    Cluster(Verb),
    /// Only a worker.
    Node,
    /// A host with a join token, which the handler looks at and spends.
    Joining,
}

/// Who calls, and what the token and its user are as of now.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) token: TokenInfo,
    pub(crate) owner: Option<UserId>,
    /// Of the owner; empty without one.
    pub(crate) memberships: Vec<Membership>,
}

/// Why a caller is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// For this caller there is no such namespace.
    NoNamespace,
    /// The caller has a lower role.
    Role { needed: Role, has: Role },
    /// The token is limited to other verbs.
    Verb(Verb),
    /// This concerns all namespaces, and the caller does not reach all.
    NotCluster,
    /// A limited token makes and revokes no tokens: it could make itself an unlimited successor.
    Limited,
    /// Only workers.
    NotAWorker,
}

impl Caller {
    /// What the caller is in a namespace. None: nothing, whether it exists or not.
    pub(crate) fn role_in(&self, namespace: &str) -> Option<Role> {
        if self.token.namespace.as_ref().is_some_and(|bound| bound.as_str() != namespace) {
            return None;
        }
        if self.token.user.is_none() {
            return Some(self.token.role);
        }
        let membership =
            self.memberships.iter().find(|membership| membership.namespace.as_str() == namespace)?;
        Some(membership.role.min(self.token.role))
    }

    /// Whether the caller reaches every namespace, also those to come.
    pub(crate) fn is_cluster_wide(&self) -> bool {
        self.token.user.is_none() && self.token.namespace.is_none()
    }

    /// Whether it may do this in the namespace.
    pub(crate) fn may(&self, verb: Verb, namespace: &NamespaceName) -> bool {
        decide(Access::User(verb), self, Some(namespace.as_str())).is_ok()
    }

    /// Whether the token may do less than its user.
    fn is_limited(&self) -> bool {
        self.token.namespace.is_some() || !self.token.verbs.is_empty() || self.token.role < Role::Admin
    }

    /// The name under which things are done: the user's, or that of a token that is nobody's.
    pub(crate) fn name(&self) -> String {
        self.token.user.as_ref().map_or_else(|| self.token.name.clone(), ToString::to_string)
    }
}

/// The namespace first, so that whoever does not reach it learns nothing else; then the role; then what limits the token.
pub(crate) fn decide(access: Access, caller: &Caller, namespace: Option<&str>) -> Result<(), Denied> {
    match access {
        Access::Public | Access::Anyone | Access::Joining => Ok(()),
        // The namespaces come later; what limits the token is known already.
        Access::Body(verb) => within_verbs(verb, caller),
        Access::Node => Err(Denied::NotAWorker),
        Access::Own if caller.token.user.is_some() => match caller.is_limited() {
            true => Err(Denied::Limited),
            false => Ok(()),
        },
        Access::Own => in_every_namespace(Verb::Admin, caller),
        Access::Cluster(verb) => in_every_namespace(verb, caller),
        Access::User(verb) | Access::Asked(verb) => match namespace {
            Some(namespace) => {
                let role = caller.role_in(namespace).ok_or(Denied::NoNamespace)?;
                with_role(verb, caller, role)
            }
            None => in_every_namespace(verb, caller),
        },
    }
}

fn in_every_namespace(verb: Verb, caller: &Caller) -> Result<(), Denied> {
    if caller.token.user.is_some() {
        return Err(Denied::NotCluster);
    }
    with_role(verb, caller, caller.token.role)?;
    if caller.is_cluster_wide() { Ok(()) } else { Err(Denied::NotCluster) }
}

fn with_role(verb: Verb, caller: &Caller, role: Role) -> Result<(), Denied> {
    if role < verb.role() {
        return Err(Denied::Role { needed: verb.role(), has: role });
    }
    within_verbs(verb, caller)
}

fn within_verbs(verb: Verb, caller: &Caller) -> Result<(), Denied> {
    match caller.token.verbs.is_empty() || caller.token.verbs.contains(&verb) {
        true => Ok(()),
        false => Err(Denied::Verb(verb)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wharf_types::{Timestamp, TokenId};

    use super::*;

    const ROLES: [Role; 3] = [Role::Viewer, Role::Developer, Role::Admin];
    const NAMESPACES: [&str; 3] = ["blue", "red", "green"];

    fn caller(
        memberships: Option<Vec<(&str, Role)>>,
        role: Role,
        bound: Option<&str>,
        verbs: Vec<Verb>,
    ) -> Caller {
        let token = TokenInfo {
            id: TokenId::new(),
            name: "token".into(),
            user: memberships.is_some().then(|| "alice".parse().unwrap()),
            role,
            namespace: bound.map(|bound| bound.parse().unwrap()),
            verbs,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
        };
        let membership =
            |(namespace, role): (&str, Role)| Membership { namespace: namespace.parse().unwrap(), role };
        let owner = memberships.is_some().then(UserId::new);
        let memberships = memberships.unwrap_or_default().into_iter().map(membership).collect();
        Caller { token, owner, memberships }
    }

    fn any_role() -> impl Strategy<Value = Role> {
        prop::sample::select(ROLES.to_vec())
    }

    fn any_caller() -> impl Strategy<Value = Caller> {
        let memberships =
            prop::collection::btree_map(prop::sample::select(NAMESPACES.to_vec()), any_role(), 0..3);
        let verbs = prop::sample::subsequence(Verb::ALL.to_vec(), 0..=Verb::ALL.len());
        let bound = prop::option::of(prop::sample::select(NAMESPACES.to_vec()));
        (prop::option::of(memberships), any_role(), bound, verbs).prop_map(
            |(memberships, role, bound, verbs)| {
                caller(memberships.map(|map| map.into_iter().collect()), role, bound, verbs)
            },
        )
    }

    fn any_access() -> impl Strategy<Value = Access> {
        let verb = prop::sample::select(Verb::ALL.to_vec());
        (0..7, verb).prop_map(|(kind, verb)| match kind {
            0 => Access::Anyone,
            1 => Access::Own,
            2 => Access::User(verb),
            3 => Access::Asked(verb),
            4 => Access::Cluster(verb),
            5 => Access::Body(verb),
            _ => Access::Node,
        })
    }

    proptest! {
        #[test]
        fn a_narrower_token_never_may_more(
            caller in any_caller(), access in any_access(), role in any_role(),
            bound in prop::option::of(prop::sample::select(NAMESPACES.to_vec())),
            namespace in prop::option::of(prop::sample::select(NAMESPACES.to_vec())),
            kept in 0..5_usize,
        ) {
            let mut narrower = caller.clone();
            narrower.token.role = role.min(caller.token.role);
            if caller.token.namespace.is_none() {
                narrower.token.namespace = bound.map(|bound| bound.parse().unwrap());
            }
            let verbs = if caller.token.verbs.is_empty() { Verb::ALL.to_vec() } else { caller.token.verbs.clone() };
            narrower.token.verbs = verbs.into_iter().take(kept.max(1)).collect();
            if decide(access, &narrower, namespace).is_ok() {
                prop_assert_eq!(decide(access, &caller, namespace), Ok(()));
            }
        }

        #[test]
        fn who_is_not_in_a_namespace_gets_the_same_answer_for_every_other(caller in any_caller(), access in any_access()) {
            let outside: Vec<&str> =
                ["nowhere", "blue", "red", "green"].into_iter().filter(|name| caller.role_in(name).is_none()).collect();
            for pair in outside.windows(2) {
                prop_assert_eq!(decide(access, &caller, Some(pair[0])), decide(access, &caller, Some(pair[1])));
            }
        }

        #[test]
        fn a_users_token_never_reaches_what_concerns_all_namespaces(caller in any_caller(), access in any_access()) {
            if caller.token.user.is_some() && !matches!(access, Access::Anyone | Access::Own | Access::Body(_)) {
                prop_assert!(decide(access, &caller, None).is_err());
            }
        }
    }

    #[test]
    fn a_member_may_what_the_role_says_in_that_namespace_and_nothing_elsewhere() {
        let alice =
            caller(Some(vec![("blue", Role::Developer), ("red", Role::Viewer)]), Role::Admin, None, vec![]);
        assert_eq!(decide(Access::User(Verb::Deploy), &alice, Some("blue")), Ok(()));
        assert_eq!(
            decide(Access::User(Verb::Deploy), &alice, Some("red")),
            Err(Denied::Role { needed: Role::Developer, has: Role::Viewer })
        );
        assert_eq!(decide(Access::User(Verb::Read), &alice, Some("green")), Err(Denied::NoNamespace));
        assert_eq!(decide(Access::Asked(Verb::Read), &alice, None), Err(Denied::NotCluster));
        assert_eq!(decide(Access::Own, &alice, None), Ok(()));
    }

    #[test]
    fn a_tokens_limits_hold_below_its_users_role() {
        let blue = || Some(vec![("blue", Role::Admin), ("red", Role::Admin)]);
        let capped = caller(blue(), Role::Viewer, None, vec![]);
        assert_eq!(capped.role_in("blue"), Some(Role::Viewer));
        let bound = caller(blue(), Role::Admin, Some("blue"), vec![]);
        assert_eq!((bound.role_in("blue"), bound.role_in("red")), (Some(Role::Admin), None));
        let scales = caller(blue(), Role::Admin, None, vec![Verb::Scale]);
        assert_eq!(decide(Access::User(Verb::Scale), &scales, Some("blue")), Ok(()));
        assert_eq!(decide(Access::User(Verb::Read), &scales, Some("blue")), Err(Denied::Verb(Verb::Read)));
        for limited in [capped, bound, scales] {
            assert_eq!(decide(Access::Own, &limited, None), Err(Denied::Limited));
        }
    }

    #[test]
    fn a_token_that_is_nobodys_may_what_it_could_before_there_were_users() {
        let admin = caller(None, Role::Admin, None, vec![]);
        for access in
            [Access::Own, Access::Cluster(Verb::Admin), Access::User(Verb::Admin), Access::Asked(Verb::Admin)]
        {
            assert_eq!(decide(access, &admin, Some("blue")), Ok(()));
        }
        let bound = caller(None, Role::Admin, Some("blue"), vec![]);
        assert_eq!(decide(Access::Cluster(Verb::Read), &bound, None), Err(Denied::NotCluster));
        assert_eq!(decide(Access::Asked(Verb::Admin), &bound, Some("blue")), Ok(()));
        assert_eq!(decide(Access::User(Verb::Read), &bound, Some("red")), Err(Denied::NoNamespace));
        assert_eq!(decide(Access::Node, &admin, None), Err(Denied::NotAWorker));
    }
}
