//! Reads what declared resources are compared with, in few statements however many resources there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wharf_types::declare::{AppResource, ConfigResource, Kind, Prune, Resource, ResourceId};
use wharf_types::secret::ValueKind;
use wharf_types::{AppId, AppName, NamespaceId, NamespaceName, ReleaseId};

use crate::operations::Result;
use crate::plan::declared::{self, Live, LiveApp, LiveConfig, LiveRelease};
use crate::secrets::Keyring;
use crate::store::app::App;
use crate::store::{self, Conn};

/// Everything that they are compared with.
pub(super) async fn live(
    conn: &mut Conn,
    keyring: &Keyring,
    resources: &[Resource],
    prune: Option<&Prune>,
) -> Result<Live> {
    let mut live = seen(conn, keyring, resources, prune).await?;
    let targets: Vec<ReleaseId> = live.apps.values().filter_map(|app| app.target).collect();
    let releases = store::release::get_all(conn, &targets).await?;
    let mut releases: HashMap<ReleaseId, LiveRelease> = releases
        .into_iter()
        .map(|release| {
            let live = LiveRelease { id: release.id, artifact: release.artifact, spec: release.spec };
            (live.id, live)
        })
        .collect();
    for app in live.apps.values_mut() {
        app.release = app.target.and_then(|id| releases.remove(&id));
    }
    Ok(live)
}

/// The same without the settings of releases: enough to tell whether anything has changed ([`declared::base`]).
pub(super) async fn seen(
    conn: &mut Conn,
    keyring: &Keyring,
    resources: &[Resource],
    prune: Option<&Prune>,
) -> Result<Live> {
    let mut live = Live::default();
    let mut apps: Vec<App> = Vec::new();
    for (namespace, declared) in by_namespace(resources, prune) {
        let id = store::namespace::find_id(conn, namespace).await?;
        live.namespaces.insert(namespace.clone(), id);
        let Some(id) = id else { continue };
        let mut of_namespace = apps_of(conn, id, declared.apps, prune).await?;
        let mut known: BTreeSet<AppId> = of_namespace.iter().map(|app| app.id).collect();
        for config in declared.configs {
            let Some(mut is) = config_of(conn, keyring, id, config).await? else { continue };
            let is_same = is.value.as_ref() == Some(&config.value);
            let users = match is.kind {
                // A value that changes is news to all, and one that is there to those that went back from it.
                ValueKind::Config => {
                    let but = is_same.then_some(is.id);
                    store::secret::apps_on(conn, id, &config.name, but).await?
                }
                ValueKind::Secret => Vec::new(),
            };
            if is_same {
                is.behind.extend(&users);
            }
            live.configs.insert((namespace.clone(), config.name.clone()), is);
            let users: Vec<AppId> = users.into_iter().filter(|user| known.insert(*user)).collect();
            let users = store::app::get_all(conn, &users).await?;
            of_namespace.extend(users.into_iter().filter(is_staying));
        }
        apps.append(&mut of_namespace);
    }
    for app in apps {
        let is = LiveApp {
            id: app.id,
            deleting: app.deleting,
            set: app.applied_set,
            scaled_to: app.scaled_to,
            target: app.target_release,
            release: None,
        };
        live.apps.insert((app.namespace, app.name), is);
    }
    Ok(live)
}

/// What is declared in one namespace.
#[derive(Default)]
struct Declared<'a> {
    apps: Vec<&'a AppName>,
    configs: Vec<&'a ConfigResource>,
}

fn by_namespace<'a>(
    resources: &'a [Resource],
    prune: Option<&'a Prune>,
) -> BTreeMap<&'a NamespaceName, Declared<'a>> {
    let mut declared: BTreeMap<&NamespaceName, Declared<'_>> = BTreeMap::new();
    for namespace in prune.into_iter().flat_map(|prune| &prune.namespaces) {
        declared.entry(namespace).or_default();
    }
    for resource in resources {
        let of_namespace = declared.entry(resource.namespace()).or_default();
        match resource {
            Resource::Namespace(_) => {}
            Resource::Config(config) => of_namespace.configs.push(config),
            Resource::App(app) => of_namespace.apps.push(&app.name),
        }
    }
    declared
}

/// What has the config's name. A namespace has few enough of them to ask for each.
async fn config_of(
    conn: &mut Conn,
    keyring: &Keyring,
    namespace: NamespaceId,
    config: &ConfigResource,
) -> Result<Option<LiveConfig>> {
    let Some(newest) = store::secret::find(conn, namespace, &config.name).await? else { return Ok(None) };
    let value = match newest.kind {
        ValueKind::Config => keyring.open(&newest).ok().map(|value| value.reveal().to_owned()),
        ValueKind::Secret => None,
    };
    let (id, version, kind) = (newest.id, newest.version, newest.kind);
    Ok(Some(LiveConfig { id, version, kind, value, behind: BTreeSet::new() }))
}

/// Those that are declared, and those of the set that may be deleted.
async fn apps_of(
    conn: &mut Conn,
    namespace: NamespaceId,
    names: Vec<&AppName>,
    prune: Option<&Prune>,
) -> Result<Vec<App>> {
    let mut apps = store::app::find_all(conn, namespace, &names).await?;
    if let Some(prune) = prune.filter(|prune| !prune.keep) {
        let known: BTreeSet<_> = apps.iter().map(|app| app.id).collect();
        let of_set = store::app::in_set(conn, namespace, &prune.set).await?;
        apps.extend(of_set.into_iter().filter(|app| !known.contains(&app.id) && is_staying(app)));
    }
    Ok(apps)
}

/// Whether a plan can do something to an app that it does not declare. One that is being deleted goes by itself, and its end must not
/// move the base of a plan that was made meanwhile.
fn is_staying(app: &App) -> bool {
    !app.deleting
}

/// The resource as it is. None: it is no app, or there is none.
pub(super) fn as_live(resource: &ResourceId, live: &Live) -> Option<AppResource> {
    let namespace = resource.namespace.clone().filter(|_| resource.kind == Kind::App)?;
    let key = (namespace, resource.name.parse().ok()?);
    let is = live.apps.get(&key)?;
    let release = is.release.as_ref()?;
    let (namespace, name) = &key;
    Some(declared::as_resource(namespace, name, is.scaled_to, release))
}
