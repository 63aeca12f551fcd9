//! The jobs of a stack: each is run once for each change of what it is.

use std::collections::BTreeMap;
use std::process::ExitCode;

use wharf_compose::translate::Job;
use wharf_types::declare::change::{PlanError, PlanRequest};
use wharf_types::declare::{AppResource, Resource};
use wharf_types::job::{CreateJob, JobInfo, JobState, JobTemplate};
use wharf_types::problem::ProblemCode;
use wharf_types::{AppName, Digest, NamespaceName, SetName};

use crate::commands::{declare, job};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::session::Session;

/// Why the namespace may not run what jobs run, before any of them is made: what a plan of apps with the same rights would be refused for.
pub async fn refusals(
    session: &Session,
    namespace: &NamespaceName,
    jobs: &[Job],
    artifacts: &BTreeMap<AppName, Digest>,
) -> anyhow::Result<Vec<PlanError>> {
    let as_app = |job: &Job| {
        let app = AppResource {
            namespace: namespace.clone(),
            name: job.name.clone(),
            artifact: *artifacts.get(&job.name)?,
            spec: job.spec.for_worker(),
            keep_scale: false,
        };
        Some(Resource::App(Box::new(app)))
    };
    let resources: Vec<Resource> = jobs.iter().filter(|job| job.image.is_some()).filter_map(as_app).collect();
    if resources.is_empty() {
        return Ok(Vec::new());
    }
    let request = PlanRequest { resources, prune: None, with_live: false };
    let errors = session.client.plan(declare::body(&request)?).await?.errors;
    // Whatever else is said is about apps.
    Ok(errors.into_iter().filter(|error| error.code == ProblemCode::Forbidden).collect())
}

/// Runs a job, unless it was run with success before as it is now.
pub async fn run(
    session: &Session,
    stack: &SetName,
    (job, artifact): (&Job, Digest),
    is_awaited: bool,
) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let made = ensure(session, &namespace, stack, job, artifact).await?;
    if made.state == JobState::Succeeded {
        return tell(session, &made, "has succeeded before, and has not changed");
    }
    tell(session, &made, if is_awaited { "is run" } else { "is made, and nobody waits for its end" })?;
    if !is_awaited {
        return Ok(());
    }
    let ended = job::to_the_end(session, &namespace, &made).await?;
    if ended == ExitCode::SUCCESS {
        return Ok(());
    }
    let message =
        format!("the job `{}` did not succeed, so nothing that comes after it was deployed", made.name);
    let help = format!("`wharf job logs {}` shows what it printed; the next deploy runs it again", made.id);
    Err(Failure::new(Exit::RolloutFailed, message).help(help).into())
}

/// The job of this stack that is as it is now. One that has ended without success is made anew.
pub async fn ensure(
    session: &Session,
    namespace: &NamespaceName,
    stack: &SetName,
    job: &Job,
    artifact: Digest,
) -> anyhow::Result<JobInfo> {
    let template = JobTemplate { artifact: Some(artifact), app: None, spec: job.spec.clone() };
    let key = key(stack, job, &template)?;
    let request = CreateJob { name: Some(job.name.clone().into()), job: template };
    let made = session.client.create_job(namespace, &request, Some(&key)).await?;
    // One that has just been made has not ended.
    if made.state.is_final() && made.state != JobState::Succeeded {
        session.client.delete_job(namespace, &made.id.to_string()).await?;
        return session.client.create_job(namespace, &request, Some(&key)).await;
    }
    Ok(made)
}

fn tell(session: &Session, job: &JobInfo, what: &str) -> anyhow::Result<()> {
    if session.json {
        return output::json(job);
    }
    output::line(format!("job {} ({}) {what}", job.name, job.id))
}

/// The same for the same job of the same stack.
fn key(stack: &SetName, job: &Job, template: &JobTemplate) -> anyhow::Result<String> {
    let definition = serde_json::to_vec(&(stack.as_str(), &job.service, template))?;
    Ok(format!("stack:{}", Digest::of(&definition)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_another_one_when_anything_of_it_has_changed() {
        let job = Job {
            service: "migrate".to_owned(),
            place: wharf_compose::Place::new(&"compose.yaml".into(), 1, 1),
            name: "migrate".parse().unwrap(),
            artifact: None,
            image: Some("migrate:1".to_owned()),
            spec: wharf_types::job::JobSpec::default(),
        };
        let of = |stack: &str, artifact: &[u8], arg: &str| {
            let spec = wharf_types::job::JobSpec { args: vec![arg.to_owned()], ..Default::default() };
            let template = JobTemplate { artifact: Some(Digest::of(artifact)), app: None, spec };
            key(&stack.parse().unwrap(), &job, &template).unwrap()
        };
        let first = of("shop", b"1", "up");
        assert_eq!(of("shop", b"1", "up"), first);
        for other in [of("shop", b"2", "up"), of("shop", b"1", "down"), of("other", b"1", "up")] {
            assert_ne!(other, first);
        }
        assert!(first.len() < 100 && first.is_ascii(), "{first}");
    }
}
