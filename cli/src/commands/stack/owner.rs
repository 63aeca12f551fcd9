//! Apps that are there and belong to something else: a stack takes none of them over unless somebody says so.
//!
//! What a stack has is its set, so an app that was adopted once is the stack's from then on, and goes with it.

use anyhow::Context as _;
use wharf_types::declare::change::{Action, ApplyRequest, Change, PlanRequest};
use wharf_types::declare::{Kind, Prune};
use wharf_types::{AppName, NamespaceName, SetName};

use super::words::Services;
use crate::app_ref::AppRef;
use crate::commands::declare;
use crate::declared::load::{FAULTS_TOLD, told};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::session::Session;

/// An app that a plan would take from somebody.
#[derive(Debug, PartialEq, Eq)]
pub struct Foreign {
    pub app: AppName,
    pub owner: Owner,
}

/// Whose it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Owner {
    /// Another stack, or what was applied with `--prune`.
    Set(String),
    /// Nobody's: it was deployed by itself.
    None,
    /// It is what was pushed to its own git repository.
    Repository,
}

impl Foreign {
    fn sentence(&self) -> String {
        let Self { app, owner } = self;
        let whose = match owner {
            Owner::Set(set) => format!("belongs to `{set}`, another stack or set of files"),
            Owner::None => "belongs to no stack: it was deployed by itself".to_owned(),
            Owner::Repository => "is what was pushed to a git repository of its own".to_owned(),
        };
        format!("the app `{app}` is there already, and {whose}")
    }
}

/// The apps of a plan that would be taken over. Whether they have repositories, no plan says.
pub fn foreign(changes: &[Change]) -> Vec<Foreign> {
    let updates = changes.iter().filter(|it| it.resource.kind == Kind::App && it.action == Action::Update);
    let taken = updates.filter_map(|change| {
        let set = change.fields.iter().find(|field| field.path == "set")?;
        let owner = set.before.as_str().map_or(Owner::None, |set| Owner::Set(set.to_owned()));
        Some(Foreign { app: change.resource.name.parse().ok()?, owner })
    });
    taken.collect()
}

/// Refuses to take them over, and says whose they are. `help` is what to do about it.
pub async fn refuse(
    session: &Session,
    namespace: &NamespaceName,
    services: &Services<'_>,
    mut foreign: Vec<Foreign>,
    help: String,
) -> anyhow::Result<()> {
    if foreign.is_empty() {
        return Ok(());
    }
    for it in foreign.iter_mut().take(FAULTS_TOLD) {
        if it.owner != Owner::None {
            continue;
        }
        let whose = AppRef { namespace: namespace.clone(), app: it.app.clone() };
        // Only a better word for it, so an error here is none.
        if session.client.repository(&whose).await.is_ok_and(|found| found.commit.is_some()) {
            it.owner = Owner::Repository;
        }
    }
    let line = |it: &Foreign| match services.place(&it.app) {
        Some(place) => format!("{place}: {}", it.sentence()),
        None => it.sentence(),
    };
    Err(Failure::new(Exit::Conflict, told(foreign.iter().map(line))).help(help).into())
}

/// What to do, where a command was refused.
pub fn help_for_deploy() -> String {
    "nothing was deployed; give the service another name, or the stack a namespace of its own (`-n`); `--adopt` makes the app a part of this \
     stack, which changes it, and with which it is deleted"
        .to_owned()
}

/// The same of a push, which has no flags.
pub fn help_for_push(namespace: &NamespaceName, stack: &AppName, foreign: &[Foreign]) -> String {
    let names: Vec<&str> = foreign.iter().map(|it| it.app.as_str()).collect();
    format!(
        "give the service another name, or push to a namespace of its own; `wharf stack adopt {stack} {} -n {namespace}` makes the app a part \
         of this stack, which changes it, and with which it is deleted: push again after it",
        names.join(" ")
    )
}

/// `wharf stack adopt`: apps that are there belong to a stack from now on, as they are.
pub(super) async fn adopt(session: &Session, stack: SetName, apps: Vec<AppName>) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let mut resources = Vec::with_capacity(apps.len());
    for app in apps {
        let app = AppRef { namespace: namespace.clone(), app };
        let resource = session.client.declaration(&app).await;
        resources.push(resource.with_context(|| format!("could not read what `{}` is", app.app))?);
    }
    // What belongs to the stack already stays, too.
    let prune = Some(Prune { set: stack.clone(), namespaces: vec![namespace], keep: true });
    let request = PlanRequest { resources: resources.clone(), prune: prune.clone(), with_live: false };
    let plan = session.client.plan(declare::body(&request)?).await?;
    declare::check(&plan)?;
    if let Some(moved) = plan.changes.iter().find(|change| !only_joins(change)) {
        let message =
            format!("nothing was adopted: the {} is being changed, or runs nothing", moved.resource);
        return Err(Failure::new(Exit::Conflict, message)
            .help("try again when its rollout is over; delete it if it never ran")
            .into());
    }
    let foreign = foreign(&plan.changes);
    if !foreign.is_empty() {
        let request = ApplyRequest { resources, prune, base: Some(plan.base) };
        session.client.apply(declare::body(&request)?).await?;
    }
    if session.json {
        let names: Vec<&AppName> = foreign.iter().map(|it| &it.app).collect();
        return output::json(&serde_json::json!({ "stack": stack, "adopted": names }));
    }
    if foreign.is_empty() {
        return output::line(format!("nothing to do: the stack `{stack}` has them already"));
    }
    foreign.iter().try_for_each(|Foreign { app, owner }| {
        let before = match owner {
            Owner::Set(set) => format!("belonged to `{set}`"),
            Owner::None | Owner::Repository => "belonged to no stack".to_owned(),
        };
        output::line(format!("{app} {before}, and is a part of the stack `{stack}` now"))
    })
}

/// Whether nothing becomes of an app but whose it is.
fn only_joins(change: &Change) -> bool {
    match change.action {
        Action::Unchanged => true,
        Action::Update => change.fields.iter().all(|field| field.path == "set"),
        Action::Create | Action::Delete => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use wharf_types::declare::ResourceId;
    use wharf_types::declare::change::FieldChange;

    fn change(name: &str, action: Action, fields: &[(&str, Value)]) -> Change {
        let field = |(path, before): &(&str, Value)| FieldChange {
            path: (*path).to_owned(),
            before: before.clone(),
            after: json!("shop"),
        };
        Change {
            resource: ResourceId::of_app(&"default".parse().unwrap(), &name.parse().unwrap()),
            action,
            fields: fields.iter().map(field).collect(),
            live: None,
            release: None,
            rollout: None,
        }
    }

    #[test]
    fn an_app_of_another_set_or_of_none_is_foreign() {
        let changes = [
            change("new", Action::Create, &[]),
            change("ours", Action::Update, &[("env.A", Value::Null)]),
            change("same", Action::Unchanged, &[]),
            change("theirs", Action::Update, &[("env.A", Value::Null), ("set", json!("other"))]),
            change("alone", Action::Update, &[("set", Value::Null)]),
            change("old", Action::Delete, &[]),
        ];
        let found = foreign(&changes);
        let owners: Vec<_> = found.iter().map(|it| (it.app.as_str(), &it.owner)).collect();
        assert_eq!(owners, [("theirs", &Owner::Set("other".to_owned())), ("alone", &Owner::None)]);
        assert!(found[0].sentence().contains("belongs to `other`"), "{}", found[0].sentence());
        let namespace: NamespaceName = "team".parse().unwrap();
        let help = help_for_push(&namespace, &"shop".parse().unwrap(), &found);
        assert!(help.contains("`wharf stack adopt shop theirs alone -n team`"), "{help}");
    }

    #[test]
    fn adopting_changes_nothing_but_whose_an_app_is() {
        assert!(only_joins(&change("a", Action::Update, &[("set", Value::Null)])));
        assert!(only_joins(&change("a", Action::Unchanged, &[])));
        assert!(!only_joins(&change("a", Action::Update, &[("args", Value::Null), ("set", Value::Null)])));
        assert!(!only_joins(&change("a", Action::Create, &[])));
    }
}
