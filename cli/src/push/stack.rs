//! What was pushed with a Compose file: a stack, whose services are deployed as `wharf stack deploy` does.
//!
//! All that the file and its folder can be refused for is told before anything is changed ([`reading`]). Then images and components are
//! built, and everything is planned as a whole; after that values are set, and the services come up in the order of what they wait for.
//! Each app's rollout is decided alone, so what a failure leaves is told by name ([`told`]).

mod contents;
mod reading;
mod told;

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use anyhow::Context as _;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;
use wharf_compose::translate::Job;
use wharf_platform_api::{Pushed, Runs, Teller};
use wharf_types::api::Deployed;
use wharf_types::declare::change::{Action, ApplyRequest, Change, Plan, PlanRequest};
use wharf_types::declare::{Prune, Resource};
use wharf_types::job::JobState;
use wharf_types::manifest::Manifest;
use wharf_types::problem::ProblemCode;
use wharf_types::secret::ValueKind;
use wharf_types::spec::AppSpec;
use wharf_types::{AppName, NamespaceName, Problem, RolloutId, SetName};

use self::contents::Contents;
use self::reading::{Asked, PushedTree, Reading, Value};
use self::told::Course;
use super::PushDeployer;
use super::cancelled;
use super::follow::follow;
use crate::app_ref::AppRef;
use crate::commands::stack::jobs;
use crate::commands::{declare, stack};
use crate::exit::{self, Exit, Failure};
use crate::output;
use crate::release_command;
use crate::session::Session;

/// How often something is planned until nothing has moved meanwhile.
const TRIES: u32 = 3;
/// Rollouts that are asked about at once.
const FOLLOWED_AT_ONCE: usize = 16;

/// A stack that was pushed.
pub(super) struct Stack<'a> {
    pub(super) deployer: &'a PushDeployer,
    pub(super) session: &'a Session,
    pub(super) pushed: &'a Pushed,
    /// The Compose file, in what was pushed.
    pub(super) file: &'a str,
    pub(super) teller: &'a Teller,
    pub(super) cancel: &'a CancellationToken,
}

/// A rollout that this push has begun.
struct Begun {
    app: AppName,
    release: u64,
    rollout: RolloutId,
}

impl Stack<'_> {
    /// Comes back when every service serves. `runs` says what does after an error.
    pub(super) async fn deploy(&self, manifest: Option<&Manifest>, runs: &mut Runs) -> anyhow::Result<()> {
        let began = Instant::now();
        self.check(manifest)?;
        let name = &self.pushed.app;
        let set = SetName::from(name.clone());
        let reading = self.read(&set).await?;
        told::notes(&reading.notes).iter().for_each(|note| self.teller.detail(note));
        let built = self.build(&reading).await?;
        let there = self.set_new(&reading.values).await?;
        let contents = self.contents(&reading, &built).await?;
        let prune = Prune { set: set.clone(), namespaces: vec![self.namespace().clone()], keep: false };
        let whole = self.plan(&reading, contents.resources(self.namespace(), |_| true), Some(&prune)).await?;
        self.teller.step(&told::headline(name, whole.counts));
        told::changes(&whole.changes).iter().for_each(|line| self.teller.detail(line));
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        if !self.teller.rolls_out().await {
            return Err(Failure::new(Exit::Conflict, "another control plane took over: push again").into());
        }
        *runs = Runs::Partly;
        let mut begun: Vec<Begun> = Vec::new();
        for value in there {
            let made = self.set(value).await?;
            begun.retain(|before| made.iter().all(|newer| newer.app != before.app));
            begun.extend(made);
        }
        self.carry_out((&reading, &contents), &prune, &whole.changes, begun).await?;
        self.finish(&set, began).await
    }

    fn namespace(&self) -> &NamespaceName {
        &self.pushed.namespace
    }

    /// What a stack cannot be, whatever its file says.
    fn check(&self, manifest: Option<&Manifest>) -> Result<(), Failure> {
        let file = self.file;
        if self.pushed.is_preview {
            let message = format!(
                "{file} has services, which are known by their names, so there is no preview of them beside the stack"
            );
            return Err(Failure::invalid(message).help(
                "push it to a namespace of its own, which `wharf namespace create NAME` makes, at /git/NAME/STACK.git",
            ));
        }
        if manifest.is_some_and(|manifest| !says_only_what(manifest)) {
            let message = format!(
                "wharf.toml has settings of one app, and {file} has services with settings of their own"
            );
            return Err(Failure::invalid(message).help(format!(
                "write them into {file}, with `x-wharf` where Compose has no word for them, and leave `app`, `namespace` and `[build]` in \
                 wharf.toml; or choose one app, such as by `[build] dockerfile = \"Dockerfile\"`"
            )));
        }
        Ok(())
    }

    async fn read(&self, set: &SetName) -> anyhow::Result<Reading> {
        let tree = PushedTree::open(&self.pushed.folder)?;
        let asked = Asked {
            file: self.file.to_owned(),
            stack: set.clone(),
            commit: self.pushed.commit.clone(),
            no_containers: self.pushed.no_containers.clone(),
        };
        Ok(tokio::task::spawn_blocking(move || Reading::of(tree, &asked)).await??)
    }

    /// Sets the values whose names are new, of which nothing that runs knows; returns the others.
    async fn set_new<'r>(&self, values: &'r [Value]) -> anyhow::Result<Vec<&'r Value>> {
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let mut known = HashSet::new();
        for kind in [ValueKind::Secret, ValueKind::Config] {
            let there = self.session.client.values(self.namespace(), kind).await?;
            known.extend(there.into_iter().map(|value| value.name));
        }
        let (there, new): (Vec<&Value>, Vec<&Value>) =
            values.iter().partition(|value| known.contains(&value.name));
        for value in new {
            self.set(value).await?;
        }
        Ok(there)
    }

    /// Sets a value, unless it is that; returns the rollouts of the apps that had another one.
    async fn set(&self, value: &Value) -> anyhow::Result<Vec<Begun>> {
        let Value { kind, name, value } = value;
        let done = self.session.client.set_value(self.namespace(), (*kind, name), value).await;
        let done = done.with_context(|| format!("could not set the {kind} `{name}`"))?;
        for Deployed { app, release, .. } in &done.releases {
            self.teller.detail(&format!("the {kind} {name} has changed, so {app} gets release {release}"));
        }
        let begun = |Deployed { app, release, rollout, .. }| Begun { app, release, rollout };
        Ok(done.releases.into_iter().map(begun).collect())
    }

    /// The plan, if it can be carried out.
    async fn plan(
        &self,
        reading: &Reading,
        resources: Vec<Resource>,
        prune: Option<&Prune>,
    ) -> anyhow::Result<Plan> {
        let request = PlanRequest { resources, prune: prune.cloned(), with_live: false };
        let plan = self.session.client.plan(declare::body(&request)?).await?;
        let apps = reading.translation.apps.iter();
        let places: BTreeMap<&str, String> =
            apps.map(|app| (app.document.name.as_str(), app.place.to_string())).collect();
        if let Some(refusal) = told::refusal(&plan.errors, &places) {
            return Err(refusal.into());
        }
        let made = plan.changes.iter().find(|change| change.action == Action::Create);
        if let Some(made) = made.filter(|_| !self.pushed.may_make_apps) {
            let (name, namespace) = (&made.resource.name, self.namespace());
            let message = format!("there is no app `{name}`, and pushes make none in `{namespace}`");
            return Err(Failure::invalid(message)
                .help(format!(
                    "make it with `wharf stack deploy {}`, or ask an admin for `wharf namespace pushes {namespace} --creates-apps true`",
                    self.pushed.app
                ))
                .into());
        }
        Ok(plan)
    }

    /// Brings up the services wave by wave, and deletes what has gone with the last one. Some rollouts have `begun` already.
    async fn carry_out(
        &self,
        (reading, contents): (&Reading, &Contents),
        prune: &Prune,
        changes: &[Change],
        mut begun: Vec<Begun>,
    ) -> anyhow::Result<()> {
        let waves = stack::waves(&reading.translation);
        let wave_of = |name: &AppName| waves.get(name).copied().unwrap_or(0);
        let last = waves.values().copied().max().unwrap_or(0);
        let changed = changes.iter().filter(|it| matches!(it.action, Action::Create | Action::Update));
        let waiting = changed.filter_map(|change| change.resource.name.parse::<AppName>().ok()).collect();
        let mut course = Course { waiting, ..Course::default() };
        for wave in 0..=last {
            if self.cancel.is_cancelled() {
                return Err(with_others(&cancelled(), &course).into());
            }
            let pruned = (wave == last).then_some(prune);
            let resources = contents.resources(self.namespace(), |name| wave_of(name) <= wave);
            let applied = self.apply(reading, resources, pruned).await;
            let applied = applied.map_err(|error| with_others(&error, &course))?;
            let mut rollouts: Vec<Begun> = applied.iter().filter_map(begun_by).collect();
            begun.retain(|before| rollouts.iter().all(|newer| newer.app != before.app));
            if wave == last {
                rollouts.append(&mut begun);
            }
            let followed = self.follow(rollouts, &mut course).await;
            followed.map_err(|error| with_others(&error, &course))?;
            if let Some(failure) = course.failure() {
                return Err(failure.into());
            }
            let jobs = reading.translation.jobs.iter().filter(|job| wave_of(&job.name) == wave);
            for job in jobs.collect::<Vec<_>>() {
                let ran = self.run(&prune.set, job, contents).await;
                ran.map_err(|error| with_others(&error, &course))?;
            }
        }
        Ok(())
    }

    /// Makes it so, unless it is. What was planned is what is done, and it is planned anew if anything has moved meanwhile.
    async fn apply(
        &self,
        reading: &Reading,
        resources: Vec<Resource>,
        prune: Option<&Prune>,
    ) -> anyhow::Result<Vec<Change>> {
        let mut tries_left = TRIES;
        loop {
            let plan = self.plan(reading, resources.clone(), prune).await?;
            if plan.counts.is_nothing() {
                return Ok(Vec::new());
            }
            let (resources, prune) = (resources.clone(), prune.cloned());
            let request = ApplyRequest { resources, prune, base: Some(plan.base) };
            match self.session.client.apply(declare::body(&request)?).await {
                Err(error) if has_moved(&error) && tries_left > 1 => tries_left -= 1,
                applied => return Ok(applied?.changes),
            }
        }
    }

    /// Waits until each of these rollouts is decided.
    async fn follow(&self, rollouts: Vec<Begun>, course: &mut Course) -> anyhow::Result<()> {
        if rollouts.is_empty() {
            return Ok(());
        }
        for Begun { app, release, .. } in &rollouts {
            self.teller.step(&format!("Release {release} of {app}"));
        }
        let apps = self.session.client.apps(self.namespace()).await?;
        let is_stopped = |name: &AppName| apps.iter().any(|app| app.app == *name && app.stopped.is_some());
        let (stopped, started): (Vec<Begun>, Vec<Begun>) =
            rollouts.into_iter().partition(|rollout| is_stopped(&rollout.app));
        for Begun { app, .. } in stopped {
            self.teller.detail(&format!("{app} is stopped; it runs once `wharf start {app}` has started it"));
            course.end(app, None);
        }
        let followed: Vec<_> =
            started.into_iter().map(|Begun { app, rollout, .. }| self.follow_one(app, rollout)).collect();
        let mut followed = futures::stream::iter(followed).buffer_unordered(FOLLOWED_AT_ONCE);
        while let Some((name, problem)) = followed.next().await {
            course.end(name, problem);
        }
        Ok(())
    }

    /// Why it does not serve. None: it does.
    async fn follow_one(&self, name: AppName, rollout: RolloutId) -> (AppName, Option<String>) {
        let app = AppRef { namespace: self.namespace().clone(), app: name.clone() };
        let say = |line: &str| self.teller.detail(&format!("{name}: {line}"));
        let followed = follow(self.session, &app, rollout, &say, self.cancel).await;
        (app.app, followed.err().map(|error| exit::told(&error).0))
    }

    /// Runs a job to its end, unless it was run with success before as it is now.
    async fn run(&self, set: &SetName, job: &Job, contents: &Contents) -> anyhow::Result<()> {
        let artifact =
            contents.jobs.get(&job.name).copied().context("the job's artifact was pushed before")?;
        let made = jobs::ensure(self.session, self.namespace(), set, job, artifact).await?;
        self.teller.step(&format!("Job {}", job.name));
        if made.state == JobState::Succeeded {
            self.teller.detail("has succeeded before, and has not changed");
            return Ok(());
        }
        let say = &mut |line: &str| self.teller.detail(line);
        let ended =
            release_command::to_the_end(self.session, self.namespace(), &made, say, self.cancel).await?;
        if ended.state == JobState::Succeeded {
            return Ok(());
        }
        let how = release_command::end_of(&ended);
        let message = format!("the job {} {how}, so nothing that comes after it was deployed", job.name);
        Err(Failure::new(Exit::RolloutFailed, message).into())
    }

    /// Says what is there now.
    async fn finish(&self, set: &SetName, began: Instant) -> anyhow::Result<()> {
        let (name, teller) = (&self.pushed.app, self.teller);
        let mut apps = self.session.client.apps(self.namespace()).await?;
        apps.sort_by(|one, other| one.app.cmp(&other.app));
        if apps.iter().any(|app| app.app == *name && app.set.as_ref() != Some(set)) {
            teller.detail(&format!(
                "the app {name} is no service of the stack, and stays; `wharf delete {name}` removes it"
            ));
        }
        teller.detail(&format!("deployed after {}", output::elapsed(began.elapsed())));
        let ours = apps.iter().filter(|app| app.set.as_ref() == Some(set));
        ours.flat_map(|app| &app.urls).for_each(|url| teller.detail(url));
        Ok(())
    }
}

/// The rollout that a change has brought about.
fn begun_by(change: &Change) -> Option<Begun> {
    Some(Begun {
        app: change.resource.name.parse().ok()?,
        release: change.release?,
        rollout: change.rollout?,
    })
}

/// Whether something was changed between a plan and what was to carry it out.
fn has_moved(error: &anyhow::Error) -> bool {
    let problem = error.chain().find_map(|cause| cause.downcast_ref::<Problem>());
    problem.is_some_and(|problem| problem.code == ProblemCode::PreconditionFailed)
}

/// Whether a manifest says no more than what it is that is pushed.
fn says_only_what(manifest: &Manifest) -> bool {
    manifest.spec() == AppSpec::default() && manifest.release.is_none() && manifest.files.is_none()
}

/// An error in the middle, and what has become of the services before and after it.
fn with_others(error: &anyhow::Error, course: &Course) -> Failure {
    let (text, help) = exit::told(error);
    let others = course.others();
    Failure::new(Exit::of(error), text).help(help.map_or(others.clone(), |help| format!("{help}\n{others}")))
}
