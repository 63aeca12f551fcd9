//! `wharf stack deploy`: all that a compose file can be refused for is told before anything changes, and what services wait for comes before them.
//!
//! Files, then a plan of everything; after that values are set, and the services come up wave by wave. Values whose names are new are set before
//! the plan, which has to find them, and no app has them yet.

use std::path::Path;

use anyhow::Context as _;
use tokio::time::Instant;
use wharf_compose::translate::{NamedValue, ValueFrom};
use wharf_compose::{Context, Problems, Project, Translation};
use wharf_types::declare::change::{Plan, PlanRequest};
use wharf_types::declare::{NamespaceResource, Prune, Resource};
use wharf_types::secret::{SecretValue, ValueKind};
use wharf_types::{AppName, NamespaceName, SetName};

use super::contents::{Contents, Found};
use super::values::{self, Value};
use super::words::Services;
use super::{DeployArgs, RmArgs, jobs, owner, waits};
use crate::args::WaitArgs;
use crate::artifact;
use crate::commands::declare;
use crate::exit::Failure;
use crate::output;
use crate::session::Session;

pub(super) async fn run(session: &Session, args: DeployArgs) -> anyhow::Result<()> {
    let stack = Stack::understand(session, &args)?;
    let there = values::set_new(session, &stack.namespace, &stack.values).await?;
    let contents = stack.found.push(session, &stack.namespace, &stack.translation).await?;
    stack.plan_all(&contents).await?;
    for value in there {
        value.set(session, &stack.namespace).await?;
    }
    stack.bring_up(&contents, args.wait).await
}

/// A compose file with nothing wrong in it, and what it names on this machine.
struct Stack<'a> {
    session: &'a Session,
    namespace: NamespaceName,
    name: SetName,
    project: Project,
    translation: Translation,
    found: Found,
    values: Vec<Value>,
    /// Whether apps that belong to something else are taken over.
    adopts: bool,
}

impl<'a> Stack<'a> {
    /// Reads everything, and asks the platform nothing.
    fn understand(session: &'a Session, args: &DeployArgs) -> anyhow::Result<Self> {
        let (project, mut problems) = super::read(&args.files, Some(&args.name))?;
        let modules = wharf_compose::components(&project)
            .filter(|(_, path)| artifact::is_module(&Path::new(&project.folder).join(path)))
            .map(|(service, _)| service.to_owned())
            .collect();
        let context = Context { namespace: None, stack: Some(args.name.to_string()), modules, preview: None };
        let (translation, more) = wharf_compose::translate_all(&project, &context);
        problems.extend(more);
        let problems = Problems::or(problems, ()).err();
        let mut faults: Vec<String> =
            problems.iter().flat_map(Problems::iter).map(ToString::to_string).collect();
        let said = waits::check(&translation);
        faults.extend(said.refused);
        let folder = std::path::absolute(if project.folder.is_empty() { "." } else { &project.folder })?;
        let found = Found::read(&project, &translation, folder, &mut faults);
        let values = read_values(&project, &translation, &mut faults);
        if !faults.is_empty() {
            return Err(Failure::invalid(faults.join("\n")).into());
        }
        super::tell(&translation.notices);
        said.notes.iter().for_each(|note| output::note(format!("note: {note}")));
        let (namespace, name, adopts) = (session.namespace()?, args.name.clone(), args.adopt);
        Ok(Self { session, namespace, name, project, translation, found, values, adopts })
    }

    /// Ends with all that an apply of everything, or a job of it, would be refused for.
    async fn plan_all(&self, contents: &Contents) -> anyhow::Result<()> {
        let services = Services::of(&self.project, &self.translation);
        let jobs = &self.translation.jobs;
        let of_jobs = jobs::refusals(self.session, &self.namespace, jobs, &contents.jobs).await?;
        let everything = self.resources(contents, |_| true);
        let request = PlanRequest { resources: everything, prune: Some(self.prune(false)), with_live: false };
        let plan = self.session.client.plan(declare::body(&request)?).await?;
        let errors = [plan.errors.as_slice(), of_jobs.as_slice()].concat();
        match services.refusal(&errors) {
            Some(failure) => Err(failure.into()),
            None => self.check_owners(&services, &plan).await,
        }
    }

    /// The plan of a part, if it can be carried out.
    async fn plan(&self, resources: &[Resource], prune: &Prune) -> anyhow::Result<Plan> {
        let request =
            PlanRequest { resources: resources.to_vec(), prune: Some(prune.clone()), with_live: false };
        let plan = self.session.client.plan(declare::body(&request)?).await?;
        let services = Services::of(&self.project, &self.translation);
        if let Some(failure) = services.refusal(&plan.errors) {
            return Err(failure.into());
        }
        self.check_owners(&services, &plan).await?;
        Ok(plan)
    }

    async fn check_owners(&self, services: &Services<'_>, plan: &Plan) -> anyhow::Result<()> {
        let foreign = if self.adopts { Vec::new() } else { owner::foreign(&plan.changes) };
        owner::refuse(self.session, &self.namespace, services, foreign, owner::help_for_deploy()).await
    }

    /// Comes back when all of it serves, unless it is not waited for, and what has gone from the file is being deleted.
    async fn bring_up(&self, contents: &Contents, wait: WaitArgs) -> anyhow::Result<()> {
        let waves = waits::waves(&self.translation);
        let wave_of = |app: &AppName| waves.get(app).copied().unwrap_or(0);
        let last = waves.values().copied().max().unwrap_or(0);
        let mut has_changed = false;
        for wave in 0..=last {
            let is_due = |name: &AppName| wave_of(name) == wave;
            let awaited = waits::awaited(&self.translation, is_due);
            waits::see_whether_healthy(self.session, &self.namespace, &awaited).await?;
            let resources = self.resources(contents, |name| wave_of(name) <= wave);
            // Whoever depends on these comes when they serve.
            let wait_here = WaitArgs { no_wait: wait.no_wait && wave == last, ..wait };
            has_changed |=
                self.apply(resources, self.prune(true), wait_here, Silence::WhereNothingChanges).await?;
            for job in self.translation.jobs.iter().filter(|job| is_due(&job.name)) {
                let is_awaited = wave < last || !wait.no_wait;
                let artifact = contents.jobs.get(&job.name).copied();
                let artifact = artifact.context("the job's artifact was pushed before")?;
                jobs::run(self.session, &self.name, (job, artifact), is_awaited).await?;
            }
        }
        // Nothing is deleted before everything is there.
        let silence = if has_changed { Silence::WhereNothingChanges } else { Silence::Never };
        self.apply(self.resources(contents, |_| true), self.prune(false), wait, silence).await?;
        Ok(())
    }

    /// Makes it so; returns whether anything has changed.
    async fn apply(
        &self,
        resources: Vec<Resource>,
        prune: Prune,
        wait: WaitArgs,
        silence: Silence,
    ) -> anyhow::Result<bool> {
        let since = Instant::now();
        let plan = self.plan(&resources, &prune).await?;
        let has_changes = !plan.counts.is_nothing();
        if has_changes || silence == Silence::Never {
            declare::carry_out(self.session, (resources, Some(prune)), plan, wait, since).await?;
        }
        Ok(has_changes)
    }

    /// The apps that are wanted, or, where there are none, what a plan needs to look at the set alone.
    fn resources(&self, contents: &Contents, is_wanted: impl Fn(&AppName) -> bool) -> Vec<Resource> {
        let wanted = contents.apps.iter().filter(|app| is_wanted(&app.name));
        let resources: Vec<Resource> = wanted.map(|app| Resource::App(Box::new(app.clone()))).collect();
        if resources.is_empty() { vec![only_the_set(&self.namespace)] } else { resources }
    }

    /// What belongs to the stack from then on. Unless it is to `keep` the others, what belongs to it and is not there any more is deleted.
    fn prune(&self, keep: bool) -> Prune {
        Prune { set: self.name.clone(), namespaces: vec![self.namespace.clone()], keep }
    }
}

/// When nothing is printed of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    WhereNothingChanges,
    Never,
}

/// `wharf stack rm`
pub(super) async fn remove(session: &Session, args: RmArgs) -> anyhow::Result<()> {
    crate::commands::confirm("all apps of the stack", args.name.as_str(), args.yes)?;
    let since = Instant::now();
    let namespace = session.namespace()?;
    // The namespace is there, so that the set is all that is looked at.
    let resources = vec![only_the_set(&namespace)];
    let prune = Some(Prune { set: args.name, namespaces: vec![namespace], keep: false });
    let request = PlanRequest { resources: resources.clone(), prune: prune.clone(), with_live: false };
    let plan = session.client.plan(declare::body(&request)?).await?;
    declare::check(&plan)?;
    let wait = WaitArgs { no_wait: true, timeout: wharf_types::quantity::Span::from_secs(0) };
    declare::carry_out(session, (resources, prune), plan, wait, since).await
}

fn only_the_set(namespace: &NamespaceName) -> Resource {
    Resource::Namespace(NamespaceResource { name: namespace.clone() })
}

/// The values that the files have. Those that were set before are not among them.
fn read_values(project: &Project, translation: &Translation, faults: &mut Vec<String>) -> Vec<Value> {
    let kinds = [(ValueKind::Secret, &translation.secrets), (ValueKind::Config, &translation.configs)];
    let mut values = Vec::new();
    for (kind, named) in kinds.into_iter().flat_map(|(kind, all)| all.iter().map(move |one| (kind, one))) {
        let octets = match octets_of(project, named) {
            Ok(Some(octets)) => octets,
            Ok(None) => continue,
            Err(problem) => {
                faults.push(format!("{}: {problem}", named.place));
                continue;
            }
        };
        match SecretValue::new(octets) {
            Ok(value) => values.push(Value { kind, name: named.name.clone(), value }),
            Err(error) => faults.push(format!("{}: `{}`: {error}", named.place, named.key)),
        }
    }
    values
}

/// None: it was set before.
fn octets_of(project: &Project, value: &NamedValue) -> Result<Option<Vec<u8>>, String> {
    Ok(match &value.from {
        ValueFrom::External => None,
        ValueFrom::Content(content) => Some(content.clone().into_bytes()),
        ValueFrom::Environment(name) => project.variables.get(name).map(|value| value.clone().into_bytes()),
        ValueFrom::File(path) => {
            let file = Path::new(&project.folder).join(path);
            let read = std::fs::read(&file);
            Some(read.map_err(|error| format!("could not read {}: {error}", file.display()))?)
        }
    })
}
