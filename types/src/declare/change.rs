//! What a plan found, and what an apply did: requests and replies of `/v1/plans` and `/v1/applies`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AppResource, Prune, Resource, ResourceId};
use crate::id::RolloutId;
use crate::problem::ProblemCode;

/// `POST /v1/plans`: what an apply would do. Nothing is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// At least one, and at most 20000.
    #[schema(min_items = 1, max_items = 20000)]
    pub resources: Vec<Resource>,
    #[serde(default)]
    pub prune: Option<Prune>,
    /// Whether each change of an app says what the app is like now.
    #[serde(default)]
    pub with_live: bool,
}

/// `POST /v1/applies`: makes it so, as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// At least one, and at most 20000.
    #[schema(min_items = 1, max_items = 20000)]
    pub resources: Vec<Resource>,
    #[serde(default)]
    pub prune: Option<Prune>,
    /// From a plan: only if everything that it looked at is as it was then; else 412 `precondition_failed`.
    #[serde(default)]
    pub base: Option<String>,
}

/// The reply to a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Plan {
    /// Stands for all that the plan looked at: an apply that names it refuses when any of it was changed since. What instances do is
    /// no such change.
    pub base: String,
    pub counts: Counts,
    /// In the order of the resources; then apps that are none of them and get a release because a config of theirs changes; deletions come
    /// last.
    pub changes: Vec<Change>,
    /// Why an apply would be refused. Empty: it would not.
    pub errors: Vec<PlanError>,
}

/// The reply to an apply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Applied {
    pub counts: Counts,
    pub changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ChangeCounts)]
pub struct Counts {
    pub create: u64,
    pub update: u64,
    pub delete: u64,
    pub unchanged: u64,
}

impl Counts {
    pub fn of(changes: &[Change]) -> Self {
        let mut counts = Self::default();
        for change in changes {
            *match change.action {
                Action::Create => &mut counts.create,
                Action::Update => &mut counts.update,
                Action::Delete => &mut counts.delete,
                Action::Unchanged => &mut counts.unchanged,
            } += 1;
        }
        counts
    }

    /// Whether an apply would do nothing.
    pub fn is_nothing(self) -> bool {
        self.create + self.update + self.delete == 0
    }
}

/// What becomes of one resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Change {
    #[serde(flatten)]
    pub resource: ResourceId,
    pub action: Action,
    /// Of an update: what differs. Of a config that is created: its value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// What the app is like now, where the plan was asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Box<AppResource>>,
    /// The release that an apply made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// The rollout to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ChangeAction)]
pub enum Action {
    Create,
    Update,
    Unchanged,
    Delete,
}

/// One setting that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldChange {
    /// Such as `limits.memory`. A list is one setting, and so is each variable.
    pub path: String,
    /// Null: it is not set.
    #[serde(default)]
    pub before: Value,
    #[serde(default)]
    pub after: Value,
}

/// Why a resource cannot be applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PlanError {
    #[serde(flatten)]
    pub resource: ResourceId,
    pub code: ProblemCode,
    pub detail: String,
    /// The setting that it is about, where that is known: such as `secrets.DB` or `http.routes[2]`, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// Every setting in which two tables differ, by path.
pub fn field_changes(before: &Value, after: &Value) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    compare("", before, after, &mut changes);
    changes
}

fn compare(path: &str, before: &Value, after: &Value, changes: &mut Vec<FieldChange>) {
    if before == after {
        return;
    }
    let is_table = |value: &Value| value.is_object() || value.is_null();
    if !is_table(before) || !is_table(after) {
        let (path, before, after) = (path.to_owned(), before.clone(), after.clone());
        changes.push(FieldChange { path, before, after });
        return;
    }
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().map(|table| table.keys().cloned().collect()).unwrap_or_default()
    };
    let mut all = keys(before);
    all.extend(keys(after).into_iter().filter(|key| before.get(key).is_none()));
    all.sort();
    for key in all {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let of = |value: &Value| value.get(&key).cloned().unwrap_or(Value::Null);
        compare(&path, &of(before), &of(after), changes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_differ_are_named_by_path() {
        let before = json!({"env": {"A": "1", "B": "2"}, "scale": {"replicas": 1}, "args": ["x"]});
        let after = json!({"env": {"A": "1", "C": "3"}, "scale": {"replicas": 2}, "args": ["x", "y"], "files": {"mount": "/"}});
        let changes = field_changes(&before, &after);
        let told: Vec<String> = changes
            .iter()
            .map(|change| format!("{} {} {}", change.path, change.before, change.after))
            .collect();
        assert_eq!(
            told,
            [
                r#"args ["x"] ["x","y"]"#,
                r#"env.B "2" null"#,
                r#"env.C null "3""#,
                r#"files.mount null "/""#,
                "scale.replicas 1 2",
            ]
        );
        assert!(field_changes(&before, &before).is_empty());
    }
}
