//! Whether a namespace may be granted destinations that are not the public internet's.

use wharf_types::api::Quota;
use wharf_types::problem::ProblemCode;
use wharf_types::spec::{OutboundGrant, OutboundSpec, PrivateDestination};
use wharf_types::{NamespaceId, NamespaceName, Problem};

use super::Result;
use crate::store::{self, Conn};

/// Whether there is anything that a namespace has to be allowed.
pub(super) fn is_private(spec: &OutboundSpec) -> bool {
    grants(spec).any(|(_, grant)| grant.is_private())
}

/// Refuses what a cluster admin has not allowed the namespace. `has`: settings of before, whose grants are kept. A namespace without an id is still
/// to be made.
pub(super) async fn check(
    conn: &mut Conn,
    (id, name): (Option<NamespaceId>, &NamespaceName),
    has: &[&OutboundSpec],
    wanted: &OutboundSpec,
) -> Result<()> {
    if !is_private(wanted) {
        return Ok(());
    }
    let quota = match id {
        Some(id) => store::quota::find(conn, id).await?,
        None => None,
    };
    refusal(name, quota.as_ref(), has, wanted).map_or(Ok(()), |refused| Err(refused.into()))
}

/// Why it would be refused.
pub(super) fn refusal(
    name: &NamespaceName,
    quota: Option<&Quota>,
    has: &[&OutboundSpec],
    wanted: &OutboundSpec,
) -> Option<Problem> {
    let allowed = quota.map(|quota| quota.private_outbound.as_slice()).unwrap_or_default();
    // They were checked when they were set.
    let allowed: Vec<PrivateDestination> = allowed.iter().filter_map(|text| text.parse().ok()).collect();
    let kept = |grant: &OutboundGrant| has.iter().any(|spec| grants(spec).any(|(_, other)| other == *grant));
    let (text, grant) =
        grants(wanted).find(|(_, grant)| grant.is_private() && !grant.is_within(&allowed) && !kept(grant))?;
    let at = if grant.host.contains(':') { format!("[{}]", grant.host) } else { grant.host };
    let destination = grant.port.map_or_else(|| at.clone(), |port| format!("{at}:{port}"));
    let detail = format!(
        "outbound.allow: `{text}` is not of the public internet, and the namespace `{name}` may not be granted it; leave it out, \
         or ask a cluster admin: `wharf quota set -n {name} --private-outbound {destination}`"
    );
    Some(Problem::new(ProblemCode::Forbidden, detail))
}

fn grants(spec: &OutboundSpec) -> impl Iterator<Item = (&String, OutboundGrant)> {
    spec.allow.iter().filter_map(|text| Some((text, text.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_named_with_the_way_out_and_what_there_was_is_kept() {
        let name: NamespaceName = "team".parse().unwrap();
        let spec = |allow: &[&str]| OutboundSpec { allow: allow.iter().map(|&it| it.to_owned()).collect() };
        let quota = |allowed: &str| Quota { private_outbound: vec![allowed.to_owned()], ..Quota::default() };
        let wanted = spec(&["https://example.com", "tcp://127.0.0.1:5432"]);
        let refused = refusal(&name, None, &[], &wanted).unwrap();
        assert_eq!(refused.code, ProblemCode::Forbidden);
        for part in ["`tcp://127.0.0.1:5432`", "-n team --private-outbound 127.0.0.1:5432"] {
            assert!(refused.detail.contains(part), "{}", refused.detail);
        }
        assert!(refusal(&name, Some(&quota("10.0.0.0/8")), &[], &wanted).is_some());
        assert_eq!(refusal(&name, Some(&quota("127.0.0.0/8")), &[], &wanted), None);
        assert_eq!(refusal(&name, Some(&quota("*")), &[], &wanted), None);
        assert_eq!(refusal(&name, None, &[&wanted], &wanted), None);
        assert!(refusal(&name, None, &[&spec(&["tcp://127.0.0.1:*"])], &wanted).is_some());
        let other = spec(&["https://*", "http://hello.internal", "tcp://redis:6379"]);
        assert_eq!(refusal(&name, None, &[], &other), None);
        let refused = refusal(&name, None, &[], &spec(&["http://[::1]:8080"])).unwrap();
        assert!(refused.detail.contains("--private-outbound [::1]:8080"), "{}", refused.detail);
    }
}
