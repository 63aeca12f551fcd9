//! In which order services are deployed, and what each waits for.
//!
//! Whoever deploys goes through the steps, and begins with one when its waits are over. This holds for a deploy: an instance that ends later
//! is restarted without the others being asked, as in Compose.

use std::collections::{BTreeMap, BTreeSet};

use wharf_types::name::AppName;

use crate::model::Condition;
use crate::project::Project;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub service: String,
    pub app: AppName,
    pub waits: Vec<Wait>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub app: AppName,
    pub condition: Condition,
    /// Whether the deploy ends where the condition can no longer come true; otherwise it goes on.
    pub required: bool,
    /// Whether a deploy that changes the other app restarts this one as well.
    pub restart: bool,
}

pub(super) fn order(project: &Project, names: &BTreeMap<&str, AppName>) -> Vec<Step> {
    let mut order = Vec::with_capacity(project.services.len());
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in project.services.keys() {
        // The loader has refused circles, so this ends.
        let mut open = vec![(start.as_str(), false)];
        while let Some((service, is_ready)) = open.pop() {
            if done.contains(service) {
                continue;
            }
            let Some(settings) = project.services.get(service) else { continue };
            if !is_ready {
                open.push((service, true));
                open.extend(settings.depends_on.keys().rev().map(|name| (name.as_str(), false)));
                continue;
            }
            done.insert(service);
            let Some(app) = names.get(service) else { continue };
            let wait = |(name, dependency): (&String, &crate::model::Dependency)| {
                let crate::model::Dependency { condition, required, restart } = *dependency;
                Some(Wait { app: names.get(name.as_str())?.clone(), condition, required, restart })
            };
            let waits = settings.depends_on.iter().filter_map(wait).collect();
            order.push(Step { service: service.to_owned(), app: app.clone(), waits });
        }
    }
    order
}

/// The services for whose end others wait.
pub(super) fn ended(project: &Project) -> BTreeSet<&str> {
    let dependencies = project.services.values().flat_map(|service| &service.depends_on);
    let completed = dependencies.filter(|(_, dependency)| dependency.condition == Condition::Completed);
    completed.map(|(name, _)| name.as_str()).collect()
}
