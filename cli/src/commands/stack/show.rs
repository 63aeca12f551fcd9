//! `wharf stack ls`, `services` and `ps`: the apps of a namespace by the stack that they were deployed with.

use std::collections::BTreeMap;

use serde::Serialize;
use wharf_types::api::AppInfo;
use wharf_types::suggest::nearest;
use wharf_types::{NamespaceName, SetName, Timestamp};

use crate::commands::{apps, status};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::session::Session;
use crate::table::Table;

/// One stack, as `ls --json` prints it.
#[derive(Debug, PartialEq, Serialize)]
struct Stack {
    stack: SetName,
    namespace: NamespaceName,
    services: usize,
    /// Of all its services.
    ready: u32,
    replicas: u32,
}

/// `wharf stack ls`
pub(super) async fn list(session: &Session) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let stacks = stacks(&session.client.apps(&namespace).await?);
    if session.json {
        return output::json(&serde_json::json!({ "items": stacks }));
    }
    if stacks.is_empty() {
        return output::line(format!("no stacks in {namespace}; deploy one with `wharf stack deploy`"));
    }
    let mut table = Table::new(["STACK", ">SERVICES", ">READY"]);
    for stack in stacks {
        let ready = format!("{}/{}", stack.ready, stack.replicas);
        table.row([stack.stack.to_string(), stack.services.to_string(), ready]);
    }
    table.print()
}

/// `wharf stack services`
pub(super) async fn services(session: &Session, name: &SetName) -> anyhow::Result<()> {
    let apps = of_stack(session, name).await?;
    if session.json {
        return output::json(&serde_json::json!({ "items": apps }));
    }
    apps::table(apps).print()
}

/// `wharf stack ps`
pub(super) async fn instances(session: &Session, name: &SetName) -> anyhow::Result<()> {
    let apps = of_stack(session, name).await?;
    if session.json {
        let of_app = |app: AppInfo| serde_json::json!({ "app": app.app, "instances": app.instances });
        let items: Vec<_> = apps.into_iter().map(of_app).collect();
        return output::json(&serde_json::json!({ "items": items }));
    }
    let now = Timestamp::now();
    status::instances_of(&apps, now).print()
}

async fn of_stack(session: &Session, name: &SetName) -> anyhow::Result<Vec<AppInfo>> {
    let namespace = session.namespace()?;
    let apps = session.client.apps(&namespace).await?;
    let known: Vec<String> = stacks(&apps).iter().map(|stack| stack.stack.to_string()).collect();
    let of_stack: Vec<_> = apps.into_iter().filter(|app| app.set.as_ref() == Some(name)).collect();
    if of_stack.is_empty() {
        let failure = Failure::new(Exit::NotFound, format!("there is no stack `{name}` in {namespace}"));
        let near = nearest(name.as_str(), known.iter().map(String::as_str));
        return Err(failure
            .help(near.map_or_else(
                || "`wharf stack ls` lists the stacks of a namespace".to_owned(),
                |near| format!("did you mean `{near}`? `wharf stack ls` lists all"),
            ))
            .into());
    }
    Ok(of_stack)
}

/// By their names.
fn stacks(apps: &[AppInfo]) -> Vec<Stack> {
    let mut stacks = BTreeMap::new();
    for app in apps {
        let Some(set) = &app.set else { continue };
        let stack = stacks.entry(set.clone()).or_insert_with(|| Stack {
            stack: set.clone(),
            namespace: app.namespace.clone(),
            services: 0,
            ready: 0,
            replicas: 0,
        });
        stack.services += 1;
        stack.ready += app.ready;
        stack.replicas += app.replicas;
    }
    stacks.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str, set: Option<&str>, ready: u32) -> AppInfo {
        let text = serde_json::json!({
            "namespace": "default", "app": name, "condition": "running", "reason": null, "release": 1, "replicas": 2, "ready": ready,
            "url": "", "urls": [], "rollout": null, "instances": [], "usage": null, "updated_at": "2026-01-01T00:00:00Z", "set": set,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn apps_are_counted_with_the_stack_that_they_are_of() {
        let apps = [
            app("web", Some("shop"), 2),
            app("db", Some("shop"), 1),
            app("own", None, 2),
            app("a", Some("b"), 2),
        ];
        let stacks = stacks(&apps);
        let found: Vec<_> =
            stacks.iter().map(|it| (it.stack.as_str(), it.services, it.ready, it.replicas)).collect();
        assert_eq!(found, [("b", 1, 2, 2), ("shop", 2, 3, 4)]);
    }
}
