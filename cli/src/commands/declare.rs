//! `wharf plan`, `wharf apply` and `wharf diff`: files that declare resources.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tokio::time::Instant;
use wharf_types::SetName;
use wharf_types::declare::change::{Applied, ApplyRequest, Change, Counts, Plan, PlanError, PlanRequest};
use wharf_types::declare::{Prune, REQUEST_MAX_BYTES, Resource};

use crate::args::WaitArgs;
use crate::declared::load::{Files, told};
use crate::declared::saved::Saved;
use crate::declared::{content, show};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::rollout::{self, Followed};
use crate::session::Session;

/// Which files.
#[derive(Args, Debug)]
pub struct FileArgs {
    /// A file with resources, a folder of them, or `-` for stdin; may be repeated
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Delete apps that were applied under this name before and are not in the files any more; their volumes are kept
    #[arg(long, value_name = "NAME")]
    pub prune: Option<SetName>,
}

#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub files: FileArgs,
    /// Keep the plan in a file, for `wharf apply FILE`
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct ApplyArgs {
    /// A plan of `wharf plan --out`: exactly that is done, or nothing when something changed meanwhile
    #[arg(value_name = "PLAN", conflicts_with_all = ["files", "prune"])]
    pub plan: Option<PathBuf>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct DiffArgs {
    #[command(flatten)]
    pub files: FileArgs,
}

/// What the files say, as the platform takes it.
struct Wanted {
    files: Files,
    resources: Vec<Resource>,
    prune: Option<Prune>,
}

impl Wanted {
    async fn read(session: &Session, args: &FileArgs) -> anyhow::Result<Self> {
        if args.files.is_empty() {
            return Err(Failure::usage("no file is named").help("name one with `-f FILE`").into());
        }
        let namespace = session.namespace()?;
        let files = Files::read(&args.files, &namespace)?;
        let resources = content::resolve(session, &files).await?;
        let prune = args.prune.clone().map(|set| Prune { set, namespaces: vec![namespace], keep: false });
        Ok(Self { files, resources, prune })
    }

    /// The plan, if it can be carried out.
    async fn plan(&self, session: &Session, with_live: bool) -> anyhow::Result<Plan> {
        let request = PlanRequest { resources: self.resources.clone(), prune: self.prune.clone(), with_live };
        let plan = session.client.plan(body(&request)?).await?;
        match refusal(&plan.errors, &self.files) {
            Some(failure) => Err(failure.into()),
            None => Ok(plan),
        }
    }
}

/// A request is refused here rather than after it was sent in vain.
pub fn body(request: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    let body = serde_json::to_vec(request).context("could not write the resources as JSON")?;
    if body.len() > REQUEST_MAX_BYTES {
        let (is, most) = (output::bytes(body.len() as u64), output::bytes(REQUEST_MAX_BYTES as u64));
        let message = format!("the resources are {is}, more than {most}, which one request may have");
        return Err(Failure::invalid(message).help("apply the files in parts").into());
    }
    Ok(body)
}

/// The errors of a plan of what no file says.
pub fn check(plan: &Plan) -> Result<(), Failure> {
    let Some(first) = plan.errors.first() else { return Ok(()) };
    let lines = plan.errors.iter().map(|error| format!("{}: {}", error.resource, error.detail));
    Err(Failure::new(Exit::of_problem(first.code), told(lines)))
}

/// All errors of a plan, with the places of their resources.
fn refusal(errors: &[PlanError], files: &Files) -> Option<Failure> {
    let first = errors.first()?;
    let line = |error: &PlanError| {
        let what = format!("{}: {}", error.resource, error.detail);
        let place = files.place(&error.resource, error.field.as_deref());
        place.map_or(what.clone(), |place| format!("{place}: {what}"))
    };
    Some(Failure::new(Exit::of_problem(first.code), told(errors.iter().map(line))))
}

pub async fn plan(session: &Session, args: PlanArgs) -> anyhow::Result<()> {
    let wanted = Wanted::read(session, &args.files).await?;
    let plan = wanted.plan(session, false).await?;
    print_plan(session, &plan)?;
    let Some(out) = args.out else { return Ok(()) };
    Saved::new(&session.target.api, wanted.resources, wanted.prune, plan).write(&out)?;
    if !session.json {
        output::line(format!("saved; `wharf apply {}` does exactly this", out.display()))?;
    }
    Ok(())
}

fn print_plan(session: &Session, plan: &Plan) -> anyhow::Result<()> {
    if session.json {
        return output::json(plan);
    }
    show::plan_lines(&plan.changes, plan.counts).iter().try_for_each(output::line)
}

pub async fn apply(session: &Session, args: ApplyArgs) -> anyhow::Result<()> {
    let since = Instant::now();
    let Some(path) = &args.plan else {
        let wanted = Wanted::read(session, &args.files).await?;
        let plan = wanted.plan(session, false).await?;
        let Wanted { resources, prune, .. } = wanted;
        return carry_out(session, (resources, prune), plan, args.wait, since).await;
    };
    let Saved { resources, prune, plan, .. } = Saved::read(path, &session.target.api)?;
    if !session.json {
        print_plan(session, &plan)?;
    }
    let request = ApplyRequest { resources, prune, base: Some(plan.base) };
    send(session, &request, args.wait, since).await
}

/// Says what a plan is, and carries it out if there is anything to do.
pub async fn carry_out(
    session: &Session,
    (resources, prune): (Vec<Resource>, Option<Prune>),
    plan: Plan,
    wait: WaitArgs,
    since: Instant,
) -> anyhow::Result<()> {
    if !session.json {
        print_plan(session, &plan)?;
    }
    if plan.counts.is_nothing() {
        return finish(session, &Applied { counts: plan.counts, changes: plan.changes }, &[], since);
    }
    send(session, &ApplyRequest { resources, prune, base: Some(plan.base) }, wait, since).await
}

/// What was shown is what is done: if anything has moved since then, nothing is.
async fn send(
    session: &Session,
    request: &ApplyRequest,
    wait: WaitArgs,
    since: Instant,
) -> anyhow::Result<()> {
    let applied = session.client.apply(body(request)?).await?;
    let followed = if wait.no_wait {
        Vec::new()
    } else {
        rollout::follow_all(session, &applied.changes, wait.timeout.as_duration()).await
    };
    finish(session, &applied, &followed, since)
}

/// The one line of `--json`.
#[derive(Serialize)]
struct Summary<'a> {
    counts: Counts,
    changes: &'a [Change],
    failed: Vec<&'a Followed>,
    elapsed_millis: u128,
}

fn finish(session: &Session, applied: &Applied, followed: &[Followed], since: Instant) -> anyhow::Result<()> {
    let failed: Vec<&Followed> = followed.iter().filter(|followed| followed.problem.is_some()).collect();
    if session.json {
        let elapsed_millis = since.elapsed().as_millis();
        output::json(&Summary {
            counts: applied.counts,
            changes: &applied.changes,
            failed: failed.clone(),
            elapsed_millis,
        })?;
    } else if applied.counts.is_nothing() {
        output::line("nothing to do")?;
    } else if failed.is_empty() {
        let took = output::elapsed(since.elapsed());
        let serves = match followed.len() {
            0 => String::new(),
            count => format!(", {} in service", output::count(count as u64, "release")),
        };
        output::line(format!("applied after {took}{serves}"))?;
    }
    let lines: Vec<String> = failed.iter().filter_map(|followed| followed.sentence()).collect();
    if lines.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::RolloutFailed, told(lines.into_iter()))
        .help("the settings were applied; an app whose rollout failed is back on its release before, and `wharf why APP` explains it")
        .into())
}

/// 0: no difference. 1: there are some. An error is 2, as with `diff`.
pub async fn diff(session: &Session, args: DiffArgs) -> anyhow::Result<ExitCode> {
    let wanted = Wanted::read(session, &args.files).await?;
    let plan = wanted.plan(session, true).await?;
    if session.json {
        output::json(&plan)?;
    } else {
        for (at, change) in plan.changes.iter().enumerate() {
            // The changes are in the order of the resources, with deletions after them.
            let resource = wanted.resources.get(at);
            let place = wanted.files.place_at(at).unwrap_or_default();
            let text = show::diff(change, resource.map(|resource| (resource, place.as_str())));
            text.lines().try_for_each(|line| output::line(show::coloured(line)))?;
        }
    }
    Ok(if plan.counts.is_nothing() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declared::load::Files;
    use wharf_types::problem::ProblemCode;

    #[test]
    fn errors_of_a_plan_have_the_places_of_their_resources() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.yaml");
        let app = "---\nkind: app\nname: c\nartifact: c.wasm\nsecrets:\n  DB: missing\n";
        std::fs::write(&file, format!("kind: namespace\nname: a\n---\nkind: namespace\nname: b\n{app}"))
            .unwrap();
        let files = Files::read(std::slice::from_ref(&file), &"default".parse().unwrap()).unwrap();
        let error = |at: usize| PlanError {
            resource: files.resources[at].id.clone(),
            code: ProblemCode::Forbidden,
            detail: "no".into(),
            field: (at == 2).then(|| "secrets.DB".to_owned()),
        };
        let failure = refusal(&[error(0), error(1), error(2)], &files).unwrap().to_string();
        assert!(failure.contains("there are 3 errors\n"), "{failure}");
        assert!(failure.contains(&format!("{}:11:3: app default/c: no", file.display())), "{failure}");
        assert!(failure.contains(&format!("{}:4:1: namespace b: no", file.display())), "{failure}");
        assert!(refusal(&[], &files).is_none());
    }
}
