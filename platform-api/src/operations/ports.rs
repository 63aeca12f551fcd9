//! Who may have which public port. A port belongs to one app of all namespaces, and some belong to the platform.

use wharf_types::problem::ProblemCode;
use wharf_types::{AppId, NamespaceName, Problem};

use super::Result;
use crate::store::app::App;
use crate::store::port::Owner;
use crate::store::{self, Conn};

/// Gives the ports to the app, or says which of them is not to be had.
pub(super) async fn claim(conn: &mut Conn, platforms: &[u16], app: &App, ports: &[u16]) -> Result<()> {
    for port in ports {
        let owner = store::port::owner(conn, *port).await?;
        if let Some(problem) = refusal(*port, platforms, (&app.namespace, app.id), owner.as_ref()) {
            return Err(problem.into());
        }
        store::port::claim(conn, app.id, *port).await?;
    }
    Ok(())
}

/// Why an app cannot have a port. Whose it is, is told within a namespace only.
pub(super) fn refusal(
    port: u16,
    platforms: &[u16],
    (namespace, app): (&NamespaceName, AppId),
    owner: Option<&Owner>,
) -> Option<Problem> {
    if platforms.contains(&port) {
        let detail =
            format!("tcp.ports: the platform itself listens at port {port}; choose another in `tcp.ports`");
        return Some(Problem::new(ProblemCode::InvalidSpec, detail));
    }
    let owner = owner.filter(|owner| owner.app_id != app)?;
    let detail = if owner.namespace == *namespace {
        format!(
            "the port {port} belongs to the app `{}`; choose another in `tcp.ports`, or take it away there first",
            owner.app
        )
    } else {
        format!("the port {port} is taken; choose another in `tcp.ports`")
    };
    Some(Problem::new(ProblemCode::PortTaken, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_one_owner_who_is_named_to_its_neighbours_only() {
        let namespace: NamespaceName = "blue".parse().unwrap();
        let (this, other) = (AppId::new(), AppId::new());
        let owner = |app_id, namespace: &str| Owner {
            app_id,
            namespace: namespace.parse().unwrap(),
            app: "echo".parse().unwrap(),
        };
        let refusal = |port, owner: Option<Owner>| {
            let refused = super::refusal(port, &[7070, 8080], (&namespace, this), owner.as_ref());
            refused.map(|problem| (problem.code, problem.detail))
        };
        assert_eq!(refusal(7000, None), None);
        assert_eq!(refusal(7000, Some(owner(this, "blue"))), None);
        let (code, detail) = refusal(7000, Some(owner(other, "blue"))).unwrap();
        assert_eq!(code, ProblemCode::PortTaken);
        assert!(detail.contains("7000 belongs to the app `echo`"), "{detail}");
        let (code, detail) = refusal(7000, Some(owner(other, "red"))).unwrap();
        assert_eq!(code, ProblemCode::PortTaken);
        assert!(detail.contains("7000 is taken") && !detail.contains("echo"), "{detail}");
        let (code, detail) = refusal(8080, None).unwrap();
        assert_eq!(code, ProblemCode::InvalidSpec);
        assert!(detail.contains("the platform itself listens at port 8080"), "{detail}");
    }
}
