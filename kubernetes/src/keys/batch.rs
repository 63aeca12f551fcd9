//! Jobs and CronJobs, but for their pods.

use wharf_compose::keys::Key;
use wharf_compose::keys::Kind::{Any, Bool, Int, Table, Text, Word};
use wharf_compose::keys::Support;
use wharf_compose::keys::Support::{Refused, Translated};

const NO_POLICY: Support =
    Refused("a run has failed when it ends with another code than 0, and a job with its runs; leave it out");

pub(super) const JOB: &[Key] = &[
    Key::new("spec", Table),
    Key::new("spec.parallelism", Int),
    Key::new("spec.completions", Int),
    Key::new("spec.completionMode", Word(&["NonIndexed", "Indexed"])),
    Key::new("spec.backoffLimit", Int),
    Key::new("spec.backoffLimitPerIndex", Int),
    Key::new("spec.maxFailedIndexes", Int)
        .both(Refused("every completion of an indexed job comes to its own end; leave it out")),
    Key::new("spec.activeDeadlineSeconds", Int),
    Key::new("spec.ttlSecondsAfterFinished", Int),
    Key::new("spec.suspend", Bool)
        .both(Refused("a job that is made is run; leave it out, and make it later")),
    Key::new("spec.selector", Any).both(Translated("a job knows its own runs")),
    Key::new("spec.manualSelector", Bool).both(Translated("a job knows its own runs")),
    Key::new("spec.podFailurePolicy", Any).both(NO_POLICY),
    Key::new("spec.successPolicy", Any).both(NO_POLICY),
    Key::new("spec.podReplacementPolicy", Text)
        .both(Translated("a run is tried again when the one before has ended")),
    Key::new("spec.managedBy", Text)
        .both(Refused("no other controller looks after a job here; leave it out")),
    Key::new("spec.template", Table),
];

pub(super) const CRON_JOB: &[Key] = &[
    Key::new("spec", Table),
    Key::new("spec.schedule", Text),
    Key::new("spec.timeZone", Text),
    Key::new("spec.concurrencyPolicy", Word(&["Allow", "Forbid", "Replace"])),
    Key::new("spec.startingDeadlineSeconds", Int),
    Key::new("spec.suspend", Bool),
    Key::new("spec.successfulJobsHistoryLimit", Int),
    Key::new("spec.failedJobsHistoryLimit", Int),
    Key::new("spec.jobTemplate", Table),
];
