//! The values of secrets and configs that a compose file has, as they are set for a stack.

use std::collections::HashSet;

use anyhow::Context as _;
use wharf_types::api::SecretSet;
use wharf_types::secret::{SecretValue, ValueKind};
use wharf_types::{NamespaceName, SecretName};

use crate::session::Session;

/// A secret or a config that the file has the value of.
#[derive(Debug)]
pub struct Value {
    pub kind: ValueKind,
    pub name: SecretName,
    pub value: SecretValue,
}

impl Value {
    /// Sets it. One that is as it was stays at its version.
    pub async fn set(&self, session: &Session, namespace: &NamespaceName) -> anyhow::Result<SecretSet> {
        let Self { kind, name, value } = self;
        let done = session.client.set_value(namespace, (*kind, name), value).await;
        done.with_context(|| format!("could not set the {kind} `{name}`"))
    }
}

/// Sets the values whose names are new, of which nothing that runs knows; returns the others.
pub async fn set_new<'v>(
    session: &Session,
    namespace: &NamespaceName,
    values: &'v [Value],
) -> anyhow::Result<Vec<&'v Value>> {
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let mut known = HashSet::new();
    for kind in [ValueKind::Secret, ValueKind::Config] {
        let there = session.client.values(namespace, kind).await?;
        known.extend(there.into_iter().map(|value| value.name));
    }
    let (there, new): (Vec<&Value>, Vec<&Value>) =
        values.iter().partition(|value| known.contains(&value.name));
    for value in new {
        value.set(session, namespace).await?;
    }
    Ok(there)
}
