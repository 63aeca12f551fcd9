//! What a push of a stack says: texts alone.

use wharf_types::AppName;
use wharf_types::declare::Kind;
use wharf_types::declare::change::{Action, Change, Counts};

use crate::declared::load::told;
use crate::exit::{Exit, Failure};
use crate::output;

/// Notes that are told. More of them nobody reads.
const NOTES_MAX: usize = 100;
/// Settings of one app that are named.
const FIELDS_MAX: usize = 5;

/// What people should know of how the file was understood.
pub fn notes(notes: &[String]) -> Vec<String> {
    let mut lines: Vec<String> =
        notes.iter().take(NOTES_MAX).map(|note| format!("note: {}", output::printable(note))).collect();
    if notes.len() > NOTES_MAX {
        let more = notes.len() - NOTES_MAX;
        lines.push(format!("and {more} notes more; `wharf stack deploy` of the same file tells all"));
    }
    lines
}

/// `Stack shop: 2 to create, 0 to change, 1 to delete, 3 as they are`
pub fn headline(stack: &AppName, counts: Counts) -> String {
    let Counts { create, update, delete, unchanged } = counts;
    format!(
        "Stack {stack}: {create} to create, {update} to change, {delete} to delete, {unchanged} as they are"
    )
}

/// One line for each app.
pub fn changes(changes: &[Change]) -> Vec<String> {
    let apps = changes.iter().filter(|change| change.resource.kind == Kind::App);
    apps.map(change).collect()
}

fn change(change: &Change) -> String {
    let name = &change.resource.name;
    match change.action {
        Action::Create => format!("+ {name}"),
        Action::Delete => format!("- {name}, whose volumes are kept"),
        Action::Unchanged => format!("  {name} is as it was"),
        Action::Update => {
            let mut paths: Vec<&str> =
                change.fields.iter().take(FIELDS_MAX).map(|field| field.path.as_str()).collect();
            if change.fields.len() > FIELDS_MAX {
                paths.push("…");
            }
            if paths.is_empty() { format!("~ {name}") } else { format!("~ {name}: {}", paths.join(", ")) }
        }
    }
}

/// None: it is about something else.
fn app_of(change: &Change) -> Option<AppName> {
    change.resource.name.parse().ok().filter(|_| change.resource.kind == Kind::App)
}

/// How far a push has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// Apps that run what was pushed.
    pub serve: Vec<AppName>,
    /// Those that do not, with the reason, which says what runs instead.
    pub failed: Vec<(AppName, String)>,
    /// Those whose rollout has begun, and is not decided.
    pub under_way: Vec<AppName>,
    /// Those that were to follow.
    pub waiting: Vec<AppName>,
}

impl Course {
    /// Before anything of a plan is done.
    pub fn of(changes: &[Change]) -> Self {
        let changed = changes.iter().filter(|it| matches!(it.action, Action::Create | Action::Update));
        Self { waiting: changed.filter_map(app_of).collect(), ..Self::default() }
    }

    /// Takes note of what was applied. What needs no rollout is as it was pushed.
    pub fn note(&mut self, applied: &[Change]) {
        for change in applied.iter().filter(|change| change.action != Action::Delete) {
            let Some(app) = app_of(change) else { continue };
            if change.rollout.is_some() {
                self.forget(&app);
                self.under_way.push(app);
            } else if self.waiting.contains(&app) {
                self.end(app, None);
            }
        }
    }

    fn forget(&mut self, app: &AppName) {
        for apps in [&mut self.serve, &mut self.under_way, &mut self.waiting] {
            apps.retain(|known| known != app);
        }
    }

    /// Takes note of how the rollout of an app went.
    pub fn end(&mut self, app: AppName, problem: Option<String>) {
        self.forget(&app);
        match problem {
            None => self.serve.push(app),
            Some(problem) => self.failed.push((app, problem)),
        }
    }

    /// What is wrong. None: nothing, so far.
    pub fn failure(&self) -> Option<Failure> {
        if self.failed.is_empty() {
            return None;
        }
        let lines = self.failed.iter().map(|(app, problem)| format!("the service {app}: {problem}"));
        Some(Failure::new(Exit::RolloutFailed, told(lines)).help(self.others()))
    }

    /// What has become of the services that did not fail.
    pub fn others(&self) -> String {
        let said = |apps: &[AppName], one: &str, many: &str| match apps {
            [] => None,
            [app] => Some(format!("{app} {one}")),
            _ => {
                let names: Vec<&str> = apps.iter().map(AppName::as_str).collect();
                Some(format!("{} {many}", names.join(", ")))
            }
        };
        let serve = said(&self.serve, "runs what was pushed", "run what was pushed");
        let waiting = said(&self.waiting, "was not changed yet", "were not changed yet");
        let under_way = said(&self.under_way, "is being rolled out", "are being rolled out");
        let told: Vec<String> = serve.into_iter().chain(under_way).chain(waiting).collect();
        let told = if told.is_empty() { String::new() } else { format!("{}; ", told.join(", ")) };
        format!("{told}mend it, and push again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use wharf_types::RolloutId;
    use wharf_types::declare::ResourceId;
    use wharf_types::declare::change::FieldChange;

    fn id(name: &str) -> ResourceId {
        ResourceId::of_app(&"default".parse().unwrap(), &name.parse().unwrap())
    }

    fn changed(name: &str, action: Action, fields: &[&str]) -> Change {
        let field =
            |path: &&str| FieldChange { path: (*path).to_owned(), before: Value::Null, after: Value::Null };
        Change {
            resource: id(name),
            action,
            fields: fields.iter().map(field).collect(),
            live: None,
            release: None,
            rollout: None,
        }
    }

    fn app(name: &str) -> AppName {
        name.parse().unwrap()
    }

    #[test]
    fn each_app_has_a_line_that_says_what_becomes_of_it() {
        let lines = changes(&[
            changed("a", Action::Create, &[]),
            changed("b", Action::Update, &["env.X", "scale.replicas"]),
            changed("c", Action::Update, &["1", "2", "3", "4", "5", "6"]),
            changed("d", Action::Unchanged, &[]),
            changed("e", Action::Delete, &[]),
        ]);
        let expected = [
            "+ a",
            "~ b: env.X, scale.replicas",
            "~ c: 1, 2, 3, 4, 5, …",
            "  d is as it was",
            "- e, whose volumes are kept",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn of_a_stack_that_failed_it_is_said_what_each_service_runs() {
        let waiting = ["db", "api", "web", "cron"].map(app).to_vec();
        let mut course = Course { waiting, ..Course::default() };
        assert!(course.failure().is_none());
        course.end(app("db"), None);
        assert!(course.failure().is_none());
        course.end(app("api"), Some("release 2 of api failed: no; api is back on release 1".to_owned()));
        let failure = course.failure().unwrap();
        let said = failure.to_string();
        assert_eq!(said, "the service api: release 2 of api failed: no; api is back on release 1");
        let others = course.others();
        assert_eq!(
            others,
            "db runs what was pushed, web, cron were not changed yet; mend it, and push again"
        );
        assert_eq!(Course::default().others(), "mend it, and push again");
    }

    #[test]
    fn what_was_applied_is_under_way_until_it_is_decided() {
        let plan = [
            changed("db", Action::Create, &[]),
            changed("api", Action::Update, &["scale.replicas"]),
            changed("web", Action::Update, &["args"]),
            changed("log", Action::Unchanged, &[]),
            changed("old", Action::Delete, &[]),
        ];
        let mut course = Course::of(&plan);
        assert_eq!(course.waiting, ["db", "api", "web"].map(app));
        let db = Change { release: Some(1), rollout: Some(RolloutId::new()), ..plan[0].clone() };
        course.note(&[db, plan[1].clone(), plan[3].clone(), plan[4].clone()]);
        let others = "api runs what was pushed, db is being rolled out, web was not changed yet; mend it, and push again";
        assert_eq!(course.others(), others);
        // One that was taken for done, and had a rollout under way all the same.
        course.end(app("api"), Some("no".to_owned()));
        course.end(app("db"), None);
        assert_eq!(
            course.others(),
            "db runs what was pushed, web was not changed yet; mend it, and push again"
        );
    }

    #[test]
    fn no_more_notes_are_told_than_anybody_reads() {
        let many: Vec<String> = (0..150).map(|number| format!("{number}")).collect();
        let told = notes(&many);
        assert_eq!((told.len(), told[0].as_str()), (101, "note: 0"));
        assert!(told[100].starts_with("and 50 notes more"), "{}", told[100]);
    }
}
