//! The secrets that this node was delivered, in memory and nowhere else.
//!
//! Each assignment brings all that its instances use, and takes away what they no longer do. Values leave for the guests' variables
//! only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use wharf_types::SecretVersionId;
use wharf_types::node::{AssignedInstance, ReasonKind};
use wharf_types::secret::{DeliveredSecret, SecretContent};
use zeroize::Zeroizing;

use crate::backend::Failure;

/// The variables of a guest, secrets among them.
pub(crate) type Environment = Vec<(String, Zeroizing<String>)>;

/// What was delivered last.
#[derive(Debug, Default)]
pub struct SecretStore {
    delivered: Mutex<HashMap<SecretVersionId, SecretContent>>,
}

impl SecretStore {
    /// To be called before the instances that use them are assigned.
    pub(crate) fn replace(&self, delivered: Vec<DeliveredSecret>) {
        let delivered = delivered.into_iter().map(|secret| (secret.id, secret.content)).collect();
        *self.delivered.lock().unwrap_or_else(PoisonError::into_inner) = delivered;
    }

    /// What the guest of this instance gets to see.
    pub(crate) fn environment(&self, assigned: &AssignedInstance) -> Result<Environment, Failure> {
        let plain = assigned.spec.env.iter();
        let mut environment: Environment =
            plain.map(|(name, value)| (name.clone(), Zeroizing::new(value.clone()))).collect();
        let delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        for (variable, id) in assigned.secrets.iter() {
            let problem = match delivered.get(id) {
                Some(SecretContent::Value(value)) => {
                    environment.push((variable.clone(), Zeroizing::new(value.reveal().to_owned())));
                    continue;
                }
                Some(SecretContent::Unreadable(problem)) => problem.as_str(),
                None => "its secret was not delivered to this node",
            };
            let message = format!("the variable `{variable}` has no value: {problem}");
            return Err(Failure::new(ReasonKind::Platform, message));
        }
        Ok(environment)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wharf_types::InstanceId;

    use super::*;
    use crate::fake::assigned;

    #[test]
    fn a_guest_gets_its_secrets_beside_its_variables_and_no_others() {
        let (mine, other) = (SecretVersionId::new(), SecretVersionId::new());
        let mut instance = assigned(InstanceId::new());
        Arc::make_mut(&mut instance.spec).env.insert("PLAIN".to_owned(), "1".to_owned());
        Arc::make_mut(&mut instance.secrets).insert("PASSWORD".to_owned(), mine);
        let store = SecretStore::default();
        let value = |text: &str| SecretContent::Value(text.to_owned().into());
        store.replace(vec![
            DeliveredSecret { id: mine, content: value("hush") },
            DeliveredSecret { id: other, content: value("not for it") },
        ]);
        let environment = store.environment(&instance).unwrap();
        let variables: Vec<_> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(variables, [("PLAIN", "1"), ("PASSWORD", "hush")]);
        assert!(!format!("{store:?}").contains("hush"));
    }

    #[test]
    fn without_its_secret_no_guest_starts_and_the_reason_names_the_variable() {
        let id = SecretVersionId::new();
        let mut instance = assigned(InstanceId::new());
        Arc::make_mut(&mut instance.secrets).insert("PASSWORD".to_owned(), id);
        let store = SecretStore::default();
        assert!(store.environment(&instance).unwrap_err().to_string().contains("`PASSWORD`"));
        let content = SecretContent::Unreadable("its key is missing".to_owned());
        store.replace(vec![DeliveredSecret { id, content }]);
        assert!(store.environment(&instance).unwrap_err().to_string().contains("its key is missing"));
        store.replace(Vec::new());
        assert!(store.environment(&instance).unwrap_err().to_string().contains("not delivered"));
    }
}
