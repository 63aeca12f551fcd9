//! Why planned changes could not be carried out: all reasons, not only the first.

use std::collections::{BTreeSet, HashMap, HashSet};

use wharf_types::declare::change::PlanError;
use wharf_types::declare::{AppResource, ConfigResource, Kind, ResourceId};
use wharf_types::problem::ProblemCode;
use wharf_types::route::RoutePattern;
use wharf_types::secret::{SECRETS_MAX, SecretValue, ValueKind};
use wharf_types::spec::{AppSpec, InvalidSpec, Priority, ScaleSpec};
use wharf_types::world::World;
use wharf_types::{AppId, Digest, NamespaceId, NamespaceName, Problem, SecretName};

use super::AskedApply;
use super::quotas::{self, Worlds};
use crate::context::Context;
use crate::operations::routes::Owners;
use crate::operations::{Result, containers, invalid_spec, outbound, ports, secrets};
use crate::plan::declared::{Live, LiveApp, Planned, Step};
use crate::quota;
use crate::store::secret::Newest;
use crate::store::{self, Conn};
use crate::view;

pub(super) async fn errors(
    conn: &mut Conn,
    context: &Context,
    asked: &AskedApply,
    planned: &[Planned],
    live: &Live,
) -> Result<Vec<PlanError>> {
    let made = planned.iter().filter_map(|planned| match &planned.step {
        Step::MakeNamespace(name) => Some(name.clone()),
        _ => None,
    });
    let configs = planned.iter().filter_map(|planned| match &planned.step {
        Step::SetConfig(config) => {
            Some(((config.namespace.clone(), config.name.clone()), config.value.len()))
        }
        _ => None,
    });
    let owners = owners(conn, context, planned).await?;
    let mut check = Check {
        conn,
        context,
        live,
        // Who may make namespaces is a cluster admin.
        any_rights: asked.no_namespaces.is_none(),
        priorities: HashMap::new(),
        made: made.collect(),
        configs: configs.collect(),
        worlds: HashMap::new(),
        archives: HashMap::new(),
        secrets: HashMap::new(),
        new_names: HashMap::new(),
        owners,
        routes: HashMap::new(),
        ports: HashMap::new(),
        found: Vec::new(),
    };
    for planned in planned {
        let resource = &planned.change.resource;
        match &planned.step {
            Step::MakeNamespace(_) => {
                if let Some(problem) = &asked.no_namespaces {
                    check.refuse(resource, problem.clone());
                }
            }
            Step::SetConfig(config) => check.config(resource, config).await?,
            Step::Release { app, live, .. } => check.app(resource, app, *live).await?,
            Step::Scale { to, .. } => {
                check.not_deleting(resource);
                check.scale(resource, *to);
            }
            Step::Join(_) | Step::Nothing => check.not_deleting(resource),
            Step::Renew(_) => check.renewal(resource).await?,
            Step::Delete(_) => {}
        }
    }
    let Check { conn, mut found, worlds, .. } = check;
    found.extend(quotas::errors(conn, planned, live, &worlds).await?);
    Ok(found)
}

/// Whose the hostnames are that these changes are about.
async fn owners(conn: &mut Conn, context: &Context, planned: &[Planned]) -> Result<Owners> {
    let mut hostnames = BTreeSet::new();
    for planned in planned {
        if let Step::Release { app, .. } = &planned.step {
            for route in view::routes(&app.name, &app.namespace, &context.config.domain, &app.spec) {
                hostnames.insert(route.hostname().to_owned());
            }
        }
    }
    Ok(Owners::read(conn, hostnames.iter().map(String::as_str).collect()).await?)
}

/// What was found so far. What many apps share is asked for once.
struct Check<'a> {
    conn: &'a mut Conn,
    context: &'a Context,
    live: &'a Live,
    any_rights: bool,
    /// The highest that each namespace may give.
    priorities: HashMap<NamespaceId, Priority>,
    /// Namespaces that the same apply makes.
    made: HashSet<NamespaceName>,
    /// Configs that it sets, with the octets of their values.
    configs: HashMap<(NamespaceName, SecretName), usize>,
    worlds: Worlds,
    archives: HashMap<(NamespaceName, Digest), bool>,
    secrets: HashMap<NamespaceId, HashMap<SecretName, Newest>>,
    /// How many configs of each namespace are not there yet.
    new_names: HashMap<NamespaceName, u64>,
    /// Of the hostnames that are asked for.
    owners: Owners,
    /// Who of these resources wants which.
    routes: HashMap<RoutePattern, ResourceId>,
    ports: HashMap<u16, ResourceId>,
    found: Vec<PlanError>,
}

impl Check<'_> {
    fn refuse(&mut self, resource: &ResourceId, problem: Problem) {
        self.refuse_at(resource, None, problem);
    }

    /// The same for what one setting is about.
    fn refuse_at(&mut self, resource: &ResourceId, field: Option<String>, problem: Problem) {
        let Problem { code, detail, .. } = problem;
        self.found.push(PlanError { resource: resource.clone(), code, detail, field });
    }

    fn refuse_spec(&mut self, resource: &ResourceId, invalid: InvalidSpec) {
        self.refuse_at(resource, Some(invalid.path()), invalid_spec(invalid));
    }

    /// Refuses what is in a namespace that neither is there nor is made.
    fn has_namespace(&mut self, resource: &ResourceId, namespace: &NamespaceName) -> bool {
        let is_there = self.live.namespaces.get(namespace).is_some_and(Option::is_some);
        if is_there || self.made.contains(namespace) {
            return true;
        }
        let detail = format!(
            "there is no namespace `{namespace}`; declare it with `kind: namespace`, or make it with `wharf namespace create {namespace}`"
        );
        self.refuse_at(resource, Some("namespace".to_owned()), Problem::new(ProblemCode::NotFound, detail));
        false
    }

    async fn config(&mut self, resource: &ResourceId, config: &ConfigResource) -> Result<()> {
        if !self.has_namespace(resource, &config.namespace) {
            return Ok(());
        }
        if let Err(invalid) = SecretValue::new(config.value.clone().into_bytes()) {
            let problem = Problem::new(ProblemCode::InvalidSpec, format!("value: {invalid}"));
            self.refuse_at(resource, Some("value".to_owned()), problem);
        }
        let live = self.live;
        let there = live.configs.get(&(config.namespace.clone(), config.name.clone()));
        let taken = there.and_then(|there| secrets::taken(&config.name, ValueKind::Config, there.kind));
        if there.is_none() {
            self.new_name(resource, &config.namespace).await?;
        }
        if let Some(problem) = taken {
            self.refuse_at(resource, Some("name".to_owned()), problem);
        }
        Ok(())
    }

    /// Whether there is room for one more.
    async fn new_name(&mut self, resource: &ResourceId, namespace: &NamespaceName) -> Result<()> {
        let id = self.live.namespaces.get(namespace).copied().flatten();
        self.read_secrets(id).await?;
        let known = id.and_then(|id| self.secrets.get(&id)).map_or(0, |known| known.len() as u64);
        let new = self.new_names.entry(namespace.clone()).or_default();
        *new += 1;
        if known + *new > SECRETS_MAX {
            self.refuse(resource, secrets::full(namespace));
        }
        Ok(())
    }

    /// Whether an app of no file can have the values that it is to get.
    async fn renewal(&mut self, resource: &ResourceId) -> Result<()> {
        let release = self.live(resource).and_then(|app| app.release.as_ref()).map(|release| release.id);
        let (Some(release), Some(namespace)) = (release, &resource.namespace) else { return Ok(()) };
        let Some(release) = store::release::get(self.conn, release).await? else { return Ok(()) };
        let pinned = store::secret::pinned(self.conn, &release).await?;
        let bytes = pinned.into_iter().map(|(name, pinned)| {
            let declared = self.configs.get(&(namespace.clone(), name)).copied();
            declared.unwrap_or_else(|| secrets::value_bytes(pinned.bytes))
        });
        if let Some(problem) = secrets::too_large(bytes.sum()) {
            self.refuse(resource, problem);
        }
        Ok(())
    }

    async fn app(&mut self, resource: &ResourceId, app: &AppResource, live: Option<AppId>) -> Result<()> {
        let namespace = &app.namespace;
        if !self.has_namespace(resource, namespace) {
            return Ok(());
        }
        let id = self.live.namespaces.get(namespace).copied().flatten();
        self.not_deleting(resource);
        if let Err(invalid) = app.spec.validate() {
            self.refuse_spec(resource, invalid);
        }
        // What `wharf scale` set stays where the file says nothing of it.
        let scaled_to = self.live(resource).and_then(|live| live.scaled_to).filter(|_| app.keep_scale);
        if let Some(Err(invalid)) = scaled_to.map(|to| app.spec.validate_replicas("`wharf scale`", to)) {
            self.refuse_spec(resource, invalid);
        }
        self.priority(resource, app, id).await?;
        self.outbound(resource, app, id).await?;
        self.content(resource, app, id).await?;
        self.secrets(resource, namespace, id, &app.spec).await?;
        self.ports(resource, namespace, live, &app.spec).await
    }

    /// None: it is no app, or there is none yet.
    fn live(&self, resource: &ResourceId) -> Option<&LiveApp> {
        if resource.kind != Kind::App {
            return None;
        }
        let key = (resource.namespace.clone()?, resource.name.parse().ok()?);
        self.live.apps.get(&key)
    }

    /// Whether the release that runs can have so many instances.
    fn scale(&mut self, resource: &ResourceId, to: Option<u32>) {
        let release = self.live(resource).and_then(|app| app.release.as_ref());
        let (Some(release), Some(to)) = (release, to) else { return };
        let scale = ScaleSpec { replicas: to.into(), ..release.spec.scale.clone() };
        let spec = AppSpec { scale, ..AppSpec::clone(&release.spec) };
        if let Err(invalid) = spec.validate() {
            self.refuse_spec(resource, invalid);
        }
    }

    fn not_deleting(&mut self, resource: &ResourceId) {
        if self.live(resource).is_some_and(|app| app.deleting) {
            let detail = "the app is being deleted; try again when it is gone";
            self.refuse(resource, Problem::new(ProblemCode::Conflict, detail));
        }
    }

    /// Whether the namespace may give the app its priority.
    async fn priority(
        &mut self,
        resource: &ResourceId,
        app: &AppResource,
        namespace: Option<NamespaceId>,
    ) -> Result<()> {
        if self.any_rights {
            return Ok(());
        }
        let known = namespace.and_then(|id| self.priorities.get(&id).copied());
        let max = match (known, namespace) {
            (Some(max), _) => max,
            (None, None) => quota::priority_max(None),
            (None, Some(id)) => {
                let max = quota::priority_max(store::quota::find(self.conn, id).await?.as_ref());
                self.priorities.insert(id, max);
                max
            }
        };
        let release = self.live(resource).and_then(|app| app.release.as_ref());
        let has = release.map(|release| release.spec.placement.priority);
        let refused = quota::priority_refusal(&app.namespace, max, has, app.spec.placement.priority);
        if let Some(detail) = refused {
            self.refuse(resource, Problem::new(ProblemCode::QuotaExceeded, detail));
        }
        Ok(())
    }

    /// Whether the namespace may be granted where the app is to connect to.
    async fn outbound(
        &mut self,
        resource: &ResourceId,
        app: &AppResource,
        namespace: Option<NamespaceId>,
    ) -> Result<()> {
        if self.any_rights || !outbound::is_private(&app.spec.outbound) {
            return Ok(());
        }
        let quota = match namespace {
            Some(id) => store::quota::find(self.conn, id).await?,
            None => None,
        };
        let has = self.live(resource).and_then(|app| app.release.as_ref());
        let has: Vec<_> = has.iter().map(|release| &release.spec.outbound).collect();
        let refused = outbound::refusal(&app.namespace, quota.as_ref(), &has, &app.spec.outbound);
        if let Some(refused) = refused {
            self.refuse_at(resource, Some("outbound.allow".to_owned()), refused);
        }
        Ok(())
    }

    /// The artifact and the files, and what depends on them.
    async fn content(
        &mut self,
        resource: &ResourceId,
        app: &AppResource,
        namespace: Option<NamespaceId>,
    ) -> Result<()> {
        match self.world(app, namespace).await? {
            None => {
                let detail = format!(
                    "the namespace `{}` has no artifact {}; push it first",
                    app.namespace, app.artifact
                );
                let problem = Problem::new(ProblemCode::NotFound, detail);
                self.refuse_at(resource, Some("artifact".to_owned()), problem);
            }
            Some(world) => {
                let world = world.with(&app.spec);
                let whose = (namespace, &app.namespace);
                if let Some(refused) = containers::find_refusal(self.conn, whose, world, &app.spec).await? {
                    self.refuse_at(resource, Some("container".to_owned()), refused);
                }
                if let Err(invalid) = app.spec.validate_for(world) {
                    self.refuse_spec(resource, invalid);
                }
                if world.is_http() {
                    self.routes(resource, app);
                }
            }
        }
        if let Some(files) = &app.spec.files
            && !self.has_archive(&app.namespace, namespace, files.digest).await?
        {
            let detail =
                format!("the namespace `{}` has no files {}; push them first", app.namespace, files.digest);
            let problem = Problem::new(ProblemCode::NotFound, detail);
            self.refuse_at(resource, Some("files".to_owned()), problem);
        }
        Ok(())
    }

    /// None: the namespace has no such artifact. For one that is made here, any namespace's will do.
    async fn world(&mut self, app: &AppResource, namespace: Option<NamespaceId>) -> Result<Option<World>> {
        let key = (app.namespace.clone(), app.artifact);
        if let Some(known) = self.worlds.get(&key) {
            return Ok(*known);
        }
        let found = match namespace {
            Some(namespace) => store::artifact::find(self.conn, namespace, app.artifact).await?,
            None => store::artifact::get(self.conn, app.artifact).await?,
        };
        let world = found.map(|artifact| artifact.world);
        self.worlds.insert(key, world);
        Ok(world)
    }

    async fn has_archive(
        &mut self,
        name: &NamespaceName,
        namespace: Option<NamespaceId>,
        digest: Digest,
    ) -> Result<bool> {
        let key = (name.clone(), digest);
        if let Some(known) = self.archives.get(&key) {
            return Ok(*known);
        }
        let found = match namespace {
            Some(namespace) => store::archive::find(self.conn, namespace, digest).await?,
            None => store::archive::get(self.conn, digest).await?,
        };
        self.archives.insert(key, found.is_some());
        Ok(found.is_some())
    }

    async fn secrets(
        &mut self,
        resource: &ResourceId,
        name: &NamespaceName,
        namespace: Option<NamespaceId>,
        spec: &AppSpec,
    ) -> Result<()> {
        if spec.values().next().is_none() {
            return Ok(());
        }
        self.read_secrets(namespace).await?;
        let known = |value: &SecretName| self.secrets.get(&namespace?)?.get(value).copied();
        let declared = |value: &SecretName| self.configs.get(&(name.clone(), value.clone())).copied();
        let kind_of = |value: &SecretName| {
            known(value).map(|known| known.kind).or_else(|| declared(value).map(|_| ValueKind::Config))
        };
        let unusable = |(variable, value, kind): (&String, &SecretName, ValueKind)| {
            let problem = secrets::unusable(name, value, kind, kind_of(value))?;
            Some((Some(format!("{}.{variable}", kind.table())), problem))
        };
        let mut problems: Vec<(Option<String>, Problem)> = spec.values().filter_map(unusable).collect();
        let values: BTreeSet<&SecretName> = spec.values().map(|(_, value, _)| value).collect();
        let bytes = values.into_iter().filter_map(|value| {
            declared(value).or_else(|| known(value).map(|known| secrets::value_bytes(known.bytes)))
        });
        problems.extend(secrets::too_large(bytes.sum()).map(|problem| (None, problem)));
        for (field, problem) in problems {
            self.refuse_at(resource, field, problem);
        }
        Ok(())
    }

    /// Asks once for what a namespace has. None: it is made here.
    async fn read_secrets(&mut self, namespace: Option<NamespaceId>) -> Result<()> {
        if let Some(id) = namespace
            && !self.secrets.contains_key(&id)
        {
            let all = store::secret::all(self.conn, id).await?.into_iter().collect();
            self.secrets.insert(id, all);
        }
        Ok(())
    }

    fn routes(&mut self, resource: &ResourceId, app: &AppResource) {
        let domain = &self.context.config.domain;
        let key = (app.namespace.clone(), app.name.clone());
        // An id that nobody has stands for an app that is not there yet.
        let id = self.live.apps.get(&key).map_or_else(AppId::new, |app| app.id);
        for route in view::routes(&app.name, &app.namespace, domain, &app.spec) {
            // The one of its own name stands nowhere in the settings.
            let is_it = |text: &String| text.parse::<RoutePattern>().is_ok_and(|parsed| parsed == route);
            let declared = app.spec.http.routes.iter().position(is_it);
            let field = declared.map(|at| format!("http.routes[{}]", at + 1));
            if let Some(problem) = self.owners.refusal(domain, (&app.namespace, id), &route) {
                self.refuse_at(resource, field, problem);
                continue;
            }
            if let Some(other) = self.routes.get(&route) {
                let detail = format!("the {other} is declared with the route `{route}` as well");
                self.refuse_at(resource, field, Problem::new(ProblemCode::RouteTaken, detail));
                continue;
            }
            self.routes.insert(route, resource.clone());
        }
    }

    async fn ports(
        &mut self,
        resource: &ResourceId,
        namespace: &NamespaceName,
        live: Option<AppId>,
        spec: &AppSpec,
    ) -> Result<()> {
        let id = live.unwrap_or_else(AppId::new);
        for (at, port) in spec.tcp.ports.iter().enumerate() {
            let field = Some(format!("tcp.ports[{}]", at + 1));
            let owner = store::port::owner(self.conn, *port).await?;
            let platforms = &self.context.config.platform_ports;
            if let Some(problem) = ports::refusal(*port, platforms, (namespace, id), owner.as_ref()) {
                self.refuse_at(resource, field, problem);
                continue;
            }
            if let Some(other) = self.ports.get(port) {
                let detail = format!("the {other} is declared with the port {port} as well");
                self.refuse_at(resource, field, Problem::new(ProblemCode::PortTaken, detail));
                continue;
            }
            self.ports.insert(*port, resource.clone());
        }
        Ok(())
    }
}
