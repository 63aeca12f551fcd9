//! Jobs and CronJobs. Declarative files have none, so each becomes a command.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use wharf_types::declare::compact_spec;
use wharf_types::job::JobSpec;
use wharf_types::name::{JobName, ScheduleName};
use wharf_types::quantity::Span;
use wharf_types::spec::{AppSpec, ContainerSpec, LimitsSpec};
use wharf_types::world::World;

use crate::app::{Around, artifact, completed, image, invalid, pod_settings};
use crate::at::At;
use crate::finding::Sink;
use crate::kind::Kind;
use crate::mounts::{Mounter, Mounts};
use crate::placement::placement;
use crate::quantity::{count, seconds};
use crate::resources::{Amounts, memory, resources};
use crate::shell::{is_unprintable, quoted};
use crate::variables::{Variable, Variables, all_expanded, variables};
use crate::workload::Workload;

/// What a cluster tries again where nobody says how often.
const RETRIES: u32 = 6;

/// Tells the command that makes the job, or the schedule.
pub(crate) fn take(workload: &Workload<'_>, mut around: Around<'_>, sink: &mut Sink) {
    let root = workload.manifest.root();
    let is_schedule = workload.manifest.kind == Kind::CronJob;
    let job = root.near(if is_schedule { "spec.jobTemplate.spec" } else { "spec" });
    let mut document = Map::new();
    if workload.is_wasm {
        artifact(workload, &mut document, sink);
    } else {
        image(workload, &mut document, sink);
    }
    pod_settings(workload, sink);
    let mut known = variables(workload, around.values, sink);
    let args = all_expanded(&workload.container, "args", &known, sink);
    let mut spec = JobSpec { args, ..settings(&job, sink) };
    spec.timeout = seconds(&workload.pod, "activeDeadlineSeconds", 1, sink);
    spec.placement.constraints = constraints(workload, sink);
    let (requests, limits) = resources(workload, sink);
    if workload.is_wasm {
        of_guest(workload, (&requests, &limits), (&mut around, &mut known), &mut spec, sink);
    } else {
        of_container(workload, (&requests, &limits), (&mut around, &mut known), &mut spec, sink);
    }
    if requests.cpu.is_some() || (requests.memory.is_some() && requests.memory != spec.memory) {
        let message = "a run reserves the memory that it may have, and no processors";
        sink.notice(&workload.container.near("resources.requests"), message);
    }
    set_variables(known, &mut spec);
    check(workload, &spec, sink);
    let of = |key: &str| document.get(key).and_then(|text| text.as_str());
    let what = match of("image") {
        Some(image) => format!("--image {}", quoted(image)),
        None => quoted(of("artifact").unwrap_or_default()),
    };
    let before = if is_schedule {
        schedule(workload, &root, sink)
    } else {
        let name = JobName::from(workload.name.clone());
        format!("wharf job run{} --detach --name {name}", workload.manifest.namespace_flag())
    };
    let lines = container_lines(&spec);
    if spec.env.values().chain(&spec.args).chain(&lines).any(|word| is_unprintable(word)) {
        let message =
            "a variable, an argument or a setting has control characters, which a command line cannot show";
        sink.refuse(&workload.container, message);
    }
    if !sink.is_refused(workload.manifest.number) {
        let command = format!("{before}{} {what}{}", flags(&spec, &lines), arguments(&spec));
        sink.command(&root, command, "after the text was applied, because declarative files have no jobs");
    }
}

/// What a run of a component has of its pod.
fn of_guest(
    workload: &Workload<'_>,
    (requests, limits): (&Amounts, &Amounts),
    (around, known): (&mut Around<'_>, &mut Variables),
    spec: &mut JobSpec,
    sink: &mut Sink,
) {
    let mounts = mounts(workload, around, known, sink);
    if !mounts.host_paths.is_empty() || !mounts.tmpfs.is_empty() {
        sink.refuse(
            &workload.container.near("volumeMounts"),
            "a job has no volumes; let it ask an app that has one",
        );
    }
    // A request that is less than any run has is no limit.
    let usual = LimitsSpec::default().memory;
    spec.memory = limits.memory.or(requests.memory.filter(|asked| *asked > usual));
    if workload.pod.get("terminationGracePeriodSeconds").is_some() {
        let message = "a run that is stopped ends at once: components get no signals";
        sink.notice(&workload.pod.near("terminationGracePeriodSeconds"), message);
    }
}

/// What a run of an image has of its pod.
fn of_container(
    workload: &Workload<'_>,
    (requests, limits): (&Amounts, &Amounts),
    (around, known): (&mut Around<'_>, &mut Variables),
    spec: &mut JobSpec,
    sink: &mut Sink,
) {
    let command = all_expanded(&workload.container, "command", known, sink);
    let mounts = mounts(workload, around, known, sink);
    spec.memory = Some(memory(workload, requests, limits, sink));
    if let Some(drain) = seconds(&workload.pod, "terminationGracePeriodSeconds", 0, sink) {
        spec.stop.drain = drain;
    }
    let container = ContainerSpec {
        entrypoint: Some(command).filter(|command| !command.is_empty()),
        tmpfs: mounts.tmpfs,
        cpus: limits.cpu,
        disk_max: limits.disk,
        files: mounts.files,
        host_paths: mounts.host_paths,
        ..ContainerSpec::default()
    };
    spec.container = completed(workload, container, &BTreeSet::new(), around.is_named, sink);
}

fn settings(job: &At<'_>, sink: &mut Sink) -> JobSpec {
    let default = JobSpec::default();
    let parallelism = count(job, "parallelism", 1, sink);
    let completions = count(job, "completions", 1, sink);
    if parallelism.is_some_and(|parallelism| parallelism > 1) && completions.is_none() {
        let message = "without `completions` the runs agree among themselves when there is nothing left; write how many have to succeed";
        sink.refuse(&job.near("parallelism"), message);
    }
    let completions = completions.unwrap_or(1);
    let indexed = job.text("completionMode") == Some("Indexed");
    if indexed {
        let message = "a run is told which completion it is for by `WHARF_JOB_INDEX`, and not by `JOB_COMPLETION_INDEX`";
        sink.notice(&job.near("completionMode"), message);
    }
    let per_index = count(job, "backoffLimitPerIndex", 0, sink);
    let limit = count(job, "backoffLimit", 0, sink);
    if completions > 1 && limit.is_some() {
        let message = match per_index {
            Some(_) => "`backoffLimitPerIndex` says how often a completion is tried again",
            None => "each completion is tried again so often, and not all of them together",
        };
        sink.notice(&job.near("backoffLimit"), message);
    }
    JobSpec {
        completions,
        parallelism: parallelism.unwrap_or(1),
        indexed,
        retries: per_index.or(limit).unwrap_or(RETRIES),
        deadline: seconds(job, "activeDeadlineSeconds", 1, sink),
        ttl: seconds(job, "ttlSecondsAfterFinished", 0, sink).unwrap_or(default.ttl),
        ..default
    }
}

/// Without what a job does not have.
fn mounts(
    workload: &Workload<'_>,
    around: &mut Around<'_>,
    variables: &mut Variables,
    sink: &mut Sink,
) -> Mounts {
    let mounts = Mounter::new(workload, (&mut *around.values, &mut *around.claims), variables, sink).run();
    if !mounts.volumes.is_empty() {
        sink.refuse(
            &workload.container.near("volumeMounts"),
            "a job has no volumes; let it ask an app that has one",
        );
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if workload.container.get(probe).is_some() {
            sink.refuse(
                &workload.container.near(probe),
                "a job answers nobody; its end says what became of it",
            );
        }
    }
    mounts
}

fn constraints(workload: &Workload<'_>, sink: &mut Sink) -> Vec<String> {
    let placement = placement(workload, sink);
    if !placement.spread.is_empty() || placement.max_per_node.is_some() {
        let message = "runs of a job are spread over nodes with room, and by nothing else";
        sink.notice(&workload.pod, message);
    }
    placement.constraints
}

fn set_variables(known: Variables, spec: &mut JobSpec) {
    for (name, variable) in known {
        match variable {
            Variable::Plain(text) => drop(spec.env.insert(name, text)),
            Variable::Secret(secret) => drop(spec.secrets.insert(name, secret)),
            Variable::Config(config, _) => drop(spec.configs.insert(name, config)),
        }
    }
}

fn check(workload: &Workload<'_>, spec: &JobSpec, sink: &mut Sink) {
    let for_worker = spec.for_worker();
    // Whether a component is a command is not known here.
    let of_container = || if workload.is_wasm { Ok(()) } else { for_worker.validate_for(World::Container) };
    let both = spec.validate().and_then(|()| AppSpec::validate(&for_worker)).and_then(|()| of_container());
    if let Err(error) = both {
        invalid(workload, &error, sink);
    }
}

/// `wharf schedule set` up to what the job is.
fn schedule(workload: &Workload<'_>, root: &At<'_>, sink: &mut Sink) -> String {
    let spec = root.near("spec");
    let name = ScheduleName::try_from(workload.name.as_str().to_owned());
    let name = name.map(|name| name.to_string()).unwrap_or_default();
    let cron = cron(&spec, sink);
    let mut command =
        format!("wharf schedule set{} {name} --cron {}", workload.manifest.namespace_flag(), quoted(&cron));
    if let Some(zone) = spec.text("timeZone") {
        command.push_str(&format!(" --timezone {}", quoted(zone)));
    }
    let overlap = match spec.text("concurrencyPolicy") {
        Some("Forbid") => "forbid",
        Some("Replace") => "replace",
        _ => "allow",
    };
    command.push_str(&format!(" --overlap {overlap}"));
    if let Some(deadline) = seconds(&spec, "startingDeadlineSeconds", 0, sink) {
        command.push_str(&format!(" --start-deadline {}", span(deadline)));
    }
    if spec.flag("suspend") == Some(true) {
        command.push_str(" --suspended");
    }
    for (field, flag, usual) in
        [("successfulJobsHistoryLimit", "succeeded", 3), ("failedJobsHistoryLimit", "failed", 1)]
    {
        let kept = count(&spec, field, 0, sink).unwrap_or(usual);
        if kept > wharf_types::schedule::HISTORY_MAX {
            sink.refuse(&spec.near(field), "at most 100 ended jobs are kept");
        }
        command.push_str(&format!(" --keep-{flag} {kept}"));
    }
    command
}

/// The line, with the words of Wharf.
fn cron(spec: &At<'_>, sink: &mut Sink) -> String {
    let Some(at) = spec.get("schedule") else {
        sink.refuse(spec, "`schedule` is needed");
        return String::new();
    };
    let line = at.word().trim();
    if line.starts_with("TZ=") || line.starts_with("CRON_TZ=") {
        sink.refuse(&at, "the zone has a field of its own; write `timeZone`");
    }
    let is_line = line.split_whitespace().count() == 5
        || matches!(
            line,
            "@hourly" | "@daily" | "@weekly" | "@monthly" | "@yearly" | "@midnight" | "@annually"
        );
    if !is_line {
        sink.refuse(&at, "five fields are needed, such as `30 2 * * *`, or a word such as `@daily`");
    }
    match line {
        "@midnight" => "@daily".to_owned(),
        "@annually" => "@yearly".to_owned(),
        _ => line
            .split_whitespace()
            .map(|field| if field == "?" { "*" } else { field })
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// As a command line takes it, without spaces.
fn span(span: Span) -> String {
    span.to_string().replace(' ', "")
}

/// What differs from what the flags have anyway.
fn flags(spec: &JobSpec, container: &[String]) -> String {
    let default = JobSpec::default();
    let mut words: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: String| words.push(format!(" --{name} {}", quoted(&value)));
    spec.env.iter().for_each(|(name, text)| flag("env", format!("{name}={text}")));
    spec.secrets.iter().for_each(|(name, secret)| flag("secret", format!("{name}={secret}")));
    spec.configs.iter().for_each(|(name, config)| flag("config", format!("{name}={config}")));
    spec.placement.constraints.iter().for_each(|constraint| flag("constraint", constraint.clone()));
    spec.memory.iter().for_each(|memory| flag("memory", memory.to_string()));
    container.iter().for_each(|line| flag("container", line.clone()));
    if spec.stop != default.stop {
        flag("grace", span(spec.stop.drain));
    }
    for (name, number, usual) in [
        ("completions", spec.completions, default.completions),
        ("parallelism", spec.parallelism, default.parallelism),
        ("retries", spec.retries, default.retries),
    ] {
        if number != usual {
            flag(name, number.to_string());
        }
    }
    spec.timeout.iter().for_each(|timeout| flag("run-timeout", span(*timeout)));
    spec.deadline.iter().for_each(|deadline| flag("deadline", span(*deadline)));
    if spec.ttl != default.ttl {
        flag("ttl", span(spec.ttl));
    }
    if spec.indexed {
        words.push(" --indexed".to_owned());
    }
    words.concat()
}

/// The settings of the container that differ from their defaults, each as a line of TOML.
fn container_lines(spec: &JobSpec) -> Vec<String> {
    let compact = compact_spec(&AppSpec { container: spec.container.clone(), ..AppSpec::default() });
    let settings = compact.get("container").and_then(Value::as_object);
    settings.into_iter().flatten().map(|(key, value)| format!("{key} = {}", toml(value))).collect()
}

/// A value on one line. Strings of JSON are strings of TOML.
fn toml(value: &Value) -> String {
    let is_bare = |key: &str| {
        !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let key = |key: &String| if is_bare(key) { key.clone() } else { Value::from(key.as_str()).to_string() };
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) if table.is_empty() => "{}".to_owned(),
        Value::Object(table) => {
            let pairs = table.iter().map(|(name, value)| format!("{} = {}", key(name), toml(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

fn arguments(spec: &JobSpec) -> String {
    if spec.args.is_empty() {
        return String::new();
    }
    format!(" -- {}", spec.args.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_lines_of_toml() {
        let container = json!({
            "user": "a \"b\"", "read_only": true, "entrypoint": ["sh", "-c"], "networks": {"default": []},
            "extra_hosts": {"a.b": "10.0.0.1"}, "files": [{"from": "A", "path": "/a"}],
        });
        let spec: JobSpec = serde_json::from_value(json!({ "container": container })).unwrap();
        let lines = container_lines(&spec);
        for line in [
            r#"user = "a \"b\"""#,
            "read_only = true",
            r#"entrypoint = ["sh", "-c"]"#,
            "networks = { default = [] }",
            r#"extra_hosts = { "a.b" = "10.0.0.1" }"#,
            r#"files = [{ from = "A", path = "/a" }]"#,
        ] {
            assert!(lines.iter().any(|known| known == line), "{line}: {lines:?}");
        }
        assert_eq!(lines.len(), 6);
    }
}
