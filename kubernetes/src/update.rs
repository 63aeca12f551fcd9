//! How a Deployment, a StatefulSet or a DaemonSet is rolled out.

use wharf_types::quantity::Span;
use wharf_types::spec::{Portion, UpdateOrder, UpdateSpec};

use crate::at::At;
use crate::finding::Sink;
use crate::kind::Kind;
use crate::quantity::{count, seconds};
use crate::workload::Workload;

/// What a cluster waits where nobody says how long.
const PROGRESS_DEADLINE: Span = Span::from_secs(600);

pub(crate) fn update(workload: &Workload<'_>, spec: &At<'_>, sink: &mut Sink) -> UpdateSpec {
    let mut update = UpdateSpec::default();
    if let Some(ready) = seconds(spec, "minReadySeconds", 0, sink) {
        update.delay = ready;
        let message =
            "the rollout waits for so long between batches, in which all instances of a batch serve";
        sink.notice(&spec.near("minReadySeconds"), message);
    }
    update.progress_deadline = seconds(spec, "progressDeadlineSeconds", 1, sink).unwrap_or(PROGRESS_DEADLINE);
    match workload.manifest.kind {
        Kind::StatefulSet => {
            stateful(spec, sink);
            return update;
        }
        Kind::DaemonSet => {
            refuse_on_delete(spec, sink);
            // Where nobody says otherwise, the instance of one node after the other is away for a while.
            (update.order, update.parallelism) = (UpdateOrder::StopFirst, Portion::Count(1));
            let usual = (Portion::Count(0), Portion::Count(1));
            rolling(spec.get("updateStrategy.rollingUpdate"), usual, &mut update, sink);
            return update;
        }
        _ => {}
    }
    match spec.text("strategy.type") {
        Some("Recreate") => {
            update.order = UpdateOrder::StopFirst;
            update.parallelism = Portion::Percent(100);
        }
        _ => {
            let usual = (Portion::Percent(25), Portion::Percent(25));
            rolling(spec.get("strategy.rollingUpdate"), usual, &mut update, sink);
        }
    }
    update
}

/// A slot is filled before it is emptied, or after; a cluster may do some of both. `usual` is what holds where it is not said.
fn rolling(rolling: Option<At<'_>>, usual: (Portion, Portion), update: &mut UpdateSpec, sink: &mut Sink) {
    let Some(rolling) = rolling else { return };
    let surge = portion(&rolling, "maxSurge", sink).unwrap_or(usual.0);
    let missing = portion(&rolling, "maxUnavailable", sink).unwrap_or(usual.1);
    let is_none = |portion: Portion| matches!(portion, Portion::Count(0) | Portion::Percent(0));
    match (is_none(surge), is_none(missing)) {
        (true, true) => {
            sink.refuse(&rolling, "`maxSurge` and `maxUnavailable` are both 0, so nothing could move")
        }
        (true, false) => {
            update.order = UpdateOrder::StopFirst;
            update.parallelism = missing;
        }
        (false, _) => (update.order, update.parallelism) = (UpdateOrder::StartFirst, surge),
    }
    if !is_none(surge) && !is_none(missing) && rolling.get("maxUnavailable").is_some() {
        let message = "the new instance of a slot starts before the old one stops, so that none is missing; `maxSurge` says how many at once";
        sink.notice(&rolling.near("maxUnavailable"), message);
    }
}

fn portion(rolling: &At<'_>, field: &str, sink: &mut Sink) -> Option<Portion> {
    let word = rolling.text(field)?;
    let found = match word.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Portion::Percent),
        None => word.parse().ok().map(Portion::Count),
    };
    if found.is_none() {
        sink.refuse(&rolling.near(field), "it is no number, nor a share such as `25%`");
    }
    found
}

fn refuse_on_delete(spec: &At<'_>, sink: &mut Sink) {
    if spec.text("updateStrategy.type") == Some("OnDelete") {
        let message = "what is applied is rolled out; leave it out, and apply it when it is to run";
        sink.refuse(&spec.near("updateStrategy.type"), message);
    }
}

fn stateful(spec: &At<'_>, sink: &mut Sink) {
    refuse_on_delete(spec, sink);
    let partition = count(spec, "updateStrategy.rollingUpdate.partition", 0, sink);
    if partition.is_some_and(|partition| partition > 0) {
        let message = "a rollout is of all instances; leave it out";
        sink.refuse(&spec.near("updateStrategy.rollingUpdate.partition"), message);
    }
}
