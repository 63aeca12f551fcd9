//! Whether a namespace may run a container.

use std::sync::Arc;

use wharf_types::api::{ContainerRights, Quota};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::AppSpec;
use wharf_types::world::World;
use wharf_types::{NamespaceId, NamespaceName, Problem};

use super::{Result, commit, problem};
use crate::context::Context;
use crate::store::{self, Conn};

/// Refuses what a cluster admin has not allowed the namespace. One without an id is still to be made.
pub(super) async fn check(
    conn: &mut Conn,
    namespace: (Option<NamespaceId>, &NamespaceName),
    world: World,
    spec: &AppSpec,
) -> Result<()> {
    find_refusal(conn, namespace, world, spec).await?.map_or(Ok(()), |refused| Err(refused.into()))
}

/// Why they would be refused.
pub(super) async fn find_refusal(
    conn: &mut Conn,
    (id, name): (Option<NamespaceId>, &NamespaceName),
    world: World,
    spec: &AppSpec,
) -> Result<Option<Problem>> {
    if !world.is_container() {
        return Ok(None);
    }
    let quota = match id {
        Some(id) => store::quota::find(conn, id).await?,
        None => None,
    };
    Ok(refusal(name, quota.and_then(|quota| quota.containers), spec))
}

/// Refuses a namespace that may run no container at all.
pub(crate) async fn check_any(context: &Context, name: &NamespaceName) -> Result<()> {
    let mut tx = context.store.read().await?;
    let Some(namespace) = store::namespace::find(&mut tx, name).await? else {
        return problem(ProblemCode::NotFound, format!("there is no namespace `{name}`"));
    };
    check(&mut tx, (Some(namespace.id), name), World::Container, &AppSpec::default()).await
}

/// Whether a namespace may run containers at all.
pub(super) async fn are_allowed(conn: &mut Conn, name: &NamespaceName) -> Result<bool> {
    let id = store::namespace::find_id(conn, name).await?;
    Ok(find_refusal(conn, (id, name), World::Container, &AppSpec::default()).await?.is_none())
}

/// Allows containers in a namespace about which no cluster admin has said anything.
pub(crate) async fn allow_unless_said(context: &Arc<Context>, name: &NamespaceName) -> Result<()> {
    let mut tx = context.store.write().await?;
    let Some(namespace) = store::namespace::find(&mut tx, name).await? else { return Ok(()) };
    let quota = store::quota::find(&mut tx, namespace.id).await?.unwrap_or_default();
    if quota.containers.is_none() {
        let quota = Quota { containers: Some(ContainerRights::Isolated), ..quota };
        store::quota::put(&mut tx, namespace.id, &quota).await?;
        commit(context, tx, []).await?;
    }
    Ok(())
}

/// Why a namespace with these rights may not run a container with these settings.
pub(super) fn refusal(
    name: &NamespaceName,
    rights: Option<ContainerRights>,
    spec: &AppSpec,
) -> Option<Problem> {
    let allow = |what: &str| {
        format!("a cluster admin allows it with `wharf quota set --containers {what} -n {name}`")
    };
    let reaches = spec.container.reaches_node();
    let detail = match rights {
        None | Some(ContainerRights::Denied) => {
            format!("the namespace `{name}` may not run containers; {}", allow("isolated"))
        }
        Some(ContainerRights::Isolated) if !reaches.is_empty() => {
            let named: Vec<String> = reaches.iter().map(|name| format!("`container.{name}`")).collect();
            let (verb, them) = if named.len() == 1 { ("does", "it") } else { ("do", "them") };
            format!(
                "the namespace `{name}` may not give its containers parts of their node, which {} {verb}; leave {them} out, or {}",
                named.join(" and "),
                allow("node")
            )
        }
        Some(ContainerRights::Isolated | ContainerRights::Node) => return None,
    };
    Some(Problem::new(ProblemCode::Forbidden, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_named_with_the_way_out() {
        let name: NamespaceName = "team".parse().unwrap();
        let mut spec = AppSpec::default();
        let of = |rights, spec: &AppSpec| refusal(&name, rights, spec).map(|refused| refused.detail);
        assert_eq!(of(Some(ContainerRights::Isolated), &spec), None);
        for rights in [None, Some(ContainerRights::Denied)] {
            let refused = of(rights, &spec).unwrap();
            assert!(refused.contains("--containers isolated -n team"), "{refused}");
        }
        spec.container.privileged = true;
        spec.container.devices.push("/dev/fuse".to_owned());
        let refused = of(Some(ContainerRights::Isolated), &spec).unwrap();
        assert!(
            refused.contains("which `container.privileged` and `container.devices` do; leave them out"),
            "{refused}"
        );
        assert!(refused.contains("--containers node -n team"), "{refused}");
        assert_eq!(of(Some(ContainerRights::Node), &spec), None);
    }
}
