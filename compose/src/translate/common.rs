//! What every app has, whatever it runs as: how many, where, how it is restarted, replaced and stopped.

use wharf_types::quantity::{ByteSize, CpuShare, Span};
use wharf_types::spec::placement::Constraint;
use wharf_types::spec::{
    LimitsSpec, OnFailure, PlacementSpec, Portion, Ratio, Replicas, ReserveSpec, RestartCondition,
    RestartSpec, RollbackSpec, ScaleSpec, StopSpec, UpdateOrder, UpdateSpec,
};

use super::job::{is_job, max_concurrent};
use super::sink::Sink;
use super::{Kind, One};
use crate::model::{Port, RestartPolicy, Rolling};
use crate::node::Place;
use crate::problem::shown;

pub(super) struct CommonSettings {
    /// None: an app that is there keeps the number of instances that it has; a new one has one.
    pub(super) scale: Option<ScaleSpec>,
    pub(super) placement: PlacementSpec,
    pub(super) reserve: ReserveSpec,
    pub(super) restart: RestartSpec,
    pub(super) update: UpdateSpec,
    pub(super) stop: StopSpec,
}

/// `ends`: others wait for the end of the service.
pub(super) fn common(one: &One<'_>, ends: bool, sink: &mut Sink) -> CommonSettings {
    let deploy = &one.settings.deploy;
    if let Some(mode) = deploy.mode.as_deref().filter(|mode| *mode == "global-job") {
        let message = "a job has a number of runs, and not one for each node; write `replicated-job`, `replicas`, and `max_replicas_per_node: 1`";
        sink.problem(one.place("deploy.mode"), format!("`{mode}`: {message}"));
    }
    if !is_job(one) {
        // Refused here, and read where a job is made.
        let _ = max_concurrent(one, sink);
    }
    let stop = one.settings.stop_grace_period.map_or_else(StopSpec::default, |drain| StopSpec { drain });
    CommonSettings {
        scale: scale(one, sink),
        placement: placement(one, sink),
        reserve: reserve(one, sink),
        restart: if is_job(one) { RestartSpec::default() } else { restart(one, ends, sink) },
        update: update(one, sink),
        stop,
    }
}

/// One setting that two keys name. They may both be there if they agree.
pub(super) fn one_of<T: Copy + PartialEq>(
    one: &One<'_>,
    (older, old): (&str, Option<T>),
    (newer, new): (&str, Option<T>),
    sink: &mut Sink,
) -> Option<T> {
    if let (Some(a), Some(b)) = (old, new)
        && a != b
    {
        let message = format!("`{older}` and `{newer}` say two things; write one of them");
        sink.problem(one.place(older), message);
    }
    new.or(old)
}

pub(super) fn whole(number: i64, field: &str, place: &Place, sink: &mut Sink) -> Option<u32> {
    let whole = u32::try_from(number).ok();
    if whole.is_none() {
        sink.problem(place, format!("`{field}`: {number} is not a number from 0 on"));
    }
    whole
}

fn scale(one: &One<'_>, sink: &mut Sink) -> Option<ScaleSpec> {
    let settings = one.settings;
    let replicas =
        one_of(one, ("scale", settings.scale), ("deploy.replicas", settings.deploy.replicas), sink);
    let place = one.place(if settings.deploy.replicas.is_some() { "deploy.replicas" } else { "scale" });
    let fixed = replicas.and_then(|replicas| whole(replicas, "replicas", place, sink));
    let range: Option<Replicas> = one.wharf("scale", sink);
    if range.is_some() && fixed.is_some() {
        sink.problem(one.place("x-wharf.scale"), "`replicas` says how many as well; write one of the two");
    }
    let is_global = is_global(one);
    if is_global && (fixed.is_some() || range.is_some()) {
        let place = if range.is_some() { one.place("x-wharf.scale") } else { place };
        sink.problem(place, "a service of `mode: global` has one instance on every node, and no number; leave one of the two out");
    }
    let singleton = settings.wharf.get("singleton").and_then(serde_json::Value::as_bool).unwrap_or_default();
    let replicas = range.or(fixed.map(Replicas::Fixed));
    let replicas = if is_global { Some(Replicas::GLOBAL) } else { replicas };
    (replicas.is_some() || singleton).then(|| ScaleSpec { replicas: replicas.unwrap_or_default(), singleton })
}

/// Whether it runs on every node that its constraints allow.
fn is_global(one: &One<'_>) -> bool {
    one.settings.deploy.mode.as_deref() == Some("global")
}

fn reserve(one: &One<'_>, sink: &mut Sink) -> ReserveSpec {
    let settings = one.settings;
    let reservations = &settings.deploy.resources.reservations;
    let memory = one_of(
        one,
        ("mem_reservation", settings.mem_reservation),
        ("deploy.resources.reservations.memory", reservations.memory),
        sink,
    );
    let cpu = reservations
        .cpus
        .and_then(|cpus| processors(cpus, one.place("deploy.resources.reservations.cpus"), sink));
    ReserveSpec { memory, cpu }
}

/// The bounds of an instance. Its memory is None where nobody says how much it may have.
pub(super) fn limits(one: &One<'_>, sink: &mut Sink) -> (LimitsSpec, Option<ByteSize>) {
    let limits: LimitsSpec = one.wharf("limits", sink).unwrap_or_default();
    let memory = one_of(
        one,
        ("mem_limit", one.settings.mem_limit),
        ("deploy.resources.limits.memory", one.settings.deploy.resources.limits.memory),
        sink,
    );
    let own = one.settings.wharf.get("limits").and_then(|limits| limits.get("memory"));
    if memory.is_some() && own.is_some() {
        sink.problem(one.place("x-wharf.limits"), "`memory`: the limit is given twice; write one of them");
    }
    let memory = memory.or(own.map(|_| limits.memory));
    (limits, memory)
}

/// A port is at no address of its own, whoever takes what comes to it.
pub(super) fn refuse_address(port: &Port) -> Result<(), String> {
    match port.host_ip.as_deref() {
        None | Some("0.0.0.0" | "::") => Ok(()),
        Some(address) => Err(format!(
            "`{}`: public ports are at the addresses of the front door; leave the address out",
            shown(address)
        )),
    }
}

/// The public port of one of `ports`.
pub(super) fn published(port: &Port) -> Result<u16, String> {
    let Some(published) = port.published.as_deref() else {
        return Err("a public port is needed, such as `7000:7000`: the platform chooses none".to_owned());
    };
    published.parse().map_err(|_| format!("`{}`: one port is needed, and no range", shown(published)))
}

/// Processors in thousandths.
pub(super) fn processors(cpus: f64, place: &Place, sink: &mut Sink) -> Option<CpuShare> {
    let millis = (cpus * 1000.0).round();
    if !(0.0..=1_024_000.0).contains(&millis) {
        sink.problem(place, format!("{cpus} processors are not between 0 and 1024"));
        return None;
    }
    Some(CpuShare::millis(millis as u32))
}

fn restart(one: &One<'_>, ends: bool, sink: &mut Sink) -> RestartSpec {
    let settings = one.settings;
    let mut spec = RestartSpec::default();
    let condition = match (&settings.deploy.restart_policy, settings.restart.as_deref()) {
        (Some(policy), restart) => {
            if restart.is_some() {
                let message = "`restart`: `deploy.restart_policy` says it, and goes before this";
                sink.notice(one.place("restart"), message);
            }
            by_policy(policy, &mut spec, one, sink)
        }
        (None, Some(restart)) => by_word(restart, &mut spec, one, sink),
        (None, None) => None,
    };
    spec.condition =
        condition.unwrap_or(if ends { RestartCondition::OnFailure } else { RestartCondition::Any });
    if ends && condition.is_none() {
        let message = format!(
            "the service `{}` is restarted only after a failure, because others wait for its end",
            shown(one.service)
        );
        sink.notice(&one.node.place, message);
    }
    if ends && spec.condition == RestartCondition::Any {
        let message = "others wait for the end of this service, which is restarted whenever it ends; write `on-failure`";
        sink.problem(one.place("restart"), message);
    }
    spec
}

fn by_word(word: &str, spec: &mut RestartSpec, one: &One<'_>, sink: &mut Sink) -> Option<RestartCondition> {
    let place = one.place("restart");
    match word.split_once(':').unwrap_or((word, "")) {
        ("no" | "false", "") => Some(RestartCondition::Never),
        ("always" | "unless-stopped", "") => Some(RestartCondition::Any),
        ("on-failure", "") => Some(RestartCondition::OnFailure),
        ("on-failure", attempts) if attempts.parse::<u32>().is_ok() => {
            spec.attempts = attempts.parse().ok().filter(|attempts| *attempts > 0);
            Some(RestartCondition::OnFailure)
        }
        _ => {
            let message = format!(
                "`{}` is not one of `no`, `always`, `unless-stopped`, `on-failure`, `on-failure:3`",
                shown(word)
            );
            sink.problem(place, message);
            None
        }
    }
}

fn by_policy(
    policy: &RestartPolicy,
    spec: &mut RestartSpec,
    one: &One<'_>,
    sink: &mut Sink,
) -> Option<RestartCondition> {
    let RestartPolicy { condition, delay, max_attempts, window } = policy;
    if let Some(delay) = *delay {
        // The file asks for the same wait each time. Nothing is tried without one for ever, though.
        spec.delay = delay;
        if delay.as_duration().is_zero() {
            let message =
                "`delay`: the first restart comes at once, later ones after 100 ms and more, up to 30 s";
            sink.notice(one.place("deploy.restart_policy.delay"), message);
        } else {
            spec.backoff = delay;
            spec.backoff_max = delay.max(Span::from_secs(1));
        }
    }
    let place = one.place("deploy.restart_policy.max_attempts");
    spec.attempts = max_attempts
        .and_then(|attempts| whole(attempts, "max_attempts", place, sink))
        .filter(|attempts| *attempts > 0);
    spec.window = window.filter(|window| !window.as_duration().is_zero());
    match condition.as_deref() {
        Some("none") => Some(RestartCondition::Never),
        Some("on-failure") => Some(RestartCondition::OnFailure),
        Some(_) => Some(RestartCondition::Any),
        None => None,
    }
}

fn update(one: &One<'_>, sink: &mut Sink) -> UpdateSpec {
    let deploy = &one.settings.deploy;
    let mut spec = UpdateSpec::default();
    if let Some(rolling) = &deploy.update_config {
        let Rolling { parallelism: _, delay, failure_action, monitor, max_failure_ratio: _, order: _ } =
            rolling;
        let dials = Dials::of(rolling, "update_config", one, sink);
        spec.parallelism = dials.parallelism.unwrap_or(spec.parallelism);
        spec.order = dials.order.unwrap_or(spec.order);
        spec.max_failure_ratio = dials.max_failure_ratio.unwrap_or(spec.max_failure_ratio);
        spec.delay = delay.unwrap_or(spec.delay);
        spec.monitor = monitor.unwrap_or(spec.monitor);
        spec.on_failure = match failure_action.as_deref() {
            Some("continue") => OnFailure::Continue,
            Some("pause") => OnFailure::Pause,
            _ => OnFailure::Rollback,
        };
    }
    if let Some(rolling) = &deploy.rollback_config {
        let Rolling { parallelism: _, delay, failure_action: _, monitor, max_failure_ratio: _, order: _ } =
            rolling;
        let dials = Dials::of(rolling, "rollback_config", one, sink);
        spec.rollback = RollbackSpec {
            parallelism: dials.parallelism,
            order: dials.order,
            delay: *delay,
            monitor: *monitor,
            max_failure_ratio: dials.max_failure_ratio,
        };
    }
    spec
}

struct Dials {
    parallelism: Option<Portion>,
    order: Option<UpdateOrder>,
    max_failure_ratio: Option<Ratio>,
}

impl Dials {
    fn of(rolling: &Rolling, key: &str, one: &One<'_>, sink: &mut Sink) -> Self {
        let place = |field: &str| one.place(&format!("deploy.{key}.{field}")).clone();
        let parallelism = rolling
            .parallelism
            .and_then(|parallelism| whole(parallelism, "parallelism", &place("parallelism"), sink))
            // 0 is all of them to Compose.
            .map(|count| if count == 0 { Portion::Percent(100) } else { Portion::Count(count) });
        let order = rolling.order.as_deref().map(|order| match order {
            "start-first" => UpdateOrder::StartFirst,
            _ => UpdateOrder::StopFirst,
        });
        let max_failure_ratio = rolling.max_failure_ratio.and_then(|ratio| {
            let parsed = Some(ratio).filter(|ratio| (0.0..=1.0).contains(ratio));
            if parsed.is_none() {
                sink.problem(&place("max_failure_ratio"), format!("{ratio} is not a share between 0 and 1"));
            }
            parsed.map(|ratio| Ratio::millionths((ratio * 1e6).round() as u32))
        });
        Self { parallelism, order, max_failure_ratio }
    }
}

fn placement(one: &One<'_>, sink: &mut Sink) -> PlacementSpec {
    let placement = &one.settings.deploy.placement;
    let at = |list: &str, index: usize| {
        let list = one.node.get("deploy").and_then(|deploy| deploy.get("placement")?.get(list));
        let item = list.and_then(|list| list.items().get(index));
        item.map_or_else(|| one.place("deploy.placement").clone(), |item| item.place.clone())
    };
    let mut spec = PlacementSpec::default();
    for (index, text) in placement.constraints.iter().enumerate() {
        let place = at("constraints", index);
        match constraint(text, &place, sink) {
            Ok(constraint) => spec.constraints.push(constraint),
            Err(message) => sink.problem(&place, message),
        }
    }
    for (index, preference) in placement.preferences.iter().enumerate() {
        let place = at("preferences", index);
        let spread = &preference.spread;
        match label_of(spread) {
            Some(_) if is_global(one) => {
                sink.notice(
                    &place,
                    "a service of `mode: global` is on every node, so there is nothing to spread",
                );
            }
            Some(label) => spec.spread.push(label.to_owned()),
            None => {
                let message = format!(
                    "`{}`: instances are spread over labels, such as `node.labels.zone`",
                    shown(spread)
                );
                sink.problem(&place, message);
            }
        }
    }
    let place = one.place("deploy.placement.max_replicas_per_node");
    spec.max_per_node = placement
        .max_replicas_per_node
        .and_then(|most| whole(most, "max_replicas_per_node", place, sink))
        .filter(|most| *most > 0);
    if spec.max_per_node.is_some() && is_global(one) {
        sink.problem(place, "a service of `mode: global` has one instance on every node; leave it out");
        spec.max_per_node = None;
    }
    if one.kinds.get(one.service) == Some(&Kind::Container)
        && let Some(platform) = &one.settings.platform
    {
        of_platform(platform, &mut spec, one.place("platform"), sink);
    }
    spec
}

fn label_of(key: &str) -> Option<&str> {
    key.strip_prefix("node.labels.").or_else(|| key.strip_prefix("engine.labels."))
}

/// Swarm's grammar into ours, which has the same shape and other words.
fn constraint(text: &str, place: &Place, sink: &mut Sink) -> Result<String, String> {
    let found = text.find("==").map(|at| (at, "==")).or_else(|| text.find("!=").map(|at| (at, "!=")));
    let Some((at, operator)) = found else {
        return Err(format!("`{}` is not a constraint; write `node.labels.zone == eu-1`", shown(text)));
    };
    let (key, value) = (text[..at].trim(), text[at + 2..].trim());
    let (key, value) = match key {
        "node.role" if value == "manager" => {
            let message = "`manager` is `server` here, the role of the node of `wharf up`; the nodes of a cluster are `worker`, \
                           so give one of them a label if it has to be one that stays";
            sink.notice(place, message);
            (key.to_owned(), "server")
        }
        "node.platform.arch" => (key.to_owned(), arch(value)),
        _ => match key.strip_prefix("engine.labels.") {
            Some(label) => {
                sink.notice(
                    place,
                    format!("labels of engines are labels of nodes here: `node.labels.{}`", shown(label)),
                );
                (format!("node.labels.{label}"), value)
            }
            None => (key.to_owned(), value),
        },
    };
    let is_bare = !value.is_empty() && value.chars().all(|c| c.is_alphanumeric() || "-_./:+@".contains(c));
    let value = if is_bare { value.to_owned() } else { format!("\"{value}\"") };
    let made = format!("{key} {operator} {value}");
    made.parse::<Constraint>().map(|_| made).map_err(|error| error.to_string())
}

/// As nodes call their processors: without what tells kinds of one apart, such as `/v8`.
fn arch(word: &str) -> &str {
    match word.split('/').next().unwrap_or_default() {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "x86",
        other => other,
    }
}

fn of_platform(platform: &str, spec: &mut PlacementSpec, place: &Place, sink: &mut Sink) {
    let (os, machine) = platform.split_once('/').unwrap_or((platform, ""));
    if os != "linux" {
        sink.problem(place, format!("`{}`: workers run on Linux", shown(platform)));
        return;
    }
    if !machine.is_empty() {
        let constraint = format!("node.platform.arch == {}", arch(machine));
        match constraint.parse::<Constraint>() {
            Ok(_) => {
                sink.notice(place, format!("`{}`: it runs on nodes with `{constraint}`", shown(platform)));
                spec.constraints.push(constraint);
            }
            Err(_) => {
                sink.problem(place, format!("`{}` is not a platform, such as `linux/amd64`", shown(platform)))
            }
        }
    }
}
