//! What was pushed with a Compose file: a stack, whose services are deployed as `wharf stack deploy` does.
//!
//! All that the file and its folder can be refused for is told before anything is changed ([`reading`]). Then images and components are
//! built ([`contents`]), and everything is planned as a whole; after that values are set, and the services come up in the order of what they
//! wait for ([`waves`]). Each app's rollout is decided alone, so what a failure leaves is told by name ([`told`]).

mod contents;
mod reading;
mod told;
mod waves;

use std::time::Instant;

use tokio_util::sync::CancellationToken;
use wharf_platform_api::{PreviewPart, Pushed, Runs, Teller};
use wharf_types::api::Deployed;
use wharf_types::declare::change::{Action, Plan, PlanError, PlanRequest};
use wharf_types::declare::{Prune, Resource};
use wharf_types::manifest::Manifest;
use wharf_types::spec::AppSpec;
use wharf_types::{AppName, NamespaceName, RolloutId, SetName};

use self::contents::Contents;
use self::reading::{Asked, PushedTree, Reading};
use self::waves::Planned;
use super::{PushDeployer, cancelled};
use crate::commands::declare;
use crate::commands::stack::values::{self, Value};
use crate::commands::stack::words::Services;
use crate::commands::stack::{jobs, owner};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::session::Session;

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
        self.note_preview(&reading).await?;
        let there = values::set_new(self.session, self.namespace(), &reading.values).await?;
        let contents = self.contents(&reading, &built).await?;
        let jobs = &reading.translation.jobs;
        let of_jobs = jobs::refusals(self.session, self.namespace(), jobs, &contents.jobs).await?;
        let everything = contents.resources(self.namespace(), |_| true);
        let whole = self.plan(&reading, everything, &self.prune(&set, false), &of_jobs).await?;
        self.teller.step(&told::headline(name, whole.counts));
        told::changes(&whole.changes).iter().for_each(|line| self.teller.detail(line));
        self.may_go_on().await?;
        *runs = Runs::Partly;
        let changes = &whole.changes;
        self.carry_out(Planned { reading: &reading, contents: &contents, set: &set, values: there, changes })
            .await?;
        self.finish(&set, &contents, began).await;
        Ok(())
    }

    fn namespace(&self) -> &NamespaceName {
        &self.pushed.namespace
    }

    /// What a stack cannot be, whatever its file says.
    fn check(&self, manifest: Option<&Manifest>) -> Result<(), Failure> {
        let file = self.file;
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
            is_preview: self.pushed.is_preview,
            no_containers: self.pushed.no_containers.clone(),
            cancel: self.cancel.clone(),
        };
        // After a cancel the thread ends with its next step, and is not waited for.
        let read = tokio::task::spawn_blocking(move || Reading::of(tree, &asked));
        self.unless_cancelled(async { anyhow::Ok(read.await??) }).await
    }

    /// Comes back at once when the push is cancelled. Only for what changes nothing.
    async fn unless_cancelled<T>(&self, asked: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(cancelled()),
            done = asked => done,
        }
    }

    /// Has the control plane remember what a preview is made of, before any of it is made.
    async fn note_preview(&self, reading: &Reading) -> anyhow::Result<()> {
        if !self.pushed.is_preview {
            return Ok(());
        }
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        let values = reading.values.iter().map(|it| PreviewPart::Value(it.kind, it.name.clone()));
        let jobs = reading.translation.jobs.iter().map(|job| PreviewPart::Job(job.name.clone().into()));
        let apps = reading.translation.apps.iter().map(|app| PreviewPart::App(app.document.name.clone()));
        let parts: Vec<PreviewPart> = apps.chain(values).chain(jobs).collect();
        if self.teller.makes_preview(&parts).await {
            return Ok(());
        }
        let message = "the control plane cannot write at the moment, so no preview was made: push again";
        Err(Failure::new(Exit::Platform, message).into())
    }

    /// Sets a value, unless it is that; returns the rollouts of the apps that had another one.
    async fn set(&self, value: &Value) -> anyhow::Result<Vec<Begun>> {
        let done = value.set(self.session, self.namespace()).await?;
        let Value { kind, name, .. } = value;
        for Deployed { app, release, .. } in &done.releases {
            self.teller.detail(&format!("the {kind} {name} has changed, so {app} gets release {release}"));
        }
        let begun = |Deployed { app, release, rollout, .. }| Begun { app, release, rollout };
        Ok(done.releases.into_iter().map(begun).collect())
    }

    /// The plan, if it can be carried out, and so can jobs: no plan says what these are refused for.
    async fn plan(
        &self,
        reading: &Reading,
        resources: Vec<Resource>,
        prune: &Prune,
        of_jobs: &[PlanError],
    ) -> anyhow::Result<Plan> {
        let request = PlanRequest { resources, prune: Some(prune.clone()), with_live: false };
        let plan = self.unless_cancelled(self.session.client.plan(declare::body(&request)?)).await?;
        let services = Services::of(&reading.project, &reading.translation);
        if let Some(refusal) = services.refusal(&[plan.errors.as_slice(), of_jobs].concat()) {
            return Err(refusal.into());
        }
        let mut foreign = owner::foreign(&plan.changes);
        // A push to the app's own repository is meant for it, as long as it belongs to nothing else.
        foreign.retain(|it| it.owner != owner::Owner::None || it.app != self.pushed.app);
        let help = owner::help_for_push(self.namespace(), &self.pushed.app, &foreign);
        owner::refuse(self.session, self.namespace(), &services, foreign, help).await?;
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

    /// What belongs to the stack from then on. Unless it is to `keep` the others, what belongs to it and is not there any more is deleted.
    fn prune(&self, set: &SetName, keep: bool) -> Prune {
        Prune { set: set.clone(), namespaces: vec![self.namespace().clone()], keep }
    }

    /// Whether this push may change something: nobody has ended it.
    async fn may_go_on(&self) -> anyhow::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        if !self.teller.rolls_out().await {
            return Err(Failure::new(Exit::Conflict, "another control plane took over: push again").into());
        }
        Ok(())
    }

    /// Says what is there now.
    async fn finish(&self, set: &SetName, contents: &Contents, began: Instant) {
        let (name, teller) = (&self.pushed.app, self.teller);
        // All of it serves, whether it can be told or not.
        let mut apps = self.session.client.apps(self.namespace()).await.unwrap_or_else(|error| {
            teller.detail(&format!("the addresses are not known: {error:#}"));
            Vec::new()
        });
        apps.sort_by(|one, other| one.app.cmp(&other.app));
        if apps.iter().any(|app| app.app == *name && app.set.as_ref() != Some(set)) {
            teller.detail(&format!(
                "the app {name} is no service of the stack, and stays; `wharf delete {name}` removes it"
            ));
        }
        teller.detail(&format!("deployed after {}", output::elapsed(began.elapsed())));
        // What has gone from the file may still be there, on its way out.
        let ours = apps.iter().filter(|app| contents.apps.contains_key(&app.app));
        ours.flat_map(|app| &app.urls).for_each(|url| teller.detail(url));
    }
}

/// Whether a manifest says no more than what it is that is pushed.
fn says_only_what(manifest: &Manifest) -> bool {
    manifest.spec() == AppSpec::default() && manifest.release.is_none() && manifest.files.is_none()
}
