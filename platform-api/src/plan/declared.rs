//! What has to change so that apps, configs and namespaces become what files declare.
//!
//! The same resources and the same live state give the same steps. A file is the whole of an app's settings: what `env` and `scale` set
//! over them is a difference, but for the number of instances of a file that says nothing of it. A config that changes is a release of each app
//! that runs with it, declared or not, as it is when somebody sets it; so is one that has its value already, of each app that went back to
//! another version.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde_json::Value;
use wharf_types::declare::change::{Action, Change, FieldChange, field_changes};
use wharf_types::declare::{AppResource, ConfigResource, Prune, Resource, ResourceId, complete_spec};
use wharf_types::secret::ValueKind;
use wharf_types::spec::{AppSpec, Replicas, ScaleSpec};
use wharf_types::{
    AppId, AppName, Digest, NamespaceId, NamespaceName, ReleaseId, SecretName, SecretVersionId, SetName,
};

/// What is there, as far as the resources concern it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    /// Every namespace that is declared or has something declared. None: there is no such namespace.
    pub(crate) namespaces: BTreeMap<NamespaceName, Option<NamespaceId>>,
    /// What has the name of a config that is declared.
    pub(crate) configs: BTreeMap<(NamespaceName, SecretName), LiveConfig>,
    /// Apps that are declared, those of the set that is pruned, and those that run with a config that changes, or are behind one.
    pub(crate) apps: BTreeMap<(NamespaceName, AppName), LiveApp>,
}

#[derive(Clone, Debug)]
pub(crate) struct LiveConfig {
    /// Of the newest version.
    pub(crate) id: SecretVersionId,
    pub(crate) version: u64,
    /// A secret may have the name.
    pub(crate) kind: ValueKind,
    /// None: it is a secret, or it cannot be opened.
    pub(crate) value: Option<String>,
    /// Apps that run with another version, although this one has the value that is declared: their release with it failed, or somebody went
    /// back from it.
    pub(crate) behind: BTreeSet<AppId>,
}

#[derive(Clone, Debug)]
pub(crate) struct LiveApp {
    pub(crate) id: AppId,
    pub(crate) deleting: bool,
    /// The set that it was applied under.
    pub(crate) set: Option<SetName>,
    /// The number of slots that stands over the release's own.
    pub(crate) scaled_to: Option<u32>,
    /// What it is on or moves to. None: its first release failed.
    pub(crate) target: Option<ReleaseId>,
    /// The same with its settings, where these were read.
    pub(crate) release: Option<LiveRelease>,
}

#[derive(Clone, Debug)]
pub(crate) struct LiveRelease {
    pub(crate) id: ReleaseId,
    pub(crate) artifact: Digest,
    pub(crate) spec: Arc<AppSpec>,
}

/// What is done for one change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Nothing,
    MakeNamespace(NamespaceName),
    SetConfig(ConfigResource),
    /// Makes a release. With `rescale` what `scale` set is given up, because the settings have the number.
    Release {
        app: Box<AppResource>,
        live: Option<AppId>,
        rescale: bool,
    },
    /// Only the number of instances: None leaves it to the release.
    Scale {
        live: AppId,
        to: Option<u32>,
    },
    /// Makes a release that differs in the versions of configs alone.
    Renew(AppId),
    /// The app is as declared, and joins a set.
    Join(AppId),
    Delete(AppId),
}

#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) change: Change,
    pub(crate) step: Step,
}

/// Configs that get another value, and the version that each gets with it.
type NewVersions<'a> = BTreeMap<(&'a NamespaceName, &'a SecretName), u64>;

/// The changes, in the order of the resources; then apps that are none of them and run with a config that changes; deletions at the end.
/// With a set, its apps that are not declared go, unless they are to be kept.
pub(crate) fn changes(resources: &[Resource], prune: Option<&Prune>, live: &Live) -> Vec<Planned> {
    let set = prune.map(|prune| &prune.set);
    let doomed = prune.filter(|prune| !prune.keep).map(|prune| &prune.set);
    let versions = new_versions(resources, live);
    let mut planned: Vec<Planned> = resources
        .iter()
        .map(|resource| match resource {
            Resource::Namespace(namespace) => namespace_change(&namespace.name, live),
            Resource::Config(config) => config_change(config, live),
            Resource::App(app) => match live.apps.get(&(app.namespace.clone(), app.name.clone())) {
                Some(is) => app_change(app, is, set, &versions, live),
                None => {
                    let step = Step::Release { app: app.clone(), live: None, rescale: true };
                    Planned { change: change(resource.id(), Action::Create), step }
                }
            },
        })
        .collect();
    let declared = declared_apps(resources);
    planned.extend(renewals(&declared, doomed, &versions, live));
    planned.extend(doomed.into_iter().flat_map(|set| deletions(&declared, set, live)));
    planned
}

fn new_versions<'a>(resources: &'a [Resource], live: &Live) -> NewVersions<'a> {
    let mut versions = NewVersions::new();
    for resource in resources {
        let Resource::Config(config) = resource else { continue };
        let is = find_config(config, live);
        if is.and_then(|is| is.value.as_ref()) != Some(&config.value) {
            versions.insert((&config.namespace, &config.name), is.map_or(1, |is| is.version + 1));
        }
    }
    versions
}

fn find_config<'a>(config: &ConfigResource, live: &'a Live) -> Option<&'a LiveConfig> {
    live.configs.get(&(config.namespace.clone(), config.name.clone()))
}

fn declared_apps(resources: &[Resource]) -> HashSet<(&NamespaceName, &AppName)> {
    resources
        .iter()
        .filter_map(|resource| match resource {
            Resource::App(app) => Some((&app.namespace, &app.name)),
            Resource::Namespace(_) | Resource::Config(_) => None,
        })
        .collect()
}

fn change(resource: ResourceId, action: Action) -> Change {
    Change { resource, action, fields: Vec::new(), live: None, release: None, rollout: None }
}

fn namespace_change(name: &NamespaceName, live: &Live) -> Planned {
    let id = ResourceId::of_namespace(name);
    match live.namespaces.get(name) {
        Some(Some(_)) => Planned { change: change(id, Action::Unchanged), step: Step::Nothing },
        _ => Planned { change: change(id, Action::Create), step: Step::MakeNamespace(name.clone()) },
    }
}

fn config_change(config: &ConfigResource, live: &Live) -> Planned {
    let id = ResourceId::of_config(&config.namespace, &config.name);
    let is = find_config(config, live);
    let before = is.and_then(|is| is.value.as_deref());
    if before == Some(config.value.as_str()) {
        // Setting it again makes no version, and says which one those get that are behind.
        let step = match is.is_some_and(|is| !is.behind.is_empty()) {
            true => Step::SetConfig(config.clone()),
            false => Step::Nothing,
        };
        return Planned { change: change(id, Action::Unchanged), step };
    }
    let fields = vec![FieldChange {
        path: "value".to_owned(),
        before: before.map_or(Value::Null, Value::from),
        after: config.value.as_str().into(),
    }];
    let action = if is.is_some() { Action::Update } else { Action::Create };
    Planned { change: Change { fields, ..change(id, action) }, step: Step::SetConfig(config.clone()) }
}

/// The variables of these settings that get another version of their config, in a release of this app.
fn renewed(
    app: AppId,
    namespace: &NamespaceName,
    spec: &AppSpec,
    versions: &NewVersions<'_>,
    live: &Live,
) -> Vec<FieldChange> {
    let missed = |config: &SecretName| {
        let is = live.configs.get(&(namespace.clone(), config.clone()))?;
        is.behind.contains(&app).then_some(is.version)
    };
    let field = |(variable, config): (&String, &SecretName)| {
        let version = versions.get(&(namespace, config)).copied().or_else(|| missed(config))?;
        Some(FieldChange {
            path: format!("configs.{variable}"),
            before: config.as_str().into(),
            after: format!("{config}, version {version}").into(),
        })
    };
    spec.configs.iter().filter_map(field).collect()
}

/// Apps that nobody declared here and that run with a config that changes, or are behind one. What is deleted, as those of the set that is doomed,
/// gets nothing.
fn renewals(
    declared: &HashSet<(&NamespaceName, &AppName)>,
    doomed: Option<&SetName>,
    versions: &NewVersions<'_>,
    live: &Live,
) -> Vec<Planned> {
    let renewal = |((namespace, name), app): (&(NamespaceName, AppName), &LiveApp)| {
        let fields = renewed(app.id, namespace, &app.release.as_ref()?.spec, versions, live);
        let id = ResourceId::of_app(namespace, name);
        (!fields.is_empty()).then(|| Planned {
            change: Change { fields, ..change(id, Action::Update) },
            step: Step::Renew(app.id),
        })
    };
    let others = live.apps.iter().filter(|((namespace, name), app)| {
        let is_doomed = app.deleting || doomed.is_some_and(|set| app.set.as_ref() == Some(set));
        !is_doomed && !declared.contains(&(namespace, name))
    });
    others.filter_map(renewal).collect()
}

fn app_change(
    app: &AppResource,
    is: &LiveApp,
    set: Option<&SetName>,
    versions: &NewVersions<'_>,
    live: &Live,
) -> Planned {
    let id = ResourceId::of_app(&app.namespace, &app.name);
    let mut fields = settings_changes(app, is);
    let renewed = renewed(is.id, &app.namespace, &app.spec, versions, live);
    let is_renewed = !renewed.is_empty();
    for field in renewed {
        // A variable that is new is told as such.
        if fields.iter().all(|known| known.path != field.path) {
            fields.push(field);
        }
    }
    let (released, scaled) = match &is.release {
        Some(release) => (
            is_renewed || differs(app, release),
            !app.keep_scale && effective_scale(is.scaled_to, release) != app.spec.scale,
        ),
        None => (true, false),
    };
    let own = is.release.as_ref().map(|release| &release.spec.scale);
    // A range is the release's, and so is one on every node: unless it has this one, it takes another release to get to it, or away from it.
    let is_number = |scale: &ScaleSpec| matches!(scale.replicas, Replicas::Fixed(_));
    let of_release = scaled
        && own.is_some_and(|own| *own != app.spec.scale && !(is_number(own) && is_number(&app.spec.scale)));
    let mut step = if released || of_release {
        let mut app = Box::new(app.clone());
        if let (true, Some(release)) = (app.keep_scale, &is.release) {
            app.spec.scale = release.spec.scale.clone();
        }
        let rescale = !app.keep_scale;
        Step::Release { app, live: Some(is.id), rescale }
    } else if scaled {
        let to = Some(app.spec.scale.replicas.first()).filter(|_| own != Some(&app.spec.scale));
        Step::Scale { live: is.id, to }
    } else {
        Step::Nothing
    };
    if let Some(set) = set.filter(|set| is.set.as_ref() != Some(set)) {
        let name = |set: Option<&SetName>| set.map_or(Value::Null, |set| set.as_str().into());
        fields.push(FieldChange {
            path: "set".to_owned(),
            before: name(is.set.as_ref()),
            after: name(Some(set)),
        });
        if step == Step::Nothing {
            step = Step::Join(is.id);
        }
    }
    let action = if step == Step::Nothing { Action::Unchanged } else { Action::Update };
    Planned { change: Change { fields, ..change(id, action) }, step }
}

/// What decides how many instances there are.
fn effective_scale(scaled_to: Option<u32>, release: &LiveRelease) -> ScaleSpec {
    let scale = release.spec.scale.clone();
    match scaled_to.filter(|_| !release.spec.is_global()) {
        Some(replicas) => ScaleSpec { replicas: replicas.into(), ..scale },
        None => scale,
    }
}

/// Whether a release is needed: anything but the number of instances differs.
fn differs(app: &AppResource, release: &LiveRelease) -> bool {
    if app.artifact != release.artifact {
        return true;
    }
    let same_scale = AppSpec { scale: release.spec.scale.clone(), ..app.spec.clone() };
    same_scale != *release.spec
}

fn settings_changes(app: &AppResource, is: &LiveApp) -> Vec<FieldChange> {
    let Some(release) = &is.release else {
        let mut nothing = complete_spec(&AppSpec::default());
        nothing["artifact"] = Value::Null;
        return field_changes(&nothing, &settings(app));
    };
    let same_scale = app.keep_scale || effective_scale(is.scaled_to, release) == app.spec.scale;
    if same_scale && !differs(app, release) {
        return Vec::new();
    }
    let live = as_resource(&app.namespace, &app.name, is.scaled_to, release);
    let mut app = app.clone();
    if app.keep_scale {
        app.spec.scale = live.spec.scale.clone();
    }
    field_changes(&settings(&live), &settings(&app))
}

/// Everything that can differ, as one table.
fn settings(app: &AppResource) -> Value {
    let mut table = complete_spec(&app.spec);
    table["artifact"] = app.artifact.to_string().into();
    table
}

/// What a file would say of a live app.
pub(crate) fn as_resource(
    namespace: &NamespaceName,
    name: &AppName,
    scaled_to: Option<u32>,
    release: &LiveRelease,
) -> AppResource {
    let spec = AppSpec { scale: effective_scale(scaled_to, release), ..AppSpec::clone(&release.spec) };
    AppResource {
        namespace: namespace.clone(),
        name: name.clone(),
        artifact: release.artifact,
        spec,
        keep_scale: false,
    }
}

fn deletions(declared: &HashSet<(&NamespaceName, &AppName)>, set: &SetName, live: &Live) -> Vec<Planned> {
    let doomed = live.apps.iter().filter(|((namespace, name), app)| {
        app.set.as_ref() == Some(set) && !app.deleting && !declared.contains(&(namespace, name))
    });
    doomed
        .map(|((namespace, name), app)| Planned {
            change: change(ResourceId::of_app(namespace, name), Action::Delete),
            step: Step::Delete(app.id),
        })
        .collect()
}

/// A digest over the ids of everything that was looked at, and over all that changes their settings. It does not depend on what
/// instances do.
pub(crate) fn base(live: &Live) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |parts: &[&str]| {
        for part in parts {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        hasher.update(&[1]);
    };
    for (name, id) in &live.namespaces {
        add(&["namespace", name.as_str(), &id.map(|id| id.to_string()).unwrap_or_default()]);
    }
    for ((namespace, name), config) in &live.configs {
        add(&["config", namespace.as_str(), name.as_str(), &config.id.to_string()]);
    }
    for ((namespace, name), app) in &live.apps {
        let release = app.target.map(|id| id.to_string()).unwrap_or_default();
        let scaled = app.scaled_to.map(|to| to.to_string()).unwrap_or_default();
        let set = app.set.as_ref().map_or("", |set| set.as_str());
        let deleting = if app.deleting { "deleting" } else { "" };
        add(&[namespace.as_str(), name.as_str(), &app.id.to_string(), &release, &scaled, set, deleting]);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests;
