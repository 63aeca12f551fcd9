//! Labels of pods, and selectors of them.

use std::collections::BTreeMap;

use wharf_compose::problem::shown;

use crate::at::At;
use crate::finding::Sink;

pub(crate) type Labels = BTreeMap<String, String>;

pub(crate) fn labels(at: &At<'_>, path: &str) -> Labels {
    at.entries(path).into_iter().map(|(name, value)| (name.to_owned(), value.word().to_owned())).collect()
}

/// Whether something has all these labels.
pub(crate) fn has_all(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Whether a selector, with `matchLabels` and `matchExpressions`, chooses what has the labels. What is wrong with it is refused.
pub(crate) fn chooses(selector: &At<'_>, labels: &Labels, sink: &mut Sink) -> bool {
    let mut holds = has_all(labels, &self::labels(selector, "matchLabels"));
    for term in selector.items("matchExpressions") {
        let value = labels.get(term.text_or_empty("key"));
        let values = term.texts("values");
        let is_among = value.is_some_and(|value| values.contains(&value.as_str()));
        holds &= match term.text_or_empty("operator") {
            "In" => is_among,
            "NotIn" => !is_among,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => {
                let known = "`In`, `NotIn`, `Exists` and `DoesNotExist`";
                sink.refuse(&term, format!("`{}` is no operator here; there are {known}", shown(other)));
                false
            }
        };
    }
    holds
}
