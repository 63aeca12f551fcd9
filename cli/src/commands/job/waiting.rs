//! What a job waits for, as it is told to whoever waits for the job.

use std::time::Duration;

use wharf_types::job::{JobInfo, JobRun, Outcome};
use wharf_types::state::InstanceState;

/// Between two looks at a job that waits.
const LOOK: Duration = Duration::from_secs(1);
/// The same once it has waited for [`LONG`], and while what is to run runs.
const LOOK_LATER: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(30);

/// What was seen and told so far.
#[derive(Debug, Default)]
pub struct Waiting {
    /// What the last look saw, without its numbers.
    seen: Option<String>,
    told: Option<String>,
    /// Until the next look. The first is at once.
    pause: Duration,
    waited: Duration,
}

impl Waiting {
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// What there is to tell now: what the job has waited for since the look before, unless it was told already. Room and memory
    /// that a reason mentions change from look to look, and make no other reason.
    pub fn look(&mut self, job: &JobInfo) -> Option<String> {
        let waits = waits(job);
        let reason = waits.as_deref().map(without_numbers);
        self.waited = if reason.is_none() { Duration::ZERO } else { self.waited + self.pause };
        let is_calm = if reason.is_none() { job.active > 0 } else { self.waited >= LONG };
        self.pause = if is_calm { LOOK_LATER } else { LOOK };
        if reason.is_none() && job.active > 0 {
            // What it waits for after that has another cause, which may differ in numbers alone, such as an exit code.
            self.told = None;
        }
        let is_lasting = reason == self.seen;
        self.seen.clone_from(&reason);
        if !is_lasting || reason == self.told {
            return None;
        }
        self.told = reason;
        waits
    }
}

fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect()
}

/// None: what is to run runs, or the job ends.
fn waits(job: &JobInfo) -> Option<String> {
    if job.state.is_final() || job.ending.is_some() {
        return None;
    }
    if let Some(why) = job.waits.first() {
        return Some(format!("a run waits for a node: {why}"));
    }
    let is_on_the_way = |run: &&JobRun| run.outcome.is_none() && run.state < InstanceState::Running;
    if let Some(run) = job.runs.iter().filter(is_on_the_way).max_by_key(|run| run.created_at) {
        let which = of(job, run);
        return Some(match &run.reason {
            Some(reason) => format!("run {which} does not run yet: {}", reason.message),
            None => format!("run {which} is {}", run.state.doing()),
        });
    }
    if job.active > 0 {
        return None;
    }
    let newest = job.runs.iter().filter(|run| run.outcome.is_some()).max_by_key(|run| run.ended_at)?;
    let ended = match newest.outcome? {
        Outcome::Succeeded | Outcome::Stopped => return None,
        Outcome::Lost => "was lost",
        Outcome::Failed => "failed",
        Outcome::TimedOut => "took too long",
    };
    let why = newest.reason.as_ref().map_or_else(String::new, |reason| format!(": {}", reason.message));
    Some(format!("the next try begins after a pause; run {} {ended}{why}", of(job, newest)))
}

/// Its number, and that of its completion where there are several.
fn of(job: &JobInfo, run: &JobRun) -> String {
    match job.spec.completions {
        0 | 1 => run.attempt.to_string(),
        _ => format!("{} of completion {}", run.attempt, run.index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::job::{JobSpec, JobState};
    use wharf_types::node::{Reason, ReasonKind};
    use wharf_types::{Digest, InstanceId, JobId, NodeId, Timestamp};

    fn job(waits: &[&str], runs: Vec<JobRun>) -> JobInfo {
        let is_active = |run: &&JobRun| run.outcome.is_none();
        JobInfo {
            id: JobId::new(),
            namespace: "default".parse().unwrap(),
            name: "import".parse().unwrap(),
            state: JobState::Pending,
            ending: None,
            reason: None,
            exit_code: None,
            artifact: Digest::of(b""),
            app: None,
            release: None,
            schedule: None,
            planned_at: None,
            spec: JobSpec::default(),
            succeeded: 0,
            failed: 0,
            active: u32::try_from(runs.iter().filter(is_active).count()).unwrap(),
            waits: waits.iter().map(|why| (*why).to_owned()).collect(),
            runs,
            created_by: "ann".to_owned(),
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            ended_at: None,
        }
    }

    fn run(state: InstanceState, outcome: Option<Outcome>) -> JobRun {
        let message = "it ended with exit code 3".to_owned();
        JobRun {
            id: InstanceId::new(),
            index: 0,
            attempt: 1,
            node: NodeId::new(),
            state,
            outcome,
            exit_code: None,
            reason: outcome.map(|_| Reason { kind: ReasonKind::Exit, message }),
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            ended_at: outcome.map(|_| Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn a_reason_is_told_once_when_it_lasts_and_another_one_after_it() {
        let full = |free: u32| {
            job(&[format!("1 has too little free memory ({free}.5MiB free)").as_str()], Vec::new())
        };
        let pulling = || job(&[], vec![run(InstanceState::Preparing, None)]);
        let mut waiting = Waiting::default();
        assert_eq!((waiting.pause(), waiting.look(&full(64))), (Duration::ZERO, None));
        assert_eq!(waiting.pause(), LOOK);
        let told = waiting.look(&full(63)).unwrap();
        assert_eq!(told, "a run waits for a node: 1 has too little free memory (63.5MiB free)");
        assert_eq!(waiting.look(&full(62)), None);
        assert_eq!(waiting.look(&pulling()), None);
        let told = waiting.look(&pulling()).unwrap();
        assert_eq!(told, "run 1 is having its artifact fetched and compiled, or its image pulled");
        assert_eq!(waiting.look(&pulling()), None);
    }

    #[test]
    fn a_failure_after_something_has_run_is_told_although_it_differs_in_a_number_alone() {
        let failed = |code: u32| {
            let mut failed = run(InstanceState::Failed, Some(Outcome::Failed));
            failed.reason.as_mut().unwrap().message = format!("it ended with exit code {code}");
            job(&[], vec![failed])
        };
        let mut waiting = Waiting::default();
        assert_eq!(waiting.look(&failed(3)), None);
        assert!(waiting.look(&failed(3)).unwrap().ends_with("exit code 3"));
        assert_eq!(waiting.look(&job(&[], vec![run(InstanceState::Running, None)])), None);
        assert_eq!(waiting.look(&failed(4)), None);
        assert!(waiting.look(&failed(4)).unwrap().ends_with("exit code 4"));
    }

    #[test]
    fn what_runs_waits_for_nothing_and_is_looked_at_less_often() {
        let running = job(&[], vec![run(InstanceState::Running, None)]);
        let mut waiting = Waiting::default();
        for _ in 0..3 {
            assert_eq!(waiting.look(&running), None);
            assert_eq!(waiting.pause(), LOOK_LATER);
        }
        let ending = JobInfo { ending: Some(JobState::Failed), ..job(&["no room"], Vec::new()) };
        assert_eq!(waits(&ending), None);
    }

    #[test]
    fn a_pause_before_the_next_try_says_why_there_is_one() {
        let failed = job(&[], vec![run(InstanceState::Failed, Some(Outcome::Failed))]);
        assert_eq!(
            waits(&failed).unwrap(),
            "the next try begins after a pause; run 1 failed: it ended with exit code 3"
        );
        let several = JobSpec { completions: 2, ..JobSpec::default() };
        let failed = JobInfo { spec: several, ..failed };
        assert!(waits(&failed).unwrap().contains("run 1 of completion 0 failed"));
    }

    #[test]
    fn a_job_that_waits_for_long_is_looked_at_less_often() {
        let full = job(&["no room"], Vec::new());
        let mut waiting = Waiting::default();
        for _ in 0..=30 {
            waiting.look(&full);
        }
        assert_eq!(waiting.pause(), LOOK_LATER);
    }
}
