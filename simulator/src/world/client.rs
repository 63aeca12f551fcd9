//! Users: they deploy releases good and bad, scale, stop, go back, and run jobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;
use wharf_platform_api::plan::ReleaseView;
use wharf_platform_api::plan::cron::{Cron, time_zone};
use wharf_platform_api::plan::schedule::ScheduleView;
use wharf_types::job::JobSpec;
use wharf_types::node::AssignedInstance;
use wharf_types::quantity::{ByteSize, Span};
use wharf_types::schedule::{Missed, Overlap, ScheduleSpec};
use wharf_types::spec::{
    AppSpec, CanarySpec, OnFailure, Portion, Priority, Ratio, Replicas, UpdateOrder, UpdateSpec,
};
use wharf_types::world::World as Kind;
use wharf_types::{AppId, Digest, JobId, ReleaseId, ScheduleId};

use super::tenants::Before;
use super::{Event, World, say};
use crate::setup::Extras;
use crate::store::{Store, Wish};

/// What a job that always fails has among its arguments.
const FAIL: &str = "fail";
/// What apps and jobs may ask of their nodes' labels. The checks read these, too, and know no other operators.
const CONSTRAINTS: [&str; 4] =
    ["node.labels.zone == a", "node.labels.zone != b", "node.labels.disk == ssd", "node.labels.disk != hdd"];

#[derive(Debug, Default)]
pub(crate) struct Clients {
    /// What each release is like, by its artifact.
    qualities: BTreeMap<Digest, Quality>,
    /// The apps that there are, and what each is like.
    pub(crate) apps: Vec<(AppId, Shape)>,
    /// How many requests to each are open, or would be.
    pub(crate) open: BTreeMap<AppId, u32>,
    /// How often a secret or a config was set.
    pub(super) values: u32,
    made: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    /// It writes to a volume.
    Volume,
    /// Most of its releases are to be alone.
    Singleton,
    /// Most of its releases run on every node.
    Global,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    Good,
    CannotStart,
    /// Its instances become healthy, and end a while after, as long as not all is well.
    FailsInService,
}

impl Clients {
    pub(crate) fn quality(&self, assigned: &AssignedInstance) -> Quality {
        if assigned.job.is_some() {
            let fails = assigned.spec.args.iter().any(|arg| arg == FAIL);
            return if fails { Quality::CannotStart } else { Quality::Good };
        }
        self.of(&assigned.artifact)
    }

    pub(crate) fn of(&self, artifact: &Digest) -> Quality {
        self.qualities.get(artifact).copied().unwrap_or(Quality::Good)
    }
}

impl World {
    pub(crate) fn wish(&mut self) {
        self.let_service_go();
        if self.is_calm() {
            return;
        }
        let wait = self.dice.millis(10..=2 * self.setup.wish_every.as_millis() as u64);
        self.after(wait, Event::Wish);
        // The API is a process that is there. One that was deposed writes wishes as well as its successor.
        if !self.controls[self.leader()].is_up {
            return;
        }
        let gone: Vec<AppId> = self
            .clients
            .apps
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| !self.store.apps.contains_key(id))
            .collect();
        self.clients.apps.retain(|(id, _)| !gone.contains(id));
        if self.clients.apps.len() < self.setup.apps {
            return self.make_app();
        }
        if self.dice.percent(20) {
            return self.make_job();
        }
        let count = self.clients.apps.len();
        let (app, shape) = self.clients.apps[self.dice.index(count)];
        let wish = match self.dice.number(0..=99) {
            0..=34 => return self.deploy(app, shape),
            35..=44 => Wish::RollBack,
            45..=54 => Wish::Restart,
            55..=69 if shape == Shape::Plain => self.scale(),
            70..=76 => Wish::Pause,
            77..=84 => Wish::Resume,
            85..=88 => Wish::Abort,
            89..=91 => Wish::Stop,
            92..=97 => Wish::Start,
            98 => Wish::Delete,
            _ => return,
        };
        self.ask(app, wish);
    }

    fn scale(&mut self) -> Wish {
        let replicas = self.dice.pick(&[0, 1, 2, 2, 3, 3, 4]);
        Wish::Scale(self.dice.percent(80).then_some(replicas))
    }

    fn ask(&mut self, app: AppId, wish: Wish) {
        let now = self.wish_time();
        let Some(namespace) = self.store.apps.get(&app).map(|known| known.view.namespace.clone()) else {
            return;
        };
        let before = self.begin(&namespace);
        if !self.store.wish(app, wish, now) {
            return;
        }
        let priority = |store: &Store| Some(store.apps.get(&app)?.current()?.spec.placement.priority);
        let (has, wanted) = (priority(&before.store), priority(&self.store));
        let outcome = match wanted {
            Some(wanted) if wish == Wish::RollBack && !self.is_admin() => {
                self.store.check_priority(&namespace, has, wanted)
            }
            _ => Ok(()),
        };
        if self.end(&before, &format_args!("{wish:?} of {app}"), outcome).is_some() {
            say!(self, "somebody wants of {app}: {wish:?}");
            self.tell(app);
        }
    }

    pub(super) fn tell(&mut self, app: AppId) {
        let leader = self.leader();
        self.controls[leader].mark(app);
        self.nudge(leader);
    }

    fn make_app(&mut self) {
        self.clients.made += 1;
        let name = format!("app{}", self.clients.made);
        let now = self.wish_time();
        let namespace = self.throw_namespace();
        let before = self.begin(&namespace);
        let id = self.store.create_app(&name, namespace, now);
        let shape = match self.dice.number(0..=99) {
            0..=24 => Shape::Volume,
            25..=44 => Shape::Singleton,
            45..=64 => Shape::Global,
            _ => Shape::Plain,
        };
        if self.release(&before, id, shape) {
            self.clients.apps.push((id, shape));
        }
    }

    fn deploy(&mut self, id: AppId, shape: Shape) {
        let view = &self.store.apps[&id].view;
        if !view.deleting {
            let before = self.begin(&view.namespace);
            self.release(&before, id, shape);
        }
    }

    /// Ends a transaction with a release. Returns `false` where it was refused.
    fn release(&mut self, before: &Before, id: AppId, shape: Shape) -> bool {
        let app = &self.store.apps[&id];
        let (name, namespace) = (app.view.name.clone(), app.view.namespace.clone());
        let number = app.last_release + 1;
        let quality = match self.dice.number(0..=99) {
            0..=69 => Quality::Good,
            70..=84 => Quality::CannotStart,
            _ => Quality::FailsInService,
        };
        let artifact = Digest::of(format!("{name} {number}").as_bytes());
        self.clients.qualities.insert(artifact, quality);
        let mut spec = self.spec(shape);
        self.place(&mut spec);
        if shape == Shape::Plain {
            self.give_a_range(&mut spec);
        }
        self.reserve(&mut spec);
        (spec.secrets, spec.configs) = self.name_values(&namespace);
        spec.validate().expect("the API would take it");
        say!(
            self,
            "somebody deploys release {number} of {name} ({id}), {quality:?}: {:?} of {} at {:?}",
            spec.update,
            spec.scale.replicas,
            spec.placement
        );
        let now = self.wish_time();
        let release = ReleaseView {
            id: ReleaseId::from_uuid(self.store.ids(now).next()),
            number,
            artifact,
            world: Kind::HttpProxy,
            spec: Arc::new(spec),
            secrets: Arc::default(),
            routes: vec![format!("{name}.{namespace}.localhost").parse().expect("it is a route")],
        };
        let any_priority = self.is_admin();
        let outcome = self.store.release(id, release, any_priority, now);
        let is_made = self.end(before, &format_args!("release {number} of {name}"), outcome).is_some();
        if is_made {
            self.check_released(id);
            self.tell(id);
        }
        is_made
    }

    fn spec(&mut self, shape: Shape) -> AppSpec {
        let dice = &mut self.dice;
        let mut spec = AppSpec { update: update(dice), ..AppSpec::default() };
        spec.scale.replicas = match shape {
            Shape::Plain => dice.pick(&[1, 2, 2, 3, 4]).into(),
            Shape::Global if dice.percent(85) => Replicas::GLOBAL,
            Shape::Global => dice.pick(&[1, 2, 3]).into(),
            Shape::Volume | Shape::Singleton => 1.into(),
        };
        if dice.percent(30) {
            spec.reserve.memory = Some(ByteSize::mib(2));
        }
        if shape == Shape::Singleton && dice.percent(85) {
            spec.scale.singleton = true;
            spec.update.canary = None;
        }
        if shape == Shape::Volume {
            let volume = r#"{"name": "data", "path": "/data"}"#;
            spec.volumes = vec![serde_json::from_str(volume).expect("it is a volume")];
            spec.update.canary = None;
        }
        spec
    }

    fn make_job(&mut self) {
        let now = self.wish_time();
        if self.dice.percent(20) {
            let open: Vec<JobId> = self.store.jobs.keys().copied().collect();
            if !open.is_empty() {
                let job = self.dice.pick(&open);
                if self.store.end_job(job) {
                    say!(self, "somebody cancels job {job}");
                    self.tell_job(job);
                }
            }
            return;
        }
        let mut spec = self.job_spec();
        let namespace = self.throw_namespace();
        (spec.secrets, spec.configs) = self.name_values(&namespace);
        let any_priority = self.is_admin();
        let before = self.begin(&namespace);
        let outcome = self.store.create_job(&namespace, &spec, None, now).and_then(|job| {
            if !any_priority {
                self.store.check_priority(&namespace, None, spec.placement.priority)?;
            }
            Ok(job)
        });
        let Some(job) = self.end(&before, &"a job", outcome) else { return };
        self.check_job_made(job);
        say!(
            self,
            "somebody makes job {job}: {} of {}, {} retries",
            spec.parallelism,
            spec.completions,
            spec.retries
        );
        self.tell_job(job);
    }

    fn tell_job(&mut self, job: JobId) {
        let leader = self.leader();
        self.controls[leader].mark_job(job);
        self.nudge(leader);
    }

    fn job_spec(&mut self) -> JobSpec {
        let dice = &mut self.dice;
        let mut spec = JobSpec {
            completions: dice.number(1..=4),
            parallelism: dice.number(1..=3),
            indexed: dice.percent(50),
            retries: dice.number(0..=3),
            backoff: Span::from_millis(dice.pick(&[0, 100, 1000])),
            backoff_max: Span::from_secs(3),
            timeout: dice.percent(20).then(|| Span::from_secs(2)),
            memory: Some(ByteSize::mib(1)),
            args: if dice.percent(20) { vec![FAIL.to_owned()] } else { Vec::new() },
            ..JobSpec::default()
        };
        let Extras { priorities, labels, .. } = self.setup.extras;
        let dice = &mut self.extra_dice;
        if priorities {
            spec.placement.priority = priority(dice);
            spec.memory = Some(ByteSize::mib(dice.number(1..=3).into()));
        }
        if labels && dice.percent(30) {
            spec.placement.constraints = vec![dice.pick(&CONSTRAINTS).to_owned()];
        }
        spec
    }

    /// Where the app may be, and who gives way to whom.
    fn place(&mut self, spec: &mut AppSpec) {
        let Extras { priorities, labels, .. } = self.setup.extras;
        let dice = &mut self.extra_dice;
        if priorities {
            spec.placement.priority = priority(dice);
            spec.reserve.memory = Some(ByteSize::mib(dice.number(1..=4).into()));
        }
        if !labels {
            return;
        }
        if dice.percent(50) {
            spec.placement.constraints = vec![dice.pick(&CONSTRAINTS).to_owned()];
        }
        if !spec.is_global() {
            if dice.percent(40) {
                spec.placement.spread = vec!["zone".to_owned()];
            }
            spec.placement.max_per_node = dice.percent(30).then(|| dice.number(1..=2));
        }
    }

    pub(crate) fn set_schedules(&mut self) {
        let now = self.wish_time();
        for number in 0..self.setup.schedules {
            let job = self.job_spec();
            let overlap = self.dice.pick(&[Overlap::Forbid, Overlap::Allow, Overlap::Replace]);
            let line = self.dice.pick(&["*/5 * * * * *", "*/20 * * * * *", "* * * * *"]);
            let mut spec: ScheduleSpec =
                serde_json::from_value(serde_json::json!({ "cron": line })).expect("it is a schedule");
            (spec.overlap, spec.missed) =
                (overlap, self.dice.pick(&[Missed::Skip, Missed::RunOnce, Missed::RunAll]));
            spec.missed_max = 5;
            spec.job.spec = JobSpec { timeout: Some(Span::from_secs(3)), ..job };
            let id = ScheduleId::from_uuid(Uuid::from_u128(number as u128 + 1));
            let view = ScheduleView {
                id,
                cron: Cron::parse(&spec.cron).expect("it is a line"),
                zone: time_zone(&spec.timezone).expect("it is a zone"),
                spec,
                decided_until: now,
                active: Vec::new(),
            };
            self.store.schedules.insert(id, view);
        }
        let schedules: Vec<ScheduleId> = self.store.schedules.keys().copied().collect();
        let leader = self.leader();
        self.controls[leader].look_at_schedules(&schedules);
    }

    /// Nothing stays paused for ever, and some of what was stopped is started.
    pub(crate) fn last_wishes(&mut self) {
        for (app, _) in self.clients.apps.clone() {
            if self.dice.percent(50) {
                self.ask(app, Wish::Start);
            }
        }
        self.go_on();
    }

    /// Takes a side where a rollout waits for somebody.
    pub(crate) fn go_on(&mut self) {
        for (app, _) in self.clients.apps.clone() {
            let Some(known) = self.store.apps.get(&app) else { continue };
            let paused = known.rollout_under_way().filter(|rollout| rollout.paused.is_some());
            match paused.map(|rollout| rollout.automatic) {
                Some(true) => self.ask(app, Wish::Resume),
                Some(false) => self.ask(app, Wish::Abort),
                None => {}
            }
        }
    }
}

fn priority(dice: &mut crate::dice::Dice) -> Priority {
    dice.pick(&[Priority::Low, Priority::Normal, Priority::Normal, Priority::High])
}

fn update(dice: &mut crate::dice::Dice) -> UpdateSpec {
    let seldom = |dice: &mut crate::dice::Dice| dice.percent(15);
    UpdateSpec {
        parallelism: dice.pick(&[Portion::Percent(25), Portion::Percent(50), Portion::Percent(100)]),
        order: if seldom(dice) { UpdateOrder::StopFirst } else { UpdateOrder::StartFirst },
        delay: if seldom(dice) { Span::from_millis(500) } else { Span::from_secs(0) },
        monitor: Span::from_secs(dice.number(0..=5).into()),
        max_failure_ratio: if seldom(dice) { Ratio::percent(50) } else { Ratio::default() },
        progress_deadline: Span::from_secs(dice.number(8..=30).into()),
        on_failure: if seldom(dice) {
            dice.pick(&[OnFailure::Pause, OnFailure::Continue])
        } else {
            OnFailure::Rollback
        },
        canary: seldom(dice).then(|| CanarySpec {
            share: Ratio::percent(25),
            duration: Span::from_secs(2),
            ..CanarySpec::default()
        }),
        ..UpdateSpec::default()
    }
}
