//! Reads everything about an app out of the store: for the planner as [`AppView`], for users as `AppInfo`.

pub(crate) mod job;
mod recent;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use wharf_types::api::{AppInfo, InstanceInfo, RolloutInfo, ScalingInfo, VolumeInfo, VolumeState};
use wharf_types::route::RoutePattern;
use wharf_types::secret::ValueKind;
use wharf_types::spec::AppSpec;
use wharf_types::{AppId, AppName, NamespaceName, ReleaseId, SecretName, SecretVersionId, Timestamp};

use crate::context::Context;
use crate::control_plane::Config;
use crate::plan::{self, AppView, ReleaseView, VolumeView};
use crate::store::app::App;
use crate::store::release::Release;
use crate::store::rollout::Rollout;
use crate::store::secret::Pinned;
use crate::store::volume::Volume;
use crate::store::{self, Conn, StoreError};

pub(crate) use recent::Recent;

/// Ended instances of an app that are looked at.
const ENDED_MAX: i64 = 500;
/// Releases that are kept in memory.
const RELEASES_MAX: usize = 20_000;

/// An app as the store has it in one snapshot.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) app: App,
    pub(crate) view: AppView,
    /// The newest rollout, also when it has ended.
    pub(crate) rollout: Option<Rollout>,
    /// Those that the app, its instances or its newest rollout refer to, as far as they are kept.
    pub(crate) releases: HashMap<ReleaseId, Arc<ReleaseView>>,
    pub(crate) volumes: Vec<Volume>,
}

/// Releases never change, so each is read once.
pub(crate) struct Releases {
    domain: String,
    known: Mutex<HashMap<ReleaseId, Arc<ReleaseView>>>,
}

impl Releases {
    pub(crate) fn new(domain: String) -> Self {
        Self { domain, known: Mutex::default() }
    }

    /// None: it is no longer kept.
    pub(crate) async fn get(
        &self,
        conn: &mut Conn,
        app: &App,
        id: ReleaseId,
    ) -> store::Result<Option<Arc<ReleaseView>>> {
        if let Some(known) = self.lock().get(&id) {
            return Ok(Some(known.clone()));
        }
        let Some(release) = store::release::get(conn, id).await? else { return Ok(None) };
        let view = Arc::new(self.view(conn, app, &release).await?);
        let mut known = self.lock();
        if known.len() >= RELEASES_MAX {
            known.clear();
        }
        known.insert(id, view.clone());
        Ok(Some(view))
    }

    async fn view(&self, conn: &mut Conn, app: &App, release: &Release) -> store::Result<ReleaseView> {
        let artifact = store::artifact::get(conn, release.artifact)
            .await?
            .ok_or_else(|| StoreError::Corrupt(format!("release {} has no artifact", release.id)))?;
        let pinned = store::secret::pinned(conn, release).await?;
        let secrets = pinned_variables(&release.spec, &pinned).map_err(|(kind, name)| {
            StoreError::Corrupt(format!("release {} has no version of the {kind} {name}", release.id))
        })?;
        let world = artifact.world.with(&release.spec);
        let routes = if world.is_http() {
            routes(&app.name, &app.namespace, &self.domain, &release.spec)
        } else {
            Vec::new()
        };
        Ok(ReleaseView {
            id: release.id,
            number: release.number,
            artifact: release.artifact,
            world,
            spec: release.spec.clone(),
            secrets: Arc::new(secrets),
            routes,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ReleaseId, Arc<ReleaseView>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of each variable that the namespace has the value of, the version that the release was made with. Fails with a value that it was made without.
pub fn pinned_variables<'a>(
    spec: &'a AppSpec,
    pinned: &BTreeMap<SecretName, Pinned>,
) -> Result<BTreeMap<String, SecretVersionId>, (ValueKind, &'a SecretName)> {
    let pin = |(variable, name, kind): (&'a String, &'a SecretName, ValueKind)| {
        let version = pinned.get(name).map(|pinned| (variable.clone(), pinned.id));
        version.ok_or((kind, name))
    };
    spec.values().map(pin).collect()
}

/// The routes of an HTTP app, the default one first. A route that does not parse was refused before it came here.
pub(crate) fn routes(
    app: &AppName,
    namespace: &NamespaceName,
    domain: &str,
    spec: &AppSpec,
) -> Vec<RoutePattern> {
    let default = RoutePattern::for_app(app, namespace, domain);
    let mut seen = HashSet::new();
    let own = spec.http.routes.iter().filter_map(|route| route.parse().ok());
    std::iter::once(default).chain(own).filter(|route| seen.insert(route.clone())).collect()
}

pub(crate) async fn load(conn: &mut Conn, releases: &Releases, id: AppId) -> store::Result<Option<Loaded>> {
    match store::app::get(conn, id).await? {
        Some(app) => Ok(Some(complete(conn, releases, app).await?)),
        None => Ok(None),
    }
}

/// Reads what belongs to an app's row.
pub(crate) async fn complete(conn: &mut Conn, releases: &Releases, app: App) -> store::Result<Loaded> {
    let mut rollout = store::rollout::newest(conn, app.id).await?;
    if let Some(rollout) = &mut rollout {
        let counted = store::requests::of_rollout(conn, rollout.view.id).await?;
        rollout.view.requests = store::requests::by_release(&counted);
    }
    let under_way = rollout.as_ref().filter(|rollout| !rollout.view.state.is_final());
    let (mut instances, ended) = store::instance::list(conn, app.id, ENDED_MAX).await?;
    instances.extend(plan::relevant(ended, under_way.map(|rollout| &rollout.view)));

    let volumes = store::volume::of_app(conn, app.id).await?;

    let mut known = HashMap::new();
    let of_instances = instances.iter().map(|instance| instance.release);
    let of_rollout =
        rollout.iter().flat_map(|rollout| rollout.view.from.into_iter().chain([rollout.view.to]));
    for id in of_instances.chain(of_rollout).chain(app.target_release).chain(app.stable_release) {
        if !known.contains_key(&id)
            && let Some(release) = releases.get(conn, &app, id).await?
        {
            known.insert(id, release);
        }
    }
    let view = AppView {
        id: app.id,
        namespace: app.namespace.clone(),
        name: app.name.clone(),
        deleting: app.deleting,
        stopped: app.stopped.clone(),
        scaled_to: app.scaled_to,
        autoscaled_to: app.autoscaled_to,
        places: app.places.clone(),
        target: app.target_release.and_then(|id| known.get(&id).cloned()),
        stable: app.stable_release.and_then(|id| known.get(&id).cloned()),
        latest: rollout.as_ref().and_then(|rollout| known.get(&rollout.view.to).cloned()),
        rollout: under_way.map(|rollout| Box::new(rollout.view.clone())),
        volumes: volumes.iter().map(volume_view).collect(),
        instances,
        numbers: plan::numbers(known.values()),
        alone: plan::alone(known.values()),
    };
    Ok(Loaded { app, view, rollout, releases: known, volumes })
}

fn volume_view(volume: &Volume) -> VolumeView {
    VolumeView { id: volume.id, name: volume.name.clone(), node: volume.node }
}

pub(crate) fn volume_info(context: &Context, volume: &Volume) -> VolumeInfo {
    let figures = context.nodes.volume(volume.id);
    VolumeInfo {
        id: volume.id,
        name: volume.name.clone(),
        app: volume.app_name.clone(),
        state: match (volume.app, volume.removing) {
            (Some(_), _) => VolumeState::Attached,
            (None, false) => VolumeState::Kept,
            (None, true) => VolumeState::Removing,
        },
        node: volume.node,
        size_bytes: volume.size_bytes,
        used_bytes: figures.as_ref().map(|figures| figures.used_bytes),
        full: figures.is_some_and(|figures| figures.full),
        created_at: volume.created_at,
    }
}

impl Loaded {
    /// The same after a transaction that has set the number of slots, and nothing else of the app.
    pub(crate) fn scaled(&self, replicas: u32, revision: i64, now: Timestamp) -> Self {
        let mut scaled = self.clone();
        scaled.app.scaled_to = Some(replicas);
        scaled.view.scaled_to = Some(replicas);
        scaled.app.revision = revision;
        // As the store keeps it.
        scaled.app.updated_at = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
        scaled
    }

    pub(crate) fn info(&self, context: &Context) -> AppInfo {
        let view = &self.view;
        let release = view.target.as_ref().map(|release| release.number);
        let (condition, reason) = plan::condition::condition(view);
        let urls = self.urls(&context.config);
        AppInfo {
            namespace: view.namespace.clone(),
            app: view.name.clone(),
            condition,
            reason,
            release,
            replicas: view.replicas(),
            ready: self.slots_ready(),
            global: view.is_global(),
            scaling: self.scaling(context),
            stopped: view.stopped.clone(),
            url: urls.first().cloned().unwrap_or_default(),
            urls,
            rollout: self.rollout.as_ref().and_then(|rollout| self.rollout_info(rollout)),
            instances: self.instances(),
            volumes: self.volumes.iter().map(|volume| volume_info(context, volume)).collect(),
            usage: release.and_then(|release| context.nodes.usage_of(&view.namespace, &view.name, release)),
            updated_at: self.app.updated_at,
            set: self.app.applied_set.clone(),
        }
    }

    fn scaling(&self, context: &Context) -> Option<ScalingInfo> {
        let view = &self.view;
        let range = view.range()?;
        let demand = context.nodes.demand(&view.namespace, &view.name).unwrap_or_default();
        Some(ScalingInfo {
            min: range.min,
            max: range.max,
            concurrency: range.concurrency,
            open: (demand.open * 10.0).round() / 10.0,
            waiting: demand.waiting,
        })
    }

    /// None: the release that it led to is no longer kept.
    pub(crate) fn rollout_info(&self, rollout: &Rollout) -> Option<RolloutInfo> {
        let to = self.releases.get(&rollout.view.to)?;
        let ready = self.view.slots_ready(to).into_iter().filter(|ready| *ready).count();
        Some(RolloutInfo {
            id: rollout.view.id,
            from: rollout.view.from.and_then(|id| self.releases.get(&id)).map(|release| release.number),
            to: to.number,
            state: rollout.view.state,
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
            replicas: self.view.replicas_of(to),
            reason: rollout.reason.clone(),
            rolled_back_by: rollout.rolled_back_by,
            paused: rollout.view.paused.clone(),
            waits: self.waits(rollout),
            requests: rollout.view.requests.clone(),
            started_at: rollout.view.started_at,
            ended_at: rollout.ended_at,
        })
    }

    /// What a rollout that is under way waits for.
    fn waits(&self, rollout: &Rollout) -> Option<String> {
        let is_this = self.view.rollout.as_ref().is_some_and(|known| known.id == rollout.view.id);
        if is_this { plan::waits(Timestamp::now(), &self.view) } else { None }
    }

    /// Every address of the app, the default one first.
    pub(crate) fn urls(&self, config: &Config) -> Vec<String> {
        let release = self.view.target.as_ref().or(self.view.stable.as_ref()).or(self.view.latest.as_ref());
        release.map_or_else(Vec::new, |release| {
            let routes = release.routes.iter().map(|route| url(&config.http_url, route));
            routes.chain(release.spec.tcp.ports.iter().map(|port| tcp_url(config, *port))).collect()
        })
    }

    fn slots_ready(&self) -> u32 {
        let mut ready = vec![false; self.view.slots_end() as usize];
        for release in self.releases.values() {
            for (slot, serves) in ready.iter_mut().zip(self.view.slots_served(release)) {
                *slot |= serves;
            }
        }
        u32::try_from(ready.into_iter().filter(|ready| *ready).count()).unwrap_or(u32::MAX)
    }

    fn instances(&self) -> Vec<InstanceInfo> {
        let mut instances: Vec<InstanceInfo> = self
            .view
            .instances
            .iter()
            .map(|instance| InstanceInfo {
                id: instance.id,
                slot: instance.slot_number(),
                release: self.releases.get(&instance.release).map_or(0, |release| release.number),
                node: instance.node,
                wanted: instance.wanted,
                state: instance.state,
                health: instance.health,
                restarts: instance.restarts,
                reason: instance.reason.as_deref().cloned(),
                created_at: instance.created_at,
            })
            .collect();
        instances.sort_by_key(|instance| (instance.slot, instance.state.is_final(), instance.id));
        instances
    }
}

/// A route as an address, with the scheme and port of the ingress.
pub(crate) fn url(http_url: &str, route: &RoutePattern) -> String {
    let (scheme, authority) = http_url.split_once("://").unwrap_or(("http", http_url));
    let authority = authority.trim_end_matches('/');
    let port = authority
        .rsplit_once(':')
        .map(|(_, port)| port)
        .filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{}{port}{}", route.hostname(), route.path_prefix())
}

/// A public port as an address. Ports are opened where the ingress is; if that is everywhere, the domain leads there.
pub(crate) fn tcp_url(config: &Config, port: u16) -> String {
    let authority = config.http_url.rsplit_once("://").map_or("", |(_, authority)| authority);
    let address = authority.trim_end_matches('/').parse::<SocketAddr>().ok();
    match address.filter(|address| !address.ip().is_unspecified()) {
        Some(address) => format!("tcp://{}", SocketAddr::new(address.ip(), port)),
        None => format!("tcp://{}:{port}", config.domain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_where_the_ingress_is() {
        let url = |http_url: &str| {
            let config = Config {
                data_dir: "/data".into(),
                database: Default::default(),
                artifacts: Default::default(),
                address: String::new(),
                domain: "apps.example.com".into(),
                http_url: http_url.into(),
                platform_ports: Vec::new(),
                secret_keys: Default::default(),
                speaks: wharf_types::protocol::SPOKEN,
                image_archive_max_bytes: 0,
            };
            tcp_url(&config, 7000)
        };
        assert_eq!(url("http://127.0.0.1:8080"), "tcp://127.0.0.1:7000");
        assert_eq!(url("http://[::1]:8080"), "tcp://[::1]:7000");
        assert_eq!(url("http://0.0.0.0:8080"), "tcp://apps.example.com:7000");
        assert_eq!(url("https://front.example.com"), "tcp://apps.example.com:7000");
    }

    #[test]
    fn an_address_has_the_port_of_the_ingress() {
        let route: RoutePattern = "hello.default.localhost/".parse().unwrap();
        assert_eq!(url("http://127.0.0.1:8080", &route), "http://hello.default.localhost:8080/");
        assert_eq!(url("http://[::1]:80", &route), "http://hello.default.localhost:80/");
        assert_eq!(url("https://[::1]/", &"x.com/api".parse().unwrap()), "https://x.com/api");
    }
}
