//! The secrets that this node was delivered, in memory and nowhere else.
//!
//! Each assignment brings all that its instances use, and takes away what they no longer do. Values leave for the guests' variables
//! only.

mod mask;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use wharf_types::SecretVersionId;
use wharf_types::node::{AssignedInstance, ReasonKind};
use wharf_types::secret::{DeliveredSecret, SecretContent};
use zeroize::Zeroizing;

use crate::backend::Failure;

pub(crate) use self::mask::Mask;

/// The variables of a guest, secrets among them.
pub type Environment = Vec<(String, Zeroizing<String>)>;

/// What was delivered last.
#[derive(Debug, Default)]
pub struct SecretStore {
    delivered: Mutex<HashMap<SecretVersionId, SecretContent>>,
}

impl SecretStore {
    /// To be called before the instances that use them are assigned.
    pub fn replace(&self, delivered: Vec<DeliveredSecret>) {
        let delivered = delivered.into_iter().map(|secret| (secret.id, secret.content)).collect();
        *self.delivered.lock().unwrap_or_else(PoisonError::into_inner) = delivered;
    }

    /// What the guest of this instance gets to see.
    pub fn environment(&self, assigned: &AssignedInstance) -> Result<Environment, Failure> {
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

    /// What is not to be quoted of what this instance prints: the values of its secrets. Those of configs may be read.
    pub(crate) fn mask(&self, assigned: &AssignedInstance) -> Mask {
        let delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        let is_secret = |variable: &String| !assigned.spec.configs.contains_key(variable);
        let ids = assigned.secrets.iter().filter(|(variable, _)| is_secret(variable)).map(|(_, id)| id);
        ids.filter_map(|id| match delivered.get(id) {
            Some(SecretContent::Value(value)) => Some(value.clone()),
            _ => None,
        })
        .collect()
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
    fn of_what_a_guest_prints_its_secrets_are_not_quoted_and_its_configs_are() {
        let (secret, config) = (SecretVersionId::new(), SecretVersionId::new());
        let mut instance = assigned(InstanceId::new());
        Arc::make_mut(&mut instance.spec).configs.insert("GREETING".to_owned(), "greeting".parse().unwrap());
        Arc::make_mut(&mut instance.secrets)
            .extend([("PASSWORD".to_owned(), secret), ("GREETING".to_owned(), config)]);
        let store = SecretStore::default();
        let value = |text: &str| SecretContent::Value(text.to_owned().into());
        store.replace(vec![
            DeliveredSecret { id: secret, content: value("hush, hush") },
            DeliveredSecret { id: config, content: value("good morning") },
        ]);
        assert_eq!(store.mask(&instance).over("good morning; hush, hush"), "good morning; ***");
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
