//! Brings the services of a stack up, wave by wave, and deletes what has gone from the file once all of them serve.
//!
//! Every rollout that this push has begun is followed until it is decided, when its app has its turn. Those whose turn never comes, because
//! something before them failed, are taken back.

use std::collections::HashSet;

use anyhow::Context as _;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;
use wharf_compose::translate::Job;
use wharf_types::api::AppInfo;
use wharf_types::declare::change::{Action, ApplyRequest, Change};
use wharf_types::declare::{Prune, Resource};
use wharf_types::job::JobState;
use wharf_types::problem::ProblemCode;
use wharf_types::{AppName, Problem, RolloutId, SetName};

use super::contents::Contents;
use super::reading::Reading;
use super::told::Course;
use super::{Begun, Stack};
use crate::app_ref::AppRef;
use crate::commands::declare;
use crate::commands::stack::values::Value;
use crate::commands::stack::{jobs, waits};
use crate::exit::{self, Exit, Failure};
use crate::push::follow::follow;
use crate::release_command;
use crate::rollout::{self, Verdict};

/// How often something is planned until nothing has moved meanwhile.
const TRIES: u32 = 3;
/// Rollouts that are asked about at once.
const FOLLOWED_AT_ONCE: usize = 16;

/// What is carried out.
pub(super) struct Planned<'a> {
    pub(super) reading: &'a Reading,
    pub(super) contents: &'a Contents,
    pub(super) set: &'a SetName,
    /// What apps may run with already.
    pub(super) values: Vec<&'a Value>,
    /// The plan of the whole.
    pub(super) changes: &'a [Change],
}

/// How it goes.
struct Going {
    course: Course,
    /// Rollouts that changed values have begun, of apps that have not had their turn.
    begun: Vec<Begun>,
}

impl Stack<'_> {
    /// Comes back when every service serves, and what is none any more is being deleted.
    pub(super) async fn carry_out(&self, planned: Planned<'_>) -> anyhow::Result<()> {
        let mut going = Going { course: Course::of(planned.changes), begun: Vec::new() };
        let went = self.bring_up(&planned, &mut going).await;
        let Going { mut course, begun } = going;
        if !begun.is_empty() {
            self.take_back(begun, &mut course).await;
        }
        match went {
            Err(error) => Err(with_others(&error, &course).into()),
            Ok(()) => course.failure().map_or(Ok(()), |failure| Err(failure.into())),
        }
    }

    /// Ends early where a service does not come up, which `going` says then.
    async fn bring_up(&self, planned: &Planned<'_>, going: &mut Going) -> anyhow::Result<()> {
        let &Planned { reading, contents, set, changes, .. } = planned;
        for value in &planned.values {
            let made = self.set(value).await?;
            going.begun.retain(|before| made.iter().all(|newer| newer.app != before.app));
            // What is deleted in the end is not waited for.
            going.begun.extend(made.into_iter().filter(|made| !is_doomed(changes, &made.app)));
        }
        let waves = waits::waves(&reading.translation);
        let wave_of = |name: &AppName| waves.get(name).copied().unwrap_or(0);
        let last = waves.values().copied().max().unwrap_or(0);
        for wave in 0..=last {
            self.may_go_on().await?;
            let awaited = waits::awaited(&reading.translation, |name| wave_of(name) == wave);
            waits::see_whether_healthy(self.session, self.namespace(), &awaited).await?;
            let later = waves.iter().filter(|(_, of)| **of > wave);
            let later: HashSet<&AppName> = later.map(|(name, _)| *name).collect();
            let resources = contents.resources(self.namespace(), |name| !later.contains(name));
            let applied = self.apply(reading, resources, &self.prune(set, true)).await?;
            self.see_through(&applied, contents, &later, going).await?;
            if !going.course.failed.is_empty() {
                return Ok(());
            }
            let jobs = reading.translation.jobs.iter().filter(|job| wave_of(&job.name) == wave);
            for job in jobs.collect::<Vec<_>>() {
                self.may_go_on().await?;
                self.run(set, job, contents).await?;
            }
        }
        self.may_go_on().await?;
        let everything = contents.resources(self.namespace(), |_| true);
        let applied = self.apply(reading, everything, &self.prune(set, false)).await?;
        self.see_through(&applied, contents, &HashSet::new(), going).await
    }

    /// Makes it so, unless it is. What was planned is what is done, and it is planned anew if anything has moved meanwhile.
    async fn apply(
        &self,
        reading: &Reading,
        resources: Vec<Resource>,
        prune: &Prune,
    ) -> anyhow::Result<Vec<Change>> {
        let mut tries_left = TRIES;
        loop {
            let plan = self.plan(reading, resources.clone(), prune, &[]).await?;
            if plan.counts.is_nothing() {
                return Ok(plan.changes);
            }
            let (resources, prune) = (resources.clone(), Some(prune.clone()));
            let request = ApplyRequest { resources, prune, base: Some(plan.base) };
            match self.session.client.apply(declare::body(&request)?).await {
                Err(error) if has_moved(&error) && tries_left > 1 => tries_left -= 1,
                applied => return Ok(applied?.changes),
            }
        }
    }

    /// Follows what was applied, and all else that is not decided of apps that have had their turn: a release of a changed value, or of a
    /// push before whose end nobody saw.
    async fn see_through(
        &self,
        applied: &[Change],
        contents: &Contents,
        later: &HashSet<&AppName>,
        going: &mut Going,
    ) -> anyhow::Result<()> {
        going.course.note(applied);
        let mut rollouts: Vec<Begun> = applied.iter().filter_map(begun_by).collect();
        going.begun.retain(|before| rollouts.iter().all(|newer| newer.app != before.app));
        let before = std::mem::take(&mut going.begun).into_iter();
        let (due, rest): (Vec<Begun>, Vec<Begun>) = before.partition(|begun| !later.contains(&begun.app));
        going.begun = rest;
        rollouts.extend(due);
        let apps = self.session.client.apps(self.namespace()).await?;
        let known: HashSet<&AppName> = rollouts.iter().map(|begun| &begun.app).collect();
        let others = apps.iter().filter(|app| {
            contents.apps.contains_key(&app.app) && !later.contains(&app.app) && !known.contains(&app.app)
        });
        let others: Vec<Begun> = others.filter_map(undecided).collect();
        rollouts.extend(others);
        self.follow(rollouts, &apps, &mut going.course, self.cancel).await;
        Ok(())
    }

    /// Ends rollouts of apps whose turn does not come.
    async fn take_back(&self, begun: Vec<Begun>, course: &mut Course) {
        let ended = CancellationToken::new();
        ended.cancel();
        match self.session.client.apps(self.namespace()).await {
            Ok(apps) => self.follow(begun, &apps, course, &ended).await,
            Err(error) => {
                let names: Vec<&str> = begun.iter().map(|begun| begun.app.as_str()).collect();
                let names = names.join(", ");
                self.teller.detail(&format!("how the rollouts of {names} went is not known: {error:#}"));
            }
        }
    }

    /// Waits until each of these rollouts is decided.
    async fn follow(
        &self,
        rollouts: Vec<Begun>,
        apps: &[AppInfo],
        course: &mut Course,
        cancel: &CancellationToken,
    ) {
        for Begun { app, release, .. } in &rollouts {
            self.teller.step(&format!("Release {release} of {app}"));
        }
        let is_stopped = |name: &AppName| apps.iter().any(|app| app.app == *name && app.stopped.is_some());
        let (stopped, started): (Vec<Begun>, Vec<Begun>) =
            rollouts.into_iter().partition(|rollout| is_stopped(&rollout.app));
        for Begun { app, .. } in stopped {
            self.teller.detail(&format!("{app} is stopped; it runs once `wharf start {app}` has started it"));
            course.end(app, None);
        }
        let followed: Vec<_> = started
            .into_iter()
            .map(|Begun { app, rollout, .. }| self.follow_one(app, rollout, cancel))
            .collect();
        let mut followed = futures::stream::iter(followed).buffer_unordered(FOLLOWED_AT_ONCE);
        while let Some((name, problem)) = followed.next().await {
            course.end(name, problem);
        }
    }

    /// Why it does not serve. None: it does.
    async fn follow_one(
        &self,
        name: AppName,
        rollout: RolloutId,
        cancel: &CancellationToken,
    ) -> (AppName, Option<String>) {
        let app = AppRef { namespace: self.namespace().clone(), app: name.clone() };
        let say = |line: &str| self.teller.detail(&format!("{name}: {line}"));
        let followed = follow(self.session, &app, rollout, &say, cancel).await;
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
}

/// The rollout that a change has brought about.
fn begun_by(change: &Change) -> Option<Begun> {
    Some(Begun {
        app: change.resource.name.parse().ok()?,
        release: change.release?,
        rollout: change.rollout?,
    })
}

/// The newest rollout of an app, while it is not decided.
fn undecided(app: &AppInfo) -> Option<Begun> {
    let rollout = app.rollout.as_ref().filter(|it| rollout::verdict(it.state) == Verdict::Undecided)?;
    Some(Begun { app: app.app.clone(), release: rollout.to, rollout: rollout.id })
}

/// Whether a plan deletes an app.
fn is_doomed(changes: &[Change], app: &AppName) -> bool {
    changes.iter().any(|change| change.action == Action::Delete && change.resource.name == app.as_str())
}

/// Whether something was changed between a plan and what was to carry it out.
fn has_moved(error: &anyhow::Error) -> bool {
    let problem = error.chain().find_map(|cause| cause.downcast_ref::<Problem>());
    problem.is_some_and(|problem| problem.code == ProblemCode::PreconditionFailed)
}

/// An error in the middle, and what has become of the services before and after it.
fn with_others(error: &anyhow::Error, course: &Course) -> Failure {
    let (text, help) = exit::told(error);
    let text = course.failure().map_or(text.clone(), |failed| format!("{text}\n{failed}"));
    let others = course.others();
    Failure::new(Exit::of(error), text).help(help.map_or(others.clone(), |help| format!("{help}\n{others}")))
}
