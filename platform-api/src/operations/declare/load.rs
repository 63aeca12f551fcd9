//! Reads what declared resources are compared with, in few statements however many resources there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wharf_types::declare::{AppResource, Kind, Prune, Resource, ResourceId};
use wharf_types::{AppName, NamespaceId, NamespaceName, ReleaseId};

use crate::operations::Result;
use crate::plan::declared::{self, Live, LiveApp, LiveRelease};
use crate::store::app::App;
use crate::store::{self, Conn};

pub(super) async fn live(conn: &mut Conn, resources: &[Resource], prune: Option<&Prune>) -> Result<Live> {
    let mut live = Live::default();
    let mut apps: Vec<App> = Vec::new();
    for (namespace, names) in by_namespace(resources, prune) {
        let id = store::namespace::find_id(conn, namespace).await?;
        live.namespaces.insert(namespace.clone(), id);
        if let Some(id) = id {
            apps.extend(apps_of(conn, id, names, prune).await?);
        }
    }
    let mut releases = releases_of(conn, &apps).await?;
    for app in apps {
        let release = app.target_release.and_then(|id| releases.remove(&id));
        let is = LiveApp {
            id: app.id,
            deleting: app.deleting,
            set: app.applied_set,
            scaled_to: app.scaled_to,
            release,
        };
        live.apps.insert((app.namespace, app.name), is);
    }
    Ok(live)
}

fn by_namespace<'a>(
    resources: &'a [Resource],
    prune: Option<&'a Prune>,
) -> BTreeMap<&'a NamespaceName, Vec<&'a AppName>> {
    let mut names: BTreeMap<&NamespaceName, Vec<&AppName>> = BTreeMap::new();
    for namespace in prune.into_iter().flat_map(|prune| &prune.namespaces) {
        names.entry(namespace).or_default();
    }
    for resource in resources {
        let of_namespace = names.entry(resource.namespace()).or_default();
        if let Resource::App(app) = resource {
            of_namespace.push(&app.name);
        }
    }
    names
}

/// Those that are declared, and those of the set.
async fn apps_of(
    conn: &mut Conn,
    namespace: NamespaceId,
    names: Vec<&AppName>,
    prune: Option<&Prune>,
) -> Result<Vec<App>> {
    let mut apps = store::app::find_all(conn, namespace, &names).await?;
    if let Some(prune) = prune {
        let known: BTreeSet<_> = apps.iter().map(|app| app.id).collect();
        let of_set = store::app::in_set(conn, namespace, &prune.set).await?;
        apps.extend(of_set.into_iter().filter(|app| !known.contains(&app.id)));
    }
    Ok(apps)
}

async fn releases_of(conn: &mut Conn, apps: &[App]) -> Result<HashMap<ReleaseId, LiveRelease>> {
    let ids: Vec<ReleaseId> = apps.iter().filter_map(|app| app.target_release).collect();
    let releases = store::release::get_all(conn, &ids).await?;
    let as_live = |release: store::release::Release| {
        let live = LiveRelease { id: release.id, artifact: release.artifact, spec: release.spec };
        (live.id, live)
    };
    Ok(releases.into_iter().map(as_live).collect())
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
