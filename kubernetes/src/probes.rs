//! Probes of a container as health checks of an app.

use wharf_types::quantity::Span;
use wharf_types::spec::{ContainerHealthSpec, HealthSpec};

use crate::at::At;
use crate::finding::Sink;
use crate::quantity::{count, seconds};
use crate::service::Reach;
use crate::workload::Workload;

/// What each is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Readiness,
    Liveness,
    Startup,
}

/// What the probes become.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) http: HealthSpec,
    pub(crate) command: Option<ContainerHealthSpec>,
    /// How long a start by command may take, where one of them says so.
    start: Option<Span>,
    /// Whether one of them has set how often it is asked over HTTP.
    is_paced: bool,
}

struct Pace {
    period: Span,
    timeout: Span,
    failures: u32,
}

pub(crate) fn checks(workload: &Workload<'_>, reach: &mut Reach, sink: &mut Sink) -> Checks {
    let mut checks = Checks::default();
    for (field, role) in [
        ("readinessProbe", Role::Readiness),
        ("livenessProbe", Role::Liveness),
        ("startupProbe", Role::Startup),
    ] {
        let Some(probe) = workload.container.get(field) else { continue };
        let pace = Pace {
            period: seconds(&probe, "periodSeconds", 1, sink).unwrap_or(Span::from_secs(10)),
            timeout: seconds(&probe, "timeoutSeconds", 1, sink).unwrap_or(Span::from_secs(1)),
            failures: count(&probe, "failureThreshold", 1, sink).unwrap_or(3),
        };
        if let Some(exec) = probe.get("exec").filter(|_| !workload.is_wasm) {
            ask_by_command(&probe, &exec, role, &pace, &mut checks, sink);
        } else if let Some(get) = probe.get("httpGet") {
            ask_over_http(workload, &get, role, &pace, &mut checks, reach, sink);
            successes(&probe, &pace, sink);
            if let Some(delay) = probe.get("initialDelaySeconds").filter(|_| !workload.is_wasm) {
                let message = "an instance is asked until it first answers, and failures do not count before";
                sink.notice(&delay, message);
            }
        } else if let Some(socket) = probe.get("tcpSocket") {
            ask_for_a_connection(workload, &socket, reach, sink);
            numbers_of_a_connection(&probe, sink);
        } else if probe.get("grpc").is_none() && probe.get("exec").is_none() {
            sink.refuse(&probe, "it asks for nothing; write `httpGet` or `exec`");
        }
    }
    checks
}

fn successes(probe: &At<'_>, pace: &Pace, sink: &mut Sink) {
    let wanted = count(probe, "successThreshold", 1, sink).filter(|wanted| *wanted != pace.failures);
    if wanted.is_some() {
        let message =
            "as many answers in a row make an instance ready again as make it unready: `failureThreshold`";
        sink.notice(&probe.near("successThreshold"), message);
    }
}

fn ask_over_http(
    workload: &Workload<'_>,
    get: &At<'_>,
    role: Role,
    pace: &Pace,
    checks: &mut Checks,
    reach: &mut Reach,
    sink: &mut Sink,
) {
    if get.text("scheme") == Some("HTTPS") {
        sink.refuse(&get.near("scheme"), "the platform asks over HTTP; let the path answer without TLS");
    }
    let port = get.get("port").and_then(|port| {
        if workload.is_wasm {
            sink.notice(&port, "a component is asked without a port");
            return None;
        }
        workload.port(&port, sink)
    });
    match (port, reach.http) {
        (Some(port), None) => {
            let message = format!(
                "the app answers requests at {port}, so that the platform can ask; the front door leads there, too, by the app's own address"
            );
            sink.notice(get, message);
            reach.http = Some(port);
        }
        (Some(port), Some(answers)) if port != answers => {
            let message = format!(
                "the platform asks at {answers}, where requests go; serve the path there, or write `exec`"
            );
            sink.refuse(&get.near("port"), message);
        }
        _ => {}
    }
    let path = get.text("path").filter(|path| !path.is_empty()).unwrap_or("/").to_owned();
    match role {
        Role::Readiness => checks.http.path = Some(path),
        Role::Liveness => checks.http.liveness_path = Some(path),
        Role::Startup => {
            checks.http.startup_period = pace.period;
            let message = "an instance has started with the first answer; how long that may take is `progress_deadline` of the rollout";
            match &checks.http.path {
                Some(ready) if *ready != path => {
                    sink.notice(get, format!("{message}, and `{ready}` is asked"))
                }
                Some(_) => sink.notice(get, message),
                None => {
                    sink.notice(get, format!("{message}, and it is asked afterwards, too"));
                    checks.http.path = Some(path);
                }
            }
            return;
        }
    }
    let own = (pace.period, pace.timeout, pace.failures);
    if !checks.is_paced {
        (checks.http.period, checks.http.timeout, checks.http.threshold) = own;
    } else if (checks.http.period, checks.http.timeout, checks.http.threshold) != own {
        let message =
            "both checks have one period, timeout and threshold, which are those of `readinessProbe`";
        sink.notice(get, message);
    }
    checks.is_paced = true;
}

fn ask_by_command(
    probe: &At<'_>,
    exec: &At<'_>,
    role: Role,
    pace: &Pace,
    checks: &mut Checks,
    sink: &mut Sink,
) {
    let command: Vec<String> = exec.texts("command").into_iter().map(str::to_owned).collect();
    if command.is_empty() {
        return sink.refuse(exec, "`command` is needed");
    }
    let spec = checks.command.get_or_insert_with(|| ContainerHealthSpec {
        command: command.clone(),
        interval: pace.period,
        timeout: pace.timeout,
        retries: pace.failures,
        ..ContainerHealthSpec::default()
    });
    if spec.command != command {
        let message = "one command says whether a container is healthy, and another probe has one; let one of them ask for both";
        return sink.refuse(exec, message);
    }
    let own = (pace.period, pace.timeout, pace.failures);
    // Of a startup probe the period and the threshold say how long the start may take, and are kept so.
    let differs = if role == Role::Startup {
        spec.timeout != pace.timeout
    } else {
        (spec.interval, spec.timeout, spec.retries) != own
    };
    if differs {
        let message = "one check by a command has one period, timeout and threshold, which are those of the first probe with it: \
                       `readinessProbe`, then `livenessProbe`";
        sink.notice(exec, message);
    }
    // Failures do not count for as long as the most patient of the probes waits.
    let delay = seconds(probe, "initialDelaySeconds", 0, sink);
    let start = if role == Role::Startup {
        spec.start_interval = pace.period;
        let millis = |span: Span| span.as_duration().as_millis() as u64;
        let tries = millis(pace.period).saturating_mul(u64::from(pace.failures));
        Some(Span::from_millis(tries.saturating_add(delay.map_or(0, millis))))
    } else {
        delay
    };
    if let Some(start) = start {
        spec.start_period = checks.start.map_or(start, |known| known.max(start));
        checks.start = Some(spec.start_period);
    }
    if count(probe, "successThreshold", 1, sink).is_some_and(|wanted| wanted > 1) {
        let message = "one success is enough, and ends a row of failures";
        sink.notice(&probe.near("successThreshold"), message);
    }
    probe.tell();
    sink.notice(exec, "one check by a command says whether a container is ready, and whether it is replaced");
}

fn ask_for_a_connection(workload: &Workload<'_>, socket: &At<'_>, reach: &Reach, sink: &mut Sink) {
    let at = socket.near("port");
    let Some(port) = workload.port(&at, sink) else { return };
    if reach.http == Some(port) || (workload.is_wasm && reach.tcp.is_empty()) {
        sink.notice(socket, "an instance is ready when it answers a request, with anything below 500");
    } else if workload.is_wasm || reach.tcp.values().any(|target| *target == port) {
        sink.notice(socket, "an instance is ready when each of its public ports takes a connection");
    } else {
        let message =
            "a port that is not public is not asked; write `exec` with a command that asks, or leave it out";
        sink.refuse(socket, message);
    }
}

/// How often and how long a connection is tried is nobody's to say.
fn numbers_of_a_connection(probe: &At<'_>, sink: &mut Sink) {
    for field in
        ["initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold"]
    {
        if let Some(number) = probe.get(field) {
            let message =
                "it is tried from the start on until it first succeeds, and not again; this is left out";
            sink.notice(&number, message);
        }
    }
    probe.tell();
}
