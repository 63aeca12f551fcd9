//! What services wait for: the order of a deploy, and what a deploy does not wait for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wharf_compose::Translation;
use wharf_compose::model::Condition;
use wharf_types::AppName;

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
}
