//! `wharf status` and `wharf why`: what an app does, and why it does not do more.

use std::time::Duration;

use wharf_types::Timestamp;
use wharf_types::api::{AppInfo, InstanceInfo, RolloutInfo, ScalingInfo, VolumeInfo};
use wharf_types::node::AppUsage;
use wharf_types::state::{Health, RolloutState};

use crate::args::AppArg;
use crate::output::{self, ago, coloured, count, short_id};
use crate::session::Session;
use crate::table::Table;

/// `wharf status`
pub async fn status(session: &Session, args: AppArg) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let info = session.client.app(&app).await?;
    if session.json {
        return output::json(&info);
    }
    let now = Timestamp::now();
    head_lines(&info, now).into_iter().try_for_each(output::line)?;
    if info.instances.is_empty() {
        return Ok(());
    }
    output::line("")?;
    instance_table(&info.instances, now).print()
}

fn head_lines(info: &AppInfo, now: Timestamp) -> Vec<String> {
    let release =
        info.release.map_or_else(|| "no release runs".to_owned(), |release| format!("release {release}"));
    let mut lines = vec![
        format!("{} in {}: {}", info.app, info.namespace, coloured(info.condition.as_str())),
        match info.global {
            true => format!(
                "  {release}, {}/{} global: one on each node that may have it",
                info.ready, info.replicas
            ),
            false => {
                format!("  {release}, {} of {} ready", info.ready, count(info.replicas.into(), "replica"))
            }
        },
    ];
    lines.extend(info.scaling.as_ref().map(scaling_line));
    lines.extend(info.urls.iter().map(|url| format!("  {url}")));
    if let Some(reason) = &info.reason {
        lines.push(format!("  because: {}", output::printable(&reason.message)));
    }
    if let Some(stopped) = &info.stopped {
        let by = output::printable(&stopped.by);
        lines.push(format!("  stopped by {by}, {}; `wharf start` starts it", ago(now, stopped.since)));
    }
    lines.extend(info.rollout.as_ref().map(|rollout| rollout_line(rollout, now)));
    let waits = info.rollout.as_ref().and_then(|rollout| rollout.waits.as_ref());
    lines.extend(waits.map(|waits| format!("  the rollout waits: {}", output::printable(waits))));
    lines.extend(info.volumes.iter().map(volume_line));
    lines.extend(info.usage.as_ref().map(usage_line));
    let profile = info.usage.as_ref().and_then(|usage| usage.profile.as_ref());
    lines.extend(profile.map(|profile| format!("  engine profile: {profile}")));
    lines
}

fn scaling_line(scaling: &ScalingInfo) -> String {
    let ScalingInfo { min, max, concurrency, open, waiting } = scaling;
    let waiting = if *waiting > 0 { format!(", {waiting} waiting for an instance") } else { String::new() };
    format!("  scales from {min} to {max}, {concurrency} open requests each: {open} are open{waiting}")
}

fn volume_line(volume: &VolumeInfo) -> String {
    let size = output::bytes(volume.size_bytes);
    let used = match volume.used_bytes {
        Some(used) => format!("{} of {size} used", output::bytes(used)),
        None if volume.node.is_none() => format!("{size}, not used yet"),
        None => format!("{size}, not measured yet"),
    };
    let full = if volume.full { ", full: writes are refused" } else { "" };
    format!("  volume {}: {used}{full}", volume.name)
}

fn usage_line(usage: &AppUsage) -> String {
    let mut ends = Vec::new();
    for (number, what) in [
        (usage.traps, count(usage.traps, "trap")),
        (usage.limited, format!("{} at a limit", usage.limited)),
        (usage.refused, format!("{} refused", usage.refused)),
    ] {
        if number > 0 {
            ends.push(what);
        }
    }
    let ends = if ends.is_empty() { String::new() } else { format!(" ({})", ends.join(", ")) };
    format!(
        "  used: {} CPU, {} memory now, {}{ends}, {} in, {} out",
        output::elapsed(Duration::from_millis(usage.cpu_millis)),
        output::bytes(usage.memory_bytes),
        count(usage.invocations, "invocation"),
        output::bytes(usage.received_bytes),
        output::bytes(usage.sent_bytes),
    )
}

pub fn rollout_line(rollout: &RolloutInfo, now: Timestamp) -> String {
    let from = rollout.from.map(|from| format!("from {from} ")).unwrap_or_default();
    let state = coloured(rollout.state.as_str());
    let when = match rollout.ended_at {
        Some(ended_at) => ago(now, ended_at),
        None => format!(
            "{} of {} ready, started {}",
            rollout.ready,
            rollout.replicas,
            ago(now, rollout.started_at)
        ),
    };
    let reason = match (&rollout.reason, rollout.state) {
        (Some(reason), state) if state != RolloutState::Succeeded => {
            format!(": {}", output::printable(&reason.message))
        }
        _ => String::new(),
    };
    format!("  rollout {from}to {}: {state}, {when}{reason}", rollout.to)
}

/// What there is to see of an instance.
const COLUMNS: [&str; 9] =
    ["INSTANCE", ">SLOT", ">RELEASE", "STATE", "HEALTH", ">RESTARTS", "NODE", "STARTED", "~REASON"];

fn instance_table(instances: &[InstanceInfo], now: Timestamp) -> Table {
    let mut table = Table::new(COLUMNS);
    instances.iter().for_each(|instance| table.row(cells(instance, now)));
    table
}

/// The instances of several apps.
pub fn instances_of(apps: &[AppInfo], now: Timestamp) -> Table {
    let [id, slot, release, state, health, restarts, node, started, reason] = COLUMNS;
    let mut table = Table::new(["APP", id, slot, release, state, health, restarts, node, started, reason]);
    for app in apps {
        for instance in &app.instances {
            let [id, slot, release, state, health, restarts, node, started, reason] = cells(instance, now);
            let app = app.app.to_string();
            table.row([app, id, slot, release, state, health, restarts, node, started, reason]);
        }
    }
    table
}

fn cells(instance: &InstanceInfo, now: Timestamp) -> [String; 9] {
    let health = match instance.health {
        Health::Unknown => "-",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    };
    let reason = instance.reason.as_ref().map(|reason| output::printable(&reason.message).into_owned());
    [
        short_id(instance.id),
        instance.slot.to_string(),
        instance.release.to_string(),
        coloured(instance.state.as_str()),
        coloured(health),
        instance.restarts.to_string(),
        instance.node.map_or_else(|| "-".to_owned(), short_id),
        ago(now, instance.created_at),
        reason.unwrap_or_default(),
    ]
}

/// `wharf why`
pub async fn why(session: &Session, args: AppArg) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let why = session.client.why(&app).await?;
    if session.json {
        return output::json(&why);
    }
    output::line(format!("{} in {}: {}", app.app, app.namespace, coloured(why.condition.as_str())))?;
    for sentence in &why.because {
        output::line(format!("  because: {}", output::printable(sentence)))?;
    }
    for sentence in &why.advice {
        output::line(format!("  try: {}", output::printable(sentence)))?;
    }
    if !why.last_log.is_empty() {
        output::line("  its last lines:")?;
    }
    for line in &why.last_log {
        output::line(format!("    | {}", output::printable(line)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::node::{Reason, ReasonKind};
    use wharf_types::state::AppCondition;

    #[test]
    fn a_status_says_what_runs_and_why_not_more() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let reason = Some(Reason { kind: ReasonKind::Exit, message: "it ended with exit code 3".into() });
        let info = AppInfo {
            namespace: "default".parse().unwrap(),
            app: "hello".parse().unwrap(),
            condition: AppCondition::Degraded,
            reason: reason.clone(),
            release: Some(3),
            global: false,
            replicas: 2,
            ready: 1,
            scaling: Some(ScalingInfo { min: 0, max: 20, concurrency: 50, open: 61.5, waiting: 2 }),
            stopped: None,
            url: "http://hello.default.localhost:8080/".into(),
            urls: vec!["http://hello.default.localhost:8080/".into()],
            rollout: Some(RolloutInfo {
                id: wharf_types::RolloutId::new(),
                from: Some(2),
                to: 3,
                state: RolloutState::Failed,
                ready: 1,
                replicas: 2,
                reason,
                rolled_back_by: None,
                paused: None,
                waits: None,
                requests: Vec::new(),
                started_at: now,
                ended_at: Some(Timestamp::from_second(1_000_000 - 180).unwrap()),
            }),
            instances: Vec::new(),
            volumes: vec![VolumeInfo {
                id: wharf_types::VolumeId::new(),
                name: "data".parse().unwrap(),
                app: "hello".parse().unwrap(),
                state: wharf_types::api::VolumeState::Attached,
                node: None,
                size_bytes: 64 << 20,
                used_bytes: Some(64 << 20),
                full: true,
                created_at: now,
            }],
            usage: Some(AppUsage {
                invocations: 1200,
                traps: 1,
                refused: 7,
                cpu_millis: 12_345,
                memory_bytes: 3 << 20,
                sent_bytes: 900,
                profile: Some("short".to_owned()),
                ..AppUsage::new("default".parse().unwrap(), "hello".parse().unwrap(), 3)
            }),
            updated_at: now,
            set: None,
        };
        assert_eq!(
            head_lines(&info, now),
            [
                "hello in default: degraded",
                "  release 3, 1 of 2 replicas ready",
                "  scales from 0 to 20, 50 open requests each: 61.5 are open, 2 waiting for an instance",
                "  http://hello.default.localhost:8080/",
                "  because: it ended with exit code 3",
                "  rollout from 2 to 3: failed, 3 min ago: it ended with exit code 3",
                "  volume data: 64 MiB of 64 MiB used, full: writes are refused",
                "  used: 12.3 s CPU, 3.0 MiB memory now, 1200 invocations (1 trap, 7 refused), 0 B in, 900 B out",
                "  engine profile: short",
            ]
        );
    }
}
