//! The variables of an app: what its manifest says, and what `env` set over that.
//!
//! A release holds its variables complete, and of those that were set over, also the manifest's own values. A reset therefore
//! depends on nothing but the release that the app is on.

use std::collections::{BTreeMap, HashSet};

use wharf_types::api::EnvPatch;
use wharf_types::problem::ProblemCode;
use wharf_types::spec::{AppSpec, InvalidSpec, validate_env};

use super::{Result, problem};
use crate::store::app::EnvOverrides;

type Variables = BTreeMap<String, String>;

/// The variables of a release in the making.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ReleaseEnv {
    /// What the guest sees.
    pub(super) variables: Variables,
    /// Of what is overridden, the manifest's own values.
    pub(super) own: EnvOverrides,
}

impl ReleaseEnv {
    /// A manifest's variables with everything that `env` set.
    pub(super) fn of_manifest(variables: Variables, overrides: &EnvOverrides) -> Self {
        let mut env = Self { variables, own: EnvOverrides::new() };
        for (name, value) in overrides {
            env.set(name, value.as_ref());
        }
        env
    }

    pub(super) fn of_release(spec: &AppSpec, own: &EnvOverrides) -> Self {
        Self { variables: spec.env.clone(), own: own.clone() }
    }

    fn set(&mut self, name: &str, value: Option<&String>) {
        let before = assign(&mut self.variables, name, value);
        // What stands there already, if it does, is the manifest's; the value before is then only an older override.
        self.own.entry(name.to_owned()).or_insert(before);
    }

    fn reset(&mut self, name: &str) {
        if let Some(own) = self.own.remove(name) {
            assign(&mut self.variables, name, own.as_ref());
        }
    }

    /// Carries a patch out, here and in what later releases will get.
    pub(super) fn patch(&mut self, overrides: &mut EnvOverrides, patch: EnvPatch) {
        for name in patch.reset {
            self.reset(&name);
            overrides.remove(&name);
        }
        for (name, value) in patch.set {
            self.set(&name, value.as_ref());
            overrides.insert(name, value);
        }
    }
}

/// Gives a variable a value, or takes it away, and returns the value before.
fn assign(variables: &mut Variables, name: &str, value: Option<&String>) -> Option<String> {
    match value {
        Some(value) => variables.insert(name.to_owned(), value.clone()),
        None => variables.remove(name),
    }
}

/// Refuses a patch that says nothing, or two things of one variable.
pub(super) fn check_patch(patch: &EnvPatch) -> Result<()> {
    let invalid = |detail: String| problem(ProblemCode::InvalidSpec, detail);
    if patch.set.is_empty() && patch.reset.is_empty() {
        return invalid("nothing is changed; name variables in `set` or in `reset`".to_owned());
    }
    let mut names: HashSet<&str> = patch.set.keys().map(String::as_str).collect();
    match patch.reset.iter().find(|name| !names.insert(name)) {
        Some(twice) => invalid(format!("reset: `{twice}` is named twice, here or also in `set`")),
        None => Ok(()),
    }
}

/// What was taken away counts, too: it stays until it is reset.
pub(super) fn check_overrides(overrides: &EnvOverrides) -> std::result::Result<(), InvalidSpec> {
    let variables =
        overrides.iter().map(|(name, value)| (name.as_str(), value.as_deref().unwrap_or_default()));
    validate_env("env set and unset over the manifest", variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn patch(set: &[(&str, Option<&str>)], reset: &[&str]) -> EnvPatch {
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
        EnvPatch { set, reset: reset.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_reset_brings_the_manifests_own_values_back() {
        let manifest = variables(&[("A", "file"), ("B", "file")]);
        let mut overrides = EnvOverrides::new();
        let mut env = ReleaseEnv::of_manifest(manifest.clone(), &overrides);
        env.patch(&mut overrides, patch(&[("A", Some("one")), ("B", None), ("C", Some("new"))], &[]));
        env.patch(&mut overrides, patch(&[("A", Some("two"))], &[]));
        assert_eq!(env.variables, variables(&[("A", "two"), ("C", "new")]));
        env.patch(&mut overrides, patch(&[], &["A", "B", "C", "D"]));
        assert_eq!(
            (env, overrides),
            (ReleaseEnv { variables: manifest, own: EnvOverrides::new() }, EnvOverrides::new())
        );
    }

    #[test]
    fn a_later_manifest_changes_what_a_reset_brings_back() {
        let mut overrides = EnvOverrides::new();
        let mut first = ReleaseEnv::of_manifest(variables(&[("A", "file")]), &overrides);
        first.patch(&mut overrides, patch(&[("A", Some("set"))], &[]));
        let mut second = ReleaseEnv::of_manifest(variables(&[("A", "newer file")]), &overrides);
        assert_eq!(second.variables, variables(&[("A", "set")]));
        second.patch(&mut overrides, patch(&[], &["A"]));
        assert_eq!(second.variables, variables(&[("A", "newer file")]));
    }

    #[test]
    fn a_patch_that_says_nothing_or_contradicts_itself_is_refused() {
        assert!(check_patch(&patch(&[], &[])).is_err());
        assert!(check_patch(&patch(&[("A", None)], &["A"])).unwrap_err().to_string().contains("`A`"));
        assert!(check_patch(&patch(&[], &["A", "A"])).is_err());
        assert!(check_patch(&patch(&[("A", None)], &["B"])).is_ok());
    }

    #[test]
    fn variables_that_were_taken_away_are_bounded_as_well() {
        let overrides = (0..5000).map(|number| (format!("NAME_{number}"), None)).collect();
        assert!(check_overrides(&overrides).unwrap_err().to_string().contains("more than 32768"));
    }
}
