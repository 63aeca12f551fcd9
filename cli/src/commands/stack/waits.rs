//! What services wait for: the order of a deploy, what a deploy does not wait for, and what can come true no more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;
use wharf_compose::Translation;
use wharf_compose::model::Condition;
use wharf_types::api::AppInfo;
use wharf_types::declare::document::AppDocument;
use wharf_types::spec::RestartCondition;
use wharf_types::state::{AppCondition, RolloutState};
use wharf_types::{AppName, NamespaceName};

use crate::exit::{Exit, Failure};
use crate::session::Session;

/// How long an app that may end is watched before it counts as healthy. No window after a release is usually longer.
const WATCHED_MAX: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LOOKED_AT: Duration = Duration::from_millis(250);

/// What is to be said of the waits of a file.
#[derive(Debug, Default)]
pub struct Said {
    /// What no deploy waits for, each with its place.
    pub refused: Vec<String>,
    pub notes: Vec<String>,
}

/// What services wait for, as far as a deploy does not.
pub fn check(translation: &Translation) -> Said {
    let apps = translation.apps.iter().map(|app| (&app.document.name, &app.place));
    let jobs = translation.jobs.iter().map(|job| (&job.name, &job.place));
    let places: HashMap<_, _> = apps.clone().chain(jobs).collect();
    let apps: BTreeSet<&AppName> = apps.map(|(name, _)| name).collect();
    let mut said = Said::default();
    for step in &translation.order {
        let Some(place) = places.get(&step.app) else { continue };
        for wait in &step.waits {
            let (waits, other) = (format!("{place}: `{}`", step.service), &wait.app);
            if wait.condition == Condition::Completed && apps.contains(other) {
                said.refused.push(format!(
                    "{waits} waits until `{other}` has ended with success, and an app does not end: make a job of it with `deploy: {{mode: replicated-job}}`"
                ));
            }
            if !wait.required {
                said.notes.push(format!(
                    "{waits} goes on without `{other}`, but the deploy ends where that cannot start"
                ));
            }
            if wait.restart {
                said.notes.push(format!("{waits} is not restarted when `{other}` is"));
            }
        }
    }
    said
}

/// In which wave of the deploy each app and each job comes: after all that it depends on.
pub fn waves(translation: &Translation) -> BTreeMap<&AppName, usize> {
    let mut of: BTreeMap<&AppName, usize> = BTreeMap::new();
    for step in &translation.order {
        let before = step.waits.iter().filter_map(|wait| of.get(&wait.app)).max();
        let wave = before.map_or(0, |before| before + 1);
        of.insert(&step.app, wave);
    }
    of
}

/// Ends a deploy before services that wait until an app is healthy which has ended by itself. One that may end is looked at until the window
/// after its release is over.
pub async fn see_whether_healthy(
    session: &Session,
    namespace: &NamespaceName,
    awaited: &[Awaited<'_>],
) -> anyhow::Result<()> {
    if awaited.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + WATCHED_MAX;
    loop {
        let apps = session.client.apps(namespace).await?;
        if let Some(failure) = ended(awaited, &apps) {
            return Err(failure.into());
        }
        let is_watched = |app: &AppInfo| {
            let is_new = app.rollout.as_ref().is_some_and(|it| it.state == RolloutState::Monitoring);
            is_new && awaited.iter().any(|awaited| *awaited.app == app.app)
        };
        if Instant::now() >= deadline || !apps.iter().any(is_watched) {
            return Ok(());
        }
        tokio::time::sleep(LOOKED_AT).await;
    }
}

/// An app that has to be healthy, and may end.
#[derive(Debug)]
pub struct Awaited<'a> {
    app: &'a AppName,
    /// Who waits for it, with its place.
    by: String,
}

/// The apps for which those that are due wait.
pub fn awaited(translation: &Translation, is_due: impl Fn(&AppName) -> bool) -> Vec<Awaited<'_>> {
    let ends = |document: &&AppDocument| document.restart.condition != RestartCondition::Any;
    let apps = translation.apps.iter().map(|app| &app.document).filter(ends);
    let may_end: BTreeSet<&AppName> = apps.map(|document| &document.name).collect();
    let apps = translation.apps.iter().map(|app| (&app.service, &app.place));
    let jobs = translation.jobs.iter().map(|job| (&job.service, &job.place));
    let places: HashMap<_, _> = apps.chain(jobs).collect();
    let mut awaited = Vec::new();
    for step in translation.order.iter().filter(|step| is_due(&step.app)) {
        let waits = step.waits.iter().filter(|wait| wait.condition == Condition::Healthy);
        for wait in waits.filter(|wait| may_end.contains(&wait.app)) {
            let Some(place) = places.get(&step.service) else { continue };
            awaited.push(Awaited { app: &wait.app, by: format!("{place}: `{}`", step.service) });
        }
    }
    awaited
}

/// The first of them that has ended, though nobody has stopped it or scaled it to zero.
fn ended(awaited: &[Awaited<'_>], apps: &[AppInfo]) -> Option<Failure> {
    let has_ended =
        |app: &AppInfo| app.condition == AppCondition::Stopped && app.stopped.is_none() && app.replicas > 0;
    let over = |Awaited { app, .. }: &&Awaited<'_>| apps.iter().any(|it| it.app == **app && has_ended(it));
    let Awaited { app, by } = awaited.iter().find(over)?;
    let message = format!(
        "{by} waits until `{app}` is healthy, and that has ended with success: its `restart` says not to run it again"
    );
    let help = format!(
        "if it is to go on, `wharf logs {app}` shows why it did not; if it is to end, make a job of it with `deploy: {{mode: replicated-job}}`, \
         and wait for `service_completed_successfully`"
    );
    Some(Failure::new(Exit::RolloutFailed, message).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::stack::fixture::translation;

    #[test]
    fn an_app_comes_after_all_that_it_depends_on() {
        let translation = translation(
            "services:\n  web:\n    image: web.wasm\n    depends_on: [api, log]\n  api:\n    image: api.wasm\n    depends_on: [log]\n  log:\n    image: log.wasm\n",
        );
        let waves: Vec<(&str, usize)> =
            waves(&translation).into_iter().map(|(name, wave)| (name.as_str(), wave)).collect();
        assert_eq!(waves, [("api", 1), ("log", 0), ("web", 2)]);
    }

    #[test]
    fn what_waits_for_the_end_of_a_job_comes_after_it() {
        let translation = translation(
            "services:\n  web:\n    image: web.wasm\n    depends_on: {migrate: {condition: service_completed_successfully}}\n  migrate:\n    image: migrate:1\n    deploy: {mode: replicated-job}\n    depends_on: [db]\n  db:\n    image: postgres:16\n",
        );
        assert!(check(&translation).refused.is_empty());
        let waves = waves(&translation);
        let of = |name: &str| waves[&name.parse::<AppName>().unwrap()];
        assert_eq!((of("db"), of("migrate"), of("web")), (0, 1, 2));
    }

    #[test]
    fn what_a_stack_does_not_wait_for_is_refused() {
        let of = |condition: &str| {
            translation(&format!(
                "services:\n  web:\n    image: web.wasm\n    depends_on: {{log: {{condition: {condition}}}}}\n  log:\n    image: log.wasm\n"
            ))
        };
        assert!(check(&of("service_healthy")).refused.is_empty());
        let refused = check(&of("service_completed_successfully")).refused.join("\n");
        assert!(
            refused.starts_with("compose.yaml:3:") && refused.contains("mode: replicated-job"),
            "{refused}"
        );
    }

    #[test]
    fn nobody_waits_until_an_app_is_healthy_that_has_ended() {
        let translation = translation(
            "services:\n  web:\n    image: web.wasm\n    depends_on: {once: {condition: service_healthy}, db: {condition: service_healthy}}\n  \
             once:\n    image: once.wasm\n    restart: \"no\"\n  db:\n    image: postgres:16\n",
        );
        let awaited = awaited(&translation, |name| name.as_str() == "web");
        assert_eq!(awaited.len(), 1, "one that is started again cannot have ended");
        let app = |condition: &str, replicas: u32| -> AppInfo {
            serde_json::from_value(serde_json::json!({
                "namespace": "default", "app": "once", "condition": condition, "reason": null, "release": 1, "replicas": replicas, "ready": 0,
                "url": "", "urls": [], "rollout": null, "instances": [], "usage": null, "updated_at": "2026-01-01T00:00:00Z",
            }))
            .unwrap()
        };
        for goes_on in [app("running", 1), app("down", 1), app("stopped", 0)] {
            assert!(ended(&awaited, &[goes_on]).is_none());
        }
        let failure = ended(&awaited, &[app("stopped", 1)]).unwrap().to_string();
        assert!(failure.starts_with("compose.yaml:3:") && failure.contains("`once` is healthy"), "{failure}");
        assert!(failure.contains("has ended"), "{failure}");
        assert!(super::awaited(&translation, |name| name.as_str() == "once").is_empty());
    }
}
