//! Secrets and configs at the top of a file.

use std::collections::BTreeMap;

use wharf_types::name::{SecretName, SetName};

use super::sink::Sink;
use super::{label, preview};
use crate::model::ValueSource;
use crate::node::Place;
use crate::problem::shown;
use crate::project::Project;

/// A secret or a config of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedValue {
    /// What services of the file call it.
    pub key: String,
    pub name: SecretName,
    pub from: ValueFrom,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueFrom {
    /// A path relative to the folder of the project.
    File(String),
    /// One of [`Project::variables`], which is set.
    Environment(String),
    Content(String),
    /// It was set before, and is not set again.
    External,
}

pub(super) fn secrets(project: &Project, of: Option<&SetName>, sink: &mut Sink) -> Vec<NamedValue> {
    values(project, ("secrets", &project.secrets), of, sink)
}

pub(super) fn configs(
    project: &Project,
    of: Option<&SetName>,
    secrets: &[NamedValue],
    sink: &mut Sink,
) -> Vec<NamedValue> {
    let configs = values(project, ("configs", &project.configs), of, sink);
    for config in &configs {
        if let Some(secret) = secrets.iter().find(|secret| secret.name == config.name) {
            let message = format!(
                "a config cannot be called `{}`, because a secret is, in {}; give it another `name`",
                config.name, secret.place
            );
            sink.problem(&config.place, message);
        }
    }
    configs
}

/// `of` a preview they are its own, but for those that were set before.
fn values(
    project: &Project,
    (section, sources): (&str, &BTreeMap<String, ValueSource>),
    of: Option<&SetName>,
    sink: &mut Sink,
) -> Vec<NamedValue> {
    let mut made: Vec<NamedValue> = Vec::new();
    let mut taken: BTreeMap<SecretName, String> = BTreeMap::new();
    for (key, source) in sources {
        let place = project.place_of_name(section, key);
        let written = source.name.as_deref().unwrap_or(key);
        let name = match SecretName::try_from(label(written)) {
            Ok(name) => name,
            Err(error) => {
                sink.problem(place, error.to_string());
                continue;
            }
        };
        if name.as_str() != written {
            sink.notice(place, format!("`{}` is called `{name}` here", shown(written)));
        }
        if let Some(other) = made.iter().find(|other| taken.get(&name) == Some(&other.key)) {
            sink.problem(
                place,
                format!("`{}` and `{}` would both be called `{name}`", other.key, shown(key)),
            );
        }
        taken.insert(name.clone(), key.clone());
        let ValueSource { content, environment, file, .. } = source;
        if let Some(variable) =
            environment.as_ref().filter(|variable| !project.variables.contains_key(*variable))
        {
            let message = format!("the variable `{}`, which has the value, is not set", shown(variable));
            sink.problem(project.place_of(&format!("{section}.{key}.environment")), message);
        }
        let from = match (file, environment, content) {
            (Some(file), ..) => ValueFrom::File(file.clone()),
            (_, Some(variable), _) => ValueFrom::Environment(variable.clone()),
            (.., Some(content)) => ValueFrom::Content(content.clone()),
            _ => ValueFrom::External,
        };
        let name = match of {
            Some(of) if from != ValueFrom::External => preview::value(of, &name),
            _ => name,
        };
        made.push(NamedValue { key: key.clone(), name, from, place: place.clone() });
    }
    made
}

/// The variable that a file of this name becomes: `db-password.txt` is `DB_PASSWORD_TXT`.
pub(super) fn variable_of(file: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    file.rsplit('/').next().unwrap_or_default().chars().map(letter).collect()
}
