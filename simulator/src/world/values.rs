//! Secrets and configs: users set, change and remove them, and apps and jobs name some.

use std::collections::BTreeMap;

use wharf_types::secret::ValueKind;
use wharf_types::{NamespaceName, SecretName};

use super::{Event, World, say};

const NAMES: [(&str, ValueKind); 4] = [
    ("token", ValueKind::Secret),
    ("password", ValueKind::Secret),
    ("greeting", ValueKind::Config),
    ("colour", ValueKind::Config),
];

/// Variables with the names of their values.
pub(super) type Named = BTreeMap<String, SecretName>;

impl World {
    /// Most values are there before anything else.
    pub(super) fn begin_values(&mut self) {
        if !self.setup.extras.values {
            return;
        }
        for _ in 0..NAMES.len() {
            let namespace = self.throw_namespace();
            self.set_value(&namespace);
        }
        let wait = self.tenant_dice.millis(200..=2_000);
        self.after(wait, Event::Value);
    }

    /// Somebody changes a value, or removes one.
    pub(super) fn change_value(&mut self) {
        self.let_service_go();
        if self.is_calm() {
            return;
        }
        let wait = self.tenant_dice.millis(200..=6_000);
        self.after(wait, Event::Value);
        if !self.controls[self.leader()].is_up {
            return;
        }
        let namespace = self.throw_namespace();
        if self.tenant_dice.percent(15) {
            self.remove_value(&namespace);
        } else {
            self.set_value(&namespace);
        }
    }

    fn set_value(&mut self, namespace: &NamespaceName) {
        let (name, kind) = self.throw_value();
        let now = self.wish_time();
        let known = self.store.values.get(&(namespace.clone(), name.clone()));
        let newest = known.and_then(|value| value.versions.last()).map(|newest| newest.text.clone());
        // What is set again is no new version, but for apps that are on an older one.
        let is_again = self.tenant_dice.percent(20);
        self.clients.values += 1;
        let text = newest.filter(|_| is_again).unwrap_or_else(|| format!("text {}", self.clients.values));
        let before = self.begin(namespace);
        let outcome = self.store.set_value(namespace, (&name, kind), &text, now);
        let what = format!("the {kind} {name} of {namespace} = {text}");
        let Some(apps) = self.end(&before, &what, outcome) else { return };
        say!(self, "somebody sets {what}: releases of {apps:?}");
        self.check_value_set(&before.store, (namespace, &name), &text);
        apps.into_iter().for_each(|app| self.tell(app));
    }

    fn remove_value(&mut self, namespace: &NamespaceName) {
        let (name, kind) = self.throw_value();
        let before = self.begin(namespace);
        let outcome = self.store.remove_value(namespace, &name);
        let what = format!("the end of the {kind} {name} of {namespace}");
        if self.end(&before, &what, outcome).is_some() {
            say!(self, "somebody removes the {kind} {name} of {namespace}");
            self.check_value_removed(namespace, &name);
        }
    }

    fn throw_value(&mut self) -> (SecretName, ValueKind) {
        let (name, kind) = self.tenant_dice.pick(&NAMES);
        (name.parse().expect("it is a name"), kind)
    }

    /// What an app or a job names: secrets and configs, most of them such as there are.
    pub(super) fn name_values(&mut self, namespace: &NamespaceName) -> (Named, Named) {
        let (mut secrets, mut configs) = (Named::new(), Named::new());
        if !self.setup.extras.values {
            return (secrets, configs);
        }
        for (text, kind) in NAMES {
            let name: SecretName = text.parse().expect("it is a name");
            let is_there = self.store.values.contains_key(&(namespace.clone(), name.clone()));
            if self.tenant_dice.percent(if is_there { 50 } else { 3 }) {
                let named = if kind == ValueKind::Secret { &mut secrets } else { &mut configs };
                named.insert(text.to_ascii_uppercase(), name);
            }
        }
        (secrets, configs)
    }
}
