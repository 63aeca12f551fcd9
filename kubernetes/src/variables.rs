//! Variables of a container: `env`, `envFrom`, and what `$(NAME)` stands for.

use std::collections::BTreeMap;

use wharf_compose::problem::shown;
use wharf_types::name::SecretName;
use wharf_types::secret::ValueKind;

use crate::at::At;
use crate::finding::Sink;
use crate::quantity::thousandths;
use crate::values::{Referred, Values};
use crate::workload::Workload;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    Plain(String),
    Secret(SecretName),
    /// With its text, where that is known.
    Config(SecretName, Option<String>),
}

/// What the values of a container's variables may have together, or its arguments: twice of what an app may.
const EXPANDED_MAX: usize = 64 << 10;

pub(crate) type Variables = BTreeMap<String, Variable>;

/// What a reference to a value becomes. None: there is no variable.
fn variable(referred: Referred, kind: ValueKind, text: Option<&str>) -> Option<Variable> {
    match (referred, kind) {
        (Referred::Missing, _) => None,
        (Referred::Empty, _) => Some(Variable::Plain(String::new())),
        (Referred::Named(name), ValueKind::Secret) => Some(Variable::Secret(name)),
        (Referred::Named(name), ValueKind::Config) => Some(Variable::Config(name, text.map(str::to_owned))),
    }
}

pub(crate) fn variables(workload: &Workload<'_>, values: &mut Values, sink: &mut Sink) -> Variables {
    let mut found = Variables::new();
    for source in workload.container.items("envFrom") {
        from_all(&source, values, &mut found, sink);
    }
    let mut named: BTreeMap<&str, At<'_>> = BTreeMap::new();
    let mut left = EXPANDED_MAX;
    for item in workload.container.items("env") {
        let name = item.text_or_empty("name");
        if let Some(first) = named.insert(name, item.clone()) {
            let message =
                format!("the variable `{}` is here twice, also in line {}", shown(name), first.place.line);
            sink.refuse(&item, message);
            continue;
        }
        let variable = match (item.get("value"), item.get("valueFrom")) {
            (Some(_), Some(from)) => {
                sink.refuse(&from, "`value` says it already; write one of the two");
                None
            }
            (Some(value), None) => Some(Variable::Plain(expanded(&value, &found, &mut left, sink))),
            (None, Some(from)) => of_source(workload, &from, values, sink),
            (None, None) => Some(Variable::Plain(String::new())),
        };
        match variable {
            Some(variable) => drop(found.insert(name.to_owned(), variable)),
            None => drop(found.remove(name)),
        }
    }
    found
}

/// `envFrom`: a variable for each key.
fn from_all(source: &At<'_>, values: &mut Values, found: &mut Variables, sink: &mut Sink) {
    let prefix = source.text_or_empty("prefix");
    for (field, kind) in [("configMapRef", ValueKind::Config), ("secretRef", ValueKind::Secret)] {
        let Some(reference) = source.get(field) else { continue };
        let (holder, is_optional) =
            (reference.text_or_empty("name"), reference.flag("optional").unwrap_or_default());
        let Some(keys) = values.keys(&reference, kind, holder, sink) else {
            if is_optional {
                sink.notice(&reference, "it may be missing, and is not in these files; it is left out");
            } else {
                let message = format!(
                    "`{}` is not in these files, so nobody knows its keys; import it together with this, or name each variable in `env`",
                    shown(holder)
                );
                sink.refuse(&reference, message);
            }
            continue;
        };
        for key in keys {
            let text = values.config(source.manifest.namespace.as_deref(), holder, &key).map(str::to_owned);
            let text = text.filter(|_| kind == ValueKind::Config);
            let referred = values.refer(&reference, (kind, holder, &key), is_optional, sink);
            if let Some(variable) = variable(referred, kind, text.as_deref()) {
                found.insert(format!("{prefix}{key}"), variable);
            }
        }
    }
}

fn of_source(
    workload: &Workload<'_>,
    from: &At<'_>,
    values: &mut Values,
    sink: &mut Sink,
) -> Option<Variable> {
    for (field, kind) in [("configMapKeyRef", ValueKind::Config), ("secretKeyRef", ValueKind::Secret)] {
        let Some(reference) = from.get(field) else { continue };
        let (holder, key) = (reference.text_or_empty("name"), reference.text_or_empty("key"));
        let is_optional = reference.flag("optional").unwrap_or_default();
        let text = values.config(from.manifest.namespace.as_deref(), holder, key).map(str::to_owned);
        let text = text.filter(|_| kind == ValueKind::Config);
        let referred = values.refer(&reference, (kind, holder, key), is_optional, sink);
        return variable(referred, kind, text.as_deref());
    }
    if let Some(field) = from.get("fieldRef") {
        return of_field(workload, &field, sink).map(Variable::Plain);
    }
    if let Some(field) = from.get("resourceFieldRef") {
        return of_resource(workload, &field, sink).map(Variable::Plain);
    }
    if from.get("fileKeyRef").is_none() {
        sink.refuse(from, "it says nothing; write where the value comes from");
    }
    None
}

/// What a pod knows of itself, as far as that is the same for all of an app.
fn of_field(workload: &Workload<'_>, field: &At<'_>, sink: &mut Sink) -> Option<String> {
    let _ = field.text("apiVersion");
    let path = field.text_or_empty("fieldPath");
    let of_map = |map: &str| {
        let key =
            path.strip_prefix("metadata.")?.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")?;
        let found = workload.template.get("metadata").and_then(|metadata| {
            metadata.get(map)?.own_entries().into_iter().find(|(name, _)| *name == key).map(|(_, at)| at)
        });
        Some(found.map(|at| at.word().to_owned()).unwrap_or_default())
    };
    if let Some(text) = of_map("labels").or_else(|| of_map("annotations")) {
        return Some(text);
    }
    let instead = match path {
        "metadata.namespace" => match &field.manifest.namespace {
            Some(namespace) => return Some(namespace.clone()),
            None => "write a `metadata.namespace`, so that it is known",
        },
        "spec.serviceAccountName" => "an app has no account; leave it out",
        _ => "every instance would have another one, and variables are those of the app; leave it out",
    };
    sink.refuse(field, format!("`{}`: {instead}", shown(path)));
    None
}

/// What the container has of a resource, in whole units of the divisor.
fn of_resource(workload: &Workload<'_>, field: &At<'_>, sink: &mut Sink) -> Option<String> {
    let _ = field.text("containerName");
    let resource = field.text_or_empty("resource");
    let (kind, name) = resource.split_once('.').unwrap_or_default();
    let amount = workload.container.get("resources").and_then(|resources| {
        let mut entries = resources.get(kind)?.own_entries().into_iter();
        entries.find(|(known, _)| *known == name).and_then(|(_, at)| thousandths(at.node.text()?))
    });
    let Some(amount) = amount.filter(|_| matches!(kind, "limits" | "requests")) else {
        sink.refuse(field, format!("the container has no `{}` to tell", shown(resource)));
        return None;
    };
    let divisor = field.text("divisor").filter(|divisor| *divisor != "0").unwrap_or("1");
    match thousandths(divisor).filter(|divisor| *divisor > 0) {
        Some(divisor) => Some(amount.div_ceil(divisor).to_string()),
        None => {
            sink.refuse(&field.near("divisor"), "it is not an amount; write `1`, `1m` or `1Mi`");
            None
        }
    }
}

/// The texts of a list with the variables in the place of their names.
pub(crate) fn all_expanded(at: &At<'_>, list: &str, known: &Variables, sink: &mut Sink) -> Vec<String> {
    let mut left = EXPANDED_MAX;
    at.items(list).iter().map(|item| expanded(item, known, &mut left, sink)).collect()
}

/// A text with the variables that are there already in the place of their names. What is no variable stays as it stands.
fn expanded(at: &At<'_>, known: &Variables, left: &mut usize, sink: &mut Sink) -> String {
    let mut text = String::new();
    let mut rest = at.word();
    // Behind the last one that closes there is no name, and nothing to look for again and again.
    let names_end = rest.rfind(')').map_or(usize::MAX, |end| rest.len() - end);
    while let Some(start) = rest.find('$') {
        let (before, from) = rest.split_at(start);
        text.push_str(before);
        let opened = from.strip_prefix("$(").filter(|_| from.len() > names_end);
        let name = opened.and_then(|inner| inner.split_once(')')).map(|(name, _)| name);
        match name {
            _ if from.starts_with("$$") => {
                text.push('$');
                rest = &from[2..];
            }
            Some(name) => {
                match value_of(name, known, at, sink) {
                    Some(value) => text.push_str(&value),
                    None => text.push_str(&from[..name.len() + 3]),
                }
                rest = &from[name.len() + 3..];
            }
            None => {
                text.push('$');
                rest = &from[1..];
            }
        }
    }
    text.push_str(rest);
    match left.checked_sub(text.len()) {
        Some(less) => {
            *left = less;
            text
        }
        None => {
            let message =
                format!("with all variables written out this is longer than {} KiB", EXPANDED_MAX >> 10);
            sink.refuse(at, message);
            String::new()
        }
    }
}

fn value_of(name: &str, known: &Variables, at: &At<'_>, sink: &mut Sink) -> Option<String> {
    match known.get(name) {
        Some(Variable::Plain(text)) => Some(text.clone()),
        Some(Variable::Config(_, Some(text))) => {
            let message =
                format!("`{}` is written out; another value of the config does not change this", shown(name));
            sink.notice(at, message);
            Some(text.clone())
        }
        Some(_) => {
            let message = format!(
                "`{}` is a value that nobody sees before the app starts; let the app put the two together",
                shown(name)
            );
            sink.refuse(at, message);
            None
        }
        None if name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") => {
            let message =
                format!("`{}`: no variables are made of Services; write the name of the app", shown(name));
            sink.refuse(at, message);
            None
        }
        None => None,
    }
}
